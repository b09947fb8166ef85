"""The optimum: updates with the largest mean, by dynamic programming."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from edge_gym.runtime.compiling import compiled
from edge_gym.solvers.task_allocation.costs import TaskCosts, Tasks
from edge_gym.solvers.task_allocation.instances import as_rows, checked_whole, goals_of
from edge_gym.solvers.task_allocation.kernels import suggest
from edge_gym.solvers.task_allocation.splitting import allocation, solve
from edge_gym.solvers.task_allocation.suggest_improve import improve
from edge_gym.typing import IntArray

_BOUND_ROUNDING = 1e-6
"""Updates by which rounding may have lowered a bound on whole updates."""


_UNREACHABLE = 2**62


def exact_updates(
    capacities: ArrayLike, total: ArrayLike, cap: int | None, least_samples: int = 1
) -> IntArray:
    """Return the updates τ_k with the largest mean that leave room for all samples.

    Σ⌊D_k(τ_k)⌋ ≥ d, every ⌊D_k(τ_k)⌋ ≥ d_l and |τ_k - τ_l| ≤ c hold. Of several optima it is one
    with the largest Σ⌊D_k(τ_k)⌋, and of those one whose window [m, m + c] in [1, N] starts highest;
    what is still equal is decided by the order of learners.

    Args:
        capacities: Samples ⌊D_k(τ)⌋ in [0, ``LARGEST``] that learners can hold for τ = 1..N
            updates, whole and not rising in τ, ``(..., K, N)``.
        total: Samples d of all learners, ``(...)``.
        cap: Largest staleness c ≥ 0; ``None`` is no limit.
        least_samples: Samples d_l ≥ 1 of every learner.

    Returns:
        τ_k in [1, N], ``(..., K)``. A learner that cannot make one update on d_l samples is left
        out: its τ_k is 0 and does not count as staleness. If the others cannot make one update on
        d samples, as many samples as they can hold for one take the place of d.

    Raises:
        ValueError: If an argument is out of range, or ``total`` is less than d_l for every learner
            that takes part.

    Source: Mohammad et al. 2020, problem (16).
    """
    tables = checked_whole("capacities", capacities)
    if tables.ndim < 2 or not all(tables.shape[-2:]):
        raise ValueError(
            f"capacities must have axes of learners and updates, got the shape {tables.shape}"
        )
    rises = tables[..., 1:] > tables[..., :-1]
    if rises.any():
        less, more = tables[..., :-1][rises][0], tables[..., 1:][rises][0]
        raise ValueError(f"capacities must not rise with the updates, got {more} after {less}")
    goals, shape = goals_of(total, tables.shape[:-2])
    found = solve(_exact, as_rows(tables, shape, 2), goals, cap, least_samples)
    return found.reshape(*shape, tables.shape[-2])


def exact_allocation(
    costs: TaskCosts,
    total: ArrayLike,
    cap: int | None,
    least_samples: int = 1,
    most_updates: int = 64,
) -> Tasks:
    """Return updates with the largest mean and the samples on which learners make them.

    ``exact_updates`` says what happens where not all can take part, and ``split_samples`` how
    samples are split.

    Args:
        costs: Costs of the cycle, ``(..., K)``.
        total: Samples d of all learners, ``(...)``.
        cap: Largest staleness c ≥ 0; ``None`` is no limit.
        least_samples: Samples d_l ≥ 1 of every learner.
        most_updates: Largest τ_k that is looked at.

    Raises:
        ValueError: If an argument is out of range, or ``total`` is less than d_l for every learner
            that takes part.

    Source: Mohammad et al. 2020, problem (16).
    """
    return allocation(_exact, costs, total, cap, least_samples, most_updates)


@compiled()
def _fill(loss, slack):  # type: ignore[no-untyped-def]
    """Fill the slack with increments, first those that lose the fewest samples each.

    Each learner goes along the lower convex hull of its losses.

    Returns:
        How many increments a sample is worth where the first ones do not fit, and how many fit.
    """
    n, width = loss.shape
    price = np.empty(n * width)
    lost = np.empty(n * width, np.int64)
    gain = np.empty(n * width, np.int64)
    owner = np.empty(n * width, np.int64)
    hull = np.zeros(width, np.int64)
    size = 0
    for k in range(n):
        row = loss[k]
        depth = 1
        for i in range(1, width):
            if row[i] < 0:
                break
            while depth > 1:
                a, b = hull[depth - 2], hull[depth - 1]
                if (row[b] - row[a]) * (i - b) < (row[i] - row[b]) * (b - a):
                    break
                depth -= 1
            hull[depth] = i
            depth += 1
        for j in range(1, depth):
            lost[size] = row[hull[j]] - row[hull[j - 1]]
            gain[size] = hull[j] - hull[j - 1]
            price[size] = lost[size] / gain[size]
            owner[size] = k
            size += 1
    worth, total = 0.0, 0
    fits = np.ones(n, np.bool_)
    for j in np.argsort(price[:size], kind="mergesort"):
        if not fits[owner[j]]:
            continue
        if lost[j] <= slack:
            slack -= lost[j]
            total += gain[j]
        else:
            fits[owner[j]] = False
            if worth == 0:
                worth = 1 / price[j]
    return worth, total


@compiled()
def _search(loss, slack, wanted, increments):  # type: ignore[no-untyped-def]
    """Find the most increments whose losses fit the slack, and the least losses for so many.

    Dynamic programming over learners keeps the least loss for each number of increments. A state is
    left out where it cannot lead to ``wanted`` increments, or to as many as simply fill the slack:
    λ·slack + Σ max(i - λ·loss) bounds them for any λ ≥ 0, and the learners that have chosen leave
    the maximum for what they chose.

    Args:
        loss: Samples lost with i = 0, 1, ... increments, ``(n, width)``; -1 where that is too many.
        slack: Samples that may be lost.
        wanted: Increments, fewer than which are of no use.
        increments: Gets the increments of each learner if there are enough of them.

    Returns:
        The increments and the slack that they leave; -1 increments where there are not enough.
    """
    n, width = loss.shape
    worth, fitting = _fill(loss, slack)
    wanted = max(wanted, fitting)
    best = np.zeros(n)
    bound = worth * slack
    for k in range(n):
        for i in range(width):
            if loss[k, i] >= 0:
                best[k] = max(best[k], i - worth * loss[k, i])
        bound += best[k]
    spare = bound - wanted + _BOUND_ROUNDING
    if spare < 0:
        return -1, slack
    # Least losses of low, low + 1, ... increments; the choices of all learners lie end to end.
    low = 0
    losses = np.zeros(1, np.int64)
    lows = np.empty(n, np.int64)
    begins = np.zeros(n + 1, np.int64)
    choices = np.empty(64 * n, np.int32)
    kept = np.empty(width, np.int64)
    for k in range(n):
        n_kept = 0
        for i in range(width):
            if loss[k, i] >= 0 and best[k] - i + worth * loss[k, i] <= spare:
                kept[n_kept] = i
                n_kept += 1
        size = len(losses) + kept[n_kept - 1] - kept[0]
        new = np.full(size, _UNREACHABLE)
        choice = np.empty(size, np.int32)
        for i in kept[:n_kept]:
            for j in range(len(losses)):
                at = j + i - kept[0]
                if losses[j] + loss[k, i] < new[at]:
                    new[at] = losses[j] + loss[k, i]
                    choice[at] = i
        low += kept[0]
        bound -= best[k]
        # Fewest increments that can still do, for a loss of nothing.
        least = wanted - bound - _BOUND_ROUNDING
        start, stop = 0, size
        while start < stop and (new[start] > slack or low + start - worth * new[start] < least):
            start += 1
        while start < stop and (
            new[stop - 1] > slack or low + stop - 1 - worth * new[stop - 1] < least
        ):
            stop -= 1
        if start == stop:
            return -1, slack
        low += start
        losses = new[start:stop]
        lows[k] = low
        begins[k + 1] = begins[k] + len(losses)
        if begins[k + 1] > len(choices):
            longer = np.empty(2 * begins[k + 1], np.int32)
            longer[: begins[k]] = choices[: begins[k]]
            choices = longer
        choices[begins[k] : begins[k + 1]] = choice[start:stop]
    gain = low + len(losses) - 1
    if gain < wanted:
        return -1, slack
    at = gain
    for k in range(n - 1, -1, -1):
        increments[k] = choices[begins[k] + at - lows[k]]
        at -= increments[k]
    return gain, slack - losses[-1]


@compiled()
def _exact(tables, goals, cap, least, updates, start, stop):  # type: ignore[no-untyped-def]
    n_learners, n_updates = tables.shape[1:]
    learners = np.empty(n_learners, np.int64)
    increments = np.empty(n_learners, np.int64)
    for p in range(start, stop):
        table, found = tables[p], updates[p]
        common, slack, goal = suggest(table, goals[p], least, found)
        slack = improve(table, min(common + cap, n_updates), least, slack, found)
        # Raised by one at most, the learners that lose least are as many as can be.
        if cap <= 1:
            continue
        n = 0
        for k in range(n_learners):
            if found[k] > 0:
                learners[n] = k
                n += 1
        total = found.sum()
        # All can make ``common`` updates: a window that ends there or before gives less than that,
        # or just that. And none starts above: somebody's samples, or all together, would not fit.
        highest = min(common, max(1, n_updates - cap))
        for m in range(max(1, common - cap + 1), highest + 1):
            width = min(cap, n_updates - m) + 1
            loss = np.empty((n, width), np.int64)
            room = -goal
            for j in range(n):
                row = table[learners[j]]
                room += row[m - 1]
                for i in range(width):
                    held = row[m - 1 + i]
                    loss[j, i] = row[m - 1] - held if held >= least else -1
            gain, left = _search(loss, room, total - n * m, increments[:n])
            if gain >= 0 and (n * m + gain > total or left >= slack):
                total, slack = n * m + gain, left
                for j in range(n):
                    found[learners[j]] = m + increments[j]
