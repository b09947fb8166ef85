"""What is added to a problem later breaks nothing: agents and tuned rules act as before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, make_dataclass
from typing import Any

import numpy as np
import pytest
import rollouts
from gymnasium import spaces
from numpy.typing import NDArray

from edge_gym.agents import shipped_agents
from edge_gym.core.observation import Column, ObservationTable
from edge_gym.core.problem import Problem
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.evaluation import tuning
from edge_gym.evaluation.policies import resolve
from edge_gym.evaluation.rollouts import Policy, make_lanes, own_config
from edge_gym.evaluation.seeds import EVALUATION

FIRST = Column("earlier_column", "1", 0, 9, "Added in front.")
LAST = Column("later_column", "m", 0, 9, "Added behind.")
LANES, STEPS = 2, 4
TUNED = [name for name in rollouts.NAMES if name in tuning.shipped_tunings()]


def grown(problem_type: type[Problem]) -> type[Problem]:
    """Return a problem with one field more, columns in front and behind, and another part."""
    config_type = make_dataclass(
        "Grown",
        [("added_later", float, field(default=0.5))],
        bases=(problem_type.config_type,),
        frozen=True,
        kw_only=True,
    )

    class Grown(problem_type):  # type: ignore[misc, valid-type]
        def __init__(self, config: Any, n_lanes: int) -> None:
            super().__init__(config, n_lanes)
            self.own_tables = self.tables
            self.tables = {
                part: ObservationTable(FIRST, *table.columns, LAST)
                for part, table in self.tables.items()
            }
            space = self.observation_space
            if isinstance(space, spaces.Dict):
                self.tables["weather"] = ObservationTable(LAST)
                leading = {part: space[part].shape[:-1] for part in self.own_tables}
                self.observation_space = spaces.Dict(
                    {
                        part: table.space(*leading.get(part, ()))
                        for part, table in self.tables.items()
                    }
                )
            else:
                self.observation_space = self.tables[""].space()

        def observe(self) -> Any:
            tables, self.tables = self.tables, self.own_tables
            own = super().observe()
            self.tables = tables
            if not isinstance(own, dict):
                return padded(own)
            weather = np.full((self.n_lanes, 1), 5, np.float32)
            return {**{part: padded(values) for part, values in own.items()}, "weather": weather}

    Grown.config_type = config_type
    return Grown


def padded(values: NDArray[Any]) -> NDArray[Any]:
    around = [(0, 0)] * (values.ndim - 1) + [(1, 1)]
    return np.pad(values, around, constant_values=7)


def watched(env: EdgeVectorEnv, specs: list[str]) -> dict[str, list[NDArray[Any]]]:
    """Return what policies do with the observations of the same few steps."""
    acting: Mapping[str, Policy] = {spec: resolve(spec, env).policy for spec in specs}
    seeds, starting = EVALUATION[:LANES], np.ones(LANES, np.bool_)
    observations: Any = None
    chance = rollouts.random_actions(env.single_action_space)
    done: dict[str, list[NDArray[Any]]] = {spec: [] for spec in specs}
    for _ in range(STEPS):
        if starting.any():
            lanes = np.flatnonzero(starting)
            for policy in acting.values():
                policy.begin(lanes, [seeds[lane] for lane in lanes])
            observations, _ = env.reset(seed=list(seeds), options={"reset_mask": starting})
        discrete = isinstance(env.single_action_space, spaces.Discrete)
        masks = env.action_masks() if discrete else None
        for spec, policy in acting.items():
            done[spec].append(np.array(policy.act(observations, masks)))
        chosen = np.stack([next(chance) for _ in range(LANES)])
        observations, _, terminated, truncated, _ = env.step(chosen)
        starting = terminated | truncated
    return done


def check(name: str, specs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_lanes(name, LANES)
    before = watched(env, specs)
    monkeypatch.setattr(type(env.unwrapped), "problem_type", grown(type(env.problem)))
    assert own_config(name).added_later == 0.5
    larger = make_lanes(name, LANES)
    assert FIRST.name in next(iter(larger.tables.values()))
    after = watched(larger, specs)
    for spec, actions in before.items():
        for then, now in zip(actions, after[spec], strict=True):
            assert then.dtype == now.dtype, spec
            np.testing.assert_array_equal(then, now, err_msg=spec)


def agents(name: str, first: bool) -> list[str]:
    """Return the first agent of each algorithm, or all others."""
    return [
        f"{algorithm}:seed={seed}"
        for algorithm, seeds in shipped_agents(name).items()
        for seed in (seeds[:1] if first else seeds[1:])
    ]


@pytest.mark.parametrize("name", TUNED)
def test_more_columns_and_fields_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = [f"tuned-{policy}" for policy in tuning.shipped_tunings()[name]["policies"]]
    check(name, [*agents(name, first=True), *tuned], monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", TUNED)
def test_nor_do_they_for_further_agents(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(name, agents(name, first=False), monkeypatch)


def test_a_changed_field_is_told_from_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_lanes("Retransmission-v0", 1)
    monkeypatch.setattr(type(env.unwrapped), "problem_type", grown(type(env.problem)))
    plain = make_lanes("Retransmission-v0", 1)
    assert tuning.shipped_parameters("channel-aware", plain) is not None
    for changes in ({"added_later": 0.7}, {"budget": 300}):
        assert (
            tuning.shipped_parameters("channel-aware", make_lanes("Retransmission-v0", 1, changes))
            is None
        )


def test_defaults_of_another_problem_are_not_one_s_own() -> None:
    """Both ids are their problem's defaults, and both problems have such a rule."""
    parameters = [
        tuning.shipped_parameters("channel-aware", make_lanes(name, 1))
        for name in ("Retransmission-v0", "DataScheduling-v0")
    ]
    assert parameters[0] != parameters[1]
    assert parameters[0] is not None
    assert parameters[0].keys() == {"max_snr_db"}
