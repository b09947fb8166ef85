"""A decision problem of one's own: at what power is each training sample uploaded?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from edge_gym.core.config import Config
from edge_gym.core.observation import Column, ObservationTable
from edge_gym.core.problem import Problem, Step
from edge_gym.core.state import LaneArray
from edge_gym.data import draw_split, load_features
from edge_gym.learning import make_learner
from edge_gym.physics.channel import make_channel
from edge_gym.runtime.checks import check_integer, check_number

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

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("uploads", self.uploads, 1, 500)
        check_number("snr_db", self.snr_db, -30, 60)
        check_number("energy", self.energy, 0, 1e6, open_low=True)
        make_channel(self.channel)


class PowerControl(Problem):
    """Each step uploads one sample at one of four powers; the server trains on what arrives."""

    config_type = PowerControlConfig
    state_parts = ("learner",)

    _rows = LaneArray(np.int64, lambda problem: (problem.config.uploads,))
    _validation = LaneArray(np.int64, (300,))
    _gain = LaneArray(np.float64, lambda problem: (problem.config.uploads + 1,))
    _step = LaneArray(np.int64)
    _energy = LaneArray(np.float64)
    _accuracy = LaneArray(np.float64)

    def __init__(self, config, n_lanes):
        super().__init__(config, n_lanes)
        self.features = load_features(config.dataset, None, None)
        self.learner = make_learner(
            config.learner, n_lanes, self.features.image_shape, len(self.features.classes)
        )
        self.tables = {"": TABLE}
        self.observation_space = TABLE.space()
        self.action_space = spaces.Discrete(len(LEVELS))

    def reset_lanes(self, lanes):
        config, features = self.config, self.features
        self.clear(lanes)
        self._energy[lanes] = config.energy
        for lane in lanes:
            rng = self.generators[lane]
            split = draw_split(rng, features.train_labels, features.test_labels, 300, None)
            self._validation[lane], self._rows[lane] = (
                split.validation,
                split.pool[: config.uploads],
            )
            self._gain[lane] = make_channel(config.channel).gains(rng, config.uploads + 1, ())
        self.learner.reset(lanes, [self.generators[lane] for lane in lanes])
        return {"accuracy": self._score(lanes)}

    def step_lanes(self, lanes, actions):
        step = self._step[lanes]
        power = np.minimum(LEVELS[actions], self._energy[lanes])
        self._energy[lanes] -= power
        snr = power * 10 ** (self.config.snr_db / 10) * self._gain[lanes, step]
        rows, sent = self._rows[lanes, step], np.flatnonzero(power > 0)
        for i in sent:
            noise = self.generators[lanes[i]].standard_normal(self.features.train.shape[1])
            sample = self.features.train[rows[i]] + noise / np.sqrt(snr[i])
            label = self.features.train_labels[rows[i : i + 1]]
            self.learner.append(lanes[i : i + 1], sample[None].astype(np.float32), label)
        if len(sent):
            self.learner.fit(lanes[sent], [self.generators[lane] for lane in lanes[sent]])
        self._step[lanes] += 1
        before, over = self._accuracy[lanes].copy(), step + 1 == self.config.uploads
        reward = self._score(lanes) - before
        info = {"accuracy": self._accuracy[lanes].copy(), "power": power}
        return Step(reward, over, np.zeros_like(over), info, {"energy": self._energy[lanes].copy()})

    def observe(self):
        gain = self._gain[np.arange(self.n_lanes), self._step]
        energy, left = self._energy / self.config.energy, self.config.uploads - self._step
        values = {"gain": gain, "energy_left": energy, "uploads_left": left}
        return TABLE.fill({**values, "accuracy": self._accuracy})

    def _score(self, lanes):
        train, labels = self.features.train, self.features.train_labels
        score = self.learner.score(lanes, train, labels, self._validation[lanes])
        self._accuracy[lanes] = score.accuracy
        return score.accuracy
