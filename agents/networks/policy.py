"""Networks on devices as stable-baselines3's own PPO and DQN use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_gym.agents.networks.modules import (
    SIGN_SHARPNESS,
    DeviceArchitecture,
    DeviceSummary,
    Parts,
    as_many_positive,
    scores_network,
)
from edge_gym.agents.sb3 import (
    ActorCriticPolicy,
    DiagGaussianDistribution,
    DictReplayBufferSamples,
    Distribution,
    DQNPolicy,
    NStepReplayBuffer,
    QNetwork,
)


class SignDistribution(Distribution):
    """Scores of which only the signs are random, independent of one another.

    Where an environment asks whether a score is above 0, this explores what matters alone: noise
    on the scores themselves would now and then lift some of many devices above 0, however clear
    the decision, and an agent would learn to make up for that.

    The score ``s`` that the network gives is positive with the probability 1/(1 + exp(-5s)). A
    positive draw becomes this probability, a negative one this probability less 1, so that draws
    of one sign keep the order of the scores. The mode has as many positive scores as are expected.
    """

    distribution: Any
    scores: Tensor

    def __init__(self, columns: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.columns = columns

    def proba_distribution_net(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Return nothing to learn: the network gives the scores themselves."""
        return nn.Identity()

    def proba_distribution(self, scores: Tensor) -> SignDistribution:
        """Take the network's scores, ``(n, K)`` or ``(n, K·columns)``."""
        self.scores = scores
        self.distribution = torch.distributions.Bernoulli(logits=SIGN_SHARPNESS * scores)
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log-probability of the actions' signs, ``(n,)``."""
        log_prob: Tensor = self.distribution.log_prob((actions > 0).float()).sum(dim=1)
        return log_prob

    def entropy(self) -> Tensor:
        """Return the signs' entropy, ``(n,)``."""
        entropy: Tensor = self.distribution.entropy().sum(dim=1)
        return entropy

    def sample(self) -> Tensor:
        """Draw signs and return scores that have them."""
        chance: Tensor = self.distribution.probs.clamp(1e-6, 1 - 1e-6)
        return chance - 1 + torch.bernoulli(chance)

    def mode(self) -> Tensor:
        """Return scores as an agent acts by them."""
        if self.columns == 1:
            return as_many_positive(self.scores)
        scores = self.scores.reshape(len(self.scores), -1, self.columns)
        return as_many_positive(scores, self.columns).flatten(1)

    def actions_from_params(self, scores: Tensor, deterministic: bool = False) -> Tensor:
        """Return actions for the network's scores."""
        return self.proba_distribution(scores).get_actions(deterministic)

    def log_prob_from_params(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions for the network's scores, and their log-probabilities."""
        actions = self.actions_from_params(scores)
        return actions, self.log_prob(actions)


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


class PartsReplayBuffer(NStepReplayBuffer):
    """Replay of observations in parts, which are kept side by side, with n-step returns.

    stable-baselines3's own buffer for such observations looks one step ahead only. Either buffer
    keeps each observation twice, as the next one too.

    Args:
        buffer_size: Transitions of all lanes together.
        observation_space: A ``Dict`` of boxes.
        action_space: The discrete actions.
        *args: As for ``NStepReplayBuffer``.
        **kwargs: As for ``NStepReplayBuffer``.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Dict,
        action_space: spaces.Space[Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self.shapes = {part: space.shape or () for part, space in observation_space.items()}
        flat = spaces.Box(-np.inf, np.inf, (spaces.flatdim(observation_space),), np.float32)
        super().__init__(buffer_size, flat, action_space, *args, **kwargs)

    def add(self, obs: Any, next_obs: Any, *args: Any, **kwargs: Any) -> None:
        """Keep one transition of each lane."""
        super().add(self._flat(obs), self._flat(next_obs), *args, **kwargs)

    def _get_samples(self, *args: Any, **kwargs: Any) -> Any:
        samples = super()._get_samples(*args, **kwargs)
        return DictReplayBufferSamples(
            self._parts(samples.observations),
            samples.actions,
            self._parts(samples.next_observations),
            samples.dones,
            samples.rewards,
            samples.discounts,
        )

    def _flat(self, parts: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        return np.concatenate(
            [parts[part].reshape(self.n_envs, -1) for part in self.shapes], axis=1, dtype=np.float32
        )

    def _parts(self, flat: Tensor) -> Parts:
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        pieces = zip(self.shapes.items(), torch.split(flat, sizes, dim=1), strict=True)
        return {part: piece.reshape(len(flat), *shape) for (part, shape), piece in pieces}
