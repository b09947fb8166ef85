"""Replay of observations in parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from edge_gym.agents.networks.scaling import Parts
from edge_gym.integrations.sb3_imports import DictReplayBufferSamples, NStepReplayBuffer


class PartsReplayBuffer(NStepReplayBuffer):
    """Replay of observations in parts, which are kept side by side, with n-step returns.

    stable-baselines3's own buffer for such observations looks one step ahead only. Either buffer
    keeps each observation twice, as the next one too.

    Args:
        buffer_size: Transitions of all lanes together.
        observation_space: A ``Dict`` of boxes.
        action_space: The discrete actions.
        *args: As for ``NStepReplayBuffer``.
        **kwargs: As for ``NStepReplayBuffer``.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Dict,
        action_space: spaces.Space[Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self.shapes = {part: space.shape or () for part, space in observation_space.items()}
        flat = spaces.Box(-np.inf, np.inf, (spaces.flatdim(observation_space),), np.float32)
        super().__init__(buffer_size, flat, action_space, *args, **kwargs)

    def add(self, obs: Any, next_obs: Any, *args: Any, **kwargs: Any) -> None:
        """Keep one transition of each lane."""
        super().add(self._flat(obs), self._flat(next_obs), *args, **kwargs)

    def _get_samples(self, *args: Any, **kwargs: Any) -> Any:
        samples = super()._get_samples(*args, **kwargs)
        return DictReplayBufferSamples(
            self._parts(samples.observations),
            samples.actions,
            self._parts(samples.next_observations),
            samples.dones,
            samples.rewards,
            samples.discounts,
        )

    def _flat(self, parts: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        return np.concatenate(
            [parts[part].reshape(self.n_envs, -1) for part in self.shapes], axis=1, dtype=np.float32
        )

    def _parts(self, flat: Tensor) -> Parts:
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        pieces = zip(self.shapes.items(), torch.split(flat, sizes, dim=1), strict=True)
        return {part: piece.reshape(len(flat), *shape) for (part, shape), piece in pieces}
