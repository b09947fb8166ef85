from __future__ import annotations

import copy
import multiprocessing
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edge_gym.data import load_features
from edge_gym.learning.base import MAX_MARGIN
from edge_gym.learning.online import NetworkLearner
from edge_gym.physics.wireless import db_to_linear

# A small perceptron is compiled, a large one is torch's.
ARCHITECTURES = ["mlp", "small-mlp", "cnn"]
HIDDEN = {"mlp": 64, "small-mlp": 24}
SIDE = 14
FEATURES = load_features("mnist-subset", None, SIDE)


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def make(architecture: str, n_lanes: int, **options: Any) -> NetworkLearner:
    options = {"hidden_size": HIDDEN.get(architecture, 64), **options}
    kind = architecture.removeprefix("small-")
    return NetworkLearner(n_lanes, (1, SIDE, SIDE), 10, kind, **options)


def generators(n_lanes: int, first: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng(first + lane) for lane in range(n_lanes)]


def received(
    rng: np.random.Generator, shape: tuple[int, ...], snr_db: float = 15.0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rows = rng.integers(len(FEATURES.train), size=shape)
    x = FEATURES.train[rows]
    noise = rng.standard_normal(x.shape, np.float32)
    return x + noise / np.float32(np.sqrt(db_to_linear(snr_db))), FEATURES.train_labels[rows]


def acquire_and_fit(
    learner: NetworkLearner,
    lanes: NDArray[np.int64],
    rngs: list[np.random.Generator],
    *,
    fits: int,
    samples: int = 2,
    snr_db: float = 15.0,
) -> None:
    """Train lanes whose samples depend on the lane's own generator alone."""
    for _ in range(fits):
        for _ in range(samples):
            pairs = [received(rng, (), snr_db) for rng in rngs]
            learner.append(lanes, np.stack([x for x, _ in pairs]), np.array([y for _, y in pairs]))
        learner.fit(lanes, rngs)


def trained(architecture: str, n_lanes: int, *, fits: int = 3, **options: Any) -> NetworkLearner:
    learner, lanes = make(architecture, n_lanes, **options), np.arange(n_lanes)
    rngs = generators(n_lanes)
    learner.reset(lanes, rngs)
    acquire_and_fit(learner, lanes, rngs, fits=fits)
    return learner


def assert_same_state(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def reference(learner: NetworkLearner, architecture: str, lane: int) -> torch.nn.Sequential:
    """Return the lane's network as torch modules in double precision."""
    if architecture in HIDDEN:
        units = HIDDEN[architecture]
        model = torch.nn.Sequential(
            torch.nn.Linear(learner.n_features, units), torch.nn.ReLU(), torch.nn.Linear(units, 10)
        )
    else:
        model = torch.nn.Sequential(
            torch.nn.Unflatten(1, (1, SIDE, SIDE)),
            torch.nn.Conv2d(1, 8, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Conv2d(8, 16, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(16 * (SIDE // 4) ** 2, 10),
        )
    assign(model, learner.parameters[lane])
    return model.double()


def assign(model: torch.nn.Module, flat: torch.Tensor) -> None:
    start = 0
    for layer in model:
        for parameter in layer.parameters():
            dense = isinstance(layer, torch.nn.Linear) and parameter.ndim == 2
            part = flat[start : start + parameter.numel()]
            start += parameter.numel()
            value = part.view(parameter.T.shape).T if dense else part.view(parameter.shape)
            parameter.data = value.to(parameter.dtype).clone()
    assert start == len(flat)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_torch_training_loop(architecture: str) -> None:
    learner = make(architecture, 3, train_steps=20, learning_rate=0.003)
    lanes, lane = np.arange(3), 1
    learner.reset(lanes, generators(3))
    x, y = received(np.random.default_rng(9), (3, 50), 30.0)
    for i in range(50):
        learner.append(lanes, x[:, i], y[:, i])
    model = reference(learner, architecture, lane)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    inputs = torch.from_numpy(x[lane]).double() * SIDE
    labels = torch.from_numpy(y[lane])
    rng = np.random.default_rng(5)
    for _ in range(2):
        for batch in rng.integers(50, size=(20, learner.batch_size)):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
            loss.backward()
            optimizer.step()
    others = generators(3, 100)
    learner.fit(lanes, [others[0], same := np.random.default_rng(5), others[2]])
    learner.fit(lanes, [others[0], same, others[2]])
    expected = copy.deepcopy(model)
    assign(expected, learner.parameters[lane])
    for ours, theirs in zip(expected.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    probe = FEATURES.test[:20]
    assessment = learner.assess(
        lanes, np.stack([probe] * 3), np.stack([FEATURES.test_labels[:20]] * 3)
    )
    log_p = model(torch.tensor(probe).double() * SIDE).log_softmax(-1).detach().numpy()
    p = np.exp(log_p)
    p_label = np.take_along_axis(p, FEATURES.test_labels[:20, None], 1)[:, 0]
    np.testing.assert_allclose(assessment.uncertainty[lane], -(p * log_p).sum(1), atol=1e-3)
    np.testing.assert_allclose(
        assessment.margin[lane], np.log(p_label) - np.log1p(-p_label), atol=5e-3
    )
    np.testing.assert_array_equal(assessment.predicted[lane], p.argmax(1))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_learns_mnist_from_300_samples(architecture: str) -> None:
    learner, lanes, rngs = make(architecture, 2, train_steps=20), np.arange(2), generators(2)
    learner.reset(lanes, rngs)
    rows = np.tile(np.arange(1000), (2, 1))

    def score() -> NDArray[np.float64]:
        return learner.score(lanes, FEATURES.test, FEATURES.test_labels, rows).accuracy

    assert (score() < 0.3).all()
    acquire_and_fit(learner, lanes, rngs, fits=30, samples=10, snr_db=25.0)
    assert (score() > 0.72).all()  # .77 to .83 over lanes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("threads", [1, 2])
def test_lane_equals_the_lane_alone(
    architecture: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = 30 if architecture in HIDDEN else 6
    n_lanes = 13
    alone = [make(architecture, 1) for _ in range(n_lanes)]
    one = np.zeros(1, np.int64)
    monkeypatch.setenv("EDGE_GYM_THREADS", "1")
    rngs = generators(n_lanes)
    probe = FEATURES.test[:40].reshape(1, 40, -1)
    truth = FEATURES.test_labels[None, :40]
    for lane, learner in enumerate(alone):
        learner.reset(one, rngs[lane : lane + 1])
        acquire_and_fit(learner, one, rngs[lane : lane + 1], fits=fits, samples=1)

    monkeypatch.setenv("EDGE_GYM_THREADS", str(threads))
    torch.set_num_threads(threads)
    together, rngs = make(architecture, n_lanes), generators(n_lanes)
    together.reset(np.arange(n_lanes), rngs)
    # Lanes advance in two groups, one out of order.
    for group in ([4, 0, 9, 2], [1, 3, 5, 6, 7, 8, 10, 11, 12]):
        acquire_and_fit(together, np.array(group), [rngs[i] for i in group], fits=fits, samples=1)
    assert torch.get_num_threads() == threads
    lanes = np.arange(n_lanes)
    batched = together.assess(lanes, np.repeat(probe, n_lanes, 0), np.repeat(truth, n_lanes, 0))
    for lane, learner in enumerate(alone):
        assert_same_state(together.get_state(lanes[lane : lane + 1]), learner.get_state(one))
        for ours, theirs in zip(batched, learner.assess(one, probe, truth), strict=True):
            np.testing.assert_array_equal(ours[lane], theirs[0])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_generators_fix_everything(architecture: str) -> None:
    torch.manual_seed(1)
    first = trained(architecture, 2)
    draws = torch.rand(3)
    torch.manual_seed(1)
    second = trained(architecture, 2)
    assert torch.equal(torch.rand(3), draws)
    assert_same_state(first.get_state(np.arange(2)), second.get_state(np.arange(2)))
    lanes, rngs = np.arange(2), generators(2)
    first.reset(lanes, rngs)
    acquire_and_fit(first, lanes, rngs, fits=3)
    assert_same_state(first.get_state(lanes), second.get_state(lanes))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_state_round_trip(architecture: str) -> None:
    learner, lanes = trained(architecture, 3), np.array([2, 0])
    state = learner.get_state(lanes)
    kept = copy.deepcopy(state)
    rngs = generators(3, 50)
    acquire_and_fit(learner, np.arange(3), rngs, fits=2)
    assert_same_state(state, kept)

    later = learner.get_state(lanes)
    other = make(architecture, 4)
    other.reset(np.arange(4), generators(4, 70))
    untouched = other.get_state(np.array([0, 2]))
    other.set_state(np.array([3, 1]), state)
    assert_same_state(other.get_state(np.array([0, 2])), untouched)
    same = generators(3, 50)
    acquire_and_fit(other, np.array([3, 1]), [same[2], same[0]], fits=2)
    assert_same_state(other.get_state(np.array([3, 1])), later)
    assert_same_state(state, kept)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_copies_go_on_alike(architecture: str) -> None:
    learner, lanes = trained(architecture, 2), np.arange(2)
    copies = [copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))]
    acquire_and_fit(learner, lanes, generators(2, 30), fits=2)
    for twin in copies:
        acquire_and_fit(twin, lanes, generators(2, 30), fits=2)
        assert_same_state(twin.get_state(lanes), learner.get_state(lanes))


def _train_in_child(learner: NetworkLearner, connection: Any) -> None:
    acquire_and_fit(learner, np.arange(16), generators(16, 30), fits=2)
    connection.send((torch.get_num_threads(), learner.get_state(np.arange(16))))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_survives_fork(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_GYM_THREADS", "2")
    torch.set_num_threads(2)
    # Torch's own pool and autograd have been used, too.
    weight = torch.randn(400, 400, requires_grad=True)
    (weight @ weight).sin().sum().backward()
    learner = trained(architecture, 16)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_train_in_child, args=(learner, theirs))
    child.start()
    try:
        assert ours.poll(60), "the forked child hangs"
        threads, state = ours.recv()
        child.join(10)
    finally:
        child.kill()
    acquire_and_fit(learner, np.arange(16), generators(16, 30), fits=2)
    assert threads == 1
    assert_same_state(state, learner.get_state(np.arange(16)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_very_noisy_samples_stay_finite(architecture: str) -> None:
    learner, lanes, rngs = make(architecture, 2, learning_rate=0.01), np.arange(2), generators(2)
    learner.reset(lanes, rngs)
    acquire_and_fit(learner, lanes, rngs, fits=30, snr_db=-10.0)
    state = learner.get_state(lanes)
    assert all(np.isfinite(value).all() for value in state.values())
    x, y = received(np.random.default_rng(1), (2, 5), -10.0)
    uncertainty, margin, predicted = learner.assess(lanes, 1e4 * x, y)
    assert uncertainty.shape == margin.shape == predicted.shape == (2, 5)
    assert ((uncertainty >= 0) & (uncertainty <= np.log(10) + 1e-9)).all()
    assert (abs(margin) <= MAX_MARGIN).all()


def test_fit_without_samples_draws_and_learns_nothing() -> None:
    learner, lanes, rngs = make("mlp", 2), np.arange(2), generators(2)
    learner.reset(lanes, rngs)
    before = learner.get_state(lanes)
    states = [rng.bit_generator.state for rng in rngs]
    learner.fit(lanes, rngs)
    assert [rng.bit_generator.state for rng in rngs] == states
    assert_same_state(learner.get_state(lanes), before)
    learner.append(lanes[1:], *received(np.random.default_rng(0), (1,)))
    learner.fit(lanes, rngs)
    assert rngs[0].bit_generator.state == states[0]
    np.testing.assert_array_equal(
        learner.get_state(lanes)["parameters"][0], before["parameters"][0]
    )
    assert (learner.get_state(lanes)["parameters"][1] != before["parameters"][1]).any()


def test_takes_read_only_arrays() -> None:
    learner, lanes, (x, y) = make("mlp", 2), np.arange(2), received(np.random.default_rng(0), (2,))
    for array in (lanes, x, y):
        array.flags.writeable = False
    learner.reset(lanes, generators(2))
    learner.append(lanes, x, y)
    learner.fit(lanes, generators(2))
    state = learner.get_state(lanes)
    for array in state.values():
        array.flags.writeable = False
    learner.set_state(lanes, state)
    learner.assess(lanes, x[:, None], y[:, None])
    rows = np.broadcast_to(np.arange(9), (2, 9))
    learner.score(lanes, FEATURES.test, FEATURES.test_labels, rows)


def test_untrained_parameters_are_uniform_within_fan_in() -> None:
    learner = make("mlp", 1)
    learner.reset(np.arange(1), generators(1))
    weight = learner.get_state(np.arange(1))["parameters"][0, : SIDE * SIDE * 64]
    assert abs(weight).max() == pytest.approx(1 / SIDE, rel=1e-3)
    assert weight.std() == pytest.approx(1 / SIDE / np.sqrt(3), rel=0.02)


def test_accuracy_on_rows_of_each_lane() -> None:
    learner, lanes = trained("mlp", 3, fits=10), np.array([2, 0])
    rng = np.random.default_rng(4)
    rows = rng.integers(len(FEATURES.test), size=(2, 700))
    scores, _, recall = learner.score(lanes, FEATURES.test, FEATURES.test_labels, rows)
    assessment = learner.assess(lanes, FEATURES.test[rows], FEATURES.test_labels[rows])
    expected = (assessment.predicted == FEATURES.test_labels[rows]).mean(axis=1)
    np.testing.assert_allclose(scores, expected)
    right = assessment.predicted == FEATURES.test_labels[rows]
    for label in range(recall.shape[1]):
        share = [right[i][FEATURES.test_labels[rows[i]] == label].mean() for i in range(2)]
        np.testing.assert_allclose(recall[:, label], share)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_lanes": 0}, "n_lanes must be at least 1, got 0"),
        ({"n_classes": 1}, "n_classes must be at least 2, got 1"),
        ({"image_shape": (1, 3, 8)}, r"image_shape .* got \(1, 3, 8\)"),
        ({"architecture": "vit"}, "architecture must be 'mlp' or 'cnn', got 'vit'"),
        ({"learning_rate": 0.0}, "learning_rate must be positive and finite, got 0.0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"train_steps": -1}, "train_steps must be at least 1, got -1"),
        ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
    ],
)
def test_errors_name_argument_and_value(change: dict[str, Any], message: str) -> None:
    arguments = {
        "n_lanes": 1,
        "image_shape": (1, 8, 8),
        "n_classes": 10,
        "architecture": "cnn",
    }
    with pytest.raises(ValueError, match=message):
        NetworkLearner(**(arguments | change))
