"""Golden rollouts: what every id gave when its behaviour was last changed on purpose.

``python tests/golden.py [NAME ...]`` writes tests/golden/NAME.npz anew, of all ids by default. A
file has one array for each thing recorded, named by where it stands: ``observations/12/system``,
``final_info/test_accuracy``, ``rewards``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rollouts

FOLDER = Path(__file__).resolve().parent / "golden"
SEED = 7


def record(name: str) -> dict[str, Any]:
    """Run an episode, and return what is kept of it: numbers and arrays by where they stand."""
    (observation, reset_info), *steps = rollouts.episode(name, SEED)
    observations = {"0": observation}
    for step in (1, len(steps) // 2, len(steps)):
        observations[str(step)] = steps[step - 1][0]
    kept = {
        "reset_info": reset_info,
        "observations": observations,
        "rewards": [step[1] for step in steps],
        "final_info": steps[-1][4],
    }
    return dict(_flat(kept, ""))


def read(name: str) -> dict[str, Any]:
    """Return what ``record`` gave when the file was written."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(part, f"{path}/{key}" if path else str(key))
    else:
        yield path, np.asarray(value)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or rollouts.NAMES:
        path = FOLDER / f"{name}.npz"
        np.savez_compressed(path, **record(name))
        print(path)


if __name__ == "__main__":
    main()
