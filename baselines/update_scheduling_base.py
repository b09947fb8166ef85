"""What rules of update scheduling have in common.

A rule gives every device that takes part in the round an *index* and says who is *chosen*. Where
the environment takes all scores above a threshold, the chosen ones are scheduled; where it fixes
their number, they come first, each group in the order of its index. Where the action also says who
takes part in the next round, all devices do unless the rule says otherwise.

With a ``loss_cutoff``, devices whose last told training loss is too high are not scheduled; if all
who take part in a round are such, none is left out. They still take part where all do, and are
scheduled again once they report a lower loss; where a rule lets a number of devices take part, they
come last. Where losses come with uploads alone, they stay out until the median rises.

Where all have computed before the server decides (``indicators="reported"``), that time has passed:
a device then costs no more than its upload, and one that computes slowly can only be left out of
the next round.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines.loss_cutoff import CutoffParameters, CutoffRule
from edge_gym.baselines.schedule import LATE
from edge_gym.core.observation import Observation
from edge_gym.envs.update_scheduling.actions import (
    SHARE_EXPONENT,
    Decision,
    SchedulingCodec,
    action_codec,
    select_devices,
)
from edge_gym.envs.update_scheduling.config import UpdateSchedulingConfig
from edge_gym.envs.update_scheduling.observation import MEMORY_ROUNDS
from edge_gym.physics import sharing
from edge_gym.runtime.checks import check_integer
from edge_gym.typing import BoolArray, Float64Array

DEVICES = (1, 2, 3, 4, 6, 8)
"""Numbers of scheduled devices that tuning tries, and all."""
_FEW, _MIDDLE, _LATE_DEVICES = (1, 2, 3, 4), (2, 3, 4), (2, 4, 6, 8)
LEAST = 1e-12
"""Costs and rates are not taken to be smaller."""
_PARTICIPANTS = (3, 4, 6)
_ALWAYS_READ = ("participates", "upload_s", "compute_s", "training_loss")


def reading(*devices: str, system: Sequence[str] = ()) -> dict[str, Sequence[str]]:
    """Return the ``needs`` of a rule that reads these columns beside what every rule reads."""
    return {"devices": (*_ALWAYS_READ, *devices), "system": tuple(system)}


class NextRound(Observation):
    """What is expected to be observed in the next round, before devices have computed in it.

    Args:
        observed: What is observed now.
        scheduled: Who is scheduled now, ``(..., K)``.
    """

    def __init__(self, observed: Observation, scheduled: BoolArray) -> None:
        self._now = observed
        efficiency = observed.device("efficiency")
        mean = np.maximum(observed.device("mean_efficiency"), LEAST)
        throughput = observed.device("throughput")
        served = np.where(scheduled, efficiency, 0)
        self._devices = {
            "efficiency": mean,
            "upload_s": observed.device("upload_s") * efficiency / mean,
            "compute_s": observed.device("nominal_s"),
            "participates": np.ones_like(efficiency),
            "throughput": throughput + (served - throughput) / MEMORY_ROUNDS,
            "staleness": np.where(scheduled, 0, observed.device("staleness") + 1),
            "uploads": observed.device("uploads") + scheduled,
        }

    def device(self, name: str) -> Float64Array:
        """Return a column of the devices, ``(..., K)``."""
        return self._devices[name] if name in self._devices else self._now.device(name)

    def system(self, name: str) -> Float64Array:
        """Return a column of the system, ``(..., 1)``."""
        return self._now.system(name) + (name == "rounds")


@dataclass(frozen=True, kw_only=True)
class NumberParameters(CutoffParameters):
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
        super().__post_init__()
        check_integer("devices", self.devices, 1)
        if self.participants is not None:
            check_integer("participants", self.participants, 1)


class SchedulingRule(CutoffRule):
    """A rule that schedules devices.

    Attributes:
        indicators: Kinds of indicators that it is made for, see
            ``UpdateSchedulingConfig.indicator_kind``.
    """

    needs_codec = SchedulingCodec
    needs_fields = ("knowledge", "indicator_kind", "chooses_number", "agent_chooses_participants")
    needs: ClassVar[Mapping[str, Sequence[str]]] = reading()
    indicators: ClassVar[tuple[str, ...]] = ("gradient-norm", "model-variation", "model-age")
    loss_column = "training_loss"
    config: UpdateSchedulingConfig

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Where the indicator is what the rule is made for."""
        return config.indicator_kind in cls.indicators

    @abstractmethod
    def index(self, observed: Observation) -> Float64Array:
        """Return the index of each device, ``(..., K)``."""

    @abstractmethod
    def chosen(self, observed: Observation, index: Float64Array) -> BoolArray:
        """Return who shall be scheduled, ``(..., K)``."""

    def participants(self, observed: Observation, scheduled: BoolArray) -> BoolArray:
        """Return who shall take part in the next round, ``(..., K)``: by default all."""
        return np.ones_like(scheduled)

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Schedule the chosen ones, or the first of them."""
        observed = Observation(self.tables, observations)
        participates = observed.device("participates") > 0
        candidates = participates & ~self.avoided(observed)
        candidates |= participates & ~candidates.any(axis=-1, keepdims=True)
        index = np.where(candidates, self.index(observed), -np.inf)
        chosen = self.chosen(observed, index) & candidates
        order = np.lexsort((-index, ~chosen), axis=-1)
        if self.config.chooses_number:
            np.put_along_axis(chosen, order[..., :1], True, axis=-1)
            scores = np.where(chosen, 1, -1).astype(np.float32)
        else:
            scores = np.empty(index.shape, np.float32)
            ranks = np.linspace(1, -1, self.config.n_devices, dtype=np.float32)
            np.put_along_axis(scores, order, np.broadcast_to(ranks, scores.shape), axis=-1)
        scheduled = select_devices(scores, participates, self.config)
        next_ones = self.participants(observed, scheduled)
        decision = Decision(scores, self._band(observed, scheduled), np.where(next_ones, 1, -1))
        return action_codec(self.config).encode(decision)

    @property
    def has_computed(self) -> bool:
        """Whether those who take part have computed when it is decided, and waited for all."""
        return self.config.knowledge == "reported"

    def _band(self, observed: Observation, scheduled: BoolArray) -> NDArray[np.float32]:
        """Return the logits with which all finish at the same time, as far as they reach."""
        upload_s = observed.device("upload_s")
        ready_s = np.zeros_like(upload_s) if self.has_computed else observed.device("compute_s")
        finish_s = sharing.common_finish(ready_s, upload_s, scheduled)[..., None]
        share = np.where(scheduled, upload_s / np.maximum(finish_s - ready_s, LEAST), 1)
        logits = np.log(share) / SHARE_EXPONENT
        largest = np.where(scheduled, logits, -np.inf).max(axis=-1, keepdims=True)
        return np.asarray(np.clip(logits - largest + 1, -1, 1), np.float32)


class TopRule(SchedulingRule):
    """A rule that schedules the M devices of the largest index.

    Attributes:
        few: Few values of its other parameters, with which tuning tries who takes part, and
            schedules.
    """

    Parameters: ClassVar[type[Any]] = NumberParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"devices": DEVICES}
    few: ClassVar[Mapping[str, Sequence[Any]]] = {}

    @classmethod
    def grid_for(cls, config: Any) -> Mapping[str, Sequence[Any]]:
        """Return the grid with all devices too, without numbers where the environment fixes them.

        What else is in it, is so in every combination.
        """
        others = {name: values for name, values in cls.grid.items() if name != "devices"}
        if not config.chooses_number:
            return others or cls.cutoff_grid(config)
        return {"devices": (*_below(config, cls.grid["devices"]), config.n_devices), **others}

    @classmethod
    def further_grids_for(cls, config: Any) -> Sequence[Mapping[str, Sequence[Any]]]:
        """Try who takes part where it is asked, other numbers or weights late, and cutoffs.

        Where there are cutoffs, schedules and participants are tried with one of them.
        """
        if cutoffs := cls.cutoff_grid(config):
            return cls._grids_with_cutoff(config, cutoffs)
        grids: list[Mapping[str, Sequence[Any]]] = []
        numbers: dict[str, Sequence[int]] = {}
        if config.chooses_number:
            numbers = {"devices": _below(config, _MIDDLE)}
        if config.agent_chooses_participants:
            grids.append({**numbers, **cls.few, "participants": _below(config, _PARTICIPANTS)})
        if config.agent_chooses_participants and config.chooses_number:
            early, late = _below(config, _MIDDLE), _below(config, (6, 8))
            some = (None, *_below(config, (6,)))
            grids.append({"devices": early, "devices_late": late, "participants": some, **cls.few})
        elif config.chooses_number:
            late = _below(config, _LATE_DEVICES)
            grids.append({"devices": _below(config, _FEW), "devices_late": late, **cls.few})
        else:
            grids += [
                {**cls.few, name: cls.grid[name], name + LATE: values}
                for name, values in cls.few.items()
            ]
        return grids

    @classmethod
    def _grids_with_cutoff(
        cls, config: Any, cutoffs: Mapping[str, Sequence[Any]]
    ) -> Sequence[Mapping[str, Sequence[Any]]]:
        if not config.chooses_number:
            return [{**cls.few, **cutoffs}] if cls.few else []
        one = {name: values[len(values) // 2 :][:1] for name, values in cutoffs.items()}
        grids = [{"devices": _below(config, (3, 4, 6)), **cls.few, **cutoffs}]
        if config.agent_chooses_participants:
            some = _below(config, (3, 4, 5, 6))
            early = _below(config, (3, 4))
            grids.append({"devices": early, **cls.few, **one, "participants": some})
        late = _below(config, (6, 8))
        grids.append({"devices": _below(config, (4,)), "devices_late": late, **cls.few, **one})
        return grids

    @classmethod
    def bounds_for(cls, config: Any) -> Mapping[str, Sequence[float]]:
        """Return those of the rule; at least one device and at most all are scheduled."""
        all_or_one = (1, config.n_devices)
        return {**cls.bounds, "devices": all_or_one, "participants": all_or_one}

    def chosen(self, observed: Observation, index: Float64Array) -> BoolArray:
        """Choose the M first, the lower ones where the index ties."""
        first = np.argsort(-index, axis=-1, kind="stable")[..., : self.parameters.devices]
        chosen = np.zeros(index.shape, np.bool_)
        np.put_along_axis(chosen, first, True, axis=-1)
        return chosen

    def participants(self, observed: Observation, scheduled: BoolArray) -> BoolArray:
        """Let those of the largest index take part in the next round."""
        number = self.parameters.participants
        if number is None or not self.config.agent_chooses_participants:
            return super().participants(observed, scheduled)
        expected = self.index(NextRound(observed, scheduled))
        index = np.where(self.avoided(observed), -np.inf, expected)
        first = np.argsort(-index, axis=-1, kind="stable")[..., :number]
        taking_part = np.zeros(index.shape, np.bool_)
        np.put_along_axis(taking_part, first, True, axis=-1)
        return taking_part


def remaining_s(observed: Observation, config: UpdateSchedulingConfig) -> Float64Array:
    """Return the seconds that a device alone in the band takes from the decision on."""
    upload_s = observed.device("upload_s")
    computed = config.knowledge == "reported" and not isinstance(observed, NextRound)
    return upload_s if computed else observed.device("compute_s") + upload_s


def _below(config: Any, numbers: Sequence[int]) -> Sequence[int]:
    """Return the numbers that are less than all devices."""
    return tuple(n for n in numbers if n < config.n_devices)


class AnyNumberRule(SchedulingRule):
    """A rule that says itself how many devices are scheduled."""

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Where actions say how many devices are scheduled."""
        return super().applies_to(config) and bool(config.chooses_number)
