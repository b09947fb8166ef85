"""Small, seeded rollouts of every environment id, shared by tests and golden files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from edge_gym import ENVIRONMENTS

# What makes an id small enough for a test; retraining stays frequent.
SMALL: dict[str, dict[str, Any]] = {
    "Retransmission-v0": {"budget": 40, "validation_size": 100},
    "RetransmissionMulticlass-v0": {"budget": 40, "validation_size": 100, "retrain_every": 10},
    "RetransmissionCNN-v0": {"budget": 40, "validation_size": 100, "retrain_every": 10},
    "Retransmission-Document-v0": {"budget": 40, "validation_size": 100, "retrain_every": 10},
}
NEEDS_DATA = {"Retransmission-Document-v0"}
NETWORKS = {"RetransmissionCNN-v0"}
NAMES = [row.name for row in ENVIRONMENTS]


def has_data(name: str) -> bool:
    return name not in NEEDS_DATA or bool(os.environ.get("EDGE_GYM_DATA"))


def make(name: str, **overrides: Any) -> gym.Env[Any, Any]:
    """Make the environment without Gymnasium's wrappers."""
    return gym.make(f"edge_gym/{name}", **{**SMALL[name], **overrides}).unwrapped


def make_vec(name: str, num_envs: int, **overrides: Any) -> gym.vector.VectorEnv[Any, Any, Any]:
    return gym.make_vec(f"edge_gym/{name}", num_envs, **{**SMALL[name], **overrides})


def random_actions(space: gym.Space[Any], seed: int = 0) -> Iterator[Any]:
    """Yield random actions that do not depend on Gymnasium's way of sampling."""
    assert isinstance(space, gym.spaces.Discrete)
    rng = np.random.default_rng(seed)
    while True:
        yield int(rng.integers(space.n))


def episode(name: str, seed: int = 0) -> list[tuple[Any, ...]]:
    """Return ``(observation, info)``, then what every step of one episode returned."""
    env = make(name)
    steps: list[tuple[Any, ...]] = [env.reset(seed=seed)]
    actions = random_actions(env.action_space, seed)
    over = False
    while not over:
        steps.append(env.step(next(actions)))
        over = steps[-1][2] or steps[-1][3]
    return steps


def digest(name: str) -> str:
    """Return a hash of every bit of an episode."""
    content = hashlib.sha256()
    for observation, *rest in episode(name):
        content.update(observation.tobytes())
        content.update(repr(rest).encode())
    return content.hexdigest()
