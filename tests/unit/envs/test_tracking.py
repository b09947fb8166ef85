"""The tracker of gains: rewards telescope, infos and final infos, states, pictures."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from edge_gym.envs.tracking import REWARDS, GainTracker
from edge_gym.learning.base import Score
from edge_gym.typing import Float64Array, IntArray

LANES = np.arange(3)


class Models:
    """Models whose scores are given: ``accuracy`` and ``loss`` of each lane."""

    def __init__(self) -> None:
        self.accuracy: Float64Array = np.array([0.5, 0.25, 0.75])
        self.loss: Float64Array = np.array([1.0, 2.0, 0.5])
        self.scored: list[tuple[list[int], bool]] = []

    def score(self, lanes: IntArray, test: bool) -> Score:
        self.scored.append((lanes.tolist(), test))
        accuracy = self.accuracy[lanes] - 0.125 * test
        return Score(accuracy, self.loss[lanes], np.stack([accuracy, accuracy], axis=1))


def make(**fields: Any) -> GainTracker:
    settings = {"reward": "accuracy", "slope_weight": 0.5, "track_test": False, **fields}
    return GainTracker(3, 4, 2, **settings)


@pytest.mark.parametrize("reward", REWARDS)
def test_rewards_telescope(reward: str) -> None:
    tracker, models, rng = make(reward=reward), Models(), np.random.default_rng(0)
    first = tracker.begin(LANES, models.score)
    total = np.zeros(3)
    for step in range(4):
        models.accuracy, models.loss = rng.random(3), rng.random(3)
        over = np.full(3, step == 3)
        gained, info = tracker.update(LANES, np.ones(3, np.bool_), over, models.score)
        assert (gained == info["accuracy_gain" if reward == "accuracy" else "loss_decrease"]).all()
        total += gained
    final = tracker.final_info(LANES)
    np.testing.assert_allclose(final["total_gain"], models.accuracy - first["validation_accuracy"])
    np.testing.assert_allclose(final["total_loss_decrease"], first["validation_loss"] - models.loss)
    name = "total_gain" if reward == "accuracy" else "total_loss_decrease"
    np.testing.assert_allclose(total, final[name])
    np.testing.assert_allclose(final["test_accuracy"], models.accuracy - 0.125)


def test_only_new_models_are_scored() -> None:
    tracker, models = make(), Models()
    tracker.begin(LANES, models.score)
    models.accuracy = models.accuracy + 0.125
    learned, over = np.array([True, False, True]), np.array([False, False, True])
    reward, info = tracker.update(LANES, learned, over, models.score)
    assert reward.tolist() == [0.125, 0, 0.125]
    assert models.scored == [([0, 1, 2], False), ([0, 2], False), ([2], True)]
    assert tracker.accuracy_slope.tolist() == [0.0625, 0, 0.0625]
    np.testing.assert_allclose(tracker.area, [0.625 / 4, 0.25 / 4, 0.875 / 4])
    assert "test_accuracy" not in info


def test_every_new_model_is_tested_where_asked_for() -> None:
    tracker, models = make(track_test=True), Models()
    assert tracker.begin(LANES, models.score)["test_accuracy"].tolist() == [0.375, 0.125, 0.625]
    some = np.array([True, False, True])
    _, info = tracker.update(LANES, some, np.zeros(3, np.bool_), models.score)
    assert models.scored[-1] == ([0, 2], True)
    assert info["test_accuracy"].tolist() == [0.375, 0.125, 0.625]


def test_states_are_restored_in_other_lanes() -> None:
    tracker, models = make(), Models()
    tracker.begin(LANES, models.score)
    models.accuracy = models.accuracy + 0.125
    tracker.update(LANES, np.ones(3, np.bool_), np.zeros(3, np.bool_), models.score)
    state = tracker.get_state(np.array([1]))
    other = make()
    other.set_state(np.array([2]), state)
    assert other.accuracy.tolist() == [0, 0, 0.375]
    assert other.accuracy_slope.tolist() == [0, 0, 0.0625]
    assert not np.shares_memory(state["accuracy"], tracker.accuracy)


def test_a_panel_shows_the_curve_up_to_now() -> None:
    tracker, models = make(), Models()
    tracker.begin(LANES, models.score)
    models.accuracy = models.accuracy + 0.125
    tracker.update(LANES, np.ones(3, np.bool_), np.zeros(3, np.bool_), models.score)
    tracker.record(LANES, 1)
    plain = tracker.accuracy_panel(0, np.arange(2), "rounds", (0, 4))
    assert plain.y_limits == (0, 100)
    assert np.asarray(plain.series["accuracy"]).tolist() == [50, 62.5]
    close = tracker.accuracy_panel(0, np.arange(2), "rounds", (0, 4), initial="at first")
    assert close.references == {"at first": 50}
    assert close.y_limits == (45, 100)
    assert close.title == "Validation accuracy: 62.5 %"


@pytest.mark.parametrize("name", ["Retransmission-v0", "UpdateScheduling-v0"])
def test_damage_to_the_tracker_of_a_state_is_told(name: str) -> None:
    env: Any = gym.make(f"edge_gym/{name}", validation_size=60, test_size=50).unwrapped
    env.reset(seed=0)
    state = env.get_state()
    damaged = copy.deepcopy(state)
    damaged["problem"]["tracker"]["accuracy"] = np.zeros((1, 2))
    with pytest.raises(ValueError, match="problem/tracker/accuracy must have the shape"):
        env.set_state(damaged)
    del damaged["problem"]["tracker"]["accuracy"]
    with pytest.raises(ValueError, match="problem/tracker must have the parts"):
        env.set_state(damaged)
    env.set_state(state)
