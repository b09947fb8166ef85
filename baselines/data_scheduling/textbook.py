"""Textbook scheduling, on devices alone: round robin and proportional fair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines.data_scheduling.rule import AnySample, Seen
from edge_gym.physics.wireless import db_to_linear
from edge_gym.runtime.checks import check_number
from edge_gym.typing import Float64Array

_LEAST_RATE = 1e-12


class RoundRobin(AnySample):
    """Devices in turn, whatever their channel: the one that uploaded least recently.

    Which of its samples is drawn, where the device does not choose it.
    """

    name = "round-robin"
    source = "textbook"

    def index(self, seen: Seen) -> Float64Array:
        """Return the staleness in blocks; fewer uploads, then the lower device settle ties."""
        k, uploads = self.config.n_devices, seen.device("uploads")
        behind = (uploads + np.arange(k) / k) / (1 + uploads.max(axis=-1, keepdims=True))
        return np.asarray(seen.device("staleness") - behind)[..., None]


@dataclass(frozen=True, kw_only=True)
class ProportionalFairParameters:
    """Parameters of proportional fair scheduling.

    Attributes:
        window_blocks: t_c, blocks over which the served rate is averaged.
    """

    window_blocks: float = 20.0

    def __post_init__(self) -> None:
        check_number("window_blocks", self.window_blocks, 1)


class ProportionalFair(AnySample):
    """The largest R_k/T_k: the rate log₂(1 + γ_k) now over the average rate served.

    T_k ← (1 - 1/t_c)·T_k + R_k/t_c if device k uploaded in a block, else (1 - 1/t_c)·T_k; it begins
    at what device k would get in turn, M/K·log₂(1 + γ̄_k). Which of its samples is drawn, where the
    device does not choose it.
    """

    name = "proportional-fair"
    source = "Viswanath, Tse and Laroia 2002"
    Parameters = ProportionalFairParameters
    grid = {"window_blocks": (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 200.0, 1e3, 1e4)}  # noqa: RUF012
    further_grids = (
        {"window_blocks": (5.0, 20.0, 200.0, 1e4), "window_blocks_late": (2.0, 20.0, 1e4)},
    )
    # Only the last block counts; the average never moves.
    bounds = {"window_blocks": (1.0, 1e4)}  # noqa: RUF012

    def __init__(self, env: Any, **parameters: Any) -> None:
        super().__init__(env, **parameters)
        shape = (self.n_lanes, self.config.n_devices)
        self._served = np.zeros(shape)
        self._rate = np.zeros(shape)
        self._uploads = np.zeros(shape)
        self._begun = np.zeros(self.n_lanes, np.bool_)

    def begin(self, lanes: NDArray[np.int64], seeds: Sequence[int]) -> None:
        """Forget what was served in ``lanes``."""
        super().begin(lanes, seeds)
        self._begun[lanes] = False

    def index(self, seen: Seen) -> Float64Array:
        """Return R_k/T_k."""
        lanes = self.acting
        shape = (len(lanes), self.config.n_devices)
        rate = np.log2(1 + seen.snr).reshape(shape)
        uploads = seen.device("uploads").reshape(shape)
        mean_rate = np.log2(1 + db_to_linear(seen.device("mean_snr_db"))).reshape(shape)
        share = self.config.uploads_per_block / self.config.n_devices
        # A block is over when the uploads have changed: devices may be chosen in turns.
        begun, served, before = self._begun[lanes], self._served[lanes], self._uploads[lanes]
        over = begun & (uploads != before).any(axis=1)
        got = np.where(uploads > before, self._rate[lanes], 0)
        averaged = served + (got - served) / self.parameters.window_blocks
        served = np.where(over[:, None], averaged, served)
        served = np.where(begun[:, None], served, share * mean_rate)
        self._served[lanes], self._rate[lanes], self._uploads[lanes] = served, rate, uploads
        self._begun[lanes] = True
        ratio = rate / np.maximum(served, _LEAST_RATE)
        return np.asarray(ratio.reshape(seen.snr.shape)[..., None])
