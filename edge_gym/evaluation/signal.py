"""What a benchmark can tell apart: how many pairs of policies so many episodes resolve.

Policies run on the same episodes. For each pair and metric, z is the paired mean difference over
the standard error that 100 episodes would give, |z| = |mean(d)| / std(d) · √100. A pair is resolved
where |z| exceeds 1.96, the two-sided 5 % point of a normal distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines.base import REFERENCE
from edge_gym.core.registration import find_environment
from edge_gym.evaluation.metrics import LESS_IS_BETTER, REPORTED
from edge_gym.evaluation.policies import default_specs, resolve_all, shipped_specs
from edge_gym.evaluation.policy_sources import shipped_policies
from edge_gym.evaluation.rollouts import Episodes, TaskProgress, make_lanes, run_episodes
from edge_gym.evaluation.seeds import TUNING
from edge_gym.runtime.checks import check_integer

REFERENCE_EPISODES = 100
"""Episodes that z is told for, however many were run."""
RESOLVED_Z = 1.96
RETURN = "return"
METRICS = (RETURN, *REPORTED, "total_gain", "total_loss_decrease")
"""What is looked at, where every policy's episodes tell it."""


@dataclass(frozen=True)
class MetricSignal:
    """What one metric tells apart.

    Attributes:
        metric: Its name.
        means: Mean of each policy.
        pairs: Number of pairs.
        resolved: Share of the pairs that 100 episodes resolve.
        median_z: Median of |z| over the pairs.
        best: The two policies of the highest means, the best first; of the lowest where less is
            better.
        best_z: |z| between these two.
        spread: By how much the best policy is better than ``random``, over the paired standard
            deviation of their difference; None without ``random``.
    """

    metric: str
    means: dict[str, float]
    pairs: int
    resolved: float
    median_z: float
    best: tuple[str, str]
    best_z: float
    spread: float | None


@dataclass(frozen=True)
class Signal:
    """What an environment's metrics tell apart.

    Attributes:
        environment: The id.
        seeds: First seed and number of the episodes.
        metrics: One for each metric that all policies have.
    """

    environment: str
    seeds: tuple[int, int]
    metrics: tuple[MetricSignal, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything in JSON's types."""
        return asdict(self)


def signal(
    env_id: str,
    policies: Sequence[str] | None = None,
    *,
    episodes: int = REFERENCE_EPISODES,
    seed: int = TUNING.start,
    lanes: int = 64,
    overrides: Mapping[str, Any] | None = None,
    progress: TaskProgress | None = None,
) -> Signal:
    """Run policies on the same episodes and tell which of them can be told apart.

    Args:
        env_id: The environment.
        policies: Names as ``compare`` takes them, at least two beside ``random``; all rules that
            apply and their tuned versions if None.
        episodes: Episodes of every policy, at least 8.
        seed: First seed; those of tuning by default, for settings are chosen by this.
        lanes: Episodes run at a time.
        overrides: Fields of the configuration.
        progress: Told how many episodes of which policy are done.

    Raises:
        ValueError: If an id, policy or value is unknown or out of range, or the policies are too
            few.
        TypeError: If a field or a parameter is unknown.
    """
    check_integer("episodes", episodes, 8)
    check_integer("seed", seed, 0)
    check_integer("lanes", lanes, 1)
    row = find_environment(env_id)
    env = make_lanes(row.id, min(lanes, episodes), overrides)
    if policies is None:
        agents, known = shipped_policies(row.id), default_specs(row.id, env)
        rules = [name for name in shipped_specs(row.id) if name not in agents]
        # Weights of the id's own configuration are not those of another.
        policies = [name for name in rules if name in known]
    contenders = resolve_all({name: name for name in policies}, env, lanes=lanes, progress=progress)
    references = {
        name
        for name, one in contenders.items()
        if one.kind == REFERENCE and not getattr(one.policy, "tuned_only", False)
    }
    if len(contenders) - len(references) < 2:
        raise ValueError(
            f"two policies or more are told apart, beside random; here are {', '.join(contenders)}"
        )
    seeds = range(seed, seed + episodes)
    values: dict[str, dict[str, NDArray[np.float64]]] = {metric: {} for metric in METRICS}
    for name, contender in contenders.items():

        def tell(done: int, of: int, name: str = name) -> None:
            if progress is not None:
                progress(name, done, of)

        found = run_episodes(env, contender.policy, seeds, tell)
        for metric in METRICS:
            if (told := values_of(metric, found)) is not None:
                values[metric][name] = told
    complete = {metric: found for metric, found in values.items() if len(found) == len(contenders)}
    return Signal(
        row.id,
        (seed, episodes),
        tuple(metric_signal(metric, found, references) for metric, found in complete.items()),
    )


def values_of(metric: str, episodes: Episodes) -> NDArray[np.float64] | None:
    """Return a metric of each episode, ``(n,)``; None unless all of them tell it."""
    told = episodes.returns if metric == RETURN else episodes.infos.get(metric)
    return None if told is None or not np.isfinite(told).all() else told


def metric_signal(
    metric: str, values: Mapping[str, NDArray[np.float64]], references: set[str]
) -> MetricSignal:
    """Return what a metric tells apart.

    Args:
        metric: Its name.
        values: Each policy's values, ``(n,)``, of the same episodes.
        references: Policies that no pair is made of: the spread is from the best of these.
    """
    sensible = [name for name in values if name not in references]
    means = {name: float(found.mean()) for name, found in values.items()}
    z = {
        (one, other): paired_z(values[one], values[other])
        for one, other in combinations(sensible, 2)
    }
    sign = -1 if metric in LESS_IS_BETTER else 1
    first, second, *_ = sorted(sensible, key=lambda name: -sign * means[name])
    sizes = np.array(list(z.values()))
    spread = None
    if references:
        reference = max(references, key=lambda name: sign * means[name])
        at_one = paired_z(values[first], values[reference]) / np.sqrt(REFERENCE_EPISODES)
        spread = float(np.copysign(at_one, sign * (means[first] - means[reference])))
    return MetricSignal(
        metric,
        means,
        len(z),
        float((sizes > RESOLVED_Z).mean()),
        float(np.median(sizes)),
        (first, second),
        z[(first, second)] if (first, second) in z else z[(second, first)],
        spread,
    )


def paired_z(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """Return |z| of a paired difference at 100 episodes; 0 where all are equal."""
    difference = ours - theirs
    mean, deviation = abs(float(difference.mean())), float(difference.std(ddof=1))
    if deviation == 0:
        return 0.0 if mean == 0 else float("inf")
    return mean / deviation * float(np.sqrt(REFERENCE_EPISODES))
