"""How evenly something is shared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def jain_index(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Return Jain's fairness index of ``(m, K)`` counts: 1 if all are alike, 1/K if one has all."""
    share = counts / np.maximum(counts.sum(axis=1), 1)[:, None]
    squares = np.square(share).sum(axis=1) * counts.shape[1]
    return np.asarray(1 / np.maximum(squares, 1e-12))
