"""Commands about policies: agents, compare, evaluate, tune."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_gym.cli.options import (
    EnvironmentArgument,
    EpisodesOption,
    JsonOption,
    LanesOption,
    SeedOption,
    SetOption,
    app,
    read_settings,
)
from edge_gym.cli.output import (
    INTERRUPTED,
    errors,
    print_json,
    print_table,
    print_tunings,
    progress_bars,
    remark,
    run_comparison,
)
from edge_gym.core.registration import find_environment
from edge_gym.evaluation.seeds import EVALUATION, TUNING
from edge_gym.runtime.messages import shown

if TYPE_CHECKING:
    from edge_gym.core.vector_env import EdgeVectorEnv
    from edge_gym.evaluation.rollouts import TaskProgress
    from edge_gym.evaluation.tuning import Tuning


@app.command("agents")
def list_agents(
    environments: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Environments; all if not given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the trained agents that ship, and what it takes to train them again."""
    from edge_gym.agents.catalogue import TRAINED_BEFORE, catalogue

    entries = catalogue(environments)
    if as_json:
        print_json([{**asdict(entry), "command": entry.command} for entry in entries])
        return
    columns = [
        "agents",
        "training seeds",
        "best",
        "return on selection seeds",
        "steps",
        "minutes each",
        "",
    ]
    rows = [
        [
            f"{entry.algorithm} {entry.environment.rpartition('/')[2]}",
            ", ".join(map(str, entry.training_seeds)),
            str(entry.best),
            " ".join(f"{value:#.4g}" for value in entry.returns),
            f"{entry.steps:,}",
            "" if entry.minutes is None else f"{entry.minutes:.0f}",
            TRAINED_BEFORE if entry.changed else "",
        ]
        for entry in entries
    ]
    print_table("edge-gym train ALGO ID --seeds N trains them again", columns, rows)


@app.command()
def compare(
    env_id: EnvironmentArgument,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|MODEL",
            help="NAME, NAME:param=value,..., tuned-NAME, ppo, dqn, or a trained agent's path; "
            "all that apply if not given.",
        ),
    ] = None,
    episodes: EpisodesOption = 100,
    seed: SeedOption = EVALUATION.start,
    lanes: LanesOption = 64,
    settings: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder; results/ID if not given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare policies on the same episodes."""
    folder = out or Path("results") / find_environment(env_id).file_name
    results = run_comparison(env_id, policy, episodes, seed, lanes, settings, folder, as_json)
    files = ", ".join(str(path) for path in sorted(folder.iterdir()) if path.is_file())
    errors().print(f"written: {files}", highlight=False)
    if results.interrupted:
        raise typer.Exit(INTERRUPTED)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="ppo, dqn or a path.")],
    env_id: EnvironmentArgument,
    episodes: EpisodesOption = 100,
    seed: SeedOption = EVALUATION.start,
    lanes: LanesOption = 64,
    settings: SetOption = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for files.")] = None,
    stated: Annotated[
        bool,
        typer.Option(
            "--stated",
            help="The very episodes, of selection seeds, that its file states, and whether so.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run one agent on evaluation seeds, or on those that its file states."""
    if stated:
        if (episodes, seed) != (100, EVALUATION.start) or settings or out:
            raise ValueError(
                "--stated takes episodes, seeds and configuration from the agent's file, and "
                "writes nothing: leave out --episodes, --seed, --set and --out"
            )
        from edge_gym.runtime.checks import check_integer

        check_integer("lanes", lanes, 1)
        _evaluate_again(model, env_id, lanes, as_json)
        return
    run_comparison(env_id, [model], episodes, seed, lanes, settings, out, as_json)


def _evaluate_again(model: str, env_id: str, lanes: int, as_json: bool) -> None:
    from edge_gym.agents.record import evaluate_again

    with progress_bars() as progress:
        again = evaluate_again(
            model, env_id, lanes, lambda done, total: progress("episodes", done, total)
        )
    if as_json:
        print_json({**asdict(again), "same": again.same})
    else:
        print(
            f"mean return of {again.episodes} episodes from seed {again.first_seed}: stated "
            f"{again.stated:.6f}, found {again.found:.6f}"
        )
    if not again.same:
        raise ValueError("the stated evaluation was not reproduced: another version made the agent")


@app.command()
def tune(
    env_id: EnvironmentArgument,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Baseline, or module:Class of your own; all that have a grid if not given.",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="grid|cma",
            help="cma finds the weights of a linear index by CMA-ES, grid the parameters of rules.",
        ),
    ] = "grid",
    trials: Annotated[
        int | None,
        typer.Option(
            help="Budget of trials of each: of larger grids as many points are drawn. 64 of grid, "
            "480 of cma if not given."
        ),
    ] = None,
    episodes: Annotated[
        int | None,
        typer.Option(
            help="Episodes of the trials left in the end, 512 if not given; of cma those of each "
            "trial, 64."
        ),
    ] = None,
    lanes: LanesOption = 64,
    settings: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of cma; runs/tune-ID if not given.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Ship the result with the rules.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Search the parameters of baselines, on tuning seeds."""
    from edge_gym.evaluation.rollouts import make_lanes, own_config, plain_config
    from edge_gym.evaluation.tuning import tuned_folder, write_tunings
    from edge_gym.runtime.checks import check_choice, check_integer
    from edge_gym.runtime.files import prepare_folder

    check_choice("method", method, ("grid", "cma"))
    check_integer("lanes", lanes, 1)
    env = make_lanes(env_id, lanes, read_settings(settings))
    if write and plain_config(env.config) != plain_config(own_config(env_id)):
        raise ValueError("--write ships searches of the id's own configuration: leave out --set")
    if write and (own := [name for name in policy or () if ":" in name]):
        raise ValueError(f"--write ships rules by their names, not {shown(own[0])}")
    if method == "cma":
        folder = out or Path("runs") / f"tune-{find_environment(env_id).file_name}"
        searches = [_weight_search(env, policy, trials, episodes, folder)]
    elif out is not None:
        raise ValueError("--out is for --method cma: a grid leaves nothing to go on from")
    else:
        searches = _grid_searches(env, policy, trials, episodes)
    if write:
        prepare_folder(tuned_folder())
    tunings, stopped = [], None
    with progress_bars() as progress:
        try:
            for search in searches:
                tunings.append(search(progress))
        except KeyboardInterrupt as error:
            stopped = str(error) or "stopped; what was finished is kept"
            if not tunings and not str(error):
                raise
    if as_json:
        print_json([asdict(tuning) for tuning in tunings])
    else:
        print_tunings(tunings)
    if write and tunings:
        path = write_tunings(env_id, env.config, tunings)
        errors().print(f"written: {path}", highlight=False)
    if stopped is not None:
        remark(stopped)
        raise typer.Exit(INTERRUPTED)


def _grid_searches(
    env: EdgeVectorEnv, policies: list[str] | None, trials: int | None, episodes: int | None
) -> list[Callable[[TaskProgress], Tuning]]:
    """Return the checked searches for the parameters of rules, one for each."""
    from edge_gym.evaluation.tuning import (
        LEAST_EPISODES,
        SHIPPED_EPISODES,
        TRIALS,
        grid_points,
        tunable_baselines,
        tune,
    )
    from edge_gym.runtime.checks import check_integer

    episodes = SHIPPED_EPISODES if episodes is None else episodes
    trials = TRIALS if trials is None else trials
    check_integer("episodes", episodes, LEAST_EPISODES, len(TUNING))
    check_integer("trials", trials, 1)
    names = policies or tunable_baselines(env)
    for name in names:
        grid_points(name, env)
    return [
        functools.partial(lambda name, bar: tune(env, name, episodes, bar, trials), name)
        for name in names
    ]


def _weight_search(
    env: EdgeVectorEnv,
    policies: list[str] | None,
    trials: int | None,
    episodes: int | None,
    folder: Path,
) -> Callable[[TaskProgress], Tuning]:
    """Return the search for the weights of a linear index."""
    from edge_gym.baselines.index_policy import IndexPolicy
    from edge_gym.evaluation import weight_search

    names = policies or [IndexPolicy.name]
    if len(names) > 1:
        raise ValueError("cma finds the weights of one policy at a time")

    def search(progress: TaskProgress) -> Tuning:
        found = weight_search.search_weights(
            env,
            names[0],
            out=folder,
            episodes=weight_search.EPISODES if episodes is None else episodes,
            trials=weight_search.TRIALS if trials is None else trials,
            progress=progress,
        )
        errors().print(f"written: {folder / weight_search.WEIGHTS}", highlight=False)
        return found

    return search
