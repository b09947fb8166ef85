"""What every learner offers an environment: one classifier per lane, trained for real."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]

LOSS_SNR_DB = 20.0
"""SNR at which support vector machines' validation loss imagines samples to arrive."""


class Assessment(NamedTuple):
    """What a classifier says about received samples; every array has the samples' leading shape.

    Attributes:
        uncertainty: Distance to the decision boundary (support vector machines, in units of the
            features) or entropy of the predicted classes (networks, in nats).
        margin: Signed margin against the known label. Support vector machines: y·(wᵀx + b), so
            that the hinge loss is max(0, 1 - margin). Networks: log-odds of the true class
            against all others.
        predicted: Index of the predicted class.
    """

    uncertainty: FloatArray
    margin: FloatArray
    predicted: IntArray


class Score(NamedTuple):
    """How good a classifier is on a set of samples; arrays have shape ``(m,)``.

    Attributes:
        accuracy: Share of samples that are classified correctly.
        loss: What the accuracy is too coarse to show. Support vector machines: the probability
            that a sample would be misclassified if it arrived at ``LOSS_SNR_DB``, Φ(-d/σ) for
            one at the signed distance d from the boundary. Networks: the cross-entropy, in nats.
        recall: Share of each class' samples that are classified correctly, ``(m, C)``; 0 where
            there are none.
    """

    accuracy: NDArray[np.float64]
    loss: NDArray[np.float64]
    recall: NDArray[np.float64]


def score_of(
    correct: NDArray[np.integer[Any]],
    total: NDArray[np.integer[Any]],
    loss: NDArray[np.float64],
) -> Score:
    """Return the score of ``correct`` out of ``total`` samples of each class, ``(m, C)``."""
    accuracy = correct.sum(axis=1) / total.sum(axis=1)
    return Score(accuracy, loss, correct / np.maximum(total, 1))


class Learner(ABC):
    """One classifier per lane, trained on the samples that its lane has acquired.

    Lanes are independent: what one lane learns depends on its own samples and its own generator
    alone, never on how many lanes there are. ``lanes`` is always an array of distinct lane
    indices of shape ``(m,)``; every other argument has the same leading axis.

    Attributes:
        n_lanes: Number of lanes.
        n_features: Features of a sample, d.
        n_classes: Number of classes, C; labels are 0 .. C - 1.
        uncertainty: ``"distance"`` or ``"entropy"``, what ``Assessment.uncertainty`` holds.
    """

    n_lanes: int
    n_features: int
    n_classes: int
    uncertainty: str

    @abstractmethod
    def reset(self, lanes: IntArray, generators: Sequence[np.random.Generator]) -> None:
        """Forget everything in ``lanes``; ``generators[i]`` belongs to ``lanes[i]``."""

    @abstractmethod
    def append(self, lanes: IntArray, samples: FloatArray, labels: IntArray) -> None:
        """Add one sample to the training set of each lane: ``(m, d)`` and ``(m,)``."""

    @abstractmethod
    def fit(self, lanes: IntArray, generators: Sequence[np.random.Generator]) -> None:
        """Train ``lanes`` on all they have acquired, starting from what they know."""

    @abstractmethod
    def assess(self, lanes: IntArray, samples: FloatArray, labels: IntArray) -> Assessment:
        """Judge ``samples`` of shape ``(m, q, d)`` with ``labels`` of shape ``(m, q)``."""

    def assess_rows(
        self, lanes: IntArray, features: FloatArray, labels: IntArray, rows: IntArray
    ) -> Assessment:
        """Judge ``features[rows]``, samples of a data set that all lanes share.

        Args:
            lanes: Lane indices, ``(m,)``.
            features: The data set, ``(n, d)``.
            labels: Its labels, ``(n,)``.
            rows: Which samples are judged in each lane, ``(m, q)``.
        """
        return self.assess(lanes, features[rows], labels[rows])

    @abstractmethod
    def score(
        self, lanes: IntArray, features: FloatArray, labels: IntArray, rows: IntArray
    ) -> Score:
        """Score each lane on ``features[rows[i]]``.

        Args:
            lanes: Lane indices, ``(m,)``.
            features: The data set, ``(n, d)``, shared by all lanes.
            labels: Its labels, ``(n,)``.
            rows: Which samples each lane is scored on, ``(m, v)``.
        """

    @abstractmethod
    def get_state(self, lanes: IntArray) -> dict[str, Any]:
        """Return what ``lanes`` have acquired and learned, as arrays that share no memory."""

    @abstractmethod
    def set_state(self, lanes: IntArray, state: dict[str, Any]) -> None:
        """Restore in ``lanes`` what ``get_state`` returned for as many lanes."""
