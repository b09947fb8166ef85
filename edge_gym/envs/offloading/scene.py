"""The picture of an episode of offloading."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.core.scene import BarPanel, GaugePanel, Scene
from edge_gym.envs.offloading.dynamics import OffloadingProblem


def scene_of(problem: OffloadingProblem, lane: int) -> Scene:
    """Show what was offloaded in one lane, the band, latencies and the accuracy."""
    config, iterations = problem.config, int(problem.rounds[lane])
    labels = problem.device_labels()
    shown = len(labels)

    def bars(title: str, values: NDArray[Any], label: str, **limits: Any) -> BarPanel:
        return BarPanel(
            title=title,
            labels=labels,
            series={"": values[:shown]},
            x_label="user",
            y_label=label,
            **limits,
        )

    up, down = 100 * problem.band_shares[lane]
    offloaded = 100 * problem.offloaded[lane]
    return Scene(
        title=(
            f"Iteration {iterations}: "
            f"{100 * problem.inference_accuracy[lane]:.1f} % of the last tasks' images right"
        ),
        text=(
            f"WSEL {problem.wsel[lane]:.2f}   ·   in all {problem.wsel_sum[lane]:.1f}   ·   "
            f"{problem.joules[lane]:.2f} J"
        ),
        panels=(
            (
                bars("Offloaded of the last task", offloaded, "%", y_limits=(0, 100)),
                bars("Band, uplink", up, "%"),
                bars("Band, downlink", down, "%"),
                bars("Latency", problem.latency_s[lane], "s"),
            ),
            (
                problem.tracker.accuracy_panel(
                    lane, np.arange(iterations + 1), "iterations", (0, config.iterations)
                ),
                GaugePanel(
                    title="Iterations left",
                    value=config.iterations - iterations,
                    maximum=config.iterations,
                    unit="",
                ),
            ),
        ),
    )
