"""Task allocation: exact against brute force and HiGHS, splits, relaxation, lanes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, brentq, milp
from scipy.sparse import coo_array

from edge_gym.solvers import task_allocation as allocation
from edge_gym.solvers.task_allocation import LARGEST, TaskCosts, Tasks

Array = NDArray[Any]
FREQUENCIES = np.array([6.0, 2.4, 1.4, 0.7]) * 1e9
WEIGHTS, FLOPS = 280_440, 1_123_736
TOTAL, LEAST = 60_000, 100
PLACED = (allocation.exact_allocation, allocation.suggest_and_improve)


def document_costs(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    n_learners: int,
    cycle_s: float,
    limit_j: float,
) -> TaskCosts:
    """Draw placements of the document's system, ``(*shape, K)``; energy limits differ by 2.5 J."""
    frequency = np.resize(FREQUENCIES, n_learners)
    km = 0.5 * np.sqrt(rng.uniform(0.01, 1, (*shape, n_learners)))
    gain = 10 ** (-(128 + 37.1 * np.log10(km)) / 10)
    power, noise = 10 ** ((23 - 30) / 10), 10 ** ((-174 - 30) / 10)
    rate = 5e6 * np.log2(1 + power * gain / (5e6 * noise))
    model_s = 32 * WEIGHTS / rate
    return TaskCosts(
        base_s=2 * model_s,
        sample_s=784 * 8 / rate,
        update_s=FLOPS / frequency,
        base_j=power * model_s,
        sample_j=np.zeros(()),
        update_j=1e-28 * FLOPS * frequency**2,
        limit_j=limit_j + rng.uniform(-2.5, 2.5, (*shape, n_learners)),
        max_samples=np.asarray(np.inf),
        cycle_s=np.asarray(cycle_s),
    )


def draw_costs(rng: np.random.Generator, shape: tuple[int, ...]) -> TaskCosts:
    """Draw all kinds of learners: slow, unable, without costs, with few samples, ``(*shape)``."""

    def some(low: float, high: float, zeros: float) -> Array:
        return rng.uniform(low, high, shape) * (rng.random(shape) >= zeros)

    return TaskCosts(
        base_s=rng.uniform(0, 11, shape) ** 2 / 11,
        sample_s=some(0, 0.3, 0.3),
        update_s=some(0.05, 0.6, 0.05),
        base_j=rng.uniform(0, 2, shape),
        sample_j=some(0, 0.2, 0.5),
        update_j=some(0.05, 0.6, 0.3),
        limit_j=rng.uniform(1, 20, shape),
        max_samples=np.where(rng.random(shape) < 0.6, np.inf, rng.integers(0, 60, shape)),
        cycle_s=np.asarray(10.0),
    )


def row(costs: TaskCosts, i: Any) -> TaskCosts:
    return TaskCosts(**{name: np.asarray(value)[i] for name, value in vars(costs).items()})


def draw_table(rng: np.random.Generator, n_learners: int, n_updates: int) -> Array:
    """Draw what fast and slow learners can hold, with jumps, plateaus and zeros, ``(K, N)``."""
    shape = (n_learners, n_updates)
    steepest = rng.choice([2, 12, 25], (n_learners, 1))
    falls = rng.integers(0, steepest, shape) * (rng.random(shape) < 0.7)
    start = rng.integers(0, 50, (n_learners, 1))
    return np.maximum(start - np.cumsum(falls, axis=1), 0)


def rooms_of(table: Array, updates: Array) -> Array:
    at = np.maximum(updates - 1, 0)[..., None]
    return np.where(updates > 0, np.take_along_axis(table, at, axis=-1)[..., 0], 0)


def kept_goal(table: Array, total: int, least: int) -> tuple[Array, int]:
    """Return who takes part, and the samples that they have to hold."""
    part = table[:, 0] >= least
    return part, min(total, int(table[part, 0].sum()))


def score(table: Array, updates: Array, total: int, cap: int | None, least: int) -> Any:
    """Return the sums that count, and where the window starts; fails where it is not feasible."""
    part, goal = kept_goal(table, total, least)
    n_updates = table.shape[1]
    assert (updates[~part] == 0).all()
    if not part.any():
        return 0, 0, 0
    inside, rooms = updates[part], rooms_of(table, updates)[part]
    assert inside.min() >= 1
    assert inside.max() <= n_updates
    assert (rooms >= least).all()
    assert rooms.sum() >= goal
    width = n_updates if cap is None else cap
    assert inside.max() - inside.min() <= width
    return inside.sum(), rooms.sum(), min(inside.min(), max(1, n_updates - width))


def brute_force(table: Array, total: int, cap: int | None, least: int) -> Any:
    part, goal = kept_goal(table, total, least)
    n_updates = table.shape[1]
    width = n_updates if cap is None else cap
    rows, best = table[part], (0, 0, 0)
    for updates in itertools.product(range(1, n_updates + 1), repeat=len(rows)):
        rooms = [int(rows[k][tau - 1]) for k, tau in enumerate(updates)]
        if not rooms or max(updates) - min(updates) > width:
            continue
        if min(rooms) >= least and sum(rooms) >= goal:
            start = min(min(updates), max(1, n_updates - width))
            best = max(best, (sum(updates), sum(rooms), start))
    return best


def mixed_integer(
    table: Array,
    total: int,
    cap: int | None,
    least: int,
    mean: int | None = None,
    seconds: float = np.inf,
) -> float | None:
    """Return the largest Σ τ_k found by HiGHS, or for a given Σ τ_k the largest Σ D_k(τ_k).

    Binaries x_{k,τ} choose the updates, and one variable more is where the window starts. None
    where the optimum was not proven in time.
    """
    part, goal = kept_goal(table, total, least)
    rows = table[part]
    n, n_updates = rows.shape
    size = n * n_updates
    tau = np.tile(np.arange(1, n_updates + 1), n)
    k = np.repeat(np.arange(n), n_updates)
    columns = np.arange(size)
    last = np.full(n, size)
    each = coo_array((np.ones(size), (k, columns)), shape=(n, size + 1))
    starts = (np.r_[k, np.arange(n)], np.r_[columns, last])
    above = coo_array((np.r_[tau, -np.ones(n)], starts), shape=(n, size + 1))
    constraints = [
        LinearConstraint(each, 1, 1),
        LinearConstraint(np.r_[rows.reshape(-1), 0][None].astype(float), goal, np.inf),
    ]
    if cap is not None:
        constraints.append(LinearConstraint(above, 0, cap))
    aim = np.r_[tau, 0.0]
    if mean is not None:
        constraints.append(LinearConstraint(aim[None], mean, mean))
        aim = np.r_[rows.reshape(-1), 0.0].astype(float)
    found = milp(
        -aim,
        integrality=np.r_[np.ones(size), 0],
        bounds=Bounds(0, np.r_[rows.reshape(-1) >= least, n_updates].astype(float)),
        constraints=constraints,
        options={"mip_rel_gap": 0, "time_limit": seconds},
    )
    return round(-found.fun) if found.status == 0 else None


# ---------------------------------------------------------------------------------- what fits


def seconds_and_joules(costs: TaskCosts, updates: Array, samples: Array) -> tuple[Array, Array]:
    work = updates * samples
    return (
        costs.base_s + costs.sample_s * samples + costs.update_s * work,
        costs.base_j + costs.sample_j * samples + costs.update_j * work,
    )


def test_capacity_is_all_that_fits() -> None:
    rng = np.random.default_rng(0)
    costs = draw_costs(rng, (2000, 3))
    updates = rng.uniform(0, 8, (2000, 3))
    found = costs.capacity(updates)
    able = (costs.base_s <= costs.cycle_s) & (costs.base_j <= costs.limit_j)
    assert (~able).mean() > 0.03
    assert (found[~able] == 0).all()
    assert (found <= costs.max_samples).all()
    finite = able & np.isfinite(found)
    inside, outside = (
        seconds_and_joules(costs, updates, np.where(finite, found * factor, 0))
        for factor in (1 - 1e-9, 1 + 1e-9)
    )
    fits = (inside[0] <= costs.cycle_s) & (inside[1] <= costs.limit_j)
    assert fits[finite].all()
    over = (outside[0] > costs.cycle_s) | (outside[1] > costs.limit_j)
    over |= found * (1 + 1e-9) > costs.max_samples
    positive = finite & (found > 0)
    assert over[positive].all()
    assert positive.mean() > 0.5


def test_needs_are_seconds_and_joules() -> None:
    rng = np.random.default_rng(1)
    costs = draw_costs(rng, (50, 3))
    samples, updates = rng.integers(0, 90, (2, 50, 3))
    wanted = seconds_and_joules(costs, updates, samples)
    np.testing.assert_allclose(costs.needs(samples, updates), wanted, rtol=1e-12)


def test_capacity_where_nothing_limits() -> None:
    free = TaskCosts(*(np.zeros(2),) * 6, np.full(2, np.inf), np.array([np.inf, 7.5]), np.ones(2))
    assert free.capacity(3.0).tolist() == [np.inf, 7.5]
    assert free.whole_capacities(2).tolist() == [[LARGEST] * 2, [7] * 2]
    assert free.max_updates([5, 5]).tolist() == [LARGEST] * 2
    assert free.max_updates([0, 8]).tolist() == [0, 0]
    assert allocation.relaxed_updates(free, 10) == np.inf
    exact = allocation.exact_allocation(free, 10, 2, most_updates=5)
    assert exact.updates.tolist() == [5, 5]
    assert exact.samples.tolist() == [9, 1]


def test_capacity_broadcasts() -> None:
    costs = draw_costs(np.random.default_rng(1), (2, 3))
    updates = np.random.default_rng(2).uniform(0, 5, (4, 1, 3))
    for method in (costs.capacity, costs.max_updates):
        found = method(updates)
        assert found.shape == (4, 2, 3)
        for i, j in np.ndindex(4, 2):
            np.testing.assert_array_equal(
                found[i, j], getattr(row(costs, j), method.__name__)(updates[i, 0])
            )


def test_whole_capacities_are_rounded_down() -> None:
    costs = draw_costs(np.random.default_rng(3), (500, 2))
    table = costs.whole_capacities(9)
    assert table.shape == (500, 2, 9)
    for i in range(9):
        real = np.minimum(costs.capacity(i + 1.0), LARGEST)
        assert (table[..., i] <= real + 1e-9).all()
        assert (table[..., i] > real + 1e-9 - 1).all()
    # (T - C⁰)/(C²·τ) is 2.9999999999999996 in floating point here, and 3 on paper.
    zero = np.zeros(1)
    third = TaskCosts(
        zero, zero, np.array([0.1]), zero, zero, zero, zero, np.full(1, 9), np.array([0.3])
    )
    assert third.capacity(1.0)[0] < 3
    assert third.whole_capacities(1).tolist() == [[3]]
    assert third.max_updates([3]).tolist() == [1]


positive = st.floats(1e-6, 1e3)
maybe = st.one_of(st.just(0.0), positive)


@given(
    base=maybe,
    sample=maybe,
    update=maybe,
    energy=st.tuples(maybe, maybe, maybe, positive),
    most=st.one_of(st.just(np.inf), st.floats(0, 1e6)),
    cycle=positive,
    tau=st.integers(1, 10_000),
)
@settings(max_examples=300, deadline=None)
def test_most_updates_undo_capacities(
    base: float,
    sample: float,
    update: float,
    energy: tuple[float, float, float, float],
    most: float,
    cycle: float,
    tau: int,
) -> None:
    values = (base, sample, update, *energy, most, cycle)
    costs = TaskCosts(*(np.array([value]) for value in values))
    samples = np.floor(np.minimum(costs.capacity(tau), LARGEST) + 1e-9)
    found = costs.max_updates(samples)
    if samples[0] == 0:
        assert found[0] == 0
        return
    assert found[0] >= tau
    assert costs.capacity(found)[0] + 1e-9 >= samples[0]
    assert found[0] == LARGEST or costs.capacity(found + 1)[0] + 1e-9 < samples[0]


def test_most_updates_by_counting() -> None:
    rng = np.random.default_rng(4)
    costs = draw_costs(rng, (400, 2))
    samples = rng.integers(0, 30, (400, 2))
    counted = np.zeros((400, 2), np.int64)
    for tau in range(1, 300):
        spent = seconds_and_joules(costs, np.asarray(tau), samples)
        fits = (spent[0] <= costs.cycle_s) & (spent[1] <= costs.limit_j)
        fits &= (samples <= costs.max_samples) & (samples > 0)
        counted += fits
    found = costs.max_updates(samples)
    assert (counted > 0).mean() > 0.3
    np.testing.assert_array_equal(np.minimum(found, 299), counted)


# ---------------------------------------------------------------------------------- relaxation


def test_relaxed_updates_are_a_root() -> None:
    costs = document_costs(np.random.default_rng(5), (20,), 12, 12.0, 12.0)
    for least, limited in ((1, "samples"), (2_000, "least")):
        found = allocation.relaxed_updates(costs, 36_000, least)
        for i in range(20):
            one = row(costs, i)

            def spare(tau: float, one: TaskCosts = one, least: int = least) -> float:
                room = one.capacity(tau)
                return float(min(room.sum() - 36_000, (room.min() - least) * 12))

            assert found[i] == pytest.approx(brentq(spare, 0, 1e4, xtol=1e-13), rel=1e-12)
        rooms = costs.capacity(found[:, None])
        tight = rooms.sum(axis=-1) if limited == "samples" else rooms.min(axis=-1)
        assert np.isclose(tight, 36_000 if limited == "samples" else least, rtol=1e-9).sum() > 10


def test_relaxed_updates_where_samples_do_not_fit() -> None:
    costs = draw_costs(np.random.default_rng(6), (300, 2))
    found = allocation.relaxed_updates(costs, 30, 5)
    room = costs.capacity(0.0)
    fits = (room.sum(axis=-1) >= 30) & (room.min(axis=-1) >= 5)
    assert 0.1 < fits.mean() < 0.9
    np.testing.assert_array_equal(found > 0, fits)


# ---------------------------------------------------------------------------------- exact


@pytest.mark.parametrize("cap", [0, 1, 2, 3, None])
def test_exact_is_brute_force(cap: int | None) -> None:
    rng = np.random.default_rng(7 if cap is None else cap)
    left_out = lowered = windows = 0
    for _ in range(600):
        n_learners = int(rng.integers(2, 5))
        n_updates = int(rng.integers(1, 8))
        if rng.random() < 0.5:
            table = draw_table(rng, n_learners, n_updates)
        else:
            table = draw_costs(rng, (n_learners,)).whole_capacities(n_updates)
            table = np.minimum(table, 1000)
        least = int(rng.integers(1, 5))
        part = table[:, 0] >= least
        total = int(rng.uniform(0.3, 1.2) * table[part, 0].sum())
        total = max(total, least * n_learners)
        found = allocation.exact_updates(table, total, cap, least)
        best = brute_force(table, total, cap, least)
        assert score(table, found, total, cap, least) == best
        left_out += not part.all()
        lowered += total > table[part, 0].sum()
        synchronous = allocation.exact_updates(table, total, 0, least)
        windows += part.any() and found[part].min() < synchronous[part].min()
    assert left_out > 20
    assert lowered > 20
    if cap is None or cap > 1:
        assert windows > 5


def test_exact_is_the_mixed_integer_program() -> None:
    rng = np.random.default_rng(8)
    for i in range(20):
        cap = i % 5
        if i % 2:
            n_learners = int(rng.integers(20, 24))
            total = 3000 * n_learners
            table = document_costs(rng, (), n_learners, 10.0, 10.0).whole_capacities(8)
        else:
            n_learners = int(rng.integers(20, 41))
            table = 300 * draw_table(rng, n_learners, 10) + rng.integers(0, 300, (n_learners, 1))
            total = int(0.7 * table[:, 0].sum())
        found = allocation.exact_updates(table, total, cap, LEAST)
        sums = score(table, found, total, cap, LEAST)
        assert sums[0] == mixed_integer(table, total, cap, LEAST)
        assert sums[1] == mixed_integer(table, total, cap, LEAST, mean=sums[0])


def plain_program(table: Array, total: int, cap: int | None, least: int) -> tuple[int, int]:
    """Return Σ τ_k and Σ D_k(τ_k) by dynamic programming that leaves no window and no state out."""
    part, goal = kept_goal(table, total, least)
    rows = table[part]
    n, n_updates = rows.shape
    width = n_updates - 1 if cap is None else min(cap, n_updates - 1)
    best = (0, 0)
    for m in range(1, n_updates - width + 1):
        most = np.full(n * width + 1, -np.inf)
        most[0] = 0
        for k in range(n):
            new = np.full_like(most, -np.inf)
            for i in range(width + 1):
                held = rows[k, m - 1 + i]
                if held >= least:
                    new[i:] = np.maximum(new[i:], most[: len(most) - i] + held)
            most = new
        enough = np.flatnonzero(most >= goal)
        if enough.size:
            best = max(best, (n * m + int(enough[-1]), int(most[enough[-1]])))
    return best


@pytest.mark.parametrize(
    ("n_learners", "n_updates", "cap"),
    [(12, 16, None), (30, 20, 6), (60, 12, 3), (150, 12, 2), (12, 70, None)],
)
def test_what_bounds_leave_out_is_never_needed(
    n_learners: int, n_updates: int, cap: int | None
) -> None:
    rng = np.random.default_rng(9)
    for i in range(12):
        if i % 3 == 0:
            table = document_costs(rng, (), n_learners, 10.0, 10.0).whole_capacities(n_updates)
        elif i % 3 == 1:
            table = 50 * draw_table(rng, n_learners, n_updates)
        else:
            table = np.sort(rng.integers(1, 10_000, (n_learners, n_updates)), axis=1)[:, ::-1]
        part = table[:, 0] >= LEAST
        for share in (0.2, 0.9):
            total = max(LEAST * n_learners, int(share * table[part, 0].sum()))
            found = allocation.exact_updates(table, total, cap, LEAST)
            sums = score(table, found, total, cap, LEAST)
            assert sums[:2] == plain_program(table, total, cap, LEAST)


def test_slack_decides_between_equal_means() -> None:
    # One more update: the second learner loses the least by it.
    table = np.array([[50, 40], [50, 45], [50, 41]])
    assert allocation.exact_updates(table, 137, 1).tolist() == [1, 2, 1]
    # Two for one learner or one for two: 150 - 12 is more than 150 - 14.
    table = np.array([[50, 45, 38], [50, 43, 0], [50, 43, 0]])
    assert allocation.exact_updates(table, 136, 2).tolist() == [3, 1, 1]
    table = np.array([[50, 45, 30], [50, 43, 0], [50, 20, 0]])
    assert allocation.exact_updates(table, 130, 2).tolist() == [2, 2, 1]


def test_windows_below_the_synchronous_optimum_may_be_better() -> None:
    table = np.array([[100, 98, 97, 96], [60, 31, 0, 0]])
    assert allocation.exact_updates(table, 128, 0).tolist() == [2, 2]
    assert allocation.exact_updates(table, 128, 3).tolist() == [4, 1]


def test_the_higher_window_decides_between_equal_sums() -> None:
    table = np.array([[11, 10, 9, 6, 5], [7, 6, 4, 3, 1], [7, 4, 3, 3, 2]])
    equal = np.array([[3, 4, 1], [2, 2, 4]])
    assert equal.sum(axis=1).tolist() == [8, 8]
    assert [rooms_of(table, updates).sum() for updates in equal] == [19, 19]
    assert allocation.exact_updates(table, 19, 3).tolist() == [2, 2, 4]


def test_learners_without_capacity_are_left_out() -> None:
    table = np.array([[40, 30, 20], [4, 3, 0], [25, 10, 5], [0, 0, 0]])
    # Its staleness does not count, and 5 samples of those left fit for three updates.
    assert allocation.exact_updates(table, 25, 0, 5).tolist() == [3, 0, 3, 0]
    # They hold 65 samples for one update, so that 100 do not fit.
    assert allocation.exact_updates(table, 100, None, 5).tolist() == [1, 0, 1, 0]
    assert allocation.exact_updates(np.zeros((3, 2), np.int64), 10, 2).tolist() == [0, 0, 0]


def test_samples_of_their_own_stay_with_learners() -> None:
    rng = np.random.default_rng(10)
    costs = draw_costs(rng, (50, 6))
    fields = vars(costs) | {"max_samples": rng.integers(5, 20, (50, 6))}
    costs = TaskCosts(**fields)
    found = allocation.exact_allocation(costs, 10**6, None, 3)
    held = costs.whole_capacities(1)[..., 0]
    np.testing.assert_array_equal(found.samples, np.where(held >= 3, held, 0))
    assert (found.samples == costs.max_samples).mean() > 0.3


# ---------------------------------------------------------------------------------- split


def plain_split(rooms: list[int], total: int, least: int) -> list[int]:
    part = [k for k, room in enumerate(rooms) if room >= least]
    rest, free, fixed = min(total, sum(rooms[k] for k in part)), list(part), {}
    while True:
        held = sum(rooms[k] for k in free)
        small = [k for k in free if Fraction(rooms[k] * rest, held) < least]
        if not small:
            break
        # The smallest first: others may keep their shares.
        k = min(small, key=lambda k: rooms[k])
        fixed[k] = least
        rest -= least
        free.remove(k)
    shares = {k: Fraction(rooms[k] * rest, held) for k in free}
    found = {k: int(share) for k, share in shares.items()}
    order = sorted(free, key=lambda k: found[k] - shares[k])
    for k in order[: rest - sum(found.values())]:
        found[k] += 1
    found |= fixed
    return [found.get(k, 0) for k in range(len(rooms))]


sizes = st.one_of(st.integers(0, 12), st.integers(0, 10**5), st.integers(LARGEST - 5, LARGEST))


@given(
    rooms=st.lists(sizes, min_size=1, max_size=8),
    least=st.one_of(st.integers(1, 6), st.integers(1, 10**4)),
    data=st.data(),
)
@settings(max_examples=500, deadline=None)
def test_split_properties(rooms: list[int], least: int, data: st.DataObject) -> None:
    fewest = least * sum(room >= least for room in rooms)
    near = st.integers(fewest, min(fewest + 30, LARGEST))
    total = data.draw(st.one_of(near, st.integers(fewest, LARGEST)))
    found = allocation.split_samples(rooms, total, least)
    assert found.dtype == np.int64
    part = np.array(rooms) >= least
    assert (found[~part] == 0).all()
    assert (found[part] >= least).all()
    assert (found <= rooms).all()
    assert found.sum() == min(total, sum(room for room in rooms if room >= least))
    assert found.tolist() == plain_split(rooms, total, least)


def test_split_in_proportion() -> None:
    assert allocation.split_samples([30, 10, 20], 30).tolist() == [15, 5, 10]
    # Equal remainders: the first.
    assert allocation.split_samples([3, 3, 3], 4).tolist() == [2, 1, 1]
    assert allocation.split_samples([2, 5, 1], 4).tolist() == [1, 2, 1]
    # 100 of 1,000 would leave the small ones with 1 each.
    assert allocation.split_samples([980, 10, 10], 100, 5).tolist() == [90, 5, 5]
    assert allocation.split_samples([980, 4, 10], 100, 5).tolist() == [95, 0, 5]
    assert allocation.split_samples([7, 8], 100).tolist() == [7, 8]


# ---------------------------------------------------------------------------------- allocations


def assert_feasible(
    costs: TaskCosts, found: Tasks, total: int, cap: int | None, least: int
) -> None:
    """Check problem (16), with learners left out and samples given up as the docstring says."""
    samples, updates = found
    seconds, joules = seconds_and_joules(costs, updates, samples)
    part = updates > 0
    np.testing.assert_array_equal(part, np.floor(costs.capacity(1.0) + 1e-9) >= least)
    assert (samples[~part] == 0).all()
    assert (seconds <= costs.cycle_s * (1 + 1e-9))[part].all()
    assert (joules <= costs.limit_j * (1 + 1e-9))[part].all()
    assert (samples <= costs.max_samples).all()
    assert (samples >= least)[part].all()
    hold = np.where(part, np.floor(np.minimum(costs.capacity(1.0), LARGEST) + 1e-9), 0)
    np.testing.assert_array_equal(samples.sum(axis=-1), np.minimum(total, hold.sum(axis=-1)))
    if cap is not None:
        lowest = np.where(part, updates, LARGEST).min(axis=-1)
        assert (updates.max(axis=-1) - lowest <= cap)[part.any(axis=-1)].all()


@pytest.mark.parametrize("place", PLACED)
@pytest.mark.parametrize("cap", [0, 1, 3, None])
def test_allocations_are_feasible(place: Callable[..., Tasks], cap: int | None) -> None:
    rng = np.random.default_rng(11)
    costs = draw_costs(rng, (200, 5))
    assert_feasible(costs, place(costs, 45, cap, 3, 30), 45, cap, 3)
    costs = document_costs(rng, (30,), 20, 10.0, 10.0)
    assert_feasible(costs, place(costs, TOTAL, cap, LEAST), TOTAL, cap, LEAST)


def plain_improve(table: Array, total: int, cap: int | None, least: int) -> Array:
    part, goal = kept_goal(table, total, least)
    updates = np.where(part, 1, 0)
    n_updates = table.shape[1]
    while part.any() and updates.max() < n_updates:
        rooms = rooms_of(table, updates + part)[part]
        if rooms.min() < least or rooms.sum() < goal:
            break
        updates = updates + part
    while part.any():
        lowest, options = updates[part].min(), []
        for k in np.flatnonzero(part):
            raised = updates.copy()
            raised[k] += 1
            if raised[k] > n_updates or (cap is not None and raised[k] > lowest + cap):
                continue
            rooms = rooms_of(table, raised)
            if rooms[k] >= least and rooms.sum() >= goal:
                options.append((-int(rooms.sum()), k))
        if not options:
            break
        updates[min(options)[1]] += 1
    return updates


def test_suggest_and_improve_is_coordinate_ascent() -> None:
    rng = np.random.default_rng(12)
    costs = draw_costs(rng, (150, 4))
    table = costs.whole_capacities(12)
    for cap in (0, 1, 2, 4, None):
        found = allocation.suggest_and_improve(costs, 40, cap, 3, 12)
        for i in range(150):
            np.testing.assert_array_equal(found.updates[i], plain_improve(table[i], 40, cap, 3))


def test_suggest_and_improve_is_exact_up_to_a_staleness_of_one() -> None:
    costs = document_costs(np.random.default_rng(13), (200,), 20, 10.0, 20.0)
    table = costs.whole_capacities(64)
    for cap in range(6):
        exact, suggested = (place(costs, TOTAL, cap, LEAST).updates for place in PLACED)
        if cap < 2:
            np.testing.assert_array_equal(suggested.sum(axis=-1), exact.sum(axis=-1))
            rooms = [rooms_of(table, u).sum(axis=-1) for u in (suggested, exact)]
            np.testing.assert_array_equal(*rooms)
        else:
            assert (suggested.sum(axis=-1) <= exact.sum(axis=-1)).all()
            assert (suggested.sum(axis=-1) < exact.sum(axis=-1)).any()


def test_suggestion_is_the_relaxed_optimum_rounded_down() -> None:
    costs = document_costs(np.random.default_rng(14), (300,), 20, 15.0, 12.0)
    relaxed = allocation.relaxed_updates(costs, TOTAL, LEAST)
    common = allocation.suggest_and_improve(costs, TOTAL, 0, LEAST).updates
    assert (common == common[:, :1]).all()
    assert (common[:, 0] <= relaxed).all()
    # One sample less per learner is what rounding rooms down takes at most.
    assert (
        common[:, 0] >= np.floor(allocation.relaxed_updates(costs, TOTAL + 20, LEAST + 1))
    ).all()
    assert (common[:, 0] == np.floor(relaxed)).mean() > 0.98


@pytest.mark.parametrize(("cap", "mean"), [(0, 2.0), (1, 2.914), (2, 3.502), (3, 4.05)])
def test_mean_updates_of_the_documents_system(cap: int, mean: float) -> None:
    found = [
        allocation.exact_allocation(
            document_costs(np.random.default_rng(seed), (), 20, 10.0, 10.0), TOTAL, cap, LEAST
        ).updates.mean()
        for seed in range(60)
    ]
    assert np.mean(found) == pytest.approx(mean, abs=5e-4)


def test_equal_allocation_by_hand() -> None:
    rng = np.random.default_rng(15)
    costs = draw_costs(rng, (100, 4))
    for total, cap in itertools.product((3, 30, 42), (0, 1, 2, None)):
        found = allocation.equal_allocation(costs, total, cap)
        for i in range(100):
            one = row(costs, i)
            shares = [total // 4 + (k < total % 4) for k in range(4)]
            samples = [int(min(share, one.max_samples[k])) for k, share in enumerate(shares)]
            updates = one.max_updates(samples).tolist()
            if cap is not None:
                have = [tau for tau, d in zip(updates, samples, strict=True) if d]
                updates = [min(tau, min(have, default=0) + cap) for tau in updates]
            assert found.samples[i].tolist() == samples
            assert found.updates[i].tolist() == updates
        seconds, joules = seconds_and_joules(costs, found.updates, found.samples)
        active = found.updates > 0
        assert (seconds <= costs.cycle_s * (1 + 1e-9))[active].all()
        assert (joules <= costs.limit_j * (1 + 1e-9))[active].all()


# ---------------------------------------------------------------------------------- lanes


@pytest.mark.parametrize("threads", ["1", "3"])
def test_many_instances_are_one_by_one(monkeypatch: pytest.MonkeyPatch, threads: str) -> None:
    monkeypatch.setenv("EDGE_GYM_THREADS", threads)
    for module in ("costs", "splitting"):
        monkeypatch.setattr(f"edge_gym.solvers.task_allocation.{module}.GRAIN", 1)
    costs = draw_costs(np.random.default_rng(16), (4, 50, 6))
    total = np.random.default_rng(17).integers(20, 90, (4, 50))
    rules: list[Callable[..., Any]] = [
        lambda c, d: Tasks(*allocation.exact_allocation(c, d, 3, 3)),
        lambda c, d: Tasks(*allocation.suggest_and_improve(c, d, 3, 3)),
        lambda c, d: Tasks(*allocation.equal_allocation(c, d, 3)),
        lambda c, d: (allocation.relaxed_updates(c, d, 3),),
        lambda c, d: (c.whole_capacities(20),),
    ]
    for rule in rules:
        many = rule(costs, total)
        for i, j in np.ndindex(4, 50):
            for one, all_of_them in zip(rule(row(costs, (i, j)), total[i, j]), many, strict=True):
                np.testing.assert_array_equal(one, all_of_them[i, j])


def test_totals_broadcast() -> None:
    costs = draw_costs(np.random.default_rng(18), (3, 5))
    total = np.array([[30], [60]])
    table = costs.whole_capacities(20)
    for place in PLACED:
        found = place(costs, total, 2, 2, 20)
        assert found.samples.shape == found.updates.shape == (2, 3, 5)
        for i, j in np.ndindex(2, 3):
            one = place(row(costs, j), total[i, 0], 2, 2, 20)
            np.testing.assert_array_equal(found.updates[i, j], one.updates)
            np.testing.assert_array_equal(found.samples[i, j], one.samples)
    assert allocation.exact_updates(table, total, 2, 2).shape == (2, 3, 5)
    assert allocation.equal_allocation(costs, total, 0).samples.shape == (2, 3, 5)
    assert allocation.relaxed_updates(costs, total).shape == (2, 3)
    assert allocation.split_samples([[5, 5], [9, 9]], total[..., 0]).shape == (2, 2)


# ---------------------------------------------------------------------------------- errors


COSTS = draw_costs(np.random.default_rng(0), (2, 3))
TABLE = np.array([[9, 8], [7, 7]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TaskCosts(**vars(COSTS) | {"base_s": -1.0}), "base_s must be at least 0, got -1"),
        (lambda: TaskCosts(**vars(COSTS) | {"update_j": np.inf}), "update_j must be finite"),
        (lambda: TaskCosts(**vars(COSTS) | {"max_samples": np.nan}), "max_samples must be at"),
        (lambda: TaskCosts(*[np.ones(())] * 9), "must have an axis of learners"),
        (lambda: COSTS.capacity(-1.0), "updates must be at least 0, got -1"),
        (lambda: COSTS.capacity(np.ones(4)), r"updates must broadcast with the shape \(2, 3\)"),
        (lambda: COSTS.max_updates([-1, 2, 3]), "samples must be at least 0, got -1"),
        (lambda: COSTS.whole_capacities(0), "n must be at least 1, got 0"),
        (lambda: allocation.exact_updates(TABLE, 5, -1), "cap must be at least 0 or None, got -1"),
        (lambda: allocation.exact_updates(TABLE, 5, 1, 0), "least_samples must be at least 1"),
        (lambda: allocation.exact_updates(TABLE, 5, 1, 3), "for each of 2 learners, got 5"),
        (lambda: allocation.exact_updates(TABLE, 2.5, 1), "total must be whole and in .* got 2.5"),
        (lambda: allocation.exact_updates(TABLE, -1, 1), "total must be whole and in .* got -1"),
        (lambda: allocation.exact_updates(TABLE / 2, 5, 1), "capacities must be whole .* got 4.5"),
        (lambda: allocation.exact_updates(TABLE - 8, 5, 1), "capacities must be whole .* got -1"),
        (lambda: allocation.exact_updates(TABLE[:, ::-1], 5, 1), "got 9 after 8"),
        (lambda: allocation.exact_updates(TABLE[0], 5, 1), r"axes of learners .* \(2,\)"),
        (lambda: allocation.split_samples([3, np.nan], 5), "rooms must be whole .* got nan"),
        (lambda: allocation.split_samples([3, 3], 5, 3), "for each of 2 learners, got 5"),
        (lambda: allocation.split_samples(3, 5), "rooms must have an axis of learners"),
        (lambda: allocation.relaxed_updates(COSTS, [5] * 3), "total must broadcast with the"),
        (lambda: allocation.relaxed_updates(COSTS, 5, 0), "least_samples must be at least 1"),
        (lambda: allocation.exact_allocation(COSTS, 50, 1, 1, 0), "most_updates must be at least"),
        (lambda: allocation.equal_allocation(COSTS, 50, -2), "cap must be at least 0 or None"),
    ],
)
def test_errors_name_what_is_wrong(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
