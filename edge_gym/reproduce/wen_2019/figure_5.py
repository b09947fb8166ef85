"""Wen et al. 2019, Fig. 5: accuracy against channel uses, retransmissions against uncertainty."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from edge_gym.baselines import make_baseline
from edge_gym.core.config import make_config
from edge_gym.core.problem import Step
from edge_gym.core.registration import find_environment
from edge_gym.envs.retransmission.config import RetransmissionConfig
from edge_gym.envs.retransmission.dynamics import Retransmission
from edge_gym.envs.retransmission.env import RetransmissionVectorEnv
from edge_gym.evaluation.rollouts import Episodes, even_lanes, plain_config, run_episodes
from edge_gym.reports.charts import INK, new_figure, save, tidy, write_title
from edge_gym.reproduce.harness import (
    NO,
    PARTLY,
    YES,
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
from edge_gym.typing import IntArray


class _Observed(Retransmission):
    """Retransmission that tells of every sample how uncertain it was before noise was added.

    Fig. 5(b) needs it: a received sample's distance depends on its noise, and so on what the
    protocol did.
    """

    def step_lanes(self, lanes: IntArray, actions: NDArray[Any]) -> Step:
        """Add the noiseless sample's distance and its transmissions to the info."""
        rows = self.current_rows(lanes)
        labels = self.features.train_labels[rows][:, None]
        clean = self.learner.assess(lanes, self.features.train[rows][:, None], labels)
        transmissions = self.transmissions[lanes].astype(np.float64)
        step = super().step_lanes(lanes, actions)
        step.info["clean_distance"] = clean.uncertainty[:, 0].astype(np.float64)
        step.info["transmissions"] = transmissions
        return step


class _ObservedVectorEnv(RetransmissionVectorEnv):
    problem_type = _Observed


_FIG5_ID = "Retransmission-Paper-v0"
_FIG5_POLICIES = {
    "no-retransmission": "#66717D",
    "channel-aware": "#0072B2",
    "importance-aware": "#D55E00",
    "support-vector-aware": "#009E73",
}
_FIG5_RECORD = ("test_accuracy", "channel_uses", "accepted", "transmissions", "clean_distance")
# The paper plots the whole duration; before this share of it there is hardly anything learned.
_FIG5_POINTS = 40
_FIG5_BINS = 8


def rrm_fig5(folder: Path, options: Options) -> Findings:
    """Redo Fig. 5: accuracy against channel uses, retransmissions against uncertainty.

    Parameters are the shipped tuned ones where there are any for this configuration, else the
    rules' defaults: the paper gives none.

    Raises:
        ValueError: If a value is out of range, another learner than ``svm`` is asked for, or so
            few samples are sent that a bar of the picture has none.
        OSError: If ``folder`` cannot be written to.
        edge_gym.data.DataError: If data are missing; the message says what to do.

    Source: Wen et al. 2019, Fig. 5, §3.2.
    """
    seeds = options.seeds(usual=100, quick=8)
    n = len(seeds)
    given = {**({"budget": 400} if options.quick else {}), **options.overrides, "track_test": True}
    config = make_config(RetransmissionConfig, None, find_environment(_FIG5_ID).preset, given)
    if config.learner != "svm":
        raise ValueError(f"rrm-fig5 is about learner 'svm', got {config.learner!r}")
    check_data(config.dataset)
    # This rule never looks at the classifier, which need only be trained now and then: its
    # training set is the largest by far, and the accuracy after each training is the same.
    sparse = replace(config, retrain_every=max(config.retrain_every, config.budget // 10))
    parameters = _parameters(config)
    results: dict[str, Episodes] = {}
    for name, values in parameters.items():
        env = _ObservedVectorEnv(
            even_lanes(n, options.lanes),
            sparse if name == "no-retransmission" else config,
            autoreset_mode=AutoresetMode.DISABLED,
        )
        policy = make_baseline(name, env, **values)

        def report(done: int, total: int, task: str = name) -> None:
            if options.progress is not None:
                options.progress(task, done, total)

        results[name] = run_episodes(env, policy, seeds, report, record=_FIG5_RECORD)
    uses = np.unique(np.linspace(1, config.budget, _FIG5_POINTS).round().astype(int))
    curves = {name: e.curves["test_accuracy"][:, uses - 1] for name, e in results.items()}
    edges, bins = _retransmissions(results)
    findings = Findings(
        title=(
            f"Wen et al. 2019, Fig. 5: {config.dataset}, budget {config.budget}, mean SNR "
            f"{config.mean_snr_db:g} dB, {n} episodes"
        ),
        config=plain_config(config),
        seeds=seeds,
        parameters=parameters,
        claims=[*_accuracy_claims(uses, curves), *_retransmission_claims(bins)],
        data={
            "channel_uses": uses.tolist(),
            "test_accuracy": {name: summary(curve) for name, curve in curves.items()},
            "minus_channel_aware": {
                name: summary(curve - curves["channel-aware"]) for name, curve in curves.items()
            },
            "uncertainty_edges": edges.tolist(),
            "retransmissions": {name: summary(values) for name, values in bins.items()},
        },
        files=[folder / "rrm-fig5.json", folder / "rrm-fig5.png"],
    )
    write_findings(findings, _draw_fig5)
    return findings


def _parameters(config: RetransmissionConfig) -> dict[str, dict[str, Any]]:
    # What is reported along the way changes nothing that was tuned.
    env = RetransmissionVectorEnv(1, replace(config, track_test=False))
    return {name: rule_parameters(name, env) for name in _FIG5_POLICIES}


def _retransmissions(
    results: Mapping[str, Episodes],
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Return edges of 1/d and each episode's mean retransmissions of a sample in between.

    Edges hold equal shares of all samples. An episode without a sample in a bin takes the mean of
    the others.
    """
    uncertainty, counts = {}, {}
    for name, episodes in results.items():
        accepted = episodes.curves["accepted"] == 1
        distance = np.where(accepted, episodes.curves["clean_distance"], np.nan)
        uncertainty[name] = 1 / np.maximum(distance, 1e-3)
        counts[name] = episodes.curves["transmissions"] - 1
    everything = np.concatenate([values[np.isfinite(values)] for values in uncertainty.values()])
    edges = np.quantile(everything, np.linspace(0, 1, _FIG5_BINS + 1))
    bins: dict[str, NDArray[np.float64]] = {}
    for name, values in uncertainty.items():
        # The last edge is the greatest uncertainty itself.
        place = np.minimum(np.searchsorted(edges, values, side="right") - 1, _FIG5_BINS - 1)
        table = np.full((len(values), _FIG5_BINS), np.nan)
        for column in range(_FIG5_BINS):
            inside = (place == column) & np.isfinite(values)
            samples = inside.sum(axis=1)
            total = np.where(inside, counts[name], 0).sum(axis=1)
            table[samples > 0, column] = total[samples > 0] / samples[samples > 0]
        if np.isnan(table).all(axis=0).any():
            raise ValueError(
                f"{name} accepted too few samples to tell its retransmissions apart by "
                "uncertainty: run more episodes or a larger budget"
            )
        means = np.nanmean(table, axis=0)
        bins[name] = np.where(np.isnan(table), means, table)
    return edges, bins


def _accuracy_claims(
    uses: NDArray[np.int64], curves: Mapping[str, NDArray[np.float64]]
) -> list[Claim]:
    none = curves["no-retransmission"]
    peak, fall = _fall(none)
    gain = curves["importance-aware"] - curves["channel-aware"]
    # The first tenth is the initial samples' doing, whatever the rule.
    later = uses > 0.1 * uses[-1]
    ahead = float(np.mean(gain.mean(axis=0)[later] > 0))
    on_average = gain[:, later].mean(axis=1)
    throughout = verdict(on_average)
    if throughout == YES and ahead < 1:
        throughout = PARTLY
    ours = curves["support-vector-aware"][:, -1] - curves["importance-aware"][:, -1]
    return [
        Claim(
            "5(a): without retransmission, accuracy degrades dramatically once many noisy samples "
            "are received",
            f"from its peak of {none[:, peak].mean():.3f} at {uses[peak]} uses it falls by "
            f"{with_interval(fall)}, to {none[:, -1].mean():.3f}",
            verdict(fall),
        ),
        Claim(
            "5(a): importance-aware outperforms channel-aware throughout",
            f"ahead at {ahead:.0%} of the points after the first tenth, by "
            f"{with_interval(on_average)} on average, "
            f"{with_interval(gain[:, -1])} in the end",
            throughout,
        ),
        Claim(
            "(ours) support-vector-aware ends above importance-aware",
            with_interval(ours),
            verdict(ours),
        ),
    ]


def _fall(curve: NDArray[np.float64]) -> tuple[int, NDArray[np.float64]]:
    """Return where the mean curve peaks, and each episode's fall from the peak to the end.

    The peak that an episode falls from is that of the other half of the episodes: the highest of
    many noisy points always looks like a peak to those it was chosen from.
    """
    fall = np.empty(len(curve))
    half = np.arange(len(curve)) % 2 == 0
    for these, others in ((half, ~half), (~half, half)):
        peak = int(curve[others].mean(axis=0).argmax())
        fall[these] = curve[these, peak] - curve[these, -1]
    return int(curve.mean(axis=0).argmax()), fall


def _retransmission_claims(bins: Mapping[str, NDArray[np.float64]]) -> list[Claim]:
    ratios = {}
    for name in ("channel-aware", "importance-aware"):
        means = bins[name].mean(axis=0)
        ratios[name] = float(means[-1] / max(means[0], 1e-9)), means
    text = {
        name: f"{means[0]:.2f} retransmissions of a sample of the least uncertain eighth, "
        f"{means[-1]:.2f} of the most uncertain"
        for name, (_, means) in ratios.items()
    }
    return [
        Claim(
            "5(b): channel-aware's retransmissions are close to uniform over uncertainty",
            text["channel-aware"],
            YES if abs(ratios["channel-aware"][0] - 1) < 0.2 else NO,
        ),
        Claim(
            "5(b): importance-aware's are concentrated where uncertainty is high",
            text["importance-aware"],
            verdict(bins["importance-aware"][:, -1] - bins["importance-aware"][:, 0]),
        ),
    ]


def _draw_fig5(findings: Findings, path: Path) -> None:
    figure, grid = new_figure(15, 4.8, 1, 3)
    accuracy, difference, retransmissions = grid[0]
    data = findings.data
    uses = data["channel_uses"]
    for name, colour in _FIG5_POLICIES.items():
        accuracy.plot(uses, data["test_accuracy"][name]["mean"], color=colour, label=name)
        paired = data["minus_channel_aware"][name]
        difference.plot(uses, paired["mean"], color=colour)
        difference.fill_between(
            uses, *np.transpose(paired["ci95"]), color=colour, alpha=0.15, linewidth=0
        )
    accuracy.set_title("(a) test accuracy", fontsize=10, color=INK)
    accuracy.legend(frameon=False, fontsize=9)
    difference.set_title(
        "(a) paired difference to channel-aware, 95 % interval", fontsize=10, color=INK
    )
    edges = np.array(data["uncertainty_edges"])
    middle = np.arange(len(edges) - 1)
    for offset, name in zip((-0.2, 0.2), ("channel-aware", "importance-aware"), strict=True):
        bars = data["retransmissions"][name]
        means = np.array(bars["mean"])
        spread = np.abs(np.transpose(bars["ci95"]) - means)
        retransmissions.bar(
            middle + offset, means, 0.38, yerr=spread, color=_FIG5_POLICIES[name], ecolor=INK
        )
    labels = [f"{a:.2g}–{b:.2g}" for a, b in itertools.pairwise(edges[:-1])]
    retransmissions.set_xticks(middle, [*labels, f"> {edges[-2]:.2g}"])
    retransmissions.set_xlabel("uncertainty 1/d before noise, equal shares", color=INK)
    retransmissions.set_title("(b) retransmissions of a sample", fontsize=10, color=INK)
    for axes in grid[0]:
        tidy(axes)
    for axes in (accuracy, difference):
        axes.set_xlabel("channel uses", color=INK)
    retransmissions.tick_params(axis="x", labelsize=7.5)
    write_title(figure, findings.title)
    save(figure, path)
