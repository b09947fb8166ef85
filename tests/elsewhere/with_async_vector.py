"""``AsyncVectorEnv`` runs an environment in processes that share nothing with this one (spawn)."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import numpy as np

PROCESSES = 2


def run(env_id: str, steps: int = 8, **fields: Any) -> str:
    """Compare them with lanes of this process, over the end of an episode if it comes."""
    make = functools.partial(gym.make, f"edge_gym:{env_id}", **fields)
    lanes = gym.make_vec(f"edge_gym:{env_id}", PROCESSES, **fields)
    processes = gym.vector.AsyncVectorEnv([make] * PROCESSES, context="spawn")
    lanes.action_space.seed(0)
    try:
        _assert_equal(processes.reset(seed=5)[0], lanes.reset(seed=5)[0])
        ended = 0
        for _ in range(steps):
            actions = lanes.action_space.sample()
            theirs, ours = processes.step(actions), lanes.step(actions)
            for their, our in zip(theirs[:4], ours[:4], strict=True):
                _assert_equal(their, our)
            ended += int((ours[2] | ours[3]).sum())
    finally:
        processes.close(terminate=True)
    return f"{steps} steps in {PROCESSES} processes, {ended} episodes ended"


def _assert_equal(theirs: Any, ours: Any) -> None:
    if isinstance(ours, dict):
        for part in ours:
            _assert_equal(theirs[part], ours[part])
    else:
        np.testing.assert_array_equal(theirs, ours)


if __name__ == "__main__":
    from each import for_each

    for_each(run)
