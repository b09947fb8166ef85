"""Time rounds of federated averaging beside a loop of torch modules, pfl and Flower.

Run with ``EDGE_GYM_THREADS=1 OMP_NUM_THREADS=1 python -m benchmarks.federated``. Everybody trains
the same network with SGD on the same data, devices, epochs and mini-batch sizes, on one core;
``pfl`` and ``flwr[simulation]`` take part if they are installed. Nobody scores the model.

``--paths`` times the ways to compute gradients instead, from which
``edge_gym.learning.networks.torch_backend`` chooses by size. The numbers in
``edge_gym.learning.federated`` and there come from here.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import itertools
import logging
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from edge_gym.data import load_features
from edge_gym.learning import federated
from edge_gym.learning.averaging import average
from edge_gym.learning.federated import FederatedLearner
from edge_gym.learning.networks import torch_backend as models
from edge_gym.learning.networks.architecture import Network
from edge_gym.learning.networks.factory import make_network
from edge_gym.runtime.streams import Purpose, Streams

RATE = 0.05


class Task(NamedTuple):
    """A network and how its devices train.

    Attributes:
        network: One of ``NETWORKS``.
        side: Height and width of the images.
        hidden_sizes: Hidden layers of the perceptron.
        n_devices: Devices of one round.
        n_samples: Samples of each device.
        batch_size: Samples of a mini-batch.
        epochs: Local epochs.
    """

    network: str
    side: int
    hidden_sizes: tuple[int, ...]
    n_devices: int = 10
    n_samples: int = 96
    batch_size: int = 16
    epochs: int = 2


TASKS = {
    "small (49-32-10)": Task("mlp", 7, (32,)),
    "medium (196-64-10)": Task("mlp", 14, (64,)),
    "medium (784-64-10)": Task("mlp", 28, (64,)),
    "large (784-300-124-60-10)": Task("mlp", 28, (300, 124, 60)),
    "cnn 14×14": Task("cnn", 14, ()),
    "cnn 28×28": Task("cnn", 28, ()),
    "lenet 28×28": Task("lenet", 28, ()),
}


class Module(torch.nn.Sequential):
    """The task's network as torch modules, with what pfl asks of a model."""

    def __init__(self, task: Task) -> None:
        side, layers, flat = task.side, [], task.side**2
        if task.network == "cnn":
            layers = self.convolutions((8, 16), 3, (1, 1))
            flat = 16 * (side // 4) ** 2
        if task.network == "lenet":
            layers = self.convolutions((6, 16), 5, (2, 0))
            flat = 16 * ((side // 2 - 4) // 2) ** 2
        hidden = {"mlp": task.hidden_sizes, "cnn": (), "lenet": (120, 84)}[task.network]
        sizes = [flat, *hidden, 10]
        layers += [torch.nn.Flatten()]
        for i in range(len(sizes) - 1):
            layers += [torch.nn.Linear(sizes[i], sizes[i + 1]), torch.nn.ReLU()]
        super().__init__(torch.nn.Unflatten(1, (1, side, side)), *layers[:-1])

    @staticmethod
    def convolutions(
        outputs: tuple[int, int], kernel: int, paddings: tuple[int, int]
    ) -> list[torch.nn.Module]:
        layers: list[torch.nn.Module] = []
        channels = 1
        for n, padding in zip(outputs, paddings, strict=True):
            layers += [torch.nn.Conv2d(channels, n, kernel, padding=padding), torch.nn.ReLU()]
            layers.append(torch.nn.MaxPool2d(2))
            channels = n
        return layers

    def loss(self, x: torch.Tensor, y: torch.Tensor, is_eval: bool = False) -> torch.Tensor:
        return functional.cross_entropy(self(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor, is_eval: bool = False) -> dict[str, Any]:
        return {}


def device_data(task: Task) -> list[tuple[torch.Tensor, torch.Tensor]]:
    features = load_features("mnist-subset", None, task.side)
    rows = np.arange(task.n_devices * task.n_samples).reshape(task.n_devices, -1)
    scale = task.side
    return [
        (torch.tensor(features.train[r]) * scale, torch.tensor(features.train_labels[r]))
        for r in rows
    ]


def train(model: Module, x: torch.Tensor, y: torch.Tensor, task: Task) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for _ in range(task.epochs):
        order = torch.randperm(len(x))
        for part in order.split(task.batch_size):
            optimizer.zero_grad()
            model.loss(x[part], y[part]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def paced(play: Callable[[], object], seconds: float) -> float:
    """Return the median duration of a call, in seconds."""
    play()
    durations, start = [], time.perf_counter()
    while len(durations) < 3 or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        play()
        durations.append(time.perf_counter() - begin)
    return float(np.median(durations))


def edge_gym_rounds(task: Task, seconds: float, n_lanes: int) -> float:
    features = load_features("mnist-subset", None, task.side)
    learner = FederatedLearner(n_lanes, network_of(task), features)
    lanes = np.arange(n_lanes)
    streams = Streams(n_lanes)
    streams.begin(lanes, [np.random.default_rng(lane) for lane in lanes])
    learner.reset(lanes, streams.generators(lanes, Purpose.MODEL))
    shape = (task.n_devices, task.n_samples)
    rows = np.broadcast_to(np.arange(np.prod(shape)).reshape(shape), (n_lanes, *shape))
    weights, steps = np.ones((n_lanes, task.n_devices)), itertools.count()

    def play() -> None:
        keys = streams.keys(lanes, Purpose.ORDERS, task.n_devices, next(steps))
        updates, _ = learner.local_updates(
            *(lanes, rows, None, keys),
            batch_size=task.batch_size,
            learning_rate=RATE,
            epochs=task.epochs,
        )
        learner.add(lanes, average(updates, weights))

    return n_lanes / paced(play, seconds)


def gradient_times(task: Task, seconds: float, n_devices: int) -> dict[str, float]:
    """Return the microseconds of one device's gradient on one mini-batch, by path."""
    features = load_features("mnist-subset", None, task.side)
    lanes = np.arange(1)
    rows = np.random.default_rng(0).integers(
        len(features.train), size=(1, n_devices, task.batch_size)
    )
    times = {}
    groups = {"one by one": 1} if task.network == "mlp" else {"one by one": 1, "in groups": 8}
    chosen = models._GROUP, models._MOST_GROUPED_PIXELS, federated._BLOCK_VALUES
    for name, group in [*groups.items(), ("as chosen", 0)]:
        if group:
            models._GROUP, models._MOST_GROUPED_PIXELS = group, 10**6
            federated._BLOCK_VALUES = 1 if group == 1 else chosen[2]
        else:
            models._GROUP, models._MOST_GROUPED_PIXELS, federated._BLOCK_VALUES = chosen
        learner = FederatedLearner(1, network_of(task), features)
        learner.reset(lanes, [np.random.default_rng(0)])

        def play(learner: FederatedLearner = learner) -> None:
            learner.gradients(lanes, rows)

        times[name] = paced(play, seconds)
    module = Module(task)
    parameters = {key: value.detach() for key, value in module.named_parameters()}
    x = torch.tensor(features.train[rows[0]]) * task.side
    y = torch.tensor(features.train_labels[rows[0]])

    def loss(values: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(torch.func.functional_call(module, values, (x,)), y)

    mapped = torch.func.vmap(torch.func.grad(loss), in_dims=(0, 0, 0))
    own = {key: value.expand(n_devices, *value.shape) for key, value in parameters.items()}
    times["torch.func"] = paced(lambda: mapped(own, x, y), seconds)
    return {name: 1e6 * value / n_devices for name, value in times.items()}


def network_of(task: Task) -> Network:
    shape = (1, task.side, task.side)
    return make_network(task.network, shape, 10, hidden_sizes=task.hidden_sizes)


def module_rounds(task: Task, seconds: float) -> float:
    data, model = device_data(task), Module(task)

    def play() -> None:
        states = []
        for x, y in data:
            local = copy.deepcopy(model)
            train(local, x, y, task)
            states.append(local.state_dict())
        model.load_state_dict(
            {key: torch.stack([s[key] for s in states]).mean(0) for key in states[0]}
        )

    return 1 / paced(play, seconds)


def pfl_rounds(task: Task, seconds: float) -> float:
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    data = device_data(task)
    users = list(range(task.n_devices))
    dataset = FederatedDataset(
        lambda user: Dataset(raw_data=list(data[user])), get_user_sampler("minimize_reuse", users)
    )
    module = Module(task)
    model = PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0))
    ends: list[float] = []

    class Clock(TrainingProcessCallback):  # type: ignore[misc]
        def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Any]:
            ends.append(time.perf_counter())
            return len(ends) > 3 and ends[-1] - ends[0] > seconds, Metrics()

    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=10**6,
            evaluation_frequency=10**7,
            train_cohort_size=task.n_devices,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=dataset, val_data=dataset),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_batch_size=task.batch_size,
            local_num_epochs=task.epochs,
            local_learning_rate=RATE,
        ),
        callbacks=[Clock()],
        send_metrics_to_platform=False,
    )
    return 1 / float(np.median(np.diff(ends)))


def flower_rounds(task: Task, seconds: float, n_rounds: int = 12) -> float:
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    data, ends = device_data(task), []
    client, server = ClientApp(), ServerApp()

    @client.train()  # type: ignore[untyped-decorator]
    def fit(message: Any, context: Any) -> Any:
        torch.set_num_threads(1)
        model = Module(task)
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        train(model, *data[int(context.node_config["partition-id"])], task)
        content = {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": task.n_samples}),
        }
        return Message(content=RecordDict(content), reply_to=message)

    def end_of_round(_: int, __: Any) -> None:
        ends.append(time.perf_counter())

    @server.main()  # type: ignore[untyped-decorator]
    def serve(grid: Any, context: Any) -> None:
        nodes = {f"min_{name}_nodes": task.n_devices for name in ("train", "evaluate", "available")}
        strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, **nodes)
        arrays = ArrayRecord(Module(task).state_dict())
        strategy.start(grid, arrays, num_rounds=n_rounds, evaluate_fn=end_of_round)

    run_simulation(
        server,
        client,
        num_supernodes=task.n_devices,
        backend_config={
            "init_args": {"num_cpus": 1, "include_dashboard": False, "log_to_driver": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    # Workers start in the first two rounds.
    return 1 / float(np.median(np.diff(ends)[2:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each is timed")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--without", nargs="*", default=[], choices=["pfl", "flower"])
    parser.add_argument("--paths", action="store_true", help="time ways to compute gradients")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    if options.paths:
        for title in options.tasks:
            for n_devices in (10, 40):
                times = gradient_times(TASKS[title], options.seconds, n_devices)
                line = ", ".join(f"{name} {value:.0f}" for name, value in times.items())
                print(f"{title}, {n_devices} devices: {line} µs", flush=True)
        return
    others: dict[str, Callable[[Task, float], float]] = {"torch modules": module_rounds}
    for name, package, rounds in (("pfl", "pfl", pfl_rounds), ("flower", "flwr", flower_rounds)):
        if name not in options.without and importlib.util.find_spec(package):
            others[name] = rounds
    for title in options.tasks:
        task = TASKS[title]
        ours = {n: edge_gym_rounds(task, options.seconds, n) for n in (1, 16)}
        theirs = {name: rounds(task, options.seconds) for name, rounds in others.items()}
        line = "".join(f", {n} lanes {value:.1f}" for n, value in ours.items())
        line += "".join(
            f", {name} {value:.2f} ({ours[1] / value:.1f}×, {ours[16] / value:.1f}×)"
            for name, value in theirs.items()
        )
        print(f"{title}: rounds per second{line}", flush=True)


if __name__ == "__main__":
    main()
