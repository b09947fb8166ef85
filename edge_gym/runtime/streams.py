"""Random numbers by purpose: what was decided before never shifts what chance brings next.

An episode has one key of 64 bits. Every draw follows from this key, from what the draw is for, from
the step that it belongs to and from its place within the step, and from nothing else. Two policies
on one seed therefore meet the same channels, losses and orders, whatever each of them decided
before; and all lanes are drawn at once in compiled code.

Numbers come from the counter-based generator Philox4x32-10 (Salmon et al. 2011, Parallel Random
Numbers: As Easy as 1, 2, 3, SC'11): 128 bits from a counter of 128 bits and a key of 64 bits. The
counter holds the place (64 bits), the step and the purpose (32 bits each).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from edge_gym.runtime.compiling import compiled
from edge_gym.typing import Float64Array, IntArray

Keys = NDArray[np.uint64]
"""Keys of 64 bits each."""

_PARTS = 1 << 32


class Purpose(IntEnum):
    """What is drawn; each has a stream of its own. Problems of other packages count from 1,000."""

    DATA = 1
    PLACES = 2
    PROCESSORS = 3
    MODEL = 4
    CHANNEL = 5
    NOISE = 6
    SAMPLES = 7
    ORDERS = 8
    ROUNDING = 9
    LOSSES = 10
    SLOW_DOWNS = 11
    TASKS = 12
    MOVES = 13
    ENERGY = 14
    LABELS = 15


class Streams:
    """The streams of all lanes.

    Arguments ``lanes`` are lane indices ``(m,)``; ``step`` is a number, or one for each of them.

    Args:
        n_lanes: Number of lanes.

    Attributes:
        episode: Each lane's key, ``(n_lanes,)``.
    """

    def __init__(self, n_lanes: int) -> None:
        self.episode: Keys = np.zeros(n_lanes, np.uint64)

    def begin(self, lanes: IntArray, generators: Sequence[np.random.Generator]) -> None:
        """Draw the keys of new episodes; ``generators[lane]`` is the lane's own."""
        for lane in lanes.tolist():
            self.episode[lane] = generators[lane].integers(_PARTS * _PARTS, dtype=np.uint64)

    def uniforms(
        self, lanes: IntArray, purpose: int, shape: tuple[int, ...], step: ArrayLike = 0
    ) -> Float64Array:
        """Draw numbers in [0, 1), ``(m, *shape)``."""
        drawn = np.empty((len(lanes), math.prod(shape)))
        _fill_uniforms(*self._at(lanes, purpose, step), drawn)
        return drawn.reshape(len(lanes), *shape)

    def normals(
        self,
        lanes: IntArray,
        purpose: int,
        shape: tuple[int, ...],
        step: ArrayLike = 0,
        dtype: DTypeLike = np.float64,
    ) -> NDArray[Any]:
        """Draw standard normal numbers, ``(m, *shape)``, in single or double precision."""
        drawn = np.empty((len(lanes), math.prod(shape)), dtype)
        _fill_normals(*self._at(lanes, purpose, step), drawn)
        return drawn.reshape(len(lanes), *shape)

    def keys(self, lanes: IntArray, purpose: int, number: int, step: ArrayLike = 0) -> Keys:
        """Draw keys for what draws by itself, ``(m, number)``."""
        drawn = np.empty((len(lanes), number), np.uint64)
        _fill_keys(*self._at(lanes, purpose, step), drawn)
        return drawn

    def generator(self, lane: int, purpose: int, step: int = 0) -> np.random.Generator:
        """Return a generator of NumPy for what is drawn rarely, or by others.

        Its numbers are not those of the other methods.
        """
        key = [int(self.episode[lane]), (int(purpose) << 32) + int(step)]
        return np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))

    def generators(
        self, lanes: IntArray, purpose: int, step: ArrayLike = 0
    ) -> Sequence[np.random.Generator]:
        """Return a generator for each of ``lanes``, made when it is asked for."""
        return _LazyGenerators(self, lanes, purpose, np.broadcast_to(step, len(lanes)))

    def get_state(self, lanes: IntArray) -> dict[str, Any]:
        """Return the keys of ``lanes``, sharing no memory."""
        return {"episode": self.episode[lanes]}

    def set_state(self, lanes: IntArray, state: Mapping[str, Any]) -> None:
        """Restore what ``get_state`` returned for as many lanes."""
        self.episode[lanes] = state["episode"]

    def _at(self, lanes: IntArray, purpose: int, step: ArrayLike) -> tuple[Keys, int, IntArray]:
        steps = np.array(np.broadcast_to(step, len(lanes)), np.int64)
        return self.episode[lanes], int(purpose), steps


class _LazyGenerators(Sequence[np.random.Generator]):
    """Generators that are made when they are asked for, since most are not."""

    def __init__(self, streams: Streams, lanes: IntArray, purpose: int, steps: IntArray) -> None:
        self._streams, self._lanes, self._purpose, self._steps = streams, lanes, purpose, steps
        self._made: dict[int, np.random.Generator] = {}

    def __len__(self) -> int:
        return len(self._lanes)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        if place not in self._made:
            lane, step = int(self._lanes[place]), int(self._steps[place])
            self._made[place] = self._streams.generator(lane, self._purpose, step)
        return self._made[place]

    def __iter__(self) -> Iterator[np.random.Generator]:
        return (self[i] for i in range(len(self)))


def permutations(
    keys: Keys, counts: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]]
) -> tuple[IntArray, IntArray]:
    """Return random orders, several jobs' behind each other.

    Each job goes again and again through ``range(count)``, in a new order each time, until it has
    as many numbers as it wants. What comes first does not depend on how many are wanted.

    Args:
        keys: A key for each job, ``(J,)``.
        counts: How many things it orders, ``(J,)``, at least 1 where any number is wanted.
        lengths: How many numbers it wants, ``(J,)``.

    Returns:
        The numbers, ``(sum(lengths),)``, and where each job's begin, ``(J,)``.
    """
    counts, lengths = counts.astype(np.int64), lengths.astype(np.int64)
    ends = np.cumsum(lengths)
    begins = ends - lengths
    order = np.empty(int(ends[-1]) if len(ends) else 0, np.int64)
    scratch = np.empty(int(counts.max(initial=0)), np.int64)
    _permute(keys, counts, lengths, begins, scratch, order)
    return order, begins


def uniforms_of(keys: Keys, number: int) -> NDArray[np.float32]:
    """Draw numbers in [0, 1) in single precision, ``(J, number)``, from keys ``(J,)``."""
    drawn = np.empty((len(keys), number), np.float32)
    _fill_singles(keys, drawn)
    return drawn


@compiled(inline="always")
def _block(place, step, purpose, key):  # type: ignore[no-untyped-def]
    """Return four words of 32 bits, held in 64: Philox4x32 in ten rounds."""
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    c0, c1 = place & low, place >> half
    c2, c3 = step & low, purpose & low
    k0, k1 = key & low, key >> half
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c0
        p1 = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ k0, p1 & low, (p0 >> half) ^ c3 ^ k1, p0 & low
        k0 = (k0 + np.uint64(0x9E3779B9)) & low
        k1 = (k1 + np.uint64(0xBB67AE85)) & low
    return c0, c1, c2, c3


@compiled(inline="always")
def _fraction(high, low):  # type: ignore[no-untyped-def]
    """Return a number in [0, 1) of 53 bits from two words."""
    whole = (high >> np.uint64(5)) * np.uint64(67108864) + (low >> np.uint64(6))
    return np.float64(whole) / 9007199254740992.0


@compiled()
def philox(place, step, purpose, key):  # type: ignore[no-untyped-def]
    """Return the four words of a counter and a key, for tests against the published ones."""
    return _block(np.uint64(place), np.uint64(step), np.uint64(purpose), np.uint64(key))


@compiled()
def _fill_uniforms(keys, purpose, steps, drawn):  # type: ignore[no-untyped-def]
    for i in range(len(keys)):
        for j in range(0, drawn.shape[1], 2):
            a, b, c, d = _block(np.uint64(j // 2), np.uint64(steps[i]), np.uint64(purpose), keys[i])
            drawn[i, j] = _fraction(a, b)
            if j + 1 < drawn.shape[1]:
                drawn[i, j + 1] = _fraction(c, d)


@compiled()
def _fill_normals(keys, purpose, steps, drawn):  # type: ignore[no-untyped-def]
    """Fill rows by the transform of Box and Muller, two numbers from two."""
    for i in range(len(keys)):
        for j in range(0, drawn.shape[1], 2):
            a, b, c, d = _block(np.uint64(j // 2), np.uint64(steps[i]), np.uint64(purpose), keys[i])
            radius = np.sqrt(-2 * np.log(1 - _fraction(a, b)))
            angle = 2 * np.pi * _fraction(c, d)
            drawn[i, j] = radius * np.cos(angle)
            if j + 1 < drawn.shape[1]:
                drawn[i, j + 1] = radius * np.sin(angle)


@compiled()
def _fill_keys(keys, purpose, steps, drawn):  # type: ignore[no-untyped-def]
    for i in range(len(keys)):
        for j in range(drawn.shape[1]):
            a, b, _, _ = _block(np.uint64(j), np.uint64(steps[i]), np.uint64(purpose), keys[i])
            drawn[i, j] = (a << np.uint64(32)) | b


@compiled()
def _fill_singles(keys, drawn):  # type: ignore[no-untyped-def]
    for i in range(len(keys)):
        for j in range(0, drawn.shape[1], 4):
            words = _block(np.uint64(j // 4), np.uint64(0), np.uint64(0), keys[i])
            for k in range(min(4, drawn.shape[1] - j)):
                # 24 bits, as many as a single-precision number tells apart below 1.
                drawn[i, j + k] = np.float32(words[k] >> np.uint64(8)) / np.float32(16777216)


@compiled()
def _permute(keys, counts, lengths, begins, scratch, order):  # type: ignore[no-untyped-def]
    """Shuffle by Fisher and Yates, from the front, so that the end may be left out."""
    for i in range(len(keys)):
        count = counts[i]
        words = _block(np.uint64(0), np.uint64(0), np.uint64(0), keys[i])
        for j in range(lengths[i]):
            place = j % count
            if place == 0:
                for k in range(count):
                    scratch[k] = k
            if j & 3 == 0:
                words = _block(np.uint64(j >> 2), np.uint64(0), np.uint64(0), keys[i])
            # The upper half of a product: each of n numbers up to one part in 2^32 / n.
            left = np.uint64(count - place)
            other = place + np.int64((words[j & 3] * left) >> np.uint64(32))
            chosen = scratch[other]
            scratch[other] = scratch[place]
            scratch[place] = chosen
            order[begins[i] + j] = chosen
