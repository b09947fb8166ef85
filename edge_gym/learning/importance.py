"""How much a sample would add to what was acquired: information in a linear model.

Samples are looked at in few principal components z. What is known after samples ẑᵢ were acquired is
A = I/E + Σᵢ ẑᵢẑᵢᵀ, a prior worth one sample spread over E directions and one term for each; a
further sample z adds log(1 + zᵀA⁻¹z) to log det A (D-optimal design).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from edge_gym.compiling import compiled
from edge_gym.learning.base import FloatArray, IntArray
from edge_gym.parallel import for_ranges


def principal_axes(features: FloatArray, size: int) -> NDArray[np.float32]:
    """Return the first principal axes of centred ``(n, d)`` features, ``(d, size)``.

    Columns beyond d are zero. An axis' largest entry is positive.
    """
    d = features.shape[1]
    covariance = (features.T @ features).astype(np.float64) / len(features)
    _, axes = linalg.eigh(covariance, subset_by_index=[max(d - size, 0), d - 1])
    axes = axes[:, ::-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    found = np.zeros((d, size), np.float32)
    found[:, : axes.shape[1]] = axes
    return found


def prior_inverse(size: int) -> NDArray[np.float64]:
    """Return A⁻¹ before anything was acquired, ``(E, E)``."""
    return size * np.eye(size)


def acquire(inverse: NDArray[np.float64], components: FloatArray) -> None:
    """Add one sample ẑ of shape ``(m, E)`` to each A, whose inverses ``(m, E, E)`` are updated."""
    z = components.astype(np.float64)
    image = (inverse @ z[:, :, None])[:, :, 0]
    scale = 1 + (image * z).sum(axis=1)
    # Sherman and Morrison's formula.
    inverse -= image[:, :, None] * (image / scale[:, None])[:, None, :]


@compiled(fastmath=True)
def _novelty(start, stop, components, rows, inverse, novelty):  # type: ignore[no-untyped-def]
    size = components.shape[1]
    for k in range(start, stop):
        for q in range(rows.shape[1]):
            z = components[rows[k, q]]
            total = 0.0
            for i in range(size):
                image = 0.0
                for j in range(size):
                    image += inverse[k, i, j] * z[j]
                total += image * z[i]
            novelty[k, q] = total


def novelty(
    components: NDArray[np.float32], rows: IntArray, inverse: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return zᵀA⁻¹z of ``components[rows]``.

    Args:
        components: Those of a data set, ``(n, E)``.
        rows: Which samples are looked at in each lane, ``(m, q)``.
        inverse: A⁻¹ of each lane, ``(m, E, E)``.

    Returns:
        ``(m, q)``.
    """
    found = np.empty(rows.shape, np.float32)

    def kernel(start: int, stop: int) -> None:
        _novelty(start, stop, components, rows, inverse, found)

    for_ranges(kernel, len(rows), grain=max(1, 512 // max(rows.shape[1], 1)))
    return found
