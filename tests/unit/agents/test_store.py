"""Agents on disk act as their models did, and are found by path and by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from market import market
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from tiny_runs import device_recipe, make, shuffled_weights
from training_runs import ID, TINY, tiny_recipe

from edge_gym.agents import (
    ALGORITHMS,
    AgentError,
    LaneVecEnv,
    load_agent,
    save_agent,
    shipped_agents,
    store,
)
from edge_gym.agents import archive as files
from edge_gym.agents import recipe as recipes
from edge_gym.agents.training.model import make_model
from edge_gym.evaluation import policies
from edge_gym.evaluation.rollouts import make_lanes, run_episodes


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("activation", ["tanh", "relu", "elu"])
def test_saved_agents_act_as_their_models(tmp_path: Path, algorithm: str, activation: str) -> None:
    env = make(4)
    recipe = tiny_recipe(algorithm, network={"hidden": [16, 12], "activation": activation})
    model = make_model(recipe, env)
    policy: Any = model.policy
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn_like(parameter))
    path = save_agent(model, tmp_path / "agent", {"note": "ours"})
    assert path == tmp_path / "agent.safetensors"
    (tmp_path / "any").touch()
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode
    lanes = make_lanes(ID, 4, TINY)
    agent = load_agent(path, lanes)
    assert agent.metadata["note"] == "ours"
    assert agent.name == "agent"
    space = env.observation_space
    centre, spread = env.env.tables[""].scaling()
    noise = np.random.default_rng(0).normal(size=(500, len(centre))) * 3
    observations = np.clip(centre + spread * noise, space.low, space.high).astype(np.float32)
    actions = agent.act(observations)
    expected, _ = model.predict(observations, deterministic=True)
    np.testing.assert_array_equal(actions, expected)
    assert set(actions.tolist()) == {0, 1}
    assert agent.act(observations[0]).shape == ()
    assert agent.act(observations[0]) == actions[0]


DEVICE_CASES = [
    ("ppo", "sample", 3),
    ("ppo", "device", 3),
    ("ppo", "device", 0),
    ("ppo", "scores", 3),
    ("ppo", "scores", 0),
    ("ppo", "columns", 0),
    ("ppo", "level", 0),
    ("dqn", "sample", 3),
    ("dqn", "device", 0),
    ("dqn", "level", 0),
]


@pytest.mark.parametrize(("algorithm", "actions", "n_samples"), DEVICE_CASES)
def test_saved_device_agents_act_as_their_models(
    tmp_path: Path, algorithm: str, actions: str, n_samples: int
) -> None:
    fields = {"actions": actions, "n_samples": n_samples}
    adapter = LaneVecEnv(market(**fields))
    recipe = device_recipe(algorithm, network={"context": "mean-max", "hidden": [8, 6, 4]})
    scale = 2.0 if actions == "level" else 0.5
    model = shuffled_weights(make_model(recipe, adapter), scale)
    path = save_agent(model, tmp_path / "agent")
    agent = load_agent(path, adapter)
    seen = []
    observation = adapter.reset()
    for _ in range(20):
        expected, _ = model.predict(observation, deterministic=True)
        acted = agent.act(observation)
        np.testing.assert_array_equal(acted, expected)
        assert acted.dtype == expected.dtype
        one = {part: values[2] for part, values in observation.items()}
        np.testing.assert_allclose(agent.act(one), acted[2], rtol=1e-5, atol=1e-6)
        seen.append(acted)
        observation, *_ = adapter.step(acted)
    if actions in ("scores", "columns"):
        assert np.abs(seen).max() == 1
        assert np.mean(np.abs(seen) < 1) > 0.2
    else:
        assert len(np.unique(seen)) > (1 if actions == "level" else 2)
    larger = market(mode="Disabled", **fields, n_devices=9) if n_samples == 0 else None
    larger = larger or market(mode="Disabled", actions=actions, n_devices=9, n_samples=5)
    agent = load_agent(path, larger)
    assert run_episodes(larger, agent, range(4)).lengths.tolist() == [5] * 4
    if actions == "sample":
        observation, _ = larger.reset(seed=0)
        masks = np.zeros((6, 45), np.bool_)
        masks[:, [7, 30]] = True
        assert set(agent.act(observation, masks).tolist()) <= {7, 30}


def test_agents_honour_masks(agent_file: Path) -> None:
    env = make_lanes(ID, 3, TINY)
    agent = load_agent(agent_file, env)
    observations, _ = env.reset(seed=0)
    for action in (0, 1):
        masks = np.zeros((3, 2), np.bool_)
        masks[:, action] = True
        assert agent.act(observations, masks).tolist() == [action] * 3
    both = np.ones((3, 2), np.bool_)
    np.testing.assert_array_equal(agent.act(observations, both), agent.act(observations))


def test_plain_stable_baselines_models_can_be_saved(tmp_path: Path) -> None:
    """A model trained without us, on scalar environments, unscaled."""
    env = make_vec_env(lambda: gym.make(ID, config=TINY), 2)
    for kind in (PPO, DQN):
        arguments: dict[str, Any] = {"device": "cpu", "seed": 1}
        model = kind("MlpPolicy", env, **arguments)
        path = save_agent(model, tmp_path / "plain.safetensors")
        scalar = gym.make(ID, config=TINY)
        agent = load_agent(path, scalar)
        rng = np.random.default_rng(0)
        space = env.observation_space
        observations = rng.normal(size=(200, *space.shape)).astype(np.float32) * 20
        expected, _ = model.predict(observations, deterministic=True)
        np.testing.assert_array_equal(agent.act(observations), expected)
        observation, _ = scalar.reset(seed=0)
        scalar.step(agent.act(observation, scalar.unwrapped.action_masks()))
        zipped = tmp_path / "model.zip"
        model.save(zipped)
        with pytest.raises(AgentError, match=r"pickled code.*save_agent\(model"):
            load_agent(zipped, scalar)
        loose = kind.load(zipped)
        with pytest.raises(ValueError, match="pass env="):
            save_agent(loose, tmp_path / "loose")
        converted = load_agent(save_agent(loose, tmp_path / "loose", env=scalar), scalar)
        np.testing.assert_array_equal(converted.act(observations), expected)


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    env = make(2)

    class Odd(torch.nn.Tanh):
        pass

    arguments: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "device": "cpu"}
    model = PPO("MlpPolicy", env, policy_kwargs={"activation_fn": Odd}, **arguments)
    with pytest.raises(ValueError, match=r"no way to save a network with Odd\(\)"):
        save_agent(model, tmp_path / "odd")
    pendulum = PPO("MlpPolicy", "Pendulum-v1", **arguments)
    with pytest.raises(ValueError, match="the model's observations are Box"):
        save_agent(pendulum, tmp_path / "odd", env=env)
    with pytest.raises(ValueError, match="names no observation columns"):
        save_agent(pendulum, tmp_path / "odd", env=gym.make("Pendulum-v1"))
    own = make_model(tiny_recipe("ppo"), env)
    own.set_env(VecNormalize(env))
    with pytest.raises(ValueError, match="scales observations itself: leave out VecNormalize"):
        save_agent(own, tmp_path / "odd")
    assert not list(tmp_path.iterdir())


def test_shipped_agents(agent_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = tmp_path / "trained" / "Retransmission-v0"
    trained.mkdir(parents=True)
    arrays, header = files.read_tensors(agent_file, "agent")
    for seed, mean in ((3, 0.1), (1, 0.3), (12, 0.2)):
        header["evaluation"]["mean_return"] = mean
        header["recipe"]["seed"] = seed
        files.write_tensors(trained / f"dqn-seed{seed}.safetensors", arrays, header)
    monkeypatch.setattr(store.resources, "files", lambda package: tmp_path)
    assert shipped_agents(ID) == shipped_agents("Retransmission-v0") == {"dqn": [1, 3, 12]}
    assert shipped_agents("Nothing-v0") == {}
    lanes = make_lanes(ID, 2, TINY)
    # By its name, the best on the selection seeds.
    assert load_agent("dqn", lanes).metadata["recipe"]["seed"] == 1
    assert load_agent("dqn", lanes, seed=12).metadata["recipe"]["seed"] == 12
    assert policies.resolve("dqn", lanes).parameters == {"seed": 1}
    assert policies.resolve("dqn:seed=3", lanes).parameters == {"seed": 3}
    assert policies.one_for_each_seed("dqn", ID) == ["dqn:seed=1", "dqn:seed=3", "dqn:seed=12"]
    assert policies.one_for_each_seed("random", ID) == ["random"]
    with pytest.raises(AgentError, match=r"seed 2 is shipped for .*; there are 1, 3, 12"):
        load_agent("dqn", lanes, seed=2)
    with pytest.raises(ValueError, match="a shipped agent has a seed, no sed"):
        policies.resolve("dqn:sed=2", lanes)
    with pytest.raises(ValueError, match="is of a shipped agent"):
        load_agent(agent_file, lanes, seed=1)
    for env in (gym.make(ID, config=TINY), make_lanes(ID, 2, TINY), make(2)):
        assert load_agent("dqn", env).name == "dqn"
    with pytest.raises(AgentError, match="edge-gym train ppo edge_gym/Retransmission-v0"):
        load_agent("ppo", gym.make(ID, config=TINY))
    direct = type(make_lanes(ID, 1).unwrapped)(2, config=TINY)
    assert load_agent("dqn", direct, env_id="Retransmission-v0").name == "dqn"
    with pytest.raises(ValueError, match="Pass env_id="):
        load_agent("dqn", direct)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_agents_of_the_package_load(name: str) -> None:
    """Their files are as they were written, and act as a plain perceptron says."""
    env = make_lanes(ID, 8)
    agent = load_agent(name, env)
    (file,) = (Path(recipes.__file__).parent / "trained" / "Retransmission-v0").glob(
        f"{name}-seed{agent.metadata['recipe']['seed']}.safetensors"
    )
    arrays, header = files.read_tensors(file, "agent")
    assert header["format"] == "edge_gym agent 1"
    observations, _ = env.reset(seed=0)
    names = [column.partition(" ")[0] for column in header["columns"]]
    own = observations[:, [env.tables[""].index(name) for name in names]]
    x = np.clip((own - arrays["centre"]) / arrays["spread"], -header["clip"], header["clip"])
    act = {"tanh": np.tanh, "relu": lambda v: np.maximum(v, 0)}[header["activation"]]
    x = act(x @ arrays["0.weight"].T + arrays["0.bias"])
    x = act(x @ arrays["1.weight"].T + arrays["1.bias"])
    scores = x @ arrays["2.weight"].T + arrays["2.bias"]
    np.testing.assert_array_equal(agent.act(observations), scores.argmax(axis=1))
