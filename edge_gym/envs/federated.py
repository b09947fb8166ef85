"""Federated edge learning: devices train on their own data, the server averages what arrives.

What the federated problems share: the data and where they lie, one global model per lane and how
good it is, the cell with its radio, and the devices' processors. What is decided in a round is the
business of the problems built on it.

Source: Wen et al. 2019 §2.2.2; Ren et al. 2021 §II and Table I.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_gym.core.config import Config
from edge_gym.core.observation import Column
from edge_gym.core.problem import Problem
from edge_gym.core.state import LaneArray
from edge_gym.data import (
    DATASETS,
    SCHEMES,
    check_partition,
    check_split,
    draw_split,
    draw_wrong_labels,
    encode_labels,
    load_features,
    order_by_class,
    order_long_tailed,
    partition,
)
from edge_gym.envs.budget import Budget
from edge_gym.envs.targets import TargetTimes, check_targets
from edge_gym.envs.tracking import DOCUMENTED, REWARDS, GainTracker
from edge_gym.learning.base import Score
from edge_gym.learning.compression import FULL_BITS, MAX_QUANTISED_BITS, Compressor
from edge_gym.learning.federated import FederatedLearner
from edge_gym.learning.networks.architecture import NETWORKS
from edge_gym.learning.networks.factory import make_network
from edge_gym.physics import wireless
from edge_gym.physics.channel import check_channel, make_channel
from edge_gym.runtime.checks import (
    check_choice,
    check_classes,
    check_flag,
    check_integer,
    check_number,
)
from edge_gym.runtime.streams import Keys, Purpose
from edge_gym.typing import IntArray

MAX_LOSS = 100.0
"""A model that diverged counts as this loss, in nats, so that nothing told is infinite."""

SHOWN_DEVICES = 40
"""Devices that a picture shows at most."""

_ALL_LABELLED = 12
_SLOPE_WEIGHT = 0.3
_LEAST_DISTANCE_M = 10.0
_NOISE_DBM_HZ = -174.0


def score_columns(
    step: str,
    accuracy: tuple[float, float],
    loss: tuple[float, float],
    loss_slope: tuple[float, float],
) -> list[Column]:
    """Return the columns of ``FederatedLearning.observed_score``.

    Args:
        step: What the slope is over, such as ``"round"``.
        accuracy: Centre and spread of the validation accuracy.
        loss: Those of the validation loss, nats.
        loss_slope: Those of its smoothed decrease a step.
    """
    slope = ("loss_slope", f"nat/{step}", -MAX_LOSS, MAX_LOSS, "smoothed decrease of the loss")
    return [
        Column("accuracy", "1", 0, 1, "validation accuracy", *accuracy),
        Column("loss", "nat", 0, MAX_LOSS, "validation loss", *loss),
        Column(*slope, *loss_slope),
    ]


def clip_finite(values: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    """Return values between 0 and ``most``; what is no number, as of a diverged model, is that."""
    return np.nan_to_num(values, nan=most).clip(0, most)


def per_device(problem: Any) -> tuple[int]:
    """Return the shape of an array with one value for each device, for ``LaneArray``."""
    return (problem.config.n_devices,)


def speeds_by_group(speeds: tuple[float, ...], n_devices: int) -> NDArray[np.float64]:
    """Return the speed of each device when neighbours form groups of (nearly) equal size."""
    return np.array(speeds)[np.arange(n_devices) * len(speeds) // n_devices]


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
        check_number("cell_radius_m", self.cell_radius_m, _LEAST_DISTANCE_M, 1e5)
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


class FederatedLearning(Problem):
    """One global model per lane, the devices' data, places and processors.

    Args:
        config: The configuration.
        n_lanes: Number of lanes.
        max_rounds: Most rounds of an episode.
        budget: What limits it.

    Attributes:
        channel: How links fade.
        features: The data.
        network: What is trained.
        learner: The global models.
        compressor: Of what devices send.
        tracker: How good the models are.
        targets: When they reached targets.
        corrupt: Whose labels are wrong, ``(n_lanes, K)``: for oracles and reports, never observed.
        training_flops: FLOPs of training on one sample.
        test_size: Test samples of a lane.
    """

    config: FederatedConfig
    path_loss: ClassVar[tuple[float, float]] = (128.1, 3.76)
    """Loss in dB at one kilometre, and the exponent."""
    documented_texts = DOCUMENTED
    state_parts: ClassVar[tuple[str, ...]] = ("tracker", "targets", "learner", "compressor")

    validation = LaneArray(np.int64, lambda problem: (problem.config.validation_size,), reset=None)
    test = LaneArray(np.int64, lambda problem: (problem.test_size,), reset=None)
    # Rows of each device's samples, or codes of ``data.labels`` where its labels are wrong, padded
    # to the largest number that occurred.
    rows = LaneArray(np.int64, lambda problem: (*per_device(problem), 1), reset=None, growing=True)
    sizes = LaneArray(np.int64, per_device, reset=None)
    corrupt = LaneArray(np.bool_, per_device, reset=None)
    # Of a symbol: received power over the noise in the whole band.
    mean_snr = LaneArray(np.float64, per_device, reset=None)
    cpu_hz = LaneArray(np.float64, per_device, reset=None)
    rounds = LaneArray(np.int64)

    def __init__(
        self, config: FederatedConfig, n_lanes: int, max_rounds: int, budget: Budget
    ) -> None:
        super().__init__(config, n_lanes)
        self.channel = make_channel(config.channel)
        self.features = load_features(config.dataset, config.classes, config.image_size)
        labels, n_test = self.features.train_labels, len(self.features.test_labels)
        check_split(labels, n_test, config.validation_size, config.test_size)
        k = config.n_devices
        pool = len(labels) - config.validation_size
        wanted = round(k * (config.samples_per_device or pool) * (1 + config.size_spread))
        self.pool_size = min(pool, wanted)
        # Every episode can be begun: what its draws may need is there.
        check_partition(
            self.pool_size,
            # Where devices hold the same samples, the parts are fewer.
            k // getattr(config, "redundancy", 1),
            config.partition,
            shards_per_device=config.shards_per_device,
            advice="raise samples_per_device or lower validation_size",
        )
        self.network = make_network(
            config.network,
            self.features.image_shape,
            len(self.features.classes),
            hidden_sizes=config.hidden_sizes,
        )
        self.learner = FederatedLearner(
            n_lanes, self.network, self.features, device=config.compute_device
        )
        self.compressor = Compressor(
            n_lanes,
            config.n_devices,
            self.network.n_parameters,
            density=config.density,
            bits=config.bits,
            n_exact=self.network.n_statistics,
            device=config.compute_device,
        )
        self.training_flops = self.network.forward_flops + self.network.backward_flops
        self.max_rounds = max_rounds
        self.test_size = config.test_size or n_test
        self.targets = TargetTimes(n_lanes, config.targets, budget)
        self.tracker = GainTracker(
            n_lanes,
            max_rounds,
            len(self.features.classes),
            budget=budget,
            targets=self.targets,
            reward=config.reward,
            slope_weight=_SLOPE_WEIGHT,
            track_test=config.track_test,
        )

    def set_state(self, lanes: IntArray, state: Mapping[str, Any]) -> None:
        """Restore what ``get_state`` returned."""
        self._reserve(state["rows"].shape[2])
        padding = self.rows.shape[2] - state["rows"].shape[2]
        rows = np.pad(state["rows"], ((0, 0), (0, 0), (0, padding)))
        super().set_state(lanes, {**state, "rows": rows})

    def observed_score(self) -> dict[str, NDArray[Any]]:
        """Return how good the global models are, ``(n_lanes,)`` each; see ``score_columns``."""
        tracker = self.tracker
        return {
            "accuracy": tracker.accuracy,
            "loss": tracker.loss,
            "loss_slope": tracker.loss_slope,
        }

    def _draw_system(self, lanes: IntArray, copies: int = 1) -> None:
        """Draw episodes' data, the devices' places and processors.

        Args:
            lanes: The lanes.
            copies: As for ``_draw_data``.
        """
        config, k = self.config, self.config.n_devices
        orders = [self._draw_data(lane, copies) for lane in lanes.tolist()]
        places = self.streams.uniforms(lanes, Purpose.PLACES, (k,))
        distance_m = np.maximum(config.cell_radius_m * np.sqrt(places), _LEAST_DISTANCE_M)
        if config.partition_by_distance:
            np.put_along_axis(distance_m, np.array(orders), np.sort(distance_m, axis=1), axis=1)
        loss_db = wireless.log_distance_path_loss_db(distance_m, *self.path_loss, 1000.0)
        noise_dbm = wireless.watt_to_dbm(
            wireless.noise_power_watt(config.bandwidth_hz, _NOISE_DBM_HZ)
        )
        snr_db = config.transmit_power_dbm - loss_db - noise_dbm
        self.mean_snr[lanes] = wireless.db_to_linear(snr_db)
        slowest, fastest = config.cpu_hz
        drawn = self.streams.uniforms(lanes, Purpose.PROCESSORS, (k,))
        self.cpu_hz[lanes] = slowest + (fastest - slowest) * drawn

    def _draw_data(self, lane: int, copies: int = 1) -> IntArray:
        """Draw an episode's data and who holds which.

        Args:
            lane: The lane.
            copies: Devices that hold the same samples, neighbours by index; each then holds so
                many times its own.

        Returns:
            The devices, ``(K,)``, in the order of the classes that they hold.
        """
        config, labels = self.config, self.features.train_labels
        rng = self.streams.generator(lane, Purpose.DATA)
        split = draw_split(
            rng, labels, self.features.test_labels, config.validation_size, config.test_size
        )
        self.validation[lane], self.test[lane] = split.validation, split.test
        pool = split.pool
        if config.class_imbalance > 1:
            pool = order_long_tailed(rng, labels, pool, config.class_imbalance)
        pool = pool[: self.pool_size]
        ranks = labels[pool]
        if config.partition_by_distance:
            ranks = rng.permutation(len(self.features.classes))[ranks]
        parts = partition(
            rng,
            ranks,
            config.n_devices // copies,
            config.partition,
            shards_per_device=config.shards_per_device,
            concentration=config.concentration,
            adjacent=config.partition_by_distance,
        )
        least = (1 - config.size_spread) / (1 + config.size_spread)
        kept = rng.uniform(least, 1, len(parts))
        parts = [
            rng.permutation(part)[: max(1, round(share * len(part)))]
            for part, share in zip(parts, kept, strict=True)
        ]
        self._reserve(max(map(len, parts)))
        self.rows[lane] = 0
        for i, part in enumerate(parts):
            holders = slice(i * copies, (i + 1) * copies)
            self.rows[lane, holders, : len(part)] = pool[part]
            self.sizes[lane, holders] = len(part)
        self._corrupt_labels(lane, copies)
        groups = order_by_class(ranks, parts)
        return (groups[:, None] * copies + np.arange(copies)).ravel()

    def _corrupt_labels(self, lane: int, copies: int) -> None:
        """Draw whose labels are wrong, and these labels; devices with the same samples share them.

        Args:
            lane: The lane.
            copies: As for ``_draw_data``.
        """
        config, labels = self.config, self.features.train_labels
        self.corrupt[lane] = False
        if not config.corrupt_devices:
            return
        rng, groups = self.streams.generator(lane, Purpose.LABELS), config.n_devices // copies
        for group in np.sort(rng.permutation(groups)[: config.corrupt_devices // copies]):
            first = group * copies
            holders, size = slice(first, first + copies), self.sizes[lane, first]
            rows = self.rows[lane, first, :size].copy()
            told = draw_wrong_labels(
                rng, labels[rows], len(self.features.classes), config.label_noise
            )
            self.rows[lane, holders, :size] = encode_labels(rows, told, len(labels))
            self.corrupt[lane, holders] = True

    def _begin_learning(self, lanes: IntArray) -> dict[str, NDArray[Any]]:
        """Draw new models and return the infos."""
        self._draw_models(lanes)
        self.compressor.reset(lanes)
        self.rounds[lanes] = 0
        return self.tracker.begin(lanes, self._score)

    def _draw_models(self, lanes: IntArray) -> None:
        self.learner.reset(lanes, self.streams.generators(lanes, Purpose.MODEL))

    def _end_round(
        self, lanes: IntArray, over: NDArray[np.bool_], spent: NDArray[Any]
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """Measure the models after a round; return reward and infos.

        Args:
            lanes: ``(m,)``.
            over: Whose episode ends, ``(m,)``.
            spent: How much of its budget is spent, ``(m,)``.
        """
        reward, info = self.tracker.update(lanes, np.ones_like(over), over, spent, self._score)
        self.rounds[lanes] += 1
        self.tracker.record(lanes, self.rounds[lanes])
        info["rounds"] = self.rounds[lanes].astype(np.float64)
        return reward, info, self.tracker.final_info(lanes)

    def _broadcast_s(
        self,
        lanes: IntArray,
        gain: NDArray[np.float64],
        receiving: NDArray[np.bool_],
        power_dbm: float,
    ) -> NDArray[np.float64]:
        """Return how long the server takes to send the global model to devices at a time, s.

        One message for all, in the whole band, at the rate of the weakest receiver. It carries
        what devices train from, the whole model with 32 bits for each value, whatever updates are
        compressed to. Path loss, noise and fading are the uplink's (reciprocity).

        Args:
            lanes: Lane indices, ``(m,)``.
            gain: Power gains of this round's fading, ``(m, K)``.
            receiving: Who receives it, ``(m, K)``.
            power_dbm: The server's transmit power, dBm.

        Returns:
            Seconds, ``(m,)``; 0 where nobody receives.
        """
        up_db = power_dbm - self.config.transmit_power_dbm
        snr = self.mean_snr[lanes] * wireless.db_to_linear(up_db) * gain
        efficiency = np.where(receiving, np.maximum(np.log2(1 + snr), 1e-6), np.inf)
        rate = self.config.bandwidth_hz * efficiency.min(axis=1)
        return np.asarray(FULL_BITS * self.network.n_values / rate)

    def _orders(self, lanes: IntArray) -> Keys:
        """Return what the orders of devices' samples in this round follow from, ``(m, K)``."""
        k = self.config.n_devices
        return self.streams.keys(lanes, Purpose.ORDERS, k, self.rounds[lanes])

    def device_labels(self) -> list[str]:
        """Return what stands below the bars of the devices that a picture shows."""
        k = self.config.n_devices
        shown = range(min(k, SHOWN_DEVICES))
        return [str(i) if k <= _ALL_LABELLED or i % 5 == 0 else "" for i in shown]

    def _score(self, lanes: IntArray, test: bool) -> Score:
        """Score the global models on their test or validation samples."""
        rows = self.test[lanes] if test else self.validation[lanes]
        score = self.learner.score(lanes, rows, test=test)
        return score._replace(loss=clip_finite(score.loss, MAX_LOSS))

    def _reserve(self, size: int) -> None:
        """Make room for ``size`` samples a device."""
        short = size - self.rows.shape[2]
        if short > 0:
            self.__dict__["rows"] = np.pad(self.rows, ((0, 0), (0, 0), (0, short)))
