"""Task allocation of asynchronous mobile edge learning, solved exactly.

Arrays in, arrays out, any number of instances at once: leading axes hold instances, the last axis
the K learners, and arguments broadcast.

Learner k holds at most D_k(τ) = min[(T - C⁰)/(C²τ + C¹), (E⁰ - G⁰)/(G²τ + G¹), n_k] samples if it
makes τ updates on them. D_k falls in τ, and given all τ_k any d_k ≤ ⌊D_k(τ_k)⌋ that sum to d will
do. Problem (16) is left with the τ_k of the largest sum for which Σ⌊D_k(τ_k)⌋ ≥ d, and all of them
in some window [m, m + c]. It is no NP-hard program then: for one window, dynamic programming over
learners keeps the least samples lost for each sum of increments, K²·c² steps. With m̂ the largest
number of updates that all can make, only windows that start in (m̂ - c, m̂] can be better than m̂ for
all. A Lagrangian bound leaves out states that cannot be part of an optimum.

Where the document and the numerical optimum disagree, the optimum is what this module returns:

* The dual (19) is vacuous: F₂ ⪰ 0 has a zero diagonal, which forces λ = γ = 0, and (27) is then
  singular. The suggest step takes the relaxed synchronous optimum of (17) itself.
* (16) rewards the mean of τ_k, not its minimum, which the document is after: for c ≥ 2 the optimum
  may let slow learners make fewer updates than all could make together. The mean over samples,
  Σd_kτ_k/d, then falls: from 3.25 at c = 1 to 3.20 at c = 3, T = 10 s and E = 20 J. Suggest-and-
  improve only raises, so that nobody makes fewer than m̂ updates, and is exact for c ≤ 1.

Mean τ_k by ``benchmarks/task_allocation.py`` over 1,024 placements of the document's system
(K = 20, d = 60,000, d_l = 100), and by how much suggest-and-improve stays below on average and at
most. Starved are the placements in which the optimum lets a learner make fewer than m̂ updates:

====  ====  ===  =======  ===================  =======
T, s  E, J  c    optimum  stays below          starved
====  ====  ===  =======  ===================  =======
10    10    0    2.018    0                    0
10    10    1    2.918    0                    0
10    10    2    3.506    0.009, at most 0.65  2 %
10    10    3    4.049    0.020, at most 1.25  2 %
10    10    5    5.261    0.202, at most 2.50  98 %
10    20    1    3.528    0                    0
10    20    2    3.759    0.022, at most 0.20  51 %
10    20    3    4.334    0.436, at most 0.75  100 %
20    10    1    4.611    0                    0
20    10    2    4.932    0.000, at most 0.05  2 %
20    10    3    5.317    0.091, at most 0.45  72 %
20    20    1    5.953    0                    0
20    20    2    6.434    0.053, at most 0.50  15 %
20    20    3    6.869    0.121, at most 1.00  15 %
====  ====  ===  =======  ===================  =======

Microseconds of CPU time of one instance by the same script, by the number of instances at once, of
``exact_allocation`` and of ``suggest_and_improve`` (T = E = 10, 3,000 samples a learner; one core
that others used heavily). HiGHS solves for the updates alone, and did not prove one of its last
three optima within 120 s:

=======  ===========  =========  =========  ==========
K, c     1            16         256        HiGHS
=======  ===========  =========  =========  ==========
20, 0    181, 161     26, 31     8.8, 9.5   3,160
20, 1    168, 186     40, 39     11, 11     11,800
20, 3    232, 185     51, 36     17, 11     159,000
100, 0   305, 334     75, 71     43, 45     3,120
100, 1   328, 323     90, 92     56, 55     90,500
100, 3   379, 290     143, 90    93, 58     3,260,000
1000, 0  827, 724     448, 445   none       8,700
1000, 1  957, 868     532, 534   none       4,680,000
1000, 3  2060, 1320   1690, 841  none       32,300,000
=======  ===========  =========  =========  ==========
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_gym.physics.wireless import Float64Array, _checked
from edge_gym.runtime.compiling import compiled
from edge_gym.runtime.threads import for_ranges

Int64Array = NDArray[np.int64]

LARGEST = 2**31
"""The most samples and updates there are; products of two stay exact."""
_ROUNDING = 1e-9
"""Samples by which rounding may have lowered what a learner can hold."""
_BOUND_ROUNDING = 1e-6
"""Updates by which rounding may have lowered a bound on whole updates."""
_UNREACHABLE = 2**62
_GRAIN = 4096
"""Divisions that are worth a thread."""


@dataclass(frozen=True, eq=False)
class TaskCosts:
    """What a cycle of τ_k updates on d_k samples costs K learners, and what they can spend.

    It takes C²·τ·d + C¹·d + C⁰ ≤ T seconds and G²·τ·d + G¹·d + G⁰ ≤ E⁰ joules. All fields are
    broadcast to one shape ``(..., K)`` of float64.

    Attributes:
        base_s: Seconds C_k⁰ of a cycle, whatever is done: the model's way there and back.
        sample_s: Seconds C_k¹ of every sample: its way to the learner; 0 where it is there.
        update_s: Seconds C_k² of every sample in every update.
        base_j: Joules G_k⁰ of a cycle.
        sample_j: Joules G_k¹ of every sample.
        update_j: Joules G_k² of every sample in every update.
        limit_j: Joules E_k⁰ that a cycle may cost; may be infinite.
        max_samples: Samples n_k that a learner has; infinite where the orchestrator sends them.
        cycle_s: Seconds T of the cycle.

    Raises:
        ValueError: If a value is negative, NaN, or infinite where that means nothing, or shapes do
            not fit.

    Source: ASYNC-MEL eqs. (10), (11).
    """

    base_s: Float64Array
    sample_s: Float64Array
    update_s: Float64Array
    base_j: Float64Array
    sample_j: Float64Array
    update_j: Float64Array
    limit_j: Float64Array
    max_samples: Float64Array
    cycle_s: Float64Array

    def __post_init__(self) -> None:
        arrays = {}
        for field in fields(self):
            name = field.name
            array = _checked(name, getattr(self, name))
            if name not in ("limit_j", "max_samples") and not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)].flat[0]}")
            arrays[name] = array
        shape = np.broadcast_shapes(*(array.shape for array in arrays.values()))
        if not shape or not shape[-1]:
            raise ValueError(f"update_s must have an axis of learners, got the shape {shape}")
        for name, array in arrays.items():
            object.__setattr__(self, name, np.broadcast_to(array, shape))

    def capacity(self, updates: ArrayLike) -> Float64Array:
        """Return the samples D_k(τ) on which learners can make so many updates, not rounded.

        D_k(τ) = min[(T - C⁰)/(C²τ + C¹), (E⁰ - G⁰)/(G²τ + G¹), n_k]; 0 where T < C⁰ or E⁰ < G⁰,
        and infinite where nothing limits them.

        Args:
            updates: Updates τ_k, which need not be whole, ``(..., K)``.

        Raises:
            ValueError: If ``updates`` is negative or has a shape that does not fit.
        """
        terms, rows, shape = self._with("updates", updates)
        samples = np.empty(len(rows))
        _fill_rooms(terms, rows, samples)
        return samples.reshape(shape)

    def whole_capacities(self, n: int) -> Int64Array:
        """Return the table of ⌊D_k(τ)⌋ for τ = 1..n, at most ``LARGEST``, ``(..., K, n)``.

        Raises:
            ValueError: If ``n`` is less than 1.
        """
        _check_least("n", n, 1)
        terms = self._terms()
        table = np.empty((*terms.shape[:-1], n), np.int64)
        rows, flat = terms.reshape(-1, 7), table.reshape(-1, n)
        for_ranges(
            lambda start, stop: _fill_table(rows, flat, start, stop),
            len(rows),
            grain=max(1, _GRAIN // n),
        )
        return table

    def max_updates(self, samples: ArrayLike) -> Int64Array:
        """Return the most whole updates that time and energy allow on so many samples.

        That is the largest τ with d_k ≤ D_k(τ), at most ``LARGEST``; 0 where even one update is too
        many, where learners have fewer samples, and without samples.

        Args:
            samples: Samples d_k, ``(..., K)``.

        Raises:
            ValueError: If ``samples`` is negative or has a shape that does not fit.
        """
        terms, rows, shape = self._with("samples", samples)
        updates = np.empty(len(rows), np.int64)
        _fill_updates(terms, rows, updates)
        return updates.reshape(shape)

    def needs(self, samples: ArrayLike, updates: ArrayLike) -> tuple[Float64Array, Float64Array]:
        """Return the seconds and the joules that tasks take of each learner, ``(..., K)`` each.

        Args:
            samples: Samples d_k, ``(..., K)``.
            updates: Updates τ_k, ``(..., K)``.

        Raises:
            ValueError: If an argument is negative.

        Source: ASYNC-MEL eqs. (10), (11).
        """
        held, times = _checked("samples", samples), _checked("updates", updates)
        seconds = self.update_s * times * held + self.sample_s * held + self.base_s
        joules = self.update_j * times * held + self.sample_j * held + self.base_j
        return seconds, joules

    def _terms(self) -> Float64Array:
        """Return what ``_room`` needs of every learner, ``(..., K, 7)``."""
        return np.stack(
            [
                self.cycle_s - self.base_s,
                self.update_s,
                self.sample_s,
                self.limit_j - self.base_j,
                self.update_j,
                self.sample_j,
                self.max_samples,
            ],
            axis=-1,
        )

    def _with(
        self, name: str, value: ArrayLike
    ) -> tuple[Float64Array, Float64Array, tuple[int, ...]]:
        """Return rows of the terms and of a checked argument, and the shape of both."""
        array, shape = _checked(name, value), self.update_s.shape
        try:
            shape = np.broadcast_shapes(array.shape, shape)
        except ValueError:
            message = f"{name} must broadcast with the shape {shape}, got {array.shape}"
            raise ValueError(message) from None
        return _rows(self._terms(), shape, 1), _rows(array, shape, 0), shape


class Tasks(NamedTuple):
    """What every learner does in a cycle.

    Attributes:
        samples: Samples d_k, ``(..., K)``.
        updates: Updates τ_k on them, ``(..., K)``; 0 where a learner takes no part.
    """

    samples: Int64Array
    updates: Int64Array


def relaxed_updates(costs: TaskCosts, total: ArrayLike, least_samples: int = 1) -> Float64Array:
    """Return the most updates τ̂ that all learners can make, when nothing need be whole.

    That is the largest τ with ΣD_k(τ) ≥ d and every D_k(τ) ≥ d_l, found by bisection.

    Args:
        costs: Costs of the cycle, ``(..., K)``.
        total: Samples d of all learners, ``(...)``.
        least_samples: Samples d_l ≥ 1 of every learner.

    Returns:
        τ̂, ``(...)``; 0 where learners cannot hold the samples for however few updates, infinite
        where updates cost nothing.

    Raises:
        ValueError: If an argument is out of range.

    Source: ASYNC-MEL problem (17); the dual (19) that would bound it is vacuous.
    """
    _check_least("least_samples", least_samples, 1)
    terms = costs._terms()
    goals, shape = _goals(total, terms.shape[:-2])
    rows = _rows(terms, shape, 2)
    updates = np.empty(len(rows))
    for_ranges(
        lambda start, stop: _relax(rows, goals, least_samples, updates, start, stop),
        len(rows),
        grain=max(1, _GRAIN // (32 * rows.shape[1])),
    )
    return updates.reshape(shape)


def exact_updates(
    capacities: ArrayLike, total: ArrayLike, cap: int | None, least_samples: int = 1
) -> Int64Array:
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

    Source: ASYNC-MEL problem (16).
    """
    tables = _whole("capacities", capacities)
    if tables.ndim < 2 or not all(tables.shape[-2:]):
        raise ValueError(
            f"capacities must have axes of learners and updates, got the shape {tables.shape}"
        )
    rises = tables[..., 1:] > tables[..., :-1]
    if rises.any():
        less, more = tables[..., :-1][rises][0], tables[..., 1:][rises][0]
        raise ValueError(f"capacities must not rise with the updates, got {more} after {less}")
    goals, shape = _goals(total, tables.shape[:-2])
    found = _solve(_exact, _rows(tables, shape, 2), goals, cap, least_samples)
    return found.reshape(*shape, tables.shape[-2])


def split_samples(rooms: ArrayLike, total: ArrayLike, least_samples: int = 1) -> Int64Array:
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

    Source: ASYNC-MEL eqs. (16d), (16g).
    """
    _check_least("least_samples", least_samples, 1)
    checked = _whole("rooms", rooms)
    if not checked.ndim or not checked.shape[-1]:
        raise ValueError(f"rooms must have an axis of learners, got the shape {checked.shape}")
    goals, shape = _goals(total, checked.shape[:-1])
    rows = _rows(checked, shape, 1)
    _check_goals(goals, rows, least_samples)
    return _divide(rows, goals, least_samples).reshape(*shape, checked.shape[-1])


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

    Source: ASYNC-MEL problem (16).
    """
    return _allocation(_exact, costs, total, cap, least_samples, most_updates)


def suggest_and_improve(
    costs: TaskCosts,
    total: ArrayLike,
    cap: int | None,
    least_samples: int = 1,
    most_updates: int = 64,
) -> Tasks:
    """Return the document's allocation: equal updates, then raised one by one.

    All learners that take part start from the most whole updates that all of them can make: ⌊τ̂⌋,
    or less where whole samples do not fit. Coordinate ascent then raises τ_k by one, that of the
    learner who loses the fewest samples by it, until samples and staleness allow no more.
    Arguments, the treatment of learners that cannot take part and errors are those of
    ``exact_allocation``.

    Source: ASYNC-MEL Algorithm 1; ``relaxed_updates`` replaces its eq. (27), which is singular.
    """
    return _allocation(_suggest_and_improve, costs, total, cap, least_samples, most_updates)


def equal_allocation(costs: TaskCosts, total: ArrayLike, cap: int | None) -> Tasks:
    """Return equal samples for all learners and the most updates that each can make on them.

    This knows nothing of the learners: d_k = d/K, the first ones get what does not divide, none
    more than n_k. Learners may have samples and no updates; these are stragglers that return
    nothing. Staleness counts them: with c = 0 and one of them, nobody makes an update.

    Args:
        costs: Costs of the cycle, ``(..., K)``.
        total: Samples d of all learners, ``(...)``.
        cap: Largest staleness c ≥ 0, for which all others wait for the slowest learner with
            samples: 0 is HU-Sync, ``None`` HU-Asyn.

    Raises:
        ValueError: If an argument is out of range.

    Source: ASYNC-MEL §5, HU-Sync and HU-Asyn.
    """
    n_learners = costs.update_s.shape[-1]
    _check_cap(cap)
    goals, shape = _goals(total, costs.update_s.shape[:-1])
    goals = goals.reshape(*shape, 1)
    share = goals // n_learners + (np.arange(n_learners) < goals % n_learners)
    samples = np.minimum(share, np.minimum(costs.max_samples, LARGEST).astype(np.int64))
    updates = costs.max_updates(samples)
    if cap is not None:
        slowest = np.where(samples > 0, updates, LARGEST).min(axis=-1, keepdims=True)
        updates = np.minimum(updates, slowest + min(cap, LARGEST))
    return Tasks(samples, updates)


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _check_cap(cap: int | None) -> None:
    if cap is not None and cap < 0:
        raise ValueError(f"cap must be at least 0 or None, got {cap}")


def _whole(name: str, value: ArrayLike) -> Int64Array:
    array = np.asarray(value)
    valid = (array >= 0) & (array <= LARGEST)
    if array.dtype.kind not in "iu":
        valid &= array == np.floor(array)
    if not valid.all():
        raise ValueError(f"{name} must be whole and in [0, {LARGEST}], got {array[~valid].flat[0]}")
    return array.astype(np.int64, copy=False)


def _goals(total: ArrayLike, shape: tuple[int, ...]) -> tuple[Int64Array, tuple[int, ...]]:
    """Return the samples of every instance, ``(m,)``, and the shape of instances."""
    goals = _whole("total", total)
    try:
        shape = np.broadcast_shapes(goals.shape, shape)
    except ValueError:
        raise ValueError(
            f"total must broadcast with the shape {shape}, got {goals.shape}"
        ) from None
    return _rows(goals, shape, 0), shape


def _rows(array: NDArray[Any], shape: tuple[int, ...], n_axes: int) -> NDArray[Any]:
    """Return the array with one axis of instances, ``(m, ...)``, before its last ``n_axes``.

    It can be written to: kernels take 20 µs longer to call with an array that cannot.
    """
    rest = array.shape[array.ndim - n_axes :]
    if array.shape != shape + rest:
        array = np.broadcast_to(array, shape + rest)
    return np.require(array, requirements=["C", "W"]).reshape(-1, *rest)


def _check_goals(goals: Int64Array, rooms: Int64Array, least_samples: int) -> None:
    n_learners = (rooms >= least_samples).sum(axis=-1)
    short = goals < n_learners * least_samples
    if short.any():
        n, goal = n_learners[short][0], goals[short][0]
        raise ValueError(
            f"total must be at least least_samples = {least_samples} for each of {n} learners, "
            f"got {goal}"
        )


def _solve(
    kernel: Callable[..., None],
    tables: Int64Array,
    goals: Int64Array,
    cap: int | None,
    least_samples: int,
) -> Int64Array:
    """Return the updates that a kernel finds, ``(m, K)``."""
    _check_least("least_samples", least_samples, 1)
    _check_cap(cap)
    _check_goals(goals, tables[..., 0], least_samples)
    m, n_learners, n_updates = tables.shape
    staleness = n_updates if cap is None else min(cap, n_updates)
    updates = np.empty((m, n_learners), np.int64)
    for_ranges(
        lambda start, stop: kernel(tables, goals, staleness, least_samples, updates, start, stop),
        m,
        grain=max(1, _GRAIN // (32 * n_learners)),
    )
    return updates


def _divide(rooms: Int64Array, goals: Int64Array, least_samples: int) -> Int64Array:
    """Return samples in proportion to rooms, ``(m, K)``."""
    samples = np.empty_like(rooms)
    for_ranges(
        lambda start, stop: _split(rooms, goals, least_samples, samples, start, stop),
        len(rooms),
        grain=max(1, _GRAIN // rooms.shape[1]),
    )
    return samples


def _allocation(
    kernel: Callable[..., None],
    costs: TaskCosts,
    total: ArrayLike,
    cap: int | None,
    least_samples: int,
    most_updates: int,
) -> Tasks:
    _check_least("most_updates", most_updates, 1)
    tables = costs.whole_capacities(most_updates)
    goals, shape = _goals(total, tables.shape[:-2])
    tables = _rows(tables, shape, 2)
    updates = _solve(kernel, tables, goals, cap, least_samples)
    at = np.maximum(updates - 1, 0)[..., None]
    rooms = np.where(updates > 0, np.take_along_axis(tables, at, axis=-1)[..., 0], 0)
    samples = _divide(rooms, goals, least_samples)
    shape += updates.shape[1:]
    return Tasks(samples.reshape(shape), updates.reshape(shape))


@compiled()
def _room(terms, updates):  # type: ignore[no-untyped-def]
    """Return D_k(τ); falls in τ in floating point too, which searches rely on."""
    room = terms[6]
    for i in (0, 3):
        if terms[i] < 0:
            return 0.0
        per_sample = terms[i + 1] * updates + terms[i + 2]
        if per_sample > 0:
            room = min(room, terms[i] / per_sample)
    return room


@compiled()
def _fill_rooms(terms, updates, samples):  # type: ignore[no-untyped-def]
    for k in range(len(terms)):
        samples[k] = _room(terms[k], updates[k])


@compiled()
def _fill_table(terms, table, start, stop):  # type: ignore[no-untyped-def]
    for k in range(start, stop):
        for i in range(table.shape[1]):
            room = min(_room(terms[k], i + 1.0) + _ROUNDING, float(LARGEST))
            table[k, i] = np.int64(np.floor(room))


@compiled()
def _fill_updates(terms, samples, updates):  # type: ignore[no-untyped-def]
    for k in range(len(terms)):
        low, high = 0, 1
        if samples[k] > 0:
            while high <= LARGEST and _room(terms[k], float(high)) + _ROUNDING >= samples[k]:
                low, high = high, 2 * high
            while low < LARGEST and high - low > 1:
                middle = (low + high) // 2
                if _room(terms[k], float(middle)) + _ROUNDING >= samples[k]:
                    low = middle
                else:
                    high = middle
        updates[k] = low


@compiled()
def _all_hold(terms, updates, goal, least):  # type: ignore[no-untyped-def]
    total = 0.0
    for k in range(len(terms)):
        room = _room(terms[k], updates)
        if room < least:
            return False
        total += room
    return total >= goal


@compiled()
def _relax(terms, goals, least, updates, start, stop):  # type: ignore[no-untyped-def]
    for p in range(start, stop):
        low, high = 0.0, 1.0
        if _all_hold(terms[p], low, goals[p], least):
            while high < np.inf and _all_hold(terms[p], high, goals[p], least):
                low, high = high, 2 * high
            middle = low + (high - low) / 2
            while low < middle < high:
                if _all_hold(terms[p], middle, goals[p], least):
                    low = middle
                else:
                    high = middle
                middle = low + (high - low) / 2
            if high == np.inf:
                low = np.inf
        updates[p] = low


@compiled()
def _suggest(table, total, least, updates):  # type: ignore[no-untyped-def]
    """Set the most updates that all can make; return them and the samples that still fit."""
    low, high = 0, table.shape[1] + 1
    slack = np.int64(0)
    while high - low > 1:
        # One update is looked at first: it says who takes part, and which samples fit at all.
        middle = (low + high) // 2 if low else 1
        held = np.int64(0)
        fits = True
        for k in range(len(table)):
            if table[k, 0] >= least:
                held += table[k, middle - 1]
                fits = fits and table[k, middle - 1] >= least
        if not low:
            total = min(total, held)
        if fits and held >= total:
            low, slack = middle, held - total
        else:
            high = middle
    for k in range(len(table)):
        updates[k] = low if table[k, 0] >= least else 0
    return low, slack, total


@compiled()
def _push(table, k, most, least, updates, heap):  # type: ignore[no-untyped-def]
    """Add what a learner's next update loses, if it can make one."""
    i = updates[k]
    if 0 < i < most and table[k, i] >= least:
        heapq.heappush(heap, (table[k, i - 1] - table[k, i], k))


@compiled()
def _improve(table, most, least, slack, updates):  # type: ignore[no-untyped-def]
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
        common, slack, _ = _suggest(tables[p], goals[p], least, updates[p])
        # The least τ_k stays: all can make ``common`` updates and not one more.
        most = min(common + cap, tables.shape[2])
        _improve(tables[p], most, least, slack, updates[p])


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
        common, slack, goal = _suggest(table, goals[p], least, found)
        slack = _improve(table, min(common + cap, n_updates), least, slack, found)
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
