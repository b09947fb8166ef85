"""States of environments: whether one has the form of those that ``get_state`` returns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from edge_gym.messages import shown


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
