"""Scheduling for federated edge learning: whose update is worth its air time?

Source: Wen et al. 2019 §5; Sorour et al. 2020 on risk mitigation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from edge_gym.core.env import EdgeEnv
from edge_gym.core.observation import Column, ObservationTable
from edge_gym.core.problem import Step
from edge_gym.core.scene import BarPanel, GaugePanel, Scene, acted_on
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.envs.federated import MAX_LOSS, FederatedConfig, FederatedLearning, bounded
from edge_gym.learning.federated import average
from edge_gym.physics import compute, wireless
from edge_gym.physics.sharing import jain_index
from edge_gym.runtime.checks import check_choice, check_integer, check_number
from edge_gym.typing import BoolArray, IntArray

MODES = ("importance", "lazy")
INDICATORS = ("reported", "remembered", "free")
SHARE_EXPONENT = 4.0
"""An agent that shares the band gives shares in proportion to exp(4ℓ), ℓ in [-1, 1]."""
MEMORY_ROUNDS = 10
"""Rounds over which the observed throughput is smoothed."""
_MAX_NORM = 1e6
_MAX_LOG = 30.0
# What is smaller is nothing but rounding.
_LEAST_LOG = -10.0


@dataclass(frozen=True, kw_only=True)
class UpdateSchedulingConfig(FederatedConfig):
    """Settings of the update scheduling problem; further fields are ``FederatedConfig``'s.

    Attributes:
        mode: ``"importance"`` (Wen et al. 2019 §5.2.1): by norms of what devices compute, within a
            budget of time; ``"lazy"`` (Wen et al. 2019 §5.2.2): by model ages, only scheduled
            devices compute, within a budget of energy.
        indicators: How the server comes to know norms, for ``mode="importance"``.
            ``"reported"``: all devices that take part compute and report before it decides.
            ``"remembered"``: only scheduled devices compute, and it decides by the norms that came
            with their last uploads that arrived. ``"free"``: an oracle that no server could have;
            norms and computing times of the round are known before any device has computed.
        report_bits: Bits of a device's report.
        participation: Whether the ``"agent"`` says who takes part in the next round, where scores
            are given and indicators are reported; elsewhere, and with ``"all"``, all devices do.
        broadcast: Each round begins with the model sent to all devices that need it at the rate of
            the ``"weakest"`` of them, or ``"free"``, without taking time.
        downlink_power_dbm: The server's transmit power, dBm.
        update: What is computed: the ``"gradient"`` on all of a device's samples, or a
            ``"model"`` trained for ``local_epochs``.
        local_epochs: Epochs of local training, for ``update="model"``.
        batch_size: Samples of a local mini-batch, for ``update="model"``.
        actions: ``"scores"`` of all devices, or one ``"device"`` a round.
        selection: Which scores are scheduled: the ``"top"`` ``uploads_per_round``, or all above
            the ``"threshold"`` 0 (the largest one at least).
        uploads_per_round: Devices scheduled in a round, M, for ``selection="top"``.
        bandwidth: How the band is shared among the scheduled: ``"finish"``: so that all finish at
            the same time (Wen et al. 2019 §5.1), ``"equal"``, or by the ``"agent"``.
        budget_s: Simulated seconds of an episode, for ``mode="importance"``.
        budget_j: Energy of all devices in an episode, J, for ``mode="lazy"``.
        max_rounds: Rounds after which an episode is truncated.
        slowdown_probability: Probability that a device computes slowly in a round (straggler).
        slowdown: How many times longer it then takes.
        packet_error: Largest probability that a device's upload is lost; each device has its own,
            uniform up to this.
        drop_out: Largest probability that a scheduled device, having computed, does not answer in
            a round; each device has its own. It then uses no air time.
        redundancy: Devices that hold the same samples, r: of the K devices, r neighbours share r
            devices' samples, each computes on all of them, and the server counts them once if any
            of the r updates arrives (Sorour et al. 2020, coded redundancy by repetition). r divides
            K.
    """

    mode: str = "importance"
    indicators: str = "reported"
    report_bits: int = 32
    participation: str = "agent"
    broadcast: str = "weakest"
    downlink_power_dbm: float = 46.0
    update: str = "model"
    local_epochs: int = 1
    batch_size: int = 16
    actions: str = "scores"
    selection: str = "threshold"
    uploads_per_round: int = 3
    bandwidth: str = "finish"
    budget_s: float = 0.6
    budget_j: float = 0.1
    max_rounds: int = 200
    slowdown_probability: float = 0.1
    slowdown: float = 4.0
    packet_error: float = 0.0
    drop_out: float = 0.0
    redundancy: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("mode", self.mode, MODES)
        check_choice("indicators", self.indicators, INDICATORS)
        check_integer("report_bits", self.report_bits, 0, 10**6)
        check_choice("participation", self.participation, ("all", "agent"))
        check_choice("broadcast", self.broadcast, ("weakest", "free"))
        check_number("downlink_power_dbm", self.downlink_power_dbm, -50, 60)
        check_choice("update", self.update, ("gradient", "model"))
        check_integer("local_epochs", self.local_epochs, 1, 10_000)
        check_integer("batch_size", self.batch_size, 1)
        check_choice("actions", self.actions, ("scores", "device"))
        check_choice("selection", self.selection, ("top", "threshold"))
        chosen = self.actions == "scores" and self.selection == "top"
        check_integer(
            "uploads_per_round", self.uploads_per_round, 1, self.n_devices if chosen else None
        )
        check_choice("bandwidth", self.bandwidth, ("finish", "equal", "agent"))
        check_number("budget_s", self.budget_s, 1e-9, 1e9)
        check_number("budget_j", self.budget_j, 1e-12, 1e9)
        check_integer("max_rounds", self.max_rounds, 1, 10**6)
        check_number("slowdown_probability", self.slowdown_probability, 0, 1)
        check_number("slowdown", self.slowdown, 1, 1e6)
        check_number("packet_error", self.packet_error, 0, 1)
        check_number("drop_out", self.drop_out, 0, 1)
        check_integer("redundancy", self.redundancy, 1, self.n_devices)
        if self.n_devices % self.redundancy:
            raise ValueError(
                f"redundancy must divide n_devices = {self.n_devices}, got {self.redundancy}"
            )
        if self.bandwidth == "agent" and self.actions == "device":
            raise ValueError("bandwidth 'agent' needs actions = 'scores': one device has all of it")

    @property
    def budget(self) -> float:
        """Budget of an episode, in seconds or joules as the mode has it."""
        return self.budget_s if self.mode == "importance" else self.budget_j

    @property
    def knowledge(self) -> str:
        """How the server comes to know indicators: as ``indicators`` says, or ``"lazy"``."""
        return self.indicators if self.mode == "importance" else "lazy"

    @property
    def agent_chooses_participants(self) -> bool:
        """Whether actions say who takes part in the next round."""
        reported = self.knowledge == "reported" and self.actions == "scores"
        return reported and self.participation == "agent"


class Decision(NamedTuple):
    """What a continuous action says of devices; arrays of one shape ``(..., K)``.

    Attributes:
        scores: Who uploads; see ``scheduled_of``.
        band: Logits ℓ of the shares of the band, exp(4ℓ); None where actions have none.
        participation: Who takes part in the next round; see ``participants_of``. None where
            actions do not say.
    """

    scores: NDArray[Any]
    band: NDArray[Any] | None = None
    participation: NDArray[Any] | None = None


def action_columns(config: UpdateSchedulingConfig) -> tuple[str, ...]:
    """Return the names of an action's columns, fields of ``Decision``, in their order."""
    columns = ["scores"]
    if config.bandwidth == "agent":
        columns.append("band")
    if config.agent_chooses_participants:
        columns.append("participation")
    return tuple(columns)


def decision_of(actions: NDArray[Any], config: UpdateSchedulingConfig) -> Decision:
    """Read continuous actions, ``(..., K)`` or, with several columns, ``(..., K, columns)``."""
    columns = action_columns(config)
    if len(columns) == 1:
        return Decision(actions)
    return Decision(**{name: actions[..., i] for i, name in enumerate(columns)})


def action_of(decision: Decision, config: UpdateSchedulingConfig) -> NDArray[np.float32]:
    """Return the actions that say this; what they have no column for is left out."""
    parts = [getattr(decision, name) for name in action_columns(config)]
    if len(parts) == 1:
        return np.asarray(parts[0], np.float32)
    return np.stack([np.asarray(part, np.float32) for part in parts], axis=-1)


def scheduled_of(
    scores: NDArray[Any], participates: BoolArray, config: UpdateSchedulingConfig
) -> BoolArray:
    """Return who is scheduled, ``(..., K)``, of those that take part in the round.

    With ``selection="threshold"`` these are all whose score is above 0, else those of the largest
    scores; in any case the one of the largest score, the lower index where scores tie.

    Args:
        scores: ``(..., K)``.
        participates: Who takes part, at least one, ``(..., K)``.
        config: The configuration.
    """
    several = config.actions == "scores"
    fixed = several and config.selection == "top"
    order = np.argsort(np.where(participates, -scores, np.inf), axis=-1, kind="stable")
    scheduled = np.zeros(scores.shape, np.bool_)
    first = order[..., : config.uploads_per_round if fixed else 1]
    np.put_along_axis(scheduled, first, True, axis=-1)
    if several and not fixed:
        scheduled |= scores > 0
    return scheduled & participates


def participants_of(participation: NDArray[Any]) -> BoolArray:
    """Return who takes part in the next round, ``(..., K)``: above 0, or the largest if none is."""
    taking_part = participation > 0
    largest = np.argmax(participation, axis=-1, keepdims=True)
    np.put_along_axis(taking_part, largest, True, axis=-1)
    return np.asarray(taking_part)


def observation_tables(config: UpdateSchedulingConfig) -> dict[str, ObservationTable]:
    """Return the columns of each part of the observation under ``config``."""
    importance = config.mode == "importance"
    if not importance:
        meaning = "model age ‖ŵ_k - w‖ from the device's last uploaded model"
    elif config.update == "gradient":
        meaning = "norm of the device's gradient, the last known"
    else:
        meaning = "model variation ‖w_k - w‖ of the device's update, the last known"
    if config.knowledge == "remembered":
        meaning += "; before the first the mean of those known, 1 where none is"
    seconds = {
        "reported": "time of computing in this round; without a slow-down where left out",
        "free": "time of computing in this round",
    }.get(config.knowledge, "time of computing, without a slow-down")
    unit = "s" if importance else "J"
    budget = config.budget
    return {
        "devices": ObservationTable(
            Column("indicator", "1", 0, _MAX_NORM, meaning, 1, 0.5),
            Column(
                "indicator_share", "1", 0, 1e3, "the indicator over its mean over devices", 1, 0.5
            ),
            Column("efficiency", "bit/s/Hz", 0, 40, "spectral efficiency log₂(1 + γ) now", 7, 3),
            Column("mean_efficiency", "bit/s/Hz", 0, 40, "its mean over all rounds so far", 7, 3),
            Column(
                "throughput",
                "bit/s/Hz",
                0,
                40,
                f"efficiency when scheduled, else 0, smoothed over {MEMORY_ROUNDS} rounds",
                2,
                2,
            ),
            Column(
                "upload_s", "s", 0, 1e6, "time of an upload in the whole band now", 0.004, 0.003
            ),
            Column("compute_s", "s", 0, 1e6, seconds, 0.008, 0.008),
            Column("compute_j", "J", 0, 1e6, "energy of computing", 7e-4, 6e-4),
            Column("upload_j", "J", 0, 1e6, "energy of an upload in the whole band", 8e-4, 6e-4),
            Column(
                "log_cost",
                "1",
                -_MAX_LOG,
                _MAX_LOG,
                f"ln of computing and uploading, {unit}, over the geometric mean over devices",
                0,
                0.7,
            ),
            Column(
                "log_indicator",
                "1",
                _LEAST_LOG,
                _MAX_LOG,
                f"ln of indicator_share, {_LEAST_LOG:g} at least",
                0,
                0.3,
            ),
            Column(
                "staleness",
                "round",
                0,
                1e6,
                "rounds since its last arrival, or since the start",
                2,
                3,
            ),
            Column("uploads", "round", 0, 1e6, "rounds in which it was scheduled", 4, 4),
            Column(
                "arrivals",
                "1",
                0,
                1,
                "share of its uploads that arrived, 1 before the first",
                1,
                0.2,
            ),
            Column("samples", "sample", 0, 1e9, "its samples", 60, 30),
            Column("energy_j", "J", 0, 1e9, "energy that it has used", 0.01, 0.01),
            Column(
                "nominal_s", "s", 0, 1e6, "time of computing, without a slow-down", 0.008, 0.008
            ),
            Column(
                "indicator_age",
                "round",
                0,
                1e6,
                "rounds since its indicator was computed, 0 in this one; if never, all and one",
                1,
                2,
            ),
            Column(
                "participates",
                "1",
                0,
                1,
                "1 if it takes part in this round, and can be scheduled",
                0.5,
                0.5,
            ),
        ),
        "system": ObservationTable(
            Column("devices", "device", 1, 1e6, "devices in all, K", 20, 15),
            Column("budget_left", unit, 0, 1e9, f"budget left, {unit}", budget / 2, budget / 4),
            Column("rounds", "round", 0, 1e6, "rounds so far", 15, 10),
            Column(
                "last_round",
                unit,
                0,
                1e9,
                f"what the last round took, {unit}",
                budget / 30,
                budget / 30,
            ),
            Column("accuracy", "1", 0, 1, "validation accuracy", 0.6, 0.2),
            Column("loss", "nat", 0, MAX_LOSS, "validation loss", 1.2, 0.6),
            Column(
                "loss_slope",
                "nat/round",
                -MAX_LOSS,
                MAX_LOSS,
                "smoothed decrease of the loss",
                0.1,
                0.06,
            ),
            Column(
                "elapsed_s",
                "s",
                0,
                1e9,
                "time of this round that has passed when the server decides",
                0.04,
                0.04,
            ),
        ),
    }


class _Clock(NamedTuple):
    """Times of a round, in seconds since it began.

    Attributes:
        broadcast_s: The model has arrived, ``(m,)``.
        elapsed_s: The server has decided, ``(m,)``.
        ready_s: Devices can upload if scheduled, ``(m, K)``.
        planned_s: The same as far as it is known when the band is shared, ``(m, K)``.
    """

    broadcast_s: NDArray[np.float64]
    elapsed_s: NDArray[np.float64]
    ready_s: NDArray[np.float64]
    planned_s: NDArray[np.float64]


class UpdateScheduling(FederatedLearning):
    """The update scheduling problem for many lanes; see ``UpdateSchedulingEnv``."""

    config: UpdateSchedulingConfig
    config_type = UpdateSchedulingConfig
    documented_tables: ClassVar[dict[str, ObservationTable]] = observation_tables(
        UpdateSchedulingConfig()
    )
    action_fill = 1.0
    lane_arrays = (
        *FederatedLearning.lane_arrays,
        "_gain",
        "_compute_s",
        "_participates",
        "_indicator",
        "_computed",
        "_error",
        "_absence",
        "_efficiency_sum",
        "_throughput",
        "_spent",
        "_last_round",
        "_seconds",
        "_energy",
        "_uploads",
        "_arrived",
        "_last_arrival",
        "_scheduled",
        "_share",
        "_shown",
    )

    def __init__(self, config: UpdateSchedulingConfig, n_lanes: int) -> None:
        super().__init__(config, n_lanes, config.max_rounds)
        k = config.n_devices
        self.tables = observation_tables(config)
        self.observation_space = spaces.Dict(
            {
                "devices": self.tables["devices"].space(k),
                "system": self.tables["system"].space(),
            }
        )
        self.action_space: spaces.Space[Any]
        self.actions_per = "device"
        if config.actions == "device":
            self.action_space = spaces.Discrete(k)
        else:
            columns = len(action_columns(config))
            shape = (k, columns) if columns > 1 else (k,)
            self.action_space = spaces.Box(-1, 1, shape, np.float32)
            self.signs_suffice = config.selection == "threshold" and config.bandwidth != "agent"
        # What devices have computed for this round before it is decided, or uploaded last (lazy).
        values = 0 if config.knowledge == "remembered" else self.network.n_values
        memory = (n_lanes, k, values)
        self._vectors = torch.zeros(memory, dtype=torch.float32, device=config.compute_device)
        self._gain = np.zeros((n_lanes, k))
        self._compute_s = np.zeros((n_lanes, k))
        self._participates = np.ones((n_lanes, k), np.bool_)
        # The last indicator that the server knows of each device, and the round that it is of; -1
        # before the first.
        self._indicator = np.zeros((n_lanes, k))
        self._computed = np.full((n_lanes, k), -1)
        self._error = np.zeros((n_lanes, k))
        self._absence = np.zeros((n_lanes, k))
        self._efficiency_sum = np.zeros((n_lanes, k))
        self._throughput = np.zeros((n_lanes, k))
        self._spent = np.zeros(n_lanes)
        self._last_round = np.zeros(n_lanes)
        self._seconds = np.zeros(n_lanes)
        self._energy = np.zeros((n_lanes, k))
        self._uploads = np.zeros((n_lanes, k), np.int64)
        self._arrived = np.zeros((n_lanes, k), np.int64)
        self._last_arrival = np.zeros((n_lanes, k), np.int64)
        # For pictures: whom the last round scheduled, with which part of the band, and indicator,
        # spectral efficiency and computing time as the server knew them then.
        self._scheduled = np.zeros((n_lanes, k), np.bool_)
        self._share = np.zeros((n_lanes, k))
        self._shown = np.zeros((n_lanes, k, 3))

    def reset_lanes(self, lanes: IntArray) -> dict[str, NDArray[Any]]:
        """Draw the system and the model; the first round begins."""
        for lane in lanes:
            self._draw_system(lane, self.config.redundancy)
            draws = self.generators[lane].random((2, self.config.n_devices))
            self._error[lane] = self.config.packet_error * draws[0]
            self._absence[lane] = self.config.drop_out * draws[1]
        for array in (
            self._efficiency_sum,
            self._throughput,
            self._spent,
            self._last_round,
            self._seconds,
            self._energy,
            self._uploads,
            self._arrived,
            self._last_arrival,
            self._scheduled,
            self._share,
        ):
            array[lanes] = 0
        self._participates[lanes] = True
        self._computed[lanes] = -1
        info = self._begin_learning(lanes)
        if self.config.mode == "lazy":
            index = torch.from_numpy(lanes)
            self._vectors[index] = self.learner.weights[index][:, None]
        self._begin_round(lanes)
        self._shown[lanes] = self._picture(lanes)
        return info

    def step_lanes(self, lanes: IntArray, actions: NDArray[Any]) -> Step:
        """Let the scheduled devices upload, average what arrives, and begin the next round."""
        config = self.config
        self._shown[lanes] = self._picture(lanes)
        decision = self._decide(actions)
        participates = self._participates[lanes]
        scheduled = scheduled_of(decision.scores, participates, config)
        draws = np.stack([self.generators[lane].random((2, config.n_devices)) for lane in lanes])
        answering = scheduled & (draws[:, 0] >= self._absence[lanes])
        lost = draws[:, 1] < self._error[lanes]
        clock = self._clock(lanes, scheduled)
        shares, finish_s = self._share_band(lanes, answering, decision.band, clock)
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
        left = config.budget - self._spent[lanes]
        in_time = took <= left
        sent = answering & in_time[:, None]
        arrived = sent & ~lost
        self._aggregate(lanes, sent, arrived)
        if decision.participation is not None:
            self._participates[lanes] = participants_of(decision.participation)

        # A round that needs more than is left is broken off where nothing is left.
        part = np.where(in_time, 1.0, left / np.maximum(took, 1e-300))
        round_s, energy = part * round_s, part[:, None] * energy
        took = np.where(in_time, took, left)
        self._spent[lanes] += took
        self._last_round[lanes] = took
        self._seconds[lanes] += round_s
        self._energy[lanes] += energy
        served = np.where(scheduled, self._efficiency(lanes), 0)
        self._throughput[lanes] += (served - self._throughput[lanes]) / MEMORY_ROUNDS
        self._uploads[lanes] += scheduled
        self._arrived[lanes] += arrived
        self._scheduled[lanes], self._share[lanes] = scheduled, shares
        self._last_arrival[lanes] = np.where(
            arrived, self._round[lanes][:, None] + 1, self._last_arrival[lanes]
        )
        terminated = ~in_time | (self._spent[lanes] >= config.budget)
        truncated = ~terminated & (self._round[lanes] + 1 >= config.max_rounds)
        over = terminated | truncated
        reward, info, final_info = self._end_round(lanes, over)
        # The next round begins where the episode is over too, so that what is observed there is
        # of the model and the rounds that were.
        self._begin_round(lanes)
        info |= {
            "seconds": self._seconds[lanes].copy(),
            "joules": self._energy[lanes].sum(axis=1),
            "round_s": round_s,
            "round_j": energy.sum(axis=1),
            "broadcast_s": np.minimum(clock.broadcast_s, round_s),
            "elapsed_s": np.minimum(clock.elapsed_s, round_s),
            "participants": participates.sum(axis=1).astype(np.float64),
            "scheduled": scheduled.sum(axis=1).astype(np.float64),
            "arrived": arrived.sum(axis=1).astype(np.float64),
        }
        final_info["fairness"] = jain_index(self._uploads[lanes])
        return Step(reward, terminated, truncated, info, final_info)

    def observe(self) -> dict[str, NDArray[np.float32]]:
        """Return the observations of all lanes by part."""
        lanes = np.arange(self.n_lanes)
        indicator = self._known_indicator(lanes)
        mean = np.maximum(indicator.mean(axis=1, keepdims=True), 1e-12)
        indicator_share = indicator / mean
        upload_s, compute_s = self._upload_s(lanes), self._known_compute_s(lanes)
        compute_j, upload_j = self._compute_j(lanes), self._transmit_w() * upload_s
        if self.config.mode == "importance":
            log_cost = np.log(compute_s + upload_s)
        else:
            log_cost = np.log(compute_j + upload_j)
        devices = {
            "indicator": indicator,
            "indicator_share": indicator_share,
            "efficiency": self._efficiency(lanes),
            "mean_efficiency": self._efficiency_sum / (self._round[:, None] + 1),
            "throughput": self._throughput,
            "upload_s": upload_s,
            "compute_s": compute_s,
            "compute_j": compute_j,
            "upload_j": upload_j,
            "log_cost": log_cost - log_cost.mean(axis=1, keepdims=True),
            "log_indicator": np.log(np.maximum(indicator_share, np.exp(_LEAST_LOG))),
            "staleness": self._round[:, None] - self._last_arrival,
            "uploads": self._uploads,
            "arrivals": np.where(self._uploads, self._arrived / np.maximum(self._uploads, 1), 1.0),
            "samples": self._sizes,
            "energy_j": self._energy,
            "nominal_s": self._nominal_s(lanes),
            "indicator_age": self._round[:, None] - self._computed,
            "participates": self._participates,
        }
        system = {
            "devices": np.full(self.n_lanes, self.config.n_devices),
            "budget_left": self.config.budget - self._spent,
            "rounds": self._round,
            "last_round": self._last_round,
            "accuracy": self._accuracy,
            "loss": self._loss,
            "loss_slope": self._loss_slope,
            "elapsed_s": self._elapsed_s(lanes),
        }
        return {
            "devices": self.tables["devices"].fill(devices),
            "system": self.tables["system"].fill(system),
        }

    def scene(self, lane: int) -> Scene:
        """Show the last round, before the first one what is to be decided on, and the accuracy."""
        config, rounds = self.config, int(self._round[lane])
        labels = self._device_labels()
        shown = len(labels)
        scheduled = self._scheduled[lane, :shown]
        indicators, efficiency, compute_s = self._shown[lane].T

        def bars(title: str, values: NDArray[Any], label: str) -> BarPanel:
            return BarPanel(
                title=title,
                labels=labels,
                series=acted_on(values[:shown], scheduled, "scheduled last"),
                x_label="device",
                y_label=label,
            )

        seconds, energy = self._seconds[lane], self._energy[lane].sum()
        unit = "s" if config.mode == "importance" else "J"
        indicator = {"gradient": "Gradient norm", "model": "Model variation"}[config.update]
        if config.mode == "lazy":
            indicator = "Model age"
        return Scene(
            title=f"Round {rounds}: {100 * self._accuracy[lane]:.1f} % validation accuracy",
            text=(
                f"{seconds:.2f} s   ·   {energy:.3f} J   ·   {int(scheduled.sum())} of "
                f"{config.n_devices} devices scheduled last"
            ),
            panels=(
                (
                    bars(indicator, indicators, "norm"),
                    bars("Channel", efficiency, "bit/s/Hz"),
                    bars("Computing", 1e3 * compute_s, "ms"),
                    bars("Share of the band", 100 * self._share[lane], "%"),
                ),
                (
                    self._accuracy_panel(
                        lane, np.arange(rounds + 1), "rounds", (0, max(rounds, 10))
                    ),
                    GaugePanel(
                        title="Budget left",
                        value=round(float(config.budget - self._spent[lane]), 3),
                        maximum=config.budget,
                        unit=unit,
                    ),
                ),
            ),
        )

    def get_state(self, lanes: IntArray) -> dict[str, Any]:
        """Return the state of ``lanes``, the devices' vectors included."""
        vectors = self._vectors[torch.tensor(lanes)].cpu().numpy()
        return {**super().get_state(lanes), "vectors": vectors}

    def set_state(self, lanes: IntArray, state: Mapping[str, Any]) -> None:
        """Restore what ``get_state`` returned."""
        super().set_state(lanes, state)
        self._vectors[torch.from_numpy(lanes)] = torch.from_numpy(state["vectors"].copy()).to(
            self._vectors
        )

    def _begin_round(self, lanes: IntArray) -> None:
        """Draw channels and slow-downs; let devices compute what the server decides by."""
        config = self.config
        for lane in lanes:
            rng = self.generators[lane]
            self._gain[lane] = wireless.rayleigh_gain(rng, config.n_devices)
            slow = rng.random(config.n_devices) < config.slowdown_probability
            self._compute_s[lane] = np.where(slow, config.slowdown, 1)
        self._compute_s[lanes] *= self._nominal_s(lanes)
        self._efficiency_sum[lanes] += self._efficiency(lanes)
        if config.knowledge == "lazy":
            everyone = np.ones_like(self._participates[lanes])
            self._learn_indicators(lanes, everyone, self._distances(lanes))
        elif config.knowledge != "remembered":
            participates = self._participates[lanes]
            sizes = np.where(participates, self._sizes[lanes], 0)
            vectors = self._compute(lanes, self._rows[lanes], sizes)
            self._remember(lanes, vectors)
            self._learn_indicators(lanes, participates, self._norms(vectors))

    def _distances(self, lanes: IntArray) -> NDArray[np.float64]:
        """Return the model ages ‖ŵ_k - w‖, ``(m, K)``."""
        return self.learner.distances(lanes, self._recalled(lanes))

    def _norms(self, vectors: torch.Tensor) -> NDArray[np.float64]:
        """Return the norms that devices tell of what they computed, ``(..., S)``."""
        norms = self.learner.norms(vectors)
        # What is computed is a step; what devices tell is the gradient.
        return norms / self.config.learning_rate if self.config.update == "gradient" else norms

    def _learn_indicators(
        self, lanes: IntArray, told: BoolArray, indicators: NDArray[np.float64]
    ) -> None:
        """Keep the indicators, ``(m, K)``, of those who told them in this round."""
        indicators = bounded(indicators, _MAX_NORM)
        self._indicator[lanes] = np.where(told, indicators, self._indicator[lanes])
        self._computed[lanes] = np.where(told, self._round[lanes][:, None], self._computed[lanes])

    def _known_indicator(self, lanes: IntArray) -> NDArray[np.float64]:
        """Return the indicators as the server knows them, ``(m, K)``."""
        known, indicator = self._computed[lanes] >= 0, self._indicator[lanes]
        number = known.sum(axis=1, keepdims=True)
        total = np.where(known, indicator, 0).sum(axis=1, keepdims=True)
        return np.where(known, indicator, np.where(number, total / np.maximum(number, 1), 1.0))

    def _known_compute_s(self, lanes: IntArray) -> NDArray[np.float64]:
        """Return computing times as far as they are known when it is decided, ``(m, K)``."""
        knowledge, compute_s = self.config.knowledge, self._compute_s[lanes]
        if knowledge == "free":
            return compute_s
        reported = self._participates[lanes] & (knowledge == "reported")
        return np.where(reported, compute_s, self._nominal_s(lanes))

    def _picture(self, lanes: IntArray) -> NDArray[np.float64]:
        """Return what pictures show of a round that is about to be decided, ``(m, K, 3)``."""
        known = self._known_indicator(lanes), self._efficiency(lanes), self._known_compute_s(lanes)
        return np.stack(known, axis=2)

    def _compute(self, lanes: IntArray, rows: IntArray, sizes: IntArray) -> torch.Tensor:
        """Return what devices compute from the current model: descents that are to be added.

        Args:
            lanes: Lane indices, ``(m,)``.
            rows: Samples of each device, ``(m, D, N)``.
            sizes: Their number, ``(m, D)``; 0 where it does not compute.
        """
        config = self.config
        if config.update == "gradient":
            gradients, _ = self.learner.gradients(lanes, rows, sizes)
            # What stands behind the parameters is the decrease of the statistics, which has no
            # learning rate.
            gradients[..., : self.network.n_parameters] *= config.learning_rate
            return gradients.neg_()
        updates, _ = self.learner.local_updates(
            lanes,
            rows,
            sizes,
            [self.generators[lane] for lane in lanes],
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            epochs=config.local_epochs,
        )
        return updates

    def _recalled(self, lanes: IntArray) -> torch.Tensor:
        """Return what was kept; without a copy where it is of all lanes."""
        return self._vectors if len(lanes) == self.n_lanes else self._vectors[torch.tensor(lanes)]

    def _remember(self, lanes: IntArray, vectors: torch.Tensor) -> None:
        """Keep the devices' vectors; without a copy where they are of all lanes."""
        if len(lanes) == self.n_lanes:
            self._vectors = vectors
        else:
            self._vectors[torch.tensor(lanes)] = vectors

    def _aggregate(self, lanes: IntArray, sent: BoolArray, arrived: BoolArray) -> None:
        """Average the updates that arrived, weighted by sample counts, each sample once."""
        config = self.config
        told = arrived
        groups = arrived.reshape(len(lanes), -1, config.redundancy).sum(axis=2)
        copies = np.repeat(np.maximum(groups, 1), config.redundancy, axis=1)
        weights = self._sizes[lanes] / copies
        devices = None
        if config.knowledge in ("reported", "free"):
            updates = self._recalled(lanes)
        else:
            # Most devices do nothing: these are the others, as many in every lane.
            devices = np.argsort(~sent, axis=1, kind="stable")[:, : max(1, sent.sum(axis=1).max())]
            sent, arrived, weights = (
                np.take_along_axis(array, devices, axis=1) for array in (sent, arrived, weights)
            )
            rows, sizes = (array[lanes[:, None], devices] for array in (self._rows, self._sizes))
            updates = self._compute(lanes, rows, np.where(sent, sizes, 0))
            if config.knowledge == "lazy":
                lane, place = np.nonzero(sent)
                models = self.learner.weights[torch.tensor(lanes[lane])] + updates[lane, place]
                self._vectors[lanes[lane], devices[lane, place]] = models
            else:
                norms = np.zeros(told.shape)
                np.put_along_axis(norms, devices, self._norms(updates), axis=1)
                self._learn_indicators(lanes, told, norms)
        received = updates
        if self.compressor.changes:
            generators = [self.generators[lane] for lane in lanes]
            received = self.compressor.compress(lanes, updates, generators, devices, sent)
        self.learner.add(lanes, average(received, weights, arrived))

    def _decide(self, actions: NDArray[Any]) -> Decision:
        """Return what actions ``(m, ...)`` say, one device's number as scores."""
        if self.config.actions == "device":
            return Decision(np.where(np.arange(self.config.n_devices) == actions[:, None], 1, -1))
        return decision_of(actions, self.config)

    def _clock(self, lanes: IntArray, scheduled: BoolArray) -> _Clock:
        """Return when devices can upload in this round."""
        broadcast_s = self._broadcast(lanes, scheduled)
        elapsed_s = self._elapsed_s(lanes)
        knowledge, shape = self.config.knowledge, scheduled.shape
        if knowledge == "reported":
            # All have computed when it is decided.
            ready_s = planned_s = np.broadcast_to(elapsed_s[:, None], shape)
        else:
            begin_s = (elapsed_s if knowledge == "lazy" else broadcast_s)[:, None]
            ready_s = begin_s + self._compute_s[lanes]
            planned_s = begin_s + self._known_compute_s(lanes)
        return _Clock(broadcast_s, elapsed_s, ready_s, planned_s)

    def _broadcast(self, lanes: IntArray, scheduled: BoolArray) -> NDArray[np.float64]:
        """Return the seconds that it takes to send the model to all that need it, ``(m,)``."""
        config = self.config
        if config.broadcast == "free":
            return np.zeros(len(lanes))
        receiving = self._participates[lanes] if config.knowledge != "remembered" else scheduled
        return self._broadcast_s(lanes, self._gain[lanes], receiving, config.downlink_power_dbm)

    def _elapsed_s(self, lanes: IntArray) -> NDArray[np.float64]:
        """Return when in this round the server decides, ``(m,)``: after the last report, if any."""
        knowledge = self.config.knowledge
        if knowledge in ("remembered", "free"):
            return np.zeros(len(lanes))
        reporting = self._participates[lanes]
        # All reports share the band equally.
        rate = self._rate(lanes) / reporting.sum(axis=1, keepdims=True)
        told_s = self._broadcast(lanes, reporting)[:, None] + self.config.report_bits / rate
        if knowledge == "reported":
            told_s = told_s + self._compute_s[lanes]
        return np.asarray(np.where(reporting, told_s, 0).max(axis=1))

    def _report_j(self, lanes: IntArray) -> NDArray[np.float64]:
        """Return the energy of the reports of this round, ``(m, K)``."""
        if self.config.knowledge in ("remembered", "free"):
            return np.zeros((len(lanes), self.config.n_devices))
        report_j = self._transmit_w() * self.config.report_bits / self._rate(lanes)
        return np.where(self._participates[lanes], report_j, 0)

    def _share_band(
        self,
        lanes: IntArray,
        answering: BoolArray,
        logits: NDArray[Any] | None,
        clock: _Clock,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return shares of the band and when each answering device finishes, ``(m, K)``."""
        # In seconds of the whole band, a device needs upload_s; with a share it takes longer.
        upload_s = self._upload_s(lanes)
        if self.config.bandwidth == "finish":
            finish_s = wireless.common_finish(clock.planned_s, upload_s, answering)[:, None]
            left_s = np.maximum(finish_s - clock.planned_s, 1e-12)
            shares = np.where(answering, upload_s / left_s, 0)
        else:
            weights = np.ones_like(upload_s)
            if logits is not None:
                weights = np.exp(SHARE_EXPONENT * logits.astype(np.float64))
            weights = np.where(answering, weights, 0)
            shares = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
        takes_s = np.divide(upload_s, shares, out=np.zeros_like(shares), where=shares > 0)
        return shares, np.where(answering, clock.ready_s + takes_s, 0)

    def _efficiency(self, lanes: IntArray) -> NDArray[np.float64]:
        """Return the spectral efficiency log₂(1 + γ) in bit/s/Hz, ``(m, K)``."""
        return np.asarray(np.log2(1 + self._mean_snr[lanes] * self._gain[lanes]))

    def _upload_s(self, lanes: IntArray) -> NDArray[np.float64]:
        """Return the seconds of an upload in the whole band, ``(m, K)``."""
        told = self.config.report_bits if self.config.knowledge == "remembered" else 0
        return np.asarray((self.compressor.payload_bits + told) / self._rate(lanes))

    def _rate(self, lanes: IntArray) -> NDArray[np.float64]:
        """Return the uplink's rates in the whole band in bit/s, ``(m, K)``."""
        return self.config.bandwidth_hz * np.maximum(self._efficiency(lanes), 1e-6)

    def _nominal_s(self, lanes: IntArray) -> NDArray[np.float64]:
        """Return the seconds of computing without a slow-down, ``(m, K)``."""
        return np.asarray(compute.cpu_latency(self._cycles(lanes), self._cpu_hz[lanes]))

    def _cycles(self, lanes: IntArray) -> NDArray[np.float64]:
        """Return the CPU cycles of computing in a round, ``(m, K)``."""
        epochs = self.config.local_epochs if self.config.update == "model" else 1
        flops = self.training_flops * epochs * self._sizes[lanes]
        return np.asarray(self.config.cycles_per_flop * flops, np.float64)

    def _compute_j(self, lanes: IntArray) -> NDArray[np.float64]:
        """Return κ·cycles·f², the energy of computing in a round, ``(m, K)``.

        A straggler is slow because it does other things: its energy here is what it always is.
        """
        cycles, speed = self._cycles(lanes), self._cpu_hz[lanes]
        return np.asarray(compute.cpu_energy(cycles, speed, self.config.capacitance))

    def _transmit_w(self) -> float:
        return float(wireless.dbm_to_watt(self.config.transmit_power_dbm))


class UpdateSchedulingEnv(EdgeEnv):
    """Which devices shall upload their updates in this round, over a band that they share?

    ## Description
    Devices train a model together. In every round the server sends them the model, schedules some
    of them by what it knows, and averages what arrives with weights by sample counts. Devices
    differ in CPU speed, distance, data and luck: channels fade from round to round, some compute
    slowly now and then, updates may be lost. Every update is really computed on the device's own
    images.

    What the server knows, and what a round takes:

    - ``mode="importance"``, ``indicators="reported"`` (Wen et al. 2019 §5.2.1, steps 1 to 5): the
      model is broadcast to the devices that take part; each computes an update and reports its
      importance (the norm of its gradient, or of its model's variation) in ``report_bits``, over
      equal parts of the band. After the last report the server decides; the scheduled ones then
      upload. All who take part spend energy on computing and reporting. Whoever is left out of a
      round does neither; of such a device the last indicator is observed, with its age.
    - ``indicators="remembered"``: the server decides first, by the indicators that came with the
      last uploads that arrived (each upload carries ``report_bits`` more). Then the model is
      sent to the scheduled devices, which compute and upload.
    - ``indicators="free"``: an oracle that no server could have, to bound what knowledge is worth:
      all devices compute, and this round's indicators and computing times are known before. The
      round lasts until the slowest *scheduled* device has computed and uploaded.
    - ``mode="lazy"`` (Wen et al. 2019 §5.2.2): the model is broadcast to all devices, which report
      the model age ‖ŵ_k - w‖ from the model that they uploaded last. Only scheduled devices
      compute. The budget is the devices' energy; elsewhere it is simulated seconds.

    Channels of the round are known when it is decided, and whether a device computes slowly is
    not before it has computed. The band is shared by what is known then: with
    ``bandwidth="finish"`` devices finish at the same time unless one computes slowly.

    Computing takes ``cycles_per_flop``·FLOPs/f_k seconds and κ·cycles·f_k² joules, with the FLOPs
    of the network that is really trained. An upload carries its parameters at ``bits`` each, or the
    largest of them (``density``), with error feedback. The broadcast carries all of the model at 32
    bits each, which is what devices train from, in the whole band at the rate of the weakest
    receiver (``downlink_power_dbm``, the uplink's fading).

    A scheduled device that drops out (``drop_out``) has computed, does not answer, and leaves its
    part of the band to the others; the server waits for it until it should have been ready. An
    upload that is lost (``packet_error``) has taken its time and energy. ``redundancy`` lets
    several devices hold and compute the same samples.

    Free of time and energy are: estimating channels, telling devices the schedule, computing model
    ages, receiving, and all that the server does but the time of its broadcast.

    ## Action Space
    - ``actions="scores"`` (``UpdateScheduling-v0``): all devices whose score is above 0 are
      scheduled, the one of the largest score where none is. With ``selection="top"`` it is the
      ``uploads_per_round`` devices of the largest scores. Devices that do not take part in the
      round have nothing to upload: their scores do not count. The space is ``Box(-1, 1, (K,))``,
      or ``Box(-1, 1, (K, columns))`` where each device has more than its score, in this order:
      with ``bandwidth="agent"`` ℓ, by which the band is shared in proportion to exp(4ℓ) (else so
      that all finish at the same time, or equally); with reported indicators and
      ``participation="agent"`` (the default) who takes part in the *next* round: devices above 0,
      the one of the largest value where none is. All take part in the first. Where an
      action has fewer columns, or is of shape (K,), the last ones are 1 (``action_fill``): all take
      part.
    - ``actions="device"`` (``UpdateSchedulingDiscrete-v0``): ``Discrete(K)``, one device a round;
      all take part.

    Every action is possible.

    ## Observation Space
    A ``Dict`` of ``devices`` (K, F_d) and ``system`` (G,). Bounds are those of the default
    configuration.

    ``devices``:

    {devices_table}

    ``system``:

    {system_table}

    ## Rewards
    The gain in validation accuracy of the round, so that an episode's return is exactly the final
    minus the initial validation accuracy; with ``reward="loss"`` the decrease of the validation
    loss. Validation samples are never trained on; test accuracy is only reported.

    ## Starting State
    Each episode draws a split of the data and which device holds what, the devices' places, CPU
    speeds, packet errors and drop-outs, and the untrained model.

    ## Episode End
    Terminates when the budget is spent; a round that needs more than is left is broken off and
    lost. Truncated after ``max_rounds``. The last ``info`` adds ``test_accuracy``, ``total_gain``,
    ``total_loss_decrease`` and ``fairness`` (Jain's index of the devices' scheduled rounds).

    ## Information
    ``validation_accuracy``, ``accuracy_gain``, ``validation_loss``, ``loss_decrease``,
    ``rounds``, ``seconds`` and ``joules`` (of the devices) so far; of this round ``round_s`` and
    ``round_j``, all in all, of which ``broadcast_s`` for the broadcast and ``elapsed_s`` until the
    server decided, and how many devices were ``participants``, ``scheduled``, ``arrived``; with
    ``track_test`` also ``test_accuracy``.

    ## Arguments
    The fields of ``UpdateSchedulingConfig``, by name or as ``config=``.

    ## References
    - D. Wen, X. Li, Q. Zeng, J. Ren, K. Huang, "An Overview of Data-Importance Aware Radio Resource
      Management for Edge Machine Learning", 2019, arXiv:1911.03878, §5: indicators, scheduling,
      lazy updating, exclusion of stragglers.
    - J. Ren, G. Yu, G. Ding, "Accelerating DNN Training in Wireless Federated Edge Learning
      Systems", 2021, arXiv:1905.09712, Table I: the path loss 128.1 + 37.6·log₁₀(d in km) and the
      noise density.
    - S. Sorour, U. Mohammad, A. Abutuleb, H. Hassanein, "Returning the Favor: What Wireless
      Networking Can Offer to AI and Edge Learning", 2020, arXiv:2007.07453, on risk mitigation:
      losses, drop-outs, redundancy.

    ## Version History
    - v0: first version. After 0.1.0: indicators are reported before the server decides, the model
      is broadcast, actions say who takes part next, and a round that nobody answers is never free.
    """

    problem_type = UpdateScheduling


class UpdateSchedulingVectorEnv(EdgeVectorEnv):
    """Many lanes of ``UpdateSchedulingEnv`` at a time; lane i seeded s + i equals it."""

    problem_type = UpdateScheduling
