"""PPO in a single file, as CleanRL writes it: Gymnasium's vector environments and torch alone."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal

N_ENVS, N_STEPS, EPOCHS, MINIBATCH = 4, 32, 2, 32
GAMMA, LAMBDA, CLIP = 0.99, 0.95, 0.2


def make_env(env_id: str, **fields: Any) -> gym.Env[Any, Any]:
    env = gym.make(f"edge_gym:{env_id}", **fields)
    env = gym.wrappers.FlattenObservation(env)
    env = gym.wrappers.RecordEpisodeStatistics(env)
    if isinstance(env.action_space, gym.spaces.Box):
        env = gym.wrappers.ClipAction(env)
    return env


class Choices:
    """Independent choices, one for each number of options."""

    def __init__(self, logits: Tensor, options: list[int]) -> None:
        self.parts = [Categorical(logits=part) for part in logits.split(options, dim=-1)]

    def sample(self) -> Tensor:
        return torch.stack([part.sample() for part in self.parts], dim=-1)

    def log_prob(self, actions: Tensor) -> Tensor:
        chosen = zip(self.parts, actions.unbind(-1), strict=True)
        return torch.stack([part.log_prob(action) for part, action in chosen]).sum(dim=0)


class Agent(nn.Module):
    def __init__(self, envs: gym.vector.VectorEnv[Any, Any, Any]) -> None:
        super().__init__()
        inputs = int(np.prod(envs.single_observation_space.shape or ()))
        self.space = envs.single_action_space
        self.options: list[int] = []
        if isinstance(self.space, gym.spaces.Discrete):
            self.options = [int(self.space.n)]
        elif isinstance(self.space, gym.spaces.MultiDiscrete):
            self.options = self.space.nvec.tolist()
        outputs = sum(self.options) or int(np.prod(self.space.shape or ()))
        self.normal = nn.BatchNorm1d(inputs, affine=False, momentum=0.1)
        self.critic = nn.Sequential(nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, 1))
        self.actor = nn.Sequential(nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, outputs))
        self.log_std = None if self.options else nn.Parameter(torch.full((outputs,), -0.5))

    def forward(self, seen: Tensor) -> tuple[Any, Tensor]:
        seen = self.normal(seen).clamp(-5, 5)
        found, value = self.actor(seen), self.critic(seen)[:, 0]
        if self.log_std is None:
            return Choices(found, self.options), value
        return Independent(Normal(found, self.log_std.exp()), 1), value


def train(env_id: str, steps: int, **fields: Any) -> tuple[list[float], list[float]]:
    """Return the episodes' returns and the losses."""
    torch.manual_seed(0)
    envs = gym.vector.SyncVectorEnv(
        [lambda: make_env(env_id, **fields)] * N_ENVS,
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
    )
    agent = Agent(envs)
    optimizer = torch.optim.Adam(agent.parameters(), lr=1e-3, eps=1e-5)
    returns: list[float] = []
    losses: list[float] = []
    seen, _ = envs.reset(seed=0)
    for _ in range(max(steps // (N_ENVS * N_STEPS), 1)):
        agent.eval()
        kept: list[tuple[Tensor, ...]] = []
        for _ in range(N_STEPS):
            before = torch.as_tensor(seen, dtype=torch.float32)
            with torch.no_grad():
                distribution, value = agent(before)
            action = distribution.sample()
            shaped = action.numpy().reshape(N_ENVS, *(envs.single_action_space.shape or ()))
            seen, reward, terminated, truncated, info = envs.step(
                shaped.astype(envs.single_action_space.dtype)
            )
            over = torch.as_tensor(terminated | truncated, dtype=torch.float32)
            kept.append(
                (
                    before,
                    action,
                    distribution.log_prob(action),
                    torch.as_tensor(reward, dtype=torch.float32),
                    over,
                    value,
                )
            )
            if "final_info" in info:
                episode = info["final_info"]["episode"]
                returns += episode["r"][episode["_r"]].tolist()
        with torch.no_grad():
            _, following = agent(torch.as_tensor(seen, dtype=torch.float32))
        advantage, advantages = torch.zeros(N_ENVS), []
        for _, _, _, reward, over, value in reversed(kept):
            delta = reward + GAMMA * following * (1 - over) - value
            advantage = delta + GAMMA * LAMBDA * (1 - over) * advantage
            advantages.append(advantage)
            following = value
        gains = torch.cat(advantages[::-1])
        observed, actions, old, _, _, values = (torch.cat(part) for part in zip(*kept, strict=True))
        targets = gains + values
        agent.train()
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(gains)).split(MINIBATCH):
                distribution, value = agent(observed[rows])
                ratio = (distribution.log_prob(actions[rows]) - old[rows]).exp()
                gain = (gains[rows] - gains[rows].mean()) / (gains[rows].std() + 1e-8)
                policy = torch.max(-gain * ratio, -gain * ratio.clamp(1 - CLIP, 1 + CLIP)).mean()
                loss = policy + 0.5 * (value - targets[rows]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
                losses.append(float(loss.detach()))
    envs.close()
    return returns, losses


def run(env_id: str, steps: int = 256, **fields: Any) -> str:
    """Train, and return what the episodes were worth."""
    returns, losses = train(env_id, steps, **fields)
    assert len(returns) >= steps // 40
    assert np.isfinite([*returns, *losses]).all()
    return f"{len(returns)} episodes, mean return {np.mean(returns):.4f}"


if __name__ == "__main__":
    from each import for_each

    for_each(run)
