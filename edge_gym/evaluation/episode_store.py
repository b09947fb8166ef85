"""Episodes on the disk, so that what was run need not be run again."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.evaluation.rollouts import Episodes, Policy, plain_config, run_episodes
from edge_gym.runtime.tensors import DamagedFileError, read_tensors, write_tensors
from edge_gym.version import __version__

SUFFIX = ".safetensors"


class DamagedEpisodesWarning(UserWarning):
    """A stored file is damaged, and what it held is run again."""


def run_or_load(
    path: Path,
    env: EdgeVectorEnv,
    policy: Policy,
    identity: Mapping[str, Any],
    seeds: Sequence[int],
    record: Sequence[str],
    report: Callable[[int, int], None],
) -> Episodes:
    """Run episodes and store them in ``path``, or load what an interrupted run stored there.

    Stored episodes are taken only if they are of the same configuration, policy, seeds and version.

    Args:
        path: Where they are stored.
        env: As for ``run_episodes``.
        policy: What acts.
        identity: What tells it from others: its name, its parameters.
        seeds: The episodes' seeds.
        record: Names of step infos to keep along the episodes.
        report: Told how many episodes are done.
    """
    key = episodes_key(env.config, identity, seeds, record)
    stored = load_episodes(path, key)
    if stored is not None:
        report(len(seeds), len(seeds))
        return stored
    episodes = run_episodes(env, policy, seeds, report, record)
    save_episodes(path, key, episodes)
    return episodes


def episodes_key(
    config: Any, identity: Mapping[str, Any], seeds: Sequence[int], record: Sequence[str]
) -> str:
    """Return what tells episodes from others: configuration, policy, seeds, curves and version."""
    return json.dumps(
        {
            "config": plain_config(config),
            "policy": dict(identity),
            "seeds": [seeds[0], seeds[-1]],
            "record": list(record),
            "version": __version__,
        },
        sort_keys=True,
    )


def save_episodes(path: Path, key: str, episodes: Episodes) -> None:
    """Write episodes with their key; the file is complete or as it was before.

    Raises:
        OSError: If it cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {
        "seeds": episodes.seeds,
        "returns": episodes.returns,
        "lengths": episodes.lengths,
        **{f"infos/{name}": values for name, values in episodes.infos.items()},
        **{f"curves/{name}": values for name, values in episodes.curves.items()},
    }
    write_tensors(path, arrays, {"key": key})


def part_name(task: str) -> str:
    """Return the name of the file that keeps a task's episodes."""
    return task.replace(", ", "_").replace(" = ", "").replace(" ", "-") + SUFFIX


def load_episodes(path: Path, key: str) -> Episodes | None:
    """Return the episodes in a file if they have this key, else None.

    A file with a bit that was not written so counts as none; a ``DamagedEpisodesWarning`` says so.
    """
    found = load_stored(path, key, "episodes")
    if found is None:
        return None
    stored, _ = found
    parts: dict[str, dict[str, NDArray[np.float64]]] = {"infos": {}, "curves": {}}
    try:
        for name, values in stored.items():
            part, _, value = name.partition("/")
            if value:
                parts[part][value] = values
        return Episodes(stored["seeds"], stored["returns"], stored["lengths"], **parts)
    except KeyError:
        return None  # of another version


def load_stored(
    path: Path, key: str, what: str
) -> tuple[dict[str, NDArray[Any]], Mapping[str, Any]] | None:
    """Return the arrays and the header of a file, if ``key`` is in its header, else None.

    Args:
        path: The file; that there is none is nothing to warn of.
        key: What tells its content from others.
        what: What it holds, for the warning.
    """
    try:
        arrays, header = read_tensors(path, what)
    except FileNotFoundError:
        return None
    except (DamagedFileError, OSError) as error:
        warnings.warn(DamagedEpisodesWarning(f"{error}. It is run again"), stacklevel=2)
        return None
    return (arrays, header) if isinstance(header, dict) and header.get("key") == key else None
