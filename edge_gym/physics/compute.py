"""Time and energy that training and inference cost a processor.

Arrays in, arrays out, with any leading axes (arguments broadcast). Values that are not finite or
out of range raise a ``ValueError`` that names the argument and the value.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from edge_gym.physics.checks import not_negative, positive
from edge_gym.typing import Float64Array


def cpu_latency(cycles: ArrayLike, frequency_hz: ArrayLike) -> Float64Array:
    """Return the time in seconds that a CPU takes for so many cycles, cycles/f.

    Gradients of B samples take B·C cycles, τ epochs on d samples τ·d·C, inference on L bits C·L,
    a model update M^C; ``cycles_of`` turns a network's FLOPs into C.

    Raises:
        ValueError: If ``cycles`` is negative or ``frequency_hz`` is not positive.

    Source: Ren et al. 2021, eqs. (9), (12); Mohammad et al. 2020, t^C in eq. (5); Li et al. 2021,
    eqs. (1), (2).
    """
    return not_negative("cycles", cycles) / positive("frequency_hz", frequency_hz)


def cpu_energy(
    cycles: ArrayLike, frequency_hz: ArrayLike, capacitance: ArrayLike = 1e-28
) -> Float64Array:
    """Return the energy in joules that a CPU spends on so many cycles, κ·cycles·f².

    Args:
        cycles: CPU cycles: X_k = d_k·C_m for an epoch of Mohammad et al. 2020, C·L for L bits of
            Li et al. 2021.
        frequency_hz: Clock frequency f in Hz.
        capacitance: Effective capacitance κ in J·s²; 1e-28, or 0.5e-28 in Li et al. 2021.

    Raises:
        ValueError: If an argument is negative.

    Source: Mohammad et al. 2020, eq. (8), exponent and units corrected: read literally the energy
    limit never binds; Li et al. 2021, eq. (1).
    """
    frequency = not_negative("frequency_hz", frequency_hz)
    work = not_negative("cycles", cycles)
    return not_negative("capacitance", capacitance) * work * frequency**2


def cycles_of(flops: ArrayLike, flops_per_cycle: ArrayLike = 1.0) -> Float64Array:
    """Return the CPU cycles of so many floating-point operations.

    Raises:
        ValueError: If ``flops`` is negative or ``flops_per_cycle`` is not positive.
    """
    per_cycle = positive("flops_per_cycle", flops_per_cycle)
    return not_negative("flops", flops) / per_cycle


def gpu_latency(
    batch_size: ArrayLike,
    base_latency_s: ArrayLike,
    slope_s: ArrayLike,
    threshold: ArrayLike,
) -> Float64Array:
    """Return the time in seconds that a GPU takes for the gradient of a batch.

    t^ℓ up to B^th samples, which fit at once, and c·(B - B^th) + t^ℓ above; 0 without samples.

    Args:
        batch_size: Samples B.
        base_latency_s: Latency t^ℓ in seconds of a batch that fits.
        slope_s: Seconds c of every further sample.
        threshold: Samples B^th that fit.

    Raises:
        ValueError: If an argument is negative.

    Source: Ren et al. 2021 eq. (27).
    """
    batch = not_negative("batch_size", batch_size)
    further = np.maximum(batch - not_negative("threshold", threshold), 0.0)
    latency = not_negative("base_latency_s", base_latency_s)
    latency = latency + not_negative("slope_s", slope_s) * further
    return np.where(batch > 0, latency, 0.0)


def gpu_offset(base_latency_s: ArrayLike, slope_s: ArrayLike, threshold: ArrayLike) -> Float64Array:
    """Return o = t^ℓ - c·B^th in seconds: above the threshold the latency is c·B + o.

    The optimal allocation for CPUs then holds for GPUs with V = 1/c and x - o in place of x.

    Raises:
        ValueError: If an argument is negative.

    Source: Ren et al. 2021 eq. (27).
    """
    product = not_negative("slope_s", slope_s) * not_negative("threshold", threshold)
    return not_negative("base_latency_s", base_latency_s) - product


def gpu_update_latency(flops: ArrayLike, flops_per_second: ArrayLike) -> Float64Array:
    """Return the time in seconds that a GPU takes to update a model, M^G/f^G.

    Raises:
        ValueError: If ``flops`` is negative or ``flops_per_second`` is not positive.

    Source: Ren et al. 2021 eq. (28).
    """
    speed = positive("flops_per_second", flops_per_second)
    return not_negative("flops", flops) / speed
