"""What a round costs, and what an allocation of batches and slots comes to."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from edge_gym.physics.checks import check_array
from edge_gym.physics.compute import cpu_latency, gpu_latency, gpu_update_latency
from edge_gym.typing import Float64Array


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

    Source: Ren et al. 2021, eqs. (9)-(12), (27), (28).
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
            array = check_array(name, getattr(self, name), positive=name in positive)
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

    Source: Ren et al. 2021, eqs. (9)-(12).
    """
    bits = check_array("gradient_bits", gradient_bits, positive=True)
    return RoundCosts(
        slope_s=cpu_latency(
            check_array("cycles_per_sample", cycles_per_sample, positive=True), frequency_hz
        ),
        upload_s=bits / check_array("uplink_rate", uplink_rate, positive=True),
        download_s=bits / check_array("downlink_rate", downlink_rate, positive=True),
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

    Source: Ren et al. 2021, eqs. (10), (11), (27), (28).
    """
    bits = check_array("gradient_bits", gradient_bits, positive=True)
    return RoundCosts(
        slope_s=np.asarray(slope_s),
        upload_s=bits / check_array("uplink_rate", uplink_rate, positive=True),
        download_s=bits / check_array("downlink_rate", downlink_rate, positive=True),
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

    Source: Ren et al. 2021, eqs. (13)-(15) and (29).
    """
    batch = check_array("batch", allocation.batch)
    uplink = check_array("uplink_slot", allocation.uplink_slot)
    downlink = check_array("downlink_slot", allocation.downlink_slot)
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

    Source: Ren et al. 2021, eqs. (8), (16).
    """
    decay = check_array("loss_scale", loss_scale) * np.sqrt(
        check_array("global_batch", global_batch)
    )
    return np.asarray(decay / check_array("latency_s", latency_s, positive=True))


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
    batch = check_array("batch", batch)
    high = np.broadcast_to(check_array("max_batch", max_batch), batch.shape)
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


def broadcast_to(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Float64Array:
    """Return non-negative numbers of a shape; the error names the argument."""
    array = check_array(name, value)
    try:
        return np.asarray(np.broadcast_to(array, shape))
    except ValueError:
        raise ValueError(f"{name} must have the shape {shape}, got {array.shape}") from None
