"""JOINT Fig. 2: what one iteration with tasks costs, by method, model size and path loss.

The letter averages 10 draws of the channels; here there are more, and every method solves the same
ones at every point. GBE tries all combinations of parts as the optimum does, since ADMM under its
halves of the band does not end in every draw.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_gym.core.observation import Observation
from edge_gym.envs.offloading.config import OffloadingConfig
from edge_gym.envs.offloading.costs import offloading_costs
from edge_gym.evaluation.rollouts import make_lanes, plain_config
from edge_gym.evaluation.statistics import mean_intervals
from edge_gym.reports.charts import GRID, INK, new_figure, save, tidy, write_title
from edge_gym.reproduce.feel import plain_ticks
from edge_gym.reproduce.findings import (
    NO,
    OPEN,
    PARTLY,
    YES,
    Claim,
    Findings,
    Options,
    reporting,
    summary,
    verdict,
    write_findings,
)
from edge_gym.solvers.offloading import (
    Offloading,
    OffloadingCosts,
    admm,
    edge_only,
    evaluate,
    exhaustive,
    local_only,
    near_optimal,
)

Float64Array = NDArray[np.float64]

_ENV_ID = "Offloading-Paper-v0"
# An iteration's costs do not depend on what is learned in it, so that is small.
_LEARNING: dict[str, Any] = {
    "dataset": "mnist-subset",
    "image_size": 7,
    "hidden_sizes": (32,),
    "samples_per_device": 60,
}
_COLUMNS = ("gain_db", "task_mbit", "training_s", "training_j", "previous_download_s")
_MODEL_MBIT = (4.0, 8.0, 16.0, 24.0, 32.0, 40.0, 48.0)
_EXPONENTS = (2.5, 2.7, 2.9, 3.1, 3.3)
_SMALL_EXPONENT = 2.7
_REPORTED_GAP = 0.0318
_REPORTED_ITERATIONS = (40, 60)
_STEP, _COARSE_STEP, _FINE_STEP = 0.2, 0.5, 0.1
# The finest grid takes longer than all else together: it has one draw in so many.
_FINE_SHARE = 5
_MOST_ITERATIONS = 2000
# A similar grade, as a share of the cost.
_SIMILAR = 0.01
# What solvers' tolerances may do.
_ROUNDING = 1e-6

OPTIMUM, NEAR = "exhaustive", "near-optimal"
ADMM, PUBLISHED, STOPPED = "ADMM, c = 2", "ADMM, c = 20", "ADMM, c = 20, 60 iterations"
LCO, ECO, GBE = _BENCHMARKS = ("LCO", "ECO", "GBE")
_PARAMETERS: dict[str, dict[str, Any]] = {
    OPTIMUM: {"step": _STEP},
    NEAR: {},
    ADMM: {"penalty": 2.0, "max_iterations": _MOST_ITERATIONS},
    PUBLISHED: {"penalty": 20.0, "max_iterations": _MOST_ITERATIONS},
    STOPPED: {"penalty": 20.0, "max_iterations": _REPORTED_ITERATIONS[1]},
    LCO: {},
    ECO: {},
    GBE: {"step": _STEP, "grouped": True},
}
_SOLVERS: dict[str, Callable[..., Offloading]] = {
    OPTIMUM: exhaustive,
    NEAR: near_optimal,
    LCO: local_only,
    ECO: edge_only,
    GBE: exhaustive,
}
# Colour, marker and line of each.
_SHOWN = {
    GBE: ("#8C6BB1", "s", "-"),
    ECO: ("#CC79A7", "^", "-"),
    LCO: ("#0072B2", "v", "-"),
    STOPPED: ("#E69F00", "", "--"),
    ADMM: ("#D55E00", "", "-"),
    NEAR: ("#009E73", "x", ""),
    OPTIMUM: (INK, "o", ""),
}


class Sweep(NamedTuple):
    """One panel: P points and n draws of the channels, the same at every point.

    Attributes:
        values: What varies, ``(P,)``.
        wsel: WSEL (10a) of each method, ``(P, n)``.
        iterations: Iterations that ADMM took, ``(P, n)``.
    """

    values: tuple[float, ...]
    wsel: Mapping[str, Float64Array]
    iterations: Mapping[str, NDArray[np.int64]]

    def excess(self, one: str, other: str) -> Float64Array:
        """Return by which share the cost of ``one`` is above that of ``other``, ``(P, n)``."""
        return self.wsel[one] / self.wsel[other] - 1


class Draws(NamedTuple):
    """Channels and what else an iteration begins with; arrays are ``(n, M)``."""

    config: OffloadingConfig
    columns: dict[str, Float64Array]
    model_mbit: float

    def costs(self, model_mbit: float, rows: slice) -> OffloadingCosts:
        """Return what an iteration costs with a model of this size in some of the draws."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        return offloading_costs(self.config, **columns, model_mbit=model_mbit)


class _Solved(NamedTuple):
    wsel: dict[str, Float64Array]
    iterations: dict[str, NDArray[np.int64]]


def joint_fig2(folder: Path, options: Options) -> Findings:
    """Redo Fig. 2 of JOINT: WSEL against the model's size, and against the path-loss exponent.

    Channels are those with which episodes of ``Offloading-Paper-v0`` begin. ``--set`` changes
    its fields: ``path_loss_exponent`` is that of panel (a), ``model_bits`` that of panel (b). Grids
    in steps of 0.1 are searched in a fifth of the draws, with ``--full`` in all.

    Raises:
        ValueError: If a value is out of range or there are more users than can be searched.
        OSError: If ``folder`` cannot be written to.

    Source: JOINT Fig. 2, §III, §IV, Table I.
    """
    seeds = options.seeds(usual=200, quick=8)
    usual = draw_channels(options.overrides, seeds)
    solved: dict[tuple[float, float], _Solved] = {}

    def solve(draws: Draws, model_mbit: float) -> _Solved:
        # The panels meet in a point.
        key = (draws.config.path_loss_exponent, model_mbit)
        if key not in solved:
            solved[key] = _solve(draws, model_mbit, options)
        return solved[key]

    by_size = _sweep(_MODEL_MBIT, [solve(usual, mbit) for mbit in _MODEL_MBIT])
    points = []
    for exponent in _EXPONENTS:
        overrides = {**options.overrides, "path_loss_exponent": exponent}
        points.append(solve(draw_channels(overrides, seeds), usual.model_mbit))
    by_loss = _sweep(_EXPONENTS, points)
    steps = _other_steps(usual, by_size, options)
    findings = Findings(
        title=f"JOINT Fig. 2: {usual.config.n_devices} users, {len(seeds)} draws of their channels",
        config=plain_config(usual.config),
        seeds=seeds,
        parameters=_PARAMETERS,
        claims=claims_of(by_size, by_loss, steps),
        data={
            "model_mbit": _numbers(by_size),
            "path_loss_exponent": _numbers(by_loss),
            # By which share grids of other steps cost more, at each model size.
            "excess_of_steps": {f"{step:g}": summary(e.T) for step, e in steps.items()},
            "reported": {"gap": _REPORTED_GAP, "iterations": list(_REPORTED_ITERATIONS)},
        },
        files=[folder / "joint-fig2.json", folder / "joint-fig2.png"],
    )
    write_findings(findings, _draw)
    return findings


def draw_channels(overrides: Mapping[str, Any], seeds: Sequence[int]) -> Draws:
    """Return what episodes of one iteration begin with; fading is the same for all path losses."""
    given = {**_LEARNING, **overrides, "iterations": 1}
    env = make_lanes(_ENV_ID, len(seeds), given)
    observations, _ = env.reset(seed=list(seeds))
    seen = Observation(env.tables, observations)
    columns = {name: seen.device(name) for name in _COLUMNS}
    return Draws(env.config, columns, float(seen.system("model_mbit")[0, 0]))


def _solve(draws: Draws, model_mbit: float, options: Options) -> _Solved:
    """Let every method solve every draw of one point."""
    n = len(draws.columns["gain_db"])
    report = reporting(
        options, f"D_m = {model_mbit:g} Mbit, σ = {draws.config.path_loss_exponent:g}"
    )
    solved = _Solved({}, {})
    for place, (name, parameters) in enumerate(_PARAMETERS.items()):
        wsel, iterations = np.empty(n), np.empty(n, np.int64)
        for start in range(0, n, options.lanes):
            rows = slice(start, min(start + options.lanes, n))
            costs = draws.costs(model_mbit, rows)
            if name in _SOLVERS:
                found = _SOLVERS[name](costs, **parameters)
            else:
                found, iterations[rows] = admm(costs, **parameters)
            wsel[rows] = evaluate(costs, found).wsel
            report(place * n + rows.stop, len(_PARAMETERS) * n)
        solved.wsel[name] = wsel
        if name not in _SOLVERS:
            solved.iterations[name] = iterations
    return solved


def _sweep(values: tuple[float, ...], points: Sequence[_Solved]) -> Sweep:
    return Sweep(
        values,
        {name: np.stack([point.wsel[name] for point in points]) for name in points[0].wsel},
        {
            name: np.stack([point.iterations[name] for point in points])
            for name in points[0].iterations
        },
    )


def _other_steps(draws: Draws, by_size: Sweep, options: Options) -> dict[float, Float64Array]:
    """Return by which share other grids than the usual one cost more than it, ``(P, draws)``."""
    optimum = by_size.wsel[OPTIMUM]
    n = optimum.shape[1]
    fine = n if options.full else max(2, n // _FINE_SHARE)
    excess = {}
    for step, count in ((_COARSE_STEP, n), (_FINE_STEP, fine)):
        report = reporting(options, f"steps of {step:g}, {count} draws")
        table = np.empty((len(by_size.values), count))
        for i, model_mbit in enumerate(by_size.values):
            costs = draws.costs(model_mbit, slice(count))
            table[i] = evaluate(costs, exhaustive(costs, step)).wsel
            report(i + 1, len(table))
        excess[step] = table / optimum[:, :count] - 1
    return excess


def _numbers(sweep: Sweep) -> dict[str, Any]:
    """Return each method's WSEL, its gap to exhaustive search, and ADMM's iterations."""
    gaps = {name: sweep.excess(name, OPTIMUM) for name in sweep.wsel if name != OPTIMUM}
    return {
        "values": list(sweep.values),
        "wsel": {name: summary(wsel.T) for name, wsel in sweep.wsel.items()},
        "gap": {
            name: {**summary(gap.T), "worst": gap.max(axis=1).tolist()}
            for name, gap in gaps.items()
        },
        "iterations": {
            name: {
                "median": np.median(taken, axis=1).tolist(),
                "quantile_90": np.quantile(taken, 0.9, axis=1).tolist(),
                "max": taken.max(axis=1).tolist(),
            }
            for name, taken in sweep.iterations.items()
            if name != STOPPED
        },
    }


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
    within = float(np.mean(gap <= _REPORTED_GAP))
    return Claim(
        f"2: {name} is near-optimal for all D_m and σ, less than {_REPORTED_GAP:.2%} above "
        "exhaustive search",
        f"{gap.mean():z.2%} above on average, {gap.mean(axis=1).max():z.2%} at the worst point, "
        f"{gap.max():z.2%} in the worst draw; {within:.1%} of the draws below that",
        _throughout(_verdicts(_REPORTED_GAP - gap)),
    )


def _superiority_claim(sweeps: Sequence[Sweep]) -> Claim:
    saved = np.stack(
        [np.concatenate([sweep.excess(name, ADMM) for sweep in sweeps]) for name in _BENCHMARKS]
    )
    seen = [_verdicts(excess) for excess in saved]
    text = ", ".join(
        f"{name} by {means.min():z.2%} to {means.max():z.2%}, clearly at {verdicts.count(YES)} "
        f"of {len(verdicts)} points"
        for name, means, verdicts in zip(_BENCHMARKS, saved.mean(axis=2), seen, strict=True)
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
    k = values.index(_SMALL_EXPONENT)
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
            f"2(b): GBE is better than LCO at a small σ, as {_SMALL_EXPONENT:g}",
            f"LCO costs {_percent(saved)} more than GBE at {_SMALL_EXPONENT:g}",
            verdict(saved),
        ),
        Claim(
            "2(b): GBE is better than ECO at a large σ",
            f"ECO costs {_percent(saved_at_end)} more than GBE at {large}",
            verdict(saved_at_end),
        ),
    ]


def _step_claim(steps: Mapping[float, Float64Array]) -> Claim:
    fine = steps[_FINE_STEP]
    coarse = steps[_COARSE_STEP][:, : fine.shape[1]]
    # Per draw, over all model sizes.
    first, second = coarse.mean(axis=0), -fine.mean(axis=0)
    outcome = _throughout([verdict(first), verdict(first - second)])
    if outcome == YES and second.mean() > _SIMILAR:
        outcome = PARTLY
    return Claim(
        f"2(a): exhaustive search gains from steps of {_STEP:g} in place of {_COARSE_STEP:g}, and "
        f"only marginally from {_FINE_STEP:g}",
        f"steps of {_COARSE_STEP:g} cost {_percent(first)} more, at most "
        f"{coarse.mean(axis=1).max():z.2%} at a point; steps of {_FINE_STEP:g} {_percent(second)} "
        f"less, at most {-fine.mean(axis=1).min():z.2%} ({fine.shape[1]} draws)",
        outcome,
    )


def _iteration_claim(name: str, sweeps: Sequence[Sweep]) -> Claim:
    taken = np.concatenate([sweep.iterations[name].ravel() for sweep in sweeps])
    low, high = _REPORTED_ITERATIONS
    median, late = np.quantile(taken, [0.5, 0.9])
    within = float(np.mean(taken <= high))
    stopped = int(np.sum(taken == _MOST_ITERATIONS))
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
        f"(ours) near-optimal never costs more than exhaustive search in steps of {_STEP:g}",
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


def _draw(findings: Findings, path: Path) -> None:
    figure, grid = new_figure(12, 5, 1, 2)
    panels = (
        (grid[0, 0], "model_mbit", "(a) size D_m of the model, Mbit"),
        (grid[0, 1], "path_loss_exponent", "(b) path-loss exponent σ"),
    )
    for axes, quantity, label in panels:
        numbers = findings.data[quantity]
        for name, (colour, marker, line) in _SHOWN.items():
            found = numbers["wsel"][name]
            axes.plot(
                numbers["values"],
                found["mean"],
                color=colour,
                linestyle=line or "none",
                marker=marker or None,
                markersize=9 if name == OPTIMUM else 6,
                fillstyle="none" if name == OPTIMUM else "full",
                label=name,
            )
            if line:
                axes.fill_between(
                    numbers["values"],
                    *np.transpose(found["ci95"]),
                    color=colour,
                    alpha=0.15,
                    linewidth=0,
                )
        axes.set_xticks(numbers["values"])
        axes.set_xlabel(label, color=INK)
        tidy(axes)
    # ECO's costs would flatten all else.
    losses = grid[0, 1]
    losses.set_yscale("log")
    plain_ticks(losses)
    losses.tick_params(which="minor", colors=INK, labelsize=9)
    losses.grid(True, which="minor", axis="y", color=GRID, linewidth=0.8)
    grid[0, 0].set_ylabel("WSEL of all users", color=INK)
    grid[0, 0].legend(frameon=False, fontsize=9)
    write_title(figure, f"{findings.title}; 95 % intervals")
    save(figure, path)
