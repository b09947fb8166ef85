"""RRM's retransmission protocols, and one rule of ours that uses the label.

Source: RRM §3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines.base import OURS, Baseline
from edge_gym.envs.centralized import SNR_DB_BOUNDS
from edge_gym.envs.checks import check_number
from edge_gym.envs.retransmission import (
    ACCEPT,
    RETRANSMIT,
    RetransmissionConfig,
    check_alignment_probability,
    required_snr,
)
from edge_gym.wireless import linear_to_db

_MAX_SNR_GRID = (2.0, 5.0, 8.0, 10.0, 11.5, 13.0, 14.5, 16.0, 17.5, 19.0, 22.0)


@dataclass(frozen=True, kw_only=True)
class ThresholdParameters:
    """Parameters of the rules with one threshold.

    Attributes:
        max_snr_db: θ_SNR, the effective SNR in dB beyond which nothing is asked for again.
    """

    max_snr_db: float = 13.0

    def __post_init__(self) -> None:
        check_number("max_snr_db", self.max_snr_db, *SNR_DB_BOUNDS)


@dataclass(frozen=True, kw_only=True)
class ProtocolParameters(ThresholdParameters):
    """Parameters of Protocols 1 and 2.

    Attributes:
        max_snr_db: θ_SNR, the cap of the required SNR, dB.
        alignment_probability: p_c, which θ₀ = [Φ⁻¹(p_c)]² encodes.
    """

    max_snr_db: float = 19.0
    alignment_probability: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_alignment_probability(self.alignment_probability)


class _RetransmissionRule(Baseline):
    """A rule for retransmission with these learners."""

    learners: tuple[str, ...] = ("svm", "svm-ovo", "mlp", "cnn")

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Retransmission with the learner that the rule is made for."""
        return isinstance(config, RetransmissionConfig) and config.learner in cls.learners

    def read(self, observations: NDArray[Any], name: str) -> NDArray[Any]:
        """Return a column of the observation by name."""
        return self.tables[""].read(observations, name)


class NoRetransmission(_RetransmissionRule):
    """Accept every sample as it first arrives."""

    name = "no-retransmission"
    source = "RRM §3.2, first baseline"

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Accept."""
        return np.full(observations.shape[:-1], ACCEPT)


class ChannelAware(_RetransmissionRule):
    """Conventional ARQ: retransmit until the effective SNR exceeds θ_SNR."""

    name = "channel-aware"
    source = "RRM §3.2, second baseline"
    Parameters = ThresholdParameters
    grid = {"max_snr_db": _MAX_SNR_GRID}  # noqa: RUF012

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Retransmit while γ ≤ θ_SNR."""
        snr_db = self.read(observations, "effective_snr_db")
        return np.where(snr_db <= self.parameters.max_snr_db, RETRANSMIT, ACCEPT)


class ImportanceAware(_RetransmissionRule):
    """Protocol 1: retransmit until γ > min(θ₀·U_d(x̂), θ_SNR), with U_d(x̂) = 1/d²."""

    name = "importance-aware"
    source = "RRM Protocol 1, eq. (1)"
    learners: tuple[str, ...] = ("svm",)
    uncertainty = "distance"
    Parameters = ProtocolParameters
    grid = {  # noqa: RUF012
        "max_snr_db": (5.0, 7.5, 10.0, 13.0, 14.5, 16.0, 17.5, 19.0, 22.0),
        "alignment_probability": (0.8, 0.9, 0.97),
    }

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Retransmit while γ is at most what the sample's uncertainty asks for."""
        required_db = linear_to_db(
            required_snr(
                self.read(observations, self.uncertainty),
                self.parameters.alignment_probability,
                self.uncertainty,
            )
        )
        threshold_db = np.minimum(required_db, self.parameters.max_snr_db)
        snr_db = self.read(observations, "effective_snr_db")
        return np.where(snr_db <= threshold_db, RETRANSMIT, ACCEPT)


class ImportanceAwareMulticlass(ImportanceAware):
    """Protocol 2: the same with the smallest distance to a boundary of the predicted class.

    γ > min(θ₀/|s_ℓ|², θ_SNR) must hold for all ℓ with m_ĉℓ ≠ 0, so the smallest distance rules.
    """

    name = "importance-aware-multiclass"
    source = "RRM Protocol 2, eq. (2)"
    learners = ("svm-ovo",)


class ImportanceAwareEntropy(ImportanceAware):
    """Protocol 1 for networks, with the entropy of the predicted classes as uncertainty."""

    name = "importance-aware-entropy"
    source = "RRM §3.2, extension to networks"
    learners = ("mlp", "cnn")
    uncertainty = "entropy"


class SupportVectorAware(_RetransmissionRule):
    """Retransmit while the received sample's hinge loss is positive and γ ≤ θ_SNR.

    The server receives the label without noise, so it knows the hinge loss of what it received; a
    sample without loss would be no support vector and does no harm however noisy it is.
    """

    name = "support-vector-aware"
    source = OURS
    learners = ("svm", "svm-ovo")
    Parameters = ThresholdParameters
    grid = {"max_snr_db": _MAX_SNR_GRID}  # noqa: RUF012

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Retransmit while y·s(x̂) < 1 and γ ≤ θ_SNR."""
        snr_db = self.read(observations, "effective_snr_db")
        loss = self.read(observations, "margin") < 1
        return np.where(loss & (snr_db <= self.parameters.max_snr_db), RETRANSMIT, ACCEPT)


RULES: tuple[type[Baseline], ...] = (
    NoRetransmission,
    ChannelAware,
    ImportanceAware,
    ImportanceAwareMulticlass,
    ImportanceAwareEntropy,
    SupportVectorAware,
)
