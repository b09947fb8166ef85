"""Pictures of results; matplotlib is imported when something is drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_gym.evaluation.generalisation import OWN
from edge_gym.evaluation.metrics import title
from edge_gym.evaluation.ranking import RankedPolicy, best_rule
from edge_gym.evaluation.sweep import zero_of
from edge_gym.runtime.optional import missing_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from edge_gym.evaluation.comparison import Results
    from edge_gym.evaluation.generalisation import Generalisation

INK, MUTED, GRID = "#1B2733", "#66717D", "#E3E7EB"
# Okabe and Ito's colours, told apart by colour-blind readers too.
KINDS = {
    "published": ("#0072B2", "published rule"),
    "adapted": ("#56B4E9", "published rule, adapted"),
    "project": ("#009E73", "rule of this project"),
    "learned": ("#D55E00", "learned"),
    "yours": ("#CC79A7", "yours"),
    "reference": ("#66717D", "reference"),
}


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **kwargs: Any) -> Any:
    """Return a figure that needs no display, and its axes.

    Raises:
        ImportError: If matplotlib is missing.
    """
    require_pictures()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def require_pictures() -> None:
    """Raise an ``ImportError`` that says how to install it if matplotlib is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise missing_extra("pictures need matplotlib", "plots", error) from error


def tidy(axes: Axes) -> None:
    """Take away what is no information."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def write_title(figure: Figure, text: str) -> None:
    """Write a title above all, in as many lines as the width of the figure asks for."""
    title = figure.suptitle(text, color=INK, fontsize=12)
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    for width in range(len(text), 0, -1):
        title.set_text(textwrap.fill(text, width, break_long_words=False))
        if title.get_window_extent(renderer).width <= 0.97 * figure.bbox.width:
            return


def save(figure: Figure, path: Path) -> None:
    """Write the picture in the format of the path's suffix."""
    figure.savefig(path, facecolor="white")


def draw_comparison(results: Results, path: Path) -> None:
    """Draw one row per policy, best first: return, difference to the best rule, reported metrics.

    Raises:
        ImportError: If matplotlib is missing.
    """
    ranked = sorted(results.policies.items(), key=lambda item: item[1].mean)
    compared = all(result.difference is not None for _, result in ranked)
    columns, told = (2 if compared else 1), results.reported()
    figure, grid = new_figure(
        4.8 + 4.4 * columns + 2.2 * len(told),
        1.5 + 0.34 * len(ranked),
        1,
        columns + len(told),
        sharey=True,
        width_ratios=[4.4] * columns + [2.2] * len(told),
    )
    returns = grid[0, 0]
    for axes, name in zip(grid[0, columns:], told, strict=True):
        axes.set_xlabel(title(name), color=INK)
    for position, (_, result) in enumerate(ranked):
        _interval(returns, position, result.mean, result.ci95, KINDS[result.kind][0])
        if compared and result.difference is not None:
            difference = result.difference
            _interval(grid[0, 1], position, difference.mean, difference.ci95, KINDS[result.kind][0])
        for axes, name in zip(grid[0, columns:], told, strict=True):
            metric = result.metrics[name]
            if metric.mean is not None and metric.ci95 is not None:
                _line(axes, position, metric.mean, metric.ci95, KINDS[result.kind][0])
    returns.set_yticks(range(len(ranked)), [name for name, _ in ranked])
    returns.set_ylim(-0.6, len(ranked) - 0.4)
    returns.set_xlabel("mean episode return, with its 95 % confidence interval", color=INK)
    if compared:
        baseline = next(r.difference.baseline for _, r in ranked if r.difference is not None)
        grid[0, 1].axvline(0, color=INK, linewidth=1)
        grid[0, 1].set_xlabel(f"paired difference to {baseline}", color=INK)
    for axes in grid.flat:
        tidy(axes)
        axes.grid(False, axis="y")
    for name, (colour, label) in KINDS.items():
        if any(result.kind == name for _, result in ranked):
            returns.plot([], [], "o", color=colour, label=label)
    figure.legend(loc="outside lower center", ncols=len(KINDS), frameon=False, fontsize=9)
    write_title(
        figure,
        f"{results.environment}: {len(results.seeds)} episodes each, the same seeds for all"
        + (" (stopped early)" if results.interrupted else ""),
    )
    save(figure, path)


def _line(axes: Axes, position: int, mean: float, ends: tuple[float, float], colour: str) -> None:
    axes.plot(ends, [position, position], color=colour, linewidth=2.5, solid_capstyle="butt")
    axes.plot([mean], [position], "o", color=colour, markersize=6)


def _interval(
    axes: Axes, position: int, mean: float, ends: tuple[float, float], colour: str
) -> None:
    _line(axes, position, mean, ends, colour)
    axes.annotate(
        f"{mean:+.4f}" if axes.get_subplotspec().colspan.start else f"{mean:.4f}",  # type: ignore[union-attr]
        (mean, position),
        (0, 5),
        textcoords="offset points",
        ha="center",
        fontsize=7.5,
        color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
    )


def draw_generalisation(result: Generalisation, name: str, path: Path) -> None:
    """Draw what agents gain on each setting's best rule, in units of its gain on the zero.

    Args:
        result: What was run.
        name: The environment's id.
        path: The picture.

    Raises:
        ImportError: If matplotlib is missing.
    """
    settings, ranking = result.settings[name], result.ranking[name]
    figure, grid = new_figure(7.5, 1.6 + 0.34 * len(settings))
    axes = grid[0, 0]
    axes.axvline(0, color=KINDS["project"][0], linewidth=1)
    learned = [row.policy for row in ranking[OWN.name] if row.kind == "learned"]
    for offset, policy in enumerate(sorted(learned, reverse=True)):
        shape = "os^"[offset % 3]
        axes.plot([], [], shape, color=KINDS["learned"][0], label=policy)
        for position, setting in enumerate(reversed(settings)):
            ends = _relative_gain(ranking[setting.name], policy)
            if ends is not None:
                low, mean, high = ends
                height = position + 0.22 * (offset - (len(learned) - 1) / 2)
                axes.plot([low, high], [height] * 2, color=KINDS["learned"][0], linewidth=2)
                axes.plot([mean], [height], shape, color=KINDS["learned"][0], markersize=5)
    zero = zero_of(name)
    labels = [
        setting.name
        if not learned or _relative_gain(ranking[setting.name], learned[0])
        else f"{setting.name} (no rule above {zero})"
        for setting in reversed(settings)
    ]
    axes.set_yticks(range(len(settings)), labels)
    axes.set_ylim(-0.6, len(settings) - 0.4)
    axes.set_xlabel(f"gain on the setting's best rule, over that rule's gain on {zero}")
    tidy(axes)
    axes.grid(False, axis="y")
    if learned:
        axes.legend(frameon=False, fontsize=9)
    write_title(figure, f"{name}: trained in its own setting")
    save(figure, path)


def _relative_gain(rows: Sequence[RankedPolicy], policy: str) -> tuple[float, float, float] | None:
    """Return low end, mean and high end of a policy's gain on the best rule in units of its own."""
    row = next(row for row in rows if row.policy == policy)
    best = best_rule(rows)
    zero = next(row for row in rows if row.policy == zero_of(row.environment))
    if best is None or row.score is None or row.difference is None or row.difference_ci95 is None:
        return None
    gain = best.mean - zero.mean
    low, high = row.difference_ci95
    return low / gain, row.difference / gain, high / gain
