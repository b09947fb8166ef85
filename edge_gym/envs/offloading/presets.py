"""Ids of the offloading problem."""

from __future__ import annotations

import functools
from typing import Any

from edge_gym.core.registration import register_own

_register = functools.partial(
    register_own, "offloading.env", "Offloading", paper="li-2021", budget_field="iterations"
)

# Li et al. 2021 §IV and Table I: one realisation of the channel, equal tasks, last iteration.
_PAPER: dict[str, Any] = {
    "dataset": "mnist",
    "image_size": None,
    "hidden_sizes": (300, 124, 60),
    "samples_per_device": 600,
    "validation_size": 1000,
    "test_size": None,
    "period": None,
    "iterations": 5,
    "accuracy_weight": 0.0,
    "task_spread": 0.0,
    "fading": "episode",
}

_register(
    "Offloading-v0",
    "bands, CPU speeds and what is offloaded of inference tasks while a model is trained",
)
_register(
    "OffloadingDiscrete-v0",
    "what is offloaded of inference tasks, of all users as one number; all else is optimal",
    actions="combination",
)
_register(
    "OffloadingGrid-v0",
    "what is offloaded of inference tasks, for each user; all else is optimal",
    actions="grid",
)
_register(
    "Offloading-Paper-v0",
    "bands, speeds, offloading: the setting of Li et al. 2021, four users, full MNIST",
    **_PAPER,
)
_register(
    "OffloadingDiscrete-Paper-v0",
    "what is offloaded: the setting of Li et al. 2021, four users, full MNIST",
    **_PAPER,
    actions="combination",
)
