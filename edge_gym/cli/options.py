"""The command line: what its commands share in their arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

from edge_gym.runtime.messages import shown

if TYPE_CHECKING:
    from edge_gym.runtime.workers import Result, Run, Task


class _Commands(TyperGroup):
    # What becomes of an interrupt above differs between typer's versions.
    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except KeyboardInterrupt as error:
            raise StoppedError from error

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise StoppedError from error


class StoppedError(Exception):
    """Ctrl-C with nothing to keep."""


class ReproduceCommand(TyperCommand):
    """Lists what can be reproduced in its help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Add the names to the help."""
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


def read_settings(settings: Sequence[str] | None) -> dict[str, Any]:
    """Read ``field=value`` options."""
    from edge_gym.evaluation.policies import parse_value

    overrides: dict[str, Any] = {}
    for setting in settings or ():
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise ValueError(f"--set takes field=value, got {shown(setting)}")
        overrides[name] = parse_value(value, f"--set {name}")
    return overrides


def make_runner(
    work: Callable[[Task], Result], workers: int | None, ray: str | None
) -> Run[Task, Result]:
    """Return what does ``work`` where the options say."""
    from edge_gym.runtime.checks import check_integer
    from edge_gym.runtime.threads import thread_count
    from edge_gym.runtime.workers import MOST_WORKERS, in_processes, on_ray

    if ray is None:
        if workers is None:
            workers = thread_count()
        check_integer("workers", workers, 1, MOST_WORKERS)
        return in_processes(workers, work)
    if workers is not None:
        raise ValueError("--workers and --ray exclude each other")
    return on_ray(None if ray == "local" else ray, work)
