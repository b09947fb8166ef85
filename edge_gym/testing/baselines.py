"""The contract of rules."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

import numpy as np

from edge_gym.baselines import find_baseline
from edge_gym.baselines.base import Baseline
from edge_gym.evaluation.rollouts import make_lanes, run_episodes
from edge_gym.evaluation.seeds import TUNING
from edge_gym.testing.results import assert_same


def check_baseline(
    rule: type[Baseline] | str,
    env_id: str,
    overrides: Mapping[str, Any] | None = None,
    episodes: int = 4,
) -> None:
    """Check that a rule keeps its contract in an environment.

    Checked are its name, source and docstring, that it applies, that the points of its grid are
    valid, that its actions are possible ones, that an episode does not depend on how many are run
    at a time, and that the same seeds give the same episodes.

    Args:
        rule: A ``Baseline`` subclass, or the name of a registered one.
        env_id: The environment.
        overrides: Fields of its configuration; choose a small one with short episodes.
        episodes: Episodes that are run.

    Raises:
        AssertionError: If something is broken; the message says what.
        ValueError: If an id, name or value is unknown, or the rule does not apply.
    """
    one, many = (make_lanes(env_id, lanes, overrides) for lanes in (1, episodes))
    kind = find_baseline(rule, one) if isinstance(rule, str) else rule
    assert isinstance(kind, type), f"{rule!r} is no class"
    assert issubclass(kind, Baseline), f"{kind.__name__} is no subclass of Baseline"
    name = getattr(kind, "name", None)
    assert isinstance(name, str), f"{kind.__name__} has no name"
    assert isinstance(getattr(kind, "source", None), str), f"{name} has no source"
    assert inspect.getdoc(kind) or not __doc__, f"{name} has no docstring"
    missing = kind.misses(one)
    assert missing is None, f"{name} does not apply to {env_id}: {missing}"
    check_grid(kind, one)
    seeds = TUNING[:episodes]
    results = []
    for env in (many, one, one):
        policy = kind(env)
        _check_actions(policy, env, seeds)
        found = run_episodes(env, kind(env), seeds)
        assert np.isfinite(found.returns).all(), f"{name}: a return is not finite"
        results.append(vars(found))
    assert_same(results[1], results[2], what=f"{name}: the same episodes again")
    assert_same(results[0], results[1], what=f"{name}: {episodes} episodes at a time and one")


def check_grid(kind: type[Baseline], env: Any) -> None:
    """Check that parameters have defaults, and that every point of the grid is valid."""
    assert is_dataclass(kind.Parameters), f"{kind.name}: Parameters must be a dataclass"
    kind.Parameters()
    for point in kind.points(env.unwrapped.config):
        try:
            kind.read_parameters(point)
        except (TypeError, ValueError) as error:
            raise AssertionError(f"{kind.name}: the grid has {point}: {error}") from error


def _check_actions(policy: Baseline, env: Any, seeds: range) -> None:
    """Check the shape and the possibility of the first actions."""
    lanes = np.arange(env.num_envs)
    policy.begin(lanes, list(seeds)[: env.num_envs])
    observations, _ = env.reset(seed=list(seeds)[: env.num_envs])
    try:
        masks = env.action_masks()
    except AttributeError:
        masks = None
    actions = np.asarray(policy.act(observations, masks))
    wanted = (env.num_envs, *(env.single_action_space.shape or ()))
    assert actions.shape == wanted, (
        f"{policy.name}: actions have shape {actions.shape}, not {wanted}"
    )
    if masks is not None and actions.ndim == 1:
        start = int(getattr(env.single_action_space, "start", 0))
        possible = masks[lanes, actions.astype(np.int64) - start]
        assert possible.all(), f"{policy.name} takes an action that is not possible"
