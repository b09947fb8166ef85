"""Evaluate shipped agents again where their environment's arithmetic has changed.

``python tools/restate_agents.py FILE...`` runs each agent's stated evaluation, and writes what it
comes to into the file if that is another result. Weights, recipe and curve stay as they are.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from edge_gym.agents.files import read_tensors, write_tensors
from edge_gym.agents.stated import statements


def restate(file: Path) -> str:
    """Evaluate an agent again and return what became of it."""
    before, now = statements(str(file), file.parent.name)
    if np.isclose(now["mean_return"], before["mean_return"], rtol=1e-9):
        return f"{file}: as stated"
    arrays, header = read_tensors(file, "agent")
    write_tensors(file, arrays, {**header, "evaluation": now})
    return f"{file}: {now['mean_return']:.6f}, stated {before['mean_return']:.6f} before"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(restate(Path(name)), flush=True)
