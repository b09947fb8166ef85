"""TorchRL's ``GymEnv``, and its ``GymWrapper`` around many lanes.

A vector environment resets lanes when TorchRL asks for it: ``autoreset_mode="Disabled"``, which it
prefers. In the other modes, and with ``GymEnv(..., num_envs=N)``, it wants every step's ``info`` in
that of ``reset()`` too, and takes no others. Some fields of ours are arguments of TorchRL's, such
as ``batch_size``, so that they go in as ``config``.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from torchrl.envs import EnvBase, GymEnv, GymWrapper, check_env_specs

LANES, STEPS = 3, 10


def run(env_id: str, **fields: Any) -> str:
    """Check the environments' specifications, and act at random."""
    lanes = gym.make_vec(f"edge_gym:{env_id}", LANES, autoreset_mode="Disabled", **fields)
    ended = _play(GymEnv(f"edge_gym:{env_id}", config=fields)), _play(GymWrapper(lanes))
    return f"{ended[0]} episodes ended alone, {ended[1]} in lanes"


def _play(env: EnvBase) -> int:
    check_env_specs(env, seed=0)
    played = env.rollout(STEPS, break_when_any_done=False)
    assert played.batch_size == (*env.batch_size, STEPS)
    for part in played["next"].values(include_nested=True, leaves_only=True):
        assert part.isfinite().all()
    env.close()
    return int(played["next", "done"].sum())


if __name__ == "__main__":
    from each import for_each

    for_each(run)
