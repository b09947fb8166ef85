"""Ren et al. 2021, Fig. 3: fixed global batchsizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_gym.core.config import make_config
from edge_gym.core.registration import find_environment
from edge_gym.envs.batch_slot.config import BatchSlotConfig
from edge_gym.evaluation.rollouts import Episodes
from edge_gym.evaluation.statistics import mean_intervals
from edge_gym.reproduce.harness import (
    NO,
    PARTLY,
    YES,
    Claim,
    Findings,
    Options,
    with_interval,
    write_findings,
)
from edge_gym.reproduce.ren_2021.curves import POINTS, SAME, numbers_of
from edge_gym.reproduce.ren_2021.drawing import draw_curves
from edge_gym.reproduce.ren_2021.runs import LongRuns, seeds_of
from edge_gym.reproduce.ren_2021.table_2 import SMALL

_FACTORS = {0.5: "#0072B2", 1.0: "#009E73", 2.0: "#D55E00"}


# Of each network: id, budget in simulated seconds, and what else differs.
_FIG3_NETWORKS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "mlp": ("BatchSlotNonIID-v0", 1.5, {"learning_rate": 0.2}),
    "cnn": ("BatchSlotNonIID-v0", 0.8, {"network": "cnn", "learning_rate": 0.2}),
    "lenet": ("BatchSlotNonIID-v0", 4.0, {"network": "lenet", "learning_rate": 0.08}),
}


_FIG3_DOCUMENT = {
    "densenet-121": "BatchSlotNonIID-Paper-v0",
    "resnet-18": "BatchSlotResNet-Paper-v0",
    "mobilenet-v2": "BatchSlotMobileNet-Paper-v0",
}


def feel_fig3(folder: Path, options: Options) -> Findings:
    """Redo Fig. 3: three networks, each with three learning rates, non-IID, K = 12.

    The paper does not name its learning rates: they are the configuration's, its half and its
    double. Loss and accuracy along the way are those on the validation set.

    Raises:
        ValueError: If a value is out of range.
        OSError: If ``folder`` cannot be written to.
        edge_gym.data.DataError: If data are missing; the message says what to do.

    Source: Ren et al. 2021, Fig. 3, §VI-B.
    """
    seeds = seeds_of(options, usual=4, quick=4)
    runner = LongRuns(folder / "parts", options, seeds)
    shorter = 0.1 if options.quick else 1.0
    networks: dict[str, tuple[str, dict[str, Any]]] = {
        name: (env_id, {**SMALL, **fields, "budget_s": shorter * budget_s})
        for name, (env_id, budget_s, fields) in _FIG3_NETWORKS.items()
    }
    if options.full:
        networks = {name: (env_id, {}) for name, env_id in _FIG3_DOCUMENT.items()}
    data: dict[str, Any] = {}
    claims: list[Claim] = []
    for network, (env_id, usual) in networks.items():
        runs: dict[float, Episodes] = {}
        preset = find_environment(env_id).preset
        base = make_config(BatchSlotConfig, None, preset, {**usual, **options.overrides})
        times = np.linspace(0, base.budget_s, POINTS)
        data[network] = {}
        for factor in _FACTORS:
            rate = factor * base.learning_rate
            fixed = {"n_devices": 12, "partition": "shards", "learning_rate": rate}
            task = f"{network}, learning rate {rate:g}"
            runs[rate] = runner.run(task, env_id, usual, fixed, "optimal-batch-slot")
            data[network][f"{rate:g}"] = numbers_of(runs[rate], times)
        claims += _fig3_claims(network, runs)
    findings = Findings(
        title=f"Ren et al. 2021, Fig. 3: proposed, {len(seeds)} episodes, K = 12, non-IID",
        config=runner.configs,
        seeds=seeds,
        parameters=runner.parameters,
        claims=claims,
        data=data,
        files=[folder / "feel-fig3.json", folder / "feel-fig3.png"],
    )
    colours = {
        network: dict(zip(of, _FACTORS.values(), strict=True)) for network, of in data.items()
    }
    write_findings(findings, lambda findings, path: draw_curves(findings, path, colours))
    return findings


def _fig3_claims(network: str, runs: Mapping[float, Episodes]) -> list[Claim]:
    tests = {rate: episodes.infos["test_accuracy"] for rate, episodes in runs.items()}
    best = max(tests, key=lambda rate: float(tests[rate].mean()))
    worst = min(tests, key=lambda rate: float(tests[rate].mean()))
    gap = tests[best] - tests[worst]
    _, high = mean_intervals(gap)
    ends = ", ".join(f"{tests[rate].mean():.3f} at {rate:g}" for rate in tests)
    seen = YES if high < SAME else PARTLY if gap.mean() < 3 * SAME else NO
    return [
        Claim(
            f"{network}: the final test accuracy hardly depends on the learning rate",
            f"{ends}; best minus worst {with_interval(gap)}",
            seen,
        )
    ]
