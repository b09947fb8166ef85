"""The tracker of gains: rewards telescope, infos and final infos, states, pictures."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from edge_gym.envs.budget import Budget
from edge_gym.envs.targets import TargetTimes
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
    budget = Budget(8.0, {"rounds": 1.0})
    targets = TargetTimes(3, (0.6, 0.9), budget)
    return GainTracker(3, 4, 2, budget=budget, targets=targets, **settings)


def step(
    tracker: GainTracker, models: Models, spent: float = 2.0, over: bool = False
) -> tuple[Float64Array, dict[str, Any]]:
    """Tell the tracker of new models in all lanes."""
    new = np.ones(3, np.bool_)
    return tracker.update(LANES, new, np.full(3, over), np.full(3, spent), models.score)


# By hand: budget 8, models at 0, 2, 3, 6 and the end; targets .6 and .9.
CURVE = np.array([[0.5, 0.25, 0.75], [0.7, 0.2, 0.5], [0.4, 0.3, 0.8], [0.95, 0.5, 0.8]])
LOSSES = np.array([[1.0, 2.0, 0.5], [0.9, 2.5, 0.4], [0.8, 1.0, 0.3], [0.2, 1.5, 0.7]])
SPENT = (0.0, 2.0, 3.0, 6.0)


@pytest.mark.parametrize("end", [(6.0, 8.0), (8.0, 8.0)])
@pytest.mark.parametrize("reward", REWARDS)
def test_rewards_telescope(reward: str, end: tuple[float, float]) -> None:
    """Episodes end before the budget does, and exactly there."""
    last, budget = end
    tracker, models = make(reward=reward), Models()
    spent = [*SPENT[:3], last]
    tracker.begin(LANES, models.score)
    total = np.zeros(3)
    for i in range(1, 4):
        models.accuracy, models.loss = CURVE[i], LOSSES[i]
        gained, _ = step(tracker, models, spent[i], over=i == 3)
        total += gained
    final = tracker.final_info(LANES)
    area = np.diff([*spent, budget]) @ CURVE / budget
    times = np.array([[2, last], [budget, budget], [0, budget]]) / budget
    sums = {
        "accuracy": CURVE[3] - CURVE[0],
        "loss": LOSSES[0] - LOSSES[3],
        "area": area - CURVE[0],
        "time-to-target": -times.mean(axis=1),
    }
    np.testing.assert_allclose(total, sums[reward], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(final["total_gain"], sums["accuracy"])
    np.testing.assert_allclose(final["total_loss_decrease"], sums["loss"])
    np.testing.assert_allclose(final["area_under_curve"], area)
    np.testing.assert_allclose(final["time_to_target"], times.mean(axis=1))
    np.testing.assert_allclose(final["rounds_to_90"], budget * times[:, 1])
    np.testing.assert_allclose(final["test_accuracy"], CURVE[3] - 0.125)


def test_what_is_not_reached_is_waited_for_until_the_end() -> None:
    tracker, models = make(reward="time-to-target"), Models()
    models.accuracy = np.array([0.95, 0.5, 0.7])
    tracker.begin(LANES, models.score)
    assert step(tracker, models, 2.0)[0].tolist() == [0, -0.25, -0.125]
    models.accuracy = np.array([0.1, 0.7, 0.7])
    # What was reached stays reached, and the rest of the budget passes in the last step.
    assert step(tracker, models, 4.0)[0].tolist() == [0, -0.25, -0.125]
    assert step(tracker, models, 5.0, over=True)[0].tolist() == [0, -0.25, -0.25]


def test_what_is_there_at_the_very_end_adds_no_area() -> None:
    tracker, models = make(reward="area"), Models()
    tracker.begin(LANES, models.score)
    models.accuracy = models.accuracy + 0.125
    assert step(tracker, models, 8.0, over=True)[0].tolist() == [0, 0, 0]
    assert tracker.final_info(LANES)["area_under_curve"].tolist() == [0.5, 0.25, 0.75]


def test_only_new_models_are_scored() -> None:
    tracker, models = make(), Models()
    tracker.begin(LANES, models.score)
    models.accuracy = models.accuracy + 0.125
    learned, over = np.array([True, False, True]), np.array([False, False, True])
    spent = np.full(3, 2)
    reward, info = tracker.update(LANES, learned, over, spent, models.score)
    assert reward.tolist() == [0.125, 0, 0.125]
    assert models.scored == [([0, 1, 2], False), ([0, 2], False), ([2], True)]
    assert tracker.accuracy_slope.tolist() == [0.0625, 0, 0.0625]
    # A quarter of the budget is spent.
    np.testing.assert_allclose(tracker.area, [0.5 + 0.75 / 8, 0.25, 0.75 + 0.75 / 8])
    assert "test_accuracy" not in info


def test_every_new_model_is_tested_where_asked_for() -> None:
    tracker, models = make(track_test=True), Models()
    assert tracker.begin(LANES, models.score)["test_accuracy"].tolist() == [0.375, 0.125, 0.625]
    some = np.array([True, False, True])
    _, info = tracker.update(LANES, some, np.zeros(3, np.bool_), np.ones(3), models.score)
    assert models.scored[-1] == ([0, 2], True)
    assert info["test_accuracy"].tolist() == [0.375, 0.125, 0.625]


def test_states_are_restored_in_other_lanes() -> None:
    tracker, models = make(), Models()
    tracker.begin(LANES, models.score)
    models.accuracy = models.accuracy + 0.125
    step(tracker, models)
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
    step(tracker, models)
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
