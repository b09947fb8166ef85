"""The table of environment ids."""

from __future__ import annotations

import difflib
import functools
from typing import Any, NamedTuple

import gymnasium as gym

from edge_gym.messages import shown

NAMESPACE = "edge_gym"
_LONGEST_ID = 100  # comparing takes longer, the longer a name is


class EnvironmentId(NamedTuple):
    """One row of the table.

    Attributes:
        name: What follows ``edge_gym/``.
        module: Where the two classes are.
        scalar: Class of the Gymnasium environment.
        vector: Class of the vector environment.
        preset: Fields of the configuration that the id fixes.
        summary: One line for ``edge-gym list`` and the README.
    """

    name: str
    module: str
    scalar: str
    vector: str
    preset: dict[str, Any]
    summary: str

    @property
    def id(self) -> str:
        """The full Gymnasium id."""
        return f"{NAMESPACE}/{self.name}"


def _row(module: str, problem: str, name: str, summary: str, **preset: Any) -> EnvironmentId:
    return EnvironmentId(
        name, f"edge_gym.envs.{module}", f"{problem}Env", f"{problem}VectorEnv", preset, summary
    )


_retransmission = functools.partial(_row, "retransmission", "Retransmission")
_data_scheduling = functools.partial(_row, "data_scheduling", "DataScheduling")
_update_scheduling = functools.partial(_row, "update_scheduling", "UpdateScheduling")
_batch_slot = functools.partial(_row, "batch_slot", "BatchSlot")
_task_allocation = functools.partial(_row, "task_allocation", "TaskAllocation")
_offloading = functools.partial(_row, "offloading", "Offloading")

# FEEL §VI: CIFAR-10 and whole gradients; Table I is the configuration's default.
_FEEL: dict[str, Any] = {
    "dataset": "cifar-10",
    "image_size": None,
    "network": "densenet-121",
    "density": 1.0,
    "fading": "mean",
    "validation_size": 1000,
    "test_size": None,
    "learning_rate": 0.1,
    "budget_s": 2e5,
    "max_rounds": 20_000,
}
_FEEL_GPU: dict[str, Any] = {
    **_FEEL,
    "device": "gpu",
    "density": 0.004,
    "gpu_flops": (1e12,),
    "gpu_base_latency_s": 0.1,
    "budget_s": 2e3,
}
# ASYNC-MEL §5 and Table 1: 280,440 weights of 32 bits, 784 features of 8 bits.
_ASYNC_MEL: dict[str, Any] = {
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
    "targets": (0.94, 0.95, 0.97),
}
# JOINT §IV and Table I: one realisation of the channel, equal tasks, in the last iteration.
_JOINT: dict[str, Any] = {
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

ENVIRONMENTS: tuple[EnvironmentId, ...] = (
    _retransmission(
        "Retransmission-v0",
        "retransmit or accept a noisy sample for a linear SVM, 3 against 5",
    ),
    _retransmission(
        "RetransmissionMulticlass-v0",
        "retransmit or accept a noisy sample for one-versus-one SVMs, ten classes",
        classes=None,
        learner="svm-ovo",
        mean_snr_db=10.0,
        initial_samples=40,
        retrain_every=20,
    ),
    _retransmission(
        "RetransmissionCNN-v0",
        "retransmit or accept a noisy sample for a small convolutional network, ten classes",
        classes=None,
        learner="cnn",
        mean_snr_db=15.0,
        initial_samples=40,
        retrain_every=20,
    ),
    _retransmission(
        "Retransmission-Document-v0",
        "retransmit or accept: the setting of Wen et al. 2019, full MNIST, 4,000 channel uses",
        dataset="mnist",
        image_size=None,
        budget=4000,
        mean_snr_db=5.0,
        initial_samples=20,
        retrain_every=20,
        validation_size=1000,
    ),
    _data_scheduling(
        "DataScheduling-v0",
        "choose the device and the sample that it uploads, for a linear SVM, 3 against 5",
    ),
    _data_scheduling(
        "DataSchedulingUnlabelled-v0",
        "choose the device and its sample where nobody knows labels before the upload",
        labels="server",
    ),
    _data_scheduling(
        "DataSchedulingDevice-v0",
        "choose the device, which uploads its sample of the largest loss or uncertainty",
        actions="device",
    ),
    _data_scheduling(
        "DataSchedulingBatch-v0",
        "two devices upload in a block (OFDMA), chosen by scores",
        actions="scores",
        uploads_per_block=2,
    ),
    _data_scheduling(
        "DataSchedulingBatchDiscrete-v0",
        "two devices upload in a block (OFDMA), chosen one after the other",
        actions="device",
        uploads_per_block=2,
    ),
    _data_scheduling(
        "DataSchedulingMulticlass-v0",
        "device and sample for ten classes, one-versus-one SVMs",
        classes=None,
        learner="svm-ovo",
        initial_samples=20,
        budget=200,
        retrain_every=5,
    ),
    _data_scheduling(
        "DataSchedulingCNN-v0",
        "device and sample for ten classes and a small convolutional network",
        classes=None,
        learner="cnn",
        initial_samples=40,
        budget=200,
        retrain_every=10,
    ),
    _data_scheduling(
        "DataScheduling-Document-v0",
        "device and sample: the setting of Wen et al. 2019, full MNIST, 100 uploads at 15 dB",
        dataset="mnist",
        image_size=None,
        validation_size=1000,
    ),
    _update_scheduling(
        "UpdateScheduling-v0",
        "schedule model updates of ten devices that hold few classes each, within a time budget",
    ),
    _update_scheduling(
        "UpdateSchedulingIID-v0",
        "schedule model updates, data spread evenly over the devices, within a time budget",
        partition="iid",
    ),
    _update_scheduling(
        "UpdateSchedulingGradient-v0",
        "schedule gradients in place of trained models, within a time budget",
        update="gradient",
        learning_rate=0.4,
    ),
    _update_scheduling(
        "UpdateSchedulingRisk-v0",
        "schedule model updates that may be lost, of devices that may drop out",
        packet_error=0.6,
        drop_out=0.3,
    ),
    _update_scheduling(
        "UpdateSchedulingDiscrete-v0",
        "schedule one device's model update a round, within a time budget",
        actions="device",
        learning_rate=0.08,
    ),
    _update_scheduling(
        "UpdateSchedulingLazy-v0",
        "schedule devices, which compute only then, within an energy budget",
        mode="lazy",
    ),
    _update_scheduling(
        "UpdateSchedulingLazyIID-v0",
        "schedule devices, which compute only then, data spread evenly, within an energy budget",
        mode="lazy",
        partition="iid",
    ),
    _update_scheduling(
        "UpdateSchedulingLazyDiscrete-v0",
        "schedule one device a round, which computes only then, within an energy budget",
        mode="lazy",
        actions="device",
        learning_rate=0.08,
    ),
    _batch_slot(
        "BatchSlot-v0",
        "every device's batch and time slots in federated learning, within a time budget",
    ),
    _batch_slot(
        "BatchSlotGlobal-v0",
        "the global batchsize, which theorems place on devices and slots, within a time budget",
        actions="global",
    ),
    _batch_slot(
        "BatchSlotNonIID-v0",
        "every device's batch and time slots, two shards of sorted data on each device",
        partition="shards",
    ),
    _batch_slot(
        "BatchSlotGPU-v0",
        "every device's batch and time slots, with GPUs, to which small batches are one",
        device="gpu",
    ),
    _batch_slot(
        "BatchSlot-Document-v0",
        "batches and slots: the setting of Ren et al. 2021, DenseNet-121 on CIFAR-10, six devices",
        **_FEEL,
    ),
    _batch_slot(
        "BatchSlotGlobal-Document-v0",
        "the global batchsize: the setting of Ren et al. 2021, DenseNet-121 on CIFAR-10",
        **_FEEL,
        actions="global",
    ),
    _batch_slot(
        "BatchSlotNonIID-Document-v0",
        "batches and slots: the setting of Ren et al. 2021, DenseNet-121, twelve devices, not IID",
        **_FEEL,
        partition="shards",
        n_devices=12,
    ),
    _batch_slot(
        "BatchSlotResNet-Document-v0",
        "batches and slots: the setting of Ren et al. 2021, ResNet-18, twelve devices, not IID",
        **{**_FEEL, "network": "resnet-18"},
        partition="shards",
        n_devices=12,
    ),
    _batch_slot(
        "BatchSlotMobileNet-Document-v0",
        "batches and slots: the setting of Ren et al. 2021, MobileNetV2, twelve devices, not IID",
        **{**_FEEL, "network": "mobilenet-v2"},
        partition="shards",
        n_devices=12,
    ),
    _batch_slot(
        "BatchSlotGPU-Document-v0",
        "batches and slots: the setting of Ren et al. 2021, DenseNet-121 on CIFAR-10 with GPUs",
        **_FEEL_GPU,
    ),
    _task_allocation(
        "TaskAllocation-v0",
        "every learner's samples and local updates in a global cycle, within time and energy",
    ),
    _task_allocation(
        "TaskAllocationStaleness-v0",
        "the cap on learners' staleness, under which samples and updates are allocated exactly",
        actions="staleness",
    ),
    _task_allocation(
        "TaskAllocationFederated-v0",
        "samples and local updates of learners that have samples of their own",
        learning="federated",
        samples_per_device=300,
        task_share=0.5,
    ),
    _task_allocation(
        "TaskAllocationNonIID-v0",
        "samples and local updates of learners that have two shards of sorted data each",
        learning="federated",
        samples_per_device=300,
        task_share=0.5,
        partition="shards",
    ),
    _task_allocation(
        "TaskAllocationRisk-v0",
        "samples and local updates of learners that drop out and compute slowly now and then",
        drop_out=0.3,
        slowdown_probability=0.1,
    ),
    _task_allocation(
        "JointTaskResource-v0",
        "samples, updates, bands, transmit powers and CPU speeds of all learners, in 5 s cycles",
        actions="joint",
        # In 10 s a few learners do what all of them do: these samples teach no more.
        cycle_s=5.0,
    ),
    _task_allocation(
        "TaskAllocation-Document-v0",
        "samples and updates: the setting of Mohammad et al. 2020, full MNIST, twenty learners",
        **_ASYNC_MEL,
    ),
    _task_allocation(
        "TaskAllocationStaleness-Document-v0",
        "cap on the staleness: the setting of Mohammad et al. 2020, full MNIST, twenty learners",
        **_ASYNC_MEL,
        actions="staleness",
    ),
    _task_allocation(
        "JointTaskResource-Document-v0",
        "tasks, bands, powers and speeds: the setting of Mohammad et al. 2020, full MNIST",
        **{**_ASYNC_MEL, "cycle_s": 12.0},
        actions="joint",
    ),
    _offloading(
        "Offloading-v0",
        "bands, CPU speeds and what is offloaded of inference tasks while a model is trained",
    ),
    _offloading(
        "OffloadingDiscrete-v0",
        "what is offloaded of inference tasks, of all users as one number; all else is optimal",
        actions="combination",
    ),
    _offloading(
        "OffloadingGrid-v0",
        "what is offloaded of inference tasks, for each user; all else is optimal",
        actions="grid",
    ),
    _offloading(
        "Offloading-Document-v0",
        "bands, speeds, offloading: the setting of Li et al. 2021, four users, full MNIST",
        **_JOINT,
    ),
    _offloading(
        "OffloadingDiscrete-Document-v0",
        "what is offloaded: the setting of Li et al. 2021, four users, full MNIST",
        **_JOINT,
        actions="combination",
    ),
)


def register_environments() -> None:
    """Register every id with Gymnasium; one that is there already is left alone."""
    for row in ENVIRONMENTS:
        if row.id not in gym.registry:
            gym.register(
                id=row.id,
                entry_point=f"{row.module}:{row.scalar}",
                vector_entry_point=f"{row.module}:{row.vector}",
                kwargs={"preset": row.preset},
            )


def find_environment(name: str) -> EnvironmentId:
    """Return the row of an id, given with or without ``edge_gym/`` or ``edge_gym:edge_gym/``.

    Raises:
        ValueError: If there is none; the message says which are like it.
    """
    if not isinstance(name, str):
        raise ValueError(f"an environment's id is a text, got {shown(name)}")
    for row in ENVIRONMENTS:
        # Gymnasium's own way to import before it makes stands in front of the colon.
        if name in (row.id, row.name, f"{NAMESPACE}:{row.id}"):
            return row
    known = {row.name.lower(): row.name for row in ENVIRONMENTS}
    wanted = name[:_LONGEST_ID].rpartition("/")[2].lower().removesuffix("-v0") + "-v0"
    if like := difflib.get_close_matches(wanted, known, cutoff=0.8):
        hint = f"did you mean {' or '.join(known[one] for one in like)}?"
    else:
        nearest = difflib.get_close_matches(wanted, known, cutoff=0.0)
        hint = f"nearest are {', '.join(known[one] for one in nearest)}"
    raise ValueError(f"unknown environment {shown(name)}; {hint} (edge-gym list shows all)")
