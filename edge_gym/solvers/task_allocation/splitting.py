"""From updates to samples: any split that all learners can hold will do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from edge_gym.runtime.compiling import compiled
from edge_gym.runtime.threads import for_ranges
from edge_gym.solvers.task_allocation.costs import TaskCosts, Tasks
from edge_gym.solvers.task_allocation.instances import (
    GRAIN,
    as_rows,
    check_cap,
    check_goals,
    check_least,
    checked_whole,
    goals_of,
)
from edge_gym.typing import IntArray


def split_samples(rooms: ArrayLike, total: ArrayLike, least_samples: int = 1) -> IntArray:
    """Return how many samples each learner gets, in proportion to what it can hold.

    Samples that do not divide go to the largest remainders, the first of equals first; whoever
    would get less than d_l gets d_l.

    Args:
        rooms: Samples in [0, ``LARGEST``] that learners can hold for their updates, whole,
            ``(..., K)``; who cannot hold d_l gets none.
        total: Samples d of all learners, ``(...)``.
        least_samples: Samples d_l ≥ 1 of every learner that takes part.

    Returns:
        d_k, ``(..., K)``, which sum to d, or fill all rooms where these hold less.

    Raises:
        ValueError: If an argument is out of range, or ``total`` is less than d_l for every learner
            that takes part.

    Source: Mohammad et al. 2020, eqs. (16d), (16g).
    """
    check_least("least_samples", least_samples, 1)
    checked = checked_whole("rooms", rooms)
    if not checked.ndim or not checked.shape[-1]:
        raise ValueError(f"rooms must have an axis of learners, got the shape {checked.shape}")
    goals, shape = goals_of(total, checked.shape[:-1])
    rows = as_rows(checked, shape, 1)
    check_goals(goals, rows, least_samples)
    return _divide(rows, goals, least_samples).reshape(*shape, checked.shape[-1])


def solve(
    kernel: Callable[..., None],
    tables: IntArray,
    goals: IntArray,
    cap: int | None,
    least_samples: int,
) -> IntArray:
    """Return the updates that a kernel finds, ``(m, K)``."""
    check_least("least_samples", least_samples, 1)
    check_cap(cap)
    check_goals(goals, tables[..., 0], least_samples)
    m, n_learners, n_updates = tables.shape
    staleness = n_updates if cap is None else min(cap, n_updates)
    updates = np.empty((m, n_learners), np.int64)
    for_ranges(
        lambda start, stop: kernel(tables, goals, staleness, least_samples, updates, start, stop),
        m,
        grain=max(1, GRAIN // (32 * n_learners)),
    )
    return updates


def _divide(rooms: IntArray, goals: IntArray, least_samples: int) -> IntArray:
    """Return samples in proportion to rooms, ``(m, K)``."""
    samples = np.empty_like(rooms)
    for_ranges(
        lambda start, stop: _split(rooms, goals, least_samples, samples, start, stop),
        len(rooms),
        grain=max(1, GRAIN // rooms.shape[1]),
    )
    return samples


def allocation(
    kernel: Callable[..., None],
    costs: TaskCosts,
    total: ArrayLike,
    cap: int | None,
    least_samples: int,
    most_updates: int,
) -> Tasks:
    """Return the updates that a kernel finds, and samples in proportion to their rooms."""
    check_least("most_updates", most_updates, 1)
    tables = costs.whole_capacities(most_updates)
    goals, shape = goals_of(total, tables.shape[:-2])
    tables = as_rows(tables, shape, 2)
    updates = solve(kernel, tables, goals, cap, least_samples)
    at = np.maximum(updates - 1, 0)[..., None]
    rooms = np.where(updates > 0, np.take_along_axis(tables, at, axis=-1)[..., 0], 0)
    samples = _divide(rooms, goals, least_samples)
    shape += updates.shape[1:]
    return Tasks(samples.reshape(shape), updates.reshape(shape))


@compiled()
def _split(rooms, goals, least, samples, start, stop):  # type: ignore[no-untyped-def]
    remainder = np.empty(rooms.shape[1], np.int64)
    for p in range(start, stop):
        room, found = rooms[p], samples[p]
        found[:] = 0
        order = np.argsort(room, kind="mergesort")
        order = order[np.searchsorted(room[order], least) :]
        held = room[order].sum()
        rest = min(goals[p], held)
        first = 0
        # What the smallest get beyond their shares lowers the shares of all others.
        while first < len(order) and room[order[first]] * rest < least * held:
            found[order[first]] = least
            rest -= least
            held -= room[order[first]]
            first += 1
        order = np.sort(order[first:])
        for k in order:
            found[k] = room[k] * rest // held
            remainder[k] = room[k] * rest % held
        missing = rest - found[order].sum()
        for j in np.argsort(-remainder[order], kind="mergesort")[:missing]:
            found[order[j]] += 1
