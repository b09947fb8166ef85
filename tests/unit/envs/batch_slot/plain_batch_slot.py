"""Batches and slots, one device after the other in double precision, and what their tests share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from references import Vector, global_model, perceptron_loss_and_gradient

from edge_gym.envs.batch_slot.env import BatchSlotEnv
from edge_gym.runtime.streams import Purpose

SMALL: dict[str, Any] = {
    "n_devices": 4,
    "samples_per_device": 30,
    "image_size": 7,
    "hidden_sizes": (8,),
    "max_batch": 12,
    "validation_size": 60,
    "test_size": 50,
    "budget_s": 4e-3,
    "max_rounds": 60,
    "learning_rate": 0.1,
    "reward": "loss",
    # A cell in which this small network's best batches are between the bounds.
    "bandwidth_hz": 1e8,
}
ENDLESS = {"budget_s": 1e6}
GLOBAL = {"actions": "global", "choices": 7}
LANE = np.zeros(1, np.int64)
DRIFTING = "rician:k=5,correlation=0.9,shadowing_db=4"
MODEL = {"update": "model", "local_batch_size": 1000, "max_batch": None}


def make(**fields: Any) -> Any:
    return BatchSlotEnv(**{**SMALL, **fields})


class Plain:
    """One episode, one device after the other, in double precision.

    It takes what was drawn (places, processors, samples) and the global model at the beginning of a
    round from the environment, and the draws that fading follows from out of its streams. The rest
    it works out for itself.
    """

    def __init__(self, env: Any) -> None:
        self.env, self.problem, self.config = env, env.problem, env.config
        self.k = env.config.n_devices
        sizes = self.problem.sizes[0]
        self.own = [set(self.problem.rows[0, k, : sizes[k]].tolist()) for k in range(self.k)]
        # The last row is the server's.
        self.kept_back = np.zeros((self.k + 1, len(global_model(env))))
        self.union: int | None = None
        self.rounds, self.seconds, self.slope = 0, 0.0, 0.0
        self.batches: list[int] = []

    # -- learning

    def loss_and_gradient(self, w: Vector, rows: Any) -> tuple[float, Vector]:
        """Return the mean cross-entropy at ``w`` and its gradient."""
        (hidden,) = self.config.hidden_sizes
        return perceptron_loss_and_gradient(self.problem.features, hidden, w, rows)

    def sent(self, k: int, vector: Vector) -> Vector:
        """Return what is received of device k, or the server: the largest values."""
        wanted = vector + self.kept_back[k]
        kept = max(1, round(self.config.density * len(vector)))
        places = np.argsort(-np.abs(wanted))
        if kept < len(vector):
            # Rounding shall not decide between values: another seed has none so alike.
            least, dropped = np.abs(wanted[places[kept - 1 : kept + 1]])
            assert least - dropped > 1e-6 * least
        places = places[:kept]
        made = np.zeros_like(wanted)
        made[places] = wanted[places]
        self.kept_back[k] = wanted - made
        return made

    def learn(self, batches: list[list[int]]) -> Vector:
        """Return the global model after a round."""
        config, w = self.config, global_model(self.env)
        total = sum(map(len, batches))
        stepped_on = config.local_batch_size if config.update == "model" else total
        rate = min(
            config.learning_rate * math.sqrt(stepped_on / config.reference_batch),
            config.max_learning_rate,
        )
        mean = np.zeros_like(w)
        self.losses, self.norms = [], []
        for k, rows in enumerate(batches):
            assert len(set(rows)) == len(rows)
            assert set(rows) <= self.own[k]
            if config.update == "gradient":
                loss, vector = self.loss_and_gradient(w, rows)
            else:
                # Mini-batches are as large as the batch, so that their order means nothing.
                model, losses = w.copy(), []
                for _ in range(config.local_epochs):
                    loss, gradient = self.loss_and_gradient(model, rows)
                    model -= rate * gradient
                    losses.append(loss)
                loss, vector = float(np.mean(losses)), model - w
            self.losses.append(loss)
            self.norms.append(np.linalg.norm(vector))
            mean += len(rows) / total * self.sent(k, vector)
        self.mean_norm = np.linalg.norm(mean)
        if config.download == "recompressed":
            mean = self.sent(self.k, mean)
        else:
            self.union = np.count_nonzero(mean)
            self.down_bits = self.size(self.union)
        return w - rate * mean if config.update == "gradient" else w + mean

    # -- latency

    def size(self, kept: int) -> int:
        """Return the bits of so many values of a vector."""
        n = len(self.kept_back[0])
        return 32 * kept + (min(kept * math.ceil(math.log2(n)), n) if kept < n else 0)

    def look(self) -> None:
        """Work out what a round costs from what was drawn for it."""
        config, problem = self.config, self.problem
        d, (h,) = problem.features.train.shape[1], config.hidden_sizes
        n = d * h + h + h * 10 + 10
        flops = 6 * (d * h + h * 10)
        kept = max(1, round(config.density * n))
        self.bits = self.down_bits = self.size(kept)
        if config.download == "union":
            most = min(self.k * kept, n)
            self.down_bits = self.size(most if self.union is None else self.union)
        more = 10 ** ((config.downlink_power_dbm - config.transmit_power_dbm) / 10)
        self.rate = np.zeros((2, self.k))
        # Rayleigh fading, of an amplitude with two normal parts.
        shape = (2, 2, self.k)
        (parts,) = problem.streams.normals(LANE, Purpose.CHANNEL, shape, self.rounds)
        for direction, factor in enumerate((1.0, more)):
            for k in range(self.k):
                snr = factor * problem.mean_snr[0, k]
                if config.fading == "round":
                    snr *= (parts[:, direction, k] ** 2).sum() / 2
                    efficiency = math.log2(1 + snr)
                else:
                    # The mean over the quantiles of Exp(1).
                    gains = -np.log1p(-(np.arange(200_000) + 0.5) / 200_000)
                    efficiency = float(np.log2(1 + snr * gains).mean())
                self.rate[direction, k] = config.bandwidth_hz * efficiency
        epochs = config.local_epochs if config.update == "model" else 1
        self.sample_s, self.update_s = [], []
        for k in range(self.k):
            if config.device == "cpu":
                if config.cpu_groups_hz is None:
                    hz = problem.cpu_hz[0, k]
                else:
                    hz = config.cpu_groups_hz[k * len(config.cpu_groups_hz) // self.k]
                self.sample_s.append(epochs * config.cycles_per_flop * flops / hz)
                self.update_s.append(config.cycles_per_flop * 2 * n / hz)
            else:
                speed = config.gpu_flops[k * len(config.gpu_flops) // self.k]
                self.sample_s.append(flops / speed)
                self.update_s.append(2 * n / speed)

    def gradient_s(self, k: int, batch: int) -> float:
        """Return the seconds of computing on a batch."""
        config = self.config
        if config.device == "cpu":
            return batch * self.sample_s[k]

        def one(size: int) -> float:
            beyond = max(size - config.gpu_threshold, 0)
            return config.gpu_base_latency_s + self.sample_s[k] * beyond

        if config.update == "gradient":
            return one(batch)
        size = config.local_batch_size
        return config.local_epochs * batch * one(size) / size

    def decided(self, action: Any) -> tuple[list[int], Vector, Vector]:
        """Return batches, uplink slots and downlink slots of a direct action."""
        most = [len(own) for own in self.own]
        if self.config.max_batch is not None:
            most = [min(n, self.config.max_batch) for n in most]
        batch = [round(1 + (action[k][0] + 1) / 2 * (most[k] - 1)) for k in range(self.k)]
        slots = []
        for i in (1, 2):
            weights = np.array([math.exp(3 * float(action[k][i])) for k in range(self.k)])
            slots.append(weights / weights.sum())
        return batch, slots[0], slots[1]

    def took(self, batch: list[int], up: Vector, down: Vector) -> dict[str, float]:
        """Return how long a round takes, and what it consists of."""
        compute = [self.gradient_s(k, batch[k]) for k in range(self.k)]
        upload = [self.bits / (up[k] * self.rate[0, k]) for k in range(self.k)]
        download = [self.down_bits / (down[k] * self.rate[1, k]) for k in range(self.k)]
        self.arrived = [a + b for a, b in zip(compute, upload, strict=True)]
        self.finished = [a + b for a, b in zip(download, self.update_s, strict=True)]
        return {
            "gradient_s": max(self.arrived),
            "update_s": max(self.finished),
            "compute_s": max(compute),
            "upload_s": max(upload),
            "download_s": max(download),
            "round_s": max(self.arrived) + max(self.finished),
            "batch": sum(batch),
        }
