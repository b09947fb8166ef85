"""edge_gym.data: the data are the real ones, errors help, splits and partitions cover."""

from __future__ import annotations

import copy
import dataclasses
import gzip
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from urllib.error import URLError

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from paths import ROOT

from edge_gym import data
from edge_gym.data import datasets, files, sources
from edge_gym.data.features import area_averaged

SUBSET = ROOT / "edge_gym/data/embedded/mnist_subset.npz"


# ------------------------------------------------------------------------- the embedded subset


def test_subset_is_small_and_its_checksum_is_right() -> None:
    content = SUBSET.read_bytes()
    assert len(content) < 3e6
    assert hashlib.sha256(content).hexdigest() == sources.SUBSET_SHA256


def test_subset_has_the_promised_shape_and_class_balance() -> None:
    subset = data.load_dataset("mnist-subset")
    assert subset.train_images.shape == (10_000, 1, 28, 28)
    assert subset.test_images.shape == (2_000, 1, 28, 28)
    assert subset.train_images.dtype == subset.test_images.dtype == np.uint8
    assert subset.train_labels.dtype == subset.test_labels.dtype == np.int64
    assert subset.class_names == tuple("0123456789")
    # Class sizes of the official splits.
    official_train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    official_test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    for labels, official in (
        (subset.train_labels, official_train),
        (subset.test_labels, official_test),
    ):
        exact = np.array(official) * len(labels) / sum(official)
        assert np.abs(np.bincount(labels) - exact).max() < 1


@pytest.mark.data
def test_subset_holds_official_images_and_rebuilds() -> None:
    full = data.load_dataset("mnist")
    spec = importlib.util.spec_from_file_location("tool", ROOT / "tools/build_mnist_subset.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    rebuilt = tool.build(data.data_dir() / "MNIST/raw")
    with np.load(SUBSET) as committed, np.load(io.BytesIO(rebuilt)) as again:
        for split in ("train", "test"):
            rows = committed[f"{split}_rows"]
            assert len(np.unique(rows)) == len(rows)
            images, labels = getattr(full, f"{split}_images"), getattr(full, f"{split}_labels")
            assert np.array_equal(committed[f"{split}_images"], images[rows, 0])
            assert np.array_equal(committed[f"{split}_labels"], labels[rows])
        assert all(np.array_equal(committed[name], again[name]) for name in committed)


@pytest.mark.parametrize(("sizes", "expected"), [((1, 1, 1), (4, 3, 3)), ((7, 2, 1), (7, 2, 1))])
def test_subset_quotas_are_proportional(
    sizes: tuple[int, ...], expected: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import build_mnist_subset

    assert tuple(build_mnist_subset.proportional(np.array(sizes), 10)) == expected


def test_damaged_or_missing_subset_says_to_install_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SUBSET_SHA256", "0" * 64)
    with pytest.raises(
        data.DataError, match=r"mnist_subset\.npz.*is damaged: install edge_gym again"
    ):
        sources.mnist_subset()
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    with pytest.raises(data.DataError, match=r"mnist_subset\.npz.*is missing: install edge_gym"):
        sources.mnist_subset()


# ------------------------------------------------------------------------------ the full data


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "shape", "n_train", "first_labels", "class_name"),
    [
        ("mnist", (1, 28, 28), 60_000, [5, 0, 4, 1, 9], "3"),
        ("fashion-mnist", (1, 28, 28), 60_000, [9, 0, 0, 3, 0], "Dress"),
        ("cifar-10", (3, 32, 32), 50_000, [6, 9, 9, 4, 1], "cat"),
    ],
)
def test_full_data_sets(
    name: str,
    shape: tuple[int, ...],
    n_train: int,
    first_labels: list[int],
    class_name: str,
) -> None:
    dataset = data.load_dataset(name)
    assert dataset.train_images.shape == (n_train, *shape)
    assert dataset.test_images.shape == (10_000, *shape)
    assert dataset.train_labels[:5].tolist() == first_labels
    assert np.bincount(dataset.test_labels).min() > 800
    assert dataset.class_names[3] == class_name
    features = data.load_features(name, (3, 5), shape[-1] // 2)
    assert mean_energy(features.train) == pytest.approx(1, rel=1e-5)


# ------------------------------------------------- readers and errors, on miniature data sets


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def cifar_batch(images: np.ndarray, labels: np.ndarray) -> bytes:
    content = {"data": images.reshape(len(images), -1), "labels": labels.tolist()}
    # The official batches were pickled by the NumPy of their day.
    return pickle.dumps(content, protocol=3).replace(b"numpy._core.", b"numpy.core.")


FILES = {
    "mnist": cast(dict[str, str], sources.mnist.files),
    "fashion-mnist": cast(dict[str, str], sources.fashion_mnist.files),
    "cifar-10": sources.CIFAR_10,
}


@pytest.fixture
def miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with tiny files in place of the official ones, and no torchvision."""
    rng = np.random.default_rng(0)
    contents: dict[str, bytes] = {}
    for folder in ("MNIST", "FashionMNIST"):
        for split, size in (("train", 30), ("t10k", 20)):
            images = rng.integers(256, size=(size, 4, 4)).astype(np.uint8)
            labels = np.arange(size, dtype=np.uint8) % 10
            contents[f"{folder}/raw/{split}-images-idx3-ubyte"] = idx(images)
            contents[f"{folder}/raw/{split}-labels-idx1-ubyte"] = idx(labels)
    for file in sources.CIFAR_10:
        images = rng.integers(256, size=(20, 3, 32, 32)).astype(np.uint8)
        contents[file] = cifar_batch(images, np.arange(20) % 10)
    for sums in FILES.values():
        for file in sums:
            monkeypatch.setitem(sums, file, hashlib.md5(contents[file]).hexdigest())
    for file, content in contents.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(content)
    monkeypatch.setenv("EDGE_GYM_DATA", str(tmp_path))
    monkeypatch.setattr(datasets, "_load_dataset", datasets._load_dataset.__wrapped__)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    return tmp_path


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar-10"])
def test_files_are_read_without_torchvision(name: str, miniature: Path) -> None:
    dataset = data.load_dataset(name)
    assert dataset.train_images.dtype == np.uint8
    assert dataset.train_images.shape[1:] == ((3, 32, 32) if name == "cifar-10" else (1, 4, 4))
    assert dataset.train_labels.tolist() == [i % 10 for i in range(len(dataset.train_images))]
    assert dataset.test_labels.tolist() == [i % 10 for i in range(20)]
    assert len(dataset.class_names) == 10


def test_compressed_files_are_read_where_only_they_exist(miniature: Path) -> None:
    path = miniature / "MNIST/raw/train-images-idx3-ubyte"
    plain = data.load_dataset("mnist").train_images
    compressed = path.with_name(path.name + ".gz")
    compressed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert np.array_equal(data.load_dataset("mnist").train_images, plain)
    compressed.write_bytes(compressed.read_bytes()[:-20])
    with pytest.raises(data.DataError, match=r"ubyte\.gz is truncated or altered.*Delete it"):
        data.load_dataset("mnist")
    compressed.write_bytes(b"not a gzip file")
    with pytest.raises(data.DataError, match=r"ubyte\.gz is truncated or altered.*Delete it"):
        data.load_dataset("mnist")


@pytest.mark.parametrize("damage", [lambda old: old[:-1], lambda old: old[:-1] + b"?"])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar-10"])
def test_damaged_files_are_named(
    name: str, damage: Callable[[bytes], bytes], miniature: Path
) -> None:
    for file in FILES[name]:
        path = miniature / file
        content = path.read_bytes()
        path.write_bytes(damage(content))
        with pytest.raises(data.DataError, match=r"truncated or altered.*Delete it") as caught:
            data.load_dataset(name)
        assert str(path) in str(caught.value)
        path.write_bytes(content)


def test_unreadable_file_is_named(miniature: Path) -> None:
    path = miniature / "MNIST/raw/train-images-idx3-ubyte"
    path.unlink()
    path.mkdir()
    with pytest.raises(data.DataError, match=r"train-images-idx3-ubyte cannot be read"):
        data.load_dataset("mnist")


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("echo pickled code has run",)


def test_pickles_run_nothing(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = "cifar-10-batches-py/test_batch"
    content = pickle.dumps({"data": Malicious()})
    (miniature / file).write_bytes(content)
    with pytest.raises(data.DataError, match="truncated or altered"):
        data.load_dataset("cifar-10")
    monkeypatch.setitem(FILES["cifar-10"], file, hashlib.md5(content).hexdigest())
    with pytest.raises(pickle.UnpicklingError, match="system has no place in a data file"):
        data.load_dataset("cifar-10")


@pytest.mark.parametrize("content", [b"", b"\x00\x00\x0d\x01", idx(np.zeros(9, np.uint8))[:-1]])
def test_idx_parser_rejects_other_files(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"IDX|reshape"):
        files.parse_idx(content)


def test_no_network(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(root: str, download: bool) -> None:
        raise URLError("Name or service not known")

    fake = SimpleNamespace(MNIST=download, FashionMNIST=download, CIFAR10=download)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", fake)
    for name, sums in FILES.items():
        lost = list(sums)[1]
        (miniature / lost).unlink()
        with pytest.raises(data.DataError) as caught:
            data.load_dataset(name)
        message = str(caught.value)
        for part in (str(miniature), lost, "EDGE_GYM_DATA", '"mnist-subset" works offline'):
            assert part in message
        assert next(iter(sums)) not in message
    assert not list(miniature.glob(".download-*"))


def test_missing_files_alone_are_downloaded(
    miniature: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {file: (miniature / file).read_bytes() for file in FILES["mnist"]}
    lost, kept = list(content)[:2]
    (miniature / lost).unlink()
    stamp = (miniature / kept).stat().st_mtime_ns

    def download(root: str, download: bool) -> None:
        for file, official in content.items():
            (Path(root) / file).parent.mkdir(parents=True, exist_ok=True)
            (Path(root) / file).write_bytes(official)

    monkeypatch.setitem(sys.modules, "torchvision.datasets", SimpleNamespace(MNIST=download))
    assert len(data.load_dataset("mnist").train_images) == 30
    assert (miniature / kept).stat().st_mtime_ns == stamp
    assert not list(miniature.glob(".download-*"))


def test_torchvision_that_does_not_match_torch(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "broken/torchvision/__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    for module in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(str(package.parent.parent))
    (miniature / "MNIST/raw/train-images-idx3-ubyte").unlink()
    with pytest.raises(
        data.DataError, match=r"nms does not exist\): torch .* and torchvision .* do not match"
    ) as caught:
        data.load_dataset("mnist")
    for part in ("pip install", "EDGE_GYM_DATA", '"mnist-subset"', str(miniature)):
        assert part in str(caught.value)


def test_torchvision_that_is_not_there(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda package: (_ for _ in ()).throw(importlib.metadata.PackageNotFoundError(package)),
    )
    (miniature / "cifar-10-batches-py/test_batch").unlink()
    with pytest.raises(data.DataError, match=r"torchvision \(not installed\) do not match"):
        data.load_dataset("cifar-10")


@pytest.mark.parametrize("name", ["MNIST", "imagenet", "", None])
def test_unknown_name(name: str) -> None:
    with pytest.raises(ValueError, match="known are mnist-subset, mnist, fashion-mnist, cifar-10"):
        data.load_dataset(name)
    with pytest.raises(ValueError, match="unknown data set"):
        data.load_features(name)


def test_data_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_GYM_DATA", "~/somewhere")
    assert data.data_dir() == Path.home() / "somewhere"
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("EDGE_GYM_DATA")
        else:
            monkeypatch.setenv("EDGE_GYM_DATA", unset)
        assert data.data_dir().parts[-2:] == ("edge_gym", "data")


def test_import_is_light() -> None:
    code = "import sys, edge_gym.data; sys.exit(any(m in sys.modules for m in sys.argv[1:]))"
    command = [sys.executable, "-c", code, "torch", "torchvision"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=environment, check=False).returncode == 0


# ----------------------------------------------------------------------------------- features


def mean_energy(features: np.ndarray) -> float:
    return float(np.square(features, dtype=np.float64).sum(axis=1).mean())


@pytest.mark.parametrize("classes", [None, (3, 5), (9, 0, 4)])
@pytest.mark.parametrize("image_size", [None, 14, 7])
def test_features_are_centred_and_have_unit_energy(
    classes: tuple[int, ...] | None, image_size: int | None
) -> None:
    features = data.load_features("mnist-subset", classes, image_size)
    side = image_size or 28
    assert features.image_shape == (1, side, side)
    assert features.train.shape[1] == features.test.shape[1] == len(features.mean) == side**2
    assert mean_energy(features.train) == pytest.approx(1, rel=1e-6)
    assert np.abs(features.train.mean(axis=0, dtype=np.float64)).max() < 1e-6
    assert features.train.dtype == features.test.dtype == features.mean.dtype == np.float32
    for array in (features.train, features.test):
        assert array.flags.c_contiguous


def test_labels_follow_the_order_of_classes() -> None:
    dataset = data.load_dataset("mnist-subset")
    features = data.load_features("mnist-subset", (5, 3), 28)
    assert features.classes == (5, 3)
    for labels, original in (
        (features.train_labels, dataset.train_labels),
        (features.test_labels, dataset.test_labels),
    ):
        kept = original[np.isin(original, (3, 5))]
        assert labels.dtype == np.int64
        assert np.array_equal(np.array([5, 3])[labels], kept)


def test_area_average_against_brute_force() -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(256, size=(3, 2, 12, 12)).astype(np.uint8)
    for size in (1, 2, 3, 4, 6, 12):
        factor = 12 // size
        brute = np.empty((3, 2, size, size))
        for n, channel, row, column in np.ndindex(brute.shape):
            top, left = row * factor, column * factor
            block = images[n, channel, top : top + factor, left : left + factor]
            brute[n, channel, row, column] = block.astype(float).mean() / 255
        assert np.allclose(area_averaged(images, size), brute.reshape(3, -1), atol=1e-6)


@pytest.mark.parametrize("image_size", [28, 14])
def test_image_inverts_features(image_size: int) -> None:
    dataset = data.load_dataset("mnist-subset")
    features = data.load_features("mnist-subset", None, image_size)
    expected = area_averaged(dataset.test_images[:6], image_size)
    images = features.image(features.test[:6].reshape(2, 3, -1))
    assert images.shape == (2, 3, image_size, image_size)
    assert np.allclose(images.reshape(6, -1), expected, atol=1e-5)
    noisy = features.image(features.test[0] + np.random.default_rng(0).normal(size=image_size**2))
    assert noisy.min() == 0
    assert noisy.max() == 1


def test_colour_image_has_channels_last(miniature: Path) -> None:
    images = data.load_dataset("cifar-10").test_images
    features = data.load_features("cifar-10")
    assert features.image_shape == (3, 32, 32)
    pictures = features.image(features.test)
    assert np.allclose(pictures, images.transpose(0, 2, 3, 1) / 255, atol=1e-5)


def test_arrays_are_read_only() -> None:
    features = data.load_features("mnist-subset", (3, 5), 14)
    for holder in (data.load_dataset("mnist-subset"), features):
        for value in vars(holder).values():
            if isinstance(value, np.ndarray):
                with pytest.raises(ValueError, match="read-only"):
                    value[...] = 0


def test_features_are_shared_however_they_are_asked_for() -> None:
    features = data.load_features("mnist-subset", (3, 5), 14)
    assert data.load_features(image_size=14, classes=[3, 5], name="mnist-subset") is features
    assert copy.deepcopy(features) is features
    pickled = pickle.dumps(features)
    assert len(pickled) < 1000
    assert pickle.loads(pickled) is features
    assert data.load_dataset(name="mnist-subset") is data.load_dataset("mnist-subset")


def test_features_of_ones_own_pickle_by_value() -> None:
    x = np.eye(4, dtype=np.float32)
    labels = np.array([0, 1, 0, 1])
    own = data.Features(x, labels, x, labels, (1, 2, 2), np.zeros(4, np.float32), 1.0, (0, 1))
    other = pickle.loads(pickle.dumps(own))
    assert np.array_equal(other.train, x)
    assert not other.train.flags.writeable
    loaded = data.load_features("mnist-subset", (3, 5), 14)
    changed = dataclasses.replace(loaded, classes=(0, 1))
    assert pickle.loads(pickle.dumps(changed)).classes == (0, 1)


@pytest.mark.parametrize("classes", [(), (3,), (3, 3), (3, 10), (-1, 2), ("3", "5")])
def test_classes_that_do_not_exist(classes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"classes must be two or more .* out of 0\.\.9"):
        data.load_features("mnist-subset", classes)


@pytest.mark.parametrize("image_size", [0, -7, 13, 56])
def test_sizes_that_do_not_divide(image_size: int) -> None:
    with pytest.raises(ValueError, match=f"one of 1, 2, 4, 7, 14, 28; got {image_size}"):
        data.load_features("mnist-subset", None, image_size)


# ------------------------------------------------------------------------------------- splits


def covers(parts: list[np.ndarray], size: int) -> bool:
    return np.array_equal(np.sort(np.concatenate(parts)), np.arange(size))


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n_train=st.integers(40, 300),
    n_test=st.integers(0, 100),
    validation=st.floats(0, 0.5),
    test=st.none() | st.floats(0, 1),
)
def test_split_is_disjoint(
    seed: int, n_train: int, n_test: int, validation: float, test: float | None
) -> None:
    validation_size = int(validation * n_train)
    test_size = None if test is None else int(test * n_test)
    train_labels, test_labels = np.zeros(n_train, np.int64), np.zeros(n_test, np.int64)

    def draw() -> data.Split:
        rng = np.random.default_rng(seed)
        return data.draw_split(rng, train_labels, test_labels, validation_size, test_size)

    split = draw()
    assert covers([split.pool, split.validation], n_train)
    assert len(split.validation) == validation_size
    assert len(split.test) == (n_test if test_size is None else test_size)
    assert len(np.unique(split.test)) == len(split.test)
    assert np.isin(split.test, np.arange(n_test)).all()
    again = draw()
    for name in ("pool", "validation", "test"):
        assert getattr(split, name).dtype == np.int64
        assert np.array_equal(getattr(split, name), getattr(again, name))


def test_rows_kept_in_the_pool_are_never_validated_on() -> None:
    train, test = np.repeat([0, 1], 100), np.repeat([0, 1], 10)
    kept = data.always_pooled(200)
    assert kept.sum() == 100
    counts = np.zeros(200)
    firsts = np.zeros(200)
    for seed in range(400):
        split = data.draw_split(np.random.default_rng(seed), train, test, 40, pooled=kept)
        assert len(split.validation) == 40
        assert sorted([*split.validation, *split.pool]) == list(range(200))
        counts[split.validation] += 1
        firsts[split.pool[0]] += 1
    assert not counts[kept].any()
    # Each of the 100 others is drawn in 40 % of the splits: five deviations.
    np.testing.assert_allclose(counts[~kept] / 400, 0.4, atol=5 * np.sqrt(0.24 / 400))
    # The pool is in random order, those that are kept in it too: 62.5 % of it are.
    assert firsts[kept].sum() / 400 == pytest.approx(0.625, abs=5 * np.sqrt(0.235 / 400))
    with pytest.raises(data.SampleError, match="of 200, 100 are always learned from"):
        data.draw_split(np.random.default_rng(0), train, test, 101, pooled=kept)


def test_split_is_uniform() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros(10, np.int64)
    draws = [data.draw_split(rng, labels, labels, 3, 4) for _ in range(4000)]
    for name, probability in (("validation", 0.3), ("test", 0.4)):
        counts = np.bincount(np.concatenate([getattr(split, name) for split in draws]))
        # Five standard deviations.
        assert np.abs(counts / 4000 - probability).max() < 5 * np.sqrt(0.25 / 4000)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), per_class=st.integers(1, 4), spare=st.integers(0, 3))
def test_every_class_keeps_samples_to_learn_from(seed: int, per_class: int, spare: int) -> None:
    labels = np.repeat(np.arange(5), 20)
    size = 100 - 5 * per_class - spare
    split = data.draw_split(
        np.random.default_rng(seed), labels, labels, size, 3, per_class=per_class
    )
    assert np.bincount(labels[split.pool], minlength=5).min() >= per_class
    assert covers([split.pool, split.validation], 100)
    assert len(split.validation) == size


@pytest.mark.parametrize("seed", range(20))
def test_rows_that_change_places_are_none_that_are_kept(seed: int) -> None:
    # Two of the third class, which may both be drawn for validation.
    labels = np.array([0] * 20 + [1] * 20 + [2, 2])
    kept = np.arange(42) < 20
    split = data.draw_split(
        np.random.default_rng(seed), labels, labels, 18, 3, per_class=1, pooled=kept
    )
    assert not kept[split.validation].any()
    assert np.bincount(labels[split.pool], minlength=3).min() >= 1
    assert covers([split.pool, split.validation], 42)


def test_what_need_not_be_repaired_is_drawn_as_ever() -> None:
    labels = np.arange(100) % 2
    split = data.draw_split(np.random.default_rng(3), labels, labels, 50, per_class=10)
    rows = np.random.default_rng(3).permutation(100)
    assert np.array_equal(split.validation, rows[:50])
    assert np.array_equal(split.pool, rows[50:])


@pytest.mark.parametrize(
    ("validation_size", "test_size", "message"),
    [
        (10, 2, r"validation_size = 10 .* has 10 samples\. Lower validation_size"),
        (99, None, r"validation_size = 99 .* has 10 samples\. Lower validation_size"),
        (2, 5, r"test_size = 5, but the test set has 4 samples\. Lower test_size"),
        (9, 1, r"no sample left to learn from: 9 of 10 .* Lower validation_size"),
    ],
)
def test_split_of_too_few_samples(validation_size: int, test_size: int, message: str) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(data.SampleError, match=message) as caught:
        data.draw_split(rng, np.arange(10) % 2, np.arange(4) % 2, validation_size, test_size)
    assert isinstance(caught.value, data.DataError)
    assert isinstance(caught.value, ValueError)


def test_split_sizes_are_not_negative() -> None:
    rng, labels = np.random.default_rng(0), np.zeros(9, np.int64)
    with pytest.raises(ValueError, match="validation_size must be at least 0, got -1"):
        data.draw_split(rng, labels, labels, -1)
    with pytest.raises(ValueError, match="test_size must be at least 0 or None, got -2"):
        data.draw_split(rng, labels, labels, 1, -2)
    with pytest.raises(ValueError, match="must be at least 0, got -3"):
        data.draw_balanced(rng, labels, np.arange(9), -3)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), n_classes=st.integers(1, 8), size=st.integers(0, 60))
def test_balanced_draw_is_balanced(seed: int, n_classes: int, size: int) -> None:
    labels = np.arange(200) % n_classes
    rows = np.random.default_rng(seed).permutation(200)[:160]
    per_class = np.bincount(labels[rows], minlength=n_classes)
    assume(per_class.min() >= -(-size // n_classes))
    drawn = data.draw_balanced(np.random.default_rng(seed), labels, rows, size)
    again = data.draw_balanced(np.random.default_rng(seed), labels, rows, size)
    assert np.array_equal(drawn, again)
    assert len(np.unique(drawn)) == len(drawn) == size
    assert np.isin(drawn, rows).all()
    assert np.ptp(np.bincount(labels[drawn], minlength=n_classes)) <= 1


def test_balanced_draw_varies_the_larger_class_and_the_order() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 2
    draws = [labels[data.draw_balanced(rng, labels, np.arange(100), 3)] for _ in range(200)]
    assert {tuple(draw) for draw in draws} == {
        (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)
    }  # fmt: skip


def test_balanced_draw_of_too_few_samples() -> None:
    labels = np.array([0, 0, 0, 0, 1])
    with pytest.raises(data.SampleError, match=r"4 initial samples need 2 of label 1, but only 1"):
        data.draw_balanced(np.random.default_rng(0), labels, np.arange(5), 4)
    with pytest.raises(data.SampleError, match="of label 1, but only 0 of the 4"):
        data.draw_balanced(np.random.default_rng(0), labels, np.arange(4), 2)


# --------------------------------------------------------------------------------- partitions

problems = st.tuples(
    st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 10), st.integers(60, 400)
)


def random_labels(seed: int, n_classes: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(n_classes, size=size)


@settings(deadline=None)
@given(problem=problems, scheme=st.sampled_from(data.SCHEMES))
def test_partitions_cover_and_repeat(problem: tuple[int, int, int, int], scheme: str) -> None:
    seed, n_devices, n_classes, size = problem
    labels = random_labels(seed, n_classes, size)

    def draw(seed: int) -> list[np.ndarray]:
        return data.partition(np.random.default_rng(seed), labels, n_devices, scheme)

    parts = draw(seed)
    assert len(parts) == n_devices
    assert covers(parts, size)
    for part, again in zip(parts, draw(seed), strict=True):
        assert len(part) >= 1
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
        assert np.array_equal(part, again)


@settings(deadline=None)
@given(problem=problems)
def test_iid_parts_are_equal(problem: tuple[int, int, int, int]) -> None:
    seed, n_devices, n_classes, size = problem
    labels = random_labels(seed, n_classes, size)
    parts = data.partition_iid(np.random.default_rng(seed), labels, n_devices)
    assert np.ptp([len(part) for part in parts]) <= 1


@settings(deadline=None)
@given(problem=problems, shards_per_device=st.integers(1, 5))
def test_shards_give_each_device_few_labels(
    problem: tuple[int, int, int, int], shards_per_device: int
) -> None:
    seed, n_devices, n_classes, size = problem
    labels = random_labels(seed, n_classes, size)
    parts = data.partition_shards(
        np.random.default_rng(seed), labels, n_devices, shards_per_device=shards_per_device
    )
    assert covers(parts, size)
    assert np.ptp([len(part) for part in parts]) <= shards_per_device
    held = [len(np.unique(labels[part])) for part in parts]
    shard = -(-size // (n_devices * shards_per_device))
    if shard <= np.bincount(labels, minlength=n_classes).min():
        assert max(held) <= 2 * shards_per_device
    # Each of the C - 1 borders between classes falls into at most one shard.
    assert sum(held) <= n_devices * shards_per_device + n_classes - 1


def test_shards_of_balanced_classes_hold_two_labels() -> None:
    labels = np.repeat(np.arange(10), 50)
    parts = data.partition_shards(np.random.default_rng(3), labels, 10)
    assert all(len(part) == 50 and len(np.unique(labels[part])) <= 2 for part in parts)


def test_adjacent_shards_are_dealt_in_runs() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 40))
    parts = data.partition_shards(
        np.random.default_rng(1), labels, 5, shards_per_device=4, adjacent=True
    )
    assert covers(parts, 400)
    held = [np.unique(labels[part]).tolist() for part in parts]
    assert sorted(held) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert held != sorted(held)


@pytest.mark.parametrize("imbalance", [1.0, 4.0, 100.0])
def test_any_first_part_of_a_long_tailed_order_is_long_tailed(imbalance: float) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 2000)
    rows = rng.permutation(len(labels))
    order = data.order_long_tailed(rng, labels, rows, imbalance)
    assert np.array_equal(np.sort(order), np.sort(rows))
    for size in (500, 2000):
        counts = np.sort(np.bincount(labels[order[:size]], minlength=5))[::-1]
        expected = imbalance ** -(np.arange(5) / 4)
        # Of each class one sample more or less.
        np.testing.assert_allclose(counts, size * expected / expected.sum(), atol=2)


def test_a_class_that_is_used_up_leaves_its_part_to_the_others() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(2), (900, 100))
    order = data.order_long_tailed(rng, labels, rng.permutation(1000), 1.0)
    assert np.bincount(labels[order[:500]]).tolist() == [400, 100]


def test_dirichlet_concentration_sets_the_skew() -> None:
    labels = np.repeat(np.arange(10), 200)
    even = 0.1

    def skew(concentration: float) -> float:
        rng = np.random.default_rng(0)
        parts = data.partition_dirichlet(rng, labels, 10, concentration=concentration)
        shares = [np.bincount(labels[part], minlength=10) / len(part) for part in parts]
        return float(np.abs(np.array(shares) - even).mean())

    skews = [skew(concentration) for concentration in (0.1, 0.5, 2.0, 1000.0)]
    assert skews == sorted(skews, reverse=True)
    assert skews[0] > 0.1
    assert skews[-1] < 0.01


def test_dirichlet_shares_follow_the_distribution() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros(1000, np.int64)
    sizes = np.array(
        [
            [
                len(part)
                for part in data.partition_dirichlet(
                    rng, labels, 4, concentration=2.0, min_samples=0
                )
            ]
            for _ in range(2000)
        ]
    )
    # Mean 1/K and variance (K - 1)/(K²(Kα + 1)) of a symmetric Dirichlet share.
    assert np.allclose(sizes.mean(axis=0), 250, atol=15)
    assert np.allclose((sizes / 1000).var(axis=0), 3 / (16 * 9), rtol=0.15)


@pytest.mark.parametrize("scheme", data.SCHEMES)
def test_min_samples_is_kept(scheme: str) -> None:
    labels = np.arange(300) % 10
    parts = data.partition(np.random.default_rng(0), labels, 6, scheme, min_samples=20)
    assert min(map(len, parts)) >= 20
    with pytest.raises(data.SampleError, match=r"300 samples .* n_devices = 6 .*min_samples = 51"):
        data.partition(np.random.default_rng(0), labels, 6, scheme, min_samples=51)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), n_devices=st.integers(1, 30), spare=st.integers(0, 20))
def test_dirichlet_never_gives_up(seed: int, n_devices: int, spare: int) -> None:
    labels = random_labels(seed, 3, 5 * n_devices + spare)

    def draw() -> list[np.ndarray]:
        return data.partition_dirichlet(
            np.random.default_rng(seed), labels, n_devices, concentration=0.01, min_samples=5
        )

    parts = draw()
    assert covers(parts, len(labels))
    assert min(map(len, parts)) >= 5
    for part, again in zip(parts, draw(), strict=True):
        assert np.array_equal(part, again)


def test_more_shards_than_samples() -> None:
    with pytest.raises(data.SampleError, match=r"10 samples .* 12 shards \(n_devices = 6 x"):
        data.partition_shards(np.random.default_rng(0), np.zeros(10, np.int64), 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scheme": "sorted"}, "unknown partition scheme 'sorted'; known are iid, shards, dir"),
        ({"n_devices": 0}, "number of devices must be at least 1, got 0"),
        ({"min_samples": -1}, "min_samples must be at least 0, got -1"),
        ({"scheme": "shards", "shards_per_device": 0}, "shards_per_device must be at least 1"),
        ({"scheme": "dirichlet", "concentration": 0.0}, "concentration must be positive and fin"),
        ({"scheme": "dirichlet", "concentration": float("nan")}, "positive and finite, got nan"),
    ],
)
def test_partition_arguments_out_of_range(arguments: dict[str, object], message: str) -> None:
    labels = np.arange(20) % 2
    with pytest.raises(ValueError, match=message):
        data.partition(np.random.default_rng(0), labels, **{"n_devices": 4, **arguments})
