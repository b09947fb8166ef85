"""All rules of this project; importing this imports every problem."""

from __future__ import annotations

from edge_gym.baselines import (
    batch_slot,
    data_scheduling,
    index_policy,
    offloading,
    retransmission,
    task_allocation,
    task_resources,
    update_aware,
    update_scheduling,
)
from edge_gym.baselines.base import Baseline, RandomPolicy

RULES: tuple[type[Baseline], ...] = (
    RandomPolicy,
    *retransmission.RULES,
    *data_scheduling.RULES,
    *update_scheduling.RULES,
    *update_aware.RULES,
    *batch_slot.RULES,
    *task_allocation.RULES,
    *task_resources.RULES,
    *offloading.RULES,
    *index_policy.RULES,
)
