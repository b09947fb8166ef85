"""N lanes of a problem as a Gymnasium vector environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from edge_gym.core.actions import validate_actions
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
from edge_gym.core.problem import Problem, Step
from edge_gym.core.scene import draw
from edge_gym.core.state import check_parts
from edge_gym.runtime.checks import check_integer, check_seed
from edge_gym.runtime.isolation import in_isolation
from edge_gym.runtime.messages import shown
from edge_gym.typing import BoolArray, Info, IntArray


class EdgeVectorEnv(OfProblem, Copied, gym.vector.VectorEnv[Any, Any, Any]):
    """N lanes of a problem as a Gymnasium vector environment.

    Args:
        num_envs: Number of lanes.
        config: The problem's configuration or a mapping of fields.
        problem: The ``Problem``'s class, or where it is, ``"module:Class"``; not needed where the
            environment's class states its ``problem_type``.
        preset: What the registered id fixes.
        autoreset_mode: ``NEXT_STEP``, ``SAME_STEP`` or ``DISABLED``, as in ``SyncVectorEnv``.
        render_mode: ``"rgb_array"`` or None.
        max_episode_steps: Steps after which an episode is cut off, as ``TimeLimit`` cuts off that
            of a single environment: ``truncated`` is set, and the info is that of any step. None
            or -1 never does. ``gym.make_vec`` passes on what an id was registered with.
        **overrides: Single fields of the configuration.

    Raises:
        TypeError: If a field is unknown.
        ValueError: If a value is out of range.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    @in_isolation
    def __init__(
        self,
        num_envs: int = 1,
        config: Any | None = None,
        *,
        problem: type[Problem] | str | None = None,
        preset: Mapping[str, Any] | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **overrides: Any,
    ) -> None:
        check_integer("num_envs", num_envs, 1)
        num_envs = int(num_envs)
        if max_episode_steps == -1:
            max_episode_steps = None
        if max_episode_steps is not None:
            check_integer("max_episode_steps", max_episode_steps, 1)
        check_render_mode(render_mode, self.metadata["render_modes"])
        problem_type = problem_of(self, problem)
        self.config = make_config(problem_type.config_type, config, preset, overrides)
        self.problem: Problem = problem_type(self.config, num_envs)
        self.num_envs = num_envs
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = render_mode
        self.single_observation_space = self.problem.observation_space
        self.single_action_space = self.problem.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._seeds: list[int | None] = [None] * num_envs
        self._begun = np.zeros(num_envs, np.bool_)
        self._done = np.zeros(num_envs, np.bool_)
        self._max_steps = max_episode_steps
        self._elapsed = np.zeros(num_envs, np.int64)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Each lane's generator."""
        return tuple(self.problem.generators)

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """Each lane's seed; None where the system chose it."""
        return tuple(self._seeds)

    @in_isolation
    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, Info]:
        """Begin new episodes.

        Args:
            seed: Lane i gets ``seed + i``; a sequence has one seed or None per lane; None goes on
                with each lane's generator.
            options: ``reset_mask``, a boolean array ``(num_envs,)``, resets these lanes alone.

        Raises:
            ValueError: If a seed is no integer at least 0, the number of seeds or the mask's shape
                is wrong, or no lane is chosen; nothing is changed then.
            TypeError: If the mask is no boolean array.
        """
        mask = _reset_mask(options, self.num_envs)
        seeds = _seed_list(seed, self.num_envs)
        for lane in np.flatnonzero(mask).tolist():
            if (lane_seed := seeds[lane]) is not None:
                self.problem.generators[lane], self._seeds[lane] = seeding.np_random(lane_seed)
        infos: Info = {}
        self._reset_lanes(np.flatnonzero(mask), infos)
        return self.problem.observe(), infos

    @in_isolation
    def step(self, actions: Any) -> tuple[Any, NDArray[np.float64], BoolArray, BoolArray, Info]:
        """Take one step in every lane.

        Args:
            actions: ``(num_envs, ...)``; what stands in lanes that reset now is ignored.

        Raises:
            ValueError: If an action is malformed; the message names the lane and the value.
            gymnasium.error.ResetNeeded: If a lane has no running episode.
        """
        resetting = np.zeros(self.num_envs, np.bool_)
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            resetting = self._done.copy()
        idle = ~self._begun | (self._done & ~resetting)
        if idle.any():
            raise gym.error.ResetNeeded(
                f"lane {int(np.argmax(idle))} has no running episode: call reset() first"
            )
        stepping = np.flatnonzero(~resetting)
        actions = validate_actions(
            self.single_action_space, actions, self.num_envs, stepping, self.action_fill
        )
        reward = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, np.bool_)
        truncated = np.zeros(self.num_envs, np.bool_)
        infos: Info = {}
        if resetting.any():
            self._reset_lanes(np.flatnonzero(resetting), infos)
        if len(stepping):
            step = self.problem.step_lanes(stepping, actions)
            reward[stepping] = step.reward
            terminated[stepping] = step.terminated
            truncated[stepping] = step.truncated
            # Those whose problem ended them, who have a last info.
            over = (terminated | truncated)[stepping]
            if self._max_steps is not None:
                self._elapsed[stepping] += 1
                truncated[stepping] |= self._elapsed[stepping] >= self._max_steps
            done = terminated | truncated
            self._done = done
            if self.autoreset_mode == AutoresetMode.SAME_STEP and done.any():
                return self._end_in_same_step(stepping, over, step, reward, terminated, truncated)
            self._add(infos, stepping, step.info)
            self._add(infos, stepping[over], {k: v[over] for k, v in step.final_info.items()})
        return self.problem.observe(), reward, terminated, truncated, infos

    @in_isolation
    def action_masks(self) -> BoolArray:
        """Return which discrete actions are possible now, ``(num_envs, A)``.

        A is the number of actions, or the sum of ``nvec`` of a ``MultiDiscrete`` space: the form
        that ``MaskablePPO`` of sb3-contrib takes.

        Raises:
            AttributeError: If the actions are not discrete.
        """
        return masks_of(self.problem)

    @in_isolation
    def get_state(self) -> dict[str, Any]:
        """Return the running episodes, learners and generators included."""
        return {
            "config": asdict(self.config),
            "problem": self.problem.get_state(np.arange(self.num_envs)),
            "begun": self._begun.copy(),
            "done": self._done.copy(),
            "elapsed": self._elapsed.copy(),
        }

    @in_isolation
    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``get_state`` returned, in this or another process.

        Raises:
            ValueError: If the state is of another configuration or number of lanes, none of a
                vector environment, or damaged; nothing is changed then.
        """
        own = self.get_state()
        check_parts(state, own)
        if np.size(state["begun"]) != self.num_envs:
            raise ValueError(
                f"the state has {np.size(state['begun'])} lanes, this environment {self.num_envs}"
            )
        set_problem_state(self.problem, state, own)
        self._begun = state["begun"].copy()
        self._done = state["done"].copy()
        self._elapsed = state["elapsed"].copy()

    @in_isolation
    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Return one picture per lane, ``(height, width, 3)`` uint8; None without a render mode.

        Raises:
            gymnasium.error.ResetNeeded: If a lane has had no episode yet.
        """
        if self.render_mode is None:
            gym.logger.warn("render() needs render_mode='rgb_array' when the environment is made")
            return None
        if not self._begun.all():
            lane = int(np.argmin(self._begun))
            raise gym.error.ResetNeeded(f"lane {lane} has no episode to draw: call reset() first")
        return tuple(draw(self.problem.scene(lane)) for lane in range(self.num_envs))

    def _reset_lanes(self, lanes: IntArray, infos: Info) -> None:
        self._add(infos, lanes, self.problem.begin_lanes(lanes))
        self._begun[lanes] = True
        self._done[lanes] = False
        self._elapsed[lanes] = 0

    def _end_in_same_step(
        self,
        lanes: IntArray,
        over: BoolArray,
        step: Step,
        reward: NDArray[np.float64],
        terminated: BoolArray,
        truncated: BoolArray,
    ) -> tuple[Any, NDArray[np.float64], BoolArray, BoolArray, Info]:
        done = self._done.copy()
        ended = np.flatnonzero(done)
        ending = done[lanes]
        last = self.problem.observe()
        final_obs = np.full(self.num_envs, None, object)
        for lane in ended.tolist():
            final_obs[lane] = lane_of(last, lane)
        final_info: Info = {}
        self._add(final_info, ended, {k: v[ending] for k, v in step.info.items()})
        self._add(final_info, lanes[over], {k: v[over] for k, v in step.final_info.items()})
        infos: Info = {
            "final_obs": final_obs,
            "_final_obs": done.copy(),
            "final_info": final_info,
            "_final_info": done.copy(),
        }
        self._add(infos, lanes[~ending], {k: v[~ending] for k, v in step.info.items()})
        self._reset_lanes(ended, infos)
        return self.problem.observe(), reward, terminated, truncated, infos

    def _add(self, infos: Info, lanes: IntArray, values: Mapping[str, NDArray[Any]]) -> None:
        """Write ``values`` of ``lanes`` into ``infos`` in Gymnasium's format, masks included."""
        if not len(lanes):
            return
        for name, value in values.items():
            if name not in infos:
                infos[name] = np.zeros((self.num_envs, *value.shape[1:]), value.dtype)
                infos[f"_{name}"] = np.zeros(self.num_envs, np.bool_)
            infos[name][lanes] = value
            infos[f"_{name}"][lanes] = True


def _reset_mask(options: dict[str, Any] | None, n_lanes: int) -> BoolArray:
    if not options or "reset_mask" not in options:
        return np.ones(n_lanes, np.bool_)
    mask = options["reset_mask"]
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError(f"options['reset_mask'] must be a boolean numpy array, got {shown(mask)}")
    if mask.shape != (n_lanes,):
        raise ValueError(f"options['reset_mask'] must have shape ({n_lanes},), got {mask.shape}")
    if not mask.any():
        raise ValueError("options['reset_mask'] chooses no lane")
    return mask


def _seed_list(seed: Any, n_lanes: int) -> Sequence[int | None]:
    if seed is None:
        return [None] * n_lanes
    if isinstance(seed, np.ndarray) and seed.ndim == 1:
        seed = list(seed)
    if not isinstance(seed, (list, tuple)):
        first = check_seed("seed", seed)
        return [first + lane for lane in range(n_lanes)]
    if len(seed) != n_lanes:
        raise ValueError(f"{n_lanes} lanes need {n_lanes} seeds, got {len(seed)}")
    return [None if one is None else check_seed("seed", one) for one in seed]
