"""Files of agents: damaged, foreign, half written; and the states that checkpoints pack."""

from __future__ import annotations

import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from market import market
from safetensors.numpy import save_file
from tiny_runs import device_recipe
from training_runs import ID, TINY, KilledError

from edge_gym.agents import (
    AgentError,
    LaneVecEnv,
    load_agent,
    packing,
    read_agent_metadata,
    save_agent,
)
from edge_gym.agents import archive as files
from edge_gym.agents.training.model import make_model
from edge_gym.evaluation.rollouts import make_lanes


def test_damaged_files(agent_file: Path, tmp_path: Path) -> None:
    env = make_lanes(ID, 1, TINY)
    content = agent_file.read_bytes()
    damages = {
        "empty": b"",
        "cut in the header": content[:100],
        "cut at the end": content[:-1],
        "longer": content + b"x",
        "one bit": content[:-7] + bytes([content[-7] ^ 1]) + content[-6:],
        "noise": bytes(range(256)) * 10,
        "huge header": b"\xff" * 8 + content,
        "pickle": pickle.dumps({"weights": [1.0]}),
        "text": b"algorithm: ppo\n",
    }
    for what, damaged in damages.items():
        file = tmp_path / "damaged.safetensors"
        file.write_bytes(damaged)
        for read in (lambda f=file: load_agent(f, env), lambda f=file: read_agent_metadata(f)):
            with pytest.raises(AgentError, match=r"damaged\.safetensors"):
                read()
            assert what
    with pytest.raises(FileNotFoundError, match="no agent at"):
        load_agent(tmp_path / "none.safetensors", env)
    with pytest.raises(FileNotFoundError, match="no agent at"):
        load_agent(tmp_path, env)


def test_foreign_files(agent_file: Path, tmp_path: Path) -> None:
    env = make_lanes(ID, 1, TINY)
    arrays, header = files.read_tensors(agent_file, "agent")
    file = tmp_path / "foreign.safetensors"
    save_file(arrays, file)
    with pytest.raises(AgentError, match="no agent of edge_gym"):
        load_agent(file, env)

    def refused(message: str, change: Any) -> None:
        changed_arrays = {name: array.copy() for name, array in arrays.items()}
        changed_header = json.loads(json.dumps(header))
        outcome = change(changed_arrays, changed_header)
        files.write_tensors(file, changed_arrays, changed_header if outcome is None else outcome)
        with pytest.raises(AgentError, match=message):
            load_agent(file, env)

    refused("damaged or no agent", lambda a, h: [])
    refused("damaged or no agent", lambda a, h: {})
    refused("another kind", lambda a, h: h.update(format="edge_gym agent 9"))
    refused("damaged or no agent", lambda a, h: h.update(activation="sine"))
    refused("damaged or no agent", lambda a, h: h.pop("columns"))
    refused("damaged or no agent", lambda a, h: h.update(action_space=[2]))
    refused("damaged", lambda a, h: h.update(clip="wide"))
    refused("does not fit its columns", lambda a, h: h["columns"].append("more [1]"))
    refused("does not fit its columns", lambda a, h: h["action_space"].update(n=3))
    refused("damaged or no agent", lambda a, h: a.update(middle=a.pop("centre")))
    refused("does not follow", lambda a, h: a.update({"1.weight": a["1.weight"][:, :-1]}))
    refused("must be finite", lambda a, h: a["0.bias"].fill(np.nan))
    refused("damaged", lambda a, h: a.update({"0.weight": a["0.weight"][0]}))
    # What would be found out only when the agent acts, or not at all.
    for clip in (math.nan, math.inf, 10**400, 1e300, 0, -1.0, True, [5.0], "5"):
        refused("clip must be a positive number", lambda a, h, c=clip: h.update(clip=c))
    for decoder in ("residual", ["residual"], 3, {}, {"name": 3}, {"scale": 1.0}):
        refused("decoder must be a mapping", lambda a, h, d=decoder: h.update(decoder=d))
    refused("is not of float32", lambda a, h: a.update(centre=a["centre"].astype(np.float64)))
    refused("is not of float32", lambda a, h: a.update(more=np.zeros(2, np.int8)))
    refused("spread must be positive", lambda a, h: a["spread"].fill(0))
    refused("centre must be finite", lambda a, h: a["centre"].fill(np.inf))
    for told in ([], {}, {"first_seed": "0", "episodes": 4, "mean_return": 0.1}):
        refused("evaluation must have", lambda a, h, t=told: h.update(evaluation=t))
    long = "x" * 10**6
    files.write_tensors(file, arrays, {**header, "format": long})
    with pytest.raises(AgentError) as caught:
        load_agent(file, env)
    assert len(str(caught.value)) < 1000


def test_damaged_device_agents(tmp_path: Path) -> None:
    env = market()
    model = make_model(device_recipe("dqn"), LaneVecEnv(env))
    path = save_agent(model, tmp_path / "agent")
    arrays, header = files.read_tensors(path, "agent")

    def refused(message: str, change: Any) -> None:
        changed_arrays = {name: array.copy() for name, array in arrays.items()}
        changed_header = json.loads(json.dumps(header))
        change(changed_arrays, changed_header)
        files.write_tensors(path, changed_arrays, changed_header)
        with pytest.raises(AgentError, match=message):
            load_agent(path, env)

    refused("does not fit its columns", lambda a, h: h["columns"]["devices"].append("more [1]"))
    refused("does not fit its columns", lambda a, h: h["columns"].pop("samples"))
    wide = np.ones(3, np.float32)
    refused("scaling does not fit", lambda a, h: a.update({"scaling.system_spread": wide}))
    refused("damaged or no agent", lambda a, h: a.pop("scaling.system_spread"))
    refused("damaged or no agent", lambda a, h: h["network"].update(hidden=[8, 9]))
    refused("damaged or no agent", lambda a, h: h["network"].update(layers=3))
    refused("damaged or no agent", lambda a, h: h["network"].update(activation="sine"))
    refused("two layers at least", lambda a, h: h["network"].update(hidden=[8]))
    refused("damaged or no agent", lambda a, h: a.pop("scores.score.bias"))
    refused("must be finite", lambda a, h: a["scores.score.bias"].fill(np.nan))
    refused("damaged or no agent", lambda a, h: h.pop("present"))
    for present in (99, -1, "1", 1.0):
        refused("present must be a column", lambda a, h, p=present: h.update(present=p))
    for decoder in ({"name": "magic"}, {"name": "residual"}, {"name": "residual", "policy": [3]}):
        refused(
            "has a decoder that cannot be made here: (unknown|the|policy)",
            lambda a, h, d=decoder: h.update(decoder=d),
        )
    refused("of another kind", lambda a, h: h.update(format="edge_gym device agent 9"))


def test_a_failed_write_leaves_the_old_file(
    agent_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying_fsync(descriptor: int) -> None:
        raise KilledError

    before = agent_file.read_bytes()
    monkeypatch.setattr(os, "fsync", dying_fsync)
    with pytest.raises(KilledError):
        files.write_tensors(agent_file, {}, {})
    assert agent_file.read_bytes() == before
    assert [path.name for path in agent_file.parent.iterdir()] == [agent_file.name]


def test_checkpoint_codec() -> None:
    state = {
        "tuple": (1, (2.5, None)),
        "list": [True, "text", 2**200],
        3: {"nested": np.arange(6).reshape(2, 3).T},
        "scalar": np.float32(1.5),
        "tensor": torch.tensor(2.0),
        "empty": np.zeros((0, 4)),
    }
    arrays, packed = packing.pack(state)
    back = packing.unpack(arrays, json.loads(json.dumps(packed)))
    assert back["tuple"] == state["tuple"]
    assert back["list"] == state["list"]
    np.testing.assert_array_equal(back[3]["nested"], state[3]["nested"])
    assert back["scalar"].dtype == np.float32
    assert back["tensor"].shape == ()
    assert back["empty"].shape == (0, 4)
    with pytest.raises(TypeError, match="no safe way to save a object"):
        packing.pack([object()])
