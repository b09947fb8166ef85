"""Real training: support vector machines and networks, batched over lanes."""

from __future__ import annotations

from edge_gym.learning.base import Assessment, Learner, Score
from edge_gym.runtime.messages import shown

LEARNERS = ("svm", "svm-ovo", "mlp", "cnn")

__all__ = ["LEARNERS", "Assessment", "Learner", "Score", "make_learner"]


def make_learner(
    name: str,
    n_lanes: int,
    image_shape: tuple[int, int, int],
    n_classes: int,
    *,
    C: float = 1.0,
    tolerance: float = 1e-3,
    hidden_size: int = 64,
    learning_rate: float = 0.003,
    batch_size: int = 32,
    train_steps: int = 10,
) -> Learner:
    """Make the learner of this name, one of ``LEARNERS``.

    Raises:
        ValueError: If the name is unknown or an argument is out of range.
    """
    if name in ("svm", "svm-ovo"):
        from edge_gym.learning.svm.learner import SVMLearner

        channels, height, width = image_shape
        n_features = channels * height * width
        return SVMLearner(n_lanes, n_features, n_classes, C=C, tolerance=tolerance)
    if name in ("mlp", "cnn"):
        from edge_gym.learning.networks.learners import NetworkLearner

        return NetworkLearner(
            n_lanes,
            image_shape,
            n_classes,
            name,
            hidden_size=hidden_size,
            learning_rate=learning_rate,
            batch_size=batch_size,
            train_steps=train_steps,
        )
    raise ValueError(f"unknown learner {shown(name)}; known are {', '.join(LEARNERS)}")
