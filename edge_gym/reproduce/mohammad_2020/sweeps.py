"""Episodes of every scheme in cells of cycle time and energy, and numbers of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge_gym.baselines import make_baseline
from edge_gym.core.config import make_config
from edge_gym.core.registration import find_environment
from edge_gym.envs.task_allocation.config import TaskAllocationConfig
from edge_gym.evaluation.episode_store import part_name, run_or_load
from edge_gym.evaluation.rollouts import Episodes, even_lanes, make_lanes, plain_config
from edge_gym.reproduce.harness import (
    Claim,
    Findings,
    Options,
    along,
    check_data,
    metrics,
    reporting,
    summary,
)
from edge_gym.reproduce.mohammad_2020.schemes import DOCUMENT_LEARNING_RATE, HA_SYNC, Scheme
from edge_gym.runtime.files import prepare_folder
from edge_gym.typing import Float64Array

_RECORD = ("validation_accuracy", "cycles", "weighted_updates")


class Cell(NamedTuple):
    """One setting of the sweep.

    Attributes:
        cycle_s: Length T of a global cycle, s.
        energy_j: Mean energy limit E of a cycle, J.
    """

    cycle_s: float
    energy_j: float

    @property
    def name(self) -> str:
        """Its name in the results."""
        return f"T = {self.cycle_s:g}, E = {self.energy_j:g}"


Runs = Mapping[str, Episodes]
"""Episodes of each scheme, the same ones."""


Cells = Mapping[Cell, Runs]


def cells_of(
    cycles_s: Sequence[float], energies_j: Sequence[float], options: Options
) -> list[Cell]:
    """Return a figure's cells, those first that have the least energy.

    ``--set cycle_s=...`` and ``--set energy_limit_j=...`` select among them. A quick run has the
    cycles of 10 and 20 s, or the first one where there is neither, and the least energy.

    Raises:
        ValueError: If a selected value is not in the figure.
    """
    quick = [t for t in cycles_s if t in (10, 20)] or cycles_s[:1]
    axes = {
        "cycle_s": quick if options.quick else cycles_s,
        "energy_limit_j": energies_j[:1] if options.quick else energies_j,
    }
    for (field, values), usual in zip(tuple(axes.items()), (cycles_s, energies_j), strict=True):
        given = options.overrides.get(field)
        if given is not None and given not in usual:
            known = ", ".join(f"{value:g}" for value in usual)
            raise ValueError(f"{field} selects from {known} here, got {given!r}")
        axes[field] = values if given is None else [float(given)]
    return [Cell(t, e) for e in axes["energy_limit_j"] for t in axes["cycle_s"]]


class Sweep:
    """Runs schemes in cells, or loads what was run before.

    Args:
        folder: Its folder ``parts`` keeps finished parts, so that an interrupted run goes on.
        options: How it is run.
        small_id: Whose configuration the usual run has.
        paper_id: The same for the paper's own setting.
        usual: What differs from it, unless it is overridden.
    """

    def __init__(
        self,
        folder: Path,
        options: Options,
        small_id: str = "TaskAllocation-v0",
        paper_id: str = "TaskAllocation-Paper-v0",
        usual: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.options = folder, options
        self.parts = prepare_folder(folder / "parts")
        self.env_id = paper_id if options.full else small_id
        # With half a minute and 30 J strong learners make more than the usual twelve updates.
        self.usual: dict[str, Any] = {"most_updates": 24, **(usual or {})}
        if options.full:
            self.usual["learning_rate"] = DOCUMENT_LEARNING_RATE
        self.seeds = options.seeds(usual=3 if options.full else 32, quick=4)
        self.configs: dict[str, Any] = {}
        self.parameters: dict[str, dict[str, Any]] = {}

    def run(self, cells: Sequence[Cell], schemes: Mapping[str, Scheme]) -> dict[Cell, Runs]:
        """Return the episodes of every scheme in every cell.

        Raises:
            ValueError: If a value is out of range.
            edge_gym.data.DataError: If data are missing; the message says what to do.
        """
        return {cell: self._run_cell(cell, schemes) for cell in cells}

    def _run_cell(self, cell: Cell, schemes: Mapping[str, Scheme]) -> Runs:
        options, n = self.options, len(self.seeds)
        own = {"cycle_s": cell.cycle_s, "energy_limit_j": cell.energy_j}
        given = {**self.usual, **options.overrides, **own}
        preset = find_environment(self.env_id).preset
        check_data(make_config(TaskAllocationConfig, None, preset, given).dataset)
        env = make_lanes(self.env_id, even_lanes(n, options.lanes), given)
        self.configs[cell.name] = plain_config(env.config)
        runs = {}
        for name, scheme in schemes.items():
            task = f"{name}, {cell.name}"
            rule = make_baseline(scheme.rule, env, **scheme.parameters)
            self.parameters[name] = {"rule": scheme.rule, **rule.named_parameters()}
            runs[name] = run_or_load(
                self.parts / part_name(task),
                env,
                rule,
                self.parameters[name],
                self.seeds,
                _RECORD,
                reporting(options, task),
            )
        return runs

    def findings(
        self, name: str, title: str, claims: list[Claim], data: dict[str, Any]
    ) -> Findings:
        """Return what was found, to be written as ``name``."""
        files = [self.folder / f"{name}.json", self.folder / f"{name}.png"]
        return Findings(title, self.configs, self.seeds, self.parameters, claims, data, files)


def path_of(run: Episodes) -> Float64Array:
    """Return the validation accuracy after 0, 1, ... cycles, ``(n, cycles + 1)``."""
    return along(run, "accuracy", np.arange(run.lengths.max() + 1.0), "cycles")


def cycles_to(run: Episodes, target: float) -> tuple[Float64Array, Float64Array]:
    """Return after how many cycles a validation accuracy was reached, and whether, ``(n,)`` each.

    Where it was not, all cycles of the episode are counted, as the environment does.
    """
    there = path_of(run) >= target
    reached = np.asarray(there.any(axis=1), np.float64)
    return np.where(reached, there.argmax(axis=1), run.lengths).astype(np.float64), reached


def marks_of(run: Episodes) -> tuple[int, int]:
    """Return the cycles after which accuracies are compared: half of all, and all."""
    cycles = int(run.lengths.max())
    return max(cycles // 2, 1), cycles


def percent(target: float) -> str:
    """Return an accuracy as it is written in results."""
    return f"{100 * target:g}"


def numbers(
    cell: Cell, runs: Runs, targets: Sequence[float], reference: str = HA_SYNC
) -> dict[str, Any]:
    """Return what the schemes of a cell came to, and how far ahead they are of one of them.

    Args:
        cell: The cell.
        runs: Its episodes.
        targets: Validation accuracies.
        reference: The scheme that others are compared with, episode by episode.
    """
    schemes: dict[str, Any] = {}
    for name, run in runs.items():
        path, other = path_of(run), path_of(runs[reference])
        after = {}
        for mark in marks_of(run):
            values = {"mean": path[:, mark], "ahead": path[:, mark] - other[:, mark]}
            after[str(mark)] = _with_ahead(values)
        to: dict[str, Any] = {}
        for target in targets:
            cycles, reached = cycles_to(run, target)
            values = {"mean": cycles, "ahead": cycles_to(runs[reference], target)[0] - cycles}
            of_mean = np.flatnonzero(path.mean(axis=0) >= target)
            to[percent(target)] = {
                **_with_ahead(values),
                "reached": float(reached.mean()),
                "of_the_mean_curve": int(of_mean[0]) if len(of_mean) else None,
            }
        work = np.nanmean(run.curves["weighted_updates"], axis=1)
        schemes[name] = {
            "metrics": metrics(
                {
                    "test_accuracy": run.infos["test_accuracy"],
                    "mean_updates": run.infos["mean_updates"],
                    "weighted_updates": work,
                }
            ),
            "accuracy": summary(path),
            "after": after,
            "cycles_to": to,
        }
    return {"cycle_s": cell.cycle_s, "energy_j": cell.energy_j, "schemes": schemes}


def _with_ahead(values: Mapping[str, Float64Array]) -> dict[str, Any]:
    found = metrics(values)
    return {**found["mean"], "ahead": found["ahead"]}


LATE_TARGETS = ((0.86, 0.88), (0.955, 0.973))
"""Accuracies that curves reach late, of the small problem and of the paper's."""


def title_of(figure: str, sweep: Sweep) -> str:
    """Return a figure's title."""
    episodes = f"{len(sweep.seeds)} episodes each, the same for all schemes"
    return f"Mohammad et al. 2020, {figure}: {episodes}"


PANELS = ((10.0, 20.0), (10.0, 20.0, 30.0))


def by_energy(cells: Cells) -> dict[float, dict[Cell, Runs]]:
    """Return the cells by their energy limit."""
    rows: dict[float, dict[Cell, Runs]] = {}
    for cell, runs in cells.items():
        rows.setdefault(cell.energy_j, {})[cell] = runs
    return rows


def grid_of(data: Mapping[str, Any]) -> tuple[list[float], list[float], dict[Any, Any]]:
    """Return the cycle times and energies that there are, and each cell's schemes."""
    cells = {(cell["cycle_s"], cell["energy_j"]): cell["schemes"] for cell in data.values()}
    return sorted({t for t, _ in cells}), sorted({e for _, e in cells}), cells
