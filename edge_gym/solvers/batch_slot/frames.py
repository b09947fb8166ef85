"""Slots of a frame in which all devices finish together."""

from __future__ import annotations

import numpy as np

from edge_gym.solvers.batch_slot.terms import ROUNDING, SMALL_STEP, sum_of_devices
from edge_gym.typing import Float64Array


def common_finish(ready: Float64Array, needs: Float64Array) -> Float64Array:
    """Return the x of Σ needs/(x - ready) = 1, ``(m,)``.

    ``sharing.common_finish`` solves the same to 1e-12. Newton's method on the reciprocal of the
    sum, concave in x and nearly linear, takes fewer passes and reaches rounding.
    """
    total = sum_of_devices(needs)
    x = np.maximum((ready + needs).max(axis=0), total + sum_of_devices(needs * ready) / total)
    going = np.ones(x.shape, np.bool_)
    while True:
        step = step_to_full_frame(x, ready, needs)
        # Each stops by itself, so that results do not depend on what stands beside them.
        x = np.asarray(np.where(going, x + np.maximum(step, 0.0), x))
        going &= step > SMALL_STEP * x
        if not going.any():
            return x


def share_of_frame(x: Float64Array, ready: Float64Array, needs: Float64Array) -> Float64Array:
    """Return the shares of a frame with which devices finish after x seconds."""
    # Less than rounding is left of x only where next to nothing is sent.
    return np.asarray(needs / np.maximum(x - ready, ROUNDING * x))


def step_to_full_frame(x: Float64Array, ready: Float64Array, needs: Float64Array) -> Float64Array:
    """Return the step of Newton's method on the reciprocal of Σ needs/(x - ready)."""
    share = share_of_frame(x, ready, needs)
    load = sum_of_devices(share)
    return np.asarray(load * (load - 1) / sum_of_devices(share * share / needs))


def slots_of(ready: Float64Array, needs: Float64Array) -> Float64Array:
    """Return the slots with which all devices finish together."""
    share = share_of_frame(common_finish(ready, needs), ready, needs)
    return np.asarray(share / sum_of_devices(share))
