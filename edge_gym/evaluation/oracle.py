"""What there is to win by finding out whose labels are wrong: rules that know it.

An oracle is no contender: policies see observations, it is told who is corrupt. It acts as a rule
does that leaves devices out by their losses, with the truth in the place of the losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines import find_baseline
from edge_gym.baselines.loss_cutoff import NAME, CutoffRule
from edge_gym.baselines.schedule import numeric_fields
from edge_gym.runtime.messages import shown

ORACLE = "label-oracle"
"""Its name where policies are named: ``label-oracle:rule=NAME,param=value``."""


class LabelOracle:
    """A rule that knows whose labels are wrong, and leaves them out.

    Args:
        env: The environment to act in, scalar or vector, wrapped or not.
        rule: Name of a rule with a ``loss_cutoff``.
        **parameters: Its other parameters.

    Raises:
        ValueError: If the rule does not apply or has no cutoff, or no labels are wrong, or those of
            half of the devices, which no median tells from the others.
        TypeError: If a parameter is unknown.
    """

    def __init__(self, env: Any, rule: str = "", **parameters: Any) -> None:
        found = find_baseline(rule, env)
        if not (issubclass(found, CutoffRule) and NAME in numeric_fields(found.Parameters)):
            raise ValueError(f"policy {ORACLE!r}: rule {shown(rule)} has no {NAME}")
        self.problem = env.unwrapped.problem
        config = self.problem.config
        if not 0 < 2 * config.corrupt_devices < config.n_devices:
            raise ValueError(
                f"policy {ORACLE!r} needs wrong labels on some devices, fewer than half: "
                f"corrupt_devices is {config.corrupt_devices} of {config.n_devices}"
            )
        # Losses of 1 are above any cutoff where the median is 0.
        self.rule = found(env, **{**parameters, NAME: 1.0})
        self._column = self.rule.tables["devices"].index(found.loss_column)

    def begin(self, lanes: NDArray[np.int64], seeds: Sequence[int]) -> None:
        """Forget the past of ``lanes``."""
        self.rule.begin(lanes, seeds)

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Act as the rule does where corrupt devices tell a loss of 1 and all others 0."""
        devices = observations["devices"].copy()
        corrupt: NDArray[np.bool_] = self.problem.corrupt
        devices[..., self._column] = corrupt.reshape(devices.shape[:-1])
        return self.rule.act({**observations, "devices": devices}, masks)
