"""What problems share: shares from scores, redundancy, and times of targets."""

from __future__ import annotations

import math

import numpy as np
import pytest

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
    times, lanes = TargetTimes(2, (0.5, 0.9)), np.arange(2)
    times.begin(lanes, 10.0)
    times.note(lanes, np.array([0.6, 0.4]), np.array([1.0, 1.0]))
    times.note(lanes, np.array([0.3, 0.95]), np.array([2.0, 3.0]))
    times.note(lanes, np.array([0.7, 0.99]), np.array([4.0, 5.0]))
    info = times.final_info(lanes, cycles=1.0, seconds=0.5)
    assert list(info) == [
        *("cycles_to_50", "seconds_to_50", "reached_50"),
        *("cycles_to_90", "seconds_to_90", "reached_90"),
    ]
    np.testing.assert_array_equal(info["cycles_to_50"], [1, 3])
    np.testing.assert_array_equal(info["seconds_to_90"], [5, 1.5])
    np.testing.assert_array_equal(info["reached_90"], [0, 1])
    other = TargetTimes(2, (0.5, 0.9))
    other.set_state(lanes, times.get_state(lanes))
    np.testing.assert_array_equal(other.final_info(lanes, s=1.0)["s_to_50"], [1, 3])
    times.begin(lanes[:1], 10.0)
    np.testing.assert_array_equal(times.time, [[10, 10], [3, 3]])


@pytest.mark.parametrize("targets", [(0.9, 0.8), (0.8, 0.8), (1.2,)])
def test_targets_ascend(targets: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="targets"):
        check_targets(targets)
