"""Gymnasium environments for wireless edge learning, rewarded by training real models.

``import edge_gym`` registers the environments: ``gym.make("edge_gym/Retransmission-v0")`` and
``gym.make_vec("edge_gym/Retransmission-v0", num_envs=64)``.

What is exported, and every module, is imported when it is used: ``edge_gym.compare`` and
``edge_gym.evaluation.comparison`` need no import of their own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edge_gym import envs as _envs  # noqa: F401  # registers our ids
from edge_gym.core.registration import list_environments, register_environment
from edge_gym.evaluation.policy_sources import register_policy_source
from edge_gym.evaluation.report_hooks import REPORTS as _REPORTS
from edge_gym.papers import register_paper
from edge_gym.registry import begin_plugins as _begin_plugins
from edge_gym.runtime import isolation as _isolation  # noqa: F401  # what it does in forked children
from edge_gym.version import __version__

if TYPE_CHECKING:
    from edge_gym.agents import LaneVecEnv, load_agent, register_algorithm, save_agent, train
    from edge_gym.agents.decoders import register_decoder
    from edge_gym.baselines import make_baseline, register_baseline
    from edge_gym.data import register_dataset
    from edge_gym.evaluation.comparison import compare
    from edge_gym.evaluation.policies import make_policy
    from edge_gym.evaluation.rollouts import make_lanes, run_episodes
    from edge_gym.learning import register_learner
    from edge_gym.learning.networks.architecture import register_network
    from edge_gym.physics.channel import register_channel
    from edge_gym.reports.describe import describe
    from edge_gym.wrappers import ScaleObservation, ScaleVectorObservation

_HOMES = {
    "LaneVecEnv": "agents",
    "ScaleObservation": "wrappers",
    "ScaleVectorObservation": "wrappers",
    "compare": "evaluation.comparison",
    "describe": "reports.describe",
    "load_agent": "agents",
    "make_baseline": "baselines",
    "make_lanes": "evaluation.rollouts",
    "make_policy": "evaluation.policies",
    "register_algorithm": "agents",
    "register_baseline": "baselines",
    "register_channel": "physics.channel",
    "register_dataset": "data",
    "register_decoder": "agents.decoders",
    "register_learner": "learning",
    "register_network": "learning.networks.architecture",
    "run_episodes": "evaluation.rollouts",
    "save_agent": "agents",
    "train": "agents",
}

_MODULES = ("agents", "baselines", "data", "envs", "evaluation", "learning", "physics", "wrappers")

__all__ = [
    "LaneVecEnv",
    "ScaleObservation",
    "ScaleVectorObservation",
    "__version__",
    "compare",
    "describe",
    "list_environments",
    "load_agent",
    "make_baseline",
    "make_lanes",
    "make_policy",
    "register_algorithm",
    "register_baseline",
    "register_channel",
    "register_dataset",
    "register_decoder",
    "register_environment",
    "register_learner",
    "register_network",
    "register_paper",
    "run_episodes",
    "save_agent",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])


register_policy_source("agents", "edge_gym.agents.policy_source:AGENTS")
for _name, _place in (
    ("comparison", "charts:draw_comparison"),
    ("generalisation", "charts:draw_generalisation"),
    ("leaderboard", "leaderboard_page:write_leaderboard_page"),
):
    _REPORTS.register(_name, f"edge_gym.reports.{_place}")

# Last, for plug-ins import this package themselves.
_begin_plugins()
