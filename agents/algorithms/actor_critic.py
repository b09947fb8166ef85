"""What algorithms with a policy and a value network have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gymnasium import spaces

from edge_gym.agents.algorithms.base import Algorithm, SearchContext

if TYPE_CHECKING:
    from torch import nn

    from edge_gym.agents.networks.deep_sets import DeviceArchitecture
    from edge_gym.agents.recipe import Imitation, Recipe
    from edge_gym.agents.training.imitation import Lesson, Round
    from edge_gym.agents.training.search_space import Space
    from edge_gym.integrations.sb3 import LaneVecEnv


class ActorCritic(Algorithm):
    """An algorithm that learns from rollouts of its present policy, as PPO and A2C do.

    Its models have stable-baselines3's ``ActorCriticPolicy``.
    """

    decodes = True
    varies = True

    def device_policy(
        self, recipe: Recipe, env: LaneVecEnv, shape: DeviceArchitecture
    ) -> tuple[type[Any], dict[str, Any]]:
        """Return the policy that scores devices, by signs or with Gaussian noise."""
        from edge_gym.agents.networks.policy import DeviceActorCriticPolicy

        network = recipe.network
        signs = network.exploration == "signs"
        enough = shape.outputs == 1 or env.lanes.problem.signs_suffice
        if signs and not (isinstance(env.action_space, spaces.Box) and enough):
            raise ValueError(
                "network.exploration is signs, which is for one score per device, not for "
                f"{env.action_space}"
            )
        return DeviceActorCriticPolicy, {"signs": signs, "log_std_init": network.log_std}

    def action_heads(self, model: Any) -> list[nn.Linear]:
        """Return the policy's last layer."""
        return [model.policy.action_net]

    def teach(
        self, model: Any, rounds: Sequence[list[Round]], steps: Sequence[Lesson], lesson: Imitation
    ) -> None:
        """Fit the policy to the baseline's actions and the value function to the returns."""
        from edge_gym.agents.training.imitation import fit_policy

        fit_policy(model, steps, lesson)

    def search_space(self, recipe: Recipe, context: SearchContext) -> Space:
        """Return what is searched: learning rate, discount, entropy, network and imitation."""
        from edge_gym.agents.training.search_space import (
            around,
            categories,
            choice,
            shifted,
            whole_around,
        )

        values, lesson, network = recipe.hyperparameters, recipe.imitation, recipe.network
        found: Space = {
            "hyperparameters.learning_rate": around(values["learning_rate"], 5),
            "hyperparameters.gamma": choice(
                float(values["gamma"]), 0.97, 0.985, 0.99, 0.995, 0.999, 1.0
            ),
            **self.own_search_space(recipe),
            "reward_scale": around(recipe.reward_scale, 3),
        }
        if context.devices:
            width = network.hidden[0]
            found["network.context"] = categories(("none", "mean", "mean-max"))
            found["width"] = categories(sorted({max(1, width // 2), width, 2 * width}))
        if context.gaussian:
            found["network.log_std"] = shifted(network.log_std, 1, -5, 1)
        if lesson is not None:
            found["imitation.epochs"] = whole_around(lesson.epochs, 2)
            if lesson.noise:
                found["imitation.noise"] = around(lesson.noise, 2, 0.5)
        return found

    def own_search_space(self, recipe: Recipe) -> Space:
        """Return what is searched of the hyperparameters that only this algorithm has."""
        return {}
