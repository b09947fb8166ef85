"""A learner of one's own: multinomial logistic regression by gradient descent."""

from __future__ import annotations

import numpy as np

from edge_gym.learning.base import Assessment, Learner, score_of


class LogisticRegression(Learner):
    """Full-batch gradient descent on the cross-entropy; each lane goes on from its weights."""

    growing = frozenset({"samples", "labels"})

    def __init__(self, n_lanes, image_shape, n_classes, *, train_steps=10):
        self.n_lanes, self.n_features = n_lanes, int(np.prod(image_shape))
        self.n_classes, self.steps = n_classes, train_steps
        self.weights = np.zeros((n_lanes, self.n_features + 1, n_classes))
        self.samples = np.zeros((n_lanes, 8, self.n_features), np.float32)
        self.labels = np.zeros((n_lanes, 8), np.int64)
        self.counts = np.zeros(n_lanes, np.int64)

    def reset(self, lanes, generators):
        for array in (self.weights, self.samples, self.labels, self.counts):
            array[lanes] = 0

    def append(self, lanes, samples, labels):
        while len(lanes) and self.counts[lanes].max() >= self.samples.shape[1]:
            self._grow(2 * self.samples.shape[1])
        self.samples[lanes, self.counts[lanes]] = samples
        self.labels[lanes, self.counts[lanes]] = labels
        self.counts[lanes] += 1

    def fit(self, lanes, generators):
        for lane in lanes:
            x, y = self.samples[lane, : self.counts[lane]], self.labels[lane, : self.counts[lane]]
            if not len(x):
                continue
            x, wanted = np.column_stack([x, np.ones(len(x))]), np.eye(self.n_classes)[y]
            for _ in range(self.steps):
                error = self._probabilities(x @ self.weights[lane]) - wanted
                self.weights[lane] -= 2.0 * x.T @ error / len(x)

    def assess(self, lanes, samples, labels):
        p = self._probabilities(self._logits(lanes, samples))
        own = np.take_along_axis(p, labels[..., None], axis=-1)[..., 0]
        entropy = -(p * np.log(p)).sum(axis=-1)
        return Assessment(entropy, np.log(own) - np.log1p(-own), p.argmax(axis=-1))

    def score(self, lanes, features, labels, rows):
        judged = self.assess(lanes, features[rows], labels[rows])
        of_class = np.eye(self.n_classes, dtype=np.int64)[labels[rows]]
        right = of_class * (judged.predicted == labels[rows])[..., None]
        loss = self.loss_of(judged.margin).mean(axis=1)
        return score_of(right.sum(axis=1), of_class.sum(axis=1), loss)

    def get_state(self, lanes):
        names = ("weights", "samples", "labels", "counts")
        return {name: getattr(self, name)[lanes].copy() for name in names}

    def set_state(self, lanes, state):
        size = state["samples"].shape[1]
        self._grow(size)
        self.samples[lanes, :size], self.labels[lanes, :size] = state["samples"], state["labels"]
        self.weights[lanes], self.counts[lanes] = state["weights"], state["counts"]

    def _grow(self, size):
        more = max(0, size - self.samples.shape[1])
        self.samples = np.pad(self.samples, ((0, 0), (0, more), (0, 0)))
        self.labels = np.pad(self.labels, ((0, 0), (0, more)))

    def _logits(self, lanes, samples):
        weights = self.weights[lanes]
        return samples @ weights[:, :-1] + weights[:, None, -1]

    @staticmethod
    def _probabilities(logits):
        e = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.clip(e / e.sum(axis=-1, keepdims=True), 1e-9, 1 - 1e-9)
