"""Agents meet environments: what they read and how they act must be there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from market import market
from numpy.typing import NDArray
from tiny_runs import device_recipe, make, shuffled_weights
from training_runs import ID, TINY, tiny_recipe

from edge_gym.agents import LaneVecEnv, decoders, load_agent, read_agent_metadata, save_agent
from edge_gym.agents.training.model import make_model
from edge_gym.core.observation import Column, ObservationTable


def test_interfaces_are_checked(agent_file: Path, tmp_path: Path) -> None:
    other = gym.make("edge_gym/RetransmissionCNN-v0", budget=24, validation_size=60)
    with pytest.raises(ValueError, match=r"trained on .*-v0 and reads .* not observe: distance$"):
        load_agent(agent_file, other)
    env = gym.make(ID, config=TINY)
    env.unwrapped.tables[""] = ObservationTable(
        *(replace(column, unit="m") for column in env.unwrapped.tables[""])
    )
    with pytest.raises(ValueError, match="reads effective_snr_db in dB, which is in m here; dist"):
        load_agent(agent_file, env)
    env = gym.make(ID, config=TINY)
    model = make_model(tiny_recipe("ppo"), make(4))
    path = save_agent(model, tmp_path / "shifted", {"action_space": {"n": 2, "start": 1}})
    with pytest.raises(ValueError, match=r"actions .*'start': 1.*; here they are .*'start': 0"):
        load_agent(path, env)
    with pytest.raises(ValueError, match="no edge_gym environment"):
        load_agent(path, gym.make("CartPole-v1"))


def test_device_interfaces_are_checked(tmp_path: Path, agent_file: Path) -> None:
    env = LaneVecEnv(market())
    model = make_model(device_recipe("ppo"), env)
    path = save_agent(model, tmp_path / "devices")
    assert read_agent_metadata(path)["action_space"] == {"kind": "discrete", "per": "sample"}
    load_agent(path, market(2, n_devices=11, n_samples=1))
    with pytest.raises(ValueError, match=r"'per': 'sample'.*here they are .*'per': 'device'"):
        load_agent(path, market(actions="device"))
    with pytest.raises(ValueError, match=r"reads samples, which .* it observes devices, system"):
        load_agent(path, market(actions="device", n_samples=0))
    with pytest.raises(ValueError, match="has no observation of devices"):
        load_agent(path, gym.make(ID, config=TINY))
    with pytest.raises(ValueError, match="has no flat observation"):
        load_agent(agent_file, market())
    other = market()
    other.problem.tables["samples"] = ObservationTable(
        Column("value", "nat", -9, 9, ""), Column("present", "1", 0, 1, "")
    )
    with pytest.raises(ValueError, match="reads samples value in 1, which is in nat here"):
        load_agent(path, other)
    other.problem.tables["samples"] = ObservationTable(*market().tables["samples"].columns[:1])
    with pytest.raises(ValueError, match="does not observe: samples present"):
        load_agent(path, other)
    scores = LaneVecEnv(market(actions="scores"))
    path = save_agent(make_model(device_recipe("ppo"), scores), tmp_path / "scores")
    with pytest.raises(ValueError, match=r"'kind': 'box'.*here they are .*'kind': 'discrete'"):
        load_agent(path, market(actions="device"))


@pytest.mark.parametrize("actions", ["sample", "scores", "columns"])
def test_agents_read_their_columns_by_name(tmp_path: Path, actions: str) -> None:
    """Other columns around theirs, another order and another part change nothing."""
    env = market(actions=actions)
    model = shuffled_weights(make_model(device_recipe("ppo"), LaneVecEnv(env)), 0.5)
    path = save_agent(model, tmp_path / "agent")
    observations, _ = env.reset(seed=4)
    expected = load_agent(path, env).act(observations)
    grown = market(actions=actions)
    more = Column("more", "1", 0, 1, "")
    for part, table in grown.tables.items():
        grown.tables[part] = ObservationTable(more, *reversed(table.columns), more)
    grown.tables["weather"] = ObservationTable(more)
    seen = {
        part: np.pad(values[..., ::-1], [(0, 0)] * (values.ndim - 1) + [(1, 1)], constant_values=7)
        for part, values in observations.items()
    }
    agent = load_agent(path, grown)
    found = agent.act({**seen, "weather": np.ones((6, 1), np.float32)})
    np.testing.assert_array_equal(found, expected)
    alone = agent.act({part: values[2] for part, values in seen.items()})
    np.testing.assert_allclose(alone, expected[2], atol=1e-6)


@pytest.mark.parametrize("decoder", [None, {"name": "scores"}])
def test_new_action_columns_are_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: Any
) -> None:
    env = market(actions="scores")
    model = shuffled_weights(make_model(device_recipe("ppo"), LaneVecEnv(env)), 0.5)
    path = save_agent(model, tmp_path / "agent", {"decoder": decoder})

    class Scores:
        columns = 1

        def decode(self, observations: Any, scores: NDArray[Any]) -> NDArray[Any]:
            return scores

    monkeypatch.setattr(decoders, "make_decoder", lambda wanted, env: Scores())
    wider = market(actions="columns")
    assert wider.action_fill is None
    with pytest.raises(ValueError, match=r"'per': 'device'\}; here they are .*'columns': 2"):
        load_agent(path, wider)
    wider.problem.action_fill = 1.0
    observations, _ = env.reset(seed=4)
    found = load_agent(path, wider).act(observations)
    assert found.shape == (6, 4, 2)
    assert found.dtype == np.float32
    assert wider.action_space.contains(found)
    expected = load_agent(path, env).act(observations).reshape(6, 4)
    np.testing.assert_array_equal(found[..., 0], expected)
    assert (found[..., 1] == 1).all()
    alone = {part: values[0] for part, values in observations.items()}
    assert load_agent(path, wider).act(alone).shape == (4, 2)
    # What acts in more columns than there are does not.
    wide = make_model(device_recipe("ppo"), LaneVecEnv(wider))
    env.problem.action_fill = 1.0
    with pytest.raises(ValueError, match="'columns': 2}; here they are"):
        load_agent(save_agent(wide, tmp_path / "wide"), env)
