"""What the scripts beside this one share: ``python SCRIPT [--fields FILE] [ID]...``.

``FILE`` holds fields of the environments' configurations by id, as JSON. Without ids, all run but
those that need the full data sets.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path


def for_each(run: Callable[..., str]) -> None:
    """Call ``run(id, **fields)`` for each id, and say what came of it; fail if any of them did."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fields", type=Path)
    parser.add_argument("ids", nargs="*")
    given = parser.parse_args()
    fields = json.loads(given.fields.read_text()) if given.fields else {}
    failed = []
    for env_id in given.ids or _all_ids():
        began = time.perf_counter()
        try:
            said = run(env_id, **fields.get(env_id, {}))
        except Exception:
            traceback.print_exc()
            failed.append(env_id)
            said = "failed"
        print(f"{env_id}: {said} ({time.perf_counter() - began:.1f} s)", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _all_ids() -> list[str]:
    from edge_gym.core.registration import list_environments

    return [row.id for row in list_environments() if not row.from_paper]
