"""Rounds and averages of update scheduling against a slow and plain reference."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from plain_update_scheduling import (
    DEVICE,
    ENDLESS,
    GRADIENT,
    LANE,
    LAZY,
    LAZY_DEVICE,
    PLAIN,
    Plain,
    make,
    scores_of,
)
from references import column, global_model
from rollouts import random_actions
from scipy.stats import gmean

from edge_gym.runtime.streams import Purpose, uniforms_of


def compare_past(plain: Plain, observation: dict[str, Any], took: float, info: Any) -> None:
    """Compare what is observed of the rounds so far."""
    env, config = plain.env, plain.config
    uploads = plain.uploads
    budget = config.budget_j if config.mode == "lazy" else config.budget_s
    devices = {
        "throughput": plain.throughput,
        "staleness": plain.rounds - plain.last_arrival,
        "uploads": uploads,
        "arrivals": np.where(uploads > 0, plain.arrivals / np.maximum(uploads, 1), 1),
        "samples": [len(rows) for rows in plain.rows],
        "energy_j": plain.energy,
    }
    system = {
        "devices": config.n_devices,
        "budget_left": budget - plain.spent,
        "rounds": plain.rounds,
        "last_round": took,
        "accuracy": info["validation_accuracy"],
        "loss": info["validation_loss"],
        "loss_slope": plain.slope,
    }
    for part, columns in (("devices", devices), ("system", system)):
        for name, wanted in columns.items():
            found = column(env, observation, part, name)
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7, err_msg=name)


def compare_present(plain: Plain, observation: dict[str, Any]) -> None:
    """Compare what is observed of the round that begins."""
    env = plain.env
    known = plain.computed_in >= 0
    unknown = plain.indicator[known].mean() if known.any() else 1
    indicator = np.where(known, plain.indicator, unknown)
    told = ~np.isnan(plain.training_loss)
    guess = plain.training_loss[told].mean() if told.any() else np.log(10)
    upload_j = plain.watt * plain.upload_s
    taking_part = np.isin(np.arange(plain.k), plain.participating)
    timed = {"free": np.ones(plain.k), "reported": taking_part}.get(
        plain.knowledge, np.zeros(plain.k)
    )
    compute_s = np.where(timed, plain.compute_s, plain.nominal_s)
    cost_s, cost_j = compute_s + plain.upload_s, plain.compute_j + upload_j
    cost = cost_j if env.config.mode == "lazy" else cost_s
    share = indicator / max(indicator.mean(), 1e-12)
    devices = {
        "indicator": indicator,
        "indicator_share": share,
        "log_indicator": np.maximum(np.log(np.maximum(share, 1e-300)), -10),
        "log_cost": np.log(cost / gmean(cost)),
        "efficiency": plain.efficiency,
        "mean_efficiency": np.mean(plain.efficiencies, axis=0),
        "upload_s": plain.upload_s,
        "compute_s": compute_s,
        "compute_j": plain.compute_j,
        "upload_j": upload_j,
        "nominal_s": plain.nominal_s,
        "indicator_age": plain.rounds - plain.computed_in,
        "training_loss": np.where(np.isnan(plain.training_loss), guess, plain.training_loss),
        "participates": taking_part,
    }
    if plain.knowledge in ("reported", "free"):
        devices["change"] = plain.change
    else:
        assert "change" not in env.tables["devices"]
    elapsed_s = column(env, observation, "system", "elapsed_s")
    assert elapsed_s == pytest.approx(plain.elapsed_s(), rel=1e-5)
    for name, wanted in devices.items():
        found = column(env, observation, "devices", name)
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-5, err_msg=name)


Outcome = tuple[Any, list[int], list[int]]


def outcomes_of(env: Any, rounds: int, risk: float) -> list[Outcome]:
    """Draw rounds: an action, who drops out, and whose upload is lost."""
    rng = np.random.default_rng(0)
    actions = itertools.islice(random_actions(env.action_space, 3), rounds)

    def some(probability: float) -> list[int]:
        return np.flatnonzero(rng.random(env.config.n_devices) < probability).tolist()

    return [(action, some(0.3 * risk), some(0.4 * risk)) for action in actions]


def play(env: Any, outcome: Outcome) -> Any:
    """Take a step in which who fails is certain, so that nothing depends on the draws."""
    action, absent, lost = outcome
    devices = np.arange(env.config.n_devices)
    env.problem.drop_out[0] = np.isin(devices, absent)
    env.problem.packet_error[0] = np.isin(devices, lost)
    return env.step(action)


def half_a_round(name: str, fields: dict[str, Any], outcomes: list[Outcome]) -> dict[str, float]:
    """Return a budget that ends in the middle of a round that costs something, a late one."""
    env = make(name, **{**fields, **ENDLESS})
    env.reset(seed=3)
    unit = "joules" if env.config.mode == "lazy" else "seconds"
    spent = [0.0, *(play(env, outcome)[4][unit] for outcome in outcomes)]
    late = max(i for i in range(len(outcomes)) if spent[i + 1] > spent[i])
    budget = (spent[late] + spent[late + 1]) / 2
    return {"budget_s": budget} if unit == "seconds" else {"budget_j": budget}


@pytest.mark.parametrize("end", ["budget", "rounds"])
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (PLAIN, {}),
        (PLAIN, {"participation": "agent", "slowdown_probability": 0.5}),
        (PLAIN, {"participation": "agent", "bandwidth": "agent", "report_bits": 5000}),
        (PLAIN, {"participation": "agent", "selection": "top", "uploads_per_round": 3}),
        (PLAIN, {"participation": "agent", "redundancy": 2, "density": 0.2}),
        (PLAIN, {"indicators": "remembered", "slowdown_probability": 0.5, "report_bits": 800}),
        (PLAIN, {"indicators": "remembered", "bandwidth": "equal", "density": 0.3}),
        (PLAIN, {"indicators": "free", "slowdown_probability": 0.5}),
        (PLAIN, {"indicators": "free", "broadcast": "free", "bandwidth": "agent"}),
        (PLAIN, {"bandwidth": "equal", "local_epochs": 3, "slowdown_probability": 0.5}),
        (PLAIN, {"bandwidth": "agent", "selection": "top", "uploads_per_round": 2}),
        (PLAIN, {"redundancy": 2, "partition": "dirichlet"}),
        (PLAIN, {"density": 0.1, "slowdown": 9.0}),
        (PLAIN, {"corrupt_devices": 2, "partition": "iid", "participation": "agent"}),
        (PLAIN, {"corrupt_devices": 2, "redundancy": 2, "indicators": "remembered"}),
        (GRADIENT, {"bandwidth": "agent", "learning_rate": 1.0}),
        (GRADIENT, {"participation": "agent", "learning_rate": 1.0}),
        (GRADIENT, {"indicators": "remembered", "learning_rate": 1.0, "redundancy": 2}),
        (GRADIENT, {"density": 0.3, "redundancy": 4, "learning_rate": 1.0}),
        (DEVICE, {"local_epochs": 2}),
        (LAZY, {}),
        (LAZY, {"broadcast": "free", "report_bits": 4000, "slowdown_probability": 0.5}),
        (LAZY, {"bandwidth": "equal", "local_epochs": 2, "redundancy": 2}),
        (LAZY, {"bandwidth": "agent", "selection": "top", "uploads_per_round": 3}),
        (LAZY, {"update": "gradient", "density": 0.2}),
        (LAZY, {"corrupt_devices": 3, "label_noise": 0.5}),
        (LAZY_DEVICE, {}),
        # Mini-batches, in the order that was drawn.
        (PLAIN, {"batch_size": 3, "local_epochs": 2, "learning_rate": 0.1, "redundancy": 2}),
        (PLAIN, {"batch_size": 4, "indicators": "remembered", "learning_rate": 0.1}),
        (LAZY, {"batch_size": 4, "local_epochs": 3, "learning_rate": 0.1}),
    ],
)
def test_an_episode_equals_the_plain_reference(name: str, fields: dict[str, Any], end: str) -> None:
    rounds = 9
    outcomes = outcomes_of(make(name, **fields), rounds, risk=end == "budget")
    limit = {**ENDLESS, "max_rounds": rounds}
    if end == "budget":
        limit = {**ENDLESS, **half_a_round(name, fields, outcomes)}
    env = make(name, **fields, **limit)
    observation, info = env.reset(seed=3)
    plain = Plain(env)
    compare_present(plain, observation)
    compare_past(plain, observation, 0.0, info)
    for outcome in outcomes:
        before, loss = env.problem.learner.weights.clone(), info["validation_loss"]
        wanted = plain.step(*outcome)
        observation, reward, terminated, truncated, info = play(env, outcome)
        np.testing.assert_allclose(global_model(env), wanted["model"], atol=2e-6)
        if not wanted["info"]["arrived"]:
            assert torch.equal(env.problem.learner.weights, before)
            assert reward == 0
        for key, value in wanted["info"].items():
            assert info[key] == pytest.approx(value, rel=1e-9), key
        assert (terminated, truncated) == (wanted["terminated"], wanted["truncated"])
        plain.slope = 0.7 * plain.slope + 0.3 * (loss - info["validation_loss"])
        compare_past(plain, observation, wanted["took"], info)
        if terminated or truncated:
            break
        plain.begin()
        compare_present(plain, observation)
    assert terminated == (end == "budget")
    assert truncated == (end == "rounds")
    assert plain.rounds >= 5
    if terminated:
        assert info["arrived"] == 0
        spent = info["joules" if env.config.mode == "lazy" else "seconds"]
        assert spent == pytest.approx(env.config.budget, rel=1e-12)
    loss, _ = plain.loss_and_gradient(global_model(env), env.problem.validation[0])
    assert info["validation_loss"] == pytest.approx(loss, rel=1e-5)
    fairness = plain.uploads.sum() ** 2 / (plain.k * np.square(plain.uploads).sum())
    assert info["fairness"] == pytest.approx(fairness)


@pytest.mark.parametrize(("batch_size", "local_epochs"), [(4, 2), (1, 1), (10, 3)])
def test_devices_train_in_mini_batches(batch_size: int, local_epochs: int) -> None:
    """A device whose samples are all alike takes the same steps in any order of them."""
    env = make(LAZY, batch_size=batch_size, local_epochs=local_epochs, size_spread=0, **ENDLESS)
    env.reset(seed=0)
    env.problem.rows[0] = env.problem.rows[0, :, :1]
    plain = Plain(env)
    models = []
    for k in range(4):
        model = plain.initial
        for _ in range(local_epochs * math.ceil(10 / batch_size)):
            model = model - 0.3 * plain.loss_and_gradient(model, plain.rows[k])[1]
        models.append(model)
    env.step(scores_of(0, 1, 2, 3))
    np.testing.assert_allclose(global_model(env), np.mean(models, axis=0), atol=3e-6)


def test_gradients_of_everyone_are_a_step_on_the_union() -> None:
    env = make(GRADIENT, partition="iid", size_spread=0.6, learning_rate=0.7, **ENDLESS)
    env.reset(seed=1)
    assert len(set(env.problem.sizes[0])) > 1
    plain = Plain(env)
    for _ in range(5):
        w = global_model(env)
        loss, gradient = plain.loss_and_gradient(w, np.concatenate(plain.rows))
        env.step(scores_of(0, 1, 2, 3))
        np.testing.assert_allclose(global_model(env), w - 0.7 * gradient, atol=2e-6)
    assert plain.loss_and_gradient(global_model(env), np.concatenate(plain.rows))[0] < loss


@pytest.mark.parametrize("density", [1.0, 0.2])
@pytest.mark.parametrize("name", [GRADIENT, LAZY])
def test_quantised_updates_and_what_devices_keep_back(name: str, density: float) -> None:
    bits = 4
    env = make(name, bits=bits, density=density, local_epochs=2, **ENDLESS)
    env.reset(seed=2)
    plain = Plain(env)
    n = len(plain.initial)
    n_kept = max(1, round(density * n))
    rng = np.random.default_rng(0)
    for step in range(12):
        k = int(rng.integers(4))
        lost = step % 3 == 1
        env.problem.packet_error[0] = lost
        w = global_model(env)
        wanted = plain.trained(w, k)[0] + plain.kept_back[k]
        env.step(scores_of(k))
        memory = env.problem.compressor.memory[0].double().numpy()
        # The server gets what the device believes to have sent, unless it is lost.
        sent = wanted - memory[k]
        np.testing.assert_allclose(global_model(env) - w, 0 if lost else sent, atol=2e-6)
        scale = np.abs(wanted).max() / (2 ** (bits - 1) - 1)
        places = np.abs(sent) > 1e-5
        assert places.sum() <= n_kept
        np.testing.assert_allclose(sent / scale, np.round(sent / scale), atol=2e-3)
        largest = np.argsort(-np.abs(wanted))[:n_kept]
        assert np.abs(sent - wanted)[largest].max() <= scale * 1.001
        assert not places[np.setdiff1d(np.arange(n), largest)].any()
        # Rounding follows from the device's own key of this round.
        key = env.problem.streams.keys(LANE, Purpose.ROUNDING, 4, step)[0, [k]]
        largest.sort()
        moved = wanted[largest] / scale + uniforms_of(key, n_kept)[0]
        clear = np.abs(moved - np.round(moved)) > 2e-3
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(
            np.round(sent[largest] / scale)[clear], np.floor(moved)[clear]
        )
        plain.kept_back[k] = memory[k]
        np.testing.assert_allclose(memory, plain.kept_back, atol=1e-12)
    assert np.abs(plain.kept_back).max(axis=1).min() > 0


def test_those_who_do_not_send_keep_nothing_back() -> None:
    env = make(density=0.2, budget_s=0.03, max_rounds=1000)
    env.reset(seed=0)
    env.problem.drop_out[0] = [1, 0, 0, 0]
    env.step(scores_of(0, 1))
    memory = env.problem.compressor.memory[0]
    assert memory.abs().amax(dim=1).bool().tolist() == [False, True, False, False]
    over = False
    while not over:
        before = memory.clone()
        *_, over, _, info = env.step(scores_of(0, 1, 2, 3))
        assert torch.equal(memory, before) == over
    # Nothing was sent in the round that was broken off.
    assert info["rounds"] > 2
    assert info["arrived"] == 0


def test_batch_normalisation_is_averaged_and_no_step_size_scales_it() -> None:
    fields = {"network": "mobilenet-v2", "image_size": 28, "n_devices": 2, "learning_rate": 0.1}
    fields |= {"uploads_per_round": 1, "samples_per_device": 3, "validation_size": 10}
    env = make(GRADIENT, **fields, size_spread=0, test_size=10, **ENDLESS)
    env.reset(seed=0)
    problem = env.problem
    gradients, _ = problem.learner.gradients(LANE, problem.rows, problem.sizes)
    scale = torch.ones(problem.network.n_values)
    scale[: problem.network.n_parameters] = 0.1
    wanted = problem.learner.weights[0] - scale * gradients[0].mean(dim=0)
    env.step(np.ones(2))
    torch.testing.assert_close(problem.learner.weights[0], wanted)


@pytest.mark.parametrize("name", [PLAIN, GRADIENT, LAZY])
def test_devices_may_be_named_in_any_order(name: str) -> None:
    env, twin = (make(name, update="gradient", **ENDLESS) for _ in range(2))
    env.reset(seed=4)
    for action in itertools.islice(random_actions(env.action_space), 3):
        env.step(action)
    order = np.array([2, 0, 3, 1])
    state = env.get_state()
    problem = state["problem"]
    by_device = [key for key, value in problem.items() if np.shape(value)[1:2] == (4,)]
    assert {"rows", "energy_j"} < set(by_device)
    permuted = {key: problem[key][:, order] for key in by_device}
    for part in ("memory", "arrived"):
        permuted[part] = {"vectors": problem[part]["vectors"][:, order]}
    permuted["fading"] = {key: value[..., order] for key, value in problem["fading"].items()}
    twin.set_state({**state, "problem": {**problem, **permuted}})
    action = np.array([0.2, 0.9, -0.5, 0.3])
    ours, theirs = twin.step(action[order]), env.step(action)
    np.testing.assert_allclose(global_model(twin), global_model(env), atol=1e-6)
    for key in ("round_s", "round_j", "seconds", "joules", "scheduled", "arrived"):
        assert ours[4][key] == pytest.approx(theirs[4][key], rel=1e-9)
    for seen in ("throughput", "staleness", "uploads", "arrivals", "samples", "energy_j"):
        wanted = column(env, theirs[0], "devices", seen)[order]
        np.testing.assert_allclose(column(twin, ours[0], "devices", seen), wanted, rtol=1e-6)
