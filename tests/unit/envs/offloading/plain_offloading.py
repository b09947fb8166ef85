"""Offloading, one user after the other in plain floats, and what its tests share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from references import Vector, global_model

from edge_gym.envs.offloading.config import OffloadingConfig
from edge_gym.envs.offloading.env import OffloadingEnv, OffloadingVectorEnv
from edge_gym.runtime.streams import Purpose, permutations

SMALL: dict[str, Any] = {
    "n_devices": 3,
    "samples_per_device": 12,
    "hidden_sizes": (8,),
    "validation_size": 60,
    "test_size": 50,
    "iterations": 5,
    "batch_size": 5,
    "task_images": 8,
}

LANE = np.zeros(1, np.int64)

GRID, COMBINATION = {"actions": "grid"}, {"actions": "combination"}

MOVING = {"fading": "episode", "placement": "disc", "move_m": 20.0}

# Who is where matters alone.
MANY: dict[str, Any] = {
    "partition": "iid",
    "samples_per_device": 2,
    "size_spread": 0.0,
    "local_epochs": 1,
    "validation_size": 10,
}


def make(**fields: Any) -> Any:
    return OffloadingEnv(**{**SMALL, **fields})


def many(n_lanes: int, **fields: Any) -> Any:
    """Return many lanes after a reset."""
    env: Any = OffloadingVectorEnv(n_lanes, **{**SMALL, **MANY, **fields})
    env.reset(seed=0)
    return env


def actions_for(config: OffloadingConfig, seed: int = 0) -> Iterator[Any]:
    """Yield random actions in which parts of 0 and of 1 are common."""
    rng, m = np.random.default_rng(seed), config.n_devices
    while True:
        levels = rng.choice([0, 1, 2, 3, 4, 5, 5, 5], m)
        if config.actions == "grid":
            yield levels
        elif config.actions == "combination":
            yield sum(int(level) * 6 ** (m - 1 - j) for j, level in enumerate(levels))
        else:
            action = rng.uniform(-1, 1, (m, 4))
            ends = rng.choice([-1, 0, 0, 1, 1], m)
            action[:, 3] = np.where(ends == 0, action[:, 3], ends)
            yield action.astype(np.float32)


def direct(offloaded: float | list[float], m: int = 3) -> NDArray[np.float32]:
    """Return an action of equal shares and full speed; ``offloaded`` is the last column."""
    action = np.zeros((m, 4), np.float32)
    action[:, 2], action[:, 3] = 1, offloaded
    return action


class Plain:
    """One episode, one user after the other, in double precision.

    It takes what was drawn (places, tasks, samples) from the environment, and the draws that fading
    and the order of samples follow from out of its streams. The rest it works out for itself.
    """

    def __init__(self, env: Any) -> None:
        self.env, self.problem, self.config = env, env.problem, env.config
        self.m = env.config.n_devices
        sizes = self.problem.sizes[0]
        self.rows = [self.problem.rows[0, j, : sizes[j]] for j in range(self.m)]
        self.held = [global_model(env)] * self.m
        # On one clock for all of the episode: when a user has its model, and until when its CPU and
        # its uplink are taken. Jobs take them in turns.
        self.clock = 0.0
        self.model_there = [self.config.first_download_s] * self.m
        self.cpu_until, self.link_until = [0.0] * self.m, [0.0] * self.m
        self.cpu_jobs: list[tuple[int, float, float]] = []
        self.link_jobs: list[tuple[int, float, float]] = []
        self.age = [0] * self.m
        self.offloaded, self.cpu_share = [0.0] * self.m, [0.0] * self.m
        self.iteration, self.wsel, self.slope = 1, 0.0, 0.0
        d, (h,) = self.problem.features.train.shape[1], self.config.hidden_sizes
        self.shapes = ((d, h), (h,), (h, 10), (10,))
        self.n_values, self.macs = sum(map(math.prod, self.shapes)), d * h + h * 10
        self.model_bits = self.config.model_bits or 32 * self.n_values
        self.mean_task_bits = self.config.task_bits or 8 * d * self.config.task_images

    # -- learning

    def logits(self, w: torch.Tensor, x: NDArray[Any]) -> torch.Tensor:
        inputs = torch.from_numpy(x.astype(np.float64) * math.sqrt(x.shape[1]))
        parts = torch.split(w, [math.prod(shape) for shape in self.shapes])
        w1, b1, w2, b2 = (p.view(shape) for p, shape in zip(parts, self.shapes, strict=True))
        logits: torch.Tensor = torch.relu(inputs @ w1 + b1) @ w2 + b2
        return logits

    def train(self) -> Vector:
        """Return the average of the models that users get from those that they hold."""
        config, features, streams = self.config, self.problem.features, self.problem.streams
        keys = streams.keys(LANE, Purpose.ORDERS, self.m, self.iteration - 1)
        total = np.zeros(self.n_values)
        for j, (held, rows) in enumerate(zip(self.held, self.rows, strict=True)):
            n = np.array([len(rows)])
            orders, _ = permutations(keys[:, j], n, config.local_epochs * n)
            w = torch.tensor(held, requires_grad=True)
            for order in orders.reshape(config.local_epochs, len(rows)):
                assert sorted(order) == list(range(len(rows)))
                for first in range(0, len(rows), config.batch_size):
                    some = rows[order[first : first + config.batch_size]]
                    labels = torch.from_numpy(features.train_labels[some]).long()
                    logits = self.logits(w, features.train[some])
                    loss = torch.nn.functional.cross_entropy(logits, labels)
                    (gradient,) = torch.autograd.grad(loss, w)
                    w = (w - config.learning_rate * gradient).detach().requires_grad_()
            total += len(rows) * w.detach().numpy()
        return np.asarray(total / sum(map(len, self.rows)))

    def accuracy(self, w: Vector, rows: NDArray[np.int64]) -> float:
        """Return the share of test images that a model classifies rightly."""
        features = self.problem.features
        guesses = self.logits(torch.tensor(w), features.test[rows]).argmax(1).numpy()
        return float((guesses == features.test_labels[rows]).mean())

    # -- costs

    def look(self) -> None:
        """Work out channels and training from what was drawn for an iteration."""
        config, problem = self.config, self.problem
        self.gain = []
        # Rayleigh fading, of an amplitude with two normal parts.
        step = self.iteration - 1 if config.fading == "iteration" else 0
        (parts,) = problem.streams.normals(LANE, Purpose.CHANNEL, (2, self.m), step)
        for place, fade in zip(problem.place_m[0], (parts**2).sum(axis=0) / 2, strict=True):
            distance = max(math.hypot(*place), 1)
            mean = 4.11 * (3e8 / (4 * math.pi * 2.4e9 * distance)) ** config.path_loss_exponent
            self.gain.append(mean * fade)
        self.task_bits = problem.task_bits[0].tolist()
        self.training_s, self.training_j = [], []
        for rows in self.rows:
            cycles = config.cycles_per_flop * 6 * self.macs * len(rows) * config.local_epochs
            own_s = cycles / config.max_cpu_hz
            own_j = config.capacitance * cycles * config.max_cpu_hz**2
            self.training_s.append(own_s if config.training_s is None else config.training_s)
            self.training_j.append(own_j if config.training_j is None else config.training_j)

    def rate(self, share: float, power_dbm: float, j: int) -> float:
        """Return the rate in a share of the band, (3) and (4)."""
        width, noise = share * self.config.bandwidth_hz, 10 ** (-17.4) / 1e3
        power_w = 10 ** (power_dbm / 10) / 1e3
        return width * math.log2(1 + power_w * self.gain[j] / (width * noise))

    def decided(self, action: Any) -> tuple[list[float], list[float], list[float], list[float]]:
        """Return ι, b, b̄ and f; after a step where only ι is chosen."""
        config, problem = self.config, self.problem
        if config.actions != "direct":
            if config.actions == "combination":
                action = list(itertools.product(range(6), repeat=self.m))[action]
            iota = [level / 5 * (self.task_bits[j] > 0) for j, level in enumerate(action)]
            up, down = problem.band_shares[0].tolist()
            return iota, up, down, (config.max_cpu_hz * problem.cpu_share[0]).tolist()
        iota, hertz = [], []
        for (_, _, speed, part), bits in zip(action.tolist(), self.task_bits, strict=True):
            iota.append(min(max((1.05 * part + 1) / 2, 0), 1) if bits else 0.0)
            wanted = config.max_cpu_hz * (0.05 + 0.95 * (speed + 1) / 2)
            hertz.append(wanted if bits and iota[-1] < 1 else 0.0)
        up = [math.exp(4 * logit) for logit in action[:, 0].tolist()]
        down = [math.exp(4 * action[j, 1].item()) * (iota[j] < 1) for j in range(self.m)]
        band = sum(up) + sum(down)
        return iota, [b / band for b in up], [b / band for b in down], hertz

    def cost(
        self, iota: list[float], up: list[float], down: list[float], hertz: list[float]
    ) -> dict[str, Any]:
        """Return (1) to (10a), with p^md a power; what a user has is a list."""
        config = self.config
        c = config.cycles_per_bit
        power_w = 10 ** (config.transmit_power_dbm / 10) / 1e3
        users = range(self.m)
        r = [self.rate(up[j], config.transmit_power_dbm, j) for j in users]
        mu = [self.model_bits / r[j] for j in users]
        to = [iota[j] * self.task_bits[j] / r[j] for j in users]
        md, tc = [0.0] * self.m, [0.0] * self.m
        for j in users:
            if iota[j] < 1:
                md[j] = self.model_bits / self.rate(down[j], config.downlink_power_dbm, j)
                if self.task_bits[j]:
                    tc[j] = c * (1 - iota[j]) * self.task_bits[j] / hertz[j]
        te = [c * iota[j] * self.task_bits[j] / config.server_hz for j in users]
        cpu_jobs, link_jobs = [], []
        begun, sent, arrived = [0.0] * self.m, [0.0] * self.m, [0.0] * self.m
        for j in users:
            begun[j] = max(self.model_there[j], self.cpu_until[j])
            trained = begun[j] + self.training_s[j]
            cpu_jobs.append((j, begun[j], trained))
            starts = max(trained, self.link_until[j])
            sent[j] = starts + mu[j]
            arrived[j] = sent[j] + to[j]
            link_jobs += [(j, starts, sent[j]), (j, sent[j], arrived[j])]
        ready = max(sent)
        energy, latency, local_j = [], [], []
        for j in users:
            heat = config.capacitance * hertz[j] ** 2 * c * (1 - iota[j]) * self.task_bits[j]
            local_j.append(heat)
            spent = self.training_j[j] + power_w * (mu[j] + to[j])
            end = max(ready, arrived[j]) + te[j]
            if iota[j] < 1:
                spent += config.receive_power_w * md[j] + heat
                cpu_jobs.append((j, ready + md[j], ready + md[j] + tc[j]))
                end = max(end, ready + md[j] + tc[j])
            energy.append(spent)
            latency.append(end - begun[j])
        self.jobs = cpu_jobs, link_jobs
        return {
            "wsel": sum(
                config.energy_weight * energy[j] + config.time_weight * latency[j] for j in users
            ),
            "energy_j": energy,
            "latency_s": latency,
            # The environment's clock begins with each iteration.
            "model_ready_s": ready - self.clock,
            "ready": ready,
            "upload_s": mu,
            "offload_s": to,
            "download_s": md,
            "local_s": tc,
            "edge_s": te,
            "upload_j": [power_w * s for s in mu],
            "offload_j": [power_w * s for s in to],
            "download_j": [config.receive_power_w * s for s in md],
            "local_j": local_j,
        }

    def waits(self) -> tuple[list[float], list[float]]:
        """Return when users begin to train, and how much later they can send the update."""
        begun = [max(pair) for pair in zip(self.model_there, self.cpu_until, strict=True)]
        sends = [
            max(begun[j] + self.training_s[j], self.link_until[j]) - begun[j] for j in range(self.m)
        ]
        return [at - self.clock for at in begun], sends

    def finish(self, model: Vector, iota: list[float], hertz: list[float], cost: Any) -> None:
        """Let an iteration be over."""
        for j in range(self.m):
            downloads = iota[j] < 1
            self.age[j] = 0 if downloads else self.age[j] + 1
            self.held[j] = model if downloads else self.held[j]
        if any(self.task_bits):
            self.offloaded = iota
        self.cpu_share = [f / self.config.max_cpu_hz for f in hertz]
        cpu_jobs, link_jobs = self.jobs
        for jobs, done, until in (
            (cpu_jobs, self.cpu_jobs, self.cpu_until),
            (link_jobs, self.link_jobs, self.link_until),
        ):
            for j, _, end in jobs:
                until[j] = end
            done += jobs
        # Who downloads nothing begins from the model that it has when the others' is ready.
        self.model_there = [cost["ready"] + s for s in cost["download_s"]]
        self.clock, self.wsel = cost["ready"], cost["wsel"]
        self.iteration += 1
