"""What is told of episodes beside their return, whatever their reward is."""

from __future__ import annotations

REPORTED = ("test_accuracy", "area_under_curve", "time_to_target")
"""Numbers of an episode's last info that every comparison and ranking shows where they are told."""

LESS_IS_BETTER = frozenset({"time_to_target"})
"""Those of which a lower one is better."""


def title(metric: str) -> str:
    """Return a metric's name in words."""
    return metric.replace("_", " ")
