"""Values in the types that JSON has: what is written must read back as the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Return ``value`` as it comes back from JSON: lists for tuples, numbers for NumPy's.

    Raises:
        TypeError: If there is something in it that JSON does not know.
    """
    return json.loads(json.dumps(value, default=_of_numpy))


def plain_scalar(value: Any) -> Any:
    """Return a number, truth value or text of NumPy as Python's, arrays as lists, the rest as is.

    Arrays without axes are scalars.
    """
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def _of_numpy(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a type that JSON has")
