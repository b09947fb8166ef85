"""A toy problem with devices and samples: the best choice is rewarded at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from edge_gym.core.observation import Column, ObservationTable
from edge_gym.core.problem import Problem, Step
from edge_gym.core.state import LaneArray
from edge_gym.core.vector_env import EdgeVectorEnv


@dataclass(frozen=True)
class MarketConfig:
    """Settings of a toy: choose the device of the best quality, or the best sample.

    With ``actions="columns"`` a price is asked of each device too, best 1; with ``"level"`` the
    mean quality is told: low, middling or high, with ``"levels"`` every device's.
    """

    n_devices: int = 4
    n_samples: int = 3
    actions: str = "sample"
    horizon: int = 5
    spread: int = 0


class Market(Problem):
    """Qualities and samples' values are drawn anew at every step; some samples are absent."""

    config_type = MarketConfig
    _quality = LaneArray(np.float32, lambda problem: (problem.config.n_devices, 2))
    _value = LaneArray(
        np.float32, lambda problem: (problem.config.n_devices, problem.config.n_samples)
    )
    _present = LaneArray(
        np.bool_, lambda problem: (problem.config.n_devices, problem.config.n_samples), reset=1
    )
    _time = LaneArray(np.int64)
    _end = LaneArray(np.int64)

    def __init__(self, config: MarketConfig, n_lanes: int) -> None:
        super().__init__(config, n_lanes)
        k, n = config.n_devices, config.n_samples
        self.tables = {
            "devices": ObservationTable(
                Column("quality", "1", -9, 9, "", 0.5, 2.0), Column("noise", "dB", -9, 9, "")
            ),
            "system": ObservationTable(Column("time", "step", 0, 9, "", 2.0, 2.0)),
        }
        shapes: dict[str, tuple[int, ...]] = {"devices": (k,), "system": ()}
        if n:
            self.tables["samples"] = ObservationTable(
                Column("value", "1", -9, 9, "", 0.1, 1.5), Column("present", "1", 0, 1, "")
            )
            shapes["samples"] = (k, n)
        self.observation_space = spaces.Dict(
            {part: self.tables[part].space(*shape) for part, shape in shapes.items()}
        )
        self.action_space = {
            "sample": spaces.Discrete(k * max(n, 1)),
            "device": spaces.Discrete(k),
            "scores": spaces.Box(-1, 1, (k,), np.float32),
            "columns": spaces.Box(-1, 1, (k, 2), np.float32),
            "level": spaces.Discrete(3),
            "levels": spaces.MultiDiscrete([3] * k),
        }[config.actions]
        self.actions_per = {"sample": "sample", "level": "system"}.get(config.actions, "device")

    def _draw(self, lanes: NDArray[np.int64]) -> None:
        for lane in lanes:
            rng = self.generators[lane]
            self._quality[lane] = rng.normal(size=self._quality.shape[1:])
            self._present[lane] = rng.random(self._present.shape[1:]) < 0.7
            self._present[lane, :, :1] = True
            self._value[lane] = rng.normal(size=self._value.shape[1:]) * self._present[lane]

    def reset_lanes(self, lanes: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        self._time[lanes] = 0
        for lane in lanes:
            drawn = self.generators[lane].integers(self.config.spread + 1)
            self._end[lane] = self.config.horizon + drawn
        self._draw(lanes)
        return {"time": self._time[lanes].copy()}

    def step_lanes(self, lanes: NDArray[np.int64], actions: NDArray[Any]) -> Step:
        if self.config.actions == "sample":
            device, sample = np.divmod(actions, self.config.n_samples)
            reward = self._value[lanes, device, sample] + 0.5 * self._quality[lanes, device, 0]
        elif self.config.actions == "level":
            level = np.digitize(self._quality[lanes, :, 0].mean(axis=1), [-0.3, 0.3])
            reward = np.float64(actions == level)
        elif self.config.actions == "levels":
            level = np.digitize(self._quality[lanes, :, 0], [-0.3, 0.3])
            reward = (actions == level).mean(axis=1)
        else:
            asked = actions[..., 0] if self.config.actions == "columns" else actions
            device = actions if actions.ndim == 1 else asked.argmax(axis=1)
            reward = self._quality[lanes, device, 0]
            if self.config.actions == "columns":
                reward = reward - np.abs(1 - actions[..., 1]).mean(axis=1)
        self._time[lanes] += 1
        self._draw(lanes)
        over = self._time[lanes] == self._end[lanes]
        return Step(reward.astype(float), over, np.zeros_like(over), {}, {})

    def observe(self) -> Any:
        parts = {"devices": self._quality.copy(), "system": np.float32(self._time[:, None])}
        if self.config.n_samples:
            parts["samples"] = np.stack([self._value, np.float32(self._present)], axis=-1)
        return parts

    def action_masks(self) -> NDArray[np.bool_] | None:
        if self.config.actions != "sample":
            return None
        return self._present.reshape(self.n_lanes, -1).copy()

    def scene(self, lane: int) -> Any:
        raise NotImplementedError


class MarketVectorEnv(EdgeVectorEnv):
    problem_type = Market


def market(lanes: int = 6, *, mode: AutoresetMode | str = "SameStep", **fields: Any) -> Any:
    return MarketVectorEnv(lanes, autoreset_mode=mode, **fields)
