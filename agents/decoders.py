"""What an agent's scores mean where they are no actions yet.

A continuous action may have to meet limits so exactly that noise on it, by which PPO explores,
breaks them: a learner given one sample too many does one update less. There an agent may score
something else, of which a *decoder* makes the action, from what the agent sees and nothing more.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from edge_gym.baselines import make_baseline
from edge_gym.baselines.base import Baseline, DrawingBaseline
from edge_gym.baselines.batch_slot import observed_costs as observed_round_costs
from edge_gym.core.observation import Observation
from edge_gym.envs.batch_slot.actions import AllocationShares, DirectCodec
from edge_gym.envs.batch_slot.config import BatchSlotConfig
from edge_gym.envs.offloading.actions import OffloadingCodec
from edge_gym.envs.offloading.config import OffloadingConfig
from edge_gym.envs.offloading.costs import observed_costs as observed_offloading_costs
from edge_gym.envs.task_allocation.actions import (
    LEAST_BAND_RATIO,
    JointCodec,
    JointShares,
    TaskCodec,
)
from edge_gym.envs.task_allocation.config import TaskAllocationConfig
from edge_gym.envs.task_allocation.costs import observed_costs, observed_limits, observed_total
from edge_gym.runtime.checks import check_number
from edge_gym.runtime.messages import shown
from edge_gym.solvers import task_resources
from edge_gym.solvers.batch_slot import optimal_slots
from edge_gym.solvers.offloading import optimal_resources
from edge_gym.solvers.task_allocation import Tasks
from edge_gym.typing import IntArray

_PRIORITY_SPAN = 2.0
_MOST_WANTED = 6


class Decoder(ABC):
    """Turns scores in [-1, 1] into actions.

    Args:
        env: The environment, scalar or vector.

    Attributes:
        columns: Scores of each device.

    Raises:
        ValueError: If it does not suit the environment.
    """

    columns: int

    @abstractmethod
    def decode(self, observations: Any, scores: NDArray[Any]) -> NDArray[np.float32]:
        """Return actions, ``(..., K, c)``, for scores ``(..., K, columns)``."""


class Residual(Decoder):
    """Scores are added to what a baseline does.

    Args:
        env: The environment.
        policy: ``name`` of the baseline, and its parameters.
        scale: What a score of 1 adds.

    Source: Johannink et al., "Residual Reinforcement Learning for Robot Control", 2019.
    """

    def __init__(self, env: Any, *, policy: Mapping[str, Any], scale: float = 0.2) -> None:
        self._baseline = _fixed_baseline(env, policy)
        space = self._baseline.action_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 2:
            raise ValueError(f"a residual needs continuous actions of devices, not {space}")
        self.columns = space.shape[1]
        check_number("scale", scale, 0)
        self._scale = scale

    def decode(self, observations: Any, scores: NDArray[Any]) -> NDArray[np.float32]:
        """Add them to the baseline's actions; what has no scores stays the baseline's."""
        unscored = self.columns - scores.shape[-1]
        scores = np.pad(scores, [(0, 0)] * (scores.ndim - 1) + [(0, unscored)])
        actions = self._baseline.act(observations) + self._scale * scores
        return np.clip(actions, -1, 1).astype(np.float32)


class FillInOrder(Decoder):
    """Learners are given samples in an order, each as many as leave it so many updates.

    The first score moves a learner in the order of the samples D_k(1) that it can hold, by a
    factor of up to e²; the second is the updates that it shall make, 1 to 6, geometrically. The
    last one that is given samples gets what is left, and what nobody can hold goes to the last in
    the order. Where resources are chosen too, bands are those of the joint optimum under the cap
    3, times up to e or its inverse by a third score, and powers and speeds the best for the tasks.
    """

    def __init__(self, env: Any) -> None:
        lanes = env.unwrapped
        config = lanes.config
        suits = isinstance(config, TaskAllocationConfig) and config.actions in ("direct", "joint")
        if not suits or config.redundancy > 1:
            raise ValueError("fill-in-order is for task allocation with continuous actions")
        self._config: TaskAllocationConfig = config
        self._tables = lanes.tables
        self.columns = 2 if config.actions == "direct" else 3

    def decode(self, observations: Any, scores: NDArray[Any]) -> NDArray[np.float32]:
        """Fill learners up in order."""
        config, seen = self._config, Observation(self._tables, observations)
        costs, total = observed_costs(seen, config), observed_total(seen)
        values = np.asarray(scores, np.float64)
        wanted = np.rint(np.exp(math.log(_MOST_WANTED) * (values[..., 1] + 1) / 2))
        wanted = np.minimum(wanted, config.most_updates).astype(np.int64)
        priority = np.log(np.maximum(costs.capacity(1.0), 1e-9)) + _PRIORITY_SPAN * values[..., 0]
        if config.actions == "direct":
            rooms = np.floor(costs.capacity(wanted) + 1e-9).astype(np.int64)
            samples = _filled(rooms, priority, total)
            return TaskCodec(config).encode(Tasks(samples, costs.max_updates(samples)))
        limits = observed_limits(seen, config)
        _, resources = task_resources.joint_allocation(
            limits, total, 3, config.least_samples, config.most_updates
        )
        bands = resources.band_hz * np.exp(values[..., 2])
        # What an action can say at least.
        bands = np.maximum(bands, LEAST_BAND_RATIO * bands.max(axis=-1, keepdims=True))
        bands *= (limits.band_hz / bands.sum(axis=-1))[..., None]
        rooms = np.floor(task_resources.capacity(limits, wanted, bands)).astype(np.int64)
        samples = _filled(rooms, priority, total)
        updates = np.where((samples > 0) & (samples <= rooms), wanted, 0)
        doing = np.where(updates > 0, samples, 0)
        resources = task_resources.best_resources(limits, doing, updates, bands)
        shares = JointShares.of(Tasks(samples, updates), resources, limits)
        return JointCodec(config).encode(shares)


class OptimalResources(Decoder):
    """A score moves what a baseline offloads for a user; bands and CPU speeds are optimal for it.

    Args:
        env: The environment.
        policy: ``name`` of the baseline, and its parameters.
        scale: What a score of 1 adds to the part of a task that is offloaded, up to 1.
    """

    columns = 1

    def __init__(self, env: Any, *, policy: Mapping[str, Any], scale: float = 0.5) -> None:
        config = env.unwrapped.config
        check_number("scale", scale, 0)
        if not isinstance(config, OffloadingConfig) or config.actions != "direct":
            raise ValueError("optimal-resources is for offloading with continuous actions")
        self._residual = Residual(env, policy=policy, scale=2 * scale)
        self._config: OffloadingConfig = config
        self._tables = env.unwrapped.tables

    def decode(self, observations: Any, scores: NDArray[Any]) -> NDArray[np.float32]:
        """Move the parts and solve for the rest."""
        residuals = np.zeros((*scores.shape[:-1], 4))
        residuals[..., 3] = scores[..., 0]
        moved = self._residual.decode(observations, residuals)
        costs = observed_offloading_costs(Observation(self._tables, observations), self._config)
        codec = OffloadingCodec(self._config)
        wanted = codec.decode(moved, costs.task_bits > 0)
        return codec.encode(optimal_resources(costs, wanted.offloaded))


class OptimalSlots(Decoder):
    """A score multiplies the batch that a baseline wants of a device; slots are optimal for it.

    Args:
        env: The environment.
        policy: ``name`` of the baseline, and its parameters.
        scale: The logarithm of what a score of 1 multiplies by, before rounding.
    """

    columns = 1

    def __init__(self, env: Any, *, policy: Mapping[str, Any], scale: float = 0.5) -> None:
        config = env.unwrapped.config
        check_number("scale", scale, 0)
        if not isinstance(config, BatchSlotConfig) or config.actions != "direct":
            raise ValueError("optimal-slots is for batches and slots with continuous actions")
        self._baseline = _fixed_baseline(env, policy)
        self._scale = scale
        self._config: BatchSlotConfig = config
        self._codec = DirectCodec(config)
        self._tables = env.unwrapped.tables

    def decode(self, observations: Any, scores: NDArray[Any]) -> NDArray[np.float32]:
        """Move the batches and solve for the slots."""
        costs = observed_round_costs(Observation(self._tables, observations), self._config)
        shares = self._codec.decode(self._baseline.act(observations))
        wanted = shares.allocation(costs.max_batch).batch
        moved = np.rint(wanted * np.exp(self._scale * np.asarray(scores[..., 0], np.float64)))
        batch = np.clip(moved, 1, costs.max_batch)
        return self._codec.encode(AllocationShares.of(optimal_slots(costs, batch), costs.max_batch))


def _fixed_baseline(env: Any, policy: Mapping[str, Any]) -> Baseline:
    """Make the baseline that is learned around.

    Raises:
        ValueError: If it does not suit the environment, or draws.
    """
    if not isinstance(policy, Mapping) or not isinstance(policy.get("name"), str):
        raise ValueError(f"policy must be a mapping with name, got {shown(policy)}")
    parameters = {name: value for name, value in policy.items() if name != "name"}
    baseline = make_baseline(policy["name"], env, **parameters)
    if isinstance(baseline, DrawingBaseline):
        raise ValueError(f"{policy['name']} acts at random: an agent cannot learn around it")
    return baseline


def _filled(rooms: IntArray, priority: NDArray[np.float64], total: IntArray) -> IntArray:
    """Return samples ``(..., K)``, given in the order of falling priority as far as rooms go."""
    order = np.argsort(-priority, axis=-1, kind="stable")
    ranked = np.take_along_axis(rooms, order, axis=-1)
    before = np.cumsum(ranked, axis=-1) - ranked
    filled = np.clip(total[..., None] - before, 0, ranked)
    filled[..., -1] += total - filled.sum(axis=-1)
    samples = np.empty_like(filled)
    np.put_along_axis(samples, order, filled, axis=-1)
    return samples


DECODERS: dict[str, type[Any]] = {
    "residual": Residual,
    "fill-in-order": FillInOrder,
    "optimal-resources": OptimalResources,
    "optimal-slots": OptimalSlots,
}
"""Decoders by the names that recipes use."""


def make_decoder(wanted: Mapping[str, Any], env: Any) -> Decoder:
    """Make a decoder for an environment.

    Args:
        wanted: ``name`` of the decoder, and its parameters.
        env: The environment, scalar or vector.

    Raises:
        ValueError: If there is none of this name, a parameter is wrong or it does not suit.
    """
    parameters = {name: value for name, value in wanted.items() if name != "name"}
    name = wanted.get("name")
    if name not in DECODERS:
        raise ValueError(f"unknown decoder {shown(name)}; known are {', '.join(DECODERS)}")
    try:
        decoder: Decoder = DECODERS[name](env, **parameters)
    except TypeError as error:
        raise ValueError(f"the decoder {name!r} has other parameters: {error}") from error
    return decoder
