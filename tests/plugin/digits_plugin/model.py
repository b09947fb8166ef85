"""A torch module as the model of federated problems."""

from __future__ import annotations

from torch import nn


def make(image_shape, n_classes):
    """Return a small convolutional network for images of this shape."""
    channels, height, width = image_shape
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * (height // 2) * (width // 2), n_classes),
    )
