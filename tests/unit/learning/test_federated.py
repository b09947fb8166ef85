from __future__ import annotations

import copy
import math
import multiprocessing
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from edge_gym.data import Features, encode_labels, load_features
from edge_gym.learning.averaging import average
from edge_gym.learning.federated import FederatedLearner
from edge_gym.learning.jobs import pad_rows
from edge_gym.learning.networks import numba_mlp as perceptrons
from edge_gym.learning.networks.architecture import Network
from edge_gym.learning.networks.factory import make_network
from edge_gym.runtime.streams import Keys, permutations

SIDE = 14
FEATURES = load_features("mnist-subset", None, SIDE)
N_TRAIN = len(FEATURES.train)
Rows = NDArray[np.int64]


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def network(name: str, features: Features = FEATURES, **options: Any) -> Network:
    return make_network(name, features.image_shape, 10, **options)


def make(
    name: str, n_lanes: int, *, dtype: torch.dtype = torch.float64, **options: Any
) -> FederatedLearner:
    learner = FederatedLearner(n_lanes, network(name, **options), FEATURES, dtype=dtype)
    learner.reset(np.arange(n_lanes), generators(n_lanes))
    return learner


def generators(n_lanes: int, first: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng(first + lane) for lane in range(n_lanes)]


def draw_keys(n_lanes: int, n_devices: int, seed: int = 0) -> Keys:
    return np.stack(
        [
            np.random.default_rng([seed, lane]).integers(2**64, size=n_devices, dtype=np.uint64)
            for lane in range(n_lanes)
        ]
    )


def draw_rows(n_lanes: int, n_devices: int, size: int, seed: int = 7) -> Rows:
    return np.stack(
        [
            np.random.default_rng([seed, lane]).integers(N_TRAIN, size=(n_devices, size))
            for lane in range(n_lanes)
        ]
    )


def module(net: Network, hidden_sizes: tuple[int, ...] = (64,)) -> torch.nn.Sequential:
    """Return the network as torch modules in double precision."""
    channels, height, _ = net.image_shape
    layers: list[torch.nn.Module] = []
    sizes = [net.n_features, *hidden_sizes, net.n_classes]
    if net.name == "cnn":
        layers = convolutions(channels, (8, 16), 3, (1, 1))
        sizes = [16 * (height // 4) ** 2, net.n_classes]
    if net.name == "lenet":
        layers = convolutions(channels, (6, 16), 5, (2, 0))
        sizes = [16 * ((height // 2 - 4) // 2) ** 2, 120, 84, net.n_classes]
    for i in range(len(sizes) - 1):
        layers += [torch.nn.Linear(sizes[i], sizes[i + 1]), torch.nn.ReLU()]
    return torch.nn.Sequential(
        torch.nn.Unflatten(1, net.image_shape) if net.name != "mlp" else torch.nn.Identity(),
        *layers[:-1],
    ).double()


def convolutions(
    channels: int, outputs: tuple[int, int], kernel: int, paddings: tuple[int, int]
) -> list[torch.nn.Module]:
    layers: list[torch.nn.Module] = []
    for n, padding in zip(outputs, paddings, strict=True):
        layers += [torch.nn.Conv2d(channels, n, kernel, padding=padding), torch.nn.ReLU()]
        layers.append(torch.nn.MaxPool2d(2))
        channels = n
    return [*layers, torch.nn.Flatten()]


def assign(model: torch.nn.Module, vector: torch.Tensor) -> None:
    """Set the parameters of ``model``; ours keep dense weights as (inputs, outputs)."""
    start = 0
    for parameter in model.parameters():
        part = vector[start : start + parameter.numel()]
        start += parameter.numel()
        shape = parameter.shape
        value = part.view(shape[1], shape[0]).T if len(shape) == 2 else part.view(shape)
        parameter.data = value.to(parameter.dtype).clone()
    assert start == len(vector)


def flat(model: torch.nn.Module, *, gradients: bool = False) -> torch.Tensor:
    values = [p.grad if gradients else p.data for p in model.parameters()]
    assert all(v is not None for v in values)
    return torch.cat([(v.T if v.ndim == 2 else v).reshape(-1) for v in values if v is not None])


def samples(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.tensor(FEATURES.train[rows], dtype=torch.float64) * FEATURES.train.shape[1] ** 0.5
    return x, torch.tensor(FEATURES.train_labels[rows])


def loss_of(model: torch.nn.Module, rows: Rows) -> torch.Tensor:
    x, y = samples(rows)
    return torch.nn.functional.cross_entropy(model(x), y)


def reference_gradient(model: torch.nn.Module, rows: Rows) -> tuple[torch.Tensor, float]:
    model.zero_grad()
    loss = loss_of(model, rows)
    loss.backward()  # type: ignore[no-untyped-call]
    return flat(model, gradients=True), loss.item()


KINDS: list[tuple[str, tuple[int, ...]]] = [
    ("mlp", ()),
    ("mlp", (64,)),
    ("mlp", (17, 12)),
    ("cnn", ()),
    ("lenet", ()),
]
COUNTS = np.array([[5, 0, 32, 1], [300, 40, 7, 20], [0, 0, 0, 0]])


@pytest.mark.parametrize(("name", "hidden_sizes"), KINDS)
def test_gradients_equal_autograd(name: str, hidden_sizes: tuple[int, ...]) -> None:
    learner = make(name, 3, hidden_sizes=hidden_sizes)
    rows = draw_rows(3, 4, 300)
    gradients, losses = learner.gradients(np.arange(3), rows, COUNTS)
    model = module(learner.network, hidden_sizes)
    for lane in range(3):
        assign(model, learner.weights[lane])
        for k, count in enumerate(COUNTS[lane]):
            if count:
                expected, loss = reference_gradient(model, rows[lane, k, :count])
                torch.testing.assert_close(gradients[lane, k], expected, rtol=1e-9, atol=1e-12)
                assert losses[lane, k] == pytest.approx(loss, rel=1e-12)
            else:
                assert not gradients[lane, k].any()
                assert losses[lane, k] == 0


@pytest.mark.parametrize(("name", "hidden_sizes"), KINDS)
def test_samples_may_carry_labels_of_their_own(name: str, hidden_sizes: tuple[int, ...]) -> None:
    rows, lanes = draw_rows(2, 3, 40), np.arange(2)
    rng = np.random.default_rng(1)
    own = rng.integers(10, size=rows.shape)
    codes = np.where(rng.random(rows.shape) < 0.5, encode_labels(rows, own, N_TRAIN), rows)
    labels = np.where(codes == rows, FEATURES.train_labels[rows], own)
    assert (labels != FEATURES.train_labels[rows]).mean() > 0.3
    learner = make(name, 2, hidden_sizes=hidden_sizes)
    gradients, losses = learner.gradients(lanes, codes)
    model = module(learner.network, hidden_sizes)
    for lane, k in np.ndindex(2, 3):
        assign(model, learner.weights[lane])
        model.zero_grad()
        x, _ = samples(rows[lane, k])
        loss = torch.nn.functional.cross_entropy(model(x), torch.tensor(labels[lane, k]))
        loss.backward()  # type: ignore[no-untyped-call]
        expected = flat(model, gradients=True)
        torch.testing.assert_close(gradients[lane, k], expected, rtol=1e-9, atol=1e-12)
        assert losses[lane, k] == pytest.approx(loss.item(), rel=1e-12)
    # What else is learned or scored: to the bit what a data set with these labels gives.
    relabelled = FederatedLearner(
        2,
        learner.network,
        replace(FEATURES, train=FEATURES.train[rows.ravel()], train_labels=labels.ravel()),
        dtype=torch.float64,
    )
    relabelled.weights = learner.weights
    of_own = np.arange(rows.size).reshape(rows.shape)
    keys = draw_keys(2, 3)
    options: dict[str, Any] = {"epochs": 2, "batch_size": 8, "learning_rate": 0.1}
    updates, _ = learner.local_updates(lanes, codes, None, keys, **options)
    expected, _ = relabelled.local_updates(lanes, of_own, None, keys, **options)
    assert torch.equal(updates, expected)
    for found, wanted in zip(
        learner.score(lanes, codes[:, 0]), relabelled.score(lanes, of_own[:, 0]), strict=True
    ):
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("shape", [(1, 14, 14), (3, 9, 7)])
def test_the_compiled_convolutional_network_is_the_one_in_torch(
    shape: tuple[int, int, int],
) -> None:
    """Single precision on a CPU is compiled; double precision is torch's, held to autograd."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, math.prod(shape))).astype(np.float32) / math.sqrt(14)
    labels = rng.integers(10, size=400)
    features = replace(
        FEATURES, train=x, train_labels=labels, test=x, test_labels=labels, image_shape=shape
    )
    network = make_network("cnn", shape, 10)
    compiled, plain = (
        FederatedLearner(2, network, features, dtype=dtype)
        for dtype in (torch.float32, torch.float64)
    )
    lanes, rows = np.arange(2), rng.integers(400, size=(2, 3, 90))
    counts, keys = np.array([[90, 17, 0], [1, 33, 64]]), draw_keys(2, 3)
    compiled.reset(lanes, generators(2))
    plain.weights = compiled.weights.double()
    for ours, theirs in zip(
        (*compiled.gradients(lanes, rows, counts), *compiled.score(lanes, rows[:, 0])),
        (*plain.gradients(lanes, rows, counts), *plain.score(lanes, rows[:, 0])),
        strict=True,
    ):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=2e-4, atol=2e-6)
    options: dict[str, Any] = {"epochs": 2, "batch_size": 40, "learning_rate": 0.05}
    for ours, theirs in zip(
        compiled.local_updates(lanes, rows, counts, keys, **options),
        plain.local_updates(lanes, rows, counts, keys, **options),
        strict=True,
    ):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-3, atol=1e-5)


def orders(key: np.uint64, count: int, epochs: int) -> list[Rows]:
    """Return the orders of one device's epochs, drawn for it alone."""
    if not count or not epochs:
        return []
    order, _ = permutations(np.array([key]), np.array([count]), np.array([count * epochs]))
    found = np.split(order, epochs)
    assert all(sorted(epoch) == list(range(count)) for epoch in found)
    return found


@pytest.mark.parametrize("by", ["epochs", "steps"])
@pytest.mark.parametrize(("name", "hidden_sizes"), KINDS)
def test_local_updates_equal_sequential_sgd(
    name: str, hidden_sizes: tuple[int, ...], by: str
) -> None:
    learner = make(name, 3, hidden_sizes=hidden_sizes)
    counts = np.array([[5, 0, 32, 1], [50, 40, 7, 20], [0, 0, 0, 0]])
    amount = np.array([[2, 3, 1, 4], [1, 0, 5, 2], [1, 1, 1, 1]])
    rates = np.array([[0.1], [0.03], [0.2]])
    rows, batch_size = draw_rows(3, 4, 50), 8
    keys = draw_keys(3, 4)
    updates, losses = learner.local_updates(
        np.arange(3),
        rows,
        counts,
        keys,
        batch_size=batch_size,
        learning_rate=rates,
        **{by: amount},  # type: ignore[arg-type]
    )
    model = module(learner.network, hidden_sizes)
    for lane in range(3):
        per_epoch = -(-counts[lane] // batch_size)
        epochs = amount[lane] if by == "epochs" else -(-amount[lane] // np.maximum(per_epoch, 1))
        for k, count in enumerate(counts[lane]):
            batches = [
                order[s : s + batch_size]
                for order in orders(keys[lane, k], count, epochs[k])
                for s in range(0, count, batch_size)
            ]
            if by == "steps" and count:
                batches = batches[: amount[lane, k]]
            assign(model, learner.weights[lane])
            seen, total = 0, 0.0
            for batch in batches:
                gradient, loss = reference_gradient(model, rows[lane, k][batch])
                assign(model, flat(model) - rates[lane, 0] * gradient)
                seen, total = seen + len(batch), total + len(batch) * loss
            expected = flat(model) - learner.weights[lane]
            torch.testing.assert_close(updates[lane, k], expected, rtol=1e-8, atol=1e-11)
            assert losses[lane, k] == pytest.approx(total / max(seen, 1), rel=1e-10)
            assert bool(updates[lane, k].any()) == bool(batches)


def test_average_weighs_what_arrived() -> None:
    vectors = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 4, 5)))
    vectors[0, 3] = torch.nan
    vectors[1, 0] = torch.inf
    weights = np.array([[1.0, 2, 3, 0], [9, 1, 1, 1], [1, 1, 1, 1]])
    arrived = np.array([[True, True, False, True], [False, True, True, True], [False] * 4])
    expected = np.zeros((3, 5))
    expected[0] = (vectors[0, 0] + 2 * vectors[0, 1]) / 3
    expected[1] = vectors[1, 1:].mean(0)
    np.testing.assert_allclose(average(vectors, weights, arrived), expected, rtol=1e-14)
    np.testing.assert_allclose(
        average(vectors[2:], weights[2:]), vectors[2:].mean(1), rtol=1e-14, atol=1e-16
    )
    assert average(vectors[:0], weights[:0]).shape == (0, 5)
    with pytest.raises(ValueError, match="weights"):
        average(vectors, -weights)


def test_the_average_of_few_is_the_same_to_the_last_digit() -> None:
    rng = np.random.default_rng(1)
    vectors = torch.from_numpy(rng.standard_normal((6, 12, 100)).astype(np.float32))
    weights = rng.integers(1, 9, (6, 12))
    arrived = rng.random((6, 12)) < 0.2
    arrived[5] = False
    assert arrived.sum(axis=1).max() < 8
    found = average(vectors, weights, arrived)
    for lane in range(6):
        kept = np.where(arrived[lane], weights[lane], 0).astype(np.float64)
        expected = torch.zeros(100)
        for share, vector in zip(kept / max(kept.sum(), 1), vectors[lane], strict=True):
            expected = expected + np.float32(share) * vector
        assert found[lane].equal(expected)


def test_averaged_gradients_are_the_gradient_of_all_samples() -> None:
    learner = make("mlp", 2)
    rows, counts = draw_rows(2, 3, 40), np.array([[40, 3, 20], [8, 0, 16]])
    before = learner.weights.clone()
    gradients, losses = learner.gradients(np.arange(2), rows, counts)
    learner.apply(np.arange(2), average(gradients, counts), np.array([0.1, 0.5]))
    model = module(learner.network)
    for lane, rate in ((0, 0.1), (1, 0.5)):
        assign(model, before[lane])
        union = np.concatenate([r[:n] for r, n in zip(rows[lane], counts[lane], strict=True)])
        gradient, loss = reference_gradient(model, union)
        torch.testing.assert_close(learner.weights[lane], before[lane] - rate * gradient)
        assert np.average(losses[lane], weights=counts[lane]) == pytest.approx(loss)


def test_models_stay_where_nothing_arrives() -> None:
    learner = make("mlp", 2, dtype=torch.float32)
    before, lanes = learner.weights.clone(), np.arange(2)
    updates, _ = learner.local_updates(
        *(lanes, draw_rows(2, 3, 20), None, draw_keys(2, 3)),
        batch_size=8,
        learning_rate=0.1,
        epochs=1,
    )
    arrived = np.array([[False, False, False], [False, True, False]])
    learner.add(lanes, average(updates, np.ones((2, 3)), arrived))
    assert torch.equal(learner.weights[0], before[0])
    torch.testing.assert_close(learner.weights[1], before[1] + updates[1, 1])


def test_one_device_with_one_batch_of_all_samples_takes_a_gradient_step() -> None:
    learner = make("mlp", 1)
    rows, lanes = draw_rows(1, 1, 33), np.arange(1)
    gradients, losses = learner.gradients(lanes, rows)
    updates, local_losses = learner.local_updates(
        lanes, rows, None, draw_keys(1, 1), batch_size=64, learning_rate=0.3, steps=1
    )
    torch.testing.assert_close(updates, -0.3 * gradients)
    np.testing.assert_allclose(local_losses, losses)


def test_local_training_goes_on_from_given_models() -> None:
    learner, lanes, rows = make("mlp", 2), np.arange(2), draw_rows(2, 3, 20)
    before, after = draw_keys(2, 3, seed=0), draw_keys(2, 3, seed=1)
    options: dict[str, Any] = {"batch_size": 8, "learning_rate": 0.1, "epochs": 1}
    first, _ = learner.local_updates(lanes, rows, None, before, **options)
    reached = learner.weights[:, None] + first
    second, _ = learner.local_updates(lanes, rows, None, after, start=reached, **options)
    for k in range(3):
        learner.weights = reached[:, k].clone()
        again, _ = learner.local_updates(lanes, rows, None, after, **options)
        torch.testing.assert_close(again[:, k], second[:, k])
        other, _ = learner.local_updates(lanes, rows, None, before, **options)
        assert not torch.allclose(other[:, k], second[:, k])


@pytest.mark.parametrize("test", [False, True])
def test_score_counts_hits_and_nats(test: bool) -> None:
    learner = make("mlp", 3)
    counts, rows = np.array([700, 0, 33]), draw_rows(3, 1, 700)[:, 0] % len(FEATURES.test)
    score = learner.score(np.arange(3), rows, counts, test=test)
    model = module(learner.network)
    x, y = (
        (FEATURES.test, FEATURES.test_labels) if test else (FEATURES.train, FEATURES.train_labels)
    )
    for lane in (0, 2):
        assign(model, learner.weights[lane])
        own = rows[lane, : counts[lane]]
        logits = model(torch.tensor(x[own] * x.shape[1] ** 0.5, dtype=torch.float64))
        truth = torch.tensor(y[own])
        assert score.accuracy[lane] == float((logits.argmax(1) == truth).double().mean())
        recall = [(logits.argmax(1) == truth)[truth == c].double().mean() for c in range(10)]
        np.testing.assert_allclose(score.recall[lane], np.nan_to_num(recall))
        expected = torch.nn.functional.cross_entropy(logits, truth).item()
        assert score.loss[lane] == pytest.approx(expected, rel=1e-6)
    assert (score.accuracy[1], score.loss[1]) == (0, 0)
    whole = learner.score(np.arange(1), rows[:1], test=test)
    assert whole.accuracy[0] == score.accuracy[0]


@pytest.mark.parametrize("bias", [-np.inf, np.nan])
def test_what_diverged_is_rectified_as_by_torch(bias: float) -> None:
    rng = np.random.default_rng(0)
    inputs, labels = rng.random((6, 4), np.float32), np.arange(6) % 2
    first, second = rng.standard_normal((4, 3)), rng.standard_normal((3, 2))
    hidden = np.array([bias, 0.1, -0.2])
    weights = np.concatenate([first.ravel(), hidden, second.ravel(), [0.0, 0.3]])[None]
    rows = np.arange(6), np.array([0]), np.array([6])
    found = perceptrons.score(
        (4, 3, 2), weights.astype(np.float32), np.array([0]), (inputs, labels), rows
    )[2]
    x, w, v = (torch.tensor(part, dtype=torch.float32) for part in (inputs, first, second))
    logits = torch.relu(x @ w + torch.tensor(hidden, dtype=torch.float32)) @ v
    logits += torch.tensor([0.0, 0.3])
    expected = torch.nn.functional.cross_entropy(
        logits, torch.tensor(labels), reduction="sum"
    ).item()
    assert np.isfinite(expected) == (bias < 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def one_round(learner: FederatedLearner, lanes: Rows, *, extra: int = 0) -> dict[str, Any]:
    """Learn from batches that depend on each lane alone, however wide the arrays are."""
    keys = draw_keys(int(lanes.max()) + 1, 5)[lanes]
    counts = np.stack([np.random.default_rng(lane).integers(0, 60, 5) for lane in lanes])
    epochs = np.stack([np.random.default_rng(lane).integers(0, 4, 5) for lane in lanes])
    rows = np.zeros((len(lanes), 5, 60 + extra), np.int64)
    rows[..., :60] = draw_rows(int(lanes.max()) + 1, 5, 60)[lanes]
    gradients, losses = learner.gradients(lanes, rows, counts)
    learner.apply(lanes, average(gradients, counts), 0.1)
    updates, more = learner.local_updates(
        lanes, rows, counts, keys, batch_size=20, learning_rate=0.1, epochs=epochs
    )
    learner.add(lanes, average(updates, counts, epochs > 0))
    score = learner.score(lanes, rows[:, 0, :50])
    sizes = learner.norms(updates), learner.distances(lanes, updates)
    values = (gradients, losses, updates, more, *score, *sizes, learner.weights[lanes])
    return {str(i): np.asarray(v) for i, v in enumerate(values)}


@pytest.mark.parametrize(("name", "hidden_sizes"), [*KINDS, ("mlp", (64, 30)), ("mlp", (17, 13))])
def test_lanes_do_not_depend_on_each_other(
    name: str, hidden_sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit by bit, for any lanes beside, widths of the arrays and numbers of threads."""
    learner = make(name, 23, dtype=torch.float32, hidden_sizes=hidden_sizes)
    start = learner.weights.clone()
    together = one_round(learner, np.arange(23))
    for chosen, threads in (([3], 1), ([22, 3, 7], 1), ([3, 4, 5, 6, 7, 8], 2)):
        monkeypatch.setenv("EDGE_GYM_THREADS", str(threads))
        learner.weights = start.clone()
        apart = one_round(learner, np.array(chosen), extra=11)
        for name, value in apart.items():
            np.testing.assert_array_equal(value, together[name][chosen], err_msg=name)


def test_devices_do_not_depend_on_each_other() -> None:
    learner, lanes = make("mlp", 1, dtype=torch.float32), np.arange(1)
    rows, counts = draw_rows(1, 6, 50), np.array([[50, 3, 17, 0, 50, 31]])
    keys, epochs = draw_keys(1, 6), np.array([[2, 1, 3, 1, 0, 2]])
    options: dict[str, Any] = {"batch_size": 8, "learning_rate": 0.1}
    together, _ = learner.gradients(lanes, rows, counts)
    updates, _ = learner.local_updates(lanes, rows, counts, keys, epochs=epochs, **options)
    for k in range(6):
        own = np.s_[:, k : k + 1]
        alone, _ = learner.gradients(lanes, rows[own], counts[own])
        assert torch.equal(alone[0, 0], together[0, k])
        alone, _ = learner.local_updates(
            lanes, rows[own], counts[own], keys[own], epochs=epochs[own], **options
        )
        assert torch.equal(alone[0, 0], updates[0, k])


def test_training_reaches_a_good_model() -> None:
    learner, lanes = make("mlp", 2, dtype=torch.float32), np.arange(2)
    rows = np.arange(1600).reshape(1, 8, 200).repeat(2, axis=0)
    for step in range(6):
        keys = draw_keys(2, 8, seed=step)
        updates, _ = learner.local_updates(
            lanes, rows, None, keys, batch_size=16, learning_rate=0.1, epochs=2
        )
        learner.add(lanes, average(updates, np.full((2, 8), 200)))
    validation = np.arange(1600, 2000)[None].repeat(2, axis=0)
    assert (learner.score(lanes, validation).accuracy > 0.85).all()


def test_state_and_copies_go_on_alike() -> None:
    learner = make("mlp", 3, dtype=torch.float32)
    lanes = np.array([2, 0])
    state = learner.get_state(lanes)
    twins = [pickle.loads(pickle.dumps(learner)), copy.deepcopy(learner)]
    expected = one_round(learner, lanes)
    fresh = FederatedLearner(4, learner.network, FEATURES)
    fresh.set_state(lanes, state)
    for twin in [*twins, fresh]:
        for name, value in one_round(twin, lanes).items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert len(pickle.dumps(learner)) < 3e6, "the data set must not be pickled along"


def _round_in_child(learner: FederatedLearner) -> dict[str, Any]:
    return one_round(learner, np.arange(3))


@pytest.mark.parametrize(("name", "method"), [("mlp", "fork"), ("cnn", "fork"), ("mlp", "spawn")])
def test_children_learn_the_same(name: str, method: str) -> None:
    learner = make(name, 3, dtype=torch.float32)
    twin = copy.deepcopy(learner)
    expected = _round_in_child(learner)
    with multiprocessing.get_context(method).Pool(1) as pool:
        values = pool.apply(_round_in_child, (twin,))
    for name, value in values.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_pad_rows() -> None:
    rows, counts = pad_rows([[np.array([4, 5]), np.array([], int)], [np.array([1]), np.arange(3)]])
    np.testing.assert_array_equal(counts, [[2, 0], [1, 3]])
    np.testing.assert_array_equal(rows, [[[4, 5, 0], [0, 0, 0]], [[1, 0, 0], [0, 1, 2]]])


def test_arguments_out_of_range_are_named() -> None:
    learner, lanes, rows = make("mlp", 2), np.arange(2), draw_rows(2, 3, 10)
    with pytest.raises(ValueError, match=r"n_lanes must be at least 1, got 0"):
        FederatedLearner(0, network("mlp"), FEATURES)
    with pytest.raises(ValueError, match="images of shape"):
        FederatedLearner(1, make_network("mlp", (1, 8, 8), 10), FEATURES)
    with pytest.raises(ValueError, match="rows must be"):
        learner.gradients(lanes, rows[:1])
    with pytest.raises(ValueError, match=r"counts must be in 0\.\.10"):
        learner.gradients(lanes, rows, np.full((2, 3), 11))
    with pytest.raises(ValueError, match="counts must have shape"):
        learner.gradients(lanes, rows, [1, 1])
    options: dict[str, Any] = {"batch_size": 8, "learning_rate": 0.1, "epochs": 1}
    for changes, message in (
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"epochs": -1}, "epochs must be integers"),
        ({"epochs": 0.5}, "epochs must be integers"),
        ({"steps": 1}, "either epochs or steps"),
        ({"learning_rate": np.nan}, "learning_rate must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            learner.local_updates(lanes, rows, None, draw_keys(2, 3), **{**options, **changes})
    with pytest.raises(ValueError, match=r"keys must have shape \(2, 3\), got \(2, 2\)"):
        learner.local_updates(lanes, rows, None, draw_keys(2, 2), **options)


LARGE = load_features("mnist-subset", None, 28)


def torchvision_model(name: str, channels: int) -> torch.nn.Module:
    """Return torchvision's network with a stem for small images, by its own modules."""
    stem = {"kernel_size": 3, "stride": 1, "padding": 1, "bias": False}
    if name == "resnet-18":
        resnet = models.resnet18(num_classes=10)
        resnet.conv1 = torch.nn.Conv2d(channels, 64, **stem)  # type: ignore[arg-type]
        resnet.maxpool = torch.nn.Identity()
        return resnet
    if name == "mobilenet-v2":
        mobile = models.mobilenet_v2(num_classes=10, dropout=0)
        mobile.features[0][0] = torch.nn.Conv2d(channels, 32, **stem)  # type: ignore[arg-type]
        return mobile
    dense = models.densenet121(num_classes=10)
    dense.features.conv0 = torch.nn.Conv2d(channels, 64, **stem)  # type: ignore[arg-type]
    dense.features.pool0 = torch.nn.Identity()
    return dense


def tensors_of(model: torch.nn.Module) -> list[torch.Tensor]:
    """Return the parameters and behind them the statistics of batch normalisation."""
    statistics = [b for b in model.buffers() if b.is_floating_point()]
    return [*(p.data for p in model.parameters()), *statistics]


def load(model: torch.nn.Module, vector: torch.Tensor) -> None:
    tensors = tensors_of(model)
    for tensor, part in zip(tensors, vector.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))


def vector_of(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([t.flatten() for t in tensors_of(model)])


@pytest.mark.parametrize(
    "name", ["mobilenet-v2", pytest.param("resnet-18", marks=pytest.mark.slow)]
)
def test_batch_normalised_networks_equal_sequential_sgd(name: str) -> None:
    """Gradients, local steps and statistics, against the modules themselves."""
    net = make_network(name, LARGE.image_shape, 10)
    learner = FederatedLearner(1, net, LARGE, dtype=torch.float64)
    lanes, rate = np.arange(1), 0.05
    learner.reset(lanes, generators(1))
    start = learner.weights[0].clone()
    rows, counts = draw_rows(1, 2, 6), np.array([[6, 3]])
    keys = draw_keys(1, 2)
    updates, _ = learner.local_updates(
        lanes, rows, counts, keys, batch_size=4, learning_rate=rate, epochs=1
    )
    gradients, losses = learner.gradients(lanes, rows, counts)
    learner.apply(lanes, average(gradients, counts), rate)

    model = torchvision_model(name, 1).double().train()
    images = torch.tensor(LARGE.train, dtype=torch.float64).view(-1, 1, 28, 28) * 28
    p = net.n_parameters

    def step(taken: Rows) -> float:
        loss = torch.nn.functional.cross_entropy(
            model(images[taken]), torch.tensor(LARGE.train_labels[taken])
        )
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.data -= rate * gradient
        return loss.item()

    applied = torch.zeros_like(start)
    for k, count in enumerate(counts[0]):
        own = rows[0, k, :count]
        load(model, start)
        assert step(own) == pytest.approx(losses[0, k], rel=1e-9)
        applied += count / counts.sum() * vector_of(model)
        expected = (start[:p] - vector_of(model)[:p]) / rate
        torch.testing.assert_close(gradients[0, k, :p], expected, rtol=1e-6, atol=1e-9)

        load(model, start)
        (order,) = orders(keys[0, k], count, 1)
        for batch in [order[s : s + 4] for s in range(0, count, 4)]:
            step(own[batch])
        torch.testing.assert_close(updates[0, k], vector_of(model) - start, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(learner.weights[0], applied, rtol=1e-7, atol=1e-10)

    load(model, learner.weights[0])
    with torch.no_grad():
        logits = model.eval()(images[rows[0].ravel()])
    score = learner.score(lanes, rows.reshape(1, -1))
    truth = torch.tensor(LARGE.train_labels[rows[0].ravel()])
    expected_loss = torch.nn.functional.cross_entropy(logits, truth).item()
    assert score.loss[0] == pytest.approx(expected_loss, rel=1e-7)
    norm = float(gradients[0, 0, :p].norm())
    assert learner.norms(gradients)[0, 0] == pytest.approx(norm)
    moved = learner.weights[:, None] + gradients
    np.testing.assert_allclose(learner.distances(lanes, moved), learner.norms(gradients))


def test_statistics_of_large_batches_are_averaged_over_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge_gym.learning.jobs.SAMPLES_AT_ONCE", 4)
    net = make_network("mobilenet-v2", LARGE.image_shape, 10)
    learner = FederatedLearner(1, net, LARGE, dtype=torch.float64)
    learner.reset(np.arange(1), generators(1))
    rows = draw_rows(1, 1, 6)
    gradients, _ = learner.gradients(np.arange(1), rows)
    model = torchvision_model("mobilenet-v2", 1).double().train()
    images = torch.tensor(LARGE.train, dtype=torch.float64).view(-1, 1, 28, 28) * 28
    expected = torch.zeros(net.n_statistics, dtype=torch.float64)
    for part in (rows[0, 0, :4], rows[0, 0, 4:]):
        load(model, learner.weights[0])
        with torch.no_grad():
            model(images[part])
        expected += len(part) / 6 * (learner.weights[0] - vector_of(model))[net.n_parameters :]
    torch.testing.assert_close(gradients[0, 0, net.n_parameters :], expected)


@pytest.mark.parametrize("name", ["resnet-18", "mobilenet-v2", "densenet-121"])
def test_torchvision_networks_count_and_draw_as_torchvision(name: str) -> None:
    net = make_network(name, (3, 32, 32), 10)
    model = torchvision_model(name, 3)
    assert net.n_parameters == sum(p.numel() for p in model.parameters())
    assert net.n_values == sum(t.numel() for t in tensors_of(model))
    assert net.payload_bits(8) == 8 * net.n_parameters + 32 * net.n_statistics
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    assert net.forward_flops == counter.get_total_flops()
    before = torch.random.get_rng_state()
    drawn = torch.from_numpy(net.draw(np.random.default_rng(0)))
    assert torch.equal(torch.random.get_rng_state(), before)
    again = pickle.loads(pickle.dumps(net)).draw(np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, again)
    assert not np.array_equal(drawn, net.draw(np.random.default_rng(1)))
    # Tensor by tensor as wide as torchvision's own.
    tensors = tensors_of(model)
    fan_out = name != "densenet-121"
    torch.nn.init.kaiming_normal_(tensors[0], mode="fan_out" if fan_out else "fan_in")
    for tensor, part in zip(tensors, drawn.split([t.numel() for t in tensors]), strict=True):
        if tensor.numel() > 800:
            assert float(part.std()) == pytest.approx(float(tensor.std()), rel=0.2), tensor.shape


@pytest.mark.parametrize(
    ("name", "image_shape", "hidden_sizes", "n_parameters", "macs"),
    [
        ("mlp", (1, 28, 28), (300, 124, 60), 280_934, 280_440),
        ("mlp", (1, 8, 8), (32,), 2_410, 2_368),
        ("lenet", (1, 28, 28), (), 61_706, 416_520),
        ("cnn", (3, 16, 16), (), 1_392 + 2_570, 216 * 256 + 1_152 * 64 + 2_560),
    ],
)
def test_parameters_and_flops(
    name: str,
    image_shape: tuple[int, int, int],
    hidden_sizes: tuple[int, ...],
    n_parameters: int,
    macs: int,
) -> None:
    net = make_network(name, image_shape, 10, hidden_sizes=hidden_sizes)
    assert (net.n_parameters, net.n_statistics, net.macs) == (n_parameters, 0, macs)
    model = module(net, hidden_sizes)
    assert n_parameters == sum(p.numel() for p in model.parameters())
    x = torch.zeros(1, net.n_features, dtype=torch.float64)
    with FlopCounterMode(display=False) as counter:
        logits = model(x)
    assert net.forward_flops == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        logits.sum().backward()
    (first,) = [m for m in model.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))][:1]
    with FlopCounterMode(display=False) as first_layer:
        first(x.view(1, *image_shape) if isinstance(first, torch.nn.Conv2d) else x)
    assert net.backward_flops == counter.get_total_flops() + first_layer.get_total_flops()
    assert net.payload_bits() == 32 * n_parameters


@pytest.mark.parametrize(
    ("name", "image_shape", "n_classes", "message"),
    [
        ("vgg", (1, 28, 28), 10, "unknown network 'vgg'; known are mlp, cnn, lenet"),
        ("mlp", (28, 28), 10, "image_shape must be"),
        ("mlp", (1, 28, 28), 1, "n_classes must be at least 2, got 1"),
        ("cnn", (1, 3, 28), 10, "sides of at least 4"),
        ("lenet", (1, 8, 8), 10, "sides of at least 12"),
        ("resnet-18", (1, 14, 14), 10, "sides of at least 17"),
    ],
)
def test_networks_that_cannot_be_are_named(
    name: str, image_shape: Any, n_classes: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_network(name, image_shape, n_classes)
    with pytest.raises(ValueError, match=r"hidden_sizes must be at least 1, got \(8, 0\)"):
        make_network("mlp", (1, 8, 8), 10, hidden_sizes=(8, 0))
