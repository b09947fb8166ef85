"""Small, seeded rollouts of every environment id, shared by tests and golden files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterable
from typing import Any

import gymnasium as gym
import pytest

from edge_gym.core.registration import list_environments
from edge_gym.testing.results import (  # noqa: F401  # tests take them from here
    assert_same,
    lane_of,
    parts_of,
    random_actions,
)

# Few and short buffers keep the golden files small.
FEW_DEVICES = {"n_devices": 3, "buffer_size": 2, "budget": 40, "validation_size": 100}
FEW_SAMPLES = {
    "n_devices": 3,
    "samples_per_device": 12,
    "batch_size": 5,
    "validation_size": 100,
    "test_size": 100,
    "cell_radius_m": 200.0,
    "budget_s": 0.1,
    "budget_j": 0.012,
    "max_rounds": 40,
}
FEW_BATCHES = {
    "n_devices": 3,
    "samples_per_device": 12,
    "max_batch": 8,
    "hidden_sizes": (6,),
    "validation_size": 100,
    "test_size": 100,
    "budget_s": 5e-2,
    "max_rounds": 40,
}
# Ren et al. 2021's networks are tested elsewhere; where ids differ in nothing else, small ones do.
FEW_DOCUMENT_BATCHES = {**FEW_BATCHES, "network": "mlp", "budget_s": 3.0}
FEW_TASKS = {
    "n_devices": 4,
    "samples_per_device": 12,
    "hidden_sizes": (6,),
    "validation_size": 100,
    "test_size": 100,
    "cycles": 40,
    "least_samples": 2,
    "cycle_s": 1.5,
    "energy_limit_j": 3.0,
}
FEW_USERS = {
    "n_devices": 3,
    "samples_per_device": 12,
    "hidden_sizes": (6,),
    "validation_size": 100,
    "test_size": 100,
    "iterations": 40,
    "task_images": 4,
}
FEW_DOCUMENT_TASKS = {**FEW_TASKS, "cycle_s": 0.8, "most_updates": 6}
# What makes an id small enough for a test. Retraining stays frequent, and episodes last 40 steps;
# those with a budget of seconds or joules end when it is spent, mostly before their 40th round.
SMALL: dict[str, dict[str, Any]] = {
    "Retransmission-v0": {"budget": 40, "validation_size": 100},
    "RetransmissionMulticlass-v0": {"budget": 40, "validation_size": 100, "retrain_every": 10},
    "RetransmissionCNN-v0": {"budget": 40, "validation_size": 100, "retrain_every": 10},
    "Retransmission-Paper-v0": {"budget": 40, "validation_size": 100, "retrain_every": 10},
    "DataScheduling-v0": FEW_DEVICES,
    "DataSchedulingUnlabelled-v0": FEW_DEVICES,
    "DataSchedulingDevice-v0": FEW_DEVICES,
    "DataSchedulingBatch-v0": {**FEW_DEVICES, "budget": 80},
    "DataSchedulingBatchDiscrete-v0": FEW_DEVICES,
    "DataSchedulingMulticlass-v0": {**FEW_DEVICES, "retrain_every": 10},
    "DataSchedulingCNN-v0": {**FEW_DEVICES, "image_size": 7, "train_steps": 3, "test_size": 100},
    "DataScheduling-Paper-v0": FEW_DEVICES,
    "UpdateScheduling-v0": FEW_SAMPLES,
    "UpdateSchedulingIID-v0": FEW_SAMPLES,
    "UpdateSchedulingGradient-v0": FEW_SAMPLES,
    "UpdateSchedulingRisk-v0": FEW_SAMPLES,
    "UpdateSchedulingCorrupt-v0": {**FEW_SAMPLES, "corrupt_devices": 1},
    "UpdateSchedulingDiscrete-v0": FEW_SAMPLES,
    "UpdateSchedulingLazy-v0": FEW_SAMPLES,
    "UpdateSchedulingLazyIID-v0": FEW_SAMPLES,
    "UpdateSchedulingLazyCorrupt-v0": {**FEW_SAMPLES, "corrupt_devices": 1},
    "UpdateSchedulingLazyDiscrete-v0": FEW_SAMPLES,
    "BatchSlot-v0": FEW_BATCHES,
    "BatchSlotGlobal-v0": {**FEW_BATCHES, "budget_s": 5e-3},
    "BatchSlotNonIID-v0": FEW_BATCHES,
    "BatchSlotCorrupt-v0": {**FEW_BATCHES, "corrupt_devices": 1},
    "BatchSlotGPU-v0": FEW_BATCHES,
    "BatchSlot-Paper-v0": FEW_DOCUMENT_BATCHES,
    "BatchSlotGlobal-Paper-v0": {**FEW_DOCUMENT_BATCHES, "budget_s": 1.0},
    "BatchSlotNonIID-Paper-v0": FEW_DOCUMENT_BATCHES,
    "BatchSlotResNet-Paper-v0": {**FEW_DOCUMENT_BATCHES, "hidden_sizes": (5,)},
    "BatchSlotMobileNet-Paper-v0": {**FEW_DOCUMENT_BATCHES, "hidden_sizes": (4,)},
    "BatchSlotGPU-Paper-v0": FEW_DOCUMENT_BATCHES,
    "TaskAllocation-v0": FEW_TASKS,
    "TaskAllocationStaleness-v0": FEW_TASKS,
    "TaskAllocationFederated-v0": {**FEW_TASKS, "samples_per_device": 24},
    "TaskAllocationNonIID-v0": {**FEW_TASKS, "samples_per_device": 24},
    "TaskAllocationRisk-v0": FEW_TASKS,
    "JointTaskResource-v0": FEW_TASKS,
    "TaskAllocation-Paper-v0": FEW_DOCUMENT_TASKS,
    "TaskAllocationStaleness-Paper-v0": FEW_DOCUMENT_TASKS,
    "JointTaskResource-Paper-v0": FEW_DOCUMENT_TASKS,
    "Offloading-v0": FEW_USERS,
    "OffloadingDiscrete-v0": FEW_USERS,
    "OffloadingGrid-v0": FEW_USERS,
    "Offloading-Paper-v0": FEW_USERS,
    "OffloadingDiscrete-Paper-v0": FEW_USERS,
}
NEEDS_DATA = {row.name for row in list_environments() if row.from_paper}
NETWORKS = {"RetransmissionCNN-v0", "DataSchedulingCNN-v0"}
# Ids under which an action may be impossible, so that masks hide some.
MASKED = {
    *(row.name for row in list_environments() if row.name.startswith("Retransmission")),
    "DataSchedulingBatchDiscrete-v0",
    *("OffloadingDiscrete-v0", "OffloadingGrid-v0", "OffloadingDiscrete-Paper-v0"),
}
NAMES = [row.name for row in list_environments()]
# One id of every problem, kind of action and set of columns, which a test holds; and of what else
# has code of its own: many support vector machines, lazy devices, own samples, GPUs.
KINDS = [
    *("Retransmission-v0", "RetransmissionMulticlass-v0", "RetransmissionCNN-v0"),
    *("DataScheduling-v0", "DataSchedulingUnlabelled-v0", "DataSchedulingDevice-v0"),
    *("DataSchedulingBatch-v0", "DataSchedulingBatchDiscrete-v0", "DataSchedulingCNN-v0"),
    *("UpdateScheduling-v0", "UpdateSchedulingDiscrete-v0"),
    *("UpdateSchedulingLazyIID-v0", "UpdateSchedulingLazyDiscrete-v0"),
    *("BatchSlot-v0", "BatchSlotGlobal-v0", "BatchSlotGPU-v0"),
    *("TaskAllocation-v0", "TaskAllocationStaleness-v0", "TaskAllocationFederated-v0"),
    *("JointTaskResource-v0", "Offloading-v0", "OffloadingDiscrete-v0", "OffloadingGrid-v0"),
]
HAS_DATA = bool(os.environ.get("EDGE_GYM_DATA"))


def parameters(names: Iterable[str], quick: Container[str] = NAMES) -> list[Any]:
    """Return ids as parameters of a test, marked where they need data or are not ``quick``."""
    return [
        pytest.param(
            name,
            marks=[
                *([pytest.mark.data] if name in NEEDS_DATA else []),
                *([] if name in quick else [pytest.mark.slow]),
            ],
        )
        for name in names
    ]


def make(name: str, **overrides: Any) -> gym.Env[Any, Any]:
    """Make the environment without Gymnasium's wrappers."""
    return gym.make(f"edge_gym/{name}", **{**SMALL[name], **overrides}).unwrapped


def make_vec(name: str, num_envs: int, **overrides: Any) -> gym.vector.VectorEnv[Any, Any, Any]:
    return gym.make_vec(f"edge_gym/{name}", num_envs, **{**SMALL[name], **overrides})


def lasting(name: str, steps: int) -> dict[str, Any]:
    """Return the fields of an episode of exactly so many steps."""
    for field in ("cycles", "iterations"):
        if field in SMALL[name]:
            return {field: steps}
    if "budget" in SMALL[name]:
        return {"budget": steps * SMALL[name]["budget"] // 40}
    budgets = {name: 1e3 for name in SMALL[name] if name.startswith("budget_")}
    return {"max_rounds": steps, **budgets}


def brief(name: str) -> dict[str, Any]:
    """Return the fields of a small environment whose episodes take four steps."""
    return {**SMALL[name], **lasting(name, 4), "test_size": 100}


def episode(name: str, seed: int = 0) -> list[tuple[Any, ...]]:
    """Return ``(observation, info)``, then what every step of one episode returned."""
    return played(make(name), seed)


def played(env: gym.Env[Any, Any], seed: int = 0) -> list[tuple[Any, ...]]:
    """Return the same of an environment that is there."""
    steps: list[tuple[Any, ...]] = [env.reset(seed=seed)]
    actions = random_actions(env.action_space, seed)
    over = False
    while not over:
        steps.append(env.step(next(actions)))
        over = steps[-1][2] or steps[-1][3]
    return steps


def digest(name: str) -> str:
    """Return a hash of every bit of an episode."""
    content = hashlib.sha256()
    for observation, *rest in episode(name):
        for part in parts_of(observation).values():
            content.update(part.tobytes())
        content.update(repr(rest).encode())
    return content.hexdigest()
