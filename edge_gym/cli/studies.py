"""Commands that run studies: leaderboard, plan, generalise, reproduce, benchmark."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_gym.cli.options import (
    EnvironmentArgument,
    EpisodesOption,
    JsonOption,
    LanesOption,
    RayOption,
    ReproduceCommand,
    SeedOption,
    SetOption,
    WorkersOption,
    app,
    make_runner,
    read_settings,
)
from edge_gym.cli.output import (
    errors,
    interval,
    print_json,
    print_table,
    progress_bars,
    remark,
)
from edge_gym.core.registration import find_environment, list_environments
from edge_gym.evaluation.seeds import EVALUATION, TUNING

if TYPE_CHECKING:
    pass


@app.command()
def leaderboard(
    env_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    episodes: EpisodesOption = 100,
    seed: SeedOption = EVALUATION.start,
    lanes: LanesOption = 64,
    workers: WorkersOption = None,
    ray: RayOption = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder.")] = Path("leaderboard"),
    as_json: JsonOption = False,
) -> None:
    """Rank every policy in every environment; goes on where it was stopped."""
    from edge_gym.evaluation.leaderboard import leaderboard as run
    from edge_gym.reports.films import draw

    run_and_draw = functools.partial(run, draw=make_runner(draw, workers, ray))
    _sweep(run_and_draw, env_ids, episodes, seed, lanes, workers, ray, out, as_json)


@app.command()
def plan(
    env_id: EnvironmentArgument,
    base: Annotated[str, typer.Option(metavar="NAME|MODEL", help="What copies go on with.")],
    candidate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|MODEL", help="Whose actions are tried; every action if not given."
        ),
    ] = None,
    futures: Annotated[
        int, typer.Option(help="Copies of each candidate; 0 for one that knows what will come.")
    ] = 4,
    hold: Annotated[
        int, typer.Option(help="Steps that a candidate acts for before the base goes on.")
    ] = 1,
    episodes: EpisodesOption = 32,
    seed: SeedOption = TUNING.start,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bound what there is to win: plan by copies of the running environment."""

    from edge_gym.evaluation.planner import plan as run

    with progress_bars() as progress:
        bound = run(
            env_id,
            base,
            candidate or (),
            futures=futures,
            hold=hold,
            episodes=episodes,
            seed=seed,
            overrides=read_settings(settings),
            progress=progress,
        )
    if as_json:
        print_json(asdict(bound))
        return
    print(bound.environment)
    for name, found in bound.metrics.items():
        print(
            f"  {name}: planner {found.mean:.4f}, {base} {found.base_mean:.4f}, "
            f"difference {found.difference:+.4f} {interval(found.difference_ci95, '+')}"
        )


@app.command()
def signal(
    env_id: EnvironmentArgument,
    policy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|MODEL", help="Told apart; all rules if not given."),
    ] = None,
    episodes: EpisodesOption = 100,
    seed: SeedOption = TUNING.start,
    lanes: LanesOption = 64,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell which policies 100 episodes tell apart, for each metric."""
    from edge_gym.evaluation.signal import signal as run

    with progress_bars() as progress:
        found = run(
            env_id,
            policy,
            episodes=episodes,
            seed=seed,
            lanes=lanes,
            overrides=read_settings(settings),
            progress=progress,
        )
    if as_json:
        print_json(found.to_json())
        return
    rows = [
        [
            one.metric,
            f"{one.resolved:.2f} of {one.pairs}",
            f"{one.median_z:.1f}",
            f"{one.best[0]}, {one.best[1]}",
            f"{one.best_z:.1f}",
            "" if one.spread is None else f"{one.spread:.2f}",
        ]
        for one in found.metrics
    ]
    columns = ["metric", "pairs resolved", "median z", "the two best", "their z"]
    print_table(
        f"{found.environment}, {episodes} episodes from seed {seed}; z at 100 episodes",
        [*columns, "random to best, sd"],
        rows,
    )


@app.command()
def generalise(
    env_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    episodes: EpisodesOption = 64,
    seed: SeedOption = EVALUATION.start,
    lanes: LanesOption = 64,
    workers: WorkersOption = None,
    ray: RayOption = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder.")] = Path("generalisation"),
    as_json: JsonOption = False,
) -> None:
    """Run agents in settings they were not trained for; goes on where it was stopped."""
    from edge_gym.evaluation.generalisation import generalise as run

    _sweep(run, env_ids, episodes, seed, lanes, workers, ray, out, as_json)


def _sweep(
    run: Callable[..., Any],
    env_ids: list[str] | None,
    episodes: int,
    seed: int,
    lanes: int,
    workers: int | None,
    ray: str | None,
    out: Path,
    as_json: bool,
) -> None:
    """Run what sweeps over environments, and print what it found."""
    from edge_gym.evaluation.sweep import run_chunk

    runner = make_runner(run_chunk, workers, ray)
    with progress_bars() as progress:
        found = run(
            env_ids,
            out=out,
            episodes=episodes,
            seed=seed,
            lanes=lanes,
            run=runner,
            progress=progress,
            report=remark,
        )
    print(json.dumps(found.to_json(), indent=2) if as_json else found.to_markdown(), end="")
    errors().print(f"written: {out}", highlight=False)


@app.command(cls=ReproduceCommand)
def reproduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to reproduce.")],
    quick: Annotated[bool, typer.Option("--quick", help="Small and coarse.")] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="The paper's own setting where the usual one is smaller: hours, best on a GPU.",
        ),
    ] = False,
    episodes: Annotated[int | None, typer.Option(help="Episodes of every policy.")] = None,
    lanes: LanesOption = 32,
    settings: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder; results/NAME if not given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Redo a paper's experiment, its claims beside what is measured."""
    from edge_gym.reproduce import Options, find_reproduction

    reproduction = find_reproduction(name)
    folder = out or Path("results") / name
    with progress_bars() as progress:
        options = Options(quick, episodes, lanes, read_settings(settings) or {}, progress, full)
        findings = reproduction.run(folder, options)
    if as_json:
        print_json(findings.to_json())
    else:
        rows = [[f.claim, f.measured, f.verdict] for f in findings.claims]
        print_table(findings.title, ["the paper says", "measured here", "seen"], rows)
    errors().print(f"written: {', '.join(map(str, findings.files))}", highlight=False)


@app.command()
def benchmark(
    env_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    seconds: Annotated[float, typer.Option(help="Time measured for each number.")] = 3.0,
    processes: Annotated[int, typer.Option(help="Environments of SubprocVecEnv.")] = 64,
    as_json: JsonOption = False,
) -> None:
    """Measure steps per second, beside scikit-learn's refits and SubprocVecEnv."""

    from edge_gym.evaluation.throughput import measure

    names = [find_environment(name).id for name in env_ids or [list_environments()[0].name]]
    with progress_bars() as progress:
        speeds = [measure(name, seconds, processes, progress) for name in names]
    if as_json:
        print_json([asdict(speed) for speed in speeds])
        return
    for speed in speeds:
        print_table(
            f"{speed.environment}, policy {speed.policy}, {speed.threads} threads",
            ["what", "lanes", "steps/s", "learning", "scoring", "the rest"],
            [
                [
                    row.what,
                    str(row.lanes),
                    f"{row.steps_per_second:,.0f}",
                    *("" if share is None else f"{share:.0%}" for share in row.shares),
                ]
                for row in speed.rows
            ],
        )
        for note in speed.notes:
            print(note)
