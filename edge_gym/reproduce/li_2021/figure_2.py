"""Li et al. 2021, Fig. 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_gym.evaluation.rollouts import plain_config
from edge_gym.reports.charts import GRID, INK, new_figure, save, tidy, write_title
from edge_gym.reproduce.harness import Findings, Options, summary, write_findings
from edge_gym.reproduce.li_2021.claims import REPORTED_GAP, claims_of
from edge_gym.reproduce.li_2021.sweeps import (
    ADMM,
    ECO,
    EXPONENTS,
    GBE,
    LCO,
    MODEL_MBIT,
    NEAR,
    OPTIMUM,
    PARAMETERS,
    REPORTED_ITERATIONS,
    STOPPED,
    Draws,
    Solved,
    draw_channels,
    numbers_of,
    other_steps,
    solve_draws,
    sweep_of,
)
from edge_gym.reproduce.ren_2021.drawing import plain_ticks

# Colour, marker and line of each.
_SHOWN = {
    GBE: ("#8C6BB1", "s", "-"),
    ECO: ("#CC79A7", "^", "-"),
    LCO: ("#0072B2", "v", "-"),
    STOPPED: ("#E69F00", "", "--"),
    ADMM: ("#D55E00", "", "-"),
    NEAR: ("#009E73", "x", ""),
    OPTIMUM: (INK, "o", ""),
}


def joint_fig2(folder: Path, options: Options) -> Findings:
    """Redo Fig. 2: WSEL against the model's size, and against the path-loss exponent.

    Channels are those with which episodes of ``Offloading-Paper-v0`` begin. ``--set`` changes
    its fields: ``path_loss_exponent`` is that of panel (a), ``model_bits`` that of panel (b). Grids
    in steps of 0.1 are searched in a fifth of the draws, with ``--full`` in all.

    Raises:
        ValueError: If a value is out of range or there are more users than can be searched.
        OSError: If ``folder`` cannot be written to.

    Source: Li et al. 2021, Fig. 2, §III, §IV, Table I.
    """
    seeds = options.seeds(usual=200, quick=8)
    usual = draw_channels(options.overrides, seeds)
    solved: dict[tuple[float, float], Solved] = {}

    def solve(draws: Draws, model_mbit: float) -> Solved:
        # The panels meet in a point.
        key = (draws.config.path_loss_exponent, model_mbit)
        if key not in solved:
            solved[key] = solve_draws(draws, model_mbit, options)
        return solved[key]

    by_size = sweep_of(MODEL_MBIT, [solve(usual, mbit) for mbit in MODEL_MBIT])
    points = []
    for exponent in EXPONENTS:
        overrides = {**options.overrides, "path_loss_exponent": exponent}
        points.append(solve(draw_channels(overrides, seeds), usual.model_mbit))
    by_loss = sweep_of(EXPONENTS, points)
    steps = other_steps(usual, by_size, options)
    findings = Findings(
        title=(
            f"Li et al. 2021, Fig. 2: {usual.config.n_devices} users, "
            f"{len(seeds)} draws of their channels"
        ),
        config=plain_config(usual.config),
        seeds=seeds,
        parameters=PARAMETERS,
        claims=claims_of(by_size, by_loss, steps),
        data={
            "model_mbit": numbers_of(by_size),
            "path_loss_exponent": numbers_of(by_loss),
            # By which share grids of other steps cost more, at each model size.
            "excess_of_steps": {f"{step:g}": summary(e.T) for step, e in steps.items()},
            "reported": {"gap": REPORTED_GAP, "iterations": list(REPORTED_ITERATIONS)},
        },
        files=[folder / "joint-fig2.json", folder / "joint-fig2.png"],
    )
    write_findings(findings, _draw)
    return findings


def _draw(findings: Findings, path: Path) -> None:
    figure, grid = new_figure(12, 5, 1, 2)
    panels = (
        (grid[0, 0], "model_mbit", "(a) size D_m of the model, Mbit"),
        (grid[0, 1], "path_loss_exponent", "(b) path-loss exponent σ"),
    )
    for axes, quantity, label in panels:
        numbers = findings.data[quantity]
        for name, (colour, marker, line) in _SHOWN.items():
            found = numbers["wsel"][name]
            axes.plot(
                numbers["values"],
                found["mean"],
                color=colour,
                linestyle=line or "none",
                marker=marker or None,
                markersize=9 if name == OPTIMUM else 6,
                fillstyle="none" if name == OPTIMUM else "full",
                label=name,
            )
            if line:
                axes.fill_between(
                    numbers["values"],
                    *np.transpose(found["ci95"]),
                    color=colour,
                    alpha=0.15,
                    linewidth=0,
                )
        axes.set_xticks(numbers["values"])
        axes.set_xlabel(label, color=INK)
        tidy(axes)
    # ECO's costs would flatten all else.
    losses = grid[0, 1]
    losses.set_yscale("log")
    plain_ticks(losses)
    losses.tick_params(which="minor", colors=INK, labelsize=9)
    losses.grid(True, which="minor", axis="y", color=GRID, linewidth=0.8)
    grid[0, 0].set_ylabel("WSEL of all users", color=INK)
    grid[0, 0].legend(frameon=False, fontsize=9)
    write_title(figure, f"{findings.title}; 95 % intervals")
    save(figure, path)
