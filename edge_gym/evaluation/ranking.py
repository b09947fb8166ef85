"""How policies stand to each other, by the same episodes of one environment."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines.base import YOURS
from edge_gym.evaluation.comparison import Interval
from edge_gym.evaluation.metrics import REPORTED
from edge_gym.evaluation.policies import RULE_KINDS, best_rules
from edge_gym.evaluation.rollouts import Episodes
from edge_gym.evaluation.statistics import (
    improvement_probability,
    interquartile_mean,
    mean_intervals,
    stratified_interval,
)
from edge_gym.evaluation.sweep import contender, zero_of

_SAME = 1e-9
_NOISE_PLACES = 12  # sums of returns differ by less than the next place
"""Half an interval of returns that is not wider is rounding."""


@dataclass(frozen=True)
class RankedPolicy:
    """What one policy's episodes in one environment came to.

    Attributes:
        environment: The environment's id.
        policy: The policy's name.
        kind: See ``policies.Contender``.
        training_seeds: How many agents were trained for it; 0 for rules.
        episodes: Episodes of each.
        mean: Mean return.
        ci95: Its 95 % bootstrap interval over training seeds and episodes.
        iqm: Interquartile mean of the return.
        iqm_ci95: Its interval.
        score: The mean return on the scale where the environment's policy without skill is 0 (see
            ``Baseline.is_zero``) and the best analytical policy is 1; None where that is not
            clearly better than the one without skill.
        difference: Mean paired difference to the best analytical policy, None without one.
        difference_ci95: Its interval.
        improvement: Share of the episodes in which it is above the best analytical policy, ties
            counted half.
        test_accuracy: Mean test accuracy of the last models, where there is one.
        area_under_curve: Mean validation accuracy over the budget, likewise.
        time_to_target: Mean share of the budget until targets are reached, likewise.
    """

    environment: str
    policy: str
    kind: str
    training_seeds: int
    episodes: int
    mean: float
    ci95: Interval
    iqm: float
    iqm_ci95: Interval
    score: float | None
    difference: float | None
    difference_ci95: Interval | None
    improvement: float | None
    test_accuracy: float | None
    area_under_curve: float | None
    time_to_target: float | None


def rank_policies(
    name: str, policies: Mapping[str, Sequence[Episodes]]
) -> tuple[list[RankedPolicy], str | None, dict[str, NDArray[np.float64]]]:
    """Compare the policies of an environment by the same episodes.

    Args:
        name: The environment's id.
        policies: Episodes by policy, once for each of a learned policy's training seeds.

    Returns:
        The ranking, best first; the best analytical policy, None without one; the episodes'
        normalised scores by policy, ``(S, n)``, where there is a scale for them.
    """
    made = [contender(name, spec) for spec in policies]
    kinds = {one.name: one.kind for one in made}
    returns = {spec: np.stack([part.returns for part in parts]) for spec, parts in policies.items()}
    means = {spec: float(values.mean()) for spec, values in returns.items()}
    rules = [one.name for one in best_rules(made)]
    champion = max(rules, key=means.__getitem__) if rules else None
    gain = None
    zero = zero_of(name)
    if champion is not None and zero in policies:
        gains = (returns[champion] - returns[zero])[0]
        if mean_intervals(gains)[0] > 0:
            gain = float(gains.mean())
    rows: list[RankedPolicy] = []
    scores: dict[str, NDArray[np.float64]] = {}
    for spec, values in returns.items():
        gaps = None if champion is None else values - returns[champion]
        if gain is not None and gaps is not None:
            # Of the same mean as (return - zero) / gain, but paired: episodes differ in luck.
            scores[spec] = 1 + gaps / gain
        rows.append(
            RankedPolicy(
                environment=name,
                policy=spec,
                kind=kinds[spec],
                training_seeds=len(values) if kinds[spec] == "learned" else 0,
                episodes=values.shape[1],
                mean=means[spec],
                ci95=_interval(values),
                iqm=interquartile_mean(values.ravel()),
                iqm_ci95=stratified_interval([values], "iqm"),
                score=float(scores[spec].mean()) if spec in scores else None,
                difference=None if gaps is None else float(gaps.mean()),
                difference_ci95=None if gaps is None else _interval(gaps),
                improvement=None
                if champion is None
                else improvement_probability(values, returns[champion][0]),
                **{metric: _mean(metric, policies[spec]) for metric in REPORTED},
            )
        )
    return sorted(rows, key=lambda row: -row.mean), champion, scores


def _mean(metric: str, parts: Sequence[Episodes]) -> float | None:
    """Return the mean of a number of the last infos; None where an episode lacks it."""
    missing = np.array([np.nan])
    values = np.concatenate([part.infos.get(metric, missing) for part in parts])
    return float(values.mean()) if np.isfinite(values).all() else None


def _interval(values: NDArray[np.float64]) -> Interval:
    """Return the interval of the mean of ``(S, n)`` values."""
    if len(values) > 1:
        return stratified_interval([values])
    # Of one seed as compare has it, corrected for bias and skewness.
    low, high = mean_intervals(values[0])
    return float(low), float(high)


def ranking_csv(rows: Sequence[RankedPolicy], **columns: Sequence[object]) -> str:
    """Return one row for each ranked policy, and further columns, in front."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [name for name in RankedPolicy.__dataclass_fields__ if not name.endswith("ci95")]
    intervals = [name for name in RankedPolicy.__dataclass_fields__ if name.endswith("ci95")]
    ends = [f"{name}_{end}" for name in intervals for end in ("low", "high")]
    writer.writerow([*columns, *names, *ends])
    for position, ranked in enumerate(rows):
        row = [values[position] for values in columns.values()]
        row += [getattr(ranked, name) for name in names]
        for name in intervals:
            row += getattr(ranked, name) or (None, None)
        writer.writerow(["" if value is None else value for value in row])
    return text.getvalue()


def joined(parts: Sequence[Episodes]) -> Episodes:
    """Return the episodes of all parts."""
    return Episodes(
        np.concatenate([part.seeds for part in parts]),
        np.concatenate([part.returns for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        {
            name: np.concatenate([part.infos[name] for part in parts])
            for name in parts[0].infos
            if all(name in part.infos for part in parts)
        },
        {},
    )


def first_that(
    rows: Iterable[RankedPolicy], suits: Callable[[RankedPolicy], bool]
) -> RankedPolicy | None:
    """Return the first of ``rows`` that suits, None if none does."""
    return next((row for row in rows if suits(row)), None)


def best_rule(rows: Iterable[RankedPolicy]) -> RankedPolicy | None:
    """Return the best analytical policy of rows that stand best first; see ``best_rules``."""
    ruled = [row for row in rows if row.kind in (*RULE_KINDS, YOURS)]
    return first_that(ruled, lambda row: row.kind in RULE_KINDS) or next(iter(ruled), None)


def mean_text(value: float, form: str = ".4g") -> str:
    """Return a mean return as a table shows it; what rounding leaves of zero is zero."""
    return format(round(value, _NOISE_PLACES) + 0.0, form)


def gap_texts(row: RankedPolicy) -> tuple[str, str, str] | None:
    """Return a ranked policy's difference to the best analytical policy and its interval's ends.

    They have as many decimals as two digits of half the interval take, four where policies did the
    very same.
    """
    if row.difference is None or row.difference_ci95 is None:
        return None
    low, high = row.difference_ci95
    half = (high - low) / 2
    places = max(1 - math.floor(math.log10(half)), 0) if half > _SAME else 4
    mean, low_end, high_end = (
        f"{round(value, places) + 0.0:+.{places}f}" for value in (row.difference, low, high)
    )
    return mean, low_end, high_end


def gap_cell(row: RankedPolicy | None) -> str:
    """Return a ranked policy's difference to the best analytical policy as a table shows it."""
    texts = None if row is None else gap_texts(row)
    return "" if texts is None else "{} [{}, {}]".format(*texts)
