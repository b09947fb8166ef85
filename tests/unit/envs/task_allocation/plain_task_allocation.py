"""Task allocation, one learner after the other in plain floats, and what its tests share."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from references import Vector, global_model

from edge_gym.data import decode_labels
from edge_gym.envs.task_allocation.env import TaskAllocationEnv, TaskAllocationVectorEnv
from edge_gym.runtime.streams import Purpose, permutations
from edge_gym.solvers.task_allocation import TaskCosts, Tasks, exact_allocation

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
    "reward": "accuracy",
}

LANE = np.zeros(1, np.int64)

STALENESS, JOINT, FADING = {"actions": "staleness"}, {"actions": "joint"}, {"fading": "cycle"}

FEDERATED = {"learning": "federated"}


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


def forget_learning(problem: Any) -> None:
    """Make cycles that train nothing, for what does not depend on the model."""
    problem.train = lambda *arguments: None


def gains_of(problem: Any) -> NDArray[np.float64]:
    """Let an episode go on to its end; return all cycles' gains, ``(n_lanes, cycles + 1, K)``."""
    forget_learning(problem)
    lanes, config = np.arange(problem.n_lanes), problem.config
    action = np.tile(everyone(1, n=config.n_devices), (problem.n_lanes, 1, 1))
    kept = [problem.fading.gain.copy()]
    for _ in range(config.cycles):
        problem.step_lanes(lanes, action)
        kept.append(problem.fading.gain.copy())
    return np.stack(kept, axis=1)


class Plain:
    """One episode, one learner after the other, in plain floats and by autograd.

    It takes what was drawn for an episode (places, energies, shares of losses, samples) and the
    global model at the beginning of a cycle from the environment, and the draws that a cycle's
    fading, losses, slow-downs, samples and their order follow from out of its streams. The rest it
    works out for itself.
    """

    def __init__(self, env: Any) -> None:
        self.env, self.problem, self.config = env, env.problem, env.config
        self.k, self.r = env.config.n_devices, env.config.redundancy
        sizes = self.problem.sizes[0]
        self.rows = [self.problem.rows[0, k, : sizes[k]] for k in range(self.k)]
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
        self.losses: list[float] = []
        self.training_loss = np.full(self.k, math.log(10))
        self.told: list[tuple[float, float]] = []

    # -- costs

    def look(self) -> None:
        """See what was drawn for a cycle."""
        problem, config = self.problem, self.config
        self.snr = problem.mean_snr[0].copy()
        if config.fading == "cycle":
            # Rayleigh fading, of an amplitude with two normal parts.
            (parts,) = problem.streams.normals(LANE, Purpose.CHANNEL, (2, self.k), self.cycle)
            self.snr *= (parts**2).sum(axis=0) / 2
        self.hz = problem.cpu_hz[0]
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
        """Return seconds and joules of learner k: Mohammad et al. 2020, (5) to (11)."""
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
        x = features.train[rows % len(features.train)]
        h = torch.tensor(x, dtype=torch.float64) * math.sqrt(self.sizes[0])
        for i, (a, b) in enumerate(itertools.pairwise(self.sizes)):
            weights, biases, w = w[: a * b].view(a, b), w[a * b : a * b + b], w[a * b + b :]
            h = (h if i == 0 else h.relu()) @ weights + biases
        labels = torch.tensor(decode_labels(rows, features.train_labels)[1])
        loss = torch.nn.functional.cross_entropy(h, labels)
        self.losses += [loss.item()] * len(rows)
        return loss

    def trained(self, model: Vector, rows: Any, epochs: int, key: np.uint64) -> Vector:
        """Return what epochs of mini-batch SGD add to a model; orders follow from the key."""
        begin = w = torch.from_numpy(model)
        size, n = self.config.batch_size, np.array([len(rows)])
        orders, _ = permutations(np.array([key]), n, epochs * n)
        for order in orders.reshape(epochs, len(rows)):
            assert sorted(order) == list(range(len(rows)))
            for start in range(0, len(order), size):
                w = w.detach().requires_grad_()
                some = rows[order[start : start + size]]
                (gradient,) = torch.autograd.grad(self.loss(w, some), w)
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
        config, ks, streams = self.config, range(self.k), self.problem.streams
        given, wanted, shares = self.decided(action)
        held = [sum(given[k // self.r * self.r :][: self.r]) for k in ks]
        held = [min(held[k], self.own[k]) for k in ks]
        planned = [min(wanted[k], self.possible(k, held[k], shares[k])) for k in ks]
        # The first losses that are drawn say how often a learner's models are lost.
        (lost,) = streams.uniforms(LANE, Purpose.LOSSES, (self.k,), self.cycle + 1)
        (busy,) = streams.uniforms(LANE, Purpose.SLOW_DOWNS, (self.k,), self.cycle)
        slower = [config.slowdown if b < config.slowdown_probability else 1.0 for b in busy]
        done = [min(planned[k], self.possible(k, held[k], shares[k], slower[k])) for k in ks]
        arrived = [k for k in ks if done[k] > 0 and lost[k] >= self.problem.drop_out[0, k]]
        rows = self.drawn(given, held, streams.generator(0, Purpose.SAMPLES, self.cycle))
        assert [len(part) for part in rows] == held
        w = global_model(self.env)
        (keys,) = streams.keys(LANE, Purpose.ORDERS, self.k, self.cycle)
        changes = {k: self.trained(w, rows[k], done[k], keys[k]) for k in arrived}
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
        # Of all samples that were trained on in this cycle, one learner's after the other.
        seen = np.split(self.losses, np.cumsum([held[k] * done[k] for k in arrived]))
        self.training_loss[arrived] = [losses.mean() for losses in seen[:-1]]
        self.losses = []
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


RISK = {"drop_out": 0.4, "slowdown_probability": 0.5}

PLENTY = {"cycle_s": 100.0, "energy_limit_j": 1e3}
