"""Pictures of update scheduling."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.core.scene import BarPanel, GaugePanel, Scene, acted_on
from edge_gym.envs.update_scheduling.dynamics import UpdateScheduling


def round_scene(problem: UpdateScheduling, lane: int) -> Scene:
    """Show the last round, before the first one what is to be decided on, and the accuracy."""
    config, rounds = problem.config, int(problem.rounds[lane])
    labels = problem.device_labels()
    shown = len(labels)
    scheduled = problem.scheduled[lane, :shown]
    indicators, efficiency, compute_s = problem.pictured[lane].T

    def bars(title: str, values: NDArray[Any], label: str) -> BarPanel:
        return BarPanel(
            title=title,
            labels=labels,
            series=acted_on(values[:shown], scheduled, "scheduled last"),
            x_label="device",
            y_label=label,
        )

    seconds, energy = problem.seconds[lane], problem.energy_j[lane].sum()
    unit = "s" if config.mode == "importance" else "J"
    indicator = {"gradient": "Gradient norm", "model": "Model variation"}[config.update]
    if config.mode == "lazy":
        indicator = "Model age"
    return Scene(
        title=f"Round {rounds}: {100 * problem.tracker.accuracy[lane]:.1f} % validation accuracy",
        text=(
            f"{seconds:.2f} s   ·   {energy:.3f} J   ·   {int(scheduled.sum())} of "
            f"{config.n_devices} devices scheduled last"
        ),
        panels=(
            (
                bars(indicator, indicators, "norm"),
                bars("Channel", efficiency, "bit/s/Hz"),
                bars("Computing", 1e3 * compute_s, "ms"),
                bars("Share of the band", 100 * problem.band_share[lane], "%"),
            ),
            (
                problem.tracker.accuracy_panel(
                    lane, np.arange(rounds + 1), "rounds", (0, max(rounds, 10))
                ),
                GaugePanel(
                    title="Budget left",
                    value=round(float(config.budget - problem.spent[lane]), 3),
                    maximum=config.budget,
                    unit=unit,
                ),
            ),
        ),
    )
