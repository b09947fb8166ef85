"""What an iteration of training and inference costs: Li et al. 2021, eqs. (1) to (10a)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_gym.physics.checks import check_array
from edge_gym.typing import Float64Array

_POSITIVE = (
    *("band_hz", "uplink_snr_hz", "downlink_snr_hz", "model_bits", "cycles_per_bit"),
    *("server_hz", "max_hz", "time_weight"),
)


@dataclass(frozen=True, eq=False)
class OffloadingCosts:
    """What one iteration costs M users in joules and seconds, by what is decided.

    All fields are broadcast to one shape ``(..., M)`` of float64.

    Attributes:
        band_hz: Band B that all uplinks and downlinks share, one per instance.
        uplink_snr_hz: p_j·h_j/δ_s²: the SNR over one hertz, linear, of a symbol.
        downlink_snr_hz: P_s·h_j/δ_j².
        transmit_power_w: Power p_j of a user's transmitter.
        receive_power_w: Power p_j^md of a user's receiver.
        model_bits: Size D_m of the model and of its update.
        task_bits: Size L_j of the inference task. A user without a task (0) downloads the model;
            an iteration n < N is one in which no user has a task.
        cycles_per_bit: Cycles C of inference per bit.
        capacitance: Effective capacitance κ_c in J·s².
        server_hz: CPU frequency f_s of the server, for every task.
        max_hz: Highest CPU frequency f_max of a user.
        training_s: Time from there until the update can be sent: τ_j^lt of local training, or more
            where the uplink is busy for longer.
        training_j: Energy e_j^lt of local training.
        previous_download_s: Time at which the user begins to train, not counted in its latency:
            τ_{j,N-1}^md of the last download, or more where its CPU is busy for longer.
        energy_weight: Weight w_j^e of a joule.
        time_weight: Weight w_j^t of a second.

    Raises:
        ValueError: If a value is out of range or not finite, or shapes do not fit.

    Source: Li et al. 2021, §II; p_j^md is a power in watts.
    """

    band_hz: Float64Array
    uplink_snr_hz: Float64Array
    downlink_snr_hz: Float64Array
    transmit_power_w: Float64Array
    receive_power_w: Float64Array
    model_bits: Float64Array
    task_bits: Float64Array
    cycles_per_bit: Float64Array
    capacitance: Float64Array
    server_hz: Float64Array
    max_hz: Float64Array
    training_s: Float64Array
    training_j: Float64Array
    previous_download_s: Float64Array
    energy_weight: Float64Array
    time_weight: Float64Array

    def __post_init__(self) -> None:
        arrays = {}
        for field in fields(self):
            name = field.name
            array = check_array(name, getattr(self, name), positive=name in _POSITIVE)
            if not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)].flat[0]}")
            arrays[name] = array
        shape = np.broadcast_shapes(*(array.shape for array in arrays.values()))
        if not shape or not shape[-1]:
            raise ValueError(f"uplink_snr_hz must have an axis of users, got the shape {shape}")
        for name, array in arrays.items():
            object.__setattr__(self, name, np.broadcast_to(array, shape))
        if (self.band_hz != self.band_hz[..., :1]).any():
            raise ValueError("band_hz must be the same for all users of an instance")


class Offloading(NamedTuple):
    """Decisions of one iteration, all ``(..., M)``.

    Attributes:
        offloaded: Shares ι_j of the tasks that the server computes; 0 for users without a task.
        download: Whether users download the model, a_j: all but those with ι_j = 1.
        uplink_share: Shares b_j of the band.
        downlink_share: Shares b̄_j of the band; 0 without a download.
        cpu_hz: CPU frequencies f_j; 0 where nothing is computed locally.
    """

    offloaded: Float64Array
    download: NDArray[np.bool_]
    uplink_share: Float64Array
    downlink_share: Float64Array
    cpu_hz: Float64Array


class Evaluation(NamedTuple):
    """What one iteration costs; arrays are ``(..., M)`` where not said otherwise.

    Attributes:
        energy_j: Energies E_j, eq. (8).
        latency_s: Latencies T_j, eq. (9).
        wsel: Weighted sum of energy and latency over all users, eq. (10a), ``(...)``.
        model_ready_s: Time τ̂ at which the server has the new model, eq. (6), ``(...)``.
        upload_s: Times τ_j^mu of uploading the model update.
        offload_s: Times τ_j^to of offloading the task.
        download_s: Times τ_j^md of downloading the model; 0 without a download.
        local_s: Times τ_j^c of computing locally.
        edge_s: Times τ_j^e of computing at the server.
        upload_j: Energies e_j^mu.
        offload_j: Energies e_j^to.
        download_j: Energies e_j^md.
        local_j: Energies e_j^c.
    """

    energy_j: Float64Array
    latency_s: Float64Array
    wsel: Float64Array
    model_ready_s: Float64Array
    upload_s: Float64Array
    offload_s: Float64Array
    download_s: Float64Array
    local_s: Float64Array
    edge_s: Float64Array
    upload_j: Float64Array
    offload_j: Float64Array
    download_j: Float64Array
    local_j: Float64Array


class Times(NamedTuple):
    """Times in seconds that do not depend on CPU frequencies; ``model_ready`` keeps its axis."""

    upload: Float64Array
    offload: Float64Array
    download: Float64Array
    model_ready: Float64Array
    edge: Float64Array
    edge_end: Float64Array


def evaluate(costs: OffloadingCosts, offloading: Offloading) -> Evaluation:
    """Return what an iteration costs with any decision.

    Nothing is sent in a share of zero and nothing computed at a frequency of zero: what needs it
    takes forever. Whether shares sum to at most one is not checked.

    Raises:
        ValueError: If a decision is out of range, if a user with ι = 1 downloads the model, or
            another one does not.

    Source: Li et al. 2021, eqs. (1)-(10a).
    """
    shape = costs.band_hz.shape
    offloaded = checked_split(costs, offloading.offloaded)
    download = np.broadcast_to(np.asarray(offloading.download, dtype=np.bool_), shape)
    if (download != (offloaded < 1)).any():
        where = download != (offloaded < 1)
        raise ValueError(
            "download must be true where offloaded < 1 and only there, got "
            f"{download[where][0]} with offloaded = {offloaded[where][0]}"
        )
    uplink = checked_share("uplink_share", offloading.uplink_share)
    downlink = checked_share("downlink_share", offloading.downlink_share)
    cpu = check_array("cpu_hz", offloading.cpu_hz)
    if (cpu > costs.max_hz).any():
        raise ValueError(f"cpu_hz must be at most max_hz, got {cpu[cpu > costs.max_hz].flat[0]}")
    times = times_of(costs, offloaded, uplink, downlink)
    cycles = costs.cycles_per_bit * costs.task_bits * (1 - offloaded)
    local = _quotient(cycles, cpu)
    upload_j, offload_j = (_product(costs.transmit_power_w, part) for part in times[:2])
    download_j = _product(costs.receive_power_w, times.download)
    local_j = costs.capacitance * cpu**2 * cycles
    energy = costs.training_j + upload_j + offload_j + download_j + local_j
    local_end = np.where(download, times.model_ready + times.download + local, 0.0)
    latency = np.maximum(local_end, times.edge_end) - costs.previous_download_s
    wsel = (_product(costs.energy_weight, energy) + costs.time_weight * latency).sum(axis=-1)
    return Evaluation(
        *(energy, latency, np.asarray(wsel), times.model_ready[..., 0], *times[:3]),
        *(local, times.edge, upload_j, offload_j, download_j, local_j),
    )


def best_frequency(
    costs: OffloadingCosts,
    offloaded: ArrayLike,
    uplink_share: ArrayLike,
    downlink_share: ArrayLike,
) -> Float64Array:
    """Return the best CPU frequencies in hertz for all else given, ``(..., M)``.

    f_j = min((w^t/(2κ_c·w^e))^(1/3), f_max), or as slow as lets the local part finish with the
    part at the server where that takes longer; 0 where nothing is computed locally.

    Raises:
        ValueError: If an argument is out of range.

    Source: Li et al. 2021, eq. (19), Proposition 1; μ_j = w^t unless the branch at the server
    dominates.
    """
    offloaded = checked_split(costs, offloaded)
    uplink = checked_share("uplink_share", uplink_share)
    times = times_of(costs, offloaded, uplink, checked_share("downlink_share", downlink_share))
    cycles = costs.cycles_per_bit * costs.task_bits * (1 - offloaded)
    received = times.model_ready + times.download
    left = np.subtract(
        times.edge_end, received, out=np.zeros(costs.band_hz.shape), where=np.isfinite(received)
    )
    tie = np.divide(cycles, left, out=np.full_like(cycles, np.inf), where=left > 0)
    return np.asarray(np.where(cycles > 0, np.minimum(free_hz(costs), tie), 0.0))


def checked_share(name: str, value: ArrayLike) -> Float64Array:
    """Return shares of the band, in [0, 1]."""
    share = check_array(name, value)
    if (share > 1 + 1e-9).any():
        raise ValueError(f"{name} must be at most 1, got {share.max()}")
    return share


def checked_split(costs: OffloadingCosts, offloaded: ArrayLike) -> Float64Array:
    """Return shares ι of the tasks, ``(..., M)`` in [0, 1]; 0 for users without a task."""
    split = check_array("offloaded", offloaded)
    if (split > 1).any():
        raise ValueError(f"offloaded must be at most 1, got {split.max()}")
    shape = costs.band_hz.shape
    try:
        split = np.broadcast_to(split, shape)
    except ValueError:
        raise ValueError(
            f"offloaded must have a shape that broadcasts to {shape}, got {split.shape}"
        ) from None
    return np.where(costs.task_bits > 0, split, 0.0)


def _quotient(needed: Float64Array, speed: Float64Array) -> Float64Array:
    """Return needed/speed, 0 where nothing is needed and infinity at a speed of zero."""
    shape = np.broadcast_shapes(needed.shape, speed.shape)
    needed, speed = np.broadcast_to(needed, shape), np.broadcast_to(speed, shape)
    never = np.where(needed > 0, np.inf, 0.0)
    return np.divide(needed, speed, out=never, where=(speed > 0) & (needed > 0))


def _product(price: Float64Array, amount: Float64Array) -> Float64Array:
    """Return price·amount, 0 where an infinite amount costs nothing."""
    return np.multiply(price, amount, out=np.zeros_like(amount), where=price > 0)


def rate_in_band(share: Float64Array, band_hz: Float64Array, snr_hz: Float64Array) -> Float64Array:
    """Return the rate in bit/s in a share of the band, eqs. (3) and (4)."""
    width = share * band_hz
    snr = np.divide(snr_hz, width, out=np.zeros_like(width), where=width > 0)
    return np.asarray(width / math.log(2) * np.log1p(snr))


def times_of(
    costs: OffloadingCosts, offloaded: Float64Array, uplink: Float64Array, downlink: Float64Array
) -> Times:
    """Return the times of sending and of computing at the server."""
    rate = rate_in_band(uplink, costs.band_hz, costs.uplink_snr_hz)
    upload = _quotient(costs.model_bits, rate)
    offload = _quotient(offloaded * costs.task_bits, rate)
    rate = rate_in_band(downlink, costs.band_hz, costs.downlink_snr_hz)
    download = _quotient(np.where(offloaded < 1, costs.model_bits, 0.0), rate)
    arrived = costs.previous_download_s + costs.training_s + upload
    model_ready = np.asarray(arrived.max(axis=-1, keepdims=True))
    edge = costs.cycles_per_bit * offloaded * costs.task_bits / costs.server_hz
    edge_end = np.maximum(model_ready, arrived + offload) + edge
    return Times(upload, offload, download, model_ready, edge, edge_end)


def free_hz(costs: OffloadingCosts) -> Float64Array:
    """Return the CPU frequencies where the local branch dominates."""
    heat = 2 * costs.capacitance * costs.energy_weight
    free = np.divide(costs.time_weight, heat, out=np.full_like(heat, np.inf), where=heat > 0)
    return np.minimum(np.cbrt(free), costs.max_hz)
