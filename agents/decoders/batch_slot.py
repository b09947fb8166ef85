"""Decoder of batches and slots: slots are optimal for the batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.agents.decoders.base import Decoder
from edge_gym.agents.decoders.residual import fixed_baseline
from edge_gym.baselines.batch_slot import observed_costs as observed_round_costs
from edge_gym.core.observation import Observation
from edge_gym.envs.batch_slot.actions import AllocationShares, DirectCodec
from edge_gym.envs.batch_slot.config import BatchSlotConfig
from edge_gym.runtime.checks import check_number
from edge_gym.solvers.batch_slot import optimal_slots


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
        self._baseline = fixed_baseline(env, policy)
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
