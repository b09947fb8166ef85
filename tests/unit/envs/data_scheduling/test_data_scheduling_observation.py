"""Data scheduling: what devices observe of samples, labels and the classifier."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from references import column
from rollouts import assert_same, random_actions
from scipy.special import log_softmax
from small_data_scheduling import BATCH, MULTICLASS, NETWORK, SAMPLE, TURNS, acquired, make, weights

from edge_gym.envs.data_scheduling.config import DataSchedulingConfig
from edge_gym.envs.data_scheduling.observation import observation_tables

LABEL_COLUMNS = {"margin", "hinge_loss", "zero_one_loss", "label_share", "label_recall"}


@pytest.mark.parametrize("retrain_every", [1, 4])
def test_samples_are_judged_by_the_classifier_as_it_is(retrain_every: int) -> None:
    env = make(retrain_every=retrain_every, mean_snr_db=5, partition="shards")
    observation, _ = env.reset(seed=5)
    data = env.problem.features
    actions = random_actions(env.action_space, 5)
    over = False
    wrongs = 0
    while not over:
        w, b = weights(env)
        norm = np.linalg.norm(w)
        rows = env.problem.buffers.rows[0]
        labels = data.train_labels[rows]
        score = data.train[rows] @ w + b
        margin = np.where(labels == 0, score, -score)
        wrong = (score >= 0) != (labels == 0)
        wrongs += wrong.sum()
        _, y = acquired(env)
        validation = env.problem.validation[0]
        truth = data.train_labels[validation]
        right = ((data.train[validation] @ w + b) >= 0) == (truth == 0)
        share = np.array([(y == label).mean() for label in (0, 1)])
        recall = np.array([right[truth == label].mean() for label in (0, 1)])
        for name, wanted in {
            "present": 1.0,
            "distance": np.abs(score) / norm,
            "margin": margin,
            "hinge_loss": np.maximum(0, 1 - margin),
            "zero_one_loss": wrong,
            "label_share": 2 * share[labels],
            "label_recall": recall[labels],
        }.items():
            ours = column(env, observation, "samples", name)
            np.testing.assert_allclose(ours, np.broadcast_to(wanted, ours.shape), atol=2e-5)
        entropy = -sum(p * np.log2(p) for p in share)
        trained = len(y) - int(column(env, observation, "system", "unlearned"))
        assert (trained - 4) % retrain_every == 0
        for name, wanted in {
            "accuracy": right.mean(),
            "weight_norm": norm,
            "class_balance": entropy,
            "samples": len(y),
        }.items():
            assert column(env, observation, "system", name) == pytest.approx(wanted, rel=1e-5)
        observation, _, over, _, _ = env.step(next(actions))
    assert wrongs > 0


@pytest.mark.parametrize(
    ("name", "fields"),
    [(MULTICLASS, {"retrain_every": 3}), (NETWORK, {"learner": "mlp", "retrain_every": 2})],
)
def test_many_classes_are_judged_as_the_learner_does(name: str, fields: dict[str, Any]) -> None:
    env = make(name, n_devices=5, partition="shards", validation_size=200, **fields)
    observation, _ = env.reset(seed=0)
    problem, learner = env.problem, env.problem.learner
    loss_name = "hinge_loss" if name == MULTICLASS else "cross_entropy"
    uncertainty_name = "distance" if name == MULTICLASS else "entropy"
    assert {loss_name, uncertainty_name} < {c.name for c in env.tables["samples"]}
    assert ("weight_norm" in env.tables["system"]) == (name == MULTICLASS)
    actions = random_actions(env.action_space)
    for _ in range(7):
        rows = problem.buffers.rows[:1].reshape(1, -1)
        labels = problem.features.train_labels[rows]
        samples = problem.features.train[rows]
        assessment = learner.assess(np.zeros(1, np.int64), samples, labels)
        if name == MULTICLASS:
            loss = np.maximum(0, 1 - assessment.margin)
            uncertainty = assessment.uncertainty
        else:
            inputs = learner._to_inputs(samples)
            logits = learner.network.logits(learner.parameters[:1], inputs)
            log_p = log_softmax(logits.numpy().astype(np.float64), axis=-1)
            loss = -np.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
            uncertainty = -(np.exp(log_p) * log_p).sum(axis=-1)
        for column_name, wanted in (
            (loss_name, loss),
            (uncertainty_name, uncertainty),
            ("zero_one_loss", assessment.predicted != labels),
        ):
            ours = column(env, observation, "samples", column_name)
            np.testing.assert_allclose(ours.reshape(1, -1), wanted, atol=1e-4)
        share = problem.counts[0] / problem.counts[0].sum()
        ours = column(env, observation, "samples", "label_share")
        np.testing.assert_allclose(ours, 10 * share[labels].reshape(5, 3), rtol=1e-5)
        observation = env.step(next(actions))[0]


@pytest.mark.parametrize("name", [SAMPLE, NETWORK])
def test_labels_at_the_server_hide_columns_and_change_nothing_else(name: str) -> None:
    fields = {"budget": 12, "train_steps": 2, "image_size": 7}
    knowing, blind = make(name, **fields), make(name, labels="server", **fields)
    full, rest = knowing.tables["samples"], blind.tables["samples"]
    hidden = {c.name for c in full} - {c.name for c in rest}
    assert hidden == {
        c.replace("hinge_loss", "cross_entropy") if name == NETWORK else c for c in LABEL_COLUMNS
    }
    kept = [full.index(c.name) for c in rest]
    assert kept == sorted(kept)
    ours, theirs = knowing.reset(seed=1), blind.reset(seed=1)
    over = False
    actions = random_actions(knowing.action_space)
    while True:
        seen = {**ours[0], "samples": ours[0]["samples"][:, :, kept]}
        # With two classes the content is times the label where that is known.
        both = [{**part, "samples": np.abs(part["samples"])} for part in (seen, theirs[0])]
        assert_same(*both)
        assert_same(ours[1:], theirs[1:])
        if over:
            break
        action = next(actions)
        ours, theirs = knowing.step(action), blind.step(action)
        over = ours[2]


def test_tables_name_columns_once_and_have_sane_scales() -> None:
    for learner, labels, actions, m in itertools.product(
        ("svm", "mlp"), ("device", "server"), ("device", "scores"), (1, 2)
    ):
        config = DataSchedulingConfig(
            learner=learner, labels=labels, actions=actions, uploads_per_block=m
        )
        for table in observation_tables(config).values():
            names = [c.name for c in table]
            assert len(set(names)) == len(names)
            assert (table.low < table.high).all()
            assert all(c.spread > 0 for c in table)
        devices = observation_tables(config)["devices"]
        assert ("chosen" in devices) == (m == 2 and actions == "device")
        assert ("embedding_15" in devices) == (m == 2)


@pytest.mark.parametrize("learner", ["svm", "mlp"])
@pytest.mark.parametrize("name", [SAMPLE, BATCH, TURNS])
@pytest.mark.parametrize(
    "fields", [{"mean_snr_db": -30, "path_loss_exponent": 6}, {"mean_snr_db": 60}]
)
def test_observations_keep_their_bounds_at_extreme_snr(
    name: str, learner: str, fields: dict[str, float]
) -> None:
    env = make(name, learner=learner, n_devices=8, train_steps=3, **fields)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        observation, info = env.reset(seed=0)
        actions = random_actions(env.action_space)
        over = False
        while True:
            assert env.observation_space.contains(observation)
            assert all(np.isfinite(value) for value in info.values())
            if over:
                break
            observation, reward, over, _, info = env.step(next(actions))
            assert np.isfinite(reward)
    mean_db = column(env, observation, "devices", "mean_snr_db")
    if "path_loss_exponent" in fields:
        assert (mean_db == -30).any()
    assert mean_db.max() <= 60
