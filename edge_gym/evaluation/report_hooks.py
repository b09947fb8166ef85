"""What draws and writes results, by name: evaluation stands below it and imports none of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edge_gym.registry import Registry

REPORTS: Registry[Callable[..., Any]] = Registry("report")
"""``comparison`` draws a ``Results``, ``generalisation`` an environment of a ``Generalisation``,
and ``leaderboard`` writes a ``Leaderboard`` as one page with films of episodes."""
