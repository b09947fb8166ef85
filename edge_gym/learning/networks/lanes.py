"""The perceptron and the convolutional network of online learners, batched over lanes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edge_gym.learning.networks import numba_cnn, numba_mlp
from edge_gym.learning.networks.architecture import LayerShape, cnn_shapes, mlp_shapes

_ALIGNMENT = 16  # Numbers of 64 bytes.


class LaneNetwork(Protocol):
    """A network whose parameters, inputs and outputs have a leading lane axis.

    Parameters are ``(m, P)``, inputs ``(m, b, d)``, logits ``(m, b, C)``, and ``shapes`` are those
    of one lane's layers. ``gradients`` writes each lane's, of the mean cross-entropy
    over its own batch, to ``out``, ``(m, P)``.
    """

    shapes: list[LayerShape]

    def logits(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """Return the logits ``(m, b, C)``."""

    def gradients(self, parameters: Tensor, inputs: Tensor, labels: Tensor, out: Tensor) -> None:
        """Write each lane's gradient to ``out``, ``(m, P)``."""


def split_layers(parameters: Tensor, layers: Sequence[LayerShape]) -> list[Tensor]:
    """View parameters ``(m, P)`` as each layer's weight and bias, ``(m, *shape)``."""
    shapes = [part for layer in layers for part in (layer.weight, layer.bias)]
    parts = torch.split(parameters, [math.prod(shape) for shape in shapes], dim=1)
    return [part.view(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]


def _filled(matrices: Tensor, lanes: int, rows: int) -> Tensor:
    """Fill matrices ``(m, r, c)`` up with zeros to so many lanes and rows, and columns in 16s."""
    m, r, c = matrices.shape
    shape = lanes, rows, -(-c // _ALIGNMENT) * _ALIGNMENT
    if matrices.shape == shape and matrices.is_contiguous() and matrices.data_ptr() % 64 == 0:
        return matrices
    room = matrices.new_zeros(shape)
    room[:m, :r, :c] = matrices
    return room


def lane_mlp(n_features: int, n_classes: int, hidden_size: int) -> LaneNetwork:
    """Return the perceptron with one hidden layer: compiled if it is small, in torch if large."""
    sizes = (n_features, hidden_size, n_classes)
    return CompiledLaneMlp(sizes) if numba_mlp.suits(sizes) else LaneMlp(sizes)


class CompiledLaneMlp:
    """A small perceptron, lane by lane in compiled code, see ``numba_mlp``.

    Args:
        sizes: Units of the inputs, the hidden layer and the outputs.
    """

    def __init__(self, sizes: tuple[int, int, int]) -> None:
        self.sizes = sizes
        self.shapes = mlp_shapes(sizes)

    def logits(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """Return the logits ``(m, b, C)``."""
        arrays = parameters.numpy(), inputs.numpy()
        return torch.from_numpy(numba_mlp.lane_logits(self.sizes, *arrays))

    def gradients(self, parameters: Tensor, inputs: Tensor, labels: Tensor, out: Tensor) -> None:
        """Write each lane's gradient to ``out``, ``(m, P)``."""
        arrays = parameters.numpy(), inputs.numpy(), labels.numpy()
        numba_mlp.lane_gradients(self.sizes, *arrays, out.numpy())


class LaneMlp:
    """A perceptron with one hidden layer, all lanes at a time.

    A library adds in another order where a matrix begins at another address or where there is only
    one. Matrices are therefore filled up with zeros, to columns that take a multiple of 64 bytes,
    and to two lanes at least.

    Args:
        sizes: Units of the inputs, the hidden layer and the outputs.
    """

    def __init__(self, sizes: tuple[int, int, int]) -> None:
        self.shapes = mlp_shapes(sizes)

    def logits(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """Return the logits ``(m, b, C)``."""
        return self._forward(*self._prepared(parameters, inputs))[1][: len(inputs), :, : self._c]

    def gradients(self, parameters: Tensor, inputs: Tensor, labels: Tensor, out: Tensor) -> None:
        """Write each lane's gradient to ``out``, ``(m, P)``."""
        m, b = labels.shape
        layers, x = self._prepared(parameters, inputs)
        hidden, scores = self._forward(layers, x)
        target = functional.one_hot(labels, self._c)
        wrong = (torch.softmax(scores[:m, :, : self._c], -1) - target) / b
        d_logits = _filled(wrong, len(x), b)
        d_hidden = torch.bmm(d_logits, layers[2].mT).mul_(hidden > 0)
        gradients = [
            torch.bmm(x.mT, d_hidden),
            d_hidden.sum(1, keepdim=True),
            torch.bmm(hidden.mT, d_logits),
            d_logits.sum(1, keepdim=True),
        ]
        shapes = [part for layer in self.shapes for part in (layer.weight, layer.bias)]
        parts = [
            gradient[:m, : shape[0], : shape[1]].flatten(1)
            for gradient, shape in zip(gradients, shapes, strict=True)
        ]
        torch.cat(parts, 1, out=out)

    @property
    def _c(self) -> int:
        return self.shapes[-1].weight[1]

    def _prepared(self, parameters: Tensor, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
        lanes = max(2, len(inputs))
        x = _filled(inputs, lanes, inputs.shape[1])
        weight1, bias1, weight2, bias2 = split_layers(parameters, self.shapes)
        bias1, bias2 = _filled(bias1, lanes, 1), _filled(bias2, lanes, 1)
        weight1 = _filled(weight1, lanes, x.shape[2])
        return [weight1, bias1, _filled(weight2, lanes, weight1.shape[2]), bias2], x

    def _forward(self, layers: list[Tensor], inputs: Tensor) -> tuple[Tensor, Tensor]:
        weight1, bias1, weight2, bias2 = layers
        hidden = torch.baddbmm(bias1, inputs, weight1).relu_()
        return hidden, torch.baddbmm(bias2, hidden, weight2)


class LaneCnn:
    """The convolutional network, lane by lane in compiled code, see ``numba_cnn``."""

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        self.image_shape, self.n_classes = image_shape, n_classes
        self.shapes = cnn_shapes(image_shape, n_classes)

    def logits(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """Return the logits ``(m, b, C)``."""
        arrays = parameters.numpy(), inputs.numpy()
        return torch.from_numpy(numba_cnn.logits(*arrays, self.image_shape, self.n_classes))

    def gradients(self, parameters: Tensor, inputs: Tensor, labels: Tensor, out: Tensor) -> None:
        """Write each lane's gradient to ``out``, ``(m, P)``."""
        arrays = parameters.numpy(), inputs.numpy(), labels.numpy()
        share = np.full(labels.shape, 1 / labels.shape[1], np.float32)
        numba_cnn.gradients(*arrays, share, self.image_shape, self.n_classes, out.numpy())
