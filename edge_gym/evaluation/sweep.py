"""Many policies in many environments: in chunks of episodes that run anywhere, and resumed."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_gym.baselines import zero_baseline
from edge_gym.baselines.base import YOURS
from edge_gym.core.registration import find_environment
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.evaluation.episode_store import SUFFIX, episodes_key, load_episodes, save_episodes
from edge_gym.evaluation.own_policies import code_digest
from edge_gym.evaluation.policies import Contender, resolve
from edge_gym.evaluation.rollouts import (
    Episodes,
    TaskProgress,
    even_lanes,
    make_lanes,
    reservations,
    run_episodes,
)
from edge_gym.runtime.checks import check_integer
from edge_gym.runtime.files import file_stem, prepare_folder
from edge_gym.runtime.workers import Run, here


@dataclass(frozen=True)
class Chunk:
    """Episodes of one policy in one environment, which one worker runs.

    Attributes:
        environment: The environment's id.
        policy: As ``policies.resolve`` takes it.
        first: The first episode's seed; the others follow it.
        episodes: Their number.
        lanes: Most episodes run at a time.
        overrides: Fields of the environment's configuration, as JSON.
    """

    environment: str
    policy: str
    first: int
    episodes: int
    lanes: int = 64
    overrides: str = "{}"

    @property
    def seeds(self) -> range:
        """The episodes' seeds."""
        return range(self.first, self.first + self.episodes)


Runner = Run[Chunk, Episodes]
"""Runs chunks and yields each with its episodes, in whatever order they end."""


def episode_seeds(
    episodes: int, seed: int, lanes: int, report: Callable[[str], None] | None
) -> range:
    """Check what a sweep is told and return its episodes' seeds; a bad choice is reported.

    Raises:
        ValueError: If a value is out of range.
    """
    check_integer("episodes", episodes, 2)
    check_integer("seed", seed, 0)
    check_integer("lanes", lanes, 1)
    seeds = range(seed, seed + episodes)
    if report is not None:
        for note in reservations(seeds):
            report(note)
    return seeds


def cut(
    environment: str,
    policy: str,
    seeds: range,
    *,
    chunk: int,
    lanes: int = 64,
    overrides: Mapping[str, Any] | None = None,
) -> list[Chunk]:
    """Cut a policy's episodes into chunks of at most ``chunk``."""
    settings = json.dumps(dict(overrides or {}), sort_keys=True)
    return [
        Chunk(environment, policy, first, min(chunk, seeds.stop - first), lanes, settings)
        for first in range(seeds.start, seeds.stop, chunk)
    ]


def run_chunk(chunk: Chunk) -> Episodes:
    """Run a chunk's episodes; the same wherever it is run.

    Raises:
        ValueError: If an id, policy or value is unknown or out of range.
        edge_gym.data.DataError: If data are missing.
    """
    env = _lanes(chunk.environment, even_lanes(chunk.episodes, chunk.lanes), chunk.overrides)
    return run_episodes(env, resolve(chunk.policy, env).policy, chunk.seeds)


RUN_HERE: Runner = here(run_chunk)
"""Runs chunks one after the other in this process."""


@functools.lru_cache(maxsize=2)
def _lanes(environment: str, lanes: int, overrides: str) -> EdgeVectorEnv:
    return make_lanes(environment, lanes, json.loads(overrides))


def sweep(
    chunks: Iterable[Chunk],
    folder: Path,
    run: Runner = RUN_HERE,
    progress: TaskProgress | None = None,
) -> dict[Chunk, Episodes]:
    """Run chunks and keep their episodes in ``folder``, but for those that are there already.

    Stored episodes are taken only if they are of the same configuration, policy, seeds and version.

    Args:
        chunks: What to run.
        folder: Where episodes are kept, a file for each chunk, written as it ends.
        run: What runs them: ``RUN_HERE``, or ``run_chunk`` elsewhere, see ``runtime.workers``.
        progress: Told how many episodes of each environment are done.

    Raises:
        ValueError: If an id, policy or value is unknown or out of range; nothing was run then.
        OSError: If the folder cannot be written to.
    """
    wanted = list(chunks)
    places = {chunk: (folder / _file_of(chunk), identity(chunk)) for chunk in wanted}
    done = dict.fromkeys((chunk.environment for chunk in wanted), 0)
    total = {
        name: sum(chunk.episodes for chunk in wanted if chunk.environment == name) for name in done
    }

    def count(chunk: Chunk) -> None:
        name = chunk.environment
        done[name] += chunk.episodes
        if progress is not None:
            progress(name, done[name], total[name])

    found: dict[Chunk, Episodes] = {}
    for chunk, place in places.items():
        stored = load_episodes(*place)
        if stored is not None:
            found[chunk] = stored
            count(chunk)
    for chunk, episodes in run([chunk for chunk in wanted if chunk not in found]):
        path, key = places[chunk]
        prepare_folder(path.parent)
        save_episodes(path, key, episodes)
        found[chunk] = episodes
        count(chunk)
    return {chunk: found[chunk] for chunk in wanted}


def contender(environment: str, policy: str, overrides: str = "{}") -> Contender:
    """Return a policy as it takes part in an environment."""
    return _resolved(environment, policy, overrides)[1]


@functools.lru_cache(maxsize=128)
def zero_of(environment: str) -> str:
    """Return the policy whose mean return counts as 0 in an environment's scores."""
    return zero_baseline(_lanes(environment, 1, "{}"))


@functools.lru_cache(maxsize=1024)
def _resolved(environment: str, policy: str, overrides: str) -> tuple[Any, Contender]:
    env = _lanes(environment, 1, overrides)
    return env.config, resolve(policy, env)


def identity(chunk: Chunk) -> str:
    """Return what tells a chunk's episodes from others: see ``episodes_key``."""
    config, resolved = _resolved(chunk.environment, chunk.policy, chunk.overrides)
    policy = {"name": chunk.policy, **resolved.parameters}
    if (weights := getattr(resolved.policy, "fingerprint", None)) is not None:
        policy["weights"] = weights
    elif resolved.kind == YOURS:
        policy["code"] = code_digest(resolved.policy)
    return episodes_key(config, policy, chunk.seeds, ())


def _file_of(chunk: Chunk) -> Path:
    name = file_stem(f"{chunk.policy}-{chunk.first}", (chunk.policy, chunk.overrides))
    return Path(folder_name(chunk.environment)) / f"{name}{SUFFIX}"


def folder_name(environment: str) -> str:
    """Return an id as the name of a file or folder; that of ours is without ``edge_gym/``."""
    return find_environment(environment).file_name
