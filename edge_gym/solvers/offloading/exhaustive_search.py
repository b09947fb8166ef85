"""The best of all shares of the tasks on a grid."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np

from edge_gym.solvers.offloading.costs import Offloading, OffloadingCosts
from edge_gym.solvers.offloading.resources import best_of

_MAX_EXHAUSTIVE = 6


def exhaustive(
    costs: OffloadingCosts,
    step: float = 0.2,
    *,
    grouped: bool = False,
    solver: Literal["interior-point", "cvxpy"] = "interior-point",
) -> Offloading:
    """Return the best decisions with every ι_j a multiple of ``step``, by trying them all.

    Args:
        costs: Costs of the iteration, ``(..., M)`` with M ≤ 6.
        step: Δι, one over a whole number.
        grouped: Whether uplinks and downlinks have half of the band each.
        solver: As of ``optimal_resources``; cvxpy takes hundreds of times longer.

    Raises:
        ValueError: If there are more than 6 users or ``step`` does not divide one.

    Source: Li et al. 2021, §III and §IV, "Optimal"; a continuous ι can be better.
    """
    n_users = costs.band_hz.shape[-1]
    if n_users > _MAX_EXHAUSTIVE:
        raise ValueError(
            f"exhaustive search takes at most {_MAX_EXHAUSTIVE} users, got {n_users}; "
            "near_optimal takes any number"
        )
    if not 0 < step <= 1 or abs(round(1 / step) * step - 1) > 1e-9:
        raise ValueError(f"step must be one over a whole number, got {step}")
    levels = np.linspace(0, 1, round(1 / step) + 1)
    every = np.array(list(itertools.product(levels, repeat=n_users)))
    return best_of(costs, every[None], grouped, solver)
