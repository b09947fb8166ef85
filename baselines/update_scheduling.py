"""Rules of update scheduling: published indicators, textbook scheduling, risk, and rules of ours.

A rule gives every device that takes part in the round an *index* and says who is *chosen*. Where
the environment takes all scores above a threshold, the chosen ones are scheduled; where it fixes
their number, they come first, each group in the order of its index. Where the action also says who
takes part in the next round, all devices do unless the rule says otherwise.

Where all have computed before the server decides (``indicators="reported"``), that time has passed:
a device then costs no more than its upload, and one that computes slowly can only be left out of
the next round.

Source: Wen et al. 2019 §5; Sorour et al. 2020 on risk mitigation.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines.base import OURS, Baseline, DrawingBaseline
from edge_gym.core.observation import Observation
from edge_gym.envs.update_scheduling.actions import (
    SHARE_EXPONENT,
    Decision,
    action_codec,
    select_devices,
)
from edge_gym.envs.update_scheduling.config import UpdateSchedulingConfig
from edge_gym.envs.update_scheduling.observation import MEMORY_ROUNDS
from edge_gym.physics import wireless
from edge_gym.runtime.checks import check_integer, check_number
from edge_gym.typing import BoolArray

Float64Array = NDArray[np.float64]

_DEVICES = (1, 2, 3, 4, 6, 8)
_PARTICIPANTS = (4, 6)
_LEAST = 1e-12


class _NextRound(Observation):
    """What is expected to be observed in the next round, before devices have computed in it.

    Args:
        seen: What is observed now.
        scheduled: Who is scheduled now, ``(..., K)``.
    """

    def __init__(self, seen: Observation, scheduled: BoolArray) -> None:
        self._now = seen
        efficiency = seen.device("efficiency")
        mean = np.maximum(seen.device("mean_efficiency"), _LEAST)
        throughput = seen.device("throughput")
        served = np.where(scheduled, efficiency, 0)
        self._devices = {
            "efficiency": mean,
            "upload_s": seen.device("upload_s") * efficiency / mean,
            "compute_s": seen.device("nominal_s"),
            "throughput": throughput + (served - throughput) / MEMORY_ROUNDS,
            "staleness": np.where(scheduled, 0, seen.device("staleness") + 1),
            "uploads": seen.device("uploads") + scheduled,
        }

    def device(self, name: str) -> Float64Array:
        """Return a column of the devices, ``(..., K)``."""
        return self._devices[name] if name in self._devices else self._now.device(name)

    def system(self, name: str) -> Float64Array:
        """Return a column of the system, ``(..., 1)``."""
        return self._now.system(name) + (name == "rounds")


@dataclass(frozen=True, kw_only=True)
class NumberParameters:
    """Parameters of rules that schedule a fixed number of devices.

    Attributes:
        devices: M, how many are scheduled in a round, at most all; without effect where the
            environment fixes the number.
        participants: How many take part in the next round where the action says who does: those of
            the largest index as it is expected to be then; None for all.
    """

    devices: int = 3
    participants: int | None = None

    def __post_init__(self) -> None:
        check_integer("devices", self.devices, 1)
        if self.participants is not None:
            check_integer("participants", self.participants, 1)


class _Rule(Baseline):
    """A rule for update scheduling in these modes."""

    modes: ClassVar[tuple[str, ...]] = ("importance", "lazy")
    updates: ClassVar[tuple[str, ...]] = ("gradient", "model")
    config: UpdateSchedulingConfig

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Update scheduling with what the rule is made for."""
        return (
            isinstance(config, UpdateSchedulingConfig)
            and config.mode in cls.modes
            and config.update in cls.updates
        )

    @abstractmethod
    def index(self, seen: Observation) -> Float64Array:
        """Return the index of each device, ``(..., K)``."""

    @abstractmethod
    def chosen(self, seen: Observation, index: Float64Array) -> BoolArray:
        """Return who shall be scheduled, ``(..., K)``."""

    def participants(self, seen: Observation, scheduled: BoolArray) -> BoolArray:
        """Return who shall take part in the next round, ``(..., K)``: by default all."""
        return np.ones_like(scheduled)

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Schedule the chosen ones, or the first of them."""
        seen = Observation(self.tables, observations)
        participates = seen.device("participates") > 0
        index = np.where(participates, self.index(seen), -np.inf)
        chosen = self.chosen(seen, index) & participates
        order = np.lexsort((-index, ~chosen), axis=-1)
        if self.config.actions == "device":
            return np.asarray(order[..., 0])
        if self.config.selection == "threshold":
            np.put_along_axis(chosen, order[..., :1], True, axis=-1)
            scores = np.where(chosen, 1, -1).astype(np.float32)
        else:
            scores = np.empty(index.shape, np.float32)
            ranks = np.linspace(1, -1, self.config.n_devices, dtype=np.float32)
            np.put_along_axis(scores, order, np.broadcast_to(ranks, scores.shape), axis=-1)
        scheduled = select_devices(scores, participates, self.config)
        next_ones = self.participants(seen, scheduled)
        decision = Decision(scores, self._band(seen, scheduled), np.where(next_ones, 1, -1))
        return action_codec(self.config).encode(decision)

    @property
    def _has_computed(self) -> bool:
        """Whether those who take part have computed when it is decided, and waited for all."""
        return self.config.knowledge == "reported"

    def _band(self, seen: Observation, scheduled: BoolArray) -> NDArray[np.float32]:
        """Return the logits with which all finish at the same time, as far as they reach."""
        upload_s = seen.device("upload_s")
        ready_s = np.zeros_like(upload_s) if self._has_computed else seen.device("compute_s")
        finish_s = wireless.common_finish(ready_s, upload_s, scheduled)[..., None]
        share = np.where(scheduled, upload_s / np.maximum(finish_s - ready_s, _LEAST), 1)
        logits = np.log(share) / SHARE_EXPONENT
        largest = np.where(scheduled, logits, -np.inf).max(axis=-1, keepdims=True)
        return np.asarray(np.clip(logits - largest + 1, -1, 1), np.float32)


def _is_number_open(config: UpdateSchedulingConfig) -> bool:
    return config.actions == "scores" and config.selection == "threshold"


class _TopRule(_Rule):
    """A rule that schedules the M devices of the largest index."""

    Parameters: ClassVar[type[Any]] = NumberParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"devices": _DEVICES}

    @classmethod
    def grid_for(cls, config: Any) -> Mapping[str, Sequence[Any]]:
        """Leave numbers out where the environment fixes them; try who takes part where it asks."""
        grid = dict(cls.grid)
        if not _is_number_open(config):
            grid.pop("devices", None)
        elif "devices" in grid:
            grid["devices"] = tuple(n for n in grid["devices"] if n <= config.n_devices)
        if config.agent_chooses_participants:
            few = tuple(n for n in _PARTICIPANTS if n < config.n_devices)
            grid |= {"participants": (None, *few)} if few else {}
        return grid

    def chosen(self, seen: Observation, index: Float64Array) -> BoolArray:
        """Choose the M first, the lower ones where the index ties."""
        first = np.argsort(-index, axis=-1, kind="stable")[..., : self.parameters.devices]
        chosen = np.zeros(index.shape, np.bool_)
        np.put_along_axis(chosen, first, True, axis=-1)
        return chosen

    def participants(self, seen: Observation, scheduled: BoolArray) -> BoolArray:
        """Let those of the largest index take part in the next round."""
        number = self.parameters.participants
        if number is None or not self.config.agent_chooses_participants:
            return super().participants(seen, scheduled)
        index = self.index(_NextRound(seen, scheduled))
        first = np.argsort(-index, axis=-1, kind="stable")[..., :number]
        taking_part = np.zeros(index.shape, np.bool_)
        np.put_along_axis(taking_part, first, True, axis=-1)
        return taking_part


class _AnyNumberRule(_Rule):
    """A rule that says itself how many devices are scheduled."""

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Update scheduling that leaves the number of devices open."""
        return super().applies_to(config) and _is_number_open(config)


class Everyone(_AnyNumberRule):
    """All devices in every round."""

    name = "everyone"
    source = "RRM §5.1, without scheduling"

    def index(self, seen: Observation) -> Float64Array:
        """Return zeros."""
        return np.zeros(seen.device("indicator").shape)

    def chosen(self, seen: Observation, index: Float64Array) -> BoolArray:
        """Choose all."""
        return np.ones(index.shape, np.bool_)


class RandomDevices(_TopRule, DrawingBaseline):
    """M devices at random."""

    name = "random-devices"
    source = "textbook"

    def index(self, seen: Observation) -> Float64Array:
        """Draw a number for each device."""
        shape = seen.device("indicator").shape
        draws = np.stack([rng.random(shape[-1]) for rng in self._generators])
        return np.asarray(draws.reshape(shape))


class RoundRobin(_TopRule):
    """Devices in turn: those that were scheduled least often."""

    name = "round-robin"
    source = "textbook"

    def index(self, seen: Observation) -> Float64Array:
        """Return minus the rounds in which a device was scheduled."""
        return -seen.device("uploads")


class ProportionalFair(_TopRule):
    """The largest R_k/T_k: spectral efficiency now over the average one served."""

    name = "proportional-fair"
    source = "Viswanath, Tse and Laroia 2002"

    def index(self, seen: Observation) -> Float64Array:
        """Return R_k/T_k; a device that was never served comes first."""
        return seen.device("efficiency") / np.maximum(seen.device("throughput"), 1e-3)


class BestChannel(_TopRule):
    """The best channels."""

    name = "channel-aware"
    source = "RRM §5, the rate-maximising benchmark"

    def index(self, seen: Observation) -> Float64Array:
        """Return log₂(1 + γ)."""
        return seen.device("efficiency")


class GradientNorm(_TopRule):
    """The largest gradients."""

    name = "gradient-norm"
    source = "RRM §5.2.1, step 4"
    modes = ("importance",)
    updates: ClassVar[tuple[str, ...]] = ("gradient",)

    def index(self, seen: Observation) -> Float64Array:
        """Return the norm."""
        return seen.device("indicator")


class ModelVariation(GradientNorm):
    """The largest variations of the model."""

    name = "model-variation"
    updates = ("model",)


class ModelAge(GradientNorm):
    """The largest model age ‖ŵ_k - w‖."""

    name = "model-age"
    source = "RRM §5.2.2, step 3"
    modes = ("lazy",)
    updates = ("gradient", "model")


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


class NormTimesRate(_TopRule):
    """The largest indicator × rate^exponent, for the gradient norm or the model variation."""

    name = "norm-times-rate"
    source = "RRM §5.2.1, channel-and-data diversity; the form is ours"
    modes = ("importance",)
    Parameters = ExponentParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "devices": _DEVICES,
        "exponent": (0.5, 1.0, 2.0),
    }

    def index(self, seen: Observation) -> Float64Array:
        """Return the product."""
        rate = np.maximum(seen.device("efficiency"), _LEAST)
        return np.asarray(seen.device("indicator") * rate**self.parameters.exponent)


class AgeTimesChannel(NormTimesRate):
    """The largest model age × rate^exponent."""

    name = "age-times-channel"
    source = "RRM §5.2.2, MAI and CSI; the form is ours"
    modes = ("lazy",)


@dataclass(frozen=True, kw_only=True)
class StragglerParameters:
    """Parameters of straggler exclusion.

    Attributes:
        max_compute: Longest computing time, in medians over the devices of this round.
        max_upload: Longest upload in the whole band, in medians likewise.
    """

    max_compute: float = 2.0
    max_upload: float = 2.0

    def __post_init__(self) -> None:
        check_number("max_compute", self.max_compute, 0, open_low=True)
        check_number("max_upload", self.max_upload, 0, open_low=True)


class StragglerExclusion(_Rule):
    """All but those that compute or upload too slowly; the fastest one if none is left.

    Where computing times have passed when it is decided, those that compute too slowly, as far as
    it is known beforehand, are left out of the next round. More bandwidth for slow devices is the
    environment's part, ``bandwidth="finish"``.
    """

    name = "straggler-exclusion"
    source = "RRM §5.1, opportunity 1"
    Parameters = StragglerParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "max_compute": (1.0, 2.0, 4.0, 8.0),
        "max_upload": (0.75, 1.0, 1.5, 2.0),
    }

    def index(self, seen: Observation) -> Float64Array:
        """Return minus the seconds that a device still takes."""
        return -_remaining_s(seen, self.config)

    def chosen(self, seen: Observation, index: Float64Array) -> BoolArray:
        """Choose those below the thresholds on what is still to come."""
        chosen = _within(seen.device("upload_s"), self.parameters.max_upload)
        if not self._has_computed:
            chosen &= _within(seen.device("compute_s"), self.parameters.max_compute)
        return chosen

    def participants(self, seen: Observation, scheduled: BoolArray) -> BoolArray:
        """Leave out those that compute too slowly; the fastest one is left."""
        seconds = seen.device("nominal_s")
        fast = _within(seconds, self.parameters.max_compute)
        return np.asarray(fast | (seconds == seconds.min(axis=-1, keepdims=True)))


def _within(seconds: Float64Array, limit: float) -> BoolArray:
    """Return which devices take at most so many medians."""
    return np.asarray(seconds <= limit * np.median(seconds, axis=-1, keepdims=True))


def _remaining_s(seen: Observation, config: UpdateSchedulingConfig) -> Float64Array:
    """Return the seconds that a device alone in the band takes from the decision on."""
    upload_s = seen.device("upload_s")
    computed = config.knowledge == "reported" and not isinstance(seen, _NextRound)
    return upload_s if computed else seen.device("compute_s") + upload_s


@dataclass(frozen=True, kw_only=True)
class LazyParameters:
    """Parameters of lazy participation.

    Attributes:
        period: Rounds r from one participation of a device to its next.
    """

    period: int = 3

    def __post_init__(self) -> None:
        check_integer("period", self.period, 1)


class Lazy(_AnyNumberRule):
    """Each device takes part in every r-th round, one after the other."""

    name = "lazy"
    source = "RRM §5.1, lazy updating"
    Parameters = LazyParameters
    grid = {"period": (1, 2, 3, 4, 5, 7, 10)}  # noqa: RUF012

    def index(self, seen: Observation) -> Float64Array:
        """Return minus the rounds until it is the device's turn."""
        k = np.arange(self.config.n_devices)
        return np.asarray(-((k - seen.system("rounds")) % self.parameters.period))

    def chosen(self, seen: Observation, index: Float64Array) -> BoolArray:
        """Choose those whose turn it is."""
        return np.asarray(index == 0)

    def participants(self, seen: Observation, scheduled: BoolArray) -> BoolArray:
        """Those whose turn it will be; where there are fewer devices than rounds, all may wait."""
        k = np.arange(self.config.n_devices)
        turn = (k - seen.system("rounds") - 1) % self.parameters.period == 0
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


class ReliableLinks(_TopRule):
    """Devices in turn, without those whose uploads are too often lost."""

    name = "reliable-links"
    source = "MEL, risk mitigation: elimination of learners with high packet error rates"
    Parameters = ReliableLinksParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "devices": _DEVICES,
        "max_error": (0.5, 0.6, 0.7, 0.8),
    }

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Update scheduling where updates may be lost."""
        return super().applies_to(config) and (config.packet_error > 0 or config.drop_out > 0)

    def index(self, seen: Observation) -> Float64Array:
        """Return minus the rounds in which a device was scheduled; lossy ones come last."""
        uploads = seen.device("uploads")
        losses = uploads * (1 - seen.device("arrivals"))
        lossy = (losses + 1) / (uploads + 2) > self.parameters.max_error
        return np.asarray(-uploads - 1e6 * lossy)


class CodedRedundancy(_TopRule):
    """Whole groups of devices that hold the same samples, in turn.

    Of a group's updates one that arrives is enough, so losses hardly count; ``devices`` is how
    many are scheduled, at least one group.
    """

    name = "coded-redundancy"
    source = "MEL, risk mitigation: redundancy; a repetition code"

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Update scheduling of several devices a round, which share samples."""
        return super().applies_to(config) and config.actions == "scores" and config.redundancy > 1

    def index(self, seen: Observation) -> Float64Array:
        """Return minus the rounds in which a device's group was scheduled."""
        return -self._of_groups(seen.device("uploads"))

    def chosen(self, seen: Observation, index: Float64Array) -> BoolArray:
        """Choose groups as long as their devices are no more than M, at least one."""
        r = self.config.redundancy
        groups = max(1, self.parameters.devices // r)
        first = np.argsort(-index, axis=-1, kind="stable")[..., : groups * r]
        chosen = np.zeros(index.shape, np.bool_)
        np.put_along_axis(chosen, first, True, axis=-1)
        return chosen

    def _of_groups(self, values: Float64Array) -> Float64Array:
        r = self.config.redundancy
        sums = values.reshape(*values.shape[:-1], -1, r).sum(axis=-1)
        return np.repeat(sums, r, axis=-1)


class _PerCost(_TopRule):
    Parameters = ExponentParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "devices": _DEVICES,
        "exponent": (0.25, 0.5, 1.0),
    }

    def cost(self, seen: Observation) -> Float64Array:
        """Return cost^exponent: what a device still costs, s or J as the budget has it."""
        if self.config.mode == "importance":
            cost = _remaining_s(seen, self.config)
        else:
            cost = seen.device("compute_j") + seen.device("upload_j")
        return np.asarray(np.maximum(cost, _LEAST) ** self.parameters.exponent)


class ImportancePerCost(_PerCost):
    """The largest indicator over cost^exponent.

    Where devices have computed when it is decided, only the upload is to be paid: then this ranks
    as ``norm-times-rate`` with the same exponent does.
    """

    name = "importance-per-cost"
    source = OURS

    def index(self, seen: Observation) -> Float64Array:
        """Return the ratio."""
        return np.asarray(seen.device("indicator") / self.cost(seen))


class StalenessPerCost(_PerCost):
    """The most rounds since the last arrival, over cost^exponent."""

    name = "staleness-per-cost"
    source = OURS

    def index(self, seen: Observation) -> Float64Array:
        """Return the ratio."""
        return np.asarray((1 + seen.device("staleness")) / self.cost(seen))


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
)
"""The rules of update scheduling."""
