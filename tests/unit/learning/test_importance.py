"""Information measures against dense linear algebra."""

from __future__ import annotations

import numpy as np
import pytest

from edge_gym.data import load_features
from edge_gym.learning import importance

RNG = np.random.default_rng(0)


def test_acquire_and_novelty_follow_the_definition() -> None:
    size, lanes = 5, 3
    inverse = np.stack([importance.prior_inverse(size)] * lanes)
    acquired = RNG.normal(size=(20, lanes, size)).astype(np.float32)
    for z in acquired:
        importance.acquire(inverse, z)
    components = RNG.normal(size=(40, size)).astype(np.float32)
    rows = RNG.integers(40, size=(lanes, 7))
    found = importance.novelty(components, rows, inverse)
    for lane in range(lanes):
        z = acquired[:, lane].astype(np.float64)
        a = np.eye(size) / size + z.T @ z
        np.testing.assert_allclose(inverse[lane], np.linalg.inv(a), rtol=1e-8, atol=1e-10)
        for q in range(7):
            x = components[rows[lane, q]].astype(np.float64)
            gain = np.linalg.slogdet(a + np.outer(x, x))[1] - np.linalg.slogdet(a)[1]
            assert np.log1p(found[lane, q]) == pytest.approx(gain, rel=1e-5)


@pytest.mark.parametrize(("d", "size"), [(12, 5), (5, 5), (3, 5)])
def test_principal_axes_are_those_of_the_singular_value_decomposition(d: int, size: int) -> None:
    x = (RNG.normal(size=(300, d)) * np.linspace(3, 1, d)).astype(np.float32)
    axes, variances = importance.principal_axes(x, size)
    assert axes.shape == (d, size)
    assert not axes[:, d:].any()
    _, lengths, wanted = np.linalg.svd(x, full_matrices=False)
    np.testing.assert_allclose(variances[:d], lengths[:size] ** 2 / 300, rtol=1e-4)
    assert not variances[d:].any()
    overlap = np.abs(axes[:, : min(d, size)].T @ wanted[: min(d, size)].T)
    np.testing.assert_allclose(overlap, np.eye(min(d, size)), atol=1e-3)
    for axis in axes.T[: min(d, size)]:
        assert axis[np.abs(axis).argmax()] > 0


def test_turned_axes_span_the_same_and_lie_nearest() -> None:
    axes, _ = np.linalg.qr(RNG.normal(size=(9, 4)))
    reference, _ = np.linalg.qr(RNG.normal(size=(9, 4)))
    turned = importance.turned_towards(axes.astype(np.float32), reference.astype(np.float32))
    np.testing.assert_allclose(turned.T @ turned, np.eye(4), atol=1e-6)
    np.testing.assert_allclose(turned @ turned.T, axes @ axes.T, atol=1e-6)
    nearest = np.square(turned - reference).sum()
    for _ in range(200):
        turn, _ = np.linalg.qr(RNG.normal(size=(4, 4)))
        assert np.square(axes @ turn - reference).sum() > nearest
    # What already lies there stays, whatever the order and the signs.
    mixed = reference[:, [2, 0, 3, 1]] * [1, -1, -1, 1]
    np.testing.assert_allclose(
        importance.turned_towards(mixed.astype(np.float32), reference.astype(np.float32)),
        reference,
        atol=1e-6,
    )


def test_receptions_count_by_what_the_channel_left() -> None:
    size, lanes = 5, 3
    variances = np.array([0.3, 0.1, 0.05, 0.02, 0.0])
    inverse = np.stack([importance.prior_inverse(size)] * lanes)
    a = [np.eye(size) / size for _ in range(lanes)]
    for _ in range(20):
        snr = RNG.exponential(20, lanes)
        z = RNG.normal(size=(lanes, size))
        for lane in range(lanes):
            prior = np.diag(variances)
            noise = np.eye(size) / snr[lane]
            wiener = prior @ np.linalg.inv(prior + noise)
            left = prior - wiener @ prior
            weight = 1 / (1 + np.trace(np.linalg.inv(a[lane]) @ left))
            estimate = wiener @ z[lane]
            a[lane] = a[lane] + weight * np.outer(estimate, estimate)
        importance.receive(inverse, z, snr, variances)
    np.testing.assert_allclose(inverse, np.linalg.inv(np.array(a)), rtol=1e-8)


def test_receptions_without_noise_or_without_signal() -> None:
    variances = np.array([0.3, 0.1, 0.05])
    z = RNG.normal(size=(1, 3))
    prior = importance.prior_inverse(3)[None]
    clean, noiseless, nothing, faint = (prior.copy() for _ in range(4))
    importance.acquire(clean, z)
    importance.receive(noiseless, z, np.array([1e12]), variances)
    np.testing.assert_allclose(noiseless, clean, rtol=1e-6)
    importance.receive(nothing, 0 * z, np.zeros(1), variances)
    np.testing.assert_array_equal(nothing, prior)
    # Of a very weak reception, mostly noise arrives: it is no knowledge.
    importance.receive(faint, z + RNG.normal(size=(1, 3)) * 1e3, np.array([1e-6]), variances)
    np.testing.assert_allclose(faint, prior, atol=1e-4)


def test_noise_adds_no_coverage() -> None:
    """The fault: after 50 samples .474 clean, .249 at 15 dB, .060 at 5 dB, .022 at 0 dB."""
    x = load_features("mnist-subset", (3, 5), 14).train
    axes, variances = importance.principal_axes(x, 16)
    decibels = (np.inf, 30.0, 25.0, 15.0, 5.0, 0.0, -10.0)
    novelty = np.zeros((len(decibels), 8, 50))
    for draw in range(8):
        rng = np.random.default_rng(draw)
        rows = rng.permutation(len(x))
        noise = rng.normal(size=(50, x.shape[1]))
        held = (x[rows[-200:]] @ axes)[None]
        for level, snr_db in enumerate(decibels):
            inverse = importance.prior_inverse(16)[None].copy()
            for count in range(50):
                if np.isinf(snr_db):
                    importance.acquire(inverse, x[rows[count], None] @ axes)
                else:
                    snr = 10 ** (snr_db / 10)
                    received = x[rows[count]] + noise[count] / np.sqrt(snr)
                    importance.receive(inverse, received[None] @ axes, np.array([snr]), variances)
                some = np.zeros((1, 200), np.int64) + np.arange(200)
                novelty[level, draw, count] = importance.novelty(held[0], some, inverse).mean()
    novelty = novelty.mean(axis=1)
    assert (np.diff(novelty, axis=0) > 0).all()
    assert (np.diff(novelty, axis=1) < 0).all()
    after = novelty[:, -1]
    np.testing.assert_allclose(after[[0, 3, 4, 5]], [0.447, 1.82, 6.13, 8.5], rtol=0.1)
