"""Wrappers that bring observations to the scale of a network.

Observations are in physical units. Every column has a typical value and a typical deviation from it
(``env.unwrapped.tables``): with these, nobody needs statistics that run along with the training.
``edge_gym.agents.save_agent`` saves agents that learned behind such a wrapper with its scaling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from edge_gym.core.observation import ObservationTable
from edge_gym.runtime.checks import check_number

CLIP = 5.0


class _Scale:
    """``(value - centre) / spread`` of every column, within plus and minus ``clip``."""

    def __init__(self, tables: Mapping[str, ObservationTable], clip: float) -> None:
        self.clip = clip
        self._scaling = {part: table.scaling() for part, table in tables.items()}

    def space(self, space: spaces.Space[Any], part: str = "") -> spaces.Space[Any]:
        """Return the space of scaled observations of one lane."""
        if isinstance(space, spaces.Dict):
            return spaces.Dict({name: self.space(one, name) for name, one in space.items()})
        assert isinstance(space, spaces.Box)
        return spaces.Box(
            self._part(space.low, part), self._part(space.high, part), dtype=np.float32
        )

    def __call__(self, observations: Any) -> Any:
        """Scale observations with any leading axes."""
        if isinstance(observations, Mapping):
            return {part: self._part(values, part) for part, values in observations.items()}
        return self._part(observations, "")

    def _part(self, values: NDArray[Any], part: str) -> NDArray[np.float32]:
        centre, spread = self._scaling[part]
        scaled = (values - centre) / spread
        return np.asarray(np.clip(scaled, -self.clip, self.clip), np.float32)


def scaled_space(base: Any, clip: float = CLIP) -> spaces.Space[Any]:
    """Return the space of one lane's scaled observations.

    Args:
        base: The environment, scalar or vector, without wrappers.
        clip: Bound on the scaled values.
    """
    seen = getattr(base, "single_observation_space", base.observation_space)
    return _Scale(base.tables, clip).space(seen)


def _scale_of(env: Any, clip: float) -> _Scale:
    check_number("clip", clip, 0, open_low=True)
    base = env.unwrapped
    if not hasattr(base, "tables"):
        raise ValueError(f"{env} has no table of its columns: it is no edge_gym environment")
    if env.observation_space != base.observation_space:
        raise ValueError(
            f"{env} changes observations before they are scaled: put ScaleObservation inside"
        )
    return _Scale(base.tables, float(clip))


class ScaleObservation(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Scales observations by their columns: ``(value - centre) / spread``, clipped.

    Args:
        env: One of this package's environments; other wrappers that change observations go around.
        clip: Bound on the scaled values.

    Attributes:
        observation_clip: The bound.

    Raises:
        ValueError: If it is another environment, a wrapper has changed its observations, or
            ``clip`` is not positive.
    """

    def __init__(self, env: gym.Env[Any, Any], clip: float = CLIP) -> None:
        RecordConstructorArgs.__init__(self, clip=clip)
        super().__init__(env)
        self._scale = _scale_of(env, clip)
        self.observation_clip = self._scale.clip
        self.observation_space = scaled_space(env.unwrapped, self._scale.clip)

    def observation(self, observation: Any) -> Any:
        """Return the scaled observation."""
        return self._scale(observation)


class ScaleVectorObservation(gym.vector.VectorWrapper[Any, Any, Any, Any, Any]):
    """Scales the observations of a vector environment as ``ScaleObservation`` does.

    All autoreset modes are supported: with ``SAME_STEP`` the last observations of episodes,
    ``infos["final_obs"]``, are scaled too.

    Args:
        env: One of this package's vector environments.
        clip: Bound on the scaled values.

    Attributes:
        observation_clip: The bound.

    Raises:
        ValueError: As ``ScaleObservation``.
    """

    def __init__(self, env: gym.vector.VectorEnv[Any, Any, Any], clip: float = CLIP) -> None:
        super().__init__(env)
        self._scale = _scale_of(env, clip)
        self.observation_clip = self._scale.clip
        self.single_observation_space = scaled_space(env.unwrapped, self._scale.clip)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Reset and return scaled observations."""
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._scale(observations), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step and return scaled observations."""
        observations, reward, terminated, truncated, infos = self.env.step(actions)
        if "final_obs" in infos:
            last = np.full(len(infos["final_obs"]), None, object)
            for lane in np.flatnonzero(infos["_final_obs"]).tolist():
                last[lane] = self._scale(infos["final_obs"][lane])
            infos = {**infos, "final_obs": last}
        return self._scale(observations), reward, terminated, truncated, infos
