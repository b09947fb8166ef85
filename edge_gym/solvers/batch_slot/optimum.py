"""Batches and slots that are optimal together."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from edge_gym.physics.compute import gpu_latency
from edge_gym.solvers.batch_slot.best_batch import Largest, best_batch
from edge_gym.solvers.batch_slot.costs import Allocation, RoundCosts, broadcast_to
from edge_gym.solvers.batch_slot.frames import (
    common_finish,
    share_of_frame,
    slots_of,
    step_to_full_frame,
)
from edge_gym.solvers.batch_slot.terms import (
    ROUNDING,
    SMALL_STEP,
    Terms,
    checked_total,
    clip_to_total,
    devices_first,
    devices_last,
    sum_of_devices,
    summing_to,
    terms_of,
)
from edge_gym.typing import Float64Array


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

    Source: Ren et al. 2021, Theorems 1 and 2, eqs. (17), (22), (26), (30); [·]⁺ in (22) corrected.
    """
    terms = terms_of(costs)
    if global_batch is None:
        rest = common_finish(devices_first(costs.update_s), devices_first(costs.download_s))
        batch = _best_optimal(terms, rest)
    else:
        batch = _fastest_optimal(terms, checked_total(costs, global_batch))
    return optimal_slots(costs, devices_last(costs, batch, whole))


def optimal_slots(costs: RoundCosts, batch: ArrayLike) -> Allocation:
    """Return the slots that let all devices finish together with given batches, in both frames.

    Args:
        costs: Costs of the round, ``(..., K)``.
        batch: Batches B_k, at least 0, ``(..., K)``.

    Raises:
        ValueError: If ``batch`` is negative or has a shape that does not fit.

    Source: Ren et al. 2021, eqs. (22), (26).
    """
    shape = costs.slope_s.shape
    batch = broadcast_to("batch", batch, shape)
    compute = gpu_latency(batch, costs.base_latency_s, costs.slope_s, costs.threshold)
    uplink = slots_of(devices_first(compute), devices_first(costs.upload_s))
    downlink = slots_of(devices_first(costs.update_s), devices_first(costs.download_s))
    return Allocation(batch, uplink.T.reshape(shape), downlink.T.reshape(shape))


def _fastest_optimal(terms: Terms, total: Float64Array) -> Float64Array:
    """Return the batches of Theorem 1, ``(K, m)``, which sum to ``total``, ``(m,)``."""
    # Below the sum of GPUs' thresholds nothing is gained by taking less.
    used = np.maximum(total, sum_of_devices(terms.low))
    linear, speed = terms.speed * terms.offset, sum_of_devices(terms.speed)
    unclipped = (used + sum_of_devices(linear) + sum_of_devices(terms.weight) ** 2) / speed
    # Computing alone takes until this x, where 1/T is zero.
    computed = clip_to_total(-linear, terms.speed, terms.low, terms.high, used)
    lower = np.maximum(terms.offset + computed.value / terms.speed, terms.low_s).max(axis=0)
    x = np.maximum((terms.low_s + terms.upload).max(axis=0), np.maximum(unclipped, lower))
    # Its tangent there bounds x, unless some device needs longer for its smallest batch.
    weight = sum_of_devices(np.where(computed.free > 0, terms.weight, 0.0))
    valid = (computed.free_sum > 0) & (computed.scale >= terms.low_s.max(axis=0))
    tangent = np.divide(weight**2, computed.free_sum, out=np.zeros_like(weight), where=valid)
    x = np.where(valid, np.maximum(x, computed.scale + tangent), x)
    rows, at = np.arange(len(x)), terms
    batch = np.empty_like(terms.speed)
    last = np.full_like(x, np.inf)
    while rows.size:
        here = x[rows]
        base = at.speed * (here - at.offset)
        found = clip_to_total(base, at.weight, at.low, at.high, used[rows])
        batch[:, rows] = found.value
        ready = np.maximum(at.offset + found.value / at.speed, at.low_s)
        step = step_to_full_frame(here, ready, at.upload)
        lower[rows] = np.where(step > 0, here, lower[rows])
        # Beyond the root, where only rounding may lead, a step goes back below it.
        following = here + step
        x[rows] = np.where(
            (step > 0) | (following > lower[rows]), following, (lower[rows] + here) / 2
        )
        # After a small step the batches at hand are exact.
        going_on = (last[rows] > SMALL_STEP * here) & (np.abs(step) > ROUNDING * here)
        last[rows] = np.abs(x[rows] - here)
        if not going_on.all():
            rows = rows[going_on]
            at = terms.at(rows)
    return summing_to(terms, batch, used, total)


def _best_optimal(terms: Terms, rest: Float64Array) -> Float64Array:
    fixed = sum_of_devices(terms.speed * terms.offset) + sum_of_devices(terms.weight) ** 2
    # The best x if no batch were clipped.
    start = rest + 2 * fixed / sum_of_devices(terms.speed)
    least = common_finish(terms.low_s, terms.upload)
    most = common_finish(terms.high_s, terms.upload)
    return best_batch(_largest_optimal, terms, least, most, start, rest)


def _largest_optimal(terms: Terms, x: Float64Array) -> Largest:
    """Return the largest B with optimal slots; a kink's slope is that right of it, or left of all.

    Slots are √(a·V)·z, clipped.
    """
    room = x - terms.high_s
    low = share_of_frame(x, terms.low_s, terms.upload)
    high = np.divide(terms.upload, room, out=np.full_like(room, np.inf), where=room > 0)
    found = clip_to_total(np.zeros_like(room), terms.weight, low, high, np.ones_like(x))
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
    slope = sum_of_devices(rate) / scale**2
    rate = np.where(free > 0, 0.0, rate)
    change = np.divide(
        sum_of_devices(rate), free_sum, out=np.zeros_like(free_sum), where=free_sum > 0
    )
    curvature = -2 * (change**2 * free_sum / scale + sum_of_devices(rate * inverse)) / scale**2
    return Largest(batch, sum_of_devices(batch), slope, curvature)
