"""The search for a recipe: Optuna proposes, training by the proposal and tuning seeds judge.

A search's folder holds ``study.log`` (Optuna's journal: all that a search needs to go on, and that
``optuna-dashboard`` shows), ``trials/N/seed-S`` (the recipe and curve of each training run of
trial N; what else a run leaves is removed as its trial ends) and ``best.yaml``. The same call goes
on where a search was stopped: trials that ended are kept, and the one that was running counts as
failed and is done anew. What is proposed follows from the study's seed, the trial's place among
those that count and the trials that ended before, so that one process finds the same however often
it is stopped. Several processes may work on one study, in a folder that they share and that has
file locks: each takes the next trial, and what one that is gone was at falls to the others.

Episodes are disjoint: a trial learns from ``TRAINING`` with seeds that shipped agents do not use,
is scored on the first of ``TUNING``, and neither ``SELECTION`` nor ``EVALUATION`` is looked at.
"""

from __future__ import annotations

import itertools
import math
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from edge_gym.agents.recipe import Evaluation, Recipe
from edge_gym.agents.training.journal import mend, quiet_optuna
from edge_gym.agents.training.run import (
    TrainingInterrupted,
    chosen_recipe,
    general_recipe_remark,
    train,
)
from edge_gym.agents.training.search_results import Search, Trial
from edge_gym.agents.training.search_space import (
    Space,
    network_kind,
    parameters_of,
    search_space,
    with_parameters,
)
from edge_gym.core.registration import EnvironmentSpec, find_environment
from edge_gym.evaluation.rollouts import TaskProgress
from edge_gym.evaluation.seeds import TUNING
from edge_gym.runtime.checks import check_integer
from edge_gym.runtime.files import prepare_folder, write_text
from edge_gym.runtime.messages import shown
from edge_gym.runtime.optional import missing_extra
from edge_gym.runtime.plain import plain
from edge_gym.runtime.yaml import dump_yaml
from edge_gym.version import __version__

try:
    import optuna
    from optuna.distributions import distribution_to_json
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    from optuna.trial import FrozenTrial, TrialState
except ImportError as error:
    raise missing_extra("searching recipes needs Optuna", "agents", error) from error

FIRST_SEED = 1_000
"""Seed of a trial's first training run; the others follow it. Shipped agents have smaller ones."""

EVALUATIONS = 5
"""Evaluations of each training run, the last one at its end."""

_PLACE = "place"  # the name of a trial's attribute, see _Study._begin
_UNPRUNED, _SPARED = 5, 2  # trials before any is cut off; evaluations before one can be
_SHOWN = 4  # differences that a message names
_KEPT = ("recipe.yaml", "progress.csv")
_STUDY = "recipe"


class SearchInterrupted(KeyboardInterrupt):
    """Ctrl-C: the study is as usable as before, and the message says how to go on."""


def search_recipe(
    algorithm: str,
    env_id: str,
    *,
    trials: int = 20,
    steps: int | None = None,
    episodes: int = 128,
    seeds: int = 1,
    recipe: Recipe | str | PathLike[str] | None = None,
    out: str | PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    progress: TaskProgress | None = None,
    report: Callable[[str], None] | None = None,
) -> Search:
    """Search a better recipe around one; goes on where an earlier search was stopped.

    The first trial is the base recipe itself, the others are proposed by a seeded
    tree-structured Parzen estimator. A trial's value is the mean return of the *last* evaluation
    of its training, averaged over the training seeds: the best of several evaluations would
    favour recipes whose agents change much from one to the next. Trials that are worse than the
    median of the others at the same evaluation are cut off, and so are those whose training
    diverges.

    Args:
        algorithm: Name of a registered algorithm, such as ``"ppo"`` or ``"dqn"``.
        env_id: The environment, with or without ``edge_gym/``.
        trials: Their number, those of earlier searches in ``out`` and of other processes included.
        steps: Environment steps of each training run; the recipe's if not given. A linear
            ``learning_rate_schedule`` ends with them.
        episodes: Episodes of each evaluation.
        seeds: Training runs of each trial.
        recipe: A recipe or the path of one to begin from; by default the packaged one.
        out: The search's folder.
        overrides: Fields of the environment's configuration, in training and in evaluation.
        progress: Told how many trials have ended, and how many evaluations of the present one.
        report: Told how every trial came out.

    Raises:
        ValueError: If the recipe or a value is bad, the actions do not suit the algorithm, the
            study in ``out`` was begun with other settings, or it is damaged.
        TypeError: If a field of the environment is unknown.
        OSError: If the folder cannot be written to.
        edge_gym.data.DataError: If data are missing.
        SearchInterrupted: After Ctrl-C.
    """
    row = find_environment(env_id)
    remark = general_recipe_remark(algorithm, row) if recipe is None else None
    if remark is not None and report is not None:
        report(remark)
    recipe = chosen_recipe(algorithm, row, recipe)
    steps = recipe.steps if steps is None else steps
    check_integer("trials", trials, 1)
    check_integer("steps", steps, EVALUATIONS)
    check_integer("episodes", episodes, 2, len(TUNING))
    check_integer("seeds", seeds, 1, 100)
    run = _Study(
        row,
        recipe,
        trials,
        steps,
        TUNING[:episodes],
        range(FIRST_SEED, FIRST_SEED + seeds),
        Path(out),
        plain(dict(overrides or {})),
        progress or (lambda *_: None),
        report or (lambda _: None),
    )
    with quiet_optuna():
        try:
            return run.finish()
        except KeyboardInterrupt as error:
            raise SearchInterrupted(
                f"stopped; to go on, search again with the same settings and folder {out}"
            ) from error


@dataclass
class _Study:
    """A study and its folder.

    Whatever begins or ends a trial holds the lock of the folder, so that processes agree on who
    does what. The one that runs a trial holds that trial's lock, and lets go of it when it is
    gone, however that came about.
    """

    row: EnvironmentSpec
    base: Recipe
    trials: int
    steps: int
    tuning: range
    seeds: range
    out: Path
    overrides: dict[str, Any]
    progress: TaskProgress
    report: Callable[[str], None]
    space: Space = field(init=False)
    study: optuna.Study = field(init=False)
    lock: FileLock = field(init=False)
    stopped: bool = False

    def __post_init__(self) -> None:
        self.space = search_space(self.base, **network_kind(self.base, self.row, self.overrides))

    def finish(self) -> Search:
        """Run the trials that are left and return what all have found."""
        prepare_folder(self.out / "trials")
        self.lock = FileLock(self.out / "search.lock")
        with self.lock:
            self.study = self._open()
        ended = self._ended()
        for trial in ended:
            self._tidy(trial.number)  # whoever was killed as it did so
        if ended:
            self.report(f"{len(ended)} of {self.trials} trials had ended before")
        while (begun := self._begin()) is not None:
            self._run(*begun)
        with self.lock:
            return self._found()

    def _open(self) -> optuna.Study:
        path = self.out / "study.log"
        lock = JournalFileOpenLock(str(path))
        mend(path, lock)
        try:
            study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(path), lock)),
                study_name=_STUDY,
                direction="maximize",
                pruner=optuna.pruners.MedianPruner(
                    n_startup_trials=_UNPRUNED, n_warmup_steps=_SPARED
                ),
                load_if_exists=True,
            )
            begun = study.user_attrs.get("settings")
            if begun is not None and not isinstance(begun, dict):
                raise ValueError("its settings are no mapping")
            trials = study.get_trials(deepcopy=False)
        except OSError:
            raise
        # Optuna asserts what its journal holds, and fails as it happens where that is otherwise.
        except Exception as error:
            raise ValueError(
                f"{path} is damaged or no study of Optuna ({shown(error)}): choose another folder"
            ) from error
        settings = self._settings()
        if begun is None:
            study.set_user_attr("settings", settings)
        elif begun != settings:
            before, now = dict(_flat(begun)), dict(_flat(settings))
            differences = [
                f"{name} was {shown(before.get(name))}, now it is {shown(now.get(name))}"
                for name in {**before, **now}
                if before.get(name) != now.get(name)
            ]
            more = [f"and {len(differences) - _SHOWN} more"] * (len(differences) > _SHOWN)
            raise ValueError(
                f"the study in {self.out} was begun with other settings: "
                f"{'; '.join(differences[:_SHOWN] + more)}. "
                "Go on with the same, or choose another folder"
            )
        if not trials:
            base = parameters_of(self.base, self.space)
            study.enqueue_trial(base, {"base": True, _PLACE: 0})
        return study

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = plain(
            {
                "algorithm": self.base.algorithm,
                "environment": self.row.name,
                "version": __version__,
                "steps": self.steps,
                "episodes": len(self.tuning),
                "seeds": len(self.seeds),
                "overrides": self.overrides,
                "recipe": self.base.as_mapping(),
                "space": {name: distribution_to_json(d) for name, d in self.space.items()},
            }
        )
        return settings

    def _ended(self) -> list[FrozenTrial]:
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        return self.study.get_trials(deepcopy=False, states=states)

    def _begin(self) -> tuple[optuna.Trial, FileLock] | None:
        """Return the next trial and its lock, held; None if there are enough."""
        with self.lock:
            for number in self._make_up():
                self.report(f"trial {number} was stopped before its end: it is done anew")
            ended = len(self._ended())
            self.progress("trials", min(ended, self.trials), self.trials)
            running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if ended + len(running) >= self.trials:
                for trial in running:
                    self.report(f"trial {trial.number} is still running elsewhere")
                return None
            place = self._next_place()
            seed = int(np.random.SeedSequence([self.base.seed, place]).generate_state(1)[0])
            self.study.sampler = optuna.samplers.TPESampler(seed=seed)
            begun = self.study.ask(self.space)
            begun.set_user_attr(_PLACE, place)
            held = FileLock(self._lock_of(begun.number))
            held.acquire()
            return begun, held

    def _next_place(self) -> int:
        """Return the place of the next trial: that of one to be done anew, else the first free."""
        states = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
        counted = self.study.get_trials(deepcopy=False, states=states)
        # Optuna takes those that wait in their order.
        waiting = [t for t in counted if t.state == TrialState.WAITING]
        if waiting:
            return int(waiting[0].user_attrs.get(_PLACE, waiting[0].number))
        taken = {trial.user_attrs.get(_PLACE, trial.number) for trial in counted}
        return next(place for place in itertools.count() if place not in taken)

    def _make_up(self) -> list[int]:
        """Fail the trials whose process is gone, have them done anew, and return their numbers."""
        failed = []
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            held = FileLock(self._lock_of(trial.number))
            try:
                held.acquire(blocking=False)
            except Timeout:
                continue
            known = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            # In this order: should this process be killed here too, nothing is lost. One that was
            # killed before its proposal was complete, or had a place, counts as never begun.
            placed = {_PLACE, "base"} & trial.user_attrs.keys()
            if placed and known.keys() >= self.space.keys():
                self._enqueue_again(known, trial.user_attrs)
            self.study.tell(trial.number, state=TrialState.FAIL)
            shutil.rmtree(self._folder_of(trial.number), ignore_errors=True)
            self._let_go(trial.number, held)
            failed.append(trial.number)
        return failed

    def _enqueue_again(self, known: dict[str, Any], attributes: dict[str, Any]) -> None:
        """Have a trial done anew, unless a process was killed just as it had seen to that."""
        states = (TrialState.WAITING,)
        waiting = self.study.get_trials(deepcopy=False, states=states)
        if all(trial.user_attrs.get(_PLACE) != attributes.get(_PLACE) for trial in waiting):
            self.study.enqueue_trial(known, attributes)

    def _run(self, trial: optuna.Trial, held: FileLock) -> None:
        label = f"trial {trial.number}"
        state, score = TrialState.PRUNED, None
        try:
            score = self._score(trial)
            state = TrialState.COMPLETE
            self.report(f"{label}: mean return {score:.4f}")
        except optuna.TrialPruned:
            self.report(f"{label}: cut off, it was below the median")
        except BaseException as error:
            if not isinstance(error, ValueError) or "base" in trial.user_attrs:
                held.release()
                with self.lock:
                    self._make_up()
                raise
            # Of proposals some diverge. Cut off, and not failed, tells the sampler to keep away.
            trial.set_user_attr("error", str(error))
            self.report(f"{label}: cut off, its training failed ({error})")
        with self.lock:
            self.study.tell(trial, score, state)
            self._tidy(trial.number)
            self._let_go(trial.number, held)
        if self.stopped:
            raise KeyboardInterrupt

    def _tidy(self, number: int) -> None:
        """Remove what a trial that ended leaves but for its recipes and curves."""
        for run in self._folder_of(number).glob("*"):
            for path in run.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif path.name not in _KEPT:
                    path.unlink()

    def _let_go(self, number: int, held: FileLock) -> None:
        held.release()
        self._lock_of(number).unlink(missing_ok=True)

    def _score(self, trial: optuna.Trial) -> float:
        """Train by a trial's recipe and return its value."""
        recipe = replace(
            with_parameters(self.base, trial.params),
            steps=self.steps,
            checkpoint_every=self.steps,
            evaluation=Evaluation(
                every=-(-self.steps // EVALUATIONS),
                episodes=len(self.tuning),
                lanes=self.base.evaluation.lanes,
            ),
        )
        last: list[float] = []
        # Left over from a study that somebody has deleted.
        shutil.rmtree(self._folder_of(trial.number), ignore_errors=True)
        self.progress("evaluations of this trial", 0, EVALUATIONS * len(self.seeds))
        for seed in self.seeds:
            evaluations = _Evaluations(self, trial, recipe, len(last))
            try:
                train(
                    recipe.algorithm,
                    self.row.id,
                    recipe=recipe,
                    seed=seed,
                    out=self._folder_of(trial.number) / f"seed-{seed}",
                    overrides=self.overrides,
                    progress=False,
                    selection=self.tuning,
                    report=evaluations.take,
                )
            except TrainingInterrupted as stopped:
                if stopped.best is None or seed != self.seeds[-1]:
                    raise
                # It came as the trial was about to end: that is kept, and no other is begun.
                self.stopped = True
            last.append(evaluations.last)
        return sum(last) / len(last)

    def _folder_of(self, number: int) -> Path:
        return self.out / "trials" / str(number)

    def _lock_of(self, number: int) -> Path:
        return self.out / "trials" / f"{number}.lock"

    def _found(self) -> Search:
        ended = [(trial, self._as_trial(trial)) for trial in self._ended()]
        ranked = sorted(
            (t for _, t in ended), key=lambda t: math.inf if t.score is None else -t.score
        )
        found = Search(
            algorithm=self.base.algorithm,
            environment=self.row.name,
            steps=self.steps,
            training_seeds=self.seeds,
            tuning_seeds=self.tuning,
            trials=tuple(ranked),
            base=next((ours for theirs, ours in ended if "base" in theirs.user_attrs), None),
        )
        if not ranked or ranked[0].score is None:
            return found
        best = ranked[0]
        recipe, path = with_parameters(self.base, best.parameters), self.out / "best.yaml"
        content = dump_yaml(recipe.as_mapping())
        write_text(path, self._origin(found, best) + content)
        return replace(found, best=best, recipe=recipe, written=path)

    def _as_trial(self, trial: FrozenTrial) -> Trial:
        score = trial.value if trial.state == TrialState.COMPLETE else None
        recipe = with_parameters(self.base, trial.params)
        error = trial.user_attrs.get("error")
        return Trial(trial.number, parameters_of(recipe, self.space), score, error)

    def _origin(self, found: Search, best: Trial) -> str:
        """Return the comment at the head of the best recipe."""
        cut_off = sum(trial.score is None for trial in found.trials)
        settings = "".join(f", {name}={value}" for name, value in self.overrides.items())
        base = found.base
        beside = (
            "" if base is None or base.score is None else f", the base recipe's {base.score:.4g}"
        )
        text = (
            f"Found by edge-gym search {self.base.algorithm} {self.row.name}: trial {best.number} "
            f"of {len(found.trials)} ({cut_off} cut off) in the study {self.out / 'study.log'}, of "
            f"{self.steps} steps each{settings}; mean return {best.score:.4g}{beside}, on tuning "
            f"seeds {self.tuning[0]} to {self.tuning[-1]}. Trials trained with seed "
            f"{', '.join(map(str, self.seeds))}; selection and evaluation seeds were not used."
        )
        prefix = "# "
        return textwrap.fill(text, 100, initial_indent=prefix, subsequent_indent=prefix) + "\n"


class _Evaluations:
    """Takes note of a training run's evaluations, and cuts it off."""

    def __init__(self, run: _Study, trial: optuna.Trial, recipe: Recipe, before: int) -> None:
        self.run, self.trial, self.recipe = run, trial, recipe
        self.before, self.last = before * EVALUATIONS, math.nan

    def take(self, steps: int, mean_return: float) -> None:
        """Tell the study.

        Raises:
            ValueError: If the return is no number.
            optuna.TrialPruned: If the trial is not worth going on with.
        """
        if not math.isfinite(mean_return):
            raise ValueError(f"the mean return is {mean_return}")
        self.last = mean_return
        # Rollouts differ in length, so steps do too: trials are compared after equal shares.
        at_end = steps >= self.recipe.steps
        number = EVALUATIONS if at_end else steps // self.recipe.evaluation.every
        total = EVALUATIONS * len(self.run.seeds)
        number += self.before
        self.run.progress("evaluations of this trial", number, total)
        self.trial.report(mean_return, number)
        if number < total and "base" not in self.trial.user_attrs and self.trial.should_prune():
            raise optuna.TrialPruned


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
