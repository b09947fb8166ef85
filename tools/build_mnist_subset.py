"""Build the MNIST subset that edge_gym embeds, from the official IDX files.

    python tools/build_mnist_subset.py IDX_DIR

IDX_DIR is torchvision's ``MNIST/raw``. 10,000 of the official training images and 2,000 of the
official test images are drawn with a fixed seed, each class in proportion to its size. Run it with
edge_gym importable, and put the checksum that it prints into ``edge_gym/data/sources.py``.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_gym.data.files import parse_idx, read_verified
from edge_gym.data.sources import mnist

SEED = 20_250_101
SIZES = {"train": 10_000, "t10k": 2_000}
NAMES = {"train": "train", "t10k": "test"}
TARGET = Path(__file__).resolve().parent.parent / "edge_gym/data/embedded/mnist_subset.npz"

MD5 = {Path(file).name: md5 for file, md5 in mnist.files.items()}


def read(folder: Path, file: str) -> NDArray[np.uint8]:
    return parse_idx(read_verified(folder / file, MD5[file]))


def proportional(counts: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Share out ``size`` in proportion to ``counts``, by largest remainders."""
    quota, remainder = np.divmod(counts * size, counts.sum())
    quota[np.argsort(-remainder, kind="stable")[: size - quota.sum()]] += 1
    return quota


def draw(rng: np.random.Generator, labels: NDArray[np.uint8], size: int) -> NDArray[np.int64]:
    quotas = proportional(np.bincount(labels), size)
    rows = [
        rng.permutation(np.flatnonzero(labels == label))[:quota]
        for label, quota in enumerate(quotas)
    ]
    return np.sort(np.concatenate(rows))


def build(folder: Path) -> bytes:
    rng = np.random.default_rng(SEED)
    arrays = {}
    for split, size in SIZES.items():
        images = read(folder, f"{split}-images-idx3-ubyte")
        labels = read(folder, f"{split}-labels-idx1-ubyte")
        rows = draw(rng, labels, size)
        arrays[f"{NAMES[split]}_images"] = images[rows]
        arrays[f"{NAMES[split]}_labels"] = labels[rows]
        arrays[f"{NAMES[split]}_rows"] = rows.astype(np.int32)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            # np.savez leaves compression level and system to its versions; these are fixed.
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.create_system = 3
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            archive.writestr(entry, member.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)
    return buffer.getvalue()


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    content = build(Path(sys.argv[1]))
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_bytes(content)
    print(f"{TARGET}: {len(content):,} bytes")
    print(f'_SUBSET_SHA256 = "{hashlib.sha256(content).hexdigest()}"')


if __name__ == "__main__":
    main()
