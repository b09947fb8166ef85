"""What others build on environments takes every id as it is: Gymnasium's wrappers and theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces, wrappers
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector as vector_wrappers
from sb3_contrib import MaskablePPO

from tests import rollouts
from tests.elsewhere import cleanrl_ppo


def names() -> list[Any]:
    return [
        pytest.param(name, marks=pytest.mark.data if name in rollouts.NEEDS_DATA else ())
        for name in rollouts.NAMES
    ]


def steps_of(name: str) -> dict[str, Any]:
    return {**rollouts.lasting(name, 4), "test_size": 100}


@pytest.mark.parametrize("name", names())
def test_wrappers_of_single_environments(name: str) -> None:
    inner = gym.make(f"edge_gym/{name}", **{**rollouts.SMALL[name], **steps_of(name)})
    env: gym.Env[Any, Any] = wrappers.FlattenObservation(inner)
    assert isinstance(env.observation_space, spaces.Box)
    env = wrappers.RecordEpisodeStatistics(wrappers.NormalizeObservation(env))
    plain = rollouts.make(name, **steps_of(name))
    seen, _ = env.reset(seed=3)
    expected, _ = plain.reset(seed=3)
    assert seen.shape == spaces.flatten(plain.observation_space, expected).shape
    env.action_space.seed(0)
    total, over = 0.0, False
    while not over:
        action = env.action_space.sample(**_mask_of(plain))
        seen, reward, terminated, truncated, info = env.step(action)
        _, own, *ends, _ = plain.step(action)
        assert reward == own
        assert [terminated, truncated] == ends
        assert np.isfinite(seen).all()
        total, over = total + float(reward), terminated or truncated
    assert info["episode"]["r"] == pytest.approx(total, abs=1e-5)


def _mask_of(env: Any) -> dict[str, Any]:
    if not isinstance(env.action_space, spaces.Discrete):
        return {}
    return {"mask": np.asarray(env.action_masks(), np.int8)}


@pytest.mark.parametrize("name", names())
def test_wrappers_of_vector_environments(name: str) -> None:
    env: Any = vector_wrappers.FlattenObservation(rollouts.make_vec(name, 3, **steps_of(name)))
    assert isinstance(env.single_observation_space, spaces.Box)
    env = vector_wrappers.RecordEpisodeStatistics(vector_wrappers.NormalizeObservation(env))
    plain = rollouts.make_vec(name, 3, **steps_of(name))
    env.reset(seed=3)
    plain.reset(seed=3)
    env.action_space.seed(0)
    ended = 0
    for _ in range(12):
        action = env.action_space.sample()
        seen, rewards, terminated, truncated, info = env.step(action)
        _, own, *ends, _ = plain.step(action)
        np.testing.assert_array_equal(rewards, own)
        np.testing.assert_array_equal([terminated, truncated], ends)
        assert np.isfinite(seen).all()
        if (terminated | truncated).any():
            assert (info["episode"]["l"][terminated | truncated] > 0).all()
            ended += 1
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert ended


@pytest.mark.parametrize(
    "name", ["Retransmission-v0", "DataScheduling-v0", "TaskAllocation-v0", "Offloading-v0"]
)
def test_videos_are_recorded(name: str, tmp_path: Path) -> None:
    fields = {**rollouts.SMALL[name], **steps_of(name), "render_mode": "rgb_array"}
    env: gym.Env[Any, Any] = gym.make(f"edge_gym/{name}", **fields)
    env = wrappers.RecordVideo(env, str(tmp_path / "videos"), episode_trigger=lambda episode: True)
    env.reset(seed=0)
    over = False
    while not over:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        over = terminated or truncated
    env.close()
    assert [path.suffix for path in (tmp_path / "videos").iterdir()] == [".mp4"]


QUICK = {"Retransmission-v0", "TaskAllocation-v0", "OffloadingDiscrete-v0"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[
                *([pytest.mark.data] if name in rollouts.NEEDS_DATA else []),
                *([] if name in QUICK else [pytest.mark.slow]),
            ],
        )
        for name in rollouts.NAMES
    ],
)
def test_a_single_file_trains(name: str) -> None:
    fields = {**rollouts.SMALL[name], **steps_of(name)}
    returns, losses = cleanrl_ppo.train(f"edge_gym/{name}", 256, **fields)
    assert len(returns) >= 256 // 40
    assert np.isfinite([*returns, *losses]).all()


class Watched(gym.Wrapper[Any, Any, Any, Any]):
    """Refuses actions that are masked."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.masked = 0

    def step(self, action: Any) -> Any:
        possible = self.get_wrapper_attr("action_masks")()
        assert possible[int(action)]
        self.masked += not possible.all()
        return super().step(action)


@pytest.mark.parametrize("name", sorted(rollouts.MASKED - rollouts.NEEDS_DATA - rollouts.NETWORKS))
def test_maskable_ppo_honours_masks(name: str) -> None:
    env = Watched(gym.make(f"edge_gym/{name}", **rollouts.SMALL[name]))
    flat = isinstance(env.observation_space, spaces.Box)
    policy = "MlpPolicy" if flat else "MultiInputPolicy"
    model = MaskablePPO(policy, env, n_steps=128, batch_size=64, n_epochs=1, seed=0, device="cpu")
    model.learn(128)
    assert env.masked > 0
