"""A package of somebody else's brings one of everything, and all commands take it by name."""

from __future__ import annotations

import json
import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paths import TESTS
from wheels import build_wheel, built, done

POWER = "digits/PowerControl-v0"
POLICY = """
import numpy as np

class Strongest:
    def begin(self, lanes, seeds):
        pass

    def act(self, observations, masks=None):
        return np.full(len(observations), 3)

def weakest(observations):
    return np.ones(len(observations), int)
"""
CHECKS = """
import gymnasium as gym
import edge_gym
from edge_gym.testing import check_baseline, check_channel, check_learner, check_problem
from digits_plugin import channel, learner, rule
check_problem("digits/PowerControl-v0")
check_learner(learner.LogisticRegression)
check_baseline(rule.SpendEvenly, "digits/PowerControl-v0")
check_channel(channel.LineOfSight())
env = gym.make("digits/PowerControl-v0", energy=7.0)
env.reset(seed=3)
print(env.step(1)[0].shape)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """What runs commands where both wheels are installed, and our checkout is not."""
    folder = tmp_path_factory.mktemp("plugin")
    source = folder / "plugin"
    shutil.copytree(TESTS / "plugin", source)
    wheels = [build_wheel(folder), built(source, folder)]
    done("-m", "venv", "--without-pip", str(folder / "venv"), cwd=folder)
    python = str(folder / "venv" / "bin" / "python")
    # What ours depends on is taken from here; what is editable here is not followed.
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "here.pth").write_text(sysconfig.get_paths()["purelib"])
    install = ["--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    done("-m", "pip", *install, *map(str, wheels), cwd=folder)
    project = folder / "project"
    project.mkdir()
    (project / "my_policies.py").write_text(POLICY)
    ours = ("PYTHON", "EDGE_GYM", "VIRTUAL_ENV", "PYTEST")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    clean |= {"HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}

    def call(*arguments: str) -> str:
        return done(*arguments, cwd=project, python=python, env=clean)

    place = call("-c", "import edge_gym; print(edge_gym.__file__)")
    assert Path(place.strip()).is_relative_to(site)
    return call


def command(run: Callable[..., str], *arguments: str) -> str:
    return run("-m", "edge_gym", *arguments)


def read(printed: str) -> Any:
    """Return the JSON in what was printed, beside remarks."""
    return json.loads(printed[printed.index("{") : printed.rindex("}") + 1])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_everything_takes_a_problem_of_ones_own(run: Callable[..., str]) -> None:
    assert POWER in command(run, "list")
    assert read(command(run, "describe", POWER, "--json"))["policies"][:2] == [
        "random",
        "spend-evenly",
    ]
    trained = ("--steps", "2000", "--set", "uploads=20", "--out", "agent")
    command(run, "train", "ppo", POWER, *trained)
    policies = ("random", "spend-evenly", "my_policies:Strongest", "my_policies:weakest")
    asked = [part for name in policies for part in ("--policy", name)]
    few = ("--episodes", "20", "--set", "uploads=20")
    agent = ("--policy", "agent/best.safetensors")
    found = read(command(run, "compare", POWER, *asked, *agent, *few, "--json", "--out", "r"))
    kinds = {name: policy["kind"] for name, policy in found["policies"].items()}
    assert kinds == {
        "random": "reference",
        "spend-evenly": "yours",
        "my_policies:Strongest": "yours",
        "my_policies:weakest": "yours",
        "agent/best.safetensors": "learned",
    }
    means = {name: policy["mean"] for name, policy in found["policies"].items()}
    assert means["my_policies:Strongest"] > 0.1
    command(run, "watch", POWER, "--policy", "spend-evenly", "--out", "film.gif")
    command(run, "leaderboard", POWER, "--episodes", "4", "--workers", "2", "--out", "board")
    command(run, "plan", POWER, "--base", "spend-evenly", "--episodes", "2", "--set", "uploads=5")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_our_problems_take_what_others_bring(run: Callable[..., str]) -> None:
    digits = ("dataset=digits", "image_size=null", "validation_size=200", "test_size=100")
    few = ("--episodes", "4", "--policy", "random", "--set", "reward=accuracy", "--json")

    def compare(env_id: str, *fields: str) -> dict[str, float]:
        settings = [part for field in (*digits, *fields) for part in ("--set", field)]
        found = read(command(run, "compare", env_id, *few, *settings))
        return {name: policy["mean"] for name, policy in found["policies"].items()}

    own = ("classes=null", "learner=logistic-regression", "channel=line-of-sight")
    assert compare("Retransmission-v0", "budget=60", *own)["random"] > 0.02
    assert compare("DataScheduling-v0", "budget=40", *own)["random"] > 0.02
    model = ("network=digits-net", "channel=line-of-sight:correlation=0.5", "n_devices=4")
    assert compare("UpdateScheduling-v0", *model)["random"] > 0.02


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_others_bring_passes_the_checks(run: Callable[..., str]) -> None:
    assert run("-c", CHECKS).split("\n")[-2] == "(4,)"
