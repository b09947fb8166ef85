"""Time the methods of joint training and inference beside cvxpy.

Run with ``EDGE_GYM_THREADS=1 OMP_NUM_THREADS=1 python -m benchmarks.offloading``. Every repetition
times all methods in turn on the same instances of Table I's setting, one at a time and 64 at once,
in CPU time, which other processes disturb little; medians are compared. cvxpy (Clarabel) solves
for one given ι, that of ``near_optimal``: compiled once and solved again with other numbers, and
with compiling it. The table in ``edge_gym/solvers/offloading/__init__.py`` comes from here.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np

from edge_gym.solvers import offloading as solver
from edge_gym.solvers.offloading import Offloading, OffloadingCosts
from edge_gym.solvers.offloading.reference_cvxpy import ConeProgram
from edge_gym.solvers.offloading.users import as_users
from tests.unit.solvers.test_offloading_solver import channel_gains, row, table_one

MANY = 64
MANY_REPEATS = 3
SHORT = 5e-3


def milliseconds(play: Callable[[], object]) -> float:
    """Return the CPU time of one call, of many if it is short."""
    calls, begin = 0, time.process_time()
    while calls == 0 or time.process_time() - begin < SHORT:
        play()
        calls += 1
    return 1e3 * (time.process_time() - begin) / calls


def methods(
    costs: OffloadingCosts, split: np.ndarray, decisions: Offloading
) -> dict[str, Callable[[], object]]:
    result: dict[str, Callable[[], object]] = {
        "evaluate": lambda: solver.evaluate(costs, decisions),
        "optimal_resources": lambda: solver.optimal_resources(costs, split),
        "near_optimal": lambda: solver.near_optimal(costs),
        "admm, c = 2": lambda: solver.admm(costs),
        "admm, c = 20": lambda: solver.admm(costs, 20.0),
        "local_only": lambda: solver.local_only(costs),
        "edge_only": lambda: solver.edge_only(costs),
        "given_bands": lambda: solver.given_bands(costs),
    }
    if split.shape[-1] <= 4:
        result["exhaustive"] = lambda: solver.exhaustive(costs)
    return result


def medians(n_users: int, repeats: int) -> dict[str, list[float]]:
    """Return the milliseconds of one instance, by method, one and many at once."""
    many = table_one(channel_gains(np.random.default_rng(0), (MANY, n_users)))
    split = solver.near_optimal(many).offloaded
    decisions = solver.optimal_resources(many, split)
    problem, users = ConeProgram(n_users, grouped=False), as_users(many)
    times: dict[str, tuple[list[float], list[float]]] = {}
    for i in range(repeats):
        one = row(many, i)
        own = Offloading(*(part[i] for part in decisions))
        # The first time compiles for this pattern of downloads.
        problem.solve(users[i], split[i])
        conic: dict[str, Callable[[], object]] = {
            "cvxpy, one ι": lambda i=i: problem.solve(users[i], split[i]),
            "cvxpy, one ι, compiled": lambda c=one, i=i: solver.optimal_resources(
                c, split[i], solver="cvxpy"
            ),
        }
        for name, play in (methods(one, split[i], own) | conic).items():
            times.setdefault(name, ([], []))[0].append(milliseconds(play))
        if i < MANY_REPEATS:
            for name, play in methods(many, split, decisions).items():
                times[name][1].append(milliseconds(play) / MANY)
    return {name: [float(np.median(t)) for t in both if t] for name, both in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--users", type=int, nargs="+", default=[4, 12, 50, 200])
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "Solution may be inaccurate")
    for n_users in options.users:
        print(f"M = {n_users}", flush=True)
        for name, values in medians(n_users, options.repeats).items():
            print(f"  {name}: ms " + " / ".join(f"{value:.3g}" for value in values), flush=True)


if __name__ == "__main__":
    main()
