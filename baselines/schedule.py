"""Parameters of rules that change along an episode: one value early, another late.

A parameter ``x`` that is a number keeps its value until no more than ``late_share`` of the budget
is left; from then on it is ``x_late``. Without ``x_late`` it stays what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.core.observation import ObservationTable
from edge_gym.runtime.checks import check_number
from edge_gym.typing import BoolArray

LATE = "_late"
"""What stands behind a parameter's name where its late value is meant."""
LATE_SHARE = "late_share"
"""Name of the share of the budget that is left when late values begin."""
USUAL_SHARE = 0.25

_BUDGETS = (
    ("budget_left", "budget"),
    ("time_left", "budget_s"),
    ("cycles_left", "cycles"),
    ("iterations_left", "iterations"),
)
"""Columns of what is left of the budget, and fields of what there is in the beginning."""
_ROUNDING = 1e-6


@dataclass(frozen=True)
class BudgetColumn:
    """Where an observation says how much of the budget is left.

    Attributes:
        part: Part of the observation, ``""`` for a flat one.
        column: Position in the part's last axis.
        total: What there is in the beginning, in the column's unit.
    """

    part: str
    column: int
    total: float

    def share_left(self, observations: Any) -> NDArray[np.float64]:
        """Return the share that is left, of the observations' leading axes."""
        part = observations[self.part] if isinstance(observations, Mapping) else observations
        return np.asarray(part[..., self.column], np.float64) / self.total


@dataclass(frozen=True)
class Schedule:
    """The late parameters of a rule, and when they begin.

    Attributes:
        late: Values by parameter, without ``_late``.
        share: Share of the budget left at which they begin.
        parameters: All of the rule's parameters then.
        budget: Where it is observed.
    """

    late: dict[str, Any]
    share: float
    parameters: Any
    budget: BudgetColumn

    def is_late(self, observations: Any) -> BoolArray:
        """Return where the late parameters hold, of the observations' leading axes."""
        return np.asarray(self.budget.share_left(observations) <= self.share * (1 + _ROUNDING))

    def named(self) -> dict[str, Any]:
        """Return the parameters of the schedule by name."""
        return {**{name + LATE: value for name, value in self.late.items()}, LATE_SHARE: self.share}


def find_budget(tables: Mapping[str, ObservationTable], config: Any) -> BudgetColumn | None:
    """Return where the budget left is observed, None if it is not."""
    for column, field in _BUDGETS:
        for part, table in tables.items():
            if column in table and hasattr(config, field):
                return BudgetColumn(part, table.index(column), float(getattr(config, field)))
    return None


def numeric_fields(parameters: type[Any]) -> list[str]:
    """Return the fields of a dataclass that are annotated as numbers, or as numbers or None."""
    return [field.name for field in fields(parameters) if _is_number(field.type)]


def split_late(
    parameters: type[Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], float]:
    """Return the parameters given early, the late ones that are not None, and ``late_share``.

    Args:
        parameters: The dataclass of the parameters, whose fields may have any name.
        given: Values by name.

    Raises:
        ValueError: If the share is not between 0 and 1.
    """
    own = {field.name for field in fields(parameters)}
    early = {name: value for name, value in given.items() if name in own}
    further = {name: value for name, value in given.items() if name not in own}
    share = further.pop(LATE_SHARE, USUAL_SHARE)
    check_number(LATE_SHARE, share, 0, 1, open_low=True, open_high=True)
    late = {name.removesuffix(LATE): value for name, value in further.items() if value is not None}
    return early, late, share


def _is_number(annotation: Any) -> bool:
    # Read as it is written: of a user's annotations, some may have no value at run time.
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return {part.strip() for part in text.split("|")} - {"None"} in ({"int"}, {"float"})
