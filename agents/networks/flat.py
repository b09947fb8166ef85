"""Multilayer perceptrons on flat observations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_gym.agents.networks.activations import ACTIVATIONS
from edge_gym.agents.networks.scaling import CLIP, ScaledFeatures


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
