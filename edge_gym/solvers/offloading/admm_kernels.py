"""The updates of the alternating directions, compiled."""

from __future__ import annotations

import math

import numpy as np

from edge_gym.runtime.compiling import compiled
from edge_gym.solvers.offloading.users import (
    MAX_STEPS,
    NEWTON_STEP,
    TOLERANCE,
    copy_into,
    stretch_of,
    stretch_slopes,
)

_SPLIT_PRECISION = 1e-3


_GOLDEN = (math.sqrt(5) - 1) / 2


@compiled(error_model="numpy")
def _uplink_copy(user, offloaded, weight, pull, centre, penalties, start):  # type: ignore[no-untyped-def]
    """Return the share x and the time y of (18) where ``weight`` of w^t lies on the edge branch.

    The rest of w^t lies on the local branch, that is on y. Newton's method for
    (α + c·(x - b))/|F'(x)| = price with F the stretch, whose left side is nearly x² times the
    numerator. Both values come with their derivatives with respect to the weight.
    """
    sending = user.upload + offloaded * user.offload
    low, high = max(0.0, centre[0] - pull[0] / penalties[0]), math.inf
    x = start if start > low else 2 * low
    rest = user.time_price - weight
    late_y = centre[1] - (user.time_price + pull[1]) / penalties[1]
    early_y = late_y + weight / penalties[1]
    y = x_slope = y_slope = 0.0
    for _ in range(MAX_STEPS):
        stretch, fall, curvature = stretch_slopes(x, user.uplink_snr)
        least = user.ready + user.upload * stretch
        arrived = user.ready + sending * stretch
        # What a later arrival of the task and of the update cost.
        late, bound, price_slope, weighted = weight, 0.0, 0.0, sending
        y, y_slope = early_y, 1 / penalties[1]
        if early_y <= arrived:
            if early_y < least:
                y, y_slope = least, 0.0
                bound = rest + pull[1] + penalties[1] * (y - centre[1])
                price_slope = penalties[1] * user.upload**2 * fall
                weighted -= user.upload
        else:
            weighted = y_slope = 0.0
            if late_y >= arrived:
                y, late = late_y, 0.0
            else:
                y = arrived
                late = user.time_price + pull[1] + penalties[1] * (y - centre[1])
                price_slope = penalties[1] * sending**2 * fall
        price = (user.send_price + late) * sending + bound * user.upload
        numerator = pull[0] + penalties[0] * (x - centre[0])
        excess = -numerator / fall - price
        slope = (numerator * curvature / fall - penalties[0]) / fall - price_slope
        x_slope = weighted / slope
        if y == least:
            y_slope = user.upload * fall * x_slope
        elif y == arrived:
            y_slope = sending * fall * x_slope
        if excess < 0:
            low = x
        else:
            high = x
        moved = x - excess / slope
        if not low < moved < high:
            moved = 2 * x if high == math.inf else (low + high) / 2
        done = abs(moved - x) <= NEWTON_STEP * x
        x = moved
        if done:
            break
    return x, y, x_slope, y_slope


@compiled(error_model="numpy")
def _downlink_copy(user, rest, pull, centre, penalties, start):  # type: ignore[no-untyped-def]
    """Return the share z of (18) where ``rest`` of w^t lies on the local branch, and dz/d(rest)."""
    price = (user.receive_price + rest) * user.download
    low, high = max(0.0, centre[2] - pull[2] / penalties[2]), math.inf
    z = start if start > low else 2 * low
    slope = 1.0
    for _ in range(MAX_STEPS):
        _, fall, curvature = stretch_slopes(z, user.downlink_snr)
        numerator = pull[2] + penalties[2] * (z - centre[2])
        excess = -numerator / fall - price
        slope = (numerator * curvature / fall - penalties[2]) / fall
        if excess < 0:
            low = z
        else:
            high = z
        moved = z - excess / slope
        if not low < moved < high:
            moved = 2 * z if high == math.inf else (low + high) / 2
        done = abs(moved - z) <= NEWTON_STEP * z
        z = moved
        if done:
            break
    return z, user.download / slope


@compiled(error_model="numpy")
def _copies(user, offloaded, weight, pull, centre, penalties, copy):  # type: ignore[no-untyped-def]
    """Write (x, y, z) for a weight of the edge branch; return how much later that branch ends.

    The local part takes as long as is best for the rest of the weight. The second value is the
    derivative of the first with respect to the weight.
    """
    rest = user.time_price - weight
    x, y, x_slope, y_slope = _uplink_copy(user, offloaded, weight, pull, centre, penalties, copy[0])
    z, z_slope = _downlink_copy(user, rest, pull, centre, penalties, copy[2])
    copy[0], copy[1], copy[2] = x, y, z
    cycles = (1 - offloaded) * user.cycles
    local, local_slope = cycles / user.max_hz, 0.0
    heat = 2 * user.heat
    if rest < heat * user.max_hz**3:
        local = cycles / (rest / heat) ** (1 / 3)
        local_slope = local / (3 * rest)
    stretch, fall, _ = stretch_slopes(x, user.uplink_snr)
    down_stretch, down_fall, _ = stretch_slopes(z, user.downlink_snr)
    sending = user.upload + offloaded * user.offload
    arrived = user.ready + sending * stretch
    late = max(y, arrived) + offloaded * user.edge - y - user.download * down_stretch - local
    late_slope = user.download * down_fall * z_slope - local_slope
    if arrived > y:
        late_slope += sending * fall * x_slope - y_slope
    return late, late_slope


@compiled(error_model="numpy")
def local_copy(user, offloaded, pull, centre, penalties, copy):  # type: ignore[no-untyped-def]
    """Write the (x, y, z) that minimise (18) for a given share ι < 1 and return the minimum.

    The weight of the edge branch is 0 unless that branch would then end later, else the root of
    their difference, which falls with the weight. ``copy`` also holds the weight found before.
    """
    low, high, weight = 0.0, user.time_price, copy[3]
    for _ in range(MAX_STEPS):
        late, slope = _copies(user, offloaded, weight, pull, centre, penalties, copy)
        if late > 0:
            low = weight
        else:
            high = weight
        if abs(late) <= TOLERANCE or high - low <= TOLERANCE * user.time_price:
            break
        moved = weight - late / slope
        if moved <= 0 and low == 0.0:
            # Without any weight on it the edge branch may still end first.
            moved = 0.0
            if weight == 0.0:
                break
        elif not low < moved < high:
            moved = (low + high) / 2
        weight = moved
    copy[3] = weight
    stretch = stretch_of(copy[0], user.uplink_snr)
    sending = (user.upload + offloaded * user.offload) * stretch
    download = user.download * stretch_of(copy[2], user.downlink_snr)
    received = copy[1] + download
    edge_end = max(copy[1], user.ready + sending) + offloaded * user.edge
    cycles = (1 - offloaded) * user.cycles
    local = max(cycles / user.free_hz, edge_end - received)
    cost = user.send_price * sending + user.receive_price * download
    cost += user.time_price * (received + local)
    if cycles > 0:
        cost += user.heat * cycles**3 / local**2
    return cost + _distance(pull, centre, penalties, copy)


@compiled(error_model="numpy")
def _distance(pull, centre, penalties, copy):  # type: ignore[no-untyped-def]
    """Return what the multipliers and the penalty of (14) add to a user's cost."""
    total = 0.0
    for a in range(3):
        total += pull[a] * copy[a] + penalties[a] / 2 * (copy[a] - centre[a]) ** 2
    return total


@compiled(error_model="numpy")
def edge_copy(user, pull, centre, penalties, copy):  # type: ignore[no-untyped-def]
    """Write the (x, y, z) that minimise (18) for ι = 1, a = 0 and return the minimum."""
    weight = user.time_price
    copy[0], copy[1], _, _ = _uplink_copy(user, 1.0, weight, pull, centre, penalties, copy[0])
    copy[2] = max(0.0, centre[2] - pull[2] / penalties[2])
    sending = (user.upload + user.offload) * stretch_of(copy[0], user.uplink_snr)
    cost = user.send_price * sending
    cost += user.time_price * (max(copy[1], user.ready + sending) + user.edge)
    return cost + _distance(pull, centre, penalties, copy)


@compiled(error_model="numpy")
def _step_one(user, pull, centre, penalties, copy, trial):  # type: ignore[no-untyped-def]
    """Write the (x, y, z) that solve (18) and return their share ι.

    Golden-section search on [0, 1), whose ends and ι = 1 are looked at too.
    """
    trial[0], trial[2], trial[3] = copy[0], max(copy[2], 1e-6), 0.0
    best = local_copy(user, 0.0, pull, centre, penalties, trial)
    copy_into(trial, copy)
    chosen = 0.0
    if user.cycles == 0:
        return chosen
    low, high = 0.0, 1.0
    left, right = 1 - _GOLDEN, _GOLDEN
    left_cost = local_copy(user, left, pull, centre, penalties, trial)
    if left_cost < best:
        best, chosen = left_cost, left
        copy_into(trial, copy)
    right_cost = local_copy(user, right, pull, centre, penalties, trial)
    if right_cost < best:
        best, chosen = right_cost, right
        copy_into(trial, copy)
    while high - low > _SPLIT_PRECISION:
        if left_cost < right_cost:
            high, right, right_cost = right, left, left_cost
            left = high - _GOLDEN * (high - low)
            left_cost = local_copy(user, left, pull, centre, penalties, trial)
            if left_cost < best:
                best, chosen = left_cost, left
                copy_into(trial, copy)
        else:
            low, left, left_cost = left, right, right_cost
            right = low + _GOLDEN * (high - low)
            right_cost = local_copy(user, right, pull, centre, penalties, trial)
            if right_cost < best:
                best, chosen = right_cost, right
                copy_into(trial, copy)
    if edge_copy(user, pull, centre, penalties, trial) < best:
        copy_into(trial, copy)
        chosen = 1.0
    return chosen


@compiled(error_model="numpy")
def band_price(wanted, columns, budget):  # type: ignore[no-untyped-def]
    """Return θ/c of (22), with which the shares (wanted - θ/c)⁺ sum to ``budget`` at most.

    Newton's method: the sum is convex and piecewise linear, so it ends on the root.
    """
    price = 0.0
    while True:
        total, count = 0.0, 0
        for a in columns:
            for j in range(wanted.shape[0]):
                share = wanted[j, a] - price
                if share > 0:
                    total += share
                    count += 1
        if total <= budget * (1 + 1e-12):
            return price
        price += (total - budget) / count


@compiled(error_model="numpy")
def _admm(users, grouped, penalties, tolerances, max_iterations, offloaded, uplink, downlink):  # type: ignore[no-untyped-def]
    """Write the decisions that Algorithm 1 ends with and return its number of iterations."""
    n_users = users.shape[0]
    # The columns of all are b, τ̂ and b̄, of which every user has the same τ̂; those of ``copies``
    # are followed by the weight of the edge branch.
    common, copies = np.full((n_users, 3), 0.5 / n_users), np.zeros((n_users, 4))
    wanted, pull = np.empty((n_users, 3)), np.zeros((n_users, 3))
    trial, moved = np.empty(4), np.empty(3)
    ready = 0.0
    for j in range(n_users):
        user = users[j]
        uploaded = user.upload * stretch_of(common[j, 0], user.uplink_snr)
        ready = max(ready, user.ready + uploaded)
    for j in range(n_users):
        common[j, 1] = ready
        for a in range(3):
            copies[j, a] = common[j, a]
    iteration = 0
    while iteration < max_iterations:
        iteration += 1
        mean = 0.0
        for j in range(n_users):
            offloaded[j] = _step_one(users[j], pull[j], common[j], penalties, copies[j], trial)
            for a in range(3):
                wanted[j, a] = copies[j, a] + pull[j, a] / penalties[a]
            mean += wanted[j, 1] / n_users
        if grouped:
            up_price = band_price(wanted, (0,), 0.5)
            down_price = band_price(wanted, (2,), 0.5)
        else:
            up_price = down_price = band_price(wanted, (0, 2), 1.0)
        apart, change = 0.0, abs(max(mean, 0.0) - ready)
        ready = max(mean, 0.0)
        for j in range(n_users):
            moved[0] = max(wanted[j, 0] - up_price, 0.0)
            moved[1] = ready
            moved[2] = max(wanted[j, 2] - down_price, 0.0)
            change += abs(moved[0] - common[j, 0]) + abs(moved[2] - common[j, 2])
            for a in range(3):
                apart += abs(copies[j, a] - moved[a])
                pull[j, a] += penalties[a] * (copies[j, a] - moved[a])
                common[j, a] = moved[a]
        if apart <= tolerances[0] * n_users and change <= tolerances[1] * n_users:
            break
    total = down_total = 0.0
    for j in range(n_users):
        uplink[j], downlink[j] = copies[j, 0], copies[j, 2]
        if offloaded[j] == 1:
            downlink[j] = 0.0
        total += uplink[j]
        down_total += downlink[j]
    if grouped:
        total, down_total = 2 * total, max(2 * down_total, 1e-300)
    else:
        total = down_total = total + down_total
    for j in range(n_users):
        uplink[j] /= total
        downlink[j] /= down_total
    return iteration


@compiled(error_model="numpy")
def admm_of_many(start, stop, users, settings, found):  # type: ignore[no-untyped-def]
    """Run the method on a range of instances."""
    grouped, penalties, tolerances, most = settings
    offloaded, uplink, downlink, iterations = found
    for i in range(start, stop):
        iterations[i] = _admm(
            users[i], grouped, penalties, tolerances, most, offloaded[i], uplink[i], downlink[i]
        )
