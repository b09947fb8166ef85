"""Rules of joint training and inference: the method of Li et al. 2021, its benchmarks, and bounds.

Every rule decides for one iteration at a time. Where only the offloaded parts can be chosen, it
takes the grid's nearest; all else is optimal there.

Source: Li et al. 2021, §III and §IV.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines.base import OURS, Baseline, DrawingBaseline
from edge_gym.core.actions import ActionCodec
from edge_gym.core.observation import Observation
from edge_gym.envs.offloading.actions import OffloadingActions, OffloadingCodec
from edge_gym.envs.offloading.config import SPLIT_LEVELS, OffloadingConfig
from edge_gym.envs.offloading.costs import COST_COLUMNS, COST_FIELDS, observed_costs
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

_CAPS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_SHARES = {"cap": (0.0, 1.0), "offloaded": (0.0, 1.0)}
"""Ends of what can be offloaded: nothing and everything."""


class _Rule(Baseline):
    """A rule for one iteration."""

    needs: ClassVar[Mapping[str, Sequence[str]]] = COST_COLUMNS
    needs_fields = COST_FIELDS
    needs_codec: ClassVar[type[ActionCodec[Any]] | None] = OffloadingActions
    config: OffloadingConfig

    def __init__(self, env: Any, **parameters: Any) -> None:
        super().__init__(env, **parameters)
        self.codec: OffloadingActions[Any] = env.unwrapped.problem.codec

    @abstractmethod
    def decide(self, seen: Observation, costs: OffloadingCosts) -> Offloading:
        """Return the decisions, ``(..., M)`` each."""

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return the actions that mean these decisions."""
        seen = Observation(self.tables, observations)
        return self.codec.nearest(self.decide(seen, observed_costs(seen, self.config)))


@dataclass(frozen=True, kw_only=True)
class CapParameters:
    """Parameters of the rules that look for what to offload.

    Attributes:
        cap: Largest part of a task that is offloaded: where the rule wants more, it is cut to it,
            and band and frequencies are optimal for what is left. 1 is the rule as published.
    """

    cap: float = 1.0

    def __post_init__(self) -> None:
        check_number("cap", self.cap, 0, 1)


class _CappedRule(_Rule):
    """A published rule whose offloaded parts can be cut."""

    Parameters: ClassVar[type[Any]] = CapParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"cap": _CAPS}
    further_grids: ClassVar[Sequence[Mapping[str, Sequence[Any]]]] = (
        {"cap": (0.4, 0.6, 0.8, 1.0), "cap_late": (0.2, 0.4, 0.6, 0.8, 1.0)},
    )
    bounds: ClassVar[Mapping[str, Sequence[float]]] = _SHARES
    grouped: ClassVar[bool] = False
    """Whether uplinks and downlinks have half of the band each."""

    @abstractmethod
    def uncapped(self, costs: OffloadingCosts) -> Offloading:
        """Return the rule's own decisions, ``(..., M)`` each."""

    def is_adapted(self) -> bool:
        """The cap is an addition of this project too."""
        return super().is_adapted() or self.parameters.cap < 1

    def decide(self, seen: Observation, costs: OffloadingCosts) -> Offloading:
        """Cut what the rule offloads."""
        wanted, cap = self.uncapped(costs), self.parameters.cap
        if cap == 1:
            return wanted
        return optimal_resources(costs, np.minimum(wanted.offloaded, cap), grouped=self.grouped)


@dataclass(frozen=True, kw_only=True)
class PenaltyParameters(CapParameters):
    """Parameters of ADMM.

    Attributes:
        penalty: Step size c; the 20 of Li et al. takes several times as many iterations.
        max_iterations: After how many iterations to stop.
    """

    penalty: float = 2.0
    max_iterations: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("penalty", self.penalty, 0, open_low=True)
        check_integer("max_iterations", self.max_iterations, 1)


class Admm(_CappedRule):
    """The method of Li et al. 2021: users decide in parallel, and agree on the band and on τ̂."""

    name = "admm"
    source = "Li et al. 2021, Algorithm 1, eqs. (17)-(24)"
    Parameters = PenaltyParameters

    def uncapped(self, costs: OffloadingCosts) -> Offloading:
        """Iterate until (24) holds."""
        parameters = self.parameters
        return admm(costs, parameters.penalty, max_iterations=parameters.max_iterations)[0]


class NearOptimal(_CappedRule):
    """The optimum of one iteration, but for the cells of a grid."""

    name = "near-optimal"
    source = "Li et al. 2021, problem (10), solved by dynamic programming over bands"

    def uncapped(self, costs: OffloadingCosts) -> Offloading:
        """Solve it."""
        return near_optimal(costs)


class Exhaustive(_CappedRule):
    """The best of all combinations of offloaded parts in steps of 0.2."""

    name = "exhaustive"
    source = "Li et al. 2021, §IV, Optimal"
    # Its decisions take three to eleven times as long as the others', and are nearly the same as
    # those of ``near-optimal``: few caps are tried, and no schedules.
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"cap": (0.4, 0.6, 0.8, 1.0)}
    further_grids: ClassVar[Sequence[Mapping[str, Sequence[Any]]]] = ()

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """There are few users."""
        return bool(config.n_devices <= 4)

    def uncapped(self, costs: OffloadingCosts) -> Offloading:
        """Try all."""
        return exhaustive(costs)


class LocalOnly(_Rule):
    """All tasks are computed by the users."""

    name = "lco"
    source = "Li et al. 2021, §IV, LCO"

    def decide(self, seen: Observation, costs: OffloadingCosts) -> Offloading:
        """Offload nothing."""
        return local_only(costs)


class EdgeOnly(_Rule):
    """All tasks are computed by the server; with a cap it would be ``constant-split``."""

    name = "eco"
    source = "Li et al. 2021, §IV, ECO"

    def decide(self, seen: Observation, costs: OffloadingCosts) -> Offloading:
        """Offload everything."""
        return edge_only(costs)


class GroupBandwidth(_CappedRule):
    """Uplinks and downlinks have half of the band each; all else is as good as possible."""

    name = "gbe"
    source = "Li et al. 2021, §IV, GBE"
    needs_codec = OffloadingCodec
    grouped = True

    def uncapped(self, costs: OffloadingCosts) -> Offloading:
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
        "threshold_db": (-20.0, -15.0, -10.0, -6.0, -3.0, 0.0, 3.0),
        "offloaded": (0.4, 0.6, 0.7, 0.8, 0.9, 1.0),
    }
    further_grids = (
        {
            "threshold_db": (-10.0, -3.0),
            "offloaded": (0.6, 0.8, 1.0),
            "offloaded_late": (0.4, 0.6, 0.8, 1.0),
        },
    )
    bounds: ClassVar[Mapping[str, Sequence[float]]] = _SHARES

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
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"offloaded": _CAPS}
    further_grids = (
        {
            "offloaded": (0.4, 0.6, 0.8),
            "offloaded_late": (0.2, 0.4, 0.6, 0.8, 1.0),
            "late_share": (0.25, 0.5),
        },
    )
    bounds: ClassVar[Mapping[str, Sequence[float]]] = _SHARES

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
        draws = np.stack([rng.integers(SPLIT_LEVELS, size=shape[-1]) for rng in self.generators])
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
