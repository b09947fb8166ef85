"""Principal components of samples, in which their diversity is measured."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_gym.data import always_pooled, load_features
from edge_gym.learning import importance

EMBEDDING_SIZE = 16
"""Principal components in which the diversity of samples is measured."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Principal components of the training samples.

    Axes and variances are those of the rows that no episode is validated on: the same in all
    episodes, without a trace of what rewards are measured on.

    Attributes:
        axes: ``(d, E)``.
        variances: Along them, ``(E,)``.
        components: Of all training samples, ``(n, E)``.
        shown: The components as they are observed, ``(n, E)``: turned within their subspace
            towards the axes of all rows, which are what agents have been trained on. No length or
            angle changes.
    """

    axes: NDArray[np.float32]
    variances: NDArray[np.float64]
    components: NDArray[np.float32]
    shown: NDArray[np.float32]


@functools.lru_cache(maxsize=8)
def sample_embeddings(
    name: str, classes: tuple[int, ...] | None, image_size: int | None
) -> Embeddings:
    """Return the principal components of a data set's training samples.

    Args:
        name: Of the data set.
        classes: The classes to tell apart; None takes all.
        image_size: Side of the images in pixels; None keeps the original.
    """
    train = load_features(name, classes, image_size).train
    axes, variances = importance.principal_axes(train[always_pooled(len(train))], EMBEDDING_SIZE)
    reference, _ = importance.principal_axes(train, EMBEDDING_SIZE)
    turned = importance.turned_towards(axes, reference)
    return Embeddings(axes, variances, train @ axes, train @ turned)
