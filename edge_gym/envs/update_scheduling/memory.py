"""What devices keep from one round to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from edge_gym.typing import IntArray


class DeviceMemory:
    """A vector for each device of each lane; a problem names it in ``state_parts``.

    Args:
        n_lanes: Number of lanes.
        n_devices: Devices of a lane, K.
        n_values: Values of a vector, S; 0 keeps nothing.
        device: Where tensors live.

    Attributes:
        vectors: What is kept, ``(n_lanes, K, S)``.
    """

    def __init__(self, n_lanes: int, n_devices: int, n_values: int, device: str) -> None:
        shape = (n_lanes, n_devices, n_values)
        self.vectors = torch.zeros(shape, dtype=torch.float32, device=device)

    def keep(self, lanes: IntArray, vectors: torch.Tensor) -> None:
        """Keep vectors that broadcast to ``(m, K, S)``; without a copy if they are of all lanes."""
        if vectors.shape == self.vectors.shape:
            self.vectors = vectors
        else:
            self.vectors[torch.tensor(lanes)] = vectors

    def keep_of(self, lanes: IntArray, devices: IntArray, vectors: torch.Tensor) -> None:
        """Keep the vectors ``(n, S)`` of single devices, ``devices[i]`` of ``lanes[i]``."""
        self.vectors[lanes, devices] = vectors

    def recall(self, lanes: IntArray) -> torch.Tensor:
        """Return what was kept, ``(m, K, S)``; without a copy if it is of all lanes."""
        return (
            self.vectors if len(lanes) == len(self.vectors) else self.vectors[torch.tensor(lanes)]
        )

    def get_state(self, lanes: IntArray) -> dict[str, NDArray[Any]]:
        """Return what devices of ``lanes`` keep, sharing no memory."""
        return {"vectors": self.vectors[torch.tensor(lanes)].cpu().numpy()}

    def set_state(self, lanes: IntArray, state: Mapping[str, Any]) -> None:
        """Restore what ``get_state`` returned for as many lanes."""
        vectors = torch.from_numpy(state["vectors"].copy()).to(self.vectors)
        self.vectors[torch.from_numpy(lanes)] = vectors
