"""What users may give, for every id: fields of any type, seeds, actions, states, wrappers."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import rollouts
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RescaleAction, TimeLimit
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics, TransformReward
from paths import TESTS
from rollouts import assert_same, make, make_vec, random_actions

from edge_gym.core.actions import validate_action, validate_actions
from edge_gym.evaluation.comparison import compare
from edge_gym.runtime.checks import check_number
from edge_gym.runtime.messages import shown

PLAIN = "Retransmission-v0"
UPDATES = "UpdateScheduling-v0"
GRID = "OffloadingGrid-v0"
LONGEST_MESSAGE = 300

# ---------------------------------------------------------------------------------- configuration


def of_numpy(value: Any) -> Any:
    """Return a value of a configuration as NumPy has it, in a small type where it fits."""
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, int):
        return next(
            kind(value)
            for kind in (np.uint8, np.int16, np.int64)
            if np.iinfo(kind).min <= value <= np.iinfo(kind).max
        )
    if isinstance(value, float):
        single = np.float32(value)
        return single if float(single) == value else np.float64(value)
    if isinstance(value, str):
        return np.str_(value)
    return np.array(value) if isinstance(value, tuple) else value


def types_in(value: Any) -> Any:
    return tuple(map(types_in, value)) if isinstance(value, tuple) else type(value)


def test_fields_of_numpy_are_those_of_python(name: str) -> None:
    config = make(name).config
    given = {key: of_numpy(value) for key, value in asdict(config).items()}
    again = type(config)(**given)
    assert again == config
    for field in fields(config):
        ours, theirs = getattr(again, field.name), getattr(config, field.name)
        assert types_in(ours) == types_in(theirs), field.name
    assert json.loads(json.dumps(asdict(again))) == json.loads(json.dumps(asdict(config)))
    listed = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(config).items()}
    assert type(config)(**listed) == config


def test_small_integers_make_the_same_environment() -> None:
    ours = make(UPDATES, n_devices=np.uint8(10), samples_per_device=np.int16(60))
    theirs = make(UPDATES, n_devices=10, samples_per_device=60)
    assert_same(ours.reset(seed=0), theirs.reset(seed=0))
    assert ours.problem.pool_size == theirs.problem.pool_size
    assert make(UPDATES, bits=np.int16(32)).config.bits == 32


def test_comparisons_of_numpy_fields_and_parameters_are_written(tmp_path: Path) -> None:
    overrides = {
        "budget": np.int64(9),
        "validation_size": np.int16(50),
        "classes": np.array([3, 5]),
    }
    compare(PLAIN, ["random", "channel-aware"], episodes=2, overrides=overrides, out=tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["config"]["budget"] == 9
    assert written["config"]["classes"] == [3, 5]
    from edge_gym.baselines import make_baseline

    rule = make_baseline("channel-aware", make(PLAIN), max_snr_db=np.float32(12.5))
    assert json.dumps(asdict(rule.parameters))
    assert type(rule.parameters.max_snr_db) is float


DEEP: Any = []
for _ in range(3000):
    DEEP = [DEEP]
ZOO: tuple[Any, ...] = (
    3,
    -7,
    0,
    1.5,
    10**400,
    10**5000,
    float("nan"),
    float("inf"),
    1e300,
    -1e300,
    1e-300,
    True,
    None,
    "x",
    "",
    "y" * 10_000,
    b"bytes",
    1j,
    (),
    [],
    [[3], [5]],
    [None],
    ["a", "b"],
    [1, 1],
    [3, 2.5],
    list(range(10_000)),
    {"a": 1},
    {1, 2},
    np.array(["a", "b"]),
    np.array([[1, 2]]),
    np.zeros(3),
    np.array(3),
    np.datetime64("2020-01-01"),
    np.float32("nan"),
    object(),
    print,
    DEEP,
)


def test_any_value_is_taken_or_refused_in_one_line_that_names_the_field(name: str) -> None:
    config = make(name).config
    for field in fields(config):
        for value in ZOO:
            try:
                made = type(config)(**{field.name: value})
            except (TypeError, ValueError) as error:
                message = str(error)
                where = f"{field.name} = {shown(value)}: {message[:400]}"
                # One that is right by itself may not go with another, which is then named.
                named = [other.name for other in fields(config) if other.name in message]
                assert field.name in named or (named and isinstance(value, (int, float))), where
                assert "\n" not in message, where
                assert len(message) < LONGEST_MESSAGE, where
            else:
                # What was taken is in plain Python, and finite.
                json.dumps(getattr(made, field.name), allow_nan=False)


def test_messages_state_bounds_and_show_little() -> None:
    with pytest.raises(ValueError, match=r"^x must be a finite number in \(0, 10\], got 11$"):
        check_number("x", 11, 0, 10, open_low=True)
    for value in (10**5000, "y" * 10**6, DEEP, np.zeros((1000, 1000)), {i: i for i in range(999)}):
        assert len(shown(value)) <= 200
        assert "\n" not in shown(value)


SHARED_ENDS = [
    ("capacitance", 0),
    ("capacitance", 1e-300),
    ("bandwidth_hz", 1e300),
    ("bandwidth_hz", 1e-300),
    ("cell_radius_m", 1e300),
    ("cycles_per_flop", 1e-300),
    ("cpu_hz", (1e-300, 1.0)),
    ("learning_rate", 1e300),
    ("concentration", 1e-300),
    ("n_devices", 10**12),
]


@pytest.mark.parametrize(("field", "value"), SHARED_ENDS)
@pytest.mark.parametrize("federated", [UPDATES, "BatchSlot-v0", "TaskAllocation-v0", GRID])
def test_magnitudes_that_mean_nothing_are_refused_when_made(
    federated: str, field: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=rf"{field} must be .* in \["):
        make(federated, **{field: value})


def test_resets_do_not_fail_once_an_environment_is_made(name: str) -> None:
    config = make(name).config
    crowded = {"partition": "dirichlet", "n_devices": 27, "validation_size": 30, "test_size": 20}
    if "buffer_size" in rollouts.SMALL[name]:
        crowded["buffer_size"] = 10
    if hasattr(config, "concentration"):
        crowded["concentration"] = 0.01
    if hasattr(config, "cpu_groups_hz"):
        crowded["cpu_groups_hz"] = (1e9,)
    if getattr(config, "actions", "") == "combination":
        crowded["n_devices"] = 6
    lanes = make_vec(name, 2, **crowded)
    assert_same(lanes.reset(seed=42), lanes.reset(seed=42))


@pytest.mark.parametrize(
    ("crowded", "given", "message"),
    [
        (UPDATES, {"n_devices": 5000}, "too few for 10000 shards .*n_devices = 5000"),
        (
            UPDATES,
            {"n_devices": 9999, "partition": "iid", "samples_per_device": None},
            "n_devices = 9999: lower n_devices",
        ),
        (UPDATES, {"shards_per_device": 3000}, "shards_per_device = 3000.* samples_per_device"),
        (UPDATES, {"validation_size": 10**6}, "validation_size = 1000000 leaves nothing"),
        (PLAIN, {"validation_size": 1920, "n_devices": 50}, "initial_samples = 20: .*validation"),
        (PLAIN, {"n_devices": 1900}, "n_devices = 1900: lower n_devices"),
        ("DataScheduling-v0", {"buffer_size": 900}, "n_devices = 3 and buffer_size = 900"),
    ],
)
def test_too_few_samples_are_told_when_made(
    crowded: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(crowded, **given)


# --------------------------------------------------------------------------- steps of an episode


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_max_episode_steps_is_gymnasiums_time_limit(name: str, mode: AutoresetMode) -> None:
    size = {**rollouts.lasting(name, 6), "test_size": 100}
    ours = make_vec(name, 2, autoreset_mode=mode, max_episode_steps=4, **size)
    theirs = SyncVectorEnv([lambda: TimeLimit(make(name, **size), 4)] * 2, autoreset_mode=mode)
    assert_same(ours.reset(seed=3), theirs.reset(seed=3))
    actions = random_actions(ours.single_action_space)
    ends = 0
    for step in range(15):
        if step == 2:
            mask = np.array([True, False])
            both = [env.reset(options={"reset_mask": mask.copy()}) for env in (ours, theirs)]
            assert_same(*both)
        chosen = np.array([next(actions) for _ in range(2)])
        results = ours.step(chosen), theirs.step(chosen)
        assert_same(*results)
        _, _, terminated, truncated, infos = results[0]
        done = terminated | truncated
        ends += done.sum()
        if done.any() and mode == AutoresetMode.SAME_STEP:
            assert np.array_equal(infos["_final_info"], done)
        if done.any() and mode == AutoresetMode.DISABLED:
            both = [env.reset(options={"reset_mask": done.copy()}) for env in (ours, theirs)]
            assert_same(*both)
    assert ends >= 4


def test_the_limit_does_not_hide_the_end_of_the_problem() -> None:
    env = make_vec(PLAIN, 1, budget=3, max_episode_steps=3, autoreset_mode="SameStep")
    env.reset(seed=0)
    for _ in range(3):
        _, _, terminated, truncated, infos = env.step([0])
    assert terminated.all()
    assert truncated.all()
    assert "test_accuracy" in infos["final_info"]


def test_a_registration_of_ones_own_may_limit_steps() -> None:
    gym.register(
        id="mine/Updates-v0",
        entry_point="edge_gym.envs.update_scheduling.env:UpdateSchedulingEnv",
        vector_entry_point="edge_gym.envs.update_scheduling.env:UpdateSchedulingVectorEnv",
        max_episode_steps=2,
        kwargs=rollouts.SMALL[UPDATES],
    )
    try:
        given = {}
        for limit in (2, 3):
            lanes = gym.make_vec("mine/Updates-v0", num_envs=2, **given)
            lanes.reset(seed=0)
            action = np.ones(lanes.action_space.shape, np.float32)
            steps = [lanes.step(action)[3] for _ in range(limit)]
            assert [cut.all() for cut in steps] == [False] * (limit - 1) + [True]
            assert gym.make_vec(lanes.spec).unwrapped._max_steps == limit
            given = {"max_episode_steps": 3}
        assert gym.make_vec("mine/Updates-v0", max_episode_steps=-1)._max_steps is None
    finally:
        del gym.registry["mine/Updates-v0"]
    for wrong in (0, -2, 1.5, "3", True):
        with pytest.raises(ValueError, match="max_episode_steps must be an integer"):
            make_vec(PLAIN, 2, max_episode_steps=wrong)


def test_steps_elapsed_are_part_of_the_state() -> None:
    env = make_vec(PLAIN, 2, max_episode_steps=3)
    env.reset(seed=0)
    env.step([0, 0])
    state = env.get_state()
    env.step([0, 0])
    assert env.step([0, 0])[3].all()
    env.set_state(state)
    assert not env.step([0, 0])[3].any()
    assert env.step([0, 0])[3].all()


# ---------------------------------------------------------------------------------------- actions


def test_actions_that_rounding_left_outside_are_clipped() -> None:
    box = gym.spaces.Box(-1, 1, (2,), np.float32)
    over, under = np.nextafter(np.float32(1), np.float32(2)), np.nextafter(-1.0, -2.0)
    assert validate_action(box, np.array([over, under])).tolist() == [[1.0, -1.0]]
    assert validate_action(box, [over, -over]).tolist() == [[1.0, -1.0]]
    farther = np.nextafter(over, np.float32(2))
    for bad in (farther, -farther, 1 + 2e-7):
        with pytest.raises(
            ValueError, match=r"component \(0,\), is -?1.00000.*must be in \[-1, 1\]"
        ):
            validate_actions(box, [[bad, 0]], 1, np.zeros(1, np.int64))
    wide = gym.spaces.Box(0, 1000, (1,), np.float32)
    assert validate_action(wide, [-6e-5]).tolist() == [[0.0]]
    with pytest.raises(ValueError, match="must be in"):
        validate_action(wide, [-7e-5])
    endless = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    assert validate_action(endless, [3e38]).item() == 3e38


def test_actions_of_another_shape_are_refused(name: str) -> None:
    """Whole columns may be left out where a problem has a value for them, and nothing else."""
    env, lanes = make(name), make_vec(name, 2)
    env.reset(seed=0)
    lanes.reset(seed=0)
    shape = env.action_space.shape
    before = pickle.dumps(env.get_state()), pickle.dumps(lanes.get_state())
    wrong = [(*shape, 1), (3, *shape), (0,), (*shape[:-1], 77), *([()] if shape else [])]
    for other in wrong:
        with pytest.raises(ValueError, match="the action must have shape"):
            env.step(np.zeros(other, np.float32))
    for other in ((), (2, *shape, 1), (3, *shape), (2, 0), (2, *shape[:-1], 77)):
        with pytest.raises(ValueError, match="actions must have shape"):
            lanes.step(np.zeros(other, np.float32))
    assert (pickle.dumps(env.get_state()), pickle.dumps(lanes.get_state())) == before


def test_rescaled_actions_are_taken(name: str) -> None:
    if not isinstance(make(name).action_space, gym.spaces.Box):
        return
    for low, high in ((0.1, 0.9), (-3.3, 0.7), (0.0, 255.0)):
        env = RescaleAction(make(name), np.float32(low), np.float32(high))
        env.reset(seed=0)
        for end in (env.action_space.high, env.action_space.low):
            env.step(end)


# ------------------------------------------------------------------------------- seeds and copies


def first_numbers(env: Any) -> bytes:
    """Reset an environment and return what identifies the episode."""
    observation, _ = env.reset()
    return b"".join(part.tobytes() for part in rollouts.parts_of(observation).values())


COPIES: list[Callable[[Any], Any]] = [
    copy.deepcopy,
    lambda env: pickle.loads(pickle.dumps(env)),
    # Last, for it shares the lanes: once it is reset, the original is no longer new.
    copy.copy,
]


@pytest.mark.parametrize("num_envs", [None, 2], ids=["scalar", "vector"])
def test_copies_of_what_was_never_reset_draw_apart(name: str, num_envs: int | None) -> None:
    size = {**rollouts.lasting(name, 2), "test_size": 20}
    env = make(name, **size) if num_envs is None else make_vec(name, num_envs, **size)
    for duplicate in COPIES:
        assert len({first_numbers(duplicate(env)) for _ in range(3)}) == 3
    env.reset(seed=1)
    for duplicate in COPIES[:2]:
        assert len({first_numbers(duplicate(env)) for _ in range(3)}) == 1


def test_forks_of_what_was_never_reset_draw_apart() -> None:
    code = (
        "import os, rollouts\n"
        "from test_inputs import first_numbers\n"
        "import hashlib, sys\n"
        f"for name in ({PLAIN!r}, {UPDATES!r}):\n"
        "    for env in (rollouts.make(name), rollouts.make_vec(name, 2)):\n"
        "        for child in range(3):\n"
        "            pid = os.fork()\n"
        "            if not pid:\n"
        "                print(hashlib.sha256(first_numbers(env)).hexdigest(), flush=True)\n"
        "                os._exit(0)\n"
        "            os.waitpid(pid, 0)\n"
    )
    assert len(set(run_python(code).split())) == 12


def run_python(code: str, *flags: str) -> str:
    """Run ``code`` in a fresh interpreter that can import the tests' modules."""
    done = subprocess.run(
        [sys.executable, *flags, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS}/contract", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


NO_SEEDS = (1.9, "123", -1, True, np.float64(3), b"1", {}, np.array([[1]]))


@pytest.mark.parametrize("num_envs", [None, 3], ids=["scalar", "vector"])
def test_seeds_that_are_none_are_refused_before_anything_changes(num_envs: int | None) -> None:
    env: Any = make(UPDATES) if num_envs is None else make_vec(UPDATES, num_envs)
    env.reset(seed=5)
    action = np.zeros(env.action_space.shape, np.float32)
    env.step(action)
    before = pickle.dumps((env.get_state(), env.np_random_seed))
    bad: list[Any] = list(NO_SEEDS)
    if num_envs is not None:
        bad += [[1, 2, seed] for seed in NO_SEEDS] + [np.array([1.0, 2.0, 3.0])]
    mask = {"reset_mask": np.array([True, False, False])}
    for seed in bad:
        for options in (None, mask):
            with pytest.raises(
                ValueError, match=r"^seed must be an integer at least 0 or None, got"
            ):
                env.reset(seed=seed, options=options)
            assert pickle.dumps((env.get_state(), env.np_random_seed)) == before
    if num_envs is None:
        return
    for seed in ([1, 2], [1, 2, 3, 4], (), np.arange(2)):
        with pytest.raises(ValueError, match="3 lanes need 3 seeds, got"):
            env.reset(seed=seed)
    for wrong in ([True] * 3, np.ones(3), np.zeros(3, bool), np.ones(2, bool)):
        with pytest.raises((TypeError, ValueError), match="reset_mask"):
            env.reset(seed=1, options={"reset_mask": wrong})
    assert pickle.dumps((env.get_state(), env.np_random_seed)) == before


def test_seeds_of_numpy_are_those_of_python() -> None:
    scalar, vector = make(PLAIN), make_vec(PLAIN, 3)
    expected = scalar.reset(seed=9)
    assert_same(scalar.reset(seed=np.int64(9)), expected)
    together = vector.reset(seed=9)
    for seed in (np.uint8(9), [9, 10, 11], np.array([9, 10, 11], np.int32), (np.int64(9), 10, 11)):
        assert_same(vector.reset(seed=seed), together)
        assert vector.np_random_seed == (9, 10, 11)


# ----------------------------------------------------------------------------------------- states


def damaged(value: Any) -> list[Any]:
    """Return what a value of a state may have become."""
    if isinstance(value, np.ndarray):
        other = value.astype(np.float32 if value.dtype != np.float32 else np.int8)
        return [None, other, value[:0], value[..., None], np.concatenate([value, value])]
    if isinstance(value, bool):
        return [None, 1]
    return []


def paths(state: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where the values of a state are."""
    if isinstance(state, dict) and state and path[-1:] != ("generators",):
        return [path, *(one for key in state for one in paths(state[key], (*path, key)))]
    return [path]


def with_changed(state: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy with another value, or without it if that is ``Ellipsis``."""
    if not path:
        return value
    changed = dict(state)
    if len(path) == 1 and value is Ellipsis:
        del changed[path[0]]
    else:
        changed[path[0]] = with_changed(state[path[0]], path[1:], value)
    return changed


def value_at(state: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        state = state[key]
    return state


@pytest.mark.parametrize("num_envs", [None, 2], ids=["scalar", "vector"])
def test_damaged_states_change_nothing(name: str, num_envs: int | None) -> None:
    size = {**rollouts.lasting(name, 8), "test_size": 20}
    env: Any = make(name, **size) if num_envs is None else make_vec(name, num_envs, **size)
    space = env.action_space
    actions = random_actions(space if num_envs is None else env.single_action_space)
    env.reset(seed=1)

    def act() -> Any:
        return next(actions) if num_envs is None else [next(actions) for _ in range(num_envs)]

    for _ in range(3):
        env.step(act())
    foreign = env.get_state()
    env.step(act())
    before = pickle.dumps(env.get_state())
    for path in paths(foreign):
        value = value_at(foreign, path)
        if path[:1] == ("config",) and path != ("config",):
            continue
        wrong: list[Any] = [*([Ellipsis] if path else []), *damaged(value)]
        if path[-1:] == ("generators",):
            wrong += [value[:-1], [{}] * len(value), [{**value[0], "state": "x"}] * len(value), 3]
        for bad in wrong:
            with pytest.raises(ValueError, match=r"state|missing"):
                env.set_state(with_changed(foreign, path, bad))
            assert pickle.dumps(env.get_state()) == before, (path, shown(bad))
    env.set_state(foreign)
    assert pickle.dumps(env.get_state()) != before


def test_a_state_that_fails_half_way_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only shows when a state is restored, such as counts that do not fit, is undone."""
    env = make_vec(PLAIN, 2)
    env.reset(seed=0)
    env.step([1, 1])
    state = env.get_state()
    for _ in range(3):
        env.step([1, 0])
    before = pickle.dumps(env.get_state())
    learner = {**state["problem"]["learner"]}
    learner["count"] = learner["count"] + 500
    bad = {**state, "problem": {**state["problem"], "learner": learner}}
    with pytest.raises(ValueError, match="the state is damaged"):
        env.set_state(bad)
    assert pickle.dumps(env.get_state()) == before


# ------------------------------------------------------------------------------- other libraries


def test_masks_of_levels_have_the_form_of_maskable_ppo() -> None:
    from sb3_contrib import MaskablePPO

    from edge_gym.agents import LaneVecEnv

    env, lanes = make(GRID), make_vec(GRID, 4, autoreset_mode="SameStep")
    env.reset(seed=0)
    lanes.reset(seed=0)
    width = int(env.action_space.nvec.sum())
    assert env.action_masks().shape == (width,)
    assert lanes.action_masks().shape == (4, width)
    given = {"n_steps": 8, "batch_size": 8, "device": "cpu", "seed": 0}
    MaskablePPO("MultiInputPolicy", env, **given).learn(8)
    MaskablePPO("MultiInputPolicy", LaneVecEnv(lanes), **given).learn(32)


def test_real_masks_of_levels_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_contrib import MaskablePPO

    from edge_gym.baselines import make_baseline

    env = make(GRID)
    levels = env.action_space.nvec
    masks = np.zeros((1, int(levels.sum())), bool)
    # The second level is possible alone, of the last user the first and the last.
    starts = np.concatenate([[0], np.cumsum(levels)[:-1]])
    masks[0, starts[:-1] + 1] = True
    masks[0, [starts[-1], -1]] = True
    monkeypatch.setattr(env.problem, "action_masks", lambda: masks)
    taken = []
    step = env.step
    monkeypatch.setattr(
        env, "step", lambda action: (taken.append(np.array(action)), step(action))[1]
    )
    model = MaskablePPO("MultiInputPolicy", env, n_steps=16, batch_size=8, device="cpu", seed=0)
    model.learn(16)
    random = make_baseline("random", env)
    random.begin(np.zeros(1, np.int64), [0])
    taken += [random.act(None, masks)[0] for _ in range(30)]
    taken_array = np.array(taken)
    assert (taken_array[:, :-1] == 1).all()
    assert set(taken_array[:, -1]) == {0, levels[-1] - 1}


def test_lanes_wear_vector_wrappers() -> None:
    from stable_baselines3 import PPO

    from edge_gym.agents import LaneVecEnv

    def wrapped() -> Any:
        bare = make_vec(PLAIN, 2, budget=4, autoreset_mode="SameStep")
        return TransformReward(RecordEpisodeStatistics(bare), lambda reward: 10 * reward)

    env = LaneVecEnv(wrapped())
    plain = LaneVecEnv(make_vec(PLAIN, 2, budget=4, autoreset_mode="SameStep"), 10.0)
    for one in (env, plain):
        one.seed(3)
    np.testing.assert_array_equal(env.reset(), plain.reset())
    for _ in range(9):
        ours, theirs = env.step(np.ones(2, int)), plain.step(np.ones(2, int))
        for mine, other in zip(ours[:3], theirs[:3], strict=True):
            np.testing.assert_allclose(mine, other)
        for mine, other in zip(ours[3], theirs[3], strict=True):
            assert mine.keys() == other.keys()
    assert env.env_method("action_masks")[0].tolist() == env.action_masks()[0].tolist()
    assert env.get_attr("tables")[0] is env.lanes.tables
    PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu").learn(32)
    for save in (env.get_state, lambda: env.set_state(plain.get_state())):
        with pytest.raises(TypeError, match="the state of TransformReward cannot be saved: give"):
            save()
    env.close()


def test_wrappers_that_change_infos_are_refused_in_one_line() -> None:
    from edge_gym.agents import LaneVecEnv

    listed = DictInfoToList(make_vec(PLAIN, 2, autoreset_mode="SameStep"))
    with pytest.raises(TypeError, match=r"one dictionary of infos, and <DictInfo.* leave out"):
        LaneVecEnv(listed).reset()


@pytest.mark.slow
def test_python_without_docstrings(tmp_path: Path) -> None:
    """Compiled code is in the cache by then, from this very process or an earlier one."""
    make(UPDATES).reset(seed=0)
    code = (
        "import sys, rollouts\n"
        "assert not __debug__ and rollouts.make.__doc__ is None\n"
        f"for name in ({PLAIN!r}, {UPDATES!r}, {GRID!r}):\n"
        "    print(rollouts.digest(name))\n"
        "from edge_gym.cli.main import main\n"
        "from edge_gym.reports.describe import describe\n"
        f"told = describe({UPDATES!r})\n"
        "assert all('without docstrings' in setting.meaning for setting in told.settings)\n"
        f"for arguments in (['list'], ['describe', {GRID!r}], ['--help']):\n"
        "    assert main(arguments) == 0, arguments\n"
    )
    told = run_python(code, "-OO").split()[:3]
    assert told == [rollouts.digest(name) for name in (PLAIN, UPDATES, GRID)]
