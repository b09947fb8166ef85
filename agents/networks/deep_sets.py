"""Networks that score each device or sample, for any number of them.

All devices, and all samples in their buffers, share one encoder, and each is scored by its own
embedding and by pooled ones (Zaheer et al., "Deep Sets", 2017), so a permutation of devices or
samples permutes the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edge_gym.agents.networks.activations import ACTIVATIONS, IN_PLACE
from edge_gym.agents.networks.scaling import CLIP, Parts, ScaledParts

_CHUNK = 2**19
"""Numbers of an embedding made at a time: what stays in the processor's cache is faster by far."""


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
        self.activation = IN_PLACE[shape.activation]
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
        hidden = IN_PLACE[self.shape.activation](hidden)
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
        hidden = IN_PLACE[self.shape.activation](self.joint(everything, parts["system"]))
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
