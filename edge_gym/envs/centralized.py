"""Centralized edge learning: devices upload samples, and the server trains a classifier on them.

What retransmission and data scheduling share: the data, the classifier of every lane and how good
it is. Who sends what is the business of the problems built on it.

Only uploads take time: the broadcast of the classifier, its training and what devices report of
their samples do not, as in the source. The mean image that features are centred with and their
scale are constants of the data set, from its whole training split, validation rows included: they
use no label and are the same for all policies (``DataScheduling`` takes its principal axes from
rows that are never validated on).

Source: Wen et al. 2019 §2.2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_gym.core.config import Config
from edge_gym.core.problem import Problem
from edge_gym.core.scene import LinePanel
from edge_gym.core.state import LaneArray
from edge_gym.data import (
    DATASETS,
    SCHEMES,
    SampleError,
    always_pooled,
    check_partition,
    check_split,
    draw_balanced,
    draw_split,
    load_features,
)
from edge_gym.envs.budget import Budget
from edge_gym.envs.fading import Fading
from edge_gym.envs.targets import TargetTimes, check_targets
from edge_gym.envs.tracking import DOCUMENTED, REWARDS, GainTracker
from edge_gym.learning import LEARNERS, Score, make_learner
from edge_gym.learning.base import check_learner_classes
from edge_gym.physics.channel import check_channel, make_channel
from edge_gym.runtime.checks import (
    check_choice,
    check_classes,
    check_flag,
    check_integer,
    check_number,
)
from edge_gym.runtime.messages import shown
from edge_gym.runtime.streams import Purpose
from edge_gym.typing import BoolArray, IntArray

SNR_DB_BOUNDS = (-30.0, 60.0)
SYMBOL_SNR_DB_BOUNDS = (-70.0, 60.0)
"""Bounds of SNRs per symbol: 10·log₁₀ d is below 40 dB for up to 10,000 features."""
MAX_STEPS = 1_000_000
"""Most uploads or channel uses in an episode, and the upper bound of columns that count them."""
_SLOPE_DECAY = 0.8


@dataclass(frozen=True, kw_only=True)
class CentralizedConfig(Config):
    """Settings that the problems of centralized edge learning share.

    Attributes:
        dataset: Name of the data set.
        classes: The classes to tell apart; None takes all.
        image_size: Side of the images in pixels; None keeps the original.
        learner: ``"svm"`` (two classes), ``"svm-ovo"``, ``"mlp"``, ``"cnn"``, or one that was
            registered, see ``edge_gym.learning.register_learner``.
        mean_snr_db: Mean receive SNR γ̄ of one transmission, dB: E‖x‖², the energy of a whole
            sample, over the noise of *one* of its d dimensions. Per symbol, one feature each, it is
            10·log₁₀ d less (``wireless.symbol_snr_db``): 15 dB are -7.9 dB at 14×14.
        channel: How links fade, by name and parameters, such as ``"rayleigh"`` or
            ``"rician:k=5,correlation=0.9,shadowing_db=4"``; see ``edge_gym.physics.channel``.
        initial_samples: Noiseless samples that the server has at the start.
        retrain_every: Acquired samples from one training to the next.
        n_devices: Devices that hold samples, K.
        partition: How the pool is spread over devices, ``"iid"``, ``"shards"``, ``"dirichlet"``.
        validation_size: Samples that the reward is measured on.
        test_size: Samples that the report is measured on; None takes the whole test set.
        C: The SVM's penalty on the slack.
        tolerance: Relative duality gap of every SVM fit.
        reward: What is paid, all of it measured on the validation set: the gain in ``"accuracy"``,
            the decrease of the ``"loss"``, which carries far less noise (see ``learning.Score``),
            the ``"area"`` under the accuracy over the budget, or ``"time-to-target"``; see
            ``envs.tracking``.
        targets: Validation accuracies, one or more that ascend; the time to each is told.
        hidden_size: Hidden units of the MLP.
        learning_rate: Step size of the networks' training.
        batch_size: Samples in a mini-batch of the networks' training.
        train_steps: Mini-batch steps of each of the networks' trainings.
        track_test: Whether every step's info, not the last alone, has the test accuracy. It is
            only ever reported.
    """

    dataset: str = "mnist-subset"
    classes: tuple[int, ...] | None = (3, 5)
    image_size: int | None = 14
    learner: str = "svm"
    mean_snr_db: float = 15.0
    channel: str = "rayleigh"
    initial_samples: int = 4
    retrain_every: int = 1
    n_devices: int = 10
    partition: str = "iid"
    validation_size: int = 600
    test_size: int | None = None
    C: float = 1.0
    tolerance: float = 1e-3
    reward: str = "area"
    targets: tuple[float, ...] = (0.8, 0.85, 0.9)
    hidden_size: int = 64
    learning_rate: float = 0.003
    batch_size: int = 32
    train_steps: int = 10
    track_test: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("dataset", self.dataset, DATASETS)
        if self.classes is not None:
            check_classes(self.classes)
        if self.image_size is not None:
            check_integer("image_size", self.image_size, 1)
        check_choice("learner", self.learner, LEARNERS)
        try:
            check_learner_classes(self.learner, None if self.classes is None else len(self.classes))
        except ValueError as error:
            raise ValueError(f"classes = {shown(self.classes)}: {error}") from None
        check_number("mean_snr_db", self.mean_snr_db, *SNR_DB_BOUNDS)
        check_channel("channel", self.channel)
        check_integer("initial_samples", self.initial_samples, 2)
        check_integer("retrain_every", self.retrain_every, 1, MAX_STEPS)
        check_integer("n_devices", self.n_devices, 1)
        check_choice("partition", self.partition, SCHEMES)
        check_integer("validation_size", self.validation_size, 1)
        if self.test_size is not None:
            check_integer("test_size", self.test_size, 1)
        check_number("C", self.C, 1e-6, 1e6)
        check_number("tolerance", self.tolerance, 1e-6, 0.1)
        check_choice("reward", self.reward, REWARDS)
        check_targets(self.targets)
        check_integer("hidden_size", self.hidden_size, 1, 10_000)
        check_number("learning_rate", self.learning_rate, 0, 10, open_low=True)
        check_integer("batch_size", self.batch_size, 1, 100_000)
        check_integer("train_steps", self.train_steps, 1, 100_000)
        check_flag("track_test", self.track_test)


class CentralizedLearning(Problem):
    """One classifier per lane, what it was trained on, and how good it is.

    Args:
        config: The configuration.
        n_lanes: Number of lanes.
        n_steps: Steps of an episode.
        budget: What limits it.
        links: Shape of a lane's links to the server.

    Attributes:
        features: The data set.
        learner: The classifiers.
        tracker: How good they are.
        targets: When they reached targets.
        channel: How links fade.
        fading: Their gains.
        validation: Training rows that a lane is validated on, ``(n_lanes, V)``.
        test: Test rows that it is tested on, ``(n_lanes, T)``.
        counts: Samples of each class that it has acquired, ``(n_lanes, C)``.
        unlearned: Samples acquired since the last training, ``(n_lanes,)``.
    """

    config: CentralizedConfig
    keeps_half: ClassVar[bool] = False
    """Whether every second training row is never validated on, see ``data.always_pooled``."""
    validation = LaneArray(np.int64, lambda problem: (problem.config.validation_size,), reset=None)
    test = LaneArray(np.int64, lambda problem: (problem.test_size,), reset=None)
    counts = LaneArray(np.int64, lambda problem: (problem.n_classes,))
    unlearned = LaneArray(np.int64)
    documented_texts = DOCUMENTED
    state_parts: ClassVar[tuple[str, ...]] = ("learner", "tracker", "targets", "fading")

    def __init__(
        self,
        config: CentralizedConfig,
        n_lanes: int,
        n_steps: int,
        budget: Budget,
        links: tuple[int, ...],
    ) -> None:
        super().__init__(config, n_lanes)
        self.n_steps = n_steps
        self.channel = make_channel(config.channel)
        self.fading = Fading(n_lanes, self.channel, links)
        self.features = load_features(config.dataset, config.classes, config.image_size)
        self.n_classes = len(self.features.classes)
        rows = len(self.features.train)
        self.pooled = always_pooled(rows) if self.keeps_half else None
        self._check_samples()
        self.learner = make_learner(
            config.learner,
            n_lanes,
            self.features.image_shape,
            self.n_classes,
            C=config.C,
            tolerance=config.tolerance,
            hidden_size=config.hidden_size,
            learning_rate=config.learning_rate,
            batch_size=config.batch_size,
            train_steps=config.train_steps,
        )
        self.test_size = config.test_size or len(self.features.test_labels)
        self.targets = TargetTimes(n_lanes, config.targets, budget)
        self.tracker = GainTracker(
            n_lanes,
            n_steps,
            self.n_classes,
            budget=budget,
            targets=self.targets,
            reward=config.reward,
            slope_weight=1 - _SLOPE_DECAY,
            track_test=config.track_test,
        )

    def _initial_per_class(self) -> int:
        """Return how many initial samples of a class there are at most."""
        return -(-self.config.initial_samples // self.n_classes)

    def _least_samples(self) -> tuple[str, int]:
        """Return what says how many samples of the pool a device needs, and that number."""
        return "min_samples", 1

    def _check_samples(self) -> None:
        """Find out whether every episode can be begun: what its draws may need is there.

        Raises:
            SampleError: If there are too few samples.
        """
        config, labels = self.config, self.features.train_labels
        size, each = config.validation_size, self._initial_per_class()
        n_test = len(self.features.test_labels)
        check_split(labels, n_test, size, config.test_size, pooled=self.pooled)
        pool = len(labels) - size
        if np.bincount(labels).min() < each or pool < each * self.n_classes:
            raise SampleError(
                f"initial_samples = {config.initial_samples}: these initial samples need {each} of "
                f"each class, but validation_size = {size} leaves {pool} samples of "
                f"{self.n_classes} classes. Lower one of them, or take a larger data set"
            )
        least, min_samples = self._least_samples()
        check_partition(
            pool - config.initial_samples,
            config.n_devices,
            config.partition,
            min_samples=min_samples,
            least=least,
            advice="lower validation_size or initial_samples",
        )

    def _draw_data(self, lane: int) -> tuple[IntArray, IntArray]:
        """Draw an episode's data; return the rows of the initial samples and of the pool."""
        config, labels = self.config, self.features.train_labels
        rng = self.streams.generator(lane, Purpose.DATA)
        split = draw_split(
            rng,
            labels,
            self.features.test_labels,
            config.validation_size,
            config.test_size,
            per_class=self._initial_per_class(),
            pooled=self.pooled,
        )
        self.validation[lane], self.test[lane] = split.validation, split.test
        initial = draw_balanced(rng, labels, split.pool, config.initial_samples)
        return initial, np.setdiff1d(split.pool, initial)

    def _begin_learning(self, lanes: IntArray, initial: IntArray) -> dict[str, NDArray[Any]]:
        """Train anew on the samples ``initial``, ``(m, initial_samples)``; return the infos.

        The declared arrays of ``lanes`` have been cleared.
        """
        self.learner.reset(lanes, self.streams.generators(lanes, Purpose.MODEL))
        for rows in initial.T:
            self._acquire(lanes, self.features.train[rows], self.features.train_labels[rows])
        self._fit(lanes)
        return self.tracker.begin(lanes, self._score)

    def _acquire(
        self,
        lanes: IntArray,
        samples: NDArray[np.float32],
        labels: IntArray,
        snr: NDArray[Any] | None = None,
    ) -> None:
        """Add one sample, received at a linear SNR or without noise, to each training set."""
        self.learner.append(lanes, samples, labels)
        self.counts[lanes, labels] += 1
        self.unlearned[lanes] += 1

    def _learn(
        self, lanes: IntArray, over: BoolArray, spent: IntArray
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """Train where enough was acquired or the episode is over; return reward and infos.

        Args:
            lanes: ``(m,)``.
            over: Whose episode ends, ``(m,)``.
            spent: How much of its budget is spent, ``(m,)``.
        """
        learning = (self.unlearned[lanes] >= self.config.retrain_every) | over
        learners = lanes[learning]
        if len(learners):
            self._fit(learners)
        reward, info = self.tracker.update(lanes, learning, over, spent, self._score)
        info["samples"] = self.counts[lanes].sum(axis=1).astype(np.float64)
        info["trained"] = learning.astype(np.float64)
        return reward, info, self.tracker.final_info(lanes)

    def _fit(self, lanes: IntArray) -> None:
        """Train; what is drawn follows from the number of samples that were acquired."""
        acquired = self.counts[lanes].sum(axis=1)
        self.learner.fit(lanes, self.streams.generators(lanes, Purpose.ORDERS, acquired))
        self.unlearned[lanes] = 0

    def _score(self, lanes: IntArray, test: bool) -> Score:
        """Score the classifiers on their test or validation samples."""
        features = self.features
        if test:
            return self.learner.score(lanes, features.test, features.test_labels, self.test[lanes])
        return self.learner.score(
            lanes, features.train, features.train_labels, self.validation[lanes]
        )

    def acquired(self) -> IntArray:
        """Return how many samples each lane has acquired, ``(n_lanes,)``."""
        return np.asarray(self.counts.sum(axis=1))

    def label_share(self) -> NDArray[np.float64]:
        """Return each label's share of the acquired samples, ``(n_lanes, C)``."""
        return np.asarray(self.counts / np.maximum(self.acquired(), 1)[:, None])

    def class_balance(self) -> NDArray[np.float64]:
        """Return the entropy of the acquired labels over its maximum, ``(n_lanes,)``."""
        share = self.label_share()
        entropy = -np.sum(share * np.log(np.maximum(share, 1e-12)), axis=1)
        return np.asarray(entropy / np.log(self.n_classes))

    def accuracy_panel(self, lane: int, steps: int, x_label: str) -> LinePanel:
        """Show the validation accuracy over the steps so far."""
        return self.tracker.accuracy_panel(
            lane,
            np.arange(steps + 1),
            x_label,
            (0, self.n_steps),
            initial="initial samples alone",
        )
