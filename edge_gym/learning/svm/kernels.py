"""Compiled code of support vector machines: solving, scoring and judging."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from edge_gym.learning.base import LOSS_SNR_DB
from edge_gym.runtime.compiling import compiled

_LOSS_SHARPNESS = math.sqrt(10 ** (LOSS_SNR_DB / 10) / 2)
_SWEEPS = 5
_CONJUGATE_STEPS = 10
_MAX_CONJUGATE_STEPS = 40
_MAX_ROUNDS = 300
_MAX_GRAM_SWEEPS = 4000
_MAX_INTERIOR_STEPS = 100
_ATTEMPTS = 3


@compiled(fastmath=True)
def _dot(x, y):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for j in range(x.shape[0]):
        total += x[j] * y[j]
    return total


@compiled(fastmath=True)
def _axpy(c, x, y):  # type: ignore[no-untyped-def]
    for j in range(x.shape[0]):
        y[j] += c * x[j]


@compiled()
def append_samples(problems, rows, samples, signs, z, norm2, gram, alpha, gradient, count):  # type: ignore[no-untyped-def]
    """Append ``signs * (samples, 1)`` to the problems and their Gram rows while they are kept."""
    for k in range(problems.shape[0]):
        p = problems[k]
        n = count[p]
        new = z[p, n]
        d = samples.shape[1]
        for j in range(d):
            new[j] = signs[k] * samples[rows[k], j]
        new[d] = signs[k]
        norm2[p, n] = _dot(new, new)
        alpha[p, n] = 0.0
        if n < gram.shape[1]:
            slope = -1.0
            for i in range(n):
                q = _dot(z[p, i], new)
                gram[p, n, i] = q
                gram[p, i, n] = q
                slope += alpha[p, i] * q
            gram[p, n, n] = norm2[p, n]
            gradient[p, n] = slope
        count[p] = n + 1


@compiled(fastmath=True)
def _gap(alpha, gradient, C):  # type: ignore[no-untyped-def]
    """Return primal - dual and primal; the gradient is zᵢᵀw - 1."""
    gap = 0.0
    total = 0.0
    norm2 = 0.0
    for i in range(alpha.shape[0]):
        a = alpha[i]
        g = gradient[i]
        gap += a * g if g > 0 else (a - C) * g
        total += a
        norm2 += a * (g + 1.0)
    return gap, total - 0.5 * norm2 + gap


@compiled(fastmath=True)
def measure(z, alpha, gradient, w, C):  # type: ignore[no-untyped-def]
    """Compute weights, gradient and the relative gap from alpha in float64."""
    n, d = z.shape
    exact = np.zeros(d)
    for i in range(n):
        if alpha[i] > 0:
            for j in range(d):
                exact[j] += alpha[i] * z[i, j]
    for i in range(n):
        score = 0.0
        for j in range(d):
            score += exact[j] * z[i, j]
        gradient[i] = score - 1.0
    for j in range(d):
        w[j] = exact[j]
    gap, primal = _gap(alpha, gradient, C)
    return gap / primal


@compiled(fastmath=True)
def _weights(z, alpha, w):  # type: ignore[no-untyped-def]
    w[:] = 0
    for i in range(alpha.shape[0]):
        if alpha[i] > 0:
            _axpy(np.float32(alpha[i]), z[i], w)


@compiled(fastmath=True)
def _solve_gram(gram, alpha, gradient, C, tolerance):  # type: ignore[no-untyped-def]
    """Cyclic coordinate descent on cached Gram rows; returns the relative gap."""
    n = alpha.shape[0]
    relative = 0.0
    for _ in range(_MAX_GRAM_SWEEPS):
        gap, primal = _gap(alpha, gradient, C)
        relative = gap / primal
        if relative <= tolerance:
            return relative
        for i in range(n):
            a = min(max(alpha[i] - gradient[i] / gram[i, i], 0.0), C)
            step = a - alpha[i]
            if step != 0.0:
                alpha[i] = a
                row = gram[i]
                for j in range(n):
                    gradient[j] += step * row[j]
    return relative


@compiled(fastmath=True)
def _sweep_samples(z, norm2, alpha, w, C, order, state):  # type: ignore[no-untyped-def]
    """Coordinate descent in random order; a variable held by its bound sits out the round."""
    active = order.shape[0]
    for _ in range(_SWEEPS):
        for k in range(active - 1, 0, -1):
            state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
            j = np.int64((state >> np.uint64(33)) % np.uint64(k + 1))
            order[k], order[j] = order[j], order[k]
        k = 0
        while k < active:
            i = order[k]
            g = _dot(z[i], w) - np.float32(1)
            if (alpha[i] <= 0.0 and g > 0) or (alpha[i] >= C and g < 0):
                active -= 1
                order[k], order[active] = order[active], i
                continue
            a = min(max(alpha[i] - g / norm2[i], 0.0), C)
            step = a - alpha[i]
            if step != 0.0:
                alpha[i] = a
                _axpy(np.float32(step), z[i], w)
            k += 1
    return state


@compiled(fastmath=True)
def _conjugate_gradients(z, alpha, gradient, w, C, steps):  # type: ignore[no-untyped-def]
    """Minimise over the free variables, then search along the path bent at the box's faces."""
    n, d = alpha.shape[0], w.shape[0]
    free = np.empty(n, np.int64)
    f = 0
    for i in range(n):
        if 0.0 < alpha[i] < C:
            free[f] = i
            f += 1
    if f < 2:
        return
    move = np.zeros(f)
    residual = np.empty(f, np.float32)
    rr = 0.0
    for k in range(f):
        residual[k] = -gradient[free[k]]
        rr += residual[k] * residual[k]
    direction = residual.copy()
    enough = 1e-4 * rr
    image = np.empty(d, np.float32)
    for _ in range(steps):
        image[:] = 0
        for k in range(f):
            _axpy(direction[k], z[free[k]], image)
        curvature = float(_dot(image, image))
        if curvature <= 0.0:
            break
        length = rr / curvature
        last, rr = rr, 0.0
        for k in range(f):
            move[k] += length * direction[k]
            residual[k] -= np.float32(length) * _dot(z[free[k]], image)
            rr += residual[k] * residual[k]
        if rr < enough:
            break
        for k in range(f):
            direction[k] = residual[k] + np.float32(rr / last) * direction[k]
    scale = 1.0
    for _ in range(8):
        image[:] = 0
        change = 0.0
        for k in range(f):
            i = free[k]
            step = min(max(alpha[i] + scale * move[k], 0.0), C) - alpha[i]
            change += step * gradient[i]
            _axpy(np.float32(step), z[i], image)
        if change + 0.5 * _dot(image, image) < 0.0:
            for k in range(f):
                i = free[k]
                alpha[i] = min(max(alpha[i] + scale * move[k], 0.0), C)
            _axpy(np.float32(1), image, w)
            return
        scale *= 0.4


@compiled(fastmath=True)
def _solve_samples(z, norm2, alpha, gradient, w, C, tolerance):  # type: ignore[no-untyped-def]
    """Coordinate descent and conjugate gradients on the samples; returns the relative gap."""
    n = alpha.shape[0]
    order = np.arange(n)
    state = np.uint64(n)
    relative = 0.0
    for r in range(_MAX_ROUNDS):
        state = _sweep_samples(z, norm2, alpha, w, C, order, state)
        for i in range(n):
            gradient[i] = float(_dot(z[i], w)) - 1.0
        gap, primal = _gap(alpha, gradient, C)
        relative = gap / primal
        if relative <= tolerance:
            return relative
        if r > 0:
            steps = min(_CONJUGATE_STEPS * r, _MAX_CONJUGATE_STEPS)
            _conjugate_gradients(z, alpha, gradient, w, C, steps)
    return relative


@compiled()
def fit(problems, start, stop, z, norm2, gram, alpha, gradient, w, count, gap, C, tolerance):  # type: ignore[no-untyped-def]
    """Solve ``problems[start:stop]``, warm-started from their ``alpha``."""
    for k in range(start, stop):
        p = problems[k]
        n = count[p]
        if n == 0:
            continue
        a = alpha[p, :n]
        g = gradient[p, :n]
        aim = 0.9 * tolerance
        for _ in range(_ATTEMPTS):
            if n <= gram.shape[1]:
                seen = _solve_gram(gram[p, :n, :n], a, g, C, aim)
            else:
                _weights(z[p, :n], a, w[p])
                seen = _solve_samples(z[p, :n], norm2[p, :n], a, g, w[p], C, aim)
            gap[p] = measure(z[p, :n], a, g, w[p], C)
            if gap[p] <= tolerance or seen > aim:
                break


def interior_point(z: NDArray[np.float64], C: float, tolerance: float) -> NDArray[np.float64]:
    """Return dual variables of one machine to the tolerance, found with Mehrotra's method.

    Source: Ferris and Munson, Interior-point methods for massive support vector machines (2002).
    """
    n, d = z.shape
    alpha = np.full(n, C / 2)
    gradient = z @ (z.T @ alpha) - 1
    # Multipliers of 0 ≤ α and of α ≤ C; low - high = gradient where the problem is solved.
    low = np.maximum(gradient, 0) + np.abs(gradient).mean()
    high = low - gradient
    gram = z @ z.T if n <= d else None
    best, least = alpha, np.inf
    for _ in range(_MAX_INTERIOR_STEPS):
        gap, primal = _gap(alpha, gradient, C)
        if gap / primal < least:
            best, least = alpha, gap / primal
        if least <= 0.1 * tolerance:
            break
        slack = C - alpha
        diagonal = low / alpha + high / slack
        system = np.eye(d) + (z.T / diagonal) @ z if gram is None else gram + np.diag(diagonal)
        try:
            factor = linalg.cho_factor(system)
        except linalg.LinAlgError:
            # Rounding has the last word; the gap is near 1e-6 by then.
            break
        low_aim, high_aim = -alpha * low, -slack * high
        for corrects in (False, True):
            right = low - high - gradient + low_aim / alpha - high_aim / slack
            if gram is None:
                move = (right - z @ linalg.cho_solve(factor, z.T @ (right / diagonal))) / diagonal
            else:
                move = linalg.cho_solve(factor, right)
            low_move = (low_aim - low * move) / alpha
            high_move = (high_aim + high * move) / slack
            shrink = max(
                float(np.max(-change / value))
                for value, change in (
                    (alpha, move),
                    (slack, -move),
                    (low, low_move),
                    (high, high_move),
                )
            )
            length = min(1.0, 0.995 / shrink) if shrink > 0 else 1.0
            if not corrects:
                complementarity = alpha @ low + slack @ high
                reached = (alpha + length * move) @ (low + length * low_move) + (
                    slack - length * move
                ) @ (high + length * high_move)
                centre = (reached / complementarity) ** 3 * complementarity / (2 * n)
                low_aim += centre - move * low_move
                high_aim += centre + move * high_move
        alpha = alpha + length * move
        low = low + length * low_move
        high = high + length * high_move
        gradient = z @ (z.T @ alpha) - 1
    return best


@compiled()
def _score(x, weights, scores):  # type: ignore[no-untyped-def]
    for c in range(weights.shape[0]):
        scores[c] = _dot(x, weights[c, : x.shape[0]]) + weights[c, x.shape[0]]


@compiled()
def _decode(scores, coding):  # type: ignore[no-untyped-def]
    """Return argmin_c Σ_ℓ (1 - sgn(m_cℓ·s_ℓ))/2, ties to the first class.

    Source: Wen et al. 2019, Protocol 2.
    """
    best, winner = -1, 0
    for c in range(coding.shape[0]):
        votes = 0
        for j in range(coding.shape[1]):
            sign = 1 if scores[j] >= 0 else -1
            votes += coding[c, j] * sign
        if c == 0 or votes > best:
            best, winner = votes, c
    return winner


@compiled()
def score_rows(lanes, start, stop, features, labels, rows, w, coding, correct, total, loss):  # type: ignore[no-untyped-def]
    """Count hits and samples of each class, and the mean loss, of lanes ``start`` to ``stop``."""
    length = coding.shape[1]
    scores = np.empty(length, np.float32)
    # √(γ/2)/‖w‖: Φ(-d/σ) = erfc(d·√(γ/2))/2 with the noise deviation σ = 1/√γ.
    sharpness = np.empty(length)
    for k in range(start, stop):
        weights = w[lanes[k] * length : (lanes[k] + 1) * length]
        for j in range(length):
            direction = weights[j, : features.shape[1]]
            norm = np.sqrt(_dot(direction, direction))
            sharpness[j] = _LOSS_SHARPNESS / norm if norm > 0 else 0.0
        errors = 0.0
        for v in range(rows.shape[1]):
            i = rows[k, v]
            total[k, labels[i]] += 1
            if length == 1:
                # The common case, without the votes' loops: they would cost as much as the score.
                score = _dot(features[i], weights[0, : features.shape[1]]) + weights[0, -1]
                correct[k, labels[i]] += (score >= 0) == (labels[i] == 0)
                sign = 1 if labels[i] == 0 else -1
                errors += 0.5 * math.erfc(sign * score * sharpness[0])
                continue
            _score(features[i], weights, scores)
            correct[k, labels[i]] += _decode(scores, coding) == labels[i]
            nearest = np.inf
            for j in range(length):
                sign = coding[labels[i], j]
                if sign != 0:
                    nearest = min(nearest, sign * scores[j] * sharpness[j])
            errors += 0.5 * math.erfc(nearest)
        loss[k] = errors / rows.shape[1]


@compiled()
def assess(lanes, start, stop, features, labels, rows, w, coding, distance, margin, predicted):  # type: ignore[no-untyped-def]
    """Judge rows of lanes ``start`` to ``stop``, see ``SVMLearner``."""
    length = coding.shape[1]
    scores = np.empty(length, np.float32)
    norms = np.empty(length, np.float32)
    for k in range(start, stop):
        weights = w[lanes[k] * length : (lanes[k] + 1) * length]
        for j in range(length):
            direction = weights[j, : features.shape[1]]
            norms[j] = np.sqrt(_dot(direction, direction))
        for q in range(rows.shape[1]):
            i = rows[k, q]
            _score(features[i], weights, scores)
            winner = _decode(scores, coding)
            nearest, smallest = np.inf, np.inf
            for j in range(length):
                if coding[winner, j] != 0:
                    away = abs(scores[j]) / norms[j] if norms[j] > 0 else 0.0
                    nearest = min(nearest, away)
                if coding[labels[i], j] != 0:
                    smallest = min(smallest, coding[labels[i], j] * scores[j])
            distance[k, q] = nearest
            margin[k, q] = smallest
            predicted[k, q] = winner
