"""Neural networks, one per lane, trained with Adam while samples arrive.

How it is built follows from ``benchmarks/networks.py`` (torch 2.15, batches of 32, one thread of
a shared CPU core; milliseconds per lane and training step at 1 / 16 / 64 lanes):

======================================================  ==================  ==================
network and path                                        14×14               28×28
======================================================  ==================  ==================
perceptron in torch, batched over lanes                 0.23 / 0.10 / 0.10  0.36 / 0.28 / 0.27
perceptron in torch, lane by lane                       0.21 / 0.21 / 0.22  0.35 / 0.39 / 0.35
convolutional, compiled (``numba_cnn.py``)           0.40 / 0.32 / 0.34  1.3 / 1.2 / 1.1
convolutional, lane by lane in torch                    1.6 / 1.4 / 1.5     4.1 / 4.1 / 4.7
convolutional, one grouped convolution (no optimiser)   1.5 / 0.9 / 1.0     3.8 / 3.5 / 5.9
======================================================  ==================  ==================

So large perceptrons are batched over lanes: batched matrix products are bit-equal for any number of
lanes from two on, if all matrices begin at aligned addresses. To fill them up with zeros for that
takes 60 % longer for one lane and 20 % for many (not in the table). Small perceptrons
(``numba_mlp.suits``) and convolutional networks loop over lanes in compiled code; one convolution
with a group per lane would round differently with the number of groups, which flips ties in the
pooling. Blocks of lanes go to a thread pool with one torch thread each (two threads nearly halve
the times of 16 and more lanes on idle cores), so what a lane learns depends neither on the number
of threads nor of lanes, and small operations never wait for an OpenMP team: on busy cores such
waits cost ten times the work.

Gradients are written out rather than recorded, because torch's autograd engine refuses to run in
a forked child once it has started its device threads; tests hold them to autograd's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edge_gym.learning.base import (
    Assessment,
    FloatArray,
    IntArray,
    Learner,
    Score,
    judge_logits,
    score_of,
)
from edge_gym.learning.networks.architecture import draw_parameters, n_parameters_of
from edge_gym.learning.networks.lanes import LaneCnn, LaneNetwork, lane_mlp
from edge_gym.runtime.isolation import isolated
from edge_gym.runtime.messages import shown
from edge_gym.runtime.threads import for_ranges

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8
_ROWS_AT_ONCE = 512
_LANES_AT_ONCE = 8  # More lanes no longer fit the cache.


class NetworkLearner(Learner):
    """A small neural network per lane, warm-started and trained with Adam.

    ``fit`` takes ``train_steps`` steps on mini-batches of ``batch_size`` samples, drawn with
    replacement from all that the lane has acquired by ``rng.integers(n, size=(steps, batch))``
    of the lane's own generator; a lane without samples draws and learns nothing. Weights and
    biases start uniform in ±1/√fan-in, as PyTorch's do, from the generator given to ``reset``.
    Torch's global generator is never touched.

    ``"mlp"`` has one hidden layer of ``hidden_size`` units; ``"cnn"`` is conv 3×3 (8 channels),
    pool 2, conv 3×3 (16 channels), pool 2, dense; both with rectifiers. Features have
    E‖x‖² = 1 over the data set, and networks want inputs of unit variance, so features are
    multiplied by √d.

    Adam was chosen over momentum by experiment (14×14 MNIST, 20 to 1,000 received samples, 10
    steps for every 10 samples). The perceptron learns as well with either: .55 to .57 after 1,000
    samples at 5 dB, .73 to .76 at 15 dB. The convolutional network at 5 dB stays at chance with
    momentum unless the rate is .01 or gradients are clipped to norm 1 (then .25 to .32), while
    Adam reaches .33 to .35 at rates of .001 to .003 without clipping: its steps do not grow with
    a gradient that a noisy sample makes large.

    Attributes:
        network: The architecture, for all lanes at a time.
        parameters: Network parameters, ``(n_lanes, P)`` float32.
        n_acquired: Samples that each lane has acquired, ``(n_lanes,)``.

    Source: Wen et al. 2019, §3.2 and §4.2, their extensions to convolutional networks (entropy).
    """

    uncertainty = "entropy"
    growing = frozenset({"inputs", "labels"})

    def __init__(
        self,
        n_lanes: int,
        image_shape: tuple[int, int, int],
        n_classes: int,
        architecture: str,
        *,
        hidden_size: int = 64,
        learning_rate: float = 0.002,
        batch_size: int = 32,
        train_steps: int = 10,
    ) -> None:
        """Make untrained networks; ``reset`` draws their parameters.

        Args:
            n_lanes: Number of lanes.
            image_shape: Channels, height and width; a sample has d = c·h·w features.
            n_classes: Number of classes, C ≥ 2.
            architecture: ``"mlp"`` or ``"cnn"``.
            hidden_size: Hidden units of the perceptron.
            learning_rate: Adam's step size.
            batch_size: Samples of a mini-batch.
            train_steps: Mini-batch steps of one ``fit``.

        Raises:
            ValueError: If an argument is out of range.
        """
        counts = {
            "n_lanes": (n_lanes, 1),
            "n_classes": (n_classes, 2),
            "hidden_size": (hidden_size, 1),
            "batch_size": (batch_size, 1),
            "train_steps": (train_steps, 1),
        }
        for name, (value, least) in counts.items():
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 < learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite, got {learning_rate}")
        least = 4 if architecture == "cnn" else 1
        if len(image_shape) != 3 or image_shape[0] < 1 or min(image_shape[1:]) < least:
            raise ValueError(
                f"image_shape must be (channels, height, width) with sides of at least {least}, "
                f"got {image_shape}"
            )
        self.n_lanes = n_lanes
        self.n_features = math.prod(image_shape)
        self.n_classes = n_classes
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.train_steps = train_steps
        self.network: LaneNetwork
        if architecture == "mlp":
            self.network = lane_mlp(self.n_features, n_classes, hidden_size)
        elif architecture == "cnn":
            self.network = LaneCnn(image_shape, n_classes)
        else:
            raise ValueError(f"architecture must be 'mlp' or 'cnn', got {shown(architecture)}")
        self.parameters = torch.zeros(n_lanes, n_parameters_of(self.network.shapes))
        self._moment1 = torch.zeros_like(self.parameters)
        self._moment2 = torch.zeros_like(self.parameters)
        self._n_updates = np.zeros(n_lanes, np.int64)
        self.n_acquired = np.zeros(n_lanes, np.int64)
        self._inputs = torch.empty(n_lanes, 0, self.n_features)
        self._labels = torch.empty(n_lanes, 0, dtype=torch.int64)

    def reset(self, lanes: IntArray, generators: Sequence[np.random.Generator]) -> None:
        """Forget everything in ``lanes`` and draw new parameters, P uniforms of each generator."""
        for lane, rng in zip(lanes, generators, strict=True):
            self.parameters[lane] = torch.from_numpy(draw_parameters(rng, self.network.shapes))
            self._moment1[lane] = 0
            self._moment2[lane] = 0
        self._n_updates[lanes] = 0
        self.n_acquired[lanes] = 0

    def append(self, lanes: IntArray, samples: FloatArray, labels: IntArray) -> None:
        """Add one sample to the training set of each lane: ``(m, d)`` and ``(m,)``."""
        rows = self.n_acquired[lanes]
        self._reserve(int(rows.max(initial=-1)) + 1)
        index = self._index(lanes), self._index(rows)
        self._inputs[index] = self._to_inputs(samples)
        self._labels[index] = torch.tensor(labels)
        self.n_acquired[lanes] += 1

    def fit(self, lanes: IntArray, generators: Sequence[np.random.Generator]) -> None:
        """Take ``train_steps`` Adam steps in each of ``lanes``, from the parameters they have."""
        pairs = [
            (lane, rng.integers(n, size=(self.train_steps, self.batch_size)))
            for lane, rng in zip(lanes, generators, strict=True)
            if (n := self.n_acquired[lane])
        ]
        if not pairs:
            return
        lanes = np.array([lane for lane, _ in pairs])
        batches = torch.from_numpy(np.stack([batch for _, batch in pairs]))
        self._for_blocks(lambda a, b: self._train(lanes[a:b], batches[a:b]), len(lanes))

    def assess(self, lanes: IntArray, samples: FloatArray, labels: IntArray) -> Assessment:
        """Judge ``samples`` of shape ``(m, q, d)`` with ``labels`` of shape ``(m, q)``.

        Returns:
            The entropy of the predicted classes in nats, the log-odds ln p_y - ln(1 - p_y) of the
            label clipped to ± ``MAX_MARGIN``, and the likeliest class.
        """
        logits = np.empty((*samples.shape[:-1], self.n_classes))

        def judge(a: int, b: int) -> None:
            parameters = self.parameters[self._index(lanes[a:b])]
            inputs = self._to_inputs(samples[a:b])
            logits[a:b] = self.network.logits(parameters, inputs).numpy()

        self._for_blocks(judge, len(lanes))
        return judge_logits(logits, labels)

    def score(
        self, lanes: IntArray, features: FloatArray, labels: IntArray, rows: IntArray
    ) -> Score:
        """Return each lane's accuracy, cross-entropy and recall on ``features[rows[i]]``."""
        correct = np.zeros((len(lanes), self.n_classes), np.int64)
        total, loss = np.zeros_like(correct), np.zeros(len(lanes))

        def score(a: int, b: int) -> None:
            for i in range(a, b):
                parameters = self.parameters[self._index(lanes[i : i + 1])]
                for start in range(0, rows.shape[1], _ROWS_AT_ONCE):
                    part = rows[i, start : start + _ROWS_AT_ONCE]
                    logits = self.network.logits(parameters, self._to_inputs(features[part])[None])
                    truth = torch.tensor(labels[part])
                    right = truth[logits[0].argmax(-1) == truth]
                    for counts, classes in ((total, truth), (correct, right)):
                        counts[i] += torch.bincount(classes, minlength=self.n_classes).numpy()
                    loss[i] += float(functional.cross_entropy(logits[0], truth, reduction="sum"))

        self._for_blocks(score, len(lanes))
        return score_of(correct, total, loss / rows.shape[1])

    def get_state(self, lanes: IntArray) -> dict[str, Any]:
        """Return what ``lanes`` have acquired and learned, as arrays that share no memory."""
        used = int(self.n_acquired[lanes].max(initial=0))
        index = self._index(lanes)
        tensors = {
            "parameters": self.parameters[index],
            "moment1": self._moment1[index],
            "moment2": self._moment2[index],
            "inputs": self._inputs[index, :used],
            "labels": self._labels[index, :used],
        }
        return {
            "n_acquired": self.n_acquired[lanes],
            "n_updates": self._n_updates[lanes],
            **{name: tensor.numpy() for name, tensor in tensors.items()},
        }

    def set_state(self, lanes: IntArray, state: dict[str, Any]) -> None:
        """Restore in ``lanes`` what ``get_state`` returned for as many lanes."""
        used = state["inputs"].shape[1]
        self._reserve(used)
        self.n_acquired[lanes] = state["n_acquired"]
        self._n_updates[lanes] = state["n_updates"]
        index = self._index(lanes)
        self.parameters[index] = torch.tensor(state["parameters"])
        self._moment1[index] = torch.tensor(state["moment1"])
        self._moment2[index] = torch.tensor(state["moment2"])
        self._inputs[index, :used] = torch.tensor(state["inputs"])
        self._labels[index, :used] = torch.tensor(state["labels"])

    def _reserve(self, size: int) -> None:
        capacity = self._labels.shape[1]
        if size > capacity:
            extra = max(size, 2 * capacity) - capacity
            self._inputs = functional.pad(self._inputs, (0, 0, 0, extra))
            self._labels = functional.pad(self._labels, (0, extra))

    def _to_inputs(self, features: FloatArray) -> Tensor:
        scaled = np.multiply(features, math.sqrt(self.n_features), dtype=np.float32)
        return torch.from_numpy(scaled)

    def _for_blocks(self, kernel: Callable[[int, int], None], size: int) -> None:
        """Call ``kernel`` on blocks of lanes, on all cores but with one torch thread each."""

        def blocks(start: int, stop: int) -> None:
            for a in range(start, stop, _LANES_AT_ONCE):
                kernel(a, min(a + _LANES_AT_ONCE, stop))

        with isolated():
            for_ranges(blocks, size)

    def _index(self, indices: IntArray) -> Tensor:
        """Copy indices, for torch warns of arrays that are read-only."""
        return torch.tensor(indices)

    def _train(self, lanes: IntArray, batches: Tensor) -> None:
        """Train on the sample indices ``(m, steps, batch)``."""
        index = self._index(lanes)
        flat = self.parameters[index]
        # Buffers are kept, for fresh memory of this size costs a page fault per 4 KiB each time.
        flat_gradients, scale = torch.empty_like(flat), torch.empty_like(flat[0])
        for batch in batches.unbind(1):
            inputs, labels = (
                self._inputs[index[:, None], batch],
                self._labels[index[:, None], batch],
            )
            self.network.gradients(flat, inputs, labels, flat_gradients)
            # Adam goes lane by lane, for a lane's arrays fit the cache and those of all do not.
            for lane, theta, g in zip(lanes, flat, flat_gradients, strict=True):
                self._n_updates[lane] += 1
                t = int(self._n_updates[lane])
                moment1 = self._moment1[lane].lerp_(g, 1 - _BETA1)
                moment2 = self._moment2[lane].mul_(_BETA2).addcmul_(g, g, value=1 - _BETA2)
                torch.sqrt(moment2, out=scale).div_(math.sqrt(1 - _BETA2**t)).add_(_EPSILON)
                step = self.learning_rate / (1 - _BETA1**t)
                theta.addcdiv_(moment1, scale, value=-step)
        self.parameters[index] = flat


class MlpLearner(NetworkLearner):
    """A ``NetworkLearner`` of the multilayer perceptron with one hidden layer."""

    def __init__(
        self,
        n_lanes: int,
        image_shape: tuple[int, int, int],
        n_classes: int,
        *,
        hidden_size: int = 64,
        learning_rate: float = 0.003,
        batch_size: int = 32,
        train_steps: int = 10,
    ) -> None:
        super().__init__(
            n_lanes,
            image_shape,
            n_classes,
            "mlp",
            hidden_size=hidden_size,
            learning_rate=learning_rate,
            batch_size=batch_size,
            train_steps=train_steps,
        )


class CnnLearner(NetworkLearner):
    """A ``NetworkLearner`` of the convolutional network."""

    needs_images = True

    def __init__(
        self,
        n_lanes: int,
        image_shape: tuple[int, int, int],
        n_classes: int,
        *,
        learning_rate: float = 0.003,
        batch_size: int = 32,
        train_steps: int = 10,
    ) -> None:
        super().__init__(
            n_lanes,
            image_shape,
            n_classes,
            "cnn",
            learning_rate=learning_rate,
            batch_size=batch_size,
            train_steps=train_steps,
        )
