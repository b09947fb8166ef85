"""Small agents: their lanes, recipes and weights, and short runs that can be compared whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from training_runs import ID, TINY, tiny_recipe

from edge_gym.agents import LaneVecEnv, Recipe, packing, train
from edge_gym.agents import archive as files

LESSON = {
    "policy": {"name": "channel-aware", "max_snr_db": 10.0},
    "episodes": 24,
    "noise": 0.1,
    "epochs": 40,
    "batch_size": 64,
}


def make(lanes: int, **fields: Any) -> LaneVecEnv:
    env = gym.make_vec(ID, num_envs=lanes, autoreset_mode="SameStep", config={**TINY, **fields})
    return LaneVecEnv(env)


def device_recipe(algorithm: str, **changes: Any) -> Recipe:
    network = {"hidden": [8, 8], "activation": "relu", **changes.pop("network", {})}
    return tiny_recipe(algorithm, environment=None, network=network, **changes)


def shuffled_weights(model: Any, scale: float) -> Any:
    """Give a model weights for which inputs matter."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.copy_(scale * torch.randn_like(parameter))
    return model


def tiny_train(algorithm: str, out: Path, **kwargs: Any) -> Path:
    kwargs = {"recipe": tiny_recipe(algorithm), "overrides": TINY, "progress": False, **kwargs}
    return train(algorithm, ID, out=out, **kwargs)


def final_state(out: Path) -> Any:
    """What a run's checkpoint says, but for wall times and what no lane's learner holds."""
    arrays, header = files.read_tensors(out / "checkpoint.safetensors", "checkpoint")
    state = packing.unpack(arrays, header["state"])
    for timed, name in ((state["model"]["episodes"], "t"), (state["scores"], "seconds")):
        for entry in timed:
            del entry[name]
    for env in state["envs"]:
        learner = env["env"]["problem"]["learner"]
        for name in ("z", "alpha", "gradient"):
            for lane, count in enumerate(learner["count"]):
                learner[name][lane, count:] = 0
    arrays, packed = packing.pack(state)
    return {name: array.tobytes() for name, array in arrays.items()}, json.dumps(packed)
