"""Scores added to what a baseline does, in any problem with continuous actions of devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from edge_gym.agents.decoders.base import Decoder
from edge_gym.baselines import make_baseline
from edge_gym.baselines.base import Baseline, DrawingBaseline
from edge_gym.runtime.checks import check_number
from edge_gym.runtime.messages import shown


class Residual(Decoder):
    """Scores are added to what a baseline does.

    Args:
        env: The environment.
        policy: ``name`` of the baseline, and its parameters.
        scale: What a score of 1 adds.

    Source: Johannink et al., "Residual Reinforcement Learning for Robot Control", 2019.
    """

    def __init__(self, env: Any, *, policy: Mapping[str, Any], scale: float = 0.2) -> None:
        self._baseline = fixed_baseline(env, policy)
        space = self._baseline.action_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 2:
            raise ValueError(f"a residual needs continuous actions of devices, not {space}")
        self.columns = space.shape[1]
        check_number("scale", scale, 0)
        self._scale = scale

    def decode(self, observations: Any, scores: NDArray[Any]) -> NDArray[np.float32]:
        """Add them to the baseline's actions; what has no scores stays the baseline's."""
        unscored = self.columns - scores.shape[-1]
        scores = np.pad(scores, [(0, 0)] * (scores.ndim - 1) + [(0, unscored)])
        actions = self._baseline.act(observations) + self._scale * scores
        return np.clip(actions, -1, 1).astype(np.float32)


def fixed_baseline(env: Any, policy: Mapping[str, Any]) -> Baseline:
    """Make the baseline that is learned around.

    Raises:
        ValueError: If it does not suit the environment, or draws.
    """
    if not isinstance(policy, Mapping) or not isinstance(policy.get("name"), str):
        raise ValueError(f"policy must be a mapping with name, got {shown(policy)}")
    parameters = {name: value for name, value in policy.items() if name != "name"}
    baseline = make_baseline(policy["name"], env, **parameters)
    if isinstance(baseline, DrawingBaseline):
        raise ValueError(f"{policy['name']} acts at random: an agent cannot learn around it")
    return baseline
