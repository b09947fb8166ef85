"""What rounds of update scheduling take: shares of the band, waiting, the broadcast, budgets."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_update_scheduling import (
    ENDLESS,
    KNOWLEDGE,
    LANE,
    LAZY,
    PLAIN,
    Plain,
    agent,
    make,
    scores_of,
)
from references import column

from edge_gym.envs.update_scheduling.timing import Clock, share_band


@cache
def problem_of(bandwidth: str) -> Any:
    return make(bandwidth=bandwidth).problem


Seconds = st.lists(st.floats(1e-4, 1e3), min_size=4, max_size=4)


@settings(max_examples=150, deadline=None)
@given(
    needs=Seconds,
    ready=Seconds,
    answering=st.lists(st.booleans(), min_size=4, max_size=4),
    logits=st.lists(st.floats(-1, 1), min_size=4, max_size=4),
)
def test_shares_of_the_band(
    needs: list[float], ready: list[float], answering: list[bool], logits: list[float]
) -> None:
    who = np.array([answering])
    finishes = {}
    for bandwidth in ("finish", "equal", "agent"):
        problem = problem_of(bandwidth)
        # At this efficiency an upload takes as long as it should.
        efficiency = problem.compressor.payload_bits / problem.config.bandwidth_hz / np.array(needs)
        efficiency = np.maximum(efficiency, 1e-6)
        problem.mean_snr[0] = 1
        problem.fading.gain[0] = np.expm1(efficiency * math.log(2))
        upload_s = problem.upload_s(LANE)[0]
        given_logits = np.array([logits]) if bandwidth == "agent" else None
        ready_s = np.array([ready])
        clock = Clock(np.zeros(1), np.zeros(1), ready_s, ready_s)
        shares, finish_s = share_band(bandwidth, upload_s[None], who, clock, given_logits)
        assert not shares[~who].any()
        assert not finish_s[~who].any()
        if not who.any():
            continue
        assert (shares[who] > 0).all()
        assert shares.sum() == pytest.approx(1, rel=1e-6)
        # Nobody is faster than with the whole band.
        alone = (np.array(ready) + upload_s)[who[0]]
        assert (finish_s[who] >= alone * (1 - 1e-9)).all()
        takes = upload_s / np.where(who[0], shares[0], 1)
        np.testing.assert_allclose(finish_s[who], (ready + takes)[who[0]], rtol=1e-9)
        finishes[bandwidth] = finish_s[who]
        if bandwidth == "finish":
            np.testing.assert_allclose(finish_s[who], finish_s.max(), rtol=1e-9)
        if bandwidth == "agent":
            weights = np.exp(4 * np.array(logits))[who[0]]
            np.testing.assert_allclose(shares[who], weights / weights.sum(), rtol=1e-9)
    if who.any():
        # No other shares end the round earlier.
        best = finishes["finish"].max() * (1 - 1e-6)
        assert finishes["equal"].max() >= best
        assert finishes["agent"].max() >= best


@pytest.mark.parametrize(("name", "fields"), KNOWLEDGE)
def test_a_round_in_which_nobody_answers_takes_time_and_energy(
    name: str, fields: dict[str, Any]
) -> None:
    env = make(name, **fields, drop_out=0.5, max_rounds=4, budget_s=1e3)
    env.reset(seed=0)
    env.problem.drop_out[0] = 1
    before = env.problem.learner.weights.clone()
    seconds = joules = 0.0
    for step in range(4):
        plain = Plain(env)
        expected = plain.ready([0, 2])[1][[0, 2]].max()
        computing = [0, 2] if plain.knowledge in ("lazy", "remembered") else [0, 1, 2, 3]
        reporting = [0, 1, 2, 3] if plain.knowledge in ("lazy", "reported") else []
        observation, reward, terminated, truncated, info = env.step(scores_of(0, 2))
        # As long as waiting for the slower one, or for the reports.
        seconds += expected
        joules += plain.compute_j[computing].sum()
        joules += (plain.watt * 32 / plain.rate[reporting]).sum()
        assert info["seconds"] == pytest.approx(seconds)
        assert info["joules"] == pytest.approx(joules)
        assert info["round_s"] >= plain.compute_s[[0, 2]].min()
        assert (info["scheduled"], info["arrived"], reward) == (2, 0, 0)
        assert (terminated, truncated) == (False, step == 3)
        assert column(env, observation, "devices", "arrivals").tolist() == [0, 1, 0, 1]
    assert torch.equal(env.problem.learner.weights, before)


@pytest.mark.parametrize(("name", "fields"), KNOWLEDGE)
def test_failures_spend_the_budget(name: str, fields: dict[str, Any]) -> None:
    """Where nothing ever arrives, the budget ends all the same."""
    for risk in ({"drop_out": 1.0}, {"packet_error": 1.0}):
        env = make(name, **fields, **risk, budget_s=2e-3, budget_j=5e-5, max_rounds=10_000)
        env.reset(seed=0)
        env.problem.drop_out[0] = env.config.drop_out
        env.problem.packet_error[0] = env.config.packet_error
        over = False
        while not over:
            *_, over, truncated, info = env.step(scores_of(0, 2))
            assert not truncated
        assert info["arrived"] == 0
        assert info["rounds"] < 100


def test_one_who_does_not_answer_is_waited_for() -> None:
    for name, fields in KNOWLEDGE[1::2]:
        env = make(name, **fields, slowdown_probability=0, **ENDLESS)
        env.reset(seed=0)
        slow = int(np.argmax(env.problem.compute_s[0]))
        # So that the others have finished long before.
        env.problem.cpu_hz[0, slow] /= 1e3
        env.problem.compute_s[0, slow] *= 1e3
        env.problem.drop_out[0, slow] = 1
        wanted = Plain(env).ready([0, 1, 2, 3])[1][slow]
        *_, info = env.step(scores_of(0, 1, 2, 3))
        assert info["round_s"] == pytest.approx(wanted)
        assert info["arrived"] == 3


def test_leaving_the_slowest_out_makes_the_next_round_shorter() -> None:
    env, twin = (make(participation="agent", slowdown_probability=0.0, **ENDLESS) for _ in "ab")
    for each in (env, twin):
        each.reset(seed=0)
    slowest = int(np.argmax(env.problem.nominal_s(LANE)))
    scores = scores_of(*np.argsort(env.problem.nominal_s(LANE)[0])[:1])
    wanted = np.where(np.arange(4) == slowest, -1, 1)
    observations = [e.step(agent(scores, p))[0] for e, p in ((env, wanted), (twin, np.ones(4)))]
    nominal_s = column(env, observations[0], "devices", "nominal_s")
    without, with_all = (
        float(column(e, o, "system", "elapsed_s"))
        for e, o in zip((env, twin), observations, strict=True)
    )
    saved = nominal_s[slowest] - np.delete(nominal_s, slowest).max()
    assert saved > 0
    # Reports and the broadcast are shorter too, by less.
    assert saved <= (with_all - without) * (1 + 1e-5)
    infos = [e.step(agent(scores, np.ones(4)))[4] for e in (env, twin)]
    assert infos[0]["round_s"] < infos[1]["round_s"] - 0.99 * saved
    assert infos[0]["round_j"] < infos[1]["round_j"]


@pytest.mark.parametrize(("name", "fields"), KNOWLEDGE)
def test_the_broadcast_takes_its_time(name: str, fields: dict[str, Any]) -> None:
    """At 46 dBm and 32 bits a value, whatever updates are compressed to."""
    rounds = {}
    for setting in ({}, {"broadcast": "free"}, {"downlink_power_dbm": 0.0}, {"bits": 8}):
        env = make(name, **fields, **setting, slowdown_probability=0.0, **ENDLESS)
        env.reset(seed=0)
        efficiency = np.log2(1 + 10**2.3 * env.problem.mean_snr[0] * env.problem.fading.gain[0])
        rounds[next(iter(setting), "")] = env.step(scores_of(1, 2))[4]
    bits = 32 * (49 * 8 + 8 + 8 * 10 + 10)
    wanted = rounds[""]["broadcast_s"]
    receiving = efficiency[[1, 2]] if "remembered" in fields.values() else efficiency
    assert wanted == pytest.approx(bits / (5e6 * receiving.min()))
    assert rounds["bits"]["broadcast_s"] == wanted
    assert rounds["broadcast"]["broadcast_s"] == 0
    difference = rounds[""]["round_s"] - rounds["broadcast"]["round_s"]
    assert difference == pytest.approx(wanted)
    assert rounds["downlink_power_dbm"]["broadcast_s"] > wanted
    # Devices' energy alone is counted, and receiving costs none.
    assert rounds[""]["round_j"] == pytest.approx(rounds["broadcast"]["round_j"])


@pytest.mark.parametrize("name", [PLAIN, LAZY])
def test_a_budget_that_is_spent_to_the_end_ends_the_episode(name: str) -> None:
    """A round that takes exactly what is left still counts."""
    fields = {"slowdown_probability": 0.0}
    env = make(name, **fields, **ENDLESS)
    env.reset(seed=0)
    info = env.step(scores_of(1))[4]
    budget = {"budget_s": info["seconds"], "budget_j": info["joules"]}
    env = make(name, **fields, **budget, max_rounds=1)
    env.reset(seed=0)
    *_, terminated, truncated, last = env.step(scores_of(1))
    assert (terminated, truncated, last["arrived"]) == (True, False, 1)
    assert last["seconds"] == info["seconds"]


@pytest.mark.parametrize(
    ("fields", "bits_each", "places"),
    [
        ({}, 32, 0),
        ({"bits": 8}, 8, 0),
        ({"density": 0.01}, 32, "index"),
        ({"density": 0.5, "bits": 2}, 2, "bitmap"),
    ],
)
def test_the_payload_is_what_is_uploaded(
    fields: dict[str, Any], bits_each: int, places: Any
) -> None:
    env = make(**fields)
    observation, _ = env.reset(seed=0)
    n = 49 * 8 + 8 + 8 * 10 + 10
    kept = round(fields.get("density", 1) * n)
    extra = {0: 0, "index": kept * 9, "bitmap": n}[places] + 32 * ("bits" in fields)
    efficiency = column(env, observation, "devices", "efficiency")
    wanted = (kept * bits_each + extra) / (5e6 * efficiency)
    np.testing.assert_allclose(column(env, observation, "devices", "upload_s"), wanted, rtol=1e-5)
