"""What a reproduction finds, and what all of them need."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.agents import load_agent, shipped_agents
from edge_gym.baselines import make_baseline
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.data import DataError, load_dataset
from edge_gym.evaluation.rollouts import Episodes, Policy, TaskProgress
from edge_gym.evaluation.seeds import EVALUATION
from edge_gym.evaluation.statistics import mean_intervals
from edge_gym.evaluation.tuning import shipped_parameters
from edge_gym.runtime.checks import check_integer
from edge_gym.runtime.files import replacing, write_text

YES, PARTLY, NO, OPEN = "yes", "partly", "no", "within noise"


@dataclass(frozen=True)
class Claim:
    """One statement of a paper.

    Attributes:
        claim: What it says.
        measured: What was found here.
        verdict: Whether it was seen: ``"yes"``, ``"partly"``, ``"no"`` or ``"within noise"``.
    """

    claim: str
    measured: str
    verdict: str


@dataclass(frozen=True)
class Findings:
    """What a reproduction found.

    Attributes:
        title: What was run.
        config: The environment's configuration.
        seeds: The episodes' seeds.
        parameters: Of every policy.
        claims: The paper's claims.
        data: The numbers of the picture.
        files: What was written.
    """

    title: str
    config: dict[str, Any]
    seeds: list[int]
    parameters: dict[str, dict[str, Any]]
    claims: list[Claim]
    data: dict[str, Any]
    files: list[Path] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return everything in JSON's types."""
        return {**asdict(self), "files": [str(path) for path in self.files]}


@dataclass(frozen=True)
class Options:
    """How a reproduction is run.

    Attributes:
        quick: Few and short episodes.
        episodes: Instead of the usual number.
        lanes: Most episodes run at a time.
        overrides: Fields of the environment's configuration.
        progress: Told how many episodes are done.
        full: The paper's own setting, where the usual one is smaller.

    Raises:
        ValueError: If a number is out of range, or both ``quick`` and ``full`` are asked for.
    """

    quick: bool = False
    episodes: int | None = None
    lanes: int = 32
    overrides: Mapping[str, Any] = field(default_factory=dict)
    progress: TaskProgress | None = None
    full: bool = False

    def __post_init__(self) -> None:
        if self.quick and self.full:
            raise ValueError("quick and full exclude each other")
        if self.episodes is not None:
            check_integer("episodes", self.episodes, 2)
        check_integer("lanes", self.lanes, 1)

    def seeds(self, usual: int, quick: int) -> list[int]:
        """Return the evaluation seeds of as many episodes as were asked for."""
        n = self.episodes if self.episodes is not None else quick if self.quick else usual
        return list(range(EVALUATION.start, EVALUATION.start + n))


Run = Callable[[Path, Options], Findings]
"""Runs a reproduction and writes its files into a folder that is there."""


def check_data(name: str) -> None:
    """Raise a DataError that names the embedded images unless the data set can be read."""
    try:
        load_dataset(name)
    except DataError as error:
        raise DataError(
            f"{error}; or run it on the embedded images: --set dataset=mnist-subset"
        ) from error


def rule_parameters(name: str, env: EdgeVectorEnv) -> dict[str, Any]:
    """Return a rule's shipped tuned parameters for this configuration, else its defaults."""
    baseline = make_baseline(name, env)
    if not baseline.grid:
        return baseline.named_parameters()
    return shipped_parameters(name, env) or baseline.named_parameters()


def reporting(options: Options, task: str) -> Callable[[int, int], None]:
    """Return what tells the options' progress how far a task is."""

    def report(done: int, total: int) -> None:
        if options.progress is not None:
            options.progress(task, done, total)

    return report


def trained_agents(env_id: str, env: EdgeVectorEnv) -> list[tuple[str, Policy, dict[str, Any]]]:
    """Return the shipped agents of ``env_id`` for ``env``: name, policy and what identifies it."""
    agents: list[tuple[str, Policy, dict[str, Any]]] = []
    for name in shipped_agents(env_id):
        agent = load_agent(name, env, env_id=env_id)
        agents.append((name, agent, {"trained_in": env_id, "weights": agent.fingerprint}))
    return agents


def metrics(values: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Return the mean of each metric's ``(n,)`` values with its interval."""
    table = summary(np.stack(list(values.values()), axis=1))
    return {
        name: {"mean": mean, "ci95": ci95}
        for name, mean, ci95 in zip(values, table["mean"], table["ci95"], strict=True)
    }


def along(
    episodes: Episodes, quantity: str, points: NDArray[np.float64], unit: str = "seconds"
) -> NDArray[np.float64]:
    """Return ``"accuracy"`` or ``"loss"`` on the validation set at each point, ``(n, P)``.

    An episode keeps its value until its next round ends, and after its last one.

    Args:
        episodes: With curves of ``unit`` and of the quantity.
        quantity: What is looked for.
        points: When: values of ``unit``, ``(P,)``.
        unit: A step info that grows along an episode.
    """
    curve, total, sign = {
        "accuracy": ("validation_accuracy", "total_gain", -1),
        "loss": ("validation_loss", "total_loss_decrease", 1),
    }[quantity]
    values = np.empty((len(episodes.lengths), len(points)))
    for i, length in enumerate(episodes.lengths):
        steps = episodes.curves[curve][i, :length]
        initial = steps[-1] + sign * episodes.infos[total][i]
        ends = episodes.curves[unit][i, :length]
        values[i] = np.append(initial, steps)[np.searchsorted(ends, points, side="right")]
    return values


def accuracy_along(
    episodes: Episodes, unit: str, end: float, n_points: int = 60
) -> dict[str, list[float]]:
    """Return the mean validation accuracy of all episodes when so much of ``unit`` was spent.

    Args:
        episodes: With curves of ``unit`` and ``validation_accuracy``.
        unit: A step info that grows along an episode, as ``seconds``.
        end: Up to which value of it.
        n_points: How many values of it, evenly from 0.
    """
    points = np.linspace(0, end, n_points)
    means = along(episodes, "accuracy", points, unit).mean(axis=0)
    return {unit: points.tolist(), "mean": means.tolist()}


def summary(values: NDArray[np.float64]) -> dict[str, Any]:
    """Return the means of ``(n, k)`` values and their intervals."""
    return {"mean": values.mean(axis=0).tolist(), "ci95": mean_intervals(values.T).tolist()}


def verdict(values: NDArray[np.float64]) -> str:
    """Say whether the mean is above zero."""
    low, high = mean_intervals(values)
    return YES if low > 0 else NO if high < 0 else OPEN


def with_interval(values: NDArray[np.float64]) -> str:
    """Write a mean with its 95 % interval."""
    low, high = mean_intervals(values)
    return f"{values.mean():+.4f} [{low:+.4f}, {high:+.4f}]"


def write_findings(findings: Findings, draw: Callable[[Findings, Path], None]) -> None:
    """Write ``findings.files``: the JSON, and the picture that ``draw`` puts at a path."""
    json_path, picture = findings.files
    write_text(json_path, json.dumps(findings.to_json(), indent=2, allow_nan=False) + "\n")
    with replacing(picture) as scratch:
        draw(findings, scratch)
