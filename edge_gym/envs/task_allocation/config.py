"""Settings of task allocation."""

from __future__ import annotations

from dataclasses import dataclass

from edge_gym.envs.federated_config import FederatedConfig
from edge_gym.envs.redundancy import check_redundancy
from edge_gym.learning.compression import FULL_BITS
from edge_gym.physics.channel import Rayleigh, make_channel
from edge_gym.runtime.checks import check_choice, check_integer, check_number
from edge_gym.runtime.messages import shown


@dataclass(frozen=True, kw_only=True)
class TaskAllocationConfig(FederatedConfig):
    """Settings of task allocation; further fields are ``FederatedConfig``'s.

    Devices are called learners here, the server orchestrator. Every learner has a band of
    ``bandwidth_hz`` of its own in both directions. The default has half the learners of
    Mohammad et al. 2020 and a small network, but the bits of their model and, per sample, twenty
    times their bits and cycles, so that learners manage as many updates as there.

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
        fading: ``"none"``: rates follow from the distances alone; ``"cycle"``: links also fade
            from cycle to cycle, as ``channel`` says, for which it must be set.
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
    """

    image_size: int | None = 7
    hidden_sizes: tuple[int, ...] = (32,)
    partition: str = "iid"
    samples_per_device: int | None = 150
    size_spread: float = 0.0
    learning_rate: float = 0.1
    targets: tuple[float, ...] = (0.8, 0.85, 0.9)
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

    def __post_init__(self) -> None:
        for name in ("caps", "cpu_groups_hz"):
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
        if self.fading == "none" and make_channel(self.channel) != Rayleigh():
            raise ValueError(
                'channel has no effect with fading="none", where rates follow from the distances '
                f'alone: set fading="cycle", got channel={shown(self.channel)}'
            )
        check_number("drop_out", self.drop_out, 0, 1)
        check_number("slowdown_probability", self.slowdown_probability, 0, 1)
        check_number("slowdown", self.slowdown, 1, 1e6)
        check_redundancy(self.redundancy, self.n_devices, self.corrupt_devices)
        if self.corrupt_devices and self.learning != "federated":
            raise ValueError(
                'corrupt_devices needs learning="federated", with samples of the learners\' own, '
                f"got {self.corrupt_devices}"
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
