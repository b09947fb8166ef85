"""Finished runs of training, and an agent from one, for the tests of agents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from tiny_runs import tiny_train

from edge_gym.agents import ALGORITHMS


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One uninterrupted run of each algorithm."""
    runs = {name: tmp_path_factory.mktemp(name) / "run" for name in ALGORITHMS}
    for name, out in runs.items():
        tiny_train(name, out)
    return runs


@pytest.fixture
def agent_file(finished: Mapping[str, Path], tmp_path: Path) -> Path:
    copy = tmp_path / "agent.safetensors"
    copy.write_bytes((finished["ppo"] / "best.safetensors").read_bytes())
    return copy
