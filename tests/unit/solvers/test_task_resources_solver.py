from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar

from edge_gym.solvers.task_allocation import (
    LARGEST,
    TaskCosts,
    Tasks,
    exact_allocation,
    exact_updates,
)
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
    used = np.where(updates.any(axis=-1), limits.band_hz, 1e-6 * limits.band_hz)
    np.testing.assert_allclose(resources.band_hz.sum(axis=-1), used, rtol=1e-9)
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
        np.testing.assert_allclose(found, expected, rtol=1e-5)
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
    assert capacity(limits, 3, 1e4)[0] == 0
    # Half the energy of an upload at full power: with less power, and a slower clock, it will do.
    less = ResourceLimits(**{**vars(limits), "limit_j": np.array([0.35 * up])})
    slow = capacity(less, 3, 1e6)
    assert slow == pytest.approx(by_grid(less, np.array([3.0]), np.array([1e6])), rel=1e-5)
    assert 0 < slow[0] < 0.9 * expected
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
    up = needs(one, 1e-100, 1e-100, Resources(band, power, limits.max_cpu_hz))[0]
    left = limits.cycle_s - up - limits.sample_bits * samples / (limits.efficiency * band)
    cycles = updates * samples * limits.cycles_per_sample
    clock = np.where(left > 0, cycles / np.maximum(left, 1e-9), np.inf)
    possible = (power <= limits.max_power_w) & (clock <= limits.max_cpu_hz)
    clock = np.minimum(clock, limits.max_cpu_hz)
    others = needs(one, samples, updates, Resources(band, power, clock))[1]
    assert (joules <= np.where(possible, others, np.inf) * (1 + 1e-9)).all()


def test_best_resources_of_impossible_and_of_no_tasks_are_full() -> None:
    limits = document(np.random.default_rng(5), 1, 3)
    for samples, updates in ((1e9, 1), (0, 5), (100, 0)):
        found = best_resources(limits, samples, updates, 5e6)
        np.testing.assert_array_equal(found.power_w, limits.max_power_w)
        np.testing.assert_array_equal(found.cpu_hz, limits.max_cpu_hz)


def splits(n: int, band: float) -> np.ndarray:
    """Return many splits of a band among 2 or 3 learners."""
    if n == 2:
        share = (np.arange(800) + 0.5) / 800
        return band * np.stack([share, 1 - share], axis=-1)
    grid = (np.indices((45, 45)).reshape(2, -1).T + 0.5) / 45
    grid = grid[grid.sum(axis=1) < 1]
    return band * np.c_[grid, 1 - grid.sum(axis=1)]


def slsqp(limits: ResourceLimits, total: int, least: int, rng: np.random.Generator) -> float:
    """Return the most updates that all can make, from the document's constraints and some starts.

    Variables are logarithms of samples, bands, powers and clocks, and of the updates.
    """
    K = limits.model_bits.size
    top = np.log(
        [np.full(K, total), np.full(K, limits.band_hz), limits.max_power_w, limits.max_cpu_hz]
    )
    top[0] = np.minimum(top[0], np.log(limits.max_samples))

    def values(z: np.ndarray) -> list[np.ndarray]:
        return [*np.exp(z[:-1].reshape(4, K)), np.exp(z[-1])]

    def slack(z: np.ndarray) -> np.ndarray:
        samples, band, power, clock, updates = values(z)
        seconds, joules = needs(limits, samples, updates, Resources(band, power, clock))
        return np.r_[
            -np.log(seconds / limits.cycle_s),
            -np.log(joules / limits.limit_j),
            np.log(samples.sum() / total),
            -np.log(band.sum() / limits.band_hz),
        ]

    best = 0.0
    low = np.repeat(np.log([least, limits.band_hz * 1e-5, 1e-6, 1e5]), K)
    for _ in range(3):
        share = rng.dirichlet(np.full(K, 3.0), 2)
        first = np.r_[
            np.log(share[0] * total),
            np.log(share[1] * limits.band_hz),
            top[2:].ravel() - rng.uniform(0, 1, 2 * K),
            0.0,
        ]
        found = minimize(
            lambda z: -z[-1],
            np.clip(first, np.r_[low, -5], np.r_[top.ravel(), 9]),
            bounds=[*zip(low, top.ravel(), strict=True), (-5, 9)],
            constraints=[{"type": "ineq", "fun": slack}],
            method="SLSQP",
            options={"maxiter": 400, "ftol": 1e-12},
        )
        if (slack(found.x) >= -1e-9).all():
            best = max(best, float(np.exp(found.x[-1])))
    return best


def test_synchronous_optimum_equals_slsqp() -> None:
    rng = np.random.default_rng(6)
    limits, total = wild(rng, 60, 3)
    updates, bands = synchronous_optimum(limits, total, 2, most_updates=1000)
    inside = (updates > 1.05) & (updates < 900) & taking_part(limits, 2).all(axis=1)
    rows = np.flatnonzero(inside)[:8]
    assert len(rows) == 8
    np.testing.assert_allclose(bands.sum(axis=1)[rows], limits.band_hz[rows], rtol=1e-9)
    ratios = []
    for i in rows:
        ratios.append(slsqp(row(limits, i), int(total[i]), 2, rng) / updates[i])
    assert max(ratios) <= 1 + 1e-6
    assert np.median(ratios) >= 1 - 1e-6
    # SLSQP stops early on some.
    assert np.mean(np.greater(ratios, 1 - 1e-3)) > 0.7


def test_synchronous_optimum_is_bounded_by_its_dual() -> None:
    """For no price of the band can learners hold more for it than the optimum's samples."""
    rng = np.random.default_rng(7)
    for limits, total, least in (
        (document(rng, 4, 20), np.full(4, 60_000), 100),
        (document(rng, 4, 10), np.full(4, 1_500), 10),
        (*wild(rng, 12, 6), 1),
    ):
        updates, bands = synchronous_optimum(limits, total, least, 500)
        K = bands.shape[1]
        for i in np.flatnonzero(
            (updates > 1) & (updates < 500) & taking_part(limits, least).all(1)
        ):
            one, band = row(limits, i), limits.band_hz[i]
            room = capacity(one, updates[i], bands[i])
            grid = np.geomspace(band / K * 1e-4, band, 20_000)
            rooms = capacity(repeated(one, len(grid)), updates[i], grid[:, None])
            # A grid point with the samples of the next one bounds all that lies between.
            rooms = np.where(rooms >= least, rooms, -np.inf)[1:]

            def dual(log_price: float) -> float:
                paid = math.exp(log_price) * grid[:-1]  # noqa: B023
                best = (rooms - paid[:, None]).max(axis=0).sum()  # noqa: B023
                return float(best + math.exp(log_price) * band)  # noqa: B023

            middle = math.log(room.sum() / band)
            found = minimize_scalar(dual, bounds=(middle - 9, middle + 5), method="bounded")
            assert room.sum() >= total[i] * (1 - 1e-7) or updates[i] > 1
            assert room.sum() <= found.fun
            assert room.sum() >= found.fun * (1 - 5e-3)


@pytest.mark.parametrize("n_learners", [2, 3])
def test_synchronous_optimum_beats_splits_of_the_band(n_learners: int) -> None:
    rng = np.random.default_rng(8)
    limits, total = wild(rng, 60, n_learners)
    updates, bands = synchronous_optimum(limits, total, 2, 200)
    inside = (updates > 1) & (updates < 200) & taking_part(limits, 2).all(axis=1)
    near = 0
    for i in np.flatnonzero(inside):
        tried = splits(n_learners, float(limits.band_hz[i]))
        rooms = capacity(repeated(row(limits, i), len(tried)), updates[i], tried)
        room = capacity(row(limits, i), updates[i], bands[i])
        assert (room >= 2 * (1 - 1e-12)).all()
        held = np.where((rooms >= 2).all(axis=1), rooms.sum(axis=1), 0).max()
        # Where D is not concave, the split may miss a little.
        assert room.sum() >= held * (1 - 1e-4)
        near += held > 0.999 * room.sum()
    assert near > 0.5 * inside.sum() > 5


def best_of_splits(
    limits: ResourceLimits, total: int, cap: int | None, least: int, most: int
) -> tuple[int, int]:
    """Return the most samples, and then updates, of exact tasks in all splits of the band."""
    tried = splits(limits.model_bits.size, float(limits.band_hz))
    many = repeated(limits, len(tried))
    tables = np.stack([capacity(many, tau, tried) for tau in range(1, most + 1)], axis=-1)
    whole = np.floor(np.minimum(tables, LARGEST) + 1e-9).astype(np.int64)
    whole = np.minimum.accumulate(whole[(whole[..., 0] >= least).all(axis=1)], axis=-1)
    updates = exact_updates(whole, total, cap, least)
    rooms = np.take_along_axis(whole, updates[..., None] - 1, axis=-1)[..., 0].sum(axis=-1)
    return max(zip(np.minimum(rooms, total).tolist(), updates.sum(axis=-1).tolist(), strict=True))


@pytest.mark.parametrize("n_learners", [2, 3])
def test_joint_allocation_beats_splits_of_the_band(n_learners: int) -> None:
    rng = np.random.default_rng(9)
    most, worse, equal, count = 12, 0, 0, 0
    for cap in CAPS:
        limits, total = wild(rng, 40, n_learners)
        tasks, resources = joint_allocation(limits, total, cap, 3, most)
        assert_feasible(limits, tasks, resources, total, cap, 3)
        for i in np.flatnonzero(taking_part(limits, 3).all(axis=1)):
            held, updates = best_of_splits(row(limits, i), int(total[i]), cap, 3, most)
            found = int(tasks.samples[i].sum()), int(tasks.updates[i].sum())
            assert found[0] >= held - 1
            assert found[0] != held or found[1] >= updates - 1
            worse += found < (held, updates)
            equal += found == (held, updates)
            count += 1
    assert count > 50
    assert worse <= 0.01 * count
    assert equal >= 0.7 * count


@pytest.mark.parametrize("n_learners", [2, 3])
def test_resource_allocation_beats_splits_of_the_band(n_learners: int) -> None:
    rng = np.random.default_rng(10)
    most, equal, count, lowered = 12, 0, 0, 0
    for cap in CAPS:
        limits, total = wild(rng, 50, n_learners)
        tasks, resources = resource_allocation(limits, total, cap, most)
        assert_feasible(limits, tasks, resources, total, cap)
        whole = taking_part(limits, 1).all(axis=1)
        share = total[:, None] // n_learners + (np.arange(n_learners) < total[:, None] % n_learners)
        share = np.minimum(share, limits.max_samples)
        for i in np.flatnonzero(whole):
            if (tasks.samples[i] < share[i]).any():
                # One sample more for those who have few is too much for one update.
                more = np.minimum(tasks.samples[i].max() + 1, limits.max_samples[i])
                more = np.minimum(more, share[i])
                lowered += 1
            else:
                more = None
            tried = splits(n_learners, float(limits.band_hz[i]))
            many = repeated(row(limits, i), len(tried))
            rooms = np.stack([capacity(many, tau, tried) for tau in range(1, most + 1)], axis=-1)
            if more is not None:
                assert not (rooms[..., 0] >= more).all(axis=1).any()
            updates = (rooms >= tasks.samples[i][:, None]).sum(axis=-1)
            if cap is not None:
                updates = np.minimum(updates, updates.min(axis=-1, keepdims=True) + cap)
            best = updates.sum(axis=-1)[updates.min(axis=-1) > 0].max(initial=n_learners)
            assert tasks.updates[i].sum() >= best
            equal += tasks.updates[i].sum() == best
            count += 1
    assert count > 50
    assert lowered > 10
    assert equal > 0.8 * count


def asynchronous_mel(limits: ResourceLimits) -> TaskCosts:
    """Return the costs with equal bands, full power and full speed, those of ASYNC-MEL."""
    band = limits.band_hz[:, None] / limits.model_bits.shape[1]
    power, clock = limits.max_power_w, limits.max_cpu_hz
    up = limits.model_bits / (band * np.log2(1 + power * limits.gain_per_noise / band))
    return TaskCosts(
        base_s=limits.model_bits / (limits.efficiency * band) + up,
        sample_s=limits.sample_bits / (limits.efficiency * band),
        update_s=limits.cycles_per_sample / clock,
        base_j=power * up,
        sample_j=np.zeros(()),
        update_j=limits.capacitance * limits.cycles_per_sample * clock**2,
        limit_j=limits.limit_j,
        max_samples=limits.max_samples,
        cycle_s=limits.cycle_s,
    )


@pytest.mark.parametrize("cap", CAPS)
def test_joint_allocation_is_at_least_task_and_resource_allocation(cap: int | None) -> None:
    rng = np.random.default_rng(11)
    for limits, total, least, margin in (
        (document(rng, 20, 20, cycle_s=12), np.full(20, 60_000), 100, 1.2),
        (document(rng, 20, 10, cycle_s=5), np.full(20, 1_500), 10, 1.2),
        (*wild(rng, 150, 8), 2, 1.0),
    ):
        tasks, resources = joint_allocation(limits, total, cap, least, 24)
        assert_feasible(limits, tasks, resources, total, cap, least)
        costs = asynchronous_mel(limits)
        only, others = resource_allocation(limits, total, cap, 24, least_samples=least)
        assert_feasible(limits, only, others, total, cap, least)
        same = (costs.capacity(1) >= least) == taking_part(limits, least)
        for other, rows in (
            (exact_allocation(costs, total, cap, least, 24), same.all(axis=1)),
            (only, np.full(len(total), True)),
        ):
            held, less = (t.samples.sum(axis=-1) for t in (tasks, other))
            updates, fewer = (t.updates.sum(axis=-1) for t in (tasks, other))
            assert rows.mean() > 0.3
            assert (held >= less)[rows].all()
            assert ((updates >= fewer) | (held > less))[rows].all()
            # Without a cap many make as many updates as are looked at.
            gain = margin if cap is not None else 1.0
            assert updates[rows].mean() >= gain * fewer[rows].mean()


@pytest.mark.parametrize("cap", [0, 2, None])
def test_many_instances_equal_one_by_one(cap: int | None) -> None:
    rng = np.random.default_rng(12)
    for n_learners in (1, 4, 9):
        limits, total = wild(rng, 12, n_learners)
        folded = ResourceLimits(
            **{name: value.reshape(3, 4, *value.shape[1:]) for name, value in vars(limits).items()}
        )
        for method in METHODS:
            together = method(folded, total.reshape(3, 4), cap, most_updates=20)
            for i in range(12):
                alone = method(row(limits, i), total[i], cap, most_updates=20)
                for many, one in zip(together, alone, strict=True):
                    for a, b in zip(many, one, strict=True):
                        np.testing.assert_array_equal(a.reshape(12, -1)[i], b)
        updates, bands = synchronous_optimum(folded, total.reshape(3, 4), most_updates=20)
        for i in range(12):
            one_updates, one_bands = synchronous_optimum(row(limits, i), total[i], most_updates=20)
            assert updates.reshape(12)[i] == one_updates
            np.testing.assert_array_equal(bands.reshape(12, -1)[i], one_bands)


def test_totals_broadcast_against_one_instance() -> None:
    limits = row(document(np.random.default_rng(13), 1, 10), 0)
    tasks, resources = joint_allocation(limits, [100, 1_500, 10**6], 1)
    assert tasks.samples.shape == resources.cpu_hz.shape == (3, 10)
    assert tasks.samples.sum(axis=1)[:2].tolist() == [100, 1_500]
    # More than all can hold: as many as they can hold, for one update.
    assert 1_500 < tasks.samples[2].sum() < 10**6
    assert tasks.updates[2].max() <= 2
    mean = tasks.updates.mean(axis=1)
    assert mean[0] > mean[1] > mean[2]


def test_federated_learners_can_hold_no_more_than_they_have() -> None:
    limits = document(np.random.default_rng(14), 6, 10)
    own = np.arange(60).reshape(6, 10) % 9 * 40.0 + 1
    limits = ResourceLimits(**{**vars(limits), "sample_bits": np.zeros(()), "max_samples": own})
    total = own.sum(axis=1).astype(np.int64)
    for method in METHODS:
        tasks, resources = method(limits, total, 1)
        assert_feasible(limits, tasks, resources, total, 1)
    tasks, _ = joint_allocation(limits, total, 1)
    np.testing.assert_array_equal(tasks.samples, own)
    assert (tasks.updates >= 1).all()
    # With all samples in use, tasks and resources that are best together are the best resources.
    updates, bands = synchronous_optimum(limits, total)
    assert (capacity(limits, updates[:, None], bands) >= own * (1 - 1e-9)).all()
    more = capacity(limits, updates[:, None] * (1 + 1e-6), bands)
    assert (more < own).any(axis=1).all()


def test_learners_that_cannot_take_part_are_left_out() -> None:
    limits = document(np.random.default_rng(15), 3, 5)
    gain = limits.gain_per_noise.copy()
    gain[0, 1] *= 1e-6
    gain[2] *= 1e-9
    limits = ResourceLimits(**{**vars(limits), "gain_per_noise": gain})
    for method in METHODS:
        tasks, resources = method(limits, 5_000, 0)
        assert_feasible(limits, tasks, resources, 5_000, 0)
        assert (tasks.samples > 0).sum(axis=1).tolist() == [4, 5, 0]
        assert tasks.samples.sum(axis=1).tolist() == [5_000, 5_000, 0]
        share = limits.band_hz[0] / 5
        assert resources.band_hz[0, 1] == pytest.approx(1e-6 * share)
        np.testing.assert_allclose(resources.band_hz[2], 1e-6 * share)
    updates, _ = synchronous_optimum(limits, 5_000)
    assert updates[2] == 0
    assert (updates[:2] >= 1).all()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.sampled_from(CAPS),
    st.integers(1, 4),
    st.integers(1, 30),
    st.tuples(*[st.floats(-3, 3)] * 4),
)
def test_every_allocation_is_feasible(
    seed: int,
    n_learners: int,
    cap: int | None,
    least: int,
    most: int,
    exponents: tuple[float, float, float, float],
) -> None:
    limits, total = wild(np.random.default_rng(seed), 4, n_learners)
    scaled = dict(vars(limits))
    for name, exponent in zip(
        ("limit_j", "gain_per_noise", "max_cpu_hz", "band_hz"), exponents, strict=True
    ):
        scaled[name] = scaled[name] * 10**exponent
    limits, total = ResourceLimits(**scaled), np.maximum(total, least * n_learners)
    for method in METHODS:
        tasks, resources = method(limits, total, cap, most_updates=most, least_samples=least)
        assert_feasible(limits, tasks, resources, total, cap, least)
        assert tasks.updates.max() <= most
    updates, bands = synchronous_optimum(limits, total, least, most)
    idle = ~taking_part(limits, least)
    assert ((updates >= 1) | idle.all(axis=1)).all()
    room = capacity(limits, np.maximum(updates, 1)[:, None], bands)
    assert (idle | (room >= least * (1 - 1e-9))).all()


GOOD = {
    "model_bits": 1e6,
    "sample_bits": 1e3,
    "efficiency": 4.0,
    "gain_per_noise": [1e7, 1e7],
    "max_power_w": 0.2,
    "max_cpu_hz": 1e9,
    "cycles_per_sample": 1e5,
    "capacitance": 1e-28,
    "limit_j": np.inf,
    "max_samples": np.inf,
    "cycle_s": 10.0,
    "band_hz": 1e6,
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model_bits", 0.0, "model_bits must be positive, got 0.0"),
        ("sample_bits", -1.0, "sample_bits must be at least 0, got -1.0"),
        ("gain_per_noise", [1e7, np.nan], "gain_per_noise must be positive, got nan"),
        ("cycle_s", np.inf, "cycle_s must be finite, got inf"),
        ("limit_j", -1.0, "limit_j must be at least 0, got -1.0"),
        ("max_samples", np.nan, "max_samples must be at least 0, got nan"),
        ("gain_per_noise", 1e7, r"max_cpu_hz must have an axis of learners, got the shape \(\)"),
        ("band_hz", [1e6, 1e6, 1e6], None),
    ],
)
def test_limits_are_checked(name: str, value: object, message: str | None) -> None:
    if message is None:
        limits = ResourceLimits(**{**GOOD, name: np.asarray(value)})  # type: ignore[arg-type]
        assert limits.max_cpu_hz.shape == (3, 2)
        with pytest.raises(ValueError, match="band_hz must broadcast with the shape"):
            ResourceLimits(**{**GOOD, name: value, "cycle_s": np.ones((2, 2))})  # type: ignore[arg-type]
        return
    with pytest.raises(ValueError, match=message):
        ResourceLimits(**{**GOOD, name: value})  # type: ignore[arg-type]


def test_arguments_are_checked() -> None:
    limits = ResourceLimits(**GOOD)  # type: ignore[arg-type]
    good = Resources(np.full(2, 5e5), np.full(2, 0.1), np.full(2, 1e8))
    with pytest.raises(ValueError, match="updates must be positive, got 0"):
        capacity(limits, 0, 1e6)
    with pytest.raises(ValueError, match="band_hz must be positive, got 0"):
        capacity(limits, 1, [1e6, 0])
    with pytest.raises(
        ValueError, match=r"updates must broadcast with the shape \(2,\), got \(3,\)"
    ):
        capacity(limits, [1, 2, 3], 1e6)
    with pytest.raises(ValueError, match="samples must be at least 0, got -1"):
        best_resources(limits, -1, 1, 1e6)
    for name in Resources._fields:
        bad = good._replace(**{name: np.array([1.0, -2.0])})
        with pytest.raises(ValueError, match=f"{name} must be at least 0, got -2"):
            needs(limits, 1, 1, bad)
        with pytest.raises(ValueError, match=f"{name} must be at least 0, got -2"):
            max_updates(limits, 1, bad)
    for method in METHODS:
        with pytest.raises(ValueError, match="cap must be at least 0 or None, got -1"):
            method(limits, 10, -1)
        with pytest.raises(ValueError, match="total must be whole"):
            method(limits, 1.5, 0)
        with pytest.raises(ValueError, match="least_samples must be at least 1, got 0"):
            method(limits, 10, 0, least_samples=0)
        with pytest.raises(ValueError, match="most_updates must be at least 1, got 0"):
            method(limits, 10, 0, most_updates=0)
        with pytest.raises(
            ValueError, match="total must be at least least_samples = 6 for each of 2"
        ):
            method(limits, 10, 0, least_samples=6)
        with pytest.raises(ValueError, match="total must broadcast"):
            method(ResourceLimits(**{**GOOD, "band_hz": [1e6] * 3}), [9, 9], 0)  # type: ignore[arg-type]
