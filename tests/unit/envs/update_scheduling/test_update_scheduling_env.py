"""Update scheduling's environments: rewards, lanes, restored episodes, agents and pictures."""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from plain_update_scheduling import (
    DEVICE,
    DRIFTING,
    ENDLESS,
    GRADIENT,
    KNOWLEDGE,
    LAZY,
    LAZY_DEVICE,
    PLAIN,
    SMALL,
    make,
    scores_of,
)
from references import column
from rollouts import assert_same, random_actions
from stable_baselines3 import PPO

from edge_gym.agents import load_agent, save_agent
from edge_gym.agents.recipe import find_recipe
from edge_gym.agents.training.imitation import imitate
from edge_gym.agents.training.model import make_model
from edge_gym.baselines import make_baseline
from edge_gym.evaluation.throughput import measure
from edge_gym.integrations.sb3 import LaneVecEnv


@pytest.mark.parametrize("reward", ["accuracy", "loss"])
@pytest.mark.parametrize("name", [PLAIN, GRADIENT, DEVICE, LAZY])
def test_rewards_telescope_within_the_budget(name: str, reward: str) -> None:
    env = make(name, reward=reward, packet_error=0.5, max_rounds=1000)
    _, first = env.reset(seed=2)
    unit = "joules" if env.config.mode == "lazy" else "seconds"
    rewards, over = [], False
    actions = random_actions(env.action_space, 2)
    while not over:
        _, gain, over, truncated, info = env.step(next(actions))
        assert gain == info["accuracy_gain" if reward == "accuracy" else "loss_decrease"]
        assert info[unit] <= env.config.budget * (1 + 1e-12)
        assert not truncated
        rewards.append(gain)
    change = info[f"validation_{reward}"] - first[f"validation_{reward}"]
    assert sum(rewards) == pytest.approx(change if reward == "accuracy" else -change, abs=1e-12)
    assert info["total_gain"] == pytest.approx(
        info["validation_accuracy"] - first["validation_accuracy"], abs=1e-12
    )
    assert np.count_nonzero(rewards) >= 3


@pytest.mark.parametrize("name", [PLAIN, GRADIENT, LAZY])
def test_a_model_that_diverges_tells_finite_numbers(name: str) -> None:
    env = make(name, learning_rate=1e3, reward="loss", local_epochs=3, **ENDLESS)
    _, first = env.reset(seed=0)
    # Weights as after very many steps.
    env.problem.learner.weights.mul_(1e38)
    rewards = []
    for _ in range(4):
        observation, reward, *_, info = env.step(scores_of(0, 1, 2, 3))
        assert env.observation_space.contains(observation)
        assert all(math.isfinite(value) for value in info.values())
        rewards.append(reward)
    assert not torch.isfinite(env.problem.learner.weights).all()
    assert first["validation_loss"] - sum(rewards) == pytest.approx(info["validation_loss"])


@pytest.mark.parametrize(
    ("name", "mode"), [(PLAIN, AutoresetMode.NEXT_STEP), (LAZY, AutoresetMode.SAME_STEP)]
)
def test_lanes_end_at_times_of_their_own(name: str, mode: AutoresetMode) -> None:
    fields = {**SMALL, "batch_size": 3, "packet_error": 0.5, "bits": 6}
    fields |= {"budget_s": 0.004, "budget_j": 5e-4}
    ours: Any = gym.make_vec(f"edge_gym/{name}", 3, autoreset_mode=mode, **fields)
    theirs = SyncVectorEnv([lambda: make(name, **fields)] * 3, autoreset_mode=mode)
    assert_same(ours.reset(seed=3), theirs.reset(seed=3))
    actions = random_actions(ours.single_action_space)
    ends = []
    for _ in range(40):
        chosen = np.array([next(actions) for _ in range(3)])
        results = ours.step(chosen), theirs.step(chosen)
        assert_same(*results)
        done = results[0][2] | results[0][3]
        ends.append(done)
    assert np.sum(ends, axis=0).min() >= 2
    assert 1 in np.sum(ends, axis=1)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        *KNOWLEDGE,
        (PLAIN, {"participation": "agent"}),
        (PLAIN, {"channel": DRIFTING}),
        (LAZY, {"channel": DRIFTING}),
    ],
)
def test_a_restored_episode_goes_on_alike(name: str, fields: dict[str, Any]) -> None:
    env, twin = (make(name, **fields, packet_error=0.5, **ENDLESS) for _ in range(2))
    env.reset(seed=1)
    twin.reset(seed=2)
    actions = random_actions(env.action_space)
    for action in itertools.islice(actions, 3):
        env.step(action)
    twin.set_state(env.get_state())
    for action in itertools.islice(actions, 4):
        assert_same(env.step(action), twin.step(action))


@pytest.mark.parametrize(("name", "fields"), [(PLAIN, {"bandwidth": "agent"}), (LAZY_DEVICE, {})])
def test_ppo_learns_a_rollout(name: str, fields: dict[str, Any]) -> None:
    env = make(name, **fields)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent = PPO("MultiInputPolicy", env, n_steps=32, batch_size=16, n_epochs=1, device="cpu")
        before = [p.clone() for p in agent.policy.parameters()]
        agent.learn(32)
    after = list(agent.policy.parameters())
    assert any(not a.equal(b) for a, b in zip(after, before, strict=True))
    assert all(bool(p.isfinite().all()) for p in after)
    action, _ = agent.predict(env.reset(seed=0)[0], deterministic=True)
    assert env.action_space.contains(int(action) if name == LAZY_DEVICE else action)


def test_agents_learn_the_signs_of_both_columns(tmp_path: Path) -> None:
    """The shipped recipe trains where actions say who takes part, too."""
    fields = {**SMALL, "participation": "agent", "max_rounds": 8, "budget_s": 1e3}
    lanes = gym.make_vec(f"edge_gym/{PLAIN}", 8, autoreset_mode="SameStep", **fields)
    env = LaneVecEnv(lanes)
    teacher = {"name": "staleness-per-cost", "devices": 2, "participants": 3}
    recipe = find_recipe("ppo", PLAIN)
    assert recipe.network.exploration == "signs"
    assert recipe.imitation is not None
    lesson = replace(recipe.imitation, policy=teacher, episodes=256, epochs=30, noise=0.05)
    sizes = {"n_steps": 8, "batch_size": 32, "n_epochs": 1}
    recipe = replace(recipe, lanes=8, hyperparameters={**recipe.hyperparameters, **sizes})
    model = make_model(recipe, env)
    imitate(model, [env], lesson, recipe.algorithm)
    rule = make_baseline(teacher.pop("name"), lanes, **teacher)
    observation, same = env.reset(), []
    agent = load_agent(save_agent(model, tmp_path / "agent"), lanes)
    for _ in range(24):
        action, _ = model.predict(observation, deterministic=True)
        np.testing.assert_array_equal(agent.act(observation), action)
        assert action.shape == (8, 4, 2)
        wanted = rule.act(observation)
        same.append(((action > 0) == (wanted > 0)).mean(axis=(0, 1)))
        observation = env.step(wanted)[0]
    assert np.mean(same, axis=0).min() > 0.8
    model.learn(64)
    assert env.lanes.problem.signs_suffice
    for other in ({"bandwidth": "agent"}, {"selection": "top"}):
        shared = gym.make_vec(f"edge_gym/{PLAIN}", 2, autoreset_mode="SameStep", **fields, **other)
        with pytest.raises(ValueError, match="exploration is signs"):
            make_model(recipe, LaneVecEnv(shared))


@pytest.mark.parametrize(
    ("name", "fields"),
    [(PLAIN, {}), (LAZY, {"n_devices": 50, "samples_per_device": 2}), (DEVICE, {})],
)
def test_pictures_from_start_to_end(name: str, fields: dict[str, Any]) -> None:
    fields = {"max_rounds": 3, **fields}
    env, twin = make(name, render_mode="rgb_array", **fields), make(name, **fields)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, theirs = env.reset(seed=0), twin.reset(seed=0)
        pictures = [env.render()]
        for action in random_actions(env.action_space):
            assert_same(ours, theirs)
            ours, theirs = env.step(action), twin.step(action)
            if ours[2] or ours[3]:
                break
        pictures.append(env.render())
    assert_same(ours, theirs)
    assert [picture.shape for picture in pictures] == [(500, 900, 3)] * 2
    assert (pictures[0] != pictures[1]).any()


def test_the_picture_tells_who_was_scheduled() -> None:
    env = make(bandwidth="equal", **ENDLESS)
    observation, _ = env.reset(seed=0)
    names = ("indicator", "efficiency", "compute_s")
    seen = [column(env, observation, "devices", name) for name in names]
    indicator = seen[0]
    before = env.problem.scene(0)
    assert before.title.startswith("Round 0: ")
    np.testing.assert_allclose(before.panels[0][0].series["others"], indicator, rtol=1e-6)
    *_, info = env.step(scores_of(1, 3))
    scene = env.problem.scene(0)
    accuracy = 100 * info["validation_accuracy"]
    assert scene.title == f"Round 1: {accuracy:.1f} % validation accuracy"
    assert f"{info['seconds']:.2f} s" in scene.text
    assert "2 of 4 devices scheduled last" in scene.text
    # Bars are of the round that was decided, not of the one that follows.
    for panel, values, scale in zip(scene.panels[0], seen, (1, 1, 1e3), strict=False):
        for series, devices in (("scheduled last", [1, 3]), ("others", [0, 2])):
            shown = panel.series[series]
            assert np.flatnonzero(np.isfinite(shown)).tolist() == devices
            np.testing.assert_allclose(shown[devices], scale * values[devices], rtol=1e-6)
    share = scene.panels[0][3].series
    np.testing.assert_allclose(share["scheduled last"], [np.nan, 50, np.nan, 50])
    np.testing.assert_allclose(share["others"], [0, np.nan, 0, np.nan])


@pytest.mark.slow
def test_the_benchmark_measures_federated_rounds_in_forked_children_too() -> None:
    # Children make their environments after this process has used torch's threads.
    torch.zeros(1 << 20).add_(1).sum()
    speeds = measure("UpdateScheduling-v0", seconds=0.05, processes=2)
    assert {row.what for row in speeds.rows} == {"SubprocVecEnv", "edge_gym"}
    assert all(row.steps_per_second > 0 for row in speeds.rows)
    learning = [row.shares[0] for row in speeds.rows if row.what == "edge_gym"]
    assert all(share is not None and share > 0.1 for share in learning)
