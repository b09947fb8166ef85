"""Policies against each other on the same episodes, honestly."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import os
import platform
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.baselines import zero_baseline
from edge_gym.core.registration import find_environment
from edge_gym.evaluation.metrics import REPORTED, title
from edge_gym.evaluation.policies import (
    Contender,
    best_rules,
    default_specs,
    own_policy,
    resolve_all,
)
from edge_gym.evaluation.report_hooks import REPORTS
from edge_gym.evaluation.rollouts import (
    ActingFunction,
    Episodes,
    Policy,
    TaskProgress,
    even_lanes,
    make_lanes,
    plain_config,
    reservations,
    run_episodes,
)
from edge_gym.evaluation.seeds import EVALUATION
from edge_gym.evaluation.statistics import interquartile_mean, mean_intervals
from edge_gym.runtime.checks import check_integer
from edge_gym.runtime.files import prepare_folder, replacing, write_text
from edge_gym.runtime.messages import shown

Interval = tuple[float, float]
RESULTS, EPISODES, PICTURE = "results.json", "episodes.csv", "comparison.png"


@dataclass(frozen=True)
class Metric:
    """The mean of a number in the last step's info, and its 95 % confidence interval.

    Both are None where an episode lacked it.
    """

    mean: float | None
    ci95: Interval | None


@dataclass(frozen=True)
class Difference:
    """A policy's return minus the baseline's, paired by seed.

    Attributes:
        baseline: The best analytical policy: the one with the highest mean return of all rules,
            tuned ones included, ``random`` not; see ``policies.best_rules``.
        mean: Mean difference.
        ci95: Its 95 % confidence interval.
    """

    baseline: str
    mean: float
    ci95: Interval


@dataclass(frozen=True)
class PolicyResult:
    """What one policy's episodes came to.

    Attributes:
        episodes: Their number.
        mean: Mean return.
        iqm: Interquartile mean of the return.
        ci95: 95 % confidence interval of the mean return.
        normalised: The mean return on the scale where the policy without skill is 0 (see
            ``Baseline.is_zero``) and the best analytical policy is 1. None if one of these is
            missing, or if their paired difference is not above zero with 95 % confidence, for then
            the scale has no meaning.
        difference: To the best analytical policy; None if there is none.
        differences: To the best rule of each kind, such as ``"published"``, by kind.
        metrics: The last step's info, by name.
        kind: See ``policies.Contender``.
        source: Where the policy comes from.
        parameters: The parameters of a rule.
    """

    episodes: int
    mean: float
    iqm: float
    ci95: Interval
    normalised: float | None
    difference: Difference | None
    differences: dict[str, Difference]
    metrics: dict[str, Metric]
    kind: str
    source: str
    parameters: dict[str, Any]


@dataclass(frozen=True, repr=False)
class Results:
    """A comparison.

    Attributes:
        environment: The environment's id.
        config: Its configuration.
        versions: Of Python and the packages that the numbers depend on.
        seeds: The episodes' seeds, the same for every policy.
        policies: What each policy's episodes came to.
        notes: What a reader should know.
        interrupted: Whether policies are missing because the run was stopped.
        episodes: The episodes themselves, by policy.
    """

    environment: str
    config: dict[str, Any]
    versions: dict[str, str]
    seeds: list[int]
    policies: dict[str, PolicyResult]
    notes: list[str]
    interrupted: bool
    episodes: dict[str, Episodes] = field(repr=False)

    def __repr__(self) -> str:
        """Return a table of the policies, best first, and the notes."""
        header, *rows = self._table()
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (header, *rows)
        ]
        return "\n".join([self._title(), *lines, *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        """Return the same for a notebook."""
        header, *rows = self._table()
        cells = ["".join(f"<th>{html.escape(cell)}</th>" for cell in header)]
        cells += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
        table = "".join(f"<tr>{row}</tr>" for row in cells)
        notes = "".join(f"<p>note: {html.escape(note)}</p>" for note in self.notes)
        return f"<p>{html.escape(self._title())}</p><table>{table}</table>{notes}"

    def _title(self) -> str:
        title = f"{self.environment}, {len(self.seeds)} episodes from seed {self.seeds[0]}"
        return f"{title}, stopped before the end" if self.interrupted else title

    def _table(self) -> list[list[str]]:
        told = self.reported()
        header = ["policy", "return", "95 % interval", "minus the best rule", *map(title, told)]
        rows = [header]
        for name, result in sorted(self.policies.items(), key=lambda item: -item[1].mean):
            gap = result.difference
            rows.append(
                [
                    name,
                    f"{result.mean:.4g}",
                    "[{:.4g}, {:.4g}]".format(*result.ci95),
                    "" if gap is None else "{:+.4g} [{:+.4g}, {:+.4g}]".format(gap.mean, *gap.ci95),
                    *(f"{result.metrics[name].mean:.4g}" for name in told),
                ]
            )
        return rows

    def reported(self) -> list[str]:
        """Return the names of ``REPORTED`` that all episodes of all policies tell."""
        return [
            name
            for name in REPORTED
            if all(
                name in result.metrics and result.metrics[name].mean is not None
                for result in self.policies.values()
            )
        ]

    def to_json(self) -> dict[str, Any]:
        """Return everything but the single episodes in JSON's types, without NaN."""
        content = {
            name: getattr(self, name)
            for name in ("environment", "config", "versions", "seeds", "notes", "interrupted")
        }
        content["policies"] = {name: asdict(result) for name, result in self.policies.items()}
        # What is written must read back as the same: tuples become lists.
        plain: dict[str, Any] = json.loads(json.dumps(content, allow_nan=False))
        return plain

    def write(self, folder: str | os.PathLike[str], picture: bool = True) -> list[Path]:
        """Write ``results.json``, ``episodes.csv`` and ``comparison.png``; return their paths.

        Each file is complete or as it was before.

        Raises:
            OSError: If the folder cannot be written to.
            ImportError: If matplotlib is missing; the other two are written by then.
        """
        folder = prepare_folder(folder)
        paths = [folder / RESULTS, folder / EPISODES]
        write_text(paths[0], json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n")
        write_text(paths[1], self._csv())
        if not picture:
            # A picture of something else must not lie beside them.
            (folder / PICTURE).unlink(missing_ok=True)
            return paths
        with replacing(folder / PICTURE) as scratch:
            REPORTS.find("comparison")(self, scratch)
        return [*paths, folder / PICTURE]

    def _csv(self) -> str:
        names = sorted({name for episodes in self.episodes.values() for name in episodes.infos})
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["policy", "seed", "return", "length", *names])
        for policy, episodes in self.episodes.items():
            columns = [episodes.seeds, episodes.returns, episodes.lengths]
            columns += [
                episodes.infos.get(name, np.full(len(episodes.seeds), np.nan)) for name in names
            ]
            for row in zip(*(column.tolist() for column in columns), strict=True):
                writer.writerow([policy, *("" if math.isnan(value) else value for value in row)])
        return text.getvalue()


class ComparisonInterrupted(KeyboardInterrupt):
    """A comparison was stopped after some policies had finished.

    Attributes:
        results: What was finished; already written if files were asked for.
    """

    def __init__(self, results: Results) -> None:
        super().__init__(f"stopped after {len(results.policies)} policies")
        self.results = results


def compare(
    env_id: str,
    policies: str | Sequence[str] | Mapping[str, str | Policy | ActingFunction] | None = None,
    *,
    episodes: int = 100,
    seed: int = EVALUATION.start,
    lanes: int = 64,
    overrides: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: TaskProgress | None = None,
    report: Callable[[str], None] | None = None,
) -> Results:
    """Run policies on the same seeds and compare them.

    The best analytical policy is chosen on these very episodes, which favours it a little: what
    is said to beat it, does.

    Args:
        env_id: With or without ``edge_gym/``.
        policies: One or several specifications as ``policies.resolve`` takes them; or a mapping
            from names to specifications or policies of your own. None takes every policy that
            applies, tuned versions and shipped agents included.
        episodes: Episodes of every policy, at least 2.
        seed: The first seed; the others follow it.
        lanes: Most episodes run at a time; changes the speed alone.
        overrides: Fields of the environment's configuration.
        out: Folder for the files, which replace those of an earlier comparison; it is checked
            before anything is run, and they are brought up to date after every policy.
        progress: Told how many episodes of a policy are done.
        report: Told what a user should know at once; ``warnings.warn`` by default.

    Returns:
        The results; those whose interval needs something that is missing say so in ``notes``.

    Raises:
        ValueError: If an id, policy or value is unknown or out of range.
        TypeError: If a field or parameter is unknown, or policies are not named.
        OSError: If ``out`` cannot be written to.
        ComparisonInterrupted: On Ctrl-C after the first policy has finished; holds the results.
    """
    check_integer("episodes", episodes, 2)
    check_integer("seed", seed, 0)
    check_integer("lanes", lanes, 1)
    say = report or _warn
    row = find_environment(env_id)
    folder = None if out is None else prepare_folder(out)
    seeds = list(range(seed, seed + episodes))
    notes = reservations(seeds)
    for note in notes:
        say(note)
    env = make_lanes(row.id, even_lanes(episodes, lanes), overrides)
    named = _named(policies, row.id, env)
    specs = {name: spec for name, spec in named.items() if isinstance(spec, str)}
    own = {
        name: own_policy(name, spec) for name, spec in named.items() if not isinstance(spec, str)
    }
    made = {**own, **resolve_all(specs, env, lanes=lanes, progress=progress)}
    contenders = [made[name] for name in named]
    if folder is not None and (folder / RESULTS).exists():
        say(f"replacing the results in {folder}")
    names = [contender.name for contender in contenders]
    given = dict(zip(names, contenders, strict=True))
    finished: dict[str, Episodes] = {}

    def results(interrupted: bool) -> Results:
        return _summarise(row.id, env, seeds, given, finished, notes, interrupted)

    try:
        for contender in contenders:
            finished[contender.name] = run_episodes(
                env, contender.policy, seeds, _for_task(progress, contender.name)
            )
            if folder is not None and len(finished) < len(contenders):
                results(interrupted=True).write(folder, picture=False)
    except KeyboardInterrupt:
        if not finished:
            raise
        stopped = results(interrupted=True)
        _write(stopped, folder, say)
        raise ComparisonInterrupted(stopped) from None
    final = results(interrupted=False)
    _write(final, folder, say)
    return final


def _named(
    policies: str | Sequence[str] | Mapping[str, str | Policy | ActingFunction] | None,
    env_id: str,
    env: Any,
) -> Mapping[str, str | Policy | ActingFunction]:
    if policies is None:
        policies = default_specs(env_id, env)
    if isinstance(policies, str):
        policies = [policies]
    if not isinstance(policies, Mapping):
        policies = {spec: spec for spec in policies}
    if not policies:
        raise ValueError("there is no policy to run: name one at least")
    for name in policies:
        if not isinstance(name, str):
            raise TypeError(f"policies need names, as in {{'mine': policy}}, got {shown(name)}")
    return policies


def _for_task(progress: TaskProgress | None, task: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(task, done, total)


def _write(results: Results, folder: Path | None, say: Callable[[str], None]) -> None:
    if folder is None:
        return
    try:
        results.write(folder)
    except ImportError as error:
        say(f"no {PICTURE}: {error}")


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)


def _summarise(
    env_id: str,
    env: Any,
    seeds: list[int],
    contenders: Mapping[str, Contender],
    finished: Mapping[str, Episodes],
    notes: Sequence[str],
    interrupted: bool,
) -> Results:
    notes = list(notes)
    kinds: dict[str, list[str]] = {}
    for one in best_rules(contenders[name] for name in finished):
        kinds.setdefault(one.kind, []).append(one.name)
    champions = {kind: _best(names, finished) for kind, names in kinds.items()}
    best = _best(champions.values(), finished) if champions else None
    rivals = sorted({*champions.values()})
    notes += [f"{name}: {one.note}" for name in finished if (one := contenders[name]).note]
    scale = _scale(finished, best, zero_baseline(env), notes)
    policies: dict[str, PolicyResult] = {}
    for name, episodes in finished.items():
        gaps = [episodes.returns - finished[rival].returns for rival in rivals]
        intervals = mean_intervals([*gaps, episodes.returns, *episodes.infos.values()])
        differences = {
            rival: Difference(rival, float(gap.mean()), _ends(ends))
            for rival, gap, ends in zip(rivals, gaps, intervals, strict=False)
        }
        own, *others = intervals[len(rivals) :]
        mean = float(episodes.returns.mean())
        policies[name] = PolicyResult(
            episodes=len(seeds),
            mean=mean,
            iqm=interquartile_mean(episodes.returns),
            ci95=_ends(own),
            normalised=None if scale is None else (mean - scale[0]) / (scale[1] - scale[0]),
            difference=None if best is None else differences[best],
            differences={kind: differences[rival] for kind, rival in champions.items()},
            metrics={
                info: Metric(float(values.mean()), _ends(ends))
                if np.isfinite(values).all()
                else Metric(None, None)
                for (info, values), ends in zip(episodes.infos.items(), others, strict=True)
            },
            kind=contenders[name].kind,
            source=contenders[name].source,
            parameters=contenders[name].parameters,
        )
    return Results(
        environment=env_id,
        config=plain_config(env.config),
        versions=package_versions(),
        seeds=seeds,
        policies=policies,
        notes=notes,
        interrupted=interrupted,
        episodes=dict(finished),
    )


def _best(names: Iterable[str], finished: Mapping[str, Episodes]) -> str:
    return max(names, key=lambda name: finished[name].returns.mean())


def _scale(
    finished: Mapping[str, Episodes], best: str | None, zero: str, notes: list[str]
) -> Interval | None:
    """Return the returns that count as 0 and as 1, or say in ``notes`` why there are none."""
    if best is None:
        notes.append("no analytical policy was run: no differences and no normalised scores")
        return None
    if zero not in finished:
        notes.append(f"{zero} was not run: no normalised scores")
        return None
    bottom, top = finished[zero].returns, finished[best].returns
    low, _ = mean_intervals(top - bottom)
    if low <= 0:
        notes.append(f"{best} is not clearly better than {zero}: no normalised scores")
        return None
    return float(bottom.mean()), float(top.mean())


def _ends(interval: NDArray[np.float64]) -> Interval:
    return float(interval[0]), float(interval[1])


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    versions = {"python": platform.python_version()}
    packages = ("edge_gym", "gymnasium", "numpy", "scipy", "numba", "torch", "stable-baselines3")
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
