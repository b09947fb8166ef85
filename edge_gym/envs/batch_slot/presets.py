"""Ids of the problem of batches and time slots."""

from __future__ import annotations

import functools
from typing import Any

from edge_gym.core.registration import register_own

_register = functools.partial(
    register_own, "batch_slot.env", "BatchSlot", paper="ren-2021", budget_field="budget_s"
)

# Ren et al. 2021 §VI: CIFAR-10 and whole gradients; Table I is the configuration's default.
_PAPER: dict[str, Any] = {
    "dataset": "cifar-10",
    "image_size": None,
    "network": "densenet-121",
    "density": 1.0,
    "fading": "mean",
    "validation_size": 1000,
    "test_size": None,
    "learning_rate": 0.1,
    "reward": "loss",
    "budget_s": 2e5,
    "max_rounds": 20_000,
}
_PAPER_GPU: dict[str, Any] = {
    **_PAPER,
    "device": "gpu",
    "density": 0.004,
    "gpu_flops": (1e12,),
    "gpu_base_latency_s": 0.1,
    "budget_s": 2e3,
}

_register(
    "BatchSlot-v0",
    "every device's batch and time slots in federated learning, within a time budget",
)
_register(
    "BatchSlotGlobal-v0",
    "the global batchsize, which theorems place on devices and slots, within a time budget",
    actions="global",
)
_register(
    "BatchSlotNonIID-v0",
    "every device's batch and time slots, two shards of sorted data on each device",
    partition="shards",
)
_register(
    "BatchSlotCorrupt-v0",
    "every device's batch and time slots, two of six devices with wrong labels, nobody knows which",
    corrupt_devices=2,
)
_register(
    "BatchSlotGPU-v0",
    "every device's batch and time slots, with GPUs, to which small batches are one",
    device="gpu",
)
_register(
    "BatchSlot-Paper-v0",
    "batches and slots: the setting of Ren et al. 2021, DenseNet-121 on CIFAR-10, six devices",
    **_PAPER,
)
_register(
    "BatchSlotGlobal-Paper-v0",
    "the global batchsize: the setting of Ren et al. 2021, DenseNet-121 on CIFAR-10",
    **_PAPER,
    actions="global",
)
_register(
    "BatchSlotNonIID-Paper-v0",
    "batches and slots: the setting of Ren et al. 2021, DenseNet-121, twelve devices, not IID",
    **_PAPER,
    partition="shards",
    n_devices=12,
)
_register(
    "BatchSlotResNet-Paper-v0",
    "batches and slots: the setting of Ren et al. 2021, ResNet-18, twelve devices, not IID",
    **{**_PAPER, "network": "resnet-18"},
    partition="shards",
    n_devices=12,
)
_register(
    "BatchSlotMobileNet-Paper-v0",
    "batches and slots: the setting of Ren et al. 2021, MobileNetV2, twelve devices, not IID",
    **{**_PAPER, "network": "mobilenet-v2"},
    partition="shards",
    n_devices=12,
)
_register(
    "BatchSlotGPU-Paper-v0",
    "batches and slots: the setting of Ren et al. 2021, DenseNet-121 on CIFAR-10 with GPUs",
    **_PAPER_GPU,
)
