"""Time the exact task allocation and the paper's, beside HiGHS, and compare what they reach.

Run with ``EDGE_GYM_THREADS=1 OMP_NUM_THREADS=1 python -m benchmarks.task_allocation``. Instances
are placements of the paper's system with 3,000 samples for each learner and d_l = 100. HiGHS
solves the same tables, one after the other, as a mixed-integer program of the updates alone; it
gets no more updates than the exact solver looks at. Every repetition times all of them in turn;
medians are compared, of CPU time, since HiGHS takes long enough for others to get the core. The
numbers in ``edge_gym/solvers/task_allocation/__init__.py`` come from here.

``--training`` times the training of global cycles instead, with the tasks of the exact allocation
under the cap 3: all learners and lanes at once, a loop over learners that trains each with the same
code, and a loop of torch modules.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.federated import Module, Task
from edge_gym.baselines import make_baseline
from edge_gym.evaluation.rollouts import make_lanes
from edge_gym.learning.jobs import pad_rows
from edge_gym.runtime.streams import Purpose
from edge_gym.solvers import task_allocation as allocation
from edge_gym.typing import IntArray
from tests.unit.solvers.test_task_allocation_solver import (
    LEAST,
    PLACED,
    TOTAL,
    document_costs,
    mixed_integer,
    row,
)

COUNTS = {20: (1, 16, 256), 100: (1, 16, 256), 1000: (1, 16)}
CAPS = (0, 1, 3)


def seconds(play: Callable[[], object]) -> float:
    begin = time.process_time()
    play()
    return time.process_time() - begin


def medians(
    n_learners: int, cap: int, repeats: int, programs: int, limit_s: float
) -> dict[str, float]:
    """Return the microseconds of one instance, by solver and number of instances.

    HiGHS counts with the time that it spent where it does not prove the optimum in time.
    """
    counts, total = COUNTS[n_learners], n_learners * TOTAL // 20
    rng, m = np.random.default_rng(0), max(COUNTS[n_learners])
    costs = document_costs(rng, (m,), n_learners, 10.0, 10.0)
    for place in PLACED:
        place(row(costs, [0]), total, cap, LEAST)
    times: dict[str, list[float]] = {}
    proven: list[bool] = []
    for i in range(repeats):
        for place, count in itertools.product(PLACED, counts):
            part = row(costs, (np.arange(count) + i) % m)
            spent = seconds(lambda p=part, f=place: f(p, total, cap, LEAST))
            times.setdefault(f"{place.__name__} {count}", []).append(spent / count)
        if i < programs:
            table = row(costs, i).whole_capacities(64)
            common = allocation.exact_updates(table, total, 0, LEAST).max()
            table = table[:, : common + cap]

            def solve(table: IntArray = table) -> None:
                found = mixed_integer(table, total, cap, LEAST, seconds=limit_s)
                proven.append(found is not None)

            times.setdefault("HiGHS", []).append(seconds(solve))
    found = {name: 1e6 * float(np.median(values)) for name, values in times.items()}
    return found | {"HiGHS proven": float(np.mean(proven))}


def means(placements: int, cycle_s: float, limit_j: float, cap: int) -> str:
    """Return what both reach on average, and how often and by how much they differ."""
    costs = document_costs(np.random.default_rng(1), (placements,), 20, cycle_s, limit_j)
    exact, suggested = (place(costs, TOTAL, cap, LEAST) for place in PLACED)
    together = allocation.exact_allocation(costs, TOTAL, 0, LEAST).updates.max(axis=-1)
    difference = exact.updates.mean(axis=-1) - suggested.updates.mean(axis=-1)
    below = exact.updates.min(axis=-1) < together
    weighted = (exact.updates * exact.samples).sum(axis=-1) / TOTAL
    return (
        f"mean τ {exact.updates.mean():.3f} and {suggested.updates.mean():.3f}, gap mean "
        f"{difference.mean():.3f} largest {difference.max():.2f}, exact better in "
        f"{100 * (difference > 0).mean():.1f} %, its least τ below the synchronous one in "
        f"{100 * below.mean():.1f} %, its mean τ of a sample {weighted.mean():.3f}"
    )


def training(env_id: str, n_lanes: int, repeats: int) -> dict[str, float]:
    """Return the milliseconds that one lane's cycle takes, by way of training."""
    env = make_lanes(env_id, n_lanes, {})
    observation, _ = env.reset(seed=0)
    problem, config, lanes = env.problem, env.config, np.arange(n_lanes)
    rule = make_baseline("ha-asyn", env, cap=3)
    given, wanted, _ = problem.decide(lanes, rule.act(observation))
    held = problem.held_samples(lanes, given)
    updates = np.minimum(wanted, problem.cycle_costs(lanes).max_updates(held))
    rows, counts = pad_rows([problem.draw_tasks(lane, given[lane], held[lane]) for lane in lanes])
    learner, cycle = problem.learner, problem.rounds[lanes]
    keys = problem.streams.keys(lanes, Purpose.ORDERS, config.n_devices, cycle)

    def train(columns: slice, lane: slice = slice(None)) -> None:
        learner.local_updates(
            *(lanes[lane], rows[lane, columns], counts[lane, columns], keys[lane, columns]),
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            epochs=updates[lane, columns],
        )

    def one_by_one() -> None:
        for k in range(config.n_devices):
            train(slice(k, k + 1), slice(0, 1))

    x = torch.tensor(problem.features.train)
    y = torch.tensor(problem.features.train_labels)
    side = problem.features.image_shape[-1]
    model = Module(Task("mlp", side, config.hidden_sizes))

    def modules() -> None:
        for k in range(config.n_devices):
            local = copy.deepcopy(model)
            optimizer = torch.optim.SGD(local.parameters(), lr=config.learning_rate)
            own = torch.from_numpy(rows[0, k, : counts[0, k]])
            for _ in range(updates[0, k]):
                for part in own[torch.randperm(len(own))].split(config.batch_size):
                    optimizer.zero_grad()
                    local.loss(x[part], y[part]).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()

    ways = {
        f"{n_lanes} lanes": (lambda: train(slice(None)), n_lanes),
        "one lane": (lambda: train(slice(None), slice(0, 1)), 1),
        "learner by learner": (one_by_one, 1),
        "torch modules": (modules, 1),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, (play, count) in ways.items():
            times[name].append(1e3 * seconds(play) / count)
    return {name: float(np.median(values)) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--programs", type=int, default=5, help="instances that HiGHS solves")
    parser.add_argument("--limit-s", type=float, default=20.0, help="of each of them")
    parser.add_argument("--placements", type=int, default=1024)
    parser.add_argument("--training", action="store_true", help="time the training of cycles")
    options = parser.parse_args()
    if options.training:
        torch.set_num_threads(1)
        for env_id, n_lanes, repeats in (
            ("TaskAllocation-v0", 64, options.repeats),
            ("TaskAllocation-Paper-v0", 4, 3),
        ):
            found = training(env_id, n_lanes, repeats)
            line = ", ".join(f"{name} {value:.1f}" for name, value in found.items())
            print(f"{env_id}: ms for a lane's cycle, {line}", flush=True)
        return
    for cycle_s, limit_j, cap in itertools.product((10.0, 20.0), (10.0, 20.0), range(6)):
        found = means(options.placements, cycle_s, limit_j, cap)
        print(f"T = {cycle_s:g} s, E = {limit_j:g} J, c = {cap}: {found}", flush=True)
    for n_learners, cap in itertools.product(COUNTS, CAPS):
        found = medians(n_learners, cap, options.repeats, options.programs, options.limit_s)
        line = ", ".join(f"{name} {value:.3g}" for name, value in found.items())
        print(f"K = {n_learners}, c = {cap}: µs {line}", flush=True)


if __name__ == "__main__":
    main()
