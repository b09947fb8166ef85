"""Data scheduling: who uploads what, what the server receives, and what devices observe."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import warnings
from collections import deque
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from rollouts import assert_same, random_actions
from scipy.linalg import orthogonal_procrustes
from scipy.special import log_softmax
from scipy.stats import kstest
from stable_baselines3 import PPO

from edge_gym.data import SampleError
from edge_gym.envs.data_scheduling.actions import preferred_sample
from edge_gym.envs.data_scheduling.config import DataSchedulingConfig
from edge_gym.envs.data_scheduling.embeddings import EMBEDDING_SIZE, sample_embeddings
from edge_gym.envs.data_scheduling.observation import observation_tables

SAMPLE, DEVICE = "DataScheduling-v0", "DataSchedulingDevice-v0"
BATCH, TURNS = "DataSchedulingBatch-v0", "DataSchedulingBatchDiscrete-v0"
MULTICLASS, NETWORK = "DataSchedulingMulticlass-v0", "DataSchedulingCNN-v0"
SMALL = {
    "n_devices": 4,
    "buffer_size": 3,
    "budget": 24,
    "image_size": 7,
    "validation_size": 60,
    "test_size": 50,
}
LABEL_COLUMNS = {"margin", "hinge_loss", "zero_one_loss", "label_share", "label_recall"}


def make(name: str = SAMPLE, **fields: Any) -> Any:
    return gym.make(f"edge_gym/{name}", **{**SMALL, **fields}).unwrapped


def column(env: Any, observation: dict[str, Any], part: str, name: str) -> NDArray[Any]:
    return np.asarray(env.tables[part].read(observation[part], name))


def holdings(env: Any) -> tuple[list[list[int]], list[list[int]]]:
    """Return each device's buffer, in order, and what it holds in reserve, next sample first."""
    problem = env.problem
    reserves = []
    for device in range(env.config.n_devices):
        size = int(problem.buffers.reserved[0, device])
        ring = np.roll(
            problem.buffers.reserve[0, device, :size], -int(problem.buffers.head[0, device])
        )
        reserves.append(ring.tolist())
    return problem.buffers.rows[0].tolist(), reserves


def acquired(env: Any) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the received samples and labels that a linear SVM for two classes was trained on."""
    machines = env.problem.learner.machines
    z = machines._z[0, : machines.count[0]].astype(np.float64)
    return z[:, :-1] * z[:, -1:], np.where(z[:, -1] > 0, 0, 1)


def weights(env: Any) -> tuple[NDArray[np.float64], float]:
    w = env.problem.learner.machines.weights[0].astype(np.float64)
    return w[:-1], float(w[-1])


# ------------------------------------------------------------------------- whose sample, and which


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


# ---------------------------------------------------------------------------------------- buffers


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


# ------------------------------------------------------------------------------- several uploads


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


def test_embeddings_are_of_the_sample_that_would_be_uploaded() -> None:
    env = make(BATCH, budget=12)
    observation, _ = env.reset(seed=0)
    for action in itertools.islice(random_actions(env.action_space), 5):
        shown = np.stack(
            [column(env, observation, "devices", f"embedding_{i}") for i in range(EMBEDDING_SIZE)],
            axis=1,
        )
        rows = env.problem.buffers.rows[0][np.arange(4), env.problem.preferred()[0]]
        np.testing.assert_allclose(shown, env.problem.features.train[rows] @ axes(env), atol=1e-4)
        observation = env.step(action)[0]


@pytest.mark.parametrize("labels", ["device", "server"])
@pytest.mark.parametrize("name", [SAMPLE, NETWORK])
def test_content_is_of_the_sample_and_signed_by_a_known_label_of_two(
    name: str, labels: str
) -> None:
    env = make(name, labels=labels, budget=12)
    observation, _ = env.reset(seed=1)
    problem = env.problem
    rows = problem.buffers.rows[0]
    wanted = problem.features.train[rows] @ axes(env)
    if name == SAMPLE and labels == "device":
        wanted *= np.where(problem.features.train_labels[rows] == 0, 1, -1)[..., None]
    for i in range(EMBEDDING_SIZE):
        shown = column(env, observation, "samples", f"content_{i}")
        np.testing.assert_allclose(shown, wanted[..., i], atol=1e-4)
    meaning = env.tables["samples"].columns[-1].meaning
    assert ("times c" in meaning) == (name == SAMPLE and labels == "device")
    hidden = make(name, labels=labels, budget=12, content=False)
    assert "content_0" not in hidden.tables["samples"]
    kept = hidden.tables["samples"]
    np.testing.assert_array_equal(
        hidden.reset(seed=1)[0]["samples"], observation["samples"][..., : len(kept)]
    )


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_lanes_in_the_middle_of_a_block_reset_as_sync_vector_env_does(mode: AutoresetMode) -> None:
    fields = {**SMALL, "uploads_per_block": 3, "budget": 9, "retrain_every": 2}
    ours = gym.make_vec(f"edge_gym/{TURNS}", 4, autoreset_mode=mode, **fields)
    theirs = SyncVectorEnv([lambda: make(TURNS, **fields)] * 4, autoreset_mode=mode)
    assert_same(ours.reset(seed=3), theirs.reset(seed=3))
    rng = np.random.default_rng(0)
    phases, ends = set(), 0
    for step in range(60):
        if step in (1, 2, 4, 7):
            mask = np.arange(4) == step % 4
            both = [env.reset(options={"reset_mask": mask.copy()}) for env in (ours, theirs)]
            assert_same(*both)
        actions = rng.integers(4, size=4)
        results = ours.step(actions), theirs.step(actions)
        assert_same(*results)
        phases.add(tuple(ours.problem.n_chosen))
        done = results[0][2]
        ends += done.sum()
        if mode == AutoresetMode.DISABLED and done.any():
            both = [env.reset(options={"reset_mask": done.copy()}) for env in (ours, theirs)]
            assert_same(*both)
    assert ends >= 12
    assert any(len(set(phase)) == 3 for phase in phases)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_states_in_the_middle_of_a_block_move(steps: int) -> None:
    fields = {"uploads_per_block": 3, "budget": 12, "retrain_every": 2}
    env, other = make(TURNS, **fields), make(TURNS, **fields)
    env.reset(seed=0)
    other.reset(seed=1)
    actions = [int(a) for a in np.random.default_rng(steps).integers(4, size=12)]
    for action in actions[:steps]:
        env.step(action)
    assert env.problem.n_chosen[0] == steps % 3
    state, twin = copy.deepcopy(env.get_state()), copy.deepcopy(env)
    expected = [env.step(action) for action in actions[steps:]]
    other.set_state(state)
    assert_same([other.step(action) for action in actions[steps:]], expected)
    assert_same([twin.step(action) for action in actions[steps:]], expected)
    assert_same(other.reset(), env.reset())


# ---------------------------------------------------------------------------------------- channels


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_received_samples_have_the_stated_noise(snr_db: float) -> None:
    env = make(mean_snr_db=snr_db, budget=300, retrain_every=300, test_size=20)
    observation, _ = env.reset(seed=0)
    actions = random_actions(env.action_space)
    features = env.problem.features.train
    noises = []
    for _ in range(300):
        action = next(actions)
        snr = 10 ** (column(env, observation, "devices", "snr_db")[action // 3] / 10)
        row = env.problem.buffers.rows[0].ravel()[action]
        observation = env.step(action)[0]
        received = env.problem.received[0]
        noises.append((received - features[row]) * np.sqrt(snr))
    noise = np.array(noises)
    n = noise.size
    assert n == 300 * 49
    # E|x̂ - x|² = d/γ: five deviations of the mean of n squares, and of n values.
    assert np.square(noise).mean() == pytest.approx(1, abs=5 * np.sqrt(2 / n))
    assert noise.mean() == pytest.approx(0, abs=5 / np.sqrt(n))
    assert (noise[1:] * noise[:-1]).mean() == pytest.approx(0, abs=5 / np.sqrt(n))
    assert kstest(noise.ravel(), "norm").pvalue > 1e-3


@pytest.mark.parametrize(("name", "size"), [(SAMPLE, 14), (BATCH, 7)])
def test_the_snr_of_a_symbol_stands_beside_that_of_the_sample(name: str, size: int) -> None:
    env = make(name, image_size=size, path_loss_exponent=3.0)
    observation, _ = env.reset(seed=1)
    np.testing.assert_allclose(
        column(env, observation, "devices", "symbol_snr_db"),
        column(env, observation, "devices", "snr_db") - 20 * np.log10(size),
        rtol=1e-5,
    )
    # Last, so that what stands before it keeps its place.
    assert env.tables["devices"].columns[-1].name == "symbol_snr_db"


def test_fading_is_exponential_with_the_devices_mean() -> None:
    env = make(mean_snr_db=10, n_devices=40, buffer_size=1, budget=60, retrain_every=60)
    observation, _ = env.reset(seed=0)
    gains = []
    over = False
    while not over:
        snr_db = column(env, observation, "devices", "snr_db")
        gains.append(10 ** ((snr_db - column(env, observation, "devices", "mean_snr_db")) / 10))
        observation, _, over, *_ = env.step(0)
    assert kstest(np.ravel(gains), "expon").pvalue > 1e-3
    assert np.mean(gains) == pytest.approx(1, abs=5 / np.sqrt(np.size(gains)))
    np.testing.assert_allclose(column(env, observation, "devices", "mean_snr_db"), 10, rtol=1e-6)


@pytest.mark.parametrize("exponent", [2.0, 3.5])
def test_devices_lie_anywhere_in_a_disc(exponent: float) -> None:
    env = make(mean_snr_db=15, path_loss_exponent=exponent, n_devices=100, buffer_size=1)
    means = []
    for seed in range(15):
        observation, _ = env.reset(seed=seed)
        means.append(column(env, observation, "devices", "mean_snr_db"))
    means_db = np.ravel(means)
    # A distance r in the unit disc has P(r < x) = x², the median √½, and no one is closer than .1.
    distance = np.sqrt(0.5) * 10 ** ((15 - means_db) / (10 * exponent))
    assert distance.max() <= 1 + 1e-5
    assert distance.min() == pytest.approx(0.1, rel=1e-5)
    assert (distance < 0.1001).mean() == pytest.approx(0.01, abs=5 * np.sqrt(0.01 / 1500))
    beyond = distance[distance > 0.1001]
    assert kstest((beyond**2 - 0.01) / 0.99, "uniform").pvalue > 1e-3
    # Near the median r = √½ of 1,500 squares deviates by 1/(2√1500), so by 0.11 dB a power.
    assert np.median(means_db) == pytest.approx(15, abs=5 * 0.057 * exponent)


def test_equal_devices_without_path_loss() -> None:
    env = make(mean_snr_db=7)
    observation, _ = env.reset(seed=0)
    np.testing.assert_allclose(column(env, observation, "devices", "mean_snr_db"), 7, rtol=1e-6)


# ------------------------------------------------------------------------------------ observations


@cache
def principal_axes(
    size: int | None, classes: tuple[int, ...] | None, every: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the first principal axes of some rows by singular values, and variances along them."""
    features = make(image_size=size, classes=classes, learner="mlp").problem.features
    rows = features.train[::every].astype(np.float64)
    _, lengths, axes = np.linalg.svd(rows, full_matrices=False)
    return np.asarray(axes[:EMBEDDING_SIZE].T), lengths[:EMBEDDING_SIZE] ** 2 / len(rows)


def axes(env: Any) -> NDArray[np.float64]:
    """Return the axes of every second row, turned towards those of all rows."""
    found, _ = principal_axes(env.config.image_size, env.config.classes, 2)
    every, _ = principal_axes(env.config.image_size, env.config.classes, 1)
    every = every * np.sign(every[np.abs(every).argmax(axis=0), np.arange(EMBEDDING_SIZE)])
    turn, _ = orthogonal_procrustes(found, every)
    return np.asarray(found @ turn)


@pytest.mark.parametrize("name", [SAMPLE, NETWORK])
def test_what_is_observed_knows_nothing_of_validation_samples(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make(name)
    problem = env.problem
    validated = set()
    for seed in range(20):
        env.reset(seed=seed)
        validated |= set(problem.validation[0].tolist())
    kept = np.flatnonzero(problem.pooled)
    assert not validated & set(kept.tolist())
    # Other validation samples, other rewards; the subspace of the components stays.
    features = problem.features
    train = features.train.copy()
    train[~problem.pooled] = np.random.default_rng(0).normal(size=train[~problem.pooled].shape)
    monkeypatch.setattr(
        "edge_gym.envs.data_scheduling.embeddings.load_features",
        lambda *_: dataclasses.replace(features, train=train),
    )
    sample_embeddings.cache_clear()
    try:
        other = make(name).problem.embeddings
    finally:
        sample_embeddings.cache_clear()
    np.testing.assert_array_equal(other.axes, problem.embeddings.axes)
    np.testing.assert_array_equal(other.variances, problem.embeddings.variances)
    ours, theirs = (e.shown[kept].astype(np.float64) for e in (problem.embeddings, other))
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-4)


@pytest.mark.parametrize(("name", "fields"), [(SAMPLE, {}), (BATCH, {"retrain_every": 5})])
def test_novelty_is_the_direct_formula(name: str, fields: dict[str, Any]) -> None:
    env = make(name, **fields, mean_snr_db=12)
    observation, _ = env.reset(seed=4)
    actions = random_actions(env.action_space, 4)
    # Any signs will do.
    components, variances = principal_axes(env.config.image_size, env.config.classes, 2)
    covariance = np.diag(variances)
    snrs = [np.inf] * env.config.initial_samples
    for _ in range(12):
        x, _ = acquired(env)
        a = np.eye(EMBEDDING_SIZE) / EMBEDDING_SIZE
        for z_hat, snr in zip(x @ components, snrs, strict=True):
            wiener = covariance @ np.linalg.inv(covariance + np.eye(EMBEDDING_SIZE) / snr)
            left = covariance - wiener @ covariance
            estimate = wiener @ z_hat
            a += np.outer(estimate, estimate) / (1 + np.trace(np.linalg.inv(a) @ left))
        z = env.problem.features.train[env.problem.buffers.rows[0]] @ components
        wanted = np.einsum("kne,ef,knf->kn", z, np.linalg.inv(a), z)
        novelty = column(env, observation, "samples", "novelty")
        np.testing.assert_allclose(novelty, wanted, rtol=1e-4)
        snr = env.problem.current_snr(np.zeros(1, np.int64))[0]
        observation = env.step(next(actions))[0]
        uploaded = column(env, observation, "devices", "staleness") == 0
        turns = env.problem.chosen_device[0][: uploaded.sum()]
        snrs += snr[turns].tolist()
    assert novelty.max() > 2 * novelty.min()


@pytest.mark.parametrize("retrain_every", [1, 4])
def test_samples_are_judged_by_the_classifier_as_it_is(retrain_every: int) -> None:
    env = make(retrain_every=retrain_every, mean_snr_db=5, partition="shards")
    observation, _ = env.reset(seed=5)
    data = env.problem.features
    actions = random_actions(env.action_space, 5)
    over = False
    wrongs = 0
    while not over:
        w, b = weights(env)
        norm = np.linalg.norm(w)
        rows = env.problem.buffers.rows[0]
        labels = data.train_labels[rows]
        score = data.train[rows] @ w + b
        margin = np.where(labels == 0, score, -score)
        wrong = (score >= 0) != (labels == 0)
        wrongs += wrong.sum()
        _, y = acquired(env)
        validation = env.problem.validation[0]
        truth = data.train_labels[validation]
        right = ((data.train[validation] @ w + b) >= 0) == (truth == 0)
        share = np.array([(y == label).mean() for label in (0, 1)])
        recall = np.array([right[truth == label].mean() for label in (0, 1)])
        for name, wanted in {
            "present": 1.0,
            "distance": np.abs(score) / norm,
            "margin": margin,
            "hinge_loss": np.maximum(0, 1 - margin),
            "zero_one_loss": wrong,
            "label_share": 2 * share[labels],
            "label_recall": recall[labels],
        }.items():
            ours = column(env, observation, "samples", name)
            np.testing.assert_allclose(ours, np.broadcast_to(wanted, ours.shape), atol=2e-5)
        entropy = -sum(p * np.log2(p) for p in share)
        trained = len(y) - int(column(env, observation, "system", "unlearned"))
        assert (trained - 4) % retrain_every == 0
        for name, wanted in {
            "accuracy": right.mean(),
            "weight_norm": norm,
            "class_balance": entropy,
            "samples": len(y),
        }.items():
            assert column(env, observation, "system", name) == pytest.approx(wanted, rel=1e-5)
        observation, _, over, _, _ = env.step(next(actions))
    assert wrongs > 0


@pytest.mark.parametrize(
    ("name", "fields"),
    [(MULTICLASS, {"retrain_every": 3}), (NETWORK, {"learner": "mlp", "retrain_every": 2})],
)
def test_many_classes_are_judged_as_the_learner_does(name: str, fields: dict[str, Any]) -> None:
    env = make(name, n_devices=5, partition="shards", validation_size=200, **fields)
    observation, _ = env.reset(seed=0)
    problem, learner = env.problem, env.problem.learner
    loss_name = "hinge_loss" if name == MULTICLASS else "cross_entropy"
    uncertainty_name = "distance" if name == MULTICLASS else "entropy"
    assert {loss_name, uncertainty_name} < {c.name for c in env.tables["samples"]}
    assert ("weight_norm" in env.tables["system"]) == (name == MULTICLASS)
    actions = random_actions(env.action_space)
    for _ in range(7):
        rows = problem.buffers.rows[:1].reshape(1, -1)
        labels = problem.features.train_labels[rows]
        samples = problem.features.train[rows]
        assessment = learner.assess(np.zeros(1, np.int64), samples, labels)
        if name == MULTICLASS:
            loss = np.maximum(0, 1 - assessment.margin)
            uncertainty = assessment.uncertainty
        else:
            inputs = learner._to_inputs(samples)
            logits = learner.network.logits(learner.parameters[:1], inputs)
            log_p = log_softmax(logits.numpy().astype(np.float64), axis=-1)
            loss = -np.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
            uncertainty = -(np.exp(log_p) * log_p).sum(axis=-1)
        for column_name, wanted in (
            (loss_name, loss),
            (uncertainty_name, uncertainty),
            ("zero_one_loss", assessment.predicted != labels),
        ):
            ours = column(env, observation, "samples", column_name)
            np.testing.assert_allclose(ours.reshape(1, -1), wanted, atol=1e-4)
        share = problem.counts[0] / problem.counts[0].sum()
        ours = column(env, observation, "samples", "label_share")
        np.testing.assert_allclose(ours, 10 * share[labels].reshape(5, 3), rtol=1e-5)
        observation = env.step(next(actions))[0]


@pytest.mark.parametrize("name", [SAMPLE, NETWORK])
def test_labels_at_the_server_hide_columns_and_change_nothing_else(name: str) -> None:
    fields = {"budget": 12, "train_steps": 2, "image_size": 7}
    knowing, blind = make(name, **fields), make(name, labels="server", **fields)
    full, rest = knowing.tables["samples"], blind.tables["samples"]
    hidden = {c.name for c in full} - {c.name for c in rest}
    assert hidden == {
        c.replace("hinge_loss", "cross_entropy") if name == NETWORK else c for c in LABEL_COLUMNS
    }
    kept = [full.index(c.name) for c in rest]
    assert kept == sorted(kept)
    ours, theirs = knowing.reset(seed=1), blind.reset(seed=1)
    over = False
    actions = random_actions(knowing.action_space)
    while True:
        seen = {**ours[0], "samples": ours[0]["samples"][:, :, kept]}
        # With two classes the content is times the label where that is known.
        both = [{**part, "samples": np.abs(part["samples"])} for part in (seen, theirs[0])]
        assert_same(*both)
        assert_same(ours[1:], theirs[1:])
        if over:
            break
        action = next(actions)
        ours, theirs = knowing.step(action), blind.step(action)
        over = ours[2]


def test_tables_name_columns_once_and_have_sane_scales() -> None:
    for learner, labels, actions, m in itertools.product(
        ("svm", "mlp"), ("device", "server"), ("device", "scores"), (1, 2)
    ):
        config = DataSchedulingConfig(
            learner=learner, labels=labels, actions=actions, uploads_per_block=m
        )
        for table in observation_tables(config).values():
            names = [c.name for c in table]
            assert len(set(names)) == len(names)
            assert (table.low < table.high).all()
            assert all(c.spread > 0 for c in table)
        devices = observation_tables(config)["devices"]
        assert ("chosen" in devices) == (m == 2 and actions == "device")
        assert ("embedding_15" in devices) == (m == 2)


@pytest.mark.parametrize("learner", ["svm", "mlp"])
@pytest.mark.parametrize("name", [SAMPLE, BATCH, TURNS])
@pytest.mark.parametrize(
    "fields", [{"mean_snr_db": -30, "path_loss_exponent": 6}, {"mean_snr_db": 60}]
)
def test_observations_keep_their_bounds_at_extreme_snr(
    name: str, learner: str, fields: dict[str, float]
) -> None:
    env = make(name, learner=learner, n_devices=8, train_steps=3, **fields)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        observation, info = env.reset(seed=0)
        actions = random_actions(env.action_space)
        over = False
        while True:
            assert env.observation_space.contains(observation)
            assert all(np.isfinite(value) for value in info.values())
            if over:
                break
            observation, reward, over, _, info = env.step(next(actions))
            assert np.isfinite(reward)
    mean_db = column(env, observation, "devices", "mean_snr_db")
    if "path_loss_exponent" in fields:
        assert (mean_db == -30).any()
    assert mean_db.max() <= 60


# ------------------------------------------------------------------------------- rewards and data


@pytest.mark.parametrize("name", [SAMPLE, BATCH, TURNS])
@pytest.mark.parametrize("reward", ["accuracy", "loss"])
def test_rewards_telescope(name: str, reward: str) -> None:
    env = make(name, reward=reward, retrain_every=5, mean_snr_db=10)
    _, first = env.reset(seed=2)
    actions = random_actions(env.action_space, 2)
    rewards, over = [], False
    while not over:
        _, gain, over, _, info = env.step(next(actions))
        assert gain == info["accuracy_gain" if reward == "accuracy" else "loss_decrease"]
        assert info["trained"] or gain == 0
        rewards.append(gain)
    change = info[f"validation_{reward}"] - first[f"validation_{reward}"]
    assert sum(rewards) == pytest.approx(change if reward == "accuracy" else -change, abs=1e-12)
    assert 0 < np.count_nonzero(rewards) <= 6


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


# ------------------------------------------------------------------------- agents and pictures


@pytest.mark.parametrize("name", [SAMPLE, DEVICE, BATCH, TURNS, NETWORK])
def test_ppo_learns_a_rollout(name: str) -> None:
    env = make(name, budget=12, train_steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent = PPO("MultiInputPolicy", env, n_steps=32, batch_size=16, n_epochs=1, device="cpu")
        before = [p.clone() for p in agent.policy.parameters()]
        agent.learn(32)
    assert agent.num_timesteps == 32
    after = list(agent.policy.parameters())
    assert any(not a.equal(b) for a, b in zip(after, before, strict=True))
    assert all(bool(p.isfinite().all()) for p in after)
    observation, _ = env.reset(seed=0)
    action, _ = agent.predict(observation, deterministic=True)
    assert env.action_space.contains(action if name == BATCH else int(action))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (SAMPLE, {}),
        (DEVICE, {"n_devices": 60, "buffer_size": 2, "learner": "mlp"}),
        (BATCH, {"path_loss_exponent": 3.0}),
        (TURNS, {"uploads_per_block": 3, "budget": 6}),
        (SAMPLE, {"refill": False, "budget": 12}),
        (MULTICLASS, {"mean_snr_db": -30}),
        (NETWORK, {"mean_snr_db": 60}),
    ],
)
def test_pictures_from_start_to_end(name: str, fields: dict[str, Any]) -> None:
    env = make(name, render_mode="rgb_array", **{"budget": 8, "train_steps": 2, **fields})
    twin = make(name, **{"budget": 8, "train_steps": 2, **fields})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, theirs = env.reset(seed=0), twin.reset(seed=0)
        pictures = [env.render()]
        for step, action in enumerate(random_actions(env.action_space)):
            assert_same(ours, theirs)
            ours, theirs = env.step(action), twin.step(action)
            # The second step is within a block where devices are chosen in turns.
            if step == 1 or ours[2]:
                pictures.append(env.render())
            if ours[2]:
                break
    assert_same(ours, theirs)
    assert [picture.shape for picture in pictures] == [(500, 900, 3)] * 3
    assert all((a != b).any() for a, b in itertools.pairwise(pictures))


def test_the_picture_tells_what_was_uploaded() -> None:
    env = make(mean_snr_db=12, n_devices=5)
    env.reset(seed=0)
    scene = env.problem.scene(0)
    assert scene.title == "0 of 24 samples uploaded"
    assert [panel.caption for panel in scene.panels[0][:2]] == ["nothing yet"] * 2
    seen = env.problem.current_snr(np.zeros(1, np.int64))[0]
    channels = scene.panels[0][2]
    assert channels.title == "Channels of block 1, the next"
    np.testing.assert_allclose(channels.series["others"], 10 * np.log10(seen))
    assert not channels.targets
    row = env.problem.buffers.rows[0, 3, 1]
    *_, info = env.step(3 * 3 + 1)
    scene = env.problem.scene(0)
    assert scene.title == "1 of 24 samples uploaded"
    received, sent, channels, _ = scene.panels[0]
    assert received.caption == f"SNR {info['uploaded_snr_db']:.1f} dB"
    features = env.problem.features
    np.testing.assert_array_equal(sent.image, features.image(features.train[row]))
    label = (3, 5)[features.train_labels[row]]
    assert sent.caption == f"label {label}, device 3"
    # Its SNR stands where it uploaded, in block 1, though bars are the channels of block 2.
    assert scene.text.endswith("received in block 1")
    assert channels.title == "Channels of block 2, the next"
    then = channels.targets["in block 1"]
    assert np.isfinite(then).tolist() == [k == 3 for k in range(5)]
    assert then[3] == pytest.approx(info["uploaded_snr_db"])
    assert np.isfinite(channels.series["uploaded last"]).tolist() == [k == 3 for k in range(5)]
    seen = env.problem.current_snr(np.zeros(1, np.int64))[0]
    bars = np.where(np.arange(5) == 3, channels.series["uploaded last"], channels.series["others"])
    np.testing.assert_allclose(bars, 10 * np.log10(seen))
    # What was acted on is the first series, which is dark blue in all problems.
    assert next(iter(channels.series)) == "uploaded last"


def test_the_last_picture_shows_the_channels_of_the_last_upload() -> None:
    env = make(mean_snr_db=12, n_devices=5, budget=2, retrain_every=2)
    env.reset(seed=0)
    env.step(0)
    *_, info = env.step(3 * 2)
    channels = env.problem.scene(0).panels[0][2]
    assert channels.title == "Channels of block 2"
    assert not channels.targets
    assert channels.series["uploaded last"][2] == pytest.approx(info["uploaded_snr_db"])


def test_the_picture_marks_all_devices_of_a_block() -> None:
    env = make(TURNS, n_devices=50)
    env.reset(seed=0)

    def marked() -> dict[str, list[int]]:
        panel = env.problem.scene(0).panels[0][2]
        assert panel.x_label == "device, the first 40"
        return {name: np.flatnonzero(np.isfinite(y)).tolist() for name, y in panel.series.items()}

    env.step(7)
    assert (marked()["chosen"], marked()["uploaded last"]) == ([7], [])
    env.step(2)
    assert (marked()["chosen"], marked()["uploaded last"]) == ([], [2, 7])
    env.step(2)
    assert (marked()["chosen"], marked()["uploaded last"]) == ([2], [7])
    assert sorted(itertools.chain(*marked().values())) == list(range(40))
    env.step(45)
    assert (marked()["chosen"], marked()["uploaded last"]) == ([], [2])
