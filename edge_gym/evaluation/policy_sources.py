"""Where policies come from besides rules: the registry of what makes them by name.

Trained agents register theirs here, so that comparisons run them without importing any of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from edge_gym.registry import Registry


class PolicySource(Protocol):
    """Makes policies by name."""

    kind: str
    """Kind of the policies that it makes, such as ``"learned"``."""

    origin: str
    """Where they come from, in a few words."""

    def names(self) -> Sequence[str]:
        """Return the names that it knows, such as those of algorithms."""

    def takes(self, spec: str) -> bool:
        """Return whether a specification that is none of the names is for it, as a file's path."""

    def make(self, name: str, env: Any, parameters: Mapping[str, Any]) -> Any:
        """Return a pair: the policy of a name or path, and the parameters that it has.

        Raises:
            ValueError: If there is none for the environment, or a parameter is unknown.
        """

    def shipped(self, env_id: str) -> Mapping[str, Sequence[int]]:
        """Return the names that there are policies of for an environment, and their seeds."""


POLICY_SOURCES: Registry[PolicySource] = Registry("source of policies")
"""Sources by name."""


def register_policy_source(name: str, source: PolicySource | str) -> None:
    """Add a source of policies, or where it is, ``"module:attribute"``.

    Raises:
        ValueError: If the name is taken.
    """
    POLICY_SOURCES.register(name, source)


def source_of(name: str, spec: str) -> PolicySource | None:
    """Return the source of a name, or of a specification that is none; None if there is none."""
    sources = [POLICY_SOURCES.find(key) for key in POLICY_SOURCES]
    named = (source for source in sources if name in source.names())
    return next(named, None) or next((one for one in sources if one.takes(spec)), None)


def source_names() -> list[str]:
    """Return the names that all sources know."""
    return [name for key in POLICY_SOURCES for name in POLICY_SOURCES.find(key).names()]


def shipped_policies(env_id: str) -> dict[str, Sequence[int]]:
    """Return the names of all policies that ship for an environment, and their training seeds."""
    return {
        name: seeds
        for key in POLICY_SOURCES
        for name, seeds in POLICY_SOURCES.find(key).shipped(env_id).items()
    }
