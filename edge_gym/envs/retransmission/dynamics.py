"""Importance-aware retransmission: is a received sample good enough to learn from?

Source: Wen et al. 2019, §3.2.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_gym.core.observation import ObservationTable
from edge_gym.core.problem import Step
from edge_gym.core.state import LaneArray
from edge_gym.data import partition
from edge_gym.envs.budget import Budget
from edge_gym.envs.centralized import CentralizedLearning
from edge_gym.envs.retransmission.actions import RETRANSMIT, AcceptOrRetransmit
from edge_gym.envs.retransmission.config import RetransmissionConfig
from edge_gym.envs.retransmission.observation import observation_table, required_snr
from edge_gym.physics import wireless
from edge_gym.runtime.streams import Purpose
from edge_gym.typing import BoolArray, IntArray


def _sample(problem: Retransmission) -> tuple[int, ...]:
    return (problem.features.train.shape[1],)


class Retransmission(CentralizedLearning):
    """The retransmission problem for many lanes; see ``RetransmissionEnv``.

    Attributes:
        sequence: Training row of the sample that is sent at each position, ``(n_lanes, budget)``.
        position: Which sample of the sequence is being sent, ``(n_lanes,)``.
        uses: Channel uses so far, ``(n_lanes,)``.
        transmissions: Receptions of the current sample, ``(n_lanes,)``.
        snr: γ of the current sample after combining, ``(n_lanes,)``.
        received: The current sample after combining, ``(n_lanes, d)``.
        uncertainty: Of what was received, as the learner states it, ``(n_lanes,)``.
        margin: Its signed margin against the label, ``(n_lanes,)``.
        informative: Samples acquired with a margin below 1, ``(n_lanes,)``.
        informative_noise: Sum of 1/γ over these; initial samples have no noise, ``(n_lanes,)``.
        trace: Position, γ and uncertainty after each channel use, ``(n_lanes, budget, 3)``.
    """

    config: RetransmissionConfig
    codec: AcceptOrRetransmit
    config_type = RetransmissionConfig
    picture = "edge_gym.envs.retransmission.scene:picture"
    documented_tables: ClassVar[dict[str, ObservationTable]] = {
        "": observation_table(RetransmissionConfig())
    }

    sequence = LaneArray(np.int64, lambda problem: (problem.config.budget,), reset=None)
    position = LaneArray(np.int64)
    uses = LaneArray(np.int64)
    transmissions = LaneArray(np.int64)
    snr = LaneArray(np.float32)
    received = LaneArray(np.float32, _sample)
    uncertainty = LaneArray(np.float32)
    margin = LaneArray(np.float32)
    informative = LaneArray(np.int64)
    informative_noise = LaneArray(np.float64)
    trace = LaneArray(np.float32, lambda problem: (problem.config.budget, 3))
    _weighted_sum = LaneArray(np.float32, _sample)

    def __init__(self, config: RetransmissionConfig, n_lanes: int) -> None:
        budget = Budget(config.budget, {"channel_uses": 1.0})
        super().__init__(config, n_lanes, config.budget, budget, links=())
        self.table = observation_table(config)
        self.tables = {"": self.table}
        self.observation_space = self.table.space()
        self.codec = AcceptOrRetransmit()
        self.action_space = self.codec.space
        self._mean_snr = float(wireless.db_to_linear(config.mean_snr_db))

    def reset_lanes(self, lanes: IntArray) -> dict[str, NDArray[Any]]:
        """Draw splits, buffers and the order of samples; train on the initial set."""
        config = self.config
        self.clear(lanes)
        initial = np.zeros((len(lanes), config.initial_samples), np.int64)
        for row, lane in enumerate(lanes):
            initial[row], pool = self._draw_data(lane)
            rng = self.streams.generator(lane, Purpose.SAMPLES)
            self.sequence[lane] = self._draw_sequence(rng, pool)
        info = self._begin_learning(lanes, initial)
        self.informative[lanes] = config.initial_samples
        self._transmit(lanes)
        self._judge(lanes)
        return info

    def step_lanes(self, lanes: IntArray, actions: NDArray[Any]) -> Step:
        """Retransmit or accept; accepting may train, and sends a new sample."""
        last = self.uses[lanes] >= self.config.budget
        wanted = self.codec.decode(actions)
        accepts = wanted | last
        self._accept(lanes[accepts])
        self.tracker.record(lanes, self.uses[lanes])

        reward, info, final_info = self._learn(lanes, last, self.uses[lanes])
        self.position[lanes[accepts]] += 1
        going = lanes[~last]
        self._begin_sample(lanes[accepts & ~last])
        self._transmit(going)
        # A lane that learned judges what it has received anew; the others have a new reception.
        self._judge(going)
        info["channel_uses"] = self.uses[lanes].astype(np.float64)
        info["accepted"] = accepts.astype(np.float64)
        info["projected"] = (last & ~wanted).astype(np.float64)
        return Step(reward, last, np.zeros_like(last), info, final_info)

    def observe(self) -> NDArray[np.float32]:
        """Return the observations of all lanes, ``(n_lanes, F)``."""
        config, lanes = self.config, np.arange(self.n_lanes)
        snr_db = wireless.linear_to_db(self.snr)
        kind = self.learner.uncertainty
        required = required_snr(self.uncertainty, config.alignment_probability, kind)
        label_share = self.label_share()[lanes, self.current_labels(lanes)]
        noise = self.informative_noise
        return self.table.fill(
            {
                "effective_snr_db": snr_db,
                kind: self.uncertainty,
                "margin": self.margin,
                "required_snr_db": wireless.linear_to_db(np.minimum(required, 1e9)),
                "transmissions": self.transmissions,
                "budget_left": config.budget - self.uses,
                "samples": self.acquired(),
                "informative": self.informative,
                "informative_snr_db": wireless.linear_to_db(
                    self.informative / np.maximum(noise, 1e-6)
                ),
                "unlearned": self.unlearned,
                "class_balance": self.class_balance(),
                "label_share": label_share * self.n_classes,
                "accuracy": self.tracker.accuracy,
                "accuracy_slope": self.tracker.accuracy_slope,
                "effective_symbol_snr_db": wireless.symbol_snr_db(
                    snr_db, self.features.train.shape[1]
                ),
            }
        )

    def action_masks(self) -> BoolArray:
        """Accepting is always possible, retransmitting while channel uses are left."""
        masks = np.ones((self.n_lanes, 2), np.bool_)
        masks[:, RETRANSMIT] = self.uses < self.config.budget
        return masks

    def current_rows(self, lanes: IntArray) -> IntArray:
        """Return the training rows of the samples now being sent, ``(m,)``."""
        position = np.minimum(self.position[lanes], self.config.budget - 1)
        return np.asarray(self.sequence[lanes, position])

    def current_labels(self, lanes: IntArray) -> IntArray:
        """Return their labels, ``(m,)``, which arrive without noise."""
        return np.asarray(self.features.train_labels[self.current_rows(lanes)])

    def _draw_sequence(self, rng: np.random.Generator, pool: IntArray) -> IntArray:
        """Return which sample comes when: a random device's next one, each buffer shuffled anew."""
        config = self.config
        parts = partition(rng, self.features.train_labels[pool], config.n_devices, config.partition)
        buffers = [pool[rng.permutation(part)[: config.buffer_size]] for part in parts]
        devices = rng.integers(config.n_devices, size=config.budget)
        sequence = np.empty(config.budget, np.int64)
        for device, buffer in enumerate(buffers):
            turns = np.flatnonzero(devices == device)
            rounds = [rng.permutation(buffer) for _ in range(-(-len(turns) // len(buffer)))]
            if rounds:
                sequence[turns] = np.concatenate(rounds)[: len(turns)]
        return sequence

    def _begin_sample(self, lanes: IntArray) -> None:
        self._weighted_sum[lanes] = 0
        self.snr[lanes] = 0
        self.transmissions[lanes] = 0

    def _transmit(self, lanes: IntArray) -> None:
        """Send the current samples once more by analog modulation, and combine all receptions."""
        use = self.uses[lanes]
        self.fading.advance(self.streams, lanes, use)
        weighted_sum, effective_snr = self._weighted_sum[lanes], self.snr[lanes]
        snr = self._mean_snr * self.fading.gain[lanes]
        sent = self.features.train[self.current_rows(lanes)]
        noise = self.streams.normals(lanes, Purpose.NOISE, sent.shape[1:], use, np.float32)
        wireless.mrc_accumulate(weighted_sum, effective_snr, sent, snr, noise)
        self.received[lanes] = wireless.mrc_combine(weighted_sum, effective_snr)
        self._weighted_sum[lanes], self.snr[lanes] = weighted_sum, effective_snr
        self.transmissions[lanes] += 1
        self.uses[lanes] += 1

    def _judge(self, lanes: IntArray) -> None:
        """Note how uncertain the classifiers are of what was received."""
        labels = self.current_labels(lanes)[:, None]
        assessment = self.learner.assess(lanes, self.received[lanes][:, None], labels)
        self.uncertainty[lanes] = assessment.uncertainty[:, 0]
        self.margin[lanes] = assessment.margin[:, 0]
        trace = self.position[lanes], self.snr[lanes], self.uncertainty[lanes]
        self.trace[lanes, self.uses[lanes] - 1] = np.column_stack(trace)

    def _accept(self, lanes: IntArray) -> None:
        """Take what was received into the training sets."""
        self._acquire(lanes, self.received[lanes], self.current_labels(lanes))
        informative = lanes[self.margin[lanes] < 1]
        self.informative[informative] += 1
        self.informative_noise[informative] += 1 / np.maximum(self.snr[informative], 1e-6)
