"""The leaderboard as one page, with a film of an episode in each environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edge_gym.evaluation.leaderboard import PAGE, Leaderboard
from edge_gym.evaluation.ranking import first_that
from edge_gym.evaluation.rollouts import TaskProgress
from edge_gym.evaluation.sweep import Chunk, folder_name, identity
from edge_gym.reports.films import DRAW_HERE, Film
from edge_gym.reports.html import write_page
from edge_gym.runtime.files import file_stem, prepare_folder, write_bytes
from edge_gym.runtime.workers import Run

FILMS = "films"
PICTURES = 10
"""Pictures of an episode's film, about."""


def write_leaderboard_page(
    board: Leaderboard,
    folder: Path,
    lengths: Mapping[tuple[str, str], int],
    draw: Run[Film, bytes] | None = None,
    progress: TaskProgress | None = None,
) -> Path:
    """Write the page and the films; what is there already is not drawn again.

    Args:
        board: What it shows.
        folder: Where to.
        lengths: Steps of the first episode, by environment and policy.
        draw: What draws the films: ``DRAW_HERE``, or ``films.draw`` elsewhere, see
            ``runtime.workers``.
        progress: Told how many films are drawn.

    Raises:
        ImportError: If Jinja2, matplotlib or Pillow is missing.
        OSError: If the folder cannot be written to.
    """
    films = _films(board, prepare_folder(folder / FILMS), lengths, draw or DRAW_HERE, progress)
    write_page(board, folder / PAGE, films)
    return folder / PAGE


def _films(
    board: Leaderboard,
    folder: Path,
    lengths: Mapping[tuple[str, str], int],
    draw: Run[Film, bytes],
    progress: TaskProgress | None,
) -> dict[str, tuple[str, Path]]:
    """Draw each environment's first episode, in which its best agent acts, or its best rule."""
    paths: dict[Film, Path] = {}
    for name, rows in board.by_environment().items():
        learned = first_that(rows, lambda row: row.kind == "learned")
        actor = rows[0].policy if learned is None else learned.policy
        film = Film(name, actor, board.seeds[0], -(-lengths[name, actor] // PICTURES), 2.0)
        # Named by all that the episode depends on: that of another agent is another film.
        title = f"{folder_name(name)}-{actor}-{film.seed}"
        paths[film] = folder / f"{file_stem(title, identity(Chunk(name, actor, film.seed, 1)))}.gif"
    missing = [film for film, path in paths.items() if not path.exists()]
    done = len(paths) - len(missing)
    for film, drawn in draw(missing):
        write_bytes(paths[film], drawn)
        done += 1
        if progress is not None:
            progress("films", done, len(paths))
    return {film.environment: (film.policy, path) for film, path in paths.items()}
