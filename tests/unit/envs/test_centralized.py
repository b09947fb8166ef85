"""What the problems of centralized learning share: the channel, action codecs, other learners."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray
from rollouts import assert_same, random_actions

from edge_gym.baselines import applicable_baselines
from edge_gym.core.state import declared_arrays
from edge_gym.envs.data_scheduling.actions import ChooseDevice, ChooseSample, RankDevices
from edge_gym.envs.retransmission.actions import ACCEPT, RETRANSMIT, AcceptOrRetransmit
from edge_gym.learning import LEARNERS, register_learner
from edge_gym.learning.online import MlpLearner

SENDING, SCHEDULING = "Retransmission-v0", "DataScheduling-v0"
BOTH = [SENDING, SCHEDULING]
MANY = "rician:k=5,correlation=0.9,shadowing_db=4"
TINY = {"image_size": 7, "validation_size": 60, "test_size": 50}


def make(name: str, **fields: Any) -> Any:
    return gym.make(f"edge_gym/{name}", **{**TINY, **fields}).unwrapped


def gains(name: str, channel: str, steps: int = 40) -> NDArray[np.float64]:
    """Return the gains of 60 episodes, ``(60, steps, links)``."""
    fields = {**TINY, "channel": channel, "budget": steps, "retrain_every": steps}
    env: Any = gym.make_vec(f"edge_gym/{name}", 60, **fields)
    env.reset(seed=0)
    env.action_space.seed(0)
    drawn = [env.problem.fading.gain.copy()]
    for _ in range(steps - 1):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        assert not (terminated | truncated).any()
        drawn.append(env.problem.fading.gain.copy())
    return np.stack(drawn, axis=1).reshape(60, steps, -1)


def correlation(values: NDArray[np.float64]) -> float:
    """Return the correlation between a step's gain and the next one's."""
    return float(np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1])


@pytest.mark.parametrize("name", BOTH)
def test_the_channel_model_shapes_all_gains(name: str) -> None:
    rayleigh, nakagami = gains(name, "rayleigh"), gains(name, "nakagami:m=4")
    assert rayleigh.mean() == pytest.approx(1, abs=0.1)
    assert rayleigh.std() == pytest.approx(1, abs=0.1)
    assert nakagami.mean() == pytest.approx(1, abs=0.1)
    assert nakagami.std() == pytest.approx(0.5, abs=0.05)
    assert (gains(name, "awgn", 4) == 1).all()
    assert abs(correlation(rayleigh)) < 0.06
    # Of amplitudes 0.9, so of Rayleigh fading's power 0.81.
    assert correlation(gains(name, "rayleigh:correlation=0.9")) == pytest.approx(0.81, abs=0.06)


@pytest.mark.parametrize("name", BOTH)
def test_shadowing_stays_for_the_episode(name: str) -> None:
    drawn = gains(name, "awgn:shadowing_db=6", 8)
    np.testing.assert_allclose(drawn, np.broadcast_to(drawn[:, :1], drawn.shape))
    assert 10 * np.log10(drawn[:, 0]).std() == pytest.approx(6, abs=1.5)


@pytest.mark.parametrize("name", BOTH)
def test_a_channel_leaves_data_and_first_model_as_they_are(name: str) -> None:
    first, other = (make(name, channel=channel) for channel in ("rayleigh", MANY))
    infos = [env.reset(seed=5)[1] for env in (first, other)]
    assert_same(*infos)
    assert (first.problem.fading.gain != other.problem.fading.gain).all()
    assert (gains(name, "rayleigh", 8) != gains(name, MANY, 8)).all()


@pytest.mark.parametrize("name", BOTH)
def test_restored_episodes_go_on_identically_under_any_channel(name: str) -> None:
    env, other = (make(name, channel=MANY, budget=16) for _ in range(2))
    env.reset(seed=2)
    other.reset(seed=9)
    actions = random_actions(env.action_space, 1)
    for _ in range(6):
        env.step(next(actions))
    other.set_state(env.get_state())
    for action in [next(actions) for _ in range(9)]:
        assert_same(list(env.step(action)), list(other.step(action)))


@pytest.mark.parametrize("name", BOTH)
def test_a_wrong_channel_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"channel .*rician.*k must be"):
        make(name, channel="rician:k=-1")


@pytest.mark.parametrize("name", BOTH)
def test_state_is_declared_and_documented(name: str) -> None:
    problem = make(name).problem
    assert not getattr(problem, "lane_arrays", ())
    text = str(type(problem).__doc__) + str(type(problem).__mro__[1].__doc__)
    for array in declared_arrays(type(problem)):
        assert array.startswith("_") or f" {array}:" in text, array


@pytest.mark.parametrize("leading", [(), (5,), (2, 3)])
def test_codecs_give_back_what_they_encode(leading: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    accepts = rng.random(leading) < 0.5
    sending = AcceptOrRetransmit()
    assert_same(np.asarray(sending.decode(sending.encode(accepts))), np.asarray(accepts))
    device, sample = rng.integers(4, size=leading), rng.integers(3, size=leading)
    choosing = ChooseSample(4, 3)
    np.testing.assert_array_equal(
        choosing.decode(choosing.encode((device, sample))), (device, sample)
    )
    one = ChooseDevice(4)
    np.testing.assert_array_equal(one.decode(one.encode(device)), device)
    ranking = np.argsort(rng.random((*leading, 4)), axis=-1)
    ranks = RankDevices(4)
    np.testing.assert_array_equal(ranks.decode(ranks.encode(ranking)), ranking)
    assert (np.abs(ranks.encode(ranking)) <= 1).all()


def test_equal_scores_go_by_index() -> None:
    assert RankDevices(4).decode(np.array([0, 1, 0, 1.0])).tolist() == [1, 3, 0, 2]


def test_actions_are_those_of_the_docstring() -> None:
    assert AcceptOrRetransmit().encode(np.array([True, False])).tolist() == [ACCEPT, RETRANSMIT]
    assert ChooseSample(4, 3).encode((np.array(2), np.array(1))) == 7


class HingeNetwork(MlpLearner):
    """A network whose samples count by their hinge loss: between the two kinds of learners."""

    loss = "hinge_loss"


@pytest.fixture
def hinge_network() -> Iterator[str]:
    name = "own/hinge-network"
    register_learner(name, HingeNetwork)
    yield name
    LEARNERS.unregister(name)


def test_columns_and_rules_follow_from_what_a_learner_states(hinge_network: str) -> None:
    env = make(SCHEDULING, learner=hinge_network, train_steps=2, n_devices=3, buffer_size=2)
    names = [column.name for column in env.tables["samples"]]
    assert "entropy" in names
    assert "hinge_loss" in names
    assert "distance" not in names
    assert "weight_norm" not in env.tables["system"]
    observation, _ = env.reset(seed=0)
    margin, loss = (
        env.tables["samples"].read(observation["samples"], name)
        for name in ("margin", "hinge_loss")
    )
    np.testing.assert_allclose(loss, np.maximum(0, 1 - margin), rtol=1e-5)
    rules = applicable_baselines(env)
    assert {"hinge-loss", "importance-aware"} <= set(rules)
    assert not {"support-vector-probability", "global-diversity"} & set(rules)

    sending = make(SENDING, learner=hinge_network, train_steps=2)
    rules = applicable_baselines(sending)
    assert {"support-vector-aware", "importance-aware-entropy"} <= set(rules)
    assert not {"importance-aware", "importance-aware-multiclass"} & set(rules)
