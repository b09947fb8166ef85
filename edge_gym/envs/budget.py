"""What limits an episode: channel uses, uploads, seconds, joules, cycles or iterations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.typing import Float64Array


@dataclass(frozen=True)
class Budget:
    """What limits an episode.

    Attributes:
        amount: How much of it there is.
        units: Names of the units in which times are told, and how many of each one of the amount
            is: ``{"cycles": 1, "seconds": 10}`` where a cycle lasts 10 s.
    """

    amount: float
    units: Mapping[str, float]

    def within(self, spent: NDArray[Any]) -> Float64Array:
        """Return what was spent without what rounding added to the whole."""
        return np.asarray(np.minimum(spent, self.amount), np.float64)

    def share(self, spent: NDArray[Any]) -> Float64Array:
        """Return which share of the budget was spent, in [0, 1]."""
        return np.asarray(self.within(spent) / self.amount)
