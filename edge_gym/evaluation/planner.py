"""What there is to win: a planner that may copy the running environment and try things out.

It is no contender: policies see observations, the planner sees all. At every step it lets each
candidate act in copies of the episode, for one step or several, goes on with a base policy to the
end, and takes the candidate whose copies end best (the rollout algorithm, one step of policy
iteration). It plans for the return, which the validation samples tell, and these it knows; what it
wins on test samples, which it does not know, is told beside it. Where even
that is no better than the base policy, agents that end level with it have hardly missed anything.
What is drawn on the way, such as channels, is drawn anew in each copy; what an environment draws
when an episode begins, such as where samples and devices are, is the same in all.

Source: Bertsekas, *Rollout, Policy Iteration, and Distributed Reinforcement Learning*, 2020.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from edge_gym.core.registration import find_environment
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.evaluation.comparison import Interval
from edge_gym.evaluation.policies import make_policy, resolve_all
from edge_gym.evaluation.rollouts import TaskProgress, make_lanes, run_episodes
from edge_gym.evaluation.seeds import TUNING
from edge_gym.evaluation.signal import METRICS, values_of
from edge_gym.evaluation.statistics import mean_intervals
from edge_gym.runtime.checks import check_integer

MOST_ACTIONS = 64
_KEY = 7  # of the futures, apart from other generators of the same seeds


@dataclass(frozen=True)
class Headroom:
    """What planning won by one metric.

    Attributes:
        base_mean: Mean of the base policy.
        mean: Mean of the planner.
        difference: Mean paired difference.
        difference_ci95: Its 95 % bootstrap interval.
    """

    base_mean: float
    mean: float
    difference: float
    difference_ci95: Interval


@dataclass(frozen=True)
class Bound:
    """What planning came to, beside the policy it began from.

    Attributes:
        environment: The environment's id.
        base: The base policy.
        candidates: What was tried at every step.
        futures: Copies of each candidate; 0 where the true future was known.
        hold: Steps that a candidate acted for in copies.
        seeds: First seed and number of the episodes.
        metrics: By the return, which it planned for, and by what else the episodes tell, such as
            ``test_accuracy``.
    """

    environment: str
    base: str
    candidates: tuple[str, ...]
    futures: int
    hold: int
    seeds: tuple[int, int]
    metrics: dict[str, Headroom]


def plan(
    env_id: str,
    base: str,
    candidates: Sequence[str] = (),
    *,
    futures: int = 4,
    hold: int = 1,
    episodes: int = 32,
    seed: int = TUNING.start,
    overrides: Mapping[str, Any] | None = None,
    progress: TaskProgress | None = None,
) -> Bound:
    """Run a planner and its base policy on the same episodes.

    Args:
        env_id: The environment.
        base: The policy that copies go on with; it is a candidate too.
        candidates: Further policies whose actions are tried; none takes every possible action
            of a ``Discrete`` space.
        futures: Copies for each candidate, with chance drawn anew but alike for all candidates;
            0 for one copy with the chance that will really come, which is more than any policy
            could know: what that wins may be luck foreseen.
        hold: Steps that a candidate acts for in copies before the base policy goes on; an action
            that is tried is repeated.
        episodes: Episodes, at least 2.
        seed: The first one's seed.
        overrides: Fields of the configuration.
        progress: Told how many steps of the episodes are planned.

    Raises:
        ValueError: If an id, policy or value is unknown or out of range, or the actions are not
            few and discrete where no candidates are given.
    """
    check_integer("futures", futures, 0)
    check_integer("hold", hold, 1)
    check_integer("episodes", episodes, 2)
    check_integer("seed", seed, 0)
    row = find_environment(env_id)
    seeds = range(seed, seed + episodes)
    env = make_lanes(row.id, episodes, overrides)
    planner = _Planner(row.id, env, base, candidates, futures, hold, overrides, progress)
    ours = run_episodes(env, planner, seeds)
    theirs = run_episodes(env, make_policy(base, env), seeds)
    found = {name: (values_of(name, ours), values_of(name, theirs)) for name in METRICS}
    return Bound(
        environment=row.id,
        base=base,
        candidates=tuple(candidates) or ("every action",),
        futures=futures,
        hold=hold,
        seeds=(seed, episodes),
        metrics={
            name: _headroom(mine, other)
            for name, (mine, other) in found.items()
            if mine is not None and other is not None
        },
    )


def _headroom(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> Headroom:
    low, high = mean_intervals(ours - theirs)
    return Headroom(
        base_mean=float(theirs.mean()),
        mean=float(ours.mean()),
        difference=float((ours - theirs).mean()),
        difference_ci95=(float(low), float(high)),
    )


class _Planner:
    """Acts in ``env`` by what its copies come to."""

    def __init__(
        self,
        env_id: str,
        env: EdgeVectorEnv,
        base: str,
        candidates: Sequence[str],
        futures: int,
        hold: int,
        overrides: Mapping[str, Any] | None,
        progress: TaskProgress | None,
    ) -> None:
        self.env, self.futures, self.hold, self.progress = env, futures, hold, progress
        space = env.single_action_space
        few = isinstance(space, spaces.Discrete) and space.n <= MOST_ACTIONS
        if not candidates and not few:
            raise ValueError(
                f"{env_id} has more than {MOST_ACTIONS} actions, {space}: name candidates, "
                "policies whose actions are tried"
            )
        self.first, self.every = 0, 0
        if not candidates:
            discrete = cast(spaces.Discrete, space)
            self.first, self.every = int(discrete.start), int(discrete.n)
        made = resolve_all({spec: spec for spec in (base, *candidates)}, env)
        self.base = made[base].policy
        self.others = [made[candidate].policy for candidate in candidates]
        self.tried = 1 + len(self.others) + self.every
        self.copies = make_lanes(env_id, env.num_envs * self.tried * max(futures, 1), overrides)
        # What acts in the copies: the base policy, and the others while they are held.
        specs = (base, *(candidates if hold > 1 else ()))
        self.in_copies = [make_policy(spec, self.copies) for spec in specs]
        for policy in self.in_copies:
            policy.begin(np.arange(self.copies.num_envs), range(self.copies.num_envs))
        self.steps = 0

    def begin(self, lanes: NDArray[np.int64], seeds: Sequence[int]) -> None:
        """Episodes begin in ``lanes``."""
        for policy in (self.base, *self.others):
            policy.begin(lanes, seeds)

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return the best candidate's action in each lane."""
        n = self.env.num_envs
        proposals = [policy.act(observations, masks) for policy in (self.base, *self.others)]
        proposals += [np.full(n, self.first + action) for action in range(self.every)]
        actions = np.stack(proposals, axis=1)  # (n, tried, ...)
        if self.every and masks is not None:
            # The base policy's own action, which is no better than itself, for what cannot be.
            actions[:, 1:] = np.where(masks, actions[:, 1:], actions[:, :1])
        # The base policy comes first, so that it acts where nothing is better.
        best = self._values(actions).argmax(axis=1)
        self.steps += 1
        if self.progress is not None:
            self.progress("planned steps", self.steps, self.steps + 1)
        return np.asarray(actions[np.arange(n), best])

    def _values(self, actions: NDArray[Any]) -> NDArray[np.float64]:
        """Return the mean rest of the return after each candidate, ``(n, tried)``."""
        n, futures = self.env.num_envs, max(self.futures, 1)
        problem = self.copies.problem
        state = self.env.problem.get_state(np.repeat(np.arange(n), self.tried * futures))
        if self.futures:
            drawn = [
                np.random.default_rng([_KEY, self.steps, lane, future])
                for lane in range(n)
                for _ in range(self.tried)
                for future in range(futures)
            ]
            keys = [rng.integers(1 << 64, dtype=np.uint64) for rng in drawn]
            state["streams"] = {"episode": np.array(keys)}
            # Of problems that draw from these alone.
            state["generators"] = [rng.bit_generator.state for rng in drawn]
        running = np.arange(self.copies.num_envs)
        problem.set_state(running, state)
        total = np.zeros(len(running))
        first = taken = np.repeat(actions.reshape(-1, *actions.shape[2:]), futures, axis=0)
        for held in itertools.count(1):
            step = problem.step_lanes(running, taken[running])
            total[running] += step.reward
            running = running[~(step.terminated | step.truncated)]
            if not len(running):
                break
            observations, masks = problem.observe(), problem.action_masks()
            taken = self.in_copies[0].act(observations, masks)
            if held < self.hold:
                taken = self._held(taken, first, observations, masks)
        return np.asarray(total.reshape(n, self.tried, futures).mean(axis=2))

    def _held(
        self,
        going_on: NDArray[Any],
        first: NDArray[Any],
        observations: Any,
        masks: NDArray[np.bool_] | None,
    ) -> NDArray[Any]:
        """Return what candidates do at a later step in their copies, the base policy elsewhere."""
        which = np.repeat(np.tile(np.arange(self.tried), self.env.num_envs), max(self.futures, 1))
        taken = going_on.copy()
        for candidate, policy in enumerate(self.in_copies[1:], 1):
            own = which == candidate
            taken[own] = policy.act(observations, masks)[own]
        repeated = which > len(self.others)
        if self.every and masks is not None:
            repeated &= masks[np.arange(len(first)), first - self.first]
        taken[repeated] = first[repeated]
        return taken
