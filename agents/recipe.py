"""Recipes: everything that a training run depends on but the code, in one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib import resources
from importlib.resources.abc import Traversable
from os import PathLike
from pathlib import Path
from typing import Any

from edge_gym.agents.algorithms.base import ALGORITHMS, Algorithm
from edge_gym.core.registration import NAMESPACE
from edge_gym.evaluation import seeds
from edge_gym.runtime.checks import check_choice, check_integer, check_number
from edge_gym.runtime.messages import shown
from edge_gym.runtime.plain import plain
from edge_gym.runtime.yaml import load_yaml

_ACTIVATIONS = ("tanh", "relu", "elu")
_KINDS = ("mlp", "device")
_EXPLORATIONS = ("gaussian", "signs")
_CONTEXTS = ("none", "mean", "mean-max")
_SEED_RANGES = {
    name: (numbers[0], numbers[-1])
    for name, numbers in (
        ("training", seeds.TRAINING),
        ("tuning", seeds.TUNING),
        ("selection", seeds.SELECTION),
        ("evaluation", seeds.EVALUATION),
    )
}


def _as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name} must be a list, got {shown(value)}")
    return tuple(value)


@dataclass(frozen=True, kw_only=True)
class PolicyNetwork:
    """The policy's network; an actor-critic's value network is another of the same shape.

    Attributes:
        kind: ``"mlp"`` on flat observations, or ``"device"``, which scores each device or sample;
            None for what the environment calls for.
        hidden: Units of each hidden layer; on devices two at least, the first embeds what is
            pooled, the second follows.
        activation: What follows each, ``"tanh"``, ``"relu"`` or ``"elu"``.
        context: What the score of a device or sample knows of the others: ``"none"``, their
            ``"mean"`` embedding, or also its largest values, ``"mean-max"``.
        exploration: How an actor-critic tries out scores of devices: ``"gaussian"``, around them,
            or ``"signs"``, which devices are above 0, where the environment asks for no more.
        decoder: ``name`` and parameters of what makes actions of scores, one of
            ``decoders.DECODERS``, for actor-critics; None where scores are actions.
        log_std: Logarithm of the standard deviation with which Gaussian scores begin; at -0.7 they
            seldom reach the bounds ±1, where all are alike.
    """

    kind: str | None = None
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    context: str = "mean"
    exploration: str = "gaussian"
    decoder: Mapping[str, Any] | None = None
    log_std: float = -0.7

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", _as_tuple("network.hidden", self.hidden))
        for units in self.hidden:
            check_integer("network.hidden", units, 1)
        check_choice("network.activation", self.activation, _ACTIVATIONS)
        check_choice("network.context", self.context, _CONTEXTS)
        check_choice("network.exploration", self.exploration, _EXPLORATIONS)
        check_number("network.log_std", self.log_std, -5, 1)
        if self.kind is not None:
            check_choice("network.kind", self.kind, _KINDS)
        named = isinstance(self.decoder, Mapping) and "name" in self.decoder
        if self.decoder is not None and not named:
            raise ValueError(
                f"network.decoder must be a mapping with name, got {shown(self.decoder)}"
            )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How checkpoints are compared: the same episodes for all, seeded from ``SELECTION``.

    Attributes:
        every: Steps from one evaluation to the next.
        episodes: Episodes of each.
        lanes: Episodes run at a time.
    """

    every: int
    episodes: int = 256
    lanes: int = 128

    def __post_init__(self) -> None:
        check_integer("evaluation.every", self.every, 1)
        check_integer("evaluation.episodes", self.episodes, 2, 200_000)
        check_integer("evaluation.lanes", self.lanes, 1)


@dataclass(frozen=True, kw_only=True)
class Imitation:
    """A baseline that the agent imitates before it learns by itself.

    Attributes:
        policy: ``name`` of the baseline, and its parameters.
        episodes: Training episodes that are played.
        noise: Share of actions taken at random, and how unsure a policy shall be.
        epochs: Passes over what was played.
        batch_size: Steps in a mini-batch.
        learning_rate: Adam's step size.
        margin: By how much DQN shall value the baseline's action above all others, in scaled
            rewards; 0 to learn from returns alone.

    DQN goes on from what it was taught only where ``learning_starts`` and
    ``exploration_initial_eps`` are low.
    """

    policy: Mapping[str, Any]
    episodes: int = 192
    noise: float = 0.15
    epochs: int = 8
    batch_size: int = 1024
    learning_rate: float = 2e-3
    margin: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.policy, Mapping) or "name" not in self.policy:
            raise ValueError(
                f"imitation.policy must be a mapping with name, got {shown(self.policy)}"
            )
        check_integer("imitation.episodes", self.episodes, 1)
        check_number("imitation.noise", self.noise, 0, 0.5)
        check_integer("imitation.epochs", self.epochs, 1)
        check_integer("imitation.batch_size", self.batch_size, 1)
        check_number("imitation.learning_rate", self.learning_rate, 0, open_low=True)
        check_number("imitation.margin", self.margin, 0)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an agent is trained.

    Attributes:
        algorithm: Name of a registered algorithm, such as ``"ppo"`` or ``"dqn"``.
        environment: The id it is made for, without ``edge_gym/``; None for any.
        seed: Fixes weights, exploration, mini-batches and training episodes.
        seed_ranges: First and last seed of the episodes that agents learn from (``training``), that
            searches are scored on (``tuning``), that choose among checkpoints (``selection``) and
            that results are reported on (``evaluation``): stated in a recipe for whoever reads it,
            and always those of ``edge_gym.evaluation.seeds``.
        steps: Environment steps, all lanes together.
        lanes: Episodes run at a time.
        checkpoint_every: Steps from one checkpoint to the next.
        train_config: Fields of the environment's configuration for training alone.
        variations: Further such fields for an agent that shall serve several configurations, for
            actor-critics: each rollout is collected under the next of them.
        reward_scale: Factor on the rewards that the algorithm sees.
        action_bias: Initial bias of each action in the last layer of a policy on flat observations;
            None for zeros.
        network: The policy's network.
        imitation: The baseline that the agent begins from; None to begin at random.
        hyperparameters: The algorithm's own, every one of ``Algorithm.hyperparameters``.
        evaluation: How checkpoints are compared.

    Raises:
        ValueError: If a value is missing or out of range; the message names field and value.
    """

    algorithm: str
    environment: str | None = None
    seed: int = 0
    seed_ranges: Mapping[str, tuple[int, int]] = field(default_factory=_SEED_RANGES.copy)
    steps: int
    lanes: int = 64
    checkpoint_every: int = 100_000
    train_config: Mapping[str, Any] = field(default_factory=dict)
    variations: tuple[Mapping[str, Any], ...] = ()
    reward_scale: float = 1.0
    action_bias: tuple[float, ...] | None = None
    network: PolicyNetwork = PolicyNetwork()
    imitation: Imitation | None = None
    hyperparameters: Mapping[str, Any]
    evaluation: Evaluation

    def __post_init__(self) -> None:
        algorithm = ALGORITHMS.find(self.algorithm)
        if self.environment is not None and not isinstance(self.environment, str):
            raise ValueError(f"environment must be an id, got {shown(self.environment)}")
        check_integer("seed", self.seed, 0, 2**32 - 1)
        if plain(self.seed_ranges) != plain(_SEED_RANGES):
            raise ValueError(
                f"seed_ranges must be those of edge_gym.evaluation.seeds, {plain(_SEED_RANGES)}, "
                f"got {shown(self.seed_ranges)}"
            )
        object.__setattr__(self, "seed_ranges", _SEED_RANGES.copy())
        check_integer("steps", self.steps, 1)
        check_integer("lanes", self.lanes, 1, 10_000)
        check_integer("checkpoint_every", self.checkpoint_every, 1)
        check_number("reward_scale", self.reward_scale, 0, open_low=True)
        if self.action_bias is not None:
            object.__setattr__(self, "action_bias", _as_tuple("action_bias", self.action_bias))
            for value in self.action_bias:
                check_number("action_bias", value)
        if self.imitation is not None and self.imitation.margin:
            _check_use("imitation.margin", "margins", algorithm)
        if self.network.decoder is not None:
            _check_use("network.decoder", "decodes", algorithm)
        if self.network.decoder is not None and self.imitation is not None:
            raise ValueError(
                "imitation is of actions, network.decoder is for scores that are none: "
                "leave out one of them"
            )
        if not isinstance(self.train_config, Mapping):
            raise ValueError(f"train_config must be a mapping, got {shown(self.train_config)}")
        object.__setattr__(self, "variations", _as_tuple("variations", self.variations))
        for variation in self.variations:
            if not isinstance(variation, Mapping):
                raise ValueError(f"variations must be a list of mappings, got {shown(variation)}")
        if self.variations:
            _check_use("a list of variations", "varies", algorithm)
        checks = algorithm.hyperparameters
        _check_keys("hyperparameters", self.hyperparameters, list(checks), list(checks))
        for name, check in checks.items():
            check(f"hyperparameters.{name}", self.hyperparameters[name])
        algorithm.check(self)

    def as_mapping(self) -> dict[str, Any]:
        """Return what YAML and JSON can hold, and ``parse_recipe`` takes back."""
        mapping: dict[str, Any] = plain(asdict(self))
        return mapping


def parse_recipe(values: Any, where: str) -> Recipe:
    """Build a recipe from nested mappings.

    Args:
        values: What a YAML file holds.
        where: Its name, for messages.

    Raises:
        ValueError: If a key is unknown or missing or a value is out of range; the message names
            the file and the key.
    """
    try:
        _check_fields("the recipe", values, Recipe)
        values = dict(values)
        parts = (("network", PolicyNetwork), ("evaluation", Evaluation), ("imitation", Imitation))
        for name, part in parts:
            if values.get(name) is not None:
                _check_fields(name, values[name], part)
                values[name] = part(**values[name])
        return Recipe(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def load_recipe(path: str | PathLike[str]) -> Recipe:
    """Read a recipe from a YAML file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no valid recipe; the message names the file and the key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe at {path}")
    return _parse_yaml(path.read_bytes(), str(path))


def find_recipe(algorithm: str, env_id: str) -> Recipe:
    """Return the packaged recipe for an environment, else the algorithm's general one.

    The general recipe suits any environment, whoever registered it, as far as its actions suit the
    algorithm; ``has_recipe`` tells which of the two it is.

    Raises:
        ValueError: If the algorithm is unknown.
    """
    found = ALGORITHMS.find(algorithm)
    file = _packaged(algorithm, env_id)
    if file.is_file():
        return _parse_yaml(file.read_bytes(), file.name)
    return parse_recipe(found.default_recipe(), f"the general recipe of {algorithm}")


def has_recipe(algorithm: str, env_id: str) -> bool:
    """Return whether a recipe for this very environment is packaged."""
    return _packaged(algorithm, env_id).is_file()


def _packaged(algorithm: str, env_id: str) -> Traversable:
    name = env_id.removeprefix(f"{NAMESPACE}/").lower().replace("/", "--")
    return resources.files("edge_gym.agents") / "recipes" / f"{algorithm}-{name}.yaml"


def _parse_yaml(content: bytes, where: str) -> Recipe:
    try:
        values = load_yaml(content)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return parse_recipe(values, where)


def _check_use(what: str, ability: str, algorithm: Algorithm) -> None:
    """Raise a ``ValueError`` unless an algorithm has an ability, an attribute of ``Algorithm``."""
    if not getattr(algorithm, ability):
        able = [name for name in ALGORITHMS if getattr(ALGORITHMS.find(name), ability)]
        raise ValueError(f"{what} is for {' and '.join(able)}, not for {algorithm.name}")


def _check_fields(what: str, values: Any, kind: type[Any]) -> None:
    required = [
        f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING
    ]
    _check_keys(what, values, [f.name for f in fields(kind)], required)


def _check_keys(what: str, values: Any, known: list[str], required: list[str]) -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"{what} must be a mapping of {', '.join(known)}, got {shown(values)}")
    unknown = [repr(key) for key in values if key not in known]
    if unknown:
        raise ValueError(f"{what}: unknown {', '.join(unknown)}; known are {', '.join(known)}")
    missing = [key for key in required if key not in values]
    if missing:
        raise ValueError(f"{what}: {', '.join(missing)} missing")
