"""Batches and slots as an environment: lanes, states, checkers and agents."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from plain_batch_slot import DRIFTING, ENDLESS, GLOBAL, MODEL, SMALL, make
from rollouts import assert_same, random_actions
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_checker import check_env as check_for_sb3

from edge_gym.envs.batch_slot.env import BatchSlotEnv, BatchSlotVectorEnv


@pytest.mark.parametrize(
    "actions",
    [{}, {**GLOBAL, "n_devices": 12, "samples_per_device": 14}, {"download": "union"}],
)
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_lane_equals_the_scalar_environment(mode: AutoresetMode, actions: Any) -> None:
    fields = {**SMALL, "budget_s": 4e-4, "bits": 8, "size_spread": 0.4, **actions}
    ours: Any = BatchSlotVectorEnv(3, autoreset_mode=mode, **fields)
    theirs = SyncVectorEnv([lambda: BatchSlotEnv(**fields)] * 3, autoreset_mode=mode)
    assert_same(ours.reset(seed=3), theirs.reset(seed=3))
    chosen, ends = random_actions(ours.single_action_space), []
    for _ in range(40):
        action = np.array([next(chosen) for _ in range(3)])
        results = ours.step(action), theirs.step(action)
        assert_same(*results)
        ends.append(results[0][2] | results[0][3])
    assert np.sum(ends, axis=0).min() >= 2
    assert 1 in np.sum(ends, axis=1)


@pytest.mark.parametrize("fields", [{}, {"device": "gpu", "fading": "mean"}])
def test_lanes_may_begin_one_after_the_other(fields: dict[str, Any]) -> None:
    env: Any = BatchSlotVectorEnv(3, **{**SMALL, **fields})
    for lane in (1, 0, 2):
        mask = np.arange(3) == lane
        observation, _ = env.reset(seed=0, options={"reset_mask": mask})
        assert env.observation_space.contains(observation)
    theirs, _ = BatchSlotVectorEnv(3, **{**SMALL, **fields}).reset(seed=0)
    assert_same(observation, theirs)


def test_lanes_that_learn_in_parts_learn_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = (BatchSlotVectorEnv(5, **{**SMALL, **ENDLESS}) for _ in range(2))
    ours.reset(seed=0), theirs.reset(seed=0)
    actions = random_actions(ours.action_space)
    for _ in range(3):
        action = next(actions)
        wanted = ours.step(action)
        with monkeypatch.context() as patch:
            patch.setattr("edge_gym.envs.batch_slot.dynamics.VALUES_AT_ONCE", 4 * 490 * 2)
            assert_same(theirs.step(action), wanted)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {**GLOBAL, "fading": "mean"},
        {**MODEL, "bits": 5},
        {"download": "union", "bits": 5},
        {"channel": DRIFTING},
        {"channel": DRIFTING, "fading": "mean"},
    ],
)
def test_episodes_go_on_from_their_state(fields: dict[str, Any]) -> None:
    env, twin = (make(**fields, targets=(0.05, 0.9)) for _ in range(2))
    env.reset(seed=0)
    chosen = list(itertools.islice(random_actions(env.action_space), 12))
    for action in chosen[:4]:
        env.step(action)
    env.problem.targets.reached[0, 1] = True
    state = env.get_state()
    twin.reset(seed=99)
    twin.set_state(state)
    for name, value in vars(env.problem).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(vars(twin.problem)[name], value, err_msg=name)
    for action in chosen[4:]:
        ours, theirs = env.step(action), twin.step(action)
        assert_same(ours, theirs)
        if ours[2] or ours[3]:
            break
    env.reset(seed=5)
    env.set_state(state)
    assert_same(env.get_state(), state)


@pytest.mark.parametrize("fields", [{}, GLOBAL])
def test_a_new_episode_knows_nothing_of_the_last_one(fields: dict[str, Any]) -> None:
    env, fresh = make(**fields, targets=(0.1, 0.3)), make(**fields, targets=(0.1, 0.3))
    env.reset(seed=0)
    for action in random_actions(env.action_space):
        *_, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            break
    assert_same(env.reset(seed=1), fresh.reset(seed=1))
    for action in random_actions(env.action_space, 1):
        ours, theirs = env.step(action), fresh.step(action)
        assert_same(ours, theirs)
        if ours[2] or ours[3]:
            break
    np.testing.assert_array_equal(
        env.problem.scene(0).panels[1][0].x, fresh.problem.scene(0).panels[1][0].x
    )


@pytest.mark.parametrize("fields", [{}, GLOBAL])
def test_checkers_find_nothing(fields: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(**fields), skip_render_check=True)
        # It expects vectors or images.
        warnings.filterwarnings("ignore", "Your observation devices has an unconventional shape")
        check_for_sb3(make(**fields))


@pytest.mark.parametrize("kind", [PPO, DQN])
def test_agents_learn_a_rollout(kind: Any) -> None:
    env = make(**(GLOBAL if kind is DQN else {}))
    settings = {"learning_starts": 8, "buffer_size": 100} if kind is DQN else {"n_steps": 32}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent = kind("MultiInputPolicy", env, batch_size=16, device="cpu", **settings)
        before = [p.clone() for p in agent.policy.parameters()]
        agent.learn(32)
    after = list(agent.policy.parameters())
    assert any(not a.equal(b) for a, b in zip(after, before, strict=True))
    action, _ = agent.predict(env.reset(seed=0)[0], deterministic=True)
    assert env.action_space.contains(int(action) if kind is DQN else action)
