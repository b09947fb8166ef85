"""Environment ids: ours, those of plug-ins, and any that Gymnasium knows of such a problem."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from edge_gym.papers import find_paper
from edge_gym.registry import Registry, import_plugin, load, load_plugins, place_of
from edge_gym.runtime.messages import shown

if TYPE_CHECKING:
    from edge_gym.core.env import EdgeEnv
    from edge_gym.core.problem import Problem
    from edge_gym.core.vector_env import EdgeVectorEnv

NAMESPACE = "edge_gym"
_LONGEST_ID = 100  # comparing takes longer, the longer a name is
_NO_FIELDS = ("config", "preset", "problem", "render_mode", "autoreset_mode", "num_envs")
_SCALAR = "edge_gym.core.env:EdgeEnv"
_VECTOR = "edge_gym.core.vector_env:EdgeVectorEnv"


@dataclass(frozen=True)
class EnvironmentSpec:
    """What is known of an environment's id.

    Attributes:
        id: The full Gymnasium id.
        summary: One line for ``edge-gym list``.
        preset: Fields of the configuration that the id fixes.
        scalar: Where the class of the Gymnasium environment is, ``"module:Class"``.
        vector: Where that of the vector environment is.
        problem: Where the problem is; None if the classes name it.
        paper: Key of the paper that the problem is from, see ``edge_gym.papers``; None for none.
        budget: Field of the configuration that says how much an episode may use; None for none.
    """

    id: str
    summary: str
    preset: Mapping[str, Any] = field(default_factory=dict)
    scalar: str = _SCALAR
    vector: str = _VECTOR
    problem: str | None = None
    paper: str | None = None
    budget: str | None = None

    @property
    def name(self) -> str:
        """The id without ``edge_gym/``."""
        return self.id.removeprefix(f"{NAMESPACE}/")

    @property
    def file_name(self) -> str:
        """The name as that of a file or folder."""
        return self.name.replace("/", "--")

    @property
    def from_paper(self) -> bool:
        """Whether the id is the paper's own setting."""
        return self.name.endswith("-Paper-v0")

    def problem_type(self) -> type[Problem]:
        """Return the problem's class, which is imported now."""
        found: type[Problem] = (
            load(self.problem) if self.problem is not None else load(self.vector).problem_type
        )
        return found

    def scalar_type(self) -> type[EdgeEnv]:
        """Return the class of the Gymnasium environment, which is imported now."""
        found: type[EdgeEnv] = load(self.scalar)
        return found

    def make_vector(self, num_envs: int, **kwargs: Any) -> EdgeVectorEnv:
        """Make the vector environment.

        Args:
            num_envs: Number of lanes.
            **kwargs: As for ``gym.make_vec``.
        """
        made: Any
        if gym.spec(self.id).vector_entry_point is not None:
            made = gym.make_vec(self.id, num_envs=num_envs, **kwargs)
        else:
            own = gym.spec(self.id)
            kwargs.setdefault("max_episode_steps", own.max_episode_steps)
            made = load(self.vector)(
                num_envs, problem=self.problem_type(), preset=self.preset, **kwargs
            )
            made.spec = own
        found: EdgeVectorEnv = made
        return found


ENVIRONMENTS: Registry[EnvironmentSpec] = Registry("environment")
"""Ids by name."""


def register_environment(
    id: str,
    problem: type[Problem] | str,
    *,
    summary: str,
    preset: Mapping[str, Any] | None = None,
    paper: str | None = None,
    budget: str | None = None,
    max_episode_steps: int | None = None,
) -> EnvironmentSpec:
    """Register a decision problem under an id, with Gymnasium and with all commands.

    Args:
        id: ``"namespace/Name-v0"``.
        problem: The ``Problem``'s class, or where it is, ``"module:Class"``. In worker processes
            it is found if a plug-in registers it, see ``edge_gym.registry``.
        summary: What is decided, in one line.
        preset: Fields of the configuration that the id fixes.
        paper: Key of the paper that it is from, see ``edge_gym.papers.register_paper``.
        budget: Field of the configuration that says how much an episode may use, which studies
            of generalisation halve and double.
        max_episode_steps: Steps after which Gymnasium cuts an episode off.

    Raises:
        ValueError: If the id is taken or malformed, or the paper is unknown.
    """
    place = problem if isinstance(problem, str) else place_of(problem)
    spec = EnvironmentSpec(
        id, summary, dict(preset or {}), problem=place, paper=paper, budget=budget
    )
    return _register(spec, {"problem": place}, max_episode_steps)


def register_own(
    module: str,
    problem: str,
    name: str,
    summary: str,
    *,
    paper: str,
    budget_field: str,
    **preset: Any,
) -> EnvironmentSpec:
    """Register an id of ours, whose environments have classes of their own.

    Args:
        module: Where these are, within ``edge_gym.envs``, such as ``"batch_slot.env"``.
        problem: The classes' names without ``Env`` and ``VectorEnv``.
        name: The id without ``edge_gym/``.
        summary: What is decided, in one line.
        paper: Key of the paper that it is from.
        budget_field: The spec's ``budget``; configurations have fields of this name.
        **preset: Fields of the configuration that the id fixes.
    """
    place = f"edge_gym.envs.{module}"
    spec = EnvironmentSpec(
        f"{NAMESPACE}/{name}",
        summary,
        preset,
        f"{place}:{problem}Env",
        f"{place}:{problem}VectorEnv",
        paper=paper,
        budget=budget_field,
    )
    return _register(spec, {}, None)


def _register(
    spec: EnvironmentSpec, kwargs: Mapping[str, Any], max_episode_steps: int | None
) -> EnvironmentSpec:
    if spec.paper is not None:
        find_paper(spec.paper)
    ENVIRONMENTS.register(spec.id, spec)
    if spec.id not in gym.registry:
        gym.register(
            id=spec.id,
            entry_point=spec.scalar,
            vector_entry_point=spec.vector,
            max_episode_steps=max_episode_steps,
            kwargs={**kwargs, "preset": spec.preset},
        )
    return spec


def list_environments() -> list[EnvironmentSpec]:
    """Return all ids: ours, those of plug-ins, and what Gymnasium knows of such problems.

    Of what was registered with Gymnasium alone, ids count whose module is already imported.
    """
    own = [ENVIRONMENTS.find(name) for name in ENVIRONMENTS]
    others = [
        spec
        for name, gym_spec in gym.registry.items()
        if name not in ENVIRONMENTS and (spec := _of_gymnasium(gym_spec, imported=True)) is not None
    ]
    return [*own, *others]


def find_environment(name: str) -> EnvironmentSpec:
    """Return what is known of an id.

    Args:
        name: The id; of ours also without ``edge_gym/``, and with the module that registers it in
            front of a colon, as ``gym.make`` takes it.

    Raises:
        ValueError: If there is none; the message says which are like it.
    """
    if not isinstance(name, str):
        raise ValueError(f"an environment's id is a text, got {shown(name)}")
    load_plugins()
    module, _, bare = name.rpartition(":")
    if module:
        import_plugin(module)
    for wanted in (bare, f"{NAMESPACE}/{bare}"):
        if wanted in ENVIRONMENTS:
            return ENVIRONMENTS.find(wanted)
    if bare in gym.registry:
        spec = _of_gymnasium(gym.registry[bare])
        if spec is not None:
            return spec
        raise ValueError(
            f"{shown(bare)} is no environment of edge_gym: its class is no EdgeEnv of a Problem"
        )
    known = {spec.name.rpartition("/")[2].lower(): spec.name for spec in list_environments()}
    wanted = name[:_LONGEST_ID].rpartition("/")[2].lower().removesuffix("-v0") + "-v0"
    if like := difflib.get_close_matches(wanted, known, cutoff=0.8):
        hint = f"did you mean {' or '.join(known[one] for one in like)}?"
    else:
        hint = "edge-gym list shows all"
    raise ValueError(f"unknown environment {shown(name)}; {hint}")


def _of_gymnasium(gym_spec: EnvSpec, *, imported: bool = False) -> EnvironmentSpec | None:
    """Return what is known of an id that was registered with Gymnasium alone; None if no ours.

    Args:
        gym_spec: Gymnasium's own.
        imported: Whether classes are looked for in imported modules only.
    """
    from edge_gym.core.env import EdgeEnv

    scalar = _class_of(gym_spec.entry_point, imported)
    if not isinstance(scalar, type) or not issubclass(scalar, EdgeEnv):
        return None
    vector = _class_of(gym_spec.vector_entry_point, imported)
    problem = gym_spec.kwargs.get("problem", getattr(scalar, "problem_type", None))
    if problem is None:
        return None
    if not isinstance(problem, str):
        problem = place_of(problem)
    given = {name: value for name, value in gym_spec.kwargs.items() if name not in _NO_FIELDS}
    for name in ("config", "preset"):
        if isinstance(fixed := gym_spec.kwargs.get(name), Mapping):
            given = {**fixed, **given}
    return EnvironmentSpec(
        gym_spec.id,
        (load(problem).__doc__ or gym_spec.id).strip().partition("\n")[0].rstrip("."),
        given,
        place_of(scalar),
        place_of(vector) if vector is not None else _VECTOR,
        problem,
    )


def _class_of(entry_point: str | Callable[..., Any] | None, imported: bool) -> Any:
    """Return what an entry point names; None if there is none, or it is not imported yet."""
    import sys

    if not isinstance(entry_point, str):
        return entry_point
    if imported and entry_point.partition(":")[0] not in sys.modules:
        return None
    try:
        return load(entry_point)
    except (ImportError, ValueError):
        return None
