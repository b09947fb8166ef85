"""Agents' and checkpoints' files: what is in them is checked before anything is made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.runtime import tensors
from edge_gym.runtime.messages import shown
from edge_gym.runtime.tensors import DamagedFileError, write_tensors

__all__ = ["AgentError", "check_agent", "check_outputs", "read_tensors", "write_tensors"]


class AgentError(DamagedFileError):
    """An agent's or a checkpoint's file cannot be used; the message says what to do."""


def read_tensors(path: Path, what: str) -> tuple[dict[str, NDArray[Any]], Any]:
    """Read what ``write_tensors`` wrote.

    Args:
        path: The file.
        what: What it should be, for messages.

    Raises:
        FileNotFoundError: If there is no such file.
        AgentError: If it is damaged or of another kind.
    """
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(4)
        if start == b"PK\x03\x04":
            raise AgentError(
                f"{path} is a zip archive, as stable-baselines3 saves models: it holds pickled "
                "code and is not loaded. If you trust it, load it there (model = PPO.load(..., "
                "env=env)) and convert it: edge_gym.agents.save_agent(model, 'agent.safetensors')"
            )
    try:
        return tensors.read_tensors(path, what)
    except DamagedFileError as error:
        raise AgentError(str(error)) from error


def check_agent(path: Path, arrays: Mapping[str, NDArray[Any]], header: Any) -> None:
    """Check what an agent's file holds, so far as no environment is needed.

    Raises:
        AgentError: If a number is none that a network can have, or the header says something that
            would be found out only when the agent acts; the message says what.
    """

    def require(good: bool, what: str) -> None:
        if not good:
            raise AgentError(f"{path} is damaged: {what}; copy it again")

    require(isinstance(header, dict), "its header is no mapping")
    for name, array in arrays.items():
        # VecNormalize's statistics are doubles.
        wanted = np.float64 if name.endswith((".mean", ".variance")) else np.float32
        require(array.dtype == wanted, f"{name} is not of {wanted.__name__} but of {array.dtype}")
        require(bool(np.isfinite(array).all()), f"the numbers in {name} must be finite")
        require(not name.endswith("spread") or bool((array > 0).all()), f"{name} must be positive")
    clip = header.get("clip")
    require(clip is None or _is_width(clip), f"clip must be a positive number, got {shown(clip)}")
    normalised = header.get("normalised")
    numbers = isinstance(normalised, dict) and all(
        _is_width(normalised.get(name)) for name in ("epsilon", "clip")
    )
    require(
        normalised is None or numbers,
        f"normalised must have positive epsilon and clip, got {shown(normalised)}",
    )
    quantiles = header.get("quantiles", 1)
    require(
        _is_count(quantiles) and quantiles > 0,
        f"quantiles must be a positive integer, got {shown(quantiles)}",
    )
    decoder = header.get("decoder")
    named = isinstance(decoder, dict) and isinstance(decoder.get("name"), str)
    require(decoder is None or named, f"decoder must be a mapping with name, got {shown(decoder)}")
    columns = header.get("columns")
    samples = columns.get("samples", ()) if isinstance(columns, dict) else ()
    present = header.get("present")
    require(
        present is None or (_is_count(present) and (not samples or present < len(samples))),
        f"present must be a column of samples, got {shown(present)}",
    )
    told = header.get("evaluation", {"first_seed": 0, "episodes": 1, "mean_return": 0.0})
    require(
        isinstance(told, dict)
        and _is_count(told.get("first_seed"))
        and _is_count(told.get("episodes"))
        and told["episodes"] > 0
        and isinstance(told.get("mean_return"), (int, float)),
        f"evaluation must have first_seed, episodes and mean_return, got {shown(told)}",
    )


def check_outputs(path: Path, header: Mapping[str, Any], outputs: int, columns: int | None) -> None:
    """Check that a network on devices scores what actions, or a decoder, are made of.

    Args:
        path: The agent's file.
        header: Its header.
        outputs: What the network returns for each device or sample, or for the system.
        columns: What the agent's decoder takes for each device; None without a decoder.

    Raises:
        AgentError: If it does not.
    """
    space = header["action_space"]
    wanted = columns
    if wanted is None:
        wanted = next((space[name] for name in ("levels", "n", "columns") if name in space), 1)
    if outputs != wanted:
        what = (
            "actions take" if columns is None else f"the decoder {header['decoder']['name']} takes"
        )
        raise AgentError(
            f"{path} is damaged: its network has {outputs} outputs, {what} {shown(wanted)}; copy "
            "it again"
        )


def _is_width(value: Any) -> bool:
    """Return whether this is a positive number that float32 holds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 < value <= float(np.finfo(np.float32).max) and not math.isnan(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
