"""Real training: support vector machines and networks, batched over lanes."""

from edge_gym.learning.base import (
    LEARNERS,
    Assessment,
    Learner,
    Score,
    learner_type,
    make_learner,
    register_learner,
)

__all__ = [
    "LEARNERS",
    "Assessment",
    "Learner",
    "Score",
    "learner_type",
    "make_learner",
    "register_learner",
]
