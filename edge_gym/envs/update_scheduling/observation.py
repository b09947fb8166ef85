"""What is observed in update scheduling."""

from __future__ import annotations

from edge_gym.core.observation import Column, ObservationTable
from edge_gym.envs.federated import MAX_LOSS, score_columns
from edge_gym.envs.update_scheduling.config import UpdateSchedulingConfig

MEMORY_ROUNDS = 10
"""Rounds over which the observed throughput is smoothed."""
MAX_INDICATOR = 1e6
"""Indicators are observed up to this: a model may diverge."""
LEAST_LOG_INDICATOR = -10.0
"""What is smaller is nothing but rounding."""
_MAX_LOG = 30.0


def observation_tables(config: UpdateSchedulingConfig) -> dict[str, ObservationTable]:
    """Return the columns of each part of the observation under ``config``."""
    importance = config.mode == "importance"
    if not importance:
        meaning = "model age ‖ŵ_k - w‖ from the device's last uploaded model"
    elif config.update == "gradient":
        meaning = "norm of the device's gradient, the last known"
    else:
        meaning = "model variation ‖w_k - w‖ of the device's update, the last known"
    if config.knowledge == "remembered":
        meaning += "; before the first the mean of those known, 1 where none is"
    told = "upload that arrived" if config.knowledge in ("remembered", "lazy") else "report"
    seconds = {
        "reported": "time of computing in this round; without a slow-down where left out",
        "free": "time of computing in this round",
    }.get(config.knowledge, "time of computing, without a slow-down")
    unit = "s" if importance else "J"
    budget = config.budget
    return {
        "devices": ObservationTable(
            Column("indicator", "1", 0, MAX_INDICATOR, meaning, 1, 0.5),
            Column(
                "indicator_share", "1", 0, 1e3, "the indicator over its mean over devices", 1, 0.5
            ),
            Column("efficiency", "bit/s/Hz", 0, 40, "spectral efficiency log₂(1 + γ) now", 7, 3),
            Column("mean_efficiency", "bit/s/Hz", 0, 40, "its mean over all rounds so far", 7, 3),
            Column(
                "throughput",
                "bit/s/Hz",
                0,
                40,
                f"efficiency when scheduled, else 0, smoothed over {MEMORY_ROUNDS} rounds",
                2,
                2,
            ),
            Column(
                "upload_s", "s", 0, 1e6, "time of an upload in the whole band now", 0.004, 0.003
            ),
            Column("compute_s", "s", 0, 1e6, seconds, 0.008, 0.008),
            Column("compute_j", "J", 0, 1e6, "energy of computing", 7e-4, 6e-4),
            Column("upload_j", "J", 0, 1e6, "energy of an upload in the whole band", 8e-4, 6e-4),
            Column(
                "log_cost",
                "1",
                -_MAX_LOG,
                _MAX_LOG,
                f"ln of computing and uploading, {unit}, over the geometric mean over devices",
                0,
                0.7,
            ),
            Column(
                "log_indicator",
                "1",
                LEAST_LOG_INDICATOR,
                _MAX_LOG,
                f"ln of indicator_share, {LEAST_LOG_INDICATOR:g} at least",
                0,
                0.3,
            ),
            Column(
                "staleness",
                "round",
                0,
                1e6,
                "rounds since its last arrival, or since the start",
                2,
                3,
            ),
            Column("uploads", "round", 0, 1e6, "rounds in which it was scheduled", 4, 4),
            Column(
                "arrivals",
                "1",
                0,
                1,
                "share of its uploads that arrived, 1 before the first",
                1,
                0.2,
            ),
            Column("samples", "sample", 0, 1e9, "its samples", 60, 30),
            Column("energy_j", "J", 0, 1e9, "energy that it has used", 0.01, 0.01),
            Column(
                "nominal_s", "s", 0, 1e6, "time of computing, without a slow-down", 0.008, 0.008
            ),
            Column(
                "indicator_age",
                "round",
                0,
                1e6,
                "rounds since its indicator was computed, 0 in this one; if never, all and one",
                1,
                2,
            ),
            Column(
                "training_loss",
                "nat",
                0,
                MAX_LOSS,
                f"mean loss of the training on its samples, told in its last {told}; before the "
                "first the mean of those known, ln C where none is",
                1.2,
                0.8,
            ),
            *(
                [
                    Column(
                        "change",
                        "1",
                        0,
                        MAX_INDICATOR,
                        "gradient divergence: norm of the difference of what it computed last to "
                        "its last upload that arrived; before the first to nothing",
                        1,
                        0.5,
                    )
                ]
                if config.tells_change
                else []
            ),
            Column(
                "participates",
                "1",
                0,
                1,
                "1 if it takes part in this round, and can be scheduled",
                0.5,
                0.5,
            ),
        ),
        "system": ObservationTable(
            Column("devices", "device", 1, 1e6, "devices in all, K", 20, 15),
            Column("budget_left", unit, 0, 1e9, f"budget left, {unit}", budget / 2, budget / 4),
            Column("rounds", "round", 0, 1e6, "rounds so far", 15, 10),
            Column(
                "last_round",
                unit,
                0,
                1e9,
                f"what the last round took, {unit}",
                budget / 30,
                budget / 30,
            ),
            *score_columns("round", (0.6, 0.2), (1.2, 0.6), (0.1, 0.06)),
            Column(
                "elapsed_s",
                "s",
                0,
                1e9,
                "time of this round that has passed when the server decides",
                0.04,
                0.04,
            ),
        ),
    }
