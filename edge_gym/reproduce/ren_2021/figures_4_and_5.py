"""Ren et al. 2021, Figs. 4 and 5: schemes on GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edge_gym.evaluation.rollouts import Episodes
from edge_gym.evaluation.statistics import mean_intervals
from edge_gym.reproduce.harness import (
    NO,
    OPEN,
    YES,
    Claim,
    Findings,
    Options,
    along,
    verdict,
    with_interval,
    write_findings,
)
from edge_gym.reproduce.ren_2021.curves import POINTS, SAME, numbers_of
from edge_gym.reproduce.ren_2021.drawing import draw_curves
from edge_gym.reproduce.ren_2021.runs import PARTITIONS, LongRuns, seeds_of
from edge_gym.reproduce.ren_2021.table_2 import SMALL
from edge_gym.typing import Float64Array

_GPU_SCHEMES = {
    "proposed": ("optimal-batch-slot", "#D55E00"),
    "online": ("online", "#66717D"),
    "full": ("full-batch", "#0072B2"),
    "random": ("random-batches", "#009E73"),
}


def feel_fig4(folder: Path, options: Options) -> Findings:
    """Redo Fig. 4: four ways to choose batches, six devices with GPUs, IID.

    Online learning, full and random batches have equal slots: the text does not say which. Loss
    and accuracy along the way are those on the validation set.

    Raises:
        ValueError: If a value is out of range.
        OSError: If ``folder`` cannot be written to.
        edge_gym.data.DataError: If data are missing; the message says what to do.

    Source: Ren et al. 2021, Fig. 4, §VI-D.
    """
    return _gpu_schemes(folder, options, "feel-fig4", "iid")


def feel_fig5(folder: Path, options: Options) -> Findings:
    """Redo Fig. 5: as Fig. 4, non-IID, and the proposed scheme in both cases.

    Raises:
        ValueError: If a value is out of range.
        OSError: If ``folder`` cannot be written to.
        edge_gym.data.DataError: If data are missing; the message says what to do.

    Source: Ren et al. 2021, Fig. 5, §VI-D.
    """
    return _gpu_schemes(folder, options, "feel-fig5", "shards")


def _gpu_schemes(folder: Path, options: Options, name: str, partition: str) -> Findings:
    seeds = seeds_of(options, usual=20, quick=4)
    runner = LongRuns(folder / "parts", options, seeds)
    env_id = "BatchSlotGPU-Paper-v0" if options.full else "BatchSlotGPU-v0"
    usual = {} if options.full else {**SMALL, "budget_s": 0.08 if options.quick else 0.5}
    fixed = {"partition": partition, "n_devices": 6}
    runs = {
        scheme: runner.run(scheme, env_id, usual, fixed, rule)
        for scheme, (rule, _) in _GPU_SCHEMES.items()
    }
    colours = {scheme: colour for scheme, (_, colour) in _GPU_SCHEMES.items()}
    times = np.linspace(0, runner.configs["proposed"]["budget_s"], POINTS)
    claims = _gpu_claims(runs, times)
    if partition != "iid":
        iid = {**fixed, "partition": "iid"}
        even = runner.run("proposed, IID", env_id, usual, iid, "optimal-batch-slot")
        lost = even.infos["test_accuracy"] - runs["proposed"].infos["test_accuracy"]
        _, high = mean_intervals(lost)
        claims.append(
            Claim(
                "proposed: the accuracy is almost the same as in the IID case",
                f"IID minus non-IID {with_interval(lost)}",
                YES if high < SAME else OPEN if lost.mean() < SAME else NO,
            )
        )
        runs["proposed, IID"] = even
        colours["proposed, IID"] = "#CC79A7"
    figure_name = f"{name[5:8].title()}. {name[8:]}"
    findings = Findings(
        title=(
            f"Ren et al. 2021, {figure_name}: GPUs, K = 6, {PARTITIONS[partition]}, "
            f"{len(seeds)} episodes each, the same for all schemes"
        ),
        config=runner.configs,
        seeds=seeds,
        parameters=runner.parameters,
        claims=claims,
        data={"schemes": {scheme: numbers_of(run, times) for scheme, run in runs.items()}},
        files=[folder / f"{name}.json", folder / f"{name}.png"],
    )
    write_findings(
        findings, lambda findings, path: draw_curves(findings, path, {"schemes": colours})
    )
    return findings


def _gpu_claims(runs: Mapping[str, Episodes], times: Float64Array) -> list[Claim]:
    claims = []
    losses = {scheme: along(run, "loss", times) for scheme, run in runs.items()}
    for other in runs:
        if other == "proposed":
            continue
        ahead = (losses[other] - losses["proposed"]).mean(axis=1)
        end = losses[other][:, -1] - losses["proposed"][:, -1]
        claims.append(
            Claim(
                f"proposed converges faster than {other}",
                f"its loss is lower by {with_interval(ahead)} on average over the time, "
                f"{with_interval(end)} in the end",
                verdict(ahead),
            )
        )
    for other in runs:
        if other == "proposed":
            continue
        gain = runs["proposed"].infos["test_accuracy"] - runs[other].infos["test_accuracy"]
        claims.append(
            Claim(
                f"proposed ends with a higher accuracy than {other}",
                with_interval(gain),
                verdict(gain),
            )
        )
    return claims
