"""The contract of channel models."""

from __future__ import annotations

import numpy as np

from edge_gym.physics.channel import Channel, make_channel

_DRAWS = 40_000
_ERRORS = 5.0  # standard errors that a right model stays within


def check_channel(channel: Channel | str, seed: int = 0) -> None:
    """Check that a channel model agrees with itself.

    Checked are that small-scale gains have mean 1, that a later step is distributed like the
    first, that the quantile function is that of the draws, that the spectral efficiency is the
    mean over draws, and that a seed fixes the draws.

    Args:
        channel: The model, or how a configuration names it.
        seed: Of the draws.

    Raises:
        AssertionError: If something is broken; the message says what. A right model fails about
            once in 10,000 seeds.
        ValueError: If the name is unknown.
    """
    model = make_channel(channel) if isinstance(channel, str) else channel
    normals = np.random.default_rng(seed).standard_normal((model.n_normals, _DRAWS))
    small = model.gain_of(normals)
    assert small.shape == (_DRAWS,), f"gain_of returned shape {small.shape}"
    assert (np.isfinite(small) & (small >= 0)).all(), "a gain is negative or not finite"
    error = small.std() / np.sqrt(_DRAWS)
    assert abs(small.mean() - 1) <= _ERRORS * error + 1e-9, (
        f"the mean gain is {small.mean():.4f}, not 1 within {_ERRORS * error:.4f}"
    )
    gains = model.gains(np.random.default_rng(seed + 1), 4, (_DRAWS,))
    again = model.gains(np.random.default_rng(seed + 1), 4, (_DRAWS,))
    assert gains.shape == (4, _DRAWS), f"gains returned shape {gains.shape}"
    assert np.array_equal(gains, again), "the same generator gives other gains"
    assert (gains >= 0).all(), "a gain is negative"
    first, last = np.sort(gains[0]), np.sort(gains[3])
    distance = np.abs(
        np.searchsorted(first, last, "right") / _DRAWS - np.arange(1, _DRAWS + 1) / _DRAWS
    ).max()
    # Of the Kolmogorov-Smirnov statistic of two samples, at p = 1e-5.
    if len(np.unique(first)) > 1:
        assert distance <= 2.47 * np.sqrt(2 / _DRAWS), (
            f"step 3 is distributed otherwise than step 0: they differ by {distance:.4f}"
        )
    for probability in (0.01, 0.1, 0.5, 0.9, 0.99):
        value = float(np.asarray(model.quantile(np.array(probability))))
        below, upto = (small < value - 1e-12).mean(), (small <= value + 1e-12).mean()
        room = _ERRORS * np.sqrt(probability * (1 - probability) / _DRAWS)
        assert below - room <= probability <= upto + room, (
            f"quantile({probability}) is {value:.5g}, below which {below:.4f} of the draws lie"
        )
    for snr in (0.01, 1.0, 100.0):
        rates = np.log2(1 + snr * gains[3])
        found, wanted = float(np.asarray(model.spectral_efficiency(snr))), rates.mean()
        room = _ERRORS * rates.std() / np.sqrt(_DRAWS) + 1e-9
        assert abs(found - wanted) <= room, (
            f"the spectral efficiency at SNR {snr:g} is {found:.5g}, of draws {wanted:.5g}"
        )
