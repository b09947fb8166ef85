"""What the server observes of devices, of the samples that they hold, and of the classifier."""

from __future__ import annotations

from edge_gym.core.observation import Column, ObservationTable
from edge_gym.envs.centralized import SNR_DB_BOUNDS, SYMBOL_SNR_DB_BOUNDS
from edge_gym.envs.data_scheduling.config import DataSchedulingConfig
from edge_gym.envs.data_scheduling.embeddings import EMBEDDING_SIZE
from edge_gym.learning.base import learner_type


def observation_tables(config: DataSchedulingConfig) -> dict[str, ObservationTable]:
    """Return the columns of each part of the observation under ``config``."""
    low_db, high_db = SNR_DB_BOUNDS
    learner = learner_type(config.learner)
    knows_labels = config.labels == "device"
    blocks, budget = config.blocks, config.budget
    devices = [
        Column(
            "snr_db",
            "dB",
            low_db,
            high_db,
            "SNR γ of its channel in this block: E‖x‖² over the noise of one dimension",
            12,
            6,
        ),
        Column("mean_snr_db", "dB", low_db, high_db, "its mean over fading", 15, 10),
        Column(
            "staleness",
            "block",
            0,
            1e6,
            "blocks since its last upload, or since the start",
            blocks / 10,
            blocks / 10,
        ),
        Column("uploads", "sample", 0, 1e6, "samples that it has uploaded", blocks / 10, 5),
    ]
    if config.in_turns:
        devices.append(Column("chosen", "1", 0, 1, "1 if it was chosen in this block"))
    if config.uploads_per_block > 1:
        devices += [
            Column(
                f"embedding_{i}",
                "1",
                -30,
                30,
                f"principal component {i} of the sample that it would upload",
                0,
                0.3,
            )
            for i in range(EMBEDDING_SIZE)
        ]
    devices.append(
        Column(
            "symbol_snr_db",
            "dB",
            *SYMBOL_SNR_DB_BOUNDS,
            "SNR of one symbol in this block, 10·log₁₀ d below that of the sample",
            -10,
            6,
        )
    )
    samples = [Column("present", "1", 0, 1, "1 if there is a sample, all else is 0 without")]
    if learner.uncertainty == "distance":
        samples.append(
            Column("distance", "1", 0, 20, "distance to the nearest decision boundary", 0.3, 0.3)
        )
    else:
        samples.append(
            Column("entropy", "nat", 0, 10, "entropy of the predicted classes", 0.7, 0.7)
        )
    if knows_labels:
        samples.append(Column("margin", "1", -30, 30, "signed margin c·s against the label", 1, 1))
        if learner.loss == "hinge_loss":
            samples.append(Column("hinge_loss", "1", 0, 31, "hinge loss max(0, 1 - c·s)", 0.4, 0.5))
        else:
            samples.append(
                Column("cross_entropy", "nat", 0, 31, "loss -ln p of the label", 0.7, 0.7)
            )
        samples += [
            Column("zero_one_loss", "1", 0, 1, "1 if it is classified wrongly", 0.15, 0.35),
            Column(
                "label_share", "1", 0, 100, "share of its label among the acquired, times C", 1, 0.3
            ),
            Column("label_recall", "1", 0, 1, "validation accuracy on its class", 0.8, 0.15),
        ]
    samples.append(
        Column(
            "novelty",
            "1",
            0,
            1e3,
            "zᵀA⁻¹z of its principal components z, A summing what the channel left of all that the "
            "server has",
            0.2,
            0.2,
        )
    )
    if config.content:
        times = " times c, +1 for the first class" if config.signed_content else ""
        samples += [
            Column(f"content_{i}", "1", -30, 30, f"principal component {i}{times}", 0, 0.3)
            for i in range(EMBEDDING_SIZE)
        ]
    system = [
        Column("budget_left", "sample", 0, 1e6, "uploads left", budget / 2, budget / 4),
        Column("samples", "sample", 0, 1e6, "samples acquired", budget / 2, budget / 4),
        Column("unlearned", "sample", 0, 1e6, "samples acquired since the last training", 0, 10),
        Column(
            "class_balance", "1", 0, 1, "entropy of the acquired labels over its maximum", 0.95, 0.1
        ),
        Column("accuracy", "1", 0, 1, "validation accuracy", 0.8, 0.1),
        Column(
            "accuracy_slope", "1/training", -1, 1, "smoothed gain of accuracy a training", 0, 0.01
        ),
    ]
    if learner.has_weight_norm:
        system.append(
            Column(
                "weight_norm", "1", 0, 1e4, "‖w‖ of the classifier, mean over its machines", 3, 2
            )
        )
    return {
        "devices": ObservationTable(*devices),
        "samples": ObservationTable(*samples),
        "system": ObservationTable(*system),
    }
