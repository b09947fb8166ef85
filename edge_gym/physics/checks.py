"""Checks of quantities, arrays of any shape."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from edge_gym.typing import Float64Array


def finite(name: str, value: ArrayLike) -> Float64Array:
    """Return ``value`` in float64.

    Raises:
        ValueError: If any of it is NaN or infinite; the message has the name and the value.
    """
    array = np.asarray(value, dtype=np.float64)
    valid = np.isfinite(array)
    if not valid.all():
        raise ValueError(f"{name} must be finite, got {array[~valid].flat[0]}")
    return array


def check_array(name: str, value: ArrayLike, *, positive: bool = False) -> Float64Array:
    """Return ``value`` in float64; it may be infinite, as limits are that do not bind.

    Raises:
        ValueError: If any of it is NaN, negative, or 0 where it must be ``positive``.
    """
    array = np.asarray(value, dtype=np.float64)
    valid = array > 0 if positive else array >= 0
    if not valid.all():
        wanted = "positive" if positive else "at least 0"
        raise ValueError(f"{name} must be {wanted}, got {array[~valid].flat[0]}")
    return array


def positive(name: str, value: ArrayLike) -> Float64Array:
    """Return ``value`` in float64; a ValueError unless all of it is finite and above 0."""
    return finite(name, check_array(name, value, positive=True))


def not_negative(name: str, value: ArrayLike) -> Float64Array:
    """Return ``value`` in float64; a ValueError unless all of it is finite and at least 0."""
    return finite(name, check_array(name, value))
