"""The environments of offloading: lanes, states, checkers."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from plain_offloading import COMBINATION, GRID, MOVING, SMALL, actions_for, direct, make, many
from references import global_model
from rollouts import assert_same
from stable_baselines3.common.env_checker import check_env as check_for_sb3

from edge_gym.envs.offloading.env import OffloadingEnv, OffloadingVectorEnv


@pytest.mark.parametrize(
    ("mode", "fields"),
    [
        (AutoresetMode.NEXT_STEP, {}),
        (AutoresetMode.SAME_STEP, GRID),
        (AutoresetMode.NEXT_STEP, {**COMBINATION, **MOVING}),
    ],
)
def test_a_lane_equals_the_scalar_environment(mode: AutoresetMode, fields: dict[str, Any]) -> None:
    fields = {**SMALL, "period": 2, "iterations": 4, **fields}
    ours: Any = OffloadingVectorEnv(3, autoreset_mode=mode, **fields)
    theirs = SyncVectorEnv([lambda: OffloadingEnv(**fields)] * 3, autoreset_mode=mode)
    assert_same(ours.reset(seed=3), theirs.reset(seed=3))
    chosen = actions_for(ours.config)
    ends, stale = 0, False
    for step in range(13):
        if step == 2:
            # Lanes at different iterations: some have tasks, some have not.
            mask = np.array([False, True, False])
            both = [env.reset(options={"reset_mask": mask.copy()}) for env in (ours, theirs)]
            assert_same(*both)
        action = np.array([next(chosen) for _ in range(3)])
        results = ours.step(action), theirs.step(action)
        assert_same(*results)
        ends += results[0][2].sum()
        stale |= bool(ours.problem.staleness.any())
    assert ends >= 6
    assert stale


@pytest.mark.parametrize("fields", [{}, GRID, {**COMBINATION, **MOVING}])
def test_episodes_go_on_from_their_state(fields: dict[str, Any]) -> None:
    env, twin = (make(iterations=9, period=1, **fields) for _ in range(2))
    env.reset(seed=0)
    chosen = list(itertools.islice(actions_for(env.config), 9))
    for action in chosen[:4]:
        env.step(action)
    problem = env.problem
    assert problem.staleness.any()
    assert (problem.held[0] != global_model(env)).any()
    state = env.get_state()
    twin.reset(seed=99)
    twin.step(chosen[0])
    twin.set_state(state)
    for name, value in vars(problem).items():
        if isinstance(value, np.ndarray):
            found = vars(twin.problem)[name]
            if name == "rows":
                # The twin may have had room for more before.
                found, more = np.split(found, [value.shape[2]], axis=2)
                assert not more.any()
            np.testing.assert_array_equal(found, value, err_msg=name)
    for action in chosen[4:]:
        assert_same(env.step(action), twin.step(action))
    env.reset(seed=5)
    env.set_state(state)
    assert_same(env.get_state(), state)


def test_a_state_moves_to_another_lane() -> None:
    ours, theirs = (many(3, period=1, iterations=9, size_spread=0.5) for _ in range(2))
    chosen = actions_for(ours.config)
    for _ in range(4):
        ours.step(np.array([next(chosen) for _ in range(3)]))
    assert ours.problem.staleness[1].any()
    others = theirs.problem.held[[0, 1]]
    theirs.problem.set_state(np.array([2]), ours.problem.get_state(np.array([1])))
    np.testing.assert_array_equal(theirs.problem.held[[0, 1]], others)
    for _ in range(5):
        action = next(chosen)
        wanted = lane_of_step(ours.step(np.array([action] * 3)), 1)
        assert_same(lane_of_step(theirs.step(np.array([action] * 3)), 2), wanted)


def lane_of_step(step: Any, lane: int) -> Any:
    observation, reward, *_, info = step
    return (
        {part: values[lane] for part, values in observation.items()},
        float(reward[lane]),
        {name: float(info[name][lane]) for name in ("wsel", "validation_loss", "staleness")},
    )


@pytest.mark.parametrize(
    ("fields", "everything"), [({}, direct(1)), ({**GRID, **MOVING}, np.full(3, 5))]
)
def test_a_new_episode_knows_nothing_of_the_last_one(
    fields: dict[str, Any], everything: NDArray[Any]
) -> None:
    env, fresh = make(period=1, **fields), make(period=1, **fields)
    env.reset(seed=0)
    for action in [*itertools.islice(actions_for(env.config), 2), everything]:
        env.step(action)
    assert env.problem.staleness.any()
    assert_same(env.reset(seed=1), fresh.reset(seed=1))
    for action in itertools.islice(actions_for(env.config), 5):
        assert_same(env.step(action), fresh.step(action))
    ours, theirs = (e.problem.scene(0) for e in (env, fresh))
    assert (ours.title, ours.text) == (theirs.title, theirs.text)


@pytest.mark.parametrize("fields", [{}, GRID, COMBINATION])
def test_checkers_find_nothing(fields: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(**fields), skip_render_check=True)
        # It expects vectors or images.
        warnings.filterwarnings("ignore", "Your observation devices has an unconventional shape")
        check_for_sb3(make(**fields))
