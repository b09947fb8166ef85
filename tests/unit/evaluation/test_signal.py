"""evaluation.signal: what so many episodes tell apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rollouts

from edge_gym.baselines import applicable_baselines
from edge_gym.cli.main import main
from edge_gym.evaluation import tuning
from edge_gym.evaluation.rollouts import make_lanes, own_config
from edge_gym.evaluation.signal import metric_signal, paired_z, signal

ID = "Retransmission-v0"
SMALL = rollouts.SMALL[ID]


def test_z_is_that_of_100_paired_episodes() -> None:
    rng = np.random.default_rng(0)
    shared, noise = rng.standard_normal(10_000), rng.standard_normal(10_000)
    # What both episodes share cancels: differences have the mean .2 and the deviation .5.
    assert paired_z(shared + 0.2 + 0.5 * noise, shared) == pytest.approx(4, rel=0.05)
    assert paired_z(shared, shared) == 0
    assert paired_z(np.full(8, 3.0), np.full(8, 2.0)) == np.inf


def test_pairs_of_sensible_policies_are_counted() -> None:
    rng = np.random.default_rng(1)
    base = rng.standard_normal(400)

    def near(mean: float) -> np.ndarray:
        return base + mean + rng.standard_normal(400)

    values = {"random": near(0.0), "a": near(1.0), "b": near(1.0), "c": near(2.0)}
    found = metric_signal("return", values, {"random"})
    assert found.pairs == 3
    assert found.resolved == pytest.approx(2 / 3)
    assert found.best[0] == "c"
    assert found.best_z == pytest.approx(paired_z(values["c"], values[found.best[1]]))
    assert found.spread == pytest.approx(np.sqrt(2), rel=0.15)
    assert metric_signal("return", {k: values[k] for k in "abc"}, set()).spread is None
    # Where less is better, the same values the other way round say the same.
    slow = metric_signal("time_to_target", {k: -v for k, v in values.items()}, {"random"})
    assert (slow.best, slow.best_z, slow.spread) == (found.best, found.best_z, found.spread)
    assert slow.median_z == found.median_z


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    rules = ("random", "no-retransmission", "channel-aware:max_snr_db=12")
    names = [part for name in rules for part in ("--policy", name)]
    fields = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    command = ["signal", ID, *names, "--episodes", "8", *fields]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["environment"] == f"edge_gym/{ID}"
    assert [one["metric"] for one in found["metrics"]] == [
        *("return", "test_accuracy", "area_under_curve", "time_to_target"),
        *("total_gain", "total_loss_decrease"),
    ]
    assert found["metrics"][0]["pairs"] == 1
    assert main(command) == 0
    assert "median z" in capsys.readouterr().out
    again = signal(ID, rules, episodes=8, overrides=SMALL, lanes=3).to_json()
    assert json.loads(json.dumps(again)) == found


def test_a_tuned_index_is_sensible_where_its_weights_were_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "tuned_folder", lambda: tmp_path)
    point = tuning.GridPoint({"weights": {"effective_snr_db": -1.0}}, 8, 0.1, (0.0, 0.2))
    tuning.write_tunings(ID, own_config(ID), [tuning.Tuning("index", point, (point,), tuning.CMA)])
    found = signal(ID, ["random", "tuned-index", "no-retransmission"], episodes=8)
    assert found.metrics[0].pairs == 1
    # By default all that apply take part, but no weights of another configuration.
    rules = len(applicable_baselines(make_lanes(ID, 1))) - 1
    assert signal(ID, episodes=8, overrides=SMALL).metrics[0].pairs == rules * (rules - 1) // 2


def test_too_few_policies_are_refused() -> None:
    with pytest.raises(ValueError, match="two policies or more are told apart"):
        signal(ID, ["random", "no-retransmission"], episodes=8, overrides=SMALL)
