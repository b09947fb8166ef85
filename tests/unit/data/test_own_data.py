"""Data sets that users bring: arrays are enough, and everything takes them by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from edge_gym import data
from edge_gym.data import DATASETS, DataError, register_dataset, sources
from edge_gym.data.files import data_dir

RNG = np.random.default_rng(0)
LABELS = np.arange(600) % 4, np.arange(200) % 4
PATTERNS = RNG.integers(256, size=(4, 8, 12, 3))


def pictures(labels: np.ndarray, height: int = 8, width: int = 8) -> np.ndarray:
    noise = RNG.integers(-40, 40, size=(len(labels), height, width, 3))
    shown: np.ndarray = (PATTERNS[labels][:, :height, :width] + noise).clip(0, 255)
    return shown.astype(np.uint8)


COLOUR = (pictures(LABELS[0]), LABELS[0]), (pictures(LABELS[1]), LABELS[1])
GREY = tuple((x[..., 0], y) for x, y in COLOUR)
WIDE = tuple((pictures(y, 8, 12)[..., 0], y) for y in LABELS)
VECTORS = tuple((x.reshape(len(x), -1)[:, :30] / 255.0, y) for x, y in COLOUR)


@pytest.fixture(autouse=True)
def own_sets() -> Iterator[None]:
    """Register data sets of this test alone."""
    before = set(DATASETS)
    register_dataset("own/colour", COLOUR)
    register_dataset("own/grey", lambda: GREY, ["a", "b", "c", "d"])
    register_dataset("own/wide", WIDE)
    register_dataset("own/vectors", VECTORS)
    yield
    for name in set(DATASETS) - before:
        DATASETS.unregister(name)


def test_images_and_features_become_data_sets() -> None:
    colour, grey = data.load_dataset("own/colour"), data.load_dataset("own/grey")
    assert colour.train_images.shape == (600, 3, 8, 8)
    assert np.array_equal(colour.train_images.transpose(0, 2, 3, 1), COLOUR[0][0])
    assert grey.test_images.shape == (200, 1, 8, 8)
    assert (colour.class_names, grey.class_names) == (("0", "1", "2", "3"), ("a", "b", "c", "d"))
    vectors = data.load_dataset("own/vectors")
    assert vectors.train_images.shape == (600, 1, 1, 30)
    assert (colour.are_images, vectors.are_images) == (True, False)
    # The user's own arrays stay as they were, and are not shared.
    assert COLOUR[0][0].flags.writeable
    assert not np.shares_memory(colour.train_images, COLOUR[0][0])


def test_a_source_is_read_once_and_only_when_needed() -> None:
    calls = []

    def source() -> Any:
        calls.append(1)
        return GREY

    register_dataset("own/lazy", source)
    assert not calls
    assert data.load_dataset("own/lazy") is data.load_dataset("own/lazy")
    assert len(calls) == 1
    # The name is free again, and what it stood for is forgotten.
    DATASETS.unregister("own/lazy")
    register_dataset("own/lazy", COLOUR)
    assert data.load_dataset("own/lazy").train_images.shape[1] == 3


def test_features_have_unit_energy_and_pictures() -> None:
    for name, shape in (("own/colour", (8, 8, 3)), ("own/wide", (8, 12)), ("own/vectors", (6, 6))):
        features = data.load_features(name, (2, 0, 1))
        assert np.square(features.train).sum(axis=1).mean() == pytest.approx(1, rel=1e-4)
        assert features.image(features.test[:5]).shape == (5, *shape)
        assert 0 <= features.image(features.test).min() < features.image(features.test).max() <= 1
        assert features.are_images == (name != "own/vectors")
    assert data.load_features("own/colour", None, 4).train.shape == (600, 48)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own/vectors", "image_size must be None for own/vectors: its samples are vectors"),
        ("own/wide", "image_size must be None for own/wide, whose images of 8×12 pixels"),
        ("own/grey", "one of 1, 2, 4, 8; got 14"),
    ],
)
def test_sizes_that_cannot_be(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.load_features(name, None, 14)


X, Y = GREY[0]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, r"expected \(\(train_x, train_y\), \(test_x, test_y\)\), got None"),
        ((X, Y), "expected"),
        (((X, Y), (X[:, :4], Y)), "train_x and test_x must be alike"),
        (((X / 255, Y), (X / 255, Y)), "train_x must be uint8.*got float64"),
        (((X, Y[:5]), (X, Y)), r"train_y must have shape \(600,\).*got \(5,\)"),
        (((X, Y), (X, Y * 1.0)), "test_y must hold integers, got float64"),
        (((X, Y - 1), (X, Y)), "train_y must hold labels 0 .* got -1"),
        (((X, Y * 2), (X, Y)), "train_y has no sample of label 1"),
        (((X, Y), (X, Y + 1)), "labels of test_y must be below the number of classes, 4, got 4"),
        (((X, Y * 0), (X, Y * 0)), "no sample of label 1"),
        (((X[:0], Y[:0]), (X, Y)), "at least one sample"),
        (((X[:, 0] * np.nan, Y), (X[:, 0], Y)), "train_x must be finite in float32; row 0 is not"),
        (((X[:, 0] * 1e300, Y), (X[:, 0], Y)), "finite in float32"),
        (((X.astype(str), Y), (X, Y)), "train_x must hold numbers"),
    ],
)
def test_wrong_arrays_are_refused_at_once_and_clearly(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"data set 'own/wrong': .*{message}"):
        register_dataset("own/wrong", source)
    assert "own/wrong" not in DATASETS
    register_dataset("own/wrong", lambda: source)
    with pytest.raises(DataError, match=message):
        data.load_dataset("own/wrong")


def test_wrong_names_are_refused() -> None:
    with pytest.raises(ValueError, match="there is a data set 'mnist' already"):
        register_dataset("mnist", GREY)
    with pytest.raises(ValueError, match="expected 'module:attribute', got 'nowhere'"):
        register_dataset("own/wrong", "nowhere")
    with pytest.raises(DataError, match="labels of train_y must be below the number of classes, 2"):
        register_dataset("own/wrong", GREY, ["a", "b"])


def test_an_idx_set_is_one_call(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_GYM_DATA", str(tmp_path))
    register_dataset("own/idx", sources.idx_files("Own/raw"))
    with pytest.raises(DataError, match=r"Own is not complete .*Own/raw/train-images-idx3-ubyte"):
        data.load_dataset("own/idx")
    folder = data_dir() / "Own/raw"
    folder.mkdir(parents=True)
    arrays = [array.astype(np.uint8) for pair in GREY for array in pair]
    for file, array in zip(sources.IDX_FILES, arrays, strict=True):
        shape = b"".join(size.to_bytes(4, "big") for size in array.shape)
        (folder / file).write_bytes(bytes([0, 0, 8, array.ndim]) + shape + array.tobytes())
    assert np.array_equal(data.load_dataset("own/idx").test_images[:, 0], GREY[1][0])


SMALL = {"classes": None, "image_size": None, "validation_size": 50, "test_size": 50}


@pytest.mark.parametrize("dataset", ["own/colour", "own/wide", "own/vectors"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Retransmission-v0", {"learner": "svm-ovo", "budget": 20}),
        ("DataScheduling-v0", {"learner": "mlp", "budget": 10}),
        ("UpdateScheduling-v0", {"samples_per_device": 20}),
    ],
)
def test_problems_take_them_by_name(name: str, options: dict[str, Any], dataset: str) -> None:
    env: Any = gym.make(
        f"edge_gym/{name}", dataset=dataset, render_mode="rgb_array", **SMALL, **options
    )
    env.reset(seed=0)
    for _ in range(3):
        observation, reward, *_ = env.step(env.action_space.sample())
        assert env.observation_space.contains(observation)
        assert np.isfinite(reward)
    assert env.render().ndim == 3
    env.close()


def test_convolutions_need_images() -> None:
    made = {**SMALL, "dataset": "own/vectors"}
    with pytest.raises(ValueError, match=r"'cnn' needs images, but samples .* 30 features"):
        gym.make("edge_gym/Retransmission-v0", learner="cnn", **made)
    with pytest.raises(ValueError, match=r"cnn.* needs images"):
        gym.make("edge_gym/UpdateScheduling-v0", network="cnn", **made)
