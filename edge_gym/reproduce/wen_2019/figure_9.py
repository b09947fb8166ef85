"""Wen et al. 2019, Fig. 9: importance-aware, channel-aware and data-aware scheduling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines import make_baseline
from edge_gym.core.config import make_config
from edge_gym.core.registration import find_environment
from edge_gym.envs.data_scheduling.config import DataSchedulingConfig
from edge_gym.evaluation.episode_store import SUFFIX, run_or_load
from edge_gym.evaluation.rollouts import even_lanes, make_lanes, plain_config
from edge_gym.reports.charts import INK, new_figure, save, tidy, write_title
from edge_gym.reproduce.harness import (
    Claim,
    Findings,
    Options,
    check_data,
    rule_parameters,
    summary,
    verdict,
    with_interval,
    write_findings,
)
from edge_gym.runtime.files import prepare_folder

_SNRS_DB = (5, 10, 15, 20, 25)
_DOCUMENT_SNR_DB = 15
_COLOURS = {
    "random": "#66717D",
    "data-aware": "#CC79A7",
    "channel-aware": "#0072B2",
    "importance-aware": "#D55E00",
    "hinge-loss": "#009E73",
}
# The paper's network is not in the text: ten classes of full MNIST, in a size that hundreds of
# episodes can be trained in.
_LEARNERS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "svm": ("DataScheduling-Paper-v0", {}, tuple(_COLOURS)),
    "cnn": (
        "DataSchedulingCNN-v0",
        {"dataset": "mnist", "budget": 100, "validation_size": 100, "test_size": 500},
        ("data-aware", "channel-aware", "importance-aware"),
    ),
}


def rrm_fig9(folder: Path, options: Options) -> Findings:
    """Redo Fig. 9: test accuracy against uploads, at five mean SNRs, SVM and CNN.

    Finished parts are kept in ``folder/parts``, so that an interrupted run goes on where it was.

    Raises:
        ValueError: If a value is out of range.
        OSError: If ``folder`` cannot be written to.
        edge_gym.data.DataError: If data are missing; the message says what to do.

    Source: Wen et al. 2019, Fig. 9, §4.2.
    """
    seeds = options.seeds(usual=200, quick=8)
    n = len(seeds)
    snrs_db = (_DOCUMENT_SNR_DB,) if options.quick else _SNRS_DB
    parts = prepare_folder(folder / "parts")
    configs: dict[str, Any] = {}
    parameters: dict[str, dict[str, Any]] = {}
    curves: dict[str, dict[int, dict[str, NDArray[np.float64]]]] = {}
    for learner, (env_id, preset, policies) in _LEARNERS.items():
        given = {**preset, **options.overrides, "learner": learner, "track_test": True}
        check_data(
            make_config(DataSchedulingConfig, None, find_environment(env_id).preset, given).dataset
        )
        curves[learner] = {}
        for snr_db in snrs_db:
            curves[learner][snr_db] = {}
            env = make_lanes(
                env_id, even_lanes(n, options.lanes), {**given, "mean_snr_db": float(snr_db)}
            )
            configs.setdefault(learner, plain_config(env.config))
            for policy in policies:
                name = f"{policy}, {learner}, {snr_db} dB"
                values = rule_parameters(policy, env) if policy != "random" else {}
                parameters[name] = values

                def report(done: int, total: int, task: str = name) -> None:
                    if options.progress is not None:
                        options.progress(task, done, total)

                path = parts / f"{learner}-{snr_db}-{policy}{SUFFIX}"
                episodes = run_or_load(
                    path,
                    env,
                    make_baseline(policy, env, **values),
                    {"name": policy, **values},
                    seeds,
                    ["test_accuracy", "uploads"],
                    report,
                )
                curves[learner][snr_db][policy] = episodes.curves["test_accuracy"]
    findings = Findings(
        title=f"Wen et al. 2019, Fig. 9: {n} episodes each, the same for all policies",
        config=configs,
        seeds=seeds,
        parameters=parameters,
        claims=[claim for learner in curves for claim in _claims(learner, curves[learner])],
        data={
            learner: {
                str(snr_db): {policy: summary(values) for policy, values in policies.items()}
                for snr_db, policies in at.items()
            }
            for learner, at in curves.items()
        },
        files=[folder / "rrm-fig9.json", folder / "rrm-fig9.png"],
    )
    write_findings(findings, _draw)
    return findings


def _claims(learner: str, at: Mapping[int, Mapping[str, NDArray[np.float64]]]) -> list[Claim]:
    claims = []
    for other, reported in (("channel-aware", "5 %"), ("data-aware", "8 %")):
        for snr_db, policies in at.items():
            gain = policies["importance-aware"] - policies[other]
            said = (
                f"is about {reported} above {other}"
                if learner == "svm" and snr_db == _DOCUMENT_SNR_DB
                else f"is above {other}"
            )
            text = f"in the end {with_interval(gain[:, -1])}"
            text += f", on average over uploads {with_interval(gain.mean(axis=1))}"
            claims.append(
                Claim(
                    f"{learner}, {snr_db} dB: importance-aware {said}", text, verdict(gain[:, -1])
                )
            )
    return claims


def _draw(findings: Findings, path: Path) -> None:
    columns = max(len(at) for at in findings.data.values())
    figure, grid = new_figure(3.2 * columns + 1.2, 6.4, len(findings.data), columns)
    for row, (learner, at) in zip(grid, findings.data.items(), strict=True):
        for axes, (snr_db, policies) in zip(row, at.items(), strict=True):
            for policy, values in policies.items():
                uploads = 1 + np.arange(len(values["mean"]))
                axes.plot(uploads, values["mean"], color=_COLOURS[policy], label=policy)
                axes.fill_between(
                    uploads,
                    *np.transpose(values["ci95"]),
                    color=_COLOURS[policy],
                    alpha=0.15,
                    linewidth=0,
                )
            axes.set_title(f"{learner.upper()}, {snr_db} dB", fontsize=10, color=INK)
            axes.set_xlabel("uploads", color=INK)
            tidy(axes)
        row[0].set_ylabel("test accuracy", color=INK)
        row[-1].legend(frameon=False, fontsize=8, loc="lower right")
    write_title(figure, f"{findings.title}; 95 % intervals")
    save(figure, path)
