"""Ids of the task allocation problem."""

from __future__ import annotations

import functools
from typing import Any

from edge_gym.core.registration import register_own

_register = functools.partial(
    register_own,
    "task_allocation.env",
    "TaskAllocation",
    paper="mohammad-2020",
    budget_field="cycles",
)

# Mohammad et al. 2020 §5 and Table 1: 280,440 weights of 32 bits, 784 features of 8 bits.
_PAPER: dict[str, Any] = {
    "dataset": "mnist",
    "image_size": None,
    "hidden_sizes": (300, 124, 60),
    "n_devices": 20,
    "samples_per_device": None,
    "validation_size": 1000,
    "test_size": None,
    "batch_size": 64,
    "least_samples": 100,
    "most_updates": 24,
    "sample_bits": 6272.0,
    "cycles_per_sample": 1_123_736.0,
    "reward": "accuracy",
    "targets": (0.94, 0.95, 0.97),
}

_register(
    "TaskAllocation-v0",
    "every learner's samples and local updates in a global cycle, within time and energy",
)
_register(
    "TaskAllocationStaleness-v0",
    "the cap on learners' staleness, under which samples and updates are allocated exactly",
    actions="staleness",
)
_register(
    "TaskAllocationFederated-v0",
    "samples and local updates of learners that have samples of their own",
    learning="federated",
    samples_per_device=300,
    task_share=0.5,
)
_register(
    "TaskAllocationNonIID-v0",
    "samples and local updates of learners that have two shards of sorted data each",
    learning="federated",
    samples_per_device=300,
    task_share=0.5,
    partition="shards",
)
_register(
    "TaskAllocationRisk-v0",
    "samples and local updates of learners that drop out and compute slowly now and then",
    drop_out=0.3,
    slowdown_probability=0.1,
)
_register(
    "JointTaskResource-v0",
    "samples, updates, bands, transmit powers and CPU speeds of all learners, in 5 s cycles",
    actions="joint",
    # In 10 s a few learners do what all of them do: these samples teach no more.
    cycle_s=5.0,
)
_register(
    "TaskAllocation-Paper-v0",
    "samples and updates: the setting of Mohammad et al. 2020, full MNIST, twenty learners",
    **_PAPER,
)
_register(
    "TaskAllocationStaleness-Paper-v0",
    "cap on the staleness: the setting of Mohammad et al. 2020, full MNIST, twenty learners",
    **_PAPER,
    actions="staleness",
)
_register(
    "JointTaskResource-Paper-v0",
    "tasks, bands, powers and speeds: the setting of Mohammad et al. 2020, full MNIST",
    **{**_PAPER, "cycle_s": 12.0},
    actions="joint",
)
