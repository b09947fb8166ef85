"""Runs that were stopped, interrupted or killed go on as if they had not been."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paths import TESTS
from tiny_runs import LESSON, device_recipe, final_state, tiny_train
from training_runs import ID, TINY, KilledError, run_files, tiny_recipe

from edge_gym.agents import (
    ALGORITHMS,
    AgentError,
    LaneVecEnv,
    TrainingInterrupted,
    load_agent,
    read_agent_metadata,
    train,
)
from edge_gym.agents import archive as files
from edge_gym.agents.training import run as training
from edge_gym.evaluation.rollouts import make_lanes, run_episodes
from edge_gym.evaluation.seeds import SELECTION


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("save", [1, 3, 6])
def test_resumed_runs_equal_uninterrupted_ones(
    finished: Mapping[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
    save: int,
) -> None:
    """Die just before the checkpoint number ``save`` replaces the one before it."""
    saves = 0
    replace_file = Path.replace

    def dying_replace(self: Path, target: Any) -> Path:
        nonlocal saves
        if Path(target).name == "checkpoint.safetensors":
            saves += 1
            if saves == save:
                raise KilledError
        return replace_file(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying_replace)
        with pytest.raises(KilledError):
            tiny_train(algorithm, tmp_path)
    assert (tmp_path / "checkpoint.safetensors").exists() == (save > 1)
    tiny_train(algorithm, tmp_path, resume=True)
    assert run_files(tmp_path) == run_files(finished[algorithm])
    assert final_state(tmp_path) == final_state(finished[algorithm])


def test_resume_of_a_finished_run_and_for_longer(
    finished: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    tiny_train("ppo", out)
    before = final_state(out)
    best = tiny_train("ppo", out, resume=True, progress=True)
    assert best == out / "best.safetensors"
    assert final_state(out) == before
    assert "Going on from step 448" in capsys.readouterr().err
    tiny_train("ppo", out, resume=True, steps=512)
    assert read_agent_metadata(out / "last.safetensors")["steps"] == 512


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_training_on_a_gpu_resumes_and_leaves_an_agent_for_any_machine(
    tmp_path: Path, algorithm: str
) -> None:
    tiny_train(algorithm, tmp_path, device="cuda", steps=192)
    best = tiny_train(algorithm, tmp_path, device="cuda", resume=True)
    env = make_lanes(ID, 2, TINY)
    assert np.isfinite(run_episodes(env, load_agent(best, env), SELECTION[:6]).returns).all()


def test_other_settings_are_not_resumed(finished: Mapping[str, Path]) -> None:
    out = finished["ppo"]
    with pytest.raises(FileExistsError, match="holds a run already"):
        tiny_train("ppo", out)
    with pytest.raises(ValueError, match="seed was 0, now it is 4"):
        tiny_train("ppo", out, resume=True, seed=4)
    with pytest.raises(ValueError, match="overrides was"):
        tiny_train("ppo", out, resume=True, overrides={**TINY, "C": 2.0})
    with pytest.raises(ValueError, match="algorithm was 'ppo', now it is 'dqn'"):
        tiny_train("dqn", out, resume=True)
    with pytest.raises(ValueError, match="the recipe is for ppo, not for dqn"):
        train("dqn", ID, recipe=tiny_recipe("ppo"), out=out)
    with pytest.raises(ValueError, match="not for RetransmissionCNN-v0"):
        train("ppo", "RetransmissionCNN-v0", recipe=tiny_recipe("ppo"), out=out)
    with pytest.raises(ValueError, match="unknown environment"):
        train("ppo", "Nothing-v0", out=out)


def test_damaged_checkpoints(tmp_path: Path, finished: Mapping[str, Path]) -> None:
    file = tmp_path / "checkpoint.safetensors"
    content = (finished["ppo"] / "checkpoint.safetensors").read_bytes()
    file.write_bytes(content[:-50])
    with pytest.raises(AgentError, match="damaged"):
        tiny_train("ppo", tmp_path, resume=True)
    file.write_bytes((finished["ppo"] / "best.safetensors").read_bytes())
    with pytest.raises(AgentError, match="no checkpoint"):
        tiny_train("ppo", tmp_path, resume=True)
    arrays, header = files.read_tensors(finished["ppo"] / "checkpoint.safetensors", "checkpoint")
    arrays.pop("0")
    files.write_tensors(file, arrays, header)
    with pytest.raises(AgentError, match="does not fit this version"):
        tiny_train("ppo", tmp_path, resume=True)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_interrupt_saves_and_resumes(
    finished: Mapping[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
) -> None:
    """Ctrl-C amid a rollout stops after it, and loses nothing."""
    step, steps = LaneVecEnv.step_wait, 0

    def interrupted_step(self: LaneVecEnv) -> Any:
        nonlocal steps
        steps += 1
        if steps == 53:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(LaneVecEnv, "step_wait", interrupted_step)
        with pytest.raises(TrainingInterrupted, match=r"--resume .*") as error:
            tiny_train(algorithm, tmp_path)
    assert isinstance(error.value, KeyboardInterrupt)
    assert str(tmp_path) in str(error.value)
    assert signal.getsignal(signal.SIGINT) is before
    tiny_train(algorithm, tmp_path, resume=True)
    assert run_files(tmp_path) == run_files(finished[algorithm])
    assert final_state(tmp_path) == final_state(finished[algorithm])


def test_interrupt_at_the_start(
    finished: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reset = LaneVecEnv.reset

    def interrupted_reset(self: LaneVecEnv) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return reset(self)

    with monkeypatch.context() as patch:
        patch.setattr(LaneVecEnv, "reset", interrupted_reset)
        with pytest.raises(TrainingInterrupted, match="stopped at step 0"):
            tiny_train("ppo", tmp_path)
    tiny_train("ppo", tmp_path, resume=True)
    assert run_files(tmp_path) == run_files(finished["ppo"])


def test_interrupt_in_the_last_evaluation(
    finished: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not lost: the agent is whole, and whoever trained it is told to stop."""
    real, calls = training.run_episodes, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args, **kwargs)

    monkeypatch.setattr(training, "run_episodes", interrupted)
    with pytest.raises(TrainingInterrupted, match="the agent is trained") as caught:
        tiny_train("ppo", tmp_path)
    assert caught.value.best == tmp_path / "best.safetensors"
    assert len(calls) == 4
    assert run_files(tmp_path) == run_files(finished["ppo"])


_KILLED_SCRIPT = """
import sys
sys.path[:0] = [{folder!r}, {tests!r}]
import tiny_runs
from pathlib import Path
tiny_runs.tiny_train(sys.argv[1], Path(sys.argv[2]), resume=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_kill_at_random_moments(
    finished: Mapping[str, Path], tmp_path: Path, algorithm: str
) -> None:
    """SIGKILL again and again, then finish: the same files as without."""
    script = _KILLED_SCRIPT.format(folder=str(Path(__file__).parent), tests=str(TESTS))
    command = [sys.executable, "-c", script, algorithm, str(tmp_path)]
    rng = random.Random(algorithm)
    kills = 0
    for _ in range(6):
        process = subprocess.Popen(command)
        recipe = tmp_path / "recipe.yaml"
        recipe.unlink(missing_ok=True)
        # The recipe is written as training begins.
        while not recipe.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.7))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills > 0
    tiny_train(algorithm, tmp_path, resume=True)
    assert run_files(tmp_path) == run_files(finished[algorithm])
    assert final_state(tmp_path) == final_state(finished[algorithm])


SCHEDULING = {
    "n_devices": 3,
    "buffer_size": 2,
    "budget": 8,
    "initial_samples": 4,
    "validation_size": 60,
    "test_size": 40,
}
DEVICE_RUNS = [
    ("ppo", "DataScheduling-v0", {}),
    ("ppo", "DataSchedulingBatch-v0", {"uploads_per_block": 2}),
    ("dqn", "DataScheduling-v0", {}),
    ("varied ppo", "DataScheduling-v0", {}),
]
VARIATIONS = [{}, {"initial_samples": 6}, {"partition": "iid"}]
DEVICE_LESSON = {"policy": {"name": "random"}, "noise": 0.1, "epochs": 2, "batch_size": 64}


@pytest.mark.parametrize(("algorithm", "env_id", "fields"), DEVICE_RUNS)
def test_device_runs_resume_as_if_never_stopped(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
    env_id: str,
    fields: dict[str, Any],
) -> None:
    """Die before the fourth checkpoint, go on, and leave the same files and the same state."""
    varied, _, algorithm = algorithm.rpartition(" ")
    recipe = device_recipe(algorithm, steps=320, imitation={**DEVICE_LESSON, "episodes": 8})
    if varied:
        recipe = replace(recipe, variations=VARIATIONS)
    overrides = {**SCHEDULING, **fields}

    def run(out: Path, **kwargs: Any) -> Path:
        kwargs.update(recipe=recipe, overrides=overrides, progress=False)
        return train(algorithm, env_id, out=out, **kwargs)

    best = run(tmp_path / "whole")
    saves, replace_file = 0, Path.replace

    def dying_replace(self: Path, target: Any) -> Path:
        nonlocal saves
        saves += Path(target).name == "checkpoint.safetensors"
        if saves == 4:
            raise KilledError
        return replace_file(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying_replace)
        with pytest.raises(KilledError):
            run(tmp_path / "cut")
    run(tmp_path / "cut", resume=True)
    assert run_files(tmp_path / "cut") == run_files(tmp_path / "whole")
    states = [final_state(tmp_path / name) for name in ("cut", "whole")]
    assert states[0] == states[1]
    other = make_lanes(env_id, 2, {**overrides, "n_devices": 5, "buffer_size": 3})
    agent = load_agent(best, other)
    assert np.isfinite(run_episodes(other, agent, range(2)).returns).all()


def test_recipes_of_earlier_checkpoints_are_resumed(tmp_path: Path) -> None:
    """What they did not name yet has its default."""
    recipe = tiny_recipe("ppo", imitation=LESSON, steps=64)
    tiny_train("ppo", tmp_path, recipe=recipe)
    file = tmp_path / "checkpoint.safetensors"
    arrays, header = files.read_tensors(file, "checkpoint")
    for part, names in (("network", ("kind", "context")), ("imitation", ("margin",))):
        for name in names:
            del header["recipe"][part][name]
    files.write_tensors(file, arrays, header)
    tiny_train("ppo", tmp_path, recipe=recipe, resume=True, steps=128)
    assert read_agent_metadata(tmp_path / "last.safetensors")["steps"] == 128
