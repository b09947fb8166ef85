"""Suggest-and-improve: the relaxed synchronous optimum, then raised one by one."""

from __future__ import annotations

import heapq

from numpy.typing import ArrayLike

from edge_gym.runtime.compiling import compiled
from edge_gym.solvers.task_allocation.costs import TaskCosts, Tasks
from edge_gym.solvers.task_allocation.kernels import suggest
from edge_gym.solvers.task_allocation.splitting import allocation


def suggest_and_improve(
    costs: TaskCosts,
    total: ArrayLike,
    cap: int | None,
    least_samples: int = 1,
    most_updates: int = 64,
) -> Tasks:
    """Return the paper's allocation: equal updates, then raised one by one.

    All learners that take part start from the most whole updates that all of them can make: ⌊τ̂⌋,
    or less where whole samples do not fit. Coordinate ascent then raises τ_k by one, that of the
    learner who loses the fewest samples by it, until samples and staleness allow no more.
    Arguments, the treatment of learners that cannot take part and errors are those of
    ``exact_allocation``.

    Source: Mohammad et al. 2020, Algorithm 1; ``relaxed_updates`` replaces eq. (27), which is
    singular.
    """
    return allocation(_suggest_and_improve, costs, total, cap, least_samples, most_updates)


@compiled()
def _push(table, k, most, least, updates, heap):  # type: ignore[no-untyped-def]
    """Add what a learner's next update loses, if it can make one."""
    i = updates[k]
    if 0 < i < most and table[k, i] >= least:
        heapq.heappush(heap, (table[k, i - 1] - table[k, i], k))


@compiled()
def improve(table, most, least, slack, updates):  # type: ignore[no-untyped-def]
    """Raise updates up to ``most`` while samples fit; return the samples that still do."""
    heap = [(slack, 0) for _ in range(0)]
    for k in range(len(table)):
        _push(table, k, most, least, updates, heap)
    while heap:
        loss, k = heapq.heappop(heap)
        if loss > slack:
            break
        slack -= loss
        updates[k] += 1
        _push(table, k, most, least, updates, heap)
    return slack


@compiled()
def _suggest_and_improve(tables, goals, cap, least, updates, start, stop):  # type: ignore[no-untyped-def]
    for p in range(start, stop):
        common, slack, _ = suggest(tables[p], goals[p], least, updates[p])
        # The least τ_k stays: all can make ``common`` updates and not one more.
        most = min(common + cap, tables.shape[2])
        improve(tables[p], most, least, slack, updates[p])
