"""Models made from recipes: their layers, their networks, and what they cannot learn."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from market import market
from tiny_runs import device_recipe, make
from training_runs import ID, tiny_recipe

from edge_gym.agents import ALGORITHMS, LaneVecEnv, find_recipe
from edge_gym.agents.networks.scaling import ScaledFeatures
from edge_gym.agents.training.model import make_model


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_hyperparameters_are_stable_baselines_own(algorithm: str) -> None:
    model = make_model(tiny_recipe(algorithm), make(4))
    ours = {"learning_rate_schedule"}
    names = ALGORITHMS.find(algorithm).hyperparameters
    assert not [n for n in names if n not in ours and not hasattr(model, n)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_model_follows_recipe(algorithm: str) -> None:
    env = make(4)
    model = make_model(tiny_recipe(algorithm, action_bias=[-1.0, 2.5]), env)
    policy: Any = model.policy
    if algorithm == "ppo":
        heads = [policy.action_net]
    else:
        heads = [policy.q_net.q_net[-1], policy.q_net_target.q_net[-1]]
    for head in heads:
        assert head.bias.tolist() == [-1.0, 2.5]
    rate = find_recipe(algorithm, ID).hyperparameters["learning_rate"]
    assert model.lr_schedule(1.0) == rate
    assert model.lr_schedule(0.25) == pytest.approx(rate / 4)
    centre, spread = env.env.tables[""].scaling()
    x = np.stack([centre, centre + spread, centre - 100 * spread]).astype(np.float32)
    extractor = (policy.q_net if algorithm == "dqn" else policy).features_extractor
    scaled = extractor(torch.tensor(x)).numpy()
    np.testing.assert_allclose(scaled, np.array([[0], [1], [-5]]) * np.ones(len(centre)), atol=1e-4)
    with pytest.raises(ValueError, match="one value for each of 2 actions"):
        make_model(tiny_recipe(algorithm, action_bias=[1.0]), env)


def test_models_refuse_what_they_cannot_learn() -> None:
    env = make(4)
    env.action_space = gym.spaces.Box(0, 1, (2,))
    with pytest.raises(ValueError, match="discrete twin"):
        make_model(tiny_recipe("dqn"), env)
    env = make(4)
    env.env.problem.tables = {"devices": env.env.tables[""], "system": env.env.tables[""]}
    with pytest.raises(ValueError, match="flat observations"):
        make_model(tiny_recipe("ppo"), env)
    with pytest.raises(ValueError, match="flat observations"):
        ScaledFeatures(env.observation_space, np.zeros(3), np.ones(3))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_default_recipes_are_for_devices_too(algorithm: str) -> None:
    recipe = find_recipe(algorithm, "Nothing-v0")
    env = LaneVecEnv(market(recipe.lanes))
    flat = make_model(recipe, make(recipe.lanes))
    assert type(flat.policy).__name__ in ("ActorCriticPolicy", "DQNPolicy")
    devices = make_model(recipe, env)
    assert type(devices.policy).__name__ in ("DeviceActorCriticPolicy", "DeviceDQNPolicy")
    with pytest.raises(ValueError, match=r"network.kind is mlp, but .* one per sample"):
        make_model(device_recipe(algorithm, network={"kind": "mlp"}), env)
    with pytest.raises(ValueError, match=r"network.kind is device, but .* of another kind"):
        make_model(device_recipe(algorithm, network={"kind": "device"}), make(4))
    with pytest.raises(ValueError, match="action_bias is for flat observations"):
        make_model(device_recipe(algorithm, action_bias=[0.0] * 12), env)
    with pytest.raises(ValueError, match="two layers at least"):
        make_model(device_recipe(algorithm, network={"hidden": [8]}), env)


def test_dqn_refuses_scores() -> None:
    with pytest.raises(ValueError, match=r"dqn is trained here with discrete actions.*twin"):
        make_model(device_recipe("dqn"), LaneVecEnv(market(actions="scores")))


def test_values_and_q_values_are_device_networks() -> None:
    ppo = make_model(device_recipe("ppo"), LaneVecEnv(market()))
    observation = {p: torch.as_tensor(v) for p, v in ppo.env.reset().items()}
    # Actor and critic share nothing that is learned.
    actor = {id(p) for p in ppo.policy.mlp_extractor.policy_net.parameters()}
    assert not actor & {id(p) for p in ppo.policy.mlp_extractor.value_net.parameters()}
    optimised = {id(p) for group in ppo.policy.optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in ppo.policy.parameters()}
    probabilities = ppo.policy.get_distribution(observation).distribution.probs
    assert (probabilities - 1 / 12).abs().max() < 0.01
    dqn = make_model(device_recipe("dqn"), LaneVecEnv(market()))
    assert dqn.q_net(observation).shape == (6, 12)
    torch.testing.assert_close(dqn.q_net(observation), dqn.q_net_target(observation))
    assert dqn.q_net.q_net[0] is not dqn.q_net_target.q_net[0]
    assert (dqn.replay_buffer.n_steps, dqn.replay_buffer.gamma) == (3, dqn.gamma)
    # What an absent sample is like does not matter to the others.
    changed = {**observation, "samples": observation["samples"].clone()}
    absent = changed["samples"][..., 1] == 0
    changed["samples"][..., 0] += 3.0 * absent
    there = ~absent.flatten(1)
    assert absent.any()
    assert not torch.equal(dqn.q_net(observation)[~there], dqn.q_net(changed)[~there])
    torch.testing.assert_close(dqn.q_net(observation)[there], dqn.q_net(changed)[there])
    values = (ppo.policy.predict_values(seen) for seen in (observation, changed))
    torch.testing.assert_close(*values)
