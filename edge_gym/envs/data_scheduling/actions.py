"""What an action means: which devices upload which of their samples."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from edge_gym.core.actions import ActionCodec
from edge_gym.envs.data_scheduling.config import DataSchedulingConfig
from edge_gym.typing import IntArray

Decision = TypeVar("Decision")


class UploadCodec(ActionCodec[Decision]):
    """An action of data scheduling, of any kind."""


class ChooseSample(UploadCodec[tuple[IntArray, IntArray]]):
    """``Discrete(K·N)``: k·N + n lets device k upload the sample n of its buffer.

    Args:
        n_devices: K.
        buffer_size: N.
    """

    def __init__(self, n_devices: int, buffer_size: int) -> None:
        self.space = spaces.Discrete(n_devices * buffer_size)
        self.buffer_size = buffer_size

    def decode(self, actions: NDArray[Any]) -> tuple[IntArray, IntArray]:
        """Return devices and samples, ``(...)`` each."""
        return np.divmod(actions, self.buffer_size)

    def encode(self, decision: tuple[IntArray, IntArray]) -> NDArray[Any]:
        """Return the actions that choose these devices and samples."""
        device, sample = decision
        return np.asarray(device * self.buffer_size + sample)


class DeviceCodec(UploadCodec[IntArray]):
    """Devices are chosen; each uploads its ``preferred_sample``."""


class ChooseDevice(DeviceCodec):
    """``Discrete(K)``: the device.

    Args:
        n_devices: K.
    """

    def __init__(self, n_devices: int) -> None:
        self.space = spaces.Discrete(n_devices)

    def decode(self, actions: NDArray[Any]) -> IntArray:
        """Return devices, ``(...)``."""
        return np.asarray(actions, np.int64)

    def encode(self, decision: IntArray) -> NDArray[Any]:
        """Return the actions that choose these devices."""
        return decision


class RankDevices(DeviceCodec):
    """``Box(-1, 1, (K,))``: a score for each device; those of the largest scores upload.

    Args:
        n_devices: K.
    """

    def __init__(self, n_devices: int) -> None:
        self.space = spaces.Box(-1, 1, (n_devices,), np.float32)
        self.n_devices = n_devices

    def decode(self, actions: NDArray[Any]) -> IntArray:
        """Return all devices, best first, ``(..., K)``; equal scores go by index."""
        return np.argsort(-actions, axis=-1, kind="stable")

    def encode(self, decision: IntArray) -> NDArray[Any]:
        """Return evenly spaced scores that rank devices so."""
        scores = np.empty(decision.shape, np.float32)
        ranks = np.linspace(1, -1, self.n_devices, dtype=np.float32)
        np.put_along_axis(scores, decision, np.broadcast_to(ranks, scores.shape), axis=-1)
        return scores


def action_codec(config: DataSchedulingConfig) -> ChooseSample | ChooseDevice | RankDevices:
    """Return what actions mean under a configuration."""
    if config.actions == "sample":
        return ChooseSample(config.n_devices, config.buffer_size)
    if config.actions == "device":
        return ChooseDevice(config.n_devices)
    return RankDevices(config.n_devices)


def preferred_sample(
    uncertainty: NDArray[Any], loss: NDArray[Any] | None, present: NDArray[Any]
) -> NDArray[np.int64]:
    """Return which sample each device uploads by itself.

    The largest loss where labels are known, the most uncertain sample where they are not and among
    samples without loss.

    Args:
        uncertainty: The larger the more uncertain, ``(..., N)``.
        loss: The hinge loss or cross-entropy, ``(..., N)``; None where labels are unknown.
        present: Which samples there are, ``(..., N)``.

    Returns:
        Positions in the buffers, ``(...)``.

    Source: Wen et al. 2019, eq. (3), and Scheme 2 of the text with its figures (the largest hinge
    loss of the buffer).
    """
    value = np.where(present, uncertainty, -np.inf)
    if loss is not None:
        losing = np.where(present, loss, 0)
        value = np.where(losing.max(axis=-1, keepdims=True) > 0, losing, value)
    return np.asarray(value.argmax(axis=-1))
