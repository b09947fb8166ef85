"""Put a leaderboard into the documents: ``python tools/publish_leaderboard.py FOLDER``.

FOLDER is where ``edge-gym leaderboard --out FOLDER`` wrote. The tables of README.md become those of
its summary, and docs/leaderboard.csv its table. Sentences that speak of their numbers do not.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from edge_gym.evaluation.leaderboard import SUMMARY, TABLE
from edge_gym.runtime.files import write_text

ROOT = Path(__file__).parent.parent
# All tables from the heading to the next one, with what empty lines lie between them.
TABLES = re.compile(r"(?<=\n)\|.*\|\n(?=\n## )", re.DOTALL)


def publish(folder: Path, root: Path = ROOT) -> None:
    """Copy a leaderboard's tables into the README and the documents' folder.

    Raises:
        OSError: If the folder holds no leaderboard, or the documents cannot be written.
        ValueError: If the README has no tables under ``## Leaderboard``.
    """
    summary, table = ((folder / name).read_text("utf-8") for name in (SUMMARY, TABLE))
    readme = root / "README.md"
    before, heading, after = readme.read_text("utf-8").partition("\n## Leaderboard\n")
    after, replaced = TABLES.subn(lambda _: summary, after, count=1)
    if not replaced:
        raise ValueError(f"{readme} has no tables that end its chapter on the leaderboard")
    write_text(readme, before + heading + after)
    write_text(root / "docs" / TABLE, table)


if __name__ == "__main__":
    publish(Path(sys.argv[1]))
