"""What the paper says of its methods, beside what is measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from edge_gym.evaluation.statistics import mean_intervals
from edge_gym.reproduce.harness import NO, OPEN, PARTLY, YES, Claim, verdict
from edge_gym.reproduce.li_2021.sweeps import (
    ADMM,
    BENCHMARKS,
    COARSE_STEP,
    ECO,
    FINE_STEP,
    GBE,
    LCO,
    MOST_ITERATIONS,
    NEAR,
    OPTIMUM,
    PUBLISHED,
    REPORTED_ITERATIONS,
    SMALL_EXPONENT,
    STEP,
    STOPPED,
    Sweep,
)
from edge_gym.typing import Float64Array

REPORTED_GAP = 0.0318


# A similar grade, as a share of the cost.
_SIMILAR = 0.01


# What solvers' tolerances may do.
_ROUNDING = 1e-6


def claims_of(by_size: Sweep, by_loss: Sweep, steps: Mapping[float, Float64Array]) -> list[Claim]:
    """Compare what the letter says about Fig. 2 with what was found.

    Args:
        by_size: Panel (a), values in Mbit.
        by_loss: Panel (b), values of σ.
        steps: By which share grids of other steps cost more than steps of 0.2, ``(P, n)``.
    """
    both = (by_size, by_loss)
    return [
        *(_gap_claim(name, both) for name in (ADMM, PUBLISHED, STOPPED)),
        _superiority_claim(both),
        *_size_claims(by_size),
        *_loss_claims(by_loss),
        _step_claim(steps),
        *(_iteration_claim(name, both) for name in (PUBLISHED, ADMM)),
        _bound_claim(both),
    ]


def _gap_claim(name: str, sweeps: Sequence[Sweep]) -> Claim:
    gap = np.concatenate([sweep.excess(name, OPTIMUM) for sweep in sweeps])
    within = float(np.mean(gap <= REPORTED_GAP))
    return Claim(
        f"2: {name} is near-optimal for all D_m and σ, less than {REPORTED_GAP:.2%} above "
        "exhaustive search",
        f"{gap.mean():z.2%} above on average, {gap.mean(axis=1).max():z.2%} at the worst point, "
        f"{gap.max():z.2%} in the worst draw; {within:.1%} of the draws below that",
        _throughout(_verdicts(REPORTED_GAP - gap)),
    )


def _superiority_claim(sweeps: Sequence[Sweep]) -> Claim:
    saved = np.stack(
        [np.concatenate([sweep.excess(name, ADMM) for sweep in sweeps]) for name in BENCHMARKS]
    )
    seen = [_verdicts(excess) for excess in saved]
    text = ", ".join(
        f"{name} by {means.min():z.2%} to {means.max():z.2%}, clearly at {verdicts.count(YES)} "
        f"of {len(verdicts)} points"
        for name, means, verdicts in zip(BENCHMARKS, saved.mean(axis=2), seen, strict=True)
    )
    return Claim(
        "2: ADMM is significantly better than LCO, ECO and GBE at all points",
        f"they cost more: {text}",
        _throughout(itertools.chain.from_iterable(seen)),
    )


def _size_claims(sweep: Sweep) -> list[Claim]:
    """Compare panel (a)."""
    wsel, values = sweep.wsel, np.array(sweep.values)
    ahead = wsel[ECO] - wsel[LCO]
    ends = (verdict(ahead[0]), verdict(-ahead[-1]))
    means = ahead.mean(axis=1)
    crossed = np.flatnonzero((means[:-1] > 0) & (means[1:] <= 0))
    where = "nowhere"
    if len(crossed):
        k = crossed[0]
        share = means[k] / (means[k] - means[k + 1])
        where = f"at {values[k] + share * (values[k + 1] - values[k]):.1f} Mbit"
    gbe = sweep.excess(GBE, ADMM)
    least = [verdict(wsel[name][0] - wsel[GBE][0]) for name in (ECO, LCO)]
    most = [verdict(wsel[GBE][-1] - wsel[name][-1]) for name in (ECO, LCO)]
    worse = verdict(gbe[-1] - gbe[0])
    small, large = (f"{value:g} Mbit" for value in values[[0, -1]])
    eco = sweep.excess(ECO, ADMM)
    return [
        Claim(
            "2(a): ECO costs more than LCO at a small D_m, less at a large one",
            f"they cross {where}; ECO's WSEL minus LCO's is {_interval(ahead[0])} at {small}, "
            f"{_interval(ahead[-1])} at {large}",
            # Of a crossing one end alone is nothing.
            NO if NO in ends else YES if set(ends) == {YES} else OPEN,
        ),
        Claim(
            "2(a): ECO approaches ADMM at a large D_m",
            f"ECO costs {_percent(eco[0])} more at {small}, {_percent(eco[-1])} at {large}",
            _approaches(eco[0], eco[-1]),
        ),
        Claim(
            "2(a): GBE is better than ECO and LCO at a small D_m",
            f"at {small} ECO costs {_percent(wsel[ECO][0] / wsel[GBE][0] - 1)} more than GBE, LCO "
            f"{_percent(wsel[LCO][0] / wsel[GBE][0] - 1)}",
            _throughout(least),
        ),
        Claim(
            "2(a): GBE deteriorates dramatically at a large D_m",
            f"GBE costs {_percent(gbe[0])} more than ADMM at {small}, {_percent(gbe[-1])} at "
            f"{large}; there it is behind "
            + (_names(name for name, v in zip((ECO, LCO), most, strict=True) if v == YES)),
            PARTLY if worse == YES and set(most) != {YES} else worse,
        ),
    ]


def _loss_claims(sweep: Sweep) -> list[Claim]:
    """Compare panel (b)."""
    wsel, values = sweep.wsel, sweep.values
    eco, lco = sweep.excess(ECO, ADMM), sweep.excess(LCO, ADMM)
    small, large = (f"σ = {values[i]:g}" for i in (0, -1))
    k = values.index(SMALL_EXPONENT)
    shrinks = verdict(lco[0] - lco[-1])
    if shrinks == YES and (np.diff(lco.mean(axis=1)) > 0).any():
        shrinks = PARTLY
    saved = wsel[LCO][k] / wsel[GBE][k] - 1
    saved_at_end = wsel[ECO][-1] / wsel[GBE][-1] - 1
    ends = f"{_percent(eco[0])} more than ADMM at {small}, {_percent(eco[-1])} at {large}"
    return [
        Claim(
            "2(b): ECO approaches ADMM at a small σ",
            f"ECO costs {ends}",
            _approaches(eco[-1], eco[0]),
        ),
        Claim(
            "2(b): ECO degrades drastically as σ grows",
            f"ECO costs {ends}",
            verdict(eco[-1] - eco[0]),
        ),
        Claim(
            "2(b): LCO's gap to ADMM shrinks as σ grows",
            f"LCO costs {_percent(lco[0])} more than ADMM at {small}, {_percent(lco[-1])} at "
            f"{large}",
            shrinks,
        ),
        Claim(
            f"2(b): GBE is better than LCO at a small σ, as {SMALL_EXPONENT:g}",
            f"LCO costs {_percent(saved)} more than GBE at {SMALL_EXPONENT:g}",
            verdict(saved),
        ),
        Claim(
            "2(b): GBE is better than ECO at a large σ",
            f"ECO costs {_percent(saved_at_end)} more than GBE at {large}",
            verdict(saved_at_end),
        ),
    ]


def _step_claim(steps: Mapping[float, Float64Array]) -> Claim:
    fine = steps[FINE_STEP]
    coarse = steps[COARSE_STEP][:, : fine.shape[1]]
    # Per draw, over all model sizes.
    first, second = coarse.mean(axis=0), -fine.mean(axis=0)
    outcome = _throughout([verdict(first), verdict(first - second)])
    if outcome == YES and second.mean() > _SIMILAR:
        outcome = PARTLY
    return Claim(
        f"2(a): exhaustive search gains from steps of {STEP:g} in place of {COARSE_STEP:g}, and "
        f"only marginally from {FINE_STEP:g}",
        f"steps of {COARSE_STEP:g} cost {_percent(first)} more, at most "
        f"{coarse.mean(axis=1).max():z.2%} at a point; steps of {FINE_STEP:g} {_percent(second)} "
        f"less, at most {-fine.mean(axis=1).min():z.2%} ({fine.shape[1]} draws)",
        outcome,
    )


def _iteration_claim(name: str, sweeps: Sequence[Sweep]) -> Claim:
    taken = np.concatenate([sweep.iterations[name].ravel() for sweep in sweeps])
    low, high = REPORTED_ITERATIONS
    median, late = np.quantile(taken, [0.5, 0.9])
    within = float(np.mean(taken <= high))
    stopped = int(np.sum(taken == MOST_ITERATIONS))
    last = f" ({stopped} of {taken.size} runs were stopped there)" if stopped else ""
    ours = "" if name == PUBLISHED else "(ours) "
    return Claim(
        f"{ours}§III: {name} meets (24) after less than {low} to {high} iterations",
        f"median {median:.0f}, 90 % within {late:.0f}, at most {taken.max()}{last}; "
        f"{within:.1%} of all within {high}",
        YES if taken.max() <= high else PARTLY if median <= high else NO,
    )


def _bound_claim(sweeps: Sequence[Sweep]) -> Claim:
    excess = np.concatenate([sweep.excess(NEAR, OPTIMUM) for sweep in sweeps])
    never = float(np.mean(excess <= _ROUNDING))
    on_average = excess.mean(axis=0)
    outcome = YES if never == 1 else PARTLY if on_average.mean() <= _ROUNDING else NO
    return Claim(
        f"(ours) near-optimal never costs more than exhaustive search in steps of {STEP:g}",
        f"{_percent(on_average)} more; at most {excess.max():z.2%}, at least {excess.min():.2%}; "
        f"not more in {never:.2%} of all",
        outcome,
    )


def _approaches(far: Float64Array, near: Float64Array) -> str:
    """Say whether an excess falls from one end of a panel to a similar grade at the other."""
    outcome = verdict(far - near)
    similar = mean_intervals(near)[1] <= _SIMILAR
    return PARTLY if outcome == YES and not similar else outcome


def _verdicts(values: Float64Array) -> list[str]:
    """Say of each row of ``(k, n)`` values whether its mean is above zero."""
    ends = mean_intervals(values)
    return [YES if low > 0 else NO if high < 0 else OPEN for low, high in ends]


def _throughout(verdicts: Iterable[str]) -> str:
    """Say whether all were seen, or some."""
    seen = set(verdicts)
    if len(seen) == 1:
        return seen.pop()
    return PARTLY if YES in seen else OPEN if NO not in seen else NO


def _names(names: Iterable[str]) -> str:
    return " and ".join(names) or "neither ECO nor LCO"


def _interval(values: Float64Array) -> str:
    low, high = mean_intervals(values)
    return f"{values.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def _percent(values: Float64Array) -> str:
    """Write the mean of shares with its 95 % interval."""
    low, high = mean_intervals(values)
    return f"{values.mean():z.2%} [{low:z.2%}, {high:z.2%}]"
