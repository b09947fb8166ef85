"""A planner that copies the running environment wins what brute force says there is."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from rollouts import SMALL

from edge_gym.cli.main import main
from edge_gym.evaluation.planner import _Planner, plan
from edge_gym.evaluation.policies import make_policy
from edge_gym.evaluation.rollouts import make_lanes, run_episodes
from edge_gym.evaluation.seeds import TUNING

NAME = "TaskAllocationStaleness-v0"
FIELDS = {**SMALL[NAME], "cycles": 3, "caps": [0, 2, 5]}
BASE = "ha-asyn:cap=0"


def returns_of(policy: Any, n: int, **fields: Any) -> Any:
    env = make_lanes(NAME, n, {**FIELDS, **fields})
    return run_episodes(env, policy(env), TUNING[:n]).returns


class Schedule:
    """Takes the same actions in every episode."""

    def __init__(self, actions: Any) -> None:
        self.actions = actions

    def begin(self, lanes: Any, seeds: Any) -> None:
        self.step = 0

    def act(self, observations: Any, masks: Any = None) -> Any:
        self.step += 1
        return np.full(len(observations["system"]), self.actions[self.step - 1])


def planned(
    env: Any, futures: int = 0, base: str = BASE, candidates: Any = (), hold: int = 1
) -> _Planner:
    return _Planner(NAME, env, base, candidates, futures, hold, FIELDS, None)


def test_foresight_never_loses_and_brute_force_never_wins_against_it_all() -> None:
    """With the true future known, planning is at least the base in every single episode."""
    n = 6
    ours = returns_of(planned, n)
    base = returns_of(lambda env: make_policy(BASE, env), n)
    schedules = [
        returns_of(lambda env, s=schedule: Schedule(s), n)
        for schedule in itertools.product(range(3), repeat=3)
    ]
    best = np.max(schedules, axis=0)
    assert (ours >= base - 1e-12).all()
    assert (ours <= best + 1e-12).all()
    assert ours.mean() > base.mean()
    # Its last step is the best of all last steps, so it cannot be far off.
    assert ours.mean() > (base.mean() + best.mean()) / 2


def test_a_single_candidate_is_the_base() -> None:
    bound = plan(NAME, BASE, [BASE], futures=2, episodes=3, overrides=FIELDS)
    for found in bound.metrics.values():
        assert found.difference == 0
        assert found.difference_ci95 == (0, 0)
    assert {"return", "test_accuracy"} <= bound.metrics.keys()
    assert bound.candidates == (BASE,)


def test_held_candidates_lead_where_they_lead_alone() -> None:
    """Held to the end with the true future known, the best of whole schedules of one action."""
    n = 5
    whole = [returns_of(lambda env, a=action: Schedule([a] * 3), n) for action in range(3)]
    ours = returns_of(lambda env: planned(env, hold=3), n)
    assert (ours >= np.max(whole, axis=0) - 1e-12).all()
    names = [f"ha-asyn:cap={cap}" for cap in (0, 2, 5)]
    by_policies = returns_of(lambda env: planned(env, candidates=names, hold=3), n)
    np.testing.assert_allclose(by_policies, ours)


def test_candidates_are_compared_by_where_they_lead() -> None:
    """Between a good and a hopeless policy the planner takes the good one."""
    fields = {**FIELDS, "cycles": 2}
    bound = plan(
        "TaskAllocation-v0",
        "random",
        ["ha-asyn:cap=2"],
        futures=2,
        episodes=6,
        overrides={name: value for name, value in fields.items() if name != "caps"},
    )
    found = bound.metrics["return"]
    assert found.base_mean < found.mean
    assert found.difference == pytest.approx(found.mean - found.base_mean)


def test_masked_actions_are_not_taken() -> None:
    name = "DataScheduling-v0"
    fields = {**SMALL[name], "budget": 4}
    bound = plan(name, "round-robin", futures=1, episodes=2, overrides=fields)
    assert np.isfinite(bound.metrics["return"].mean)


def test_the_episode_itself_is_left_alone() -> None:
    """Planning copies streams: what it plans for happens as it would without it."""
    env = make_lanes(NAME, 2, FIELDS)
    with_planner = run_episodes(env, planned(env, 2, BASE, [BASE]), TUNING[:2])
    without = run_episodes(env, make_policy(BASE, env), TUNING[:2])
    np.testing.assert_array_equal(with_planner.returns, without.returns)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    fields = ["--set", "cycles=2", "--set", "test_size=50", "--set", "validation_size=50"]
    command = ["plan", NAME, "--base", BASE, "--futures", "1", "--episodes", "2", *fields]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["seeds"] == [TUNING.start, 2]
    assert main(command) == 0
    assert f"{BASE} {told['metrics']['return']['base_mean']:.4f}" in capsys.readouterr().out
    assert main(["plan", "TaskAllocation-v0", "--base", "random"]) == 2
    assert "name candidates" in capsys.readouterr().err
    assert main([*command, "--futures", "-1"]) == 2
    assert "futures must be" in capsys.readouterr().err
