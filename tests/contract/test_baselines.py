"""The rules against their formulas, and the search for their parameters."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from scipy.stats import norm

from edge_gym.baselines import (
    BASELINES,
    Baseline,
    applicable_baselines,
    find_baseline,
    make_baseline,
    tuned_only_baselines,
)
from edge_gym.core.registration import list_environments
from edge_gym.envs.batch_slot.config import BatchSlotConfig
from edge_gym.envs.data_scheduling.config import DataSchedulingConfig
from edge_gym.envs.offloading.config import OffloadingConfig
from edge_gym.envs.retransmission.actions import AcceptOrRetransmit
from edge_gym.envs.retransmission.config import RetransmissionConfig
from edge_gym.envs.retransmission.observation import observation_table
from edge_gym.envs.task_allocation.config import TaskAllocationConfig
from edge_gym.envs.update_scheduling.config import UpdateSchedulingConfig
from edge_gym.evaluation import tuning
from edge_gym.evaluation.policies import resolve
from edge_gym.evaluation.rollouts import (
    Episodes,
    config_changes,
    make_lanes,
    own_config,
    run_episodes,
)
from edge_gym.evaluation.seeds import TUNING
from edge_gym.learning.svm.learner import coding_matrix
from edge_gym.registry import load

MOST_POINTS = 64
"""Points that tuning tries of a rule: more would take too long for all of them."""
SMALL = {"budget": 24, "image_size": 7, "validation_size": 60, "test_size": 40}
ID = "Retransmission-v0"
FOR_SVM = ["random", "no-retransmission", "channel-aware"]
ACCEPT, RETRANSMIT = 0, 1


class Seen:
    """What a rule is made for: a configuration and the observation's table, nothing to run."""

    spec = None
    num_envs = 1
    action_space = None
    problem = SimpleNamespace(codec=None)

    def __init__(self, **fields: Any) -> None:
        self.config = RetransmissionConfig(**fields)
        self.tables = {"": observation_table(self.config)}
        self.codec = AcceptOrRetransmit()
        self.problem = self.unwrapped = self


ENTROPY = {"learner": "mlp", "classes": None}


def observe(env: Seen, **columns: Any) -> Any:
    table = env.tables[""]
    shape = np.broadcast_shapes(*(np.shape(values) for values in columns.values()))
    observations = np.zeros((*shape, len(table)), np.float32)
    for name, values in columns.items():
        observations[..., table.index(name)] = values
    return observations


def protocol(snr_db: float, uncertainty: float, p_c: float, max_snr_db: float) -> int:
    """Retransmit until SNR > min(θ₀·U, θ_SNR): Wen et al. 2019 (1)."""
    theta_0 = norm.ppf(p_c) ** 2
    threshold = min(theta_0 * uncertainty, 10 ** (max_snr_db / 10))
    return ACCEPT if 10 ** (snr_db / 10) > threshold else RETRANSMIT


@pytest.mark.parametrize(("p_c", "max_snr_db"), [(0.9, 19.0), (0.8, 10.0), (0.97, 22.0)])
@pytest.mark.parametrize("name", ["importance-aware", "importance-aware-multiclass"])
def test_protocols_follow_the_formula(name: str, p_c: float, max_snr_db: float) -> None:
    rng = np.random.default_rng(0)
    env = Seen(learner="svm-ovo" if name.endswith("multiclass") else "svm")
    snr_db = rng.uniform(-5, 30, (40, 50)).astype(np.float32)
    distance = rng.exponential(0.2, (40, 50)).astype(np.float32)
    rule = make_baseline(name, env, max_snr_db=max_snr_db, alignment_probability=p_c)
    actions = rule.act(observe(env, effective_snr_db=snr_db, distance=distance))
    expected = [
        protocol(g, 1 / d**2, p_c, max_snr_db)
        for g, d in zip(snr_db.ravel().tolist(), distance.ravel().tolist(), strict=True)
    ]
    assert actions.ravel().tolist() == expected
    assert 0 < actions.mean() < 1


def test_protocol_1_at_its_edges() -> None:
    env = Seen()
    rule = make_baseline("importance-aware", env, max_snr_db=19.0)

    def act(snr_db: float, distance: float) -> int:
        return int(rule.act(observe(env, effective_snr_db=snr_db, distance=distance)))

    # On the boundary the cap rules, and an SNR that equals it is not above it.
    assert act(18.9, 0) == act(19.0, 0) == RETRANSMIT
    assert act(19.1, 0) == ACCEPT
    # Far from the boundary hardly any SNR is asked for.
    assert act(-20.0, 20) == ACCEPT
    theta_0_db = 10 * math.log10(norm.ppf(0.9) ** 2)
    assert act(theta_0_db + 0.01, 1) == ACCEPT
    assert act(theta_0_db - 0.01, 1) == RETRANSMIT


def test_protocol_2_asks_all_machines_of_the_predicted_class() -> None:
    rng = np.random.default_rng(1)
    coding = coding_matrix(4)
    env = Seen(learner="svm-ovo", classes=(0, 1, 2, 3))
    rule = make_baseline("importance-aware-multiclass", env)
    for scores in rng.normal(0, 0.3, (200, coding.shape[1])):
        predicted = np.argmin(((1 - np.sign(coding * scores)) / 2).sum(axis=1))
        touching = np.abs(scores[coding[predicted] != 0])
        snr_db = float(np.float32(rng.uniform(0, 22)))
        every = [protocol(snr_db, 1 / s**2, 0.9, 19.0) for s in touching]
        action = rule.act(observe(env, effective_snr_db=snr_db, distance=touching.min()))
        assert int(action) == max(every)


def test_entropy_rule_follows_the_formula() -> None:
    rng = np.random.default_rng(2)
    env = Seen(**ENTROPY)
    snr_db = rng.uniform(-10, 10, 500).astype(np.float32)
    entropy = rng.uniform(0, 2.3, 500).astype(np.float32)
    for theta_0, max_snr_db in ((norm.ppf(0.9) ** 2, 19.0), (3.0, 5.0), (100.0, 7.0)):
        rule = make_baseline(
            "importance-aware-entropy", env, max_snr_db=max_snr_db, snr_per_nat=theta_0
        )
        actions = rule.act(observe(env, effective_snr_db=snr_db, entropy=entropy))
        linear = 10 ** (snr_db.astype(np.float64) / 10)
        threshold = np.minimum(theta_0 * entropy.astype(np.float64), 10 ** (max_snr_db / 10))
        np.testing.assert_array_equal(actions, np.where(linear > threshold, ACCEPT, RETRANSMIT))
    assert rule.Parameters().snr_per_nat == pytest.approx(norm.ppf(0.9) ** 2, rel=1e-4)


def test_the_grid_of_the_entropy_rule_spans_both_regimes() -> None:
    env = gym.make("edge_gym/RetransmissionCNN-v0").unwrapped
    observation, _ = env.reset(seed=0)
    seen = []
    over = False
    while not over:
        seen.append(float(env.tables[""].read(observation, "entropy")))
        observation, _, over, *_ = env.step(0)
    entropy = np.array(seen)
    grid = find_baseline("importance-aware-entropy", env).grid_for(env.config)
    for max_snr_db in grid["max_snr_db"]:
        capped = [
            (theta_0 * entropy > 10 ** (max_snr_db / 10)).mean() for theta_0 in grid["snr_per_nat"]
        ]
        # From the entropy alone to the cap alone, and something in between.
        assert capped[0] == 0
        assert capped[-1] > 0.9
        assert any(0.1 < share < 0.9 for share in capped)


def test_threshold_rules_follow_their_formulas() -> None:
    rng = np.random.default_rng(3)
    env = Seen()
    snr_db = np.append(rng.uniform(-5, 30, 300), 13.0).astype(np.float32)
    margin = np.append(rng.normal(0.5, 1, 300), 0.0).astype(np.float32)
    seen = observe(env, effective_snr_db=snr_db, margin=margin)
    channel = make_baseline("channel-aware", env, max_snr_db=13).act(seen)
    assert channel.tolist() == [int(g <= 13) for g in snr_db]
    vectors = make_baseline("support-vector-aware", env, max_snr_db=13).act(seen)
    hinge = np.maximum(0, 1 - margin)
    assert vectors.tolist() == [int(h > 0 and g <= 13) for h, g in zip(hinge, snr_db, strict=True)]
    assert not make_baseline("no-retransmission", env).act(seen).any()


def test_random_policy_is_uniform_over_what_is_possible() -> None:
    env = make_lanes(ID, 2, SMALL)
    policy = make_baseline("random", env)
    policy.begin(np.arange(2), [7, 8])
    masks = np.array([[True, True], [True, False]])
    draws = np.array([policy.act(None, masks) for _ in range(2000)])
    assert draws[:, 0].mean() == pytest.approx(0.5, abs=0.05)
    assert not draws[:, 1].any()
    policy.begin(np.array([1]), [7])
    again = np.array([policy.act(None, masks[[0, 0]])[1] for _ in range(2000)])
    assert np.array_equal(again, draws[:, 0])


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, [*FOR_SVM, "importance-aware", "support-vector-aware"]),
        ({"learner": "svm-ovo"}, [*FOR_SVM, "importance-aware-multiclass", "support-vector-aware"]),
        (ENTROPY, [*FOR_SVM, "importance-aware-entropy"]),
        ({"learner": "cnn"}, [*FOR_SVM, "importance-aware-entropy"]),
    ],
)
def test_rules_know_where_they_apply(fields: dict[str, Any], names: list[str]) -> None:
    env = Seen(**fields)
    assert applicable_baselines(env) == names
    for name in set(BASELINES) - set(names) - set(tuned_only_baselines(env)):
        with pytest.raises(ValueError, match=f"'{name}' does not apply.*here are random, no-retr"):
            make_baseline(name, env)
        for rule in BASELINES.find(name).rules():
            with pytest.raises(ValueError, match="does not apply"):
                rule(env)


def test_a_name_means_one_rule_in_every_environment() -> None:
    several = [name for name in BASELINES if len(BASELINES.find(name).rules()) > 1]
    assert {"channel-aware", "importance-aware"} <= set(several)
    scheduling = itertools.product(
        ("sample", "device", "scores"), ("svm", "svm-ovo", "mlp"), ("device", "server"), (1, 2)
    )
    rules = {rule for name in BASELINES for rule in BASELINES.find(name).rules()}
    configs = [own_config(row.name) for row in list_environments() if not row.from_paper]
    configs += [RetransmissionConfig(learner=learner) for learner in ("svm", "svm-ovo", "mlp")]
    federated = itertools.product(
        ("importance", "lazy"), ("gradient", "model"), ("top", "threshold"), (0.0, 0.5), (1, 2)
    )
    configs += [
        UpdateSchedulingConfig(
            mode=mode, update=update, selection=selection, packet_error=error, redundancy=r
        )
        for mode, update, selection, error, r in federated
    ]
    configs += [
        DataSchedulingConfig(actions=actions, learner=learner, labels=labels, uploads_per_block=m)
        for actions, learner, labels, m in scheduling
    ]
    configs += [
        BatchSlotConfig(actions=actions, update=update, max_batch=largest, max_rounds=rounds)
        for actions, update, largest, rounds in itertools.product(
            ("direct", "global"), ("gradient", "model"), (None, 128), (1, 9)
        )
    ]
    configs += [
        TaskAllocationConfig(actions=actions, drop_out=drop_out)
        for actions, drop_out in itertools.product(("direct", "staleness", "joint"), (0.0, 0.3))
    ]
    configs += [TaskAllocationConfig(redundancy=2, drop_out=drop_out) for drop_out in (0.0, 0.3)]
    configs += [
        OffloadingConfig(actions=actions, n_devices=m)
        for actions, m in itertools.product(("direct", "grid", "combination"), (1, 4, 6))
    ]
    met: set[type[Baseline]] = set()
    homes = {row.problem_type().config_type: row.vector for row in list_environments()}
    for config in configs:
        env = load(homes[type(config)])(1, config)
        applying = {rule for rule in rules if rule.applies(env)}
        assert len({rule.name for rule in applying}) == len(applying), config
        assert {find_baseline(rule.name, env) for rule in applying} == applying
        met.update(applying)
    assert met == rules


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("nothing", {}, "unknown baseline"),
        ("no-retransmission", {"max_snr_db": 3}, "it has none"),
        ("channel-aware", {"alignment_probability": 0.9}, "it has max_snr_db"),
        ("channel-aware", {"max_snr_db": 61}, "max_snr_db"),
        ("channel-aware", {"max_snr_db": "13"}, "max_snr_db"),
        ("support-vector-aware", {"max_snr_db": float("nan")}, "max_snr_db"),
        ("importance-aware", {"alignment_probability": 0.5}, "alignment_probability"),
        ("importance-aware", {"alignment_probability": 1}, "alignment_probability"),
    ],
)
def test_bad_parameters_are_explained(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make_baseline(name, Seen(), **parameters)


def test_every_grid_is_of_valid_parameters() -> None:
    for row in list_environments():
        if row.from_paper:
            continue
        env = make_lanes(row.id, 1)
        tunable = tuning.tunable_baselines(env)
        for name in applicable_baselines(env):
            baseline = find_baseline(name, env)
            grid = baseline.grid_for(env.config)
            assert (name in tunable) == bool(grid)
            points = tuning.grid_points(name, env) if grid else []
            assert len(points) <= MOST_POINTS
            distinct = {tuple(sorted(map(repr, point.items()))) for point in points}
            assert len(points) == len(distinct)
            assert bool(points) == bool(grid)
            for point in points:
                baseline.read_parameters(point)


@dataclass(frozen=True, kw_only=True)
class EndsParameters:
    """Parameters of several types."""

    many: float = 1.0
    most: int | None = None
    name: str = "a"
    other: float = 1.0


class Landscape:
    """Stands in for ``run_episodes``: returns by seed, on a hill whose top is known."""

    def __init__(self, top: float) -> None:
        self.top = top
        self.played: dict[tuple[float, ...], list[int]] = {}

    def __call__(self, env: Any, rule: Any, seeds: Any, progress: Any) -> Episodes:
        height = rule.parameters.max_snr_db
        self.played.setdefault(tuple(rule.named_parameters().values()), []).extend(seeds)
        noise = np.random.default_rng(list(seeds)).normal(size=len(seeds))
        progress(len(seeds), len(seeds))
        returns = -abs(height - self.top) - 9 * (rule.schedule is not None) + noise
        return Episodes(np.array(seeds), returns, np.ones(len(seeds), np.int64), {}, {})


@pytest.mark.parametrize("top", [8.0, 14.5, 22.0])
def test_tuning_finds_the_best_point(top: float, monkeypatch: pytest.MonkeyPatch) -> None:
    landscape = Landscape(top)
    monkeypatch.setattr(tuning, "run_episodes", landscape)
    calls: list[tuple[str, int, int]] = []
    found = tuning.tune(Seen(), "channel-aware", 40, lambda *call: calls.append(call))  # type: ignore[arg-type]
    assert found.best.parameters == {"max_snr_db": top}
    assert found.best.episodes == 40
    assert landscape.played[top,] == list(TUNING[:40])
    weak = len(tuning.grid_points("channel-aware", Seen())) - 4
    assert sorted(map(len, landscape.played.values())) == [10] * weak + [40] * 4
    # Common seeds: the same episodes for every point, none of them for evaluation.
    assert all(seeds == list(TUNING[: len(seeds)]) for seeds in landscape.played.values())
    assert calls[-1] == ("tuning channel-aware", weak * 10 + 4 * 40, weak * 10 + 4 * 40)


def test_tuning_on_the_environment() -> None:
    env = make_lanes(ID, 4, SMALL)
    found = tuning.tune(env, "channel-aware", 8)
    again = run_episodes(
        env, make_baseline("channel-aware", env, **found.best.parameters), TUNING[:8]
    )
    assert found.best.mean_return == again.returns.mean()
    full = [trial for trial in found.trials if trial.episodes == 8]
    assert found.best.mean_return == max(trial.mean_return for trial in full)
    with pytest.raises(ValueError, match="nothing to tune here; what has: channel-aware, import"):
        tuning.tune(env, "random", 8)
    with pytest.raises(ValueError, match=r"episodes must be an integer in \[8"):
        tuning.tune(env, "channel-aware", 2)


@pytest.fixture
def tuned_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(tuning, "tuned_folder", lambda: tmp_path)
    return tmp_path / f"{ID}.yaml"


def ship(parameters: dict[str, Any]) -> None:
    trial = tuning.GridPoint(parameters, 8, 0.1, (0.0, 0.2))
    tuning.write_tunings(ID, own_config(ID), [tuning.Tuning("channel-aware", trial, (trial,))])


def test_shipped_parameters_are_used_where_they_were_searched(
    tuned_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tuning.shipped_tunings() == {}
    ship({"max_snr_db": 11.5})
    entry = yaml.safe_load(tuned_file.read_text())
    assert entry["config"] == {}
    assert entry["policies"]["channel-aware"]["seeds"] == [TUNING[0], TUNING[7]]
    own = make_lanes(ID, 1)
    assert resolve("tuned-channel-aware", own).parameters == {"max_snr_db": 11.5}
    # Under another configuration they are searched anew.
    searched: list[int] = []

    def search(env: Any, policy: str, episodes: int, progress: Any) -> tuning.Tuning:
        assert env.config.budget == SMALL["budget"]
        searched.append(episodes)
        trial = tuning.GridPoint({"max_snr_db": 9.0}, episodes, 0.0, (0.0, 0.0))
        return tuning.Tuning(policy, trial, (trial,))

    monkeypatch.setattr(tuning, "tune", search)
    changed = make_lanes(ID, 1, SMALL)
    assert resolve("tuned-channel-aware", changed).parameters == {"max_snr_db": 9.0}
    assert searched == [tuning.LIVE_EPISODES]
    with pytest.raises(ValueError, match="leave out --set"):
        tuning.write_tunings(ID, changed.config, [])


def test_stale_parameters_are_refused(tuned_file: Any) -> None:
    ship({"max_snr_db": 11.5})
    content = yaml.safe_load(tuned_file.read_text())
    content["config"]["budget"] = 123
    tuned_file.write_text(yaml.safe_dump(content))
    with pytest.raises(
        ValueError, match=r"stale.*budget: 123 there, the default here.*edge-gym tune"
    ):
        resolve("tuned-channel-aware", make_lanes(ID, 1))
    # Searching anew drops what is stale.
    ship({"max_snr_db": 10.0})
    assert resolve("tuned-channel-aware", make_lanes(ID, 1)).parameters == {"max_snr_db": 10.0}


class Ends(Baseline):
    """A rule whose grids have ends of every kind."""

    name = "ends"
    source = "a test"
    Parameters = EndsParameters
    grid = {"many": (1, 2, 4), "most": (1, 2, None), "name": ("a", "b")}
    further_grids = ({"many": (2, 4), "many_late": (1, 8)},)
    bounds = {"many": (1,)}

    def act(self, observations: Any, masks: Any = None) -> Any:
        raise AssertionError


@pytest.mark.parametrize(
    ("parameters", "at_ends"),
    [
        ({"many": 1, "most": 2, "name": "a"}, []),  # at a bound, inside, no number
        ({"many": 2, "most": None, "name": "b"}, []),  # None is no limit
        ({"many": 4, "most": 1}, ["many", "most"]),
        ({"many": 0.5, "many_late": 8, "late_share": 0.5}, ["many", "many_late"]),
        ({"many": 2, "many_late": 1}, []),
        ({"most": 9}, []),  # below no limit
        ({"other": 1.0}, ["other"]),  # in no grid
    ],
)
def test_ends_of_grids_are_told_from_natural_bounds(
    parameters: dict[str, Any], at_ends: list[str]
) -> None:
    assert Ends.at_ends(None, parameters) == at_ends


@pytest.mark.xfail(
    strict=True,
    reason="what ships was searched on narrower grids, without schedules; it is searched again "
    "when the environments' settings are final",
)
def test_tuned_values_are_inside_their_grids() -> None:
    """Each shipped value was the best of the present grids, and is at no end but a natural one."""
    wrong = []
    for name, entry in tuning.shipped_tunings().items():
        env = make_lanes(name, 1)
        for policy, record in entry["policies"].items():
            rule = find_baseline(policy, env)
            if record.get("method") == "cma":  # which searches beyond any grid
                continue
            tried, points = record.get("points"), rule.points(env.config)
            if tried is None or (record["method"] == "grid" and tried != len(points)):
                wrong.append(f"{name}, {policy}: searched on other points")
            ends = rule.at_ends(env.config, record["parameters"])
            wrong += [f"{name}, {policy}: {parameter} is at an end" for parameter in ends]
    assert not wrong


def test_what_is_shipped_is_not_stale() -> None:
    names = {row.name for row in list_environments()}
    for name, entry in tuning.shipped_tunings().items():
        assert name in names
        assert tuning.differences(entry["config"], config_changes(own_config(name))) == []
        env = make_lanes(name, 1)
        for policy, record in entry["policies"].items():
            find_baseline(policy, env).read_parameters(record["parameters"])
            assert all(seed in TUNING for seed in record["seeds"])
