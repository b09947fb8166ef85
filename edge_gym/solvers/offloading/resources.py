"""Bands and CPU frequencies that are optimal for given shares of the tasks."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from edge_gym.runtime.threads import for_ranges
from edge_gym.solvers.offloading.costs import (
    Offloading,
    OffloadingCosts,
    best_frequency,
    checked_split,
)
from edge_gym.solvers.offloading.interior_point import best_of_many
from edge_gym.solvers.offloading.reference_cvxpy import ConeProgram
from edge_gym.solvers.offloading.users import as_users
from edge_gym.typing import Float64Array


def optimal_resources(
    costs: OffloadingCosts,
    offloaded: ArrayLike,
    *,
    grouped: bool = False,
    solver: Literal["interior-point", "cvxpy"] = "interior-point",
) -> Offloading:
    """Return the best shares of the band and CPU frequencies for given shares ι of the tasks.

    Args:
        costs: Costs of the iteration, ``(..., M)``.
        offloaded: Shares ι_j in [0, 1], ``(..., M)``; users without a task get 0.
        grouped: Whether uplinks and downlinks have half of the band each, as in GBE.
        solver: ``cvxpy`` hands the same convex problem to Clarabel, instance by instance.

    Returns:
        The decisions; shares sum to one, of each half to a half where it is used.

    Raises:
        ValueError: If ``offloaded`` is out of range or its shape does not fit.
        ImportError: If ``solver`` is ``cvxpy`` and cvxpy is not installed.
        cvxpy.error.SolverError: If Clarabel fails, as it does on instances with extreme values.

    Source: Li et al. 2021, §III, (10) with ι and a fixed.
    """
    split = checked_split(costs, offloaded)
    return best_of(costs, split.reshape(-1, 1, split.shape[-1]), grouped, solver)


def local_only(costs: OffloadingCosts) -> Offloading:
    """Return LCO: all tasks are computed locally, ι = 0 and a = 1; all else is optimal.

    Source: Li et al. 2021, §IV; the printed "L_j = L" belongs to an older notation.
    """
    return optimal_resources(costs, 0.0)


def edge_only(costs: OffloadingCosts) -> Offloading:
    """Return ECO: all tasks are computed at the server, ι = 1 and a = 0; all else is optimal.

    Users without a task download the model all the same.

    Source: Li et al. 2021, §IV; the printed "L_j = 0" belongs to an older notation.
    """
    return optimal_resources(costs, 1.0)


def best_of(
    costs: OffloadingCosts,
    candidates: Float64Array,
    grouped: bool = False,
    solver: Literal["interior-point", "cvxpy"] = "interior-point",
) -> Offloading:
    """Return the best of some shares ι with their best resources.

    Args:
        costs: Costs of the iteration, ``(..., M)``.
        candidates: Shares ι, ``(instances, candidates, M)``, or ``(1, candidates, M)`` for all.
            Where users without a task offload, one is passed over.
        grouped: As of ``optimal_resources``.
        solver: As of ``optimal_resources``.
    """
    users = as_users(costs)
    split, uplink, downlink = (np.empty(users.shape) for _ in range(3))
    found = split, uplink, downlink
    if solver == "cvxpy":
        problem = ConeProgram(users.shape[1], grouped)
        for i in range(len(users)):
            tried = candidates[i if len(candidates) > 1 else 0]
            tried = tried[~(tried[:, users[i]["cycles"] == 0] > 0).any(axis=1)]
            solved = [problem.solve(users[i], one) for one in tried]
            best = int(np.argmin([cost for cost, _, _ in solved]))
            split[i], (_, uplink[i], downlink[i]) = tried[best], solved[best]
    else:
        grain = max(1, 16 // candidates.shape[1])
        for_ranges(
            lambda start, stop: best_of_many(start, stop, users, candidates, grouped, *found),
            len(users),
            grain,
        )
    return decisions(costs, *found)


def decisions(
    costs: OffloadingCosts, split: Float64Array, uplink: Float64Array, downlink: Float64Array
) -> Offloading:
    """Return decisions of shares ι and of the band, with the best CPU frequencies."""
    shape = costs.band_hz.shape
    split, uplink, downlink = (array.reshape(shape) for array in (split, uplink, downlink))
    cpu = best_frequency(costs, split, uplink, downlink)
    return Offloading(split, split < 1, uplink, downlink, cpu)
