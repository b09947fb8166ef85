"""Joint batchsize selection and time-slot allocation of federated edge learning, solved exactly.

Arrays in, arrays out, any number of instances at once: the last axis holds the K devices, leading
axes hold instances, arguments broadcast. Slots are shares of their frame T_f, so that the length
of the frames cancels.

With V_k = 1/slope, o_k from ``compute.gpu_offset`` (0 for CPUs), a_k = s/R_k and x = ΔL·E^U the
first sub-period in seconds, Theorem 1 reads B_k = V_k·(x - o_k) + q·√(a_k·V_k) with q < 0, clipped,
and τ_k = a_k/(x - t_k(B_k)). Given x, either of its conditions is linear up to clipping and solved
in closed form: fixing one clipped device at least per pass ends after K passes (Bitran and Hax,
1981). What is left is one search for x:

* For a given B, q follows from ΣB_k = B. The batches then minimise T(x) = Στ_k, and 1/T is concave,
  rises and is linear without clipping. Newton's method for 1/T = 1 starts at Corollary 1's bound
  or a better one and never overshoots.
* For the best B, slots clip(-√(a_k·V_k)/q, α_k, β_k), with α_k and β_k those of the smallest and
  of the largest batch, and Στ_k = 1 give q and the largest B(x), concave with the slope
  q²·Στ_k²/a_k. √B(x)/(x + T_D) is quasiconcave with its maximum where x + T_D = 2·B/B'. Newton's
  method on that, kept between bounds, gives way to bisection where it leaves them or does not
  halve its steps.

Where the document and the numerical optimum disagree, the optimum is what this module returns:

* (22) with [·]⁺ gives τ_k = 0 where the batch alone takes longer than x; here τ_k is infinite.
* With clipped devices μ of (22) is no multiplier any more, but the formula stays optimal.
* (24) holds with [ΔL·V_k·E - B_max]⁺ in its lower bound.
* Lemma 2 holds at the best B. A GPU's B below the sum of the thresholds is met below them, where
  batches cost nothing.
* Remarks 2 and 3 compare devices of one optimum: of two CPUs, the one that is at least as fast and
  has at least the rate of the other gets at least its batch, and the slot falls with the rate. They
  say nothing of a change of one device: a faster uplink may lower its own batch at the same B.
* Remark 3's "when the local training speed decreases, the device should occupy more time-slot"
  holds between devices whose batches are clipped at the same bound. Unclipped it is the other way
  round, τ_k ∝ √(ρ_k/R_k).

Microseconds of one instance by ``benchmarks/batch_slot.py``, by the number of instances at once
(one core that others used too; CPUs, some devices clipped in most instances). SLSQP has exact
derivatives and starts again up to twice where it fails; cvxpy (Clarabel) solves for a given B and
stops up to 7e-4 above the optimum:

============  =====  ====  ====  ====  =========  =====
K, B          1      16    256   4096  SLSQP      cvxpy
============  =====  ====  ====  ====  =========  =====
6, given      678    77    9.8   9.3   19,300     6,710
6, best       1,310  170   40    23    26,700     none
12, given     798    77    28    18    67,500     7,200
12, best      1,440  630   72    35    1,690,000  none
============  =====  ====  ====  ====  =========  =====
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_gym.physics.compute import cpu_latency, gpu_latency, gpu_offset, gpu_update_latency
from edge_gym.physics.wireless import Float64Array, _checked

_ROUNDING = 8 * float(np.finfo(np.float64).eps)
_SMALL_STEP = 1e-9
"""Relative Newton step after which the next one is less than rounding."""


@dataclass(frozen=True, eq=False)
class RoundCosts:
    """What one round costs K devices in seconds; see ``cpu_costs`` and ``gpu_costs``.

    All fields are broadcast to one shape ``(..., K)`` of float64.

    Attributes:
        slope_s: Seconds of every further sample: C/f_k, or c_k of a GPU; 1/V_k.
        upload_s: Seconds of an upload that has the whole frame, a_k = s/R_k^U.
        download_s: Seconds of a download that has the whole frame, s/R_k^D.
        update_s: Seconds of the model update, t_k^M.
        max_batch: Largest batch, B^max ≥ 1.
        base_latency_s: Latency t_k^ℓ of a GPU's batch that fits; 0 for a CPU.
        threshold: Samples B_k^th that fit a GPU; 0 for a CPU.

    Raises:
        ValueError: If a value is out of range or not finite, or shapes do not fit.

    Source: FEEL eqs. (9)-(12), (27), (28).
    """

    slope_s: Float64Array
    upload_s: Float64Array
    download_s: Float64Array
    update_s: Float64Array
    max_batch: Float64Array
    base_latency_s: Float64Array
    threshold: Float64Array

    def __post_init__(self) -> None:
        positive = ("slope_s", "upload_s", "download_s")
        arrays = {}
        for field in fields(self):
            name = field.name
            array = _checked(name, getattr(self, name), positive=name in positive)
            if not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)].flat[0]}")
            arrays[name] = array
        small = arrays["max_batch"] < 1
        if small.any():
            raise ValueError(
                f"max_batch must be at least 1, got {arrays['max_batch'][small].flat[0]}"
            )
        shape = np.broadcast_shapes(*(array.shape for array in arrays.values()))
        if not shape or not shape[-1]:
            raise ValueError(f"slope_s must have an axis of devices, got the shape {shape}")
        for name, array in arrays.items():
            object.__setattr__(self, name, np.broadcast_to(array, shape))


class Allocation(NamedTuple):
    """Batches and time slots of one round.

    Attributes:
        batch: Batches B_k, ``(..., K)``.
        uplink_slot: Shares τ_k^U/T_f^U of the uplink frame, ``(..., K)``.
        downlink_slot: Shares τ_k^D/T_f^D of the downlink frame, ``(..., K)``.
    """

    batch: Float64Array
    uplink_slot: Float64Array
    downlink_slot: Float64Array

    @property
    def global_batch(self) -> Float64Array:
        """The global batchsize B, ``(...)``."""
        return np.asarray(self.batch.sum(axis=-1))


class Latency(NamedTuple):
    """How long one round takes.

    Attributes:
        gradient_s: When each device's gradient has arrived, t_k^L + t_k^U, ``(..., K)``.
        update_s: Seconds of each device's download and update, t_k^D + t_k^M, ``(..., K)``.
        round_s: Seconds of the round, ``(...)``: the sum of the largest of each.
    """

    gradient_s: Float64Array
    update_s: Float64Array
    round_s: Float64Array


class _Terms(NamedTuple):
    """An instance's terms, devices first: ``(K, m)``."""

    speed: Float64Array
    offset: Float64Array
    upload: Float64Array
    weight: Float64Array
    low: Float64Array
    high: Float64Array
    low_s: Float64Array
    high_s: Float64Array

    def at(self, rows: NDArray[np.intp] | slice) -> _Terms:
        return _Terms(*(term[:, rows] for term in self))


class _Largest(NamedTuple):
    """The largest global batchsize within x seconds, ``(m,)``, and its batches, ``(K, m)``."""

    batch: Float64Array
    total: Float64Array
    slope: Float64Array
    curvature: Float64Array


_LargestIn = Callable[[_Terms, Float64Array], _Largest]


def cpu_costs(
    frequency_hz: ArrayLike,
    cycles_per_sample: ArrayLike,
    update_cycles: ArrayLike,
    gradient_bits: ArrayLike,
    uplink_rate: ArrayLike,
    downlink_rate: ArrayLike,
    max_batch: ArrayLike = 128.0,
) -> RoundCosts:
    """Return the costs of a round on CPUs; arguments broadcast to ``(..., K)``.

    Args:
        frequency_hz: Clock frequencies f_k in Hz.
        cycles_per_sample: Cycles C of one sample's gradient.
        update_cycles: Cycles M^C of a model update.
        gradient_bits: Bits s of a gradient.
        uplink_rate: Rates R_k^U in bit/s, eq. (5).
        downlink_rate: Rates R_k^D in bit/s, eq. (6).
        max_batch: Largest batch, B^max.

    Raises:
        ValueError: If a value is out of range.

    Source: FEEL eqs. (9)-(12).
    """
    bits = _checked("gradient_bits", gradient_bits, positive=True)
    return RoundCosts(
        slope_s=cpu_latency(
            _checked("cycles_per_sample", cycles_per_sample, positive=True), frequency_hz
        ),
        upload_s=bits / _checked("uplink_rate", uplink_rate, positive=True),
        download_s=bits / _checked("downlink_rate", downlink_rate, positive=True),
        update_s=cpu_latency(update_cycles, frequency_hz),
        max_batch=np.asarray(max_batch),
        base_latency_s=np.zeros(()),
        threshold=np.zeros(()),
    )


def gpu_costs(
    base_latency_s: ArrayLike,
    slope_s: ArrayLike,
    threshold: ArrayLike,
    update_flops: ArrayLike,
    flops_per_second: ArrayLike,
    gradient_bits: ArrayLike,
    uplink_rate: ArrayLike,
    downlink_rate: ArrayLike,
    max_batch: ArrayLike = 128.0,
) -> RoundCosts:
    """Return the costs of a round on GPUs; arguments broadcast to ``(..., K)``.

    Args:
        base_latency_s: Latencies t_k^ℓ in seconds of a batch that fits.
        slope_s: Seconds c_k > 0 of every further sample.
        threshold: Samples B_k^th that fit.
        update_flops: Operations M^G of a model update.
        flops_per_second: Speeds f_k^G.
        gradient_bits: Bits s of a gradient.
        uplink_rate: Rates R_k^U in bit/s, eq. (5).
        downlink_rate: Rates R_k^D in bit/s, eq. (6).
        max_batch: Largest batch, B^max.

    Raises:
        ValueError: If a value is out of range.

    Source: FEEL eqs. (10), (11), (27), (28).
    """
    bits = _checked("gradient_bits", gradient_bits, positive=True)
    return RoundCosts(
        slope_s=np.asarray(slope_s),
        upload_s=bits / _checked("uplink_rate", uplink_rate, positive=True),
        download_s=bits / _checked("downlink_rate", downlink_rate, positive=True),
        update_s=gpu_update_latency(update_flops, flops_per_second),
        max_batch=np.asarray(max_batch),
        base_latency_s=np.asarray(base_latency_s),
        threshold=np.asarray(threshold),
    )


def latency(costs: RoundCosts, allocation: Allocation) -> Latency:
    """Return how long a round takes with any allocation.

    Nothing is sent in a slot of zero, which takes forever. Whether slots sum to at most one is not
    checked.

    Raises:
        ValueError: If a batch or a slot is negative.

    Source: FEEL eqs. (13)-(15) and (29).
    """
    batch = _checked("batch", allocation.batch)
    uplink = _checked("uplink_slot", allocation.uplink_slot)
    downlink = _checked("downlink_slot", allocation.downlink_slot)
    compute = gpu_latency(batch, costs.base_latency_s, costs.slope_s, costs.threshold)
    with np.errstate(divide="ignore"):
        gradient = compute + costs.upload_s / uplink
        update = costs.update_s + costs.download_s / downlink
    return Latency(gradient, update, np.asarray(gradient.max(axis=-1) + update.max(axis=-1)))


def learning_efficiency(
    global_batch: ArrayLike, latency_s: ArrayLike, loss_scale: ArrayLike = 1.0
) -> Float64Array:
    """Return the learning efficiency E = ξ·√B/T, the loss decay per second.

    Args:
        global_batch: Global batchsizes B.
        latency_s: Latencies T of the round in seconds.
        loss_scale: The network's coefficient ξ, which scales E and changes no decision.

    Raises:
        ValueError: If ``global_batch`` or ``loss_scale`` is negative or ``latency_s`` not positive.

    Source: FEEL eqs. (8), (16).
    """
    decay = _checked("loss_scale", loss_scale) * np.sqrt(_checked("global_batch", global_batch))
    return np.asarray(decay / _checked("latency_s", latency_s, positive=True))


def optimal_allocation(
    costs: RoundCosts, global_batch: ArrayLike | None = None, *, whole: bool = False
) -> Allocation:
    """Return the batches and slots of the shortest round, or of the highest learning efficiency.

    Args:
        costs: Costs of the round, ``(..., K)``.
        global_batch: Global batchsize B in [K, ΣB^max], ``(...)``; ``None`` finds the one of the
            highest learning efficiency too.
        whole: Whether to round batches (``round_batches``) and to optimise the slots once more.

    Returns:
        The allocation; batches lie in [1, B^max] and sum to B, slots of each frame sum to one.
        Where GPUs need not use their thresholds, B_k - 1 is the same share of what costs nothing.

    Raises:
        ValueError: If ``global_batch`` is out of range, or ``whole`` asks for what
            ``round_batches`` refuses.

    Source: FEEL Theorems 1 and 2, eqs. (17), (22), (26), (30); [·]⁺ in (22) corrected.
    """
    terms = _terms(costs)
    if global_batch is None:
        rest = _common_finish(_first(costs.update_s), _first(costs.download_s))
        batch = _best_optimal(terms, rest)
    else:
        batch = _fastest_optimal(terms, _total(costs, global_batch))
    return optimal_slots(costs, _last(costs, batch, whole))


def optimal_slots(costs: RoundCosts, batch: ArrayLike) -> Allocation:
    """Return the slots that let all devices finish together with given batches, in both frames.

    Args:
        costs: Costs of the round, ``(..., K)``.
        batch: Batches B_k, at least 0, ``(..., K)``.

    Raises:
        ValueError: If ``batch`` is negative or has a shape that does not fit.

    Source: FEEL eqs. (22), (26).
    """
    shape = costs.slope_s.shape
    batch = _broadcast("batch", batch, shape)
    compute = gpu_latency(batch, costs.base_latency_s, costs.slope_s, costs.threshold)
    uplink = _slots(_first(compute), _first(costs.upload_s))
    downlink = _slots(_first(costs.update_s), _first(costs.download_s))
    return Allocation(batch, uplink.T.reshape(shape), downlink.T.reshape(shape))


def equal_slots(
    costs: RoundCosts, global_batch: ArrayLike | None = None, *, whole: bool = False
) -> Allocation:
    """Return the best batches when all devices have the same slots, 1/K of each frame.

    Devices whose batch is not clipped finish together. Arguments and errors are those of
    ``optimal_allocation``.
    """
    terms = _terms(costs)
    if global_batch is None:
        batch = _best_of_equal_slots(terms, _equal_rest(costs))
    else:
        batch = _fastest_of_equal_slots(terms, _total(costs, global_batch))
    return _with_equal_slots(costs, _last(costs, batch, whole))


def equal_allocation(
    costs: RoundCosts, global_batch: ArrayLike | None = None, *, whole: bool = False
) -> Allocation:
    """Return equal batches B/K and equal slots, 1/K of each frame.

    Args:
        costs: Costs of the round, ``(..., K)``.
        global_batch: Global batchsize B in [K, K·min B^max], ``(...)``; ``None`` finds the one of
            the highest learning efficiency.
        whole: Whether to round batches (``round_batches``): they then differ by one at most.

    Raises:
        ValueError: If ``global_batch`` is out of range, or ``whole`` asks for what
            ``round_batches`` refuses.

    Source: FEEL eq. (42).
    """
    n_devices = costs.slope_s.shape[-1]
    if global_batch is None:
        batch = _best_equal(_terms(costs, equal=True), _equal_rest(costs))
    else:
        most = n_devices * costs.max_batch.min(axis=-1).reshape(-1)
        share = _total(costs, global_batch, most) / n_devices
        batch = np.broadcast_to(share, (n_devices, len(share)))
    return _with_equal_slots(costs, _last(costs, batch, whole))


def round_batches(batch: ArrayLike, max_batch: ArrayLike) -> Float64Array:
    """Return whole batches in [1, B^max] whose sum is the sum of the batches, rounded.

    All are rounded down, and those with the largest remainders get one more, the first of equals
    first: no batch moves by one or more.

    Args:
        batch: Batches in [1, B^max], ``(..., K)``.
        max_batch: Largest batches B^max, whole numbers that broadcast to ``(..., K)``.

    Raises:
        ValueError: If ``max_batch`` is not whole or a batch lies outside of its range.
    """
    batch = _checked("batch", batch)
    high = np.broadcast_to(_checked("max_batch", max_batch), batch.shape)
    if (high != np.floor(high)).any():
        raise ValueError(f"max_batch must be whole, got {high[high != np.floor(high)].flat[0]}")
    outside = (batch < 1) | (batch > high)
    if outside.any():
        raise ValueError(f"batch must be in [1, max_batch], got {batch[outside].flat[0]}")
    down = np.floor(batch)
    missing = np.rint(batch.sum(axis=-1)) - down.sum(axis=-1)
    order = np.argsort(down - batch, axis=-1, kind="stable")
    rank = np.argsort(order, axis=-1, kind="stable")
    return np.asarray(down + (rank < missing[..., None]))


def _sum(array: Float64Array) -> Float64Array:
    """Return the sum over devices, ``(m,)``, in the same order for any number of instances."""
    return np.asarray(np.add.accumulate(array, axis=0)[-1])


def _first(array: Float64Array) -> Float64Array:
    """Return ``(..., K)`` as ``(K, m)``: sums over devices then add long rows."""
    return np.ascontiguousarray(array.reshape(-1, array.shape[-1]).T)


def _broadcast(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Float64Array:
    array = _checked(name, value)
    try:
        return np.asarray(np.broadcast_to(array, shape))
    except ValueError:
        raise ValueError(f"{name} must have the shape {shape}, got {array.shape}") from None


def _terms(costs: RoundCosts, *, equal: bool = False) -> _Terms:
    """Return the terms; ``equal`` batches have the same bounds on all devices."""
    gpu = [_first(array) for array in (costs.base_latency_s, costs.slope_s, costs.threshold)]
    high = _first(costs.max_batch)
    if equal:
        high = np.broadcast_to(high.min(axis=0), high.shape)
        low = np.ones_like(high)
    else:
        low = np.minimum(np.maximum(gpu[2], 1.0), high)
    speed, upload = 1 / gpu[1], _first(costs.upload_s)
    return _Terms(
        speed=speed,
        offset=gpu_offset(*gpu),
        upload=upload,
        weight=np.sqrt(speed * upload),
        low=low,
        high=high,
        low_s=gpu_latency(low, *gpu),
        high_s=gpu_latency(high, *gpu),
    )


def _total(
    costs: RoundCosts, global_batch: ArrayLike, most: Float64Array | None = None
) -> Float64Array:
    """Return the global batchsizes as ``(m,)``, checked against K and ``most``, ``(m,)``."""
    *shape, n_devices = costs.slope_s.shape
    total = _broadcast("global_batch", global_batch, tuple(shape)).reshape(-1)
    if most is None:
        most = costs.max_batch.sum(axis=-1).reshape(-1)
    outside = (total < n_devices) | (total > most)
    if outside.any():
        value, limit = total[outside][0], most[outside][0]
        raise ValueError(f"global_batch must be in [{n_devices}, {limit:g}], got {value}")
    return total


def _last(costs: RoundCosts, batch: Float64Array, whole: bool) -> Float64Array:
    batch = batch.T.reshape(costs.slope_s.shape)
    return round_batches(batch, costs.max_batch) if whole else batch


def _equal_rest(costs: RoundCosts) -> Float64Array:
    n_devices = costs.slope_s.shape[-1]
    return np.asarray((costs.update_s + n_devices * costs.download_s).max(axis=-1).reshape(-1))


def _with_equal_slots(costs: RoundCosts, batch: Float64Array) -> Allocation:
    slots = np.full(batch.shape, 1 / batch.shape[-1])
    return Allocation(batch, slots, slots.copy())


def _common_finish(ready: Float64Array, needs: Float64Array) -> Float64Array:
    """Return the x of Σ needs/(x - ready) = 1, ``(m,)``.

    ``wireless.common_finish`` solves the same to 1e-12. Newton's method on the reciprocal of the
    sum, concave in x and nearly linear, takes fewer passes and reaches rounding.
    """
    total = _sum(needs)
    x = np.maximum((ready + needs).max(axis=0), total + _sum(needs * ready) / total)
    going = np.ones(x.shape, np.bool_)
    while True:
        step = _step_to_full_frame(x, ready, needs)
        # Each stops by itself, so that results do not depend on what stands beside them.
        x = np.asarray(np.where(going, x + np.maximum(step, 0.0), x))
        going &= step > _SMALL_STEP * x
        if not going.any():
            return x


def _share_of_frame(x: Float64Array, ready: Float64Array, needs: Float64Array) -> Float64Array:
    # Less than rounding is left of x only where next to nothing is sent.
    return np.asarray(needs / np.maximum(x - ready, _ROUNDING * x))


def _step_to_full_frame(x: Float64Array, ready: Float64Array, needs: Float64Array) -> Float64Array:
    """Return the step of Newton's method on the reciprocal of Σ needs/(x - ready)."""
    share = _share_of_frame(x, ready, needs)
    load = _sum(share)
    return np.asarray(load * (load - 1) / _sum(share * share / needs))


def _slots(ready: Float64Array, needs: Float64Array) -> Float64Array:
    share = _share_of_frame(_common_finish(ready, needs), ready, needs)
    return np.asarray(share / _sum(share))


class _Clipped(NamedTuple):
    """Values that sum to a total, the z they have, and the weights of those not clipped."""

    value: Float64Array
    scale: Float64Array
    free: Float64Array
    free_sum: Float64Array


def _clip_to_total(
    base: Float64Array,
    weight: Float64Array,
    low: Float64Array,
    high: Float64Array,
    total: Float64Array,
) -> _Clipped:
    """Return clip(base + weight·z, low, high), ``(K, m)``, with the z of their sum, ``(m,)``.

    Source: Bitran and Hax, "Disaggregation and resource allocation using convex knapsack problems
    with bounded variables" (1981).
    """
    free, free_sum = weight, _sum(weight)
    scale = (total - _sum(base)) / free_sum
    while True:
        value = base + free * scale
        below, above = np.maximum(low - value, 0.0), np.maximum(value - high, 0.0)
        # Raising more than is lowered takes from the others: z can only fall, and what is at its
        # lower bound stays there.
        falls = _sum(below) >= _sum(above)
        clipped = np.where(falls, below, above) > 0
        if not clipped.any():
            return _Clipped(value, scale, free, free_sum)
        base = np.where(clipped, np.where(falls, low, high), base)
        free = np.where(clipped, 0.0, free)
        free_sum = _sum(free)
        np.divide(total - _sum(base), free_sum, out=scale, where=free_sum > 0)


def _fastest_optimal(terms: _Terms, total: Float64Array) -> Float64Array:
    """Return the batches of Theorem 1, ``(K, m)``, which sum to ``total``, ``(m,)``."""
    # Below the sum of GPUs' thresholds nothing is gained by taking less.
    used = np.maximum(total, _sum(terms.low))
    linear, speed = terms.speed * terms.offset, _sum(terms.speed)
    unclipped = (used + _sum(linear) + _sum(terms.weight) ** 2) / speed
    # Computing alone takes until this x, where 1/T is zero.
    computed = _clip_to_total(-linear, terms.speed, terms.low, terms.high, used)
    lower = np.maximum(terms.offset + computed.value / terms.speed, terms.low_s).max(axis=0)
    x = np.maximum((terms.low_s + terms.upload).max(axis=0), np.maximum(unclipped, lower))
    # Its tangent there bounds x, unless some device needs longer for its smallest batch.
    weight = _sum(np.where(computed.free > 0, terms.weight, 0.0))
    valid = (computed.free_sum > 0) & (computed.scale >= terms.low_s.max(axis=0))
    tangent = np.divide(weight**2, computed.free_sum, out=np.zeros_like(weight), where=valid)
    x = np.where(valid, np.maximum(x, computed.scale + tangent), x)
    rows, at = np.arange(len(x)), terms
    batch = np.empty_like(terms.speed)
    last = np.full_like(x, np.inf)
    while rows.size:
        here = x[rows]
        base = at.speed * (here - at.offset)
        found = _clip_to_total(base, at.weight, at.low, at.high, used[rows])
        batch[:, rows] = found.value
        ready = np.maximum(at.offset + found.value / at.speed, at.low_s)
        step = _step_to_full_frame(here, ready, at.upload)
        lower[rows] = np.where(step > 0, here, lower[rows])
        # Beyond the root, where only rounding may lead, a step goes back below it.
        following = here + step
        x[rows] = np.where(
            (step > 0) | (following > lower[rows]), following, (lower[rows] + here) / 2
        )
        # After a small step the batches at hand are exact.
        going_on = (last[rows] > _SMALL_STEP * here) & (np.abs(step) > _ROUNDING * here)
        last[rows] = np.abs(x[rows] - here)
        if not going_on.all():
            rows = rows[going_on]
            at = terms.at(rows)
    return _summing_to(terms, batch, used, total)


def _summing_to(
    terms: _Terms, batch: Float64Array, used: Float64Array, total: Float64Array
) -> Float64Array:
    """Return batches whose sum is ``total`` to rounding; they sum to ``used`` ≥ ``total`` so far.

    All B_k - 1 shrink by the same factor.
    """
    # Where uploads take much longer than computing, batches are small differences of V·x.
    batch = _clip_to_total(batch, terms.speed, terms.low, terms.high, used).value
    spare = used - len(batch)
    factor = np.divide(total - len(batch), spare, out=np.ones_like(spare), where=used > total)
    return np.asarray(np.where(used > total, 1 + (batch - 1) * factor, batch))


def _fastest_of_equal_slots(terms: _Terms, total: Float64Array) -> Float64Array:
    """Return batches that sum to ``total`` and finish together where they can, ``(K, m)``."""
    offset = terms.offset + len(terms.speed) * terms.upload
    used = np.maximum(total, _sum(terms.low))
    found = _clip_to_total(-terms.speed * offset, terms.speed, terms.low, terms.high, used)
    return _summing_to(terms, found.value, used, total)


def _best_optimal(terms: _Terms, rest: Float64Array) -> Float64Array:
    fixed = _sum(terms.speed * terms.offset) + _sum(terms.weight) ** 2
    # The best x if no batch were clipped.
    start = rest + 2 * fixed / _sum(terms.speed)
    least = _common_finish(terms.low_s, terms.upload)
    most = _common_finish(terms.high_s, terms.upload)
    return _best(_largest_optimal, terms, least, most, start, rest)


def _best_of_equal_slots(terms: _Terms, rest: Float64Array) -> Float64Array:
    wait = len(terms.speed) * terms.upload
    least, most = (terms.low_s + wait).max(axis=0), (terms.high_s + wait).max(axis=0)
    return _best(_largest_of_equal_slots, terms, least, most, least, rest)


def _best_equal(terms: _Terms, rest: Float64Array) -> Float64Array:
    wait = len(terms.speed) * terms.upload
    least, most = (terms.low_s + wait).max(axis=0), (terms.high_s + wait).max(axis=0)
    return _best(_largest_equal, terms, least, most, least, rest)


def _largest_optimal(terms: _Terms, x: Float64Array) -> _Largest:
    """Return the largest B with optimal slots; a kink's slope is that right of it, or left of all.

    Slots are √(a·V)·z, clipped.
    """
    room = x - terms.high_s
    low = _share_of_frame(x, terms.low_s, terms.upload)
    high = np.divide(terms.upload, room, out=np.full_like(room, np.inf), where=room > 0)
    found = _clip_to_total(np.zeros_like(room), terms.weight, low, high, np.ones_like(x))
    share, scale, free, free_sum = found
    if not free_sum.all():
        # All are clipped, for any z between two bounds; the upper one gives the slope on the right.
        ratio = share / terms.weight
        is_low = (share <= low) & (low < high)
        upper = np.where(is_low, ratio, np.inf).min(axis=0)
        upper = np.where(np.isinf(upper), ratio.max(axis=0), upper)
        scale = np.where(free_sum == 0, upper, scale)
    inverse = share / terms.upload
    batch = np.clip(terms.speed * (x - terms.offset - 1 / inverse), terms.low, terms.high)
    rate = share * inverse
    slope = _sum(rate) / scale**2
    rate = np.where(free > 0, 0.0, rate)
    change = np.divide(_sum(rate), free_sum, out=np.zeros_like(free_sum), where=free_sum > 0)
    curvature = -2 * (change**2 * free_sum / scale + _sum(rate * inverse)) / scale**2
    return _Largest(batch, _sum(batch), slope, curvature)


def _largest_of_equal_slots(terms: _Terms, x: Float64Array) -> _Largest:
    wait = len(terms.speed) * terms.upload
    room = terms.speed * (x - terms.offset - wait)
    batch = np.clip(room, terms.low, terms.high)
    # Where sending takes much longer than computing, ``room`` is the small difference of large
    # numbers and may lie beyond all bounds; the seconds at which batches are largest are exact.
    rising = (room <= terms.high * (1 + _SMALL_STEP)) | (x <= terms.high_s + wait)
    slope = _sum(np.where(rising, terms.speed, 0.0))
    return _Largest(batch, _sum(batch), slope, np.zeros_like(slope))


def _largest_equal(terms: _Terms, x: Float64Array) -> _Largest:
    n_devices = len(terms.speed)
    room = terms.speed * (x - terms.offset - n_devices * terms.upload)
    slowest = room.argmin(axis=0)[None]
    share = np.clip(np.take_along_axis(room, slowest, axis=0), terms.low[:1], terms.high[:1])
    slope = n_devices * np.take_along_axis(terms.speed, slowest, axis=0)[0]
    batch = np.broadcast_to(share, room.shape)
    return _Largest(batch, n_devices * share[0], slope, np.zeros_like(slope))


def _best(
    largest: _LargestIn,
    terms: _Terms,
    least: Float64Array,
    most: Float64Array,
    start: Float64Array,
    rest: Float64Array,
) -> Float64Array:
    """Return the batches, ``(K, m)``, of the x with the largest √B(x)/(x + rest)."""
    most = np.maximum(least, most)
    # Both ends lie inside of the bounds until they were looked at.
    left, right = np.nextafter(least, -math.inf), np.nextafter(most, math.inf)
    searched = most - least > _ROUNDING * most
    x = np.clip(start, least, most)
    last = np.full_like(x, math.inf)
    rows = np.flatnonzero(searched)
    at = terms.at(rows)
    while rows.size:
        here, low, high = x[rows], least[rows], most[rows]
        found = largest(at, here)
        ratio = 2 * found.total / found.slope
        above = here + rest[rows] - ratio
        left[rows] = np.where(above > 0, here, left[rows])
        right[rows] = np.where(above > 0, right[rows], here)
        step = above / (1 - ratio * found.curvature / found.slope)
        newton = np.clip(here + step, low, high)
        ends = ((here == low) & (above <= 0)) | ((here == high) & (above >= 0))
        near = np.abs(step) <= np.maximum(_SMALL_STEP * (here - low), _ROUNDING * here)
        inside = (newton > left[rows]) & (newton < right[rows])
        trusted = inside & (np.abs(newton - here) <= last[rows] / 2)
        following = np.where(trusted, newton, (left[rows] + right[rows]) / 2)
        following = np.where(ends, here, np.where(near, newton, following))
        last[rows] = np.abs(following - here)
        x[rows] = following
        going_on = ~(near | ends) & (right[rows] - left[rows] > _ROUNDING * here)
        if not going_on.all():
            rows = rows[going_on]
            at = terms.at(rows)
    found = largest(terms, x)
    # Where more samples take no time, or less than rounding is of x, as many as possible are best.
    most_is_better = _sum(terms.high) * (x + rest) ** 2 > found.total * (most + rest) ** 2
    return np.asarray(np.where(searched & ~most_is_better, found.batch, terms.high))
