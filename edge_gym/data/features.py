"""Features: samples of a data set as the vectors that learners are trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_gym.data.datasets import Dataset, freeze, load_dataset
from edge_gym.data.errors import DataError, SampleError


@dataclass(frozen=True, eq=False)
class Features:
    """Samples as vectors x, centred and scaled so that E‖x‖² = 1; all arrays are made read-only.

    Unit mean energy is what makes a reception at effective SNR γ the vector x + n with
    n ~ N(0, I/γ). What ``load_features`` returns pickles as a reference to the data, not as a copy.

    Source: Wen et al. 2019, eq. (15), noise convention.

    Attributes:
        train: ``(n, d)``, float32, C-contiguous; of images d = channels·height·width.
        train_labels: ``(n,)``, 0 .. C-1 in the order of ``classes``.
        test: ``(t, d)``, float32, C-contiguous, with the mean and scale of the training set.
        test_labels: ``(t,)``, as ``train_labels``.
        image_shape: ``(channels, height, width)``; ``(1, 1, d)`` of what are no images.
        mean: ``(d,)``, float32: the mean training sample; of images, with pixels in [0, 1].
        scale: A sample as it was, an image with pixels in [0, 1], is ``features * scale + mean``.
        classes: The data set's class that each label stands for.
        are_images: Whether samples are images, not vectors of features.
        source: The arguments of the ``load_features`` call that made this, else None.
    """

    train: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test: NDArray[np.float32]
    test_labels: NDArray[np.int64]
    image_shape: tuple[int, int, int]
    mean: NDArray[np.float32]
    scale: float
    classes: tuple[int, ...]
    are_images: bool = True
    # Not an argument: a copy made by dataclasses.replace is no longer what load_features returns.
    source: tuple[str, tuple[int, ...], int | None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        freeze(self)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.source is not None:
            return load_features, self.source
        return type(self), tuple(getattr(self, item.name) for item in fields(self) if item.init)

    def image(self, x: ArrayLike) -> NDArray[np.float32]:
        """Turn samples into pictures: images as they were, features as a square of grey fields.

        A field is as bright as its feature is large: black and white are three standard
        deviations, of all features together, below and above the mean.

        Args:
            x: Features, possibly noisy, ``(..., d)``.

        Returns:
            Pixels clipped to [0, 1]: ``(..., height, width)``, or ``(..., height, width, 3)`` in
            colour. Of images with other than one or three channels, their mean is shown.
        """
        features = np.asarray(x, np.float32)
        if not self.are_images:
            return _fields(features)
        pixels = np.clip(features * np.float32(self.scale) + self.mean, 0, 1)
        images = pixels.reshape(*features.shape[:-1], *self.image_shape)
        if self.image_shape[0] == 3:
            return np.moveaxis(images, -3, -1)
        grey: NDArray[np.float32] = (
            images[..., 0, :, :] if self.image_shape[0] == 1 else images.mean(axis=-3)
        )
        return grey


def load_features(
    name: str, classes: Sequence[int] | None = None, image_size: int | None = None
) -> Features:
    """Load a data set as features with E‖x‖² = 1 over the training set; repeated calls are free.

    Args:
        name: One of ``DATASETS``.
        classes: The classes to keep, labelled in this order; None keeps all.
        image_size: Side of the images, area-averaged from the original; None keeps the original,
            and is the only choice for what are no square images.

    Raises:
        ValueError: If a class or size does not exist in this data set, or the name is unknown.
        DataError: If files are damaged, or missing and cannot be downloaded.

    Source: Wen et al. 2019, eq. (15), noise convention.
    """
    dataset = load_dataset(name)
    dataset = load_dataset(name)
    known = tuple(range(len(dataset.class_names)))
    chosen = known if classes is None else tuple(classes)
    if len(chosen) < 2 or len(set(chosen)) < len(chosen) or not set(chosen) <= set(known):
        raise ValueError(
            f"classes must be two or more different ones out of 0..{known[-1]} for {name}, "
            f"got {chosen}"
        )
    if image_size is not None:
        image_size = _checked_size(dataset, image_size)
    return _load_features(dataset, tuple(map(int, chosen)), image_size)


def _checked_size(dataset: Dataset, image_size: int) -> int | None:
    """Return a side that images can have; None for the original one."""
    if not dataset.are_images:
        raise ValueError(
            f"image_size must be None for {dataset.name}: its samples are vectors of features, "
            f"not images; got {image_size}"
        )
    height, width = dataset.train_images.shape[2:]
    if height != width:
        raise ValueError(
            f"image_size must be None for {dataset.name}, whose images of {height}×{width} pixels "
            f"are not square; got {image_size}"
        )
    sizes = [divisor for divisor in range(1, width + 1) if width % divisor == 0]
    if image_size not in sizes:
        raise ValueError(
            f"image_size must divide the side of the images of {dataset.name}, {width}: "
            f"one of {', '.join(map(str, sizes))}; got {image_size}"
        )
    return None if image_size == width else int(image_size)


@lru_cache(maxsize=8)
def _load_features(dataset: Dataset, classes: tuple[int, ...], size: int | None) -> Features:
    new_label = np.full(len(dataset.class_names), -1, np.int64)
    new_label[list(classes)] = np.arange(len(classes))

    def select(
        samples: NDArray[Any], labels: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        relabelled = new_label[labels]
        kept = relabelled >= 0
        if not dataset.are_images:
            return samples[kept].reshape(kept.sum(), -1).astype(np.float32), relabelled[kept]
        return area_averaged(samples[kept], size), relabelled[kept]

    train, train_labels = select(dataset.train_images, dataset.train_labels)
    test, test_labels = select(dataset.test_images, dataset.test_labels)
    for split, labels in (("training", train_labels), ("test", test_labels)):
        if not len(labels):
            raise SampleError(f"the {split} set of {dataset.name} has no sample of {classes}")
    mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    train -= mean
    test -= mean
    scale = math.sqrt(np.einsum("ij,ij->", train, train, dtype=np.float64) / len(train))
    if scale == 0:
        raise DataError(f"{dataset.name}: all training samples of {classes} are the same")
    train /= np.float32(scale)
    test /= np.float32(scale)
    shape = dataset.train_images.shape[1:]
    if size is not None:
        shape = shape[0], size, size
    features = Features(
        train,
        train_labels,
        test,
        test_labels,
        shape,
        mean,
        scale,
        classes,
        are_images=dataset.are_images,
    )
    object.__setattr__(features, "source", (dataset.name, classes, size))
    return features


def area_averaged(images: NDArray[np.uint8], size: int | None) -> NDArray[np.float32]:
    """Average ``(n, channels, side, side)`` over areas to ``(n, channels·size²)`` in [0, 1].

    None keeps the size, of images that need not be square then.
    """
    count, channels, height, width = images.shape
    factor = 1 if size is None else width // size
    total = np.zeros((count, channels, height // factor, width // factor), np.float32)
    for row in range(factor):
        for column in range(factor):
            total += images[..., row::factor, column::factor]
    total /= np.float32(255 * factor**2)
    return total.reshape(count, -1)


def _fields(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lay out features ``(..., d)`` as the smallest square that holds them, row by row."""
    d = features.shape[-1]
    side = math.isqrt(d - 1) + 1
    grey = np.full((*features.shape[:-1], side * side), 0.5, np.float32)
    # E‖x‖² = 1: a feature's standard deviation is 1/√d over all.
    grey[..., :d] += features * np.float32(math.sqrt(d) / 6)
    return grey.clip(0, 1).reshape(*features.shape[:-1], side, side)
