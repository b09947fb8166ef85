"""Writing results: a file is complete or as it was before, whoever else writes it.

Scratch files and folders have names of their own, which say who made them. What a killed process
left is removed by the next one that writes there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = ".lock"
"""Name of the file in a folder by which processes tell that one of them works there."""

_ENDING_S = 5.0  # that workers need to end once the process that began them is gone
_OLD_S = 24 * 3600.0
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_SCRATCH = re.compile(r"\..*\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.partial")
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_PATIENCE_S = (0.02, 0.1, 0.5)  # with a file that somebody reads, on Windows


class FolderInUseError(OSError):
    """Another process works in a folder."""


def prepare_folder(path: str | os.PathLike[str]) -> Path:
    """Make the folder, with its parents, and find out whether it can be written to.

    Raises:
        OSError: If it is a file, cannot be made or cannot be written to; the message says which.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            f"cannot write to {folder}: there is a file of this name"
        ) from error
    except OSError as error:
        raise OSError(f"cannot write to the folder {folder}: {error.strerror or error}") from error
    return folder


@contextmanager
def working_in(folder: Path, wait_s: float = _ENDING_S) -> Iterator[None]:
    """Let one process at a time work in a folder that is there.

    The lock goes with the process, however that ends.

    Args:
        folder: The folder.
        wait_s: How long to wait in s for another process, which may be about to end.

    Raises:
        FolderInUseError: If another process works there.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=wait_s)
    except Timeout:
        raise FolderInUseError(
            f"another process works in {folder}: wait for its end, or choose another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a scratch file that becomes ``path`` if the block succeeds.

    The file is on the disk before it takes the place of the old one, so that not even a power cut
    leaves half of it. Of several processes that write one file, the last one's stands, whole.

    Raises:
        OSError: If it cannot be written; the message names it.
    """
    scratch = _scratch_of(path)
    try:
        yield scratch
        # Windows flushes what can be written to alone.
        with scratch.open("r+b") as file:
            os.fsync(file.fileno())
        _take_the_place(scratch, path)
    except OSError as error:
        raise _explained(error, path, scratch) from error
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


@contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """Give a folder in ``parent`` that is removed after the block."""
    scratch = _scratch_of(parent / name)
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _scratch_of(path: Path) -> Path:
    """Return a name that no other process uses; what killed ones left beside it is removed."""
    start = f".{path.stem}."
    with suppress(OSError):
        for other in path.parent.iterdir():
            if other.name.startswith(start) and _is_abandoned(other):
                if other.is_dir():
                    shutil.rmtree(other, ignore_errors=True)
                else:
                    other.unlink(missing_ok=True)
    mark = f"{_HOST}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f"{start}{mark}.partial{path.suffix}")


def _is_abandoned(path: Path) -> bool:
    """Return whether this is a scratch file whose process is gone."""
    found = _SCRATCH.match(path.name)
    if found is None:
        return False
    # Of another machine's processes nothing can be known but how long ago they wrote.
    if time.time() - path.stat().st_mtime > _OLD_S:
        return True
    return found["host"] == _HOST and not _is_running(int(found["pid"]))


def _is_running(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # os.kill would end it there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is somebody else's
    return True


def _take_the_place(scratch: Path, path: Path) -> None:
    """Rename a file that is on the disk, and see to it that the new name is there too."""
    for wait in _PATIENCE_S if sys.platform == "win32" else ():
        try:
            scratch.replace(path)
            break
        except PermissionError:
            time.sleep(wait)
    else:
        scratch.replace(path)
    # Windows opens no folders, and some file systems flush none.
    with suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _explained(error: OSError, path: Path, scratch: Path) -> OSError:
    """Return an error that names the file, if it is of writing it."""
    if error.errno in _FULL:
        return OSError(
            error.errno,
            f"cannot write {path}, the disk is full ({error.strerror}): make room and go on, what "
            "was written before is as it was",
        )
    if error.errno is None or error.filename not in (None, str(scratch)):
        return error
    return OSError(error.errno, f"cannot write {path}: {error.strerror}")


def file_stem(title: str, identity: object) -> str:
    """Return a file's name without suffix: what a title has that fits, and a digest.

    Args:
        title: What a reader should see.
        identity: Of what is in the file, all that tells it from others; its ``repr`` is digested.
    """
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()
    return re.sub(r"[^A-Za-z0-9.=-]+", "_", title) + f"-{digest[:8]}"


def write_text(path: Path, text: str) -> None:
    """Write ``text`` in UTF-8."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content``."""
    with replacing(path) as scratch:
        scratch.write_bytes(content)
