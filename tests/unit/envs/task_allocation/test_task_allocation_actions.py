"""What actions of task allocation mean: shares, caps, resources."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_task_allocation import (
    FADING,
    FEDERATED,
    JOINT,
    RISK,
    SMALL,
    STALENESS,
    largest_remainders,
    make,
)
from references import column
from rollouts import assert_same, random_actions

from edge_gym.envs.task_allocation.actions import JointCodec, JointShares, TaskCodec
from edge_gym.envs.task_allocation.config import TaskAllocationConfig
from edge_gym.envs.task_allocation.env import TaskAllocationVectorEnv
from edge_gym.solvers.task_allocation import Tasks, exact_allocation
from edge_gym.solvers.task_resources import Resources

pytestmark = pytest.mark.usefixtures("one_torch_thread")

LANE = np.zeros(1, np.int64)


@settings(max_examples=200, deadline=None)
@given(
    logits=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=12),
    none=st.lists(st.booleans(), min_size=12, max_size=12),
    total=st.integers(1, 100_000),
)
def test_samples_are_shared_out_in_proportion(
    logits: list[float], none: list[bool], total: int
) -> None:
    for k in range(len(logits)):
        logits[k] = -1.0 if none[k] else logits[k]
    array = np.array([logits], np.float32)
    codec = TaskCodec(TaskAllocationConfig(n_devices=12))
    shares = codec.decode(np.stack([array, np.zeros_like(array)], axis=-1))
    found = shares.samples(np.array([total]))[0]
    wanted = largest_remainders(array[0], total)
    assert found.sum() == total
    # Rounding may decide between equal remainders.
    assert np.abs(found - wanted).max() <= 1
    weights = np.where(array[0] > -1, np.exp(3 * array[0].astype(float)), 0)
    weights = weights if weights.any() else np.ones_like(weights)
    assert (np.abs(found - total * weights / weights.sum()) < 1 + 1e-6).all()
    assert (found[weights == 0] == 0).all()


def test_a_cap_means_the_exact_allocation() -> None:
    """The twin does in every cycle, to the bit, what the exact tasks do as a direct action."""
    twin, direct = make(**STALENESS, **FADING), make(**FADING)
    assert_same(twin.reset(seed=4)[1], direct.reset(seed=4)[1])
    config, seen = direct.config, []
    for i in (1, 0, 3, 5, 2, 4):
        tasks = exact_allocation(direct.problem.costs(LANE), 48, config.caps[i], 2, 12)
        assert tasks.samples.sum() == 48
        ours, theirs = twin.step(i), direct.step(direct.problem.codec.encode(tasks)[0])
        assert ours[1] == theirs[1]
        assert_same(ours[4], theirs[4])
        np.testing.assert_array_equal(ours[0]["devices"], theirs[0]["devices"])
        assert ours[4]["lowered"] == 0
        assert ours[4]["staleness"] <= config.caps[i]
        seen.append(tuple(tasks.samples[0]))
    assert len(set(seen)) == 6


def test_choices_follow_the_fading() -> None:
    for fields in ({}, FADING):
        env = make(**STALENESS, **fields, cycle_s=3.0)
        observation, _ = env.reset(seed=0)
        names = [f"{what}_{cap}" for what in ("updates", "work") for cap in range(6)]
        rows = [[column(env, observation, "system", name) for name in names]]
        for i in range(5):
            observation, *_ = env.step(i)
            rows.append([column(env, observation, "system", name) for name in names])
        # Means of updates do not fall with the cap.
        assert (np.diff(np.array(rows)[:, :6]) >= 0).all()
        assert len(np.unique(rows, axis=0)) in ((4, 5, 6) if fields else (1,))


@pytest.mark.parametrize("fields", [{}, {**FADING, **RISK}, FEDERATED])
def test_fair_shares_full_power_and_speed_are_the_direct_actions(fields: dict[str, Any]) -> None:
    direct, joint = make(**fields), make(**JOINT, **fields)
    direct.reset(seed=2), joint.reset(seed=2)
    for action in itertools.islice(random_actions(direct.action_space, 7), 6):
        full = np.concatenate([action, np.tile(np.float32([0.3, 1, 1]), (4, 1))], axis=1)
        theirs, ours = direct.step(action), joint.step(full)
        assert ours[1] == theirs[1]
        shared = [named.name for named in direct.tables["devices"] if named.name != "finish_s"]
        for name in shared:
            found, wanted = (
                column(env, step[0], "devices", name)
                for env, step in ((joint, ours), (direct, theirs))
            )
            np.testing.assert_array_equal(found, wanted, err_msg=name)
        for name in ("updates", "weighted_updates", "lowered", "left_out", "arrived"):
            assert ours[4][name] == theirs[4][name], name
        if "slowdown_probability" not in fields:
            assert ours[4]["finish_s"] == pytest.approx(theirs[4]["finish_s"], rel=1e-9)
            assert ours[4]["joules"] == pytest.approx(theirs[4]["joules"], rel=1e-9)


@pytest.mark.parametrize("n_devices", [1, 4, 20])
def test_tasks_and_resources_translate_into_actions(n_devices: int) -> None:
    config = TaskAllocationConfig(**JOINT, n_devices=n_devices, cpu_groups_hz=(6e9,))
    env: Any = TaskAllocationVectorEnv(50, config=config, validation_size=5, test_size=5)
    env.reset(seed=0)
    problem, lanes = env.problem, np.arange(50)
    rng, shape = np.random.default_rng(n_devices), (50, n_devices)
    for total in (n_devices, 1500, 60_000):
        # Nobody's share is below exp(-6) of the largest.
        weights = np.exp(rng.uniform(-5.9, 0, shape)) * (rng.random(shape) < 0.8)
        weights[:, 0] = 1
        samples = np.stack([rng.multinomial(total, row / row.sum()) for row in weights])
        samples[samples < samples.max(axis=1, keepdims=True) * math.exp(-6)] = 0
        problem.total[:] = samples.sum(axis=1)
        updates = rng.integers(0, 13, shape)
        band = np.exp(rng.uniform(-5.9, 0, shape))
        band *= n_devices * config.bandwidth_hz / band.sum(axis=1, keepdims=True)
        limits = problem.limits(lanes)
        power = limits.max_power_w * 10 ** rng.uniform(-3, 0, shape)
        cpu = limits.max_cpu_hz * rng.uniform(0.05, 1, shape)
        wanted, resources = Tasks(samples, updates), Resources(band, power, cpu)
        action = problem.codec.encode(JointShares.of(wanted, resources, limits))
        assert action.dtype == np.float32
        assert env.action_space.contains(action)
        np.testing.assert_array_equal(action[..., :2], TaskCodec(config).encode(wanted))
        given, found, used = problem.decide(lanes, action)
        np.testing.assert_array_equal(given, samples)
        np.testing.assert_array_equal(found, updates)
        for array, value in zip(used, resources, strict=True):
            np.testing.assert_allclose(array, value, rtol=2e-6)


def test_what_actions_cannot_say_is_clipped() -> None:
    config = TaskAllocationConfig(**SMALL, **JOINT)
    env: Any = TaskAllocationVectorEnv(1, config=config)
    env.reset(seed=0)
    problem = env.problem
    problem.total[:] = 1000
    limits = problem.limits(LANE)
    tasks = Tasks(np.array([[999, 1, 0, 0]]), np.array([[99, 12, 0, 0]]))
    resources = Resources(
        2e7 * np.array([[1.0, 1e-6, 0.0, 0.0]]),
        limits.max_power_w * np.array([[1.0, 1e-5, 0.0, 2.0]]),
        limits.max_cpu_hz * np.array([[1.0, 0.01, 0.0, 2.0]]),
    )
    action = JointCodec(config).encode(JointShares.of(tasks, resources, limits))
    given, updates, used = problem.decide(LANE, action)
    least = math.exp(-6)
    # 2.47 samples are rounded.
    assert given.tolist() == [[998, 2, 0, 0]]
    assert updates.tolist() == [[12, 12, 0, 0]]
    wanted = 2e7 * np.array([[1, least, least, least]]) / (1 + 3 * least)
    np.testing.assert_allclose(used.band_hz, wanted, rtol=1e-5)
    np.testing.assert_allclose(used.power_w / limits.max_power_w, [[1, 1e-3, 1e-3, 1]], rtol=1e-5)
    np.testing.assert_allclose(used.cpu_hz / limits.max_cpu_hz, [[1, 0.05, 0.05, 1]], rtol=1e-5)
