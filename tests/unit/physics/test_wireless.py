from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.integrate import quad

from edge_gym.physics import sharing, wireless

SNRS_DB = st.floats(-10, 30)


@given(st.floats(-250, 250))
def test_decibels_round_trip(db: float) -> None:
    assert wireless.linear_to_db(wireless.db_to_linear(db)) == pytest.approx(db, abs=1e-9)
    assert wireless.watt_to_dbm(wireless.dbm_to_watt(db)) == pytest.approx(db, abs=1e-9)


def test_decibels_known_values() -> None:
    np.testing.assert_allclose(wireless.db_to_linear([0, 10, -20]), [1, 10, 0.01])
    np.testing.assert_allclose(wireless.dbm_to_watt([30, 0]), [1, 1e-3])
    assert wireless.linear_to_db(0.0) == wireless.FLOOR_DB
    assert wireless.linear_to_db(0.0, floor_db=-80.0) == pytest.approx(-80)
    assert wireless.watt_to_dbm(0.0, floor_dbm=-120.0) == pytest.approx(-120)


def test_path_loss_known_values() -> None:
    # FEEL Table I: 128.1 + 37.6 log10(R in km).
    loss = wireless.log_distance_path_loss_db([1000, 100], 128.1, 3.76, 1000)
    np.testing.assert_allclose(loss, [128.1, 90.5])
    assert wireless.free_space_path_loss_db(1000, 2.4e9) == pytest.approx(100.05, abs=0.01)
    # Free space is the log-distance model with exponent 2.
    distance = np.geomspace(1, 1e4, 7)
    np.testing.assert_allclose(
        wireless.free_space_path_loss_db(distance, 1e9),
        wireless.log_distance_path_loss_db(distance, wireless.free_space_path_loss_db(1, 1e9), 2.0),
    )


def test_noise_power() -> None:
    assert wireless.watt_to_dbm(wireless.noise_power_watt(1e7)) == pytest.approx(-104)
    assert wireless.watt_to_dbm(wireless.noise_power_watt(1e7, -170, 9)) == pytest.approx(-91)
    assert wireless.noise_power_watt(0.0) == 0


def test_shannon_rate() -> None:
    np.testing.assert_allclose(wireless.shannon_rate([[1e6], [2e6]], [0, 3]), [[0, 2e6], [0, 4e6]])


@pytest.mark.parametrize("mean_snr", [1e-3, 1.6e-3, 1.7e-3, 0.03, 1 / 3, 1.0, 10.0, 1e3, 1e6])
def test_ergodic_rate_equals_integral(mean_snr: float) -> None:
    # g = e^u makes the integrand smooth at any mean SNR.
    expected, _ = quad(
        lambda u: np.log1p(mean_snr * np.exp(u)) * np.exp(u - np.exp(u)), -40, 5, epsabs=0
    )
    rate = wireless.ergodic_rate(1.0, mean_snr)
    assert rate == pytest.approx(expected / np.log(2), rel=1e-11)


@pytest.mark.parametrize(
    ("mean_snr", "expected"),
    # e^{1/γ̄}·E₁(1/γ̄) by mpmath with 40 digits.
    [
        (1e-200, 1e-200),
        (1e-8, 9.999999900000002e-9),
        (1 / 7, 0.12664109607663276),
        (1.0, 0.5963473623231941),
        (1e8, 17.84346526748548),
        (1e200, 459.9398029339076),
    ],
)
def test_ergodic_rate_reference(mean_snr: float, expected: float) -> None:
    rate = wireless.ergodic_rate(np.log(2), mean_snr)
    assert rate == pytest.approx(expected, rel=1e-14)


def test_ergodic_rate_equals_monte_carlo() -> None:
    gain = np.random.default_rng(1).standard_exponential(400_000)
    mean_snr = np.array([0.1, 1.0, 30.0])
    sampled = wireless.shannon_rate(2e6, mean_snr[:, None] * gain).mean(axis=1)
    np.testing.assert_allclose(wireless.ergodic_rate(2e6, mean_snr), sampled, rtol=0.01)
    assert wireless.ergodic_rate(2e6, 0.0) == 0


@given(st.floats(0, 1e12), st.floats(1, 1.1))
def test_ergodic_rate_is_monotone_and_below_jensen(mean_snr: float, factor: float) -> None:
    rate = wireless.ergodic_rate(1.0, mean_snr)
    assert rate <= wireless.shannon_rate(1.0, mean_snr) * (1 + 1e-12)
    assert wireless.ergodic_rate(1.0, factor * mean_snr) >= rate * (1 - 1e-12)


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (wireless.linear_to_db, (-1.0,), "ratio"),
        (wireless.watt_to_dbm, (-1.0,), "watt"),
        (wireless.log_distance_path_loss_db, (0.0, 30, 2), "distance_m"),
        (wireless.log_distance_path_loss_db, (1.0, 30, -2), "exponent"),
        (wireless.log_distance_path_loss_db, (1.0, 30, 2, -7.0), "reference_distance_m"),
        (wireless.free_space_path_loss_db, ([1, -5.0], 1e9), "distance_m"),
        (wireless.free_space_path_loss_db, (1.0, 0.0), "carrier_frequency_hz"),
        (wireless.noise_power_watt, (-3.0,), "bandwidth_hz"),
        (wireless.shannon_rate, (-1.0, 1.0), "bandwidth_hz"),
        (wireless.shannon_rate, (1.0, np.nan), "snr"),
        (wireless.ergodic_rate, (1.0, -0.5), "mean_snr"),
        (wireless.ergodic_rate, (-1.0, 0.5), "bandwidth_hz"),
    ],
)
def test_errors_name_argument_and_value(
    function: Callable[..., Any], arguments: tuple[Any, ...], name: str
) -> None:
    bad = next(x for x in np.hstack(arguments) if not x >= 0 or x == 0)
    with pytest.raises(ValueError, match=rf"^{name} must be .*got {bad}$"):
        function(*arguments)


def receive(x: np.ndarray, snrs: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weighted_sum, effective_snr = np.zeros_like(x), np.zeros(x.shape[:-1], x.dtype)
    for snr, n in zip(snrs, noise, strict=True):
        wireless.mrc_accumulate(weighted_sum, effective_snr, x, snr, n)
    return weighted_sum, effective_snr


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mrc_keeps_type_and_works_in_place(dtype: type) -> None:
    weighted_sum, effective_snr = np.zeros((3, 5), dtype), np.zeros(3, dtype)
    views = weighted_sum.view(), effective_snr.view()
    wireless.mrc_accumulate(
        weighted_sum, effective_snr, np.ones((3, 5), dtype), np.arange(3.0), np.ones((3, 5))
    )
    combined = wireless.mrc_combine(weighted_sum, effective_snr)
    assert combined.dtype == weighted_sum.dtype == effective_snr.dtype == dtype
    np.testing.assert_array_equal(views[1], [0, 1, 2])
    np.testing.assert_allclose(views[0][2], 2 + np.sqrt(2), rtol=1e-6)
    np.testing.assert_array_equal(combined[0], 0)


@given(SNRS_DB, hnp.arrays(np.float64, (2, 3, 4), elements=st.floats(-3, 3)))
def test_single_reception_is_sample_plus_scaled_noise(snr_db: float, draws: np.ndarray) -> None:
    x, noise = draws
    snr = np.full(3, wireless.db_to_linear(snr_db))
    weighted_sum, effective_snr = receive(x, snr[None], noise[None])
    np.testing.assert_allclose(
        wireless.mrc_combine(weighted_sum, effective_snr),
        x + noise / np.sqrt(snr)[:, None],
        atol=1e-12,
    )


@settings(deadline=None)
@given(st.lists(SNRS_DB, min_size=1, max_size=6), st.randoms(use_true_random=False), st.data())
def test_effective_snr_adds_up_in_any_order(
    snrs_db: list[float], random: Any, data: st.DataObject
) -> None:
    snrs = wireless.db_to_linear(snrs_db)[:, None] * np.array([1.0, 2.0])
    noise = data.draw(hnp.arrays(np.float64, (len(snrs), 2, 3), elements=st.floats(-3, 3)))
    x = np.arange(6.0).reshape(2, 3)
    weighted_sum, effective_snr = receive(x, snrs, noise)
    np.testing.assert_allclose(effective_snr, snrs.sum(axis=0))
    order = random.sample(range(len(snrs)), len(snrs))
    for ours, theirs in zip(
        receive(x, snrs[order], noise[order]), (weighted_sum, effective_snr), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("snrs", [[0.1], [1.0, 3.0], [0.5, 0.25, 8.0, 20.0]])
def test_noise_variance_per_dimension_is_inverse_effective_snr(snrs: list[float]) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1000, 50)).astype(np.float32) / np.float32(np.sqrt(50))
    noise = rng.standard_normal((len(snrs), *x.shape), np.float32)
    per_reception = np.repeat(np.array(snrs, np.float32)[:, None], len(x), axis=1)
    error = wireless.mrc_combine(*receive(x, per_reception, noise)) - x
    assert error.mean() == pytest.approx(0, abs=5 / np.sqrt(x.size * sum(snrs)))
    assert error.var() == pytest.approx(1 / sum(snrs), rel=0.03)


def test_mrc_errors_leave_buffers_alone() -> None:
    weighted_sum, effective_snr = np.zeros((2, 3)), np.zeros(2)
    x, snr = np.ones((2, 3)), np.ones(2)
    with pytest.raises(ValueError, match=r"^snr must be at least 0, got -2\.0$"):
        wireless.mrc_accumulate(weighted_sum, effective_snr, x, np.array([1, -2.0]), x)
    with pytest.raises(ValueError, match="weighted_sum must have the shape of effective_snr"):
        wireless.mrc_accumulate(weighted_sum, np.zeros(3), x, snr, x)
    with pytest.raises(ValueError, match="broadcast"):
        wireless.mrc_accumulate(weighted_sum, effective_snr, x, snr, np.ones((2, 4)))
    assert not weighted_sum.any()
    assert not effective_snr.any()


def test_common_finish_shares_the_whole_band_and_nobody_waits() -> None:
    rng = np.random.default_rng(0)
    ready = rng.exponential(0.1, (200, 6)) * 10.0 ** rng.integers(-3, 3, (200, 1))
    upload = rng.exponential(0.05, (200, 6)) + 1e-6
    taking_part = rng.random((200, 6)) < 0.6
    finish = sharing.common_finish(ready, upload, taking_part)
    for lane in range(200):
        there = taking_part[lane]
        if not there.any():
            assert finish[lane] == 0
            continue
        shares = upload[lane, there] / (finish[lane] - ready[lane, there])
        assert (shares > 0).all()
        assert shares.sum() == pytest.approx(1, rel=1e-6)


def test_common_finish_of_one_device_is_its_own() -> None:
    finish = sharing.common_finish([0.3, 9.0], [0.2, 1.0], np.array([True, False]))
    assert finish == pytest.approx(0.5)


def test_the_snr_of_a_symbol_is_the_samples_over_its_features() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 196))
    x /= np.sqrt(np.square(x).sum(axis=1).mean())
    snr = wireless.db_to_linear(15.0)
    received = np.zeros_like(x)
    effective = np.zeros(2000)
    wireless.mrc_accumulate(received, effective, x, np.full(2000, snr), rng.normal(size=x.shape))
    noise = wireless.mrc_combine(received, effective) - x
    measured_db = 10 * np.log10(np.square(x).mean() / np.square(noise).mean())
    assert measured_db == pytest.approx(wireless.symbol_snr_db(15.0, 196), abs=0.05)
    assert float(wireless.symbol_snr_db(15.0, 196)) == pytest.approx(-7.92, abs=0.005)
    np.testing.assert_allclose(wireless.symbol_snr_db([10.0, -3.0], 10), [0.0, -13.0])
    with pytest.raises(ValueError, match="n_features must be positive, got 0"):
        wireless.symbol_snr_db(1.0, 0)
