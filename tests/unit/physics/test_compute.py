from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_gym.physics.compute import (
    cpu_energy,
    cpu_latency,
    cycles_of,
    gpu_latency,
    gpu_offset,
    gpu_update_latency,
)


def test_cpu_of_joint_table() -> None:
    """JOINT's Table I: 64 Mbit at 50 cycles a bit and 1 GHz take 3.2 s and κ·f²·C·L = 0.16 J."""
    cycles = 50 * 64e6
    assert cpu_latency(cycles, 1e9) == pytest.approx(3.2)
    assert cpu_energy(cycles, 1e9, 0.5e-28) == pytest.approx(0.16)


def test_cpu_of_asynchronous_learning() -> None:
    """ASYNC-MEL: an epoch on 3,000 samples of 1,123,736 cycles at 2.4 GHz."""
    cycles = 3000 * 1_123_736
    assert cpu_latency(cycles, 2.4e9) == pytest.approx(1.40467)
    assert cpu_energy(cycles, 2.4e9) == pytest.approx(1e-28 * cycles * 2.4e9 * 2.4e9)
    np.testing.assert_allclose(
        cpu_energy(cycles, np.array([1e9, 2e9, 4e9])) / cpu_energy(cycles, 1e9), [1, 4, 16]
    )


def test_cycles_of_flops() -> None:
    np.testing.assert_allclose(cycles_of([0, 2.7e9], [1.0, 4.0]), [0, 6.75e8])


@pytest.mark.parametrize(("base", "slope", "threshold"), [(0.2, 0.01, 16), (0.05, 0.02, 8.5)])
def test_gpu_latency_is_flat_and_then_affine(base: float, slope: float, threshold: float) -> None:
    batch = np.arange(129)
    latency = gpu_latency(batch, base, slope, threshold)
    expected = [
        0.0 if b == 0 else base if b <= threshold else slope * (b - threshold) + base for b in batch
    ]
    np.testing.assert_allclose(latency, expected, rtol=1e-14)
    above = batch > threshold
    offset = gpu_offset(base, slope, threshold)
    np.testing.assert_allclose(latency[above], slope * batch[above] + offset, rtol=1e-12)
    shapes = gpu_latency(np.ones((5, 1, 3)), np.full((4, 1), base), slope, threshold)
    assert shapes.shape == (5, 4, 3)


def test_gpu_update() -> None:
    assert gpu_update_latency(8e6, 1e12) == pytest.approx(8e-6)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (cpu_latency, (-1, 1e9), "cycles must be at least 0, got -1.0"),
        (cpu_latency, (1, 0), "frequency_hz must be positive, got 0.0"),
        (cpu_latency, (np.nan, 1), "cycles must be at least 0, got nan"),
        (cpu_energy, (1, -2), "frequency_hz must be at least 0"),
        (cpu_energy, (1, 1, -1), "capacitance must be at least 0"),
        (cycles_of, (1, 0), "flops_per_cycle must be positive"),
        (gpu_latency, ([1, -3], 1, 1, 1), "batch_size must be at least 0, got -3.0"),
        (gpu_latency, (1, 1, 1, -1), "threshold must be at least 0"),
        (gpu_offset, (1, -1, 1), "slope_s must be at least 0"),
        (gpu_update_latency, (1, 0), "flops_per_second must be positive"),
    ],
)
def test_values_out_of_range_are_named(function: Any, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(*arguments)
