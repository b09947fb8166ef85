"""The linear index: its scores, what they decide in each problem, and its weights by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rollouts

from edge_gym.baselines import (
    applicable_baselines,
    find_baseline,
    make_baseline,
    tuned_only_baselines,
)
from edge_gym.baselines.index_policy import IndexPolicy
from edge_gym.core.observation import Observation
from edge_gym.evaluation.rollouts import make_lanes, run_episodes
from edge_gym.evaluation.seeds import TUNING


def made(name: str, lanes: int = 1, **overrides: Any) -> Any:
    return make_lanes(name, lanes, {**rollouts.brief(name), **overrides})


def index(env: Any, **weights: float) -> IndexPolicy:
    """Return the index with weights by name, where ``__`` stands for a dot."""
    named = {name.replace("__", "."): value for name, value in weights.items()}
    policy = make_baseline("index", env, weights=named)
    assert isinstance(policy, IndexPolicy)
    return policy


@pytest.mark.parametrize("name", rollouts.KINDS)
def test_any_weights_act_in_every_kind(name: str) -> None:
    # Offloading has nothing to decide before tasks arrive.
    often = {"period": 1} if name.startswith("Offloading") else {}
    one, two = made(name, **often), made(name, 2, **often)
    names = find_baseline("index", one).weight_names(one)  # type: ignore[attr-defined]
    assert 8 <= len(names) <= 32
    assert len(set(names)) == len(names)
    weights = dict(zip(names, np.random.default_rng(0).normal(size=len(names)), strict=True))
    first, again = (
        run_episodes(env, make_baseline("index", env, weights=weights), TUNING[:3])
        for env in (one, two)
    )
    assert np.isfinite(first.returns).all()
    np.testing.assert_allclose(first.returns, again.returns, atol=1e-9)
    assert tuned_only_baselines(one) == ["index"]
    assert "index" not in applicable_baselines(one)


def test_scores_are_linear_in_scaled_columns_and_in_the_budget_left() -> None:
    env = made("UpdateSchedulingLazyIID-v0", 3)
    observations, _ = env.reset(seed=0)
    policy = index(env, **{"1": 0.5, "devices__staleness * left": 2.0, "devices__efficiency": -1.0})
    seen = Observation(env.tables, observations)
    efficiency = (seen.device("efficiency") - 7) / 3
    staleness = (seen.device("staleness") - 2) / 3
    # The whole budget is left.
    np.testing.assert_allclose(
        policy.scores(seen)[..., 0], 0.5 + 2 * staleness - efficiency, rtol=1e-5
    )
    at = env.tables["system"].index("budget_left")
    observations["system"][:, at] = 0
    np.testing.assert_allclose(
        policy.scores(seen)[..., 0], 0.5 - 2 * staleness - efficiency, rtol=1e-5
    )


def test_what_is_left_out_is_zero() -> None:
    env = made("UpdateSchedulingLazyIID-v0", 2)
    observations, _ = env.reset(seed=0)
    weights = {"1": -0.1, "devices.log_cost": -1.0}
    few = make_baseline("index", env, weights=weights)
    names = type(few).weight_names(env)  # type: ignore[attr-defined]
    whole = make_baseline("index", env, weights=dict.fromkeys(names, 0.0) | weights)
    np.testing.assert_array_equal(few.act(observations), whole.act(observations))


def test_retransmission_asks_again_for_positive_scores() -> None:
    env = made("Retransmission-v0", 8, mean_snr_db=14)
    observations, _ = env.reset(seed=0)
    # The column's centre is 12 dB.
    policy, rule = (
        index(env, effective_snr_db=-1.0),
        make_baseline("channel-aware", env, max_snr_db=12),
    )
    asked = rule.act(observations)
    assert 0 < asked.mean() < 1
    np.testing.assert_array_equal(policy.act(observations), asked)


@pytest.mark.parametrize(
    "name", ["DataScheduling-v0", "DataSchedulingDevice-v0", "DataSchedulingBatch-v0"]
)
def test_the_sample_of_the_largest_score_uploads(name: str) -> None:
    env = made(name, 6)
    observations, _ = env.reset(seed=0)
    masks = env.action_masks() if name == "DataScheduling-v0" else None
    by_channel = index(env, devices__snr_db=1.0).act(observations, masks)
    best = Observation(env.tables, observations).device("snr_db").argmax(axis=-1)
    if by_channel.ndim > 1:
        np.testing.assert_array_equal(by_channel.argmax(axis=-1), best)
    else:
        per_device = env.config.buffer_size if name == "DataScheduling-v0" else 1
        np.testing.assert_array_equal(by_channel // per_device, best)


def test_update_scheduling_takes_positive_scores_and_says_who_takes_part() -> None:
    env = made("UpdateScheduling-v0", 8)
    observations, _ = env.reset(seed=0)
    seen = Observation(env.tables, observations)
    cheap = seen.device("log_cost") < 0
    weights = {"scores/devices__log_cost": -1.0, "participation/devices__log_cost": 1.0}
    actions = index(env, **weights).act(observations)
    np.testing.assert_array_equal(actions[..., 0] > 0, cheap & (seen.device("participates") > 0))
    np.testing.assert_array_equal(actions[..., 1] > 0, ~cheap)
    # Somebody must.
    nobody = index(env, **{"participation/1": -9.0, **weights}).act(observations)[..., 1] > 0
    np.testing.assert_array_equal(nobody.sum(axis=-1), 1)


def test_batches_are_multiplied() -> None:
    env = made("BatchSlot-v0", 4, max_batch=10_000, samples_per_device=30)
    observations, _ = env.reset(seed=0)
    codec, most = env.problem.codec, Observation(env.tables, observations).device("max_batch")
    rule = make_baseline("optimal-batch-slot", env, scale=1.0)
    for factor in (1.0, 0.5):
        wanted = codec.decode(rule.act(observations)).allocation(most).batch * factor
        actions = index(env, **{"1": float(np.log(factor))}).act(observations)
        batch = codec.decode(actions).allocation(most).batch
        np.testing.assert_allclose(batch, np.clip(wanted, 1, most), atol=1.5)


def test_tasks_follow_the_score() -> None:
    env = made("TaskAllocation-v0", 4)
    observations, _ = env.reset(seed=0)
    seen = Observation(env.tables, observations)
    total = np.rint(seen.system("samples")[..., 0]).astype(int)
    even = env.problem.codec.decode(index(env, devices__arrivals=0.0).act(observations))
    samples = even.samples(total)
    assert (samples.max(axis=-1) - samples.min(axis=-1)).max() <= 1
    skewed = env.problem.codec.decode(index(env, devices__log_room_1=3.0).act(observations))
    strongest = seen.device("log_room_1").argmax(axis=-1)
    np.testing.assert_array_equal(skewed.samples(total).argmax(axis=-1), strongest)


@pytest.mark.parametrize(("place", "cap"), [(-1.0, 0), (0.2, 3), (1.0, 5), (40.0, 5)])
def test_caps_by_their_place(place: float, cap: int) -> None:
    env = made("TaskAllocationStaleness-v0")
    observations, _ = env.reset(seed=0)
    assert env.config.caps == tuple(range(6))
    assert index(env, **{"1": place}).act(observations).tolist() == [cap]


@pytest.mark.parametrize("name", ["Offloading-v0", "OffloadingGrid-v0", "OffloadingDiscrete-v0"])
@pytest.mark.parametrize(("score", "part"), [(-1.0, 0.0), (0.2, 0.6), (7.0, 1.0)])
def test_offloaded_parts(name: str, score: float, part: float) -> None:
    env = made(name, period=1)
    observations, _ = env.reset(seed=0)
    codec = env.problem.codec
    decided = codec.decode(index(env, **{"1": score}).act(observations))
    offloaded = getattr(decided, "offloaded", decided)
    has_task = Observation(env.tables, observations).device("task_mbit") > 0
    assert has_task.any()
    np.testing.assert_allclose(offloaded[has_task], part, atol=1e-6)


def test_weights_come_from_a_file_too(tmp_path: Path) -> None:
    env = made("Retransmission-v0")
    path = tmp_path / "weights.yaml"
    path.write_text("effective_snr_db: -1\nmargin * left: 0.5\n")
    policy = make_baseline("index", env, weights=str(path))
    assert policy.parameters.weights == {"effective_snr_db": -1.0, "margin * left": 0.5}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "has no weights: edge-gym tune ID --method cma"),
        ({"colour": 1.0}, "not observed here: colour$"),
        ({f"column{i}": 1.0 for i in range(6)}, "column3 and 2 more"),
        ({"margin": float("nan")}, "the weight of 'margin'"),
        ({"margin": "1"}, "the weight of 'margin'"),
        ([1.0], "a mapping or a file's path"),
        ("no/such.yaml", "no file of weights 'no/such.yaml'"),
    ],
)
def test_bad_weights_are_explained(weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_baseline("index", made("Retransmission-v0"), weights=weights)
