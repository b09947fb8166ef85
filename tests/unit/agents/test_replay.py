"""The replay buffer that keeps each observation once gives what stable-baselines3's own does."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from edge_gym.agents import CompactReplayBuffer, LaneVecEnv

LANES, STEPS = 3, 20
PARTS = spaces.Dict(
    {
        "devices": spaces.Box(-100, 1e6, (2, 4), np.float32),
        "samples": spaces.Box(-100, 1e6, (2, 3, 5), np.float32),
        "system": spaces.Box(-100, 1e6, (7,), np.float32),
    }
)


def lanes(env_id: str = "DataScheduling-v0", **fields: Any) -> LaneVecEnv:
    small = {"n_devices": 3, "buffer_size": 2, "budget": 8, "image_size": 7, "test_size": 40}
    return LaneVecEnv(
        gym.make_vec(f"edge_gym/{env_id}", LANES, autoreset_mode="SameStep", **{**small, **fields})
    )


def draw(space: Any, rng: np.random.Generator) -> Any:
    if isinstance(space, spaces.Dict):
        return {name: draw(part, rng) for name, part in space.items()}
    return rng.normal(0, 10, (LANES, *space.shape)).astype(np.float32)


def fill(buffers: list[Any], space: Any, steps: int) -> None:
    """Add what an algorithm would: what follows a step is what the next one begins with."""
    rng = np.random.default_rng(0)
    observations = draw(space, rng)
    for _ in range(steps):
        following, ended = draw(space, rng), draw(space, rng)
        done = rng.random(LANES) < 0.4
        truncated = done & (rng.random(LANES) < 0.5)

        def shown(a: Any, b: Any, done: Any = done) -> Any:
            mask = done.reshape(-1, *[1] * (np.ndim(a) - 1))
            return np.where(mask, a, b)

        if isinstance(space, spaces.Dict):
            last = {name: shown(ended[name], following[name]) for name in following}
        else:
            last = shown(ended, following)
        step = (
            rng.integers(4, size=(LANES, 1)),
            rng.normal(size=LANES).astype(np.float32),
            done,
            [{"TimeLimit.truncated": bool(cut)} for cut in truncated],
        )
        for buffer in buffers:
            buffer.add(observations, last, *step)
        observations = following


@pytest.mark.parametrize("steps", [5, 20, 47])
@pytest.mark.parametrize("space", [PARTS, spaces.Box(-10, 10, (6,), np.float32)])
def test_samples_are_those_of_the_usual_buffer(space: Any, steps: int) -> None:
    usual_type: Any = DictReplayBuffer if isinstance(space, spaces.Dict) else ReplayBuffer
    # Of the usual one, all steps but the last of the compact one, which is being written.
    usual = usual_type(STEPS * LANES, space, spaces.Discrete(4), "cpu", LANES)
    ours = CompactReplayBuffer(STEPS * LANES, space, spaces.Discrete(4), "cpu", LANES)
    fill([usual, ours], space, steps)
    places = np.array([place for place in range(ours.size()) if not ours.full or place != ours.pos])
    drawn = []
    for buffer in (usual, ours):
        np.random.seed(0)  # noqa: NPY002
        drawn.append(buffer._get_samples(np.repeat(places, 10)))
    theirs, mine = drawn
    for name in ("actions", "dones", "rewards"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
    # After the end of an episode nothing that follows has a value, unless it was truncated.
    going = theirs.dones.numpy()[:, 0] == 0
    assert 0 < going.mean() < 1
    for name in ("observations", "next_observations"):
        rows = going if name == "next_observations" else np.ones_like(going)
        a, b = getattr(mine, name), getattr(theirs, name)
        if isinstance(space, spaces.Dict):
            assert list(a) == list(b) == list(space)
        for part in space if isinstance(space, spaces.Dict) else [...]:
            np.testing.assert_array_equal(a[part][rows], b[part][rows])
    assert set(ours._ends) <= set(range(ours.buffer_size))


def test_it_takes_half_or_a_quarter_of_the_memory() -> None:
    def size(buffer: Any) -> int:
        held = (buffer.observations, getattr(buffer, "next_observations", {}))
        return sum(
            sum(part.nbytes for part in each.values()) if isinstance(each, dict) else each.nbytes
            for each in held
        )

    env = gym.make("edge_gym/DataScheduling-v0").unwrapped
    arguments = (64 * 100, env.observation_space, env.action_space, "cpu", 64)
    usual = size(DictReplayBuffer(*arguments))
    assert size(CompactReplayBuffer(*arguments)) == usual / 2
    assert size(CompactReplayBuffer(*arguments, dtype="float16")) == usual / 4
    # What the docstring says of a million transitions.
    assert usual / 6400 * 1e6 / 2**30 == pytest.approx(18.2, abs=0.3)


def test_half_precision_holds_three_digits_and_no_infinity() -> None:
    space = spaces.Box(-1e9, 1e9, (3,), np.float32)
    buffer = CompactReplayBuffer(8, space, spaces.Discrete(2), "cpu", 1, dtype="float16")
    row = np.array([[1.2345, -1e8, 3e8]], np.float32)
    for _ in range(3):
        buffer.add(row, row, np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])
    found = buffer._get_samples(np.array([0, 1])).observations.numpy()
    np.testing.assert_allclose(found[:, 0], 1.2345, rtol=1e-3)
    np.testing.assert_array_equal(found[:, 1:], [[-65504, 65504]] * 2)


def test_what_it_cannot_keep_is_refused() -> None:
    with pytest.raises(TypeError, match="a Box or a Dict of boxes, not Discrete"):
        CompactReplayBuffer(8, spaces.Discrete(3), spaces.Discrete(2))
    with pytest.raises(ValueError, match="dtype must be one of floating-point numbers, got 'int8'"):
        CompactReplayBuffer(8, PARTS, spaces.Discrete(2), dtype="int8")


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize(
    ("env_id", "policy"),
    [("DataScheduling-v0", "MultiInputPolicy"), ("Retransmission-v0", "MlpPolicy")],
)
def test_dqn_of_stable_baselines3_learns_with_it(
    env_id: str, policy: str, normalised: bool
) -> None:
    env: Any = lanes(env_id)
    env = VecNormalize(env) if normalised else env
    model = DQN(
        policy,
        env,
        seed=0,
        device="cpu",
        learning_starts=12,
        batch_size=8,
        buffer_size=60,
        replay_buffer_class=CompactReplayBuffer,
        replay_buffer_kwargs={"dtype": "float16"},
    )
    before = [value.clone() for value in model.policy.state_dict().values()]
    model.learn(120)
    assert isinstance(model.replay_buffer, CompactReplayBuffer)
    assert model.replay_buffer.full
    after = list(model.policy.state_dict().values())
    assert all(value.isfinite().all() for value in after)
    assert any((old != new).any() for old, new in zip(before, after, strict=True))


def test_dqn_learns_the_same_as_with_the_usual_buffer() -> None:
    """While the ring is not full, both draw the same transitions."""
    found = []
    for kind in (None, CompactReplayBuffer):
        model = DQN(
            "MultiInputPolicy",
            lanes(),
            seed=0,
            device="cpu",
            learning_starts=12,
            batch_size=8,
            buffer_size=600,
            replay_buffer_class=kind,
        )
        model.learn(90)
        found.append([value.numpy() for value in model.policy.state_dict().values()])
    for theirs, ours in zip(*found, strict=True):
        np.testing.assert_array_equal(theirs, ours)
