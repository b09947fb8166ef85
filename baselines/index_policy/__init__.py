"""A linear index in every problem: what CMA-ES finds beside the rules."""

from edge_gym.baselines.index_policy.base import IndexParameters, IndexPolicy, read_weights
from edge_gym.baselines.index_policy.rules import RULES

__all__ = ["RULES", "IndexParameters", "IndexPolicy", "read_weights"]
