"""A policy's first lesson: do roughly as a baseline does, and expect what it earned.

Where single actions matter little against the noise of learning, an agent that begins at random
needs millions of steps to find what an analytical rule knows. It may begin from the rule instead:
the policy is fitted to the rule's actions, softly, so that it goes on exploring, and the value
function to the returns that were observed. What follows is ordinary PPO.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch.nn.functional import mse_loss

from edge_gym.agents.recipe import Imitation
from edge_gym.agents.sb3 import PPO
from edge_gym.agents.vec_env import LaneVecEnv
from edge_gym.baselines import make_baseline


def imitate(model: PPO, env: LaneVecEnv, lesson: Imitation) -> None:
    """Fit the policy and the value function of ``model`` to a baseline, on training episodes.

    Args:
        model: The untrained model; its own discount and value coefficient are used.
        env: The environment to play in; it is left in the midst of episodes.
        lesson: Which baseline, for how long.

    Raises:
        ValueError: If the baseline does not apply to the environment.
    """
    observations, actions, returns = _play(env, lesson, model.gamma, model.seed or 0)
    space = env.action_space
    assert isinstance(space, spaces.Discrete)
    n_actions = int(space.n)
    # The teacher's own rate of mistakes is the right confidence: it keeps the policy exploring.
    wanted = torch.full((len(actions), n_actions), lesson.noise / max(n_actions - 1, 1))
    wanted[torch.arange(len(actions)), actions] = 1 - lesson.noise
    optimizer = torch.optim.Adam(model.policy.parameters(), lr=lesson.learning_rate)
    for _ in range(lesson.epochs):
        for rows in torch.split(torch.randperm(len(actions)), lesson.batch_size):
            batch = observations[rows]
            distribution: Any = model.policy.get_distribution(batch).distribution
            imitation = -(wanted[rows] * distribution.logits).sum(dim=1).mean()
            value = model.policy.predict_values(batch)[:, 0]
            loss = imitation + model.vf_coef * mse_loss(value, returns[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _play(
    env: LaneVecEnv, lesson: Imitation, gamma: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return observations, the teacher's actions and discounted returns of whole episodes."""
    parameters: Mapping[str, Any] = {k: v for k, v in lesson.policy.items() if k != "name"}
    teacher = make_baseline(lesson.policy["name"], env.env, **parameters)
    teacher.begin(np.arange(env.num_envs), range(env.num_envs))
    rng = np.random.default_rng([seed, 2])
    rounds: list[tuple[Any, ...]] = []
    ended, observation = 0, env.reset()
    while ended < lesson.episodes:
        masks = env.action_masks()
        action: NDArray[Any] = teacher.act(observation, masks)
        chances = rng.random(masks.shape) * masks
        taken = np.where(rng.random(len(action)) < lesson.noise, chances.argmax(axis=1), action)
        following, reward, done, _ = env.step(taken)
        rounds.append((observation, action, reward, done))
        ended += int(done.sum())
        observation = following
    observations, actions, rewards, dones = (np.array(part) for part in zip(*rounds, strict=True))
    returns = np.zeros_like(rewards)
    complete = np.zeros_like(dones)
    ahead, known = np.zeros(env.num_envs, np.float32), np.zeros(env.num_envs, np.bool_)
    for t in reversed(range(len(rounds))):
        ahead = rewards[t] + gamma * np.where(dones[t], 0, ahead)
        known |= dones[t]
        returns[t], complete[t] = ahead, known
    return (
        torch.as_tensor(observations[complete]),
        torch.as_tensor(actions[complete]),
        torch.as_tensor(returns[complete], dtype=torch.float32),
    )
