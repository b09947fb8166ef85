"""Information measures against dense linear algebra."""

from __future__ import annotations

import numpy as np
import pytest

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
    axes = importance.principal_axes(x, size)
    assert axes.shape == (d, size)
    assert not axes[:, d:].any()
    _, _, wanted = np.linalg.svd(x, full_matrices=False)
    overlap = np.abs(axes[:, : min(d, size)].T @ wanted[: min(d, size)].T)
    np.testing.assert_allclose(overlap, np.eye(min(d, size)), atol=1e-3)
    for axis in axes.T[: min(d, size)]:
        assert axis[np.abs(axis).argmax()] > 0
