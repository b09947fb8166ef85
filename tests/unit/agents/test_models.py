"""Models of stable-baselines3 and sb3-contrib, saved and compared, and the scaling wrappers."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from rollouts import SMALL, lane_of, random_actions
from sb3_contrib import QRDQN, TQC, TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

import edge_gym
from edge_gym.agents import AgentError, LaneVecEnv, load_agent, save_agent
from edge_gym.agents import archive as files
from edge_gym.cli import main as cli
from edge_gym.core.observation import Column, ObservationTable
from edge_gym.evaluation.comparison import compare
from edge_gym.evaluation.rollouts import make_lanes
from edge_gym.wrappers import ScaleObservation, ScaleVectorObservation

FLAT, SCORES = "Retransmission-v0", "UpdateScheduling-v0"
DEVICES, LEVELS, COLUMNS = "DataScheduling-v0", "OffloadingGrid-v0", "BatchSlot-v0"
ON_POLICY = {"n_steps": 8, "batch_size": 8}
REPLAY = {"buffer_size": 50, "learning_starts": 1000}
MODELS: dict[str, tuple[type[Any], str, dict[str, Any]]] = {
    "ppo flat": (PPO, FLAT, ON_POLICY),
    "ppo devices": (PPO, DEVICES, ON_POLICY),
    "ppo scores": (PPO, SCORES, ON_POLICY),
    "ppo columns": (PPO, COLUMNS, ON_POLICY),
    "ppo levels": (PPO, LEVELS, ON_POLICY),
    "ppo own size": (
        PPO,
        DEVICES,
        {**ON_POLICY, "policy_kwargs": {"net_arch": [9, 7], "activation_fn": torch.nn.SiLU}},
    ),
    "ppo squashed": (
        PPO,
        SCORES,
        {**ON_POLICY, "use_sde": True, "policy_kwargs": {"squash_output": True}},
    ),
    "ppo linear": (PPO, FLAT, {**ON_POLICY, "policy_kwargs": {"net_arch": []}}),
    "a2c": (A2C, SCORES, {"n_steps": 8}),
    "a2c two extractors": (A2C, DEVICES, {"policy_kwargs": {"share_features_extractor": False}}),
    "dqn flat": (DQN, FLAT, REPLAY),
    "dqn devices": (DQN, DEVICES, REPLAY),
    "maskable ppo": (MaskablePPO, DEVICES, ON_POLICY),
    "maskable ppo levels": (MaskablePPO, LEVELS, ON_POLICY),
    "qrdqn": (QRDQN, DEVICES, {**REPLAY, "policy_kwargs": {"n_quantiles": 7}}),
    "trpo": (TRPO, SCORES, ON_POLICY),
    "sac": (SAC, COLUMNS, REPLAY),
    "td3": (TD3, SCORES, REPLAY),
    "tqc": (TQC, SCORES, REPLAY),
}


def lanes(name: str, n: int = 4) -> Any:
    return gym.make_vec(f"edge_gym/{name}", n, autoreset_mode="SameStep", config=SMALL[name])


def made(kind: type[Any], env: Any, seed: int = 0, **arguments: Any) -> Any:
    """Return a model whose weights make inputs matter."""
    policy = (
        "MlpPolicy" if isinstance(env.observation_space, gym.spaces.Box) else "MultiInputPolicy"
    )
    model = kind(policy, env, device="cpu", seed=seed, **arguments)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return model


def seen(env: Any, steps: int = 6) -> list[Any]:
    """Return observations of a few random steps."""
    observations = [env.reset()]
    chance = random_actions(env.action_space)
    for _ in range(steps):
        observations.append(env.step(np.stack([next(chance) for _ in range(env.num_envs)]))[0])
    return observations


def physical(name: str, steps: int = 6) -> list[Any]:
    env = LaneVecEnv(lanes(name))
    env.seed(3)
    return seen(env, steps)


@pytest.mark.parametrize("normalised", [False, True], ids=["as it is", "VecNormalize"])
@pytest.mark.parametrize("case", MODELS)
def test_models_act_as_they_did(case: str, normalised: bool, tmp_path: Path) -> None:
    kind, name, arguments = MODELS[case]
    env: Any = LaneVecEnv(lanes(name))
    if normalised:
        env = VecNormalize(env, clip_obs=1.5, epsilon=1e-3)
        env.seed(1)
        seen(env)
    # Unscaled, the largest column decides alone: scaled down, others have a say.
    model = made(kind, env, **arguments)
    path = save_agent(model, tmp_path / "model", {"note": "mine"})
    arrays, header = files.read_tensors(path, "agent")
    assert header["algorithm"] == kind.__name__.lower()
    assert header["note"] == "mine"
    normalise = env.normalize_obs if normalised else lambda observation: observation
    agent = load_agent(path, make_lanes(name, 4, SMALL[name]))
    for observation in physical(name):
        expected, _ = model.predict(normalise(observation), deterministic=True)
        actions = agent.act(observation)
        assert (actions.shape, actions.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(actions, expected, atol=1e-5)
        # A single row is multiplied in another order than a batch.
        np.testing.assert_allclose(agent.act(lane_of(observation, 1)), actions[1], atol=1e-4)
    if normalised:
        some = [array for name, array in arrays.items() if name.endswith(".variance")]
        assert some
        assert all(array.dtype == np.float64 for array in some)


@pytest.mark.parametrize("outer", [False, True], ids=["alone", "and VecNormalize"])
@pytest.mark.parametrize("scalar", [False, True], ids=["lanes", "scalar"])
@pytest.mark.parametrize("name", [FLAT, DEVICES])
def test_scaling_is_saved(name: str, scalar: bool, outer: bool, tmp_path: Path) -> None:
    env: Any
    if scalar:
        env = make_vec_env(
            lambda: ScaleObservation(gym.make(f"edge_gym/{name}", config=SMALL[name]), clip=2), 2
        )
    else:
        env = LaneVecEnv(ScaleVectorObservation(lanes(name), clip=2))
    scale = ScaleVectorObservation(lanes(name), clip=2)._scale
    if outer:
        env = VecNormalize(env)
        seen(env)
    model = made(PPO, env, **ON_POLICY)
    path = save_agent(model, tmp_path / "model")
    agent = load_agent(path, gym.make(f"edge_gym/{name}", config=SMALL[name]))
    chosen = set()
    for observation in physical(name, 12):
        scaled = scale(observation)
        expected, _ = model.predict(
            env.normalize_obs(scaled) if outer else scaled, deterministic=True
        )
        np.testing.assert_array_equal(agent.act(observation), expected)
        chosen |= set(expected.tolist())
    assert len(chosen) > 1
    with pytest.raises(ValueError, match="without ScaleObservation"):
        load_agent(path, scale_of_one(name))


def scale_of_one(name: str) -> ScaleObservation:
    return ScaleObservation(gym.make(f"edge_gym/{name}", config=SMALL[name]))


def test_masks_are_honoured(tmp_path: Path) -> None:
    for name in (DEVICES, LEVELS):
        model = made(MaskablePPO, LaneVecEnv(lanes(name)), **ON_POLICY)
        env = make_lanes(name, 4, SMALL[name])
        agent = load_agent(save_agent(model, tmp_path / "model"), env)
        observations, _ = env.reset(seed=0)
        rng = np.random.default_rng(0)
        space = env.single_action_space
        width = int(space.n if name == DEVICES else space.nvec.sum())
        masks = rng.random((4, width)) < 0.5
        masks[:, :: 6 if name == LEVELS else width] = True
        expected, _ = model.predict(observations, action_masks=masks, deterministic=True)
        np.testing.assert_array_equal(agent.act(observations, masks), expected)
        assert not np.array_equal(agent.act(observations), expected)


def test_models_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = VecNormalize(LaneVecEnv(lanes(DEVICES)))
    model = made(PPO, env, n_steps=40, batch_size=40)
    model.learn(160)
    path = save_agent(model, tmp_path / "mine.safetensors")
    results = compare(
        DEVICES, {"mine": str(path), "random": "random"}, episodes=4, overrides=SMALL[DEVICES]
    )
    assert results.policies["mine"].kind == "learned"
    settings = [f"--set={name}={value}" for name, value in SMALL[DEVICES].items()]
    arguments = ["compare", DEVICES, "--policy", str(path), "--episodes", "4", *settings, "--json"]
    assert cli.main([*arguments, "--out", str(tmp_path / "results")]) == 0
    told = json.loads(capsys.readouterr().out)["policies"][str(path)]
    assert told["mean"] == results.policies["mine"].mean
    # By hand, as stable-baselines3 runs it.
    returns = []
    for seed in results.seeds:
        scalar = gym.make(f"edge_gym/{DEVICES}", config=SMALL[DEVICES])
        observation, _ = scalar.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            action, _ = model.predict(env.normalize_obs(observation), deterministic=True)
            observation, reward, terminated, truncated, _ = scalar.step(action)
            total, over = total + reward, terminated or truncated
        returns.append(total)
    np.testing.assert_allclose(results.episodes["mine"].returns, returns, atol=1e-6)


def test_a_model_serves_one_number_of_devices(tmp_path: Path) -> None:
    model = made(PPO, LaneVecEnv(lanes(DEVICES)), **ON_POLICY)
    path = save_agent(model, tmp_path / "model")
    more = make_lanes(DEVICES, 2, {**SMALL[DEVICES], "n_devices": 5})
    with pytest.raises(ValueError, match="devices had 3 rows; here they are 5: a network that"):
        load_agent(path, more)
    with pytest.raises(ValueError, match="samples had 3 x 2 rows; here they are 3 x 4"):
        load_agent(path, make_lanes(DEVICES, 2, {**SMALL[DEVICES], "buffer_size": 4}))
    with pytest.raises(ValueError, match=r"reads .*devices"):
        load_agent(path, make_lanes(FLAT, 2, SMALL[FLAT]))
    with pytest.raises(ValueError, match=r"with actions discrete 6; here they are discrete 3"):
        load_agent(path, make_lanes("DataSchedulingDevice-v0", 2, SMALL[DEVICES]))


def test_models_read_their_columns_by_name(tmp_path: Path) -> None:
    env = VecNormalize(LaneVecEnv(ScaleVectorObservation(lanes(SCORES))))
    seen(env)
    model = made(PPO, env, **ON_POLICY)
    path = save_agent(model, tmp_path / "model")
    plain, grown = (make_lanes(SCORES, 4, SMALL[SCORES]) for _ in range(2))
    for part, table in grown.tables.items():
        more = Column("more", "1", 0, 1, "")
        grown.problem.tables[part] = ObservationTable(more, *reversed(table.columns))
    grown.problem.tables["weather"] = ObservationTable(Column("rain", "1", 0, 1, ""))
    agent = load_agent(path, grown)
    for observation in physical(SCORES):
        wider = {
            part: np.pad(values[..., ::-1], [(0, 0)] * (values.ndim - 1) + [(1, 0)])
            for part, values in observation.items()
        }
        found = agent.act({**wider, "weather": np.zeros((4, 1), np.float32)})
        np.testing.assert_array_equal(found, load_agent(path, plain).act(observation))


def test_what_stands_between_is_refused(tmp_path: Path) -> None:
    def refused(message: str, model: Any) -> None:
        with pytest.raises(ValueError, match=message):
            save_agent(model, tmp_path / "odd")

    adapter = LaneVecEnv(lanes(FLAT))
    stacked = made(PPO, VecFrameStack(adapter, 2), **ON_POLICY)
    refused("what VecFrameStack does is not saved", stacked)
    flat = make_vec_env(
        lambda: gym.wrappers.FlattenObservation(gym.make(f"edge_gym/{DEVICES}", **SMALL[DEVICES])),
        1,
    )
    message = r"observations are Box \(\d+,\), the environment's Dict of devices .*leave out"
    refused(message, made(PPO, flat, **ON_POLICY))
    rescaled = make_vec_env(
        lambda: gym.wrappers.RescaleAction(
            gym.make(f"edge_gym/{SCORES}", **SMALL[SCORES]), np.float32(0), np.float32(1)
        ),
        1,
    )
    refused("the model's actions are Box", made(PPO, rescaled, **ON_POLICY))
    refused("that remembers", RecurrentPPO("MlpLstmPolicy", adapter, n_steps=8, batch_size=8))

    class Embedding(BaseFeaturesExtractor):
        def __init__(self, space: Any) -> None:
            super().__init__(space, 4)
            self.layer = torch.nn.Linear(space.shape[0], 4)

        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            return self.layer(observations)

    embedded = {"features_extractor_class": Embedding}
    refused("no way to save a Embedding", made(PPO, adapter, policy_kwargs=embedded, **ON_POLICY))
    sde = made(SAC, LaneVecEnv(lanes(SCORES)), use_sde=True, **REPLAY)
    refused("no way to save a network with Hardtanh", sde)
    assert not list(tmp_path.iterdir())


def test_damaged_models(tmp_path: Path) -> None:
    env = VecNormalize(LaneVecEnv(ScaleVectorObservation(lanes(SCORES))))
    path = save_agent(made(PPO, env, **ON_POLICY), tmp_path / "model")
    arrays, header = files.read_tensors(path, "agent")
    here = make_lanes(SCORES, 2, SMALL[SCORES])

    def refused(message: str, change: Any) -> None:
        changed_arrays = {name: array.copy() for name, array in arrays.items()}
        changed_header = json.loads(json.dumps(header))
        change(changed_arrays, changed_header)
        files.write_tensors(path, changed_arrays, changed_header)
        with pytest.raises(AgentError, match=message):
            load_agent(path, here)

    refused("does not fit its columns", lambda a, h: h["columns"]["devices"].append("more [1]"))
    refused("its mean does not fit", lambda a, h: a.update({"devices.mean": np.zeros(3)}))
    refused(
        "its spread does not fit", lambda a, h: a.update({"system.spread": np.ones(99, np.float32)})
    )
    refused("damaged or no agent", lambda a, h: h["layers"].append("linear"))
    refused("damaged or no agent", lambda a, h: h["layers"].append("sine"))
    refused("damaged or no agent", lambda a, h: h.pop("normalised"))
    refused("damaged or no agent", lambda a, h: a.pop("0.bias"))
    refused("does not follow", lambda a, h: a.update({"1.weight": a["0.weight"]}))
    refused("does not fit its actions", lambda a, h: h["layers"].__delitem__(slice(-2, None)))
    refused("must be finite", lambda a, h: a["0.bias"].fill(np.nan))
    refused("damaged", lambda a, h: h["action_space"].update(low=[0.0]))
    refused("quantiles must be a positive", lambda a, h: h.update(quantiles=0))
    refused("positive epsilon and clip", lambda a, h: h.update(normalised={"epsilon": "x"}))


# The wrappers


@pytest.mark.parametrize("name", [FLAT, DEVICES, SCORES, COLUMNS])
def test_scaled_environments_pass_gymnasium_s_check(name: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        check_env(scale_of_one(name), skip_render_check=True)
    spec = scale_of_one(name).spec
    assert spec is not None
    again = gym.make(spec)
    assert isinstance(again, ScaleObservation)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("name", [FLAT, DEVICES])
def test_lanes_are_scaled_as_single_environments(name: str, mode: AutoresetMode) -> None:
    plain, scaled = (
        gym.make_vec(f"edge_gym/{name}", 3, autoreset_mode=mode, config=SMALL[name])
        for _ in range(2)
    )
    scaled = ScaleVectorObservation(scaled, clip=3.0)
    single = ScaleObservation(gym.make(f"edge_gym/{name}", config=SMALL[name]), clip=3.0)
    assert scaled.single_observation_space == single.observation_space
    found, given = scaled.reset(seed=4)[0], plain.reset(seed=4)[0]
    alone, _ = single.reset(seed=5)
    assert_scaled(lane_of(found, 1), alone)
    chance = random_actions(plain.single_action_space)
    ended = 0
    for _ in range(45):
        assert scaled.observation_space.contains(found)
        for lane in range(3):
            assert_scaled(lane_of(found, lane), single.observation(lane_of(given, lane)))
        actions = np.stack([next(chance) for _ in range(3)])
        found, *_, infos = scaled.step(actions)
        given, _, terminated, truncated, told = plain.step(actions)
        if "final_obs" in told:
            for lane in np.flatnonzero(told["_final_obs"]):
                ended += 1
                last = single.observation(told["final_obs"][lane])
                assert_scaled(infos["final_obs"][lane], last)
        if mode == AutoresetMode.DISABLED and (over := terminated | truncated).any():
            found, _ = scaled.reset(seed=9, options={"reset_mask": over})
            given, _ = plain.reset(seed=9, options={"reset_mask": over})
    assert (ended > 0) == (mode == AutoresetMode.SAME_STEP)


def assert_scaled(found: Any, expected: Any) -> None:
    found, expected = (x if isinstance(x, dict) else {"": x} for x in (found, expected))
    for part, values in expected.items():
        assert found[part].dtype == np.float32
        np.testing.assert_array_equal(found[part], values)


def test_scaled_columns_are_what_the_tables_say() -> None:
    env = scale_of_one(FLAT)
    observation, _ = env.reset(seed=0)
    raw, _ = env.unwrapped.reset(seed=0)
    for value, given, column in zip(observation, raw, env.unwrapped.tables[""], strict=True):
        expected = np.clip((given - column.centre) / column.spread, -5, 5)
        assert value == pytest.approx(expected, abs=1e-5)


def test_other_environments_are_not_scaled() -> None:
    with pytest.raises(ValueError, match="it is no edge_gym environment"):
        ScaleObservation(gym.make("CartPole-v1"))
    flat = gym.wrappers.FlattenObservation(gym.make(f"edge_gym/{DEVICES}", config=SMALL[DEVICES]))
    with pytest.raises(ValueError, match="put ScaleObservation inside"):
        ScaleObservation(flat)
    with pytest.raises(ValueError, match="clip must be"):
        ScaleVectorObservation(lanes(FLAT), clip=0)
    assert edge_gym.wrappers.ScaleObservation is ScaleObservation
