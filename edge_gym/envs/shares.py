"""Shares of what is divided among devices, such as the band, from an agent's scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.typing import BoolArray, Float64Array


def shares_from_scores(
    scores: NDArray[Any], exponent: float, taking_part: BoolArray | None = None, axis: int = -1
) -> Float64Array:
    """Return shares in proportion to exp(exponent·score), which sum to one along ``axis``.

    Args:
        scores: In [-1, 1].
        exponent: The largest share is up to exp(2·exponent) times the smallest.
        taking_part: Who gets a share, of the scores' shape; None means all. Where nobody takes
            part, all shares are 0.
        axis: Along which something is shared.
    """
    weights = np.exp(exponent * np.asarray(scores, np.float64))
    if taking_part is not None:
        weights = np.where(taking_part, weights, 0.0)
    return np.asarray(weights / np.maximum(weights.sum(axis=axis, keepdims=True), 1e-12))


def scores_from_shares(shares: NDArray[Any], exponent: float, axis: int = -1) -> Float64Array:
    """Return the scores, in [-1, 1], whose shares these are; the largest share's score is 1.

    Shares below exp(-2·exponent) of the largest are raised to that, the least that scores can say.
    """
    relative = shares / shares.max(axis=axis, keepdims=True)
    # What vanished in rounding is tiny here.
    scores = 1 + np.log(np.maximum(relative, 1e-300)) / exponent
    return np.asarray(np.clip(scores, -1, 1), np.float64)
