"""Soft-margin linear support vector machines, many at once, one sample appended at a time.

Each machine solves RRM (4)-(6) with the bias learned as the weight of a constant feature,

    min over (w, b)   ½(‖w‖² + b²) + C·Σᵢ max(0, 1 - yᵢ(wᵀxᵢ + b)),

which is what scikit-learn's ``LinearSVC(loss="hinge", intercept_scaling=1)`` solves. The dual,
min over 0 ≤ α ≤ C of ½‖Σᵢ αᵢzᵢ‖² - Σᵢ αᵢ with zᵢ = yᵢ·(xᵢ, 1), is solved by coordinate descent,
warm-started from the last solution, until primal - dual ≤ tolerance · primal:

* up to ``GRAM_LIMIT`` samples on cached Gram rows, where a step costs as many operations as there
  are samples and the gradient, hence the gap, comes for free;
* beyond it on the samples themselves, where a step costs as many operations as there are features
  and memory grows with n, not n²; conjugate gradients on the free variables (0 < α < C), projected
  back onto the box, take over where coordinate descent slows down.

These work in float32, whose rounding hides the gap where noisy samples have large norms (-20 dB),
so the gap is measured again in float64. Machines that miss the tolerance, because of rounding or
of slow convergence (large C·‖x‖², samples that overlap), go to an interior-point method.

Source: RRM §3.2 (binary), Protocol 2 (one-versus-one).
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from edge_gym.learning.base import (
    LOSS_SNR_DB,
    Assessment,
    FloatArray,
    IntArray,
    Learner,
    Score,
    score_of,
)
from edge_gym.runtime.compiling import compiled
from edge_gym.runtime.threads import for_ranges

_LOSS_SHARPNESS = math.sqrt(10 ** (LOSS_SNR_DB / 10) / 2)
GRAM_LIMIT = 256
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
def _append(problems, rows, samples, signs, z, norm2, gram, alpha, gradient, count):  # type: ignore[no-untyped-def]
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
def _measure(z, alpha, gradient, w, C):  # type: ignore[no-untyped-def]
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
def _fit(problems, start, stop, z, norm2, gram, alpha, gradient, w, count, gap, C, tolerance):  # type: ignore[no-untyped-def]
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
            gap[p] = _measure(z[p, :n], a, g, w[p], C)
            if gap[p] <= tolerance or seen > aim:
                break


def _interior_point(z: NDArray[np.float64], C: float, tolerance: float) -> NDArray[np.float64]:
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
    """Return argmin_c Σ_ℓ (1 - sgn(m_cℓ·s_ℓ))/2, ties to the first class (RRM Protocol 2)."""
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
def _score_rows(lanes, start, stop, features, labels, rows, w, coding, correct, total, loss):  # type: ignore[no-untyped-def]
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
def _assess(lanes, start, stop, features, labels, rows, w, coding, distance, margin, predicted):  # type: ignore[no-untyped-def]
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


class LinearSVMBatch:
    """Independent binary soft-margin SVMs, warm-started as samples are appended.

    Args:
        n_problems: Number of machines, P.
        n_features: Features of a sample, d.
        C: Penalty on the slack, the C of RRM (4).
        tolerance: Relative duality gap that ``fit`` reaches, at least 1e-6 (samples are float32).
        gram_limit: Samples up to which Gram rows are kept, 4·gram_limit² bytes a machine.

    Attributes:
        weights: ``(P, d + 1)`` float32, the bias in the last column.
        gap: ``(P,)`` relative duality gap at the last fit.
        count: ``(P,)`` samples held.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        n_problems: int,
        n_features: int,
        C: float = 1.0,
        tolerance: float = 1e-3,
        gram_limit: int = GRAM_LIMIT,
    ) -> None:
        for name, value in (("n_problems", n_problems), ("n_features", n_features)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not (C > 0 and np.isfinite(C)):
            raise ValueError(f"C must be positive and finite, got {C}")
        if not 1e-6 <= tolerance < 1:
            raise ValueError(f"tolerance must lie in [1e-6, 1), got {tolerance}")
        self.n_features = n_features
        self.C = float(C)
        self.tolerance = float(tolerance)
        self.gram_limit = gram_limit
        self.count = np.zeros(n_problems, np.int64)
        self.gap = np.zeros(n_problems)
        self.weights = np.zeros((n_problems, n_features + 1), np.float32)
        self._z = np.zeros((n_problems, 0, n_features + 1), np.float32)
        self._norm2 = np.zeros((n_problems, 0))
        self._alpha = np.zeros((n_problems, 0))
        self._gradient = np.zeros((n_problems, 0))
        self._gram = np.zeros((n_problems, 0, 0), np.float32)

    def alpha(self, problem: int) -> NDArray[np.float64]:
        """Return the dual variables of one machine, ``(n,)`` in [0, C]."""
        return self._alpha[problem, : self.count[problem]].copy()

    def clear(self, problems: IntArray) -> None:
        """Forget the samples and weights of ``problems``."""
        self.count[problems] = 0
        self.gap[problems] = 0.0
        self.weights[problems] = 0.0

    def append(
        self, problems: IntArray, rows: IntArray, samples: FloatArray, signs: NDArray[Any]
    ) -> None:
        """Append ``samples[rows[i]]`` with label ``signs[i]`` (±1) to ``problems[i]``.

        Args:
            problems: Machines, ``(p,)``; one may occur more than once.
            rows: Rows of ``samples``, ``(p,)``.
            samples: ``(m, d)`` float32.
            signs: ``(p,)``.

        Raises:
            ValueError: If the samples have another number of features or are not finite.
        """
        if samples.ndim != 2 or samples.shape[1] != self.n_features:
            raise ValueError(f"samples must have shape (m, {self.n_features}), got {samples.shape}")
        if not np.isfinite(samples).all():
            raise ValueError("samples must be finite")
        named, times = np.unique(problems, return_counts=True)
        self._reserve(int((self.count[named] + times).max(initial=0)))
        _append(
            problems,
            rows,
            np.ascontiguousarray(samples, np.float32),
            np.asarray(signs, np.float32),
            self._z,
            self._norm2,
            self._gram,
            self._alpha,
            self._gradient,
            self.count,
        )

    def fit(self, problems: IntArray) -> None:
        """Solve ``problems`` to the tolerance, on as many cores as ``parallel`` allows.

        Warns:
            RuntimeWarning: If a machine stops short of the tolerance.
        """

        def kernel(start: int, stop: int) -> None:
            _fit(
                problems,
                start,
                stop,
                self._z,
                self._norm2,
                self._gram,
                self._alpha,
                self._gradient,
                self.weights,
                self.count,
                self.gap,
                self.C,
                self.tolerance,
            )
            for p in problems[start:stop]:
                if self.gap[p] > self.tolerance:
                    self._solve_with_interior_point(int(p))

        for_ranges(kernel, len(problems), grain=2)
        if (worst := self.gap[problems].max(initial=0.0)) > self.tolerance:
            warnings.warn(
                f"a support vector machine stopped at a relative duality gap of {worst:.1e}, "
                f"above the tolerance of {self.tolerance:.1e}; raise tolerance or lower C",
                RuntimeWarning,
                stacklevel=2,
            )

    def get_state(self, problems: IntArray) -> dict[str, Any]:
        """Return what ``problems`` hold, as arrays of their own."""
        n = int(self.count[problems].max(initial=0))
        # What lies beyond a machine's count is of an earlier episode, and no part of its state.
        held = np.arange(n) < self.count[problems][:, None]
        return {
            "count": self.count[problems].copy(),
            "gap": self.gap[problems].copy(),
            "weights": self.weights[problems].copy(),
            "z": self._z[problems, :n] * held[:, :, None],
            "alpha": self._alpha[problems, :n] * held,
            "gradient": self._gradient[problems, :n] * held,
        }

    def set_state(self, problems: IntArray, state: dict[str, Any]) -> None:
        """Restore what ``get_state`` returned for as many machines."""
        self.clear(problems)
        count = state["count"]
        self._reserve(int(count.max(initial=0)))
        for n in range(int(count.max(initial=0))):
            # Appending anew restores the Gram rows to the bit.
            held = np.flatnonzero(count > n)
            z = state["z"][held, n]
            signs = z[:, -1]
            self.append(problems[held], np.arange(len(held)), z[:, :-1] * signs[:, None], signs)
        width = state["alpha"].shape[1]
        self._alpha[problems, :width] = state["alpha"]
        self._gradient[problems, :width] = state["gradient"]
        self.weights[problems] = state["weights"]
        self.gap[problems] = state["gap"]

    def _solve_with_interior_point(self, p: int) -> None:
        n = self.count[p]
        z, alpha, gradient = self._z[p, :n], self._alpha[p, :n], self._gradient[p, :n]
        alpha[:] = _interior_point(z.astype(np.float64), self.C, self.tolerance)
        self.gap[p] = _measure(z, alpha, gradient, self.weights[p], self.C)

    def _reserve(self, n: int) -> None:
        capacity = self._z.shape[1]
        if n <= capacity:
            return
        capacity = max(n, 2 * capacity, 32)
        gram = min(capacity, self.gram_limit)
        for name, shape in (
            ("_z", (capacity, self.n_features + 1)),
            ("_norm2", (capacity,)),
            ("_alpha", (capacity,)),
            ("_gradient", (capacity,)),
            ("_gram", (gram, gram)),
        ):
            old = getattr(self, name)
            new = np.zeros((old.shape[0], *shape), old.dtype)
            new[tuple(slice(0, size) for size in old.shape)] = old
            setattr(self, name, new)


def coding_matrix(n_classes: int) -> NDArray[np.int64]:
    """Return the one-versus-one coding matrix M of RRM Protocol 2, ``(C, C(C - 1)/2)``.

    Column ℓ trains class a (+1) against class b (-1) for the ℓ-th pair a < b; other rows are 0.
    """
    pairs = list(itertools.combinations(range(n_classes), 2))
    matrix = np.zeros((n_classes, len(pairs)), np.int64)
    for column, (a, b) in enumerate(pairs):
        matrix[a, column], matrix[b, column] = 1, -1
    return matrix


class SVMLearner(Learner):
    """A linear SVM per lane; for more than two classes one against one (RRM Protocol 2).

    ``Assessment.uncertainty`` is the distance of the sample to the nearest decision boundary that
    touches the predicted class; ``margin`` is the smallest y·s over the boundaries that touch the
    true class, so that it is at least 1 exactly if no machine would suffer a hinge loss.

    Args:
        n_lanes: Number of lanes.
        n_features: Features of a sample, d.
        n_classes: Number of classes, C ≥ 2; two classes make one machine.
        C: Penalty on the slack.
        tolerance: Relative duality gap of every fit.
    """

    uncertainty = "distance"
    loss = "hinge_loss"
    has_weight_norm = True

    def __init__(
        self,
        n_lanes: int,
        n_features: int,
        n_classes: int = 2,
        *,
        C: float = 1.0,
        tolerance: float = 1e-3,
    ) -> None:
        if n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, got {n_classes}")
        self.n_lanes, self.n_features, self.n_classes = n_lanes, n_features, n_classes
        self.coding = coding_matrix(n_classes)
        self.machines = LinearSVMBatch(
            n_lanes * self.coding.shape[1], n_features, C=C, tolerance=tolerance
        )

    def reset(self, lanes: IntArray, generators: Sequence[np.random.Generator]) -> None:
        """Forget everything in ``lanes``; no randomness is needed."""
        self.machines.clear(self._problems(lanes))

    def append(self, lanes: IntArray, samples: FloatArray, labels: IntArray) -> None:
        """Add one sample to every machine of a lane that its class takes part in."""
        signs = self.coding[labels]
        rows, columns = np.nonzero(signs)
        problems = lanes[rows] * self.coding.shape[1] + columns
        self.machines.append(problems, rows, samples, signs[rows, columns])

    def fit(self, lanes: IntArray, generators: Sequence[np.random.Generator]) -> None:
        """Solve the machines of ``lanes`` to the tolerance, warm-started."""
        self.machines.fit(self._problems(lanes))

    def assess(self, lanes: IntArray, samples: FloatArray, labels: IntArray) -> Assessment:
        """Judge received samples, ``(m, q, d)`` with labels ``(m, q)``."""
        rows = np.arange(labels.size).reshape(labels.shape)
        return self.assess_rows(
            lanes, samples.reshape(-1, self.n_features), labels.reshape(-1), rows
        )

    def assess_rows(
        self, lanes: IntArray, features: FloatArray, labels: IntArray, rows: IntArray
    ) -> Assessment:
        """Judge ``features[rows]`` without copying them: ``(m, q)`` rows."""
        features = np.ascontiguousarray(features, np.float32)
        distance = np.empty(rows.shape, np.float32)
        margin = np.empty(rows.shape, np.float32)
        predicted = np.empty(rows.shape, np.int64)

        def kernel(start: int, stop: int) -> None:
            _assess(
                lanes,
                start,
                stop,
                features,
                labels,
                rows,
                self.machines.weights,
                self.coding,
                distance,
                margin,
                predicted,
            )

        for_ranges(kernel, len(lanes), grain=max(1, 256 // max(rows.shape[1], 1)))
        return Assessment(distance, margin, predicted)

    def weight_norm(self) -> NDArray[np.float64]:
        """Return each lane's ‖w‖, the mean of its machines', ``(n_lanes,)``.

        A sample at the distance d from the boundary has the score ±d·‖w‖.
        """
        norms = np.linalg.norm(self.machines.weights[:, :-1], axis=1)
        return np.asarray(norms.reshape(self.n_lanes, -1).mean(axis=1), np.float64)

    def score(
        self, lanes: IntArray, features: FloatArray, labels: IntArray, rows: IntArray
    ) -> Score:
        """Return each lane's accuracy, loss and recall on ``features[rows[i]]``.

        With more than two classes the loss takes the boundary of the true class that is nearest,
        or furthest on the wrong side.
        """
        correct = np.zeros((len(lanes), self.n_classes), np.int64)
        total = np.zeros_like(correct)
        loss = np.empty(len(lanes))

        def kernel(start: int, stop: int) -> None:
            _score_rows(
                lanes,
                start,
                stop,
                features,
                labels,
                rows,
                self.machines.weights,
                self.coding,
                correct,
                total,
                loss,
            )

        for_ranges(kernel, len(lanes), grain=4)
        return score_of(correct, total, loss)

    def get_state(self, lanes: IntArray) -> dict[str, Any]:
        """Return the samples and solutions of ``lanes``."""
        return self.machines.get_state(self._problems(lanes))

    def set_state(self, lanes: IntArray, state: dict[str, Any]) -> None:
        """Restore what ``get_state`` returned."""
        self.machines.set_state(self._problems(lanes), state)

    def _problems(self, lanes: IntArray) -> IntArray:
        length = self.coding.shape[1]
        return np.asarray(lanes[:, None] * length + np.arange(length)).reshape(-1)


class BinarySVMLearner(SVMLearner):
    """The support vector machine of two classes, one machine per lane."""

    max_classes = 2


def make_svm(
    n_lanes: int,
    image_shape: tuple[int, int, int],
    n_classes: int,
    *,
    C: float = 1.0,
    tolerance: float = 1e-3,
) -> BinarySVMLearner:
    """Make the support vector machine of two classes, see ``SVMLearner``."""
    return BinarySVMLearner(n_lanes, math.prod(image_shape), n_classes, C=C, tolerance=tolerance)


def make_one_versus_one(
    n_lanes: int,
    image_shape: tuple[int, int, int],
    n_classes: int,
    *,
    C: float = 1.0,
    tolerance: float = 1e-3,
) -> SVMLearner:
    """Make support vector machines for any number of classes, see ``SVMLearner``."""
    return SVMLearner(n_lanes, math.prod(image_shape), n_classes, C=C, tolerance=tolerance)
