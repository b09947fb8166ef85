"""Data scheduling: what the server receives, and over which channels."""

from __future__ import annotations

import numpy as np
import pytest
from references import column
from rollouts import random_actions
from scipy.stats import kstest
from small_data_scheduling import BATCH, SAMPLE, make


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_received_samples_have_the_stated_noise(snr_db: float) -> None:
    env = make(mean_snr_db=snr_db, budget=300, retrain_every=300, test_size=20)
    observation, _ = env.reset(seed=0)
    actions = random_actions(env.action_space)
    features = env.problem.features.train
    noises = []
    for _ in range(300):
        action = next(actions)
        snr = 10 ** (column(env, observation, "devices", "snr_db")[action // 3] / 10)
        row = env.problem.buffers.rows[0].ravel()[action]
        observation = env.step(action)[0]
        received = env.problem.received[0]
        noises.append((received - features[row]) * np.sqrt(snr))
    noise = np.array(noises)
    n = noise.size
    assert n == 300 * 49
    # E|x̂ - x|² = d/γ: five deviations of the mean of n squares, and of n values.
    assert np.square(noise).mean() == pytest.approx(1, abs=5 * np.sqrt(2 / n))
    assert noise.mean() == pytest.approx(0, abs=5 / np.sqrt(n))
    assert (noise[1:] * noise[:-1]).mean() == pytest.approx(0, abs=5 / np.sqrt(n))
    assert kstest(noise.ravel(), "norm").pvalue > 1e-3


@pytest.mark.parametrize(("name", "size"), [(SAMPLE, 14), (BATCH, 7)])
def test_the_snr_of_a_symbol_stands_beside_that_of_the_sample(name: str, size: int) -> None:
    env = make(name, image_size=size, path_loss_exponent=3.0)
    observation, _ = env.reset(seed=1)
    np.testing.assert_allclose(
        column(env, observation, "devices", "symbol_snr_db"),
        column(env, observation, "devices", "snr_db") - 20 * np.log10(size),
        rtol=1e-5,
    )
    # Last, so that what stands before it keeps its place.
    assert env.tables["devices"].columns[-1].name == "symbol_snr_db"


def test_fading_is_exponential_with_the_devices_mean() -> None:
    env = make(mean_snr_db=10, n_devices=40, buffer_size=1, budget=60, retrain_every=60)
    observation, _ = env.reset(seed=0)
    gains = []
    over = False
    while not over:
        snr_db = column(env, observation, "devices", "snr_db")
        gains.append(10 ** ((snr_db - column(env, observation, "devices", "mean_snr_db")) / 10))
        observation, _, over, *_ = env.step(0)
    assert kstest(np.ravel(gains), "expon").pvalue > 1e-3
    assert np.mean(gains) == pytest.approx(1, abs=5 / np.sqrt(np.size(gains)))
    np.testing.assert_allclose(column(env, observation, "devices", "mean_snr_db"), 10, rtol=1e-6)


@pytest.mark.parametrize("exponent", [2.0, 3.5])
def test_devices_lie_anywhere_in_a_disc(exponent: float) -> None:
    env = make(mean_snr_db=15, path_loss_exponent=exponent, n_devices=100, buffer_size=1)
    means = []
    for seed in range(15):
        observation, _ = env.reset(seed=seed)
        means.append(column(env, observation, "devices", "mean_snr_db"))
    means_db = np.ravel(means)
    # A distance r in the unit disc has P(r < x) = x², the median √½, and no one is closer than .1.
    distance = np.sqrt(0.5) * 10 ** ((15 - means_db) / (10 * exponent))
    assert distance.max() <= 1 + 1e-5
    assert distance.min() == pytest.approx(0.1, rel=1e-5)
    assert (distance < 0.1001).mean() == pytest.approx(0.01, abs=5 * np.sqrt(0.01 / 1500))
    beyond = distance[distance > 0.1001]
    assert kstest((beyond**2 - 0.01) / 0.99, "uniform").pvalue > 1e-3
    # Near the median r = √½ of 1,500 squares deviates by 1/(2√1500), so by 0.11 dB a power.
    assert np.median(means_db) == pytest.approx(15, abs=5 * 0.057 * exponent)


def test_equal_devices_without_path_loss() -> None:
    env = make(mean_snr_db=7)
    observation, _ = env.reset(seed=0)
    np.testing.assert_allclose(column(env, observation, "devices", "mean_snr_db"), 7, rtol=1e-6)
