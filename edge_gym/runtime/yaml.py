"""YAML whose numbers are those of YAML 1.2: ``5e6`` is one, not a word.

Nothing that is read takes more memory than its text: there are no references from one place to
another, by which a few lines could stand for billions of values, and texts and nesting are bounded.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

MOST_CHARACTERS = 4_000_000
DEEPEST = 30


class _Loader(yaml.SafeLoader):
    """PyYAML reads YAML 1.1, where a number with an exponent needs a point and the sign."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse references and what is nested too deeply."""
        if getattr(self.peek_event(), "anchor", None) is not None:  # type: ignore[no-untyped-call]
            raise ValueError("references (& and *) are not read: write the value out")
        if self.depth >= DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} deep")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Dumper(yaml.SafeDumper):
    """Writes a value out wherever it stands, for the loader takes no references."""

    def ignore_aliases(self, data: Any) -> bool:
        """Return True: never refer."""
        return True


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def load_yaml(content: str | bytes) -> Any:
    """Return what YAML says, in plain types.

    Raises:
        ValueError: If it is none, too long, nested too deeply, or refers to other places of it.
    """
    if len(content) > MOST_CHARACTERS:
        raise ValueError(f"it has {len(content):,} characters, more than {MOST_CHARACTERS:,}")
    try:
        return yaml.load(content, _Loader)  # the kind that makes plain types alone
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"it is not valid YAML: {reason}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def dump_yaml(value: Any, **style: Any) -> str:
    """Return plain types as YAML that ``load_yaml`` reads, keys in their order.

    Args:
        value: Mappings, lists, texts, numbers, true, false and None.
        **style: See ``yaml.dump``.
    """
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, **style)
    return text
