"""Recipes: the package's own, how they are found, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import LESSON
from training_runs import ID, tiny_recipe

from edge_gym.agents import ALGORITHMS, find_recipe, load_recipe
from edge_gym.agents import recipe as recipes
from edge_gym.agents.recipe import parse_recipe


def test_packaged_recipes_are_valid() -> None:
    folder = Path(recipes.__file__).parent / "recipes"
    names = sorted(path.name for path in folder.iterdir())
    assert {f"{algorithm}-default.yaml" for algorithm in ALGORITHMS} <= set(names)
    for path in folder.iterdir():
        recipe = load_recipe(path)
        environment = (recipe.environment or "default").lower()
        assert path.name == f"{recipe.algorithm}-{environment}.yaml"
        assert parse_recipe(yaml.safe_load(yaml.safe_dump(recipe.as_mapping())), "") == recipe


def test_recipes_are_found() -> None:
    assert find_recipe("dqn", "Retransmission-v0").environment == "Retransmission-v0"
    assert find_recipe("ppo", ID) == find_recipe("ppo", "Retransmission-v0")
    assert find_recipe("ppo", "edge_gym/Something-v7").environment is None
    assert find_recipe("ppo", "../../ppo").environment is None
    with pytest.raises(ValueError, match="unknown algorithm 'sac'; known are ppo, dqn"):
        find_recipe("sac", ID)


def _without(key: str) -> Any:
    return lambda recipe: recipe.pop(key)


def _with(**values: Any) -> Any:
    return lambda recipe: recipe.update(values)


def _hyper(**values: Any) -> Any:
    return lambda recipe: recipe["hyperparameters"].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("steps"), "the recipe: steps missing"),
        (_without("hyperparameters"), "hyperparameters missing"),
        (_with(sneps=1), "unknown 'sneps'; known are algorithm, environment"),
        (_with(algorithm="sac"), "unknown algorithm 'sac'; known are ppo, dqn"),
        (_with(environment=3), "environment must be an id"),
        (_with(seed=-1), "seed must be an integer in"),
        (_with(steps=0), "steps must be an integer at least 1, got 0"),
        (_with(lanes=True), "lanes must be an integer in"),
        (_with(reward_scale=0), "reward_scale must be a finite number in"),
        (_with(action_bias=1.0), "action_bias must be a list"),
        (_with(action_bias=["x"]), "action_bias must be a finite number"),
        (_with(train_config=[1]), "train_config must be a mapping"),
        (_with(variations={"C": 1.0}), "variations must be a list"),
        (_with(variations=["iid"]), "variations must be a list of mappings, got 'iid'"),
        (_with(network={"hidden": [0]}), "network.hidden must be an integer at least 1"),
        (_with(network={"hidden": 64}), "network.hidden must be a list"),
        (_with(network={"activation": "sine"}), "network.activation must be one of"),
        (_with(network={"layers": []}), "network: unknown 'layers'"),
        (_with(network={"kind": "gnn"}), "network.kind must be one of mlp, device, got 'gnn'"),
        (_with(network={"exploration": "all"}), "network.exploration must be one of gaussian"),
        (_with(network={"context": None}), "network.context must be one of none, mean, mean-max"),
        (_with(evaluation={}), "evaluation: every missing"),
        (_with(evaluation={"every": 1, "episodes": 1}), "evaluation.episodes must be"),
        (_hyper(gamma=1.5), r"hyperparameters.gamma must be a finite number in \[0, 1\]"),
        (_hyper(learning_rate="3e-4"), "hyperparameters.learning_rate must be a finite number"),
        (_hyper(learning_rate_schedule="cosine"), "must be one of constant, linear"),
        (_hyper(buffer_size=9), "unknown 'buffer_size'"),
        (_hyper(batch_size=33), "batch_size must divide lanes times n_steps, 64"),
        (lambda recipe: recipe["hyperparameters"].pop("gamma"), "gamma missing"),
    ],
)
def test_bad_recipes(change: Any, message: str) -> None:
    values = tiny_recipe("ppo").as_mapping()
    change(values)
    with pytest.raises(ValueError, match=message) as error:
        parse_recipe(values, "my.yaml")
    assert str(error.value).startswith("my.yaml: ")


def test_bad_recipe_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no recipe at"):
        load_recipe(tmp_path / "none.yaml")
    file = tmp_path / "bad.yaml"
    file.write_text("a: [")
    with pytest.raises(ValueError, match=r"bad\.yaml: it is not valid YAML: .*$") as error:
        load_recipe(file)
    assert "\n" not in str(error.value)
    file.write_text("- 1")
    with pytest.raises(ValueError, match="must be a mapping"):
        load_recipe(file)
    file.write_text("!!python/object/apply:os.system ['false']")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_recipe(file)


@pytest.mark.parametrize(
    ("algorithm", "change", "message"),
    [
        ("ppo", {"margin": 0.5}, "imitation.margin is for dqn, not for ppo"),
        ("dqn", {"margin": -1.0}, "imitation.margin must be a finite number in"),
        ("ppo", {"policy": "channel-aware"}, "imitation.policy must be a mapping with name"),
        ("ppo", {"noise": 0.7}, "imitation.noise must be a finite number in"),
        ("ppo", {"passes": 3}, "imitation: unknown 'passes'"),
    ],
)
def test_bad_imitation(algorithm: str, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_recipe(algorithm, imitation={**LESSON, **change})
