"""A trained agent as a policy, in plain torch: acting needs no stable-baselines3."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_gym.agents.decoders.base import Decoder
from edge_gym.agents.interface import Reading
from edge_gym.agents.networks.scaling import tensors
from edge_gym.agents.networks.signs import as_many_positive
from edge_gym.runtime.isolation import in_isolation


class AgentPolicy:
    """A trained agent as a policy: deterministic, for any number of lanes at a time.

    Args:
        network: Scores the actions.
        metadata: What the agent's file says of it.
        name: What results call it.

    Attributes:
        metadata: Algorithm, environment, recipe, seeds, versions and evaluation.
        decoder: Makes actions of scores that are none; None where they are.
        reading: Where its columns stand in what is observed; None if nothing else is.
    """

    def __init__(
        self,
        network: nn.Module,
        metadata: Mapping[str, Any],
        name: str,
    ) -> None:
        self.decoder: Decoder | None = None
        self.reading: Reading | None = None
        self.network: Any = network.eval()
        self.metadata = dict(metadata)
        self.name = name
        self._continuous = self.metadata["action_space"].get("kind") == "box"
        self._signs = bool(self.metadata.get("signs", False))
        self._start = int(self.metadata["action_space"].get("start", 0))

    def _without_chance(self, scores: Tensor) -> Tensor:
        columns: int = getattr(self.network, "columns", 1)
        return as_many_positive(scores, columns) if self._signs else scores

    @property
    def fingerprint(self) -> str:
        """What tells its weights from others."""
        weights = (value.numpy().tobytes() for value in self.network.state_dict().values())
        return hashlib.sha256(b"".join(weights)).hexdigest()[:16]

    def begin(self, lanes: NDArray[np.int64], seeds: Sequence[int]) -> None:
        """Episodes begin in ``lanes``: nothing to do, the policy remembers nothing."""

    @in_isolation
    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return the best of the possible actions, or the mean of continuous ones.

        Args:
            observations: ``(..., F)``, or a mapping of parts with any leading axes.
            masks: Which discrete actions are possible, ``(..., A)``, or all levels of one device
                after the other; None if all are.

        Returns:
            Discrete actions, ``(...)``, levels of devices, ``(..., K)``, or scores of devices in
            [-1, 1], ``(..., K)`` or ``(..., K, columns)``.
        """
        own = observations if self.reading is None else self.reading.read(observations)
        with torch.no_grad():
            found = self.network(tensors(own))
            scores = self._without_chance(found).numpy()
        if self._continuous:
            actions = np.asarray(scores.clip(-1, 1), np.float32)
            if self.decoder is not None:
                if self.network.columns == 1:
                    actions = actions[..., None]
                actions = self.decoder.decode(observations, actions)
            return actions if self.reading is None else self.reading.complete(actions, observations)
        if masks is not None:
            scores = np.where(np.reshape(masks, scores.shape), scores, -np.inf)
        return np.asarray(scores.argmax(axis=-1) + self._start, np.int64)
