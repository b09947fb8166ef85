"""The trials of every rule: the whole grid, or as much of it as the budget allows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from edge_gym.baselines import Baseline
from edge_gym.evaluation import tuning
from edge_gym.evaluation.policies import default_specs, resolve, shipped_specs
from edge_gym.evaluation.rollouts import make_lanes, own_config

ID = "Retransmission-v0"
SMALL = {"budget": 8, "image_size": 7, "validation_size": 60, "test_size": 40}


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Three numbers, of which the first is a threshold."""

    first: float = 0.0
    second: int | None = None
    third: float = 0.0


class Wide(Baseline):
    """A rule with a grid larger than the budget."""

    name = "wide"
    source = "test"
    Parameters = Parameters
    grid = {
        "first": (4.0, 8.0, 12.0, 16.0, 20.0),
        "second": (None, 1, 2, 3, 4, 6),
        "third": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    }
    needs = {"": ("effective_snr_db",)}

    def act(self, observations: Any, masks: Any = None) -> Any:
        snr_db = self.tables[""].read(observations, "effective_snr_db")
        return (snr_db <= self.parameters.first).astype(np.int64)


PLACE = f"{__name__}:Wide"


def test_of_large_grids_as_many_points_as_the_budget_are_spread_evenly() -> None:
    env = make_lanes(ID, 1, SMALL)
    whole = tuning.grid_points(PLACE, env)
    assert len(whole) == 5 * 6 * 7
    drawn = tuning.grid_points(PLACE, env, 64)
    assert len(drawn) == 64
    # Different points of the grid, in its order.
    places = [whole.index(point) for point in drawn]
    assert places == sorted(set(places))
    for name, values in Wide.grid.items():
        counts = Counter(point[name] for point in drawn)
        assert set(counts) == set(values)
        assert max(counts.values()) <= 2 * min(counts.values())
    assert tuning.grid_points(PLACE, env, 64) == drawn
    assert tuning.grid_points(PLACE, env, 210) == whole
    assert len(tuning.grid_points(PLACE, env, 209)) == 209


def test_the_method_is_told_and_own_rules_are_tuned() -> None:
    env = make_lanes(ID, 4, SMALL)
    drawn = tuning.tune(env, PLACE, 8, trials=5)
    assert (drawn.policy, drawn.method, len(drawn.trials)) == (PLACE, "halton", 5)
    assert drawn.best in drawn.trials
    assert tuning.tune(env, "channel-aware", 8).method == "grid"
    with pytest.raises(ValueError, match="parameters are found, not given"):
        tuning.tune(env, f"{PLACE}:first=3", 8)
    with pytest.raises(ValueError, match="nothing to tune here"):
        tuning.tune(env, "edge_gym.baselines.base:RandomPolicy", 8)
    with pytest.raises(ValueError, match="does not apply to this environment: there is no column"):
        tuning.tune(make_lanes("Offloading-v0", 1), PLACE, 8)
    with pytest.raises(ValueError, match="trials must be"):
        tuning.tune(env, "channel-aware", 8, trials=0)


def test_weights_that_ship_take_part(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "tuned_folder", lambda: tmp_path)
    env = make_lanes(ID, 1)
    assert "tuned-index" not in default_specs(ID, env)
    with pytest.raises(ValueError, match="no tuned parameters of 'index' ship"):
        resolve("tuned-index", env)
    best = tuning.GridPoint({"weights": {"margin": -1.5, "1 * left": 0.25}}, 16, 0.1, (0.0, 0.2))
    found = tuning.Tuning("index", best, (best, best), tuning.CMA)
    entry = tuning.load_yaml(tuning.write_tunings(ID, own_config(ID), [found]).read_text())
    assert entry["policies"]["index"]["method"] == "cma"
    assert entry["policies"]["index"]["points"] == 2
    assert "tuned-index" in default_specs(ID, env)
    assert "index" not in default_specs(ID, env)
    assert "tuned-index" in shipped_specs(ID)
    contender = resolve("tuned-index", env)
    assert contender.parameters == best.parameters
    assert (contender.kind, contender.rule) == ("reference", False)
    # Weights of one configuration are no weights of another.
    assert "tuned-index" not in default_specs(ID, make_lanes(ID, 1, SMALL))
