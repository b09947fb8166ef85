"""What devices hold: wrong labels, classes that lie somewhere, rare classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rollouts import make_vec

from edge_gym.data import decode_labels, draw_wrong_labels, encode_labels

FEDERATED = ["UpdateScheduling-v0", "BatchSlot-v0", "TaskAllocationFederated-v0", "Offloading-v0"]
ROOM = {"n_devices": 6, "samples_per_device": 60}


def test_labels_come_back_out_of_codes() -> None:
    labels = np.array([3, 0, 2, 1])
    rows, told = np.array([[0, 1], [3, 2]]), np.array([[1, 3], [0, 2]])
    codes = encode_labels(rows, told, 4)
    assert (codes >= 4).all()
    for found, wanted in zip(decode_labels(codes, labels), (rows, told), strict=True):
        np.testing.assert_array_equal(found, wanted)
    for found, wanted in zip(decode_labels(rows, labels), (rows, labels[rows]), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0])
def test_wrong_labels_are_others_all_as_likely(probability: float) -> None:
    true = np.full(20_000, 3)
    told = draw_wrong_labels(np.random.default_rng(0), true, 5, probability)
    share = np.bincount(told, minlength=5) / len(told)
    expected = np.full(5, probability / 4)
    expected[3] = 1 - probability
    np.testing.assert_allclose(share, expected, atol=0.015 if 0 < probability < 1 else 0.01)


def told(problem: Any, lane: int, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the true labels of a device's samples, and those that it has."""
    labels = problem.features.train_labels
    rows, own = decode_labels(problem.rows[lane, k, : problem.sizes[lane, k]], labels)
    return labels[rows], own


@pytest.mark.parametrize("name", FEDERATED)
def test_corrupt_devices_have_wrong_labels_and_nobody_else(name: str) -> None:
    env = make_vec(name, 8, **ROOM, corrupt_devices=2)
    env.reset(seed=0)
    problem = env.unwrapped.problem
    assert (problem.corrupt.sum(axis=1) == 2).all()
    assert len({tuple(who) for who in problem.corrupt.tolist()}) > 3
    for lane, k in np.ndindex(problem.corrupt.shape):
        true, own = told(problem, lane, k)
        assert (true != own).all() if problem.corrupt[lane, k] else (true == own).all()
        assert own.max() < problem.network.n_classes
    n = len(problem.features.train_labels)
    assert problem.validation.max() < n
    assert problem.test.max() < len(problem.features.test_labels)
    for lane in range(8):
        held = problem.rows[lane][np.arange(problem.rows.shape[2]) < problem.sizes[lane, :, None]]
        assert not np.isin(held % n, problem.validation[lane]).any()


def test_labels_are_wrong_at_the_stated_rate() -> None:
    env = make_vec("UpdateScheduling-v0", 32, **ROOM, corrupt_devices=6, label_noise=0.3)
    env.reset(seed=1)
    problem = env.unwrapped.problem
    pairs = [told(problem, *where) for where in np.ndindex(problem.corrupt.shape)]
    wrong = np.concatenate([true != own for true, own in pairs])
    assert len(wrong) > 8000
    assert wrong.mean() == pytest.approx(0.3, abs=0.02)


def test_devices_with_the_same_samples_have_the_same_labels() -> None:
    env = make_vec("UpdateScheduling-v0", 4, **ROOM, corrupt_devices=2, redundancy=2)
    env.reset(seed=2)
    problem = env.unwrapped.problem
    for pair in (problem.rows, problem.corrupt):
        np.testing.assert_array_equal(pair[:, ::2], pair[:, 1::2])
    assert (problem.corrupt.sum(axis=1) == 2).all()


def test_what_clean_devices_hold_is_not_changed_by_others() -> None:
    clean, mixed = (make_vec("UpdateScheduling-v0", 2, **ROOM, corrupt_devices=n) for n in (0, 3))
    for env in (clean, mixed):
        env.reset(seed=3)
    ours, theirs = clean.unwrapped.problem, mixed.unwrapped.problem
    assert not ours.corrupt.any()
    assert ours.rows.max() < len(ours.features.train_labels)
    for lane, k in np.argwhere(~theirs.corrupt):
        np.testing.assert_array_equal(theirs.rows[lane, k], ours.rows[lane, k])
    np.testing.assert_array_equal(theirs.sizes, ours.sizes)


def test_the_end_tells_how_many_uploads_were_corrupt() -> None:
    fields = {**ROOM, "corrupt_devices": 2, "max_rounds": 4, "budget_s": 1e3}
    env = make_vec("UpdateScheduling-v0", 3, **fields)
    env.reset(seed=4)
    problem = env.unwrapped.problem
    # Two corrupt devices and nobody else, in every one of four rounds.
    scores = np.where(problem.corrupt, 1, -1).astype(np.float32)
    actions = np.stack([scores, np.ones_like(scores)], axis=-1)
    for _ in range(4):
        *_, infos = env.step(actions)
    np.testing.assert_array_equal(infos["corrupt_uploads"], [8, 8, 8])


def test_learners_that_are_dealt_samples_have_no_labels_of_their_own() -> None:
    with pytest.raises(ValueError, match='corrupt_devices needs learning="federated"'):
        make_vec("TaskAllocation-v0", 1, corrupt_devices=1)


@pytest.mark.parametrize("partition", ["shards", "dirichlet"])
@pytest.mark.parametrize("name", ["UpdateScheduling-v0", "TaskAllocationFederated-v0"])
def test_classes_follow_the_distance(name: str, partition: str) -> None:
    fields = {"n_devices": 10, "samples_per_device": 40, "classes": (3, 5), "partition": partition}
    env = make_vec(name, 8, **fields, partition_by_distance=True)
    env.reset(seed=5)
    problem = env.unwrapped.problem
    first = set()
    for lane in range(8):
        shares = [
            problem.features.train_labels[problem.rows[lane, k, : problem.sizes[lane, k]]].mean()
            for k in np.argsort(-problem.mean_snr[lane])
        ]
        # Which of two classes is the nearer one is drawn.
        assert sorted(shares) in (shares, shares[::-1])
        assert abs(shares[-1] - shares[0]) > 0.5
        first.add(shares[0] < shares[-1])
    assert len(first) == 2


def test_near_devices_alone_teach_half_of_the_classes() -> None:
    env = make_vec("UpdateScheduling-v0", 4, n_devices=10, partition_by_distance=True)
    env.reset(seed=6)
    problem = env.unwrapped.problem
    labels = problem.features.train_labels
    nearest = np.argsort(-problem.mean_snr, axis=1)
    for lane in range(4):
        halves = [
            {
                label
                for k in half
                for label in labels[problem.rows[lane, k, : problem.sizes[lane, k]]].tolist()
            }
            for half in (nearest[lane, :5], nearest[lane, 5:])
        ]
        # A class at the border may be held by both.
        assert len(halves[0] | halves[1]) == 10
        assert len(halves[0] & halves[1]) <= 1


def test_devices_with_the_same_samples_lie_side_by_side() -> None:
    env = make_vec("UpdateScheduling-v0", 3, **ROOM, redundancy=2, partition_by_distance=True)
    env.reset(seed=7)
    rank = env.unwrapped.problem.mean_snr.argsort(axis=1).argsort(axis=1)
    np.testing.assert_array_equal(rank[:, ::2] // 2, rank[:, 1::2] // 2)


def test_some_classes_are_rare_on_devices_and_common_in_the_validation_set() -> None:
    fields = {"partition": "iid", "validation_size": 500, "size_spread": 0.0}
    env = make_vec("UpdateScheduling-v0", 5, **{**ROOM, **fields}, class_imbalance=10.0)
    env.reset(seed=8)
    problem = env.unwrapped.problem
    labels = problem.features.train_labels
    for lane in range(5):
        counts = np.sort(np.bincount(labels[problem.rows[lane].ravel()], minlength=10))
        assert counts.sum() == 360
        assert counts[-1] / counts[0] == pytest.approx(10, rel=0.2)
        assert np.bincount(labels[problem.validation[lane]], minlength=10).min() > 25


def test_places_mean_nothing_where_all_train() -> None:
    with pytest.raises(ValueError, match="partition_by_distance must be false"):
        make_vec("Offloading-v0", 1, partition_by_distance=True)


# ------------------------------------------------------------------------------- data scheduling

SAMPLES = {"n_devices": 6, "buffer_size": 5, "budget": 30, "classes": None, "learner": "svm-ovo"}


def scheduling(n_lanes: int, name: str = "DataSchedulingDevice-v0", **fields: Any) -> Any:
    return make_vec(name, n_lanes, **{**SAMPLES, **fields}).unwrapped


@pytest.mark.parametrize("learner", ["svm-ovo", "mlp"])
def test_corrupt_devices_judge_and_upload_by_wrong_labels(learner: str) -> None:
    env = scheduling(4, learner=learner, corrupt_devices=2, image_size=7)
    env.reset(seed=0)
    problem, lanes = env.problem, np.arange(4)
    assert (problem.corrupt.sum(axis=1) == 2).all()
    assert len({tuple(who) for who in problem.corrupt.tolist()}) > 1
    true = problem.features.train_labels

    def compare() -> None:
        rows = problem.buffers.rows
        told = problem.labels_of(lanes[:, None, None], rows)
        wrong = told != true[rows]
        np.testing.assert_array_equal(
            wrong, np.broadcast_to(problem.corrupt[:, :, None], rows.shape)
        )
        samples = problem.features.train[rows].reshape(4, -1, problem.features.train.shape[1])
        judged = problem.learner.assess(lanes, samples, told.reshape(4, -1))
        np.testing.assert_allclose(
            problem.margin.reshape(4, -1), judged.margin, rtol=1e-4, atol=1e-5
        )
        np.testing.assert_array_equal(
            problem.wrong.reshape(4, -1), judged.predicted != told.reshape(4, -1)
        )

    compare()
    for step in range(12):
        device = (problem.corrupt if step % 2 else ~problem.corrupt).argmax(axis=1)
        counts = problem.counts.copy()
        env.step(device)
        row = problem.uploaded[:, 1].astype(np.int64)
        acquired = (problem.counts - counts).argmax(axis=1)
        assert ((acquired == true[row]) == (step % 2 == 0)).all()
        compare()


def test_the_end_of_data_scheduling_tells_how_many_uploads_were_corrupt() -> None:
    env = scheduling(2, corrupt_devices=3, label_noise=0.5)
    env.reset(seed=1)
    for _ in range(30):
        *_, infos = env.step(env.problem.corrupt.argmax(axis=1))
    np.testing.assert_array_equal(infos["corrupt_uploads"], [30, 30])
    told, true = env.problem.told_labels, env.problem.features.train_labels
    held = env.problem.validation
    for lane in range(2):
        assert (told[lane, held[lane]] == true[held[lane]]).all()
        # Half of the devices' samples, half of them wrong.
        pool = (len(true) - len(held[lane])) / 4
        assert (told[lane] != true).sum() == pytest.approx(pool, rel=0.05)


def test_samples_follow_the_distance() -> None:
    fields = {"partition": "shards", "path_loss_exponent": 3.76, "n_devices": 10}
    env = scheduling(4, **fields, partition_by_distance=True)
    env.reset(seed=2)
    problem = env.problem
    for lane in range(4):
        labels = problem.features.train_labels[problem.buffers.rows[lane]]
        near, far = np.split(labels[np.argsort(-problem.mean_snr[lane])], 2)
        assert len(set(near.ravel()) & set(far.ravel())) <= 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"partition_by_distance": True}, "partition_by_distance must be false"),
        ({"corrupt_devices": 1, "labels": "server"}, 'corrupt_devices needs labels="device"'),
    ],
)
def test_settings_without_effect_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scheduling(1, **fields)
