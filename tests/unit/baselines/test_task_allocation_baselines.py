"""The rules of task allocation against their definitions, and what they are good for."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kstest

from edge_gym.baselines.base import Baseline, RandomPolicy
from edge_gym.baselines.task_allocation import RULES as TASK_RULES
from edge_gym.baselines.task_allocation import HeterogeneityUnawareSynchronous
from edge_gym.baselines.task_resources import RULES as JOINT_RULES
from edge_gym.core.observation import Observation, ObservationTable
from edge_gym.envs.task_allocation.actions import action_codec
from edge_gym.envs.task_allocation.config import TaskAllocationConfig
from edge_gym.envs.task_allocation.env import TaskAllocationVectorEnv
from edge_gym.envs.task_allocation.observation import observation_tables
from edge_gym.evaluation.rollouts import run_episodes
from edge_gym.solvers import task_resources
from edge_gym.solvers.task_allocation import (
    TaskCosts,
    Tasks,
    equal_allocation,
    exact_allocation,
    exact_updates,
    split_samples,
    suggest_and_improve,
)

K, LANES, TOTAL = 6, 24, 900
RULES: tuple[type[Baseline], ...] = (*TASK_RULES, *JOINT_RULES)
STALENESS, JOINT = {"actions": "staleness"}, {"actions": "joint"}
RISK = {"drop_out": 0.3}
COPIES = {"redundancy": 2}
FEDERATED = {"learning": "federated", "samples_per_device": 300, "task_share": 0.5}
CAPS = (None, 0, 1, 3)
COSTS = ("base_s", "sample_s", "update_s", "base_j", "sample_j", "update_j", "limit_j")

Array = NDArray[Any]


class Made:
    """What a rule is made for: a configuration and the observation's tables, nothing to run."""

    def __init__(self, lanes: int = LANES, **fields: Any) -> None:
        self.config = TaskAllocationConfig(**{"n_devices": K, **fields})
        self.tables = observation_tables(self.config)
        self.problem = SimpleNamespace(codec=action_codec(self.config))
        self.action_space = self.problem.codec.space
        self.num_envs = lanes
        self.unwrapped = self


def draw(env: Made, seed: int = 0, **changes: Any) -> dict[str, NDArray[np.float32]]:
    """Return random observations of systems that hold all samples."""
    rng, shape = np.random.default_rng(seed), (env.num_envs, env.config.n_devices)
    rate, ghz = rng.uniform(20, 60, shape), rng.uniform(1, 4, shape)
    model, cycles = env.config.model_bits or 0, env.config.cycles_per_sample or 0
    columns = {
        "cpu_ghz": ghz,
        "rate": rate,
        "base_s": 2 * model / rate / 1e6,
        "sample_s": (env.config.sample_bits or 0) / rate / 1e6,
        "update_s": cycles / ghz / 1e9,
        "base_j": 10**2.3 / 1e3 * model / rate / 1e6,
        "sample_j": rng.uniform(0, 1e-4, shape) * (env.config.actions != "joint"),
        "update_j": 1e-28 * cycles * (ghz * 1e9) ** 2,
        "limit_j": rng.uniform(7, 13, shape),
        "own_samples": np.full(shape, TOTAL),
        "drop_out": rng.uniform(0, 0.6, shape),
        "samples": np.full(shape[0], TOTAL),
        **changes,
    }
    parts = {
        "devices": np.zeros((*shape, len(env.tables["devices"])), np.float32),
        "system": np.zeros((shape[0], len(env.tables["system"])), np.float32),
    }
    for name, values in columns.items():
        part = "system" if name == "samples" else "devices"
        parts[part][..., env.tables[part].index(name)] = values
    return parts


def read(env: Any, seen: dict[str, Any], name: str, part: str = "devices") -> Array:
    return np.asarray(env.tables[part].read(seen[part], name), np.float64)


def costs_of(env: Any, seen: dict[str, Any]) -> TaskCosts:
    """Return the costs that the columns mean."""
    return TaskCosts(
        **{name: read(env, seen, name) for name in COSTS},
        max_samples=read(env, seen, "own_samples"),
        cycle_s=np.asarray(env.config.cycle_s),
    )


def totals(env: Any, seen: dict[str, Any]) -> Array:
    return read(env, seen, "samples", "system").astype(np.int64)


def meant(action: Array, total: Array, most: int = 12) -> Tasks:
    """Return the tasks that actions mean, by the largest remainders."""
    weights = np.where(action[..., 0] > -1, np.exp(3 * action[..., 0].astype(float)), 0)
    quota = total[:, None] * weights / weights.sum(axis=1, keepdims=True)
    samples = np.floor(quota).astype(np.int64)
    for lane in range(len(samples)):
        missing = total[lane] - samples[lane].sum()
        samples[lane, np.argsort(samples[lane] - quota[lane], kind="stable")[:missing]] += 1
    return Tasks(samples, np.rint((action[..., 1] + 1) / 2 * most).astype(np.int64))


def make(name: str, env: Any, **parameters: Any) -> Baseline:
    named = [rule for rule in RULES if rule.name == name]
    rule = next((rule for rule in named if rule.applies(env)), named[0])(env, **parameters)
    rule.begin(np.arange(env.num_envs), range(env.num_envs))
    return rule


def tasks_of(name: str, env: Made, seen: dict[str, Any], **parameters: Any) -> Tasks:
    """Return the tasks that the environment would understand."""
    rule = make(name, env, **parameters)
    return meant(rule.act(seen), totals(env, seen), env.config.most_updates)


def assert_tasks(found: Tasks, wanted: Tasks) -> None:
    np.testing.assert_array_equal(found.samples, wanted.samples)
    np.testing.assert_array_equal(found.updates, wanted.updates)


def most_updates(costs: TaskCosts, lane: int, k: int, samples: int) -> int:
    """Return the most updates within time and energy, by counting, 12 at most."""
    c = {name: getattr(costs, name)[lane, k] for name in (*COSTS, "max_samples", "cycle_s")}
    updates = 0
    while 0 < samples <= c["max_samples"] and updates < 12:
        work = (updates + 1) * samples
        seconds = c["update_s"] * work + c["sample_s"] * samples + c["base_s"]
        joules = c["update_j"] * work + c["sample_j"] * samples + c["base_j"]
        if seconds > c["cycle_s"] or joules > c["limit_j"]:
            break
        updates += 1
    return updates


# -------------------------------------------------------------------- rules of Mohammad et al. 2020


@pytest.mark.parametrize("cap", CAPS)
def test_heterogeneity_aware_allocations(cap: int | None) -> None:
    env = Made()
    seen = draw(env)
    costs, spread = costs_of(env, seen), 0
    found, solvers = {}, {"exact": exact_allocation, "suggest-and-improve": suggest_and_improve}
    for method, solve in solvers.items():
        wanted = solve(costs, TOTAL, cap, 5, 12)
        assert (wanted.samples.sum(axis=1) == TOTAL).all()
        found[method] = tasks_of("ha-asyn", env, seen, cap=cap, method=method)
        assert_tasks(found[method], wanted)
        spread = max(spread, np.ptp(wanted.updates, axis=1).max())
    assert spread <= (12 if cap is None else cap)
    sums = [tasks.updates.sum() for tasks in found.values()]
    assert sums[0] >= sums[1]
    assert (sums[0] > sums[1]) == (cap not in (0, 1))
    if cap == 0:
        assert_tasks(tasks_of("ha-sync", env, seen), found["exact"])
    if cap == 1:
        assert_tasks(tasks_of("ha-asyn", env, seen), found["exact"])


@pytest.mark.parametrize("least", [5, 60])
def test_fewest_samples_of_a_learner_are_kept(least: int) -> None:
    env = Made(least_samples=least)
    seen = draw(env)
    for cap in (1, None):
        found = tasks_of("ha-asyn", env, seen, cap=cap)
        wanted = exact_allocation(costs_of(env, seen), TOTAL, cap, least, 12)
        assert_tasks(found, wanted)
        assert found.samples.min() >= least
    assert (found.samples.min() < 60) == (least < 60)


@pytest.mark.parametrize("cap", CAPS)
def test_unaware_allocations_are_equal(cap: int | None) -> None:
    env = Made()
    own = np.full((LANES, K), TOTAL + 5)
    own[::2, 1] = 40
    limits = np.random.default_rng(1).uniform(2, 14, (LANES, K))
    seen = draw(env, samples=np.full(LANES, TOTAL + 5), own_samples=own, limit_j=limits)
    costs, ours = costs_of(env, seen), tasks_of("hu-asyn", env, seen, cap=cap)
    if cap == 0:
        assert_tasks(tasks_of("hu-sync", env, seen), ours)
    if cap is None:
        assert_tasks(tasks_of("hu-asyn", env, seen), ours)
    stragglers = 0
    for lane in range(LANES):
        share = [151] * 5 + [150]
        held = [min(share[k], own[lane, k]) for k in range(K)]
        assert ours.samples[lane].sum() == TOTAL + 5
        # What is beyond own samples goes where it changes nothing.
        for k in range(K):
            free = ours.updates[lane, k] == 0 or held[k] < share[k]
            assert ours.samples[lane, k] == share[k] or (free and lane % 2 == 0)
        possible = [most_updates(costs, lane, k, held[k]) for k in range(K)]
        slowest = min(possible)
        wanted = [u if cap is None else min(u, slowest + cap) for u in possible]
        assert ours.updates[lane].tolist() == wanted
        stragglers += slowest == 0
    assert 0 < stragglers < LANES
    wanted = equal_allocation(costs, TOTAL + 5, cap)
    np.testing.assert_array_equal(ours.updates, np.minimum(wanted.updates, 12))
    np.testing.assert_array_equal(ours.samples[1::2], wanted.samples[1::2])


def test_the_choice_nearest_to_the_cap_is_taken() -> None:
    env = Made(**STALENESS, caps=(0, 2, 5))
    seen = draw(env)
    for cap, index in ((0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (9, 2), (None, 2)):
        assert make("ha-asyn", env, cap=cap).act(seen).tolist() == [index] * LANES
    assert make("ha-sync", env).act(seen).tolist() == [0] * LANES
    assert make("ha-asyn", Made(**STALENESS)).act(seen).tolist() == [1] * LANES


# ----------------------------------------------------------------------------------------- our own


def test_random_shares_are_uniform_and_follow_from_the_seed() -> None:
    env = Made(lanes=150)
    seen = draw(env, samples=np.full(150, 60_000), own_samples=np.full((150, K), 60_000))
    costs, rule = costs_of(env, seen), make("random-shares", env)
    runs = []
    for seeds in (range(150), range(150), range(1, 151)):
        rule.begin(np.arange(150), list(seeds))
        runs.append([meant(rule.act(seen), totals(env, seen)) for _ in range(4)])
    samples = np.array([[tasks.samples for tasks in run] for run in runs])
    np.testing.assert_array_equal(samples[0], samples[1])
    # Lane i seeded s is lane i + 1 seeded so.
    np.testing.assert_array_equal(samples[0][:, 1:], samples[2][:, :-1])
    assert (samples.sum(axis=-1) == 60_000).all()
    # One of K uniform shares is more than x with the probability (1 - x)^(K - 1).
    for k in range(K):
        shares = samples[0][..., k].ravel() / 60_000
        assert kstest((1 - shares) ** (K - 1), "uniform").pvalue > 0.001
    small = draw(env)
    tasks = meant(make("random-shares", env).act(small), totals(env, small))
    costs = costs_of(env, small)
    largest = tasks.samples.max(axis=1)
    for lane, k in np.ndindex(150, K):
        wanted = most_updates(costs, lane, k, tasks.samples[lane, k])
        # Shares below exp(-6) of the largest are raised.
        if tasks.samples[lane, k] > largest[lane] / 400 + 1:
            assert tasks.updates[lane, k] == wanted
    assert len(np.unique(tasks.updates)) > 5


def test_random_shares_beyond_own_samples_change_nothing_else() -> None:
    env = Made(lanes=150)
    own = np.random.default_rng(1).integers(30, 400, (150, K))
    free, limited = (
        tasks_of("random-shares", env, draw(env, own_samples=n)) for n in (TOTAL + 0 * own, own)
    )
    # Shares below exp(-6) of the largest are raised.
    plain = free.samples.min(axis=1) > free.samples.max(axis=1) / 300
    within = (free.samples < own) & plain[:, None]
    np.testing.assert_array_equal(limited.samples[within], free.samples[within])
    np.testing.assert_array_equal(limited.updates[within], free.updates[within])
    assert (limited.samples >= own)[~within & plain[:, None]].all()
    assert plain.sum() > 100
    assert 0.5 < within[plain].mean() < 0.9


@pytest.mark.parametrize("updates", [1, 2, 4])
def test_the_strongest_are_filled_one_after_the_other(updates: int) -> None:
    env = Made()
    seen = draw(env, limit_j=np.random.default_rng(1).uniform(2, 13, (LANES, K)))
    costs, found = costs_of(env, seen), tasks_of("strongest-learners", env, seen, updates=updates)
    if updates == 1:
        assert_tasks(tasks_of("strongest-learners", env, seen), found)
    numbers = set()
    for lane in range(LANES):
        rooms = [
            max(n for n in range(TOTAL + 1) if not n or most_updates(costs, lane, k, n) >= updates)
            for k in range(K)
        ]
        left, wanted = TOTAL, [0] * K
        ranking = sorted(range(K), key=lambda k: -rooms[k])
        for k in ranking:
            wanted[k] = min(rooms[k], left)
            left -= wanted[k]
        wanted[ranking[-1]] += left
        smallest = max(wanted) / 403
        assert min(n for n in wanted if n) > smallest
        assert found.samples[lane].tolist() == wanted
        possible = [most_updates(costs, lane, k, wanted[k]) for k in range(K)]
        assert found.updates[lane].tolist() == possible
        numbers.add(sum(n > 0 for n in wanted))
    assert len(numbers) > 1 or updates == 4


def test_who_gets_little_does_not_take_from_the_strongest() -> None:
    """The last one gets fewer samples than an action can say beside the first one's."""
    env = Made(lanes=1, n_devices=3, cpu_groups_hz=None, least_samples=1)
    own = np.array([[899, 2, 1]])
    seen = draw(
        env, own_samples=own, update_s=np.full((1, 3), 1e-6), update_j=np.full((1, 3), 1e-6)
    )
    found = tasks_of("strongest-learners", env, seen)
    assert found.samples.sum() == TOTAL
    assert found.samples[0, 0] <= 899
    assert found.updates[0, 0] == 12


def test_the_last_one_filled_gets_the_fewest_samples_of_a_learner_at_least() -> None:
    """What it lacks comes from those before it, the nearest first, which keep as much."""

    def filled(own: list[int], total: int, least: int) -> list[int]:
        n = len(own)
        fields: dict[str, Any] = {"n_devices": n, "cpu_groups_hz": None, "least_samples": least}
        env = Made(lanes=1, **fields)
        cheap = {"update_s": np.full((1, n), 1e-6), "update_j": np.full((1, n), 1e-6)}
        samples = np.array([total])
        seen = draw(env, own_samples=np.array([own]), samples=samples, **cheap)
        rule = make("strongest-learners", env)
        costs = costs_of(env, seen)
        tasks: Tasks = rule.tasks(Observation(env.tables, seen), costs, samples)  # type: ignore[attr-defined]
        return tasks.samples[0].tolist()

    assert filled([30, 20, 20], 55, 5) == [30, 20, 5]
    assert filled([30, 20, 20], 52, 5) == [30, 17, 5]
    assert filled([30, 6, 6], 38, 6) == [26, 6, 6]
    assert filled([6, 30, 20], 50, 5) == [0, 30, 20]
    # Who cannot hold as many is not among them; nor is the last where those before have no more.
    assert filled([30, 4, 20], 52, 5) == [30, 0, 20]
    assert filled([6, 6, 6], 13, 6) == [6, 6, 0]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {**RISK, "least_samples": 40},
        {**FEDERATED, "least_samples": 20, "size_spread": 0.5},
        {**RISK, **COPIES, "least_samples": 50},
        {**JOINT, "least_samples": 40},
        {**JOINT, **FEDERATED, "size_spread": 0.5},
    ],
)
def test_every_rule_keeps_16d_and_16g(fields: dict[str, Any]) -> None:
    """Mohammad et al. (2020): the d_k sum to d, and whoever takes part has d_l at least."""
    env, _ = begin(30, **fields)
    problem, least = env.problem, env.config.least_samples
    tried = few = 0
    for rule in RULES:
        if not rule.applies(env):
            continue
        grid = rule.grid_for(env.config)
        for values in itertools.product(*grid.values()):
            observation, _ = env.reset(seed=0)
            acting = make(rule.name, env, **dict(zip(grid, values, strict=True)))
            given: list[Array] = []
            decide = problem.decide

            def deciding(*arguments: Any, kept: list[Array] = given, decide: Any = decide) -> Any:
                found = decide(*arguments)
                kept.append(found[0])
                return found

            problem.decide = deciding
            env.step(acting.act(observation))
            problem.decide = decide
            np.testing.assert_array_equal(given[0].sum(axis=1), problem.total)
            taking = problem.updates > 0
            assert (problem.samples[taking] >= least).all(), (rule.name, values)
            tried += taking.sum()
            few += (problem.samples[taking] < 2 * least).sum()
    assert tried > 0
    # Some have hardly more, so that it is not by chance.
    assert few > 0 or fields == {**RISK, **COPIES, "least_samples": 50}


@pytest.mark.parametrize(("bound", "cap"), [(0.25, 1), (0.125, 0), (0.625, 1), (0.0, 1)])
def test_those_that_drop_out_often_are_left_out(bound: float, cap: int) -> None:
    env = Made(**RISK)
    drop_out = np.random.default_rng(3).uniform(0, 0.6, (LANES, K))
    # One in every lane is just reliable enough, unless nobody is.
    drop_out[:, 0] = max(bound, 0.01)
    # Whoever takes part holds all samples for one update.
    seen = draw(env, drop_out=drop_out, limit_j=np.full((LANES, K), 100.0), update_s=1e-3)
    found = tasks_of("reliable-links", env, seen, max_drop_out=bound, cap=cap)
    costs, counts = costs_of(env, seen), set()
    for lane in range(LANES):
        reliable = read(env, seen, "drop_out")[lane] <= bound
        assert reliable[0] == (bound > 0)
        taking = np.flatnonzero(reliable) if reliable.any() else np.arange(K)
        alone = TaskCosts(**{n: getattr(costs, n)[lane, taking] for n in vars(costs)})
        wanted = exact_allocation(alone, TOTAL, cap, 5, 12)
        assert wanted.samples.sum() == TOTAL
        np.testing.assert_array_equal(found.samples[lane, taking], wanted.samples)
        np.testing.assert_array_equal(found.updates[lane, taking], wanted.updates)
        others = np.setdiff1d(np.arange(K), taking)
        assert not found.samples[lane, others].any()
        assert not found.updates[lane, others].any()
        counts.add(len(taking))
    assert counts == {K} if bound in (0.0, 0.625) else len(counts) > 2


def test_groups_do_what_all_of_their_members_can() -> None:
    for fields, r in (({}, 2), ({"redundancy": 3}, 3)):
        env = Made(**{**RISK, **COPIES, **fields})
        seen = draw(env, limit_j=np.random.default_rng(1).uniform(15, 30, (LANES, K)))
        costs, g = costs_of(env, seen), K // r
        for cap in (0, 1, None):
            found = tasks_of("coded-redundancy", env, seen, cap=cap)
            table = costs.whole_capacities(12).reshape(LANES, g, r, 12).min(axis=2)
            updates = exact_updates(table, TOTAL, cap, 5)
            rooms = np.take_along_axis(table, updates[..., None] - 1, axis=2)[..., 0]
            samples = split_samples(rooms, TOTAL, 5)
            enough = table[..., 0].sum(axis=1) >= TOTAL
            assert enough.sum() >= LANES / 2
            np.testing.assert_array_equal(found.samples[enough, ::r], samples[enough])
            assert not np.delete(found.samples, np.s_[::r], axis=1).any()
            np.testing.assert_array_equal(
                found.updates[enough], np.repeat(updates, r, axis=1)[enough]
            )
            held = np.repeat(found.samples[:, ::r], r, axis=1)
            for lane, k in np.ndindex(LANES, K):
                assert found.updates[lane, k] <= most_updates(costs, lane, k, held[lane, k])


# ------------------------------------------------------------------- where samples are too many


def test_one_gives_way_where_not_all_samples_fit() -> None:
    """Actions share all samples out, so that somebody has to take what does not fit."""
    env = Made(lanes=60)
    limits = np.random.default_rng(2).uniform(0, 5, (60, K))
    seen = draw(env, limit_j=limits, samples=np.full(60, 2000), own_samples=np.full((60, K), 2000))
    costs = costs_of(env, seen)
    wanted = exact_allocation(costs, 2000, 1, 5, 12)
    short = wanted.samples.sum(axis=1) < 2000
    found = tasks_of("ha-asyn", env, seen)
    idle = (wanted.updates == 0).any(axis=1)
    assert (short & idle).any()
    assert (short & ~idle).any()
    for lane in range(60):
        if not short[lane]:
            assert_tasks(Tasks(*(a[lane] for a in found)), Tasks(*(a[lane] for a in wanted)))
            continue
        changed = np.flatnonzero(found.samples[lane] != wanted.samples[lane])
        rest = 2000 - wanted.samples[lane].sum()
        (taker,) = changed
        assert found.samples[lane, taker] == wanted.samples[lane, taker] + rest
        assert found.updates[lane, taker] == 0
        if idle[lane]:
            assert wanted.updates[lane, taker] == 0
        else:
            assert wanted.samples[lane, taker] == wanted.samples[lane].min()
        others = np.arange(K) != taker
        np.testing.assert_array_equal(found.updates[lane, others], wanted.updates[lane, others])


# ------------------------------------------------------------------------------- in the environment

FEW = {"validation_size": 10, "test_size": 10}


def begin(lanes: int, **fields: Any) -> tuple[Any, Any]:
    """Return an environment in which cycles train nothing, and what is observed at first."""
    env: Any = TaskAllocationVectorEnv(lanes, **{**FEW, **fields})
    observation, _ = env.reset(seed=0)
    env.problem.train = lambda *arguments: None
    return env, observation


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {**RISK, "fading": "cycle"},
        {**RISK, **COPIES},
        {**RISK, **COPIES, **FEDERATED, "size_spread": 0.5},
        {**FEDERATED, "size_spread": 0.5},
        {"cycle_s": 2.5, "energy_limit_j": 3.0},
        JOINT,
        {**JOINT, **FEDERATED, "fading": "cycle", "size_spread": 0.5},
    ],
)
def test_all_rules_keep_to_what_learners_can_do(fields: dict[str, Any]) -> None:
    env, _ = begin(40, **fields)
    for rule in RULES:
        if not rule.applies(env):
            continue
        observation, _ = env.reset(seed=0)
        acting = make(rule.name, env)
        nothing = 0
        for _ in range(2):
            observation, *_, info = env.step(acting.act(observation))
            assert not info["lowered"].any(), rule.name
            spent = env.problem.spent_j / env.problem.limit_j
            assert max(spent.max(), env.problem.finish_s.max() / env.config.cycle_s) <= 1 + 1e-9
            nothing += (info["updates"] == 0).sum()
        # Whom a rule counts on may all be lost; unaware allocations let everybody wait for one.
        if rule.name not in ("hu-sync", "hu-asyn"):
            assert nothing <= (8 if env.config.drop_out else 0), rule.name


def test_unreliable_links_do_not_keep_samples_from_reliable_ones() -> None:
    """Where the reliable ones cannot hold all samples, they still hold what they can."""
    env, observation = begin(60, **RISK)
    costs, rule = costs_of(env, observation), make("reliable-links", env)
    reliable = read(env, observation, "drop_out") <= 0.3
    rooms = np.where(reliable, np.floor(costs.capacity(1.0)), 0).sum(axis=1)
    assert (rooms < 1500).mean() > 0.2
    env.problem.drop_out[:] = 0
    *_, info = env.step(rule.act(observation))
    np.testing.assert_array_equal(info["samples"], np.minimum(rooms, 1500))


@pytest.mark.parametrize("fields", [{}, {"cycle_s": 14.0}])
def test_joint_allocations_have_the_most_updates(fields: dict[str, Any]) -> None:
    means = {}
    for name in ("task-only", "resource-only", "joint-task-resource"):
        for cap in (0, 1, None):
            env, observation = begin(32, **JOINT, **fields)
            rule = make(name, env, cap=cap)
            action = rule.act(observation)
            *_, info = env.step(action)
            assert not info["lowered"].any()
            assert (info["samples"] == 1500).all()
            assert (info["staleness"] <= (12 if cap is None else cap)).all()
            assert (info["finish_s"] <= env.config.cycle_s * (1 + 1e-9)).all()
            means[name, cap] = info["updates"]
            if cap == 1:
                default = make(name, env).act(observation)
                np.testing.assert_array_equal(default, action)
            if name == "task-only":
                wanted = exact_allocation(env.problem.costs(np.arange(32)), 1500, cap, 5, 12)
                tasks = meant(action, np.full(32, 1500))
                assert_tasks(tasks, wanted)
                assert (action[..., 2:] == 1).all()
            if name == "resource-only":
                assert (meant(action, np.full(32, 1500)).samples == 150).all()
    for cap in (0, 1, None):
        joint = means["joint-task-resource", cap]
        for name in ("task-only", "resource-only"):
            assert (joint >= means[name, cap]).all()
            assert joint.mean() > means[name, cap].mean() + 0.3


def test_joint_rules_are_the_solutions_of_what_is_observed() -> None:
    env = Made(**JOINT)
    seen = draw(env)
    bit_s, hz = read(env, seen, "rate") * 1e6, read(env, seen, "cpu_ghz") * 1e9
    watt = 10**2.3 / 1e3
    limits = task_resources.ResourceLimits(
        model_bits=np.asarray(8_974_080.0),
        sample_bits=np.asarray(125_440.0),
        efficiency=bit_s / 5e6,
        gain_per_noise=(2 ** (bit_s / 5e6) - 1) * 5e6 / watt,
        max_power_w=np.asarray(watt),
        max_cpu_hz=hz,
        cycles_per_sample=np.asarray(22_474_720.0),
        capacitance=np.asarray(1e-28),
        limit_j=read(env, seen, "limit_j") * (1 - 1e-5),
        max_samples=np.asarray(float(TOTAL)),
        cycle_s=np.asarray(10 * (1 - 1e-5)),
        band_hz=np.asarray(K * 5e6),
    )
    wanted = {
        "joint-task-resource": task_resources.joint_allocation(limits, TOTAL, 1, 5, 12),
        "resource-only": task_resources.resource_allocation(limits, TOTAL, 1, 12),
    }
    for name, (tasks, resources) in wanted.items():
        action = make(name, env).act(seen)
        found = meant(action, totals(env, seen))
        np.testing.assert_array_equal(found.updates, tasks.updates)
        # Samples are split by rooms that rounding may change by one.
        assert np.abs(found.samples - tasks.samples).max() <= 1
        bands = np.exp(3 * action[..., 2].astype(float))
        bands *= K * 5e6 / bands.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(bands, resources.band_hz, rtol=1e-3)
        power = watt * 10 ** (3 * (action[..., 3].astype(float) + 1) / 2 - 3)
        np.testing.assert_allclose(power, np.maximum(resources.power_w, watt / 1e3), rtol=1e-2)
        cpu = hz * (0.05 + 0.95 * (action[..., 4] + 1) / 2)
        np.testing.assert_allclose(cpu, resources.cpu_hz, rtol=1e-2)
        assert (resources.cpu_hz < 0.9 * hz).any()


# ------------------------------------------------------------------------------- rules in general


def test_rules_act_on_any_leading_axes() -> None:
    for fields in ({}, STALENESS, JOINT, RISK, {**RISK, **COPIES}):
        env, alone = Made(**fields), Made(lanes=1, **fields)
        seen = draw(env)
        for rule in RULES:
            if not rule.applies(env):
                continue
            found = make(rule.name, env).act(seen)
            one = make(rule.name, alone)
            one.begin(np.zeros(1, np.int64), [3])
            single = {part: values[3] for part, values in seen.items()}
            np.testing.assert_allclose(one.act(single), found[3], rtol=1e-5, atol=1e-6)
            one.begin(np.zeros(1, np.int64), [3])
            nested = {part: values[None] for part, values in single.items()}
            np.testing.assert_allclose(one.act(nested), found[3][None], rtol=1e-5, atol=1e-6)


def test_where_rules_apply() -> None:
    aware = {"ha-asyn", "ha-sync"}
    direct = aware | {"hu-asyn", "hu-sync", "random-shares", "strongest-learners"}
    cases: list[tuple[dict[str, Any], set[str]]] = [
        ({}, direct),
        (FEDERATED, direct),
        (RISK, direct | {"reliable-links"}),
        (COPIES, {"coded-redundancy"}),
        ({**RISK, **COPIES}, {"coded-redundancy"}),
        (STALENESS, aware),
        ({**RISK, **STALENESS}, aware),
        (JOINT, {"random-shares", "task-only", "resource-only", "joint-task-resource"}),
    ]
    for fields, wanted in cases:
        env = Made(**fields)
        found = [rule.name for rule in RULES if rule.applies(env)]
        assert set(found) == wanted
        assert len(found) == len(wanted)


def test_rules_apply_to_other_problems_that_offer_the_same() -> None:
    """What counts are columns, fields and the meaning of actions, no class of configurations."""
    own, other = Made(), Made()
    other.config = SimpleNamespace(cycle_s=1.0, least_samples=2, most_updates=5, n_devices=K)  # type: ignore[assignment]
    names = {rule.name for rule in RULES if rule.applies(other)}
    assert names == {rule.name for rule in RULES if rule.applies(own)}
    make("ha-asyn", other).act(draw(own))
    other.tables = {**own.tables, "devices": ObservationTable(*list(own.tables["devices"])[1:])}
    assert other.tables["devices"].columns[0].name == "rate"
    assert {rule.name for rule in RULES if rule.applies(other)} == names
    other.tables = {**own.tables, "devices": ObservationTable(*list(own.tables["devices"])[3:])}
    assert not any(rule.applies(other) for rule in RULES)
    with pytest.raises(ValueError, match="there is no column 'base_s' of devices"):
        make("ha-asyn", other)


def test_every_point_of_a_grid_is_possible() -> None:
    sizes = {}
    for fields in ({}, JOINT, RISK, COPIES):
        env = Made(**fields)
        seen = draw(env)
        for rule in RULES:
            if not rule.applies(env):
                continue
            points = rule.points(env.config)
            for point in points:
                action = make(rule.name, env, **point).act(seen)
                assert np.isfinite(action).all()
                assert (np.abs(action) <= 1).all()
            sizes[rule.name] = len(points)
    assert {name for name, n in sizes.items() if n == 0} == {"ha-sync", "hu-sync", "random-shares"}


@pytest.mark.parametrize(
    ("name", "parameters", "error", "message"),
    [
        ("ha-asyn", {"cap": -1}, ValueError, "cap must be an integer at least 0, got -1"),
        ("ha-asyn", {"cap": 1.5}, ValueError, "cap must be an integer at least 0"),
        ("ha-asyn", {"method": "dual"}, ValueError, "method must be one of exact, suggest-and-imp"),
        ("ha-sync", {"cap": 1}, TypeError, "'ha-sync' has no parameter 'cap'; it has none"),
        ("hu-asyn", {"cap": "1"}, ValueError, "cap must be an integer at least 0"),
        ("hu-sync", {"cap": 1}, TypeError, "'hu-sync' has no parameter 'cap'; it has none"),
        ("strongest-learners", {"updates": 0}, ValueError, "updates must be an integer at least 1"),
        ("reliable-links", {"max_drop_out": 1.1}, ValueError, "max_drop_out must be a finite"),
        ("reliable-links", {"cap": -2}, ValueError, "cap must be an integer at least 0"),
    ],
)
def test_wrong_parameters_are_named(
    name: str, parameters: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(name, Made(**RISK), **parameters)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "takes a learner of 6 GHz 12.1 J, it has 10 J on average in a cycle"),
        (
            {"energy_limit_j": 100.0, "cycle_s": 4.0},
            "takes a learner of 0.7 GHz 4.82 s, it has 4 s",
        ),
        ({"energy_limit_j": 100.0}, None),
        ({"energy_limit_j": 20.0, "cycle_s": 20.0}, None),
        ({"cpu_groups_hz": (2.4e9, 1.4e9), "energy_limit_j": 6.0}, None),
        ({"samples_per_device": 100}, None),
        ({"samples_per_device": 300, "task_share": 0.5}, "equal part of the samples, 150,"),
    ],
)
def test_hu_sync_says_where_it_cannot_train(fields: dict[str, Any], why: str | None) -> None:
    """What its note says of a configuration is what happens in episodes."""
    env, observation = begin(60, **fields)
    note = HeterogeneityUnawareSynchronous.note(env.config)
    *_, info = env.step(make("hu-sync", env).act(observation))
    trains = (info["updates"] > 0).mean()
    if why is None:
        assert note is None
        assert trains > 0.5
    else:
        assert note is not None
        assert why in note
        assert trains < 0.02
    assert not any(rule.note(env.config) for rule in RULES if rule.name != "hu-sync")


def test_aware_allocations_learn_more_than_others() -> None:
    """Accuracy gained in three cycles at T = E = 10; the same episodes for all."""
    returns = {}
    fields = {"cycles": 3, "test_size": 10, "reward": "accuracy"}
    for name in ("ha-asyn", "ha-sync", "hu-sync", "random"):
        env: Any = TaskAllocationVectorEnv(16, autoreset_mode="Disabled", **fields)
        rule = RandomPolicy(env) if name == "random" else make(name, env)
        returns[name] = run_episodes(env, rule, range(16)).returns
    best = returns.pop("ha-asyn")
    # In these and 16 other episodes they gain 0.036 and 0.044, 0.72 and 0.71, 0.06 and 0.08 less.
    for name, margin in (("ha-sync", 0.01), ("hu-sync", 0.5), ("random", 0.02)):
        assert (best - returns[name]).mean() > margin, name
    # With time for everybody to wait for the slowest, they learn, but 0.26 and 0.25 less.
    slow = {**fields, "cycle_s": 20.0, "energy_limit_j": 20.0}
    env = TaskAllocationVectorEnv(8, autoreset_mode="Disabled", **slow)
    pair = [run_episodes(env, make(name, env), range(8)).returns for name in ("ha-asyn", "hu-sync")]
    assert pair[1].min() > 0.2
    assert (pair[0] - pair[1]).mean() > 0.1
