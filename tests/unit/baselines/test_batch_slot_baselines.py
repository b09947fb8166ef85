"""The rules of batch and slot allocation against their definitions, and what they are good for."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_gym.baselines.base import Baseline
from edge_gym.baselines.batch_slot import RULES
from edge_gym.core.observation import ObservationTable
from edge_gym.envs.batch_slot.actions import DirectCodec, action_codec, global_batches
from edge_gym.envs.batch_slot.config import BatchSlotConfig
from edge_gym.envs.batch_slot.env import BatchSlotEnv, BatchSlotVectorEnv
from edge_gym.envs.batch_slot.observation import observation_tables
from edge_gym.evaluation.rollouts import run_episodes
from edge_gym.solvers import batch_slot as allocation

K, LANES = 6, 24
BY_NAME = {rule.name: rule for rule in RULES}
GPU = {"device": "gpu", "gpu_threshold": 16, "gpu_base_latency_s": 3e-3}
GLOBAL = {"actions": "global", "choices": 12}
WHOLE = {"max_batch": None}


class Made:
    """What a rule is made for: a configuration and the observation's tables, nothing to run."""

    def __init__(self, lanes: int = LANES, **fields: Any) -> None:
        self.config = BatchSlotConfig(**fields)
        self.tables = observation_tables(self.config)
        self.codec = action_codec(self.config)
        self.action_space: Any = self.codec.space
        self.problem = self
        self.num_envs = lanes
        self.unwrapped = self


def make(name: str, env: Any, **parameters: Any) -> Baseline:
    return BY_NAME[name](env, **parameters)


def draw(env: Made, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return random observations in which batches are clipped here and there."""
    rng, k = np.random.default_rng(seed), env.config.n_devices
    shape = env.num_envs, k
    columns = {
        "upload_s": rng.exponential(1e-3, shape) + 2e-4,
        "download_s": rng.exponential(1e-3, shape) + 2e-4,
        "speed": rng.uniform(1e3, 8e3, shape),
        "update_s": rng.uniform(1e-5, 2e-4, shape),
        "max_batch": rng.integers(20, 129, shape),
        "time_left": rng.uniform(0, env.config.budget_s, shape[0]),
    }
    parts = {
        "devices": np.zeros((*shape, len(env.tables["devices"])), np.float32),
        "system": np.zeros((shape[0], len(env.tables["system"])), np.float32),
    }
    for name, values in columns.items():
        part = next(part for part, table in env.tables.items() if name in table)
        parts[part][..., env.tables[part].index(name)] = values
    return parts


def read(env: Made, seen: dict[str, Any], name: str) -> NDArray[np.float64]:
    part = next(part for part, table in env.tables.items() if name in table)
    return np.asarray(env.tables[part].read(seen[part], name), np.float64)


def costs_of(env: Made, seen: dict[str, Any]) -> allocation.RoundCosts:
    """Return the costs that the columns mean."""
    gpu = env.config.device == "gpu"
    return allocation.RoundCosts(
        slope_s=1 / read(env, seen, "speed"),
        upload_s=read(env, seen, "upload_s"),
        download_s=read(env, seen, "download_s"),
        update_s=read(env, seen, "update_s"),
        max_batch=read(env, seen, "max_batch"),
        base_latency_s=np.asarray(3e-3 * gpu),
        threshold=np.asarray(16.0 * gpu),
    )


def round_s(
    env: Made, seen: dict[str, Any], lane: int, chosen: allocation.Allocation
) -> tuple[list[float], list[float]]:
    """Return when each device of a lane finishes, in both parts, in plain floats."""
    first, second = [], []
    for k in range(K):
        batch, v = chosen.batch[lane, k], read(env, seen, "speed")[lane, k]
        compute = batch / v
        if env.config.device == "gpu":
            compute = 3e-3 + max(batch - 16, 0) / v
        upload = read(env, seen, "upload_s")[lane, k] / chosen.uplink_slot[lane, k]
        download = read(env, seen, "download_s")[lane, k] / chosen.downlink_slot[lane, k]
        first.append(compute + upload)
        second.append(download + read(env, seen, "update_s")[lane, k])
    return first, second


def efficiency(env: Made, seen: dict[str, Any], lane: int, chosen: allocation.Allocation) -> float:
    first, second = round_s(env, seen, lane, chosen)
    return math.sqrt(chosen.batch[lane].sum()) / (max(first) + max(second))


def chosen_by(rule: Baseline, env: Made, seen: dict[str, Any]) -> allocation.Allocation:
    """Return what the environment makes of a rule's action."""
    shares = DirectCodec(env.config).decode(rule.act(seen))
    return shares.allocation(read(env, seen, "max_batch"))


@pytest.mark.parametrize("fields", [{}, GPU])
def test_nothing_near_is_better_than_the_optimum(fields: dict[str, Any]) -> None:
    env = Made(**fields)
    seen, rng = draw(env), np.random.default_rng(1)
    found = chosen_by(make("optimal-batch-slot", env), env, seen)
    most = read(env, seen, "max_batch")
    for lane in range(LANES):
        best = efficiency(env, seen, lane, found)
        first, second = round_s(env, seen, lane, found)
        np.testing.assert_allclose(second, max(second), rtol=1e-5)
        np.testing.assert_allclose(first, max(first), rtol=1e-5)
        for _ in range(40):
            step = rng.integers(-6, 7, K) * (rng.random(K) < 0.5)
            batch = np.clip(found.batch[lane] + step, 1, most[lane])
            slots = [
                weights / weights.sum()
                for weights in (
                    found.uplink_slot[lane] * np.exp(0.05 * rng.standard_normal(K)),
                    found.downlink_slot[lane] * np.exp(0.05 * rng.standard_normal(K)),
                )
            ]
            other = allocation.Allocation(*(np.tile(v, (LANES, 1)) for v in (batch, *slots)))
            # Whole batches may miss the optimum by a little.
            assert efficiency(env, seen, lane, other) < best * (1 + 1e-4)


@pytest.mark.parametrize("scale", [0.3, 1.0, 1.7, 1e-6, 1e6])
@pytest.mark.parametrize("fields", [{}, GPU])
def test_the_scaled_optimum_is_placed_by_the_theorems(fields: dict[str, Any], scale: float) -> None:
    env = Made(**fields)
    seen = draw(env)
    costs = costs_of(env, seen)
    best = allocation.optimal_allocation(costs).global_batch
    total = np.clip(scale * best, K, read(env, seen, "max_batch").sum(axis=1))
    wanted = allocation.optimal_allocation(costs, total, whole=True)
    found = chosen_by(make("optimal-batch-slot", env, scale=scale), env, seen)
    np.testing.assert_array_equal(found.batch, wanted.batch)
    np.testing.assert_array_equal(found.batch.sum(axis=1), np.rint(total))
    np.testing.assert_allclose(found.uplink_slot, wanted.uplink_slot, rtol=1e-5)
    np.testing.assert_allclose(found.downlink_slot, wanted.downlink_slot, rtol=1e-5)


def test_batches_grow_geometrically_with_time() -> None:
    env = Made()
    seen = draw(env)
    left = env.tables["system"].index("time_left")
    best = allocation.optimal_allocation(costs_of(env, seen)).global_batch
    rule = make("growing-batch-slot", env, first=0.2, last=0.8)
    for share, factor in ((1, 0.2), (0.5, 0.4), (0.25, 0.4 * 2**0.5), (0, 0.8)):
        seen["system"][:, left] = share * env.config.budget_s
        found = chosen_by(rule, env, seen).batch.sum(axis=1)
        np.testing.assert_allclose(found, factor * best, atol=0.51)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_best_batches_of_equal_slots_finish_together(scale: float) -> None:
    env = Made()
    seen = draw(env)
    found = chosen_by(make("optimal-batch", env, scale=scale), env, seen)
    np.testing.assert_allclose(found.uplink_slot, 1 / K, rtol=1e-6)
    np.testing.assert_allclose(found.downlink_slot, 1 / K, rtol=1e-6)
    most, speed = read(env, seen, "max_batch"), read(env, seen, "speed")
    compared = 0
    for lane in range(LANES):
        first, _ = round_s(env, seen, lane, found)
        batch = found.batch[lane]
        inside = (batch > 1) & (batch < most[lane])
        finish = np.array(first)[inside]
        # Rounding to whole batches shifts each by less than a sample.
        assert (finish[:, None] - finish <= 2 / speed[lane].min()).all()
        compared += inside.sum() >= 2
    assert compared > LANES / 2
    best = allocation.equal_slots(costs_of(env, seen)).global_batch
    np.testing.assert_allclose(
        found.batch.sum(axis=1), np.clip(scale * best, K, most.sum(axis=1)), atol=0.51
    )


def test_equal_allocation_is_the_best_one() -> None:
    env = Made()
    seen = draw(env)
    found = chosen_by(make("equal-allocation", env), env, seen)
    np.testing.assert_allclose(found.uplink_slot, 1 / K, rtol=1e-6)
    assert (np.ptp(found.batch, axis=1) <= 1).all()
    equal = np.full((LANES, K), 1 / K)
    for lane in range(LANES):
        tried = [
            efficiency(env, seen, lane, allocation.Allocation(np.full((LANES, K), b), equal, equal))
            for b in range(1, int(read(env, seen, "max_batch")[lane].min()) + 1)
        ]
        # Batches that differ by one may lose what the slower half computes more.
        assert efficiency(env, seen, lane, found) >= max(tried) * (1 - 0.03)


@pytest.mark.parametrize("batch", [1, 40, 128, 5000])
def test_fixed_batches_with_optimal_slots_arrive_together(batch: int) -> None:
    env = Made()
    seen = draw(env)
    found = chosen_by(make("optimal-slots", env, batch=batch), env, seen)
    np.testing.assert_array_equal(found.batch, np.minimum(batch, read(env, seen, "max_batch")))
    for lane in range(LANES):
        for finish in round_s(env, seen, lane, found):
            np.testing.assert_allclose(finish, max(finish), rtol=1e-5)


@pytest.mark.parametrize("slots", ["equal", "optimal"])
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("online", {}),
        ("full-batch", {}),
        ("gradient-based", WHOLE),
        ("model-based", {**WHOLE, "update": "model"}),
        ("individual", {**WHOLE, "update": "model", "max_rounds": 1}),
    ],
)
def test_the_documents_batches(name: str, fields: dict[str, Any], slots: str) -> None:
    env = Made(**fields)
    seen = draw(env)
    found = chosen_by(make(name, env, slots=slots), env, seen)
    wanted = np.ones((LANES, K)) if name == "online" else read(env, seen, "max_batch")
    np.testing.assert_array_equal(found.batch, wanted)
    if slots == "equal":
        np.testing.assert_allclose(found.uplink_slot, 1 / K, rtol=1e-6)
        return
    for finish in round_s(env, seen, 0, found):
        np.testing.assert_allclose(finish, max(finish), rtol=1e-5)


def test_random_batches_are_uniform_and_follow_from_the_seed() -> None:
    env = Made(lanes=200)
    seen = draw(env)
    seen["devices"][..., env.tables["devices"].index("max_batch")] = [4, 4, 4, 4, 4, 1]
    rule = make("random-batches", env)
    lanes = np.arange(200)
    runs = []
    for seeds in (range(200), range(200), range(1, 201)):
        rule.begin(lanes, list(seeds))
        runs.append([chosen_by(rule, env, seen).batch for _ in range(4)])
    np.testing.assert_array_equal(runs[0], runs[1])
    # Lane i seeded s is lane i + 1 seeded so.
    np.testing.assert_array_equal(np.array(runs[0])[:, 1:], np.array(runs[2])[:, :-1])
    drawn = np.array(runs[0])
    assert (drawn[..., 5] == 1).all()
    counts = np.bincount(drawn[..., :5].ravel().astype(int), minlength=5)[1:]
    # 4,000 draws; five standard deviations.
    np.testing.assert_allclose(counts / 4000, 0.25, atol=0.035)
    assert np.abs(drawn[0] - drawn[1]).max() > 0


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("optimal-batch-slot", {}),
        ("optimal-batch-slot", {"scale": 0.4}),
        ("growing-batch-slot", {}),
        ("optimal-slots", {"batch": 30}),
        ("online", {}),
        ("full-batch", {}),
        ("random-batches", {}),
    ],
)
def test_the_choice_nearest_to_the_global_batch_is_taken(
    name: str, parameters: dict[str, Any]
) -> None:
    env, direct = Made(**GLOBAL), Made()
    seen = draw(env)
    rules = make(name, env, **parameters), make(name, direct, **parameters)
    for rule in rules:
        rule.begin(np.arange(LANES), range(LANES))
    index = rules[0].act(seen)
    wanted = chosen_by(rules[1], direct, seen).batch.sum(axis=1)
    choices = global_batches(read(env, seen, "max_batch"), 12)
    assert index.shape == (LANES,)
    for lane in range(LANES):
        ratios = [max(c / wanted[lane], wanted[lane] / c) for c in choices[lane]]
        # The direct rule's sum was rounded.
        assert ratios[index[lane]] <= min(ratios) * 1.02
    if name in ("online", "full-batch"):
        assert set(index.tolist()) == ({0} if name == "online" else {11})


def test_rules_act_on_any_leading_axes() -> None:
    for fields in ({}, GLOBAL):
        env, alone = Made(**fields), Made(lanes=1, **fields)
        seen = draw(env)
        for rule in RULES:
            if not rule.applies(env):
                continue
            all_lanes, one = rule(env), rule(alone)
            all_lanes.begin(np.arange(LANES), range(LANES))
            found = all_lanes.act(seen)
            single = {part: values[3] for part, values in seen.items()}
            one.begin(np.zeros(1, np.int64), [3])
            np.testing.assert_allclose(one.act(single), found[3], rtol=1e-5, atol=1e-6)
            one.begin(np.zeros(1, np.int64), [3])
            nested = {part: values[None] for part, values in single.items()}
            np.testing.assert_allclose(one.act(nested), found[3][None], rtol=1e-5, atol=1e-6)


def test_where_rules_apply() -> None:
    both = {"optimal-batch-slot", "growing-batch-slot", "optimal-slots", "online", "random-batches"}
    slots = {"optimal-batch", "equal-allocation"}
    cases: list[tuple[dict[str, Any], set[str]]] = [
        ({}, both | slots | {"full-batch"}),
        (GPU, both | slots | {"full-batch"}),
        (GLOBAL, both | {"full-batch"}),
        (WHOLE, both | slots | {"gradient-based"}),
        ({"update": "model"}, set()),
        ({**WHOLE, "update": "model"}, {"model-based"}),
        ({**WHOLE, "update": "model", "max_rounds": 1}, {"individual"}),
    ]
    for fields, wanted in cases:
        assert {rule.name for rule in RULES if rule.applies(Made(**fields))} == wanted
    other = gym.make("edge_gym/UpdateSchedulingDiscrete-v0")
    assert not any(rule.applies(other) for rule in RULES)


def test_rules_apply_by_what_is_observed() -> None:
    """Without a column that it reads a rule does not apply, whatever the configuration."""
    env = Made()
    columns = [column for column in env.tables["system"] if column.name != "time_left"]
    env.tables = {**env.tables, "system": ObservationTable(*columns)}
    missing = {rule.name for rule in RULES if rule.applies(Made()) and not rule.applies(env)}
    assert missing == {"growing-batch-slot"}
    assert len(BY_NAME) == len(RULES)


def test_every_point_of_a_grid_is_possible() -> None:
    for fields in ({}, GLOBAL, WHOLE, {"max_batch": 50}):
        env = Made(**fields)
        for rule in RULES:
            if not rule.applies(env):
                continue
            grid = rule.grid_for(env.config)
            for point in rule.points(env.config):
                rule(env, **point)
            if "batch" in grid and env.config.max_batch is not None:
                assert max(grid["batch"]) == env.config.max_batch
    assert {1.0} < set(BY_NAME["optimal-batch-slot"].grid["scale"])


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("optimal-batch-slot", {"scale": 0}, "scale must be a finite number"),
        ("growing-batch-slot", {"first": -1}, "first must be a finite number"),
        ("growing-batch-slot", {"last": math.inf}, "last must be a finite number"),
        ("optimal-slots", {"batch": 0}, "batch must be an integer at least 1"),
        ("online", {"slots": "free"}, "slots must be one of equal, optimal"),
    ],
)
def test_wrong_parameters_are_named(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(name, Made(), **parameters)


def with_losses(env: Made, losses: list[float]) -> dict[str, NDArray[np.float32]]:
    seen = draw(env)
    seen["devices"][..., env.tables["devices"].index("batch_loss")] = losses
    return seen


@pytest.mark.parametrize("fields", [{}, GPU, WHOLE])
def test_devices_of_high_losses_have_one_sample(fields: dict[str, Any]) -> None:
    env = Made(**fields)
    # Of median 1.
    seen = with_losses(env, [0.9, 1.0, 1.2, 1.0, 2.1, 0.8])
    unknown = with_losses(env, [0.0] * K)
    for rule in RULES:
        if not rule.applies(env) or rule.name in ("random-batches", "online"):
            continue
        usual, wide, cut, first = (
            chosen_by(rule(env, loss_cutoff=cutoff), env, what)
            for cutoff, what in ((None, seen), (2.2, seen), (1.1, seen), (1.1, unknown))
        )
        for one, other in ((usual, wide), (usual, first)):
            assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))
        assert (cut.batch[:, [2, 4]] == 1).all()
        assert (cut.batch[:, [0, 1, 3, 5]] > 1).mean() > 0.7
        assert (usual.batch[:, [2, 4]] > 1).mean() > 0.7
    rule = make("optimal-batch-slot", env, loss_cutoff=2)
    alone = (chosen_by(rule, env, seen).batch == 1).mean(axis=0)
    assert alone[4] == 1
    assert (np.delete(alone, 4) < 0.4).all()
    kinds = [
        make(name, env, loss_cutoff=cutoff).kind()
        for name in ("optimal-batch-slot", "growing-batch-slot")
        for cutoff in (None, 2)
    ]
    assert kinds == ["published", "adapted", "project", "project"]


def test_a_global_batchsize_leaves_nobody_out() -> None:
    env = Made(**GLOBAL)
    seen = with_losses(env, [0.9, 1.0, 1.2, 1.0, 2.1, 0.8])
    usual, cut = (make("optimal-batch-slot", env, loss_cutoff=n).act(seen) for n in (None, 1.1))
    assert np.array_equal(usual, cut)


# ----------------------------------------------------------------------------- in the environment

SMALL = {"image_size": 7, "hidden_sizes": (8,), "samples_per_device": 150, "validation_size": 50}
# As slow as the default's network on the default's radio.
SLOW = {"cycles_per_flop": 107.0, "bandwidth_hz": 1e5, "budget_s": 1e4, "test_size": 50}


@pytest.mark.parametrize("fields", [{}, {"fading": "mean"}, GPU, GLOBAL])
def test_the_optimum_has_the_highest_efficiency_of_all_rules(fields: dict[str, Any]) -> None:
    """√B/T of every round, in the same rounds."""
    if fields is GPU:
        fields = {**GPU, "gpu_flops": (2e7, 4e7)}
    found: dict[str, NDArray[np.float64]] = {}
    for rule in RULES:
        env: Any = BatchSlotVectorEnv(6, **{**SMALL, **SLOW, **fields})
        if not rule.applies(env):
            continue
        observations, _ = env.reset(seed=0)
        acting = rule(env)
        acting.begin(np.arange(6), range(6))
        rows = []
        for _ in range(4):
            observations, *_, info = env.step(acting.act(observations))
            rows.append(np.sqrt(info["batch"]) / info["round_s"])
        found[rule.name] = np.array(rows)
    best = found.pop("optimal-batch-slot")
    assert len(found) >= 5
    for name, values in found.items():
        # Whole batches and choices, and slots that actions reach, miss the optimum by a little.
        assert (values <= best * 1.03).all(), name
        if name in ("online", "full-batch", "random-batches", "growing-batch-slot"):
            assert values.mean() < 0.97 * best.mean(), name
    if "optimal-batch" in found:
        assert found["equal-allocation"].mean() < found["optimal-batch"].mean() < best.mean()


@pytest.mark.parametrize("fields", [{}, GPU])
def test_the_environment_does_what_the_rule_wants(fields: dict[str, Any]) -> None:
    if fields is GPU:
        fields = {**GPU, "gpu_flops": (2e7, 4e7)}
    env: Any = BatchSlotEnv(**{**SMALL, **SLOW, **fields})
    observation, _ = env.reset(seed=0)
    rule = make("optimal-batch-slot", env)
    for _ in range(3):
        wanted = allocation.optimal_allocation(env.problem.costs(np.zeros(1, np.int64)))
        observation, *_, info = env.step(rule.act(observation))
        assert info["batch"] == pytest.approx(wanted.global_batch[0], abs=0.51)
        took = env.problem.part_s[0]
        np.testing.assert_allclose(took, took.max(axis=1, keepdims=True) * np.ones(K), rtol=1e-4)


def test_the_optimum_learns_faster_than_the_documents_benchmarks() -> None:
    """Budgets in which about fifty best rounds take place; the same episodes for all."""
    fields = {**SMALL, **SLOW, "budget_s": 2.0, "learning_rate": 0.2, "validation_size": 300}
    fields["reward"] = "loss"
    returns = {}
    for name in ("optimal-batch-slot", "online", "full-batch", "random-batches"):
        env: Any = BatchSlotVectorEnv(8, autoreset_mode="Disabled", **fields)
        returns[name] = run_episodes(env, make(name, env), range(8)).returns
    best = returns.pop("optimal-batch-slot")
    for name, values in returns.items():
        assert (best - values).mean() > 2 * (best - values).std(ddof=1) / 8**0.5, name
