"""Imitation: a rule teaches a model before it trains."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from market import market
from numpy.typing import NDArray
from tiny_runs import LESSON, device_recipe, make, tiny_train
from training_runs import TINY, run_files, tiny_recipe

from edge_gym.agents import LaneVecEnv, load_agent, read_agent_metadata, train
from edge_gym.agents.recipe import Imitation
from edge_gym.agents.training import imitation
from edge_gym.agents.training.imitation import imitate
from edge_gym.agents.training.model import make_model
from edge_gym.baselines import make_baseline
from edge_gym.evaluation.rollouts import make_lanes, run_episodes


def test_imitation_teaches_the_rule_and_its_returns() -> None:
    recipe = tiny_recipe("ppo", imitation=LESSON, network={"hidden": [32], "activation": "tanh"})
    env = make(8)
    env.seed(0)
    model = make_model(recipe, env)
    imitate(model, [env], recipe.imitation, "ppo")
    rule = make_baseline("channel-aware", env.env, max_snr_db=10.0)
    agreed, values = [], []
    observation = env.reset()
    for _ in range(3 * TINY["budget"]):
        action, _ = model.predict(observation, deterministic=True)
        agreed.append(action == rule.act(observation))
        values.append(model.policy.predict_values(torch.as_tensor(observation)).detach().numpy())
        observation, *_ = env.step(rule.act(observation))
    assert np.mean(agreed) > 0.9
    # Unsure as told: the teacher erred in one of ten steps.
    distribution = model.policy.get_distribution(torch.as_tensor(observation)).distribution
    assert distribution.probs.max(dim=1).values.mean() < 0.98
    assert np.std(values) > 0


def test_imitation_precedes_training(tmp_path: Path) -> None:
    runs = [
        tiny_train("ppo", tmp_path / name, recipe=tiny_recipe("ppo", **changes))
        for name, changes in (("a", {"imitation": LESSON}), ("b", {"imitation": LESSON}), ("c", {}))
    ]
    a, b, c = (run_files(path.parent) for path in runs)
    assert a == b
    assert a["best"][0] != c["best"][0]
    assert read_agent_metadata(runs[0])["recipe"]["imitation"]["policy"] == LESSON["policy"]


class Greedy:
    """The market's best choice."""

    def __init__(self, env: Any) -> None:
        self.actions = env.config.actions

    def begin(self, lanes: Any, seeds: Any) -> None:
        """Nothing to forget."""

    def act(self, observations: Any, masks: Any = None) -> Any:
        quality = observations["devices"][..., 0]
        if self.actions == "scores":
            return np.tanh(quality)
        if self.actions == "device":
            return quality.argmax(axis=1)
        value = observations["samples"][..., 0] + 0.5 * quality[..., None]
        return np.where(masks, value.reshape(len(value), -1), -np.inf).argmax(axis=1)


def lesson_of(**changes: Any) -> Imitation:
    values = {"episodes": 400, "epochs": 12, "batch_size": 256, "learning_rate": 0.01, **changes}
    return Imitation(policy={"name": "greedy"}, **values)


def taught(
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
    actions: str,
    lesson: Imitation,
    **network: Any,
) -> tuple[Any, LaneVecEnv]:
    monkeypatch.setattr(imitation, "make_baseline", lambda name, env: Greedy(env))
    env = LaneVecEnv(market(20, actions=actions))
    env.seed(0)
    recipe = device_recipe(algorithm, lanes=20, network={"hidden": [16, 16], **network})
    sizes = {"ppo": {}, "dqn": {"buffer_size": 4000, "gamma": 0.9}}[algorithm]
    recipe = replace(recipe, hyperparameters={**recipe.hyperparameters, **sizes})
    model = make_model(recipe, env)
    imitate(model, [env], lesson, recipe.algorithm)
    return model, env


def agreement(model: Any, env: LaneVecEnv) -> tuple[float, float]:
    """How often the model does as the teacher, and how far their scores are apart."""
    teacher, observation = Greedy(env.env), env.reset()
    masked = env.env.config.actions != "scores"
    same, apart = [], []
    for _ in range(20):
        wanted = teacher.act(observation, env.action_masks() if masked else None)
        action, _ = model.predict(observation, deterministic=True)
        same.append(np.mean(action == wanted))
        apart.append(np.mean(np.square(action - wanted)))
        observation, *_ = env.step(action)
    return float(np.mean(same)), float(np.mean(apart))


@pytest.mark.parametrize("actions", ["sample", "device"])
def test_ppo_imitates_on_devices(monkeypatch: pytest.MonkeyPatch, actions: str) -> None:
    model, env = taught(monkeypatch, "ppo", actions, lesson_of())
    untaught = make_model(device_recipe("ppo"), env)
    assert agreement(untaught, env)[0] < 0.5
    assert agreement(model, env)[0] > 0.8


def test_ppo_imitates_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    model, env = taught(monkeypatch, "ppo", "scores", lesson_of())
    untaught = make_model(device_recipe("ppo"), env)
    assert agreement(untaught, env)[1] > 0.2
    assert agreement(model, env)[1] < 0.02
    torch.testing.assert_close(model.policy.log_std.detach(), torch.tensor([-0.7]))


def test_ppo_imitates_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, env = taught(monkeypatch, "ppo", "scores", lesson_of(), exploration="signs")
    teacher, observation = Greedy(env.env), env.reset()
    same = []
    for _ in range(20):
        action, _ = model.predict(observation, deterministic=True)
        same.append(np.mean((action > 0) == (teacher.act(observation) > 0)))
        observation, *_ = env.step(action)
    assert np.mean(same) > 0.95


def test_dqn_imitates(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, env = taught(monkeypatch, "dqn", "device", lesson_of(noise=0.3))
    observation = {part: torch.as_tensor(values) for part, values in env.reset().items()}
    for name, weight in plain.q_net.state_dict().items():
        assert torch.equal(weight, plain.q_net_target.state_dict()[name])
    # Returns of the teacher from what it does: its own reward, and the future's in the first step.
    values = plain.q_net(observation).detach().numpy()
    quality = observation["devices"][..., 0].numpy()
    # Errors are too rare to teach all values, but good ones are told from others.
    assert np.corrcoef(values.ravel(), quality.ravel())[0, 1] > 0.5
    replayed = plain.replay_buffer.rewards[: plain.replay_buffer.size()]
    assert values.max(axis=1).mean() == pytest.approx(
        replayed.mean() * sum(0.9**t for t in range(5)), rel=0.25
    )
    margin, env = taught(monkeypatch, "dqn", "device", lesson_of(noise=0.3, margin=3.0))
    assert agreement(margin, env)[0] > 0.9
    gaps = []
    for model in (plain, margin):
        ordered = model.q_net(observation).sort(dim=1).values
        gaps.append((ordered[:, -1] - ordered[:, -2]).mean())
    assert gaps[1] > 1.3 * gaps[0]
    assert agreement(margin, env)[0] > agreement(plain, env)[0]


@pytest.mark.parametrize("flat", [True, False])
def test_dqn_replays_its_teacher(monkeypatch: pytest.MonkeyPatch, flat: bool) -> None:
    """The buffer holds what was played, terminal observations, and a cut where it ends."""
    played: list[Any] = []
    if flat:
        env = make(4)
        model = make_model(tiny_recipe("dqn"), env)
        lesson = Imitation(**{**LESSON, "episodes": 5, "noise": 0.5})
    else:
        monkeypatch.setattr(imitation, "make_baseline", lambda name, env: Greedy(env))
        env = LaneVecEnv(market(4, horizon=6, spread=5))
        model = make_model(device_recipe("dqn"), env)
        lesson = lesson_of(episodes=5, epochs=1, noise=0.5)
    step_wait = LaneVecEnv.step_wait

    def noted(self: LaneVecEnv) -> Any:
        result = step_wait(self)
        played.append((self._actions.copy(), copy.deepcopy(result)))
        return result

    monkeypatch.setattr(LaneVecEnv, "step_wait", noted)
    first = copy.deepcopy(env.reset())
    env.reset = lambda: copy.deepcopy(first)  # type: ignore[method-assign]
    imitate(model, [env], lesson, "dqn")
    buffer = model.replay_buffer
    size = min(len(played), buffer.buffer_size)
    assert buffer.size() == size
    observation = first
    for t, (actions, (following, rewards, dones, infos)) in enumerate(played):
        row = t % buffer.buffer_size
        last = t == len(played) - 1
        if t >= len(played) - size:
            np.testing.assert_array_equal(buffer.actions[row, :, 0], actions)
            np.testing.assert_array_equal(buffer.rewards[row], rewards)
            np.testing.assert_array_equal(buffer.dones[row], np.ones(4) if last else dones)
            np.testing.assert_array_equal(buffer.timeouts[row], ~dones if last else np.zeros(4))
            for lane in range(4):
                seen = [buffer.observations[row, lane], buffer.next_observations[row, lane]]
                after = infos[lane].get("terminal_observation")
                if after is None:
                    after = _lane(following, lane)
                elif not flat:
                    after = np.concatenate([after[part].ravel() for part in sorted(after)])
                expected = [_lane(observation, lane), after]
                np.testing.assert_array_equal(seen, expected)
        observation = following
    # The flat buffer is smaller than what was played; on devices, some episodes were cut.
    assert len(played) > size or not flat
    assert flat or not dones.all()
    assert any(dones.any() for _, (_, _, dones, _) in played[:-1])


def _lane(observation: Any, lane: int) -> Any:
    if isinstance(observation, dict):
        parts = ("devices", "samples", "system")
        return np.concatenate([observation[part][lane].ravel() for part in parts])
    return observation[lane]


def test_levels_of_devices_are_imitated_and_kept(tmp_path: Path) -> None:
    """One level for each device: taught by a rule, saved, and loaded for another number."""
    fields = {"n_devices": 3, "iterations": 4, "test_size": 100}
    policy = {"name": "constant-split", "offloaded": 0.4}
    lesson = {"policy": policy, "episodes": 12, "noise": 0.1, "epochs": 60, "batch_size": 32}
    recipe = device_recipe("ppo", steps=96, lanes=4, imitation=lesson)
    rate = {**recipe.hyperparameters, "learning_rate": 1e-6}
    best = train(
        "ppo",
        "OffloadingGrid-v0",
        recipe=replace(recipe, hyperparameters=rate),
        out=tmp_path,
        overrides=fields,
        progress=False,
    )
    other = make_lanes("OffloadingGrid-v0", 2, {**fields, "n_devices": 5})
    agent = load_agent(best, other)
    teacher = make_baseline("constant-split", other, offloaded=0.4)
    observations, _ = other.reset(seed=0)
    meant: list[NDArray[Any]] = []
    for _ in range(2):  # tasks come in every second iteration
        meant.append(teacher.act(observations))
        assert meant[-1].shape == (2, 5)
        np.testing.assert_array_equal(agent.act(observations), meant[-1])
        observations, *_ = other.step(meant[-1])
    assert len(np.unique(meant)) == 2
    assert np.isfinite(run_episodes(other, agent, range(2)).returns).all()
    with pytest.raises(ValueError, match="with actions"):
        load_agent(best, make_lanes("OffloadingDiscrete-v0", 1))
