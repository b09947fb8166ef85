"""What is observed of offloading: the columns of users and of the system."""

from __future__ import annotations

import numpy as np

from edge_gym.core.observation import Column, ObservationTable
from edge_gym.envs.federated import score_columns
from edge_gym.envs.offloading.config import OffloadingConfig
from edge_gym.envs.offloading.costs import MAX_COST, mean_gain
from edge_gym.physics import wireless

_MAX_LOG = 40.0


def observation_tables(config: OffloadingConfig) -> dict[str, ObservationTable]:
    """Return the columns of each part of the observation under ``config``."""
    m = config.n_devices
    model_mbit = (config.model_bits or 16e6) / 1e6
    task_mbit = (config.task_bits or 64e6) / 1e6
    # A channel of 9 bit/s/Hz in a fair share of the band, as is usual at 50 m.
    fair_s = model_mbit * 1e6 * 2 * m / (9 * config.bandwidth_hz)
    gain_db = float(wireless.linear_to_db(mean_gain(config, np.array(config.cell_radius_m))))
    training_s = config.training_s or 1.0
    return {
        "devices": ObservationTable(
            Column("gain_db", "dB", -300, 100, "channel gain h_j", gain_db, 6),
            Column("task_mbit", "Mbit", 0, 1e6, "its task L_j", task_mbit / 2, task_mbit / 2),
            Column(
                "training_s",
                "s",
                0,
                1e9,
                "from then until its update can be sent: τ^lt of training, or more where its "
                "uplink still sends its last task",
                training_s,
                training_s,
            ),
            Column(
                "training_j",
                "J",
                0,
                1e9,
                "energy e^lt of training",
                config.training_j or 0.04,
                config.training_j or 0.04,
            ),
            Column(
                "previous_download_s",
                "s",
                0,
                1e9,
                "when it begins to train: after its last download τ^md (0 without one), and after "
                "what its CPU still had to infer",
                fair_s,
                fair_s,
            ),
            Column(
                "log_upload",
                "1",
                -_MAX_LOG,
                _MAX_LOG,
                "ln of an upload's time in a fair share of the band over its geometric mean",
                0,
                0.15,
            ),
            Column(
                "log_task",
                "1",
                -_MAX_LOG,
                _MAX_LOG,
                "ln of L_j over the mean size; 0 without tasks",
                0,
                0.3,
            ),
            Column("staleness", "iteration", 0, 1e9, "age of the model that it holds", 0.5, 1),
            Column(
                "offloaded", "1", 0, 1, "share ι_j of its last task that was offloaded", 0.5, 0.4
            ),
            Column("cpu_share", "1", 0, 1, "its last CPU frequency over f_max", 0.8, 0.3),
            Column("samples", "sample", 0, 1e9, "its training samples", 60, 30),
        ),
        "system": ObservationTable(
            Column("users", "user", 1, 1e9, "number of users M", m, max(m, 1)),
            Column(
                "iterations_left",
                "iteration",
                0,
                1e9,
                "iterations left",
                config.iterations / 2,
                config.iterations / 4,
            ),
            Column(
                "until_tasks",
                "iteration",
                0,
                1e9,
                "iterations until tasks arrive; 0 in one in which they do",
                (config.period or config.iterations) / 2,
                max((config.period or config.iterations) / 3, 0.5),
            ),
            Column("model_mbit", "Mbit", 0, 1e9, "size D_m of the model", model_mbit, model_mbit),
            Column("last_wsel", "1", 0, MAX_COST, "WSEL of the last iteration", 2, 1),
            *score_columns("iteration", (0.7, 0.2), (1, 0.6), (0.1, 0.1)),
        ),
    }
