"""Federated edge learning: devices train on their own data, the server averages what arrives.

What the federated problems share: the data and where they lie, one global model per lane and how
good it is, the cell with its radio, and the devices' processors. What is decided in a round is the
business of the problems built on it.

Source: Wen et al. 2019 §2.2.2; Ren et al. 2021 §II and Table I.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_gym.core.observation import Column
from edge_gym.core.problem import Problem
from edge_gym.core.state import LaneArray
from edge_gym.data import (
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
from edge_gym.envs.fading import Fading
from edge_gym.envs.federated_config import LEAST_DISTANCE_M, FederatedConfig
from edge_gym.envs.targets import TargetTimes
from edge_gym.envs.tracking import DOCUMENTED, GainTracker
from edge_gym.learning.base import Score
from edge_gym.learning.compression import FULL_BITS, Compressor
from edge_gym.learning.federated import FederatedLearner
from edge_gym.learning.networks.factory import make_network
from edge_gym.physics import wireless
from edge_gym.physics.channel import make_channel
from edge_gym.runtime.streams import Keys, Purpose
from edge_gym.typing import IntArray

MAX_LOSS = 100.0
"""A model that diverged counts as this loss, in nats, so that nothing told is infinite."""

SHOWN_DEVICES = 40
"""Devices that a picture shows at most."""

_ALL_LABELLED = 12
_SLOPE_WEIGHT = 0.3
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


class FederatedLearning(Problem):
    """One global model per lane, the devices' data, places and processors.

    Args:
        config: The configuration.
        n_lanes: Number of lanes.
        max_rounds: Most rounds of an episode.
        budget: What limits it.
        links: Shape of a lane's links to the server; None has one for each device.

    Attributes:
        channel: How links fade.
        fading: Their gains.
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
    state_parts: ClassVar[tuple[str, ...]] = (
        "tracker",
        "targets",
        "learner",
        "compressor",
        "fading",
    )

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
        self,
        config: FederatedConfig,
        n_lanes: int,
        max_rounds: int,
        budget: Budget,
        links: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(config, n_lanes)
        self.channel = make_channel(config.channel)
        self.fading = Fading(n_lanes, self.channel, links or per_device(self))
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
        distance_m = np.maximum(config.cell_radius_m * np.sqrt(places), LEAST_DISTANCE_M)
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
