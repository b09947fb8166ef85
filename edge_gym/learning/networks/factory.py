"""Networks made by name: ours, those that users register, and torch modules of theirs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from edge_gym.learning.networks.architecture import NETWORKS, ImageShape, Network
from edge_gym.learning.networks.modules import ModuleNetwork
from edge_gym.runtime.messages import shown


def make_network(
    name: str,
    image_shape: ImageShape,
    n_classes: int,
    *,
    hidden_sizes: Sequence[int] = (64,),
) -> Network:
    """Make the network of this name.

    Args:
        name: One of ``NETWORKS``. ``"mlp"``: dense layers with rectifiers. ``"cnn"``: see
            ``cnn_shapes``. ``"lenet"``: LeNet-5 with rectifiers and maximum pooling: conv 5×5 (6),
            pool 2, conv 5×5 without padding (16), pool 2, dense 120, 84. ``"resnet-18"``,
            ``"mobilenet-v2"`` and ``"densenet-121"`` are torchvision's, see ``vision.py``.
        image_shape: Channels, height and width of a sample.
        n_classes: Number of classes, C ≥ 2.
        hidden_sizes: Units of each hidden layer, for networks whose factory takes them; none
            gives a linear classifier.

    Raises:
        ValueError: If the name is unknown, an argument is out of range, or a module cannot be
            trained.
    """
    factory = NETWORKS.find(name)
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"image_shape must be (channels, height, width), got {image_shape}")
    if n_classes < 2:
        raise ValueError(f"n_classes must be at least 2, got {n_classes}")
    if not _makes_network(factory):
        return ModuleNetwork(name, factory, image_shape, n_classes)
    options: dict[str, Any] = {}
    if "hidden_sizes" in inspect.signature(factory).parameters:
        options["hidden_sizes"] = hidden_sizes
    made = factory(image_shape, n_classes, **options)
    if not isinstance(made, Network):
        raise ValueError(f"network {name!r}: its factory made {shown(made)}, which is no Network")
    return made


def _makes_network(factory: Any) -> bool:
    """Return whether a factory says that it returns a ``Network`` rather than a module."""
    if isinstance(factory, type):
        return issubclass(factory, Network)
    found = getattr(factory, "__annotations__", {}).get("return")
    return found is Network or found == "Network"
