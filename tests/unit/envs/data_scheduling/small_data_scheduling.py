"""Small environments of data scheduling, and what is in them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

SAMPLE, DEVICE = "DataScheduling-v0", "DataSchedulingDevice-v0"
BATCH, TURNS = "DataSchedulingBatch-v0", "DataSchedulingBatchDiscrete-v0"
MULTICLASS, NETWORK = "DataSchedulingMulticlass-v0", "DataSchedulingCNN-v0"
SMALL = {
    "n_devices": 4,
    "buffer_size": 3,
    "budget": 24,
    "image_size": 7,
    "validation_size": 60,
    "test_size": 50,
}


def make(name: str = SAMPLE, **fields: Any) -> Any:
    return gym.make(f"edge_gym/{name}", **{**SMALL, **fields}).unwrapped


def holdings(env: Any) -> tuple[list[list[int]], list[list[int]]]:
    """Return each device's buffer, in order, and what it holds in reserve, next sample first."""
    problem = env.problem
    reserves = []
    for device in range(env.config.n_devices):
        size = int(problem.buffers.reserved[0, device])
        ring = np.roll(
            problem.buffers.reserve[0, device, :size], -int(problem.buffers.head[0, device])
        )
        reserves.append(ring.tolist())
    return problem.buffers.rows[0].tolist(), reserves


def acquired(env: Any) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the received samples and labels that a linear SVM for two classes was trained on."""
    machines = env.problem.learner.machines
    z = machines._z[0, : machines.count[0]].astype(np.float64)
    return z[:, :-1] * z[:, -1:], np.where(z[:, -1] > 0, 0, 1)


def weights(env: Any) -> tuple[NDArray[np.float64], float]:
    w = env.problem.learner.machines.weights[0].astype(np.float64)
    return w[:-1], float(w[-1])
