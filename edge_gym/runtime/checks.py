"""Checks shared by the configurations: one message form, naming field, value and range."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any

from edge_gym.runtime.messages import shown

MOST_INTEGER = 10**12
"""Integers without an upper end of their own are not above this."""


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Raise a ValueError unless ``value`` is an integer in [low, high].

    Without ``high`` it may be up to ``MOST_INTEGER``.
    """
    good = isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= low
    if good and high is None and int(value) > MOST_INTEGER:
        high = MOST_INTEGER
    if not good or (high is not None and int(value) > high):
        wanted = f"at least {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be an integer {wanted}, got {shown(value)}")


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Raise a ValueError unless ``value`` is a finite number in the interval."""
    good = isinstance(value, Real) and not isinstance(value, bool) and _is_finite(value)
    good = good and (value > low if open_low else value >= low)
    good = good and (value < high if open_high else value <= high)
    if not good:
        left = "(" if open_low or math.isinf(low) else "["
        right = ")" if open_high or math.isinf(high) else "]"
        raise ValueError(
            f"{name} must be a finite number in {left}{low:g}, {high:g}{right}, got {shown(value)}"
        )


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raise a ValueError unless ``value`` is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {shown(value)}")


def check_classes(classes: Any) -> None:
    """Raise a ValueError unless ``classes`` are two or more different labels."""
    good = isinstance(classes, (tuple, list)) and len(classes) >= 2
    for label in classes if good else ():
        check_integer("classes", label, 0)
    if not good or len(set(classes)) < len(classes):
        raise ValueError(f"classes must be two or more different classes, got {shown(classes)}")


def check_flag(name: str, value: Any) -> None:
    """Raise a ValueError unless ``value`` is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {shown(value)}")


def check_seed(name: str, value: Any) -> int:
    """Return ``value`` as a Python integer.

    Raises:
        ValueError: Unless it is an integer, Python's or NumPy's, and at least 0.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < 0:
        raise ValueError(f"{name} must be an integer at least 0 or None, got {shown(value)}")
    return int(value)


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        # An integer that no float can hold.
        return False
