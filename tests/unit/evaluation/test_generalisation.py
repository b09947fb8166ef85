"""Settings beside an environment's own, and what policies come to there."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from edge_gym.cli import main as cli
from edge_gym.core.registration import list_environments
from edge_gym.data import DataError
from edge_gym.evaluation import generalisation
from edge_gym.evaluation.generalisation import OWN, Generalisation, Setting, generalise, settings_of
from edge_gym.evaluation.policies import resolve
from edge_gym.evaluation.rollouts import make_lanes, own_config, run_episodes
from edge_gym.reports import charts
from edge_gym.runtime.workers import here

NAME = "edge_gym/Retransmission-v0"
SPECS = ["random", "channel-aware", "importance-aware:max_snr_db=12", "ppo", "dqn"]
SHORT = {"budget": 40, "validation_size": 100, "test_size": 50}


def of(env_id: str) -> dict[str, dict[str, Any]]:
    return {setting.name: dict(setting.overrides) for setting in settings_of(env_id)}


def test_settings_lie_on_both_sides() -> None:
    assert of("Retransmission-v0") == {
        "own": {},
        "SNR: 0 dB": {"mean_snr_db": 0.0},
        "SNR: 10 dB": {"mean_snr_db": 10.0},
        "data: Fashion-MNIST": {"dataset": "fashion-mnist"},
        "budget: 200": {"budget": 200},
        "budget: 800": {"budget": 800},
    }
    lazy = of("UpdateSchedulingLazy-v0")
    assert of("UpdateScheduling-v0")["budget: 1.2"] == {"budget_s": 1.2}
    assert lazy["budget: 0.05"] == {"budget_j": 0.05}
    assert lazy["devices: 20"] == {"n_devices": 20}
    assert lazy["SNR: -10 dB"] == {"transmit_power_dbm": 13.0, "downlink_power_dbm": 36.0}
    assert {"partition: iid", "partition: dirichlet"} < set(lazy)
    assert of("BatchSlot-v0")["SNR: +10 dB"] == {
        "transmit_power_dbm": 38.0,
        "downlink_power_dbm": 38.0,
    }


@pytest.mark.parametrize("name", [row.name for row in list_environments() if not row.from_paper])
def test_every_environment_has_settings_that_differ(name: str) -> None:
    settings = list(settings_of(name))
    assert settings[0] == OWN
    assert len({setting.name for setting in settings}) == len(settings) >= 5
    own = own_config(name)
    known = {field.name for field in fields(own)}
    for setting in settings[1:]:
        assert setting.overrides
        assert set(setting.overrides) <= known
        for field, value in setting.overrides.items():
            assert getattr(own, field) != value


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Generalisation, Path]:
    folder = tmp_path_factory.mktemp("grid")
    settings = [
        Setting("own", "own", SHORT),
        Setting("SNR", "10 dB", {**SHORT, "mean_snr_db": 10.0}),
        Setting("budget", "none", {**SHORT, "budget": 0}),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generalisation, "OWN", settings[0])
        patch.setattr(generalisation, "settings_of", lambda name: iter(settings))
        patch.setattr(generalisation, "shipped_specs", lambda name: SPECS)
        return generalise([NAME], out=folder, episodes=3), folder


def test_policies_keep_what_they_were_made_for(found: tuple[Generalisation, Path]) -> None:
    result, _ = found
    ranking = result.ranking[NAME]
    policies = {row.policy for row in ranking["own"]}
    assert {"random", "ppo", "dqn"} < policies
    rules = policies - {"random", "ppo", "dqn"}
    assert len(rules) == 1
    assert {row.policy for row in ranking["SNR: 10 dB"]} == policies
    row = next(row for row in ranking["SNR: 10 dB"] if row.policy in rules)
    env = make_lanes(NAME, 3, {**SHORT, "mean_snr_db": 10.0})
    again = run_episodes(env, resolve(row.policy, env).policy, range(900_000, 900_003))
    assert row.mean == again.returns.mean()
    # A rule's parameters are spelt out, so that no other are searched elsewhere.
    own = make_lanes(NAME, 1)
    for rule in rules:
        spec = next(spec for spec in SPECS if spec.startswith(rule.partition(":")[0]))
        assert resolve(rule, own).parameters == resolve(spec, own).parameters


def test_what_is_written(found: tuple[Generalisation, Path]) -> None:
    result, folder = found
    assert list(result.missing) == [f"{NAME}, budget: none"]
    assert [setting.name for setting in result.settings[NAME]] == ["own", "SNR: 10 dB"]
    rows = list(csv.DictReader(io.StringIO((folder / "generalisation.csv").read_text())))
    assert {(row["axis"], row["value"]) for row in rows} == {("own", "own"), ("SNR", "10 dB")}
    assert len(rows) == sum(map(len, result.ranking[NAME].values()))
    assert json.loads((folder / "generalisation.json").read_text()) == result.to_json()
    lines = (folder / "generalisation.md").read_text().splitlines()
    assert lines[0] == "`Retransmission-v0`"
    assert [line.split(" | ")[0] for line in lines[4:6]] == ["| own", "| SNR: 10 dB"]
    assert (folder / "Retransmission-v0.png").read_bytes().startswith(b"\x89PNG")


def test_where_no_rule_is_above_random_the_picture_says_so(
    found: tuple[Generalisation, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = found
    compared = {"difference": 0.1, "difference_ci95": (0.0, 0.2)}
    ranking = {
        NAME: {
            setting: [
                replace(row, score=score, **compared) for row in result.ranking[NAME][setting]
            ]
            for setting, score in (("own", 1.0), ("SNR: 10 dB", None))
        }
    }
    drawn: list[Any] = []
    monkeypatch.setattr(charts, "save", lambda figure, path: drawn.append(figure))
    charts.draw_generalisation(replace(result, ranking=ranking), NAME, Path("unused.png"))
    labels = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert labels == ["SNR: 10 dB (no rule above random)", "own"]


def test_missing_data_leave_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = generalisation.make_lanes

    def without(name: str, lanes: int, overrides: Any = None) -> Any:
        if overrides and "dataset" in overrides:
            raise DataError("fetch them")
        return make(name, lanes, overrides)

    monkeypatch.setattr(generalisation, "make_lanes", without)
    said: list[str] = []
    settings, missing = generalisation._possible([NAME], said.append)
    assert len(settings[NAME]) == 5
    assert missing == {f"{NAME}, data: Fashion-MNIST": "fetch them"}
    assert said == [f"{NAME}, data: Fashion-MNIST is left out: fetch them"]


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edge_gym.runtime.workers.in_processes", lambda _, work: here(work))
    own = Setting("own", "own", SHORT)
    monkeypatch.setattr(generalisation, "OWN", own)
    monkeypatch.setattr(generalisation, "settings_of", lambda name: iter([own]))
    monkeypatch.setattr(generalisation, "shipped_specs", lambda name: SPECS)
    command = ["generalise", "Retransmission-v0", "--episodes", "2", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    first = capsys.readouterr().out
    assert first.startswith("`Retransmission-v0`")
    monkeypatch.setattr("edge_gym.evaluation.sweep.run_chunk", lambda _: pytest.fail("run again"))
    assert cli.main(command) == 0
    assert capsys.readouterr().out == first
    assert cli.main(["generalise", "--episodes", "1"]) == 2
    assert "episodes must be" in capsys.readouterr().err
