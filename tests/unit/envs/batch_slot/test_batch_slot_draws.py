"""Batches and slots: what is drawn: places, processors, gains and batches."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from plain_batch_slot import DRIFTING, ENDLESS, GLOBAL, SMALL, make
from references import column
from rollouts import random_actions
from scipy.stats import kstest

from edge_gym.envs.batch_slot.env import BatchSlotVectorEnv
from edge_gym.physics.channel import make_channel


def many(n_lanes: int, **fields: Any) -> Any:
    """Return the problem of many lanes after a reset."""
    env: Any = BatchSlotVectorEnv(n_lanes, **{**SMALL, **fields})
    env.reset(seed=0)
    return env.problem


def gains_of(problem: Any) -> NDArray[np.float64]:
    """Let all rounds begin; return their gains, ``(n_lanes, rounds, 2, K)``."""
    kept = [problem.fading.gain.copy()]
    for _ in range(problem.config.max_rounds - 1):
        problem.rounds += 1
        problem.begin_round(np.arange(problem.n_lanes))
        kept.append(problem.fading.gain.copy())
    return np.stack(kept, axis=1)


def test_fading_does_not_depend_on_what_was_done() -> None:
    env, twin = make(**ENDLESS), make(**GLOBAL, **ENDLESS)
    ours, theirs = env.reset(seed=7)[0], twin.reset(seed=7)[0]
    seen = []
    for action in itertools.islice(random_actions(env.action_space), 5):
        for name in ("uplink_rate", "downlink_rate"):
            found = column(env, ours, "devices", name)
            np.testing.assert_array_equal(found, column(twin, theirs, "devices", name))
            seen.append(found)
        ours, theirs = env.step(action)[0], twin.step(0)[0]
    assert len(np.unique(seen)) == 40


def test_rates_are_constant_where_fading_is_averaged() -> None:
    env = make(fading="mean", **ENDLESS)
    first, _ = env.reset(seed=0)
    later = env.step(np.zeros((4, 3)))[0]
    for name in ("uplink_rate", "downlink_rate"):
        np.testing.assert_array_equal(
            column(env, first, "devices", name), column(env, later, "devices", name)
        )


@pytest.mark.parametrize(
    "channel", ["rayleigh", "rician:k=7", "nakagami:m=0.7,shadowing_db=5", DRIFTING]
)
def test_mean_rates_are_those_of_many_gains(channel: str) -> None:
    """The rates of ``fading="mean"`` are averages over the gains of ``fading="round"``."""
    env = make(fading="mean", channel=channel, **ENDLESS)
    observation, _ = env.reset(seed=0)
    drawn = make_channel(channel).gains(np.random.default_rng(1), 2, (200_000,))[1]
    for name, more in (
        ("uplink_rate", 0.0),
        ("downlink_rate", env.config.downlink_power_dbm - env.config.transmit_power_dbm),
    ):
        snr = env.problem.mean_snr[0][:, None] * 10 ** (more / 10)
        wanted = env.config.bandwidth_hz / 1e6 * np.log2(1 + snr * drawn).mean(axis=1)
        np.testing.assert_allclose(column(env, observation, "devices", name), wanted, rtol=0.005)


def test_gains_of_all_rounds_are_those_of_the_channel() -> None:
    fields = {"n_devices": 10, "samples_per_device": 2, "max_rounds": 100}
    assert (gains_of(many(2, **fields, channel="awgn")) == 1).all()
    rician = gains_of(many(10, **fields, channel="rician:k=9"))
    assert rician.shape == (10, 100, 2, 10)
    assert rician.mean() == pytest.approx(1, abs=0.02)
    # Var of the gain is (1 + 2K)/(1 + K)².
    assert rician.std() == pytest.approx(math.sqrt(19) / 10, abs=0.02)
    drifting = gains_of(many(10, **fields, channel="rayleigh:correlation=0.9"))
    found = np.corrcoef(drifting[:, :-1].ravel(), drifting[:, 1:].ravel())[0, 1]
    assert found == pytest.approx(0.81, abs=0.04)
    plain = many(10, **fields)
    np.testing.assert_array_equal(plain.mean_snr, many(10, **fields, channel="awgn").mean_snr)


def test_rates_follow_from_the_gains_of_the_round() -> None:
    env = make(channel="awgn", **ENDLESS)
    observation, _ = env.reset(seed=0)
    wanted = env.config.bandwidth_hz / 1e6 * np.log2(1 + env.problem.mean_snr[0])
    np.testing.assert_allclose(
        column(env, observation, "devices", "uplink_rate"), wanted, rtol=1e-6
    )


def test_places_processors_and_fading_are_drawn_as_documented() -> None:
    problem = many(40, n_devices=10, samples_per_device=2, max_rounds=4, cell_radius_m=200.0)
    loss_db = 28 - 10 * np.log10(problem.mean_snr.ravel()) - (-174 + 10 * math.log10(1e8))
    distance_km = 10 ** ((loss_db - 128.1) / 37.6)
    least = 1e-2
    inside = distance_km[distance_km > least * 1.001]
    scaled = (inside**2 - least**2) / (0.2**2 - least**2)
    assert kstest(scaled, "uniform").pvalue > 0.01
    assert kstest(gains_of(problem).ravel(), "expon").pvalue > 0.01
    # Ten devices make groups of four, three and three.
    groups = [0.7e9] * 4 + [1.4e9] * 3 + [2.1e9] * 3
    np.testing.assert_array_equal(problem.cpu_hz, np.broadcast_to(groups, (40, 10)))


def test_batches_are_drawn_evenly_from_all_samples() -> None:
    problem = many(200, samples_per_device=8, density=1.0, **ENDLESS)
    lanes = np.arange(200)
    problem.rows[:] = np.arange(problem.rows.shape[2])
    counts = np.zeros(8)
    for _ in range(5):
        drawn = problem.draw_batches(lanes, np.full((200, 4), 3))
        problem.rounds += 1
        assert (np.diff(np.sort(drawn, axis=2), axis=2) > 0).all()
        counts += np.bincount(drawn.ravel(), minlength=8)
    # 4,000 batches; five standard deviations.
    np.testing.assert_allclose(counts / 4000, 3 / 8, atol=0.04)
