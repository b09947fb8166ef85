"""What claims about schemes come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from edge_gym.evaluation.rollouts import Episodes
from edge_gym.evaluation.statistics import mean_intervals
from edge_gym.reproduce.harness import NO, OPEN, PARTLY, YES, Claim
from edge_gym.reproduce.mohammad_2020.schemes import HA, HA_ASYN, HA_SYNC, HU
from edge_gym.reproduce.mohammad_2020.sweeps import (
    Cells,
    Runs,
    cycles_to,
    marks_of,
    path_of,
    percent,
)
from edge_gym.typing import Float64Array

SAME = 0.01


CONVERGED = 0.5


def all_of(verdicts: Iterable[str]) -> str:
    """Return what the verdicts on a claim's parts come to."""
    found = set(verdicts)
    if found == {YES}:
        return YES
    if found & {YES, PARTLY}:
        return PARTLY
    return NO if NO in found else OPEN


def _outcome(interval: Float64Array) -> str:
    """Say whether what lies in an interval is above zero."""
    low, high = interval
    return YES if low > 0 else NO if high < 0 else OPEN


def saving_claim(
    text: str,
    runs: Runs,
    one: str,
    other: str,
    target: float,
    said: float | None = None,
    choices: int = 1,
) -> Claim:
    """Compare the cycles that two schemes need.

    Args:
        text: What the paper says.
        runs: Their episodes.
        one: The scheme that needs fewer, by what is said.
        other: The other one.
        target: The validation accuracy to be reached.
        said: The share of cycles that it saves by what is said; where it saves clearly less, that
            is seen partly.
        choices: Of how many schemes the first is the best.
    """
    (fast, here), (slow, there) = (cycles_to(runs[name], target) for name in (one, other))
    share = (slow - fast) / max(float(slow.mean()), 1e-12)
    low, high = interval = mean_intervals(share, 1 - 0.05 / choices)
    seen = _outcome(interval)
    if said is not None and seen == YES and high < said:
        seen = PARTLY
    return Claim(
        text,
        f"{fast.mean():.1f} against {slow.mean():.1f} cycles to {percent(target)} %, a saving of "
        f"{share.mean():.0%} [{low:.0%}, {high:.0%}]; reached by {here.mean():.0%} and "
        f"{there.mean():.0%}",
        seen,
    )


Value = Callable[[Episodes], Float64Array]
"""What is compared, the more the better, ``(n,)``."""


def best_claim(
    text: str,
    cells: Cells,
    ones: Sequence[str],
    others: Sequence[str],
    value: Value,
    most: bool = False,
) -> Claim:
    """Compare the best of some schemes with the best of others in every cell.

    Args:
        text: What the paper says.
        cells: All cells that it says it of.
        ones: The schemes that are better, by what is said.
        others: The other ones.
        value: What is compared.
        most: Whether it is said of most cells; else of all.
    """
    places: dict[str, list[str]] = {YES: [], OPEN: [], NO: []}
    for cell, runs in cells.items():
        one, other = (
            max(
                (name for name in names if name in runs), key=lambda n: float(value(runs[n]).mean())
            )
            for names in (ones, others)
        )
        gain = value(runs[one]) - value(runs[other])
        interval = mean_intervals(gain, 1 - 0.05 / sum(name in runs for name in ones))
        places[_outcome(interval)].append(f"T = {cell.cycle_s:g} ({one.rpartition(', ')[2]})")
    words = {YES: "ahead", OPEN: "level", NO: "behind"}
    measured = "; ".join(f"{words[v]} at {', '.join(at)}" for v, at in places.items() if at)
    outcome = all_of(v for v, at in places.items() if at)
    if most and len(places[YES]) > len(cells) / 2:
        outcome = YES
    return Claim(text, measured, outcome)


def accuracy_after(mark: int) -> Value:
    """Return what tells the validation accuracy after half of all cycles (0), or after all (1)."""
    return lambda run: path_of(run)[:, marks_of(run)[mark]]


def sooner(target: float) -> Value:
    """Return what tells how soon a validation accuracy was reached."""
    return lambda run: -cycles_to(run, target)[0]


def mean_accuracy(run: Episodes) -> Float64Array:
    """Return the mean accuracy over the cycles, which is the higher the faster it rises."""
    return np.asarray(path_of(run)[:, 1:].mean(axis=1))


def general_claims(where: str, row: Cells, value: Value) -> list[Claim]:
    """Return the claims that hold in general of one row of cells."""
    return [
        best_claim(f"{where}: HA is better than the best of HU", row, HA, HU, value),
        best_claim(
            f"{where}: HA-Asyn is the best in most regions",
            row,
            HA_ASYN,
            (HA_SYNC,),
            value,
            most=True,
        ),
    ]
