"""What a learner can hold, and how often it can learn from it, compiled."""

from __future__ import annotations

import numpy as np

from edge_gym.runtime.compiling import compiled
from edge_gym.solvers.task_allocation.instances import LARGEST, ROUNDING


@compiled()
def _room(terms, updates):  # type: ignore[no-untyped-def]
    """Return D_k(τ); falls in τ in floating point too, which searches rely on."""
    room = terms[6]
    for i in (0, 3):
        if terms[i] < 0:
            return 0.0
        per_sample = terms[i + 1] * updates + terms[i + 2]
        if per_sample > 0:
            room = min(room, terms[i] / per_sample)
    return room


@compiled()
def fill_rooms(terms, updates, samples):  # type: ignore[no-untyped-def]
    """Write the samples that learners can hold for given updates."""
    for k in range(len(terms)):
        samples[k] = _room(terms[k], updates[k])


@compiled()
def fill_table(terms, table, start, stop):  # type: ignore[no-untyped-def]
    """Write the samples that learners can hold for 1, 2, ... updates."""
    for k in range(start, stop):
        for i in range(table.shape[1]):
            room = min(_room(terms[k], i + 1.0) + ROUNDING, float(LARGEST))
            table[k, i] = np.int64(np.floor(room))


@compiled()
def fill_updates(terms, samples, updates):  # type: ignore[no-untyped-def]
    """Write the most updates that learners can make on given samples."""
    for k in range(len(terms)):
        low, high = 0, 1
        if samples[k] > 0:
            while high <= LARGEST and _room(terms[k], float(high)) + ROUNDING >= samples[k]:
                low, high = high, 2 * high
            while low < LARGEST and high - low > 1:
                middle = (low + high) // 2
                if _room(terms[k], float(middle)) + ROUNDING >= samples[k]:
                    low = middle
                else:
                    high = middle
        updates[k] = low


@compiled()
def _all_hold(terms, updates, goal, least):  # type: ignore[no-untyped-def]
    total = 0.0
    for k in range(len(terms)):
        room = _room(terms[k], updates)
        if room < least:
            return False
        total += room
    return total >= goal


@compiled()
def relax(terms, goals, least, updates, start, stop):  # type: ignore[no-untyped-def]
    """Write the largest real number of updates that all learners can make together."""
    for p in range(start, stop):
        low, high = 0.0, 1.0
        if _all_hold(terms[p], low, goals[p], least):
            while high < np.inf and _all_hold(terms[p], high, goals[p], least):
                low, high = high, 2 * high
            middle = low + (high - low) / 2
            while low < middle < high:
                if _all_hold(terms[p], middle, goals[p], least):
                    low = middle
                else:
                    high = middle
                middle = low + (high - low) / 2
            if high == np.inf:
                low = np.inf
        updates[p] = low


@compiled()
def suggest(table, total, least, updates):  # type: ignore[no-untyped-def]
    """Set the most updates that all can make; return them and the samples that still fit."""
    low, high = 0, table.shape[1] + 1
    slack = np.int64(0)
    while high - low > 1:
        # One update is looked at first: it says who takes part, and which samples fit at all.
        middle = (low + high) // 2 if low else 1
        held = np.int64(0)
        fits = True
        for k in range(len(table)):
            if table[k, 0] >= least:
                held += table[k, middle - 1]
                fits = fits and table[k, middle - 1] >= least
        if not low:
            total = min(total, held)
        if fits and held >= total:
            low, slack = middle, held - total
        else:
            high = middle
    for k in range(len(table)):
        updates[k] = low if table[k, 0] >= least else 0
    return low, slack, total
