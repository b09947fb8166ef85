"""Nested states as arrays and JSON, so that files that hold them hold no code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def pack(state: Any) -> tuple[dict[str, NDArray[Any]], Any]:
    """Take a nested state apart: arrays by name, and a JSON value that refers to them.

    Mappings, lists, tuples, numpy arrays and scalars, torch tensors and JSON's own values come
    back from ``unpack`` as they were.

    Raises:
        TypeError: If the state holds anything else.
    """
    arrays: dict[str, NDArray[Any]] = {}

    def keep(kind: str, array: NDArray[Any]) -> dict[str, str]:
        name = str(len(arrays))
        arrays[name] = array
        return {kind: name}

    def convert(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return keep("torch", value.detach().cpu().numpy())
        if isinstance(value, np.ndarray):
            return keep("array", value)
        if isinstance(value, np.generic):
            return keep("scalar", np.asarray(value))
        if isinstance(value, Mapping):
            return {"items": [[convert(key), convert(item)] for key, item in value.items()]}
        if isinstance(value, tuple):
            return {"tuple": [convert(item) for item in value]}
        if isinstance(value, list):
            return [convert(item) for item in value]
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise TypeError(f"no safe way to save a {type(value).__name__}")

    return arrays, convert(state)


def unpack(arrays: Mapping[str, NDArray[Any]], value: Any) -> Any:
    """Put together again what ``pack`` took apart."""
    if isinstance(value, list):
        return [unpack(arrays, item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    builders: dict[str, Callable[[], Any]] = {
        "torch": lambda: torch.from_numpy(arrays[content]),
        "array": lambda: arrays[content],
        "scalar": lambda: arrays[content][()],
        "items": lambda: {unpack(arrays, k): unpack(arrays, v) for k, v in content},
        "tuple": lambda: tuple(unpack(arrays, item) for item in content),
    }
    return builders[kind]()
