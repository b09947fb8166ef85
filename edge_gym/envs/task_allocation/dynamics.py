"""Task allocation for mobile edge learning: how much does each learner train, and how often?

Source: Mohammad et al. 2020, §2 and §3; Sorour et al. 2020 on task adaptation, joint task and
resource optimisation and risk mitigation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from edge_gym.core.observation import ObservationTable
from edge_gym.core.problem import Step
from edge_gym.core.state import LaneArray
from edge_gym.envs.budget import Budget
from edge_gym.envs.failures import slow_downs
from edge_gym.envs.federated import (
    MAX_LOSS,
    FederatedLearning,
    clip_finite,
    per_device,
    speeds_by_group,
)
from edge_gym.envs.task_allocation.actions import CapCodec, JointCodec, TaskCodec, action_codec
from edge_gym.envs.task_allocation.config import TaskAllocationConfig
from edge_gym.envs.task_allocation.costs import (
    CycleCosts,
    real_updates,
    resource_limits,
    stronger_rooms,
    task_costs,
)
from edge_gym.envs.task_allocation.observation import MAX_LOG, ROOM_UPDATES, observation_tables
from edge_gym.learning.averaging import average
from edge_gym.learning.jobs import pad_rows
from edge_gym.physics import wireless
from edge_gym.physics.compute import cpu_energy, cpu_latency
from edge_gym.runtime.streams import Purpose
from edge_gym.solvers.task_allocation import TaskCosts, exact_allocation, relaxed_updates
from edge_gym.solvers.task_resources import ResourceLimits, Resources
from edge_gym.typing import BoolArray, Float64Array, IntArray

_LEAST_RATE = 1.0
_LIMITED = ("base_s", "sample_s", "update_s", "base_j", "sample_j", "update_j")


def _allocations(problem: TaskAllocation) -> tuple[int, int, int]:
    caps = len(problem.config.caps) if problem.config.actions == "staleness" else 0
    return (caps, 2, problem.config.n_devices)


class TaskAllocation(FederatedLearning):
    """Task allocation for many lanes; see ``TaskAllocationEnv``.

    Attributes:
        codec: What actions mean.
    """

    config: TaskAllocationConfig
    codec: TaskCodec | JointCodec | CapCodec
    config_type = TaskAllocationConfig
    picture = "edge_gym.envs.task_allocation.scene:scene_of"
    path_loss = (128.0, 3.71)
    documented_tables: ClassVar[dict[str, ObservationTable]] = observation_tables(
        TaskAllocationConfig()
    )

    # Of the episode: energy limits, shares of cycles in which models are lost, and the samples d of
    # a cycle.
    limit_j = LaneArray(np.float64, per_device, reset=None)
    drop_out = LaneArray(np.float64, per_device)
    total = LaneArray(np.int64, reset=1)
    # Samples and updates of each learner under each cap, where one of these is chosen.
    allocations = LaneArray(np.int64, _allocations)
    # What the last cycle did; resources are shares of the band, the power and the CPU's speed.
    samples = LaneArray(np.int64, per_device)
    updates = LaneArray(np.int64, per_device)
    finish_s = LaneArray(np.float64, per_device)
    # Mean loss of each learner's last training that arrived.
    training_loss = LaneArray(np.float64, per_device)
    spent_j = LaneArray(np.float64, per_device)
    resource_shares = LaneArray(np.float64, lambda problem: (3, problem.config.n_devices))
    mean_updates = LaneArray(np.float64)
    staleness = LaneArray(np.float64)
    # Of the episode so far.
    arrivals = LaneArray(np.int64, per_device)
    joules = LaneArray(np.float64, per_device)
    updates_sum = LaneArray(np.float64)
    staleness_sum = LaneArray(np.float64)

    def __init__(self, config: TaskAllocationConfig, n_lanes: int) -> None:
        budget = Budget(config.cycles, {"cycles": 1.0, "seconds": config.cycle_s})
        super().__init__(config, n_lanes, config.cycles, budget)
        self._model_bits = config.model_bits or float(self.compressor.payload_bits)
        self._sample_bits = config.sample_bits or 8.0 * self.features.train.shape[1]
        self._cycles_per_sample = config.cycles_per_sample or (
            config.cycles_per_flop * self.training_flops
        )
        typical_rate = 6 * config.bandwidth_hz
        self.tables = observation_tables(
            config, 2 * self._model_bits / typical_rate, self._sample_bits / typical_rate
        )
        self.observation_space = spaces.Dict(
            {
                "devices": self.tables["devices"].space(config.n_devices),
                "system": self.tables["system"].space(),
            }
        )
        self.codec = action_codec(config)
        self.action_space = self.codec.space
        self.actions_per = "system" if config.actions == "staleness" else "device"
        # A lane that was never reset is observed too, with speeds and rates that divide.
        self.cpu_hz[:] = 1.0
        self.mean_snr[:] = 1.0
        self.limit_j[:] = config.energy_limit_j

    def reset_lanes(self, lanes: IntArray) -> dict[str, NDArray[Any]]:
        """Draw the system, what it may spend and the model; the first cycle begins."""
        config, k = self.config, self.config.n_devices
        self.clear(lanes)
        self.fading.clear(lanes)
        self._draw_system(lanes, config.redundancy)
        if config.cpu_groups_hz is not None:
            self.cpu_hz[lanes] = speeds_by_group(config.cpu_groups_hz, k)
        spread = 2 * self.streams.uniforms(lanes, Purpose.ENERGY, (k,)) - 1
        self.limit_j[lanes] = config.energy_limit_j + config.energy_spread_j * spread
        drawn = self.streams.uniforms(lanes, Purpose.LOSSES, (k,))
        self.drop_out[lanes] = np.minimum(2 * config.drop_out * drawn, 1)
        held = self.sizes[lanes].sum(axis=1) // config.redundancy
        self.total[lanes] = np.maximum(np.rint(config.task_share * held), 1)
        info = self._begin_learning(lanes)
        self._begin_cycle(lanes)
        return info

    def step_lanes(self, lanes: IntArray, actions: NDArray[Any]) -> Step:
        """Let learners train as the actions say, average what arrives, begin the next cycle."""
        config = self.config
        given, wanted, resources = self.decide(lanes, actions)
        held = self.held_samples(lanes, given)
        costs = self.cycle_costs(lanes, resources)
        planned = np.minimum(wanted, costs.max_updates(held))
        cycle, k = self.rounds[lanes], config.n_devices
        slower = slow_downs(
            self.streams, lanes, cycle, k, config.slowdown_probability, config.slowdown
        )
        # Those of step 0 are of the episode.
        lost = self.streams.uniforms(lanes, Purpose.LOSSES, (k,), cycle + 1) < self.drop_out[lanes]
        done = np.minimum(planned, costs.max_updates(held, slower))
        arrived = (done > 0) & ~lost
        self.train(lanes, given, held, done, arrived)

        seconds, joules = costs.spent(held, done, slower)
        taking_part = planned > 0
        updates = np.where(arrived, done, 0)
        staleness = np.where(
            arrived.any(axis=1),
            np.where(arrived, done, 0).max(axis=1)
            - np.where(arrived, done, config.most_updates).min(axis=1),
            0,
        )
        self.samples[lanes], self.updates[lanes] = held, done
        self.finish_s[lanes] = np.where(taking_part, seconds, 0)
        self.spent_j[lanes] = np.where(taking_part, joules, 0)
        self.joules[lanes] += self.spent_j[lanes]
        self.arrivals[lanes] += arrived
        self.mean_updates[lanes], self.staleness[lanes] = updates.mean(axis=1), staleness
        self.updates_sum[lanes] += updates.mean(axis=1)
        self.staleness_sum[lanes] += staleness
        cycle = self.rounds[lanes] + 1
        over = cycle >= config.cycles
        reward, info, final_info = self._end_round(lanes, over, cycle)
        self._begin_cycle(lanes)
        cycles = self.rounds[lanes].astype(np.float64)
        info["cycles"] = info.pop("rounds")
        learned = np.where(arrived, held, 0)
        info |= {
            "seconds": cycles * config.cycle_s,
            "joules": self.joules[lanes].sum(axis=1),
            "cycle_j": self.spent_j[lanes].sum(axis=1),
            "finish_s": self.finish_s[lanes].max(axis=1),
            "updates": updates.mean(axis=1),
            "weighted_updates": (updates * learned).sum(axis=1)
            / np.maximum(learned.sum(axis=1), 1),
            "staleness": staleness.astype(np.float64),
            "lowered": (planned < wanted).sum(axis=1).astype(np.float64),
            "left_out": ((planned == 0) | (held == 0)).sum(axis=1).astype(np.float64),
            "arrived": arrived.sum(axis=1).astype(np.float64),
            "samples": learned.sum(axis=1).astype(np.float64),
        }
        final_info |= {
            "mean_updates": self.updates_sum[lanes] / cycles,
            "mean_staleness": self.staleness_sum[lanes] / cycles,
        }
        return Step(reward, over, np.zeros_like(over), info, final_info)

    def observe(self) -> dict[str, NDArray[np.float32]]:
        """Return the learners and the system."""
        config, lanes = self.config, np.arange(self.n_lanes)
        costs, total = self.costs(lanes), self.total
        fair = total[:, None] / config.n_devices
        common = self._common_updates(costs)

        def log_room(updates: ArrayLike) -> Float64Array:
            room = costs.capacity(np.maximum(updates, 1e-6))
            return np.asarray(np.log(np.maximum(room / fair, np.exp(-MAX_LOG))))

        passed = np.maximum(self.rounds, 1)[:, None]
        devices = {
            "cpu_ghz": self.cpu_hz / 1e9,
            "rate": self._rate(lanes) / 1e6,
            "base_s": costs.base_s,
            "sample_s": costs.sample_s,
            "update_s": costs.update_s,
            "base_j": costs.base_j,
            "sample_j": costs.sample_j,
            "update_j": costs.update_j,
            "limit_j": self.limit_j,
            "own_samples": self._own_samples(lanes),
            "log_room": log_room(common[:, None]),
            **{f"log_room_{updates}": log_room(updates) for updates in ROOM_UPDATES},
            "stronger_share": stronger_rooms(costs.capacity(1.0)) / total[:, None],
            "equal_updates": real_updates(costs, fair),
            "drop_out": self.drop_out,
            "arrivals": np.where(self.rounds[:, None] > 0, self.arrivals / passed, 1.0),
            "samples": self.samples,
            "updates": self.updates,
            "finish_s": self.finish_s,
            "training_loss": np.where(
                self.arrivals > 0, self.training_loss, np.log(self.network.n_classes)
            ),
        }
        for i, name in enumerate(("band_share", "power_share", "cpu_share")):
            if name in self.tables["devices"]:
                devices[name] = self.resource_shares[:, i]
        system = {
            "cycles_left": config.cycles - self.rounds,
            "learners": np.full(self.n_lanes, config.n_devices),
            "samples": total,
            "common_updates": common,
            "mean_updates": self.mean_updates,
            "staleness": self.staleness,
            **self.observed_score(),
        }
        for i in range(self.allocations.shape[1]):
            samples, updates = self.allocations[:, i, 0], self.allocations[:, i, 1]
            system[f"updates_{config.caps[i]}"] = updates.mean(axis=1)
            system[f"work_{config.caps[i]}"] = (samples * updates).sum(axis=1) / np.maximum(
                samples.sum(axis=1), 1
            )
        return {
            "devices": self.tables["devices"].fill(devices),
            "system": self.tables["system"].fill(system),
        }

    def _begin_cycle(self, lanes: IntArray) -> None:
        """Let channels fade, and find out what each cap would mean, where one is chosen."""
        config = self.config
        if config.fading == "cycle":
            self.fading.advance(self.streams, lanes, self.rounds[lanes])
        # Without fading the allocations are those of the first cycle.
        if not self.allocations.shape[1] or (config.fading == "none" and self.rounds[lanes].any()):
            return
        costs = self.costs(lanes)
        for i, cap in enumerate(config.caps):
            tasks = exact_allocation(
                costs, self.total[lanes], cap, config.least_samples, config.most_updates
            )
            self.allocations[lanes, i] = np.stack([tasks.samples, tasks.updates], axis=1)

    def decide(
        self, lanes: IntArray, actions: NDArray[Any]
    ) -> tuple[IntArray, IntArray, Resources | None]:
        """Return what actions decide in ``lanes``.

        Returns:
            Samples given to each learner and updates that are wanted, ``(m, K)`` each, and the
            resources that are chosen; None where all have fair ones.
        """
        codec = self.codec
        if isinstance(codec, CapCodec):
            chosen = self.allocations[lanes, actions]
            return chosen[:, 0], chosen[:, 1], None
        if not isinstance(codec, JointCodec):
            tasks = codec.decode(actions)
            return tasks.samples(self.total[lanes]), tasks.updates, None
        shares = codec.decode(actions)
        self.resource_shares[lanes] = np.stack([shares.band, shares.power, shares.cpu], axis=1)
        samples = shares.tasks.samples(self.total[lanes])
        return samples, shares.tasks.updates, shares.resources(self.limits(lanes))

    def held_samples(self, lanes: IntArray, given: IntArray) -> IntArray:
        """Return the samples that each learner trains on, ``(m, K)``: all of its group's."""
        config = self.config
        groups = given.reshape(len(lanes), -1, config.redundancy).sum(axis=2)
        held = np.repeat(groups, config.redundancy, axis=1)
        return np.minimum(held, self.sizes[lanes]) if config.learning == "federated" else held

    def train(
        self,
        lanes: IntArray,
        given: IntArray,
        held: IntArray,
        updates: IntArray,
        arrived: BoolArray,
    ) -> None:
        """Train what will arrive, average it by samples and add it to the global models."""
        config = self.config
        parts = [
            self.draw_tasks(lane, own, all_of_group)
            for lane, own, all_of_group in zip(lanes.tolist(), given, held, strict=True)
        ]
        rows, counts = pad_rows(parts)
        vectors, losses = self.learner.local_updates(
            lanes,
            rows,
            np.where(arrived, counts, 0),
            self._orders(lanes),
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            epochs=np.where(arrived, updates, 0),
        )
        losses = clip_finite(losses, MAX_LOSS)
        self.training_loss[lanes] = np.where(arrived, losses, self.training_loss[lanes])
        groups = arrived.reshape(len(lanes), -1, config.redundancy).sum(axis=2)
        copies = np.repeat(np.maximum(groups, 1), config.redundancy, axis=1)
        self.learner.add(lanes, average(vectors, counts / copies, arrived))

    def draw_tasks(self, lane: int, given: IntArray, held: IntArray) -> list[IntArray]:
        """Draw the rows of each learner's samples for a cycle."""
        config, sizes, r = self.config, self.sizes[lane], self.config.redundancy
        rng = self.streams.generator(lane, Purpose.SAMPLES, int(self.rounds[lane]))
        tasks: list[IntArray] = []
        if config.learning == "federated":
            for first in range(0, config.n_devices, r):
                own = self.rows[lane, first, : sizes[first]]
                tasks += [rng.permutation(own)[: held[first]]] * r
            return tasks
        every = np.concatenate(
            [self.rows[lane, k, : sizes[k]] for k in range(0, config.n_devices, r)]
        )
        ends = np.cumsum(given)[r - 1 :: r]
        for part in np.split(rng.permutation(every), ends)[: len(ends)]:
            tasks += [part] * r
        return tasks

    def _rate(self, lanes: IntArray) -> Float64Array:
        """Return rates in a learner's fair band, in both directions, bit/s, ``(m, K)``."""
        snr = self.mean_snr[lanes] * self.fading.gain[lanes]
        return np.maximum(wireless.shannon_rate(self.config.bandwidth_hz, snr), _LEAST_RATE)

    def _own_samples(self, lanes: IntArray) -> Float64Array:
        """Return how many samples each learner can train on at most, ``(m, K)``."""
        if self.config.learning == "federated":
            return self.sizes[lanes].astype(np.float64)
        return np.broadcast_to(self.total[lanes, None], (len(lanes), self.config.n_devices))

    def costs(self, lanes: IntArray) -> TaskCosts:
        """Return what tasks cost with fair resources in this cycle, ``(m, K)``."""
        config, rate = self.config, self._rate(lanes)
        power_w = float(wireless.dbm_to_watt(config.transmit_power_dbm))
        sample_bits = self._sample_bits if config.learning == "parallelized" else 0.0
        cpu_hz = self.cpu_hz[lanes]
        return task_costs(
            config,
            base_s=2 * self._model_bits / rate,
            sample_s=(sample_bits + 2 * config.model_bits_per_sample) / rate,
            update_s=cpu_latency(self._cycles_per_sample, cpu_hz),
            base_j=power_w * self._model_bits / rate,
            sample_j=power_w * config.model_bits_per_sample / rate,
            update_j=cpu_energy(self._cycles_per_sample, cpu_hz, config.capacitance),
            limit_j=self.limit_j[lanes],
            own_samples=self._own_samples(lanes),
        )

    def limits(self, lanes: IntArray) -> ResourceLimits:
        """Return what learners may use in this cycle, ``(m, K)``."""
        costs = self.costs(lanes)
        return resource_limits(
            self.config,
            rate=self._rate(lanes) / 1e6,
            cpu_ghz=self.cpu_hz[lanes] / 1e9,
            base_s=costs.base_s,
            sample_s=costs.sample_s,
            update_s=costs.update_s,
            limit_j=costs.limit_j,
            own_samples=costs.max_samples,
        )

    def cycle_costs(self, lanes: IntArray, resources: Resources | None = None) -> CycleCosts:
        """Return what tasks take in this cycle, with fair or with these resources."""
        if resources is None:
            return CycleCosts(self.costs(lanes))
        return CycleCosts(self.costs(lanes), self.limits(lanes), resources)

    def _common_updates(self, costs: TaskCosts) -> Float64Array:
        """Return the relaxed synchronous optimum τ of those who can take part, ``(m,)``."""
        least = self.config.least_samples
        able = costs.capacity(1.0) >= least
        # The others hold the least for nothing, and as much more is to be held.
        free = {name: np.where(able, getattr(costs, name), 0.0) for name in _LIMITED}
        held = np.where(able, costs.max_samples, least)
        total = self.total + least * (~able).sum(axis=1)
        common = relaxed_updates(replace(costs, **free, max_samples=held), total, least)
        return np.minimum(common, self.config.most_updates)
