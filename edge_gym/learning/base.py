"""What every learner offers an environment: one classifier per lane, trained for real.

A learner of your own is a subclass of ``Learner``, registered by ``register_learner``; then every
problem of centralized learning takes it by name, ``gym.make(id, learner=name)``.
``edge_gym.testing.check_learner`` tests whether it does what is written here.
"""

from __future__ import annotations

import inspect
import math
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from edge_gym.registry import Registry
from edge_gym.runtime.messages import shown

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]

MAX_MARGIN = 30.0
"""Log-odds are clipped to ± this many nats."""

LOSS_SNR_DB = 20.0
"""SNR at which support vector machines' validation loss imagines samples to arrive."""


class Assessment(NamedTuple):
    """What a classifier says about received samples; every array has the samples' leading shape.

    Attributes:
        uncertainty: Distance to the decision boundary (support vector machines, in units of the
            features) or entropy of the predicted classes (networks, in nats).
        margin: Signed margin against the known label. Support vector machines: y·(wᵀx + b), so
            that the hinge loss is max(0, 1 - margin). Networks: log-odds of the true class
            against all others.
        predicted: Index of the predicted class.
    """

    uncertainty: FloatArray
    margin: FloatArray
    predicted: IntArray


class Score(NamedTuple):
    """How good a classifier is on a set of samples; arrays have shape ``(m,)``.

    Attributes:
        accuracy: Share of samples that are classified correctly.
        loss: What the accuracy is too coarse to show. Support vector machines: the probability
            that a sample would be misclassified if it arrived at ``LOSS_SNR_DB``, Φ(-d/σ) for
            one at the signed distance d from the boundary. Networks: the cross-entropy, in nats.
        recall: Share of each class' samples that are classified correctly, ``(m, C)``; 0 where
            there are none.
    """

    accuracy: NDArray[np.float64]
    loss: NDArray[np.float64]
    recall: NDArray[np.float64]


def score_of(
    correct: NDArray[np.integer[Any]],
    total: NDArray[np.integer[Any]],
    loss: NDArray[np.float64],
) -> Score:
    """Return the score of ``correct`` out of ``total`` samples of each class, ``(m, C)``."""
    accuracy = correct.sum(axis=1) / total.sum(axis=1)
    return Score(accuracy, loss, correct / np.maximum(total, 1))


def judge_logits(logits: FloatArray, labels: IntArray) -> Assessment:
    """Judge samples by the logits of a classifier whose classes have probabilities.

    Args:
        logits: Of each class, ``(m, q, C)``.
        labels: Their true labels, ``(m, q)``.

    Returns:
        The entropy of the predicted classes in nats, the log-odds ln p_y - ln(1 - p_y) of the
        label clipped to ± ``MAX_MARGIN``, and the likeliest class.
    """
    log_p = log_softmax(logits, axis=-1)
    label = np.asarray(labels)[..., None]
    others = logits.copy()
    np.put_along_axis(others, label, -np.inf, axis=-1)
    margin = np.take_along_axis(logits, label, axis=-1)[..., 0] - logsumexp(others, axis=-1)
    return Assessment(
        uncertainty=-(np.exp(log_p) * log_p).sum(axis=-1),
        margin=margin.clip(-MAX_MARGIN, MAX_MARGIN),
        predicted=logits.argmax(axis=-1),
    )


def score_logits(logits: FloatArray, labels: IntArray) -> Score:
    """Score classifiers by the logits of samples, ``(m, v, C)``, and their labels, ``(m, v)``."""
    label = np.asarray(labels)[..., None]
    nats = -np.take_along_axis(log_softmax(logits, axis=-1), label, axis=-1)[..., 0]
    own = label == np.arange(logits.shape[-1])
    hits = own & (logits.argmax(axis=-1)[..., None] == label)
    return score_of(hits.sum(axis=1), own.sum(axis=1), np.asarray(nats.mean(axis=1), np.float64))


class Learner(ABC):
    """One classifier per lane, trained on the samples that its lane has acquired.

    Lanes are independent: what one lane learns depends on its own samples and its own generator
    alone, never on how many lanes there are. ``lanes`` is always an array of distinct lane
    indices of shape ``(m,)``, m = 0 included; every other argument has the same leading axis.

    Samples are vectors of d float32 numbers: features that are centred and scaled so that
    E‖x‖² = 1 over the training set, with noise of the channel on top where they were received.
    Labels are integers, 0 .. C - 1.

    What problems ask of a learner before one is made are attributes of its class:

    Attributes:
        uncertainty: What ``Assessment.uncertainty`` holds: ``"distance"`` to the decision
            boundary, small where the classifier is unsure, or ``"entropy"`` of the predicted
            classes in nats, large there.
        loss: Loss of one sample as a function of its margin, see ``loss_of``: ``"hinge_loss"``,
            max(0, 1 - margin), or ``"cross_entropy"``, ln(1 + exp(-margin)).
        max_classes: Most classes that it can tell apart; None for any number.
        needs_images: Whether samples must be images rather than vectors of features.
        has_weight_norm: Whether ``weight_norm`` is there.
        growing: Names of arrays of a state whose later axes are as long as what was acquired, so
            that two states may differ in them.
        n_lanes: Number of lanes; of an instance, as all below.
        n_features: Features of a sample, d.
        n_classes: Number of classes, C; labels are 0 .. C - 1.
    """

    uncertainty: ClassVar[Literal["distance", "entropy"]] = "entropy"
    loss: ClassVar[Literal["hinge_loss", "cross_entropy"]] = "cross_entropy"
    max_classes: ClassVar[int | None] = None
    needs_images: ClassVar[bool] = False
    has_weight_norm: ClassVar[bool] = False
    growing: ClassVar[frozenset[str]] = frozenset()

    n_lanes: int
    n_features: int
    n_classes: int

    @abstractmethod
    def reset(self, lanes: IntArray, generators: Sequence[np.random.Generator]) -> None:
        """Forget samples and parameters of ``lanes`` and draw new initial parameters.

        Args:
            lanes: Lane indices, ``(m,)``.
            generators: ``generators[i]`` belongs to ``lanes[i]``; all of a lane's randomness comes
                from it.
        """

    @abstractmethod
    def append(self, lanes: IntArray, samples: FloatArray, labels: IntArray) -> None:
        """Add one sample to the training set of each lane; nothing is learned yet.

        Args:
            lanes: Lane indices, ``(m,)``.
            samples: As they were received, ``(m, d)``.
            labels: Their true labels, ``(m,)``.
        """

    @abstractmethod
    def fit(self, lanes: IntArray, generators: Sequence[np.random.Generator]) -> None:
        """Train ``lanes`` on all they have acquired, starting from what they know.

        It is called after every ``retrain_every`` samples, and at the end of an episode. A lane
        without samples, or with samples of one class only, must be handled too.

        Args:
            lanes: Lane indices, ``(m,)``.
            generators: As for ``reset``.
        """

    @abstractmethod
    def assess(self, lanes: IntArray, samples: FloatArray, labels: IntArray) -> Assessment:
        """Judge samples by the classifiers of their lanes.

        Args:
            lanes: Lane indices, ``(m,)``.
            samples: ``(m, q, d)``, q samples for each lane.
            labels: Their true labels, ``(m, q)``.

        Returns:
            Uncertainty, margin and predicted class, ``(m, q)`` each; ``judge_logits`` makes them
            of logits.
        """

    def assess_rows(
        self, lanes: IntArray, features: FloatArray, labels: IntArray, rows: IntArray
    ) -> Assessment:
        """Judge ``features[rows]``, samples of a data set that all lanes share.

        Args:
            lanes: Lane indices, ``(m,)``.
            features: The data set, ``(n, d)``.
            labels: Its labels, ``(n,)``.
            rows: Which samples are judged in each lane, ``(m, q)``.

        Returns:
            As ``assess``.
        """
        return self.assess(lanes, features[rows], labels[rows])

    @abstractmethod
    def score(
        self, lanes: IntArray, features: FloatArray, labels: IntArray, rows: IntArray
    ) -> Score:
        """Score each lane on ``features[rows[i]]``.

        Args:
            lanes: Lane indices, ``(m,)``.
            features: The data set, ``(n, d)``, shared by all lanes.
            labels: Its labels, ``(n,)``.
            rows: Which samples each lane is scored on, ``(m, v)``.

        Returns:
            Accuracy and loss ``(m,)`` and recall ``(m, C)``; ``score_logits`` makes them of logits,
            ``score_of`` of counts.
        """

    @abstractmethod
    def get_state(self, lanes: IntArray) -> dict[str, Any]:
        """Return what ``lanes`` have acquired and learned, as arrays that share no memory.

        Each array's first axis is that of ``lanes``, or of parts that lanes have equally many of.
        """

    @abstractmethod
    def set_state(self, lanes: IntArray, state: dict[str, Any]) -> None:
        """Restore in ``lanes`` what ``get_state`` returned for as many lanes."""

    @classmethod
    def loss_of(cls, margin: FloatArray) -> FloatArray:
        """Return the loss of samples with these margins, of any shape; its name is ``loss``."""
        if cls.loss == "hinge_loss":
            return np.maximum(0, 1 - margin)
        return np.logaddexp(0, -margin)

    def weight_norm(self) -> NDArray[np.float64]:
        """Return ‖w‖ of each lane's classifier, ``(n_lanes,)``, by which distances are margins.

        Raises:
            NotImplementedError: If ``has_weight_norm`` is False.
        """
        raise NotImplementedError(f"{type(self).__name__} has no norm of weights")


LearnerFactory = Callable[..., Learner]
"""``factory(n_lanes, image_shape, n_classes, **options)``; classes are factories, too."""

LEARNERS: Registry[LearnerFactory] = Registry("learner")
"""Learners by name."""


def register_learner(name: str, learner: LearnerFactory | str) -> None:
    """Register a learner under a name, by which every problem of centralized learning takes it.

    Args:
        name: What the field ``learner`` of a configuration is set to.
        learner: A subclass of ``Learner``, a function whose return annotation is one, or where
            either is, ``"module:attribute"``. Called as
            ``learner(n_lanes, image_shape, n_classes, **options)``, where ``image_shape`` is
            ``(channels, height, width)``, ``(1, 1, d)`` for features, and the options are those of
            the configuration's ``C``, ``tolerance``, ``hidden_size``, ``learning_rate``,
            ``batch_size`` and ``train_steps`` that its signature names; all, if it has ``**``.

    Raises:
        ValueError: If the name is taken or malformed.
    """
    LEARNERS.register(name, learner)


def learner_type(learner: str | LearnerFactory) -> type[Learner]:
    """Return the class of a learner, whose attributes problems and rules read.

    Args:
        learner: Its name, or what is registered under it.

    Raises:
        ValueError: If there is no learner of this name.
        TypeError: If it is neither a ``Learner`` nor a function that says which it returns.
    """
    factory = LEARNERS.find(learner) if isinstance(learner, str) else learner
    found: Any = factory
    if not isinstance(factory, type):
        found = typing.get_type_hints(factory).get("return")
    if not isinstance(found, type) or not issubclass(found, Learner):
        raise TypeError(
            f"learner {shown(learner)} must be a subclass of edge_gym.learning.Learner, or a "
            "function whose return annotation is one"
        )
    return found


def check_learner_classes(learner: str | LearnerFactory, n_classes: int | None) -> None:
    """Raise a ValueError if a learner cannot tell so many classes apart.

    Args:
        learner: Its name, or what is registered under it.
        n_classes: Number of classes; None if it is not known yet, which counts as too many for
            learners that have a limit.
    """
    most = learner_type(learner).max_classes
    if most is not None and (n_classes is None or n_classes > most):
        advice = [repr(other) for other in LEARNERS if other.startswith(f"{learner}-")]
        raise ValueError(
            f"learner {shown(learner)} tells {'two' if most == 2 else most} classes apart, got "
            f"{'all of the data set' if n_classes is None else n_classes}: choose fewer classes"
            + (f", or {' or '.join(advice)} for more" if advice else "")
        )


def make_learner(
    learner: str | LearnerFactory,
    n_lanes: int,
    image_shape: tuple[int, int, int],
    n_classes: int,
    **options: Any,
) -> Learner:
    """Make the learner of this name.

    Args:
        learner: One of ``LEARNERS``, or what could be registered there.
        n_lanes: Number of lanes.
        image_shape: ``(channels, height, width)`` of a sample; ``(1, 1, d)`` for features.
        n_classes: Number of classes, C.
        **options: Settings of training; those that the learner does not take are left out.

    Raises:
        ValueError: If the name is unknown or an argument is out of range.
        TypeError: If what is registered makes no ``Learner``.
    """
    kind = learner_type(learner)
    factory = LEARNERS.find(learner) if isinstance(learner, str) else learner
    check_learner_classes(learner, n_classes)
    if kind.needs_images and min(image_shape[1:]) == 1:
        raise ValueError(
            f"learner {shown(learner)} needs images, but samples of this data set are vectors of "
            f"{math.prod(image_shape)} features"
        )
    parameters = inspect.signature(factory).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        taken = {parameter.name for parameter in parameters}
        options = {key: value for key, value in options.items() if key in taken}
    made = factory(n_lanes, image_shape, n_classes, **options)
    if not isinstance(made, Learner):
        raise TypeError(f"learner {shown(learner)} made {shown(made)}, which is no Learner")
    return made


register_learner("svm", "edge_gym.learning.svm.learner:make_svm")
register_learner("svm-ovo", "edge_gym.learning.svm.learner:make_one_versus_one")
register_learner("mlp", "edge_gym.learning.online:MlpLearner")
register_learner("cnn", "edge_gym.learning.online:CnnLearner")
