"""A score that is linear in the observed columns, and its weights by the columns' names.

Every device, sample or system gets the score Σ_j (v_j + w_j·b)·x_j, where the x_j are observed
columns less their centre over their spread, or 1, and b goes from 1, the whole budget is left, to
-1, it is spent. What scores mean is said problem by problem, in ``rules``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines.base import OURS, REFERENCE, Baseline
from edge_gym.baselines.schedule import find_budget
from edge_gym.core.observation import Observation, ObservationTable
from edge_gym.runtime.checks import check_number
from edge_gym.runtime.messages import shown
from edge_gym.runtime.yaml import load_yaml
from edge_gym.typing import Float64Array

Columns = Mapping[str, Sequence[str]]
"""Names of columns by part of the observation, ``""`` for a flat one."""

_CLIP = 5.0  # spreads from the centre beyond which columns count no more
_LEFT = " * left"
_ONE = "1"
_SHOWN = 4  # names that a message lists


def read_weights(path: str | Path) -> dict[str, float]:
    """Return the weights in a file that ``edge-gym tune --method cma`` wrote.

    Raises:
        ValueError: If there is no such file, or it holds no mapping.
        OSError: If it cannot be read.
    """
    try:
        found = load_yaml(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no file of weights {shown(str(path))}") from None
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} holds no weights by name")
    return dict(found)


@dataclass(frozen=True, kw_only=True)
class IndexParameters:
    """Parameters of a linear index.

    Attributes:
        weights: By name, those that are left out are 0; or the path of a YAML file of them. The
            name of a column's weight is ``part.column``, or ``column`` where the observation is
            flat, that of the constant ``1``; of products with the budget that is left ``" * left"``
            follows. Where several scores make an action, a score's name and ``/`` stand before.
    """

    weights: Mapping[str, float] | str = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = read_weights(self.weights) if isinstance(self.weights, str) else self.weights
        if not isinstance(given, Mapping):
            raise ValueError(f"weights must be a mapping or a file's path, got {shown(given)}")
        for name, value in given.items():
            check_number(f"the weight of {shown(name)}", value)
        plain = {str(name): float(value) for name, value in given.items()}
        object.__setattr__(self, "weights", plain)


class IndexPolicy(Baseline):
    """A policy that acts on linear scores, with weights that were searched.

    A problem of your own gets one by a subclass that states its columns and makes actions of
    ``scores``; ``edge-gym tune ID --method cma --policy module:Class`` finds its weights.

    Attributes:
        columns: What scores are linear in; those that a configuration lacks are left out.
        constant: Whether scores have a constant; where only their order counts it changes nothing.

    Raises:
        ValueError: If there are no weights, or one is of a column that is not observed.
    """

    name = "index"
    source = OURS
    tuned_only = True
    Parameters = IndexParameters
    columns: ClassVar[Columns]
    constant: ClassVar[bool] = True

    def __init__(self, env: Any, **parameters: Any) -> None:
        super().__init__(env, **parameters)
        weights: Mapping[str, float] = self.parameters.weights
        if not weights:
            raise ValueError(
                f"policy {self.name!r} has no weights: edge-gym tune ID --method cma finds them"
            )
        names = self.weight_names(env)
        if unknown := [name for name in weights if name not in names]:
            more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
            raise ValueError(
                f"policy {self.name!r} has weights of what is not observed here: "
                f"{', '.join(unknown[:_SHOWN])}{more}"
            )
        self.codec: Any = env.unwrapped.problem.codec
        self._seen = self._observed(self.tables)
        self._budget = find_budget(self.tables, self.config)
        of_each = np.array([weights.get(name, 0.0) for name in names])
        # Of each score, first the weights of the terms themselves, then those of the products.
        self._weights = of_each.reshape(
            len(self.score_names(self.config)), 1 if self._budget is None else 2, -1
        )

    def kind(self) -> str:
        """It shows what a linear index can do, and is no rule that somebody thought of."""
        return REFERENCE

    @classmethod
    def score_names(cls, config: Any) -> tuple[str, ...]:
        """Return the names of the scores of each device, sample or system; one by default."""
        return ("score",)

    @classmethod
    def weight_names(cls, env: Any) -> list[str]:
        """Return the names of all weights in an environment, in the order of the search."""
        lanes = env.unwrapped
        terms = [_ONE] * cls.constant
        terms += [f"{part}.{name}".lstrip(".") for part, name in cls._observed(lanes.tables)]
        if find_budget(lanes.tables, lanes.config) is not None:
            terms += [term + _LEFT for term in terms]
        scores = cls.score_names(lanes.config)
        if len(scores) == 1:
            return terms
        return [f"{score}/{term}" for score in scores for term in terms]

    @classmethod
    def _observed(cls, tables: Mapping[str, ObservationTable]) -> list[tuple[str, str]]:
        """Return part and name of the columns that there are."""
        return [
            (part, name)
            for part, names in cls.columns.items()
            if part in tables
            for name in names
            if name in tables[part]
        ]

    def scores(self, seen: Observation) -> Float64Array:
        """Return the scores, of the shape of the finest part that is read, and one axis of scores.

        Args:
            seen: The observation; a flat one is its part ``""``.
        """
        read = [self._scaled(seen, part, name) for part, name in self._seen]
        ndim = max((values.ndim for values in read), default=0)
        left: Float64Array | None = None
        if self._budget is not None:
            part, at = self._budget.part, self._budget.column
            share = seen.read(part, self.tables[part].columns[at].name) / self._budget.total
            left = np.asarray(2 * share - 1)
            ndim = max(ndim, left.ndim)
        terms = [_aligned(values, ndim) for values in read]
        shape = np.broadcast_shapes(*(term.shape for term in terms))
        ones = [np.ones(shape)] * self.constant
        matrix = np.stack([*ones, *(np.broadcast_to(term, shape) for term in terms)], axis=-1)
        scores = matrix @ self._weights[:, 0].T
        if left is not None:
            scores += _aligned(left, ndim)[..., None] * (matrix @ self._weights[:, 1].T)
        return np.asarray(scores)

    def _scaled(self, seen: Observation, part: str, name: str) -> Float64Array:
        """Return a column in spreads from its centre."""
        table = self.tables[part]
        column = table.columns[table.index(name)]
        scaled = (seen.read(part, name) - column.centre) / column.spread
        return np.asarray(np.clip(scaled, -_CLIP, _CLIP))


def _aligned(values: NDArray[np.float64], ndim: int) -> Float64Array:
    """Give an array the axes of finer parts, which it lacks at its end."""
    return values.reshape(values.shape + (1,) * (ndim - values.ndim))
