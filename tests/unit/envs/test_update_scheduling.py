"""Update scheduling: rounds, averages and observations against a slow and plain reference."""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from references import Vector, column, global_model, perceptron_loss_and_gradient
from rollouts import assert_same, random_actions
from scipy.stats import gmean, kstest
from stable_baselines3 import PPO

from edge_gym.agents import load_agent, save_agent
from edge_gym.agents.recipe import find_recipe
from edge_gym.agents.training.imitation import imitate
from edge_gym.agents.training.model import make_model
from edge_gym.baselines import make_baseline
from edge_gym.data import SampleError
from edge_gym.envs.update_scheduling.actions import Decision, action_codec
from edge_gym.envs.update_scheduling.config import UpdateSchedulingConfig
from edge_gym.envs.update_scheduling.timing import Clock, share_band
from edge_gym.evaluation.throughput import measure
from edge_gym.integrations.sb3 import LaneVecEnv

PLAIN, GRADIENT = "UpdateScheduling-v0", "UpdateSchedulingGradient-v0"
DEVICE, LAZY = "UpdateSchedulingDiscrete-v0", "UpdateSchedulingLazy-v0"
LAZY_DEVICE = "UpdateSchedulingLazyDiscrete-v0"
# A batch holds all samples of a device, so that their order means nothing.
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


# ---------------------------------------------------------------------------- the plain reference


class Plain:
    """One episode, one device after the other, in double precision.

    It takes what was drawn (places, processors, fading, slow-downs, samples) and the global model
    at the beginning of a round from the environment, and works out the rest for itself.
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
        model, losses = w.copy(), []
        for _ in range(self.config.local_epochs if self.config.update == "model" else 1):
            loss, gradient = self.loss_and_gradient(model, self.rows[k])
            model -= self.config.learning_rate * gradient
            losses.append(loss)
        return model - w, float(np.mean(losses))

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
        self.efficiency = np.log2(1 + problem.mean_snr[0] * problem.gain[0])
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
        slow = problem.compute_s[0] / self.nominal_s
        assert all(min(abs(s - 1), abs(s - config.slowdown)) < 1e-9 for s in slow)
        self.compute_s = self.nominal_s * np.where(slow > 1 + 1e-9, config.slowdown, 1)
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
        snr = up * self.problem.mean_snr[0] * self.problem.gain[0]
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


def compare_past(plain: Plain, observation: dict[str, Any], took: float, info: Any) -> None:
    """Compare what is observed of the rounds so far."""
    env, config = plain.env, plain.config
    uploads = plain.uploads
    budget = config.budget_j if config.mode == "lazy" else config.budget_s
    devices = {
        "throughput": plain.throughput,
        "staleness": plain.rounds - plain.last_arrival,
        "uploads": uploads,
        "arrivals": np.where(uploads > 0, plain.arrivals / np.maximum(uploads, 1), 1),
        "samples": [len(rows) for rows in plain.rows],
        "energy_j": plain.energy,
    }
    system = {
        "devices": config.n_devices,
        "budget_left": budget - plain.spent,
        "rounds": plain.rounds,
        "last_round": took,
        "accuracy": info["validation_accuracy"],
        "loss": info["validation_loss"],
        "loss_slope": plain.slope,
    }
    for part, columns in (("devices", devices), ("system", system)):
        for name, wanted in columns.items():
            found = column(env, observation, part, name)
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7, err_msg=name)


def compare_present(plain: Plain, observation: dict[str, Any]) -> None:
    """Compare what is observed of the round that begins."""
    env = plain.env
    known = plain.computed_in >= 0
    unknown = plain.indicator[known].mean() if known.any() else 1
    indicator = np.where(known, plain.indicator, unknown)
    told = ~np.isnan(plain.training_loss)
    guess = plain.training_loss[told].mean() if told.any() else np.log(10)
    upload_j = plain.watt * plain.upload_s
    taking_part = np.isin(np.arange(plain.k), plain.participating)
    timed = {"free": np.ones(plain.k), "reported": taking_part}.get(
        plain.knowledge, np.zeros(plain.k)
    )
    compute_s = np.where(timed, plain.compute_s, plain.nominal_s)
    cost_s, cost_j = compute_s + plain.upload_s, plain.compute_j + upload_j
    cost = cost_j if env.config.mode == "lazy" else cost_s
    share = indicator / max(indicator.mean(), 1e-12)
    devices = {
        "indicator": indicator,
        "indicator_share": share,
        "log_indicator": np.maximum(np.log(np.maximum(share, 1e-300)), -10),
        "log_cost": np.log(cost / gmean(cost)),
        "efficiency": plain.efficiency,
        "mean_efficiency": np.mean(plain.efficiencies, axis=0),
        "upload_s": plain.upload_s,
        "compute_s": compute_s,
        "compute_j": plain.compute_j,
        "upload_j": upload_j,
        "nominal_s": plain.nominal_s,
        "indicator_age": plain.rounds - plain.computed_in,
        "training_loss": np.where(np.isnan(plain.training_loss), guess, plain.training_loss),
        "participates": taking_part,
    }
    if plain.knowledge in ("reported", "free"):
        devices["change"] = plain.change
    else:
        assert "change" not in env.tables["devices"]
    elapsed_s = column(env, observation, "system", "elapsed_s")
    assert elapsed_s == pytest.approx(plain.elapsed_s(), rel=1e-5)
    for name, wanted in devices.items():
        found = column(env, observation, "devices", name)
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-5, err_msg=name)


Outcome = tuple[Any, list[int], list[int]]


def outcomes_of(env: Any, rounds: int, risk: float) -> list[Outcome]:
    """Draw rounds: an action, who drops out, and whose upload is lost."""
    rng = np.random.default_rng(0)
    actions = itertools.islice(random_actions(env.action_space, 3), rounds)

    def some(probability: float) -> list[int]:
        return np.flatnonzero(rng.random(env.config.n_devices) < probability).tolist()

    return [(action, some(0.3 * risk), some(0.4 * risk)) for action in actions]


def play(env: Any, outcome: Outcome) -> Any:
    """Take a step in which who fails is certain, so that nothing depends on the draws."""
    action, absent, lost = outcome
    devices = np.arange(env.config.n_devices)
    env.problem.drop_out[0] = np.isin(devices, absent)
    env.problem.packet_error[0] = np.isin(devices, lost)
    return env.step(action)


def half_a_round(name: str, fields: dict[str, Any], outcomes: list[Outcome]) -> dict[str, float]:
    """Return a budget that ends in the middle of a round that costs something, a late one."""
    env = make(name, **{**fields, **ENDLESS})
    env.reset(seed=3)
    unit = "joules" if env.config.mode == "lazy" else "seconds"
    spent = [0.0, *(play(env, outcome)[4][unit] for outcome in outcomes)]
    late = max(i for i in range(len(outcomes)) if spent[i + 1] > spent[i])
    budget = (spent[late] + spent[late + 1]) / 2
    return {"budget_s": budget} if unit == "seconds" else {"budget_j": budget}


@pytest.mark.parametrize("end", ["budget", "rounds"])
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (PLAIN, {}),
        (PLAIN, {"participation": "agent", "slowdown_probability": 0.5}),
        (PLAIN, {"participation": "agent", "bandwidth": "agent", "report_bits": 5000}),
        (PLAIN, {"participation": "agent", "selection": "top", "uploads_per_round": 3}),
        (PLAIN, {"participation": "agent", "redundancy": 2, "density": 0.2}),
        (PLAIN, {"indicators": "remembered", "slowdown_probability": 0.5, "report_bits": 800}),
        (PLAIN, {"indicators": "remembered", "bandwidth": "equal", "density": 0.3}),
        (PLAIN, {"indicators": "free", "slowdown_probability": 0.5}),
        (PLAIN, {"indicators": "free", "broadcast": "free", "bandwidth": "agent"}),
        (PLAIN, {"bandwidth": "equal", "local_epochs": 3, "slowdown_probability": 0.5}),
        (PLAIN, {"bandwidth": "agent", "selection": "top", "uploads_per_round": 2}),
        (PLAIN, {"redundancy": 2, "partition": "dirichlet"}),
        (PLAIN, {"density": 0.1, "slowdown": 9.0}),
        (PLAIN, {"corrupt_devices": 2, "partition": "iid", "participation": "agent"}),
        (PLAIN, {"corrupt_devices": 2, "redundancy": 2, "indicators": "remembered"}),
        (GRADIENT, {"bandwidth": "agent", "learning_rate": 1.0}),
        (GRADIENT, {"participation": "agent", "learning_rate": 1.0}),
        (GRADIENT, {"indicators": "remembered", "learning_rate": 1.0, "redundancy": 2}),
        (GRADIENT, {"density": 0.3, "redundancy": 4, "learning_rate": 1.0}),
        (DEVICE, {"local_epochs": 2}),
        (LAZY, {}),
        (LAZY, {"broadcast": "free", "report_bits": 4000, "slowdown_probability": 0.5}),
        (LAZY, {"bandwidth": "equal", "local_epochs": 2, "redundancy": 2}),
        (LAZY, {"bandwidth": "agent", "selection": "top", "uploads_per_round": 3}),
        (LAZY, {"update": "gradient", "density": 0.2}),
        (LAZY, {"corrupt_devices": 3, "label_noise": 0.5}),
        (LAZY_DEVICE, {}),
    ],
)
def test_an_episode_equals_the_plain_reference(name: str, fields: dict[str, Any], end: str) -> None:
    rounds = 9
    outcomes = outcomes_of(make(name, **fields), rounds, risk=end == "budget")
    limit = {**ENDLESS, "max_rounds": rounds}
    if end == "budget":
        limit = {**ENDLESS, **half_a_round(name, fields, outcomes)}
    env = make(name, **fields, **limit)
    observation, info = env.reset(seed=3)
    plain = Plain(env)
    compare_present(plain, observation)
    compare_past(plain, observation, 0.0, info)
    for outcome in outcomes:
        before, loss = env.problem.learner.weights.clone(), info["validation_loss"]
        wanted = plain.step(*outcome)
        observation, reward, terminated, truncated, info = play(env, outcome)
        np.testing.assert_allclose(global_model(env), wanted["model"], atol=2e-6)
        if not wanted["info"]["arrived"]:
            assert torch.equal(env.problem.learner.weights, before)
            assert reward == 0
        for key, value in wanted["info"].items():
            assert info[key] == pytest.approx(value, rel=1e-9), key
        assert (terminated, truncated) == (wanted["terminated"], wanted["truncated"])
        plain.slope = 0.7 * plain.slope + 0.3 * (loss - info["validation_loss"])
        compare_past(plain, observation, wanted["took"], info)
        if terminated or truncated:
            break
        plain.begin()
        compare_present(plain, observation)
    assert terminated == (end == "budget")
    assert truncated == (end == "rounds")
    assert plain.rounds >= 5
    if terminated:
        assert info["arrived"] == 0
        spent = info["joules" if env.config.mode == "lazy" else "seconds"]
        assert spent == pytest.approx(env.config.budget, rel=1e-12)
    loss, _ = plain.loss_and_gradient(global_model(env), env.problem.validation[0])
    assert info["validation_loss"] == pytest.approx(loss, rel=1e-5)
    fairness = plain.uploads.sum() ** 2 / (plain.k * np.square(plain.uploads).sum())
    assert info["fairness"] == pytest.approx(fairness)


# ------------------------------------------------------------------------------- what is computed


@pytest.mark.parametrize(("batch_size", "local_epochs"), [(4, 2), (1, 1), (10, 3)])
def test_devices_train_in_mini_batches(batch_size: int, local_epochs: int) -> None:
    """A device whose samples are all alike takes the same steps in any order of them."""
    env = make(LAZY, batch_size=batch_size, local_epochs=local_epochs, size_spread=0, **ENDLESS)
    env.reset(seed=0)
    env.problem.rows[0] = env.problem.rows[0, :, :1]
    plain = Plain(env)
    models = []
    for k in range(4):
        model = plain.initial
        for _ in range(local_epochs * math.ceil(10 / batch_size)):
            model = model - 0.3 * plain.loss_and_gradient(model, plain.rows[k])[1]
        models.append(model)
    env.step(scores_of(0, 1, 2, 3))
    np.testing.assert_allclose(global_model(env), np.mean(models, axis=0), atol=3e-6)


def test_gradients_of_everyone_are_a_step_on_the_union() -> None:
    env = make(GRADIENT, partition="iid", size_spread=0.6, learning_rate=0.7, **ENDLESS)
    env.reset(seed=1)
    assert len(set(env.problem.sizes[0])) > 1
    plain = Plain(env)
    for _ in range(5):
        w = global_model(env)
        loss, gradient = plain.loss_and_gradient(w, np.concatenate(plain.rows))
        env.step(scores_of(0, 1, 2, 3))
        np.testing.assert_allclose(global_model(env), w - 0.7 * gradient, atol=2e-6)
    assert plain.loss_and_gradient(global_model(env), np.concatenate(plain.rows))[0] < loss


def test_the_gradient_norm_is_not_scaled_by_the_learning_rate() -> None:
    env = make(GRADIENT, learning_rate=0.25)
    observation, _ = env.reset(seed=0)
    plain = Plain(env)
    wanted = [
        np.linalg.norm(plain.loss_and_gradient(plain.initial, rows)[1]) for rows in plain.rows
    ]
    found = column(env, observation, "devices", "indicator")
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize("density", [1.0, 0.2])
@pytest.mark.parametrize("name", [GRADIENT, LAZY])
def test_quantised_updates_and_what_devices_keep_back(name: str, density: float) -> None:
    bits = 4
    env = make(name, bits=bits, density=density, local_epochs=2, **ENDLESS)
    env.reset(seed=2)
    plain = Plain(env)
    n = len(plain.initial)
    n_kept = max(1, round(density * n))
    rng = np.random.default_rng(0)
    for step in range(12):
        k = int(rng.integers(4))
        lost = step % 3 == 1
        env.problem.packet_error[0] = lost
        w = global_model(env)
        wanted = plain.trained(w, k)[0] + plain.kept_back[k]
        env.step(scores_of(k))
        memory = env.problem.compressor.memory[0].double().numpy()
        # The server gets what the device believes to have sent, unless it is lost.
        sent = wanted - memory[k]
        np.testing.assert_allclose(global_model(env) - w, 0 if lost else sent, atol=2e-6)
        scale = np.abs(wanted).max() / (2 ** (bits - 1) - 1)
        places = np.abs(sent) > 1e-5
        assert places.sum() <= n_kept
        np.testing.assert_allclose(sent / scale, np.round(sent / scale), atol=2e-3)
        largest = np.argsort(-np.abs(wanted))[:n_kept]
        assert np.abs(sent - wanted)[largest].max() <= scale * 1.001
        assert not places[np.setdiff1d(np.arange(n), largest)].any()
        plain.kept_back[k] = memory[k]
        np.testing.assert_allclose(memory, plain.kept_back, atol=1e-12)
    assert np.abs(plain.kept_back).max(axis=1).min() > 0


def test_those_who_do_not_send_keep_nothing_back() -> None:
    env = make(density=0.2, budget_s=0.03, max_rounds=1000)
    env.reset(seed=0)
    env.problem.drop_out[0] = [1, 0, 0, 0]
    env.step(scores_of(0, 1))
    memory = env.problem.compressor.memory[0]
    assert memory.abs().amax(dim=1).bool().tolist() == [False, True, False, False]
    over = False
    while not over:
        before = memory.clone()
        *_, over, _, info = env.step(scores_of(0, 1, 2, 3))
        assert torch.equal(memory, before) == over
    # Nothing was sent in the round that was broken off.
    assert info["rounds"] > 2
    assert info["arrived"] == 0


def test_batch_normalisation_is_averaged_and_no_step_size_scales_it() -> None:
    fields = {"network": "mobilenet-v2", "image_size": 28, "n_devices": 2, "learning_rate": 0.1}
    fields |= {"uploads_per_round": 1, "samples_per_device": 3, "validation_size": 10}
    env = make(GRADIENT, **fields, size_spread=0, test_size=10, **ENDLESS)
    env.reset(seed=0)
    problem = env.problem
    gradients, _ = problem.learner.gradients(LANE, problem.rows, problem.sizes)
    scale = torch.ones(problem.network.n_values)
    scale[: problem.network.n_parameters] = 0.1
    wanted = problem.learner.weights[0] - scale * gradients[0].mean(dim=0)
    env.step(np.ones(2))
    torch.testing.assert_close(problem.learner.weights[0], wanted)


# ------------------------------------------------------------------------------------- scheduling


@pytest.mark.parametrize(
    ("fields", "scores", "wanted"),
    [
        ({}, [0.1, -0.1, 1, 0], [0, 2]),
        ({}, [0, 0, 0, 0], [0]),
        ({}, [-1, -0.2, -0.1, -0.1], [2]),
        ({}, [1, 1, 1, 1], [0, 1, 2, 3]),
        ({"selection": "top", "uploads_per_round": 2}, [1, 1, 1, 1], [0, 1]),
        ({"selection": "top", "uploads_per_round": 3}, [-1, 0, -0.5, -0.7], [1, 2, 3]),
    ],
)
@pytest.mark.parametrize("bandwidth", ["finish", "equal", "agent"])
def test_who_is_scheduled(
    bandwidth: str, fields: dict[str, Any], scores: list[float], wanted: list[int]
) -> None:
    env = make(bandwidth=bandwidth, **fields, **ENDLESS)
    env.reset(seed=0)
    action = np.array(scores)
    if bandwidth == "agent":
        action = np.stack([action, [0.5, -1, 1, 0]], axis=1)
    observation, *_, info = env.step(action)
    assert info["scheduled"] == info["arrived"] == len(wanted)
    uploads = column(env, observation, "devices", "uploads")
    assert np.flatnonzero(uploads).tolist() == wanted


@cache
def problem_of(bandwidth: str) -> Any:
    return make(bandwidth=bandwidth).problem


Seconds = st.lists(st.floats(1e-4, 1e3), min_size=4, max_size=4)


@settings(max_examples=150, deadline=None)
@given(
    needs=Seconds,
    ready=Seconds,
    answering=st.lists(st.booleans(), min_size=4, max_size=4),
    logits=st.lists(st.floats(-1, 1), min_size=4, max_size=4),
)
def test_shares_of_the_band(
    needs: list[float], ready: list[float], answering: list[bool], logits: list[float]
) -> None:
    who = np.array([answering])
    finishes = {}
    for bandwidth in ("finish", "equal", "agent"):
        problem = problem_of(bandwidth)
        # At this efficiency an upload takes as long as it should.
        efficiency = problem.compressor.payload_bits / problem.config.bandwidth_hz / np.array(needs)
        efficiency = np.maximum(efficiency, 1e-6)
        problem.mean_snr[0], problem.gain[0] = 1, np.expm1(efficiency * math.log(2))
        upload_s = problem.upload_s(LANE)[0]
        given_logits = np.array([logits]) if bandwidth == "agent" else None
        ready_s = np.array([ready])
        clock = Clock(np.zeros(1), np.zeros(1), ready_s, ready_s)
        shares, finish_s = share_band(bandwidth, upload_s[None], who, clock, given_logits)
        assert not shares[~who].any()
        assert not finish_s[~who].any()
        if not who.any():
            continue
        assert (shares[who] > 0).all()
        assert shares.sum() == pytest.approx(1, rel=1e-6)
        # Nobody is faster than with the whole band.
        alone = (np.array(ready) + upload_s)[who[0]]
        assert (finish_s[who] >= alone * (1 - 1e-9)).all()
        takes = upload_s / np.where(who[0], shares[0], 1)
        np.testing.assert_allclose(finish_s[who], (ready + takes)[who[0]], rtol=1e-9)
        finishes[bandwidth] = finish_s[who]
        if bandwidth == "finish":
            np.testing.assert_allclose(finish_s[who], finish_s.max(), rtol=1e-9)
        if bandwidth == "agent":
            weights = np.exp(4 * np.array(logits))[who[0]]
            np.testing.assert_allclose(shares[who], weights / weights.sum(), rtol=1e-9)
    if who.any():
        # No other shares end the round earlier.
        best = finishes["finish"].max() * (1 - 1e-6)
        assert finishes["equal"].max() >= best
        assert finishes["agent"].max() >= best


KNOWLEDGE: list[tuple[str, dict[str, Any]]] = [
    (PLAIN, {}),
    (PLAIN, {"indicators": "remembered"}),
    (PLAIN, {"indicators": "free"}),
    (LAZY, {}),
]


@pytest.mark.parametrize(("name", "fields"), KNOWLEDGE)
def test_a_round_in_which_nobody_answers_takes_time_and_energy(
    name: str, fields: dict[str, Any]
) -> None:
    env = make(name, **fields, drop_out=0.5, max_rounds=4, budget_s=1e3)
    env.reset(seed=0)
    env.problem.drop_out[0] = 1
    before = env.problem.learner.weights.clone()
    seconds = joules = 0.0
    for step in range(4):
        plain = Plain(env)
        expected = plain.ready([0, 2])[1][[0, 2]].max()
        computing = [0, 2] if plain.knowledge in ("lazy", "remembered") else [0, 1, 2, 3]
        reporting = [0, 1, 2, 3] if plain.knowledge in ("lazy", "reported") else []
        observation, reward, terminated, truncated, info = env.step(scores_of(0, 2))
        # As long as waiting for the slower one, or for the reports.
        seconds += expected
        joules += plain.compute_j[computing].sum()
        joules += (plain.watt * 32 / plain.rate[reporting]).sum()
        assert info["seconds"] == pytest.approx(seconds)
        assert info["joules"] == pytest.approx(joules)
        assert info["round_s"] >= plain.compute_s[[0, 2]].min()
        assert (info["scheduled"], info["arrived"], reward) == (2, 0, 0)
        assert (terminated, truncated) == (False, step == 3)
        assert column(env, observation, "devices", "arrivals").tolist() == [0, 1, 0, 1]
    assert torch.equal(env.problem.learner.weights, before)


@pytest.mark.parametrize(("name", "fields"), KNOWLEDGE)
def test_failures_spend_the_budget(name: str, fields: dict[str, Any]) -> None:
    """Where nothing ever arrives, the budget ends all the same."""
    for risk in ({"drop_out": 1.0}, {"packet_error": 1.0}):
        env = make(name, **fields, **risk, budget_s=2e-3, budget_j=5e-5, max_rounds=10_000)
        env.reset(seed=0)
        env.problem.drop_out[0] = env.config.drop_out
        env.problem.packet_error[0] = env.config.packet_error
        over = False
        while not over:
            *_, over, truncated, info = env.step(scores_of(0, 2))
            assert not truncated
        assert info["arrived"] == 0
        assert info["rounds"] < 100


def test_one_who_does_not_answer_is_waited_for() -> None:
    for name, fields in KNOWLEDGE[1::2]:
        env = make(name, **fields, slowdown_probability=0, **ENDLESS)
        env.reset(seed=0)
        slow = int(np.argmax(env.problem.compute_s[0]))
        # So that the others have finished long before.
        env.problem.cpu_hz[0, slow] /= 1e3
        env.problem.compute_s[0, slow] *= 1e3
        env.problem.drop_out[0, slow] = 1
        wanted = Plain(env).ready([0, 1, 2, 3])[1][slow]
        *_, info = env.step(scores_of(0, 1, 2, 3))
        assert info["round_s"] == pytest.approx(wanted)
        assert info["arrived"] == 3


# ---------------------------------------------------------------- who takes part, and what is known


def agent(scores: Any, participation: Any) -> NDArray[np.float32]:
    """Return an action with a column that says who takes part next."""
    return np.stack([scores, participation], axis=-1).astype(np.float32)


@pytest.mark.parametrize("bandwidth", ["finish", "agent"])
@pytest.mark.parametrize("participation", ["all", "agent"])
@pytest.mark.parametrize("indicators", ["reported", "remembered", "free"])
def test_actions_say_what_was_put_into_them(
    indicators: str, participation: str, bandwidth: str
) -> None:
    config = UpdateSchedulingConfig(
        indicators=indicators, participation=participation, bandwidth=bandwidth
    )
    names = ["scores"]
    names += ["band"] if bandwidth == "agent" else []
    names += ["participation"] if participation == "agent" and indicators == "reported" else []
    codec = action_codec(config)
    assert list(codec.columns) == names
    rng = np.random.default_rng(0)
    said = Decision(*rng.uniform(-1, 1, (3, 2, 10)).astype(np.float32))
    action = codec.encode(said)
    assert action.shape == ((2, 10, len(names)) if len(names) > 1 else (2, 10))
    found = codec.decode(action)
    for name in Decision._fields:
        wanted = getattr(said, name) if name in names else None
        assert wanted is None or np.array_equal(getattr(found, name), wanted)
        assert (getattr(found, name) is None) == (wanted is None)
    space = gym.make(
        f"edge_gym/{PLAIN}",
        indicators=indicators,
        participation=participation,
        bandwidth=bandwidth,
    ).action_space
    assert space.shape == action.shape[1:]


@pytest.mark.parametrize(
    ("participation", "scores", "participants", "scheduled"),
    [
        ([1, 1, 1, 1], [1, -1, 1, -1], [0, 1, 2, 3], [0, 2]),
        ([1, -1, 1, -1], [1, 1, -1, 1], [0, 2], [0]),
        ([1, -1, 1, 0], [-0.5, 1, -0.2, 1], [0, 2], [2]),
        ([-1, -0.3, -0.1, -0.1], [1, 1, -1, 1], [2], [2]),
        ([0, 0, 0, 0], [1, 1, 1, 1], [0], [0]),
    ],
)
def test_who_is_left_out_of_the_next_round(
    participation: list[float],
    scores: list[float],
    participants: list[int],
    scheduled: list[int],
) -> None:
    env = make(participation="agent", slowdown_probability=0.5, **ENDLESS)
    observation, _ = env.reset(seed=0)
    assert column(env, observation, "devices", "participates").all()
    observation, *_, info = env.step(agent([1, 1, 1, 1], participation))
    assert info["participants"] == info["scheduled"] == 4
    found = column(env, observation, "devices", "participates")
    assert np.flatnonzero(found).tolist() == participants
    age = column(env, observation, "devices", "indicator_age")
    assert age.tolist() == [float(k not in participants) for k in range(4)]
    # Those left out tell nothing, and use nothing.
    energy = env.problem.energy_j[0].copy()
    before = column(env, observation, "devices", "uploads")
    observation, *_, info = env.step(agent(scores, [1, 1, 1, 1]))
    assert info["participants"] == len(participants)
    uploads = column(env, observation, "devices", "uploads") - before
    assert np.flatnonzero(uploads).tolist() == scheduled
    used = env.problem.energy_j[0] - energy
    assert np.flatnonzero(used).tolist() == participants
    assert column(env, observation, "devices", "participates").all()


@pytest.mark.parametrize("bandwidth", ["finish", "agent"])
def test_columns_that_are_not_given_are_filled(bandwidth: str) -> None:
    whole, part = (make(bandwidth=bandwidth, participation="agent", **ENDLESS) for _ in range(2))
    columns = whole.action_space.shape[-1]
    assert columns == (3 if bandwidth == "agent" else 2)
    scores = np.random.default_rng(0).uniform(-1, 1, whole.action_space.shape).astype(np.float32)
    for width in range(columns):
        filled = scores.copy()
        filled[:, max(width, 1) :] = 1
        fewer = scores[:, :width] if width else scores[:, 0]
        for env, action in ((whole, filled), (part, fewer)):
            env.reset(seed=3)
            env.step(action)
        assert_same(part.step(fewer), whole.step(filled))
    with pytest.raises(ValueError, match=r"must have shape \(\d+, \d\), got shape \(3,\)"):
        whole.step(scores[:3, 0])


@pytest.mark.parametrize("name", [PLAIN, LAZY])
def test_devices_that_are_not_given_are_not_filled(name: str) -> None:
    env = make(name)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"must have shape \(4,\), got shape \(3,\)"):
        env.step(scores_of(0, n=3))
    lanes: Any = gym.make_vec(f"edge_gym/{name}", 2, **SMALL)
    lanes.reset(seed=0)
    with pytest.raises(ValueError, match=r"must have shape \(2, 4\), got shape \(2, 3\)"):
        lanes.step(np.ones((2, 3), np.float32))


def test_leaving_the_slowest_out_makes_the_next_round_shorter() -> None:
    env, twin = (make(participation="agent", slowdown_probability=0.0, **ENDLESS) for _ in "ab")
    for each in (env, twin):
        each.reset(seed=0)
    slowest = int(np.argmax(env.problem.nominal_s(LANE)))
    scores = scores_of(*np.argsort(env.problem.nominal_s(LANE)[0])[:1])
    wanted = np.where(np.arange(4) == slowest, -1, 1)
    observations = [e.step(agent(scores, p))[0] for e, p in ((env, wanted), (twin, np.ones(4)))]
    nominal_s = column(env, observations[0], "devices", "nominal_s")
    without, with_all = (
        float(column(e, o, "system", "elapsed_s"))
        for e, o in zip((env, twin), observations, strict=True)
    )
    saved = nominal_s[slowest] - np.delete(nominal_s, slowest).max()
    assert saved > 0
    # Reports and the broadcast are shorter too, by less.
    assert saved <= (with_all - without) * (1 + 1e-5)
    infos = [e.step(agent(scores, np.ones(4)))[4] for e in (env, twin)]
    assert infos[0]["round_s"] < infos[1]["round_s"] - 0.99 * saved
    assert infos[0]["round_j"] < infos[1]["round_j"]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (PLAIN, {"participation": "agent"}),
        (GRADIENT, {"participation": "agent"}),
        (PLAIN, {"indicators": "remembered"}),
        (GRADIENT, {"indicators": "remembered"}),
        (LAZY, {}),
        (PLAIN, {"indicators": "free"}),
    ],
)
def test_what_is_observed_has_happened(name: str, fields: dict[str, Any]) -> None:
    """Neither slow-downs nor data of devices that have not computed yet change what is seen.

    The oracle, ``indicators="free"``, is the only one that sees them.
    """
    oracle = fields.get("indicators") == "free"

    def seen(slow: bool, swapped: bool) -> list[dict[str, Any]]:
        env = make(name, **fields, slowdown_probability=0.0, **ENDLESS)
        env.reset(seed=5)
        action = scores_of(0, 1)
        if "participation" in action_codec(env.config).columns:
            action = agent(action, action)
        # Where devices report, all have computed in the first round; from now on two do.
        env.step(action)
        problem, observations = env.problem, []
        for _ in range(3):
            if slow:
                problem.compute_s[0, 2:] *= problem.config.slowdown
            if swapped:
                problem.rows[0, 2:] = problem.rows[0, :2]
            observations.append(problem.observe())
            env.step(action)
        return observations

    plain, slow, swapped = seen(False, False), seen(True, False), seen(False, True)
    for other in (slow, swapped):
        same = all(
            np.array_equal(a[part], b[part])
            for a, b in zip(plain, other, strict=True)
            for part in a
        )
        assert same != oracle


def test_remembered_indicators_are_those_of_the_last_arrival() -> None:
    env = make(indicators="remembered", **ENDLESS)
    observation, _ = env.reset(seed=0)

    def columns(observation: Any) -> tuple[list[float], list[float]]:
        return tuple(  # type: ignore[return-value]
            column(env, observation, "devices", name).tolist()
            for name in ("indicator", "indicator_age")
        )

    assert columns(observation) == ([1, 1, 1, 1], [1, 1, 1, 1])
    env.problem.packet_error[0] = [0, 1, 0, 0]
    plain = Plain(env)
    told = np.linalg.norm(plain.trained(plain.initial, 0)[0])
    indicator, age = columns(env.step(scores_of(0, 1))[0])
    # Device 1's was lost with its update; of the others the mean is expected.
    np.testing.assert_allclose(indicator, told, rtol=1e-4)
    assert age == [1, 2, 2, 2]
    second, age = columns(env.step(scores_of(2))[0])
    assert second[0] == indicator[0]
    assert second[1] == pytest.approx((second[0] + second[2]) / 2)
    assert age == [2, 3, 1, 3]


@pytest.mark.parametrize(("name", "fields"), KNOWLEDGE)
def test_the_broadcast_takes_its_time(name: str, fields: dict[str, Any]) -> None:
    """At 46 dBm and 32 bits a value, whatever updates are compressed to."""
    rounds = {}
    for setting in ({}, {"broadcast": "free"}, {"downlink_power_dbm": 0.0}, {"bits": 8}):
        env = make(name, **fields, **setting, slowdown_probability=0.0, **ENDLESS)
        env.reset(seed=0)
        efficiency = np.log2(1 + 10**2.3 * env.problem.mean_snr[0] * env.problem.gain[0])
        rounds[next(iter(setting), "")] = env.step(scores_of(1, 2))[4]
    bits = 32 * (49 * 8 + 8 + 8 * 10 + 10)
    wanted = rounds[""]["broadcast_s"]
    receiving = efficiency[[1, 2]] if "remembered" in fields.values() else efficiency
    assert wanted == pytest.approx(bits / (5e6 * receiving.min()))
    assert rounds["bits"]["broadcast_s"] == wanted
    assert rounds["broadcast"]["broadcast_s"] == 0
    difference = rounds[""]["round_s"] - rounds["broadcast"]["round_s"]
    assert difference == pytest.approx(wanted)
    assert rounds["downlink_power_dbm"]["broadcast_s"] > wanted
    # Devices' energy alone is counted, and receiving costs none.
    assert rounds[""]["round_j"] == pytest.approx(rounds["broadcast"]["round_j"])


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        *KNOWLEDGE,
        (PLAIN, {"participation": "agent"}),
        (PLAIN, {"channel": DRIFTING}),
        (LAZY, {"channel": DRIFTING}),
    ],
)
def test_a_restored_episode_goes_on_alike(name: str, fields: dict[str, Any]) -> None:
    env, twin = (make(name, **fields, packet_error=0.5, **ENDLESS) for _ in range(2))
    env.reset(seed=1)
    twin.reset(seed=2)
    actions = random_actions(env.action_space)
    for action in itertools.islice(actions, 3):
        env.step(action)
    twin.set_state(env.get_state())
    for action in itertools.islice(actions, 4):
        assert_same(env.step(action), twin.step(action))


# -------------------------------------------------------------------------------- channel models


def gains_over_rounds(channel: str, rounds: int = 30) -> NDArray[np.float64]:
    """Return the gains of 20 episodes' rounds, ``(rounds, 20, K)``."""
    many_rounds = {"update": "gradient", "validation_size": 10, "test_size": 10, **ENDLESS}
    env: Any = gym.make_vec(
        "edge_gym/UpdateSchedulingLazyDiscrete-v0",
        20,
        **{**SMALL, **many_rounds, "channel": channel},
        autoreset_mode=AutoresetMode.DISABLED,
    )
    env.reset(seed=3)
    gains = []
    for _ in range(rounds):
        gains.append(env.problem.gain.copy())
        env.step(np.zeros(20, np.int64))
    return np.stack(gains)


def test_gains_are_those_of_the_channel() -> None:
    """Means, spreads and correlations over rounds are the model's."""
    plain = gains_over_rounds("rayleigh")
    assert (gains_over_rounds("awgn") == 1).all()
    steady = gains_over_rounds("rician:k=9")
    assert steady.mean() == pytest.approx(1, abs=0.05)
    # Var of the gain is (1 + 2K)/(1 + K)².
    assert steady.std() == pytest.approx(math.sqrt(19) / 10, abs=0.05)
    assert plain.std() > 2 * steady.std()
    drifting = gains_over_rounds("rayleigh:correlation=0.95")
    for gains, correlation in ((plain, 0.0), (drifting, 0.95**2)):
        found = np.corrcoef(gains[:-1].ravel(), gains[1:].ravel())[0, 1]
        assert found == pytest.approx(correlation, abs=0.12)
    # Shadowing stays for the episode, and each begins with its own.
    shadowed = 10 * np.log10(gains_over_rounds("awgn:shadowing_db=6"))
    assert np.ptp(shadowed, axis=0).max() < 1e-9
    assert shadowed[0].std() == pytest.approx(6, rel=0.25)


def test_the_same_seed_has_the_same_system_under_every_channel() -> None:
    """Places, processors and data are drawn before the channel."""
    envs = [make(channel=channel) for channel in ("rayleigh", "awgn", DRIFTING)]
    for env in envs:
        env.reset(seed=9)
    for name in ("mean_snr", "cpu_hz", "sizes", "validation"):
        for env in envs[1:]:
            np.testing.assert_array_equal(
                getattr(env.problem, name), getattr(envs[0].problem, name)
            )


def test_a_reset_forgets_the_channel() -> None:
    """The first gains of an episode do not depend on the episode before."""
    env, twin = (make(channel=DRIFTING, **ENDLESS) for _ in range(2))
    env.reset(seed=0)
    for action in itertools.islice(random_actions(env.action_space), 3):
        env.step(action)
    assert_same(env.reset(seed=1), twin.reset(seed=1))


@pytest.mark.parametrize("name", [PLAIN, LAZY])
def test_a_budget_that_is_spent_to_the_end_ends_the_episode(name: str) -> None:
    """A round that takes exactly what is left still counts."""
    fields = {"slowdown_probability": 0.0}
    env = make(name, **fields, **ENDLESS)
    env.reset(seed=0)
    info = env.step(scores_of(1))[4]
    budget = {"budget_s": info["seconds"], "budget_j": info["joules"]}
    env = make(name, **fields, **budget, max_rounds=1)
    env.reset(seed=0)
    *_, terminated, truncated, last = env.step(scores_of(1))
    assert (terminated, truncated, last["arrived"]) == (True, False, 1)
    assert last["seconds"] == info["seconds"]


@pytest.mark.parametrize("name", [PLAIN, GRADIENT, LAZY])
def test_devices_may_be_named_in_any_order(name: str) -> None:
    env, twin = (make(name, update="gradient", **ENDLESS) for _ in range(2))
    env.reset(seed=4)
    for action in itertools.islice(random_actions(env.action_space), 3):
        env.step(action)
    order = np.array([2, 0, 3, 1])
    state = env.get_state()
    problem = state["problem"]
    by_device = [key for key, value in problem.items() if np.shape(value)[1:2] == (4,)]
    assert {"rows", "energy_j"} < set(by_device)
    permuted = {key: problem[key][:, order] for key in by_device}
    for part in ("memory", "arrived"):
        permuted[part] = {"vectors": problem[part]["vectors"][:, order]}
    twin.set_state({**state, "problem": {**problem, **permuted}})
    action = np.array([0.2, 0.9, -0.5, 0.3])
    ours, theirs = twin.step(action[order]), env.step(action)
    np.testing.assert_allclose(global_model(twin), global_model(env), atol=1e-6)
    for key in ("round_s", "round_j", "seconds", "joules", "scheduled", "arrived"):
        assert ours[4][key] == pytest.approx(theirs[4][key], rel=1e-9)
    for seen in ("throughput", "staleness", "uploads", "arrivals", "samples", "energy_j"):
        wanted = column(env, theirs[0], "devices", seen)[order]
        np.testing.assert_allclose(column(twin, ours[0], "devices", seen), wanted, rtol=1e-6)


# --------------------------------------------------------------------------------- what is drawn


def test_places_processors_and_luck_are_drawn_as_documented() -> None:
    fields = {"cell_radius_m": 400.0, "packet_error": 0.4, "drop_out": 0.2, "n_devices": 10}
    problem = many(40, samples_per_device=2, partition="iid", size_spread=0, **fields)
    noise_dbm = -174 + 10 * math.log10(5e6)
    loss_db = 23 - 10 * np.log10(problem.mean_snr.ravel()) - noise_dbm
    distance_km = 10 ** ((loss_db - 128.1) / 37.6)
    assert distance_km.min() >= 0.01 - 1e-9
    assert kstest((distance_km / 0.4) ** 2, "uniform").pvalue > 0.01
    low, high = problem.config.cpu_hz
    assert kstest((problem.cpu_hz.ravel() - low) / (high - low), "uniform").pvalue > 0.01
    assert kstest(problem.packet_error.ravel() / 0.4, "uniform").pvalue > 0.01
    assert kstest(problem.drop_out.ravel() / 0.2, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(problem.packet_error.ravel(), problem.drop_out.ravel())[0, 1]) < 0.2
    assert kstest(problem.gain.ravel(), "expon").pvalue > 0.01
    cycles = 4.0 * 6 * problem.network.macs * problem.sizes
    slow = problem.compute_s / (cycles / problem.cpu_hz)
    assert set(slow.round(6).ravel()) == {1.0, problem.config.slowdown}
    assert np.mean(slow > 1.5) == pytest.approx(problem.config.slowdown_probability, abs=0.05)


def test_updates_fail_as_often_as_they_should() -> None:
    lanes, n = np.arange(50), 16
    problem = many(50, LAZY, packet_error=0.5, drop_out=0.5, samples_per_device=2, **ENDLESS)
    problem.packet_error[:], problem.drop_out[:] = [0.0, 0.1, 0.5, 0.9], [0.6, 0.0, 0.5, 0.1]
    for _ in range(n):
        problem.step_lanes(lanes, np.ones((50, 4), np.float32))
    assert (problem.uploads == n).all()
    wanted = (1 - problem.packet_error) * (1 - problem.drop_out)
    # Five standard deviations of 800 draws.
    np.testing.assert_allclose(problem.arrivals.mean(axis=0) / n, wanted[0], atol=0.09)


@pytest.mark.parametrize("redundancy", [1, 2, 3])
@pytest.mark.parametrize("partition", ["iid", "shards", "dirichlet"])
def test_who_holds_which_samples(partition: str, redundancy: int) -> None:
    env = make(
        partition=partition, redundancy=redundancy, n_devices=6, samples_per_device=40, **ENDLESS
    )
    env.reset(seed=5)
    problem = env.problem
    groups = []
    for first in range(0, 6, redundancy):
        members = range(first, first + redundancy)
        held = [problem.rows[0, k, : problem.sizes[0, k]].tolist() for k in members]
        assert all(rows == held[0] for rows in held)
        groups.append(held[0])
    every = list(itertools.chain(*groups))
    assert len(set(every)) == len(every)
    assert not set(every) & set(problem.validation[0])
    labels = problem.features.train_labels
    classes = [len(set(labels[rows])) for rows in groups]
    if partition == "shards":
        # Two shards, each of as many classes as it can touch.
        assert max(classes) <= 2 * (math.ceil(10 / (2 * len(groups))) + 1)
    else:
        assert min(classes) >= (7 if partition == "iid" else 2)


@pytest.mark.parametrize(("redundancy", "spread"), [(1, 0.0), (1, 0.5), (2, 0.3), (1, 0.9)])
def test_sizes_spread_evenly_about_their_mean(redundancy: int, spread: float) -> None:
    problem = many(
        30,
        partition="iid",
        n_devices=6,
        samples_per_device=100,
        size_spread=spread,
        redundancy=redundancy,
    )
    relative = problem.sizes[:, ::redundancy].ravel() / (100 * redundancy)
    assert relative.min() >= 1 - spread - 0.01
    assert relative.max() <= 1 + spread + 0.01
    if not spread:
        assert (relative == 1).all()
        return
    assert kstest((relative - 1 + spread) / (2 * spread), "uniform").pvalue > 0.01


def test_all_samples_are_shared_out_where_no_number_is_given() -> None:
    env = make(samples_per_device=None, size_spread=0)
    env.reset(seed=0)
    n_train = len(env.problem.features.train_labels)
    assert env.problem.sizes.sum() == n_train - SMALL["validation_size"]


@pytest.mark.parametrize(
    ("fields", "bits_each", "places"),
    [
        ({}, 32, 0),
        ({"bits": 8}, 8, 0),
        ({"density": 0.01}, 32, "index"),
        ({"density": 0.5, "bits": 2}, 2, "bitmap"),
    ],
)
def test_the_payload_is_what_is_uploaded(
    fields: dict[str, Any], bits_each: int, places: Any
) -> None:
    env = make(**fields)
    observation, _ = env.reset(seed=0)
    n = 49 * 8 + 8 + 8 * 10 + 10
    kept = round(fields.get("density", 1) * n)
    extra = {0: 0, "index": kept * 9, "bitmap": n}[places] + 32 * ("bits" in fields)
    efficiency = column(env, observation, "devices", "efficiency")
    wanted = (kept * bits_each + extra) / (5e6 * efficiency)
    np.testing.assert_allclose(column(env, observation, "devices", "upload_s"), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_devices": 10_000, "partition": "iid"}, "too few for n_devices = 10000"),
        ({"n_devices": 8_000}, "too few for 16000 shards"),
    ],
)
def test_too_few_samples_say_so(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SampleError, match=message):
        make(**fields)


# ------------------------------------------------------------------------------ rewards and lanes


@pytest.mark.parametrize("reward", ["accuracy", "loss"])
@pytest.mark.parametrize("name", [PLAIN, GRADIENT, DEVICE, LAZY])
def test_rewards_telescope_within_the_budget(name: str, reward: str) -> None:
    env = make(name, reward=reward, packet_error=0.5, max_rounds=1000)
    _, first = env.reset(seed=2)
    unit = "joules" if env.config.mode == "lazy" else "seconds"
    rewards, over = [], False
    actions = random_actions(env.action_space, 2)
    while not over:
        _, gain, over, truncated, info = env.step(next(actions))
        assert gain == info["accuracy_gain" if reward == "accuracy" else "loss_decrease"]
        assert info[unit] <= env.config.budget * (1 + 1e-12)
        assert not truncated
        rewards.append(gain)
    change = info[f"validation_{reward}"] - first[f"validation_{reward}"]
    assert sum(rewards) == pytest.approx(change if reward == "accuracy" else -change, abs=1e-12)
    assert info["total_gain"] == pytest.approx(
        info["validation_accuracy"] - first["validation_accuracy"], abs=1e-12
    )
    assert np.count_nonzero(rewards) >= 3


@pytest.mark.parametrize("name", [PLAIN, GRADIENT, LAZY])
def test_a_model_that_diverges_tells_finite_numbers(name: str) -> None:
    env = make(name, learning_rate=1e3, reward="loss", local_epochs=3, **ENDLESS)
    _, first = env.reset(seed=0)
    # Weights as after very many steps.
    env.problem.learner.weights.mul_(1e38)
    rewards = []
    for _ in range(4):
        observation, reward, *_, info = env.step(scores_of(0, 1, 2, 3))
        assert env.observation_space.contains(observation)
        assert all(math.isfinite(value) for value in info.values())
        rewards.append(reward)
    assert not torch.isfinite(env.problem.learner.weights).all()
    assert first["validation_loss"] - sum(rewards) == pytest.approx(info["validation_loss"])


@pytest.mark.parametrize(
    ("name", "mode"), [(PLAIN, AutoresetMode.NEXT_STEP), (LAZY, AutoresetMode.SAME_STEP)]
)
def test_lanes_end_at_times_of_their_own(name: str, mode: AutoresetMode) -> None:
    fields = {**SMALL, "batch_size": 3, "packet_error": 0.5, "bits": 6}
    fields |= {"budget_s": 0.004, "budget_j": 5e-4}
    ours: Any = gym.make_vec(f"edge_gym/{name}", 3, autoreset_mode=mode, **fields)
    theirs = SyncVectorEnv([lambda: make(name, **fields)] * 3, autoreset_mode=mode)
    assert_same(ours.reset(seed=3), theirs.reset(seed=3))
    actions = random_actions(ours.single_action_space)
    ends = []
    for _ in range(40):
        chosen = np.array([next(actions) for _ in range(3)])
        results = ours.step(chosen), theirs.step(chosen)
        assert_same(*results)
        done = results[0][2] | results[0][3]
        ends.append(done)
    assert np.sum(ends, axis=0).min() >= 2
    assert 1 in np.sum(ends, axis=1)


@pytest.mark.parametrize("limit", [{"max_rounds": 5}, {"budget_s": 0.004}])
def test_the_last_observation_is_of_the_rounds_that_were(limit: dict[str, Any]) -> None:
    env = make(**limit)
    observation, _ = env.reset(seed=0)
    seen = [column(env, observation, "devices", "efficiency")]
    over = False
    while not over:
        observation, _, terminated, truncated, _ = env.step(scores_of(0, 1))
        over = terminated or truncated
        if not over:
            seen.append(column(env, observation, "devices", "efficiency"))
    last = column(env, observation, "devices", "efficiency")
    if not np.array_equal(last, seen[-1]):
        seen.append(last)
    mean = column(env, observation, "devices", "mean_efficiency")
    np.testing.assert_allclose(mean, np.mean(seen, axis=0), rtol=1e-5)


# ------------------------------------------------------------------------- agents and pictures


@pytest.mark.parametrize(("name", "fields"), [(PLAIN, {"bandwidth": "agent"}), (LAZY_DEVICE, {})])
def test_ppo_learns_a_rollout(name: str, fields: dict[str, Any]) -> None:
    env = make(name, **fields)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent = PPO("MultiInputPolicy", env, n_steps=32, batch_size=16, n_epochs=1, device="cpu")
        before = [p.clone() for p in agent.policy.parameters()]
        agent.learn(32)
    after = list(agent.policy.parameters())
    assert any(not a.equal(b) for a, b in zip(after, before, strict=True))
    assert all(bool(p.isfinite().all()) for p in after)
    action, _ = agent.predict(env.reset(seed=0)[0], deterministic=True)
    assert env.action_space.contains(int(action) if name == LAZY_DEVICE else action)


def test_agents_learn_the_signs_of_both_columns(tmp_path: Path) -> None:
    """The shipped recipe trains where actions say who takes part, too."""
    fields = {**SMALL, "participation": "agent", "max_rounds": 8, "budget_s": 1e3}
    lanes = gym.make_vec(f"edge_gym/{PLAIN}", 8, autoreset_mode="SameStep", **fields)
    env = LaneVecEnv(lanes)
    teacher = {"name": "staleness-per-cost", "devices": 2, "participants": 3}
    recipe = find_recipe("ppo", PLAIN)
    assert recipe.network.exploration == "signs"
    assert recipe.imitation is not None
    lesson = replace(recipe.imitation, policy=teacher, episodes=64, epochs=30, noise=0.05)
    sizes = {"n_steps": 8, "batch_size": 32, "n_epochs": 1}
    recipe = replace(recipe, lanes=8, hyperparameters={**recipe.hyperparameters, **sizes})
    model = make_model(recipe, env)
    imitate(model, [env], lesson, recipe.algorithm)
    rule = make_baseline(teacher.pop("name"), lanes, **teacher)
    observation, same = env.reset(), []
    agent = load_agent(save_agent(model, tmp_path / "agent"), lanes)
    for _ in range(6):
        action, _ = model.predict(observation, deterministic=True)
        np.testing.assert_array_equal(agent.act(observation), action)
        assert action.shape == (8, 4, 2)
        wanted = rule.act(observation)
        same.append(((action > 0) == (wanted > 0)).mean(axis=(0, 1)))
        observation = env.step(wanted)[0]
    assert np.mean(same, axis=0).min() > 0.8
    model.learn(64)
    assert env.lanes.problem.signs_suffice
    for other in ({"bandwidth": "agent"}, {"selection": "top"}):
        shared = gym.make_vec(f"edge_gym/{PLAIN}", 2, autoreset_mode="SameStep", **fields, **other)
        with pytest.raises(ValueError, match="exploration is signs"):
            make_model(recipe, LaneVecEnv(shared))


@pytest.mark.parametrize(
    ("name", "fields"),
    [(PLAIN, {}), (LAZY, {"n_devices": 50, "samples_per_device": 2}), (DEVICE, {})],
)
def test_pictures_from_start_to_end(name: str, fields: dict[str, Any]) -> None:
    fields = {"max_rounds": 3, **fields}
    env, twin = make(name, render_mode="rgb_array", **fields), make(name, **fields)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, theirs = env.reset(seed=0), twin.reset(seed=0)
        pictures = [env.render()]
        for action in random_actions(env.action_space):
            assert_same(ours, theirs)
            ours, theirs = env.step(action), twin.step(action)
            if ours[2] or ours[3]:
                break
        pictures.append(env.render())
    assert_same(ours, theirs)
    assert [picture.shape for picture in pictures] == [(500, 900, 3)] * 2
    assert (pictures[0] != pictures[1]).any()


def test_the_picture_tells_who_was_scheduled() -> None:
    env = make(bandwidth="equal", **ENDLESS)
    observation, _ = env.reset(seed=0)
    names = ("indicator", "efficiency", "compute_s")
    seen = [column(env, observation, "devices", name) for name in names]
    indicator = seen[0]
    before = env.problem.scene(0)
    assert before.title.startswith("Round 0: ")
    np.testing.assert_allclose(before.panels[0][0].series["others"], indicator, rtol=1e-6)
    *_, info = env.step(scores_of(1, 3))
    scene = env.problem.scene(0)
    accuracy = 100 * info["validation_accuracy"]
    assert scene.title == f"Round 1: {accuracy:.1f} % validation accuracy"
    assert f"{info['seconds']:.2f} s" in scene.text
    assert "2 of 4 devices scheduled last" in scene.text
    # Bars are of the round that was decided, not of the one that follows.
    for panel, values, scale in zip(scene.panels[0], seen, (1, 1, 1e3), strict=False):
        for series, devices in (("scheduled last", [1, 3]), ("others", [0, 2])):
            shown = panel.series[series]
            assert np.flatnonzero(np.isfinite(shown)).tolist() == devices
            np.testing.assert_allclose(shown[devices], scale * values[devices], rtol=1e-6)
    share = scene.panels[0][3].series
    np.testing.assert_allclose(share["scheduled last"], [np.nan, 50, np.nan, 50])
    np.testing.assert_allclose(share["others"], [0, np.nan, 0, np.nan])


def test_the_configuration_knows_its_budget() -> None:
    both = {"budget_s": 3.0, "budget_j": 0.5}
    assert UpdateSchedulingConfig(**both).budget == 3.0
    assert UpdateSchedulingConfig(**both, mode="lazy").budget == 0.5
    with pytest.raises(ValueError, match="bandwidth 'agent' needs actions = 'scores'"):
        UpdateSchedulingConfig(bandwidth="agent", actions="device")


def test_the_number_of_uploads_counts_only_where_it_is_fixed() -> None:
    assert UpdateSchedulingConfig(n_devices=2).n_devices == 2
    with pytest.raises(ValueError, match=r"uploads_per_round must be .* in \[1, 10\], got 11"):
        UpdateSchedulingConfig(selection="top", uploads_per_round=11)


@pytest.mark.slow
def test_the_benchmark_measures_federated_rounds_in_forked_children_too() -> None:
    # Children make their environments after this process has used torch's threads.
    torch.zeros(1 << 20).add_(1).sum()
    speeds = measure("UpdateScheduling-v0", seconds=0.05, processes=2)
    assert {row.what for row in speeds.rows} == {"SubprocVecEnv", "edge_gym"}
    assert all(row.steps_per_second > 0 for row in speeds.rows)
    learning = [row.shares[0] for row in speeds.rows if row.what == "edge_gym"]
    assert all(share is not None and share > 0.1 for share in learning)
