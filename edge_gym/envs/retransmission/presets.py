"""Ids of the retransmission problem."""

from __future__ import annotations

import functools

from edge_gym.core.registration import register_own

_register = functools.partial(
    register_own,
    "retransmission.env",
    "Retransmission",
    paper="wen-2019",
    budget_field="budget",
)


_register(
    "Retransmission-v0",
    "retransmit or accept a noisy sample for a linear SVM, 3 against 5",
)
_register(
    "RetransmissionMulticlass-v0",
    "retransmit or accept a noisy sample for one-versus-one SVMs, ten classes",
    classes=None,
    learner="svm-ovo",
    mean_snr_db=10.0,
    initial_samples=40,
    retrain_every=20,
    targets=(0.65, 0.7, 0.75),
)
_register(
    "RetransmissionCNN-v0",
    "retransmit or accept a noisy sample for a small convolutional network, ten classes",
    classes=None,
    learner="cnn",
    mean_snr_db=15.0,
    initial_samples=40,
    retrain_every=20,
    targets=(0.5, 0.6, 0.7),
)
_register(
    "Retransmission-Paper-v0",
    "retransmit or accept: the setting of Wen et al. 2019, full MNIST, 4,000 channel uses",
    dataset="mnist",
    image_size=None,
    budget=4000,
    mean_snr_db=5.0,
    initial_samples=20,
    retrain_every=20,
    validation_size=1000,
    reward="accuracy",
)
