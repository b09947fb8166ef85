"""Policies by name, as the command line takes them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from edge_gym.baselines import (
    BASELINES,
    applicable_baselines,
    find_baseline,
    make_baseline,
    tuned_only_baselines,
)
from edge_gym.baselines.base import ADAPTED, PROJECT, PUBLISHED, REFERENCE, YOURS, Baseline
from edge_gym.baselines.catalogue import TUNED
from edge_gym.core.registration import find_environment
from edge_gym.evaluation.oracle import ORACLE, LabelOracle
from edge_gym.evaluation.own_policies import make_own_policy, split_place
from edge_gym.evaluation.policy_sources import shipped_policies, source_names, source_of
from edge_gym.evaluation.rollouts import ActingFunction, Policy, TaskProgress, as_policy, make_lanes
from edge_gym.evaluation.tuning import (
    check_tunable,
    shipped_parameters,
    tunable_baselines,
    tuned_parameters,
)
from edge_gym.runtime.messages import shown
from edge_gym.runtime.yaml import load_yaml

RULE_KINDS = (PUBLISHED, ADAPTED, PROJECT)
"""Kinds of rules among which the best analytical policy is looked for."""

_LONGEST_NAME = 100


@dataclass(frozen=True)
class Contender:
    """A policy that takes part in a comparison.

    Attributes:
        name: As it was asked for.
        policy: What acts.
        kind: ``"published"``, ``"adapted"`` (a published rule with a schedule or another addition
            of this project), ``"project"`` (a rule of this project), ``"yours"`` (brought by a
            user), ``"reference"`` (``random``, ``index``, ``label-oracle``) or ``"learned"``.
        source: Where it comes from.
        parameters: The parameters of a rule.
        note: What must be known of its results; see ``Baseline.note``.
        rule: Whether it is a registered rule, ``random`` excepted.
    """

    name: str
    policy: Policy
    kind: str
    source: str
    parameters: dict[str, Any]
    note: str | None = None
    rule: bool = False


def best_rules(contenders: Iterable[Contender]) -> list[Contender]:
    """Return those among which the best rule is looked for: those of ``RULE_KINDS``.

    Where there are none, as in a problem of a user's own, it is the user's registered rules.
    """
    rules = [one for one in contenders if one.rule]
    return [one for one in rules if one.kind in RULE_KINDS] or rules


def parse_parameters(text: str, spec: str) -> dict[str, Any]:
    """Read ``param=value,param=value``; values are YAML scalars.

    Raises:
        ValueError: If a part has no ``=`` or its value cannot be read.
    """
    parameters: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise ValueError(
                f"policy {shown(spec)}: parameters are given as name:param=value,param=value"
            )
        parameters[name.strip()] = parse_value(value, spec)
    return parameters


def parse_value(text: str, where: str) -> Any:
    """Read a YAML value.

    Raises:
        ValueError: If it is none; the message names ``where`` it stands.
    """
    try:
        return load_yaml(text)
    except ValueError as error:
        # The parser's own words take several lines, and name a file that there is not.
        reason = "" if isinstance(error.__cause__, yaml.YAMLError) else f": {error}"
        raise ValueError(f"{where}: cannot read the value {shown(text)}{reason}") from error


def resolve(
    spec: str, env: Any, *, lanes: int = 64, progress: TaskProgress | None = None
) -> Contender:
    """Make the policy that ``spec`` names.

    Args:
        spec: ``name``, ``name:param=value,param=value``, ``tuned-name``, an algorithm such as
            ``ppo`` (the best agent of those shipped, or that of one training seed,
            ``ppo:seed=2``), the path of a trained agent, or a policy of your own, ``module:Class``,
            ``module:Class:param=value`` or ``module:function``, see ``own_policies``, or
            ``label-oracle:rule=NAME,param=value``, see ``oracle``.
        env: The environment to act in.
        lanes: Episodes run at a time if a tuned version must be searched.
        progress: Told how far such a search is.

    Raises:
        ValueError: If the name is unknown, the rule does not apply, a value is out of range, or
            tuned parameters are stale.
        TypeError: If a parameter is unknown.
        ImportError: If an agent needs an extra that is not installed.
    """
    name, colon, text = spec.partition(":")
    tuned = name.startswith(TUNED)
    name = name.removeprefix(TUNED)
    if name in BASELINES:
        if tuned and colon:
            raise ValueError(
                f"policy {shown(spec)}: a tuned policy's parameters are found, not given"
            )
        if tuned:
            # Whether the rule applies is said before anything is searched.
            find_baseline(name, env)
            parameters = tuned_parameters(name, env, lanes, progress)
        else:
            parameters = parse_parameters(text, spec) if colon else {}
        baseline = make_baseline(name, env, **parameters)
        return Contender(
            spec,
            baseline,
            baseline.kind(),
            baseline.source,
            baseline.named_parameters(),
            baseline.note(baseline.config),
            baseline.kind() != REFERENCE,
        )
    if name == ORACLE:
        given = parse_parameters(text, spec) if colon else {}
        return Contender(spec, LabelOracle(env, **given), REFERENCE, "edge_gym", given)
    source = source_of(name, spec)
    if source is not None:
        named = name in source.names()
        given = parse_parameters(text, spec) if named and colon else {}
        policy, made_with = source.make(name if named else spec, env, given)
        return Contender(spec, policy, source.kind, source.origin, dict(made_with))
    place = split_place(spec)
    if place is not None:
        where, text = place
        given = parse_parameters(text, spec) if text else {}
        return _own(spec, make_own_policy(where, env, given), where, given)
    here = applicable_baselines(env)
    known = [*here, *source_names()]
    close = difflib.get_close_matches(name, here, 2) if 2 < len(name) < _LONGEST_NAME else []
    raise ValueError(
        f"unknown policy {shown(spec)}"
        + (f", did you mean {' or '.join(close)}?" if close else "")
        + f"; here are {', '.join(known)}, {TUNED}NAME, module:attribute of your own, "
        "or the path of a trained agent"
    )


def resolve_all(
    specs: Mapping[str, str], env: Any, *, lanes: int = 64, progress: TaskProgress | None = None
) -> dict[str, Contender]:
    """Make the policies that specifications name, by the names given to them.

    Every specification is checked before the parameters of one are searched. Arguments and errors
    are those of ``resolve``.
    """
    ready = {}
    for name, spec in specs.items():
        if spec.startswith(TUNED):
            rule = spec.removeprefix(TUNED).partition(":")[0]
            if rule in BASELINES and spec == TUNED + rule:
                check_tunable(rule, env)
                continue
        ready[name] = resolve(spec, env)
    for name, spec in specs.items():
        if name not in ready:
            ready[name] = resolve(spec, env, lanes=lanes, progress=progress)
    return {name: replace(ready[name], name=name) for name in specs}


def make_policy(spec: str, env: Any) -> Policy:
    """Make the policy that ``spec`` names; see ``resolve``."""
    return resolve(spec, env).policy


def own_policy(name: str, policy: Policy | ActingFunction) -> Contender:
    """Let a user's own policy take part."""
    return _own(name, as_policy(policy), "given", {})


def _own(name: str, policy: Policy, source: str, parameters: Mapping[str, Any]) -> Contender:
    if isinstance(policy, Baseline):
        note = policy.note(policy.config)
        return Contender(name, policy, YOURS, policy.source, policy.named_parameters(), note)
    return Contender(name, policy, YOURS, source, dict(parameters))


def default_specs(env_id: str, env: Any) -> list[str]:
    """Return every policy that applies: baselines, their tuned versions, shipped agents."""
    specs: list[str] = []
    tunable = tunable_baselines(env)
    for name in applicable_baselines(env):
        specs.append(name)
        if name in tunable:
            specs.append(TUNED + name)
    searched = [name for name in tuned_only_baselines(env) if shipped_parameters(name, env)]
    specs += [TUNED + name for name in searched]
    return [*specs, *shipped_policies(find_environment(env_id).id)]


def shipped_specs(env_id: str) -> list[str]:
    """Return ``default_specs`` without tuned rules that are nothing new.

    Left out are those whose search does not ship, and those that it found best as they are.
    """
    env = make_lanes(env_id, 1)
    return [spec for spec in default_specs(env_id, env) if _is_new(spec, env)]


def _is_new(spec: str, env: Any) -> bool:
    if not spec.startswith(TUNED):
        return True
    name = spec.removeprefix(TUNED)
    found = shipped_parameters(name, env)
    if found is None:
        return False
    if find_baseline(name, env).tuned_only:
        return True
    usual = make_baseline(name, env).named_parameters()
    return make_baseline(name, env, **found).named_parameters() != usual


def one_for_each_seed(spec: str, env_id: str) -> list[str]:
    """Return the policies that a name stands for: a shipped algorithm's, one per training seed."""
    shipped = shipped_policies(find_environment(env_id).id)
    if spec not in shipped or spec in BASELINES:
        return [spec]
    return [f"{spec}:seed={seed}" for seed in shipped[spec]]
