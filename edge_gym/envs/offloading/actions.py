"""What actions of offloading mean; environment, rules and decoders ask here.

Which of the three codecs an environment has, ``action_codec`` says.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from edge_gym.core.actions import ActionCodec
from edge_gym.envs.offloading.config import SPLIT_LEVELS, OffloadingConfig
from edge_gym.solvers.offloading import Offloading
from edge_gym.typing import BoolArray, Float64Array, FloatArray, IntArray

Decision = TypeVar("Decision")

SHARE_EXPONENT = 4.0
"""Uplinks and downlinks share the band in proportion to exp(4ℓ), ℓ in [-1, 1]."""
LEAST_CPU_SHARE = 0.05
"""A user computes with at least this share of its CPU's speed."""

# Nothing and all, which differ from what lies between, are more than two points.
_EDGE = 0.05


class OffloadingActions(ActionCodec[Decision]):
    """What all actions of offloading have in common."""

    @abstractmethod
    def nearest(self, decision: Offloading) -> NDArray[Any]:
        """Return the actions that come nearest to a whole decision, ``(..., M)`` each."""


class OffloadingCodec(OffloadingActions[Offloading]):
    """Bands, CPU frequencies and offloaded parts of M users, ``(..., M, 4)``: ``"direct"``.

    The first two columns ℓ share the band among all uplinks and downlinks in proportion to exp(4ℓ);
    the third is the CPU's frequency, linearly from a twentieth of f_max up to that; the fourth is
    ι_j, linearly, with 0 and 1 a little before the ends.

    Args:
        config: The configuration.
    """

    def __init__(self, config: OffloadingConfig) -> None:
        self.max_cpu_hz = config.max_cpu_hz
        self.space = spaces.Box(-1, 1, (config.n_devices, 4), np.float32)

    def decode(self, actions: NDArray[Any], has_tasks: BoolArray | bool = True) -> Offloading:
        """Return what actions decide.

        Args:
            actions: ``(..., M, 4)``.
            has_tasks: Whether each user has a task, ``(..., M)``; who has none offloads and
                computes nothing, and downloads.
        """
        wanted = np.asarray(actions, np.float64)
        offloaded = np.clip(((1 + _EDGE) * wanted[..., 3] + 1) / 2, 0, 1)
        offloaded = np.where(has_tasks, offloaded, 0.0)
        download = offloaded < 1
        weights = np.exp(SHARE_EXPONENT * wanted[..., :2])
        weights[..., 1] = np.where(download, weights[..., 1], 0.0)
        shares = weights / weights.sum(axis=(-2, -1), keepdims=True)
        cpu = LEAST_CPU_SHARE + (1 - LEAST_CPU_SHARE) * (wanted[..., 2] + 1) / 2
        computing = has_tasks & download
        return Offloading(
            offloaded,
            download,
            shares[..., 0],
            shares[..., 1],
            np.where(computing, cpu * self.max_cpu_hz, 0.0),
        )

    def encode(self, decision: Offloading) -> FloatArray:
        """Return the actions; shares below exp(-8) of the largest one are raised to that."""
        shares = np.stack([decision.uplink_share, decision.downlink_share], axis=-1)
        largest = shares.max(axis=(-2, -1), keepdims=True)
        logits = 1 + np.log(np.maximum(shares / largest, 1e-300)) / SHARE_EXPONENT
        cpu = (decision.cpu_hz / self.max_cpu_hz - LEAST_CPU_SHARE) / (1 - LEAST_CPU_SHARE)
        split = (2 * decision.offloaded - 1) / (1 + _EDGE)
        split = np.where(decision.offloaded == 1, 1.0, split)
        columns = [logits, (2 * cpu - 1)[..., None], split[..., None]]
        actions: FloatArray = np.concatenate(columns, axis=-1).astype(np.float32)
        return np.clip(actions, -1, 1)

    def nearest(self, decision: Offloading) -> FloatArray:
        """Return the actions."""
        return self.encode(decision)


class GridCodec(OffloadingActions[Float64Array]):
    """Offloaded parts ι_j of M users in steps of 0.2, a level each, ``(..., M)``: ``"grid"``.

    Args:
        config: The configuration.
    """

    def __init__(self, config: OffloadingConfig) -> None:
        self.space = spaces.MultiDiscrete([SPLIT_LEVELS] * config.n_devices)

    def decode(self, actions: NDArray[Any]) -> Float64Array:
        """Return the parts, ``(..., M)``."""
        return np.asarray(actions / (SPLIT_LEVELS - 1))

    def encode(self, decision: Float64Array) -> IntArray:
        """Return the nearest levels, ``(..., M)``."""
        return np.rint(decision * (SPLIT_LEVELS - 1)).astype(np.int64)

    def nearest(self, decision: Offloading) -> IntArray:
        """Return the levels of what is offloaded; all else is optimal anyway."""
        return self.encode(decision.offloaded)


class CombinationCodec(OffloadingActions[Float64Array]):
    """Offloaded parts of M users in steps of 0.2, as one number, ``(...)``: ``"combination"``.

    The last user's level counts least.

    Args:
        config: The configuration.
    """

    def __init__(self, config: OffloadingConfig) -> None:
        self.levels = GridCodec(config)
        self.n_users = config.n_devices
        self.space = spaces.Discrete(SPLIT_LEVELS**self.n_users)

    def decode(self, actions: NDArray[Any]) -> Float64Array:
        """Return the parts, ``(..., M)``."""
        return self.levels.decode(levels_of(actions, self.n_users))

    def encode(self, decision: Float64Array) -> IntArray:
        """Return the combinations of the nearest levels, ``(...)``."""
        return combination_of(self.levels.encode(decision))

    def nearest(self, decision: Offloading) -> IntArray:
        """Return the combination of what is offloaded; all else is optimal anyway."""
        return self.encode(decision.offloaded)


def action_codec(config: OffloadingConfig) -> OffloadingCodec | GridCodec | CombinationCodec:
    """Return what actions mean under a configuration."""
    if config.actions == "direct":
        return OffloadingCodec(config)
    return GridCodec(config) if config.actions == "grid" else CombinationCodec(config)


def combination_of(levels: IntArray) -> IntArray:
    """Return the number of a combination of levels ``(..., M)``; the last user's counts least."""
    powers = SPLIT_LEVELS ** np.arange(levels.shape[-1])[::-1]
    return np.asarray((levels * powers).sum(axis=-1))


def levels_of(combinations: ArrayLike, n_users: int) -> IntArray:
    """Return the levels ``(..., M)`` of numbered combinations."""
    powers = SPLIT_LEVELS ** np.arange(n_users)[::-1]
    return np.asarray(np.asarray(combinations)[..., None] // powers % SPLIT_LEVELS)
