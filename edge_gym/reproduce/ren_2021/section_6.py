"""Ren et al. 2021, §VI: the time that all rules and agents need to reach an accuracy, on CPUs.

The paper compares a few schemes on one large network; here all of them, and trained agents, are
compared on many paired episodes of a small one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge_gym.baselines import applicable_baselines, make_baseline
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.evaluation.episode_store import part_name, run_or_load
from edge_gym.evaluation.rollouts import Episodes, Policy, even_lanes, make_lanes, plain_config
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

_OPTIMUM = "optimal-batch-slot"
_TUNED_OPTIMUM = f"tuned-{_OPTIMUM}"
# Models are sent whole: they cannot be compressed as gradients can.
_MODEL = {"max_batch": None, "update": "model", "density": 1.0}
# Whole local sets in place of batches, which are other configurations of the same episodes.
_WHOLE_SETS: dict[str, dict[str, Any]] = {
    "gradient-based": {"max_batch": None},
    "model-based": _MODEL,
    "individual": {**_MODEL, "local_epochs": 2, "max_rounds": 1},
}
# One colour for each policy, in curves as in bars; those that are akin have a hue in common.
_COLOURS = {
    "individual": "#0B3C5D",
    "model-based": "#0072B2",
    "gradient-based": "#56B4E9",
    _OPTIMUM: "#009E73",
    _TUNED_OPTIMUM: "#66C2A5",
    "growing-batch-slot": "#00563F",
    "optimal-batch": "#E69F00",
    "optimal-slots": "#F0C75E",
    "equal-allocation": "#8C5A00",
    "full-batch": "#CC79A7",
    "random-batches": "#E7B8D2",
    "online": "#8E3B6B",
    "random": "#9AA3AC",
    "ppo, direct": "#8C6BB1",
    "ppo, global": "#D55E00",
    "dqn, global": "#F4A582",
}
_CURVES = (
    "individual",
    "model-based",
    "gradient-based",
    "full-batch",
    "optimal-batch",
    _OPTIMUM,
    "ppo, direct",
    "ppo, global",
)
_OTHERS = "#C9CED3"
_METRICS = ("test_accuracy", "rounds", "mean_batch", "mean_efficiency")


class _Cell(NamedTuple):
    """What is run: the two ids of one problem, and how many devices."""

    direct_id: str
    n_devices: int

    @property
    def name(self) -> str:
        """Its name in the results."""
        partition = "non-IID" if "NonIID" in self.direct_id else "IID"
        return f"{partition}, K = {self.n_devices}"


_CELLS = tuple(_Cell(name, k) for k in (6, 12) for name in ("BatchSlot-v0", "BatchSlotNonIID-v0"))
_GLOBAL_ID = "BatchSlotGlobal-v0"


def feel_time(folder: Path, options: Options) -> Findings:
    """Measure the time to target accuracies of all rules and agents, IID and not, K = 6 and 12.

    Gradients are compressed as the id says, models are sent whole. An episode in which a policy
    does not reach an accuracy counts as its budget.

    Rules have the parameters that were tuned with six devices; agents are as they were trained with
    these. Finished parts are kept in ``folder/parts``, so that an interrupted run goes on where it
    was.

    Raises:
        ValueError: If a value is out of range.
        OSError: If ``folder`` cannot be written to.

    Source: Ren et al. 2021, §VI-C and -D, for a small network.
    """
    seeds = options.seeds(usual=64, quick=4)
    parts = prepare_folder(folder / "parts")
    configs: dict[str, Any] = {}
    parameters: dict[str, dict[str, Any]] = {}
    cells: dict[str, dict[str, Episodes]] = {}
    for cell in _CELLS[:1] if options.quick else _CELLS:
        cells[cell.name] = {}
        for name, env, policy, identity in _contenders(cell, options, len(seeds)):
            task = f"{name}, {cell.name}"
            configs[task] = plain_config(env.config)
            parameters[task] = identity
            cells[cell.name][name] = run_or_load(
                parts / part_name(task),
                env,
                policy,
                {"name": name, **identity},
                seeds,
                ["validation_accuracy", "seconds"],
                reporting(options, task),
            )
    findings = Findings(
        title=(
            f"Ren et al. 2021, time to accuracy: {len(seeds)} episodes each, the same for all "
            "policies"
        ),
        config=configs,
        seeds=seeds,
        parameters=parameters,
        claims=[claim for cell, policies in cells.items() for claim in _claims(cell, policies)],
        data={cell: _numbers(policies) for cell, policies in cells.items()},
        files=[folder / "feel-time.json", folder / "feel-time.png"],
    )
    write_findings(findings, _draw)
    return findings


def _contenders(
    cell: _Cell, options: Options, n: int
) -> list[tuple[str, EdgeVectorEnv, Policy, dict[str, Any]]]:
    """Return every policy with its name, its environment and what tells it from others."""
    lanes = even_lanes(n, options.lanes)
    common = {**options.overrides, "n_devices": cell.n_devices}
    usual = make_lanes(cell.direct_id, 1)
    direct = make_lanes(cell.direct_id, lanes, common)
    contenders: list[tuple[str, EdgeVectorEnv, Policy, dict[str, Any]]] = []

    def add(name: str, env: EdgeVectorEnv, rule: str, **values: Any) -> None:
        baseline = make_baseline(rule, env, **values)
        contenders.append((name, env, baseline, baseline.named_parameters()))

    tunable = tunable_baselines(usual)
    for name in applicable_baselines(direct):
        tuned = shipped_parameters(name, usual) if name in tunable else None
        if name != _OPTIMUM:
            add(name, direct, name, **(tuned or {}))
            continue
        add(name, direct, name)
        if tuned:
            add(_TUNED_OPTIMUM, direct, name, **tuned)
    for name, fields in _WHOLE_SETS.items():
        add(name, make_lanes(cell.direct_id, lanes, {**common, **fields}), name)
    partition = {"partition": direct.config.partition}
    chosen = make_lanes(_GLOBAL_ID, lanes, {**partition, **common})
    for env, env_id, actions in (
        (direct, "BatchSlot-v0", "direct"),
        (chosen, _GLOBAL_ID, "global"),
    ):
        for name, agent, identity in trained_agents(env_id, env):
            contenders.append((f"{name}, {actions}", env, agent, identity))
    return contenders


def _targets(policies: Mapping[str, Episodes]) -> list[str]:
    """Return the names of the infos that tell when an accuracy was reached."""
    infos = next(iter(policies.values())).infos
    return [name for name in infos if name.startswith("seconds_to_")]


def _never(episodes: Episodes, target: str) -> bool:
    """Return whether the accuracy was reached in no episode."""
    return not episodes.infos[_reached(target)].any()


def _reached(target: str) -> str:
    """Return the name of the info that tells whether an accuracy was reached."""
    return target.replace("seconds_to", "reached")


def _percent(target: str) -> str:
    """Return the accuracy in the name of an info."""
    return f"{target.rpartition('_')[2]} %"


def _claims(cell: str, policies: Mapping[str, Episodes]) -> list[Claim]:
    """Compare the paper's optimum with its benchmarks, and agents with it."""
    claims = []

    def faster(one: str, other: str) -> None:
        for target in _targets(policies):
            saved = policies[other].infos[target] - policies[one].infos[target]
            share = saved / max(float(policies[other].infos[target].mean()), 1e-12)
            text = f"{cell}: {one} reaches {_percent(target)} sooner than {other}"
            seen = f"share of its time saved {with_interval(share)}"
            if _never(policies[other], target):
                seen += f"; {other} never reaches it, its budget counts"
                if _never(policies[one], target):
                    seen = "neither reaches it within its budget"
            claims.append(Claim(text, seen, verdict(share)))

    benchmarks = ("optimal-batch", "equal-allocation", "full-batch", "random-batches", "online")
    for other in (*benchmarks, "gradient-based", "model-based", "individual"):
        if other in policies:
            faster(_OPTIMUM, other)
    learned = [name for name in policies if name.partition(",")[0] in ("ppo", "dqn")]
    for one in (_TUNED_OPTIMUM, "growing-batch-slot", *learned):
        for other in (_OPTIMUM, _TUNED_OPTIMUM):
            if one in policies and other in policies and one != other:
                faster(one, other)
    return claims


def _numbers(policies: Mapping[str, Episodes]) -> dict[str, Any]:
    """Return every policy's metrics with intervals, and its mean accuracy along time."""
    end = max(float(episodes.infos["seconds"].mean()) for episodes in policies.values())
    numbers: dict[str, Any] = {}
    for name, episodes in policies.items():
        names = [*_METRICS, *_targets(policies)]
        names += [_reached(target) for target in _targets(policies)]
        values = {"return": episodes.returns, **{m: episodes.infos[m] for m in names}}
        numbers[name] = {
            "metrics": metrics(values),
            "accuracy": accuracy_along(episodes, "seconds", end),
        }
    return numbers


def _draw(findings: Findings, path: Path) -> None:
    cells = findings.data
    figure, grid = new_figure(13, 4.2 * len(cells) + 0.6, len(cells), 2)
    for row, (cell, policies) in zip(grid, cells.items(), strict=True):
        for name in _CURVES:
            if name in policies:
                curve = policies[name]["accuracy"]
                colour = _COLOURS[name]
                row[0].step(curve["seconds"], curve["mean"], where="post", color=colour, label=name)
        row[0].set_xlabel("simulated seconds", color=INK)
        row[0].set_ylabel("validation accuracy", color=INK)
        row[0].set_title(cell, fontsize=10, color=INK)
        row[0].legend(edgecolor="none", framealpha=0.85, fontsize=8, loc="lower right")
        metric = "seconds_to_90"
        if metric not in next(iter(policies.values()))["metrics"]:
            metric = next(m for m in policies[_OPTIMUM]["metrics"] if m.startswith("seconds_to_"))
        times = {name: found["metrics"][metric] for name, found in policies.items()}
        names = sorted(times, key=lambda name: -times[name]["mean"])
        means = np.array([times[name]["mean"] for name in names])
        ends = np.array([times[name]["ci95"] for name in names]).T
        colours = [_COLOURS.get(name, _OTHERS) for name in names]
        row[1].barh(names, means, color=colours, height=0.65)
        row[1].errorbar(means, names, xerr=np.abs(ends - means), fmt="none", color=INK, capsize=2)
        for place, name in enumerate(names):
            share = policies[name]["metrics"][_reached(metric)]["mean"]
            if share < 1:
                words = f"reached in {100 * share:.0f} %" if share else "never reached"
                end = max(times[name]["ci95"])
                row[1].annotate(
                    words, (end, place), (5, 0), textcoords="offset points", va="center", fontsize=8
                )
        row[1].set_xlim(0, 1.25 * ends.max())
        row[1].set_xlabel(
            f"seconds to a validation accuracy of {_percent(metric)}; not reached: the budget",
            color=INK,
        )
        for axes in row:
            tidy(axes)
    write_title(figure, f"{findings.title}; 95 % intervals")
    save(figure, path)
