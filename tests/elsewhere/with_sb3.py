"""What stable-baselines3 and sb3-contrib have for an environment's actions learns in it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from sb3_contrib import TQC, TRPO, MaskablePPO
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env

ROLLOUT: dict[str, Any] = {"n_steps": 32, "batch_size": 32}
REPLAY: dict[str, Any] = {"learning_starts": 8, "batch_size": 8, "buffer_size": 100}


class Watched(gym.Wrapper[Any, Any, Any, Any]):
    """Refuses actions that are masked."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.masked = 0

    def step(self, action: Any) -> Any:
        possible = self.get_wrapper_attr("action_masks")()
        # Of several components, the masks stand one after the other.
        levels = getattr(self.action_space, "nvec", np.array([possible.size]))
        assert possible[np.cumsum(levels) - levels + action].all()
        self.masked += not possible.all()
        return super().step(action)


def run(env_id: str, **fields: Any) -> str:
    """Learn for a few steps with each algorithm."""
    single: Any = gym.make(f"edge_gym:{env_id}", **fields)
    check_env(single.unwrapped, warn=False)
    lanes = make_vec_env(f"edge_gym:{env_id}", 2, env_kwargs=fields)
    learnt = [_learn(PPO, lanes, n_epochs=1, **ROLLOUT)]
    if isinstance(single.action_space, spaces.Discrete):
        learnt.append(_learn(DQN, single, **REPLAY))
        masked = learn_with_masks(env_id, **fields)
        learnt.append(f"MaskablePPO with {masked} steps masked")
    elif isinstance(single.action_space, spaces.MultiDiscrete):
        learnt.append(_learn(TRPO, single, **ROLLOUT))
        masked = learn_with_masks(env_id, **fields)
        learnt.append(f"MaskablePPO with {masked} steps masked")
    else:
        learnt.append(_learn(SAC, single, **REPLAY))
        learnt.append(_learn(TQC, single, **REPLAY))
    return ", ".join(learnt)


def _learn(algorithm: Any, env: Any, steps: int = 64, **settings: Any) -> str:
    flat = isinstance(env.observation_space, spaces.Box)
    policy = "MlpPolicy" if flat else "MultiInputPolicy"
    model = algorithm(policy, env, seed=0, device="cpu", **settings)
    before = [value.clone() for value in model.policy.state_dict().values()]
    model.learn(steps)
    after = model.policy.state_dict().values()
    assert all(value.isfinite().all() for value in after)
    assert any((old != new).any() for old, new in zip(before, after, strict=True))
    return str(algorithm.__name__)


def learn_with_masks(env_id: str, steps: int = 64, **fields: Any) -> int:
    """Return in how many of the steps actions were masked; none of these was ever taken."""
    env = Watched(gym.make(f"edge_gym:{env_id}", **fields))
    _learn(MaskablePPO, env, steps, n_epochs=1, **ROLLOUT)
    return env.masked


if __name__ == "__main__":
    from each import for_each

    for_each(run)
