"""What an agent's file says of it, found again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_gym.evaluation import EpisodeProgress, even_lanes, make_lanes, run_episodes
from edge_gym.policies import resolve


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
    agent = resolve(model, make_lanes(env_id, 1)).policy
    told = getattr(agent, "metadata", {})
    if "evaluation" not in told:
        raise ValueError(f"{model} states no evaluation of its own")
    stated = told["evaluation"]
    first, episodes = stated["first_seed"], stated["episodes"]
    env = make_lanes(env_id, even_lanes(episodes, lanes), told.get("overrides"))
    policy = resolve(model, env).policy
    found = run_episodes(env, policy, range(first, first + episodes), progress)
    return Stated(first, episodes, stated["mean_return"], float(found.returns.mean()))
