"""runtime.streams: Philox against its authors' vectors, distributions, independence of places."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edge_gym.runtime.streams import Purpose, Streams, permutations, philox, uniforms_of

EVERYONE = np.arange(3)


def make(n_lanes: int = 3, seed: int = 0) -> Streams:
    streams = Streams(n_lanes)
    streams.begin(np.arange(n_lanes), [np.random.default_rng(seed + i) for i in range(n_lanes)])
    return streams


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(
    counter: tuple[int, ...], key: tuple[int, ...], words: tuple[int, ...]
) -> None:
    """Those of Random123, the authors' own implementation."""
    c0, c1, c2, c3 = counter
    found = philox(
        np.uint64(c0 | c1 << 32), np.uint64(c2), np.uint64(c3), np.uint64(key[0] | key[1] << 32)
    )
    assert tuple(int(word) for word in found) == words


def test_distributions() -> None:
    streams = make(2)
    uniforms = streams.uniforms(np.arange(2), Purpose.CHANNEL, (40_000,)).ravel()
    assert stats.kstest(uniforms, "uniform").pvalue > 1e-3
    assert (uniforms >= 0).all()
    assert (uniforms < 1).all()
    for dtype in (np.float64, np.float32):
        normals = streams.normals(np.arange(2), Purpose.NOISE, (200, 200), 3, dtype)
        assert normals.dtype == dtype
        assert stats.kstest(normals.ravel(), "norm").pvalue > 1e-3
        # Both numbers of a pair, and neighbours of different pairs, have nothing in common.
        for lag in (1, 2):
            flat = normals.ravel()
            assert abs(np.corrcoef(flat[:-lag], flat[lag:])[0, 1]) < 4 / np.sqrt(flat.size)
    singles = uniforms_of(streams.keys(np.arange(2), Purpose.ROUNDING, 1)[:, 0], 40_000)
    assert stats.kstest(singles.ravel(), "uniform").pvalue > 1e-3


def test_draws_follow_from_lane_purpose_step_and_place_alone() -> None:
    streams = make()
    whole = streams.uniforms(EVERYONE, Purpose.CHANNEL, (7,), np.array([4, 5, 6]))
    streams.normals(EVERYONE, Purpose.NOISE, (9,))
    np.testing.assert_array_equal(
        streams.uniforms(np.array([2]), Purpose.CHANNEL, (3,), 6)[0], whole[2, :3]
    )
    others = [
        streams.uniforms(EVERYONE, Purpose.LOSSES, (7,), np.array([4, 5, 6])),
        streams.uniforms(EVERYONE, Purpose.CHANNEL, (7,), np.array([5, 6, 7])),
        make(seed=1).uniforms(EVERYONE, Purpose.CHANNEL, (7,), np.array([4, 5, 6]))[[2, 0, 1]],
    ]
    assert all((other != whole).all() for other in others)
    alone = make(1, seed=2)
    np.testing.assert_array_equal(
        alone.uniforms(np.zeros(1, np.int64), Purpose.CHANNEL, (7,), 6)[0], whole[2]
    )


def test_generators_are_made_again_and_again() -> None:
    streams = make()
    first, second, third = streams.generators(EVERYONE, Purpose.DATA, 2)
    again = streams.generators(EVERYONE, Purpose.DATA, 2)
    assert first.random() == again[0].random() == streams.generator(0, Purpose.DATA, 2).random()
    assert second.random() != third.random()
    assert streams.generator(0, Purpose.DATA, 3).random() != again[0].random()
    assert len(again) == 3
    assert len(again[1:]) == 2
    # Within a sequence a lane's numbers go on, however often its generator is asked for.
    assert again[-1] is again[2] is again[1:][1] is list(again)[2]
    assert again[2].random() != again[2].random()
    with pytest.raises(IndexError):
        again[3]


def test_states_are_restored() -> None:
    streams, others = make(), make(seed=9)
    others.set_state(EVERYONE, streams.get_state(EVERYONE))
    np.testing.assert_array_equal(
        streams.keys(EVERYONE, Purpose.ORDERS, 4), others.keys(EVERYONE, Purpose.ORDERS, 4)
    )


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), min_size=1, max_size=6),
    st.integers(0, 2**32),
)
def test_permutations_go_through_everything(jobs: list[tuple[int, int]], seed: int) -> None:
    counts, lengths = (np.array(values) for values in zip(*jobs, strict=True))
    keys = np.random.default_rng(seed).integers(2**63, size=len(jobs)).astype(np.uint64)
    order, begins = permutations(keys, counts, lengths)
    longer, later = permutations(keys, counts, lengths + 5)
    for count, length, begin, second in zip(counts, lengths, begins, later, strict=True):
        own = order[begin : begin + length]
        for first in range(0, length - count + 1, count):
            assert sorted(own[first : first + count]) == list(range(count))
        assert len(set(own[length - length % count :])) == length % count
        np.testing.assert_array_equal(own, longer[second : second + length])


def test_every_permutation_is_as_likely() -> None:
    keys = np.random.default_rng(0).integers(2**63, size=24_000).astype(np.uint64)
    order, _ = permutations(keys, np.full(len(keys), 4), np.full(len(keys), 8))
    for epoch in (order.reshape(-1, 8)[:, :4], order.reshape(-1, 8)[:, 4:]):
        _, numbers = np.unique(epoch @ [64, 16, 4, 1], return_counts=True)
        assert len(numbers) == 24
        assert stats.chisquare(numbers).pvalue > 1e-3
