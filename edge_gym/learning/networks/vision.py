"""Torchvision's networks with a stem for small images."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from edge_gym.learning.networks.architecture import ImageShape, Network
from edge_gym.learning.networks.modules import ModuleNetwork

_LEAST_SIDE = 17  # Less leaves batch normalisation a single pixel in the end.


class TorchvisionNetwork(ModuleNetwork):
    """One of torchvision's networks with a stem for small images.

    The first convolution is 3×3 with stride 1 and no pooling follows it, as is usual for CIFAR-10;
    DenseNet-121 keeps its growth rate of 32, and nothing is dropped out, so that what is learned
    depends on the mini-batches alone. Weights start as torchvision draws them.

    Jobs go one after another, each with the samples that it has and no padding, because batch
    normalisation would see the padding.
    """

    jobs_at_once = 1

    def __init__(self, name: str, image_shape: ImageShape, n_classes: int) -> None:
        if min(image_shape[1:]) < _LEAST_SIDE:
            raise ValueError(
                f"{name} needs images with sides of at least {_LEAST_SIDE}, "
                f"got image_shape {image_shape}"
            )
        super().__init__(name, self._build, image_shape, n_classes)

    def __reduce__(self) -> tuple[Any, ...]:
        """Be made anew: modules are not pickled."""
        return type(self), (self.name, self.image_shape, self.n_classes)

    def _prototyped(self) -> torch.nn.Module:
        """Return the module without weights, for calls put theirs into it."""
        with torch.device("meta"):
            return self._build(self.image_shape, self.n_classes)

    def _check_outputs(self) -> None:
        """Do nothing: these networks are known."""

    def _build(self, image_shape: ImageShape, n_classes: int) -> torch.nn.Module:
        # By name, so that the rest of the package works without a torchvision that loads.
        models = importlib.import_module("torchvision.models")
        model: Any
        stem: dict[str, Any] = {"kernel_size": 3, "padding": 1, "bias": False}
        kaiming = torch.nn.init.kaiming_normal_
        if self.name == "resnet-18":
            model = models.resnet18(num_classes=n_classes)
            model.conv1 = torch.nn.Conv2d(image_shape[0], 64, **stem)
            kaiming(model.conv1.weight, mode="fan_out", nonlinearity="relu")
            model.maxpool = torch.nn.Identity()
        elif self.name == "mobilenet-v2":
            model = models.mobilenet_v2(num_classes=n_classes, dropout=0.0)
            model.features[0][0] = torch.nn.Conv2d(image_shape[0], 32, **stem)
            kaiming(model.features[0][0].weight, mode="fan_out")
        else:
            model = models.densenet121(num_classes=n_classes)
            model.features.conv0 = torch.nn.Conv2d(image_shape[0], 64, **stem)
            kaiming(model.features.conv0.weight)
            model.features.pool0 = torch.nn.Identity()
        built: torch.nn.Module = model
        return built


def resnet_18(image_shape: ImageShape, n_classes: int) -> Network:
    """Make ResNet-18."""
    return TorchvisionNetwork("resnet-18", image_shape, n_classes)


def mobilenet_v2(image_shape: ImageShape, n_classes: int) -> Network:
    """Make MobileNetV2."""
    return TorchvisionNetwork("mobilenet-v2", image_shape, n_classes)


def densenet_121(image_shape: ImageShape, n_classes: int) -> Network:
    """Make DenseNet-121."""
    return TorchvisionNetwork("densenet-121", image_shape, n_classes)
