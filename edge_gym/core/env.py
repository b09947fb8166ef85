"""One lane of a problem as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from edge_gym.core.actions import validate_action
from edge_gym.core.config import make_config
from edge_gym.core.environment import (
    Copied,
    OfProblem,
    check_render_mode,
    lane_of,
    masks_of,
    problem_of,
    set_problem_state,
)
from edge_gym.core.problem import Problem
from edge_gym.core.scene import Window, draw, open_window
from edge_gym.core.state import check_parts
from edge_gym.runtime.checks import check_seed
from edge_gym.runtime.isolation import in_isolation
from edge_gym.typing import BoolArray, Info


class EdgeEnv(OfProblem, Copied, gym.Env[Any, Any]):
    """One lane of a problem as a Gymnasium environment.

    Args:
        config: The problem's configuration or a mapping of fields.
        problem: The ``Problem``'s class, or where it is, ``"module:Class"``; not needed where the
            environment's class states its ``problem_type``.
        preset: What the registered id fixes.
        render_mode: ``"rgb_array"``, ``"human"`` or None.
        **overrides: Single fields of the configuration.

    Raises:
        TypeError: If a field is unknown.
        ValueError: If a value is out of range.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array", "human"],
        "render_fps": 10,
    }

    @in_isolation
    def __init__(
        self,
        config: Any | None = None,
        *,
        problem: type[Problem] | str | None = None,
        preset: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
        **overrides: Any,
    ) -> None:
        check_render_mode(render_mode, self.metadata["render_modes"])
        problem_type = problem_of(self, problem)
        self.config = make_config(problem_type.config_type, config, preset, overrides)
        self.problem: Problem = problem_type(self.config, 1)
        self.render_mode = render_mode
        self.observation_space = self.problem.observation_space
        self.action_space = self.problem.action_space
        self._begun = False
        self._running = False
        self._window: Window | None = None

    @in_isolation
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Info]:
        """Begin a new episode; ``seed=None`` goes on with the generator at hand.

        Raises:
            ValueError: If the seed is no integer at least 0; nothing is changed then.
        """
        super().reset(seed=None if seed is None else check_seed("seed", seed))
        self.problem.generators[0] = self.np_random
        info = self.problem.begin_lanes(np.zeros(1, np.int64))
        self._begun = self._running = True
        self._show()
        return lane_of(self.problem.observe(), 0), _scalars(info)

    @in_isolation
    def step(self, action: Any) -> tuple[Any, float, bool, bool, Info]:
        """Take one step.

        Raises:
            ValueError: If the action is malformed.
            gymnasium.error.ResetNeeded: If no episode is running.
        """
        if not self._running:
            raise gym.error.ResetNeeded("no episode is running: call reset() first")
        lane = np.zeros(1, np.int64)
        step = self.problem.step_lanes(
            lane, validate_action(self.action_space, action, self.action_fill)
        )
        terminated, truncated = bool(step.terminated[0]), bool(step.truncated[0])
        info = _scalars(step.info)
        if terminated or truncated:
            info.update(_scalars(step.final_info))
            self._running = False
        self._show()
        observation = lane_of(self.problem.observe(), 0)
        return observation, float(step.reward[0]), terminated, truncated, info

    @in_isolation
    def action_masks(self) -> BoolArray:
        """Return which discrete actions are possible now, ``(A,)``.

        A is the number of actions, or the sum of ``nvec`` of a ``MultiDiscrete`` space: the form
        that ``MaskablePPO`` of sb3-contrib takes.

        Raises:
            AttributeError: If the actions are not discrete.
        """
        return np.asarray(masks_of(self.problem)[0])

    @in_isolation
    def get_state(self) -> dict[str, Any]:
        """Return the running episode, learner and generator included."""
        return {
            "config": asdict(self.config),
            "problem": self.problem.get_state(np.zeros(1, np.int64)),
            "begun": self._begun,
            "running": self._running,
        }

    @in_isolation
    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``get_state`` returned, in this or another process.

        ``gym.make`` wraps the environment in a check that ``reset`` comes before ``step``: reset a
        new environment before its ``unwrapped.set_state``.

        Raises:
            ValueError: If the state is of another configuration, none of a single environment, or
                damaged; nothing is changed then.
        """
        self.problem.generators[0] = self.np_random
        own = self.get_state()
        check_parts(state, own)
        set_problem_state(self.problem, state, own)
        self._begun, self._running = state["begun"], state["running"]

    @in_isolation
    def render(self) -> NDArray[np.uint8] | None:
        """Return the picture, ``(height, width, 3)`` uint8, in ``rgb_array`` mode, else None.

        Raises:
            gymnasium.error.ResetNeeded: If there has been no episode yet.
        """
        if self.render_mode is None:
            gym.logger.warn("render() needs a render_mode when the environment is made")
            return None
        if self.render_mode == "human":
            return None
        if not self._begun:
            raise gym.error.ResetNeeded("there is no episode to draw: call reset() first")
        return draw(self.problem.scene(0))

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def _show(self) -> None:
        if self.render_mode != "human":
            return
        if self._window is None:
            self._window = open_window(self.metadata["render_fps"])
        self._window.show(self.problem.scene(0))


def _scalars(info: Mapping[str, NDArray[Any]]) -> Info:
    return {
        name: value[0].item() if value.ndim == 1 else value[0].copy()
        for name, value in info.items()
    }
