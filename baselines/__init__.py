"""The documents' policies, and ours beside them."""

from __future__ import annotations

from typing import Any

from edge_gym.baselines.base import Baseline, RandomPolicy
from edge_gym.baselines.retransmission import (
    ChannelAware,
    ImportanceAware,
    ImportanceAwareEntropy,
    ImportanceAwareMulticlass,
    NoRetransmission,
    SupportVectorAware,
)

__all__ = ["BASELINES", "Baseline", "applicable_baselines", "make_baseline"]

BASELINES: dict[str, type[Baseline]] = {
    baseline.name: baseline
    for baseline in (
        RandomPolicy,
        NoRetransmission,
        ChannelAware,
        ImportanceAware,
        ImportanceAwareMulticlass,
        ImportanceAwareEntropy,
        SupportVectorAware,
    )
}


def make_baseline(name: str, env: Any, **parameters: Any) -> Baseline:
    """Make the baseline of this name for an environment, scalar or vector.

    Raises:
        ValueError: If the name is unknown, the rule does not apply, or a value is out of range.
        TypeError: If a parameter is unknown.
    """
    if name not in BASELINES:
        raise ValueError(f"unknown baseline {name!r}; known are {', '.join(BASELINES)}")
    return BASELINES[name](env, **parameters)


def applicable_baselines(env: Any) -> list[str]:
    """Return the names of the baselines that apply to an environment."""
    config = env.unwrapped.config
    return [name for name, baseline in BASELINES.items() if baseline.applies_to(config)]
