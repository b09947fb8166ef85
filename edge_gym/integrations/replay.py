"""A replay buffer of stable-baselines3 that keeps each observation once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import DTypeLike, NDArray

from edge_gym.integrations.sb3_imports import (
    DictReplayBufferSamples,
    ReplayBuffer,
    ReplayBufferSamples,
    VecNormalize,
)


class CompactReplayBuffer(ReplayBuffer):
    """Replay for DQN, SAC and the like that needs a half or a quarter of the usual memory.

    stable-baselines3 keeps every observation twice, the second time as the next one of the step
    before, and refuses to do otherwise where observations are a ``Dict``: its default of 1,000,000
    transitions takes 18 GiB in ``DataScheduling-v0``. Here each is kept once, the last one of a
    truncated episode aside: 9 GiB, and 4.6 GiB with ``dtype="float16"``::

        DQN(
            "MultiInputPolicy",
            LaneVecEnv(lanes),
            replay_buffer_class=CompactReplayBuffer,
            replay_buffer_kwargs={"dtype": "float16"},
        )

    Args:
        buffer_size: Transitions of all lanes together.
        observation_space: A ``Box``, or a ``Dict`` of boxes.
        action_space: As for ``ReplayBuffer``.
        dtype: What observations are kept in. ``"float16"`` has three digits and holds at most
            65,504; what is beyond is cut off.
        device: Where samples are put.
        n_envs: Lanes.
        optimize_memory_usage: Makes no difference: memory is saved in any case.

    Raises:
        TypeError: If observations are of another kind.
        ValueError: If ``dtype`` is no type of floating-point numbers.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: Any = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        parts = observation_space if isinstance(observation_space, spaces.Dict) else None
        boxes = [observation_space] if parts is None else list(parts.values())
        if not all(isinstance(box, spaces.Box) for box in boxes):
            raise TypeError(
                "CompactReplayBuffer keeps observations that are a Box or a Dict of boxes, not "
                f"{observation_space}"
            )
        if not np.issubdtype(dtype, np.floating):
            raise ValueError(f"dtype must be one of floating-point numbers, got {dtype!r}")
        self._shapes = None if parts is None else {k: box.shape or () for k, box in parts.items()}
        self._shape = observation_space.shape or ()
        flat: Any = spaces.Box(-np.inf, np.inf, (spaces.flatdim(observation_space),), dtype)  # type: ignore[arg-type]
        super().__init__(
            buffer_size,
            flat,
            action_space,
            device,
            n_envs,
            optimize_memory_usage=True,
            handle_timeout_termination=False,
        )
        self._most = float(np.finfo(flat.dtype).max)
        # The observations that truncated episodes ended in, by step and lane.
        self._ends: dict[int, dict[int, NDArray[Any]]] = {}

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Keep one transition of each lane."""
        place, following = self.pos, self._flat(next_obs)
        truncated = [bool(info.get("TimeLimit.truncated", False)) for info in infos]
        self.timeouts[place] = truncated
        ends = {lane: following[lane].copy() for lane in np.flatnonzero(truncated).tolist()}
        self._ends.pop(place, None)
        if ends:
            self._ends[place] = ends
        super().add(self._flat(obs), following, action, reward, done, infos)

    def _get_samples(self, batch_inds: NDArray[Any], env: VecNormalize | None = None) -> Any:
        lanes = np.random.randint(0, self.n_envs, len(batch_inds))  # noqa: NPY002 - SB3 seeds it
        following = self.observations[(batch_inds + 1) % self.buffer_size, lanes]
        timeouts = self.timeouts[batch_inds, lanes]
        for i in np.flatnonzero(timeouts):
            following[i] = self._ends[int(batch_inds[i])][int(lanes[i])]
        kind: Any = ReplayBufferSamples if self._shapes is None else DictReplayBufferSamples
        rewards = self.rewards[batch_inds, lanes].reshape(-1, 1)
        return kind(
            self._tensors(self.observations[batch_inds, lanes], env),
            self.to_torch(self.actions[batch_inds, lanes]),
            self._tensors(following, env),
            # A truncated episode has not come to its end: what follows has a value.
            self.to_torch((self.dones[batch_inds, lanes] * (1 - timeouts)).reshape(-1, 1)),
            self.to_torch(np.asarray(self._normalize_reward(rewards, env), np.float32)),
        )

    def _flat(self, observations: Any) -> NDArray[Any]:
        if isinstance(observations, Mapping):
            parts = [observations[name] for name in self._shapes or ()]
        else:
            parts = [observations]
        rows = np.concatenate([np.reshape(part, (self.n_envs, -1)) for part in parts], axis=1)
        clipped: NDArray[Any] = np.clip(rows, -self._most, self._most)
        return clipped.astype(self.observations.dtype)

    def _tensors(self, flat: NDArray[Any], env: VecNormalize | None) -> Any:
        rows = flat.astype(np.float32)
        if self._shapes is None:
            shaped = rows.reshape(len(rows), *self._shape)
            return self.to_torch(np.asarray(self._normalize_obs(shaped, env)))
        ends = np.cumsum([int(np.prod(shape)) for shape in self._shapes.values()])
        pieces = np.split(rows, ends[:-1], axis=1)
        parts = {
            name: piece.reshape(len(rows), *shape)
            for (name, shape), piece in zip(self._shapes.items(), pieces, strict=True)
        }
        normalised: Any = self._normalize_obs(parts, env)
        return {name: self.to_torch(np.asarray(part)) for name, part in normalised.items()}
