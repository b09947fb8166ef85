"""Files without code in them: safetensors for arrays, JSON in their headers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from edge_gym.files import replacing


class AgentError(ValueError):
    """An agent's or a checkpoint's file cannot be used; the message says what to do."""


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
        AgentError: If it is damaged or of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no {what} at {path}")
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04":
        raise AgentError(
            f"{path} is a zip archive, as stable-baselines3 saves models: it holds pickled code "
            "and is not loaded. If you trust it, load it there (model = PPO.load(..., env=env)) "
            "and convert it: edge_gym.agents.save_agent(model, 'agent.safetensors')"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError, ValueError, OverflowError, KeyError) as error:
        raise AgentError(
            f"{path} is damaged or no {what} ({error}): copy it again, or train anew"
        ) from error
    if "edge_gym" not in metadata:
        raise AgentError(f"{path} is a safetensors file, but no {what} of edge_gym")
    try:
        document = json.loads(metadata["edge_gym"])
        intact = document["sha256"] == _digest(arrays, document["content"])
    except (ValueError, TypeError, KeyError):
        intact = False
    if not intact:
        raise AgentError(f"{path} is damaged, its checksum is wrong: copy it again, or train anew")
    return arrays, document["content"]


def _digest(arrays: Mapping[str, NDArray[Any]], header: Any) -> str:
    digest = hashlib.sha256(json.dumps(header).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
