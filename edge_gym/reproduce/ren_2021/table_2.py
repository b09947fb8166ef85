"""Ren et al. 2021, Table II: schemes on CPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge_gym.evaluation.statistics import mean_intervals
from edge_gym.reports.charts import INK, new_figure, save, tidy, write_title
from edge_gym.reproduce.harness import (
    NO,
    OPEN,
    YES,
    Claim,
    Findings,
    Options,
    along,
    summary,
    verdict,
    write_findings,
)
from edge_gym.reproduce.ren_2021.curves import (
    POINTS,
    SAME,
    Cell,
    Curve,
    bounded_ratio,
    converged_epochs,
    ratio,
    resampled,
)
from edge_gym.reproduce.ren_2021.drawing import plain_ticks
from edge_gym.reproduce.ren_2021.runs import PARTITIONS, LongRuns, seeds_of
from edge_gym.typing import Float64Array

# Table II: test accuracy in %, training speed-up over individual learning.
REPORTED = {
    (6, "iid"): {
        "individual": (90.65, 1.0),
        "model-based": (91.28, 0.29),
        "gradient-based": (91.60, 0.53),
        "proposed": (91.48, 1.09),
    },
    (6, "shards"): {
        "individual": (89.16, 1.0),
        "model-based": (90.22, 0.37),
        "gradient-based": (91.51, 0.69),
        "proposed": (91.43, 1.03),
    },
    (12, "iid"): {
        "individual": (90.68, 1.0),
        "model-based": (92.01, 0.32),
        "gradient-based": (92.27, 0.68),
        "proposed": (92.34, 1.16),
    },
    (12, "shards"): {
        "individual": (89.91, 1.0),
        "model-based": (91.16, 0.31),
        "gradient-based": (91.81, 0.67),
        "proposed": (92.12, 1.26),
    },
}


# The paper calls so little "almost the same".
_NEAR_POINTS = 0.15


_TABLE_COLOURS = {
    "individual": "#66717D",
    "model-based": "#0072B2",
    "gradient-based": "#009E73",
    "proposed": "#D55E00",
}


class _Size(NamedTuple):
    """How large Table II is run.

    Attributes:
        env_id: Whose configuration it has.
        budgets_s: Simulated seconds of each scheme with rounds.
        epochs: Epochs of individual learning that are tried.
        usual: What else differs from the id's configuration.
    """

    env_id: str
    budgets_s: dict[str, float]
    epochs: tuple[int, ...]
    usual: dict[str, Any]


SMALL = {"fading": "mean", "max_rounds": 5000}


_TABLE_SIZES = {
    "usual": _Size(
        "BatchSlot-v0",
        {"model-based": 4.0, "gradient-based": 8.0, "proposed": 1.0},
        (1, 2, 4, 6, 8, 10, 12, 16),
        SMALL,
    ),
    "quick": _Size(
        "BatchSlot-v0",
        {"model-based": 1.0, "gradient-based": 2.0, "proposed": 0.2},
        (1, 2, 4, 8),
        SMALL,
    ),
    "full": _Size(
        "BatchSlot-Paper-v0",
        {"model-based": 2e6, "gradient-based": 4e6, "proposed": 1e6},
        (2, 5, 10, 20, 40),
        {"max_rounds": 50_000},
    ),
}


def feel_table2(folder: Path, options: Options) -> Findings:
    """Redo Table II: accuracy and training speed-up of four schemes.

    Every episode begins with a model of 86 % accuracy. The paper does not say when a scheme
    has converged, and where a curve levels off depends on how long it is run. Speed-ups are
    therefore those of the time to a common accuracy, the one that individual learning ends with;
    that is run for several numbers of epochs, until the mean local loss falls by less than 0.01
    nats an epoch. A scheme that does not come so far within its budget counts as its budget, and
    its ratio is then a bound. When schemes have "converged", which is when the mean validation
    accuracy first comes within half a point of where it ends, is kept in the file beside their
    budgets. Gradients of whole local sets take steps of the environment's law η·√(B/B_ref), at
    most ``max_learning_rate``: without that limit they diverge here, to a tenth of images told
    right.

    Raises:
        ValueError: If a value is out of range.
        OSError: If ``folder`` cannot be written to.
        edge_gym.data.DataError: If data are missing; the message says what to do.

    Source: Ren et al. 2021, Table II, §VI-C.
    """
    size = _TABLE_SIZES["full" if options.full else "quick" if options.quick else "usual"]
    seeds = seeds_of(options, usual=16, quick=4)
    runner = LongRuns(folder / "parts", options, seeds)
    claims: list[Claim] = []
    data: dict[str, Any] = {}
    for (k, partition), reported in REPORTED.items():
        if options.quick and k > 6:
            continue
        cell = f"K = {k}, {PARTITIONS[partition]}"
        found = _table_cell(runner, size, cell, {"n_devices": k, "partition": partition})
        data[cell] = _table_numbers(found, size.epochs, reported)
        claims += table_claims(cell, found, reported)
    findings = Findings(
        title=f"Ren et al. 2021, Table II: {len(seeds)} episodes each, the same for all schemes",
        config=runner.configs,
        seeds=seeds,
        parameters=runner.parameters,
        claims=claims,
        data=data,
        files=[folder / "feel-table2.json", folder / "feel-table2.png"],
    )
    write_findings(findings, _draw_table2)
    return findings


def _table_cell(runner: LongRuns, size: _Size, cell: str, fixed: Mapping[str, Any]) -> Cell:
    """Run every scheme."""
    # Models are sent whole: they cannot be compressed as gradients can.
    model = {**fixed, "max_batch": None, "update": "model", "density": 1.0}
    runs = [
        runner.run(
            f"individual, {cell}, {epochs} epochs",
            size.env_id,
            size.usual,
            # However long it takes.
            {**model, "max_rounds": 1, "local_epochs": epochs, "budget_s": 1e9},
            "individual",
            pretrained=True,
            record=("seconds", "validation_accuracy", "local_loss"),
        )
        for epochs in size.epochs
    ]
    columns = {
        name: np.concatenate([run.curves[name] for run in runs], axis=1) for name in runs[0].curves
    }
    chosen = converged_epochs(size.epochs, columns["local_loss"].mean(axis=0))
    curves = {"individual": Curve(columns["seconds"], columns["validation_accuracy"])}
    tests = {"individual": runs[chosen].infos["test_accuracy"]}
    for scheme, rule, own in (
        ("model-based", "model-based", {**model, "local_epochs": 1}),
        ("gradient-based", "gradient-based", {**fixed, "max_batch": None}),
        ("proposed", "optimal-batch-slot", dict(fixed)),
    ):
        usual = {**size.usual, "budget_s": size.budgets_s[scheme]}
        task = f"{scheme}, {cell}"
        episodes = runner.run(task, size.env_id, usual, own, rule, pretrained=True)
        times = np.linspace(0, runner.configs[task]["budget_s"], POINTS)
        curves[scheme] = Curve(times, along(episodes, "accuracy", times))
        tests[scheme] = episodes.infos["test_accuracy"]
    return Cell(curves, chosen, tests)


def _table_numbers(
    cell: Cell, epochs: Sequence[int], reported: Mapping[str, tuple[float, float]]
) -> dict[str, Any]:
    weights = resampled(len(cell.tests["proposed"]))
    common, converged = cell.seconds(weights), cell.seconds_to_converge(weights)

    def told(times: Mapping[str, Float64Array], scheme: str) -> dict[str, Any]:
        taken = float(times[scheme][0])
        speedup = ratio(times["individual"], times[scheme])
        return {
            # None where the accuracy is not reached within the budget, by all or some episodes.
            "seconds": None if np.isnan(taken) else taken,
            "speedup": speedup and {"mean": speedup[0], "ci95": list(speedup[1:])},
        }

    schemes: dict[str, Any] = {}
    for scheme, curve in cell.curves.items():
        means = curve.seconds.mean(axis=0) if curve.seconds.ndim > 1 else curve.seconds
        schemes[scheme] = {
            "test_accuracy": _with_ci(summary(100 * cell.tests[scheme][:, None])),
            "reported": {"test_accuracy": reported[scheme][0], "speedup": reported[scheme][1]},
            "budget_s": None if scheme == "individual" else float(curve.seconds[-1]),
            **told(common, scheme),
            "converged": told(converged, scheme),
            "curve": {"seconds": means.tolist(), **summary(curve.accuracy)},
        }
    return {
        "individual_epochs": epochs[cell.chosen],
        "common_accuracy": float(cell.level(weights)[0]),
        "schemes": schemes,
    }


def _with_ci(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the only column of a summary."""
    return {"mean": table["mean"][0], "ci95": table["ci95"][0]}


def table_claims(name: str, cell: Cell, reported: Mapping[str, tuple[float, float]]) -> list[Claim]:
    """Return the accuracies and speed-ups of one cell of the table, beside what was found."""
    claims = []
    weights = resampled(len(cell.tests["proposed"]))
    seconds = cell.seconds(weights)
    budgets = {
        scheme: np.inf if scheme == "individual" else float(curve.seconds[-1])
        for scheme, curve in cell.curves.items()
    }
    late = {scheme: bool(np.isnan(times[0])) for scheme, times in seconds.items()}
    level = 100 * cell.level(weights)[0]
    for scheme, reference in (
        ("proposed", "individual"),
        ("proposed", "model-based"),
        ("proposed", "gradient-based"),
        ("model-based", "individual"),
        ("gradient-based", "individual"),
    ):
        said = reported[scheme][1] / reported[reference][1]
        value, low, high = bounded_ratio(
            seconds[reference], seconds[scheme], (budgets[reference], budgets[scheme])
        )
        seen = f"{value:.2f} times [{low:.2f}, {high:.2f}]"
        faster, slower = low > 1, high < 1
        if late[reference]:
            seen, slower = f"at least {seen}: {_not_within(reference, budgets)}", False
        if late[scheme]:
            seen, faster = f"at most {seen}: {_not_within(scheme, budgets)}", False
        if late[reference] and late[scheme]:
            seen = "neither reaches it within its budget"
        holds, wrong = (faster, slower) if said > 1 else (slower, faster)
        claims.append(
            Claim(
                f"{name}: proposed reaches {level:.1f} %, where individual learning ends, "
                f"{said:.2f} times as fast as {reference}"
                if scheme == "proposed"
                else f"{name}: {scheme} reaches {level:.1f} % {said:.2f} times as fast as "
                f"{reference}",
                seen,
                YES if holds else NO if wrong else OPEN,
            )
        )
    reached = [scheme for scheme in seconds if not late[scheme]]
    claims.append(
        Claim(
            f"{name}: proposed is the fastest to {level:.1f} %",
            ", ".join(
                f"{scheme} {seconds[scheme][0]:.3g} s"
                if scheme in reached
                else _not_within(scheme, budgets)
                for scheme in seconds
            ),
            YES if min(reached, key=lambda scheme: seconds[scheme][0]) == "proposed" else NO,
        )
    )
    for other in ("individual", "model-based", "gradient-based"):
        said = reported["proposed"][0] - reported[other][0]
        gain = 100 * (cell.tests["proposed"] - cell.tests[other])
        low, high = mean_intervals(gain)
        if abs(said) < _NEAR_POINTS:
            words = f"as accurate as {other}"
            near = max(abs(low), abs(high)) < 100 * SAME
            far = min(abs(low), abs(high)) > 100 * SAME and low * high > 0
            outcome = YES if near else NO if far else OPEN
        else:
            words, outcome = f"more accurate than {other}", verdict(gain)
        claims.append(
            Claim(
                f"{name}: proposed ends {words} ({said:+.2f} points)",
                f"{gain.mean():+.2f} points [{low:+.2f}, {high:+.2f}]",
                outcome,
            )
        )
    return claims


def _not_within(scheme: str, budgets: Mapping[str, float]) -> str:
    return f"{scheme} does not within its {budgets[scheme]:g} s"


def _draw_table2(findings: Findings, path: Path) -> None:
    figure, grid = new_figure(15, 3.4 * len(findings.data), len(findings.data), 3)
    for row, (cell, numbers) in zip(grid, findings.data.items(), strict=True):
        accuracies, speedups, curves = row
        places = np.arange(len(numbers["schemes"]))
        for place, (scheme, of) in zip(places, numbers["schemes"].items(), strict=True):
            colour = _TABLE_COLOURS[scheme]
            for axes, name in ((accuracies, "test_accuracy"), (speedups, "speedup")):
                if of[name]:
                    mean = of[name]["mean"]
                    spread = np.abs(np.array(of[name]["ci95"])[:, None] - mean)
                    axes.errorbar([place - 0.12], [mean], yerr=spread, fmt="o", color=colour)
                said = of["reported"][name]
                axes.plot([place + 0.12], [said], "D", color="none", markeredgecolor=colour)
            curve = of["curve"]
            # The logarithm of the start has no place.
            later = np.array(curve["seconds"]) > 0
            curves.plot(
                np.array(curve["seconds"])[later],
                100 * np.array(curve["mean"])[later],
                color=colour,
                label=scheme,
            )
            if of["seconds"] is not None:
                curves.plot([of["seconds"]], [100 * numbers["common_accuracy"]], "o", color=colour)
        curves.axhline(100 * numbers["common_accuracy"], color=INK, linewidth=0.8, linestyle=":")
        speed = f"speed-up to {100 * numbers['common_accuracy']:.1f} %"
        for axes, label in ((accuracies, "test accuracy, %"), (speedups, speed)):
            axes.set_xticks(places, list(numbers["schemes"]))
            axes.set_ylabel(label, color=INK)
            axes.set_title(f"{cell}: measured ●, reported ◇", fontsize=10, color=INK)
            axes.margins(x=0.15)
        speedups.set_yscale("log")
        plain_ticks(speedups)
        curves.set_xscale("log")
        curves.set_xlabel("simulated seconds up to each budget; ● individual's end", color=INK)
        curves.set_ylabel("validation accuracy, %", color=INK)
        curves.legend(frameon=False, fontsize=8, loc="lower right")
        for axes in row:
            tidy(axes)
    write_title(figure, findings.title)
    save(figure, path)
