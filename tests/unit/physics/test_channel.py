"""physics.channel: distributions, correlation over steps, means, names."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from edge_gym.physics import wireless
from edge_gym.physics.channel import (
    CHANNELS,
    Channel,
    Nakagami,
    NoFading,
    Rayleigh,
    Rician,
    make_channel,
    register_channel,
)

SPECS = (
    "rayleigh",
    "rician:k=5",
    "rician:k=0",
    "nakagami:m=2",
    "nakagami:m=0.5",
    "awgn",
    "rayleigh:correlation=0.7",
    "rician:k=3,correlation=0.7",
    "nakagami:m=3,correlation=0.7",
    "nakagami:m=3,correlation=0.7,shadowing_db=6,shadowing_correlation=0.5",
    "awgn:shadowing_db=4,shadowing_correlation=0",
)


def of_scipy(channel: Channel) -> stats.rv_frozen:
    """The distribution of the small-scale gain, from scipy."""
    if isinstance(channel, Rayleigh):
        return stats.expon()
    if isinstance(channel, Rician):
        scale = 1 / (2 * (channel.k + 1))
        return stats.ncx2(2, 2 * channel.k, scale=scale) if channel.k else stats.expon()
    assert isinstance(channel, Nakagami)
    return stats.gamma(channel.m, scale=1 / channel.m)


@pytest.mark.parametrize("spec", [s for s in SPECS if "awgn" not in s and "shadow" not in s])
def test_every_step_has_the_stated_distribution(spec: str) -> None:
    channel = make_channel(spec)
    gains = channel.gains(np.random.default_rng(3), 6, (20_000,))
    for step in (0, 5):
        # At 20,000 draws a distribution off by .01 anywhere is found; a right one passes nearly
        # always (p > .001).
        assert stats.kstest(gains[step], of_scipy(channel).cdf).pvalue > 1e-3
    probability = np.array([0.001, 0.1, 0.5, 0.9, 0.999])
    np.testing.assert_allclose(
        channel.quantile(probability), of_scipy(channel).ppf(probability), rtol=1e-6
    )
    assert gains.mean() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("spec", SPECS)
def test_ergodic_spectral_efficiency_is_the_mean_over_draws(spec: str) -> None:
    channel = make_channel(spec)
    gains = channel.gains(np.random.default_rng(5), 2, (200_000,))[1]
    for snr in (0.01, 1.0, 100.0):
        rates = np.log2(1 + snr * gains)
        error = rates.std() / np.sqrt(len(rates))
        assert channel.spectral_efficiency(snr) == pytest.approx(rates.mean(), abs=5 * error + 1e-9)


def test_quadrature_equals_the_closed_form_of_rayleigh_fading() -> None:
    snr = np.array([[1e-3, 0.1], [1.0, 1e3]])
    general = Channel.spectral_efficiency(Rayleigh(), snr)
    np.testing.assert_allclose(general, wireless.ergodic_rate(1.0, snr), rtol=1e-8)
    np.testing.assert_allclose(general, Rician(k=0).spectral_efficiency(snr), rtol=1e-8)
    np.testing.assert_allclose(general, Nakagami(m=1).spectral_efficiency(snr), rtol=1e-8)


@pytest.mark.parametrize("spec", ["rayleigh", "rician:k=0"])
def test_correlation_of_rayleigh_gains_is_its_square(spec: str) -> None:
    """Of |h|² of a first-order autoregressive complex normal h the correlation is ρ²."""
    joint = f"{spec}{',' if ':' in spec else ':'}correlation=0.8"
    gains = make_channel(joint).gains(np.random.default_rng(7), 3, (100_000,))
    for first, second, expected in ((0, 1, 0.64), (1, 2, 0.64), (0, 2, 0.4096)):
        found = np.corrcoef(gains[first], gains[second])[0, 1]
        assert found == pytest.approx(expected, abs=0.02)


def test_shadowing_stays_or_changes() -> None:
    kept = make_channel("awgn:shadowing_db=6").gains(np.random.default_rng(1), 4, (9,))
    assert (kept == kept[0]).all()
    assert len(set(kept[0])) == 9
    in_db = 10 * np.log10(
        make_channel("awgn:shadowing_db=6").gains(np.random.default_rng(1), 1, (50_000,))
    )
    assert in_db.std() == pytest.approx(6, rel=0.02)
    assert in_db.mean() == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("spec", SPECS)
def test_whole_episodes_equal_their_steps(spec: str) -> None:
    channel = make_channel(spec)
    rng, memory = np.random.default_rng(11), None
    stepped = []
    for _ in range(5):
        gain, memory = channel.step(rng.standard_normal((channel.n_drawn, 3)), memory)
        assert memory.shape == (channel.memory, 3)
        stepped.append(gain)
    np.testing.assert_array_equal(
        channel.gains(np.random.default_rng(11), 5, (3,)), np.array(stepped)
    )


@pytest.mark.parametrize("spec", SPECS)
def test_steps_equal_one_link_after_another(spec: str) -> None:
    """Many lanes' links at once, some of which begin, against plain numbers."""
    channel, rng = make_channel(spec), np.random.default_rng(13)
    remembers = channel.correlation > 0 or channel.shadowing_db > 0
    memory = rng.standard_normal((channel.memory, 2, 3))
    normals = rng.standard_normal((channel.n_drawn, 2, 3))
    begun = np.array([[True], [False]])
    gains, kept = channel.step(normals, memory, begun)
    assert gains.shape == (2, 3)
    assert kept.shape == memory.shape
    for lane in range(2):
        for link in range(3):
            at, goes_on = np.s_[:, lane, link], lane == 0 and remembers
            values = [float(fresh) for fresh in normals[at]]
            for i, fresh in enumerate(values if goes_on else []):
                rho = (
                    channel.correlation if i < channel.n_normals else channel.shadowing_correlation
                )
                values[i] = rho * memory[at][i] + math.sqrt(1 - rho**2) * fresh
            small, of_shadow = values[: channel.n_normals], values[channel.n_normals :]
            gain = gain_of_one(channel, small)
            for value in of_shadow:
                gain *= 10 ** (channel.shadowing_db * value / 10)
            assert gains[lane, link] == pytest.approx(gain, rel=1e-9)
            np.testing.assert_allclose(kept[at], values if remembers else [], rtol=1e-12)


def gain_of_one(channel: Channel, normals: list[float]) -> float:
    """Return the small-scale gain that normal numbers make, in complex amplitudes or quantiles."""
    if isinstance(channel, NoFading):
        return 1.0
    if isinstance(channel, Rayleigh | Rician):
        k = getattr(channel, "k", 0.0)
        scattered = complex(*normals) / math.sqrt(2)
        return float(abs(math.sqrt(k / (k + 1)) + math.sqrt(1 / (k + 1)) * scattered) ** 2)
    return float(of_scipy(channel).ppf(stats.norm.cdf(normals[0])))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rayleih", "unknown channel 'rayleih', did you mean rayleigh"),
        ("rician:q=1", "channel 'rician' has no parameter 'q'"),
        ("rician:k=-1", "k must be a finite number"),
        ("rician:k", "channel must be name:parameter=number"),
        ("nakagami:m=two", "m must be a number"),
        ("nakagami:m=0.4", "m must be a finite number"),
        ("rayleigh:correlation=1", "correlation must be"),
    ],
)
def test_wrong_names_are_told(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_channel(spec)


@dataclass(frozen=True, kw_only=True)
class Weibull(Channel):
    """A model of one's own: its quantile is enough."""

    shape: float = 3.0

    def quantile(self, probability: np.ndarray) -> np.ndarray:
        distribution = stats.weibull_min(self.shape)
        return np.asarray(distribution.ppf(probability) / distribution.mean())


def test_a_model_of_ones_own_needs_its_quantile_alone() -> None:
    register_channel("weibull", Weibull)
    try:
        channel = make_channel("weibull:shape=2,correlation=0.5")
        gains = channel.gains(np.random.default_rng(0), 2, (20_000,))
        assert gains.mean() == pytest.approx(1, abs=0.02)
        assert np.corrcoef(gains)[0, 1] > 0.3
        exact = make_channel("rayleigh").spectral_efficiency(1.0)
        assert make_channel("weibull:shape=1").spectral_efficiency(1.0) == pytest.approx(exact)
        with pytest.raises(ValueError, match="there is a channel 'weibull' already"):
            register_channel("weibull", NoFading)
    finally:
        CHANNELS.unregister("weibull")
