"""Scaling of observations by their tables, as the first layer of every network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

CLIP = 5.0
"""Scaled features stay within plus and minus this."""

Parts = dict[str, Tensor]
"""An observation of devices by part: ``devices``, ``system`` and, where there are, ``samples``."""


class ScaledFeatures(nn.Module):
    """Scales flat observations by their table: ``(x - centre) / spread``, clipped.

    It is a features extractor to stable-baselines3, which asks for ``features_dim`` alone, so it
    need not be derived from a class of that library.

    Args:
        observation_space: The flat observation's space, ``(F,)``.
        centre: Typical values, ``(F,)``.
        spread: Typical deviations from them, ``(F,)``.
        clip: Bound on the scaled values; infinity for none.

    Raises:
        ValueError: If the observation is not flat.
    """

    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        centre: NDArray[np.float32],
        spread: NDArray[np.float32],
        clip: float = CLIP,
    ) -> None:
        super().__init__()
        if observation_space.shape != np.shape(centre):
            raise ValueError(f"agents see flat observations, not {observation_space}")
        self.features_dim = len(centre)
        self.clip = clip
        self.register_buffer("centre", torch.tensor(centre))
        self.register_buffer("spread", torch.tensor(spread))

    def forward(self, observations: Tensor) -> Tensor:
        """Return scaled observations, ``(..., F)``."""
        return ((observations - self.centre) / self.spread).clamp(-self.clip, self.clip)


class ScaledParts(nn.Module):
    """Scales an observation of devices by its tables, and reads which slots hold a sample.

    It is a features extractor to stable-baselines3, as ``ScaledFeatures`` is; ``features_dim``,
    which that library asks for, is of no use to networks on devices.

    Args:
        observation_space: The observation's space; its number of devices and samples is not used.
        scaling: Centres and spreads of each part's columns, ``(F,)`` each.
        present: Position of the column ``present`` in the samples' table; None without one.
        clip: Bound on the scaled values.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any] | None,
        scaling: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]],
        present: int | None = None,
        clip: float = CLIP,
    ) -> None:
        super().__init__()
        self.parts = sorted(scaling)
        self.present = present
        self.clip = clip
        self.features_dim = 1
        for part, (centre, spread) in scaling.items():
            self.register_buffer(f"{part}_centre", torch.tensor(centre))
            self.register_buffer(f"{part}_spread", torch.tensor(spread))

    def forward(self, observations: Mapping[str, Tensor]) -> Parts:
        """Return the scaled parts, and ``present``, ``(..., K, N)`` booleans, where it is known."""
        parts: Parts = {}
        for part in self.parts:
            centre: Tensor = getattr(self, f"{part}_centre")
            spread: Tensor = getattr(self, f"{part}_spread")
            scaled = (observations[part] - centre).div_(spread)
            parts[part] = scaled.clamp_(-self.clip, self.clip)
        if self.present is not None:
            parts["present"] = observations["samples"][..., self.present] > 0.5
        return parts


def tensors(observations: Any) -> Any:
    """Return an observation or its parts as float32 tensors."""
    if isinstance(observations, Mapping):
        return {part: tensors(values) for part, values in observations.items()}
    return torch.as_tensor(observations, dtype=torch.float32)
