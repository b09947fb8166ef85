"""The contract of decision problems."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from edge_gym.core.env import EdgeEnv
from edge_gym.core.problem import Problem
from edge_gym.core.registration import find_environment
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.testing.results import (
    assert_same,
    info_of,
    is_same,
    lane_of,
    parts_of,
    random_actions,
)

MakeEnv = Callable[[], Any]
"""Makes a scalar environment, without Gymnasium's wrappers."""

MakeVectorEnv = Callable[[int], Any]
"""Makes a vector environment of so many lanes that resets in the next step."""

DUPLICATES: Mapping[str, Callable[[Any], Any]] = {
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
}


def check_problem(
    problem: type[Problem] | str, overrides: Mapping[str, Any] | None = None, steps: int = 40
) -> None:
    """Check that a decision problem keeps what this package and Gymnasium promise.

    Checked are Gymnasium's own contract, spaces, tables and masks, seeds, that lanes equal scalar
    environments whatever their number, that copies and restored states go on alike, and pickling.

    Args:
        problem: A ``Problem``'s class, or an id.
        overrides: Fields of the configuration; choose a small one with short episodes.
        steps: Steps that are compared.

    Raises:
        AssertionError: If something is broken; the message says what.
        ValueError: If the id or a value is unknown or out of range.
    """
    make, make_vector = makers(problem, overrides or {})
    check_interface(make)
    check_masks(make, steps)
    check_observations(make, steps)
    check_seeds(make)
    check_lanes(make, make_vector, 3, steps)
    check_number_of_lanes(make_vector, steps)
    for name, duplicate in DUPLICATES.items():
        check_copies(make, None, duplicate, steps, name)
        check_copies(functools.partial(make_vector, 3), 3, duplicate, steps, name)
    check_states(make, None, steps)
    check_states(functools.partial(make_vector, 3), 3, steps)


def makers(
    problem: type[Problem] | str, overrides: Mapping[str, Any]
) -> tuple[MakeEnv, MakeVectorEnv]:
    """Return what makes a problem's scalar and vector environments."""
    if isinstance(problem, str):
        spec = find_environment(problem)
        # Gymnasium's time limit is a wrapper of the scalar environment.
        limited = gym.spec(spec.id).max_episode_steps is not None
        given = {**overrides, **({"max_episode_steps": -1} if limited else {})}
        return (
            lambda: gym.make(spec.id, disable_env_checker=True, **given).unwrapped,
            lambda lanes: spec.make_vector(lanes, **given),
        )
    assert isinstance(problem, type), f"expected a subclass of Problem or an id, got {problem!r}"
    assert issubclass(problem, Problem), f"{problem.__name__} is no subclass of Problem"
    return (
        lambda: EdgeEnv(problem=problem, **overrides),
        lambda lanes: EdgeVectorEnv(lanes, problem=problem, **overrides),
    )


def check_interface(make: MakeEnv) -> None:
    """Check Gymnasium's own contract, whose warnings are given on."""
    try:
        check_env(make(), skip_render_check=True)
    except Exception as error:
        raise AssertionError(f"Gymnasium's check_env: {' '.join(str(error).split())}") from error


def check_observations(make: MakeEnv, steps: int = 40) -> None:
    """Check spaces, tables and the types of what is returned."""
    env = make()
    space = env.observation_space
    boxes: Mapping[str, Any] = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    assert boxes.keys() == env.tables.keys(), (
        f"tables are of {sorted(env.tables)}, observations have {sorted(boxes)}"
    )
    for part, table in env.tables.items():
        where = f"table {part!r}" if part else "the table"
        box = boxes[part]
        names = [column.name for column in table]
        assert len(set(names)) == len(names), f"{where} names a column twice"
        assert box.shape[-1] == len(table), (
            f"{where} has {len(table)} columns, its observations {box.shape[-1]}"
        )
        low, high = np.broadcast_to(table.low, box.shape), np.broadcast_to(table.high, box.shape)
        assert np.array_equal(box.low, low), f"{where} has other lower bounds than the space"
        assert np.array_equal(box.high, high), f"{where} has other upper bounds than the space"
        for column in table:
            assert column.spread > 0, f"{where}, {column.name}: the spread must be above 0"
    for observation, info, *step in _episode(env, steps):
        for part, values in parts_of(observation).items():
            assert values.dtype == np.float32, f"observations {part!r} are {values.dtype}"
        assert space.contains(observation), "an observation is outside the space"
        for name, value in info.items():
            assert isinstance(value, (bool, int, float)), f"info {name!r} is no number"
            assert np.isfinite(value), f"info {name!r} is {value}"
        if step:
            assert type(step[0]) is float, f"the reward is a {type(step[0]).__name__}"
            assert np.isfinite(step[0]), f"the reward is {step[0]}"


def check_masks(make: MakeEnv, steps: int = 40) -> None:
    """Check that masks have the size of the action space and leave something to do."""
    env = make()
    space = env.action_space
    if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        return
    sizes = [int(space.n)] if isinstance(space, spaces.Discrete) else space.nvec.tolist()
    for _ in _episode(env, steps):
        mask = env.action_masks()
        assert mask.dtype == np.bool_, f"masks are of {mask.dtype}, not of truth values"
        assert mask.shape == (sum(sizes),), f"a mask has shape {mask.shape}, not {(sum(sizes),)}"
        for part in np.split(mask, np.cumsum(sizes)[:-1]):
            assert part.any(), "a mask leaves no action"


def check_seeds(make: MakeEnv) -> None:
    """Check that a seed fixes an episode, others differ, and none goes on."""
    env = make()
    first = _whole(env, 1)
    second = _whole(env, None)
    assert not is_same(first, second), "reset() without a seed repeats the episode before"
    assert not is_same(first, _whole(env, 2)), "episodes of two seeds are equal"
    assert_same(_whole(env, 1), first, what="a seed's episode again")
    assert_same(_whole(env, None), second, what="the episode after a seed's again")
    assert_same(_whole(make(), 1), first, what="a seed's episode in another instance")


def check_lanes(
    make: MakeEnv, make_vector: MakeVectorEnv, num_envs: int, steps: int = 40, episodes: int = 2
) -> None:
    """Check that lane i seeded s is the scalar environment seeded s + i.

    Args:
        make: Makes the scalar environment.
        make_vector: Makes the vector environment.
        num_envs: Number of lanes; the first and the last are compared.
        steps: Most steps that are compared.
        episodes: Stop after so many episodes of each.
    """
    seed = 20
    vector = make_vector(num_envs)
    scalars = {lane: make() for lane in {0, num_envs - 1}}
    observations, infos = vector.reset(seed=seed)
    for lane, env in scalars.items():
        what = f"reset of lane {lane} of {num_envs} and of a scalar environment"
        ours = lane_of(observations, lane), info_of(infos, lane)
        assert_same(ours, env.reset(seed=seed + lane), what=what)
    streams = [random_actions(vector.single_action_space, i) for i in range(num_envs)]
    over = dict.fromkeys(scalars, False)
    ended = dict.fromkeys(scalars, 0)
    for position in range(steps * episodes):
        actions = _next_actions(vector, streams)
        observations, rewards, terminated, truncated, infos = vector.step(np.array(actions))
        for lane, env in scalars.items():
            what = f"step {position} of lane {lane} of {num_envs} and of a scalar environment"
            ours = (lane_of(observations, lane), rewards[lane].item())
            if over[lane]:
                observation, info = env.reset()
                assert_same((*ours, info_of(infos, lane)), (observation, 0.0, info), what=what)
                over[lane] = False
                continue
            ends = terminated[lane].item(), truncated[lane].item()
            step = env.step(actions[lane])
            assert_same((*ours, *ends, info_of(infos, lane)), step, what=what)
            over[lane] = step[2] or step[3]
            ended[lane] += over[lane]
        if min(ended.values()) >= episodes:
            return


def check_number_of_lanes(make_vector: MakeVectorEnv, steps: int = 40) -> None:
    """Check that a lane's episode does not depend on how many lanes there are."""
    few, many = make_vector(2), make_vector(5)
    first, *_ = few.reset(seed=7)
    second, *_ = many.reset(seed=7)
    streams = [random_actions(many.single_action_space, lane) for lane in range(5)]
    for position in range(steps):
        for lane in range(2):
            assert_same(
                lane_of(first, lane),
                lane_of(second, lane),
                what=f"observation {position} of lane {lane} of 2 and of 5",
            )
        actions = np.array(_next_actions(many, streams))
        first, *_ = few.step(actions[:2])
        second, *_ = many.step(actions)


def check_copies(
    make: Callable[[], Any],
    num_envs: int | None,
    duplicate: Callable[[Any], Any],
    steps: int = 40,
    how: str = "a copy",
) -> None:
    """Check that a copy in the middle of an episode goes on as the environment itself does.

    Args:
        make: Makes the environment.
        num_envs: Its number of lanes; None of a scalar environment.
        duplicate: Copies it.
        steps: Most steps that are compared.
        how: What copies, for messages.
    """
    env, actions = _mid_episode(make, num_envs, steps)
    twin = duplicate(env)
    expected = _play(env, actions)
    assert_same(_play(twin, actions), expected, what=f"{how} goes on")
    assert_same(twin.reset(), env.reset(), what=f"{how}, its next episode")


def check_states(make: Callable[[], Any], num_envs: int | None, steps: int = 40) -> None:
    """Check that a state restored, here and in another instance, goes on alike.

    Args:
        make: Makes the environment.
        num_envs: Its number of lanes; None of a scalar environment.
        steps: Most steps that are compared.
    """
    env, actions = _mid_episode(make, num_envs, steps)
    state = pickle.loads(pickle.dumps(env.get_state()))
    expected = _play(env, actions)
    other = make()
    for _ in range(2):
        other.set_state(state)
        assert_same(_play(other, actions), expected, what="a state restored in another instance")
    assert_same(other.reset(), env.reset(), what="the episode after a restored state")
    env.set_state(state)
    assert_same(_play(env, actions), expected, what="a state restored")


def _episode(env: Any, steps: int) -> Iterator[tuple[Any, ...]]:
    """Yield observation and info, after steps also reward and ends, of random actions."""
    observation, info = env.reset(seed=3)
    yield observation, info
    streams = [random_actions(env.action_space)]
    for _ in range(steps):
        (action,) = _next_actions(env, streams)
        observation, reward, terminated, truncated, info = env.step(action)
        for name, end in (("terminated", terminated), ("truncated", truncated)):
            assert type(end) is bool, f"{name} is a {type(end).__name__}"
        yield observation, info, reward, terminated, truncated
        if terminated or truncated:
            return


def _whole(env: Any, seed: int | None, steps: int = 20) -> list[Any]:
    """Return an episode's first steps under actions that follow from nothing else."""
    found: list[Any] = [env.reset(seed=seed)]
    streams = [random_actions(env.action_space)]
    for _ in range(steps):
        found.append(env.step(*_next_actions(env, streams)))
        if found[-1][2] or found[-1][3]:
            break
    return found


def _next_actions(env: Any, streams: list[Any]) -> list[Any]:
    """Return an action that is possible now for each stream."""
    masks = _masks(env)
    if masks is None:
        return [next(stream) for stream in streams]
    for stream in streams:
        next(stream)  # what is drawn before the mask is known is thrown away
    return [stream.send(mask) for stream, mask in zip(streams, np.atleast_2d(masks), strict=True)]


def _masks(env: Any) -> Any:
    try:
        return env.action_masks()
    except AttributeError:
        return None


def _mid_episode(
    make: Callable[[], Any], num_envs: int | None, steps: int
) -> tuple[Any, list[Any]]:
    """Return an environment within an episode, and actions that go on to its end at most."""
    env = make()
    space = env.action_space if num_envs is None else env.single_action_space
    lanes = num_envs or 1
    actions = _possible(make(), [random_actions(space, 5 + lane) for lane in range(lanes)], steps)
    env.reset(seed=8)
    half = len(actions) // 3
    _play(env, actions[:half])
    return env, actions[half:]


def _possible(env: Any, streams: list[Any], steps: int) -> list[Any]:
    """Return actions of an episode from seed 8, up to its end in a scalar environment."""
    env.reset(seed=8)
    actions: list[Any] = []
    scalar = not hasattr(env, "num_envs")
    while len(actions) < steps:
        chosen = _next_actions(env, streams)
        actions.append(chosen[0] if scalar else np.array(chosen))
        _, _, terminated, truncated, _ = env.step(actions[-1])
        if scalar and (terminated or truncated):
            break
    return actions


def _play(env: Any, actions: list[Any]) -> list[Any]:
    return [env.step(action) for action in actions]
