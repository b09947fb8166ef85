"""What is observed of batches and time slots."""

from __future__ import annotations

from edge_gym.core.observation import Column, ObservationTable
from edge_gym.envs.batch_slot.config import BatchSlotConfig
from edge_gym.envs.federated import MAX_LOSS, score_columns

TYPICAL_EFFICIENCY = 12.0
"""Typical bit/s/Hz in the cell of Ren et al. 2021, Table I, for the columns' scaling."""
MAX_NORM = 1e6
"""Norms are observed up to this: a model may diverge."""
_MAX_LOG = 40.0


def observation_tables(
    config: BatchSlotConfig, sample_s: float = 2.7e-4, transfer_s: float = 1e-3
) -> dict[str, ObservationTable]:
    """Return the columns of each part of the observation under ``config``.

    Args:
        config: The configuration.
        sample_s: Typical seconds of one sample's gradient, for the columns' scaling.
        transfer_s: Typical seconds of a transfer in the whole frame, likewise.
    """
    k = config.n_devices
    what = "gradient" if config.update == "gradient" else "update"
    rate, sending_s, size = TYPICAL_EFFICIENCY * config.bandwidth_hz / 1e6, k * transfer_s, 64
    if config.max_batch is not None:
        size = max(1, config.max_batch // 2)
    rounds = config.budget_s / (4 * sending_s)
    return {
        "devices": ObservationTable(
            Column("uplink_rate", "Mbit/s", 0, 1e6, "rate R_k^U in its slots", rate, rate / 3),
            Column("downlink_rate", "Mbit/s", 0, 1e6, "rate R_k^D in its slots", rate, rate / 3),
            Column(
                "upload_s",
                "s",
                0,
                1e9,
                "time of an upload in the whole frame",
                transfer_s,
                transfer_s / 2,
            ),
            Column(
                "download_s",
                "s",
                0,
                1e9,
                "time of a download in the whole frame"
                + (", of as many bits as the last one" if config.download == "union" else ""),
                transfer_s,
                transfer_s / 2,
            ),
            Column(
                "speed", "sample/s", 0, 1e12, "training speed V_k", 1 / sample_s, 0.5 / sample_s
            ),
            *(
                Column(
                    f"log_{name}",
                    "1",
                    -_MAX_LOG,
                    _MAX_LOG,
                    f"ln of {of} over its geometric mean",
                    0,
                    spread,
                )
                for name, of, spread in (
                    ("upload", "upload_s", 0.25),
                    ("download", "download_s", 0.25),
                    ("speed", "speed", 0.45),
                )
            ),
            Column(
                "update_s",
                "s",
                0,
                1e9,
                "time t_k^M of a model update",
                0.3 * sample_s,
                0.2 * sample_s,
            ),
            Column("max_batch", "sample", 1, 1e9, "its largest batch", 2 * size, size),
            Column("samples", "sample", 1, 1e9, "its samples", 1500, 1500),
            Column("batch", "sample", 0, 1e9, "its last batch", size, 0.6 * size),
            Column(
                "gradient_s",
                "s",
                0,
                1e9,
                f"when its last {what} had arrived, t_k^L + t_k^U",
                2.5 * sending_s,
                2.5 * sending_s,
            ),
            Column(
                "finish_s",
                "s",
                0,
                1e9,
                "time of its last download and update, t_k^D + t_k^M",
                1.5 * sending_s,
                1.5 * sending_s,
            ),
            Column("batch_loss", "nat", 0, MAX_LOSS, "loss on its last batch", 0.6, 0.5),
            Column("norm", "1", 0, MAX_NORM, f"norm of its last {what}", 1, 0.7),
        ),
        "system": ObservationTable(
            Column(
                "time_left", "s", 0, 1e12, "budget left", config.budget_s / 2, config.budget_s / 4
            ),
            Column("rounds", "round", 0, 1e9, "rounds so far", rounds / 2, rounds / 2),
            Column(
                "last_round_s",
                "s",
                0,
                1e12,
                "what the last round took",
                4 * sending_s,
                4 * sending_s,
            ),
            Column(
                "last_batch",
                "sample",
                0,
                1e9,
                "the last global batchsize B",
                k * size,
                k * size / 2,
            ),
            Column(
                "balanced_batch",
                "sample",
                0,
                1e12,
                "B at which computing takes as long as sending, the best one without bounds",
                k * size,
                k * size / 4,
            ),
            Column("norm", "1", 0, MAX_NORM, f"norm of the last averaged {what}", 1, 0.7),
            *score_columns("round", (0.8, 0.15), (0.7, 0.5), (0.02, 0.04)),
        ),
    }
