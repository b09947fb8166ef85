"""Policies of a user's own: what stands at ``module:attribute``."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_gym.baselines.base import Baseline
from edge_gym.evaluation.rollouts import Policy, as_policy
from edge_gym.registry import find_own_modules, load
from edge_gym.runtime.messages import shown

_NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_PLACE = re.compile(rf"({_NAME}:{_NAME})(?::(.*))?", re.DOTALL)


def split_place(spec: str) -> tuple[str, str] | None:
    """Return ``"module:attribute"`` and the parameters' text of a specification; None if neither.

    ``name:param=value`` is no place: an attribute's name has no ``=``.
    """
    found = _PLACE.fullmatch(spec)
    return None if found is None else (found[1], found[2] or "")


def make_own_policy(place: str, env: Any, parameters: Mapping[str, Any]) -> Policy:
    """Make the policy at ``"module:attribute"``; modules of the current directory are found too.

    Args:
        place: A ``Baseline`` subclass; a class with ``begin`` and ``act``, made with the
            environment if it takes one; an instance of such a class; or a function from
            observations to actions, which may take ``masks`` too.
        env: The environment to act in.
        parameters: Of a class; others have none.

    Raises:
        ValueError: If there is no such module or attribute.
        TypeError: If it is none of these, or a parameter is unknown.
    """
    find_own_modules()
    found = load(place)
    if isinstance(found, type) and issubclass(found, Baseline):
        return found(env, **parameters)
    if isinstance(found, type):
        made = found(env, **parameters) if _takes_environment(found) else found(**parameters)
        return as_policy(made)
    if parameters:
        raise TypeError(f"{place} is no class: it has no parameter {shown(next(iter(parameters)))}")
    return as_policy(found)


def own_rule(place: str, env: Any) -> type[Baseline]:
    """Return the rule at ``"module:Class"``; modules of the current directory are found too.

    Raises:
        ValueError: If there is no such module or attribute, or the rule does not apply.
        TypeError: If it is no ``Baseline``.
    """
    find_own_modules()
    found = load(place)
    if not isinstance(found, type) or not issubclass(found, Baseline):
        raise TypeError(f"{place} is no subclass of edge_gym.baselines.Baseline")
    if (reason := found.misses(env)) is not None:
        raise ValueError(f"policy {place!r} does not apply to this environment: {reason}")
    return found


def code_digest(policy: Any) -> str:
    """Return what tells versions of the module of a policy apart; nothing where it has no file."""
    kind = getattr(policy, "function", None) or type(policy)
    module = sys.modules.get(getattr(kind, "__module__", ""))
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).is_file():
        return ""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]


def _takes_environment(kind: type[Any]) -> bool:
    """Return whether a class is made with a first argument that has no default."""
    try:
        first = next(iter(inspect.signature(kind).parameters.values()), None)
    except ValueError:
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return first is not None and first.kind in positional and first.default is first.empty
