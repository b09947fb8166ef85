"""The agents' networks in plain torch: what acts needs no stable-baselines3.

Flat observations go through a multilayer perceptron. Where an observation has devices, and samples
in their buffers, all share one encoder, and each is scored by its own embedding and by pooled ones
(Zaheer et al., "Deep Sets", 2017): a network of this kind is equivariant to permutations of devices
and of samples, and serves any number of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edge_gym.agents.decoders import Decoder
from edge_gym.agents.interface import Reading
from edge_gym.runtime.isolation import in_isolation

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU}
CLIP = 5.0
"""Scaled features stay within plus and minus this."""
Parts = dict[str, Tensor]
"""An observation of devices by part: ``devices``, ``system`` and, where there are, ``samples``."""
SIGN_SHARPNESS = 5.0
"""Where signs are explored, a score ``s`` is positive with the probability 1/(1 + exp(-5s))."""

_IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh_,
    "relu": torch.relu_,
    "elu": functional.elu_,
}
_CHUNK = 2**19
"""Numbers of an embedding made at a time: what stays in the processor's cache is faster by far."""


class ScaledFeatures(nn.Module):
    """Scales flat observations by their table: ``(x - centre) / spread``, clipped.

    It is a features extractor to stable-baselines3, which asks for ``features_dim`` alone, so it
    need not be derived from a class of that library.

    Args:
        observation_space: The flat observation's space, ``(F,)``.
        centre: Typical values, ``(F,)``.
        spread: Typical deviations from them, ``(F,)``.
        clip: Bound on the scaled values; infinity for none.

    Raises:
        ValueError: If the observation is not flat.
    """

    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        centre: NDArray[np.float32],
        spread: NDArray[np.float32],
        clip: float = CLIP,
    ) -> None:
        super().__init__()
        if observation_space.shape != np.shape(centre):
            raise ValueError(f"agents see flat observations, not {observation_space}")
        self.features_dim = len(centre)
        self.clip = clip
        self.register_buffer("centre", torch.tensor(centre))
        self.register_buffer("spread", torch.tensor(spread))

    def forward(self, observations: Tensor) -> Tensor:
        """Return scaled observations, ``(..., F)``."""
        return ((observations - self.centre) / self.spread).clamp(-self.clip, self.clip)


class PolicyNetwork(nn.Module):
    """From observations to one score per action: PPO's logits or DQN's Q-values.

    Args:
        layers: Weight ``(out, in)`` and bias ``(out,)`` of each linear layer, first to last.
        activation: Name of what stands between them, one of ``ACTIVATIONS``.
        centre: What observations are centred on, ``(F,)``.
        spread: What they are divided by, ``(F,)``.
        clip: Bound on the scaled observations.

    Raises:
        ValueError: If the arrays do not fit together or are not finite.
    """

    def __init__(
        self,
        layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
        activation: str,
        centre: NDArray[np.float32],
        spread: NDArray[np.float32],
        clip: float = CLIP,
    ) -> None:
        super().__init__()
        width = len(centre)
        arrays = [centre, spread, *(array for layer in layers for array in layer)]
        if not all(np.isfinite(array).all() for array in arrays):
            raise ValueError("a network's numbers must be finite")
        modules: list[nn.Module] = []
        for weight, bias in layers:
            if weight.shape != (len(bias), width):
                raise ValueError(f"a layer of shape {weight.shape} does not follow {width} units")
            linear = nn.Linear(width, len(bias))
            linear.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
            modules += [linear, ACTIVATIONS[activation]()]
            width = len(bias)
        space = spaces.Box(-np.inf, np.inf, (len(centre),))
        self.scaling = ScaledFeatures(space, centre, spread, clip)
        self.trunk = nn.Sequential(*modules[:-1])
        self.activation = activation
        self.n_actions = width

    def forward(self, observations: Tensor) -> Tensor:
        """Return scores, ``(..., A)``."""
        scores: Tensor = self.trunk(self.scaling(observations))
        return scores


class ScaledParts(nn.Module):
    """Scales an observation of devices by its tables, and reads which slots hold a sample.

    It is a features extractor to stable-baselines3, as ``ScaledFeatures`` is; ``features_dim``,
    which that library asks for, is of no use to networks on devices.

    Args:
        observation_space: The observation's space; its number of devices and samples is not used.
        scaling: Centres and spreads of each part's columns, ``(F,)`` each.
        present: Position of the column ``present`` in the samples' table; None without one.
        clip: Bound on the scaled values.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any] | None,
        scaling: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]],
        present: int | None = None,
        clip: float = CLIP,
    ) -> None:
        super().__init__()
        self.parts = sorted(scaling)
        self.present = present
        self.clip = clip
        self.features_dim = 1
        for part, (centre, spread) in scaling.items():
            self.register_buffer(f"{part}_centre", torch.tensor(centre))
            self.register_buffer(f"{part}_spread", torch.tensor(spread))

    def forward(self, observations: Mapping[str, Tensor]) -> Parts:
        """Return the scaled parts, and ``present``, ``(..., K, N)`` booleans, where it is known."""
        parts: Parts = {}
        for part in self.parts:
            centre: Tensor = getattr(self, f"{part}_centre")
            spread: Tensor = getattr(self, f"{part}_spread")
            scaled = (observations[part] - centre).div_(spread)
            parts[part] = scaled.clamp_(-self.clip, self.clip)
        if self.present is not None:
            parts["present"] = observations["samples"][..., self.present] > 0.5
        return parts


class JointLinear(nn.Linear):
    """A linear layer on inputs side by side, of which the first spans more axes than the others.

    ``W [x, y] + b = W_x x + W_y y + b``: what many samples share is multiplied once and then
    broadcast, never laid out beside each of them.

    Args:
        widths: Features of each input.
        units: Features of the output.
    """

    def __init__(self, widths: Sequence[int], units: int) -> None:
        super().__init__(sum(widths), units)
        self.widths = list(widths)

    def forward(self, finest: Tensor, *others: Tensor) -> Tensor:
        """Return ``(..., units)`` with the axes of ``finest``; ``others`` broadcast to them."""
        weight, *weights = torch.split(self.weight, self.widths, dim=1)
        shared: Tensor = self.bias
        for other, its_weight in zip(others, weights, strict=True):
            shared = shared + functional.linear(other, its_weight)
        return functional.linear(finest, weight).add_(shared)


@dataclass(frozen=True)
class DeviceArchitecture:
    """The shape of a network on devices.

    Attributes:
        widths: Number of columns of each part, ``devices``, ``system`` and perhaps ``samples``.
        actions_per: Whether each ``"sample"``, each ``"device"`` or the whole ``"system"`` is
            scored, or each ``"combination"`` of the devices' levels, by the sum of their scores.
        hidden: Units of the encoder, of the layer that adds the context, and of what follows.
        activation: What follows each, one of ``ACTIVATIONS``.
        context: What a score knows of the others: ``"none"``, their ``"mean"`` embedding, or
            also the largest values, ``"mean-max"``. The whole system is known by both.
        outputs: Scores of each: the actions of the whole system, or the columns of an action or
            the levels for each device.

    Raises:
        ValueError: If these do not fit together.
    """

    widths: Mapping[str, int]
    actions_per: str
    hidden: tuple[int, ...]
    activation: str
    context: str
    outputs: int = 1

    def __post_init__(self) -> None:
        if len(self.hidden) < 2:
            raise ValueError(
                "network.hidden must have two layers at least for devices, the encoder's and the "
                f"one after pooling, got {list(self.hidden)}"
            )
        known = {"devices", "system", "samples"}
        if not {"devices", "system"} <= set(self.widths) <= known:
            raise ValueError(
                "a network on devices sees devices, system and perhaps samples, not "
                f"{', '.join(self.widths)}"
            )
        scored = {"system", "device", "combination", self.finest.removesuffix("s")}
        if self.actions_per not in scored:
            raise ValueError(f"no way to score each {self.actions_per} of {', '.join(self.widths)}")

    @property
    def finest(self) -> str:
        """The part with an embedding for each of its rows."""
        return "samples" if "samples" in self.widths else "devices"


class _Encoder(nn.Module):
    """Embeds samples, where there are none devices, and pools the embeddings."""

    def __init__(self, shape: DeviceArchitecture, largest: bool) -> None:
        super().__init__()
        self.largest = largest
        self.has_samples = shape.finest == "samples"
        self.parts = [part for part in ("samples", "devices", "system") if part in shape.widths]
        self.layer = JointLinear([shape.widths[part] for part in self.parts], shape.hidden[0])
        self.activation = _IN_PLACE[shape.activation]
        self.pooled = shape.hidden[0] * (2 if largest else 1)

    def forward(self, parts: Parts) -> Tensor:
        """Return embeddings, ``(..., K, N, H)`` of samples or ``(..., K, H)`` of devices."""
        finest, *others = (parts[part] for part in self.parts)
        aligned = [_align(other, finest) for other in others]
        return self.activation(self.layer(finest, *aligned))

    def pool(self, embeddings: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what each device's samples have in common, ``(..., K, P)``, and all, ``(..., P)``.

        P holds means, and the largest values where these are asked for. Devices without samples
        are pooled to zeros, and left out of what all have in common.
        """
        if not self.has_samples:
            pools = [embeddings.mean(dim=-2)]
            if self.largest:
                pools.append(embeddings.max(dim=-2).values)
            return embeddings, torch.cat(pools, dim=-1)
        if present is None:
            present = torch.ones(embeddings.shape[:-1], dtype=torch.bool)
        holding = present.any(dim=-1)
        mean = _weighted(embeddings, present)
        means, overall = [mean], [_weighted(mean, holding)]
        if self.largest:
            # Absent samples are less than any other; where all are, masks stop value and gradient.
            absent = torch.where(present, 0.0, -torch.inf).unsqueeze(-1)
            largest = (embeddings + absent).max(dim=-2).values
            nobody = ~holding.any(dim=-1, keepdim=True)
            means.append(largest.masked_fill(~holding.unsqueeze(-1), 0))
            overall.append(largest.max(dim=-2).values.masked_fill(nobody, 0))
        return torch.cat(means, dim=-1), torch.cat(overall, dim=-1)


class SystemScores(nn.Module):
    """From the scaled parts of an observation to the scores of actions that concern all devices.

    Args:
        shape: The network's shape.
    """

    def __init__(self, shape: DeviceArchitecture) -> None:
        super().__init__()
        self.shape = shape
        self.summary = DeviceSummary(shape)
        self.score = nn.Linear(shape.hidden[-1], shape.outputs)

    def forward(self, parts: Parts) -> Tensor:
        """Return scores, ``(..., outputs)``."""
        scores: Tensor = self.score(self.summary(parts))
        return scores


class DeviceScores(nn.Module):
    """From the scaled parts of an observation to the scores of each device or sample.

    Args:
        shape: The network's shape.
    """

    def __init__(self, shape: DeviceArchitecture) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = _Encoder(shape, largest=shape.context == "mean-max")
        units, pooled = shape.hidden[0], self.encoder.pooled
        self.of_samples = shape.actions_per == "sample"
        # A device with samples is known by what these have in common.
        self.by_pool = not self.of_samples and shape.finest == "samples"
        widths = [pooled if self.by_pool else units]
        if shape.context != "none":
            widths += [pooled] * (2 if self.of_samples else 1)
        self.joint = JointLinear(widths, shape.hidden[1])
        self.trunk = _trunk(shape)
        self.score = nn.Linear(shape.hidden[-1], shape.outputs)

    def forward(self, parts: Parts) -> Tensor:
        """Return scores side by side: of devices, samples or combinations, ``(..., A)``."""
        return _in_chunks(self._scores, parts, self.shape)

    def _scores(self, parts: Parts) -> Tensor:
        own = self.encoder(parts)
        context: list[Tensor] = []
        if self.by_pool or self.shape.context != "none":
            devices, everything = self.encoder.pool(own, parts.get("present"))
            own = devices if self.by_pool else own
            if self.shape.context != "none":
                context = [devices, everything] if self.of_samples else [everything]
        hidden = self.joint(own, *(_align(pooled, own) for pooled in context))
        hidden = _IN_PLACE[self.shape.activation](hidden)
        scores: Tensor = self.score(self.trunk(hidden))
        if self.shape.actions_per == "combination":
            return _of_combinations(scores)
        return scores.flatten(-3 if self.of_samples else -2)


class DeviceSummary(nn.Module):
    """From the scaled parts of an observation to features of the whole, as a value needs them.

    Args:
        shape: The network's shape; the context is always the means and the largest values.
    """

    def __init__(self, shape: DeviceArchitecture) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = _Encoder(shape, largest=True)
        pooled = 2 * shape.hidden[0]
        self.joint = JointLinear([pooled, shape.widths["system"]], shape.hidden[1])
        self.trunk = _trunk(shape)

    def forward(self, parts: Parts) -> Tensor:
        """Return features, ``(..., hidden[-1])``."""
        return _in_chunks(self._features, parts, self.shape)

    def _features(self, parts: Parts) -> Tensor:
        _, everything = self.encoder.pool(self.encoder(parts), parts.get("present"))
        hidden = _IN_PLACE[self.shape.activation](self.joint(everything, parts["system"]))
        features: Tensor = self.trunk(hidden)
        return features


def scores_network(shape: DeviceArchitecture) -> DeviceScores | SystemScores:
    """Return the network for what is scored."""
    return SystemScores(shape) if shape.actions_per == "system" else DeviceScores(shape)


class DeviceNetwork(nn.Module):
    """From an observation of devices to the scores of actions, for any number of devices.

    Args:
        shape: The network's shape.
        scaling: Centres and spreads of each part's columns, ``(F,)`` each.
        weights: Parameters of ``scores_network(shape)`` by name.
        present: Position of the column ``present`` in the samples' table; None without one.
        clip: Bound on the scaled observations.

    Raises:
        ValueError: If the arrays are not finite.
        RuntimeError: If they do not fit the shape.
    """

    def __init__(
        self,
        shape: DeviceArchitecture,
        scaling: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]],
        weights: Mapping[str, NDArray[np.float32]],
        present: int | None = None,
        clip: float = CLIP,
    ) -> None:
        super().__init__()
        arrays = [*weights.values(), *(array for pair in scaling.values() for array in pair)]
        if not all(np.isfinite(array).all() for array in arrays):
            raise ValueError("a network's numbers must be finite")
        self.scaling = ScaledParts(None, scaling, present, clip)
        self.columns = shape.outputs if shape.actions_per == "device" else 1
        self.scores = scores_network(shape)
        self.scores.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})

    def forward(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Return scores, ``(..., A)``, or ``(..., K, columns)`` of actions with columns."""
        scores: Tensor = self.scores(self.scaling(observations))
        if self.columns > 1:
            scores = scores.reshape(*scores.shape[:-1], -1, self.columns)
        return scores


def as_many_positive(scores: Tensor, columns: int = 1) -> Tensor:
    """Shift scores, ``(..., K)``, so that as many are positive as in exploration on average.

    Where devices have several ``columns``, ``(..., K, columns)``, each column is shifted by itself.

    An agent that explores signs may hesitate between many devices, none of which is likely to be
    chosen, and yet choose some of them every time. What it does best without chance is to choose
    as many, those of the largest scores: the expected number rounded, one at least.
    """
    if columns > 1:
        return as_many_positive(scores.mT).mT
    chances = torch.sigmoid(SIGN_SHARPNESS * scores)
    number = chances.sum(dim=-1, keepdim=True).round().clamp(min=1)
    ordered = torch.sort(scores, dim=-1, descending=True).values
    beyond = torch.cat([ordered[..., 1:], ordered[..., -1:] - 1], dim=-1)
    last = number.long() - 1
    threshold = (ordered.gather(-1, last) + beyond.gather(-1, last)) / 2
    return scores - threshold


class AgentPolicy:
    """A trained agent as a policy: deterministic, for any number of lanes at a time.

    Args:
        network: Scores the actions.
        metadata: What the agent's file says of it.
        name: What results call it.

    Attributes:
        metadata: Algorithm, environment, recipe, seeds, versions and evaluation.
        decoder: Makes actions of scores that are none; None where they are.
        reading: Where its columns stand in what is observed; None if nothing else is.
    """

    def __init__(
        self,
        network: nn.Module,
        metadata: Mapping[str, Any],
        name: str,
    ) -> None:
        self.decoder: Decoder | None = None
        self.reading: Reading | None = None
        self.network: Any = network.eval()
        self.metadata = dict(metadata)
        self.name = name
        self._continuous = self.metadata["action_space"].get("kind") == "box"
        self._signs = bool(self.metadata.get("signs", False))
        self._start = int(self.metadata["action_space"].get("start", 0))

    def _without_chance(self, scores: Tensor) -> Tensor:
        columns: int = getattr(self.network, "columns", 1)
        return as_many_positive(scores, columns) if self._signs else scores

    @property
    def fingerprint(self) -> str:
        """What tells its weights from others."""
        weights = (value.numpy().tobytes() for value in self.network.state_dict().values())
        return hashlib.sha256(b"".join(weights)).hexdigest()[:16]

    def begin(self, lanes: NDArray[np.int64], seeds: Sequence[int]) -> None:
        """Episodes begin in ``lanes``: nothing to do, the policy remembers nothing."""

    @in_isolation
    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return the best of the possible actions, or the mean of continuous ones.

        Args:
            observations: ``(..., F)``, or a mapping of parts with any leading axes.
            masks: Which discrete actions are possible, ``(..., A)``, or all levels of one device
                after the other; None if all are.

        Returns:
            Discrete actions, ``(...)``, levels of devices, ``(..., K)``, or scores of devices in
            [-1, 1], ``(..., K)`` or ``(..., K, columns)``.
        """
        own = observations if self.reading is None else self.reading.read(observations)
        with torch.no_grad():
            found = self.network(tensors(own))
            scores = self._without_chance(found).numpy()
        if self._continuous:
            actions = np.asarray(scores.clip(-1, 1), np.float32)
            if self.decoder is not None:
                if self.network.columns == 1:
                    actions = actions[..., None]
                actions = self.decoder.decode(observations, actions)
            return actions if self.reading is None else self.reading.complete(actions, observations)
        if masks is not None:
            scores = np.where(np.reshape(masks, scores.shape), scores, -np.inf)
        return np.asarray(scores.argmax(axis=-1) + self._start, np.int64)


def set_action_bias(head: nn.Linear, bias: Sequence[float]) -> None:
    """Let a policy begin with a preference: set the bias of its action layer.

    Raises:
        ValueError: If there is not one value per action.
    """
    if len(bias) != head.out_features:
        raise ValueError(
            f"action_bias must have one value for each of {head.out_features} actions, "
            f"got {list(bias)}"
        )
    with torch.no_grad():
        head.bias.copy_(torch.tensor(bias))


def tensors(observations: Any) -> Any:
    """Return an observation or its parts as float32 tensors."""
    if isinstance(observations, Mapping):
        return {part: tensors(values) for part, values in observations.items()}
    return torch.as_tensor(observations, dtype=torch.float32)


def _align(coarse: Tensor, fine: Tensor) -> Tensor:
    """Give ``coarse`` the axes before its last that it lacks, of length 1."""
    for _ in range(fine.ndim - coarse.ndim):
        coarse = coarse.unsqueeze(-2)
    return coarse


def _weighted(embeddings: Tensor, counted: Tensor) -> Tensor:
    """Return means over the last axis but one of what is counted; zeros where nothing is."""
    weights = counted.to(embeddings.dtype)
    weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=1)
    return (embeddings * weights.unsqueeze(-1)).sum(dim=-2)


def _of_combinations(scores: Tensor) -> Tensor:
    """Return the sums of all combinations of levels, ``(..., L^K)``; the last one's count least.

    As logits they are of independent choices; as values they add up over devices (Sunehag et al.,
    "Value-Decomposition Networks For Cooperative Multi-Agent Learning", 2018).
    """
    first, *others = scores.unbind(-2)
    for other in others:
        first = (first.unsqueeze(-1) + other.unsqueeze(-2)).flatten(-2)
    return first


def _trunk(shape: DeviceArchitecture) -> nn.Sequential:
    modules: list[nn.Module] = []
    for width, units in zip(shape.hidden[1:], shape.hidden[2:], strict=False):
        modules += [nn.Linear(width, units), ACTIVATIONS[shape.activation]()]
    return nn.Sequential(*modules)


def _in_chunks(
    network: Callable[[Parts], Tensor], parts: Parts, shape: DeviceArchitecture
) -> Tensor:
    """Apply a network to the leading axis of ``parts``, if there is one, a few rows at a time."""
    if parts["system"].ndim == 1:
        return network(parts)
    rows = len(parts["system"])
    per_row = parts[shape.finest][..., 0].numel() // max(rows, 1) * max(shape.hidden)
    size = max(_CHUNK // max(per_row, 1), 1)
    if rows <= size:
        return network(parts)
    chunks = zip(*(torch.split(part, size) for part in parts.values()), strict=True)
    return torch.cat([network(dict(zip(parts, chunk, strict=True))) for chunk in chunks])
