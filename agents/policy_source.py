"""Trained agents as policies by name, for comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_gym.agents import ALGORITHMS, load_agent, shipped_agents


class AgentSource:
    """Makes the shipped agents of algorithms, and those in files."""

    kind = "learned"
    origin = "trained agent"

    def names(self) -> Sequence[str]:
        """Return the algorithms."""
        return list(ALGORITHMS)

    def takes(self, spec: str) -> bool:
        """Return whether there is a file of this path."""
        try:
            return Path(spec).is_file()
        except (OSError, ValueError):
            return False  # no name of a file at all

    def make(
        self, name: str, env: Any, parameters: Mapping[str, Any]
    ) -> tuple[Any, Mapping[str, Any]]:
        """Load an agent: of an algorithm the best that ships, or that of one training ``seed``.

        Raises:
            ValueError: If there is none, or another parameter is given.
        """
        shipped = name in self.names()
        unknown = [parameter for parameter in parameters if parameter != "seed" or not shipped]
        if unknown:
            raise ValueError(f"policy {name!r}: a shipped agent has a seed, no {unknown[0]}")
        agent = load_agent(name, env, **parameters)
        return agent, {"seed": agent.metadata["recipe"]["seed"]} if shipped else {}

    def shipped(self, env_id: str) -> Mapping[str, Sequence[int]]:
        """Return the training seeds of the shipped agents, by algorithm."""
        return dict(shipped_agents(env_id))


AGENTS = AgentSource()
