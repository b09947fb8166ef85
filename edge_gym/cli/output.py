"""The command line: what its commands print."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_gym.cli.options import read_settings

if TYPE_CHECKING:
    from rich.console import Console

    from edge_gym.agents.training.search_results import Search
    from edge_gym.evaluation.comparison import Results
    from edge_gym.evaluation.rollouts import TaskProgress
    from edge_gym.evaluation.tuning import Tuning

USAGE_ERROR, INTERRUPTED = 2, 130
"""Exit codes."""

_PIPE_WIDTH = 200
_LONGEST_LINE = 2000  # of a complaint


def interval(ends: tuple[float, float] | None, sign: str = "") -> str:
    """Return an interval in brackets."""
    return "" if ends is None else f"[{ends[0]:{sign}.4f}, {ends[1]:{sign}.4f}]"


def parameters_text(parameters: Mapping[str, Any]) -> str:
    """Return parameters in one line."""
    return ", ".join(f"{name}={value}" for name, value in parameters.items())


def print_json(content: Any) -> None:
    """Print JSON."""
    print(json.dumps(content, indent=2, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, box=box.SIMPLE_HEAD, title_justify="left")
    for place, column in enumerate(columns):
        # What a row is of is told whole: others give way first.
        table.add_column(Text(column), no_wrap=place == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    console.print(table)


def errors() -> Console:
    """Return the console of standard error."""
    from rich.console import Console

    return Console(file=sys.stderr, soft_wrap=True, markup=False)


def remark(text: str) -> None:
    """Say something beside the results."""
    errors().print(f"edge-gym: {text}", highlight=False)


def complain(message: str, code: int = USAGE_ERROR) -> int:
    """Print what is wrong in one line and return the exit code."""
    # One line whatever the message holds, so that scripts can rely on it.
    line = " ".join(message.split())
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE // 2]} ... {line[-_LONGEST_LINE // 2 :]}"
    print(f"edge-gym: {line}", file=sys.stderr)
    return code


@contextmanager
def progress_bars() -> Iterator[TaskProgress]:
    """Show progress bars on standard error while it is a terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = errors()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        tasks: dict[str, Any] = {}

        def update(task: str, done: int, total: int) -> None:
            if task not in tasks:
                tasks[task] = bars.add_task(task, total=total)
            bars.update(tasks[task], completed=done, total=total)

        yield update


def print_results(results: Results) -> None:
    """Print a comparison."""
    from edge_gym.evaluation.metrics import title

    told = results.reported() or list(next(iter(results.policies.values())).metrics)[:1]
    best = next((r.difference.baseline for r in results.policies.values() if r.difference), None)
    scored = any(result.normalised is not None for result in results.policies.values())
    columns = ["policy", "return", "95 % interval", "IQM"] + ["score"] * scored
    columns += [f"minus {best}", "95 % interval"] if best else []
    columns += [title(name) for name in told]
    rows = []
    for policy, result in sorted(results.policies.items(), key=lambda item: -item[1].mean):
        row = [policy, f"{result.mean:.4f}", interval(result.ci95), f"{result.iqm:.4f}"]
        if result.normalised is not None:
            row.append(f"{result.normalised:.2f}")
        if result.difference:
            row += [f"{result.difference.mean:+.4f}", interval(result.difference.ci95, "+")]
        for name in told:
            number = result.metrics.get(name)
            row.append("" if number is None or number.mean is None else f"{number.mean:.4f}")
        rows.append(row)
    heading = f"{results.environment}, {len(results.seeds)} episodes from seed {results.seeds[0]}"
    print_table(heading, columns, rows)
    origins = {
        "published": "the best published rule",
        "adapted": "the best published rule with additions of this project",
        "project": "the best rule of this project",
        "yours": "your best rule",
    }
    for name, result in results.policies.items():
        if result.kind not in ("learned", "yours"):
            continue
        for kind, gap in result.differences.items():
            if gap.baseline == name:
                continue
            print(
                f"{name} minus {gap.baseline}, {origins[kind]}: "
                f"{gap.mean:+.4f} {interval(gap.ci95, '+')}"
            )


def run_comparison(
    env_id: str,
    policies: list[str] | None,
    episodes: int,
    seed: int,
    lanes: int,
    settings: list[str] | None,
    out: Path | None,
    as_json: bool,
) -> Results:
    """Run a comparison and print it."""
    from edge_gym.evaluation.comparison import ComparisonInterrupted
    from edge_gym.evaluation.comparison import compare as run

    said: list[str] = []

    def tell(text: str) -> None:
        said.append(text)
        remark(text)

    with progress_bars() as progress:
        try:
            results = run(
                env_id,
                policies,
                episodes=episodes,
                seed=seed,
                lanes=lanes,
                overrides=read_settings(settings),
                out=out,
                progress=progress,
                report=tell,
            )
        except ComparisonInterrupted as stopped:
            results = stopped.results
    if as_json:
        print_json(results.to_json())
    else:
        print_results(results)
    for note in results.notes:
        if note not in said:
            remark(note)
    if results.interrupted:
        remark("stopped; what was finished is kept")
    return results


def print_tunings(tunings: Sequence[Tuning]) -> None:
    """Print what searches for parameters found: all trials of a grid, the result of CMA-ES."""
    columns = ["policy", "parameters", "episodes", "mean return", "95 % interval", ""]
    rows = []
    for tuning in tunings:
        searched = tuning.method == "cma"
        for trial in (tuning.best,) if searched else tuning.trials:
            parameters = trial.parameters["weights"] if searched else trial.parameters
            rows.append(
                [
                    tuning.policy,
                    parameters_text(parameters),
                    str(trial.episodes),
                    f"{trial.mean_return:.4f}",
                    interval(trial.ci95),
                    "best" if trial is tuning.best else "",
                ]
            )
    print_table("", columns, rows)


_BEST_TRIALS = 4  # shown of a search, beside the base recipe


def print_search(found: Search) -> None:
    """Print what a search found."""
    scored = [trial for trial in found.trials if trial.score is not None]
    shown = [trial for trial in scored if trial is not found.base][:_BEST_TRIALS]
    names = [f"trial {trial.number}" for trial in shown]
    if found.base is not None:
        shown, names = [found.base, *shown], ["base recipe", *names]
    rows = [["mean return", *(f"{trial.score:.4f}" for trial in shown)]]
    for parameter in found.trials[0].parameters if found.trials else ():
        values = [trial.parameters[parameter] for trial in shown]
        rows.append([parameter.removeprefix("hyperparameters."), *map(str, values)])
    seeds = found.tuning_seeds
    title = (
        f"{found.algorithm} on {found.environment}: {len(found.trials)} trials of {found.steps:,} "
        f"steps, {len(found.trials) - len(scored)} cut off; tuning seeds {seeds[0]} to {seeds[-1]}"
    )
    print_table(title, ["", *names], rows)
