"""Lanes as stable-baselines3 takes them."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from tiny_runs import make
from training_runs import ID, TINY

from edge_gym.agents import LaneVecEnv, packing


def test_adapter_equals_dummy_vec_env() -> None:
    """Lanes through the adapter are scalar environments through DummyVecEnv, resets included."""
    ours = make(3)
    theirs = DummyVecEnv([lambda: gym.make(ID, config=TINY)] * 3)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.seed(7) == theirs.seed(7)
    np.testing.assert_allclose(ours.reset(), theirs.reset(), rtol=1e-5)
    assert ours.reset_infos == theirs.reset_infos
    rng, ended = np.random.default_rng(0), 0
    for _ in range(3 * TINY["budget"]):
        actions = rng.integers(0, 2, 3)
        observations, rewards, dones, infos = ours.step(actions)
        expected = theirs.step(actions)
        np.testing.assert_allclose(observations, expected[0], rtol=1e-5)
        np.testing.assert_allclose(rewards, expected[1], atol=1e-6)
        assert rewards.dtype == expected[1].dtype
        assert dones.tolist() == expected[2].tolist()
        for lane in np.flatnonzero(dones):
            ended += 1
            info, other = dict(infos[lane]), dict(expected[3][lane])
            np.testing.assert_allclose(
                info.pop("terminal_observation"), other.pop("terminal_observation"), rtol=1e-5
            )
            assert info.pop("episode")["l"] == TINY["budget"]
            assert info == pytest.approx(other)
        assert ours.reset_infos == theirs.reset_infos
    assert ended == 9


def test_adapter_episode_reports_and_reward_scale() -> None:
    env, scaled = make(2), make(2)
    scaled.reward_scale = 20.0
    for e in (env, scaled):
        e.seed(3)
        e.reset()
    total = np.zeros(2)
    for _ in range(TINY["budget"]):
        _, reward, dones, infos = env.step(np.zeros(2, int))
        _, more, _, reports = scaled.step(np.zeros(2, int))
        np.testing.assert_allclose(more, 20 * reward, rtol=1e-6)
        total += reward
    assert dones.all()
    for lane in range(2):
        assert infos[lane]["episode"]["r"] == pytest.approx(total[lane], abs=1e-6)
        assert reports[lane]["episode"]["r"] == infos[lane]["episode"]["r"]
        assert infos[lane]["total_gain"] == pytest.approx(total[lane], abs=1e-6)
        assert infos[lane]["TimeLimit.truncated"] is False


def test_adapter_attributes_and_methods() -> None:
    env = make(3)
    env.seed(0)
    env.reset()
    assert env.get_attr("config")[0].budget == TINY["budget"]
    assert env.get_attr("config", indices=[0, 2])[1] is env.get_attr("config", indices=1)[0]
    assert env.get_attr("action_space") == [env.action_space] * 3
    assert env.get_attr("np_random_seed") == [0, 1, 2]
    assert env.has_attr("action_masks")
    assert not env.has_attr("nothing")
    masks = np.stack(env.env_method("action_masks"))
    np.testing.assert_array_equal(masks, env.action_masks())
    assert len(env.env_method("action_masks", indices=[1])) == 1
    env.set_attr("render_mode", None)
    with pytest.raises(ValueError, match="share their attributes"):
        env.set_attr("render_mode", None, indices=[0])
    assert env.env_is_wrapped(Monitor) == [True] * 3
    assert env.env_is_wrapped(gym.Wrapper) == [False] * 3
    with pytest.warns(UserWarning, match="render_mode"):
        assert list(env.get_images()) == [None] * 3
    env.close()


def test_adapter_pictures() -> None:
    env = gym.make_vec(
        ID, num_envs=2, autoreset_mode="SameStep", config=TINY, render_mode="rgb_array"
    )
    adapter = LaneVecEnv(env)
    adapter.reset()
    pictures = list(adapter.get_images())
    assert [picture.shape[-1] for picture in pictures if picture is not None] == [3, 3]
    tiled = adapter.render()
    assert tiled is not None
    assert tiled.shape[0] >= pictures[0].shape[0]


def test_adapter_options_and_modes() -> None:
    env = make(2)
    env.set_options({"anything": 1})
    env.reset()
    env.set_options([{"anything": 1}, {}])
    with pytest.raises(ValueError, match="the same options"):
        env.reset()
    with pytest.raises(ValueError, match="SameStep"):
        LaneVecEnv(gym.make_vec(ID, num_envs=2, config=TINY))
    with pytest.raises(TypeError, match=r"takes what gym\.make_vec"):
        LaneVecEnv(gym.make(ID, config=TINY))  # type: ignore[arg-type]


def test_adapter_state_mid_episode() -> None:
    env = make(3)
    env.seed(5)
    env.reset()
    rng = np.random.default_rng(1)
    actions = rng.integers(0, 2, (50, 3))
    for row in actions[:10]:
        env.step(row)
    arrays, state = packing.pack(env.get_state())
    other = make(3)
    other.reset()
    other.set_state(packing.unpack(arrays, json.loads(json.dumps(state))))
    for row in actions[10:]:
        expected, got = env.step(row), other.step(row)
        for theirs, ours in zip(expected[:3], got[:3], strict=True):
            np.testing.assert_array_equal(theirs, ours)
        assert [info.get("episode", {}).get("r") for info in expected[3]] == [
            info.get("episode", {}).get("r") for info in got[3]
        ]


def test_evaluate_policy_reads_unscaled_returns(recwarn: pytest.WarningsRecorder) -> None:
    env = make(2)
    env.reward_scale = 100.0
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu", seed=0)
    recwarn.clear()
    mean, _ = evaluate_policy(model, env, n_eval_episodes=4)
    assert not [w for w in recwarn if "Monitor" in str(w.message)]
    assert -1 < mean < 1
