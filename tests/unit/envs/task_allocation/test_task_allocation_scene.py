"""The picture of task allocation."""

from __future__ import annotations

import numpy as np
import pytest
from plain_task_allocation import PLENTY, everyone, make
from references import column

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def test_the_picture_tells_tasks_times_and_energies() -> None:
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    assert env.problem.scene(0).title.startswith("Cycle 0: ")
    action = everyone(1)
    action[:, 0] = [-1, 0.5, 0.5, -1]
    action[3] = [0.5, -1]
    observation, *_, info = env.step(action)
    assert before.shape == env.render().shape == (500, 900, 3)
    assert (before != env.render()).any()
    scene = env.problem.scene(0)
    accuracy = 100 * info["validation_accuracy"]
    assert scene.title == f"Cycle 1: {accuracy:.1f} % validation accuracy"
    for part in ("1.5 s ", f" {info['joules']:.0f} J ", "last cycle 0.5 updates on average"):
        assert part in scene.text
    samples, updates, finish, energy = scene.panels[0]
    assert samples.series[""].tolist() == [0, 16, 16, 16]
    assert updates.series[""].tolist() == [0, 1, 1, 0]
    np.testing.assert_allclose(
        finish.series[""], column(env, observation, "devices", "finish_s"), rtol=1e-6
    )
    assert finish.series[""].max() == info["finish_s"]
    assert finish.targets["T"].tolist() == [1.5] * 4
    assert energy.series[""].sum() == pytest.approx(info["cycle_j"])
    np.testing.assert_allclose(
        energy.targets["limit"], column(env, observation, "devices", "limit_j"), rtol=1e-6
    )
    curve, left = scene.panels[1]
    np.testing.assert_array_equal(curve.x, [0, 1])
    assert curve.series["accuracy"][1] == pytest.approx(accuracy)
    assert (left.value, left.maximum) == (5, 6)


def test_a_picture_of_many_learners_shows_some() -> None:
    env = make(n_devices=50, samples_per_device=2, render_mode="rgb_array", **PLENTY)
    env.reset(seed=0)
    env.step(everyone(1, n=50))
    assert all(len(panel.labels) == 40 for panel in env.problem.scene(0).panels[0])
    assert env.render().shape == (500, 900, 3)
