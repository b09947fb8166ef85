"""The environments of task allocation: lanes, states, checkers."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from plain_task_allocation import FADING, FEDERATED, JOINT, RISK, SMALL, STALENESS, make
from references import global_model
from rollouts import assert_same, random_actions
from stable_baselines3.common.env_checker import check_env as check_for_sb3

from edge_gym.envs.task_allocation.env import TaskAllocationEnv, TaskAllocationVectorEnv

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.mark.parametrize(
    "fields",
    [
        {**FADING, **RISK, "redundancy": 2},
        {**STALENESS, **FADING},
        {**JOINT, **FEDERATED, "size_spread": 0.5, "cycle_s": 3.0},
    ],
)
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_lane_equals_the_scalar_environment(mode: AutoresetMode, fields: dict[str, Any]) -> None:
    fields = {**SMALL, "cycles": 3, "task_share": 0.8, **fields}
    ours: Any = TaskAllocationVectorEnv(3, autoreset_mode=mode, **fields)
    theirs = SyncVectorEnv([lambda: TaskAllocationEnv(**fields)] * 3, autoreset_mode=mode)
    assert_same(ours.reset(seed=3), theirs.reset(seed=3))
    chosen = random_actions(ours.single_action_space)
    for _ in range(8):
        action = np.array([next(chosen) for _ in range(3)])
        assert_same(ours.step(action), theirs.step(action))


@pytest.mark.parametrize("fields", [{**STALENESS, **FADING}, STALENESS])
def test_lanes_may_be_at_different_cycles(fields: dict[str, Any]) -> None:
    env: Any = TaskAllocationVectorEnv(3, autoreset_mode="Disabled", **{**SMALL, **fields})
    env.reset(seed=0)
    for i in (1, 2):
        env.step(np.full(3, i))
    mask = np.array([False, True, False])
    env.reset(seed=[None, 40, None], options={"reset_mask": mask})
    for i in (3, 0):
        observation, *_ = env.step(np.full(3, i))
    for lane, (seed, actions) in enumerate(((0, (1, 2, 3, 0)), (40, (3, 0)), (2, (1, 2, 3, 0)))):
        alone = make(**fields)
        alone.reset(seed=seed)
        for i in actions:
            wanted, *_ = alone.step(i)
        for part, values in wanted.items():
            np.testing.assert_array_equal(observation[part][lane], values)


@pytest.mark.parametrize("fields", [{**FADING, **RISK}, {**STALENESS, **FADING}, JOINT])
def test_episodes_go_on_from_their_state(fields: dict[str, Any]) -> None:
    env, twin = (make(**fields, targets=(0.05, 0.9)) for _ in range(2))
    env.reset(seed=0)
    chosen = list(itertools.islice(random_actions(env.action_space), 6))
    for action in chosen[:3]:
        env.step(action)
    state = env.get_state()
    twin.reset(seed=99)
    twin.set_state(state)
    for name, value in vars(env.problem).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(vars(twin.problem)[name], value, err_msg=name)
    for action in chosen[3:]:
        assert_same(env.step(action), twin.step(action))


@pytest.mark.parametrize("fields", [FADING, STALENESS, JOINT])
def test_a_new_episode_knows_nothing_of_the_last_one(fields: dict[str, Any]) -> None:
    env, fresh = (make(**fields, targets=(0.1, 0.3), cycles=4) for _ in range(2))
    env.reset(seed=0)
    for action in itertools.islice(random_actions(env.action_space), 4):
        env.step(action)
    assert_same(env.reset(seed=1), fresh.reset(seed=1))
    for action in itertools.islice(random_actions(env.action_space, 1), 4):
        assert_same(env.step(action), fresh.step(action))


def test_learners_may_be_named_in_any_order() -> None:
    # Each trains on all that it has, and a batch holds all of that.
    fields = {**FEDERATED, **JOINT, "size_spread": 0.5, "batch_size": 1000, "cpu_groups_hz": None}
    env, twin = (make(**fields, cycle_s=10.0, energy_limit_j=9.0) for _ in range(2))
    env.reset(seed=1)
    sizes = env.problem.sizes[0]
    assert len(set(sizes)) == 4
    action = np.random.default_rng(0).uniform(0.3, 1, (4, 5))
    action[:, 0], action[:, 1] = 1 + np.log(sizes / sizes.max()) / 3, [-0.7, -0.5, -0.7, -0.4]
    env.step(action)
    order = np.array([2, 0, 3, 1])
    state = env.get_state()
    problem = state["problem"]
    by_learner = [key for key, value in problem.items() if np.shape(value)[1:2] == (4,)]
    assert {"rows", "limit_j", "joules", "cpu_hz"} < set(by_learner)
    permuted = {key: problem[key][:, order] for key in by_learner}
    permuted["resource_shares"] = problem["resource_shares"][..., order]
    permuted["fading"] = {key: part[..., order] for key, part in problem["fading"].items()}
    twin.set_state({**state, "problem": {**problem, **permuted}})
    theirs, ours = env.step(action), twin.step(action[order])
    np.testing.assert_allclose(global_model(twin), global_model(env), atol=1e-6)
    for name in theirs[4]:
        assert ours[4][name] == pytest.approx(theirs[4][name], rel=1e-6), name
    assert (ours[4]["arrived"], ours[4]["samples"]) == (4, sizes.sum())
    np.testing.assert_allclose(ours[0]["devices"], theirs[0]["devices"][order], rtol=1e-5)
    np.testing.assert_allclose(ours[0]["system"], theirs[0]["system"], rtol=1e-4)


@pytest.mark.parametrize("fields", [{**FADING, **RISK, "redundancy": 2}, STALENESS, JOINT])
def test_checkers_find_nothing(fields: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(**fields), skip_render_check=True)
        # It expects vectors or images.
        warnings.filterwarnings("ignore", "Your observation devices has an unconventional shape")
        check_for_sb3(make(**fields))
