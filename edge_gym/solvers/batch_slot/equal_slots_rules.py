"""The best with equal slots, and with equal batches, too."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from edge_gym.solvers.batch_slot.best_batch import Largest, best_batch
from edge_gym.solvers.batch_slot.costs import Allocation, RoundCosts
from edge_gym.solvers.batch_slot.terms import (
    SMALL_STEP,
    Terms,
    checked_total,
    clip_to_total,
    devices_last,
    sum_of_devices,
    summing_to,
    terms_of,
)
from edge_gym.typing import Float64Array


def equal_slots(
    costs: RoundCosts, global_batch: ArrayLike | None = None, *, whole: bool = False
) -> Allocation:
    """Return the best batches when all devices have the same slots, 1/K of each frame.

    Devices whose batch is not clipped finish together. Arguments and errors are those of
    ``optimal_allocation``.
    """
    terms = terms_of(costs)
    if global_batch is None:
        batch = _best_of_equal_slots(terms, _equal_rest(costs))
    else:
        batch = _fastest_of_equal_slots(terms, checked_total(costs, global_batch))
    return _with_equal_slots(costs, devices_last(costs, batch, whole))


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

    Source: Ren et al. 2021, eq. (42).
    """
    n_devices = costs.slope_s.shape[-1]
    if global_batch is None:
        batch = _best_equal(terms_of(costs, equal=True), _equal_rest(costs))
    else:
        most = n_devices * costs.max_batch.min(axis=-1).reshape(-1)
        share = checked_total(costs, global_batch, most) / n_devices
        batch = np.broadcast_to(share, (n_devices, len(share)))
    return _with_equal_slots(costs, devices_last(costs, batch, whole))


def _equal_rest(costs: RoundCosts) -> Float64Array:
    n_devices = costs.slope_s.shape[-1]
    return np.asarray((costs.update_s + n_devices * costs.download_s).max(axis=-1).reshape(-1))


def _with_equal_slots(costs: RoundCosts, batch: Float64Array) -> Allocation:
    slots = np.full(batch.shape, 1 / batch.shape[-1])
    return Allocation(batch, slots, slots.copy())


def _fastest_of_equal_slots(terms: Terms, total: Float64Array) -> Float64Array:
    """Return batches that sum to ``total`` and finish together where they can, ``(K, m)``."""
    offset = terms.offset + len(terms.speed) * terms.upload
    used = np.maximum(total, sum_of_devices(terms.low))
    found = clip_to_total(-terms.speed * offset, terms.speed, terms.low, terms.high, used)
    return summing_to(terms, found.value, used, total)


def _best_of_equal_slots(terms: Terms, rest: Float64Array) -> Float64Array:
    wait = len(terms.speed) * terms.upload
    least, most = (terms.low_s + wait).max(axis=0), (terms.high_s + wait).max(axis=0)
    return best_batch(_largest_of_equal_slots, terms, least, most, least, rest)


def _best_equal(terms: Terms, rest: Float64Array) -> Float64Array:
    wait = len(terms.speed) * terms.upload
    least, most = (terms.low_s + wait).max(axis=0), (terms.high_s + wait).max(axis=0)
    return best_batch(_largest_equal, terms, least, most, least, rest)


def _largest_of_equal_slots(terms: Terms, x: Float64Array) -> Largest:
    wait = len(terms.speed) * terms.upload
    room = terms.speed * (x - terms.offset - wait)
    batch = np.clip(room, terms.low, terms.high)
    # Where sending takes much longer than computing, ``room`` is the small difference of large
    # numbers and may lie beyond all bounds; the seconds at which batches are largest are exact.
    rising = (room <= terms.high * (1 + SMALL_STEP)) | (x <= terms.high_s + wait)
    slope = sum_of_devices(np.where(rising, terms.speed, 0.0))
    return Largest(batch, sum_of_devices(batch), slope, np.zeros_like(slope))


def _largest_equal(terms: Terms, x: Float64Array) -> Largest:
    n_devices = len(terms.speed)
    room = terms.speed * (x - terms.offset - n_devices * terms.upload)
    slowest = room.argmin(axis=0)[None]
    share = np.clip(np.take_along_axis(room, slowest, axis=0), terms.low[:1], terms.high[:1])
    slope = n_devices * np.take_along_axis(terms.speed, slowest, axis=0)[0]
    batch = np.broadcast_to(share, room.shape)
    return Largest(batch, n_devices * share[0], slope, np.zeros_like(slope))
