"""What ships: each algorithm's agents of an environment, and what it takes to train them again."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_gym.agents.algorithms.base import ALGORITHMS
from edge_gym.agents.store import best_seed, read_agent_metadata, shipped_files
from edge_gym.core.registration import find_environment, list_environments

TRAINED_BEFORE = "trained before the environment changed"


@dataclass(frozen=True)
class Entry:
    """The agents that an algorithm's recipe gave for an environment, one per training seed.

    Attributes:
        environment: The environment's id.
        algorithm: Name of a registered algorithm, such as ``"ppo"`` or ``"dqn"``.
        training_seeds: Seeds, as ``Recipe.seed``.
        best: That of the agent which ``edge-gym`` takes if none is named.
        steps: Environment steps of each training.
        minutes: Median of what a training took on the machine that it ran on, evaluations
            included; None where the files do not say.
        returns: Mean returns on the selection seeds, by which checkpoints and ``best`` were chosen.
        changed: Whether the environment has changed since they were trained; the returns are what
            they come to now.
    """

    environment: str
    algorithm: str
    training_seeds: tuple[int, ...]
    best: int
    steps: int
    minutes: float | None
    returns: tuple[float, ...]
    changed: bool

    @property
    def command(self) -> str:
        """What trains them again."""
        first, seeds = self.training_seeds[0], len(self.training_seeds)
        name = self.environment.rpartition("/")[2]
        return f"edge-gym train {self.algorithm} {name} --seed {first} --seeds {seeds}"


def catalogue(environments: Sequence[str] | None = None) -> list[Entry]:
    """Return what ships for these environments, for all if none is named.

    Raises:
        ValueError: If an id is unknown.
    """
    rows = (
        list_environments() if environments is None else [find_environment(e) for e in environments]
    )
    return [
        _entry(row.id, algorithm, files)
        for row in rows
        for algorithm in ALGORITHMS
        if (files := shipped_files(algorithm, row.id))
    ]


def _entry(env_id: str, algorithm: str, files: Mapping[int, Path]) -> Entry:
    headers = {seed: read_agent_metadata(file) for seed, file in sorted(files.items())}
    seconds = [told["curve"][-1]["seconds"] for told in headers.values() if told.get("curve")]
    return Entry(
        environment=env_id,
        algorithm=algorithm,
        training_seeds=tuple(headers),
        best=best_seed(headers),
        steps=int(next(iter(headers.values()))["recipe"]["steps"]),
        minutes=statistics.median(seconds) / 60 if seconds else None,
        returns=tuple(float(told["evaluation"]["mean_return"]) for told in headers.values()),
        changed=any("evaluation_in_training" in told for told in headers.values()),
    )
