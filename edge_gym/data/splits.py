"""Random splits of a data set into what is learned from, rewarded on and reported on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_gym.data.datasets import SampleError


@dataclass(frozen=True, eq=False)
class Split:
    """Row indices, int64, in random order.

    Attributes:
        pool: ``(p,)`` training rows that devices or the server may learn from.
        validation: ``(v,)`` training rows that rewards are measured on; none is in ``pool``.
        test: ``(t,)`` test rows, for reports only.
    """

    pool: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def draw_split(
    rng: np.random.Generator,
    train_labels: NDArray[np.int64],
    test_labels: NDArray[np.int64],
    validation_size: int,
    test_size: int | None = None,
) -> Split:
    """Draw validation rows uniformly from the training set; the rest is the pool.

    Args:
        rng: Source of all randomness.
        train_labels: ``(n,)``.
        test_labels: ``(t,)``.
        validation_size: Number of validation rows.
        test_size: Number of test rows, drawn uniformly; None takes all of them, in order.

    Raises:
        ValueError: If a size is negative.
        SampleError: If there are too few samples, or a class has none left in the pool.
    """
    n_train, n_test = len(train_labels), len(test_labels)
    if validation_size < 0:
        raise ValueError(f"validation_size must be at least 0, got {validation_size}")
    if test_size is not None and test_size < 0:
        raise ValueError(f"test_size must be at least 0 or None, got {test_size}")
    if validation_size >= n_train:
        raise SampleError(
            f"validation_size = {validation_size} leaves nothing to learn from: the training set "
            f"has {n_train} samples. Lower validation_size, or take more classes or a larger "
            "data set"
        )
    if test_size is not None and test_size > n_test:
        raise SampleError(
            f"test_size = {test_size}, but the test set has {n_test} samples. Lower test_size "
            "(None takes all), or take more classes or a larger data set"
        )
    rows = rng.permutation(n_train)
    validation, pool = rows[:validation_size], rows[validation_size:]
    left = np.bincount(train_labels[pool], minlength=int(train_labels.max()) + 1)
    lost = np.flatnonzero((np.bincount(train_labels) > 0) & (left == 0))
    if lost.size:
        raise SampleError(
            f"label(s) {', '.join(map(str, lost))} have no sample left to learn from: "
            f"{validation_size} of {n_train} went to validation. Lower validation_size"
        )
    test = np.arange(n_test) if test_size is None else rng.permutation(n_test)[:test_size]
    return Split(pool, validation, test)


def draw_balanced(
    rng: np.random.Generator,
    labels: NDArray[np.int64],
    rows: NDArray[np.int64],
    size: int,
) -> NDArray[np.int64]:
    """Draw ``size`` of ``rows``, in random order, with as many of each class as possible.

    Class counts differ by at most one; which classes get one more is random.

    Args:
        rng: Source of all randomness.
        labels: ``(n,)`` labels of the whole training set; the classes are those that occur here.
        rows: ``(p,)`` rows to draw from.
        size: How many to draw.

    Raises:
        ValueError: If ``size`` is negative.
        SampleError: If a class has too few samples among ``rows``.
    """
    if size < 0:
        raise ValueError(f"the number of initial samples must be at least 0, got {size}")
    classes = np.flatnonzero(np.bincount(labels))
    wanted = size // len(classes) + (rng.permutation(len(classes)) < size % len(classes))
    shuffled = rng.permutation(rows)
    shuffled_labels = labels[shuffled]
    chosen = np.zeros(len(rows), bool)
    for label, count in zip(classes, wanted, strict=True):
        places = np.flatnonzero(shuffled_labels == label)
        if len(places) < count:
            raise SampleError(
                f"{size} initial samples need {count} of label {label}, but only {len(places)} "
                f"of the {len(rows)} samples at hand have it. Lower the number of initial "
                "samples or validation_size, or take a larger data set"
            )
        chosen[places[:count]] = True
    return shuffled[chosen]
