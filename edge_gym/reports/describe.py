"""What an environment is: its fields, what is observed, its actions, rewards and policies.

What actions mean, how the reward is paid, when an episode ends and where all of it comes from is
read from the docstring of the environment's class.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from edge_gym.agents.catalogue import TRAINED_BEFORE, catalogue
from edge_gym.baselines import applicable_baselines, find_baseline
from edge_gym.baselines.base import Baseline
from edge_gym.core.registration import EnvironmentSpec, find_environment
from edge_gym.evaluation.policies import default_specs
from edge_gym.evaluation.rollouts import make_lanes, plain_config
from edge_gym.papers import PAPERS

_NOT_STATED = "not stated" if __doc__ else "not known: Python runs without docstrings (-OO)"
_SECTION = re.compile(r"^## (.+)\n", re.MULTILINE)
_CHOICE = re.compile(r"^- ``\w+=\"([\w-]+)\"``", re.MULTILINE)
_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)


@dataclass(frozen=True)
class FieldDescription:
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
class Rule:
    """A baseline that applies.

    Attributes:
        name: As ``--policy`` takes it.
        source: Paper and equation, ``"edge_gym"`` where it is this project's.
        meaning: What it does.
        parameters: Its parameters and their defaults; ``name:parameter=value`` sets another value.
    """

    name: str
    source: str
    meaning: str
    parameters: list[FieldDescription]


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
        action_meaning: Which action is which.
        reward: How it is paid.
        end: When an episode ends.
        source: The papers that the environment is made from, and what of them.
        rules: The baselines that apply.
        agents: Of the trained agents that ship, what must be known.
        policies: What ``edge-gym compare`` runs.
        notes: What must be known of policies, by name.
    """

    environment: str
    summary: str
    settings: list[FieldDescription]
    observation: dict[str, list[dict[str, Any]]]
    shapes: dict[str, tuple[int, ...]]
    action: str
    action_meaning: str
    reward: str
    end: str
    source: str
    rules: list[Rule]
    agents: dict[str, str]
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
    sections = _sections(row)
    rules = [_rule(find_baseline(name, env)) for name in applicable_baselines(env)]
    space = env.single_observation_space
    parts = {part: space if part == "" else space[part] for part in env.tables}  # type: ignore[index]
    return Description(
        environment=row.id,
        summary=row.summary,
        settings=[
            FieldDescription(
                field.name,
                values[field.name],
                defaults[field.name],
                meanings.get(field.name, _NOT_STATED),
            )
            for field in fields(kind)
        ],
        observation={
            part: [asdict(column) for column in table] for part, table in env.tables.items()
        },
        shapes={part: tuple(box.shape or ()) for part, box in parts.items()},
        action=str(env.single_action_space),
        action_meaning=_chosen(sections, "Action Space", getattr(env.config, "actions", None)),
        reward=_chosen(sections, "Rewards", getattr(env.config, "reward", None)),
        end=_text(sections, "Episode End"),
        source=_with_papers(_text(sections, "References"), row.paper, rules),
        rules=rules,
        agents={entry.algorithm: TRAINED_BEFORE for entry in catalogue([row.id]) if entry.changed},
        policies=default_specs(row.id, env),
        notes={
            name: note
            for name in applicable_baselines(env)
            if (note := find_baseline(name, env).note(env.config))
        },
    )


def _sections(row: EnvironmentSpec) -> dict[str, str]:
    """Return the sections of the docstring of an environment's class; none without docstrings."""
    kind = row.scalar_type() if row.problem is None else row.problem_type()
    _, *parts = _SECTION.split(inspect.cleandoc(kind.__doc__ or ""))
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _text(sections: Mapping[str, str], name: str) -> str:
    """Return a section's paragraphs, each on one line."""
    return _plain(sections[name]) if name in sections else _NOT_STATED


def _chosen(sections: Mapping[str, str], name: str, choice: str | None) -> str:
    """Return a section: of the kinds that it lists the one that there is, and what holds for all.

    Args:
        sections: All of them.
        name: The section.
        choice: The value of the field by which it lists kinds.
    """
    if name not in sections:
        return _NOT_STATED
    before, *choices = _CHOICE.split(sections[name])
    if not choices:
        return _plain(before)
    kinds = dict(zip(choices[::2], choices[1::2], strict=True))
    # What follows the list is of all kinds.
    last = list(kinds)[-1]
    kinds[last], _, after = kinds[last].partition("\n\n")
    own = re.sub(r"^[^:]*: ", "", kinds.get(str(choice), ""), count=1)
    return _plain("\n\n".join(part for part in (before.strip(), own, after.strip()) if part))


def _plain(text: str) -> str:
    paragraphs = (" ".join(part.split()) for part in text.strip().split("\n\n"))
    return "\n".join(paragraphs).replace("``", "")


def _with_papers(text: str, own: str | None, rules: Sequence[Rule]) -> str:
    """Add the references of the environment's own paper, and of those that are cited."""
    cited = " ".join([text, *(rule.source for rule in rules)])
    papers = {key: PAPERS.find(key) for key in PAPERS}
    lines = [
        f"{paper.cited}: {paper}"
        for key, paper in papers.items()
        if key == own or paper.cited in cited
    ]
    return "\n".join([*([] if text == _NOT_STATED and lines else [text]), *lines])


def _rule(rule: type[Baseline]) -> Rule:
    kind = rule.Parameters
    defaults, meanings = kind(), _meanings(kind)
    summary, *_ = (rule.__doc__ or _NOT_STATED).partition("\n\n")
    parameters = [
        FieldDescription(
            field.name,
            getattr(defaults, field.name),
            getattr(defaults, field.name),
            meanings.get(field.name, _NOT_STATED),
        )
        for field in fields(kind)
    ]
    return Rule(rule.name, rule.source, _plain(summary), parameters)


def _meanings(config_type: type[Any]) -> dict[str, str]:
    """Return what the docstrings of a configuration and its bases say of each field."""
    found: dict[str, str] = {}
    for kind in reversed(config_type.__mro__):
        _, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
        for name, text in _ATTRIBUTE.findall(attributes):
            found[name] = _plain(text)
    return found
