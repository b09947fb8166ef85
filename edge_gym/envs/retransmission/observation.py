"""What the server observes of the sample that it has received, and what is asked of its SNR."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from edge_gym.core.observation import Column, ObservationTable
from edge_gym.envs.centralized import SNR_DB_BOUNDS, SYMBOL_SNR_DB_BOUNDS
from edge_gym.envs.retransmission.config import RetransmissionConfig
from edge_gym.learning.base import learner_type


def required_snr(
    uncertainty: NDArray[Any], alignment_probability: float, kind: str = "distance"
) -> NDArray[np.float64]:
    """Return the SNR that the importance-aware protocols ask for, before the cap θ_SNR.

    θ₀·U_d(x̂) with U_d = 1/d² for distances d and U = H for entropies H. What is received is on
    the right side of a boundary at distance d with the probability p_c if its SNR is
    E‖x‖²·[Φ⁻¹(p_c)]²/d²; with features scaled to E‖x‖² = 1, θ₀ = [Φ⁻¹(p_c)]².

    Args:
        uncertainty: Distances or entropies, any shape.
        alignment_probability: p_c in (0.5, 1).
        kind: ``"distance"`` or ``"entropy"``.

    Source: Wen et al. 2019, Protocols 1 and 2, eq. (1) and (2).
    """
    theta_0 = ndtri(alignment_probability) ** 2
    if kind == "entropy":
        return np.asarray(theta_0 * uncertainty, np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray(theta_0 / np.square(uncertainty, dtype=np.float64))


def observation_table(config: RetransmissionConfig) -> ObservationTable:
    """Return the columns of the observation under ``config``."""
    low_db, high_db = SNR_DB_BOUNDS
    if learner_type(config.learner).uncertainty == "distance":
        uncertainty = Column(
            "distance", "1", 0, 20, "distance of x̂ to the nearest boundary", 0.2, 0.2
        )
    else:
        uncertainty = Column("entropy", "nat", 0, 10, "entropy of the predicted classes", 0.5, 0.5)
    return ObservationTable(
        Column(
            "effective_snr_db",
            "dB",
            low_db,
            high_db,
            "SNR γ after combining: E‖x‖² over the noise of one dimension",
            12,
            6,
        ),
        uncertainty,
        Column("margin", "1", -30, 30, "signed margin y·s(x̂) against the label", 0.5, 1),
        Column("required_snr_db", "dB", low_db, high_db, "SNR that Protocol 1 asks for", 16, 10),
        Column("transmissions", "transmission", 1, 1e6, "receptions combined so far", 2, 2),
        Column(
            "budget_left",
            "channel use",
            0,
            1e6,
            "channel uses left",
            config.budget / 2,
            config.budget / 4,
        ),
        Column(
            "samples", "sample", 0, 1e6, "samples acquired", config.budget / 4, config.budget / 4
        ),
        Column(
            "informative",
            "sample",
            0,
            1e6,
            "samples acquired with a margin below 1 as received, with their noise",
            config.budget / 8,
            config.budget / 8,
        ),
        Column(
            "informative_snr_db",
            "dB",
            low_db,
            high_db,
            "SNR of these: the inverse of their mean noise",
            12,
            4,
        ),
        Column("unlearned", "sample", 0, 1e6, "samples accepted since the last training", 5, 5),
        Column(
            "class_balance", "1", 0, 1, "entropy of the acquired labels over its maximum", 1, 0.1
        ),
        Column(
            "label_share", "1", 0, 100, "share of this label among the acquired, times C", 1, 0.3
        ),
        Column("accuracy", "1", 0, 1, "validation accuracy", 0.85, 0.1),
        Column(
            "accuracy_slope", "1/training", -1, 1, "smoothed gain of accuracy a training", 0, 0.01
        ),
        Column(
            "effective_symbol_snr_db",
            "dB",
            *SYMBOL_SNR_DB_BOUNDS,
            "effective SNR of one symbol, 10·log₁₀ d below that of the sample",
            -10,
            6,
        ),
    )
