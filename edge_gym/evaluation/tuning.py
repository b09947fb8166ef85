"""The strongest version of each baseline: its parameters searched on tuning seeds.

All rules have the same budget of trials. A rule whose grids have as many points or fewer has all of
them tried; of more, as many as the budget are drawn by a scrambled Halton sequence, which spreads
them evenly. The trials then share their episodes by successive halving.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from edge_gym.baselines import Baseline, applicable_baselines, find_baseline
from edge_gym.core.registration import find_environment
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.evaluation.own_policies import own_rule, split_place
from edge_gym.evaluation.rollouts import (
    TaskProgress,
    config_changes,
    even_lanes,
    make_lanes,
    own_config,
    plain_config,
    run_episodes,
)
from edge_gym.evaluation.seeds import TUNING
from edge_gym.evaluation.statistics import mean_intervals
from edge_gym.runtime.checks import check_integer
from edge_gym.runtime.files import working_in, write_text
from edge_gym.runtime.messages import shown
from edge_gym.runtime.yaml import dump_yaml, load_yaml
from edge_gym.version import __version__

SHIPPED_EPISODES = 512
LIVE_EPISODES = 256
LEAST_EPISODES = 8
TRIALS = 64
"""The budget of every rule: the most points of its grids that are tried."""
GRID, HALTON, CMA = "grid", "halton", "cma"
"""Methods: all points of the grids, a quasi-random part, and CMA-ES, see ``weight_search``."""

_HALTON_SEED = 0
_SURVIVORS = 4
_FIRST_SHARE = 4
_HEADER = "# Written by `edge-gym tune ID --write`; searched on tuning seeds alone.\n"


@dataclass(frozen=True)
class GridPoint:
    """The parameters of one trial and the mean return of its episodes.

    Attributes:
        parameters: The parameters.
        episodes: Number of episodes, the first tuning seeds.
        mean_return: Mean return.
        ci95: Its 95 % confidence interval.
    """

    parameters: dict[str, Any]
    episodes: int
    mean_return: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Tuning:
    """The outcome of a search.

    Attributes:
        policy: Name of the baseline, or where it is.
        best: The trial chosen.
        trials: All trials, in their order.
        method: ``"grid"``, ``"halton"`` or ``"cma"``.
    """

    policy: str
    best: GridPoint
    trials: tuple[GridPoint, ...]
    method: str = GRID


def tunable_baselines(env: Any) -> list[str]:
    """Return the names of the baselines that apply to an environment and can be tuned."""
    config = env.unwrapped.config
    names = applicable_baselines(env)
    return [name for name in names if find_baseline(name, env).grid_for(config)]


def find_rule(policy: str, env: Any) -> type[Baseline]:
    """Return the rule of this name, or at ``"module:Class"``, that applies to an environment.

    Raises:
        ValueError: If there is none, or it does not apply.
        TypeError: If what is at the place is no ``Baseline``.
    """
    place = split_place(policy)
    if place is None:
        return find_baseline(policy, env)
    where, parameters = place
    if parameters:
        raise ValueError(f"policy {shown(policy)}: parameters are found, not given")
    return own_rule(where, env)


def grid_points(policy: str, env: Any, trials: int | None = None) -> list[dict[str, Any]]:
    """Return the parameters that are tried of a baseline in an environment.

    Args:
        policy: Name of the baseline, or ``module:Class``.
        env: The environment.
        trials: How many at most, of more as many are drawn; all if not given.

    Returns:
        Parameters by name, in the order of ``Baseline.points``.

    Raises:
        ValueError: If the name is unknown, the rule does not apply, or it has nothing to tune.
    """
    grid = find_rule(policy, env).grid_for(env.unwrapped.config)
    if not grid:
        tunable = ", ".join(tunable_baselines(env)) or "none"
        raise ValueError(f"policy {policy!r} has nothing to tune here; what has: {tunable}")
    points = find_rule(policy, env).points(env.unwrapped.config)
    return points if trials is None or len(points) <= trials else _spread(points, trials)


def _spread(points: Sequence[Mapping[str, Any]], number: int) -> list[dict[str, Any]]:
    """Return some of the points, in their order: those nearest to a scrambled Halton sequence."""
    names = list(dict.fromkeys(name for point in points for name in point))
    places = np.empty((len(points), len(names)))
    for column, name in enumerate(names):
        # A parameter that a point does not give has a value of its own there.
        values = [point.get(name, ...) for point in points]
        known = list(dict.fromkeys(values))
        places[:, column] = [(known.index(value) + 0.5) / len(known) for value in values]
    sequence = qmc.Halton(len(names), rng=np.random.default_rng(_HALTON_SEED))
    taken = np.zeros(len(points), np.bool_)
    for target in sequence.random(number):
        distance = np.square(places - target).sum(axis=1)
        taken[np.where(taken, np.inf, distance).argmin()] = True
    return [dict(point) for point, chosen in zip(points, taken, strict=True) if chosen]


def tune(
    env: EdgeVectorEnv,
    policy: str,
    episodes: int = SHIPPED_EPISODES,
    progress: TaskProgress | None = None,
    trials: int = TRIALS,
) -> Tuning:
    """Find the parameters with the highest mean return.

    Every trial runs a quarter of the episodes, the best four run all; the seeds are common to all
    trials, the first of ``seeds.TUNING``.

    Args:
        env: A vector environment made with ``autoreset_mode`` ``DISABLED``.
        policy: Name of the baseline, or ``module:Class``.
        episodes: Episodes of each trial that is left in the end.
        progress: Told how many episodes are done.
        trials: The budget, see the module's text.

    Raises:
        ValueError: If the rule does not apply or has nothing to tune, or ``episodes`` or ``trials``
            is out of range.
    """
    check_integer("episodes", episodes, LEAST_EPISODES, len(TUNING))
    check_integer("trials", trials, 1)
    points, rule_type = grid_points(policy, env, trials), find_rule(policy, env)
    whole = len(points) == len(grid_points(policy, env))
    first = episodes // _FIRST_SHARE
    total = len(points) * first + min(_SURVIVORS, len(points)) * (episodes - first)
    finished = 0
    returns: list[NDArray[np.float64]] = [np.zeros(0) for _ in points]

    def play(point: int, seeds: Sequence[int]) -> None:
        nonlocal finished

        def report(done: int, of: int) -> None:
            if progress is not None:
                progress(f"tuning {policy}", finished + done, total)

        result = run_episodes(env, rule_type(env, **points[point]), seeds, report)
        returns[point] = np.append(returns[point], result.returns)
        finished += len(seeds)

    for point in range(len(points)):
        play(point, TUNING[:first])
    means = [float(values.mean()) for values in returns]
    survivors = sorted(range(len(points)), key=lambda point: -means[point])[:_SURVIVORS]
    for point in survivors:
        play(point, TUNING[first:episodes])
    best = max(survivors, key=lambda point: float(returns[point].mean()))
    results = [as_point(point, values) for point, values in zip(points, returns, strict=True)]
    return Tuning(policy, results[best], tuple(results), GRID if whole else HALTON)


def as_point(parameters: dict[str, Any], returns: NDArray[np.float64]) -> GridPoint:
    """Return a trial by the returns of its episodes, ``(n,)``."""
    low, high = map(float, mean_intervals(returns))
    return GridPoint(parameters, len(returns), float(returns.mean()), (low, high))


def tuned_folder() -> Path:
    """Return the folder of the shipped results, a file for each id."""
    return Path(str(resources.files("edge_gym.baselines"))) / "tuned"


def shipped_tunings() -> dict[str, Any]:
    """Return what ships: environment name → ``config`` and ``policies``.

    ``config`` has the fields of the id's configuration that differ from the problem's defaults.
    """
    return {
        path.stem.replace("--", "/"): _read(path) for path in sorted(tuned_folder().glob("*.yaml"))
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged, {error}: install edge_gym again") from error


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> dict[str, Any]:
    """Return what the YAML says, which takes a while, and comparisons ask for every rule."""
    return load_yaml(text) or {}


def differences(stored: Mapping[str, Any], changes: Mapping[str, Any]) -> list[str]:
    """Say in which fields two configurations differ, in words.

    Args:
        stored: What one has beside the defaults, as ``config_changes`` returns it.
        changes: What the other has.
    """
    return [
        f"{name}: {stored.get(name, 'the default')} there, {changes.get(name, 'the default')} here"
        for name in sorted({*stored, *changes})
        if name not in stored or name not in changes or stored[name] != changes[name]
    ]


def shipped_parameters(policy: str, env: Any) -> dict[str, Any] | None:
    """Return the parameters that were searched under this environment's very configuration.

    Returns:
        The parameters, or None if there are none and they must be searched now.

    Raises:
        ValueError: If the shipped entry of the environment's id is stale: the id's own
            configuration has changed since.
    """
    config = env.unwrapped.config
    changes, entries = config_changes(config), shipped_tunings()
    for name, entry in entries.items():
        searched = policy in entry["policies"] and entry["config"] == changes
        # Defaults are another problem's too.
        if searched and type(own_config(name)) is type(config):
            return dict(entry["policies"][policy]["parameters"])
    spec = env.unwrapped.spec
    if spec is None or (entry := entries.get(find_environment(spec.id).name)) is None:
        return None
    own = config_changes(own_config(spec.id))
    if policy in entry["policies"] and entry["config"] != own:
        raise ValueError(
            f"the tuned parameters of {policy!r} in {tuned_folder()} are stale, they were searched "
            f"under another configuration ({'; '.join(differences(entry['config'], own))}): "
            f"run edge-gym tune {spec.id} --write"
        )
    return None


def check_tunable(policy: str, env: Any) -> None:
    """Check that a baseline has parameters that are searched, or can be found, when it is run.

    Raises:
        ValueError: If it has nothing to tune, or acts with searched parameters alone and none ship.
    """
    if not find_baseline(policy, env).tuned_only:
        grid_points(policy, env)
    elif shipped_parameters(policy, env) is None:
        raise ValueError(
            f"no tuned parameters of {policy!r} ship for this environment as it is: "
            "edge-gym tune ID --method cma finds them, see docs/extending/policy.md"
        )


def tuned_parameters(
    policy: str, env: Any, lanes: int = 64, progress: TaskProgress | None = None
) -> dict[str, Any]:
    """Return a baseline's best parameters: as shipped, else searched now on fewer episodes.

    Those of a rule that is ``tuned_only`` take too long to be searched now.

    Args:
        policy: Name of the baseline.
        env: Any environment made by its id.
        lanes: Episodes run at a time if they must be searched.
        progress: Told how far the search is.

    Raises:
        ValueError: If there is nothing to tune, the shipped entry is stale, none ships and it
            cannot be searched now, or the environment was not made by an id.
    """
    check_tunable(policy, env)
    shipped = shipped_parameters(policy, env)
    if shipped is not None:
        return shipped
    spec = env.unwrapped.spec
    if spec is None:
        raise ValueError(f"cannot search the parameters of {policy!r}: make the environment by id")
    overrides = plain_config(env.unwrapped.config)
    search_env = make_lanes(spec.id, even_lanes(LIVE_EPISODES // _FIRST_SHARE, lanes), overrides)
    return tune(search_env, policy, LIVE_EPISODES, progress).best.parameters


def write_tunings(env_id: str, config: Any, tunings: Sequence[Tuning]) -> Path:
    """Put the results of searches under an id's own configuration into its file of ``tuned``.

    Entries that were searched under another configuration are dropped.

    Raises:
        ValueError: If ``config`` is not the id's own.
        OSError: If the file cannot be written.
    """
    own = config_changes(own_config(env_id))
    if config_changes(config) != own:
        raise ValueError(
            "only searches under the id's own configuration are shipped: leave out --set"
        )
    path = tuned_folder() / f"{find_environment(env_id).file_name}.yaml"
    with working_in(path.parent):
        entry = _read(path) if path.exists() else None
        content = _with_tunings(entry, own, tunings)
        write_text(path, _HEADER + dump_yaml(content, default_flow_style=None))
    return path


def _with_tunings(
    entry: Mapping[str, Any] | None, own: Mapping[str, Any], tunings: Sequence[Tuning]
) -> dict[str, Any]:
    """Return the content of an id's file with the results of searches put in."""
    policies = dict(entry["policies"]) if entry and entry["config"] == own else {}
    for tuning in tunings:
        policies[tuning.policy] = {
            "parameters": tuning.best.parameters,
            "episodes": tuning.best.episodes,
            "points": len(tuning.trials),
            "seeds": [TUNING[0], TUNING[tuning.best.episodes - 1]],
            "method": tuning.method,
            "mean_return": round(tuning.best.mean_return, 6),
            "ci95": [round(end, 6) for end in tuning.best.ci95],
            "edge_gym": __version__,
        }
    return {"config": own, "policies": policies}
