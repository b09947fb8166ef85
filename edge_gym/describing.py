"""What an environment is: its fields, what is observed, its actions and its policies."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from edge_gym.baselines import applicable_baselines, find_baseline
from edge_gym.evaluation import make_lanes, plain_config
from edge_gym.policies import default_specs
from edge_gym.registration import find_environment

_NO_DOCSTRINGS = "not known: Python runs without docstrings (-OO)"
_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Setting:
    """A field of the configuration.

    Attributes:
        name: As ``gym.make`` and ``--set`` take it.
        value: What the id has.
        default: What the configuration has by itself.
        meaning: From its docstring, which ``python -OO`` leaves out.
    """

    name: str
    value: Any
    default: Any
    meaning: str


@dataclass(frozen=True)
class Description:
    """What there is to know before an environment is used.

    Attributes:
        environment: Its id.
        summary: What is decided.
        settings: The fields of its configuration.
        observation: Columns by part, ``""`` for a flat observation; see ``observation.Column``.
        shapes: Of each part.
        action: The action space.
        policies: What ``edge-gym compare`` runs.
        notes: What must be known of policies, by name.
    """

    environment: str
    summary: str
    settings: list[Setting]
    observation: dict[str, list[dict[str, Any]]]
    shapes: dict[str, tuple[int, ...]]
    action: str
    policies: list[str]
    notes: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return everything in JSON's types."""
        return asdict(self)


def describe(env_id: str, overrides: Mapping[str, Any] | None = None) -> Description:
    """Describe an environment.

    Args:
        env_id: With or without ``edge_gym/``.
        overrides: Fields of its configuration.

    Raises:
        ValueError: If the id or a value is unknown or out of range.
        TypeError: If a field is unknown.
        edge_gym.data.DataError: If its data are missing.
    """
    row = find_environment(env_id)
    env = make_lanes(row.id, 1, overrides)
    kind = type(env.config)
    values, defaults, meanings = plain_config(env.config), plain_config(kind()), _meanings(kind)
    space = env.single_observation_space
    parts = {part: space if part == "" else space[part] for part in env.tables}  # type: ignore[index]
    return Description(
        environment=row.id,
        summary=row.summary,
        settings=[
            Setting(
                field.name,
                values[field.name],
                defaults[field.name],
                meanings.get(field.name, _NO_DOCSTRINGS),
            )
            for field in fields(kind)
        ],
        observation={
            part: [asdict(column) for column in table] for part, table in env.tables.items()
        },
        shapes={part: tuple(box.shape or ()) for part, box in parts.items()},
        action=str(env.single_action_space),
        policies=default_specs(row.id, env),
        notes={
            name: note
            for name in applicable_baselines(env)
            if (note := find_baseline(name, env.config).note(env.config))
        },
    )


def _meanings(config_type: type[Any]) -> dict[str, str]:
    """Return what the docstrings of a configuration and its bases say of each field."""
    found: dict[str, str] = {}
    for kind in reversed(config_type.__mro__):
        _, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
        for name, text in _ATTRIBUTE.findall(attributes):
            found[name] = " ".join(text.split())
    return found
