"""Ranking of every policy in every environment, and the statistics behind them."""

from __future__ import annotations

import csv
import io
import json
import runpy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import ROOT

from edge_gym.cli import main as cli
from edge_gym.core.registration import list_environments
from edge_gym.data import DataError
from edge_gym.evaluation import leaderboard
from edge_gym.evaluation.leaderboard import Leaderboard, rank
from edge_gym.evaluation.policies import default_specs, shipped_specs
from edge_gym.evaluation.ranking import RankedPolicy, gap_cell, gap_texts, mean_text
from edge_gym.evaluation.rollouts import Episodes, make_lanes
from edge_gym.evaluation.statistics import (
    improvement_probability,
    mean_intervals,
    stratified_interval,
)
from edge_gym.evaluation.sweep import contender, zero_of
from edge_gym.runtime.workers import here

FIRST, SECOND = "edge_gym/Retransmission-v0", "edge_gym/TaskAllocationStaleness-v0"
SEEDS = range(900_000, 900_200)


def test_intervals_cover_seeds_and_episodes() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1, 400))
    low, high = stratified_interval([values])
    assert [low, high] == pytest.approx(mean_intervals(values[0]), abs=0.01)
    assert (low, high) == stratified_interval([values])
    # Seeds that differ widen it, though episodes are as many.
    several = values + rng.normal(size=(5, 1))
    low, high = stratified_interval([several])
    spread = np.sqrt(several.mean(axis=1).var() / 5 + several.mean(axis=0).var() / 400)
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.15)
    # Strata are independent: that of their mean is narrower by the root of their number.
    strata = [rng.normal(size=(1, 400)) for _ in range(4)]
    one, two = stratified_interval(strata[:1]), stratified_interval(strata)
    assert (two[1] - two[0]) == pytest.approx((one[1] - one[0]) / 2, rel=0.15)


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        values = rng.normal(size=(6, 1)) + rng.normal(size=(1, 40)) + rng.normal(size=(6, 40))
        low, high = stratified_interval([values], resamples=400)
        hits += low <= 0 <= high
    # Bootstraps of few seeds are somewhat too narrow.
    assert 0.82 <= hits / 300 <= 0.99


def test_interquartile_means_resist_outliers() -> None:
    values = np.random.default_rng(0).normal(size=(1, 200))
    values[0, :10] = 1e6
    low, high = stratified_interval([values], "iqm")
    assert -0.5 < low < high < 0.5


@pytest.mark.parametrize(
    ("strata", "message"), [([], "at least one stratum"), ([[[1.0]]], "at least 2 episodes")]
)
def test_too_little_says_nothing(strata: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stratified_interval(strata)


def test_improvement_counts_ties_half() -> None:
    ours, theirs = [[1, 2, 3, 4], [0, 0, 3, 9]], [1, 1, 3, 5]
    pairs = [(a > b) + (a == b) / 2 for row in ours for a, b in zip(row, theirs, strict=True)]
    assert improvement_probability(ours, theirs) == np.mean(pairs)


def told(accuracy: float) -> dict[str, float]:
    return {
        "test_accuracy": accuracy,
        "area_under_curve": accuracy - 0.1,
        "time_to_target": 1 - accuracy,
    }


def played(returns: Any, **infos: Any) -> Episodes:
    values = np.asarray(returns, np.float64)
    n = len(values)
    arrays = {name: np.broadcast_to(np.float64(value), n) for name, value in infos.items()}
    return Episodes(np.array(SEEDS[:n]), values, np.full(n, 3), arrays, {})


@pytest.fixture(scope="module")
def board() -> Leaderboard:
    rng = np.random.default_rng(0)
    luck = rng.normal(size=200)
    noise = rng.normal(size=(8, 200)) / 10
    return rank(
        {
            (FIRST, "random"): [played(luck + noise[0])],
            (FIRST, "channel-aware"): [played(luck + 1 + noise[1], test_accuracy=0.8)],
            (FIRST, "tuned-support-vector-aware"): [played(luck + 2 + noise[2])],
            (FIRST, "ppo"): [
                played(luck + 2.2 + noise[3], **told(0.91)),
                played(luck + 2.1 + noise[4], **told(0.89)),
                played(luck + 2.3 + noise[5], **told(0.90)),
            ],
            (FIRST, "dqn"): [played(luck + 1.8 + noise[7])],
            (SECOND, "random"): [played(luck)],
            (SECOND, "ha-asyn:cap=2"): [played(luck + noise[6])],
        },
        SEEDS,
        {"edge_gym/Retransmission-Paper-v0": "no data"},
    )


def ranked(board: Leaderboard, environment: str, policy: str) -> RankedPolicy:
    (found,) = (
        row for row in board.ranking if (row.environment, row.policy) == (environment, policy)
    )
    return found


def test_ranks(board: Leaderboard) -> None:
    order = [row.policy for row in board.ranking if row.environment == FIRST]
    assert order == ["ppo", "tuned-support-vector-aware", "dqn", "channel-aware", "random"]
    assert board.best[FIRST] == "tuned-support-vector-aware"
    ppo, dqn = (ranked(board, FIRST, name) for name in ("ppo", "dqn"))
    assert ppo.kind == "learned"
    assert (ppo.training_seeds, ppo.episodes) == (3, 200)
    assert dqn.training_seeds == 1
    assert ppo.difference == pytest.approx(0.2, abs=0.03)
    assert ppo.score == pytest.approx(1.1, abs=0.02)
    assert ppo.improvement is not None
    assert ppo.improvement > 0.85
    assert ppo.test_accuracy == pytest.approx(0.9)
    assert ppo.area_under_curve == pytest.approx(0.8)
    assert ppo.time_to_target == pytest.approx(0.1)
    rule = ranked(board, FIRST, "channel-aware")
    assert (rule.test_accuracy, rule.area_under_curve) == (pytest.approx(0.8), None)
    assert dqn.score == pytest.approx(0.9, abs=0.02)
    # Paired: the luck of episodes does not blur differences.
    assert dqn.difference_ci95 is not None
    assert -0.25 < dqn.difference_ci95[0] < dqn.difference_ci95[1] < -0.15
    # Training seeds that differ by a tenth widen the interval.
    assert ppo.difference_ci95 is not None
    assert 0.1 < ppo.difference_ci95[0] < 0.17
    assert 0.23 < ppo.difference_ci95[1] < 0.32
    assert ppo.ci95[1] - ppo.ci95[0] > 0.2
    random = ranked(board, FIRST, "random")
    assert (random.score, random.kind) == (pytest.approx(0), "reference")
    # Where no rule is clearly above chance there is no scale.
    assert ranked(board, SECOND, "ha-asyn:cap=2").score is None


ZEROS = {
    "random-split": ("Offloading-v0", "OffloadingDiscrete-v0", "OffloadingGrid-v0"),
    "random-batches": ("BatchSlot-v0", "BatchSlotNonIID-v0", "BatchSlotGPU-v0"),
    "random-shares": ("TaskAllocation-v0", "TaskAllocationRisk-v0", "JointTaskResource-v0"),
    "random": (
        *("Retransmission-v0", "DataScheduling-v0", "UpdateScheduling-v0", "BatchSlotGlobal-v0"),
        "TaskAllocationStaleness-v0",
    ),
}


@pytest.mark.parametrize(("zero", "names"), ZEROS.items())
def test_scores_begin_at_a_policy_that_respects_the_problem(zero: str, names: list[str]) -> None:
    for name in names:
        assert zero_of(f"edge_gym/{name}") == zero


def test_the_zero_is_run_with_every_environment() -> None:
    for row in list_environments():
        if not row.from_paper:
            assert zero_of(row.id) in default_specs(row.id, make_lanes(row.id, 1))


def test_a_score_does_not_divide_by_what_random_actions_cost() -> None:
    """Random bands cost thirty times what any rule does, so that all rules scored .997."""
    name, luck = "edge_gym/Offloading-v0", np.random.default_rng(0).normal(size=200)
    means = {"random": -697, "random-split": -22.7, "lco": -23.2, "admm": -21.9, "eco": -22.3}
    played_here = {(name, spec): [played(luck + mean)] for spec, mean in means.items()}
    board = rank(played_here, SEEDS, {})
    scores = {row.policy: row.score for row in board.ranking}
    wanted = {spec: (mean + 22.7) / 0.8 for spec, mean in means.items()}
    assert scores == pytest.approx(wanted)
    del played_here[name, "random-split"]
    assert {row.score for row in rank(played_here, SEEDS, {}).ranking} == {None}


def test_over_all_environments(board: Leaderboard) -> None:
    groups = {row.group: row for row in board.overall}
    assert list(groups) == ["learned", "ppo", "dqn", "published", "project"]
    assert groups["learned"] == groups["ppo"].__class__(
        **{**groups["ppo"].__dict__, "group": "learned"}
    )
    assert groups["ppo"].environments == 1
    assert (groups["ppo"].above, groups["ppo"].below) == (1, 0)
    assert (groups["dqn"].above, groups["dqn"].below) == (0, 1)
    assert groups["project"].score == 1
    assert groups["project"].ci95 == (1, 1)
    low, high = groups["ppo"].ci95
    assert 1.04 < low < groups["ppo"].score < high < 1.16


def test_what_is_written(board: Leaderboard, tmp_path: Path) -> None:
    paths = board.write(tmp_path)
    assert [path.name for path in paths] == [
        "leaderboard.csv",
        "leaderboard.json",
        "leaderboard.md",
    ]
    rows = list(csv.DictReader(io.StringIO(paths[0].read_text())))
    assert len(rows) == len(board.ranking)
    first = next(row for row in rows if row["policy"] == "ppo")
    assert float(first["mean"]) == ranked(board, FIRST, "ppo").mean
    assert float(first["difference_ci95_low"]) > 0
    assert next(row for row in rows if row["environment"] == SECOND)["score"] == ""
    numbers = json.loads(paths[1].read_text())
    assert numbers == board.to_json()
    assert numbers["missing"] == {"edge_gym/Retransmission-Paper-v0": "no data"}
    text = paths[2].read_text()
    line = next(line for line in text.splitlines() if line.startswith("| `Retransmission-v0`"))
    assert "`tuned-support-vector-aware` 2.012" in line
    assert "+0.203 [+0.111, +0.301] | 89 %" in line


def published() -> Leaderboard:
    """Return the leaderboard of the documents, without what is over all environments."""
    with (ROOT / "docs" / "leaderboard.csv").open(newline="") as file:
        rows = [{key: value or None for key, value in row.items()} for row in csv.DictReader(file)]
    ranking = []
    for row in rows:
        values: dict[str, Any] = {}
        for field in fields(RankedPolicy):
            if field.name in ("environment", "policy", "kind"):
                values[field.name] = row[field.name]
            elif field.name.endswith("ci95"):
                low, high = row[f"{field.name}_low"], row[f"{field.name}_high"]
                values[field.name] = None if low is None else (float(low), float(high or ""))
            else:
                number = row[field.name]
                values[field.name] = None if number is None else float(number)
        whole = {name: int(values[name]) for name in ("training_seeds", "episodes")}
        ranking.append(RankedPolicy(**{**values, **whole}))
    best = {row.environment: row.policy for row in ranking if row.difference == 0}
    return Leaderboard((0, 0), {}, best, ranking, [], {})


def test_the_readme_shows_what_the_documents_hold() -> None:
    table = published().to_markdown()
    assert table.count("\n") == 33
    assert table in (ROOT / "README.md").read_text("utf-8")


def test_publishing_replaces_tables_and_nothing_else(board: Leaderboard, tmp_path: Path) -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "publish_leaderboard.py"))
    (tmp_path / "docs").mkdir()
    board.write(tmp_path)
    readme = tmp_path / "README.md"
    around = "# x\n\n| a |\n|---|\n\n## Leaderboard\n\nWords.\n\n{}\n## Next\n\n| b |\n|---|\n"
    readme.write_text(around.format("| old |\n|---|\n\n| older |\n|---|\n| 1 |\n"))
    for _ in range(2):
        tool["publish"](tmp_path, tmp_path)
        assert readme.read_text() == around.format(board.to_markdown())
        assert (tmp_path / "docs" / "leaderboard.csv").read_text() == board.to_csv()
    readme.write_text("# x\n")
    with pytest.raises(ValueError, match="no tables"):
        tool["publish"](tmp_path, tmp_path)


def test_the_command_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edge_gym.runtime.workers.in_processes", lambda _, work: here(work))
    command = ["leaderboard", "TaskAllocationStaleness-v0", "--episodes", "4", "--json"]
    assert cli.main([*command, "--out", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    rules = {"random", "ha-asyn", "tuned-ha-asyn", "ha-sync"}
    assert {row["policy"] for row in found["ranking"]} == rules | {"ppo", "dqn"}
    assert found["seeds"] == [900_000, 4]
    assert {row["episodes"] for row in found["ranking"]} == {4}
    for work in ("edge_gym.evaluation.sweep.run_chunk", "edge_gym.reports.films.draw"):
        monkeypatch.setattr(work, lambda task: pytest.fail("done again"))
    assert cli.main([*command, "--out", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_what_cannot_be_run_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise DataError("no such images: fetch them")

    monkeypatch.setattr(leaderboard, "shipped_specs", missing)
    said: list[str] = []
    board = leaderboard.leaderboard(
        ["TaskAllocationStaleness-v0"], out=tmp_path, episodes=2, report=said.append
    )
    assert not board.ranking
    assert board.missing == {SECOND: "no such images: fetch them"}
    assert said[1:] == [f"{SECOND} is left out: no such images: fetch them"]


def test_tuned_rules_that_are_nothing_new_are_left_out() -> None:
    name = "edge_gym/UpdateScheduling-v0"
    env = make_lanes(name, 1)
    shipped = shipped_specs(name)
    tuned = [spec for spec in default_specs(name, env) if spec.startswith("tuned-")]
    new = {
        spec: contender(name, spec).parameters
        != contender(name, spec.removeprefix("tuned-")).parameters
        for spec in tuned
    }
    assert {spec: spec in shipped for spec in tuned} == new
    assert set(new.values()) == {True, False}


def test_differences_have_as_many_decimals_as_are_known(board: Leaderboard) -> None:
    row = replace(board.ranking[0], difference=0.0123456, difference_ci95=(0.00908, 0.0153))
    assert gap_cell(row) == "+0.0123 [+0.0091, +0.0153]"
    row = replace(row, difference=-12.3456, difference_ci95=(-90.0, 70.0))
    assert gap_cell(row) == "-12 [-90, +70]"
    same = replace(row, difference=1e-17, difference_ci95=(0.0, 3e-17))
    assert gap_cell(same) == "+0.0000 [+0.0000, +0.0000]"
    assert gap_cell(replace(row, difference=None)) == gap_cell(None) == ""


def test_what_rounding_leaves_of_zero_is_zero(board: Leaderboard) -> None:
    assert [mean_text(value) for value in (2.776e-17, -2.776e-17, 0.0)] == ["0"] * 3
    assert mean_text(-1e-16, "#.4g") == "0.000"
    assert [mean_text(value) for value in (0.74312, -697.25, 1e-9)] == ["0.7431", "-697.2", "1e-09"]
    row = replace(board.ranking[0], difference=-1e-17, difference_ci95=(-2e-17, 2e-17))
    assert gap_texts(row) == ("+0.0000", "+0.0000", "+0.0000")
    row = replace(row, difference=-0.2, difference_ci95=(-30.0, 30.0))
    assert gap_texts(row) == ("+0", "-30", "+30")


def test_wrong_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "board"
    for command, message in (
        (["--episodes", "1"], "episodes must be an integer at least 2"),
        (["Nothing-v0"], "Nothing-v0"),
        (["--ray", "local", "--workers", "2"], "exclude each other"),
    ):
        assert cli.main(["leaderboard", *command, "--out", str(folder)]) == 2
        assert message in capsys.readouterr().err
    assert not folder.exists()
