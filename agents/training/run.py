"""Training by recipe, with checkpoints that survive a kill at any moment.

A run's folder holds ``recipe.yaml``, ``progress.csv`` (one row per evaluation),
``best.safetensors`` and ``last.safetensors`` (agents, the best with the run's curve in its header),
``checkpoint.safetensors`` (all that a resumed run needs) and ``tensorboard/``. Everything but the
logs is replaced whole. Checkpoints are taken between rollouts, where nothing is half done, so a
resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import csv
import io
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from types import FrameType
from typing import Any, cast

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from edge_gym.agents.algorithms.base import ALGORITHMS
from edge_gym.agents.archive import AgentError, read_tensors, write_tensors
from edge_gym.agents.packing import pack, unpack
from edge_gym.agents.recipe import Recipe, find_recipe, has_recipe, load_recipe, parse_recipe
from edge_gym.agents.record import state
from edge_gym.agents.store import load_agent, save_agent
from edge_gym.agents.training.checkpoint import model_state, set_model_state
from edge_gym.agents.training.imitation import imitate
from edge_gym.agents.training.model import adapted, check_device, make_model
from edge_gym.core.registration import EnvironmentSpec, find_environment
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.evaluation import seeds
from edge_gym.evaluation.rollouts import (
    config_changes,
    even_lanes,
    make_lanes,
    own_config,
    run_episodes,
)
from edge_gym.integrations.sb3 import LaneVecEnv
from edge_gym.integrations.sb3_imports import (
    BaseCallback,
    Logger,
    SummaryWriter,
    TensorBoardOutputFormat,
)
from edge_gym.runtime.files import prepare_folder, working_in, write_text
from edge_gym.runtime.isolation import isolated
from edge_gym.runtime.messages import shown
from edge_gym.runtime.plain import plain
from edge_gym.runtime.workers import is_worker
from edge_gym.runtime.yaml import dump_yaml

BEST, CHECKPOINT = "best.safetensors", "checkpoint.safetensors"
_FORMAT = "edge_gym checkpoint 1"


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C: a checkpoint was saved, and the message says how to go on.

    Attributes:
        best: The best agent's file where the training had come to its end already, else None.
    """

    def __init__(self, message: str = "", best: Path | None = None) -> None:
        super().__init__(message)
        self.best = best


@dataclass(frozen=True)
class _Score:
    """One row of ``progress.csv``.

    Attributes:
        steps: Environment steps trained.
        mean_return: Mean return of the evaluation's episodes.
        ci95_low: Lower end of its 95 % interval.
        ci95_high: Upper end.
        training_return: Mean return of the latest training episodes; NaN before the first.
        seconds: What the run has taken so far, evaluations included, resumed parts added up.
    """

    steps: int
    mean_return: float
    ci95_low: float
    ci95_high: float
    training_return: float
    seconds: float


Report = Callable[[int, float], None]
"""Told steps and mean return after every evaluation; what it raises ends the training."""


def train(
    algorithm: str,
    env_id: str,
    *,
    recipe: Recipe | str | PathLike[str] | None = None,
    steps: int | None = None,
    seed: int | None = None,
    out: str | PathLike[str],
    resume: bool = False,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = True,
    selection: range = seeds.SELECTION,
    report: Report | None = None,
    device: str = "cpu",
) -> Path:
    """Train an agent.

    Args:
        algorithm: Name of a registered algorithm, such as ``"ppo"`` or ``"dqn"``.
        env_id: The environment, with or without ``edge_gym/``.
        recipe: A recipe or the path of one; by default the packaged one for this environment.
        steps: Instead of the recipe's number of steps.
        seed: Instead of the recipe's seed.
        out: The run's folder.
        resume: Go on from the checkpoint in ``out``; without one, begin.
        overrides: Fields of the environment's configuration, in training and in evaluation.
        progress: Whether to show a progress bar and messages on standard error.
        selection: Seeds of which the evaluations take the first.
        report: Told how every evaluation came out.
        device: Where the agent is trained, ``"cpu"`` or ``"cuda"``, and the environment's models,
            if these can be there; observations are all that goes back and forth.

    Returns:
        The file of the agent with the best score on the selection seeds; ``load_agent`` reads it.

    Raises:
        ValueError: If the recipe or a value is bad, the actions do not suit the algorithm, there is
            no such device, or a resumed run was begun with other settings.
        FileExistsError: If ``out`` holds a run already and ``resume`` is false.
        FolderInUseError: If another process trains in ``out``.
        AgentError: If the checkpoint is damaged.
        TrainingInterrupted: After Ctrl-C, once a checkpoint is saved; or once the training has
            come to its end, if it was about to.
    """
    row = find_environment(env_id)
    remark = general_recipe_remark(algorithm, row) if recipe is None else None
    recipe = chosen_recipe(algorithm, row, recipe, steps, seed)
    with isolated():
        run = _Run(row.id, recipe, Path(out), overrides or {}, progress, selection, report, device)
        if remark is not None:
            run.console.print(remark)
        with working_in(prepare_folder(out)):
            return run.finish(resume)


def chosen_recipe(
    algorithm: str,
    environment: EnvironmentSpec,
    recipe: Recipe | str | PathLike[str] | None,
    steps: int | None = None,
    seed: int | None = None,
) -> Recipe:
    """Return the recipe that arguments of ``train`` mean.

    Raises:
        ValueError: If it is bad, or for another algorithm or environment.
    """
    if recipe is None:
        recipe = find_recipe(algorithm, environment.id)
    elif not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    if recipe.algorithm != algorithm:
        raise ValueError(f"the recipe is for {recipe.algorithm}, not for {algorithm}")
    if recipe.environment not in (None, environment.id, environment.name):
        raise ValueError(f"the recipe is for {recipe.environment}, not for {environment.name}")
    changes: dict[str, Any] = {"environment": environment.name, "steps": steps, "seed": seed}
    return replace(recipe, **{k: v for k, v in changes.items() if v is not None})


def general_recipe_remark(algorithm: str, environment: EnvironmentSpec) -> str | None:
    """Return what to say where an environment has no recipe of its own, else None."""
    if has_recipe(algorithm, environment.id):
        return None
    return f"{environment.name} has no recipe for {algorithm}: its general one is used"


class _Run:
    """One training run: the model, its environments and its folder."""

    def __init__(
        self,
        env_id: str,
        recipe: Recipe,
        out: Path,
        overrides: Mapping[str, Any],
        show: bool,
        selection: range = seeds.SELECTION,
        report: Report | None = None,
        device: str = "cpu",
    ) -> None:
        check_device(device)
        self.recipe, self.out, self.report = recipe, out, report
        self.selection = selection[: recipe.evaluation.episodes]
        self.console = Console(stderr=True, quiet=not show, soft_wrap=True)
        self.checkpoint = out / CHECKPOINT
        self.overrides = plain(dict(overrides))
        lanes = even_lanes(recipe.evaluation.episodes, recipe.evaluation.lanes)
        placed = {"compute_device": device} if hasattr(own_config(env_id), "compute_device") else {}
        self.evaluation_env = make_lanes(env_id, lanes, {**placed, **overrides})
        self.envs = [
            self._make_env(env_id, {**placed, **recipe.train_config, **variation, **overrides})
            for variation in recipe.variations or ({},)
        ]
        self.first_seed = seeds.TRAINING.start + recipe.seed * recipe.lanes % (
            len(seeds.TRAINING) - recipe.lanes
        )
        self.model = make_model(recipe, *self.envs, device=device)
        for env in self.envs:
            env.seed(self.first_seed)
        self.scores: list[_Score] = []
        self.saved_at = 0
        # As if the run had begun here without a break.
        self.begun = time.monotonic()

    def _make_env(self, env_id: str, config: Mapping[str, Any]) -> LaneVecEnv:
        env = gym.make_vec(
            env_id, num_envs=self.recipe.lanes, autoreset_mode="SameStep", config=dict(config)
        )
        return adapted(cast(EdgeVectorEnv, env), self.recipe)

    def finish(self, resume: bool) -> Path:
        """Train to the end and return the best agent's file."""
        if self.checkpoint.exists():
            if not resume:
                raise FileExistsError(
                    f"{self.out} holds a run already: resume it, or choose another folder"
                )
            self._restore()
            self.console.print(f"Going on from step {self.model.num_timesteps:,} of {self.out}")
        elif resume:
            self.console.print(f"No checkpoint in {self.out} yet: beginning")
        write_text(self.out / "recipe.yaml", dump_yaml(self.recipe.as_mapping()))
        self._log_to_tensorboard()
        remaining = self.recipe.steps - self.model.num_timesteps
        with _deferred_interrupt() as interrupted:
            try:
                if remaining > 0:
                    every = self.recipe.evaluation.every
                    self.console.print(f"{remaining:,} steps, an evaluation every {every:,}")
                    self._learn(remaining, interrupted)
            finally:
                self.model.logger.close()
            self._tell_curve()
        best = self.out / BEST
        if interrupted.is_set():
            raise TrainingInterrupted(f"stopped at the end: the agent is trained, {best}", best)
        self.console.print(
            f"Best mean return {max(score.mean_return for score in self.scores):.4f} on the "
            f"selection seeds: {best}"
        )
        return best

    def _learn(self, steps: int, interrupted: threading.Event) -> None:
        with self._bar() as advance:
            begun = self.model.num_timesteps > 0
            if (first := self.recipe.imitation) is not None and not begun:
                name = first.policy["name"]
                self.console.print(f"first {name} is imitated, by {first.episodes} episodes")
                imitate(self.model, self.envs, first, self.recipe.algorithm)
            callback = _BetweenRollouts(self, advance, interrupted)
            self.model.learn(steps, callback, reset_num_timesteps=not begun)
            self.between_rollouts(last=True)

    def between_rollouts(self, last: bool = False, interrupted: bool = False) -> None:
        """Evaluate and save, where that is due."""
        now = self.model.num_timesteps
        evaluated = self.scores[-1].steps if self.scores else 0
        every = self.recipe.evaluation.every
        evaluating = (last or now // every > evaluated // every) and now > evaluated
        if evaluating:
            self._evaluate()
        every = self.recipe.checkpoint_every
        due = evaluating or interrupted or now // every > self.saved_at // every
        # At the very start there is nothing to keep: a resumed run begins again.
        if due and now > 0:
            self._save()
        if interrupted:
            raise TrainingInterrupted(
                f"stopped at step {now:,}; to go on, train again with --resume and the same "
                f"folder {self.out}"
            )

    def _evaluate(self) -> None:
        model = self.model
        last = self._save_agent("last", {})
        policy = load_agent(last, self.evaluation_env)
        episodes = run_episodes(self.evaluation_env, policy, self.selection)
        statement = state(episodes, self.selection)
        low, high = statement["ci95"]
        recent = [episode["r"] for episode in model.ep_info_buffer or ()]
        score = _Score(
            model.num_timesteps,
            statement["mean_return"],
            low,
            high,
            float(np.mean(recent)) if recent else float("nan"),
            round(time.monotonic() - self.begun, 1),
        )
        best = max((earlier.mean_return for earlier in self.scores), default=-np.inf)
        self.scores.append(score)
        facts = {"evaluation": statement}
        self._save_agent("last", facts)
        if score.mean_return > best:
            self._save_agent("best", facts)
        self._write_progress()
        self.console.print(
            f"step {score.steps:>10,}   selection return {score.mean_return:.4f} "
            f"[{score.ci95_low:.4f}, {score.ci95_high:.4f}]"
        )
        model.logger.record("selection/mean_return", score.mean_return)
        model.logger.dump(model.num_timesteps)
        if self.report is not None:
            self.report(score.steps, score.mean_return)

    def _save_agent(self, name: str, facts: Mapping[str, Any]) -> Path:
        return save_agent(
            self.model,
            self.out / f"{name}.safetensors",
            {
                "algorithm": self.recipe.algorithm,
                "recipe": self.recipe.as_mapping(),
                "decoder": plain(self.recipe.network.decoder),
                "overrides": self.overrides,
                "config": config_changes(self.evaluation_env.config),
                "training_seeds": [self.first_seed, self.first_seed + self.recipe.lanes - 1],
                **facts,
            },
        )

    def _tell_curve(self) -> None:
        """Write all evaluations of the run into the best agent's header."""
        path = self.out / BEST
        arrays, header = read_tensors(path, "agent")
        curve = [asdict(score) for score in self.scores]
        for point in curve:
            if not np.isfinite(point["training_return"]):
                point["training_return"] = None
        write_tensors(path, arrays, {**header, "curve": curve})

    def _write_progress(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(_Score.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(score) for score in self.scores)
        write_text(self.out / "progress.csv", text.getvalue())

    def _save(self) -> None:
        self.saved_at = self.model.num_timesteps
        arrays, state = pack(
            {
                "model": model_state(self.model, ALGORITHMS.find(self.recipe.algorithm)),
                "envs": [env.get_state() for env in self.envs],
                "scores": [asdict(score) for score in self.scores],
            }
        )
        header = {
            "format": _FORMAT,
            "recipe": self.recipe.as_mapping(),
            "overrides": self.overrides,
            "seconds": time.monotonic() - self.begun,
            "state": state,
        }
        write_tensors(self.checkpoint, arrays, header)

    def _restore(self) -> None:
        arrays, header = read_tensors(self.checkpoint, "checkpoint")
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            raise AgentError(f"{self.checkpoint} is no checkpoint of this version of edge_gym")
        try:
            self._check_same_run(header)
            state = unpack(arrays, header["state"])
            seconds = float(header["seconds"])
            for env, env_state in zip(self.envs, state["envs"], strict=True):
                env.set_state(env_state)
            algorithm = ALGORITHMS.find(self.recipe.algorithm)
            set_model_state(self.model, algorithm, state["model"])
            self.scores = [_Score(**score) for score in state["scores"]]
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise AgentError(
                f"{self.checkpoint} does not fit this version of edge_gym ({shown(error)}): "
                "train anew in another folder"
            ) from error
        self.saved_at = self.model.num_timesteps
        self.begun = time.monotonic() - seconds

    def _check_same_run(self, header: Mapping[str, Any]) -> None:
        now = {**self.recipe.as_mapping(), "overrides": self.overrides}
        # What a recipe of an earlier version did not name has its default.
        recipe = parse_recipe(header["recipe"], str(self.checkpoint))
        begun = {**recipe.as_mapping(), "overrides": header["overrides"]}
        # The number of steps may be another one: to train for longer.
        differences = [
            f"{name} was {shown(begun.get(name))}, now it is {shown(value)}"
            for name, value in now.items()
            if name != "steps" and begun.get(name) != value
        ]
        if differences:
            raise ValueError(
                f"{self.out} was begun with other settings: {'; '.join(differences)}. "
                "Resume it with the same, or choose another folder"
            )

    def _log_to_tensorboard(self) -> None:
        folder = str(self.out / "tensorboard")
        output = _TensorBoard(folder, self.model.num_timesteps)
        self.model.set_logger(Logger(folder, [output]))

    @contextlib.contextmanager
    def _bar(self) -> Iterator[Callable[[], None]]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console) as bar:
            name = f"{self.recipe.algorithm} on {self.recipe.environment}"
            task = bar.add_task(name, total=self.recipe.steps, completed=self.model.num_timesteps)
            total = self.recipe.steps
            yield lambda: bar.update(task, completed=min(self.model.num_timesteps, total))


class _TensorBoard(TensorBoardOutputFormat):
    """Logs that forget what a killed run wrote after its last checkpoint."""

    def __init__(self, folder: str, first_step: int) -> None:
        self.writer = SummaryWriter(folder, purge_step=first_step)
        self._is_closed = False


class _BetweenRollouts(BaseCallback):
    """Calls back where nothing is half done: before a rollout, after the training on the last."""

    def __init__(
        self, run: _Run, advance: Callable[[], None], interrupted: threading.Event
    ) -> None:
        super().__init__()
        self.run, self.advance, self.interrupted = run, advance, interrupted

    def _on_rollout_start(self) -> None:
        self.run.between_rollouts(interrupted=self.interrupted.is_set())

    def _on_step(self) -> bool:
        self.advance()
        return True


@contextlib.contextmanager
def _deferred_interrupt() -> Iterator[threading.Event]:
    """Let the first Ctrl-C set an event, so that a checkpoint can be taken; the second stops.

    In a worker it is the signal by which whoever began it ends it, see ``workers.in_processes``.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    worker = is_worker()
    number = signal.SIGTERM if worker else signal.SIGINT
    before = signal.getsignal(number)

    def note(number: int, frame: FrameType | None) -> None:
        event.set()
        if not worker:
            signal.signal(number, before)

    signal.signal(number, note)
    try:
        yield event
    finally:
        signal.signal(number, before)
