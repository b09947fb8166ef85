"""Where the data sets come from that are registered here: a file of the package, IDX, CIFAR-10.

Each source is called without arguments and returns ``((train_x, train_y), (test_x, test_y))``.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_gym.data.errors import DataError
from edge_gym.data.files import NumpyUnpickler, fetch_missing, parse_idx, read_verified

Arrays = tuple[
    tuple[NDArray[np.uint8], NDArray[np.int64]], tuple[NDArray[np.uint8], NDArray[np.int64]]
]

# Set by tools/build_mnist_subset.py, which prints it.
SUBSET_SHA256 = "bacf83b7b7abdf1bed27e934cda5e0c9a64a53ec1b41c0206c8f61fa493d4b84"

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""Names of the files of MNIST and of the sets that imitate it."""


def mnist_subset() -> Arrays:
    """Read the balanced subset of MNIST that is part of the package: 10,000 and 2,000 images."""
    resource = importlib.resources.files("edge_gym.data") / "embedded" / "mnist_subset.npz"
    content = resource.read_bytes() if resource.is_file() else b""
    if hashlib.sha256(content).hexdigest() != SUBSET_SHA256:
        raise DataError(
            f"{resource}, a part of edge_gym, is {'damaged' if content else 'missing'}: "
            "install edge_gym again, or restore the file with git in a checkout"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return (
            (arrays["train_images"], arrays["train_labels"].astype(np.int64)),
            (arrays["test_images"], arrays["test_labels"].astype(np.int64)),
        )


@dataclass(frozen=True, eq=False)
class IdxFiles:
    """A data set in four IDX files, as MNIST is.

    Attributes:
        files: Paths below ``data_dir()`` -> MD5 of the uncompressed content, None if unknown;
            training images, training labels, test images, test labels.
        torchvision: Class of ``torchvision.datasets`` that downloads them; None if none does.
    """

    files: Mapping[str, str | None]
    torchvision: str | None = None

    def __call__(self) -> Arrays:
        """Read the files; those that are missing are downloaded."""
        folder = next(iter(self.files)).partition("/")[0]
        root = fetch_missing(folder, self.files, self.torchvision)
        train_x, train_y, test_x, test_y = (
            parse_idx(read_verified(root / file, md5)) for file, md5 in self.files.items()
        )
        return (train_x, train_y.astype(np.int64)), (test_x, test_y.astype(np.int64))


def idx_files(
    folder: str, md5: Sequence[str | None] = (None,) * 4, torchvision: str | None = None
) -> IdxFiles:
    """Return the source of a data set in IDX files with MNIST's names.

    Args:
        folder: Where they are below ``data_dir()``, for example ``"KMNIST/raw"``.
        md5: Of each file's uncompressed content, in the order of ``IDX_FILES``; None is not
            checked.
        torchvision: Class of ``torchvision.datasets`` that downloads them; None if none does.
    """
    names = [f"{folder}/{name}" for name in IDX_FILES]
    return IdxFiles(dict(zip(names, md5, strict=True)), torchvision)


# Of MNIST and Fashion-MNIST, torchvision itself states only the MD5 of the .gz files.
mnist = idx_files(
    "MNIST/raw",
    (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    "MNIST",
)
fashion_mnist = idx_files(
    "FashionMNIST/raw",
    (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
    "FashionMNIST",
)

CIFAR_10 = {
    "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
    "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
    "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
}
"""Files of CIFAR-10 below ``data_dir()`` -> MD5; the last one is the test set."""


def cifar_10() -> Arrays:
    """Read CIFAR-10's batches; those that are missing are downloaded."""
    root = fetch_missing("cifar-10", CIFAR_10, "CIFAR10")
    # A pickle can run code: nothing is unpickled before its checksum is known to be right.
    batches = [
        NumpyUnpickler(io.BytesIO(read_verified(root / file, md5)), encoding="latin1").load()
        for file, md5 in CIFAR_10.items()
    ]
    images = [np.moveaxis(batch["data"].reshape(-1, 3, 32, 32), 1, -1) for batch in batches]
    labels = [np.array(batch["labels"], np.int64) for batch in batches]
    train = np.concatenate(images[:-1]), np.concatenate(labels[:-1])
    return train, (images[-1], labels[-1])
