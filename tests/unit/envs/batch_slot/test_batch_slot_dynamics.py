"""Batches and slots: rounds, latencies, averages and observations against a plain reference."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from plain_batch_slot import ENDLESS, MODEL, Plain, make
from references import column, global_model
from rollouts import assert_same, random_actions
from scipy.stats import gmean


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
