from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar

from edge_gym.solvers.task_allocation import TaskCosts, Tasks, exact_allocation, exact_updates
from edge_gym.solvers.task_resources import (
    ResourceLimits,
    Resources,
    best_resources,
    capacity,
    joint_allocation,
    max_updates,
    needs,
    resource_allocation,
    synchronous_optimum,
)

CAPS = (0, 1, 2, None)
METHODS = (joint_allocation, resource_allocation)


def document(
    rng: np.random.Generator, m: int, n_learners: int, cycle_s: float = 12, limit_j: float = 10
) -> ResourceLimits:
    """Draw placements of ASYNC-MEL's Table 1; fewer learners hold fewer, larger samples."""
    shape, scale = (m, n_learners), 20 if n_learners == 10 else 1
    radius_km = 0.5 * np.sqrt(rng.uniform(1e-4, 1, shape))
    gain = 10 ** (-(128 + 37.1 * np.log10(radius_km)) / 10) / 10**-20.4
    return ResourceLimits(
        model_bits=np.asarray(8_974_080),
        sample_bits=np.asarray(6_272 * scale),
        efficiency=np.log2(1 + 0.2 * gain / 5e6),
        gain_per_noise=gain,
        max_power_w=np.asarray(10**-0.7),
        max_cpu_hz=rng.choice([6e9, 2.4e9, 1.4e9, 0.7e9], shape),
        cycles_per_sample=np.asarray(1_123_736 * scale),
        capacitance=np.asarray(1e-28),
        limit_j=limit_j + 2.5 * rng.uniform(-1, 1, shape),
        max_samples=np.asarray(np.inf),
        cycle_s=np.asarray(cycle_s),
        band_hz=np.asarray(5e6 * n_learners),
    )


def wild(rng: np.random.Generator, m: int, n_learners: int) -> tuple[ResourceLimits, np.ndarray]:
    """Draw what is limited by time, energy, band, power, clock or samples, and totals."""
    shape, column = (m, n_learners), (m, 1)

    def spread(low: float, high: float, size: tuple[int, ...]) -> np.ndarray:
        return np.asarray(10 ** rng.uniform(low, high, size))

    model, cycle = spread(4, 8, column), spread(0, 2, column)
    band = (model / cycle)[:, 0] * n_learners / 4 * spread(-0.3, 2, (m,))
    clock, power, total = spread(8.5, 10, shape), 0.2, np.ceil(spread(1.3, 4.5, (m,)))
    federated = rng.random(column) < 0.3
    capacitance = 1e-28 * spread(-1, 1, column)
    gain = spread(-1, 4, shape) * (band / n_learners)[:, None] / power
    share = (total / n_learners)[:, None]
    limits = ResourceLimits(
        model_bits=model,
        sample_bits=np.where(federated, 0, spread(-4, -1, column) * model),
        efficiency=2 * np.log2(1 + power * gain / (band / n_learners)[:, None]),
        gain_per_noise=gain,
        max_power_w=np.asarray(power),
        max_cpu_hz=clock,
        cycles_per_sample=spread(-2, 0, column) * cycle * 3e9 / share,
        capacitance=capacitance,
        limit_j=capacitance * clock**3 * cycle * spread(-2.5, 0.5, shape)
        + power * cycle * spread(-3, 0, shape),
        max_samples=np.where(federated, np.ceil(spread(-0.5, 0.7, shape) * share), np.inf),
        cycle_s=cycle,
        band_hz=band,
    )
    return limits, total.astype(np.int64)


def row(limits: ResourceLimits, i: int | np.ndarray | tuple[int, ...]) -> ResourceLimits:
    return ResourceLimits(**{name: np.asarray(value)[i] for name, value in vars(limits).items()})


def repeated(limits: ResourceLimits, n: int) -> ResourceLimits:
    return ResourceLimits(
        **{name: np.broadcast_to(value, (n, *value.shape)) for name, value in vars(limits).items()}
    )


def taking_part(limits: ResourceLimits, least: int) -> np.ndarray:
    n_learners = limits.model_bits.shape[-1]
    return capacity(limits, 1, limits.band_hz[..., None] / n_learners) >= least


def literal(
    one: dict[str, float], d: float, tau: float, w: float, p: float, f: float
) -> tuple[float, float]:
    """Seconds and joules of one learner, step by step."""
    down = (one["sample_bits"] * d + one["model_bits"]) / (one["efficiency"] * w)
    up = one["model_bits"] / (w * math.log2(1 + p * one["gain_per_noise"] / w))
    cycles = tau * d * one["cycles_per_sample"]
    return down + cycles / f + up, one["capacitance"] * cycles * f**2 + p * up


def assert_feasible(
    limits: ResourceLimits,
    tasks: Tasks,
    resources: Resources,
    total: int | np.ndarray,
    cap: int | None,
    least: int = 1,
) -> None:
    samples, updates = tasks
    seconds, joules = needs(limits, samples, updates, resources)
    assert (seconds <= limits.cycle_s * (1 + 1e-9)).all()
    assert (joules <= limits.limit_j * (1 + 1e-9)).all()
    assert (resources.band_hz > 0).all()
    np.testing.assert_allclose(resources.band_hz.sum(axis=-1), limits.band_hz, rtol=1e-9)
    assert (resources.power_w <= limits.max_power_w).all()
    assert (resources.cpu_hz <= limits.max_cpu_hz).all()
    working = updates > 0
    np.testing.assert_array_equal(working, taking_part(limits, least))
    np.testing.assert_array_equal(working, samples > 0)
    assert (samples[working] >= least).all()
    assert (samples <= limits.max_samples).all()
    assert (samples.sum(axis=-1) <= total).all()
    if cap is not None:
        slowest = np.where(working, updates, 10**6).min(axis=-1)
        assert (updates.max(axis=-1) <= slowest + cap).all()
    assert (max_updates(limits, samples, resources) >= updates).all()


def fields_of(limits: ResourceLimits, n_axes: int = 0) -> dict[str, np.ndarray]:
    """Return what limits every learner, ``(m * K,)``, with more axes at the end."""
    shape = limits.model_bits.shape
    values = {**vars(limits), "band_hz": np.broadcast_to(limits.band_hz[..., None], shape)}
    return {name: value.reshape(-1, *[1] * n_axes) for name, value in values.items()}


def by_grid(limits: ResourceLimits, updates: np.ndarray, band: np.ndarray) -> np.ndarray:
    """Return the most samples over a grid of powers that closes in on the best.

    A faster clock allows more samples in time and fewer in energy: the best is where both meet.
    """
    one = fields_of(limits, 1)
    tau, w = updates.reshape(-1, 1), band.reshape(-1, 1)
    cycles = tau * one["cycles_per_sample"]
    down = one["model_bits"] / (one["efficiency"] * w)
    sample = one["sample_bits"] / (one["efficiency"] * w)
    best, center, radius = np.zeros(len(tau)), np.full(tau.shape, -9.0), 9.0
    for _ in range(8):
        log_p = np.minimum(center + radius * np.linspace(-1, 1, 41), 0)
        p = one["max_power_w"] * np.exp(log_p)
        up = one["model_bits"] / (w * np.log1p(p * one["gain_per_noise"] / w) / math.log(2))
        seconds, joules = one["cycle_s"] - down - up, one["limit_j"] - p * up

        def rooms(log_f: np.ndarray) -> np.ndarray:
            f = one["max_cpu_hz"] * np.exp(log_f)
            return np.stack(
                [
                    seconds / (sample + cycles / f),  # noqa: B023
                    joules / (one["capacitance"] * cycles * f**2),  # noqa: B023
                ]
            )

        low, high = np.full(p.shape, -30.0), np.zeros(p.shape)
        for _ in range(45):
            middle = (low + high) / 2
            in_time, in_energy = rooms(middle)
            low, high = (
                np.where(in_time < in_energy, middle, low),
                np.where(in_time < in_energy, high, middle),
            )
        found = np.maximum(rooms(low).min(axis=0), rooms(high).min(axis=0))
        best = np.maximum(best, found.max(axis=1))
        center = np.take_along_axis(log_p, found.argmax(axis=1)[:, None], axis=1)
        radius *= 0.2
    return np.minimum(best, one["max_samples"][:, 0])


def test_capacity_equals_a_grid_of_powers_and_clocks() -> None:
    rng = np.random.default_rng(0)
    for limits in (document(rng, 20, 20), wild(rng, 40, 10)[0]):
        shape = limits.model_bits.shape
        updates = 10 ** rng.uniform(-0.5, 1.5, shape)
        band = limits.band_hz[:, None] * 10 ** rng.uniform(-2.5, 0, shape)
        found = capacity(limits, updates, band)
        expected = by_grid(limits, updates, band).reshape(shape)
        assert (found >= expected * (1 - 1e-12)).all()
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)
        # Some need neither full power nor full speed, some either, some both.
        tasks = np.where(found < limits.max_samples, found, 0), updates
        chosen = best_resources(limits, *tasks, band)
        slow, weak = chosen.cpu_hz < limits.max_cpu_hz, chosen.power_w < limits.max_power_w
        for pair in itertools.product((False, True), repeat=2):
            assert ((slow, weak) == np.reshape(pair, (2, 1, 1))).all(axis=0).any()


def test_capacity_by_hand() -> None:
    limits = ResourceLimits(1e6, 2e3, 4.0, 3e6, 0.5, 1e9, 1e5, 1e-28, np.inf, np.inf, [10.0], 1e6)
    down, up = 1e6 / 4e6, 1e6 / (1e6 * math.log2(1 + 0.5 * 3))
    expected = (10 - down - up) / (2e3 / 4e6 + 3 * 1e5 / 1e9)
    assert capacity(limits, 3, 1e6)[0] == pytest.approx(expected, rel=1e-10)
    # Next to nothing is left of the energy: the clock slows down to what it is good for.
    assert capacity(row(limits, ...), 3, 1e5)[0] == 0
    less = ResourceLimits(**{**vars(limits), "limit_j": np.array([0.5 * up])})
    assert 0 < capacity(less, 3, 1e6)[0] < 0.01 * expected
    # So little energy does not carry the model, not even at the lowest power: ln 2·S/g joules.
    none = ResourceLimits(**{**vars(limits), "limit_j": np.array([1e6 * math.log(2) / 3e6])})
    assert capacity(none, 1e-3, 1e9)[0] == 0
    few = ResourceLimits(**{**vars(limits), "max_samples": np.array([7.0])})
    assert capacity(few, 3, 1e6)[0] == 7


def test_capacity_is_log_concave() -> None:
    """One learner's problem is a geometric program, which leaves no local optima."""
    rng = np.random.default_rng(1)
    limits, _ = wild(rng, 300, 10)
    shape = limits.model_bits.shape
    tau = 10 ** rng.uniform(-1, 2, (2, *shape))
    band = limits.band_hz[:, None] * 10 ** rng.uniform(-3, 0.5, (2, *shape))
    ends = capacity(repeated(limits, 2), tau, band)
    middle = capacity(limits, np.sqrt(tau[0] * tau[1]), np.sqrt(band[0] * band[1]))
    assert (ends.min(axis=0) > 0).mean() > 0.3
    assert (middle >= np.sqrt(ends[0] * ends[1]) * (1 - 1e-10)).all()
    more = capacity(limits, tau.min(axis=0), band.max(axis=0))
    assert (more >= ends.max(axis=0) * (1 - 1e-12)).all()


def test_needs_are_those_of_one_learner_after_the_other() -> None:
    rng = np.random.default_rng(2)
    limits, _ = wild(rng, 5, 4)
    shape = limits.model_bits.shape
    samples, updates = rng.integers(0, 4, shape) * 10, rng.integers(0, 3, shape)
    resources = Resources(*(10 ** rng.uniform(*e, shape) for e in ((4, 7), (-3, 0), (8, 9))))
    seconds, joules = needs(limits, samples, updates, resources)
    one = fields_of(limits)
    for i, (d, tau, w, p, f) in enumerate(
        zip(*(a.ravel() for a in (samples, updates, *resources)), strict=True)
    ):
        expected = literal({name: value[i] for name, value in one.items()}, d, tau, w, p, f)
        if d * tau == 0:
            expected = 0.0, 0.0
        assert (seconds.ravel()[i], joules.ravel()[i]) == pytest.approx(expected, rel=1e-10)
    assert 0 < (samples * updates == 0).sum() < samples.size


@pytest.mark.parametrize("missing", Resources._fields)
def test_nothing_ends_without_resources(missing: str) -> None:
    limits = row(document(np.random.default_rng(3), 1, 3), 0)
    unlimited = ResourceLimits(**{**vars(limits), "limit_j": np.full(3, np.inf)})
    full = Resources(np.full(3, 5e6), limits.max_power_w, limits.max_cpu_hz)
    assert (max_updates(limits, 100, full) > 0).all()
    resources = full._replace(**{missing: np.zeros(3)})
    for some in (limits, unlimited):
        seconds, joules = needs(some, 100, 1, resources)
        assert (seconds == np.inf).all()
        assert not np.isnan(joules).any()
        np.testing.assert_array_equal(max_updates(some, 100, resources), 0)
    np.testing.assert_array_equal(needs(limits, 100, 0, resources), 0)


def test_max_updates_are_the_last_that_fit() -> None:
    rng = np.random.default_rng(4)
    limits, _ = wild(rng, 50, 10)
    shape = limits.model_bits.shape
    room = capacity(limits, 10 ** rng.uniform(-0.3, 1.5, shape), limits.band_hz[:, None] / 10)
    samples = np.floor(room * rng.uniform(0, 1.2, shape))
    part = rng.uniform(0.3, 1, (2, *shape))
    resources = Resources(
        np.broadcast_to(limits.band_hz[:, None] / 10, shape),
        limits.max_power_w * part[0],
        limits.max_cpu_hz * part[1],
    )
    found = max_updates(limits, samples, resources)
    assert (found > 1).mean() > 0.1
    for more, expected in ((0, True), (1, False)):
        seconds, joules = needs(limits, samples, found + more, resources)
        fits = (seconds <= limits.cycle_s * (1 + 1e-9)) & (joules <= limits.limit_j * (1 + 1e-9))
        relevant = (samples > 0) & (samples <= limits.max_samples)
        np.testing.assert_array_equal(fits[relevant & (found + more > 0)], expected)
    assert (found[(samples == 0) | (samples > limits.max_samples)] == 0).all()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.2, 1),
    st.floats(-3, 0),
    st.integers(1, 40),
    st.booleans(),
)
def test_best_resources_need_the_least_energy(
    seed: int, fill: float, log_share: float, updates: int, whole: bool
) -> None:
    """No uploads that take longer or shorter, with the clock that ends in time, need less."""
    limits = wild(np.random.default_rng(seed), 3, 4)[0]
    shape = limits.model_bits.shape
    band = np.broadcast_to(limits.band_hz[:, None] * 10**log_share, shape)
    samples = capacity(limits, updates, band) * fill
    samples = np.floor(samples) if whole else samples
    found = best_resources(limits, samples, updates, band)
    seconds, joules = needs(limits, samples, updates, found)
    assert (seconds <= limits.cycle_s * (1 + 1e-10)).all()
    assert (joules <= limits.limit_j * (1 + 1e-10)).all()
    assert (max_updates(limits, samples, found)[samples > 0] >= updates).all()
    power = found.power_w * 10 ** np.linspace(-2, 2, 401)[:, None, None]
    one = repeated(limits, len(power))
    with np.errstate(divide="ignore"):
        up = needs(one, 1e-100, 1e-100, Resources(band, power, limits.max_cpu_hz))[0]
        left = limits.cycle_s - up - limits.sample_bits * samples / (limits.efficiency * band)
        clock = updates * samples * limits.cycles_per_sample / np.maximum(left, 1e-300)
    possible = (power <= limits.max_power_w) & (clock <= limits.max_cpu_hz)
    others = needs(one, samples, updates, Resources(band, power, np.minimum(clock, 1e300)))[1]
    assert (joules <= np.where(possible, others, np.inf) * (1 + 1e-9)).all()


def test_best_resources_of_impossible_and_of_no_tasks_are_full() -> None:
    limits = document(np.random.default_rng(5), 1, 3)
    for samples, updates in ((1e9, 1), (0, 5), (100, 0)):
        found = best_resources(limits, samples, updates, 5e6)
        np.testing.assert_array_equal(found.power_w, limits.max_power_w)
        np.testing.assert_array_equal(found.cpu_hz, limits.max_cpu_hz)
