"""Allocations of tasks, bands, powers and clocks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_gym.runtime.threads import for_ranges
from edge_gym.solvers.task_allocation import Tasks, exact_updates, split_samples
from edge_gym.solvers.task_allocation.instances import check_cap, check_goals, check_least, goals_of
from edge_gym.solvers.task_resources.fill_kernels import (
    fill_equal_tasks,
    fill_raised,
    fill_synchronous,
    fill_tables,
    fill_taking_part,
)
from edge_gym.solvers.task_resources.kernels import ROUNDING
from edge_gym.solvers.task_resources.limits import (
    Learners,
    ResourceLimits,
    Resources,
    best_resources,
    packed,
)
from edge_gym.typing import Float64Array, IntArray

_IDLE_SHARE = 1e-6
"""Part of an equal share of the band that is left to a learner that takes no part."""


_MOST_ROUNDS = 8
"""Rounds of sharing the band and raising updates; two or three are the rule."""


_GRAIN = 400
"""Capacities that are worth a thread."""


def synchronous_optimum(
    limits: ResourceLimits, total: ArrayLike, least_samples: int = 1, most_updates: int = 64
) -> tuple[Float64Array, Float64Array]:
    """Return the most updates that all learners can make when nothing need be whole, and bands.

    That is the largest τ for which some bands that sum to W have ΣD_k(τ, w_k) ≥ d and every
    D_k(τ, w_k) ≥ d_l.

    Args:
        limits: Limits of the cycle, ``(..., K)``.
        total: Samples d of all learners, ``(...)``.
        least_samples: Samples d_l ≥ 1 of every learner that takes part.
        most_updates: Largest τ that is looked at.

    Returns:
        τ in [1, most_updates], ``(...)``, or 0 where nobody can take part; and bands in Hz,
        ``(..., K)``. Who takes part is as in ``joint_allocation``, and where these cannot hold d
        samples for one update, the most that they can hold take the place of d.

    Raises:
        ValueError: If an argument is out of range, or ``total`` is less than d_l for every learner
            that takes part.
    """
    problem = _problem(limits, total, least_samples, most_updates)
    _, updates, bands = _synchronous(problem)
    return updates.reshape(problem.shape[:-1]), bands.reshape(problem.shape)


def joint_allocation(
    limits: ResourceLimits,
    total: ArrayLike,
    cap: int | None,
    least_samples: int = 1,
    most_updates: int = 64,
) -> tuple[Tasks, Resources]:
    """Return tasks and resources with the largest mean of updates.

    A learner takes part if it can hold d_l samples for one update in an equal share of the band.
    Where those who do cannot hold d samples for one update, as many as they can hold take the
    place of d. The others get no task and next to no band.

    Args:
        limits: Limits of the cycle, ``(..., K)``.
        total: Samples d of all learners, ``(...)``.
        cap: Largest staleness c ≥ 0; ``None`` is no limit.
        least_samples: Samples d_l ≥ 1 of every learner that takes part.
        most_updates: Largest τ_k that is looked at.

    Returns:
        Tasks and resources, each ``(..., K)``. Never fewer samples in all than
        ``resource_allocation`` or than exact tasks in equal bands, and with as many of them never
        fewer updates.

    Raises:
        ValueError: If an argument is out of range, or ``total`` is less than d_l for every learner
            that takes part.

    Source: Sorour et al. 2020, "Joint Task and Resource Optimization".
    """
    check_cap(cap)
    problem = _problem(limits, total, least_samples, most_updates)
    held, common, shares = _synchronous(problem)
    # No bands allow all learners one update more than these.
    n = most_updates if cap is None else min(most_updates, int(common.max()) + 1 + cap)
    equal = np.floor(common + ROUNDING).astype(np.int64)[:, None] * problem.taking_part
    best = _choose(problem, shares, cap, n)
    for bands in (
        _raised(problem._replace(goals=held), equal, shares, 0),
        _equal_bands(problem),
        _equal_tasks(problem, cap)[1],
    ):
        best = best.improved_by(_choose(problem, bands, cap, n))
    problem = problem._replace(goals=best.held)
    rows = np.arange(len(held))
    for _ in range(_MOST_ROUNDS):
        part, before = problem.at(rows), best.at(rows)
        bands = _raised(part, before.updates, before.bands, cap)
        after = before.improved_by(_choose(part, bands, cap, n))
        for array, values in zip(best, after, strict=True):
            array[rows] = values
        rows = rows[after.updates.sum(axis=-1) > before.updates.sum(axis=-1)]
        if not rows.size:
            break
    samples = split_samples(best.rooms, problem.goals, least_samples)
    return _results(limits, problem, Tasks(samples, best.updates), best.bands)


def resource_allocation(
    limits: ResourceLimits,
    total: ArrayLike,
    cap: int | None,
    most_updates: int = 64,
    *,
    least_samples: int = 1,
) -> tuple[Tasks, Resources]:
    """Return equal tasks and the resources with the largest mean of updates on them.

    All make the most updates that all can make, or one of the c numbers below, and then up to c
    updates more, those first that need the least band for one more. What is left of the band is
    shared in proportion. Learners take part as in ``joint_allocation``; where equal tasks are too
    much for one update, all have fewer samples.

    Args:
        limits: Limits of the cycle, ``(..., K)``.
        total: Samples d of all learners, ``(...)``; d_k = d/K, the first ones get what does not
            divide, none more than n_k.
        cap: Largest staleness c ≥ 0; ``None`` is no limit.
        most_updates: Largest τ_k that is looked at.
        least_samples: Samples d_l ≥ 1 that a learner must be able to hold to take part.

    Returns:
        Tasks and resources, each ``(..., K)``.

    Raises:
        ValueError: If an argument is out of range, or ``total`` is less than d_l for every learner
            that takes part.

    Source: Sorour et al. 2020, Fig. 3, resource allocation only.
    """
    check_cap(cap)
    problem = _problem(limits, total, least_samples, most_updates)
    return _results(limits, problem, *_equal_tasks(problem, cap))


class _Problem(NamedTuple):
    """Instances of an allocation problem, in rows.

    Attributes:
        learners: Learners, ``(m, K)``.
        taking_part: Whether each takes part, ``(m, K)``.
        band: Band in Hz of those who do, ``(m,)``.
        goals: Samples of all learners, ``(m,)``.
        least: Least samples of a learner.
        most: Most updates of a learner.
        idle: Band in Hz of each who takes no part, ``(m,)``.
        shape: Shape of the results, ``(..., K)``.
    """

    learners: Learners
    taking_part: NDArray[np.bool_]
    band: Float64Array
    goals: IntArray
    least: int
    most: int
    idle: Float64Array
    shape: tuple[int, ...]

    def at(self, rows: NDArray[np.intp]) -> _Problem:
        return self._replace(
            learners=self.learners[rows],
            taking_part=self.taking_part[rows],
            band=self.band[rows],
            goals=self.goals[rows],
            idle=self.idle[rows],
        )


class _Choice(NamedTuple):
    """Updates with the largest mean in given bands.

    Attributes:
        held: Samples that learners can hold of those they are to hold, ``(m,)``.
        updates: Updates τ_k, ``(m, K)``.
        rooms: Samples that learners can hold for them, ``(m, K)``.
        bands: Bands in Hz, ``(m, K)``.
    """

    held: IntArray
    updates: IntArray
    rooms: IntArray
    bands: Float64Array

    def at(self, rows: NDArray[np.intp]) -> _Choice:
        return _Choice(self.held[rows], self.updates[rows], self.rooms[rows], self.bands[rows])

    def improved_by(self, other: _Choice) -> _Choice:
        """Return the better of two choices, row by row."""
        gain = other.updates.sum(axis=-1) - self.updates.sum(axis=-1)
        better = (other.held > self.held) | ((other.held == self.held) & (gain > 0))
        rows = better[:, None]
        return _Choice(
            held=np.where(better, other.held, self.held),
            updates=np.where(rows, other.updates, self.updates),
            rooms=np.where(rows, other.rooms, self.rooms),
            bands=np.where(rows, other.bands, self.bands),
        )


def _problem(limits: ResourceLimits, total: ArrayLike, least: int, most: int) -> _Problem:
    check_least("least_samples", least, 1)
    check_least("most_updates", most, 1)
    goals, shape = goals_of(total, limits.band_hz.shape)
    n_learners = limits.model_bits.shape[-1]
    learners = np.broadcast_to(packed(limits), (*shape, n_learners)).reshape(-1, n_learners)
    band = np.broadcast_to(limits.band_hz, shape).reshape(-1)
    taking_part = np.empty(learners.shape, np.bool_)
    # Compiled code is compiled once more for arrays that cannot be written.
    learners = learners.copy()
    fill_taking_part(learners, band / n_learners, least, taking_part)
    check_goals(goals, least * taking_part.astype(np.int64), least)
    idle = _IDLE_SHARE * band / n_learners
    return _Problem(
        learners=learners,
        taking_part=taking_part,
        band=band - idle * (~taking_part).sum(axis=-1),
        goals=goals.copy(),
        least=least,
        most=most,
        idle=idle,
        shape=(*shape, n_learners),
    )


def _results(
    limits: ResourceLimits, problem: _Problem, tasks: Tasks, bands: Float64Array
) -> tuple[Tasks, Resources]:
    shape = problem.shape
    tasks = Tasks(*(array.reshape(shape) for array in tasks))
    return tasks, best_resources(limits, *tasks, bands.reshape(shape))


def _equal_bands(problem: _Problem) -> Float64Array:
    share = problem.band / np.maximum(problem.taking_part.sum(axis=-1), 1)
    return np.where(problem.taking_part, share[:, None], problem.idle[:, None])


def _synchronous(problem: _Problem) -> tuple[IntArray, Float64Array, Float64Array]:
    """Return the samples that can be held, the most updates that all can make, and the bands."""
    held = np.zeros_like(problem.goals)
    updates, bands = np.zeros(len(held)), _equal_bands(problem)
    for_ranges(
        lambda start, stop: fill_synchronous(*problem[:6], held, updates, bands, start, stop),
        len(held),
    )
    return held, updates, bands


def _equal_tasks(problem: _Problem, cap: int | None) -> tuple[Tasks, Float64Array]:
    """Return equal tasks and the bands with the largest mean of updates on them, ``(m, K)``."""
    samples = np.zeros(problem.learners.shape, np.int64)
    updates, bands = np.zeros_like(samples), _equal_bands(problem)
    staleness = problem.most if cap is None else cap
    for_ranges(
        lambda start, stop: fill_equal_tasks(
            *problem[:6], staleness, samples, updates, bands, start, stop
        ),
        len(samples),
    )
    return Tasks(samples, updates), bands


def _raised(
    problem: _Problem, updates: IntArray, bands: Float64Array, cap: int | None
) -> Float64Array:
    """Return bands for at least so many updates, shared anew."""
    bands = bands.copy()
    staleness = problem.most if cap is None else cap
    for_ranges(
        lambda start, stop: fill_raised(*problem[:6], staleness, updates, bands, start, stop),
        len(bands),
    )
    return bands


def _choose(problem: _Problem, bands: Float64Array, cap: int | None, n: int) -> _Choice:
    """Return the exact updates in given bands."""
    tables = np.empty((*bands.shape, n), np.int64)
    for_ranges(
        lambda start, stop: fill_tables(*problem[:2], bands, tables, start, stop),
        len(bands),
        grain=max(1, _GRAIN // (n * bands.shape[1])),
    )
    updates = exact_updates(tables, problem.goals, cap, problem.least)
    at = np.maximum(updates - 1, 0)[..., None]
    rooms = np.where(updates > 0, np.take_along_axis(tables, at, axis=-1)[..., 0], 0)
    return _Choice(np.minimum(problem.goals, rooms.sum(axis=-1)), updates, rooms, bands)
