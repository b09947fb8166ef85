"""What a baseline is: a rule that acts on what an agent sees, and on the configuration."""

from __future__ import annotations

import functools
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from edge_gym.baselines.schedule import (
    LATE,
    LATE_SHARE,
    Schedule,
    find_budget,
    numeric_fields,
    split_late,
)
from edge_gym.core.actions import ActionCodec
from edge_gym.core.env import EdgeEnv
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.runtime.isolation import in_isolation
from edge_gym.runtime.messages import shown
from edge_gym.runtime.plain import plain_scalar

OURS = "edge_gym"
"""``Baseline.source`` of the rules of this project."""

PUBLISHED, ADAPTED, PROJECT = "published", "adapted", "project"
YOURS, REFERENCE = "yours", "reference"
"""Kinds of rules: from a paper or textbook; the same with what this project added to it, such as a
schedule; of this project; brought by its users; ``random`` and
``index``, by which others are measured."""


@dataclass(frozen=True, kw_only=True)
class NoParameters:
    """Parameters of a rule that has none."""


class Baseline(ABC):
    """A policy without learning.

    It reads observations, action masks and the public configuration, nothing else. Observations
    have any leading axes, so a rule acts on a vector environment's batch as on a single
    observation.

    Args:
        env: The environment to act in, scalar or vector, wrapped or not.
        **parameters: Fields of ``Parameters``; of each that is a number, ``x``, also ``x_late``,
            its value once no more than ``late_share`` of the budget is left, see ``schedule``.

    Attributes:
        name: Kebab-case name for the command line; of the rules of one name, at most one applies
            to an environment.
        source: Authors, year and equation, or ``edge_gym`` for a rule of this project.
        Parameters: Dataclass of the parameters, with the papers' symbols.
        grid: Values that tuning tries, by parameter, in every combination.
        further_grids: What it tries besides, such as schedules, with few values of all else.
        bounds: Natural ends of parameters: where one of them is best, no wider grid finds more.
            None, no limit at all, is one too.
        needs: Columns that it reads, by part of the observation, ``""`` for a flat one.
        needs_fields: Fields of the configuration that it reads.
        needs_space: Class or classes of action spaces that it acts in; None for any.
        needs_actions_per: What actions may be of, see ``Problem.actions_per``; None for anything.
        needs_codec: Class of the problem's ``codec``, which says what actions mean; None for any.
        tuned_only: Whether the rule acts with parameters that were searched alone, as weights are;
            it is then not listed among those that apply, but for its tuned version.
        parameters: The parameters that hold: the early ones, or within ``act`` those of the lanes
            that it is called for.
        schedule: The late parameters, None where they are the early ones.
        acting: The lanes that ``act`` is called for: all, or of a rule with a schedule those whose
            parameters are the same.

    Raises:
        ValueError: If the rule does not apply to this environment or a value is out of range.
        TypeError: If a parameter is unknown.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    Parameters: ClassVar[type[Any]] = NoParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {}
    further_grids: ClassVar[Sequence[Mapping[str, Sequence[Any]]]] = ()
    bounds: ClassVar[Mapping[str, Sequence[float]]] = {}
    needs: ClassVar[Mapping[str, Sequence[str]]] = {}
    needs_fields: ClassVar[Sequence[str]] = ()
    needs_space: ClassVar[type[spaces.Space[Any]] | tuple[type[spaces.Space[Any]], ...] | None] = (
        None
    )
    needs_actions_per: ClassVar[str | Sequence[str] | None] = None
    needs_codec: ClassVar[type[ActionCodec[Any]] | None] = None
    tuned_only: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "act" in cls.__dict__:
            cls.act = _by_schedule(cls.__dict__["act"])  # type: ignore[method-assign]
        for name in ("__init__", "begin", "act"):
            if name in cls.__dict__:
                setattr(cls, name, in_isolation(cls.__dict__[name]))

    @in_isolation
    def __init__(self, env: Any, **parameters: Any) -> None:
        lanes: EdgeEnv | EdgeVectorEnv = env.unwrapped
        if (reason := self.misses(lanes)) is not None:
            raise ValueError(f"policy {self.name!r} does not apply to this environment: {reason}")
        self.parameters, late, share = self.read_parameters(parameters)
        self.schedule: Schedule | None = None
        if late:
            budget = find_budget(lanes.tables, lanes.config)
            if budget is None:
                raise ValueError(
                    f"policy {self.name!r} cannot change its parameters here: "
                    "there is no column of what is left of the budget"
                )
            self.schedule = Schedule(late, share, replace(self.parameters, **late), budget)
        self.config: Any = lanes.config
        self.tables = lanes.tables
        self.n_lanes: int = getattr(lanes, "num_envs", 1)
        self.acting: NDArray[np.intp] = np.arange(self.n_lanes)
        self.action_space: spaces.Space[Any] = getattr(
            lanes, "single_action_space", lanes.action_space
        )

    @classmethod
    def applies(cls, env: Any) -> bool:
        """Return whether the rule can act in an environment, scalar or vector, wrapped or not."""
        return cls.misses(env) is None

    @classmethod
    def misses(cls, env: Any) -> str | None:
        """Return what an environment lacks for this rule, in a few words; None if nothing.

        What the class's ``needs`` and ``needs_...`` state is looked for, then ``applies_to`` asked.
        """
        lanes = env.unwrapped
        if cls.needs_space is not None:
            space = getattr(lanes, "single_action_space", lanes.action_space)
            if not isinstance(space, cls.needs_space):
                return f"it does not act in {space}"
        if cls.needs_actions_per is not None:
            known = (
                [cls.needs_actions_per]
                if isinstance(cls.needs_actions_per, str)
                else cls.needs_actions_per
            )
            if lanes.actions_per not in known:
                return f"its actions are per {' or '.join(known)}, not {lanes.actions_per}"
        if cls.needs_codec is not None and not isinstance(
            getattr(lanes.problem, "codec", None), cls.needs_codec
        ):
            return f"its actions are those of {cls.needs_codec.__name__}"
        for part, columns in cls.needs.items():
            for column in columns:
                if part not in lanes.tables or column not in lanes.tables[part]:
                    return f"there is no column {column!r}" + (f" of {part}" if part else "")
        for name in cls.needs_fields:
            if not hasattr(lanes.config, name):
                return f"its configuration has no field {name!r}"
        return None if cls.applies_to(lanes.config) else "not under this configuration"

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Return whether the rule makes sense under a configuration; it does unless told better."""
        return True

    @classmethod
    def is_zero(cls, config: Any) -> bool:
        """Return whether this is where scores begin under a configuration that it applies to.

        The zero of scores is a policy without skill that respects the problem. It is ``random``
        unless another rule says that it is: where actions at random break what the problem is
        about, nearly all rules would score 1.
        """
        return False

    @classmethod
    def note(cls, config: Any) -> str | None:
        """Return what must be known of the rule's results under a configuration, None if nothing.

        It is one sentence without a full stop, such as why the rule cannot do here what it is for.
        """
        return None

    @classmethod
    def read_parameters(cls, given: Mapping[str, Any]) -> tuple[Any, dict[str, Any], float]:
        """Return early parameters, what of them is another late, and the share left from when on.

        Raises:
            ValueError: If a value is out of range.
            TypeError: If a parameter is unknown.
        """
        known = [field.name for field in fields(cls.Parameters)]
        if changing := [name + LATE for name in numeric_fields(cls.Parameters)]:
            known += [*changing, LATE_SHARE]
        for parameter in given:
            if parameter not in known:
                raise TypeError(
                    f"policy {cls.name!r} has no parameter {shown(parameter)}; "
                    + (f"it has {', '.join(known)}" if known else "it has none")
                )
        # Written with the results, so in Python's own types.
        plain = {parameter: plain_scalar(value) for parameter, value in given.items()}
        early, late, share = split_late(cls.Parameters, plain)
        parameters = cls.Parameters(**early)
        replace(parameters, **late)  # which raises where a value is out of range
        late = {name: value for name, value in late.items() if value != getattr(parameters, name)}
        return parameters, late, share

    def named_parameters(self) -> dict[str, Any]:
        """Return the parameters by name, those of the schedule too if there is one."""
        named = self.schedule.named() if self.schedule is not None else {}
        return {**asdict(self.parameters), **named}

    @classmethod
    def grid_for(cls, config: Any) -> Mapping[str, Sequence[Any]]:
        """Return the values that tuning tries under a configuration, all of ``grid``."""
        return cls.grid

    @classmethod
    def further_grids_for(cls, config: Any) -> Sequence[Mapping[str, Sequence[Any]]]:
        """Return what else it tries under a configuration, all of ``further_grids``."""
        return cls.further_grids

    @classmethod
    def bounds_for(cls, config: Any) -> Mapping[str, Sequence[float]]:
        """Return natural ends of parameters under a configuration, ``bounds``."""
        return cls.bounds

    @classmethod
    def points(cls, config: Any) -> list[dict[str, Any]]:
        """Return the parameters that tuning tries: every combination of each of its grids."""
        found = []
        for grid in (cls.grid_for(config), *cls.further_grids_for(config)):
            for values in itertools.product(*grid.values()) if grid else ():
                point = dict(zip(grid, values, strict=True))
                # A parameter whose late value is the early one does not change.
                if all(value != point.get(name + LATE, ...) for name, value in point.items()):
                    found.append(point)
        return found

    @classmethod
    def at_ends(cls, config: Any, parameters: Mapping[str, Any]) -> list[str]:
        """Return which of tuned parameters may be better beyond the values that tuning tries.

        These are numbers at an end of what is tried, unless it is one of ``bounds``; those of a
        schedule have the bounds of the parameter. Where None is tried, it is the upper end.
        """
        tried: dict[str, list[Any]] = {}
        for point in cls.points(config):
            for name, value in point.items():
                tried.setdefault(name, []).append(value)
        bounds, found = cls.bounds_for(config), []
        for name, value in parameters.items():
            of = name.removesuffix(LATE)
            if name == LATE_SHARE or of not in numeric_fields(cls.Parameters) or value is None:
                continue
            if value in bounds.get(of, ()):
                continue
            values = tried.get(name, [])
            numbers = [one for one in values if one is not None]
            inside = bool(numbers) and min(numbers) < value
            if not inside or (None not in values and max(numbers) <= value):
                found.append(name)
        return found

    def kind(self) -> str:
        """Return the kind, such as ``"published"``; ``"yours"`` of a rule of another package."""
        if type(self).__module__.partition(".")[0] != "edge_gym":
            return YOURS
        if self.source == OURS:
            return PROJECT
        return ADAPTED if self.is_adapted() else PUBLISHED

    def is_adapted(self) -> bool:
        """Return whether parameters are in use that a published rule has not: here a schedule's."""
        return self.schedule is not None

    def begin(self, lanes: NDArray[np.int64], seeds: Sequence[int]) -> None:  # noqa: B027
        """Forget the past of ``lanes``, where episodes with these seeds begin."""

    @abstractmethod
    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return actions for observations with any leading axes."""


_Act = Callable[..., NDArray[Any]]


def _by_schedule(act: _Act) -> _Act:
    """Let lanes act with the early parameters or the late ones, those of the same together."""

    @functools.wraps(act)
    def acting(
        rule: Baseline, observations: Any, masks: NDArray[np.bool_] | None = None
    ) -> NDArray[Any]:
        schedule = rule.schedule
        if schedule is None:
            return act(rule, observations, masks)
        late = schedule.is_late(observations)
        kept = rule.parameters, rule.acting
        # What it calls of its base class has the parameters by then.
        rule.schedule = None
        try:
            if late.all() or not late.any():
                rule.parameters = schedule.parameters if late.all() else rule.parameters
                return act(rule, observations, masks)
            actions: NDArray[Any] | None = None
            for where, parameters in ((~late, rule.parameters), (late, schedule.parameters)):
                rule.parameters, rule.acting = parameters, np.flatnonzero(where)
                own = act(rule, _of(observations, where), None if masks is None else masks[where])
                if actions is None:
                    actions = np.empty((*late.shape, *own.shape[1:]), own.dtype)
                actions[where] = own
            assert actions is not None
            return actions
        finally:
            rule.schedule = schedule
            rule.parameters, rule.acting = kept

    return acting


def _of(observations: Any, where: NDArray[np.bool_]) -> Any:
    """Return the observations of some lanes."""
    if isinstance(observations, Mapping):
        return {part: values[where] for part, values in observations.items()}
    return observations[where]


class DrawingBaseline(Baseline):
    """A baseline that draws random numbers; each episode's draws follow from its seed."""

    def __init__(self, env: Any, **parameters: Any) -> None:
        super().__init__(env, **parameters)
        self._generators = [np.random.default_rng() for _ in range(self.n_lanes)]

    def begin(self, lanes: NDArray[np.int64], seeds: Sequence[int]) -> None:
        """Seed the draws of ``lanes``, apart from the environment's own stream."""
        for lane, seed in zip(lanes, seeds, strict=True):
            self._generators[lane] = np.random.default_rng([1, seed])

    @property
    def generators(self) -> list[np.random.Generator]:
        """The generators of the lanes that act."""
        return [self._generators[lane] for lane in self.acting]


class RandomPolicy(DrawingBaseline):
    """Uniform over the possible actions."""

    name = "random"
    source = OURS

    def kind(self) -> str:
        """It is what others are measured by."""
        return REFERENCE

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Draw one action per lane."""
        space = self.action_space
        if isinstance(space, spaces.Discrete):
            if masks is None:
                masks = np.ones((self.n_lanes, int(space.n)), np.bool_)
            draws = np.array([rng.random() for rng in self.generators])
            possible = np.cumsum(masks.reshape(self.n_lanes, -1), axis=1)
            drawn = np.argmax(possible > draws[:, None] * possible[:, -1:], axis=1)
            return np.asarray(drawn + space.start)
        if isinstance(space, spaces.MultiDiscrete):
            if masks is None:
                masks = np.ones((self.n_lanes, int(space.nvec.sum())), np.bool_)
            masks = masks.reshape(self.n_lanes, -1)
            parts = np.split(masks, np.cumsum(space.nvec)[:-1], axis=1)
            possible = np.stack([part.sum(axis=1) for part in parts], axis=1)
            drawn = np.stack(
                [rng.integers(n) for rng, n in zip(self.generators, possible, strict=True)]
            )
            # The value that so many possible ones stand before.
            columns = [
                np.argmax(np.cumsum(part, axis=1) > n[:, None], axis=1)
                for part, n in zip(parts, drawn.T, strict=True)
            ]
            return np.asarray(np.stack(columns, axis=1) + space.start)
        if isinstance(space, spaces.Box):
            return np.stack([rng.uniform(space.low, space.high) for rng in self.generators]).astype(
                space.dtype
            )
        raise TypeError(f"no random actions in {space}")
