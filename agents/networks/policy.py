"""Policies on devices, as stable-baselines3's actor-critic algorithms and DQN use them."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from edge_gym.agents.networks.deep_sets import DeviceArchitecture, DeviceSummary, scores_network
from edge_gym.agents.networks.distributions import SignDistribution
from edge_gym.agents.networks.scaling import Parts
from edge_gym.integrations.sb3_imports import (
    ActorCriticPolicy,
    DiagGaussianDistribution,
    Distribution,
    DQNPolicy,
    QNetwork,
)


class DeviceActorCriticPolicy(ActorCriticPolicy):
    """PPO's policy on devices: logits of discrete actions, of each device's levels, or scores.

    Gaussian scores have one standard deviation for each column, the same for all devices and
    states.

    Args:
        *args: As for ``ActorCriticPolicy``.
        shape: The shape of the policy's network, and of the value's but for its context.
        signs: Whether scores are explored by their signs alone, not as Gaussians.
        **kwargs: As for ``ActorCriticPolicy``.
    """

    def __init__(
        self, *args: Any, shape: DeviceArchitecture, signs: bool = False, **kwargs: Any
    ) -> None:
        self.shape = shape
        self.signs = signs
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Any) -> None:
        extractor: Any = _ActorCritic(self.shape)
        self.mlp_extractor = extractor
        self.value_net = nn.Linear(extractor.latent_dim_vf, 1)
        # As stable-baselines3 begins: features of unit variance, and hardly any preference.
        self.apply(lambda module: self.init_weights(module, gain=2**0.5))
        self.init_weights(extractor.policy_net.score, gain=0.01)
        self.init_weights(self.value_net, gain=1)
        self.action_net = nn.Identity()
        if self.signs:
            self.action_dist = SignDistribution(self.shape.outputs)
        elif isinstance(self.action_space, spaces.Box):
            self.log_std = nn.Parameter(torch.full((self.shape.outputs,), self.log_std_init))
        optimizer: Any = self.optimizer_class
        self.optimizer = optimizer(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Distribution:
        if isinstance(self.action_dist, SignDistribution):
            return self.action_dist.proba_distribution(latent_pi)
        if not isinstance(self.action_dist, DiagGaussianDistribution):
            return super()._get_action_dist_from_latent(latent_pi)
        log_std = self.log_std.repeat(latent_pi.shape[-1] // len(self.log_std))
        return self.action_dist.proba_distribution(latent_pi, log_std)


class _ActorCritic(nn.Module):
    """What ``ActorCriticPolicy`` expects between the observation and its two heads."""

    def __init__(self, shape: DeviceArchitecture) -> None:
        super().__init__()
        self.policy_net = scores_network(shape)
        self.value_net = DeviceSummary(shape)
        self.latent_dim_vf = shape.hidden[-1]

    def forward(self, parts: Parts) -> tuple[Tensor, Tensor]:
        return self.forward_actor(parts), self.forward_critic(parts)

    def forward_actor(self, parts: Parts) -> Tensor:
        scores: Tensor = self.policy_net(parts)
        return scores

    def forward_critic(self, parts: Parts) -> Tensor:
        features: Tensor = self.value_net(parts)
        return features


class DeviceDQNPolicy(DQNPolicy):
    """DQN's policy on devices: the Q-value of each action.

    Args:
        *args: As for ``DQNPolicy``.
        shape: The network's shape.
        **kwargs: As for ``DQNPolicy``.
    """

    def __init__(self, *args: Any, shape: DeviceArchitecture, **kwargs: Any) -> None:
        self.shape = shape
        super().__init__(*args, **kwargs)

    def make_q_net(self) -> QNetwork:
        """Return a Q-network on devices."""
        network = super().make_q_net()
        network.q_net = nn.Sequential(scores_network(self.shape)).to(self.device)
        return network
