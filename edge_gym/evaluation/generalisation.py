"""How far what was learned in one setting carries: the same policies in settings beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edge_gym.core.registration import find_environment, list_environments
from edge_gym.data.partitions import SCHEMES
from edge_gym.evaluation.comparison import package_versions
from edge_gym.evaluation.policies import RULE_KINDS, shipped_specs
from edge_gym.evaluation.policy_sources import shipped_policies
from edge_gym.evaluation.ranking import (
    RankedPolicy,
    first_that,
    gap_cell,
    joined,
    mean_text,
    rank_policies,
    ranking_csv,
)
from edge_gym.evaluation.report_hooks import REPORTS
from edge_gym.evaluation.rollouts import TaskProgress, make_lanes
from edge_gym.evaluation.seeds import EVALUATION
from edge_gym.evaluation.sweep import (
    RUN_HERE,
    Chunk,
    Runner,
    contender,
    cut,
    episode_seeds,
    folder_name,
    sweep,
    zero_of,
)
from edge_gym.runtime.files import prepare_folder, write_text

TABLE, NUMBERS, SUMMARY = "generalisation.csv", "generalisation.json", "generalisation.md"
PARTS = "episodes"
CHUNK = 64
SNR_STEP_DB = 5.0
POWER_STEP_DB = 10.0


@dataclass(frozen=True)
class Setting:
    """An environment with something changed.

    Attributes:
        axis: What: ``own`` for nothing, ``devices``, ``SNR``, ``data``, ``partition``, ``budget``.
        label: Its value.
        overrides: Fields of the configuration.
    """

    axis: str
    label: str
    overrides: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Axis and value."""
        return self.axis if self.axis == self.label else f"{self.axis}: {self.label}"


OWN = Setting("own", "own", {})


@dataclass(frozen=True)
class Generalisation:
    """The ranking in every setting.

    Attributes:
        seeds: First seed and number of the episodes.
        versions: Of Python and the packages that the numbers depend on.
        settings: The settings of each environment.
        ranking: By environment and setting's name, best first.
        missing: Environments and settings left out, and why.
    """

    seeds: tuple[int, int]
    versions: dict[str, str]
    settings: dict[str, list[Setting]]
    ranking: dict[str, dict[str, list[RankedPolicy]]]
    missing: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return everything in JSON's types."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return plain

    def to_csv(self) -> str:
        """Return one row for each policy in each setting."""
        cells = [
            (setting.axis, setting.label, row)
            for name, settings in self.settings.items()
            for setting in settings
            for row in self.ranking[name][setting.name]
        ]
        axes, labels, rows = (list(column) for column in zip(*cells, strict=True))
        return ranking_csv(rows, axis=axes, value=labels)

    def to_markdown(self) -> str:
        """Return a table for each environment: a row for each setting."""
        lines: list[str] = []
        for name, settings in self.settings.items():
            policies = _shared(self.ranking[name])
            lines += [
                f"`{find_environment(name).name}`",
                "",
                f"| setting | {' | '.join(f'`{policy}`' for policy in policies)} "
                "| best learned minus best rule |",
                "|---" * (len(policies) + 2) + "|",
            ]
            for setting in settings:
                rows = self.ranking[name][setting.name]
                means = {row.policy: mean_text(row.mean) for row in rows}
                learned = first_that(rows, lambda row: row.kind == "learned")
                cells = [setting.name, *(means[policy] for policy in policies), gap_cell(learned)]
                lines.append(f"| {' | '.join(cells)} |")
            lines.append("")
        return "\n".join(lines)

    def write(self, folder: Path) -> list[Path]:
        """Write table, numbers, summary and a picture for each environment; return their paths.

        Raises:
            ImportError: If matplotlib is missing; all else is written then.
            OSError: If the folder cannot be written to.
        """
        texts = {
            TABLE: self.to_csv(),
            NUMBERS: json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n",
            SUMMARY: self.to_markdown(),
        }
        for name, text in texts.items():
            write_text(folder / name, text)
        paths = [folder / name for name in texts]
        for name in self.settings:
            paths.append(folder / f"{folder_name(name)}.png")
            REPORTS.find("generalisation")(self, name, paths[-1])
        return paths


def settings_of(env_id: str) -> Iterator[Setting]:
    """Yield the settings beside an environment's own, which comes first.

    Half and twice the devices; mean SNRs 5 dB below and above (transmit powers by 10 dB where
    positions and powers make the SNR); Fashion-MNIST; the other partitions; half and twice the
    budget or number of cycles; each where the configuration has such fields, and then what the
    problem's own ``variations`` say. Not all need be possible.

    Raises:
        ValueError: If the id is unknown.
    """
    spec = find_environment(env_id)
    env = make_lanes(env_id, 1)
    config = env.config
    # Update scheduling has a property ``budget`` too, which is no field.
    known = {field.name: getattr(config, field.name) for field in fields(config)}
    yield OWN
    has_devices = "devices" in env.tables
    if has_devices and isinstance(devices := known.get("n_devices"), int):
        for n in (devices // 2, 2 * devices):
            yield Setting("devices", str(n), {"n_devices": n})
    for sign in (-1, 1):
        if "mean_snr_db" in known:
            snr = known["mean_snr_db"] + sign * SNR_STEP_DB
            yield Setting("SNR", f"{snr:g} dB", {"mean_snr_db": snr})
        else:
            powers = ("transmit_power_dbm", "downlink_power_dbm")
            changed = {
                power: known[power] + sign * POWER_STEP_DB for power in powers if power in known
            }
            if changed:
                yield Setting("SNR", f"{sign * POWER_STEP_DB:+g} dB", changed)
    if known.get("dataset") == "mnist-subset":
        yield Setting("data", "Fashion-MNIST", {"dataset": "fashion-mnist"})
    if has_devices and "partition" in known:
        for scheme in SCHEMES:
            if scheme != known["partition"]:
                yield Setting("partition", scheme, {"partition": scheme})
    if spec.budget is not None:
        own = known[spec.budget]
        for value in (own // 2 if isinstance(own, int) else own / 2, 2 * own):
            yield Setting("budget", f"{value:g}", {spec.budget: value})
    for axis, values in spec.problem_type().variations(config).items():
        for label, overrides in values.items():
            yield Setting(axis, label, overrides)


def generalise(
    environments: Sequence[str] | None = None,
    *,
    out: str | os.PathLike[str],
    episodes: int = 64,
    seed: int = EVALUATION.start,
    lanes: int = 64,
    run: Runner = RUN_HERE,
    progress: TaskProgress | None = None,
    report: Callable[[str], None] | None = None,
) -> Generalisation:
    """Run policies in settings that they were neither trained nor tuned for.

    Every policy runs in the environment's own setting. In the others do the policy without skill
    whose score is 0, the shipped agents, and the best rule of each kind there, with the parameters
    that they have there.

    Args:
        environments: Ids; None takes those with shipped agents.
        out: Folder for ``generalisation.csv``, ``.json``, ``.md``, a picture of each environment,
            and the episodes; what is there already is not run again.
        episodes: Episodes of every policy in each setting, at least 2.
        seed: The first seed; the others follow it.
        lanes: Most episodes run at a time.
        run: What runs the chunks; see ``sweep``.
        progress: Told how many episodes of each environment are done.
        report: Told what a user should know at once.

    Raises:
        ValueError: If an id or value is unknown or out of range.
        ImportError: If matplotlib is missing; all but pictures is written then.
        OSError: If ``out`` cannot be written to.
    """
    seeds = episode_seeds(episodes, seed, lanes, report)
    names = [find_environment(name).id for name in environments or _with_agents()]
    folder = prepare_folder(out)

    def cut_all(
        policies: Mapping[str, Mapping[str, str]], settings: Mapping[str, list[Setting]]
    ) -> Cells:
        return {
            (name, setting.name, policy): cut(
                name,
                own if setting is OWN else policy,
                seeds,
                chunk=CHUNK,
                lanes=lanes,
                overrides=setting.overrides,
            )
            for name, specs in policies.items()
            for setting in settings[name]
            for policy, own in specs.items()
        }

    def play(cells: Cells) -> dict[str, dict[str, list[RankedPolicy]]]:
        chunks = [chunk for part in cells.values() for chunk in part]
        found = sweep(chunks, folder / PARTS, run, progress)
        played: dict[str, dict[str, dict[str, Any]]] = {}
        for (name, setting, policy), part in cells.items():
            policies = played.setdefault(name, {}).setdefault(setting, {})
            policies[policy] = [joined([found[chunk] for chunk in part])]
        return {
            name: {
                setting: rank_policies(name, policies)[0] for setting, policies in settings.items()
            }
            for name, settings in played.items()
        }

    settings, missing = _possible(names, report)
    names = list(settings)
    everywhere = {name: {spec: spec for spec in shipped_specs(name)} for name in names}
    own = play(cut_all(everywhere, {name: [OWN] for name in names}))
    chosen = {name: _as_there(name, own[name][OWN.name]) for name in names}
    found = play(cut_all(chosen, settings))
    result = Generalisation((seeds.start, len(seeds)), package_versions(), settings, found, missing)
    result.write(folder)
    return result


Cells = dict[tuple[str, str, str], list[Chunk]]


def _possible(
    names: Sequence[str], report: Callable[[str], None] | None
) -> tuple[dict[str, list[Setting]], dict[str, str]]:
    """Return the settings that can be made, and why others cannot."""
    settings: dict[str, list[Setting]] = {}
    missing: dict[str, str] = {}
    for name in names:
        for setting in settings_of(name):
            try:
                make_lanes(name, 1, setting.overrides).reset(seed=0)
            except (ValueError, RuntimeError) as error:
                # Too many devices for an action space, data that are not there.
                missing[f"{name}, {setting.name}"] = str(error)
                if report is not None:
                    report(f"{name}, {setting.name} is left out: {error}")
                continue
            settings.setdefault(name, []).append(setting)
    return settings, missing


def _as_there(name: str, rows: Sequence[RankedPolicy]) -> dict[str, str]:
    """Return the policies for the other settings, and what they are called in their own.

    There, rules have the parameters that they have in their own.
    """
    best = [first_that(rows, lambda row, kind=kind: row.kind == kind) for kind in RULE_KINDS]  # type: ignore[misc]
    rules = {_with_parameters(name, row.policy): row.policy for row in best if row is not None}
    learned = sorted((row.policy for row in rows if row.kind == "learned"), reverse=True)
    zero = zero_of(name)
    return {zero: zero, **rules, **{policy: policy for policy in learned}}


def _with_parameters(name: str, policy: str) -> str:
    parameters = contender(name, policy).parameters
    values = ",".join(f"{name}={json.dumps(value)}" for name, value in parameters.items())
    rule = policy.partition(":")[0].removeprefix("tuned-")
    return f"{rule}:{values}" if values else rule


def _with_agents() -> list[str]:
    return [row.id for row in list_environments() if shipped_policies(row.id)]


def _shared(ranking: Mapping[str, Sequence[RankedPolicy]]) -> list[str]:
    """Return the policies in the order of the first setting."""
    return [row.policy for row in next(iter(ranking.values()))]
