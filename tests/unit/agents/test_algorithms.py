"""Algorithms by name: a third one, brought from outside, trains, is saved, loaded and compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import pytest
from training_runs import ID, TINY

from edge_gym.agents import (
    ALGORITHMS,
    find_recipe,
    has_recipe,
    load_agent,
    read_agent_metadata,
    register_algorithm,
    train,
)
from edge_gym.agents.algorithms.actor_critic import ActorCritic
from edge_gym.agents.algorithms.base import COMMON_HYPERPARAMETERS, Check, number_in
from edge_gym.agents.recipe import parse_recipe
from edge_gym.evaluation.comparison import compare


class A2CAlgorithm(ActorCritic):
    hyperparameters: ClassVar[Mapping[str, Check]] = {
        **COMMON_HYPERPARAMETERS,
        "gae_lambda": number_in(0, 1),
        "ent_coef": number_in(),
        "vf_coef": number_in(),
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 7e-4,
        "learning_rate_schedule": "constant",
        "n_steps": 8,
        "gamma": 0.999,
        "max_grad_norm": 0.5,
        "gae_lambda": 1.0,
        "ent_coef": 0.003,
        "vf_coef": 0.5,
    }

    def model_class(self) -> type[Any]:
        from stable_baselines3 import A2C

        return A2C


@pytest.fixture
def a2c() -> Iterator[str]:
    register_algorithm("a2c", A2CAlgorithm("a2c"))
    yield "a2c"
    ALGORITHMS.unregister("a2c")


def small_recipe(name: str) -> Any:
    recipe = find_recipe(name, ID).as_mapping()
    recipe.update(
        steps=448,
        lanes=4,
        checkpoint_every=64,
        network={"hidden": [8, 8], "activation": "tanh"},
        evaluation={"every": 128, "episodes": 6, "lanes": 3},
    )
    return parse_recipe(recipe, "small")


def test_an_algorithm_from_outside(tmp_path: Path, a2c: str) -> None:
    agent = train(a2c, ID, recipe=small_recipe(a2c), out=tmp_path, overrides=TINY, progress=False)
    assert read_agent_metadata(agent)["algorithm"] == "a2c"
    env = gym.make(ID, **TINY)
    policy = load_agent(agent, env)
    observation, _ = env.reset(seed=0)
    assert policy.act(observation) in (0, 1)
    found = compare(ID, {"ours": str(agent), "random": "random"}, episodes=4, overrides=TINY)
    assert set(found.policies) == {"ours", "random"}


def test_a_training_by_it_goes_on_from_its_checkpoint(tmp_path: Path, a2c: str) -> None:
    class KilledError(Exception):
        pass

    def killed(steps: int, mean_return: float) -> None:
        if steps > 200:
            raise KilledError

    given: dict[str, Any] = {"recipe": small_recipe(a2c), "overrides": TINY, "progress": False}
    whole = train(a2c, ID, out=tmp_path / "whole", **given)
    with pytest.raises(KilledError):
        train(a2c, ID, out=tmp_path / "parts", report=killed, **given)
    parts = train(a2c, ID, out=tmp_path / "parts", resume=True, **given)
    env = gym.make(ID, **TINY)
    assert load_agent(whole, env).fingerprint == load_agent(parts, env).fingerprint


def test_its_space_holds_its_own_recipe(a2c: str) -> None:
    from edge_gym.agents.training.search_space import parameters_of, search_space, with_parameters

    recipe = small_recipe(a2c)
    space = search_space(recipe, devices=False, gaussian=False)
    own = parameters_of(recipe, space)
    assert own["hyperparameters.learning_rate"] == 7e-4
    assert with_parameters(recipe, own) == recipe


def test_every_environment_has_a_recipe() -> None:
    assert has_recipe("ppo", ID)
    assert find_recipe("ppo", ID).environment is not None
    for name in ("edge_gym/Unheard-v0", "theirs/Problem-v3", "Bare-v0", "a/../ppo-default"):
        assert not has_recipe("ppo", name)
        assert find_recipe("ppo", name).environment is None


def test_a_general_recipe_is_told_of() -> None:
    from edge_gym.agents.training.run import general_recipe_remark
    from edge_gym.core.registration import find_environment

    assert general_recipe_remark("ppo", find_environment(ID)) is None
    papers = find_environment("Retransmission-Paper-v0")
    assert "general" in (general_recipe_remark("ppo", papers) or "")


def test_unknown_algorithms() -> None:
    with pytest.raises(ValueError, match="unknown algorithm 'pp0', did you mean ppo"):
        find_recipe("pp0", ID)
    with pytest.raises(ValueError, match="already"):
        register_algorithm("ppo", A2CAlgorithm("ppo"))
