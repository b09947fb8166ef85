"""Running episodes, statistics, comparisons and their files."""

from __future__ import annotations

import csv
import itertools
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from scipy import stats

import edge_gym
from edge_gym.baselines import make_baseline
from edge_gym.core.problem import Problem, Step
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.evaluation import comparison, seeds
from edge_gym.evaluation.comparison import ComparisonInterrupted, compare
from edge_gym.evaluation.policies import make_policy, resolve
from edge_gym.evaluation.rollouts import (
    even_lanes,
    make_lanes,
    run_episodes,
    seed_warning,
)
from edge_gym.evaluation.statistics import interquartile_mean, mean_intervals
from edge_gym.reports.describe import describe

SMALL = {
    "budget": 24,
    "image_size": 7,
    "validation_size": 60,
    "test_size": 40,
    "reward": "accuracy",
}
NAMES = ["random", "channel-aware", "support-vector-aware"]


@dataclass(frozen=True)
class ToyConfig:
    longest: int = 9


class Toy(Problem):
    """Episodes of random length; the reward is the action times a draw."""

    config_type = ToyConfig

    def __init__(self, config: Any, n_lanes: int) -> None:
        super().__init__(config, n_lanes)
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (), np.float64)
        self.tables = {}
        self.left = np.zeros(n_lanes, np.int64)
        self.seen = np.zeros(n_lanes)

    def reset_lanes(self, lanes: Any) -> dict[str, Any]:
        for lane in lanes:
            self.left[lane] = self.generators[lane].integers(1, self.config.longest)
            self.seen[lane] = self.generators[lane].normal()
        return {}

    def step_lanes(self, lanes: Any, actions: Any) -> Step:
        reward = actions * self.seen[lanes]
        for lane in lanes:
            self.seen[lane] = self.generators[lane].normal()
        self.left[lanes] -= 1
        over = self.left[lanes] == 0
        info = {"drawn": self.seen[lanes].copy(), "left": self.left[lanes].copy()}
        return Step(reward, over, np.zeros_like(over), info, {"score": 2 * self.seen[lanes]})

    def observe(self) -> Any:
        return np.stack([self.seen, self.left], axis=1)

    def scene(self, lane: int) -> Any:
        raise NotImplementedError


class ToyVectorEnv(EdgeVectorEnv):
    problem_type = Toy


def toy(lanes: int, mode: AutoresetMode = AutoresetMode.DISABLED) -> ToyVectorEnv:
    return ToyVectorEnv(lanes, autoreset_mode=mode)


def follow(observations: Any) -> Any:
    return np.sign(observations[:, 0])


def by_hand(seed: int) -> tuple[float, int, float]:
    env = toy(1)
    observations, _ = env.reset(seed=seed)
    total, length = 0.0, 0
    while True:
        observations, reward, over, _, infos = env.step(follow(observations))
        total, length = total + float(reward[0]), length + 1
        if over[0]:
            return total, length, float(infos["score"][0])


@pytest.mark.parametrize("lanes", [1, 3, 11, 20])
def test_episodes_do_not_depend_on_lanes(lanes: int) -> None:
    chosen = [5, 3, 900_000, 17, 8, 1, 2, 40, 41, 42, 43]
    calls: list[tuple[int, int]] = []
    result = run_episodes(
        toy(lanes), follow, chosen, lambda *call: calls.append(call), record=["drawn"]
    )
    expected = [by_hand(seed) for seed in chosen]
    assert result.seeds.tolist() == chosen
    assert result.returns.tolist() == [row[0] for row in expected]
    assert result.lengths.tolist() == [row[1] for row in expected]
    assert result.infos["score"].tolist() == [row[2] for row in expected]
    assert calls[0] == (0, 11)
    assert calls[-1] == (11, 11)
    drawn = result.curves["drawn"]
    assert np.isnan(drawn).sum(axis=1).tolist() == [
        max(result.lengths) - length for length in result.lengths
    ]
    assert np.array_equal(
        drawn[np.arange(11), result.lengths - 1], result.infos["drawn"], equal_nan=False
    )


def test_stateful_policies_begin_with_their_episodes() -> None:
    class Seeded:
        def __init__(self) -> None:
            self.action = np.zeros(4)

        def begin(self, lanes: Any, seeds: Any) -> None:
            self.action[lanes] = [1 / seed for seed in seeds]

        def act(self, observations: Any, masks: Any = None) -> Any:
            assert masks is None
            return self.action[: len(observations)]

    two, four = (run_episodes(toy(n), Seeded(), range(1, 10)) for n in (2, 4))
    assert np.array_equal(two.returns, four.returns)


def test_retransmission_does_not_depend_on_lanes() -> None:
    few, many = (
        run_episodes(env, make_baseline("random", env), range(900_000, 900_005))
        for env in (make_lanes("Retransmission-v0", lanes, SMALL) for lanes in (2, 5))
    )
    assert np.array_equal(few.returns, many.returns)
    assert {"test_accuracy", "area_under_curve"} <= set(few.infos)
    for name, values in few.infos.items():
        np.testing.assert_allclose(values, many.infos[name], atol=1e-12)


def test_track_test_reports_the_same_test_accuracy_at_every_step() -> None:
    env = make_lanes("Retransmission-v0", 3, {**SMALL, "track_test": True})
    rule = make_baseline("channel-aware", env)
    tracked = run_episodes(env, rule, [1, 2, 3], record=["test_accuracy", "validation_accuracy"])
    plain_env = make_lanes("Retransmission-v0", 3, SMALL)
    plain = run_episodes(plain_env, make_baseline("channel-aware", plain_env), [1, 2, 3])
    assert np.array_equal(tracked.returns, plain.returns)
    assert np.array_equal(tracked.infos["test_accuracy"], plain.infos["test_accuracy"])
    curve = tracked.curves["test_accuracy"]
    assert curve.shape == (3, SMALL["budget"])
    assert np.array_equal(curve[:, -1], plain.infos["test_accuracy"])
    assert np.isfinite(curve).all()
    assert (curve > 0).all()
    with pytest.raises(ValueError, match="track_test"):
        make_lanes("Retransmission-v0", 1, {"track_test": 1})


def test_run_episodes_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="DISABLED"):
        run_episodes(toy(2, AutoresetMode.NEXT_STEP), follow, [1])
    with pytest.raises(ValueError, match="seed"):
        run_episodes(toy(2), follow, [])
    with pytest.raises(TypeError, match="policy"):
        run_episodes(toy(2), 3, [1])  # type: ignore[arg-type]


@pytest.mark.parametrize(("episodes", "lanes"), [(100, 64), (1, 64), (64, 64), (65, 64), (7, 1)])
def test_even_lanes_need_no_more_rounds(episodes: int, lanes: int) -> None:
    even = even_lanes(episodes, lanes)
    assert 1 <= even <= lanes
    assert -(-episodes // even) == -(-episodes // min(lanes, episodes))
    assert even * -(-episodes // even) - episodes < -(-episodes // even)


def test_interquartile_mean() -> None:
    assert interquartile_mean([0.0, 1.0, 2.0, 100.0]) == 1.5
    values = np.random.default_rng(0).normal(size=40)
    assert interquartile_mean(values) == pytest.approx(np.sort(values)[10:30].mean())


@pytest.mark.parametrize("shape", ["normal", "exponential"])
def test_intervals_agree_with_scipy(shape: str) -> None:
    values = getattr(np.random.default_rng(1), shape)(size=60)
    low, high = mean_intervals(values)
    other = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="BCa", rng=np.random.default_rng(2)
    ).confidence_interval
    width = other.high - other.low
    assert low == pytest.approx(other.low, abs=0.03 * width)
    assert high == pytest.approx(other.high, abs=0.03 * width)


def test_intervals_cover_the_mean() -> None:
    samples = np.random.default_rng(3).exponential(size=(400, 60))
    low, high = mean_intervals(samples, resamples=2000).T
    assert 0.915 < np.mean((low <= 1) & (high >= 1)) < 0.98


def test_interval_corner_cases() -> None:
    assert mean_intervals([2.0, 2.0, 2.0]).tolist() == [2.0, 2.0]
    assert np.isnan(mean_intervals([[1.0, np.nan], [1.0, 2.0]])[0]).all()
    assert np.array_equal(mean_intervals([1.0, 5.0, 2.0]), mean_intervals([1.0, 5.0, 2.0]))
    with pytest.raises(ValueError, match="at least 2"):
        mean_intervals([1.0])


def test_seed_ranges_are_disjoint() -> None:
    ranges = (seeds.TRAINING, seeds.TUNING, seeds.SELECTION, seeds.EVALUATION)
    for before, after in itertools.pairwise(ranges):
        assert len(before)
        assert before.stop <= after.start
    assert seed_warning(range(900_000, 900_100)) is None
    assert "tuning" in str(seed_warning(range(500_000, 500_002)))
    text = str(seed_warning(range(899_999, 900_002)))
    assert "1 of 3" in text
    assert "model selection" in text


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("comparison")
    results = compare("Retransmission-v0", NAMES, episodes=10, overrides=SMALL, out=folder)
    return folder, results


def test_results_hold_what_others_rely_on(outcome: Any) -> None:
    folder, results = outcome
    content = json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)
    assert content == results.to_json()
    assert content["environment"] == "edge_gym/Retransmission-v0"
    assert content["config"]["budget"] == 24
    assert content["config"]["classes"] == [3, 5]
    assert content["versions"]["edge_gym"]
    assert content["seeds"] == list(range(900_000, 900_010))
    assert content["interrupted"] is False
    assert list(content["policies"]) == NAMES
    fields = ("episodes", "mean", "iqm", "ci95", "normalised", "difference", "metrics")
    for policy in content["policies"].values():
        assert set(fields) <= set(policy)
        assert policy["ci95"][0] <= policy["mean"] <= policy["ci95"][1]
        assert set(policy["difference"]) == {"baseline", "mean", "ci95"}
        for metric in ("test_accuracy", "area_under_curve", "time_to_target", "reached_85"):
            assert set(policy["metrics"][metric]) == {"mean", "ci95"}
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")


def kind_of(name: str) -> str:
    name = name.removeprefix("tuned-").partition(":")[0]
    return make_baseline(name, make_lanes("Retransmission-v0", 1)).kind()


def test_numbers_follow_from_the_episodes(outcome: Any) -> None:
    folder, results = outcome
    with (folder / "episodes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    returns = {
        name: np.array([float(row["return"]) for row in rows if row["policy"] == name])
        for name in NAMES
    }
    best = max(NAMES[1:], key=lambda name: returns[name].mean())
    for name, result in results.policies.items():
        assert result.mean == pytest.approx(returns[name].mean())
        assert result.iqm == pytest.approx(stats.trim_mean(returns[name], 0.25))
        paired = returns[name] - returns[best]
        assert result.difference.baseline == best
        assert result.difference.mean == pytest.approx(paired.mean(), abs=1e-12)
        assert result.difference.ci95 == pytest.approx(tuple(mean_intervals(paired)), abs=1e-12)
        assert result.differences[kind_of(best)] == (result.difference)
        for gap in result.differences.values():
            assert gap.mean == pytest.approx((returns[name] - returns[gap.baseline]).mean())
        accuracy = [float(row["test_accuracy"]) for row in rows if row["policy"] == name]
        assert result.metrics["test_accuracy"].mean == pytest.approx(np.mean(accuracy))
        env = make_lanes("Retransmission-v0", 3, SMALL)
        again = run_episodes(env, make_policy(name, env), results.seeds[:3])
        assert np.array_equal(again.returns, returns[name][:3])


def test_normalised_scores() -> None:
    """Random scores 0, the best rule 1, whatever is learned or given is not the scale."""
    accept = {"random": "random", "none": lambda obs: np.zeros(len(obs), np.int64)}
    with_rule = {**accept, "sv": "support-vector-aware"}
    results = compare("Retransmission-v0", accept, episodes=4, overrides=SMALL)
    assert all(result.normalised is None for result in results.policies.values())
    assert any("no analytical policy" in note for note in results.notes)
    assert results.policies["none"].kind == "yours"
    results = compare("Retransmission-v0", with_rule, episodes=4, overrides=SMALL)
    low, _ = mean_intervals(results.episodes["sv"].returns - results.episodes["random"].returns)
    scores = {name: result.normalised for name, result in results.policies.items()}
    if low > 0:
        assert (scores["random"], scores["sv"]) == (0, pytest.approx(1))
    else:
        assert set(scores.values()) == {None}
        assert any("not clearly better than random" in note for note in results.notes)


def test_what_must_be_known_of_a_rule_is_a_note_of_the_comparison() -> None:
    fields = {"cycles": 2, "validation_size": 50, "test_size": 10}
    results = compare("TaskAllocation-v0", ["hu-sync", "ha-sync"], episodes=2, overrides=fields)
    assert results.policies["hu-sync"].mean == 0
    (note,) = (note for note in results.notes if note.startswith("hu-sync: "))
    assert "it hardly ever trains here" in note
    assert "random-shares was not run: no normalised scores" in results.notes
    fields["energy_limit_j"] = 30.0
    results = compare("TaskAllocation-v0", ["hu-sync", "ha-sync"], episodes=2, overrides=fields)
    assert results.policies["hu-sync"].mean > 0
    assert not any(note.startswith("hu-sync") for note in results.notes)
    described = describe("TaskAllocation-v0")
    assert list(described.notes) == ["hu-sync"]
    assert describe("TaskAllocation-v0", fields).notes == {}


def scale(random: list[float], best: list[float]) -> tuple[Any, list[str]]:
    notes: list[str] = []
    finished: Any = {
        name: type("E", (), {"returns": np.array(values)})
        for name, values in (("random", random), ("rule", best))
    }
    return comparison._scale(finished, "rule", "random", notes), notes


def test_scale_needs_a_clear_difference() -> None:
    assert scale([0.0, 0.1, 0.2, 0.1], [1.0, 1.2, 1.1, 1.0]) == (pytest.approx((0.1, 1.075)), [])
    for best in ([0.0, 0.1, 0.2, 0.1], [-1.0, 1.2, -1.1, 1.0]):
        none, notes = scale([0.0, 0.1, 0.2, 0.1], best)
        assert none is None
        assert "not clearly better" in notes[0]


def test_interrupted_comparison_keeps_what_was_finished(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = comparison.run_episodes, []

    def stop_at_third(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(comparison, "run_episodes", stop_at_third)
    with pytest.raises(ComparisonInterrupted) as caught:
        compare("Retransmission-v0", NAMES, episodes=4, overrides=SMALL, out=tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content == caught.value.results.to_json()
    assert content["interrupted"] is True
    assert list(content["policies"]) == NAMES[:2]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "comparison.png",
        "episodes.csv",
        "results.json",
    ]


def test_an_early_interrupt_leaves_earlier_results(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    (tmp_path / "results.json").write_text("old")
    monkeypatch.setattr(comparison, "run_episodes", stop)
    options: dict[str, Any] = {"overrides": SMALL, "out": tmp_path, "report": print}
    with pytest.raises(KeyboardInterrupt):
        compare("Retransmission-v0", NAMES, episodes=4, **options)
    assert (tmp_path / "results.json").read_text() == "old"


def test_a_kill_leaves_the_policies_before(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = comparison.run_episodes, []

    def fail_at_second(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise SystemExit
        return real(*args, **kwargs)

    (tmp_path / "comparison.png").write_text("of something else")
    monkeypatch.setattr(comparison, "run_episodes", fail_at_second)
    with pytest.raises(SystemExit):
        compare("Retransmission-v0", NAMES, episodes=4, overrides=SMALL, out=tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    assert list(content["policies"]) == ["random"]
    assert not (tmp_path / "comparison.png").exists()


def test_replacing_results_is_said(tmp_path: Any) -> None:
    (tmp_path / "results.json").write_text("old")
    said: list[str] = []
    options: dict[str, Any] = {"episodes": 2, "overrides": SMALL, "report": said.append}
    compare("Retransmission-v0", ["random"], out=tmp_path, **options)
    assert said[1:] == [f"replacing the results in {tmp_path}"]
    with pytest.warns(UserWarning, match="training"):
        compare("Retransmission-v0", ["random"], episodes=2, overrides=SMALL, seed=3)


def test_without_matplotlib_there_is_no_picture(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    said: list[str] = []
    compare(
        "Retransmission-v0",
        ["random"],
        episodes=2,
        overrides=SMALL,
        out=tmp_path,
        report=said.append,
    )
    assert "edge_gym[plots]" in said[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["episodes.csv", "results.json"]


def test_few_episodes_are_called_few() -> None:
    said: list[str] = []
    options: dict[str, Any] = {"overrides": SMALL, "report": said.append}
    few = compare("Retransmission-v0", "random", episodes=19, **options)
    assert list(few.policies) == ["random"]
    assert said[0].startswith("19 episodes are few")
    assert few.notes[0] == said[0]
    del said[:]
    assert not any(
        "few" in note
        for note in compare("Retransmission-v0", "random", episodes=20, **options).notes
    )
    assert not said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policies": []}, "no policy to run"),
        ({"policies": {}}, "no policy to run"),
        ({"policies": [max]}, "policies need names, as in {'mine': policy}, got <built-in"),
        ({"policies": "chanel-aware"}, "did you mean channel-aware"),
        ({"env_id": "Nothing-v0"}, "unknown environment 'Nothing-v0'; edge-gym list shows all"),
        ({"policies": ["chanel-aware"]}, "did you mean channel-aware"),
        ({"policies": ["importance-aware-entropy"]}, "does not apply"),
        ({"policies": ["tuned-random"]}, "nothing to tune"),
        ({"policies": ["tuned-channel-aware:max_snr_db=3"]}, "found, not given"),
        ({"policies": ["channel-aware:max_snr=3"]}, "no parameter 'max_snr'; it has max_snr_db"),
        ({"policies": ["channel-aware:max_snr_db=99"]}, "max_snr_db must be a finite number"),
        ({"policies": ["channel-aware:max_snr_db"]}, "name:param=value"),
        ({"policies": ["channel-aware:max_snr_db=["]}, "cannot read"),
        ({"episodes": 1}, "episodes must be an integer at least 2"),
        ({"seed": -1}, "seed must be an integer at least 0"),
        ({"lanes": 0}, "lanes must be an integer at least 1"),
        ({"overrides": {"budgets": 3}}, "has no field 'budgets'; its fields are dataset"),
        ({"overrides": {"budget": 0}}, r"budget must be an integer in \[1, 1000000\]"),
    ],
)
def test_mistakes_are_explained(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"env_id": "Retransmission-v0", "policies": ["random"], **arguments}
    with pytest.raises((ValueError, TypeError), match=message.replace("(", r"\(")):
        compare(**given)


def test_folders_are_checked_before_anything_runs(tmp_path: Any) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "below"):
        with pytest.raises(OSError, match="there is a file of this name"):
            compare("Retransmission-v0", ["random"], out=out)
    # Even the superuser cannot make folders here.
    with pytest.raises(OSError, match="cannot write to the folder"):
        compare("Retransmission-v0", ["random"], out="/proc/results")
    assert file.read_text() == "mine"


def test_differences_are_told_to_the_best_rule_of_each_kind() -> None:
    changing = "channel-aware:max_snr_db_late=2"
    names = ["random", "channel-aware", changing, "support-vector-aware", "importance-aware"]
    results = compare("Retransmission-v0", names, episodes=20, overrides=SMALL)
    returns = {name: result.mean for name, result in results.policies.items()}
    published = max(("channel-aware", "importance-aware"), key=returns.__getitem__)
    wanted = {"published": published, "adapted": changing, "project": "support-vector-aware"}
    for result in results.policies.values():
        assert {kind: gap.baseline for kind, gap in result.differences.items()} == wanted
    assert results.policies[changing].differences["adapted"].mean == 0


def test_policies_by_name() -> None:
    env = make_lanes("Retransmission-v0", 2, SMALL)
    given = resolve("importance-aware:max_snr_db=16,alignment_probability=0.8", env)
    assert given.parameters == {"max_snr_db": 16, "alignment_probability": 0.8}
    assert (given.kind, given.rule) == ("published", True)
    assert resolve("support-vector-aware", env).kind == "project"
    assert resolve("random", env).rule is False


@pytest.mark.parametrize("value", [1.0 + 2**-52, 0.1, 1e6 / 3, -7.3])
@pytest.mark.parametrize("n", [7, 100, 1024])
def test_equal_values_have_an_interval_of_no_width(value: float, n: int) -> None:
    """Their mean may be rounded, so that all of them lie on one side of it."""
    for row in (np.full(n, value), np.full(n, value) * (1 + 1e-15 * np.arange(n) % 2)):
        low, high = mean_intervals(row)
        assert low == pytest.approx(value, rel=1e-12)
        assert high == pytest.approx(value, rel=1e-12)


def test_intervals_are_finite_where_one_value_is_far_off() -> None:
    row = np.zeros(1024)
    row[0] = 1.0
    low, high = mean_intervals(row)
    assert 0 <= low < 1 / 1024 < high < 0.01


def test_results_are_shown_briefly() -> None:
    options: dict[str, Any] = {"episodes": 8, "overrides": SMALL, "report": print}
    results = compare(
        "Retransmission-v0",
        {"<mine>": lambda seen: np.zeros(len(seen)), "rule": "channel-aware"},
        **options,
    )
    text = repr(results)
    assert len(text.splitlines()) < 8
    assert max(map(len, text.splitlines())) < 160
    title, header, *rows = text.splitlines()
    assert title == "edge_gym/Retransmission-v0, 8 episodes from seed 900000"
    assert header.split()[:2] == ["policy", "return"]
    assert header.endswith("time to target")
    told = results.policies["rule"].metrics["time_to_target"].mean
    assert next(row for row in rows if row.startswith("rule")).endswith(f" {told:.4g}")
    best = max(results.policies, key=lambda name: results.policies[name].mean)
    assert rows[0].startswith(best)
    assert f"{results.policies[best].mean:.4g}" in rows[0]
    page = results._repr_html_()
    assert "&lt;mine&gt;" in page
    assert page.count("<tr>") == 3


def test_the_package_lists_what_one_needs() -> None:
    listed = dir(edge_gym)
    assert {"compare", "describe", "load_agent", "make_lanes", "agents", "wrappers"} <= {*listed}
    assert set(edge_gym.__all__) <= {*listed}
    assert not {"Any", "annotations", "import_module", "_HOMES"} & {*listed}
    for name in listed:
        assert getattr(edge_gym, name) is not None
    assert edge_gym.compare is compare
    with pytest.raises(AttributeError, match="has no attribute 'compere'"):
        edge_gym.compere  # noqa: B018
