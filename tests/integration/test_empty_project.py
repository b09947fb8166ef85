"""The wheel in an empty project: what others use runs every kind of problem there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import rollouts
from paths import ROOT
from wheels import build_wheel, done

SCRIPTS = ROOT / "tests" / "elsewhere"
# The longest first, for two run at a time.
NAMES = (
    "with_async_vector",
    "with_wrappers",
    "with_rllib",
    "with_sb3",
    "cleanrl_ppo",
    "with_torchrl",
)
PACKAGES = ("torchrl", "stable-baselines3", "sb3-contrib", "moviepy")


def write_constraints(path: Path) -> None:
    """Write our pins, but those that RLlib and TorchRL have of their own."""
    theirs = (SCRIPTS / "constraints.txt").read_text().split()
    replaced = {line.partition("==")[0] for line in theirs}
    ours = (ROOT / "constraints.txt").read_text().split()
    kept = [line for line in ours if line.partition("==")[0] not in replaced]
    path.write_text("\n".join([*kept, *theirs, ""]))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    # Pytest would keep gigabytes of packages; removing them takes minutes, which nobody waits for.
    subprocess.run(["sh", "-c", 'rm -rf "$0" &', str(tmp_path / "venv")], check=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_everything_runs_in_an_empty_project(folder: Path) -> None:
    wheel = build_wheel(folder)
    write_constraints(folder / "constraints.txt")
    done("-m", "venv", str(folder / "venv"), cwd=folder)
    python = str(folder / "venv" / "bin" / "python")
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    wanted = [f"edge_gym[rllib,plots] @ {wheel.as_uri()}", *PACKAGES]
    done(*install, "-c", "constraints.txt", *wanted, cwd=folder, python=python)

    project = folder / "project"
    project.mkdir()
    for script in SCRIPTS.glob("*.py"):
        shutil.copy(script, project)
    names = [name for name in rollouts.KINDS if name not in rollouts.NEEDS_DATA]
    fields = {f"edge_gym/{name}": rollouts.brief(name) for name in names}
    (project / "fields.json").write_text(json.dumps(fields))
    # Nothing of the checkout, and nobody's home, is used or written to.
    ours = ("PYTHON", "EDGE_GYM", "VIRTUAL_ENV", "PYTEST")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    # Two scripts at a time: with more threads than cores, OpenMP's wait for each other.
    clean |= {"HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    place = done(
        "-c", "import edge_gym; print(edge_gym.__file__)", cwd=project, python=python, env=clean
    )
    assert Path(place.strip()).is_relative_to(folder / "venv")

    def play(name: str) -> str:
        began = time.perf_counter()
        arguments = [f"{name}.py", "--fields", "fields.json", *fields]
        lines = done(*arguments, cwd=project, python=python, env=clean)
        return f"{lines}{name}: {time.perf_counter() - began:.0f} s"

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(play, NAMES))
    for name, lines in zip(NAMES, said, strict=True):
        print(lines)
        for env_id in fields:
            assert f"{env_id}: " in lines, f"{name} has not run {env_id}"
