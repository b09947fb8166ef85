"""Training in several environments by turns, so that one agent serves them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from edge_gym.integrations.sb3_imports import OnPolicyAlgorithm, VecEnv

# What belongs to the environment of the present rollout, by the attribute that holds it.
_OWN = (
    "env",
    "observation_space",
    "action_space",
    "rollout_buffer",
    "_last_obs",
    "_last_episode_starts",
)


class ByTurns(OnPolicyAlgorithm):
    """Collects each rollout in the next of several environments; mixed into an algorithm's class.

    They may differ in how many devices they have, but not in what is observed of one, and have
    equally many lanes. Each goes on where its last rollout ended.

    Args:
        policy: As for the algorithm; what it learns must not depend on the number of devices.
        env: The first environment.
        others: Those that follow.
        **kwargs: As for the algorithm.
    """

    def __init__(self, policy: Any, env: VecEnv, others: Sequence[VecEnv], **kwargs: Any) -> None:
        super().__init__(policy, env, **kwargs)
        self.turn = 0
        self._places: list[dict[str, Any]] = [self._place()]
        for other in others:
            other.action_space.seed(self.seed)
            buffer = type(self.rollout_buffer)(
                self.n_steps,
                other.observation_space,
                other.action_space,
                device=self.device,
                gae_lambda=self.gae_lambda,
                gamma=self.gamma,
                n_envs=other.num_envs,
            )
            place = (other, other.observation_space, other.action_space, buffer, None, None)
            self._places.append(dict(zip(_OWN, place, strict=True)))

    def train(self) -> None:
        """Learn from the rollout, and go on to the next environment."""
        super().train()
        self.enter((self.turn + 1) % len(self._places))

    def enter(self, turn: int) -> None:
        """Let the next rollout be in environment number ``turn``."""
        self._places[self.turn] = self._place()
        self.turn = turn
        for name, value in self._places[turn].items():
            setattr(self, name, value)
        self.policy.observation_space = self.observation_space
        self.policy.action_space = self.action_space
        if self._last_obs is None:
            assert self.env is not None
            self._last_obs = self.env.reset()  # type: ignore[assignment]
            self._last_episode_starts = np.ones(self.n_envs, np.bool_)

    def places_state(self) -> dict[str, Any]:
        """Return whose turn it is, and what was seen last in each environment."""
        self._places[self.turn] = self._place()
        seen = [(place["_last_obs"], place["_last_episode_starts"]) for place in self._places]
        return {"turn": self.turn, "seen": seen}

    def set_places_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``places_state`` returned."""
        for place, (observation, starts) in zip(self._places, state["seen"], strict=True):
            place["_last_obs"], place["_last_episode_starts"] = observation, starts
        self.turn = state["turn"]
        self.__dict__.update(self._places[self.turn])
        self.enter(self.turn)

    def _place(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _OWN}


@cache
def by_turns(kind: type[Any]) -> type[ByTurns]:
    """Return an algorithm's class that trains in several environments by turns.

    Args:
        kind: A class derived from stable-baselines3's ``OnPolicyAlgorithm``.
    """
    return type(f"{kind.__name__}ByTurns", (ByTurns, kind), {})
