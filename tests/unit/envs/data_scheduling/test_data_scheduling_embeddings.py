"""Data scheduling: embeddings of samples, and how new they are."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from references import column
from rollouts import random_actions
from scipy.linalg import orthogonal_procrustes
from small_data_scheduling import BATCH, NETWORK, SAMPLE, acquired, make

from edge_gym.envs.data_scheduling.embeddings import EMBEDDING_SIZE, sample_embeddings


@cache
def principal_axes(
    size: int | None, classes: tuple[int, ...] | None, every: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the first principal axes of some rows by singular values, and variances along them."""
    features = make(image_size=size, classes=classes, learner="mlp").problem.features
    rows = features.train[::every].astype(np.float64)
    _, lengths, axes = np.linalg.svd(rows, full_matrices=False)
    return np.asarray(axes[:EMBEDDING_SIZE].T), lengths[:EMBEDDING_SIZE] ** 2 / len(rows)


def axes(env: Any) -> NDArray[np.float64]:
    """Return the axes of every second row, turned towards those of all rows."""
    found, _ = principal_axes(env.config.image_size, env.config.classes, 2)
    every, _ = principal_axes(env.config.image_size, env.config.classes, 1)
    every = every * np.sign(every[np.abs(every).argmax(axis=0), np.arange(EMBEDDING_SIZE)])
    turn, _ = orthogonal_procrustes(found, every)
    return np.asarray(found @ turn)


def test_embeddings_are_of_the_sample_that_would_be_uploaded() -> None:
    env = make(BATCH, budget=12)
    observation, _ = env.reset(seed=0)
    for action in itertools.islice(random_actions(env.action_space), 5):
        shown = np.stack(
            [column(env, observation, "devices", f"embedding_{i}") for i in range(EMBEDDING_SIZE)],
            axis=1,
        )
        rows = env.problem.buffers.rows[0][np.arange(4), env.problem.preferred()[0]]
        np.testing.assert_allclose(shown, env.problem.features.train[rows] @ axes(env), atol=1e-4)
        observation = env.step(action)[0]


@pytest.mark.parametrize("labels", ["device", "server"])
@pytest.mark.parametrize("name", [SAMPLE, NETWORK])
def test_content_is_of_the_sample_and_signed_by_a_known_label_of_two(
    name: str, labels: str
) -> None:
    env = make(name, labels=labels, budget=12)
    observation, _ = env.reset(seed=1)
    problem = env.problem
    rows = problem.buffers.rows[0]
    wanted = problem.features.train[rows] @ axes(env)
    if name == SAMPLE and labels == "device":
        wanted *= np.where(problem.features.train_labels[rows] == 0, 1, -1)[..., None]
    for i in range(EMBEDDING_SIZE):
        shown = column(env, observation, "samples", f"content_{i}")
        np.testing.assert_allclose(shown, wanted[..., i], atol=1e-4)
    meaning = env.tables["samples"].columns[-1].meaning
    assert ("times c" in meaning) == (name == SAMPLE and labels == "device")
    hidden = make(name, labels=labels, budget=12, content=False)
    assert "content_0" not in hidden.tables["samples"]
    kept = hidden.tables["samples"]
    np.testing.assert_array_equal(
        hidden.reset(seed=1)[0]["samples"], observation["samples"][..., : len(kept)]
    )


@pytest.mark.parametrize("name", [SAMPLE, NETWORK])
def test_what_is_observed_knows_nothing_of_validation_samples(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make(name)
    problem = env.problem
    validated = set()
    for seed in range(20):
        env.reset(seed=seed)
        validated |= set(problem.validation[0].tolist())
    kept = np.flatnonzero(problem.pooled)
    assert not validated & set(kept.tolist())
    # Other validation samples, other rewards; the subspace of the components stays.
    features = problem.features
    train = features.train.copy()
    train[~problem.pooled] = np.random.default_rng(0).normal(size=train[~problem.pooled].shape)
    monkeypatch.setattr(
        "edge_gym.envs.data_scheduling.embeddings.load_features",
        lambda *_: dataclasses.replace(features, train=train),
    )
    sample_embeddings.cache_clear()
    try:
        other = make(name).problem.embeddings
    finally:
        sample_embeddings.cache_clear()
    np.testing.assert_array_equal(other.axes, problem.embeddings.axes)
    np.testing.assert_array_equal(other.variances, problem.embeddings.variances)
    ours, theirs = (e.shown[kept].astype(np.float64) for e in (problem.embeddings, other))
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-4)


@pytest.mark.parametrize(("name", "fields"), [(SAMPLE, {}), (BATCH, {"retrain_every": 5})])
def test_novelty_is_the_direct_formula(name: str, fields: dict[str, Any]) -> None:
    env = make(name, **fields, mean_snr_db=12)
    observation, _ = env.reset(seed=4)
    actions = random_actions(env.action_space, 4)
    # Any signs will do.
    components, variances = principal_axes(env.config.image_size, env.config.classes, 2)
    covariance = np.diag(variances)
    snrs = [np.inf] * env.config.initial_samples
    for _ in range(12):
        x, _ = acquired(env)
        a = np.eye(EMBEDDING_SIZE) / EMBEDDING_SIZE
        for z_hat, snr in zip(x @ components, snrs, strict=True):
            wiener = covariance @ np.linalg.inv(covariance + np.eye(EMBEDDING_SIZE) / snr)
            left = covariance - wiener @ covariance
            estimate = wiener @ z_hat
            a += np.outer(estimate, estimate) / (1 + np.trace(np.linalg.inv(a) @ left))
        z = env.problem.features.train[env.problem.buffers.rows[0]] @ components
        wanted = np.einsum("kne,ef,knf->kn", z, np.linalg.inv(a), z)
        novelty = column(env, observation, "samples", "novelty")
        np.testing.assert_allclose(novelty, wanted, rtol=1e-4)
        snr = env.problem.current_snr(np.zeros(1, np.int64))[0]
        observation = env.step(next(actions))[0]
        uploaded = column(env, observation, "devices", "staleness") == 0
        turns = env.problem.chosen_device[0][: uploaded.sum()]
        snrs += snr[turns].tolist()
    assert novelty.max() > 2 * novelty.min()
