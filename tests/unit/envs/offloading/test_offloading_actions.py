"""What actions of offloading mean: shares, levels, combinations."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from plain_offloading import COMBINATION, GRID, Plain, actions_for, make
from references import global_model
from rollouts import assert_same
from scipy.stats import kstest

from edge_gym.envs.offloading.actions import (
    CombinationCodec,
    GridCodec,
    OffloadingCodec,
    combination_of,
    levels_of,
)
from edge_gym.envs.offloading.config import OffloadingConfig
from edge_gym.solvers.offloading import Offloading


def test_combinations_are_numbered_with_the_last_user_counting_least() -> None:
    every = np.array(list(itertools.product(range(6), repeat=3)))
    numbers = combination_of(every)
    np.testing.assert_array_equal(numbers, np.arange(216))
    np.testing.assert_array_equal(levels_of(numbers, 3), every)
    np.testing.assert_array_equal(levels_of(numbers.reshape(6, 36), 3), every.reshape(6, 36, 3))
    assert levels_of(37, 3).tolist() == [1, 0, 1]
    largest = np.full(6, 5)
    assert combination_of(largest) == 6**6 - 1
    assert levels_of(6**6 - 1, 6).tolist() == largest.tolist()


def test_levels_mean_the_same_one_by_one_and_as_a_number() -> None:
    fields = {"n_devices": 4, "period": 2, "size_spread": 0.3, "iterations": 8}
    ours, theirs = make(**GRID, **fields), make(**COMBINATION, **fields)
    assert theirs.action_space.n == 6**4
    assert_same(ours.reset(seed=2), theirs.reset(seed=2))
    for levels in itertools.islice(actions_for(ours.config, 4), 8):
        number = int("".join(map(str, levels)), 6)
        assert_same(ours.step(levels), theirs.step(number))
    assert ours.problem.staleness.any()


@pytest.mark.parametrize("fields", [GRID, COMBINATION])
def test_actions_that_would_do_nothing_are_masked(fields: dict[str, Any]) -> None:
    """Where there are tasks no two actions do the same; where there are none, all would."""
    env = make(period=2, iterations=6, n_devices=2, **fields)
    observation, _ = env.reset(seed=0)
    every = list(itertools.product(range(6), repeat=2))
    for iteration in range(1, 7):
        masks = env.action_masks()
        assert masks.all() == (iteration % 2 == 0)
        assert masks.sum() == (masks.size if masks.all() else 1 if fields == COMBINATION else 2)
        state, ends = env.get_state(), set()
        for number, levels in enumerate(every):
            env.set_state(state)
            *_, info = env.step(number if fields == COMBINATION else np.array(levels))
            ends.add(info["wsel"])
            assert info["projected"] == (number > 0 and not masks.all())
        assert len(ends) == (36 if masks.all() else 1)
        env.set_state(state)
        observation = env.step(7 if fields == COMBINATION else np.array([1, 1]))[0]
    assert env.observation_space.contains(observation)


@pytest.mark.parametrize("fields", [GRID, {**COMBINATION, "energy_weight": 0.3}])
def test_all_else_is_optimal_for_what_is_offloaded(fields: dict[str, Any]) -> None:
    """Nothing near is better, and no equal shares."""
    env = make(period=2, iterations=12, **fields)
    env.reset(seed=4)
    plain, rng = Plain(env), np.random.default_rng(0)
    m, most = plain.m, env.config.max_cpu_hz
    for action in itertools.islice(actions_for(env.config, 1), 12):
        plain.look()
        *_, info = env.step(action)
        iota, up, down, hertz = plain.decided(action)
        assert sum(up) + sum(down) == pytest.approx(1, rel=1e-9)
        used = np.array([*up, *down])
        for scale in (0.003, 0.03, 0.3, 3.0):
            for _ in range(25):
                changed = scale * rng.integers(0, 2, 2 * m)
                share = used * np.exp(changed * rng.standard_normal(2 * m))
                share /= share.sum()
                other = np.minimum(hertz * np.exp(scale * rng.standard_normal(m)), most)
                for hz in (hertz, other.tolist()):
                    cost = plain.cost(iota, share[:m].tolist(), share[m:].tolist(), hz)
                    assert cost["wsel"] >= info["wsel"] * (1 - 1e-6)
        equal = (used > 0) / (used > 0).sum()
        cost = plain.cost(iota, equal[:m].tolist(), equal[m:].tolist(), hertz)
        assert cost["wsel"] > info["wsel"]
        plain.finish(global_model(env), iota, hertz, plain.cost(iota, up, down, hertz))


Decided = tuple[OffloadingConfig, Offloading, NDArray[np.bool_]]


def decisions(seed: int, n_users: int) -> Decided:
    """Draw feasible decisions of some instances that use the whole band."""
    rng, config = np.random.default_rng(seed), OffloadingConfig(n_devices=n_users)
    shape = 4, n_users
    has_tasks = rng.random(shape) < 0.8
    offloaded = rng.choice([0, 1, 2], shape)
    offloaded = np.where(offloaded == 2, rng.random(shape), offloaded) * has_tasks
    download = offloaded < 1
    # No share is below exp(-8) of the largest.
    weights = np.exp(rng.uniform(-4, 4, (2, *shape)))
    weights[1] *= download
    up, down = weights / weights.sum(axis=(0, 2), keepdims=True)
    hertz = np.where(has_tasks & download, rng.uniform(0.05, 1, shape) * config.max_cpu_hz, 0)
    return config, Offloading(offloaded, download, up, down, hertz), has_tasks


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_users=st.integers(1, 8))
def test_actions_and_decisions_translate(seed: int, n_users: int) -> None:
    config, wanted, has_tasks = decisions(seed, n_users)
    codec = OffloadingCodec(config)
    action = codec.encode(wanted)
    assert action.shape == (4, n_users, 4)
    assert action.dtype == np.float32
    assert (np.abs(action) <= 1).all()
    found = codec.decode(action, has_tasks)
    np.testing.assert_array_equal(found.download, wanted.download)
    for end in (0, 1):
        np.testing.assert_array_equal(found.offloaded == end, wanted.offloaded == end)
    np.testing.assert_allclose(found.offloaded, wanted.offloaded, atol=1e-7)
    np.testing.assert_allclose(found.uplink_share, wanted.uplink_share, rtol=2e-6)
    np.testing.assert_allclose(found.downlink_share, wanted.downlink_share, rtol=2e-6)
    np.testing.assert_allclose(found.cpu_hz, wanted.cpu_hz, rtol=2e-6)
    for kind in (GridCodec, CombinationCodec) if n_users <= 6 else (GridCodec,):
        levels = kind(config)
        near = levels.encode(wanted.offloaded)
        assert (np.abs(levels.decode(near) - wanted.offloaded) <= 0.1 + 1e-12).all()
        np.testing.assert_array_equal(levels.encode(levels.decode(near)), near)


def test_what_actions_cannot_say_is_raised() -> None:
    config = OffloadingConfig(n_devices=2)
    wanted = Offloading(
        np.array([0.5, 1.0]),
        np.array([True, False]),
        np.array([0.0, 0.9]),
        np.array([0.1, 0.0]),
        np.array([1e7, 0.0]),
    )
    codec = OffloadingCodec(config)
    found = codec.decode(codec.encode(wanted))
    shares = np.array([math.exp(-8) * 0.9, 0.9, 0.1, 0])
    shares /= shares.sum()
    np.testing.assert_allclose(found.uplink_share, shares[:2], rtol=1e-5)
    np.testing.assert_allclose(found.downlink_share, shares[2:], rtol=1e-5)
    np.testing.assert_allclose(found.cpu_hz, [0.05 * config.max_cpu_hz, 0])


def test_nothing_and_all_are_more_than_points() -> None:
    """Whoever explores offloads nothing, or all, once in forty actions."""
    config = OffloadingConfig(n_devices=1)
    draws = np.random.default_rng(0).uniform(-1, 1, (20_000, 1, 4))
    found = OffloadingCodec(config).decode(draws).offloaded[:, 0]
    share = 0.05 / 1.05 / 2
    assert np.mean(found == 0) == pytest.approx(share, abs=0.006)
    assert np.mean(found == 1) == pytest.approx(share, abs=0.006)
    between = found[(found > 0) & (found < 1)]
    assert kstest(between, "uniform").pvalue > 0.01
