"""How good each lane's model is, what a step gained, and how that is reported.

Every learning problem rewards the same thing: what its model gained on validation samples that it
never learns from. A ``GainTracker`` keeps the scores of all lanes; a problem owns one, names it in
``state_parts``, and hands it a function that scores its models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.core.scene import Limits, LinePanel
from edge_gym.core.state import LaneArray, LaneState
from edge_gym.learning.base import Score
from edge_gym.typing import BoolArray, Float64Array, IntArray

REWARDS = ("accuracy", "loss")
"""What a gain can be measured in."""

Scorer = Callable[[IntArray, bool], Score]
"""Scores the models of lanes, ``(m,)``, on their test samples if True, else on those of validation.
"""


class GainTracker(LaneState):
    """Validation and test scores of every lane's model, and the reward that follows from them.

    The reward of a step is what the validation accuracy gained, or what the validation loss lost,
    since the step before. An episode's rewards therefore add up to its last score minus its first.

    Args:
        n_lanes: Number of lanes.
        n_steps: Steps of an episode at most, over which the area under the curve is averaged.
        n_classes: Classes that samples are told apart in, C.
        reward: ``"accuracy"`` or ``"loss"``.
        slope_weight: What the newest gain counts for in the smoothed slopes, in (0, 1].
        track_test: Whether every new model is tested, not an episode's last alone.

    Attributes:
        accuracy: Validation accuracy, ``(n_lanes,)``.
        loss: Validation loss, ``(n_lanes,)``.
        recall: Validation accuracy on each class, ``(n_lanes, C)``.
        initial_accuracy: Accuracy at the begin of the episode, ``(n_lanes,)``.
        initial_loss: Loss at the begin of the episode, ``(n_lanes,)``.
        test_accuracy: Test accuracy of the last model that was tested, ``(n_lanes,)``.
        accuracy_slope: Smoothed gain of accuracy a training, ``(n_lanes,)``.
        loss_slope: Smoothed decrease of the loss a training, ``(n_lanes,)``.
        area: Mean accuracy over the steps of a whole episode so far, ``(n_lanes,)``.
        history: Accuracy at the positions given to ``record``, ``(n_lanes, n_steps + 1)``.
    """

    accuracy = LaneArray(np.float64)
    loss = LaneArray(np.float64)
    recall = LaneArray(np.float64, lambda tracker: (tracker.n_classes,))
    initial_accuracy = LaneArray(np.float64)
    initial_loss = LaneArray(np.float64)
    test_accuracy = LaneArray(np.float64)
    accuracy_slope = LaneArray(np.float64)
    loss_slope = LaneArray(np.float64)
    area = LaneArray(np.float64)
    history = LaneArray(np.float32, lambda tracker: (tracker.n_steps + 1,))

    def __init__(
        self,
        n_lanes: int,
        n_steps: int,
        n_classes: int,
        *,
        reward: str,
        slope_weight: float,
        track_test: bool,
    ) -> None:
        super().__init__(n_lanes)
        self.n_steps = n_steps
        self.n_classes = n_classes
        self.reward = reward
        self.slope_weight = slope_weight
        self.track_test = track_test

    def begin(self, lanes: IntArray, score: Scorer) -> dict[str, NDArray[Any]]:
        """Score the models that episodes begin with; return the infos of the reset.

        Args:
            lanes: ``(m,)``.
            score: Scores their models.
        """
        self.clear(lanes)
        self._validate(lanes, score)
        self.initial_accuracy[lanes] = self.accuracy[lanes]
        self.initial_loss[lanes] = self.loss[lanes]
        self.record(lanes, 0)
        info = {
            "validation_accuracy": self.accuracy[lanes].copy(),
            "validation_loss": self.loss[lanes].copy(),
        }
        if self.track_test:
            self._test(lanes, score)
            info["test_accuracy"] = self.test_accuracy[lanes].copy()
        return info

    def update(
        self, lanes: IntArray, learned: BoolArray, over: BoolArray, score: Scorer
    ) -> tuple[Float64Array, dict[str, NDArray[Any]]]:
        """Score the models after a step; return the reward and the infos, ``(m,)`` each.

        Args:
            lanes: ``(m,)``.
            learned: Whose model is a new one, ``(m,)``.
            over: Whose episode ends, and whose model is tested therefore, ``(m,)``.
            score: Scores their models.
        """
        accuracy, loss = self.accuracy[lanes].copy(), self.loss[lanes].copy()
        learners = lanes[learned]
        self._validate(learners, score)
        self._test(learners if self.track_test else lanes[over], score)
        gain, decrease = self.accuracy[lanes] - accuracy, loss - self.loss[lanes]
        for slope, newest in ((self.accuracy_slope, gain), (self.loss_slope, decrease)):
            kept = (1 - self.slope_weight) * slope[learners]
            slope[learners] = kept + self.slope_weight * newest[learned]
        self.area[lanes] += self.accuracy[lanes] / self.n_steps
        info = {
            "validation_accuracy": self.accuracy[lanes].copy(),
            "accuracy_gain": gain,
            "validation_loss": self.loss[lanes].copy(),
            "loss_decrease": decrease,
        }
        if self.track_test:
            info["test_accuracy"] = self.test_accuracy[lanes].copy()
        return gain if self.reward == "accuracy" else decrease, info

    def final_info(self, lanes: IntArray) -> dict[str, NDArray[Any]]:
        """Return what is known of whole episodes when they end, ``(m,)`` each.

        ``test_accuracy``, ``total_gain`` of accuracy, ``total_loss_decrease`` and
        ``area_under_curve``, the mean accuracy over steps. Problems report what they document.
        """
        return {
            "test_accuracy": self.test_accuracy[lanes].copy(),
            "area_under_curve": self.area[lanes].copy(),
            "total_gain": self.accuracy[lanes] - self.initial_accuracy[lanes],
            "total_loss_decrease": self.initial_loss[lanes] - self.loss[lanes],
        }

    def record(self, lanes: IntArray, positions: IntArray | int) -> None:
        """Note the accuracy of now at ``positions``, ``(m,)``, of the curve in pictures."""
        self.history[lanes, positions] = self.accuracy[lanes]

    def accuracy_panel(
        self,
        lane: int,
        x: NDArray[Any],
        x_label: str,
        x_limits: Limits,
        *,
        initial: str | None = None,
    ) -> LinePanel:
        """Draw the validation accuracy of an episode so far.

        Args:
            lane: Whose.
            x: Places of the recorded accuracies, and of that of now, the last.
            x_label: What they are, with their unit.
            x_limits: Ends of the x axis.
            initial: Name of a line at the accuracy of the begin, above which the curve is drawn
                large; None draws none, and the axis begins at 0.
        """
        accuracy = 100 * np.append(self.history[lane, : len(x) - 1], self.accuracy[lane])
        title, low, references = "Validation accuracy", 0.0, {}
        if initial is not None:
            title = f"{title}: {accuracy[-1]:.1f} %"
            low = max(low, 5 * float((accuracy.min() - 1) // 5))
            references[initial] = float(accuracy[0])
        return LinePanel(
            title=title,
            x=x,
            series={"accuracy": accuracy},
            x_label=x_label,
            y_label="accuracy, %",
            x_limits=x_limits,
            y_limits=(low, 100.0),
            references=references,
            width=3.8,
        )

    def _validate(self, lanes: IntArray, score: Scorer) -> None:
        if len(lanes):
            result = score(lanes, False)
            self.accuracy[lanes], self.loss[lanes] = result.accuracy, result.loss
            self.recall[lanes] = result.recall

    def _test(self, lanes: IntArray, score: Scorer) -> None:
        if len(lanes):
            self.test_accuracy[lanes] = score(lanes, True).accuracy
