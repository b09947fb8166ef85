"""What actions of batches and time slots mean; environment, rules and decoders ask here."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from edge_gym.core.actions import ActionCodec
from edge_gym.envs.batch_slot.config import BatchSlotConfig
from edge_gym.envs.shares import scores_from_shares, shares_from_scores
from edge_gym.solvers.batch_slot import Allocation
from edge_gym.typing import Float64Array, FloatArray, IntArray

SLOT_EXPONENT = 3.0
"""Devices get parts of a frame in proportion to exp(3ℓ), ℓ in [-1, 1]."""


class AllocationShares(NamedTuple):
    """Batches and slots as shares of what is possible; ``(..., K)`` each.

    Attributes:
        batch: 0 for one sample, 1 for the device's largest batch.
        uplink_slot: Shares of the uplink's frame, which sum to one.
        downlink_slot: Shares of the downlink's frame.
    """

    batch: Float64Array
    uplink_slot: Float64Array
    downlink_slot: Float64Array

    @classmethod
    def of(cls, allocation: Allocation, max_batch: ArrayLike) -> AllocationShares:
        """Return the shares that an allocation is.

        Args:
            allocation: Batches and slots.
            max_batch: Largest batch of each device, ``(..., K)``.
        """
        span = np.maximum(np.asarray(max_batch, np.float64) - 1, 1e-12)
        share = np.asarray((allocation.batch - 1) / span)
        return cls(share, allocation.uplink_slot, allocation.downlink_slot)

    def allocation(self, max_batch: ArrayLike) -> Allocation:
        """Return whole batches and the slots, where ``max_batch``, ``(..., K)``, is possible."""
        most = np.asarray(max_batch, np.float64)
        batch = np.rint(1 + self.batch * (most - 1))
        return Allocation(batch, self.uplink_slot, self.downlink_slot)


class BatchSlotCodec(ActionCodec[Any]):
    """What decides batches and slots."""


class DirectCodec(BatchSlotCodec):
    """Batches and slots of K devices, ``(..., K, 3)``: ``actions="direct"``.

    The first column goes linearly from a batch of 1 to the device's largest one; the others share
    the uplink's and the downlink's frames in proportion to exp(3ℓ).

    Args:
        config: The configuration.
    """

    def __init__(self, config: BatchSlotConfig) -> None:
        self.space = spaces.Box(-1, 1, (config.n_devices, 3), np.float32)

    def decode(self, actions: NDArray[Any]) -> AllocationShares:
        """Return shares; slots sum to one."""
        wanted = np.asarray(actions, np.float64)
        slots = shares_from_scores(wanted[..., 1:], SLOT_EXPONENT, axis=-2)
        return AllocationShares((wanted[..., 0] + 1) / 2, slots[..., 0], slots[..., 1])

    def encode(self, decision: AllocationShares) -> FloatArray:
        """Return the actions; slots below exp(-6) of their frame's largest are raised to that."""
        slots = [
            scores_from_shares(slot, SLOT_EXPONENT)
            for slot in (decision.uplink_slot, decision.downlink_slot)
        ]
        batch = np.clip(2 * decision.batch - 1, -1, 1)
        return np.stack([batch, *slots], axis=-1).astype(np.float32)


class GlobalCodec(BatchSlotCodec):
    """One of the global batchsizes of ``global_batches``: ``actions="global"``.

    Args:
        config: The configuration.
    """

    def __init__(self, config: BatchSlotConfig) -> None:
        self.choices = config.choices
        self.space = spaces.Discrete(config.choices)

    def decode(self, actions: NDArray[Any]) -> IntArray:
        """Return the places in the row of choices, ``(...)``."""
        return np.asarray(actions, np.int64)

    def encode(self, decision: IntArray) -> IntArray:
        """Return the places."""
        return np.asarray(decision, np.int64)

    def total(self, choice: IntArray, max_batch: ArrayLike) -> Float64Array:
        """Return the global batchsizes at places in the row, ``(...)``."""
        totals = global_batches(max_batch, self.choices)
        return np.take_along_axis(totals, choice[..., None], axis=-1)[..., 0]

    def nearest(self, total: ArrayLike, max_batch: ArrayLike) -> IntArray:
        """Return the place of the choice whose ratio to ``total``, ``(...)``, is nearest to 1."""
        totals = global_batches(max_batch, self.choices)
        ratio = np.log(totals / np.asarray(total, np.float64)[..., None])
        return np.asarray(np.abs(ratio).argmin(axis=-1))


def action_codec(config: BatchSlotConfig) -> DirectCodec | GlobalCodec:
    """Return the codec of the configuration's actions."""
    return DirectCodec(config) if config.actions == "direct" else GlobalCodec(config)


def global_batches(max_batch: ArrayLike, choices: int) -> Float64Array:
    """Return the global batchsizes to choose from, ``(..., choices)``, whole numbers.

    Args:
        max_batch: Largest batch of each device, ``(..., K)``.
        choices: How many; the first is K, the last Σ ``max_batch``.
    """
    most = np.asarray(max_batch, np.float64)
    n_devices = most.shape[-1]
    ratio = most.sum(axis=-1)[..., None] / n_devices
    return np.asarray(np.rint(n_devices * ratio ** np.linspace(0, 1, choices)))
