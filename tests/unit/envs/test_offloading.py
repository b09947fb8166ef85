"""Offloading: costs, bands, training and observations against a slow and plain reference."""

from __future__ import annotations

import copy
import itertools
import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import asdict
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
from rollouts import assert_same
from scipy.stats import gmean, kstest
from stable_baselines3.common.env_checker import check_env as check_for_sb3

from edge_gym.envs.offloading.actions import (
    CombinationCodec,
    GridCodec,
    OffloadingCodec,
    combination_of,
    levels_of,
)
from edge_gym.envs.offloading.config import OffloadingConfig
from edge_gym.envs.offloading.env import OffloadingEnv, OffloadingVectorEnv
from edge_gym.solvers.offloading import Offloading

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
GRID, COMBINATION = {"actions": "grid"}, {"actions": "combination"}
# The costs are those of the network that is trained.
OWN_COSTS = {"model_bits": None, "task_bits": None, "training_s": None, "training_j": None}
MOVING = {"fading": "episode", "placement": "disc", "move_m": 20.0}
# Who is where matters alone.
MANY: dict[str, Any] = {
    "partition": "iid",
    "samples_per_device": 2,
    "size_spread": 0.0,
    "local_epochs": 1,
    "validation_size": 10,
}
PARTS = ("upload", "offload", "download", "local")


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


# ---------------------------------------------------------------------------- the plain reference


class Plain:
    """One episode, one user after the other, in double precision.

    It takes what was drawn (places, fading, tasks, samples and their order) from the environment,
    and works out the rest for itself.
    """

    def __init__(self, env: Any) -> None:
        self.env, self.problem, self.config = env, env.problem, env.config
        self.m = env.config.n_devices
        sizes = self.problem._sizes[0]
        self.rows = [self.problem._rows[0, j, : sizes[j]] for j in range(self.m)]
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

    def train(self, rng: np.random.Generator) -> Vector:
        """Return the average of the models that users get from those that they hold."""
        config, features = self.config, self.problem.features
        total = np.zeros(self.n_values)
        for held, rows in zip(self.held, self.rows, strict=True):
            w = torch.tensor(held, requires_grad=True)
            for _ in range(config.local_epochs):
                order = rows[np.argsort(rng.random(len(rows)))]
                for first in range(0, len(rows), config.batch_size):
                    some = order[first : first + config.batch_size]
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
        for place, fade in zip(problem.place_m[0], problem.fading[0], strict=True):
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


def compare_seen(plain: Plain, observation: dict[str, Any], info: Any) -> None:
    """Compare all that is observed."""
    env, config, n = plain.env, plain.config, plain.iteration
    begin_s, send_s = plain.waits()
    fair = 1 / (2 * plain.m)
    upload_s = [
        plain.model_bits / plain.rate(fair, config.transmit_power_dbm, j) for j in range(plain.m)
    ]
    relative = [bits / plain.mean_task_bits if bits else 1 for bits in plain.task_bits]
    coming = [later for later in range(n, config.iterations + 1) if tasks_in(config, later)]
    columns = {
        "devices": {
            "gain_db": 10 * np.log10(plain.gain),
            "task_mbit": np.array(plain.task_bits) / 1e6,
            "training_s": send_s,
            "training_j": plain.training_j,
            "previous_download_s": begin_s,
            "log_upload": np.log(upload_s / gmean(upload_s)),
            "log_task": np.log(relative),
            "staleness": plain.age,
            "offloaded": plain.offloaded,
            "cpu_share": plain.cpu_share,
            "samples": [len(rows) for rows in plain.rows],
        },
        "system": {
            "users": plain.m,
            "iterations_left": config.iterations + 1 - n,
            "until_tasks": coming[0] - n if coming else 0,
            "model_mbit": plain.model_bits / 1e6,
            "last_wsel": plain.wsel,
            "accuracy": info["validation_accuracy"],
            "loss": info["validation_loss"],
            "loss_slope": plain.slope,
        },
    }
    for part, wanted in columns.items():
        assert wanted.keys() == {c.name for c in env.tables[part]}
        for name, values in wanted.items():
            found = column(env, observation, part, name)
            np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-6, err_msg=name)


def tasks_in(config: OffloadingConfig, iteration: int) -> bool:
    """Return whether tasks arrive in an iteration, counted from 1."""
    if iteration == config.iterations:
        return True
    return config.period is not None and iteration % config.period == 0


def remember_inference(env: Any) -> list[tuple[NDArray[np.int64], Vector]]:
    """Return a list that gets the images that are inferred, and the model that does it."""
    kept: list[tuple[NDArray[np.int64], Vector]] = []
    score, n_images = env.problem.learner.score, env.config.n_devices * env.config.task_images

    def scoring(lanes: Any, rows: Any, *args: Any, test: bool = False) -> Any:
        if test and rows.shape[1] == n_images:
            kept.append((rows[0], global_model(env)))
        return score(lanes, rows, *args, test=test)

    env.problem.learner.score = scoring
    return kept


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"period": None, "reward": "loss", "size_spread": 0.0},
        {"period": 1, **MOVING, "learning_rate": 0.5, "accuracy_weight": 0.0},
        {**OWN_COSTS, "fading": "episode", "max_cpu_hz": 7e8, "first_download_s": 0.0},
        {"period": 1, "energy_weight": 0.0, "task_spread": 0.0, "move_m": 5.0, "batch_size": 100},
        {"n_devices": 1, "period": 3, "receive_power_w": 3.0, "downlink_power_dbm": 20.0},
        {**GRID, "period": 1},
        {**GRID, **OWN_COSTS, "n_devices": 7, "path_loss_exponent": 2.7},
        {**COMBINATION, "period": 2, "server_hz": 1e9, "max_cpu_hz": 2e9, "cycles_per_bit": 20.0},
    ],
)
def test_an_episode_equals_the_plain_reference(fields: dict[str, Any]) -> None:
    env = make(**fields)
    inferred = remember_inference(env)
    observation, info = env.reset(seed=3)
    plain = Plain(env)
    plain.look()
    compare_seen(plain, observation, info)
    downloads, accuracy = [], 0.0
    for action in itertools.islice(actions_for(env.config, 5), env.config.iterations):
        w, before = global_model(env), info
        rng = copy.deepcopy(env.problem.generators[0])
        observation, reward, terminated, truncated, info = env.step(action)
        model = plain.train(rng)
        np.testing.assert_allclose(global_model(env), model, atol=3e-6)
        assert np.abs(model - w).max() > 1e-3

        iota, up, down, hertz = plain.decided(action)
        assert sum(up) + sum(down) <= 1 + 1e-9
        assert [i == 1 for i in iota] == [b == 0 for b in down]
        assert max(hertz) <= env.config.max_cpu_hz
        wanted = plain.cost(iota, up, down, hertz)
        for name in ("wsel", "model_ready_s"):
            assert info[name] == pytest.approx(wanted[name], rel=1e-6), name
        for name in ("latency_s", *(f"{part}_s" for part in PARTS), "edge_s"):
            assert info[name] == pytest.approx(np.mean(wanted[name]), rel=1e-6), name
        for name in ("energy_j", *(f"{part}_j" for part in PARTS)):
            assert info[name] == pytest.approx(sum(wanted[name]), rel=1e-6), name
        assert info["tasks"] == plain.m * tasks_in(env.config, plain.iteration)
        assert info["offloaded"] == pytest.approx(np.mean(iota), rel=1e-6)
        assert info["downloads"] == sum(i < 1 for i in iota)
        downloads.append(info["downloads"])

        if any(plain.task_bits):
            rows, used = inferred[-1]
            np.testing.assert_array_equal(used, global_model(env))
            assert set(rows) <= set(env.problem._test[0])
            accuracy = plain.accuracy(used, rows)
        assert info["inference_accuracy"] == pytest.approx(accuracy)
        gain = info["validation_accuracy"] - before["validation_accuracy"]
        decrease = before["validation_loss"] - info["validation_loss"]
        earned = gain if env.config.reward == "accuracy" else decrease
        earned *= env.config.accuracy_weight
        assert reward == pytest.approx(earned - wanted["wsel"], rel=1e-6, abs=1e-9)
        assert (info["accuracy_gain"], info["loss_decrease"]) == (gain, decrease)

        plain.slope = 0.7 * plain.slope + 0.3 * decrease
        # Rounding shall not add up.
        plain.finish(global_model(env), iota, hertz, wanted)
        assert info["staleness"] == np.mean(plain.age)
        assert (terminated, truncated) == (plain.iteration > env.config.iterations, False)
        plain.look()
        compare_seen(plain, observation, info)
    assert terminated
    for jobs in (plain.cpu_jobs, plain.link_jobs):
        for j in range(plain.m):
            own = [(start, end) for user, start, end in jobs if user == j]
            assert all(end <= start + 1e-9 for (_, end), (start, _) in itertools.pairwise(own))
    assert len(inferred) == sum(tasks_in(env.config, n) for n in range(1, 6))
    # Somebody relied on the server, but not everybody in every iteration.
    assert 0 <= min(downloads) < plain.m
    assert max(downloads) > 0


# ---------------------------------------------------------------------------------------- training


def test_a_user_without_the_new_model_goes_on_from_its_old_one() -> None:
    env = make(period=1, iterations=6)
    env.reset(seed=1)
    problem = env.problem
    initial = global_model(env)
    assert (problem.held[0] == initial).all()
    models = [initial]
    ages = []
    for part in ([1, 0, -1], [1, 1, 0], [1, 0.2, 1], [1, -1, -1], [-0.5, 1, 0], [1, 1, 1]):
        observation, *_, info = env.step(direct(part))
        models.append(global_model(env))
        ages.append(column(env, observation, "devices", "staleness").astype(int).tolist())
        for held, age in zip(problem.held[0], ages[-1], strict=True):
            np.testing.assert_array_equal(held, models[-1 - age])
        waited = column(env, observation, "devices", "previous_download_s")
        assert [s == 0 for s in waited] == [p == 1 for p in part]
    assert ages == [[1, 0, 0], [2, 1, 0], [3, 0, 1], [4, 0, 0], [0, 1, 0], [1, 2, 1]]
    assert info["mean_staleness"] == pytest.approx(np.mean(ages))
    assert len({tuple(model.tolist()) for model in models}) == 7


def test_old_models_hold_the_average_back() -> None:
    """Training goes on from what users hold, not from what the server has."""
    env = make(period=1, size_spread=0.0, n_devices=2, batch_size=100, local_epochs=1)
    env.reset(seed=0)
    plain = Plain(env)
    env.step(direct([1, 1], 2))
    first = global_model(env)
    env.step(direct([1, 1], 2))
    # Both began anew from the same model with whole batches.
    np.testing.assert_allclose(global_model(env), first, atol=1e-7)
    assert np.abs(first - plain.held[0]).max() > 1e-3
    env.step(direct([0, 0], 2))
    np.testing.assert_allclose(global_model(env), first, atol=1e-7)
    env.step(direct([0, 0], 2))
    assert np.abs(global_model(env) - first).max() > 1e-3


def test_what_is_drawn_does_not_depend_on_what_is_done() -> None:
    """Episodes of one seed are the same for all, so that returns can be compared in pairs."""
    fields = {"period": 2, "move_m": 3.0}
    envs = make(**fields), make(**fields), make(**GRID, **fields)
    seen = [env.reset(seed=7)[0] for env in envs]
    for _ in range(5):
        for name in ("gain_db", "task_mbit", "samples"):
            found = [column(envs[0], s, "devices", name) for s in seen]
            np.testing.assert_array_equal(found[0], found[1])
            np.testing.assert_array_equal(found[0], found[2])
        actions = direct(-1), direct(1), np.array([5, 0, 2])
        seen = [env.step(action)[0] for env, action in zip(envs, actions, strict=True)]
    assert not np.array_equal(global_model(envs[0]), global_model(envs[1]))


def test_images_of_tasks_are_drawn_evenly_from_the_test_set() -> None:
    env = make(period=1, iterations=40, test_size=10, task_images=20)
    inferred = remember_inference(env)
    env.reset(seed=0)
    for _ in range(40):
        env.step(direct(0))
    rows = np.concatenate([rows for rows, _ in inferred])
    assert rows.shape == (40 * 60,)
    counts = [np.sum(rows == row) for row in env.problem._test[0]]
    # 2,400 draws; five standard deviations.
    np.testing.assert_allclose(np.array(counts) / 2400, 0.1, atol=0.031)


# ------------------------------------------------------------------------------------------ tasks


@pytest.mark.parametrize(
    ("period", "iterations", "wanted"),
    [
        (1, 3, [1, 2, 3]),
        (2, 6, [2, 4, 6]),
        (2, 7, [2, 4, 6, 7]),
        (4, 10, [4, 8, 10]),
        (9, 5, [5]),
        (None, 5, [5]),
        (None, 1, [1]),
    ],
)
def test_when_tasks_arrive(period: int | None, iterations: int, wanted: list[int]) -> None:
    env = make(period=period, iterations=iterations)
    observation, _ = env.reset(seed=0)
    arrived, waiting, over = [], [], False
    for n in itertools.count(1):
        arrives = column(env, observation, "devices", "task_mbit") > 0
        assert arrives.all() == arrives.any()
        assert arrives.all() == env.config.has_tasks(n)
        arrived += [n] * bool(arrives.all())
        waiting.append(int(column(env, observation, "system", "until_tasks")))
        observation, _, over, _, info = env.step(direct(0.3))
        assert (info["tasks"], info["offloaded"] > 0) == (3 * arrives.all(), arrives.all())
        if over:
            break
    assert arrived == wanted
    assert waiting == [
        min(n for n in wanted if n >= begun) - begun for begun in range(1, iterations + 1)
    ]


def test_a_cpu_that_infers_holds_the_next_training_up() -> None:
    """No second of a CPU is used, or counted in its user's latencies, twice."""
    env = make(period=1, n_devices=1, training_s=2.0, fading="episode", task_spread=0.0)
    env.reset(seed=0)
    slow = direct(-1, 1)
    slow[:, 2] = -1
    infos = [env.step(slow)[4] for _ in range(5)]
    first, *others = infos
    local = 64e6 * 50 / 5e7
    assert [info["local_s"] for info in infos] == pytest.approx([local] * 5)
    assert first["latency_s"] == pytest.approx(
        2 + first["upload_s"] + first["download_s"] + local, rel=1e-9
    )
    # The next model is ready later by all that the CPU does before.
    for info in others:
        busy = info["download_s"] + local + 2 + info["upload_s"]
        assert info["model_ready_s"] == pytest.approx(busy, rel=1e-9)
        assert info["latency_s"] == pytest.approx(first["latency_s"], rel=1e-9)


def test_others_wait_for_a_cpu_that_infers() -> None:
    env = make(period=1, n_devices=2, fading="episode", task_spread=0.0)
    env.reset(seed=0)
    action = direct([1, -1], 2)
    action[1, 2] = -1
    env.step(action)
    *_, info = env.step(action)
    local = 64e6 * 50 / 5e7
    assert info["model_ready_s"] > local
    # That of the one that offloads everything, which began at once, and of the other.
    latencies = env.problem.latency_s[0]
    assert latencies[0] > local
    assert latencies[1] == pytest.approx(info["latency_s"] * 2 - latencies[0])


def test_a_link_that_sends_a_task_holds_the_next_update_up() -> None:
    env = make(period=1, n_devices=1, training_s=0.2, fading="episode", task_spread=0.0)
    observation, _ = env.reset(seed=0)
    assert column(env, observation, "devices", "training_s") == pytest.approx(0.2)
    observation, *_, first = env.step(direct(1, 1))
    assert first["offload_s"] > 0.2
    # The model was ready as soon as the only update had come.
    wait = column(env, observation, "devices", "training_s")
    assert wait == pytest.approx(first["offload_s"], rel=1e-6)
    *_, second = env.step(direct(1, 1))
    assert second["model_ready_s"] == pytest.approx(first["offload_s"] + second["upload_s"])
    # A task that is through by then holds nothing up.
    env = make(period=1, n_devices=1, training_s=50.0, fading="episode", task_spread=0.0)
    env.reset(seed=0)
    observation = env.step(direct(1, 1))[0]
    assert column(env, observation, "devices", "training_s") == 50


def test_iterations_without_tasks_cost_no_inference() -> None:
    env = make(period=None)
    env.reset(seed=0)
    for _ in range(4):
        # What is said about parts counts for nothing.
        observation, *_, info = env.step(direct(1))
        assert info["downloads"] == 3
        for name in ("offload_s", "local_s", "edge_s", "offload_j", "local_j", "offloaded"):
            assert info[name] == 0, name
        assert info["inference_accuracy"] == 0
        assert not column(env, observation, "devices", "offloaded").any()
    assert env.step(direct(1))[4]["downloads"] == 0


@pytest.mark.parametrize("spread", [0.0, 0.5, 0.9])
def test_sizes_of_tasks_are_uniform_about_their_mean(spread: float) -> None:
    env = many(40, n_devices=10, period=1, task_spread=spread, task_bits=3e6)
    sizes = env.problem.task_bits.copy()
    observation = env.problem.observe()
    np.testing.assert_allclose(column(env, observation, "devices", "task_mbit"), sizes / 1e6)
    if not spread:
        assert (sizes == 3e6).all()
        return
    assert kstest((sizes / 3e6 - 1 + spread).ravel() / (2 * spread), "uniform").pvalue > 0.01
    env.step(np.zeros((40, 10, 4)))
    assert (env.problem.task_bits != sizes).all()


# ---------------------------------------------------------------------------- places and channels


def test_places_and_fading_are_drawn_as_documented() -> None:
    distances = {}
    for placement in ("ring", "disc"):
        problem = many(40, n_devices=10, placement=placement, cell_radius_m=80.0).problem
        x, y = problem.place_m.reshape(-1, 2).T
        distances[placement] = np.hypot(x, y)
        assert kstest(np.arctan2(y, x) / (2 * np.pi) % 1, "uniform").pvalue > 0.01
        assert kstest(problem.fading.ravel(), "expon").pvalue > 0.01
    np.testing.assert_allclose(distances["ring"], 80)
    assert kstest((distances["disc"] / 80) ** 2, "uniform").pvalue > 0.01


@pytest.mark.parametrize("fading", ["episode", "iteration"])
def test_channels_fade_once_or_in_every_iteration(fading: str) -> None:
    env = make(fading=fading)
    seen = [column(env, env.reset(seed=0)[0], "devices", "gain_db")]
    for _ in range(5):
        seen.append(column(env, env.step(direct(0))[0], "devices", "gain_db"))
    assert len(np.unique(seen)) == (3 if fading == "episode" else 18)
    other = column(env, env.reset(seed=1)[0], "devices", "gain_db")
    assert not np.intersect1d(other, seen).size


@pytest.mark.parametrize("placement", ["ring", "disc"])
def test_users_walk_within_the_cell(placement: str) -> None:
    radius, step = 30.0, 7.0
    env = many(30, n_devices=8, placement=placement, cell_radius_m=radius, move_m=step)
    problem, angles, thrown_back = env.problem, [], 0
    if placement == "ring":
        # Nobody walks before the first iteration.
        np.testing.assert_allclose(np.hypot(*np.moveaxis(problem.place_m, -1, 0)), radius)
    for _ in range(4):
        before = problem.place_m.copy()
        env.step(np.zeros((30, 8, 4)))
        after = problem.place_m
        distance = np.hypot(*np.moveaxis(after, -1, 0))
        assert (distance <= radius * (1 + 1e-12)).all()
        # Who would have left is as far within the edge as it would be beyond.
        mirrored = after * ((2 * radius - distance) / np.maximum(distance, 1e-9))[..., None]
        walked = np.hypot(*np.moveaxis(after - before, -1, 0))
        walked_out = np.hypot(*np.moveaxis(mirrored - before, -1, 0))
        inside = np.isclose(walked, step, rtol=1e-9)
        assert (inside | np.isclose(walked_out, step, rtol=1e-9)).all()
        thrown_back += (~inside).sum()
        free = np.hypot(*np.moveaxis(before, -1, 0)) < radius - step
        angles += np.arctan2(*np.moveaxis((after - before)[free], -1, 0)).tolist()
    assert thrown_back > 50
    assert kstest(np.array(angles) / (2 * np.pi) % 1, "uniform").pvalue > 0.01


def test_steps_longer_than_the_cell_stay_within() -> None:
    env = many(20, move_m=500.0, cell_radius_m=40.0)
    for _ in range(3):
        env.step(np.zeros((20, 3, 4)))
        places = env.problem.place_m
        assert np.hypot(places[..., 0], places[..., 1]).max() <= 40 * (1 + 1e-12)


def test_who_moves_changes_its_gain_by_distance_alone() -> None:
    env = many(10, fading="episode", move_m=9.0, placement="disc", path_loss_exponent=3.3)
    problem, constants, distances = env.problem, [], []
    for _ in range(4):
        distance = np.hypot(problem.place_m[..., 0], problem.place_m[..., 1])
        observed = column(env, problem.observe(), "devices", "gain_db").astype(np.float64)
        constants.append(observed + 33 * np.log10(np.maximum(distance, 1)))
        distances.append(distance)
        env.step(np.zeros((10, 3, 4)))
    np.testing.assert_allclose(constants, np.tile(constants[0], (4, 1, 1)), atol=1e-4)
    assert np.ptp(distances, axis=0).min() > 0.01
    mean_db = 10 * math.log10(4.11) + 33 * math.log10(3e8 / (4 * math.pi * 2.4e9))
    fade = 10 ** ((constants[0] - mean_db) / 10)
    np.testing.assert_allclose(fade, problem.fading, rtol=1e-4)


def test_the_path_loss_ends_a_metre_from_the_server() -> None:
    env = make(fading="episode")
    env.reset(seed=0)
    env.problem.place_m[0] = [[0, 0], [0.3, 0.4], [0, 1]]
    observation = env.step(direct(0))[0]
    gain_db = column(env, observation, "devices", "gain_db")
    without = gain_db - 10 * np.log10(env.problem.fading[0])
    mean_db = 10 * math.log10(4.11) + 29 * math.log10(3e8 / (4 * math.pi * 2.4e9))
    np.testing.assert_allclose(without, mean_db, atol=1e-4)


# --------------------------------------------------------------------------------------- channels


def fadings(n_iterations: int, **fields: Any) -> NDArray[np.float64]:
    """Return the fading of all iterations of 60 episodes, ``(n, 60, M)``."""
    env = many(60, iterations=n_iterations, **fields)
    env.problem.train = lambda lanes: None
    kept = [env.problem.fading.copy()]
    for action in itertools.islice(actions_for(env.config), n_iterations - 1):
        env.step(np.array([action] * 60))
        kept.append(env.problem.fading.copy())
    return np.array(kept)


@pytest.mark.parametrize(
    ("channel", "variance"),
    [("rayleigh", 1.0), ("rician:k=5", 11 / 36), ("nakagami:m=2", 0.5), ("awgn", 0.0)],
)
def test_links_fade_as_the_channel_says(channel: str, variance: float) -> None:
    gain = fadings(12, channel=channel)
    assert gain.mean() == pytest.approx(1, abs=0.07)
    assert gain.var() == pytest.approx(variance, abs=0.15)


def test_fading_is_correlated_and_shadowed_over_iterations() -> None:
    slow = np.log(fadings(6, channel="rayleigh:correlation=0.95")).reshape(6, -1)
    assert np.corrcoef(slow[0], slow[1])[0, 1] > 0.6
    shadowed = fadings(4, channel="awgn:shadowing_db=6")
    np.testing.assert_allclose(shadowed, np.repeat(shadowed[:1], 4, axis=0))
    assert np.std(10 * np.log10(shadowed[0])) == pytest.approx(6, abs=1)
    once = fadings(4, channel="rician:k=5,correlation=0.5", fading="episode")
    np.testing.assert_array_equal(once, np.repeat(once[:1], 4, axis=0))


@pytest.mark.parametrize("fields", [{}, {"fading": "episode"}])
def test_episodes_under_any_channel_go_on_from_their_state(fields: dict[str, Any]) -> None:
    channel = "rician:k=5,correlation=0.9,shadowing_db=4"
    env, twin = (make(iterations=6, channel=channel, **fields) for _ in range(2))
    env.reset(seed=0)
    chosen = list(itertools.islice(actions_for(env.config), 6))
    for action in chosen[:3]:
        env.step(action)
    twin.reset(seed=9)
    twin.step(chosen[0])
    twin.set_state(env.get_state())
    for action in chosen[3:]:
        assert_same(env.step(action), twin.step(action))


# ---------------------------------------------------------------------------------------- actions


def test_combinations_are_numbered_with_the_last_user_counting_least() -> None:
    every = np.array(list(itertools.product(range(6), repeat=3)))
    numbers = combination_of(every)
    np.testing.assert_array_equal(numbers, np.arange(216))
    np.testing.assert_array_equal(levels_of(numbers, 3), every)
    np.testing.assert_array_equal(levels_of(numbers.reshape(6, 36), 3), every.reshape(6, 36, 3))
    assert levels_of(37, 3).tolist() == [1, 0, 1]
    largest = np.full(6, 5)
    assert combination_of(largest) == 6**6 - 1
    assert levels_of(6**6 - 1, 6).tolist() == largest.tolist()


def test_levels_mean_the_same_one_by_one_and_as_a_number() -> None:
    fields = {"n_devices": 4, "period": 2, "size_spread": 0.3, "iterations": 8}
    ours, theirs = make(**GRID, **fields), make(**COMBINATION, **fields)
    assert theirs.action_space.n == 6**4
    assert_same(ours.reset(seed=2), theirs.reset(seed=2))
    for levels in itertools.islice(actions_for(ours.config, 4), 8):
        number = int("".join(map(str, levels)), 6)
        assert_same(ours.step(levels), theirs.step(number))
    assert ours.problem.staleness.any()


@pytest.mark.parametrize("fields", [GRID, COMBINATION])
def test_actions_that_would_do_nothing_are_masked(fields: dict[str, Any]) -> None:
    """Where there are tasks no two actions do the same; where there are none, all would."""
    env = make(period=2, iterations=6, n_devices=2, **fields)
    observation, _ = env.reset(seed=0)
    every = list(itertools.product(range(6), repeat=2))
    for iteration in range(1, 7):
        masks = env.action_masks()
        assert masks.all() == (iteration % 2 == 0)
        assert masks.sum() == (masks.size if masks.all() else 1 if fields == COMBINATION else 2)
        state, ends = env.get_state(), set()
        for number, levels in enumerate(every):
            env.set_state(state)
            *_, info = env.step(number if fields == COMBINATION else np.array(levels))
            ends.add(info["wsel"])
            assert info["projected"] == (number > 0 and not masks.all())
        assert len(ends) == (36 if masks.all() else 1)
        env.set_state(state)
        observation = env.step(7 if fields == COMBINATION else np.array([1, 1]))[0]
    assert env.observation_space.contains(observation)


@pytest.mark.parametrize("fields", [GRID, {**COMBINATION, "energy_weight": 0.3}])
def test_all_else_is_optimal_for_what_is_offloaded(fields: dict[str, Any]) -> None:
    """Nothing near is better, and no equal shares."""
    env = make(period=2, iterations=12, **fields)
    env.reset(seed=4)
    plain, rng = Plain(env), np.random.default_rng(0)
    m, most = plain.m, env.config.max_cpu_hz
    for action in itertools.islice(actions_for(env.config, 1), 12):
        plain.look()
        *_, info = env.step(action)
        iota, up, down, hertz = plain.decided(action)
        assert sum(up) + sum(down) == pytest.approx(1, rel=1e-9)
        used = np.array([*up, *down])
        for scale in (0.003, 0.03, 0.3, 3.0):
            for _ in range(25):
                changed = scale * rng.integers(0, 2, 2 * m)
                share = used * np.exp(changed * rng.standard_normal(2 * m))
                share /= share.sum()
                other = np.minimum(hertz * np.exp(scale * rng.standard_normal(m)), most)
                for hz in (hertz, other.tolist()):
                    cost = plain.cost(iota, share[:m].tolist(), share[m:].tolist(), hz)
                    assert cost["wsel"] >= info["wsel"] * (1 - 1e-6)
        equal = (used > 0) / (used > 0).sum()
        cost = plain.cost(iota, equal[:m].tolist(), equal[m:].tolist(), hertz)
        assert cost["wsel"] > info["wsel"]
        plain.finish(global_model(env), iota, hertz, plain.cost(iota, up, down, hertz))


Decided = tuple[OffloadingConfig, Offloading, NDArray[np.bool_]]


def decisions(seed: int, n_users: int) -> Decided:
    """Draw feasible decisions of some instances that use the whole band."""
    rng, config = np.random.default_rng(seed), OffloadingConfig(n_devices=n_users)
    shape = 4, n_users
    has_tasks = rng.random(shape) < 0.8
    offloaded = rng.choice([0, 1, 2], shape)
    offloaded = np.where(offloaded == 2, rng.random(shape), offloaded) * has_tasks
    download = offloaded < 1
    # No share is below exp(-8) of the largest.
    weights = np.exp(rng.uniform(-4, 4, (2, *shape)))
    weights[1] *= download
    up, down = weights / weights.sum(axis=(0, 2), keepdims=True)
    hertz = np.where(has_tasks & download, rng.uniform(0.05, 1, shape) * config.max_cpu_hz, 0)
    return config, Offloading(offloaded, download, up, down, hertz), has_tasks


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_users=st.integers(1, 8))
def test_actions_and_decisions_translate(seed: int, n_users: int) -> None:
    config, wanted, has_tasks = decisions(seed, n_users)
    codec = OffloadingCodec(config)
    action = codec.encode(wanted)
    assert action.shape == (4, n_users, 4)
    assert action.dtype == np.float32
    assert (np.abs(action) <= 1).all()
    found = codec.decode(action, has_tasks)
    np.testing.assert_array_equal(found.download, wanted.download)
    for end in (0, 1):
        np.testing.assert_array_equal(found.offloaded == end, wanted.offloaded == end)
    np.testing.assert_allclose(found.offloaded, wanted.offloaded, atol=1e-7)
    np.testing.assert_allclose(found.uplink_share, wanted.uplink_share, rtol=2e-6)
    np.testing.assert_allclose(found.downlink_share, wanted.downlink_share, rtol=2e-6)
    np.testing.assert_allclose(found.cpu_hz, wanted.cpu_hz, rtol=2e-6)
    for kind in (GridCodec, CombinationCodec) if n_users <= 6 else (GridCodec,):
        levels = kind(config)
        near = levels.encode(wanted.offloaded)
        assert (np.abs(levels.decode(near) - wanted.offloaded) <= 0.1 + 1e-12).all()
        np.testing.assert_array_equal(levels.encode(levels.decode(near)), near)


def test_what_actions_cannot_say_is_raised() -> None:
    config = OffloadingConfig(n_devices=2)
    wanted = Offloading(
        np.array([0.5, 1.0]),
        np.array([True, False]),
        np.array([0.0, 0.9]),
        np.array([0.1, 0.0]),
        np.array([1e7, 0.0]),
    )
    codec = OffloadingCodec(config)
    found = codec.decode(codec.encode(wanted))
    shares = np.array([math.exp(-8) * 0.9, 0.9, 0.1, 0])
    shares /= shares.sum()
    np.testing.assert_allclose(found.uplink_share, shares[:2], rtol=1e-5)
    np.testing.assert_allclose(found.downlink_share, shares[2:], rtol=1e-5)
    np.testing.assert_allclose(found.cpu_hz, [0.05 * config.max_cpu_hz, 0])


def test_nothing_and_all_are_more_than_points() -> None:
    """Whoever explores offloads nothing, or all, once in forty actions."""
    config = OffloadingConfig(n_devices=1)
    draws = np.random.default_rng(0).uniform(-1, 1, (20_000, 1, 4))
    found = OffloadingCodec(config).decode(draws).offloaded[:, 0]
    share = 0.05 / 1.05 / 2
    assert np.mean(found == 0) == pytest.approx(share, abs=0.006)
    assert np.mean(found == 1) == pytest.approx(share, abs=0.006)
    between = found[(found > 0) & (found < 1)]
    assert kstest(between, "uniform").pvalue > 0.01


# ---------------------------------------------------------------------------------------- rewards


@pytest.mark.parametrize("reward", ["accuracy", "loss"])
@pytest.mark.parametrize("fields", [{}, GRID, {**COMBINATION, "accuracy_weight": 3.0}])
def test_returns_telescope(fields: dict[str, Any], reward: str) -> None:
    env = make(reward=reward, period=2, iterations=7, **fields)
    _, first = env.reset(seed=2)
    steps = [env.step(action) for action in itertools.islice(actions_for(env.config), 7)]
    assert [step[2] for step in steps] == [*[False] * 6, True]
    infos = [step[4] for step in steps]
    last = infos[-1]
    change = last[f"validation_{reward}"] - first[f"validation_{reward}"]
    change = change if reward == "accuracy" else -change
    name = "total_gain" if reward == "accuracy" else "total_loss_decrease"
    assert last[name] == pytest.approx(change, abs=1e-12)
    wsel = sum(info["wsel"] for info in infos)
    earned = env.config.accuracy_weight * change
    assert sum(step[1] for step in steps) == pytest.approx(earned - wsel, rel=1e-9)
    assert abs(earned) > 0.1
    assert last["total_wsel"] == pytest.approx(wsel)
    assert last["total_j"] == pytest.approx(sum(info["energy_j"] for info in infos))
    assert last["total_s"] == pytest.approx(sum(info["latency_s"] for info in infos))
    assert last["mean_staleness"] == pytest.approx(np.mean([i["staleness"] for i in infos]))
    inferring = [info for info in infos if info["tasks"]]
    assert len(inferring) == 4
    for name in ("offloaded", "inference_accuracy"):
        wanted = np.mean([info[name] for info in inferring])
        assert last[f"mean_{name}"] == pytest.approx(wanted)
        assert wanted > 0
    # The accuracy of the last tasks is told until there are others.
    for before, info in itertools.pairwise(infos):
        if not info["tasks"]:
            assert info["inference_accuracy"] == before["inference_accuracy"]


@pytest.mark.parametrize(
    "fields",
    [
        {"learning_rate": 1e3},
        {"learning_rate": 1e3, "reward": "loss", **GRID},
        # Hardly anything arrives.
        {"path_loss_exponent": 6.0, "cell_radius_m": 1e5},
        {"path_loss_exponent": 6.0, "cell_radius_m": 1e5, **GRID},
    ],
)
def test_diverged_models_and_dead_channels_are_told_in_finite_numbers(
    fields: dict[str, Any],
) -> None:
    env = make(period=2, **fields)
    env.reset(seed=0)
    for action in itertools.islice(actions_for(env.config), 5):
        observation, reward, *_, info = env.step(action)
        assert env.observation_space.contains(observation)
        assert np.isfinite(reward)
        assert all(np.isfinite(value) for value in info.values())
        if "learning_rate" in fields:
            assert info["validation_loss"] == 100
        else:
            assert info["wsel"] == 1e6


# ------------------------------------------------------------------------------------------ lanes


@pytest.mark.parametrize(
    ("mode", "fields"),
    [
        (AutoresetMode.NEXT_STEP, {}),
        (AutoresetMode.SAME_STEP, GRID),
        (AutoresetMode.NEXT_STEP, {**COMBINATION, **MOVING}),
    ],
)
def test_a_lane_equals_the_scalar_environment(mode: AutoresetMode, fields: dict[str, Any]) -> None:
    fields = {**SMALL, "period": 2, "iterations": 4, **fields}
    ours: Any = OffloadingVectorEnv(3, autoreset_mode=mode, **fields)
    theirs = SyncVectorEnv([lambda: OffloadingEnv(**fields)] * 3, autoreset_mode=mode)
    assert_same(ours.reset(seed=3), theirs.reset(seed=3))
    chosen = actions_for(ours.config)
    ends, stale = 0, False
    for step in range(13):
        if step == 2:
            # Lanes at different iterations: some have tasks, some have not.
            mask = np.array([False, True, False])
            both = [env.reset(options={"reset_mask": mask.copy()}) for env in (ours, theirs)]
            assert_same(*both)
        action = np.array([next(chosen) for _ in range(3)])
        results = ours.step(action), theirs.step(action)
        assert_same(*results)
        ends += results[0][2].sum()
        stale |= bool(ours.problem.staleness.any())
    assert ends >= 6
    assert stale


@pytest.mark.parametrize("fields", [{}, GRID, {**COMBINATION, **MOVING}])
def test_episodes_go_on_from_their_state(fields: dict[str, Any]) -> None:
    env, twin = (make(iterations=9, period=1, **fields) for _ in range(2))
    env.reset(seed=0)
    chosen = list(itertools.islice(actions_for(env.config), 9))
    for action in chosen[:4]:
        env.step(action)
    problem = env.problem
    assert problem.staleness.any()
    assert (problem.held[0] != global_model(env)).any()
    state = env.get_state()
    twin.reset(seed=99)
    twin.step(chosen[0])
    twin.set_state(state)
    for name, value in vars(problem).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(vars(twin.problem)[name], value, err_msg=name)
    for action in chosen[4:]:
        assert_same(env.step(action), twin.step(action))
    env.reset(seed=5)
    env.set_state(state)
    assert_same(env.get_state(), state)


def test_a_state_moves_to_another_lane() -> None:
    ours, theirs = (many(3, period=1, iterations=9, size_spread=0.5) for _ in range(2))
    chosen = actions_for(ours.config)
    for _ in range(4):
        ours.step(np.array([next(chosen) for _ in range(3)]))
    assert ours.problem.staleness[1].any()
    others = theirs.problem.held[[0, 1]]
    theirs.problem.set_state(np.array([2]), ours.problem.get_state(np.array([1])))
    np.testing.assert_array_equal(theirs.problem.held[[0, 1]], others)
    for _ in range(5):
        action = next(chosen)
        wanted = lane_of_step(ours.step(np.array([action] * 3)), 1)
        assert_same(lane_of_step(theirs.step(np.array([action] * 3)), 2), wanted)


def lane_of_step(step: Any, lane: int) -> Any:
    observation, reward, *_, info = step
    return (
        {part: values[lane] for part, values in observation.items()},
        float(reward[lane]),
        {name: float(info[name][lane]) for name in ("wsel", "validation_loss", "staleness")},
    )


@pytest.mark.parametrize(
    ("fields", "everything"), [({}, direct(1)), ({**GRID, **MOVING}, np.full(3, 5))]
)
def test_a_new_episode_knows_nothing_of_the_last_one(
    fields: dict[str, Any], everything: NDArray[Any]
) -> None:
    env, fresh = make(period=1, **fields), make(period=1, **fields)
    env.reset(seed=0)
    for action in [*itertools.islice(actions_for(env.config), 2), everything]:
        env.step(action)
    assert env.problem.staleness.any()
    assert_same(env.reset(seed=1), fresh.reset(seed=1))
    for action in itertools.islice(actions_for(env.config), 5):
        assert_same(env.step(action), fresh.step(action))
    ours, theirs = (e.problem.scene(0) for e in (env, fresh))
    assert (ours.title, ours.text) == (theirs.title, theirs.text)


# ---------------------------------------------------------------------------- checkers and pictures


@pytest.mark.parametrize("fields", [{}, GRID, COMBINATION])
def test_checkers_find_nothing(fields: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(**fields), skip_render_check=True)
        # It expects vectors or images.
        warnings.filterwarnings("ignore", "Your observation devices has an unconventional shape")
        check_for_sb3(make(**fields))


def test_the_picture_tells_what_was_offloaded_and_what_it_took() -> None:
    env = make(render_mode="rgb_array", period=2)
    env.reset(seed=0)
    before = env.render()
    env.step(direct(0))
    action = direct([1, 0, -1])
    action[1, 0] = 1
    *_, info = env.step(action)
    assert before.shape == env.render().shape == (500, 900, 3)
    assert (before != env.render()).any()
    scene = env.problem.scene(0)
    right = f"{100 * info['inference_accuracy']:.1f} % of the last tasks' images right"
    assert scene.title == f"Iteration 2: {right}"
    assert f"WSEL {info['wsel']:.2f}" in scene.text
    offloaded, up, down, *rest = (panel.series[""] for panel in scene.panels[0])
    np.testing.assert_allclose(offloaded, [100, 50, 0])
    band = 4 + math.exp(4)
    np.testing.assert_allclose(up, 100 * np.array([1, math.exp(4), 1]) / band)
    np.testing.assert_allclose(down, 100 * np.array([0, 1, 1]) / band)
    assert rest[0].mean() == pytest.approx(info["latency_s"])
    curve, gauge = scene.panels[1]
    assert curve.x.tolist() == [0, 1, 2]
    assert curve.series["accuracy"][-1] == pytest.approx(100 * info["validation_accuracy"])
    assert (gauge.value, gauge.maximum) == (3, 5)
    # An iteration without tasks leaves what is told of tasks as it was.
    *_, later = env.step(direct(-1))
    scene = env.problem.scene(0)
    assert scene.title == f"Iteration 3: {right}"
    np.testing.assert_allclose(scene.panels[0][0].series[""], [100, 50, 0])
    assert f"WSEL {later['wsel']:.2f}" in scene.text


def test_a_picture_of_many_users_shows_some() -> None:
    env = make(n_devices=60, partition="iid", samples_per_device=2)
    env.reset(seed=0)
    env.step(direct(0, 60))
    for panel in env.problem.scene(0).panels[0]:
        assert len(panel.labels) == len(panel.series[""]) == 40


# -------------------------------------------------------------------------------------- the config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"actions": "shares"}, "actions must be one of direct, grid, combination"),
        ({**COMBINATION, "n_devices": 7}, r'at most 6 with actions="combination", got 7; .*"grid"'),
        ({"iterations": 0}, r"iterations must be an integer in \[1, 1000000\], got 0"),
        ({"period": 0}, r"period must be an integer in \[1, 1000000\], got 0"),
        ({"accuracy_weight": -1}, "accuracy_weight must be a finite number"),
        ({"time_weight": 0}, "time_weight must be a finite number"),
        ({"model_bits": 0}, "model_bits must be a finite number"),
        ({"task_bits": -1.0}, "task_bits must be a finite number"),
        ({"training_s": -0.1}, "training_s must be a finite number"),
        ({"task_spread": 1.0}, "task_spread must be a finite number"),
        ({"placement": "square"}, "placement must be one of ring, disc"),
        ({"fading": "never"}, "fading must be one of episode, iteration"),
        ({"move_m": math.inf}, "move_m must be a finite number"),
        ({"bits": 8}, "bits must be 32 and density 1"),
        ({"density": 0.5}, "bits must be 32 and density 1"),
    ],
)
def test_wrong_settings_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OffloadingConfig(**fields)


ENDS: dict[str, tuple[float, float]] = {
    "accuracy_weight": (0, 1e6),
    "energy_weight": (0, 1e6),
    "time_weight": (1e-6, 1e6),
    "first_download_s": (0, 1e6),
    "move_m": (0, 1e5),
    "cycles_per_bit": (1e-6, 1e9),
    "server_hz": (1, 1e15),
    "max_cpu_hz": (1, 1e15),
    "model_bits": (1, 1e12),
    "task_bits": (1, 1e12),
    "training_s": (0, 1e6),
    "training_j": (0, 1e6),
    "receive_power_w": (0, 1e6),
    "capacitance": (1e-40, 1e-15),
}


@pytest.mark.parametrize(("field", "ends"), ENDS.items())
def test_what_is_accepted_can_be_run(field: str, ends: tuple[float, float]) -> None:
    """Beyond physical magnitudes costs would overflow; within them everything stays finite."""
    for beyond in (1e300, 10 * ends[1], *((1e-300, ends[0] / 10) if ends[0] else (-1e-300,))):
        with pytest.raises(ValueError, match=f"{field} must be a finite number in"):
            OffloadingConfig(**{field: beyond})
    for end, fields in itertools.product(ends, ({}, GRID)):
        env = make(period=2, iterations=3, **fields, **{field: end})
        observation, _ = env.reset(seed=0)
        for action in itertools.islice(actions_for(env.config), 3):
            assert env.observation_space.contains(observation)
            observation, reward, *_, info = env.step(action)
            assert np.isfinite(reward)
            assert all(np.isfinite(value) for value in info.values())


def test_any_number_of_users_may_choose_levels() -> None:
    assert OffloadingConfig(**COMBINATION, n_devices=6).n_devices == 6
    env = make(**GRID, n_devices=9)
    assert env.action_space.nvec.tolist() == [6] * 9


def test_a_configuration_travels_through_json() -> None:
    config = OffloadingConfig(task_bits=None, period=None, hidden_sizes=(5, 4))
    assert OffloadingConfig(**json.loads(json.dumps(asdict(config)))) == config
