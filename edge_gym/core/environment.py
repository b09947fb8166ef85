"""What the scalar and the vector environment share."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from edge_gym.core.observation import ObservationTable
from edge_gym.core.problem import Problem
from edge_gym.core.state import check_form, declared_arrays
from edge_gym.registry import load
from edge_gym.runtime.isolation import in_isolation
from edge_gym.runtime.messages import shown
from edge_gym.typing import BoolArray


class OfProblem:
    """What an environment tells of its problem, whose tables stand in the docstring.

    Attributes:
        problem: The problem.
    """

    problem_type: ClassVar[type[Problem]]
    problem: Problem

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__doc__ and hasattr(cls, "problem_type"):
            for part, table in cls.problem_type.documented_tables.items():
                mark = f"{{{part or 'observation'}_table}}"
                cls.__doc__ = cls.__doc__.replace(mark, table.markdown("    "))
            for name, text in cls.problem_type.documented_texts.items():
                cls.__doc__ = cls.__doc__.replace(f"{{{name}}}", text.replace("\n", "\n    "))

    @property
    def tables(self) -> dict[str, ObservationTable]:
        """The observation's tables by part: ``""`` for a flat observation."""
        return self.problem.tables

    @property
    def actions_per(self) -> str | None:
        """What actions are of, ``"device"``, ``"sample"`` or others; see ``Problem``."""
        return self.problem.actions_per

    @property
    def action_fill(self) -> float | None:
        """Value of action columns that are not given; see ``Problem``."""
        return self.problem.action_fill


class Copied:
    """Copies hold ordinary tensors, although they may be made in torch's inference mode."""

    @in_isolation
    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin


def problem_of(env: Any, problem: type[Problem] | str | None) -> type[Problem]:
    """Return the class of an environment's problem: as given, or as its own class states it.

    Raises:
        TypeError: If neither says it.
        ValueError: If there is no such class.
    """
    if isinstance(problem, str):
        problem = load(problem)
    found: Any = problem if problem is not None else getattr(type(env), "problem_type", None)
    if not isinstance(found, type) or not issubclass(found, Problem):
        raise TypeError(f"problem must be a subclass of Problem, got {shown(found)}")
    return found


def check_render_mode(render_mode: str | None, known: Sequence[str]) -> None:
    """Raise a ValueError unless the render mode is known or None."""
    if render_mode is not None and render_mode not in known:
        raise ValueError(
            f"render_mode must be one of {', '.join(known)} or None, got {shown(render_mode)}"
        )


def set_problem_state(problem: Problem, state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Restore ``state`` in all lanes, or leave ``own``, which is theirs, as it is.

    Raises:
        ValueError: If the state is damaged.
    """
    check_form(state, own, growing_arrays(problem))
    lanes = np.arange(problem.n_lanes)
    try:
        problem.set_state(lanes, state["problem"])
    except Exception as error:
        problem.set_state(lanes, own["problem"])
        cause = " ".join(str(error).split())
        raise ValueError(f"the state is damaged ({cause[:150]}): take another") from error


def growing_arrays(problem: Problem) -> frozenset[str]:
    """Return the names of arrays whose axes other than the first may differ between states."""
    declared = declared_arrays(type(problem)).items()
    own = {name for name, array in declared if array.growing}
    parts = (getattr(getattr(problem, part), "growing", ()) for part in problem.state_parts)
    return frozenset(own).union(*parts)


def masks_of(problem: Problem) -> BoolArray:
    """Return which actions are possible, ``(n_lanes, A)``; an AttributeError if not discrete."""
    masks = problem.action_masks()
    if masks is not None:
        return masks
    space = problem.action_space
    if isinstance(space, spaces.Discrete):
        size = int(space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        size = int(space.nvec.sum())
    else:
        raise AttributeError(f"{type(problem).__name__} has no discrete actions to mask")
    return np.ones((problem.n_lanes, size), np.bool_)


def lane_of(observation: Any, lane: int) -> Any:
    """Return one lane of a batch of observations, copied."""
    if isinstance(observation, dict):
        return {part: values[lane].copy() for part, values in observation.items()}
    return observation[lane].copy()
