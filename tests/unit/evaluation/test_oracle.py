"""The oracle that knows whose labels are wrong."""

from __future__ import annotations

import numpy as np
import pytest

from edge_gym.evaluation.oracle import ORACLE, LabelOracle
from edge_gym.evaluation.policies import resolve
from edge_gym.evaluation.rollouts import make_lanes, run_episodes


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("UpdateSchedulingCorrupt-v0", "staleness-per-cost"),
        ("UpdateSchedulingLazyCorrupt-v0", "model-age"),
    ],
)
def test_corrupt_devices_are_never_scheduled(name: str, rule: str) -> None:
    env = make_lanes(name, 4)
    found = resolve(f"{ORACLE}:rule={rule},devices=4", env)
    assert found.kind == "reference"
    assert not found.rule
    episodes = run_episodes(env, found.policy, range(4))
    assert (episodes.infos["corrupt_uploads"] == 0).all()
    assert (episodes.lengths > 3).all()


def test_corrupt_devices_compute_on_one_sample() -> None:
    env = make_lanes("BatchSlotCorrupt-v0", 4)
    oracle = LabelOracle(env, rule="optimal-batch-slot")
    observations, _ = env.reset(seed=0)
    oracle.begin(np.arange(4), range(4))
    kept = observations["devices"].copy()
    for _ in range(2):
        observations, *_ = env.step(oracle.act(observations))
        corrupt = env.problem.corrupt
        assert (env.problem.batch[corrupt] == 1).all()
        assert (env.problem.batch[~corrupt] > 1).mean() > 0.8
    assert not np.array_equal(kept, observations["devices"])


def test_what_is_observed_stays_as_it_is() -> None:
    env = make_lanes("UpdateSchedulingCorrupt-v0", 2)
    observations, _ = env.reset(seed=0)
    kept = observations["devices"].copy()
    LabelOracle(env, rule="channel-aware").act(observations)
    np.testing.assert_array_equal(observations["devices"], kept)


@pytest.mark.parametrize(
    ("spec", "fields", "message"),
    [
        ("rule=channel-aware", {"corrupt_devices": 0}, "corrupt_devices is 0 of 10"),
        ("rule=channel-aware", {"corrupt_devices": 5}, "corrupt_devices is 5 of 10"),
        ("rule=random", {}, "has no loss_cutoff"),
        ("rule=nothing", {}, "unknown baseline"),
    ],
)
def test_what_it_cannot_know_is_said(spec: str, fields: dict[str, int], message: str) -> None:
    env = make_lanes("UpdateSchedulingCorrupt-v0", 1, fields)
    with pytest.raises(ValueError, match=message):
        resolve(f"{ORACLE}:{spec}", env)
