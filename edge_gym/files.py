"""Writing results: a file is complete or as it was before."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a scratch file that becomes ``path`` if the block succeeds.

    The file is on the disk before it takes the place of the old one, so that not even a power cut
    leaves half of it. Its name is fixed: what a killed process leaves behind is written over.
    """
    scratch = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield scratch
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


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
