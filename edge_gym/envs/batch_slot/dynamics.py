"""Batches and time slots for federated edge learning: how much to learn from before talking?

Source: Ren et al. 2021.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from edge_gym.core.observation import ObservationTable
from edge_gym.core.problem import Step
from edge_gym.core.state import LaneArray
from edge_gym.envs.batch_slot.actions import DirectCodec, GlobalCodec, action_codec
from edge_gym.envs.batch_slot.config import BatchSlotConfig
from edge_gym.envs.batch_slot.costs import round_costs
from edge_gym.envs.batch_slot.observation import (
    MAX_NORM,
    TYPICAL_EFFICIENCY,
    observation_tables,
)
from edge_gym.envs.budget import Budget
from edge_gym.envs.federated import (
    MAX_LOSS,
    FederatedLearning,
    clip_finite,
    per_device,
    speeds_by_group,
)
from edge_gym.learning.averaging import average
from edge_gym.learning.compression import FULL_BITS, Compressor, payload_bits
from edge_gym.physics import sharing, wireless
from edge_gym.physics.compute import cpu_latency, gpu_latency, gpu_offset, gpu_update_latency
from edge_gym.runtime.streams import Purpose, permutations
from edge_gym.solvers.batch_slot import Allocation, RoundCosts, latency, optimal_allocation
from edge_gym.typing import Float64Array, IntArray

VALUES_AT_ONCE = 1 << 21
"""Values of all devices' vectors that are computed at a time, so that memory stays small."""
_LEAST_RATE = 1.0


def _both_ways(problem: BatchSlot) -> tuple[int, int]:
    """Return the shape of a value for each device, up and down."""
    return (2, problem.config.n_devices)


class BatchSlot(FederatedLearning):
    """The batch and slot problem for many lanes; see ``BatchSlotEnv``."""

    config: BatchSlotConfig
    config_type = BatchSlotConfig
    picture = "edge_gym.envs.batch_slot.scene:round_scene"
    documented_tables: ClassVar[dict[str, ObservationTable]] = observation_tables(BatchSlotConfig())
    codec: DirectCodec | GlobalCodec
    state_parts = (*FederatedLearning.state_parts, "server")

    # Bits that the next download is expected to have: exact unless the union is sent.
    download_bits = LaneArray(np.float64, reset=None)
    # Seconds of an upload and of a download in the whole frame.
    transfer_s = LaneArray(np.float64, _both_ways, reset=1)
    balanced_batch = LaneArray(np.float64)
    # What the last round did, and how long each device took in its two parts.
    last_round_s = LaneArray(np.float64)
    batch = LaneArray(np.int64, per_device)
    slots = LaneArray(np.float64, _both_ways)
    part_s = LaneArray(np.float64, _both_ways)
    batch_loss = LaneArray(np.float64, per_device)
    norm = LaneArray(np.float64, per_device)
    mean_norm = LaneArray(np.float64)
    # The episode so far; seconds at the end of each round are for pictures.
    seconds = LaneArray(np.float64)
    batch_sum = LaneArray(np.float64)
    times = LaneArray(np.float32, lambda problem: (problem.config.max_rounds + 1,))

    def __init__(self, config: BatchSlotConfig, n_lanes: int) -> None:
        budget = Budget(config.budget_s, {"seconds": 1.0})
        k = config.n_devices
        # Up and down; nobody asks for gains where rates are means over fading.
        super().__init__(config, n_lanes, config.max_rounds, budget, links=(2, k))
        size = self.compressor.payload_bits
        # The average of sparse vectors is less sparse than they are, that of quantised ones has
        # more levels: it is another message than theirs.
        self._sends_union = self.compressor.changes and config.download == "union"
        self.server = Compressor(
            n_lanes,
            1,
            self.network.n_parameters,
            density=1.0 if self._sends_union else config.density,
            bits=FULL_BITS if self._sends_union else config.bits,
            n_exact=self.network.n_statistics,
            device=config.compute_device,
        )
        typical = 1 / self._speed_of(np.array(self._processors())).mean()
        transfer_s = size / (TYPICAL_EFFICIENCY * config.bandwidth_hz)
        self.tables = observation_tables(config, float(typical), transfer_s)
        self.observation_space = spaces.Dict(
            {
                "devices": self.tables["devices"].space(k),
                "system": self.tables["system"].space(),
            }
        )
        self.codec = action_codec(config)
        self.action_space = self.codec.space
        self.actions_per = "device" if config.actions == "direct" else "system"
        # A lane that was never reset is observed too, with speeds and times that divide.
        self.cpu_hz[:] = 1.0
        self.transfer_s[:] = 1.0
        self.download_bits[:] = size

    def reset_lanes(self, lanes: IntArray) -> dict[str, NDArray[Any]]:
        """Draw the system and the model; the first round begins."""
        config, k = self.config, self.config.n_devices
        self.clear(lanes)
        self._draw_system(lanes)
        if config.cpu_groups_hz is not None:
            self.cpu_hz[lanes] = speeds_by_group(config.cpu_groups_hz, k)
        self.server.reset(lanes)
        if self._sends_union:
            # As if no two devices sent the same value.
            most = min(k * self.compressor.n_kept, self.network.n_parameters)
            self.download_bits[lanes] = self._union_bits(most)
        info = self._begin_learning(lanes)
        self.begin_round(lanes)
        return info

    def step_lanes(self, lanes: IntArray, actions: NDArray[Any]) -> Step:
        """Compute, send and average as the actions say, and begin the next round."""
        config = self.config
        costs = self.costs(lanes)
        allocation = self._allocation(costs, actions)
        batch = allocation.batch.astype(np.int64)
        took = latency(costs, allocation)
        left = config.budget_s - self.seconds[lanes]
        sent_bits = self.download_bits[lanes]
        if self._sends_union:
            # How much must be sent is known when all have been heard.
            heard = took.gradient_s.max(axis=1) <= left
            mean = self._average(lanes[heard], batch[heard])
            sent_bits[heard] = self._sizes_of(mean)
            longer = sent_bits / self.download_bits[lanes]
            costs = replace(costs, download_s=costs.download_s * longer[:, None])
            took = latency(costs, allocation)
            in_time = took.round_s <= left
            mean = mean[torch.from_numpy(in_time[heard])]
        else:
            in_time = took.round_s <= left
            mean = self._average(lanes[in_time], batch[in_time])
        # A round that needs more than is left is broken off where nothing is left.
        round_s = np.where(in_time, took.round_s, left)
        self._apply(lanes[in_time], batch[in_time], mean)

        self.seconds[lanes] = np.where(in_time, self.seconds[lanes] + round_s, config.budget_s)
        self.last_round_s[lanes] = round_s
        self.batch[lanes] = batch
        self.batch_sum[lanes] += batch.sum(axis=1)
        self.slots[lanes] = np.stack([allocation.uplink_slot, allocation.downlink_slot], axis=1)
        self.part_s[lanes] = np.stack([took.gradient_s, took.update_s], axis=1)
        terminated = ~in_time | (self.seconds[lanes] >= config.budget_s)
        truncated = ~terminated & (self.rounds[lanes] + 1 >= config.max_rounds)
        over = terminated | truncated
        reward, info, final_info = self._end_round(lanes, over, self.seconds[lanes])
        self.times[lanes, self.rounds[lanes]] = self.seconds[lanes]
        going = lanes[~over]
        if len(going):
            self.download_bits[going] = sent_bits[~over]
            self.begin_round(going)
        compute_s = gpu_latency(
            allocation.batch, costs.base_latency_s, costs.slope_s, costs.threshold
        )
        info |= {
            "seconds": self.seconds[lanes].copy(),
            "round_s": round_s,
            "gradient_s": took.gradient_s.max(axis=1),
            "update_s": took.update_s.max(axis=1),
            "compute_s": compute_s.max(axis=1),
            "upload_s": (took.gradient_s - compute_s).max(axis=1),
            "download_s": (took.update_s - costs.update_s).max(axis=1),
            "batch": batch.sum(axis=1).astype(np.float64),
            "learning_rate": config.step_size(self._stepped_on(batch)),
            "learning_efficiency": np.divide(
                info["loss_decrease"], round_s, out=np.zeros_like(round_s), where=round_s > 0
            ),
            "in_time": in_time.astype(np.float64),
        }
        final_info |= {
            "mean_batch": self.batch_sum[lanes] / self.rounds[lanes],
            "mean_efficiency": final_info["total_loss_decrease"] / self.seconds[lanes],
        }
        return Step(reward, terminated, truncated, info, final_info)

    def observe(self) -> dict[str, NDArray[np.float32]]:
        """Return the devices and the system."""
        lanes = np.arange(self.n_lanes)
        rates = self._message_bits(lanes) / 1e6 / self.transfer_s
        speed = self.speed(lanes)
        devices = {
            "uplink_rate": rates[:, 0],
            "downlink_rate": rates[:, 1],
            "upload_s": self.transfer_s[:, 0],
            "download_s": self.transfer_s[:, 1],
            "speed": speed,
            "log_upload": _log_ratio(self.transfer_s[:, 0]),
            "log_download": _log_ratio(self.transfer_s[:, 1]),
            "log_speed": _log_ratio(speed),
            "update_s": self.update_s(lanes),
            "max_batch": self.max_batch(lanes),
            "samples": self.sizes,
            "batch": self.batch,
            "gradient_s": self.part_s[:, 0],
            "finish_s": self.part_s[:, 1],
            "batch_loss": self.batch_loss,
            "norm": self.norm,
        }
        system = {
            "time_left": self.config.budget_s - self.seconds,
            "rounds": self.rounds,
            "last_round_s": self.last_round_s,
            "last_batch": self.batch.sum(axis=1),
            "balanced_batch": self.balanced_batch,
            "norm": self.mean_norm,
            **self.observed_score(),
        }
        return {
            "devices": self.tables["devices"].fill(devices),
            "system": self.tables["system"].fill(system),
        }

    def _allocation(self, costs: RoundCosts, actions: NDArray[Any]) -> Allocation:
        """Return the batches and slots that actions ``(m, ...)`` mean."""
        if isinstance(self.codec, DirectCodec):
            return self.codec.decode(actions).allocation(costs.max_batch)
        total = self.codec.total(self.codec.decode(actions), costs.max_batch)
        return optimal_allocation(costs, total, whole=True)

    def begin_round(self, lanes: IntArray) -> None:
        """Let the channels fade, and note what that makes of the best batch."""
        config = self.config
        # The base's SNR is that of the uplink.
        up_db = config.downlink_power_dbm - config.transmit_power_dbm
        both = np.array([1.0, float(wireless.db_to_linear(up_db))])[:, None]
        snr = self.mean_snr[lanes, None] * both
        if config.fading == "round":
            self.fading.advance(self.streams, lanes, self.rounds[lanes])
            rate = wireless.shannon_rate(config.bandwidth_hz, snr * self.fading.gain[lanes])
        else:
            rate = self.channel.ergodic_rate(config.bandwidth_hz, snr)
        self.transfer_s[lanes] = self._message_bits(lanes) / np.maximum(rate, _LEAST_RATE)
        costs = self.costs(lanes)
        speed = 1 / costs.slope_s
        everyone = np.ones_like(speed, np.bool_)
        offset = gpu_offset(costs.base_latency_s, costs.slope_s, costs.threshold)
        second_s = sharing.common_finish(costs.update_s, costs.download_s, everyone)
        root = np.sqrt(costs.upload_s * speed).sum(axis=1)
        waiting = speed * (second_s[:, None] + offset)
        most = costs.max_batch.sum(axis=1)
        self.balanced_batch[lanes] = np.clip(root**2 + waiting.sum(axis=1), config.n_devices, most)

    def _average(self, lanes: IntArray, batch: IntArray) -> Tensor:
        """Let devices compute on batches ``(m, K)`` of their samples; return what all learn from.

        That is the message that the server sends, ``(m, S)``.
        """
        config, learner = self.config, self.learner
        values = config.n_devices * self.network.n_values
        at_once = max(1, VALUES_AT_ONCE // values)
        means = [learner.weights.new_zeros(0, self.network.n_values)]
        for first in range(0, len(lanes), at_once):
            some, sizes = lanes[first : first + at_once], batch[first : first + at_once]
            rows = self.draw_batches(some, sizes)
            # The last key is the server's.
            rounding = self.streams.keys(
                some, Purpose.ROUNDING, config.n_devices + 1, self.rounds[some]
            )
            if config.update == "gradient":
                vectors, losses = learner.gradients(some, rows, sizes)
            else:
                vectors, losses = learner.local_updates(
                    some,
                    rows,
                    sizes,
                    self._orders(some),
                    batch_size=config.local_batch_size,
                    learning_rate=config.step_size(self._stepped_on(sizes))[:, None],
                    epochs=config.local_epochs,
                )
            self.norm[some] = clip_finite(learner.norms(vectors), MAX_NORM)
            self.batch_loss[some] = clip_finite(losses, MAX_LOSS)
            if self.compressor.changes:
                vectors = self.compressor.compress(some, vectors, rounding[:, :-1])
            mean = average(vectors, sizes)
            self.mean_norm[some] = clip_finite(learner.norms(mean), MAX_NORM)
            if self.server.changes:
                mean = self.server.compress(some, mean[:, None], rounding[:, -1:])[:, 0]
            means.append(mean)
        return torch.cat(means)

    def _apply(self, lanes: IntArray, batch: IntArray, mean: Tensor) -> None:
        """Update the models with what was received, ``(m, S)``."""
        if self.config.update == "gradient":
            self.learner.apply(lanes, mean, self.config.step_size(self._stepped_on(batch)))
        else:
            self.learner.add(lanes, mean)

    def _message_bits(self, lanes: IntArray) -> Float64Array:
        """Return the bits of an upload and of the next download, ``(m, 2, 1)``."""
        down = self.download_bits[lanes]
        return np.stack([np.full_like(down, self.compressor.payload_bits), down], axis=1)[..., None]

    def _union_bits(self, n_sent: int) -> int:
        """Return the bits of an average with so many values that some device sent."""
        return payload_bits(
            self.network.n_parameters, n_kept=n_sent, n_exact=self.network.n_statistics
        )

    def _sizes_of(self, mean: Tensor) -> Float64Array:
        """Return the bits of averages ``(m, S)`` that are sent as they are."""
        values = mean[:, : self.network.n_parameters]
        counts = (values != 0).sum(dim=1).cpu().tolist()
        return np.array([self._union_bits(max(1, count)) for count in counts], np.float64)

    def draw_batches(self, lanes: IntArray, batch: IntArray) -> IntArray:
        """Draw so many of each device's samples, without replacement; padded ``(m, K, B)``."""
        k = self.config.n_devices
        keys = self.streams.keys(lanes, Purpose.SAMPLES, k, self.rounds[lanes])
        drawn, _ = permutations(keys.ravel(), self.sizes[lanes].ravel(), batch.ravel())
        rows = np.zeros((*batch.shape, batch.max()), np.int64)
        lane, device, _ = used = np.nonzero(np.arange(rows.shape[2]) < batch[..., None])
        rows[used] = self.rows[lanes[lane], device, drawn]
        return rows

    def _stepped_on(self, batch: IntArray) -> NDArray[Any]:
        """Return how many samples a step is taken on, ``(m,)``."""
        if self.config.update == "gradient":
            return np.asarray(batch.sum(axis=1))
        return np.full(len(batch), self.config.local_batch_size)

    def costs(self, lanes: IntArray) -> RoundCosts:
        """Return what the round that begins costs, ``(m, K)``."""
        return round_costs(
            self.config,
            speed=self.speed(lanes),
            upload_s=self.transfer_s[lanes, 0],
            download_s=self.transfer_s[lanes, 1],
            update_s=self.update_s(lanes),
            max_batch=self.max_batch(lanes),
        )

    def max_batch(self, lanes: IntArray) -> IntArray:
        """Return each device's largest batch, ``(m, K)``."""
        sizes = self.sizes[lanes]
        limit = self.config.max_batch
        return sizes if limit is None else np.minimum(sizes, limit)

    def _processors(self) -> tuple[float, ...]:
        """Return typical speeds of processors, in cycles or FLOP a second."""
        config = self.config
        if config.device == "gpu":
            return config.gpu_flops
        return config.cpu_hz if config.cpu_groups_hz is None else config.cpu_groups_hz

    def speed(self, lanes: IntArray) -> Float64Array:
        """Return the training speeds V_k in samples a second, ``(m, K)``."""
        if self.config.device == "cpu":
            return self._speed_of(self.cpu_hz[lanes])
        return self._speed_of(self._gpu_flops(lanes))

    def _speed_of(self, processor: Float64Array) -> Float64Array:
        """Return the training speed of processors, in cycles or FLOP a second."""
        config = self.config
        if config.device == "cpu":
            sample_s = cpu_latency(config.cycles_per_flop * self.training_flops, processor)
        else:
            sample_s = self.training_flops / processor
            if config.update == "model":
                size = config.local_batch_size
                whole_s = gpu_latency(
                    size, config.gpu_base_latency_s, sample_s, config.gpu_threshold
                )
                sample_s = whole_s / size
        epochs = config.local_epochs if config.update == "model" else 1
        return np.asarray(1 / (epochs * sample_s))

    def update_s(self, lanes: IntArray) -> Float64Array:
        """Return t_k^M, ``(m, K)``: a multiplication and an addition for every parameter."""
        flops = 2 * self.network.n_parameters
        if self.config.device == "cpu":
            return cpu_latency(self.config.cycles_per_flop * flops, self.cpu_hz[lanes])
        return gpu_update_latency(flops, self._gpu_flops(lanes))

    def _gpu_flops(self, lanes: IntArray) -> Float64Array:
        speeds = speeds_by_group(self.config.gpu_flops, self.config.n_devices)
        return np.broadcast_to(speeds, (len(lanes), len(speeds)))


def _log_ratio(values: Float64Array) -> Float64Array:
    """Return logarithms of positive values ``(m, K)``, less their mean over devices."""
    logs = np.log(values)
    return np.asarray(logs - logs.mean(axis=1, keepdims=True))
