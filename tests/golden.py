"""Golden rollouts: what every id gave when its behaviour was last changed on purpose.

``python tests/golden.py [NAME ...]`` writes tests/golden/NAME.json anew, of all ids by default.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import rollouts

FOLDER = Path(__file__).resolve().parent / "golden"
SEED = 7


def listed(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {part: values.tolist() for part, values in observation.items()}
    return observation.tolist()


def record(name: str) -> dict[str, Any]:
    (observation, reset_info), *steps = rollouts.episode(name, SEED)
    observations = {"0": listed(observation)}
    for step in (1, len(steps) // 2, len(steps)):
        observations[str(step)] = listed(steps[step - 1][0])
    return {
        "reset_info": reset_info,
        "observations": observations,
        "rewards": [step[1] for step in steps],
        "final_info": steps[-1][4],
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or rollouts.NAMES:
        path = FOLDER / f"{name}.json"
        path.write_text(json.dumps(record(name), indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
