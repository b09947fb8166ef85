"""Files of data sets: where they lie, their checksums, their formats, and how they get there."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import importlib.metadata
import math
import os
import pickle
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import platformdirs
from numpy.typing import NDArray

from edge_gym.data.errors import DataError
from edge_gym.runtime.files import scratch_folder
from edge_gym.runtime.messages import shown

_LONGEST_FILE = 2**26  # Bytes; MNIST's largest has 47 million.
_MOST_AXES = 8


def data_dir() -> Path:
    """Return the folder of the full data sets: ``EDGE_GYM_DATA``, else one in the user's cache.

    Raises:
        DataError: If that is in a home folder and there is none.
    """
    given = os.environ.get("EDGE_GYM_DATA")
    try:
        folder = Path(given or Path(platformdirs.user_cache_dir("edge_gym")) / "data").expanduser()
        if not given and not folder.is_absolute():
            raise RuntimeError("the cache's folder is of no home")
    except RuntimeError as error:
        where = f"EDGE_GYM_DATA is {shown(given)}, and there" if given else "There"
        raise DataError(
            f"{where} is no such home folder: set EDGE_GYM_DATA to the folder of the data sets"
        ) from error
    return folder


def parse_idx(content: bytes) -> NDArray[np.uint8]:
    """Parse an IDX file of bytes, the format of MNIST and Fashion-MNIST.

    Returns:
        A read-only array over ``content``, of the shape that its header states.

    Raises:
        ValueError: If the header is not one of unsigned bytes, or the length does not fit.
    """
    if content[:3] != b"\x00\x00\x08" or len(content) < 4:
        raise ValueError(f"not an IDX file of unsigned bytes: it starts with {content[:4]!r}")
    rank = content[3]
    start = 4 + 4 * rank
    if rank > _MOST_AXES or len(content) < start:
        raise ValueError(f"not an IDX file: its header tells of {rank} axes")
    shape = struct.unpack(f">{rank}I", content[4:start])
    # In integers without end: what a header claims is never allocated.
    if math.prod(shape) != len(content) - start:
        raise ValueError(
            f"not an IDX file: {len(content) - start} bytes follow a header of shape {shape}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


class NumpyUnpickler(pickle.Unpickler):
    """Unpickles arrays and plain containers, and nothing else."""

    _ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        # Asked of an array, because the module that holds it has moved in NumPy 2.
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return what arrays are made of; anything else is refused."""
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a data file")
        return self._ALLOWED[module, name]


def _stored(path: Path) -> Path:
    """Return ``path``, or its compressed form where only that exists."""
    compressed = path.with_name(f"{path.name}.gz")
    return compressed if compressed.exists() and not path.exists() else path


def read_verified(path: Path, md5: str | None) -> bytes:
    """Return the uncompressed content of ``path``, or of ``path.gz`` where only that exists.

    Args:
        path: The uncompressed file.
        md5: MD5 of its content; None takes it as it is.

    Raises:
        DataError: If the file cannot be read, or its uncompressed content has another MD5.
    """
    stored = _stored(path)
    opened: Any = gzip.open if stored.suffix == ".gz" else open
    try:
        # A small file can be compressed gigabytes.
        with opened(stored, "rb") as file:
            content: bytes = file.read(_LONGEST_FILE + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(stored, f"it cannot be decompressed ({error})") from error
    except OSError as error:
        raise DataError(f"{stored} cannot be read ({error}): check its permissions") from error
    if len(content) > _LONGEST_FILE:
        raise _damaged(stored, f"it holds more than {_LONGEST_FILE:,} bytes")
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 is not None and found != md5:
        raise _damaged(stored, f"its {len(content)} bytes have MD5 {found}, not {md5}")
    return content


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path} is truncated or altered: {reason}. Delete it and run again: it is then downloaded"
    )


def fetch_missing(folder: str, files: Iterable[str], torchvision: str | None) -> Path:
    """Download files of a data set that are not in ``data_dir()``.

    Args:
        folder: The data set's folder in ``data_dir()``, for messages.
        files: Paths below ``data_dir()``, in torchvision's layout.
        torchvision: Class of ``torchvision.datasets`` that downloads them; None if none does.

    Returns:
        ``data_dir()``, in which all files are, each compressed by gzip or not.

    Raises:
        DataError: If files are missing and cannot be downloaded.
    """
    root = data_dir()
    missing = [file for file in files if not _stored(root / file).exists()]
    if not missing:
        return root
    listed = f"missing in {root}: {', '.join(missing)}"
    if torchvision is None:
        raise DataError(
            f"{folder} is not complete ({listed}). Copy these files into that folder, or set "
            "EDGE_GYM_DATA to a folder that has them"
        )
    datasets = _torchvision_datasets(folder, root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Elsewhere first: other processes never see, nor an interruption leaves, half a file.
        with scratch_folder(root, "download") as scratch:
            getattr(datasets, torchvision)(scratch, download=True)
            for file in missing:
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                os.replace(scratch / file, root / file)
    # torchvision lets through whatever the network, the archive or the disk raised.
    except Exception as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{folder} is not complete ({listed}) and could not be "
            f"downloaded ({cause}). Connect to the network and run again, or copy these files "
            "into that folder, or set EDGE_GYM_DATA to a folder that has them; the data set "
            '"mnist-subset" works offline'
        ) from error
    return root


def _torchvision_datasets(folder: str, root: Path) -> Any:
    try:
        return importlib.import_module("torchvision.datasets")
    # A torchvision built for another torch fails with any of these, depending on the mismatch.
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise DataError(
            f"{folder} is not in {root}, and torchvision, which would download it, cannot be "
            f"imported ({error}): torch {_version('torch')} and torchvision "
            f"{_version('torchvision')} do not match. Install both anew from one "
            "source: pip install --force-reinstall torch torchvision. Or, without torchvision, set "
            'EDGE_GYM_DATA to a folder that has the data, or use the data set "mnist-subset"'
        ) from error


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
