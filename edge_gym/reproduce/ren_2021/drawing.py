"""Pictures of curves over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_gym.reports.charts import INK, new_figure, save, tidy, write_title
from edge_gym.reproduce.harness import Findings

QUANTITIES = {"loss": "validation loss, nats", "accuracy": "validation accuracy"}


def draw_curves(findings: Findings, path: Path, colours: Mapping[str, Mapping[str, str]]) -> None:
    """Draw loss and accuracy against time, a row for each part of the data."""
    figure, grid = new_figure(11.5, 3.4 * len(findings.data) + 0.6, len(findings.data), 2)
    for row, (part, lines) in zip(grid, findings.data.items(), strict=True):
        for axes, (quantity, label) in zip(row, QUANTITIES.items(), strict=True):
            for line, numbers in lines.items():
                curve, colour = numbers[quantity], colours[part][line]
                axes.plot(numbers["seconds"], curve["mean"], color=colour, label=line)
                axes.fill_between(
                    numbers["seconds"],
                    *np.transpose(curve["ci95"]),
                    color=colour,
                    alpha=0.15,
                    linewidth=0,
                )
            axes.set_xlabel("simulated seconds", color=INK)
            axes.set_ylabel(label, color=INK)
            if len(findings.data) > 1:
                axes.set_title(part, fontsize=10, color=INK)
            tidy(axes)
        row[0].set_yscale("log")
        plain_ticks(row[0])
        title = "learning rate" if len(findings.data) > 1 else None
        row[1].legend(frameon=False, fontsize=8, loc="lower right", title=title)
    write_title(figure, f"{findings.title}; 95 % intervals")
    save(figure, path)


def plain_ticks(axes: Any) -> None:
    """Write the numbers beside a logarithmic axis as they are."""
    from matplotlib.ticker import LogLocator

    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.yaxis.set_minor_formatter("{x:g}")
