"""What a search for a recipe has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_gym.agents.recipe import Recipe


@dataclass(frozen=True)
class Trial:
    """A recipe that was tried.

    Attributes:
        number: Its number in the study.
        parameters: What was searched, see ``search_space``.
        score: Mean return at the end of its training, on the tuning seeds; None if it was cut off.
        error: Why it could not be trained; None if it could.
    """

    number: int
    parameters: Mapping[str, Any]
    score: float | None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search has found so far.

    Attributes:
        algorithm: Name of a registered algorithm, such as ``"ppo"`` or ``"dqn"``.
        environment: The environment's name.
        steps: Environment steps of each training run.
        training_seeds: Seeds of each trial's training runs, as ``Recipe.seed``.
        tuning_seeds: Seeds of the episodes that trials are scored on.
        trials: All that ended, the best first, those that were cut off last.
        base: The recipe that the search began from; None while another process is at it.
        best: The best trial; None if none has ended. Its score is the largest of several noisy
            ones, so it is too good: evaluate an agent trained by the recipe.
        recipe: The best trial's recipe, with the base recipe's steps and seed.
        written: The recipe's file.
    """

    algorithm: str
    environment: str
    steps: int
    training_seeds: range
    tuning_seeds: range
    trials: tuple[Trial, ...]
    base: Trial | None = None
    best: Trial | None = None
    recipe: Recipe | None = None
    written: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "algorithm": self.algorithm,
            "environment": self.environment,
            "steps": self.steps,
            "training_seeds": [self.training_seeds[0], self.training_seeds[-1]],
            "tuning_seeds": [self.tuning_seeds[0], self.tuning_seeds[-1]],
            "trials": [
                {
                    "number": trial.number,
                    "score": trial.score,
                    "parameters": dict(trial.parameters),
                    "error": trial.error,
                }
                for trial in self.trials
            ],
            "base": self.base and self.base.number,
            "best": self.best and self.best.number,
            "recipe": self.recipe and self.recipe.as_mapping(),
        }
