"""The native vector environment as stable-baselines3 sees it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorWrapper
from numpy.typing import NDArray

from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.integrations.sb3_imports import Monitor, VecEnv

Indices = int | Iterable[int] | None


class ScoreDecoder(Protocol):
    """Makes actions of an agent's scores in [-1, 1]."""

    columns: int
    """Scores of each device."""

    def decode(self, observations: Any, scores: NDArray[Any]) -> NDArray[np.float32]:
        """Return actions, ``(n, K, c)``, for scores ``(n, K, columns)``."""


class LaneVecEnv(VecEnv):
    """Adapts an ``EdgeVectorEnv`` to stable-baselines3 without a Python loop over its lanes.

    It may wear Gymnasium's vector wrappers, as long as observations and rewards stay NumPy arrays
    and infos a dictionary.

    Step infos are empty but for lanes whose episode ended: these carry
    ``terminal_observation``, ``TimeLimit.truncated``, ``episode`` (as ``Monitor`` writes it) and
    the environment's own last info. What every lane reports at every step is in ``last_infos``.

    Algorithms with a replay buffer keep every observation twice, 1,000,000 transitions by default,
    which is 18 GiB in ``DataScheduling-v0``: set ``buffer_size``, or use ``CompactReplayBuffer``.

    Args:
        env: A vector environment with ``autoreset_mode="SameStep"``, wrapped or not.
        reward_scale: Factor on the rewards that the agent sees; ``episode`` holds unscaled ones.
        decoder: What makes actions of the agent's scores, as
            ``edge_gym.agents.decoders.make_decoder`` returns it; None where the agent's actions are
            the environment's.

    Raises:
        TypeError: If it is a single environment or another library's; from ``reset`` if a wrapper
            returns other arrays than NumPy's, or infos that are no dictionary.
        ValueError: If the environment resets in another mode.
    """

    def __init__(
        self,
        env: EdgeVectorEnv | VectorWrapper[Any, Any, Any, Any, Any],
        reward_scale: float = 1.0,
        decoder: ScoreDecoder | None = None,
    ) -> None:
        lanes = getattr(env, "unwrapped", env)
        if not isinstance(lanes, EdgeVectorEnv):
            raise TypeError(
                "LaneVecEnv takes what gym.make_vec('edge_gym/...', num_envs=64, "
                f"autoreset_mode='SameStep') returns, got {env}"
            )
        if lanes.autoreset_mode != AutoresetMode.SAME_STEP:
            raise ValueError(
                "stable-baselines3 resets in the step that ends an episode: make the environment "
                "with autoreset_mode='SameStep'"
            )
        self.env: Any = env
        self.lanes = lanes
        self.reward_scale = reward_scale
        self.last_infos: dict[str, Any] = {}
        self._actions: NDArray[Any] = np.zeros(0)
        self._returns = np.zeros(env.num_envs)
        self._lengths = np.zeros(env.num_envs, np.int64)
        self._start = time.monotonic()
        self._decoder = decoder
        self._observations: Any = None
        space = env.single_action_space
        if self._decoder is not None:
            shape = (*(space.shape or ())[:1], self._decoder.columns)
            space = spaces.Box(-1, 1, shape, np.float32)
        super().__init__(env.num_envs, env.single_observation_space, space)

    def reset(self) -> Any:
        """Reset all lanes and return their observations.

        Raises:
            ValueError: If lanes were given different options.
            TypeError: If a wrapper returns other arrays than NumPy's, or infos of another form.
        """
        options = self._options[0]
        if any(other != options for other in self._options):
            raise ValueError("lanes are reset together: give them all the same options")
        observations, infos = self.env.reset(seed=self._seeds, options=options or None)
        self._check_types(observations, infos)
        self.last_infos = infos
        self._reset_seeds()
        self._reset_options()
        self._returns[:] = 0
        self._lengths[:] = 0
        self.reset_infos = [_lane_info(self.last_infos, lane) for lane in range(self.num_envs)]
        self._observations = observations
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for ``step_wait``."""
        if self._decoder is not None:
            actions = self._decoder.decode(self._observations, actions)
        self._actions = actions

    def step_wait(self) -> tuple[Any, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Step all lanes."""
        observations, reward, terminated, truncated, info = self.env.step(self._actions)
        self.last_infos, self._observations = info, observations
        done = terminated | truncated
        self._returns += reward
        self._lengths += 1
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for lane in np.flatnonzero(done).tolist():
            infos[lane] = {
                **_lane_info(info["final_info"], lane),
                "terminal_observation": info["final_obs"][lane],
                "TimeLimit.truncated": bool(truncated[lane] and not terminated[lane]),
                "episode": {
                    "r": float(self._returns[lane]),
                    "l": int(self._lengths[lane]),
                    "t": round(time.monotonic() - self._start, 6),
                },
            }
            self.reset_infos[lane] = _lane_info(info, lane, but=("final_obs", "final_info"))
        self._returns[done] = 0
        self._lengths[done] = 0
        return observations, (reward * self.reward_scale).astype(np.float32), done, infos

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which discrete actions are possible now, ``(n_lanes, A)``; see the environment."""
        return self.lanes.action_masks()

    def get_state(self) -> dict[str, Any]:
        """Return the running episodes, and what they have returned so far.

        Raises:
            TypeError: If the environment wears wrappers, for they may remember something too.
        """
        self._need_bare()
        return {
            "env": self.lanes.get_state(),
            "returns": self._returns.copy(),
            "lengths": self._lengths.copy(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``get_state`` returned.

        Raises:
            ValueError: If the state is of another configuration or number of lanes.
            TypeError: If the environment wears wrappers.
        """
        self._need_bare()
        self.lanes.set_state(state["env"])
        self._observations = self.lanes.problem.observe()
        self._returns[:] = state["returns"]
        self._lengths[:] = state["lengths"]

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Return an attribute of each lane asked for; most are the same for all."""
        # A lane's spaces, not the batch's.
        single = f"single_{attr_name}"
        name = single if hasattr(self.env, single) else attr_name
        return self._per_lane(self._find(name), indices)

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute of the vector environment.

        Raises:
            ValueError: If some lanes only are asked for: they share their attributes.
        """
        if len(set(self._get_indices(indices))) != self.num_envs:
            raise ValueError("lanes share their attributes: set them for all lanes")
        setattr(self.env, attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: Indices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a method of the vector environment and return what it says of each lane."""
        method = self._find(method_name)
        return self._per_lane(method(*method_args, **method_kwargs), indices)

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Indices = None) -> list[bool]:
        """Lanes wear no wrappers, but report their episodes as ``Monitor`` does."""
        return [issubclass(wrapper_class, Monitor)] * len(list(self._get_indices(indices)))

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Return one picture per lane."""
        return self.env.render() or [None] * self.num_envs

    def _find(self, name: str) -> Any:
        # Vector wrappers do not pass on what they do not know.
        env = self.env
        while not hasattr(env, name) and env is not self.lanes:
            env = env.env
        return getattr(env, name)

    def _check_types(self, observations: Any, infos: Any) -> None:
        parts = observations.values() if isinstance(observations, dict) else [observations]
        if isinstance(infos, dict) and all(isinstance(part, np.ndarray) for part in parts):
            return
        raise TypeError(
            f"LaneVecEnv needs NumPy arrays and one dictionary of infos, and {self.env} returns "
            "something else: leave out the wrapper that makes it"
        )

    def _need_bare(self) -> None:
        if self.env is not self.lanes:
            raise TypeError(
                f"the state of {type(self.env).__name__} cannot be saved: give LaneVecEnv the "
                "environment without wrappers"
            )

    def _per_lane(self, value: Any, indices: Indices) -> list[Any]:
        lanes = self._get_indices(indices)
        if isinstance(value, (np.ndarray, list, tuple)) and len(value) == self.num_envs:
            return [value[lane] for lane in lanes]
        return [value for _ in lanes]


def _lane_info(infos: Mapping[str, Any], lane: int, but: Sequence[str] = ()) -> dict[str, Any]:
    """Return what Gymnasium's batched infos say of one lane."""
    told = {}
    for name, value in infos.items():
        if name.startswith("_") or name in but:
            continue
        # Wrappers nest what they add, under one mask for all of it.
        there = f"_{name}" not in infos or infos[f"_{name}"][lane]
        if there and isinstance(value, Mapping):
            told[name] = _lane_info(value, lane)
        elif there:
            told[name] = value[lane].item() if value.ndim == 1 else value[lane]
    return told
