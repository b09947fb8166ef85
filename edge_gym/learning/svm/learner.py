"""Support vector machines as learners: one machine for two classes, one against one for more.

Source: Wen et al. 2019, §3.2 (binary), Protocol 2 (one-versus-one).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.learning.base import Assessment, FloatArray, IntArray, Learner, Score, score_of
from edge_gym.learning.svm import kernels
from edge_gym.learning.svm.machines import LinearSVMBatch
from edge_gym.runtime.threads import for_ranges


def coding_matrix(n_classes: int) -> NDArray[np.int64]:
    """Return the one-versus-one coding matrix M, ``(C, C(C - 1)/2)``.

    Column ℓ trains class a (+1) against class b (-1) for the ℓ-th pair a < b; other rows are 0.

    Source: Wen et al. 2019, Protocol 2.
    """
    pairs = list(itertools.combinations(range(n_classes), 2))
    matrix = np.zeros((n_classes, len(pairs)), np.int64)
    for column, (a, b) in enumerate(pairs):
        matrix[a, column], matrix[b, column] = 1, -1
    return matrix


class SVMLearner(Learner):
    """A linear SVM per lane; for more than two classes one against one.

    ``Assessment.uncertainty`` is the distance of the sample to the nearest decision boundary that
    touches the predicted class; ``margin`` is the smallest y·s over the boundaries that touch the
    true class, so that it is at least 1 exactly if no machine would suffer a hinge loss.

    Args:
        n_lanes: Number of lanes.
        n_features: Features of a sample, d.
        n_classes: Number of classes, C ≥ 2; two classes make one machine.
        C: Penalty on the slack.
        tolerance: Relative duality gap of every fit.

    Source: Wen et al. 2019, Protocol 2.
    """

    uncertainty = "distance"
    loss = "hinge_loss"
    has_weight_norm = True
    growing = frozenset({"z", "alpha", "gradient"})

    def __init__(
        self,
        n_lanes: int,
        n_features: int,
        n_classes: int = 2,
        *,
        C: float = 1.0,
        tolerance: float = 1e-3,
    ) -> None:
        if n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, got {n_classes}")
        self.n_lanes, self.n_features, self.n_classes = n_lanes, n_features, n_classes
        self.coding = coding_matrix(n_classes)
        self.machines = LinearSVMBatch(
            n_lanes * self.coding.shape[1], n_features, C=C, tolerance=tolerance
        )

    def reset(self, lanes: IntArray, generators: Sequence[np.random.Generator]) -> None:
        """Forget everything in ``lanes``; no randomness is needed."""
        self.machines.clear(self._problems(lanes))

    def append(self, lanes: IntArray, samples: FloatArray, labels: IntArray) -> None:
        """Add one sample to every machine of a lane that its class takes part in."""
        signs = self.coding[labels]
        rows, columns = np.nonzero(signs)
        problems = lanes[rows] * self.coding.shape[1] + columns
        self.machines.append(problems, rows, samples, signs[rows, columns])

    def fit(self, lanes: IntArray, generators: Sequence[np.random.Generator]) -> None:
        """Solve the machines of ``lanes`` to the tolerance, warm-started."""
        self.machines.fit(self._problems(lanes))

    def assess(self, lanes: IntArray, samples: FloatArray, labels: IntArray) -> Assessment:
        """Judge received samples, ``(m, q, d)`` with labels ``(m, q)``."""
        rows = np.arange(labels.size).reshape(labels.shape)
        return self.assess_rows(
            lanes, samples.reshape(-1, self.n_features), labels.reshape(-1), rows
        )

    def assess_rows(
        self, lanes: IntArray, features: FloatArray, labels: IntArray, rows: IntArray
    ) -> Assessment:
        """Judge ``features[rows]`` without copying them: ``(m, q)`` rows."""
        features = np.ascontiguousarray(features, np.float32)
        distance = np.empty(rows.shape, np.float32)
        margin = np.empty(rows.shape, np.float32)
        predicted = np.empty(rows.shape, np.int64)

        def kernel(start: int, stop: int) -> None:
            kernels.assess(
                lanes,
                start,
                stop,
                features,
                labels,
                rows,
                self.machines.weights,
                self.coding,
                distance,
                margin,
                predicted,
            )

        for_ranges(kernel, len(lanes), grain=max(1, 256 // max(rows.shape[1], 1)))
        return Assessment(distance, margin, predicted)

    def weight_norm(self) -> NDArray[np.float64]:
        """Return each lane's ‖w‖, the mean of its machines', ``(n_lanes,)``.

        A sample at the distance d from the boundary has the score ±d·‖w‖.
        """
        norms = np.linalg.norm(self.machines.weights[:, :-1], axis=1)
        return np.asarray(norms.reshape(self.n_lanes, -1).mean(axis=1), np.float64)

    def score(
        self, lanes: IntArray, features: FloatArray, labels: IntArray, rows: IntArray
    ) -> Score:
        """Return each lane's accuracy, loss and recall on ``features[rows[i]]``.

        With more than two classes the loss takes the boundary of the true class that is nearest,
        or furthest on the wrong side.
        """
        correct = np.zeros((len(lanes), self.n_classes), np.int64)
        total = np.zeros_like(correct)
        loss = np.empty(len(lanes))

        def kernel(start: int, stop: int) -> None:
            kernels.score_rows(
                lanes,
                start,
                stop,
                features,
                labels,
                rows,
                self.machines.weights,
                self.coding,
                correct,
                total,
                loss,
            )

        for_ranges(kernel, len(lanes), grain=4)
        return score_of(correct, total, loss)

    def get_state(self, lanes: IntArray) -> dict[str, Any]:
        """Return the samples and solutions of ``lanes``."""
        return self.machines.get_state(self._problems(lanes))

    def set_state(self, lanes: IntArray, state: dict[str, Any]) -> None:
        """Restore what ``get_state`` returned."""
        self.machines.set_state(self._problems(lanes), state)

    def _problems(self, lanes: IntArray) -> IntArray:
        length = self.coding.shape[1]
        return np.asarray(lanes[:, None] * length + np.arange(length)).reshape(-1)


class BinarySVMLearner(SVMLearner):
    """The support vector machine of two classes, one machine per lane."""

    max_classes = 2


def make_svm(
    n_lanes: int,
    image_shape: tuple[int, int, int],
    n_classes: int,
    *,
    C: float = 1.0,
    tolerance: float = 1e-3,
) -> BinarySVMLearner:
    """Make the support vector machine of two classes, see ``SVMLearner``."""
    return BinarySVMLearner(n_lanes, math.prod(image_shape), n_classes, C=C, tolerance=tolerance)


def make_one_versus_one(
    n_lanes: int,
    image_shape: tuple[int, int, int],
    n_classes: int,
    *,
    C: float = 1.0,
    tolerance: float = 1e-3,
) -> SVMLearner:
    """Make support vector machines for any number of classes, see ``SVMLearner``."""
    return SVMLearner(n_lanes, math.prod(image_shape), n_classes, C=C, tolerance=tolerance)
