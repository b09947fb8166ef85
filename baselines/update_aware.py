"""Published rules of update scheduling that weigh updates against channels.

Source: Amiri et al. 2021; Ren et al. 2020; Chen et al. 2018.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edge_gym.baselines.base import Baseline, DrawingBaseline
from edge_gym.baselines.update_scheduling_base import (
    DEVICES,
    LEAST,
    NumberParameters,
    TopRule,
    reading,
    remaining_s,
)
from edge_gym.core.observation import Observation
from edge_gym.runtime.checks import check_integer, check_number
from edge_gym.typing import BoolArray, Float64Array

_UPDATES = ("gradient-norm", "model-variation")
_HALVINGS = 60


@dataclass(frozen=True, kw_only=True)
class CandidateParameters(NumberParameters):
    """Parameters of best channels, then largest updates.

    Attributes:
        candidates: K_c, devices of the best channels, among which the largest updates are
            scheduled; if fewer than are to be scheduled, the next best channels follow.
    """

    candidates: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("candidates", self.candidates, 1)


class BestChannelBestNorm(TopRule):
    """BC-BN2: of the K_c best channels the largest updates."""

    name = "best-channel-best-norm"
    source = "Amiri et al. 2021, BC-BN2"
    indicators: ClassVar[tuple[str, ...]] = _UPDATES
    needs = reading("indicator", "efficiency")
    Parameters = CandidateParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "devices": DEVICES,
        "candidates": (1, 2, 3, 4, 6, 8),
    }
    few: ClassVar[Mapping[str, Sequence[Any]]] = {"candidates": (6,)}

    @classmethod
    def grid_for(cls, config: Any) -> Mapping[str, Sequence[Any]]:
        """Return candidates up to all devices."""
        own = tuple(n for n in cls.grid["candidates"] if n < config.n_devices)
        return {**super().grid_for(config), "candidates": (*own, config.n_devices)}

    @classmethod
    def points(cls, config: Any) -> list[dict[str, Any]]:
        """Leave out what schedules as with other candidates: fewer than are scheduled."""
        return [
            point
            for point in super().points(config)
            if point["candidates"] >= point.get("devices", 1)
        ]

    @classmethod
    def bounds_for(cls, config: Any) -> Mapping[str, Sequence[float]]:
        """Candidates are at least one, and at most all."""
        return {**super().bounds_for(config), "candidates": (1, config.n_devices)}

    def index(self, observed: Observation) -> Float64Array:
        """Return the indicator of candidates; of the others minus their place by channel."""
        taking_part = observed.device("participates") > 0
        efficiency = np.where(taking_part, observed.device("efficiency"), -np.inf)
        place = np.argsort(np.argsort(-efficiency, axis=-1, kind="stable"), axis=-1)
        is_candidate = place < self.parameters.candidates
        return np.where(is_candidate, observed.device("indicator"), -1.0 - place)


@dataclass(frozen=True, kw_only=True)
class TradeOffParameters(NumberParameters):
    """Parameters of probabilistic scheduling.

    Attributes:
        trade_off: ρ, the weight of updates; 1 - ρ is that of seconds.
    """

    trade_off: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("trade_off", self.trade_off, 0, 1, open_low=True)


class ImportanceChannelSampling(TopRule, DrawingBaseline):
    """Devices at random, with the probabilities of the best trade-off of updates and seconds.

    They minimise ρ·Σ a_k²/p_k + (1 - ρ)·Σ p_k·t_k, the variance of a gradient estimated from one
    device and the time that its upload takes: p_k = a_k·√(ρ/((1 - ρ)·t_k + λ)), where λ makes them
    sum to 1. a_k is n_k·‖g_k‖ over the sum of all, the gradient divergence; t_k is the time over
    its mean, so that ρ has no unit. Several devices are drawn one after the other without
    replacement. The paper weighs what arrives by 1/p_k, which makes the estimate unbiased; here the
    server averages by samples.
    """

    name = "importance-channel-sampling"
    source = "Ren et al. 2020, importance- and channel-aware probabilistic scheduling"
    indicators: ClassVar[tuple[str, ...]] = _UPDATES
    needs = reading("indicator", "samples")
    Parameters = TradeOffParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "devices": DEVICES,
        "trade_off": (1e-4, 1e-3, 0.01, 0.1, 0.5, 1.0),
    }
    few: ClassVar[Mapping[str, Sequence[Any]]] = {"trade_off": (0.01,)}
    # Seconds alone; updates alone.
    bounds: ClassVar[Mapping[str, Sequence[float]]] = {"trade_off": (1e-4, 1.0)}

    def index(self, observed: Observation) -> Float64Array:
        """Return log p_k plus Gumbel noise: the largest are a sample without replacement."""
        probability = self.probabilities(observed)
        shape = probability.shape
        draws = np.stack([rng.gumbel(size=shape[-1]) for rng in self.generators])
        return np.asarray(np.log(np.maximum(probability, LEAST)) + draws.reshape(shape))

    def probabilities(self, observed: Observation) -> Float64Array:
        """Return p_k of those who take part, ``(..., K)``."""
        taking_part: BoolArray = observed.device("participates") > 0
        importance = observed.device("samples") * observed.device("indicator")
        importance = np.where(taking_part, np.maximum(importance, LEAST), 0)
        importance /= importance.sum(axis=-1, keepdims=True)
        seconds = np.where(taking_part, remaining_s(observed, self.config), 0)
        number = taking_part.sum(axis=-1, keepdims=True)
        seconds = seconds / np.maximum(seconds.sum(axis=-1, keepdims=True) / number, LEAST)
        weight = self.parameters.trade_off
        price = (1 - weight) * seconds
        price -= np.where(taking_part, price, np.inf).min(axis=-1, keepdims=True)
        price = np.maximum(price, 0)
        # With λ' = λ + the least price: the sum falls with λ', and is at most 1 at λ' = ρ.
        low, high = np.zeros(number.shape), np.full(number.shape, weight)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            total = (importance * np.sqrt(weight / (price + middle))).sum(axis=-1, keepdims=True)
            low, high = np.where(total > 1, middle, low), np.where(total > 1, high, middle)
        return np.asarray(importance * np.sqrt(weight / (price + high)))


class GradientDivergence(TopRule):
    """The largest changes of the update since its last upload: lazily aggregated gradients.

    There, a device uploads where the change exceeds what recent steps of the model suggest; here
    those of the largest changes do, M of them.
    """

    name = "gradient-divergence"
    source = "Wen et al. 2019 §2.2.2; Chen et al. 2018, LAG, the device's side of the condition"
    indicators: ClassVar[tuple[str, ...]] = _UPDATES
    needs = reading("change")

    def index(self, observed: Observation) -> Float64Array:
        """Return the change."""
        return observed.device("change")


RULES: tuple[type[Baseline], ...] = (
    BestChannelBestNorm,
    ImportanceChannelSampling,
    GradientDivergence,
)
"""The rules that weigh updates against channels."""
