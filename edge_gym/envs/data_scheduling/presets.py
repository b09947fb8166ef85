"""Ids of the data scheduling problem."""

from __future__ import annotations

import functools

from edge_gym.core.registration import register_own

_register = functools.partial(
    register_own,
    "data_scheduling.env",
    "DataScheduling",
    paper="wen-2019",
    budget_field="budget",
)


_register(
    "DataScheduling-v0",
    "choose the device and the sample that it uploads, for a linear SVM, 3 against 5",
)
_register(
    "DataSchedulingUnlabelled-v0",
    "choose the device and its sample where nobody knows labels before the upload",
    labels="server",
)
_register(
    "DataSchedulingDevice-v0",
    "choose the device, which uploads its sample of the largest loss or uncertainty",
    actions="device",
)
_register(
    "DataSchedulingBatch-v0",
    "two devices upload in a block (OFDMA), chosen by scores",
    actions="scores",
    uploads_per_block=2,
)
_register(
    "DataSchedulingBatchDiscrete-v0",
    "two devices upload in a block (OFDMA), chosen one after the other",
    actions="device",
    uploads_per_block=2,
)
_register(
    "DataSchedulingMulticlass-v0",
    "device and sample for ten classes, one-versus-one SVMs",
    classes=None,
    learner="svm-ovo",
    initial_samples=20,
    budget=200,
    retrain_every=5,
    targets=(0.6, 0.65, 0.7),
)
_register(
    "DataSchedulingCNN-v0",
    "device and sample for ten classes and a small convolutional network",
    classes=None,
    learner="cnn",
    initial_samples=40,
    budget=200,
    retrain_every=10,
    targets=(0.5, 0.6, 0.7),
)
_register(
    "DataScheduling-Paper-v0",
    "device and sample: the setting of Wen et al. 2019, full MNIST, 100 uploads at 15 dB",
    dataset="mnist",
    image_size=None,
    validation_size=1000,
    reward="accuracy",
)
