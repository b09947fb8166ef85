"""Torch modules as federated models: gradients, lanes, seeds, state, and what is refused."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edge_gym.data import encode_labels, load_features
from edge_gym.learning.averaging import average
from edge_gym.learning.federated import FederatedLearner
from edge_gym.learning.networks.architecture import NETWORKS, register_network
from edge_gym.learning.networks.factory import make_network
from edge_gym.learning.networks.modules import ModuleNetwork
from edge_gym.runtime.streams import Keys

FEATURES = load_features("mnist-subset", None, 7)
SHAPE = FEATURES.image_shape
Shape = tuple[int, int, int]


def mlp(image_shape: Shape, n_classes: int) -> nn.Module:
    layers = [nn.Flatten(), nn.Linear(49, 16), nn.Tanh(), nn.Linear(16, n_classes)]
    return nn.Sequential(*layers)


def odd(image_shape: Shape, n_classes: int) -> nn.Module:
    """A matrix of 490 numbers, which is no multiple of eight."""
    return nn.Sequential(nn.Flatten(), nn.Linear(49, n_classes))


class Convolutional(nn.Module):
    """A class is a factory too; a scalar parameter, a norm and a constant buffer are in it."""

    def __init__(self, image_shape: Shape, n_classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(image_shape[0], 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("shift", torch.full((8,), 0.25))
        self.dense = nn.Linear(8, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.convolution(x)))
        logits: torch.Tensor = self.dense(x.mean((2, 3)) * self.scale + self.shift)
        return logits


def normalised(image_shape: Shape, n_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(image_shape[0], 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(100, n_classes),
    )


class Branching(nn.Module):
    """Python looks at values, which cannot be mapped over."""

    def __init__(self, image_shape: Shape, n_classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(49, 16)
        self.last = nn.Linear(16, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.dense(x.flatten(1))
        logits: torch.Tensor = self.last(hidden if hidden.sum() > 0 else -hidden)
        return logits


FACTORIES: dict[str, Any] = {
    "own/mlp": mlp,
    "own/odd": odd,
    "own/convolutional": Convolutional,
    "own/normalised": normalised,
    "own/branching": Branching,
    "own/module": mlp(SHAPE, 10),
}
MAPPED = ["own/mlp", "own/convolutional", "own/module"]


@pytest.fixture(autouse=True)
def own_networks(one_torch_thread: None) -> Iterator[None]:
    """Register networks of these tests alone."""
    before = set(NETWORKS)
    for name, factory in FACTORIES.items():
        register_network(name, factory)
    yield
    for name in set(NETWORKS) - before:
        NETWORKS.unregister(name)


def make(name: str, n_lanes: int, first: int = 0, **options: Any) -> FederatedLearner:
    learner = FederatedLearner(n_lanes, make_network(name, SHAPE, 10), FEATURES, **options)
    learner.reset(np.arange(n_lanes), generators(n_lanes, first))
    return learner


def generators(n: int, first: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng(first + i) for i in range(n)]


def keys_of(n_lanes: int, n_devices: int, first: int = 0) -> Keys:
    return np.stack(
        [rng.integers(2**64, size=n_devices, dtype=np.uint64) for rng in generators(n_lanes, first)]
    )


def rows_of(n_lanes: int, n_devices: int, size: int, first: int = 0) -> np.ndarray:
    return np.stack(
        [
            np.random.default_rng([7, first + lane]).integers(10_000, size=(n_devices, size))
            for lane in range(n_lanes)
        ]
    )


def loaded(name: str, vector: torch.Tensor) -> tuple[nn.Module, list[torch.Tensor]]:
    """Return a module of its own with a model's parameters, and its tensors in their order."""
    factory = FACTORIES[name]
    module = factory if isinstance(factory, nn.Module) else factory(SHAPE, 10)
    module = pickle.loads(pickle.dumps(module)).double()
    statistics = [b for key, b in module.named_buffers() if "running" in key]
    tensors = [*module.parameters(), *statistics]
    with torch.no_grad():
        for tensor, part in zip(tensors, vector.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))
    return module, tensors


@pytest.mark.parametrize("name", FACTORIES)
def test_gradients_and_scores_equal_autograd(name: str) -> None:
    learner = make(name, 2, dtype=torch.float64)
    network = learner.network
    assert isinstance(network, ModuleNetwork)
    rows, counts = rows_of(2, 5, 12), np.array([[12, 3, 0, 7, 12], [1, 12, 12, 12, 5]])
    counts[counts == 1] = 2  # Batch normalisation needs two values.
    gradients, losses = learner.gradients(np.arange(2), rows, counts)
    assert network.mapped == (name in MAPPED), network.loop_reason
    for lane in range(2):
        for k in range(5):
            n = counts[lane, k]
            if n == 0:
                assert not gradients[lane, k].any()
                continue
            module, tensors = loaded(name, learner.weights[lane])
            x = torch.tensor(FEATURES.train[rows[lane, k, :n]], dtype=torch.float64) * 7
            y = torch.tensor(FEATURES.train_labels[rows[lane, k, :n]])
            loss = functional.cross_entropy(module.train()(x.view(-1, *SHAPE)), y)
            loss.backward()
            assert losses[lane, k] == pytest.approx(loss.item())
            expected = torch.cat([p.grad.flatten() for p in module.parameters()])
            p = network.n_parameters
            torch.testing.assert_close(gradients[lane, k, :p], expected, rtol=1e-8, atol=1e-10)
            after = torch.cat([t.detach().flatten() for t in tensors])[p:]
            torch.testing.assert_close(gradients[lane, k, p:], learner.weights[lane, p:] - after)
    score = learner.score(np.arange(2), rows[:, 0])
    for lane in range(2):
        module, _ = loaded(name, learner.weights[lane])
        x = torch.tensor(FEATURES.train[rows[lane, 0]], dtype=torch.float64) * 7
        logits = module.eval()(x.view(-1, *SHAPE))
        y = torch.tensor(FEATURES.train_labels[rows[lane, 0]])
        assert score.loss[lane] == pytest.approx(functional.cross_entropy(logits, y).item())
        assert score.accuracy[lane] == (logits.argmax(1) == y).double().mean()


@pytest.mark.parametrize("name", FACTORIES)
def test_samples_may_carry_labels_of_their_own(name: str) -> None:
    learner, lanes = make(name, 2, dtype=torch.float64), np.arange(2)
    rows, n = rows_of(2, 3, 12), len(FEATURES.train)
    own = (FEATURES.train_labels[rows] + 3) % 10
    gradients, losses = learner.gradients(lanes, encode_labels(rows, own, n))
    p = learner.network.n_parameters
    for lane, k in np.ndindex(2, 3):
        module, _ = loaded(name, learner.weights[lane])
        x = torch.tensor(FEATURES.train[rows[lane, k]], dtype=torch.float64) * 7
        logits = module.train()(x.view(-1, *SHAPE))
        loss = functional.cross_entropy(logits, torch.tensor(own[lane, k]))
        loss.backward()
        assert losses[lane, k] == pytest.approx(loss.item())
        expected = torch.cat([q.grad.flatten() for q in module.parameters()])
        torch.testing.assert_close(gradients[lane, k, :p], expected, rtol=1e-8, atol=1e-10)


def trained(name: str, n_lanes: int, first: int, n_devices: int = 3) -> torch.Tensor:
    learner, lanes = make(name, n_lanes, first), np.arange(n_lanes)
    rows = rows_of(n_lanes, n_devices, 20, first)
    counts = 2 + (np.arange(first, first + n_lanes)[:, None] + np.arange(n_devices)) % 18
    updates, _ = learner.local_updates(
        *(lanes, rows, counts, keys_of(n_lanes, n_devices, first)),
        epochs=2,
        batch_size=8,
        learning_rate=0.1,
    )
    learner.add(lanes, average(updates, counts))
    gradients, _ = learner.gradients(lanes, rows, counts)
    learner.apply(lanes, average(gradients, counts), 0.1)
    return learner.weights


@pytest.mark.parametrize("name", FACTORIES)
def test_lanes_are_independent_to_the_bit_and_deterministic(name: str) -> None:
    # Counts of one sample or two in the last mini-batch would leave batch normalisation too few.
    several = trained(name, 5, 0)
    assert torch.equal(several, trained(name, 5, 0))
    assert torch.isfinite(several).all()
    for lane in (0, 3):
        assert torch.equal(trained(name, 1, lane)[0], several[lane])
    assert not torch.equal(several[0], several[1])


def test_initial_models_come_from_the_lanes_generator_alone() -> None:
    for name in ("own/mlp", "own/module"):
        network = make_network(name, SHAPE, 10)
        before = torch.random.get_rng_state()
        drawn = network.draw(np.random.default_rng(3))
        assert torch.equal(torch.random.get_rng_state(), before)
        assert np.array_equal(drawn, network.draw(np.random.default_rng(3)))
        assert not np.array_equal(drawn, network.draw(np.random.default_rng(4)))
        again = pickle.loads(pickle.dumps(network))
        assert np.array_equal(drawn, again.draw(np.random.default_rng(3)))


def test_parameters_statistics_and_flops_are_counted() -> None:
    network = make_network("own/mlp", SHAPE, 10)
    assert network.n_parameters == 49 * 16 + 16 + 160 + 10
    assert (network.macs, network.n_statistics) == (49 * 16 + 160, 0)
    network = make_network("own/normalised", SHAPE, 10)
    assert (network.n_parameters, network.n_statistics) == (36 + 4 + 8 + 1010, 8)
    assert network.macs == 36 * 25 + 1000
    assert network.payload_bits(8) == 8 * network.n_parameters + 32 * 8


class Recurrent(nn.Module):
    """Neither counted by torch nor mapped over by it."""

    def __init__(self, image_shape: Shape, n_classes: int) -> None:
        super().__init__()
        self.cells = nn.LSTM(7, n_classes, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.cells(x[:, 0])[0][:, -1]
        return logits


class Stated(Recurrent):
    forward_flops = 7 * 2 * 4 * 10 * 17


def test_what_cannot_be_counted_is_stated() -> None:
    register_network("own/recurrent", Recurrent)
    with pytest.raises(ValueError, match="give the module an attribute forward_flops"):
        make_network("own/recurrent", SHAPE, 10)
    register_network("own/stated", Stated)
    assert make_network("own/stated", SHAPE, 10).forward_flops == Stated.forward_flops
    weights = trained("own/stated", 2, 0)
    assert torch.isfinite(weights).all()
    assert torch.equal(weights[1], trained("own/stated", 1, 1)[0])


def test_the_state_of_a_learner_is_restored() -> None:
    one, other = make("own/normalised", 2), make("own/normalised", 3, first=9)
    other.set_state(np.array([2, 0]), one.get_state(np.arange(2)))
    assert torch.equal(other.weights[[2, 0]], one.weights)


def with_layer(layer: nn.Module) -> Any:
    return lambda shape, n: nn.Sequential(nn.Flatten(), layer, nn.Linear(49, n))


class Noise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn_like(x)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (with_layer(nn.Dropout(0.5)), "'own/wrong' drops out at random, Dropout.*set p=0"),
        (with_layer(Noise()), "returns something else at each call"),
        (lambda shape, n: nn.Flatten(), "has no parameters to train"),
        (lambda shape, n: 3, "must return a torch.nn.Module, got 3"),
        (lambda shape, n: nn.Linear(5, n), r"fails on samples of shape \(2, 1, 7, 7\): .*"),
        (lambda shape, n: mlp(shape, 4), r"must return logits \(2, 10\) .* got \(2, 4\)"),
    ],
)
def test_modules_that_cannot_be_trained_are_refused(factory: Any, message: str) -> None:
    register_network("own/wrong", factory)
    with pytest.raises(ValueError, match=message):
        make_network("own/wrong", SHAPE, 10)


def test_what_is_left_out_of_dropout_is_no_obstacle() -> None:
    register_network("own/p0", with_layer(nn.Dropout(0.0)))
    assert make_network("own/p0", SHAPE, 10).n_parameters == 500


@pytest.mark.parametrize("name", ["UpdateScheduling-v0", "BatchSlot-v0"])
def test_problems_take_them_by_name(name: str) -> None:
    def rewards(n: int, seed: int) -> np.ndarray:
        envs: Any = gym.make_vec(
            f"edge_gym/{name}",
            n,
            network="own/mlp",
            image_size=7,
            test_size=50,
            samples_per_device=20,
            validation_size=50,
        )
        envs.reset(seed=seed)
        envs.single_action_space.seed(0)
        action = np.repeat(envs.single_action_space.sample()[None], n, 0)
        found = np.stack([envs.step(action)[1] for _ in range(3)])
        envs.close()
        return found

    envs_of_two = rewards(2, 5)
    assert np.array_equal(rewards(1, 6)[:, 0], envs_of_two[:, 1])
