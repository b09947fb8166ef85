"""Devices that are slow for once."""

from __future__ import annotations

import numpy as np

from edge_gym.runtime.streams import Purpose, Streams
from edge_gym.typing import Float64Array, IntArray


def slow_downs(
    streams: Streams,
    lanes: IntArray,
    step: IntArray,
    n_devices: int,
    probability: float,
    factor: float,
) -> Float64Array:
    """Return how many times longer each device computes in a step, ``(m, K)``.

    Args:
        streams: What is drawn from.
        lanes: ``(m,)``.
        step: Number of each lane's step, ``(m,)``.
        n_devices: K.
        probability: That a device is slow in a step.
        factor: How many times longer it computes then.
    """
    drawn = streams.uniforms(lanes, Purpose.SLOW_DOWNS, (n_devices,), step)
    return np.where(drawn < probability, factor, 1.0)
