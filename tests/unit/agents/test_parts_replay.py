"""The replay buffer of parts looks several steps ahead."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from edge_gym.agents.networks.replay import PartsReplayBuffer


def test_replay_looks_several_steps_ahead() -> None:
    """Against loops over the transitions, once the buffer has gone round."""
    lanes, size, steps, gamma = 2, 10, 3, 0.9
    space = spaces.Dict(
        {
            "devices": spaces.Box(-np.inf, np.inf, (2, 2), np.float32),
            "samples": spaces.Box(-np.inf, np.inf, (2, 3, 1), np.float32),
            "system": spaces.Box(-np.inf, np.inf, (1,), np.float32),
        }
    )
    buffer = PartsReplayBuffer(
        size * lanes, space, spaces.Discrete(6), n_envs=lanes, n_steps=steps, gamma=gamma
    )
    rng = np.random.default_rng(0)

    def draw() -> dict[str, NDArray[np.float32]]:
        return {
            part: np.float32(rng.normal(size=(lanes, *box.shape))) for part, box in space.items()
        }

    rounds = []
    for _ in range(size + 4):
        done, cut = rng.random(lanes) < 0.3, rng.random(lanes) < 0.5
        step = (draw(), draw(), rng.integers(0, 6, lanes), np.float32(rng.normal(size=lanes)))
        infos = [{"TimeLimit.truncated": bool(d and c)} for d, c in zip(done, cut, strict=True)]
        buffer.add(*step, done, infos)
        rounds.append((*step, done, done & cut))
    rounds = rounds[-size:]
    np.random.seed(0)  # noqa: NPY002 - the buffer draws from it
    batch = buffer.sample(200)
    found = set()
    for row in range(200):
        system = batch.observations["system"][row].item()
        ((t, lane),) = [
            (t, lane)
            for t in range(size)
            for lane in range(lanes)
            if rounds[t][0]["system"][lane, 0] == system
        ]
        found.add((t, lane))
        total, discount = 0.0, 1.0
        for last in range(t, min(t + steps, size)):
            total += discount * rounds[last][3][lane]
            discount *= gamma
            if rounds[last][4][lane]:
                break
        assert batch.actions[row].item() == rounds[t][2][lane]
        assert batch.rewards[row].item() == pytest.approx(total, rel=1e-5)
        assert batch.discounts[row].item() == pytest.approx(discount, rel=1e-5)
        ended = rounds[last][4][lane] and not rounds[last][5][lane]
        assert batch.dones[row].item() == ended
        for part in space:
            np.testing.assert_array_equal(batch.observations[part][row], rounds[t][0][part][lane])
            following = rounds[last][1][part][lane]
            np.testing.assert_array_equal(batch.next_observations[part][row], following)
    assert len(found) > 15
