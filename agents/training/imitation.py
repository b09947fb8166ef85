"""An agent's first lesson: do roughly as a baseline does, and expect what it earned.

Where single actions matter little against the noise of learning, an agent that begins at random
needs millions of steps to find what an analytical rule knows. It may begin from the rule instead.
PPO's policy is fitted to the rule's actions, softly, so that it goes on exploring, and its value
function to the returns that were observed. DQN's values of the actions taken are fitted to these
returns, and all that was seen is replayed later. What follows is the ordinary algorithm.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Bernoulli
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss, one_hot

from edge_gym.agents.algorithms.base import ALGORITHMS
from edge_gym.agents.recipe import Imitation
from edge_gym.baselines import make_baseline
from edge_gym.integrations.sb3 import LaneVecEnv


@dataclass(frozen=True)
class Round:
    """One step of all lanes: what was seen, what the teacher meant, what was done, what came."""

    observation: Any
    wanted: NDArray[Any]
    taken: NDArray[Any]
    reward: NDArray[np.float32]
    done: NDArray[np.bool_]
    following: Any
    infos: list[dict[str, Any]]


@dataclass(frozen=True)
class Lesson:
    """Steps of whole episodes, along the leading axis."""

    observations: Any
    wanted: Tensor
    taken: Tensor
    returns: Tensor

    def to(self, device: torch.device) -> Lesson:
        """Return the same where the model is."""
        seen = self.observations
        moved = (
            {part: values.to(device) for part, values in seen.items()}
            if isinstance(seen, dict)
            else seen.to(device)
        )
        others = (part.to(device) for part in (self.wanted, self.taken, self.returns))
        return Lesson(moved, *others)

    def batches(self, size: int) -> Iterator[Lesson]:
        """Yield all steps once, in mini-batches at random."""
        for rows in torch.split(torch.randperm(len(self.returns)), size):
            observations = self.observations
            seen = (
                {part: values[rows] for part, values in observations.items()}
                if isinstance(observations, dict)
                else observations[rows]
            )
            yield Lesson(seen, self.wanted[rows], self.taken[rows], self.returns[rows])


def imitate(model: Any, envs: Sequence[LaneVecEnv], lesson: Imitation, algorithm: str) -> None:
    """Teach ``model`` a baseline, on training episodes.

    An actor-critic's policy and value function are fitted; DQN's replay buffer is filled, and its
    Q-network and target network are fitted.

    Args:
        model: The untrained model; its own discount and value coefficient are used.
        envs: The environments to play in, which share the episodes, for DQN one; they are left in
            the midst of episodes.
        lesson: Which baseline, for how long.
        algorithm: The registered name of the model's algorithm.

    Raises:
        ValueError: If the baseline does not apply to an environment.
    """
    episodes = -(-lesson.episodes // len(envs))
    played = [_play(env, lesson, episodes, model.seed or 0) for env in envs]
    steps = [_whole_episodes(rounds, model.gamma).to(model.device) for rounds in played]
    ALGORITHMS.find(algorithm).teach(model, played, steps, lesson)


def _batches(steps: Sequence[Lesson], lesson: Imitation) -> Iterator[Lesson]:
    """Yield every epoch's mini-batches, those of each environment in turn."""
    for _ in range(lesson.epochs):
        for batches in itertools.zip_longest(*(part.batches(lesson.batch_size) for part in steps)):
            yield from (batch for batch in batches if batch is not None)


def fit_policy(model: Any, steps: Sequence[Lesson], lesson: Imitation) -> None:
    """Fit an actor-critic's policy to wanted actions and its value function to returns."""
    optimizer = torch.optim.Adam(model.policy.parameters(), lr=lesson.learning_rate)
    for batch in _batches(steps, lesson):
        distribution: Any = model.policy.get_distribution(batch.observations).distribution
        if isinstance(model.action_space, (spaces.Discrete, spaces.MultiDiscrete)):
            if isinstance(model.action_space, spaces.Discrete):
                logits = distribution.logits
            else:
                logits = torch.stack([part.logits for part in distribution], dim=1)
            n_actions = logits.shape[-1]
            # The teacher's own rate of mistakes is the right confidence: the policy must explore.
            hits = one_hot(batch.wanted, n_actions)
            wanted = torch.where(hits > 0, 1 - lesson.noise, lesson.noise / max(n_actions - 1, 1))
            imitation = -(wanted * logits).flatten(1).sum(dim=1).mean()
        elif isinstance(distribution, Bernoulli):
            n_devices = batch.wanted.shape[1]
            unsure = lesson.noise / n_devices
            wanted = torch.where(batch.wanted > 0, 1 - unsure, unsure)
            imitation = binary_cross_entropy_with_logits(distribution.logits, wanted.flatten(1))
        else:
            imitation = mse_loss(distribution.mean, batch.wanted.flatten(1))
        value = model.policy.predict_values(batch.observations)[:, 0]
        loss = imitation + model.vf_coef * mse_loss(value, batch.returns)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def fit_values(model: Any, steps: Sequence[Lesson], lesson: Imitation) -> None:
    """Fit Q-values to returns; see Hester et al., "Deep Q-learning from Demonstrations", 2018."""
    optimizer = torch.optim.Adam(model.q_net.parameters(), lr=lesson.learning_rate)
    for batch in _batches(steps, lesson):
        values = model.q_net(batch.observations)
        taken = values.gather(1, batch.taken[:, None])[:, 0]
        loss: Any = mse_loss(taken, batch.returns)
        if lesson.margin:
            wanted = values.gather(1, batch.wanted[:, None])[:, 0]
            others = 1 - one_hot(batch.wanted, values.shape[1])
            loss = loss + ((values + lesson.margin * others).amax(dim=1) - wanted).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.q_net_target.load_state_dict(model.q_net.state_dict())


def fill_replay(model: Any, rounds: list[Round]) -> None:
    """Put what was played into a model's replay buffer."""
    buffer: Any = model.replay_buffer
    for step in rounds:
        done, infos = step.done, step.infos
        if step is rounds[-1]:
            # Other episodes follow in the buffer: what goes on here counts as cut off.
            infos = [
                info if over else {"TimeLimit.truncated": True}
                for info, over in zip(infos, done, strict=True)
            ]
            done = np.ones_like(done)
        # The observations after a reset are the next step's own.
        following = copy.deepcopy(step.following)
        for lane in np.flatnonzero(step.done):
            last = infos[lane]["terminal_observation"]
            if isinstance(following, dict):
                for part in following:
                    following[part][lane] = last[part]
            else:
                following[lane] = last
        buffer.add(step.observation, following, step.taken, step.reward, done, infos)


def _play(env: LaneVecEnv, lesson: Imitation, episodes: int, seed: int) -> list[Round]:
    """Return the steps of so many episodes at least."""
    parameters: Mapping[str, Any] = {k: v for k, v in lesson.policy.items() if k != "name"}
    teacher = make_baseline(lesson.policy["name"], env.lanes, **parameters)
    teacher.begin(np.arange(env.num_envs), range(env.num_envs))
    rng = np.random.default_rng([seed, 2])
    rounds: list[Round] = []
    ended, observation = 0, env.reset()
    while ended < episodes:
        if isinstance(env.action_space, spaces.Discrete):
            masks = env.action_masks()
            wanted: NDArray[Any] = np.asarray(teacher.act(observation, masks), np.int64)
            chance: NDArray[Any] = (rng.random(masks.shape) * masks).argmax(axis=1)
        elif isinstance(env.action_space, spaces.MultiDiscrete):
            wanted = np.asarray(teacher.act(observation), np.int64)
            chance = rng.integers(0, env.action_space.nvec, wanted.shape)
        else:
            wanted = np.asarray(teacher.act(observation), np.float32)
            chance = rng.uniform(-1, 1, wanted.shape).astype(np.float32)
        taken = wanted.copy()
        erring = rng.random(len(wanted)) < lesson.noise
        taken[erring] = chance[erring]
        following, reward, done, infos = env.step(taken)
        rounds.append(Round(observation, wanted, taken, reward, done, following, infos))
        ended += int(done.sum())
        observation = following
    return rounds


def _whole_episodes(rounds: list[Round], gamma: float) -> Lesson:
    """Return the steps of episodes that ended, with their discounted returns."""
    rewards = np.array([step.reward for step in rounds])
    dones = np.array([step.done for step in rounds])
    returns = np.zeros_like(rewards)
    complete = np.zeros_like(dones)
    ahead, known = np.zeros(dones.shape[1], np.float32), np.zeros(dones.shape[1], np.bool_)
    for t in reversed(range(len(rounds))):
        ahead = rewards[t] + gamma * np.where(dones[t], 0, ahead)
        known |= dones[t]
        returns[t], complete[t] = ahead, known

    def stacked(values: list[Any]) -> Tensor:
        return torch.as_tensor(np.array(values)[complete])

    first = rounds[0].observation
    observations: Any = (
        {part: stacked([step.observation[part] for step in rounds]) for part in first}
        if isinstance(first, dict)
        else stacked([step.observation for step in rounds])
    )
    return Lesson(
        observations,
        stacked([step.wanted for step in rounds]),
        stacked([step.taken for step in rounds]),
        torch.as_tensor(returns[complete], dtype=torch.float32),
    )
