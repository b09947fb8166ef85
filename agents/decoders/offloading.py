"""Decoder of offloading: bands and CPU speeds are optimal for the parts that are offloaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.agents.decoders.base import Decoder
from edge_gym.agents.decoders.residual import Residual
from edge_gym.core.observation import Observation
from edge_gym.envs.offloading.actions import OffloadingCodec
from edge_gym.envs.offloading.config import OffloadingConfig
from edge_gym.envs.offloading.costs import observed_costs as observed_offloading_costs
from edge_gym.runtime.checks import check_number
from edge_gym.solvers.offloading import optimal_resources


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
