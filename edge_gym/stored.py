"""Episodes on the disk, so that what was run need not be run again."""

from __future__ import annotations

import json
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
    key = json.dumps(
        {
            "config": plain_config(env.config),
            "policy": dict(identity),
            "seeds": [seeds[0], seeds[-1]],
            "record": list(record),
            "version": __version__,
        },
        sort_keys=True,
    )
    stored = _load(path, key)
    if stored is not None:
        report(len(seeds), len(seeds))
        return stored
    episodes = run_episodes(env, policy, seeds, report, record)
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
    return episodes


def part_name(task: str) -> str:
    """Return the name of the file that keeps a task's episodes."""
    return task.replace(", ", "_").replace(" = ", "").replace(" ", "-") + ".npz"


def _load(path: Path, key: str) -> Episodes | None:
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
    except (OSError, ValueError, KeyError):
        # Nothing there, or half a file of another program: run it anew.
        return None
