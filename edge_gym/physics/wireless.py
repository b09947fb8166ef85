"""Wireless channels: units, fading, path loss, rates and analog reception with MRC.

Arrays in, arrays out, with any leading axes (arguments broadcast). Results are float64, except
that maximal-ratio combining keeps the type of its buffers. Values that are not finite or out of
range raise a ``ValueError`` that names the argument and the value.

An SNR of a link is one symbol's: received power over the noise power in the band. Analog reception
(``mrc_accumulate``) alone counts E‖x‖² of a whole sample of d symbols over the noise of one of
them, as its source does; ``symbol_snr_db`` turns that into the other.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.constants import speed_of_light
from scipy.special import exp1

from edge_gym.physics.checks import finite, not_negative, positive
from edge_gym.typing import Float64Array

FloatArray = NDArray[np.floating[Any]]

FLOOR_DB = -300.0
"""What ``linear_to_db`` returns for a ratio of zero, or of less than this."""


def db_to_linear(db: ArrayLike) -> Float64Array:
    """Return the power ratio 10^(db/10).

    Raises:
        ValueError: If ``db`` is not finite.
    """
    return np.power(10.0, finite("db", db) / 10)


def linear_to_db(ratio: ArrayLike, floor_db: float = FLOOR_DB) -> Float64Array:
    """Return 10·log₁₀ of a power ratio, and ``floor_db`` where that is less or the ratio is 0.

    Raises:
        ValueError: If an argument is not finite, or ``ratio`` negative.
    """
    floor = db_to_linear(finite("floor_db", floor_db))
    return 10 * np.log10(np.maximum(not_negative("ratio", ratio), floor))


def symbol_snr_db(snr_db: ArrayLike, n_features: int) -> Float64Array:
    """Return the SNR of one symbol in dB, from that of a whole sample of features.

    The SNR γ of analog transmission is E‖x‖², the energy of a whole sample, over the noise of *one*
    dimension (``mrc_accumulate``). Each of the d features travels in a symbol of its own, whose
    mean power is E‖x‖²/d: its SNR is γ/d, 10·log₁₀ d dB less. With 14×14 pixels, 15 dB are -7.9 dB
    a symbol.

    Args:
        snr_db: 10·log₁₀ γ, dB.
        n_features: d.

    Raises:
        ValueError: If ``snr_db`` is not finite or ``n_features`` not positive.
    """
    return finite("snr_db", snr_db) - linear_to_db(positive("n_features", n_features))


def dbm_to_watt(dbm: ArrayLike) -> Float64Array:
    """Return a power given in dBm in watts.

    Raises:
        ValueError: If ``dbm`` is not finite.
    """
    return db_to_linear(finite("dbm", dbm) - 30)


def watt_to_dbm(watt: ArrayLike, floor_dbm: float = FLOOR_DB) -> Float64Array:
    """Return a power given in watts in dBm, at least ``floor_dbm``.

    Raises:
        ValueError: If an argument is not finite, or ``watt`` negative.
    """
    floor_dbw = float(finite("floor_dbm", floor_dbm)) - 30
    return linear_to_db(not_negative("watt", watt), floor_dbw) + 30


def log_distance_path_loss_db(
    distance_m: ArrayLike,
    reference_loss_db: ArrayLike,
    exponent: ArrayLike,
    reference_distance_m: ArrayLike = 1.0,
) -> Float64Array:
    """Return the path loss PL(d₀) + 10·n·log₁₀(d/d₀) in dB.

    Args:
        distance_m: Distance d in metres, which may be less than the reference distance.
        reference_loss_db: Loss PL(d₀) in dB at the reference distance.
        exponent: Path loss exponent n; "128.1 + 37.6·log₁₀(R in km)" has n = 3.76, d₀ = 1,000.
        reference_distance_m: Reference distance d₀ in metres.

    Raises:
        ValueError: If a distance is not positive or the exponent is negative.
    """
    distance = positive("distance_m", distance_m)
    reference = positive("reference_distance_m", reference_distance_m)
    slope = 10 * not_negative("exponent", exponent)
    return finite("reference_loss_db", reference_loss_db) + slope * np.log10(distance / reference)


def free_space_path_loss_db(distance_m: ArrayLike, carrier_frequency_hz: ArrayLike) -> Float64Array:
    """Return the free-space path loss 20·log₁₀(4π·d·f/c) in dB (Friis, isotropic antennas).

    Raises:
        ValueError: If ``distance_m`` or ``carrier_frequency_hz`` is not positive.
    """
    distance = positive("distance_m", distance_m)
    frequency = positive("carrier_frequency_hz", carrier_frequency_hz)
    return 20 * np.log10(4 * np.pi * distance * frequency / speed_of_light)


def noise_power_watt(
    bandwidth_hz: ArrayLike,
    density_dbm_per_hz: ArrayLike = -174.0,
    noise_figure_db: ArrayLike = 0.0,
) -> Float64Array:
    """Return the power in watts of white noise over a bandwidth.

    Args:
        bandwidth_hz: Bandwidth in Hz.
        density_dbm_per_hz: Noise density N₀ in dBm/Hz; -174 is thermal noise at 290 K.
        noise_figure_db: Noise figure of the receiver in dB, added to the density.

    Raises:
        ValueError: If an argument is not finite, or ``bandwidth_hz`` negative.
    """
    density = finite("density_dbm_per_hz", density_dbm_per_hz)
    density = density + finite("noise_figure_db", noise_figure_db)
    return not_negative("bandwidth_hz", bandwidth_hz) * dbm_to_watt(density)


def shannon_rate(bandwidth_hz: ArrayLike, snr: ArrayLike) -> Float64Array:
    """Return the rate B·log₂(1 + γ) in bit/s at a linear SNR γ.

    Raises:
        ValueError: If ``bandwidth_hz`` or ``snr`` is negative.
    """
    bandwidth = not_negative("bandwidth_hz", bandwidth_hz)
    return bandwidth / math.log(2) * np.log1p(not_negative("snr", snr))


def ergodic_rate(bandwidth_hz: ArrayLike, mean_snr: ArrayLike) -> Float64Array:
    """Return the mean of ``shannon_rate`` over Rayleigh fading, in bit/s.

    E[B·log₂(1 + γ̄·g)] = B·e^{1/γ̄}·E₁(1/γ̄)/ln 2 with g ~ Exp(1), to about 1e-15 relative error.

    Args:
        bandwidth_hz: Bandwidth B in Hz.
        mean_snr: Linear mean SNR γ̄.

    Raises:
        ValueError: If ``bandwidth_hz`` or ``mean_snr`` is negative.

    Source: Ren et al. 2021 eq. (5), closed form.
    """
    bandwidth = not_negative("bandwidth_hz", bandwidth_hz)
    snr = not_negative("mean_snr", mean_snr)
    # e^{1/γ̄} overflows at a small γ̄, where the asymptotic series is exact to rounding.
    small = snr < 1 / 600
    inverse = 1 / np.where(small, 1.0, snr)
    series = snr * np.polyval([720.0, -120.0, 24.0, -6.0, 2.0, -1.0, 1.0], np.where(small, snr, 0))
    nats = np.where(small, series, np.exp(inverse) * exp1(inverse))
    return bandwidth / math.log(2) * nats


def mrc_accumulate(
    weighted_sum: FloatArray,
    effective_snr: FloatArray,
    sample: FloatArray,
    snr: FloatArray,
    noise: FloatArray,
) -> None:
    """Add one analog reception of each sample, in place, for maximal-ratio combining.

    A reception at SNR γ carries x + n/√γ with n ~ N(0, I), where E‖x‖² = 1 over the data set: the
    noise variance *per dimension* is 1/γ. MRC weights it with γ, so γ·x + √γ·n is added to
    ``weighted_sum`` and γ to ``effective_snr``. Both start at zero, and their type is kept.

    Args:
        weighted_sum: Σ(γᵢ·x + √γᵢ·nᵢ) so far, ``(..., d)``, updated.
        effective_snr: Σγᵢ so far, linear, ``(...)``, updated.
        sample: What is sent, x, ``(..., d)``.
        snr: Linear SNR γ of this reception, ``(...)``; 0 adds nothing.
        noise: Standard normal draws n, ``(..., d)``.

    Raises:
        ValueError: If an argument is not finite, ``snr`` negative, or shapes do not fit; then
            nothing was added.

    Source: Wen et al. 2019 eq. (15) ; docs/conventions.md says what the noise is.
    """
    if weighted_sum.shape[:-1] != effective_snr.shape:
        raise ValueError(
            f"weighted_sum must have the shape of effective_snr, {effective_snr.shape}, and one "
            f"more axis, got {weighted_sum.shape}"
        )
    weight = not_negative("snr", snr).astype(weighted_sum.dtype, copy=False)[..., None]
    reception = weight * sample
    reception += np.sqrt(weight) * noise
    if not np.isfinite(reception).all():
        raise ValueError("sample and noise must be finite")
    weighted_sum += reception
    effective_snr += weight[..., 0]


def mrc_combine(weighted_sum: FloatArray, effective_snr: FloatArray) -> FloatArray:
    """Return the received samples x̂ = x + n, n ~ N(0, I/γ) at the effective SNR γ, ``(..., d)``.

    Where nothing was received (γ = 0) x̂ is zero, the mean of centred features.

    Args:
        weighted_sum: As ``mrc_accumulate`` left it, ``(..., d)``.
        effective_snr: Linear effective SNR γ, ``(...)``.

    Raises:
        ValueError: If an argument is not finite, or ``effective_snr`` negative.

    Source: Wen et al. 2019 eq. (15).
    """
    not_negative("effective_snr", effective_snr)
    if not np.isfinite(weighted_sum).all():
        raise ValueError("weighted_sum must be finite")
    weight = effective_snr[..., None]
    return np.divide(weighted_sum, weight, out=np.zeros_like(weighted_sum), where=weight > 0)
