"""The leaderboard as one page that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from edge_gym.core.registration import find_environment
from edge_gym.evaluation.ranking import RankedPolicy, gap_texts, mean_text
from edge_gym.evaluation.sweep import zero_of
from edge_gym.reports.charts import KINDS
from edge_gym.runtime.files import write_text
from edge_gym.runtime.optional import missing_extra

if TYPE_CHECKING:
    from edge_gym.evaluation.comparison import Interval
    from edge_gym.evaluation.leaderboard import Leaderboard

WIDTH = 160
"""Width of a strip, px."""
MINUS = "\N{MINUS SIGN}"

_MARGIN = 10
# What lies farther out than this many times the median is drawn as an arrow.
_FAR = 6.0


@dataclass(frozen=True)
class Strip:
    """An interval as it is drawn, in px from the left.

    Attributes:
        zero: Where zero is.
        point: Where the mean is; None where it is outside.
        low: Where the interval begins.
        high: Where it ends.
        beyond: ``"left"`` or ``"right"`` where the mean is outside, else nothing.
        colour: Of the kind of policy.
    """

    zero: float
    point: float | None
    low: float
    high: float
    beyond: str
    colour: str


@dataclass(frozen=True)
class Section:
    """One environment of the page.

    Attributes:
        name: Its id without the namespace.
        summary: What is decided.
        rows: The ranking, best first, with their strips.
        best: The best analytical policy.
        zero: The policy whose score is 0.
        notes: What must be known of policies, by name.
        film: An episode as the data of a GIF; None without one.
        actor: Who acts in it.
    """

    name: str
    summary: str
    rows: list[tuple[RankedPolicy, Strip | None]]
    best: str | None
    zero: str
    notes: dict[str, str]
    film: str | None
    actor: str | None


def write_page(
    board: Leaderboard, path: Path, films: Mapping[str, tuple[str, Path]] | None = None
) -> None:
    """Write the page.

    Args:
        board: What it shows.
        path: The file.
        films: By environment, who acts in an episode, and its GIF.

    Raises:
        ImportError: If Jinja2 is missing.
        OSError: If the file cannot be written.
    """
    try:
        import jinja2
    except ImportError as error:
        raise missing_extra("the page needs Jinja2", "plots", error) from error

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["number"] = number
    environment.filters["minus"] = _with_minus
    environment.filters["gap"] = _gap
    text = (
        resources.files("edge_gym.reports")
        .joinpath("templates/leaderboard.html")
        .read_text("utf-8")
    )
    page = environment.from_string(text).render(
        board=board,
        sections=[
            _section(board, name, rows, (films or {}).get(name))
            for name, rows in board.by_environment().items()
        ],
        overview=overview(board),
        kinds={
            kind: KINDS[kind]
            for kind in ("published", "adapted", "project", "yours", "learned", "reference")
        },
        width=WIDTH,
    )
    write_text(path, page)


def number(value: float | None, sign: bool = False) -> str:
    """Write a number with four digits that count, or three with its sign."""
    if value is None:
        return ""
    text = mean_text(value, "+#.3g" if sign else "#.4g")
    return _with_minus(text)


def _gap(row: RankedPolicy) -> list[str]:
    return [_with_minus(text) for text in gap_texts(row) or ()]


def _with_minus(text: str) -> str:
    return text.replace("-", MINUS)


def strips(
    intervals: Sequence[tuple[float, Interval]], colours: Sequence[str], width: int = WIDTH
) -> list[Strip]:
    """Return how means and their intervals are drawn on one scale, with zero on it.

    Args:
        intervals: Mean and interval of each.
        colours: Of each.
        width: Of the drawing, px.
    """
    sizes = sorted(abs(mean) for mean, _ in intervals if mean)
    far = _FAR * sizes[len(sizes) // 2] if sizes else 1.0
    near = [ends for mean, ends in intervals if abs(mean) <= far] or [(0.0, 0.0)]
    left, right = min(0.0, *(low for low, _ in near)), max(0.0, *(high for _, high in near))
    scale = (width - 2 * _MARGIN) / max(right - left, 1e-12)

    def place(value: float) -> float:
        return round(_MARGIN + scale * (min(max(value, left), right) - left), 2)

    return [
        Strip(
            zero=place(0.0),
            point=place(mean) if left <= mean <= right else None,
            low=place(ends[0]),
            high=place(ends[1]),
            beyond="left" if mean < left else "right" if mean > right else "",
            colour=colour,
        )
        for (mean, ends), colour in zip(intervals, colours, strict=True)
    ]


def overview(board: Leaderboard) -> list[tuple[str, RankedPolicy, float, Strip]]:
    """Return the best learned agent of each environment, with its difference in units of the gain.

    The gain is what the best analytical policy has on the one without skill, whose score is 0.
    """
    found: list[tuple[str, RankedPolicy, float, Interval]] = []
    for name, rows in board.by_environment().items():
        learned = next((row for row in rows if row.kind == "learned"), None)
        means = {row.policy: row.mean for row in rows}
        if learned is None or learned.score is None or learned.difference_ci95 is None:
            continue
        gain = means[board.best[name]] - means[zero_of(name)]
        low, high = learned.difference_ci95
        found.append((_short(name), learned, learned.score - 1, (low / gain, high / gain)))
    drawn = strips(
        [(mean, ends) for *_, mean, ends in found], [KINDS["learned"][0]] * len(found), 2 * WIDTH
    )
    return [
        (name, row, mean, strip) for (name, row, mean, _), strip in zip(found, drawn, strict=True)
    ]


def _section(
    board: Leaderboard, name: str, rows: Sequence[RankedPolicy], film: tuple[str, Path] | None
) -> Section:
    compared = [row for row in rows if row.difference is not None]
    drawn = strips(
        [(row.difference or 0.0, row.difference_ci95 or (0.0, 0.0)) for row in compared],
        [KINDS[row.kind][0] for row in compared],
    )
    of = {row.policy: strip for row, strip in zip(compared, drawn, strict=True)}
    return Section(
        name=_short(name),
        summary=find_environment(name).summary,
        rows=[(row, of.get(row.policy)) for row in rows],
        best=board.best.get(name),
        zero=zero_of(name),
        notes=board.notes.get(name, {}),
        film=None if film is None else base64.b64encode(film[1].read_bytes()).decode("ascii"),
        actor=None if film is None else film[0],
    )


def _short(name: str) -> str:
    return name.rpartition("/")[2]
