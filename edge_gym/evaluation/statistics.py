"""What many episodes say: means, and how far chance may have moved them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import trim_mean

RESAMPLES = 10_000
ENOUGH = 20
"""From so many values on, 95 % intervals hold the mean about as often as they say (93 %)."""
_BLOCK = 2_000_000
_ROUNDING = 1e-12


def interquartile_mean(values: ArrayLike) -> float:
    """Return the mean of the middle half of ``values``, shape ``(n,)``."""
    return float(trim_mean(np.asarray(values, np.float64), 0.25))


def mean_intervals(
    values: ArrayLike, confidence: float = 0.95, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Return bootstrap intervals of means over the last axis: bias-corrected and accelerated.

    The resamples are the same in every call with as many values, so results are reproducible.
    Of few values they are too narrow, as bootstrap intervals are: see ``few_warning``.

    Args:
        values: ``(n,)`` or ``(k, n)``, n ≥ 2; a row with a NaN has the interval (NaN, NaN).
        confidence: Nominal coverage in (0, 1).
        resamples: Number of bootstrap samples.

    Returns:
        Lower and upper ends, ``(2,)`` or ``(k, 2)``.

    Raises:
        ValueError: If there are fewer than two values: one says nothing about chance.

    Source: Efron, Better Bootstrap Confidence Intervals, 1987.
    """
    given = np.asarray(values, np.float64)
    rows = np.atleast_2d(given)
    n = rows.shape[-1]
    if n < 2:
        raise ValueError(f"a confidence interval needs at least 2 values, got {n}")
    deviations = rows - rows.mean(axis=1, keepdims=True)
    means = _resampled_means(deviations, resamples)
    spread = np.sum(deviations**2, axis=1)
    # Equal values whose mean was rounded have deviations too.
    rounding = n * (_ROUNDING * np.abs(rows).max(axis=1)) ** 2
    usable = np.isfinite(spread) & (spread > rounding)
    intervals = np.repeat(rows.mean(axis=1)[:, None], 2, axis=1)
    for row in np.flatnonzero(usable):
        below = np.mean(means[row] < 0) + np.mean(means[row] == 0) / 2
        # All resampled means on one side would be an infinite bias.
        bias = ndtri(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
        acceleration = np.sum(deviations[row] ** 3) / (6 * spread[row] ** 1.5)
        tails = bias + ndtri(np.array([1 - confidence, 1 + confidence]) / 2)
        levels = ndtr(bias + tails / (1 - acceleration * tails))
        intervals[row] += np.quantile(means[row], levels)
    return intervals.reshape(*given.shape[:-1], 2)


def few_warning(episodes: int) -> str | None:
    """Return what is wrong with intervals of so few episodes; None if nothing is."""
    if episodes >= ENOUGH:
        return None
    return (
        f"{episodes} episodes are few: intervals said to be of 95 % are too narrow below "
        f"{ENOUGH} episodes (of 4 normal values they hold the mean 80 times in 100, of 8 89 times)"
    )


def stratified_interval(
    strata: Sequence[ArrayLike],
    statistic: str = "mean",
    confidence: float = 0.95,
    resamples: int = 2_000,
) -> tuple[float, float]:
    """Return the bootstrap percentile interval of a statistic over seeds and episodes.

    In every stratum, training seeds and episodes are drawn anew, independently of each other and of
    other strata: an episode that is drawn is drawn for all of the stratum's seeds, as all of them
    ran it. The resamples are the same in every call of the same shapes.

    Args:
        strata: Values of each environment, ``(S, n)``: S training seeds, n episodes.
        statistic: ``"mean"`` or ``"iqm"``, the interquartile mean, of the values of a stratum; then
            the mean over strata.
        confidence: Nominal coverage in (0, 1).
        resamples: Number of bootstrap samples.

    Raises:
        ValueError: If there is no stratum, or one has fewer than two episodes.

    Source: Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice,
    2021.
    """
    if not strata:
        raise ValueError("a confidence interval needs at least one stratum")
    rng = np.random.default_rng(0)
    total = np.zeros(resamples)
    for given in strata:
        values = np.atleast_2d(np.asarray(given, np.float64))
        n_seeds, n = values.shape
        if n < 2:
            raise ValueError(f"a confidence interval needs at least 2 episodes, got {n}")
        block = max(1, _BLOCK // values.size)
        for start in range(0, resamples, block):
            stop = min(start + block, resamples)
            seeds = rng.integers(n_seeds, size=(stop - start, n_seeds, 1))
            episodes = rng.integers(n, size=(stop - start, 1, n))
            drawn = values[seeds, episodes].reshape(stop - start, -1)
            total[start:stop] += (
                drawn.mean(axis=1) if statistic == "mean" else trim_mean(drawn, 0.25, axis=1)
            )
    low, high = np.quantile(total / len(strata), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def improvement_probability(ours: ArrayLike, theirs: ArrayLike) -> float:
    """Return how often a value of ours is above theirs of the same episode; ties count half.

    Args:
        ours: ``(S, n)`` or ``(n,)``.
        theirs: ``(n,)``.
    """
    gaps = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    return float(np.mean(gaps > 0) + np.mean(gaps == 0) / 2)


def _resampled_means(rows: NDArray[np.float64], resamples: int) -> NDArray[np.float64]:
    """Return the means of bootstrap samples, ``(k, resamples)``, in blocks that bound memory."""
    n = rows.shape[1]
    rng = np.random.default_rng(0)
    block = max(1, _BLOCK // n)
    parts: list[NDArray[Any]] = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        # How often each value is drawn: one product serves all rows.
        counts = rng.multinomial(n, np.full(n, 1 / n), size=size)
        parts.append(rows @ counts.T / n)
    return np.concatenate(parts, axis=1)
