"""The picture of an episode of task allocation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.core.scene import BarPanel, GaugePanel, Scene
from edge_gym.envs.task_allocation.dynamics import TaskAllocation


def scene_of(problem: TaskAllocation, lane: int) -> Scene:
    """Show one lane's samples, updates, times, energies and the accuracy over cycles."""
    config, cycles = problem.config, int(problem.rounds[lane])
    labels = problem.device_labels()
    shown = len(labels)

    def bars(title: str, values: NDArray[Any], label: str, **more: Any) -> BarPanel:
        return BarPanel(
            title=title,
            labels=labels,
            series={"": values[:shown]},
            x_label="learner",
            y_label=label,
            **more,
        )

    limit_s = np.full(shown, config.cycle_s)
    limit_j = problem.limit_j[lane, :shown]
    return Scene(
        title=f"Cycle {cycles}: {100 * problem.tracker.accuracy[lane]:.1f} % validation accuracy",
        text=(
            f"{cycles * config.cycle_s:g} s   ·   {problem.joules[lane].sum():.0f} J   ·   "
            f"last cycle {problem.updates[lane].mean():.1f} updates on average"
        ),
        panels=(
            (
                bars("Samples", problem.samples[lane], "samples"),
                bars("Local updates", problem.updates[lane], "updates"),
                bars("Finished after", problem.finish_s[lane], "s", targets={"T": limit_s}),
                bars("Energy", problem.spent_j[lane], "J", targets={"limit": limit_j}),
            ),
            (
                problem.tracker.accuracy_panel(
                    lane, np.arange(cycles + 1), "global cycles", (0, config.cycles)
                ),
                GaugePanel(
                    title="Cycles left",
                    value=config.cycles - cycles,
                    maximum=config.cycles,
                    unit="",
                ),
            ),
        ),
    )
