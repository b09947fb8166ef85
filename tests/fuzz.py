"""Random configurations and actions against what must always hold.

    python tests/fuzz.py --seconds 120 --seed 0
    python tests/fuzz.py --seed 0 --case 1234

A case is an id, fields drawn from the bounds that their own error messages state, a scalar or
vector environment in one of the autoreset modes, and random actions. Sizes are small, so that
steps are fast. What fails is printed with the command that repeats it.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import pickle
import re
import sys
import time
import traceback
import types
import typing
import warnings
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("EDGE_GYM_THREADS", "1")

import gymnasium as gym
import numpy as np
import pytest
import rollouts
from gymnasium.vector import AutoresetMode

from edge_gym.core.registration import find_environment

LONGEST_MESSAGE = 300
SHARE_DRAWN = 0.2
"""Share of the fields that a case changes."""

# Upper ends that keep steps fast; the bounds that are stated reach farther.
SMALL = {
    "batch_size": 12,
    "budget": 30,
    "buffer_size": 4,
    "choices": 12,
    "cycles": 20,
    "hidden_size": 8,
    "hidden_sizes": 8,
    "initial_samples": 14,
    "iterations": 20,
    "local_batch_size": 12,
    "local_epochs": 3,
    "max_batch": 12,
    "max_rounds": 20,
    "most_updates": 5,
    "n_devices": 6,
    "samples_per_device": 20,
    "shards_per_device": 4,
    "task_images": 6,
    "test_size": 30,
    "train_steps": 3,
    "validation_size": 40,
}
FIXED: dict[str, tuple[Any, ...]] = {
    "dataset": ("mnist-subset",),
    "compute_device": ("cpu",),
    "image_size": (1, 2, 4, 7, 14),
    "network": ("mlp",),
    "learner": ("svm", "svm-ovo", "mlp"),
    "channel": ("rayleigh", "rician:k=5", "nakagami:m=2,correlation=0.5", "awgn:shadowing_db=4"),
    "classes": (None, (3, 5), (0, 1, 2), (9, 4)),
}
BASE = {
    "dataset": "mnist-subset",
    "image_size": 7,
    "network": "mlp",
    "hidden_sizes": (4,),
    "hidden_size": 4,
    "validation_size": 30,
    "test_size": 20,
    "train_steps": 2,
    "samples_per_device": 12,
    "n_devices": 4,
    "learner": None,
}
GROWING = ("seconds", "joules", "rounds", "cycles", "iterations", "channel_uses", "uploads")
# What a number told in every step may come to, by the field that bounds it.
BOUNDED = {
    "rounds": "max_rounds",
    "cycles": "cycles",
    "iterations": "iterations",
    "channel_uses": "budget",
    "uploads": "budget",
}
SUMS = (("seconds", "round_s"), ("joules", "round_j"), ("joules", "cycle_j"))
"""What is told so far, and in this step."""


class RefusedError(Exception):
    """The environment was not made, and said why in one line."""


@dataclass
class Stated:
    """What the message of a field says that it may be."""

    low: float = 0.0
    high: float = np.inf
    open_low: bool = False
    open_high: bool = False
    choices: tuple[Any, ...] = ()


@functools.cache
def kinds(config_type: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(config_type)
    return {one.name: hints[one.name] for one in fields(config_type)}


def parts_of_kind(kind: Any) -> tuple[Any, int | None, bool]:
    """Return the type of a value or of its items, their number (0: any), and if None will do."""
    optional = isinstance(kind, types.UnionType)
    if optional:
        (kind,) = (part for part in typing.get_args(kind) if part is not types.NoneType)
    if typing.get_origin(kind) is not tuple:
        return kind, None, optional
    first, *others = typing.get_args(kind)
    return first, 0 if others == [...] else 1 + len(others), optional


@functools.cache
def stated(config_type: type[Any], name: str) -> Stated:
    """Ask a configuration what a field may be: it says so when given what it may not be."""
    kind, length, _ = parts_of_kind(kinds(config_type)[name])
    wrong: Any = {int: -(10**30), float: np.nan, bool: "maybe", str: "?"}[kind]
    if length is not None:
        wrong = (wrong, wrong + 1 if kind is int else wrong)[: length or 2]
    try:
        config_type(**{name: wrong})
    except ValueError as error:
        return parse_bounds(str(error), name)
    raise AssertionError(f"{config_type.__name__} takes {name} = {wrong}")


def parse_bounds(message: str, name: str) -> Stated:
    """Read the bounds out of the message of a check."""
    if found := re.search(r"an integer in \[(-?\d+), (-?\d+)\]", message):
        return Stated(int(found[1]), int(found[2]))
    if found := re.search(r"an integer at least (-?\d+)", message):
        return Stated(int(found[1]))
    if found := re.search(r"a finite number in ([\[(])([^,]+), ([^\])]+)([\])])", message):
        return Stated(float(found[2]), float(found[3]), found[1] == "(", found[4] == ")")
    if found := re.search(r"one of (.*), got", message):
        return Stated(choices=tuple(found[1].split(", ")))
    if "true or false" in message:
        return Stated(choices=(True, False))
    raise AssertionError(f"{name}: no bounds in {message!r}")


def draw_value(rng: np.random.Generator, config_type: type[Any], name: str, usual: Any) -> Any:
    """Draw a value of a field within its stated bounds, its ends at times."""
    kind, length, optional = parts_of_kind(kinds(config_type)[name])
    if name in FIXED:
        return FIXED[name][rng.integers(len(FIXED[name]))]
    if optional and rng.random() < 0.2 and name not in ("samples_per_device", "test_size"):
        return None
    bounds = stated(config_type, name)
    if length is None:
        return draw_scalar(rng, kind, name, bounds, usual)
    count = length or int(rng.integers(1, 4))
    example = usual[0] if usual else None
    values = {draw_scalar(rng, kind, name, bounds, example) for _ in range(count)}
    values |= {draw_scalar(rng, kind, name, bounds, example) for _ in range(count - len(values))}
    drawn = tuple(sorted(values))
    return drawn if length in (0, len(drawn)) else drawn * length


def draw_scalar(rng: np.random.Generator, kind: Any, name: str, bounds: Stated, usual: Any) -> Any:
    if bounds.choices:
        return bounds.choices[rng.integers(len(bounds.choices))]
    low, high = bounds.low, bounds.high
    if kind is int:
        high = min(high, max(low, SMALL.get(name, 20)))
        return int(rng.integers(int(low), int(high) + 1))
    if not np.isfinite(high):
        # An end that nobody has stated is not tried.
        high = 1e3 * max(abs(usual or 1.0), 1e-3)
    if not np.isfinite(low):
        low = -high
    ends = [
        end for end, is_open in ((low, bounds.open_low), (high, bounds.open_high)) if not is_open
    ]
    if ends and rng.random() < 0.15:
        return float(ends[rng.integers(len(ends))])
    if usual and usual > low >= 0 and rng.random() < 0.5:
        # Around what is usual, where most happens.
        near = np.clip(usual * 10 ** rng.uniform(-1, 1), low, high)
        return float(near if low < near < high else usual)
    if low > 0 and high > 100 * low:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return float(low + (high - low) * rng.uniform(1e-6, 1 - 1e-6))


def draw_fields(rng: np.random.Generator, name: str) -> dict[str, Any]:
    """Draw the fields of a small environment."""
    row = find_environment(name)
    config_type = config_type_of(name)
    known = kinds(config_type)
    usual = config_type()
    small = {**rollouts.SMALL[name], **{k: v for k, v in BASE.items() if v is not None}}
    given = {key: value for key, value in small.items() if key in known}
    for field_name in known:
        # Whole models are exchanged where a model's size is a field.
        fixed = field_name in ("bits", "density") and "model_bits" in known
        if rng.random() < SHARE_DRAWN and not fixed:
            example = row.preset.get(field_name, getattr(usual, field_name))
            given[field_name] = draw_value(rng, config_type, field_name, example)
    if row.preset.get("learner", "svm") == "cnn":
        given["learner"] = "mlp"
    return given


@functools.cache
def config_type_of(name: str) -> type[Any]:
    row = find_environment(name)
    found: type[Any] = row.problem_type().config_type
    return found


def make(name: str, given: dict[str, Any], **how: Any) -> Any:
    """Make the environment, or say that its fields were refused as they should be."""
    try:
        if "num_envs" in how:
            return gym.make_vec(f"edge_gym/{name}", **how, **given)
        return gym.make(f"edge_gym/{name}", **given).unwrapped
    except (ValueError, TypeError) as error:
        message = str(error)
        assert "\n" not in message, message
        assert len(message) < LONGEST_MESSAGE, message
        named = any(re.search(rf"\b{known}\b", message) for known in kinds(config_type_of(name)))
        assert named, f"no field is named in {message!r}"
        raise RefusedError(message) from error


# ------------------------------------------------------------------------------------- playing


@dataclass
class Case:
    """One environment that is played, and what is known of the episodes in its lanes."""

    name: str
    rng: np.random.Generator
    given: dict[str, Any]
    lanes: int | None
    mode: AutoresetMode
    limit: int | None
    env: Any = None
    steps: int = 0
    over: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    @property
    def n(self) -> int:
        return self.lanes or 1

    def __str__(self) -> str:
        shape = "scalar" if self.lanes is None else f"{self.lanes} lanes, {self.mode.value}"
        return f"{self.name} ({shape}, limit {self.limit}) {self.given}"

    def make(self) -> None:
        how: dict[str, Any] = {}
        if self.lanes is not None:
            how = {"num_envs": self.lanes, "autoreset_mode": self.mode}
            how["max_episode_steps"] = self.limit
        self.env = make(self.name, self.given, **how)
        self.action_space = getattr(self.env, "single_action_space", self.env.action_space)
        for table in ("returns", "sizes", "elapsed"):
            setattr(self, table, np.zeros(self.n))
        self.seen: dict[str, np.ndarray] = {}
        self.sums: dict[str, np.ndarray] = {}

    def begin(self, which: np.ndarray, infos: dict[str, Any]) -> None:
        """Note that episodes begin in the lanes that ``which`` marks."""
        for values in (self.returns, self.sizes, self.elapsed, *self.seen.values()):
            values[which] = 0
        for values in self.sums.values():
            values[which] = 0
        self.over[which] = False

    def reset(self, seed: int) -> None:
        observation, infos = self.env.reset(seed=seed)
        self.over = np.zeros(self.n, bool)
        self.begin(np.ones(self.n, bool), infos)
        self.check_observation(observation)
        check_finite(infos)

    def actions(self) -> Any:
        """Draw one action per lane: anywhere, at the ends, or one for all."""
        space, rng = self.action_space, self.rng
        if isinstance(space, gym.spaces.Box):
            shape = (self.n, *space.shape)
            drawn = rng.uniform(space.low, space.high, shape)
            kind = rng.random()
            if kind < 0.2:
                drawn = np.where(rng.random(shape) < 0.5, space.low, space.high)
            elif kind < 0.3:
                drawn = np.broadcast_to(space.low if rng.random() < 0.5 else space.high, shape)
            drawn = drawn.astype(space.dtype)
        elif isinstance(space, gym.spaces.Discrete):
            drawn = rng.integers(space.n, size=self.n)
        else:
            drawn = rng.integers(space.nvec, size=(self.n, len(space.nvec)))
        return drawn if self.lanes is not None else drawn[0]

    def step(self) -> Any:
        actions = self.actions()
        masks = self.masks()
        beginning = self.over.copy()
        if self.lanes is None:
            observation, reward, terminated, truncated, infos = self.env.step(actions)
            reward, terminated = np.array([reward]), np.array([terminated])
            truncated = np.array([truncated])
            told = {key: np.array([value]) for key, value in infos.items()}
            there = {key: np.ones(1, bool) for key in told}
            check_finite(infos)
        else:
            observation, reward, terminated, truncated, infos = self.env.step(actions)
            told, there = batched(infos, terminated | truncated)
        self.check_observation(observation)
        assert np.isfinite(reward).all(), reward
        for key, values in told.items():
            assert np.isfinite(values[there[key]]).all(), (key, values)
        if self.lanes is not None and self.mode == AutoresetMode.NEXT_STEP:
            assert (reward[beginning] == 0).all()
            self.begin(beginning, infos)
            running = ~beginning
        else:
            running = np.ones(self.n, bool)
        self.steps += int(running.sum())
        self.check_step(told, there, reward, running)
        self.check_masks(masks, actions, told, running)
        done = terminated | truncated
        self.check_ends(told, there, terminated, truncated)
        self.over = done.copy()
        if self.lanes is None and done[0]:
            self.reset(int(self.rng.integers(10**6)))
        elif self.lanes is not None and done.any():
            if self.mode == AutoresetMode.DISABLED:
                _, infos = self.env.reset(options={"reset_mask": done})
                self.begin(done, infos)
            elif self.mode == AutoresetMode.SAME_STEP:
                self.begin(done, infos)
        return observation, reward, terminated, truncated

    def check_observation(self, observation: Any) -> None:
        space = self.env.observation_space
        if not space.contains(observation):
            for part, values in rollouts.parts_of(observation).items():
                box = space[part] if isinstance(space, gym.spaces.Dict) else space
                if not box.contains(values):
                    bad = np.argwhere(~((values >= box.low) & (values <= box.high)))
                    column = self.env.tables[part].columns[bad[0][-1]] if len(bad) else values.dtype
                    raise AssertionError(f"observed {part!r} is outside: {column} {bad[:3]}")
            raise AssertionError("the observation is not in its space")

    def check_step(self, told: Any, there: Any, reward: np.ndarray, running: np.ndarray) -> None:
        self.returns[running] += reward[running]
        self.sizes[running] += np.abs(reward[running])
        self.elapsed[running] += 1
        config = self.env.config
        for key in GROWING:
            if key not in told:
                continue
            last = self.seen.setdefault(key, np.zeros(self.n))
            now = np.where(there[key] & running, told[key], last)
            assert (now >= last).all(), f"{key} falls from {last} to {now}"
            self.seen[key] = now
            most = getattr(config, BOUNDED.get(key, "?"), np.inf)
            assert (now <= most).all(), f"{key} = {now} exceeds {most}"
        # In lazy mode energy is what runs out.
        lazy = getattr(config, "mode", "") == "lazy"
        if "seconds" in told and hasattr(config, "budget_s") and not lazy:
            assert (self.seen["seconds"] <= config.budget_s * (1 + 1e-9)).all()
        if "joules" in told and lazy:
            assert (self.seen["joules"] <= config.budget_j * (1 + 1e-9)).all()
        if "finish_s" in told and hasattr(config, "cycle_s"):
            assert (told["finish_s"][running] <= config.cycle_s * (1 + 1e-6)).all()
        for total, part in SUMS:
            if total in told and part in told:
                summed = self.sums.setdefault(part, np.zeros(self.n))
                summed[running] += told[part][running]
                scale = np.abs(summed) + np.abs(told[total]) + 1e-12
                wrong = np.abs(summed - told[total]) > 1e-6 * scale
                assert not (wrong & running).any(), f"{total} is not the sum of {part}"
        if "accuracy_gain" in told:
            accuracy = told["validation_accuracy"][running]
            assert ((accuracy >= 0) & (accuracy <= 1)).all()

    def masks(self) -> np.ndarray | None:
        if isinstance(self.action_space, gym.spaces.Box):
            return None
        found = np.atleast_2d(self.env.action_masks())
        if isinstance(self.action_space, gym.spaces.MultiDiscrete):
            width = int(self.action_space.nvec.sum())
        else:
            width = int(self.action_space.n)
        assert found.dtype == bool
        assert found.shape == (self.n, width)
        return found

    def check_masks(self, masks: Any, actions: Any, told: Any, running: np.ndarray) -> None:
        if masks is None:
            return
        if isinstance(self.action_space, gym.spaces.MultiDiscrete):
            starts = np.concatenate([[0], np.cumsum(self.action_space.nvec)[:-1]])
            assert np.logical_or.reduceat(masks, starts, axis=1)[running].all(), "nothing possible"
            return
        assert masks[running].any(axis=1).all(), "no action is possible"
        if "projected" in told:
            possible = masks[np.arange(self.n), np.atleast_1d(actions)]
            assert ((told["projected"] == 0) == possible)[running].all(), "masks and projection"

    def check_ends(
        self, told: Any, there: Any, terminated: np.ndarray, truncated: np.ndarray
    ) -> None:
        """Compare the return of an episode that the problem ended with what it gained."""
        if "total_gain" not in told:
            assert not terminated.any()
            return
        ended = there["total_gain"]
        config = self.env.config
        initial = told["validation_accuracy"] - told["total_gain"]
        gain = {
            "accuracy": told["total_gain"],
            "loss": told["total_loss_decrease"],
            "area": told["area_under_curve"] - initial,
            "time-to-target": -told["time_to_target"],
        }[config.reward]
        if "total_wsel" in told:
            gain = config.accuracy_weight * gain - told["total_wsel"]
        wrong = np.abs(self.returns - gain) > 1e-9 * (1 + self.sizes + np.abs(gain))
        assert not (wrong & ended).any(), f"returned {self.returns}, gained {gain}"
        if self.limit is not None:
            assert (self.elapsed <= self.limit).all()

    def refuse_bad_action(self) -> None:
        """Give an action that is none; nothing may change."""
        good = np.array(self.actions(), np.float64)
        if self.rng.random() < 0.3 and good.shape:
            bad: Any = good[..., None]
        else:
            bad = good.copy()
            values = (np.nan, np.inf, -1e9, 1e9, -1.01)
            bad.flat[self.rng.integers(bad.size)] = values[self.rng.integers(len(values))]
        if self.lanes is not None and self.over.any():
            # What stands in lanes that reset is not looked at.
            return
        before = pickle.dumps(self.env.get_state())
        with pytest.raises(ValueError, match="action") as caught:
            self.env.step(bad)
        assert len(str(caught.value)) < LONGEST_MESSAGE
        assert pickle.dumps(self.env.get_state()) == before, "a bad action changed something"

    def restore(self, steps: int) -> None:
        """Save, play, restore, play again: the same must come."""
        kept = pickle.dumps((self.env.get_state(), self.notes()))
        stream = pickle.dumps(self.rng)
        first = [self.step() for _ in range(steps)]
        state, notes = pickle.loads(kept)
        self.env.set_state(state)
        self.over, self.seen, self.sums = notes["over"], notes["seen"], notes["sums"]
        self.returns, self.sizes, self.elapsed = (notes[k] for k in ("returns", "sizes", "elapsed"))
        self.rng = pickle.loads(stream)
        rollouts.assert_same([self.step() for _ in range(steps)], first)

    def notes(self) -> dict[str, Any]:
        names = ("over", "seen", "sums", "returns", "sizes", "elapsed")
        return {name: getattr(self, name) for name in names}


def batched(infos: dict[str, Any], done: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a vector step told, and of whom; of ended episodes their last info."""
    told = {key: value for key, value in infos.items() if not key.startswith("_")}
    there = {key: infos[f"_{key}"].copy() for key in told}
    if "final_info" not in told:
        return told, there
    final = told.pop("final_info")
    for key in list(told):
        if key == "final_obs":
            del told[key]
            continue
        there[key] &= ~done
    for key, values in final.items():
        if key.startswith("_"):
            continue
        mask = final[f"_{key}"]
        told[key] = np.where(mask, values, told.get(key, np.zeros(len(done))))
        there[key] = there.get(key, np.zeros(len(done), bool)) | mask
    return told, there


def check_finite(infos: dict[str, Any]) -> None:
    for key, value in infos.items():
        if not key.startswith("_") and not isinstance(value, dict):
            assert np.isfinite(np.asarray(value, np.float64)).all(), (key, value)


def draw_case(seed: int, number: int, name: str | None = None) -> Case:
    """Return the case of this number; ``name`` fixes its id."""
    rng = np.random.default_rng([seed, number])
    names = rollouts.NAMES
    drawn = names[rng.integers(len(names))]
    name = name or drawn
    lanes = None if rng.random() < 0.15 else int(rng.integers(1, 17))
    mode = list(AutoresetMode)[rng.integers(3)]
    limit = int(rng.integers(1, 12)) if lanes is not None and rng.random() < 0.3 else None
    return Case(name, rng, draw_fields(rng, name), lanes, mode, limit)


def play_case(case: Case, steps: int) -> int:
    """Play a case; return the number of steps of all lanes.

    Raises:
        RefusedError: If its fields do not go together, said in one line.
    """
    case.make()
    rng = case.rng
    case.reset(int(rng.integers(10**6)))
    saved = int(rng.integers(steps)) if rng.random() < 0.3 else -1
    for step in range(steps):
        if step == saved:
            case.restore(3)
        if case.rng.random() < 0.02:
            case.refuse_bad_action()
        case.step()
    case.env.close()
    return case.steps


# ------------------------------------------------------------------------------------- running


@dataclass
class Tally:
    """What a process has done."""

    steps: int = 0
    cases: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    ids: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def run_one(seed: int, number: int, steps: int, tally: Tally) -> None:
    case = None
    tally.cases += 1
    try:
        case = draw_case(seed, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tally.steps += play_case(case, steps)
        tally.ids[case.name] += case.steps
    except RefusedError as error:
        tally.refused[re.sub(r"[\d.e+-]*\d", "#", str(error))[:100]] += 1
    except Exception:
        tally.failures.append(
            f"python tests/fuzz.py --seed {seed} --case {number}\n{case}\n{traceback.format_exc()}"
        )


def work(arguments: tuple[int, int, int, float, int]) -> Tally:
    """Run every ``processes``-th case until the time is up."""
    seed, first, processes, seconds, steps = arguments
    import torch

    torch.set_num_threads(1)
    tally = Tally()
    end = time.monotonic() + seconds
    number = first
    while time.monotonic() < end and len(tally.failures) < 20:
        run_one(seed, number, steps, tally)
        number += processes
    return tally


def fuzz(seed: int, seconds: float, processes: int = 1, steps: int = 60) -> Tally:
    """Run cases for so many seconds; return what was done and what failed."""
    jobs = [(seed, first, processes, seconds, steps) for first in range(processes)]
    if processes == 1:
        return work(jobs[0])
    total = Tally()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for tally in pool.imap_unordered(work, jobs):
            total.steps += tally.steps
            total.cases += tally.cases
            total.refused += tally.refused
            total.ids += tally.ids
            total.failures += tally.failures
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--steps", type=int, default=60, help="of every case")
    parser.add_argument("--case", type=int, help="run this case alone")
    parser.add_argument("--refused", action="store_true", help="say why cases were refused")
    given = parser.parse_args()
    if given.case is not None:
        tally = Tally()
        run_one(given.seed, given.case, given.steps, tally)
    else:
        tally = fuzz(given.seed, given.seconds, given.processes, given.steps)
    kinds_of_failure = Counter(text.strip().splitlines()[-1][:120] for text in tally.failures)
    shown = set()
    for text in tally.failures:
        last = text.strip().splitlines()[-1][:120]
        if last not in shown:
            shown.add(last)
            print(f"\n{text}\n({kinds_of_failure[last]} like this)")
    if given.refused:
        for reason, times in tally.refused.most_common(30):
            print(f"{times:5} {reason}")
    print(
        f"{tally.steps:,} steps in {tally.cases:,} cases of {len(tally.ids)} ids, "
        f"{tally.refused.total():,} refused when made, {len(tally.failures)} failed "
        f"(seed {given.seed})"
    )
    return bool(tally.failures)


if __name__ == "__main__":
    sys.exit(main())
