"""Redundancy against losses: neighbouring devices hold the same samples, one of them suffices.

Source: Sorour et al. 2020 on risk mitigation, coded redundancy; here a repetition code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.runtime.checks import check_integer
from edge_gym.typing import IntArray


def check_redundancy(redundancy: int, n_devices: int, corrupt_devices: int) -> None:
    """Raise a ValueError unless devices, and the corrupt ones, fall into groups of ``redundancy``.

    Devices that hold the same samples have the same labels.
    """
    check_integer("redundancy", redundancy, 1, n_devices)
    if n_devices % redundancy:
        raise ValueError(f"redundancy must divide n_devices = {n_devices}, got {redundancy}")
    if corrupt_devices % redundancy:
        raise ValueError(
            f"corrupt_devices must be a multiple of redundancy = {redundancy}, "
            f"got {corrupt_devices}"
        )


def group_sums(values: NDArray[Any], redundancy: int) -> NDArray[Any]:
    """Return for every device the sum over its group, ``(..., K)``."""
    sums = values.reshape(*values.shape[:-1], -1, redundancy).sum(axis=-1)
    return np.repeat(sums, redundancy, axis=-1)


def copies_arrived(arrived: NDArray[np.bool_], redundancy: int) -> IntArray:
    """Return how many updates on a device's samples arrived, at least 1, ``(..., K)``.

    A weight divided by this counts every sample once.
    """
    return np.asarray(np.maximum(group_sums(arrived, redundancy), 1), np.int64)
