"""Task allocation for mobile edge learning: how much does each learner train, and how often?

Source: ASYNC-MEL; MEL on task adaptation, joint task and resource optimisation and risk mitigation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from edge_gym.core.env import EdgeEnv
from edge_gym.core.observation import Column, ObservationTable
from edge_gym.core.problem import Step
from edge_gym.core.scene import BarPanel, GaugePanel, Scene
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.envs.federated import (
    MAX_LOSS,
    FederatedConfig,
    FederatedLearning,
    of_groups,
)
from edge_gym.learning.compression import FULL_BITS
from edge_gym.learning.federated import average, pad_rows
from edge_gym.physics import wireless
from edge_gym.physics.compute import cpu_energy, cpu_latency
from edge_gym.runtime.checks import check_choice, check_integer, check_number
from edge_gym.runtime.messages import shown
from edge_gym.solvers import task_resources
from edge_gym.solvers.task_allocation import (
    TaskCosts,
    Tasks,
    exact_allocation,
    relaxed_updates,
)
from edge_gym.solvers.task_resources import ResourceLimits, Resources
from edge_gym.typing import BoolArray, IntArray

SHARE_EXPONENT = 3.0
"""Learners get samples, and parts of the band, in proportion to exp(3ℓ), ℓ in (-1, 1]."""
POWER_RANGE_DB = 30.0
"""A learner transmits with up to so much less than its largest power."""
LEAST_CPU_SHARE = 0.05
"""A learner computes with at least this share of its CPU's speed."""

_LEAST_RATE = 1.0
_MAX_SECONDS = 1e9
_MAX_LOG = 40.0
_LEAST_LOGIT = float(np.nextafter(np.float32(-1), np.float32(0)))
_ROOMS = (1, 2, 3)
_LIMITED = ("base_s", "sample_s", "update_s", "base_j", "sample_j", "update_j")

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TaskAllocationConfig(FederatedConfig):
    """Settings of task allocation; further fields are ``FederatedConfig``'s.

    Devices are called learners here, the server orchestrator. Every learner has a band of
    ``bandwidth_hz`` of its own in both directions. The default has half the learners of the
    document's system and a small network, but the model's bits and, per sample, twenty times the
    bits and cycles of the document's, so that learners manage as many updates as there.

    Attributes:
        actions: ``"direct"``: samples and updates of all learners; ``"staleness"``: one of the
            ``caps``, under which the exact allocation is made; ``"joint"``: as the first, and the
            band's shares, transmit powers and CPU speeds.
        learning: ``"parallelized"``: the orchestrator has all samples and sends each learner its
            own, drawn anew, in every cycle; ``"federated"``: learners train on samples of theirs.
        task_share: The d samples of a cycle, as a share of all that there are.
        cycle_s: Length T of a global cycle, s.
        energy_limit_j: Mean energy E that a learner may spend in a cycle, J.
        energy_spread_j: Learners' limits E_k⁰ are uniform within E ± this, J.
        cycles: Global cycles of an episode.
        batch_size: Samples of a mini-batch.
        least_samples: d_l, the fewest samples of a learner that takes part, which the exact
            allocation and the rules keep; direct actions need not.
        most_updates: Most updates τ_k in a cycle.
        caps: Staleness caps c to choose from, for ``"staleness"``.
        cpu_groups_hz: Speeds f_k of groups of learners of (nearly) equal size, cycles a second, in
            the order of the learners; None draws them from ``cpu_hz``.
        fading: ``"none"``: rates follow from the distances; ``"cycle"``: channels also fade anew
            in each cycle (Rayleigh).
        drop_out: A learner's share of cycles in which its model does not arrive is uniform up to
            twice this, and at most 1, so that this is the mean up to one half.
        slowdown_probability: Share of cycles in which a learner's CPU is busy otherwise.
        slowdown: How many times slower it then computes; it sends what is ready in time.
        redundancy: How many learners, neighbours by index, train on the same samples: each of them
            on all that the group was given; a group counts if one of it arrives.
        model_bits: Bits of a model, P_m·S_m; None takes those of the network really trained.
        model_bits_per_sample: Bits by which it grows with each sample, P_m·S_d.
        sample_bits: Bits of a sample, F·P_d; None takes 8 for each feature.
        cycles_per_sample: CPU cycles of training on a sample, C_m; None takes ``cycles_per_flop``
            times the FLOPs of the network really trained.
        targets: Validation accuracies, ascending; the time to each is told.
    """

    image_size: int | None = 7
    hidden_sizes: tuple[int, ...] = (32,)
    partition: str = "iid"
    samples_per_device: int | None = 150
    size_spread: float = 0.0
    learning_rate: float = 0.1
    actions: str = "direct"
    learning: str = "parallelized"
    task_share: float = 1.0
    cycle_s: float = 10.0
    energy_limit_j: float = 10.0
    energy_spread_j: float = 2.5
    cycles: int = 12
    batch_size: int = 16
    least_samples: int = 5
    most_updates: int = 12
    caps: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    cpu_groups_hz: tuple[float, ...] | None = (6.0e9, 2.4e9, 1.4e9, 0.7e9)
    fading: str = "none"
    drop_out: float = 0.0
    slowdown_probability: float = 0.0
    slowdown: float = 2.0
    redundancy: int = 1
    model_bits: float | None = 8_974_080.0
    model_bits_per_sample: float = 0.0
    sample_bits: float | None = 125_440.0
    cycles_per_sample: float | None = 22_474_720.0
    targets: tuple[float, ...] = (0.8, 0.85, 0.9)

    def __post_init__(self) -> None:
        for name in ("caps", "cpu_groups_hz", "targets"):
            value = getattr(self, name)
            # A specification that travelled through JSON brings a list.
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        super().__post_init__()
        if self.bits != FULL_BITS or self.density != 1:
            raise ValueError(
                f"bits must be {FULL_BITS} and density 1, whole models are exchanged here, got "
                f"{self.bits} and {self.density}; model_bits says what a model takes on the air"
            )
        check_choice("actions", self.actions, ("direct", "staleness", "joint"))
        check_choice("learning", self.learning, ("parallelized", "federated"))
        check_number("task_share", self.task_share, 0, 1, open_low=True)
        check_number("cycle_s", self.cycle_s, 1e-9, 1e9)
        check_number("energy_limit_j", self.energy_limit_j, 1e-12, 1e9)
        check_number("energy_spread_j", self.energy_spread_j, 0, self.energy_limit_j)
        check_integer("cycles", self.cycles, 1, 1_000_000)
        check_integer("batch_size", self.batch_size, 1, 1_000_000)
        check_integer("least_samples", self.least_samples, 1, 1_000_000)
        if self.samples_per_device is not None:
            fewest = self.task_share * (1 - self.size_spread) * self.samples_per_device
            if self.least_samples > fewest:
                raise ValueError(
                    f"least_samples must be at most {fewest:g}, the fewest samples that "
                    "samples_per_device, size_spread and task_share leave for a learner, got "
                    f"{self.least_samples}"
                )
        check_integer("most_updates", self.most_updates, 1, 10_000)
        if len(self.caps) < 2 or list(self.caps) != sorted(set(self.caps)):
            raise ValueError(f"caps must be two or more that ascend, got {self.caps}")
        for cap in self.caps:
            check_integer("caps", cap, 0, 10_000)
        if self.cpu_groups_hz is not None:
            if not 1 <= len(self.cpu_groups_hz) <= self.n_devices:
                raise ValueError(
                    f"cpu_groups_hz must have 1 to n_devices = {self.n_devices} speeds, got "
                    f"{self.cpu_groups_hz}"
                )
            for speed in self.cpu_groups_hz:
                check_number("cpu_groups_hz", speed, 1, 1e15)
        check_choice("fading", self.fading, ("none", "cycle"))
        check_number("drop_out", self.drop_out, 0, 1)
        check_number("slowdown_probability", self.slowdown_probability, 0, 1)
        check_number("slowdown", self.slowdown, 1, 1e6)
        check_integer("redundancy", self.redundancy, 1, self.n_devices)
        if self.n_devices % self.redundancy:
            raise ValueError(
                f"redundancy must divide n_devices = {self.n_devices}, got {self.redundancy}"
            )
        if self.redundancy > 1 and self.actions != "direct":
            raise ValueError(f'redundancy needs actions="direct", got {shown(self.actions)}')
        for name in ("model_bits", "sample_bits"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 1, 1e12)
        if self.cycles_per_sample is not None:
            check_number("cycles_per_sample", self.cycles_per_sample, 1e-3, 1e15)
        check_number("model_bits_per_sample", self.model_bits_per_sample, 0, 1e9)
        if self.model_bits_per_sample and self.actions == "joint":
            raise ValueError('model_bits_per_sample must be 0 with actions="joint"')
        for target in self.targets:
            check_number("targets", target, 0, 1)
        if list(self.targets) != sorted(set(self.targets)):
            raise ValueError(f"targets must ascend, got {self.targets}")


def observation_tables(
    config: TaskAllocationConfig, model_s: float = 0.2, sample_s: float = 3e-3
) -> dict[str, ObservationTable]:
    """Return the columns of each part of the observation under ``config``.

    Args:
        config: The configuration.
        model_s: Typical seconds of a model's way there and back, for the columns' scaling.
        sample_s: Typical seconds of sending a sample, likewise.
    """
    k, limit_s, limit_j = config.n_devices, config.cycle_s, config.energy_limit_j
    share = config.task_share * (config.samples_per_device or 3000)
    # What one update of a fair share takes when three of them fill a cycle.
    update_s, update_j = limit_s / share / 3, limit_j / share / 3
    model_j = model_s / 2 * float(wireless.dbm_to_watt(config.transmit_power_dbm))

    def cost(name: str, unit: str, meaning: str, typical: float) -> Column:
        return Column(name, unit, 0, _MAX_SECONDS, meaning, typical, max(typical, 1e-9) / 2)

    devices = [
        Column("cpu_ghz", "GHz", 0, 1e6, "CPU speed f_k", 2.5, 2),
        Column("rate", "Mbit/s", 0, 1e6, "rate R_k in its own band", 30, 15),
        cost("base_s", "s", "C⁰: the model's way there and back", model_s),
        cost("sample_s", "s/sample", "C¹: sending a sample", sample_s),
        cost("update_s", "s/(sample·update)", "C²: computing", update_s),
        cost("base_j", "J", "G⁰: sending the model", model_j),
        cost("sample_j", "J/sample", "G¹: what the model grows with a sample", model_j),
        cost("update_j", "J/(sample·update)", "G²: computing", update_j),
        Column("limit_j", "J", 0, 1e9, "energy E_k⁰ of a cycle", limit_j, limit_j / 4),
        Column("own_samples", "sample", 0, 1e9, "samples that it can train on", share, share),
        Column(
            "log_room",
            "1",
            -_MAX_LOG,
            _MAX_LOG,
            "ln of its part in the relaxed synchronous optimum over a fair share",
            0,
            0.7,
        ),
        *(
            Column(
                f"log_room_{updates}",
                "1",
                -_MAX_LOG,
                _MAX_LOG,
                f"ln of D_k({updates}), samples on which it makes {updates}, over a fair share",
                centre,
                0.7,
            )
            for updates, centre in zip(_ROOMS, (1.2, 0.5, 0.1), strict=True)
        ),
        Column(
            "stronger_share",
            "1",
            0,
            1e6,
            "sum of the D_l(1) larger than its own, or equal and of earlier learners, over d",
            1.5,
            1.5,
        ),
        Column(
            "equal_updates",
            "update",
            0,
            1e6,
            "updates, not whole ones, that a fair share allows",
            3,
            2,
        ),
        Column("drop_out", "1", 0, 1, "share of cycles in which its model is lost", 0.1, 0.1),
        Column("arrivals", "1", 0, 1, "share of the cycles so far in which it arrived", 0.9, 0.2),
        Column("samples", "sample", 0, 1e9, "its last d_k", share, share),
        Column("updates", "update", 0, 1e6, "its last τ_k", 3, 2),
        Column("finish_s", "s", 0, 1e9, "when it finished last", limit_s, limit_s / 3),
    ]
    if config.actions == "joint":
        devices += [
            Column("band_share", "1", 0, 1, "its last share of the band", 1 / k, 1 / k),
            Column("power_share", "1", 0, 1, "its last power over its largest", 0.5, 0.4),
            Column("cpu_share", "1", 0, 1, "its last CPU speed over its largest", 0.7, 0.3),
        ]
    system = [
        Column("cycles_left", "cycle", 0, 1e9, "cycles left", config.cycles / 2, config.cycles / 4),
        Column("learners", "learner", 1, 1e9, "number of learners K", k, max(k, 1)),
        Column("samples", "sample", 1, 1e9, "samples d of a cycle", k * share, k * share / 2),
        Column("common_updates", "update", 0, 1e6, "the relaxed synchronous optimum τ", 3, 2),
        Column(
            *("mean_updates", "update", 0, 1e6),
            *("mean τ_k of the last cycle, 0 for what did not arrive", 3, 2),
        ),
        Column(
            *("staleness", "update", 0, 1e6),
            *("largest difference of the τ_k that arrived in it", 1, 1),
        ),
        Column("accuracy", "1", 0, 1, "validation accuracy", 0.8, 0.15),
        Column("loss", "nat", 0, MAX_LOSS, "validation loss", 0.7, 0.5),
        Column(
            "loss_slope",
            "nat/cycle",
            -MAX_LOSS,
            MAX_LOSS,
            "smoothed decrease of the loss",
            0.1,
            0.1,
        ),
    ]
    if config.actions == "staleness":
        for cap in config.caps:
            system += [
                Column(f"updates_{cap}", "update", 0, 1e6, f"mean τ_k under the cap {cap}", 3, 2),
                Column(f"work_{cap}", "update", 0, 1e6, f"the same weighted by d_k, {cap}", 3, 2),
            ]
    return {"devices": ObservationTable(*devices), "system": ObservationTable(*system)}


def direct_columns(tasks: Tasks, config: TaskAllocationConfig) -> NDArray[np.float32]:
    """Return the first two columns of the actions, ``(..., K, 2)``, that mean these tasks.

    Shares below exp(-6) of the largest one are raised to that, but for those that get none.
    """
    logits = _logits_of(tasks.samples)
    logits = np.where(tasks.samples > 0, np.maximum(logits, _LEAST_LOGIT), -1)
    updates = 2 * tasks.updates / config.most_updates - 1
    columns = [logits, np.clip(updates, -1, 1)]
    return np.stack(columns, axis=-1).astype(np.float32)


def joint_columns(
    tasks: Tasks, resources: Resources, limits: ResourceLimits, config: TaskAllocationConfig
) -> NDArray[np.float32]:
    """Return the actions, ``(..., K, 5)``, that mean these tasks and resources.

    Bands below exp(-6) of the largest one are raised to that.
    """
    power_db = wireless.linear_to_db(resources.power_w / limits.max_power_w, -POWER_RANGE_DB)
    cpu = (resources.cpu_hz / limits.max_cpu_hz - LEAST_CPU_SHARE) / (1 - LEAST_CPU_SHARE)
    columns = [
        _logits_of(resources.band_hz),
        np.clip(2 * (power_db / POWER_RANGE_DB + 1) - 1, -1, 1),
        np.clip(2 * cpu - 1, -1, 1),
    ]
    return np.concatenate(
        [direct_columns(tasks, config), np.stack(columns, axis=-1).astype(np.float32)], axis=-1
    )


def _logits_of(parts: ArrayLike) -> Float64Array:
    """Return logits ``(..., K)`` of parts, -1 of those that vanish beside the largest."""
    values = np.asarray(parts, np.float64)
    relative = values / np.maximum(values.max(axis=-1, keepdims=True), 1e-300)
    logits = 1 + np.log(np.maximum(relative, 1e-300)) / SHARE_EXPONENT
    return np.asarray(np.clip(logits, -1, 1))


def _apportion(logits: NDArray[Any], total: IntArray) -> IntArray:
    """Share whole samples out, ``(m, K)``; -1 means none, unless all are -1.

    Args:
        logits: ``(m, K)``.
        total: Their sum, ``(m,)``.
    """
    values = np.asarray(logits, np.float64)
    weights = np.where(values > -1, np.exp(SHARE_EXPONENT * values), 0.0)
    weights = np.where(weights.any(axis=1, keepdims=True), weights, 1.0)
    quota = total[:, None] * weights / weights.sum(axis=1, keepdims=True)
    samples = np.floor(quota).astype(np.int64)
    rank = np.argsort(np.argsort(samples - quota, axis=1, kind="stable"), axis=1, kind="stable")
    return np.asarray(samples + (rank < (total - samples.sum(axis=1))[:, None]))


def task_costs(config: TaskAllocationConfig, **columns: ArrayLike) -> TaskCosts:
    """Return what tasks cost, from columns of the observation; arrays are ``(..., K)``.

    Args:
        config: The configuration.
        **columns: ``base_s``, ``sample_s``, ``update_s``, ``base_j``, ``sample_j``, ``update_j``,
            ``limit_j`` and ``own_samples``.

    Source: ASYNC-MEL eqs. (10), (11).
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


class TaskAllocation(FederatedLearning):
    """Task allocation for many lanes; see ``TaskAllocationEnv``."""

    config: TaskAllocationConfig
    config_type = TaskAllocationConfig
    path_loss = (128.0, 3.71)
    documented_tables: ClassVar[dict[str, ObservationTable]] = observation_tables(
        TaskAllocationConfig()
    )
    lane_arrays = (
        *FederatedLearning.lane_arrays,
        "_limit_j",
        "_absence",
        "_gain",
        "_total",
        "_choices",
        "_samples",
        "_updates",
        "_finish_s",
        "_spent_j",
        "_resources",
        "_arrived",
        "_mean_updates",
        "_staleness",
        "_joules",
        "_updates_sum",
        "_staleness_sum",
        "_target_cycle",
        "_reached",
    )

    def __init__(self, config: TaskAllocationConfig, n_lanes: int) -> None:
        super().__init__(config, n_lanes, config.cycles)
        k = config.n_devices
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
                "devices": self.tables["devices"].space(k),
                "system": self.tables["system"].space(),
            }
        )
        self.action_space: spaces.Space[Any]
        self.actions_per = "device"
        if config.actions == "staleness":
            self.action_space = spaces.Discrete(len(config.caps))
            self.actions_per = "system"
        else:
            columns = 2 if config.actions == "direct" else 5
            self.action_space = spaces.Box(-1, 1, (k, columns), np.float32)
        # A lane that was never reset is observed too, with speeds and rates that divide.
        self._cpu_hz[:] = 1.0
        self._mean_snr[:] = 1.0
        fades = config.cycles + 1 if config.fading == "cycle" else 1
        self._gain = np.ones((n_lanes, fades, k))
        self._limit_j = np.full((n_lanes, k), config.energy_limit_j)
        self._absence = np.zeros((n_lanes, k))
        self._total = np.ones(n_lanes, np.int64)
        # Samples and updates of each learner under each cap, where one of these is chosen.
        caps = len(config.caps) if config.actions == "staleness" else 0
        self._choices = np.zeros((n_lanes, caps, 2, k), np.int64)
        # What the last cycle did.
        self._samples = np.zeros((n_lanes, k), np.int64)
        self._updates = np.zeros((n_lanes, k), np.int64)
        self._finish_s = np.zeros((n_lanes, k))
        self._spent_j = np.zeros((n_lanes, k))
        # Share of the band, of the power and of the CPU's speed.
        self._resources = np.zeros((n_lanes, 3, k))
        self._mean_updates = np.zeros(n_lanes)
        self._staleness = np.zeros(n_lanes)
        # Of the episode so far.
        self._arrived = np.zeros((n_lanes, k), np.int64)
        self._joules = np.zeros((n_lanes, k))
        self._updates_sum = np.zeros(n_lanes)
        self._staleness_sum = np.zeros(n_lanes)
        self._target_cycle = np.zeros((n_lanes, len(config.targets)))
        self._reached = np.zeros((n_lanes, len(config.targets)), np.bool_)

    def reset_lanes(self, lanes: IntArray) -> dict[str, NDArray[Any]]:
        """Draw the system, what it may spend and the model; the first cycle begins."""
        config, k = self.config, self.config.n_devices
        for lane in lanes:
            self._draw_system(lane, config.redundancy)
            if config.cpu_groups_hz is not None:
                self._cpu_hz[lane] = of_groups(config.cpu_groups_hz, k)
            rng = self.generators[lane]
            spread = config.energy_spread_j * rng.uniform(-1, 1, k)
            self._limit_j[lane] = config.energy_limit_j + spread
            self._absence[lane] = np.minimum(2 * config.drop_out * rng.random(k), 1)
            # At once, so that a cycle's fading does not depend on the tasks before it.
            if config.fading == "cycle":
                self._gain[lane] = wireless.rayleigh_gain(rng, self._gain.shape[1:])
        held = self._sizes[lanes].sum(axis=1) // config.redundancy
        self._total[lanes] = np.maximum(np.rint(config.task_share * held), 1)
        for array in (
            self._samples,
            self._updates,
            self._finish_s,
            self._spent_j,
            self._resources,
            self._mean_updates,
            self._staleness,
            self._arrived,
            self._joules,
            self._updates_sum,
            self._staleness_sum,
            self._reached,
        ):
            array[lanes] = 0
        self._target_cycle[lanes] = config.cycles
        info = self._begin_learning(lanes)
        self._note_targets(lanes)
        self._begin_cycle(lanes)
        return info

    def step_lanes(self, lanes: IntArray, actions: NDArray[Any]) -> Step:
        """Let learners train as the actions say, average what arrives, begin the next cycle."""
        config = self.config
        given, wanted, resources = self._decide(lanes, actions)
        held = self._held(lanes, given)
        planned = np.minimum(wanted, self._possible(lanes, held, resources))
        draws = np.stack([self.generators[lane].random((2, config.n_devices)) for lane in lanes])
        slower = np.where(draws[:, 1] < config.slowdown_probability, config.slowdown, 1.0)
        done = np.minimum(planned, self._possible(lanes, held, resources, slower))
        arrived = (done > 0) & (draws[:, 0] >= self._absence[lanes])
        self._learn(lanes, given, held, done, arrived)

        seconds, joules = self._needs(lanes, held, done, resources, slower)
        seconds, joules = self._unfinished(lanes, held, done, resources, slower, seconds, joules)
        taking_part = planned > 0
        updates = np.where(arrived, done, 0)
        staleness = np.where(
            arrived.any(axis=1),
            np.where(arrived, done, 0).max(axis=1)
            - np.where(arrived, done, config.most_updates).min(axis=1),
            0,
        )
        self._samples[lanes], self._updates[lanes] = held, done
        self._finish_s[lanes] = np.where(taking_part, seconds, 0)
        self._spent_j[lanes] = np.where(taking_part, joules, 0)
        self._joules[lanes] += self._spent_j[lanes]
        self._arrived[lanes] += arrived
        self._mean_updates[lanes], self._staleness[lanes] = updates.mean(axis=1), staleness
        self._updates_sum[lanes] += updates.mean(axis=1)
        self._staleness_sum[lanes] += staleness
        over = self._round[lanes] + 1 >= config.cycles
        reward, info, final_info = self._end_round(lanes, over)
        self._note_targets(lanes)
        self._begin_cycle(lanes)
        cycles = self._round[lanes].astype(np.float64)
        info["cycles"] = info.pop("rounds")
        learned = np.where(arrived, held, 0)
        info |= {
            "seconds": cycles * config.cycle_s,
            "joules": self._joules[lanes].sum(axis=1),
            "cycle_j": self._spent_j[lanes].sum(axis=1),
            "finish_s": self._finish_s[lanes].max(axis=1),
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
            "mean_updates": self._updates_sum[lanes] / cycles,
            "mean_staleness": self._staleness_sum[lanes] / cycles,
        }
        for i, target in enumerate(config.targets):
            at = self._target_cycle[lanes, i]
            final_info[f"cycles_to_{100 * target:g}"] = at
            final_info[f"seconds_to_{100 * target:g}"] = at * config.cycle_s
            final_info[f"reached_{100 * target:g}"] = self._reached[lanes, i].astype(np.float64)
        return Step(reward, over, np.zeros_like(over), info, final_info)

    def observe(self) -> dict[str, NDArray[np.float32]]:
        """Return the learners and the system."""
        config, lanes = self.config, np.arange(self.n_lanes)
        costs, total = self._costs(lanes), self._total
        fair = total[:, None] / config.n_devices
        common = self._common_updates(costs)

        def log_room(updates: ArrayLike) -> Float64Array:
            room = costs.capacity(np.maximum(updates, 1e-6))
            return np.asarray(np.log(np.maximum(room / fair, np.exp(-_MAX_LOG))))

        passed = np.maximum(self._round, 1)[:, None]
        devices = {
            "cpu_ghz": self._cpu_hz / 1e9,
            "rate": self._rate(lanes) / 1e6,
            "base_s": costs.base_s,
            "sample_s": costs.sample_s,
            "update_s": costs.update_s,
            "base_j": costs.base_j,
            "sample_j": costs.sample_j,
            "update_j": costs.update_j,
            "limit_j": self._limit_j,
            "own_samples": self._own_samples(lanes),
            "log_room": log_room(common[:, None]),
            **{f"log_room_{updates}": log_room(updates) for updates in _ROOMS},
            "stronger_share": _stronger(costs.capacity(1.0)) / total[:, None],
            "equal_updates": _real_updates(costs, fair),
            "drop_out": self._absence,
            "arrivals": np.where(self._round[:, None] > 0, self._arrived / passed, 1.0),
            "samples": self._samples,
            "updates": self._updates,
            "finish_s": self._finish_s,
        }
        for i, name in enumerate(("band_share", "power_share", "cpu_share")):
            if name in self.tables["devices"]:
                devices[name] = self._resources[:, i]
        system = {
            "cycles_left": config.cycles - self._round,
            "learners": np.full(self.n_lanes, config.n_devices),
            "samples": total,
            "common_updates": common,
            "mean_updates": self._mean_updates,
            "staleness": self._staleness,
            "accuracy": self._accuracy,
            "loss": self._loss,
            "loss_slope": self._loss_slope,
        }
        for i in range(self._choices.shape[1]):
            samples, updates = self._choices[:, i, 0], self._choices[:, i, 1]
            system[f"updates_{config.caps[i]}"] = updates.mean(axis=1)
            system[f"work_{config.caps[i]}"] = (samples * updates).sum(axis=1) / np.maximum(
                samples.sum(axis=1), 1
            )
        return {
            "devices": self.tables["devices"].fill(devices),
            "system": self.tables["system"].fill(system),
        }

    def scene(self, lane: int) -> Scene:
        """Show samples, updates, times, energies and the accuracy over cycles."""
        config, cycles = self.config, int(self._round[lane])
        labels = self._device_labels()
        shown = len(labels)

        def bars(title: str, values: NDArray[Any], label: str, **more: Any) -> BarPanel:
            return BarPanel(
                title=title,
                labels=labels,
                series={"": values[:shown]},
                x_label="learner",
                y_label=label,
                **more,
            )

        limit_s = np.full(shown, config.cycle_s)
        return Scene(
            title=f"Cycle {cycles}: {100 * self._accuracy[lane]:.1f} % validation accuracy",
            text=(
                f"{cycles * config.cycle_s:g} s   ·   {self._joules[lane].sum():.0f} J   ·   "
                f"last cycle {self._updates[lane].mean():.1f} updates on average"
            ),
            panels=(
                (
                    bars("Samples", self._samples[lane], "samples"),
                    bars("Local updates", self._updates[lane], "updates"),
                    bars("Finished after", self._finish_s[lane], "s", targets={"T": limit_s}),
                    bars(
                        "Energy",
                        self._spent_j[lane],
                        "J",
                        targets={"limit": self._limit_j[lane, :shown]},
                    ),
                ),
                (
                    self._accuracy_panel(
                        lane, np.arange(cycles + 1), "global cycles", (0, config.cycles)
                    ),
                    GaugePanel(
                        title="Cycles left",
                        value=config.cycles - cycles,
                        maximum=config.cycles,
                        unit="",
                    ),
                ),
            ),
        )

    def _begin_cycle(self, lanes: IntArray) -> None:
        """Find out what each cap would mean, where one of them is chosen."""
        config = self.config
        # Without fading the allocations are those of the first cycle.
        if not self._choices.shape[1] or (config.fading == "none" and self._round[lanes].any()):
            return
        costs = self._costs(lanes)
        for i, cap in enumerate(config.caps):
            tasks = exact_allocation(
                costs, self._total[lanes], cap, config.least_samples, config.most_updates
            )
            self._choices[lanes, i] = np.stack([tasks.samples, tasks.updates], axis=1)

    def _decide(
        self, lanes: IntArray, actions: NDArray[Any]
    ) -> tuple[IntArray, IntArray, Resources | None]:
        """Return samples and wanted updates, ``(m, K)``, and the resources that are chosen."""
        config = self.config
        if config.actions == "staleness":
            chosen = self._choices[lanes, actions]
            return chosen[:, 0], chosen[:, 1], None
        given = _apportion(actions[..., 0], self._total[lanes])
        wanted = np.rint((actions[..., 1].astype(np.float64) + 1) / 2 * config.most_updates)
        if config.actions == "direct":
            return given, wanted.astype(np.int64), None
        bands = np.exp(SHARE_EXPONENT * actions[..., 2].astype(np.float64))
        bands /= bands.sum(axis=1, keepdims=True)
        high = (actions[..., 3:].astype(np.float64) + 1) / 2
        power = wireless.db_to_linear(POWER_RANGE_DB * (high[..., 0] - 1))
        cpu = LEAST_CPU_SHARE + (1 - LEAST_CPU_SHARE) * high[..., 1]
        self._resources[lanes] = np.stack([bands, power, cpu], axis=1)
        limits = self._limits(lanes)
        resources = Resources(
            bands * limits.band_hz[..., None], power * limits.max_power_w, cpu * limits.max_cpu_hz
        )
        return given, wanted.astype(np.int64), resources

    def _held(self, lanes: IntArray, given: IntArray) -> IntArray:
        """Return the samples that each learner trains on, ``(m, K)``: all of its group's."""
        config = self.config
        groups = given.reshape(len(lanes), -1, config.redundancy).sum(axis=2)
        held = np.repeat(groups, config.redundancy, axis=1)
        return np.minimum(held, self._sizes[lanes]) if config.learning == "federated" else held

    def _possible(
        self,
        lanes: IntArray,
        held: IntArray,
        resources: Resources | None,
        slower: Float64Array | float = 1.0,
    ) -> IntArray:
        """Return the most updates that time and energy allow, ``(m, K)``."""
        if resources is None:
            costs = self._costs(lanes)
            return replace(costs, update_s=costs.update_s * slower).max_updates(held)
        slowed = resources._replace(cpu_hz=resources.cpu_hz / slower)
        return task_resources.max_updates(self._limits(lanes), held, slowed)

    def _needs(
        self,
        lanes: IntArray,
        held: IntArray,
        updates: IntArray,
        resources: Resources | None,
        slower: Float64Array,
    ) -> tuple[Float64Array, Float64Array]:
        """Return the seconds and joules of these tasks, ``(m, K)`` each."""
        if resources is None:
            costs = self._costs(lanes)
            return replace(costs, update_s=costs.update_s * slower).needs(held, updates)
        limits = self._limits(lanes)
        slowed = resources._replace(cpu_hz=resources.cpu_hz / slower)
        seconds, _ = task_resources.needs(limits, held, updates, slowed)
        # A CPU that is busy otherwise works as fast as ever, for others too.
        _, joules = task_resources.needs(limits, held, updates, resources)
        return seconds, joules

    def _unfinished(
        self,
        lanes: IntArray,
        held: IntArray,
        done: IntArray,
        resources: Resources | None,
        slower: Float64Array,
        seconds: Float64Array,
        joules: Float64Array,
    ) -> tuple[Float64Array, Float64Array]:
        """Return seconds and joules, ``(m, K)`` each, with those of learners without an update.

        A learner that finishes no update sends nothing, but has computed until it was too late.
        """
        failed = done == 0
        if not failed.any():
            return seconds, joules
        (one_s, one_j), (two_s, two_j) = (
            self._needs(lanes, held, np.full_like(done, updates), resources, slower)
            for updates in (1, 2)
        )
        update_s, update_j = two_s - one_s, two_j - one_j
        # What the model's way in both directions and that of the samples leave.
        left_s = self.config.cycle_s - (one_s - update_s)
        part = np.divide(left_s, update_s, out=np.zeros(left_s.shape), where=update_s > 0)
        spent_j = np.clip(part, 0, 1) * update_j
        return np.where(failed, self.config.cycle_s, seconds), np.where(failed, spent_j, joules)

    def _learn(
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
            self._draw_tasks(lane, own, all_of_group)
            for lane, own, all_of_group in zip(lanes, given, held, strict=True)
        ]
        rows, counts = pad_rows(parts)
        vectors, _ = self.learner.local_updates(
            lanes,
            rows,
            np.where(arrived, counts, 0),
            [self.generators[lane] for lane in lanes],
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            epochs=np.where(arrived, updates, 0),
        )
        groups = arrived.reshape(len(lanes), -1, config.redundancy).sum(axis=2)
        copies = np.repeat(np.maximum(groups, 1), config.redundancy, axis=1)
        self.learner.add(lanes, average(vectors, counts / copies, arrived))

    def _draw_tasks(self, lane: int, given: IntArray, held: IntArray) -> list[IntArray]:
        """Draw the rows of each learner's samples for a cycle."""
        config, rng = self.config, self.generators[lane]
        sizes, r = self._sizes[lane], config.redundancy
        tasks: list[IntArray] = []
        if config.learning == "federated":
            for first in range(0, config.n_devices, r):
                own = self._rows[lane, first, : sizes[first]]
                tasks += [rng.permutation(own)[: held[first]]] * r
            return tasks
        every = np.concatenate(
            [self._rows[lane, k, : sizes[k]] for k in range(0, config.n_devices, r)]
        )
        ends = np.cumsum(given)[r - 1 :: r]
        for part in np.split(rng.permutation(every), ends)[: len(ends)]:
            tasks += [part] * r
        return tasks

    def _note_targets(self, lanes: IntArray) -> None:
        reached = self._accuracy[lanes, None] >= np.array(self.config.targets)
        new = reached & ~self._reached[lanes]
        now = self._round[lanes, None]
        self._target_cycle[lanes] = np.where(new, now, self._target_cycle[lanes])
        self._reached[lanes] |= reached

    def _rate(self, lanes: IntArray) -> Float64Array:
        """Return rates in a learner's fair band, in both directions, bit/s, ``(m, K)``."""
        now = self._round[lanes] % self._gain.shape[1]
        snr = self._mean_snr[lanes] * self._gain[lanes, now]
        return np.maximum(wireless.shannon_rate(self.config.bandwidth_hz, snr), _LEAST_RATE)

    def _own_samples(self, lanes: IntArray) -> Float64Array:
        """Return how many samples each learner can train on at most, ``(m, K)``."""
        if self.config.learning == "federated":
            return self._sizes[lanes].astype(np.float64)
        return np.broadcast_to(self._total[lanes, None], (len(lanes), self.config.n_devices))

    def _costs(self, lanes: IntArray) -> TaskCosts:
        config, rate = self.config, self._rate(lanes)
        power_w = float(wireless.dbm_to_watt(config.transmit_power_dbm))
        sample_bits = self._sample_bits if config.learning == "parallelized" else 0.0
        cpu_hz = self._cpu_hz[lanes]
        return task_costs(
            config,
            base_s=2 * self._model_bits / rate,
            sample_s=(sample_bits + 2 * config.model_bits_per_sample) / rate,
            update_s=cpu_latency(self._cycles_per_sample, cpu_hz),
            base_j=power_w * self._model_bits / rate,
            sample_j=power_w * config.model_bits_per_sample / rate,
            update_j=cpu_energy(self._cycles_per_sample, cpu_hz, config.capacitance),
            limit_j=self._limit_j[lanes],
            own_samples=self._own_samples(lanes),
        )

    def _limits(self, lanes: IntArray) -> ResourceLimits:
        costs = self._costs(lanes)
        return resource_limits(
            self.config,
            rate=self._rate(lanes) / 1e6,
            cpu_ghz=self._cpu_hz[lanes] / 1e9,
            base_s=costs.base_s,
            sample_s=costs.sample_s,
            update_s=costs.update_s,
            limit_j=costs.limit_j,
            own_samples=costs.max_samples,
        )

    def _common_updates(self, costs: TaskCosts) -> Float64Array:
        """Return the relaxed synchronous optimum τ of those who can take part, ``(m,)``."""
        least = self.config.least_samples
        able = costs.capacity(1.0) >= least
        # The others hold the least for nothing, and as much more is to be held.
        free = {name: np.where(able, getattr(costs, name), 0.0) for name in _LIMITED}
        held = np.where(able, costs.max_samples, least)
        total = self._total + least * (~able).sum(axis=1)
        common = relaxed_updates(replace(costs, **free, max_samples=held), total, least)
        return np.minimum(common, self.config.most_updates)


def _stronger(rooms: Float64Array) -> Float64Array:
    """Return the sum of the rooms of those with more room, or as much and before, ``(m, K)``."""
    order = np.argsort(-rooms, axis=1, kind="stable")
    ranked = np.take_along_axis(rooms, order, axis=1)
    stronger = np.empty(rooms.shape)
    np.put_along_axis(stronger, order, np.cumsum(ranked, axis=1) - ranked, axis=1)
    return stronger


def _real_updates(costs: TaskCosts, samples: Float64Array) -> Float64Array:
    """Return the updates, not whole ones, that so many samples allow."""
    left_s = costs.cycle_s - costs.base_s - costs.sample_s * samples
    left_j = costs.limit_j - costs.base_j - costs.sample_j * samples
    ratios = [
        np.divide(left, costs_of * samples, out=np.full(left.shape, np.inf), where=costs_of > 0)
        for left, costs_of in ((left_s, costs.update_s), (left_j, costs.update_j))
    ]
    return np.asarray(np.maximum(np.minimum(*ratios), 0))


class TaskAllocationEnv(EdgeEnv):
    """How many samples does each learner get in this global cycle, and how often does it go over?

    ## Description
    In every global cycle of T seconds the orchestrator sends its model to K learners; learner k
    trains τ_k epochs of mini-batch SGD on d_k samples (an epoch is called an update), sends its
    model back, and the orchestrator averages what arrives with weights d_k, (3). In parallelized
    learning (PL) the orchestrator owns the samples, shuffles them and sends each learner its part
    in every cycle; in federated learning (FL) learners draw from samples of their own. Learners
    differ in CPU speed, rate and energy, and

    - time (11): C²·τ_k·d_k + C¹·d_k + C⁰ ≤ T,
    - energy (10): G²·τ_k·d_k + G¹·d_k + G⁰ ≤ E_k⁰,

    with C² = C_m/f_k, C¹ = F·P_d/R_k (0 in FL), C⁰ = 2·P_m·S_m/R_k, G² = κ·C_m·f_k², G¹ = 0 and
    G⁰ = P·P_m·S_m/R_k (a model that grows with samples adds to C¹ and G¹). All of it is really
    trained. Learners whose τ_k is 0 are left out of the average and of
    the staleness.

    A learner receives, computes and sends one after the other, and the next cycle begins at T, so
    that nothing is used twice at a time. The model's way takes time in both directions, samples'
    one way; receiving takes no energy, and the orchestrator's is not counted. What costs nothing:
    what it must be told of learners, the tasks that it sends them, and the average.

    Where models are lost (``drop_out``) or CPUs busy (``slowdown_probability``), a learner's model
    does not arrive, or it sends what was ready after as many updates as time allowed. Every cycle
    takes T, whoever answers in it. Who is lost has spent the energy of its updates and of sending
    them; who finishes no update that it had time for has computed until T, and sends nothing. With
    ``redundancy`` several learners train on the same samples, and one of them is enough.

    ## Action Space
    - ``actions="direct"`` (``TaskAllocation-v0``): ``Box(-1, 1, (K, 2))``. The first column ℓ
      shares the d samples out in proportion to exp(3ℓ), whole ones; -1 means none. The second goes
      linearly from no update to ``most_updates``, rounded.
    - ``actions="staleness"`` (``TaskAllocationStaleness-v0``): ``Discrete``, one of the ``caps`` c
      on the difference of any two τ_k, under which their mean is as large as it can be, (16).
    - ``actions="joint"`` (``JointTaskResource-v0``): ``Box(-1, 1, (K, 5))``. After the two columns
      of the direct actions: the band of K·``bandwidth_hz`` is shared, the same way in both
      directions, in proportion to exp(3ℓ); the transmit power goes from 30 dB below the largest up
      to that; the CPU's speed linearly from a twentieth of the full one up to that. A learner
      receives at the orchestrator's constant power density, and sends at w·log₂(1 + p·h/(N₀·w)) in
      its w Hz.

    An action beyond a learner's limits is projected: τ_k is lowered to what d_k (and the resources)
    allow, and in FL d_k to the learner's samples. ``info`` has ``lowered`` and ``left_out``.

    ## Observation Space
    A ``Dict`` of ``devices`` (K, F_d), the learners, and ``system`` (G,). Bounds are those of the
    default configuration. What is of the last cycle is 0 in the first one. Rates are those of the
    cycle that begins; with ``actions="joint"`` rate and costs are those at a fair share of the
    band, the largest power and the full speed. ``actions="staleness"`` adds to the system, for
    each cap c, the mean ``updates_c`` that it allows and ``work_c``, the same weighted by d_k.
    ``actions="joint"`` adds each learner's last ``band_share``, ``power_share`` and ``cpu_share``.

    ``devices``:

    {devices_table}

    ``system``:

    {system_table}

    ## Rewards
    The gain in validation accuracy of the cycle, so that an episode's return is exactly the final
    minus the initial validation accuracy; with ``reward="loss"`` the decrease of the validation
    loss. Validation samples are never trained on; test accuracy is only reported.

    ## Starting State
    Each episode draws a split of the data, the learners' places, energy limits and drop-outs, the
    fading of all cycles and the untrained model. Speeds are the same in every episode, unless
    ``cpu_groups_hz`` is None.

    ## Episode End
    Terminates after ``cycles`` global cycles. The last ``info`` adds ``test_accuracy``,
    ``total_gain``, ``total_loss_decrease``, the episode's ``mean_updates`` (over all cycles and
    learners, 0 where nothing arrived) and ``mean_staleness``, and for each target accuracy
    ``cycles_to_NN`` and ``seconds_to_NN`` (of validation accuracy; ``cycles`` where it was not
    reached) and ``reached_NN``, 1 or 0.

    ## Information
    ``validation_accuracy``, ``accuracy_gain``, ``validation_loss``, ``loss_decrease``, ``cycles``,
    ``seconds`` and the learners' ``joules`` so far, ``cycle_j``, ``finish_s`` (when the last
    learner was ready), ``updates`` (mean of τ_k, 0 for what did not arrive),
    ``weighted_updates`` (of what arrived, by d_k), ``staleness`` (largest difference among what
    arrived), ``lowered`` (learners whose τ_k was lowered), ``left_out`` (learners without samples
    or updates), ``arrived``, ``samples`` (that were learned from, copies counted); with
    ``track_test`` also ``test_accuracy``.

    ## Arguments
    The fields of ``TaskAllocationConfig``, by name or as ``config=``.

    ## References
    ASYNC-MEL §2, §3 and Table 1, (8) corrected to κ·C_m·d_k·f_k² with κ = 1e-28; MEL on task
    adaptation, joint task and resource optimisation, and risk mitigation. P_d = 8 bits is not in
    the text. E_k⁰ is drawn once an episode.

    ## Version History
    - v0: first version.
    """

    problem_type = TaskAllocation


class TaskAllocationVectorEnv(EdgeVectorEnv):
    """Many lanes of ``TaskAllocationEnv`` at a time; lane i seeded s + i equals it."""

    problem_type = TaskAllocation
