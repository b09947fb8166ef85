"""What the server of update scheduling knows of devices, and when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from plain_update_scheduling import ENDLESS, GRADIENT, LAZY, PLAIN, Plain, agent, make, scores_of
from references import column

from edge_gym.envs.update_scheduling.actions import action_codec


def test_the_gradient_norm_is_not_scaled_by_the_learning_rate() -> None:
    env = make(GRADIENT, learning_rate=0.25)
    observation, _ = env.reset(seed=0)
    plain = Plain(env)
    wanted = [
        np.linalg.norm(plain.loss_and_gradient(plain.initial, rows)[1]) for rows in plain.rows
    ]
    found = column(env, observation, "devices", "indicator")
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (PLAIN, {"participation": "agent"}),
        (GRADIENT, {"participation": "agent"}),
        (PLAIN, {"indicators": "remembered"}),
        (GRADIENT, {"indicators": "remembered"}),
        (LAZY, {}),
        (PLAIN, {"indicators": "free"}),
    ],
)
def test_what_is_observed_has_happened(name: str, fields: dict[str, Any]) -> None:
    """Neither slow-downs nor data of devices that have not computed yet change what is seen.

    The oracle, ``indicators="free"``, is the only one that sees them.
    """
    oracle = fields.get("indicators") == "free"

    def seen(slow: bool, swapped: bool) -> list[dict[str, Any]]:
        env = make(name, **fields, slowdown_probability=0.0, **ENDLESS)
        env.reset(seed=5)
        action = scores_of(0, 1)
        if "participation" in action_codec(env.config).columns:
            action = agent(action, action)
        # Where devices report, all have computed in the first round; from now on two do.
        env.step(action)
        problem, observations = env.problem, []
        for _ in range(3):
            if slow:
                problem.compute_s[0, 2:] *= problem.config.slowdown
            if swapped:
                problem.rows[0, 2:] = problem.rows[0, :2]
            observations.append(problem.observe())
            env.step(action)
        return observations

    plain, slow, swapped = seen(False, False), seen(True, False), seen(False, True)
    for other in (slow, swapped):
        same = all(
            np.array_equal(a[part], b[part])
            for a, b in zip(plain, other, strict=True)
            for part in a
        )
        assert same != oracle


def test_remembered_indicators_are_those_of_the_last_arrival() -> None:
    env = make(indicators="remembered", **ENDLESS)
    observation, _ = env.reset(seed=0)

    def columns(observation: Any) -> tuple[list[float], list[float]]:
        return tuple(  # type: ignore[return-value]
            column(env, observation, "devices", name).tolist()
            for name in ("indicator", "indicator_age")
        )

    assert columns(observation) == ([1, 1, 1, 1], [1, 1, 1, 1])
    env.problem.packet_error[0] = [0, 1, 0, 0]
    plain = Plain(env)
    told = np.linalg.norm(plain.trained(plain.initial, 0)[0])
    indicator, age = columns(env.step(scores_of(0, 1))[0])
    # Device 1's was lost with its update; of the others the mean is expected.
    np.testing.assert_allclose(indicator, told, rtol=1e-4)
    assert age == [1, 2, 2, 2]
    second, age = columns(env.step(scores_of(2))[0])
    assert second[0] == indicator[0]
    assert second[1] == pytest.approx((second[0] + second[2]) / 2)
    assert age == [2, 3, 1, 3]


@pytest.mark.parametrize("limit", [{"max_rounds": 5}, {"budget_s": 0.004}])
def test_the_last_observation_is_of_the_rounds_that_were(limit: dict[str, Any]) -> None:
    env = make(**limit)
    observation, _ = env.reset(seed=0)
    seen = [column(env, observation, "devices", "efficiency")]
    over = False
    while not over:
        observation, _, terminated, truncated, _ = env.step(scores_of(0, 1))
        over = terminated or truncated
        if not over:
            seen.append(column(env, observation, "devices", "efficiency"))
    last = column(env, observation, "devices", "efficiency")
    if not np.array_equal(last, seen[-1]):
        seen.append(last)
    mean = column(env, observation, "devices", "mean_efficiency")
    np.testing.assert_allclose(mean, np.mean(seen, axis=0), rtol=1e-5)
