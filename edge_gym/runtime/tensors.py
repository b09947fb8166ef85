"""Files of arrays with a checksum, without code in them: safetensors, JSON in their headers.

Nothing is compressed, so that reading takes little more memory than the file is long, and every
array is checked against the length of the file before it is made.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from edge_gym.runtime.files import replacing

_LONGEST_HEADER = 100_000_000  # safetensors' own
_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


class DamagedFileError(ValueError):
    """A file is damaged or of another kind; the message says what to do."""


def write_tensors(path: Path, arrays: Mapping[str, NDArray[Any]], header: Any) -> None:
    """Write arrays, and a JSON value in the header; the file is replaced whole or not at all."""
    contiguous = {name: np.array(array, order="C") for name, array in arrays.items()}
    # One entry, because safetensors writes several in random order.
    document = {"sha256": _digest(contiguous, header), "content": header}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as scratch:
        scratch.write_bytes(save(contiguous, {"edge_gym": json.dumps(document)}))


def read_tensors(path: Path, what: str) -> tuple[dict[str, NDArray[Any]], Any]:
    """Read what ``write_tensors`` wrote.

    Args:
        path: The file.
        what: What it should be, for messages.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedFileError: If a bit of it is another than was written, or it is of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no {what} at {path}")
    content = bytearray(path.stat().st_size)
    with path.open("rb") as file:
        length = file.readinto(content)
    try:
        arrays, metadata = _parsed(memoryview(content)[:length])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, struct.error) as error:
        raise DamagedFileError(
            f"{path} is damaged or no {what} ({error}): copy it again, or make it anew"
        ) from error
    if "edge_gym" not in metadata:
        raise DamagedFileError(f"{path} is a safetensors file, but no {what} of edge_gym")
    try:
        document = json.loads(metadata["edge_gym"])
        intact = document["sha256"] == _digest(arrays, document["content"])
    except (ValueError, TypeError, KeyError, RecursionError):
        intact = False
    if not intact:
        raise DamagedFileError(
            f"{path} is damaged, its checksum is wrong: copy it again, or make it anew"
        )
    return arrays, document["content"]


def _parsed(content: memoryview) -> tuple[dict[str, NDArray[Any]], Mapping[str, Any]]:
    """Return a safetensors file's arrays, which share its memory, and its metadata."""
    (size,) = struct.unpack_from("<Q", content)
    if size > min(_LONGEST_HEADER, len(content) - 8):
        raise ValueError("its header is longer than the file")
    header = json.loads(bytes(content[8 : 8 + size]).decode())
    if not isinstance(header, dict):
        raise ValueError("its header is no mapping")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ValueError("its metadata are no mapping")
    data, arrays, end = content[8 + size :], {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        kind, shape, (begin, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if kind not in _TYPES:
            raise ValueError(f"numbers of the kind {kind} are not read")
        dtype = np.dtype(_TYPES[kind])
        if not all(type(length) is int and length >= 0 for length in shape):
            raise ValueError("an array's shape is no shape")
        if begin != end or stop - begin != math.prod(shape) * dtype.itemsize or stop > len(data):
            raise ValueError("its arrays do not fit into it")
        arrays[name] = np.frombuffer(data[begin:stop], dtype).reshape(shape)
        end = stop
    if end != len(data):
        raise ValueError("it goes on behind its arrays")
    return arrays, metadata


def _digest(arrays: Mapping[str, NDArray[Any]], header: Any) -> str:
    digest = hashlib.sha256(json.dumps(header).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
