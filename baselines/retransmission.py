"""Published retransmission protocols, and one rule of this project that uses the label.

Source: Wen et al. 2019, §3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines.base import OURS, Baseline
from edge_gym.envs.centralized import SNR_DB_BOUNDS
from edge_gym.envs.retransmission.actions import AcceptOrRetransmit
from edge_gym.envs.retransmission.config import check_alignment_probability
from edge_gym.envs.retransmission.observation import required_snr
from edge_gym.learning.base import learner_type
from edge_gym.physics.wireless import linear_to_db
from edge_gym.runtime.checks import check_number

_ABOVE_ANY_CAP = 1e9
_MAX_SNR_GRID = (-8.0, -4.0, -1.0, 2.0, 5.0, 8.0, 10.0, 11.5, 13.0, 14.5, 16.0, 17.5, 19.0, 22.0)
_MAX_SNR_SCHEDULES = {
    "max_snr_db": (2.0, 8.0, 11.5, 13.0, 16.0),
    "max_snr_db_late": (-4.0, 2.0, 8.0, 13.0, 19.0),
    "late_share": (0.25, 0.5),
}


@dataclass(frozen=True, kw_only=True)
class ThresholdParameters:
    """Parameters of the rules with one threshold.

    Attributes:
        max_snr_db: θ_SNR, the effective SNR in dB beyond which nothing is asked for again; as the
            column ``effective_snr_db``, of a whole sample over the noise of one dimension.
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


@dataclass(frozen=True, kw_only=True)
class EntropyParameters(ThresholdParameters):
    """Parameters of Protocol 1 for networks.

    Attributes:
        max_snr_db: θ_SNR, the cap of the required SNR, dB.
        snr_per_nat: θ₀, the SNR, a ratio, that each nat of entropy asks for. Here it encodes no
            alignment probability; the default is Protocol 1's [Φ⁻¹(0.9)]².
    """

    max_snr_db: float = 19.0
    snr_per_nat: float = 1.6424

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("snr_per_nat", self.snr_per_nat, 0, 1e6, open_low=True)


class _RetransmissionRule(Baseline):
    """A rule that accepts what was received, or asks for it again."""

    needs: ClassVar[Mapping[str, Sequence[str]]] = {"": ("effective_snr_db",)}
    needs_codec = AcceptOrRetransmit
    codec = AcceptOrRetransmit()

    def read(self, observations: NDArray[Any], name: str) -> NDArray[Any]:
        """Return a column of the observation by name."""
        return self.tables[""].read(observations, name)


class NoRetransmission(_RetransmissionRule):
    """Accept every sample as it first arrives."""

    name = "no-retransmission"
    source = "Wen et al. 2019, §3.2, first baseline"

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Accept."""
        return self.codec.encode(np.ones(observations.shape[:-1], np.bool_))


class ChannelAware(_RetransmissionRule):
    """Conventional ARQ: retransmit until the effective SNR exceeds θ_SNR."""

    name = "channel-aware"
    source = "Wen et al. 2019, §3.2, second baseline"
    Parameters = ThresholdParameters
    grid = {"max_snr_db": _MAX_SNR_GRID}  # noqa: RUF012
    further_grids = (_MAX_SNR_SCHEDULES,)

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Retransmit while γ ≤ θ_SNR."""
        snr_db = self.read(observations, "effective_snr_db")
        return self.codec.encode(snr_db > self.parameters.max_snr_db)


class ImportanceAware(_RetransmissionRule):
    """Protocol 1: retransmit until γ > min(θ₀·U_d(x̂), θ_SNR), with U_d(x̂) = 1/d²."""

    name = "importance-aware"
    source = "Wen et al. 2019, Protocol 1, eq. (1)"
    needs = {"": ("effective_snr_db", "distance")}  # noqa: RUF012
    multiclass: ClassVar[bool] = False
    """Whether it is made for learners that tell more than two classes apart."""
    Parameters: ClassVar[type[Any]] = ProtocolParameters
    grid = {  # noqa: RUF012
        "max_snr_db": (-1.0, 2.0, 5.0, 7.5, 10.0, 13.0, 14.5, 16.0, 17.5, 19.0, 22.0),
        "alignment_probability": (0.7, 0.8, 0.9, 0.97),
    }
    further_grids: ClassVar[Sequence[Mapping[str, Sequence[Any]]]] = (
        {
            "max_snr_db": (7.5, 13.0, 16.0, 19.0),
            "max_snr_db_late": (2.0, 7.5, 13.0, 19.0),
            "alignment_probability": (0.9,),
        },
    )

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """A learner with as many classes as the protocol is made for."""
        return (learner_type(config.learner).max_classes != 2) == cls.multiclass

    def required_snr(self, observations: NDArray[Any]) -> NDArray[np.float64]:
        """Return the SNR that the sample's uncertainty asks for, before the cap."""
        distance = self.read(observations, "distance")
        return required_snr(distance, self.parameters.alignment_probability)

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Retransmit while γ is at most what the sample's uncertainty asks for."""
        # On the boundary an infinite SNR is asked for, of which the cap is left.
        required_db = linear_to_db(np.minimum(self.required_snr(observations), _ABOVE_ANY_CAP))
        threshold_db = np.minimum(required_db, self.parameters.max_snr_db)
        snr_db = self.read(observations, "effective_snr_db")
        return self.codec.encode(snr_db > threshold_db)


class ImportanceAwareMulticlass(ImportanceAware):
    """Protocol 2: the same with the smallest distance to a boundary of the predicted class.

    γ > min(θ₀/|s_ℓ|², θ_SNR) must hold for all ℓ with m_ĉℓ ≠ 0, so the smallest distance rules.
    """

    name = "importance-aware-multiclass"
    source = "Wen et al. 2019, Protocol 2, eq. (2)"
    multiclass = True


class ImportanceAwareEntropy(ImportanceAware):
    """Protocol 1 for networks: until γ > min(θ₀·H(x̂), θ_SNR), H the entropy of the predictions.

    With ten classes H is at most 2.3 nats: at a small θ₀ the cap never rules, at a large one nearly
    always, and this is ``channel-aware``. The grid spans both.
    """

    name = "importance-aware-entropy"
    source = "Wen et al. 2019, §3.2, extension to networks"
    needs = {"": ("effective_snr_db", "entropy")}  # noqa: RUF012
    Parameters = EntropyParameters
    grid = {  # noqa: RUF012
        "max_snr_db": (7.0, 10.0, 13.0, 16.0),
        "snr_per_nat": (1.0, 3.0, 6.0, 12.0, 25.0, 50.0, 100.0, 300.0, 1000.0, 1e4),
    }
    further_grids = (
        {
            "max_snr_db": (10.0, 13.0, 16.0),
            "max_snr_db_late": (7.0, 10.0, 13.0, 16.0),
            "snr_per_nat": (25.0, 1000.0),
        },
    )
    # From here on the cap alone rules.
    bounds = {"snr_per_nat": (1e4,)}  # noqa: RUF012

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Any number of classes."""
        return True

    def required_snr(self, observations: NDArray[Any]) -> NDArray[np.float64]:
        """Return θ₀·H(x̂)."""
        entropy = np.asarray(self.read(observations, "entropy"), np.float64)
        return entropy * float(self.parameters.snr_per_nat)


class SupportVectorAware(_RetransmissionRule):
    """Retransmit while the received sample's hinge loss is positive and γ ≤ θ_SNR.

    The server receives the label without noise, so it knows the hinge loss of what it received; a
    sample without loss would be no support vector and does no harm however noisy it is.
    """

    name = "support-vector-aware"
    source = OURS
    needs = {"": ("effective_snr_db", "margin")}  # noqa: RUF012
    Parameters = ThresholdParameters
    grid = {"max_snr_db": _MAX_SNR_GRID}  # noqa: RUF012
    further_grids = (_MAX_SNR_SCHEDULES,)

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """A learner with the hinge loss."""
        return learner_type(config.learner).loss == "hinge_loss"

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Retransmit while y·s(x̂) < 1 and γ ≤ θ_SNR."""
        snr_db = self.read(observations, "effective_snr_db")
        loss = self.read(observations, "margin") < 1
        return self.codec.encode(~loss | (snr_db > self.parameters.max_snr_db))


RULES: tuple[type[Baseline], ...] = (
    NoRetransmission,
    ChannelAware,
    ImportanceAware,
    ImportanceAwareMulticlass,
    ImportanceAwareEntropy,
    SupportVectorAware,
)
