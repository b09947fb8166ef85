"""Who trains on which samples, what is averaged, and what goes wrong on the way."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from plain_task_allocation import FEDERATED, PLENTY, Plain, everyone, forget_learning, make, many
from references import column, global_model

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def remember_rows(env: Any) -> list[list[NDArray[np.int64]]]:
    """Return a list that gets every cycle's rows, an array for each learner."""
    kept: list[list[NDArray[np.int64]]] = []
    draw = env.problem.draw_tasks

    def drawing(*arguments: Any) -> Any:
        kept.append(draw(*arguments))
        return kept[-1]

    env.problem.draw_tasks = drawing
    return kept


@pytest.mark.parametrize(
    ("fields", "shares", "wanted"),
    [
        ({}, [0, 0, 0, 0], [12, 12, 12, 12]),
        ({}, [-1, -1, -1, -1], [12, 12, 12, 12]),
        ({}, [-1, 0.5, -1, 0.5], [0, 24, 0, 24]),
        ({}, [-1, -1, -1, -0.99], [0, 0, 0, 48]),
        ({"task_share": 0.5}, [0, 0, 0, -1], [8, 8, 8, 0]),
        (FEDERATED, [1, 1, -1, -1], [12, 12, 0, 0]),
        ({**FEDERATED, "task_share": 0.5}, [-1, 1, -1, 1], [0, 12, 0, 12]),
        ({"redundancy": 2}, [0, 0, 0, -1], [32, 32, 16, 16]),
        ({**FEDERATED, "redundancy": 2}, [0, 0, 0, -1], [24, 24, 16, 16]),
    ],
)
def test_who_trains_on_how_many_samples(
    fields: dict[str, Any], shares: list[float], wanted: list[int]
) -> None:
    env = make(**fields, cycle_s=100.0, energy_limit_j=1e3)
    rows = remember_rows(env)
    env.reset(seed=0)
    action = everyone(1)
    action[:, 0] = shares
    observation, *_, info = env.step(action)
    assert column(env, observation, "devices", "samples").tolist() == wanted
    assert [len(part) for part in rows[0]] == wanted
    assert info["samples"] == sum(wanted)
    assert info["left_out"] == wanted.count(0)
    every = [set(part.tolist()) for part in rows[0][:: env.config.redundancy]]
    assert sum(map(len, every)) == len(set().union(*every)) == sum(wanted) // env.config.redundancy
    for k, part in enumerate(every):
        own = env.problem.rows[0, k * env.config.redundancy, : env.problem.sizes[0, 0]]
        assert env.config.learning == "parallelized" or part <= set(own.tolist())


def test_orchestrators_draw_samples_anew() -> None:
    """Every sample goes to every learner as often, in proportion to what it gets."""
    env = make(cycle_s=100.0, energy_limit_j=1e3, cycles=300, task_share=0.75)
    rows = remember_rows(env)
    env.reset(seed=0)
    forget_learning(env.problem)
    problem = env.problem
    samples = np.array([18, 9, 6, 3])
    for _ in range(300):
        problem.draw_tasks(0, samples, samples)
        problem.rounds += 1
    every = np.sort(np.concatenate(problem.rows[0]))
    for k in range(4):
        counts = np.bincount(
            np.searchsorted(every, np.concatenate([part[k] for part in rows])), minlength=48
        )
        # Five standard deviations.
        share = samples[k] / 48
        assert np.abs(counts / 300 - share).max() < 5 * math.sqrt(share * (1 - share) / 300)


# A batch holds all samples of a learner, so that their order means nothing.
WHOLE = {**PLENTY, "batch_size": 1000}

ANY_ORDER = np.uint64(0)


def test_those_without_updates_are_left_out_of_the_average() -> None:
    env = make(**WHOLE)
    rows = remember_rows(env)
    env.reset(seed=0)
    w, plain = global_model(env), Plain(env)
    action = everyone(3)
    action[:, 0], action[1:3, 1] = [0.2, 0.9, 0, -0.1], -1
    *_, info = env.step(action)
    assert (info["left_out"], info["lowered"], info["arrived"]) == (2, 0, 2)
    changes = [plain.trained(w, rows[0][k], 3, ANY_ORDER) for k in (0, 3)]
    mean = np.average(changes, axis=0, weights=[len(rows[0][k]) for k in (0, 3)])
    np.testing.assert_allclose(global_model(env), w + mean, atol=2e-6)
    assert len(rows[0][0]) > len(rows[0][3])


def test_a_cycle_in_which_nothing_is_done_or_arrives() -> None:
    for absence, updates in ((1.0, 3), (0.0, 0)):
        env = make(**PLENTY)
        env.reset(seed=0)
        env.problem.drop_out[0] = absence
        before = env.problem.learner.weights.clone()
        _, reward, *_, info = env.step(everyone(updates))
        assert torch.equal(env.problem.learner.weights, before)
        assert reward == info["arrived"] == info["samples"] == info["staleness"] == 0
        # Who trains for nothing has spent its energy.
        assert (info["cycle_j"] > 0) == (updates > 0)


def test_an_epoch_goes_once_through_all_samples() -> None:
    """Samples that are all alike make the same steps in any order."""
    env = make(**PLENTY, batch_size=5)
    env.reset(seed=0)
    env.problem.rows[0] = env.problem.rows[0, :1, :1]
    w, plain = global_model(env), Plain(env)
    env.step(everyone(2))
    # Two epochs of twelve samples are six steps.
    plain.config = replace(env.config, batch_size=1000)
    wanted = w + plain.trained(w, plain.rows[0], 6, ANY_ORDER)
    np.testing.assert_allclose(global_model(env), wanted, atol=2e-6)


def test_models_are_lost_as_often_as_they_should() -> None:
    problem = many(60, samples_per_device=2, drop_out=0.3, cycles=20, **PLENTY)
    forget_learning(problem)
    problem.drop_out[:] = [0.0, 0.1, 0.5, 1.0]
    for _ in range(20):
        problem.step_lanes(np.arange(60), np.tile(everyone(1), (60, 1, 1)))
    # Five standard deviations of 1,200 draws.
    np.testing.assert_allclose(problem.arrivals.mean(axis=0) / 20, [1, 0.9, 0.5, 0], atol=0.073)
    assert (problem.arrivals[:, 0] == 20).all()
    found = column(problem, problem.observe(), "devices", "arrivals")
    np.testing.assert_allclose(found, problem.arrivals / 20, rtol=1e-6)


def test_who_drops_out_has_no_influence() -> None:
    results = []
    for updates in (1, 2):
        env = make(**PLENTY)
        env.reset(seed=0)
        env.problem.drop_out[0] = [0, 1, 0, 0]
        action = everyone(3)
        action[1, 1] = 2 * updates / 12 - 1
        *_, info = env.step(action)
        assert (info["arrived"], info["samples"]) == (3, 36)
        results.append(global_model(env))
    np.testing.assert_array_equal(*results)


def test_slow_learners_send_what_is_ready() -> None:
    plan, busy = (make(slowdown_probability=p, slowdown=2.0) for p in (0.0, 1.0))
    for env in (plan, busy):
        env.reset(seed=1)
    plain = Plain(busy)
    plain.look()
    wanted = [plain.possible(k, 12) for k in range(4)]
    slow = [plain.possible(k, 12, None, 2.0) for k in range(4)]
    assert sum(slow) < sum(wanted)
    action = everyone(0)
    action[:, 1] = 2 * np.array(wanted) / 12 - 1
    ours, theirs = busy.step(action), plan.step(action)
    assert column(plan, theirs[0], "devices", "updates").tolist() == wanted
    done = [min(pair) for pair in zip(wanted, slow, strict=True)]
    assert column(busy, ours[0], "devices", "updates").tolist() == done
    # The orchestrator did not ask for too much.
    assert ours[4]["lowered"] == theirs[4]["lowered"] == 0
    assert ours[4]["left_out"] == theirs[4]["left_out"] == wanted.count(0)
    assert ours[4]["arrived"] == 4 - done.count(0)


def test_cpus_are_busy_as_often_as_they_should() -> None:
    fields = {"slowdown_probability": 0.3, "slowdown": 2.0, "energy_limit_j": 1e3}
    problem = many(60, **fields, cycles=20, cycle_s=3.0, most_updates=100)
    forget_learning(problem)
    slow = 0
    for _ in range(20):
        problem.step_lanes(np.arange(60), np.tile(everyone(100, most=100), (60, 1, 1)))
        fast = problem.cycle_costs(np.arange(60)).max_updates(np.full((60, 4), 12))
        slow += (problem.updates < fast).sum(axis=0)
        assert (fast > 1).all()
    np.testing.assert_allclose(slow / 1200, 0.3, atol=0.067)


@pytest.mark.parametrize("learning", ["parallelized", "federated"])
def test_one_arrival_of_a_group_is_enough(learning: str) -> None:
    models = []
    for lost in ([0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 1, 0], [1, 1, 0, 0, 0, 1]):
        env = make(**WHOLE, n_devices=6, redundancy=2, learning=learning, task_share=0.9)
        rows = remember_rows(env)
        env.reset(seed=2)
        assert env.problem.total[0] == round(0.9 * 72)
        env.problem.drop_out[0] = lost
        action = everyone(2, n=6)
        action[:, 0] = [0, 0.4, -1, 0.1, 0, 0]
        w, plain = global_model(env), Plain(env)
        *_, info = env.step(action)
        drawn = rows[0]
        for first in (0, 2, 4):
            np.testing.assert_array_equal(drawn[first], drawn[first + 1])
        sizes = [len(drawn[k]) for k in (0, 2, 4)]
        assert len(set(sizes)) > 1
        counted = [g for g in range(3) if not all(lost[2 * g : 2 * g + 2])]
        changes = [plain.trained(w, drawn[2 * g], 2, ANY_ORDER) for g in counted]
        mean = np.average(changes, axis=0, weights=[sizes[g] for g in counted])
        np.testing.assert_allclose(global_model(env), w + mean, atol=2e-6)
        assert info["arrived"] == 6 - sum(lost)
        # Copies count.
        assert info["samples"] == sum(sizes[k // 2] for k in range(6) if not lost[k])
        models.append(global_model(env))
    np.testing.assert_allclose(models[1], models[0], atol=2e-6)
    assert np.abs(models[2] - models[0]).max() > 1e-3


@pytest.mark.parametrize("partition", ["iid", "shards"])
def test_who_holds_which_samples(partition: str) -> None:
    for redundancy in (1, 2, 3):
        env = make(
            partition=partition, n_devices=6, redundancy=redundancy, task_share=0.5, **FEDERATED
        )
        env.reset(seed=5)
        problem = env.problem
        held = [problem.rows[0, k, : problem.sizes[0, k]].tolist() for k in range(6)]
        groups = held[::redundancy]
        assert all(held[k] == groups[k // redundancy] for k in range(6))
        every = list(itertools.chain(*groups))
        assert len(set(every)) == len(every) == 72
        assert not set(every) & set(problem.validation[0])
        assert problem.total[0] == 36
