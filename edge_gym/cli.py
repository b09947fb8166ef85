"""The command line, ``edge-gym``.

Commands import what they need when they run, so that help is there at once. Only results go to
standard output; progress and remarks go to standard error.
"""

from __future__ import annotations

import _thread
import errno
import functools
import json
import os
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

from edge_gym.messages import shown
from edge_gym.registration import ENVIRONMENTS, find_environment
from edge_gym.seeds import EVALUATION, TUNING

if TYPE_CHECKING:
    from rich.console import Console

    from edge_gym.agents.search import Search
    from edge_gym.comparison import Results
    from edge_gym.evaluation import TaskProgress
    from edge_gym.workers import Result, Run, Task

USAGE_ERROR, INTERRUPTED = 2, 130
_PIPE_WIDTH = 160
_LONGEST_LINE = 2000  # of a complaint
_LEAVING_S = 0.05  # within which a callback from compiled code is left
_BEST_TRIALS = 4  # shown of a search, beside the base recipe


class _StoppedError(Exception):
    """Ctrl-C with nothing to keep."""


class _Commands(TyperGroup):
    # What becomes of an interrupt above differs between typer's versions.
    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except KeyboardInterrupt as error:
            raise _StoppedError from error

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _StoppedError from error


class _Reproduce(TyperCommand):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        # Not before somebody asks: what runs them takes seconds to import.
        from edge_gym.reproduce import REPRODUCTIONS

        names = ", ".join(reproduction.name for reproduction in REPRODUCTIONS)
        for parameter in self.params:
            if parameter.name == "name":
                cast(Any, parameter).help = f"What to reproduce: {names}."
        super().format_help(ctx, formatter)


app = typer.Typer(
    name="edge-gym",
    cls=_Commands,
    help="Gymnasium environments for wireless edge learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

EnvironmentArgument = Annotated[str, typer.Argument(metavar="ID", help="Environment, see list.")]
EpisodesOption = Annotated[int, typer.Option(help="Episodes of every policy.")]
SeedOption = Annotated[int, typer.Option(help="First seed; the others follow it.")]
LanesOption = Annotated[int, typer.Option(help="Episodes run at a time.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Field of the configuration, in YAML."),
]
WorkersOption = Annotated[
    int | None, typer.Option(help="Processes of one thread each; the cores if not given.")
]
RayOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Run on a Ray cluster; 'local' starts Ray here, 'auto' finds the one around.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Let no Ctrl-C be lost in a callback from compiled code, where Python ignores exceptions.

    Numba's compiler has such callbacks: what they ignore is raised again once they are left.
    """
    before = sys.unraisablehook

    def hook(ignored: sys.UnraisableHookArgs) -> None:
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            # A little later, for here it would be ignored as well.
            threading.Timer(_LEAVING_S, _thread.interrupt_main).start()
        else:
            before(ignored)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def warnings_as_remarks() -> Iterator[None]:
    """Show this package's own warnings as remarks, in one line."""
    before = warnings.showwarning

    def show(message: Any, category: Any, *place: Any) -> None:
        if category.__module__.split(".")[0] == "edge_gym":
            _remark(str(message))
        else:
            before(message, category, *place)

    warnings.showwarning = cast(Any, show)
    try:
        yield
    finally:
        warnings.showwarning = before


@interrupts_kept()
@warnings_as_remarks()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    Errors that a user can cause are one line on standard error and exit code 2;
    ``EDGE_GYM_TRACEBACK=1`` shows where they come from.

    Args:
        arguments: What follows ``edge-gym``; None takes the process's.
    """
    if os.environ.get("EDGE_GYM_TRACEBACK") == "1":
        return int(app(arguments, standalone_mode=False) or 0)
    from gymnasium.error import Error as GymnasiumError

    # Newer versions of typer carry a copy of click of their own.
    click_error: type[Exception] = next(
        cast(type[Exception], c)
        for c in typer.BadParameter.__mro__
        if c.__name__ == "ClickException"
    )
    try:
        return int(app(arguments, standalone_mode=False) or 0)
    except _StoppedError:
        return _complain("stopped", INTERRUPTED)
    except click_error as error:
        return _complain(error.format_message())  # type: ignore[attr-defined]
    except KeyboardInterrupt:
        return _complain("stopped", INTERRUPTED)
    except OSError as error:
        full = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
        if error.errno in full and error.filename is None and "disk is full" not in str(error):
            return _complain(
                f"the disk is full ({error.strerror}): make room, what was written is kept"
            )
        # Without the number that Python puts in front of what has one.
        own = error.filename is None and error.strerror
        return _complain(str(error.strerror if own else error))
    except (ValueError, TypeError, ImportError, GymnasiumError) as error:
        return _complain(str(error))
    except MemoryError as error:
        return _complain(_too_large(error))
    except RecursionError:
        return _complain("a value is nested too deeply")
    except RuntimeError as error:
        from edge_gym.data import DataError

        if isinstance(error, DataError):
            return _complain(str(error))
        # As torch says it.
        if "allocate memory" in str(error) or "out of memory" in str(error):
            return _complain(_too_large(error))
        raise


def _too_large(error: Exception) -> str:
    return (
        f"there is not enough memory ({error}): choose a smaller configuration, or fewer --lanes"
        if str(error)
        else "there is not enough memory: choose a smaller configuration, or fewer --lanes"
    )


def _show_version(wanted: bool) -> None:
    if wanted:
        from edge_gym import __version__

        print(f"edge-gym {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Gymnasium environments for wireless edge learning."""


@app.command("list")
def list_environments(as_json: JsonOption = False) -> None:
    """List the environments, and which trained agents ship for them."""
    from edge_gym.agents import shipped_agents

    agents = {row.id: shipped_agents(row.id) for row in ENVIRONMENTS}
    if as_json:
        _print_json(
            [
                {
                    "id": row.id,
                    "summary": row.summary,
                    "preset": row.preset,
                    "agents": agents[row.id],
                }
                for row in ENVIRONMENTS
            ]
        )
        return
    columns = ["environment", "what is decided", "agents"]
    rows = [[row.name, row.summary, ", ".join(agents[row.id])] for row in ENVIRONMENTS]
    _print_table("", columns, rows)


@app.command()
def describe(
    env_id: EnvironmentArgument, settings: SetOption = None, as_json: JsonOption = False
) -> None:
    """Show an environment: fields, observation, actions, reward, end, source and policies."""
    from edge_gym.describing import describe as run

    found = run(env_id, _overrides(settings))
    if as_json:
        _print_json(found.to_json())
        return
    _print_table(
        f"{found.environment}: {found.summary}",
        ["field", "value", "meaning"],
        [[one.name, str(one.value), one.meaning] for one in found.settings],
    )
    shapes = [f"{part} {shape}".strip() for part, shape in found.shapes.items()]
    _print_table(
        f"observation: {', '.join(shapes)}",
        ["column", "unit", "low", "high", "meaning"],
        [
            [
                f"{part} {c['name']}".strip(),
                c["unit"],
                f"{c['low']:g}",
                f"{c['high']:g}",
                c["meaning"],
            ]
            for part, columns in found.observation.items()
            for c in columns
        ],
    )
    _print_table(
        "rules, name:parameter=value for another value",
        ["rule", "source", "what it does", "parameters"],
        [
            [
                rule.name,
                rule.source,
                rule.meaning,
                "\n".join(f"{one.name}={one.default}: {one.meaning}" for one in rule.parameters),
            ]
            for rule in found.rules
        ],
    )
    for title, text in (
        (f"action: {found.action}", found.action_meaning),
        ("reward", found.reward),
        ("episode end", found.end),
        ("source", found.source),
    ):
        print(f"{title}\n{textwrap.indent(text, '  ')}")
    print(f"policies: {', '.join(found.policies)}")
    for name, note in {**found.notes, **found.agents}.items():
        print(f"{name}: {note}")


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
        _print_json([{**asdict(entry), "command": entry.command} for entry in entries])
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
    _print_table("edge-gym train ALGO ID --seeds N trains them again", columns, rows)


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
    folder = out or Path("results") / find_environment(env_id).name
    results = _compare(env_id, policy, episodes, seed, lanes, settings, folder, as_json)
    files = ", ".join(str(path) for path in sorted(folder.iterdir()) if path.is_file())
    _errors().print(f"written: {files}", highlight=False)
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
        from edge_gym.envs.checks import check_integer

        check_integer("lanes", lanes, 1)
        _evaluate_again(model, env_id, lanes, as_json)
        return
    _compare(env_id, [model], episodes, seed, lanes, settings, out, as_json)


@app.command()
def train(
    algorithm: Annotated[str, typer.Argument(metavar="ALGO", help="ppo or dqn.")],
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
        "out": out or Path("runs") / f"{algorithm}-{row.name}",
        "resume": resume,
        "device": device,
        "overrides": _overrides(settings),
    }
    if seeds is None and (workers is not None or ray is not None):
        raise ValueError("--workers and --ray are for several --seeds")
    if seeds is not None:
        from edge_gym.envs.checks import check_integer

        check_integer("seeds", seeds, 1)
    try:
        if seeds is None:
            print(train_agent(algorithm, row.id, **given))
            return
        from edge_gym.agents.repeated import train_one, train_seeds

        runner = _runner(train_one, workers, ray)
        with _progress() as bar:
            found = train_seeds(
                algorithm, row.id, seeds, run=runner, progress=bar, report=_remark, **given
            )
        for path in found.values():
            print(path)
    except TrainingInterrupted as stopped:
        _remark(str(stopped))
        raise typer.Exit(INTERRUPTED) from None


@app.command()
def watch(
    env_id: EnvironmentArgument,
    policy: Annotated[str, typer.Option(metavar="NAME|MODEL", help="As in compare.")] = "random",
    out: Annotated[Path, typer.Option(metavar="FILE", help="A .gif file.")] = Path("episode.gif"),
    seed: SeedOption = EVALUATION.start,
    every: Annotated[int, typer.Option(help="Draw every so many steps.")] = 4,
    fps: Annotated[float, typer.Option(help="Pictures per second.")] = 8.0,
    settings: SetOption = None,
) -> None:
    """Draw an episode."""
    from edge_gym.watching import film

    with _progress() as progress:
        episode = film(
            env_id,
            policy,
            out,
            seed=seed,
            every=every,
            fps=fps,
            overrides=_overrides(settings),
            progress=progress,
        )
    _errors().print(f"return {episode:.4f}; written: {out}", highlight=False)


@app.command()
def tune(
    env_id: EnvironmentArgument,
    policy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Baseline; all that have a grid if not given."),
    ] = None,
    episodes: Annotated[int, typer.Option(help="Episodes of the points left in the end.")] = 512,
    lanes: LanesOption = 64,
    settings: SetOption = None,
    write: Annotated[bool, typer.Option("--write", help="Ship the result in tuned.yaml.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Search the parameters of baselines, on tuning seeds."""

    from edge_gym.baselines import applicable_baselines
    from edge_gym.baselines.tuning import (
        LEAST_EPISODES,
        grid_points,
        tunable_baselines,
        tuned_path,
        write_tunings,
    )
    from edge_gym.baselines.tuning import tune as search
    from edge_gym.envs.checks import check_integer
    from edge_gym.evaluation import make_lanes, own_config, plain_config
    from edge_gym.files import prepare_folder

    check_integer("lanes", lanes, 1)
    check_integer("episodes", episodes, LEAST_EPISODES, len(TUNING))
    env = make_lanes(env_id, lanes, _overrides(settings))
    if write and plain_config(env.config) != plain_config(own_config(env_id)):
        raise ValueError("--write ships searches of the id's own configuration: leave out --set")
    applicable = applicable_baselines(env)
    names = policy or tunable_baselines(env)
    for name in names:
        if name not in applicable:
            raise ValueError(f"no baseline {shown(name)} here; there are {', '.join(applicable)}")
        grid_points(name, env)
    if write:
        prepare_folder(tuned_path().parent)
    with _progress() as progress:
        tunings = [search(env, name, episodes, progress) for name in names]
    if as_json:
        _print_json([asdict(tuning) for tuning in tunings])
    else:
        rows = [
            [
                tuning.policy,
                _parameters(trial.parameters),
                str(trial.episodes),
                f"{trial.mean_return:.4f}",
                _interval(trial.ci95),
                "best" if trial is tuning.best else "",
            ]
            for tuning in tunings
            for trial in tuning.trials
        ]
        columns = ["policy", "parameters", "episodes", "mean return", "95 % interval", ""]
        _print_table("", columns, rows)
    if write:
        path = write_tunings(env_id, env.config, tunings)
        _errors().print(f"written: {path}", highlight=False)


@app.command()
def search(
    algorithm: Annotated[str, typer.Argument(metavar="ALGO", help="ppo or dqn.")],
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
    from edge_gym.agents.search import SearchInterrupted, search_recipe

    row = find_environment(env_id)
    with _progress() as progress:
        try:
            found = search_recipe(
                algorithm,
                row.id,
                trials=trials,
                steps=steps,
                episodes=episodes,
                seeds=seeds,
                recipe=recipe,
                out=out or Path("runs") / f"search-{algorithm}-{row.name}",
                overrides=_overrides(settings),
                progress=progress,
                report=_remark,
            )
        except SearchInterrupted as stopped:
            _remark(str(stopped))
            raise typer.Exit(INTERRUPTED) from None
    if as_json:
        _print_json(found.to_json())
    else:
        _print_search(found)
    if found.written is not None:
        _errors().print(f"written: {found.written}", highlight=False)


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
    from edge_gym.leaderboard import leaderboard as run
    from edge_gym.watching import draw

    run_and_draw = functools.partial(run, draw=_runner(draw, workers, ray))
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
    episodes: EpisodesOption = 32,
    seed: SeedOption = TUNING.start,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bound what there is to win: plan by copies of the running environment."""

    from edge_gym.planning import plan as run

    with _progress() as progress:
        bound = run(
            env_id,
            base,
            candidate or (),
            futures=futures,
            episodes=episodes,
            seed=seed,
            overrides=_overrides(settings),
            progress=progress,
        )
    if as_json:
        _print_json(asdict(bound))
        return
    print(
        f"{bound.environment}: planner {bound.mean:.4f}, {base} {bound.base_mean:.4f}, "
        f"difference {bound.difference:+.4f} {_interval(bound.difference_ci95, '+')}"
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
    from edge_gym.generalisation import generalise as run

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
    from edge_gym.sweep import run_chunk

    runner = _runner(run_chunk, workers, ray)
    with _progress() as progress:
        found = run(
            env_ids,
            out=out,
            episodes=episodes,
            seed=seed,
            lanes=lanes,
            run=runner,
            progress=progress,
            report=_remark,
        )
    print(json.dumps(found.to_json(), indent=2) if as_json else found.to_markdown(), end="")
    _errors().print(f"written: {out}", highlight=False)


def _evaluate_again(model: str, env_id: str, lanes: int, as_json: bool) -> None:
    from edge_gym.agents.stated import evaluate_again

    with _progress() as progress:
        again = evaluate_again(
            model, env_id, lanes, lambda done, total: progress("episodes", done, total)
        )
    if as_json:
        _print_json({**asdict(again), "same": again.same})
    else:
        print(
            f"mean return of {again.episodes} episodes from seed {again.first_seed}: stated "
            f"{again.stated:.6f}, found {again.found:.6f}"
        )
    if not again.same:
        raise ValueError("the stated evaluation was not reproduced: another version made the agent")


def _runner(
    work: Callable[[Task], Result], workers: int | None, ray: str | None
) -> Run[Task, Result]:
    """Return what does ``work`` where the options say."""
    from edge_gym.envs.checks import check_integer
    from edge_gym.parallel import thread_count
    from edge_gym.workers import MOST_WORKERS, in_processes, on_ray

    if ray is None:
        if workers is None:
            workers = thread_count()
        check_integer("workers", workers, 1, MOST_WORKERS)
        return in_processes(workers, work)
    if workers is not None:
        raise ValueError("--workers and --ray exclude each other")
    return on_ray(None if ray == "local" else ray, work)


@app.command(cls=_Reproduce)
def reproduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to reproduce.")],
    quick: Annotated[bool, typer.Option("--quick", help="Small and coarse.")] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="The document's own setting where the usual one is smaller: hours, best on a GPU.",
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
    """Redo a document's experiment, its claims beside what is measured."""
    from edge_gym.reproduce import Options, find_reproduction

    reproduction = find_reproduction(name)
    folder = out or Path("results") / name
    with _progress() as progress:
        options = Options(quick, episodes, lanes, _overrides(settings) or {}, progress, full)
        findings = reproduction.run(folder, options)
    if as_json:
        _print_json(findings.to_json())
    else:
        rows = [[f.claim, f.measured, f.verdict] for f in findings.claims]
        _print_table(findings.title, ["the document says", "measured here", "seen"], rows)
    _errors().print(f"written: {', '.join(map(str, findings.files))}", highlight=False)


@app.command()
def benchmark(
    env_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    seconds: Annotated[float, typer.Option(help="Time measured for each number.")] = 3.0,
    processes: Annotated[int, typer.Option(help="Environments of SubprocVecEnv.")] = 64,
    as_json: JsonOption = False,
) -> None:
    """Measure steps per second, beside scikit-learn's refits and SubprocVecEnv."""

    from edge_gym.benchmark import measure

    names = [find_environment(name).id for name in env_ids or [ENVIRONMENTS[0].name]]
    with _progress() as progress:
        speeds = [measure(name, seconds, processes, progress) for name in names]
    if as_json:
        _print_json([asdict(speed) for speed in speeds])
        return
    for speed in speeds:
        _print_table(
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


def _compare(
    env_id: str,
    policies: list[str] | None,
    episodes: int,
    seed: int,
    lanes: int,
    settings: list[str] | None,
    out: Path | None,
    as_json: bool,
) -> Results:
    from edge_gym.comparison import ComparisonInterrupted
    from edge_gym.comparison import compare as run

    said: list[str] = []

    def remark(text: str) -> None:
        said.append(text)
        _remark(text)

    with _progress() as progress:
        try:
            results = run(
                env_id,
                policies,
                episodes=episodes,
                seed=seed,
                lanes=lanes,
                overrides=_overrides(settings),
                out=out,
                progress=progress,
                report=remark,
            )
        except ComparisonInterrupted as stopped:
            results = stopped.results
    if as_json:
        _print_json(results.to_json())
    else:
        _print_results(results)
    for note in results.notes:
        if note not in said:
            _remark(note)
    if results.interrupted:
        _remark("stopped; what was finished is kept")
    return results


def _print_results(results: Results) -> None:
    # The report's own number first, where there is one.
    metric = next(
        (
            name
            for name in ("test_accuracy", *next(iter(results.policies.values())).metrics)
            if all(name in result.metrics for result in results.policies.values())
        ),
        None,
    )
    best = next((r.difference.baseline for r in results.policies.values() if r.difference), None)
    scored = any(result.normalised is not None for result in results.policies.values())
    columns = ["policy", "return", "95 % interval", "IQM"] + ["score"] * scored
    columns += [f"minus {best}", "95 % interval"] if best else []
    columns += [metric.replace("_", " ")] if metric else []
    rows = []
    for name, result in sorted(results.policies.items(), key=lambda item: -item[1].mean):
        row = [name, f"{result.mean:.4f}", _interval(result.ci95), f"{result.iqm:.4f}"]
        if result.normalised is not None:
            row.append(f"{result.normalised:.2f}")
        if result.difference:
            row += [f"{result.difference.mean:+.4f}", _interval(result.difference.ci95, "+")]
        if metric:
            mean = result.metrics[metric].mean
            row.append("" if mean is None else f"{mean:.4f}")
        rows.append(row)
    title = f"{results.environment}, {len(results.seeds)} episodes from seed {results.seeds[0]}"
    _print_table(title, columns, rows)
    origins = {"document": "the documents' best rule", "ours": "our best rule"}
    for name, result in results.policies.items():
        if result.kind not in ("learned", "custom"):
            continue
        for kind, gap in result.differences.items():
            print(
                f"{name} minus {gap.baseline}, {origins[kind]}: "
                f"{gap.mean:+.4f} {_interval(gap.ci95, '+')}"
            )


def _print_search(found: Search) -> None:
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
    _print_table(title, ["", *names], rows)


def _overrides(settings: Sequence[str] | None) -> dict[str, Any]:
    from edge_gym.policies import parse_value

    overrides: dict[str, Any] = {}
    for setting in settings or ():
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise ValueError(f"--set takes field=value, got {shown(setting)}")
        overrides[name] = parse_value(value, f"--set {name}")
    return overrides


def _interval(ends: tuple[float, float] | None, sign: str = "") -> str:
    return "" if ends is None else f"[{ends[0]:{sign}.4f}, {ends[1]:{sign}.4f}]"


def _parameters(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in parameters.items())


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2, allow_nan=False))


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, box=box.SIMPLE_HEAD, title_justify="left")
    for column in columns:
        table.add_column(Text(column))
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    console.print(table)


def _errors() -> Console:
    from rich.console import Console

    return Console(file=sys.stderr, soft_wrap=True, markup=False)


def _remark(text: str) -> None:
    _errors().print(f"edge-gym: {text}", highlight=False)


def _complain(message: str, code: int = USAGE_ERROR) -> int:
    # One line whatever the message holds, so that scripts can rely on it.
    line = " ".join(message.split())
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE // 2]} ... {line[-_LONGEST_LINE // 2 :]}"
    print(f"edge-gym: {line}", file=sys.stderr)
    return code


@contextmanager
def _progress() -> Iterator[TaskProgress]:
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
    console = _errors()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        tasks: dict[str, Any] = {}

        def update(task: str, done: int, total: int) -> None:
            if task not in tasks:
                tasks[task] = bars.add_task(task, total=total)
            bars.update(tasks[task], completed=done, total=total)

        yield update
