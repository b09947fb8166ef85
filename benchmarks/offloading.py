"""Time the methods of joint training and inference beside cvxpy.

Run with ``EDGE_GYM_THREADS=1 OMP_NUM_THREADS=1 python -m benchmarks.offloading``. Every repetition
times all methods in turn on the same instances of Table I's setting, one at a time and 64 at once,
in CPU time, which other processes disturb little; medians are compared. cvxpy (Clarabel) solves
for one given ι, that of ``near_optimal``: compiled once and solved again with other numbers, and
with compiling it. The table in ``edge_gym/solvers/offloading.py`` comes from here.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np

from edge_gym.solvers import offloading as solver
from tests.test_offloading_solver import channel_gains, row, table_one

COUNTS = (1, 64)


def seconds(play: Callable[[], object]) -> float:
    begin = time.process_time()
    play()
    return time.process_time() - begin


def medians(n_users: int, repeats: int) -> dict[str, tuple[float, ...]]:
    """Return the milliseconds of one instance, by method, one and many at once."""
    many = table_one(channel_gains(np.random.default_rng(0), (max(COUNTS), n_users)))
    split = solver.near_optimal(many).offloaded
    decisions = solver.optimal_resources(many, split)
    iterations = solver.admm(many)[1]
    print(f"M = {n_users}: ADMM's iterations, median {np.median(iterations):g}", flush=True)
    problem, users = solver._Conic(n_users, grouped=False), solver._users(many)
    times: dict[str, list[list[float]]] = {}
    for repeat in range(repeats):
        for column, count in enumerate(COUNTS):
            rows: int | slice = slice(None) if count > 1 else repeat % len(split)
            costs = many if count > 1 else row(many, repeat % len(split))
            one = solver.Offloading(*(part[rows] for part in decisions))
            methods: dict[str, Callable[[], object]] = {
                "evaluate": lambda c=costs, o=one: solver.evaluate(c, o),
                "optimal_resources": lambda c=costs, s=split[rows]: solver.optimal_resources(c, s),
                "near_optimal": lambda c=costs: solver.near_optimal(c),
                "admm, c = 2": lambda c=costs: solver.admm(c),
                "admm, c = 20": lambda c=costs: solver.admm(c, 20.0),
                "local_only": lambda c=costs: solver.local_only(c),
                "edge_only": lambda c=costs: solver.edge_only(c),
                "given_bands": lambda c=costs: solver.given_bands(c),
            }
            if n_users <= 4:
                methods["exhaustive"] = lambda c=costs: solver.exhaustive(c)
            if count > 1 and repeat >= 3:
                continue
            if count == 1:
                i = repeat % len(split)
                # The first time compiles for this pattern of downloads.
                problem.solve(users[i], split[i])
                methods["cvxpy, one ι"] = lambda i=i: problem.solve(users[i], split[i])
                methods["cvxpy, one ι, compiled"] = lambda c=costs, s=split[i]: (
                    solver.optimal_resources(c, s, solver="cvxpy")
                )
            for name, play in methods.items():
                entry = times.setdefault(name, [[] for _ in COUNTS])
                entry[column].append(1e3 * seconds(play) / count)
    return {
        name: tuple(float(np.median(values)) for values in columns if values)
        for name, columns in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--users", type=int, nargs="+", default=[4, 12, 50, 200])
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "Solution may be inaccurate")
    for n_users in options.users:
        for name, values in medians(n_users, options.repeats).items():
            print(f"  {name}: ms " + " / ".join(f"{value:.3g}" for value in values), flush=True)


if __name__ == "__main__":
    main()
