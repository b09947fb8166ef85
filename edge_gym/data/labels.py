"""Labels that are wrong: how they are drawn, and how a sample carries a label of its own.

Devices of one data set may disagree about a sample's label, while learners read both inputs and
labels by row. A sample with a label of its own is therefore a *code*, an integer that is no row:
``row + n·(label + 1)``, n being the rows of the data set. Rows are codes of themselves, with the
data set's label. Codes travel wherever rows do, through partitions, shuffles and mini-batches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def encode_labels(rows: Integers, labels: Integers, n: int) -> Integers:
    """Return codes of rows with labels of their own.

    Args:
        rows: Rows of the data set, ``(...)``.
        labels: Their labels, ``(...)``.
        n: Rows of the data set.
    """
    return rows + n * (labels + 1)


def decode_labels(codes: Integers, labels: Integers) -> tuple[Integers, Integers]:
    """Return the rows and labels that codes stand for.

    Args:
        codes: ``(...)``.
        labels: The data set's, ``(n,)``.
    """
    n = len(labels)
    rows = codes % n
    return rows, np.where(codes < n, labels[rows], codes // n - 1)


def draw_wrong_labels(
    rng: np.random.Generator, labels: Integers, n_classes: int, probability: float
) -> Integers:
    """Return labels each of which is, with this probability, one of the others, all as likely.

    Args:
        rng: Source of all randomness.
        labels: The true ones, ``(n,)``.
        n_classes: Number of classes, at least 2.
        probability: In [0, 1].
    """
    wrong = rng.random(len(labels)) < probability
    others = (labels + rng.integers(1, n_classes, len(labels))) % n_classes
    return np.where(wrong, others, labels)
