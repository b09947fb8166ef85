"""Parameters that change along an episode: one mechanism for the rules of every problem."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rollouts import SMALL, lane_of

from edge_gym.baselines import Baseline, applicable_baselines, find_baseline, make_baseline
from edge_gym.baselines.schedule import LATE, LATE_SHARE, find_budget, numeric_fields
from edge_gym.core.observation import ObservationTable
from edge_gym.evaluation import tuning
from edge_gym.evaluation.policies import resolve
from edge_gym.evaluation.rollouts import make_lanes, own_config, run_episodes

# One of every problem and kind of budget.
IDS = ["Retransmission-v0", "DataScheduling-v0", "UpdateScheduling-v0", "UpdateSchedulingLazy-v0"]
IDS += ["BatchSlot-v0", "TaskAllocation-v0", "JointTaskResource-v0", "Offloading-v0"]
LANES = 6
# With few samples in sight, or without tasks, parameters make no difference.
MORE = {
    "DataScheduling-v0": {"n_devices": 12, "buffer_size": 4},
    "Offloading-v0": {"period": 1},
}


def changing(rule: type[Baseline], config: Any) -> dict[str, Any] | None:
    """Return a schedule that tuning tries of the rule, of all its schedules the middle one."""
    points = [p for p in rule.points(config) if any(name.endswith(LATE) for name in p)]
    return points[len(points) // 2] if points else None


def split(point: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the early and the late parameters of a schedule."""
    early = {name: v for name, v in point.items() if not name.endswith(LATE) and name != LATE_SHARE}
    late = {name.removesuffix(LATE): v for name, v in point.items() if name.endswith(LATE)}
    return early, {**early, **late}


def with_left(env: Any, observations: Any, shares: Any) -> Any:
    """Return observations in which these shares of the budget are left."""
    budget = find_budget(env.tables, env.config)
    assert budget is not None
    whole = observations if isinstance(observations, dict) else {"": observations}
    changed = {part: values.copy() for part, values in whole.items()}
    changed[budget.part][..., budget.column] = np.asarray(shares) * budget.total
    return changed if isinstance(observations, dict) else changed[""]


@pytest.mark.parametrize("env_id", IDS)
def test_lanes_act_early_or_late_by_what_is_left(env_id: str) -> None:
    env: Any = make_lanes(env_id, LANES, {**SMALL[env_id], **MORE.get(env_id, {})})
    observations, _ = env.reset(seed=list(range(LANES)))
    left = np.array([1.0, 0.2, 0.26, 0.25, 0.0, 0.9])
    late = left <= 0.25
    scheduled = differing = 0
    for name in applicable_baselines(env):
        rule = find_baseline(name, env)
        point = changing(rule, env.config)
        if point is None:
            continue
        point = {**point, LATE_SHARE: 0.25}
        made = [make_baseline(name, env, **parameters) for parameters in (point, *split(point))]
        found = []
        for one in made:
            one.begin(np.arange(LANES), list(range(LANES)))
            found.append(one.act(with_left(env, observations, left)))
        where = late.reshape(-1, *[1] * (found[0].ndim - 1))
        np.testing.assert_array_equal(found[0], np.where(where, found[2], found[1]), name)
        # All early, and all late.
        one = make_baseline(name, env, **point)
        for share, wanted in ((1.0, made[1]), (0.1, made[2])):
            seen = with_left(env, observations, np.full(LANES, share))
            one.begin(np.arange(LANES), list(range(LANES)))
            wanted.begin(np.arange(LANES), list(range(LANES)))
            np.testing.assert_array_equal(one.act(seen), wanted.act(seen), name)
        scheduled += 1
        differing += bool((found[1] != found[2]).any())
    assert scheduled
    assert differing


@pytest.mark.parametrize(
    ("env_id", "rule"),
    [
        ("UpdateScheduling-v0", "random-devices:devices=1,devices_late=3,late_share=0.5"),
        ("DataScheduling-v0", "proportional-fair:window_blocks=2,window_blocks_late=50"),
        ("BatchSlot-v0", "optimal-batch-slot:scale=0.5,scale_late=2,late_share=0.6"),
    ],
)
def test_episodes_do_not_depend_on_lanes(env_id: str, rule: str) -> None:
    """Also of rules that draw, or remember: each lane's draws and memory stay its own."""
    found = []
    for lanes in (1, 3):
        env = make_lanes(env_id, lanes, SMALL[env_id])
        found.append(run_episodes(env, resolve(rule, env).policy, range(5)))
    assert np.array_equal(found[0].returns, found[1].returns)
    assert np.array_equal(found[0].lengths, found[1].lengths)


def test_a_single_observation_has_no_axis_of_lanes() -> None:
    env: Any = make_lanes("UpdateScheduling-v0", 4, SMALL["UpdateScheduling-v0"])
    observations, _ = env.reset(seed=0)
    seen = with_left(env, observations, [1.0, 0.1, 0.5, 0.0])
    parameters = {"devices": 1, "devices_late": 3}
    together = make_baseline("channel-aware", env, **parameters).act(seen)
    one = make_lanes("UpdateScheduling-v0", 1, SMALL["UpdateScheduling-v0"])
    alone = make_baseline("channel-aware", one, **parameters)
    for lane in range(4):
        assert np.array_equal(alone.act(lane_of(seen, lane)), together[lane])
    # The early parameters are those of the rule again.
    assert alone.parameters.devices == 1
    assert alone.acting.tolist() == [0]


def test_masks_go_with_their_lanes() -> None:
    env: Any = make_lanes("DataSchedulingDevice-v0", 2, SMALL["DataSchedulingDevice-v0"])
    observations, _ = env.reset(seed=[0, 1])
    seen = with_left(env, observations, [1.0, 0.0])
    rule = make_baseline("loss-power", env, snr_exponent=0, snr_exponent_late=2)
    for only in ((0, 2), (2, 1)):
        masks = np.zeros((2, 3), np.bool_)
        masks[np.arange(2), only] = True
        assert rule.act(seen, masks).tolist() == list(only)


def test_kinds_tell_what_was_added_to_a_published_rule() -> None:
    env = make_lanes("Retransmission-v0", 2, SMALL["Retransmission-v0"])
    given = resolve("channel-aware:max_snr_db=13,max_snr_db_late=5,late_share=0.1", env)
    assert (given.kind, given.rule) == ("adapted", True)
    assert given.parameters == {"max_snr_db": 13, "max_snr_db_late": 5, "late_share": 0.1}
    # What does not change is the published rule.
    for spec in ("channel-aware:max_snr_db_late=13,late_share=0.5", "channel-aware"):
        same = resolve(spec, env)
        assert (same.kind, same.parameters) == ("published", {"max_snr_db": 13.0})
    assert resolve("support-vector-aware:max_snr_db_late=5", env).kind == "project"


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Of several types.

    Attributes:
        many: A number.
        most: A number, or None.
        flag: None.
        name: None.
        flags: Of a type that has no value at run time.
        shows_late: Named as what holds late of another parameter.
    """

    many: float = 1.0
    most: int | None = None
    flag: bool = False
    name: str = ""
    flags: Unknown | None = None  # type: ignore[name-defined]  # noqa: F821
    shows_late: bool = False


class Counting(Baseline):
    """A user's rule whose action is a parameter."""

    name = "counting"
    source = "a test"
    Parameters = Parameters

    def act(self, observations: Any, masks: Any = None) -> Any:
        shape = observations["system"].shape[:-1]
        most = 0 if self.parameters.most is None else self.parameters.most
        return np.full(shape, self.parameters.many + most)


class CountingAgain(Counting):
    """One that calls its base class."""

    def act(self, observations: Any, masks: Any = None) -> Any:
        return 10 * super().act(observations, masks) + self.parameters.many


def test_rules_of_ones_own_have_schedules_too() -> None:
    assert numeric_fields(Parameters) == ["many", "most"]
    env: Any = make_lanes("TaskAllocation-v0", 3, SMALL["TaskAllocation-v0"])
    observations, _ = env.reset(seed=0)
    seen = with_left(env, observations, [1.0, 0.3, 0.1])
    changes = {"many_late": 3.0, "most_late": 4, "late_share": 0.3}
    rule = CountingAgain(env, many=2, shows_late=True, **changes)
    assert rule.act(seen).tolist() == [22, 73, 73]
    assert rule.kind() == "yours"
    assert rule.named_parameters() == {
        **asdict(Parameters(many=2, shows_late=True)),
        **changes,
    }


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sample_late": "loss"}, "'channel-aware' has no parameter 'sample_late'; it has sample$"),
        ({"late_share": 0.5}, "no parameter 'late_share'"),
    ],
)
def test_only_numbers_change(parameters: dict[str, Any], message: str) -> None:
    env = make_lanes("DataScheduling-v0", 1, SMALL["DataScheduling-v0"])
    with pytest.raises(TypeError, match=message):
        make_baseline("channel-aware", env, **parameters)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_snr_db_late": 61}, "max_snr_db must be"),
        ({"max_snr_db_late": 3, "late_share": 0}, r"late_share must be .* in \(0, 1\)"),
        ({"max_snr_db_late": 3, "late_share": 1}, r"late_share must be .* in \(0, 1\)"),
        ({"late_share": None}, "late_share must be"),
    ],
)
def test_wrong_schedules_are_named(parameters: dict[str, Any], message: str) -> None:
    env = make_lanes("Retransmission-v0", 1, SMALL["Retransmission-v0"])
    with pytest.raises(ValueError, match=message):
        make_baseline("channel-aware", env, **parameters)


def test_a_problem_without_a_budget_says_so() -> None:
    env: Any = make_lanes("Retransmission-v0", 1, SMALL["Retransmission-v0"])
    columns = [column for column in env.tables[""] if column.name != "budget_left"]
    made = SimpleNamespace(
        config=env.config,
        problem=env.problem,
        tables={"": ObservationTable(*columns)},
        action_space=env.single_action_space,
        actions_per=env.actions_per,
    )
    made.unwrapped = made
    assert make_baseline("channel-aware", made).schedule is None
    with pytest.raises(ValueError, match="no column of what is left of the budget"):
        make_baseline("channel-aware", made, max_snr_db_late=3)


def test_shipped_parameters_without_a_schedule_mean_what_they_meant() -> None:
    for name, entry in tuning.shipped_tunings().items():
        env = make_lanes(name, 1)
        assert env.config == own_config(name)
        for policy, record in entry["policies"].items():
            parameters = record["parameters"]
            if any(one.endswith(LATE) for one in parameters):
                continue
            rule = make_baseline(policy, env, **parameters)
            assert rule.schedule is None
            assert rule.parameters == rule.Parameters(**parameters)
            assert rule.named_parameters() == asdict(rule.parameters)
