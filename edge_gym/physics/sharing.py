"""Sharing the band: until all finish at the same time, and how evenly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_gym.physics.checks import not_negative, positive
from edge_gym.typing import Float64Array


def jain_index(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Return Jain's fairness index of ``(m, K)`` counts: 1 if all are alike, 1/K if one has all."""
    share = counts / np.maximum(counts.sum(axis=1), 1)[:, None]
    squares = np.square(share).sum(axis=1) * counts.shape[1]
    return np.asarray(1 / np.maximum(squares, 1e-12))


def common_finish(
    ready_s: ArrayLike, upload_s: ArrayLike, taking_part: NDArray[np.bool_]
) -> Float64Array:
    """Return when all finish if the band is shared so that they finish at the same time.

    With the share u/(T - r) of the band, a device that is ready at r and needs u seconds of the
    whole band finishes at T; the shares sum to one. Newton's method from below, where the sum of
    the shares, convex and falling in T, is at least one: it never overshoots.

    Args:
        ready_s: When each device can begin, r, ``(..., K)``.
        upload_s: Seconds that each needs of the whole band, u > 0, ``(..., K)``.
        taking_part: Who shares the band, ``(..., K)``.

    Returns:
        T in seconds, ``(...)``; 0 where nobody takes part.

    Source: Wen et al. 2019 §5.1, opportunity 1 (more bandwidth for slow devices).
    """
    ready = np.where(taking_part, not_negative("ready_s", ready_s), 0.0)
    needs = np.where(taking_part, positive("upload_s", upload_s), 0.0)
    finish = (ready + needs).max(axis=-1, keepdims=True)
    for _ in range(50):
        left = np.where(taking_part, finish - ready, 1.0)
        share = needs / np.maximum(left, 1e-300)
        slope = (share / np.maximum(left, 1e-300)).sum(axis=-1, keepdims=True)
        excess = share.sum(axis=-1, keepdims=True) - 1
        # Each stops by itself, so that results do not depend on what stands beside them.
        going = excess > 1e-12
        if not going.any():
            break
        finish = finish + np.divide(excess, slope, out=np.zeros_like(excess), where=going)
    return np.asarray(finish[..., 0])
