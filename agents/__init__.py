"""Trained PPO and DQN agents, and how to train them.

``load_agent`` and what acts need torch alone; ``train``, ``save_agent``, ``LaneVecEnv`` and
``CompactReplayBuffer`` need ``pip install 'edge_gym[agents]'``. Nothing heavy is imported before it
is used.
"""

from __future__ import annotations

if __name__ == "agents":
    raise ImportError("this folder is installed as edge_gym.agents: import edge_gym.agents")

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_gym.agents.algorithms.base import ALGORITHMS, Algorithm, register_algorithm
    from edge_gym.agents.archive import AgentError
    from edge_gym.agents.policy import AgentPolicy
    from edge_gym.agents.recipe import Recipe, find_recipe, has_recipe, load_recipe
    from edge_gym.agents.store import load_agent, read_agent_metadata, save_agent, shipped_agents
    from edge_gym.agents.training.run import TrainingInterrupted, train
    from edge_gym.integrations.replay import CompactReplayBuffer
    from edge_gym.integrations.sb3 import LaneVecEnv

_HOMES = {
    "ALGORITHMS": "algorithms.base",
    "Algorithm": "algorithms.base",
    "AgentError": "archive",
    "AgentPolicy": "policy",
    "CompactReplayBuffer": "edge_gym.integrations.replay",
    "LaneVecEnv": "edge_gym.integrations.sb3",
    "Recipe": "recipe",
    "TrainingInterrupted": "training.run",
    "find_recipe": "recipe",
    "has_recipe": "recipe",
    "load_agent": "store",
    "load_recipe": "recipe",
    "read_agent_metadata": "store",
    "register_algorithm": "algorithms.base",
    "save_agent": "store",
    "shipped_agents": "store",
    "train": "training.run",
}

__all__ = [
    "ALGORITHMS",
    "AgentError",
    "AgentPolicy",
    "Algorithm",
    "CompactReplayBuffer",
    "LaneVecEnv",
    "Recipe",
    "TrainingInterrupted",
    "find_recipe",
    "has_recipe",
    "load_agent",
    "load_recipe",
    "read_agent_metadata",
    "register_algorithm",
    "save_agent",
    "shipped_agents",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    module = home if home.startswith("edge_gym.") else f"{__name__}.{home}"
    return getattr(import_module(module), name)
