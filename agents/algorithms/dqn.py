"""Deep Q-learning (Mnih et al., 2015) with n-step returns, as stable-baselines3 has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from edge_gym.agents.algorithms.base import (
    COMMON_HYPERPARAMETERS,
    Algorithm,
    Check,
    SearchContext,
    integer_from,
    number_in,
)

if TYPE_CHECKING:
    from torch import nn

    from edge_gym.agents.networks.deep_sets import DeviceArchitecture
    from edge_gym.agents.recipe import Imitation, Recipe
    from edge_gym.agents.training.imitation import Lesson, Round
    from edge_gym.agents.training.search_space import Space
    from edge_gym.integrations.sb3 import LaneVecEnv


class DQNAlgorithm(Algorithm):
    """DQN."""

    hyperparameters: ClassVar[Mapping[str, Check]] = {
        **COMMON_HYPERPARAMETERS,
        "batch_size": integer_from(1),
        "buffer_size": integer_from(1),
        "learning_starts": integer_from(0),
        "tau": number_in(0, 1, open_low=True),
        "train_freq": integer_from(1),
        "gradient_steps": integer_from(1),
        "target_update_interval": integer_from(1),
        "exploration_fraction": number_in(0, 1, open_low=True),
        "exploration_initial_eps": number_in(0, 1),
        "exploration_final_eps": number_in(0, 1),
    }
    discrete_only = True
    replays = True
    margins = True
    counters = ("_n_calls", "exploration_rate")

    def model_class(self) -> type[Any]:
        """Return stable-baselines3's DQN."""
        from edge_gym.integrations.sb3_imports import DQN

        return DQN

    def model_arguments(
        self, hyperparameters: Mapping[str, Any], *, devices: bool
    ) -> dict[str, Any]:
        """Return the hyperparameters; observations in parts need a replay buffer of ours."""
        arguments = dict(hyperparameters)
        if devices:
            from edge_gym.agents.networks.replay import PartsReplayBuffer

            arguments["replay_buffer_class"] = PartsReplayBuffer
            arguments["replay_buffer_kwargs"] = {
                "n_steps": arguments.pop("n_steps"),
                "gamma": arguments["gamma"],
            }
        return arguments

    def device_policy(
        self, recipe: Recipe, env: LaneVecEnv, shape: DeviceArchitecture
    ) -> tuple[type[Any], dict[str, Any]]:
        """Return the policy with a Q-value for each action."""
        from edge_gym.agents.networks.policy import DeviceDQNPolicy

        return DeviceDQNPolicy, {}

    def action_heads(self, model: Any) -> list[nn.Linear]:
        """Return the last layers of the Q-network and its target."""
        return [model.policy.q_net.q_net[-1], model.policy.q_net_target.q_net[-1]]

    def teach(
        self, model: Any, rounds: Sequence[list[Round]], steps: Sequence[Lesson], lesson: Imitation
    ) -> None:
        """Fill the replay buffer, and fit Q-values of what was done to the returns."""
        from edge_gym.agents.training.imitation import fill_replay, fit_values

        fill_replay(model, rounds[0])
        fit_values(model, steps, lesson)

    def search_space(self, recipe: Recipe, context: SearchContext) -> Space:
        """Return what is searched: learning rate, discount, returns, updates and exploration."""
        from edge_gym.agents.training.search_space import around, choice, whole_around

        values, lesson = recipe.hyperparameters, recipe.imitation
        found: Space = {
            "hyperparameters.learning_rate": around(values["learning_rate"], 5),
            "hyperparameters.gamma": choice(
                float(values["gamma"]), 0.97, 0.985, 0.99, 0.995, 0.999, 1.0
            ),
            "hyperparameters.n_steps": whole_around(values["n_steps"], 3),
            # How much is learnt from each step; train_freq would do the same the other way round.
            "hyperparameters.gradient_steps": whole_around(values["gradient_steps"], 2),
            "hyperparameters.target_update_interval": whole_around(
                values["target_update_interval"], 4
            ),
            "hyperparameters.exploration_fraction": around(values["exploration_fraction"], 2.5, 1),
        }
        if values["exploration_final_eps"]:
            found["hyperparameters.exploration_final_eps"] = around(
                values["exploration_final_eps"], 4, 1
            )
        # Who begins at random explores at random; who has been taught explores around that.
        if lesson is not None and values["exploration_initial_eps"]:
            found["hyperparameters.exploration_initial_eps"] = around(
                values["exploration_initial_eps"], 4, 1
            )
        if lesson is not None and lesson.margin:
            found["imitation.margin"] = around(lesson.margin, 4)
        return found


DQN = DQNAlgorithm("dqn")
