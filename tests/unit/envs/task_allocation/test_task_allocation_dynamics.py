"""Cycles of task allocation against a plain reference: training, losses, copies, rewards."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from plain_task_allocation import (
    FADING,
    FEDERATED,
    JOINT,
    PLENTY,
    RISK,
    STALENESS,
    Plain,
    everyone,
    gains_of,
    make,
    many,
)
from references import column, global_model
from rollouts import random_actions
from scipy.stats import kstest

from edge_gym.envs.task_allocation.env import TaskAllocationEnv, TaskAllocationVectorEnv
from edge_gym.evaluation.rollouts import own_config

pytestmark = pytest.mark.usefixtures("one_torch_thread")

# The costs are those of the network that is trained.
OWN_COSTS = {
    "model_bits": None,
    "sample_bits": None,
    "cycles_per_sample": None,
    "cpu_groups_hz": None,
    "cycle_s": 2e-3,
    "energy_limit_j": 3e-4,
    "energy_spread_j": 1e-4,
}


def compare_seen(plain: Plain, observation: dict[str, Any], info: Any) -> None:
    """Compare all that is observed."""
    env, config, ks = plain.env, plain.config, range(plain.k)
    begun, fair, common = plain.cycle > 0, plain.total / plain.k, plain.common_updates()
    ones = [plain.capacity(k, 1.0) for k in ks]
    c = plain.coefficients()
    devices: dict[str, Any] = {
        **c,
        "cpu_ghz": plain.hz / 1e9,
        "rate": config.bandwidth_hz * np.log2(1 + plain.snr) / 1e6,
        "limit_j": plain.limit_j,
        "own_samples": plain.own,
        "stronger_share": [
            sum(d for i, d in enumerate(ones) if (-d, i) < (-ones[k], k)) / plain.total for k in ks
        ],
        "drop_out": plain.problem.drop_out[0],
        "training_loss": plain.training_loss,
        "arrivals": plain.arrivals / plain.cycle if begun else np.ones(plain.k),
        "equal_updates": [
            max(
                min(
                    (limit - c[f"base_{u}"][k] - c[f"sample_{u}"][k] * fair)
                    / (c[f"update_{u}"][k] * fair)
                    for u, limit in (("s", config.cycle_s), ("j", plain.limit_j[k]))
                ),
                0,
            )
            for k in ks
        ],
    }
    for name, updates in (("", common), ("_1", 1.0), ("_2", 2.0), ("_3", 3.0)):
        rooms = [plain.capacity(k, max(updates, 1e-6)) / fair for k in ks]
        devices[f"log_room{name}"] = [math.log(max(room, math.exp(-40))) for room in rooms]
    for i, name in enumerate(("band_share", "power_share", "cpu_share")):
        if config.actions == "joint":
            devices[name] = [plain.shares[k][i] if begun else 0 for k in ks]
    for name in ("samples", "updates", "finish_s"):
        devices[name] = getattr(plain, name) if begun else np.zeros(plain.k)
    updates, staleness = plain.told[-1] if begun else (0, 0)
    system = {
        "cycles_left": config.cycles - plain.cycle,
        "learners": plain.k,
        "samples": plain.total,
        "common_updates": common,
        "mean_updates": updates,
        "staleness": staleness,
        "accuracy": info["validation_accuracy"],
        "loss": info["validation_loss"],
        "loss_slope": plain.slope,
    }
    if config.actions == "staleness":
        for cap in config.caps:
            tasks = plain.exact(cap)
            system[f"updates_{cap}"] = tasks.updates.mean()
            system[f"work_{cap}"] = np.average(tasks.updates, weights=tasks.samples)
    for part, columns in (("devices", devices), ("system", system)):
        assert set(columns) == {named.name for named in env.tables[part]}
        for name, wanted in columns.items():
            found = column(env, observation, part, name)
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {**FADING, **RISK, "reward": "loss"},
        {**FEDERATED, "size_spread": 0.6, "task_share": 0.7, "partition": "shards"},
        {"model_bits_per_sample": 2e4, "batch_size": 100, "hidden_sizes": (8, 6)},
        {**RISK, "redundancy": 2},
        {**FEDERATED, "redundancy": 4, "size_spread": 0.5, "drop_out": 0.5},
        {**FEDERATED, "corrupt_devices": 2},
        {**OWN_COSTS, "task_share": 0.5},
        {"energy_limit_j": 0.7, "energy_spread_j": 0.7},
        {"n_devices": 7, "most_updates": 3, "transmit_power_dbm": 17.0, "cycle_s": 1.2},
        {**STALENESS, **FADING},
        {**JOINT, "cycle_s": 3.0},
        {**JOINT, **FADING, **FEDERATED, "slowdown_probability": 0.5, "slowdown": 1.2},
        {"slowdown_probability": 0.6, "slowdown": 30.0},
        {**JOINT, "cycle_s": 5.0, "slowdown_probability": 0.8, "slowdown": 99.0},
    ],
)
def test_an_episode_equals_the_plain_reference(fields: dict[str, Any]) -> None:
    env = make(**fields)
    observation, info = env.reset(seed=4)
    plain = Plain(env)
    plain.look()
    compare_seen(plain, observation, info)
    learned, lowered, left_out = 0, 0.0, 0.0
    for action in itertools.islice(random_actions(env.action_space, 5), 6):
        w, loss, accuracy = global_model(env), info["validation_loss"], info["validation_accuracy"]
        model, told = plain.step(action)
        observation, reward, terminated, truncated, info = env.step(action)
        np.testing.assert_allclose(global_model(env), model, atol=1e-5)
        learned += np.abs(model - w).max() > 1e-3
        if plain.cycle == 6:
            told["mean_updates"] = np.mean([updates for updates, _ in plain.told])
        for name, value in told.items():
            assert info[name] == pytest.approx(value, rel=1e-9), name
        lowered, left_out = lowered + info["lowered"], left_out + info["left_out"]
        decrease, gain = loss - info["validation_loss"], info["validation_accuracy"] - accuracy
        assert reward == (decrease if env.config.reward == "loss" else gain)
        assert (terminated, truncated) == (plain.cycle == 6, False)
        plain.slope = 0.7 * plain.slope + 0.3 * decrease
        plain.look()
        compare_seen(plain, observation, info)
    assert learned >= (2 if env.config.slowdown < 30 else 1)
    assert plain.unfinished > 0 or env.config.slowdown < 30
    assert (lowered > 0) == (env.config.actions != "staleness")
    assert left_out > 0 or env.config.actions == "staleness"
    exact = plain.loss(torch.from_numpy(global_model(env)), env.problem.validation[0])
    assert info["validation_loss"] == pytest.approx(exact.item(), rel=1e-5)
    assert info["mean_staleness"] == pytest.approx(np.mean([s for _, s in plain.told]))


def test_the_costs_of_the_paper() -> None:
    """Equations (7) to (11) with the constants of Table 1, at the SNRs that were drawn."""
    # Nobody is nearer than 10 m.
    near = make(cell_radius_m=10.0)
    snr_db = 23 - (128 + 37.1 * math.log10(0.01)) - (-174 + 10 * math.log10(5e6))
    rates = column(near, near.reset(seed=0)[0], "devices", "rate")
    np.testing.assert_allclose(rates, 5 * math.log2(1 + 10 ** (snr_db / 10)), rtol=1e-6)
    config = own_config("TaskAllocation-Paper-v0")
    network = (784, 300, 124, 60, 10)
    weights = sum(a * b for a, b in itertools.pairwise(network))
    assert config.hidden_sizes == network[1:-1]
    assert weights == 280_440
    env = TaskAllocationEnv(
        config=replace(config, dataset="mnist-subset", validation_size=10, test_size=10)
    )
    observation, _ = env.reset(seed=0)
    rate = 5e6 * np.log2(1 + env.problem.mean_snr[0])
    f = np.repeat([6.0e9, 2.4e9, 1.4e9, 0.7e9], 5)
    watt, flops = 10**2.3 / 1e3, 4 * (weights + sum(network[1:]))
    wanted = {
        "base_s": 2 * 32 * weights / rate,
        "sample_s": 784 * 8 / rate,
        "update_s": flops / f,
        "base_j": watt * 32 * weights / rate,
        "sample_j": np.zeros(20),
        "update_j": 1e-28 * flops * f**2,
    }
    for name, values in wanted.items():
        np.testing.assert_allclose(column(env, observation, "devices", name), values, rtol=1e-6)
    limits = column(env, observation, "devices", "limit_j")
    assert (np.abs(limits - 10) <= 2.5).all()
    assert (config.cycle_s, config.cycles, config.task_share) == (10, 12, 1)


def test_the_default_has_as_many_updates_as_the_paper() -> None:
    """Mean τ over placements at T = E = 10 is 2, 2.91, 3.5 and 4.05 for c = 0 to 3 there."""
    env: Any = TaskAllocationVectorEnv(60, **STALENESS, validation_size=10, test_size=10)
    observation, _ = env.reset(seed=0)
    found = [column(env, observation, "system", f"updates_{cap}").mean() for cap in range(4)]
    np.testing.assert_allclose(found, [2, 2.91, 3.5, 4.05], atol=0.2)


@pytest.mark.parametrize(
    "fields", [{}, {**FADING, "slowdown_probability": 0.5}, {**JOINT, "cycle_s": 5.0}]
)
def test_a_cycle_without_an_answer_costs_its_time_and_energy(fields: dict[str, Any]) -> None:
    """The same learners are lost, or not: that changes the model, and what is known, alone."""
    lost, heard = make(**fields), make(**fields)
    for env in (lost, heard):
        env.reset(seed=1)
    lost.problem.drop_out[:] = 1
    before = global_model(lost)
    actions = list(itertools.islice(random_actions(heard.action_space, 2), 6))
    energies = []
    for cycle, action in enumerate(actions, 1):
        observation, reward, *_, info = lost.step(action)
        info_heard = heard.step(action)[4]
        np.testing.assert_array_equal(global_model(lost), before)
        assert reward == 0
        assert (info["arrived"], info["samples"], info["updates"], info["staleness"]) == (0,) * 4
        assert info["seconds"] == info_heard["seconds"] == cycle * lost.config.cycle_s
        for name in ("staleness", "mean_updates"):
            assert column(lost, observation, "system", name) == 0
        energies.append((info["cycle_j"], info_heard["cycle_j"]))
    assert all(joules == joules_heard for joules, joules_heard in energies)
    assert energies[0][0] > 0
    assert sum(joules > 0 for joules, _ in energies) >= 4
    assert (global_model(heard) != before).any()


def test_the_observed_staleness_is_that_of_the_info() -> None:
    env = make(drop_out=0.4, slowdown_probability=0.5, slowdown=4.0)
    env.reset(seed=0)
    idle = 0
    for action in itertools.islice(random_actions(env.action_space, 3), 6):
        observation, *_, info = env.step(action)
        for seen, told in (("staleness", "staleness"), ("mean_updates", "updates")):
            assert column(env, observation, "system", seen) == pytest.approx(info[told])
        idle += (env.problem.updates[0] == 0).any()
    assert idle > 2


@pytest.mark.parametrize("reward", ["accuracy", "loss"])
@pytest.mark.parametrize("fields", [{}, {**STALENESS, **RISK}, {**JOINT, "cycle_s": 3.0}])
def test_rewards_telescope(fields: dict[str, Any], reward: str) -> None:
    env = make(reward=reward, **fields)
    _, first = env.reset(seed=2)
    rewards, told, over = [], [], False
    actions = random_actions(env.action_space, 2)
    while not over:
        _, gain, over, truncated, info = env.step(next(actions))
        assert not truncated
        assert gain == info["accuracy_gain" if reward == "accuracy" else "loss_decrease"]
        rewards.append(gain)
        told.append(info["updates"])
        if not over:
            assert "test_accuracy" not in info
    assert len(rewards) == 6
    change = info[f"validation_{reward}"] - first[f"validation_{reward}"]
    assert sum(rewards) == pytest.approx(change if reward == "accuracy" else -change, abs=1e-12)
    assert info["total_gain"] == pytest.approx(
        info["validation_accuracy"] - first["validation_accuracy"], abs=1e-12
    )
    assert info["total_loss_decrease"] == pytest.approx(
        first["validation_loss"] - info["validation_loss"]
    )
    assert np.count_nonzero(rewards) >= 3


def test_the_time_to_targets() -> None:
    targets = (0.0, 0.2, 0.35, 0.5, 1.0)
    env = make(targets=targets, **PLENTY, cycles=12)
    _, first = env.reset(seed=0)
    accuracies = [first["validation_accuracy"]]
    for step in range(12):
        *_, terminated, _, info = env.step(everyone(4))
        accuracies.append(info["validation_accuracy"])
        assert terminated == (step == 11)
    assert first["validation_accuracy"] < 0.2 < 0.5 < max(accuracies) < 1
    for target in targets:
        name = f"{100 * target:g}"
        passed = [i for i, accuracy in enumerate(accuracies) if accuracy >= target]
        assert info[f"reached_{name}"] == bool(passed)
        assert info[f"cycles_to_{name}"] == (passed[0] if passed else 12)
        assert info[f"seconds_to_{name}"] == 100 * info[f"cycles_to_{name}"]
    assert info["cycles_to_0"] == info["reached_100"] == 0
    assert info["cycles_to_20"] < info["cycles_to_50"] < 12


def test_a_model_that_diverges_is_told_in_finite_numbers() -> None:
    env = make(learning_rate=1e3, reward="loss", **PLENTY)
    _, first = env.reset(seed=0)
    rewards = []
    for _ in range(4):
        observation, reward, *_, info = env.step(everyone(2))
        assert env.observation_space.contains(observation)
        assert all(math.isfinite(value) for value in info.values())
        rewards.append(reward)
    assert not torch.isfinite(env.problem.learner.weights).all()
    assert first["validation_loss"] - sum(rewards) == pytest.approx(100)


def test_places_energies_speeds_and_luck_are_drawn_as_documented() -> None:
    fields = {"cell_radius_m": 200.0, "n_devices": 10, "samples_per_device": 2, **FADING}
    problem = many(60, **fields, cycles=4, drop_out=0.2, energy_limit_j=8.0, energy_spread_j=3.0)
    loss_db = 23 - 10 * np.log10(problem.mean_snr.ravel()) - (-174 + 10 * math.log10(5e6))
    distance_km = 10 ** ((loss_db - 128) / 37.1)
    inside = distance_km[distance_km > 1.001e-2]
    assert inside.size > 0.99 * distance_km.size
    assert kstest((inside**2 - 1e-4) / (0.04 - 1e-4), "uniform").pvalue > 0.01
    assert kstest((problem.limit_j.ravel() - 5) / 6, "uniform").pvalue > 0.01
    assert kstest(problem.drop_out.ravel() / 0.4, "uniform").pvalue > 0.01
    assert kstest(gains_of(problem).ravel(), "expon").pvalue > 0.01
    # Ten learners make groups of three, two, three and two.
    groups = [6e9] * 3 + [2.4e9] * 2 + [1.4e9] * 3 + [0.7e9] * 2
    np.testing.assert_array_equal(problem.cpu_hz, np.broadcast_to(groups, (60, 10)))
    free = many(60, **fields, cpu_groups_hz=None, cpu_hz=(1e9, 3e9), drop_out=0.8)
    assert kstest((free.cpu_hz.ravel() - 1e9) / 2e9, "uniform").pvalue > 0.01
    # Two times 0.8 is more than always.
    assert np.mean(free.drop_out == 1) == pytest.approx(1 - 1 / 1.6, abs=0.1)
    assert free.drop_out.max() == 1
