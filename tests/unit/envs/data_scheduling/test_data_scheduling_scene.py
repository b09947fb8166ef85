"""Data scheduling in pictures."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from rollouts import assert_same, random_actions
from small_data_scheduling import BATCH, DEVICE, MULTICLASS, NETWORK, SAMPLE, TURNS, make


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (SAMPLE, {}),
        (DEVICE, {"n_devices": 60, "buffer_size": 2, "learner": "mlp"}),
        (BATCH, {"path_loss_exponent": 3.0}),
        (TURNS, {"uploads_per_block": 3, "budget": 6}),
        (SAMPLE, {"refill": False, "budget": 12}),
        (MULTICLASS, {"mean_snr_db": -30}),
        (NETWORK, {"mean_snr_db": 60}),
    ],
)
def test_pictures_from_start_to_end(name: str, fields: dict[str, Any]) -> None:
    env = make(name, render_mode="rgb_array", **{"budget": 8, "train_steps": 2, **fields})
    twin = make(name, **{"budget": 8, "train_steps": 2, **fields})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, theirs = env.reset(seed=0), twin.reset(seed=0)
        pictures = [env.render()]
        for step, action in enumerate(random_actions(env.action_space)):
            assert_same(ours, theirs)
            ours, theirs = env.step(action), twin.step(action)
            # The second step is within a block where devices are chosen in turns.
            if step == 1 or ours[2]:
                pictures.append(env.render())
            if ours[2]:
                break
    assert_same(ours, theirs)
    assert [picture.shape for picture in pictures] == [(500, 900, 3)] * 3
    assert all((a != b).any() for a, b in itertools.pairwise(pictures))


def test_the_picture_tells_what_was_uploaded() -> None:
    env = make(mean_snr_db=12, n_devices=5)
    env.reset(seed=0)
    scene = env.problem.scene(0)
    assert scene.title == "0 of 24 samples uploaded"
    assert [panel.caption for panel in scene.panels[0][:2]] == ["nothing yet"] * 2
    seen = env.problem.current_snr(np.zeros(1, np.int64))[0]
    channels = scene.panels[0][2]
    assert channels.title == "Channels of block 1, the next"
    np.testing.assert_allclose(channels.series["others"], 10 * np.log10(seen))
    assert not channels.targets
    row = env.problem.buffers.rows[0, 3, 1]
    *_, info = env.step(3 * 3 + 1)
    scene = env.problem.scene(0)
    assert scene.title == "1 of 24 samples uploaded"
    received, sent, channels, _ = scene.panels[0]
    assert received.caption == f"SNR {info['uploaded_snr_db']:.1f} dB"
    features = env.problem.features
    np.testing.assert_array_equal(sent.image, features.image(features.train[row]))
    label = (3, 5)[features.train_labels[row]]
    assert sent.caption == f"label {label}, device 3"
    # Its SNR stands where it uploaded, in block 1, though bars are the channels of block 2.
    assert scene.text.endswith("received in block 1")
    assert channels.title == "Channels of block 2, the next"
    then = channels.targets["in block 1"]
    assert np.isfinite(then).tolist() == [k == 3 for k in range(5)]
    assert then[3] == pytest.approx(info["uploaded_snr_db"])
    assert np.isfinite(channels.series["uploaded last"]).tolist() == [k == 3 for k in range(5)]
    seen = env.problem.current_snr(np.zeros(1, np.int64))[0]
    bars = np.where(np.arange(5) == 3, channels.series["uploaded last"], channels.series["others"])
    np.testing.assert_allclose(bars, 10 * np.log10(seen))
    # What was acted on is the first series, which is dark blue in all problems.
    assert next(iter(channels.series)) == "uploaded last"


def test_the_last_picture_shows_the_channels_of_the_last_upload() -> None:
    env = make(mean_snr_db=12, n_devices=5, budget=2, retrain_every=2)
    env.reset(seed=0)
    env.step(0)
    *_, info = env.step(3 * 2)
    channels = env.problem.scene(0).panels[0][2]
    assert channels.title == "Channels of block 2"
    assert not channels.targets
    assert channels.series["uploaded last"][2] == pytest.approx(info["uploaded_snr_db"])


def test_the_picture_marks_all_devices_of_a_block() -> None:
    env = make(TURNS, n_devices=50)
    env.reset(seed=0)

    def marked() -> dict[str, list[int]]:
        panel = env.problem.scene(0).panels[0][2]
        assert panel.x_label == "device, the first 40"
        return {name: np.flatnonzero(np.isfinite(y)).tolist() for name, y in panel.series.items()}

    env.step(7)
    assert (marked()["chosen"], marked()["uploaded last"]) == ([7], [])
    env.step(2)
    assert (marked()["chosen"], marked()["uploaded last"]) == ([], [2, 7])
    env.step(2)
    assert (marked()["chosen"], marked()["uploaded last"]) == ([2], [7])
    assert sorted(itertools.chain(*marked().values())) == list(range(40))
    env.step(45)
    assert (marked()["chosen"], marked()["uploaded last"]) == ([], [2])
