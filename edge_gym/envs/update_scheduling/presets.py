"""Ids of the update scheduling problem."""

from __future__ import annotations

import functools

from edge_gym.core.registration import register_own

_register = functools.partial(
    register_own,
    "update_scheduling.env",
    "UpdateScheduling",
    paper="wen-2019",
    budget_field="budget_s",
)


_register(
    "UpdateScheduling-v0",
    "schedule model updates of ten devices that hold few classes each, within a time budget",
)
_register(
    "UpdateSchedulingIID-v0",
    "schedule model updates, data spread evenly over the devices, within a time budget",
    partition="iid",
)
_register(
    "UpdateSchedulingGradient-v0",
    "schedule gradients in place of trained models, within a time budget",
    update="gradient",
    learning_rate=0.4,
)
_register(
    "UpdateSchedulingRisk-v0",
    "schedule model updates that may be lost, of devices that may drop out",
    packet_error=0.6,
    drop_out=0.3,
)
_register(
    "UpdateSchedulingCorrupt-v0",
    "schedule model updates of ten devices, three of which, nobody knows which, have wrong labels",
    corrupt_devices=3,
)
_register(
    "UpdateSchedulingDiscrete-v0",
    "schedule one device's model update a round, within a time budget",
    actions="device",
    learning_rate=0.08,
)
_register(
    "UpdateSchedulingLazy-v0",
    "schedule devices, which compute only then, within an energy budget",
    budget_field="budget_j",
    mode="lazy",
)
_register(
    "UpdateSchedulingLazyIID-v0",
    "schedule devices, which compute only then, data spread evenly, within an energy budget",
    budget_field="budget_j",
    mode="lazy",
    partition="iid",
)
_register(
    "UpdateSchedulingLazyCorrupt-v0",
    "schedule devices, three of ten with wrong labels, nobody knows which, within an energy budget",
    budget_field="budget_j",
    mode="lazy",
    corrupt_devices=3,
)
_register(
    "UpdateSchedulingLazyDiscrete-v0",
    "schedule one device a round, which computes only then, within an energy budget",
    budget_field="budget_j",
    mode="lazy",
    actions="device",
    learning_rate=0.08,
)
