"""Iterations of offloading against a plain reference: training, tasks, rewards."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from plain_offloading import COMBINATION, GRID, MOVING, Plain, actions_for, direct, make
from references import Vector, column, global_model
from scipy.stats import gmean

from edge_gym.envs.offloading.config import OffloadingConfig

# The costs are those of the network that is trained.
OWN_COSTS = {"model_bits": None, "task_bits": None, "training_s": None, "training_j": None}

PARTS = ("upload", "offload", "download", "local")


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
        observation, reward, terminated, truncated, info = env.step(action)
        model = plain.train()
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
            assert set(rows) <= set(env.problem.test[0])
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
    counts = [np.sum(rows == row) for row in env.problem.test[0]]
    # 2,400 draws; five standard deviations.
    np.testing.assert_allclose(np.array(counts) / 2400, 0.1, atol=0.031)


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
