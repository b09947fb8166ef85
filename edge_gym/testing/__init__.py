"""Checks for what you bring yourself: the same that this project's own things must pass.

Each raises an ``AssertionError`` that says what is wrong, and needs no test framework::

    from edge_gym.testing import check_baseline, check_channel, check_learner, check_problem

    check_problem("my_lab/Queues-v0")
    check_baseline("longest-queue", "my_lab/Queues-v0")
    check_channel("my-channel:shape=3")
    check_learner("my-learner")
"""

from edge_gym.testing.baselines import check_baseline
from edge_gym.testing.channels import check_channel
from edge_gym.testing.learners import check_learner
from edge_gym.testing.problems import check_problem

__all__ = ["check_baseline", "check_channel", "check_learner", "check_problem"]
