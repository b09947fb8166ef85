"""Task allocation: costs, projections, training and observations against a plain reference."""

from __future__ import annotations

import copy
import itertools
import json
import math
import warnings
from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from references import Vector, column, global_model
from rollouts import assert_same, random_actions
from scipy.stats import kstest
from stable_baselines3.common.env_checker import check_env as check_for_sb3

from edge_gym.envs import task_allocation
from edge_gym.envs.task_allocation import (
    TaskAllocationConfig,
    TaskAllocationEnv,
    TaskAllocationVectorEnv,
    direct_columns,
    joint_columns,
)
from edge_gym.evaluation import own_config
from edge_gym.solvers.task_allocation import TaskCosts, Tasks, exact_allocation
from edge_gym.solvers.task_resources import Resources

SMALL: dict[str, Any] = {
    "n_devices": 4,
    "samples_per_device": 12,
    "hidden_sizes": (8,),
    "validation_size": 60,
    "test_size": 50,
    "batch_size": 5,
    "cycles": 6,
    "least_samples": 2,
    "cycle_s": 1.5,
    "energy_limit_j": 3.0,
    "energy_spread_j": 1.0,
}
STALENESS, JOINT, FADING = {"actions": "staleness"}, {"actions": "joint"}, {"fading": "cycle"}
FEDERATED = {"learning": "federated"}
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
LANE = np.zeros(1, np.int64)


def make(**fields: Any) -> Any:
    return TaskAllocationEnv(**{**SMALL, **fields})


def many(n_lanes: int, **fields: Any) -> Any:
    """Return the problem of many lanes after a reset."""
    env: Any = TaskAllocationVectorEnv(n_lanes, **{**SMALL, **fields})
    env.reset(seed=0)
    return env.problem


def everyone(updates: float, *, n: int = 4, most: int = 12) -> NDArray[np.float32]:
    """Return the action that gives all learners as many samples and so many updates."""
    return np.stack([np.zeros(n), np.full(n, 2 * updates / most - 1)], axis=1).astype(np.float32)


def remember_rows(env: Any) -> list[list[NDArray[np.int64]]]:
    """Return a list that gets every cycle's rows, an array for each learner."""
    kept: list[list[NDArray[np.int64]]] = []
    draw = env.problem._draw_tasks

    def drawing(*arguments: Any) -> Any:
        kept.append(draw(*arguments))
        return kept[-1]

    env.problem._draw_tasks = drawing
    return kept


def forget_learning(problem: Any) -> None:
    """Make cycles that train nothing, for what does not depend on the model."""
    problem._learn = lambda *arguments: None


# ---------------------------------------------------------------------------- the plain reference


class Plain:
    """One episode, one learner after the other, in plain floats and by autograd.

    It takes what was drawn (places, energies, fading, drop-outs, samples), the generator and the
    global model at the beginning of a cycle from the environment, and works out the rest.
    """

    def __init__(self, env: Any) -> None:
        self.env, self.problem, self.config = env, env.problem, env.config
        self.k, self.r = env.config.n_devices, env.config.redundancy
        sizes = self.problem._sizes[0]
        self.rows = [self.problem._rows[0, k, : sizes[k]] for k in range(self.k)]
        pool = sum(len(self.rows[k]) for k in range(0, self.k, self.r))
        self.total = max(1, round(env.config.task_share * pool))
        config, d = self.config, self.problem.features.train.shape[1]
        self.sizes = [d, *config.hidden_sizes, 10]
        products = [a * b for a, b in itertools.pairwise(self.sizes)]
        self.model_bits = config.model_bits or 32 * (sum(products) + sum(self.sizes[1:]))
        self.sample_bits = config.sample_bits or 8 * d
        self.cycles = config.cycles_per_sample or config.cycles_per_flop * 6 * sum(products)
        self.watt = 10 ** (config.transmit_power_dbm / 10) / 1e3
        self.cycle, self.slope = 0, 0.0
        self.joules, self.arrivals = np.zeros(self.k), np.zeros(self.k)
        self.told: list[tuple[float, float]] = []

    # -- costs

    def look(self) -> None:
        """See what was drawn for a cycle."""
        problem, config = self.problem, self.config
        self.snr = problem._mean_snr[0].copy()
        if config.fading == "cycle":
            self.snr *= problem._gain[0, self.cycle]
        self.hz = problem._cpu_hz[0]
        if config.cpu_groups_hz is not None:
            groups = config.cpu_groups_hz
            self.hz = np.array([groups[k * len(groups) // self.k] for k in range(self.k)])
        self.limit_j = problem._limit_j[0]
        self.own = [len(rows) for rows in self.rows]
        if config.learning == "parallelized":
            self.own = [self.total] * self.k

    def took(
        self,
        k: int,
        samples: int,
        updates: int,
        shares: tuple[float, ...] | None = None,
        slower: float = 1.0,
    ) -> tuple[float, float]:
        """Return seconds and joules of learner k: ASYNC-MEL (5) to (11)."""
        config, snr = self.config, self.snr[k]
        band, power, cpu = shares or (1 / self.k, 1.0, 1.0)
        w = band * self.k * config.bandwidth_hz
        model = self.model_bits + samples * config.model_bits_per_sample
        data = samples * self.sample_bits if config.learning == "parallelized" else 0
        # Received with a constant power density, sent with the same power in any band.
        download_s = (model + data) / (w * math.log2(1 + snr))
        upload_s = model / (w * math.log2(1 + snr * power / (band * self.k)))
        f = cpu * self.hz[k]
        compute_s = updates * samples * self.cycles / f
        compute_j = updates * config.capacitance * samples * self.cycles * f**2
        return download_s + slower * compute_s + upload_s, compute_j + power * self.watt * upload_s

    def possible(self, k: int, samples: int, *rest: Any) -> int:
        """Return the most updates within time and energy."""
        updates = 0
        if 0 < samples <= self.own[k]:
            while updates < self.config.most_updates:
                seconds, joules = self.took(k, samples, updates + 1, *rest)
                if seconds > self.config.cycle_s or joules > self.limit_j[k]:
                    break
                updates += 1
        return updates

    def coefficients(self) -> dict[str, list[float]]:
        """Return C² to C⁰ and G² to G⁰ from differences."""
        names = ("base_s", "sample_s", "update_s", "base_j", "sample_j", "update_j")
        found: dict[str, list[float]] = {name: [] for name in names}
        for k in range(self.k):
            none, sent, trained = (self.took(k, *task) for task in ((0, 0), (1, 0), (1, 1)))
            for i, unit in enumerate("sj"):
                found[f"base_{unit}"].append(none[i])
                found[f"sample_{unit}"].append(sent[i] - none[i])
                found[f"update_{unit}"].append(trained[i] - sent[i])
        return found

    def capacity(self, k: int, updates: float) -> float:
        """Return D_k(τ)."""
        c = {name: values[k] for name, values in self.coefficients().items()}
        room = float(self.own[k])
        for unit, limit in (("s", self.config.cycle_s), ("j", self.limit_j[k])):
            left = limit - c[f"base_{unit}"]
            room = min(room, left / (c[f"update_{unit}"] * updates + c[f"sample_{unit}"]))
        return max(room, 0.0)

    def common_updates(self) -> float:
        """Return the largest τ that those who can take part can all make, by bisection."""
        least = self.config.least_samples
        able = [k for k in range(self.k) if self.capacity(k, 1.0) >= least]
        low, high = 0.0, float(self.config.most_updates)
        for _ in range(60):
            middle = (low + high) / 2
            rooms = [self.capacity(k, middle) for k in able]
            enough = rooms and min(rooms) >= least and sum(rooms) >= self.total
            low, high = (middle, high) if enough else (low, middle)
        return low

    def exact(self, cap: int) -> Tasks:
        """Return the exact allocation."""
        config = self.config
        costs = TaskCosts(
            **{name: np.array(values) for name, values in self.coefficients().items()},
            limit_j=self.limit_j,
            max_samples=np.array(self.own, float),
            cycle_s=np.asarray(config.cycle_s),
        )
        return exact_allocation(costs, self.total, cap, config.least_samples, config.most_updates)

    # -- what is done

    def decided(self, action: Any) -> tuple[list[int], list[int], list[Any]]:
        """Return samples, updates and shares of band, power and speed that an action means."""
        if self.config.actions == "staleness":
            samples, updates = self.exact(self.config.caps[action])
            return samples.tolist(), updates.tolist(), [None] * self.k
        samples = largest_remainders(action[:, 0], self.total)
        updates = [round((float(a) + 1) / 2 * self.config.most_updates) for a in action[:, 1]]
        if self.config.actions == "direct":
            return samples, updates, [None] * self.k
        weights = [math.exp(3 * float(a)) for a in action[:, 2]]
        shares = [
            (
                weights[k] / sum(weights),
                10 ** (3 * ((float(action[k, 3]) + 1) / 2 - 1)),
                0.05 + 0.95 * (float(action[k, 4]) + 1) / 2,
            )
            for k in range(self.k)
        ]
        return samples, updates, shares

    def loss(self, w: torch.Tensor, rows: Any) -> torch.Tensor:
        """Return the mean cross-entropy of the network with the weights ``w``."""
        features = self.problem.features
        h = torch.tensor(features.train[rows], dtype=torch.float64) * math.sqrt(self.sizes[0])
        for i, (a, b) in enumerate(itertools.pairwise(self.sizes)):
            weights, biases, w = w[: a * b].view(a, b), w[a * b : a * b + b], w[a * b + b :]
            h = (h if i == 0 else h.relu()) @ weights + biases
        return torch.nn.functional.cross_entropy(h, torch.tensor(features.train_labels[rows]))

    def trained(self, rows: Any, epochs: int, rng: np.random.Generator) -> Vector:
        """Return what epochs of mini-batch SGD add to the global model."""
        begin = torch.from_numpy(global_model(self.env))
        w, size = begin, self.config.batch_size
        for _ in range(epochs):
            order = rows[np.argsort(rng.random(len(rows)))]
            for start in range(0, len(order), size):
                w = w.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(self.loss(w, order[start : start + size]), w)
                w = w - self.config.learning_rate * gradient
        change: Vector = (w - begin).detach().numpy()
        return change

    def drawn(self, given: list[int], held: list[int], rng: np.random.Generator) -> list[Any]:
        """Return the rows of every learner for a cycle."""
        firsts = range(0, self.k, self.r)
        if self.config.learning == "federated":
            parts = [rng.permutation(self.rows[k])[: held[k]] for k in firsts]
        else:
            every = rng.permutation(np.concatenate([self.rows[k] for k in firsts]))
            sums = [sum(given[k : k + self.r]) for k in firsts]
            ends = list(itertools.accumulate(sums))
            parts = [every[end - n : end] for end, n in zip(ends, sums, strict=True)]
        return [part for part in parts for _ in range(self.r)]

    def step(self, action: Any) -> tuple[Vector, dict[str, float]]:
        """Return the model after a cycle and what is told of it."""
        config, ks = self.config, range(self.k)
        rng = copy.deepcopy(self.problem.generators[0])
        given, wanted, shares = self.decided(action)
        held = [sum(given[k // self.r * self.r :][: self.r]) for k in ks]
        held = [min(held[k], self.own[k]) for k in ks]
        planned = [min(wanted[k], self.possible(k, held[k], shares[k])) for k in ks]
        lost, busy = rng.random((2, self.k))
        slower = [config.slowdown if b < config.slowdown_probability else 1.0 for b in busy]
        done = [min(planned[k], self.possible(k, held[k], shares[k], slower[k])) for k in ks]
        arrived = [k for k in ks if done[k] > 0 and lost[k] >= self.problem._absence[0, k]]
        rows = self.drawn(given, held, rng)
        assert [len(part) for part in rows] == held
        w = global_model(self.env)
        changes = {k: self.trained(rows[k], done[k], rng) for k in arrived}
        groups = [[k for k in arrived if k // self.r == g] for g in range(self.k // self.r)]
        groups = [group for group in groups if group]
        weight = sum(held[group[0]] for group in groups)
        for group in groups:
            mean = np.mean([changes[k] for k in group], axis=0)
            w = w + held[group[0]] / weight * mean
        costs = [self.took(k, held[k], done[k], shares[k], slower[k]) for k in ks]
        # With actions="joint" learners that finish no update in time cost nothing.
        assert config.actions != "joint" or all(done[k] > 0 for k in ks if planned[k] > 0)
        self.finish_s = [costs[k][0] if planned[k] > 0 else 0 for k in ks]
        spent = np.array([costs[k][1] if planned[k] > 0 else 0 for k in ks])
        self.joules += spent
        self.arrivals += [k in arrived for k in ks]
        self.samples, self.updates, self.shares = held, done, shares
        self.cycle += 1
        counted = [done[k] for k in arrived]
        learned = sum(held[k] for k in arrived)
        told = {
            "cycles": self.cycle,
            "seconds": self.cycle * config.cycle_s,
            "joules": self.joules.sum(),
            "cycle_j": spent.sum(),
            "finish_s": max(self.finish_s),
            "mean_updates": sum(counted) / self.k,
            "weighted_updates": sum(done[k] * held[k] for k in arrived) / max(learned, 1),
            "staleness": max(counted) - min(counted) if counted else 0,
            "lowered": sum(planned[k] < wanted[k] for k in ks),
            "left_out": sum(planned[k] == 0 for k in ks),
            "arrived": len(arrived),
            "samples": learned,
        }
        self.told.append((told["mean_updates"], told["staleness"]))
        return w, told


def largest_remainders(logits: Any, total: int) -> list[int]:
    """Share whole samples out in proportion to exp(3ℓ)."""
    weights = [math.exp(3 * float(a)) if a > -1 else 0.0 for a in logits]
    if not sum(weights):
        weights = [1.0] * len(weights)
    quotas = [total * Fraction(weight) / sum(map(Fraction, weights)) for weight in weights]
    samples = [math.floor(quota) for quota in quotas]
    ranking = sorted(range(len(quotas)), key=lambda k: samples[k] - quotas[k])
    for k in ranking[: total - sum(samples)]:
        samples[k] += 1
    return samples


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
        "stronger_share": [sum(d for d in ones if d > ones[k]) / plain.total for k in ks],
        "drop_out": plain.problem._absence[0],
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
    updates = plain.updates if begun else [0]
    system = {
        "cycles_left": config.cycles - plain.cycle,
        "learners": plain.k,
        "samples": plain.total,
        "common_updates": common,
        "mean_updates": np.mean(updates),
        "staleness": max(updates) - min(updates),
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


RISK = {"drop_out": 0.4, "slowdown_probability": 0.5}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {**FADING, **RISK, "reward": "loss"},
        {**FEDERATED, "size_spread": 0.6, "task_share": 0.7, "partition": "shards"},
        {"model_bits_per_sample": 2e4, "batch_size": 100, "hidden_sizes": (8, 6)},
        {**RISK, "redundancy": 2},
        {**FEDERATED, "redundancy": 4, "size_spread": 0.5, "drop_out": 0.5},
        {**OWN_COSTS, "task_share": 0.5},
        {"energy_limit_j": 0.7, "energy_spread_j": 0.7},
        {"n_devices": 7, "most_updates": 3, "transmit_power_dbm": 17.0, "cycle_s": 1.2},
        {**STALENESS, **FADING},
        {**JOINT, "cycle_s": 3.0},
        {**JOINT, **FADING, **FEDERATED, "slowdown_probability": 0.5, "slowdown": 1.2},
    ],
)
def test_an_episode_equals_the_plain_reference(fields: dict[str, Any]) -> None:
    env = make(**fields)
    observation, info = env.reset(seed=3)
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
        for name, value in told.items():
            assert info[name] == pytest.approx(value, rel=1e-9), name
        lowered, left_out = lowered + info["lowered"], left_out + info["left_out"]
        decrease, gain = loss - info["validation_loss"], info["validation_accuracy"] - accuracy
        assert reward == (decrease if env.config.reward == "loss" else gain)
        assert (terminated, truncated) == (plain.cycle == 6, False)
        plain.slope = 0.7 * plain.slope + 0.3 * decrease
        plain.look()
        compare_seen(plain, observation, info)
    assert learned >= 2
    assert (lowered > 0) == (env.config.actions != "staleness")
    assert left_out > 0 or env.config.actions == "staleness"
    exact = plain.loss(torch.from_numpy(global_model(env)), env.problem._validation[0])
    assert info["validation_loss"] == pytest.approx(exact.item(), rel=1e-5)
    updates, staleness = np.mean(plain.told, axis=0)
    assert info["mean_updates"] == pytest.approx(updates)
    assert info["mean_staleness"] == pytest.approx(staleness)


def test_the_costs_of_the_document() -> None:
    """Equations (7) to (11) with the constants of Table 1, at the SNRs that were drawn."""
    config = own_config("TaskAllocation-Document-v0")
    network = (784, 300, 124, 60, 10)
    weights = sum(a * b for a, b in itertools.pairwise(network))
    assert config.hidden_sizes == network[1:-1]
    assert weights == 280_440
    env = TaskAllocationEnv(
        config=replace(config, dataset="mnist-subset", validation_size=10, test_size=10)
    )
    observation, _ = env.reset(seed=0)
    rate = 5e6 * np.log2(1 + env.problem._mean_snr[0])
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


def test_the_default_has_as_many_updates_as_the_document() -> None:
    """Mean τ over placements at T = E = 10 is 2, 2.91, 3.5 and 4.05 for c = 0 to 3 there."""
    env: Any = TaskAllocationVectorEnv(60, **STALENESS, validation_size=10, test_size=10)
    observation, _ = env.reset(seed=0)
    found = [column(env, observation, "system", f"updates_{cap}").mean() for cap in range(4)]
    np.testing.assert_allclose(found, [2, 2.91, 3.5, 4.05], atol=0.2)


# --------------------------------------------------------------------------------- the projection


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
    for action in itertools.islice(random_actions(env.action_space, 1), 6):
        *_, info = env.step(action)
        used = np.stack([problem._finish_s / 1.5, problem._spent_j / problem._limit_j])
        assert (used <= 1 + 1e-9).all()
        highest = np.maximum(highest, used.max(axis=(1, 2)))
        assert (info["finish_s"] == problem._finish_s.max(axis=1)).all()
        np.testing.assert_allclose(info["cycle_j"], problem._spent_j.sum(axis=1))
    assert (highest > 0.95).all()


def test_one_more_update_is_too_many() -> None:
    problem = many(40, **FADING, energy_limit_j=2.0)
    rng, lanes = np.random.default_rng(0), np.arange(40)
    held = rng.integers(0, 30, (40, 4))
    for slower in (1.0, 2.5):
        updates = problem._possible(lanes, held, None, slower)
        for more, fits in ((0, True), (1, False)):
            seconds, joules = problem._needs(
                lanes, held, updates + more, None, np.full((40, 4), slower)
            )
            within = (seconds <= 1.5) & (joules <= problem._limit_j)
            concerned = (held > 0) & (updates + more > 0)
            assert (within == fits)[concerned].all()
        assert len(np.unique(updates)) > 5


@settings(max_examples=200, deadline=None)
@given(
    logits=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=12),
    none=st.lists(st.booleans(), min_size=12, max_size=12),
    total=st.integers(1, 100_000),
)
def test_samples_are_shared_out_in_proportion(
    logits: list[float], none: list[bool], total: int
) -> None:
    for k in range(len(logits)):
        logits[k] = -1.0 if none[k] else logits[k]
    array = np.array([logits], np.float32)
    found = task_allocation._apportion(array, np.array([total]))[0]
    wanted = largest_remainders(array[0], total)
    assert found.sum() == total
    # Rounding may decide between equal remainders.
    assert np.abs(found - wanted).max() <= 1
    weights = np.where(array[0] > -1, np.exp(3 * array[0].astype(float)), 0)
    weights = weights if weights.any() else np.ones_like(weights)
    assert (np.abs(found - total * weights / weights.sum()) < 1 + 1e-6).all()
    assert (found[weights == 0] == 0).all()


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
        own = env.problem._rows[0, k * env.config.redundancy, : env.problem._sizes[0, 0]]
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
        problem._draw_tasks(0, samples, samples)
    every = np.sort(np.concatenate(problem._rows[0]))
    for k in range(4):
        counts = np.bincount(
            np.searchsorted(every, np.concatenate([part[k] for part in rows])), minlength=48
        )
        # Five standard deviations.
        share = samples[k] / 48
        assert np.abs(counts / 300 - share).max() < 5 * math.sqrt(share * (1 - share) / 300)


def test_those_without_updates_are_left_out_of_the_average() -> None:
    env = make(batch_size=100, cycle_s=100.0, energy_limit_j=1e3)
    rows = remember_rows(env)
    env.reset(seed=0)
    action = everyone(2)
    action[1:3, 1] = -1
    plain = Plain(env)
    wanted = sum(
        12 / 24 * plain.trained(plain_rows, 2, np.random.default_rng(0))
        for plain_rows in copy.deepcopy(env.problem)._draw_tasks_after_luck()
    ) if hasattr(env.problem, "_draw_tasks_after_luck") else None
    assert wanted is None
    w = global_model(env)
    *_, info = env.step(action)
    kept = Plain(env)
    assert (info["left_out"], info["arrived"], info["samples"]) == (2, 2, 24)
    assert rows and kept is not None and w is not None


