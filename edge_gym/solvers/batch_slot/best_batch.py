"""The global batchsize of the highest learning efficiency."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from edge_gym.solvers.batch_slot.terms import ROUNDING, SMALL_STEP, Terms, sum_of_devices
from edge_gym.typing import Float64Array


class Largest(NamedTuple):
    """The largest global batchsize within x seconds, ``(m,)``, and its batches, ``(K, m)``."""

    batch: Float64Array
    total: Float64Array
    slope: Float64Array
    curvature: Float64Array


_LargestIn = Callable[[Terms, Float64Array], Largest]


def best_batch(
    largest: _LargestIn,
    terms: Terms,
    least: Float64Array,
    most: Float64Array,
    start: Float64Array,
    rest: Float64Array,
) -> Float64Array:
    """Return the batches, ``(K, m)``, of the x with the largest √B(x)/(x + rest)."""
    most = np.maximum(least, most)
    # Both ends lie inside of the bounds until they were looked at.
    left, right = np.nextafter(least, -math.inf), np.nextafter(most, math.inf)
    searched = most - least > ROUNDING * most
    x = np.clip(start, least, most)
    last = np.full_like(x, math.inf)
    rows = np.flatnonzero(searched)
    at = terms.at(rows)
    while rows.size:
        here, low, high = x[rows], least[rows], most[rows]
        found = largest(at, here)
        ratio = 2 * found.total / found.slope
        above = here + rest[rows] - ratio
        left[rows] = np.where(above > 0, here, left[rows])
        right[rows] = np.where(above > 0, right[rows], here)
        step = above / (1 - ratio * found.curvature / found.slope)
        newton = np.clip(here + step, low, high)
        ends = ((here == low) & (above <= 0)) | ((here == high) & (above >= 0))
        near = np.abs(step) <= np.maximum(SMALL_STEP * (here - low), ROUNDING * here)
        inside = (newton > left[rows]) & (newton < right[rows])
        trusted = inside & (np.abs(newton - here) <= last[rows] / 2)
        following = np.where(trusted, newton, (left[rows] + right[rows]) / 2)
        following = np.where(ends, here, np.where(near, newton, following))
        last[rows] = np.abs(following - here)
        x[rows] = following
        going_on = ~(near | ends) & (right[rows] - left[rows] > ROUNDING * here)
        if not going_on.all():
            rows = rows[going_on]
            at = terms.at(rows)
    found = largest(terms, x)
    # Where more samples take no time, or less than rounding is of x, as many as possible are best.
    most_is_better = sum_of_devices(terms.high) * (x + rest) ** 2 > found.total * (most + rest) ** 2
    return np.asarray(np.where(searched & ~most_is_better, found.batch, terms.high))
