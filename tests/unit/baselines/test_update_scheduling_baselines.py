"""The rules of update scheduling against their definitions, and what they are good for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rollouts import NAMES, SMALL, lane_of
from scipy.optimize import minimize

from edge_gym.baselines import BASELINES, applicable_baselines, find_baseline, make_baseline
from edge_gym.baselines.update_aware import ImportanceChannelSampling
from edge_gym.core.observation import Observation, ObservationTable
from edge_gym.envs.update_scheduling.actions import action_codec
from edge_gym.envs.update_scheduling.config import UpdateSchedulingConfig
from edge_gym.envs.update_scheduling.observation import observation_tables
from edge_gym.evaluation import tuning
from edge_gym.evaluation.rollouts import make_lanes, run_episodes

K = 6
SCHEDULING = [name for name in NAMES if name.startswith("UpdateScheduling")]
GRADIENT, LAZY = {"update": "gradient"}, {"mode": "lazy"}
# Devices compute after the server has decided; otherwise that time has passed by then.
LATER = {"indicators": "remembered"}
CHOOSING = {"participation": "agent"}
RISK = {"packet_error": 0.5}
TOP = {"selection": "top", "uploads_per_round": 2}
ACTIONS: dict[str, dict[str, Any]] = {
    "threshold": {"selection": "threshold"},
    "top": TOP,
    "device": {"actions": "device"},
}


class Made:
    """What a rule is made for: a configuration and the observation's tables, nothing to run."""

    spec = None

    def __init__(self, lanes: int = 1, **fields: Any) -> None:
        self.config = UpdateSchedulingConfig(**{"n_devices": K, "participation": "all", **fields})
        self.tables = observation_tables(self.config)
        self.codec = action_codec(self.config)
        self.action_space: Any = self.codec.space
        self.actions_per = "device"
        self.problem = self
        self.num_envs = lanes
        self.unwrapped = self


def observe(env: Made, leading: tuple[int, ...] = (), **columns: Any) -> dict[str, Any]:
    """Fill columns by name, the rest with zeros; all take part unless it is said."""
    columns = {"participates": 1, **columns}
    shapes = {"devices": (*leading, env.config.n_devices), "system": leading}
    parts = {
        part: np.zeros((*shape, len(env.tables[part])), np.float32)
        for part, shape in shapes.items()
    }
    for name, values in columns.items():
        part = next(part for part, table in env.tables.items() if name in table)
        parts[part][..., env.tables[part].index(name)] = values
    return parts


def test_rules_apply_by_what_is_observed() -> None:
    """Without a column that it reads a rule does not apply, whatever the configuration."""
    rules = [rule for named in BASELINES for rule in BASELINES.find(named).rules()]
    whole, env = Made(), Made()
    devices = [column for column in env.tables["devices"] if column.name != "staleness"]
    env.tables = {**env.tables, "devices": ObservationTable(*devices)}
    missing = {rule.name for rule in rules if rule.applies(whole) and not rule.applies(env)}
    assert missing == {"staleness-per-cost", "staleness-importance-per-cost"}


def draw(env: Made, lanes: int, seed: int = 0, **columns: Any) -> dict[str, Any]:
    """Return random observations; uploads often tie."""
    rng = np.random.default_rng(seed)
    shape = (lanes, env.config.n_devices)
    uploads = rng.integers(0, 4, shape)
    return observe(
        env,
        (lanes,),
        indicator=rng.exponential(0.5, shape),
        efficiency=rng.uniform(0.01, 12, shape),
        throughput=np.where(uploads > 0, rng.uniform(0, 6, shape), 0),
        upload_s=rng.exponential(0.01, shape) + 1e-4,
        compute_s=rng.exponential(0.02, shape) + 1e-4,
        compute_j=rng.exponential(1e-3, shape) + 1e-5,
        upload_j=rng.exponential(1e-3, shape) + 1e-5,
        staleness=rng.integers(0, 8, shape),
        uploads=uploads,
        arrivals=np.where(
            uploads > 0, rng.integers(0, 4, shape).clip(max=uploads) / np.maximum(uploads, 1), 1
        ),
        rounds=rng.integers(0, 30, lanes),
        nominal_s=rng.exponential(0.02, shape) + 1e-4,
        mean_efficiency=rng.uniform(0.5, 12, shape),
        samples=rng.integers(20, 100, shape),
        training_loss=rng.exponential(1, shape),
        **({"change": rng.exponential(0.5, shape)} if env.config.tells_change else {}),
        **columns,
    )


Cell = dict[str, float]


def cells(env: Made, seen: dict[str, Any], lane: int) -> list[Cell]:
    """Return what is observed of each device, with the system, as plain floats."""
    system = {
        column.name: value
        for column, value in zip(env.tables["system"], seen["system"][lane].tolist(), strict=True)
    }
    return [
        {
            **system,
            **{
                column.name: value for column, value in zip(env.tables["devices"], row, strict=True)
            },
        }
        for row in seen["devices"][lane].tolist()
    ]


def scheduled_by(
    env: Made, action: NDArray[Any], participating: list[int] | None = None
) -> list[int]:
    """Return whom the environment schedules by an action, of all or of these."""
    if env.config.actions == "device":
        return [int(action)]
    scores = action if action.ndim == 1 else action[:, 0]
    taking_part = range(len(scores)) if participating is None else participating
    ranking = sorted(taking_part, key=lambda k: -scores[k])
    if env.config.selection == "top":
        return ranking[: env.config.uploads_per_round]
    return [k for k in ranking if scores[k] > 0] or ranking[:1]


def seconds(c: Cell) -> float:
    return c["compute_s"] + c["upload_s"]


def joules(c: Cell) -> float:
    return c["compute_j"] + c["upload_j"]


Formula = Callable[[Cell], float]
FORMULAS: list[tuple[str, dict[str, Any], dict[str, Any], Formula]] = [
    ("round-robin", {}, {}, lambda c: -c["uploads"]),
    ("proportional-fair", {}, {}, lambda c: c["efficiency"] / max(c["throughput"], 1e-3)),
    ("channel-aware", {}, {}, lambda c: c["efficiency"]),
    ("channel-aware", {"devices": 5}, LAZY, lambda c: c["efficiency"]),
    ("gradient-norm", {}, GRADIENT, lambda c: c["indicator"]),
    ("model-variation", {"devices": 1}, {}, lambda c: c["indicator"]),
    ("model-age", {}, LAZY, lambda c: c["indicator"]),
    ("model-age", {}, {**LAZY, **GRADIENT}, lambda c: c["indicator"]),
    ("norm-times-rate", {}, {}, lambda c: c["indicator"] * c["efficiency"]),
    (
        "norm-times-rate",
        {"exponent": 0.5, "devices": 4},
        GRADIENT,
        lambda c: c["indicator"] * math.sqrt(c["efficiency"]),
    ),
    ("norm-times-rate", {"exponent": 0}, {}, lambda c: c["indicator"]),
    ("gradient-divergence", {"devices": 2}, GRADIENT, lambda c: c["change"]),
    ("gradient-divergence", {}, {}, lambda c: c["change"]),
    (
        "age-times-channel",
        {"exponent": 2},
        LAZY,
        lambda c: c["indicator"] * c["efficiency"] ** 2,
    ),
    ("importance-per-cost", {}, {}, lambda c: c["indicator"] / c["upload_s"]),
    ("importance-per-cost", {}, LATER, lambda c: c["indicator"] / seconds(c)),
    (
        "importance-per-cost",
        {"devices": 4},
        {"indicators": "free"},
        lambda c: c["indicator"] / seconds(c),
    ),
    ("importance-per-cost", {"exponent": 0.5}, LAZY, lambda c: c["indicator"] / joules(c) ** 0.5),
    ("staleness-per-cost", {}, {}, lambda c: (1 + c["staleness"]) / c["upload_s"]),
    ("staleness-per-cost", {}, LATER, lambda c: (1 + c["staleness"]) / seconds(c)),
    (
        "staleness-per-cost",
        {"exponent": 0.25},
        LAZY,
        lambda c: (1 + c["staleness"]) / joules(c) ** 0.25,
    ),
    (
        "staleness-importance-per-cost",
        {},
        LATER,
        lambda c: math.log(1 + c["staleness"]) + math.log(c["indicator"] / seconds(c) ** 1.5),
    ),
    (
        "staleness-importance-per-cost",
        {"exponent": 0.5, "importance": 2, "devices": 2},
        LAZY,
        lambda c: (1 + c["staleness"]) * c["indicator"] ** 2 / joules(c) ** 0.5,
    ),
]


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize(("name", "parameters", "fields", "formula"), FORMULAS)
def test_the_largest_index_is_scheduled(
    name: str, parameters: dict[str, Any], fields: dict[str, Any], formula: Formula, actions: str
) -> None:
    env = Made(**fields, **ACTIONS[actions])
    rule = make_baseline(name, env, **parameters)
    seen = draw(env, 60)
    found = rule.act(seen)
    number = {"threshold": parameters.get("devices", 3), "top": 2, "device": 1}[actions]
    met = set()
    for lane in range(60):
        index = [formula(c) for c in cells(env, seen, lane)]
        # Of those that tie, the lower ones.
        ranking = sorted(range(K), key=lambda k: -index[k])
        assert sorted(scheduled_by(env, found[lane])) == sorted(ranking[:number])
        met.add(tuple(ranking[:number]))
        if actions == "top":
            assert np.argsort(-found[lane]).tolist() == ranking
            assert found[lane] == pytest.approx(np.linspace(1, -1, K)[np.argsort(ranking)])
    assert len(met) >= K


def stragglers(c: list[Cell], compute: float, upload: float) -> list[int]:
    slow = compute * float(np.median([d["compute_s"] for d in c]))
    far = upload * float(np.median([d["upload_s"] for d in c]))
    return [k for k in range(K) if c[k]["compute_s"] <= slow and c[k]["upload_s"] <= far]


def groups(c: list[Cell], m: int, r: int) -> list[int]:
    in_turn = sorted(
        range(K // r), key=lambda g: sum(c[k]["uploads"] for k in range(g * r, g * r + r))
    )
    return [k for g in in_turn[: max(1, m // r)] for k in range(g * r, g * r + r)]


def lossy(d: Cell, most: float) -> bool:
    losses = round(d["uploads"] * (1 - d["arrivals"]))
    return (losses + 1) / (d["uploads"] + 2) > most


def reliable(c: list[Cell], most: float) -> list[int]:
    return sorted(range(K), key=lambda k: (lossy(c[k], most), c[k]["uploads"]))[:3]


def best_of_best(c: list[Cell], candidates: int, m: int) -> list[int]:
    by_channel = sorted(range(K), key=lambda k: -c[k]["efficiency"])
    largest = sorted(by_channel[:candidates], key=lambda k: -c[k]["indicator"])
    return [*largest, *by_channel[candidates:]][:m]


Choice = Callable[[list[Cell]], list[int]]
CHOICES: list[tuple[str, dict[str, Any], dict[str, Any], Choice]] = [
    ("everyone", {}, {}, lambda c: list(range(K))),
    ("straggler-exclusion", {}, LATER, lambda c: stragglers(c, 2, 2)),
    ("straggler-exclusion", {"max_upload": 1.0}, {}, lambda c: stragglers(c, math.inf, 1)),
    (
        "straggler-exclusion",
        {"max_compute": 0.5, "max_upload": 0.75},
        LAZY,
        lambda c: stragglers(c, 0.5, 0.75),
    ),
    *(
        (
            "lazy",
            {"period": r},
            {},
            lambda c, r=r: [k for k in range(K) if (k - int(c[0]["rounds"])) % r == 0],
        )
        for r in (1, 2, 3, 6)
    ),
    *(
        ("coded-redundancy", {"devices": m}, {"redundancy": r}, lambda c, m=m, r=r: groups(c, m, r))
        for m, r in ((1, 2), (3, 2), (4, 2), (3, 3), (6, 6), (60, 3))
    ),
    *(
        ("reliable-links", {"max_error": most}, RISK, lambda c, most=most: reliable(c, most))
        for most in (0.3, 0.45, 0.7)
    ),
    ("reliable-links", {}, {"drop_out": 0.1}, lambda c: reliable(c, 0.6)),
    *(
        (
            "best-channel-best-norm",
            {"candidates": n, "devices": m},
            fields,
            lambda c, n=n, m=m: best_of_best(c, n, m),
        )
        for n, m, fields in ((4, 2, {}), (2, 4, GRADIENT), (6, 1, LATER))
    ),
]
# Where the environment fixes how many are scheduled; groups need more than one.
FIXED = [
    (actions, *choice)
    for actions in ("top", "device")
    for choice in CHOICES
    if choice[0] not in ("everyone", "lazy")
    and (actions == "top" or choice[0] != "coded-redundancy")
]


@pytest.mark.parametrize(("name", "parameters", "fields", "choice"), CHOICES)
def test_who_is_chosen(
    name: str, parameters: dict[str, Any], fields: dict[str, Any], choice: Choice
) -> None:
    env = Made(**fields)
    rule = make_baseline(name, env, **parameters)
    seen = draw(env, 80)
    found = rule.act(seen)
    met = set()
    for lane in range(80):
        observed = cells(env, seen, lane)
        wanted = choice(observed)
        if not wanted:
            passed = env.config.knowledge == "reported"
            cost = [c["upload_s"] if passed else seconds(c) for c in observed]
            wanted = [min(range(K), key=cost.__getitem__)]
        assert sorted(scheduled_by(env, found[lane])) == sorted(wanted)
        assert set(found[lane].tolist()) <= {-1.0, 1.0}
        met.add(tuple(sorted(wanted)))
    alone = name == "everyone" or {"period": 1}.items() <= parameters.items()
    assert len(met) > 1 or alone or len(wanted) == K


@pytest.mark.parametrize(("actions", "name", "parameters", "fields", "choice"), FIXED)
def test_the_chosen_come_first_where_their_number_is_fixed(
    actions: str, name: str, parameters: dict[str, Any], fields: dict[str, Any], choice: Choice
) -> None:
    env = Made(**fields, **ACTIONS[actions])
    rule = make_baseline(name, env, **parameters)
    seen = draw(env, 60)
    found = rule.act(seen)
    for lane in range(60):
        wanted, scheduled = choice(cells(env, seen, lane)), scheduled_by(env, found[lane])
        assert len(scheduled) == (2 if actions == "top" else 1)
        if len(wanted) >= len(scheduled):
            assert set(scheduled) <= set(wanted)
        else:
            assert set(wanted) <= set(scheduled)


# Of median 1; the channels are best where losses are high.
LOSSES, EFFICIENCY = [0.9, 1.0, 1.2, 1.0, 2.1, 0.8], [1, 2, 8, 3, 9, 4]
BY_LOSS: dict[str, Any] = {"training_loss": LOSSES, "efficiency": EFFICIENCY, "upload_s": 1}


@pytest.mark.parametrize(
    ("actions", "cutoff", "scheduled"),
    [
        ("threshold", None, [2, 4, 5]),
        ("threshold", 2.2, [2, 4, 5]),
        ("threshold", 2, [2, 3, 5]),
        ("threshold", 1.1, [1, 3, 5]),
        ("top", 2, [2, 5]),
        ("top", 1.1, [3, 5]),
        ("device", None, [4]),
        ("device", 2, [2]),
        ("device", 1, [5]),
    ],
)
def test_devices_of_high_losses_are_left_out(
    actions: str, cutoff: float | None, scheduled: list[int]
) -> None:
    env = Made(**ACTIONS[actions])
    seen = observe(env, (1,), **BY_LOSS)
    rule = make_baseline("channel-aware", env, loss_cutoff=cutoff)
    assert sorted(scheduled_by(env, rule.act(seen)[0])) == scheduled
    assert rule.kind() == ("published" if cutoff is None else "adapted")


@pytest.mark.parametrize("actions", ACTIONS)
def test_somebody_is_left_whatever_the_losses(actions: str) -> None:
    """If all that take part are above the cutoff, they are scheduled as without it."""
    env = Made(**ACTIONS[actions])
    # The median is of all devices.
    for taking_part in ([4], [2, 4]):
        participates = np.isin(np.arange(K), taking_part)
        seen = observe(env, (1,), **BY_LOSS, participates=participates)
        cut, uncut = (
            make_baseline("channel-aware", env, loss_cutoff=cutoff).act(seen)
            for cutoff in (1.1, None)
        )
        found = scheduled_by(env, cut[0], taking_part)
        assert found
        assert found == scheduled_by(env, uncut[0], taking_part)


def test_devices_left_out_take_part_last() -> None:
    env = Made(**CHOOSING)
    seen = observe(env, (1,), **BY_LOSS, mean_efficiency=EFFICIENCY)
    for cutoff, number, taking_part in (
        (None, 3, [2, 4, 5]),
        (2, 3, [2, 3, 5]),
        (1.1, 4, [0, 1, 3, 5]),
        (1.1, 5, [0, 1, 2, 3, 5]),
        # Without a number all do, and are heard again.
        (1.1, None, list(range(K))),
    ):
        rule = make_baseline("channel-aware", env, loss_cutoff=cutoff, participants=number)
        assert np.flatnonzero(rule.act(seen)[0, :, 1] > 0).tolist() == taking_part


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("fields", [CHOOSING, LAZY, {**GRADIENT, **RISK, "redundancy": 2}])
def test_every_rule_can_leave_devices_out(fields: dict[str, Any], actions: str) -> None:
    lanes = 40
    env = Made(lanes, **fields, **ACTIONS[actions])
    seen = draw(env, lanes)
    losses = np.array([[c["training_loss"] for c in cells(env, seen, i)] for i in range(lanes)])
    high = losses > 1.3 * np.median(losses, axis=1, keepdims=True)
    assert high.any(axis=1).mean() > 0.5
    # At least half of the devices are below the median, so that others are there.
    names = [name for name in applicable_baselines(env) if name != "random"]
    changed = 0
    for name in names:
        found = []
        for parameters in ({}, {"loss_cutoff": 1e9}, {"loss_cutoff": 1.3}):
            rule = make_baseline(name, env, **parameters)
            rule.begin(np.arange(lanes), range(lanes))
            found.append(rule.act(seen))
        assert np.array_equal(found[0], found[1])
        for lane in range(lanes):
            assert not high[lane, scheduled_by(env, found[2][lane])].any()
        changed += not np.array_equal(found[0], found[2])
    assert changed == len(names)


@pytest.mark.parametrize("fields", [{}, LATER, LAZY])
@pytest.mark.parametrize("selection", ["threshold", "top"])
def test_bandwidth_is_shared_so_that_all_finish_at_the_same_time(
    selection: str, fields: dict[str, Any]
) -> None:
    env = Made(bandwidth="agent", **ACTIONS[selection], **fields)
    seen = draw(env, 60)
    rule = make_baseline("channel-aware", env)
    found = rule.act(seen)
    plain = make_baseline("channel-aware", Made(**ACTIONS[selection], **fields)).act(seen)
    assert np.array_equal(found[..., 0], plain)
    assert found.dtype == np.float32
    reached = 0
    ready = 0.0 if env.config.knowledge == "reported" else 1.0
    for lane in range(60):
        assert env.action_space.contains(found[lane])
        observed = cells(env, seen, lane)
        scheduled = scheduled_by(env, found[lane])
        weights = np.exp(4 * found[lane, scheduled, 1].astype(np.float64))
        share = weights / weights.sum()
        finish = [
            ready * observed[k]["compute_s"] + observed[k]["upload_s"] / part
            for k, part in zip(scheduled, share, strict=True)
        ]
        # Shares reach from 1 to exp(-8) of the largest.
        if found[lane, scheduled, 1].min() > -1:
            assert finish == pytest.approx(np.full(len(finish), finish[0]), rel=1e-3)
            reached += 1
    assert reached > 50


def test_random_devices_are_drawn_evenly() -> None:
    env = Made(2)
    rule = make_baseline("random-devices", env, devices=2)
    seen = draw(env, 2)

    def chosen(seeds: list[int]) -> NDArray[np.bool_]:
        rule.begin(np.arange(2), seeds)
        return np.array([rule.act(seen) > 0 for _ in range(1500)])

    drawn = chosen([4, 5])
    assert np.array_equal(chosen([5, 4]), drawn[:, ::-1])
    assert not np.array_equal(drawn[:, 0], drawn[:, 1])
    assert (drawn.sum(axis=2) == 2).all()
    assert drawn.mean(axis=0) == pytest.approx(np.full((2, K), 1 / 3), abs=0.05)


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("fields", [{}, CHOOSING, LATER, GRADIENT, LAZY, {**RISK, "redundancy": 2}])
def test_single_observations_need_no_lane_axis(fields: dict[str, Any], actions: str) -> None:
    fields = {**fields, **ACTIONS[actions]}
    for bandwidth in ("finish", "agent") if actions != "device" else ("finish",):
        one, several = (
            Made(1, **fields, bandwidth=bandwidth),
            Made(8, **fields, bandwidth=bandwidth),
        )
        seen = draw(several, 8)
        for name in set(applicable_baselines(several)) - {"random"}:
            rule, alone = make_baseline(name, several), make_baseline(name, one)
            for either, lanes in ((rule, 8), (alone, 1)):
                if hasattr(either, "begin"):
                    either.begin(np.arange(lanes), [3] * lanes)
            batch = rule.act(seen)
            for lane in range(8):
                alone.begin(np.arange(1), [3])
                found = alone.act(lane_of(seen, lane))
                assert found.shape == batch[lane].shape == one.action_space.shape
                assert np.array_equal(found, batch[lane]), name
                assert one.action_space.contains(found if found.shape else int(found))


# ------------------------------------------------------------------------------- who takes part


def some(lanes: int, seed: int) -> NDArray[np.bool_]:
    """Draw who takes part, at least one in each lane."""
    rng = np.random.default_rng(seed)
    taking_part = rng.random((lanes, K)) < 0.5
    taking_part[np.arange(lanes), rng.integers(K, size=lanes)] = True
    return taking_part


@pytest.mark.parametrize("selection", ["threshold", "top"])
@pytest.mark.parametrize("fields", [{}, GRADIENT, {**RISK, "redundancy": 2}])
def test_those_who_take_part_are_scheduled_as_if_there_were_no_others(
    fields: dict[str, Any], selection: str
) -> None:
    env = Made(60, **fields, **CHOOSING, **ACTIONS[selection])
    taking_part = some(60, 3)
    seen = draw(env, 60, participates=taking_part)
    for name in set(applicable_baselines(env)) - {"random"}:
        rule = make_baseline(name, env)
        rule.begin(np.arange(60), range(60))
        found = rule.act(seen)
        assert found.shape == (60, K, 2)
        for lane in range(60):
            assert env.action_space.contains(found[lane])
            participating = np.flatnonzero(taking_part[lane]).tolist()
            scheduled = scheduled_by(env, found[lane], participating)
            assert scheduled
            # The rule itself asks for nobody else.
            if selection == "threshold":
                assert set(np.flatnonzero(found[lane, :, 0] > 0)) <= set(participating), name
            if name in ("channel-aware", "norm-times-rate"):
                c = cells(env, seen, lane)
                rank = [
                    d["efficiency"] * (d["indicator"] if name == "norm-times-rate" else 1)
                    for d in c
                ]
                ranking = sorted(participating, key=lambda k, rank=rank: -rank[k])
                assert sorted(scheduled) == sorted(ranking[: 3 if selection == "threshold" else 2])


def next_ones(found: NDArray[Any], lane: int) -> list[int]:
    return np.flatnonzero(found[lane, :, -1] > 0).tolist()


def test_all_take_part_unless_a_rule_says_otherwise() -> None:
    env = Made(20, **CHOOSING)
    seen = draw(env, 20, participates=some(20, 1))
    choosing = {"random", "straggler-exclusion", "lazy"}
    for name in set(applicable_baselines(env)) - choosing:
        rule = make_baseline(name, env)
        rule.begin(np.arange(20), range(20))
        assert (rule.act(seen)[..., -1] == 1).all(), name


@pytest.mark.parametrize("limit", [0.01, 1.0, 2.0])
def test_stragglers_are_left_out_beforehand(limit: float) -> None:
    env = Made(60, **CHOOSING)
    seen = draw(env, 60)
    found = make_baseline("straggler-exclusion", env, max_compute=limit).act(seen)
    left_out = 0
    for lane in range(60):
        nominal_s = [c["nominal_s"] for c in cells(env, seen, lane)]
        wanted = [k for k in range(K) if nominal_s[k] <= limit * np.median(nominal_s)]
        assert next_ones(found, lane) == (wanted or [int(np.argmin(nominal_s))])
        left_out += K - len(wanted)
    assert left_out


@pytest.mark.parametrize("period", [1, 2, 3, 9])
def test_lazy_devices_wait_for_their_turn(period: int) -> None:
    env = Made(60, **CHOOSING)
    seen = draw(env, 60)
    found = make_baseline("lazy", env, period=period).act(seen)
    for lane in range(60):
        rounds = int(cells(env, seen, lane)[0]["rounds"])
        turn = [k for k in range(K) if (k - rounds - 1) % period == 0]
        assert next_ones(found, lane) == (turn or list(range(K)))


EXPECTED: list[tuple[str, dict[str, Any], Formula]] = [
    ("round-robin", {}, lambda c: -c["uploads"] - c["scheduled"]),
    (
        "proportional-fair",
        {},
        lambda c: (
            c["mean_efficiency"]
            / max(0.9 * c["throughput"] + 0.1 * c["scheduled"] * c["efficiency"], 1e-3)
        ),
    ),
    ("channel-aware", {}, lambda c: c["mean_efficiency"]),
    ("model-variation", {}, lambda c: c["indicator"]),
    ("norm-times-rate", {}, lambda c: c["indicator"] * c["mean_efficiency"]),
    (
        "staleness-per-cost",
        {"exponent": 0.5},
        lambda c: (1 if c["scheduled"] else 2 + c["staleness"]) / expected_s(c) ** 0.5,
    ),
    ("importance-per-cost", {}, lambda c: c["indicator"] / expected_s(c)),
    # All may be candidates in the next round.
    ("best-channel-best-norm", {"candidates": 6}, lambda c: c["indicator"]),
    ("best-channel-best-norm", {"candidates": 1}, lambda c: c["mean_efficiency"]),
]


def expected_s(c: Cell) -> float:
    return c["nominal_s"] + c["upload_s"] * c["efficiency"] / c["mean_efficiency"]


@pytest.mark.parametrize(("name", "parameters", "formula"), EXPECTED)
def test_those_of_the_largest_expected_index_take_part(
    name: str, parameters: dict[str, Any], formula: Formula
) -> None:
    env = Made(**CHOOSING)
    rule = make_baseline(name, env, devices=2, participants=3, **parameters)
    seen = draw(env, 60)
    found = rule.act(seen)
    met = set()
    for lane in range(60):
        scheduled = scheduled_by(env, found[lane])
        index = [
            formula({**c, "scheduled": float(k in scheduled)})
            for k, c in enumerate(cells(env, seen, lane))
        ]
        wanted = sorted(sorted(range(K), key=lambda k, index=index: -index[k])[:3])
        assert next_ones(found, lane) == wanted
        met.add(tuple(wanted))
    assert len(met) >= K


def test_those_who_sat_out_may_be_candidates_again() -> None:
    env = Made(**CHOOSING)
    best = {"efficiency": [1, 2, 3, 4, 5, 6], "mean_efficiency": [6, 5, 4, 3, 2, 1]}
    seen = observe(
        env, indicator=np.arange(K, 0, -1), participates=[0, 0, 1, 1, 1, 1], upload_s=1, **best
    )
    rule = make_baseline("best-channel-best-norm", env, candidates=3, devices=1, participants=2)
    found = rule.act(seen)
    # Of 3, 4 and 5, the best channels, the largest update; then of 0, 1 and 2.
    assert np.flatnonzero(found[:, 0] > 0).tolist() == [3]
    assert np.flatnonzero(found[:, 1] > 0).tolist() == [0, 1]


@pytest.mark.parametrize("fields", [{}, LATER])
@pytest.mark.parametrize("trade_off", [0.01, 0.3, 1.0])
def test_sampling_has_the_best_probabilities(trade_off: float, fields: dict[str, Any]) -> None:
    env = Made(**fields)
    rule = make_baseline("importance-channel-sampling", env, trade_off=trade_off)
    assert isinstance(rule, ImportanceChannelSampling)
    seen = draw(env, 8, participates=some(8, 3))
    found = rule.probabilities(Observation(env.tables, seen))
    assert found.sum(axis=1) == pytest.approx(1)
    for lane in range(8):
        c = [d for d in cells(env, seen, lane) if d["participates"]]
        assert (found[lane] > 0).sum() == len(c)
        importance = np.array([d["samples"] * d["indicator"] for d in c])
        importance /= importance.sum()
        time = np.array([seconds(d) if fields else d["upload_s"] for d in c])
        time /= time.mean()

        def objective(
            p: NDArray[Any], importance: NDArray[Any] = importance, time: NDArray[Any] = time
        ) -> float:
            return float(trade_off * (importance**2 / p).sum() + (1 - trade_off) * (p @ time))

        least = minimize(
            objective,
            np.full(len(c), 1 / len(c)),
            bounds=[(1e-6, 1)] * len(c),
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
            tol=1e-12,
        )
        own = found[lane][found[lane] > 0]
        assert objective(own) <= least.fun * (1 + 1e-6)
        if trade_off == 1:
            assert own == pytest.approx(importance)


def test_sampling_draws_with_its_probabilities() -> None:
    env = Made(2)
    rule = make_baseline("importance-channel-sampling", env, devices=1, trade_off=0.3)
    assert isinstance(rule, ImportanceChannelSampling)
    seen = draw(env, 2)
    wanted = rule.probabilities(Observation(env.tables, seen))
    rule.begin(np.arange(2), [4, 5])
    drawn = np.array([rule.act(seen) > 0 for _ in range(1500)])
    assert (drawn.sum(axis=2) == 1).all()
    assert drawn.mean(axis=0) == pytest.approx(wanted, abs=0.05)
    # Without replacement.
    several = make_baseline("importance-channel-sampling", env, devices=4)
    several.begin(np.arange(2), [4, 5])
    assert ((several.act(seen) > 0).sum(axis=1) == 4).all()


# ------------------------------------------------------------------------- where rules apply, grids


EVERYWHERE = ["random", "everyone", "random-devices", "round-robin", "proportional-fair"]
EVERYWHERE += ["channel-aware", "straggler-exclusion", "lazy", "importance-per-cost"]
EVERYWHERE += ["staleness-per-cost", "staleness-importance-per-cost"]
UPDATES = ["norm-times-rate", "best-channel-best-norm", "importance-channel-sampling"]
UPDATES += ["gradient-divergence"]


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, ["model-variation", *UPDATES]),
        (GRADIENT, ["gradient-norm", *UPDATES]),
        (LAZY, ["model-age", "age-times-channel"]),
        ({**LAZY, **GRADIENT}, ["model-age", "age-times-channel"]),
        (RISK, ["model-variation", *UPDATES, "reliable-links"]),
        (
            {"redundancy": 2, "drop_out": 0.1, **LAZY},
            ["model-age", "age-times-channel", "reliable-links", "coded-redundancy"],
        ),
    ],
)
def test_rules_know_where_they_apply(fields: dict[str, Any], names: list[str]) -> None:
    assert set(applicable_baselines(Made(**fields))) == {*EVERYWHERE, *names}
    for actions in ("top", "device"):
        fixed = applicable_baselines(Made(**fields, **ACTIONS[actions]))
        assert not {"everyone", "lazy"} & set(fixed)
        several = {"coded-redundancy"} if actions == "device" else set()
        assert set(names) - several <= set(fixed)
        assert not several & set(fixed)


@pytest.mark.parametrize(
    ("name", "parameters", "fields", "message"),
    [
        ("everyone", {"devices": 3}, {}, "it has loss_cutoff"),
        ("round-robin", {"devices": 0}, {}, "devices must be an integer at least 1, got 0"),
        ("round-robin", {"devices": 2.5}, {}, "devices must be"),
        ("round-robin", {"exponent": 1}, {}, "devices, participants"),
        ("round-robin", {"participants": 0}, {}, "participants must be an integer at least 1"),
        ("model-variation", {"participants": 1.5}, {}, "participants must be"),
        ("norm-times-rate", {"exponent": -1}, {}, "exponent must be"),
        ("norm-times-rate", {"exponent": math.nan}, {}, "exponent must be"),
        ("importance-per-cost", {"devices": True}, {}, "devices must be"),
        ("staleness-importance-per-cost", {"importance": -1}, {}, "importance must be"),
        ("best-channel-best-norm", {"candidates": 0}, {}, "candidates must be"),
        ("importance-channel-sampling", {"trade_off": 0}, {}, r"trade_off must be .* in \(0, 1\]"),
        ("staleness-per-cost", {"exponent": "1"}, {}, "exponent must be"),
        ("round-robin", {"loss_cutoff": 0.9}, {}, "loss_cutoff must be"),
        ("everyone", {"loss_cutoff": True}, {}, "loss_cutoff must be"),
        ("straggler-exclusion", {"max_compute": 0}, {}, "max_compute must be"),
        ("straggler-exclusion", {"max_upload": math.inf}, {}, "max_upload must be"),
        ("straggler-exclusion", {"devices": 3}, {}, "max_compute, max_upload"),
        ("lazy", {"period": 0}, {}, "period must be"),
        ("reliable-links", {"max_error": 1.1}, RISK, "max_error must be"),
        ("reliable-links", {"devices": -1}, RISK, "devices must be"),
        ("coded-redundancy", {"devices": None}, {"redundancy": 3}, "devices must be"),
        ("reliable-links", {}, {}, "does not apply"),
        ("coded-redundancy", {}, {}, "does not apply"),
        ("gradient-norm", {}, {}, "does not apply"),
        ("model-variation", {}, LAZY, "does not apply"),
        ("model-age", {}, {}, "does not apply"),
        ("everyone", {}, TOP, "does not apply"),
    ],
)
def test_bad_parameters_are_explained(
    name: str, parameters: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make_baseline(name, Made(**fields), **parameters)


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("n_devices", [2, 4, 10, 50])
def test_grids_fit_the_environment(n_devices: int, actions: str) -> None:
    fields = {"packet_error": 0.5, "redundancy": 2, "n_devices": n_devices}
    fields |= {"uploads_per_round": 2, **CHOOSING}
    for mode, update in itertools.product(("importance", "lazy"), ("gradient", "model")):
        env = Made(mode=mode, update=update, **{**ACTIONS[actions], **fields})
        tunable = tuning.tunable_baselines(env)
        for name in applicable_baselines(env):
            grid = find_baseline(name, env).grid_for(env.config)
            assert (name in tunable) == bool(grid)
            assert all(len(set(values)) == len(values) > 1 for values in grid.values())
            assert ("participants" in grid) <= env.config.agent_chooses_participants
            # Where the environment fixes the number, no other is worth a try.
            assert ("devices" in grid) <= (actions == "threshold")
            assert max(grid.get("devices", [0])) <= n_devices
            for point in tuning.grid_points(name, env) if grid else []:
                make_baseline(name, env, **point)


def test_the_number_of_devices_makes_no_difference_where_it_is_fixed() -> None:
    fields = {**RISK, "redundancy": 2}
    for actions in ("top", "device"):
        env = Made(20, **{**fields, **ACTIONS[actions]})
        seen = draw(env, 20)
        for name in ("round-robin", "channel-aware", "norm-times-rate", "staleness-per-cost"):
            few, most = (make_baseline(name, env, devices=m).act(seen) for m in (1, 6))
            assert np.array_equal(few, most)


# ------------------------------------------------------------------------------------ in the round


@pytest.mark.parametrize("env_id", SCHEDULING)
def test_every_rule_runs_an_episode(env_id: str) -> None:
    small = {**SMALL[env_id], "image_size": 7, "max_rounds": 4}
    env, lanes = make_lanes(env_id, 1, small), make_lanes(env_id, 2, small)
    for name in applicable_baselines(env):
        alone = run_episodes(env, make_baseline(name, env), range(2))
        together = run_episodes(lanes, make_baseline(name, lanes), range(2))
        assert np.array_equal(together.returns, alone.returns), name
        assert (alone.infos["scheduled"] >= 1).all()


def arriving_shards(redundancy: int, name: str) -> float:
    """Return the share of the samples scheduled that arrive, each counted once, in 30 episodes."""
    small = {**SMALL["UpdateScheduling-v0"], "n_devices": 8, "partition": "iid"}
    small |= {"packet_error": 0.8, "redundancy": redundancy, "max_rounds": 12, "budget_s": 1e3}
    env: Any = make_lanes("UpdateScheduling-v0", 30, small)
    rule = make_baseline(name, env, devices=4)
    observations, _ = env.reset(seed=0)
    problem, scheduled, arrived = env.problem, 0, 0
    for _ in range(12):
        before = problem.arrivals.copy()
        observations, *_ = env.step(rule.act(observations))
        shape = (30, -1, redundancy)
        scheduled += int(problem.scheduled.reshape(shape).any(axis=2).sum())
        arrived += int((problem.arrivals > before).reshape(shape).any(axis=2).sum())
    return arrived / scheduled


def test_coded_redundancy_brings_more_of_the_scheduled_samples() -> None:
    """Losses are uniform up to 0.8: 1 - E[p] = 0.6 arrive alone, 1 - E[p]² = 0.84 of pairs."""
    alone = arriving_shards(1, "round-robin")
    pairs = arriving_shards(2, "coded-redundancy")
    assert alone == pytest.approx(0.6, abs=0.05)
    assert pairs == pytest.approx(0.84, abs=0.05)
    assert pairs - alone > 0.15


@pytest.mark.parametrize(
    ("env_id", "name", "learning_rate", "margin"),
    [
        ("UpdateScheduling-v0", "model-variation", 0.3, 0.04),
        ("UpdateSchedulingGradient-v0", "gradient-norm", 0.4, 0.01),
        ("UpdateSchedulingLazy-v0", "model-age", 0.3, 0.06),
    ],
)
def test_importance_beats_the_channel_where_devices_differ(
    env_id: str, name: str, learning_rate: float, margin: float
) -> None:
    """The near devices, which the channel prefers, hold few of the classes."""
    small = {"image_size": 7, "samples_per_device": 30, "validation_size": 300, "test_size": 20}
    small |= {"n_devices": 10, "partition": "shards", "budget_s": 0.12, "budget_j": 0.03}
    small |= {"learning_rate": learning_rate, "local_epochs": 1, "batch_size": 20}
    env = make_lanes(env_id, 20, {**small, "reward": "accuracy"})
    by_channel, by_importance = (
        run_episodes(env, make_baseline(rule, env, devices=3), range(40))
        for rule in ("channel-aware", name)
    )
    assert np.mean(by_importance.returns - by_channel.returns) > margin


@pytest.mark.parametrize("name", ["UpdateSchedulingCorrupt-v0", "UpdateSchedulingLazyCorrupt-v0"])
def test_wrong_labels_are_avoided_by_their_losses(name: str) -> None:
    env = make_lanes(name, 16)
    uncut, cut = (
        run_episodes(env, make_baseline("staleness-per-cost", env, loss_cutoff=cutoff), range(16))
        for cutoff in (None, 1.5)
    )
    uploads = [found.infos["corrupt_uploads"].mean() for found in (uncut, cut)]
    assert uploads[1] < 0.4 * uploads[0]
    gain = cut.infos["test_accuracy"] - uncut.infos["test_accuracy"]
    assert gain.mean() > 0.05
    assert (gain > 0).mean() > 0.7
