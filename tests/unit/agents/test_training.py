"""Runs of training: their files, their scores, and where they work."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_runs import final_state, tiny_train
from training_runs import ID, TINY, run_files, tiny_recipe

import edge_gym
from edge_gym.agents import ALGORITHMS, load_agent, load_recipe, read_agent_metadata
from edge_gym.agents import archive as files
from edge_gym.agents.training import run as training
from edge_gym.cli import main as cli
from edge_gym.evaluation.rollouts import Policy, make_lanes, run_episodes
from edge_gym.evaluation.seeds import SELECTION, TRAINING
from edge_gym.runtime.files import FolderInUseError, working_in


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_leaves_its_files(finished: Mapping[str, Path], algorithm: str) -> None:
    out = finished[algorithm]
    assert {path.name for path in out.iterdir()} == {
        ".lock",
        "best.safetensors",
        "checkpoint.safetensors",
        "last.safetensors",
        "progress.csv",
        "recipe.yaml",
        "tensorboard",
    }
    assert load_recipe(out / "recipe.yaml") == tiny_recipe(algorithm)
    rows = [line.split(",") for line in (out / "progress.csv").read_text().splitlines()]
    names = ["steps", "mean_return", "ci95_low", "ci95_high", "training_return", "seconds"]
    assert rows[0] == names
    assert [int(row[0]) for row in rows[1:]] == [128, 256, 384, 448]
    for row in rows[1:]:
        _, mean, low, high, _, _ = map(float, row)
        assert low <= mean <= high
    seconds = [float(row[-1]) for row in rows[1:]]
    assert 0 < seconds[0] <= seconds[1] <= seconds[2] <= seconds[3]
    best, last = (read_agent_metadata(out / f"{n}.safetensors") for n in ("best", "last"))
    means = [float(row[1]) for row in rows[1:]]
    assert best["evaluation"]["mean_return"] == max(means)
    assert last["evaluation"]["mean_return"] == means[-1]
    assert [[str(value) for value in point.values()] for point in best["curve"]] == rows[1:]
    assert best["algorithm"] == algorithm
    assert best["environment"] == ID
    assert best["recipe"] == tiny_recipe(algorithm).as_mapping()
    assert best["config"]["budget"] == TINY["budget"]
    assert best["evaluation"]["first_seed"] in SELECTION
    assert all(seed in TRAINING for seed in best["training_seeds"])
    assert best["versions"]["edge_gym"] == edge_gym.__version__
    assert "test_accuracy" in best["evaluation"]


def test_the_recorded_score_is_reproduced(finished: Mapping[str, Path]) -> None:
    """The best agent, loaded from its file, scores what its file says."""
    env = make_lanes(ID, 2, TINY)
    agent = load_agent(finished["ppo"] / "best.safetensors", env)
    assert isinstance(agent, Policy)
    episodes = run_episodes(env, agent, SELECTION[:6])
    assert episodes.returns.mean() == agent.metadata["evaluation"]["mean_return"]


def test_the_stated_evaluation_is_run_again(
    finished: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = finished["ppo"] / "best.safetensors"
    stated = read_agent_metadata(path)["evaluation"]
    assert cli.main(["evaluate", str(path), ID, "--stated", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "first_seed": SELECTION.start,
        "episodes": 6,
        "stated": stated["mean_return"],
        "found": pytest.approx(stated["mean_return"]),
        "same": True,
    }
    arrays, header = files.read_tensors(path, "agent")
    other = tmp_path / "other.safetensors"
    header["evaluation"]["mean_return"] += 0.001
    files.write_tensors(other, arrays, header)
    assert cli.main(["evaluate", str(other), ID, "--stated"]) == 2
    captured = capsys.readouterr()
    assert f"stated {stated['mean_return'] + 0.001:.6f}" in captured.out
    assert "not reproduced" in captured.err
    del header["evaluation"]
    files.write_tensors(other, arrays, header)
    assert cli.main(["evaluate", str(other), ID, "--stated"]) == 2
    assert "states no evaluation" in capsys.readouterr().err


def test_training_is_determined_by_the_seed(finished: Mapping[str, Path], tmp_path: Path) -> None:
    np.random.seed(5)  # noqa: NPY002 - what ran before must not matter
    torch.manual_seed(5)
    tiny_train("ppo", tmp_path / "same")
    tiny_train("ppo", tmp_path / "other", seed=1)
    assert run_files(tmp_path / "same") == run_files(finished["ppo"])
    same, other = (final_state(o) for o in (tmp_path / "same", tmp_path / "other"))
    assert same == final_state(finished["ppo"])
    assert same != other


def test_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="device must be one of cpu, cuda"):
        tiny_train("ppo", tmp_path, device="tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch finds no GPU"):
        tiny_train("ppo", tmp_path, device="cuda")
    assert not list(tmp_path.iterdir())


def test_training_in_a_thread(tmp_path: Path) -> None:
    """Signals belong to the main thread; training does not."""
    found: list[Path] = []
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe("ppo", steps=64).as_mapping()))
    thread = threading.Thread(
        target=lambda: found.append(tiny_train("ppo", tmp_path, recipe=recipe))
    )
    thread.start()
    thread.join()
    assert found == [tmp_path / "best.safetensors"]


def test_one_process_trains_in_a_folder(
    finished: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with working_in(tmp_path):
        begun = time.monotonic()
        for resume in (False, True):
            with pytest.raises(FolderInUseError, match=f"another process works in {tmp_path}"):
                tiny_train("ppo", tmp_path, resume=resume)
        assert time.monotonic() - begun > 2  # for one that is about to end
    tiny_train("ppo", tmp_path)
    assert run_files(tmp_path) == run_files(finished["ppo"])


def test_unwritable_folder(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError, match="file"):
        tiny_train("ppo", blocked / "run")


def test_train_config_applies_to_training_alone(tmp_path: Path) -> None:
    recipe = tiny_recipe("ppo", train_config={"validation_size": 80, "budget": 30}, steps=64)
    overrides = {name: value for name, value in TINY.items() if name != "validation_size"}
    run = training._Run(ID, recipe, tmp_path, overrides, False)
    assert run.envs[0].env.config.validation_size == 80
    assert run.evaluation_env.config.validation_size == 600
    assert run.envs[0].env.config.budget == TINY["budget"]
