"""Scheduling for centralized edge learning: whose sample is uploaded next?

Source: RRM §4.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from edge_gym.core.env import EdgeEnv
from edge_gym.core.observation import Column, ObservationTable
from edge_gym.core.problem import Step
from edge_gym.core.scene import BarPanel, GaugePanel, ImagePanel, Scene, acted_on
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.data import always_pooled, load_dataset, load_features, partition
from edge_gym.envs.centralized import (
    MAX_STEPS,
    SNR_DB_BOUNDS,
    SYMBOL_SNR_DB_BOUNDS,
    CentralizedConfig,
    CentralizedLearning,
)
from edge_gym.learning import importance
from edge_gym.learning.svm.learner import SVMLearner
from edge_gym.physics import wireless
from edge_gym.physics.sharing import jain_index
from edge_gym.runtime.checks import check_choice, check_flag, check_integer, check_number
from edge_gym.typing import BoolArray, IntArray

ACTIONS = ("sample", "device", "scores")
EMBEDDING_SIZE = 16
"""Principal components in which the diversity of samples is measured."""
_LEAST_DISTANCE = 0.1
_MEDIAN_DISTANCE = 0.5**0.5
_ABSENT = -1
_SHOWN_DEVICES = 40


@dataclass(frozen=True, kw_only=True)
class DataSchedulingConfig(CentralizedConfig):
    """Settings of the data scheduling problem; further fields are ``CentralizedConfig``'s.

    Attributes:
        buffer_size: Samples in a device's buffer, N.
        refill: Whether the device's next sample takes the place of one that was uploaded.
        budget: Uploads in an episode, T, a multiple of ``uploads_per_block``.
        uploads_per_block: Devices that upload one sample each in a block, M (OFDMA); a device
            uploads at most once in a block.
        actions: What is chosen: a ``"sample"`` of a device's buffer, a ``"device"``, which uploads
            by the document's rule, or all devices of a block by their ``"scores"``.
        labels: Who knows the labels of samples that are not yet uploaded: the ``"device"``, or
            nobody until the ``"server"`` has them labelled (RRM Scheme 1).
        path_loss_exponent: Devices lie anywhere in a disc, each as likely, and their mean SNR falls
            with this power of their distance: ``mean_snr_db`` is that of the median distance. 0
            gives all devices the same, as the document has it.
        content: Whether a sample's principal components are observed, so that an agent can find out
            over many episodes which samples are worth learning.
    """

    buffer_size: int = 10
    refill: bool = True
    budget: int = 100
    uploads_per_block: int = 1
    actions: str = "sample"
    labels: str = "device"
    path_loss_exponent: float = 0.0
    content: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("buffer_size", self.buffer_size, 1)
        check_flag("refill", self.refill)
        check_integer("budget", self.budget, 1, MAX_STEPS)
        check_integer("uploads_per_block", self.uploads_per_block, 1, self.n_devices)
        check_choice("actions", self.actions, ACTIONS)
        check_choice("labels", self.labels, ("device", "server"))
        check_number("path_loss_exponent", self.path_loss_exponent, 0, 6)
        check_flag("content", self.content)
        if self.budget % self.uploads_per_block:
            raise ValueError(
                f"budget must be a multiple of uploads_per_block = {self.uploads_per_block}, "
                f"got {self.budget}"
            )
        # A block needs samples at M different devices, whatever was chosen before: to empty the
        # K - M + 1 devices that leave too few takes this many blocks at least.
        k, n, m = self.n_devices, self.buffer_size, self.uploads_per_block
        most = m * max(n, -(-(k - m + 1) * n // m))
        if not self.refill and self.budget > most:
            raise ValueError(
                f"budget must be at most {most} without refill, with {self.n_devices} devices of "
                f"{self.buffer_size} samples each, got {self.budget}"
            )

    @property
    def signed_content(self) -> bool:
        """Whether observed components are times the label c = ±1, as margins are."""
        return self.labels == "device" and self.classes is not None and len(self.classes) == 2

    @property
    def blocks(self) -> int:
        """Blocks in an episode, T/M."""
        return self.budget // self.uploads_per_block

    @property
    def in_turns(self) -> bool:
        """Whether a block's devices are chosen one at a time."""
        return self.uploads_per_block > 1 and self.actions != "scores"


def observation_tables(config: DataSchedulingConfig) -> dict[str, ObservationTable]:
    """Return the columns of each part of the observation under ``config``."""
    low_db, high_db = SNR_DB_BOUNDS
    svm = config.learner.startswith("svm")
    knows_labels = config.labels == "device"
    blocks, budget = config.blocks, config.budget
    devices = [
        Column(
            "snr_db",
            "dB",
            low_db,
            high_db,
            "SNR γ of its channel in this block: E‖x‖² over the noise of one dimension",
            12,
            6,
        ),
        Column("mean_snr_db", "dB", low_db, high_db, "its mean over fading", 15, 10),
        Column(
            "staleness",
            "block",
            0,
            1e6,
            "blocks since its last upload, or since the start",
            blocks / 10,
            blocks / 10,
        ),
        Column("uploads", "sample", 0, 1e6, "samples that it has uploaded", blocks / 10, 5),
    ]
    if config.in_turns:
        devices.append(Column("chosen", "1", 0, 1, "1 if it was chosen in this block"))
    if config.uploads_per_block > 1:
        devices += [
            Column(
                f"embedding_{i}",
                "1",
                -30,
                30,
                f"principal component {i} of the sample that it would upload",
                0,
                0.3,
            )
            for i in range(EMBEDDING_SIZE)
        ]
    devices.append(
        Column(
            "symbol_snr_db",
            "dB",
            *SYMBOL_SNR_DB_BOUNDS,
            "SNR of one symbol in this block, 10·log₁₀ d below that of the sample",
            -10,
            6,
        )
    )
    samples = [Column("present", "1", 0, 1, "1 if there is a sample, all else is 0 without")]
    if svm:
        samples.append(
            Column("distance", "1", 0, 20, "distance to the nearest decision boundary", 0.3, 0.3)
        )
    else:
        samples.append(
            Column("entropy", "nat", 0, 10, "entropy of the predicted classes", 0.7, 0.7)
        )
    if knows_labels:
        samples.append(Column("margin", "1", -30, 30, "signed margin c·s against the label", 1, 1))
        if svm:
            samples.append(Column("hinge_loss", "1", 0, 31, "hinge loss max(0, 1 - c·s)", 0.4, 0.5))
        else:
            samples.append(
                Column("cross_entropy", "nat", 0, 31, "loss -ln p of the label", 0.7, 0.7)
            )
        samples += [
            Column("zero_one_loss", "1", 0, 1, "1 if it is classified wrongly", 0.15, 0.35),
            Column(
                "label_share", "1", 0, 100, "share of its label among the acquired, times C", 1, 0.3
            ),
            Column("label_recall", "1", 0, 1, "validation accuracy on its class", 0.8, 0.15),
        ]
    samples.append(
        Column(
            "novelty",
            "1",
            0,
            1e3,
            "zᵀA⁻¹z of its principal components z, A summing what the channel left of all that the "
            "server has",
            0.2,
            0.2,
        )
    )
    if config.content:
        times = " times c, +1 for the first class" if config.signed_content else ""
        samples += [
            Column(f"content_{i}", "1", -30, 30, f"principal component {i}{times}", 0, 0.3)
            for i in range(EMBEDDING_SIZE)
        ]
    system = [
        Column("budget_left", "sample", 0, 1e6, "uploads left", budget / 2, budget / 4),
        Column("samples", "sample", 0, 1e6, "samples acquired", budget / 2, budget / 4),
        Column("unlearned", "sample", 0, 1e6, "samples acquired since the last training", 0, 10),
        Column(
            "class_balance", "1", 0, 1, "entropy of the acquired labels over its maximum", 0.95, 0.1
        ),
        Column("accuracy", "1", 0, 1, "validation accuracy", 0.8, 0.1),
        Column(
            "accuracy_slope", "1/training", -1, 1, "smoothed gain of accuracy a training", 0, 0.01
        ),
    ]
    if svm:
        system.append(
            Column(
                "weight_norm", "1", 0, 1e4, "‖w‖ of the classifier, mean over its machines", 3, 2
            )
        )
    return {
        "devices": ObservationTable(*devices),
        "samples": ObservationTable(*samples),
        "system": ObservationTable(*system),
    }


def preferred_sample(
    uncertainty: NDArray[Any], loss: NDArray[Any] | None, present: NDArray[Any]
) -> NDArray[np.int64]:
    """Return which sample each device uploads by the document's rule.

    The largest loss where labels are known, the most uncertain sample where they are not and among
    samples without loss.

    Args:
        uncertainty: The larger the more uncertain, ``(..., N)``.
        loss: The hinge loss or cross-entropy, ``(..., N)``; None where labels are unknown.
        present: Which samples there are, ``(..., N)``.

    Returns:
        Positions in the buffers, ``(...)``.

    Source: RRM eq. (3); figure text, Scheme 2 (the largest hinge loss of the buffer).
    """
    value = np.where(present, uncertainty, -np.inf)
    if loss is not None:
        losing = np.where(present, loss, 0)
        value = np.where(losing.max(axis=-1, keepdims=True) > 0, losing, value)
    return np.asarray(value.argmax(axis=-1))


@dataclass(frozen=True, eq=False)
class _Embeddings:
    """Principal components of the training samples.

    Axes and variances are those of the rows that no episode is validated on: the same in all
    episodes, without a trace of what rewards are measured on.

    Attributes:
        axes: ``(d, E)``.
        variances: Along them, ``(E,)``.
        components: Of all training samples, ``(n, E)``.
        shown: The components as they are observed, ``(n, E)``: turned within their subspace
            towards the axes of all rows, which are what agents have been trained on. No length or
            angle changes.
    """

    axes: NDArray[np.float32]
    variances: NDArray[np.float64]
    components: NDArray[np.float32]
    shown: NDArray[np.float32]


@functools.lru_cache(maxsize=8)
def _embeddings(name: str, classes: tuple[int, ...] | None, image_size: int | None) -> _Embeddings:
    train = load_features(name, classes, image_size).train
    axes, variances = importance.principal_axes(train[always_pooled(len(train))], EMBEDDING_SIZE)
    reference, _ = importance.principal_axes(train, EMBEDDING_SIZE)
    turned = importance.turned_towards(axes, reference)
    return _Embeddings(axes, variances, train @ axes, train @ turned)


class DataScheduling(CentralizedLearning):
    """The data scheduling problem for many lanes; see ``DataSchedulingEnv``."""

    config: DataSchedulingConfig
    config_type = DataSchedulingConfig
    keeps_half = True
    documented_tables: ClassVar[dict[str, ObservationTable]] = observation_tables(
        DataSchedulingConfig()
    )
    lane_arrays = (
        *CentralizedLearning.lane_arrays,
        "_gain",
        "_mean_snr",
        "_buffer",
        "_reserve",
        "_reserve_size",
        "_reserve_head",
        "_block",
        "_n_chosen",
        "_chosen_device",
        "_chosen_sample",
        "_last_upload",
        "_device_uploads",
        "_inverse",
        "_uncertainty",
        "_margin",
        "_wrong",
        "_novelty",
        "_received",
        "_uploaded",
    )

    def __init__(self, config: DataSchedulingConfig, n_lanes: int) -> None:
        turns = config.uploads_per_block if config.in_turns else 1
        super().__init__(config, n_lanes, n_steps=config.blocks * turns)
        k, n, m = config.n_devices, config.buffer_size, config.uploads_per_block
        self.tables = observation_tables(config)
        self.observation_space = spaces.Dict(
            {
                "devices": self.tables["devices"].space(k),
                "samples": self.tables["samples"].space(k, n),
                "system": self.tables["system"].space(),
            }
        )
        self.action_space: spaces.Space[Any]
        if config.actions == "scores":
            self.action_space = spaces.Box(-1, 1, (k,), np.float32)
        else:
            self.action_space = spaces.Discrete(k * n if config.actions == "sample" else k)
        self.actions_per = "sample" if config.actions == "sample" else "device"
        self._embeddings = _embeddings(config.dataset, config.classes, config.image_size)
        n_features = self.features.train.shape[1]
        self._gain = np.zeros((n_lanes, config.blocks, k))
        self._mean_snr = np.zeros((n_lanes, k))
        self._buffer = np.zeros((n_lanes, k, n), np.int64)
        # What a device will hold later, a ring: an uploaded sample goes to its end. No more is
        # kept than an episode could need.
        reserve = config.blocks if config.refill else 0
        self._reserve = np.zeros((n_lanes, k, reserve), np.int64)
        self._reserve_size = np.zeros((n_lanes, k), np.int64)
        self._reserve_head = np.zeros((n_lanes, k), np.int64)
        self._block = np.zeros(n_lanes, np.int64)
        self._n_chosen = np.zeros(n_lanes, np.int64)
        self._chosen_device = np.zeros((n_lanes, m), np.int64)
        self._chosen_sample = np.zeros((n_lanes, m), np.int64)
        self._last_upload = np.zeros((n_lanes, k), np.int64)
        self._device_uploads = np.zeros((n_lanes, k), np.int64)
        # A⁻¹ of what was acquired, see ``learning.importance``.
        self._inverse = np.zeros((n_lanes, EMBEDDING_SIZE, EMBEDDING_SIZE))
        self._uncertainty = np.zeros((n_lanes, k, n), np.float32)
        self._margin = np.zeros((n_lanes, k, n), np.float32)
        self._wrong = np.zeros((n_lanes, k, n), np.bool_)
        self._novelty = np.zeros((n_lanes, k, n), np.float32)
        self._received = np.zeros((n_lanes, n_features), np.float32)
        self._noise = np.zeros((n_lanes, n_features), np.float32)
        # Device, row and SNR of the last upload, for pictures.
        self._uploaded = np.zeros((n_lanes, 3))

    def reset_lanes(self, lanes: IntArray) -> dict[str, NDArray[Any]]:
        """Draw the split, the buffers, positions and fading; train on the initial set."""
        config = self.config
        initial = np.zeros((len(lanes), config.initial_samples), np.int64)
        for row, lane in enumerate(lanes):
            rng = self.generators[lane]
            initial[row], pool = self._draw_data(lane)
            self._fill_buffers(lane, pool)
            distance = np.maximum(np.sqrt(rng.random(config.n_devices)), _LEAST_DISTANCE)
            loss_db = wireless.log_distance_path_loss_db(
                distance, 0.0, config.path_loss_exponent, _MEDIAN_DISTANCE
            )
            self._mean_snr[lane] = wireless.db_to_linear(config.mean_snr_db - loss_db)
            self._gain[lane] = wireless.rayleigh_gain(rng, (config.blocks, config.n_devices))
        for array in (
            self._block,
            self._n_chosen,
            self._chosen_device,
            self._chosen_sample,
            self._last_upload,
            self._device_uploads,
            self._received,
            self._uploaded,
        ):
            array[lanes] = 0
        self._inverse[lanes] = importance.prior_inverse(EMBEDDING_SIZE)
        info = self._begin_learning(lanes, initial)
        self._judge(lanes, self._everywhere(lanes))
        self._compare(lanes)
        return info

    def step_lanes(self, lanes: IntArray, actions: NDArray[Any]) -> Step:
        """Note the choice; once a block's devices are chosen, upload and learn."""
        if self.config.actions == "scores":
            projected = self._choose_by_scores(lanes, actions)
        else:
            projected = self._choose(lanes, actions)
        complete = self._n_chosen[lanes] == self.config.uploads_per_block
        uploading = lanes[complete]
        snr_db = self._upload(uploading)
        over = self._block[lanes] == self.config.blocks
        reward, info, final_info = self._learn(lanes, over)
        self.tracker.record(lanes, self._steps()[lanes])
        self._judge_after_upload(uploading, info["trained"][complete] > 0)
        info["uploads"] = self._device_uploads[lanes].sum(axis=1).astype(np.float64)
        info["uploaded"] = np.where(complete, float(self.config.uploads_per_block), 0.0)
        info["uploaded_snr_db"] = np.zeros(len(lanes))
        info["uploaded_snr_db"][complete] = snr_db
        info["projected"] = projected.astype(np.float64)
        final_info["fairness"] = jain_index(self._device_uploads[lanes])
        return Step(reward, over, np.zeros_like(over), info, final_info)

    def observe(self) -> dict[str, NDArray[np.float32]]:
        """Return the observations of all lanes by part."""
        present = self._buffer != _ABSENT
        rows = np.where(present, self._buffer, 0)
        snr_db = wireless.linear_to_db(self._snr(np.arange(self.n_lanes)))
        devices: dict[str, NDArray[Any]] = {
            "snr_db": snr_db,
            "symbol_snr_db": wireless.symbol_snr_db(snr_db, self.features.train.shape[1]),
            "mean_snr_db": wireless.linear_to_db(self._mean_snr),
            "staleness": self._block[:, None] - self._last_upload,
            "uploads": self._device_uploads,
        }
        if self.config.in_turns:
            devices["chosen"] = self._is_chosen()
        if self.config.uploads_per_block > 1:
            offered = np.take_along_axis(rows, self._preferred()[:, :, None], axis=2)[:, :, 0]
            components = self._embeddings.shown[offered] * present.any(axis=2)[:, :, None]
            for i in range(EMBEDDING_SIZE):
                devices[f"embedding_{i}"] = components[:, :, i]
        samples: dict[str, NDArray[Any]] = {
            "present": present,
            self.learner.uncertainty: self._uncertainty,
            "novelty": self._novelty,
        }
        if self.config.labels == "device":
            lanes = np.arange(self.n_lanes)[:, None, None]
            labels = self.features.train_labels[rows]
            samples["margin"] = self._margin
            samples[self._loss_name()] = self._loss_of_samples()
            samples["zero_one_loss"] = self._wrong
            share = self._label_share()[lanes, labels] * self.n_classes
            samples["label_share"] = share * present
            samples["label_recall"] = self.tracker.recall[lanes, labels] * present
        if self.config.content:
            content = self._embeddings.shown[rows] * present[..., None]
            if self.config.signed_content:
                content *= (1 - 2 * self.features.train_labels[rows])[..., None]
            samples |= {f"content_{i}": content[..., i] for i in range(EMBEDDING_SIZE)}
        system = {
            "budget_left": self.config.budget - self._device_uploads.sum(axis=1),
            "samples": self._acquired(),
            "unlearned": self._unlearned,
            "class_balance": self._class_balance(),
            "accuracy": self.tracker.accuracy,
            "accuracy_slope": self.tracker.accuracy_slope,
        }
        if isinstance(self.learner, SVMLearner):
            system["weight_norm"] = self.learner.weight_norm()
        parts = {"devices": devices, "samples": samples, "system": system}
        return {part: self.tables[part].fill(values) for part, values in parts.items()}

    def action_masks(self) -> BoolArray | None:
        """Samples that are there, of devices that were not yet chosen in this block."""
        if self.config.actions == "scores":
            return None
        possible = (self._buffer != _ABSENT) & ~self._is_chosen()[:, :, None]
        if self.config.actions == "device":
            return np.asarray(possible.any(axis=2))
        return np.asarray(possible.reshape(self.n_lanes, -1))

    def scene(self, lane: int) -> Scene:
        """Show the last upload, the channels of the next block, the buffers and the accuracy."""
        config, features = self.config, self.features
        device, row, snr_db = (float(value) for value in self._uploaded[lane])
        uploads = int(self._device_uploads[lane].sum())
        shown = min(config.n_devices, _SHOWN_DEVICES)
        done = int(self._block[lane])
        over = done == config.blocks
        last = (self._last_upload[lane, :shown] == done) & (uploads > 0)
        low, high = config.mean_snr_db - 20, config.mean_snr_db + 25

        def channels(block: int) -> NDArray[np.float64]:
            snr = self._mean_snr[lane, :shown] * self._gain[lane, block, :shown]
            return np.clip(wireless.linear_to_db(snr), low + 0.5, high)

        # The last upload is over: bars are the channels that the next one is decided on.
        bars = channels(done - over)
        series, targets = acted_on(bars, last, "uploaded last"), {}
        if config.in_turns:
            chosen = self._is_chosen()[lane, :shown]
            series = {name: np.where(chosen, np.nan, values) for name, values in series.items()}
            series["chosen"] = np.where(chosen, bars, np.nan)
        if uploads and not over:
            targets[f"in block {done}"] = np.where(last, channels(done - 1), np.nan)
        names = load_dataset(config.dataset).class_names
        label = names[features.classes[features.train_labels[int(row)]]]
        kind = self.learner.uncertainty
        uncertainty = self._uncertainty[lane, :shown]
        present = (self._buffer[lane, :shown] != _ABSENT) & np.isfinite(uncertainty)
        nearest = np.where(present, uncertainty, np.inf if kind == "distance" else -np.inf)
        extreme = nearest.min(axis=1) if kind == "distance" else nearest.max(axis=1)
        labels = [str(k) if config.n_devices <= 12 or k % 5 == 0 else "" for k in range(shown)]
        axis = "device" if shown == config.n_devices else f"device, the first {shown}"
        panels = (
            ImagePanel(
                title="Received",
                image=features.image(self._received[lane]) * bool(uploads),
                caption=f"SNR {snr_db:.1f} dB" if uploads else "nothing yet",
            ),
            ImagePanel(
                title="Sent",
                image=features.image(features.train[int(row)]) * bool(uploads),
                caption=f"label {label}, device {int(device)}" if uploads else "nothing yet",
            ),
            BarPanel(
                title=f"Channels of block {done + 1 - over}" + ("" if over else ", the next"),
                labels=labels,
                series=series,
                targets=targets,
                x_label=axis,
                y_label="SNR, dB",
                y_limits=(low, high),
                width=3.0,
            ),
            BarPanel(
                title=f"Most uncertain sample: {kind}",
                labels=labels,
                series={kind: np.where(np.isfinite(extreme), extreme, np.nan)},
                x_label=axis,
                y_label=kind if kind == "distance" else "entropy, nat",
            ),
        )
        return Scene(
            title=f"{uploads} of {config.budget} samples uploaded",
            text=(
                f"{config.n_devices} devices with {config.buffer_size} samples each"
                f"   ·   {self._acquired()[lane]} samples acquired"
                + (f"   ·   received in block {done}" if uploads else "")
            ),
            panels=(
                panels,
                (
                    self._accuracy_panel(lane, int(self._steps()[lane]), "steps"),
                    GaugePanel(
                        title="Budget left",
                        value=config.budget - uploads,
                        maximum=config.budget,
                        unit="uploads",
                    ),
                ),
            ),
        )

    def _least_samples(self) -> tuple[str, int]:
        return "buffer_size", self.config.buffer_size

    def _fill_buffers(self, lane: int, pool: IntArray) -> None:
        """Spread the pool over devices; each holds N samples in its buffer, the rest in reserve."""
        config, rng = self.config, self.generators[lane]
        n, kept = config.buffer_size, self._reserve.shape[2]
        labels = self.features.train_labels[pool]
        parts = partition(rng, labels, config.n_devices, config.partition, min_samples=n)
        self._reserve_head[lane] = 0
        for device, part in enumerate(parts):
            rows = pool[rng.permutation(part)]
            reserve = rows[n : n + kept]
            self._buffer[lane, device] = rows[:n]
            self._reserve[lane, device, : len(reserve)] = reserve
            self._reserve[lane, device, len(reserve) :] = _ABSENT
            self._reserve_size[lane, device] = len(reserve)

    def _acquire(
        self,
        lanes: IntArray,
        samples: NDArray[np.float32],
        labels: IntArray,
        snr: NDArray[Any] | None = None,
    ) -> None:
        super()._acquire(lanes, samples, labels, snr)
        inverse = self._inverse[lanes]
        # One product per lane: what it is must not depend on how many lanes there are.
        components = (samples[:, None] @ self._embeddings.axes)[:, 0]
        if snr is None:
            importance.acquire(inverse, components)
        else:
            importance.receive(inverse, components, snr, self._embeddings.variances)
        self._inverse[lanes] = inverse

    def _choose(self, lanes: IntArray, actions: IntArray) -> BoolArray:
        """Note one device and sample per lane; return where the choice was impossible."""
        config = self.config
        if config.actions == "sample":
            device, sample = np.divmod(actions, config.buffer_size)
        else:
            device = actions
            sample = self._preferred()[lanes, device]
        possible = (self._buffer[lanes] != _ABSENT) & ~self._is_chosen()[lanes][:, :, None]
        projected = ~possible[np.arange(len(lanes)), device, sample]
        if projected.any():
            # The best channel among the possible devices, by the document's rule.
            snr = np.where(possible.any(axis=2), self._snr(lanes), -np.inf)
            device = np.where(projected, snr.argmax(axis=1), device)
            sample = np.where(projected, self._preferred()[lanes, device], sample)
        turn = self._n_chosen[lanes]
        self._chosen_device[lanes, turn], self._chosen_sample[lanes, turn] = device, sample
        self._n_chosen[lanes] += 1
        return np.asarray(projected)

    def _choose_by_scores(self, lanes: IntArray, scores: NDArray[Any]) -> BoolArray:
        """Note the M devices of the largest scores; return where an empty one was among them."""
        m = self.config.uploads_per_block
        holds = (self._buffer[lanes] != _ABSENT).any(axis=2)
        wanted = np.argsort(-scores, axis=1, kind="stable")[:, :m]
        order = np.argsort(np.where(holds, -scores, np.inf), axis=1, kind="stable")[:, :m]
        self._chosen_device[lanes] = order
        self._chosen_sample[lanes] = np.take_along_axis(self._preferred()[lanes], order, axis=1)
        self._n_chosen[lanes] = m
        return np.asarray((np.sort(wanted, axis=1) != np.sort(order, axis=1)).any(axis=1))

    def _upload(self, lanes: IntArray) -> NDArray[np.float64]:
        """Send the chosen samples by analog modulation; return their mean SNR in dB."""
        snr = self._snr(lanes)
        total_db = np.zeros(len(lanes))
        everyone = np.arange(len(lanes))
        for turn in range(self.config.uploads_per_block if len(lanes) else 0):
            device, sample = self._chosen_device[lanes, turn], self._chosen_sample[lanes, turn]
            rows = self._buffer[lanes, device, sample]
            for lane in lanes:
                self.generators[lane].standard_normal(dtype=np.float32, out=self._noise[lane])
            received = np.zeros_like(self._received[lanes])
            effective = np.zeros(len(lanes), np.float32)
            wireless.mrc_accumulate(
                received,
                effective,
                self.features.train[rows],
                snr[everyone, device],
                self._noise[lanes],
            )
            received = wireless.mrc_combine(received, effective)
            self._acquire(lanes, received, self.features.train_labels[rows], effective)
            self._refill(lanes, device, sample)
            self._device_uploads[lanes, device] += 1
            self._last_upload[lanes, device] = self._block[lanes] + 1
            snr_db = wireless.linear_to_db(snr[everyone, device])
            total_db += snr_db
            self._received[lanes] = received
            self._uploaded[lanes] = np.column_stack([device, rows, snr_db])
        self._n_chosen[lanes] = 0
        self._block[lanes] += 1
        return total_db / self.config.uploads_per_block

    def _refill(self, lanes: IntArray, device: IntArray, sample: IntArray) -> None:
        """Let the device's next sample take the uploaded one's place; that one goes to the end."""
        if not self.config.refill:
            self._buffer[lanes, device, sample] = _ABSENT
            return
        size = self._reserve_size[lanes, device]
        has = size > 0
        lanes, device, sample, size = lanes[has], device[has], sample[has], size[has]
        head = self._reserve_head[lanes, device]
        uploaded = self._buffer[lanes, device, sample]
        self._buffer[lanes, device, sample] = self._reserve[lanes, device, head]
        self._reserve[lanes, device, head] = uploaded
        self._reserve_head[lanes, device] = (head + 1) % size

    def _judge_after_upload(self, lanes: IntArray, trained: BoolArray) -> None:
        """Let devices evaluate all samples where there is a new model, else the new samples."""
        if not len(lanes):
            return
        learned, others = lanes[trained], lanes[~trained]
        self._judge(learned, self._everywhere(learned))
        slots = self._chosen_device * self.config.buffer_size + self._chosen_sample
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
        rows = self._flat(self._buffer)[lanes[:, None], slots]
        present = rows != _ABSENT
        rows = np.where(present, rows, 0)
        labels = self.features.train_labels
        assessment = self.learner.assess_rows(lanes, self.features.train, labels, rows)
        for array, values in (
            (self._uncertainty, assessment.uncertainty),
            (self._margin, assessment.margin),
            (self._wrong, assessment.predicted != labels[rows]),
        ):
            self._flat(array)[lanes[:, None], slots] = values * present

    def _compare(self, lanes: IntArray) -> None:
        """Compare the samples with what the server has acquired."""
        rows = self._flat(self._buffer)[lanes]
        present = rows != _ABSENT
        novelty = importance.novelty(
            self._embeddings.components, np.where(present, rows, 0), self._inverse[lanes]
        )
        self._flat(self._novelty)[lanes] = novelty * present

    def _flat(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a view of ``(n_lanes, K, N)`` as ``(n_lanes, K·N)``."""
        return array.reshape(self.n_lanes, -1)

    def _everywhere(self, lanes: IntArray) -> IntArray:
        """Return all positions k·N + n for each of ``lanes``."""
        size = self.config.n_devices * self.config.buffer_size
        return np.broadcast_to(np.arange(size), (len(lanes), size))

    def _snr(self, lanes: IntArray) -> NDArray[np.float64]:
        """Return the SNR of all devices in the current block, ``(m, K)``."""
        block = np.minimum(self._block[lanes], self.config.blocks - 1)
        return np.asarray(self._mean_snr[lanes] * self._gain[lanes, block])

    def _steps(self) -> IntArray:
        """Return the steps taken in each lane's episode."""
        if self.config.in_turns:
            return self._block * self.config.uploads_per_block + self._n_chosen
        return self._block

    def _is_chosen(self) -> BoolArray:
        """Return which devices were chosen in this block so far, ``(n_lanes, K)``."""
        chosen = np.zeros((self.n_lanes, self.config.n_devices), np.bool_)
        for turn in range(self.config.uploads_per_block - 1):
            lanes = np.flatnonzero(self._n_chosen > turn)
            chosen[lanes, self._chosen_device[lanes, turn]] = True
        return chosen

    def _preferred(self) -> IntArray:
        """Return each device's sample by the document's rule, ``(n_lanes, K)``."""
        distance = self.learner.uncertainty == "distance"
        return preferred_sample(
            -self._uncertainty if distance else self._uncertainty,
            self._loss_of_samples() if self.config.labels == "device" else None,
            self._buffer != _ABSENT,
        )

    def _loss_name(self) -> str:
        return "hinge_loss" if self.learner.uncertainty == "distance" else "cross_entropy"

    def _loss_of_samples(self) -> NDArray[np.float32]:
        """Return the hinge loss, or the cross-entropy ln(1 + e^-margin), of samples held."""
        if self.learner.uncertainty == "distance":
            loss = np.maximum(0, 1 - self._margin)
        else:
            loss = np.logaddexp(0, -self._margin)
        return np.asarray(loss * (self._buffer != _ABSENT), np.float32)


class DataSchedulingEnv(EdgeEnv):
    """Which device's sample shall be uploaded next, so that the server learns most?

    ## Description
    K devices hold buffers of N samples each and share a channel to the server. In every block the
    server broadcasts its classifier, devices evaluate their samples with it, and one device
    uploads one sample by analog modulation over its fading channel, SNR γ = γ̄_k·|h|², |h|² ~
    Exp(1): the server receives x̂ = x + n, n ~ N(0, I/γ), and the label. The classifier is then
    really trained on all that was acquired. A good channel carries a clean sample, an important
    sample teaches more: the scheduler trades the one against the other. With
    ``uploads_per_block`` M > 1, M devices upload at a time (OFDMA), and samples that are alike
    teach the same thing twice.

    γ is E‖x‖² = 1 over the noise of one of the d dimensions; the SNR of a symbol is γ/d, so 15 dB
    are -7.9 dB a symbol at 14×14, and both are observed. The broadcast of the classifier and the
    devices' reports on their samples take no time and arrive without error, as in Wen et al.
    2019 §4: a block is what one upload takes.

    ## Action Space
    - ``actions="sample"`` (``DataScheduling-v0``): ``Discrete(K·N)``; k·N + n lets device k upload
      its sample n.
    - ``actions="device"`` (``DataSchedulingDevice-v0``): ``Discrete(K)``; the device uploads the
      sample of the largest loss where it knows the labels, else (and where no sample has a loss)
      its most uncertain one.
    - ``actions="scores"`` (``DataSchedulingBatch-v0``): ``Box(-1, 1, (K,))``; the M devices of
      the largest scores upload, by the same rule.

    With M > 1, discrete actions choose the devices of a block one after the other, in M steps, of
    which the last uploads all (``DataSchedulingBatchDiscrete-v0``). Where buffers are not refilled
    or devices are chosen in turns, ``action_masks()`` tells what is possible; what is not is
    replaced with the best channel among the possible devices, and ``info["projected"]`` is 1.

    ## Observation Space
    A ``Dict`` of ``devices`` (K, F_d), ``samples`` (K, N, F_s) and ``system`` (G,). With
    ``labels="server"`` the columns ``margin``, ``hinge_loss``, ``zero_one_loss``,
    ``label_share`` and ``label_recall`` are absent. Networks observe ``entropy`` in the place of
    ``distance`` and ``cross_entropy`` in that of ``hinge_loss``, and no ``weight_norm``. With
    M > 1, ``devices`` adds 16 columns ``embedding_0``.. of the sample that each would upload, and
    ``chosen`` where devices are chosen in turns. ``content=False`` hides what a sample shows.
    Bounds are those of the default configuration.

    ``devices``:

    {devices_table}

    ``samples``:

    {samples_table}

    ``system``:

    {system_table}

    ## Rewards
    The gain in validation accuracy whenever the classifier is trained, 0 at other steps, so that
    an episode's return is exactly the final minus the initial validation accuracy. Validation
    samples are drawn from the training set and never learned from; test accuracy is only
    reported. With ``reward="loss"`` the decrease of the validation loss takes its place.

    ## Starting State
    Each episode draws a split of the data (every second training row is never validated on:
    principal axes are computed from these), ``initial_samples`` noiseless samples (classes
    balanced) that the classifier is trained on, which device holds what, their positions, and the
    fading of all blocks.

    ## Episode End
    Terminates after ``budget`` uploads. The last ``info`` adds ``test_accuracy``,
    ``area_under_curve`` (mean validation accuracy over steps), ``total_gain`` and ``fairness``
    (Jain's index of the devices' uploads). There is no truncation.

    ## Information
    ``validation_accuracy``, ``accuracy_gain``, ``validation_loss``, ``loss_decrease``,
    ``samples``, ``trained``, ``uploads`` (so far), ``uploaded`` (in this step), their mean
    ``uploaded_snr_db`` (0 if there were none), ``projected``; with ``track_test`` also
    ``test_accuracy``.

    ## Arguments
    The fields of ``DataSchedulingConfig``, by name or as ``config=``.

    ## References
    RRM §4 and its figure text; the noise convention is that of the documents' README: n ~
    N(0, I/γ) with features scaled to E‖x‖² = 1. ``novelty`` is the information gain of a linear
    model (D-optimal design) in the 16 first principal components, in which a noisy sample counts by
    what the channel left of it: see ``learning.importance``.

    ## Version History
    - v0: first version.
    """

    problem_type = DataScheduling


class DataSchedulingVectorEnv(EdgeVectorEnv):
    """Many lanes of ``DataSchedulingEnv`` at a time; lane i seeded s + i equals it."""

    problem_type = DataScheduling
