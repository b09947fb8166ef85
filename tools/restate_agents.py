"""Evaluate shipped agents again where their environment has changed.

``python tools/restate_agents.py [--workers N] [FILE]...`` runs each agent's stated evaluation, of
all that ship if none is named, and writes what it comes to into the file if that is another result.
Where the environment has changed, the evaluation of the training stays beside it as
``evaluation_in_training``; weights, recipe and curve stay as they are. What was done with the same
code before is left out, so that it can be stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_gym.agents.archive import read_tensors, write_tensors
from edge_gym.agents.record import statements
from edge_gym.runtime.workers import in_processes

ROOT = Path(__file__).parent.parent
LANES = 128
ARITHMETIC = 2e-3
"""Relative differences up to this may come from another processor: a decision or two is another."""


def restate(name: str) -> str:
    """Evaluate an agent again and return what became of it."""
    file, begun = Path(name), time.monotonic()
    before, now = statements(name, file.parent.name, LANES)
    took = f"({time.monotonic() - begun:.0f} s)"
    if same(before, now, 1e-9):
        return f"as stated {took}"
    arrays, header = read_tensors(file, "agent")
    write_tensors(file, arrays, restated(header, now))
    return f"{now['mean_return']:.6f}, stated {before['mean_return']:.6f} before {took}"


def restated(header: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return a header with an evaluation; the training's stays if the environment differs."""
    trained = header.get("evaluation_in_training", header["evaluation"])
    kept = {name: value for name, value in header.items() if name != "evaluation_in_training"}
    earlier = {} if same(trained, now, ARITHMETIC) else {"evaluation_in_training": trained}
    return {**kept, "evaluation": now, **earlier}


def same(before: dict[str, Any], now: dict[str, Any], tolerance: float) -> bool:
    """Return whether two evaluations came to the same."""
    return bool(np.isclose(now["mean_return"], before["mean_return"], rtol=tolerance))


def code_digest() -> str:
    """Return what tells this version of the package's code from others."""
    digest = hashlib.sha256()
    for folder in ("edge_gym", "agents", "baselines"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate the agents that are left."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("files", nargs="*", type=Path, help="all that ship if none is named")
    given = parser.parse_args(arguments)
    files = [file.resolve() for file in given.files]
    files = files or sorted((ROOT / "agents" / "trained").glob("*/*.safetensors"))
    log = ROOT / "runs" / f"restated-{code_digest()}.txt"
    log.parent.mkdir(exist_ok=True)
    done = set(log.read_text().splitlines()) if log.exists() else set()
    tasks = [str(file) for file in files if str(file) not in done]
    print(f"{len(tasks)} to do, {len(files) - len(tasks)} done before ({log})", flush=True)
    for task, outcome in in_processes(given.workers, restate)(tasks):
        with log.open("a") as record:
            record.write(task + "\n")
        print(f"{Path(task).parent.name}/{Path(task).name}: {outcome}", flush=True)


if __name__ == "__main__":
    main()
