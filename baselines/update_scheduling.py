"""Rules of update scheduling: published indicators, textbook scheduling, risk, and rules of ours.

Source: Wen et al. 2019 §5; Sorour et al. 2020 on risk mitigation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edge_gym.baselines.base import OURS, Baseline, DrawingBaseline
from edge_gym.baselines.loss_cutoff import CutoffParameters
from edge_gym.baselines.update_scheduling_base import (
    DEVICES,
    LEAST,
    AnyNumberRule,
    NumberParameters,
    SchedulingRule,
    TopRule,
    reading,
    remaining_s,
)
from edge_gym.core.observation import Observation
from edge_gym.envs.redundancy import group_sums
from edge_gym.runtime.checks import check_integer, check_number
from edge_gym.typing import BoolArray, Float64Array


class Everyone(AnyNumberRule):
    """All devices in every round."""

    name = "everyone"
    source = "Wen et al. 2019 §5.1, without scheduling"

    def index(self, observed: Observation) -> Float64Array:
        """Return zeros."""
        return np.zeros(observed.device("participates").shape)

    def chosen(self, observed: Observation, index: Float64Array) -> BoolArray:
        """Choose all."""
        return np.ones(index.shape, np.bool_)


class RandomDevices(TopRule, DrawingBaseline):
    """M devices at random."""

    name = "random-devices"
    source = "textbook"

    def index(self, observed: Observation) -> Float64Array:
        """Draw a number for each device."""
        shape = observed.device("participates").shape
        draws = np.stack([rng.random(shape[-1]) for rng in self.generators])
        return np.asarray(draws.reshape(shape))


class RoundRobin(TopRule):
    """Devices in turn: those that were scheduled least often."""

    name = "round-robin"
    source = "textbook"
    needs = reading("uploads")

    def index(self, observed: Observation) -> Float64Array:
        """Return minus the rounds in which a device was scheduled."""
        return -observed.device("uploads")


class ProportionalFair(TopRule):
    """The largest R_k/T_k: spectral efficiency now over the average one served."""

    name = "proportional-fair"
    source = "Viswanath, Tse and Laroia 2002"
    needs = reading("efficiency", "throughput")

    def index(self, observed: Observation) -> Float64Array:
        """Return R_k/T_k; a device that was never served comes first."""
        return observed.device("efficiency") / np.maximum(observed.device("throughput"), 1e-3)


class BestChannel(TopRule):
    """The best channels."""

    name = "channel-aware"
    source = "Wen et al. 2019 §5, the rate-maximising benchmark"
    needs = reading("efficiency")

    def index(self, observed: Observation) -> Float64Array:
        """Return log₂(1 + γ)."""
        return observed.device("efficiency")


class GradientNorm(TopRule):
    """The largest gradients."""

    name = "gradient-norm"
    source = "Wen et al. 2019 §5.2.1, step 4"
    indicators: ClassVar[tuple[str, ...]] = ("gradient-norm",)
    needs = reading("indicator")

    def index(self, observed: Observation) -> Float64Array:
        """Return the norm."""
        return observed.device("indicator")


class ModelVariation(GradientNorm):
    """The largest variations of the model.

    These are the model variances of Wen et al. 2019 §2.2.2, a local model's divergence from the
    average of all, as far as it can be known before any is uploaded: the last average is the model
    from which all began.
    """

    name = "model-variation"
    source = "Wen et al. 2019 §2.2.2, §5.2.1, step 4"
    indicators = ("model-variation",)


class ModelAge(GradientNorm):
    """The largest model age ‖ŵ_k - w‖."""

    name = "model-age"
    source = "Wen et al. 2019 §5.2.2, step 3"
    indicators = ("model-age",)


@dataclass(frozen=True, kw_only=True)
class ExponentParameters(NumberParameters):
    """Parameters of rules that weigh importance against what an upload costs.

    Attributes:
        exponent: Of the rate or cost; 0 leaves it out.
    """

    exponent: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("exponent", self.exponent, 0)


class NormTimesRate(TopRule):
    """The largest indicator × rate^exponent, for the gradient norm or the model variation."""

    name = "norm-times-rate"
    source = "Wen et al. 2019 §5.2.1, channel-and-data diversity; the form is ours"
    indicators: ClassVar[tuple[str, ...]] = ("gradient-norm", "model-variation")
    needs = reading("indicator", "efficiency")
    Parameters = ExponentParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "devices": DEVICES,
        "exponent": (0.0, 0.25, 0.5, 1.0, 2.0),
    }
    few: ClassVar[Mapping[str, Sequence[Any]]] = {"exponent": (0.5,)}
    bounds: ClassVar[Mapping[str, Sequence[float]]] = {"exponent": (0.0,)}

    def index(self, observed: Observation) -> Float64Array:
        """Return the product."""
        rate = np.maximum(observed.device("efficiency"), LEAST)
        return np.asarray(observed.device("indicator") * rate**self.parameters.exponent)


class AgeTimesChannel(NormTimesRate):
    """The largest model age × rate^exponent."""

    name = "age-times-channel"
    source = "Wen et al. 2019 §5.2.2, MAI and CSI; the form is ours"
    indicators = ("model-age",)


@dataclass(frozen=True, kw_only=True)
class StragglerParameters(CutoffParameters):
    """Parameters of straggler exclusion.

    Attributes:
        max_compute: Longest computing time, in medians over the devices of this round.
        max_upload: Longest upload in the whole band, in medians likewise.
    """

    max_compute: float = 2.0
    max_upload: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("max_compute", self.max_compute, 0, open_low=True)
        check_number("max_upload", self.max_upload, 0, open_low=True)


_ANY = 1000.0
"""So many medians leave nobody out."""


class StragglerExclusion(SchedulingRule):
    """All but those that compute or upload too slowly; the fastest one if none is left.

    Where computing times have passed when it is decided, those that compute too slowly, as far as
    it is known beforehand, are left out of the next round. More bandwidth for slow devices is the
    environment's part, ``bandwidth="finish"``.
    """

    name = "straggler-exclusion"
    source = "Wen et al. 2019 §5.1, opportunity 1"
    needs = reading("nominal_s")
    Parameters = StragglerParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "max_compute": (1.0, 2.0, 4.0, 8.0, _ANY),
        "max_upload": (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, _ANY),
    }
    further_grids = (
        {
            "max_compute": (4.0, _ANY),
            "max_upload": (0.5, 1.0, 1.5),
            "max_upload_late": (1.0, 2.0, _ANY),
        },
    )
    with_cutoff: ClassVar[Mapping[str, Sequence[Any]]] = {
        "max_compute": (_ANY,),
        "max_upload": (1.0, _ANY),
    }
    bounds: ClassVar[Mapping[str, Sequence[float]]] = {
        "max_compute": (_ANY,),
        "max_upload": (_ANY,),
    }

    def index(self, observed: Observation) -> Float64Array:
        """Return minus the seconds that a device still takes."""
        return -remaining_s(observed, self.config)

    def chosen(self, observed: Observation, index: Float64Array) -> BoolArray:
        """Choose those below the thresholds on what is still to come."""
        chosen = _within(observed.device("upload_s"), self.parameters.max_upload)
        if not self.has_computed:
            chosen &= _within(observed.device("compute_s"), self.parameters.max_compute)
        return chosen

    def participants(self, observed: Observation, scheduled: BoolArray) -> BoolArray:
        """Leave out those that compute too slowly; the fastest one is left."""
        seconds = observed.device("nominal_s")
        fast = _within(seconds, self.parameters.max_compute)
        return np.asarray(fast | (seconds == seconds.min(axis=-1, keepdims=True)))


def _within(seconds: Float64Array, limit: float) -> BoolArray:
    """Return which devices take at most so many medians."""
    return np.asarray(seconds <= limit * np.median(seconds, axis=-1, keepdims=True))


@dataclass(frozen=True, kw_only=True)
class LazyParameters(CutoffParameters):
    """Parameters of lazy participation.

    Attributes:
        period: Rounds r from one participation of a device to its next.
    """

    period: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("period", self.period, 1)


class Lazy(AnyNumberRule):
    """Each device takes part in every r-th round, one after the other."""

    name = "lazy"
    source = "Wen et al. 2019 §5.1, lazy updating"
    needs = reading(system=["rounds"])
    Parameters = LazyParameters
    grid = {"period": (1, 2, 3, 4, 5, 7, 10, 15)}  # noqa: RUF012
    further_grids = ({"period": (2, 3, 4, 5), "period_late": (1, 2, 3), "late_share": (0.25, 0.5)},)
    with_cutoff: ClassVar[Mapping[str, Sequence[Any]]] = {"period": (1, 2, 3, 5)}
    bounds = {"period": (1,)}  # noqa: RUF012

    def index(self, observed: Observation) -> Float64Array:
        """Return minus the rounds until it is the device's turn."""
        k = np.arange(self.config.n_devices)
        return np.asarray(-((k - observed.system("rounds")) % self.parameters.period))

    def chosen(self, observed: Observation, index: Float64Array) -> BoolArray:
        """Choose those whose turn it is."""
        return np.asarray(index == 0)

    def participants(self, observed: Observation, scheduled: BoolArray) -> BoolArray:
        """Those whose turn it will be; where there are fewer devices than rounds, all may wait."""
        k = np.arange(self.config.n_devices)
        turn = (k - observed.system("rounds") - 1) % self.parameters.period == 0
        return np.asarray(turn | ~turn.any(axis=-1, keepdims=True))


@dataclass(frozen=True, kw_only=True)
class ReliableLinksParameters(NumberParameters):
    """Parameters of the exclusion of lossy links.

    Attributes:
        max_error: Largest share of losses, as estimated by (losses + 1)/(uploads + 2): 1/2 before
            the first upload.
    """

    max_error: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("max_error", self.max_error, 0, 1)


class ReliableLinks(TopRule):
    """Devices in turn, without those whose uploads are too often lost."""

    name = "reliable-links"
    source = (
        "Sorour et al. 2020, risk mitigation: elimination of learners with high packet error rates"
    )
    needs = reading("uploads", "arrivals")
    Parameters = ReliableLinksParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "devices": DEVICES,
        "max_error": (0.4, 0.5, 0.6, 0.7, 0.8, 1.0),
    }
    few: ClassVar[Mapping[str, Sequence[Any]]] = {"max_error": (0.7,)}
    bounds: ClassVar[Mapping[str, Sequence[float]]] = {"max_error": (1.0,)}

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Where updates may be lost."""
        return super().applies_to(config) and bool(config.packet_error > 0 or config.drop_out > 0)

    def index(self, observed: Observation) -> Float64Array:
        """Return minus the rounds in which a device was scheduled; lossy ones come last."""
        uploads = observed.device("uploads")
        losses = uploads * (1 - observed.device("arrivals"))
        lossy = (losses + 1) / (uploads + 2) > self.parameters.max_error
        return np.asarray(-uploads - 1e6 * lossy)


class CodedRedundancy(TopRule):
    """Whole groups of devices that hold the same samples, in turn.

    Of a group's updates one that arrives is enough, so losses hardly count; ``devices`` is how
    many are scheduled, at least one group.
    """

    name = "coded-redundancy"
    source = "Sorour et al. 2020, risk mitigation: redundancy; a repetition code"
    needs = reading("uploads")

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Where several devices a round are scheduled, which share samples."""
        return super().applies_to(config) and config.actions == "scores" and config.redundancy > 1

    def index(self, observed: Observation) -> Float64Array:
        """Return minus the rounds in which a device's group was scheduled."""
        return -np.asarray(group_sums(observed.device("uploads"), self.config.redundancy))

    def chosen(self, observed: Observation, index: Float64Array) -> BoolArray:
        """Choose groups as long as their devices are no more than M, at least one."""
        r = self.config.redundancy
        groups = max(1, self.parameters.devices // r)
        first = np.argsort(-index, axis=-1, kind="stable")[..., : groups * r]
        chosen = np.zeros(index.shape, np.bool_)
        np.put_along_axis(chosen, first, True, axis=-1)
        return chosen


_COST = ("compute_j", "upload_j")


class _PerCost(TopRule):
    """A rule that divides by what a device still costs, in the unit of the budget."""

    Parameters = ExponentParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "devices": DEVICES,
        "exponent": (0.0, 0.25, 0.5, 1.0, 1.5, 2.5),
    }
    few: ClassVar[Mapping[str, Sequence[Any]]] = {"exponent": (1.0,)}
    bounds: ClassVar[Mapping[str, Sequence[float]]] = {"exponent": (0.0,)}

    def cost(self, observed: Observation) -> Float64Array:
        """Return cost^exponent: what a device still costs, s or J as the budget has it."""
        if self.config.mode == "importance":
            cost = remaining_s(observed, self.config)
        else:
            cost = observed.device("compute_j") + observed.device("upload_j")
        return np.asarray(np.maximum(cost, LEAST) ** self.parameters.exponent)


class ImportancePerCost(_PerCost):
    """The largest indicator over cost^exponent.

    Where devices have computed when it is decided, only the upload is to be paid: then this ranks
    as ``norm-times-rate`` with the same exponent does.
    """

    name = "importance-per-cost"
    source = OURS
    needs = reading("indicator", *_COST)
    few: ClassVar[Mapping[str, Sequence[Any]]] = {"exponent": (0.5,)}

    def index(self, observed: Observation) -> Float64Array:
        """Return the ratio."""
        return np.asarray(observed.device("indicator") / self.cost(observed))


class StalenessPerCost(_PerCost):
    """The most rounds since the last arrival, over cost^exponent."""

    name = "staleness-per-cost"
    source = OURS
    needs = reading("staleness", *_COST)

    def index(self, observed: Observation) -> Float64Array:
        """Return the ratio."""
        return np.asarray((1 + observed.device("staleness")) / self.cost(observed))


@dataclass(frozen=True, kw_only=True)
class WeightParameters(ExponentParameters):
    """Parameters of the rule that weighs staleness, importance and cost.

    Attributes:
        exponent: Of the cost; 0 leaves it out.
        importance: Exponent of the indicator; 0 leaves it out.
    """

    exponent: float = 1.5
    importance: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("importance", self.importance, 0)


class StalenessImportancePerCost(_PerCost):
    """The largest log(1 + staleness) + importance·log(indicator) - exponent·log(cost)."""

    name = "staleness-importance-per-cost"
    source = OURS
    needs = reading("staleness", "indicator", *_COST)
    Parameters = WeightParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "devices": (1, 2, 4),
        "exponent": (1.0, 1.5, 2.0),
        "importance": (0.5, 1.0, 2.0),
    }
    few: ClassVar[Mapping[str, Sequence[Any]]] = {"exponent": (1.5,), "importance": (1.0,)}
    bounds: ClassVar[Mapping[str, Sequence[float]]] = {"exponent": (0.0,), "importance": (0.0,)}

    def index(self, observed: Observation) -> Float64Array:
        """Return the sum."""
        indicator = np.log(np.maximum(observed.device("indicator"), LEAST))
        gain = np.log1p(observed.device("staleness")) + self.parameters.importance * indicator
        return np.asarray(gain - np.log(self.cost(observed)))


RULES: tuple[type[Baseline], ...] = (
    Everyone,
    RandomDevices,
    RoundRobin,
    ProportionalFair,
    BestChannel,
    GradientNorm,
    ModelVariation,
    NormTimesRate,
    ModelAge,
    AgeTimesChannel,
    StragglerExclusion,
    Lazy,
    ReliableLinks,
    CodedRedundancy,
    ImportancePerCost,
    StalenessPerCost,
    StalenessImportancePerCost,
)
"""The rules of update scheduling."""
