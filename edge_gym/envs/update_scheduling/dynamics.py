"""Update scheduling for federated edge learning: whose update is worth its air time?

Source: Wen et al. 2019 §5; Sorour et al. 2020 on risk mitigation.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from edge_gym.core.observation import ObservationTable
from edge_gym.core.problem import Step
from edge_gym.core.state import LaneArray
from edge_gym.envs.budget import Budget
from edge_gym.envs.failures import slow_downs
from edge_gym.envs.federated import MAX_LOSS, FederatedLearning, clip_finite, per_device
from edge_gym.envs.redundancy import copies_arrived
from edge_gym.envs.update_scheduling.actions import (
    SchedulingCodec,
    action_codec,
    select_devices,
    select_participants,
)
from edge_gym.envs.update_scheduling.config import UpdateSchedulingConfig
from edge_gym.envs.update_scheduling.memory import DeviceMemory
from edge_gym.envs.update_scheduling.observation import (
    LEAST_LOG_INDICATOR,
    MAX_INDICATOR,
    MEMORY_ROUNDS,
    observation_tables,
)
from edge_gym.envs.update_scheduling.timing import Clock, share_band
from edge_gym.learning.averaging import average
from edge_gym.physics import compute, wireless
from edge_gym.physics.sharing import jain_index
from edge_gym.runtime.streams import Keys, Purpose
from edge_gym.typing import BoolArray, Float64Array, IntArray


class UpdateScheduling(FederatedLearning):
    """The update scheduling problem for many lanes; see ``UpdateSchedulingEnv``."""

    config: UpdateSchedulingConfig
    config_type = UpdateSchedulingConfig
    picture = "edge_gym.envs.update_scheduling.scene:round_scene"
    codec: SchedulingCodec
    documented_tables: ClassVar[dict[str, ObservationTable]] = observation_tables(
        UpdateSchedulingConfig()
    )
    action_fill = 1.0
    state_parts = (*FederatedLearning.state_parts, "memory", "arrived")
    # The round that begins: computing times with slow-downs, and who takes part.
    compute_s = LaneArray(np.float64, per_device)
    participates = LaneArray(np.bool_, per_device, reset=True)
    # The last indicator that the server knows of each device, and the round that it is of; -1
    # before the first.
    indicator = LaneArray(np.float64, per_device)
    indicator_round = LaneArray(np.int64, per_device, reset=-1)
    # The last training loss that it knows of each device: told with the indicator, which takes no
    # training in lazy mode, where it comes with an upload.
    training_loss = LaneArray(np.float64, per_device)
    # How far what a device computed last is from what arrived of it last, as it told.
    change = LaneArray(np.float64, per_device)
    # Each device's probability that an upload is lost, and that it does not answer.
    packet_error = LaneArray(np.float64, per_device)
    drop_out = LaneArray(np.float64, per_device)
    # The episode so far.
    efficiency_sum = LaneArray(np.float64, per_device)
    throughput = LaneArray(np.float64, per_device)
    spent = LaneArray(np.float64)
    last_round = LaneArray(np.float64)
    seconds = LaneArray(np.float64)
    energy_j = LaneArray(np.float64, per_device)
    uploads = LaneArray(np.int64, per_device)
    arrivals = LaneArray(np.int64, per_device)
    last_arrival = LaneArray(np.int64, per_device)
    # For pictures: whom the last round scheduled, with which part of the band, and indicator,
    # spectral efficiency and computing time as the server knew them then.
    scheduled = LaneArray(np.bool_, per_device)
    band_share = LaneArray(np.float64, per_device)
    pictured = LaneArray(np.float64, lambda problem: (*per_device(problem), 3))

    def __init__(self, config: UpdateSchedulingConfig, n_lanes: int) -> None:
        unit = "seconds" if config.mode == "importance" else "joules"
        super().__init__(config, n_lanes, config.max_rounds, Budget(config.budget, {unit: 1.0}))
        k = config.n_devices
        self.tables = observation_tables(config)
        self.observation_space = spaces.Dict(
            {
                "devices": self.tables["devices"].space(k),
                "system": self.tables["system"].space(),
            }
        )
        self.codec = action_codec(config)
        self.action_space = self.codec.space
        self.actions_per = "device"
        self.signs_suffice = (
            config.actions == "scores"
            and config.selection == "threshold"
            and config.bandwidth != "agent"
        )
        # What devices have computed for this round before it is decided, or uploaded last (lazy).
        values = 0 if config.knowledge == "remembered" else self.network.n_values
        self.memory = DeviceMemory(n_lanes, k, values, config.compute_device)
        # What arrived of them last, as they computed it.
        values = self.network.n_values if config.tells_change else 0
        self.arrived = DeviceMemory(n_lanes, k, values, config.compute_device)

    def reset_lanes(self, lanes: IntArray) -> dict[str, NDArray[Any]]:
        """Draw the system and the model; the first round begins."""
        self.clear(lanes)
        self._draw_system(lanes, self.config.redundancy)
        draws = self.streams.uniforms(lanes, Purpose.LOSSES, (2, self.config.n_devices))
        self.packet_error[lanes] = self.config.packet_error * draws[:, 0]
        self.drop_out[lanes] = self.config.drop_out * draws[:, 1]
        info = self._begin_learning(lanes)
        if self.config.mode == "lazy":
            index = torch.from_numpy(lanes)
            self.memory.keep(lanes, self.learner.weights[index][:, None])
        self.arrived.vectors[torch.from_numpy(lanes)] = 0
        self._begin_round(lanes)
        self.pictured[lanes] = self._picture(lanes)
        return info

    def step_lanes(self, lanes: IntArray, actions: NDArray[Any]) -> Step:
        """Let the scheduled devices upload, average what arrives, and begin the next round."""
        config = self.config
        self.pictured[lanes] = self._picture(lanes)
        decision = self.codec.decode(actions)
        participates = self.participates[lanes]
        scheduled = select_devices(decision.scores, participates, config)
        # Those of step 0 are of the episode.
        draws = self.streams.uniforms(
            lanes, Purpose.LOSSES, (2, config.n_devices), self.rounds[lanes] + 1
        )
        answering = scheduled & (draws[:, 0] >= self.drop_out[lanes])
        lost = draws[:, 1] < self.packet_error[lanes]
        clock = self._clock(lanes, scheduled)
        shares, finish_s = share_band(
            config.bandwidth, self.upload_s(lanes), answering, clock, decision.band
        )
        upload_s = np.where(answering, finish_s - clock.ready_s, 0)
        before = config.knowledge in ("reported", "free")
        computing = participates if before else scheduled
        # In a part of the band a device transmits with that part of the power.
        energy = np.where(computing, self._compute_j(lanes), 0)
        energy += self._transmit_w() * shares * upload_s + self._report_j(lanes)
        # The server waits for those who do not answer until they should be ready. (The oracle
        # knows who they are, and waits only where nobody answers.)
        nobody = ~answering.any(axis=1, keepdims=True)
        awaited = scheduled & ~answering & (nobody | (config.knowledge != "free"))
        round_s = np.maximum(finish_s.max(axis=1), clock.elapsed_s)
        round_s = np.maximum(round_s, np.where(awaited, clock.planned_s, 0).max(axis=1))
        took = round_s if config.mode == "importance" else energy.sum(axis=1)
        left = config.budget - self.spent[lanes]
        in_time = took <= left
        sent = answering & in_time[:, None]
        arrived = sent & ~lost
        self._aggregate(lanes, sent, arrived)
        if decision.participation is not None:
            self.participates[lanes] = select_participants(decision.participation)

        # A round that needs more than is left is broken off where nothing is left.
        part = np.where(in_time, 1.0, left / np.maximum(took, 1e-300))
        round_s, energy = part * round_s, part[:, None] * energy
        took = np.where(in_time, took, left)
        self.spent[lanes] += took
        self.last_round[lanes] = took
        self.seconds[lanes] += round_s
        self.energy_j[lanes] += energy
        served = np.where(scheduled, self._efficiency(lanes), 0)
        self.throughput[lanes] += (served - self.throughput[lanes]) / MEMORY_ROUNDS
        self.uploads[lanes] += scheduled
        self.arrivals[lanes] += arrived
        self.scheduled[lanes], self.band_share[lanes] = scheduled, shares
        self.last_arrival[lanes] = np.where(
            arrived, self.rounds[lanes][:, None] + 1, self.last_arrival[lanes]
        )
        terminated = ~in_time | (self.spent[lanes] >= config.budget)
        truncated = ~terminated & (self.rounds[lanes] + 1 >= config.max_rounds)
        over = terminated | truncated
        reward, info, final_info = self._end_round(lanes, over, self.spent[lanes])
        # The next round begins where the episode is over too, so that what is observed there is
        # of the model and the rounds that were.
        self._begin_round(lanes)
        info |= {
            "seconds": self.seconds[lanes].copy(),
            "joules": self.energy_j[lanes].sum(axis=1),
            "round_s": round_s,
            "round_j": energy.sum(axis=1),
            "broadcast_s": np.minimum(clock.broadcast_s, round_s),
            "elapsed_s": np.minimum(clock.elapsed_s, round_s),
            "participants": participates.sum(axis=1).astype(np.float64),
            "scheduled": scheduled.sum(axis=1).astype(np.float64),
            "arrived": arrived.sum(axis=1).astype(np.float64),
        }
        final_info["fairness"] = jain_index(self.uploads[lanes])
        if config.corrupt_devices:
            uploads = np.where(self.corrupt[lanes], self.uploads[lanes], 0)
            final_info["corrupt_uploads"] = uploads.sum(axis=1).astype(np.float64)
        return Step(reward, terminated, truncated, info, final_info)

    def observe(self) -> dict[str, NDArray[np.float32]]:
        """Return the observations of all lanes by part."""
        lanes = np.arange(self.n_lanes)
        indicator = self._known_indicator(lanes)
        mean = np.maximum(indicator.mean(axis=1, keepdims=True), 1e-12)
        indicator_share = indicator / mean
        upload_s, compute_s = self.upload_s(lanes), self._known_compute_s(lanes)
        compute_j, upload_j = self._compute_j(lanes), self._transmit_w() * upload_s
        if self.config.mode == "importance":
            log_cost = np.log(compute_s + upload_s)
        else:
            log_cost = np.log(compute_j + upload_j)
        devices = {
            "indicator": indicator,
            "indicator_share": indicator_share,
            "efficiency": self._efficiency(lanes),
            "mean_efficiency": self.efficiency_sum / (self.rounds[:, None] + 1),
            "throughput": self.throughput,
            "upload_s": upload_s,
            "compute_s": compute_s,
            "compute_j": compute_j,
            "upload_j": upload_j,
            "log_cost": log_cost - log_cost.mean(axis=1, keepdims=True),
            "log_indicator": np.log(np.maximum(indicator_share, np.exp(LEAST_LOG_INDICATOR))),
            "staleness": self.rounds[:, None] - self.last_arrival,
            "uploads": self.uploads,
            "arrivals": np.where(self.uploads, self.arrivals / np.maximum(self.uploads, 1), 1.0),
            "samples": self.sizes,
            "energy_j": self.energy_j,
            "nominal_s": self.nominal_s(lanes),
            "indicator_age": self.rounds[:, None] - self.indicator_round,
            "training_loss": self._known_loss(lanes),
            "participates": self.participates,
            "change": self.change,
        }
        system = {
            "devices": np.full(self.n_lanes, self.config.n_devices),
            "budget_left": self.config.budget - self.spent,
            "rounds": self.rounds,
            "last_round": self.last_round,
            **self.observed_score(),
            "elapsed_s": self._elapsed_s(lanes),
        }
        return {
            "devices": self.tables["devices"].fill(devices),
            "system": self.tables["system"].fill(system),
        }

    def _begin_round(self, lanes: IntArray) -> None:
        """Draw channels and slow-downs; let devices compute what the server decides by."""
        config = self.config
        self.fading.advance(self.streams, lanes, self.rounds[lanes])
        slower = slow_downs(
            self.streams,
            lanes,
            self.rounds[lanes],
            config.n_devices,
            config.slowdown_probability,
            config.slowdown,
        )
        self.compute_s[lanes] = slower * self.nominal_s(lanes)
        self.efficiency_sum[lanes] += self._efficiency(lanes)
        if config.knowledge == "lazy":
            everyone = np.ones_like(self.participates[lanes])
            self._learn_indicators(lanes, everyone, self._distances(lanes))
        elif config.knowledge != "remembered":
            participates = self.participates[lanes]
            sizes = np.where(participates, self.sizes[lanes], 0)
            orders = self._orders(lanes)
            vectors, losses = self._compute(lanes, self.rows[lanes], sizes, orders)
            self.memory.keep(lanes, vectors)
            self._learn_indicators(lanes, participates, self._norms(vectors))
            self._learn_losses(lanes, participates, losses)
            changes = self._norms(vectors - self.arrived.recall(lanes))
            changes = clip_finite(changes, MAX_INDICATOR)
            self.change[lanes] = np.where(participates, changes, self.change[lanes])

    def _distances(self, lanes: IntArray) -> Float64Array:
        """Return the model ages ‖ŵ_k - w‖, ``(m, K)``."""
        return self.learner.distances(lanes, self.memory.recall(lanes))

    def _norms(self, vectors: torch.Tensor) -> Float64Array:
        """Return the norms that devices tell of what they computed, ``(..., S)``."""
        norms = self.learner.norms(vectors)
        # What is computed is a step; what devices tell is the gradient.
        return norms / self.config.learning_rate if self.config.update == "gradient" else norms

    def _learn_indicators(self, lanes: IntArray, told: BoolArray, indicators: Float64Array) -> None:
        """Keep the indicators, ``(m, K)``, of those who told them in this round."""
        indicators = clip_finite(indicators, MAX_INDICATOR)
        self.indicator[lanes] = np.where(told, indicators, self.indicator[lanes])
        self.indicator_round[lanes] = np.where(
            told, self.rounds[lanes][:, None], self.indicator_round[lanes]
        )

    def _learn_losses(self, lanes: IntArray, told: BoolArray, losses: Float64Array) -> None:
        """Keep the training losses, ``(m, K)``, of those who told them in this round."""
        losses = clip_finite(losses, MAX_LOSS)
        self.training_loss[lanes] = np.where(told, losses, self.training_loss[lanes])

    def _known_indicator(self, lanes: IntArray) -> Float64Array:
        """Return the indicators as the server knows them, ``(m, K)``."""
        return _with_means(self.indicator[lanes], self.indicator_round[lanes] >= 0, 1.0)

    def _known_loss(self, lanes: IntArray) -> Float64Array:
        """Return the training losses as the server knows them, ``(m, K)``."""
        told = self.arrivals > 0 if self.config.mode == "lazy" else self.indicator_round >= 0
        guessing = float(np.log(self.network.n_classes))
        return _with_means(self.training_loss[lanes], told[lanes], guessing)

    def _known_compute_s(self, lanes: IntArray) -> Float64Array:
        """Return computing times as far as they are known when it is decided, ``(m, K)``."""
        knowledge, compute_s = self.config.knowledge, self.compute_s[lanes]
        if knowledge == "free":
            return compute_s
        reported = self.participates[lanes] & (knowledge == "reported")
        return np.where(reported, compute_s, self.nominal_s(lanes))

    def _picture(self, lanes: IntArray) -> Float64Array:
        """Return what pictures show of a round that is about to be decided, ``(m, K, 3)``."""
        known = self._known_indicator(lanes), self._efficiency(lanes), self._known_compute_s(lanes)
        return np.stack(known, axis=2)

    def _compute(
        self, lanes: IntArray, rows: IntArray, sizes: IntArray, orders: Keys
    ) -> tuple[torch.Tensor, Float64Array]:
        """Let devices compute from the current model.

        Args:
            lanes: Lane indices, ``(m,)``.
            rows: Samples of each device, ``(m, D, N)``.
            sizes: Their number, ``(m, D)``; 0 where it does not compute.
            orders: What the orders of the samples follow from, ``(m, D)``.

        Returns:
            Descents that are to be added, ``(m, D, S)``, and the mean training loss on the way,
            nats, ``(m, D)``.
        """
        config = self.config
        if config.update == "gradient":
            gradients, losses = self.learner.gradients(lanes, rows, sizes)
            # What stands behind the parameters is the decrease of the statistics, which has no
            # learning rate.
            gradients[..., : self.network.n_parameters] *= config.learning_rate
            return gradients.neg_(), losses
        return self.learner.local_updates(
            lanes,
            rows,
            sizes,
            orders,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            epochs=config.local_epochs,
        )

    def _aggregate(self, lanes: IntArray, sent: BoolArray, arrived: BoolArray) -> None:
        """Average the updates that arrived, weighted by sample counts, each sample once."""
        config = self.config
        told = arrived
        weights = self.sizes[lanes] / copies_arrived(arrived, config.redundancy)
        devices = None
        if config.knowledge in ("reported", "free"):
            updates = self.memory.recall(lanes)
            lane, place = np.nonzero(arrived)
            self.arrived.keep_of(lanes[lane], place, updates[lane, place])
        else:
            # Most devices do nothing: these are the others, as many in every lane.
            devices = np.argsort(~sent, axis=1, kind="stable")[:, : max(1, sent.sum(axis=1).max())]
            sent, arrived = (np.take_along_axis(who, devices, axis=1) for who in (sent, arrived))
            weights = np.take_along_axis(weights, devices, axis=1)
            rows, sizes = (array[lanes[:, None], devices] for array in (self.rows, self.sizes))
            orders = np.take_along_axis(self._orders(lanes), devices, axis=1)
            updates, losses = self._compute(lanes, rows, np.where(sent, sizes, 0), orders)
            self._learn_losses(lanes, told, _of_devices(losses, devices, told.shape))
            if config.knowledge == "lazy":
                lane, place = np.nonzero(sent)
                models = self.learner.weights[torch.tensor(lanes[lane])] + updates[lane, place]
                self.memory.keep_of(lanes[lane], devices[lane, place], models)
            else:
                norms = _of_devices(self._norms(updates), devices, told.shape)
                self._learn_indicators(lanes, told, norms)
        received = updates
        if self.compressor.changes:
            k, step = self.config.n_devices, self.rounds[lanes]
            keys = self.streams.keys(lanes, Purpose.ROUNDING, k, step)
            if devices is not None:
                keys = np.take_along_axis(keys, devices, axis=1)
            received = self.compressor.compress(lanes, updates, keys, devices, sent)
        self.learner.add(lanes, average(received, weights, arrived))

    def _clock(self, lanes: IntArray, scheduled: BoolArray) -> Clock:
        """Return when devices can upload in this round."""
        broadcast_s = self._broadcast(lanes, scheduled)
        elapsed_s = self._elapsed_s(lanes)
        knowledge, shape = self.config.knowledge, scheduled.shape
        if knowledge == "reported":
            # All have computed when it is decided.
            ready_s = planned_s = np.broadcast_to(elapsed_s[:, None], shape)
        else:
            begin_s = (elapsed_s if knowledge == "lazy" else broadcast_s)[:, None]
            ready_s = begin_s + self.compute_s[lanes]
            planned_s = begin_s + self._known_compute_s(lanes)
        return Clock(broadcast_s, elapsed_s, ready_s, planned_s)

    def _broadcast(self, lanes: IntArray, scheduled: BoolArray) -> Float64Array:
        """Return the seconds that it takes to send the model to all that need it, ``(m,)``."""
        config = self.config
        if config.broadcast == "free":
            return np.zeros(len(lanes))
        receiving = self.participates[lanes] if config.knowledge != "remembered" else scheduled
        return self._broadcast_s(
            lanes, self.fading.gain[lanes], receiving, config.downlink_power_dbm
        )

    def _elapsed_s(self, lanes: IntArray) -> Float64Array:
        """Return when in this round the server decides, ``(m,)``: after the last report, if any."""
        knowledge = self.config.knowledge
        if knowledge in ("remembered", "free"):
            return np.zeros(len(lanes))
        reporting = self.participates[lanes]
        # All reports share the band equally.
        rate = self._rate(lanes) / reporting.sum(axis=1, keepdims=True)
        told_s = self._broadcast(lanes, reporting)[:, None] + self.config.report_bits / rate
        if knowledge == "reported":
            told_s = told_s + self.compute_s[lanes]
        return np.asarray(np.where(reporting, told_s, 0).max(axis=1))

    def _report_j(self, lanes: IntArray) -> Float64Array:
        """Return the energy of the reports of this round, ``(m, K)``."""
        if self.config.knowledge in ("remembered", "free"):
            return np.zeros((len(lanes), self.config.n_devices))
        report_j = self._transmit_w() * self.config.report_bits / self._rate(lanes)
        return np.where(self.participates[lanes], report_j, 0)

    def _efficiency(self, lanes: IntArray) -> Float64Array:
        """Return the spectral efficiency log₂(1 + γ) in bit/s/Hz, ``(m, K)``."""
        return np.asarray(np.log2(1 + self.mean_snr[lanes] * self.fading.gain[lanes]))

    def upload_s(self, lanes: IntArray) -> Float64Array:
        """Return the seconds of an upload in the whole band, ``(m, K)``."""
        # Where there is no report before it is decided that tells them, indicator and loss come
        # with the upload.
        apart = self.config.knowledge in ("reported", "free")
        told = 0 if apart else self.config.report_bits
        return np.asarray((self.compressor.payload_bits + told) / self._rate(lanes))

    def _rate(self, lanes: IntArray) -> Float64Array:
        """Return the uplink's rates in the whole band in bit/s, ``(m, K)``."""
        return self.config.bandwidth_hz * np.maximum(self._efficiency(lanes), 1e-6)

    def nominal_s(self, lanes: IntArray) -> Float64Array:
        """Return the seconds of computing without a slow-down, ``(m, K)``."""
        return np.asarray(compute.cpu_latency(self._cycles(lanes), self.cpu_hz[lanes]))

    def _cycles(self, lanes: IntArray) -> Float64Array:
        """Return the CPU cycles of computing in a round, ``(m, K)``."""
        epochs = self.config.local_epochs if self.config.update == "model" else 1
        flops = self.training_flops * epochs * self.sizes[lanes]
        return np.asarray(self.config.cycles_per_flop * flops, np.float64)

    def _compute_j(self, lanes: IntArray) -> Float64Array:
        """Return κ·cycles·f², the energy of computing in a round, ``(m, K)``.

        A straggler is slow because it does other things: its energy here is what it always is.
        """
        cycles, speed = self._cycles(lanes), self.cpu_hz[lanes]
        return np.asarray(compute.cpu_energy(cycles, speed, self.config.capacitance))

    def _transmit_w(self) -> float:
        return float(wireless.dbm_to_watt(self.config.transmit_power_dbm))


def _with_means(values: Float64Array, known: BoolArray, otherwise: float) -> Float64Array:
    """Return values ``(m, K)`` with the lane's mean where one is unknown, or this where all are."""
    number = known.sum(axis=1, keepdims=True)
    total = np.where(known, values, 0).sum(axis=1, keepdims=True)
    return np.where(known, values, np.where(number, total / np.maximum(number, 1), otherwise))


def _of_devices(values: Float64Array, devices: IntArray, shape: tuple[int, ...]) -> Float64Array:
    """Return values ``(m, D)`` of some devices at their places among all, ``(m, K)``, else 0."""
    placed = np.zeros(shape)
    np.put_along_axis(placed, devices, values, axis=1)
    return placed
