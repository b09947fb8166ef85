"""The search for the weights of a linear index by CMA-ES (Hansen and Ostermeier 2001).

Every generation draws weights from a normal distribution, runs the same episodes with each of them,
and moves the distribution towards the best half. The next generation has other episodes, so that
what is found is no luck of a few. The result is the mean of the last distribution, judged on the
first tuning seeds, which the search has not seen and on which all rules are tuned: their mean
returns can be compared.

The search's folder holds ``search.json``, all trials so far, and at the end ``weights.yaml``. What
comes next follows from the seed and the trials before, so the same call goes on where a search was
stopped and finds the same; with more trials it goes on from its end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines.index_policy import IndexPolicy
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.evaluation.rollouts import TaskProgress, plain_config, run_episodes
from edge_gym.evaluation.seeds import TUNING
from edge_gym.evaluation.tuning import (
    CMA,
    LEAST_EPISODES,
    SHIPPED_EPISODES,
    GridPoint,
    Tuning,
    as_point,
    find_rule,
)
from edge_gym.runtime.checks import check_integer
from edge_gym.runtime.files import prepare_folder, working_in, write_text
from edge_gym.runtime.messages import shown
from edge_gym.runtime.optional import missing_extra
from edge_gym.runtime.yaml import dump_yaml
from edge_gym.version import __version__

try:
    from cmaes import CMA as Optimizer  # noqa: N811  # the method's name is taken
except ImportError as error:
    raise missing_extra("CMA-ES needs the package cmaes", "tuning", error) from error

EPISODES = 64
"""Episodes of each trial."""
TRIALS = 480
"""Trials if their number is not given; minutes in most environments."""
WEIGHTS = "weights.yaml"
"""The file of what was found, which ``index:weights=PATH`` reads."""

_CHECKPOINT = "search.json"
_SEARCH_SEEDS = TUNING[SHIPPED_EPISODES:]  # the first ones judge the result
_SIGMA = 0.5  # the first distribution's standard deviation of a weight
_DIGITS = 4
_HEADER = "# Written by `edge-gym tune ID --method cma`; searched on tuning seeds alone.\n"


class WeightSearchInterrupted(KeyboardInterrupt):
    """Ctrl-C: the trials that ended are kept, and the message says how to go on."""


def search_weights(
    env: EdgeVectorEnv,
    policy: str = IndexPolicy.name,
    *,
    out: str | Path,
    episodes: int = EPISODES,
    trials: int = TRIALS,
    judged_on: int = SHIPPED_EPISODES,
    seed: int = 0,
    progress: TaskProgress | None = None,
) -> Tuning:
    """Find the weights of a linear index; goes on where an earlier search was stopped.

    Args:
        env: A vector environment made with ``autoreset_mode`` ``DISABLED``.
        policy: Name of the index, or ``module:Class`` of an ``IndexPolicy``.
        out: The search's folder.
        episodes: Episodes of each trial.
        trials: Weights tried, those of earlier searches in ``out`` included; as many whole
            generations as fit are run, one at least.
        judged_on: Episodes on which the result is judged, the first of ``seeds.TUNING``.
        seed: Of the draws of weights.
        progress: Told how many episodes are done.

    Raises:
        ValueError: If the policy does not apply or is no index, a value is out of range, a return
            is no number, or the search in ``out`` was begun with other settings or is damaged.
        OSError: If the folder cannot be written to.
        FolderInUseError: If another process works there.
        WeightSearchInterrupted: After Ctrl-C.
    """
    check_integer("episodes", episodes, 2, 1024)
    check_integer("trials", trials, 1)
    check_integer("judged_on", judged_on, LEAST_EPISODES, SHIPPED_EPISODES)
    check_integer("seed", seed, 0, 2**32 - 1)
    rule = find_rule(policy, env)
    if not issubclass(rule, IndexPolicy):
        raise ValueError(f"policy {policy!r} has no weights: CMA-ES is for {IndexPolicy.name!r}")
    folder = prepare_folder(out)
    search = _Search(env, policy, rule, folder, episodes, seed, progress or (lambda *_: None))
    with working_in(folder):
        try:
            return search.finish(trials, judged_on)
        except KeyboardInterrupt as stopped:
            raise WeightSearchInterrupted(
                f"stopped after {len(search.trials)} trials; to go on, tune again with the same "
                f"settings and folder {folder}"
            ) from stopped


@dataclass
class _Search:
    """A search and its folder.

    Attributes:
        trials: The trials that ended, generation by generation.
    """

    env: EdgeVectorEnv
    policy: str
    rule: type[IndexPolicy]
    folder: Path
    episodes: int
    seed: int
    progress: TaskProgress
    names: list[str] = field(init=False)
    settings: dict[str, Any] = field(init=False)
    trials: list[GridPoint] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.names = self.rule.weight_names(self.env)
        spec = self.env.spec
        self.settings = {
            "version": __version__,
            "environment": None if spec is None else spec.id,
            "config": plain_config(self.env.config),
            "policy": self.policy,
            "weights": self.names,
            "episodes": self.episodes,
            "seed": self.seed,
        }

    def finish(self, trials: int, judged_on: int) -> Tuning:
        """Run the generations that are left and judge the result."""
        self.trials = self._read()
        optimizer = Optimizer(mean=np.zeros(len(self.names)), sigma=_SIGMA, seed=self.seed)
        size = optimizer.population_size
        generations = max(1, trials // size)
        total = generations * size * self.episodes + judged_on
        for generation in range(generations):
            drawn = [optimizer.ask() for _ in range(size)]
            first = generation * size
            for at in range(first, first + size):
                if at == len(self.trials):
                    self._try(drawn[at - first], generation, total)
            ended = self.trials[first : first + size]
            # It minimises.
            optimizer.tell([(_weights_of(trial), -trial.mean_return) for trial in ended])
        best = self._judge(optimizer.mean, judged_on, total)
        text = dump_yaml(best.parameters["weights"])
        write_text(self.folder / WEIGHTS, _HEADER + text)
        return Tuning(self.policy, best, tuple(self.trials[: generations * size]), CMA)

    def _try(self, weights: NDArray[np.float64], generation: int, total: int) -> None:
        """Run the episodes of a generation with these weights, and keep what came of it."""
        first = generation * self.episodes
        seeds = [
            _SEARCH_SEEDS[at % len(_SEARCH_SEEDS)] for at in range(first, first + self.episodes)
        ]
        trial = self._play(self._named(weights), seeds, total)
        if not math.isfinite(trial.mean_return):
            raise ValueError(f"the mean return of a trial of {self.policy!r} is no number")
        self.trials.append(trial)
        self._write()

    def _judge(self, mean: NDArray[np.float64], number: int, total: int) -> GridPoint:
        """Return the result: rounded weights, as they are written, and their returns."""
        weights = self._named(np.array([float(f"{value:.{_DIGITS}g}") for value in mean]))
        return self._play(weights, TUNING[:number], total)

    def _play(self, weights: dict[str, float], seeds: Sequence[int], total: int) -> GridPoint:
        """Run episodes with these weights."""
        before = len(self.trials) * self.episodes

        def report(done: int, of: int) -> None:
            self.progress(f"tuning {self.policy}", before + done, total)

        found = run_episodes(self.env, self.rule(self.env, weights=weights), seeds, report)
        return as_point({"weights": weights}, found.returns)

    def _named(self, weights: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(self.names, weights.tolist(), strict=True))

    def _write(self) -> None:
        content = {
            "settings": self.settings,
            "trials": [
                [*_weights_of(trial).tolist(), trial.mean_return, *trial.ci95]
                for trial in self.trials
            ],
        }
        write_text(self.folder / _CHECKPOINT, json.dumps(content))

    def _read(self) -> list[GridPoint]:
        """Return the trials of an earlier search in the folder.

        Raises:
            ValueError: If it had other settings, or the file is damaged.
        """
        path = self.folder / _CHECKPOINT
        if not path.exists():
            return []
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            begun = dict(content["settings"])
            rows = np.array(content["trials"], np.float64).reshape(-1, len(begun["weights"]) + 3)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged ({shown(error)}): choose another folder"
            ) from error
        now = self.settings
        different = [name for name in now if begun.get(name) != now[name]]
        if different:
            raise ValueError(
                f"the search in {self.folder} was begun with another {', '.join(different)}: go on "
                "with the same, or choose another folder"
            )
        return [
            GridPoint({"weights": self._named(row[:-3])}, self.episodes, mean, (low, high))
            for row, (mean, low, high) in zip(rows, rows[:, -3:].tolist(), strict=True)
        ]


def _weights_of(trial: GridPoint) -> NDArray[np.float64]:
    return np.array(list(trial.parameters["weights"].values()))
