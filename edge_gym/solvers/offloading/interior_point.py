"""A primal-dual interior point for the resources of given shares, compiled."""

from __future__ import annotations

import math

import numpy as np

from edge_gym.runtime.compiling import compiled
from edge_gym.solvers.offloading.users import (
    MAX_STEPS,
    TOLERANCE,
    copy_into,
    stretch_of,
    stretch_slopes,
)


@compiled(error_model="numpy")
def _slacks(user, offloaded, present, point, slack):  # type: ignore[no-untyped-def]
    """Write how far a user is inside of its constraints and return its cost.

    ``point`` is (b, b̄, t, T, τ̂), with t the seconds of computing locally and T the latency, the
    last download included. The constraints are, in this order, those that bound τ̂ from below
    (11), T by the local branch, T by the branch at the server twice, τ^pr being a maximum, and t.
    """
    share, down_share, local, latency, ready = point
    stretch = stretch_of(share, user.uplink_snr)
    sending = user.upload + offloaded * user.offload
    slack[0] = ready - user.ready - user.upload * stretch
    cost = user.send_price * sending * stretch + user.time_price * latency
    if present[1]:
        download = user.download * stretch_of(down_share, user.downlink_snr)
        slack[1] = latency - ready - download - local
        cost += user.receive_price * download
    if present[2]:
        edge = offloaded * user.edge
        slack[2] = latency - ready - edge
        slack[3] = latency - user.ready - sending * stretch - edge
    if present[4]:
        cycles = (1 - offloaded) * user.cycles
        slack[4] = local - cycles / user.max_hz
        if slack[4] > 0:
            cost += user.heat * cycles**3 / local**2
    return cost


@compiled(error_model="numpy")
def _gradients(user, offloaded, present, point, dual, gradient, hessian, slopes):  # type: ignore[no-untyped-def]
    """Write the cost's gradient, the Lagrangian's Hessian and the constraints' gradients."""
    for a in range(5):
        gradient[a] = 0.0
        for b in range(5):
            hessian[a, b] = slopes[a, b] = 0.0
    _, slope, curvature = stretch_slopes(point[0], user.uplink_snr)
    sending = user.upload + offloaded * user.offload
    gradient[0] = user.send_price * sending * slope
    gradient[3] = user.time_price
    hessian[0, 0] = (user.send_price * sending + dual[0] * user.upload) * curvature
    slopes[0, 0] = user.upload * slope
    slopes[0, 4] = -1.0
    # What a user does not decide gets a Hessian of one, and so never moves.
    hessian[1, 1] = hessian[2, 2] = 1.0
    if present[1]:
        _, down_slope, down_curvature = stretch_slopes(point[1], user.downlink_snr)
        gradient[1] = user.receive_price * user.download * down_slope
        hessian[1, 1] = (user.receive_price + dual[1]) * user.download * down_curvature
        slopes[1, 1] = user.download * down_slope
        slopes[1, 3], slopes[1, 4] = -1.0, 1.0
    if present[2]:
        hessian[0, 0] += dual[3] * sending * curvature
        slopes[2, 3], slopes[2, 4] = -1.0, 1.0
        slopes[3, 0], slopes[3, 3] = sending * slope, -1.0
    if present[4]:
        heat = user.heat * ((1 - offloaded) * user.cycles / point[2]) ** 3
        gradient[2] = -2 * heat
        hessian[2, 2] = 6 * heat / point[2]
        slopes[1, 2], slopes[4, 2] = 1.0, -1.0


@compiled(error_model="numpy")
def _start(users, offloaded, grouped, points, present):  # type: ignore[no-untyped-def]
    """Write a strictly feasible point and which constraints there are."""
    n_users, n_downloads = users.shape[0], 0
    for j in range(n_users):
        present[j, 0] = True
        present[j, 1] = offloaded[j] < 1
        present[j, 2] = present[j, 3] = offloaded[j] > 0
        present[j, 4] = offloaded[j] < 1 and users[j].cycles > 0
        n_downloads += present[j, 1]
    equal = 1 / (n_users + n_downloads)
    up_total = down_total = 0.0
    for j in range(n_users):
        user = users[j]
        # The least sum of needs/share has shares that go with the roots of the needs.
        sending = user.upload + offloaded[j] * user.offload
        points[j, 0] = math.sqrt(sending * stretch_of(equal, user.uplink_snr))
        points[j, 1] = math.sqrt(user.download * stretch_of(equal, user.downlink_snr))
        points[j, 1] *= present[j, 1]
        up_total += points[j, 0]
        down_total += points[j, 1]
    if grouped:
        up_total *= 2
        down_total *= 2
    else:
        up_total = down_total = up_total + down_total
    ready = 0.0
    for j in range(n_users):
        user = users[j]
        points[j, 0] /= up_total
        if present[j, 1]:
            points[j, 1] /= down_total
        uploaded = 1.5 * user.upload * stretch_of(points[j, 0], user.uplink_snr)
        ready = max(ready, user.ready + uploaded)
    for j in range(n_users):
        user = users[j]
        sending = user.upload + offloaded[j] * user.offload
        arrived = user.ready + sending * stretch_of(points[j, 0], user.uplink_snr)
        end = max(ready, arrived) + offloaded[j] * user.edge
        points[j, 2] = 1.2 * (1 - offloaded[j]) * user.cycles / user.free_hz
        if present[j, 1]:
            download = user.download * stretch_of(points[j, 1], user.downlink_snr)
            end = max(end, ready + download + points[j, 2])
        points[j, 3] = end + 0.2 * (end - user.ready)
        points[j, 4] = ready


@compiled(error_model="numpy")
def _eliminate(hessian, columns):  # type: ignore[no-untyped-def]
    """Solve with a user's own 4 × 4 block in place; ``columns`` holds right sides as rows."""
    for a in range(4):
        for b in range(a + 1):
            total = hessian[a, b]
            for c in range(b):
                total -= hessian[a, c] * hessian[b, c]
            hessian[a, b] = math.sqrt(total) if a == b else total / hessian[b, b]
    for i in range(columns.shape[0]):
        for a in range(4):
            total = columns[i, a]
            for c in range(a):
                total -= hessian[a, c] * columns[i, c]
            columns[i, a] = total / hessian[a, a]
        for a in range(3, -1, -1):
            total = columns[i, a]
            for c in range(a + 1, 4):
                total -= hessian[c, a] * columns[i, c]
            columns[i, a] = total / hessian[a, a]


@compiled(error_model="numpy")
def _solve_common(matrix, right):  # type: ignore[no-untyped-def]
    """Solve for τ̂ and the band's prices in place: quasidefinite, so pivots need no search."""
    for a in range(3):
        for b in range(a + 1, 3):
            factor = matrix[b, a] / matrix[a, a]
            for c in range(a + 1, 3):
                matrix[b, c] -= factor * matrix[a, c]
            right[b] -= factor * right[a]
    for a in range(2, -1, -1):
        for c in range(a + 1, 3):
            right[a] -= matrix[a, c] * right[c]
        right[a] /= matrix[a, a]


@compiled(error_model="numpy")
def _resources(users, offloaded, grouped, uplink, downlink):  # type: ignore[no-untyped-def]
    """Write the best shares of the band and return their cost, by a primal-dual interior point.

    Users meet in τ̂ and in the band alone: each one's 4 × 4 block is eliminated, and three unknowns
    remain. The cost leaves out what no decision changes.
    """
    n_users = users.shape[0]
    points, present = np.empty((n_users, 5)), np.zeros((n_users, 5), np.bool_)
    _start(users, offloaded, grouped, points, present)
    slack, trial = np.ones((n_users, 5)), np.ones((n_users, 5))
    dual, dual_step = np.zeros((n_users, 5)), np.zeros((n_users, 5))
    slopes = np.empty((n_users, 5, 5))
    columns, step = np.empty((n_users, 4, 4)), np.empty((n_users, 5))
    gradient, hessian, point = np.empty(5), np.empty((5, 5)), np.empty(5)
    coupling, matrix, right = np.zeros((3, 4)), np.empty((3, 3)), np.empty(3)
    down_row = 2 if grouped else 1
    cost, count = 0.0, 0
    for j in range(n_users):
        cost += _slacks(users[j], offloaded[j], present[j], points[j], slack[j])
        for k in range(5):
            count += present[j, k]
    for j in range(n_users):
        for k in range(5):
            if present[j, k]:
                dual[j, k] = cost / count / slack[j, k]
    prices = np.zeros(3)
    length = 1.0
    for _ in range(MAX_STEPS):
        gap = 0.0
        for j in range(n_users):
            for k in range(5):
                gap += dual[j, k] * slack[j, k]
        target = gap / count * min(max((1 - length) ** 2, 0.05), 1.0)
        for a in range(3):
            right[a] = 0.0
            for b in range(3):
                matrix[a, b] = 0.0
        residual = ready_residual = 0.0
        for j in range(n_users):
            _gradients(
                users[j], offloaded[j], present[j], points[j], dual[j], gradient, hessian, slopes[j]
            )
            for a in range(5):
                unbalanced = gradient[a]
                for k in range(5):
                    unbalanced += dual[j, k] * slopes[j, k, a]
                if a == 0:
                    unbalanced += prices[1]
                if a == 1 and present[j, 1]:
                    unbalanced += prices[down_row]
                if a < 4:
                    scale = points[j, a] if a < 3 else points[j, 3] - users[j].ready
                    residual += abs(unbalanced * scale)
                else:
                    ready_residual += unbalanced
            for k in range(5):
                if not present[j, k]:
                    continue
                weight, push = dual[j, k] / slack[j, k], target / slack[j, k]
                for a in range(5):
                    slope = slopes[j, k, a]
                    if slope != 0.0:
                        gradient[a] += push * slope
                        for b in range(a + 1):
                            hessian[a, b] += weight * slope * slopes[j, k, b]
            coupling[1, 0] = 1.0
            coupling[down_row, 1] = present[j, 1]
            for a in range(4):
                coupling[0, a] = hessian[4, a]
                columns[j, 0, a] = -gradient[a]
                for b in range(3):
                    columns[j, 1 + b, a] = coupling[b, a]
            _eliminate(hessian, columns[j])
            for a in range(3):
                for c in range(4):
                    right[a] += coupling[a, c] * columns[j, 0, c]
                    for b in range(3):
                        matrix[a, b] += coupling[a, c] * columns[j, 1 + b, c]
            matrix[0, 0] -= hessian[4, 4]
            right[0] += gradient[4]
        residual += abs(ready_residual) * points[0, 4]
        if gap <= TOLERANCE * cost and residual <= 1e3 * TOLERANCE * cost:
            break
        if matrix[2, 2] == 0.0:
            matrix[2, 2] = 1.0
        _solve_common(matrix, right)
        length = 1.0
        for j in range(n_users):
            for a in range(4):
                step[j, a] = columns[j, 0, a]
                for b in range(3):
                    step[j, a] -= columns[j, 1 + b, a] * right[b]
                if a < 2 and step[j, a] < 0:
                    length = min(length, -0.9 * points[j, a] / step[j, a])
            step[j, 4] = right[0]
            for k in range(5):
                if present[j, k]:
                    change = 0.0
                    for a in range(5):
                        change += slopes[j, k, a] * step[j, a]
                    dual_step[j, k] = (target + dual[j, k] * change) / slack[j, k] - dual[j, k]
                    if dual_step[j, k] < 0:
                        length = min(length, -0.99 * dual[j, k] / dual_step[j, k])
                    if change > 0:
                        length = min(length, 0.99 * slack[j, k] / change)
        # Constraints are convex: where they bend, less than what their slopes allow is inside.
        inside = False
        while not inside and length > 1e-9:
            inside = True
            moved = 0.0
            for j in range(n_users):
                for a in range(5):
                    point[a] = points[j, a] + length * step[j, a]
                moved += _slacks(users[j], offloaded[j], present[j], point, trial[j])
                for k in range(5):
                    inside &= not present[j, k] or trial[j, k] > 0.005 * slack[j, k]
                if not inside:
                    length *= 0.7
                    break
        if not inside:
            # Rounding has the last word; the point at hand is feasible.
            break
        for j in range(n_users):
            for k in range(5):
                points[j, k] += length * step[j, k]
                dual[j, k] += length * dual_step[j, k]
                slack[j, k] = trial[j, k]
        for a in range(3):
            prices[a] = right[a]
        cost = moved
    total = down_total = 0.0
    for j in range(n_users):
        total += points[j, 0]
        if present[j, 1]:
            down_total += points[j, 1]
    if not grouped:
        total = down_total = total + down_total
    half = 0.5 if grouped else 1.0
    for j in range(n_users):
        uplink[j] = half * points[j, 0] / total
        downlink[j] = half * points[j, 1] / down_total if present[j, 1] else 0.0
    return cost


@compiled(error_model="numpy")
def best_of_many(start, stop, users, candidates, grouped, offloaded, uplink, downlink):  # type: ignore[no-untyped-def]
    """Write the best of some shares ι and its resources for a range of instances."""
    n_users = users.shape[1]
    up, down = np.empty(n_users), np.empty(n_users)
    for i in range(start, stop):
        row, least = candidates[i if candidates.shape[0] > 1 else 0], math.inf
        for c in range(row.shape[0]):
            possible = True
            for j in range(n_users):
                possible &= users[i, j].cycles > 0 or row[c, j] == 0
            if not possible:
                continue
            cost = _resources(users[i], row[c], grouped, up, down)
            if cost < least:
                least = cost
                copy_into(row[c], offloaded[i])
                copy_into(up, uplink[i])
                copy_into(down, downlink[i])
