"""Rules of joint training and inference: JOINT's method, its benchmarks, and bounds.

Every rule decides for one iteration at a time. Where only the offloaded parts can be chosen, it
takes the grid's nearest; all else is optimal there.

Source: JOINT §III, §IV.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines.base import OURS, Baseline, DrawingBaseline
from edge_gym.core.observation import Observation
from edge_gym.envs.offloading.actions import OffloadingCodec, action_codec
from edge_gym.envs.offloading.config import SPLIT_LEVELS, OffloadingConfig
from edge_gym.envs.offloading.costs import offloading_costs
from edge_gym.runtime.checks import check_integer, check_number
from edge_gym.solvers.offloading import (
    Offloading,
    OffloadingCosts,
    admm,
    edge_only,
    exhaustive,
    given_bands,
    local_only,
    near_optimal,
    optimal_resources,
)

_COLUMNS = ("gain_db", "task_mbit", "training_s", "training_j", "previous_download_s")


class _Rule(Baseline):
    """A rule for one iteration."""

    config: OffloadingConfig

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Joint training and inference."""
        return isinstance(config, OffloadingConfig)

    @abstractmethod
    def decide(self, seen: Observation, costs: OffloadingCosts) -> Offloading:
        """Return the decisions, ``(..., M)`` each."""

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return the actions that mean these decisions."""
        seen = Observation(self.tables, observations)
        decision = self.decide(seen, observed_costs(seen, self.config))
        codec = action_codec(self.config)
        if isinstance(codec, OffloadingCodec):
            return codec.encode(decision)
        return codec.encode(decision.offloaded)


def observed_costs(seen: Observation, config: OffloadingConfig) -> OffloadingCosts:
    """Return what the iteration that begins costs, ``(..., M)``."""
    columns = {name: seen.device(name) for name in _COLUMNS}
    return offloading_costs(config, **columns, model_mbit=seen.system("model_mbit"))


@dataclass(frozen=True, kw_only=True)
class PenaltyParameters:
    """Parameters of ADMM.

    Attributes:
        penalty: Step size c; the document's 20 takes several times as many iterations.
        max_iterations: After how many iterations to stop.
    """

    penalty: float = 2.0
    max_iterations: int = 500

    def __post_init__(self) -> None:
        check_number("penalty", self.penalty, 0, open_low=True)
        check_integer("max_iterations", self.max_iterations, 1)


class Admm(_Rule):
    """The document's method: users decide in parallel, and agree on the band and on τ̂."""

    name = "admm"
    source = "JOINT Algorithm 1, eqs. (17)-(24)"
    Parameters = PenaltyParameters

    def decide(self, seen: Observation, costs: OffloadingCosts) -> Offloading:
        """Iterate until (24) holds."""
        parameters = self.parameters
        return admm(costs, parameters.penalty, max_iterations=parameters.max_iterations)[0]


class NearOptimal(_Rule):
    """The optimum of one iteration, but for the cells of a grid."""

    name = "near-optimal"
    source = "JOINT (10), solved by dynamic programming over bands"

    def decide(self, seen: Observation, costs: OffloadingCosts) -> Offloading:
        """Solve it."""
        return near_optimal(costs)


class Exhaustive(_Rule):
    """The best of all combinations of offloaded parts in steps of 0.2."""

    name = "exhaustive"
    source = "JOINT §IV, Optimal"

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Joint training and inference of few users."""
        return super().applies_to(config) and config.n_devices <= 4

    def decide(self, seen: Observation, costs: OffloadingCosts) -> Offloading:
        """Try all."""
        return exhaustive(costs)


class LocalOnly(_Rule):
    """All tasks are computed by the users."""

    name = "lco"
    source = "JOINT §IV, LCO"

    def decide(self, seen: Observation, costs: OffloadingCosts) -> Offloading:
        """Offload nothing."""
        return local_only(costs)


class EdgeOnly(_Rule):
    """All tasks are computed by the server."""

    name = "eco"
    source = "JOINT §IV, ECO"

    def decide(self, seen: Observation, costs: OffloadingCosts) -> Offloading:
        """Offload everything."""
        return edge_only(costs)


class GroupBandwidth(_Rule):
    """Uplinks and downlinks have half of the band each; all else is as good as possible."""

    name = "gbe"
    source = "JOINT §IV, GBE"

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Joint training and inference with bands to be chosen."""
        return super().applies_to(config) and config.actions == "direct"

    def decide(self, seen: Observation, costs: OffloadingCosts) -> Offloading:
        """Solve it under the halves."""
        return given_bands(costs)


@dataclass(frozen=True, kw_only=True)
class ThresholdParameters:
    """Parameters of the threshold on channels.

    Attributes:
        threshold_db: Users whose channel gain is above this offload; dB over the mean of Rayleigh
            fading at the cell's radius.
        offloaded: What they offload; the others offload nothing.
    """

    threshold_db: float = -3.0
    offloaded: float = 1.0

    def __post_init__(self) -> None:
        check_number("threshold_db", self.threshold_db)
        check_number("offloaded", self.offloaded, 0, 1)


class ChannelThreshold(_Rule):
    """Users with good channels offload, the others do not; all else is optimal."""

    name = "channel-threshold"
    source = OURS
    Parameters = ThresholdParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "threshold_db": (-15.0, -10.0, -6.0, -3.0, 0.0, 3.0),
        "offloaded": (0.4, 0.6, 0.8, 1.0),
    }

    def decide(self, seen: Observation, costs: OffloadingCosts) -> Offloading:
        """Compare gains with the threshold."""
        usual_db = next(c.centre for c in self.tables["devices"] if c.name == "gain_db")
        good = seen.device("gain_db") > usual_db + self.parameters.threshold_db
        return optimal_resources(costs, np.where(good, self.parameters.offloaded, 0.0))


@dataclass(frozen=True, kw_only=True)
class SplitParameters:
    """Parameters of a constant split.

    Attributes:
        offloaded: What everyone offloads.
    """

    offloaded: float = 0.6

    def __post_init__(self) -> None:
        check_number("offloaded", self.offloaded, 0, 1)


class ConstantSplit(_Rule):
    """Everyone offloads the same part; all else is optimal."""

    name = "constant-split"
    source = OURS
    Parameters = SplitParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"offloaded": (0.2, 0.4, 0.6, 0.8)}

    def decide(self, seen: Observation, costs: OffloadingCosts) -> Offloading:
        """Offload it."""
        return optimal_resources(costs, self.parameters.offloaded)


class RandomSplit(_Rule, DrawingBaseline):
    """Parts at random from the grid; all else is optimal."""

    name = "random-split"
    source = OURS

    @classmethod
    def is_zero(cls, config: Any) -> bool:
        """Bands at random let updates take minutes: they cost thirty times what any rule does."""
        return True

    def decide(self, seen: Observation, costs: OffloadingCosts) -> Offloading:
        """Draw them."""
        shape = costs.task_bits.shape
        draws = np.stack([rng.integers(SPLIT_LEVELS, size=shape[-1]) for rng in self._generators])
        return optimal_resources(costs, draws.reshape(shape) / (SPLIT_LEVELS - 1))


RULES: tuple[type[Baseline], ...] = (
    Admm,
    NearOptimal,
    Exhaustive,
    LocalOnly,
    EdgeOnly,
    GroupBandwidth,
    ChannelThreshold,
    ConstantSplit,
    RandomSplit,
)
"""The rules of joint training and inference."""
