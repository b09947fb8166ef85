"""What an agent's scores mean where they are no actions yet, and the registry of such meanings.

A continuous action may have to meet limits so exactly that noise on it, by which PPO explores,
breaks them: a learner given one sample too many does one update less. There an agent may score
something else, of which a *decoder* makes the action, from what the agent sees and nothing more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.registry import Registry


class Decoder(ABC):
    """Turns scores in [-1, 1] into actions.

    Args:
        env: The environment, scalar or vector.

    Attributes:
        columns: Scores of each device.

    Raises:
        ValueError: If it does not suit the environment.
    """

    columns: int

    @abstractmethod
    def decode(self, observations: Any, scores: NDArray[Any]) -> NDArray[np.float32]:
        """Return actions, ``(..., K, c)``, for scores ``(..., K, columns)``."""


DECODERS: Registry[Callable[..., Decoder]] = Registry("decoder")
"""Decoders by the names that recipes use; each is called with the environment and parameters."""


def register_decoder(name: str, decoder: Callable[..., Decoder] | str) -> None:
    """Register a decoder; ``network.decoder`` of recipes then takes it by name.

    Args:
        name: Its name.
        decoder: The class, or where it is, ``"module:Class"``. It is called with the environment
            and the parameters that a recipe gives, and raises a ``ValueError`` if it does not suit.

    Raises:
        ValueError: If the name cannot be written, or is taken.
    """
    DECODERS.register(name, decoder)


register_decoder("residual", "edge_gym.agents.decoders.residual:Residual")
register_decoder("fill-in-order", "edge_gym.agents.decoders.task_allocation:FillInOrder")
register_decoder("optimal-resources", "edge_gym.agents.decoders.offloading:OptimalResources")
register_decoder("optimal-slots", "edge_gym.agents.decoders.batch_slot:OptimalSlots")


def make_decoder(wanted: Mapping[str, Any], env: Any) -> Decoder:
    """Make a decoder for an environment.

    Args:
        wanted: ``name`` of the decoder, and its parameters.
        env: The environment, scalar or vector.

    Raises:
        ValueError: If there is none of this name, a parameter is wrong or it does not suit.
    """
    parameters = {name: value for name, value in wanted.items() if name != "name"}
    name: Any = wanted.get("name")
    kind = DECODERS.find(name)
    try:
        return kind(env, **parameters)
    except TypeError as error:
        raise ValueError(f"the decoder {name!r} has other parameters: {error}") from error
