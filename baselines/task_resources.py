"""Rules of joint task and resource allocation: tasks, bands, transmit powers and CPU speeds.

Source: Sorour et al. 2020, Fig. 3; Mohammad et al. 2020, §3.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines.base import Baseline
from edge_gym.baselines.task_allocation import (
    CAP_BOUNDS,
    CAP_SCHEDULES,
    CAPS,
    CapParameters,
    RandomShares,
    complete_samples,
)
from edge_gym.core.observation import Observation
from edge_gym.envs.task_allocation.actions import LEAST_BAND_RATIO, JointCodec, JointShares
from edge_gym.envs.task_allocation.config import TaskAllocationConfig
from edge_gym.envs.task_allocation.costs import (
    JOINT_COLUMNS,
    JOINT_FIELDS,
    observed_costs,
    observed_limits,
    observed_total,
)
from edge_gym.solvers.task_allocation import TaskCosts, Tasks, exact_allocation
from edge_gym.solvers.task_resources import (
    ResourceLimits,
    Resources,
    joint_allocation,
    resource_allocation,
)
from edge_gym.typing import IntArray


def _fair_resources(
    costs: TaskCosts, limits: ResourceLimits, config: TaskAllocationConfig
) -> Resources:
    """Return fair shares of the band, full powers and full speeds, ``(..., K)`` each."""
    band = np.full(costs.base_s.shape, config.bandwidth_hz)
    return Resources(band, limits.max_power_w + 0 * band, limits.max_cpu_hz + 0 * band)


class RandomJointShares(RandomShares):
    """Samples at random with fair shares of the band, full powers and full speeds."""

    needs: ClassVar[Mapping[str, Sequence[str]]] = JOINT_COLUMNS
    needs_fields = JOINT_FIELDS
    needs_codec = JointCodec

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return the actions that mean these tasks."""
        seen, config = Observation(self.tables, observations), self.config
        costs, limits = observed_costs(seen, config), observed_limits(seen, config)
        total = observed_total(seen)
        tasks = self.tasks(seen, costs, total)
        samples = complete_samples(tasks, costs.max_samples, total)
        resources = _fair_resources(costs, limits, config)
        shares = JointShares.of(Tasks(samples, tasks.updates), resources, limits)
        return JointCodec(config).encode(shares)


class _JointRule(Baseline):
    """A rule for tasks and resources."""

    Parameters: ClassVar[type[Any]] = CapParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"cap": CAPS}
    further_grids = (CAP_SCHEDULES,)
    bounds = CAP_BOUNDS
    config: TaskAllocationConfig

    needs: ClassVar[Mapping[str, Sequence[str]]] = JOINT_COLUMNS
    needs_fields = JOINT_FIELDS
    needs_codec = JointCodec

    @abstractmethod
    def solution(
        self, costs: TaskCosts, limits: ResourceLimits, total: IntArray
    ) -> tuple[Tasks, Resources]:
        """Return tasks and resources, ``(..., K)`` each."""

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return the actions that mean these tasks and resources."""
        seen = Observation(self.tables, observations)
        config = self.config
        costs, limits = observed_costs(seen, config), observed_limits(seen, config)
        total = observed_total(seen)
        tasks, resources = self.solution(costs, limits, total)
        idle = (tasks.updates == 0).sum(axis=-1)
        if idle.any():
            # In actions, each of these has a share of the band, by this less than the largest.
            band_hz = limits.band_hz * (1 - idle * LEAST_BAND_RATIO)
            tasks, resources = self.solution(costs, replace(limits, band_hz=band_hz), total)
        samples = complete_samples(tasks, costs.max_samples, total)
        shares = JointShares.of(Tasks(samples, tasks.updates), resources, limits)
        return JointCodec(config).encode(shares)


class TaskOnly(_JointRule):
    """The best tasks with fair shares of the band, full powers and full speeds."""

    name = "task-only"
    source = "Sorour et al. 2020, Fig. 3, task allocation only; Mohammad et al. 2020, problem (16)"

    def solution(
        self, costs: TaskCosts, limits: ResourceLimits, total: IntArray
    ) -> tuple[Tasks, Resources]:
        """Allocate tasks exactly."""
        config = self.config
        tasks = exact_allocation(
            costs, total, self.parameters.cap, config.least_samples, config.most_updates
        )
        return tasks, _fair_resources(costs, limits, config)


class ResourceOnly(_JointRule):
    """The best bands, powers and speeds for equal tasks."""

    name = "resource-only"
    source = "Sorour et al. 2020, Fig. 3, resource optimisation only"

    def solution(
        self, costs: TaskCosts, limits: ResourceLimits, total: IntArray
    ) -> tuple[Tasks, Resources]:
        """Allocate resources for equal numbers of samples."""
        return resource_allocation(limits, total, self.parameters.cap, self.config.most_updates)


class JointTaskResource(_JointRule):
    """The best tasks and resources."""

    name = "joint-task-resource"
    source = "Sorour et al. 2020, Fig. 3, joint task and resource optimisation"

    def solution(
        self, costs: TaskCosts, limits: ResourceLimits, total: IntArray
    ) -> tuple[Tasks, Resources]:
        """Allocate both."""
        config = self.config
        return joint_allocation(
            limits, total, self.parameters.cap, config.least_samples, config.most_updates
        )


RULES: tuple[type[Baseline], ...] = (RandomJointShares, TaskOnly, ResourceOnly, JointTaskResource)
"""The rules of joint task and resource allocation."""
