"""What an agent's file says of it, found again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_gym.evaluation.policies import resolve
from edge_gym.evaluation.rollouts import (
    EpisodeProgress,
    Episodes,
    even_lanes,
    make_lanes,
    run_episodes,
)
from edge_gym.evaluation.statistics import mean_intervals


@dataclass(frozen=True)
class Stated:
    """An agent's own evaluation, beside what the same episodes come to now.

    Attributes:
        first_seed: The first episode's seed, of those that chose among its checkpoints.
        episodes: Their number.
        stated: Mean return as the file has it.
        found: Mean return now.
    """

    first_seed: int
    episodes: int
    stated: float
    found: float

    @property
    def same(self) -> bool:
        """Whether they agree to what other processors round differently."""
        return bool(np.isclose(self.found, self.stated, rtol=1e-6, atol=1e-9))


def state(episodes: Episodes, seeds: range) -> dict[str, Any]:
    """Return what an agent's file says of its evaluation on ``seeds``."""
    low, high = mean_intervals(episodes.returns)
    return {
        "mean_return": float(episodes.returns.mean()),
        "ci95": [float(low), float(high)],
        "episodes": len(seeds),
        "first_seed": seeds.start,
        **{
            name: float(values.mean())
            for name, values in episodes.infos.items()
            if np.isfinite(values).all()
        },
    }


def evaluate_again(
    model: str, env_id: str, lanes: int = 64, progress: EpisodeProgress | None = None
) -> Stated:
    """Run the episodes of an agent's own evaluation.

    Args:
        model: ``ppo``, ``dqn``, ``ppo:seed=2`` or a path, see ``policies.resolve``.
        env_id: The environment.
        lanes: Most episodes run at a time.
        progress: Told how many are done.

    Raises:
        ValueError: If the file states no evaluation, or the agent does not suit the environment.
    """
    before, now = statements(model, env_id, lanes, progress)
    first, episodes = now["first_seed"], now["episodes"]
    return Stated(first, episodes, before["mean_return"], now["mean_return"])


def statements(
    model: str, env_id: str, lanes: int = 64, progress: EpisodeProgress | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what an agent's file states, and what ``state`` says of the same episodes now.

    Arguments and errors are those of ``evaluate_again``.
    """
    agent = resolve(model, make_lanes(env_id, 1)).policy
    told = getattr(agent, "metadata", {})
    if "evaluation" not in told:
        raise ValueError(f"{model} states no evaluation of its own")
    before = told["evaluation"]
    first, episodes = before["first_seed"], before["episodes"]
    env = make_lanes(env_id, even_lanes(episodes, lanes), told.get("overrides"))
    policy = resolve(model, env).policy
    seeds = range(first, first + episodes)
    return before, state(run_episodes(env, policy, seeds, progress), seeds)
