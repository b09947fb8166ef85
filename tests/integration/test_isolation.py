"""runtime.isolation: settings of NumPy and torch neither break nor change what is computed."""

from __future__ import annotations

import contextlib
import copy
import os
import random
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import rollouts
import torch
from rollouts import assert_same, random_actions

from edge_gym.agents import load_agent, shipped_agents
from edge_gym.baselines import applicable_baselines, make_baseline
from edge_gym.learning.averaging import average
from edge_gym.learning.federated import FederatedLearner
from edge_gym.learning.networks.factory import make_network
from edge_gym.runtime.isolation import in_isolation, isolated
from edge_gym.runtime.threads import for_ranges

NAMES = [name for name in rollouts.NAMES if name not in rollouts.NEEDS_DATA]
# One of each problem, and of each way to learn.
KINDS = [
    "Retransmission-v0",
    "RetransmissionCNN-v0",
    "DataScheduling-v0",
    "DataSchedulingCNN-v0",
    "UpdateScheduling-v0",
    "BatchSlot-v0",
    "TaskAllocation-v0",
    "JointTaskResource-v0",
    "Offloading-v0",
]
Setting = Callable[[], contextlib.AbstractContextManager[Any]]


def setting(set_it: Callable[[], Any], put_back: Callable[[], Any]) -> Setting:
    @contextlib.contextmanager
    def within() -> Iterator[None]:
        set_it()
        try:
            yield
        finally:
            put_back()

    return within


@contextlib.contextmanager
def warnings_as_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextlib.contextmanager
def printed_shortly() -> Iterator[None]:
    with np.printoptions(precision=1, threshold=2, legacy="1.13"):
        yield


SETTINGS: dict[str, Setting] = {
    "default dtype": setting(
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_default_dtype(torch.float32),
    ),
    "default device": setting(
        lambda: torch.set_default_device("meta"), lambda: torch.set_default_device(None)
    ),
    "device as a context": lambda: torch.device("meta"),
    "deterministic": setting(
        lambda: torch.use_deterministic_algorithms(True),
        lambda: torch.use_deterministic_algorithms(False),
    ),
    "matrix products": setting(
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: torch.set_float32_matmul_precision("highest"),
    ),
    "oneDNN": setting(
        lambda: setattr(torch.backends.mkldnn, "enabled", False),
        lambda: setattr(torch.backends.mkldnn, "enabled", True),
    ),
    "denormals": setting(
        lambda: torch.set_flush_denormal(True), lambda: torch.set_flush_denormal(False)
    ),
    "threads": setting(lambda: torch.set_num_threads(3), lambda: torch.set_num_threads(1)),
    "autocast": lambda: torch.autocast("cpu"),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "gradients disabled": lambda: torch.set_grad_enabled(False),
    "errors": setting(
        lambda: np.seterr(all="raise"), lambda: np.seterr(all="warn", under="ignore")
    ),
    "underflow": lambda: np.errstate(under="raise"),
    "buffers": setting(lambda: np.setbufsize(16), lambda: np.setbufsize(8192)),
    "printing": printed_shortly,
    "warnings": warnings_as_errors,
}


pytestmark = pytest.mark.usefixtures("one_torch_thread")


@contextlib.contextmanager
def all_settings() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for within in SETTINGS.values():
            stack.enter_context(within())
        yield


def found() -> dict[str, Any]:
    """Return all that should be found unchanged."""
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "modes": torch._C._len_torch_function_stack(),
        "deterministic": torch.get_deterministic_debug_mode(),
        "precision": torch.get_float32_matmul_precision(),
        "onednn": torch.backends.mkldnn.enabled,
        "denormals": sys.float_info.min / float("2"),
        "threads": torch.get_num_threads(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "gradients": (torch.is_inference_mode_enabled(), torch.is_grad_enabled()),
        "errors": np.geterr(),
        "buffers": np.getbufsize(),
        "printing": repr(np.get_printoptions()),
        "generators": (
            torch.default_generator.get_state().tolist(),
            repr(np.random.get_state()),  # noqa: NPY002
            random.getstate(),
        ),
    }


def lived_through(name: str) -> list[Any]:
    """Return what an environment gives, alone and in lanes, over the end of an episode."""
    size = rollouts.brief(name)
    env: Any = gym.make(f"edge_gym/{name}", render_mode="rgb_array", **size).unwrapped
    twin: Any = gym.make(f"edge_gym/{name}", **size).unwrapped
    lanes: Any = gym.make_vec(f"edge_gym/{name}", 3, **size)
    given: list[Any] = [env.reset(seed=3), lanes.reset(seed=4)]
    for action, actions in zip(range(6), random_actions(lanes.action_space), strict=False):
        given.append(lanes.step(actions))
        if action == 1:
            given.append(env.render())
            twin.reset(seed=0)
            twin.set_state(env.get_state())
            lanes.set_state(lanes.get_state())
    for player in (env, twin):
        stream = random_actions(env.action_space)
        for action, _ in zip(stream, range(2), strict=False):
            step = player.step(action)
            given.append(step)
            if step[2] or step[3]:
                break
    if isinstance(env.action_space, gym.spaces.Discrete):
        given += [env.action_masks(), lanes.action_masks()]
    return given


@cache
def as_it_should_be(name: str) -> list[Any]:
    return lived_through(name)


@pytest.mark.parametrize("name", NAMES)
def test_all_settings_at_once_change_nothing(name: str) -> None:
    expected = as_it_should_be(name)
    with all_settings():
        before = found()
        given = lived_through(name)
        assert found() == before
    assert_same(given, expected)


@pytest.mark.parametrize("title", SETTINGS)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "UpdateScheduling-v0" else pytest.mark.slow)
        for name in KINDS
    ],
)
def test_no_setting_changes_anything(name: str, title: str) -> None:
    expected = as_it_should_be(name)
    with SETTINGS[title]():
        before = found()
        given = lived_through(name)
        assert found() == before
    assert_same(given, expected)


@pytest.mark.parametrize("name", KINDS)
def test_episodes_may_begin_under_settings_and_go_on_without(name: str) -> None:
    size = rollouts.brief(name)

    def steps(begin: Setting, go_on: Setting) -> list[Any]:
        with begin():
            env = gym.make(f"edge_gym/{name}", **size).unwrapped
            given: list[Any] = [env.reset(seed=5)]
        for action, _ in zip(random_actions(env.action_space), range(2), strict=False):
            with go_on():
                given.append(env.step(action))
        return given

    expected = steps(contextlib.nullcontext, contextlib.nullcontext)
    for begin, go_on in (
        (all_settings, contextlib.nullcontext),
        (contextlib.nullcontext, all_settings),
    ):
        assert_same(steps(begin, go_on), expected)


@pytest.mark.parametrize("name", KINDS)
def test_copies_made_under_settings_go_on_without(name: str) -> None:
    envs: tuple[Any, ...] = (
        gym.make(f"edge_gym/{name}", **rollouts.brief(name)).unwrapped,
        gym.make_vec(f"edge_gym/{name}", 2, **rollouts.brief(name)),
    )
    for env in envs:
        env.reset(seed=6)
        with all_settings():
            twin = copy.deepcopy(env)
        action = next(random_actions(env.action_space))
        assert_same(twin.step(action), env.step(action))
        assert twin.problem is not env.problem


@pytest.mark.parametrize("name", KINDS)
def test_settings_survive_errors(name: str) -> None:
    with all_settings():
        before = found()
        with pytest.raises(ValueError, match="must be"):
            gym.make(f"edge_gym/{name}", validation_size=-1)
        env = gym.make(f"edge_gym/{name}", **rollouts.brief(name)).unwrapped
        with pytest.raises(gym.error.ResetNeeded):
            env.step(0)
        env.reset(seed=0)
        with pytest.raises(ValueError, match="action"):
            env.step("nothing")
        assert found() == before


@pytest.mark.parametrize("name", NAMES)
def test_rules_and_shipped_agents_act_as_ever(name: str) -> None:
    env: Any = gym.make_vec(f"edge_gym/{name}", 2, **rollouts.brief(name))
    observations, _ = env.reset(seed=1)
    masks = env.action_masks() if isinstance(env.single_action_space, gym.spaces.Discrete) else None

    def actions() -> dict[str, Any]:
        chosen = {}
        policies = {rule: make_baseline(rule, env) for rule in applicable_baselines(env)}
        for agent in shipped_agents(name):
            with contextlib.suppress(ValueError):  # Trained for other numbers of devices.
                policies[agent] = load_agent(agent, env)
        for title, policy in policies.items():
            policy.begin(np.arange(2), [1, 2])
            chosen[title] = policy.act(observations, masks)
        return chosen

    expected = actions()
    with all_settings():
        before = found()
        assert_same(actions(), expected)
        assert found() == before


@pytest.mark.parametrize("title", SETTINGS)
def test_networks_of_torchvision_learn_as_ever(title: str) -> None:
    features = rollouts.make("BatchSlot-v0", image_size=28).problem.features

    def learned() -> list[Any]:
        network = make_network("mobilenet-v2", features.image_shape, 10)
        learner = FederatedLearner(1, network, features)
        learner.reset(np.arange(1), [np.random.default_rng(0)])
        gradients, losses = learner.gradients(np.arange(1), np.arange(4).reshape(1, 1, 4))
        learner.apply(np.arange(1), average(gradients, [1]), 0.1)
        return [losses, learner.weights.numpy().copy()]

    expected = in_isolation(learned)()
    with SETTINGS[title]():
        before = found()
        assert_same(in_isolation(learned)(), expected)
        assert found() == before


# --------------------------------------------------------------------------------------- threads


def threads_elsewhere() -> int:
    """Return the number of torch's threads in a thread that begins now."""
    counts: list[int] = []
    thread = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return counts[0]


def test_no_race_leaves_a_thread_with_one_torch_thread() -> None:
    torch.set_num_threads(7)
    left: list[int] = []
    go = threading.Barrier(4)

    def enter_and_leave(seed: int) -> None:
        rng = np.random.default_rng(seed)
        go.wait()
        for _ in range(20):
            with isolated():
                assert torch.get_num_threads() == 1
                time.sleep(rng.uniform(0, 2e-3))
            left.append(torch.get_num_threads())

    for _ in range(3):
        threads = [threading.Thread(target=enter_and_leave, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert left == [7] * 240
    assert torch.get_num_threads() == threads_elsewhere() == 7


def test_our_own_threads_leave_later_ones_what_the_user_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of the pool began with another number, which they must not put back."""
    monkeypatch.setenv("EDGE_GYM_THREADS", "3")
    torch.set_num_threads(2)
    for_ranges(lambda start, stop: time.sleep(1e-3), 24)
    torch.set_num_threads(7)
    for_ranges(lambda start, stop: time.sleep(1e-3), 24)
    assert torch.get_num_threads() == threads_elsewhere() == 7


def test_a_thread_that_begins_meanwhile_is_no_poorer() -> None:
    torch.set_num_threads(5)
    counts: list[int] = []

    def enter() -> None:
        with isolated():
            counts.append(torch.get_num_threads())
        counts.append(torch.get_num_threads())

    with isolated():
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert counts == [1, 5]
    assert torch.get_num_threads() == threads_elsewhere() == 5


def test_who_leaves_first_takes_nothing_from_who_stays() -> None:
    torch.set_num_threads(3)
    torch.set_default_dtype(torch.float64)
    try:
        inside, leave = threading.Event(), threading.Event()

        def stay() -> None:
            with isolated():
                inside.set()
                leave.wait(30)

        thread = threading.Thread(target=stay)
        thread.start()
        inside.wait(30)
        with isolated():
            assert torch.get_default_dtype() == torch.float32
        with isolated():
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_num_threads() == 3
        leave.set()
        thread.join()
        assert torch.get_default_dtype() == torch.float64
        assert threads_elsewhere() == 3
    finally:
        torch.set_default_dtype(torch.float32)


def test_it_may_be_entered_within_itself_and_left_by_errors() -> None:
    torch.set_num_threads(2)
    with np.errstate(all="raise"):
        with pytest.raises(ZeroDivisionError), isolated():  # noqa: PT012
            with isolated():
                assert np.geterr()["under"] == "ignore"
            assert torch.get_num_threads() == 1
            assert np.geterr()["under"] == "ignore"
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
        assert np.geterr()["under"] == "raise"


def test_torch_is_not_imported_for_it() -> None:
    code = (
        "import sys, gymnasium as gym, edge_gym\n"
        "env = gym.make('edge_gym/Retransmission-v0', budget=40)\n"
        "env.reset(seed=0), env.step(1)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == "False"


# ----------------------------------------------------------------------------------- processes

ASYNC = """
import functools, sys
import gymnasium as gym, numpy as np, torch
import edge_gym
from gymnasium.vector import AsyncVectorEnv

def make(name):
    return gym.make(f"edge_gym/{name}")

if __name__ == "__main__":
    context, *names = sys.argv[1:]
    torch.set_num_threads(4)
    data = torch.randn(1000, 1000)
    torch.exp(data @ data)
    for name in names:
        env = make(name)
        env.reset(seed=0)
        env.action_space.seed(0)
        env.step(env.action_space.sample())
    torch.exp(data @ data)
    for name in names:
        print(name, end=" ", flush=True)
        lanes = AsyncVectorEnv([functools.partial(make, name)] * 2, context=context)
        lanes.reset(seed=0)
        lanes.action_space.seed(0)
        for _ in range(2):
            rewards = lanes.step(lanes.action_space.sample())[1]
        assert np.isfinite(rewards).all()
        lanes.close()
        print("runs", flush=True)
"""


def run_async(folder: Path, context: str, names: list[str]) -> None:
    script = folder / "run_async.py"
    script.write_text(ASYNC)
    free = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    free.pop("EDGE_GYM_THREADS", None)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), context, *names],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=free,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=60 + 60 * len(names))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output, _ = process.communicate()
        pytest.fail(f"hangs: {output}")
    assert process.returncode == 0, output
    assert [line for line in output.splitlines() if line] == [f"{name} runs" for name in names]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
@pytest.mark.parametrize(
    "names",
    [
        KINDS,
        pytest.param([n for n in NAMES if n not in KINDS], marks=pytest.mark.slow),
    ],
    ids=["kinds", "others"],
)
def test_processes_are_forked_where_torch_ran(names: list[str], tmp_path: Path) -> None:
    """At the sizes that are the default, where torch would use several threads."""
    run_async(tmp_path, "fork", names)


@pytest.mark.slow
@pytest.mark.parametrize("context", ["forkserver", "spawn"])
def test_processes_begin_anew(context: str, tmp_path: Path) -> None:
    if not hasattr(os, "fork") and context == "forkserver":
        pytest.skip("this platform cannot fork")
    run_async(tmp_path, context, KINDS)
