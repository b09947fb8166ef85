"""The registry of rules: names, lazy classes, and which rule applies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from edge_gym.baselines import (
    BASELINES,
    Baseline,
    applicable_baselines,
    find_baseline,
    make_baseline,
    register_baseline,
)
from edge_gym.core.actions import ActionCodec
from edge_gym.evaluation.policies import best_rules, default_specs, resolve
from edge_gym.evaluation.rollouts import make_lanes

ID = "Retransmission-v0"
SMALL = {"budget": 20, "validation_size": 60, "image_size": 7}


class Linear(ActionCodec[Any]):
    """Some meaning of actions."""


class Waiting(Baseline):
    """Accept everything."""

    name = "waiting"
    source = "a test"
    needs = {"": ("effective_snr_db",)}
    needs_fields = ("mean_snr_db",)
    needs_space = spaces.Discrete

    def act(self, observations: Any, masks: Any = None) -> Any:
        return np.zeros(observations.shape[:-1], np.int64)


class Twin(Waiting):
    """The same again."""


@pytest.fixture(autouse=True)
def cleared() -> Iterator[None]:
    yield
    BASELINES.unregister("waiting")


def test_a_registered_rule_applies_where_its_needs_are_met() -> None:
    register_baseline(Waiting)
    env = make_lanes(ID, 2, SMALL)
    assert "waiting" in applicable_baselines(env)
    assert "waiting" in default_specs(ID, env)
    made = resolve("waiting", env)
    assert (made.kind, made.rule) == ("yours", True)
    assert make_baseline("waiting", env).name == "waiting"
    other = make_lanes("TaskAllocationStaleness-v0", 1)
    assert "waiting" not in applicable_baselines(other)
    with pytest.raises(ValueError, match="no column 'effective_snr_db'"):
        Waiting(other)


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({"needs": {"devices": ("snr_db",)}}, "no column 'snr_db' of devices"),
        ({"needs": {"": ("nothing",)}}, "no column 'nothing'"),
        ({"needs_fields": ("nothing",)}, "no field 'nothing'"),
        ({"needs_space": spaces.Box}, "does not act in Discrete"),
        ({"needs_actions_per": "device"}, "actions are per device, not None"),
        ({"needs_actions_per": ("device", "sample")}, "per device or sample"),
        ({"needs_codec": Linear}, "actions are those of Linear"),
        ({"applies_to": classmethod(lambda cls, config: False)}, "not under this configuration"),
    ],
)
def test_what_is_missing_is_said(fields: dict[str, Any], missing: str) -> None:
    kind = type("Picky", (Waiting,), fields)
    assert missing in str(kind.misses(make_lanes(ID, 1, SMALL)))


def test_a_rule_is_imported_when_it_is_needed() -> None:
    register_baseline("waiting", f"{__name__}:Waiting")
    assert find_baseline("waiting", make_lanes(ID, 1, SMALL)) is Waiting


def test_two_rules_of_one_name_must_not_meet() -> None:
    register_baseline(Waiting)
    register_baseline(Waiting)  # a module that is imported twice
    env = make_lanes(ID, 1, SMALL)
    assert find_baseline("waiting", env) is Waiting
    register_baseline(Twin)
    with pytest.raises(ValueError, match="two baselines 'waiting' apply to this environment"):
        find_baseline("waiting", env)


def test_wrong_registrations_are_told() -> None:
    with pytest.raises(TypeError, match=r"a subclass of edge_gym\.baselines\.Baseline"):
        register_baseline(int)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name begins with tuned-"):
        register_baseline("tuned-mine", "a:b")
    with pytest.raises(TypeError, match="'module:Class' too"):
        register_baseline("mine")
    with pytest.raises(ValueError, match="expected 'module:Class'"):
        register_baseline("mine", "nowhere")
    with pytest.raises(ValueError, match="unknown baseline 'waitin'"):
        find_baseline("waitin", make_lanes(ID, 1, SMALL))


def test_rules_of_ones_own_are_the_best_where_there_are_no_others() -> None:
    register_baseline(Waiting)
    env = make_lanes(ID, 1, SMALL)
    own, theirs, random = (resolve(name, env) for name in ("waiting", "channel-aware", "random"))
    assert best_rules([own, theirs, random]) == [theirs]
    assert best_rules([own, random]) == [own]
