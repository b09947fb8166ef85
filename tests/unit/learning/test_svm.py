"""learning.svm: solutions are those of scikit-learn, and lanes do not touch each other."""

from __future__ import annotations

import itertools
import warnings

import cvxpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from edge_gym.learning import make_learner
from edge_gym.learning.svm.learner import SVMLearner, coding_matrix
from edge_gym.learning.svm.machines import GRAM_LIMIT, LinearSVMBatch

Array = NDArray[np.float64]
ONE = np.zeros(1, np.int64)


def draw(
    n: int, d: int, noise: float = 0.1, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Two overlapping classes with E‖x‖² = 1, received with noise of this variance a feature."""
    rng = np.random.default_rng(seed)
    clean = rng.standard_normal((n, d)) / np.sqrt(d)
    signs = np.where(clean[:, 0] + 0.3 * rng.standard_normal(n) / np.sqrt(d) > 0, 1, -1)
    received = clean + np.sqrt(noise) * rng.standard_normal((n, d))
    return received.astype(np.float32), signs


def solve(
    x: NDArray[np.float32],
    signs: NDArray[np.int64],
    *,
    C: float = 1.0,
    tolerance: float = 1e-3,
    gram_limit: int = GRAM_LIMIT,
) -> LinearSVMBatch:
    machine = LinearSVMBatch(1, x.shape[1], C=C, tolerance=tolerance, gram_limit=gram_limit)
    extend(machine, x, signs)
    machine.fit(ONE)
    return machine


def extend(
    machine: LinearSVMBatch, x: NDArray[np.float32], signs: NDArray[np.int64], problem: int = 0
) -> None:
    machine.append(np.full(len(x), problem), np.arange(len(x)), x, signs)


def primal(x: NDArray[np.float32], signs: NDArray[np.int64], w: Array, C: float) -> float:
    scores = x.astype(np.float64) @ w[:-1] + w[-1]
    return float(0.5 * w @ w + C * np.maximum(0, 1 - signs * scores).sum())


def stacked(x: NDArray[np.float32], signs: NDArray[np.int64]) -> Array:
    """Return zᵢ = yᵢ·(xᵢ, 1)."""
    return np.c_[x, np.ones(len(x))] * signs[:, None]


def gap_of(x: NDArray[np.float32], signs: NDArray[np.int64], alpha: Array, C: float) -> float:
    """Return (primal - dual) / primal of the weights that alpha stands for."""
    w = alpha @ stacked(x, signs)
    value = primal(x, signs, w, C)
    return float((value - (alpha.sum() - 0.5 * w @ w)) / value)


def scikit_learn(x: NDArray[np.float32], signs: NDArray[np.int64], C: float) -> tuple[float, bool]:
    """Return the primal that ``LinearSVC`` reaches, and whether it says it converged."""
    reference = LinearSVC(
        loss="hinge", C=C, intercept_scaling=1, dual=True, tol=1e-8, max_iter=20_000, random_state=0
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        reference.fit(x.astype(np.float64), signs)
    w = np.append(reference.coef_[0], reference.intercept_[0])
    return primal(x, signs, w, C), not caught


def check(machine: LinearSVMBatch, x: NDArray[np.float32], signs: NDArray[np.int64]) -> None:
    """Hold a fitted machine to its definition: box, gap, weights, and scikit-learn's primal."""
    C, tolerance = machine.C, machine.tolerance
    alpha, w = machine.alpha(0), machine.weights[0].astype(np.float64)
    assert alpha.min() >= 0
    assert alpha.max() <= C
    exact = alpha @ stacked(x, signs)
    np.testing.assert_allclose(w, exact, rtol=1e-6, atol=1e-6 * np.abs(exact).max())
    assert machine.gap[0] <= tolerance
    assert machine.gap[0] == pytest.approx(gap_of(x, signs, alpha, C), rel=1e-3, abs=1e-9)
    if len(np.unique(signs)) < 2:
        return
    ours = primal(x, signs, exact, C)
    theirs, converged = scikit_learn(x, signs, C)
    assert ours * (1 - tolerance) <= theirs * (1 + 1e-9)
    if converged:
        # Its tolerance is absolute: every sample's slack may be off by 1e-8.
        assert theirs <= ours * (1 + 1e-4) + 1e-8 * C * len(x)


# ------------------------------------------------------------------------------------- solutions


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
@pytest.mark.parametrize("C", [1e-3, 1, 100])
@pytest.mark.parametrize("noise", [0, 0.1, 100], ids=["clean", "10dB", "-20dB"])
@pytest.mark.parametrize(
    ("n", "d"), [(2, 3), (40, 3), (60, 300), (GRAM_LIMIT, 30), (GRAM_LIMIT + 1, 30), (280, 320)]
)
def test_optimum_is_scikit_learns(n: int, d: int, noise: float, C: float, tolerance: float) -> None:
    x, signs = draw(n, d, noise)
    check(solve(x, signs, C=C, tolerance=tolerance), x, signs)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 60),
    d=st.integers(1, 40),
    noise=st.sampled_from([0, 0.1, 1, 100]),
    log_c=st.floats(-3, 2),
    gram_limit=st.sampled_from([0, 1, 20, GRAM_LIMIT]),
    duplicates=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_instance_is_solved(
    n: int, d: int, noise: float, log_c: float, gram_limit: int, duplicates: bool, seed: int
) -> None:
    x, signs = draw(n, d, noise, seed)
    if duplicates:
        x, signs = np.r_[x, x], np.r_[signs, signs]
    machine = solve(x, signs, C=10**log_c, gram_limit=gram_limit)
    check(machine, x, signs)


@pytest.mark.parametrize("gram_limit", [0, GRAM_LIMIT])
def test_karush_kuhn_tucker_conditions(gram_limit: int) -> None:
    x, signs = draw(80, 10, 0.05)
    machine = solve(x, signs, tolerance=1e-6, gram_limit=gram_limit)
    alpha = machine.alpha(0)
    margin = stacked(x, signs) @ (alpha @ stacked(x, signs))
    # Each sample's share of the gap is at most the gap.
    slack = 1e-6 * primal(x, signs, alpha @ stacked(x, signs), 1.0) + 1e-12
    assert np.any(alpha == 0)
    assert np.any(alpha == 1)
    assert np.any((alpha > 0) & (alpha < 1))
    for a, m in zip(alpha, margin, strict=True):
        assert a * max(0, m - 1) <= slack
        assert (1 - a) * max(0, 1 - m) <= slack


def test_tiny_instance_against_cvxpy() -> None:
    x, signs = draw(12, 3, 0.1)
    z = stacked(x, signs)
    w = cvxpy.Variable(4)
    objective = 0.5 * cvxpy.sum_squares(w) + 2 * cvxpy.sum(cvxpy.pos(1 - z @ w))
    optimum = cvxpy.Problem(cvxpy.Minimize(objective)).solve()
    for gram_limit in (0, GRAM_LIMIT):
        machine = solve(x, signs, C=2, tolerance=1e-6, gram_limit=gram_limit)
        assert primal(x, signs, machine.weights[0].astype(np.float64), 2) == pytest.approx(
            optimum, rel=1e-5
        )
        np.testing.assert_allclose(machine.weights[0], w.value, atol=2e-3)


@pytest.mark.parametrize("gram_limit", [0, GRAM_LIMIT])
@pytest.mark.parametrize("sign", [1, -1])
def test_one_class_alone(sign: int, gram_limit: int) -> None:
    x, _ = draw(30, 5)
    machine = solve(x, np.full(30, sign), gram_limit=gram_limit)
    check(machine, x, np.full(30, sign))
    assert machine.weights[0, -1] * sign > 0


@pytest.mark.parametrize("gram_limit", [0, GRAM_LIMIT])
def test_samples_of_zeros_have_their_bias(gram_limit: int) -> None:
    x = np.zeros((3, 4), np.float32)
    machine = solve(x, np.array([1, 1, 1]), C=1e-3, tolerance=1e-6, gram_limit=gram_limit)
    np.testing.assert_allclose(machine.weights[0], [0, 0, 0, 0, 3e-3], rtol=1e-5)
    np.testing.assert_allclose(machine.alpha(0), 1e-3)
    x, signs = draw(20, 4)
    x[7] = 0
    check(solve(x, signs, C=1e-3, gram_limit=gram_limit), x, signs)


def test_a_single_huge_sample() -> None:
    x = np.full((1, 784), 300, np.float32)
    machine = solve(x, np.array([-1]), tolerance=1e-6)
    np.testing.assert_allclose(machine.weights[0, :-1], -300 / (784 * 300**2 + 1), rtol=1e-5)


def test_no_samples_leave_zero_weights() -> None:
    machine = LinearSVMBatch(2, 3)
    machine.fit(np.arange(2))
    assert not machine.weights.any()
    assert not machine.gap.any()


# ------------------------------------------------------------------ warm starts and many machines


@pytest.mark.parametrize("gram_limit", [0, 30, GRAM_LIMIT])
def test_warm_starts_reach_the_cold_optimum(gram_limit: int) -> None:
    x, signs = draw(90, 20, 0.3)
    warm = LinearSVMBatch(1, 20, gram_limit=gram_limit)
    for start in range(0, 90, 10):
        extend(warm, x[start : start + 10], signs[start : start + 10])
        warm.fit(ONE)
        check(warm, x[: start + 10], signs[: start + 10])
    cold = solve(x, signs, gram_limit=gram_limit)
    values = [primal(x, signs, m.weights[0].astype(np.float64), 1) for m in (warm, cold)]
    assert values[0] == pytest.approx(values[1], rel=1e-3)


def test_one_at_a_time_equals_at_once() -> None:
    x, signs = draw(70, 20)
    machine = LinearSVMBatch(1, 20)
    for row in range(70):
        extend(machine, x[row : row + 1], signs[row : row + 1])
    machine.fit(ONE)
    at_once = solve(x, signs)
    assert np.array_equal(machine.weights, at_once.weights)
    assert np.array_equal(machine.alpha(0), at_once.alpha(0))


@pytest.mark.parametrize("threads", ["1", "2"])
def test_machines_do_not_touch_each_other(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_GYM_THREADS", threads)
    sizes = [3, 40, 64, 120, 0, 33, 7, 90]
    data = [draw(n, 15, 0.2, seed) for seed, n in enumerate(sizes)]
    together = LinearSVMBatch(len(sizes), 15, gram_limit=64)
    alone = [LinearSVMBatch(1, 15, gram_limit=64) for _ in sizes]
    for half in (0, 1):
        for problem, (x, signs) in enumerate(data):
            rows = slice(half, None, 2)
            extend(together, x[rows], signs[rows], problem)
            extend(alone[problem], x[rows], signs[rows])
            alone[problem].fit(ONE)
        together.fit(np.arange(len(sizes)))
        for problem, machine in enumerate(alone):
            assert np.array_equal(together.weights[problem], machine.weights[0])
            assert np.array_equal(together.alpha(problem), machine.alpha(0))
            assert together.gap[problem] == machine.gap[0]


def test_only_the_named_machines_are_fitted_and_cleared() -> None:
    machine = LinearSVMBatch(3, 5)
    x, signs = draw(10, 5)
    for problem in range(3):
        extend(machine, x, signs, problem)
    machine.fit(np.array([2, 0]))
    assert not machine.weights[1].any()
    assert np.array_equal(machine.weights[0], machine.weights[2])
    machine.clear(np.array([2]))
    assert machine.count.tolist() == [10, 10, 0]
    assert not machine.weights[2].any()
    extend(machine, x, signs, 2)
    machine.fit(np.array([2]))
    assert np.array_equal(machine.weights[0], machine.weights[2])


@pytest.mark.parametrize("gram_limit", [10, GRAM_LIMIT])
def test_state_goes_round_to_the_bit(gram_limit: int) -> None:
    x, signs = draw(60, 12, 0.3)
    first = LinearSVMBatch(3, 12, gram_limit=gram_limit)
    for problem, n in enumerate((20, 0, 40)):
        extend(first, x[:n], signs[:n], problem)
    first.fit(np.arange(3))
    second = LinearSVMBatch(4, 12, gram_limit=gram_limit)
    extend(second, x, signs, 1)
    second.fit(np.arange(4))
    state = first.get_state(np.array([0, 1, 2]))
    second.set_state(np.array([3, 1, 0]), state)
    for array in state.values():
        array[...] = 0
    for n in (40, 41, 60):
        for ours, theirs in ((0, 3), (1, 1), (2, 0)):
            assert np.array_equal(first.weights[ours], second.weights[theirs])
            assert np.array_equal(first.alpha(ours), second.alpha(theirs))
            assert first.gap[ours] == second.gap[theirs]
            assert first.count[ours] == second.count[theirs]
            extend(first, x[n : n + 10], signs[n : n + 10], ours)
            extend(second, x[n : n + 10], signs[n : n + 10], theirs)
        first.fit(np.arange(3))
        second.fit(np.array([3, 1, 0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_problems": 0}, "n_problems must be at least 1, got 0"),
        ({"n_features": 0}, "n_features must be at least 1, got 0"),
        ({"C": 0}, "C must be positive and finite, got 0"),
        ({"C": np.inf}, "C must be positive and finite, got inf"),
        ({"C": np.nan}, "C must be positive and finite, got nan"),
        ({"tolerance": 1e-7}, r"tolerance must lie in \[1e-6, 1\), got 1e-07"),
        ({"tolerance": 1}, r"tolerance must lie in \[1e-6, 1\), got 1"),
    ],
)
def test_bad_arguments(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearSVMBatch(**{"n_problems": 1, "n_features": 1, **arguments})


def test_bad_samples() -> None:
    machine = LinearSVMBatch(1, 3)
    with pytest.raises(ValueError, match=r"shape \(m, 3\), got \(1, 4\)"):
        machine.append(ONE, ONE, np.zeros((1, 4), np.float32), np.ones(1))
    with pytest.raises(ValueError, match="finite"):
        machine.append(ONE, ONE, np.array([[0, np.nan, 0]], np.float32), np.ones(1))
    with pytest.raises(IndexError):
        machine.append(np.ones(1, np.int64), ONE, np.zeros((1, 3), np.float32), np.ones(1))
    assert machine.count[0] == 0


def test_a_machine_that_stops_short_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_gym.learning.svm.kernels._MAX_INTERIOR_STEPS", 1)
    x, signs = draw(100, 3, 100)
    with pytest.warns(RuntimeWarning, match="stopped at a relative duality gap of"):
        machine = solve(x, signs, C=100, tolerance=1e-6)
    assert machine.gap[0] > 1e-6


def test_memory_for_the_documents_setting() -> None:
    machine = LinearSVMBatch(64, 784)
    for n in (20, 3000, 4020):
        machine._reserve(n)
    held = [value.nbytes for value in vars(machine).values() if isinstance(value, np.ndarray)]
    assert sum(held) < 8 * 2**30


def test_memory_grows_with_the_samples_of_one_machine() -> None:
    x, signs = draw(32, 3)
    machine = LinearSVMBatch(50, 3)
    for row in range(32):
        problems = np.arange(50)
        machine.append(problems, np.zeros(50, np.int64), x[[row]], np.full(50, signs[row]))
    assert machine._z.shape == (50, 32, 4)
    assert machine._gram.shape == (50, 32, 32)


# ------------------------------------------------------------------------------------ the learner


def train(learner: SVMLearner, x: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    """Train every lane on the same samples."""
    lanes = np.arange(learner.n_lanes)
    for row, label in zip(x, labels, strict=True):
        learner.append(lanes, np.tile(row, (len(lanes), 1)), np.full(len(lanes), label))
    learner.fit(lanes, [])


def draw_classes(
    n: int, d: int, n_classes: int, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n_classes, d))
    labels = np.r_[np.arange(n_classes), rng.integers(n_classes, size=n - n_classes)]
    return (centres[labels] + rng.standard_normal((n, d))).astype(np.float32), labels


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_coding_matrix(n_classes: int) -> None:
    matrix = coding_matrix(n_classes)
    pairs = list(itertools.combinations(range(n_classes), 2))
    assert matrix.shape == (n_classes, len(pairs))
    for column, (a, b) in zip(matrix.T, pairs, strict=True):
        assert column[a] == 1
        assert column[b] == -1
        assert np.count_nonzero(column) == 2


def test_binary_label_zero_is_the_positive_side() -> None:
    learner = SVMLearner(1, 2)
    x, labels = np.array([[3, 0], [-3, 0]], np.float32), np.array([0, 1])
    train(learner, x, labels)
    assessment = learner.assess(ONE, x[None], labels[None])
    assert assessment.predicted.tolist() == [[0, 1]]
    assert (assessment.margin > 0.9).all()


def test_one_versus_one_is_45_machines() -> None:
    x, labels = draw_classes(120, 8, 10)
    learner = SVMLearner(1, 8, 10)
    train(learner, x, labels)
    assert len(learner.machines.count) == 45
    for machine, (a, b) in enumerate(itertools.combinations(range(10), 2)):
        rows = np.isin(labels, (a, b))
        signs = np.where(labels[rows] == a, 1, -1)
        assert learner.machines.count[machine] == rows.sum()
        ours = primal(x[rows], signs, learner.machines.weights[machine].astype(np.float64), 1)
        theirs, _ = scikit_learn(x[rows], signs, 1)
        assert theirs == pytest.approx(ours, rel=1e-3)


@pytest.mark.parametrize("n_classes", [2, 4, 10])
def test_assessment_is_as_defined(n_classes: int) -> None:
    x, labels = draw_classes(60, 6, n_classes)
    learner = SVMLearner(2, 6, n_classes)
    train(learner, x, labels)
    query, truth = draw_classes(200, 6, n_classes, seed=1)
    shape = (2, 100)
    assessment = learner.assess(np.array([1, 0]), query.reshape(*shape, 6), truth.reshape(shape))
    length, matrix = learner.coding.shape[1], learner.coding
    predictions = []
    for sample, label, distance, margin, predicted in zip(
        query,
        truth,
        assessment.uncertainty.flat,
        assessment.margin.flat,
        assessment.predicted.flat,
        strict=True,
    ):
        w = learner.machines.weights[:length].astype(np.float64)
        s = w[:, :-1] @ sample + w[:, -1]
        assert predicted == np.argmin(((1 - np.sign(matrix * s)) / 2).sum(axis=1))
        away = np.abs(s) / np.linalg.norm(w[:, :-1], axis=1)
        assert distance == pytest.approx(away[matrix[predicted] != 0].min(), abs=1e-5)
        touching = matrix[label] != 0
        assert margin == pytest.approx((matrix[label] * s)[touching].min(), abs=1e-5)
        predictions.append(predicted)

    rows = np.random.default_rng(2).integers(200, size=(2, 150))
    accuracy, loss, recall = learner.score(np.array([1, 0]), query, truth, rows)
    correct = np.array(predictions) == truth
    np.testing.assert_allclose(accuracy, correct[rows].mean(axis=1))
    for label in range(n_classes):
        found = [correct[row][truth[row] == label].mean() for row in rows]
        np.testing.assert_allclose(recall[:, label], found)
    weights = learner.machines.weights[:length].astype(np.float64)
    distance = (query @ weights[:, :-1].T + weights[:, -1]) / np.linalg.norm(
        weights[:, :-1], axis=1
    )
    signs = learner.coding[truth]
    nearest = np.where(signs != 0, signs * distance, np.inf).min(axis=1)
    # At 20 dB the noise deviates by 0.1 along any direction.
    np.testing.assert_allclose(loss[0], norm.cdf(-nearest[rows[0]] / 0.1).mean(), rtol=1e-4)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("threads", ["1", "2"])
def test_rows_of_a_shared_data_set_are_judged_as_copies_are(
    threads: str, n_classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_GYM_THREADS", threads)
    learner = SVMLearner(7, 6, n_classes)
    for lane in range(7):
        x, labels = draw_classes(30, 6, n_classes, seed=lane)
        for row, label in zip(x, labels, strict=True):
            learner.append(np.array([lane]), row[None], label[None])
    learner.fit(np.arange(7), [])
    features, truth = draw_classes(90, 6, n_classes, seed=20)
    lanes = np.array([5, 0, 3, 6])
    # Few and many rows of a lane are split differently between threads.
    for size in (1, 300):
        rows = np.random.default_rng(size).integers(90, size=(4, size))
        ours = learner.assess_rows(lanes, features, truth, rows)
        theirs = learner.assess(lanes, features[rows], truth[rows])
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.shape == (4, size)
            assert np.array_equal(mine, other)
        doubled = learner.assess_rows(lanes, features.astype(np.float64), truth, rows)
        assert np.array_equal(doubled.margin, ours.margin)
    # Lane by lane: another lane's classifier would say something else.
    for place, lane in enumerate(lanes):
        alone = learner.assess_rows(lanes[place : place + 1], features, truth, rows[[place]])
        assert np.array_equal(alone.uncertainty[0], ours.uncertainty[place])
        other = learner.assess_rows(np.array([(lane + 1) % 7]), features, truth, rows[[place]])
        assert not np.array_equal(other.uncertainty[0], ours.uncertainty[place])


@pytest.mark.parametrize("n_classes", [2, 4])
def test_weight_norm_is_the_mean_over_machines_without_the_bias(n_classes: int) -> None:
    learner = SVMLearner(3, 6, n_classes)
    assert np.array_equal(learner.weight_norm(), np.zeros(3))
    for lane in (0, 2):
        x, labels = draw_classes(40, 6, n_classes, seed=lane)
        for row, label in zip(x + 3, labels, strict=True):
            learner.append(np.array([lane]), row[None], label[None])
    learner.fit(np.arange(3), [])
    found = learner.weight_norm()
    assert found.dtype == np.float64
    assert found.shape == (3,)
    length = n_classes * (n_classes - 1) // 2
    for lane in range(3):
        machines = learner.machines.weights[lane * length : (lane + 1) * length]
        norms = [np.sqrt(sum(float(v) ** 2 for v in w[:-1])) for w in machines]
        assert found[lane] == pytest.approx(sum(norms) / length, rel=1e-6)
    assert found[1] == 0
    assert found[0] != found[2] > 0
    if n_classes == 2:
        query, truth = draw_classes(20, 6, 2, seed=9)
        seen = learner.assess(np.array([2]), query[None], truth[None])
        np.testing.assert_allclose(np.abs(seen.margin), seen.uncertainty * found[2], rtol=1e-5)


def test_untrained_learner_is_defined_and_finite() -> None:
    learner = SVMLearner(1, 4, 3)
    x, labels = draw_classes(5, 4, 3)
    learner.fit(ONE, [])
    assessment = learner.assess(ONE, x[None], labels[None])
    assert not assessment.uncertainty.any()
    assert not assessment.margin.any()
    assert learner.score(ONE, x, labels, np.arange(5)[None]).accuracy[0] == 0.2 * np.sum(
        labels == assessment.predicted[0]
    )


def test_lanes_are_independent_and_states_move() -> None:
    x, labels = draw_classes(80, 6, 4)
    several, one = SVMLearner(5, 6, 4), SVMLearner(1, 6, 4)
    for row in range(60):
        several.append(np.array([3, 1]), np.stack([x[row], x[-1 - row]]), labels[[row, -1 - row]])
        one.append(ONE, x[row : row + 1], labels[row : row + 1])
    several.fit(np.array([1, 3]), [])
    one.fit(ONE, [])
    assert np.array_equal(several.machines.weights[18:24], one.machines.weights)
    assert not several.machines.weights[:6].any()
    several.set_state(np.array([4]), one.get_state(ONE))
    several.reset(np.array([3]), [])
    assert not several.machines.weights[18:24].any()
    for learner, lane in ((several, 4), (one, 0)):
        learner.append(np.array([lane]), x[70:71], labels[70:71])
        learner.fit(np.array([lane]), [])
    assert np.array_equal(several.machines.weights[24:], one.machines.weights)


def test_learners_are_made_by_name() -> None:
    learner = make_learner("svm-ovo", 2, (1, 4, 5), 3, C=0.5, tolerance=1e-2)
    assert isinstance(learner, SVMLearner)
    assert (learner.n_lanes, learner.n_features, learner.n_classes) == (2, 20, 3)
    assert (learner.machines.C, learner.machines.tolerance) == (0.5, 1e-2)
    with pytest.raises(ValueError, match="n_classes must be at least 2, got 1"):
        SVMLearner(1, 4, 1)
    with pytest.raises(ValueError, match="unknown learner 'forest'; known are svm,"):
        make_learner("forest", 1, (1, 4, 5), 3)
