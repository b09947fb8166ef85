"""The untrained model of a recipe."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces

from edge_gym.agents.algorithms.base import ALGORITHMS, Algorithm
from edge_gym.agents.decoders import make_decoder
from edge_gym.agents.interface import levels_per_device
from edge_gym.agents.networks.activations import ACTIVATIONS
from edge_gym.agents.networks.deep_sets import DeviceArchitecture
from edge_gym.agents.networks.flat import set_action_bias
from edge_gym.agents.networks.scaling import ScaledFeatures, ScaledParts
from edge_gym.agents.recipe import Recipe
from edge_gym.agents.training.variation import by_turns
from edge_gym.core.observation import ObservationTable
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.integrations.sb3 import LaneVecEnv
from edge_gym.integrations.sb3_imports import BaseAlgorithm
from edge_gym.runtime.checks import check_choice


def adapted(env: EdgeVectorEnv, recipe: Recipe) -> LaneVecEnv:
    """Return an environment as a recipe's algorithm sees it: rewards scaled, scores decoded.

    Raises:
        ValueError: If the recipe's decoder does not suit the environment.
    """
    wanted = recipe.network.decoder
    decoder = None if wanted is None else make_decoder(wanted, env)
    return LaneVecEnv(env, recipe.reward_scale, decoder)


def check_device(device: str) -> None:
    """Raise a ``ValueError`` if there is no such device here."""
    check_choice("device", device, ("cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device is cuda, but torch finds no GPU: train on the cpu, or install a torch that "
            "was built for this GPU"
        )


def make_model(
    recipe: Recipe, env: LaneVecEnv, *others: LaneVecEnv, device: str = "cpu"
) -> BaseAlgorithm:
    """Make the untrained model of a recipe.

    Args:
        recipe: The recipe.
        env: The environment that it is trained in.
        *others: Those that follow, rollout by rollout, before the first one's turn comes again.
        device: Where its networks are.

    Raises:
        ValueError: If the environment's actions or observations do not suit it.
    """
    algorithm = ALGORITHMS.find(recipe.algorithm)
    devices = env.lanes.actions_per is not None
    if recipe.network.kind not in (None, "device" if devices else "mlp"):
        raise ValueError(
            f"network.kind is {recipe.network.kind}, but the environment's actions are "
            + (f"one per {env.lanes.actions_per}" if devices else "of another kind")
        )
    suited: tuple[type[spaces.Space[Any]], ...] = (spaces.Discrete,)
    if env.lanes.actions_per == "device" and not algorithm.discrete_only:
        suited += (spaces.Box, spaces.MultiDiscrete)
    if not isinstance(env.action_space, suited):
        raise ValueError(
            f"{recipe.algorithm} is trained here with discrete actions, not with "
            f"{env.action_space}: use the environment's discrete twin"
        )
    hyperparameters = dict(recipe.hyperparameters)
    rate = hyperparameters.pop("learning_rate")
    if hyperparameters.pop("learning_rate_schedule") == "linear":
        hyperparameters["learning_rate"] = lambda remaining: rate * remaining
    else:
        hyperparameters["learning_rate"] = rate
    policy_class: Any = "MlpPolicy"
    if devices:
        policy_class, policy_kwargs = _device_policy(algorithm, recipe, env)
    else:
        policy_kwargs = _flat_policy(recipe, env)
    arguments = algorithm.model_arguments(hyperparameters, devices=devices)
    kind: Any = algorithm.model_class()
    if others:
        kind, arguments["others"] = by_turns(kind), others
    model: BaseAlgorithm = kind(
        policy_class,
        env,
        seed=recipe.seed,
        device=device,
        policy_kwargs=policy_kwargs,
        **arguments,
    )
    if recipe.action_bias is not None:
        for head in algorithm.action_heads(model):
            set_action_bias(head, recipe.action_bias)
    return model


def _flat_policy(recipe: Recipe, env: LaneVecEnv) -> dict[str, Any]:
    tables = env.lanes.tables
    if set(tables) != {""}:
        raise ValueError(
            "agents see flat observations, or devices with one action for each, not "
            f"{env.observation_space}"
        )
    centre, spread = tables[""].scaling()
    return {
        "features_extractor_class": ScaledFeatures,
        "features_extractor_kwargs": {"centre": centre, "spread": spread},
        "net_arch": list(recipe.network.hidden),
        "activation_fn": ACTIVATIONS[recipe.network.activation],
    }


def _device_policy(
    algorithm: Algorithm, recipe: Recipe, env: LaneVecEnv
) -> tuple[type[Any], dict[str, Any]]:
    if recipe.action_bias is not None:
        raise ValueError("action_bias is for flat observations: here all actions are scored alike")
    tables, network = env.lanes.tables, recipe.network
    shape = DeviceArchitecture(
        widths={part: len(table) for part, table in tables.items()},
        actions_per=str(env.lanes.actions_per),
        hidden=network.hidden,
        activation=network.activation,
        context=network.context,
        outputs=_outputs(env),
    )
    samples = tables.get("samples") or ObservationTable()
    arguments = {
        "features_extractor_class": ScaledParts,
        "features_extractor_kwargs": {
            "scaling": {part: table.scaling() for part, table in tables.items()},
            "present": samples.index("present") if "present" in samples else None,
        },
        "net_arch": [],
        "shape": shape,
    }
    policy_class, further = algorithm.device_policy(recipe, env, shape)
    return policy_class, {**arguments, **further}


def _outputs(env: LaneVecEnv) -> int:
    """Return the system's actions, or the levels or the columns of each device's."""
    if isinstance(env.action_space, spaces.Discrete):
        if env.lanes.actions_per == "combination":
            return levels_per_device(env.action_space, env.observation_space)
        return int(env.action_space.n) if env.lanes.actions_per == "system" else 1
    if isinstance(env.action_space, spaces.MultiDiscrete):
        return int(env.action_space.nvec[0])
    shape = env.action_space.shape or ()
    return shape[1] if len(shape) > 1 else 1
