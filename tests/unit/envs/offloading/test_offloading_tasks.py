"""Tasks of offloading: when they arrive, how large they are, and what waits for them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from plain_offloading import direct, make, many
from references import column
from scipy.stats import kstest


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
