"""Rules of batch and slot allocation: the optimum of Ren et al. 2021, its benchmarks, and others.

Every rule says which batches and slots it wants; where only the global batchsize can be chosen, it
takes the one of the choices whose ratio to what it wants is nearest to 1.

With a ``loss_cutoff``, devices whose loss on their last batch is too high may have one sample only,
which the average hardly counts; they are heard by it. Where only the global batchsize can be chosen
it has no effect.

Source: Ren et al. 2021 §IV to §VI.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines.base import OURS, Baseline, DrawingBaseline
from edge_gym.baselines.loss_cutoff import CutoffParameters, CutoffRule
from edge_gym.baselines.schedule import USUAL_SHARE
from edge_gym.core.actions import ActionCodec
from edge_gym.core.observation import Observation
from edge_gym.envs.batch_slot.actions import (
    AllocationShares,
    BatchSlotCodec,
    DirectCodec,
    action_codec,
)
from edge_gym.envs.batch_slot.config import BatchSlotConfig
from edge_gym.envs.batch_slot.costs import round_costs
from edge_gym.runtime.checks import check_choice, check_integer, check_number
from edge_gym.solvers.batch_slot import (
    Allocation,
    RoundCosts,
    equal_allocation,
    equal_slots,
    optimal_allocation,
    optimal_slots,
)
from edge_gym.typing import Float64Array

_COSTS = ("speed", "upload_s", "download_s", "update_s", "max_batch")
_READ = (*_COSTS, "batch_loss")
_SCALES = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
_SCALE_SCHEDULES = {
    "scale": (0.35, 0.5, 0.7, 1.0, 1.4),
    "scale_late": (0.5, 1.0, 1.4, 2.0, 2.8),
    "late_share": (0.25, 0.5),
}


def observed_costs(observed: Observation, config: BatchSlotConfig) -> RoundCosts:
    """Return what rounds cost, for every device, ``(..., K)``."""
    return round_costs(config, **{name: observed.device(name) for name in _COSTS})


class _Rule(CutoffRule):
    """A rule for batches and slots."""

    needs_codec: ClassVar[type[ActionCodec[Any]] | None] = BatchSlotCodec
    needs_fields = ("update", "device", "max_batch", "gpu_base_latency_s", "gpu_threshold")
    needs: ClassVar[Mapping[str, Sequence[str]]] = {"devices": _READ}
    updates: ClassVar[tuple[str, ...]] = ("gradient",)
    loss_column = "batch_loss"
    config: BatchSlotConfig

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Where devices compute what the rule is made for."""
        return config.update in cls.updates

    @classmethod
    def cutoff_grid(cls, config: Any) -> Mapping[str, Sequence[Any]]:
        """Return the cutoffs that are tried, where each device's batch can be chosen."""
        return super().cutoff_grid(config) if config.actions == "direct" else {}

    @abstractmethod
    def allocation(self, observed: Observation, costs: RoundCosts) -> Allocation:
        """Return batches, whole ones, and slots, ``(..., K)`` each."""

    def total(self, observed: Observation, costs: RoundCosts) -> Float64Array:
        """Return the global batchsize, ``(...)``."""
        return self.allocation(observed, costs).global_batch

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return the direct action, or the choice nearest to the global batchsize."""
        observed = Observation(self.tables, observations)
        costs = observed_costs(observed, self.config)
        codec = action_codec(self.config)
        if isinstance(codec, DirectCodec):
            most = np.where(self.avoided(observed), 1, costs.max_batch)
            found = self.allocation(observed, replace(costs, max_batch=most))
            return codec.encode(AllocationShares.of(found, costs.max_batch))
        return codec.encode(codec.nearest(self.total(observed, costs), costs.max_batch))


class _DirectRule(_Rule):
    """A rule for slots, which makes no sense where these are optimal anyway."""

    needs_codec = DirectCodec


@dataclass(frozen=True, kw_only=True)
class ScaleParameters(CutoffParameters):
    """Parameters of rules that look for the best global batchsize.

    Attributes:
        scale: What the global batchsize of the highest learning efficiency is multiplied by.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("scale", self.scale, 0, open_low=True)


class OptimalBatchSlot(_Rule):
    """Batches and slots of the highest learning efficiency, or those of a scaled B."""

    name = "optimal-batch-slot"
    source = "Ren et al. 2021, Theorems 1 and 2, eqs. (17), (30)"
    Parameters: ClassVar[type[Any]] = ScaleParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"scale": _SCALES}
    further_grids: ClassVar[Sequence[Mapping[str, Sequence[Any]]]] = (_SCALE_SCHEDULES,)
    with_cutoff: ClassVar[Mapping[str, Sequence[Any]]] = {"scale": (1.0, 2.0)}

    def scale(self, observed: Observation) -> Any:
        """Return what B is multiplied by, a number or ``(...)``."""
        return self.parameters.scale

    def total(self, observed: Observation, costs: RoundCosts) -> Float64Array:
        """Return the scaled B, as far as it is possible."""
        best = optimal_allocation(costs).global_batch
        most = costs.max_batch.sum(axis=-1)
        return np.asarray(np.clip(self.scale(observed) * best, costs.max_batch.shape[-1], most))

    def allocation(self, observed: Observation, costs: RoundCosts) -> Allocation:
        """Place the global batchsize by both theorems."""
        return optimal_allocation(costs, self.total(observed, costs), whole=True)


@dataclass(frozen=True, kw_only=True)
class GrowthParameters(CutoffParameters):
    """Parameters of the rule whose batches grow.

    Attributes:
        first: What the global batchsize of the highest learning efficiency is multiplied by at
            an episode's start.
        last: The same at its end; in between the factor grows geometrically with time.
    """

    first: float = 0.5
    last: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("first", self.first, 0, open_low=True)
        check_number("last", self.last, 0, open_low=True)


class GrowingBatchSlot(OptimalBatchSlot):
    """The scaled optimum whose scale changes as time goes by."""

    name = "growing-batch-slot"
    source = OURS
    needs: ClassVar[Mapping[str, Sequence[str]]] = {"devices": _READ, "system": ("time_left",)}
    Parameters = GrowthParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "first": (0.06, 0.125, 0.25, 0.5, 1.0, 2.0),
        "last": (0.35, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0),
    }
    # It has a schedule of its own.
    further_grids = ()
    with_cutoff: ClassVar[Mapping[str, Sequence[Any]]] = {"first": (0.5, 1.0), "last": (1.4,)}

    def scale(self, observed: Observation) -> Float64Array:
        """Return first^(share of time left)·last^(share gone)."""
        left = np.clip(observed.system("time_left")[..., 0] / self.config.budget_s, 0, 1)
        return np.asarray(self.parameters.first**left * self.parameters.last ** (1 - left))


class OptimalBatch(_DirectRule):
    """The best batches with equal slots."""

    name = "optimal-batch"
    source = "Ren et al. 2021, Theorem 1 with equal slots"
    Parameters = ScaleParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"scale": _SCALES}
    further_grids = (_SCALE_SCHEDULES,)
    with_cutoff: ClassVar[Mapping[str, Sequence[Any]]] = {"scale": (1.0, 2.0)}

    def allocation(self, observed: Observation, costs: RoundCosts) -> Allocation:
        """Place the scaled B so that devices finish together as far as possible."""
        best = equal_slots(costs).global_batch
        n_devices, most = costs.max_batch.shape[-1], costs.max_batch.sum(axis=-1)
        total = np.clip(self.parameters.scale * best, n_devices, most)
        return equal_slots(costs, total, whole=True)


class EqualAllocation(_DirectRule):
    """Equal batches, of the highest learning efficiency, and equal slots."""

    name = "equal-allocation"
    source = "Ren et al. 2021, eq. (42)"

    def allocation(self, observed: Observation, costs: RoundCosts) -> Allocation:
        """Return the best equal allocation; those who may have one sample only then have it."""
        found = equal_allocation(observed_costs(observed, self.config), whole=True)
        return found._replace(batch=np.minimum(found.batch, costs.max_batch))


class _GivenBatches(_Rule):
    """A rule that says batches without regard to what they cost."""

    @abstractmethod
    def batches(self, costs: RoundCosts) -> Float64Array:
        """Return whole batches, ``(..., K)``."""

    def optimal(self) -> bool:
        """Return whether slots are optimal for them, not equal."""
        return False

    def total(self, observed: Observation, costs: RoundCosts) -> Float64Array:
        """Return the batches' sum."""
        return np.asarray(self.batches(costs).sum(axis=-1))

    def allocation(self, observed: Observation, costs: RoundCosts) -> Allocation:
        """Return the batches with optimal or equal slots."""
        batch = self.batches(costs)
        if self.optimal():
            return optimal_slots(costs, batch)
        slots = np.full(batch.shape, 1 / batch.shape[-1])
        return Allocation(batch, slots, slots)


@dataclass(frozen=True, kw_only=True)
class BatchParameters(CutoffParameters):
    """Parameters of fixed batches.

    Attributes:
        batch: Every device's batch; those that may not have as many take what they may.
    """

    batch: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("batch", self.batch, 1)


def _up_to(most: int | None, batches: Sequence[int]) -> Sequence[int]:
    """Return the batches below the largest one, and that; all if there is none."""
    return batches if most is None else (*(b for b in batches if b < most), most)


class OptimalSlots(_GivenBatches):
    """The same batch on all devices in all rounds, with optimal slots."""

    name = "optimal-slots"
    source = "Ren et al. 2021, eqs. (22), (26) with fixed batches"
    Parameters = BatchParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"batch": (1, 4, 8, 16, 24, 32, 48, 64, 96, 128)}
    further_grids = (
        {
            "batch": (8, 16, 32, 48, 64),
            "batch_late": (16, 32, 64, 96, 128),
            "late_share": (0.25, 0.5),
        },
    )
    with_cutoff: ClassVar[Mapping[str, Sequence[Any]]] = {"batch": (16, 32, 64)}
    bounds: ClassVar[Mapping[str, Sequence[float]]] = {"batch": (1,)}

    @classmethod
    def grid_for(cls, config: Any) -> Mapping[str, Sequence[Any]]:
        """Return the batches that differ from the largest one, and that."""
        return {"batch": _up_to(config.max_batch, cls.grid["batch"])}

    @classmethod
    def further_grids_for(cls, config: Any) -> Sequence[Mapping[str, Sequence[Any]]]:
        """Return schedules of batches that differ from the largest one, and of that.

        Where cutoffs are tried, schedules begin at one time.
        """
        cutoffs = cls.cutoff_grid(config)
        grids = [
            {
                **grid,
                "batch": _up_to(config.max_batch, grid["batch"]),
                "batch_late": _up_to(config.max_batch, grid["batch_late"]),
                "late_share": (USUAL_SHARE,) if cutoffs else grid["late_share"],
            }
            for grid in cls.further_grids
        ]
        return [*grids, {**cls.with_cutoff, **cutoffs}] if cutoffs else grids

    @classmethod
    def bounds_for(cls, config: Any) -> Mapping[str, Sequence[float]]:
        """Return one sample, and the largest batch if there is one."""
        most = () if config.max_batch is None else (config.max_batch,)
        return {"batch": (*cls.bounds["batch"], *most)}

    def batches(self, costs: RoundCosts) -> Float64Array:
        """Return the batch, or what is possible."""
        return np.asarray(np.minimum(self.parameters.batch, costs.max_batch))

    def optimal(self) -> bool:
        """Slots are optimal."""
        return True


@dataclass(frozen=True, kw_only=True)
class SlotsParameters(CutoffParameters):
    """Parameters of the paper's batches.

    Attributes:
        slots: ``"equal"`` or ``"optimal"`` for these batches; the text does not say which. Without
            effect where only the global batchsize can be chosen.
    """

    slots: str = "equal"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("slots", self.slots, ("equal", "optimal"))


class _PaperBatches(_GivenBatches):
    Parameters: ClassVar[type[Any]] = SlotsParameters

    def optimal(self) -> bool:
        """Slots are as the parameter says."""
        return bool(self.parameters.slots == "optimal")


class Online(_PaperBatches):
    """Batches of one sample."""

    name = "online"
    source = "Ren et al. 2021 §VI-D, online learning"

    def batches(self, costs: RoundCosts) -> Float64Array:
        """Return ones."""
        return np.ones(costs.max_batch.shape)


class FullBatch(_PaperBatches):
    """The largest batches, B^max."""

    name = "full-batch"
    source = "Ren et al. 2021 §VI-D, full batchsize"

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Where there is a largest batch."""
        return super().applies_to(config) and config.max_batch is not None

    def batches(self, costs: RoundCosts) -> Float64Array:
        """Return the largest ones."""
        return np.array(costs.max_batch)


class RandomBatches(_PaperBatches, DrawingBaseline):
    """Batches at random in every round, each size from 1 to the largest as likely."""

    name = "random-batches"
    source = "Ren et al. 2021 §VI-D, random batchsize"

    @classmethod
    def is_zero(cls, config: Any) -> bool:
        """Slots at random make everyone wait for the device with the shortest one."""
        return bool(config.actions == "direct")

    def batches(self, costs: RoundCosts) -> Float64Array:
        """Draw them."""
        shape = costs.max_batch.shape
        draws = np.stack([rng.random(shape[-1]) for rng in self.generators]).reshape(shape)
        return np.asarray(1 + np.floor(draws * costs.max_batch))


class _WholeSets(_PaperBatches):
    """All of a device's samples."""

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Where a batch may be all samples."""
        return super().applies_to(config) and config.max_batch is None

    def batches(self, costs: RoundCosts) -> Float64Array:
        """Return all samples."""
        return np.array(costs.max_batch)


class GradientBased(_WholeSets):
    """Gradients of the whole local sets."""

    name = "gradient-based"
    source = "Ren et al. 2021 §VI-C, gradient-based"


class ModelBased(_WholeSets):
    """Models trained on the whole local sets, averaged in every round."""

    name = "model-based"
    source = "Ren et al. 2021 §VI-C, model-based"
    updates = ("model",)

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Several rounds of trained models."""
        return super().applies_to(config) and config.max_rounds > 1


class Individual(_WholeSets):
    """Models trained on the whole local sets until they are done, averaged once."""

    name = "individual"
    source = "Ren et al. 2021 §VI-C, individual learning"
    updates = ("model",)

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """A single round of trained models."""
        return super().applies_to(config) and config.max_rounds == 1


RULES: tuple[type[Baseline], ...] = (
    OptimalBatchSlot,
    OptimalSlots,
    OptimalBatch,
    EqualAllocation,
    Online,
    FullBatch,
    RandomBatches,
    GradientBased,
    ModelBased,
    Individual,
    GrowingBatchSlot,
)
"""The rules of batch and slot allocation."""
