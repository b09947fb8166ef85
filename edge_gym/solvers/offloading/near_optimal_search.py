"""A search near the optimum on grids, by dynamic programming over the band."""

from __future__ import annotations

import math

import numpy as np

from edge_gym.runtime.compiling import compiled
from edge_gym.runtime.threads import for_ranges
from edge_gym.solvers.offloading.costs import Offloading, OffloadingCosts
from edge_gym.solvers.offloading.resources import best_of
from edge_gym.solvers.offloading.users import (
    MAX_STEPS,
    NEWTON_STEP,
    as_users,
    copy_into,
    stretch_of,
)

_MAX_PRICE = 1e12


_PRICE_STEPS = 25


_CELLS_PER_USER = 3


_LEVEL_STEPS = 3


_BEST_LEVELS = 5


_ZOOM_REACH = 2


_FINEST = 1e-2


def near_optimal(costs: OffloadingCosts, *, cells: int = 40, levels: int = 20) -> Offloading:
    """Return decisions that are nearly optimal, ι continuous.

    No worse than ``local_only`` and ``edge_only``. Against the best that ``admm``, ``exhaustive``,
    up to four times the cells and levels, and a search in single ι from these find, 40 draws of
    2, 4 and 8 users of Table I for each of 24 settings, models of 0.01 to 48 Mbit and mean tasks of
    1 to 64 Mbit, cost 0.72 % more at worst and 0.07 % on average of any setting; with models of
    8 Mbit or more 0.2 % and 0.01 %.

    Args:
        costs: Costs of the iteration, ``(..., M)``.
        cells: Most cells of the band that a user can get, in the first grid of shares.
        levels: Values of τ̂ that are looked at on a grid of half as many cells; the best five are
            on the first grid.

    Raises:
        ValueError: If ``cells`` or ``levels`` is less than 2.

    Source: Li et al. 2021, (10), by a method of ours.
    """
    for name, value in (("cells", cells), ("levels", levels)):
        if value < 2:
            raise ValueError(f"{name} must be at least 2, got {value}")
    users = as_users(costs)
    candidates = np.zeros((len(users), 3, users.shape[-1]))
    candidates[:, 1] = users["cycles"] > 0
    for_ranges(
        lambda start, stop: _near_optimal_of_many(start, stop, users, cells, levels, candidates),
        len(users),
    )
    return best_of(costs, candidates)


@compiled(error_model="numpy")
def _least_share(stretch, snr):  # type: ignore[no-untyped-def]
    """Return the share of a given stretch, and its derivative: Newton's method from below."""
    if stretch <= 1:
        return math.inf, -math.inf
    x = 2 * (stretch - 1)
    for _ in range(MAX_STEPS):
        log = math.log1p(x)
        slope = (1 - x / (1 + x) / log) / log
        step = (stretch - x / log) / slope
        x += step
        if step <= NEWTON_STEP * x:
            return snr / x, -snr / (x * x * slope)
    return snr / x, -snr / (x * x * slope)


@compiled(error_model="numpy")
def _least_shares(users, ready, shares):  # type: ignore[no-untyped-def]
    """Write the shares with which updates arrive by ``ready`` and return their sum and slope."""
    total = slope = 0.0
    for j in range(users.shape[0]):
        user = users[j]
        shares[j], fall = _least_share((ready - user.ready) / user.upload, user.uplink_snr)
        total += shares[j]
        slope += fall / user.upload
    return total, slope


@compiled(error_model="numpy")
def _edge_hz(user, task_s, slope):  # type: ignore[no-untyped-def]
    """Return the CPU frequency at which sending one more bit or computing it costs the same.

    The edge branch dominates and ends ``slope`` later per task offloaded, whose sending takes
    ``task_s``. Newton's method from above on a polynomial that is convex.
    """
    wanted = user.send_price * task_s + user.time_price * slope
    square, cube = 3 * user.heat * user.cycles, 2 * user.heat * slope
    hz = user.free_hz
    for _ in range(MAX_STEPS):
        excess = (square + cube * hz) * hz * hz - wanted
        if excess <= wanted * NEWTON_STEP:
            break
        hz -= excess / ((2 * square + 3 * cube * hz) * hz)
    return hz


@compiled(error_model="numpy")
def tabulate(user, ready, base, unit, cells, grid, received, table, sent, splits):  # type: ignore[no-untyped-def]
    """Write a user's least cost for every number of cells of the band, and how it is reached.

    With i + k cells the uplink has the share ``base`` + unit·(cells[0] + i·cells[2]), with which
    the update arrives at ``ready`` at the latest, and the downlink unit·(cells[1] + k·cells[2]).
    The cost of given shares is convex in ι < 1: it falls up to the ι where the local branch, at
    the frequency f of its stationary point, ends with the edge branch, unless ι = 0 is best.
    """
    n_up, n_down = grid
    for n in range(table.size):
        table[n] = math.inf
    for k in range(n_down + 1):
        share = unit * (cells[1] + k * cells[2])
        received[k] = math.inf
        if share > 0:
            received[k] = ready + user.download * stretch_of(share, user.downlink_snr)
    freed = int(cells[1] / cells[2] + 0.5)
    free_s = user.cycles / user.free_hz
    free_cost = user.time_price * free_s + user.heat * user.cycles * user.free_hz**2
    for i in range(n_up + 1):
        stretch = stretch_of(base + unit * (cells[0] + i * cells[2]), user.uplink_snr)
        upload, task = user.upload * stretch, user.offload * stretch
        arrived = user.ready + upload
        fixed_cost, task_cost = user.send_price * upload, user.send_price * task
        if user.cycles > 0:
            n = max(i - freed, 0)
            cost = fixed_cost + task_cost
            cost += user.time_price * (max(ready, arrived + task) + user.edge)
            if cost < table[n]:
                table[n], sent[n], splits[n] = cost, i, 1.0
        # Where sending a bit costs more than computing it at leisure, none is offloaded.
        sends = task_cost < free_cost
        early_s = late_s = free_s
        early_cost = late_cost = free_cost
        kink = math.inf
        if sends:
            hz = _edge_hz(user, task, user.edge)
            early_s = user.cycles / hz
            early_cost = user.time_price * early_s + user.heat * user.cycles * hz**2
            hz = _edge_hz(user, task, user.edge + task)
            late_s = user.cycles / hz
            late_cost = user.time_price * late_s + user.heat * user.cycles * hz**2
            kink = (ready - arrived) / task
        early_part, late_part = 1 / (user.edge + early_s), 1 / (user.edge + task + late_s)
        for k in range(min(n_down, table.size - 1 - i) + 1):
            download = received[k] - ready
            split, local_cost = 0.0, free_cost
            if sends:
                split, local_cost = (early_s + download) * early_part, early_cost
                if split > kink:
                    split, local_cost = (late_s + received[k] - arrived) * late_part, late_cost
                    if split <= kink:
                        split = kink
                        local = (ready + split * user.edge - received[k]) / (1 - split)
                        local = max(local, free_s)
                        heat = user.heat * user.cycles**3 / local**2
                        local_cost = user.time_price * local + heat
                if split >= 1:
                    continue
            cost = fixed_cost + split * task_cost + (1 - split) * local_cost
            cost += user.receive_price * download + user.time_price * received[k]
            if cost < table[i + k]:
                table[i + k], sent[i + k], splits[i + k] = cost, i, split


@compiled(error_model="numpy")
def _cells_at(table, price, chosen):  # type: ignore[no-untyped-def]
    """Write how many cells each user takes at a price per cell and return their sum."""
    total = 0
    for j in range(table.shape[0]):
        least = math.inf
        for k in range(table.shape[1]):
            cost = table[j, k] + price * k
            if cost < least:
                chosen[j], least = k, cost
        total += chosen[j]
    return total


@compiled(error_model="numpy")
def _share_out(table, budget, chosen, values, choices, bottoms):  # type: ignore[no-untyped-def]
    """Write how many cells each user gets and return the least sum of their tables' entries.

    Dynamic programming over users and the cells that they use together. A large budget limits how
    far these may deviate from what users take at the price that makes it suffice, so that the
    number of operations is linear in users.
    """
    n_users, width = table.shape
    reach = values.shape[1] // 2
    if budget > reach and _cells_at(table, 0.0, chosen) > budget:
        low, high = 0.0, 1.0
        while _cells_at(table, high, chosen) > budget and high < _MAX_PRICE:
            low, high = high, 8 * high
        for _ in range(_PRICE_STEPS):
            price = (low + high) / 2
            if _cells_at(table, price, chosen) > budget:
                low = price
            else:
                high = price
        _cells_at(table, high, chosen)
    values[0, 0] = 0.0
    bottoms[0] = bottom = top = centre = 0
    for j in range(n_users):
        centre += chosen[j] if budget > reach else 0
        last_bottom, last_top = bottom, top
        bottom = max(centre - reach, 0)
        top = min(centre + reach, budget, last_top + width - 1)
        bottoms[j + 1] = bottom
        if top < bottom:
            return math.inf
        for used in range(bottom, top + 1):
            least, best = math.inf, 0
            for k in range(max(0, used - last_top), min(width - 1, used - last_bottom) + 1):
                cost = values[j, used - k - last_bottom] + table[j, k]
                if cost < least:
                    least, best = cost, k
            values[j + 1, used - bottom] = least
            choices[j, used - bottom] = best
    used, least = bottom, math.inf
    for k in range(bottom, top + 1):
        if values[n_users, k - bottom] < least:
            used, least = k, values[n_users, k - bottom]
    for j in range(n_users - 1, -1, -1):
        chosen[j] = choices[j, used - bottoms[j + 1]]
        used -= chosen[j]
    return least


@compiled(error_model="numpy")
def _try_ready(users, ready, cells, grid, work, found):  # type: ignore[no-untyped-def]
    """Return the least cost where all updates arrive by ``ready``, on a grid of shares.

    ``cells`` has each user's first shares of uplink and downlink, in units of what is left of the
    band when updates arrive in time, and the width of a cell; ``found`` takes the cells and ι.
    """
    base, received, table, sent, splits, chosen, values, choices, bottoms = work
    n_users = users.shape[0]
    total, _ = _least_shares(users, ready, base)
    if not total < 1:
        return math.inf
    width, taken = cells[0, 2], 0.0
    for j in range(n_users):
        tabulate(
            *(users[j], ready, base[j], 1 - total, cells[j], grid, received),
            *(table[j], sent[j], splits[j]),
        )
        taken += cells[j, 0] + cells[j, 1]
    budget = int((1 - taken) / width + 1e-6)
    cost = _share_out(table, budget, chosen, values, choices, bottoms)
    if cost < math.inf:
        for j in range(n_users):
            k = chosen[j]
            found[j, 0] = cells[j, 0] + sent[j, k] * width
            found[j, 1] = cells[j, 1] + (k - sent[j, k]) * width
            found[j, 2] = splits[j, k]
            if splits[j, k] == 1:
                found[j, 1] = 0.0
    return cost


@compiled(error_model="numpy")
def _work(n_users, width, reach):  # type: ignore[no-untyped-def]
    span = 2 * reach + 1
    return (
        np.empty(n_users),
        np.empty(width),
        np.empty((n_users, width)),
        np.empty((n_users, width), np.int64),
        np.empty((n_users, width)),
        np.zeros(n_users, np.int64),
        np.empty((n_users + 1, span)),
        np.empty((n_users, span), np.int64),
        np.zeros(n_users + 1, np.int64),
    )


@compiled(error_model="numpy")
def _coarse(users, levels, n_cells, limit, costs, found):  # type: ignore[no-untyped-def]
    """Look at the τ̂ with the ``limit`` lowest ``costs`` on one grid of shares.

    Writes their costs on this grid and the shares of the best; returns the place of the best and
    the number of cells of the band.
    """
    n_users = users.shape[0]
    budget = max(n_cells, _CELLS_PER_USER * n_users)
    work = _work(n_users, n_cells + 1, n_cells + 1)
    cells, trial = np.zeros((n_users, 3)), np.zeros((n_users, 3))
    # Small models need less than a cell for their downlinks: the least sum of needs/share has
    # shares that go with the roots of the needs, of models and of halves of the tasks.
    total = 0.0
    for j in range(n_users):
        user = users[j]
        cells[j, 2] = 1 / budget
        cells[j, 1] = math.sqrt(user.download * stretch_of(1 / n_users, user.downlink_snr))
        sending = user.offload / 2 * stretch_of(1 / n_users, user.uplink_snr)
        total += math.sqrt(sending) + cells[j, 1]
    for j in range(n_users):
        cells[j, 1] /= total
        if cells[j, 1] >= cells[j, 2]:
            cells[j, 1] = 0.0
    order = np.argsort(costs)[:limit]
    costs[:] = math.inf
    best, least = order[0], math.inf
    for i in order:
        costs[i] = _try_ready(users, levels[i], cells, (n_cells, n_cells), work, trial)
        if costs[i] < least:
            best, least = i, costs[i]
            copy_into(trial.ravel(), found.ravel())
    return best, budget


@compiled(error_model="numpy")
def _near_optimal(users, n_cells, n_levels, offloaded):  # type: ignore[no-untyped-def]
    """Write near-optimal shares ι: the best τ̂ and shares on a grid, then on ever finer ones."""
    n_users = users.shape[0]
    cells, trial, best = np.zeros((n_users, 3)), np.zeros((n_users, 3)), np.zeros((n_users, 3))
    levels, costs, shares = np.empty(n_levels), np.zeros(n_levels), np.empty(n_users)
    for i in range(n_levels):
        # Where updates that arrive in time take this share of the band, or nearly so.
        aim = (i + 0.5) / n_levels
        ready = 0.0
        for j in range(n_users):
            user = users[j]
            ready = max(ready, user.ready + user.upload * stretch_of(aim, user.uplink_snr))
        for _ in range(_LEVEL_STEPS):
            total, slope = _least_shares(users, ready, shares)
            ready += max((1 / aim - 1 / total) * total**2 / -slope, 0.0)
        levels[i] = ready
    _coarse(users, levels, max(n_cells // 2, 2), n_levels, costs, best)
    chosen, budget = _coarse(users, levels, n_cells, _BEST_LEVELS, costs, best)
    least = costs[chosen]
    ready = levels[chosen]
    reach = (levels[max(chosen - 1, 0)] - levels[min(chosen + 1, n_levels - 1)]) / 4
    work = _work(n_users, 4 * _ZOOM_REACH + 1, 8 * _ZOOM_REACH)
    grid = (2 * _ZOOM_REACH, 2 * _ZOOM_REACH)
    width, centre, middle = 0.5 / budget, best.copy(), ready
    for _ in range(MAX_STEPS):
        if width <= _FINEST / budget:
            break
        last = least
        for j in range(n_users):
            for a in range(2):
                steps = min(_ZOOM_REACH, int(centre[j, a] / width + 1e-6))
                cells[j, a] = max(centre[j, a] - steps * width, 0.0)
            cells[j, 2] = width
        for side in range(-1, 2):
            cost = _try_ready(users, middle + side * reach, cells, grid, work, trial)
            if cost < least:
                least, ready = cost, middle + side * reach
                best, trial = trial, best
        copy_into(best.ravel(), centre.ravel())
        middle = ready
        if not least < last - 1e-7 * abs(last):
            width /= 2
            reach /= 2
    for j in range(n_users):
        offloaded[j] = best[j, 2]


@compiled(error_model="numpy")
def _near_optimal_of_many(start, stop, users, n_cells, n_levels, candidates):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        _near_optimal(users[i], n_cells, n_levels, candidates[i, 0])
