"""What a search for a recipe varies: the space around a recipe, and its points."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import gymnasium as gym
from gymnasium import spaces

from edge_gym.agents.algorithms.base import ALGORITHMS, SearchContext
from edge_gym.agents.recipe import Recipe, parse_recipe
from edge_gym.agents.training.model import adapted
from edge_gym.core.registration import EnvironmentSpec
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.runtime.optional import missing_extra

try:
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )
except ImportError as error:
    raise missing_extra("searching recipes needs Optuna", "agents", error) from error

Space = dict[str, BaseDistribution]
"""Distributions by name."""

Derived = tuple[Callable[[Recipe], Any], Callable[[dict[str, Any], Recipe, Any], None]]
"""How a parameter that is no key of a recipe is read, and written into a recipe's mapping."""


def search_space(recipe: Recipe, *, devices: bool, gaussian: bool) -> Space:
    """Return what is searched around a recipe, whose own values are always part of it.

    Names are a recipe's keys, but for those that are derived: ``width`` is that of the first
    hidden layer, which the others keep in proportion, and algorithms have others of their own.

    Args:
        recipe: The base recipe.
        devices: Whether the network scores devices or samples.
        gaussian: Whether scores are explored by Gaussian noise.
    """
    context = SearchContext(devices=devices, gaussian=gaussian)
    return ALGORITHMS.find(recipe.algorithm).search_space(recipe, context)


def network_kind(
    recipe: Recipe, row: EnvironmentSpec, overrides: Mapping[str, Any]
) -> dict[str, bool]:
    """Return what ``search_space`` needs to know of a recipe's network in an environment."""
    config = {**recipe.train_config, **overrides}
    env = gym.make_vec(row.id, num_envs=1, autoreset_mode="SameStep", config=config)
    lanes = adapted(cast(EdgeVectorEnv, env), recipe)
    gaussian = isinstance(lanes.action_space, spaces.Box) and recipe.network.exploration != "signs"
    lanes.close()
    return {"devices": lanes.env.actions_per is not None, "gaussian": gaussian}


def parameters_of(recipe: Recipe, space: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's own point of the space."""
    mapping, derived, point = recipe.as_mapping(), _derived(recipe), {}
    for name in space:
        if name in derived:
            point[name] = derived[name][0](recipe)
        else:
            part, key = _place(mapping, name)
            point[name] = part[key]
    return point


def with_parameters(recipe: Recipe, parameters: Mapping[str, Any]) -> Recipe:
    """Return a recipe with a point of its space in place of its own values.

    Raises:
        ValueError: If that is no valid recipe.
    """
    mapping, derived = recipe.as_mapping(), _derived(recipe)
    for name, value in parameters.items():
        if name not in derived:
            part, key = _place(mapping, name)
            # A recipe shall be readable, and three digits are more than is known.
            new = isinstance(value, float) and value != part[key]
            part[key] = float(f"{value:.3g}") if new else value
    # They may depend on the others.
    for name, value in parameters.items():
        if name in derived:
            derived[name][1](mapping, recipe, value)
    return parse_recipe(mapping, "a proposed recipe")


def _derived(recipe: Recipe) -> dict[str, Derived]:
    width: Derived = (lambda recipe: recipe.network.hidden[0], _set_width)
    return {"width": width, **ALGORITHMS.find(recipe.algorithm).derived_parameters()}


def _set_width(mapping: dict[str, Any], recipe: Recipe, width: int) -> None:
    first, *_ = recipe.network.hidden
    hidden = [max(1, units * width // first) for units in recipe.network.hidden]
    mapping["network"]["hidden"] = hidden


def _place(mapping: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    *parts, key = name.split(".")
    for part in parts:
        mapping = mapping[part]
    return mapping, key


# Distributions around a value


def around(value: float, factor: float, high: float = math.inf) -> FloatDistribution:
    """Return numbers from ``value / factor`` to ``value * factor``, at most ``high``."""
    return FloatDistribution(value / factor, min(value * factor, high), log=True)


def whole_around(value: int, factor: int) -> IntDistribution:
    """Return integers from ``value / factor`` to ``value * factor``, at least 1."""
    return IntDistribution(max(1, value // factor), value * factor, log=True)


def shifted(value: float, shift: float, low: float, high: float) -> FloatDistribution:
    """Return numbers from ``value - shift`` to ``value + shift``, from ``low`` to ``high``."""
    return FloatDistribution(max(float(low), value - shift), min(float(high), value + shift))


def choice(value: float, *others: float) -> CategoricalDistribution:
    """Return a value and others to choose from."""
    return CategoricalDistribution(sorted({value, *others}))


def categories(values: Sequence[Any]) -> CategoricalDistribution:
    """Return values to choose from."""
    return CategoricalDistribution(values)
