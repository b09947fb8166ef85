"""SAME Accuracy and loss over time, and ratios of the times at which curves converge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from edge_gym.evaluation.rollouts import Episodes
from edge_gym.reproduce.harness import along, metrics, summary
from edge_gym.reproduce.ren_2021.drawing import QUANTITIES
from edge_gym.typing import Float64Array

POINTS = 401


_CLOSE = 0.005


_LEAST_DECREASE = 0.01  # Nats an epoch.


_RESAMPLES = 1000


SAME = 0.01


def convergence_time(times: Float64Array, accuracy: Float64Array) -> Float64Array:
    """Return when curves ``(..., P)`` first come within half a point of where they end.

    Where they end is the mean over the last tenth of the time.
    """
    end = accuracy[..., -max(1, len(times) // 10) :].mean(axis=-1)
    return first_time(times, accuracy, end - _CLOSE)


def first_time(times: Float64Array, accuracy: Float64Array, level: ArrayLike) -> Float64Array:
    """Return when curves ``(..., P)`` first reach levels ``(...)``; NaN where they do not.

    What is there from the start counts as reached at the second of the times.
    """
    there = accuracy >= np.asarray(level)[..., None]
    index = np.maximum(there.argmax(axis=-1), 1)
    return np.where(there.any(axis=-1), times[index], np.nan)


def converged_epochs(epochs: Sequence[int], loss: ArrayLike) -> int:
    """Return the index of the first number of epochs after which training had converged.

    It had when the loss fell by less than 0.01 nats an epoch between the epochs up to the number
    before and those since; the last one if it never did.

    Args:
        epochs: Numbers of epochs E, ascending.
        loss: Mean training loss over all E epochs of each.
    """
    e, sums = np.array([0, *epochs]), np.append(0, np.asarray(loss) * np.asarray(epochs))
    since, middle = np.diff(sums) / np.diff(e), (e[1:] + e[:-1] + 1) / 2
    decrease = -np.diff(since) / np.diff(middle)
    slow = np.flatnonzero(decrease < _LEAST_DECREASE)
    return int(slow[0]) + 1 if len(slow) else len(epochs) - 1


class Curve(NamedTuple):
    """Validation accuracy along simulated time.

    Attributes:
        seconds: The times up to the budget, ``(P,)``, or ``(n, P)`` where episodes differ in them.
        accuracy: Of each episode, ``(n, P)``.
    """

    seconds: Float64Array
    accuracy: Float64Array


class Cell(NamedTuple):
    """Four schemes with the same devices and data.

    Attributes:
        curves: Of each scheme; that of individual learning against its numbers of epochs.
        chosen: Index of the number of epochs after which individual learning had converged.
        tests: Final test accuracies, ``(n,)``.
    """

    curves: dict[str, Curve]
    chosen: int
    tests: dict[str, Float64Array]

    def level(self, weights: Float64Array) -> Float64Array:
        """Return the accuracy that individual learning ends with, for weights ``(r, n)``."""
        return np.asarray(weights @ self.curves["individual"].accuracy[:, self.chosen])

    def seconds(self, weights: Float64Array) -> dict[str, Float64Array]:
        """Return when each scheme's mean reaches ``level``, for weights ``(r, n)`` of episodes.

        Individual learning does when it ends; NaN where a scheme does not within its budget.
        """
        level = self.level(weights)
        return self._times(
            weights, lambda curve: first_time(curve.seconds, weights @ curve.accuracy, level)
        )

    def seconds_to_converge(self, weights: Float64Array) -> dict[str, Float64Array]:
        """Return when each scheme's mean has converged, which depends on its budget."""
        return self._times(
            weights, lambda curve: convergence_time(curve.seconds, weights @ curve.accuracy)
        )

    def _times(
        self, weights: Float64Array, of: Callable[[Curve], Float64Array]
    ) -> dict[str, Float64Array]:
        times = {"individual": weights @ self.curves["individual"].seconds[:, self.chosen]}
        for scheme, curve in self.curves.items():
            if scheme != "individual":
                times[scheme] = of(curve)
        return times


def resampled(n: int) -> Float64Array:
    """Return weights of n episodes, ``(1 + 1000, n)``: equal ones, then bootstrap samples."""
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    return np.concatenate([np.full((1, n), 1 / n), drawn / n])


def bounded_ratio(
    slower: Float64Array, faster: Float64Array, budgets: tuple[float, float]
) -> tuple[float, float, float]:
    """Return the ratio of times with its 95 % interval, a missing time taken as its budget.

    The truth is a larger ratio where a slower time is missing, a smaller one where a faster is.

    Args:
        slower: As for ``ratio``.
        faster: Likewise.
        budgets: Of both, s.
    """
    times = [
        np.where(np.isnan(values), budget, values)
        for values, budget in zip((slower, faster), budgets, strict=True)
    ]
    found = ratio(*times)
    assert found is not None
    return found


def ratio(slower: Float64Array, faster: Float64Array) -> tuple[float, float, float] | None:
    """Return the ratio of times with its 95 % interval; None if a time is missing.

    Args:
        slower: Times, the first of all episodes, the others of bootstrap samples.
        faster: Likewise, of the same samples.
    """
    values = slower / faster
    if np.isnan(values).any():
        return None
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return float(values[0]), float(low), float(high)


def numbers_of(episodes: Episodes, times: Float64Array) -> dict[str, Any]:
    """Return metrics with intervals, and loss and accuracy along time."""
    reached = [name for name in episodes.infos if name.startswith(("seconds_to_", "reached_"))]
    names = ["test_accuracy", "total_loss_decrease", "rounds", "mean_batch", *reached]
    return {
        "metrics": metrics({name: episodes.infos[name] for name in names}),
        "seconds": times.tolist(),
        **{quantity: summary(along(episodes, quantity, times)) for quantity in QUANTITIES},
    }
