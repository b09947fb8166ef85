"""Networks that federated learners train: their parameters, gradients, payload and FLOPs.

A network's weights are one flat vector, so that an update can be averaged, compressed, measured
and sent. Everything works on J *jobs* at a time, one per pair of lane and device, each with a
vector and a mini-batch of its own.

Gradients of perceptrons and small convolutional networks are written out rather than recorded,
because torch's autograd engine refuses to run in a forked child once a parent has used it, and
because the written ones may go straight into the weights: a step of SGD on many jobs is then one
batched matrix product per layer. Torchvision's networks use autograd, one job after another.

Microseconds of one device's gradient on a mini-batch of 16 by ``benchmarks/federated.py --paths``
(torch 2.15, one core that others used too; 10 / 40 devices at once; ``torch.func`` maps over
devices and neither gathers samples nor returns flat vectors, which the others do):

====================  ===========  ===========  ===========
network               one by one   as chosen    torch.func
====================  ===========  ===========  ===========
49-32-10              483 / 404    67 / 27      113 / 41
196-64-10             582 / 452    101 / 78     164 / 70
784-64-10             657 / 581    191 / 182    184 / 127
784-300-124-60-10     1633 / 1914  1237 / 1573  713 / 865
convolutional, 14×14  1744 / 1568  1030 / 714   694 / 811
convolutional, 28×28  3701 / 3489  2538 / 2125  1945 / 2588
LeNet, 28×28          4210 / 3585  3851 / 2629  2738 / 2329
====================  ===========  ===========  ===========

Convolutions gain from groups where images are small: layers of at most 14×14 pixels are grouped
by eight, larger ones go one by one. Unfolding images into matrix products took 1.1 to 15 times as
long when it was tried.
"""

from __future__ import annotations

import importlib
import math
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edge_gym.runtime.messages import shown

NETWORKS = ("mlp", "cnn", "lenet", "resnet-18", "mobilenet-v2", "densenet-121")
STATISTICS_BITS = 32
"""Bits of one batch-normalisation statistic, which is never compressed."""

_LEAST_TORCHVISION_SIDE = 17  # Less leaves batch normalisation a single pixel in the end.
_models = threading.local()
_GROUP = 8
_MOST_GROUPED_PIXELS = 196


class Network(ABC):
    """An architecture; the weights themselves are vectors that the caller keeps.

    A vector of S = ``n_values`` numbers holds the P = ``n_parameters`` trainable parameters and
    after them the ``n_statistics`` running means and variances of batch normalisation, if any.

    FLOPs count the products of dense layers and convolutions, two FLOPs for one multiplication
    and addition; biases, rectifiers, pooling and normalisation are left out, as
    ``torch.utils.flop_counter`` does. A backward pass counts twice the forward one (a product
    for the weights and one for the inputs; the first layer's inputs need none, which is ignored).

    Attributes:
        name: One of ``NETWORKS``.
        image_shape: ``(channels, height, width)`` of a sample with d = c·h·w features.
        n_classes: Number of classes, C.
        n_parameters: Trainable parameters, P.
        n_statistics: Batch-normalisation statistics.
        macs: Multiplications with an addition of one sample's forward pass.
        jobs_at_once: Most jobs that are worth batching.
    """

    name: str
    image_shape: tuple[int, int, int]
    n_classes: int
    n_parameters: int
    n_statistics: int = 0
    macs: int
    jobs_at_once: int

    @property
    def n_features(self) -> int:
        """Features of a sample, d."""
        return math.prod(self.image_shape)

    @property
    def n_values(self) -> int:
        """Length of a weight vector, S = P + statistics."""
        return self.n_parameters + self.n_statistics

    @property
    def forward_flops(self) -> int:
        """FLOPs of one sample's forward pass."""
        return 2 * self.macs

    @property
    def backward_flops(self) -> int:
        """FLOPs of one sample's backward pass, twice the forward ones."""
        return 4 * self.macs

    def payload_bits(self, bits: float = 32.0) -> float:
        """Return the size of an uncompressed model or update in bits, b·P plus the statistics.

        Source: FEEL, s = b·p.
        """
        return bits * self.n_parameters + STATISTICS_BITS * self.n_statistics

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw an untrained weight vector, ``(S,)``."""

    @abstractmethod
    def split(self, vectors: Tensor) -> list[Tensor]:
        """Cut vectors ``(J, S)`` into the parts that the passes take; views, not copies."""

    @abstractmethod
    def logits(self, parts: list[Tensor], inputs: Tensor) -> Tensor:
        """Return the logits ``(J, b, C)`` of inputs ``(J, b, d)``; statistics are fixed."""

    @abstractmethod
    def backward(
        self,
        parts: list[Tensor],
        inputs: Tensor,
        labels: Tensor,
        share: Tensor,
        factor: Tensor,
        into: list[Tensor],
        replace: bool = False,
    ) -> Tensor:
        """Add factor·∇Σᵢ shareᵢ·lossᵢ of each job to ``into``, which may be ``parts`` itself.

        Args:
            parts: The weights, as ``split`` cuts them.
            inputs: ``(J, b, d)``.
            labels: ``(J, b)``.
            share: Weight of each sample in the job's loss, ``(J, b)``; samples of weight 0 stand
                after all others and fill up the batch.
            factor: What gradients are multiplied by, ``(J,)``: 1, or minus the learning rate.
            into: As ``parts``. Statistics are replaced where it is ``parts``; elsewhere their
                decrease is added, so that subtracting the result brings them up to date.
            replace: Whether to overwrite what ``into`` holds instead of adding to it.

        Returns:
            Σᵢ shareᵢ·lossᵢ, the cross-entropy in nats, ``(J,)``.
        """


def log_probabilities(logits: Tensor) -> Tensor:
    """Return log p of each class, ``(J, C, b)``, from logits ``(J, b, C)``.

    Along a middle axis torch's softmax is vectorised; a short last one is ten times slower.
    """
    return torch.log_softmax(logits.mT.contiguous(), 1)


def _loss_and_gradient(logits: Tensor, labels: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy ``(J, b)`` times ``share``, and the gradient of its sum."""
    log_p = log_probabilities(logits)
    target = labels[:, None]
    loss = log_p.gather(1, target)[:, 0].mul_(share).neg_()
    gradient = log_p.exp_().mul_(share[:, None]).scatter_add_(1, target, -share[:, None])
    return loss, gradient.mT.contiguous()


def _put(target: Tensor, value: Tensor, replace: bool) -> None:
    if replace:
        target.copy_(value)
    else:
        target.add_(value)


class _Layer(ABC):
    """One layer of a written-out network, with an optional rectifier behind it.

    Attributes:
        shapes: Shapes of one job's weight and bias.
        fan_in: Inputs of one unit.
        macs: Multiplications with an addition of one sample's forward pass.
    """

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    fan_in: int
    macs: int

    @abstractmethod
    def forward(self, weight: Tensor, bias: Tensor, x: Tensor) -> tuple[Tensor, Any]:
        """Return outputs ``(J, b, ...)`` and what ``backward`` needs beside them."""

    @abstractmethod
    def backward(
        self,
        weight: Tensor,
        x: Tensor,
        y: Tensor,
        saved: Any,
        d_y: Tensor,
        into: tuple[Tensor, Tensor],
        replace: bool,
        first: bool,
    ) -> Tensor:
        """Add the weight's and bias's gradients to ``into``, or put them there; return that of x.

        ``first`` says that the gradient of ``x`` is not wanted.
        """


class _Dense(_Layer):
    def __init__(self, n_inputs: int, n_outputs: int, rectified: bool) -> None:
        self.shapes = ((n_inputs, n_outputs), (1, n_outputs))
        self.fan_in = n_inputs
        self.macs = n_inputs * n_outputs
        self.rectified = rectified

    def forward(self, weight: Tensor, bias: Tensor, x: Tensor) -> tuple[Tensor, Any]:
        y = torch.baddbmm(bias, x.flatten(2), weight)
        return (y.relu_() if self.rectified else y), None

    def backward(
        self,
        weight: Tensor,
        x: Tensor,
        y: Tensor,
        saved: Any,
        d_y: Tensor,
        into: tuple[Tensor, Tensor],
        replace: bool,
        first: bool,
    ) -> Tensor:
        if self.rectified:
            d_y = d_y.mul_(y > 0)
        # Before the product below, which may change the weight.
        d_x = d_y if first else torch.bmm(d_y, weight.mT).view_as(x)
        into[0].baddbmm_(x.flatten(2).mT, d_y, beta=0 if replace else 1)
        _put(into[1], d_y.sum(1, keepdim=True), replace)
        return d_x


class _Convolution(_Layer):
    """A convolution with its outputs pooled by 2 and rectified.

    It pools before it rectifies, which gives the same and costs less. Jobs are convolved in
    groups of a fixed size, filled up with zeros: grouped convolutions round differently with the
    number of groups, but not with the place of a group among the others.
    """

    def __init__(
        self, in_shape: tuple[int, int, int], n_outputs: int, kernel: int, padding: int
    ) -> None:
        channels, height, width = in_shape
        self.shapes = ((n_outputs, channels, kernel, kernel), (n_outputs,))
        self.fan_in = channels * kernel**2
        self.padding = padding
        self.size = height + 2 * padding - kernel + 1, width + 2 * padding - kernel + 1
        self.macs = math.prod(self.shapes[0]) * math.prod(self.size)
        self.out_shape = n_outputs, self.size[0] // 2, self.size[1] // 2
        self.group = _GROUP if math.prod(self.size) <= _MOST_GROUPED_PIXELS else 1

    def forward(self, weight: Tensor, bias: Tensor, x: Tensor) -> tuple[Tensor, Any]:
        outputs, saved = [], []
        for j in range(0, len(x), self.group):
            images, kernels = self._grouped(x[j : j + self.group], weight[j : j + self.group])
            biases = self._filled(bias[j : j + self.group]).flatten()
            convolved = functional.conv2d(
                images, kernels, biases, padding=self.padding, groups=self.group
            )
            pooled, index = functional.max_pool2d_with_indices(convolved, (2, 2))
            outputs.append(self._ungrouped(pooled.relu_(), self.out_shape)[: len(x) - j])
            saved.append((images, kernels, index))
        return torch.cat(outputs), saved

    def backward(
        self,
        weight: Tensor,
        x: Tensor,
        y: Tensor,
        saved: Any,
        d_y: Tensor,
        into: tuple[Tensor, Tensor],
        replace: bool,
        first: bool,
    ) -> Tensor:
        d_pooled = d_y.view_as(y) * (y > 0)
        gradients = []
        pair = [self.padding, self.padding]
        for (images, kernels, index), j in zip(saved, range(0, len(x), self.group), strict=True):
            n = min(self.group, len(x) - j)
            d_part = self._filled(d_pooled[j : j + n]).transpose(0, 1).flatten(1, 2)
            d_convolved = functional.max_unpool2d(d_part, index, (2, 2), output_size=self.size)
            d_images, d_kernels, d_biases = torch.ops.aten.convolution_backward(
                *(d_convolved, images, kernels, [len(kernels)], [1, 1], pair, [1, 1]),
                *(False, [0, 0], self.group, [not first, True, True]),
            )
            kernels_of_jobs = d_kernels.view(self.group, *self.shapes[0])
            _put(into[0][j : j + n], kernels_of_jobs[:n], replace)
            _put(into[1][j : j + n], d_biases.view(self.group, -1)[:n], replace)
            if not first:
                gradients.append(self._ungrouped(d_images, x.shape[2:])[:n])
        return d_y if first else torch.cat(gradients)

    def _grouped(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return images ``(b, g·c, h, w)`` and kernels ``(g·o, c, k, k)``."""
        images = self._filled(x).transpose(0, 1).flatten(1, 2)
        return images, self._filled(weight).flatten(0, 1)

    def _filled(self, part: Tensor) -> Tensor:
        missing = self.group - len(part)
        return torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) if missing else part

    def _ungrouped(self, images: Tensor, shape: Sequence[int]) -> Tensor:
        return images.view(len(images), self.group, *shape).transpose(0, 1)


class _WrittenNetwork(Network):
    """Layers in a row, with gradients written out for all jobs at a time."""

    def __init__(
        self,
        name: str,
        image_shape: tuple[int, int, int],
        n_classes: int,
        layers: Sequence[_Layer],
    ) -> None:
        self.name = name
        self.image_shape = image_shape
        self.n_classes = n_classes
        self._layers = tuple(layers)
        self._shapes = [shape for layer in layers for shape in layer.shapes]
        self._sizes = [math.prod(shape) for shape in self._shapes]
        self.n_parameters = sum(self._sizes)
        self.macs = sum(layer.macs for layer in layers)
        dense = [layer for layer in layers if isinstance(layer, _Dense)]
        convolutions = [layer for layer in layers if isinstance(layer, _Convolution)]
        if any(math.prod(layer.shapes[0]) % 8 for layer in dense):
            # Batched products round differently where a job's matrix is not aligned.
            self.jobs_at_once = 1
        else:
            self.jobs_at_once = _GROUP if convolutions else sys.maxsize
        for layer in convolutions:
            layer.group = min(layer.group, self.jobs_at_once)

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw parameters uniform in ±1/√fan-in, as PyTorch does, with P uniforms of ``rng``."""
        fan_in = np.repeat([layer.fan_in for layer in self._layers for _ in range(2)], self._sizes)
        return np.asarray(rng.uniform(-1, 1, self.n_parameters) / np.sqrt(fan_in))

    def split(self, vectors: Tensor) -> list[Tensor]:
        """Cut vectors ``(J, P)`` into each layer's weight and bias; views, not copies."""
        parts = torch.split(vectors, self._sizes, dim=1)
        return [p.view(-1, *s) for p, s in zip(parts, self._shapes, strict=True)]

    def logits(self, parts: list[Tensor], inputs: Tensor) -> Tensor:
        """Return the logits ``(J, b, C)`` of inputs ``(J, b, d)``."""
        return self._forward(parts, inputs)[-1][1]

    def backward(
        self,
        parts: list[Tensor],
        inputs: Tensor,
        labels: Tensor,
        share: Tensor,
        factor: Tensor,
        into: list[Tensor],
        replace: bool = False,
    ) -> Tensor:
        """Add factor·∇Σᵢ shareᵢ·lossᵢ of each job to ``into``, which may be ``parts`` itself."""
        passes = self._forward(parts, inputs)
        loss, gradient = _loss_and_gradient(passes[-1][1], labels, share)
        gradient.mul_(factor[:, None, None])
        for i in range(len(self._layers) - 1, -1, -1):
            x, y, saved = passes[i]
            targets = into[2 * i], into[2 * i + 1]
            gradient = self._layers[i].backward(
                parts[2 * i], x, y, saved, gradient, targets, replace, first=i == 0
            )
        return loss.sum(-1)

    def _forward(self, parts: list[Tensor], inputs: Tensor) -> list[tuple[Tensor, Tensor, Any]]:
        """Return each layer's inputs, outputs and notes."""
        passes: list[tuple[Tensor, Tensor, Any]] = []
        x = inputs.view(*inputs.shape[:2], *self.image_shape)
        for i, layer in enumerate(self._layers):
            y, saved = layer.forward(parts[2 * i], parts[2 * i + 1], x)
            passes.append((x, y, saved))
            x = y
        return passes


class Perceptron(_WrittenNetwork):
    """Dense layers with rectifiers between them.

    Attributes:
        sizes: Units of the inputs, the hidden layers and the outputs.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], n_classes: int, hidden_sizes: Sequence[int]
    ) -> None:
        self.sizes = (math.prod(image_shape), *hidden_sizes, n_classes)
        super().__init__("mlp", image_shape, n_classes, _dense(self.sizes))


class TorchvisionNetwork(Network):
    """One of torchvision's networks with a stem for small images.

    The first convolution is 3×3 with stride 1 and no pooling follows it, as is usual for CIFAR-10;
    DenseNet-121 keeps its growth rate of 32, and nothing is dropped out, so that what is learned
    depends on the mini-batches alone. Weights start as torchvision draws them.

    Jobs go one after another, each with the samples that it has and no padding, because batch
    normalisation would see the padding. Autograd computes the gradients: a process that has used
    it cannot fork a child that uses it too.
    """

    jobs_at_once = 1

    def __init__(self, name: str, image_shape: tuple[int, int, int], n_classes: int) -> None:
        if min(image_shape[1:]) < _LEAST_TORCHVISION_SIDE:
            raise ValueError(
                f"{name} needs images with sides of at least {_LEAST_TORCHVISION_SIDE}, "
                f"got image_shape {image_shape}"
            )
        self.name = name
        self.image_shape = image_shape
        self.n_classes = n_classes
        model = self._model()
        self._parameters = {key: value.shape for key, value in model.named_parameters()}
        self._statistics = {
            key: value.shape for key, value in model.named_buffers() if value.is_floating_point()
        }
        self._sizes = [
            math.prod(shape) for shape in (*self._parameters.values(), *self._statistics.values())
        ]
        self.n_parameters = sum(self._sizes[: len(self._parameters)])
        self.n_statistics = sum(self._sizes[len(self._parameters) :])
        self.macs = self._count(model)

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw an untrained model as torchvision does, seeded by one integer of ``rng``."""
        with torch.random.fork_rng(devices=[]):
            # Not ``torch.manual_seed``, which would seed accelerators too.
            torch.default_generator.manual_seed(int(rng.integers(2**63)))
            model = self._build("cpu")
        state = model.state_dict()
        values = [state[key].flatten() for key in (*self._parameters, *self._statistics)]
        drawn: NDArray[np.float64] = torch.cat(values).double().numpy()
        return drawn

    def split(self, vectors: Tensor) -> list[Tensor]:
        """Return the vectors ``(J, S)`` as they are."""
        return [vectors]

    def logits(self, parts: list[Tensor], inputs: Tensor) -> Tensor:
        """Return the logits ``(J, b, C)`` of inputs ``(J, b, d)``; statistics are fixed."""
        model = self._model().eval()
        outputs = []
        for vector, x in zip(parts[0], inputs, strict=True):
            images = x.view(-1, *self.image_shape)
            outputs.append(torch.func.functional_call(model, self._tensors(vector), (images,)))
        return torch.stack(outputs)

    def backward(
        self,
        parts: list[Tensor],
        inputs: Tensor,
        labels: Tensor,
        share: Tensor,
        factor: Tensor,
        into: list[Tensor],
        replace: bool = False,
    ) -> Tensor:
        """Add factor·∇Σᵢ shareᵢ·lossᵢ of each job to ``into``, which may be ``parts`` itself."""
        model = self._model().train()
        p, losses = self.n_parameters, []
        for j, vector in enumerate(parts[0]):
            n = int((share[j] > 0).sum())
            trained = vector.clone()
            # Training replaces the statistics in this copy.
            tensors = self._tensors(trained)
            leaves = [tensors[key].requires_grad_() for key in self._parameters]
            with torch.enable_grad():
                images = inputs[j, :n].view(n, *self.image_shape)
                logits = torch.func.functional_call(model, tensors, (images,))
                nats = functional.cross_entropy(logits, labels[j, :n], reduction="none")
                loss = (nats * share[j, :n]).sum()
                gradients = torch.autograd.grad(loss, leaves)
            target = into[0][j]
            _put(target[:p], factor[j] * torch.cat([g.flatten() for g in gradients]), replace)
            if into[0] is parts[0]:
                target[p:] = trained[p:]
            else:
                _put(target[p:], share[j].sum() * (vector[p:] - trained[p:]), replace)
            losses.append(loss.detach())
        return torch.stack(losses)

    def _tensors(self, vector: Tensor) -> dict[str, Tensor]:
        """Cut a vector ``(S,)`` into the tensors that the model names, views of it."""
        parts = torch.split(vector.detach(), self._sizes)
        shapes = {**self._parameters, **self._statistics}
        return {key: part.view(shapes[key]) for key, part in zip(shapes, parts, strict=True)}

    def _model(self) -> torch.nn.Module:
        """Return this thread's model without weights, for calls put theirs into it."""
        models: dict[Any, torch.nn.Module] = _models.__dict__
        key = repr((self.name, self.image_shape, self.n_classes))
        if key not in models:
            models[key] = self._build("meta")
        return models[key]

    def _build(self, device: str) -> torch.nn.Module:
        # By name, so that the rest of the package works without a torchvision that loads.
        models = importlib.import_module("torchvision.models")
        model: Any
        stem: dict[str, Any] = {"kernel_size": 3, "padding": 1, "bias": False}
        kaiming = torch.nn.init.kaiming_normal_
        with torch.device(device):
            if self.name == "resnet-18":
                model = models.resnet18(num_classes=self.n_classes)
                model.conv1 = torch.nn.Conv2d(self.image_shape[0], 64, **stem)
                kaiming(model.conv1.weight, mode="fan_out", nonlinearity="relu")
                model.maxpool = torch.nn.Identity()
            elif self.name == "mobilenet-v2":
                model = models.mobilenet_v2(num_classes=self.n_classes, dropout=0.0)
                model.features[0][0] = torch.nn.Conv2d(self.image_shape[0], 32, **stem)
                kaiming(model.features[0][0].weight, mode="fan_out")
            else:
                model = models.densenet121(num_classes=self.n_classes)
                model.features.conv0 = torch.nn.Conv2d(self.image_shape[0], 64, **stem)
                kaiming(model.features.conv0.weight)
                model.features.pool0 = torch.nn.Identity()
        built: torch.nn.Module = model
        return built

    def _count(self, model: torch.nn.Module) -> int:
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(torch.zeros(1, *self.image_shape, device="meta"))
        return int(counter.get_total_flops()) // 2


def _convolutional(name: str, image_shape: tuple[int, int, int], n_classes: int) -> _WrittenNetwork:
    least = 4 if name == "cnn" else 12
    if min(image_shape[1:]) < least:
        raise ValueError(
            f"{name} needs images with sides of at least {least}, got image_shape {image_shape}"
        )
    kernel, channels, paddings, hidden_sizes = (
        (3, (8, 16), (1, 1), []) if name == "cnn" else (5, (6, 16), (2, 0), [120, 84])
    )
    layers: list[_Layer] = []
    shape = image_shape
    for n_outputs, padding in zip(channels, paddings, strict=True):
        layer = _Convolution(shape, n_outputs, kernel, padding)
        layers.append(layer)
        shape = layer.out_shape
    return _WrittenNetwork(
        name, image_shape, n_classes, layers + _dense([math.prod(shape), *hidden_sizes, n_classes])
    )


def _dense(sizes: Sequence[int]) -> list[_Layer]:
    last = len(sizes) - 2
    return [_Dense(sizes[i], sizes[i + 1], rectified=i < last) for i in range(last + 1)]


def make_network(
    name: str,
    image_shape: tuple[int, int, int],
    n_classes: int,
    *,
    hidden_sizes: Sequence[int] = (64,),
) -> Network:
    """Make the network of this name, one of ``NETWORKS``.

    Args:
        name: ``"mlp"``: dense layers with rectifiers. ``"cnn"``: conv 3×3 (8 channels), pool 2,
            conv 3×3 (16), pool 2, dense. ``"lenet"``: LeNet-5 with rectifiers and maximum
            pooling: conv 5×5 (6), pool 2, conv 5×5 without padding (16), pool 2, dense 120,
            84. The others are torchvision's, see ``TorchvisionNetwork``.
        image_shape: Channels, height and width of a sample.
        n_classes: Number of classes, C ≥ 2.
        hidden_sizes: Units of each hidden layer of ``"mlp"``; none gives a linear classifier.

    Raises:
        ValueError: If the name is unknown or an argument is out of range.
    """
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"image_shape must be (channels, height, width), got {image_shape}")
    if n_classes < 2:
        raise ValueError(f"n_classes must be at least 2, got {n_classes}")
    if name == "mlp":
        if any(size < 1 for size in hidden_sizes):
            raise ValueError(f"hidden_sizes must be at least 1, got {tuple(hidden_sizes)}")
        return Perceptron(image_shape, n_classes, hidden_sizes)
    if name in ("resnet-18", "mobilenet-v2", "densenet-121"):
        return TorchvisionNetwork(name, image_shape, n_classes)
    if name in ("cnn", "lenet"):
        return _convolutional(name, image_shape, n_classes)
    raise ValueError(f"unknown network {shown(name)}; known are {', '.join(NETWORKS)}")
