"""What actions of update scheduling mean, and its settings."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from plain_update_scheduling import ENDLESS, LAZY, PLAIN, SMALL, agent, make, scores_of
from references import column
from rollouts import assert_same

from edge_gym.envs.update_scheduling.actions import Decision, action_codec
from edge_gym.envs.update_scheduling.config import UpdateSchedulingConfig


@pytest.mark.parametrize(
    ("fields", "scores", "wanted"),
    [
        ({}, [0.1, -0.1, 1, 0], [0, 2]),
        ({}, [0, 0, 0, 0], [0]),
        ({}, [-1, -0.2, -0.1, -0.1], [2]),
        ({}, [1, 1, 1, 1], [0, 1, 2, 3]),
        ({"selection": "top", "uploads_per_round": 2}, [1, 1, 1, 1], [0, 1]),
        ({"selection": "top", "uploads_per_round": 3}, [-1, 0, -0.5, -0.7], [1, 2, 3]),
    ],
)
@pytest.mark.parametrize("bandwidth", ["finish", "equal", "agent"])
def test_who_is_scheduled(
    bandwidth: str, fields: dict[str, Any], scores: list[float], wanted: list[int]
) -> None:
    env = make(bandwidth=bandwidth, **fields, **ENDLESS)
    env.reset(seed=0)
    action = np.array(scores)
    if bandwidth == "agent":
        action = np.stack([action, [0.5, -1, 1, 0]], axis=1)
    observation, *_, info = env.step(action)
    assert info["scheduled"] == info["arrived"] == len(wanted)
    uploads = column(env, observation, "devices", "uploads")
    assert np.flatnonzero(uploads).tolist() == wanted


@pytest.mark.parametrize("bandwidth", ["finish", "agent"])
@pytest.mark.parametrize("participation", ["all", "agent"])
@pytest.mark.parametrize("indicators", ["reported", "remembered", "free"])
def test_actions_say_what_was_put_into_them(
    indicators: str, participation: str, bandwidth: str
) -> None:
    config = UpdateSchedulingConfig(
        indicators=indicators, participation=participation, bandwidth=bandwidth
    )
    names = ["scores"]
    names += ["band"] if bandwidth == "agent" else []
    names += ["participation"] if participation == "agent" and indicators == "reported" else []
    codec = action_codec(config)
    assert list(codec.columns) == names
    rng = np.random.default_rng(0)
    said = Decision(*rng.uniform(-1, 1, (3, 2, 10)).astype(np.float32))
    action = codec.encode(said)
    assert action.shape == ((2, 10, len(names)) if len(names) > 1 else (2, 10))
    found = codec.decode(action)
    for name in Decision._fields:
        wanted = getattr(said, name) if name in names else None
        assert wanted is None or np.array_equal(getattr(found, name), wanted)
        assert (getattr(found, name) is None) == (wanted is None)
    space = gym.make(
        f"edge_gym/{PLAIN}",
        indicators=indicators,
        participation=participation,
        bandwidth=bandwidth,
    ).action_space
    assert space.shape == action.shape[1:]


@pytest.mark.parametrize(
    ("participation", "scores", "participants", "scheduled"),
    [
        ([1, 1, 1, 1], [1, -1, 1, -1], [0, 1, 2, 3], [0, 2]),
        ([1, -1, 1, -1], [1, 1, -1, 1], [0, 2], [0]),
        ([1, -1, 1, 0], [-0.5, 1, -0.2, 1], [0, 2], [2]),
        ([-1, -0.3, -0.1, -0.1], [1, 1, -1, 1], [2], [2]),
        ([0, 0, 0, 0], [1, 1, 1, 1], [0], [0]),
    ],
)
def test_who_is_left_out_of_the_next_round(
    participation: list[float],
    scores: list[float],
    participants: list[int],
    scheduled: list[int],
) -> None:
    env = make(participation="agent", slowdown_probability=0.5, **ENDLESS)
    observation, _ = env.reset(seed=0)
    assert column(env, observation, "devices", "participates").all()
    observation, *_, info = env.step(agent([1, 1, 1, 1], participation))
    assert info["participants"] == info["scheduled"] == 4
    found = column(env, observation, "devices", "participates")
    assert np.flatnonzero(found).tolist() == participants
    age = column(env, observation, "devices", "indicator_age")
    assert age.tolist() == [float(k not in participants) for k in range(4)]
    # Those left out tell nothing, and use nothing.
    energy = env.problem.energy_j[0].copy()
    before = column(env, observation, "devices", "uploads")
    observation, *_, info = env.step(agent(scores, [1, 1, 1, 1]))
    assert info["participants"] == len(participants)
    uploads = column(env, observation, "devices", "uploads") - before
    assert np.flatnonzero(uploads).tolist() == scheduled
    used = env.problem.energy_j[0] - energy
    assert np.flatnonzero(used).tolist() == participants
    assert column(env, observation, "devices", "participates").all()


@pytest.mark.parametrize("bandwidth", ["finish", "agent"])
def test_columns_that_are_not_given_are_filled(bandwidth: str) -> None:
    whole, part = (make(bandwidth=bandwidth, participation="agent", **ENDLESS) for _ in range(2))
    columns = whole.action_space.shape[-1]
    assert columns == (3 if bandwidth == "agent" else 2)
    scores = np.random.default_rng(0).uniform(-1, 1, whole.action_space.shape).astype(np.float32)
    for width in range(columns):
        filled = scores.copy()
        filled[:, max(width, 1) :] = 1
        fewer = scores[:, :width] if width else scores[:, 0]
        for env, action in ((whole, filled), (part, fewer)):
            env.reset(seed=3)
            env.step(action)
        assert_same(part.step(fewer), whole.step(filled))
    with pytest.raises(ValueError, match=r"must have shape \(\d+, \d\), got shape \(3,\)"):
        whole.step(scores[:3, 0])


@pytest.mark.parametrize("name", [PLAIN, LAZY])
def test_devices_that_are_not_given_are_not_filled(name: str) -> None:
    env = make(name)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"must have shape \(4,\), got shape \(3,\)"):
        env.step(scores_of(0, n=3))
    lanes: Any = gym.make_vec(f"edge_gym/{name}", 2, **SMALL)
    lanes.reset(seed=0)
    with pytest.raises(ValueError, match=r"must have shape \(2, 4\), got shape \(2, 3\)"):
        lanes.step(np.ones((2, 3), np.float32))


def test_the_configuration_knows_its_budget() -> None:
    both = {"budget_s": 3.0, "budget_j": 0.5}
    assert UpdateSchedulingConfig(**both).budget == 3.0
    assert UpdateSchedulingConfig(**both, mode="lazy").budget == 0.5
    with pytest.raises(ValueError, match="bandwidth 'agent' needs actions = 'scores'"):
        UpdateSchedulingConfig(bandwidth="agent", actions="device")


def test_the_number_of_uploads_counts_only_where_it_is_fixed() -> None:
    assert UpdateSchedulingConfig(n_devices=2).n_devices == 2
    with pytest.raises(ValueError, match=r"uploads_per_round must be .* in \[1, 10\], got 11"):
        UpdateSchedulingConfig(selection="top", uploads_per_round=11)
