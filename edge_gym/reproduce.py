"""The documents' experiments redone: what they say beside what is measured here."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from edge_gym.baselines import make_baseline
from edge_gym.baselines.tuning import shipped_parameters
from edge_gym.charts import INK, new_figure, save, tidy
from edge_gym.data import DataError, load_dataset
from edge_gym.envs.checks import check_integer
from edge_gym.envs.core import IntArray, Step, make_config
from edge_gym.envs.retransmission import (
    Retransmission,
    RetransmissionConfig,
    RetransmissionVectorEnv,
)
from edge_gym.evaluation import (
    Episodes,
    TaskProgress,
    even_lanes,
    plain_config,
    run_episodes,
)
from edge_gym.files import prepare_folder, replacing, write_text
from edge_gym.registration import find_environment
from edge_gym.seeds import EVALUATION
from edge_gym.statistics import mean_intervals

YES, PARTLY, NO, OPEN = "yes", "partly", "no", "within noise"


@dataclass(frozen=True)
class Claim:
    """One statement of a document.

    Attributes:
        claim: What it says.
        measured: What was found here.
        verdict: Whether it was seen: ``"yes"``, ``"partly"``, ``"no"`` or ``"within noise"``.
    """

    claim: str
    measured: str
    verdict: str


@dataclass(frozen=True)
class Findings:
    """What a reproduction found.

    Attributes:
        title: What was run.
        config: The environment's configuration.
        seeds: The episodes' seeds.
        parameters: Of every policy.
        claims: The document's claims.
        data: The numbers of the picture.
        files: What was written.
    """

    title: str
    config: dict[str, Any]
    seeds: list[int]
    parameters: dict[str, dict[str, Any]]
    claims: list[Claim]
    data: dict[str, Any]
    files: list[Path] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return everything in JSON's types."""
        return {**asdict(self), "files": [str(path) for path in self.files]}


class Run(Protocol):
    """How a reproduction is run."""

    def __call__(
        self,
        out: str | os.PathLike[str],
        *,
        quick: bool = False,
        episodes: int | None = None,
        lanes: int = 32,
        overrides: Mapping[str, Any] | None = None,
        progress: TaskProgress | None = None,
    ) -> Findings:
        """Run it and write its files.

        Args:
            out: Folder for the files.
            quick: Few and short episodes.
            episodes: Instead of the usual number.
            lanes: Most episodes run at a time.
            overrides: Fields of the environment's configuration.
            progress: Told how many episodes are done.
        """


@dataclass(frozen=True)
class Reproduction:
    """An experiment that can be redone by name.

    Attributes:
        name: Its name on the command line.
        source: Document and figure or table.
        run: Runs it.
    """

    name: str
    source: str
    run: Run


def find_reproduction(name: str) -> Reproduction:
    """Return the reproduction of this name.

    Raises:
        ValueError: If there is none; the message lists the names.
    """
    for reproduction in REPRODUCTIONS:
        if reproduction.name == name:
            return reproduction
    known = ", ".join(reproduction.name for reproduction in REPRODUCTIONS)
    raise ValueError(f"unknown reproduction {name!r}; there are {known}")


class _Observed(Retransmission):
    """Retransmission that tells of every sample how uncertain it was before noise was added.

    Fig. 5(b) needs it: a received sample's distance depends on its noise, and so on what the
    protocol did.
    """

    def step_lanes(self, lanes: IntArray, actions: NDArray[Any]) -> Step:
        """Add the noiseless sample's distance and its transmissions to the info."""
        rows = self._rows(lanes)
        labels = self.features.train_labels[rows][:, None]
        clean = self.learner.assess(lanes, self.features.train[rows][:, None], labels)
        transmissions = self._transmissions[lanes].astype(np.float64)
        step = super().step_lanes(lanes, actions)
        step.info["clean_distance"] = clean.uncertainty[:, 0].astype(np.float64)
        step.info["transmissions"] = transmissions
        return step


class _ObservedVectorEnv(RetransmissionVectorEnv):
    problem_type = _Observed


_FIG5_ID = "Retransmission-Document-v0"
_FIG5_POLICIES = {
    "no-retransmission": "#66717D",
    "channel-aware": "#0072B2",
    "importance-aware": "#D55E00",
    "support-vector-aware": "#009E73",
}
_FIG5_RECORD = ("test_accuracy", "channel_uses", "accepted", "transmissions", "clean_distance")
# The document plots the whole duration; before this share of it there is hardly anything learned.
_FIG5_POINTS = 40
_FIG5_BINS = 8


def rrm_fig5(
    out: str | os.PathLike[str],
    *,
    quick: bool = False,
    episodes: int | None = None,
    lanes: int = 32,
    overrides: Mapping[str, Any] | None = None,
    progress: TaskProgress | None = None,
) -> Findings:
    """Redo Fig. 5 of RRM: accuracy against channel uses, retransmissions against uncertainty.

    Parameters are the shipped tuned ones where there are any for this configuration, else the
    rules' defaults: the document gives none.

    Raises:
        ValueError: If a value is out of range, another learner than ``svm`` is asked for, or so
            few samples are sent that a bar of the picture has none.
        OSError: If ``out`` cannot be written to.
        edge_gym.data.DataError: If data are missing; the message says what to do.

    Source: RRM Fig. 5, §3.2.
    """
    n = episodes if episodes is not None else 8 if quick else 100
    check_integer("episodes", n, 2)
    check_integer("lanes", lanes, 1)
    folder = prepare_folder(out)
    given = {**({"budget": 400} if quick else {}), **(overrides or {}), "track_test": True}
    config = make_config(RetransmissionConfig, None, find_environment(_FIG5_ID).preset, given)
    if config.learner != "svm":
        raise ValueError(f"rrm-fig5 is about learner 'svm', got {config.learner!r}")
    try:
        load_dataset(config.dataset)
    except DataError as error:
        raise DataError(
            f"{error}; or run it on the embedded images: --set dataset=mnist-subset"
        ) from error
    seeds = list(range(EVALUATION.start, EVALUATION.start + n))
    # This rule never looks at the classifier, which need only be trained now and then: its
    # training set is the largest by far, and the accuracy after each training is the same.
    sparse = replace(config, retrain_every=max(config.retrain_every, config.budget // 10))
    parameters = _parameters(config)
    results: dict[str, Episodes] = {}
    for name, values in parameters.items():
        env = _ObservedVectorEnv(
            even_lanes(n, lanes),
            sparse if name == "no-retransmission" else config,
            autoreset_mode=AutoresetMode.DISABLED,
        )
        policy = make_baseline(name, env, **values)

        def report(done: int, total: int, task: str = name) -> None:
            if progress is not None:
                progress(task, done, total)

        results[name] = run_episodes(env, policy, seeds, report, record=_FIG5_RECORD)
    uses = np.unique(np.linspace(1, config.budget, _FIG5_POINTS).round().astype(int))
    curves = {name: e.curves["test_accuracy"][:, uses - 1] for name, e in results.items()}
    edges, bins = _retransmissions(results)
    findings = Findings(
        title=(
            f"RRM Fig. 5: {config.dataset}, budget {config.budget}, mean SNR "
            f"{config.mean_snr_db:g} dB, {n} episodes"
        ),
        config=plain_config(config),
        seeds=seeds,
        parameters=parameters,
        claims=[*_accuracy_claims(uses, curves), *_retransmission_claims(bins)],
        data={
            "channel_uses": uses.tolist(),
            "test_accuracy": {name: _summary(curve) for name, curve in curves.items()},
            "minus_channel_aware": {
                name: _summary(curve - curves["channel-aware"]) for name, curve in curves.items()
            },
            "uncertainty_edges": edges.tolist(),
            "retransmissions": {name: _summary(values) for name, values in bins.items()},
        },
        files=[folder / "rrm-fig5.json", folder / "rrm-fig5.png"],
    )
    write_text(findings.files[0], json.dumps(findings.to_json(), indent=2, allow_nan=False) + "\n")
    with replacing(findings.files[1]) as scratch:
        _draw_fig5(findings, scratch)
    return findings


def _summary(values: NDArray[np.float64]) -> dict[str, Any]:
    """Return the means of ``(n, k)`` values and their intervals."""
    return {"mean": values.mean(axis=0).tolist(), "ci95": mean_intervals(values.T).tolist()}


def _parameters(config: RetransmissionConfig) -> dict[str, dict[str, Any]]:
    # What is reported along the way changes nothing that was tuned.
    env = RetransmissionVectorEnv(1, replace(config, track_test=False))
    return {
        name: (shipped_parameters(name, env) if name != "no-retransmission" else None)
        or asdict(make_baseline(name, env).parameters)
        for name in _FIG5_POLICIES
    }


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
    throughout = _verdict(on_average)
    if throughout == YES and ahead < 1:
        throughout = PARTLY
    ours = curves["support-vector-aware"][:, -1] - curves["importance-aware"][:, -1]
    return [
        Claim(
            "5(a): without retransmission, accuracy degrades dramatically once many noisy samples "
            "are received",
            f"from its peak of {none[:, peak].mean():.3f} at {uses[peak]} uses it falls by "
            f"{_with_interval(fall)}, to {none[:, -1].mean():.3f}",
            _verdict(fall),
        ),
        Claim(
            "5(a): importance-aware outperforms channel-aware throughout",
            f"ahead at {ahead:.0%} of the points after the first tenth, by "
            f"{_with_interval(on_average)} on average, "
            f"{_with_interval(gain[:, -1])} in the end",
            throughout,
        ),
        Claim(
            "(ours) support-vector-aware ends above importance-aware",
            _with_interval(ours),
            _verdict(ours),
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
            _verdict(bins["importance-aware"][:, -1] - bins["importance-aware"][:, 0]),
        ),
    ]


def _verdict(values: NDArray[np.float64]) -> str:
    """Say whether the mean is above zero."""
    low, high = mean_intervals(values)
    return YES if low > 0 else NO if high < 0 else OPEN


def _with_interval(values: NDArray[np.float64]) -> str:
    low, high = mean_intervals(values)
    return f"{values.mean():+.4f} [{low:+.4f}, {high:+.4f}]"


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
    figure.suptitle(findings.title, color=INK, fontsize=12)
    save(figure, path)


REPRODUCTIONS = (Reproduction("rrm-fig5", "RRM Fig. 5", rrm_fig5),)
