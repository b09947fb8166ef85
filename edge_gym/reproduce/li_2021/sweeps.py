"""Solutions of the same draws by every method, over model sizes and path losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_gym.core.observation import Observation
from edge_gym.envs.offloading.config import OffloadingConfig
from edge_gym.envs.offloading.costs import offloading_costs
from edge_gym.evaluation.rollouts import make_lanes
from edge_gym.reproduce.harness import Options, reporting, summary
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
from edge_gym.typing import Float64Array

_ENV_ID = "Offloading-Paper-v0"


# An iteration's costs do not depend on what is learned in it, so that is small.
_LEARNING: dict[str, Any] = {
    "dataset": "mnist-subset",
    "image_size": 7,
    "hidden_sizes": (32,),
    "samples_per_device": 60,
}


_COLUMNS = ("gain_db", "task_mbit", "training_s", "training_j", "previous_download_s")


MODEL_MBIT = (4.0, 8.0, 16.0, 24.0, 32.0, 40.0, 48.0)


EXPONENTS = (2.5, 2.7, 2.9, 3.1, 3.3)


SMALL_EXPONENT = 2.7


STEP, COARSE_STEP, FINE_STEP = 0.2, 0.5, 0.1


# The finest grid takes longer than all else together: it has one draw in so many.
_FINE_SHARE = 5


MOST_ITERATIONS = 2000


OPTIMUM, NEAR = "exhaustive", "near-optimal"


ADMM, PUBLISHED, STOPPED = "ADMM, c = 2", "ADMM, c = 20", "ADMM, c = 20, 60 iterations"


REPORTED_ITERATIONS = (40, 60)
LCO, ECO, GBE = BENCHMARKS = ("LCO", "ECO", "GBE")


PARAMETERS: dict[str, dict[str, Any]] = {
    OPTIMUM: {"step": STEP},
    NEAR: {},
    ADMM: {"penalty": 2.0, "max_iterations": MOST_ITERATIONS},
    PUBLISHED: {"penalty": 20.0, "max_iterations": MOST_ITERATIONS},
    STOPPED: {"penalty": 20.0, "max_iterations": REPORTED_ITERATIONS[1]},
    LCO: {},
    ECO: {},
    GBE: {"step": STEP, "grouped": True},
}


_SOLVERS: dict[str, Callable[..., Offloading]] = {
    OPTIMUM: exhaustive,
    NEAR: near_optimal,
    LCO: local_only,
    ECO: edge_only,
    GBE: exhaustive,
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


class Solved(NamedTuple):
    """Costs and iterations of every method, by its name."""

    wsel: dict[str, Float64Array]
    iterations: dict[str, NDArray[np.int64]]


def draw_channels(overrides: Mapping[str, Any], seeds: Sequence[int]) -> Draws:
    """Return what episodes of one iteration begin with; fading is the same for all path losses."""
    given = {**_LEARNING, **overrides, "iterations": 1}
    env = make_lanes(_ENV_ID, len(seeds), given)
    observations, _ = env.reset(seed=list(seeds))
    seen = Observation(env.tables, observations)
    columns = {name: seen.device(name) for name in _COLUMNS}
    return Draws(env.config, columns, float(seen.system("model_mbit")[0, 0]))


def solve_draws(draws: Draws, model_mbit: float, options: Options) -> Solved:
    """Let every method solve every draw of one point."""
    n = len(draws.columns["gain_db"])
    report = reporting(
        options, f"D_m = {model_mbit:g} Mbit, σ = {draws.config.path_loss_exponent:g}"
    )
    solved = Solved({}, {})
    for place, (name, parameters) in enumerate(PARAMETERS.items()):
        wsel, iterations = np.empty(n), np.empty(n, np.int64)
        for start in range(0, n, options.lanes):
            rows = slice(start, min(start + options.lanes, n))
            costs = draws.costs(model_mbit, rows)
            if name in _SOLVERS:
                found = _SOLVERS[name](costs, **parameters)
            else:
                found, iterations[rows] = admm(costs, **parameters)
            wsel[rows] = evaluate(costs, found).wsel
            report(place * n + rows.stop, len(PARAMETERS) * n)
        solved.wsel[name] = wsel
        if name not in _SOLVERS:
            solved.iterations[name] = iterations
    return solved


def sweep_of(values: tuple[float, ...], points: Sequence[Solved]) -> Sweep:
    """Return the sweep of some values and their solutions."""
    return Sweep(
        values,
        {name: np.stack([point.wsel[name] for point in points]) for name in points[0].wsel},
        {
            name: np.stack([point.iterations[name] for point in points])
            for name in points[0].iterations
        },
    )


def other_steps(draws: Draws, by_size: Sweep, options: Options) -> dict[float, Float64Array]:
    """Return by which share other grids than the usual one cost more than it, ``(P, draws)``."""
    optimum = by_size.wsel[OPTIMUM]
    n = optimum.shape[1]
    fine = n if options.full else max(2, n // _FINE_SHARE)
    excess = {}
    for step, count in ((COARSE_STEP, n), (FINE_STEP, fine)):
        report = reporting(options, f"steps of {step:g}, {count} draws")
        table = np.empty((len(by_size.values), count))
        for i, model_mbit in enumerate(by_size.values):
            costs = draws.costs(model_mbit, slice(count))
            table[i] = evaluate(costs, exhaustive(costs, step)).wsel
            report(i + 1, len(table))
        excess[step] = table / optimum[:, :count] - 1
    return excess


def numbers_of(sweep: Sweep) -> dict[str, Any]:
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
