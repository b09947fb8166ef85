"""Data scheduling as an environment: rewards, lanes, states, and an agent that learns."""

from __future__ import annotations

import copy
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from rollouts import assert_same, random_actions
from small_data_scheduling import BATCH, DEVICE, NETWORK, SAMPLE, SMALL, TURNS, make
from stable_baselines3 import PPO


@pytest.mark.parametrize("name", [SAMPLE, BATCH, TURNS])
@pytest.mark.parametrize("reward", ["accuracy", "loss"])
def test_rewards_telescope(name: str, reward: str) -> None:
    env = make(name, reward=reward, retrain_every=5, mean_snr_db=10)
    _, first = env.reset(seed=2)
    actions = random_actions(env.action_space, 2)
    rewards, over = [], False
    while not over:
        _, gain, over, _, info = env.step(next(actions))
        assert gain == info["accuracy_gain" if reward == "accuracy" else "loss_decrease"]
        assert info["trained"] or gain == 0
        rewards.append(gain)
    change = info[f"validation_{reward}"] - first[f"validation_{reward}"]
    assert sum(rewards) == pytest.approx(change if reward == "accuracy" else -change, abs=1e-12)
    assert 0 < np.count_nonzero(rewards) <= 6


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_lanes_in_the_middle_of_a_block_reset_as_sync_vector_env_does(mode: AutoresetMode) -> None:
    fields = {**SMALL, "uploads_per_block": 3, "budget": 9, "retrain_every": 2}
    ours = gym.make_vec(f"edge_gym/{TURNS}", 4, autoreset_mode=mode, **fields)
    theirs = SyncVectorEnv([lambda: make(TURNS, **fields)] * 4, autoreset_mode=mode)
    assert_same(ours.reset(seed=3), theirs.reset(seed=3))
    rng = np.random.default_rng(0)
    phases, ends = set(), 0
    for step in range(60):
        if step in (1, 2, 4, 7):
            mask = np.arange(4) == step % 4
            both = [env.reset(options={"reset_mask": mask.copy()}) for env in (ours, theirs)]
            assert_same(*both)
        actions = rng.integers(4, size=4)
        results = ours.step(actions), theirs.step(actions)
        assert_same(*results)
        phases.add(tuple(ours.problem.n_chosen))
        done = results[0][2]
        ends += done.sum()
        if mode == AutoresetMode.DISABLED and done.any():
            both = [env.reset(options={"reset_mask": done.copy()}) for env in (ours, theirs)]
            assert_same(*both)
    assert ends >= 12
    assert any(len(set(phase)) == 3 for phase in phases)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_states_in_the_middle_of_a_block_move(steps: int) -> None:
    fields = {"uploads_per_block": 3, "budget": 12, "retrain_every": 2}
    env, other = make(TURNS, **fields), make(TURNS, **fields)
    env.reset(seed=0)
    other.reset(seed=1)
    actions = [int(a) for a in np.random.default_rng(steps).integers(4, size=12)]
    for action in actions[:steps]:
        env.step(action)
    assert env.problem.n_chosen[0] == steps % 3
    state, twin = copy.deepcopy(env.get_state()), copy.deepcopy(env)
    expected = [env.step(action) for action in actions[steps:]]
    other.set_state(state)
    assert_same([other.step(action) for action in actions[steps:]], expected)
    assert_same([twin.step(action) for action in actions[steps:]], expected)
    assert_same(other.reset(), env.reset())


@pytest.mark.parametrize("name", [SAMPLE, DEVICE, BATCH, TURNS, NETWORK])
def test_ppo_learns_a_rollout(name: str) -> None:
    env = make(name, budget=12, train_steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent = PPO("MultiInputPolicy", env, n_steps=32, batch_size=16, n_epochs=1, device="cpu")
        before = [p.clone() for p in agent.policy.parameters()]
        agent.learn(32)
    assert agent.num_timesteps == 32
    after = list(agent.policy.parameters())
    assert any(not a.equal(b) for a, b in zip(after, before, strict=True))
    assert all(bool(p.isfinite().all()) for p in after)
    observation, _ = env.reset(seed=0)
    action, _ = agent.predict(observation, deterministic=True)
    assert env.action_space.contains(action if name == BATCH else int(action))
