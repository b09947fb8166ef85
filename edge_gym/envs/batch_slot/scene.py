"""Pictures of batches and time slots."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from edge_gym.core.scene import BarPanel, GaugePanel, Scene
from edge_gym.envs.batch_slot.dynamics import BatchSlot


def round_scene(problem: BatchSlot, lane: int) -> Scene:
    """Show batches, slots, when devices finished and the accuracy over time."""
    config, rounds = problem.config, int(problem.rounds[lane])
    labels = problem.device_labels()
    shown = len(labels)
    part_ms = 1e3 * problem.part_s[lane, :, :shown]

    def bars(title: str, values: NDArray[Any], label: str, **targets: Any) -> BarPanel:
        return BarPanel(
            title=title,
            labels=labels,
            series={"": values},
            x_label="device",
            y_label=label,
            targets=targets,
        )

    seconds, batch = problem.seconds[lane], int(problem.batch[lane].sum())
    return Scene(
        title=f"Round {rounds}: {100 * problem.tracker.accuracy[lane]:.1f} % validation accuracy",
        text=(
            f"{seconds:.2f} s   ·   last batch B = {batch}   ·   "
            f"last round {1e3 * problem.last_round_s[lane]:.1f} ms"
        ),
        panels=(
            (
                bars("Batches", problem.batch[lane, :shown], "samples"),
                bars("Uplink slots", 100 * problem.slots[lane, 0, :shown], "% of the frame"),
                bars("Downlink slots", 100 * problem.slots[lane, 1, :shown], "% of the frame"),
                bars("Update arrived after", part_ms[0], "ms"),
            ),
            (
                problem.tracker.accuracy_panel(
                    lane,
                    problem.times[lane, : rounds + 1],
                    "simulated seconds",
                    (0, config.budget_s),
                ),
                GaugePanel(
                    title="Time left",
                    value=round(float(config.budget_s - seconds), 3),
                    maximum=config.budget_s,
                    unit="s",
                ),
            ),
        ),
    )
