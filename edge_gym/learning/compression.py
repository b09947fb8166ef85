"""Compression of gradients and updates: top-k sparsification, quantisation, error feedback."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from edge_gym.learning.base import IntArray
from edge_gym.learning.networks.architecture import STATISTICS_BITS
from edge_gym.runtime.compiling import compiled
from edge_gym.runtime.messages import shown
from edge_gym.runtime.streams import Keys, uniforms_of
from edge_gym.runtime.threads import for_ranges

ROUNDINGS = ("stochastic", "nearest")
FULL_BITS = 32
"""Bits of a value that is not quantised."""
MAX_QUANTISED_BITS = 24
"""A 32-bit number has no more bits than these to tell levels apart."""
_SCALE_BITS = 32


def payload_bits(
    n_values: int, *, bits: int = FULL_BITS, n_kept: int | None = None, n_exact: int = 0
) -> int:
    """Return the size in bits of one compressed vector.

    k·b bits for the values; where k < n, their places as indices or as a bitmap, whichever is
    shorter, min(k·⌈log₂ n⌉, n); 32 for the scale where b < 32; 32 for each exact value.

    Args:
        n_values: Values that are compressed, n.
        bits: Bits of a value, b.
        n_kept: Values that are sent, k; None means all.
        n_exact: Further values that are sent as they are, such as statistics.
    """
    kept = n_values if n_kept is None else n_kept
    places = min(kept * max(1, math.ceil(math.log2(n_values))), n_values) if kept < n_values else 0
    scale = _SCALE_BITS if bits < FULL_BITS else 0
    return kept * bits + places + scale + STATISTICS_BITS * n_exact


def quantise(vectors: Tensor, bits: int, uniforms: Tensor | None = None) -> Tensor:
    """Round each vector ``(..., n)`` to 2^b - 1 levels, evenly spaced over ± its largest value.

    With L = 2^(b-1) - 1 and s = max|v|, a value v becomes q·s/L with an integer q in -L .. L:
    the nearest to x = L·v/s, or ⌊x + u⌋ with u ~ U[0, 1), which is right on average.

    Args:
        vectors: What is quantised.
        bits: b, 2 to 24, or 32, which changes nothing.
        uniforms: Draws u for stochastic rounding, as ``vectors``; None rounds to the nearest.

    Raises:
        ValueError: If ``bits`` is out of range.
    """
    if bits == FULL_BITS:
        return vectors
    if not 2 <= bits <= MAX_QUANTISED_BITS:
        raise ValueError(
            f"bits must be in 2..{MAX_QUANTISED_BITS} or {FULL_BITS}, which leaves values as they "
            f"are, got {bits}"
        )
    levels = (1 << (bits - 1)) - 1
    scale = vectors.abs().amax(-1, keepdim=True)
    x = vectors * (levels / torch.where(scale > 0, scale, 1))
    q = x.round() if uniforms is None else (x + uniforms).floor_()
    return torch.clamp(q, -levels, levels) * (scale / levels)


def top_k(vectors: Tensor, n_kept: int) -> tuple[Tensor, Tensor]:
    """Return the places and values of the largest magnitudes of each vector ``(J, n)``.

    Returns:
        Places in ascending order and values, both ``(J, n_kept)``.
    """
    if vectors.device.type == "cpu" and vectors.dtype == torch.float32:
        places = torch.empty(len(vectors), n_kept, dtype=torch.int64)
        bits, found = vectors.contiguous().numpy().view(np.uint32), places.numpy()
        for_ranges(lambda a, b: _select(bits[a:b], found[a:b]), len(vectors))
    else:
        places = vectors.abs().topk(n_kept, dim=1, sorted=False).indices.sort(dim=1).values
    return places, vectors.gather(1, places)


@compiled()
def _select(vectors, places):  # type: ignore[no-untyped-def]
    """Find the largest magnitudes of vectors, whose bits are taken as integers.

    Without the sign these are ordered as the numbers are, so the smallest that is kept is found
    digit by digit. Twice as fast as torch's ``topk``.
    """
    size, n_kept = vectors.shape[1], places.shape[1]
    counts = np.empty(1 << 11, np.int64)
    for j in range(len(vectors)):
        vector = vectors[j]
        left, least, known = n_kept, np.uint32(0), np.uint32(0)
        for shift, width in ((20, 11), (10, 10), (0, 10)):
            digits = np.uint32((1 << width) - 1)
            counts[:] = 0
            for i in range(size):
                if vector[i] & known == least:
                    counts[(vector[i] >> np.uint32(shift)) & digits] += 1
            digit = digits
            while counts[digit] < left:
                left -= counts[digit]
                digit -= np.uint32(1)
            least |= digit << np.uint32(shift)
            known |= digits << np.uint32(shift)
        place = 0
        for i in range(size):
            magnitude = vector[i] & np.uint32(0x7FFFFFFF)
            # Of those as large as the smallest that is kept, the first are.
            if magnitude > least or (magnitude == least and left > 0):
                left -= magnitude == least
                places[j, place] = i
                place += 1


class Compressor:
    """Compresses what devices send, and remembers for each what it has not sent yet.

    A vector v becomes ĉ = Q(top-k(v + e)), and what is lost, e = v + e - ĉ, is added the next time
    that the device sends (error feedback). A device does not learn whether its vector arrived.

    Attributes:
        n_kept: Values of a vector that are sent, k.
        bits: Bits of each, b.
        payload_bits: Size of one compressed vector, see ``payload_bits``.
        memory: What every device has not sent yet, e, ``(n_lanes, K, n)``; None where nothing is
            remembered.
    """

    def __init__(
        self,
        n_lanes: int,
        n_devices: int,
        n_values: int,
        *,
        density: float = 1.0,
        bits: int = FULL_BITS,
        rounding: str = "stochastic",
        error_feedback: bool = True,
        n_exact: int = 0,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Make a compressor that remembers nothing yet.

        Args:
            n_lanes: Number of lanes.
            n_devices: Devices of a lane, K.
            n_values: Values of a vector that are compressed, n: a network's ``n_parameters``.
            density: Share of them that is sent, in (0, 1]; k = max(1, round(density·n)).
            bits: Bits of a value, 2 to 24, or 32, which does not quantise.
            rounding: One of ``ROUNDINGS``.
            error_feedback: Whether devices remember what they have not sent.
            n_exact: Values behind those that are sent as they are: its ``n_statistics``.
            device: Where tensors live.
            dtype: Type of the vectors.

        Raises:
            ValueError: If an argument is out of range.
        """
        for name, value in (("n_lanes", n_lanes), ("n_devices", n_devices), ("n_values", n_values)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 < density <= 1:
            raise ValueError(f"density must be in (0, 1], got {density}")
        if bits != FULL_BITS and not 2 <= bits <= MAX_QUANTISED_BITS:
            raise ValueError(f"bits must be in 2..{MAX_QUANTISED_BITS} or {FULL_BITS}, got {bits}")
        if rounding not in ROUNDINGS:
            raise ValueError(
                f"rounding must be one of {', '.join(ROUNDINGS)}, got {shown(rounding)}"
            )
        if n_exact < 0:
            raise ValueError(f"n_exact must be at least 0, got {n_exact}")
        self.n_devices = n_devices
        self.n_values = n_values
        self.n_kept = max(1, round(density * n_values))
        self.bits = bits
        self.rounding = rounding
        self.n_exact = n_exact
        self.payload_bits = payload_bits(n_values, bits=bits, n_kept=self.n_kept, n_exact=n_exact)
        self.memory: Tensor | None = None
        if error_feedback and self.changes:
            self.memory = torch.zeros(n_lanes, n_devices, n_values, device=device, dtype=dtype)

    @property
    def changes(self) -> bool:
        """Whether vectors are sparsified or quantised at all."""
        return self.n_kept < self.n_values or self.bits < FULL_BITS

    def reset(self, lanes: IntArray) -> None:
        """Forget what the devices of ``lanes`` have not sent."""
        if self.memory is not None:
            self.memory[torch.tensor(lanes, device=self.memory.device)] = 0

    def compress(
        self,
        lanes: IntArray,
        vectors: Tensor,
        keys: Keys,
        devices: ArrayLike | None = None,
        sent: ArrayLike | None = None,
    ) -> Tensor:
        """Return what the server makes of the vectors that devices send.

        Stochastic rounding draws one single-precision uniform per value that a device sends, in
        their order, from the device's key.

        Args:
            lanes: Lane indices, ``(m,)``.
            vectors: Gradients or updates, ``(m, D, S)``, S = ``n_values + n_exact``.
            keys: What the rounding of each vector follows from, ``(m, D)``; see ``Streams.keys``.
            devices: Which device each vector is of, ``(m, D)``, distinct within a lane; None means
                all K devices in order.
            sent: Whether the device sends, ``(m, D)``; others give zeros and remember what they
                did. None means all.

        Raises:
            ValueError: If shapes do not fit.
        """
        m, d = vectors.shape[:2]
        if vectors.shape[2] != self.n_values + self.n_exact:
            raise ValueError(
                f"vectors must have {self.n_values + self.n_exact} values, got {vectors.shape[2]}"
            )
        if devices is None and d != self.n_devices:
            raise ValueError(f"there are {self.n_devices} devices, got vectors of {d}")
        on = np.ones((m, d), bool) if sent is None else np.asarray(sent, bool)
        if on.shape != (m, d):
            raise ValueError(f"sent must have shape {(m, d)}, got {on.shape}")
        if keys.shape != (m, d):
            raise ValueError(f"keys must have shape {(m, d)}, got {keys.shape}")
        if not self.changes:
            return vectors.masked_fill(~self._like(on, vectors)[..., None], 0)
        lane, place = np.nonzero(on)
        which = place if devices is None else np.asarray(devices)[lane, place]
        index = self._like(lane, vectors), self._like(place, vectors)
        result = vectors.new_zeros(vectors.shape)
        # What all devices of all lanes send is worked on in place: these arrays are large.
        everyone = bool(on.all()) and devices is None
        full = vectors.flatten(0, 1) if everyone else vectors[index]
        made = result.flatten(0, 1) if everyone else torch.zeros_like(full)
        made[:, self.n_values :] = full[:, self.n_values :]
        wanted = full[:, : self.n_values]
        own = None
        if self.memory is not None:
            if everyone and np.array_equal(lanes, np.arange(len(self.memory))):
                wanted = self.memory.flatten(0, 1).add_(wanted)
            else:
                own = self._like(np.asarray(lanes)[lane], vectors), self._like(which, vectors)
                wanted = wanted + self.memory[own]
        uniforms = self._uniforms(keys[on], vectors)
        if self.n_kept < self.n_values:
            places, kept = top_k(wanted, self.n_kept)
            values = quantise(kept, self.bits, uniforms)
            made[:, : self.n_values].scatter_(1, places, values)
            if self.memory is not None:
                wanted.scatter_(1, places, kept - values)
        else:
            values = quantise(wanted, self.bits, uniforms)
            made[:, : self.n_values] = values
            if self.memory is not None:
                wanted -= values
        if own is not None and self.memory is not None:
            self.memory[own] = wanted
        if not everyone:
            result[index] = made
        return result

    def get_state(self, lanes: IntArray) -> dict[str, Any]:
        """Return what the devices of ``lanes`` remember, as arrays that share no memory."""
        if self.memory is None:
            return {}
        return {"memory": self.memory[self._like(lanes, self.memory)].cpu().numpy()}

    def set_state(self, lanes: IntArray, state: dict[str, Any]) -> None:
        """Restore in ``lanes`` what ``get_state`` returned for as many lanes."""
        if self.memory is not None:
            self.memory[self._like(lanes, self.memory)] = torch.tensor(state["memory"]).to(
                self.memory
            )

    def _uniforms(self, keys: Keys, vectors: Tensor) -> Tensor | None:
        if self.bits == FULL_BITS or self.rounding == "nearest":
            return None
        return torch.from_numpy(uniforms_of(keys, self.n_kept)).to(vectors)

    @staticmethod
    def _like(values: ArrayLike, tensor: Tensor) -> Tensor:
        return torch.tensor(values, device=tensor.device)
