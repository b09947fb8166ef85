"""The agents' networks in plain torch: what acts needs no stable-baselines3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU}
CLIP = 5.0
"""Scaled features stay within plus and minus this."""


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


class PolicyNetwork(nn.Module):
    """From observations to one score per action: PPO's logits or DQN's Q-values.

    Args:
        layers: Weight ``(out, in)`` and bias ``(out,)`` of each linear layer, first to last.
        activation: Name of what stands between them, one of ``ACTIVATIONS``.
        centre: What observations are centred on, ``(F,)``.
        spread: What they are divided by, ``(F,)``.
        clip: Bound on the scaled observations.

    Raises:
        ValueError: If the arrays do not fit together or are not finite.
    """

    def __init__(
        self,
        layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
        activation: str,
        centre: NDArray[np.float32],
        spread: NDArray[np.float32],
        clip: float = CLIP,
    ) -> None:
        super().__init__()
        width = len(centre)
        arrays = [centre, spread, *(array for layer in layers for array in layer)]
        if not all(np.isfinite(array).all() for array in arrays):
            raise ValueError("a network's numbers must be finite")
        modules: list[nn.Module] = []
        for weight, bias in layers:
            if weight.shape != (len(bias), width):
                raise ValueError(f"a layer of shape {weight.shape} does not follow {width} units")
            linear = nn.Linear(width, len(bias))
            linear.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
            modules += [linear, ACTIVATIONS[activation]()]
            width = len(bias)
        space = spaces.Box(-np.inf, np.inf, (len(centre),))
        self.scaling = ScaledFeatures(space, centre, spread, clip)
        self.trunk = nn.Sequential(*modules[:-1])
        self.activation = activation
        self.n_actions = width

    def forward(self, observations: Tensor) -> Tensor:
        """Return scores, ``(..., A)``."""
        scores: Tensor = self.trunk(self.scaling(observations))
        return scores


class AgentPolicy:
    """A trained agent as a policy: deterministic, for any number of lanes at a time.

    Args:
        network: Scores the actions.
        metadata: What the agent's file says of it.
        name: What results call it.

    Attributes:
        metadata: Algorithm, environment, recipe, seeds, versions and evaluation.
    """

    def __init__(self, network: PolicyNetwork, metadata: Mapping[str, Any], name: str) -> None:
        self.network = network.eval()
        self.metadata = dict(metadata)
        self.name = name
        self._start = int(self.metadata["action_space"]["start"])

    def begin(self, lanes: NDArray[np.int64], seeds: Sequence[int]) -> None:
        """Episodes begin in ``lanes``: nothing to do, the policy remembers nothing."""

    def act(
        self, observations: NDArray[Any], masks: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Return the best of the possible actions.

        Args:
            observations: ``(..., F)``.
            masks: Which actions are possible, ``(..., A)``; None if all are.

        Returns:
            Actions, ``(...)``.
        """
        with torch.no_grad():
            scores = self.network(torch.as_tensor(observations, dtype=torch.float32)).numpy()
        if masks is not None:
            scores = np.where(masks, scores, -np.inf)
        return np.asarray(scores.argmax(axis=-1) + self._start, np.int64)


def set_action_bias(head: nn.Linear, bias: Sequence[float]) -> None:
    """Let a policy begin with a preference: set the bias of its action layer.

    Raises:
        ValueError: If there is not one value per action.
    """
    if len(bias) != head.out_features:
        raise ValueError(
            f"action_bias must have one value for each of {head.out_features} actions, "
            f"got {list(bias)}"
        )
    with torch.no_grad():
        head.bias.copy_(torch.tensor(bias))
