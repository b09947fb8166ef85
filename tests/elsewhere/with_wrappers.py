"""Gymnasium's wrappers of single and of vector environments leave rewards and ends as they are."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces, wrappers
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector as vector_wrappers

LANES = 3


def wrap_one(env_id: str, **fields: Any) -> None:
    """Play an episode in a wrapped environment and in a plain one."""
    plain: Any = gym.make(f"edge_gym:{env_id}", **fields).unwrapped
    env: Any = wrappers.FlattenObservation(gym.make(f"edge_gym:{env_id}", **fields))
    assert isinstance(env.observation_space, spaces.Box)
    env = wrappers.RecordEpisodeStatistics(wrappers.NormalizeObservation(env))
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
    assert abs(info["episode"]["r"] - total) < 1e-5 * max(1, abs(total))


def _mask_of(env: Any) -> dict[str, Any]:
    if not isinstance(env.action_space, spaces.Discrete):
        return {}
    return {"mask": np.asarray(env.action_masks(), np.int8)}


def wrap_lanes(env_id: str, **fields: Any) -> None:
    """Do the same with vector environments, over the end of an episode."""
    plain = gym.make_vec(f"edge_gym:{env_id}", LANES, **fields)
    inner = gym.make_vec(f"edge_gym:{env_id}", LANES, **fields)
    env: Any = vector_wrappers.FlattenObservation(inner)
    assert isinstance(env.single_observation_space, spaces.Box)
    env = vector_wrappers.RecordEpisodeStatistics(vector_wrappers.NormalizeObservation(env))
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    env.reset(seed=3)
    plain.reset(seed=3)
    env.action_space.seed(0)
    total, ended, after = np.zeros(LANES), np.zeros(LANES, bool), 0
    while after < 3:
        action = env.action_space.sample()
        seen, rewards, terminated, truncated, info = env.step(action)
        _, own, *ends, _ = plain.step(action)
        np.testing.assert_array_equal(rewards, own)
        np.testing.assert_array_equal([terminated, truncated], ends)
        assert np.isfinite(seen).all()
        total += rewards
        over = terminated | truncated
        if over.any():
            np.testing.assert_allclose(info["episode"]["r"][over], total[over], 1e-5, 1e-5)
        total[over] = 0
        ended |= over
        after += bool(ended.any())


def film(env_id: str, **fields: Any) -> None:
    """Record an episode of one environment, and two steps of two in one picture."""
    fields = {**fields, "render_mode": "rgb_array"}
    with tempfile.TemporaryDirectory() as folder:
        one, lanes = Path(folder, "one"), Path(folder, "lanes")
        env: Any = gym.make(f"edge_gym:{env_id}", **fields)
        env = wrappers.RecordVideo(env, str(one), episode_trigger=lambda episode: True)
        env.reset(seed=0)
        frames, over = 1, False
        while not over:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            frames, over = frames + 1, terminated or truncated
        env.close()
        assert _lengths_of(one) == [frames], (_lengths_of(one), frames)
        env = gym.make_vec(f"edge_gym:{env_id}", 2, **fields)
        env = vector_wrappers.RecordVideo(
            env, str(lanes), step_trigger=lambda step: step == 0, video_length=2
        )
        env.reset(seed=0)
        for _ in range(3):
            env.step(env.action_space.sample())
        env.close()
        (length,) = _lengths_of(lanes)
        assert length >= 2


def _lengths_of(folder: Path) -> list[int]:
    """Return the number of pictures in each video."""
    from moviepy import VideoFileClip

    lengths = []
    for path in sorted(folder.iterdir()):
        with VideoFileClip(str(path)) as clip:
            lengths.append(clip.n_frames)
    return lengths


def run(env_id: str, **fields: Any) -> str:
    """Do all of these."""
    wrap_one(env_id, **fields)
    wrap_lanes(env_id, **fields)
    film(env_id, **fields)
    return "wrapped and recorded"


if __name__ == "__main__":
    from each import for_each

    for_each(run)
