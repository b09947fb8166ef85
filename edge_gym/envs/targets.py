"""Accuracies to be reached, and when each lane reached them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.core.state import LaneArray, LaneState
from edge_gym.runtime.checks import check_number
from edge_gym.typing import BoolArray, Float64Array, IntArray


def check_targets(targets: tuple[float, ...]) -> None:
    """Raise a ValueError unless the targets are accuracies that ascend."""
    for target in targets:
        check_number("targets", target, 0, 1)
    if list(targets) != sorted(set(targets)):
        raise ValueError(f"targets must ascend, got {targets}")


class TargetTimes(LaneState):
    """When each lane first reached each target; a problem names it in ``state_parts``.

    Args:
        n_lanes: Number of lanes.
        targets: Validation accuracies, ascending.

    Attributes:
        time: When a target was reached, ``(n_lanes, T)``; the horizon where it was not.
        reached: Whether it was, ``(n_lanes, T)``.
    """

    time = LaneArray(np.float64, lambda times: (len(times.targets),))
    reached = LaneArray(np.bool_, lambda times: (len(times.targets),))

    def __init__(self, n_lanes: int, targets: tuple[float, ...]) -> None:
        super().__init__(n_lanes)
        self.targets = targets

    def begin(self, lanes: IntArray, horizon: float) -> None:
        """Begin episodes, in which no target counts as reached later than at ``horizon``."""
        self.clear(lanes)
        self.time[lanes] = horizon

    def note(self, lanes: IntArray, accuracy: Float64Array, now: NDArray[Any]) -> None:
        """Note what is reached for the first time.

        Args:
            lanes: ``(m,)``.
            accuracy: Their validation accuracies, ``(m,)``.
            now: The time of their episodes, in any unit, ``(m,)``.
        """
        reached: BoolArray = accuracy[:, None] >= np.array(self.targets)
        new = reached & ~self.reached[lanes]
        self.time[lanes] = np.where(new, now[:, None], self.time[lanes])
        self.reached[lanes] |= reached

    def final_info(self, lanes: IntArray, **units: float) -> dict[str, Float64Array]:
        """Return when each target, of NN per cent, was reached, and whether it was.

        Args:
            lanes: ``(m,)``.
            **units: ``UNIT=scale`` gives ``UNIT_to_NN``, the time multiplied by the scale.

        Returns:
            These and ``reached_NN``, 1 or 0; ``(m,)`` each.
        """
        info: dict[str, Float64Array] = {}
        for i, target in enumerate(self.targets):
            name = f"{100 * target:g}"
            for unit, scale in units.items():
                info[f"{unit}_to_{name}"] = scale * self.time[lanes, i]
            info[f"reached_{name}"] = self.reached[lanes, i].astype(np.float64)
        return info
