"""Batches and slots: settings that are refused, and that all others run."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_batch_slot import SMALL
from rollouts import random_actions

from edge_gym.envs.batch_slot.config import BatchSlotConfig
from edge_gym.envs.batch_slot.env import BatchSlotEnv


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"actions": "slots"}, "actions must be one of direct, global"),
        ({"choices": 1}, r"choices must be an integer in"),
        ({"update": "weights"}, "update must be one of"),
        ({"max_batch": 0}, "max_batch must be an integer in"),
        ({"download": "free"}, "download must be one of recompressed, union"),
        ({"fading": "none"}, "fading must be one of round, mean"),
        ({"device": "tpu"}, "device must be one of cpu, gpu"),
        ({"cpu_groups_hz": ()}, "cpu_groups_hz must have 1 to n_devices = 6 speeds"),
        ({"cpu_groups_hz": (1e9, 0.0)}, "cpu_groups_hz must be a finite number in"),
        ({"gpu_flops": (1e9,) * 7}, "gpu_flops must have 1 to n_devices = 6 speeds"),
        ({"gpu_threshold": 0}, "gpu_threshold must be an integer in"),
        ({"gpu_base_latency_s": -1.0}, "gpu_base_latency_s must be a finite number"),
        ({"max_learning_rate": 0}, "max_learning_rate must be a finite number"),
        ({"targets": (0.9, 0.8)}, "targets must ascend"),
        ({"targets": (0.9, 1.1)}, "targets must be a finite number"),
        ({"budget_s": 0.0}, "budget_s must be a finite number"),
        ({"choices": 10**12}, r"choices must be an integer in \[2, 10000\]"),
        ({"local_epochs": 10**12}, "local_epochs must be an integer in"),
        ({"local_batch_size": 10**30}, "local_batch_size must be an integer in"),
        ({"max_batch": 10**30}, "max_batch must be an integer in"),
        ({"reference_batch": 10**300}, "reference_batch must be an integer in"),
        (
            {"max_learning_rate": 1e300},
            r"max_learning_rate must be a finite number in \[1e-09, 1000",
        ),
        ({"cpu_groups_hz": (1e-300,)}, r"cpu_groups_hz must be a finite number in \[1, 1e\+15"),
        ({"gpu_flops": (1e300,)}, r"gpu_flops must be a finite number in \[1, 1e\+21"),
        ({"gpu_base_latency_s": 1e300}, "gpu_base_latency_s must be a finite number in"),
        ({"gpu_threshold": 10**30}, "gpu_threshold must be an integer in"),
        ({"budget_s": 1e300}, r"budget_s must be a finite number in \[1e-09, 1e\+12"),
        ({"max_rounds": 10**12}, "max_rounds must be an integer in"),
    ],
)
def test_wrong_settings_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchSlotConfig(**fields)


_EXTREMES: dict[str, tuple[Any, ...]] = {
    "actions": ("direct", "global"),
    "choices": (2, 10_000),
    "update": ("gradient", "model"),
    "download": ("recompressed", "union"),
    "density": (1e-9, 1.0),
    "bits": (2, 32),
    "local_epochs": (1, 3),
    "local_batch_size": (1, 10**9),
    "max_batch": (None, 1, 10**9),
    "reference_batch": (1, 10**9),
    "max_learning_rate": (1e-9, 1e3),
    "downlink_power_dbm": (-50.0, 60.0),
    "fading": ("round", "mean"),
    "device": ("cpu", "gpu"),
    "cpu_groups_hz": (None, (1.0, 1e15)),
    "gpu_flops": ((1.0, 1e21),),
    "gpu_base_latency_s": (1e-9, 1e6),
    "gpu_threshold": (1, 10**9),
    "budget_s": (1e-9, 1e12),
    "max_rounds": (1, 4),
}


@settings(max_examples=25, deadline=None)
@given(st.fixed_dictionaries({name: st.sampled_from(ends) for name, ends in _EXTREMES.items()}))
def test_what_is_accepted_runs(fields: dict[str, Any]) -> None:
    """At the ends of all intervals, without a warning and in finite numbers."""
    env = BatchSlotEnv(**{**SMALL, **fields})
    with np.errstate(all="raise", under="ignore"):
        observation, _ = env.reset(seed=0)
        for action in itertools.islice(random_actions(env.action_space), 4):
            assert env.observation_space.contains(observation)
            observation, reward, terminated, truncated, info = env.step(action)
            assert np.isfinite(reward)
            assert all(np.isfinite(value) for value in info.values())
            assert 0 <= info["seconds"] <= env.config.budget_s
            if terminated or truncated:
                break
    assert env.observation_space.contains(observation)


def test_a_configuration_travels_through_json() -> None:
    config = BatchSlotConfig(targets=(0.5,), gpu_flops=(1e9, 2e9))
    assert BatchSlotConfig(**json.loads(json.dumps(asdict(config)))) == config


def test_the_step_size_follows_the_root_of_the_batch() -> None:
    config = BatchSlotConfig(learning_rate=0.2, reference_batch=100, max_learning_rate=0.5)
    found = config.step_size([25, 100, 400, 625, 626, 10_000])
    np.testing.assert_allclose(found, [0.1, 0.2, 0.4, 0.5, 0.5, 0.5])
