"""Commands about environments: list, describe, watch."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_gym.cli.options import (
    EnvironmentArgument,
    JsonOption,
    SeedOption,
    SetOption,
    app,
    read_settings,
)
from edge_gym.cli.output import (
    errors,
    print_json,
    print_table,
    progress_bars,
)
from edge_gym.core.registration import EnvironmentSpec, list_environments
from edge_gym.evaluation.seeds import EVALUATION
from edge_gym.papers import find_paper

if TYPE_CHECKING:
    pass


@app.command("list")
def list_all(as_json: JsonOption = False) -> None:
    """List the environments, and which trained agents ship for them."""
    from edge_gym.agents import shipped_agents

    agents = {row.id: shipped_agents(row.id) for row in list_environments()}
    if as_json:
        print_json(
            [
                {
                    "id": row.id,
                    "summary": row.summary,
                    "preset": row.preset,
                    "paper": _cited(row),
                    "agents": agents[row.id],
                }
                for row in list_environments()
            ]
        )
        return
    columns = ["environment", "what is decided", "paper", "agents"]
    rows = [
        [row.name, row.summary, _cited(row) or "", ", ".join(agents[row.id])]
        for row in list_environments()
    ]
    print_table("", columns, rows)


def _cited(row: EnvironmentSpec) -> str | None:
    return None if row.paper is None else find_paper(row.paper).cited


@app.command()
def describe(
    env_id: EnvironmentArgument, settings: SetOption = None, as_json: JsonOption = False
) -> None:
    """Show an environment: fields, observation, actions, reward, end, source and policies."""
    from edge_gym.reports.describe import describe as run

    found = run(env_id, read_settings(settings))
    if as_json:
        print_json(found.to_json())
        return
    print_table(
        f"{found.environment}: {found.summary}",
        ["field", "value", "meaning"],
        [[one.name, str(one.value), one.meaning] for one in found.settings],
    )
    shapes = [f"{part} {shape}".strip() for part, shape in found.shapes.items()]
    print_table(
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
    print_table(
        "rules, name:parameter=value for another value; of a number, parameter_late=value for one "
        "late in an episode",
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
    from edge_gym.reports.films import film

    with progress_bars() as progress:
        episode = film(
            env_id,
            policy,
            out,
            seed=seed,
            every=every,
            fps=fps,
            overrides=read_settings(settings),
            progress=progress,
        )
    errors().print(f"return {episode:.4f}; written: {out}", highlight=False)
