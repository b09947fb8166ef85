"""The agents: adapter, recipes, training and its checkpoints, agents on disk."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from paths import TESTS
from safetensors.numpy import save_file
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from training_runs import ID, TINY, KilledError, run_files, tiny_recipe

import edge_gym
from edge_gym.agents import (
    ALGORITHMS,
    AgentError,
    LaneVecEnv,
    Recipe,
    TrainingInterrupted,
    decoders,
    find_recipe,
    load_agent,
    load_recipe,
    packing,
    read_agent_metadata,
    save_agent,
    shipped_agents,
    store,
    train,
)
from edge_gym.agents import archive as files
from edge_gym.agents import recipe as recipes
from edge_gym.agents.networks import deep_sets as networks
from edge_gym.agents.networks.activations import IN_PLACE
from edge_gym.agents.networks.deep_sets import (
    DeviceArchitecture,
    DeviceScores,
    DeviceSummary,
    JointLinear,
)
from edge_gym.agents.networks.replay import PartsReplayBuffer
from edge_gym.agents.networks.scaling import ScaledFeatures, ScaledParts
from edge_gym.agents.networks.signs import as_many_positive
from edge_gym.agents.policy import AgentPolicy
from edge_gym.agents.recipe import Imitation, parse_recipe
from edge_gym.agents.training import imitation
from edge_gym.agents.training import run as training
from edge_gym.agents.training.imitation import imitate
from edge_gym.agents.training.model import make_model
from edge_gym.baselines import make_baseline
from edge_gym.cli import main as cli
from edge_gym.core.observation import Column, ObservationTable
from edge_gym.core.problem import Problem, Step
from edge_gym.core.state import LaneArray
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.evaluation import policies
from edge_gym.evaluation.rollouts import Policy, make_lanes, run_episodes
from edge_gym.evaluation.seeds import SELECTION, TRAINING
from edge_gym.runtime.files import FolderInUseError, working_in


def make(lanes: int, **fields: Any) -> LaneVecEnv:
    env = gym.make_vec(ID, num_envs=lanes, autoreset_mode="SameStep", config={**TINY, **fields})
    return LaneVecEnv(env)


def tiny_train(algorithm: str, out: Path, **kwargs: Any) -> Path:
    kwargs = {"recipe": tiny_recipe(algorithm), "overrides": TINY, "progress": False, **kwargs}
    return train(algorithm, ID, out=out, **kwargs)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One uninterrupted run of each algorithm."""
    runs = {name: tmp_path_factory.mktemp(name) / "run" for name in ALGORITHMS}
    for name, out in runs.items():
        tiny_train(name, out)
    return runs


@pytest.fixture
def agent_file(finished: Mapping[str, Path], tmp_path: Path) -> Path:
    copy = tmp_path / "agent.safetensors"
    copy.write_bytes((finished["ppo"] / "best.safetensors").read_bytes())
    return copy


def final_state(out: Path) -> Any:
    """What a run's checkpoint says, but for wall times and what no lane's learner holds."""
    arrays, header = files.read_tensors(out / "checkpoint.safetensors", "checkpoint")
    state = packing.unpack(arrays, header["state"])
    for timed, name in ((state["model"]["episodes"], "t"), (state["scores"], "seconds")):
        for entry in timed:
            del entry[name]
    for env in state["envs"]:
        learner = env["env"]["problem"]["learner"]
        for name in ("z", "alpha", "gradient"):
            for lane, count in enumerate(learner["count"]):
                learner[name][lane, count:] = 0
    arrays, packed = packing.pack(state)
    return {name: array.tobytes() for name, array in arrays.items()}, json.dumps(packed)


# The adapter


def test_adapter_equals_dummy_vec_env() -> None:
    """Lanes through the adapter are scalar environments through DummyVecEnv, resets included."""
    ours = make(3)
    theirs = DummyVecEnv([lambda: gym.make(ID, config=TINY)] * 3)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.seed(7) == theirs.seed(7)
    np.testing.assert_allclose(ours.reset(), theirs.reset(), rtol=1e-5)
    assert ours.reset_infos == theirs.reset_infos
    rng, ended = np.random.default_rng(0), 0
    for _ in range(3 * TINY["budget"]):
        actions = rng.integers(0, 2, 3)
        observations, rewards, dones, infos = ours.step(actions)
        expected = theirs.step(actions)
        np.testing.assert_allclose(observations, expected[0], rtol=1e-5)
        np.testing.assert_allclose(rewards, expected[1], atol=1e-6)
        assert rewards.dtype == expected[1].dtype
        assert dones.tolist() == expected[2].tolist()
        for lane in np.flatnonzero(dones):
            ended += 1
            info, other = dict(infos[lane]), dict(expected[3][lane])
            np.testing.assert_allclose(
                info.pop("terminal_observation"), other.pop("terminal_observation"), rtol=1e-5
            )
            assert info.pop("episode")["l"] == TINY["budget"]
            assert info == pytest.approx(other)
        assert ours.reset_infos == theirs.reset_infos
    assert ended == 9


def test_adapter_episode_reports_and_reward_scale() -> None:
    env, scaled = make(2), make(2)
    scaled.reward_scale = 20.0
    for e in (env, scaled):
        e.seed(3)
        e.reset()
    total = np.zeros(2)
    for _ in range(TINY["budget"]):
        _, reward, dones, infos = env.step(np.zeros(2, int))
        _, more, _, reports = scaled.step(np.zeros(2, int))
        np.testing.assert_allclose(more, 20 * reward, rtol=1e-6)
        total += reward
    assert dones.all()
    for lane in range(2):
        assert infos[lane]["episode"]["r"] == pytest.approx(total[lane], abs=1e-6)
        assert reports[lane]["episode"]["r"] == infos[lane]["episode"]["r"]
        assert infos[lane]["total_gain"] == pytest.approx(total[lane], abs=1e-6)
        assert infos[lane]["TimeLimit.truncated"] is False


def test_adapter_attributes_and_methods() -> None:
    env = make(3)
    env.seed(0)
    env.reset()
    assert env.get_attr("config")[0].budget == TINY["budget"]
    assert env.get_attr("config", indices=[0, 2])[1] is env.get_attr("config", indices=1)[0]
    assert env.get_attr("action_space") == [env.action_space] * 3
    assert env.get_attr("np_random_seed") == [0, 1, 2]
    assert env.has_attr("action_masks")
    assert not env.has_attr("nothing")
    masks = np.stack(env.env_method("action_masks"))
    np.testing.assert_array_equal(masks, env.action_masks())
    assert len(env.env_method("action_masks", indices=[1])) == 1
    env.set_attr("render_mode", None)
    with pytest.raises(ValueError, match="share their attributes"):
        env.set_attr("render_mode", None, indices=[0])
    assert env.env_is_wrapped(Monitor) == [True] * 3
    assert env.env_is_wrapped(gym.Wrapper) == [False] * 3
    with pytest.warns(UserWarning, match="render_mode"):
        assert list(env.get_images()) == [None] * 3
    env.close()


def test_adapter_pictures() -> None:
    env = gym.make_vec(
        ID, num_envs=2, autoreset_mode="SameStep", config=TINY, render_mode="rgb_array"
    )
    adapter = LaneVecEnv(env)
    adapter.reset()
    pictures = list(adapter.get_images())
    assert [picture.shape[-1] for picture in pictures if picture is not None] == [3, 3]
    tiled = adapter.render()
    assert tiled is not None
    assert tiled.shape[0] >= pictures[0].shape[0]


def test_adapter_options_and_modes() -> None:
    env = make(2)
    env.set_options({"anything": 1})
    env.reset()
    env.set_options([{"anything": 1}, {}])
    with pytest.raises(ValueError, match="the same options"):
        env.reset()
    with pytest.raises(ValueError, match="SameStep"):
        LaneVecEnv(gym.make_vec(ID, num_envs=2, config=TINY))
    with pytest.raises(TypeError, match=r"takes what gym\.make_vec"):
        LaneVecEnv(gym.make(ID, config=TINY))  # type: ignore[arg-type]


def test_adapter_state_mid_episode() -> None:
    env = make(3)
    env.seed(5)
    env.reset()
    rng = np.random.default_rng(1)
    actions = rng.integers(0, 2, (50, 3))
    for row in actions[:10]:
        env.step(row)
    arrays, state = packing.pack(env.get_state())
    other = make(3)
    other.reset()
    other.set_state(packing.unpack(arrays, json.loads(json.dumps(state))))
    for row in actions[10:]:
        expected, got = env.step(row), other.step(row)
        for theirs, ours in zip(expected[:3], got[:3], strict=True):
            np.testing.assert_array_equal(theirs, ours)
        assert [info.get("episode", {}).get("r") for info in expected[3]] == [
            info.get("episode", {}).get("r") for info in got[3]
        ]


def test_evaluate_policy_reads_unscaled_returns(recwarn: pytest.WarningsRecorder) -> None:
    env = make(2)
    env.reward_scale = 100.0
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu", seed=0)
    recwarn.clear()
    mean, _ = evaluate_policy(model, env, n_eval_episodes=4)
    assert not [w for w in recwarn if "Monitor" in str(w.message)]
    assert -1 < mean < 1


# Recipes


LESSON = {
    "policy": {"name": "channel-aware", "max_snr_db": 10.0},
    "episodes": 24,
    "noise": 0.1,
    "epochs": 40,
    "batch_size": 64,
}


def test_imitation_teaches_the_rule_and_its_returns() -> None:
    recipe = tiny_recipe("ppo", imitation=LESSON, network={"hidden": [32], "activation": "tanh"})
    env = make(8)
    env.seed(0)
    model = make_model(recipe, env)
    imitate(model, [env], recipe.imitation, "ppo")
    rule = make_baseline("channel-aware", env.env, max_snr_db=10.0)
    agreed, values = [], []
    observation = env.reset()
    for _ in range(3 * TINY["budget"]):
        action, _ = model.predict(observation, deterministic=True)
        agreed.append(action == rule.act(observation))
        values.append(model.policy.predict_values(torch.as_tensor(observation)).detach().numpy())
        observation, *_ = env.step(rule.act(observation))
    assert np.mean(agreed) > 0.9
    # Unsure as told: the teacher erred in one of ten steps.
    distribution = model.policy.get_distribution(torch.as_tensor(observation)).distribution
    assert distribution.probs.max(dim=1).values.mean() < 0.98
    assert np.std(values) > 0


def test_imitation_precedes_training(tmp_path: Path) -> None:
    runs = [
        tiny_train("ppo", tmp_path / name, recipe=tiny_recipe("ppo", **changes))
        for name, changes in (("a", {"imitation": LESSON}), ("b", {"imitation": LESSON}), ("c", {}))
    ]
    a, b, c = (run_files(path.parent) for path in runs)
    assert a == b
    assert a["best"][0] != c["best"][0]
    assert read_agent_metadata(runs[0])["recipe"]["imitation"]["policy"] == LESSON["policy"]


@pytest.mark.parametrize(
    ("algorithm", "change", "message"),
    [
        ("ppo", {"margin": 0.5}, "imitation.margin is for dqn, not for ppo"),
        ("dqn", {"margin": -1.0}, "imitation.margin must be a finite number in"),
        ("ppo", {"policy": "channel-aware"}, "imitation.policy must be a mapping with name"),
        ("ppo", {"noise": 0.7}, "imitation.noise must be a finite number in"),
        ("ppo", {"passes": 3}, "imitation: unknown 'passes'"),
    ],
)
def test_bad_imitation(algorithm: str, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_recipe(algorithm, imitation={**LESSON, **change})


def test_packaged_recipes_are_valid() -> None:
    folder = Path(recipes.__file__).parent / "recipes"
    names = sorted(path.name for path in folder.iterdir())
    assert {f"{algorithm}-default.yaml" for algorithm in ALGORITHMS} <= set(names)
    for path in folder.iterdir():
        recipe = load_recipe(path)
        environment = (recipe.environment or "default").lower()
        assert path.name == f"{recipe.algorithm}-{environment}.yaml"
        assert parse_recipe(yaml.safe_load(yaml.safe_dump(recipe.as_mapping())), "") == recipe


def test_recipes_are_found() -> None:
    assert find_recipe("dqn", "Retransmission-v0").environment == "Retransmission-v0"
    assert find_recipe("ppo", ID) == find_recipe("ppo", "Retransmission-v0")
    assert find_recipe("ppo", "edge_gym/Something-v7").environment is None
    assert find_recipe("ppo", "../../ppo").environment is None
    with pytest.raises(ValueError, match="unknown algorithm 'sac'; known are ppo, dqn"):
        find_recipe("sac", ID)


def _without(key: str) -> Any:
    return lambda recipe: recipe.pop(key)


def _with(**values: Any) -> Any:
    return lambda recipe: recipe.update(values)


def _hyper(**values: Any) -> Any:
    return lambda recipe: recipe["hyperparameters"].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("steps"), "the recipe: steps missing"),
        (_without("hyperparameters"), "hyperparameters missing"),
        (_with(sneps=1), "unknown 'sneps'; known are algorithm, environment"),
        (_with(algorithm="sac"), "unknown algorithm 'sac'; known are ppo, dqn"),
        (_with(environment=3), "environment must be an id"),
        (_with(seed=-1), "seed must be an integer in"),
        (_with(steps=0), "steps must be an integer at least 1, got 0"),
        (_with(lanes=True), "lanes must be an integer in"),
        (_with(reward_scale=0), "reward_scale must be a finite number in"),
        (_with(action_bias=1.0), "action_bias must be a list"),
        (_with(action_bias=["x"]), "action_bias must be a finite number"),
        (_with(train_config=[1]), "train_config must be a mapping"),
        (_with(variations={"C": 1.0}), "variations must be a list"),
        (_with(variations=["iid"]), "variations must be a list of mappings, got 'iid'"),
        (_with(network={"hidden": [0]}), "network.hidden must be an integer at least 1"),
        (_with(network={"hidden": 64}), "network.hidden must be a list"),
        (_with(network={"activation": "sine"}), "network.activation must be one of"),
        (_with(network={"layers": []}), "network: unknown 'layers'"),
        (_with(network={"kind": "gnn"}), "network.kind must be one of mlp, device, got 'gnn'"),
        (_with(network={"exploration": "all"}), "network.exploration must be one of gaussian"),
        (_with(network={"context": None}), "network.context must be one of none, mean, mean-max"),
        (_with(evaluation={}), "evaluation: every missing"),
        (_with(evaluation={"every": 1, "episodes": 1}), "evaluation.episodes must be"),
        (_hyper(gamma=1.5), r"hyperparameters.gamma must be a finite number in \[0, 1\]"),
        (_hyper(learning_rate="3e-4"), "hyperparameters.learning_rate must be a finite number"),
        (_hyper(learning_rate_schedule="cosine"), "must be one of constant, linear"),
        (_hyper(buffer_size=9), "unknown 'buffer_size'"),
        (_hyper(batch_size=33), "batch_size must divide lanes times n_steps, 64"),
        (lambda recipe: recipe["hyperparameters"].pop("gamma"), "gamma missing"),
    ],
)
def test_bad_recipes(change: Any, message: str) -> None:
    values = tiny_recipe("ppo").as_mapping()
    change(values)
    with pytest.raises(ValueError, match=message) as error:
        parse_recipe(values, "my.yaml")
    assert str(error.value).startswith("my.yaml: ")


def test_bad_recipe_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no recipe at"):
        load_recipe(tmp_path / "none.yaml")
    file = tmp_path / "bad.yaml"
    file.write_text("a: [")
    with pytest.raises(ValueError, match=r"bad\.yaml: it is not valid YAML: .*$") as error:
        load_recipe(file)
    assert "\n" not in str(error.value)
    file.write_text("- 1")
    with pytest.raises(ValueError, match="must be a mapping"):
        load_recipe(file)
    file.write_text("!!python/object/apply:os.system ['false']")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_recipe(file)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_hyperparameters_are_stable_baselines_own(algorithm: str) -> None:
    model = make_model(tiny_recipe(algorithm), make(4))
    ours = {"learning_rate_schedule"}
    names = ALGORITHMS.find(algorithm).hyperparameters
    assert not [n for n in names if n not in ours and not hasattr(model, n)]


# Models


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_model_follows_recipe(algorithm: str) -> None:
    env = make(4)
    model = make_model(tiny_recipe(algorithm, action_bias=[-1.0, 2.5]), env)
    policy: Any = model.policy
    if algorithm == "ppo":
        heads = [policy.action_net]
    else:
        heads = [policy.q_net.q_net[-1], policy.q_net_target.q_net[-1]]
    for head in heads:
        assert head.bias.tolist() == [-1.0, 2.5]
    rate = find_recipe(algorithm, ID).hyperparameters["learning_rate"]
    assert model.lr_schedule(1.0) == rate
    assert model.lr_schedule(0.25) == pytest.approx(rate / 4)
    centre, spread = env.env.tables[""].scaling()
    x = np.stack([centre, centre + spread, centre - 100 * spread]).astype(np.float32)
    extractor = (policy.q_net if algorithm == "dqn" else policy).features_extractor
    scaled = extractor(torch.tensor(x)).numpy()
    np.testing.assert_allclose(scaled, np.array([[0], [1], [-5]]) * np.ones(len(centre)), atol=1e-4)
    with pytest.raises(ValueError, match="one value for each of 2 actions"):
        make_model(tiny_recipe(algorithm, action_bias=[1.0]), env)


def test_models_refuse_what_they_cannot_learn() -> None:
    env = make(4)
    env.action_space = gym.spaces.Box(0, 1, (2,))
    with pytest.raises(ValueError, match="discrete twin"):
        make_model(tiny_recipe("dqn"), env)
    env = make(4)
    env.env.problem.tables = {"devices": env.env.tables[""], "system": env.env.tables[""]}
    with pytest.raises(ValueError, match="flat observations"):
        make_model(tiny_recipe("ppo"), env)
    with pytest.raises(ValueError, match="flat observations"):
        ScaledFeatures(env.observation_space, np.zeros(3), np.ones(3))


# Training


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_leaves_its_files(finished: Mapping[str, Path], algorithm: str) -> None:
    out = finished[algorithm]
    assert {path.name for path in out.iterdir()} == {
        ".lock",
        "best.safetensors",
        "checkpoint.safetensors",
        "last.safetensors",
        "progress.csv",
        "recipe.yaml",
        "tensorboard",
    }
    assert load_recipe(out / "recipe.yaml") == tiny_recipe(algorithm)
    rows = [line.split(",") for line in (out / "progress.csv").read_text().splitlines()]
    names = ["steps", "mean_return", "ci95_low", "ci95_high", "training_return", "seconds"]
    assert rows[0] == names
    assert [int(row[0]) for row in rows[1:]] == [128, 256, 384, 448]
    for row in rows[1:]:
        _, mean, low, high, _, _ = map(float, row)
        assert low <= mean <= high
    seconds = [float(row[-1]) for row in rows[1:]]
    assert 0 < seconds[0] <= seconds[1] <= seconds[2] <= seconds[3]
    best, last = (read_agent_metadata(out / f"{n}.safetensors") for n in ("best", "last"))
    means = [float(row[1]) for row in rows[1:]]
    assert best["evaluation"]["mean_return"] == max(means)
    assert last["evaluation"]["mean_return"] == means[-1]
    assert [[str(value) for value in point.values()] for point in best["curve"]] == rows[1:]
    assert best["algorithm"] == algorithm
    assert best["environment"] == ID
    assert best["recipe"] == tiny_recipe(algorithm).as_mapping()
    assert best["config"]["budget"] == TINY["budget"]
    assert best["evaluation"]["first_seed"] in SELECTION
    assert all(seed in TRAINING for seed in best["training_seeds"])
    assert best["versions"]["edge_gym"] == edge_gym.__version__
    assert "test_accuracy" in best["evaluation"]


def test_the_recorded_score_is_reproduced(finished: Mapping[str, Path]) -> None:
    """The best agent, loaded from its file, scores what its file says."""
    env = make_lanes(ID, 2, TINY)
    agent = load_agent(finished["ppo"] / "best.safetensors", env)
    assert isinstance(agent, Policy)
    episodes = run_episodes(env, agent, SELECTION[:6])
    assert episodes.returns.mean() == agent.metadata["evaluation"]["mean_return"]


def test_the_stated_evaluation_is_run_again(
    finished: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = finished["ppo"] / "best.safetensors"
    stated = read_agent_metadata(path)["evaluation"]
    assert cli.main(["evaluate", str(path), ID, "--stated", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "first_seed": SELECTION.start,
        "episodes": 6,
        "stated": stated["mean_return"],
        "found": pytest.approx(stated["mean_return"]),
        "same": True,
    }
    arrays, header = files.read_tensors(path, "agent")
    other = tmp_path / "other.safetensors"
    header["evaluation"]["mean_return"] += 0.001
    files.write_tensors(other, arrays, header)
    assert cli.main(["evaluate", str(other), ID, "--stated"]) == 2
    captured = capsys.readouterr()
    assert f"stated {stated['mean_return'] + 0.001:.6f}" in captured.out
    assert "not reproduced" in captured.err
    del header["evaluation"]
    files.write_tensors(other, arrays, header)
    assert cli.main(["evaluate", str(other), ID, "--stated"]) == 2
    assert "states no evaluation" in capsys.readouterr().err


def test_training_is_determined_by_the_seed(finished: Mapping[str, Path], tmp_path: Path) -> None:
    np.random.seed(5)  # noqa: NPY002 - what ran before must not matter
    torch.manual_seed(5)
    tiny_train("ppo", tmp_path / "same")
    tiny_train("ppo", tmp_path / "other", seed=1)
    assert run_files(tmp_path / "same") == run_files(finished["ppo"])
    same, other = (final_state(o) for o in (tmp_path / "same", tmp_path / "other"))
    assert same == final_state(finished["ppo"])
    assert same != other


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("save", [1, 3, 6])
def test_resumed_runs_equal_uninterrupted_ones(
    finished: Mapping[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
    save: int,
) -> None:
    """Die just before the checkpoint number ``save`` replaces the one before it."""
    saves = 0
    replace_file = Path.replace

    def dying_replace(self: Path, target: Any) -> Path:
        nonlocal saves
        if Path(target).name == "checkpoint.safetensors":
            saves += 1
            if saves == save:
                raise KilledError
        return replace_file(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying_replace)
        with pytest.raises(KilledError):
            tiny_train(algorithm, tmp_path)
    assert (tmp_path / "checkpoint.safetensors").exists() == (save > 1)
    tiny_train(algorithm, tmp_path, resume=True)
    assert run_files(tmp_path) == run_files(finished[algorithm])
    assert final_state(tmp_path) == final_state(finished[algorithm])


def test_resume_of_a_finished_run_and_for_longer(
    finished: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    tiny_train("ppo", out)
    before = final_state(out)
    best = tiny_train("ppo", out, resume=True, progress=True)
    assert best == out / "best.safetensors"
    assert final_state(out) == before
    assert "Going on from step 448" in capsys.readouterr().err
    tiny_train("ppo", out, resume=True, steps=512)
    assert read_agent_metadata(out / "last.safetensors")["steps"] == 512


def test_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="device must be one of cpu, cuda"):
        tiny_train("ppo", tmp_path, device="tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch finds no GPU"):
        tiny_train("ppo", tmp_path, device="cuda")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_training_on_a_gpu_resumes_and_leaves_an_agent_for_any_machine(
    tmp_path: Path, algorithm: str
) -> None:
    tiny_train(algorithm, tmp_path, device="cuda", steps=192)
    best = tiny_train(algorithm, tmp_path, device="cuda", resume=True)
    env = make_lanes(ID, 2, TINY)
    assert np.isfinite(run_episodes(env, load_agent(best, env), SELECTION[:6]).returns).all()


def test_other_settings_are_not_resumed(finished: Mapping[str, Path]) -> None:
    out = finished["ppo"]
    with pytest.raises(FileExistsError, match="holds a run already"):
        tiny_train("ppo", out)
    with pytest.raises(ValueError, match="seed was 0, now it is 4"):
        tiny_train("ppo", out, resume=True, seed=4)
    with pytest.raises(ValueError, match="overrides was"):
        tiny_train("ppo", out, resume=True, overrides={**TINY, "C": 2.0})
    with pytest.raises(ValueError, match="algorithm was 'ppo', now it is 'dqn'"):
        tiny_train("dqn", out, resume=True)
    with pytest.raises(ValueError, match="the recipe is for ppo, not for dqn"):
        train("dqn", ID, recipe=tiny_recipe("ppo"), out=out)
    with pytest.raises(ValueError, match="not for RetransmissionCNN-v0"):
        train("ppo", "RetransmissionCNN-v0", recipe=tiny_recipe("ppo"), out=out)
    with pytest.raises(ValueError, match="unknown environment"):
        train("ppo", "Nothing-v0", out=out)


def test_damaged_checkpoints(tmp_path: Path, finished: Mapping[str, Path]) -> None:
    file = tmp_path / "checkpoint.safetensors"
    content = (finished["ppo"] / "checkpoint.safetensors").read_bytes()
    file.write_bytes(content[:-50])
    with pytest.raises(AgentError, match="damaged"):
        tiny_train("ppo", tmp_path, resume=True)
    file.write_bytes((finished["ppo"] / "best.safetensors").read_bytes())
    with pytest.raises(AgentError, match="no checkpoint"):
        tiny_train("ppo", tmp_path, resume=True)
    arrays, header = files.read_tensors(finished["ppo"] / "checkpoint.safetensors", "checkpoint")
    arrays.pop("0")
    files.write_tensors(file, arrays, header)
    with pytest.raises(AgentError, match="does not fit this version"):
        tiny_train("ppo", tmp_path, resume=True)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_interrupt_saves_and_resumes(
    finished: Mapping[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
) -> None:
    """Ctrl-C amid a rollout stops after it, and loses nothing."""
    step, steps = LaneVecEnv.step_wait, 0

    def interrupted_step(self: LaneVecEnv) -> Any:
        nonlocal steps
        steps += 1
        if steps == 53:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(LaneVecEnv, "step_wait", interrupted_step)
        with pytest.raises(TrainingInterrupted, match=r"--resume .*") as error:
            tiny_train(algorithm, tmp_path)
    assert isinstance(error.value, KeyboardInterrupt)
    assert str(tmp_path) in str(error.value)
    assert signal.getsignal(signal.SIGINT) is before
    tiny_train(algorithm, tmp_path, resume=True)
    assert run_files(tmp_path) == run_files(finished[algorithm])
    assert final_state(tmp_path) == final_state(finished[algorithm])


def test_interrupt_at_the_start(
    finished: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reset = LaneVecEnv.reset

    def interrupted_reset(self: LaneVecEnv) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return reset(self)

    with monkeypatch.context() as patch:
        patch.setattr(LaneVecEnv, "reset", interrupted_reset)
        with pytest.raises(TrainingInterrupted, match="stopped at step 0"):
            tiny_train("ppo", tmp_path)
    tiny_train("ppo", tmp_path, resume=True)
    assert run_files(tmp_path) == run_files(finished["ppo"])


def test_training_in_a_thread(tmp_path: Path) -> None:
    """Signals belong to the main thread; training does not."""
    found: list[Path] = []
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe("ppo", steps=64).as_mapping()))
    thread = threading.Thread(
        target=lambda: found.append(tiny_train("ppo", tmp_path, recipe=recipe))
    )
    thread.start()
    thread.join()
    assert found == [tmp_path / "best.safetensors"]


def test_one_process_trains_in_a_folder(
    finished: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with working_in(tmp_path):
        begun = time.monotonic()
        for resume in (False, True):
            with pytest.raises(FolderInUseError, match=f"another process works in {tmp_path}"):
                tiny_train("ppo", tmp_path, resume=resume)
        assert time.monotonic() - begun > 2  # for one that is about to end
    tiny_train("ppo", tmp_path)
    assert run_files(tmp_path) == run_files(finished["ppo"])


def test_interrupt_in_the_last_evaluation(
    finished: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not lost: the agent is whole, and whoever trained it is told to stop."""
    real, calls = training.run_episodes, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args, **kwargs)

    monkeypatch.setattr(training, "run_episodes", interrupted)
    with pytest.raises(TrainingInterrupted, match="the agent is trained") as caught:
        tiny_train("ppo", tmp_path)
    assert caught.value.best == tmp_path / "best.safetensors"
    assert len(calls) == 4
    assert run_files(tmp_path) == run_files(finished["ppo"])


def test_unwritable_folder(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError, match="file"):
        tiny_train("ppo", blocked / "run")


def test_train_config_applies_to_training_alone(tmp_path: Path) -> None:
    recipe = tiny_recipe("ppo", train_config={"validation_size": 80, "budget": 30}, steps=64)
    overrides = {name: value for name, value in TINY.items() if name != "validation_size"}
    run = training._Run(ID, recipe, tmp_path, overrides, False)
    assert run.envs[0].env.config.validation_size == 80
    assert run.evaluation_env.config.validation_size == 600
    assert run.envs[0].env.config.budget == TINY["budget"]


_KILLED_SCRIPT = """
import sys
sys.path[:0] = [{folder!r}, {tests!r}]
import test_agents
from pathlib import Path
test_agents.tiny_train(sys.argv[1], Path(sys.argv[2]), resume=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_kill_at_random_moments(
    finished: Mapping[str, Path], tmp_path: Path, algorithm: str
) -> None:
    """SIGKILL again and again, then finish: the same files as without."""
    script = _KILLED_SCRIPT.format(folder=str(Path(__file__).parent), tests=str(TESTS))
    command = [sys.executable, "-c", script, algorithm, str(tmp_path)]
    rng = random.Random(algorithm)
    kills = 0
    for _ in range(6):
        process = subprocess.Popen(command)
        recipe = tmp_path / "recipe.yaml"
        recipe.unlink(missing_ok=True)
        # The recipe is written as training begins.
        while not recipe.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.7))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills > 0
    tiny_train(algorithm, tmp_path, resume=True)
    assert run_files(tmp_path) == run_files(finished[algorithm])
    assert final_state(tmp_path) == final_state(finished[algorithm])


@pytest.mark.slow
def test_ppo_learns(tmp_path: Path) -> None:
    """On a good channel retransmissions are wasted; PPO finds out, and random does not.

    Accepting always gains 0.038 more accuracy than random; PPO must gain 0.025 more, and the 99.9 %
    interval of the paired difference must be above zero.
    """
    setting = {"budget": 40, "initial_samples": 4, "retrain_every": 5, "mean_snr_db": 25.0}
    recipe = find_recipe("ppo", ID)
    recipe = replace(
        recipe,
        steps=150_000,
        train_config={},
        evaluation=replace(recipe.evaluation, every=50_000),
    )
    best = train("ppo", ID, recipe=recipe, out=tmp_path, overrides=setting, progress=False)
    env = make_lanes(ID, 128, setting)
    episodes = range(SELECTION.stop - 512, SELECTION.stop)
    ppo = run_episodes(env, load_agent(best, env), episodes).returns
    chance = run_episodes(env, make_baseline("random", env), episodes).returns
    difference = ppo - chance
    error = difference.std(ddof=1) / math.sqrt(len(difference))
    assert difference.mean() > 0.025
    assert difference.mean() - 3.29 * error > 0


# Agents on disk


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("activation", ["tanh", "relu", "elu"])
def test_saved_agents_act_as_their_models(tmp_path: Path, algorithm: str, activation: str) -> None:
    env = make(4)
    recipe = tiny_recipe(algorithm, network={"hidden": [16, 12], "activation": activation})
    model = make_model(recipe, env)
    policy: Any = model.policy
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn_like(parameter))
    path = save_agent(model, tmp_path / "agent", {"note": "ours"})
    assert path == tmp_path / "agent.safetensors"
    (tmp_path / "any").touch()
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode
    lanes = make_lanes(ID, 4, TINY)
    agent = load_agent(path, lanes)
    assert agent.metadata["note"] == "ours"
    assert agent.name == "agent"
    space = env.observation_space
    centre, spread = env.env.tables[""].scaling()
    noise = np.random.default_rng(0).normal(size=(500, len(centre))) * 3
    observations = np.clip(centre + spread * noise, space.low, space.high).astype(np.float32)
    actions = agent.act(observations)
    expected, _ = model.predict(observations, deterministic=True)
    np.testing.assert_array_equal(actions, expected)
    assert set(actions.tolist()) == {0, 1}
    assert agent.act(observations[0]).shape == ()
    assert agent.act(observations[0]) == actions[0]


def test_agents_honour_masks(agent_file: Path) -> None:
    env = make_lanes(ID, 3, TINY)
    agent = load_agent(agent_file, env)
    observations, _ = env.reset(seed=0)
    for action in (0, 1):
        masks = np.zeros((3, 2), np.bool_)
        masks[:, action] = True
        assert agent.act(observations, masks).tolist() == [action] * 3
    both = np.ones((3, 2), np.bool_)
    np.testing.assert_array_equal(agent.act(observations, both), agent.act(observations))


def test_plain_stable_baselines_models_can_be_saved(tmp_path: Path) -> None:
    """A model trained without us, on scalar environments, unscaled."""
    env = make_vec_env(lambda: gym.make(ID, config=TINY), 2)
    for kind in (PPO, DQN):
        arguments: dict[str, Any] = {"device": "cpu", "seed": 1}
        model = kind("MlpPolicy", env, **arguments)
        path = save_agent(model, tmp_path / "plain.safetensors")
        scalar = gym.make(ID, config=TINY)
        agent = load_agent(path, scalar)
        rng = np.random.default_rng(0)
        space = env.observation_space
        observations = rng.normal(size=(200, *space.shape)).astype(np.float32) * 20
        expected, _ = model.predict(observations, deterministic=True)
        np.testing.assert_array_equal(agent.act(observations), expected)
        observation, _ = scalar.reset(seed=0)
        scalar.step(agent.act(observation, scalar.unwrapped.action_masks()))
        zipped = tmp_path / "model.zip"
        model.save(zipped)
        with pytest.raises(AgentError, match=r"pickled code.*save_agent\(model"):
            load_agent(zipped, scalar)
        loose = kind.load(zipped)
        with pytest.raises(ValueError, match="pass env="):
            save_agent(loose, tmp_path / "loose")
        converted = load_agent(save_agent(loose, tmp_path / "loose", env=scalar), scalar)
        np.testing.assert_array_equal(converted.act(observations), expected)


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    env = make(2)

    class Odd(torch.nn.Tanh):
        pass

    arguments: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "device": "cpu"}
    model = PPO("MlpPolicy", env, policy_kwargs={"activation_fn": Odd}, **arguments)
    with pytest.raises(ValueError, match=r"no way to save a network with Odd\(\)"):
        save_agent(model, tmp_path / "odd")
    pendulum = PPO("MlpPolicy", "Pendulum-v1", **arguments)
    with pytest.raises(ValueError, match="the model's observations are Box"):
        save_agent(pendulum, tmp_path / "odd", env=env)
    with pytest.raises(ValueError, match="names no observation columns"):
        save_agent(pendulum, tmp_path / "odd", env=gym.make("Pendulum-v1"))
    own = make_model(tiny_recipe("ppo"), env)
    own.set_env(VecNormalize(env))
    with pytest.raises(ValueError, match="scales observations itself: leave out VecNormalize"):
        save_agent(own, tmp_path / "odd")
    assert not list(tmp_path.iterdir())


def test_interfaces_are_checked(agent_file: Path, tmp_path: Path) -> None:
    other = gym.make("edge_gym/RetransmissionCNN-v0", budget=24, validation_size=60)
    with pytest.raises(ValueError, match=r"trained on .*-v0 and reads .* not observe: distance$"):
        load_agent(agent_file, other)
    env = gym.make(ID, config=TINY)
    env.unwrapped.tables[""] = ObservationTable(
        *(replace(column, unit="m") for column in env.unwrapped.tables[""])
    )
    with pytest.raises(ValueError, match="reads effective_snr_db in dB, which is in m here; dist"):
        load_agent(agent_file, env)
    env = gym.make(ID, config=TINY)
    model = make_model(tiny_recipe("ppo"), make(4))
    path = save_agent(model, tmp_path / "shifted", {"action_space": {"n": 2, "start": 1}})
    with pytest.raises(ValueError, match=r"actions .*'start': 1.*; here they are .*'start': 0"):
        load_agent(path, env)
    with pytest.raises(ValueError, match="no edge_gym environment"):
        load_agent(path, gym.make("CartPole-v1"))


def test_damaged_files(agent_file: Path, tmp_path: Path) -> None:
    env = make_lanes(ID, 1, TINY)
    content = agent_file.read_bytes()
    damages = {
        "empty": b"",
        "cut in the header": content[:100],
        "cut at the end": content[:-1],
        "longer": content + b"x",
        "one bit": content[:-7] + bytes([content[-7] ^ 1]) + content[-6:],
        "noise": bytes(range(256)) * 10,
        "huge header": b"\xff" * 8 + content,
        "pickle": pickle.dumps({"weights": [1.0]}),
        "text": b"algorithm: ppo\n",
    }
    for what, damaged in damages.items():
        file = tmp_path / "damaged.safetensors"
        file.write_bytes(damaged)
        for read in (lambda f=file: load_agent(f, env), lambda f=file: read_agent_metadata(f)):
            with pytest.raises(AgentError, match=r"damaged\.safetensors"):
                read()
            assert what
    with pytest.raises(FileNotFoundError, match="no agent at"):
        load_agent(tmp_path / "none.safetensors", env)
    with pytest.raises(FileNotFoundError, match="no agent at"):
        load_agent(tmp_path, env)


def test_foreign_files(agent_file: Path, tmp_path: Path) -> None:
    env = make_lanes(ID, 1, TINY)
    arrays, header = files.read_tensors(agent_file, "agent")
    file = tmp_path / "foreign.safetensors"
    save_file(arrays, file)
    with pytest.raises(AgentError, match="no agent of edge_gym"):
        load_agent(file, env)

    def refused(message: str, change: Any) -> None:
        changed_arrays = {name: array.copy() for name, array in arrays.items()}
        changed_header = json.loads(json.dumps(header))
        outcome = change(changed_arrays, changed_header)
        files.write_tensors(file, changed_arrays, changed_header if outcome is None else outcome)
        with pytest.raises(AgentError, match=message):
            load_agent(file, env)

    refused("damaged or no agent", lambda a, h: [])
    refused("damaged or no agent", lambda a, h: {})
    refused("another kind", lambda a, h: h.update(format="edge_gym agent 9"))
    refused("damaged or no agent", lambda a, h: h.update(activation="sine"))
    refused("damaged or no agent", lambda a, h: h.pop("columns"))
    refused("damaged or no agent", lambda a, h: h.update(action_space=[2]))
    refused("damaged", lambda a, h: h.update(clip="wide"))
    refused("does not fit its columns", lambda a, h: h["columns"].append("more [1]"))
    refused("does not fit its columns", lambda a, h: h["action_space"].update(n=3))
    refused("damaged or no agent", lambda a, h: a.update(middle=a.pop("centre")))
    refused("does not follow", lambda a, h: a.update({"1.weight": a["1.weight"][:, :-1]}))
    refused("must be finite", lambda a, h: a["0.bias"].fill(np.nan))
    refused("damaged", lambda a, h: a.update({"0.weight": a["0.weight"][0]}))
    # What would be found out only when the agent acts, or not at all.
    for clip in (math.nan, math.inf, 10**400, 1e300, 0, -1.0, True, [5.0], "5"):
        refused("clip must be a positive number", lambda a, h, c=clip: h.update(clip=c))
    for decoder in ("residual", ["residual"], 3, {}, {"name": 3}, {"scale": 1.0}):
        refused("decoder must be a mapping", lambda a, h, d=decoder: h.update(decoder=d))
    refused("is not of float32", lambda a, h: a.update(centre=a["centre"].astype(np.float64)))
    refused("is not of float32", lambda a, h: a.update(more=np.zeros(2, np.int8)))
    refused("spread must be positive", lambda a, h: a["spread"].fill(0))
    refused("centre must be finite", lambda a, h: a["centre"].fill(np.inf))
    for told in ([], {}, {"first_seed": "0", "episodes": 4, "mean_return": 0.1}):
        refused("evaluation must have", lambda a, h, t=told: h.update(evaluation=t))
    long = "x" * 10**6
    files.write_tensors(file, arrays, {**header, "format": long})
    with pytest.raises(AgentError) as caught:
        load_agent(file, env)
    assert len(str(caught.value)) < 1000


def test_a_failed_write_leaves_the_old_file(
    agent_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying_fsync(descriptor: int) -> None:
        raise KilledError

    before = agent_file.read_bytes()
    monkeypatch.setattr(os, "fsync", dying_fsync)
    with pytest.raises(KilledError):
        files.write_tensors(agent_file, {}, {})
    assert agent_file.read_bytes() == before
    assert [path.name for path in agent_file.parent.iterdir()] == [agent_file.name]


def test_shipped_agents(agent_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = tmp_path / "trained" / "Retransmission-v0"
    trained.mkdir(parents=True)
    arrays, header = files.read_tensors(agent_file, "agent")
    for seed, mean in ((3, 0.1), (1, 0.3), (12, 0.2)):
        header["evaluation"]["mean_return"] = mean
        header["recipe"]["seed"] = seed
        files.write_tensors(trained / f"dqn-seed{seed}.safetensors", arrays, header)
    monkeypatch.setattr(store.resources, "files", lambda package: tmp_path)
    assert shipped_agents(ID) == shipped_agents("Retransmission-v0") == {"dqn": [1, 3, 12]}
    assert shipped_agents("Nothing-v0") == {}
    lanes = make_lanes(ID, 2, TINY)
    # By its name, the best on the selection seeds.
    assert load_agent("dqn", lanes).metadata["recipe"]["seed"] == 1
    assert load_agent("dqn", lanes, seed=12).metadata["recipe"]["seed"] == 12
    assert policies.resolve("dqn", lanes).parameters == {"seed": 1}
    assert policies.resolve("dqn:seed=3", lanes).parameters == {"seed": 3}
    assert policies.one_for_each_seed("dqn", ID) == ["dqn:seed=1", "dqn:seed=3", "dqn:seed=12"]
    assert policies.one_for_each_seed("random", ID) == ["random"]
    with pytest.raises(AgentError, match=r"seed 2 is shipped for .*; there are 1, 3, 12"):
        load_agent("dqn", lanes, seed=2)
    with pytest.raises(ValueError, match="a shipped agent has a seed, no sed"):
        policies.resolve("dqn:sed=2", lanes)
    with pytest.raises(ValueError, match="is of a shipped agent"):
        load_agent(agent_file, lanes, seed=1)
    for env in (gym.make(ID, config=TINY), make_lanes(ID, 2, TINY), make(2)):
        assert load_agent("dqn", env).name == "dqn"
    with pytest.raises(AgentError, match="edge-gym train ppo edge_gym/Retransmission-v0"):
        load_agent("ppo", gym.make(ID, config=TINY))
    direct = type(make_lanes(ID, 1).unwrapped)(2, config=TINY)
    assert load_agent("dqn", direct, env_id="Retransmission-v0").name == "dqn"
    with pytest.raises(ValueError, match="Pass env_id="):
        load_agent("dqn", direct)


def test_checkpoint_codec() -> None:
    state = {
        "tuple": (1, (2.5, None)),
        "list": [True, "text", 2**200],
        3: {"nested": np.arange(6).reshape(2, 3).T},
        "scalar": np.float32(1.5),
        "tensor": torch.tensor(2.0),
        "empty": np.zeros((0, 4)),
    }
    arrays, packed = packing.pack(state)
    back = packing.unpack(arrays, json.loads(json.dumps(packed)))
    assert back["tuple"] == state["tuple"]
    assert back["list"] == state["list"]
    np.testing.assert_array_equal(back[3]["nested"], state[3]["nested"])
    assert back["scalar"].dtype == np.float32
    assert back["tensor"].shape == ()
    assert back["empty"].shape == (0, 4)
    with pytest.raises(TypeError, match="no safe way to save a object"):
        packing.pack([object()])


# Devices


@dataclass(frozen=True)
class MarketConfig:
    """Settings of a toy: choose the device of the best quality, or the best sample.

    With ``actions="columns"`` a price is asked of each device too, best 1; with ``"level"`` the
    mean quality is told: low, middling or high, with ``"levels"`` every device's.
    """

    n_devices: int = 4
    n_samples: int = 3
    actions: str = "sample"
    horizon: int = 5
    spread: int = 0


class Market(Problem):
    """Qualities and samples' values are drawn anew at every step; some samples are absent."""

    config_type = MarketConfig
    _quality = LaneArray(np.float32, lambda problem: (problem.config.n_devices, 2))
    _value = LaneArray(
        np.float32, lambda problem: (problem.config.n_devices, problem.config.n_samples)
    )
    _present = LaneArray(
        np.bool_, lambda problem: (problem.config.n_devices, problem.config.n_samples), reset=1
    )
    _time = LaneArray(np.int64)
    _end = LaneArray(np.int64)

    def __init__(self, config: MarketConfig, n_lanes: int) -> None:
        super().__init__(config, n_lanes)
        k, n = config.n_devices, config.n_samples
        self.tables = {
            "devices": ObservationTable(
                Column("quality", "1", -9, 9, "", 0.5, 2.0), Column("noise", "dB", -9, 9, "")
            ),
            "system": ObservationTable(Column("time", "step", 0, 9, "", 2.0, 2.0)),
        }
        shapes: dict[str, tuple[int, ...]] = {"devices": (k,), "system": ()}
        if n:
            self.tables["samples"] = ObservationTable(
                Column("value", "1", -9, 9, "", 0.1, 1.5), Column("present", "1", 0, 1, "")
            )
            shapes["samples"] = (k, n)
        self.observation_space = spaces.Dict(
            {part: self.tables[part].space(*shape) for part, shape in shapes.items()}
        )
        self.action_space = {
            "sample": spaces.Discrete(k * max(n, 1)),
            "device": spaces.Discrete(k),
            "scores": spaces.Box(-1, 1, (k,), np.float32),
            "columns": spaces.Box(-1, 1, (k, 2), np.float32),
            "level": spaces.Discrete(3),
            "levels": spaces.MultiDiscrete([3] * k),
        }[config.actions]
        self.actions_per = {"sample": "sample", "level": "system"}.get(config.actions, "device")

    def _draw(self, lanes: NDArray[np.int64]) -> None:
        for lane in lanes:
            rng = self.generators[lane]
            self._quality[lane] = rng.normal(size=self._quality.shape[1:])
            self._present[lane] = rng.random(self._present.shape[1:]) < 0.7
            self._present[lane, :, :1] = True
            self._value[lane] = rng.normal(size=self._value.shape[1:]) * self._present[lane]

    def reset_lanes(self, lanes: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        self._time[lanes] = 0
        for lane in lanes:
            drawn = self.generators[lane].integers(self.config.spread + 1)
            self._end[lane] = self.config.horizon + drawn
        self._draw(lanes)
        return {"time": self._time[lanes].copy()}

    def step_lanes(self, lanes: NDArray[np.int64], actions: NDArray[Any]) -> Step:
        if self.config.actions == "sample":
            device, sample = np.divmod(actions, self.config.n_samples)
            reward = self._value[lanes, device, sample] + 0.5 * self._quality[lanes, device, 0]
        elif self.config.actions == "level":
            level = np.digitize(self._quality[lanes, :, 0].mean(axis=1), [-0.3, 0.3])
            reward = np.float64(actions == level)
        elif self.config.actions == "levels":
            level = np.digitize(self._quality[lanes, :, 0], [-0.3, 0.3])
            reward = (actions == level).mean(axis=1)
        else:
            asked = actions[..., 0] if self.config.actions == "columns" else actions
            device = actions if actions.ndim == 1 else asked.argmax(axis=1)
            reward = self._quality[lanes, device, 0]
            if self.config.actions == "columns":
                reward = reward - np.abs(1 - actions[..., 1]).mean(axis=1)
        self._time[lanes] += 1
        self._draw(lanes)
        over = self._time[lanes] == self._end[lanes]
        return Step(reward.astype(float), over, np.zeros_like(over), {}, {})

    def observe(self) -> Any:
        parts = {"devices": self._quality.copy(), "system": np.float32(self._time[:, None])}
        if self.config.n_samples:
            parts["samples"] = np.stack([self._value, np.float32(self._present)], axis=-1)
        return parts

    def action_masks(self) -> NDArray[np.bool_] | None:
        if self.config.actions != "sample":
            return None
        return self._present.reshape(self.n_lanes, -1).copy()

    def scene(self, lane: int) -> Any:
        raise NotImplementedError


class MarketVectorEnv(EdgeVectorEnv):
    problem_type = Market


def market(lanes: int = 6, *, mode: AutoresetMode | str = "SameStep", **fields: Any) -> Any:
    return MarketVectorEnv(lanes, autoreset_mode=mode, **fields)


def device_recipe(algorithm: str, **changes: Any) -> Recipe:
    network = {"hidden": [8, 8], "activation": "relu", **changes.pop("network", {})}
    return tiny_recipe(algorithm, environment=None, network=network, **changes)


def shuffled_weights(model: Any, scale: float) -> Any:
    """Give a model weights for which inputs matter."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.copy_(scale * torch.randn_like(parameter))
    return model


WIDTHS = {"devices": 3, "samples": 4, "system": 2}
SHAPES = [
    DeviceArchitecture({**WIDTHS}, "sample", (6, 5), "tanh", "none"),
    DeviceArchitecture({**WIDTHS}, "sample", (6, 5), "relu", "mean"),
    DeviceArchitecture({**WIDTHS}, "sample", (6, 5, 4), "elu", "mean-max"),
    DeviceArchitecture({**WIDTHS}, "device", (6, 5), "tanh", "none"),
    DeviceArchitecture({**WIDTHS}, "device", (6, 5), "tanh", "mean-max"),
    DeviceArchitecture({"devices": 3, "system": 2}, "device", (6, 5), "tanh", "none"),
    DeviceArchitecture({"devices": 3, "system": 2}, "device", (6, 5), "tanh", "mean"),
    DeviceArchitecture({"devices": 3, "system": 2}, "device", (6, 5, 3), "relu", "mean-max"),
    DeviceArchitecture({"devices": 3, "system": 2}, "device", (6, 5), "tanh", "mean", outputs=3),
]
SYSTEM_SHAPES = [
    DeviceArchitecture({**WIDTHS}, "system", (6, 5), "tanh", "mean", outputs=4),
    DeviceArchitecture({"devices": 3, "system": 2}, "system", (6, 5, 4), "relu", "mean", outputs=7),
]


def shape_name(shape: DeviceArchitecture) -> str:
    return f"{shape.actions_per}-{shape.finest}-{shape.context}-{shape.outputs}"


def draw_parts(shape: DeviceArchitecture, rows: int, k: int, n: int) -> dict[str, torch.Tensor]:
    """Scaled parts in double precision; some samples are absent, all of device 1 in row 0."""
    rng = np.random.default_rng(rows + 10 * k + 100 * n)
    parts = {
        "devices": torch.tensor(rng.normal(size=(rows, k, 3))),
        "system": torch.tensor(rng.normal(size=(rows, 2))),
    }
    if shape.finest == "samples":
        parts["samples"] = torch.tensor(rng.normal(size=(rows, k, n, 4)))
        parts["present"] = torch.tensor(rng.random((rows, k, n)) < 0.7)
        parts["present"][0, 1] = False
    return parts


def networks_of(shape: DeviceArchitecture) -> tuple[DeviceScores, DeviceSummary]:
    torch.manual_seed(3)
    return DeviceScores(shape).double(), DeviceSummary(shape).double()


def test_joint_linear_is_a_layer_on_inputs_side_by_side() -> None:
    torch.manual_seed(0)
    layer = JointLinear([4, 3, 2], 5)
    fine, middle, coarse = torch.randn(6, 7, 4), torch.randn(6, 1, 3), torch.randn(1, 1, 2)
    wide = torch.cat([fine, middle.expand(6, 7, 3), coarse.expand(6, 7, 2)], dim=-1)
    expected = torch.nn.functional.linear(wide, layer.weight, layer.bias)
    torch.testing.assert_close(layer(fine, middle, coarse), expected)


def plain_scores(network: DeviceScores, parts: Mapping[str, Any]) -> tuple[list[float], Any]:
    """What the network says of one state, by loops; and the pools of all."""
    shape, weights = network.shape, {k: v.numpy() for k, v in network.state_dict().items()}
    functions: dict[str, Any] = {
        "tanh": np.tanh,
        "relu": lambda x: np.maximum(x, 0),
        "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    }
    act = functions[shape.activation]

    def dense(name: str, *inputs: Any) -> Any:
        return weights[f"{name}.weight"] @ np.concatenate(inputs) + weights[f"{name}.bias"]

    def pool(rows: list[Any]) -> Any:
        if not rows:
            return np.zeros(network.encoder.pooled)
        pools = [np.mean(rows, axis=0), np.max(rows, axis=0)]
        return np.concatenate(pools[: 1 + network.encoder.largest])

    def pool_pools(pools: list[Any]) -> Any:
        units = shape.hidden[0]
        if not pools:
            return np.zeros(network.encoder.pooled)
        mean, largest = np.mean(pools, axis=0)[:units], np.max(pools, axis=0)[units:]
        return np.concatenate([mean, largest])

    devices, system = parts["devices"].numpy(), parts["system"].numpy()
    scores = []
    if shape.finest == "devices":
        own = [act(dense("encoder.layer", device, system)) for device in devices]
        everything = pool(own)
        context = [] if shape.context == "none" else [everything]
        inputs = [(embedding, *context) for embedding in own]
    else:
        samples, present = parts["samples"].numpy(), parts["present"].numpy()
        embeddings = [
            [act(dense("encoder.layer", s, devices[k], system)) for s in samples[k]]
            for k in range(len(devices))
        ]
        held = [
            [e for e, there in zip(*row, strict=True) if there]
            for row in zip(embeddings, present, strict=True)
        ]
        pools = [pool(rows) for rows in held]
        everything = pool_pools([p for p, rows in zip(pools, held, strict=True) if rows])
        if shape.actions_per == "device":
            context = [] if shape.context == "none" else [everything]
            inputs = [(own, *context) for own in pools]
        else:
            inputs = [
                (e,) if shape.context == "none" else (e, pools[k], everything)
                for k, row in enumerate(embeddings)
                for e in row
            ]
    for row in inputs:
        hidden = act(dense("joint", *row))
        for layer in range(len(shape.hidden) - 2):
            hidden = act(dense(f"trunk.{2 * layer}", hidden))
        scores.extend(dense("score", hidden))
    return scores, everything


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
def test_device_networks_equal_plain_loops(shape: DeviceArchitecture) -> None:
    scores, summary = networks_of(shape)
    parts = draw_parts(shape, 4, 5, 3)
    with torch.no_grad():
        found, features = scores(parts), summary(parts)
        for row in range(4):
            one = {part: values[row] for part, values in parts.items()}
            expected, _ = plain_scores(scores, one)
            np.testing.assert_allclose(found[row], expected, rtol=1e-10)
            assert np.std(expected) > 1e-3
            torch.testing.assert_close(scores(one), found[row])
            reference = DeviceScores(replace(shape, context="mean-max")).double()
            reference.encoder.load_state_dict(summary.encoder.state_dict())
            _, everything = plain_scores(reference, one)
            hidden = summary.joint(torch.tensor(everything), one["system"])
            expected_features = summary.trunk(IN_PLACE[shape.activation](hidden))
            torch.testing.assert_close(features[row], expected_features)


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
def test_device_networks_are_equivariant(shape: DeviceArchitecture) -> None:
    scores, summary = networks_of(shape)
    for rows, k, n in ((3, 5, 4), (2, 2, 1), (2, 9, 6)):
        parts = draw_parts(shape, rows, k, n)
        rng = np.random.default_rng(5)
        devices = rng.permutation(k)
        permuted = {**parts, "devices": parts["devices"][:, devices]}
        order = devices
        if shape.finest == "samples":
            slots = np.stack([rng.permutation(n) for _ in range(k)])
            for part in ("samples", "present"):
                permuted[part] = parts[part][:, devices[:, None], slots]
            if shape.actions_per == "sample":
                order = (devices[:, None] * n + slots).ravel()
        order = (order[:, None] * shape.outputs + np.arange(shape.outputs)).ravel()
        assert scores(parts).shape == (rows, len(order))
        torch.testing.assert_close(scores(permuted), scores(parts)[:, order])
        torch.testing.assert_close(summary(permuted), summary(parts))
        if k > 2:
            assert not torch.allclose(scores(permuted), scores(parts))


@pytest.mark.parametrize("shape", SYSTEM_SHAPES, ids=shape_name)
def test_system_networks_score_summaries(shape: DeviceArchitecture) -> None:
    """They do not change with the devices' order, nor with how many devices there are."""
    torch.manual_seed(3)
    network = networks.scores_network(shape).double()
    assert isinstance(network, networks.SystemScores)
    for k in (2, 7):
        parts = draw_parts(shape, 3, k, 2)
        found = network(parts)
        assert found.shape == (3, shape.outputs)
        torch.testing.assert_close(found, network.score(network.summary(parts)))
        backwards = {p: v if p == "system" else v.flip(1) for p, v in parts.items()}
        torch.testing.assert_close(network(backwards), found)
        assert not torch.allclose(found[0], found[1])


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
def test_context_is_what_scores_know_of_others(shape: DeviceArchitecture) -> None:
    scores, _ = networks_of(shape)
    parts = draw_parts(shape, 3, 4, 2)
    changed = {**parts, "devices": parts["devices"].clone()}
    changed["devices"][:, 3] += 1
    before, after = scores(parts).reshape(3, 4, -1), scores(changed).reshape(3, 4, -1)
    assert torch.equal(before[:, :3], after[:, :3]) == (shape.context == "none")
    if shape.actions_per == "sample":
        assert not torch.equal(before[:, 3], after[:, 3])


@pytest.mark.parametrize("shape", SHAPES[:5], ids=shape_name)
def test_absent_samples_do_not_count(shape: DeviceArchitecture) -> None:
    """Empty slots, full of anything, and devices without samples change nothing for the others."""
    scores, summary = networks_of(shape)
    parts = draw_parts(shape, 3, 4, 2)
    parts["present"][:] = True
    padded = {
        "devices": torch.cat([parts["devices"], torch.randn(3, 2, 3)], dim=1).double(),
        "system": parts["system"],
        "samples": 9 * torch.randn(3, 6, 5, 4).double(),
        "present": torch.zeros(3, 6, 5, dtype=torch.bool),
    }
    padded["samples"][:, :4, :2] = parts["samples"]
    padded["present"][:, :4, :2] = True
    found, expected = scores(padded), scores(parts)
    if shape.actions_per == "sample":
        found = found.reshape(3, 6, 5)[:, :4, :2].flatten(1)
    torch.testing.assert_close(found[:, : expected.shape[1]], expected)
    torch.testing.assert_close(summary(padded), summary(parts))
    without_mask = {part: values for part, values in parts.items() if part != "present"}
    torch.testing.assert_close(scores(without_mask), expected)
    nothing = {**parts, "present": torch.zeros_like(parts["present"])}
    for network in (scores, summary):
        network.zero_grad()
        network(nothing).sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
        assert network(nothing).isfinite().all()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for network in networks_of(SHAPES[2]):
        parts = draw_parts(SHAPES[2], 7, 3, 2)
        results = []
        for size in (2**19, 1, 3 * 3 * 2 * 6):
            monkeypatch.setattr(networks, "_CHUNK", size)
            network.zero_grad()
            output = network(parts)
            output.square().sum().backward()
            gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
            results.append([output.detach(), *gradients])
        for other in results[1:]:
            for ours, theirs in zip(results[0], other, strict=True):
                torch.testing.assert_close(ours, theirs)


def test_impossible_architectures() -> None:
    with pytest.raises(ValueError, match="no way to score each sample of devices, system"):
        DeviceArchitecture({"devices": 1, "system": 1}, "sample", (4, 4), "tanh", "mean")
    with pytest.raises(ValueError, match="no way to score each server"):
        DeviceArchitecture(WIDTHS, "server", (4, 4), "tanh", "mean")
    with pytest.raises(ValueError, match="sees devices, system and perhaps samples, not devices"):
        DeviceArchitecture({"devices": 1}, "device", (4, 4), "tanh", "mean")
    with pytest.raises(ValueError, match=r"two layers at least.*got \[4\]"):
        DeviceArchitecture(WIDTHS, "device", (4,), "tanh", "mean")


def test_parts_are_scaled_by_their_tables() -> None:
    tables = market().tables
    extractor = ScaledParts(None, {part: table.scaling() for part, table in tables.items()}, 1)
    observation = {
        "devices": torch.tensor([[2.5, 7.0]]),
        "samples": torch.tensor([[[1.6, 1.0], [0.1, 0.0]]]),
        "system": torch.tensor([0.0]),
    }
    before = copy.deepcopy(observation)
    parts = extractor(observation)
    torch.testing.assert_close(parts["devices"], torch.tensor([[1.0, 5.0]]))
    torch.testing.assert_close(parts["samples"], torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]))
    torch.testing.assert_close(parts["system"], torch.tensor([-1.0]))
    assert parts["present"].tolist() == [[True, False]]
    for part, values in before.items():
        assert torch.equal(values, observation[part])


DEVICE_CASES = [
    ("ppo", "sample", 3),
    ("ppo", "device", 3),
    ("ppo", "device", 0),
    ("ppo", "scores", 3),
    ("ppo", "scores", 0),
    ("ppo", "columns", 0),
    ("ppo", "level", 0),
    ("dqn", "sample", 3),
    ("dqn", "device", 0),
    ("dqn", "level", 0),
]


@pytest.mark.parametrize(("algorithm", "actions", "n_samples"), DEVICE_CASES)
def test_saved_device_agents_act_as_their_models(
    tmp_path: Path, algorithm: str, actions: str, n_samples: int
) -> None:
    fields = {"actions": actions, "n_samples": n_samples}
    adapter = LaneVecEnv(market(**fields))
    recipe = device_recipe(algorithm, network={"context": "mean-max", "hidden": [8, 6, 4]})
    scale = 2.0 if actions == "level" else 0.5
    model = shuffled_weights(make_model(recipe, adapter), scale)
    path = save_agent(model, tmp_path / "agent")
    agent = load_agent(path, adapter)
    seen = []
    observation = adapter.reset()
    for _ in range(20):
        expected, _ = model.predict(observation, deterministic=True)
        acted = agent.act(observation)
        np.testing.assert_array_equal(acted, expected)
        assert acted.dtype == expected.dtype
        one = {part: values[2] for part, values in observation.items()}
        np.testing.assert_allclose(agent.act(one), acted[2], rtol=1e-5, atol=1e-6)
        seen.append(acted)
        observation, *_ = adapter.step(acted)
    if actions in ("scores", "columns"):
        assert np.abs(seen).max() == 1
        assert np.mean(np.abs(seen) < 1) > 0.2
    else:
        assert len(np.unique(seen)) > (1 if actions == "level" else 2)
    larger = market(mode="Disabled", **fields, n_devices=9) if n_samples == 0 else None
    larger = larger or market(mode="Disabled", actions=actions, n_devices=9, n_samples=5)
    agent = load_agent(path, larger)
    assert run_episodes(larger, agent, range(4)).lengths.tolist() == [5] * 4
    if actions == "sample":
        observation, _ = larger.reset(seed=0)
        masks = np.zeros((6, 45), np.bool_)
        masks[:, [7, 30]] = True
        assert set(agent.act(observation, masks).tolist()) <= {7, 30}


def test_scores_share_one_standard_deviation() -> None:
    model = make_model(device_recipe("ppo"), LaneVecEnv(market(actions="scores")))
    assert model.policy.log_std.shape == (1,)
    with torch.no_grad():
        model.policy.log_std.fill_(math.log(0.25))
    observation = {p: torch.as_tensor(v) for p, v in model.env.reset().items()}
    distribution = model.policy.get_distribution(observation).distribution
    assert distribution.mean.shape == (6, 4)
    torch.testing.assert_close(distribution.stddev, torch.full((6, 4), 0.25))
    actions, values, log_prob = model.policy(observation)
    expected = torch.distributions.Normal(distribution.mean, 0.25).log_prob(actions).sum(dim=1)
    torch.testing.assert_close(log_prob, expected)
    assert values.shape == (6, 1)


def test_signs_are_explored_alone(tmp_path: Path) -> None:
    """Draws are positive as often as the score says, keep its order, and are judged by sign.

    Without chance as many scores are positive as in draws on average, the largest ones.
    """
    env = LaneVecEnv(market(actions="scores"))
    model = make_model(device_recipe("ppo", network={"exploration": "signs"}), env)
    shuffled_weights(model, 0.3)
    observation = env.reset()
    agent = load_agent(save_agent(model, tmp_path / "agent"), env)
    seen = {part: torch.as_tensor(values) for part, values in observation.items()}
    with torch.no_grad():
        scores = agent.network(seen)
    likely = torch.sigmoid(5 * scores)
    n = 2000
    with torch.no_grad():
        draws = [model.policy(seen) for _ in range(n)]
    actions = torch.stack([draw[0] for draw in draws])
    positive = actions > 0
    assert (positive.double().mean(dim=0) - likely).abs().max() < 4 * 0.5 / n**0.5
    torch.testing.assert_close(torch.where(positive, actions, actions + 1), likely.expand(n, 6, 4))
    expected = torch.where(positive[0], likely, 1 - likely).log().sum(dim=1)
    torch.testing.assert_close(draws[0][2], expected, rtol=1e-4, atol=1e-5)
    _, again, entropy = model.policy.evaluate_actions(seen, actions[0])
    torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-5)
    bits = -likely * likely.log() - (1 - likely) * (1 - likely).log()
    torch.testing.assert_close(entropy, bits.sum(dim=1), rtol=1e-4, atol=1e-5)
    best, _ = model.predict(observation, deterministic=True)
    np.testing.assert_array_equal(best, agent.act(observation))
    np.testing.assert_array_equal(best.argsort(axis=1), scores.argsort(dim=1))
    number = likely.sum(dim=1).round().clamp(min=1).numpy()
    np.testing.assert_array_equal((best > 0).sum(axis=1), number)
    assert len(np.unique(number)) > 1
    with pytest.raises(ValueError, match=r"signs, which is for one score per device, not for Box"):
        make_model(
            device_recipe("ppo", network={"exploration": "signs"}),
            LaneVecEnv(market(actions="columns")),
        )


@given(
    scores=st.lists(st.floats(-3, 3, width=16), min_size=1, max_size=30, unique=True),
    shift=st.sampled_from([-2.0, 0.0, 2.0]),
)
def test_as_many_scores_are_positive_as_expected(scores: list[float], shift: float) -> None:
    given_scores = torch.tensor(scores, dtype=torch.float64) + shift
    found = as_many_positive(given_scores)
    expected = sum(1 / (1 + math.exp(-5 * score)) for score in given_scores.tolist())
    assert int((found > 0).sum()) == max(1, round(expected))
    torch.testing.assert_close(found - found[0], given_scores - given_scores[0])


def test_columns_have_a_standard_deviation_each() -> None:
    model = make_model(device_recipe("ppo"), LaneVecEnv(market(actions="columns")))
    with torch.no_grad():
        model.policy.log_std.copy_(torch.tensor([0.25, 0.5]).log())
    observation = {p: torch.as_tensor(v) for p, v in model.env.reset().items()}
    distribution = model.policy.get_distribution(observation).distribution
    expected = torch.tensor([0.25, 0.5]).repeat(6, 4)
    torch.testing.assert_close(distribution.stddev, expected)
    actions, *_ = model.policy(observation)
    assert actions.shape == (6, 4, 2)


def test_values_and_q_values_are_device_networks() -> None:
    ppo = make_model(device_recipe("ppo"), LaneVecEnv(market()))
    observation = {p: torch.as_tensor(v) for p, v in ppo.env.reset().items()}
    # Actor and critic share nothing that is learned.
    actor = {id(p) for p in ppo.policy.mlp_extractor.policy_net.parameters()}
    assert not actor & {id(p) for p in ppo.policy.mlp_extractor.value_net.parameters()}
    optimised = {id(p) for group in ppo.policy.optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in ppo.policy.parameters()}
    probabilities = ppo.policy.get_distribution(observation).distribution.probs
    assert (probabilities - 1 / 12).abs().max() < 0.01
    dqn = make_model(device_recipe("dqn"), LaneVecEnv(market()))
    assert dqn.q_net(observation).shape == (6, 12)
    torch.testing.assert_close(dqn.q_net(observation), dqn.q_net_target(observation))
    assert dqn.q_net.q_net[0] is not dqn.q_net_target.q_net[0]
    assert (dqn.replay_buffer.n_steps, dqn.replay_buffer.gamma) == (3, dqn.gamma)
    # What an absent sample is like does not matter to the others.
    changed = {**observation, "samples": observation["samples"].clone()}
    absent = changed["samples"][..., 1] == 0
    changed["samples"][..., 0] += 3.0 * absent
    there = ~absent.flatten(1)
    assert absent.any()
    assert not torch.equal(dqn.q_net(observation)[~there], dqn.q_net(changed)[~there])
    torch.testing.assert_close(dqn.q_net(observation)[there], dqn.q_net(changed)[there])
    values = (ppo.policy.predict_values(seen) for seen in (observation, changed))
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_default_recipes_are_for_devices_too(algorithm: str) -> None:
    recipe = find_recipe(algorithm, "Nothing-v0")
    env = LaneVecEnv(market(recipe.lanes))
    flat = make_model(recipe, make(recipe.lanes))
    assert type(flat.policy).__name__ in ("ActorCriticPolicy", "DQNPolicy")
    devices = make_model(recipe, env)
    assert type(devices.policy).__name__ in ("DeviceActorCriticPolicy", "DeviceDQNPolicy")
    with pytest.raises(ValueError, match=r"network.kind is mlp, but .* one per sample"):
        make_model(device_recipe(algorithm, network={"kind": "mlp"}), env)
    with pytest.raises(ValueError, match=r"network.kind is device, but .* of another kind"):
        make_model(device_recipe(algorithm, network={"kind": "device"}), make(4))
    with pytest.raises(ValueError, match="action_bias is for flat observations"):
        make_model(device_recipe(algorithm, action_bias=[0.0] * 12), env)
    with pytest.raises(ValueError, match="two layers at least"):
        make_model(device_recipe(algorithm, network={"hidden": [8]}), env)


def test_dqn_refuses_scores() -> None:
    with pytest.raises(ValueError, match=r"dqn is trained here with discrete actions.*twin"):
        make_model(device_recipe("dqn"), LaneVecEnv(market(actions="scores")))


def test_ppo_learns_the_market() -> None:
    """The best sample earns 1.2 a step and a random one 0: PPO finds most of it."""
    recipe = device_recipe("ppo", network={"hidden": [16, 16]}, lanes=32)
    changes = {"learning_rate": 1e-2, "n_steps": 20, "batch_size": 160, "n_epochs": 4}
    recipe = replace(recipe, hyperparameters={**recipe.hyperparameters, **changes})
    env = LaneVecEnv(market(32))
    env.seed(0)
    model = make_model(recipe, env)
    model.learn(32 * 20 * 12)
    lanes = market(32, mode="Disabled", n_devices=6)
    shape = model.policy.mlp_extractor.policy_net.shape
    agent = AgentPolicy(_as_network(model, shape), {"action_space": {"kind": "discrete"}}, "ppo")
    assert run_episodes(lanes, agent, range(100)).returns.mean() / 5 > 1.2


def test_varied_ppo_takes_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollouts are of each environment in turn, which goes on where it was."""
    recipe = device_recipe("ppo", lanes=4)
    envs = [LaneVecEnv(market(4, actions="scores", n_devices=k)) for k in (2, 5, 3)]
    for env in envs:
        env.seed(0)
    model = make_model(recipe, *envs)
    steps = model.n_steps
    seen: list[tuple[int, int, int]] = []
    train_once = PPO.train

    def watched(self: Any) -> None:
        buffer = self.rollout_buffer
        starts = int(buffer.episode_starts[0].sum())
        seen.append((buffer.observations["devices"].shape[2], buffer.actions.shape[2], starts))
        train_once(self)

    monkeypatch.setattr(PPO, "train", watched)
    model.learn(7 * 4 * steps)
    fresh = [4 if i < 3 else int(steps % 5 == 0) * 4 for i in range(7)]
    assert seen == [(k, k, start) for k, start in zip((2, 5, 3, 2, 5, 3, 2), fresh, strict=True)]
    assert model.get_env() is envs[1]


def test_one_agent_learns_the_markets_of_all_sizes() -> None:
    """Without a change of weights: what is learnt with 2 and 6 devices serves 4."""
    recipe = device_recipe("ppo", network={"hidden": [16, 16]}, lanes=32)
    changes = {"learning_rate": 1e-2, "n_steps": 20, "batch_size": 160, "n_epochs": 4}
    recipe = replace(recipe, hyperparameters={**recipe.hyperparameters, **changes})
    envs = [LaneVecEnv(market(32, n_devices=k)) for k in (2, 6)]
    for env in envs:
        env.seed(0)
    model = make_model(recipe, *envs)
    model.learn(32 * 20 * 12)
    shape = model.policy.mlp_extractor.policy_net.shape
    agent = AgentPolicy(_as_network(model, shape), {"action_space": {"kind": "discrete"}}, "ppo")
    lanes = market(32, mode="Disabled", n_devices=4)
    assert run_episodes(lanes, agent, range(100)).returns.mean() / 5 > 1.1


KINDS = {"columns": "box", "level": "discrete", "levels": "multidiscrete"}


@pytest.mark.parametrize(
    ("actions", "rollouts", "floor"),
    [("columns", 30, 0.6), ("level", 24, 0.75), ("levels", 12, 0.75)],
)
def test_ppo_learns_other_actions(actions: str, rollouts: int, floor: float) -> None:
    """The best of four qualities is 1.03 on average; the most likely level is right 45 % often."""
    recipe = device_recipe("ppo", network={"hidden": [16, 16]}, lanes=32)
    changes = {"learning_rate": 1e-2, "n_steps": 20, "batch_size": 160, "n_epochs": 4}
    recipe = replace(recipe, hyperparameters={**recipe.hyperparameters, **changes})
    env = LaneVecEnv(market(32, actions=actions, n_samples=0))
    env.seed(0)
    model = make_model(recipe, env)
    model.learn(32 * 20 * rollouts)
    shape = model.policy.mlp_extractor.policy_net.shape
    told = {"action_space": {"kind": KINDS[actions]}}
    agent = AgentPolicy(_as_network(model, shape), told, "ppo")
    lanes = market(32, mode="Disabled", actions=actions, n_samples=0)
    assert run_episodes(lanes, agent, range(100)).returns.mean() / 5 > floor


def _as_network(model: Any, shape: DeviceArchitecture) -> networks.DeviceNetwork:
    features = model.policy.features_extractor
    scaling = {
        part: (
            getattr(features, f"{part}_centre").numpy(),
            getattr(features, f"{part}_spread").numpy(),
        )
        for part in features.parts
    }
    weights = model.policy.mlp_extractor.policy_net.state_dict()
    arrays = {name: array.numpy() for name, array in weights.items()}
    return networks.DeviceNetwork(shape, scaling, arrays, features.present)


SCHEDULING = {
    "n_devices": 3,
    "buffer_size": 2,
    "budget": 8,
    "initial_samples": 4,
    "validation_size": 60,
    "test_size": 40,
}
DEVICE_RUNS = [
    ("ppo", "DataScheduling-v0", {}),
    ("ppo", "DataSchedulingBatch-v0", {"uploads_per_block": 2}),
    ("dqn", "DataScheduling-v0", {}),
    ("varied ppo", "DataScheduling-v0", {}),
]
VARIATIONS = [{}, {"initial_samples": 6}, {"partition": "iid"}]


@pytest.mark.parametrize(("algorithm", "env_id", "fields"), DEVICE_RUNS)
def test_device_runs_resume_as_if_never_stopped(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
    env_id: str,
    fields: dict[str, Any],
) -> None:
    """Die before the fourth checkpoint, go on, and leave the same files and the same state."""
    varied, _, algorithm = algorithm.rpartition(" ")
    recipe = device_recipe(algorithm, steps=320, imitation={**DEVICE_LESSON, "episodes": 8})
    if varied:
        recipe = replace(recipe, variations=VARIATIONS)
    overrides = {**SCHEDULING, **fields}

    def run(out: Path, **kwargs: Any) -> Path:
        kwargs.update(recipe=recipe, overrides=overrides, progress=False)
        return train(algorithm, env_id, out=out, **kwargs)

    best = run(tmp_path / "whole")
    saves, replace_file = 0, Path.replace

    def dying_replace(self: Path, target: Any) -> Path:
        nonlocal saves
        saves += Path(target).name == "checkpoint.safetensors"
        if saves == 4:
            raise KilledError
        return replace_file(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying_replace)
        with pytest.raises(KilledError):
            run(tmp_path / "cut")
    run(tmp_path / "cut", resume=True)
    assert run_files(tmp_path / "cut") == run_files(tmp_path / "whole")
    states = [final_state(tmp_path / name) for name in ("cut", "whole")]
    assert states[0] == states[1]
    other = make_lanes(env_id, 2, {**overrides, "n_devices": 5, "buffer_size": 3})
    agent = load_agent(best, other)
    assert np.isfinite(run_episodes(other, agent, range(2)).returns).all()


def test_levels_of_devices_are_imitated_and_kept(tmp_path: Path) -> None:
    """One level for each device: taught by a rule, saved, and loaded for another number."""
    fields = {"n_devices": 3, "iterations": 4, "test_size": 100}
    policy = {"name": "constant-split", "offloaded": 0.4}
    lesson = {"policy": policy, "episodes": 12, "noise": 0.1, "epochs": 60, "batch_size": 32}
    recipe = device_recipe("ppo", steps=96, lanes=4, imitation=lesson)
    rate = {**recipe.hyperparameters, "learning_rate": 1e-6}
    best = train(
        "ppo",
        "OffloadingGrid-v0",
        recipe=replace(recipe, hyperparameters=rate),
        out=tmp_path,
        overrides=fields,
        progress=False,
    )
    other = make_lanes("OffloadingGrid-v0", 2, {**fields, "n_devices": 5})
    agent = load_agent(best, other)
    teacher = make_baseline("constant-split", other, offloaded=0.4)
    observations, _ = other.reset(seed=0)
    meant: list[NDArray[Any]] = []
    for _ in range(2):  # tasks come in every second iteration
        meant.append(teacher.act(observations))
        assert meant[-1].shape == (2, 5)
        np.testing.assert_array_equal(agent.act(observations), meant[-1])
        observations, *_ = other.step(meant[-1])
    assert len(np.unique(meant)) == 2
    assert np.isfinite(run_episodes(other, agent, range(2)).returns).all()
    with pytest.raises(ValueError, match="with actions"):
        load_agent(best, make_lanes("OffloadingDiscrete-v0", 1))


def test_recipes_of_earlier_checkpoints_are_resumed(tmp_path: Path) -> None:
    """What they did not name yet has its default."""
    recipe = tiny_recipe("ppo", imitation=LESSON, steps=64)
    tiny_train("ppo", tmp_path, recipe=recipe)
    file = tmp_path / "checkpoint.safetensors"
    arrays, header = files.read_tensors(file, "checkpoint")
    for part, names in (("network", ("kind", "context")), ("imitation", ("margin",))):
        for name in names:
            del header["recipe"][part][name]
    files.write_tensors(file, arrays, header)
    tiny_train("ppo", tmp_path, recipe=recipe, resume=True, steps=128)
    assert read_agent_metadata(tmp_path / "last.safetensors")["steps"] == 128


def test_replay_looks_several_steps_ahead() -> None:
    """Against loops over the transitions, once the buffer has gone round."""
    lanes, size, steps, gamma = 2, 10, 3, 0.9
    space = spaces.Dict(
        {
            "devices": spaces.Box(-np.inf, np.inf, (2, 2), np.float32),
            "samples": spaces.Box(-np.inf, np.inf, (2, 3, 1), np.float32),
            "system": spaces.Box(-np.inf, np.inf, (1,), np.float32),
        }
    )
    buffer = PartsReplayBuffer(
        size * lanes, space, spaces.Discrete(6), n_envs=lanes, n_steps=steps, gamma=gamma
    )
    rng = np.random.default_rng(0)

    def draw() -> dict[str, NDArray[np.float32]]:
        return {
            part: np.float32(rng.normal(size=(lanes, *box.shape))) for part, box in space.items()
        }

    rounds = []
    for _ in range(size + 4):
        done, cut = rng.random(lanes) < 0.3, rng.random(lanes) < 0.5
        step = (draw(), draw(), rng.integers(0, 6, lanes), np.float32(rng.normal(size=lanes)))
        infos = [{"TimeLimit.truncated": bool(d and c)} for d, c in zip(done, cut, strict=True)]
        buffer.add(*step, done, infos)
        rounds.append((*step, done, done & cut))
    rounds = rounds[-size:]
    np.random.seed(0)  # noqa: NPY002 - the buffer draws from it
    batch = buffer.sample(200)
    found = set()
    for row in range(200):
        system = batch.observations["system"][row].item()
        ((t, lane),) = [
            (t, lane)
            for t in range(size)
            for lane in range(lanes)
            if rounds[t][0]["system"][lane, 0] == system
        ]
        found.add((t, lane))
        total, discount = 0.0, 1.0
        for last in range(t, min(t + steps, size)):
            total += discount * rounds[last][3][lane]
            discount *= gamma
            if rounds[last][4][lane]:
                break
        assert batch.actions[row].item() == rounds[t][2][lane]
        assert batch.rewards[row].item() == pytest.approx(total, rel=1e-5)
        assert batch.discounts[row].item() == pytest.approx(discount, rel=1e-5)
        ended = rounds[last][4][lane] and not rounds[last][5][lane]
        assert batch.dones[row].item() == ended
        for part in space:
            np.testing.assert_array_equal(batch.observations[part][row], rounds[t][0][part][lane])
            following = rounds[last][1][part][lane]
            np.testing.assert_array_equal(batch.next_observations[part][row], following)
    assert len(found) > 15


DEVICE_LESSON = {"policy": {"name": "random"}, "noise": 0.1, "epochs": 2, "batch_size": 64}


class Greedy:
    """The market's best choice."""

    def __init__(self, env: Any) -> None:
        self.actions = env.config.actions

    def begin(self, lanes: Any, seeds: Any) -> None:
        """Nothing to forget."""

    def act(self, observations: Any, masks: Any = None) -> Any:
        quality = observations["devices"][..., 0]
        if self.actions == "scores":
            return np.tanh(quality)
        if self.actions == "device":
            return quality.argmax(axis=1)
        value = observations["samples"][..., 0] + 0.5 * quality[..., None]
        return np.where(masks, value.reshape(len(value), -1), -np.inf).argmax(axis=1)


def lesson_of(**changes: Any) -> Imitation:
    values = {"episodes": 400, "epochs": 12, "batch_size": 256, "learning_rate": 0.01, **changes}
    return Imitation(policy={"name": "greedy"}, **values)


def taught(
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
    actions: str,
    lesson: Imitation,
    **network: Any,
) -> tuple[Any, LaneVecEnv]:
    monkeypatch.setattr(imitation, "make_baseline", lambda name, env: Greedy(env))
    env = LaneVecEnv(market(20, actions=actions))
    env.seed(0)
    recipe = device_recipe(algorithm, lanes=20, network={"hidden": [16, 16], **network})
    sizes = {"ppo": {}, "dqn": {"buffer_size": 4000, "gamma": 0.9}}[algorithm]
    recipe = replace(recipe, hyperparameters={**recipe.hyperparameters, **sizes})
    model = make_model(recipe, env)
    imitate(model, [env], lesson, recipe.algorithm)
    return model, env


def agreement(model: Any, env: LaneVecEnv) -> tuple[float, float]:
    """How often the model does as the teacher, and how far their scores are apart."""
    teacher, observation = Greedy(env.env), env.reset()
    masked = env.env.config.actions != "scores"
    same, apart = [], []
    for _ in range(20):
        wanted = teacher.act(observation, env.action_masks() if masked else None)
        action, _ = model.predict(observation, deterministic=True)
        same.append(np.mean(action == wanted))
        apart.append(np.mean(np.square(action - wanted)))
        observation, *_ = env.step(action)
    return float(np.mean(same)), float(np.mean(apart))


@pytest.mark.parametrize("actions", ["sample", "device"])
def test_ppo_imitates_on_devices(monkeypatch: pytest.MonkeyPatch, actions: str) -> None:
    model, env = taught(monkeypatch, "ppo", actions, lesson_of())
    untaught = make_model(device_recipe("ppo"), env)
    assert agreement(untaught, env)[0] < 0.5
    assert agreement(model, env)[0] > 0.8


def test_ppo_imitates_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    model, env = taught(monkeypatch, "ppo", "scores", lesson_of())
    untaught = make_model(device_recipe("ppo"), env)
    assert agreement(untaught, env)[1] > 0.2
    assert agreement(model, env)[1] < 0.02
    torch.testing.assert_close(model.policy.log_std.detach(), torch.tensor([-0.7]))


def test_ppo_imitates_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, env = taught(monkeypatch, "ppo", "scores", lesson_of(), exploration="signs")
    teacher, observation = Greedy(env.env), env.reset()
    same = []
    for _ in range(20):
        action, _ = model.predict(observation, deterministic=True)
        same.append(np.mean((action > 0) == (teacher.act(observation) > 0)))
        observation, *_ = env.step(action)
    assert np.mean(same) > 0.95


def test_dqn_imitates(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, env = taught(monkeypatch, "dqn", "device", lesson_of(noise=0.3))
    observation = {part: torch.as_tensor(values) for part, values in env.reset().items()}
    for name, weight in plain.q_net.state_dict().items():
        assert torch.equal(weight, plain.q_net_target.state_dict()[name])
    # Returns of the teacher from what it does: its own reward, and the future's in the first step.
    values = plain.q_net(observation).detach().numpy()
    quality = observation["devices"][..., 0].numpy()
    # Errors are too rare to teach all values, but good ones are told from others.
    assert np.corrcoef(values.ravel(), quality.ravel())[0, 1] > 0.5
    replayed = plain.replay_buffer.rewards[: plain.replay_buffer.size()]
    assert values.max(axis=1).mean() == pytest.approx(
        replayed.mean() * sum(0.9**t for t in range(5)), rel=0.25
    )
    margin, env = taught(monkeypatch, "dqn", "device", lesson_of(noise=0.3, margin=3.0))
    assert agreement(margin, env)[0] > 0.9
    gaps = []
    for model in (plain, margin):
        ordered = model.q_net(observation).sort(dim=1).values
        gaps.append((ordered[:, -1] - ordered[:, -2]).mean())
    assert gaps[1] > 1.3 * gaps[0]
    assert agreement(margin, env)[0] > agreement(plain, env)[0]


@pytest.mark.parametrize("flat", [True, False])
def test_dqn_replays_its_teacher(monkeypatch: pytest.MonkeyPatch, flat: bool) -> None:
    """The buffer holds what was played, terminal observations, and a cut where it ends."""
    played: list[Any] = []
    if flat:
        env = make(4)
        model = make_model(tiny_recipe("dqn"), env)
        lesson = Imitation(**{**LESSON, "episodes": 5, "noise": 0.5})
    else:
        monkeypatch.setattr(imitation, "make_baseline", lambda name, env: Greedy(env))
        env = LaneVecEnv(market(4, horizon=6, spread=5))
        model = make_model(device_recipe("dqn"), env)
        lesson = lesson_of(episodes=5, epochs=1, noise=0.5)
    step_wait = LaneVecEnv.step_wait

    def noted(self: LaneVecEnv) -> Any:
        result = step_wait(self)
        played.append((self._actions.copy(), copy.deepcopy(result)))
        return result

    monkeypatch.setattr(LaneVecEnv, "step_wait", noted)
    first = copy.deepcopy(env.reset())
    env.reset = lambda: copy.deepcopy(first)  # type: ignore[method-assign]
    imitate(model, [env], lesson, "dqn")
    buffer = model.replay_buffer
    size = min(len(played), buffer.buffer_size)
    assert buffer.size() == size
    observation = first
    for t, (actions, (following, rewards, dones, infos)) in enumerate(played):
        row = t % buffer.buffer_size
        last = t == len(played) - 1
        if t >= len(played) - size:
            np.testing.assert_array_equal(buffer.actions[row, :, 0], actions)
            np.testing.assert_array_equal(buffer.rewards[row], rewards)
            np.testing.assert_array_equal(buffer.dones[row], np.ones(4) if last else dones)
            np.testing.assert_array_equal(buffer.timeouts[row], ~dones if last else np.zeros(4))
            for lane in range(4):
                seen = [buffer.observations[row, lane], buffer.next_observations[row, lane]]
                after = infos[lane].get("terminal_observation")
                if after is None:
                    after = _lane(following, lane)
                elif not flat:
                    after = np.concatenate([after[part].ravel() for part in sorted(after)])
                expected = [_lane(observation, lane), after]
                np.testing.assert_array_equal(seen, expected)
        observation = following
    # The flat buffer is smaller than what was played; on devices, some episodes were cut.
    assert len(played) > size or not flat
    assert flat or not dones.all()
    assert any(dones.any() for _, (_, _, dones, _) in played[:-1])


def _lane(observation: Any, lane: int) -> Any:
    if isinstance(observation, dict):
        parts = ("devices", "samples", "system")
        return np.concatenate([observation[part][lane].ravel() for part in parts])
    return observation[lane]


def test_device_interfaces_are_checked(tmp_path: Path, agent_file: Path) -> None:
    env = LaneVecEnv(market())
    model = make_model(device_recipe("ppo"), env)
    path = save_agent(model, tmp_path / "devices")
    assert read_agent_metadata(path)["action_space"] == {"kind": "discrete", "per": "sample"}
    load_agent(path, market(2, n_devices=11, n_samples=1))
    with pytest.raises(ValueError, match=r"'per': 'sample'.*here they are .*'per': 'device'"):
        load_agent(path, market(actions="device"))
    with pytest.raises(ValueError, match=r"reads samples, which .* it observes devices, system"):
        load_agent(path, market(actions="device", n_samples=0))
    with pytest.raises(ValueError, match="has no observation of devices"):
        load_agent(path, gym.make(ID, config=TINY))
    with pytest.raises(ValueError, match="has no flat observation"):
        load_agent(agent_file, market())
    other = market()
    other.problem.tables["samples"] = ObservationTable(
        Column("value", "nat", -9, 9, ""), Column("present", "1", 0, 1, "")
    )
    with pytest.raises(ValueError, match="reads samples value in 1, which is in nat here"):
        load_agent(path, other)
    other.problem.tables["samples"] = ObservationTable(*market().tables["samples"].columns[:1])
    with pytest.raises(ValueError, match="does not observe: samples present"):
        load_agent(path, other)
    scores = LaneVecEnv(market(actions="scores"))
    path = save_agent(make_model(device_recipe("ppo"), scores), tmp_path / "scores")
    with pytest.raises(ValueError, match=r"'kind': 'box'.*here they are .*'kind': 'discrete'"):
        load_agent(path, market(actions="device"))


@pytest.mark.parametrize("actions", ["sample", "scores", "columns"])
def test_agents_read_their_columns_by_name(tmp_path: Path, actions: str) -> None:
    """Other columns around theirs, another order and another part change nothing."""
    env = market(actions=actions)
    model = shuffled_weights(make_model(device_recipe("ppo"), LaneVecEnv(env)), 0.5)
    path = save_agent(model, tmp_path / "agent")
    observations, _ = env.reset(seed=4)
    expected = load_agent(path, env).act(observations)
    grown = market(actions=actions)
    more = Column("more", "1", 0, 1, "")
    for part, table in grown.tables.items():
        grown.tables[part] = ObservationTable(more, *reversed(table.columns), more)
    grown.tables["weather"] = ObservationTable(more)
    seen = {
        part: np.pad(values[..., ::-1], [(0, 0)] * (values.ndim - 1) + [(1, 1)], constant_values=7)
        for part, values in observations.items()
    }
    agent = load_agent(path, grown)
    found = agent.act({**seen, "weather": np.ones((6, 1), np.float32)})
    np.testing.assert_array_equal(found, expected)
    alone = agent.act({part: values[2] for part, values in seen.items()})
    np.testing.assert_allclose(alone, expected[2], atol=1e-6)


@pytest.mark.parametrize("decoder", [None, {"name": "scores"}])
def test_new_action_columns_are_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: Any
) -> None:
    env = market(actions="scores")
    model = shuffled_weights(make_model(device_recipe("ppo"), LaneVecEnv(env)), 0.5)
    path = save_agent(model, tmp_path / "agent", {"decoder": decoder})

    class Scores:
        columns = 1

        def decode(self, observations: Any, scores: NDArray[Any]) -> NDArray[Any]:
            return scores

    monkeypatch.setattr(decoders, "make_decoder", lambda wanted, env: Scores())
    wider = market(actions="columns")
    assert wider.action_fill is None
    with pytest.raises(ValueError, match=r"'per': 'device'\}; here they are .*'columns': 2"):
        load_agent(path, wider)
    wider.problem.action_fill = 1.0
    observations, _ = env.reset(seed=4)
    found = load_agent(path, wider).act(observations)
    assert found.shape == (6, 4, 2)
    assert found.dtype == np.float32
    assert wider.action_space.contains(found)
    expected = load_agent(path, env).act(observations).reshape(6, 4)
    np.testing.assert_array_equal(found[..., 0], expected)
    assert (found[..., 1] == 1).all()
    alone = {part: values[0] for part, values in observations.items()}
    assert load_agent(path, wider).act(alone).shape == (4, 2)
    # What acts in more columns than there are does not.
    wide = make_model(device_recipe("ppo"), LaneVecEnv(wider))
    env.problem.action_fill = 1.0
    with pytest.raises(ValueError, match="'columns': 2}; here they are"):
        load_agent(save_agent(wide, tmp_path / "wide"), env)


def test_damaged_device_agents(tmp_path: Path) -> None:
    env = market()
    model = make_model(device_recipe("dqn"), LaneVecEnv(env))
    path = save_agent(model, tmp_path / "agent")
    arrays, header = files.read_tensors(path, "agent")

    def refused(message: str, change: Any) -> None:
        changed_arrays = {name: array.copy() for name, array in arrays.items()}
        changed_header = json.loads(json.dumps(header))
        change(changed_arrays, changed_header)
        files.write_tensors(path, changed_arrays, changed_header)
        with pytest.raises(AgentError, match=message):
            load_agent(path, env)

    refused("does not fit its columns", lambda a, h: h["columns"]["devices"].append("more [1]"))
    refused("does not fit its columns", lambda a, h: h["columns"].pop("samples"))
    wide = np.ones(3, np.float32)
    refused("scaling does not fit", lambda a, h: a.update({"scaling.system_spread": wide}))
    refused("damaged or no agent", lambda a, h: a.pop("scaling.system_spread"))
    refused("damaged or no agent", lambda a, h: h["network"].update(hidden=[8, 9]))
    refused("damaged or no agent", lambda a, h: h["network"].update(layers=3))
    refused("damaged or no agent", lambda a, h: h["network"].update(activation="sine"))
    refused("two layers at least", lambda a, h: h["network"].update(hidden=[8]))
    refused("damaged or no agent", lambda a, h: a.pop("scores.score.bias"))
    refused("must be finite", lambda a, h: a["scores.score.bias"].fill(np.nan))
    refused("damaged or no agent", lambda a, h: h.pop("present"))
    for present in (99, -1, "1", 1.0):
        refused("present must be a column", lambda a, h, p=present: h.update(present=p))
    for decoder in ({"name": "magic"}, {"name": "residual"}, {"name": "residual", "policy": [3]}):
        refused(
            "has a decoder that cannot be made here: (unknown|the|policy)",
            lambda a, h, d=decoder: h.update(decoder=d),
        )
    refused("of another kind", lambda a, h: h.update(format="edge_gym device agent 9"))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_agents_of_the_package_load(name: str) -> None:
    """Their files are as they were written, and act as a plain perceptron says."""
    env = make_lanes(ID, 8)
    agent = load_agent(name, env)
    (file,) = (Path(recipes.__file__).parent / "trained" / "Retransmission-v0").glob(
        f"{name}-seed{agent.metadata['recipe']['seed']}.safetensors"
    )
    arrays, header = files.read_tensors(file, "agent")
    assert header["format"] == "edge_gym agent 1"
    observations, _ = env.reset(seed=0)
    names = [column.partition(" ")[0] for column in header["columns"]]
    own = observations[:, [env.tables[""].index(name) for name in names]]
    x = np.clip((own - arrays["centre"]) / arrays["spread"], -header["clip"], header["clip"])
    act = {"tanh": np.tanh, "relu": lambda v: np.maximum(v, 0)}[header["activation"]]
    x = act(x @ arrays["0.weight"].T + arrays["0.bias"])
    x = act(x @ arrays["1.weight"].T + arrays["1.bias"])
    scores = x @ arrays["2.weight"].T + arrays["2.bias"]
    np.testing.assert_array_equal(agent.act(observations), scores.argmax(axis=1))


# Imports


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_imports_are_lazy(agent_file: Path) -> None:
    code = f"""
import sys
import edge_gym.agents as agents
assert agents.shipped_agents({ID!r}) is not None
agents.find_recipe("ppo", {ID!r}), agents.AgentError
agents.read_agent_metadata({str(agent_file)!r})
unneeded = {{"torch", "stable_baselines3"}} & set(sys.modules)
assert not unneeded, unneeded
sys.modules["stable_baselines3"] = None
from edge_gym.evaluation.rollouts import make_lanes, run_episodes
env = make_lanes({ID!r}, 2, {TINY!r})
run_episodes(env, agents.load_agent({str(agent_file)!r}, env), [700_000])
try:
    agents.train
except ModuleNotFoundError as error:
    assert "pip install 'edge_gym[agents]'" in str(error), error
else:
    raise AssertionError
try:
    agents.nothing
except AttributeError:
    print("done")
"""
    result = _python(code)
    assert result.stdout.strip() == "done", result.stderr
