"""Several training seeds: each as if it were trained alone, wherever that is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from training_runs import ID, TINY, run_files, tiny_recipe

from edge_gym.agents import read_agent_metadata, train
from edge_gym.agents.training import replicates
from edge_gym.agents.training.replicates import Training, train_one, train_seeds
from edge_gym.cli.main import main
from edge_gym.runtime.workers import here, in_processes

train_here = here(train_one)


def train_three(out: Path, run: Any = train_here, **changes: Any) -> dict[int, Path]:
    given = {"recipe": tiny_recipe("ppo", steps=256), "overrides": TINY, "seed": 3, **changes}
    return train_seeds("ppo", ID, 3, run=run, out=out, **given)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    recipe = tiny_recipe("ppo", steps=256)
    for seed in (3, 4, 5):
        train("ppo", ID, recipe=recipe, seed=seed, out=out / f"seed-{seed}", overrides=TINY)
    return out


@pytest.mark.timeout(300)
def test_seeds_are_trained_as_alone(alone: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    said: list[str] = []
    found = train_three(
        tmp_path,
        in_processes(2, train_one),
        progress=lambda *state: told.append(state),
        report=said.append,
    )
    assert list(found) == [3, 4, 5]
    for seed, path in found.items():
        assert path == tmp_path / f"seed-{seed}" / "best.safetensors"
        assert read_agent_metadata(path)["recipe"]["seed"] == seed
        assert run_files(path.parent) == run_files(alone / f"seed-{seed}")
    assert told == [("ppo on Retransmission-v0", i, 3) for i in (1, 2, 3)]
    assert sorted(said)[0].startswith("seed 3 is trained: ")
    starts = [read_agent_metadata(path)["training_seeds"] for path in found.values()]
    assert starts[0][1] < starts[1][0] <= starts[1][1] < starts[2][0]


def test_files_of_other_machines_are_kept(alone: Path, tmp_path: Path) -> None:
    def elsewhere(tasks: Sequence[Training]) -> Iterator[tuple[Training, dict[str, bytes]]]:
        return train_here([replace(task, out=task.out.replace("here", "there")) for task in tasks])

    def renamed(tasks: Sequence[Training]) -> Iterator[tuple[Training, dict[str, bytes]]]:
        for task, (_, files) in zip(tasks, elsewhere(tasks), strict=True):
            yield task, files

    found = train_three(tmp_path / "here", renamed)
    assert not (tmp_path / "here" / "seed-3" / "checkpoint.safetensors").exists()
    for seed, path in found.items():
        assert run_files(path.parent) == run_files(alone / f"seed-{seed}")


def test_what_is_there_is_resumed_when_asked(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LostError(Exception):
        pass

    def lost(tasks: Sequence[Training]) -> Iterator[tuple[Training, dict[str, bytes]]]:
        yield tasks[0], train_one(tasks[0])
        raise LostError

    with pytest.raises(LostError):
        train_three(tmp_path, lost)
    with pytest.raises(FileExistsError, match="seed-3 holds a run already"):
        train_three(tmp_path)
    with pytest.raises(ValueError, match="other settings"):
        train_three(tmp_path, resume=True, overrides={**TINY, "C": 2.0})
    trained: list[int] = []
    learn = replicates.train

    def watched(*args: Any, **kwargs: Any) -> Path:
        trained.append(kwargs["recipe"].seed)
        return learn(*args, **kwargs)

    monkeypatch.setattr(replicates, "train", watched)
    before = (tmp_path / "seed-3" / "checkpoint.safetensors").stat().st_mtime_ns
    found = train_three(tmp_path, resume=True)
    assert trained == [3, 4, 5]
    assert (tmp_path / "seed-3" / "checkpoint.safetensors").stat().st_mtime_ns == before
    for seed, path in found.items():
        assert run_files(path.parent) == run_files(alone / f"seed-{seed}")


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_gym.runtime.workers.in_processes", lambda *_: train_here)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe("ppo", steps=64).as_mapping()))
    fields = [part for name, value in TINY.items() for part in ("--set", f"{name}={value}")]
    command = ["train", "ppo", ID, "--recipe", str(recipe), "--out", str(tmp_path / "runs")]
    assert main([*command, *fields, "--seeds", "2"]) == 0
    captured = capsys.readouterr()
    folders = [tmp_path / "runs" / f"seed-{seed}" for seed in (0, 1)]
    assert captured.out.split() == [str(folder / "best.safetensors") for folder in folders]
    assert "seed 1 is trained" in captured.err
    assert main([*command, "--workers", "2"]) == 2
    assert "--seeds" in capsys.readouterr().err
    assert main([*command, "--seeds", "0"]) == 2
    assert "seeds must be an integer at least 1" in capsys.readouterr().err

    def stopped(tasks: Sequence[Training]) -> Iterator[tuple[Training, dict[str, bytes]]]:
        yield tasks[0], train_one(tasks[0])
        raise KeyboardInterrupt

    monkeypatch.setattr("edge_gym.runtime.workers.in_processes", lambda *_: stopped)
    command[-1] = str(tmp_path / "others")
    assert main([*command, *fields, "--seeds", "2"]) == 130
    assert "stopped, 1 of 2 agents are trained; to go on" in capsys.readouterr().err
    monkeypatch.setattr("edge_gym.runtime.workers.in_processes", lambda *_: train_here)
    assert main([*command, *fields, "--seeds", "2", "--resume"]) == 0
    for seed in (0, 1):
        again = run_files(tmp_path / "others" / f"seed-{seed}")
        assert again == run_files(tmp_path / "runs" / f"seed-{seed}")
