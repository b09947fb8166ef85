"""A channel with a line of sight."""

from __future__ import annotations

from dataclasses import dataclass

from edge_gym.physics.channel import Rician


@dataclass(frozen=True, kw_only=True)
class LineOfSight(Rician):
    """Rician fading with a strong line of sight."""

    k: float = 10.0
