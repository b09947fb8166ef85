"""Algorithms: what training, checkpoints, searches, imitation and recipes know of each."""

from edge_gym.agents.algorithms.base import ALGORITHMS, Algorithm, register_algorithm

__all__ = ["ALGORITHMS", "Algorithm", "register_algorithm"]
