"""Short runs of training, and what their files say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_gym.agents import (
    Recipe,
    find_recipe,
)
from edge_gym.agents import archive as files
from edge_gym.agents.recipe import parse_recipe

ID = "edge_gym/Retransmission-v0"
TINY = {
    "budget": 24,
    "reward": "accuracy",
    "initial_samples": 6,
    "retrain_every": 4,
    "validation_size": 60,
    "test_size": 40,
}


def tiny_recipe(algorithm: str, **changes: Any) -> Recipe:
    recipe = find_recipe(algorithm, ID).as_mapping()
    small: dict[str, Any] = {
        "ppo": {"n_steps": 16, "batch_size": 32, "n_epochs": 2},
        "dqn": {
            "buffer_size": 160,
            "learning_starts": 48,
            "batch_size": 16,
            "n_steps": 3,
            "train_freq": 2,
            "gradient_steps": 2,
            "target_update_interval": 40,
        },
    }
    recipe.update(
        seed=0,
        imitation=None,
        steps=448,
        lanes=4,
        checkpoint_every=64,
        train_config={},
        network={"hidden": [8, 8], "activation": "tanh"},
        evaluation={"every": 128, "episodes": 6, "lanes": 3},
    )
    recipe["hyperparameters"].update(small[algorithm])
    recipe.update(changes)
    return parse_recipe(recipe, "tiny")


def run_files(out: Path) -> dict[str, Any]:
    """What a run's files say, but for wall times."""
    curve = [line.rpartition(",")[0] for line in (out / "progress.csv").read_text().splitlines()]
    arrays, header = files.read_tensors(out / "best.safetensors", "agent")
    for point in header["curve"]:
        del point["seconds"]
    best = {name: array.tobytes() for name, array in arrays.items()}
    names = ("last.safetensors", "recipe.yaml")
    return {"best": (best, header), "curve": curve, **{n: (out / n).read_bytes() for n in names}}


class KilledError(Exception):
    """Stands for a kill."""
