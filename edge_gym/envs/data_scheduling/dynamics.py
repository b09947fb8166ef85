"""Scheduling for centralized edge learning: whose sample is uploaded next?

Source: Wen et al. 2019, §4.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from edge_gym.core.observation import ObservationTable
from edge_gym.core.problem import Step
from edge_gym.core.state import LaneArray
from edge_gym.data import draw_wrong_labels, order_by_class, partition
from edge_gym.envs.budget import Budget
from edge_gym.envs.centralized import CentralizedLearning
from edge_gym.envs.data_scheduling.actions import (
    ChooseDevice,
    ChooseSample,
    RankDevices,
    action_codec,
    preferred_sample,
)
from edge_gym.envs.data_scheduling.buffers import Buffers
from edge_gym.envs.data_scheduling.config import DataSchedulingConfig
from edge_gym.envs.data_scheduling.embeddings import EMBEDDING_SIZE, sample_embeddings
from edge_gym.envs.data_scheduling.observation import observation_tables
from edge_gym.learning import importance
from edge_gym.physics import wireless
from edge_gym.physics.sharing import jain_index
from edge_gym.runtime.streams import Purpose
from edge_gym.typing import BoolArray, IntArray

_LEAST_DISTANCE = 0.1
_MEDIAN_DISTANCE = 0.5**0.5


def _devices(problem: DataScheduling) -> tuple[int, ...]:
    return (problem.config.n_devices,)


def _samples(problem: DataScheduling) -> tuple[int, ...]:
    return problem.config.n_devices, problem.config.buffer_size


def _told_labels(problem: DataScheduling) -> tuple[int, ...]:
    return (len(problem.features.train_labels) if problem.config.corrupt_devices else 0,)


def _turns(problem: DataScheduling) -> tuple[int, ...]:
    return (problem.config.uploads_per_block,)


class DataScheduling(CentralizedLearning):
    """The data scheduling problem for many lanes; see ``DataSchedulingEnv``.

    Attributes:
        buffers: What devices hold.
        last_gain: Power gains of the last block, for pictures, ``(n_lanes, K)``.
        mean_snr: γ̄ of each device, ``(n_lanes, K)``.
        corrupt: Whose labels are wrong, ``(n_lanes, K)``: for oracles and reports, never observed.
        told_labels: Labels of all training rows as their holders know them, ``(n_lanes, n)``; none
            where all are right.
        block: Blocks that are over, ``(n_lanes,)``.
        n_chosen: Devices chosen in this block so far, ``(n_lanes,)``.
        chosen_device: These, and those of the last block after them, ``(n_lanes, M)``.
        chosen_sample: Which sample of its buffer each uploads, ``(n_lanes, M)``.
        last_upload: Block after which each device last uploaded, 0 before, ``(n_lanes, K)``.
        device_uploads: Samples that each has uploaded, ``(n_lanes, K)``.
        inverse: A⁻¹ of what was acquired, see ``learning.importance``, ``(n_lanes, E, E)``.
        uncertainty: Of the samples in the buffers, as the learner states it, ``(n_lanes, K, N)``.
        margin: Their signed margins, ``(n_lanes, K, N)``.
        wrong: Which are classified wrongly, ``(n_lanes, K, N)``.
        novelty: How unlike what was acquired they are, ``(n_lanes, K, N)``.
        received: The last upload as it was received, ``(n_lanes, d)``.
        uploaded: Its device, row and SNR in dB, ``(n_lanes, 3)``.
    """

    config: DataSchedulingConfig
    codec: ChooseSample | ChooseDevice | RankDevices
    config_type = DataSchedulingConfig
    picture = "edge_gym.envs.data_scheduling.scene:picture"
    keeps_half = True
    documented_tables: ClassVar[dict[str, ObservationTable]] = observation_tables(
        DataSchedulingConfig()
    )
    state_parts = (*CentralizedLearning.state_parts, "buffers")

    last_gain = LaneArray(np.float64, _devices)
    mean_snr = LaneArray(np.float64, _devices, reset=None)
    corrupt = LaneArray(np.bool_, _devices)
    told_labels = LaneArray(np.int32, _told_labels, reset=None)
    block = LaneArray(np.int64)
    n_chosen = LaneArray(np.int64)
    chosen_device = LaneArray(np.int64, _turns)
    chosen_sample = LaneArray(np.int64, _turns)
    last_upload = LaneArray(np.int64, _devices)
    device_uploads = LaneArray(np.int64, _devices)
    inverse = LaneArray(np.float64, (EMBEDDING_SIZE, EMBEDDING_SIZE), reset=None)
    uncertainty = LaneArray(np.float32, _samples, reset=None)
    margin = LaneArray(np.float32, _samples, reset=None)
    wrong = LaneArray(np.bool_, _samples, reset=None)
    novelty = LaneArray(np.float32, _samples, reset=None)
    received = LaneArray(np.float32, lambda problem: (problem.features.train.shape[1],))
    uploaded = LaneArray(np.float64, (3,))

    def __init__(self, config: DataSchedulingConfig, n_lanes: int) -> None:
        turns = config.uploads_per_block if config.in_turns else 1
        k, n = config.n_devices, config.buffer_size
        budget = Budget(config.blocks, {"uploads": float(config.uploads_per_block)})
        super().__init__(config, n_lanes, config.blocks * turns, budget, links=(k,))
        self.tables = observation_tables(config)
        self.observation_space = spaces.Dict(
            {
                "devices": self.tables["devices"].space(k),
                "samples": self.tables["samples"].space(k, n),
                "system": self.tables["system"].space(),
            }
        )
        self.codec = action_codec(config)
        self.action_space = self.codec.space
        self.actions_per = "sample" if isinstance(self.codec, ChooseSample) else "device"
        self.embeddings = sample_embeddings(config.dataset, config.classes, config.image_size)
        # No more is kept than an episode could need.
        self.buffers = Buffers(n_lanes, k, n, config.blocks if config.refill else 0)

    def reset_lanes(self, lanes: IntArray) -> dict[str, NDArray[Any]]:
        """Draw the split, the buffers and positions; train on the initial set."""
        config = self.config
        self.clear(lanes)
        initial = np.zeros((len(lanes), config.initial_samples), np.int64)
        orders = []
        for row, lane in enumerate(lanes):
            initial[row], pool = self._draw_data(lane)
            orders.append(self._fill_buffers(lane, pool))
        places = self.streams.uniforms(lanes, Purpose.PLACES, (config.n_devices,))
        distance = np.maximum(np.sqrt(places), _LEAST_DISTANCE)
        if config.partition_by_distance:
            np.put_along_axis(distance, np.array(orders), np.sort(distance, axis=1), axis=1)
        loss_db = wireless.log_distance_path_loss_db(
            distance, 0.0, config.path_loss_exponent, _MEDIAN_DISTANCE
        )
        self.mean_snr[lanes] = wireless.db_to_linear(config.mean_snr_db - loss_db)
        self.fading.advance(self.streams, lanes, self.block[lanes])
        self.inverse[lanes] = importance.prior_inverse(EMBEDDING_SIZE)
        info = self._begin_learning(lanes, initial)
        self._judge(lanes, self._everywhere(lanes))
        self._compare(lanes)
        return info

    def step_lanes(self, lanes: IntArray, actions: NDArray[Any]) -> Step:
        """Note the choice; once a block's devices are chosen, upload and learn."""
        projected = self._choose(lanes, actions)
        complete = self.n_chosen[lanes] == self.config.uploads_per_block
        uploading = lanes[complete]
        snr_db = self._upload(uploading)
        over = self.block[lanes] == self.config.blocks
        reward, info, final_info = self._learn(lanes, over, self.block[lanes])
        self.tracker.record(lanes, self.steps()[lanes])
        self._judge_after_upload(uploading, info["trained"][complete] > 0)
        info["uploads"] = self.device_uploads[lanes].sum(axis=1).astype(np.float64)
        info["uploaded"] = np.where(complete, float(self.config.uploads_per_block), 0.0)
        info["uploaded_snr_db"] = np.zeros(len(lanes))
        info["uploaded_snr_db"][complete] = snr_db
        info["projected"] = projected.astype(np.float64)
        final_info["fairness"] = jain_index(self.device_uploads[lanes])
        if self.config.corrupt_devices:
            uploads = np.where(self.corrupt[lanes], self.device_uploads[lanes], 0)
            final_info["corrupt_uploads"] = uploads.sum(axis=1).astype(np.float64)
        return Step(reward, over, np.zeros_like(over), info, final_info)

    def observe(self) -> dict[str, NDArray[np.float32]]:
        """Return the observations of all lanes by part."""
        present = self.buffers.present
        rows = np.where(present, self.buffers.rows, 0)
        lanes = np.arange(self.n_lanes)[:, None, None]
        labels = self.labels_of(lanes, rows)
        snr_db = wireless.linear_to_db(self.current_snr(np.arange(self.n_lanes)))
        devices: dict[str, NDArray[Any]] = {
            "snr_db": snr_db,
            "symbol_snr_db": wireless.symbol_snr_db(snr_db, self.features.train.shape[1]),
            "mean_snr_db": wireless.linear_to_db(self.mean_snr),
            "staleness": self.block[:, None] - self.last_upload,
            "uploads": self.device_uploads,
        }
        if self.config.in_turns:
            devices["chosen"] = self.is_chosen()
        if self.config.uploads_per_block > 1:
            offered = np.take_along_axis(rows, self.preferred()[:, :, None], axis=2)[:, :, 0]
            holds = present.any(axis=2, keepdims=True)
            components = self.embeddings.shown[offered] * holds
            for i in range(EMBEDDING_SIZE):
                devices[f"embedding_{i}"] = components[:, :, i]
        samples: dict[str, NDArray[Any]] = {
            "present": present,
            self.learner.uncertainty: self.uncertainty,
            "novelty": self.novelty,
        }
        if self.config.labels == "device":
            samples["margin"] = self.margin
            samples[self.learner.loss] = self.losses()
            samples["zero_one_loss"] = self.wrong
            share = self.label_share()[lanes, labels] * self.n_classes
            samples["label_share"] = share * present
            samples["label_recall"] = self.tracker.recall[lanes, labels] * present
        if self.config.content:
            content = self.embeddings.shown[rows] * present[..., None]
            if self.config.signed_content:
                content *= (1 - 2 * labels)[..., None]
            samples |= {f"content_{i}": content[..., i] for i in range(EMBEDDING_SIZE)}
        system = {
            "budget_left": self.config.budget - self.device_uploads.sum(axis=1),
            "samples": self.acquired(),
            "unlearned": self.unlearned,
            "class_balance": self.class_balance(),
            "accuracy": self.tracker.accuracy,
            "accuracy_slope": self.tracker.accuracy_slope,
        }
        if self.learner.has_weight_norm:
            system["weight_norm"] = self.learner.weight_norm()
        parts = {"devices": devices, "samples": samples, "system": system}
        return {part: self.tables[part].fill(values) for part, values in parts.items()}

    def action_masks(self) -> BoolArray | None:
        """Samples that are there, of devices that were not yet chosen in this block."""
        if isinstance(self.codec, RankDevices):
            return None
        possible = self.buffers.present & ~self.is_chosen()[:, :, None]
        if isinstance(self.codec, ChooseSample):
            return np.asarray(possible.reshape(self.n_lanes, -1))
        return np.asarray(possible.any(axis=2))

    def current_snr(self, lanes: IntArray) -> NDArray[np.float64]:
        """Return γ of all devices in the current block, or in an episode's last, ``(m, K)``."""
        return np.asarray(self.mean_snr[lanes] * self.fading.gain[lanes])

    def steps(self) -> IntArray:
        """Return the steps taken in each lane's episode, ``(n_lanes,)``."""
        if self.config.in_turns:
            return self.block * self.config.uploads_per_block + self.n_chosen
        return self.block

    def is_chosen(self) -> BoolArray:
        """Return which devices were chosen in this block so far, ``(n_lanes, K)``."""
        chosen = np.zeros((self.n_lanes, self.config.n_devices), np.bool_)
        for turn in range(self.config.uploads_per_block - 1):
            lanes = np.flatnonzero(self.n_chosen > turn)
            chosen[lanes, self.chosen_device[lanes, turn]] = True
        return chosen

    def preferred(self) -> IntArray:
        """Return which sample each device uploads by itself, ``(n_lanes, K)``."""
        distance = self.learner.uncertainty == "distance"
        return preferred_sample(
            -self.uncertainty if distance else self.uncertainty,
            self.losses() if self.config.labels == "device" else None,
            self.buffers.present,
        )

    def losses(self) -> NDArray[np.float32]:
        """Return the learner's loss of the samples in the buffers, ``(n_lanes, K, N)``."""
        return np.asarray(self.learner.loss_of(self.margin) * self.buffers.present, np.float32)

    def _least_samples(self) -> tuple[str, int]:
        return "buffer_size", self.config.buffer_size

    def labels_of(self, lanes: IntArray, rows: IntArray) -> IntArray:
        """Return the labels of training rows as their holders know them.

        Args:
            lanes: Of each row; broadcasts to the shape of ``rows``.
            rows: ``(m, ...)``.
        """
        if not self.config.corrupt_devices:
            return np.asarray(self.features.train_labels[rows])
        return self.told_labels[lanes, rows].astype(np.int64)

    def _fill_buffers(self, lane: int, pool: IntArray) -> IntArray:
        """Spread the pool over devices; each holds N samples in its buffer, the rest in reserve.

        Returns:
            The devices, ``(K,)``, in the order of the classes that they hold.
        """
        config, labels = self.config, self.features.train_labels[pool]
        rng = self.streams.generator(lane, Purpose.SAMPLES)
        if config.partition_by_distance:
            labels = rng.permutation(self.n_classes)[labels]
        parts = partition(
            rng,
            labels,
            config.n_devices,
            config.partition,
            adjacent=config.partition_by_distance,
            min_samples=config.buffer_size,
        )
        self.buffers.fill(lane, [pool[rng.permutation(part)] for part in parts])
        if config.corrupt_devices:
            self._corrupt_labels(lane, [pool[part] for part in parts])
        return order_by_class(labels, parts)

    def _corrupt_labels(self, lane: int, held: list[IntArray]) -> None:
        """Draw whose labels are wrong, and these labels.

        Args:
            lane: The lane.
            held: Rows of each device.
        """
        config, rng = self.config, self.streams.generator(lane, Purpose.LABELS)
        true, told = self.features.train_labels, self.told_labels[lane]
        told[:] = true
        corrupt = rng.permutation(config.n_devices)[: config.corrupt_devices]
        self.corrupt[lane, corrupt] = True
        for device in np.sort(corrupt):
            rows = held[device]
            told[rows] = draw_wrong_labels(rng, true[rows], self.n_classes, config.label_noise)

    def _acquire(
        self,
        lanes: IntArray,
        samples: NDArray[np.float32],
        labels: IntArray,
        snr: NDArray[Any] | None = None,
    ) -> None:
        super()._acquire(lanes, samples, labels, snr)
        inverse = self.inverse[lanes]
        # One product per lane: what it is must not depend on how many lanes there are.
        components = (samples[:, None] @ self.embeddings.axes)[:, 0]
        if snr is None:
            importance.acquire(inverse, components)
        else:
            importance.receive(inverse, components, snr, self.embeddings.variances)
        self.inverse[lanes] = inverse

    def _choose(self, lanes: IntArray, actions: NDArray[Any]) -> BoolArray:
        """Note who uploads what; return where the choice was impossible and was replaced."""
        if isinstance(self.codec, ChooseSample):
            return self._choose_next(lanes, *self.codec.decode(actions))
        chosen = self.codec.decode(actions)
        if isinstance(self.codec, RankDevices):
            return self._choose_first(lanes, chosen)
        return self._choose_next(lanes, chosen, self.preferred()[lanes, chosen])

    def _choose_next(self, lanes: IntArray, device: IntArray, sample: IntArray) -> BoolArray:
        """Note one device and its sample for each lane, ``(m,)`` each."""
        possible = self.buffers.present[lanes] & ~self.is_chosen()[lanes][:, :, None]
        projected = ~possible[np.arange(len(lanes)), device, sample]
        if projected.any():
            # The best channel among the possible devices, and the sample that it prefers.
            snr = np.where(possible.any(axis=2), self.current_snr(lanes), -np.inf)
            device = np.where(projected, snr.argmax(axis=1), device)
            sample = np.where(projected, self.preferred()[lanes, device], sample)
        turn = self.n_chosen[lanes]
        self.chosen_device[lanes, turn], self.chosen_sample[lanes, turn] = device, sample
        self.n_chosen[lanes] += 1
        return np.asarray(projected)

    def _choose_first(self, lanes: IntArray, ranking: IntArray) -> BoolArray:
        """Note the first M devices of a ranking ``(m, K)`` that hold a sample."""
        m = self.config.uploads_per_block
        holds = np.take_along_axis(self.buffers.present[lanes].any(axis=2), ranking, axis=1)
        first = np.argsort(~holds, axis=1, kind="stable")[:, :m]
        device = np.take_along_axis(ranking, first, axis=1)
        self.chosen_device[lanes] = device
        self.chosen_sample[lanes] = np.take_along_axis(self.preferred()[lanes], device, axis=1)
        self.n_chosen[lanes] = m
        return np.asarray(~holds[:, :m].all(axis=1))

    def _upload(self, lanes: IntArray) -> NDArray[np.float64]:
        """Send the chosen samples by analog modulation; return their mean SNR in dB."""
        snr = self.current_snr(lanes)
        total_db = np.zeros(len(lanes))
        everyone = np.arange(len(lanes))
        for turn in range(self.config.uploads_per_block if len(lanes) else 0):
            device, sample = self.chosen_device[lanes, turn], self.chosen_sample[lanes, turn]
            rows = self.buffers.rows[lanes, device, sample]
            upload = self.block[lanes] * self.config.uploads_per_block + turn
            received = np.zeros_like(self.received[lanes])
            effective = np.zeros(len(lanes), np.float32)
            wireless.mrc_accumulate(
                received,
                effective,
                self.features.train[rows],
                snr[everyone, device],
                self.streams.normals(lanes, Purpose.NOISE, received.shape[1:], upload, np.float32),
            )
            received = wireless.mrc_combine(received, effective)
            self._acquire(lanes, received, self.labels_of(lanes, rows), effective)
            self.buffers.take(lanes, device, sample)
            self.device_uploads[lanes, device] += 1
            self.last_upload[lanes, device] = self.block[lanes] + 1
            snr_db = wireless.linear_to_db(snr[everyone, device])
            total_db += snr_db
            self.received[lanes] = received
            self.uploaded[lanes] = np.column_stack([device, rows, snr_db])
        self.n_chosen[lanes] = 0
        self.block[lanes] += 1
        self.last_gain[lanes] = self.fading.gain[lanes]
        going = lanes[self.block[lanes] < self.config.blocks]
        self.fading.advance(self.streams, going, self.block[going])
        return total_db / self.config.uploads_per_block

    def _judge_after_upload(self, lanes: IntArray, trained: BoolArray) -> None:
        """Let devices evaluate all samples where there is a new model, else the new samples."""
        if not len(lanes):
            return
        learned, others = lanes[trained], lanes[~trained]
        self._judge(learned, self._everywhere(learned))
        slots = self.chosen_device * self.config.buffer_size + self.chosen_sample
        self._judge(others, slots[others])
        self._compare(lanes)

    def _judge(self, lanes: IntArray, slots: IntArray) -> None:
        """Let devices evaluate samples with the model that was broadcast.

        Args:
            lanes: ``(m,)``.
            slots: Positions k·N + n of samples, ``(m, q)``.
        """
        if not len(lanes):
            return
        rows = self._flat(self.buffers.rows)[lanes[:, None], slots]
        present = rows >= 0
        rows = np.where(present, rows, 0)
        features, labels = self.features, self.labels_of(lanes[:, None], rows)
        if self.config.corrupt_devices:
            assessment = self.learner.assess(lanes, features.train[rows], labels)
        else:
            assessment = self.learner.assess_rows(
                lanes, features.train, features.train_labels, rows
            )
        for array, values in (
            (self.uncertainty, assessment.uncertainty),
            (self.margin, assessment.margin),
            (self.wrong, assessment.predicted != labels),
        ):
            self._flat(array)[lanes[:, None], slots] = values * present

    def _compare(self, lanes: IntArray) -> None:
        """Compare the samples with what the server has acquired."""
        rows = self._flat(self.buffers.rows)[lanes]
        present = rows >= 0
        novelty = importance.novelty(
            self.embeddings.components, np.where(present, rows, 0), self.inverse[lanes]
        )
        self._flat(self.novelty)[lanes] = novelty * present

    def _flat(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a view of ``(n_lanes, K, N)`` as ``(n_lanes, K·N)``."""
        return array.reshape(self.n_lanes, -1)

    def _everywhere(self, lanes: IntArray) -> IntArray:
        """Return all positions k·N + n for each of ``lanes``."""
        size = self.config.n_devices * self.config.buffer_size
        return np.broadcast_to(np.arange(size), (len(lanes), size))
