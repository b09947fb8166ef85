"""Training with several seeds: one agent says little of an algorithm, luck being what it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from edge_gym.agents.recipe import Recipe, parse_recipe
from edge_gym.agents.training.model import check_device
from edge_gym.agents.training.run import (
    BEST,
    CHECKPOINT,
    TrainingInterrupted,
    chosen_recipe,
    general_recipe_remark,
    train,
)
from edge_gym.core.registration import find_environment
from edge_gym.evaluation.rollouts import TaskProgress, make_lanes
from edge_gym.runtime.checks import check_integer
from edge_gym.runtime.files import prepare_folder, working_in, write_bytes
from edge_gym.runtime.workers import Run
from edge_gym.runtime.yaml import dump_yaml, load_yaml


@dataclass(frozen=True)
class Training:
    """One run, as a worker gets it: on another machine, perhaps.

    Attributes:
        environment: The environment's id.
        recipe: The recipe as YAML, its seed included.
        out: The run's folder. Where workers share it, a lost run is resumed, else begun again.
        overrides: Fields of the environment's configuration, as JSON.
        device: See ``train``.
    """

    environment: str
    recipe: str
    out: str
    overrides: str
    device: str


Trainer = Run[Training, dict[str, bytes]]
"""Does trainings; ``train_one`` in ``edge_gym.runtime.workers``."""


def train_one(task: Training) -> dict[str, bytes]:
    """Train, and return the files that a run leaves, but for its checkpoint and logs."""
    recipe = parse_recipe(load_yaml(task.recipe), "the recipe")
    out = Path(task.out)
    train(
        recipe.algorithm,
        task.environment,
        recipe=recipe,
        out=out,
        resume=True,
        overrides=json.loads(task.overrides),
        device=task.device,
        progress=False,
    )
    others = (path for path in sorted(out.iterdir()) if path.is_file() and path.name != CHECKPOINT)
    return {path.name: path.read_bytes() for path in others if not path.name.startswith(".")}


def train_seeds(
    algorithm: str,
    env_id: str,
    number: int,
    *,
    run: Trainer,
    recipe: Recipe | str | PathLike[str] | None = None,
    steps: int | None = None,
    seed: int | None = None,
    out: str | PathLike[str],
    resume: bool = False,
    overrides: Mapping[str, Any] | None = None,
    device: str = "cpu",
    progress: TaskProgress | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[int, Path]:
    """Train agents that differ by their seed alone.

    Args:
        algorithm: As for ``train``, like all that is not named here.
        env_id: The environment.
        number: Of seeds: the recipe's, and those that follow it.
        run: What does the trainings.
        recipe: See ``train``.
        steps: See ``train``.
        seed: The first seed, instead of the recipe's.
        out: Folder of the runs, each in its own, ``seed-0``, ``seed-1``, ...
        resume: Go on with what is there; finished runs are not repeated.
        overrides: See ``train``.
        device: See ``train``; one for all.
        progress: Told how many of the runs are done.
        report: Told what became of each.

    Returns:
        The best agent's file of each seed.

    Raises:
        ValueError: If the recipe or a value is bad.
        FileExistsError: If there are runs already and ``resume`` is false.
        FolderInUseError: If another process trains in ``out``.
        TrainingInterrupted: After Ctrl-C; trainings save a checkpoint as they stop.
    """
    check_integer("seeds", number, 1)
    row = find_environment(env_id)
    remark = general_recipe_remark(algorithm, row) if recipe is None else None
    if remark is not None and report is not None:
        report(remark)
    first = chosen_recipe(algorithm, row, recipe, steps, seed)
    check_device(device)
    make_lanes(row.id, 1, overrides)  # raises what is wrong with them before anything is begun
    folders = {first.seed + i: Path(out) / f"seed-{first.seed + i}" for i in range(number)}
    settings = json.dumps(dict(overrides or {}))
    tasks: dict[Training, int] = {}
    for number_of_seed, folder in folders.items():
        text = dump_yaml(replace(first, seed=number_of_seed).as_mapping())
        task = Training(row.id, text, str(folder.resolve()), settings, device)
        tasks[task] = number_of_seed
    best: dict[int, Path] = {}
    with working_in(prepare_folder(out)):
        begun = [folder for folder in folders.values() if (folder / CHECKPOINT).exists()]
        if begun and not resume:
            raise FileExistsError(
                f"{begun[0]} holds a run already: resume, or choose another folder"
            )
        try:
            for task, files in run(list(tasks)):
                folder = prepare_folder(folders[tasks[task]])
                _keep(folder, files)
                best[tasks[task]] = folder / BEST
                if progress is not None:
                    progress(f"{algorithm} on {row.name}", len(best), number)
                if report is not None:
                    report(f"seed {tasks[task]} is trained: {folder / BEST}")
        except KeyboardInterrupt:
            raise TrainingInterrupted(
                f"stopped, {len(best)} of {number} agents are trained; to go on, train again with "
                f"--resume and the same folder {out}"
            ) from None
    return dict(sorted(best.items()))


def _keep(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write what came from another machine; on this one it is there already."""
    for name, content in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            write_bytes(path, content)
