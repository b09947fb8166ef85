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

from edge_gym.baselines import make_baseline
from edge_gym.envs.task_allocation.actions import JointCodec, JointShares, TaskCodec
from edge_gym.envs.task_allocation.config import TaskAllocationConfig
from edge_gym.envs.task_allocation.env import TaskAllocationEnv, TaskAllocationVectorEnv
from edge_gym.evaluation.rollouts import own_config
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


pytestmark = pytest.mark.usefixtures("one_torch_thread")


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
    draw = env.problem.draw_tasks

    def drawing(*arguments: Any) -> Any:
        kept.append(draw(*arguments))
        return kept[-1]

    env.problem.draw_tasks = drawing
    return kept


def forget_learning(problem: Any) -> None:
    """Make cycles that train nothing, for what does not depend on the model."""
    problem.train = lambda *arguments: None


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
        self.unfinished = 0
        self.told: list[tuple[float, float]] = []

    # -- costs

    def look(self) -> None:
        """See what was drawn for a cycle."""
        problem, config = self.problem, self.config
        self.snr = problem._mean_snr[0].copy()
        if config.fading == "cycle":
            self.snr *= problem.gain[0, self.cycle]
        self.hz = problem._cpu_hz[0]
        if config.cpu_groups_hz is not None:
            groups = config.cpu_groups_hz
            self.hz = np.array([groups[k * len(groups) // self.k] for k in range(self.k)])
        self.limit_j = problem.limit_j[0]
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

    def trained(self, model: Vector, rows: Any, epochs: int, rng: np.random.Generator) -> Vector:
        """Return what epochs of mini-batch SGD add to a model."""
        begin = w = torch.from_numpy(model)
        size = self.config.batch_size
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
        arrived = [k for k in ks if done[k] > 0 and lost[k] >= self.problem.drop_out[0, k]]
        rows = self.drawn(given, held, rng)
        assert [len(part) for part in rows] == held
        w = global_model(self.env)
        changes = {k: self.trained(w, rows[k], done[k], rng) for k in arrived}
        groups = [[k for k in arrived if k // self.r == g] for g in range(self.k // self.r)]
        groups = [group for group in groups if group]
        weight = sum(held[group[0]] for group in groups)
        for group in groups:
            mean = np.mean([changes[k] for k in group], axis=0)
            w = w + held[group[0]] / weight * mean
        costs = [self.took(k, held[k], done[k], shares[k], slower[k]) for k in ks]
        for k in ks:
            if planned[k] > 0 and done[k] == 0:
                # It computes until it is too late to send, and sends nothing.
                ways_s, ways_j = self.took(k, held[k], 0, shares[k], slower[k])
                one_s, one_j = self.took(k, held[k], 1, shares[k], slower[k])
                part = (config.cycle_s - ways_s) / (one_s - ways_s)
                assert part < 1
                costs[k] = config.cycle_s, max(part, 0) * (one_j - ways_j)
                self.unfinished += 1
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
            "updates": sum(counted) / self.k,
            "weighted_updates": sum(done[k] * held[k] for k in arrived) / max(learned, 1),
            "staleness": max(counted) - min(counted) if counted else 0,
            "lowered": sum(planned[k] < wanted[k] for k in ks),
            "left_out": sum(planned[k] == 0 for k in ks),
            "arrived": len(arrived),
            "samples": learned,
        }
        self.told.append((told["updates"], told["staleness"]))
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
        "stronger_share": [
            sum(d for i, d in enumerate(ones) if (-d, i) < (-ones[k], k)) / plain.total for k in ks
        ],
        "drop_out": plain.problem.drop_out[0],
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
        {"slowdown_probability": 0.6, "slowdown": 30.0},
        {**JOINT, "cycle_s": 5.0, "slowdown_probability": 0.8, "slowdown": 99.0},
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
    exact = plain.loss(torch.from_numpy(global_model(env)), env.problem._validation[0])
    assert info["validation_loss"] == pytest.approx(exact.item(), rel=1e-5)
    assert info["mean_staleness"] == pytest.approx(np.mean([s for _, s in plain.told]))


def test_the_costs_of_the_document() -> None:
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
    # Of the first cycle: those after it draw other numbers.
    assert energies[0][0] == energies[0][1] > 0
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


ENDS: dict[str, tuple[float, float]] = {
    "cycle_s": (1e-9, 1e9),
    "energy_limit_j": (1e-12, 1e9),
    "slowdown": (1, 1e6),
    "model_bits": (1, 1e12),
    "model_bits_per_sample": (0, 1e9),
    "sample_bits": (1, 1e12),
    "cycles_per_sample": (1e-3, 1e15),
    "capacitance": (1e-40, 1e-15),
}


@pytest.mark.parametrize(("field", "ends"), ENDS.items())
def test_what_is_accepted_can_be_run(field: str, ends: tuple[float, float]) -> None:
    """Beyond physical magnitudes costs would overflow; within them everything stays finite."""
    for beyond in (1e300, 10 * ends[1], *((1e-300, ends[0] / 10) if ends[0] else (-1e-300,))):
        with pytest.raises(ValueError, match=f"{field} must be a finite number in"):
            TaskAllocationConfig(**{"energy_spread_j": 0.0, field: beyond})
    for end, fields in itertools.product(ends, ({}, STALENESS, JOINT)):
        if field == "model_bits_per_sample" and fields == JOINT:
            continue
        env = make(**fields, **{"energy_spread_j": 0.0, "slowdown_probability": 0.5, field: end})
        observation, _ = env.reset(seed=0)
        for action in itertools.islice(random_actions(env.action_space, 3), 3):
            assert env.observation_space.contains(observation)
            observation, reward, *_, info = env.step(action)
            assert np.isfinite(reward)
            assert all(np.isfinite(value) for value in info.values())


def test_joint_rules_end_at_any_magnitude() -> None:
    """A second is nothing beside the cycle, and speeds differ by fifteen orders: this once hung."""
    extremes = {"cycle_s": 1e9, "model_bits": 1.0, "sample_bits": 1.0, "transmit_power_dbm": 60.0}
    env = make(**JOINT, **extremes, cpu_groups_hz=(1.0, 1e15))
    observation, _ = env.reset(seed=0)
    for name in ("task-only", "resource-only", "joint-task-resource", "random-shares"):
        rule = make_baseline(name, env)
        rule.begin(np.zeros(1, np.int64), [0])
        assert np.isfinite(rule.act(observation)).all()


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
    codec = TaskCodec(TaskAllocationConfig(n_devices=12))
    shares = codec.decode(np.stack([array, np.zeros_like(array)], axis=-1))
    found = shares.samples(np.array([total]))[0]
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
        problem.draw_tasks(0, samples, samples)
    every = np.sort(np.concatenate(problem._rows[0]))
    for k in range(4):
        counts = np.bincount(
            np.searchsorted(every, np.concatenate([part[k] for part in rows])), minlength=48
        )
        # Five standard deviations.
        share = samples[k] / 48
        assert np.abs(counts / 300 - share).max() < 5 * math.sqrt(share * (1 - share) / 300)


PLENTY = {"cycle_s": 100.0, "energy_limit_j": 1e3}
# A batch holds all samples of a learner, so that their order means nothing.
WHOLE = {**PLENTY, "batch_size": 1000}
ANY_ORDER = np.random.default_rng(0)


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
    env.problem._rows[0] = env.problem._rows[0, :1, :1]
    w, plain = global_model(env), Plain(env)
    env.step(everyone(2))
    # Two epochs of twelve samples are six steps.
    plain.config = replace(env.config, batch_size=1000)
    wanted = w + plain.trained(w, plain.rows[0], 6, ANY_ORDER)
    np.testing.assert_allclose(global_model(env), wanted, atol=2e-6)


# ------------------------------------------------------------------------------- what goes wrong


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


# ------------------------------------------------------------------------------------- redundancy


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
        held = [problem._rows[0, k, : problem._sizes[0, k]].tolist() for k in range(6)]
        groups = held[::redundancy]
        assert all(held[k] == groups[k // redundancy] for k in range(6))
        every = list(itertools.chain(*groups))
        assert len(set(every)) == len(every) == 72
        assert not set(every) & set(problem._validation[0])
        assert problem.total[0] == 36


# ----------------------------------------------------------------------------- staleness and joint


def test_a_cap_means_the_exact_allocation() -> None:
    """The twin does in every cycle, to the bit, what the exact tasks do as a direct action."""
    twin, direct = make(**STALENESS, **FADING), make(**FADING)
    assert_same(twin.reset(seed=4)[1], direct.reset(seed=4)[1])
    config, seen = direct.config, []
    for i in (1, 0, 3, 5, 2, 4):
        tasks = exact_allocation(direct.problem.costs(LANE), 48, config.caps[i], 2, 12)
        assert tasks.samples.sum() == 48
        ours, theirs = twin.step(i), direct.step(direct.problem.codec.encode(tasks)[0])
        assert ours[1] == theirs[1]
        assert_same(ours[4], theirs[4])
        np.testing.assert_array_equal(ours[0]["devices"], theirs[0]["devices"])
        assert ours[4]["lowered"] == 0
        assert ours[4]["staleness"] <= config.caps[i]
        seen.append(tuple(tasks.samples[0]))
    assert len(set(seen)) == 6


def test_choices_follow_the_fading() -> None:
    for fields in ({}, FADING):
        env = make(**STALENESS, **fields, cycle_s=3.0)
        observation, _ = env.reset(seed=0)
        names = [f"{what}_{cap}" for what in ("updates", "work") for cap in range(6)]
        rows = [[column(env, observation, "system", name) for name in names]]
        for i in range(5):
            observation, *_ = env.step(i)
            rows.append([column(env, observation, "system", name) for name in names])
        # Means of updates do not fall with the cap.
        assert (np.diff(np.array(rows)[:, :6]) >= 0).all()
        assert len(np.unique(rows, axis=0)) in ((4, 5, 6) if fields else (1,))


@pytest.mark.parametrize("fields", [{}, {**FADING, **RISK}, FEDERATED])
def test_fair_shares_full_power_and_speed_are_the_direct_actions(fields: dict[str, Any]) -> None:
    direct, joint = make(**fields), make(**JOINT, **fields)
    direct.reset(seed=2), joint.reset(seed=2)
    for action in itertools.islice(random_actions(direct.action_space, 7), 6):
        full = np.concatenate([action, np.tile(np.float32([0.3, 1, 1]), (4, 1))], axis=1)
        theirs, ours = direct.step(action), joint.step(full)
        assert ours[1] == theirs[1]
        shared = [named.name for named in direct.tables["devices"] if named.name != "finish_s"]
        for name in shared:
            found, wanted = (
                column(env, step[0], "devices", name)
                for env, step in ((joint, ours), (direct, theirs))
            )
            np.testing.assert_array_equal(found, wanted, err_msg=name)
        for name in ("updates", "weighted_updates", "lowered", "left_out", "arrived"):
            assert ours[4][name] == theirs[4][name], name
        if "slowdown_probability" not in fields:
            assert ours[4]["finish_s"] == pytest.approx(theirs[4]["finish_s"], rel=1e-9)
            assert ours[4]["joules"] == pytest.approx(theirs[4]["joules"], rel=1e-9)


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


# ----------------------------------------------------------------------------- tasks and actions


@pytest.mark.parametrize("n_devices", [1, 4, 20])
def test_tasks_and_resources_translate_into_actions(n_devices: int) -> None:
    config = TaskAllocationConfig(**JOINT, n_devices=n_devices, cpu_groups_hz=(6e9,))
    env: Any = TaskAllocationVectorEnv(50, config=config, validation_size=5, test_size=5)
    env.reset(seed=0)
    problem, lanes = env.problem, np.arange(50)
    rng, shape = np.random.default_rng(n_devices), (50, n_devices)
    for total in (n_devices, 1500, 60_000):
        # Nobody's share is below exp(-6) of the largest.
        weights = np.exp(rng.uniform(-5.9, 0, shape)) * (rng.random(shape) < 0.8)
        weights[:, 0] = 1
        samples = np.stack([rng.multinomial(total, row / row.sum()) for row in weights])
        samples[samples < samples.max(axis=1, keepdims=True) * math.exp(-6)] = 0
        problem.total[:] = samples.sum(axis=1)
        updates = rng.integers(0, 13, shape)
        band = np.exp(rng.uniform(-5.9, 0, shape))
        band *= n_devices * config.bandwidth_hz / band.sum(axis=1, keepdims=True)
        limits = problem.limits(lanes)
        power = limits.max_power_w * 10 ** rng.uniform(-3, 0, shape)
        cpu = limits.max_cpu_hz * rng.uniform(0.05, 1, shape)
        wanted, resources = Tasks(samples, updates), Resources(band, power, cpu)
        action = problem.codec.encode(JointShares.of(wanted, resources, limits))
        assert action.dtype == np.float32
        assert env.action_space.contains(action)
        np.testing.assert_array_equal(action[..., :2], TaskCodec(config).encode(wanted))
        given, found, used = problem.decide(lanes, action)
        np.testing.assert_array_equal(given, samples)
        np.testing.assert_array_equal(found, updates)
        for array, value in zip(used, resources, strict=True):
            np.testing.assert_allclose(array, value, rtol=2e-6)


def test_what_actions_cannot_say_is_clipped() -> None:
    config = TaskAllocationConfig(**SMALL, **JOINT)
    env: Any = TaskAllocationVectorEnv(1, config=config)
    env.reset(seed=0)
    problem = env.problem
    problem.total[:] = 1000
    limits = problem.limits(LANE)
    tasks = Tasks(np.array([[999, 1, 0, 0]]), np.array([[99, 12, 0, 0]]))
    resources = Resources(
        2e7 * np.array([[1.0, 1e-6, 0.0, 0.0]]),
        limits.max_power_w * np.array([[1.0, 1e-5, 0.0, 2.0]]),
        limits.max_cpu_hz * np.array([[1.0, 0.01, 0.0, 2.0]]),
    )
    action = JointCodec(config).encode(JointShares.of(tasks, resources, limits))
    given, updates, used = problem.decide(LANE, action)
    least = math.exp(-6)
    # 2.47 samples are rounded.
    assert given.tolist() == [[998, 2, 0, 0]]
    assert updates.tolist() == [[12, 12, 0, 0]]
    wanted = 2e7 * np.array([[1, least, least, least]]) / (1 + 3 * least)
    np.testing.assert_allclose(used.band_hz, wanted, rtol=1e-5)
    np.testing.assert_allclose(used.power_w / limits.max_power_w, [[1, 1e-3, 1e-3, 1]], rtol=1e-5)
    np.testing.assert_allclose(used.cpu_hz / limits.max_cpu_hz, [[1, 0.05, 0.05, 1]], rtol=1e-5)


# ------------------------------------------------------------------------------ rewards and ends


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


# --------------------------------------------------------------------------------- what is drawn


def test_places_energies_speeds_and_luck_are_drawn_as_documented() -> None:
    fields = {"cell_radius_m": 200.0, "n_devices": 10, "samples_per_device": 2, **FADING}
    problem = many(60, **fields, cycles=4, drop_out=0.2, energy_limit_j=8.0, energy_spread_j=3.0)
    loss_db = 23 - 10 * np.log10(problem._mean_snr.ravel()) - (-174 + 10 * math.log10(5e6))
    distance_km = 10 ** ((loss_db - 128) / 37.1)
    inside = distance_km[distance_km > 1.001e-2]
    assert inside.size > 0.99 * distance_km.size
    assert kstest((inside**2 - 1e-4) / (0.04 - 1e-4), "uniform").pvalue > 0.01
    assert kstest((problem.limit_j.ravel() - 5) / 6, "uniform").pvalue > 0.01
    assert kstest(problem.drop_out.ravel() / 0.4, "uniform").pvalue > 0.01
    assert kstest(problem.gain.ravel(), "expon").pvalue > 0.01
    # Ten learners make groups of three, two, three and two.
    groups = [6e9] * 3 + [2.4e9] * 2 + [1.4e9] * 3 + [0.7e9] * 2
    np.testing.assert_array_equal(problem._cpu_hz, np.broadcast_to(groups, (60, 10)))
    free = many(60, **fields, cpu_groups_hz=None, cpu_hz=(1e9, 3e9), drop_out=0.8)
    assert kstest((free._cpu_hz.ravel() - 1e9) / 2e9, "uniform").pvalue > 0.01
    # Two times 0.8 is more than always.
    assert np.mean(free.drop_out == 1) == pytest.approx(1 - 1 / 1.6, abs=0.1)
    assert free.drop_out.max() == 1


def test_fading_does_not_depend_on_what_was_done() -> None:
    env, twin = make(**FADING), make(**FADING, **STALENESS)
    ours, theirs = env.reset(seed=7)[0], twin.reset(seed=7)[0]
    seen = []
    for action in itertools.islice(random_actions(env.action_space), 6):
        found = column(env, ours, "devices", "rate")
        np.testing.assert_array_equal(found, column(twin, theirs, "devices", "rate"))
        seen.append(found)
        ours, theirs = env.step(action)[0], twin.step(0)[0]
    assert len(np.unique(seen)) == 24


# ------------------------------------------------------------------------------------------ lanes


@pytest.mark.parametrize(
    "fields",
    [
        {**FADING, **RISK, "redundancy": 2},
        {**STALENESS, **FADING},
        {**JOINT, **FEDERATED, "size_spread": 0.5, "cycle_s": 3.0},
    ],
)
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_lane_equals_the_scalar_environment(mode: AutoresetMode, fields: dict[str, Any]) -> None:
    fields = {**SMALL, "cycles": 3, "task_share": 0.8, **fields}
    ours: Any = TaskAllocationVectorEnv(3, autoreset_mode=mode, **fields)
    theirs = SyncVectorEnv([lambda: TaskAllocationEnv(**fields)] * 3, autoreset_mode=mode)
    assert_same(ours.reset(seed=3), theirs.reset(seed=3))
    chosen = random_actions(ours.single_action_space)
    for _ in range(8):
        action = np.array([next(chosen) for _ in range(3)])
        assert_same(ours.step(action), theirs.step(action))


@pytest.mark.parametrize("fields", [{**STALENESS, **FADING}, STALENESS])
def test_lanes_may_be_at_different_cycles(fields: dict[str, Any]) -> None:
    env: Any = TaskAllocationVectorEnv(3, autoreset_mode="Disabled", **{**SMALL, **fields})
    env.reset(seed=0)
    for i in (1, 2):
        env.step(np.full(3, i))
    mask = np.array([False, True, False])
    env.reset(seed=[None, 40, None], options={"reset_mask": mask})
    for i in (3, 0):
        observation, *_ = env.step(np.full(3, i))
    for lane, (seed, actions) in enumerate(((0, (1, 2, 3, 0)), (40, (3, 0)), (2, (1, 2, 3, 0)))):
        alone = make(**fields)
        alone.reset(seed=seed)
        for i in actions:
            wanted, *_ = alone.step(i)
        for part, values in wanted.items():
            np.testing.assert_array_equal(observation[part][lane], values)


@pytest.mark.parametrize("fields", [{**FADING, **RISK}, {**STALENESS, **FADING}, JOINT])
def test_episodes_go_on_from_their_state(fields: dict[str, Any]) -> None:
    env, twin = (make(**fields, targets=(0.05, 0.9)) for _ in range(2))
    env.reset(seed=0)
    chosen = list(itertools.islice(random_actions(env.action_space), 6))
    for action in chosen[:3]:
        env.step(action)
    state = env.get_state()
    twin.reset(seed=99)
    twin.set_state(state)
    for name, value in vars(env.problem).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(vars(twin.problem)[name], value, err_msg=name)
    for action in chosen[3:]:
        assert_same(env.step(action), twin.step(action))


@pytest.mark.parametrize("fields", [FADING, STALENESS, JOINT])
def test_a_new_episode_knows_nothing_of_the_last_one(fields: dict[str, Any]) -> None:
    env, fresh = (make(**fields, targets=(0.1, 0.3), cycles=4) for _ in range(2))
    env.reset(seed=0)
    for action in itertools.islice(random_actions(env.action_space), 4):
        env.step(action)
    assert_same(env.reset(seed=1), fresh.reset(seed=1))
    for action in itertools.islice(random_actions(env.action_space, 1), 4):
        assert_same(env.step(action), fresh.step(action))


def test_learners_may_be_named_in_any_order() -> None:
    # Each trains on all that it has, and a batch holds all of that.
    fields = {**FEDERATED, **JOINT, "size_spread": 0.5, "batch_size": 1000, "cpu_groups_hz": None}
    env, twin = (make(**fields, cycle_s=10.0, energy_limit_j=9.0) for _ in range(2))
    env.reset(seed=1)
    sizes = env.problem._sizes[0]
    assert len(set(sizes)) == 4
    action = np.random.default_rng(0).uniform(0.3, 1, (4, 5))
    action[:, 0], action[:, 1] = 1 + np.log(sizes / sizes.max()) / 3, [-0.7, -0.5, -0.7, -0.4]
    env.step(action)
    order = np.array([2, 0, 3, 1])
    state = env.get_state()
    problem = state["problem"]
    by_learner = [key for key, value in problem.items() if np.shape(value)[1:2] == (4,)]
    assert {"_rows", "limit_j", "joules", "_cpu_hz"} < set(by_learner)
    permuted = {key: problem[key][:, order] for key in by_learner}
    permuted |= {key: problem[key][..., order] for key in ("gain", "resource_shares")}
    twin.set_state({**state, "problem": {**problem, **permuted}})
    theirs, ours = env.step(action), twin.step(action[order])
    np.testing.assert_allclose(global_model(twin), global_model(env), atol=1e-6)
    for name in theirs[4]:
        assert ours[4][name] == pytest.approx(theirs[4][name], rel=1e-6), name
    assert (ours[4]["arrived"], ours[4]["samples"]) == (4, sizes.sum())
    np.testing.assert_allclose(ours[0]["devices"], theirs[0]["devices"][order], rtol=1e-5)
    np.testing.assert_allclose(ours[0]["system"], theirs[0]["system"], rtol=1e-4)


# ----------------------------------------------------------------------------- channels


@pytest.mark.parametrize(
    ("channel", "variance"), [("rician:k=5", 11 / 36), ("nakagami:m=2", 0.5), ("awgn", 0.0)]
)
def test_links_fade_as_the_channel_says(channel: str, variance: float) -> None:
    gain = many(60, **FADING, cycles=19, channel=channel).gain
    assert gain.shape == (60, 20, 4)
    assert gain.mean() == pytest.approx(1, abs=0.05)
    assert gain.var() == pytest.approx(variance, abs=0.06)
    # Nothing that is drawn before depends on it.
    usual = many(60, **FADING, cycles=19)
    assert (usual.gain != gain).all()
    np.testing.assert_array_equal(usual.limit_j, many(60, channel="rayleigh").limit_j)


def test_gains_are_correlated_and_shadowed_over_cycles() -> None:
    def correlation(gain: Any, lag: int) -> float:
        log_gain = np.log(gain)
        return float(np.corrcoef(log_gain[:, lag].ravel(), log_gain[:, 0].ravel())[0, 1])

    slow = many(200, **FADING, channel="rayleigh:correlation=0.95").gain
    assert correlation(slow, 1) > 0.7 > correlation(slow, 6)
    shadowed = many(200, **FADING, channel="awgn:shadowing_db=6").gain
    np.testing.assert_allclose(shadowed[:, 1:], np.repeat(shadowed[:, :1], 6, axis=1))
    assert np.std(10 * np.log10(shadowed[:, 0])) == pytest.approx(6, abs=0.6)


def test_a_channel_without_fading_is_refused() -> None:
    with pytest.raises(ValueError, match=r'channel has no effect with fading="none".*rician:k=5'):
        make(channel="rician:k=5")
    assert make(channel="rayleigh:correlation=0").config.fading == "none"


def test_episodes_under_any_channel_go_on_from_their_state() -> None:
    channel = "rician:k=5,correlation=0.9,shadowing_db=4"
    env, twin = (make(**FADING, channel=channel) for _ in range(2))
    env.reset(seed=0)
    chosen = list(itertools.islice(random_actions(env.action_space, 1), 6))
    for action in chosen[:3]:
        env.step(action)
    twin.reset(seed=9)
    twin.set_state(env.get_state())
    for action in chosen[3:]:
        assert_same(env.step(action), twin.step(action))


# ----------------------------------------------------------------------------- checkers, pictures


@pytest.mark.parametrize("fields", [{**FADING, **RISK, "redundancy": 2}, STALENESS, JOINT])
def test_checkers_find_nothing(fields: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(**fields), skip_render_check=True)
        # It expects vectors or images.
        warnings.filterwarnings("ignore", "Your observation devices has an unconventional shape")
        check_for_sb3(make(**fields))


def test_the_picture_tells_tasks_times_and_energies() -> None:
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    assert env.problem.scene(0).title.startswith("Cycle 0: ")
    action = everyone(1)
    action[:, 0] = [-1, 0.5, 0.5, -1]
    action[3] = [0.5, -1]
    observation, *_, info = env.step(action)
    assert before.shape == env.render().shape == (500, 900, 3)
    assert (before != env.render()).any()
    scene = env.problem.scene(0)
    accuracy = 100 * info["validation_accuracy"]
    assert scene.title == f"Cycle 1: {accuracy:.1f} % validation accuracy"
    for part in ("1.5 s ", f" {info['joules']:.0f} J ", "last cycle 0.5 updates on average"):
        assert part in scene.text
    samples, updates, finish, energy = scene.panels[0]
    assert samples.series[""].tolist() == [0, 16, 16, 16]
    assert updates.series[""].tolist() == [0, 1, 1, 0]
    np.testing.assert_allclose(
        finish.series[""], column(env, observation, "devices", "finish_s"), rtol=1e-6
    )
    assert finish.series[""].max() == info["finish_s"]
    assert finish.targets["T"].tolist() == [1.5] * 4
    assert energy.series[""].sum() == pytest.approx(info["cycle_j"])
    np.testing.assert_allclose(
        energy.targets["limit"], column(env, observation, "devices", "limit_j"), rtol=1e-6
    )
    curve, left = scene.panels[1]
    np.testing.assert_array_equal(curve.x, [0, 1])
    assert curve.series["accuracy"][1] == pytest.approx(accuracy)
    assert (left.value, left.maximum) == (5, 6)


def test_a_picture_of_many_learners_shows_some() -> None:
    env = make(n_devices=50, samples_per_device=2, render_mode="rgb_array", **PLENTY)
    env.reset(seed=0)
    env.step(everyone(1, n=50))
    assert all(len(panel.labels) == 40 for panel in env.problem.scene(0).panels[0])
    assert env.render().shape == (500, 900, 3)


# -------------------------------------------------------------------------------------- the config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": 8}, "bits must be 32 and density 1, whole models are exchanged here, got 8"),
        ({"density": 0.5}, "bits must be 32 and density 1.* got 32 and 0.5"),
        ({"actions": "global"}, "actions must be one of direct, staleness, joint"),
        ({"learning": "central"}, "learning must be one of parallelized, federated"),
        ({"task_share": 0.0}, r"task_share must be a finite number in \(0, 1\]"),
        ({"task_share": 1.1}, "task_share must be a finite number"),
        ({"energy_spread_j": 10.1}, r"energy_spread_j must be a finite number in \[0, 10\]"),
        ({"caps": (1,)}, "caps must be two or more that ascend"),
        ({"caps": (1, 0)}, "caps must be two or more that ascend"),
        ({"caps": (1, 1)}, "caps must be two or more that ascend"),
        ({"caps": (-1, 1)}, r"caps must be an integer in \[0, 10000\]"),
        ({"cpu_groups_hz": ()}, "cpu_groups_hz must have 1 to n_devices = 10 speeds"),
        ({"cpu_groups_hz": (1e9, 0.0)}, "cpu_groups_hz must be a finite number in"),
        ({"fading": "round"}, "fading must be one of none, cycle"),
        ({"slowdown": 0.5}, "slowdown must be a finite number in"),
        ({"redundancy": 3}, "redundancy must divide n_devices = 10, got 3"),
        ({"redundancy": 11}, r"redundancy must be an integer in \[1, 10\]"),
        ({"redundancy": 2, **JOINT}, "redundancy needs actions=\"direct\", got 'joint'"),
        ({"redundancy": 2, **STALENESS}, "redundancy needs actions=\"direct\", got 'staleness'"),
        ({"model_bits": 0}, "model_bits must be a finite number"),
        ({"sample_bits": -1.0}, "sample_bits must be a finite number"),
        ({"cycles_per_sample": math.inf}, "cycles_per_sample must be a finite number"),
        ({"model_bits_per_sample": 1.0, **JOINT}, "model_bits_per_sample must be 0 with actions"),
        ({"targets": (0.9, 0.8)}, "targets must ascend"),
        ({"targets": (0.9, 1.1)}, "targets must be a finite number"),
    ],
)
def test_wrong_settings_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskAllocationConfig(**fields)


def test_a_configuration_travels_through_json() -> None:
    config = TaskAllocationConfig(targets=(0.5,), caps=(0, 2, 4), cpu_groups_hz=(1e9, 2e9))
    assert TaskAllocationConfig(**json.loads(json.dumps(asdict(config)))) == config
