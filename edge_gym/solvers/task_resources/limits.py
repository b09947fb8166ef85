"""What learners can do with a share of the band, and the best powers and clocks for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_gym.physics.checks import check_array
from edge_gym.physics.wireless import shannon_rate
from edge_gym.solvers.task_allocation import LARGEST
from edge_gym.solvers.task_resources.fill_kernels import fill_capacities, fill_least_energy
from edge_gym.solvers.task_resources.kernels import ROUNDING
from edge_gym.typing import Float64Array, IntArray

_SLACK = 1 + 1e-12
"""Factor of limits that rounding may use up where an update takes next to nothing of them."""


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


Learners = NDArray[np.void]


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

    Source: Sorour et al. 2020, "Joint Task and Resource Optimization";
    Mohammad et al. 2020, eqs. (5)-(11), Table 1.
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
            array = check_array(name, getattr(self, name), positive=positive)
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
        updates=check_array("updates", updates, positive=True),
        band_hz=check_array("band_hz", band_hz, positive=True),
    )
    samples = np.empty(learners.shape)
    fill_capacities(*_flat(learners, updates, bands, samples))
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

    Source: Mohammad et al. 2020, eqs. (5)-(8), exponent and units of (8) corrected;
    Sorour et al. 2020, steps 1-3.
    """
    samples, updates = check_array("samples", samples), check_array("updates", updates)
    seconds, joules, clock = _ways(limits, samples, resources)
    cycles = updates * samples * limits.cycles_per_sample
    with np.errstate(divide="ignore", invalid="ignore"):
        seconds = seconds + cycles / clock
    joules = joules + limits.capacitance * cycles * clock**2
    return np.where(cycles > 0, seconds, 0.0), np.where(cycles > 0, joules, 0.0)


def max_updates(limits: ResourceLimits, samples: ArrayLike, resources: Resources) -> IntArray:
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
    samples = check_array("samples", samples)
    seconds, joules, clock = _ways(limits, samples, resources)
    cycles = samples * limits.cycles_per_sample
    with np.errstate(divide="ignore", invalid="ignore"):
        in_time = (limits.cycle_s * _SLACK - seconds) * clock / cycles
        spare = limits.limit_j * _SLACK - joules
        in_energy = spare / (limits.capacitance * cycles * clock**2)
    possible = (samples > 0) & (samples <= limits.max_samples) & (clock > 0)
    most = np.where(possible, np.fmin(in_time, in_energy), 0.0)
    return np.floor(np.clip(most + ROUNDING, 0.0, LARGEST)).astype(np.int64)


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
        samples=check_array("samples", samples),
        updates=check_array("updates", updates),
        band_hz=check_array("band_hz", band_hz, positive=True),
    )
    power, clock = np.empty(learners.shape), np.empty(learners.shape)
    fill_least_energy(*_flat(learners, samples, updates, bands, power, clock))
    return Resources(bands, power, clock)


def packed(limits: ResourceLimits) -> Learners:
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
    both = (packed(limits), *arrays.values())
    return [np.ascontiguousarray(np.broadcast_to(array, shape)) for array in both]


def _flat(*arrays: NDArray[Any]) -> list[NDArray[Any]]:
    return [array.reshape(-1) for array in arrays]


def _ways(
    limits: ResourceLimits, samples: Float64Array, resources: Resources
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return the seconds and joules of the ways there and back, and the checked clocks."""
    band = check_array("band_hz", resources.band_hz)
    power = check_array("power_w", resources.power_w)
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = np.where(band > 0, power * limits.gain_per_noise / band, 0.0)
        upload = limits.model_bits / shannon_rate(band, snr)
        down = (limits.sample_bits * samples + limits.model_bits) / (limits.efficiency * band)
        joules = np.where(power > 0, power * upload, 0.0)
    return down + upload, joules, check_array("cpu_hz", resources.cpu_hz)
