"""The documents' policies, and ours beside them."""

from __future__ import annotations

from typing import Any

from edge_gym.baselines import (
    batch_slot,
    data_scheduling,
    offloading,
    retransmission,
    task_allocation,
    update_scheduling,
)
from edge_gym.baselines.base import Baseline, RandomPolicy
from edge_gym.runtime.messages import shown

__all__ = [
    "BASELINES",
    "Baseline",
    "applicable_baselines",
    "find_baseline",
    "make_baseline",
    "zero_baseline",
]


def _by_name(*rules: type[Baseline]) -> dict[str, tuple[type[Baseline], ...]]:
    names = dict.fromkeys(rule.name for rule in rules)
    return {name: tuple(rule for rule in rules if rule.name == name) for name in names}


BASELINES = _by_name(
    RandomPolicy,
    *retransmission.RULES,
    *data_scheduling.RULES,
    *update_scheduling.RULES,
    *batch_slot.RULES,
    *task_allocation.RULES,
    *offloading.RULES,
)
"""The rules of each name. A name may stand for another rule in another environment, as in the
documents; in none for two."""


def find_baseline(name: str, config: Any) -> type[Baseline]:
    """Return the baseline of this name that applies under an environment's configuration.

    Raises:
        ValueError: If the name is unknown, or no rule of this name applies.
    """
    if name not in BASELINES:
        raise ValueError(f"unknown baseline {shown(name)}; known are {', '.join(BASELINES)}")
    for baseline in BASELINES[name]:
        if baseline.applies_to(config):
            return baseline
    here = ", ".join(_applicable(config))
    raise ValueError(f"policy {shown(name)} does not apply to this environment; here are {here}")


def make_baseline(name: str, env: Any, **parameters: Any) -> Baseline:
    """Make the baseline of this name for an environment, scalar or vector.

    Raises:
        ValueError: If the name is unknown, the rule does not apply, or a value is out of range.
        TypeError: If a parameter is unknown.
    """
    return find_baseline(name, env.unwrapped.config)(env, **parameters)


def applicable_baselines(env: Any) -> list[str]:
    """Return the names of the baselines that apply to an environment."""
    return _applicable(env.unwrapped.config)


def zero_baseline(config: Any) -> str:
    """Return the name of the rule that scores count as 0; see ``Baseline.is_zero``."""
    rules = (rule for named in BASELINES.values() for rule in named)
    stated = (rule.name for rule in rules if rule.applies_to(config) and rule.is_zero(config))
    return next(stated, RandomPolicy.name)


def _applicable(config: Any) -> list[str]:
    return [
        name
        for name, rules in BASELINES.items()
        if any(baseline.applies_to(config) for baseline in rules)
    ]
