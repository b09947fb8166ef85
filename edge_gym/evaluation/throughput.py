"""How fast the environments are, and beside what."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from edge_gym.baselines import applicable_baselines, make_baseline
from edge_gym.core.registration import find_environment
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.evaluation.rollouts import TaskProgress
from edge_gym.evaluation.seeds import TRAINING
from edge_gym.learning.svm.learner import SVMLearner
from edge_gym.runtime.checks import check_integer, check_number
from edge_gym.runtime.threads import thread_count

LANES = (1, 16, 64, 256)
COMPARED_LANES = 64
# The rule that shares its receptions out most like a trained agent, where it applies.
_POLICIES = (
    "support-vector-aware",
    "optimal-batch-slot",
    "ha-asyn",
    "joint-task-resource",
    "near-optimal",
    "channel-aware",
    "random",
)
_WARM_UP = 20
_PATIENCE = 10
_SKLEARN = "scikit-learn refits"
# Methods of the learners, of samples that arrive and of federated rounds.
_LEARNING = ("reset", "append", "fit", "gradients", "local_updates", "apply", "add", "norms")
_SCORING = ("score", "assess", "assess_rows")


@dataclass(frozen=True)
class Speed:
    """One measurement.

    Attributes:
        what: What was measured.
        lanes: Episodes at a time.
        whole: Whether whole episodes were measured; parts of them are their cheaper beginnings.
        steps_per_second: Steps of single lanes, the policy's own time left out.
        shares: Of the time: learning (appending and training), scoring (validating and judging
            samples), and the rest; None where it was not taken apart.
    """

    what: str
    lanes: int
    whole: bool
    steps_per_second: float
    shares: tuple[float | None, float | None, float | None] = (None, None, None)


@dataclass(frozen=True)
class Speeds:
    """The measurements of one environment.

    Attributes:
        environment: Its id.
        policy: What acted.
        threads: Threads that kernels use.
        rows: The measurements.
        notes: Ratios, and what could not be measured.
    """

    environment: str
    policy: str
    threads: int
    rows: list[Speed]
    notes: list[str]


class SklearnLearner(SVMLearner):
    """The same machines, each refitted from scratch by scikit-learn, as scripts usually do it."""

    def __init__(self, like: SVMLearner) -> None:
        machines = like.machines
        super().__init__(
            like.n_lanes,
            like.n_features,
            like.n_classes,
            C=machines.C,
            tolerance=machines.tolerance,
        )
        self._samples: list[list[NDArray[Any]]] = [[] for _ in range(like.n_lanes)]
        self._labels: list[list[int]] = [[] for _ in range(like.n_lanes)]

    def reset(self, lanes: NDArray[Any], generators: Sequence[np.random.Generator]) -> None:
        """Forget everything in ``lanes``."""
        for lane in lanes:
            self._samples[lane].clear()
            self._labels[lane].clear()

    def append(self, lanes: NDArray[Any], samples: NDArray[Any], labels: NDArray[Any]) -> None:
        """Keep the samples."""
        for lane, sample, label in zip(lanes, samples, labels, strict=True):
            self._samples[lane].append(sample.copy())
            self._labels[lane].append(int(label))

    def fit(self, lanes: NDArray[Any], generators: Sequence[np.random.Generator]) -> None:
        """Solve each machine with LinearSVC, whose objective is the same, the bias included."""
        from sklearn.svm import LinearSVC

        width = self.coding.shape[1]
        for lane in lanes:
            samples, labels = np.array(self._samples[lane]), np.array(self._labels[lane])
            for column in range(width):
                signs = self.coding[labels, column]
                taking_part = signs != 0
                machine = LinearSVC(
                    loss="hinge", C=self.machines.C, tol=self.machines.tolerance, max_iter=10_000
                ).fit(samples[taking_part], signs[taking_part])
                self.machines.weights[lane * width + column] = np.append(
                    machine.coef_[0], machine.intercept_
                )


def measure(
    env_id: str,
    seconds: float = 3.0,
    processes: int = COMPARED_LANES,
    progress: TaskProgress | None = None,
) -> Speeds:
    """Measure an environment.

    Args:
        env_id: With or without ``edge_gym/``.
        seconds: Least time of each measurement, warm-up not counted; it goes on to an episode's
            end, but not beyond ten times as long.
        processes: Environments of stable-baselines3's ``SubprocVecEnv``.
        progress: Told how many measurements are done.

    Raises:
        ValueError: If the id is unknown or a number is out of range.
    """
    check_number("seconds", seconds, 0, open_low=True)
    check_integer("processes", processes, 1)
    row = find_environment(env_id)
    rows: list[Speed] = []
    notes: list[str] = []
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > 0.5:
        notes.append(f"the machine was busy: load {load:.1f} on {os.cpu_count()} cores")

    def finished(speed: Speed) -> None:
        rows.append(speed)
        if progress is not None:
            progress(f"measuring {row.name}", len(rows), len(LANES) + 2)

    if progress is not None:
        progress(f"measuring {row.name}", 0, len(LANES) + 2)
    # Forks come first, while this process is small and has no threads.
    try:
        finished(_measure_subprocesses(row.id, seconds, processes))
    except ImportError as error:
        notes.append(f"SubprocVecEnv not measured: {error}")
    for lanes in LANES:
        finished(_measure_lanes(_make(row.id, lanes), "edge_gym", seconds))
    env = _make(row.id, COMPARED_LANES)
    learner: Any = getattr(env.problem, "learner", None)
    if isinstance(learner, SVMLearner):
        try:
            cast(Any, env.problem).learner = SklearnLearner(learner)
            finished(_measure_lanes(env, _SKLEARN, seconds))
        except ImportError as error:
            notes.append(f"scikit-learn not measured: {error}")
    ours = next(
        speed for speed in rows if (speed.what, speed.lanes) == ("edge_gym", COMPARED_LANES)
    )
    for speed in rows:
        if not speed.whole:
            notes.append(f"{speed.what} with {speed.lanes} lanes: no whole episode in the time")
        if speed.what != ours.what:
            ratio = ours.steps_per_second / speed.steps_per_second
            notes.append(
                f"edge_gym with {ours.lanes} lanes takes {ratio:.1f} times as many steps a second "
                f"as {speed.what} with {speed.lanes}"
            )
        if speed.what == _SKLEARN and speed.shares[0] and ours.shares[0]:
            refits = speed.shares[0] / speed.steps_per_second
            ratio = refits * ours.steps_per_second / ours.shares[0]
            notes.append(f"the refits alone are {ratio:.1f} times as fast as scikit-learn's")
    return Speeds(row.id, _policy_name(env), thread_count(), rows, notes)


def _make(env_id: str, lanes: int) -> EdgeVectorEnv:
    env = gym.make_vec(env_id, num_envs=lanes, autoreset_mode=AutoresetMode.SAME_STEP)
    return cast(EdgeVectorEnv, env)


def _policy_name(env: Any) -> str:
    applicable = applicable_baselines(env)
    return next(name for name in _POLICIES if name in applicable)


def _measure_lanes(env: EdgeVectorEnv, what: str, seconds: float) -> Speed:
    policy = make_baseline(_policy_name(env), env)
    observations: Any = None
    masked = isinstance(env.single_action_space, gym.spaces.Discrete)

    def reset() -> None:
        nonlocal observations
        observations, _ = env.reset(seed=TRAINING.start)
        policy.begin(np.arange(env.num_envs), list(TRAINING[: env.num_envs]))

    def step() -> tuple[float, bool]:
        nonlocal observations
        actions = policy.act(observations, env.action_masks() if masked else None)
        begin = time.perf_counter()
        observations, _, terminated, truncated, _ = env.step(actions)
        return time.perf_counter() - begin, bool(terminated[0] or truncated[0])

    reset()
    for _ in range(_WARM_UP):
        step()
    reset()
    with _timed(env.problem) as spent:
        steps, elapsed, whole = _whole_episodes(step, seconds)
    learning, scoring = spent["learning"] / elapsed, spent["scoring"] / elapsed
    shares = (learning, scoring, 1 - learning - scoring)
    return Speed(what, env.num_envs, whole, steps * env.num_envs / elapsed, shares)


def _measure_subprocesses(env_id: str, seconds: float, processes: int) -> Speed:
    from stable_baselines3.common.vec_env import SubprocVecEnv

    lanes = _make(env_id, processes)
    policy = make_baseline(_policy_name(lanes), lanes)
    policy.begin(np.arange(processes), list(TRAINING[:processes]))
    # Forked processes share the data and the compiled code, which makes many of them possible.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    env = SubprocVecEnv(
        [lambda: gym.make(env_id, disable_env_checker=True) for _ in range(processes)],
        start_method=method,
    )
    try:
        env.seed(TRAINING.start)
        observations: Any = env.reset()

        def step() -> tuple[float, bool]:
            nonlocal observations
            actions = policy.act(observations)
            begin = time.perf_counter()
            observations, _, done, _ = env.step(actions)
            return time.perf_counter() - begin, bool(done[0])

        steps, elapsed, whole = _whole_episodes(step, seconds)
    finally:
        env.close()
    return Speed("SubprocVecEnv", processes, whole, steps * processes / elapsed)


def _whole_episodes(
    step: Callable[[], tuple[float, bool]], seconds: float
) -> tuple[int, float, bool]:
    """Step to the end of an episode, for training costs more the longer an episode lasts.

    Returns:
        Steps, the time they took, and whether the end was reached: it is given up at last.
    """
    steps, elapsed = 0, 0.0
    while True:
        duration, over = step()
        steps += 1
        elapsed += duration
        if elapsed >= seconds and (over or elapsed >= _PATIENCE * seconds):
            return steps, elapsed, over


@contextmanager
def _timed(problem: Any) -> Iterator[dict[str, float]]:
    """Add up the time that is spent in the learner's methods."""
    spent = {"learning": 0.0, "scoring": 0.0}
    learner = getattr(problem, "learner", None)
    depth = 0

    def timing(method: Callable[..., Any], part: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            begin = time.perf_counter()
            depth += 1
            try:
                return method(*args, **kwargs)
            finally:
                depth -= 1
                # A method that another one calls is timed there.
                if depth == 0:
                    spent[part] += time.perf_counter() - begin

        return call

    named = [(name, "learning") for name in _LEARNING] + [(name, "scoring") for name in _SCORING]
    wrapped = [(name, part) for name, part in named if hasattr(learner, name)]
    for name, part in wrapped:
        setattr(learner, name, timing(getattr(learner, name), part))
    try:
        yield spent
    finally:
        for name, _ in wrapped:
            delattr(learner, name)
