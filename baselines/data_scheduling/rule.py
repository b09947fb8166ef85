"""What the rules of data scheduling share: how they read an observation, and how they act."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines.base import Baseline, DrawingBaseline
from edge_gym.core.actions import ActionCodec
from edge_gym.core.observation import Observation, ObservationTable
from edge_gym.envs.data_scheduling.actions import (
    ChooseDevice,
    ChooseSample,
    RankDevices,
    UploadCodec,
    preferred_sample,
)
from edge_gym.envs.data_scheduling.config import DataSchedulingConfig
from edge_gym.physics.wireless import db_to_linear
from edge_gym.typing import BoolArray, Float64Array, IntArray


class Seen(Observation):
    """What is observed, by name, and what can be uploaded.

    Args:
        tables: The observation's tables.
        observations: The observation's parts, with any leading axes.
        masks: Which discrete actions are possible; None if it is not known.

    Attributes:
        snr: γ of each device's channel in this block, ``(..., K)``.
        possible: Which samples can be uploaded, ``(..., K, N)``: they are there, their device was
            not yet chosen in this block, and the masks allow them.
        devices: Which devices have a sample that can be uploaded, ``(..., K)``.
    """

    def __init__(
        self,
        tables: Mapping[str, ObservationTable],
        observations: Mapping[str, NDArray[Any]],
        masks: BoolArray | None = None,
    ) -> None:
        super().__init__(tables, observations)
        self.snr = db_to_linear(self.device("snr_db"))
        self.present = self.sample("present") > 0
        self.possible = self.present & ~self.chosen[..., None]
        if masks is not None:
            # Of each sample, or of each device.
            k, n = self.present.shape[-2:]
            each = (k, n) if masks.shape[-1] == k * n else (k, 1)
            self.possible &= masks.reshape(*masks.shape[:-1], *each)
        self.devices: BoolArray = np.asarray(self.possible.any(axis=-1))

    def has(self, part: str, name: str) -> bool:
        """Return whether there is a column of this name."""
        return name in self._tables[part]

    def sample(self, name: str) -> Float64Array:
        """Return a column of the samples, ``(..., K, N)``."""
        return self.read("samples", name)

    def system(self, name: str) -> Float64Array:
        """Return a column of the system so that it broadcasts against samples, ``(..., 1, 1)``."""
        return self.read("system", name)[..., None, None]

    @property
    def sample_snr(self) -> Float64Array:
        """The SNR at which each sample would be uploaded, ``(..., K, N)``."""
        return np.broadcast_to(self.snr[..., None], self.present.shape)

    @property
    def chosen(self) -> BoolArray:
        """Which devices were chosen in this block so far, ``(..., K)``."""
        if self.has("devices", "chosen"):
            return np.asarray(self.device("chosen") > 0)
        return np.zeros(self.snr.shape, np.bool_)

    @functools.cached_property
    def uncertainty(self) -> Float64Array:
        """The larger the more uncertain: -d, or the entropy H in nats, ``(..., K, N)``."""
        return (
            -self.sample("distance") if self.has("samples", "distance") else self.sample("entropy")
        )

    @functools.cached_property
    def loss(self) -> Float64Array | None:
        """The hinge loss or cross-entropy, ``(..., K, N)``; None where labels are unknown."""
        for name in ("hinge_loss", "cross_entropy"):
            if self.has("samples", name):
                return self.sample(name)
        return None

    @functools.cached_property
    def preferred(self) -> IntArray:
        """The sample that each device would upload by itself, ``(..., K)``."""
        return preferred_sample(self.uncertainty, self.loss, self.present)

    def at_preferred(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the values ``(..., K, N)`` of the devices' preferred samples, ``(..., K)``."""
        return np.take_along_axis(values, self.preferred[..., None], axis=-1)[..., 0]

    def only(self, samples: IntArray) -> Float64Array:
        """Return 1 for one sample of each device and 0 for its others, ``(..., K, N)``."""
        return np.asarray(samples[..., None] == np.arange(self.present.shape[-1]), np.float64)


def best(keys: Sequence[NDArray[Any]], possible: BoolArray) -> IntArray:
    """Return the possible position of the largest first key; the next key settles ties.

    Args:
        keys: ``(..., n)`` each; what ties in all of them goes to the lower position.
        possible: ``(..., n)``.

    Returns:
        Positions, ``(...)``; 0 where nothing is possible.
    """
    left = possible
    for key in keys:
        value = np.where(left, key, -np.inf)
        left = left & (value == value.max(axis=-1, keepdims=True))
    return np.asarray(left.argmax(axis=-1))


class SchedulingRule(Baseline):
    """A rule that gives every sample an index; the best index uploads.

    Where devices choose their sample by themselves, a device counts by the index of the sample that
    it would upload.
    """

    needs: ClassVar[Mapping[str, Sequence[str]]] = {
        "devices": ("snr_db",),
        "samples": ("present",),
    }
    needs_codec: ClassVar[type[ActionCodec[Any]] | None] = UploadCodec
    config: DataSchedulingConfig

    def __init__(self, env: Any, **parameters: Any) -> None:
        super().__init__(env, **parameters)
        self.codec: ChooseSample | ChooseDevice | RankDevices = env.unwrapped.problem.codec

    @abstractmethod
    def index(self, seen: Seen) -> Float64Array:
        """Return the index of each sample, which broadcasts to ``(..., K, N)``."""

    def preference(self, seen: Seen, index: Float64Array) -> Float64Array:
        """Return what settles ties of index and channel, ``(..., K, N)``."""
        return np.zeros(index.shape)

    def order(self, seen: Seen, index: Float64Array) -> IntArray:
        """Return all devices, best first, from their index ``(..., K)``."""
        value = np.where(seen.devices, index, -np.inf)
        return np.lexsort((-seen.snr, -value), axis=-1)

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Upload the best index, by the better channel where it ties."""
        seen = Seen(self.tables, observations, masks)
        index = np.broadcast_to(self.index(seen), seen.possible.shape)
        if isinstance(self.codec, ChooseSample):
            keys = (index, seen.sample_snr, self.preference(seen, index))
            flat = (*index.shape[:-2], -1)
            chosen = best([key.reshape(flat) for key in keys], seen.possible.reshape(flat))
            return self.codec.encode(np.divmod(chosen, index.shape[-1]))
        of_devices = seen.at_preferred(index)
        if isinstance(self.codec, ChooseDevice):
            return self.codec.encode(best((of_devices, seen.snr), seen.devices))
        return self.codec.encode(self.order(seen, of_devices))


class AnySample(SchedulingRule, DrawingBaseline):
    """A rule on devices alone: where samples are chosen, it takes any of the device's."""

    def preference(self, seen: Seen, index: Float64Array) -> Float64Array:
        """Draw a number for each sample."""
        shape = seen.possible.shape
        draws = np.stack([rng.random(shape[-2:]) for rng in self.generators])
        return np.asarray(draws.reshape(shape))
