"""What an algorithm has to say of itself, and the registry of algorithms.

One of your own is a class derived from ``Algorithm``, or from ``ActorCritic`` if it has a policy
and a value network, and one call::

    register_algorithm("a2c", A2CAlgorithm("a2c"))

Every function and command that takes ``"ppo"`` takes ``"a2c"`` then. The module is imported by
commands that train nothing, so what is heavy belongs into its methods.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, ClassVar

from edge_gym.registry import Registry
from edge_gym.runtime.checks import check_choice, check_integer, check_number
from edge_gym.runtime.yaml import load_yaml

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from edge_gym.agents.networks.deep_sets import DeviceArchitecture
    from edge_gym.agents.recipe import Imitation, Recipe
    from edge_gym.agents.training.imitation import Lesson, Round
    from edge_gym.agents.training.search_space import Derived, Space
    from edge_gym.integrations.sb3 import LaneVecEnv

Check = Callable[[str, Any], None]
"""Raises a ``ValueError`` that names the field if its value is not allowed."""

SCHEDULES = ("constant", "linear")
"""How the learning rate goes on: as it is, or down to 0 at the last step."""


def integer_from(low: int) -> Check:
    """Return the check that a value is an integer of at least ``low``."""
    return lambda name, value: check_integer(name, value, low)


def number_in(low: float = 0.0, high: float = math.inf, *, open_low: bool = False) -> Check:
    """Return the check that a value is a finite number from ``low`` to ``high``."""
    return lambda name, value: check_number(name, value, low, high, open_low=open_low)


COMMON_HYPERPARAMETERS: Mapping[str, Check] = {
    "learning_rate": number_in(open_low=True),
    "learning_rate_schedule": lambda name, value: check_choice(name, value, SCHEDULES),
    "n_steps": integer_from(1),
    "gamma": number_in(0, 1),
    "max_grad_norm": number_in(open_low=True),
}
"""What every algorithm of stable-baselines3 that is used here must be told."""


@dataclass(frozen=True)
class SearchContext:
    """What a search space depends on besides the recipe.

    Attributes:
        devices: Whether the network scores devices or samples.
        gaussian: Whether scores are explored by Gaussian noise.
    """

    devices: bool
    gaussian: bool


class Algorithm(ABC):
    """A learning algorithm, as stable-baselines3 has it.

    Args:
        name: As it is registered.

    Attributes:
        hyperparameters: The check of each hyperparameter that a recipe must give; names and
            meanings are stable-baselines3's, but for ``learning_rate_schedule``.
        defaults: Values of the hyperparameters in the general recipe; not needed where
            ``recipes/NAME-default.yaml`` comes with this package.
        discrete_only: Whether actions must be one choice among several. The others may also be
            levels or continuous scores of each device.
        decodes: Whether its actions may be scores that a decoder makes actions of.
        varies: Whether it can be trained in several environments by turns.
        replays: Whether it keeps a replay buffer, which checkpoints must hold.
        margins: Whether imitation may ask for a margin between the imitated action's value and
            all others'.
        counters: Attributes of the model that checkpoints must hold besides those of all models.
    """

    hyperparameters: ClassVar[Mapping[str, Check]]
    defaults: ClassVar[Mapping[str, Any]] = {}
    discrete_only: ClassVar[bool] = False
    decodes: ClassVar[bool] = False
    varies: ClassVar[bool] = False
    replays: ClassVar[bool] = False
    margins: ClassVar[bool] = False
    counters: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str) -> None:
        self.name = name

    # Recipes

    def check(self, recipe: Recipe) -> None:  # noqa: B027 - most have nothing to check
        """Check what hyperparameters and the rest of a recipe must satisfy together.

        Raises:
            ValueError: If they do not.
        """

    def default_recipe(self) -> Any:
        """Return the recipe for environments that have none of their own, as YAML holds it."""
        file = resources.files("edge_gym.agents") / "recipes" / f"{self.name}-default.yaml"
        if file.is_file():
            return load_yaml(file.read_bytes())
        return {**GENERAL, "algorithm": self.name, "hyperparameters": dict(self.defaults)}

    # Models

    @abstractmethod
    def model_class(self) -> type[Any]:
        """Return the class of its models, ``stable_baselines3.common.base_class.BaseAlgorithm``."""

    @abstractmethod
    def device_policy(
        self, recipe: Recipe, env: LaneVecEnv, shape: DeviceArchitecture
    ) -> tuple[type[Any], dict[str, Any]]:
        """Return the class of policies that score devices, and its arguments besides ``shape``.

        Args:
            recipe: The recipe.
            env: The environment.
            shape: The network's shape.

        Raises:
            ValueError: If the recipe's network does not suit the environment.
        """

    def model_arguments(
        self, hyperparameters: Mapping[str, Any], *, devices: bool
    ) -> dict[str, Any]:
        """Return what the model's class is given for the hyperparameters.

        Args:
            hyperparameters: The recipe's, the learning rate a number or a schedule.
            devices: Whether observations come in parts, one of them of devices.
        """
        return dict(hyperparameters)

    @abstractmethod
    def action_heads(self, model: Any) -> list[nn.Linear]:
        """Return the last layers of a policy on flat observations, one unit per action."""

    def optimizers(self, model: Any) -> dict[str, Optimizer]:
        """Return the optimisers that checkpoints must hold, by name."""
        return {"optimizer": model.policy.optimizer}

    # Imitation

    @abstractmethod
    def teach(
        self, model: Any, rounds: Sequence[list[Round]], steps: Sequence[Lesson], lesson: Imitation
    ) -> None:
        """Let a model learn from what a baseline did.

        Args:
            model: The untrained model.
            rounds: What was played in each environment, step by step.
            steps: The steps of whole episodes of each, with their returns.
            lesson: How to imitate.
        """

    # Searches

    @abstractmethod
    def search_space(self, recipe: Recipe, context: SearchContext) -> Space:
        """Return what is searched around a recipe by name, whose own values are part of it.

        Names are keys of the recipe with dots between, or those of ``derived_parameters``.
        """

    def derived_parameters(self) -> dict[str, Derived]:
        """Return names of a search space that are no keys of a recipe, and what they stand for."""
        return {}


GENERAL: Mapping[str, Any] = {
    "steps": 1_000_000,
    "lanes": 32,
    "reward_scale": 20.0,
    "evaluation": {"every": 100_000, "episodes": 256, "lanes": 64},
}
"""What the general recipe says of training, whatever the algorithm."""

ALGORITHMS: Registry[Algorithm] = Registry("algorithm")
"""Algorithms by the names that recipes, files and commands use."""


def register_algorithm(name: str, algorithm: Algorithm | str) -> None:
    """Register an algorithm; every function and command then takes it by name.

    Args:
        name: Its name.
        algorithm: The algorithm, or where it is, ``"module:attribute"``.

    Raises:
        ValueError: If the name cannot be written on command lines, or is taken.
    """
    ALGORITHMS.register(name, algorithm)


register_algorithm("ppo", "edge_gym.agents.algorithms.ppo:PPO")
register_algorithm("dqn", "edge_gym.agents.algorithms.dqn:DQN")
