"""Time a training step of the network learner, batched over lanes and lane by lane.

Run with ``python -m benchmarks.networks``; the numbers in ``edge_gym/learning/networks.py`` and
the choice made there come from here.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from edge_gym.learning.networks.lanes import split_layers
from edge_gym.learning.online import NetworkLearner


def grouped_convolutions(learner: NetworkLearner, inputs: torch.Tensor) -> torch.Tensor:
    """Return the logits of all lanes' convolutional networks by grouped convolutions."""
    layers = split_layers(learner.parameters, learner.network.shapes)
    weight1, bias1, weight2, bias2, weight3, bias3 = map(torch.nn.Parameter, layers)
    m, b, _ = inputs.shape
    c, h, w = learner.network.image_shape  # type: ignore[attr-defined]
    x = inputs.transpose(0, 1).reshape(b, m * c, h, w)
    for weight, bias in ((weight1, bias1), (weight2, bias2)):
        x = torch.conv2d(x, weight.flatten(0, 1), bias.flatten(), padding=1, groups=m)
        x = torch.relu(torch.max_pool2d(x, 2))
    return torch.baddbmm(bias3, x.view(b, m, -1).transpose(0, 1), weight3)


def milliseconds(
    architecture: str, side: int, n_lanes: int, path: str, *, batch_size: int, seconds: float
) -> float:
    """Return the milliseconds per lane and training step.

    Args:
        architecture: ``"mlp"`` or ``"cnn"``.
        side: Height and width of the images.
        n_lanes: Lanes trained at once.
        path: ``"learner"`` (what ``fit`` does), ``"loop"`` (``fit`` of one lane after another) or
            ``"grouped"`` (autograd through grouped convolutions, without the optimiser).
        batch_size: Samples of a mini-batch.
        seconds: How long to measure.
    """
    learner = NetworkLearner(
        n_lanes, (1, side, side), 10, architecture, batch_size=batch_size, train_steps=10
    )
    lanes = np.arange(n_lanes)
    generators = [np.random.default_rng(lane) for lane in lanes]
    learner.reset(lanes, generators)
    rng = np.random.default_rng(0)
    for _ in range(100):
        samples = rng.standard_normal((n_lanes, side * side)) / side
        learner.append(lanes, samples, rng.integers(10, size=n_lanes))
    inputs = learner._inputs[:, :batch_size]
    labels = learner._labels[:, :batch_size].flatten()

    def fit() -> None:
        if path == "learner":
            learner.fit(lanes, generators)
        elif path == "loop":
            for lane in lanes:
                learner.fit(lanes[lane : lane + 1], generators[lane : lane + 1])
        else:
            for _ in range(learner.train_steps):
                logits = grouped_convolutions(learner, inputs).flatten(0, 1)
                torch.nn.functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]

    fit()
    calls, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        fit()
        calls += 1
    return 1e3 * spent / (calls * n_lanes * learner.train_steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=0.5)
    options = vars(parser.parse_args())
    for architecture, paths in (("mlp", ("learner", "loop")), ("cnn", ("learner", "grouped"))):
        for side in (14, 28):
            for n_lanes in (1, 16, 64):
                times = [milliseconds(architecture, side, n_lanes, p, **options) for p in paths]
                line = "  ".join(f"{p} {t:.3f}" for p, t in zip(paths, times, strict=True))
                print(f"{architecture} {side}×{side} lanes {n_lanes:2d}: {line} ms", flush=True)


if __name__ == "__main__":
    main()
