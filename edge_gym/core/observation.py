"""Observation tables, where each column's name, unit and bounds are stated, and reading by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from edge_gym.typing import Float64Array


@dataclass(frozen=True)
class Column:
    """One observed quantity.

    Attributes:
        name: Its name, in the field's terms.
        unit: Its unit, ``"1"`` for ratios and counts' own word for counts.
        low: Lower bound; values are clipped to it.
        high: Upper bound; values are clipped to it.
        meaning: What it is, for the docstring.
        centre: A typical value, in the column's unit.
        spread: A typical deviation from it; ``(value - centre) / spread`` suits a network.
    """

    name: str
    unit: str
    low: float
    high: float
    meaning: str
    centre: float = 0.0
    spread: float = 1.0


class ObservationTable:
    """The columns of an observation's last axis, in order."""

    def __init__(self, *columns: Column) -> None:
        self.columns = columns
        self._index = {column.name: i for i, column in enumerate(columns)}
        self.low = np.array([column.low for column in columns], np.float32)
        self.high = np.array([column.high for column in columns], np.float32)

    def __repr__(self) -> str:
        return self.markdown()

    def __len__(self) -> int:
        return len(self.columns)

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    def __contains__(self, name: str) -> bool:
        return name in self._index

    def index(self, name: str) -> int:
        """Return the position of a column.

        Raises:
            KeyError: If there is none of this name; the message lists the names.
        """
        if name not in self._index:
            raise KeyError(f"no column {name!r}; the columns are {', '.join(self._index)}")
        return self._index[name]

    def read(self, observation: NDArray[Any], name: str) -> NDArray[Any]:
        """Return one column of ``(..., F)`` observations, shape ``(...)``."""
        return observation[..., self.index(name)]

    def space(self, *leading: int) -> spaces.Box:
        """Return the Box of observations of shape ``(*leading, F)``."""
        shape = (*leading, len(self))
        low, high = np.broadcast_to(self.low, shape), np.broadcast_to(self.high, shape)
        return spaces.Box(low, high, dtype=np.float32)

    def scaling(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return centres and spreads, ``(F,)`` each."""
        return (
            np.array([column.centre for column in self.columns], np.float32),
            np.array([column.spread for column in self.columns], np.float32),
        )

    def fill(self, values: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Assemble observations from one array per column, clipped to the bounds.

        Raises:
            KeyError: If a column is missing.
        """
        first = np.asarray(values[self.columns[0].name])
        filled = np.empty((*first.shape, len(self)), np.float32)
        for i, column in enumerate(self.columns):
            filled[..., i] = values[column.name]
        return np.clip(filled, self.low, self.high, out=filled)

    def markdown(self, indent: str = "") -> str:
        """Return the table in Markdown, for docstrings."""
        rows = ["| # | name | unit | low | high | meaning |", "|---|---|---|---|---|---|"]
        rows += [
            f"| {i} | `{c.name}` | {c.unit} | {c.low:g} | {c.high:g} | {c.meaning} |"
            for i, c in enumerate(self.columns)
        ]
        return f"\n{indent}".join(rows)


class Observation:
    """An observation by name: a view of its columns, with which rules and decoders read it.

    Args:
        tables: The observation's tables by part.
        observations: The observation's parts, with any leading axes.
    """

    def __init__(
        self, tables: Mapping[str, ObservationTable], observations: Mapping[str, NDArray[Any]]
    ) -> None:
        self._tables, self._observations = tables, observations

    def read(self, part: str, name: str) -> Float64Array:
        """Return a column of a part, of the part's shape without its last axis.

        Raises:
            KeyError: If there is no such part or column.
        """
        return np.asarray(self._tables[part].read(self._observations[part], name), np.float64)

    def device(self, name: str) -> Float64Array:
        """Return a column of the devices, ``(..., K)``."""
        return self.read("devices", name)

    def system(self, name: str) -> Float64Array:
        """Return a column of the system so that it broadcasts against devices, ``(..., 1)``."""
        return self.read("system", name)[..., None]
