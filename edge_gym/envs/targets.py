"""Accuracies to be reached, and when each lane reached them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.core.state import LaneArray, LaneState
from edge_gym.envs.budget import Budget
from edge_gym.runtime.checks import check_number
from edge_gym.typing import BoolArray, Float64Array, IntArray


def check_targets(targets: tuple[float, ...]) -> None:
    """Raise a ValueError unless the targets are one accuracy or several that ascend."""
    for target in targets:
        check_number("targets", target, 0, 1)
    if not targets or list(targets) != sorted(set(targets)):
        raise ValueError(f"targets must ascend and be one at least, got {targets}")


class TargetTimes(LaneState):
    """When each lane first reached each target; a problem names it in ``state_parts``.

    Args:
        n_lanes: Number of lanes.
        targets: Validation accuracies, one or more, ascending.
        budget: What limits an episode, and what times are counted in.

    Attributes:
        time: What was spent when a target was reached, ``(n_lanes, T)``; the whole budget where
            it was not.
        reached: Whether it was, ``(n_lanes, T)``.
    """

    time = LaneArray(np.float64, lambda times: (len(times.targets),))
    reached = LaneArray(np.bool_, lambda times: (len(times.targets),))

    def __init__(self, n_lanes: int, targets: tuple[float, ...], budget: Budget) -> None:
        super().__init__(n_lanes)
        self.targets = targets
        self.budget = budget

    def begin(self, lanes: IntArray, accuracy: Float64Array) -> None:
        """Begin episodes with models of these validation accuracies, ``(m,)``."""
        self.clear(lanes)
        self.time[lanes] = self.budget.amount
        self.note(lanes, accuracy, np.zeros(len(lanes)))

    def note(self, lanes: IntArray, accuracy: Float64Array, spent: NDArray[Any]) -> None:
        """Note what is reached for the first time.

        Args:
            lanes: ``(m,)``.
            accuracy: Their validation accuracies, ``(m,)``.
            spent: How much of the budget is spent, ``(m,)``.
        """
        reached: BoolArray = accuracy[:, None] >= np.array(self.targets)
        new = reached & ~self.reached[lanes]
        now = self.budget.within(spent)[:, None]
        self.time[lanes] = np.where(new, now, self.time[lanes])
        self.reached[lanes] |= reached

    def waited(self, lanes: IntArray, spent: NDArray[Any]) -> Float64Array:
        """Return the share of the budget that has passed before a target was reached, ``(m,)``.

        The mean over targets; those that are not reached have been waited for until now.

        Args:
            lanes: ``(m,)``.
            spent: How much of the budget is spent, ``(m,)``.
        """
        times = np.where(self.reached[lanes], self.time[lanes], spent[:, None])
        return np.asarray(self.budget.share(times).mean(axis=1))

    def final_info(self, lanes: IntArray) -> dict[str, Float64Array]:
        """Return when targets were reached, and whether they were.

        Args:
            lanes: ``(m,)``.

        Returns:
            ``time_to_target``, as a share of the budget, the mean over targets, 1 of those that
            were not reached. Of each target of NN per cent ``UNIT_to_NN``, in each unit of the
            budget, and ``reached_NN``, 1 or 0; ``(m,)`` each.
        """
        whole = np.full(len(lanes), self.budget.amount)
        info = {"time_to_target": self.waited(lanes, whole)}
        for i, target in enumerate(self.targets):
            name = f"{100 * target:g}"
            for unit, scale in self.budget.units.items():
                info[f"{unit}_to_{name}"] = scale * self.time[lanes, i]
            info[f"reached_{name}"] = self.reached[lanes, i].astype(np.float64)
        return info
