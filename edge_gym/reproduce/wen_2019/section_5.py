"""Wen et al. 2019, §5: what scheduling of updates is worth in federated edge learning.

The section sketches two designs and reports no numbers; what it claims is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge_gym.baselines import applicable_baselines, make_baseline
from edge_gym.baselines.schedule import LATE
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.evaluation.episode_store import part_name, run_or_load
from edge_gym.evaluation.rollouts import Episodes, Policy, even_lanes, make_lanes, plain_config
from edge_gym.evaluation.seeds import TUNING
from edge_gym.evaluation.tuning import shipped_parameters, tunable_baselines
from edge_gym.reports.charts import INK, new_figure, save, tidy, write_title
from edge_gym.reproduce.harness import (
    Claim,
    Findings,
    Options,
    accuracy_along,
    metrics,
    reporting,
    trained_agents,
    verdict,
    with_interval,
    write_findings,
)
from edge_gym.runtime.files import prepare_folder

# What is searched again where K is another: how many, or how seldom.
_SCALED = ("devices", "period")
_SEARCH_EPISODES = 48
_DEVICES = (10, 20, 50)


class _Setting(NamedTuple):
    """What is run: an id, whose agents act in it, what differs from it, and numbers of devices."""

    env_id: str
    agents_id: str
    overrides: dict[str, Any]
    counts: tuple[int, ...] = _DEVICES[:1]

    def cell(self, n_devices: int) -> str:
        """Return the name of this setting with so many devices."""
        changes = [f"{name} {value}" for name, value in self.overrides.items()]
        return ", ".join([self.env_id.removesuffix("-v0"), *changes, f"K = {n_devices}"])


# One agent serves both partitions and every K.
_SETTINGS = (
    _Setting("UpdateScheduling-v0", "UpdateScheduling-v0", {}, _DEVICES),
    _Setting("UpdateSchedulingIID-v0", "UpdateScheduling-v0", {}, _DEVICES),
    _Setting("UpdateSchedulingLazy-v0", "UpdateSchedulingLazy-v0", {}, _DEVICES),
    _Setting("UpdateSchedulingLazyIID-v0", "UpdateSchedulingLazy-v0", {}, _DEVICES),
    _Setting("UpdateSchedulingGradient-v0", "UpdateScheduling-v0", {}),
    _Setting("UpdateSchedulingDiscrete-v0", "UpdateSchedulingDiscrete-v0", {}),
    _Setting("UpdateSchedulingLazyDiscrete-v0", "UpdateSchedulingLazyDiscrete-v0", {}),
    _Setting("UpdateScheduling-v0", "UpdateScheduling-v0", {"bandwidth": "equal"}),
    _Setting("UpdateSchedulingRisk-v0", "UpdateScheduling-v0", {}),
    _Setting("UpdateSchedulingRisk-v0", "UpdateScheduling-v0", {"redundancy": 2}),
)
# One policy in one setting against another in another, on the same seeds.
_ACROSS = (
    (
        "more bandwidth for slow devices, so that all finish together, is better than equal shares",
        ("everyone", "UpdateScheduling, K = 10"),
        ("everyone", "UpdateScheduling, bandwidth equal, K = 10"),
    ),
    (
        "coded redundancy is better than uncoded round robin where updates are lost",
        ("coded-redundancy", "UpdateSchedulingRisk, redundancy 2, K = 10"),
        ("round-robin", "UpdateSchedulingRisk, K = 10"),
    ),
)
_SHOWN = {
    "everyone": "#66717D",
    "random-devices": "#56B4E9",
    "channel-aware": "#0072B2",
    "model-variation": "#CC79A7",
    "gradient-norm": "#CC79A7",
    "model-age": "#CC79A7",
    "norm-times-rate": "#E69F00",
    "age-times-channel": "#E69F00",
    "importance-per-cost": "#009E73",
    "staleness-per-cost": "#8C6BB1",
    "ppo": "#D55E00",
    "dqn": "#D55E00",
}
_UNITS = ("seconds", "joules")
_METRICS = ("test_accuracy", "seconds", "joules", "rounds", "fairness")


_INDICATORS = ("gradient-norm", "model-variation", "model-age")
_PRODUCTS = ("norm-times-rate", "age-times-channel")


def rrm_section5(folder: Path, options: Options) -> Findings:
    """Measure what §5, and Sorour et al. 2020 on risk, claim: IID and not, 10 to 50 devices.

    Rules have the parameters that were tuned under each id's own configuration, with 10 devices,
    but for the number that they schedule, which is searched again where K is another; agents are
    as they ship. Finished parts are kept in ``folder/parts``, so that an interrupted run goes on
    where it was.

    Raises:
        ValueError: If a value is out of range.
        OSError: If ``folder`` cannot be written to.

    Source: Wen et al. 2019, §5.
    """
    seeds = options.seeds(usual=128, quick=8)
    n = len(seeds)
    parts = prepare_folder(folder / "parts")
    configs: dict[str, Any] = {}
    parameters: dict[str, dict[str, Any]] = {}
    cells: dict[str, dict[str, Episodes]] = {}
    for setting in _SETTINGS:
        for k in setting.counts[:1] if options.quick else setting.counts:
            # The accuracy of the last model is what §5 compares.
            paid = {"reward": "accuracy", **setting.overrides}
            overrides = {**paid, **options.overrides, "n_devices": k}
            # Fewer lanes where each is larger keep the memory that is touched alike.
            lanes = even_lanes(n, max(1, options.lanes * _DEVICES[0] // k))
            env = make_lanes(setting.env_id, lanes, overrides)
            cell = setting.cell(k)
            configs[cell] = plain_config(env.config)
            cells[cell] = {}
            for name, policy, values in _policies(setting, env, parts):
                task = f"{name}, {cell}"
                parameters[task] = values
                cells[cell][name] = run_or_load(
                    parts / part_name(task),
                    env,
                    policy,
                    {"name": name, **values},
                    seeds,
                    ["validation_accuracy", "seconds", "joules"],
                    reporting(options, task),
                )
    findings = Findings(
        title=f"Wen et al. 2019, §5: {n} episodes each, the same for all policies",
        config=configs,
        seeds=seeds,
        parameters=parameters,
        claims=[
            *(claim for cell, policies in cells.items() for claim in _claims(cell, policies)),
            *_claims_across(cells),
        ],
        data={cell: _numbers(policies) for cell, policies in cells.items()},
        files=[folder / "rrm-section5.json", folder / "rrm-section5.png"],
    )
    write_findings(findings, _draw)
    return findings


def _policies(
    setting: _Setting, env: EdgeVectorEnv, parts: Path
) -> list[tuple[str, Policy, dict[str, Any]]]:
    """Return the rules, tuned, and the agents."""
    policies: list[tuple[str, Policy, dict[str, Any]]] = []
    for name in applicable_baselines(env):
        values = _tuned(name, setting, env, parts)
        rule = make_baseline(name, env, **values)
        policies.append((name, rule, rule.named_parameters()))
    return policies + trained_agents(setting.agents_id, env)


def _tuned(name: str, setting: _Setting, env: EdgeVectorEnv, parts: Path) -> dict[str, Any]:
    """Return a rule's parameters: tuned for the id, what scales with K searched again.

    How many devices are scheduled, or how seldom each takes part, is searched on tuning seeds
    between what was best with 10 devices and that in proportion to K; all over its grid where the
    rule does not apply to the id itself.
    """
    own = make_lanes(setting.env_id, 1)
    k, usual = env.config.n_devices, own.config.n_devices
    rule = make_baseline(name, env)
    tuned = shipped_parameters(name, own) if name in tunable_baselines(own) else None
    values = tuned or rule.named_parameters()
    parameter = next((parameter for parameter in _SCALED if parameter in values), None)
    grid = rule.grid_for(env.config)
    if parameter is None:
        return values
    if tuned is None and parameter in grid:
        trials = list(grid[parameter])
    elif k != usual:
        ratio = k / usual
        trials = sorted({round(values[parameter] * factor) for factor in (1, ratio**0.5, ratio)})
    else:
        return values
    seeds = TUNING[:_SEARCH_EPISODES]
    returns = []
    for trial in trials:
        tried = _scaled(values, parameter, trial)
        path = parts / part_name(f"search, {name}, {setting.cell(k)}, {trial}")
        rule = make_baseline(name, env, **tried)
        found = run_or_load(path, env, rule, {"name": name, **tried}, seeds, [], _nothing)
        returns.append(found.returns.mean())
    return _scaled(values, parameter, trials[int(np.argmax(returns))])


def _scaled(values: Mapping[str, Any], parameter: str, value: int) -> dict[str, Any]:
    """Return parameters with another value of one, also late, and as many more participants."""
    scaled = {**values, parameter: value}
    for other in ("participants", parameter + LATE):
        if values.get(other) is not None:
            scaled[other] = max(1, round(values[other] * value / values[parameter]))
    return scaled


def _nothing(done: int, total: int) -> None:
    """Report nothing."""


def _claims(cell: str, policies: Mapping[str, Episodes]) -> list[Claim]:
    """Compare pairs of policies that the section speaks of, on the same episodes."""
    returns = {name: episodes.returns for name, episodes in policies.items()}
    rules = [name for name in returns if name not in ("ppo", "dqn", "random")]
    best = max(rules, key=lambda name: float(returns[name].mean()))
    claims = []

    def duel(text: str, one: str, other: str) -> None:
        gain = returns[one] - returns[other]
        claims.append(Claim(f"{cell}: {text}", with_interval(gain), verdict(gain)))

    indicators = [name for name in _INDICATORS if name in returns]
    for indicator in indicators:
        duel(f"{indicator} is better than random devices", indicator, "random-devices")
        duel(f"{indicator} is better than the best channels", indicator, "channel-aware")
    for product in _PRODUCTS:
        if product in returns:
            ahead = max((*indicators, "channel-aware"), key=lambda name: returns[name].mean())
            duel(f"{product} is better than either factor, here {ahead}", product, ahead)
    if "everyone" in returns:
        duel(
            "excluding stragglers is better than everyone taking part",
            "straggler-exclusion",
            "everyone",
        )
        duel("lazy updating is better than everyone taking part", "lazy", "everyone")
    for agent in ("ppo", "dqn"):
        if agent in returns:
            duel(f"{agent} is better than the best rule, here {best}", agent, best)
    return claims


def _claims_across(cells: Mapping[str, Mapping[str, Episodes]]) -> list[Claim]:
    claims = []
    for text, (one, cell), (other, other_cell) in _ACROSS:
        gain = cells[cell][one].returns - cells[other_cell][other].returns
        claims.append(Claim(f"{cell}: {text}", with_interval(gain), verdict(gain)))
    return claims


def _numbers(policies: Mapping[str, Episodes]) -> dict[str, Any]:
    """Return every policy's metrics with intervals, and mean accuracy against time and energy."""
    ends = {
        unit: max(float(episodes.infos[unit].mean()) for episodes in policies.values())
        for unit in _UNITS
    }
    numbers: dict[str, Any] = {}
    for name, episodes in policies.items():
        values = {"return": episodes.returns, **{m: episodes.infos[m] for m in _METRICS}}
        numbers[name] = {
            "metrics": metrics(values),
            "accuracy": {unit: accuracy_along(episodes, unit, ends[unit]) for unit in _UNITS},
        }
    return numbers


def _draw(findings: Findings, path: Path) -> None:
    figure, grid = new_figure(14, 3.0 * len(_SETTINGS) + 0.6, len(_SETTINGS), 3)
    for row, setting in zip(grid, _SETTINGS, strict=True):
        cells = {
            k: findings.data[setting.cell(k)]
            for k in setting.counts
            if setting.cell(k) in findings.data
        }
        first = next(iter(cells.values()))
        shown = {name: colour for name, colour in _SHOWN.items() if name in first}
        for axes, unit in zip(row, _UNITS, strict=False):
            for name, colour in shown.items():
                curve = first[name]["accuracy"][unit]
                axes.step(curve[unit], curve["mean"], where="post", color=colour, label=name)
            axes.set_xlabel(unit, color=INK)
            axes.set_ylabel("validation accuracy", color=INK)
            axes.set_title(setting.cell(setting.counts[0]), fontsize=10, color=INK)
        for i, (name, colour) in enumerate(shown.items()):
            gains = [cell[name]["metrics"]["return"] for cell in cells.values()]
            means = np.array([gain["mean"] for gain in gains])
            ends = np.array([gain["ci95"] for gain in gains]).T
            places = np.arange(len(cells)) + 0.06 * (i - len(shown) / 2)
            row[2].errorbar(
                places, means, yerr=np.abs(ends - means), color=colour, fmt="o", ms=4, label=name
            )
        row[2].set_xticks(range(len(cells)), [f"K = {k}" for k in cells])
        row[2].set_ylabel("gain in accuracy", color=INK)
        row[2].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        for axes in row:
            tidy(axes)
    write_title(figure, f"{findings.title}; 95 % intervals")
    save(figure, path)
