"""How much a sample would add to what was acquired: information in a linear model.

Samples are looked at in few principal components z. What is known about w in y = wᵀz + e,
e ~ N(0, 1), is A = I/E + Σᵢ aᵢz̃ᵢz̃ᵢᵀ, a prior worth one sample spread over E directions and one term
for each reception; a further clean sample z adds log(1 + zᵀA⁻¹z) to log det A (D-optimal design).

A reception at SNR γ shows ẑ = z + n, n ~ N(0, I/γ), and noise is no knowledge. With variances
λ = E[z²], ẑ tells of z no more than z̃ = λ/(λ + 1/γ)·ẑ and leaves the variances p = λ/(1 + γλ)
(Kay 1993, §12.3, linear estimate of least mean square error); z̃ takes the place of z (Carroll et
al. 2006, chapter 4, regression calibration). What is left of z blurs y by wᵀ(z - z̃), of variance
Σⱼ (A⁻¹)ⱼⱼ pⱼ over what is known of w so far, beside the noise e of variance 1: the reception counts
by a = 1/(1 + Σⱼ (A⁻¹)ⱼⱼ pⱼ). Clean receptions have z̃ = z and a = 1; where nothing arrives, z̃ = 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from edge_gym.learning.base import FloatArray, IntArray
from edge_gym.runtime.compiling import compiled
from edge_gym.runtime.threads import for_ranges


def principal_axes(
    features: FloatArray, size: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the first principal axes of centred ``(n, d)`` features, and the variances along them.

    Returns:
        Axes ``(d, size)`` and variances ``(size,)``, zero beyond d. An axis' largest entry is
        positive.
    """
    d = features.shape[1]
    covariance = (features.T @ features).astype(np.float64) / len(features)
    largest, axes = linalg.eigh(covariance, subset_by_index=[max(d - size, 0), d - 1])
    axes = axes[:, ::-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    found, variances = np.zeros((d, size), np.float32), np.zeros(size)
    found[:, : axes.shape[1]] = axes
    variances[: len(largest)] = np.maximum(largest[::-1], 0)
    return found, variances


def turned_towards(
    axes: NDArray[np.float32], reference: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the orthonormal basis of the same subspace that is nearest to ``reference``.

    Args:
        axes: Orthonormal columns, ``(d, E)``.
        reference: ``(d, E)``.

    Source: Schönemann 1966, A generalized solution of the orthogonal Procrustes problem.
    """
    left, _, right = linalg.svd((axes.T @ reference).astype(np.float64))
    return np.asarray(axes @ (left @ right), np.float32)


def prior_inverse(size: int) -> NDArray[np.float64]:
    """Return A⁻¹ before anything was acquired, ``(E, E)``."""
    return size * np.eye(size)


def acquire(inverse: NDArray[np.float64], components: FloatArray) -> None:
    """Add one clean sample z, ``(m, E)``, to each A, whose inverses ``(m, E, E)`` are updated."""
    z = components.astype(np.float64)
    image = (inverse @ z[:, :, None])[:, :, 0]
    scale = 1 + (image * z).sum(axis=1)
    # Sherman and Morrison's formula.
    inverse -= image[:, :, None] * (image / scale[:, None])[:, None, :]


def receive(
    inverse: NDArray[np.float64],
    components: FloatArray,
    snr: NDArray[np.floating[Any]],
    variances: NDArray[np.float64],
) -> None:
    """Add one noisy sample to each A, by what the channel left of it.

    Args:
        inverse: A⁻¹ of each lane, ``(m, E, E)``, updated.
        components: Those received, ẑ, ``(m, E)``.
        snr: γ of each reception, linear, ``(m,)``; 0 where nothing was received.
        variances: λ of the components, ``(E,)``.
    """
    power = variances * np.asarray(snr, np.float64)[:, None]
    known = power / (1 + power)
    left = variances / (1 + power)
    blur = (np.diagonal(inverse, axis1=1, axis2=2) * left).sum(axis=1)
    acquire(inverse, known * components / np.sqrt(1 + blur)[:, None])


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
