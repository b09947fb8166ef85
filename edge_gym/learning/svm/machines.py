"""Soft-margin linear support vector machines, many at once, one sample appended at a time.

Each machine solves Wen et al. 2019, eqs. (4)-(6), with the bias learned as the weight of a
constant feature,

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

Source: Wen et al. 2019, §3.2 (binary).
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.learning.base import FloatArray, IntArray
from edge_gym.learning.svm import kernels
from edge_gym.runtime.threads import for_ranges

GRAM_LIMIT = 256
"""Samples up to which a machine's Gram rows are kept."""


class LinearSVMBatch:
    """Independent binary soft-margin SVMs, warm-started as samples are appended.

    Args:
        n_problems: Number of machines, P.
        n_features: Features of a sample, d.
        C: Penalty on the slack, the C of Wen et al. 2019, eq. (4).
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
        kernels.append_samples(
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
            kernels.fit(
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
        alpha[:] = kernels.interior_point(z.astype(np.float64), self.C, self.tolerance)
        self.gap[p] = kernels.measure(z, alpha, gradient, self.weights[p], self.C)

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
