"""A parameter that many rules share: devices whose losses are too high are left out.

Devices with wrong labels learn badly and tell high losses; so do those whose data nobody else has,
early in training. A rule that has the parameter avoids both as long as it is so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edge_gym.baselines.base import Baseline
from edge_gym.baselines.schedule import numeric_fields
from edge_gym.core.observation import Observation
from edge_gym.runtime.checks import check_number
from edge_gym.typing import BoolArray

NAME = "loss_cutoff"
CUTOFFS = (1.1, 1.3, 1.6, 2.2)
"""What tuning tries where labels may be wrong."""


@dataclass(frozen=True, kw_only=True)
class CutoffParameters:
    """Parameters of rules that may leave devices out.

    Attributes:
        loss_cutoff: Devices whose last told loss is above so many medians of all devices' are left
            out, at least 1; None leaves nobody out, and is the rule as published.
    """

    loss_cutoff: float | None = None

    def __post_init__(self) -> None:
        if self.loss_cutoff is not None:
            check_number(NAME, self.loss_cutoff, 1)


class CutoffRule(Baseline):
    """A rule that may leave out devices whose losses are too high.

    It is so for rules whose ``Parameters`` have a ``loss_cutoff``; those with parameters of another
    kind leave nobody out.

    Attributes:
        loss_column: The devices' column of told losses.
        with_cutoff: Few values of the other parameters, with which tuning tries it.
    """

    Parameters: ClassVar[type[Any]] = CutoffParameters
    loss_column: ClassVar[str]
    with_cutoff: ClassVar[Mapping[str, Sequence[Any]]] = {}

    @classmethod
    def cutoff_grid(cls, config: Any) -> Mapping[str, Sequence[Any]]:
        """Return the cutoffs that are tried: none unless some labels are wrong."""
        tried = config.corrupt_devices > 0 and NAME in numeric_fields(cls.Parameters)
        return {NAME: CUTOFFS} if tried else {}

    @classmethod
    def grid_for(cls, config: Any) -> Mapping[str, Sequence[Any]]:
        """Return the grid; where a rule has nothing else to tune, the cutoffs."""
        return cls.grid or cls.cutoff_grid(config)

    @classmethod
    def further_grids_for(cls, config: Any) -> Sequence[Mapping[str, Sequence[Any]]]:
        """Return the further grids and that of the cutoffs."""
        cutoffs = cls.cutoff_grid(config) if cls.grid else {}
        return [*cls.further_grids, *([{**cls.with_cutoff, **cutoffs}] if cutoffs else [])]

    def is_adapted(self) -> bool:
        """The cutoff is an addition of this project too."""
        return super().is_adapted() or self.cutoff is not None

    @property
    def cutoff(self) -> float | None:
        """The cutoff that holds, None where nobody is left out."""
        return getattr(self.parameters, NAME, None)

    def avoided(self, observed: Observation) -> BoolArray:
        """Return whose told loss is above the cutoff, ``(..., K)``; nobody's without one."""
        losses = observed.device(self.loss_column)
        if self.cutoff is None:
            return np.zeros(losses.shape, np.bool_)
        return np.asarray(losses > self.cutoff * np.median(losses, axis=-1, keepdims=True))
