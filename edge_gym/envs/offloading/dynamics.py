"""Joint model training and task inference: what is offloaded, at which bandwidth and clock speed?

Source: JOINT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from edge_gym.core.env import EdgeEnv
from edge_gym.core.observation import Column, ObservationTable
from edge_gym.core.problem import Step
from edge_gym.core.scene import BarPanel, GaugePanel, Scene
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.envs.federated import MAX_LOSS, FederatedConfig, FederatedLearning
from edge_gym.learning.compression import FULL_BITS
from edge_gym.learning.federated import average
from edge_gym.physics import wireless
from edge_gym.physics.compute import cpu_energy, cpu_latency
from edge_gym.runtime.checks import check_choice, check_integer, check_number
from edge_gym.solvers.offloading import (
    Evaluation,
    Offloading,
    OffloadingCosts,
    evaluate,
    optimal_resources,
)
from edge_gym.typing import BoolArray, IntArray

SHARE_EXPONENT = 4.0
"""Uplinks and downlinks share the band in proportion to exp(4ℓ), ℓ in [-1, 1]."""
LEAST_CPU_SHARE = 0.05
"""A user computes with at least this share of its CPU's speed."""
SPLIT_LEVELS = 6
"""Shares of a task that can be offloaded on the document's grid, steps of 0.2."""

_ANTENNA_GAIN = 4.11
_CARRIER_HZ = 2.4e9
_LIGHT_SPEED = 3e8  # As the document has it.
_NOISE_DBM_HZ = -174.0
_MOST_COMBINATIONS = 50_000
_EDGE = 0.05
_MAX_COST = 1e6
_MAX_LOG = 40.0

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class OffloadingConfig(FederatedConfig):
    """Settings of joint training and inference; further fields are ``FederatedConfig``'s.

    Devices are called users here. ``bandwidth_hz`` is the band B that all uplinks and downlinks
    share; users transmit with all of ``transmit_power_dbm`` in any part of it. ``max_cpu_hz`` takes
    the place of ``cpu_hz``. The default is Table I's radio with tasks in every second iteration,
    and a network small enough to step in milliseconds, whose size on the air is the document's all
    the same.

    Attributes:
        actions: ``"direct"``: shares of the band, CPU frequencies and the parts of the tasks that
            are offloaded; ``"grid"``: the parts alone, each in steps of 0.2; ``"combination"``:
            the same as one number. With the last two all else is optimal.
        iterations: Training iterations N of an episode.
        period: Tasks arrive in every iteration that is a multiple of this, and in the last; None
            means in the last alone.
        accuracy_weight: What a gain of 1 in validation accuracy is worth, in units of the WSEL.
        energy_weight: Weight w^e of a joule.
        time_weight: Weight w^t of a second.
        local_epochs: Epochs that a user trains in an iteration.
        batch_size: Samples of a mini-batch.
        model_bits: Size D_m of the model on the air, bits; None takes that of the network.
        task_bits: Mean size L of a task, bits; None takes 8 for each value of its images.
        task_spread: Sizes of tasks are uniform within (1 ± this) times the mean.
        task_images: Images of a task that are really classified.
        training_s: Time τ^lt of local training, s; None takes what it takes at the user's full
            speed.
        training_j: Energy e^lt of local training, J; None likewise.
        first_download_s: Time τ^md of the download before the first iteration, s.
        cycles_per_bit: CPU cycles C of inference per bit.
        server_hz: CPU frequency f_s of the server, for each task.
        max_cpu_hz: Highest CPU frequency f_max of a user.
        receive_power_w: Power p^md of a user's receiver, W.
        downlink_power_dbm: The server's transmit power, dBm.
        placement: ``"ring"``: all users ``cell_radius_m`` away; ``"disc"``: anywhere within.
        path_loss_exponent: Exponent σ.
        fading: ``"episode"``: channels fade once, before the first iteration; ``"iteration"``:
            anew in each (Rayleigh).
        move_m: How far users move from one iteration to the next, each in a random direction, m.
    """

    image_size: int | None = 7
    hidden_sizes: tuple[int, ...] = (32,)
    n_devices: int = 4
    learning_rate: float = 0.1
    samples_per_device: int | None = 60
    bandwidth_hz: float = 20e6
    cell_radius_m: float = 50.0
    capacitance: float = 0.5e-28
    actions: str = "direct"
    iterations: int = 12
    period: int | None = 2
    accuracy_weight: float = 10.0
    energy_weight: float = 0.9
    time_weight: float = 0.1
    local_epochs: int = 2
    batch_size: int = 10
    model_bits: float | None = 16e6
    task_bits: float | None = 64e6
    task_spread: float = 0.5
    task_images: int = 32
    training_s: float | None = 1.0
    training_j: float | None = 0.04
    first_download_s: float = 1.0
    cycles_per_bit: float = 50.0
    server_hz: float = 4e9
    max_cpu_hz: float = 1e9
    receive_power_w: float = 0.97e-3
    downlink_power_dbm: float = 33.0
    placement: str = "ring"
    path_loss_exponent: float = 2.9
    fading: str = "iteration"
    move_m: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits != FULL_BITS or self.density != 1:
            raise ValueError(
                f"bits must be {FULL_BITS} and density 1, whole models are exchanged here, got "
                f"{self.bits} and {self.density}; model_bits says what a model takes on the air"
            )
        check_choice("actions", self.actions, ("direct", "grid", "combination"))
        if self.actions == "combination" and SPLIT_LEVELS**self.n_devices > _MOST_COMBINATIONS:
            raise ValueError(
                f'n_devices must be at most 6 with actions="combination", got {self.n_devices}; '
                'actions="grid" has no limit'
            )
        check_integer("iterations", self.iterations, 1, 1_000_000)
        if self.period is not None:
            check_integer("period", self.period, 1, 1_000_000)
        for name, most in (
            *(("accuracy_weight", 1e6), ("energy_weight", 1e6), ("first_download_s", 1e6)),
            ("move_m", 1e5),
        ):
            check_number(name, getattr(self, name), 0, most)
        for name, least, most in (
            *(("time_weight", 1e-6, 1e6), ("cycles_per_bit", 1e-6, 1e9)),
            *(("server_hz", 1, 1e15), ("max_cpu_hz", 1, 1e15)),
        ):
            check_number(name, getattr(self, name), least, most)
        check_integer("local_epochs", self.local_epochs, 1, 10_000)
        check_integer("batch_size", self.batch_size, 1, 1_000_000)
        for name in ("model_bits", "task_bits"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 1, 1e12)
        for name in ("training_s", "training_j"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0, 1e6)
        check_number("task_spread", self.task_spread, 0, 1, open_high=True)
        check_integer("task_images", self.task_images, 1, 1_000_000)
        check_number("receive_power_w", self.receive_power_w, 0, 1e6)
        check_number("downlink_power_dbm", self.downlink_power_dbm, -50, 60)
        check_choice("placement", self.placement, ("ring", "disc"))
        check_number("path_loss_exponent", self.path_loss_exponent, 0, 6)
        check_choice("fading", self.fading, ("episode", "iteration"))

    def has_tasks(self, iteration: int) -> bool:
        """Return whether inference tasks arrive in an iteration, counted from 1."""
        every = self.period or self.iterations
        return iteration % every == 0 or iteration == self.iterations


def observation_tables(config: OffloadingConfig) -> dict[str, ObservationTable]:
    """Return the columns of each part of the observation under ``config``."""
    m = config.n_devices
    model_mbit = (config.model_bits or 16e6) / 1e6
    task_mbit = (config.task_bits or 64e6) / 1e6
    # A channel of 9 bit/s/Hz in a fair share of the band, as is usual at 50 m.
    fair_s = model_mbit * 1e6 * 2 * m / (9 * config.bandwidth_hz)
    gain_db = float(wireless.linear_to_db(_mean_gain(config, np.array(config.cell_radius_m))))
    training_s = config.training_s or 1.0
    return {
        "devices": ObservationTable(
            Column("gain_db", "dB", -300, 100, "channel gain h_j", gain_db, 6),
            Column("task_mbit", "Mbit", 0, 1e6, "its task L_j", task_mbit / 2, task_mbit / 2),
            Column(
                "training_s",
                "s",
                0,
                1e9,
                "from then until its update can be sent: τ^lt of training, or more where its "
                "uplink still sends its last task",
                training_s,
                training_s,
            ),
            Column(
                "training_j",
                "J",
                0,
                1e9,
                "energy e^lt of training",
                config.training_j or 0.04,
                config.training_j or 0.04,
            ),
            Column(
                "previous_download_s",
                "s",
                0,
                1e9,
                "when it begins to train: after its last download τ^md (0 without one), and after "
                "what its CPU still had to infer",
                fair_s,
                fair_s,
            ),
            Column(
                "log_upload",
                "1",
                -_MAX_LOG,
                _MAX_LOG,
                "ln of an upload's time in a fair share of the band over its geometric mean",
                0,
                0.15,
            ),
            Column(
                "log_task",
                "1",
                -_MAX_LOG,
                _MAX_LOG,
                "ln of L_j over the mean size; 0 without tasks",
                0,
                0.3,
            ),
            Column("staleness", "iteration", 0, 1e9, "age of the model that it holds", 0.5, 1),
            Column(
                "offloaded", "1", 0, 1, "share ι_j of its last task that was offloaded", 0.5, 0.4
            ),
            Column("cpu_share", "1", 0, 1, "its last CPU frequency over f_max", 0.8, 0.3),
            Column("samples", "sample", 0, 1e9, "its training samples", 60, 30),
        ),
        "system": ObservationTable(
            Column("users", "user", 1, 1e9, "number of users M", m, max(m, 1)),
            Column(
                "iterations_left",
                "iteration",
                0,
                1e9,
                "iterations left",
                config.iterations / 2,
                config.iterations / 4,
            ),
            Column(
                "until_tasks",
                "iteration",
                0,
                1e9,
                "iterations until tasks arrive; 0 in one in which they do",
                (config.period or config.iterations) / 2,
                max((config.period or config.iterations) / 3, 0.5),
            ),
            Column("model_mbit", "Mbit", 0, 1e9, "size D_m of the model", model_mbit, model_mbit),
            Column("last_wsel", "1", 0, _MAX_COST, "WSEL of the last iteration", 2, 1),
            Column("accuracy", "1", 0, 1, "validation accuracy", 0.7, 0.2),
            Column("loss", "nat", 0, MAX_LOSS, "validation loss", 1, 0.6),
            Column(
                "loss_slope",
                "nat/iteration",
                -MAX_LOSS,
                MAX_LOSS,
                "smoothed decrease of the loss",
                0.1,
                0.1,
            ),
        ),
    }


def offloading_costs(
    config: OffloadingConfig,
    *,
    gain_db: ArrayLike,
    task_mbit: ArrayLike,
    training_s: ArrayLike,
    training_j: ArrayLike,
    previous_download_s: ArrayLike,
    model_mbit: ArrayLike,
) -> OffloadingCosts:
    """Return what an iteration costs, from columns of the observation; arrays are ``(..., M)``.

    Source: JOINT §II and Table I.
    """
    gain = wireless.db_to_linear(gain_db)
    noise_w = float(wireless.dbm_to_watt(_NOISE_DBM_HZ))
    power_w = float(wireless.dbm_to_watt(config.transmit_power_dbm))
    server_w = float(wireless.dbm_to_watt(config.downlink_power_dbm))
    return OffloadingCosts(
        band_hz=np.asarray(config.bandwidth_hz),
        uplink_snr_hz=power_w * gain / noise_w,
        downlink_snr_hz=server_w * gain / noise_w,
        transmit_power_w=np.asarray(power_w),
        receive_power_w=np.asarray(config.receive_power_w),
        model_bits=1e6 * np.asarray(model_mbit, np.float64),
        task_bits=1e6 * np.asarray(task_mbit, np.float64),
        cycles_per_bit=np.asarray(config.cycles_per_bit),
        capacitance=np.asarray(config.capacitance),
        server_hz=np.asarray(config.server_hz),
        max_hz=np.asarray(config.max_cpu_hz),
        training_s=np.asarray(training_s, np.float64),
        training_j=np.asarray(training_j, np.float64),
        previous_download_s=np.asarray(previous_download_s, np.float64),
        energy_weight=np.asarray(config.energy_weight),
        time_weight=np.asarray(config.time_weight),
    )


def action_of(offloading: Offloading, config: OffloadingConfig) -> NDArray[Any]:
    """Return the actions that mean these decisions.

    Returns:
        Of direct actions, ``(..., M, 4)``; shares below exp(-8) of the largest one are raised to
        that. Of the others the nearest level of each user, ``(..., M)``, or their combination.
    """
    if config.actions != "direct":
        levels = np.rint(offloading.offloaded * (SPLIT_LEVELS - 1)).astype(np.int64)
        return levels if config.actions == "grid" else combination_of(levels)
    shares = np.stack([offloading.uplink_share, offloading.downlink_share], axis=-1)
    largest = shares.max(axis=(-2, -1), keepdims=True)
    logits = 1 + np.log(np.maximum(shares / largest, 1e-300)) / SHARE_EXPONENT
    cpu = (offloading.cpu_hz / config.max_cpu_hz - LEAST_CPU_SHARE) / (1 - LEAST_CPU_SHARE)
    split = (2 * offloading.offloaded - 1) / (1 + _EDGE)
    split = np.where(offloading.offloaded == 1, 1.0, split)
    columns = [logits, (2 * cpu - 1)[..., None], split[..., None]]
    actions: NDArray[np.float32] = np.concatenate(columns, axis=-1).astype(np.float32)
    return np.clip(actions, -1, 1)


def combination_of(levels: IntArray) -> IntArray:
    """Return the number of a combination of levels ``(..., M)``; the last user's counts least."""
    powers = SPLIT_LEVELS ** np.arange(levels.shape[-1])[::-1]
    return np.asarray((levels * powers).sum(axis=-1))


def levels_of(combinations: ArrayLike, n_users: int) -> IntArray:
    """Return the levels ``(..., M)`` of numbered combinations."""
    powers = SPLIT_LEVELS ** np.arange(n_users)[::-1]
    return np.asarray(np.asarray(combinations)[..., None] // powers % SPLIT_LEVELS)


def offloading_of(
    actions: NDArray[Any], config: OffloadingConfig, has_tasks: BoolArray
) -> Offloading:
    """Return what direct actions, ``(..., M, 4)``, mean.

    Args:
        actions: Logits of the uplink's and the downlink's share, CPU frequency, offloaded part.
        config: The configuration.
        has_tasks: Whether each user has a task, ``(..., M)``.
    """
    wanted = np.asarray(actions, np.float64)
    # Nothing and all, which differ from what lies between, are more than two points.
    offloaded = np.clip(((1 + _EDGE) * wanted[..., 3] + 1) / 2, 0, 1)
    offloaded = np.where(has_tasks, offloaded, 0.0)
    download = offloaded < 1
    weights = np.exp(SHARE_EXPONENT * wanted[..., :2])
    weights[..., 1] = np.where(download, weights[..., 1], 0.0)
    shares = weights / weights.sum(axis=(-2, -1), keepdims=True)
    cpu = LEAST_CPU_SHARE + (1 - LEAST_CPU_SHARE) * (wanted[..., 2] + 1) / 2
    computing = has_tasks & download
    return Offloading(
        offloaded,
        download,
        shares[..., 0],
        shares[..., 1],
        np.where(computing, cpu * config.max_cpu_hz, 0.0),
    )


def _mean_gain(config: OffloadingConfig, distance_m: Float64Array) -> Float64Array:
    """Return the mean channel gain G_A·(c/(4π·f_c·d))^σ.

    Source: JOINT §IV.
    """
    ratio = _LIGHT_SPEED / (4 * np.pi * _CARRIER_HZ * distance_m)
    return np.asarray(_ANTENNA_GAIN * ratio**config.path_loss_exponent)


class OffloadingProblem(FederatedLearning):
    """Joint training and inference for many lanes; see ``OffloadingEnv``."""

    config: OffloadingConfig
    config_type = OffloadingConfig
    documented_tables: ClassVar[dict[str, ObservationTable]] = observation_tables(
        OffloadingConfig()
    )
    lane_arrays = (
        *FederatedLearning.lane_arrays,
        "_place_m",
        "_fade",
        "_gain",
        "_task_bits",
        "_begin_s",
        "_link_free_s",
        "_staleness",
        "_offloaded",
        "_cpu_share",
        "_shares",
        "_wsel",
        "_latency_s",
        "_wsel_sum",
        "_joules",
        "_seconds",
        "_inference_accuracy",
        "_inference_sum",
        "_offloaded_sum",
        "_stale_sum",
    )

    def __init__(self, config: OffloadingConfig, n_lanes: int) -> None:
        super().__init__(config, n_lanes, config.iterations)
        m = config.n_devices
        self._model_bits = config.model_bits or float(self.compressor.payload_bits)
        image_bits = 8.0 * self.features.train.shape[1]
        self._mean_task_bits = config.task_bits or config.task_images * image_bits
        self.tables = observation_tables(config)
        self.observation_space = spaces.Dict(
            {
                "devices": self.tables["devices"].space(m),
                "system": self.tables["system"].space(),
            }
        )
        self.actions_per = "device"
        self.action_space: spaces.Space[Any]
        if config.actions == "direct":
            self.action_space = spaces.Box(-1, 1, (m, 4), np.float32)
        elif config.actions == "grid":
            self.action_space = spaces.MultiDiscrete([SPLIT_LEVELS] * m)
        else:
            self.action_space = spaces.Discrete(SPLIT_LEVELS**m)
            self.actions_per = "combination"
        # What each user trains from: the model that it downloaded last.
        memory = (n_lanes, m, self.network.n_values)
        self._held = torch.zeros(memory, dtype=torch.float32, device=config.compute_device)
        self._place_m = np.zeros((n_lanes, m, 2))
        self._fade = np.ones((n_lanes, m))
        self._gain = np.ones((n_lanes, m))
        self._task_bits = np.zeros((n_lanes, m))
        # Seconds after the server had the last model at which each user's download has come and its
        # CPU is free, so that it begins to train, and at which its uplink is free.
        self._begin_s = np.zeros((n_lanes, m))
        self._link_free_s = np.zeros((n_lanes, m))
        self._staleness = np.zeros((n_lanes, m), np.int64)
        # What the last iteration did.
        self._offloaded = np.zeros((n_lanes, m))
        self._cpu_share = np.zeros((n_lanes, m))
        self._shares = np.zeros((n_lanes, 2, m))
        self._wsel = np.zeros(n_lanes)
        self._latency_s = np.zeros((n_lanes, m))
        # Of the episode so far.
        self._wsel_sum = np.zeros(n_lanes)
        self._joules = np.zeros(n_lanes)
        self._seconds = np.zeros(n_lanes)
        self._inference_accuracy = np.zeros(n_lanes)
        self._inference_sum = np.zeros(n_lanes)
        self._offloaded_sum = np.zeros(n_lanes)
        self._stale_sum = np.zeros(n_lanes)

    def reset_lanes(self, lanes: IntArray) -> dict[str, NDArray[Any]]:
        """Draw the system and the model, which all users have; the first iteration begins."""
        for lane in lanes:
            self._draw_data(lane)
            self._place_m[lane] = self._draw_places(self.generators[lane])
        for array in (
            self._link_free_s,
            self._staleness,
            self._offloaded,
            self._cpu_share,
            self._shares,
            self._wsel,
            self._latency_s,
            self._wsel_sum,
            self._joules,
            self._seconds,
            self._inference_accuracy,
            self._inference_sum,
            self._offloaded_sum,
            self._stale_sum,
        ):
            array[lanes] = 0
        self._begin_s[lanes] = self.config.first_download_s
        info = self._begin_learning(lanes)
        index = torch.from_numpy(lanes)
        self._held[index] = self.learner.weights[index][:, None]
        self._begin_iteration(lanes)
        return info

    def step_lanes(self, lanes: IntArray, actions: NDArray[Any]) -> Step:
        """Train, average, classify and download as the actions say, and begin the next one."""
        config = self.config
        costs = self._costs(lanes)
        has_tasks = costs.task_bits > 0
        offloading = self._decide(costs, has_tasks, actions)
        found = evaluate(costs, offloading)
        self._train(lanes)
        over = self._round[lanes] + 1 >= config.iterations
        gain, info, final_info = self._end_round(lanes, over)
        inferred = np.asarray(has_tasks.any(axis=1))
        self._infer(lanes[inferred], has_tasks[inferred])
        self._download(lanes, offloading)
        self._occupy(lanes, costs, found)

        self._wsel[lanes] = np.minimum(found.wsel, _MAX_COST)
        reward = config.accuracy_weight * gain - self._wsel[lanes]
        self._offloaded[lanes] = np.where(
            inferred[:, None], offloading.offloaded, self._offloaded[lanes]
        )
        self._cpu_share[lanes] = offloading.cpu_hz / config.max_cpu_hz
        self._shares[lanes] = np.stack([offloading.uplink_share, offloading.downlink_share], axis=1)
        self._latency_s[lanes] = found.latency_s
        self._wsel_sum[lanes] += self._wsel[lanes]
        self._joules[lanes] += found.energy_j.sum(axis=1)
        self._seconds[lanes] += found.latency_s.mean(axis=1)
        self._inference_sum[lanes] += np.where(inferred, self._inference_accuracy[lanes], 0)
        offloaded = np.where(has_tasks, offloading.offloaded, 0).sum(axis=1)
        offloaded /= np.maximum(has_tasks.sum(axis=1), 1)
        self._offloaded_sum[lanes] += offloaded
        self._stale_sum[lanes] += self._staleness[lanes].mean(axis=1)
        self._begin_iteration(lanes)
        iterations = self._round[lanes].astype(np.float64)
        info["iterations"] = info.pop("rounds")
        info |= self._told(found, has_tasks, offloaded)
        info["inference_accuracy"] = self._inference_accuracy[lanes].copy()
        info["downloads"] = offloading.download.sum(axis=1).astype(np.float64)
        info["staleness"] = self._staleness[lanes].mean(axis=1)
        if config.actions != "direct":
            wanted = np.reshape(actions, (len(lanes), -1)).any(axis=1)
            info["projected"] = (wanted & ~inferred).astype(np.float64)
        times = sum(config.has_tasks(n) for n in range(1, config.iterations + 1))
        final_info |= {
            "total_wsel": self._wsel_sum[lanes].copy(),
            "total_j": self._joules[lanes].copy(),
            "total_s": self._seconds[lanes].copy(),
            "mean_inference_accuracy": self._inference_sum[lanes] / times,
            "mean_offloaded": self._offloaded_sum[lanes] / times,
            "mean_staleness": self._stale_sum[lanes] / iterations,
        }
        return Step(reward, over, np.zeros_like(over), info, final_info)

    def observe(self) -> dict[str, NDArray[np.float32]]:
        """Return the users and the system."""
        config, lanes = self.config, np.arange(self.n_lanes)
        costs = self._costs(lanes)
        fair = 1 / (2 * config.n_devices)
        rate = fair * np.log2(1 + costs.uplink_snr_hz / (fair * config.bandwidth_hz))
        log_upload = -np.log(np.maximum(rate, 1e-300))
        task = np.where(self._task_bits > 0, self._task_bits, self._mean_task_bits)
        iteration = self._round + 1
        devices = {
            "gain_db": wireless.linear_to_db(self._gain),
            "task_mbit": self._task_bits / 1e6,
            "training_s": costs.training_s,
            "training_j": costs.training_j,
            "previous_download_s": self._begin_s,
            "log_upload": log_upload - log_upload.mean(axis=1, keepdims=True),
            "log_task": np.log(task / self._mean_task_bits),
            "staleness": self._staleness,
            "offloaded": self._offloaded,
            "cpu_share": self._cpu_share,
            "samples": self._sizes,
        }
        system = {
            "users": np.full(self.n_lanes, config.n_devices),
            "iterations_left": config.iterations - self._round,
            "until_tasks": np.array([self._until_tasks(int(n)) for n in iteration]),
            "model_mbit": np.full(self.n_lanes, self._model_bits / 1e6),
            "last_wsel": self._wsel,
            "accuracy": self._accuracy,
            "loss": self._loss,
            "loss_slope": self._loss_slope,
        }
        return {
            "devices": self.tables["devices"].fill(devices),
            "system": self.tables["system"].fill(system),
        }

    def action_masks(self) -> BoolArray | None:
        """Offloading nothing alone, where there are no tasks; None for direct actions.

        Returns:
            ``(n_lanes, 6^M)`` of combinations, ``(n_lanes, M·6)`` of levels, user after user.
        """
        config = self.config
        if config.actions == "direct":
            return None
        arrive = np.asarray(self._task_bits.any(axis=1))
        if config.actions == "combination":
            masks = np.repeat(arrive[:, None], SPLIT_LEVELS**config.n_devices, axis=1)
            masks[:, 0] = True
            return masks
        levels = np.repeat(arrive[:, None], SPLIT_LEVELS, axis=1)
        levels[:, 0] = True
        return np.tile(levels, config.n_devices)

    def scene(self, lane: int) -> Scene:
        """Show what was offloaded, the band, latencies and the accuracy."""
        config, iterations = self.config, int(self._round[lane])
        labels = self._device_labels()
        shown = len(labels)

        def bars(title: str, values: NDArray[Any], label: str, **limits: Any) -> BarPanel:
            return BarPanel(
                title=title,
                labels=labels,
                series={"": values[:shown]},
                x_label="user",
                y_label=label,
                **limits,
            )

        up, down = 100 * self._shares[lane, :, :shown]
        return Scene(
            title=(
                f"Iteration {iterations}: "
                f"{100 * self._inference_accuracy[lane]:.1f} % of the last tasks' images right"
            ),
            text=(
                f"WSEL {self._wsel[lane]:.2f}   ·   in all {self._wsel_sum[lane]:.1f}   ·   "
                f"{self._joules[lane]:.2f} J"
            ),
            panels=(
                (
                    bars(
                        "Offloaded of the last task",
                        100 * self._offloaded[lane],
                        "%",
                        y_limits=(0, 100),
                    ),
                    bars("Band, uplink", up, "%"),
                    bars("Band, downlink", down, "%"),
                    bars("Latency", self._latency_s[lane], "s"),
                ),
                (
                    self._accuracy_panel(
                        lane, np.arange(iterations + 1), "iterations", (0, config.iterations)
                    ),
                    GaugePanel(
                        title="Iterations left",
                        value=config.iterations - iterations,
                        maximum=config.iterations,
                        unit="",
                    ),
                ),
            ),
        )

    def get_state(self, lanes: IntArray) -> dict[str, Any]:
        """Return the state of ``lanes``, the users' models included."""
        held = self._held[torch.tensor(lanes)].cpu().numpy()
        return {**super().get_state(lanes), "held": held}

    def set_state(self, lanes: IntArray, state: Mapping[str, Any]) -> None:
        """Restore what ``get_state`` returned."""
        super().set_state(lanes, state)
        held = torch.from_numpy(state["held"].copy()).to(self._held)
        self._held[torch.from_numpy(lanes)] = held

    def _draw_places(self, rng: np.random.Generator) -> Float64Array:
        """Draw where users are, ``(M, 2)``, the server in the middle."""
        config = self.config
        angle = rng.uniform(0, 2 * np.pi, config.n_devices)
        radius = np.full(config.n_devices, config.cell_radius_m)
        if config.placement == "disc":
            radius *= np.sqrt(rng.random(config.n_devices))
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)

    def _begin_iteration(self, lanes: IntArray) -> None:
        """Let users move, channels fade and tasks arrive."""
        config, m = self.config, self.config.n_devices
        for lane in lanes:
            rng = self.generators[lane]
            begun = self._round[lane] > 0
            if begun and config.move_m:
                self._place_m[lane] = _moved(
                    self._place_m[lane], config.move_m, config.cell_radius_m, rng
                )
            if not begun or config.fading == "iteration":
                self._fade[lane] = wireless.rayleigh_gain(rng, m)
            if config.has_tasks(int(self._round[lane]) + 1):
                spread = config.task_spread * rng.uniform(-1, 1, m)
                self._task_bits[lane] = self._mean_task_bits * (1 + spread)
            else:
                self._task_bits[lane] = 0
        distance_m = np.hypot(self._place_m[lanes, :, 0], self._place_m[lanes, :, 1])
        mean = _mean_gain(config, np.maximum(distance_m, 1.0))
        self._gain[lanes] = np.maximum(mean * self._fade[lanes], 1e-30)

    def _decide(
        self, costs: OffloadingCosts, has_tasks: BoolArray, actions: NDArray[Any]
    ) -> Offloading:
        """Return the decisions that actions mean."""
        config = self.config
        if config.actions == "direct":
            return offloading_of(actions, config, has_tasks)
        levels = actions
        if config.actions == "combination":
            levels = levels_of(actions, config.n_devices)
        offloaded = np.where(has_tasks, levels / (SPLIT_LEVELS - 1), 0.0)
        return optimal_resources(costs, offloaded)

    def _train(self, lanes: IntArray) -> None:
        """Let all users train the model that they have; the server averages what they get."""
        config = self.config
        index = torch.tensor(lanes)
        held = self._held[index]
        updates, _ = self.learner.local_updates(
            lanes,
            self._rows[lanes],
            self._sizes[lanes],
            [self.generators[lane] for lane in lanes],
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            epochs=config.local_epochs,
            start=held,
        )
        models = held + updates
        change = average(models - self.learner.weights[index][:, None], self._sizes[lanes])
        self.learner.add(lanes, change)

    def _infer(self, lanes: IntArray, has_tasks: BoolArray) -> None:
        """Classify the images of all tasks by the new model, which users and server have."""
        if not len(lanes):
            return
        config = self.config
        rows = np.stack(
            [
                self._test[lane][
                    self.generators[lane].integers(
                        len(self._test[lane]), size=config.n_devices * config.task_images
                    )
                ]
                for lane in lanes
            ]
        )
        score = self.learner.score(lanes, rows, test=True)
        self._inference_accuracy[lanes] = score.accuracy

    def _download(self, lanes: IntArray, offloading: Offloading) -> None:
        """Let users have the new model who download it."""
        index = torch.tensor(lanes)
        takes = torch.from_numpy(offloading.download)[:, :, None].to(self._held.device)
        models = self.learner.weights[index][:, None]
        self._held[index] = torch.where(takes, models, self._held[index])
        self._staleness[lanes] = np.where(offloading.download, 0, self._staleness[lanes] + 1)

    def _occupy(self, lanes: IntArray, costs: OffloadingCosts, found: Evaluation) -> None:
        """Note how long after the model was ready users' CPUs and uplinks are busy."""
        self._begin_s[lanes] = np.minimum(found.download_s + found.local_s, _MAX_COST)
        sent = costs.previous_download_s + costs.training_s + found.upload_s + found.offload_s
        ready = found.model_ready_s[:, None]
        # Where no model is ever ready, nothing comes after it.
        late = np.subtract(sent, ready, out=np.zeros(sent.shape), where=np.isfinite(ready))
        self._link_free_s[lanes] = np.clip(late, 0, _MAX_COST)

    def _told(
        self, found: Evaluation, has_tasks: BoolArray, offloaded: Float64Array
    ) -> dict[str, NDArray[Any]]:
        """Return the parts of the cost for the info; means are over users."""
        parts = {
            "wsel": found.wsel,
            "energy_j": found.energy_j.sum(axis=1),
            "latency_s": found.latency_s.mean(axis=1),
            "model_ready_s": found.model_ready_s,
            **{
                name: getattr(found, name).mean(axis=1)
                for name in ("upload_s", "offload_s", "download_s", "local_s", "edge_s")
            },
            **{
                name: getattr(found, name).sum(axis=1)
                for name in ("upload_j", "offload_j", "download_j", "local_j")
            },
            "tasks": has_tasks.sum(axis=1).astype(np.float64),
            "offloaded": offloaded,
        }
        return {name: np.minimum(values, _MAX_COST) for name, values in parts.items()}

    def _costs(self, lanes: IntArray) -> OffloadingCosts:
        config = self.config
        cycles = (
            config.cycles_per_flop * self.training_flops * config.local_epochs * self._sizes[lanes]
        )
        training_s, training_j = config.training_s, config.training_j
        begin_s = self._begin_s[lanes]
        trained_s = cpu_latency(cycles, config.max_cpu_hz) if training_s is None else training_s
        return offloading_costs(
            config,
            gain_db=wireless.linear_to_db(self._gain[lanes]),
            task_mbit=self._task_bits[lanes] / 1e6,
            # Nothing else uses the uplink before the update, which therefore waits for it.
            training_s=np.maximum(
                trained_s + np.zeros(cycles.shape), self._link_free_s[lanes] - begin_s
            ),
            training_j=(
                cpu_energy(cycles, config.max_cpu_hz, config.capacitance)
                if training_j is None
                else np.full(cycles.shape, training_j)
            ),
            previous_download_s=begin_s,
            model_mbit=self._model_bits / 1e6,
        )

    def _until_tasks(self, iteration: int) -> int:
        """Return the iterations from this one to the next with tasks."""
        config = self.config
        last = config.iterations
        ahead = range(iteration, last + 1)
        return next((n - iteration for n in ahead if config.has_tasks(n)), 0)


def _moved(
    place_m: Float64Array, step_m: float, radius_m: float, rng: np.random.Generator
) -> Float64Array:
    """Return places ``(M, 2)`` after a step in a random direction; the cell's edge throws back."""
    angle = rng.uniform(0, 2 * np.pi, len(place_m))
    moved = place_m + step_m * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    distance = np.maximum(np.hypot(moved[:, 0], moved[:, 1]), 1e-9)
    inside = np.where(distance > radius_m, np.abs(2 * radius_m - distance), distance)
    return np.asarray(moved * (np.minimum(inside, radius_m) / distance)[:, None])


class OffloadingEnv(EdgeEnv):
    """What is offloaded of each user's inference, and who gets which band, as a model is trained?

    ## Description
    M users train a model with an edge server over N iterations. In each of them every user trains
    the model that it downloaded last on its own images, for τ^lt seconds, and uploads it; the
    server averages what it gets and all users download the result, over one band that uplinks and
    downlinks share. In the last iteration, or in every ``period``-th one, inference tasks arrive:
    user j has L_j bits of images to be classified by the new model. It offloads a part ι_j to the
    server, and computes the rest itself once it has downloaded the model. Whoever offloads all
    (ι_j = 1) does not download the model, a_j = 0, and trains the next time from the one that it
    has, which is old by then. Training and inference are real.

    Times and energies follow (1) to (9): uploads and offloading one after the other at r_j, the
    download at r̄_j, computing at f_j and at the server at f_s. The WSEL (10a) is the sum of
    w^e·E_j + w^t·T_j over users.

    A user's CPU and its uplink do one thing at a time. The letter has tasks in the last iteration
    alone; tasks in earlier ones hold up what follows. The next training begins when the download
    has come and the CPU has inferred; the next update is sent when that training is over and the
    uplink has sent the task. T_j counts from the beginning of the training, as (9) does, which
    leaves out the last download: the seconds of an inference count in the T_j of its own iteration,
    and in the next one for those who wait for the update that it delays.

    Not simulated: the server has a processor of f_s for each task, as in the letter, so that tasks
    never wait for each other there; it averages in no time. A transmission keeps the share of the
    band that it began with, while others have those of the next iteration already, so that shares
    may sum to more than one for a while. The model takes time and energy in both directions, but
    for the first download (``first_download_s``), which only delays the first training. What the
    server is told of channels and tasks, its decisions, and the results of inference take nothing.

    ## Action Space
    - ``actions="direct"`` (``Offloading-v0``): ``Box(-1, 1, (M, 4))``. The first two columns share
      the band among all uplinks and downlinks in proportion to exp(4ℓ); the third is the CPU's
      frequency, linearly from a twentieth of f_max up to that; the fourth is ι_j, linearly, with 0
      and 1 a little before the ends. A user that downloads nothing has no downlink.
    - ``actions="combination"`` (``OffloadingDiscrete-v0``): ``Discrete(6^M)``, every ι_j on the
      grid of 0.2, the last user's counting least; band and frequencies are optimal for these.
    - ``actions="grid"`` (``OffloadingGrid-v0``): ``MultiDiscrete([6] * M)``, every ι_j on the
      grid of 0.2, for any M; band and frequencies are optimal for these.

    Where there is no task, as in every second iteration of the default, ι_j counts for nothing and
    users download. Direct actions still share the band then. With the others there is nothing to
    decide: ``action_masks()`` leaves only the action 0, to offload nothing, which is taken for any
    other one; ``info["projected"]`` is then 1. Else every action is possible.

    ## Observation Space
    A ``Dict`` of ``devices`` (M, F_d), the users, and ``system`` (G,). Bounds are those of the
    default configuration. Channels and tasks are those of the iteration that begins.

    ``devices``:

    {devices_table}

    ``system``:

    {system_table}

    ## Rewards
    ``accuracy_weight`` times the iteration's gain in validation accuracy (with ``reward="loss"``
    times the decrease of the validation loss in nats), minus its WSEL. The
    return is thus ``accuracy_weight`` times the final minus the initial validation accuracy, minus
    the episode's WSEL. Validation samples are never trained on; inference is on test images, and
    its accuracy only reported.

    ## Starting State
    Each episode draws a split of the data and which user holds what, the users' places, channels
    and tasks, and the untrained model, which all users have.

    ## Episode End
    Terminates after ``iterations``. The last ``info`` adds ``test_accuracy``, ``total_gain``,
    ``total_loss_decrease``, ``total_wsel``, ``total_j`` of all users, ``total_s`` (mean latency of
    users, summed), ``mean_inference_accuracy`` and ``mean_offloaded`` over the iterations with
    tasks, and ``mean_staleness`` of the users' models over all.

    ## Information
    ``validation_accuracy``, ``accuracy_gain``, ``validation_loss``, ``loss_decrease``,
    ``iterations``, ``wsel``, ``energy_j`` of all users, their mean ``latency_s``, ``model_ready_s``
    (τ̂), mean ``upload_s``, ``offload_s``, ``download_s``, ``local_s`` and ``edge_s``, the sums
    ``upload_j``, ``offload_j``, ``download_j`` and ``local_j``, ``tasks`` (users with one),
    ``offloaded`` (mean ι_j of these), ``inference_accuracy`` (of the last tasks; 0 before there
    were any), ``downloads`` and ``staleness`` (mean age of the users' models); with
    ``track_test`` also ``test_accuracy``, and unless actions are direct ``projected``.

    ## Arguments
    The fields of ``OffloadingConfig``, by name or as ``config=``.

    ## References
    JOINT §II to §IV and Table I; p^md is a power in watts, (11) has D_m in place of D_s.

    ## Version History
    - v0: first version.
    """

    problem_type = OffloadingProblem


class OffloadingVectorEnv(EdgeVectorEnv):
    """Many lanes of ``OffloadingEnv`` at a time; lane i seeded s + i equals it."""

    problem_type = OffloadingProblem
