"""What actions of task allocation mean; environment, rules and decoders ask here.

Which of the three codecs an environment has, ``action_codec`` says.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from edge_gym.core.actions import ActionCodec
from edge_gym.envs.task_allocation.config import TaskAllocationConfig
from edge_gym.physics import wireless
from edge_gym.solvers.task_allocation import Tasks
from edge_gym.solvers.task_resources import ResourceLimits, Resources
from edge_gym.typing import Float64Array, FloatArray, IntArray

SHARE_EXPONENT = 3.0
"""Learners get samples, and parts of the band, in proportion to exp(3ℓ), ℓ in (-1, 1]."""
POWER_RANGE_DB = 30.0
"""A learner transmits with up to so much less than its largest power."""
LEAST_CPU_SHARE = 0.05
"""A learner computes with at least this share of its CPU's speed."""
LEAST_BAND_RATIO = float(np.exp(-2 * SHARE_EXPONENT))
"""The smallest part of the band that an action can say, over the largest one."""

_LEAST_LOGIT = float(np.nextafter(np.float32(-1), np.float32(0)))


class TaskShares(NamedTuple):
    """How samples are shared out, and how often learners go over theirs; ``(..., K)`` each.

    Attributes:
        weight: Learners get samples in proportion to this; 0 means none.
        updates: Updates τ_k that are wanted.
    """

    weight: NDArray[Any]
    updates: IntArray

    def samples(self, total: IntArray) -> IntArray:
        """Return whole samples d_k, ``(..., K)``, that sum to ``total``, ``(...)``."""
        return apportion(self.weight, total)


class JointShares(NamedTuple):
    """Tasks and resources, as shares; ``(..., K)`` each.

    Attributes:
        tasks: How samples are shared out, and how often learners go over theirs.
        band: The band is shared out in proportion to this.
        power: Share of the largest transmit power.
        cpu: Share of the CPU's full speed.
    """

    tasks: TaskShares
    band: Float64Array
    power: Float64Array
    cpu: Float64Array

    @classmethod
    def of(cls, tasks: Tasks, resources: Resources, limits: ResourceLimits) -> JointShares:
        """Return the shares that tasks and resources are."""
        return cls(
            TaskShares(*tasks),
            resources.band_hz,
            resources.power_w / limits.max_power_w,
            resources.cpu_hz / limits.max_cpu_hz,
        )

    def resources(self, limits: ResourceLimits) -> Resources:
        """Return bands, powers and speeds; ``band`` must sum to 1."""
        return Resources(
            self.band * limits.band_hz[..., None],
            self.power * limits.max_power_w,
            self.cpu * limits.max_cpu_hz,
        )


class TaskCodec(ActionCodec[TaskShares]):
    """Samples and updates of K learners, ``(..., K, 2)``: ``actions="direct"``.

    The first column ℓ shares samples out in proportion to exp(3ℓ), -1 means none; the second goes
    linearly from no update to ``most_updates``, rounded.

    Args:
        config: The configuration.
    """

    def __init__(self, config: TaskAllocationConfig) -> None:
        self.most_updates = config.most_updates
        self.space = spaces.Box(-1, 1, (config.n_devices, 2), np.float32)

    def decode(self, actions: NDArray[Any]) -> TaskShares:
        """Return what the first two columns mean."""
        logits = actions[..., 0].astype(np.float64)
        weight = np.where(logits > -1, np.exp(SHARE_EXPONENT * logits), 0.0)
        updates = np.rint((actions[..., 1].astype(np.float64) + 1) / 2 * self.most_updates)
        return TaskShares(weight, updates.astype(np.int64))

    def encode(self, decision: TaskShares | Tasks) -> FloatArray:
        """Return the actions, ``(..., K, 2)``, of shares, or of samples that sum to the total.

        Shares below exp(-6) of the largest one are raised to that, but for those that get none.
        """
        weight, updates = decision
        logits = np.where(weight > 0, np.maximum(_logits_of(weight), _LEAST_LOGIT), -1)
        columns = [logits, np.clip(2 * updates / self.most_updates - 1, -1, 1)]
        return np.stack(columns, axis=-1).astype(np.float32)


class JointCodec(ActionCodec[JointShares]):
    """Samples, updates, bands, powers and CPU speeds, ``(..., K, 5)``: ``actions="joint"``.

    After the columns of ``TaskCodec``: the band is shared out in proportion to exp(3ℓ); the power
    goes from 30 dB below the largest up to that, linearly in dB; the CPU's speed linearly from a
    twentieth of the full one up to that.

    Args:
        config: The configuration.
    """

    def __init__(self, config: TaskAllocationConfig) -> None:
        self.tasks = TaskCodec(config)
        self.space = spaces.Box(-1, 1, (config.n_devices, 5), np.float32)

    def decode(self, actions: NDArray[Any]) -> JointShares:
        """Return shares; those of the band sum to 1."""
        band = np.exp(SHARE_EXPONENT * actions[..., 2].astype(np.float64))
        band /= band.sum(axis=-1, keepdims=True)
        high = (actions[..., 3:].astype(np.float64) + 1) / 2
        power = wireless.db_to_linear(POWER_RANGE_DB * (high[..., 0] - 1))
        cpu = LEAST_CPU_SHARE + (1 - LEAST_CPU_SHARE) * high[..., 1]
        return JointShares(self.tasks.decode(actions), band, power, cpu)

    def encode(self, decision: JointShares) -> FloatArray:
        """Return the actions, ``(..., K, 5)``.

        Bands below exp(-6) of the largest one are raised to that.
        """
        power_db = wireless.linear_to_db(decision.power, -POWER_RANGE_DB)
        cpu = (decision.cpu - LEAST_CPU_SHARE) / (1 - LEAST_CPU_SHARE)
        columns = [
            _logits_of(decision.band),
            np.clip(2 * (power_db / POWER_RANGE_DB + 1) - 1, -1, 1),
            np.clip(2 * cpu - 1, -1, 1),
        ]
        resources = np.stack(columns, axis=-1).astype(np.float32)
        return np.concatenate([self.tasks.encode(decision.tasks), resources], axis=-1)


class CapCodec(ActionCodec[IntArray]):
    """A cap c on the staleness, out of ``caps``: ``actions="staleness"``.

    Args:
        config: The configuration.
    """

    def __init__(self, config: TaskAllocationConfig) -> None:
        self.caps = np.array(config.caps, np.int64)
        self.space = spaces.Discrete(len(self.caps))

    def decode(self, actions: NDArray[Any]) -> IntArray:
        """Return the caps c, ``(...)``."""
        return np.asarray(self.caps[actions])

    def encode(self, decision: ArrayLike) -> IntArray:
        """Return the actions, ``(...)``, of the nearest caps that there are."""
        distance = np.abs(np.asarray(decision)[..., None] - self.caps)
        return np.asarray(distance.argmin(axis=-1))


def action_codec(config: TaskAllocationConfig) -> TaskCodec | JointCodec | CapCodec:
    """Return what actions mean under a configuration."""
    if config.actions == "staleness":
        return CapCodec(config)
    return TaskCodec(config) if config.actions == "direct" else JointCodec(config)


def apportion(weight: ArrayLike, total: IntArray) -> IntArray:
    """Share whole samples out by the largest remainders, the first of equals first.

    Args:
        weight: In proportion to this, ``(..., K)``; equally where all are 0.
        total: Their sum, ``(...)``.
    """
    weights = np.asarray(weight, np.float64)
    weights = np.where(weights.any(axis=-1, keepdims=True), weights, 1.0)
    quota = total[..., None] * weights / weights.sum(axis=-1, keepdims=True)
    samples = np.floor(quota).astype(np.int64)
    rank = np.argsort(np.argsort(samples - quota, axis=-1, kind="stable"), axis=-1, kind="stable")
    return np.asarray(samples + (rank < (total - samples.sum(axis=-1))[..., None]))


def _logits_of(parts: ArrayLike) -> Float64Array:
    """Return logits ``(..., K)`` of parts, -1 of those that vanish beside the largest."""
    values = np.asarray(parts, np.float64)
    relative = values / np.maximum(values.max(axis=-1, keepdims=True), 1e-300)
    logits = 1 + np.log(np.maximum(relative, 1e-300)) / SHARE_EXPONENT
    return np.asarray(np.clip(logits, -1, 1))
