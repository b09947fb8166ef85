"""Optuna's journal of a study, mended where a process was killed as it wrote."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from edge_gym.runtime.optional import missing_extra

try:
    import optuna
    from optuna.storages.journal import JournalFileOpenLock
except ImportError as error:
    raise missing_extra("searching recipes needs Optuna", "agents", error) from error

_JOURNAL = b'{"op_code"'  # how every line of a journal begins


def mend(path: Path, lock: JournalFileOpenLock) -> None:
    """Take away the half of a line that a killed process left: Optuna would write on behind it."""
    if not path.exists():
        return
    lock.acquire()
    try:
        content = path.read_bytes()
        ours = content.startswith(_JOURNAL[: len(content)])
        if ours and content and not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna's own messages on trials to itself."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
