"""Sorour et al. 2020, Figs. 2 and 3: cycles that adapted tasks save, and resources with them.

The article tells neither the energy limit nor the schemes by name: here it is 10 and 30 J, adapted
tasks are Mohammad et al.'s with the largest number of updates, and what is not adapted is equal
tasks. By default it is the small problem with ten learners; with ``--full`` the paper's with
twenty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edge_gym.reproduce.harness import Claim, Findings, Options, write_findings
from edge_gym.reproduce.mohammad_2020.claims import saving_claim
from edge_gym.reproduce.mohammad_2020.drawing import draw_curves
from edge_gym.reproduce.mohammad_2020.schemes import HA_SYNC, HU_ASYN, HU_SYNC, SCHEMES, Scheme
from edge_gym.reproduce.mohammad_2020.sweeps import Cells, Runs, Sweep, cells_of, numbers, percent

_CYCLE_S = 12.0
_ENERGIES_J = (10.0, 30.0)
# How many the article shows is not in the text; by then the last target is reached by most.
_CYCLES = 36

# Of the usual run, and the article's.
_FIG2_TARGETS = ((0.84, 0.87), (0.94, 0.97))
_FIG2_SAVED = (0.33, 0.5)
_ADAPTED = (HA_SYNC, "HA-Asyn, c = 1")
_FIG2 = (*_ADAPTED, HU_ASYN, HU_SYNC)

_FIG3_TARGETS = ((0.88,), (0.98,))
_FIG3_SAVED = {"tasks only": 0.5, "resources only": 0.57}
_FIG3: dict[str, Scheme] = {
    f"{name}, c = {cap}": Scheme(rule, {"cap": cap}, colour, dash)
    for cap, dash in ((1, "-"), (0, "--"))
    for name, rule, colour in (
        ("joint", "joint-task-resource", "#D55E00"),
        ("tasks only", "task-only", "#0072B2"),
        ("resources only", "resource-only", "#009E73"),
    )
}
_TASKS_ONLY = "tasks only, c = 1"


def mel_fig2(folder: Path, options: Options) -> Findings:
    """Redo Fig. 2: adapted against equal tasks, cycles of 12 s.

    Raises:
        ValueError: If a value is out of range.
        OSError: If ``folder`` cannot be written to.
        edge_gym.data.DataError: If data are missing; the message says what to do.

    Source: Sorour et al. 2020, Fig. 2, task adaptation.
    """
    names = (HA_SYNC, HU_ASYN, HU_SYNC) if options.quick else _FIG2
    sweep = Sweep(folder, options, usual={"cycles": _CYCLES})
    targets = _FIG2_TARGETS[options.full]
    title = "Fig. 2, adapted (HA) and equal tasks (HU)"
    schemes = {name: SCHEMES[name] for name in names}
    return _redo(sweep, "mel-fig2", title, schemes, targets, HU_ASYN, fig2_claims)


def fig2_claims(where: str, runs: Runs, targets: Sequence[float]) -> list[Claim]:
    """Return what the article says of Fig. 2, beside what was found."""
    claims = []
    for target, own, said in zip(targets, _FIG2_TARGETS[1], _FIG2_SAVED, strict=True):
        for one in _ADAPTED:
            for other in (HU_ASYN, HU_SYNC):
                if one in runs:
                    text = f"{where}: {one} needs {said:.0%} fewer cycles to {percent(own)} % than "
                    claims.append(saving_claim(text + other, runs, one, other, target, said))
    return claims


def mel_fig3(folder: Path, options: Options) -> Findings:
    """Redo Fig. 3: tasks and resources optimised together, and either of them alone.

    Raises:
        ValueError: If a value is out of range.
        OSError: If ``folder`` cannot be written to.
        edge_gym.data.DataError: If data are missing; the message says what to do.

    Source: Sorour et al. 2020, Fig. 3, joint task and resource optimisation.
    """
    ids = ("JointTaskResource-v0", "JointTaskResource-Paper-v0")
    sweep = Sweep(folder, options, *ids, usual={"cycles": _CYCLES})
    schemes = dict(list(_FIG3.items())[:3]) if options.quick else _FIG3
    targets = _FIG3_TARGETS[options.full]
    title = "Fig. 3, tasks and resources"
    return _redo(sweep, "mel-fig3", title, schemes, targets, _TASKS_ONLY, fig3_claims)


def fig3_claims(where: str, runs: Runs, targets: Sequence[float]) -> list[Claim]:
    """Return what the article says of Fig. 3, beside what was found."""
    claims = []
    for cap in (1, 0):
        one = f"joint, c = {cap}"
        for name, said in _FIG3_SAVED.items():
            if one in runs:
                own = percent(_FIG3_TARGETS[1][0])
                other = f"{name}, c = {cap}"
                text = f"{where}: {one} needs {said:.0%} fewer cycles to {own} % than {name}"
                claims.append(saving_claim(text, runs, one, other, targets[0], said))
    return claims


def _redo(
    sweep: Sweep,
    name: str,
    title: str,
    schemes: Mapping[str, Scheme],
    targets: Sequence[float],
    reference: str,
    claims: Callable[[str, Runs, Sequence[float]], list[Claim]],
) -> Findings:
    cells: Cells = sweep.run(cells_of((_CYCLE_S,), _ENERGIES_J, sweep.options), schemes)
    findings = sweep.findings(
        name,
        f"Sorour et al. 2020, {title}: {len(sweep.seeds)} episodes each, the same for all schemes",
        [claim for cell, runs in cells.items() for claim in claims(cell.name, runs, targets)],
        {cell.name: numbers(cell, runs, targets, reference) for cell, runs in cells.items()},
    )
    write_findings(findings, lambda findings, path: draw_curves(findings, path, schemes, True))
    return findings
