"""Episodes on the disk, so that what was run need not be run again."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym import __version__
from edge_gym.envs.core import EdgeVectorEnv
from edge_gym.evaluation import Episodes, Policy, plain_config, run_episodes
from edge_gym.files import replacing


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
    arrays: dict[str, Any] = {
        "key": np.array(key),
        "seeds": episodes.seeds,
        "returns": episodes.returns,
        "lengths": episodes.lengths,
        **{f"infos/{name}": values for name, values in episodes.infos.items()},
        **{f"curves/{name}": values for name, values in episodes.curves.items()},
    }
    with replacing(path) as scratch, scratch.open("wb") as file:
        np.savez_compressed(file, **arrays)


def part_name(task: str) -> str:
    """Return the name of the file that keeps a task's episodes."""
    return task.replace(", ", "_").replace(" = ", "").replace(" ", "-") + ".npz"


def load_episodes(path: Path, key: str) -> Episodes | None:
    """Return the episodes in a file if they have this key, else None."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["key"]) != key:
                return None
            parts: dict[str, dict[str, NDArray[np.float64]]] = {"infos": {}, "curves": {}}
            for name in file.files:
                part, _, value = name.partition("/")
                if value:
                    parts[part][value] = file[name]
            return Episodes(file["seeds"], file["returns"], file["lengths"], **parts)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        # Nothing there, or half a file of another program: run it anew.
        return None
