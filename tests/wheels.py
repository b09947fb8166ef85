"""Wheels of this project and of packages beside it, and commands that must succeed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from paths import ROOT


def build_wheel(folder: Path) -> Path:
    """Build ours of a copy, in which nothing is left of earlier builds."""
    source = folder / "source"
    unneeded = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in ("edge_gym", "baselines", "agents"):
        shutil.copytree(ROOT / part, source / part, ignore=unneeded)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    return built(source, folder)


def built(source: Path, folder: Path) -> Path:
    """Build the wheel of a project, and return where it is."""
    before = set(folder.glob("*.whl"))
    options = ["--wheel", "--no-isolation", "--outdir", str(folder)]
    done("-m", "build", *options, str(source), cwd=folder)
    (wheel,) = set(folder.glob("*.whl")) - before
    return wheel


def done(
    *arguments: str,
    cwd: Path,
    python: str = sys.executable,
    env: dict[str, str] | None = None,
    most_s: float = 900,
) -> str:
    """Run Python and return what it printed; fail with that if it fails or takes too long."""
    with subprocess.Popen(
        [python, *arguments],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=most_s)
        except subprocess.TimeoutExpired:
            process.kill()
            printed, _ = process.communicate()
            printed += f"\nended after {most_s:g} s"
    assert process.returncode == 0, f"{' '.join(arguments)}\n{printed[-10_000:]}"
    return printed
