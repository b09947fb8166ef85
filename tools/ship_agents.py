"""Put trained agents into the package: ``python tools/ship_agents.py RUN...``.

A RUN is the folder of a finished training by the packaged recipe, of any training seed. Its best
agent becomes ``agents/trained/ID/ALGORITHM-seedN.safetensors``.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from edge_gym.agents import find_recipe, load_recipe, read_agent_metadata
from edge_gym.runtime.files import write_bytes

TRAINED = Path(__file__).parent.parent / "agents" / "trained"


def ship(run: Path) -> Path:
    """Copy a run's best agent and return where to.

    Raises:
        ValueError: If the run is not finished, or was not by the packaged recipe.
    """
    recipe, best = load_recipe(run / "recipe.yaml"), run / "best.safetensors"
    told = read_agent_metadata(best)
    if "curve" not in told or told["curve"][-1]["steps"] < recipe.steps:
        raise ValueError(f"{run} is not finished: resume it")
    if recipe != replace(find_recipe(recipe.algorithm, str(recipe.environment)), seed=recipe.seed):
        raise ValueError(f"{run} is by another recipe than the packaged one")
    if told["overrides"]:
        raise ValueError(f"{run} is of another configuration: {told['overrides']}")
    path = TRAINED / str(recipe.environment) / f"{recipe.algorithm}-seed{recipe.seed}.safetensors"
    path.parent.mkdir(exist_ok=True)
    write_bytes(path, best.read_bytes())
    return path


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        print(ship(Path(folder)))
