"""Image data sets, and the features that learners are trained on.

``mnist-subset`` is part of the package and works offline. The others are read from ``data_dir()``,
in torchvision's folder layout, and downloaded through torchvision where files are missing.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import importlib.metadata
import importlib.resources
import io
import math
import os
import pickle
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import platformdirs
from numpy.typing import ArrayLike, NDArray

from edge_gym.runtime.files import scratch_folder
from edge_gym.runtime.messages import shown

DATASETS = ("mnist-subset", "mnist", "fashion-mnist", "cifar-10")

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

# Set by tools/build_mnist_subset.py, which prints it.
_SUBSET_SHA256 = "bacf83b7b7abdf1bed27e934cda5e0c9a64a53ec1b41c0206c8f61fa493d4b84"

# Path in torchvision's layout -> MD5 of the uncompressed file, in the order that readers expect.
# Of MNIST and Fashion-MNIST, torchvision itself states only the MD5 of the .gz files.
FILES = {
    "mnist": {
        "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "fashion-mnist": {
        "FashionMNIST/raw/train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "FashionMNIST/raw/train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "FashionMNIST/raw/t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "FashionMNIST/raw/t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
    "cifar-10": {
        "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
        "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
        "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
        "cifar-10-batches-py/batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
}
_LONGEST_FILE = 2**26  # Bytes; MNIST's largest has 47 million.
_MOST_AXES = 8
_TORCHVISION_CLASSES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar-10": "CIFAR10"}


class DataError(RuntimeError):
    """Data are missing, damaged or cannot be fetched; the message says what to do."""


class SampleError(DataError, ValueError):
    """There are fewer samples than a split or partition asks for."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels, training and test apart; all arrays are made read-only.

    Attributes:
        name: One of ``DATASETS``.
        train_images: ``(n, channels, height, width)``, 0 to 255.
        train_labels: ``(n,)``, indices into ``class_names``.
        test_images: ``(t, channels, height, width)``, 0 to 255.
        test_labels: ``(t,)``.
        class_names: One name per class.
    """

    name: str
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        _freeze(self)


@dataclass(frozen=True, eq=False)
class Features:
    """Images as vectors x, centred and scaled so that E‖x‖² = 1; all arrays are made read-only.

    Unit mean energy is what makes a reception at effective SNR γ the vector x + n with
    n ~ N(0, I/γ). What ``load_features`` returns pickles as a reference to the data, not as a copy.

    Source: RRM eq. (15), noise convention.

    Attributes:
        train: ``(n, d)``, float32, C-contiguous; d = channels·height·width.
        train_labels: ``(n,)``, 0 .. C-1 in the order of ``classes``.
        test: ``(t, d)``, float32, C-contiguous, with the mean and scale of the training set.
        test_labels: ``(t,)``, as ``train_labels``.
        image_shape: ``(channels, height, width)``.
        mean: ``(d,)``, float32: the mean training image, pixels in [0, 1].
        scale: An image with pixels in [0, 1] is ``features * scale + mean``.
        classes: The data set's class that each label stands for.
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
    # Not an argument: a copy made by dataclasses.replace is no longer what load_features returns.
    source: tuple[str, tuple[int, ...], int] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        _freeze(self)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.source is not None:
            return load_features, self.source
        return type(self), tuple(getattr(self, item.name) for item in fields(self) if item.init)

    def image(self, x: ArrayLike) -> NDArray[np.float32]:
        """Turn features back into pictures.

        Args:
            x: Features, possibly noisy, ``(..., d)``.

        Returns:
            Pixels clipped to [0, 1]: ``(..., height, width)``, or ``(..., height, width, 3)`` in
            colour.
        """
        features = np.asarray(x, np.float32)
        pixels = np.clip(features * np.float32(self.scale) + self.mean, 0, 1)
        images = pixels.reshape(*features.shape[:-1], *self.image_shape)
        return images[..., 0, :, :] if self.image_shape[0] == 1 else np.moveaxis(images, -3, -1)


def data_dir() -> Path:
    """Return the folder of the full data sets: ``EDGE_GYM_DATA``, else one in the user's cache.

    Raises:
        DataError: If that is in a home folder and there is none.
    """
    given = os.environ.get("EDGE_GYM_DATA")
    try:
        folder = Path(given or Path(platformdirs.user_cache_dir("edge_gym")) / "data").expanduser()
        if not given and not folder.is_absolute():
            raise RuntimeError("the cache's folder is of no home")
    except RuntimeError as error:
        where = f"EDGE_GYM_DATA is {shown(given)}, and there" if given else "There"
        raise DataError(
            f"{where} is no such home folder: set EDGE_GYM_DATA to the folder of the data sets"
        ) from error
    return folder


def load_dataset(name: str) -> Dataset:
    """Load a data set; the first call reads, checks and if need be downloads it, later ones do not.

    Args:
        name: One of ``DATASETS``.

    Raises:
        ValueError: If the name is unknown.
        DataError: If files are damaged, or missing and cannot be downloaded.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {shown(name)}; known are {', '.join(DATASETS)}")
    return _load_dataset(name)


def load_features(
    name: str, classes: Sequence[int] | None = None, image_size: int | None = None
) -> Features:
    """Load a data set as features with E‖x‖² = 1 over the training set; repeated calls are free.

    Args:
        name: One of ``DATASETS``.
        classes: The classes to keep, labelled in this order; None keeps all.
        image_size: Side of the images, area-averaged from the original; None keeps the original.

    Raises:
        ValueError: If a class or size does not exist in this data set, or the name is unknown.
        DataError: If files are damaged, or missing and cannot be downloaded.

    Source: RRM eq. (15), noise convention.
    """
    dataset = load_dataset(name)
    known = tuple(range(len(dataset.class_names)))
    chosen = known if classes is None else tuple(classes)
    if len(chosen) < 2 or len(set(chosen)) < len(chosen) or not set(chosen) <= set(known):
        raise ValueError(
            f"classes must be two or more different ones out of 0..{known[-1]} for {name}, "
            f"got {chosen}"
        )
    side = dataset.train_images.shape[-1]
    size = side if image_size is None else image_size
    sizes = [divisor for divisor in range(1, side + 1) if side % divisor == 0]
    if size not in sizes:
        raise ValueError(
            f"image_size must divide the side of the images of {name}, {side}: "
            f"one of {', '.join(map(str, sizes))}; got {size}"
        )
    return _load_features(name, tuple(map(int, chosen)), int(size))


@lru_cache(maxsize=8)
def _load_features(name: str, classes: tuple[int, ...], size: int) -> Features:
    dataset = load_dataset(name)
    new_label = np.full(len(dataset.class_names), -1, np.int64)
    new_label[list(classes)] = np.arange(len(classes))

    def select(
        images: NDArray[np.uint8], labels: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        relabelled = new_label[labels]
        kept = relabelled >= 0
        return _pixels(images[kept], size), relabelled[kept]

    train, train_labels = select(dataset.train_images, dataset.train_labels)
    test, test_labels = select(dataset.test_images, dataset.test_labels)
    mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    train -= mean
    test -= mean
    scale = math.sqrt(np.einsum("ij,ij->", train, train, dtype=np.float64) / len(train))
    train /= np.float32(scale)
    test /= np.float32(scale)
    shape = (dataset.train_images.shape[1], size, size)
    features = Features(train, train_labels, test, test_labels, shape, mean, scale, classes)
    object.__setattr__(features, "source", (name, classes, size))
    return features


def _pixels(images: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """Average ``(n, channels, side, side)`` over areas to ``(n, channels·size²)`` in [0, 1]."""
    count, channels, side, _ = images.shape
    factor = side // size
    total = np.zeros((count, channels, size, size), np.float32)
    for row in range(factor):
        for column in range(factor):
            total += images[..., row::factor, column::factor]
    total /= np.float32(255 * factor**2)
    return total.reshape(count, -1)


@lru_cache
def _load_dataset(name: str) -> Dataset:
    if name == "mnist-subset":
        return _read_subset()
    root = data_dir()
    missing = [file for file in FILES[name] if not _stored(root / file).exists()]
    if missing:
        _download(name, root, missing)
    return _read_cifar(root) if name == "cifar-10" else _read_idx(name, root)


def _read_subset() -> Dataset:
    resource = importlib.resources.files("edge_gym.data") / "embedded" / "mnist_subset.npz"
    content = resource.read_bytes() if resource.is_file() else b""
    if hashlib.sha256(content).hexdigest() != _SUBSET_SHA256:
        raise DataError(
            f"{resource}, a part of edge_gym, is {'damaged' if content else 'missing'}: "
            "install edge_gym again, or restore the file with git in a checkout"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return Dataset(
            "mnist-subset",
            arrays["train_images"][:, None],
            arrays["train_labels"].astype(np.int64),
            arrays["test_images"][:, None],
            arrays["test_labels"].astype(np.int64),
            _DIGITS,
        )


def _read_idx(name: str, root: Path) -> Dataset:
    arrays = [parse_idx(read_verified(root / file, md5)) for file, md5 in FILES[name].items()]
    train_images, train_labels, test_images, test_labels = arrays
    return Dataset(
        name,
        train_images[:, None],
        train_labels.astype(np.int64),
        test_images[:, None],
        test_labels.astype(np.int64),
        _DIGITS if name == "mnist" else _GARMENTS,
    )


def _read_cifar(root: Path) -> Dataset:
    # A pickle can run code: nothing is unpickled before its checksum is known to be right.
    *batches, meta = [
        _NumpyUnpickler(io.BytesIO(read_verified(root / file, md5)), encoding="latin1").load()
        for file, md5 in FILES["cifar-10"].items()
    ]
    images = [batch["data"].reshape(-1, 3, 32, 32) for batch in batches]
    labels = [np.array(batch["labels"], np.int64) for batch in batches]
    return Dataset(
        "cifar-10",
        np.concatenate(images[:-1]),
        np.concatenate(labels[:-1]),
        images[-1],
        labels[-1],
        tuple(meta["label_names"]),
    )


class _NumpyUnpickler(pickle.Unpickler):
    """Unpickles arrays and plain containers, and nothing else."""

    _ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        # Asked of an array, because the module that holds it has moved in NumPy 2.
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a data file")
        return self._ALLOWED[module, name]


def parse_idx(content: bytes) -> NDArray[np.uint8]:
    """Parse an IDX file of bytes, the format of MNIST and Fashion-MNIST.

    Returns:
        A read-only array over ``content``, of the shape that its header states.

    Raises:
        ValueError: If the header is not one of unsigned bytes, or the length does not fit.
    """
    if content[:3] != b"\x00\x00\x08" or len(content) < 4:
        raise ValueError(f"not an IDX file of unsigned bytes: it starts with {content[:4]!r}")
    rank = content[3]
    start = 4 + 4 * rank
    if rank > _MOST_AXES or len(content) < start:
        raise ValueError(f"not an IDX file: its header tells of {rank} axes")
    shape = struct.unpack(f">{rank}I", content[4:start])
    # In integers without end: what a header claims is never allocated.
    if math.prod(shape) != len(content) - start:
        raise ValueError(
            f"not an IDX file: {len(content) - start} bytes follow a header of shape {shape}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _stored(path: Path) -> Path:
    """Return ``path``, or its compressed form where only that exists."""
    compressed = path.with_name(f"{path.name}.gz")
    return compressed if compressed.exists() and not path.exists() else path


def read_verified(path: Path, md5: str) -> bytes:
    """Return the uncompressed content of ``path``, or of ``path.gz`` where only that exists.

    Raises:
        DataError: If the file cannot be read, or its uncompressed content has another MD5.
    """
    stored = _stored(path)
    opened: Any = gzip.open if stored.suffix == ".gz" else open
    try:
        # A small file can be compressed gigabytes.
        with opened(stored, "rb") as file:
            content: bytes = file.read(_LONGEST_FILE + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(stored, f"it cannot be decompressed ({error})") from error
    except OSError as error:
        raise DataError(f"{stored} cannot be read ({error}): check its permissions") from error
    if len(content) > _LONGEST_FILE:
        raise _damaged(stored, f"it holds more than {_LONGEST_FILE:,} bytes")
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise _damaged(stored, f"its {len(content)} bytes have MD5 {found}, not {md5}")
    return content


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path} is truncated or altered: {reason}. Delete it and run again: it is then downloaded"
    )


def _download(name: str, root: Path, missing: list[str]) -> None:
    datasets = _torchvision_datasets(name, root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Elsewhere first: other processes never see, nor an interruption leaves, half a file.
        with scratch_folder(root, "download") as scratch:
            getattr(datasets, _TORCHVISION_CLASSES[name])(scratch, download=True)
            for file in missing:
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                os.replace(scratch / file, root / file)
    # torchvision lets through whatever the network, the archive or the disk raised.
    except Exception as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{name} is not complete in {root} (missing: {', '.join(missing)}) and could not be "
            f"downloaded ({cause}). Connect to the network and run again, or copy these files "
            "into that folder, or set EDGE_GYM_DATA to a folder that has them; the data set "
            '"mnist-subset" works offline'
        ) from error


def _torchvision_datasets(name: str, root: Path) -> Any:
    try:
        return importlib.import_module("torchvision.datasets")
    # A torchvision built for another torch fails with any of these, depending on the mismatch.
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise DataError(
            f"{name} is not in {root}, and torchvision, which would download it, cannot be "
            f"imported ({error}): torch {_version('torch')} and torchvision "
            f"{_version('torchvision')} do not match. Install both anew from one "
            "source: pip install --force-reinstall torch torchvision. Or, without torchvision, set "
            'EDGE_GYM_DATA to a folder that has the data, or use the data set "mnist-subset"'
        ) from error


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _freeze(holder: Dataset | Features) -> None:
    for value in vars(holder).values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
