"""What an agent reads of an environment and does in it, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

_KINDS = {
    "discrete": spaces.Discrete,
    "multidiscrete": spaces.MultiDiscrete,
    "box": spaces.Box,
}


@dataclass(frozen=True)
class Reading:
    """How an agent acts in an environment that observes or decides more than the one it learned in.

    Attributes:
        columns: Positions of the agent's columns in each part that it reads, ``(F,)``; None where
            they are the environment's own, in the same order. The part of a flat observation
            is ``""``.
        width: Action columns of each device where these are more than the agent knows, else 0.
        fill: Value of those that it does not know, the last ones.
    """

    columns: Mapping[str, NDArray[np.int64] | None]
    width: int = 0
    fill: float = 0.0

    def read(self, observations: Any) -> Any:
        """Return what the agent reads of an observation with any leading axes."""
        if isinstance(observations, Mapping):
            return {part: _taken(observations[part], at) for part, at in self.columns.items()}
        return _taken(observations, self.columns[""])

    def complete(self, actions: NDArray[Any], observations: Any) -> NDArray[Any]:
        """Return continuous actions, ``(..., K)`` or ``(..., K, c)``, with all columns."""
        if not self.width:
            return actions
        if actions.ndim < observations["devices"].ndim:
            actions = actions[..., None]
        missing = self.width - actions.shape[-1]
        rest = np.full((*actions.shape[:-1], missing), self.fill, actions.dtype)
        return np.concatenate([actions, rest], axis=-1)


def base_environment(env: Any) -> Any:
    """Return the environment of this package in ``env``, of whatever library that is.

    Raises:
        ValueError: If there is none.
    """
    # Other libraries' vector environments hold many, which are alike.
    base = env.get_attr("unwrapped")[0] if hasattr(env, "get_attr") else env.unwrapped
    if not hasattr(base, "tables"):
        raise ValueError(f"{env} names no observation columns: it is no edge_gym environment")
    return base


def scaling_clip(env: Any) -> float | None:
    """Return the bound of the ``ScaleObservation`` in ``env``; None without one."""
    if hasattr(env, "has_attr"):  # stable-baselines3's
        return env.get_attr("observation_clip")[0] if env.has_attr("observation_clip") else None
    while not hasattr(env, "observation_clip") and hasattr(env, "env"):
        env = env.env
    return getattr(env, "observation_clip", None)


def single_spaces(base: Any) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """Return the observation and action space of one lane."""
    return (
        getattr(base, "single_observation_space", base.observation_space),
        getattr(base, "single_action_space", base.action_space),
    )


def column_names(base: Any) -> dict[str, list[str]]:
    """Return ``name [unit]`` of all columns by part."""
    return {
        part: [f"{column.name} [{column.unit}]" for column in table]
        for part, table in base.tables.items()
    }


def interface(env: Any) -> dict[str, Any]:
    """Return what an agent needs to know of an environment, in JSON's types."""
    base = base_environment(env)
    seen, space = single_spaces(base)
    spec, per = base.spec, base.actions_per
    known: dict[str, Any] = {"environment": spec.id if spec is not None else None}
    names = column_names(base)
    if per is not None:
        kind = next(name for name, space_kind in _KINDS.items() if isinstance(space, space_kind))
        known["action_space"] = {"kind": kind, "per": per}
        if kind == "multidiscrete":
            known["action_space"]["levels"] = int(space.nvec[0])  # type: ignore[attr-defined]
        elif per == "system":
            known["action_space"]["n"] = int(space.n)  # type: ignore[attr-defined]
        elif per == "combination":
            known["action_space"]["levels"] = levels_per_device(space, seen)
        elif len(space.shape or ()) > 1:
            known["action_space"]["columns"] = space.shape[-1]  # type: ignore[index]
        known["columns"] = names
    else:
        if isinstance(space, spaces.Discrete):
            known["action_space"] = {"n": int(space.n), "start": int(space.start)}
        if set(names) == {""}:
            known["columns"] = names[""]
    return known


def levels_per_device(actions: Any, observations: Any) -> int:
    """Return how many levels each device has where actions are combinations of them."""
    n_devices: int = observations["devices"].shape[0]
    levels: int = round(float(actions.n) ** (1 / n_devices))
    return levels


def reading(file: Path, agent: Mapping[str, Any], env: Any) -> Reading:
    """Return how an agent acts in an environment.

    Args:
        file: The agent's, for messages.
        agent: What its header says.
        env: The environment.

    Raises:
        ValueError: If a column that the agent reads is not observed or has another unit, or the
            actions differ; the message names them.
    """
    known = interface(env)
    wanted, offered = agent["columns"], known.get("columns")
    made_for = f"{file} was trained on {agent.get('environment')}"
    if isinstance(wanted, dict) != isinstance(offered, dict) or offered is None:
        lacking = "observation of devices" if isinstance(wanted, dict) else "flat observation"
        raise ValueError(f"{made_for}, this environment has no {lacking}")
    columns = positions(wanted, offered, made_for)
    theirs, ours = agent["action_space"], known.get("action_space")
    if theirs == ours:
        return Reading(columns)
    fill = base_environment(env).action_fill
    if fill is not None and _has_more_columns(theirs, ours):
        return Reading(columns, int(known["action_space"]["columns"]), fill)
    raise ValueError(f"{made_for} with actions {theirs}; here they are {ours or 'not discrete'}")


def positions(
    wanted: Mapping[str, list[str]] | list[str],
    offered: Mapping[str, list[str]] | list[str],
    made_for: str,
) -> dict[str, NDArray[np.int64] | None]:
    """Return where wanted columns stand among those offered, None for the very same.

    Args:
        wanted: ``name [unit]`` of the columns, by part or of a flat observation.
        offered: Likewise.
        made_for: How messages begin.

    Raises:
        ValueError: If a part or column is missing, or a unit differs.
    """
    ours = offered if isinstance(offered, Mapping) else {"": offered}
    theirs = wanted if isinstance(wanted, Mapping) else {"": wanted}
    if missing := [part for part in theirs if part not in ours]:
        raise ValueError(
            f"{made_for} and reads {', '.join(missing)}, which this environment does not observe; "
            f"it observes {', '.join(ours)}"
        )
    missing, other_units = [], []
    for part, columns in theirs.items():
        units = dict(_name_and_unit(column) for column in ours[part])
        for name, unit in map(_name_and_unit, columns):
            title = f"{part} {name}".strip()
            if name not in units:
                missing.append(title)
            elif units[name] != unit:
                other_units.append(f"{title} in {unit}, which is in {units[name]} here")
    if missing:
        raise ValueError(
            f"{made_for} and reads columns that this environment does not observe: "
            f"{', '.join(missing)}"
        )
    if other_units:
        raise ValueError(f"{made_for} and reads {'; '.join(other_units)}")
    return {
        part: None
        if columns == ours[part]
        else np.array([ours[part].index(column) for column in columns], np.int64)
        for part, columns in theirs.items()
    }


def _name_and_unit(column: str) -> tuple[str, str]:
    name, _, unit = column.partition(" [")
    return name, unit.removesuffix("]")


def _has_more_columns(agent: Mapping[str, Any], env: Mapping[str, Any] | None) -> bool:
    """Return whether the environment has continuous actions of more columns than the agent's."""
    if env is None or agent.get("kind") != "box":
        return False
    own, offered = ({**space, "columns": space.get("columns", 1)} for space in (agent, env))
    more: bool = offered["columns"] > own["columns"]
    return more and {**own, "columns": offered["columns"]} == offered


def _taken(values: Any, at: NDArray[np.int64] | None) -> Any:
    # What ``take`` returns lies in memory as the agent's own observations do.
    return values if at is None else np.take(np.asarray(values), at, axis=-1)
