"""Gymnasium environments for wireless edge learning, rewarded by training real models.

``import edge_gym`` registers the environments: ``gym.make("edge_gym/Retransmission-v0")`` and
``gym.make_vec("edge_gym/Retransmission-v0", num_envs=64)``.

What is exported, and every module, is imported when it is used: ``edge_gym.compare`` and
``edge_gym.comparison`` need no import of their own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edge_gym import isolation as _isolation  # noqa: F401  # what it does in forked children
from edge_gym.registration import ENVIRONMENTS, register_environments

if TYPE_CHECKING:
    from edge_gym.agents import LaneVecEnv, load_agent, save_agent, train
    from edge_gym.baselines import make_baseline
    from edge_gym.comparison import compare
    from edge_gym.describing import describe
    from edge_gym.evaluation import make_lanes, run_episodes
    from edge_gym.policies import make_policy
    from edge_gym.wrappers import ScaleObservation, ScaleVectorObservation

__version__ = "0.1.0"

_HOMES = {
    "LaneVecEnv": "agents",
    "ScaleObservation": "wrappers",
    "ScaleVectorObservation": "wrappers",
    "compare": "comparison",
    "describe": "describing",
    "load_agent": "agents",
    "make_baseline": "baselines",
    "make_lanes": "evaluation",
    "make_policy": "policies",
    "run_episodes": "evaluation",
    "save_agent": "agents",
    "train": "agents",
}

_MODULES = ("agents", "baselines", "comparison", "evaluation", "policies", "seeds", "wrappers")

__all__ = [
    "ENVIRONMENTS",
    "LaneVecEnv",
    "ScaleObservation",
    "ScaleVectorObservation",
    "__version__",
    "compare",
    "describe",
    "load_agent",
    "make_baseline",
    "make_lanes",
    "make_policy",
    "register_environments",
    "run_episodes",
    "save_agent",
    "train",
]

register_environments()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    module = f"{__name__}.{name}"
    if not name.startswith("_"):
        try:
            return import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
