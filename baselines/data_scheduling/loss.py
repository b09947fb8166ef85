"""Rules on the loss of a sample, which devices that know the labels can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edge_gym.baselines.base import OURS
from edge_gym.baselines.data_scheduling.rule import SchedulingRule, Seen
from edge_gym.runtime.checks import check_number
from edge_gym.typing import Float64Array

LEAST_NORM = 1e-9


class LossRule(SchedulingRule):
    """A rule on the loss, which devices that know the labels can tell.

    Where no sample has a loss, the best channel is scheduled, and there the most uncertain sample.

    Source: Wen et al. 2019, Remark 1 below eq. (19).
    """

    needs: ClassVar[Mapping[str, Sequence[str]]] = {
        "devices": ("snr_db",),
        "samples": ("present", "margin", "zero_one_loss"),
    }

    def preference(self, seen: Seen, index: Float64Array) -> Float64Array:
        """Prefer the most uncertain among samples without a loss."""
        return np.where(index > 0, 0, seen.uncertainty)

    def loss(self, seen: Seen) -> Float64Array:
        """Return the hinge loss, for networks the cross-entropy, ``(..., K, N)``."""
        assert seen.loss is not None
        return seen.loss


class ZeroOneLoss(LossRule):
    """The best channel among samples that are classified wrongly, I = ℓ₀₁·γ."""

    name = "zero-one-loss"
    source = "Wen et al. 2019, eq. (7)"

    def index(self, seen: Seen) -> Float64Array:
        """Return I."""
        return seen.sample("zero_one_loss") * seen.sample_snr


class HingeLoss(LossRule):
    """The largest hinge loss times SNR, I = ℓ·γ; networks have the cross-entropy in its place."""

    name = "hinge-loss"
    source = "Wen et al. 2019, eq. (8)"

    def index(self, seen: Seen) -> Float64Array:
        """Return I."""
        return self.loss(seen) * seen.sample_snr


class HingeLossSqrt(LossRule):
    """The largest hinge loss times root of SNR, I = ℓ·√γ; networks have the cross-entropy."""

    name = "hinge-loss-sqrt"
    source = "Wen et al. 2019, eq. (20)"

    def index(self, seen: Seen) -> Float64Array:
        """Return I."""
        return self.loss(seen) * np.sqrt(seen.sample_snr)


class SupportVectorProbability(SchedulingRule):
    """The largest probability Φ((1 - c·s)/σ) that what is received is a support vector.

    σ² = E‖x‖²·‖w‖²/γ is the noise of the received score, E‖x‖² = 1. Wherever a sample has a loss,
    the choice is that of ``hinge-loss-sqrt``, for ‖w‖ is the same for all; where none has, this
    takes the sample that noise would most likely make one, be its channel good or bad. With more
    than two classes, c·s is that of the nearest machine and ‖w‖ the machines' mean.
    """

    name = "support-vector-probability"
    source = "Wen et al. 2019, eqs. (9), (18), (19)"
    needs = {  # noqa: RUF012
        "devices": ("snr_db",),
        "samples": ("present", "margin"),
        "system": ("weight_norm",),
    }

    def index(self, seen: Seen) -> Float64Array:
        """Return (1 - c·s)/σ, which ranks as Φ of it and does not saturate."""
        deviation = np.maximum(seen.system("weight_norm"), LEAST_NORM) / np.sqrt(seen.sample_snr)
        return (1 - seen.sample("margin")) / deviation


@dataclass(frozen=True, kw_only=True)
class LossPowerParameters:
    """Parameters of the loss rule with a free exponent.

    Attributes:
        snr_exponent: b, how much the channel counts against the loss.
    """

    snr_exponent: float = 1.5

    def __post_init__(self) -> None:
        check_number("snr_exponent", self.snr_exponent, 0, 10)


class LossPower(LossRule):
    """What lies between (20), (8) and beyond: I = ℓ·γᵇ; networks have the cross-entropy."""

    name = "loss-power"
    source = OURS
    Parameters = LossPowerParameters
    grid = {  # noqa: RUF012
        "snr_exponent": (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0)
    }
    further_grids = (
        {
            "snr_exponent": (0.5, 1.0, 1.5, 2.0, 3.0),
            "snr_exponent_late": (0.0, 0.5, 1.0, 2.0, 4.0),
            "late_share": (0.25, 0.5),
        },
    )
    bounds = {"snr_exponent": (0.0,)}  # noqa: RUF012

    def index(self, seen: Seen) -> Float64Array:
        """Return I."""
        return self.loss(seen) * np.power(seen.sample_snr, float(self.parameters.snr_exponent))
