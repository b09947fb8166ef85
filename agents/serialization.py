"""Files without code in them: safetensors for arrays, JSON in its header for all else."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

_HEADER = "edge_gym"


class AgentError(ValueError):
    """An agent's or a checkpoint's file cannot be used; the message says what to do."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path; what is written there replaces ``path`` at once, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        # mkstemp keeps others out; a result is as readable as any new file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(path: Path, arrays: Mapping[str, NDArray[Any]], header: Any) -> None:
    """Write arrays, and a JSON value in the header, atomically."""
    contiguous = {name: np.array(array, order="C") for name, array in arrays.items()}
    with replacing(path) as temporary:
        save_file(contiguous, temporary, {_HEADER: json.dumps(header)})


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
            f"{path} is a zip archive, as stable-baselines3 saves models: it holds pickled code and "
            "is not loaded. If you trust it, convert it once: "
            f"model = PPO.load({str(path)!r}, env=env); "
            "edge_gym.agents.save_agent(model, 'agent.safetensors')"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            header = (file.metadata() or {}).get(_HEADER)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError, ValueError, OverflowError) as error:
        raise AgentError(
            f"{path} is damaged or no {what} ({error}): copy it again, or train anew"
        ) from error
    if header is None:
        raise AgentError(f"{path} is a safetensors file, but no {what} of edge_gym")
    try:
        return arrays, json.loads(header)
    except ValueError as error:
        raise AgentError(f"{path} is damaged, its header is no JSON: copy it again") from error


def pack(state: Any) -> tuple[dict[str, NDArray[Any]], Any]:
    """Take a nested state apart: arrays by name, and a JSON value that refers to them.

    Dictionaries, lists, tuples, numpy arrays and scalars, torch tensors and JSON's own values
    come back from ``unpack`` as they were.

    Raises:
        TypeError: If the state holds anything else.
    """
    arrays: dict[str, NDArray[Any]] = {}

    def keep(kind: str, array: NDArray[Any]) -> dict[str, str]:
        name = str(len(arrays))
        arrays[name] = array
        return {kind: name}

    def convert(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return keep("$torch", value.detach().cpu().numpy())
        if isinstance(value, np.ndarray):
            return keep("$array", value)
        if isinstance(value, np.generic):
            return keep("$scalar", np.asarray(value))
        if isinstance(value, Mapping):
            return {"$items": [[convert(key), convert(item)] for key, item in value.items()]}
        if isinstance(value, tuple):
            return {"$tuple": [convert(item) for item in value]}
        if isinstance(value, list):
            return [convert(item) for item in value]
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise TypeError(f"no safe way to save {type(value).__name__}")

    return arrays, convert(state)


def unpack(arrays: Mapping[str, NDArray[Any]], value: Any) -> Any:
    """Put together again what ``pack`` took apart."""
    if isinstance(value, list):
        return [unpack(arrays, item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    builders: dict[str, Callable[[], Any]] = {
        "$torch": lambda: torch.from_numpy(arrays[content]),
        "$array": lambda: arrays[content],
        "$scalar": lambda: arrays[content][()],
        "$items": lambda: {unpack(arrays, k): unpack(arrays, v) for k, v in content},
        "$tuple": lambda: tuple(unpack(arrays, item) for item in content),
    }
    return builders[kind]()
