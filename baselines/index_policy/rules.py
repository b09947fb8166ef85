"""What a linear index decides, problem by problem.

Where somebody has solved the part of a decision that costs nothing to get right, such as the slots
for given batches, the index decides what is left. Columns are few, so that a search of minutes
finds their weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines.base import Baseline
from edge_gym.baselines.batch_slot import observed_costs as observed_round_costs
from edge_gym.baselines.data_scheduling.rule import SchedulingRule as UploadRule
from edge_gym.baselines.data_scheduling.rule import Seen
from edge_gym.baselines.index_policy.base import IndexPolicy
from edge_gym.baselines.task_allocation import complete_samples
from edge_gym.baselines.update_scheduling_base import SchedulingRule
from edge_gym.core.observation import Observation
from edge_gym.envs.batch_slot.actions import AllocationShares, BatchSlotCodec, DirectCodec
from edge_gym.envs.offloading.actions import OffloadingActions, OffloadingCodec
from edge_gym.envs.offloading.costs import COST_COLUMNS, COST_FIELDS
from edge_gym.envs.offloading.costs import observed_costs as observed_offloading_costs
from edge_gym.envs.retransmission.actions import AcceptOrRetransmit
from edge_gym.envs.task_allocation.actions import (
    LEAST_BAND_RATIO,
    CapCodec,
    JointCodec,
    JointShares,
    TaskCodec,
    apportion,
)
from edge_gym.envs.task_allocation.costs import (
    JOINT_COLUMNS,
    JOINT_FIELDS,
    TASK_COLUMNS,
    TASK_FIELDS,
    observed_costs,
    observed_limits,
    observed_total,
)
from edge_gym.solvers import task_resources
from edge_gym.solvers.batch_slot import optimal_allocation, optimal_slots
from edge_gym.solvers.offloading import optimal_resources
from edge_gym.solvers.task_allocation import Tasks
from edge_gym.typing import BoolArray, Float64Array, IntArray

_MOST_LOG = 10.0  # of what scores multiply by


class RetransmissionIndex(IndexPolicy):
    """Ask again for samples of a positive score."""

    needs_codec = AcceptOrRetransmit
    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "": ("effective_snr_db", "distance", "entropy", "margin", "transmissions", "label_share")
    }

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Accept the others."""
        score = self.scores(Observation(self.tables, {"": observations}))[..., 0]
        return np.asarray(self.codec.encode(score <= 0))


class UploadIndex(IndexPolicy, UploadRule):
    """Upload the samples of the largest score."""

    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "samples": (
            *("distance", "entropy", "hinge_loss", "cross_entropy"),
            *("label_share", "label_recall", "novelty"),
        ),
        "devices": ("snr_db", "staleness"),
    }
    constant = False

    def index(self, seen: Seen) -> Float64Array:
        """Return the scores of all samples, ``(..., K, N)``."""
        return np.asarray(self.scores(seen)[..., 0])


class UpdateIndex(IndexPolicy, SchedulingRule):
    """Schedule the devices of a positive score, or of the largest ones where their number is fixed.

    Where the action says who takes part in the next round, a second score does.
    """

    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "devices": (
            *("log_indicator", "log_cost", "staleness"),
            *("efficiency", "mean_efficiency", "throughput", "training_loss"),
        )
    }

    @classmethod
    def score_names(cls, config: Any) -> tuple[str, ...]:
        """Return the names of the scores."""
        return ("scores", "participation") if config.agent_chooses_participants else ("scores",)

    def index(self, observed: Observation) -> Float64Array:
        """Return the first scores, ``(..., K)``."""
        return np.asarray(self.scores(observed)[..., 0])

    def chosen(self, observed: Observation, index: Float64Array) -> BoolArray:
        """Choose positive ones."""
        return np.asarray(index > 0)

    def participants(self, observed: Observation, scheduled: BoolArray) -> BoolArray:
        """Let those of a positive second score take part, or of the largest if there is none."""
        if not self.config.agent_chooses_participants:
            return super().participants(observed, scheduled)
        score = self.scores(observed)[..., 1]
        return np.asarray((score > 0) | (score == score.max(axis=-1, keepdims=True)))


class BatchSlotIndex(IndexPolicy):
    """Multiply the batches of the highest learning efficiency by exp(score).

    Slots are optimal for the batches. Where only the global batchsize can be chosen, it takes the
    choice whose ratio to that is nearest to 1.
    """

    needs_codec = BatchSlotCodec
    needs_fields = ("update", "device", "max_batch", "gpu_base_latency_s", "gpu_threshold")
    needs: ClassVar[Mapping[str, Sequence[str]]] = {
        "devices": ("speed", "upload_s", "download_s", "update_s", "max_batch")
    }
    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "devices": ("log_upload", "log_download", "log_speed"),
        "system": ("loss", "loss_slope"),
    }

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Where devices compute gradients."""
        return bool(config.update == "gradient")

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Move the batches and solve for the slots."""
        seen = Observation(self.tables, observations)
        costs = observed_round_costs(seen, self.config)
        score = np.clip(self.scores(seen)[..., 0], -_MOST_LOG, _MOST_LOG)
        wanted = optimal_allocation(costs).batch * np.exp(score)
        batch = np.clip(np.rint(wanted), 1, costs.max_batch)
        if isinstance(self.codec, DirectCodec):
            slots = optimal_slots(costs, batch)
            return self.codec.encode(AllocationShares.of(slots, costs.max_batch))
        choice = self.codec.nearest(batch.sum(axis=-1), costs.max_batch)
        return np.asarray(self.codec.encode(choice))


class _TaskIndex(IndexPolicy):
    """Share samples out in proportion to exp(score)."""

    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "devices": (
            *("log_room", "log_room_1", "log_room_2", "log_room_3", "stronger_share"),
            *("drop_out", "arrivals"),
        )
    }
    constant = False

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Every learner has samples that no other one has."""
        return bool(config.redundancy == 1)

    def samples(self, score: Float64Array, max_samples: Float64Array, total: IntArray) -> IntArray:
        """Return samples d_k, ``(..., K)``, which sum to ``total``, ``(...)``.

        Who would get fewer than the fewest gets none, and who has fewer all of its own.
        """
        relative = np.maximum(score - score.max(axis=-1, keepdims=True), -_MOST_LOG)
        weight = np.exp(relative)
        shared = apportion(weight, total)
        shared = apportion(np.where(shared >= self.config.least_samples, weight, 0.0), total)
        own = np.minimum(shared, max_samples).astype(np.int64)
        return complete_samples(Tasks(own, np.zeros_like(own)), max_samples, total)


class TaskIndex(_TaskIndex):
    """Share samples out in proportion to exp(score), and make as many updates as these allow."""

    needs: ClassVar[Mapping[str, Sequence[str]]] = TASK_COLUMNS
    needs_fields = (*TASK_FIELDS, "redundancy")
    needs_codec = TaskCodec

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return the actions that mean these tasks."""
        seen = Observation(self.tables, observations)
        costs, total = observed_costs(seen, self.config), observed_total(seen)
        samples = self.samples(self.scores(seen)[..., 0], costs.max_samples, total)
        return TaskCodec(self.config).encode(Tasks(samples, costs.max_updates(samples)))


class JointIndex(_TaskIndex):
    """Share samples and the band out, each by a score, and make as many updates as these allow.

    Powers and CPU speeds are the best for that.
    """

    needs: ClassVar[Mapping[str, Sequence[str]]] = JOINT_COLUMNS
    needs_fields = (*JOINT_FIELDS, "redundancy")
    needs_codec = JointCodec
    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "devices": ("log_room", "log_room_1", "log_room_3", "rate", "cpu_ghz")
    }

    @classmethod
    def score_names(cls, config: Any) -> tuple[str, ...]:
        """Return the names of the scores."""
        return ("samples", "band")

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return the actions that mean these tasks and resources."""
        seen, config = Observation(self.tables, observations), self.config
        costs, limits = observed_costs(seen, config), observed_limits(seen, config)
        scores = self.scores(seen)
        samples = self.samples(scores[..., 0], costs.max_samples, observed_total(seen))
        relative = scores[..., 1] - scores[..., 1].max(axis=-1, keepdims=True)
        bands = np.maximum(np.exp(np.maximum(relative, -_MOST_LOG)), LEAST_BAND_RATIO)
        bands *= (limits.band_hz / bands.sum(axis=-1))[..., None]
        updates = np.zeros_like(samples)
        for number in range(1, config.most_updates + 1):
            room = task_resources.capacity(limits, number, bands)
            updates += (samples > 0) & (samples <= np.floor(room))
        doing = np.where(updates > 0, samples, 0)
        resources = task_resources.best_resources(limits, doing, updates, bands)
        shares = JointShares.of(Tasks(samples, updates), resources, limits)
        return JointCodec(config).encode(shares)


class CapIndex(IndexPolicy):
    """Choose the cap by its place in their row: -1 the least, 1 the largest."""

    needs_codec = CapCodec
    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "system": ("common_updates", "mean_updates", "staleness", "loss", "loss_slope")
    }

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return the place."""
        seen = Observation(self.tables, observations)
        last = len(self.config.caps) - 1
        place = np.rint((self.scores(seen)[..., 0] + 1) / 2 * last)
        return np.clip(place, 0, last).astype(np.int64)


class OffloadingIndex(IndexPolicy):
    """Offload by the score: nothing at -1 and below, all at 1 and above; all else is optimal."""

    needs: ClassVar[Mapping[str, Sequence[str]]] = COST_COLUMNS
    needs_fields = COST_FIELDS
    needs_codec = OffloadingActions
    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "devices": ("log_upload", "log_task", "staleness", "offloaded"),
        "system": ("until_tasks", "loss_slope"),
    }

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return the actions that mean these parts."""
        seen = Observation(self.tables, observations)
        costs = observed_offloading_costs(seen, self.config)
        part = np.clip((self.scores(seen)[..., 0] + 1) / 2, 0, 1)
        part = np.where(costs.task_bits > 0, part, 0.0)
        if isinstance(self.codec, OffloadingCodec):
            return self.codec.encode(optimal_resources(costs, part))
        return np.asarray(self.codec.encode(part))


RULES: tuple[type[Baseline], ...] = (
    RetransmissionIndex,
    UploadIndex,
    UpdateIndex,
    BatchSlotIndex,
    TaskIndex,
    JointIndex,
    CapIndex,
    OffloadingIndex,
)
"""The linear index of each problem."""
