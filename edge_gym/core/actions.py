"""Actions: what they mean, and whether they are in their space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from edge_gym.runtime.messages import shown

Decision = TypeVar("Decision")


class ActionCodec(ABC, Generic[Decision]):
    """What a problem's actions mean: the one place that environment, rules and decoders ask.

    Attributes:
        space: Of one lane's actions.
    """

    space: spaces.Space[Any]

    @abstractmethod
    def decode(self, actions: NDArray[Any]) -> Decision:
        """Return what valid actions, ``(..., *space.shape)``, decide."""

    @abstractmethod
    def encode(self, decision: Decision) -> NDArray[Any]:
        """Return actions that decide this, so that ``decode`` gives it back, up to rounding."""


def validate_actions(
    space: spaces.Space[Any],
    actions: Any,
    n_lanes: int,
    lanes: NDArray[np.int64],
    fill: float | None = None,
) -> NDArray[Any]:
    """Return the actions of ``lanes`` out of those of all ``n_lanes``; others are not looked at.

    Args:
        space: Of one lane's actions.
        actions: Of all lanes, ``(n_lanes, ...)``.
        n_lanes: Their number.
        lanes: Whose actions count, ``(m,)``.
        fill: Value of the last action columns where these may be left out; see
            ``Problem.action_fill``.

    Raises:
        ValueError: If the shape is wrong, or a value is not finite or out of bounds; the message
            names the lane and the value.
    """
    array = _numbers(actions, (n_lanes, *(space.shape or ())), "actions", _fill_of(space, fill))
    array = array[lanes]
    return _of_space(space, array, lambda row: f"the action of lane {lanes[row]}")


def validate_action(
    space: spaces.Space[Any], action: Any, fill: float | None = None
) -> NDArray[Any]:
    """Return the action of a single environment as that of one lane, ``(1, ...)``.

    Arguments are those of ``validate_actions``.

    Raises:
        ValueError: If the shape is wrong, or a value is not finite or out of bounds; the message
            names the value.
    """
    array = _numbers(action, space.shape or (), "the action", _fill_of(space, fill))[None]
    return _of_space(space, array, lambda _: "the action")


def _numbers(given: Any, shape: tuple[int, ...], what: str, fill: float | None) -> NDArray[Any]:
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise ValueError(f"{what} must be an array of shape {shape}, got {shown(given)}") from error
    if fill is not None:
        array = _filled(array, shape, fill)
    if array.shape != shape:
        raise ValueError(f"{what} must have shape {shape}, got shape {array.shape}")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{what} must hold numbers, got {array.dtype}")
    return array


def _fill_of(space: spaces.Space[Any], fill: float | None) -> float | None:
    """Return what fills missing columns, None where a lane's actions have no columns to miss."""
    return fill if len(space.shape or ()) > 1 else None


def _filled(array: NDArray[Any], shape: tuple[int, ...], fill: float) -> NDArray[Any]:
    """Return actions with their last columns filled up, where nothing but these are missing."""
    if array.shape == shape[:-1]:
        array = array[..., None]
    if array.shape[:-1] != shape[:-1] or not 0 < array.shape[-1] < shape[-1]:
        return array
    rest = np.full((*shape[:-1], shape[-1] - array.shape[-1]), fill, array.dtype)
    return np.concatenate([array, rest], axis=-1)


def _of_space(
    space: spaces.Space[Any], array: NDArray[Any], title: Callable[[int], str]
) -> NDArray[Any]:
    """Return ``(n, ...)`` actions if all are in ``space``; ``title`` names that of a row.

    In a Box, what is outside by at most one step of float32 at the interval's larger end, 1.2e-7
    in [-1, 1], is rounding, as of Gymnasium's ``RescaleAction``, and clipped.
    """
    low: Any
    high: Any
    rounding: Any = 0
    if isinstance(space, spaces.Box):
        low, high = space.low, space.high
        end = np.maximum(np.abs(low), np.abs(high)).astype(np.float32)
        rounding = np.spacing(np.where(np.isfinite(end), end, np.float32(0))).astype(np.float64)
        wanted = f"in [{np.min(low):g}, {np.max(high):g}]"
    elif isinstance(space, spaces.Discrete):
        low, high = space.start, space.start + space.n - 1
        wanted = f"an integer in {low}..{high}"
    elif isinstance(space, spaces.MultiDiscrete):
        low, high = space.start, space.start + space.nvec - 1
        wanted = f"integers up to {high.tolist()}"
    else:
        raise TypeError(f"no check for actions of {space}")
    good = np.isfinite(array) & (array >= low - rounding) & (array <= high + rounding)
    if not isinstance(space, spaces.Box) and array.dtype.kind == "f":
        good &= array == np.floor(array)
    if not good.all():
        row, *rest = np.argwhere(~good)[0]
        where = title(int(row)) + (f", component {tuple(map(int, rest))}," if rest else "")
        value = array[(row, *rest)]
        raise ValueError(f"{where} is {value}, but must be {wanted}")
    if isinstance(space, spaces.Box):
        return np.asarray(np.clip(array, low, high))
    return array.astype(np.int64, copy=False)
