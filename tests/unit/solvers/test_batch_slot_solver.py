from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import minimize

from edge_gym.solvers import batch_slot as allocation
from edge_gym.solvers.batch_slot import Allocation, RoundCosts

MAX_BATCH = 128.0
KINDS = ("cpu", "cpu-unclipped", "gpu")
PLACEMENTS = (allocation.optimal_allocation, allocation.equal_slots, allocation.equal_allocation)


def draw_costs(rng: np.random.Generator, m: int, n_devices: int, kind: str) -> RoundCosts:
    """Draw instances from computing to sending dominated, ``(m, K)``."""
    shape = (m, n_devices)
    slope = 10 ** -rng.uniform(0.3, 2, shape)
    upload = 10 ** rng.uniform(-2.5, 0.5, (m, 1)) * 10 ** rng.uniform(-1, 0.3, shape)
    base = threshold = np.zeros(())
    if kind == "cpu-unclipped":
        slope, upload = 10 ** -rng.uniform(1, 1.3, shape), 10 ** rng.uniform(-2, -1.7, shape)
    if kind == "gpu":
        threshold, base = rng.uniform(0, 30, shape), rng.uniform(0.05, 0.4, shape)
    download = upload * rng.uniform(0.5, 2, shape)
    update = rng.uniform(0, 0.1, shape)
    high = np.asarray(MAX_BATCH)
    return RoundCosts(slope, upload, download, update, high, base, threshold)


def row(costs: RoundCosts, i: int | np.ndarray) -> dict[str, np.ndarray]:
    return {name: np.asarray(value)[i] for name, value in vars(costs).items()}


def objective(costs: RoundCosts, found: Allocation) -> np.ndarray:
    """The reciprocal of the learning efficiency, T/√B."""
    return allocation.latency(costs, found).round_s / np.sqrt(found.global_batch)


def assert_feasible(costs: RoundCosts, found: Allocation, total: np.ndarray | None = None) -> None:
    for slot in (found.uplink_slot, found.downlink_slot):
        assert (slot > 0).all()
        np.testing.assert_array_less(slot.sum(axis=-1), 1 + 1e-14)
    assert (found.batch >= 1).all()
    assert (found.batch <= costs.max_batch).all()
    if total is not None:
        np.testing.assert_allclose(found.global_batch, total, rtol=1e-14)


def slsqp(one: dict[str, np.ndarray], total: float | None) -> float:
    """Return the optimum of P1 (P6 for GPUs), B given or not, by SLSQP with exact derivatives.

    SLSQP may stop where its constraints do not quite hold, so its slots are scaled to fit, and the
    best of some starts counts.
    """
    slope, up, down, update, base, threshold = (
        one[name]
        for name in (
            *("slope_s", "upload_s", "download_s", "update_s"),
            *("base_latency_s", "threshold"),
        )
    )
    K = len(slope)
    k, scale = np.arange(K), MAX_BATCH
    B, U, D = (slice(2 + i * K, 2 + (i + 1) * K) for i in range(3))
    batch = np.full(K, 64.0 if total is None else total / K)
    first = (base + slope * batch + K * up).max()
    second = (update + K * down).max()
    unit = first + second
    bound = threshold > 0

    def value(z: np.ndarray) -> float:
        return float((z[0] + z[1]) / np.sqrt(z[B].sum()))

    def gradient(z: np.ndarray) -> np.ndarray:
        result, s = np.zeros_like(z), z[B].sum()
        result[:2] = s**-0.5
        result[B] = -0.5 * (z[0] + z[1]) * s**-1.5
        return result

    def slack(z: np.ndarray) -> np.ndarray:
        sent = z[0] - up / z[U] / unit
        affine = base + slope * (z[B] * scale - threshold)
        updated = z[1] - (update + down / z[D]) / unit
        frames = [1 - z[U].sum(), 1 - z[D].sum()]
        return np.r_[sent - affine / unit, updated, frames, (sent - base / unit)[bound]]

    def slack_gradient(z: np.ndarray) -> np.ndarray:
        result = np.zeros((2 * K + 2, len(z)))
        result[:K, 0] = result[K : 2 * K, 1] = 1
        result[k, 2 + k] = -slope * scale / unit
        result[k, 2 + K + k] = up / z[U] ** 2 / unit
        result[K + k, 2 + 2 * K + k] = down / z[D] ** 2 / unit
        result[2 * K, U] = result[2 * K + 1, D] = -1
        flat = result[:K].copy()
        flat[:, B] = 0
        return np.concatenate([result, flat[bound]])

    constraints: list[dict[str, Any]] = [{"type": "ineq", "fun": slack, "jac": slack_gradient}]
    if total is not None:
        jacobian = np.zeros(2 + 3 * K)
        jacobian[B] = scale / total
        constraints.append(
            {
                "type": "eq",
                "fun": lambda z: z[B].sum() * scale / total - 1,
                "jac": lambda z: jacobian,
            }
        )
    costs, best = RoundCosts(**one), np.inf
    for share in (1.0, 0.5, 0.1):
        start = batch if total is not None else share * batch
        found = minimize(
            value,
            np.r_[first / unit, second / unit, start / scale, np.full(2 * K, share / K)],
            jac=gradient,
            bounds=[(0, None)] * 2 + [(1 / scale, 1)] * K + [(1e-6, 1)] * 2 * K,
            constraints=constraints,
            method="SLSQP",
            options={"maxiter": 300, "ftol": 1e-12},
        )
        slots = [found.x[part] / found.x[part].sum() for part in (U, D)]
        result = Allocation(found.x[B] * scale, *slots)
        if total is None or abs(result.global_batch / total - 1) < 1e-9:
            best = min(best, float(objective(costs, result)))
        if found.success and share == 1:
            break
    return best


class Conic:
    """P1 (P6 for GPUs) for a given B as a cone program, which cvxpy compiles once for all."""

    def __init__(self, n_devices: int) -> None:
        K = n_devices
        self.slope, self.up, self.down, self.update, self.base, self.offset = (
            cp.Parameter(K, nonneg=i < 5) for i in range(6)
        )
        self.low, self.high = cp.Parameter(nonneg=True), cp.Parameter(nonneg=True)
        x, y = cp.Variable(), cp.Variable()
        batch, up, down = (cp.Variable(K) for _ in range(3))
        self.batch = batch
        constraints = [
            self.up @ cp.inv_pos(up) <= 1,
            self.down @ cp.inv_pos(down) <= 1,
            x - up >= cp.multiply(self.slope, batch) + self.offset,
            x - up >= self.base,
            y - down >= self.update,
            batch >= self.low,
            batch <= self.high,
            cp.sum(batch) == 1,
        ]
        self.problem = cp.Problem(cp.Minimize(x + y), constraints)

    def solve(self, one: dict[str, np.ndarray], total: float) -> np.ndarray:
        """Return the batches, which are far more exact than the solver's objective."""
        # Seconds and samples are scaled by a feasible round's: the solver needs numbers near one.
        costs = RoundCosts(**one)
        rough = allocation.equal_slots(costs, total)
        unit, batch = allocation.latency(costs, rough).round_s, total
        offset = one["base_latency_s"] - one["slope_s"] * one["threshold"]
        self.slope.value = one["slope_s"] * batch / unit
        self.up.value, self.down.value = one["upload_s"] / unit, one["download_s"] / unit
        self.update.value, self.base.value = one["update_s"] / unit, one["base_latency_s"] / unit
        self.offset.value = offset / unit
        self.low.value, self.high.value = 1 / batch, MAX_BATCH / batch
        tolerances = {f"tol_{name}": 1e-9 for name in ("gap_abs", "gap_rel", "feas")}
        self.problem.solve(solver=cp.CLARABEL, **tolerances)  # type: ignore[no-untyped-call]
        return np.asarray(np.clip(self.batch.value * total, 1, MAX_BATCH))


def corollaries_hold(costs: RoundCosts, found: Allocation) -> None:
    """Assert (23) and (24), its lower bound corrected, for the x and μ of an optimum."""
    V, a, low = 1 / costs.slope_s, costs.upload_s, np.maximum(costs.threshold, 1)
    o = costs.base_latency_s - costs.slope_s * costs.threshold
    B, K = found.global_batch[:, None], V.shape[1]
    latency = allocation.latency(costs, found)
    x = latency.gradient_s.max(axis=1, keepdims=True)
    total = V.sum(axis=1, keepdims=True)
    rho = V / total
    # With s = 1 the rates are 1/a.
    least = (B + (V * o).sum(axis=1, keepdims=True)) / total
    least += np.sqrt(rho * a).sum(axis=1, keepdims=True) ** 2
    equal = costs.base_latency_s + costs.slope_s * np.maximum(B / K - costs.threshold, 0) + K * a
    assert (x >= least * (1 - 1e-12)).all()
    assert (x <= equal.max(axis=1, keepdims=True) * (1 + 1e-12)).all()
    free = (found.batch > low + 1e-6) & (found.batch < costs.max_batch - 1e-6)
    # μ of (22) for a free device, in units where ΔL·T_f = 1.
    mu = (x - o - found.batch / V) ** 2 * rho / a
    lower = (np.maximum(V * (x - o) - costs.max_batch, 0) ** 2 * rho / a / V**2).min(axis=1)
    upper = (np.maximum(V * (x - o) - low, 0) ** 2 * rho / a / V**2).max(axis=1)
    for i in np.flatnonzero(free.any(axis=1)):
        assert np.ptp(mu[i, free[i]]) <= 1e-6 * mu[i, free[i]].max()
        assert lower[i] * (1 - 1e-6) <= mu[i, free[i]].max() <= upper[i] * (1 + 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_optimum_equals_slsqp(kind: str) -> None:
    rng = np.random.default_rng(0)
    for n_devices in (1, 2, 6):
        m = 3
        costs = draw_costs(rng, m, n_devices, kind)
        for total in (None, n_devices * rng.uniform(1, MAX_BATCH, m)):
            found = allocation.optimal_allocation(costs, total)
            assert_feasible(costs, found, total)
            for i in range(m):
                expected = slsqp(row(costs, i), None if total is None else total[i])
                assert objective(costs, found)[i] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_devices", [1, 2, 3, 6, 12])
def test_optimum_of_many_equals_references(kind: str, n_devices: int) -> None:
    """70 instances of 15 sorts: with the best B and a given one."""
    rng = np.random.default_rng(n_devices)
    m = 70
    costs = draw_costs(rng, m, n_devices, kind)
    found = allocation.optimal_allocation(costs)
    assert_feasible(costs, found)
    expected = [slsqp(row(costs, i), None) for i in range(m)]
    np.testing.assert_allclose(objective(costs, found), expected, rtol=1e-6)
    total = n_devices * rng.uniform(1, MAX_BATCH, m)
    found = allocation.optimal_allocation(costs, total)
    assert_feasible(costs, found, total)
    conic = Conic(n_devices)
    batch = np.stack([conic.solve(row(costs, i), total[i]) for i in range(m)])
    expected = [slsqp(row(costs, i), total[i]) for i in range(m)]
    np.testing.assert_allclose(objective(costs, found), expected, rtol=1e-6)
    # Clarabel stops early on some instances: never better, and mostly as good.
    reference = objective(costs, allocation.optimal_slots(costs, batch))
    same = allocation.optimal_allocation(costs, np.clip(batch.sum(axis=1), n_devices, None))
    ratio = objective(costs, same) / reference
    assert (ratio <= 1 + 1e-12).all()
    assert (ratio >= 1 - 1e-3).all()
    assert np.median(ratio) >= 1 - 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_corollaries_one_and_two(kind: str) -> None:
    rng = np.random.default_rng(1)
    for n_devices in (1, 2, 6, 12):
        costs = draw_costs(rng, 500, n_devices, kind)
        least = np.maximum(np.maximum(costs.threshold, 1).sum(axis=1), n_devices)
        total = least + rng.uniform(0, 1, 500) * (n_devices * MAX_BATCH - least)
        corollaries_hold(costs, allocation.optimal_allocation(costs, total))
        corollaries_hold(costs, allocation.optimal_allocation(costs))


def test_draws_are_clipped_and_not() -> None:
    rng = np.random.default_rng(2)
    for kind, expected in (("cpu", (0.5, 1)), ("cpu-unclipped", (0, 0.01)), ("gpu", (0.2, 1))):
        costs = draw_costs(rng, 500, 6, kind)
        batch = allocation.optimal_allocation(costs).batch
        low = np.maximum(costs.threshold, 1)
        clipped = ((batch <= low) | (batch >= MAX_BATCH)).any(axis=1).mean()
        assert expected[0] <= clipped <= expected[1]


def test_unclipped_closed_forms() -> None:
    """Corollary 1 with equality, and B* = ΣV·(s·S² + T_D): computing takes as long as sending."""
    costs = draw_costs(np.random.default_rng(3), 100, 5, "cpu-unclipped")
    V, a = 1 / costs.slope_s, costs.upload_s
    rho = V / V.sum(axis=1, keepdims=True)
    S = np.sqrt(rho * a).sum(axis=1, keepdims=True)
    found = allocation.optimal_allocation(costs)
    latency = allocation.latency(costs, found)
    down = latency.update_s.max(axis=1)
    x = latency.gradient_s.max(axis=1)
    np.testing.assert_allclose(found.global_batch, V.sum(axis=1) * (S[:, 0] ** 2 + down))
    np.testing.assert_allclose(x, found.global_batch / V.sum(axis=1) + S[:, 0] ** 2)
    np.testing.assert_allclose(found.uplink_slot, np.sqrt(rho * a) / S)
    np.testing.assert_allclose(found.batch, V * (x[:, None] - S * np.sqrt(a / rho)), rtol=1e-6)


ROWS = hnp.arrays(np.float64, (2, 4), elements=st.floats(-1.5, 1.5))


def cpus(exponents: np.ndarray) -> RoundCosts:
    slope, upload = 0.05 * 10.0 ** exponents[0], 0.3 * 10.0 ** exponents[1]
    zero = np.zeros(())
    return RoundCosts(slope, upload, upload, zero, np.asarray(MAX_BATCH), zero, zero)


@settings(deadline=None)
@given(ROWS, st.floats(4, 512))
def test_remarks_two_and_three(exponents: np.ndarray, total: float) -> None:
    """Among devices of one optimum batches rise with speed, priority and rate, slots fall."""
    exponents[:, 1] = exponents[0, 0], exponents[1, 1]
    exponents[:, 2] = exponents[0, 2], exponents[1, 0]
    costs = cpus(exponents)
    found = allocation.optimal_allocation(costs, total)
    finish = allocation.latency(costs, found).gradient_s
    np.testing.assert_allclose(finish, finish.max(), rtol=1e-9)
    slope, upload = costs.slope_s, costs.upload_s
    for i in range(4):
        for j in range(4):
            if slope[i] <= slope[j] and upload[i] <= upload[j]:
                assert found.batch[i] >= found.batch[j] - 1e-9 * total
            if slope[i] == slope[j] and upload[i] < upload[j]:
                assert found.uplink_slot[i] <= found.uplink_slot[j] * (1 + 1e-9)
            if upload[i] == upload[j] and slope[i] < slope[j]:
                # Clipped at the same bound the slower one needs more, unclipped the faster one.
                for bound in (1, MAX_BATCH):
                    if np.allclose(found.batch[[i, j]], bound, rtol=1e-12):
                        assert found.uplink_slot[i] <= found.uplink_slot[j] * (1 + 1e-9)
                if all(1 + 1e-6 < found.batch[k] < MAX_BATCH - 1e-6 for k in (i, j)):
                    ratio = found.uplink_slot[i] / found.uplink_slot[j]
                    assert ratio == pytest.approx(np.sqrt(slope[j] / slope[i]), rel=1e-6)


@settings(deadline=None)
@given(ROWS, st.floats(4, 512), st.integers(0, 3), st.integers(0, 1), st.floats(0, 0.5))
def test_better_devices_never_slow_a_round(
    exponents: np.ndarray, total: float, device: int, which: int, gain: float
) -> None:
    better = exponents.copy()
    better[which, device] -= gain
    before, after = cpus(exponents), cpus(better)
    for placement in PLACEMENTS:
        times = [allocation.latency(c, placement(c, total)).round_s for c in (before, after)]
        assert times[1] <= times[0] * (1 + 1e-12)
        values = [objective(c, placement(c)) for c in (before, after)]
        assert values[1] <= values[0] * (1 + 1e-12)


def test_a_faster_uplink_may_lower_its_own_batch() -> None:
    """Remark 2 compares devices of one optimum, not one device before and after a change."""
    zero = np.zeros(())
    slope, upload = np.array([1 / 200, 1 / 20, 1 / 20]), np.array([0.05, 0.5, 0.5])
    batches = [
        allocation.optimal_allocation(
            RoundCosts(slope, upload * [f, 1, 1], upload, zero, np.asarray(1e3), zero, zero), 400
        ).batch[0]
        for f in (1, 0.5)
    ]
    assert batches[1] < batches[0] - 1


@pytest.mark.parametrize("kind", KINDS)
def test_placements_are_ordered_and_best_at_their_own_batch(kind: str) -> None:
    rng = np.random.default_rng(4)
    costs = draw_costs(rng, 300, 6, kind)
    total = 6 * rng.uniform(1, MAX_BATCH, 300)
    given_batch = [objective(costs, placement(costs, total)) for placement in PLACEMENTS]
    best = [objective(costs, placement(costs)) for placement in PLACEMENTS]
    for values in (given_batch, best):
        assert (values[0] <= values[1] * (1 + 1e-12)).all()
        assert (values[1] <= values[2] * (1 + 1e-12)).all()
        assert (values[0] < values[2] * 0.99).any()
    for placement, value in zip(PLACEMENTS, best, strict=True):
        found = placement(costs)
        assert_feasible(costs, found)
        assert_feasible(costs, placement(costs, total), total)
        for factor in np.r_[np.geomspace(0.05, 20, 41), 0.999, 1.001]:
            other = np.clip(found.global_batch * factor, 6, 6 * MAX_BATCH)
            assert (value <= objective(costs, placement(costs, other)) * (1 + 1e-12)).all()


def test_equal_slots_with_given_batch_is_optimal() -> None:
    """Against the batches that the same time allows on every device."""
    rng = np.random.default_rng(5)
    costs = draw_costs(rng, 200, 5, "gpu")
    total = 5 * rng.uniform(1, MAX_BATCH, 200)
    found = allocation.equal_slots(costs, total)
    x = allocation.latency(costs, found).gradient_s.max(axis=1, keepdims=True) * (1 - 1e-9)
    room = (x - 5 * costs.upload_s - costs.base_latency_s) / costs.slope_s + costs.threshold
    possible = (x >= costs.base_latency_s + 5 * costs.upload_s) & (room >= 1)
    most = np.minimum(room, MAX_BATCH).sum(axis=1)
    assert (~possible.all(axis=1) | (most < total)).all()


def test_optimal_slots_beat_random_ones() -> None:
    rng = np.random.default_rng(6)
    costs = draw_costs(rng, 50, 4, "gpu")
    batch = rng.uniform(0, MAX_BATCH, (50, 4))
    found = allocation.optimal_slots(costs, batch)
    latency = allocation.latency(costs, found)
    for ends in (latency.gradient_s, latency.update_s):
        np.testing.assert_allclose(ends, ends[:, :1] * np.ones(4), rtol=1e-10)
    for _ in range(50):
        slots = rng.dirichlet(np.ones(4), (2, 50))
        other = allocation.latency(costs, Allocation(batch, *slots))
        assert (other.round_s >= latency.round_s).all()


def test_latency_and_efficiency_by_hand() -> None:
    costs = allocation.cpu_costs([1e9, 2e9], 1e7, 2e7, 1e6, [1e6, 4e6], [2e6, 5e6])
    found = Allocation(np.array([10.0, 40]), np.array([0.5, 0.25]), np.array([0.2, 0.8]))
    latency = allocation.latency(costs, found)
    np.testing.assert_allclose(latency.gradient_s, [0.1 + 2, 0.2 + 1])
    np.testing.assert_allclose(latency.update_s, [0.02 + 2.5, 0.01 + 0.25])
    assert latency.round_s == pytest.approx(2.1 + 2.52)
    assert found.global_batch == 50
    assert allocation.learning_efficiency(50, 4.62, 2.0) == pytest.approx(2 * 50**0.5 / 4.62)
    gpu = allocation.gpu_costs([0.2, 0.1], 0.01, [16, 8], 1e9, 5e10, 1e6, [1e6, 4e6], [2e6, 5e6])
    latency = allocation.latency(gpu, found)
    np.testing.assert_allclose(latency.gradient_s, [0.2 + 2, 0.1 + 0.32 + 1])
    np.testing.assert_allclose(latency.update_s, [0.02 + 2.5, 0.02 + 0.25])
    never = allocation.latency(costs, found._replace(uplink_slot=np.array([0.0, 1])))
    assert never.round_s == np.inf


def test_one_device_has_the_whole_frame() -> None:
    costs = draw_costs(np.random.default_rng(7), 20, 1, "gpu")
    for placement in PLACEMENTS:
        found = placement(costs, 100)
        np.testing.assert_allclose(found.batch, 100)
        np.testing.assert_allclose(found.uplink_slot, 1)
        reference = allocation.optimal_allocation(costs).batch
        np.testing.assert_allclose(placement(costs).batch, reference, rtol=1e-6)


def test_dominating_device() -> None:
    zero = np.zeros(())
    slope, upload = np.array([1e-4, 10, 10]), np.array([1e-3, 5, 5])
    costs = RoundCosts(slope, upload, upload, zero, np.asarray(MAX_BATCH), zero, zero)
    np.testing.assert_allclose(allocation.optimal_allocation(costs, 100).batch, [98, 1, 1])
    # All are clipped, at a kink of B(x).
    best = allocation.optimal_allocation(costs)
    assert objective(costs, best) == pytest.approx(slsqp(row_of(costs), None), rel=1e-6)


def row_of(costs: RoundCosts) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in vars(costs).items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("each", [1.0, MAX_BATCH])
def test_all_clipped(kind: str, each: float) -> None:
    costs = draw_costs(np.random.default_rng(8), 50, 6, kind)
    for placement in PLACEMENTS:
        np.testing.assert_allclose(placement(costs, 6 * each).batch, each, rtol=1e-13)
    tight = RoundCosts(**{**vars(costs), "max_batch": np.ones(6)})
    for placement in PLACEMENTS:
        np.testing.assert_array_equal(placement(tight).batch, 1)


def test_best_batch_at_the_ends() -> None:
    """Sending takes so long, or so little, that batches are all clipped."""
    zero, ones = np.zeros(()), np.ones(3)
    for seconds, each in ((1e3, MAX_BATCH), (1e-5, 1.0)):
        needs = seconds * np.array([1.0, 2, 3])
        costs = RoundCosts(0.05 * ones, needs, needs, zero, np.asarray(MAX_BATCH), zero, zero)
        for placement in PLACEMENTS:
            np.testing.assert_allclose(placement(costs).batch, each, rtol=0.01)


def test_gpus_below_their_thresholds() -> None:
    """B below the sum of thresholds costs as much as the sum, and no batch exceeds its own."""
    rng = np.random.default_rng(9)
    costs = draw_costs(rng, 100, 6, "gpu")
    low = np.maximum(costs.threshold, 1)
    total = 6 + rng.random(100) * (low.sum(axis=1) - 6)
    found = allocation.optimal_allocation(costs, total)
    assert_feasible(costs, found, total)
    assert (found.batch <= low * (1 + 1e-12)).all()
    at_once = allocation.optimal_allocation(costs, low.sum(axis=1))
    np.testing.assert_allclose(
        allocation.latency(costs, found).round_s, allocation.latency(costs, at_once).round_s
    )
    # Lemma 2.
    assert (allocation.optimal_allocation(costs).batch >= low * (1 - 1e-12)).all()


def test_batches_fit_gpus_whose_threshold_is_beyond_them() -> None:
    costs = draw_costs(np.random.default_rng(10), 20, 4, "gpu")
    costs = RoundCosts(**{**vars(costs), "threshold": np.array([500.0, 200, 300, 400])})
    for placement in PLACEMENTS:
        np.testing.assert_array_equal(placement(costs).batch, MAX_BATCH)
        np.testing.assert_allclose(placement(costs, 50).global_batch, 50)


def test_leading_axes_and_single_instances_agree() -> None:
    costs = draw_costs(np.random.default_rng(11), 6, 4, "gpu")
    folded = RoundCosts(**{n: np.asarray(v).reshape(2, 3, 4) for n, v in vars(costs).items()})
    for placement in PLACEMENTS:
        for total in (None, np.linspace(50, 500, 6)):
            many = placement(costs, total)
            fold = placement(folded, None if total is None else total.reshape(2, 3))
            for a, b in zip(many, fold, strict=True):
                np.testing.assert_allclose(a.reshape(2, 3, 4), b, rtol=1e-12)
            for i in range(6):
                one = placement(RoundCosts(**row(costs, i)), None if total is None else total[i])
                assert one.batch.shape == (4,)
                np.testing.assert_allclose(one.batch, many.batch[i], rtol=1e-9)


@given(hnp.arrays(np.float64, (5, 4), elements=st.floats(1, 20)))
def test_rounding_keeps_constraints_and_sum(batch: np.ndarray) -> None:
    whole = allocation.round_batches(batch, 20)
    np.testing.assert_array_equal(whole, np.floor(whole))
    assert (np.abs(whole - batch) < 1).all()
    assert ((whole >= 1) & (whole <= 20)).all()
    np.testing.assert_array_equal(whole.sum(axis=1), np.rint(batch.sum(axis=1)))


def test_whole_batches_cost_little() -> None:
    rng = np.random.default_rng(12)
    costs = draw_costs(rng, 300, 6, "cpu")
    total = rng.integers(60, 6 * 128, 300).astype(float)
    found = allocation.optimal_allocation(costs, total, whole=True)
    assert_feasible(costs, found, total)
    np.testing.assert_array_equal(found.batch, np.rint(found.batch))
    ratio = objective(costs, found) / objective(costs, allocation.optimal_allocation(costs, total))
    assert (ratio >= 1 - 1e-12).all()
    assert np.median(ratio) < 1.01


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("slope_s", 0.0, "slope_s must be positive, got 0.0"),
        ("upload_s", -1.0, "upload_s must be positive, got -1.0"),
        ("download_s", np.nan, "download_s must be positive, got nan"),
        ("update_s", np.inf, "update_s must be finite, got inf"),
        ("max_batch", 0.5, "max_batch must be at least 1, got 0.5"),
        ("base_latency_s", -2.0, "base_latency_s must be at least 0, got -2.0"),
        ("threshold", -3.0, "threshold must be at least 0, got -3.0"),
    ],
)
def test_costs_name_argument_and_value(name: str, value: float, message: str) -> None:
    fields = {n: np.ones(3) for n in RoundCosts.__dataclass_fields__}
    fields[name] = np.array([1, value, 1])
    with pytest.raises(ValueError, match=f"^{message}$"):
        RoundCosts(**fields)


def test_errors_name_argument_and_value() -> None:
    costs = draw_costs(np.random.default_rng(13), 2, 3, "cpu")
    for placement in PLACEMENTS:
        for bad in (2.5, 385.0):
            with pytest.raises(
                ValueError, match=rf"^global_batch must be in \[3, 384\], got {bad}"
            ):
                placement(costs, bad)
        with pytest.raises(ValueError, match=r"^global_batch must be at least 0, got nan"):
            placement(costs, np.nan)
        with pytest.raises(ValueError, match=r"^global_batch must have the shape \(2,\), got \(5,"):
            placement(costs, np.full(5, 100.0))
    with pytest.raises(ValueError, match=r"^batch must be at least 0, got -1\.0"):
        allocation.optimal_slots(costs, [1, -1.0, 1])
    with pytest.raises(ValueError, match=r"^batch must have the shape \(2, 3\)"):
        allocation.optimal_slots(costs, np.ones((5, 2, 3)))
    with pytest.raises(ValueError, match=r"^max_batch must be whole, got 8\.5"):
        allocation.round_batches([1.0, 2.0], 8.5)
    with pytest.raises(ValueError, match=r"^batch must be in \[1, max_batch\], got 9\.0"):
        allocation.round_batches([1.0, 9.0], 8)
    with pytest.raises(ValueError, match=r"^uplink_rate must be positive, got 0"):
        allocation.cpu_costs(1e9, 1e7, 1e7, 1e6, [0.0, 1], 1e6)
    with pytest.raises(ValueError, match=r"^cycles_per_sample must be positive, got 0"):
        allocation.cpu_costs([1e9], 0.0, 1e7, 1e6, 1e6, 1e6)
    with pytest.raises(ValueError, match=r"^gradient_bits must be positive, got -1"):
        allocation.gpu_costs([0.1], 0.01, 8, 1e9, 1e11, -1.0, 1e6, 1e6)
    with pytest.raises(ValueError, match=r"must have an axis of devices"):
        allocation.cpu_costs(1e9, 1e7, 1e7, 1e6, 1e6, 1e6)
    with pytest.raises(ValueError, match=r"^latency_s must be positive, got 0"):
        allocation.learning_efficiency(10.0, 0.0)
    slots = np.full((2, 3), 1 / 3)
    with pytest.raises(ValueError, match=r"^uplink_slot must be at least 0, got -"):
        allocation.latency(costs, Allocation(np.ones((2, 3)), -slots, slots))


# Where one of two times is next to nothing beside the other.

SPREAD = hnp.arrays(np.float64, (4, 3), elements=st.floats(-9, 12))


@pytest.mark.parametrize("placement", PLACEMENTS)
@settings(deadline=None)
@given(exponents=SPREAD, same=st.booleans(), most=st.integers(1, 1000))
def test_extreme_times_divide_by_nothing(
    placement: Any, exponents: np.ndarray, same: bool, most: int
) -> None:
    """From nanoseconds to 30,000 years: no warning, and no worse than all that is at hand."""
    slope, upload, download, update = 10.0**exponents
    if same:
        upload = np.full(3, upload[0])
    zero = np.zeros(())
    costs = RoundCosts(slope, upload, download, update, np.asarray(float(most)), zero, zero)
    with np.errstate(all="raise", under="ignore"):
        found = placement(costs)
        placement(costs, whole=True)
        ends = [placement(costs, total) for total in (3.0, 3.0 * most)]
    assert_feasible(costs, found)
    best = min(objective(costs, end) for end in ends)
    # One batch of the largest is worth more than rounding of the round's length.
    assert objective(costs, found) <= best * (1 + 1e-9)


@pytest.mark.parametrize("wait_s", [1e5, 1e6, 1e8, 1e12])
@pytest.mark.parametrize("slope_s", [1e-6, 1e-3])
def test_equal_slots_take_all_samples_where_sending_takes_days(
    wait_s: float, slope_s: float
) -> None:
    """Computing is free beside sending; the seconds of a batch vanished in rounding once."""
    slope, zero = slope_s * np.array([1.0, 2, 3]), np.zeros(())
    upload = np.array([1.0, 1, wait_s])
    costs = RoundCosts(slope, upload, upload, zero, np.asarray(MAX_BATCH), zero, zero)
    with np.errstate(all="raise"):
        for placement in PLACEMENTS:
            assert (placement(costs, whole=True).batch == MAX_BATCH).all()
