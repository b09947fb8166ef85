"""Decoder of task allocation: learners are filled up in order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.agents.decoders.base import Decoder
from edge_gym.core.observation import Observation
from edge_gym.envs.task_allocation.actions import (
    LEAST_BAND_RATIO,
    JointCodec,
    JointShares,
    TaskCodec,
)
from edge_gym.envs.task_allocation.config import TaskAllocationConfig
from edge_gym.envs.task_allocation.costs import observed_costs, observed_limits, observed_total
from edge_gym.solvers import task_resources
from edge_gym.solvers.task_allocation import Tasks
from edge_gym.typing import IntArray

_PRIORITY_SPAN = 2.0
_MOST_WANTED = 6


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
