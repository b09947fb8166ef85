"""Action distributions besides stable-baselines3's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edge_gym.agents.networks.signs import SIGN_SHARPNESS, as_many_positive
from edge_gym.integrations.sb3_imports import Distribution


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
