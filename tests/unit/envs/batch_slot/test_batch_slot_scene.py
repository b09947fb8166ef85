"""Batches and slots in a picture."""

from __future__ import annotations

import math

import numpy as np
import pytest
from plain_batch_slot import ENDLESS, make


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
