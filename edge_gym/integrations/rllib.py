"""The environments in RLlib, which needs ``pip install 'edge_gym[rllib]'``.

Ray pins a Gymnasium of its own there, which is why ``all`` leaves this extra out.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces, wrappers
from gymnasium.wrappers import vector

from edge_gym.agents.recipe import find_recipe
from edge_gym.core.registration import find_environment, list_environments
from edge_gym.evaluation.rollouts import own_config
from edge_gym.runtime.optional import missing_extra

if TYPE_CHECKING:
    from ray.rllib.algorithms.ppo import PPOConfig


def register_rllib() -> None:
    """Register every id with RLlib, under its own name.

    ``AlgorithmConfig.environment(id, env_config=fields)`` then takes any of them. ``fields`` are
    those of the environment's configuration, or others that ``gym.make`` takes. With
    ``env_runners(gym_env_vectorize_mode="vector_entry_point")`` an env runner steps its
    environments together, the fast way; the other modes make them one by one. Actions of several
    rows are taken as one, row after row, for RLlib takes no others.

    Raises:
        ImportError: If RLlib is missing.
    """
    # The registry alone can be imported without what RLlib needs.
    _load("ray.rllib")
    register_env = _load("ray.tune.registry").register_env
    for row in list_environments():
        register_env(row.id, functools.partial(make_for_rllib, row.id))


def ppo_config(env_id: str, **fields: Any) -> PPOConfig:
    """Return a configuration with which RLlib's PPO trains in an environment.

    It has the hyperparameters of our own recipe for the id, but RLlib's plain networks, on
    flattened observations of zero mean and unit variance, and imitates nobody. Change it like any:
    ``ppo_config(id).env_runners(num_env_runners=8).build_algo().train()``.

    Args:
        env_id: With or without ``edge_gym/``.
        **fields: Fields of the environment's configuration.

    Raises:
        ImportError: If RLlib is missing.
        ValueError: If the id is unknown or a value is out of range.
        TypeError: If a field is unknown.
    """
    row = find_environment(env_id)
    # Here, for what goes wrong in an env runner ends in its log.
    replace(own_config(row.id), **fields)
    register_rllib()
    model = _load("ray.rllib.core.rl_module.default_model_config").DefaultModelConfig
    config: PPOConfig = _load("ray.rllib.algorithms.ppo").PPOConfig()
    recipe = find_recipe("ppo", row.id)
    chosen = recipe.hyperparameters
    return (
        config.environment(row.id, env_config=fields)
        .env_runners(
            num_envs_per_env_runner=recipe.lanes,
            gym_env_vectorize_mode=gym.VectorizeMode.VECTOR_ENTRY_POINT,
            env_to_module_connector=_flatten_and_scale,
        )
        .training(
            lr=chosen["learning_rate"],
            gamma=chosen["gamma"],
            lambda_=chosen["gae_lambda"],
            clip_param=chosen["clip_range"],
            entropy_coeff=chosen["ent_coef"],
            num_epochs=chosen["n_epochs"],
            minibatch_size=chosen["batch_size"],
            train_batch_size_per_learner=recipe.lanes * chosen["n_steps"],
            use_kl_loss=False,
            # Returns of some environments are in the hundreds: clipped, no value would be learned.
            vf_clip_param=float("inf"),
        )
        .rl_module(
            model_config=model(
                fcnet_hiddens=list(recipe.network.hidden),
                fcnet_activation=recipe.network.activation,
                vf_share_layers=False,
            )
        )
    )


def make_for_rllib(env_id: str, context: Mapping[str, Any]) -> Any:
    """Make an environment, or a vector environment, as RLlib asks for it.

    Args:
        env_id: With ``edge_gym/``.
        context: ``env_config``, and ``num_envs`` where a vector environment is wanted.

    Raises:
        ValueError: If a value is out of range.
        TypeError: If a field is unknown.
        edge_gym.data.DataError: If data are missing.
    """
    _use_as_many_threads_as_cores()
    fields = dict(context)
    num_envs = fields.pop("num_envs", None)
    if num_envs is None:
        env = gym.make(env_id, **fields)
        flat, shape = _one_row(env.action_space), env.action_space.shape
        if flat is None:
            return env
        return wrappers.TransformAction(env, lambda action: np.reshape(action, shape), flat)
    lanes = gym.make_vec(env_id, num_envs, **fields)
    flat, shape = _one_row(lanes.single_action_space), lanes.action_space.shape
    if flat is None:
        return lanes
    return vector.TransformAction(
        lanes, lambda actions: np.reshape(actions, shape), single_action_space=flat
    )


def _one_row(space: gym.Space[Any]) -> spaces.Box | None:
    """Return the flat space of actions that have several rows; None if these have not."""
    if not isinstance(space, spaces.Box) or len(space.shape) < 2:
        return None
    return spaces.Box(space.low.ravel(), space.high.ravel(), dtype=space.low.dtype.type)


def _use_as_many_threads_as_cores() -> None:
    """Keep kernels in one of Ray's processes to its cores, whose number Ray tells OpenMP alone."""
    import ray

    cores = os.environ.get("OMP_NUM_THREADS")
    if cores and ray.is_initialized() and ray.get_runtime_context().get_actor_id():
        os.environ.setdefault("EDGE_GYM_THREADS", cores)


def _flatten_and_scale(env: Any, spaces: Any = None, device: Any = None) -> list[Any]:
    connectors = _load("ray.rllib.connectors.env_to_module")
    return [connectors.FlattenObservations(), connectors.MeanStdFilter()]


def _load(module: str) -> Any:
    """Import a module of Ray's.

    Raises:
        ImportError: If it, or what it needs, is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing_extra("RLlib is not installed", "rllib", error) from error
