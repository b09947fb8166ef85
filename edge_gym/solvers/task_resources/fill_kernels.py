"""Allocations of ranges of instances, compiled; each fills arrays that it is given."""

from __future__ import annotations

import math

import numpy as np

from edge_gym.runtime.compiling import compiled
from edge_gym.solvers.task_allocation import LARGEST
from edge_gym.solvers.task_resources.kernels import (
    MOST_STEPS,
    ROUNDING,
    band_bounds,
    bands_for,
    capacity_and_slopes,
    copy_values,
    fit_bands,
    least_band,
    members_of,
    raise_level,
    sample_fall,
    share_band,
    slope_of,
    whole_samples,
)

_NEAR = 1e-10
"""Relative accuracy of a real number of updates."""


_TRIES = 3
"""Learners whose raise by one update is tried, those that lose the fewest samples first."""


@compiled()
def fill_synchronous(  # type: ignore[no-untyped-def]
    learners, taking_part, bands, goals, least, most, held, updates, shares, start, stop
):
    """Write the most updates that all can make, by Newton's method, and the bands for them."""
    for p in range(start, stop):
        places, members = members_of(learners[p], taking_part[p])
        n, band = len(places), bands[p]
        if n == 0:
            continue
        best, tau = shares[p][places], np.empty(n)
        share, low, high = best.copy(), np.full(n, band / n), np.full(n, band)
        goal = float(goals[p])
        common, left, right = 1.0, 1.0, np.inf
        for _ in range(MOST_STEPS):
            tau[:] = common
            following, enough, near = 0.0, False, False
            if band_bounds(members, tau, least, band, low, high) <= band:
                room = share_band(members, tau, low, high, band, share)
                if common == 1:
                    copy_values(share, best)
                    goal = whole_samples(members, tau, goal, band, best)
                enough = room >= goal - ROUNDING
                fall = sample_fall(members, tau, low, high, share)
                if fall > 0:
                    step = math.log(room / goal) * room / (common * fall)
                    near = abs(step) <= _NEAR
                    following = common * math.exp(min(max(step, -1.0), 1.0))
            if common > 1:
                if enough or near:
                    left = common
                    copy_values(share, best)
                if not enough:
                    right = common
            if near or left == most or right <= left * (1 + _NEAR):
                break
            if not left < following < right:
                following = math.sqrt(left * right) if right < np.inf else 2 * left
            common = min(following, float(most))
        held[p] = np.int64(goal)
        updates[p] = left
        for j in range(n):
            shares[p, places[j]] = best[j]


@compiled()
def fill_raised(  # type: ignore[no-untyped-def]
    learners, taking_part, bands, goals, least, most, cap, updates, shares, start, stop
):
    """Share bands anew for given updates, and raise these one by one while the samples fit."""
    for p in range(start, stop):
        places, members = members_of(learners[p], taking_part[p])
        n, band, goal = len(places), bands[p], float(goals[p])
        if n == 0:
            continue
        best, low, high = shares[p][places], np.full(n, band / n), np.full(n, band)
        tau = np.maximum(updates[p][places], 1).astype(np.float64)
        share = best.copy()
        if fit_bands(members, tau, least, goal, band, low, high, share):
            copy_values(share, best)
        loss = np.empty(n)
        raised = cap > 0
        while raised:
            raised = False
            for k in range(n):
                tau[k] += 1
                loss[k] = np.inf
                if tau[k] <= min(most, tau.min() + cap):
                    loss[k] = -capacity_and_slopes(members[k], tau[k], best[k])[0]
                tau[k] -= 1
                loss[k] += capacity_and_slopes(members[k], tau[k], best[k])[0]
            for _ in range(_TRIES):
                cheapest = loss.argmin()
                if raised or loss[cheapest] == np.inf:
                    break
                copy_values(best, share)
                tau[cheapest] += 1
                raised = fit_bands(members, tau, least, goal, band, low, high, share)
                if raised:
                    copy_values(share, best)
                else:
                    tau[cheapest] -= 1
                    loss[cheapest] = np.inf
        for j in range(n):
            shares[p, places[j]] = best[j]


@compiled()
def fill_equal_tasks(  # type: ignore[no-untyped-def]
    learners, taking_part, bands, goals, least, most, cap, samples, updates, shares, start, stop
):
    """Write equal tasks, and bands raised where one more update costs the least band."""
    for p in range(start, stop):
        places, members = members_of(learners[p], taking_part[p])
        n, band = len(places), bands[p]
        if n == 0:
            continue
        found, task = shares[p][places], np.empty(n)
        share, rest = goals[p] // n, goals[p] % n
        room = np.floor(members["samples"])
        for j in range(n):
            task[j] = min(share + (1 if j < rest else 0), room[j])
        if not bands_for(members, task, 1.0, band, found):
            low, high = least, share + 1
            while high - low > 1:
                middle = (low + high) // 2
                task = np.minimum(float(middle), room)
                if bands_for(members, task, 1.0, band, found):
                    low = middle
                else:
                    high = middle
            task = np.minimum(float(low), room)
        common, high = 1, most + 1
        while high - common > 1:
            middle = min(2 * common, (common + high) // 2)
            if bands_for(members, task, float(middle), band, found):
                common = middle
            else:
                high = middle
        # Windows that begin lower give less than that.
        first, last = min(common, max(1, common - cap + 1)), min(common + cap, most)
        need = np.empty((n, last - first + 1))
        for j in range(n):
            guess = band / n
            for i in range(last - first + 1):
                need[j, i] = np.inf
                if guess < np.inf:
                    guess = least_band(members[j], float(first + i), task[j], guess, band)
                    need[j, i] = guess
        level, best, total = np.empty(n, np.int64), np.zeros(n, np.int64), -1
        for base in range(common, first - 1, -1):
            reached = raise_level(need, base - first, min(base + cap, last) - first, band, level)
            if reached > total:
                total = reached
                copy_values(level, best)
        held = 0.0
        for j in range(n):
            held += need[j, best[j]]
        for j in range(n):
            samples[p, places[j]] = np.int64(task[j])
            updates[p, places[j]] = first + best[j]
            shares[p, places[j]] = need[j, best[j]] * (band / held)


@compiled()
def fill_capacities(learners, updates, bands, samples):  # type: ignore[no-untyped-def]
    """Write the samples that learners can hold for given updates and bands."""
    for k in range(len(learners)):
        found = capacity_and_slopes(learners[k], updates[k], bands[k])[0]
        samples[k] = min(found, learners[k].samples)


@compiled()
def fill_taking_part(learners, bands, least, taking_part):  # type: ignore[no-untyped-def]
    """Write which learners can hold the least samples in an equal share of the band."""
    for p in range(len(learners)):
        for k in range(learners.shape[1]):
            learner = learners[p, k]
            taking_part[p, k] = (
                learner.samples >= least and capacity_and_slopes(learner, 1.0, bands[p])[0] >= least
            )


@compiled()
def fill_tables(learners, taking_part, bands, tables, start, stop):  # type: ignore[no-untyped-def]
    """Write the samples that learners can hold for 1, 2, ... updates in given bands."""
    for p in range(start, stop):
        for k in range(learners.shape[1]):
            learner, table = learners[p, k], tables[p, k]
            room = min(learner.samples, float(LARGEST)) if taking_part[p, k] else 0.0
            for i in range(len(table)):
                if room >= 1:
                    found = capacity_and_slopes(learner, i + 1.0, bands[p, k])[0]
                    # D falls in τ, if not always in floating point.
                    room = min(room, found + ROUNDING)
                table[i] = np.int64(room)


@compiled()
def _saving(learner, cycles, left, band, x):  # type: ignore[no-untyped-def]
    """Return the logarithm of the joules that a slower clock saves per joule of a faster upload.

    Also return by how much it falls with ln(x).
    """
    upload = learner.nats / (x * band)
    slope = slope_of(x)
    clock = cycles / (left - upload)
    ratio = 2 * learner.capacitance * learner.gain * clock**3 / (band * slope)
    return math.log(ratio), 3 * upload / (left - upload) + x * x * math.exp(x) / slope


@compiled()
def fill_least_energy(learners, samples, updates, bands, power, clock):  # type: ignore[no-untyped-def]
    """Write the powers and clocks that do given tasks at the least energy."""
    for k in range(len(learners)):
        learner, band = learners[k], bands[k]
        cycles = learner.cycles * samples[k] * updates[k]
        left = learner.cycle_s - (learner.model + learner.sample * samples[k]) / band
        power[k], clock[k] = learner.power, learner.cpu
        low = high = math.log1p(learner.power * learner.gain / band)
        spare = left - cycles / learner.cpu
        if spare > 0:
            low = learner.nats / (spare * band)
        if cycles == 0 or low >= high:
            continue
        if _saving(learner, cycles, left, band, low)[0] <= 0:
            high = low
        elif _saving(learner, cycles, left, band, high)[0] >= 0:
            low = high
        x = high
        while low < high:
            saving, fall = _saving(learner, cycles, left, band, x)
            if saving > 0:
                low = x
            else:
                high = x
            following = x * math.exp(min(max(saving / fall, -1.0), 1.0))
            if abs(following - x) <= 1e-13 * x or high - low <= 1e-15 * high:
                break
            x = following if low < following < high else math.sqrt(low * high)
        power[k] = min(math.expm1(x) * band / learner.gain, learner.power)
        clock[k] = min(cycles / (left - learner.nats / (x * band)), learner.cpu)
