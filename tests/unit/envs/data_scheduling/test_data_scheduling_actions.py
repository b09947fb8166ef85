"""Data scheduling: who uploads what, and how many in a block."""

from __future__ import annotations

import numpy as np
import pytest
from references import column
from rollouts import assert_same, random_actions
from small_data_scheduling import BATCH, DEVICE, TURNS, acquired, make, weights

from edge_gym.envs.data_scheduling.actions import preferred_sample


@pytest.mark.parametrize("seed", range(3))
def test_actions_name_device_and_sample(seed: int) -> None:
    env = make(mean_snr_db=45, n_devices=3, buffer_size=4, budget=20)
    env.reset(seed=seed)
    features, labels = env.problem.features.train, env.problem.features.train_labels
    uploads, last = np.zeros(3), np.zeros(3)
    actions = random_actions(env.action_space, seed)
    assert env.action_space.n == 12
    for block in range(20):
        action = next(actions)
        device, sample = action // 4, action % 4
        row = env.problem.buffers.rows[0, device, sample]
        seen = column(env, env.problem.observe(), "devices", "snr_db")[0]
        observation, _, over, _, info = env.step(action)
        x, y = acquired(env)
        np.testing.assert_allclose(
            x[-1], features[row], atol=6 / np.sqrt(10 ** (seen[device] / 10))
        )
        assert y[-1] == labels[row]
        assert len(y) == 4 + block + 1 == info["samples"]
        uploads[device] += 1
        last[device] = block + 1
        assert np.array_equal(column(env, observation, "devices", "uploads"), uploads)
        assert np.array_equal(column(env, observation, "devices", "staleness"), block + 1 - last)
        assert column(env, observation, "system", "budget_left") == 19 - block
        assert column(env, observation, "system", "samples") == 5 + block
        assert (info["uploads"], info["uploaded"], info["projected"]) == (block + 1, 1, 0)
        assert info["uploaded_snr_db"] == pytest.approx(seen[device], rel=1e-5)
        assert over == (block == 19)
    assert info["fairness"] == pytest.approx(20**2 / (3 * np.square(uploads).sum()))


def test_preferred_sample_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    for case in range(600):
        n = int(rng.integers(1, 6))
        uncertainty = rng.standard_normal(n)
        present = rng.random(n) < (0.3, 0.7, 1)[case % 3]
        present[rng.integers(n)] = True
        loss = np.maximum(0, rng.standard_normal(n) - (0, 1, 5)[case % 3])
        known = case % 2 == 0
        held = np.flatnonzero(present).tolist()
        losing = [i for i in held if known and loss[i] > 0]
        if losing:
            wanted = max(losing, key=lambda i: loss[i])
        else:
            wanted = max(held, key=lambda i: uncertainty[i])
        assert preferred_sample(uncertainty, loss if known else None, present) == wanted


def test_preferred_sample_of_many_devices_and_empty_ones() -> None:
    uncertainty = np.array([[0, 2, 1], [5, 1, 3], [1, 1, 0], [7, 8, 9]])
    loss = np.array([[0, 0, 3], [0, 0, 0], [0, 9, 0], [0, 0, 0]])
    present = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 1], [0, 0, 0]], bool)
    assert preferred_sample(uncertainty, loss, present).tolist() == [2, 2, 0, 0]
    assert preferred_sample(uncertainty, None, present).tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize("labels", ["device", "server"])
@pytest.mark.parametrize("name", [DEVICE, BATCH])
def test_devices_upload_by_the_documents_rule(name: str, labels: str) -> None:
    # A high C and clean samples leave some devices without any loss.
    env = make(name, labels=labels, buffer_size=2, C=100, initial_samples=30, mean_snr_db=30)
    env.reset(seed=1)
    data = env.problem.features
    fallbacks, over = 0, False
    actions = random_actions(env.action_space, 1)
    while not over:
        w, b = weights(env)
        rows = env.problem.buffers.rows[0]
        score = data.train[rows] @ w + b
        hinge = np.maximum(0, 1 - np.where(data.train_labels[rows] == 0, score, -score))
        by_distance = np.abs(score).argmin(axis=1)
        wanted = by_distance
        if labels == "device":
            wanted = np.where(hinge.max(axis=1) > 0, hinge.argmax(axis=1), by_distance)
            fallbacks += int((hinge.max(axis=1) == 0).sum())
        action = next(actions)
        before = rows.copy()
        over = env.step(action)[2]
        devices = [action] if name == DEVICE else np.argsort(-action)[:2].tolist()
        changed = np.argwhere(env.problem.buffers.rows[0] != before)
        assert sorted(changed.tolist()) == sorted([d, wanted[d]] for d in devices)
    if labels == "device":
        assert fallbacks > 0


def test_the_largest_scores_upload_and_ties_go_to_the_first() -> None:
    env = make(BATCH, uploads_per_block=2, mean_snr_db=60)
    env.reset(seed=0)
    for scores, wanted in (
        ([0, 0, 0, 0], [1, 1, 0, 0]),
        ([-1, 0.5, -0.5, 0.25], [0, 1, 0, 1]),
        ([0.5, 1, 1, 1], [0, 1, 1, 0]),
    ):
        before = column(env, env.problem.observe(), "devices", "uploads")[0]
        observation, *_, info = env.step(np.array(scores))
        after = column(env, observation, "devices", "uploads")
        assert (after - before).tolist() == wanted
        assert info["uploaded"] == 2
        assert info["projected"] == 0


@pytest.mark.parametrize("name", [BATCH, TURNS])
@pytest.mark.parametrize("m", [1, 2, 4])
def test_the_budget_counts_uploads_not_blocks(name: str, m: int) -> None:
    env = make(name, uploads_per_block=m, budget=24, retrain_every=5)
    env.reset(seed=0)
    actions = random_actions(env.action_space)
    steps, uploaded, over = 0, 0, False
    while not over:
        *_, over, _, info = env.step(next(actions))
        steps += 1
        uploaded += info["uploaded"]
    assert steps == (24 // m if name == BATCH else 24)
    assert uploaded == info["uploads"] == 24
    assert info["samples"] == 28
    assert info["trained"] == 1
    assert env.problem.device_uploads.sum() == 24


@pytest.mark.parametrize("learner", ["svm", "mlp"])
@pytest.mark.parametrize("retrain_every", [1, 3])
def test_turns_and_scores_that_choose_the_same_give_the_same(
    learner: str, retrain_every: int
) -> None:
    fields = {
        "learner": learner,
        "retrain_every": retrain_every,
        "uploads_per_block": 2,
        "budget": 20,
        "train_steps": 2,
    }
    scores, turns = make(BATCH, **fields), make(TURNS, **fields)
    ours, theirs = scores.reset(seed=6), turns.reset(seed=6)
    hidden = turns.tables["devices"].index("chosen")
    rng = np.random.default_rng(0)
    over = False
    while not over:
        assert_same(
            ours[0], {**theirs[0], "devices": np.delete(theirs[0]["devices"], hidden, axis=1)}
        )
        first, second = rng.permutation(4)[:2]
        action = np.full(4, -1.0)
        action[[first, second]] = 1, 0.5
        between, reward, _, _, info = turns.step(int(first))
        assert (reward, info["uploaded"], info["trained"]) == (0, 0, 0)
        chosen = column(turns, between, "devices", "chosen")
        assert chosen.tolist() == [k == first for k in range(4)]
        between["devices"][:, hidden] = 0
        assert_same(between, theirs[0])
        ours = scores.step(action)
        theirs = turns.step(int(second))
        assert_same(ours[1:4], theirs[1:4])
        over = ours[2]
        assert_same(ours[4], theirs[4])
    assert ours[4]["uploads"] == 20


def test_a_device_uploads_once_in_a_block() -> None:
    env = make(TURNS, uploads_per_block=3, budget=12)
    observation, _ = env.reset(seed=0)
    for _ in range(4):
        snr = column(env, observation, "devices", "snr_db").copy()
        before = column(env, observation, "devices", "uploads")
        wanted = [0]
        assert env.step(0)[4]["projected"] == 0
        for _ in range(2):
            snr[wanted[-1]] = -np.inf
            assert env.action_masks().tolist() == np.isfinite(snr).tolist()
            wanted.append(int(snr.argmax()))
            observation, *_, info = env.step(0)
            assert info["projected"] == 1
        uploaded = column(env, observation, "devices", "uploads") - before
        assert np.flatnonzero(uploaded == 1).tolist() == sorted(wanted)
        assert uploaded.sum() == 3
