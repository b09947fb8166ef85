"""Joint allocation of tasks, band, powers and clocks in mobile edge learning.

Arrays in, arrays out, any number of instances at once: leading axes hold instances, the last axis
the K learners, and arguments broadcast.

In a cycle of T seconds learner k receives the model and d_k samples, makes τ_k updates on them at
f_k cycles per second and sends the model back with p_k watts; both ways have w_k Hz of the shared
band. MEL names the problem, ASYNC-MEL its quantities and the objective, the largest mean of τ_k.

With x = ln(1 + p·g/w) an upload of S bits takes t = ln(2)·S/(w·x) seconds and
ln(2)·S/g·(eˣ - 1)/x joules, which fall with t by (w/g)·(x·eˣ - eˣ + 1) joules per second. Those of
the clock fall by 2·κ·f³. A learner that can hold as many samples as possible, D(τ, w), saves as
much by either unless p or f is as high as it may be. So f follows from x, the cycles from the
energy that is left, and the seconds, which fall with x, give x. With full power 1/f is the root of
a cubic; where energy suffices for full power and speed, D is a fraction. Lagrange multipliers of
time and energy give the derivatives of D by w and τ.

All constraints of one learner are posynomials, t·p·g = Σ (ln(2)·S)ⁿ/(n!·(w·t)ⁿ⁻¹), hence ln(D) is
concave in ln(w) and ln(τ). D itself need not be concave in w. Where 4,000 learners of ASYNC-MEL's
system (T = 5..40 s, E = 10..30 J) hold 100 samples or more for one update, D' rises for 5 % while
the band is narrow, by w^0.01 at most, and for five updates for none. Of learners drawn at random it
rises for 5 to 17 % where time binds, by w^0.11 at most, and for up to 2 % where energy does. So one
price shares the band: each learner takes as much as has D' ≥ price, on the concave hull of D where
that begins convex. D' jumps down where energy begins to bind; many learners end there.

* ``synchronous_optimum``: Newton's method for ln(ΣD) = ln(d) in ln(τ), the band shared for each τ.
  No dual bound of some 220 random instances left more than 0.5 % of the samples, and no ascent from
  20 random splits gained more than 0.05 % (3 of 930 instances more than 1e-6).
* ``joint_allocation``: exact updates (``task_allocation``) in the bands of the synchronous optimum,
  in equal bands and in those of ``resource_allocation``. For the best of them the band is shared
  anew and those learners that lose the fewest samples are tried one update more, turn by turn with
  exact updates, until nothing is gained. In 686 instances of 2 and 3 learners a fine grid of
  splits, with exact updates in each, was better once, by one update, and worse 68 times.
* ``resource_allocation``: least bands for equal tasks, raised where that costs the least band.

Microseconds of one instance, by the number of instances at once (processor time of one core that
others used too; ASYNC-MEL's system at T = 12 s and E = 10 J, caps c; K = 10 share 1,500
samples, at least 10 each, the others 3,000 per learner, at least 100 each):

====  ===============  ======  ======
K     method           1       64
====  ===============  ======  ======
10    joint, c = 0     856     296
10    joint, c = 1     1,120   415
10    joint, c = 3     1,400   523
10    joint, no cap    2,510   1,390
10    resource, c = 1  186     51
20    joint, c = 1     1,540   821
20    resource, c = 1  193     108
100   joint, c = 1     4,690   3,660
100   joint, no cap    54,600  49,100
100   resource, c = 1  573     446
====  ===============  ======  ======
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_gym.physics.wireless import Float64Array, _checked, shannon_rate
from edge_gym.runtime.compiling import compiled
from edge_gym.runtime.threads import for_ranges
from edge_gym.solvers.task_allocation import (
    LARGEST,
    Int64Array,
    Tasks,
    _check_cap,
    _check_goals,
    _check_least,
    _goals,
    exact_updates,
    split_samples,
)

_ROUNDING = 1e-9
"""Samples or updates by which rounding may have lowered what a learner can do."""
_SLACK = 1 + 1e-12
"""Factor of limits that rounding may use up where an update takes next to nothing of them."""
_IDLE_SHARE = 1e-6
"""Part of an equal share of the band that is left to a learner that takes no part."""
_MOST_STEPS = 100
_MOST_SEARCHES = 300
"""Searches end by themselves, but where magnitudes are such that rounding moves them."""
"""Steps of a search, as a safeguard: few take more than ten."""
_FEW_STEPS = 8
"""Steps after which a search for a band gives way to bisection."""
_SMALL_STEP = 1e-12
"""Relative change of a band that is not worth another step."""
_NEAR = 1e-10
"""Relative accuracy of a real number of updates."""
_DIFFERENCE = 1e-4
"""Relative change of a band for numerical derivatives."""
_LEAST_CURVATURE = 0.1
"""Least -dln(D')/dln(w) that a step trusts."""
_TRIES = 3
"""Learners whose raise by one update is tried, those that lose the fewest samples first."""
_MOST_ROUNDS = 8
"""Rounds of sharing the band and raising updates; two or three are the rule."""
_GRAIN = 400
"""Capacities that are worth a thread."""

_LEARNER = np.dtype(
    [
        (name, np.float64)
        for name in (
            *("nats", "model", "sample", "gain", "power", "cpu"),
            *("cycles", "capacitance", "limit", "samples", "cycle_s"),
        )
    ]
)
"""What kernels need of a learner; ``model`` and ``sample`` are Hz·s of the downlink."""

_Learners = NDArray[np.void]


@dataclass(frozen=True, eq=False)
class ResourceLimits:
    """What K learners and the orchestrator that serves them can spend in a cycle.

    All fields but ``band_hz`` are broadcast to one shape ``(..., K)`` of float64.

    Attributes:
        model_bits: Bits S of a model, in both directions.
        sample_bits: Bits A of a sample on its way to a learner; 0 in federated learning.
        efficiency: Spectral efficiency e_k of the downlink in bit/s/Hz, that of a constant power
            density.
        gain_per_noise: Channel gain over noise density g_k = h_k/N₀ in Hz/W.
        max_power_w: Largest power P of an uplink in watts.
        max_cpu_hz: Largest clock frequency F_k in Hz.
        cycles_per_sample: Cycles C of one sample in one update.
        capacitance: Effective capacitance κ in J·s².
        limit_j: Joules E_k that a cycle may cost a learner; may be infinite.
        max_samples: Samples n_k that a learner has; infinite where the orchestrator sends them.
        cycle_s: Seconds T of the cycle.
        band_hz: Band W in Hz that all learners share, ``(...)``.

    Raises:
        ValueError: If a value is out of range, NaN, or infinite where that means nothing, or shapes
            do not fit.

    Source: MEL, "Joint Task and Resource Optimization"; ASYNC-MEL eqs. (5)-(11), Table 1.
    """

    model_bits: Float64Array
    sample_bits: Float64Array
    efficiency: Float64Array
    gain_per_noise: Float64Array
    max_power_w: Float64Array
    max_cpu_hz: Float64Array
    cycles_per_sample: Float64Array
    capacitance: Float64Array
    limit_j: Float64Array
    max_samples: Float64Array
    cycle_s: Float64Array
    band_hz: Float64Array

    def __post_init__(self) -> None:
        arrays = {}
        for field in fields(self):
            name = field.name
            positive = name not in ("sample_bits", "limit_j", "max_samples")
            array = _checked(name, getattr(self, name), positive=positive)
            if name not in ("limit_j", "max_samples") and not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)].flat[0]}")
            arrays[name] = array
        band = arrays.pop("band_hz")
        shape = np.broadcast_shapes(*(array.shape for array in arrays.values()))
        if not shape or not shape[-1]:
            raise ValueError(f"max_cpu_hz must have an axis of learners, got the shape {shape}")
        try:
            instances = np.broadcast_shapes(band.shape, shape[:-1])
        except ValueError:
            message = f"band_hz must broadcast with the shape {shape[:-1]}, got {band.shape}"
            raise ValueError(message) from None
        object.__setattr__(self, "band_hz", np.broadcast_to(band, instances))
        for name, array in arrays.items():
            object.__setattr__(self, name, np.broadcast_to(array, (*instances, shape[-1])))


class Resources(NamedTuple):
    """What every learner uses in a cycle.

    Attributes:
        band_hz: Band w_k in Hz, the same in both directions, ``(..., K)``.
        power_w: Power p_k of the uplink in watts, ``(..., K)``.
        cpu_hz: Clock frequency f_k in Hz, ``(..., K)``.
    """

    band_hz: Float64Array
    power_w: Float64Array
    cpu_hz: Float64Array


def capacity(limits: ResourceLimits, updates: ArrayLike, band_hz: ArrayLike) -> Float64Array:
    """Return the most samples D_k(τ, w) that learners can hold with the best powers and clocks.

    Args:
        limits: Limits of the cycle, ``(..., K)``.
        updates: Updates τ_k > 0, which need not be whole, ``(..., K)``.
        band_hz: Bands w_k > 0 in Hz, ``(..., K)``.

    Returns:
        Samples, not rounded and at most n_k, ``(..., K)``; 0 where time or energy do not suffice to
        send the model there and back.

    Raises:
        ValueError: If an argument is out of range or has a shape that does not fit.
    """
    learners, updates, bands = _broadcast(
        limits,
        updates=_checked("updates", updates, positive=True),
        band_hz=_checked("band_hz", band_hz, positive=True),
    )
    samples = np.empty(learners.shape)
    _fill_capacities(*_flat(learners, updates, bands, samples))
    return samples


def needs(
    limits: ResourceLimits, samples: ArrayLike, updates: ArrayLike, resources: Resources
) -> tuple[Float64Array, Float64Array]:
    """Return the seconds and the joules that a cycle takes every learner, each ``(..., K)``.

    (A·d + S)/(e·w) + τ·d·C/f + S/r seconds and κ·τ·d·C·f² + p·S/r joules, where the uplink's rate
    is r = w·log₂(1 + p·g/w). A learner without samples or updates takes no part, which costs
    nothing. Without band, power or clock nothing ever ends.

    Args:
        limits: Limits of the cycle, ``(..., K)``.
        samples: Samples d_k, ``(..., K)``.
        updates: Updates τ_k, ``(..., K)``.
        resources: What the learners use, ``(..., K)``.

    Raises:
        ValueError: If an argument is negative.

    Source: ASYNC-MEL eqs. (5)-(8), exponent and units of (8) corrected; MEL, steps 1-3.
    """
    samples, updates = _checked("samples", samples), _checked("updates", updates)
    seconds, joules, clock = _ways(limits, samples, resources)
    cycles = updates * samples * limits.cycles_per_sample
    with np.errstate(divide="ignore", invalid="ignore"):
        seconds = seconds + cycles / clock
    joules = joules + limits.capacitance * cycles * clock**2
    return np.where(cycles > 0, seconds, 0.0), np.where(cycles > 0, joules, 0.0)


def max_updates(limits: ResourceLimits, samples: ArrayLike, resources: Resources) -> Int64Array:
    """Return the most whole updates that time and energy allow on so many samples, ``(..., K)``.

    At most ``LARGEST``; 0 where even one update is too many, where learners have fewer samples, and
    without samples.

    Args:
        limits: Limits of the cycle, ``(..., K)``.
        samples: Samples d_k, ``(..., K)``.
        resources: What the learners use, ``(..., K)``.

    Raises:
        ValueError: If an argument is negative.
    """
    samples = _checked("samples", samples)
    seconds, joules, clock = _ways(limits, samples, resources)
    cycles = samples * limits.cycles_per_sample
    with np.errstate(divide="ignore", invalid="ignore"):
        in_time = (limits.cycle_s * _SLACK - seconds) * clock / cycles
        spare = limits.limit_j * _SLACK - joules
        in_energy = spare / (limits.capacitance * cycles * clock**2)
    possible = (samples > 0) & (samples <= limits.max_samples) & (clock > 0)
    most = np.where(possible, np.fmin(in_time, in_energy), 0.0)
    return np.floor(np.clip(most + _ROUNDING, 0.0, LARGEST)).astype(np.int64)


def best_resources(
    limits: ResourceLimits, samples: ArrayLike, updates: ArrayLike, band_hz: ArrayLike
) -> Resources:
    """Return the powers and clocks that finish given tasks in time with the least energy.

    Args:
        limits: Limits of the cycle, ``(..., K)``.
        samples: Samples d_k, ``(..., K)``.
        updates: Updates τ_k, ``(..., K)``.
        band_hz: Bands w_k > 0 in Hz, ``(..., K)``.

    Returns:
        The resources, with full power and clock where these do not finish in time either and where
        nothing is to be done.

    Raises:
        ValueError: If an argument is out of range or has a shape that does not fit.
    """
    learners, samples, updates, bands = _broadcast(
        limits,
        samples=_checked("samples", samples),
        updates=_checked("updates", updates),
        band_hz=_checked("band_hz", band_hz, positive=True),
    )
    power, clock = np.empty(learners.shape), np.empty(learners.shape)
    _fill_least_energy(*_flat(learners, samples, updates, bands, power, clock))
    return Resources(bands, power, clock)


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

    Source: MEL, "Joint Task and Resource Optimization".
    """
    _check_cap(cap)
    problem = _problem(limits, total, least_samples, most_updates)
    held, common, shares = _synchronous(problem)
    # No bands allow all learners one update more than these.
    n = most_updates if cap is None else min(most_updates, int(common.max()) + 1 + cap)
    equal = np.floor(common + _ROUNDING).astype(np.int64)[:, None] * problem.taking_part
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

    Source: MEL, Fig. 3, resource allocation only.
    """
    _check_cap(cap)
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

    learners: _Learners
    taking_part: NDArray[np.bool_]
    band: Float64Array
    goals: Int64Array
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

    held: Int64Array
    updates: Int64Array
    rooms: Int64Array
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


def _packed(limits: ResourceLimits) -> _Learners:
    """Return what kernels need of every learner, ``(..., K)``."""
    learners = np.empty(limits.model_bits.shape, _LEARNER)
    learners["nats"] = limits.model_bits * math.log(2)
    learners["model"] = limits.model_bits / limits.efficiency
    learners["sample"] = limits.sample_bits / limits.efficiency
    learners["gain"] = limits.gain_per_noise
    learners["power"] = limits.max_power_w
    learners["cpu"] = limits.max_cpu_hz
    learners["cycles"] = limits.cycles_per_sample
    learners["capacitance"] = limits.capacitance
    learners["limit"] = limits.limit_j
    learners["samples"] = limits.max_samples
    learners["cycle_s"] = limits.cycle_s
    return learners


def _broadcast(limits: ResourceLimits, **arrays: Float64Array) -> list[NDArray[Any]]:
    """Return the learners and the arrays, broadcast to each other and contiguous."""
    shape = limits.model_bits.shape
    for name, array in arrays.items():
        try:
            shape = np.broadcast_shapes(shape, array.shape)
        except ValueError:
            message = f"{name} must broadcast with the shape {shape}, got {array.shape}"
            raise ValueError(message) from None
    both = (_packed(limits), *arrays.values())
    return [np.ascontiguousarray(np.broadcast_to(array, shape)) for array in both]


def _flat(*arrays: NDArray[Any]) -> list[NDArray[Any]]:
    return [array.reshape(-1) for array in arrays]


def _ways(
    limits: ResourceLimits, samples: Float64Array, resources: Resources
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return the seconds and joules of the ways there and back, and the checked clocks."""
    band = _checked("band_hz", resources.band_hz)
    power = _checked("power_w", resources.power_w)
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = np.where(band > 0, power * limits.gain_per_noise / band, 0.0)
        upload = limits.model_bits / shannon_rate(band, snr)
        down = (limits.sample_bits * samples + limits.model_bits) / (limits.efficiency * band)
        joules = np.where(power > 0, power * upload, 0.0)
    return down + upload, joules, _checked("cpu_hz", resources.cpu_hz)


def _problem(limits: ResourceLimits, total: ArrayLike, least: int, most: int) -> _Problem:
    _check_least("least_samples", least, 1)
    _check_least("most_updates", most, 1)
    goals, shape = _goals(total, limits.band_hz.shape)
    n_learners = limits.model_bits.shape[-1]
    learners = np.broadcast_to(_packed(limits), (*shape, n_learners)).reshape(-1, n_learners)
    band = np.broadcast_to(limits.band_hz, shape).reshape(-1)
    taking_part = np.empty(learners.shape, np.bool_)
    # Compiled code is compiled once more for arrays that cannot be written.
    learners = learners.copy()
    _fill_taking_part(learners, band / n_learners, least, taking_part)
    _check_goals(goals, least * taking_part.astype(np.int64), least)
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


def _synchronous(problem: _Problem) -> tuple[Int64Array, Float64Array, Float64Array]:
    """Return the samples that can be held, the most updates that all can make, and the bands."""
    held = np.zeros_like(problem.goals)
    updates, bands = np.zeros(len(held)), _equal_bands(problem)
    for_ranges(
        lambda start, stop: _fill_synchronous(*problem[:6], held, updates, bands, start, stop),
        len(held),
    )
    return held, updates, bands


def _equal_tasks(problem: _Problem, cap: int | None) -> tuple[Tasks, Float64Array]:
    """Return equal tasks and the bands with the largest mean of updates on them, ``(m, K)``."""
    samples = np.zeros(problem.learners.shape, np.int64)
    updates, bands = np.zeros_like(samples), _equal_bands(problem)
    staleness = problem.most if cap is None else cap
    for_ranges(
        lambda start, stop: _fill_equal_tasks(
            *problem[:6], staleness, samples, updates, bands, start, stop
        ),
        len(samples),
    )
    return Tasks(samples, updates), bands


def _raised(
    problem: _Problem, updates: Int64Array, bands: Float64Array, cap: int | None
) -> Float64Array:
    """Return bands for at least so many updates, shared anew."""
    bands = bands.copy()
    staleness = problem.most if cap is None else cap
    for_ranges(
        lambda start, stop: _fill_raised(*problem[:6], staleness, updates, bands, start, stop),
        len(bands),
    )
    return bands


def _choose(problem: _Problem, bands: Float64Array, cap: int | None, n: int) -> _Choice:
    """Return the exact updates in given bands."""
    tables = np.empty((*bands.shape, n), np.int64)
    for_ranges(
        lambda start, stop: _fill_tables(*problem[:2], bands, tables, start, stop),
        len(bands),
        grain=max(1, _GRAIN // (n * bands.shape[1])),
    )
    updates = exact_updates(tables, problem.goals, cap, problem.least)
    at = np.maximum(updates - 1, 0)[..., None]
    rooms = np.where(updates > 0, np.take_along_axis(tables, at, axis=-1)[..., 0], 0)
    return _Choice(np.minimum(problem.goals, rooms.sum(axis=-1)), updates, rooms, bands)


@compiled()
def _copy(values, target):  # type: ignore[no-untyped-def]
    """Copy values; the compiler takes seconds for an assignment to a slice."""
    for k in range(len(values)):
        target[k] = values[k]


@compiled()
def _slope(x):  # type: ignore[no-untyped-def]
    """Return x·eˣ - eˣ + 1: g/w times the watts that a shorter upload costs per second saved."""
    if x < 0.03:
        return x * x * (1 / 2 + x * (1 / 3 + x * (1 / 8 + x * (1 / 30 + x * (1 / 144 + x / 840)))))
    return x * math.exp(x) - math.expm1(x)


@compiled()
def _capacity(learner, updates, band):  # type: ignore[no-untyped-def]
    """Return D(τ, w) without regard to n, and its derivatives by w and by τ.

    x is ln(1 + p·g/w), v is 1/f. ``price`` and ``worth`` are the samples that one more second and
    one more joule are worth.
    """
    nats, gain, power, cpu = learner.nats, learner.gain, learner.power, learner.cpu
    kappa, limit, cycle = learner.capacitance, learner.limit, learner.cycle_s
    work = learner.cycles * updates
    model_s, sample_s = learner.model / band, learner.sample / band
    most = math.log1p(power * gain / band)
    upload = nats / (most * band)
    left = cycle - model_s - upload
    if left <= 0:
        return 0.0, 0.0, 0.0
    snr = power * gain / band
    # What a wider band takes off the upload's seconds at full power.
    upload_change = upload * (1 - snr / (1 + snr) / most) / band
    samples = left / (sample_s + work / cpu)
    joules = limit - power * upload
    if kappa * work * samples * cpu * cpu <= joules:
        price = 1 / (sample_s + work / cpu)
        change = price * ((sample_s * samples + model_s) / band + upload_change)
        return samples, change, -price * samples / cpu * learner.cycles
    clock = (band * _slope(most) / (2 * kappa * gain)) ** (1 / 3)
    ratio = sample_s / work
    if joules > 0 and clock < cpu and joules / (kappa * clock**2) * (1 / clock + ratio) > left:
        # Less power saves less than the slower clock that makes up for it.
        volume = left * kappa / joules
        v = volume ** (1 / 3)
        if ratio > 0:
            v = min(v, math.sqrt(volume / ratio))
        step = v
        for _ in range(_MOST_SEARCHES):
            step = (v * v * (v + ratio) - volume) / (v * (3 * v + 2 * ratio))
            v -= step
            if not step > 1e-14 * v:
                break
        clock = 1 / v
        samples = joules * v * v / (kappa * work)
        worth = 1 / (2 * kappa * clock**3 * (sample_s + work * v) + kappa * work * clock**2)
        price = 2 * kappa * clock**3 * worth
        change = price * ((sample_s * samples + model_s) / band + upload_change)
        change += worth * power * upload_change
        return samples, change, -(price * v + worth * kappa * clock**2) * samples * learner.cycles
    low, high = nats / (band * (cycle - model_s)), most
    unit = nats / gain
    if limit <= unit * math.expm1(low) / low:
        return 0.0, 0.0, 0.0
    x = high
    for _ in range(_MOST_SEARCHES):
        slope = _slope(x)
        joules = limit - unit * math.expm1(x) / x
        clock = (band * slope / (2 * kappa * gain)) ** (1 / 3)
        growth = x * math.exp(x) / (3 * slope)
        if clock >= cpu:
            clock, growth = cpu, 0.0
        cycles = joules / (kappa * clock**2)
        upload = nats / (x * band)
        spent = cycles * (1 / clock + ratio) + upload + model_s
        if spent > cycle:
            low = x
        else:
            high = x
        following = 0.0
        if joules > 0:
            # Newton's method on logarithms, of which all terms are nearly linear.
            fall = (unit * slope / (x * kappa * clock**2) + 2 * cycles * growth * x) * (
                1 / clock + ratio
            )
            fall += cycles * growth * x / clock + upload
            step = math.log(spent / cycle) * spent / fall
            if abs(step) < 3:
                following = x * math.exp(step)
        if abs(following - x) <= 1e-13 * x or high - low <= 1e-15 * high:
            break
        x = following if low < following < high else math.sqrt(low * high)
    samples = cycles / work
    watts = band * slope / gain
    worth = 1 / (watts * (sample_s + work / clock) + kappa * work * clock**2)
    price = worth * watts
    change = price / band * (cycle - cycles / clock)
    return samples, change, -(price / clock + worth * kappa * clock**2) * samples * learner.cycles


@compiled()
def _least_band(learner, updates, samples, guess, most):  # type: ignore[no-untyped-def]
    """Return the least band in which D(τ, w) is at least ``samples``; infinite beyond ``most``."""
    if _capacity(learner, updates, most)[0] < samples:
        return np.inf
    # Nothing but the downlink would take the whole cycle there.
    low, high = (learner.model + learner.sample * samples) / learner.cycle_s, most
    band = min(max(guess, low), high)
    for _ in range(_MOST_SEARCHES):
        found, change, _ = _capacity(learner, updates, band)
        if found < samples:
            low = band
        else:
            high = band
        following = 0.0
        if found > 0:
            step = math.log(samples / found) * found / (change * band)
            if abs(step) < 5:
                following = band * math.exp(step)
        if abs(following - band) <= 1e-12 * band or high - low <= 1e-14 * high:
            break
        band = following if low < following < high else math.sqrt(low * high)
    # What is returned suffices in floating point too.
    step = 1e-15
    while band < high and _capacity(learner, updates, band)[0] < samples:
        band = min(band * (1 + step), high)
        step *= 4
    return band


@compiled()
def _tangent(learner, updates, low, high):  # type: ignore[no-untyped-def]
    """Return where the concave hull of D leaves its chord from ``low``, and the chord's slope."""
    first, price, _ = _capacity(learner, updates, low)
    near = low * (1 + _DIFFERENCE)
    if near >= high or _capacity(learner, updates, near)[1] <= price * (1 + _ROUNDING):
        return low, price
    left, right = low, high
    for _ in range(_MOST_SEARCHES):
        if not right > left * (1 + _ROUNDING):
            break
        middle = math.sqrt(left * right)
        found, price, _ = _capacity(learner, updates, middle)
        if price * (middle - low) > found - first:
            left = middle
        else:
            right = middle
    return right, (_capacity(learner, updates, right)[0] - first) / (right - low)


@compiled()
def _band_at(learner, updates, price, guess, slope, left, right):  # type: ignore[no-untyped-def]
    """Return the band at which D' falls to ``price``, and the slope of ln(D') by ln(w) there.

    D' falls at once where energy begins to bind: also return from what and to what.
    """
    above = below = price
    band, last, gap = min(max(guess, left), right), 0.0, 0.0
    for i in range(_MOST_STEPS):
        before, gap = gap, math.log(_capacity(learner, updates, band)[1] / price)
        if gap >= 0:
            left, above = band, price * math.exp(gap)
        else:
            right, below = band, price * math.exp(gap)
        if i > 0 and gap != before:
            slope = min((gap - before) / math.log(band / last), -_LEAST_CURVATURE)
        last = band
        following = band * math.exp(min(max(-gap / slope, -2.0), 2.0))
        if abs(following - band) <= _SMALL_STEP * band:
            return band, slope, price, price
        if right <= left * (1 + _SMALL_STEP):
            break
        if i >= _FEW_STEPS or not left < following < right:
            following = math.sqrt(left * right)
        band = following
    return left, slope, above, below


@compiled()
def _share(learners, updates, low, high, band, shares):  # type: ignore[no-untyped-def]
    """Share the band so that ΣD_k(τ_k, w_k) is largest, guessing from ``shares``; return the sum.

    All D' are equal, or at a bound of theirs, where Newton's method on logarithms finds that the
    bands add up.
    """
    n = len(learners)
    room = 0.0
    if high.sum() <= band:
        stretch = band / high.sum()
        for k in range(n):
            shares[k] = high[k] * stretch
            room += min(_capacity(learners[k], updates[k], shares[k])[0], learners[k].samples)
        return room
    start, top, bottom = np.empty(n), np.empty(n), np.empty(n)
    slope, corner = np.full(n, -1.5), np.empty(n)
    above, below = np.zeros(n), np.zeros(n)
    wide, narrow = high.copy(), low.copy()
    z, left, right = 0.0, np.inf, -np.inf
    for k in range(n):
        shares[k] = min(max(shares[k], low[k]), high[k])
        start[k], top[k] = _tangent(learners[k], updates[k], low[k], high[k])
        bottom[k] = _capacity(learners[k], updates[k], high[k])[1]
        z += math.log(_capacity(learners[k], updates[k], shares[k])[1]) / n
        left, right = min(left, math.log(bottom[k])), max(right, math.log(top[k]))
    z = min(max(z, left), right)
    for _ in range(_MOST_SEARCHES):
        price, change = math.exp(z), 0.0
        for k in range(n):
            if price > top[k]:
                shares[k] = low[k]
            elif price <= bottom[k] or start[k] == high[k]:
                shares[k] = high[k]
            elif below[k] < price <= above[k]:
                shares[k] = corner[k]
            else:
                shares[k], slope[k], most, least = _band_at(
                    learners[k], updates[k], price, shares[k], slope[k], start[k], high[k]
                )
                if most > least:
                    corner[k], above[k], below[k] = shares[k], most, least
                else:
                    change += shares[k] / slope[k]
        total = shares.sum()
        if total <= band:
            right = z
            _copy(shares, narrow)
        else:
            left = z
            _copy(shares, wide)
        following = z
        if change < 0:
            following += math.log(band / total) * total / change
        if abs(total - band) <= _SMALL_STEP * band or right - left <= _SMALL_STEP:
            break
        z = following if left < following < right else (left + right) / 2
    # Beyond rounding, the two differ where one learner's D is not concave.
    spare = band - narrow.sum()
    for k in range(n):
        more = min(max(wide[k] - narrow[k], 0.0), spare)
        shares[k] = narrow[k] + more
        spare -= more
        room += min(_capacity(learners[k], updates[k], shares[k])[0], learners[k].samples)
    return room


@compiled()
def _members(learners, taking_part):  # type: ignore[no-untyped-def]
    """Return the places of those who take part, and what kernels need of them."""
    places = np.flatnonzero(taking_part)
    members = np.empty(len(places), learners.dtype)
    for j in range(len(places)):
        members[j] = learners[places[j]]
    return places, members


@compiled()
def _bounds(learners, updates, least, band, low, high):  # type: ignore[no-untyped-def]
    """Set the bands for d_l and for n_k samples from guesses; return the sum of the former."""
    for k in range(len(learners)):
        low[k] = _least_band(learners[k], updates[k], least, low[k], band)
        if learners[k].samples < np.inf:
            full = _least_band(learners[k], updates[k], learners[k].samples, high[k], band)
            high[k] = max(min(full, band), low[k])
    return low.sum()


@compiled()
def _fall(learners, updates, low, high, shares):  # type: ignore[no-untyped-def]
    """Return by how much ΣD falls with a common τ when the band is shared anew; 0 if unknown."""
    loss = price = free = 0.0
    for k in range(len(learners)):
        _, by_band, by_updates = _capacity(learners[k], updates[k], shares[k])
        # A learner at a bound takes more band for the same D.
        loss -= by_updates / by_band
        if low[k] < shares[k] < high[k]:
            price += by_band
            free += 1
    return loss * price / free if free else 0.0


@compiled()
def _price_of_one(learner, updates, samples, need, band):  # type: ignore[no-untyped-def]
    """Return the band that one sample more takes."""
    if samples + 1 > learner.samples:
        return np.inf
    return _least_band(learner, updates, samples + 1, need, band) - need


@compiled()
def _whole(learners, updates, goal, band, shares):  # type: ignore[no-untyped-def]
    """Return how many whole samples fit, up to ``goal``; change shares where that makes more fit.

    What whole samples leave of the shares goes to those that need the least band for one more.
    """
    n = len(learners)
    samples, need, price = np.empty(n), np.empty(n), np.empty(n)
    for k in range(n):
        room = _capacity(learners[k], updates[k], shares[k])[0] + _ROUNDING
        samples[k] = math.floor(min(room, learners[k].samples))
    held = samples.sum()
    if held >= goal:
        return goal
    for k in range(n):
        need[k] = min(_least_band(learners[k], updates[k], samples[k], shares[k], band), shares[k])
        price[k] = _price_of_one(learners[k], updates[k], samples[k], need[k], band)
    while held < goal:
        cheapest = price.argmin()
        if not price[cheapest] <= band - need.sum():
            break
        need[cheapest] += price[cheapest]
        samples[cheapest] += 1
        held += 1
        price[cheapest] = _price_of_one(
            learners[cheapest], updates[cheapest], samples[cheapest], need[cheapest], band
        )
    stretch = band / need.sum()
    for k in range(n):
        shares[k] = need[k] * stretch
    return held


@compiled()
def _fill_synchronous(  # type: ignore[no-untyped-def]
    learners, taking_part, bands, goals, least, most, held, updates, shares, start, stop
):
    for p in range(start, stop):
        places, members = _members(learners[p], taking_part[p])
        n, band = len(places), bands[p]
        if n == 0:
            continue
        best, tau = shares[p][places], np.empty(n)
        share, low, high = best.copy(), np.full(n, band / n), np.full(n, band)
        goal = float(goals[p])
        common, left, right = 1.0, 1.0, np.inf
        for _ in range(_MOST_STEPS):
            tau[:] = common
            following, enough, near = 0.0, False, False
            if _bounds(members, tau, least, band, low, high) <= band:
                room = _share(members, tau, low, high, band, share)
                if common == 1:
                    _copy(share, best)
                    goal = _whole(members, tau, goal, band, best)
                enough = room >= goal - _ROUNDING
                fall = _fall(members, tau, low, high, share)
                if fall > 0:
                    step = math.log(room / goal) * room / (common * fall)
                    near = abs(step) <= _NEAR
                    following = common * math.exp(min(max(step, -1.0), 1.0))
            if common > 1:
                if enough or near:
                    left = common
                    _copy(share, best)
                if not enough:
                    right = common
            if near or left == most or right <= left * (1 + _NEAR):
                break
            if not left < following < right:
                following = math.sqrt(left * right) if right < np.inf else 2 * left
            common = min(following, float(most))
        held[p] = np.int64(goal)
        updates[p] = left
        for j in range(n):
            shares[p, places[j]] = best[j]


@compiled()
def _fit(learners, updates, least, goal, band, low, high, shares):  # type: ignore[no-untyped-def]
    """Share the band for given updates; return whether the samples fit."""
    if _bounds(learners, updates, least, band, low, high) > band:
        return False
    room = _share(learners, updates, low, high, band, shares)
    return room >= goal - _ROUNDING and _whole(learners, updates, goal, band, shares) >= goal


@compiled()
def _fill_raised(  # type: ignore[no-untyped-def]
    learners, taking_part, bands, goals, least, most, cap, updates, shares, start, stop
):
    """Share bands anew for given updates, and raise these one by one while the samples fit."""
    for p in range(start, stop):
        places, members = _members(learners[p], taking_part[p])
        n, band, goal = len(places), bands[p], float(goals[p])
        if n == 0:
            continue
        best, low, high = shares[p][places], np.full(n, band / n), np.full(n, band)
        tau = np.maximum(updates[p][places], 1).astype(np.float64)
        share = best.copy()
        if _fit(members, tau, least, goal, band, low, high, share):
            _copy(share, best)
        loss = np.empty(n)
        raised = cap > 0
        while raised:
            raised = False
            for k in range(n):
                tau[k] += 1
                loss[k] = np.inf
                if tau[k] <= min(most, tau.min() + cap):
                    loss[k] = -_capacity(members[k], tau[k], best[k])[0]
                tau[k] -= 1
                loss[k] += _capacity(members[k], tau[k], best[k])[0]
            for _ in range(_TRIES):
                cheapest = loss.argmin()
                if raised or loss[cheapest] == np.inf:
                    break
                _copy(best, share)
                tau[cheapest] += 1
                raised = _fit(members, tau, least, goal, band, low, high, share)
                if raised:
                    _copy(share, best)
                else:
                    tau[cheapest] -= 1
                    loss[cheapest] = np.inf
        for j in range(n):
            shares[p, places[j]] = best[j]


@compiled()
def _bands_for(learners, samples, updates, band, found):  # type: ignore[no-untyped-def]
    """Set the least bands for tasks; return whether they add up to no more than the band."""
    total = 0.0
    for k in range(len(learners)):
        found[k] = _least_band(learners[k], updates, samples[k], found[k], band)
        total += found[k]
        if total > band:
            return False
    return True


@compiled()
def _raise(need, base, top, band, level):  # type: ignore[no-untyped-def]
    """Raise learners from ``base`` to at most ``top`` updates, the cheapest first; return the sum.

    That is exact where the band rises faster and faster with the updates.
    """
    level[:] = base
    spare = band - need[:, base].sum()
    while True:
        cheapest, price = -1, np.inf
        for k in range(len(level)):
            if level[k] < top:
                more = need[k, level[k] + 1] - need[k, level[k]]
                if more < price:
                    cheapest, price = k, more
        if not price <= spare:
            return level.sum()
        level[cheapest] += 1
        spare -= price


@compiled()
def _fill_equal_tasks(  # type: ignore[no-untyped-def]
    learners, taking_part, bands, goals, least, most, cap, samples, updates, shares, start, stop
):
    for p in range(start, stop):
        places, members = _members(learners[p], taking_part[p])
        n, band = len(places), bands[p]
        if n == 0:
            continue
        found, task = shares[p][places], np.empty(n)
        share, rest = goals[p] // n, goals[p] % n
        room = np.floor(members["samples"])
        for j in range(n):
            task[j] = min(share + (1 if j < rest else 0), room[j])
        if not _bands_for(members, task, 1.0, band, found):
            low, high = least, share + 1
            while high - low > 1:
                middle = (low + high) // 2
                task = np.minimum(float(middle), room)
                if _bands_for(members, task, 1.0, band, found):
                    low = middle
                else:
                    high = middle
            task = np.minimum(float(low), room)
        common, high = 1, most + 1
        while high - common > 1:
            middle = min(2 * common, (common + high) // 2)
            if _bands_for(members, task, float(middle), band, found):
                common = middle
            else:
                high = middle
        # Windows that begin lower give less than that.
        first, last = min(common, max(1, common - cap + 1)), min(common + cap, most)
        need = np.empty((n, last - first + 1))
        for j in range(n):
            guess = band / n
            for i in range(last - first + 1):
                need[j, i] = np.inf
                if guess < np.inf:
                    guess = _least_band(members[j], float(first + i), task[j], guess, band)
                    need[j, i] = guess
        level, best, total = np.empty(n, np.int64), np.zeros(n, np.int64), -1
        for base in range(common, first - 1, -1):
            reached = _raise(need, base - first, min(base + cap, last) - first, band, level)
            if reached > total:
                total = reached
                _copy(level, best)
        held = 0.0
        for j in range(n):
            held += need[j, best[j]]
        for j in range(n):
            samples[p, places[j]] = np.int64(task[j])
            updates[p, places[j]] = first + best[j]
            shares[p, places[j]] = need[j, best[j]] * (band / held)


@compiled()
def _fill_capacities(learners, updates, bands, samples):  # type: ignore[no-untyped-def]
    for k in range(len(learners)):
        found = _capacity(learners[k], updates[k], bands[k])[0]
        samples[k] = min(found, learners[k].samples)


@compiled()
def _fill_taking_part(learners, bands, least, taking_part):  # type: ignore[no-untyped-def]
    for p in range(len(learners)):
        for k in range(learners.shape[1]):
            learner = learners[p, k]
            taking_part[p, k] = (
                learner.samples >= least and _capacity(learner, 1.0, bands[p])[0] >= least
            )


@compiled()
def _fill_tables(learners, taking_part, bands, tables, start, stop):  # type: ignore[no-untyped-def]
    for p in range(start, stop):
        for k in range(learners.shape[1]):
            learner, table = learners[p, k], tables[p, k]
            room = min(learner.samples, float(LARGEST)) if taking_part[p, k] else 0.0
            for i in range(len(table)):
                if room >= 1:
                    found = _capacity(learner, i + 1.0, bands[p, k])[0]
                    # D falls in τ, if not always in floating point.
                    room = min(room, found + _ROUNDING)
                table[i] = np.int64(room)


@compiled()
def _saving(learner, cycles, left, band, x):  # type: ignore[no-untyped-def]
    """Return the logarithm of the joules that a slower clock saves per joule of a faster upload.

    Also return by how much it falls with ln(x).
    """
    upload = learner.nats / (x * band)
    slope = _slope(x)
    clock = cycles / (left - upload)
    ratio = 2 * learner.capacitance * learner.gain * clock**3 / (band * slope)
    return math.log(ratio), 3 * upload / (left - upload) + x * x * math.exp(x) / slope


@compiled()
def _fill_least_energy(learners, samples, updates, bands, power, clock):  # type: ignore[no-untyped-def]
    for k in range(len(learners)):
        learner, band = learners[k], bands[k]
        cycles = learner.cycles * samples[k] * updates[k]
        left = learner.cycle_s - (learner.model + learner.sample * samples[k]) / band
        power[k], clock[k] = learner.power, learner.cpu
        low = high = math.log1p(learner.power * learner.gain / band)
        spare = left - cycles / learner.cpu
        if spare > 0:
            low = learner.nats / (spare * band)
        if cycles == 0 or low >= high:
            continue
        if _saving(learner, cycles, left, band, low)[0] <= 0:
            high = low
        elif _saving(learner, cycles, left, band, high)[0] >= 0:
            low = high
        x = high
        while low < high:
            saving, fall = _saving(learner, cycles, left, band, x)
            if saving > 0:
                low = x
            else:
                high = x
            following = x * math.exp(min(max(saving / fall, -1.0), 1.0))
            if abs(following - x) <= 1e-13 * x or high - low <= 1e-15 * high:
                break
            x = following if low < following < high else math.sqrt(low * high)
        power[k] = min(math.expm1(x) * band / learner.gain, learner.power)
        clock[k] = min(cycles / (left - learner.nats / (x * band)), learner.cpu)
