"""The contract of learners."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.learning.base import Assessment, Learner, LearnerFactory, learner_type, make_learner
from edge_gym.typing import IntArray

_SAMPLES = 40
_ROUNDS = 4
_LEARNED = 0.7


def check_learner(
    learner: str | LearnerFactory,
    image_shape: tuple[int, int, int] = (1, 4, 4),
    n_classes: int = 3,
    *,
    learns: float = _LEARNED,
    seed: int = 0,
    **options: Any,
) -> None:
    """Check that a learner does what ``edge_gym.learning.Learner`` asks for.

    Checked are shapes and values of what it returns, that it learns to tell well separated classes
    apart, that lanes neither depend on each other nor on their number, that a seed fixes what is
    learned, that ``reset`` forgets, and that a state or a pickled copy goes on as the original.

    Args:
        learner: Its name, class, or factory.
        image_shape: Channels, height and width of a sample.
        n_classes: Number of classes; fewer if the learner has a limit.
        learns: Accuracy that it must reach on the samples that it was trained on.
        seed: Of samples and generators.
        **options: As for ``make_learner``.

    Raises:
        AssertionError: If something is broken; the message says what.
    """
    check = _Check(learner, image_shape, n_classes, seed, options)
    check.attributes()
    check.values()
    check.learning(learns)
    check.lanes()
    check.reset()
    check.state()


class _Check:
    def __init__(
        self,
        learner: str | LearnerFactory,
        image_shape: tuple[int, int, int],
        n_classes: int,
        seed: int,
        options: dict[str, Any],
    ) -> None:
        self.kind = learner_type(learner)
        self.given = learner
        self.image_shape = image_shape
        self.n_classes = min(n_classes, self.kind.max_classes or n_classes)
        self.seed = seed
        self.options = options
        rng = np.random.default_rng(seed)
        d = int(np.prod(image_shape))
        centres = rng.standard_normal((self.n_classes, d))
        self.labels = np.arange(20 * self.n_classes) % self.n_classes
        x = centres[self.labels] + 0.3 * rng.standard_normal((len(self.labels), d))
        x -= x.mean(axis=0)
        self.x = (x / np.sqrt(np.square(x).sum(axis=1).mean())).astype(np.float32)
        self.rows = np.stack([rng.integers(len(x), size=_SAMPLES) for _ in range(4)])
        self.all = np.tile(np.arange(len(x)), (4, 1))

    def made(self, n_lanes: int) -> Learner:
        return make_learner(self.given, n_lanes, self.image_shape, self.n_classes, **self.options)

    def generators(self, numbers: IntArray | list[int]) -> list[np.random.Generator]:
        return [np.random.default_rng([self.seed, int(number)]) for number in numbers]

    def trained(self, n_lanes: int, lanes: list[int], numbers: list[int]) -> Learner:
        """Return a learner that trained what belongs to ``numbers`` in ``lanes``."""
        learner, at = self.made(n_lanes), np.array(lanes)
        rngs = self.generators(numbers)
        learner.reset(at, rngs)
        self.go_on(learner, at, numbers, rngs)
        return learner

    def go_on(
        self,
        learner: Learner,
        lanes: IntArray,
        numbers: list[int],
        rngs: list[np.random.Generator],
        rounds: int = _ROUNDS,
    ) -> None:
        size = _SAMPLES // _ROUNDS
        for start in range(0, rounds * size, size):
            for i in range(start, start + size):
                rows = self.rows[numbers, i % _SAMPLES]
                learner.append(lanes, self.x[rows], self.labels[rows])
            learner.fit(lanes, rngs)

    def judged(self, learner: Learner, lanes: IntArray) -> list[NDArray[Any]]:
        """Return all that a learner says of all samples."""
        rows = self.all[: len(lanes)]
        assessment = learner.assess_rows(lanes, self.x, self.labels, rows)
        score = learner.score(lanes, self.x, self.labels, rows)
        return [np.array(values) for values in (*assessment, *score)]

    def same(self, ours: list[NDArray[Any]], theirs: list[NDArray[Any]], what: str) -> None:
        names = (*Assessment._fields, "accuracy", "loss", "recall")
        for name, one, other in zip(names, ours, theirs, strict=True):
            assert np.array_equal(one, other), (
                f"{what}: {name} differs, by {np.abs(one.astype(float) - other).max():.3g} at most"
            )

    def attributes(self) -> None:
        kind, learner = self.kind, self.made(2)
        assert kind.uncertainty in ("distance", "entropy"), f"uncertainty is {kind.uncertainty!r}"
        assert kind.loss in ("hinge_loss", "cross_entropy"), f"loss is {kind.loss!r}"
        wanted = (2, self.x.shape[1], self.n_classes)
        found = (learner.n_lanes, learner.n_features, learner.n_classes)
        assert found == wanted, f"(n_lanes, n_features, n_classes) is {found}, not {wanted}"
        assert isinstance(learner, kind), f"{self.given!r} made a {type(learner).__name__}"
        if kind.has_weight_norm:
            learner.reset(np.arange(2), self.generators([0, 1]))
            norm = learner.weight_norm()
            assert norm.shape == (2,), f"weight_norm() has shape {norm.shape}, not (2,)"

    def values(self) -> None:
        """Check what is said before anything was learned, of one class, and after training."""
        learner, lanes = self.made(3), np.array([2, 0])
        rngs = self.generators([0, 1])
        learner.reset(np.arange(3), self.generators([0, 1, 2]))
        learner.fit(lanes, rngs)
        self.valid(learner, lanes, "without samples")
        for _ in range(2):
            learner.append(lanes, self.x[[0, 0]], self.labels[[0, 0]])
        learner.fit(lanes, rngs)
        self.valid(learner, lanes, "with samples of one class")
        trained = self.trained(3, [2, 0], [0, 1])
        self.valid(trained, lanes, "after training")
        # Of no lane at all nothing is wanted.
        none = lanes[:0]
        trained.append(none, self.x[:0], self.labels[:0])
        trained.fit(none, [])
        trained.set_state(none, trained.get_state(none))
        trained.reset(none, [])
        empty = trained.assess(none, self.x[self.rows[:0]], self.labels[self.rows[:0]])
        for name, values in empty._asdict().items():
            assert np.shape(values) == (0, _SAMPLES), f"of no lane, {name} is {np.shape(values)}"
        trained.score(none, self.x, self.labels, self.rows[:0])
        self.valid(trained, lanes, "after calls for no lane")

    def valid(self, learner: Learner, lanes: IntArray, when: str) -> None:
        m, q = len(lanes), 7
        rows = self.rows[:m, :q]
        before = self.x.copy()
        found = learner.assess(lanes, self.x[rows], self.labels[rows])
        assert isinstance(found, Assessment), f"assess returned a {type(found).__name__}"
        for name, values in found._asdict().items():
            assert np.shape(values) == (m, q), f"{when}: {name} has shape {np.shape(values)}"
            assert np.isfinite(values).all(), f"{when}: {name} is not finite"
        assert (found.uncertainty >= 0).all(), f"{when}: an uncertainty is negative"
        known = np.isin(found.predicted, np.arange(self.n_classes))
        assert known.all(), f"{when}: predicted classes are not in 0..{self.n_classes - 1}"
        if self.n_classes == 2:
            right = np.asarray(found.predicted) == self.labels[rows]
            wrong = (right & (found.margin < 0)) | (~right & (found.margin > 0))
            assert not wrong.any(), f"{when}: the sign of a margin contradicts the prediction"
        again = learner.assess_rows(lanes, self.x, self.labels, rows)
        for name, one, other in zip(Assessment._fields, found, again, strict=True):
            np.testing.assert_allclose(
                one, other, rtol=1e-4, atol=1e-5, err_msg=f"assess and assess_rows: {name}"
            )
        accuracy, loss, recall = learner.score(lanes, self.x, self.labels, rows)
        right = np.asarray(again.predicted) == self.labels[rows]
        assert np.shape(loss) == (m,), f"{when}: loss has shape {np.shape(loss)}"
        assert np.isfinite(loss).all(), f"{when}: loss is not finite"
        np.testing.assert_allclose(
            accuracy, right.mean(axis=1), err_msg=f"{when}: accuracy is not that of predictions"
        )
        assert np.shape(recall) == (m, self.n_classes), f"{when}: recall has {np.shape(recall)}"
        for label in range(self.n_classes):
            own = self.labels[rows] == label
            share = (right & own).sum(axis=1) / np.maximum(own.sum(axis=1), 1)
            np.testing.assert_allclose(
                recall[:, label], share, err_msg=f"{when}: recall of label {label}"
            )
        assert np.array_equal(self.x, before), "samples were changed"

    def learning(self, least: float) -> None:
        learner, lanes = self.trained(2, [0, 1], [0, 1]), np.arange(2)
        rngs = self.generators([5, 6])
        for _ in range(4):
            self.go_on(learner, lanes, [0, 1], rngs)
        score = learner.score(lanes, self.x, self.labels, self.rows[:2])
        assert (score.accuracy >= least).all(), (
            f"after {5 * _SAMPLES} samples of well separated classes the accuracy on them is "
            f"{score.accuracy.min():.2f}, below {least}"
        )

    def lanes(self) -> None:
        several = self.trained(4, [0, 1, 2, 3], [0, 1, 2, 3])
        whole = self.judged(several, np.arange(4))
        again = self.judged(self.trained(4, [0, 1, 2, 3], [0, 1, 2, 3]), np.arange(4))
        self.same(whole, again, "the same generators and samples once more")
        for number in (0, 3):
            alone = self.judged(self.trained(1, [0], [number]), np.arange(1))
            of_lane = [values[number : number + 1] for values in whole]
            self.same(of_lane, alone, f"lane {number} of four, and alone")
        mixed = self.judged(self.trained(4, [3, 1], [0, 2]), np.array([3, 1]))
        self.same([values[[0, 2]] for values in whole], mixed, "in other lanes")

    def reset(self) -> None:
        learner = self.trained(2, [0, 1], [2, 3])
        untouched = [values[1:] for values in self.judged(learner, np.arange(2))]
        rngs, lane = self.generators([0]), np.array([0])
        learner.reset(lane, rngs)
        self.go_on(learner, lane, [0], rngs)
        found = self.judged(learner, np.arange(2))
        self.same([values[1:] for values in found], untouched, "a lane that was not reset")
        fresh = self.judged(self.trained(1, [0], [0]), np.arange(1))
        self.same([values[:1] for values in found], fresh, "after reset, and of a new learner")

    def state(self) -> None:
        original, lanes = self.trained(3, [0, 2], [0, 1]), np.array([0, 2])
        copied = pickle.loads(pickle.dumps(original))
        saved = original.get_state(lanes)
        kept = copy.deepcopy(saved)
        other, places = self.trained(4, [1, 3], [2, 3]), np.array([3, 1])
        other.set_state(places, saved)
        what = "a state that was restored in other lanes"
        self.same(self.judged(original, lanes), self.judged(other, places), what)
        for learner, at in ((original, lanes), (other, places), (copied, lanes)):
            self.go_on(learner, at, [0, 1], self.generators([7, 8]), rounds=2)
        found = self.judged(original, lanes)
        self.same(found, self.judged(other, places), f"{what}, after more training")
        self.same(found, self.judged(copied, lanes), "a pickled copy, after more training")
        for key, value in kept.items():
            assert np.array_equal(value, saved[key]), f"training changed the saved state's {key}"
