"""Scores that are no actions yet, and actions that are combinations of devices' levels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from rollouts import FEW_TASKS, SMALL
from training_runs import KilledError, run_files

from edge_gym.agents import load_agent, read_agent_metadata, save_agent, train
from edge_gym.agents.decoders import make_decoder
from edge_gym.agents.networks.deep_sets import DeviceArchitecture, scores_network
from edge_gym.agents.recipe import Recipe, parse_recipe
from edge_gym.agents.training.model import make_model
from edge_gym.baselines import make_baseline
from edge_gym.baselines.batch_slot import observed_costs as observed_round_costs
from edge_gym.core.observation import Observation
from edge_gym.envs.batch_slot.actions import DirectCodec
from edge_gym.envs.offloading.actions import OffloadingCodec, combination_of
from edge_gym.envs.offloading.costs import observed_costs as observed_offloading_costs
from edge_gym.envs.task_allocation.costs import observed_costs, observed_total
from edge_gym.integrations.sb3 import LaneVecEnv
from edge_gym.solvers.batch_slot import optimal_slots
from edge_gym.solvers.offloading import evaluate, optimal_resources

FILL = {"name": "fill-in-order"}
BATCHES = {
    "name": "optimal-slots",
    "policy": {"name": "growing-batch-slot", "first": 0.5, "last": 2.0},
    "scale": math.log(2),
}
SPLIT = {"name": "optimal-resources", "policy": {"name": "near-optimal"}, "scale": 0.25}


def make_vec(name: str, lanes: int = 3, **fields: Any) -> Any:
    return gym.make_vec(
        f"edge_gym/{name}", lanes, autoreset_mode="SameStep", **{**SMALL[name], **fields}
    )


def tasks_vec(name: str = "TaskAllocation-v0", **fields: Any) -> Any:
    return make_vec(name, **{"cycles": 3, "n_devices": 6, "cycle_s": 2.5, **fields})


def decoded(lanes: Any, decoder: Mapping[str, Any]) -> LaneVecEnv:
    return LaneVecEnv(lanes, decoder=make_decoder(decoder, lanes))


def recipe(algorithm: str = "ppo", **changes: Any) -> Recipe:
    hyperparameters: dict[str, Any] = {
        "learning_rate": 1e-3,
        "learning_rate_schedule": "constant",
        "n_steps": 4,
        "batch_size": 6,
        "gamma": 1.0,
        "max_grad_norm": 0.5,
    }
    if algorithm == "ppo":
        hyperparameters |= {
            "n_epochs": 2,
            "gae_lambda": 0.95,
            "clip_range": 0.2,
            "ent_coef": 0.0,
            "vf_coef": 0.5,
        }
    else:
        hyperparameters |= {
            "buffer_size": 100,
            "learning_starts": 3,
            "tau": 1.0,
            "train_freq": 1,
            "gradient_steps": 1,
            "target_update_interval": 6,
            "exploration_fraction": 0.5,
            "exploration_initial_eps": 1.0,
            "exploration_final_eps": 0.1,
        }
    values = {
        "algorithm": algorithm,
        "steps": 24,
        "lanes": 3,
        "checkpoint_every": 12,
        "network": {"hidden": [8, 8], "activation": "relu", "context": "mean-max"},
        "hyperparameters": hyperparameters,
        "evaluation": {"every": 24, "episodes": 3, "lanes": 3},
    }
    network = {**values["network"], **changes.pop("network", {})}  # type: ignore[dict-item]
    return parse_recipe({**values, "network": network, **changes}, "test")


@pytest.mark.parametrize("scale", [0.0, 0.6])
def test_learners_are_filled_in_order(scale: float) -> None:
    env = tasks_vec(cycle_s=1.2)
    observations, _ = env.reset(seed=5)
    scores = scale * np.random.default_rng(0).uniform(-1, 1, (3, 6, 2))
    actions = make_decoder(FILL, env).decode(observations, scores)
    seen = Observation(env.unwrapped.tables, observations)
    costs, totals = observed_costs(seen, env.unwrapped.config), observed_total(seen)
    problem = env.unwrapped.problem
    samples, updates, _ = problem.decide(np.arange(3), actions)
    given_fully = 0
    for lane in range(3):
        wanted = [round(6 ** ((score + 1) / 2)) for score in scores[lane, :, 1]]
        holds_one = costs.capacity(1.0)[lane]
        order = sorted(
            range(6), key=lambda k: -(np.log(max(holds_one[k], 1e-9)) + 2 * scores[lane, k, 0])
        )
        left, expected = int(totals[lane]), np.zeros(6, int)
        for k in order:
            room = int(costs.capacity(np.full(6, wanted[k]))[lane, k] + 1e-9)
            expected[k] = min(room, left)
            left -= expected[k]
            given_fully += expected[k] == room > 0
            if expected[k] == room > 0:
                assert updates[lane, k] >= min(wanted[k], env.unwrapped.config.most_updates)
        expected[order[-1]] += left
        np.testing.assert_array_equal(samples[lane], expected)
        assert samples[lane].sum() == totals[lane]
    assert given_fully >= 3
    _, _, _, _, infos = env.step(actions)
    assert (infos["lowered"] == 0).all()


def test_a_higher_score_comes_first() -> None:
    env = tasks_vec(cycle_s=1.2)
    observations, _ = env.reset(seed=5)
    decoder = make_decoder(FILL, env)
    problem = env.unwrapped.problem
    for k in range(6):
        samples = []
        for score in (-1.0, 1.0):
            scores = np.zeros((3, 6, 2))
            scores[:, k, 0] = score
            samples.append(problem.decide(np.arange(3), decoder.decode(observations, scores))[0])
        assert (samples[1][:, k] >= samples[0][:, k]).all()
    assert (samples[1] != samples[0]).any()


def test_resources_are_chosen_for_the_tasks() -> None:
    env = tasks_vec("JointTaskResource-v0", cycle_s=1.2)
    observations, _ = env.reset(seed=5)
    decoder = make_decoder(FILL, env)
    assert decoder.columns == 3
    rng = np.random.default_rng(0)
    doing = []
    for _ in range(3):
        actions = decoder.decode(observations, rng.uniform(-1, 1, (3, 6, 3)))
        assert env.single_action_space.contains(actions[0])
        observations, _, _, _, infos = env.step(actions)
        assert (infos["finish_s"] <= 1.2 * (1 + 1e-9)).all() if "finish_s" in infos else True
        doing.append(infos.get("lowered", infos.get("final_info", {}).get("lowered")))
    assert all((lowered == 0).all() for lowered in doing)


def test_a_wider_band_is_asked_for_by_the_third_score() -> None:
    env = tasks_vec("JointTaskResource-v0")
    observations, _ = env.reset(seed=5)
    decoder = make_decoder(FILL, env)
    scores = np.zeros((3, 6, 3))
    narrow = decoder.decode(observations, scores)
    scores[:, 2, 2] = 1
    wide = decoder.decode(observations, scores)
    bands = [np.exp(3.0 * actions[..., 2]) for actions in (narrow, wide)]
    shares = [band / band.sum(axis=-1, keepdims=True) for band in bands]
    assert (shares[1][:, 2] > 1.5 * shares[0][:, 2]).all()


def test_residuals_are_added_to_a_rule() -> None:
    env = tasks_vec()
    observations, _ = env.reset(seed=1)
    policy = {"name": "ha-asyn", "cap": 2}
    decoder = make_decoder({"name": "residual", "policy": policy, "scale": 0.1}, env)
    rule = make_baseline("ha-asyn", env, cap=2).act(observations)
    np.testing.assert_array_equal(decoder.decode(observations, np.zeros((3, 6, 2))), rule)
    scores = np.random.default_rng(0).uniform(-1, 1, (3, 6, 2))
    moved = decoder.decode(observations, scores)
    np.testing.assert_allclose(moved, np.clip(rule + 0.1 * scores, -1, 1), atol=1e-6)
    assert moved.dtype == np.float32
    assert not np.array_equal(moved, rule)
    # An agent of before there was a second column leaves it to the rule.
    np.testing.assert_array_equal(
        decoder.decode(observations, scores[..., :1])[..., 1], rule[..., 1]
    )


def test_resources_are_optimal_for_what_is_offloaded() -> None:
    env = make_vec("Offloading-v0", lanes=8)
    observations, _ = env.reset(seed=1)
    decoder, rule = make_decoder(SPLIT, env), make_baseline("near-optimal", env)
    for step in range(2):
        # Tasks come in every second iteration.
        assert (env.problem.task_bits > 0).any() == bool(step)
        found = decoder.decode(observations, np.zeros((8, 3, 1)))
        near = rule.act(observations)
        assert found.dtype == np.float32
        # In the grid's cells the rule's own resources are not quite optimal.
        np.testing.assert_allclose(found[..., 3], near[..., 3], atol=1e-6)
        scores = np.random.default_rng(step).uniform(-1, 1, (8, 3, 1))
        moved = decoder.decode(observations, scores)
        costs = observed_offloading_costs(Observation(env.tables, observations), env.config)
        tasks = costs.task_bits > 0
        begin, end = (OffloadingCodec(env.config).decode(action, tasks) for action in (near, moved))
        # Actions go from -1 to 1, with an edge on both sides that is all or nothing.
        wanted = np.clip(1.05 * (near[..., 3] + 0.5 * scores[..., 0]) / 2 + 0.5, 0, 1)
        np.testing.assert_allclose(end.offloaded, np.where(tasks, wanted, 0), atol=1e-6)
        best = evaluate(costs, optimal_resources(costs, end.offloaded)).wsel
        np.testing.assert_allclose(evaluate(costs, end).wsel, best, rtol=1e-5)
        if step:
            assert (evaluate(costs, end).wsel > evaluate(costs, begin).wsel).all()
        observations, *_ = env.step(moved)


def test_slots_are_optimal_for_the_batches() -> None:
    env = make_vec("BatchSlot-v0", lanes=8)
    observations, _ = env.reset(seed=2)
    decoder = make_decoder(BATCHES, env)
    rule = make_baseline("growing-batch-slot", env, first=0.5, last=2.0)
    for step in range(2):
        seen = Observation(env.tables, observations)
        costs = observed_round_costs(seen, env.config)
        codec = DirectCodec(env.config)
        begin = codec.decode(rule.act(observations)).allocation(costs.max_batch)
        shape = (*begin.batch.shape, 1)
        still = decoder.decode(observations, np.zeros(shape))
        assert still.dtype == np.float32
        # The rule's slots are optimal already.
        np.testing.assert_allclose(still, rule.act(observations), atol=1e-6)
        scores = np.random.default_rng(step).uniform(-1, 1, shape)
        actions = decoder.decode(observations, scores)
        moved = codec.decode(actions).allocation(costs.max_batch)
        wanted = np.clip(np.rint(begin.batch * 2.0 ** scores[..., 0]), 1, costs.max_batch)
        np.testing.assert_array_equal(moved.batch, wanted)
        best = optimal_slots(costs, wanted)
        np.testing.assert_allclose(moved.uplink_slot, best.uplink_slot, rtol=1e-5)
        np.testing.assert_allclose(moved.downlink_slot, best.downlink_slot, rtol=1e-5)
        assert not np.array_equal(moved.batch, begin.batch)
        observations, *_ = env.step(actions)


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("BatchSlotGlobal-v0", BATCHES, "continuous actions"),
        ("TaskAllocation-v0", BATCHES, "for batches and slots"),
        ("BatchSlot-v0", {**BATCHES, "policy": {"name": "random-batches"}}, "at random"),
        ("OffloadingGrid-v0", SPLIT, "continuous actions"),
        ("TaskAllocation-v0", SPLIT, "for offloading"),
        ("TaskAllocation-v0", {"name": "magic"}, "unknown decoder 'magic'; known are residual"),
        ("TaskAllocation-v0", {**FILL, "speed": 1}, "fill-in-order"),
        ("TaskAllocationStaleness-v0", FILL, "continuous actions"),
        ("BatchSlot-v0", FILL, "task allocation"),
        ("TaskAllocation-v0", {"name": "residual"}, "policy"),
        ("TaskAllocation-v0", {"name": "residual", "policy": {"name": "random"}}, "at random"),
        (
            "TaskAllocationStaleness-v0",
            {"name": "residual", "policy": {"name": "ha-sync"}},
            "continuous",
        ),
    ],
)
def test_what_does_not_suit_is_explained(name: str, wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_decoder(wanted, make_vec(name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {"decoder": "fill"}}, r"network\.decoder must be a mapping with name"),
        ({"network": {"decoder": {"scale": 1}}}, r"network\.decoder must be a mapping with name"),
        ({"network": {"decoder": FILL}, "imitation": {"policy": {"name": "ha-sync"}}}, "imitation"),
    ],
)
def test_recipes_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


def test_dqn_has_no_decoder() -> None:
    with pytest.raises(ValueError, match="is for ppo"):
        recipe("dqn", network={"decoder": FILL})


def test_the_adapter_decodes_what_was_seen() -> None:
    adapted, plain = decoded(tasks_vec(), FILL), tasks_vec()
    assert adapted.action_space.shape == (6, 2)
    decoder = make_decoder(FILL, plain)
    adapted.seed(0)
    seen, (expected, _) = adapted.reset(), plain.reset(seed=0)
    rng = np.random.default_rng(0)
    for step in range(5):
        np.testing.assert_array_equal(seen["devices"], expected["devices"])
        scores = rng.uniform(-1, 1, (3, 6, 2)).astype(np.float32)
        if step == 2:
            # Another one goes on from here.
            state, other = adapted.get_state(), decoded(tasks_vec(), FILL)
            other.seed(7)
            other.reset()
            other.set_state(state)
            adapted = other
        seen, rewards, _, _ = adapted.step(scores)
        expected, gains, *_ = plain.step(decoder.decode(expected, scores))
        np.testing.assert_allclose(rewards, gains, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "decoder", "columns"), [("TaskAllocation-v0", FILL, 2), ("Offloading-v0", SPLIT, 4)]
)
def test_agents_are_saved_with_their_decoder(
    name: str, decoder: dict[str, Any], columns: int, tmp_path: Path
) -> None:
    env = decoded(make_vec(name), decoder)
    model = make_model(recipe(network={"decoder": decoder}), env)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    path = save_agent(model, tmp_path / "agent", {"decoder": decoder})
    env.seed(3)
    seen = env.reset()
    scores, _ = model.predict(seen, deterministic=True)
    assert (np.abs(scores) < 1).any()
    agent = load_agent(path, env.env)
    expected = make_decoder(decoder, env.env).decode(seen, scores)
    np.testing.assert_allclose(agent.act(seen), expected, atol=1e-6)
    # As many devices as there are.
    more = make_vec(name, n_devices=9)
    observations, _ = more.reset(seed=1)
    assert agent.act(observations).shape == (3, 9, columns)
    alone = {part: values[0] for part, values in observations.items()}
    np.testing.assert_allclose(agent.act(alone), agent.act(observations)[0], atol=1e-6)


def test_training_with_a_decoder_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, replace_file, saves = recipe(network={"decoder": FILL}), Path.replace, 0

    def run(folder: str, resume: bool = False) -> Path:
        return train(
            "ppo",
            "TaskAllocation-v0",
            recipe=plan,
            out=tmp_path / folder,
            resume=resume,
            overrides={**FEW_TASKS, "cycles": 3},
            progress=False,
        )

    def dying_replace(self: Path, target: Any) -> Path:
        nonlocal saves
        saves += Path(target).name == "checkpoint.safetensors"
        if saves == 2:
            raise KilledError
        return replace_file(self, target)

    whole = run("whole")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying_replace)
        with pytest.raises(KilledError):
            run("parts")
    parts = run("parts", resume=True)
    assert run_files(parts.parent) == run_files(whole.parent)
    assert read_agent_metadata(parts)["decoder"] == FILL


def test_combinations_are_scored_by_sums() -> None:
    shape = DeviceArchitecture(
        {"devices": 3, "system": 2}, "combination", (6, 5), "tanh", "mean", outputs=4
    )
    single = DeviceArchitecture(
        {"devices": 3, "system": 2}, "device", (6, 5), "tanh", "mean", outputs=4
    )
    torch.manual_seed(0)
    network, levels = scores_network(shape), scores_network(single)
    levels.load_state_dict(network.state_dict())
    parts = {"devices": torch.randn(2, 3, 3), "system": torch.randn(2, 2)}
    with torch.no_grad():
        found, each = network(parts), levels(parts).view(2, 3, 4)
    assert found.shape == (2, 64)
    for index, (a, b, c) in enumerate(itertools.product(range(4), repeat=3)):
        expected = each[:, 0, a] + each[:, 1, b] + each[:, 2, c]
        torch.testing.assert_close(found[:, index], expected)


def test_combinations_are_numbered_as_the_environment_does() -> None:
    levels = np.array(list(itertools.product(range(6), repeat=2)))
    np.testing.assert_array_equal(combination_of(levels), np.arange(36))


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_agents_choose_combinations(tmp_path: Path, algorithm: str) -> None:
    fields = {**SMALL["OffloadingDiscrete-v0"], "n_devices": 2, "iterations": 3}
    path = train(
        algorithm,
        "OffloadingDiscrete-v0",
        recipe=recipe(algorithm),
        out=tmp_path / algorithm,
        overrides=fields,
        progress=False,
    )
    for users in (2, 3):
        env = make_vec("OffloadingDiscrete-v0", **{**fields, "n_devices": users})
        observations, _ = env.reset(seed=0)
        chosen = load_agent(path, env).act(observations)
        assert chosen.shape == (3,)
        assert ((chosen >= 0) & (chosen < 6**users)).all()
