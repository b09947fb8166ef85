"""Batches and slots: the budget of time, rewards within it, and how episodes end."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from plain_batch_slot import ENDLESS, GLOBAL, LANE, MODEL, make
from references import column, global_model
from rollouts import random_actions


@pytest.mark.parametrize("reward", ["accuracy", "loss"])
@pytest.mark.parametrize("fields", [{}, GLOBAL, {**MODEL, "local_batch_size": 5}])
def test_rewards_telescope_within_the_budget(fields: dict[str, Any], reward: str) -> None:
    env = make(reward=reward, max_rounds=1000, **fields)
    _, first = env.reset(seed=2)
    rewards, batches, curve, over = [], [], [], False
    actions = random_actions(env.action_space, 2)
    while not over:
        _, gain, over, truncated, info = env.step(next(actions))
        assert not truncated
        assert info["in_time"] == (not over)
        rewards.append(gain)
        batches.append(info["batch"])
        curve.append((info["seconds"], info["validation_accuracy"]))
    assert info["seconds"] == env.config.budget_s
    assert np.diff([0, *(s for s, _ in curve)]).min() > 0
    # The round that was broken off has changed nothing.
    assert rewards[-1] == 0
    change = info[f"validation_{reward}"] - first[f"validation_{reward}"]
    assert sum(rewards) == pytest.approx(change if reward == "accuracy" else -change, abs=1e-12)
    assert info["total_loss_decrease"] == pytest.approx(
        first["validation_loss"] - info["validation_loss"]
    )
    assert info["mean_efficiency"] == pytest.approx(info["total_loss_decrease"] / info["seconds"])
    assert info["mean_batch"] == pytest.approx(np.mean(batches))
    assert np.count_nonzero(rewards) >= 3


def test_a_round_that_is_broken_off_is_not_sent() -> None:
    env = make(**ENDLESS)
    env.reset(seed=0)
    *_, info = env.step(np.zeros((4, 3)))
    first_s = info["round_s"]
    env = make(budget_s=1.5 * first_s)
    env.reset(seed=0)
    env.step(np.zeros((4, 3)))
    weights, memory = env.problem.learner.weights.clone(), env.problem.compressor.memory.clone()
    slow = np.zeros((4, 3))
    slow[0, 1:] = -1
    observation, reward, terminated, truncated, info = env.step(slow)
    assert (reward, terminated, truncated) == (0, True, False)
    assert env.problem.learner.weights.equal(weights)
    assert env.problem.compressor.memory.equal(memory)
    assert info["round_s"] == pytest.approx(first_s / 2)
    assert info["gradient_s"] + info["update_s"] > info["round_s"]
    assert column(env, observation, "system", "time_left") == 0


def test_a_union_too_large_for_the_time_left_is_not_received() -> None:
    """Everyone was heard and the download expected fitted, what came of it did not."""
    env = make(download="union", density=0.01, **ENDLESS)
    env.reset(seed=0)
    *_, info = env.step(np.zeros((4, 3)))
    short = make(download="union", density=0.01, budget_s=info["round_s"] * (1 - 1e-9))
    short.reset(seed=0)
    # One value was all that was sent before.
    short.problem.download_bits[:] = 41
    short.problem.begin_round(LANE)
    before = global_model(short)
    *_, reward, terminated, _, last = short.step(np.zeros((4, 3)))
    assert (reward, terminated, last["in_time"]) == (0, True, 0)
    assert last["download_s"] == pytest.approx(info["download_s"])
    assert (global_model(short) == before).all()


def test_a_budget_that_is_spent_to_the_end_ends_the_episode() -> None:
    """A round that takes exactly what is left still counts."""
    env = make(**ENDLESS)
    env.reset(seed=0)
    *_, info = env.step(np.zeros((4, 3)))
    env = make(budget_s=info["round_s"])
    env.reset(seed=0)
    *_, terminated, truncated, last = env.step(np.zeros((4, 3)))
    assert (terminated, truncated, last["in_time"]) == (True, False, 1)
    assert last["loss_decrease"] == info["loss_decrease"] != 0


def test_an_episode_is_truncated_after_its_rounds() -> None:
    env = make(max_rounds=3, **ENDLESS)
    env.reset(seed=0)
    ends = [env.step(np.zeros((4, 3)))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize("actions", [{}, GLOBAL])
def test_the_time_to_targets(actions: dict[str, Any]) -> None:
    targets = (0.0, 0.15, 0.2, 0.25, 1.0)
    env = make(targets=targets, **actions, learning_rate=0.4, max_rounds=400)
    _, first = env.reset(seed=0)
    curve, over = [(0.0, first["validation_accuracy"])], False
    for action in random_actions(env.action_space, 1):
        *_, over, truncated, info = env.step(action)
        curve.append((info["seconds"], info["validation_accuracy"]))
        if over or truncated:
            break
    assert first["validation_accuracy"] < 0.25 < max(a for _, a in curve)
    for target in targets:
        name = f"{100 * target:g}"
        times = [s for s, accuracy in curve if accuracy >= target]
        assert info[f"reached_{name}"] == bool(times)
        assert info[f"seconds_to_{name}"] == (times[0] if times else env.config.budget_s)
    assert info["reached_100"] == 0
    assert info["seconds_to_0"] == 0


@pytest.mark.parametrize("fields", [{"density": 1.0}, {}, {"download": "union"}, {"bits": 4}])
def test_a_model_that_diverges_is_told_in_finite_numbers(fields: dict[str, Any]) -> None:
    env = make(learning_rate=1e3, max_learning_rate=1e3, **fields, max_rounds=40, **ENDLESS)
    observation, _ = env.reset(seed=0)
    for action in itertools.islice(random_actions(env.action_space), 40):
        observation, reward, *_, info = env.step(action)
        assert env.observation_space.contains(observation)
        assert np.isfinite(reward)
        assert all(np.isfinite(value) for value in info.values())
    assert info["validation_loss"] == 100
