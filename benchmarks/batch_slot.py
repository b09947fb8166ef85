"""Time the exact batch and slot solver beside scipy's SLSQP and cvxpy.

Run with ``OMP_NUM_THREADS=1 python -m benchmarks.batch_slot``. All solve the paper's whole
problem on the same instances, batches and the slots of both frames: SLSQP as printed, with exact
derivatives and up to three starts where it fails, cvxpy for a given B as a cone program that it
compiles once (Clarabel). Every repetition times all of them in turn; medians are compared. The
table in ``edge_gym/solvers/batch_slot/__init__.py`` comes from here.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np

from edge_gym.solvers import batch_slot as allocation
from tests.unit.solvers.test_batch_slot_solver import Conic, draw_costs, row, slsqp

COUNTS = (1, 16, 256, 4096)


def seconds(play: Callable[[], object]) -> float:
    begin = time.perf_counter()
    play()
    return time.perf_counter() - begin


def medians(n_devices: int, given: bool, repeats: int) -> dict[str, float]:
    """Return the microseconds of one instance, by solver and number of instances."""
    rng, m = np.random.default_rng(0), max(COUNTS)
    costs = draw_costs(rng, m, n_devices, "cpu")
    total = n_devices * rng.uniform(1, 128, m)
    conic = Conic(n_devices)
    conic.solve(row(costs, 0), total[0])
    times: dict[str, list[float]] = {}
    for i in range(repeats):
        one = row(costs, i)
        for count in COUNTS:
            rows = (np.arange(count) + i) % m
            part = allocation.RoundCosts(**row(costs, rows))
            sums = total[rows] if given else None
            spent = seconds(lambda p=part, s=sums: allocation.optimal_allocation(p, s))
            times.setdefault(f"{count}", []).append(spent / count)
        limit = float(total[i]) if given else None
        times.setdefault("slsqp", []).append(seconds(lambda o=one, s=limit: slsqp(o, s)))
        if limit is not None:
            spent = seconds(lambda o=one, s=limit: conic.solve(o, s))
            times.setdefault("cvxpy", []).append(spent)
    return {name: 1e6 * float(np.median(values)) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=40)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "Solution may be inaccurate")
    for n_devices in (6, 12):
        for given in (True, False):
            found = medians(n_devices, given, options.repeats)
            best = found[f"{max(COUNTS)}"]
            line = ", ".join(
                f"{name} {value:.3g} ({value / best:.0f}×)" for name, value in found.items()
            )
            print(f"K = {n_devices}, B {'given' if given else 'best'}: µs {line}", flush=True)


if __name__ == "__main__":
    main()
