"""Random splits of a data set into what is learned from, rewarded on and reported on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_gym.data.errors import SampleError


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


def always_pooled(n_train: int) -> NDArray[np.bool_]:
    """Return the rows for what is fixed beforehand, such as principal axes, as a mask ``(n,)``.

    They are every second row; given to ``draw_split`` they are never validated on.
    """
    return np.asarray(np.arange(n_train) % 2 == 0)


def check_split(
    train_labels: NDArray[np.int64],
    n_test: int,
    validation_size: int,
    test_size: int | None = None,
    *,
    pooled: NDArray[np.bool_] | None = None,
) -> None:
    """Find out whether ``draw_split`` can split these samples, whatever it draws.

    Args:
        train_labels: ``(n,)``.
        n_test: Number of test samples.
        validation_size: Number of validation rows.
        test_size: Number of test rows; None takes all of them.
        pooled: Which training rows must be in the pool, ``(n,)``; None leaves all to chance.

    Raises:
        ValueError: If a size is negative.
        SampleError: If there are too few samples to leave one of each class to learn from.
    """
    n_train = len(train_labels)
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
    kept = 0 if pooled is None else int(np.count_nonzero(pooled))
    if validation_size > n_train - kept:
        raise SampleError(
            f"validation_size = {validation_size} is more than the {n_train - kept} samples that "
            f"may be validated on: of {n_train}, {kept} are always learned from. Lower "
            "validation_size, or take more classes or a larger data set"
        )
    if test_size is not None and test_size > n_test:
        raise SampleError(
            f"test_size = {test_size}, but the test set has {n_test} samples. Lower test_size "
            "(None takes all), or take more classes or a larger data set"
        )
    n_classes = len(np.unique(train_labels))
    if n_train - validation_size < n_classes:
        raise SampleError(
            f"of {n_classes} classes some would have no sample left to learn from: "
            f"{validation_size} of {n_train} samples go to validation. Lower validation_size"
        )


def draw_split(
    rng: np.random.Generator,
    train_labels: NDArray[np.int64],
    test_labels: NDArray[np.int64],
    validation_size: int,
    test_size: int | None = None,
    *,
    per_class: int = 1,
    pooled: NDArray[np.bool_] | None = None,
) -> Split:
    """Draw validation rows uniformly from the training set; the rest is the pool.

    Where that leaves too few samples of a class in the pool, which is rare, rows of it change
    places with rows of the classes that have most.

    Args:
        rng: Source of all randomness.
        train_labels: ``(n,)``.
        test_labels: ``(t,)``.
        validation_size: Number of validation rows.
        test_size: Number of test rows, drawn uniformly; None takes all of them, in order.
        per_class: Samples that each class has in the pool at least.
        pooled: Which training rows must be in the pool, ``(n,)``; None leaves all to chance.

    Raises:
        ValueError: If a size is negative.
        SampleError: If there are too few samples; ``check_split`` says so before anything is drawn.
    """
    check_split(train_labels, len(test_labels), validation_size, test_size, pooled=pooled)
    rows = rng.permutation(len(train_labels))
    free = np.ones(len(rows), np.bool_)
    if pooled is not None:
        free = ~pooled
        rows = rows[np.argsort(pooled[rows], kind="stable")]
    validation, pool = rows[:validation_size], rows[validation_size:]
    if pooled is not None:
        pool = rng.permutation(pool)
    n_labels = int(train_labels.max()) + 1
    left = np.bincount(train_labels[pool], minlength=n_labels)
    spare = np.bincount(train_labels[pool[free[pool]]], minlength=n_labels)
    for label in np.flatnonzero((np.bincount(train_labels) > 0) & (left < per_class)):
        while left[label] < per_class:
            there = np.flatnonzero(train_labels[validation] == label)
            donor = int(spare.argmax())
            if not there.size or not spare[donor] or left[donor] <= per_class:
                raise SampleError(
                    f"{len(pool)} samples to learn from are too few for {per_class} of each class, "
                    "or a class has fewer: lower validation_size, or take a larger data set"
                )
            place = np.flatnonzero((train_labels[pool] == donor) & free[pool])[0]
            validation[there[0]], pool[place] = pool[place], validation[there[0]]
            for counts in (left, spare):
                counts[label] += 1
                counts[donor] -= 1
    n_test = len(test_labels)
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
