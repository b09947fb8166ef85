"""What problems share: shares from scores, redundancy, and times of targets."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_gym.envs.budget import Budget
from edge_gym.envs.redundancy import check_redundancy, copies_arrived, group_sums
from edge_gym.envs.shares import scores_from_shares, shares_from_scores
from edge_gym.envs.targets import TargetTimes, check_targets


@pytest.mark.parametrize("axis", [-1, -2])
def test_scores_and_shares_say_the_same(axis: int) -> None:
    scores = np.random.default_rng(0).uniform(-1, 1, (5, 4, 3))
    shares = shares_from_scores(scores, 3.0, axis=axis)
    np.testing.assert_allclose(shares.sum(axis=axis), 1, rtol=1e-12)
    again = shares_from_scores(scores_from_shares(shares, 3.0, axis=axis), 3.0, axis=axis)
    np.testing.assert_allclose(again, shares, rtol=1e-9)


def test_who_takes_no_part_gets_no_share() -> None:
    who = np.array([[True, False, True], [False, False, False]])
    shares = shares_from_scores(np.zeros((2, 3)), 4.0, who)
    np.testing.assert_allclose(shares, [[0.5, 0, 0.5], [0, 0, 0]])


def test_the_least_share_has_the_least_score() -> None:
    scores = scores_from_shares(np.array([1.0, math.exp(-8), 0.0]), 4.0)
    np.testing.assert_allclose(scores, [1, -1, -1])


def test_copies_are_counted_by_group() -> None:
    arrived = np.array([[True, True, False, False], [True, False, False, True]])
    np.testing.assert_array_equal(group_sums(arrived, 2), [[2, 2, 0, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(copies_arrived(arrived, 2), [[2, 2, 1, 1], [1, 1, 1, 1]])
    np.testing.assert_array_equal(copies_arrived(arrived, 1), np.ones((2, 4)))
    with pytest.raises(ValueError, match="redundancy must divide n_devices = 4, got 3"):
        check_redundancy(3, 4, 0)
    with pytest.raises(
        ValueError, match="corrupt_devices must be a multiple of redundancy = 2, got 3"
    ):
        check_redundancy(2, 4, 3)


def test_targets_are_noted_once() -> None:
    budget = Budget(10, {"cycles": 1.0, "seconds": 0.5})
    times, lanes = TargetTimes(2, (0.5, 0.9), budget), np.arange(2)
    times.begin(lanes, np.array([0.1, 0.1]))
    times.note(lanes, np.array([0.6, 0.4]), np.array([1.0, 1.0]))
    np.testing.assert_allclose(times.waited(lanes, np.array([2.0, 2.0])), [0.15, 0.2])
    times.note(lanes, np.array([0.3, 0.95]), np.array([2.0, 3.0]))
    times.note(lanes, np.array([0.7, 0.99]), np.array([4.0, 5.0]))
    info = times.final_info(lanes)
    assert list(info) == [
        "time_to_target",
        *("cycles_to_50", "seconds_to_50", "reached_50"),
        *("cycles_to_90", "seconds_to_90", "reached_90"),
    ]
    np.testing.assert_array_equal(info["cycles_to_50"], [1, 3])
    np.testing.assert_array_equal(info["seconds_to_90"], [5, 1.5])
    np.testing.assert_array_equal(info["reached_90"], [0, 1])
    np.testing.assert_allclose(info["time_to_target"], [0.55, 0.3])
    other = TargetTimes(2, (0.5, 0.9), budget)
    other.set_state(lanes, times.get_state(lanes))
    np.testing.assert_array_equal(other.final_info(lanes)["cycles_to_50"], [1, 3])
    times.begin(lanes[:1], np.array([0.5]))
    np.testing.assert_array_equal(times.time, [[0, 10], [3, 3]])


def test_what_rounding_adds_to_a_budget_is_not_spent() -> None:
    budget = Budget(0.3, {"seconds": 1.0})
    spent = np.array([0.15, 0.1 + 0.2])
    assert spent[1] > 0.3
    np.testing.assert_array_equal(budget.within(spent), [0.15, 0.3])
    np.testing.assert_array_equal(budget.share(spent), [0.5, 1])


@pytest.mark.parametrize("targets", [(0.9, 0.8), (0.8, 0.8), (1.2,), ()])
def test_targets_ascend(targets: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="targets"):
        check_targets(targets)
