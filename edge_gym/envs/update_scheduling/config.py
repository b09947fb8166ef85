"""Settings of update scheduling."""

from __future__ import annotations

from dataclasses import dataclass

from edge_gym.envs.federated_config import FederatedConfig
from edge_gym.envs.redundancy import check_redundancy
from edge_gym.runtime.checks import check_choice, check_integer, check_number

MODES = ("importance", "lazy")
INDICATORS = ("reported", "remembered", "free")


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
        report_bits: Bits of a device's report, of its indicator, its training loss and, where it
            computes before it is decided, how its update has changed. What is not known before it
            is decided comes with an upload, in so many bits more: indicator and loss where
            indicators are remembered, the loss in ``"lazy"`` mode.
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
        check_redundancy(self.redundancy, self.n_devices, self.corrupt_devices)
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
    def tells_change(self) -> bool:
        """Whether devices compute before it is decided, and tell how their updates have changed."""
        return self.knowledge in ("reported", "free")

    @property
    def indicator_kind(self) -> str:
        """What the indicator is: ``"gradient-norm"``, ``"model-variation"`` or ``"model-age"``."""
        if self.mode == "lazy":
            return "model-age"
        return "gradient-norm" if self.update == "gradient" else "model-variation"

    @property
    def chooses_number(self) -> bool:
        """Whether actions say how many devices are scheduled."""
        return self.actions == "scores" and self.selection == "threshold"

    @property
    def agent_chooses_participants(self) -> bool:
        """Whether actions say who takes part in the next round."""
        reported = self.knowledge == "reported" and self.actions == "scores"
        return reported and self.participation == "agent"
