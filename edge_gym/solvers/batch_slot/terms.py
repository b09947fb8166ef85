"""Many instances as the solvers see them, devices first, and batches clipped to a total."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_gym.physics.compute import gpu_latency, gpu_offset
from edge_gym.solvers.batch_slot.costs import RoundCosts, broadcast_to, round_batches
from edge_gym.typing import Float64Array

ROUNDING = 8 * float(np.finfo(np.float64).eps)


SMALL_STEP = 1e-9
"""Relative Newton step after which the next one is less than rounding."""


class Terms(NamedTuple):
    """An instance's terms, devices first: ``(K, m)``."""

    speed: Float64Array
    offset: Float64Array
    upload: Float64Array
    weight: Float64Array
    low: Float64Array
    high: Float64Array
    low_s: Float64Array
    high_s: Float64Array

    def at(self, rows: NDArray[np.intp] | slice) -> Terms:
        """Return some of the instances."""
        return Terms(*(term[:, rows] for term in self))


def sum_of_devices(array: Float64Array) -> Float64Array:
    """Return the sum over devices, ``(m,)``, in the same order for any number of instances."""
    return np.asarray(np.add.accumulate(array, axis=0)[-1])


def devices_first(array: Float64Array) -> Float64Array:
    """Return ``(..., K)`` as ``(K, m)``: sums over devices then add long rows."""
    return np.ascontiguousarray(array.reshape(-1, array.shape[-1]).T)


def terms_of(costs: RoundCosts, *, equal: bool = False) -> Terms:
    """Return the terms; ``equal`` batches have the same bounds on all devices."""
    gpu = [devices_first(array) for array in (costs.base_latency_s, costs.slope_s, costs.threshold)]
    high = devices_first(costs.max_batch)
    if equal:
        high = np.broadcast_to(high.min(axis=0), high.shape)
        low = np.ones_like(high)
    else:
        low = np.minimum(np.maximum(gpu[2], 1.0), high)
    speed, upload = 1 / gpu[1], devices_first(costs.upload_s)
    return Terms(
        speed=speed,
        offset=gpu_offset(*gpu),
        upload=upload,
        weight=np.sqrt(speed * upload),
        low=low,
        high=high,
        low_s=gpu_latency(low, *gpu),
        high_s=gpu_latency(high, *gpu),
    )


def checked_total(
    costs: RoundCosts, global_batch: ArrayLike, most: Float64Array | None = None
) -> Float64Array:
    """Return the global batchsizes as ``(m,)``, checked against K and ``most``, ``(m,)``."""
    *shape, n_devices = costs.slope_s.shape
    total = broadcast_to("global_batch", global_batch, tuple(shape)).reshape(-1)
    if most is None:
        most = costs.max_batch.sum(axis=-1).reshape(-1)
    outside = (total < n_devices) | (total > most)
    if outside.any():
        value, limit = total[outside][0], most[outside][0]
        raise ValueError(f"global_batch must be in [{n_devices}, {limit:g}], got {value}")
    return total


def devices_last(costs: RoundCosts, batch: Float64Array, whole: bool) -> Float64Array:
    """Return batches ``(K, m)`` as ``(..., K)``, rounded if ``whole``."""
    batch = batch.T.reshape(costs.slope_s.shape)
    return round_batches(batch, costs.max_batch) if whole else batch


class _Clipped(NamedTuple):
    """Values that sum to a total, the z they have, and the weights of those not clipped."""

    value: Float64Array
    scale: Float64Array
    free: Float64Array
    free_sum: Float64Array


def clip_to_total(
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
    free, free_sum = weight, sum_of_devices(weight)
    scale = (total - sum_of_devices(base)) / free_sum
    while True:
        value = base + free * scale
        below, above = np.maximum(low - value, 0.0), np.maximum(value - high, 0.0)
        # Raising more than is lowered takes from the others: z can only fall, and what is at its
        # lower bound stays there.
        falls = sum_of_devices(below) >= sum_of_devices(above)
        clipped = np.where(falls, below, above) > 0
        if not clipped.any():
            return _Clipped(value, scale, free, free_sum)
        base = np.where(clipped, np.where(falls, low, high), base)
        free = np.where(clipped, 0.0, free)
        free_sum = sum_of_devices(free)
        np.divide(total - sum_of_devices(base), free_sum, out=scale, where=free_sum > 0)


def summing_to(
    terms: Terms, batch: Float64Array, used: Float64Array, total: Float64Array
) -> Float64Array:
    """Return batches whose sum is ``total`` to rounding; they sum to ``used`` ≥ ``total`` so far.

    All B_k - 1 shrink by the same factor.
    """
    # Where uploads take much longer than computing, batches are small differences of V·x.
    batch = clip_to_total(batch, terms.speed, terms.low, terms.high, used).value
    spare = used - len(batch)
    factor = np.divide(total - len(batch), spare, out=np.ones_like(spare), where=used > total)
    return np.asarray(np.where(used > total, 1 + (batch - 1) * factor, batch))
