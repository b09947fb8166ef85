"""What a server does with what devices send: weighted means."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from edge_gym.runtime.compiling import compiled
from edge_gym.runtime.threads import for_ranges

_VALUES_OF_A_SUM = 1 << 12  # They stay in the first cache while vectors are added.


def average(vectors: Tensor, weights: ArrayLike, arrived: ArrayLike | None = None) -> Tensor:
    """Return the weighted mean of the devices' gradients or updates, ``(m, S)``.

    Args:
        vectors: What each device computed, ``(m, K, S)``.
        weights: Weight of each device, broadcast to ``(m, K)``, usually its number of samples;
            they need not sum to 1. Devices of weight 0 are left out, whatever they computed.
        arrived: Whether each device's vector reached the server, ``(m, K)``; None means all did.

    Returns:
        Zeros in lanes where nothing arrived, so that their model stays as it is.

    Raises:
        ValueError: If a weight is negative or not finite.

    Source: Ren et al. 2021, eq. (1); Mohammad et al. 2020, eq. (3).
    """
    given = np.broadcast_to(np.asarray(weights, dtype=np.float64), vectors.shape[:2])
    if not (np.isfinite(given) & (given >= 0)).all():
        raise ValueError("weights must be finite and at least 0")
    used = given if arrived is None else np.where(arrived, given, 0.0)
    total = used.sum(-1, keepdims=True)
    shares = np.divide(used, total, out=np.zeros(used.shape), where=total > 0)
    means = vectors.new_zeros(len(vectors), vectors.shape[2])
    if vectors.device.type == "cpu":
        arrays = vectors.contiguous().numpy(), means.numpy()
        of_type = shares.astype(arrays[0].dtype)
        parts = -(-vectors.shape[2] // _VALUES_OF_A_SUM)
        for_ranges(lambda a, b: _add_up(a, b, *arrays, of_type, parts), len(vectors) * parts)
        return means
    for k in range(vectors.shape[1]):
        share = torch.from_numpy(shares[:, k, None]).to(vectors.device, vectors.dtype)
        means += torch.where(share > 0, share * vectors[:, k], 0)
    return means


@compiled()
def _add_up(first, stop, vectors, means, shares, parts):  # type: ignore[no-untyped-def]
    """Add each lane's vectors to its mean in the order of the devices, ``parts`` of a lane apart.

    A library would add in an order that depends on the number of lanes, and on how many vectors
    count in the others.
    """
    size = vectors.shape[2]
    for q in range(first, stop):
        lane, begin = q // parts, q % parts * _VALUES_OF_A_SUM
        mean = means[lane, begin : begin + _VALUES_OF_A_SUM]
        for k in range(vectors.shape[1]):
            share = shares[lane, k]
            if share > 0:
                vector = vectors[lane, k, begin : min(begin + _VALUES_OF_A_SUM, size)]
                for i in range(len(mean)):
                    mean[i] += share * vector[i]
