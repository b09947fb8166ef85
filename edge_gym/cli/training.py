"""Commands that train: train, search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_gym.cli.options import (
    EnvironmentArgument,
    JsonOption,
    RayOption,
    SetOption,
    WorkersOption,
    app,
    make_runner,
    read_settings,
)
from edge_gym.cli.output import (
    INTERRUPTED,
    errors,
    print_json,
    print_search,
    progress_bars,
    remark,
)
from edge_gym.core.registration import find_environment

if TYPE_CHECKING:
    pass


@app.command()
def train(
    algorithm: Annotated[
        str, typer.Argument(metavar="ALGO", help="Algorithm: ppo, dqn, or a registered one.")
    ],
    env_id: EnvironmentArgument,
    steps: Annotated[int | None, typer.Option(help="Steps; the recipe's if not given.")] = None,
    seed: Annotated[int | None, typer.Option(help="The recipe's if not given.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The packaged one if not given.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder; runs/ALGO-ID if not given.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    device: Annotated[str, typer.Option(help="cpu, or cuda for a GPU.")] = "cpu",
    seeds: Annotated[
        int | None,
        typer.Option(help="So many agents, of this seed and those that follow it."),
    ] = None,
    workers: WorkersOption = None,
    ray: RayOption = None,
    settings: SetOption = None,
) -> None:
    """Train an agent, or several that differ by their seed alone."""
    from edge_gym.agents import TrainingInterrupted
    from edge_gym.agents import train as train_agent

    row = find_environment(env_id)
    given: dict[str, Any] = {
        "recipe": recipe,
        "steps": steps,
        "seed": seed,
        "out": out or Path("runs") / f"{algorithm}-{row.file_name}",
        "resume": resume,
        "device": device,
        "overrides": read_settings(settings),
    }
    if seeds is None and (workers is not None or ray is not None):
        raise ValueError("--workers and --ray are for several --seeds")
    if seeds is not None:
        from edge_gym.runtime.checks import check_integer

        check_integer("seeds", seeds, 1)
    try:
        if seeds is None:
            print(train_agent(algorithm, row.id, **given))
            return
        from edge_gym.agents.training.replicates import train_one, train_seeds

        runner = make_runner(train_one, workers, ray)
        with progress_bars() as bar:
            found = train_seeds(
                algorithm, row.id, seeds, run=runner, progress=bar, report=remark, **given
            )
        for path in found.values():
            print(path)
    except TrainingInterrupted as stopped:
        remark(str(stopped))
        raise typer.Exit(INTERRUPTED) from None


@app.command()
def search(
    algorithm: Annotated[
        str, typer.Argument(metavar="ALGO", help="Algorithm: ppo, dqn, or a registered one.")
    ],
    env_id: EnvironmentArgument,
    trials: Annotated[
        int, typer.Option(help="Recipes tried, those of earlier searches in the folder included.")
    ] = 20,
    steps: Annotated[
        int | None, typer.Option(help="Steps of each training; the recipe's if not given.")
    ] = None,
    episodes: Annotated[int, typer.Option(help="Episodes of each evaluation.")] = 128,
    seeds: Annotated[int, typer.Option(help="Trainings of each recipe.")] = 1,
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to begin; the packaged one if not given."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder; runs/search-ALGO-ID if not given.")
    ] = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search a better recipe, on tuning seeds; goes on where it was stopped."""
    from edge_gym.agents.training.search import SearchInterrupted, search_recipe

    row = find_environment(env_id)
    with progress_bars() as progress:
        try:
            found = search_recipe(
                algorithm,
                row.id,
                trials=trials,
                steps=steps,
                episodes=episodes,
                seeds=seeds,
                recipe=recipe,
                out=out or Path("runs") / f"search-{algorithm}-{row.file_name}",
                overrides=read_settings(settings),
                progress=progress,
                report=remark,
            )
        except SearchInterrupted as stopped:
            remark(str(stopped))
            raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(found.to_json())
    else:
        print_search(found)
    if found.written is not None:
        errors().print(f"written: {found.written}", highlight=False)
