"""Policies without learning: those of the papers, those of this project, and registered ones."""

from __future__ import annotations

if __name__ == "baselines":
    raise ImportError("this folder is installed as edge_gym.baselines: import edge_gym.baselines")

from edge_gym.baselines import (
    batch_slot,
    data_scheduling,
    offloading,
    retransmission,
    task_allocation,
    task_resources,
    update_scheduling,
)
from edge_gym.baselines.base import Baseline, RandomPolicy
from edge_gym.baselines.catalogue import (
    BASELINES,
    applicable_baselines,
    find_baseline,
    make_baseline,
    register_baseline,
    zero_baseline,
)

__all__ = [
    "BASELINES",
    "Baseline",
    "applicable_baselines",
    "find_baseline",
    "make_baseline",
    "register_baseline",
    "zero_baseline",
]

_OURS: tuple[type[Baseline], ...] = (
    RandomPolicy,
    *retransmission.RULES,
    *data_scheduling.RULES,
    *update_scheduling.RULES,
    *batch_slot.RULES,
    *task_allocation.RULES,
    *task_resources.RULES,
    *offloading.RULES,
)

for _rule in _OURS:
    register_baseline(_rule)
