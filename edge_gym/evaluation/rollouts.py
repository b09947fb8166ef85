"""Running policies: the same episodes, by seed, for whatever acts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from edge_gym.core.config import make_config
from edge_gym.core.registration import find_environment
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.evaluation import seeds as seed_ranges
from edge_gym.evaluation.statistics import few_warning
from edge_gym.runtime.messages import shown
from edge_gym.runtime.plain import plain

EpisodeProgress = Callable[[int, int], None]
"""Called with the number of episodes done and of all."""

TaskProgress = Callable[[str, int, int], None]
"""Called with the name of a task, and how much of how much is done."""


@runtime_checkable
class Policy(Protocol):
    """Whatever can act in many lanes at a time.

    A policy that draws random numbers draws them from the seeds given to ``begin``, so that an
    episode does not depend on what else is run.
    """

    def begin(self, lanes: NDArray[np.int64], seeds: Sequence[int]) -> None:
        """Forget the past of ``lanes``, ``(m,)``, where episodes with these seeds begin."""

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return one action per lane.

        Args:
            observations: Those of all lanes, with a leading lane axis.
            masks: Which discrete actions are possible, ``(n_lanes, A)``; None where actions are
                continuous.
        """


ActingFunction = Callable[..., Any]
"""Observations of all lanes to actions; enough for a policy without memory.

With a parameter ``masks`` it is also told which discrete actions are possible.
"""


@dataclass(frozen=True)
class Episodes:
    """What a policy's episodes came to; every array has a leading axis of n episodes.

    Attributes:
        seeds: The episodes' seeds, in the order asked for.
        returns: Sums of rewards.
        lengths: Numbers of steps.
        infos: The numbers in the last step's info, by name; NaN where an episode had none.
        curves: Step infos that were asked for, ``(n, longest)``; NaN after an episode's end.
    """

    seeds: NDArray[np.int64]
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    infos: dict[str, NDArray[np.float64]]
    curves: dict[str, NDArray[np.float64]]


class _Function:
    """A plain function as a policy."""

    def __init__(self, function: ActingFunction) -> None:
        self.function = function
        try:
            self._masked = "masks" in inspect.signature(function).parameters
        except (TypeError, ValueError):
            self._masked = False

    def begin(self, lanes: NDArray[np.int64], seeds: Sequence[int]) -> None:
        """Nothing to forget."""

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Ask the function."""
        if self._masked:
            return np.asarray(self.function(observations, masks=masks))
        return np.asarray(self.function(observations))


def as_policy(policy: Policy | ActingFunction) -> Policy:
    """Return ``policy``, or a plain function of the observations as a policy.

    Raises:
        TypeError: If it is neither.
    """
    if isinstance(policy, Policy) and not isinstance(policy, type):
        return policy
    if callable(policy) and not isinstance(policy, type):
        return _Function(policy)
    raise TypeError(
        "a policy has begin(lanes, seeds) and act(observations, masks), or is a function from "
        f"observations to actions; got {shown(policy)}"
    )


def make_lanes(
    env_id: str, lanes: int, overrides: Mapping[str, Any] | None = None, **kwargs: Any
) -> EdgeVectorEnv:
    """Make the vector environment that ``run_episodes`` needs.

    Args:
        env_id: With or without ``edge_gym/``.
        lanes: Number of lanes.
        overrides: Fields of the configuration.
        **kwargs: Further arguments of the environment, such as ``render_mode``.

    Raises:
        ValueError: If the id is unknown or a value is out of range.
        TypeError: If a field is unknown.
        edge_gym.data.DataError: If data are missing.
    """
    row = find_environment(env_id)
    return row.make_vector(
        lanes,
        autoreset_mode=AutoresetMode.DISABLED,
        config=dict(overrides or {}),
        **kwargs,
    )


def own_config(env_id: str) -> Any:
    """Return the configuration of an id without overrides."""
    row = find_environment(env_id)
    return make_config(row.problem_type().config_type, None, row.preset, {})


def plain_config(config: Any) -> dict[str, Any]:
    """Return a configuration as JSON and YAML hold it: a mapping with lists for tuples."""
    mapping: dict[str, Any] = plain(asdict(config))
    return mapping


def config_changes(config: Any) -> dict[str, Any]:
    """Return the fields of a configuration that differ from its defaults, as JSON holds them.

    Tuned parameters and agents state these alone: fields that are added later leave them valid.
    """
    defaults = plain_config(type(config)())
    return {name: value for name, value in plain_config(config).items() if value != defaults[name]}


def even_lanes(episodes: int, lanes: int) -> int:
    """Return the number of lanes, at most ``lanes``, that leaves the fewest idle in the end."""
    rounds = -(-episodes // min(lanes, episodes))
    return -(-episodes // rounds)


def seed_warning(seeds: Sequence[int]) -> str | None:
    """Return what is wrong with reporting results on ``seeds``; None if nothing is."""
    outside = [seed for seed in seeds if seed not in seed_ranges.EVALUATION]
    if not outside:
        return None
    kinds = {
        "training": seed_ranges.TRAINING,
        "tuning": seed_ranges.TUNING,
        "model selection": seed_ranges.SELECTION,
    }
    used = [kind for kind, numbers in kinds.items() if any(seed in numbers for seed in outside)]
    return (
        f"{len(outside)} of {len(seeds)} seeds are used for {' and '.join(used) or 'nothing known'}"
        f", so these results flatter what was trained or tuned; evaluation seeds start at "
        f"{seed_ranges.EVALUATION.start}"
    )


def reservations(seeds: Sequence[int]) -> list[str]:
    """Return what a reader of results on ``seeds`` should know: which they are, and how many."""
    return [text for text in (seed_warning(seeds), few_warning(len(seeds))) if text is not None]


def run_episodes(
    env: EdgeVectorEnv,
    policy: Policy | ActingFunction,
    seeds: Sequence[int],
    progress: EpisodeProgress | None = None,
    record: Sequence[str] = (),
) -> Episodes:
    """Run one episode per seed; a lane whose episode ends takes the next seed.

    The results do not depend on the number of lanes.

    Args:
        env: A vector environment made with ``autoreset_mode`` ``DISABLED``.
        policy: What acts; a plain function gets the observations of all lanes.
        seeds: The episodes' seeds.
        progress: Told at the start and whenever episodes end.
        record: Names of step infos to keep along the episodes.

    Raises:
        ValueError: If the environment resets by itself, or there are no seeds.
        KeyError: If a name in ``record`` is in no step's info.
    """
    if env.autoreset_mode != AutoresetMode.DISABLED:
        raise ValueError(
            "run_episodes begins the episodes itself: make the environment with "
            "autoreset_mode=AutoresetMode.DISABLED"
        )
    if not len(seeds):
        raise ValueError("run_episodes needs at least one seed")
    acting = as_policy(policy)
    return _Run(env, acting, [int(seed) for seed in seeds], record).finish(progress)


class _Run:
    """The bookkeeping of ``run_episodes``."""

    def __init__(
        self, env: EdgeVectorEnv, policy: Policy, seeds: list[int], record: Sequence[str]
    ) -> None:
        self.env, self.policy, self.seeds, self.record = env, policy, seeds, record
        n, lanes = len(seeds), env.num_envs
        self.returns, self.lengths = np.zeros(n), np.zeros(n, np.int64)
        self.infos: dict[str, NDArray[np.float64]] = {}
        self.steps: list[tuple[NDArray[np.int64], NDArray[np.int64], list[NDArray[Any]]]] = []
        # The episode that each lane runs; n marks a lane that only keeps the others company.
        self.episode = np.minimum(np.arange(lanes), n)
        self.started, self.finished = min(lanes, n), 0

    def finish(self, progress: EpisodeProgress | None) -> Episodes:
        env, n = self.env, len(self.seeds)
        if progress is not None:
            progress(0, n)
        observations = self._begin(np.ones(env.num_envs, np.bool_))
        masked = hasattr(env, "action_masks") and self._has_masks()
        while True:
            masks = env.action_masks() if masked else None
            actions = self.policy.act(observations, masks)
            observations, rewards, terminated, truncated, infos = env.step(actions)
            running = self.episode < n
            self.returns[self.episode[running]] += rewards[running]
            self.lengths[self.episode[running]] += 1
            self._record(running, infos)
            done = terminated | truncated
            if not done.any():
                continue
            ended = done & running
            self._keep(ended, infos)
            self.finished += int(ended.sum())
            if progress is not None and ended.any():
                progress(self.finished, n)
            if self.finished == n:
                return Episodes(
                    np.array(self.seeds), self.returns, self.lengths, self.infos, self._curves()
                )
            for lane in np.flatnonzero(done):
                self.episode[lane] = min(self.started, n)
                self.started += 1
            observations = self._begin(done)

    def _has_masks(self) -> bool:
        try:
            self.env.action_masks()
        except AttributeError:
            return False
        return True

    def _begin(self, mask: NDArray[np.bool_]) -> Any:
        lanes = np.flatnonzero(mask)
        # Idle lanes must run too; they repeat the last episode, and nobody looks.
        seeds = [self.seeds[min(e, len(self.seeds) - 1)] for e in self.episode]
        self.policy.begin(lanes, [seeds[lane] for lane in lanes])
        observations, _ = self.env.reset(seed=seeds, options={"reset_mask": mask})
        return observations

    def _keep(self, ended: NDArray[np.bool_], infos: Mapping[str, Any]) -> None:
        for name, values in infos.items():
            if name.startswith("_") or np.ndim(values) != 1 or values.dtype.kind not in "biuf":
                continue
            there = ended & infos[f"_{name}"]
            kept = self.infos.setdefault(name, np.full(len(self.seeds), np.nan))
            kept[self.episode[there]] = values[there]

    def _record(self, running: NDArray[np.bool_], infos: Mapping[str, Any]) -> None:
        if self.record:
            episode = self.episode[running]
            values = [np.array(infos[name][running], np.float64) for name in self.record]
            self.steps.append((episode, self.lengths[episode] - 1, values))

    def _curves(self) -> dict[str, NDArray[np.float64]]:
        curves = {
            name: np.full((len(self.seeds), int(self.lengths.max())), np.nan)
            for name in self.record
        }
        for episode, position, values in self.steps:
            for name, value in zip(self.record, values, strict=True):
                curves[name][episode, position] = value
        return curves
