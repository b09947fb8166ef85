"""Checks and shapes of many instances at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_gym.typing import IntArray

LARGEST = 2**31
"""The most samples and updates there are; products of two stay exact."""


ROUNDING = 1e-9
"""Samples by which rounding may have lowered what a learner can hold."""


GRAIN = 4096
"""Divisions that are worth a thread."""


def check_least(name: str, value: int, least: int) -> None:
    """Raise a ``ValueError`` if a value is below the least."""
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_cap(cap: int | None) -> None:
    """Raise a ``ValueError`` if a cap on staleness is negative; None is no cap."""
    if cap is not None and cap < 0:
        raise ValueError(f"cap must be at least 0 or None, got {cap}")


def checked_whole(name: str, value: ArrayLike) -> IntArray:
    """Return whole numbers in [0, ``LARGEST``] as integers."""
    array = np.asarray(value)
    valid = (array >= 0) & (array <= LARGEST)
    if array.dtype.kind not in "iu":
        valid &= array == np.floor(array)
    if not valid.all():
        raise ValueError(f"{name} must be whole and in [0, {LARGEST}], got {array[~valid].flat[0]}")
    return array.astype(np.int64, copy=False)


def goals_of(total: ArrayLike, shape: tuple[int, ...]) -> tuple[IntArray, tuple[int, ...]]:
    """Return the samples of every instance, ``(m,)``, and the shape of instances."""
    goals = checked_whole("total", total)
    try:
        shape = np.broadcast_shapes(goals.shape, shape)
    except ValueError:
        raise ValueError(
            f"total must broadcast with the shape {shape}, got {goals.shape}"
        ) from None
    return as_rows(goals, shape, 0), shape


def as_rows(array: NDArray[Any], shape: tuple[int, ...], n_axes: int) -> NDArray[Any]:
    """Return the array with one axis of instances, ``(m, ...)``, before its last ``n_axes``.

    It can be written to: kernels take 20 µs longer to call with an array that cannot.
    """
    rest = array.shape[array.ndim - n_axes :]
    if array.shape != shape + rest:
        array = np.broadcast_to(array, shape + rest)
    return np.require(array, requirements=["C", "W"]).reshape(-1, *rest)


def check_goals(goals: IntArray, rooms: IntArray, least_samples: int) -> None:
    """Raise a ``ValueError`` where learners cannot all have their least samples."""
    n_learners = (rooms >= least_samples).sum(axis=-1)
    short = goals < n_learners * least_samples
    if short.any():
        n, goal = n_learners[short][0], goals[short][0]
        raise ValueError(
            f"total must be at least least_samples = {least_samples} for each of {n} learners, "
            f"got {goal}"
        )
