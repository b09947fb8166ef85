"""Settings of offloading: what is refused, and that the rest runs."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from plain_offloading import COMBINATION, GRID, actions_for, make

from edge_gym.envs.offloading.config import OffloadingConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"actions": "shares"}, "actions must be one of direct, grid, combination"),
        ({**COMBINATION, "n_devices": 7}, r'at most 6 with actions="combination", got 7; .*"grid"'),
        ({"iterations": 0}, r"iterations must be an integer in \[1, 1000000\], got 0"),
        ({"period": 0}, r"period must be an integer in \[1, 1000000\], got 0"),
        ({"accuracy_weight": -1}, "accuracy_weight must be a finite number"),
        ({"time_weight": 0}, "time_weight must be a finite number"),
        ({"model_bits": 0}, "model_bits must be a finite number"),
        ({"task_bits": -1.0}, "task_bits must be a finite number"),
        ({"training_s": -0.1}, "training_s must be a finite number"),
        ({"task_spread": 1.0}, "task_spread must be a finite number"),
        ({"placement": "square"}, "placement must be one of ring, disc"),
        ({"fading": "never"}, "fading must be one of episode, iteration"),
        ({"move_m": math.inf}, "move_m must be a finite number"),
        ({"bits": 8}, "bits must be 32 and density 1"),
        ({"density": 0.5}, "bits must be 32 and density 1"),
    ],
)
def test_wrong_settings_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OffloadingConfig(**fields)


ENDS: dict[str, tuple[float, float]] = {
    "accuracy_weight": (0, 1e6),
    "energy_weight": (0, 1e6),
    "time_weight": (1e-6, 1e6),
    "first_download_s": (0, 1e6),
    "move_m": (0, 1e5),
    "cycles_per_bit": (1e-6, 1e9),
    "server_hz": (1, 1e15),
    "max_cpu_hz": (1, 1e15),
    "model_bits": (1, 1e12),
    "task_bits": (1, 1e12),
    "training_s": (0, 1e6),
    "training_j": (0, 1e6),
    "receive_power_w": (0, 1e6),
    "capacitance": (1e-40, 1e-15),
}


@pytest.mark.parametrize(("field", "ends"), ENDS.items())
def test_what_is_accepted_can_be_run(field: str, ends: tuple[float, float]) -> None:
    """Beyond physical magnitudes costs would overflow; within them everything stays finite."""
    for beyond in (1e300, 10 * ends[1], *((1e-300, ends[0] / 10) if ends[0] else (-1e-300,))):
        with pytest.raises(ValueError, match=f"{field} must be a finite number in"):
            OffloadingConfig(**{field: beyond})
    for end, fields in itertools.product(ends, ({}, GRID)):
        env = make(period=2, iterations=3, **fields, **{field: end})
        observation, _ = env.reset(seed=0)
        for action in itertools.islice(actions_for(env.config), 3):
            assert env.observation_space.contains(observation)
            observation, reward, *_, info = env.step(action)
            assert np.isfinite(reward)
            assert all(np.isfinite(value) for value in info.values())


def test_any_number_of_users_may_choose_levels() -> None:
    assert OffloadingConfig(**COMBINATION, n_devices=6).n_devices == 6
    env = make(**GRID, n_devices=9)
    assert env.action_space.nvec.tolist() == [6] * 9


def test_a_configuration_travels_through_json() -> None:
    config = OffloadingConfig(task_bits=None, period=None, hidden_sizes=(5, 4))
    assert OffloadingConfig(**json.loads(json.dumps(asdict(config)))) == config
