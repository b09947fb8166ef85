"""Batches and time slots for federated edge learning: how much to learn from before talking?

Source: FEEL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from edge_gym.core.env import EdgeEnv
from edge_gym.core.observation import Column, ObservationTable
from edge_gym.core.problem import Step
from edge_gym.core.scene import BarPanel, GaugePanel, Scene
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.envs.federated import (
    MAX_LOSS,
    FederatedConfig,
    FederatedLearning,
    clip_finite,
    speeds_by_group,
)
from edge_gym.learning.averaging import average
from edge_gym.learning.compression import Compressor, payload_bits
from edge_gym.physics import wireless
from edge_gym.physics.compute import cpu_latency, gpu_latency, gpu_offset, gpu_update_latency
from edge_gym.runtime.checks import check_choice, check_integer, check_number
from edge_gym.solvers.batch_slot import Allocation, RoundCosts, latency, optimal_allocation
from edge_gym.typing import IntArray

SLOT_EXPONENT = 3.0
"""Devices get parts of a frame in proportion to exp(3ℓ), ℓ in [-1, 1]."""
DOWNLOADS = ("recompressed", "union")
_LEAST_RATE = 1.0
_EFFICIENCY = 12.0  # Typical bit/s/Hz in the cell of Table I.
_MAX_NORM = 1e6
_MAX_LOG = 40.0
_MOST_SAMPLES = 10**9
_VALUES_AT_ONCE = 1 << 21

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class BatchSlotConfig(FederatedConfig):
    """Settings of the batch and slot problem; further fields are ``FederatedConfig``'s.

    Here a device transmits in its own time slots, with all of its power. The default is the
    document's cell with a network small enough to step in milliseconds, whose best batches lie
    between the bounds.

    Attributes:
        actions: ``"direct"``: batches and slots of all devices; ``"global"``: one of ``choices``
            global batchsizes, which Theorems 1 and 2 place.
        choices: Global batchsizes to choose from, a geometric row from K to ΣB_max; 2 to 10⁴.
        update: What devices compute from their batch: its ``"gradient"``, or a ``"model"`` trained
            on it for ``local_epochs`` in mini-batches; models are averaged then, whole ones unless
            ``density`` or ``bits`` say otherwise.
        local_epochs: Passes over the batch, for ``update="model"``; 1 to 10⁴.
        local_batch_size: Samples of a mini-batch, for ``update="model"``.
        max_batch: Largest batch B^max; None means all of a device's samples. Nobody's batch
            exceeds its samples.
        reference_batch: Global batchsize B_ref at which the step size is ``learning_rate``; it
            is learning_rate·√(B/B_ref), with a mini-batch in place of B for ``update="model"``.
        max_learning_rate: Largest step size, 10⁻⁹ to 10³.
        download: What the server sends where devices' vectors are compressed, and so what all
            learn from. ``"recompressed"``: their average, compressed in its turn as a device's
            vector is and with a memory of the server's own, so that both directions take the same
            bits; ``"union"``: the average as it is, with every value that some device sent, at 32
            bits each. The default is the first, for which Theorems 1 and 2 are made.
        downlink_power_dbm: The base station's transmit power, dBm.
        fading: ``"round"``: both directions fade anew in each round, in which rates stay as they
            are; ``"mean"``: rates are averages over fading, eqs. (5) and (6), right where a round
            takes many frames.
        device: Processors of the devices, ``"cpu"`` or ``"gpu"``.
        cpu_groups_hz: Speeds f_k of groups of devices of (nearly) equal size, cycles a second, in
            the order of the devices, 1 to 10¹⁵ each; None draws them from ``cpu_hz``.
        gpu_flops: Speeds f_k^G that GPUs reach, FLOP a second, 1 to 10²¹, of groups likewise; c_k
            in (27) is a sample's training FLOPs over this.
        gpu_base_latency_s: t^ℓ in (27), s, 10⁻⁹ to 10⁶: no computation takes no time.
        gpu_threshold: B^th in (27), samples.
        budget_s: Simulated seconds of an episode, 10⁻⁹ to 10¹².
        max_rounds: Rounds after which an episode is truncated, 1 to 10⁶.
        targets: Validation accuracies, ascending; the time to each is told.
    """

    hidden_sizes: tuple[int, ...] = (32,)
    n_devices: int = 6
    partition: str = "iid"
    samples_per_device: int | None = None
    size_spread: float = 0.0
    learning_rate: float = 0.4
    reward: str = "loss"
    bandwidth_hz: float = 10e6
    cell_radius_m: float = 200.0
    transmit_power_dbm: float = 28.0
    density: float = 0.05
    cycles_per_flop: float = 1.0
    actions: str = "direct"
    choices: int = 16
    update: str = "gradient"
    local_epochs: int = 1
    local_batch_size: int = 64
    max_batch: int | None = 128
    reference_batch: int = 64
    max_learning_rate: float = 1.2
    download: str = "recompressed"
    downlink_power_dbm: float = 28.0
    fading: str = "round"
    device: str = "cpu"
    cpu_groups_hz: tuple[float, ...] | None = (0.7e9, 1.4e9, 2.1e9)
    gpu_flops: tuple[float, ...] = (2e9,)
    gpu_base_latency_s: float = 4e-4
    gpu_threshold: int = 16
    budget_s: float = 0.25
    max_rounds: int = 1000
    targets: tuple[float, ...] = (0.8, 0.9, 0.92)

    def __post_init__(self) -> None:
        for name in ("cpu_groups_hz", "gpu_flops", "targets"):
            value = getattr(self, name)
            # A specification that travelled through JSON brings a list.
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        super().__post_init__()
        check_choice("actions", self.actions, ("direct", "global"))
        check_integer("choices", self.choices, 2, 10_000)
        check_choice("update", self.update, ("gradient", "model"))
        check_integer("local_epochs", self.local_epochs, 1, 10_000)
        check_integer("local_batch_size", self.local_batch_size, 1, _MOST_SAMPLES)
        if self.max_batch is not None:
            check_integer("max_batch", self.max_batch, 1, _MOST_SAMPLES)
        check_integer("reference_batch", self.reference_batch, 1, _MOST_SAMPLES)
        check_number("max_learning_rate", self.max_learning_rate, 1e-9, 1e3)
        check_choice("download", self.download, DOWNLOADS)
        check_number("downlink_power_dbm", self.downlink_power_dbm, -50, 60)
        check_choice("fading", self.fading, ("round", "mean"))
        check_choice("device", self.device, ("cpu", "gpu"))
        for name, fastest in (("cpu_groups_hz", 1e15), ("gpu_flops", 1e21)):
            speeds = getattr(self, name)
            if speeds is None and name == "cpu_groups_hz":
                continue
            if not 1 <= len(speeds) <= self.n_devices:
                raise ValueError(
                    f"{name} must have 1 to n_devices = {self.n_devices} speeds, got {speeds}"
                )
            for speed in speeds:
                check_number(name, speed, 1, fastest)
        check_number("gpu_base_latency_s", self.gpu_base_latency_s, 1e-9, 1e6)
        check_integer("gpu_threshold", self.gpu_threshold, 1, _MOST_SAMPLES)
        check_number("budget_s", self.budget_s, 1e-9, 1e12)
        check_integer("max_rounds", self.max_rounds, 1, 1_000_000)
        for target in self.targets:
            check_number("targets", target, 0, 1)
        if list(self.targets) != sorted(set(self.targets)):
            raise ValueError(f"targets must ascend, got {self.targets}")

    def step_size(self, batch: ArrayLike) -> Float64Array:
        """Return the learning rate η·√(B/B_ref) of batches B, at most ``max_learning_rate``.

        Source: FEEL §III-A, η = O(√B).
        """
        rate = self.learning_rate * np.sqrt(np.asarray(batch, np.float64) / self.reference_batch)
        return np.asarray(np.minimum(rate, self.max_learning_rate))


def observation_tables(
    config: BatchSlotConfig, sample_s: float = 2.7e-4, transfer_s: float = 1e-3
) -> dict[str, ObservationTable]:
    """Return the columns of each part of the observation under ``config``.

    Args:
        config: The configuration.
        sample_s: Typical seconds of one sample's gradient, for the columns' scaling.
        transfer_s: Typical seconds of a transfer in the whole frame, likewise.
    """
    k = config.n_devices
    what = "gradient" if config.update == "gradient" else "update"
    rate, sending_s, size = _EFFICIENCY * config.bandwidth_hz / 1e6, k * transfer_s, 64
    if config.max_batch is not None:
        size = max(1, config.max_batch // 2)
    rounds = config.budget_s / (4 * sending_s)
    return {
        "devices": ObservationTable(
            Column("uplink_rate", "Mbit/s", 0, 1e6, "rate R_k^U in its slots", rate, rate / 3),
            Column("downlink_rate", "Mbit/s", 0, 1e6, "rate R_k^D in its slots", rate, rate / 3),
            Column(
                "upload_s",
                "s",
                0,
                1e9,
                "time of an upload in the whole frame",
                transfer_s,
                transfer_s / 2,
            ),
            Column(
                "download_s",
                "s",
                0,
                1e9,
                "time of a download in the whole frame"
                + (", of as many bits as the last one" if config.download == "union" else ""),
                transfer_s,
                transfer_s / 2,
            ),
            Column(
                "speed", "sample/s", 0, 1e12, "training speed V_k", 1 / sample_s, 0.5 / sample_s
            ),
            *(
                Column(
                    f"log_{name}",
                    "1",
                    -_MAX_LOG,
                    _MAX_LOG,
                    f"ln of {of} over its geometric mean",
                    0,
                    spread,
                )
                for name, of, spread in (
                    ("upload", "upload_s", 0.25),
                    ("download", "download_s", 0.25),
                    ("speed", "speed", 0.45),
                )
            ),
            Column(
                "update_s",
                "s",
                0,
                1e9,
                "time t_k^M of a model update",
                0.3 * sample_s,
                0.2 * sample_s,
            ),
            Column("max_batch", "sample", 1, 1e9, "its largest batch", 2 * size, size),
            Column("samples", "sample", 1, 1e9, "its samples", 1500, 1500),
            Column("batch", "sample", 0, 1e9, "its last batch", size, 0.6 * size),
            Column(
                "gradient_s",
                "s",
                0,
                1e9,
                f"when its last {what} had arrived, t_k^L + t_k^U",
                2.5 * sending_s,
                2.5 * sending_s,
            ),
            Column(
                "finish_s",
                "s",
                0,
                1e9,
                "time of its last download and update, t_k^D + t_k^M",
                1.5 * sending_s,
                1.5 * sending_s,
            ),
            Column("batch_loss", "nat", 0, MAX_LOSS, "loss on its last batch", 0.6, 0.5),
            Column("norm", "1", 0, _MAX_NORM, f"norm of its last {what}", 1, 0.7),
        ),
        "system": ObservationTable(
            Column(
                "time_left", "s", 0, 1e12, "budget left", config.budget_s / 2, config.budget_s / 4
            ),
            Column("rounds", "round", 0, 1e9, "rounds so far", rounds / 2, rounds / 2),
            Column(
                "last_round_s",
                "s",
                0,
                1e12,
                "what the last round took",
                4 * sending_s,
                4 * sending_s,
            ),
            Column(
                "last_batch",
                "sample",
                0,
                1e9,
                "the last global batchsize B",
                k * size,
                k * size / 2,
            ),
            Column(
                "balanced_batch",
                "sample",
                0,
                1e12,
                "B at which computing takes as long as sending, the best one without bounds",
                k * size,
                k * size / 4,
            ),
            Column("norm", "1", 0, _MAX_NORM, f"norm of the last averaged {what}", 1, 0.7),
            Column("accuracy", "1", 0, 1, "validation accuracy", 0.8, 0.15),
            Column("loss", "nat", 0, MAX_LOSS, "validation loss", 0.7, 0.5),
            Column(
                "loss_slope",
                "nat/round",
                -MAX_LOSS,
                MAX_LOSS,
                "smoothed decrease of the loss",
                0.02,
                0.04,
            ),
        ),
    }


def round_costs(
    config: BatchSlotConfig,
    *,
    speed: ArrayLike,
    upload_s: ArrayLike,
    download_s: ArrayLike,
    update_s: ArrayLike,
    max_batch: ArrayLike,
) -> RoundCosts:
    """Return what a round costs, from columns of the observation; arrays are ``(..., K)``.

    Source: FEEL eqs. (9)-(12), (27), (28).
    """
    parallel = config.device == "gpu" and config.update == "gradient"
    return RoundCosts(
        slope_s=1 / np.asarray(speed, np.float64),
        upload_s=np.asarray(upload_s, np.float64),
        download_s=np.asarray(download_s, np.float64),
        update_s=np.asarray(update_s, np.float64),
        max_batch=np.asarray(max_batch, np.float64),
        base_latency_s=np.asarray(config.gpu_base_latency_s if parallel else 0.0),
        threshold=np.asarray(float(config.gpu_threshold) if parallel else 0.0),
    )


def global_batches(max_batch: ArrayLike, choices: int) -> Float64Array:
    """Return the global batchsizes to choose from, ``(..., choices)``, whole numbers.

    Args:
        max_batch: Largest batch of each device, ``(..., K)``.
        choices: How many; the first is K, the last Σ ``max_batch``.
    """
    most = np.asarray(max_batch, np.float64)
    n_devices = most.shape[-1]
    ratio = most.sum(axis=-1)[..., None] / n_devices
    return np.asarray(np.rint(n_devices * ratio ** np.linspace(0, 1, choices)))


def action_of(allocation: Allocation, max_batch: ArrayLike) -> NDArray[np.float32]:
    """Return the direct actions, ``(..., K, 3)``, that mean this allocation.

    Slots below exp(-6) of their frame's largest are raised to that.
    """
    span = np.maximum(np.asarray(max_batch, np.float64) - 1, 1e-12)
    columns = [2 * (allocation.batch - 1) / span - 1]
    for slot in (allocation.uplink_slot, allocation.downlink_slot):
        relative = slot / slot.max(axis=-1, keepdims=True)
        # Tiny is what vanished in rounding; it is raised below.
        columns.append(1 + np.log(np.maximum(relative, 1e-300)) / SLOT_EXPONENT)
    return np.clip(np.stack(columns, axis=-1), -1, 1).astype(np.float32)


def allocation_of(actions: NDArray[Any], max_batch: ArrayLike) -> Allocation:
    """Return what direct actions, ``(..., K, 3)``, mean: whole batches, slots that sum to one."""
    wanted = np.asarray(actions, np.float64)
    most = np.asarray(max_batch, np.float64)
    batch = np.rint(1 + (wanted[..., 0] + 1) / 2 * (most - 1))
    weights = np.exp(SLOT_EXPONENT * wanted[..., 1:])
    slots = weights / weights.sum(axis=-2, keepdims=True)
    return Allocation(batch, slots[..., 0], slots[..., 1])


class BatchSlot(FederatedLearning):
    """The batch and slot problem for many lanes; see ``BatchSlotEnv``."""

    config: BatchSlotConfig
    config_type = BatchSlotConfig
    documented_tables: ClassVar[dict[str, ObservationTable]] = observation_tables(BatchSlotConfig())
    lane_arrays = (
        *FederatedLearning.lane_arrays,
        "_gain",
        "_download_bits",
        "_transfer_s",
        "_balanced",
        "_seconds",
        "_last_round_s",
        "_batch",
        "_slot",
        "_part_s",
        "_batch_loss",
        "_norm",
        "_mean_norm",
        "_batch_sum",
        "_target_s",
        "_reached",
        "_times",
    )

    def __init__(self, config: BatchSlotConfig, n_lanes: int) -> None:
        super().__init__(config, n_lanes, config.max_rounds)
        k, size = config.n_devices, self.compressor.payload_bits
        # The average of sparse vectors is less sparse than they are, that of quantised ones has
        # more levels: it is another message than theirs.
        self._sends_union = self.compressor.changes and config.download == "union"
        self.server: Compressor | None = None
        if self.compressor.changes and not self._sends_union:
            self.server = Compressor(
                n_lanes,
                1,
                self.network.n_parameters,
                density=config.density,
                bits=config.bits,
                n_exact=self.network.n_statistics,
                device=config.compute_device,
            )
        typical = 1 / self._speed_of(np.array(self._processors())).mean()
        transfer_s = size / (_EFFICIENCY * config.bandwidth_hz)
        self.tables = observation_tables(config, float(typical), transfer_s)
        self.observation_space = spaces.Dict(
            {
                "devices": self.tables["devices"].space(k),
                "system": self.tables["system"].space(),
            }
        )
        self.action_space: spaces.Space[Any]
        if config.actions == "direct":
            self.action_space = spaces.Box(-1, 1, (k, 3), np.float32)
            self.actions_per = "device"
        else:
            self.action_space = spaces.Discrete(config.choices)
            self.actions_per = "system"
        # A lane that was never reset is observed too, with speeds and times that divide.
        self._cpu_hz[:] = 1.0
        # Two directions: up and down.
        fades = config.max_rounds if config.fading == "round" else 0
        self._gain = np.zeros((n_lanes, fades, 2, k))
        # What the next download is expected to have: exact unless the union is sent.
        self._download_bits = np.full(n_lanes, float(size))
        self._transfer_s = np.ones((n_lanes, 2, k))
        self._balanced = np.zeros(n_lanes)
        self._seconds = np.zeros(n_lanes)
        self._last_round_s = np.zeros(n_lanes)
        self._batch = np.zeros((n_lanes, k), np.int64)
        self._slot = np.zeros((n_lanes, 2, k))
        # How long each device took in the last round's two parts.
        self._part_s = np.zeros((n_lanes, 2, k))
        self._batch_loss = np.zeros((n_lanes, k))
        self._norm = np.zeros((n_lanes, k))
        self._mean_norm = np.zeros(n_lanes)
        self._batch_sum = np.zeros(n_lanes)
        self._target_s = np.zeros((n_lanes, len(config.targets)))
        self._reached = np.zeros((n_lanes, len(config.targets)), np.bool_)
        # Seconds at the end of each round, for pictures.
        self._times = np.zeros((n_lanes, config.max_rounds + 1), np.float32)

    def reset_lanes(self, lanes: IntArray) -> dict[str, NDArray[Any]]:
        """Draw the system, its fading and the model; the first round begins."""
        config, k = self.config, self.config.n_devices
        for lane in lanes:
            self._draw_system(lane)
            if config.cpu_groups_hz is not None:
                self._cpu_hz[lane] = speeds_by_group(config.cpu_groups_hz, k)
            # At once, so that a round's fading does not depend on the batches before it.
            self._gain[lane] = wireless.rayleigh_gain(self.generators[lane], self._gain.shape[1:])
        for array in (
            self._seconds,
            self._last_round_s,
            self._batch,
            self._slot,
            self._part_s,
            self._batch_loss,
            self._norm,
            self._mean_norm,
            self._batch_sum,
            self._reached,
            self._times,
        ):
            array[lanes] = 0
        self._target_s[lanes] = config.budget_s
        if self.server is not None:
            self.server.reset(lanes)
        if self._sends_union:
            # As if no two devices sent the same value.
            most = min(k * self.compressor.n_kept, self.network.n_parameters)
            self._download_bits[lanes] = self._union_bits(most)
        info = self._begin_learning(lanes)
        self._note_targets(lanes)
        self._begin_round(lanes)
        return info

    def step_lanes(self, lanes: IntArray, actions: NDArray[Any]) -> Step:
        """Compute, send and average as the actions say, and begin the next round."""
        config = self.config
        costs = self._costs(lanes)
        if config.actions == "direct":
            allocation = allocation_of(actions, costs.max_batch)
        else:
            totals = global_batches(costs.max_batch, config.choices)
            total = np.take_along_axis(totals, actions[:, None], axis=1)[:, 0]
            allocation = optimal_allocation(costs, total, whole=True)
        batch = allocation.batch.astype(np.int64)
        took = latency(costs, allocation)
        left = config.budget_s - self._seconds[lanes]
        sent_bits = self._download_bits[lanes]
        if self._sends_union:
            # How much must be sent is known when all have been heard.
            heard = took.gradient_s.max(axis=1) <= left
            mean = self._average(lanes[heard], batch[heard])
            sent_bits[heard] = self._sizes_of(mean)
            longer = sent_bits / self._download_bits[lanes]
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

        self._seconds[lanes] = np.where(in_time, self._seconds[lanes] + round_s, config.budget_s)
        self._last_round_s[lanes] = round_s
        self._batch[lanes] = batch
        self._batch_sum[lanes] += batch.sum(axis=1)
        self._slot[lanes] = np.stack([allocation.uplink_slot, allocation.downlink_slot], axis=1)
        self._part_s[lanes] = np.stack([took.gradient_s, took.update_s], axis=1)
        terminated = ~in_time | (self._seconds[lanes] >= config.budget_s)
        truncated = ~terminated & (self._round[lanes] + 1 >= config.max_rounds)
        over = terminated | truncated
        reward, info, final_info = self._end_round(lanes, over)
        self._times[lanes, self._round[lanes]] = self._seconds[lanes]
        self._note_targets(lanes)
        going = lanes[~over]
        if len(going):
            self._download_bits[going] = sent_bits[~over]
            self._begin_round(going)
        compute_s = gpu_latency(
            allocation.batch, costs.base_latency_s, costs.slope_s, costs.threshold
        )
        info |= {
            "seconds": self._seconds[lanes].copy(),
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
            "mean_batch": self._batch_sum[lanes] / self._round[lanes],
            "mean_efficiency": final_info["total_loss_decrease"] / self._seconds[lanes],
        }
        for i, target in enumerate(config.targets):
            final_info[f"seconds_to_{100 * target:g}"] = self._target_s[lanes, i]
            final_info[f"reached_{100 * target:g}"] = self._reached[lanes, i].astype(np.float64)
        return Step(reward, terminated, truncated, info, final_info)

    def observe(self) -> dict[str, NDArray[np.float32]]:
        """Return the devices and the system."""
        lanes = np.arange(self.n_lanes)
        rates = self._message_bits(lanes) / 1e6 / self._transfer_s
        speed = self._speed(lanes)
        devices = {
            "uplink_rate": rates[:, 0],
            "downlink_rate": rates[:, 1],
            "upload_s": self._transfer_s[:, 0],
            "download_s": self._transfer_s[:, 1],
            "speed": speed,
            "log_upload": _log_ratio(self._transfer_s[:, 0]),
            "log_download": _log_ratio(self._transfer_s[:, 1]),
            "log_speed": _log_ratio(speed),
            "update_s": self._update_s(lanes),
            "max_batch": self._max_batch(lanes),
            "samples": self._sizes,
            "batch": self._batch,
            "gradient_s": self._part_s[:, 0],
            "finish_s": self._part_s[:, 1],
            "batch_loss": self._batch_loss,
            "norm": self._norm,
        }
        system = {
            "time_left": self.config.budget_s - self._seconds,
            "rounds": self._round,
            "last_round_s": self._last_round_s,
            "last_batch": self._batch.sum(axis=1),
            "balanced_batch": self._balanced,
            "norm": self._mean_norm,
            "accuracy": self._accuracy,
            "loss": self._loss,
            "loss_slope": self._loss_slope,
        }
        return {
            "devices": self.tables["devices"].fill(devices),
            "system": self.tables["system"].fill(system),
        }

    def get_state(self, lanes: IntArray) -> dict[str, Any]:
        """Return the state of ``lanes``, with what the server has not sent."""
        server = {} if self.server is None else self.server.get_state(lanes)
        return {**super().get_state(lanes), "server": server}

    def set_state(self, lanes: IntArray, state: Mapping[str, Any]) -> None:
        """Restore what ``get_state`` returned."""
        super().set_state(lanes, state)
        if self.server is not None:
            self.server.set_state(lanes, state["server"])

    def scene(self, lane: int) -> Scene:
        """Show batches, slots, when devices finished and the accuracy over time."""
        config, rounds = self.config, int(self._round[lane])
        labels = self._device_labels()
        shown = len(labels)
        part_ms = 1e3 * self._part_s[lane, :, :shown]

        def bars(title: str, values: NDArray[Any], label: str, **targets: Any) -> BarPanel:
            return BarPanel(
                title=title,
                labels=labels,
                series={"": values},
                x_label="device",
                y_label=label,
                targets=targets,
            )

        seconds, batch = self._seconds[lane], int(self._batch[lane].sum())
        return Scene(
            title=f"Round {rounds}: {100 * self._accuracy[lane]:.1f} % validation accuracy",
            text=(
                f"{seconds:.2f} s   ·   last batch B = {batch}   ·   "
                f"last round {1e3 * self._last_round_s[lane]:.1f} ms"
            ),
            panels=(
                (
                    bars("Batches", self._batch[lane, :shown], "samples"),
                    bars("Uplink slots", 100 * self._slot[lane, 0, :shown], "% of the frame"),
                    bars("Downlink slots", 100 * self._slot[lane, 1, :shown], "% of the frame"),
                    bars("Update arrived after", part_ms[0], "ms"),
                ),
                (
                    self._accuracy_panel(
                        lane,
                        self._times[lane, : rounds + 1],
                        "simulated seconds",
                        (0, config.budget_s),
                    ),
                    GaugePanel(
                        title="Time left",
                        value=round(float(config.budget_s - seconds), 3),
                        maximum=config.budget_s,
                        unit="s",
                    ),
                ),
            ),
        )

    def _begin_round(self, lanes: IntArray) -> None:
        """Let the channels fade, and note what that makes of the best batch."""
        config = self.config
        # The base's SNR is that of the uplink.
        up_db = config.downlink_power_dbm - config.transmit_power_dbm
        both = np.array([1.0, float(wireless.db_to_linear(up_db))])[:, None]
        snr = self._mean_snr[lanes, None] * both
        if config.fading == "round":
            rate = wireless.shannon_rate(
                config.bandwidth_hz, snr * self._gain[lanes, self._round[lanes]]
            )
        else:
            rate = wireless.ergodic_rate(config.bandwidth_hz, snr)
        self._transfer_s[lanes] = self._message_bits(lanes) / np.maximum(rate, _LEAST_RATE)
        costs = self._costs(lanes)
        speed = 1 / costs.slope_s
        everyone = np.ones_like(speed, np.bool_)
        offset = gpu_offset(costs.base_latency_s, costs.slope_s, costs.threshold)
        second_s = wireless.common_finish(costs.update_s, costs.download_s, everyone)
        root = np.sqrt(costs.upload_s * speed).sum(axis=1)
        waiting = speed * (second_s[:, None] + offset)
        most = costs.max_batch.sum(axis=1)
        self._balanced[lanes] = np.clip(root**2 + waiting.sum(axis=1), config.n_devices, most)

    def _average(self, lanes: IntArray, batch: IntArray) -> Tensor:
        """Let devices compute on batches ``(m, K)`` of their samples; return what all learn from.

        That is the message that the server sends, ``(m, S)``.
        """
        config, learner = self.config, self.learner
        values = config.n_devices * self.network.n_values
        at_once = max(1, _VALUES_AT_ONCE // values)
        means = [learner.weights.new_zeros(0, self.network.n_values)]
        for first in range(0, len(lanes), at_once):
            some, sizes = lanes[first : first + at_once], batch[first : first + at_once]
            rows = self._draw_batches(some, sizes)
            generators = [self.generators[lane] for lane in some]
            if config.update == "gradient":
                vectors, losses = learner.gradients(some, rows, sizes)
            else:
                vectors, losses = learner.local_updates(
                    some,
                    rows,
                    sizes,
                    generators,
                    batch_size=config.local_batch_size,
                    learning_rate=config.step_size(self._stepped_on(sizes))[:, None],
                    epochs=config.local_epochs,
                )
            self._norm[some] = clip_finite(learner.norms(vectors), _MAX_NORM)
            self._batch_loss[some] = clip_finite(losses, MAX_LOSS)
            if self.compressor.changes:
                vectors = self.compressor.compress(some, vectors, generators)
            mean = average(vectors, sizes)
            self._mean_norm[some] = clip_finite(learner.norms(mean), _MAX_NORM)
            if self.server is not None:
                mean = self.server.compress(some, mean[:, None], generators)[:, 0]
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
        down = self._download_bits[lanes]
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

    def _draw_batches(self, lanes: IntArray, batch: IntArray) -> IntArray:
        """Draw so many of each device's samples, without replacement; padded ``(m, K, B)``."""
        rows = np.zeros((*batch.shape, batch.max()), np.int64)
        for i, lane in enumerate(lanes):
            rng = self.generators[lane]
            for k, size in enumerate(batch[i].tolist()):
                drawn = rng.choice(self._sizes[lane, k], size, replace=False, shuffle=False)
                rows[i, k, :size] = self._rows[lane, k, drawn]
        return rows

    def _stepped_on(self, batch: IntArray) -> NDArray[Any]:
        """Return how many samples a step is taken on, ``(m,)``."""
        if self.config.update == "gradient":
            return np.asarray(batch.sum(axis=1))
        return np.full(len(batch), self.config.local_batch_size)

    def _note_targets(self, lanes: IntArray) -> None:
        targets = np.array(self.config.targets)
        reached = self._accuracy[lanes, None] >= targets
        new = reached & ~self._reached[lanes]
        self._target_s[lanes] = np.where(new, self._seconds[lanes, None], self._target_s[lanes])
        self._reached[lanes] |= reached

    def _costs(self, lanes: IntArray) -> RoundCosts:
        return round_costs(
            self.config,
            speed=self._speed(lanes),
            upload_s=self._transfer_s[lanes, 0],
            download_s=self._transfer_s[lanes, 1],
            update_s=self._update_s(lanes),
            max_batch=self._max_batch(lanes),
        )

    def _max_batch(self, lanes: IntArray) -> IntArray:
        sizes = self._sizes[lanes]
        limit = self.config.max_batch
        return sizes if limit is None else np.minimum(sizes, limit)

    def _processors(self) -> tuple[float, ...]:
        """Return typical speeds of processors, in cycles or FLOP a second."""
        config = self.config
        if config.device == "gpu":
            return config.gpu_flops
        return config.cpu_hz if config.cpu_groups_hz is None else config.cpu_groups_hz

    def _speed(self, lanes: IntArray) -> Float64Array:
        """Return the training speeds V_k in samples a second, ``(m, K)``."""
        if self.config.device == "cpu":
            return self._speed_of(self._cpu_hz[lanes])
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

    def _update_s(self, lanes: IntArray) -> Float64Array:
        """Return t_k^M, ``(m, K)``: a multiplication and an addition for every parameter."""
        flops = 2 * self.network.n_parameters
        if self.config.device == "cpu":
            return cpu_latency(self.config.cycles_per_flop * flops, self._cpu_hz[lanes])
        return gpu_update_latency(flops, self._gpu_flops(lanes))

    def _gpu_flops(self, lanes: IntArray) -> Float64Array:
        speeds = speeds_by_group(self.config.gpu_flops, self.config.n_devices)
        return np.broadcast_to(speeds, (len(lanes), len(speeds)))


def _log_ratio(values: Float64Array) -> Float64Array:
    """Return logarithms of positive values ``(m, K)``, less their mean over devices."""
    logs = np.log(values)
    return np.asarray(logs - logs.mean(axis=1, keepdims=True))


class BatchSlotEnv(EdgeEnv):
    """How large a batch shall each device learn from, and who gets which slots, in this round?

    ## Description
    In every communication round each device computes the gradient on B_k samples of its own and
    sends it, compressed, in its time slots τ_k^U of the uplink's frames. The server averages, with
    weights B_k, and sends the average to each device in its slots τ_k^D of the downlink's frames;
    all take one step of gradient descent. The gradients are really computed and compressed.
    Devices keep different values, so that their average has more of them than any device sent:
    the server compresses it in its turn, and what is paid for and learned from is that message
    (``download="recompressed"``; ``"union"`` sends the average whole, at its own size).
    Larger batches make steps better, but a round lasts until the slowest device has sent, and
    then until the slowest one has received and updated its model:

    T = max_k (t_k^L + t_k^U) + max_k (t_k^D + t_k^M), with t_k^U = s/R_k^U/τ_k^U and
    t_k^D = s/R_k^D/τ_k^D for slots as shares of their frame and s bits of a compressed gradient.
    The download is one message for each device, which is the paper's; its footnote 3 names a
    broadcast at the smallest of the rates as another. Devices have the untrained model at the
    start. Channel states, losses, norms and what is decided are a few numbers and take no time.

    - ``device="cpu"``: t_k^L = B_k·C/f_k, with the cycles C of ``cycles_per_flop`` times the FLOPs
      of training on one sample; t_k^M takes two FLOPs for each parameter.
    - ``device="gpu"``: t_k^L = t^ℓ up to B^th samples and c_k seconds for each further one, (27).

    The step size is ``learning_rate``·√(B/``reference_batch``) with B = ΣB_k, at most
    ``max_learning_rate``. With error feedback, what a compressed message leaves out is added to
    the sender's next one, a device's as the server's (Tang et al. 2019).

    With ``update="model"`` devices train copies of the model on their batch, for ``local_epochs``
    in mini-batches, and models are averaged. ``max_batch=None`` allows batches of all samples:
    with these two fields the document's benchmarks are the same environment with full batches.

    ## Action Space
    - ``actions="direct"`` (``BatchSlot-v0``): ``Box(-1, 1, (K, 3))``. The first column goes
      linearly from a batch of 1 to the device's largest one, rounded (latency is linear in the
      batch, and uniform actions are the document's random batches); the others share the frames,
      uplink's and downlink's, in proportion to exp(3ℓ).
    - ``actions="global"`` (``BatchSlotGlobal-v0``): ``Discrete(choices)``, the global batchsize B
      from a geometric row, K·(ΣB_max/K)^(i/(``choices`` - 1)) rounded; Theorems 1 and 2 place
      whole batches and slots.

    Every action is possible: B_k lies in [1, min(B_max, the device's samples)], slots sum to one.

    ## Observation Space
    A ``Dict`` of ``devices`` (K, F_d) and ``system`` (G,). Bounds are those of the default
    configuration. What is of the last round is 0 in the first one. Rates are those of the round
    that begins.

    ``devices``:

    {devices_table}

    ``system``:

    {system_table}

    ## Rewards
    The decrease of the validation loss in the round, in nats, so that an episode's return is
    exactly the initial minus the final validation loss; with ``reward="accuracy"`` the gain in
    validation accuracy. Validation samples are never trained on; test accuracy is only reported.

    ## Starting State
    Each episode draws a split of the data and which device holds what, the devices' places, the
    fading of all rounds and the untrained model. Speeds are the same in every episode, unless
    ``cpu_groups_hz`` is None.

    ## Episode End
    Terminates when ``budget_s`` simulated seconds are spent; a round that would need more than is
    left is lost. Truncated after ``max_rounds``. The last ``info`` adds ``test_accuracy``,
    ``total_gain``, ``total_loss_decrease``, ``mean_batch`` (mean global batchsize),
    ``mean_efficiency`` (loss decrease a second over the episode), and for each target accuracy
    ``seconds_to_NN`` (of validation accuracy; ``budget_s`` where it was not reached, so that the
    mean is that of the time within the budget) and ``reached_NN``, 1 or 0.

    ## Information
    ``validation_accuracy``, ``accuracy_gain``, ``validation_loss``, ``loss_decrease``,
    ``rounds``, ``seconds`` so far, ``round_s``, its two parts ``gradient_s`` (until all have
    sent) and ``update_s``, the longest ``compute_s``, ``upload_s`` and ``download_s`` of a
    device, ``batch`` (B), ``learning_rate``, ``learning_efficiency`` (loss decrease over
    ``round_s``, eq. (16)) and ``in_time``, 0 of a round that was lost, whose parts are what they
    would have been; with ``track_test`` also ``test_accuracy``.

    ## Arguments
    The fields of ``BatchSlotConfig``, by name or as ``config=``.

    ## References
    Ren et al. 2021, §II to §VI and Table I. C, M, t^ℓ, B^th, c_k, f^G and η are not in the text
    and chosen here. The text takes the global gradient to have as many bits as a local one and
    does not say how an average of sparse ones comes to that.

    ## Version History
    - v0: first version.
    """

    problem_type = BatchSlot


class BatchSlotVectorEnv(EdgeVectorEnv):
    """Many lanes of ``BatchSlotEnv`` at a time; lane i seeded s + i equals it."""

    problem_type = BatchSlot
