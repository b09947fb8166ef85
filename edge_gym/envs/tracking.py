"""How good each lane's model is, what a step is paid, and how that is reported.

Every learning problem rewards the same: what its model gained on validation samples that it never
learns from, as the field ``reward`` measures it, see ``REWARDS``.

A ``GainTracker`` keeps the scores of all lanes; a problem owns one and its ``TargetTimes``, names
both in ``state_parts``, and hands over a function that scores its models and what is spent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.core.scene import Limits, LinePanel
from edge_gym.core.state import LaneArray, LaneState
from edge_gym.envs.budget import Budget
from edge_gym.envs.targets import TargetTimes
from edge_gym.learning.base import Score
from edge_gym.typing import BoolArray, Float64Array, IntArray

REWARDS = {
    "accuracy": """the gain in validation accuracy, so that an episode's sum is exactly
the final minus the initial validation accuracy.""",
    "loss": """the decrease of the validation loss, so that an episode's sum is exactly
the initial minus the final validation loss.""",
    "area": """the gain in validation accuracy times the share of the budget that is left
when the new model is there, so that an episode's sum is exactly the area under the accuracy over
the share of the budget, its mean over the budget, minus the initial validation accuracy. A model
holds until the next one is there, and the last one until the end of the budget, also where the
episode ends before; one that is there at the very end gains nothing.""",
    "time-to-target": """minus the share of the budget that passes while a validation
accuracy of ``targets`` is not reached, so that an episode's sum is exactly minus the time to the
target as a share of the budget, the mean over targets, 1 for one that is never reached: where an
episode ends before, its last step pays the rest.""",
}
"""What a step can be paid for, and what that adds up to."""

DOCUMENTED = {
    "rewards": "\n".join(
        f'- ``reward="{name}"``: {text}'.replace("\n", "\n  ") for name, text in REWARDS.items()
    ),
    "final_scores": """``test_accuracy``, ``total_gain`` of validation accuracy,
``total_loss_decrease``, ``area_under_curve`` (mean validation accuracy over the budget),
``time_to_target`` (the share of the budget that it takes to reach a validation accuracy of
``targets``, the mean over them, 1 for one that is not reached), for each target of NN per cent
``reached_NN``, 1 or 0, and what was spent by then""",
}
"""Texts for the docstrings of environments."""

Scorer = Callable[[IntArray, bool], Score]
"""Scores the models of lanes, ``(m,)``, on their test samples if True, else on those of validation.
"""


class GainTracker(LaneState):
    """Validation and test scores of every lane's model, and the reward that follows from them.

    Args:
        n_lanes: Number of lanes.
        n_steps: Steps of an episode at most.
        n_classes: Classes that samples are told apart in, C.
        budget: What limits an episode.
        targets: Keeps when targets were reached.
        reward: One of ``REWARDS``.
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
        area: Mean accuracy over the budget if the model of now holds until its end,
            ``(n_lanes,)``.
        waited: Share of the budget that has passed before targets were reached, the mean over
            targets, ``(n_lanes,)``.
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
    waited = LaneArray(np.float64)
    history = LaneArray(np.float32, lambda tracker: (tracker.n_steps + 1,))

    def __init__(
        self,
        n_lanes: int,
        n_steps: int,
        n_classes: int,
        *,
        budget: Budget,
        targets: TargetTimes,
        reward: str,
        slope_weight: float,
        track_test: bool,
    ) -> None:
        super().__init__(n_lanes)
        self.n_steps = n_steps
        self.n_classes = n_classes
        self.budget = budget
        self.targets = targets
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
        self.area[lanes] = self.accuracy[lanes]
        self.targets.begin(lanes, self.accuracy[lanes])
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
        self,
        lanes: IntArray,
        learned: BoolArray,
        over: BoolArray,
        spent: NDArray[Any],
        score: Scorer,
    ) -> tuple[Float64Array, dict[str, NDArray[Any]]]:
        """Score the models after a step; return the reward and the infos, ``(m,)`` each.

        Args:
            lanes: ``(m,)``.
            learned: Whose model is a new one, ``(m,)``.
            over: Whose episode ends, and whose model is tested therefore, ``(m,)``.
            spent: How much of the budget is spent when the new models are there, ``(m,)``.
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
        area = gain * (1 - self.budget.share(spent))
        self.area[lanes] += area
        self.targets.note(lanes, self.accuracy[lanes], spent)
        # Where an episode ends, what was not reached never is.
        waited = self.targets.waited(lanes, np.where(over, self.budget.amount, spent))
        waiting = waited - self.waited[lanes]
        self.waited[lanes] = waited
        paid = {"accuracy": gain, "loss": decrease, "area": area, "time-to-target": -waiting}
        info = {
            "validation_accuracy": self.accuracy[lanes].copy(),
            "accuracy_gain": gain,
            "validation_loss": self.loss[lanes].copy(),
            "loss_decrease": decrease,
        }
        if self.track_test:
            info["test_accuracy"] = self.test_accuracy[lanes].copy()
        return paid[self.reward], info

    def final_info(self, lanes: IntArray) -> dict[str, NDArray[Any]]:
        """Return what is known of whole episodes when they end, ``(m,)`` each.

        ``test_accuracy``, ``total_gain`` of accuracy, ``total_loss_decrease``,
        ``area_under_curve``, the mean accuracy over the budget, and what
        ``TargetTimes.final_info`` returns.
        """
        return {
            "test_accuracy": self.test_accuracy[lanes].copy(),
            "area_under_curve": self.area[lanes].copy(),
            "total_gain": self.accuracy[lanes] - self.initial_accuracy[lanes],
            "total_loss_decrease": self.initial_loss[lanes] - self.loss[lanes],
            **self.targets.final_info(lanes),
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
