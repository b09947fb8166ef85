"""States of problems: the arrays they consist of, and whether one can be restored."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from edge_gym.runtime.messages import shown

Dtype = TypeVar("Dtype", bound=np.generic)
Shape = tuple[int, ...]


class LaneArray(Generic[Dtype]):
    """One array of a problem's state, declared once in its class.

    It has a leading lane axis, is made when first used, and is what ``reset`` clears, ``get_state``
    saves and ``set_state`` restores::

        class Problem(...):
            _uses = LaneArray(np.int64)
            _gain = LaneArray(np.float64, lambda problem: (problem.config.budget,))

    Args:
        dtype: Of its elements.
        shape: The axes after that of lanes, or what returns them for a problem.
        reset: Value at the begin of an episode; None where the problem itself sets it.
        saved: Whether it is part of the state; work space is not.
        growing: Whether axes other than the first grow while episodes run, so that two states
            differ in them.
    """

    def __init__(
        self,
        dtype: type[Dtype],
        shape: Shape | Callable[[Any], Shape] = (),
        *,
        reset: float | None = 0,
        saved: bool = True,
        growing: bool = False,
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self.reset = reset
        self.saved = saved
        self.growing = growing
        self.name = ""

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, problem: None, owner: type[Any]) -> LaneArray[Dtype]: ...

    @overload
    def __get__(self, problem: Any, owner: type[Any]) -> NDArray[Dtype]: ...

    def __get__(self, problem: Any, owner: type[Any]) -> LaneArray[Dtype] | NDArray[Dtype]:
        if problem is None:
            return self
        # From now on the array stands before this declaration, in the problem's own attributes.
        shape = self.shape(problem) if callable(self.shape) else self.shape
        array = np.zeros((problem.n_lanes, *shape), self.dtype)
        if self.reset:
            array[...] = self.reset
        problem.__dict__[self.name] = array
        return array


@functools.cache
def declared_arrays(problem_type: type[Any]) -> dict[str, LaneArray[Any]]:
    """Return a problem's declared arrays by name, those of its bases first."""
    found: dict[str, LaneArray[Any]] = {}
    for owner in reversed(problem_type.__mro__):
        for name, item in vars(owner).items():
            if isinstance(item, LaneArray):
                found[name] = item
            else:
                found.pop(name, None)
    return found


class LaneState:
    """Declared arrays of something that is no problem itself, as a part of one's state.

    Args:
        n_lanes: Number of lanes.
    """

    def __init__(self, n_lanes: int) -> None:
        self.n_lanes = n_lanes

    def clear(self, lanes: NDArray[np.int64]) -> None:
        """Set the arrays of ``lanes`` to their values at the begin of an episode."""
        kind: Any = type(self)
        for name, declared in declared_arrays(kind).items():
            if declared.reset is not None:
                getattr(self, name)[lanes] = declared.reset

    def get_state(self, lanes: NDArray[np.int64]) -> dict[str, Any]:
        """Return the state of ``lanes``, sharing no memory."""
        return {name: getattr(self, name)[lanes].copy() for name in self._saved()}

    def set_state(self, lanes: NDArray[np.int64], state: Mapping[str, Any]) -> None:
        """Restore what ``get_state`` returned for as many lanes."""
        for name in self._saved():
            getattr(self, name)[lanes] = state[name]

    def _saved(self) -> list[str]:
        kind: Any = type(self)
        return [name for name, array in declared_arrays(kind).items() if array.saved]


def check_parts(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise a ValueError unless ``state`` has the parts and the configuration of ``own``."""
    missing = [part for part in own if not isinstance(state, Mapping) or part not in state]
    if missing:
        raise ValueError(
            "this is no state that get_state() of such an environment returned (single and vector "
            f"environments have their own): {', '.join(missing)} missing"
        )
    if state["config"] != own["config"]:
        raise ValueError("the state was taken from an environment with another configuration")


def check_form(state: Mapping[str, Any], own: Mapping[str, Any], growing: Collection[str]) -> None:
    """Raise a ValueError unless ``state`` has the names, types and shapes of ``own``.

    Values are not looked at, but for those of random generators.

    Args:
        state: What should be restored.
        own: The environment's own state.
        growing: Names of arrays whose axes other than the first may differ.
    """
    _compare(
        {part: value for part, value in state.items() if part != "config"},
        {part: value for part, value in own.items() if part != "config"},
        growing,
        "",
    )


def _compare(theirs: Any, own: Any, growing: Collection[str], path: str) -> None:
    where = path.removeprefix("/")
    name = where.rpartition("/")[2]
    if name == "generators":
        _compare_generators(theirs, own)
    elif isinstance(own, Mapping):
        if not isinstance(theirs, Mapping) or theirs.keys() != own.keys():
            names = ", ".join(map(str, own))
            raise _damaged(where or "it", f"must have the parts {names}")
        for key in own:
            _compare(theirs[key], own[key], growing, f"{path}/{key}")
    elif isinstance(own, np.ndarray):
        if not isinstance(theirs, np.ndarray) or theirs.dtype != own.dtype:
            raise _damaged(where, f"must be an array of {own.dtype}, is {shown(theirs)}")
        free = theirs.ndim == own.ndim and name in growing
        shapes = [array.shape[:1] if free else array.shape for array in (theirs, own)]
        if shapes[0] != shapes[1]:
            raise _damaged(where, f"must have the shape {own.shape}, has {theirs.shape}")
    elif type(theirs) is not type(own):
        raise _damaged(where, f"must be a {type(own).__name__}, is {shown(theirs)}")


def _compare_generators(theirs: Any, own: list[dict[str, Any]]) -> None:
    if not isinstance(theirs, list) or len(theirs) != len(own):
        raise _damaged("generators", f"must have one state for each of {len(own)} lanes")
    trial = np.random.default_rng(0).bit_generator
    for state in theirs:
        try:
            trial.state = state
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise _damaged("generators", f"cannot be restored ({error})") from error


def _damaged(what: str, why: str) -> ValueError:
    return ValueError(f"the state is damaged, {what} {why}: take another")
