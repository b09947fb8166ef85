"""Settings of task allocation: what is refused, and that the rest runs."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from plain_task_allocation import JOINT, STALENESS, make
from rollouts import random_actions

from edge_gym.baselines import make_baseline
from edge_gym.envs.task_allocation.config import TaskAllocationConfig

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ENDS: dict[str, tuple[float, float]] = {
    "cycle_s": (1e-9, 1e9),
    "energy_limit_j": (1e-12, 1e9),
    "slowdown": (1, 1e6),
    "model_bits": (1, 1e12),
    "model_bits_per_sample": (0, 1e9),
    "sample_bits": (1, 1e12),
    "cycles_per_sample": (1e-3, 1e15),
    "capacitance": (1e-40, 1e-15),
}


@pytest.mark.parametrize(("field", "ends"), ENDS.items())
def test_what_is_accepted_can_be_run(field: str, ends: tuple[float, float]) -> None:
    """Beyond physical magnitudes costs would overflow; within them everything stays finite."""
    for beyond in (1e300, 10 * ends[1], *((1e-300, ends[0] / 10) if ends[0] else (-1e-300,))):
        with pytest.raises(ValueError, match=f"{field} must be a finite number in"):
            TaskAllocationConfig(**{"energy_spread_j": 0.0, field: beyond})
    for end, fields in itertools.product(ends, ({}, STALENESS, JOINT)):
        if field == "model_bits_per_sample" and fields == JOINT:
            continue
        env = make(**fields, **{"energy_spread_j": 0.0, "slowdown_probability": 0.5, field: end})
        observation, _ = env.reset(seed=0)
        for action in itertools.islice(random_actions(env.action_space, 3), 3):
            assert env.observation_space.contains(observation)
            observation, reward, *_, info = env.step(action)
            assert np.isfinite(reward)
            assert all(np.isfinite(value) for value in info.values())


def test_joint_rules_end_at_any_magnitude() -> None:
    """A second is nothing beside the cycle, and speeds differ by fifteen orders: this once hung."""
    extremes = {"cycle_s": 1e9, "model_bits": 1.0, "sample_bits": 1.0, "transmit_power_dbm": 60.0}
    env = make(**JOINT, **extremes, cpu_groups_hz=(1.0, 1e15))
    observation, _ = env.reset(seed=0)
    for name in ("task-only", "resource-only", "joint-task-resource", "random-shares"):
        rule = make_baseline(name, env)
        rule.begin(np.zeros(1, np.int64), [0])
        assert np.isfinite(rule.act(observation)).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": 8}, "bits must be 32 and density 1, whole models are exchanged here, got 8"),
        ({"density": 0.5}, "bits must be 32 and density 1.* got 32 and 0.5"),
        ({"actions": "global"}, "actions must be one of direct, staleness, joint"),
        ({"learning": "central"}, "learning must be one of parallelized, federated"),
        ({"task_share": 0.0}, r"task_share must be a finite number in \(0, 1\]"),
        ({"task_share": 1.1}, "task_share must be a finite number"),
        ({"energy_spread_j": 10.1}, r"energy_spread_j must be a finite number in \[0, 10\]"),
        ({"caps": (1,)}, "caps must be two or more that ascend"),
        ({"caps": (1, 0)}, "caps must be two or more that ascend"),
        ({"caps": (1, 1)}, "caps must be two or more that ascend"),
        ({"caps": (-1, 1)}, r"caps must be an integer in \[0, 10000\]"),
        ({"cpu_groups_hz": ()}, "cpu_groups_hz must have 1 to n_devices = 10 speeds"),
        ({"cpu_groups_hz": (1e9, 0.0)}, "cpu_groups_hz must be a finite number in"),
        ({"fading": "round"}, "fading must be one of none, cycle"),
        ({"slowdown": 0.5}, "slowdown must be a finite number in"),
        ({"redundancy": 3}, "redundancy must divide n_devices = 10, got 3"),
        ({"redundancy": 11}, r"redundancy must be an integer in \[1, 10\]"),
        ({"redundancy": 2, **JOINT}, "redundancy needs actions=\"direct\", got 'joint'"),
        ({"redundancy": 2, **STALENESS}, "redundancy needs actions=\"direct\", got 'staleness'"),
        ({"model_bits": 0}, "model_bits must be a finite number"),
        ({"sample_bits": -1.0}, "sample_bits must be a finite number"),
        ({"cycles_per_sample": math.inf}, "cycles_per_sample must be a finite number"),
        ({"model_bits_per_sample": 1.0, **JOINT}, "model_bits_per_sample must be 0 with actions"),
        ({"targets": (0.9, 0.8)}, "targets must ascend"),
        ({"targets": (0.9, 1.1)}, "targets must be a finite number"),
    ],
)
def test_wrong_settings_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskAllocationConfig(**fields)


def test_a_configuration_travels_through_json() -> None:
    config = TaskAllocationConfig(targets=(0.5,), caps=(0, 2, 4), cpu_groups_hz=(1e9, 2e9))
    assert TaskAllocationConfig(**json.loads(json.dumps(asdict(config)))) == config
