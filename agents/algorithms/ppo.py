"""Proximal policy optimisation (Schulman et al., 2017), as stable-baselines3 has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from edge_gym.agents.algorithms.actor_critic import ActorCritic
from edge_gym.agents.algorithms.base import COMMON_HYPERPARAMETERS, Check, integer_from, number_in

if TYPE_CHECKING:
    from edge_gym.agents.recipe import Recipe
    from edge_gym.agents.training.search_space import Derived, Space


class PPOAlgorithm(ActorCritic):
    """PPO."""

    hyperparameters: ClassVar[Mapping[str, Check]] = {
        **COMMON_HYPERPARAMETERS,
        "batch_size": integer_from(1),
        "n_epochs": integer_from(1),
        "gae_lambda": number_in(0, 1),
        "clip_range": number_in(open_low=True),
        "ent_coef": number_in(),
        "vf_coef": number_in(),
    }

    def check(self, recipe: Recipe) -> None:
        """Check that mini-batches divide a rollout."""
        rollout = recipe.lanes * recipe.hyperparameters["n_steps"]
        if rollout == 1 or rollout % recipe.hyperparameters["batch_size"]:
            raise ValueError(
                "hyperparameters.batch_size must divide lanes times n_steps, "
                f"{rollout} > 1, got {recipe.hyperparameters['batch_size']}"
            )

    def model_class(self) -> type[Any]:
        """Return stable-baselines3's PPO."""
        from edge_gym.integrations.sb3_imports import PPO

        return PPO

    def own_search_space(self, recipe: Recipe) -> Space:
        """Return what is searched of a rollout, its mini-batches and the loss."""
        from edge_gym.agents.training.search_space import around, categories, choice, whole_around

        values = recipe.hyperparameters
        rollouts, batches = _rollouts(recipe)
        return {
            "hyperparameters.n_steps": categories(rollouts),
            "batches": categories(batches),
            "hyperparameters.n_epochs": whole_around(values["n_epochs"], 2),
            "hyperparameters.gae_lambda": choice(
                float(values["gae_lambda"]), 0.8, 0.9, 0.95, 0.98, 1.0
            ),
            "hyperparameters.clip_range": around(values["clip_range"], 2),
            "hyperparameters.ent_coef": choice(
                float(values["ent_coef"]), 0.0, 0.0003, 0.001, 0.003, 0.01
            ),
        }

    def derived_parameters(self) -> dict[str, Derived]:
        """Return ``batches``, the number of mini-batches in a rollout, so that each divides it."""
        return {"batches": (_batches, _set_batches)}


def _batches(recipe: Recipe) -> int:
    values = recipe.hyperparameters
    number: int = recipe.lanes * values["n_steps"] // values["batch_size"]
    return number


def _set_batches(mapping: dict[str, Any], recipe: Recipe, number: int) -> None:
    values = mapping["hyperparameters"]
    values["batch_size"] = recipe.lanes * values["n_steps"] // number


def _rollouts(recipe: Recipe) -> tuple[list[int], list[int]]:
    """Return values of ``n_steps`` and numbers of mini-batches, of which every pair is possible."""
    own = recipe.hyperparameters["n_steps"]
    batches = _batches(recipe)
    lengths = [own // 2] * (own % 2 == 0) + [own, 2 * own]
    lengths = [n for n in lengths if recipe.lanes * n % batches == 0 and recipe.lanes * n > 1]
    numbers = [batches // 2] * (batches % 2 == 0) + [batches, 2 * batches]
    return lengths, [b for b in numbers if all(recipe.lanes * n % b == 0 for n in lengths)]


PPO = PPOAlgorithm("ppo")
