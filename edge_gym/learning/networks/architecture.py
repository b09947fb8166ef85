"""Architectures: layers, their shapes and initial values, and what federated learners ask of one.

One multilayer perceptron and one convolutional network are defined here. Each has a form in torch
(``torch_backend.py``) and one in compiled code (``numba_mlp.py``, ``numba_cnn.py``), whose flat
parameter vectors have the same order. They share layers, shapes and initialisation but not the
order in which products are added up, so that a form's results differ from the other's by rounding.
Centralized and federated learners use the same form, the one that is faster: the compiled one of
small perceptrons (``numba_mlp.suits``) and of the convolutional network, torch's of large
perceptrons, in double precision and on CUDA.

A network of your own is a torch module, see ``register_network``.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edge_gym.registry import Registry
from edge_gym.typing import Float64Array

if TYPE_CHECKING:
    from torch import Tensor

STATISTICS_BITS = 32
"""Bits of one batch-normalisation statistic, which is never compressed."""

CHANNELS = (8, 16)
"""Of the convolutional network's two convolutions; multiples of four."""

ImageShape = tuple[int, int, int]


class LayerShape(NamedTuple):
    """Parameters of one layer.

    Attributes:
        weight: Shape of the weight: ``(inputs, outputs)`` of a dense layer, ``(outputs, inputs,
            height, width)`` of a convolution.
        bias: Shape of the bias.
        fan_in: Inputs of one unit.
    """

    weight: tuple[int, ...]
    bias: tuple[int, ...]
    fan_in: int


def dense_shape(n_inputs: int, n_outputs: int) -> LayerShape:
    """Return the shapes of a dense layer."""
    return LayerShape((n_inputs, n_outputs), (1, n_outputs), n_inputs)


def convolution_shape(n_inputs: int, n_outputs: int, kernel: int) -> LayerShape:
    """Return the shapes of a convolution with a square kernel."""
    return LayerShape((n_outputs, n_inputs, kernel, kernel), (n_outputs,), n_inputs * kernel**2)


def mlp_shapes(sizes: Sequence[int]) -> list[LayerShape]:
    """Return the layers of the perceptron with so many inputs, hidden units and outputs."""
    return [dense_shape(a, b) for a, b in itertools.pairwise(sizes)]


def cnn_shapes(image_shape: ImageShape, n_classes: int) -> list[LayerShape]:
    """Return the layers of the convolutional network.

    Two 3×3 convolutions of 8 and 16 channels, padded, each pooled by 2 and rectified, and a dense
    layer.
    """
    channels, height, width = image_shape
    first, second = CHANNELS
    return [
        convolution_shape(channels, first, 3),
        convolution_shape(first, second, 3),
        dense_shape(second * (height // 4) * (width // 4), n_classes),
    ]


def n_parameters_of(layers: Sequence[LayerShape]) -> int:
    """Return the number of parameters of layers, P."""
    return sum(math.prod(layer.weight) + math.prod(layer.bias) for layer in layers)


def draw_parameters(rng: np.random.Generator, layers: Sequence[LayerShape]) -> Float64Array:
    """Draw parameters uniform in ±1/√fan-in, as PyTorch does, with P uniforms of ``rng``.

    Returns:
        ``(P,)``: each layer's weight, then its bias.
    """
    sizes = [math.prod(layer.weight) + math.prod(layer.bias) for layer in layers]
    fan_in = np.repeat([layer.fan_in for layer in layers], sizes)
    return np.asarray(rng.uniform(-1, 1, len(fan_in)) / np.sqrt(fan_in))


class Network(ABC):
    """An architecture; the weights themselves are vectors that the caller keeps.

    A vector of S = ``n_values`` numbers holds the P = ``n_parameters`` trainable parameters and
    after them the ``n_statistics`` running means and variances of batch normalisation, if any.

    FLOPs count the products of dense layers and convolutions, two FLOPs for one multiplication
    and addition; biases, rectifiers, pooling and normalisation are left out, as
    ``torch.utils.flop_counter`` does. A backward pass counts twice the forward one (a product
    for the weights and one for the inputs; the first layer's inputs need none, which is ignored).

    Attributes:
        name: The name that it is registered under, see ``NETWORKS``.
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

        Source: Ren et al. 2021, s = b·p.
        """
        return bits * self.n_parameters + STATISTICS_BITS * self.n_statistics

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Float64Array:
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


NetworkFactory = Callable[..., Any]
"""``factory(image_shape, n_classes)``, which returns a ``torch.nn.Module`` or a ``Network``."""

NETWORKS: Registry[Any] = Registry("network")
"""Networks that federated learning trains, by name: factories, or torch modules themselves."""


def register_network(name: str, factory: Any) -> None:
    """Register a federated model under a name, by which every federated problem takes it.

    Args:
        name: What the field ``network`` of a configuration is set to.
        factory: A function or class that is called as ``factory(image_shape, n_classes)`` and
            returns a ``torch.nn.Module``; a ``torch.nn.Module`` for one shape of samples; or where
            either is, ``"module:attribute"``. ``image_shape`` is ``(channels, height, width)``,
            ``(1, 1, d)`` for features. The module turns samples ``(b, channels, height, width)``
            of unit variance into logits ``(b, n_classes)``.

    What a module must satisfy, and how it is trained, stands in ``modules.ModuleNetwork``.

    Raises:
        ValueError: If the name is taken or malformed.
    """
    NETWORKS.register(name, factory)


NETWORKS.register("mlp", "edge_gym.learning.networks.torch_backend:make_mlp")
NETWORKS.register("cnn", "edge_gym.learning.networks.torch_backend:make_cnn")
NETWORKS.register("lenet", "edge_gym.learning.networks.torch_backend:make_lenet")
NETWORKS.register("resnet-18", "edge_gym.learning.networks.vision:resnet_18")
NETWORKS.register("mobilenet-v2", "edge_gym.learning.networks.vision:mobilenet_v2")
NETWORKS.register("densenet-121", "edge_gym.learning.networks.vision:densenet_121")
