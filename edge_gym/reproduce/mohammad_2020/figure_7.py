"""Mohammad et al. 2020, Fig. 7."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_gym.reproduce.harness import NO, PARTLY, YES, Claim, Findings, Options
from edge_gym.reproduce.mohammad_2020.claims import general_claims, saving_claim, sooner
from edge_gym.reproduce.mohammad_2020.drawing import against_cycle
from edge_gym.reproduce.mohammad_2020.schemes import CAP_COLOURS, HA, HA_SYNC
from edge_gym.reproduce.mohammad_2020.sweeps import (
    LATE_TARGETS,
    Cell,
    Cells,
    by_energy,
    cycles_to,
    percent,
)


def async_mel_fig7(folder: Path, options: Options) -> Findings:
    """Redo Fig. 7 of Mohammad et al. 2020,: cycles to two accuracies against T, E of 10 and 20 J.

    Where the figure has 95.5 % the text speaks of 95 %.

    Raises:
        ValueError: If a value is out of range.
        OSError: If ``folder`` cannot be written to.
        edge_gym.data.DataError: If data are missing; the message says what to do.

    Source: Mohammad et al. 2020, Fig. 7, §5.1.2.
    """
    first, second = LATE_TARGETS[options.full]

    def claims(cells: Cells) -> list[Claim]:
        claims = []
        for cell, caps, target, one, other, words in (
            (Cell(10, 10), CAP_COLOURS, first, 7, 9, "95 % in 7 cycles, HA-Sync in 9"),
            (Cell(25, 10), (3, 4), second, 10, 11, "97.3 % in 10 cycles, HA-Sync in 11"),
        ):
            runs = cells.get(cell, {})
            names = [f"HA-Asyn, c = {cap}" for cap in caps if f"HA-Asyn, c = {cap}" in runs]
            if names:
                best = max(names, key=lambda name: float(sooner(target)(runs[name]).mean()))
                text = f"{cell.name}: {best} reaches {words}: {1 - one / other:.0%} fewer"
                said = 1 - one / other
                claim = saving_claim(text, runs, best, HA_SYNC, target, said, len(names))
                claims.append(claim)
        row = by_energy(cells).get(10.0, {})
        if row:
            claims.append(reaching_claim(row, second))
        return claims + cycles_claims(cells, (first, second))

    return against_cycle(folder, options, 7, (10.0, 20.0), ("cycles_to",), claims)


def reaching_claim(row: Cells, target: float) -> Claim:
    """Look for a cycle time, which is not in the text, at which only HA-Asyn gets so far."""
    outcomes, said = [], []
    for cell, runs in row.items():
        shares = {
            name: float(cycles_to(runs[name], target)[1].mean()) for name in HA[:4] if name in runs
        }
        own = shares.pop(HA_SYNC)
        reaching = [share > 0.5 >= own for share in shares.values()]
        outcomes.append(YES if all(reaching) else PARTLY if any(reaching) else NO)
        listed = ", ".join(f"{share:.0%}" for share in shares.values())
        said.append(f"T = {cell.cycle_s:g}: {own:.0%} against {listed}")
    return Claim(
        "E = 10, T not told: c = 1, 2, 3 reach 97.3 % within the cycles, HA-Sync does not",
        f"episodes that reach {percent(target)} %: {'; '.join(said)}",
        next((outcome for outcome in (YES, PARTLY) if outcome in outcomes), NO),
    )


def cycles_claims(cells: Cells, targets: Sequence[float]) -> list[Claim]:
    """Return the claims about cycles to target accuracies."""
    claims = []
    for energy_j, row in by_energy(cells).items():
        for target in targets:
            where = f"E = {energy_j:g}, cycles to {percent(target)} %"
            claims += general_claims(where, row, sooner(target))
    return claims
