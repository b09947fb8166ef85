"""What policies over devices draw: scores, columns and signs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from market import market
from tiny_runs import device_recipe, shuffled_weights

from edge_gym.agents import LaneVecEnv, load_agent, save_agent
from edge_gym.agents.networks.signs import as_many_positive
from edge_gym.agents.training.model import make_model


def test_scores_share_one_standard_deviation() -> None:
    model = make_model(device_recipe("ppo"), LaneVecEnv(market(actions="scores")))
    assert model.policy.log_std.shape == (1,)
    with torch.no_grad():
        model.policy.log_std.fill_(math.log(0.25))
    observation = {p: torch.as_tensor(v) for p, v in model.env.reset().items()}
    distribution = model.policy.get_distribution(observation).distribution
    assert distribution.mean.shape == (6, 4)
    torch.testing.assert_close(distribution.stddev, torch.full((6, 4), 0.25))
    actions, values, log_prob = model.policy(observation)
    expected = torch.distributions.Normal(distribution.mean, 0.25).log_prob(actions).sum(dim=1)
    torch.testing.assert_close(log_prob, expected)
    assert values.shape == (6, 1)


def test_columns_have_a_standard_deviation_each() -> None:
    model = make_model(device_recipe("ppo"), LaneVecEnv(market(actions="columns")))
    with torch.no_grad():
        model.policy.log_std.copy_(torch.tensor([0.25, 0.5]).log())
    observation = {p: torch.as_tensor(v) for p, v in model.env.reset().items()}
    distribution = model.policy.get_distribution(observation).distribution
    expected = torch.tensor([0.25, 0.5]).repeat(6, 4)
    torch.testing.assert_close(distribution.stddev, expected)
    actions, *_ = model.policy(observation)
    assert actions.shape == (6, 4, 2)


def test_signs_are_explored_alone(tmp_path: Path) -> None:
    """Draws are positive as often as the score says, keep its order, and are judged by sign.

    Without chance as many scores are positive as in draws on average, the largest ones.
    """
    env = LaneVecEnv(market(actions="scores"))
    model = make_model(device_recipe("ppo", network={"exploration": "signs"}), env)
    shuffled_weights(model, 0.3)
    observation = env.reset()
    agent = load_agent(save_agent(model, tmp_path / "agent"), env)
    seen = {part: torch.as_tensor(values) for part, values in observation.items()}
    with torch.no_grad():
        scores = agent.network(seen)
    likely = torch.sigmoid(5 * scores)
    n = 2000
    with torch.no_grad():
        draws = [model.policy(seen) for _ in range(n)]
    actions = torch.stack([draw[0] for draw in draws])
    positive = actions > 0
    assert (positive.double().mean(dim=0) - likely).abs().max() < 4 * 0.5 / n**0.5
    torch.testing.assert_close(torch.where(positive, actions, actions + 1), likely.expand(n, 6, 4))
    expected = torch.where(positive[0], likely, 1 - likely).log().sum(dim=1)
    torch.testing.assert_close(draws[0][2], expected, rtol=1e-4, atol=1e-5)
    _, again, entropy = model.policy.evaluate_actions(seen, actions[0])
    torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-5)
    bits = -likely * likely.log() - (1 - likely) * (1 - likely).log()
    torch.testing.assert_close(entropy, bits.sum(dim=1), rtol=1e-4, atol=1e-5)
    best, _ = model.predict(observation, deterministic=True)
    np.testing.assert_array_equal(best, agent.act(observation))
    np.testing.assert_array_equal(best.argsort(axis=1), scores.argsort(dim=1))
    number = likely.sum(dim=1).round().clamp(min=1).numpy()
    np.testing.assert_array_equal((best > 0).sum(axis=1), number)
    assert len(np.unique(number)) > 1
    with pytest.raises(ValueError, match=r"signs, which is for one score per device, not for Box"):
        make_model(
            device_recipe("ppo", network={"exploration": "signs"}),
            LaneVecEnv(market(actions="columns")),
        )


@given(
    scores=st.lists(st.floats(-3, 3, width=16), min_size=1, max_size=30, unique=True),
    shift=st.sampled_from([-2.0, 0.0, 2.0]),
)
def test_as_many_scores_are_positive_as_expected(scores: list[float], shift: float) -> None:
    given_scores = torch.tensor(scores, dtype=torch.float64) + shift
    found = as_many_positive(given_scores)
    expected = sum(1 / (1 + math.exp(-5 * score)) for score in given_scores.tolist())
    assert int((found > 0).sum()) == max(1, round(expected))
    torch.testing.assert_close(found - found[0], given_scores - given_scores[0])
