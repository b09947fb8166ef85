"""The samples that devices hold: a buffer that is offered, and a reserve that refills it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_gym.core.state import LaneArray, LaneState
from edge_gym.typing import BoolArray, IntArray

_ABSENT = -1


def _reserve_shape(buffers: Buffers) -> tuple[int, ...]:
    return buffers.n_devices, buffers.reserve_size


class Buffers(LaneState):
    """Rows of the data set that are in the devices' buffers and reserves.

    The reserve is a ring: an uploaded sample goes to its end.

    Args:
        n_lanes: Number of lanes.
        n_devices: K.
        buffer_size: N.
        reserve_size: Samples that a device holds in reserve at most; 0 refills no buffer.

    Attributes:
        rows: Of the samples in the buffers, ``(n_lanes, K, N)``; -1 where there is none.
        reserve: Of those in reserve, a ring, ``(n_lanes, K, reserve_size)``.
        reserved: How many these are, ``(n_lanes, K)``.
        head: Position of the next one in the ring, ``(n_lanes, K)``.
    """

    rows = LaneArray(np.int64, lambda buffers: (buffers.n_devices, buffers.buffer_size), reset=None)
    reserve = LaneArray(np.int64, _reserve_shape, reset=None)
    reserved = LaneArray(np.int64, lambda buffers: (buffers.n_devices,))
    head = LaneArray(np.int64, lambda buffers: (buffers.n_devices,))

    def __init__(self, n_lanes: int, n_devices: int, buffer_size: int, reserve_size: int) -> None:
        super().__init__(n_lanes)
        self.n_devices = n_devices
        self.buffer_size = buffer_size
        self.reserve_size = reserve_size

    @property
    def present(self) -> BoolArray:
        """Where the buffers hold a sample, ``(n_lanes, K, N)``."""
        return np.asarray(self.rows != _ABSENT)

    def fill(self, lane: int, holdings: Sequence[IntArray]) -> None:
        """Give each device of a lane its rows: the first N into the buffer, then the reserve."""
        self.clear(np.array([lane]))
        n, kept = self.buffer_size, self.reserve_size
        for device, rows in enumerate(holdings):
            reserve = rows[n : n + kept]
            self.rows[lane, device] = rows[:n]
            self.reserve[lane, device, : len(reserve)] = reserve
            self.reserve[lane, device, len(reserve) :] = _ABSENT
            self.reserved[lane, device] = len(reserve)

    def take(self, lanes: IntArray, device: IntArray, sample: IntArray) -> None:
        """Replace uploaded samples by the devices' next ones; without a reserve, remove them.

        A device whose reserve is empty keeps the sample.

        Args:
            lanes: ``(m,)``.
            device: Which device uploaded, ``(m,)``.
            sample: Which of its samples, ``(m,)``.
        """
        if not self.reserve_size:
            self.rows[lanes, device, sample] = _ABSENT
            return
        size = self.reserved[lanes, device]
        has = size > 0
        lanes, device, sample, size = lanes[has], device[has], sample[has], size[has]
        head = self.head[lanes, device]
        uploaded = self.rows[lanes, device, sample]
        self.rows[lanes, device, sample] = self.reserve[lanes, device, head]
        self.reserve[lanes, device, head] = uploaded
        self.head[lanes, device] = (head + 1) % size
