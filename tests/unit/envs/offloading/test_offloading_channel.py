"""Places and links of offloading: users move, links fade as the channel says."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from plain_offloading import actions_for, direct, make, many
from references import column
from rollouts import assert_same
from scipy.stats import kstest


def test_places_and_fading_are_drawn_as_documented() -> None:
    distances = {}
    for placement in ("ring", "disc"):
        problem = many(40, n_devices=10, placement=placement, cell_radius_m=80.0).problem
        x, y = problem.place_m.reshape(-1, 2).T
        distances[placement] = np.hypot(x, y)
        assert kstest(np.arctan2(y, x) / (2 * np.pi) % 1, "uniform").pvalue > 0.01
        assert kstest(problem.fading.gain.ravel(), "expon").pvalue > 0.01
    np.testing.assert_allclose(distances["ring"], 80)
    assert kstest((distances["disc"] / 80) ** 2, "uniform").pvalue > 0.01


@pytest.mark.parametrize("fading", ["episode", "iteration"])
def test_channels_fade_once_or_in_every_iteration(fading: str) -> None:
    env = make(fading=fading)
    seen = [column(env, env.reset(seed=0)[0], "devices", "gain_db")]
    for _ in range(5):
        seen.append(column(env, env.step(direct(0))[0], "devices", "gain_db"))
    assert len(np.unique(seen)) == (3 if fading == "episode" else 18)
    other = column(env, env.reset(seed=1)[0], "devices", "gain_db")
    assert not np.intersect1d(other, seen).size


@pytest.mark.parametrize("placement", ["ring", "disc"])
def test_users_walk_within_the_cell(placement: str) -> None:
    radius, step = 30.0, 7.0
    env = many(30, n_devices=8, placement=placement, cell_radius_m=radius, move_m=step)
    problem, angles, thrown_back = env.problem, [], 0
    if placement == "ring":
        # Nobody walks before the first iteration.
        np.testing.assert_allclose(np.hypot(*np.moveaxis(problem.place_m, -1, 0)), radius)
    for _ in range(4):
        before = problem.place_m.copy()
        env.step(np.zeros((30, 8, 4)))
        after = problem.place_m
        distance = np.hypot(*np.moveaxis(after, -1, 0))
        assert (distance <= radius * (1 + 1e-12)).all()
        # Who would have left is as far within the edge as it would be beyond.
        mirrored = after * ((2 * radius - distance) / np.maximum(distance, 1e-9))[..., None]
        walked = np.hypot(*np.moveaxis(after - before, -1, 0))
        walked_out = np.hypot(*np.moveaxis(mirrored - before, -1, 0))
        inside = np.isclose(walked, step, rtol=1e-9)
        assert (inside | np.isclose(walked_out, step, rtol=1e-9)).all()
        thrown_back += (~inside).sum()
        free = np.hypot(*np.moveaxis(before, -1, 0)) < radius - step
        angles += np.arctan2(*np.moveaxis((after - before)[free], -1, 0)).tolist()
    assert thrown_back > 50
    assert kstest(np.array(angles) / (2 * np.pi) % 1, "uniform").pvalue > 0.01


def test_steps_longer_than_the_cell_stay_within() -> None:
    env = many(20, move_m=500.0, cell_radius_m=40.0)
    for _ in range(3):
        env.step(np.zeros((20, 3, 4)))
        places = env.problem.place_m
        assert np.hypot(places[..., 0], places[..., 1]).max() <= 40 * (1 + 1e-12)


def test_who_moves_changes_its_gain_by_distance_alone() -> None:
    env = many(10, fading="episode", move_m=9.0, placement="disc", path_loss_exponent=3.3)
    problem, constants, distances = env.problem, [], []
    for _ in range(4):
        distance = np.hypot(problem.place_m[..., 0], problem.place_m[..., 1])
        observed = column(env, problem.observe(), "devices", "gain_db").astype(np.float64)
        constants.append(observed + 33 * np.log10(np.maximum(distance, 1)))
        distances.append(distance)
        env.step(np.zeros((10, 3, 4)))
    np.testing.assert_allclose(constants, np.tile(constants[0], (4, 1, 1)), atol=1e-4)
    assert np.ptp(distances, axis=0).min() > 0.01
    mean_db = 10 * math.log10(4.11) + 33 * math.log10(3e8 / (4 * math.pi * 2.4e9))
    fade = 10 ** ((constants[0] - mean_db) / 10)
    np.testing.assert_allclose(fade, problem.fading.gain, rtol=1e-4)


def test_the_path_loss_ends_a_metre_from_the_server() -> None:
    env = make(fading="episode")
    env.reset(seed=0)
    env.problem.place_m[0] = [[0, 0], [0.3, 0.4], [0, 1]]
    observation = env.step(direct(0))[0]
    gain_db = column(env, observation, "devices", "gain_db")
    without = gain_db - 10 * np.log10(env.problem.fading.gain[0])
    mean_db = 10 * math.log10(4.11) + 29 * math.log10(3e8 / (4 * math.pi * 2.4e9))
    np.testing.assert_allclose(without, mean_db, atol=1e-4)


def fadings(n_iterations: int, **fields: Any) -> NDArray[np.float64]:
    """Return the fading of all iterations of 60 episodes, ``(n, 60, M)``."""
    env = many(60, iterations=n_iterations, **fields)
    env.problem.train = lambda lanes: None
    kept = [env.problem.fading.gain.copy()]
    for action in itertools.islice(actions_for(env.config), n_iterations - 1):
        env.step(np.array([action] * 60))
        kept.append(env.problem.fading.gain.copy())
    return np.array(kept)


@pytest.mark.parametrize(
    ("channel", "variance"),
    [("rayleigh", 1.0), ("rician:k=5", 11 / 36), ("nakagami:m=2", 0.5), ("awgn", 0.0)],
)
def test_links_fade_as_the_channel_says(channel: str, variance: float) -> None:
    gain = fadings(12, channel=channel)
    assert gain.mean() == pytest.approx(1, abs=0.07)
    assert gain.var() == pytest.approx(variance, abs=0.15)


def test_fading_is_correlated_and_shadowed_over_iterations() -> None:
    slow = np.log(fadings(6, channel="rayleigh:correlation=0.95")).reshape(6, -1)
    assert np.corrcoef(slow[0], slow[1])[0, 1] > 0.6
    shadowed = fadings(4, channel="awgn:shadowing_db=6")
    np.testing.assert_allclose(shadowed, np.repeat(shadowed[:1], 4, axis=0))
    assert np.std(10 * np.log10(shadowed[0])) == pytest.approx(6, abs=1)
    once = fadings(4, channel="rician:k=5,correlation=0.5", fading="episode")
    np.testing.assert_array_equal(once, np.repeat(once[:1], 4, axis=0))


@pytest.mark.parametrize("fields", [{}, {"fading": "episode"}])
def test_episodes_under_any_channel_go_on_from_their_state(fields: dict[str, Any]) -> None:
    channel = "rician:k=5,correlation=0.9,shadowing_db=4"
    env, twin = (make(iterations=6, channel=channel, **fields) for _ in range(2))
    env.reset(seed=0)
    chosen = list(itertools.islice(actions_for(env.config), 6))
    for action in chosen[:3]:
        env.step(action)
    twin.reset(seed=9)
    twin.step(chosen[0])
    twin.set_state(env.get_state())
    for action in chosen[3:]:
        assert_same(env.step(action), twin.step(action))
