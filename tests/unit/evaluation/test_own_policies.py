"""Policies at module:attribute, and problems that are none of ours, in commands and functions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import ROOT

from edge_gym.evaluation.own_policies import code_digest, split_place
from edge_gym.evaluation.policies import resolve
from edge_gym.evaluation.rollouts import as_policy, make_lanes

ID = "Retransmission-v0"
SMALL = {"budget": 20, "validation_size": 60, "image_size": 7}


def accept(observations: Any) -> Any:
    return np.zeros(len(observations), np.int64)


def masked(observations: Any, masks: Any) -> Any:
    return masks.argmax(axis=-1)


class Made:
    def __init__(self, env: Any, action: int = 0) -> None:
        self.env, self.action = env, action

    def begin(self, lanes: Any, seeds: Any) -> None: ...

    def act(self, observations: Any, masks: Any = None) -> Any:
        return np.full(self.env.num_envs, self.action)


INSTANCE = as_policy(accept)


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ("mine:act", ("mine:act", "")),
        ("my.package:Class.make:a=1,b=2", ("my.package:Class.make", "a=1,b=2")),
        ("channel-aware:max_snr_db=3", None),
        ("rule:a=1", None),
        ("ppo", None),
        ("runs/best.safetensors", None),
    ],
)
def test_places_are_told_from_parameters(spec: str, place: Any) -> None:
    assert split_place(spec) == place


@pytest.mark.parametrize("name", ["accept", "masked", "Made", "Made:action=0", "INSTANCE"])
def test_functions_classes_and_instances_act(name: str) -> None:
    env = make_lanes(ID, 2, SMALL)
    made = resolve(f"{__name__}:{name}", env)
    assert (made.kind, made.rule) == ("yours", False)
    observations, _ = env.reset(seed=0)
    made.policy.begin(np.arange(2), [0, 1])
    assert made.policy.act(observations, env.action_masks()).tolist() == [0, 0]
    assert code_digest(made.policy)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere_at_all:act", "no module 'nowhere_at_all'"),
        (f"{__name__}:nothing", "has no 'nothing'"),
        (f"{__name__}:accept:a=1", "no class: it has no parameter 'a'"),
        (f"{__name__}:Made:b=1", "unexpected keyword argument 'b'"),
        ("math:pi", "a policy has begin"),
    ],
)
def test_mistakes_are_explained(spec: str, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        resolve(spec, make_lanes(ID, 1, SMALL))


PROBLEM = (ROOT / "docs" / "extending" / "problem.md").read_text("utf-8")


def run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "edge_gym", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_commands_take_a_problem_that_is_not_ours(tmp_path: Path) -> None:
    code = PROBLEM.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "power.py").write_text(code)
    found = json.loads(run(tmp_path, "describe", "power:my_lab/PowerControl-v0", "--json"))
    assert found["policies"] == ["random", "spend-evenly"]
    short = ("--episodes", "16", "--json")
    run(tmp_path, "compare", "power:my_lab/PowerControl-v0", *short)
    results = json.loads(
        (tmp_path / "results" / "my_lab--PowerControl-v0" / "results.json").read_text()
    )
    assert results["policies"]["spend-evenly"]["normalised"] == 1
    board = json.loads(
        run(tmp_path, "leaderboard", "power:my_lab/PowerControl-v0", "--workers", "1", *short)
    )
    assert board["best"] == {"my_lab/PowerControl-v0": "spend-evenly"}
    found = json.loads(
        run(tmp_path, "generalise", "power:my_lab/PowerControl-v0", "--workers", "1", *short)
    )
    axes = {setting["axis"] for setting in found["settings"]["my_lab/PowerControl-v0"]}
    assert axes == {"own", "budget"}
    plan = ("plan", "power:my_lab/PowerControl-v0", "--base", "random", "--episodes", "2", "--json")
    assert json.loads(run(tmp_path, *plan))["environment"] == "my_lab/PowerControl-v0"
