"""A decision problem of one's own: at what power is each training sample uploaded?"""

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from edge_gym.core.config import Config
from edge_gym.core.observation import Column, ObservationTable
from edge_gym.core.problem import Problem, Step
from edge_gym.core.state import LaneArray
from edge_gym.data import draw_split, load_features
from edge_gym.envs.fading import Fading
from edge_gym.learning import make_learner
from edge_gym.physics.channel import make_channel
from edge_gym.runtime.streams import Purpose

LEVELS = np.array([0.0, 0.25, 1.0, 4.0])
TABLE = ObservationTable(
    Column("gain", "1", 0, 1e6, "power gain of the channel in this step", 1, 1),
    Column("energy_left", "1", 0, 1, "share of the energy that is left", 0.5, 0.3),
    Column("uploads_left", "sample", 0, 1e4, "uploads that are left", 30, 15),
    Column("accuracy", "1", 0, 1, "validation accuracy", 0.5, 0.3),
)


@dataclass(frozen=True, kw_only=True)
class PowerControlConfig(Config):
    """Settings: data, learner, channel, number of uploads, SNR at power 1, energy budget."""

    dataset: str = "digits"
    learner: str = "logistic-regression"
    channel: str = "line-of-sight"
    uploads: int = 40
    snr_db: float = 6.0
    energy: float = 40.0


class PowerControl(Problem):
    """Each step uploads one sample at one of four powers; the server trains on what arrives."""

    config_type, state_parts = PowerControlConfig, ("learner", "fading")
    _rows = LaneArray(np.int64, lambda problem: (problem.config.uploads,))
    _validation = LaneArray(np.int64, (300,))
    _step = LaneArray(np.int64)
    _energy = LaneArray(np.float64)
    _accuracy = LaneArray(np.float64)

    def __init__(self, config, n_lanes):
        super().__init__(config, n_lanes)
        self.features = load_features(config.dataset, None, None)
        self.learner = make_learner(
            config.learner, n_lanes, self.features.image_shape, len(self.features.classes)
        )
        self.fading = Fading(n_lanes, make_channel(config.channel), ())
        self.tables, self.observation_space = {"": TABLE}, TABLE.space()
        self.action_space = spaces.Discrete(len(LEVELS))

    def reset_lanes(self, lanes):
        self.clear(lanes)
        self._energy[lanes] = self.config.energy
        labels, uploads = self.features.train_labels, self.config.uploads
        for lane in lanes:
            rng = self.streams.generator(lane, Purpose.DATA)
            split = draw_split(rng, labels, self.features.test_labels, 300, None)
            self._validation[lane] = split.validation
            self._rows[lane] = split.pool[:uploads]
        self.learner.reset(lanes, self.streams.generators(lanes, Purpose.MODEL))
        self.fading.advance(self.streams, lanes, self._step[lanes])
        return {"accuracy": self._score(lanes)}

    def step_lanes(self, lanes, actions):
        step, before = self._step[lanes], self._accuracy[lanes].copy()
        power = np.minimum(LEVELS[actions], self._energy[lanes])
        snr = power * 10 ** (self.config.snr_db / 10) * self.fading.gain[lanes]
        sent, now = lanes[power > 0], step[power > 0]
        # Drawn by step and purpose: uploads that were left out before do not shift it.
        noise = self.streams.normals(sent, Purpose.NOISE, self.features.train.shape[1:], now)
        if len(sent):
            rows = self._rows[sent, now]
            received = self.features.train[rows] + noise / np.sqrt(snr[power > 0])[:, None]
            labels = self.features.train_labels[rows]
            self.learner.append(sent, received.astype(np.float32), labels)
            self.learner.fit(sent, self.streams.generators(sent, Purpose.ORDERS, now))
        self._energy[lanes] -= power
        self._step[lanes] += 1
        self.fading.advance(self.streams, lanes, self._step[lanes])
        over, reward = step + 1 == self.config.uploads, self._score(lanes) - before
        info = {"accuracy": self._accuracy[lanes].copy(), "power": power}
        return Step(reward, over, np.zeros_like(over), info, {"energy": self._energy[lanes].copy()})

    def observe(self):
        values = {"gain": self.fading.gain}
        values["energy_left"] = self._energy / self.config.energy
        values["uploads_left"] = self.config.uploads - self._step
        return TABLE.fill({**values, "accuracy": self._accuracy})

    def _score(self, lanes):
        train, labels, rows = self.features.train, self.features.train_labels, self._validation
        self._accuracy[lanes] = self.learner.score(lanes, train, labels, rows[lanes]).accuracy
        return self._accuracy[lanes]
