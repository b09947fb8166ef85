"""CMA-ES: it finds an optimum that is known, and goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rollouts

pytest.importorskip("cmaes")

from edge_gym.baselines import make_baseline
from edge_gym.baselines.index_policy.rules import UpdateIndex
from edge_gym.evaluation import weight_search
from edge_gym.evaluation.rollouts import Episodes, make_lanes, run_episodes
from edge_gym.evaluation.seeds import TUNING
from edge_gym.evaluation.weight_search import WeightSearchInterrupted, search_weights

NAME = "UpdateSchedulingLazyIID-v0"


class Cheap(UpdateIndex):
    """An index of one column."""

    columns = {"devices": ("log_cost",)}


# With four weights there are eight trials in a generation.
TOP = [1.0, -1.0, 0.5, 0.0]
FEW: dict[str, Any] = {"policy": f"{__name__}:Cheap", "episodes": 8, "judged_on": 8}


class Hill:
    """Stands in for ``run_episodes``: returns by seed, on a hill whose top is known."""

    def __init__(self, top: list[float], stop_at: int | None = None) -> None:
        self.top, self.stop_at = np.array(top), stop_at
        self.played: list[tuple[int, ...]] = []

    def __call__(self, env: Any, rule: Any, seeds: Any, progress: Any) -> Episodes:
        if len(self.played) == self.stop_at:
            self.stop_at = None
            raise KeyboardInterrupt
        self.played.append(tuple(seeds))
        progress(len(seeds), len(seeds))
        weights = np.array(list(rule.parameters.weights.values()))
        luck = np.array([np.random.default_rng(seed).normal() for seed in seeds])
        returns = luck - np.square(weights - self.top).sum()
        return Episodes(np.array(seeds), returns, np.ones(len(seeds), np.int64), {}, {})


@pytest.fixture(scope="module")
def env() -> Any:
    return make_lanes(NAME, 8, rollouts.brief(NAME))


def test_it_finds_the_top_of_a_hill(
    env: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hill = Hill(TOP)
    monkeypatch.setattr(weight_search, "run_episodes", hill)
    calls: list[tuple[str, int, int]] = []
    found = search_weights(
        env, out=tmp_path, trials=167, progress=lambda *call: calls.append(call), **FEW
    )
    assert found.method == "cma"
    # Twenty generations, and what is left is too few for another.
    assert len(found.trials) == 160
    weights = found.best.parameters["weights"]
    np.testing.assert_allclose(list(weights.values()), TOP, atol=0.15)
    # All of a generation have the same episodes, another has others, and the result has its own.
    *tried, judged = hill.played
    generations = [set(tried[at : at + 8]) for at in range(0, 160, 8)]
    assert [len(seeds) for seeds in generations] == [1] * 20
    seen = [seed for (seeds,) in generations for seed in seeds]
    assert len(set(seen)) == len(seen)
    assert judged == tuple(TUNING[:8])
    assert not set(judged) & set(seen)
    assert set(seen) <= set(TUNING)
    assert calls[-1] == (f"tuning {FEW['policy']}", 161 * 8, 161 * 8)


def test_it_goes_on_where_it_was_stopped(
    env: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_search, "run_episodes", Hill(TOP))
    whole = search_weights(env, out=tmp_path / "whole", trials=16, **FEW)
    # Before the first, in a generation, between two, in the last one, and as the result is judged.
    for stop_at in (0, 5, 8, 13, 16):
        hill = Hill(TOP, stop_at)
        monkeypatch.setattr(weight_search, "run_episodes", hill)
        folder = tmp_path / str(stop_at)
        with pytest.raises(WeightSearchInterrupted, match=f"after {stop_at} trials; to go on"):
            search_weights(env, out=folder, trials=16, **FEW)
        assert search_weights(env, out=folder, trials=16, **FEW) == whole
        # Nothing was done twice.
        assert len(hill.played) == 16 + 1
        names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        assert sorted(names) == ["search.json", "weights.yaml"]


def test_on_the_environment_with_more_trials_later(env: Any, tmp_path: Path) -> None:
    folder, other = tmp_path / "one", tmp_path / "two"
    whole = search_weights(env, out=folder, trials=16, **FEW)
    assert len(search_weights(env, out=other, trials=1, **FEW).trials) == 8
    assert search_weights(env, out=other, trials=16, **FEW) == whole
    # What is written is what was judged.
    policy = make_baseline("index", env, weights=str(folder / "weights.yaml"))
    assert policy.parameters.weights == whole.best.parameters["weights"]
    assert run_episodes(env, policy, TUNING[:8]).returns.mean() == whole.best.mean_return


def test_other_settings_and_damage_are_refused(
    env: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_search, "run_episodes", Hill(TOP))
    search_weights(env, out=tmp_path, trials=8, **FEW)
    for change, message in (
        ({"episodes": 9}, "begun with another episodes: go on with the same"),
        ({"seed": 1}, "begun with another seed"),
        ({"policy": "index"}, "begun with another policy, weights"),
        ({"trials": 0}, "trials must be"),
        ({"episodes": 1}, "episodes must be"),
        ({"policy": "round-robin"}, "'round-robin' has no weights"),
    ):
        with pytest.raises(ValueError, match=message):
            search_weights(env, out=tmp_path, **{"trials": 8, **FEW, **change})
    other = make_lanes(NAME, 2, {**rollouts.brief(NAME), "n_devices": 4})
    with pytest.raises(ValueError, match="begun with another config"):
        search_weights(other, out=tmp_path, trials=8, **FEW)
    path = tmp_path / "search.json"
    content = json.loads(path.read_text())
    for damage in ("{", "[]", {**content, "trials": [[1.0]]}, {**content, "settings": 3}):
        path.write_text(damage if isinstance(damage, str) else json.dumps(damage))
        with pytest.raises(ValueError, match=r"search\.json is damaged.*choose another folder"):
            search_weights(env, out=tmp_path, trials=8, **FEW)


def test_a_return_that_is_no_number_is_refused(
    env: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_search, "run_episodes", Hill([float("nan")] * 4))
    with pytest.raises(ValueError, match=r"mean return of a trial of .* is no number"):
        search_weights(env, out=tmp_path, trials=8, **FEW)
