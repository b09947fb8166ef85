"""Every learner, ours and those that users bring, keeps the contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_gym.learning import LEARNERS, Learner, learner_type, make_learner, register_learner
from edge_gym.learning.online import MlpLearner
from edge_gym.learning.svm.learner import SVMLearner, make_one_versus_one
from edge_gym.testing.learners import check_learner

NETWORK = {"train_steps": 20, "batch_size": 8, "learning_rate": 0.01}


@pytest.mark.parametrize("name", ["svm", "svm-ovo", "mlp", "cnn"])
def test_our_learners_keep_the_contract(name: str) -> None:
    shape = (1, 8, 8) if name == "cnn" else (1, 4, 4)
    check_learner(name, shape, learns=0.9, **NETWORK)


class Forgetful(SVMLearner):
    """Its states are of another learner's lanes."""

    def get_state(self, lanes: Any) -> dict[str, Any]:
        return super().get_state((lanes + 1) % self.n_lanes)


class Entangled(MlpLearner):
    """Lanes share what the first one's generator draws."""

    def reset(self, lanes: Any, generators: Any) -> None:
        super().reset(lanes, [np.random.default_rng(len(lanes)) for _ in lanes])


class Backward(SVMLearner):
    """Wrong predictions have positive margins."""

    def assess_rows(self, lanes: Any, features: Any, labels: Any, rows: Any) -> Any:
        found = super().assess_rows(lanes, features, labels, rows)
        return found._replace(margin=-found.margin)


class Lazy(SVMLearner):
    def fit(self, lanes: Any, generators: Any) -> None:
        pass


def of(kind: type[SVMLearner]) -> Any:
    def factory(n_lanes: int, image_shape: Any, n_classes: int) -> SVMLearner:
        return kind(n_lanes, int(np.prod(image_shape)), n_classes)

    factory.__annotations__["return"] = kind
    return factory


@pytest.mark.parametrize(
    ("learner", "n_classes", "message"),
    [
        (of(Forgetful), 3, "restored in other lanes: .* differs"),
        (Entangled, 3, "lane 0 of four, and alone: .* differs"),
        (of(Backward), 2, "the sign of a margin contradicts the prediction"),
        (of(Lazy), 3, "accuracy on them is .* below 0.7"),
    ],
)
def test_what_breaks_the_contract_is_told(learner: Any, n_classes: int, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_learner(learner, n_classes=n_classes)


def test_what_problems_ask_of_a_learner() -> None:
    expected = {
        "svm": ("distance", "hinge_loss", 2, False, True),
        "svm-ovo": ("distance", "hinge_loss", None, False, True),
        "mlp": ("entropy", "cross_entropy", None, False, False),
        "cnn": ("entropy", "cross_entropy", None, True, False),
    }
    for name, wanted in expected.items():
        kind = learner_type(name)
        found = (kind.uncertainty, kind.loss, kind.max_classes, kind.needs_images)
        assert (*found, kind.has_weight_norm) == wanted
    margin = np.array([-1.0, 0.0, 3.0])
    assert learner_type("svm").loss_of(margin).tolist() == [2, 1, 0]
    np.testing.assert_allclose(learner_type("mlp").loss_of(margin), np.log1p(np.exp(-margin)))
    with pytest.raises(NotImplementedError, match="MlpLearner has no norm of weights"):
        make_learner("mlp", 1, (1, 4, 4), 2).weight_norm()


def test_classes_that_a_learner_cannot_tell_apart() -> None:
    with pytest.raises(ValueError, match=r"'svm' tells two classes apart, got 3: .* 'svm-ovo'"):
        make_learner("svm", 1, (1, 4, 4), 3)
    with pytest.raises(ValueError, match="needs images, but samples of this data set"):
        make_learner("cnn", 1, (1, 1, 16), 3)


def test_a_learner_says_what_it_is() -> None:
    def silent(n_lanes: int, image_shape: Any, n_classes: int):  # type: ignore[no-untyped-def]
        return make_one_versus_one(n_lanes, image_shape, n_classes)

    def lying(n_lanes: int, image_shape: Any, n_classes: int) -> Learner:
        return None  # type: ignore[return-value]

    for learner, message in ((silent, "whose return annotation is one"), (lying, "no Learner")):
        register_learner("own/wrong", learner)
        with pytest.raises(TypeError, match=message):
            make_learner("own/wrong", 1, (1, 4, 4), 2)
        LEARNERS.unregister("own/wrong")
