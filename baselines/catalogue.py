"""The registered rules, and which of them apply to an environment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edge_gym.baselines.base import Baseline, RandomPolicy
from edge_gym.registry import Registry, check_name, load, place_of
from edge_gym.runtime.messages import shown

TUNED = "tuned-"
"""What stands before a rule's name where its parameters are tuned."""


class Namesakes:
    """The rules that share a name, in the order in which they were registered.

    Args:
        name: The name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._rules: dict[str, type[Baseline] | str] = {}

    def add(self, rule: type[Baseline] | str) -> None:
        """Add a rule, or where it is; one that is imported anew takes its own place."""
        self._rules[rule if isinstance(rule, str) else place_of(rule)] = rule

    def rules(self) -> tuple[type[Baseline], ...]:
        """Return their classes, which are imported now.

        Raises:
            ValueError: If one cannot be found.
            TypeError: If one is no ``Baseline``, or has another name.
        """
        for place, rule in self._rules.items():
            if isinstance(rule, str):
                found = load(rule)
                _check(found, place)
                if found.name != self.name:
                    raise TypeError(
                        f"{place} is named {found.name!r}, but registered as {self.name!r}"
                    )
                self._rules[place] = found
        return tuple(rule for rule in self._rules.values() if not isinstance(rule, str))


class _Baselines(Registry[Namesakes]):
    """Rules by name: those of this project first, which are imported when rules are looked up."""

    def __init__(self) -> None:
        super().__init__("baseline")
        self._waiting: list[tuple[str, type[Baseline] | str]] | None = []

    def add(self, name: str, rule: type[Baseline] | str) -> None:
        """Add a rule beside those of the same name."""
        if self._waiting is not None:
            self._waiting.append((name, rule))
            return
        if name not in self._items:
            self.register(name, Namesakes(name))
        super().find(name).add(rule)

    def find(self, name: str) -> Namesakes:
        """Return the rules of a name."""
        self._complete()
        return super().find(name)

    def names(self) -> list[str]:
        """Return all names."""
        self._complete()
        return super().names()

    def __contains__(self, name: object) -> bool:
        self._complete()
        return super().__contains__(name)

    def _complete(self) -> None:
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            for rule in load(_OURS):
                self.add(rule.name, rule)
            for name, others in waiting:
                self.add(name, others)


BASELINES = _Baselines()
"""Rules by name. A name may stand for another rule in another environment, as in the papers; in
none for two."""

_OURS = "edge_gym.baselines.rules:RULES"


def register_baseline(rule: type[Baseline] | str, place: str | None = None) -> None:
    """Let a rule take part wherever it applies, by its name.

    Several rules may share a name if at most one of them applies to any environment.

    Args:
        rule: The class; or its name, with ``place``.
        place: Where the class is, ``"module:Class"``; it is imported when first needed.

    Raises:
        TypeError: If it is no ``Baseline``.
        ValueError: If the name cannot be written or begins with ``tuned-``.
    """
    if isinstance(rule, str):
        if place is None:
            raise TypeError(f"where is the rule {shown(rule)}? Expected 'module:Class' too")
        load_later: type[Baseline] | str = place
        name = rule
    else:
        _check(rule, shown(rule))
        name, load_later = rule.name, rule
    if name.startswith(TUNED):
        raise ValueError(f"no baseline's name begins with {TUNED}, got {shown(name)}")
    if isinstance(load_later, str) and load_later.count(":") != 1:
        raise ValueError(f"baseline {name!r}: expected 'module:Class', got {shown(load_later)}")
    check_name("baseline", name)
    BASELINES.add(name, load_later)


def find_baseline(name: str, env: Any) -> type[Baseline]:
    """Return the baseline of this name that applies to an environment, scalar or vector.

    Raises:
        ValueError: If the name is unknown, or not exactly one rule of this name applies.
    """
    if name not in BASELINES:
        raise ValueError(BASELINES.unknown(name))
    rule = _applying(name, env)
    if rule is None:
        here = ", ".join(applicable_baselines(env))
        raise ValueError(
            f"policy {shown(name)} does not apply to this environment; here are {here}"
        )
    return rule


def make_baseline(name: str, env: Any, **parameters: Any) -> Baseline:
    """Make the baseline of this name for an environment, scalar or vector.

    Raises:
        ValueError: If the name is unknown, the rule does not apply, or a value is out of range.
        TypeError: If a parameter is unknown.
    """
    return find_baseline(name, env)(env, **parameters)


def applicable_baselines(env: Any) -> list[str]:
    """Return the names of the baselines that apply to an environment as they are.

    Raises:
        ValueError: If two of one name do.
    """
    return [name for name, rule in _all_applying(env) if not rule.tuned_only]


def tuned_only_baselines(env: Any) -> list[str]:
    """Return the names of those that apply once their parameters are searched."""
    return [name for name, rule in _all_applying(env) if rule.tuned_only]


def zero_baseline(env: Any) -> str:
    """Return the name of the rule that scores count as 0; see ``Baseline.is_zero``."""
    config = env.unwrapped.config
    rules = (name for name, rule in _all_applying(env) if rule.is_zero(config))
    return next(rules, RandomPolicy.name)


def _all_applying(env: Any) -> Iterator[tuple[str, type[Baseline]]]:
    for name in BASELINES:
        if (rule := _applying(name, env)) is not None:
            yield name, rule


def _applying(name: str, env: Any) -> type[Baseline] | None:
    applying = [rule for rule in BASELINES.find(name).rules() if rule.applies(env)]
    if len(applying) > 1:
        places = " and ".join(map(place_of, applying))
        raise ValueError(f"two baselines {name!r} apply to this environment, {places}: rename one")
    return applying[0] if applying else None


def _check(rule: Any, what: str) -> None:
    if not isinstance(rule, type) or not issubclass(rule, Baseline):
        raise TypeError(f"a baseline is a subclass of edge_gym.baselines.Baseline, got {what}")
    for attribute in ("name", "source"):
        if not isinstance(getattr(rule, attribute, None), str):
            raise TypeError(f"{rule.__name__} has no {attribute}")
