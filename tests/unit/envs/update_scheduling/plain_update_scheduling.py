"""Update scheduling, one device after the other in double precision, and what its tests share."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from references import Vector, global_model, perceptron_loss_and_gradient

from edge_gym.runtime.streams import Purpose, permutations

PLAIN, GRADIENT = "UpdateScheduling-v0", "UpdateSchedulingGradient-v0"
DEVICE, LAZY = "UpdateSchedulingDiscrete-v0", "UpdateSchedulingLazy-v0"
LAZY_DEVICE = "UpdateSchedulingLazyDiscrete-v0"

# A batch holds all samples of a device, so that their order means nothing but where a test says so.
# Who takes part is in the action where a test is about it.
SMALL = {
    "participation": "all",
    "n_devices": 4,
    "samples_per_device": 10,
    "image_size": 7,
    "hidden_sizes": (8,),
    "batch_size": 1000,
    "learning_rate": 0.3,
    "validation_size": 60,
    "test_size": 50,
    "cell_radius_m": 200.0,
    "budget_s": 0.02,
    "budget_j": 2e-3,
    "max_rounds": 12,
}
DRIFTING = "rician:k=5,correlation=0.9,shadowing_db=4"
ENDLESS = {"budget_s": 1e3, "budget_j": 1e3, "max_rounds": 10_000}
LANE = np.zeros(1, np.int64)
KNOWLEDGE: list[tuple[str, dict[str, Any]]] = [
    (PLAIN, {}),
    (PLAIN, {"indicators": "remembered"}),
    (PLAIN, {"indicators": "free"}),
    (LAZY, {}),
]


def make(name: str = PLAIN, **fields: Any) -> Any:
    return gym.make(f"edge_gym/{name}", **{**SMALL, **fields}).unwrapped


def many(n_lanes: int, name: str = PLAIN, **fields: Any) -> Any:
    """Return the problem of many lanes after a reset."""
    env: Any = gym.make_vec(f"edge_gym/{name}", n_lanes, **{**SMALL, **fields})
    env.reset(seed=0)
    return env.problem


def scores_of(*devices: int, n: int = 4) -> NDArray[np.float32]:
    """Return scores that schedule these devices alone."""
    return np.where(np.isin(np.arange(n), devices), 1, -1).astype(np.float32)


def agent(scores: Any, participation: Any) -> NDArray[np.float32]:
    """Return an action with a column that says who takes part next."""
    return np.stack([scores, participation], axis=-1).astype(np.float32)


class Plain:
    """One episode, one device after the other, in double precision.

    It takes what was drawn (places, processors, fading, slow-downs, samples and their orders) and
    the global model at the beginning of a round from the environment, and works out the rest for
    itself.
    """

    def __init__(self, env: Any) -> None:
        problem = env.problem
        self.env, self.problem, self.config = env, problem, env.config
        self.k = env.config.n_devices
        sizes = problem.sizes[0]
        self.rows = [problem.rows[0, k, : sizes[k]] for k in range(self.k)]
        self.initial = global_model(env)
        self.uploaded = [self.initial] * self.k
        self.participating = list(range(self.k))
        self.indicator, self.computed_in = np.zeros(self.k), np.full(self.k, -1)
        self.training_loss = np.full(self.k, np.nan)
        self.change, self.told = np.zeros(self.k), np.zeros((self.k, len(self.initial)))
        self.arrived_last = np.zeros_like(self.told)
        lazy = self.config.mode == "lazy"
        self.knowledge = "lazy" if lazy else self.config.indicators
        self.kept_back = np.zeros((self.k, len(self.initial)))
        self.rounds, self.spent, self.seconds = 0, 0.0, 0.0
        self.energy = np.zeros(self.k)
        self.uploads, self.arrivals = np.zeros(self.k), np.zeros(self.k)
        self.last_arrival, self.throughput = np.zeros(self.k), np.zeros(self.k)
        self.efficiencies: list[Vector] = []
        self.slope = 0.0
        self.begin()

    # -- learning

    def loss_and_gradient(self, w: Vector, rows: Any) -> tuple[float, Vector]:
        """Return the mean cross-entropy at ``w`` and its gradient."""
        (hidden,) = self.config.hidden_sizes
        return perceptron_loss_and_gradient(self.problem.features, hidden, w, rows)

    def trained(self, w: Vector, k: int) -> tuple[Vector, float]:
        """Return what device k would add to the model w, and its mean loss on the way."""
        config, rows = self.config, self.rows[k]
        if config.update == "gradient":
            loss, gradient = self.loss_and_gradient(w, rows)
            return -config.learning_rate * gradient, loss
        model, n, total = w.copy(), len(rows), 0.0
        keys = self.problem.streams.keys(LANE, Purpose.ORDERS, self.k, self.problem.rounds)
        order, _ = permutations(
            keys[0, k : k + 1], np.array([n]), np.array([config.local_epochs * n])
        )
        for epoch in order.reshape(config.local_epochs, n):
            for first in range(0, n, config.batch_size):
                batch = rows[epoch[first : first + config.batch_size]]
                loss, gradient = self.loss_and_gradient(model, batch)
                model -= config.learning_rate * gradient
                total += loss * len(batch)
        return model - w, total / (n * config.local_epochs)

    def sent(self, k: int, vector: Vector) -> Vector:
        """Return what the server gets of a vector: the largest values, the rest is kept back."""
        wanted = vector + self.kept_back[k]
        n = max(1, round(self.config.density * len(vector)))
        places = np.argsort(-np.abs(wanted))[:n]
        made = np.zeros_like(wanted)
        made[places] = wanted[places]
        self.kept_back[k] = wanted - made
        return made

    # -- rounds

    def begin(self) -> None:
        """Look at what was drawn for a round."""
        config, problem = self.config, self.problem
        self.efficiency = np.log2(1 + problem.mean_snr[0] * problem.fading.gain[0])
        self.efficiencies.append(self.efficiency)
        n = len(self.initial)
        kept = max(1, round(config.density * n))
        places = min(kept * math.ceil(math.log2(n)), n) if kept < n else 0
        report = config.report_bits if self.knowledge in ("remembered", "lazy") else 0
        self.rate = config.bandwidth_hz * self.efficiency
        self.upload_s = (32 * kept + places + report) / self.rate
        samples = np.array([len(rows) for rows in self.rows])
        d, (h,) = problem.features.train.shape[1], config.hidden_sizes
        epochs = config.local_epochs if config.update == "model" else 1
        cycles = config.cycles_per_flop * 6 * (d * h + h * 10) * samples * epochs
        self.nominal_s = cycles / problem.cpu_hz[0]
        drawn = problem.streams.uniforms(LANE, Purpose.SLOW_DOWNS, (self.k,), problem.rounds)[0]
        slow = drawn < config.slowdown_probability
        self.compute_s = self.nominal_s * np.where(slow, config.slowdown, 1)
        np.testing.assert_allclose(problem.compute_s[0], self.compute_s, rtol=1e-9)
        self.compute_j = config.capacitance * cycles * problem.cpu_hz[0] ** 2
        self.watt = 10 ** (config.transmit_power_dbm / 10) / 1e3
        w = global_model(self.env)
        for k in self.participating if self.knowledge != "remembered" else []:
            if config.mode == "lazy":
                told = w - self.uploaded[k]
            else:
                told, self.training_loss[k] = self.trained(w, k)
                if config.update == "gradient":
                    told = self.loss_and_gradient(w, self.rows[k])[1]
                self.told[k] = told
                self.change[k] = np.linalg.norm(told - self.arrived_last[k])
            self.indicator[k], self.computed_in[k] = np.linalg.norm(told), self.rounds

    def broadcast_s(self, receivers: list[int]) -> float:
        """Return how long the model takes to the last of them."""
        if self.config.broadcast == "free":
            return 0.0
        up = 10 ** ((46 - self.config.transmit_power_dbm) / 10)
        snr = up * self.problem.mean_snr[0] * self.problem.fading.gain[0]
        slowest = min(self.config.bandwidth_hz * math.log2(1 + snr[k]) for k in receivers)
        return 32 * len(self.initial) / slowest

    def elapsed_s(self) -> float:
        """Return when the last report of the round has come."""
        if self.knowledge in ("remembered", "free"):
            return 0.0
        n = len(self.participating)
        begin = self.broadcast_s(self.participating)
        reports = {k: self.config.report_bits / (self.rate[k] / n) for k in self.participating}
        computing = self.compute_s if self.knowledge == "reported" else np.zeros(self.k)
        return max(begin + computing[k] + report for k, report in reports.items())

    def columns(self, action: Any) -> dict[str, Vector]:
        """Return what an action says, by name."""
        names = ["scores"]
        names += ["band"] if self.config.bandwidth == "agent" else []
        agent = self.config.participation == "agent" and self.config.actions == "scores"
        names += ["participation"] if agent and self.knowledge == "reported" else []
        return dict(zip(names, np.reshape(action, (self.k, len(names))).T, strict=True))

    def chosen(self, action: Any) -> list[int]:
        config = self.config
        if config.actions == "device":
            return [int(action)]
        scores = self.columns(action)["scores"]
        ranking = sorted(self.participating, key=lambda k: -scores[k])
        if config.selection == "top":
            return sorted(ranking[: config.uploads_per_round])
        return sorted(k for k in ranking if scores[k] > 0) or ranking[:1]

    def ready(self, scheduled: list[int]) -> tuple[Vector, Vector]:
        """Return when devices can upload, and when they are expected to."""
        if self.knowledge == "reported":
            return (np.full(self.k, self.elapsed_s()),) * 2
        begin = self.elapsed_s()
        if self.knowledge == "remembered":
            begin = self.broadcast_s(scheduled)
        elif self.knowledge == "free":
            begin = self.broadcast_s(self.participating)
        expected = self.compute_s if self.knowledge == "free" else self.nominal_s
        return begin + self.compute_s, begin + expected

    def finish(self, scheduled: list[int], answering: list[int], action: Any) -> dict[int, float]:
        """Return when each device is done."""
        if not answering:
            return {}
        (ready, expected), needs = self.ready(scheduled), self.upload_s
        if self.config.bandwidth == "finish":
            low = max(expected[k] for k in answering)
            high = low + sum(needs[k] for k in answering)
            for _ in range(200):
                middle = (low + high) / 2
                enough = sum(needs[k] / max(middle - expected[k], 1e-300) for k in answering) <= 1
                low, high = (low, middle) if enough else (middle, high)
            shares = {k: needs[k] / (high - expected[k]) for k in answering}
        elif self.config.bandwidth == "equal":
            shares = {k: 1 / len(answering) for k in answering}
        else:
            band = self.columns(action)["band"]
            total = sum(math.exp(4 * band[k]) for k in answering)
            shares = {k: math.exp(4 * band[k]) / total for k in answering}
        return {k: ready[k] + needs[k] / shares[k] for k in answering}

    def step(self, action: Any, absent: list[int], lost: list[int]) -> dict[str, Any]:
        """Play a round and return what it should have led to."""
        config = self.config
        scheduled = self.chosen(action)
        answering = [k for k in scheduled if k not in absent]
        finish = self.finish(scheduled, answering, action)
        waits = {k: self.ready(scheduled)[1][k] for k in scheduled if k not in answering}
        if self.knowledge == "free" and answering:
            waits = {}
        round_s = max(self.elapsed_s(), *finish.values(), *waits.values())
        energy = np.zeros(self.k)
        computing = scheduled
        if self.knowledge in ("reported", "free"):
            computing = self.participating
        reporting = self.participating if self.knowledge in ("reported", "lazy") else []
        for k in range(self.k):
            energy[k] += self.compute_j[k] * (k in computing)
            energy[k] += self.watt * config.report_bits / self.rate[k] * (k in reporting)
            energy[k] += self.watt * self.upload_s[k] * (k in answering)
        lazy = config.mode == "lazy"
        budget = config.budget_j if lazy else config.budget_s
        took = energy.sum() if lazy else round_s
        in_time = self.spent + took <= budget
        share = 1.0 if in_time else (budget - self.spent) / took
        self.spent += share * took
        self.seconds += share * round_s
        self.energy = self.energy + share * energy
        sending = answering if in_time else []
        arrived = [k for k in sending if k not in lost]

        w = global_model(self.env)
        received = {}
        for k in sending:
            update, loss = self.trained(w, k)
            if self.knowledge in ("remembered", "lazy") and k in arrived:
                self.training_loss[k] = loss
            received[k] = self.sent(k, update)
            self.uploaded[k] = w + update
            if self.knowledge == "remembered" and k in arrived:
                told = self.loss_and_gradient(w, self.rows[k])[1]
                told = told if config.update == "gradient" else update
                self.indicator[k], self.computed_in[k] = np.linalg.norm(told), self.rounds
        self.arrived_last[arrived] = self.told[arrived]
        total, weight = np.zeros_like(w), 0.0
        r = config.redundancy
        for first in range(0, self.k, r):
            group = [k for k in arrived if first <= k < first + r]
            if group:
                n = len(self.rows[first])
                total += n * np.mean([received[k] for k in group], axis=0)
                weight += n
        model = w + total / weight if arrived else w

        participating = self.participating
        if "participation" in (columns := self.columns(action) if np.ndim(action) else {}):
            wanted = columns["participation"]
            self.participating = [k for k in range(self.k) if wanted[k] > 0]
            self.participating = self.participating or [int(np.argmax(wanted))]
        self.rounds += 1
        for k in range(self.k):
            self.uploads[k] += k in scheduled
            self.arrivals[k] += k in arrived
            self.last_arrival[k] = self.rounds if k in arrived else self.last_arrival[k]
            served = self.efficiency[k] if k in scheduled else 0
            self.throughput[k] = 0.9 * self.throughput[k] + 0.1 * served
        terminated = not in_time
        return {
            "model": model,
            "terminated": terminated,
            "truncated": not terminated and self.rounds == config.max_rounds,
            "took": share * took,
            "info": {
                "rounds": self.rounds,
                "seconds": self.seconds,
                "joules": self.energy.sum(),
                "round_s": share * round_s,
                "round_j": share * energy.sum(),
                "participants": len(participating),
                "scheduled": len(scheduled),
                "arrived": len(arrived),
            },
        }
