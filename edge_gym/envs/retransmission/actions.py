"""What an action means: accept the received sample, or ask for it again."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from edge_gym.core.actions import ActionCodec
from edge_gym.typing import BoolArray

ACCEPT, RETRANSMIT = 0, 1


class AcceptOrRetransmit(ActionCodec[BoolArray]):
    """``Discrete(2)``: 0 accepts, 1 asks for another transmission."""

    def __init__(self) -> None:
        self.space = spaces.Discrete(2)

    def decode(self, actions: NDArray[Any]) -> BoolArray:
        """Return whether the sample is accepted, ``(...)``."""
        return np.asarray(actions == ACCEPT)

    def encode(self, decision: BoolArray) -> NDArray[Any]:
        """Return the actions that accept where ``decision`` is True."""
        return np.where(decision, ACCEPT, RETRANSMIT)
