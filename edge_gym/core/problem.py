"""Decision problems: every one is written once, for N episodes at a time.

A ``Problem`` holds the state of N lanes in arrays with a leading lane axis. ``EdgeVectorEnv`` is
its Gymnasium vector environment and ``EdgeEnv`` its one-lane view, so both are the same code.
Each lane owns a generator and streams whose keys come from it, and draws only from these: lane i of
a vector environment seeded s is the scalar environment seeded s + i.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from edge_gym.core.actions import ActionCodec
from edge_gym.core.observation import ObservationTable
from edge_gym.core.scene import BarPanel, Scene
from edge_gym.core.state import declared_arrays
from edge_gym.registry import load
from edge_gym.runtime.streams import Streams
from edge_gym.typing import BoolArray, IntArray


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


class Generators(Sequence[np.random.Generator]):
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

    def __getitem__(self, lane: Any) -> Any:
        generator = self._made[lane]
        if generator is None:
            generator = self._made[lane] = np.random.default_rng()
        return generator

    def __setitem__(self, lane: int, generator: np.random.Generator) -> None:
        self._made[lane] = generator


class Problem(ABC):
    """The dynamics of one decision problem for ``n_lanes`` independent episodes.

    A subclass states its ``config_type``, its spaces and its tables, implements ``reset_lanes``,
    ``step_lanes``, ``observe`` and ``scene``, and declares the arrays that hold its state, each a
    ``LaneArray`` of its class.

    Args:
        config: The validated configuration.
        n_lanes: Number of episodes run at a time.

    Attributes:
        streams: What chance brings, by purpose and step: draw from these, so that two policies on
            one seed meet the same (see ``runtime.streams``).
        generators: Each lane's generator, from which an episode's streams begin.
        documented_tables: The default configuration's tables, for docstrings.
        documented_texts: What docstrings of environments hold in the place of ``{NAME}``, by name.
        state_parts: Names of attributes that hold state of their own, as learners do: with
            ``get_state(lanes)`` and ``set_state(lanes, state)``, and, if need be,
            ``growing``, the names of those of its arrays whose later axes are as long as what was
            acquired so far.
        picture: Where the function is that describes a lane's picture, ``"module:function"``; it is
            called with the problem and the lane. None shows what is observed.
        actions_per: ``"device"`` or ``"sample"`` where the action space has one action or one
            component (or row of components) for each, in the observation's order, so that a policy
            that scores each of them acts for any number; ``"combination"`` where each device has
            as many levels, and a discrete action is a combination of them, the last device's
            counting least; ``"system"`` where devices are observed and an action means the same for
            any number of them; None for flat observations.
        action_fill: Value of the last action columns of a device where a policy gives fewer, as
            those do that are older than these columns; None if all columns must be given.
        signs_suffice: Whether actions of several columns ask only which values are above 0.
        codec: What actions mean, for rules and decoders that ask; not set where nobody does.
    """

    config_type: ClassVar[type[Any]]
    documented_tables: ClassVar[Mapping[str, ObservationTable]] = {}
    documented_texts: ClassVar[Mapping[str, str]] = {}
    state_parts: ClassVar[tuple[str, ...]] = ()
    picture: ClassVar[str | None] = None

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    tables: dict[str, ObservationTable]
    actions_per: str | None = None
    action_fill: float | None = None
    signs_suffice: bool = False
    codec: ActionCodec[Any]

    def __init__(self, config: Any, n_lanes: int) -> None:
        self.config = config
        self.n_lanes = n_lanes
        self.generators = Generators(n_lanes)
        self.streams = Streams(n_lanes)

    def begin_lanes(self, lanes: IntArray) -> dict[str, NDArray[Any]]:
        """Draw the keys of new episodes in ``lanes``, begin them and return their infos."""
        self.streams.begin(lanes, self.generators)
        return self.reset_lanes(lanes)

    @abstractmethod
    def reset_lanes(self, lanes: IntArray) -> dict[str, NDArray[Any]]:
        """Begin new episodes in ``lanes`` and return their infos, each of shape ``(m,)``."""

    @abstractmethod
    def step_lanes(self, lanes: IntArray, actions: NDArray[Any]) -> Step:
        """Apply valid ``actions`` of shape ``(m, ...)`` in ``lanes``."""

    @abstractmethod
    def observe(self) -> Any:
        """Return the observations of all lanes, in arrays of their own."""

    def scene(self, lane: int) -> Scene:
        """Describe the picture of one lane's episode: by ``picture``, else what is observed."""
        if self.picture is not None:
            described: Scene = load(self.picture)(self, lane)
            return described
        observations = self.observe()
        panels = []
        for part, table in self.tables.items():
            values = np.asarray(observations[part] if part else observations)[lane]
            centre, spread = table.scaling()
            scaled = (values.reshape(-1, len(table)) - centre) / spread
            panels.append(
                BarPanel(
                    title=part or "Observation",
                    labels=[column.name for column in table],
                    series={"mean": scaled.mean(axis=0)},
                    x_label="columns",
                    y_label="spreads from the centre",
                )
            )
        return Scene(title=type(self).__name__, text="", panels=(tuple(panels),))

    @classmethod
    def variations(cls, config: Any) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """Return what else studies of generalisation change under a configuration.

        Returns:
            By axis, such as ``"deadline"``, and label, such as ``"2 s"``: fields by name.
        """
        return {}

    def action_masks(self) -> BoolArray | None:
        """Return which discrete actions are possible, ``(n_lanes, A)``; None if all always are.

        In a ``MultiDiscrete`` space A is the sum of ``nvec``: the first component's values come
        first.
        """
        return None

    def get_state(self, lanes: IntArray) -> dict[str, Any]:
        """Return the state of ``lanes``, generators included, sharing no memory."""
        state: dict[str, Any] = {name: getattr(self, name)[lanes].copy() for name in self._saved()}
        for part in self.state_parts:
            state[part.removeprefix("_")] = getattr(self, part).get_state(lanes)
        state["streams"] = self.streams.get_state(lanes)
        state["generators"] = [
            copy.deepcopy(self.generators[lane].bit_generator.state) for lane in lanes
        ]
        return state

    def set_state(self, lanes: IntArray, state: Mapping[str, Any]) -> None:
        """Restore what ``get_state`` returned for as many lanes."""
        for name in self._saved():
            getattr(self, name)[lanes] = state[name]
        for part in self.state_parts:
            getattr(self, part).set_state(lanes, state[part.removeprefix("_")])
        self.streams.set_state(lanes, state["streams"])
        for lane, generator_state in zip(lanes, state["generators"], strict=True):
            self.generators[lane].bit_generator.state = copy.deepcopy(generator_state)

    def clear(self, lanes: IntArray) -> None:
        """Set the declared arrays of ``lanes`` to their values at the begin of an episode."""
        for name, declared in declared_arrays(type(self)).items():
            if declared.reset is not None:
                getattr(self, name)[lanes] = declared.reset

    def _saved(self) -> list[str]:
        declared = declared_arrays(type(self))
        return [name for name, array in declared.items() if array.saved]
