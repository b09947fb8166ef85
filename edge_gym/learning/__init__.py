"""Real training: support vector machines and networks, batched over lanes."""

from edge_gym.learning.base import (
    LEARNERS,
    Assessment,
    Learner,
    Score,
    judge_logits,
    learner_type,
    make_learner,
    register_learner,
    score_logits,
    score_of,
)

__all__ = [
    "LEARNERS",
    "Assessment",
    "Learner",
    "Score",
    "judge_logits",
    "learner_type",
    "make_learner",
    "register_learner",
    "score_logits",
    "score_of",
]
