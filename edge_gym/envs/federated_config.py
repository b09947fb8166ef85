"""Settings of federated edge learning."""

from __future__ import annotations

from dataclasses import dataclass

from edge_gym.core.config import Config
from edge_gym.data import DATASETS, SCHEMES
from edge_gym.envs.targets import check_targets
from edge_gym.envs.tracking import REWARDS
from edge_gym.learning.compression import FULL_BITS, MAX_QUANTISED_BITS
from edge_gym.learning.networks.architecture import NETWORKS
from edge_gym.physics.channel import check_channel
from edge_gym.runtime.checks import (
    check_choice,
    check_classes,
    check_flag,
    check_integer,
    check_number,
)

LEAST_DISTANCE_M = 10.0
"""Devices are no nearer to the server than this."""


@dataclass(frozen=True, kw_only=True)
class FederatedConfig(Config):
    """Settings that the problems of federated edge learning share.

    Attributes:
        dataset: Name of the data set.
        classes: The classes to tell apart; None takes all.
        image_size: Side of the images in pixels; None keeps the original.
        network: Architecture, see ``learning.networks.factory.make_network``, or one that was
            registered.
        hidden_sizes: Units of each hidden layer of ``"mlp"``.
        n_devices: Devices, K.
        partition: How the data are spread, ``"iid"``, ``"shards"`` or ``"dirichlet"``.
        shards_per_device: For ``"shards"``.
        concentration: For ``"dirichlet"``; small ones are far from IID.
        partition_by_distance: Whether what devices hold follows from where they lie: an episode
            draws an order of the classes, and the first are held by the nearest devices. Shards of
            a device are then neighbours in this order.
        class_imbalance: How many times as many samples devices hold of the most common class as
            of the rarest, those between in geometric steps, in an order that an episode draws;
            as far as the data set has enough. Validation and test samples are as they are.
        samples_per_device: Mean number of a device's samples; None shares all out.
        size_spread: How much devices differ in it: of its part of a partition into parts larger
            by this, each keeps a share such that its number is uniform within (1 ± this) times
            the mean.
        corrupt_devices: Devices whose labels are wrong; an episode draws which. No observation
            says who they are: it has to be found out. A multiple of ``redundancy``, where there
            is one.
        label_noise: Probability that a sample of such a device has another label, each of the
            others as likely. Validation and test samples have their true labels always.
        validation_size: Samples that the reward is measured on.
        test_size: Samples that the report is measured on; None takes the whole test set.
        learning_rate: Step size of SGD, η.
        reward: What is paid, all of it measured on the validation set: the gain in ``"accuracy"``,
            the decrease of the ``"loss"``, which carries less noise, the ``"area"`` under the
            accuracy over the budget, or ``"time-to-target"``; see ``envs.tracking``.
        targets: Validation accuracies, one or more that ascend; the time to each is told.
        bandwidth_hz: The uplink's band W, Hz.
        cell_radius_m: Devices lie anywhere in a disc of this radius, each place as likely, m.
        transmit_power_dbm: A device's transmit power when it has the whole band, dBm; in a part
            of the band it transmits with that part of the power.
        channel: How links fade, by name and parameters, such as ``"rayleigh"`` or
            ``"rician:k=5,correlation=0.9,shadowing_db=4"``; see ``edge_gym.physics.channel``.
        bits: Bits of one parameter on the air, b: 32, or 2 to 24, to which updates are quantised.
        density: Share of an update's parameters that is sent, the largest ones (with error
            feedback: what is not sent is added the next time).
        cpu_hz: Slowest and fastest CPU speed f_k, cycles a second, uniform in between.
        cycles_per_flop: CPU cycles of one FLOP of training.
        capacitance: Effective switched capacitance κ of the processors, J·s²/cycle³.
        compute_device: Where the models are trained, ``"cpu"`` or ``"cuda"``.
        track_test: Whether every step's info, not the last alone, has the test accuracy.
    """

    dataset: str = "mnist-subset"
    classes: tuple[int, ...] | None = None
    image_size: int | None = 14
    network: str = "mlp"
    hidden_sizes: tuple[int, ...] = (16,)
    n_devices: int = 10
    partition: str = "shards"
    shards_per_device: int = 2
    concentration: float = 0.5
    partition_by_distance: bool = False
    class_imbalance: float = 1.0
    samples_per_device: int | None = 60
    size_spread: float = 0.5
    corrupt_devices: int = 0
    label_noise: float = 1.0
    validation_size: int = 500
    test_size: int | None = 1000
    learning_rate: float = 0.3
    reward: str = "area"
    targets: tuple[float, ...] = (0.5, 0.6, 0.7)
    bandwidth_hz: float = 5e6
    cell_radius_m: float = 500.0
    transmit_power_dbm: float = 23.0
    channel: str = "rayleigh"
    bits: int = 32
    density: float = 1.0
    cpu_hz: tuple[float, float] = (2e8, 2e9)
    cycles_per_flop: float = 4.0
    capacitance: float = 1e-28
    compute_device: str = "cpu"
    track_test: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("dataset", self.dataset, DATASETS)
        if self.classes is not None:
            check_classes(self.classes)
        if self.image_size is not None:
            check_integer("image_size", self.image_size, 1)
        check_choice("network", self.network, NETWORKS)
        for units in self.hidden_sizes:
            check_integer("hidden_sizes", units, 1, 100_000)
        check_integer("n_devices", self.n_devices, 1, 10_000)
        check_choice("partition", self.partition, SCHEMES)
        check_integer("shards_per_device", self.shards_per_device, 1)
        check_number("concentration", self.concentration, 1e-3, 1e6)
        check_flag("partition_by_distance", self.partition_by_distance)
        check_number("class_imbalance", self.class_imbalance, 1, 1e4)
        if self.samples_per_device is not None:
            check_integer("samples_per_device", self.samples_per_device, 1)
        check_number("size_spread", self.size_spread, 0, 1, open_high=True)
        check_integer("corrupt_devices", self.corrupt_devices, 0, self.n_devices)
        check_number("label_noise", self.label_noise, 0, 1)
        check_integer("validation_size", self.validation_size, 1)
        if self.test_size is not None:
            check_integer("test_size", self.test_size, 1)
        check_number("learning_rate", self.learning_rate, 1e-9, 1e3)
        check_choice("reward", self.reward, REWARDS)
        check_targets(self.targets)
        check_number("bandwidth_hz", self.bandwidth_hz, 1, 1e12)
        check_number("cell_radius_m", self.cell_radius_m, LEAST_DISTANCE_M, 1e5)
        check_number("transmit_power_dbm", self.transmit_power_dbm, -50, 60)
        check_channel("channel", self.channel)
        if self.bits != FULL_BITS:
            check_integer("bits", self.bits, 2, MAX_QUANTISED_BITS)
        check_number("density", self.density, 0, 1, open_low=True)
        for speed in self.cpu_hz:
            check_number("cpu_hz", speed, 1, 1e15)
        if self.cpu_hz[0] > self.cpu_hz[1]:
            raise ValueError(f"cpu_hz must be the slowest and the fastest speed, got {self.cpu_hz}")
        check_number("cycles_per_flop", self.cycles_per_flop, 1e-6, 1e9)
        check_number("capacitance", self.capacitance, 1e-40, 1e-15)
        check_choice("compute_device", self.compute_device, ("cpu", "cuda"))
        check_flag("track_test", self.track_test)
