"""What is drawn in update scheduling: places, processors, fading, failures and data."""

from __future__ import annotations

import itertools
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from plain_update_scheduling import DRIFTING, ENDLESS, LAZY, SMALL, make, many
from rollouts import assert_same, random_actions
from scipy.stats import kstest

from edge_gym.data import SampleError


def gains_over_rounds(channel: str, rounds: int = 30) -> NDArray[np.float64]:
    """Return the gains of 20 episodes' rounds, ``(rounds, 20, K)``."""
    many_rounds = {"update": "gradient", "validation_size": 10, "test_size": 10, **ENDLESS}
    env: Any = gym.make_vec(
        "edge_gym/UpdateSchedulingLazyDiscrete-v0",
        20,
        **{**SMALL, **many_rounds, "channel": channel},
        autoreset_mode=AutoresetMode.DISABLED,
    )
    env.reset(seed=3)
    gains = []
    for _ in range(rounds):
        gains.append(env.problem.fading.gain.copy())
        env.step(np.zeros(20, np.int64))
    return np.stack(gains)


def test_gains_are_those_of_the_channel() -> None:
    """Means, spreads and correlations over rounds are the model's."""
    plain = gains_over_rounds("rayleigh")
    assert (gains_over_rounds("awgn") == 1).all()
    steady = gains_over_rounds("rician:k=9")
    assert steady.mean() == pytest.approx(1, abs=0.05)
    # Var of the gain is (1 + 2K)/(1 + K)².
    assert steady.std() == pytest.approx(math.sqrt(19) / 10, abs=0.05)
    assert plain.std() > 2 * steady.std()
    drifting = gains_over_rounds("rayleigh:correlation=0.95")
    for gains, correlation in ((plain, 0.0), (drifting, 0.95**2)):
        found = np.corrcoef(gains[:-1].ravel(), gains[1:].ravel())[0, 1]
        assert found == pytest.approx(correlation, abs=0.12)
    # Shadowing stays for the episode, and each begins with its own.
    shadowed = 10 * np.log10(gains_over_rounds("awgn:shadowing_db=6"))
    assert np.ptp(shadowed, axis=0).max() < 1e-9
    assert shadowed[0].std() == pytest.approx(6, rel=0.25)


def test_the_same_seed_has_the_same_system_under_every_channel() -> None:
    """Nothing else is shifted by how many numbers a channel takes."""
    envs = [make(channel=channel) for channel in ("rayleigh", "awgn", DRIFTING)]
    for env in envs:
        env.reset(seed=9)
    for name in ("mean_snr", "cpu_hz", "sizes", "rows", "validation", "compute_s"):
        for env in envs[1:]:
            np.testing.assert_array_equal(
                getattr(env.problem, name), getattr(envs[0].problem, name)
            )


def test_a_reset_forgets_the_channel() -> None:
    """The first gains of an episode do not depend on the episode before."""
    env, twin = (make(channel=DRIFTING, **ENDLESS) for _ in range(2))
    env.reset(seed=0)
    for action in itertools.islice(random_actions(env.action_space), 3):
        env.step(action)
    assert_same(env.reset(seed=1), twin.reset(seed=1))


def test_places_processors_and_luck_are_drawn_as_documented() -> None:
    fields = {"cell_radius_m": 400.0, "packet_error": 0.4, "drop_out": 0.2, "n_devices": 10}
    problem = many(40, samples_per_device=2, partition="iid", size_spread=0, **fields)
    noise_dbm = -174 + 10 * math.log10(5e6)
    loss_db = 23 - 10 * np.log10(problem.mean_snr.ravel()) - noise_dbm
    distance_km = 10 ** ((loss_db - 128.1) / 37.6)
    assert distance_km.min() >= 0.01 - 1e-9
    assert kstest((distance_km / 0.4) ** 2, "uniform").pvalue > 0.01
    low, high = problem.config.cpu_hz
    assert kstest((problem.cpu_hz.ravel() - low) / (high - low), "uniform").pvalue > 0.01
    assert kstest(problem.packet_error.ravel() / 0.4, "uniform").pvalue > 0.01
    assert kstest(problem.drop_out.ravel() / 0.2, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(problem.packet_error.ravel(), problem.drop_out.ravel())[0, 1]) < 0.2
    assert kstest(problem.fading.gain.ravel(), "expon").pvalue > 0.01
    cycles = 4.0 * 6 * problem.network.macs * problem.sizes
    slow = problem.compute_s / (cycles / problem.cpu_hz)
    assert set(slow.round(6).ravel()) == {1.0, problem.config.slowdown}
    assert np.mean(slow > 1.5) == pytest.approx(problem.config.slowdown_probability, abs=0.05)


def test_updates_fail_as_often_as_they_should() -> None:
    lanes, n = np.arange(50), 16
    problem = many(50, LAZY, packet_error=0.5, drop_out=0.5, samples_per_device=2, **ENDLESS)
    problem.packet_error[:], problem.drop_out[:] = [0.0, 0.1, 0.5, 0.9], [0.6, 0.0, 0.5, 0.1]
    for _ in range(n):
        problem.step_lanes(lanes, np.ones((50, 4), np.float32))
    assert (problem.uploads == n).all()
    wanted = (1 - problem.packet_error) * (1 - problem.drop_out)
    # Five standard deviations of 800 draws.
    np.testing.assert_allclose(problem.arrivals.mean(axis=0) / n, wanted[0], atol=0.09)


@pytest.mark.parametrize("redundancy", [1, 2, 3])
@pytest.mark.parametrize("partition", ["iid", "shards", "dirichlet"])
def test_who_holds_which_samples(partition: str, redundancy: int) -> None:
    env = make(
        partition=partition, redundancy=redundancy, n_devices=6, samples_per_device=40, **ENDLESS
    )
    env.reset(seed=5)
    problem = env.problem
    groups = []
    for first in range(0, 6, redundancy):
        members = range(first, first + redundancy)
        held = [problem.rows[0, k, : problem.sizes[0, k]].tolist() for k in members]
        assert all(rows == held[0] for rows in held)
        groups.append(held[0])
    every = list(itertools.chain(*groups))
    assert len(set(every)) == len(every)
    assert not set(every) & set(problem.validation[0])
    labels = problem.features.train_labels
    classes = [len(set(labels[rows])) for rows in groups]
    if partition == "shards":
        # Two shards, each of as many classes as it can touch.
        assert max(classes) <= 2 * (math.ceil(10 / (2 * len(groups))) + 1)
    else:
        assert min(classes) >= (7 if partition == "iid" else 2)


@pytest.mark.parametrize(("redundancy", "spread"), [(1, 0.0), (1, 0.5), (2, 0.3), (1, 0.9)])
def test_sizes_spread_evenly_about_their_mean(redundancy: int, spread: float) -> None:
    problem = many(
        30,
        partition="iid",
        n_devices=6,
        samples_per_device=100,
        size_spread=spread,
        redundancy=redundancy,
    )
    relative = problem.sizes[:, ::redundancy].ravel() / (100 * redundancy)
    assert relative.min() >= 1 - spread - 0.01
    assert relative.max() <= 1 + spread + 0.01
    if not spread:
        assert (relative == 1).all()
        return
    assert kstest((relative - 1 + spread) / (2 * spread), "uniform").pvalue > 0.01


def test_all_samples_are_shared_out_where_no_number_is_given() -> None:
    env = make(samples_per_device=None, size_spread=0)
    env.reset(seed=0)
    n_train = len(env.problem.features.train_labels)
    assert env.problem.sizes.sum() == n_train - SMALL["validation_size"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_devices": 10_000, "partition": "iid"}, "too few for n_devices = 10000"),
        ({"n_devices": 8_000}, "too few for 16000 shards"),
    ],
)
def test_too_few_samples_say_so(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SampleError, match=message):
        make(**fields)
