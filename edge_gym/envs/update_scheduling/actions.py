"""What actions of update scheduling mean."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from edge_gym.core.actions import ActionCodec
from edge_gym.envs.update_scheduling.config import UpdateSchedulingConfig
from edge_gym.typing import BoolArray

SHARE_EXPONENT = 4.0
"""An agent that shares the band gives shares in proportion to exp(4ℓ), ℓ in [-1, 1]."""


class Decision(NamedTuple):
    """What is decided in a round; arrays of one shape ``(..., K)``.

    Attributes:
        scores: Who uploads; see ``select_devices``.
        band: Scores ℓ of the shares of the band, exp(4ℓ); None where actions have none.
        participation: Who takes part in the next round; see ``select_participants``. None where
            actions do not say.
    """

    scores: NDArray[Any]
    band: NDArray[Any] | None = None
    participation: NDArray[Any] | None = None


class SchedulingCodec(ActionCodec[Decision]):
    """What decides who uploads.

    Attributes:
        columns: Names of a device's numbers, fields of ``Decision``, in their order.
    """

    columns: tuple[str, ...] = ("scores",)


class ScoresCodec(SchedulingCodec):
    """Scores of all devices, ``(K,)``, or ``(K, columns)`` where each has more than one.

    Args:
        config: The configuration.
    """

    def __init__(self, config: UpdateSchedulingConfig) -> None:
        columns = ["scores"]
        if config.bandwidth == "agent":
            columns.append("band")
        if config.agent_chooses_participants:
            columns.append("participation")
        self.columns = tuple(columns)
        k = config.n_devices
        shape = (k, len(columns)) if len(columns) > 1 else (k,)
        self.space = spaces.Box(-1, 1, shape, np.float32)

    def decode(self, actions: NDArray[Any]) -> Decision:
        """Return what actions ``(..., K)`` or ``(..., K, columns)`` decide."""
        if len(self.columns) == 1:
            return Decision(actions)
        return Decision(**{name: actions[..., i] for i, name in enumerate(self.columns)})

    def encode(self, decision: Decision) -> NDArray[np.float32]:
        """Return the actions that decide this; what they have no column for is left out."""
        parts = [np.asarray(getattr(decision, name), np.float32) for name in self.columns]
        return parts[0] if len(parts) == 1 else np.stack(parts, axis=-1)


class DeviceCodec(SchedulingCodec):
    """The number of the one device that uploads.

    Args:
        config: The configuration.
    """

    def __init__(self, config: UpdateSchedulingConfig) -> None:
        self.n_devices = config.n_devices
        self.space = spaces.Discrete(config.n_devices)

    def decode(self, actions: NDArray[Any]) -> Decision:
        """Return scores, ``(..., K)``: 1 of the device, -1 of all others."""
        return Decision(np.where(np.arange(self.n_devices) == actions[..., None], 1, -1))

    def encode(self, decision: Decision) -> NDArray[np.int64]:
        """Return the device of the largest score, ``(...)``, the first where scores tie."""
        return np.asarray(np.argmax(decision.scores, axis=-1))


def action_codec(config: UpdateSchedulingConfig) -> SchedulingCodec:
    """Return the codec of the configuration's actions."""
    return DeviceCodec(config) if config.actions == "device" else ScoresCodec(config)


def select_devices(
    scores: NDArray[Any], participates: BoolArray, config: UpdateSchedulingConfig
) -> BoolArray:
    """Return who is scheduled, ``(..., K)``, of those that take part in the round.

    With ``selection="threshold"`` these are all whose score is above 0, else those of the largest
    scores; in any case the one of the largest score, the lower index where scores tie.

    Args:
        scores: ``(..., K)``.
        participates: Who takes part, at least one, ``(..., K)``.
        config: The configuration.
    """
    several = config.actions == "scores"
    fixed = several and config.selection == "top"
    order = np.argsort(np.where(participates, -scores, np.inf), axis=-1, kind="stable")
    scheduled = np.zeros(scores.shape, np.bool_)
    first = order[..., : config.uploads_per_round if fixed else 1]
    np.put_along_axis(scheduled, first, True, axis=-1)
    if several and not fixed:
        scheduled |= scores > 0
    return scheduled & participates


def select_participants(participation: NDArray[Any]) -> BoolArray:
    """Return who takes part in the next round, ``(..., K)``: above 0, or the largest if none is."""
    taking_part = participation > 0
    largest = np.argmax(participation, axis=-1, keepdims=True)
    np.put_along_axis(taking_part, largest, True, axis=-1)
    return np.asarray(taking_part)
