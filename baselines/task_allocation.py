"""Rules of task allocation: how many samples learners get, and how often they go over them.

Source: Mohammad et al. 2020, §3 to §5; Sorour et al. 2020 on mitigation of risk.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines.base import OURS, Baseline, DrawingBaseline, NoParameters
from edge_gym.core.actions import ActionCodec
from edge_gym.core.observation import Observation
from edge_gym.envs.task_allocation.actions import CapCodec, TaskCodec
from edge_gym.envs.task_allocation.config import TaskAllocationConfig
from edge_gym.envs.task_allocation.costs import (
    TASK_COLUMNS,
    TASK_FIELDS,
    observed_costs,
    observed_total,
)
from edge_gym.physics.compute import cpu_energy, cpu_latency
from edge_gym.runtime.checks import check_choice, check_integer, check_number
from edge_gym.solvers.task_allocation import (
    TaskCosts,
    Tasks,
    equal_allocation,
    exact_allocation,
    exact_updates,
    split_samples,
    suggest_and_improve,
)
from edge_gym.typing import IntArray

CAPS = (0, 1, 2, 3, 4, 5, 7, None)
"""Caps on the staleness that tuning tries."""
CAP_SCHEDULES = {"cap": (0, 1, 2, 4), "cap_late": (0, 1, 2, 4, 7), "late_share": (0.25, 0.5)}
CAP_BOUNDS = {"cap": (0,)}


@dataclass(frozen=True, kw_only=True)
class CapParameters:
    """Parameters of rules under a cap on the staleness.

    Attributes:
        cap: Largest difference c of any two τ_k; None sets none.
    """

    cap: int | None = 1

    def __post_init__(self) -> None:
        if self.cap is not None:
            check_integer("cap", self.cap, 0)


class _Rule(Baseline):
    """A rule for tasks, with every learner's fair share of the band, full power and full speed."""

    needs: ClassVar[Mapping[str, Sequence[str]]] = TASK_COLUMNS
    needs_fields: ClassVar[Sequence[str]] = TASK_FIELDS
    needs_codec: ClassVar[type[ActionCodec[Any]] | None] = TaskCodec
    config: TaskAllocationConfig

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Every learner has samples that no other one has."""
        return bool(getattr(config, "redundancy", 1) == 1)

    @abstractmethod
    def tasks(self, seen: Observation, costs: TaskCosts, total: IntArray) -> Tasks:
        """Return samples and updates, ``(..., K)`` each; ``total`` has the shape ``(...)``."""

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return the actions that mean these tasks."""
        seen = Observation(self.tables, observations)
        costs, total = observed_costs(seen, self.config), observed_total(seen)
        tasks = self.tasks(seen, costs, total)
        samples = complete_samples(tasks, costs.max_samples, total)
        possible = costs.max_updates(np.minimum(samples, costs.max_samples))
        fewer = np.where(samples > tasks.samples, possible, tasks.updates)
        return TaskCodec(self.config).encode(Tasks(samples, np.minimum(fewer, tasks.updates)))


def complete_samples(tasks: Tasks, max_samples: NDArray[np.float64], total: IntArray) -> IntArray:
    """Return tasks' samples and what they leave of the total, for actions share out all of it.

    The rest goes where it changes nothing, to a learner without more samples of its own or without
    any to train on; where there is none, to the one with the fewest.

    Args:
        tasks: Samples and updates, ``(..., K)``.
        max_samples: Samples that learners have, ``(..., K)``.
        total: Samples of all learners, ``(...)``.
    """
    samples = tasks.samples
    taker = np.where(samples >= max_samples, -1, samples).argmin(axis=-1)[..., None]
    rest = np.maximum(total - samples.sum(axis=-1), 0)[..., None]
    return np.asarray(samples + rest * (np.arange(samples.shape[-1]) == taker))


@dataclass(frozen=True, kw_only=True)
class MethodParameters(CapParameters):
    """Parameters of heterogeneity-aware allocation.

    Attributes:
        method: ``"exact"``, or ``"suggest-and-improve"``: the relaxed synchronous optimum, then
            coordinate ascent.
    """

    method: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("method", self.method, ("exact", "suggest-and-improve"))


class HeterogeneityAware(_Rule):
    """The largest mean number of updates under a cap on the staleness."""

    name = "ha-asyn"
    source = "Mohammad et al. 2020, problem (16), Algorithm 1; its dual is replaced"
    Parameters: ClassVar[type[Any]] = MethodParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"cap": CAPS}
    further_grids: ClassVar[Sequence[Mapping[str, Sequence[Any]]]] = (CAP_SCHEDULES,)
    bounds = CAP_BOUNDS

    def tasks(self, seen: Observation, costs: TaskCosts, total: IntArray) -> Tasks:
        """Allocate exactly, or as Mohammad et al. do."""
        parameters, config = self.parameters, self.config
        solve = exact_allocation if parameters.method == "exact" else suggest_and_improve
        return solve(costs, total, parameters.cap, config.least_samples, config.most_updates)


class HeterogeneityAwareSynchronous(HeterogeneityAware):
    """The same with equal numbers of updates."""

    name = "ha-sync"
    source = "Mohammad et al. 2020, problem (17)"
    Parameters = NoParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {}
    further_grids = ()

    def __init__(self, env: Any, **parameters: Any) -> None:
        super().__init__(env, **parameters)
        self.parameters = MethodParameters(cap=0)


class ChosenCap(Baseline):
    """The largest mean number of updates under a cap on the staleness, where the cap is chosen."""

    name = "ha-asyn"
    source = HeterogeneityAware.source
    needs_codec = CapCodec
    Parameters: ClassVar[type[Any]] = CapParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"cap": CAPS}
    further_grids: ClassVar[Sequence[Mapping[str, Sequence[Any]]]] = (CAP_SCHEDULES,)
    bounds = CAP_BOUNDS
    config: TaskAllocationConfig

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return the choice that is nearest to the cap, the largest without one."""
        codec = CapCodec(self.config)
        cap = codec.caps.max() if self.parameters.cap is None else self.parameters.cap
        return codec.encode(np.full(observations["system"].shape[:-1], cap))


class ChosenSynchronous(ChosenCap):
    """Equal numbers of updates, where the cap on the staleness is chosen."""

    name = "ha-sync"
    source = HeterogeneityAwareSynchronous.source
    Parameters = NoParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {}
    further_grids = ()

    def __init__(self, env: Any, **parameters: Any) -> None:
        super().__init__(env, **parameters)
        self.parameters = CapParameters(cap=0)


class HeterogeneityUnaware(_Rule):
    """Equal numbers of samples, and as many updates as these allow, under a cap or none."""

    name = "hu-asyn"
    source = "Mohammad et al. 2020, §5, equal task allocation"

    @dataclass(frozen=True, kw_only=True)
    class Parameters(CapParameters):
        """Parameters of equal allocation, by default without a cap."""

        cap: int | None = None

    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"cap": CAPS}
    further_grids = (CAP_SCHEDULES,)
    bounds = CAP_BOUNDS

    def tasks(self, seen: Observation, costs: TaskCosts, total: IntArray) -> Tasks:
        """Share samples out evenly."""
        return equal_allocation(costs, total, self.parameters.cap)


class HeterogeneityUnawareSynchronous(_Rule):
    """Equal numbers of samples and of updates: what the slowest learner manages.

    Nobody trains where one learner cannot make one update on an equal part of the samples. Mohammad
    et al. (2020, §5) report the same: it fails to converge on several occasions.
    """

    name = "hu-sync"
    source = "Mohammad et al. 2020, §5, equal task allocation"

    @classmethod
    def note(cls, config: TaskAllocationConfig) -> str | None:
        """Say that it hardly ever trains where an equal part is more than a learner manages."""
        if config.samples_per_device is None or config.cycles_per_sample is None:
            return None
        samples = config.task_share * config.samples_per_device
        speeds = config.cpu_groups_hz or config.cpu_hz
        cycles = samples * config.cycles_per_sample
        joules = float(cpu_energy(cycles, max(speeds), config.capacitance))
        seconds = float(cpu_latency(cycles, min(speeds)))
        if joules > config.energy_limit_j:
            needs, has = f"{joules:.3g} J", f"{config.energy_limit_j:.3g} J on average"
            speed = max(speeds)
        elif seconds > config.cycle_s:
            needs, has, speed = f"{seconds:.3g} s", f"{config.cycle_s:.3g} s", min(speeds)
        else:
            return None
        return (
            "it hardly ever trains here: one update on an equal part of the samples, "
            f"{samples:g}, takes a learner of {speed / 1e9:.3g} GHz {needs}, it has {has} in a "
            "cycle, and with equal numbers of updates nobody makes one where one learner cannot "
            "(Mohammad et al. 2020, §5: equal allocation fails to converge on several occasions)"
        )

    def tasks(self, seen: Observation, costs: TaskCosts, total: IntArray) -> Tasks:
        """Share samples out evenly."""
        return equal_allocation(costs, total, 0)


class RandomShares(_Rule, DrawingBaseline):
    """The fewest samples for all, the others at random, and the updates that these allow."""

    name = "random-shares"
    source = OURS

    @classmethod
    def is_zero(cls, config: Any) -> bool:
        """Actions at random give many learners fewer samples than d_l, or too many to train on."""
        return True

    def tasks(self, seen: Observation, costs: TaskCosts, total: IntArray) -> Tasks:
        """Draw shares of what d_l leaves from the flat Dirichlet distribution."""
        shape = costs.base_s.shape
        least = np.minimum(self.config.least_samples, total // shape[-1])[..., None]
        draws = np.stack([rng.standard_exponential(shape[-1]) for rng in self.generators])
        shares = draws.reshape(shape) / draws.reshape(shape).sum(axis=-1, keepdims=True)
        ends = np.rint(np.cumsum(shares, axis=-1) * (total[..., None] - least * shape[-1]))
        samples = np.minimum(least + np.diff(ends, axis=-1, prepend=0), costs.max_samples)
        whole = samples.astype(np.int64)
        return Tasks(whole, costs.max_updates(whole))


def _with_least(filled: IntArray, least: int) -> IntArray:
    """Return samples ``(..., K)`` of learners filled in order, d_l at least of the last one.

    What it lacks is taken from those before it, the nearest first, each of which keeps d_l; where
    they have not as much, the last one gets none.
    """
    lacking = np.where((filled > 0) & (filled < least), least - filled, 0)
    wanted = lacking.sum(axis=-1, keepdims=True)
    spare = np.maximum(filled - least, 0)[..., ::-1]
    taken = np.clip(wanted - (np.cumsum(spare, axis=-1) - spare), 0, spare)[..., ::-1]
    enough = spare.sum(axis=-1, keepdims=True) >= wanted
    return np.where(enough, filled + lacking - taken, np.where(filled < least, 0, filled))


@dataclass(frozen=True, kw_only=True)
class UpdatesParameters:
    """Parameters of the rule that prefers strong learners.

    Attributes:
        updates: τ, the updates that a learner shall still make on the samples that it is given.
    """

    updates: int = 1

    def __post_init__(self) -> None:
        check_integer("updates", self.updates, 1)


class StrongestLearners(_Rule):
    """Few learners with many samples: those that hold the most ones for so many updates.

    The average moves as far as its learners do, weighted by their samples. How far one gets goes
    with τ_k·d_k, which time and energy bound; so weak learners hold the average back.
    """

    name = "strongest-learners"
    source = OURS
    Parameters = UpdatesParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"updates": (1, 2, 3, 4, 5, 6, 8, 12, 16, 24)}
    further_grids = (
        {"updates": (1, 2, 3, 6), "updates_late": (1, 2, 4, 8, 16), "late_share": (0.25, 0.5)},
    )
    bounds = {"updates": (1,)}  # noqa: RUF012

    def tasks(self, seen: Observation, costs: TaskCosts, total: IntArray) -> Tasks:
        """Fill one after the other; the last one gets what is left, d_l at least."""
        rooms = np.floor(costs.capacity(float(self.parameters.updates)) + 1e-9)
        # Who cannot hold d_l takes no part.
        rooms = np.where(rooms >= self.config.least_samples, rooms, 0)
        order = np.argsort(-rooms, axis=-1, kind="stable")
        ranked = np.take_along_axis(rooms, order, axis=-1)
        before = np.cumsum(ranked, axis=-1) - ranked
        filled = np.clip(total[..., None] - before, 0, ranked).astype(np.int64)
        filled = _with_least(filled, self.config.least_samples)
        samples = np.zeros(rooms.shape, np.int64)
        np.put_along_axis(samples, order, filled, axis=-1)
        return Tasks(samples, costs.max_updates(samples))


@dataclass(frozen=True, kw_only=True)
class ReliableParameters(CapParameters):
    """Parameters of the rule that leaves unreliable learners out.

    Attributes:
        max_drop_out: Learners that drop out more often are left out.
    """

    max_drop_out: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("max_drop_out", self.max_drop_out, 0, 1)


class ReliableLinks(_Rule):
    """The largest mean number of updates of the learners that seldom drop out."""

    name = "reliable-links"
    needs: ClassVar[Mapping[str, Sequence[str]]] = {
        **TASK_COLUMNS,
        "devices": (*TASK_COLUMNS["devices"], "drop_out"),
    }
    needs_fields = (*TASK_FIELDS, "drop_out")
    source = "Sorour et al. 2020, risk mitigation: elimination; Mohammad et al. 2020, problem (16)"
    Parameters = ReliableParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "max_drop_out": (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 1.0),
        "cap": (0, 1, 2, 3, 5, None),
    }
    further_grids = (
        {"max_drop_out": (0.1, 0.2, 0.3), "max_drop_out_late": (0.1, 0.2, 1.0), "cap": (1, 3)},
    )
    bounds = {**CAP_BOUNDS, "max_drop_out": (1.0,)}  # noqa: RUF012

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Learners drop out."""
        return super().applies_to(config) and config.drop_out > 0

    def tasks(self, seen: Observation, costs: TaskCosts, total: IntArray) -> Tasks:
        """Allocate among the reliable ones, or all where there is none."""
        reliable = seen.device("drop_out") <= self.parameters.max_drop_out
        reliable |= ~reliable.any(axis=-1, keepdims=True)
        kept = replace(costs, max_samples=np.where(reliable, costs.max_samples, 0.0))
        config = self.config
        return exact_allocation(
            kept, total, self.parameters.cap, config.least_samples, config.most_updates
        )


class CodedRedundancy(_Rule):
    """The largest mean number of updates of groups that train on the same samples."""

    name = "coded-redundancy"
    source = "Sorour et al. 2020, risk mitigation: redundancy; Mohammad et al. 2020, problem (16)"
    Parameters: ClassVar[type[Any]] = CapParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"cap": CAPS}
    further_grids = (CAP_SCHEDULES,)
    bounds = CAP_BOUNDS

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Groups of learners hold the same samples."""
        return bool(getattr(config, "redundancy", 1) > 1)

    def tasks(self, seen: Observation, costs: TaskCosts, total: IntArray) -> Tasks:
        """Allocate to groups, each as capable as the least of its learners."""
        config = self.config
        shape, r = costs.base_s.shape, self.config.redundancy
        table = costs.whole_capacities(config.most_updates)
        groups = table.reshape(*shape[:-1], -1, r, table.shape[-1]).min(axis=-2)
        updates = exact_updates(groups, total, self.parameters.cap, config.least_samples)
        taken = np.take_along_axis(groups, np.maximum(updates - 1, 0)[..., None], axis=-1)[..., 0]
        rooms = np.where(updates > 0, taken, 0)
        samples = split_samples(rooms, total, config.least_samples)
        own = costs.max_samples[..., ::r]
        samples = complete_samples(Tasks(samples, updates), own, total)
        possible = (groups >= np.minimum(samples, own)[..., None]).sum(axis=-1)
        updates = np.minimum(updates, possible)
        # The group's first learner is given all of it, which the others train on too.
        given = np.zeros((*samples.shape, r), np.int64)
        given[..., 0] = samples
        return Tasks(given.reshape(shape), np.repeat(updates, r, axis=-1))


RULES: tuple[type[Baseline], ...] = (
    HeterogeneityAware,
    HeterogeneityAwareSynchronous,
    ChosenCap,
    ChosenSynchronous,
    HeterogeneityUnaware,
    HeterogeneityUnawareSynchronous,
    RandomShares,
    StrongestLearners,
    ReliableLinks,
    CodedRedundancy,
)
"""The rules of task allocation."""
