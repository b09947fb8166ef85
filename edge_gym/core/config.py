"""Configurations: frozen dataclasses whose fields hold plain Python values, whatever was given."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np

from edge_gym.runtime.messages import shown

_MOST_ITEMS = 1000
_PLURALS = {int: "integers", float: "finite numbers", bool: "true or false", str: "names"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every problem's configuration.

    A field is declared as ``int``, ``float``, ``bool``, ``str``, a tuple of these, or one of these
    or None. Numbers, truth values and text may come as NumPy's and tuples as lists, ranges or
    arrays; they are made plain Python before a subclass checks their values, so that a
    configuration compares, travels through JSON and computes alike whatever it was made from.

    A subclass that checks its own fields calls ``super().__post_init__()`` first.

    Raises:
        ValueError: If a tuple is something else, holds something else, or has more than 1,000
            items; the message names the field.
    """

    def __post_init__(self) -> None:
        own: Any = type(self)
        for name, kind in _kinds(own).items():
            object.__setattr__(self, name, _of_kind(name, getattr(self, name), kind))


@functools.cache
def _kinds(config_type: type[Any]) -> dict[str, Any]:
    """Return the declared type of every field."""
    hints = typing.get_type_hints(config_type)
    return {field.name: hints[field.name] for field in fields(config_type)}


def _of_kind(name: str, value: Any, kind: Any) -> Any:
    """Return ``value`` in plain Python; scalars of another kind are left to the checks."""
    optional = isinstance(kind, types.UnionType)
    if optional:
        if value is None:
            return None
        (kind,) = (part for part in typing.get_args(kind) if part is not types.NoneType)
    if typing.get_origin(kind) is not tuple:
        scalar = _scalar(value, kind)
        if isinstance(scalar, np.ndarray):
            # Which the checks could not compare with anything.
            raise ValueError(f"{name} must be one value, got {shown(value)}")
        return scalar
    first, *others = typing.get_args(kind)
    length = None if others == [...] else 1 + len(others)
    count = f"at most {_MOST_ITEMS}" if length is None else str(length)
    wanted = f"a list of {count} {_PLURALS[first]}" + (" or None" if optional else "")
    listed = isinstance(value, (tuple, list, range))
    listed |= isinstance(value, np.ndarray) and value.ndim == 1
    if not listed or len(value) != (length or min(len(value), _MOST_ITEMS)):
        raise ValueError(f"{name} must be {wanted}, got {shown(value)}")
    items = tuple(_scalar(item, first) for item in value)
    for item in items:
        if type(item) is not first:
            raise ValueError(f"{name} must be {wanted}, got {shown(item)}")
    return items


def _scalar(value: Any, kind: Any) -> Any:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if kind is bool:
        return bool(value) if isinstance(value, (bool, np.bool_)) else value
    if kind is str:
        return str.__str__(value) if isinstance(value, str) else value
    if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
        return value
    try:
        return kind(value)
    except OverflowError:
        # An integer that no float can hold; the check of its interval says so.
        return value


def make_config(
    config_type: type[Any],
    config: Any | None,
    preset: Mapping[str, Any] | None,
    overrides: Mapping[str, Any],
) -> Any:
    """Build a configuration: defaults, then the id's preset, ``config``, and single fields.

    Args:
        config_type: The dataclass.
        config: An instance, which stands as it is, or a mapping over the preset.
        preset: What the id fixes.
        overrides: Fields by name.

    Raises:
        TypeError: If ``config`` is neither, or a field is unknown; the message lists the fields.
        ValueError: If a value is out of range.
    """
    known = [field.name for field in fields(config_type)]
    if is_dataclass(config) and not isinstance(config, type):
        if not isinstance(config, config_type):
            raise TypeError(
                f"config must be a {config_type.__name__} or a mapping, got {type(config).__name__}"
            )
        base = config
        given = dict(overrides)
    elif config is None or isinstance(config, Mapping):
        base = config_type()
        given = {**(preset or {}), **(config or {}), **overrides}
    else:
        raise TypeError(
            f"config must be a {config_type.__name__} or a mapping, got {type(config).__name__}"
        )
    unknown = [name for name in given if name not in known]
    if unknown:
        names = ", ".join(map(repr, unknown))
        # Python's own words first: by them TorchRL sees that a ``frameskip`` is not for us.
        raise TypeError(
            f"unexpected keyword argument {names}: {config_type.__name__} has no field {names}; "
            f"its fields are {', '.join(known)}"
        )
    return replace(base, **given)
