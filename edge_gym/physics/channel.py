"""Channel models: how the power gain of a link fades around its mean.

A channel is named in the configuration of every problem, ``channel="rayleigh"``, with parameters
after a colon: ``"rician:k=5"``, ``"nakagami:m=2,shadowing_db=6,correlation=0.9"``. Every model
takes

- ``shadowing_db``: standard deviation of log-normal shadowing, dB; 0 has none;
- ``correlation``: of the fading from one step to the next, in [0, 1): a first-order autoregressive
  (Gauss-Markov) process with the same distribution at every step; 0 fades anew at each;
- ``shadowing_correlation``: of the shadowing from one step to the next, in [0, 1]; 1 keeps it for
  the episode.

Gains have mean 1 but for shadowing, whose median is 1. A step is whatever fades at a time in a
problem: a transmission, a block, a round, a cycle.

Source: Simon and Alouini 2005, Digital Communication over Fading Channels, ch. 2 (distributions);
Baddour and Beaulieu 2005, Autoregressive Modeling for Fading Channel Simulation, IEEE Transactions
on Wireless Communications, eq. (3), here of first order.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from edge_gym.physics import wireless
from edge_gym.registry import Registry
from edge_gym.runtime.checks import check_number
from edge_gym.runtime.messages import shown
from edge_gym.typing import BoolArray, Float64Array

_NODES, _SHADOWING_NODES = 96, 24
LARGEST_GAIN = 1e6
"""Gains are cut here, 60 dB above their mean, so that no rate is infinite."""


@dataclass(frozen=True, kw_only=True)
class Channel(ABC):
    """A model of fading.

    A subclass states ``quantile``, from which all else follows; it may also state ``gain_of``, and
    from how many normal numbers, where that is faster. Its own parameters are further fields,
    checked in ``__post_init__``.

    Attributes:
        shadowing_db: Standard deviation of log-normal shadowing, dB.
        correlation: Of small-scale fading between steps, ρ.
        shadowing_correlation: Of shadowing between steps.
        n_normals: Independent normal numbers that a small-scale gain is made of.

    Raises:
        ValueError: If a parameter is out of range.
    """

    n_normals: ClassVar[int] = 1

    shadowing_db: float = 0.0
    correlation: float = 0.0
    shadowing_correlation: float = 1.0

    def __post_init__(self) -> None:
        check_number("shadowing_db", self.shadowing_db, 0, 20)
        check_number("correlation", self.correlation, 0, 1, open_high=True)
        check_number("shadowing_correlation", self.shadowing_correlation, 0, 1)

    @abstractmethod
    def quantile(self, probability: Float64Array) -> Float64Array:
        """Return the small-scale gain, mean 1, that is not exceeded with this probability.

        Args:
            probability: In [0, 1), of any shape.
        """

    def gain_of(self, normals: Float64Array) -> Float64Array:
        """Return small-scale gains, mean 1, from standard normal numbers.

        Args:
            normals: ``(n_normals, ...)``.

        Returns:
            Gains, ``(...)``.
        """
        # The last float below 1: no quantile is infinite.
        return self.quantile(np.minimum(special.ndtr(normals[0]), np.nextafter(1, 0)))

    @property
    def memory(self) -> int:
        """Numbers a link that ``step`` carries from one step to the next; 0 has no memory."""
        return self.n_drawn if self.correlation or self.shadowing_db else 0

    @property
    def n_drawn(self) -> int:
        """Standard normal numbers that one step of a link takes."""
        return self.n_normals + bool(self.shadowing_db)

    def gains(self, rng: np.random.Generator, steps: int, links: tuple[int, ...]) -> Float64Array:
        """Draw the gains of several steps with a generator of one's own.

        Args:
            rng: The generator.
            steps: Number of steps.
            links: Shape of the links.

        Returns:
            ``(steps, *links)``; every step is distributed like the first.
        """
        drawn = np.empty((steps, *links))
        memory: Float64Array | None = None
        for step in range(steps):
            drawn[step], memory = self.step(rng.standard_normal((self.n_drawn, *links)), memory)
        return drawn

    def step(
        self,
        normals: Float64Array,
        memory: Float64Array | None = None,
        begun: BoolArray | bool = True,
    ) -> tuple[Float64Array, Float64Array]:
        """Return the gains of one step.

        Args:
            normals: Standard normal numbers, ``(n_drawn, ...)``.
            memory: What this returned for the step before, ``(memory, ...)``; None at first.
            begun: Where there was a step before; broadcasts to ``(...)``.

        Returns:
            The gains, ``(...)``, and what to hand over at the next step, ``(memory, ...)``.
        """
        if not self.memory:
            return self._cut(self.gain_of(normals)), normals[:0]
        if memory is not None:
            kept = np.full(self.n_drawn, self.correlation)
            kept[self.n_normals :] = self.shadowing_correlation
            kept = np.where(begun, kept.reshape(-1, *[1] * (normals.ndim - 1)), 0.0)
            normals = kept * memory + np.sqrt(1 - kept**2) * normals
        gains = self.gain_of(normals[: self.n_normals])
        if self.shadowing_db:
            gains = gains * wireless.db_to_linear(self.shadowing_db * normals[-1])
        return self._cut(gains), normals

    def spectral_efficiency(self, mean_snr: ArrayLike) -> Float64Array:
        """Return the ergodic spectral efficiency E[log₂(1 + γ̄·g)], bit/s/Hz.

        Args:
            mean_snr: γ̄, not negative, of any shape.

        Source: the mean over small-scale fading and shadowing, by quadrature over both quantile
        functions; Rayleigh fading without shadowing has its closed form, Ren et al. 2021, eq. (5).
        """
        snr = np.asarray(mean_snr, np.float64)
        gains, weights = _quadrature(self)
        return np.asarray(np.log2(1 + snr[..., None] * gains) @ weights)

    def ergodic_rate(self, bandwidth_hz: float, mean_snr: ArrayLike) -> Float64Array:
        """Return the mean rate over fading, bit/s: ``spectral_efficiency`` times the band."""
        return bandwidth_hz * self.spectral_efficiency(mean_snr)

    @staticmethod
    def _cut(gain: Float64Array) -> Float64Array:
        return np.minimum(gain, LARGEST_GAIN)


@functools.lru_cache(maxsize=64)
def _quadrature(channel: Channel) -> tuple[Float64Array, Float64Array]:
    """Return gains and weights, ``(n,)`` each, over which means are taken."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    u, weights = (1 + nodes) / 2, weights / 2
    # Dense at both ends: gains go to 0 like the probability, and grow without bound near 1.
    gains = channel.quantile(np.minimum(special.betainc(4, 4, u), np.nextafter(1, 0)))
    weights = weights * 140 * (u * (1 - u)) ** 3
    if channel.shadowing_db:
        normals, shares = np.polynomial.hermite_e.hermegauss(_SHADOWING_NODES)
        shadowing = wireless.db_to_linear(channel.shadowing_db * normals)
        gains = np.outer(shadowing, gains).ravel()
        weights = np.outer(shares / shares.sum(), weights).ravel()
    return np.minimum(gains, LARGEST_GAIN), weights


@dataclass(frozen=True, kw_only=True)
class Rayleigh(Channel):
    """No line of sight: the gain is exponential."""

    n_normals = 2

    def quantile(self, probability: Float64Array) -> Float64Array:
        """Return -ln(1 - p)."""
        return -np.log1p(-np.asarray(probability))

    def gain_of(self, normals: Float64Array) -> Float64Array:
        """Return |h|² of a complex normal amplitude."""
        return np.asarray((normals**2).sum(axis=0) / 2)

    def spectral_efficiency(self, mean_snr: ArrayLike) -> Float64Array:
        """Return the mean over fading, in closed form where there is no shadowing."""
        return self.ergodic_rate(1.0, mean_snr)

    def ergodic_rate(self, bandwidth_hz: float, mean_snr: ArrayLike) -> Float64Array:
        """Return the mean over fading, in closed form where there is no shadowing."""
        if self.shadowing_db:
            return bandwidth_hz * super().spectral_efficiency(mean_snr)
        return wireless.ergodic_rate(bandwidth_hz, mean_snr)


@dataclass(frozen=True, kw_only=True)
class Rician(Channel):
    """A line of sight beside scattered paths.

    Attributes:
        k: Power of the line of sight over that of all scattered paths, K; 0 is Rayleigh fading.
    """

    n_normals = 2

    k: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("k", self.k, 0, 1e4)

    def quantile(self, probability: Float64Array) -> Float64Array:
        """Return the quantile of a noncentral χ² of two degrees of freedom, scaled to mean 1."""
        squared = special.chndtrix(probability, 2, 2 * self.k)
        return np.asarray(squared / (2 * (self.k + 1)))

    def gain_of(self, normals: Float64Array) -> Float64Array:
        """Return |h|² of a constant and a complex normal amplitude."""
        scatter = normals / math.sqrt(2 * (self.k + 1))
        in_phase = math.sqrt(self.k / (self.k + 1)) + scatter[0]
        return np.asarray(in_phase**2 + scatter[1] ** 2)


@dataclass(frozen=True, kw_only=True)
class Nakagami(Channel):
    """Fading between heavier than Rayleigh (m < 1) and none (m large): the gain is Γ(m, 1/m).

    Attributes:
        m: The shape, at least ½.
    """

    m: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("m", self.m, 0.5, 1e4)

    def quantile(self, probability: Float64Array) -> Float64Array:
        """Return the quantile of a gamma distribution of mean 1."""
        return np.asarray(special.gammaincinv(self.m, probability) / self.m)


@dataclass(frozen=True, kw_only=True)
class NoFading(Channel):
    """White noise alone: the gain is 1, but for shadowing."""

    n_normals = 0

    def quantile(self, probability: Float64Array) -> Float64Array:
        """Return 1."""
        return np.ones_like(probability)

    def gain_of(self, normals: Float64Array) -> Float64Array:
        """Return 1."""
        return np.ones(normals.shape[1:])


CHANNELS: Registry[type[Channel]] = Registry("channel")
"""Channel models by name."""


def register_channel(name: str, channel: type[Channel] | str) -> None:
    """Let every problem's ``channel=`` take a model of your own.

    Args:
        name: By which configurations name it.
        channel: A subclass of ``Channel``, or where it is, ``"module:Class"``.

    Raises:
        ValueError: If the name is taken.
    """
    CHANNELS.register(name, channel)


for _name, _channel in (
    ("rayleigh", Rayleigh),
    ("rician", Rician),
    ("nakagami", Nakagami),
    ("awgn", NoFading),
):
    register_channel(_name, _channel)


@functools.lru_cache(maxsize=64)
def make_channel(spec: str) -> Channel:
    """Make the channel that a configuration names.

    Args:
        spec: ``name`` or ``name:parameter=number,parameter=number``.

    Raises:
        ValueError: If the name or a parameter is unknown, or a value is out of range.
    """
    name, colon, text = spec.partition(":")
    kind = CHANNELS.find(name.strip())
    known = [field.name for field in fields(kind)]
    parameters: dict[str, float] = {}
    for part in text.split(",") if colon else ():
        parameter, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ValueError(
                f"channel must be name:parameter=number,parameter=number, got {shown(spec)}"
            )
        if parameter not in known:
            raise ValueError(
                f"channel {name!r} has no parameter {shown(parameter)}; it has {', '.join(known)}"
            )
        try:
            parameters[parameter] = float(value)
        except ValueError:
            raise ValueError(
                f"channel {name!r}: {parameter} must be a number, got {shown(value)}"
            ) from None
    return kind(**parameters)


def check_channel(name: str, spec: object) -> None:
    """Raise a ValueError that names the field ``name`` unless ``make_channel`` takes ``spec``."""
    if not isinstance(spec, str):
        raise ValueError(f"{name} must be the name of a channel model, got {shown(spec)}")
    try:
        make_channel(spec)
    except ValueError as error:
        raise ValueError(f"{name} {shown(spec)}: {error}") from None
