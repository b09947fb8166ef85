"""Data scheduling: what devices hold, with and without refill, and whether it is enough."""

from __future__ import annotations

import itertools
from collections import deque
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from references import column
from rollouts import random_actions
from small_data_scheduling import BATCH, DEVICE, MULTICLASS, SAMPLE, TURNS, holdings, make

from edge_gym.data import SampleError
from edge_gym.envs.data_scheduling.config import DataSchedulingConfig


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (SAMPLE, {}),
        (SAMPLE, {"budget": 60, "n_devices": 2}),
        (TURNS, {"budget": 40}),
        (BATCH, {"budget": 40, "partition": "dirichlet"}),
        # 1,926 samples in all, of which half may be validated on and 4 come first: 959 are left.
        (SAMPLE, {"validation_size": 963, "n_devices": 64, "buffer_size": 10, "budget": 400}),
        (SAMPLE, {"validation_size": 963, "n_devices": 7, "buffer_size": 137, "budget": 20}),
    ],
    ids=["plain", "long", "turns", "batch", "short reserve", "no reserve"],
)
def test_the_next_sample_takes_the_place_of_the_uploaded_one(
    name: str, fields: dict[str, Any]
) -> None:
    env = make(name, **{"retrain_every": 20, **fields})
    env.reset(seed=2)
    buffers, reserves = holdings(env)
    queues = [deque(reserve) for reserve in reserves]
    pool = sorted(itertools.chain(*buffers, *reserves))
    assert len(set(pool)) == len(pool)
    assert not set(pool) & set(env.problem.validation[0])
    sizes = {len(reserve) for reserve in reserves}
    if "validation_size" in fields:
        assert sizes == ({4, 5} if fields["n_devices"] == 64 else {0})
    else:
        assert sizes == {env.config.blocks}
    sent: list[int] = []
    actions = random_actions(env.action_space, 2)
    over = False
    while not over:
        before = env.problem.buffers.rows[0].copy()
        preferred = env.problem.preferred()[0]
        action = next(actions)
        if name == TURNS:
            action = int(np.flatnonzero(env.action_masks())[action % env.action_masks().sum()])
        *_, over, _, info = env.step(action)
        if name == SAMPLE:
            chosen = [divmod(action, env.config.buffer_size)]
        elif name == BATCH:
            chosen = [(int(d), int(preferred[d])) for d in np.argsort(-action)[:2]]
        else:
            chosen = [
                (int(d), int(n))
                for d, n in zip(
                    env.problem.chosen_device[0], env.problem.chosen_sample[0], strict=True
                )
            ]
        for device, sample in chosen if info["uploaded"] else []:
            assert buffers[device][sample] == before[device, sample]
            sent.append(buffers[device][sample])
            if queues[device]:
                queues[device].append(buffers[device][sample])
                buffers[device][sample] = queues[device].popleft()
        now = holdings(env)
        assert now == (buffers, [list(queue) for queue in queues])
        assert sorted(itertools.chain(*now[0], *now[1])) == pool
    assert len(sent) == env.config.budget
    # A full reserve lasts for the episode, so that nothing is sent twice.
    if "validation_size" not in fields:
        assert len(set(sent)) == len(sent)


def test_without_refill_buffers_shrink_and_impossible_actions_are_told() -> None:
    env = make(refill=False, n_devices=3, buffer_size=2, budget=6)
    observation, _ = env.reset(seed=3)
    gone: set[int] = set()
    projected = []
    for step, action in enumerate([4, 4, 1, 4, 1, 0]):
        mask = env.action_masks()
        assert set(np.flatnonzero(~mask)) == gone
        present = column(env, observation, "samples", "present")
        assert np.array_equal(present.ravel() == 1, mask)
        assert not observation["samples"][present == 0].any()
        snr = column(env, observation, "devices", "snr_db")
        uncertainty = column(env, observation, "samples", "distance")
        loss = column(env, observation, "samples", "hinge_loss")
        expected = action
        if action in gone:
            best = np.where(mask.reshape(3, 2).any(axis=1), snr, -np.inf).argmax()
            there = [n for n in range(2) if mask[best * 2 + n]]
            key = loss[best] if loss[best][there].max() > 0 else -uncertainty[best]
            expected = int(best * 2 + max(there, key=lambda n: key[n]))
        row = env.problem.buffers.rows[0].ravel()[expected]
        observation, _, over, _, info = env.step(action)
        assert info["projected"] == (action in gone)
        assert env.problem.uploaded[0, 1] == row
        projected.append(info["projected"])
        gone.add(expected)
        assert over == (step == 5)
    assert sum(projected) >= 2
    assert not env.action_masks().any()
    assert not observation["samples"].any()


@pytest.mark.parametrize("seed", range(4))
def test_empty_devices_are_passed_over(seed: int) -> None:
    scores = make(BATCH, refill=False, n_devices=3, buffer_size=2, budget=4)
    device = make(DEVICE, refill=False, n_devices=3, buffer_size=2, budget=6)
    scores.reset(seed=seed)
    assert scores.step(np.array([1, 0.5, 0]))[4]["projected"] == 0
    assert scores.step(np.array([1, 0.5, 0]))[4]["projected"] == 0
    assert np.array_equal(scores.problem.device_uploads[0], [2, 2, 0])
    scores.reset(seed=seed)
    scores.step(np.array([1, 0.5, 0]))
    scores.step(np.array([1, 0, 0.5]))
    device.reset(seed=seed)
    told = [device.step(2)[4]["projected"] for _ in range(2)]
    assert told == [0, 0]
    assert device.action_masks().tolist() == [True, True, False]
    snr = device.problem.current_snr(np.zeros(1, np.int64))[0]
    assert device.step(2)[4]["projected"] == 1
    assert device.problem.uploaded[0, 0] == snr[:2].argmax()


def test_scores_of_an_empty_device_are_projected() -> None:
    env = make(BATCH, refill=False, n_devices=4, buffer_size=1, budget=4)
    env.reset(seed=0)
    assert env.step(np.array([1, 0.5, 0, -1]))[4]["projected"] == 0
    *_, over, _, info = env.step(np.array([1, 0.5, 0, -1]))
    assert info["projected"] == 1
    assert over
    assert env.problem.device_uploads[0].tolist() == [1, 1, 1, 1]


def test_without_refill_no_choice_can_leave_a_block_without_devices() -> None:
    """The longest episode allowed is the shortest that a game against the scheduler ends at."""

    @cache
    def blocks(held: tuple[int, ...], m: int) -> int:
        able = [k for k, n in enumerate(held) if n]
        if len(able) < m:
            return 0
        after = (
            tuple(sorted(n - (k in chosen) for k, n in enumerate(held)))
            for chosen in itertools.combinations(able, m)
        )
        return 1 + min(blocks(rest, m) for rest in after)

    for k, n in itertools.product(range(1, 5), range(1, 5)):
        for m in range(1, k + 1):
            most = m * blocks((n,) * k, m)
            fields = {
                "n_devices": k,
                "buffer_size": n,
                "uploads_per_block": m,
                "actions": "device",
                "refill": False,
            }
            assert DataSchedulingConfig(**fields, budget=most).budget == most
            with pytest.raises(ValueError, match=rf"budget must be at most {most} without refill"):
                DataSchedulingConfig(**fields, budget=most + m)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_the_longest_episode_without_refill_comes_to_its_end(m: int) -> None:
    most = {1: 12, 2: 10, 3: 9}[m]
    env = make(TURNS, refill=False, uploads_per_block=m, budget=most)
    for seed in range(3):
        env.reset(seed=seed)
        rng = np.random.default_rng(seed)
        over = False
        while not over:
            *_, over, _, info = env.step(int(rng.choice(np.flatnonzero(env.action_masks()))))
            assert info["projected"] == 0
        assert info["uploads"] == most
        assert (env.problem.buffers.rows[0] >= 0).sum() == 12 - most


def test_shards_give_devices_few_classes() -> None:
    fields = {"n_devices": 10, "buffer_size": 20, "budget": 200, "validation_size": 100}

    def classes(partition: str) -> NDArray[np.int64]:
        env = make(MULTICLASS, partition=partition, **fields)
        env.reset(seed=0)
        labels = env.problem.features.train_labels[env.problem.buffers.rows[0]]
        return np.array([len(set(row)) for row in labels])

    # Two shards of a twentieth of ten classes: each holds one class, or two at a border.
    assert classes("shards").max() <= 4
    assert classes("shards").mean() < 3.5
    assert classes("iid").min() >= 6
    assert classes("dirichlet").mean() < classes("iid").mean()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_devices": 700}, r"are too few for n_devices = 700 and buffer_size = 3: lower"),
        (
            {"n_devices": 20, "buffer_size": 100},
            r"too few for n_devices = 20 and buffer_size = 100",
        ),
        ({"n_devices": 950, "buffer_size": 1, "partition": "shards"}, "too few for 1900 shards"),
        ({"validation_size": 964}, "of 1926, 963 are always learned from"),
        ({"initial_samples": 5000}, "initial samples need"),
        ({"initial_samples": 10**12}, "initial samples need"),
        ({"test_size": 10**12}, "but the test set has"),
        ({"validation_size": 10**12}, "nothing to learn from"),
        ({"n_devices": 10**9}, "too few for n_devices = 1000000000"),
        ({"buffer_size": 10**12}, "too few for n_devices = 4 and buffer_size = 1000000000000"),
    ],
)
def test_too_few_samples_say_so(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SampleError, match=message):
        make(**fields)
