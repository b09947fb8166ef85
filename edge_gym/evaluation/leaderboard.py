"""Every policy in every environment, on the same episodes: who is ahead, and by how much."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines.base import YOURS
from edge_gym.core.registration import find_environment, list_environments
from edge_gym.evaluation.comparison import Interval, package_versions
from edge_gym.evaluation.policies import RULE_KINDS, one_for_each_seed, shipped_specs
from edge_gym.evaluation.policy_sources import source_names
from edge_gym.evaluation.ranking import (
    RankedPolicy,
    first_that,
    gap_cell,
    joined,
    mean_text,
    rank_policies,
    ranking_csv,
)
from edge_gym.evaluation.report_hooks import REPORTS
from edge_gym.evaluation.rollouts import Episodes, TaskProgress
from edge_gym.evaluation.seeds import EVALUATION
from edge_gym.evaluation.statistics import interquartile_mean, stratified_interval
from edge_gym.evaluation.sweep import (
    RUN_HERE,
    Chunk,
    Runner,
    contender,
    cut,
    episode_seeds,
    sweep,
)
from edge_gym.runtime.files import prepare_folder, write_text
from edge_gym.runtime.workers import Run

TABLE, NUMBERS, SUMMARY = "leaderboard.csv", "leaderboard.json", "leaderboard.md"
PAGE = "leaderboard.html"
PARTS = "episodes"
CHUNK = 100


@dataclass(frozen=True)
class Overall:
    """How a group of policies does over all environments in which there is one of them.

    Attributes:
        group: ``ppo``, ``dqn`` or another algorithm, ``learned`` (the best of these),
            ``published``, ``adapted`` or ``project`` (the best rule of a kind).
        environments: In how many.
        score: Mean normalised score. That of an episode is 1 plus the paired difference to the best
            analytical policy over that policy's mean gain on the one without skill.
        ci95: Its 95 % bootstrap interval, stratified by environment.
        iqm: Interquartile mean of the episodes' scores.
        iqm_ci95: Its interval.
        above: In how many its paired interval against the best analytical policy is above zero.
        below: In how many it is below.
    """

    group: str
    environments: int
    score: float
    ci95: Interval
    iqm: float
    iqm_ci95: Interval
    above: int
    below: int


@dataclass(frozen=True)
class Leaderboard:
    """The ranking of every environment.

    Attributes:
        seeds: First seed and number of the episodes.
        versions: Of Python and the packages that the numbers depend on.
        best: The best analytical policy of each environment.
        ranking: By environment, best first.
        overall: Over all environments.
        missing: Ids left out, and why.
        notes: What must be known of a policy's results, by environment and policy.
    """

    seeds: tuple[int, int]
    versions: dict[str, str]
    best: dict[str, str]
    ranking: list[RankedPolicy]
    overall: list[Overall]
    missing: dict[str, str]
    notes: dict[str, dict[str, str]] = field(default_factory=dict)

    def by_environment(self) -> dict[str, list[RankedPolicy]]:
        """Return each environment's ranking, best first."""
        found: dict[str, list[RankedPolicy]] = {}
        for row in self.ranking:
            found.setdefault(row.environment, []).append(row)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return everything in JSON's types."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return plain

    def to_csv(self) -> str:
        """Return one row for each ranked policy."""
        return ranking_csv(self.ranking)

    def to_markdown(self) -> str:
        """Return the table for a README: a row for each environment, and one for each group."""
        learners = sorted(
            {row.policy for row in self.ranking if row.kind == "learned"}, key=_of_source
        )
        kinds = ["published", "adapted", "project", "yours"]
        kinds = [kind for kind in kinds if any(row.kind == kind for row in self.ranking)]
        titles = [_GROUPS[kind] for kind in kinds]
        titles += [f"`{name}` (training seeds)" for name in learners]
        header = ["environment", *titles, "best learned minus best rule", "above in"]
        lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
        ranking = self.by_environment()
        for name in self.best:
            rows = ranking[name]
            learned = first_that(rows, lambda row: row.kind == "learned")
            cells = [_cell(next((r for r in rows if r.kind == kind), None)) for kind in kinds]
            cells += [_cell(next((r for r in rows if r.policy == one), None)) for one in learners]
            cells += [
                gap_cell(learned),
                ""
                if learned is None or learned.improvement is None
                else f"{100 * learned.improvement:.0f} %",
            ]
            lines.append(f"| `{find_environment(name).name}` | {' | '.join(cells)} |")
        if not self.overall:
            return "\n".join(lines) + "\n"
        lines += [
            "",
            "| over all environments | in | mean score | interquartile mean | above the best rule "
            "| below |",
            "|---|---|---|---|---|---|",
        ]
        for row in self.overall:
            group = _GROUPS.get(row.group, f"`{row.group}`")
            lines.append(
                f"| {group} | {row.environments} | {row.score:.3f} {_ends(row.ci95)} "
                f"| {row.iqm:.3f} {_ends(row.iqm_ci95)} | {row.above} | {row.below} |"
            )
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> list[Path]:
        """Write the table, the numbers and the summary; return their paths.

        Raises:
            OSError: If the folder cannot be written to.
        """
        texts = {
            TABLE: self.to_csv(),
            NUMBERS: json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n",
            SUMMARY: self.to_markdown(),
        }
        for name, text in texts.items():
            write_text(folder / name, text)
        return [folder / name for name in texts]


_GROUPS = {
    "learned": "best trained agent",
    "published": "best published rule",
    "adapted": "best published rule, adapted",
    "project": "best rule of this project",
    "yours": "your best rule",
}


def _place(group: str) -> tuple[int, int, str]:
    """Return where a group stands: agents, each algorithm, rules."""
    rules = (*RULE_KINDS, YOURS)
    if group in rules:
        return 2, rules.index(group), ""
    return (0, 0, "") if group == "learned" else (1, *_of_source(group))


def _of_source(policy: str) -> tuple[int, str]:
    """Return where a policy stands among those that its source names."""
    names = source_names()
    return (names.index(policy) if policy in names else len(names)), policy


def leaderboard(
    environments: Sequence[str] | None = None,
    *,
    out: str | os.PathLike[str],
    episodes: int = 100,
    seed: int = EVALUATION.start,
    lanes: int = 64,
    run: Runner = RUN_HERE,
    draw: Run[Any, bytes] | None = None,
    progress: TaskProgress | None = None,
    report: Callable[[str], None] | None = None,
) -> Leaderboard:
    """Run every policy in every environment on the same episodes and rank them.

    Policies are the rules that apply, their shipped tuned versions, ``random`` and the shipped
    agents. The best analytical policy of an environment is chosen on these very episodes, which
    favours it a little: what is said to beat it, does.

    Args:
        environments: Ids; None takes all but the papers' own large settings.
        out: Folder for ``leaderboard.csv``, ``.json``, ``.md`` and ``.html``, the episodes and
            their films; what is there already is not run again.
        episodes: Episodes of every policy and training seed, at least 2.
        seed: The first seed; the others follow it.
        lanes: Most episodes run at a time.
        run: What runs the chunks; see ``sweep``.
        draw: What draws the films; None draws them here, see ``reports.leaderboard_page``.
        progress: Told how many episodes of each environment are done.
        report: Told what a user should know at once.

    Raises:
        ValueError: If an id or value is unknown or out of range.
        OSError: If ``out`` cannot be written to.
    """
    seeds = episode_seeds(episodes, seed, lanes, report)
    rows = [find_environment(name) for name in environments or _usual()]
    folder = prepare_folder(out)
    chunks: dict[tuple[str, str], list[list[Chunk]]] = {}
    missing: dict[str, str] = {}
    for row in rows:
        try:
            specs = shipped_specs(row.id)
        except RuntimeError as error:
            # Data that are not there: what can be run is.
            missing[row.id] = str(error)
            if report is not None:
                report(f"{row.id} is left out: {error}")
            continue
        for spec in specs:
            chunks[row.id, spec] = [
                cut(row.id, one, seeds, chunk=CHUNK, lanes=lanes)
                for one in one_for_each_seed(spec, row.id)
            ]
    every = [chunk for parts in chunks.values() for part in parts for chunk in part]
    found = sweep(every, folder / PARTS, run, progress)
    played = {
        key: [joined([found[chunk] for chunk in part]) for part in parts]
        for key, parts in chunks.items()
    }
    board = rank(played, seeds, missing)
    board.write(folder)
    try:
        lengths = {key: int(parts[0].lengths[0]) for key, parts in played.items()}
        REPORTS.find("leaderboard")(board, folder, lengths, draw, progress)
    except ImportError as error:
        if report is not None:
            report(f"no {PAGE}: {error}")
    return board


def rank(
    played: Mapping[tuple[str, str], Sequence[Episodes]], seeds: range, missing: Mapping[str, str]
) -> Leaderboard:
    """Rank policies.

    Args:
        played: Episodes by environment and policy, all of the same seeds, once for each of a
            learned policy's training seeds.
        seeds: These.
        missing: Environments that were left out, and why.
    """
    ranking: list[RankedPolicy] = []
    best: dict[str, str] = {}
    scored: dict[str, list[tuple[RankedPolicy, NDArray[np.float64]]]] = {}
    for name in dict.fromkeys(environment for environment, _ in played):
        policies = {spec: parts for (of, spec), parts in played.items() if of == name}
        rows, champion, scores = rank_policies(name, policies)
        ranking += rows
        if champion is not None:
            best[name] = champion
        for group, ranked in _groups(rows).items():
            if ranked.policy in scores:
                scored.setdefault(group, []).append((ranked, scores[ranked.policy]))
    notes = {name: _notes(name, ranking) for name in best}
    overall = [_over_all(group, scored[group]) for group in sorted(scored, key=_place)]
    return Leaderboard(
        *((seeds.start, len(seeds)), package_versions(), best, ranking, overall, dict(missing)),
        notes={name: said for name, said in notes.items() if said},
    )


def _notes(name: str, ranking: Sequence[RankedPolicy]) -> dict[str, str]:
    """Return what must be known of policies of an environment, by policy."""
    policies = [row.policy for row in ranking if row.environment == name]
    return {policy: note for policy in policies if (note := contender(name, policy).note)}


def _groups(rows: Sequence[RankedPolicy]) -> dict[str, RankedPolicy]:
    """Return the best of each group."""
    found = {
        "learned": first_that(rows, lambda row: row.kind == "learned"),
        **{row.policy: row for row in reversed(rows) if row.kind == "learned"},
        **{row.kind: row for row in reversed(rows) if row.kind in (*RULE_KINDS, YOURS)},
    }
    return {group: row for group, row in found.items() if row is not None}


def _over_all(group: str, parts: Sequence[tuple[RankedPolicy, NDArray[np.float64]]]) -> Overall:
    strata = [scores for _, scores in parts]
    gaps = [row.difference_ci95 for row, _ in parts if row.difference_ci95 is not None]
    return Overall(
        group=group,
        environments=len(parts),
        score=float(np.mean([scores.mean() for scores in strata])),
        ci95=stratified_interval(strata),
        iqm=float(np.mean([interquartile_mean(scores.ravel()) for scores in strata])),
        iqm_ci95=stratified_interval(strata, "iqm"),
        above=sum(low > 0 for low, _ in gaps),
        below=sum(high < 0 for _, high in gaps),
    )


def _usual() -> list[str]:
    return [row.id for row in list_environments() if not row.from_paper]


def _cell(row: RankedPolicy | None) -> str:
    if row is None:
        return ""
    if row.kind == "learned":
        return f"{mean_text(row.mean, '#.4g')} ({row.training_seeds})"
    return f"`{row.policy}` {mean_text(row.mean, '#.4g')}"


def _ends(interval: Interval) -> str:
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]"
