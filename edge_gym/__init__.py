"""Gymnasium environments for wireless edge learning, rewarded by training real models.

``import edge_gym`` registers the environments: ``gym.make("edge_gym/Retransmission-v0")`` and
``gym.make_vec("edge_gym/Retransmission-v0", num_envs=64)``.
"""

from edge_gym.registration import ENVIRONMENTS, register_environments

__version__ = "0.1.0"

__all__ = ["ENVIRONMENTS", "__version__", "register_environments"]

register_environments()
