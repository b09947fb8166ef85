"""Mohammad et al. 2020, Fig. 6."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from edge_gym.reproduce.harness import Claim, Findings, Options, verdict, with_interval
from edge_gym.reproduce.mohammad_2020.claims import accuracy_after, all_of, general_claims
from edge_gym.reproduce.mohammad_2020.drawing import against_cycle
from edge_gym.reproduce.mohammad_2020.schemes import HA_SYNC
from edge_gym.reproduce.mohammad_2020.sweeps import Cell, Cells, by_energy, marks_of


class _Said(NamedTuple):
    """That caps are ahead of HA-Sync in one cell.

    Attributes:
        cell: The cell.
        which: 0 for half of the cycles or the first target, 1 for all or the second.
        caps: The caps.
        words: How the paper says it.
    """

    cell: Cell
    which: int
    caps: tuple[int, ...]
    words: str


_FIG6_SAID = (
    _Said(Cell(15, 10), 0, (1,), "94.4 %, HA-Sync below 94 %"),
    _Said(Cell(20, 10), 0, (1,), "95.4 %, HA-Sync below 94 %"),
    _Said(Cell(20, 10), 0, (2,), "above 94.5 %, HA-Sync below 94 %"),
    _Said(Cell(20, 20), 0, (1, 2, 3), "97 %"),
    _Said(Cell(35, 20), 0, (2, 3, 4), "97 %"),
    _Said(Cell(10, 10), 1, (1,), "by more than .4 points"),
    _Said(Cell(20, 10), 1, (1, 2), "by more than .4 points"),
    _Said(Cell(5, 20), 1, (5,), "by .1 to .3 points"),
    _Said(Cell(10, 20), 1, (2,), "by .1 to .3 points"),
    _Said(Cell(15, 20), 1, (2,), "by .1 to .3 points"),
    _Said(Cell(20, 20), 1, (4,), "by .1 to .3 points"),
    _Said(Cell(25, 20), 1, (4,), "by .1 to .3 points"),
)


def async_mel_fig6(folder: Path, options: Options) -> Findings:
    """Redo Fig. 6: accuracy after 6 and 12 cycles against T, E of 10 and 20 J.

    Raises:
        ValueError: If a value is out of range.
        OSError: If ``folder`` cannot be written to.
        edge_gym.data.DataError: If data are missing; the message says what to do.

    Source: Mohammad et al. 2020, Fig. 6, §5.1.2.
    """

    def claims(cells: Cells) -> list[Claim]:
        return said_claims(cells) + accuracy_claims(cells)

    return against_cycle(folder, options, 6, (10.0, 20.0), ("after",), claims)


def said_claims(cells: Cells) -> list[Claim]:
    """Return the accuracies that the paper tells, beside what was found."""
    claims = []
    for said in _FIG6_SAID:
        runs = cells.get(said.cell, {})
        names = [f"HA-Asyn, c = {cap}" for cap in said.caps]
        if not set(names) <= set(runs):
            continue
        value = accuracy_after(said.which)
        own = value(runs[HA_SYNC])
        gains = {name: value(runs[name]) - own for name in names}
        mark = marks_of(runs[HA_SYNC])[said.which]
        caps = ", ".join(str(cap) for cap in said.caps)
        claims.append(
            Claim(
                f"{said.cell.name}, after {mark} cycles: c = {caps} above HA-Sync ({said.words})",
                f"HA-Sync {own.mean():.4f}; "
                + ", ".join(
                    f"{name.rpartition(', ')[2]} {with_interval(gain)}"
                    for name, gain in gains.items()
                ),
                all_of(map(verdict, gains.values())),
            )
        )
    return claims


def accuracy_claims(cells: Cells) -> list[Claim]:
    """Return the claims about mean accuracies."""
    claims = []
    for energy_j, row in by_energy(cells).items():
        for which, mark in enumerate(marks_of(next(iter(row.values()))[HA_SYNC])):
            claims += general_claims(
                f"E = {energy_j:g}, accuracy after {mark} cycles", row, accuracy_after(which)
            )
    return claims
