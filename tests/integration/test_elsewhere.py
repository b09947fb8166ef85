"""What others build on environments takes every id as it is: Gymnasium's wrappers and theirs.

The scripts in ``elsewhere`` are a user's; ``test_empty_project`` runs all of them where nothing but
the wheel is installed.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import rollouts
from elsewhere import cleanrl_ppo, with_sb3, with_wrappers

from edge_gym.integrations.rllib import make_for_rllib, ppo_config, register_rllib


@pytest.mark.parametrize("wrap", [with_wrappers.wrap_one, with_wrappers.wrap_lanes])
@pytest.mark.parametrize("name", rollouts.parameters(rollouts.NAMES))
def test_wrappers(name: str, wrap: Callable[..., None]) -> None:
    wrap(f"edge_gym/{name}", **rollouts.brief(name))


@pytest.mark.parametrize(
    "name", ["Retransmission-v0", "DataScheduling-v0", "TaskAllocation-v0", "Offloading-v0"]
)
def test_videos_are_recorded(name: str) -> None:
    with_wrappers.film(f"edge_gym/{name}", **rollouts.brief(name))


QUICK = {"Retransmission-v0", "TaskAllocation-v0", "OffloadingDiscrete-v0"}


@pytest.mark.parametrize("name", rollouts.parameters(rollouts.NAMES, QUICK))
def test_a_single_file_trains(name: str) -> None:
    cleanrl_ppo.run(f"edge_gym/{name}", **rollouts.brief(name))


@pytest.mark.parametrize("name", sorted(rollouts.MASKED - rollouts.NEEDS_DATA - rollouts.NETWORKS))
def test_maskable_ppo_honours_masks(name: str) -> None:
    assert with_sb3.learn_with_masks(f"edge_gym/{name}", 128, **rollouts.SMALL[name]) > 0


@pytest.mark.parametrize("name", ["UpdateScheduling-v0", "TaskAllocation-v0", "Offloading-v0"])
def test_rllib_gives_rows_of_actions_as_one(name: str) -> None:
    fields = rollouts.brief(name)
    plain: Any = rollouts.make_vec(name, 2, **fields)
    lanes = make_for_rllib(f"edge_gym/{name}", {**fields, "num_envs": 2})
    single = make_for_rllib(f"edge_gym/{name}", fields)
    (components,) = single.action_space.shape
    assert lanes.single_action_space == single.action_space
    assert lanes.action_space.shape == (2, components)
    for env in (plain, lanes, single):
        env.reset(seed=0)
    actions = np.stack(list(itertools.islice(rollouts.random_actions(single.action_space), 2)))
    _, expected, *_ = plain.step(actions.reshape(plain.action_space.shape))
    _, rewards, *_ = lanes.step(actions)
    _, reward, *_ = single.step(actions[0])
    np.testing.assert_array_equal(rewards, expected)
    assert reward == pytest.approx(expected[0], rel=1e-5, abs=1e-6)


def test_without_rllib_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.rllib", None)
    for call in (register_rllib, lambda: ppo_config("Retransmission-v0")):
        with pytest.raises(ImportError, match=r"pip install 'edge_gym\[rllib\]'"):
            call()


def test_what_is_wrong_is_said_before_rllib_begins() -> None:
    with pytest.raises(ValueError, match=r"unknown environment 'Nowhere-v0'; edge-gym list"):
        ppo_config("Nowhere-v0")
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'bugdet'"):
        ppo_config("Retransmission-v0", bugdet=3)
    with pytest.raises(ValueError, match=r"budget"):
        ppo_config("Retransmission-v0", budget=-1)
