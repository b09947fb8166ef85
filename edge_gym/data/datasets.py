"""Data sets by name: those that are registered here, and those that users bring.

``mnist-subset`` is part of the package and works offline. ``mnist``, ``fashion-mnist`` and
``cifar-10`` are read from ``data_dir()``, in torchvision's folder layout, and downloaded through
torchvision where files are missing. Arrays of your own are one call away::

    edge_gym.register_dataset("mine", ((train_x, train_y), (test_x, test_y)))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.data.errors import DataError
from edge_gym.registry import Registry, load, same_item
from edge_gym.runtime.messages import shown

_DIGITS = tuple("0123456789")
_GARMENTS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_THINGS = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_MOST_CLASSES = 10_000
_WANTED = "((train_x, train_y), (test_x, test_y))"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples and labels, training and test apart; all arrays are made read-only.

    Attributes:
        name: The name that it is registered under.
        train_images: Images ``(n, channels, height, width)``, uint8, 0 to 255; or features
            ``(n, 1, 1, d)``, float32.
        train_labels: ``(n,)``, indices into ``class_names``.
        test_images: As ``train_images``, ``(t, ...)``.
        test_labels: ``(t,)``.
        class_names: One name per class.
    """

    name: str
    train_images: NDArray[Any]
    train_labels: NDArray[np.int64]
    test_images: NDArray[Any]
    test_labels: NDArray[np.int64]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        freeze(self)

    @property
    def are_images(self) -> bool:
        """Whether samples are images, not vectors of features."""
        return bool(self.train_images.dtype == np.uint8)


@dataclass(frozen=True, eq=False)
class DatasetSource:
    """What is registered: where arrays come from, and what their classes are called.

    Attributes:
        source: Two pairs of arrays, a function that returns them, or where either is,
            ``"module:attribute"``.
        class_names: One name per class; None takes the labels themselves.
    """

    source: Any
    class_names: tuple[str, ...] | None = None

    def read(self, name: str) -> Dataset:
        """Read and check the data.

        Raises:
            DataError: If they are missing, damaged or not of the form that is asked for.
        """
        source = load(self.source) if isinstance(self.source, str) else self.source
        found = source() if callable(source) else source
        return _checked(name, found, self.class_names, copy=not callable(source))


DATASETS: Registry[DatasetSource] = Registry("data set")
"""Data sets by name."""


def register_dataset(
    name: str,
    source: tuple[Any, Any] | Callable[[], Any] | str,
    class_names: Sequence[str] | None = None,
) -> None:
    """Register a data set under a name, by which every problem takes it.

    Args:
        name: What the field ``dataset`` of a configuration is set to.
        source: ``((train_x, train_y), (test_x, test_y))``, a function that returns them, or where
            either is, ``"module:attribute"``. Images are uint8, ``(n, height, width)`` or
            ``(n, height, width, channels)``; features are numbers, ``(n, d)``. Labels are the
            integers 0 .. C - 1, ``(n,)``. They are read once, when they are first needed.
        class_names: One name per class; None takes the labels themselves.

    Features are centred and scaled together, so that E‖x‖² = 1; bring those of different units to
    a like spread before.

    Raises:
        ValueError: If the name is taken or malformed.
        DataError: If arrays are given, not a function, and are not of this form.
    """
    names = None if class_names is None else tuple(map(str, class_names))
    if isinstance(source, str):
        if source.count(":") != 1:
            raise ValueError(f"data set {name!r}: expected 'module:attribute', got {source!r}")
    elif not callable(source):
        _checked(name, source, names, copy=False)
    if name in DATASETS and same_item(DATASETS.find(name).source, source):
        # The module that registers it was imported anew.
        DATASETS.unregister(name)
    DATASETS.register(name, DatasetSource(source, names))


def load_dataset(name: str) -> Dataset:
    """Load a data set; the first call reads, checks and if need be downloads it, later ones do not.

    Args:
        name: One of ``DATASETS``.

    Raises:
        ValueError: If the name is unknown.
        DataError: If files are damaged, or missing and cannot be downloaded, or arrays are not of
            the form that ``register_dataset`` asks for.
    """
    return _load_dataset(name, DATASETS.find(name))


@lru_cache
def _load_dataset(name: str, source: DatasetSource) -> Dataset:
    return source.read(name)


def freeze(holder: Any) -> None:
    """Make all arrays of a dataclass read-only."""
    for value in vars(holder).values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)


def _checked(name: str, found: Any, class_names: tuple[str, ...] | None, *, copy: bool) -> Dataset:
    """Return two pairs of arrays as a data set, of arrays of its own if they shall be copied."""
    try:
        (train_x, train_y), (test_x, test_y) = found
    except (TypeError, ValueError):
        raise DataError(f"data set {name!r}: expected {_WANTED}, got {shown(found)}") from None
    train = _samples(name, "train_x", train_x, copy)
    test = _samples(name, "test_x", test_x, copy)
    if train.dtype != test.dtype or train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"data set {name!r}: samples of train_x and test_x must be alike, got "
            f"{train.dtype} of shape {train.shape[1:]} and {test.dtype} of {test.shape[1:]} "
            "(channels, height, width)"
        )
    labels = [
        _labels(name, part, y, len(x))
        for part, y, x in (("train_y", train_y, train), ("test_y", test_y, test))
    ]
    n_classes = int(labels[0].max()) + 1
    if class_names is None:
        class_names = tuple(map(str, range(max(2, n_classes))))
    for part, y in zip(("train_y", "test_y"), labels, strict=True):
        if y.max() >= len(class_names):
            raise DataError(
                f"data set {name!r}: labels of {part} must be below the number of classes, "
                f"{len(class_names)}, got {y.max()}"
            )
    if absent := [i for i in range(len(class_names)) if i not in set(labels[0].tolist())]:
        raise DataError(
            f"data set {name!r}: train_y has no sample of label {absent[0]}, "
            f"{class_names[absent[0]]!r}; labels must be 0 .. C - 1, each with samples"
        )
    return Dataset(name, train, labels[0], test, labels[1], class_names)


def _samples(name: str, part: str, x: Any, copy: bool) -> NDArray[Any]:
    """Return images as ``(n, c, h, w)`` uint8 or features as ``(n, 1, 1, d)`` float32."""
    array = np.asarray(x)
    about = f"data set {name!r}: {part}"
    if array.dtype.kind not in "fiub":
        raise DataError(f"{about} must hold numbers, got {shown(x)} of type {array.dtype}")
    if array.ndim not in (2, 3, 4) or not array.size:
        raise DataError(
            f"{about} must be images (n, height, width) or (n, height, width, channels), or "
            f"features (n, d), with at least one sample; got shape {array.shape}"
        )
    if array.ndim == 2:
        with np.errstate(over="ignore"):
            features = array.astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(bad):
            raise DataError(f"{about} must be finite in float32; row {bad[0]} is not")
        return features[:, None, None]
    if array.dtype != np.uint8:
        raise DataError(
            f"{about} must be uint8, 0 to 255, if it holds images, got {array.dtype} of shape "
            f"{array.shape}: scale and convert the pixels, or flatten them to features (n, d)"
        )
    images = array[:, None] if array.ndim == 3 else np.moveaxis(array, -1, 1)
    return np.array(images, order="C") if copy else np.ascontiguousarray(images).view()


def _labels(name: str, part: str, y: Any, n: int) -> NDArray[np.int64]:
    array = np.asarray(y)
    about = f"data set {name!r}: {part}"
    if array.shape != (n,):
        raise DataError(f"{about} must have shape ({n},), one label a sample, got {array.shape}")
    if array.dtype.kind not in "iu":
        raise DataError(f"{about} must hold integers, got {array.dtype}")
    if array.min() < 0 or array.max() >= _MOST_CLASSES:
        wrong = array[(array < 0) | (array >= _MOST_CLASSES)][0]
        raise DataError(f"{about} must hold labels 0 .. C - 1, C ≤ {_MOST_CLASSES:,}, got {wrong}")
    return array.astype(np.int64)


register_dataset("mnist-subset", "edge_gym.data.sources:mnist_subset", _DIGITS)
register_dataset("mnist", "edge_gym.data.sources:mnist", _DIGITS)
register_dataset("fashion-mnist", "edge_gym.data.sources:fashion_mnist", _GARMENTS)
register_dataset("cifar-10", "edge_gym.data.sources:cifar_10", _THINGS)
