"""Lanes: every decision problem is written once, for N episodes at a time.

A ``Problem`` holds the state of N lanes in arrays with a leading lane axis. ``EdgeVectorEnv`` is
its Gymnasium vector environment and ``EdgeEnv`` its one-lane view, so both are the same code.
Each lane owns a generator and draws only from it: lane i of a vector environment seeded s is the
scalar environment seeded s + i.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from edge_gym.envs.actions import validate_action, validate_actions
from edge_gym.envs.checks import check_integer, check_seed
from edge_gym.envs.config import make_config
from edge_gym.envs.observation import ObservationTable
from edge_gym.envs.states import check_form, check_parts
from edge_gym.isolation import in_isolation
from edge_gym.messages import shown
from edge_gym.rendering import Scene, Window, draw

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Info = dict[str, Any]


class Step(NamedTuple):
    """What one step did to the lanes that took it; arrays have shape ``(m,)``.

    Attributes:
        reward: The reward.
        terminated: Whether the episode ended.
        truncated: Whether it was cut off.
        info: Parts of the reward and what was learned, by name.
        final_info: More of these, for the lanes whose episode ended.
    """

    reward: NDArray[np.float64]
    terminated: BoolArray
    truncated: BoolArray
    info: dict[str, NDArray[Any]]
    final_info: dict[str, NDArray[Any]]


class Generators:
    """One random generator per lane, made when first used.

    A lane without a seed takes one from the system then, not when the environment is made: copies
    of an environment that has never been reset, in this or another process, draw apart.
    """

    def __init__(self, n_lanes: int) -> None:
        self._made: list[np.random.Generator | None] = [None] * n_lanes

    def __len__(self) -> int:
        return len(self._made)

    def __iter__(self) -> Iterator[np.random.Generator]:
        return (self[lane] for lane in range(len(self)))

    def __getitem__(self, lane: int) -> np.random.Generator:
        generator = self._made[lane]
        if generator is None:
            generator = self._made[lane] = np.random.default_rng()
        return generator

    def __setitem__(self, lane: int, generator: np.random.Generator) -> None:
        self._made[lane] = generator


class Problem(ABC):
    """The dynamics of one decision problem for ``n_lanes`` independent episodes.

    A subclass states its ``config_type``, its spaces and its tables, implements ``reset_lanes``,
    ``step_lanes``, ``observe`` and ``scene``, and lists in ``lane_arrays`` the attributes that
    hold its state, arrays with a leading lane axis.

    Args:
        config: The validated configuration.
        n_lanes: Number of episodes run at a time.

    Attributes:
        documented_tables: The default configuration's tables, for docstrings.
        growing: Names of the arrays of a state, the learner's included, that hold as many samples
            as there were so far, and so differ between states in axes other than the first.
        actions_per: ``"device"`` or ``"sample"`` where the action space has one action or one
            component (or row of components) for each, in the observation's order, so that a policy
            that scores each of them acts for any number; ``"combination"`` where each device has
            as many levels, and a discrete action is a combination of them, the last device's
            counting least; ``"system"`` where devices are observed and an action means the same for
            any number of them; None for flat observations.
        action_fill: Value of the last action columns of a device where a policy gives fewer, as
            those do that are older than these columns; None if all columns must be given.
        signs_suffice: Whether actions of several columns ask only which values are above 0.
    """

    config_type: ClassVar[type[Any]]
    documented_tables: ClassVar[Mapping[str, ObservationTable]] = {}
    lane_arrays: ClassVar[tuple[str, ...]] = ()
    growing: ClassVar[frozenset[str]] = frozenset()

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    tables: dict[str, ObservationTable]
    actions_per: str | None = None
    action_fill: float | None = None
    signs_suffice: bool = False

    def __init__(self, config: Any, n_lanes: int) -> None:
        self.config = config
        self.n_lanes = n_lanes
        self.generators = Generators(n_lanes)

    @abstractmethod
    def reset_lanes(self, lanes: IntArray) -> dict[str, NDArray[Any]]:
        """Begin new episodes in ``lanes`` and return their infos, each of shape ``(m,)``."""

    @abstractmethod
    def step_lanes(self, lanes: IntArray, actions: NDArray[Any]) -> Step:
        """Apply valid ``actions`` of shape ``(m, ...)`` in ``lanes``."""

    @abstractmethod
    def observe(self) -> Any:
        """Return the observations of all lanes, in arrays of their own."""

    @abstractmethod
    def scene(self, lane: int) -> Scene:
        """Describe the picture of one lane's episode."""

    def action_masks(self) -> BoolArray | None:
        """Return which discrete actions are possible, ``(n_lanes, A)``; None if all always are.

        In a ``MultiDiscrete`` space A is the sum of ``nvec``: the first component's values come
        first.
        """
        return None

    def get_state(self, lanes: IntArray) -> dict[str, Any]:
        """Return the state of ``lanes``, generators included, sharing no memory."""
        state: dict[str, Any] = {
            name: getattr(self, name)[lanes].copy() for name in self.lane_arrays
        }
        state["generators"] = [
            copy.deepcopy(self.generators[lane].bit_generator.state) for lane in lanes
        ]
        return state

    def set_state(self, lanes: IntArray, state: Mapping[str, Any]) -> None:
        """Restore what ``get_state`` returned for as many lanes."""
        for name in self.lane_arrays:
            getattr(self, name)[lanes] = state[name]
        for lane, generator_state in zip(lanes, state["generators"], strict=True):
            self.generators[lane].bit_generator.state = copy.deepcopy(generator_state)


class _Documented:
    """Puts the observation tables, stated once in code, into the docstring."""

    problem_type: ClassVar[type[Problem]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__doc__ and hasattr(cls, "problem_type"):
            for part, table in cls.problem_type.documented_tables.items():
                mark = f"{{{part or 'observation'}_table}}"
                cls.__doc__ = cls.__doc__.replace(mark, table.markdown("    "))


class _Copied:
    """Copies hold ordinary tensors, although they may be made in torch's inference mode."""

    @in_isolation
    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin


class EdgeVectorEnv(_Documented, _Copied, gym.vector.VectorEnv[Any, Any, Any]):
    """N lanes of a problem as a Gymnasium vector environment.

    Args:
        num_envs: Number of lanes.
        config: The problem's configuration or a mapping of fields.
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
        _check_render_mode(render_mode, self.metadata["render_modes"])
        self.config = make_config(self.problem_type.config_type, config, preset, overrides)
        self.problem = self.problem_type(self.config, num_envs)
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

    @property
    def tables(self) -> dict[str, ObservationTable]:
        """The observation's tables by part: ``""`` for a flat observation."""
        return self.problem.tables

    @property
    def actions_per(self) -> str | None:
        """What actions are of, ``"device"``, ``"sample"`` or others; see ``Problem``."""
        return self.problem.actions_per

    @property
    def action_fill(self) -> float | None:
        """Value of action columns that are not given; see ``Problem``."""
        return self.problem.action_fill

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
        return _masks(self.problem)

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
        _set_problem_state(self.problem, state, own)
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
        self._add(infos, lanes, self.problem.reset_lanes(lanes))
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
            final_obs[lane] = _lane_of(last, lane)
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


class EdgeEnv(_Documented, _Copied, gym.Env[Any, Any]):
    """One lane of a problem as a Gymnasium environment.

    Args:
        config: The problem's configuration or a mapping of fields.
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
        preset: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
        **overrides: Any,
    ) -> None:
        _check_render_mode(render_mode, self.metadata["render_modes"])
        self.config = make_config(self.problem_type.config_type, config, preset, overrides)
        self.problem = self.problem_type(self.config, 1)
        self.render_mode = render_mode
        self.observation_space = self.problem.observation_space
        self.action_space = self.problem.action_space
        self._begun = False
        self._running = False
        self._window: Window | None = None

    @property
    def tables(self) -> dict[str, ObservationTable]:
        """The observation's tables by part: ``""`` for a flat observation."""
        return self.problem.tables

    @property
    def actions_per(self) -> str | None:
        """What actions are of, ``"device"``, ``"sample"`` or others; see ``Problem``."""
        return self.problem.actions_per

    @property
    def action_fill(self) -> float | None:
        """Value of action columns that are not given; see ``Problem``."""
        return self.problem.action_fill

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
        info = self.problem.reset_lanes(np.zeros(1, np.int64))
        self._begun = self._running = True
        self._show()
        return _lane_of(self.problem.observe(), 0), _scalars(info)

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
        observation = _lane_of(self.problem.observe(), 0)
        return observation, float(step.reward[0]), terminated, truncated, info

    @in_isolation
    def action_masks(self) -> BoolArray:
        """Return which discrete actions are possible now, ``(A,)``.

        A is the number of actions, or the sum of ``nvec`` of a ``MultiDiscrete`` space: the form
        that ``MaskablePPO`` of sb3-contrib takes.

        Raises:
            AttributeError: If the actions are not discrete.
        """
        return np.asarray(_masks(self.problem)[0])

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
        _set_problem_state(self.problem, state, own)
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
            self._window = Window(fps=self.metadata["render_fps"])
        self._window.show(self.problem.scene(0))


def _check_render_mode(render_mode: str | None, known: Sequence[str]) -> None:
    if render_mode is not None and render_mode not in known:
        raise ValueError(
            f"render_mode must be one of {', '.join(known)} or None, got {shown(render_mode)}"
        )


def _set_problem_state(problem: Problem, state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Restore ``state`` in all lanes, or leave ``own``, which is theirs, as it is.

    Raises:
        ValueError: If the state is damaged.
    """
    check_form(state, own, problem.growing)
    lanes = np.arange(problem.n_lanes)
    try:
        problem.set_state(lanes, state["problem"])
    except Exception as error:
        problem.set_state(lanes, own["problem"])
        cause = " ".join(str(error).split())
        raise ValueError(f"the state is damaged ({cause[:150]}): take another") from error


def _masks(problem: Problem) -> BoolArray:
    """Return which actions are possible, ``(n_lanes, A)``; an AttributeError if not discrete."""
    masks = problem.action_masks()
    if masks is not None:
        return masks
    space = problem.action_space
    if isinstance(space, spaces.Discrete):
        size = int(space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        size = int(space.nvec.sum())
    else:
        raise AttributeError(f"{type(problem).__name__} has no discrete actions to mask")
    return np.ones((problem.n_lanes, size), np.bool_)


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


def _lane_of(observation: Any, lane: int) -> Any:
    if isinstance(observation, dict):
        return {part: values[lane].copy() for part, values in observation.items()}
    return observation[lane].copy()


def _scalars(info: Mapping[str, NDArray[Any]]) -> Info:
    return {
        name: value[0].item() if value.ndim == 1 else value[0].copy()
        for name, value in info.items()
    }
