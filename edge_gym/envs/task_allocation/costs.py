"""What tasks cost a learner in time and energy, from columns of the observation.

Source: Mohammad et al. 2020, eqs. (10) and (11).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from edge_gym.core.observation import Observation
from edge_gym.envs.task_allocation.config import TaskAllocationConfig
from edge_gym.physics import wireless
from edge_gym.solvers import task_resources
from edge_gym.solvers.task_allocation import TaskCosts
from edge_gym.solvers.task_resources import ResourceLimits, Resources
from edge_gym.typing import Float64Array, IntArray

_COST_COLUMNS = (
    *("base_s", "sample_s", "update_s", "base_j", "sample_j", "update_j", "limit_j"),
    "own_samples",
)
_LIMIT_COLUMNS = ("rate", "cpu_ghz", "base_s", "sample_s", "update_s", "limit_j", "own_samples")
TASK_COLUMNS = {"devices": _COST_COLUMNS, "system": ("samples",)}
"""Columns that ``observed_costs`` and ``observed_total`` read."""
TASK_FIELDS = ("n_devices", "cycle_s", "least_samples", "most_updates")
"""Fields of the configuration that rules for tasks read."""
JOINT_COLUMNS = {"devices": (*_COST_COLUMNS, "rate", "cpu_ghz"), "system": ("samples",)}
"""Columns that ``observed_limits`` reads too."""
JOINT_FIELDS = (*TASK_FIELDS, "bandwidth_hz", "transmit_power_dbm", "capacitance")
"""Fields of the configuration that rules for tasks and resources read."""

# Share of time and energy that plans of resources leave, for actions are rounded.
_MARGIN = 1e-5


def task_costs(config: TaskAllocationConfig, **columns: ArrayLike) -> TaskCosts:
    """Return what tasks cost, from columns of the observation; arrays are ``(..., K)``.

    Args:
        config: The configuration.
        **columns: ``base_s``, ``sample_s``, ``update_s``, ``base_j``, ``sample_j``, ``update_j``,
            ``limit_j`` and ``own_samples``.

    Source: Mohammad et al. 2020, eqs. (10) and (11).
    """
    arrays = {name: np.asarray(values, np.float64) for name, values in columns.items()}
    arrays["max_samples"] = arrays.pop("own_samples")
    return TaskCosts(**arrays, cycle_s=np.asarray(config.cycle_s))


def resource_limits(
    config: TaskAllocationConfig,
    *,
    rate: ArrayLike,
    cpu_ghz: ArrayLike,
    base_s: ArrayLike,
    sample_s: ArrayLike,
    update_s: ArrayLike,
    limit_j: ArrayLike,
    own_samples: ArrayLike,
) -> ResourceLimits:
    """Return what learners may use, from columns of the observation; arrays are ``(..., K)``.

    The columns are of a learner that has its fair share of the band, transmits with its largest
    power and computes at its full speed.
    """
    bit_s, cpu_hz = np.asarray(rate, np.float64) * 1e6, np.asarray(cpu_ghz, np.float64) * 1e9
    efficiency = bit_s / config.bandwidth_hz
    power_w = float(wireless.dbm_to_watt(config.transmit_power_dbm))
    return ResourceLimits(
        model_bits=np.asarray(base_s, np.float64) * bit_s / 2,
        sample_bits=np.asarray(sample_s, np.float64) * bit_s,
        efficiency=efficiency,
        gain_per_noise=np.expm1(np.log(2) * efficiency) * config.bandwidth_hz / power_w,
        max_power_w=np.asarray(power_w),
        max_cpu_hz=cpu_hz,
        cycles_per_sample=np.asarray(update_s, np.float64) * cpu_hz,
        capacitance=np.asarray(config.capacitance),
        limit_j=np.asarray(limit_j, np.float64),
        max_samples=np.asarray(own_samples, np.float64),
        cycle_s=np.asarray(config.cycle_s),
        band_hz=np.asarray(config.n_devices * config.bandwidth_hz),
    )


def observed_costs(seen: Observation, config: TaskAllocationConfig) -> TaskCosts:
    """Return what tasks cost, ``(..., K)``, from an observation."""
    return task_costs(config, **{name: seen.device(name) for name in _COST_COLUMNS})


def observed_limits(seen: Observation, config: TaskAllocationConfig) -> ResourceLimits:
    """Return what learners may use, ``(..., K)``; a little less, for actions are rounded."""
    limits = resource_limits(config, **{name: seen.device(name) for name in _LIMIT_COLUMNS})
    return replace(
        limits, cycle_s=(1 - _MARGIN) * limits.cycle_s, limit_j=(1 - _MARGIN) * limits.limit_j
    )


def observed_total(seen: Observation) -> IntArray:
    """Return the samples d of a cycle, ``(...)``, from an observation."""
    return np.asarray(np.rint(seen.system("samples")[..., 0]), np.int64)


@dataclass(frozen=True)
class CycleCosts:
    """What tasks take of learners in a cycle, with fair or with chosen resources.

    Attributes:
        fair: Costs with a fair share of the band, the largest power and the full speed, ``(m, K)``.
        limits: What learners may use; only with ``resources``.
        resources: Bands, powers and speeds that are chosen; None for fair ones.
    """

    fair: TaskCosts
    limits: ResourceLimits | None = None
    resources: Resources | None = None

    def max_updates(self, samples: IntArray, slower: Float64Array | float = 1.0) -> IntArray:
        """Return the most updates that time and energy allow, ``(m, K)``.

        Args:
            samples: Samples of each learner, ``(m, K)``.
            slower: How many times slower its CPU computes than planned.
        """
        if self.limits is None or self.resources is None:
            return self._slowed(slower).max_updates(samples)
        slowed = self.resources._replace(cpu_hz=self.resources.cpu_hz / slower)
        return task_resources.max_updates(self.limits, samples, slowed)

    def needs(
        self, samples: IntArray, updates: IntArray, slower: Float64Array | float = 1.0
    ) -> tuple[Float64Array, Float64Array]:
        """Return the seconds and joules of these tasks, ``(m, K)`` each."""
        if self.limits is None or self.resources is None:
            return self._slowed(slower).needs(samples, updates)
        slowed = self.resources._replace(cpu_hz=self.resources.cpu_hz / slower)
        seconds, _ = task_resources.needs(self.limits, samples, updates, slowed)
        # A CPU that is busy otherwise works as fast as ever, for others too.
        _, joules = task_resources.needs(self.limits, samples, updates, self.resources)
        return seconds, joules

    def spent(
        self, samples: IntArray, done: IntArray, slower: Float64Array | float = 1.0
    ) -> tuple[Float64Array, Float64Array]:
        """Return the seconds and joules that learners spent on ``done`` updates, ``(m, K)`` each.

        A learner that finishes no update sends nothing, but has computed until it was too late.
        """
        seconds, joules = self.needs(samples, done, slower)
        failed = done == 0
        if not failed.any():
            return seconds, joules
        (one_s, one_j), (two_s, two_j) = (
            self.needs(samples, np.full_like(done, updates), slower) for updates in (1, 2)
        )
        update_s, update_j = two_s - one_s, two_j - one_j
        # What the model's way in both directions and that of the samples leave.
        left_s = self.fair.cycle_s - (one_s - update_s)
        part = np.divide(left_s, update_s, out=np.zeros(left_s.shape), where=update_s > 0)
        spent_j = np.clip(part, 0, 1) * update_j
        return np.where(failed, self.fair.cycle_s, seconds), np.where(failed, spent_j, joules)

    def _slowed(self, slower: Float64Array | float) -> TaskCosts:
        return replace(self.fair, update_s=self.fair.update_s * slower)


def stronger_rooms(rooms: Float64Array) -> Float64Array:
    """Return the sum of the rooms of those with more room, or as much and before, ``(m, K)``."""
    order = np.argsort(-rooms, axis=1, kind="stable")
    ranked = np.take_along_axis(rooms, order, axis=1)
    stronger = np.empty(rooms.shape)
    np.put_along_axis(stronger, order, np.cumsum(ranked, axis=1) - ranked, axis=1)
    return stronger


def real_updates(costs: TaskCosts, samples: Float64Array) -> Float64Array:
    """Return the updates, not whole ones, that so many samples allow."""
    left_s = costs.cycle_s - costs.base_s - costs.sample_s * samples
    left_j = costs.limit_j - costs.base_j - costs.sample_j * samples
    ratios = [
        np.divide(left, costs_of * samples, out=np.full(left.shape, np.inf), where=costs_of > 0)
        for left, costs_of in ((left_s, costs.update_s), (left_j, costs.update_j))
    ]
    return np.asarray(np.maximum(np.minimum(*ratios), 0))
