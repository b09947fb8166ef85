"""The checks find what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from edge_gym.core.config import Config
from edge_gym.core.observation import Column, ObservationTable
from edge_gym.core.problem import Problem, Step
from edge_gym.core.state import LaneArray
from edge_gym.physics.channel import Channel, Rayleigh
from edge_gym.runtime.streams import Purpose
from edge_gym.testing import check_baseline, check_channel, check_problem


@dataclass(frozen=True, kw_only=True)
class WalkConfig(Config):
    """A walk."""

    steps: int = 8


class Walk(Problem):
    """Go left or right."""

    config_type = WalkConfig
    place = LaneArray(np.float64)
    step = LaneArray(np.int64)

    def __init__(self, config: Any, n_lanes: int) -> None:
        super().__init__(config, n_lanes)
        self.tables = {"": ObservationTable(Column("place", "m", -50, 50, "where it is"))}
        self.observation_space = self.tables[""].space()
        self.action_space = spaces.Discrete(2)

    def reset_lanes(self, lanes: Any) -> dict[str, Any]:
        self.clear(lanes)
        self.place[lanes] = self.draw(lanes)
        return {}

    def draw(self, lanes: Any) -> Any:
        return self.streams.normals(lanes, Purpose.MOVES, (), self.step[lanes])

    def step_lanes(self, lanes: Any, actions: Any) -> Step:
        self.step[lanes] += 1
        self.place[lanes] += 2 * actions - 1 + self.draw(lanes)
        over = self.step[lanes] >= self.config.steps
        return Step(-abs(self.place[lanes]), over, np.zeros(len(lanes), np.bool_), {}, {})

    def observe(self) -> Any:
        return self.tables[""].fill({"place": self.place})


class OneGenerator(Walk):
    """All lanes draw from the first one's generator."""

    def draw(self, lanes: Any) -> Any:
        return self.generators[0].normal(size=len(lanes))


class OneStream(Walk):
    """All lanes draw from the first one's streams."""

    def draw(self, lanes: Any) -> Any:
        return self.streams.normals(lanes * 0, Purpose.MOVES, (), self.step[lanes])


class GoesOn(Walk):
    """Draws from each lane's generator while the episode runs, which is saved too."""

    def draw(self, lanes: Any) -> Any:
        return np.array([self.generators[lane].normal() for lane in lanes])


class NotSaved(Walk):
    """The place is no part of the state."""

    place = LaneArray(np.float64, saved=False)


class NotCleared(GoesOn):
    """Steps of the episode before count."""

    step = LaneArray(np.int64, reset=None)


class Outside(Walk):
    """Bounds that observations leave."""

    def observe(self) -> Any:
        return super().observe() + 100


class NoSeed(Walk):
    """Draws from nobody's generator."""

    def draw(self, lanes: Any) -> Any:
        return np.random.default_rng().normal(size=len(lanes))


class NoAction(Walk):
    """Nothing is possible."""

    def action_masks(self) -> Any:
        return np.zeros((self.n_lanes, 2), np.bool_)


@pytest.mark.parametrize("kind", [Walk, GoesOn])
def test_good_problems_pass(kind: type[Problem]) -> None:
    check_problem(kind, {"steps": 6})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (OneGenerator, "lane .* of 3 and of a scalar|of 2 and of 5"),
        (OneStream, "lane .* of 3 and of a scalar|of 2 and of 5"),
        (NotSaved, "restored in another instance"),
        (NotCleared, "scalar environment|again"),
        (Outside, "check_env|outside the space"),
        (NoSeed, "check_env|again"),
        (NoAction, "leaves no action"),
    ],
)
def test_faults_are_found(kind: type[Problem], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_problem(kind)


class Strong(Rayleigh):
    """Draws twice as strong as it says."""

    def gain_of(self, normals: Any) -> Any:
        return 2 * super().gain_of(normals)


class Wrong(Rayleigh):
    """Another quantile function."""

    def quantile(self, probability: Any) -> Any:
        return 2 * np.asarray(probability)


class Poor(Rayleigh):
    """A spectral efficiency of no fading."""

    def spectral_efficiency(self, mean_snr: Any) -> Any:
        return np.log2(1 + np.asarray(mean_snr))


def test_good_channels_pass() -> None:
    for spec in ("rayleigh", "nakagami:m=3,correlation=0.7,shadowing_db=4", "awgn"):
        check_channel(spec)


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Strong, "mean gain is 1.99"), (Wrong, "quantile"), (Poor, "spectral efficiency")],
)
def test_wrong_channels_are_found(kind: type[Channel], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_channel(kind())


def test_rules_are_checked() -> None:
    small = {"budget": 20, "validation_size": 60, "image_size": 7}
    check_baseline("channel-aware", "Retransmission-v0", small)
    with pytest.raises(ValueError, match="does not apply"):
        check_baseline("ha-asyn", "Retransmission-v0", small)
