"""What is decided never shifts what chance brings: other actions, one seed, the same draws."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import rollouts
from rollouts import random_actions

from edge_gym.runtime.streams import Purpose, Streams

DRAWS = ("uniforms", "normals", "keys", "generator")
KINDS = [name for name in rollouts.KINDS if name not in rollouts.NEEDS_DATA]
# What is drawn once for an episode belongs to step 0.
ONCE = (Purpose.DATA, Purpose.PLACES, Purpose.PROCESSORS, Purpose.MODEL, Purpose.ENERGY)


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[tuple[Any, ...], bytes]]:
    """Record what is drawn: by purpose, kind and step, the first lane's numbers."""
    found: dict[tuple[Any, ...], bytes] = {}

    def watch(kind: str) -> Any:
        original = getattr(Streams, kind)

        def draw(self: Streams, lanes: Any, purpose: int, *args: Any, **kwargs: Any) -> Any:
            drawn = original(self, lanes, purpose, *args, **kwargs)
            if kind == "generator":
                step = int(args[0]) if args else int(kwargs.get("step", 0))
                found[(purpose, kind, step)] = repr(drawn.bit_generator.state).encode()
            elif len(lanes):
                at = args[1] if len(args) > 1 else kwargs.get("step", 0)
                step = int(np.broadcast_to(at, len(lanes))[0])
                found[(purpose, kind, step)] = drawn[0].tobytes()
            return drawn

        return draw

    with monkeypatch.context() as patch:
        for kind in DRAWS:
            patch.setattr(Streams, kind, watch(kind))
        yield found


def play(name: str, actions: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[Any]]:
    """Return what an episode drew, and what chance had brought at each of its steps."""
    env = rollouts.make(name)
    problem = env.problem
    with recorded(monkeypatch) as draws:
        env.reset(seed=3)
        own = repr(problem.generators[0].bit_generator.state)
        steps = [chance(problem)]
        stream, over = random_actions(env.action_space, actions), False
        while not over:
            *_, terminated, truncated, _ = env.step(next(stream))
            over = terminated or truncated
            steps.append(chance(problem))
    # Nothing is drawn but from streams.
    assert repr(problem.generators[0].bit_generator.state) == own
    return draws, steps


def chance(problem: Any) -> dict[str, Any]:
    """Return what chance has brought to a problem's first lane at this step."""
    names = ("mean_snr", "cpu_hz", "drop_out", "packet_error", "limit_j", "place_m", "task_bits")
    found = {name: getattr(problem, name)[0].copy() for name in names if hasattr(problem, name)}
    if hasattr(problem, "compute_s"):
        # Slow-downs are what computing takes beside what it takes without them.
        lanes = np.zeros(1, np.int64)
        found["slow_down"] = problem.compute_s[0] / problem.nominal_s(lanes)[0]
    return {**found, "gain": problem.fading.gain[0].copy()}


@pytest.mark.parametrize("name", KINDS)
def test_two_sequences_of_actions_meet_the_same_chance(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, ours), (second, theirs) = (play(name, seed, monkeypatch) for seed in (0, 1))
    common = first.keys() & second.keys()
    # Each stream is drawn from in both, and at later steps than the first unless it is drawn once.
    assert {key[0] for key in first} == {key[0] for key in common}
    for purpose in {key[0] for key in common} - {*ONCE}:
        assert max(key[2] for key in common if key[0] == purpose) > 0 or purpose in (
            Purpose.SAMPLES,
            Purpose.CHANNEL,
        )
    for key in common:
        assert first[key] == second[key], key
    lasting = min(len(ours), len(theirs)) - 1
    assert lasting > 2
    # What an episode ends with may be a step further in one of them.
    for step, (one, other) in enumerate(zip(ours[:lasting], theirs[:lasting], strict=True)):
        for part, values in one.items():
            np.testing.assert_array_equal(values, other[part], err_msg=f"{part} at step {step}")


@pytest.mark.parametrize("name", KINDS)
def test_another_seed_meets_another_chance(name: str) -> None:
    env = rollouts.make(name)
    gains = []
    for seed in (0, 1, None):
        env.reset(seed=seed)
        gains.append((*env.problem.streams.episode, *env.problem.fading.gain.ravel()))
    assert len(set(gains)) == 3
