"""The multilayer perceptron and convolutional networks in torch, with gradients written out.

A network's weights are one flat vector, so that an update can be averaged, compressed, measured
and sent. Everything works on J *jobs* at a time, one per pair of lane and device, each with a
vector and a mini-batch of its own.

Gradients of perceptrons and small convolutional networks are written out rather than recorded,
because torch's autograd engine refuses to run in a forked child once a parent has used it, and
because the written ones may go straight into the weights: a step of SGD on many jobs is then one
batched matrix product per layer. Modules that users bring
and torchvision's networks use autograd, see ``modules.py``.

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

The convolutional network is compiled on CPUs in single precision (``numba_cnn``): at 14×14 a
device's gradient takes 266 µs of 16 samples where torch takes 896, 766 of 96 where it takes 3,981.
In torch, convolutions gain from groups where images are small: layers of at most 14×14 pixels are
grouped by eight, larger ones go one by one. Unfolding images into matrix products took 1.1 to 15
times as long when it was tried.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edge_gym.learning.networks import numba_cnn
from edge_gym.learning.networks.architecture import (
    CHANNELS,
    LayerShape,
    Network,
    convolution_shape,
    dense_shape,
    draw_parameters,
)
from edge_gym.typing import Float64Array

_GROUP = 8
_MOST_GROUPED_PIXELS = 196


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


def put(target: Tensor, value: Tensor, replace: bool) -> None:
    """Write a value to a tensor, or add it."""
    if replace:
        target.copy_(value)
    else:
        target.add_(value)


class _Layer(ABC):
    """One layer of a written-out network, with an optional rectifier behind it.

    Attributes:
        shape: Shapes of one job's weight and bias.
        macs: Multiplications with an addition of one sample's forward pass.
    """

    shape: LayerShape
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
        self.shape = dense_shape(n_inputs, n_outputs)
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
        put(into[1], d_y.sum(1, keepdim=True), replace)
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
        self.shape = convolution_shape(channels, n_outputs, kernel)
        self.padding = padding
        self.size = height + 2 * padding - kernel + 1, width + 2 * padding - kernel + 1
        self.macs = math.prod(self.shape.weight) * math.prod(self.size)
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
            kernels_of_jobs = d_kernels.view(self.group, *self.shape.weight)
            put(into[0][j : j + n], kernels_of_jobs[:n], replace)
            put(into[1][j : j + n], d_biases.view(self.group, -1)[:n], replace)
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


class WrittenNetwork(Network):
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
        self.shapes = [layer.shape for layer in layers]
        self._shapes = [part for shape in self.shapes for part in (shape.weight, shape.bias)]
        self._sizes = [math.prod(shape) for shape in self._shapes]
        self.n_parameters = sum(self._sizes)
        self.macs = sum(layer.macs for layer in layers)
        dense = [layer for layer in layers if isinstance(layer, _Dense)]
        convolutions = [layer for layer in layers if isinstance(layer, _Convolution)]
        if any(math.prod(layer.shape.weight) % 8 for layer in dense):
            # Batched products round differently where a job's matrix is not aligned.
            self.jobs_at_once = 1
        else:
            self.jobs_at_once = _GROUP if convolutions else sys.maxsize
        for layer in convolutions:
            layer.group = min(layer.group, self.jobs_at_once)

    def draw(self, rng: np.random.Generator) -> Float64Array:
        """Draw parameters by ``draw_parameters``."""
        return draw_parameters(rng, self.shapes)

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


class Perceptron(WrittenNetwork):
    """Dense layers with rectifiers between them.

    Attributes:
        sizes: Units of the inputs, the hidden layers and the outputs.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], n_classes: int, hidden_sizes: Sequence[int]
    ) -> None:
        self.sizes = (math.prod(image_shape), *hidden_sizes, n_classes)
        super().__init__("mlp", image_shape, n_classes, _dense(self.sizes))


class Convolutional(WrittenNetwork):
    """The convolutional network of ``cnn_shapes``: compiled on CPUs in single precision.

    Elsewhere it is torch's, with gradients written out as those of all networks here.
    """

    def logits(self, parts: list[Tensor], inputs: Tensor) -> Tensor:
        """Return the logits ``(J, b, C)`` of inputs ``(J, b, d)``."""
        if not _is_compiled(inputs):
            return super().logits(parts, inputs)
        found = numba_cnn.logits(_flat(parts), inputs.numpy(), self.image_shape, self.n_classes)
        return torch.from_numpy(found)

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
        if not _is_compiled(inputs):
            return super().backward(parts, inputs, labels, share, factor, into, replace)
        parameters = _flat(parts)
        gradient, loss = torch.zeros(parameters.shape), torch.zeros(len(parameters))
        part = torch.empty(parameters.shape)
        for begin in range(0, labels.shape[1], numba_cnn.AT_ONCE):
            some = slice(begin, begin + numba_cnn.AT_ONCE)
            losses = numba_cnn.gradients(
                parameters,
                inputs[:, some].numpy(),
                labels[:, some].contiguous().numpy(),
                share[:, some].contiguous().numpy(),
                self.image_shape,
                self.n_classes,
                part.numpy(),
            )
            gradient += part
            loss += torch.from_numpy(losses)
        gradient *= factor[:, None]
        for target, value in zip(into, self.split(gradient), strict=True):
            put(target, value, replace)
        return loss


def _is_compiled(inputs: Tensor) -> bool:
    return inputs.device.type == "cpu" and inputs.dtype == torch.float32


def _flat(parts: list[Tensor]) -> NDArray[np.float32]:
    """Join the parts of a network into its parameter vectors, ``(J, P)``."""
    return np.asarray(torch.cat([part.flatten(1) for part in parts], 1).numpy())


def _convolutional(name: str, image_shape: tuple[int, int, int], n_classes: int) -> WrittenNetwork:
    least = 4 if name == "cnn" else 12
    if min(image_shape[1:]) == 1:
        raise ValueError(
            f"network {name!r} needs images, but samples of this data set are vectors of "
            f"{math.prod(image_shape)} features"
        )
    if min(image_shape[1:]) < least:
        raise ValueError(
            f"{name} needs images with sides of at least {least}, got image_shape {image_shape}"
        )
    kernel, channels, paddings, hidden_sizes = (
        (3, CHANNELS, (1, 1), []) if name == "cnn" else (5, (6, 16), (2, 0), [120, 84])
    )
    layers: list[_Layer] = []
    shape = image_shape
    for n_outputs, padding in zip(channels, paddings, strict=True):
        layer = _Convolution(shape, n_outputs, kernel, padding)
        layers.append(layer)
        shape = layer.out_shape
    kind = Convolutional if name == "cnn" else WrittenNetwork
    return kind(
        name, image_shape, n_classes, layers + _dense([math.prod(shape), *hidden_sizes, n_classes])
    )


def _dense(sizes: Sequence[int]) -> list[_Layer]:
    last = len(sizes) - 2
    return [_Dense(sizes[i], sizes[i + 1], rectified=i < last) for i in range(last + 1)]


def make_mlp(
    image_shape: tuple[int, int, int], n_classes: int, hidden_sizes: Sequence[int] = (64,)
) -> Network:
    """Make the perceptron of ``NETWORKS``."""
    if any(size < 1 for size in hidden_sizes):
        raise ValueError(f"hidden_sizes must be at least 1, got {tuple(hidden_sizes)}")
    return Perceptron(image_shape, n_classes, hidden_sizes)


def make_cnn(image_shape: tuple[int, int, int], n_classes: int) -> Network:
    """Make the convolutional network of ``NETWORKS``."""
    return _convolutional("cnn", image_shape, n_classes)


def make_lenet(image_shape: tuple[int, int, int], n_classes: int) -> Network:
    """Make LeNet-5 of ``NETWORKS``."""
    return _convolutional("lenet", image_shape, n_classes)
