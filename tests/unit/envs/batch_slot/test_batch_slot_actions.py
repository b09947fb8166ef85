"""Batches and slots: what actions mean, and the best ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_batch_slot import ENDLESS, GLOBAL, Plain, make
from references import column
from test_batch_slot_dynamics import remember_batches

from edge_gym.envs.batch_slot.actions import AllocationShares, DirectCodec, global_batches
from edge_gym.envs.batch_slot.config import BatchSlotConfig
from edge_gym.envs.batch_slot.env import BatchSlotVectorEnv
from edge_gym.solvers import batch_slot as allocation

CODEC = DirectCodec(BatchSlotConfig())


def test_batches_reach_from_one_to_the_largest_possible() -> None:
    env = make(samples_per_device=10, size_spread=0.8, max_batch=12, **ENDLESS)
    env.reset(seed=0)
    sizes = env.problem.sizes[0]
    assert sizes.min() < 12 < sizes.max()
    *_, info = env.step(np.full((4, 3), -1.0))
    assert info["batch"] == 4
    *_, info = env.step(np.full((4, 3), 1.0))
    assert info["batch"] == np.minimum(sizes, 12).sum()
    draws = np.random.default_rng(0).uniform(-1, 1, (20_000, 1, 3))
    batch = CODEC.decode(draws).allocation(np.full((20_000, 1), 9.0)).batch
    # The ends get half of what the others get.
    share = np.bincount(batch[:, 0].astype(int), minlength=10)[1:] / 20_000
    np.testing.assert_allclose(share, [1 / 16, *[1 / 8] * 7, 1 / 16], atol=0.01)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_devices=st.integers(1, 8), most=st.integers(1, 200))
def test_actions_and_allocations_translate(seed: int, n_devices: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    limit = rng.integers(1, most + 1, (5, n_devices)).astype(float)
    # No slot is below exp(-6) of the largest.
    weights = np.exp(rng.uniform(-3, 3, (2, 5, n_devices)))
    up, down = weights / weights.sum(axis=-1, keepdims=True)
    batch = np.floor(1 + rng.random((5, n_devices)) * limit).clip(1, limit)
    wanted = allocation.Allocation(batch, up, down)
    action = CODEC.encode(AllocationShares.of(wanted, limit))
    assert action.shape == (5, n_devices, 3)
    assert (np.abs(action) <= 1).all()
    found = CODEC.decode(action).allocation(limit)
    assert (found.batch == batch).all()
    np.testing.assert_allclose(found.uplink_slot, up, rtol=2e-6)
    np.testing.assert_allclose(found.downlink_slot, down, rtol=2e-6)
    np.testing.assert_allclose(found.uplink_slot.sum(axis=-1), 1)


def test_slots_too_small_for_actions_are_raised() -> None:
    wanted = allocation.Allocation(np.ones((1, 2)), np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]))
    action = CODEC.encode(AllocationShares.of(wanted, np.ones((1, 2))))
    found = CODEC.decode(action).allocation(np.ones((1, 2)))
    share = math.exp(-6) / (1 + math.exp(-6))
    np.testing.assert_allclose(found.uplink_slot, [[1 - share, share]], rtol=1e-5)
    np.testing.assert_allclose(found.downlink_slot, [[0.5, 0.5]])


def test_the_choices_are_a_geometric_row() -> None:
    limit = np.array([[128.0] * 6, [1, 5, 3, 1, 1, 1]])
    found = global_batches(limit, 16)
    assert found[:, 0].tolist() == [6, 6]
    assert found[:, -1].tolist() == [768, 12]
    assert (found == np.rint(found)).all()
    exact = 6 * 128 ** (np.arange(16) / 15)
    assert np.abs(found[0] - exact).max() <= 0.5
    assert (np.diff(found) >= 0).all()


@pytest.mark.parametrize(
    "fields", [{}, {"device": "gpu", "gpu_threshold": 3, "gpu_base_latency_s": 1e-5}]
)
def test_a_global_batch_is_placed_at_best(fields: dict[str, Any]) -> None:
    """Neither other batches of that sum nor other slots end the round earlier."""
    env = make(**GLOBAL, **fields, **ENDLESS)
    batches = remember_batches(env)
    env.reset(seed=2)
    plain = Plain(env)
    choices = global_batches(np.full(4, 12.0), 7)
    rng = np.random.default_rng(0)
    for step in range(14):
        plain.look()
        *_, info = env.step(step % 7)
        plain.rounds += 1
        total = choices[step % 7]
        batch = [len(rows) for rows in batches[-1]]
        assert sum(batch) == info["batch"] == total
        slots = env.problem.slots[0]
        np.testing.assert_allclose(slots.sum(axis=1), 1, rtol=1e-12)
        took = plain.took(batch, *slots)
        assert info["round_s"] == pytest.approx(took["round_s"], rel=1e-9)
        # With these whole batches everyone finishes at the same time, twice.
        assert min(plain.arrived) == pytest.approx(max(plain.arrived), rel=1e-7)
        assert min(plain.finished) == pytest.approx(max(plain.finished), rel=1e-7)
        # Rounding costs at most one sample of the slowest.
        spare = max(plain.sample_s)
        for _ in range(50):
            other = rng.dirichlet(np.full(4, 50.0)), rng.dirichlet(np.full(4, 50.0))
            drawn = rng.multivariate_hypergeometric([11] * 4, int(total) - 4) + 1
            assert plain.took(drawn.tolist(), *other)["round_s"] >= info["round_s"] - spare


def test_the_default_has_its_best_batches_between_the_bounds() -> None:
    """All of a lane's batches in most draws, the global batchsize in all."""
    env: Any = BatchSlotVectorEnv(24, samples_per_device=200)
    env.reset(seed=0)
    problem, inside = env.problem, []
    for _ in range(10):
        costs = problem.costs(np.arange(24))
        best = allocation.optimal_allocation(costs)
        inside.append(((best.batch > 1) & (best.batch < 128)).all(axis=1))
        assert ((best.global_batch > 100) & (best.global_batch < 700)).all()
        balanced = problem.balanced_batch[inside[-1]]
        np.testing.assert_allclose(balanced, best.global_batch[inside[-1]], rtol=1e-5)
        problem.rounds += 1
        problem.begin_round(np.arange(24))
    assert np.mean(inside) > 0.9


def test_the_balanced_batch_of_gpus_is_the_best_one() -> None:
    fields = {"device": "gpu", "samples_per_device": 200, "gpu_flops": (1.5e9, 2.5e9)}
    env: Any = BatchSlotVectorEnv(20, **fields)
    observation, _ = env.reset(seed=0)
    best = allocation.optimal_allocation(env.problem.costs(np.arange(20)))
    inside = ((best.batch > 16) & (best.batch < 128)).all(axis=1)
    assert inside.mean() > 0.7
    found = column(env, observation, "system", "balanced_batch")
    np.testing.assert_allclose(found[inside], best.global_batch[inside], rtol=1e-5)
