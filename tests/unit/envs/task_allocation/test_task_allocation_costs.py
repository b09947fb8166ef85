"""What tasks cost: time and energy are never exceeded, and used where they can be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from plain_task_allocation import (
    FADING,
    FEDERATED,
    JOINT,
    RISK,
    SMALL,
    STALENESS,
    everyone,
    forget_learning,
    make,
    many,
)
from rollouts import random_actions

from edge_gym.envs.task_allocation.env import TaskAllocationVectorEnv

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {**FADING, **RISK, "slowdown": 3.0},
        {**FEDERATED, **FADING, "size_spread": 0.5},
        {"redundancy": 2, "model_bits_per_sample": 2e4},
        {**STALENESS, **FADING},
        {**JOINT, **FADING, **RISK},
    ],
)
def test_time_and_energy_are_never_exceeded(fields: dict[str, Any]) -> None:
    env: Any = TaskAllocationVectorEnv(64, **{**SMALL, **fields})
    env.reset(seed=0)
    problem = env.problem
    forget_learning(problem)
    highest = np.zeros(2)
    actions = random_actions(env.single_action_space, 1)
    for _ in range(6):
        *_, info = env.step(np.array([next(actions) for _ in range(64)]))
        used = np.stack([problem.finish_s / 1.5, problem.spent_j / problem.limit_j])
        assert (used <= 1 + 1e-9).all()
        highest = np.maximum(highest, used.max(axis=(1, 2)))
        assert (info["finish_s"] == problem.finish_s.max(axis=1)).all()
        np.testing.assert_allclose(info["cycle_j"], problem.spent_j.sum(axis=1))
    assert (highest > 0.95).all()


def test_one_more_update_is_too_many() -> None:
    problem = many(40, **FADING, energy_limit_j=2.0)
    rng, lanes = np.random.default_rng(0), np.arange(40)
    held = rng.integers(0, 30, (40, 4))
    for slower in (1.0, 2.5):
        updates = problem.cycle_costs(lanes).max_updates(held, slower)
        for more, fits in ((0, True), (1, False)):
            seconds, joules = problem.cycle_costs(lanes).needs(held, updates + more, slower)
            within = (seconds <= 1.5) & (joules <= problem.limit_j)
            concerned = (held > 0) & (updates + more > 0)
            assert (within == fits)[concerned].all()
        assert len(np.unique(updates)) > 5


def test_slow_cpus_cost_the_same_energy_with_either_actions() -> None:
    fields = {"slowdown_probability": 1.0, "slowdown": 1.3, "cycle_s": 6.0, "energy_limit_j": 30.0}
    joules = []
    for env in (make(**fields), make(**JOINT, **fields), make(**{**fields, "slowdown": 1.0})):
        env.reset(seed=0)
        rest = np.tile(np.float32([0, 1, 1]), (4, 1))[:, : env.action_space.shape[1] - 2]
        *_, info = env.step(np.concatenate([everyone(2), rest], axis=1))
        assert (info["updates"], info["lowered"]) == (2, 0)
        joules.append(info["joules"])
    np.testing.assert_allclose(joules, joules[0], rtol=1e-12)
