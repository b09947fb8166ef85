from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edge_gym.learning.compression import Compressor, payload_bits, quantise, top_k
from edge_gym.runtime.streams import Keys, uniforms_of

N, K, L = 23, 4, 3
Vector = NDArray[np.float64]


def reference_quantise(v: Vector, bits: int, uniforms: Vector | None) -> Vector:
    """Round one vector, value by value."""
    levels, scale = 2 ** (bits - 1) - 1, max(abs(x) for x in v)
    if scale == 0:
        return np.zeros_like(v)
    result = []
    for i, x in enumerate(v):
        y = x * (levels / scale)
        q = round(y) if uniforms is None else math.floor(y + uniforms[i])
        result.append(min(max(q, -levels), levels) * (scale / levels))
    return np.array(result)


class Reference:
    """One device that compresses with plain loops."""

    def __init__(self, kept: int, bits: int, rounding: str, error_feedback: bool) -> None:
        self.kept, self.bits, self.rounding = kept, bits, rounding
        self.error_feedback = error_feedback
        self.memory = np.zeros(N)

    def send(self, v: Vector, key: np.uint64) -> Vector:
        wanted = v + self.memory if self.error_feedback else v
        places = sorted(sorted(range(N), key=lambda i: -abs(wanted[i]))[: self.kept])
        values = wanted[places]
        if self.bits < 32:
            uniforms = None
            if self.rounding == "stochastic":
                uniforms = uniforms_of(np.array([key]), self.kept)[0].astype(np.float64)
            values = reference_quantise(values, self.bits, uniforms)
        made = np.zeros(N)
        made[places] = values
        self.memory = wanted - made
        return made


def vectors(seed: int, extra: int = 0) -> Vector:
    values: Vector = np.random.default_rng(seed).standard_normal((L, K, N + extra))
    return values


def draw_keys(seed: int, n_lanes: int = L, n_devices: int = K) -> Keys:
    rng = np.random.default_rng(seed)
    return rng.integers(2**64, size=(n_lanes, n_devices), dtype=np.uint64)


CASES = [
    (1.0, 8, "stochastic", True),
    (1.0, 4, "nearest", False),
    (0.2, 32, "nearest", True),
    (0.3, 6, "stochastic", True),
    (0.3, 2, "nearest", True),
    (0.1, 5, "stochastic", False),
    (1.0, 32, "nearest", True),
]


@pytest.mark.parametrize(("density", "bits", "rounding", "error_feedback"), CASES)
def test_equals_one_device_after_another(
    density: float, bits: int, rounding: str, error_feedback: bool
) -> None:
    compressor = Compressor(
        *(L, K, N),
        density=density,
        bits=bits,
        rounding=rounding,
        error_feedback=error_feedback,
        n_exact=2,
        dtype=torch.float64,
    )
    kept = max(1, round(density * N))
    devices = [
        [Reference(kept, bits, rounding, error_feedback) for _ in range(K)] for _ in range(L)
    ]
    for step in range(4):
        given = vectors(step, extra=2)
        if step == 2:
            given[0, 0, :N] = 0
        sent = np.random.default_rng(step).random((L, K)) < (2 if step == 0 else 0.6)
        lanes = np.array([2, 0, 1])
        keys = draw_keys(step)
        result = compressor.compress(lanes, torch.from_numpy(given), keys, sent=sent).numpy()
        for i, lane in enumerate(lanes):
            for k in range(K):
                if sent[i, k]:
                    made = devices[lane][k].send(given[i, k, :N], keys[i, k])
                    np.testing.assert_allclose(result[i, k, :N], made, rtol=1e-12, atol=1e-15)
                    np.testing.assert_array_equal(result[i, k, N:], given[i, k, N:])
                else:
                    assert not result[i, k].any()
                if compressor.memory is not None:
                    memory = devices[lane][k].memory
                    np.testing.assert_allclose(compressor.memory[lane, k], memory, atol=1e-14)
    assert (compressor.memory is not None) == (error_feedback and (kept < N or bits < 32))


def test_named_devices_keep_their_own_memory() -> None:
    make = {"density": 0.2, "bits": 6, "rounding": "stochastic", "dtype": torch.float64}
    some, every = Compressor(L, K, N, **make), Compressor(L, K, N, **make)  # type: ignore[arg-type]
    lanes = np.arange(L)
    chosen = np.array([[3, 1], [0, 2], [2, 3]])
    for step in range(3):
        given, keys = torch.from_numpy(vectors(step)), draw_keys(step)
        sent = np.zeros((L, K), bool)
        np.put_along_axis(sent, chosen, True, axis=1)
        whole = every.compress(lanes, given, keys, sent=sent)
        index = torch.from_numpy(chosen)[..., None].expand(-1, -1, N)
        own = np.take_along_axis(keys, chosen, axis=1)
        part = some.compress(lanes, given.gather(1, index), own, devices=chosen)
        assert torch.equal(part, whole.gather(1, index))
        chosen = (chosen + 1) % K
    assert some.memory is not None
    assert every.memory is not None
    assert torch.equal(some.memory, every.memory)


@pytest.mark.parametrize("n_kept", [1, 7, 299])
def test_the_largest_are_kept(n_kept: int) -> None:
    rng = np.random.default_rng(n_kept)
    # Whole numbers, of which many are alike, tiny and huge ones, and none at all.
    vectors = np.concatenate(
        [
            rng.integers(-3, 4, (20, 300)),
            rng.standard_normal((20, 300)) * 10.0 ** rng.integers(-44, 38, (20, 300)),
            np.zeros((1, 300)),
        ]
    ).astype(np.float32)
    places, values = top_k(torch.from_numpy(vectors), n_kept)
    order = np.argsort(-np.abs(vectors), axis=1, kind="stable")
    expected = np.sort(order[:, :n_kept], axis=1)
    np.testing.assert_array_equal(places.numpy(), expected)
    np.testing.assert_array_equal(values.numpy(), np.take_along_axis(vectors, expected, 1))
    # In double precision as torch has it, whose choice among those alike is its own.
    _, others = top_k(torch.from_numpy(vectors).double(), n_kept)
    sizes = np.sort(np.abs(values.numpy()), axis=1)
    np.testing.assert_array_equal(np.sort(others.abs().numpy(), axis=1), sizes)


@pytest.mark.parametrize("bits", [2, 3, 8, 16, 24])
def test_quantised_values_stay_within_a_level(bits: int) -> None:
    v = torch.from_numpy(vectors(0)).float()
    step = v.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    slack = 1e-6 * v.abs().amax()
    assert ((quantise(v, bits) - v).abs() <= step / 2 + slack).all()
    uniforms = torch.rand(v.shape, generator=torch.Generator().manual_seed(0))
    assert ((quantise(v, bits, uniforms) - v).abs() <= step + slack).all()
    assert len(torch.unique((quantise(v, bits) / step).round())) <= 2**bits - 1
    largest = v.abs().argmax(-1, keepdim=True)
    torch.testing.assert_close(quantise(v, bits).gather(-1, largest), v.gather(-1, largest))


def test_stochastic_rounding_is_right_on_average() -> None:
    v = torch.from_numpy(vectors(0)[0, 0])
    uniforms = torch.rand(
        20_000, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    mean = quantise(v.expand(20_000, N), 3, uniforms).mean(0)
    # The standard error is at most half a level over √20,000.
    limit = 4 * 0.5 * float(v.abs().max()) / 3 / math.sqrt(20_000)
    assert (mean - v).abs().max() < limit
    assert (quantise(v, 3) - v).abs().max() > limit


def test_error_feedback_sends_everything_in_the_end() -> None:
    """The sum of what arrives stays within a bounded distance of the sum of what was wanted."""
    gap = {}
    for feedback in (False, True):
        compressor = Compressor(1, 1, N, density=0.1, error_feedback=feedback, dtype=torch.float64)
        v, total = torch.from_numpy(vectors(3)[:1, :1]), torch.zeros(1, 1, N, dtype=torch.float64)
        for step in range(200):
            total += compressor.compress(np.arange(1), v, draw_keys(step, 1, 1))
        gap[feedback] = float((total / 200 - v).abs().max())
    assert gap[True] < 0.1 < gap[False]


def test_any_layout_and_no_lanes_at_all() -> None:
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(rng.normal(size=(3, 2, 40)).astype(np.float32))
    turned = vectors.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not turned.is_contiguous()
    plain, other = (Compressor(3, 2, 40, density=0.2, bits=8) for _ in range(2))
    for _ in range(2):
        made = [
            compressor.compress(np.arange(3), given, draw_keys(0, 3, 2))
            for compressor, given in ((plain, vectors), (other, turned))
        ]
        assert torch.equal(*made)
        assert made[0].count_nonzero() > 0
    nothing = plain.compress(np.zeros(0, np.int64), torch.zeros(0, 2, 40), draw_keys(0, 0, 2))
    assert nothing.shape == (0, 2, 40)


def test_lanes_do_not_depend_on_each_other() -> None:
    many = Compressor(40, 3, 1000, density=0.05, bits=8)
    few = Compressor(2, 3, 1000, density=0.05, bits=8)
    for step in range(3):
        given = torch.from_numpy(np.random.default_rng(step).standard_normal((40, 3, 1000))).float()
        keys = draw_keys(step, 40, 3)
        whole = many.compress(np.arange(40), given, keys)
        part = few.compress(np.arange(2), given[[31, 7]], keys[[31, 7]])
        assert torch.equal(part, whole[[31, 7]])


def test_payload() -> None:
    assert payload_bits(1000) == 32_000
    assert payload_bits(1000, bits=8) == 8_000 + 32
    assert payload_bits(1000, bits=8, n_kept=50) == 50 * 8 + 50 * 10 + 32
    assert payload_bits(1000, n_kept=50, n_exact=4) == 50 * 32 + 50 * 10 + 4 * 32
    assert payload_bits(1024, n_kept=400) == 400 * 32 + 1024, "a bitmap is shorter"
    assert payload_bits(1025, n_kept=1) == 32 + 11
    assert payload_bits(1, bits=4) == 4 + 32
    compressor = Compressor(1, 1, 1000, density=0.05, bits=8, n_exact=1)
    assert compressor.payload_bits == 50 * 8 + 50 * 10 + 32 + 32


def test_state_and_copies_go_on_alike() -> None:
    def go_on(compressor: Compressor, lanes: list[int]) -> torch.Tensor:
        keys = draw_keys(5)[lanes]
        return compressor.compress(np.array(lanes), torch.from_numpy(vectors(5)[:2]), keys)

    compressor = Compressor(L, K, N, density=0.2, bits=6, dtype=torch.float64)
    every = np.arange(L)
    compressor.compress(every, torch.from_numpy(vectors(0)), draw_keys(0))
    state = compressor.get_state(np.array([2, 0]))
    twins: list[Compressor] = [pickle.loads(pickle.dumps(compressor)), copy.deepcopy(compressor)]
    fresh = Compressor(L, K, N, density=0.2, bits=6, dtype=torch.float64)
    empty = go_on(copy.deepcopy(fresh), [2, 0])
    fresh.set_state(np.array([2, 0]), state)
    expected = go_on(compressor, [2, 0])
    assert not torch.equal(expected, empty)
    for twin in [*twins, fresh]:
        assert torch.equal(go_on(twin, [2, 0]), expected)
    compressor.reset(np.array([2, 0]))
    assert torch.equal(go_on(compressor, [2, 0]), empty)
    lossless = Compressor(L, K, N)
    lossless.set_state(every, lossless.get_state(every))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_lanes": 0}, "n_lanes must be at least 1, got 0"),
        ({"density": 0}, r"density must be in \(0, 1\], got 0"),
        ({"bits": 1}, r"bits must be in 2\.\.24 or 32, got 1"),
        ({"bits": 25}, "got 25"),
        ({"rounding": "up"}, "rounding must be one of stochastic, nearest"),
        ({"n_exact": -1}, "n_exact must be at least 0, got -1"),
    ],
)
def test_arguments_out_of_range_are_named(changes: dict[str, Any], message: str) -> None:
    options = {"n_lanes": L, "n_devices": K, "n_values": N, **changes}
    with pytest.raises(ValueError, match=message):
        Compressor(**options)


def test_shapes_that_do_not_fit_are_named() -> None:
    compressor = Compressor(L, K, N, bits=8)
    lanes, keys = np.arange(L), draw_keys(0)
    with pytest.raises(ValueError, match="must have 23 values, got 24"):
        compressor.compress(lanes, torch.zeros(L, K, N + 1), keys)
    with pytest.raises(ValueError, match="there are 4 devices, got vectors of 2"):
        compressor.compress(lanes, torch.zeros(L, 2, N), keys)
    with pytest.raises(ValueError, match=r"sent must have shape \(3, 4\), got \(3, 2\)"):
        compressor.compress(lanes, torch.zeros(L, K, N), keys, sent=np.ones((L, 2)))
    with pytest.raises(ValueError, match=r"keys must have shape \(3, 4\), got \(3, 2\)"):
        compressor.compress(lanes, torch.zeros(L, K, N), keys[:, :2])
    with pytest.raises(ValueError, match="bits must be in"):
        quantise(torch.zeros(3), 30)
