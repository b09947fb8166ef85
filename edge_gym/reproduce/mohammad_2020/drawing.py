"""Pictures of curves and bars of schemes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_gym.reports.charts import INK, new_figure, save, tidy, write_title
from edge_gym.reproduce.harness import Claim, Findings, Options, write_findings
from edge_gym.reproduce.mohammad_2020.schemes import HA, HA_SYNC, HU, QUICK, SCHEMES, Scheme, chosen
from edge_gym.reproduce.mohammad_2020.sweeps import (
    LATE_TARGETS,
    Cells,
    Sweep,
    cells_of,
    grid_of,
    numbers,
    percent,
    title_of,
)
from edge_gym.typing import Float64Array

_CYCLES_S = tuple(float(seconds) for seconds in range(5, 41, 5))


_BARS = (*HA, *HU)


def against_cycle(
    folder: Path,
    options: Options,
    number: int,
    energies_j: Sequence[float],
    shown: Sequence[str],
    claims: Callable[[Cells], list[Claim]],
) -> Findings:
    """Run all schemes against the cycle time, and draw one bar chart for each energy limit."""
    sweep = Sweep(folder, options)
    cells = sweep.run(cells_of(_CYCLES_S, energies_j, options), chosen(_BARS, options, QUICK))
    targets = LATE_TARGETS[options.full]
    findings = sweep.findings(
        f"async-mel-fig{number}",
        title_of(f"Fig. {number}, caps c on the staleness", sweep),
        claims(cells),
        {cell.name: numbers(cell, runs, targets) for cell, runs in cells.items()},
    )
    write_findings(findings, lambda findings, path: _draw_against_cycle(findings, path, shown))
    return findings


def draw_curves(
    findings: Findings, path: Path, schemes: Mapping[str, Scheme], counted: bool = False
) -> None:
    """Draw the accuracy along the cycles, a panel for each cell: rows of T, columns of E.

    Args:
        findings: What was found.
        path: Where the picture goes.
        schemes: How lines are drawn.
        counted: Whether the cycles to the targets are shown in another panel, for the first cell of
            each row, which is all there is in a row if there is one T; accuracies are then shown
            from where schemes that are no HU have come to after two cycles.
    """
    times, energies, cells = grid_of(findings.data)
    rows = [[(cycle_s, energy_j) for energy_j in energies] for cycle_s in times]
    if counted and len(times) == 1:
        rows = [[cell] for cell in rows[0]]
    columns = len(rows[0]) + counted
    figure, grid = new_figure(
        3.6 * len(rows[0]) + 4.4 * counted + 1.8,
        3.3 * len(rows) + 0.6,
        len(rows),
        columns,
        sharey=not counted,
    )
    for axes_row, row in zip(grid, rows, strict=True):
        for axes, cell in zip(axes_row, row, strict=False):
            _curve_panel(axes, cells[cell], schemes, counted)
        axes_row[0].set_ylabel("validation accuracy, %", color=INK)
        if counted:
            _cycles_panel(axes_row[-1], cells[row[0]], schemes)
        for axes, (cycle_s, energy_j) in zip(axes_row, [*row, row[0]], strict=False):
            axes.set_title(f"T = {cycle_s:g} s, E = {energy_j:g} J", fontsize=10, color=INK)
            tidy(axes)
    _legend(figure, grid, schemes)
    write_title(figure, f"{findings.title}; 95 % intervals")
    save(figure, path)


def _curve_panel(
    axes: Any, found: Mapping[str, Any], schemes: Mapping[str, Scheme], zoomed: bool
) -> None:
    paths = {}
    for name in _drawn(schemes, found):
        accuracy = found[name]["accuracy"]
        paths[name] = 100 * np.array(accuracy["mean"][1:])
        low, high = 100 * np.transpose(accuracy["ci95"][1:])
        cycles = 1 + np.arange(len(low))
        colour = schemes[name].colour
        axes.plot(cycles, paths[name], schemes[name].dash, color=colour, lw=1.6, label=name)
        axes.fill_between(cycles, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("global cycles", color=INK)
    if not zoomed:
        return
    floor = min(path[:2].max() for name, path in paths.items() if name not in HU) - 2
    highest = max(path.max() for path in paths.values())
    axes.set_ylim(floor, highest + 0.06 * (highest - floor))
    below = [f"{name}: {path[-1]:.0f} %" for name, path in paths.items() if path[-1] < floor]
    if below:
        axes.text(
            0.97,
            0.04,
            f"below, {', '.join(below)}",
            transform=axes.transAxes,
            ha="right",
            fontsize=8,
            color=INK,
        )


def _drawn(schemes: Mapping[str, Scheme], found: Mapping[str, Any]) -> list[str]:
    """Return the names of the schemes that have lines."""
    return [name for name, scheme in schemes.items() if name in found and scheme.colour]


def _legend(figure: Any, grid: Any, schemes: Mapping[str, Scheme]) -> None:
    """Name every line once, beside the panels."""
    handles: dict[str, Any] = {}
    for axes in grid.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    names = [name for name in schemes if name in handles]
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="outside right center",
        frameon=False,
        fontsize=9,
    )


def _cycles_panel(axes: Any, found: Mapping[str, Any], schemes: Mapping[str, Scheme]) -> None:
    """Draw the cycles to one or two targets of every scheme, and those that were reported."""
    names = _drawn(schemes, found)[::-1]
    targets = list(next(iter(found.values()))["cycles_to"])
    fills = ("full",) if len(targets) == 1 else ("none", "full")
    reported: list[str] = []
    for place, name in enumerate(names):
        for i, (target, fill) in enumerate(zip(targets, fills, strict=True)):
            to = found[name]["cycles_to"][target]
            height = place + 0.16 * (len(targets) - 1 - 2 * i)
            style: dict[str, Any] = {"color": schemes[name].colour, "ms": 6, "fillstyle": fill}
            spread = np.abs(np.array(to["ci95"])[:, None] - to["mean"])
            pale = 1.0 if to["reached"] > 0.5 else 0.35
            axes.errorbar([to["mean"]], [height], xerr=spread, fmt="o", alpha=pale, **style)
            if "reported" in to:
                axes.plot([to["reported"]["cycles"]], [height], "D", **style)
                reported.append(percent(to["reported"]["target"]))
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    label = " and ".join(
        f"{target} % ({'●' if fill == 'full' else '○'})"
        for target, fill in zip(targets, fills, strict=True)
    )
    label = f"cycles to {label}"
    if reported:
        label += f"\nreported (◇, ◆): to {' and '.join(sorted(set(reported)))} %"
    if any(to["reached"] <= 0.5 for of in found.values() for to in of["cycles_to"].values()):
        label += "\npale: most do not get there"
    axes.set_xlabel(label, color=INK, fontsize=9)


def _draw_against_cycle(findings: Findings, path: Path, shown: Sequence[str]) -> None:
    """Draw each quantity for each E, and beside it how far ahead of HA-Sync schemes are."""
    times, energies, cells = grid_of(findings.data)
    first = next(iter(cells.values()))
    panels = [
        (kind, key, energy_j)
        for kind in shown
        for key in first[HA_SYNC][kind]
        for energy_j in energies
    ]
    # Each quantity has two values or two energies, so that two panels and theirs fill a row.
    figure, grid = new_figure(17.6, 1.6 * len(panels) + 0.6, len(panels) // 2, 4)
    for (kind, key, energy_j), (left, right) in zip(panels, grid.reshape(-1, 2), strict=True):
        scale = 100 if kind == "after" else 1
        names = _drawn(SCHEMES, first)
        limits: list[Float64Array] = []
        for j, name in enumerate(names):
            scheme = SCHEMES[name]
            found = [cells[cycle_s, energy_j][name][kind][key] for cycle_s in times]
            means = scale * np.array([of["mean"] for of in found])
            ahead = scale * np.array([of["ahead"]["mean"] for of in found])
            ends = scale * np.array([of["ahead"]["ci95"] for of in found]).T
            style: dict[str, Any] = {"color": scheme.colour, "ls": scheme.dash, "marker": "o"}
            left.plot(times, means, **style, lw=1.2, ms=3.5, label=name)
            places = np.array(times) + 0.4 * (j - (len(names) - 1) / 2)
            right.errorbar(places, ahead, yerr=np.abs(ends - ahead), **style, lw=1, ms=3.5)
            if name not in HU:
                limits.append(np.stack([means, means, *ends]).reshape(2, 2, -1))
        # Equal tasks are so far off in places that nothing else would be told apart.
        for axes, values in zip((left, right), np.stack(limits, axis=1), strict=True):
            margin = 0.1 * max(float(np.ptp(values)), 0.5)
            axes.set_ylim(values.min() - margin, values.max() + margin)
            axes.set_xlabel("T, s", color=INK)
            axes.set_xticks(times)
            axes.set_title(f"E = {energy_j:g} J", fontsize=10, color=INK)
            tidy(axes)
        if kind == "after":
            labels = (f"accuracy after {key} cycles, %", "points above HA-Sync")
        else:
            labels = (f"cycles to {key} %", "cycles fewer than HA-Sync")
        left.set_ylabel(labels[0], color=INK)
        right.set_ylabel(labels[1], color=INK)
    _legend(figure, grid, SCHEMES)
    title = f"{findings.title}; 95 % intervals of paired differences"
    write_title(figure, title)
    save(figure, path)
