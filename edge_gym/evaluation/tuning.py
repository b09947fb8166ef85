"""The strongest version of each baseline: its parameters searched on tuning seeds."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines import applicable_baselines, find_baseline, make_baseline
from edge_gym.core.registration import find_environment
from edge_gym.core.vector_env import EdgeVectorEnv
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
from edge_gym.runtime.yaml import dump_yaml, load_yaml
from edge_gym.version import __version__

SHIPPED_EPISODES = 512
LIVE_EPISODES = 256
LEAST_EPISODES = 8
_SURVIVORS = 4
_FIRST_SHARE = 4
_HEADER = "# Written by `edge-gym tune ID --write`; searched on tuning seeds alone.\n"


@dataclass(frozen=True)
class GridPoint:
    """One point of the grid and the mean return of its episodes.

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
        policy: Name of the baseline.
        best: The point chosen.
        trials: All points, in the order of the grid.
    """

    policy: str
    best: GridPoint
    trials: tuple[GridPoint, ...]


def tunable_baselines(env: Any) -> list[str]:
    """Return the names of the baselines that apply to an environment and can be tuned."""
    return [name for name in applicable_baselines(env) if _grid(name, env)]


def grid_points(policy: str, env: Any) -> list[dict[str, Any]]:
    """Return all parameters that are tried of the baseline of this name in an environment.

    Raises:
        ValueError: If the name is unknown, the rule does not apply, or it has nothing to tune.
    """
    grid = _grid(policy, env)
    if not grid:
        tunable = ", ".join(tunable_baselines(env)) or "none"
        raise ValueError(f"policy {policy!r} has nothing to tune here; what has: {tunable}")
    return find_baseline(policy, env).points(env.unwrapped.config)


def tune(
    env: EdgeVectorEnv,
    policy: str,
    episodes: int = SHIPPED_EPISODES,
    progress: TaskProgress | None = None,
) -> Tuning:
    """Find the parameters with the highest mean return.

    Every point runs a quarter of the episodes, the best four run all; the seeds are common to all
    points, the first of ``seeds.TUNING``.

    Args:
        env: A vector environment made with ``autoreset_mode`` ``DISABLED``.
        policy: Name of the baseline.
        episodes: Episodes of each point that is left in the end.
        progress: Told how many episodes are done.

    Raises:
        ValueError: If the rule does not apply or has nothing to tune, or ``episodes`` is out of
            range.
    """
    check_integer("episodes", episodes, LEAST_EPISODES, len(TUNING))
    points = grid_points(policy, env)
    first = episodes // _FIRST_SHARE
    total = len(points) * first + min(_SURVIVORS, len(points)) * (episodes - first)
    finished = 0
    returns: list[NDArray[np.float64]] = [np.zeros(0) for _ in points]

    def play(point: int, seeds: Sequence[int]) -> None:
        nonlocal finished

        def report(done: int, of: int) -> None:
            if progress is not None:
                progress(f"tuning {policy}", finished + done, total)

        rule = make_baseline(policy, env, **points[point])
        result = run_episodes(env, rule, seeds, report)
        returns[point] = np.append(returns[point], result.returns)
        finished += len(seeds)

    for point in range(len(points)):
        play(point, TUNING[:first])
    means = [float(values.mean()) for values in returns]
    survivors = sorted(range(len(points)), key=lambda point: -means[point])[:_SURVIVORS]
    for point in survivors:
        play(point, TUNING[first:episodes])
    best = max(survivors, key=lambda point: float(returns[point].mean()))
    trials = []
    for parameters, values in zip(points, returns, strict=True):
        low, high = map(float, mean_intervals(values))
        trials.append(GridPoint(parameters, len(values), float(values.mean()), (low, high)))
    return Tuning(policy, trials[best], tuple(trials))


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


def tuned_parameters(
    policy: str, env: Any, lanes: int = 64, progress: TaskProgress | None = None
) -> dict[str, Any]:
    """Return a baseline's best parameters: as shipped, else searched now on fewer episodes.

    Args:
        policy: Name of the baseline.
        env: Any environment made by its id.
        lanes: Episodes run at a time if they must be searched.
        progress: Told how far the search is.

    Raises:
        ValueError: If there is nothing to tune, the shipped entry is stale, or the environment
            was not made by an id.
    """
    grid_points(policy, env)
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
            "mean_return": round(tuning.best.mean_return, 6),
            "ci95": [round(end, 6) for end in tuning.best.ci95],
            "edge_gym": __version__,
        }
    return {"config": own, "policies": policies}


def _grid(policy: str, env: Any) -> Mapping[str, Sequence[Any]]:
    return find_baseline(policy, env).grid_for(env.unwrapped.config)
