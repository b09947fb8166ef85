"""The picture of offloading."""

from __future__ import annotations

import math

import numpy as np
import pytest
from plain_offloading import direct, make


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
