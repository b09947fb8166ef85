"""Batches and slots: rounds, latencies, averages and observations against a plain reference."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from references import Vector, column, global_model, perceptron_loss_and_gradient
from rollouts import assert_same, random_actions
from scipy.stats import gmean, kstest
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_checker import check_env as check_for_sb3

from edge_gym.envs.batch_slot.actions import AllocationShares, DirectCodec, global_batches
from edge_gym.envs.batch_slot.config import BatchSlotConfig
from edge_gym.envs.batch_slot.env import BatchSlotEnv, BatchSlotVectorEnv
from edge_gym.physics.channel import make_channel
from edge_gym.runtime.streams import Purpose
from edge_gym.solvers import batch_slot as allocation

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
CODEC = DirectCodec(BatchSlotConfig())


def make(**fields: Any) -> Any:
    return BatchSlotEnv(**{**SMALL, **fields})


def many(n_lanes: int, **fields: Any) -> Any:
    """Return the problem of many lanes after a reset."""
    env: Any = BatchSlotVectorEnv(n_lanes, **{**SMALL, **fields})
    env.reset(seed=0)
    return env.problem


def gains_of(problem: Any) -> NDArray[np.float64]:
    """Let all rounds begin; return their gains, ``(n_lanes, rounds, 2, K)``."""
    kept = [problem.fading.gain.copy()]
    for _ in range(problem.config.max_rounds - 1):
        problem.rounds += 1
        problem.begin_round(np.arange(problem.n_lanes))
        kept.append(problem.fading.gain.copy())
    return np.stack(kept, axis=1)


def remember_batches(env: Any) -> list[list[list[int]]]:
    """Return a list that gets every round's batches, a list of rows for each device."""
    kept: list[list[list[int]]] = []
    draw = env.problem.draw_batches

    def drawing(lanes: Any, batch: Any) -> Any:
        rows = draw(lanes, batch)
        kept.append([rows[0, k, :n].tolist() for k, n in enumerate(batch[0])])
        return rows

    env.problem.draw_batches = drawing
    return kept


# ---------------------------------------------------------------------------- the plain reference


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


def compare_seen(plain: Plain, observation: dict[str, Any], info: Any, last_s: float) -> None:
    """Compare all that is observed."""
    env, config = plain.env, plain.config
    begun = plain.rounds > 0
    devices = {
        "uplink_rate": plain.rate[0] / 1e6,
        "downlink_rate": plain.rate[1] / 1e6,
        "upload_s": plain.bits / plain.rate[0],
        "download_s": plain.down_bits / plain.rate[1],
        "log_upload": -np.log(plain.rate[0] / gmean(plain.rate[0])),
        "log_download": -np.log(plain.rate[1] / gmean(plain.rate[1])),
        "update_s": plain.update_s,
        "samples": [len(own) for own in plain.own],
        "max_batch": [min(len(own), config.max_batch or 10**9) for own in plain.own],
    }
    if config.device == "cpu" or config.update == "gradient":
        devices["speed"] = [1 / s for s in plain.sample_s]
        devices["log_speed"] = -np.log(plain.sample_s / gmean(plain.sample_s))
    if begun:
        devices |= {
            "batch": plain.batch,
            "gradient_s": plain.arrived,
            "finish_s": plain.finished,
            "batch_loss": plain.losses,
            "norm": plain.norms,
        }
    system = {
        "time_left": config.budget_s - plain.seconds,
        "rounds": plain.rounds,
        "last_round_s": last_s,
        "last_batch": sum(plain.batch) if begun else 0,
        "norm": plain.mean_norm if begun else 0,
        "accuracy": info["validation_accuracy"],
        "loss": info["validation_loss"],
        "loss_slope": plain.slope,
    }
    for part, columns in (("devices", devices), ("system", system)):
        for name, wanted in columns.items():
            found = column(env, observation, part, name)
            np.testing.assert_allclose(
                found,
                wanted,
                rtol=2e-4,
                atol=1e-6 if name.startswith("log") else 1e-9,
                err_msg=name,
            )


MODEL = {"update": "model", "local_batch_size": 1000, "max_batch": None}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"density": 1.0, "fading": "mean", "downlink_power_dbm": 35.0},
        {"download": "union"},
        {"download": "union", "density": 1.0},
        {**MODEL, "download": "union", "density": 0.3},
        {"cpu_groups_hz": None, "cpu_hz": (1e8, 2e9), "size_spread": 0.5, "max_batch": 25},
        {"partition": "shards", "max_batch": None, "max_learning_rate": 0.12},
        {"device": "gpu", "gpu_flops": (1e9, 3e9), "gpu_threshold": 5, "gpu_base_latency_s": 1e-5},
        {"learning_rate": 0.7, "reference_batch": 10, "cycles_per_flop": 3.0, "reward": "accuracy"},
        {**MODEL, "local_epochs": 3, "reference_batch": 700},
        {**MODEL, "density": 1.0, "max_batch": 10, "learning_rate": 0.01},
        {**MODEL, "device": "gpu", "local_epochs": 2, "learning_rate": 0.02},
    ],
)
def test_an_episode_equals_the_plain_reference(fields: dict[str, Any]) -> None:
    env = make(**fields, **ENDLESS)
    batches = remember_batches(env)
    observation, info = env.reset(seed=4)
    plain = Plain(env)
    plain.look()
    compare_seen(plain, observation, info, 0.0)
    for action in itertools.islice(random_actions(env.action_space, 5), 6):
        w, loss, accuracy = global_model(env), info["validation_loss"], info["validation_accuracy"]
        wanted_batch, up, down = plain.decided(action)
        observation, reward, terminated, truncated, info = env.step(action)
        after = global_model(env)
        # The plain reference reads the model from before the round.
        env.problem.learner.weights[0] = env.problem.learner.weights.new_tensor(w)
        assert [len(rows) for rows in batches[-1]] == wanted_batch
        np.testing.assert_allclose(after, plain.learn(batches[-1]), atol=3e-6)
        env.problem.learner.weights[0] = env.problem.learner.weights.new_tensor(after)
        assert np.abs(after - w).max() > 1e-5
        wanted = plain.took(wanted_batch, up, down)
        plain.batch = wanted_batch
        plain.batches.append(sum(wanted_batch))
        plain.seconds += wanted["round_s"]
        plain.rounds += 1
        plain.slope = 0.7 * plain.slope + 0.3 * (loss - info["validation_loss"])
        decrease, gain = loss - info["validation_loss"], info["validation_accuracy"] - accuracy
        wanted |= {"seconds": plain.seconds, "learning_efficiency": decrease / wanted["round_s"]}
        wanted |= {"rounds": plain.rounds, "in_time": 1.0}
        for name, value in wanted.items():
            assert info[name] == pytest.approx(value, rel=1e-6), name
        stepped_on = 1000 if env.config.update == "model" else sum(wanted_batch)
        assert info["learning_rate"] == pytest.approx(
            min(
                env.config.learning_rate * (stepped_on / env.config.reference_batch) ** 0.5,
                env.config.max_learning_rate,
            )
        )
        assert reward == (gain if env.config.reward == "accuracy" else decrease)
        assert not terminated
        assert not truncated
        plain.look()
        compare_seen(plain, observation, info, wanted["round_s"])
    exact, _ = plain.loss_and_gradient(global_model(env), env.problem.validation[0])
    assert info["validation_loss"] == pytest.approx(exact, rel=1e-5)


def test_unequal_batches_average_to_the_gradient_of_their_union() -> None:
    env = make(density=1.0, size_spread=0.6, max_batch=None, **ENDLESS)
    batches = remember_batches(env)
    env.reset(seed=1)
    plain = Plain(env)
    action = np.zeros((4, 3), np.float32)
    action[:, 0] = [-1, -0.4, 0.3, 1]
    w = global_model(env)
    env.step(action)
    (drawn,) = batches
    assert len({len(rows) for rows in drawn}) == 4
    union = list(itertools.chain(*drawn))
    rate = 0.1 * math.sqrt(len(union) / 64)
    _, gradient = plain.loss_and_gradient(w, union)
    np.testing.assert_allclose(global_model(env), w - rate * gradient, atol=1e-6)


def test_the_message_learned_from_is_the_message_that_is_paid_for() -> None:
    """In both directions: as many values as the bits say, and the rest is not lost."""
    n = 49 * 8 + 8 + 8 * 10 + 10
    for fields in ({}, {"download": "union"}, {"bits": 6}, {"bits": 6, "download": "union"}):
        env = make(**fields, **ENDLESS)
        observation, _ = env.reset(seed=0)
        moved = np.zeros(n)
        for action in itertools.islice(random_actions(env.action_space), 8):
            rate = column(env, observation, "devices", "downlink_rate") * 1e6
            w = global_model(env)
            observation, *_, info = env.step(action)
            _, _, down = Plain(env).decided(action)
            # What the slowest download took tells its bits.
            told = info["download_s"] * (down * rate).min()
            step = global_model(env) - w
            moved += step / info["learning_rate"]
            kept = np.count_nonzero(step)
            bits = 32 if fields.get("download") == "union" else env.config.bits
            places = min(kept * 9, n)
            assert told == pytest.approx(kept * bits + places + 32 * (bits < 32), rel=1e-5)
        if not fields:
            memory = env.problem.server.memory[0, 0].numpy()
            assert np.count_nonzero(memory) > n / 4
            assert kept == round(0.05 * n)


def test_whole_vectors_are_sent_alike() -> None:
    """Where nothing is compressed the average is as large as what it is made of."""
    for fields in ({"density": 1.0}, {**MODEL, "density": 1.0}):
        ours, theirs = (make(**fields, download=d, **ENDLESS) for d in ("recompressed", "union"))
        assert_same(ours.reset(seed=0), theirs.reset(seed=0))
        for action in itertools.islice(random_actions(ours.action_space), 4):
            assert_same(ours.step(action), theirs.step(action))


def test_a_union_too_large_for_the_time_left_is_not_received() -> None:
    """Everyone was heard and the download expected fitted, what came of it did not."""
    env = make(download="union", density=0.01, **ENDLESS)
    env.reset(seed=0)
    *_, info = env.step(np.zeros((4, 3)))
    short = make(download="union", density=0.01, budget_s=info["round_s"] * (1 - 1e-9))
    short.reset(seed=0)
    # One value was all that was sent before.
    short.problem.download_bits[:] = 41
    short.problem.begin_round(LANE)
    before = global_model(short)
    *_, reward, terminated, _, last = short.step(np.zeros((4, 3)))
    assert (reward, terminated, last["in_time"]) == (0, True, 0)
    assert last["download_s"] == pytest.approx(info["download_s"])
    assert (global_model(short) == before).all()


def test_quantised_gradients_are_sent_with_fewer_bits() -> None:
    env, full = make(bits=6, density=1.0), make(density=1.0)
    observation, _ = env.reset(seed=0)
    other, _ = full.reset(seed=0)
    n = env.problem.network.n_parameters
    ratio = column(env, observation, "devices", "upload_s") / column(
        full, other, "devices", "upload_s"
    )
    np.testing.assert_allclose(ratio, (6 * n + 32) / (32 * n), rtol=1e-5)
    env.step(np.zeros((4, 3)))
    memory = env.problem.compressor.memory
    assert (memory.abs().amax(dim=2) > 0).all()


# ----------------------------------------------------------------------------------------- actions


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


# --------------------------------------------------------------------------- budgets and rewards


@pytest.mark.parametrize("reward", ["accuracy", "loss"])
@pytest.mark.parametrize("fields", [{}, GLOBAL, {**MODEL, "local_batch_size": 5}])
def test_rewards_telescope_within_the_budget(fields: dict[str, Any], reward: str) -> None:
    env = make(reward=reward, max_rounds=1000, **fields)
    _, first = env.reset(seed=2)
    rewards, batches, curve, over = [], [], [], False
    actions = random_actions(env.action_space, 2)
    while not over:
        _, gain, over, truncated, info = env.step(next(actions))
        assert not truncated
        assert info["in_time"] == (not over)
        rewards.append(gain)
        batches.append(info["batch"])
        curve.append((info["seconds"], info["validation_accuracy"]))
    assert info["seconds"] == env.config.budget_s
    assert np.diff([0, *(s for s, _ in curve)]).min() > 0
    # The round that was broken off has changed nothing.
    assert rewards[-1] == 0
    change = info[f"validation_{reward}"] - first[f"validation_{reward}"]
    assert sum(rewards) == pytest.approx(change if reward == "accuracy" else -change, abs=1e-12)
    assert info["total_loss_decrease"] == pytest.approx(
        first["validation_loss"] - info["validation_loss"]
    )
    assert info["mean_efficiency"] == pytest.approx(info["total_loss_decrease"] / info["seconds"])
    assert info["mean_batch"] == pytest.approx(np.mean(batches))
    assert np.count_nonzero(rewards) >= 3


def test_a_round_that_is_broken_off_is_not_sent() -> None:
    env = make(**ENDLESS)
    env.reset(seed=0)
    *_, info = env.step(np.zeros((4, 3)))
    first_s = info["round_s"]
    env = make(budget_s=1.5 * first_s)
    env.reset(seed=0)
    env.step(np.zeros((4, 3)))
    weights, memory = env.problem.learner.weights.clone(), env.problem.compressor.memory.clone()
    slow = np.zeros((4, 3))
    slow[0, 1:] = -1
    observation, reward, terminated, truncated, info = env.step(slow)
    assert (reward, terminated, truncated) == (0, True, False)
    assert env.problem.learner.weights.equal(weights)
    assert env.problem.compressor.memory.equal(memory)
    assert info["round_s"] == pytest.approx(first_s / 2)
    assert info["gradient_s"] + info["update_s"] > info["round_s"]
    assert column(env, observation, "system", "time_left") == 0


def test_a_budget_that_is_spent_to_the_end_ends_the_episode() -> None:
    """A round that takes exactly what is left still counts."""
    env = make(**ENDLESS)
    env.reset(seed=0)
    *_, info = env.step(np.zeros((4, 3)))
    env = make(budget_s=info["round_s"])
    env.reset(seed=0)
    *_, terminated, truncated, last = env.step(np.zeros((4, 3)))
    assert (terminated, truncated, last["in_time"]) == (True, False, 1)
    assert last["loss_decrease"] == info["loss_decrease"] != 0


def test_an_episode_is_truncated_after_its_rounds() -> None:
    env = make(max_rounds=3, **ENDLESS)
    env.reset(seed=0)
    ends = [env.step(np.zeros((4, 3)))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize("actions", [{}, GLOBAL])
def test_the_time_to_targets(actions: dict[str, Any]) -> None:
    targets = (0.0, 0.15, 0.2, 0.25, 1.0)
    env = make(targets=targets, **actions, learning_rate=0.4, max_rounds=400)
    _, first = env.reset(seed=0)
    curve, over = [(0.0, first["validation_accuracy"])], False
    for action in random_actions(env.action_space, 1):
        *_, over, truncated, info = env.step(action)
        curve.append((info["seconds"], info["validation_accuracy"]))
        if over or truncated:
            break
    assert first["validation_accuracy"] < 0.25 < max(a for _, a in curve)
    for target in targets:
        name = f"{100 * target:g}"
        times = [s for s, accuracy in curve if accuracy >= target]
        assert info[f"reached_{name}"] == bool(times)
        assert info[f"seconds_to_{name}"] == (times[0] if times else env.config.budget_s)
    assert info["reached_100"] == 0
    assert info["seconds_to_0"] == 0


@pytest.mark.parametrize("fields", [{"density": 1.0}, {}, {"download": "union"}, {"bits": 4}])
def test_a_model_that_diverges_is_told_in_finite_numbers(fields: dict[str, Any]) -> None:
    env = make(learning_rate=1e3, max_learning_rate=1e3, **fields, max_rounds=40, **ENDLESS)
    observation, _ = env.reset(seed=0)
    for action in itertools.islice(random_actions(env.action_space), 40):
        observation, reward, *_, info = env.step(action)
        assert env.observation_space.contains(observation)
        assert np.isfinite(reward)
        assert all(np.isfinite(value) for value in info.values())
    assert info["validation_loss"] == 100


# --------------------------------------------------------------------------------- what is drawn


def test_fading_does_not_depend_on_what_was_done() -> None:
    env, twin = make(**ENDLESS), make(**GLOBAL, **ENDLESS)
    ours, theirs = env.reset(seed=7)[0], twin.reset(seed=7)[0]
    seen = []
    for action in itertools.islice(random_actions(env.action_space), 5):
        for name in ("uplink_rate", "downlink_rate"):
            found = column(env, ours, "devices", name)
            np.testing.assert_array_equal(found, column(twin, theirs, "devices", name))
            seen.append(found)
        ours, theirs = env.step(action)[0], twin.step(0)[0]
    assert len(np.unique(seen)) == 40


def test_rates_are_constant_where_fading_is_averaged() -> None:
    env = make(fading="mean", **ENDLESS)
    first, _ = env.reset(seed=0)
    later = env.step(np.zeros((4, 3)))[0]
    for name in ("uplink_rate", "downlink_rate"):
        np.testing.assert_array_equal(
            column(env, first, "devices", name), column(env, later, "devices", name)
        )


@pytest.mark.parametrize(
    "channel", ["rayleigh", "rician:k=7", "nakagami:m=0.7,shadowing_db=5", DRIFTING]
)
def test_mean_rates_are_those_of_many_gains(channel: str) -> None:
    """The rates of ``fading="mean"`` are averages over the gains of ``fading="round"``."""
    env = make(fading="mean", channel=channel, **ENDLESS)
    observation, _ = env.reset(seed=0)
    drawn = make_channel(channel).gains(np.random.default_rng(1), 2, (200_000,))[1]
    for name, more in (
        ("uplink_rate", 0.0),
        ("downlink_rate", env.config.downlink_power_dbm - env.config.transmit_power_dbm),
    ):
        snr = env.problem.mean_snr[0][:, None] * 10 ** (more / 10)
        wanted = env.config.bandwidth_hz / 1e6 * np.log2(1 + snr * drawn).mean(axis=1)
        np.testing.assert_allclose(column(env, observation, "devices", name), wanted, rtol=0.005)


def test_gains_of_all_rounds_are_those_of_the_channel() -> None:
    fields = {"n_devices": 10, "samples_per_device": 2, "max_rounds": 100}
    assert (gains_of(many(2, **fields, channel="awgn")) == 1).all()
    rician = gains_of(many(10, **fields, channel="rician:k=9"))
    assert rician.shape == (10, 100, 2, 10)
    assert rician.mean() == pytest.approx(1, abs=0.02)
    # Var of the gain is (1 + 2K)/(1 + K)².
    assert rician.std() == pytest.approx(math.sqrt(19) / 10, abs=0.02)
    drifting = gains_of(many(10, **fields, channel="rayleigh:correlation=0.9"))
    found = np.corrcoef(drifting[:, :-1].ravel(), drifting[:, 1:].ravel())[0, 1]
    assert found == pytest.approx(0.81, abs=0.04)
    plain = many(10, **fields)
    np.testing.assert_array_equal(plain.mean_snr, many(10, **fields, channel="awgn").mean_snr)


def test_rates_follow_from_the_gains_of_the_round() -> None:
    env = make(channel="awgn", **ENDLESS)
    observation, _ = env.reset(seed=0)
    wanted = env.config.bandwidth_hz / 1e6 * np.log2(1 + env.problem.mean_snr[0])
    np.testing.assert_allclose(
        column(env, observation, "devices", "uplink_rate"), wanted, rtol=1e-6
    )


def test_places_processors_and_fading_are_drawn_as_documented() -> None:
    problem = many(40, n_devices=10, samples_per_device=2, max_rounds=4, cell_radius_m=200.0)
    loss_db = 28 - 10 * np.log10(problem.mean_snr.ravel()) - (-174 + 10 * math.log10(1e8))
    distance_km = 10 ** ((loss_db - 128.1) / 37.6)
    least = 1e-2
    inside = distance_km[distance_km > least * 1.001]
    scaled = (inside**2 - least**2) / (0.2**2 - least**2)
    assert kstest(scaled, "uniform").pvalue > 0.01
    assert kstest(gains_of(problem).ravel(), "expon").pvalue > 0.01
    # Ten devices make groups of four, three and three.
    groups = [0.7e9] * 4 + [1.4e9] * 3 + [2.1e9] * 3
    np.testing.assert_array_equal(problem.cpu_hz, np.broadcast_to(groups, (40, 10)))


def test_batches_are_drawn_evenly_from_all_samples() -> None:
    problem = many(200, samples_per_device=8, density=1.0, **ENDLESS)
    lanes = np.arange(200)
    problem.rows[:] = np.arange(problem.rows.shape[2])
    counts = np.zeros(8)
    for _ in range(5):
        drawn = problem.draw_batches(lanes, np.full((200, 4), 3))
        problem.rounds += 1
        assert (np.diff(np.sort(drawn, axis=2), axis=2) > 0).all()
        counts += np.bincount(drawn.ravel(), minlength=8)
    # 4,000 batches; five standard deviations.
    np.testing.assert_allclose(counts / 4000, 3 / 8, atol=0.04)


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


# ------------------------------------------------------------------------------------------ lanes


@pytest.mark.parametrize(
    "actions",
    [{}, {**GLOBAL, "n_devices": 12, "samples_per_device": 14}, {"download": "union"}],
)
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_lane_equals_the_scalar_environment(mode: AutoresetMode, actions: Any) -> None:
    fields = {**SMALL, "budget_s": 4e-4, "bits": 8, "size_spread": 0.4, **actions}
    ours: Any = BatchSlotVectorEnv(3, autoreset_mode=mode, **fields)
    theirs = SyncVectorEnv([lambda: BatchSlotEnv(**fields)] * 3, autoreset_mode=mode)
    assert_same(ours.reset(seed=3), theirs.reset(seed=3))
    chosen, ends = random_actions(ours.single_action_space), []
    for _ in range(40):
        action = np.array([next(chosen) for _ in range(3)])
        results = ours.step(action), theirs.step(action)
        assert_same(*results)
        ends.append(results[0][2] | results[0][3])
    assert np.sum(ends, axis=0).min() >= 2
    assert 1 in np.sum(ends, axis=1)


@pytest.mark.parametrize("fields", [{}, {"device": "gpu", "fading": "mean"}])
def test_lanes_may_begin_one_after_the_other(fields: dict[str, Any]) -> None:
    env: Any = BatchSlotVectorEnv(3, **{**SMALL, **fields})
    for lane in (1, 0, 2):
        mask = np.arange(3) == lane
        observation, _ = env.reset(seed=0, options={"reset_mask": mask})
        assert env.observation_space.contains(observation)
    theirs, _ = BatchSlotVectorEnv(3, **{**SMALL, **fields}).reset(seed=0)
    assert_same(observation, theirs)


def test_lanes_that_learn_in_parts_learn_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = (BatchSlotVectorEnv(5, **{**SMALL, **ENDLESS}) for _ in range(2))
    ours.reset(seed=0), theirs.reset(seed=0)
    actions = random_actions(ours.action_space)
    for _ in range(3):
        action = next(actions)
        wanted = ours.step(action)
        with monkeypatch.context() as patch:
            patch.setattr("edge_gym.envs.batch_slot.dynamics.VALUES_AT_ONCE", 4 * 490 * 2)
            assert_same(theirs.step(action), wanted)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {**GLOBAL, "fading": "mean"},
        {**MODEL, "bits": 5},
        {"download": "union", "bits": 5},
        {"channel": DRIFTING},
        {"channel": DRIFTING, "fading": "mean"},
    ],
)
def test_episodes_go_on_from_their_state(fields: dict[str, Any]) -> None:
    env, twin = (make(**fields, targets=(0.05, 0.9)) for _ in range(2))
    env.reset(seed=0)
    chosen = list(itertools.islice(random_actions(env.action_space), 12))
    for action in chosen[:4]:
        env.step(action)
    env.problem.targets.reached[0, 1] = True
    state = env.get_state()
    twin.reset(seed=99)
    twin.set_state(state)
    for name, value in vars(env.problem).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(vars(twin.problem)[name], value, err_msg=name)
    for action in chosen[4:]:
        ours, theirs = env.step(action), twin.step(action)
        assert_same(ours, theirs)
        if ours[2] or ours[3]:
            break
    env.reset(seed=5)
    env.set_state(state)
    assert_same(env.get_state(), state)


@pytest.mark.parametrize("fields", [{}, GLOBAL])
def test_a_new_episode_knows_nothing_of_the_last_one(fields: dict[str, Any]) -> None:
    env, fresh = make(**fields, targets=(0.1, 0.3)), make(**fields, targets=(0.1, 0.3))
    env.reset(seed=0)
    for action in random_actions(env.action_space):
        *_, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            break
    assert_same(env.reset(seed=1), fresh.reset(seed=1))
    for action in random_actions(env.action_space, 1):
        ours, theirs = env.step(action), fresh.step(action)
        assert_same(ours, theirs)
        if ours[2] or ours[3]:
            break
    np.testing.assert_array_equal(
        env.problem.scene(0).panels[1][0].x, fresh.problem.scene(0).panels[1][0].x
    )


def test_devices_may_be_named_in_any_order() -> None:
    fields = {"cpu_groups_hz": None, "samples_per_device": 12, "max_batch": None, **ENDLESS}
    env, twin = make(**fields), make(**fields)
    env.reset(seed=4)
    env.step(np.zeros((4, 3)))
    order = np.array([2, 0, 3, 1])
    state = env.get_state()
    problem = state["problem"]
    permuted = {name: problem[name][..., order] for name in ("transfer_s", "slots", "part_s")}
    permuted["fading"] = {name: part[..., order] for name, part in problem["fading"].items()}
    for name in ("rows", "sizes", "mean_snr", "cpu_hz", "batch", "batch_loss", "norm"):
        permuted[name] = problem[name][:, order]
    permuted["compressor"] = {"memory": problem["compressor"]["memory"][:, order]}
    twin.set_state({**state, "problem": {**problem, **permuted}})
    draw = twin.problem.streams.normals
    twin.problem.streams.normals = lambda *args: draw(*args)[..., order]
    # Whole sets, so that it does not matter which samples are drawn.
    action = np.random.default_rng(0).uniform(-1, 1, (4, 3))
    action[:, 0] = 1
    theirs, ours = env.step(action), twin.step(action[order])
    np.testing.assert_allclose(global_model(twin), global_model(env), atol=1e-6)
    for name in ("round_s", "gradient_s", "update_s", "batch", "seconds"):
        assert ours[4][name] == pytest.approx(theirs[4][name], rel=1e-9)
    np.testing.assert_allclose(
        ours[0]["devices"], theirs[0]["devices"][order], rtol=1e-4, atol=1e-9
    )
    np.testing.assert_allclose(ours[0]["system"], theirs[0]["system"], rtol=1e-4)


# -------------------------------------------------------------------- checkers, agents, pictures


@pytest.mark.parametrize("fields", [{}, GLOBAL])
def test_checkers_find_nothing(fields: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(**fields), skip_render_check=True)
        # It expects vectors or images.
        warnings.filterwarnings("ignore", "Your observation devices has an unconventional shape")
        check_for_sb3(make(**fields))


@pytest.mark.parametrize("kind", [PPO, DQN])
def test_agents_learn_a_rollout(kind: Any) -> None:
    env = make(**(GLOBAL if kind is DQN else {}))
    settings = {"learning_starts": 8, "buffer_size": 100} if kind is DQN else {"n_steps": 32}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent = kind("MultiInputPolicy", env, batch_size=16, device="cpu", **settings)
        before = [p.clone() for p in agent.policy.parameters()]
        agent.learn(32)
    after = list(agent.policy.parameters())
    assert any(not a.equal(b) for a, b in zip(after, before, strict=True))
    action, _ = agent.predict(env.reset(seed=0)[0], deterministic=True)
    assert env.action_space.contains(int(action) if kind is DQN else action)


def test_the_picture_tells_batches_and_slots() -> None:
    env = make(render_mode="rgb_array", **ENDLESS)
    env.reset(seed=0)
    before = env.render()
    action = np.zeros((4, 3))
    action[:, 0], action[0, 1] = [-1, 1, 1, -1], 1
    *_, info = env.step(action)
    assert before.shape == env.render().shape == (500, 900, 3)
    assert (before != env.render()).any()
    scene = env.problem.scene(0)
    assert scene.title == f"Round 1: {100 * info['validation_accuracy']:.1f} % validation accuracy"
    assert "last batch B = 26" in scene.text
    batches, uplink, downlink, arrived = (panel.series[""] for panel in scene.panels[0])
    assert batches.tolist() == [1, 12, 12, 1]
    share = math.exp(3) / (math.exp(3) + 3)
    np.testing.assert_allclose(uplink, 100 * np.array([share, *[(1 - share) / 3] * 3]))
    np.testing.assert_allclose(downlink, 25)
    assert arrived.max() == pytest.approx(1e3 * info["gradient_s"])
    curve = scene.panels[1][0]
    np.testing.assert_allclose(curve.x, [0, info["seconds"]], rtol=1e-6)


# -------------------------------------------------------------------------------------- the config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"actions": "slots"}, "actions must be one of direct, global"),
        ({"choices": 1}, r"choices must be an integer in"),
        ({"update": "weights"}, "update must be one of"),
        ({"max_batch": 0}, "max_batch must be an integer in"),
        ({"download": "free"}, "download must be one of recompressed, union"),
        ({"fading": "none"}, "fading must be one of round, mean"),
        ({"device": "tpu"}, "device must be one of cpu, gpu"),
        ({"cpu_groups_hz": ()}, "cpu_groups_hz must have 1 to n_devices = 6 speeds"),
        ({"cpu_groups_hz": (1e9, 0.0)}, "cpu_groups_hz must be a finite number in"),
        ({"gpu_flops": (1e9,) * 7}, "gpu_flops must have 1 to n_devices = 6 speeds"),
        ({"gpu_threshold": 0}, "gpu_threshold must be an integer in"),
        ({"gpu_base_latency_s": -1.0}, "gpu_base_latency_s must be a finite number"),
        ({"max_learning_rate": 0}, "max_learning_rate must be a finite number"),
        ({"targets": (0.9, 0.8)}, "targets must ascend"),
        ({"targets": (0.9, 1.1)}, "targets must be a finite number"),
        ({"budget_s": 0.0}, "budget_s must be a finite number"),
        ({"choices": 10**12}, r"choices must be an integer in \[2, 10000\]"),
        ({"local_epochs": 10**12}, "local_epochs must be an integer in"),
        ({"local_batch_size": 10**30}, "local_batch_size must be an integer in"),
        ({"max_batch": 10**30}, "max_batch must be an integer in"),
        ({"reference_batch": 10**300}, "reference_batch must be an integer in"),
        (
            {"max_learning_rate": 1e300},
            r"max_learning_rate must be a finite number in \[1e-09, 1000",
        ),
        ({"cpu_groups_hz": (1e-300,)}, r"cpu_groups_hz must be a finite number in \[1, 1e\+15"),
        ({"gpu_flops": (1e300,)}, r"gpu_flops must be a finite number in \[1, 1e\+21"),
        ({"gpu_base_latency_s": 1e300}, "gpu_base_latency_s must be a finite number in"),
        ({"gpu_threshold": 10**30}, "gpu_threshold must be an integer in"),
        ({"budget_s": 1e300}, r"budget_s must be a finite number in \[1e-09, 1e\+12"),
        ({"max_rounds": 10**12}, "max_rounds must be an integer in"),
    ],
)
def test_wrong_settings_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchSlotConfig(**fields)


_EXTREMES: dict[str, tuple[Any, ...]] = {
    "actions": ("direct", "global"),
    "choices": (2, 10_000),
    "update": ("gradient", "model"),
    "download": ("recompressed", "union"),
    "density": (1e-9, 1.0),
    "bits": (2, 32),
    "local_epochs": (1, 3),
    "local_batch_size": (1, 10**9),
    "max_batch": (None, 1, 10**9),
    "reference_batch": (1, 10**9),
    "max_learning_rate": (1e-9, 1e3),
    "downlink_power_dbm": (-50.0, 60.0),
    "fading": ("round", "mean"),
    "device": ("cpu", "gpu"),
    "cpu_groups_hz": (None, (1.0, 1e15)),
    "gpu_flops": ((1.0, 1e21),),
    "gpu_base_latency_s": (1e-9, 1e6),
    "gpu_threshold": (1, 10**9),
    "budget_s": (1e-9, 1e12),
    "max_rounds": (1, 4),
}


@settings(max_examples=25, deadline=None)
@given(st.fixed_dictionaries({name: st.sampled_from(ends) for name, ends in _EXTREMES.items()}))
def test_what_is_accepted_runs(fields: dict[str, Any]) -> None:
    """At the ends of all intervals, without a warning and in finite numbers."""
    env = BatchSlotEnv(**{**SMALL, **fields})
    with np.errstate(all="raise", under="ignore"):
        observation, _ = env.reset(seed=0)
        for action in itertools.islice(random_actions(env.action_space), 4):
            assert env.observation_space.contains(observation)
            observation, reward, terminated, truncated, info = env.step(action)
            assert np.isfinite(reward)
            assert all(np.isfinite(value) for value in info.values())
            assert 0 <= info["seconds"] <= env.config.budget_s
            if terminated or truncated:
                break
    assert env.observation_space.contains(observation)


def test_a_configuration_travels_through_json() -> None:
    config = BatchSlotConfig(targets=(0.5,), gpu_flops=(1e9, 2e9))
    assert BatchSlotConfig(**json.loads(json.dumps(asdict(config)))) == config


def test_the_step_size_follows_the_root_of_the_batch() -> None:
    config = BatchSlotConfig(learning_rate=0.2, reference_batch=100, max_learning_rate=0.5)
    found = config.step_size([25, 100, 400, 625, 626, 10_000])
    np.testing.assert_allclose(found, [0.1, 0.2, 0.4, 0.5, 0.5, 0.5])
