"""What tests of federated problems compare with: slow, plain learning in double precision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def column(env: Any, observation: dict[str, Any], part: str, name: str) -> NDArray[Any]:
    """Return a column of an observation by its name."""
    return np.asarray(env.tables[part].read(observation[part], name))


def global_model(env: Any) -> Vector:
    """Return the first lane's global model."""
    weights: Vector = env.problem.learner.weights[0].double().numpy().copy()
    return weights


def perceptron_loss_and_gradient(
    features: Any, hidden: int, w: Vector, rows: Any
) -> tuple[float, Vector]:
    """Return the mean cross-entropy of a network of one hidden layer, and its gradient.

    A row beyond the data set carries a label of its own.
    """
    n, d = features.train.shape
    x = features.train[np.asarray(rows) % n].astype(np.float64) * math.sqrt(d)
    y = np.array([features.train_labels[row] if row < n else row // n - 1 for row in rows])
    w1, b1, w2, b2 = np.split(w, np.cumsum([d * hidden, hidden, hidden * 10]))
    w1, w2 = w1.reshape(d, hidden), w2.reshape(hidden, 10)
    h = np.maximum(0, x @ w1 + b1)
    logits = h @ w2 + b2
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(len(y)), y]).mean()
    d_logits = (p - np.eye(10)[y]) / len(y)
    d_h = (d_logits @ w2.T) * (h > 0)
    parts = (x.T @ d_h, d_h.sum(axis=0), h.T @ d_logits, d_logits.sum(axis=0))
    return float(loss), np.concatenate([part.ravel() for part in parts])
