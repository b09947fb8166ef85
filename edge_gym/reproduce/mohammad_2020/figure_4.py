"""Mohammad et al. 2020, Fig. 4."""

from __future__ import annotations

from pathlib import Path

from edge_gym.evaluation.statistics import mean_intervals
from edge_gym.reproduce.harness import (
    NO,
    OPEN,
    PARTLY,
    YES,
    Claim,
    Findings,
    Options,
    verdict,
    with_interval,
    write_findings,
)
from edge_gym.reproduce.mohammad_2020.claims import CONVERGED, SAME, all_of
from edge_gym.reproduce.mohammad_2020.drawing import draw_curves
from edge_gym.reproduce.mohammad_2020.schemes import (
    HA_SYNC,
    HU_ASYN,
    HU_SYNC,
    SCHEMES,
    SUGGESTED,
    chosen,
)
from edge_gym.reproduce.mohammad_2020.sweeps import (
    PANELS,
    Cells,
    Sweep,
    cells_of,
    numbers,
    path_of,
    title_of,
)

_FIG4 = (SUGGESTED, HA_SYNC, HU_ASYN, HU_SYNC)


def async_mel_fig4(folder: Path, options: Options) -> Findings:
    """Redo Fig. 4: the synchronous case, T of 10 and 20 s, E of 10, 20 and 30 J.

    HA-Sync is allocated exactly. HA-Asyn with c = 0 stands for the paper's own way there, with
    the exact relaxed optimum in the place of its vacuous dual bound.

    Raises:
        ValueError: If a value is out of range.
        OSError: If ``folder`` cannot be written to.
        edge_gym.data.DataError: If data are missing; the message says what to do.

    Source: Mohammad et al. 2020, Fig. 4, §5.1.1.
    """
    sweep = Sweep(folder, options)
    schemes = chosen(_FIG4, options, (SUGGESTED, HA_SYNC, HU_SYNC))
    cells = sweep.run(cells_of(*PANELS, options), schemes)
    findings = sweep.findings(
        "async-mel-fig4",
        title_of("Fig. 4, HA and HU without staleness", sweep),
        fig4_claims(cells),
        {cell.name: numbers(cell, runs, ()) for cell, runs in cells.items()},
    )
    write_findings(findings, lambda findings, path: draw_curves(findings, path, SCHEMES))
    return findings


def fig4_claims(cells: Cells) -> list[Claim]:
    """Return what the paper says of Fig. 4, beside what was found."""
    claims, failing = [], {}
    for cell, runs in cells.items():
        paths = {name: path_of(run) for name, run in runs.items()}
        gain = (paths[SUGGESTED] - paths[HA_SYNC]).mean(axis=1)
        low, high = mean_intervals(gain)
        near, far = max(abs(low), abs(high)) < SAME, max(low, -high) > SAME
        alike = "both allocate alike" if not gain.any() else with_interval(gain)
        claims.append(
            Claim(
                f"{cell.name}: HA-Asyn with c = 0 converges to HA-Sync",
                f"{alike}, on average over the cycles",
                YES if near else NO if far else OPEN,
            )
        )
        if cell == (10, 10):
            claims.append(
                Claim(
                    f"{cell.name}: HA-Asyn with c = 0 works better than HA-Sync",
                    alike,
                    verdict(gain) if gain.any() else NO,
                )
            )
        for other, words in (
            (HU_SYNC, "without staleness HA works better than HU"),
            (HU_ASYN, "HA-Sync works better than HU-Asyn"),
        ):
            if other not in paths:
                continue
            gain = paths[HA_SYNC] - paths[other]
            claims.append(
                Claim(
                    f"{cell.name}: {words}",
                    f"{with_interval(gain.mean(axis=1))} on average over the cycles, "
                    f"{with_interval(gain[:, -1])} in the end",
                    all_of((verdict(gain.mean(axis=1)), verdict(gain[:, -1]))),
                )
            )
        failing[cell] = float((paths[HU_SYNC][:, -1] < CONVERGED).mean())
    said = ", ".join(f"{share:.0%} at {cell.name}" for cell, share in failing.items())
    several = sum(share > 0.5 for share in failing.values())
    claims.append(
        Claim(
            "HU-Sync fails to converge on several occasions",
            f"episodes that end below {CONVERGED:.0%}: {said}",
            YES if several > 1 else PARTLY if any(failing.values()) else NO,
        )
    )
    return claims
