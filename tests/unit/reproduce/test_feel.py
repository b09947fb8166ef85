"""FEEL's experiments: the fit of (27), when schemes have converged, and runs from end to end."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from edge_gym.cli.main import main
from edge_gym.evaluation.episode_store import DamagedEpisodesWarning
from edge_gym.evaluation.rollouts import Episodes
from edge_gym.physics.compute import gpu_latency
from edge_gym.reproduce import Options, find_reproduction, harness
from edge_gym.reproduce.harness import along
from edge_gym.reproduce.ren_2021 import figure_2 as feel_fig2
from edge_gym.reproduce.ren_2021 import figure_3, figures_4_and_5, runs, table_2
from edge_gym.reproduce.ren_2021.curves import (
    Cell,
    Curve,
    bounded_ratio,
    converged_epochs,
    convergence_time,
    ratio,
    resampled,
)
from edge_gym.runtime.tensors import read_tensors, write_tensors

TINY = {
    "dataset": "mnist-subset",
    "image_size": 7,
    "network": "mlp",
    "hidden_sizes": (8,),
    "samples_per_device": 24,
    "validation_size": 40,
    "test_size": 40,
}
NAMES = ("feel-table2", "feel-fig3", "feel-fig4", "feel-fig5")


# Eq. (27).


@pytest.mark.parametrize("constants", [(4e-3, 2e-4, 16.0), (0.1, 3e-3, 40.0), (1e-3, 1e-3, 1.0)])
def test_the_fit_recovers_made_up_constants(constants: tuple[float, float, float]) -> None:
    batches = np.array(feel_fig2.BATCHES)
    base, slope, threshold = constants
    seconds = gpu_latency(batches, base, slope, threshold)
    fit = feel_fig2.fit_latency(batches, seconds)
    assert fit.error < 1e-4
    assert fit.base_latency_s == pytest.approx(base, rel=1e-3)
    assert fit.slope_s == pytest.approx(slope, rel=1e-3)
    assert fit.threshold == pytest.approx(threshold, rel=1e-2)
    noisy = seconds * np.random.default_rng(0).uniform(0.97, 1.03, len(batches))
    fit = feel_fig2.fit_latency(batches, noisy)
    assert 0.005 < fit.error < 0.03
    assert fit.slope_s == pytest.approx(slope, rel=0.05)
    # No other threshold, base and slope near by fit better.
    best = feel_fig2.fit_latency(batches, noisy)
    for factor in (0.98, 1.02):
        for changed in (
            best._replace(threshold=best.threshold * factor),
            best._replace(slope_s=best.slope_s * factor),
            best._replace(base_latency_s=best.base_latency_s * factor),
        ):
            errors = gpu_latency(batches, *changed[:3]) / noisy - 1
            assert np.sqrt(np.mean(errors**2)) >= best.error - 1e-6


def test_the_fit_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="at least 3 batches, got 2"):
        feel_fig2.fit_latency([1, 2], [0.1, 0.2])
    with pytest.raises(ValueError, match="must be positive"):
        feel_fig2.fit_latency([1, 2, 3], [0.1, 0.0, 0.2])


def test_fig2_measures_real_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(network: Any, batches: Any, repeats: int, *_: Any) -> NDArray[np.float64]:
        once = gpu_latency(batches, 1e-3, 1e-5, 16)
        return np.repeat(once[:, None], repeats, axis=1)

    options = Options(quick=True, overrides={"compute_device": "cpu", "repeats": 2})
    measured = find_reproduction("feel-fig2").run(tmp_path, options)
    assert measured.data.keys() == {"mlp", "cnn", "lenet"}
    for numbers in measured.data.values():
        # A batch of 256 takes longer than one sample, on any machine.
        assert numbers["seconds"][-1] > numbers["seconds"][0] > 0
        assert len(numbers["quartiles"]) == len(numbers["batch"]) == 5
    assert json.loads((tmp_path / "feel-fig2.json").read_text())["data"] == measured.data
    assert (tmp_path / "feel-fig2.png").read_bytes().startswith(b"\x89PNG")

    monkeypatch.setattr(feel_fig2, "measure_latency", wait)
    flat = find_reproduction("feel-fig2").run(tmp_path, options)
    assert {claim.verdict for claim in flat.claims} == {"yes"}
    assert flat.data["cnn"]["fit"]["threshold"] == pytest.approx(16, rel=0.01)
    with pytest.raises(ValueError, match="has no 'budget_s' to set, but compute_device, repeats"):
        find_reproduction("feel-fig2").run(tmp_path, Options(overrides={"budget_s": 1.0}))


# When schemes have converged.


def episodes_of(seconds: Any, accuracy: Any, initial: Any) -> Episodes:
    """Make episodes of steps that may differ in number."""
    lengths = np.array([len(row) for row in seconds])

    def table(rows: Any) -> NDArray[np.float64]:
        values = np.full((len(rows), lengths.max()), np.nan)
        for i, row in enumerate(rows):
            values[i, : len(row)] = row
        return values

    gain = np.array([row[-1] - first for row, first in zip(accuracy, initial, strict=True)])
    curves = {"seconds": table(seconds), "validation_accuracy": table(accuracy)}
    curves["validation_loss"] = 1 - curves["validation_accuracy"]
    infos = {"total_gain": gain, "total_loss_decrease": gain}
    return Episodes(np.arange(len(lengths)), gain, lengths, infos, curves)


def test_values_along_time_are_those_of_the_last_round_that_ended() -> None:
    episodes = episodes_of([[1, 2, 4], [3]], [[0.5, 0.6, 0.7], [0.4]], [0.1, 0.2])
    times = np.array([0, 0.9, 1, 2.5, 3, 9.0])
    expected = [[0.1, 0.1, 0.5, 0.6, 0.6, 0.7], [0.2, 0.2, 0.2, 0.2, 0.4, 0.4]]
    np.testing.assert_allclose(along(episodes, "accuracy", times), expected)
    np.testing.assert_allclose(along(episodes, "loss", times), 1 - np.array(expected))


def test_local_training_has_converged_when_the_loss_hardly_falls() -> None:
    # Losses of single epochs, and what a run of so many reports: their mean.
    single = [0.5, 0.3, 0.2, 0.19, 0.185, 0.184]
    means = [float(np.mean(single[:e])) for e in range(1, 7)]
    # From 0.2 to 0.19 it still falls by just more than 0.01 nats in the third case.
    assert converged_epochs([1, 2, 3, 4, 5, 6], means) == 4
    single[3] = 0.195
    means = [float(np.mean(single[:e])) for e in range(1, 7)]
    assert converged_epochs([1, 2, 3, 4, 5, 6], means) == 3
    # Epochs 3 and 4 lost 0.1975 each on average, epochs 5 and 6 0.1845: 0.0065 an epoch.
    assert converged_epochs([2, 4, 6], [means[1], means[3], means[5]]) == 2
    assert converged_epochs([1, 2, 3], [1.0, 0.9, 0.8]) == 2


def first_by_loops(times: Any, curve: Any, level: float) -> float:
    for i in range(len(times)):
        if curve[i] >= level:
            return float(times[max(i, 1)])
    return float("nan")


def test_speedups_are_those_of_plain_loops() -> None:
    rng = np.random.default_rng(1)
    n, points = 5, 41
    curves = {}
    for scheme, (end_s, rate) in {"model-based": (4.0, 1.0), "proposed": (1.0, 6.0)}.items():
        times = np.linspace(0, end_s, points)
        rise = 1 - np.exp(-rate * times)
        noise = 0.01 * rng.standard_normal((n, points))
        curves[scheme] = Curve(times, 0.86 + 0.08 * rise + noise)
    own = Curve(rng.uniform(1, 2, (n, 3)).cumsum(axis=1), rng.uniform(0.88, 0.9, (n, 3)))
    curves["individual"] = own
    tests = {scheme: rng.uniform(0.9, 0.95, n) for scheme in curves}
    cell = Cell(curves, 1, tests)
    weights = resampled(n)
    assert weights.shape == (1001, n)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    converged, as_good = cell.seconds_to_converge(weights), cell.seconds(weights)
    for row in (0, 1, 500):
        level = sum(weights[row, i] * own.accuracy[i, 1] for i in range(n))
        individual = sum(weights[row, i] * own.seconds[i, 1] for i in range(n))
        for scheme in ("model-based", "proposed"):
            times, accuracy = curves[scheme]
            mean = [sum(weights[row, i] * accuracy[i, p] for i in range(n)) for p in range(points)]
            end = sum(mean[-4:]) / 4
            time_s = first_by_loops(times, mean, end - 0.005)
            assert converged[scheme][row] == pytest.approx(time_s)
            time_s = first_by_loops(times, mean, level)
            assert as_good[scheme][row] == pytest.approx(time_s)
        assert converged["individual"][row] == pytest.approx(individual)
    value, low, high = ratio(converged["individual"], converged["proposed"]) or (0, 0, 0)
    assert low <= value <= high
    assert value == pytest.approx(own.seconds[:, 1].mean() / converged["proposed"][0])
    assert ratio(np.array([1.0, 2]), np.array([1.0, np.nan])) is None
    # What is missing counts as its budget.
    slower, faster = np.array([np.nan, 4.0, 6.0]), np.array([1.0, np.nan, 2.0])
    assert bounded_ratio(slower, faster, (8.0, 5.0))[0] == 8
    assert bounded_ratio(slower[1:], faster[1:], (8.0, 5.0))[0] == 0.8
    # What begins where it ends has converged after the first stretch of time.
    assert convergence_time(np.arange(20.0), np.full(20, 0.9)) == 1


def test_the_headline_of_table_two_does_not_depend_on_budgets() -> None:
    """Longer curves converge later; the time to a common accuracy stays."""
    common, converged = [], []
    for budget_s in (1.0, 2.0, 4.0):
        times = np.linspace(0, budget_s, 4001)
        curve = Curve(times, np.stack([0.86 + 0.08 * times / (0.2 + times)] * 2))
        own = Curve(np.full((2, 1), 0.7), np.full((2, 1), 0.9))
        tests = dict.fromkeys(("individual", "proposed"), np.full(2, 0.9))
        cell = Cell({"individual": own, "proposed": curve}, 0, tests)
        weights = resampled(2)
        common.append(cell.seconds(weights)["proposed"][0])
        converged.append(cell.seconds_to_converge(weights)["proposed"][0])
    np.testing.assert_allclose(common, 0.2, rtol=6e-3)
    assert converged[0] < converged[1] < converged[2]


def claims_of(times: dict[str, float], reached: bool) -> list[harness.Claim]:
    """Return the claims on schemes that rise past individual learning's end, or do not."""
    curves = {"individual": Curve(np.full((3, 1), 1.0), np.full((3, 1), 0.9))}
    for scheme, budget_s in times.items():
        top = 0.95 if reached or scheme == "proposed" else 0.89
        along = np.linspace(0, budget_s, 101)
        curves[scheme] = Curve(along, np.stack([np.linspace(0.86, top, 101)] * 3))
    cell = Cell(curves, 0, {scheme: np.full(3, 0.9) for scheme in curves})
    return table_2.table_claims("cell", cell, table_2.REPORTED[6, "iid"])


def test_a_scheme_that_does_not_come_so_far_is_said_to_be_late() -> None:
    budgets = {"model-based": 4.0, "gradient-based": 8.0, "proposed": 1.0}
    texts = [claim.measured for claim in claims_of(budgets, reached=False)]
    assert texts[0] == "2.22 times [2.22, 2.22]"
    assert texts[1].startswith("at least 8.89 times")
    assert texts[1].endswith("model-based does not within its 4 s")
    assert texts[3] == "at most 0.25 times [0.25, 0.25]: model-based does not within its 4 s"
    found = claims_of(budgets, reached=False)
    assert [claim.verdict for claim in found[:6]] == ["yes"] * 6
    # Late for want of budget: it may yet be faster than individual learning.
    short = {**budgets, "gradient-based": 0.5}
    assert claims_of(short, reached=False)[4].verdict == "within noise"
    assert claims_of(budgets, reached=True)[3].measured.startswith("0.56 times")


# From end to end.


def run(name: str, folder: Path, **fields: Any) -> harness.Findings:
    full = fields.pop("full", False)
    options = Options(not full, 2, overrides={**TINY, **fields}, full=full)
    return find_reproduction(name).run(folder, options)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tell of every step that is really taken."""
    taken: list[str] = []
    original = runs.BatchSlot.step_lanes

    def counted(self: Any, *given: Any) -> Any:
        taken.append(self.config.network)
        return original(self, *given)

    monkeypatch.setattr(runs.BatchSlot, "step_lanes", counted)
    return taken


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take fewer points of curves, and do not wait for good models of next to no data."""
    for module in (table_2, figure_3, figures_4_and_5):
        monkeypatch.setattr(module, "POINTS", 21)
    monkeypatch.setattr(runs, "_MOST_PASSES", 1)


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_reproductions_run_and_go_on(
    name: str, full: bool, tmp_path: Path, steps: list[str]
) -> None:
    # The document's cell with a network as small takes microseconds a round.
    fields = {"budget_s": 2e-3, "full": full, **({"max_rounds": 3} if full else {})}
    first = run(name, tmp_path, **fields)
    assert json.loads((tmp_path / f"{name}.json").read_text()) == json.loads(
        json.dumps(first.to_json())
    )
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert first.seeds == [900_000, 900_001]
    outcomes = {"yes", "partly", "no", "within noise"}
    assert {claim.verdict for claim in first.claims} <= outcomes
    total = len(steps)
    assert total
    # What is there is not run again; half a file is, and nothing else.
    if full:
        path = min((tmp_path / "parts").glob("*.safetensors"))
        path.write_bytes(b"half a file")
    steps.clear()
    warned = pytest.warns(DamagedEpisodesWarning) if full else contextlib.nullcontext()
    with warned:
        again = run(name, tmp_path, **fields)
    assert again.to_json() == first.to_json()
    assert bool(steps) == full
    assert len(steps) < total / 3
    assert not list((tmp_path / "parts").glob("*.running"))


@pytest.mark.usefixtures("coarse")
def test_what_the_findings_hold(tmp_path: Path) -> None:
    table = run("feel-table2", tmp_path / "table", budget_s=2e-3)
    assert table.data.keys() == {"K = 6, IID", "K = 6, non-IID"}
    proposed = table.data["K = 6, non-IID"]["schemes"]["proposed"]
    assert proposed["reported"] == {"test_accuracy": 91.43, "speedup": 1.03}
    individual = table.data["K = 6, IID"]["schemes"]["individual"]
    assert individual["speedup"] == {"mean": 1.0, "ci95": [1.0, 1.0]}
    assert individual["converged"] == {
        "seconds": individual["seconds"],
        "speedup": individual["speedup"],
    }
    quick = table.data["K = 6, IID"]["schemes"]["proposed"]
    expected = individual["seconds"] / quick["converged"]["seconds"]
    assert quick["converged"]["speedup"]["mean"] == pytest.approx(expected)
    assert (quick["budget_s"], individual["budget_s"]) == (2e-3, None)
    assert len(table.claims) == 2 * 9
    # Schemes differ in what the document says they differ in.
    configs = {task.split(",")[0]: config for task, config in table.config.items()}
    assert configs["individual"]["max_rounds"] == 1
    assert {name: config["update"] for name, config in configs.items()} == {
        "individual": "model",
        "model-based": "model",
        "gradient-based": "gradient",
        "proposed": "gradient",
    }
    assert [configs[name]["max_batch"] for name in configs] == [None, None, None, 128]

    rates = run("feel-fig3", tmp_path / "rates", budget_s=2e-3, learning_rate=0.2)
    assert rates.data.keys() == {"mlp", "cnn", "lenet"}
    assert list(rates.data["cnn"]) == ["0.1", "0.2", "0.4"]
    config = rates.config["cnn, learning rate 0.1"]
    assert (config["n_devices"], config["partition"]) == (12, "shards")

    schemes = run("feel-fig5", tmp_path / "schemes", budget_s=2e-3)
    assert list(schemes.data["schemes"]) == [
        "proposed",
        "online",
        "full",
        "random",
        "proposed, IID",
    ]
    metrics = {name: of["metrics"] for name, of in schemes.data["schemes"].items()}
    assert metrics["online"]["mean_batch"]["mean"] == 6
    # Nobody has more than 24 samples.
    assert metrics["full"]["mean_batch"]["mean"] == 6 * 24
    assert schemes.config["proposed"]["device"] == "gpu"


# Pretrained models and episodes of hours.


def pretrained(folder: Path, **fields: Any) -> Any:
    config = runs.BatchSlotConfig(**{**TINY, "fading": "mean", **fields})
    env = runs.PretrainedVectorEnv(1, config, autoreset_mode=AutoresetMode.DISABLED)
    env.problem.folder = folder
    env.reset(seed=[5])
    return env.problem


def test_schemes_begin_with_the_same_good_model(tmp_path: Path) -> None:
    usual = {"samples_per_device": 1500, "validation_size": 300, "image_size": 14}
    problem = pretrained(tmp_path, **usual, hidden_sizes=(16,))
    assert 0.86 <= problem.tracker.accuracy[0] < 0.92
    assert (
        problem.tracker.initial_accuracy[0]
        == problem.tracker.accuracy[0]
        == pytest.approx(problem.tracker.history[0, 0])
    )
    (path,) = tmp_path.glob("start-*.safetensors")
    weights = problem.learner.weights.clone()
    arrays, header = read_tensors(path, "model")
    assert (arrays["weights"] == weights.numpy()).all()
    # A scheme that draws less from the lane's generator begins with it too.
    path.unlink()
    other = pretrained(tmp_path, **usual, hidden_sizes=(16,), update="model", max_batch=None)
    assert (other.learner.weights == weights).all()
    # What is stored is used.
    write_tensors(path, {"weights": np.zeros_like(weights.numpy())}, header)
    again = pretrained(tmp_path, **usual, hidden_sizes=(16,))
    assert not again.learner.weights.any()
    # What is damaged is trained again.
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(DamagedEpisodesWarning, match="is damaged .* run again"):
        again = pretrained(tmp_path, **usual, hidden_sizes=(16,))
    assert (again.learner.weights == weights).all()


@pytest.mark.parametrize("policy", ["optimal-batch-slot", "random-batches"])
def test_an_interrupted_episode_goes_on(
    policy: str, tmp_path: Path, steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_SAVE_EVERY_S", -1.0)
    options = Options(episodes=2, full=True)
    fields = {**TINY, "max_rounds": 8, "budget_s": 1e3, "n_devices": 3, "gpu_flops": (1e12,)}

    def episodes(folder: Path) -> Episodes:
        runner = runs.LongRuns(folder, options, [900_000, 900_001])
        return runner.run("task", "BatchSlotGPU-v0", fields, {}, policy)

    whole = episodes(tmp_path / "whole")
    assert len(steps) == 16
    steps.clear()
    original = runs.LongVectorEnv.step

    def interrupted(self: Any, actions: Any) -> Any:
        if len(steps) == 11:
            raise KeyboardInterrupt
        return original(self, actions)

    monkeypatch.setattr(runs.LongVectorEnv, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        episodes(tmp_path / "parted")
    monkeypatch.setattr(runs.LongVectorEnv, "step", original)
    steps.clear()
    parted = episodes(tmp_path / "parted")
    assert len(steps) == 5
    np.testing.assert_array_equal(parted.returns, whole.returns)
    np.testing.assert_array_equal(parted.lengths, whole.lengths)
    for name in whole.curves:
        np.testing.assert_array_equal(parted.curves[name], whole.curves[name])
    for name in whole.infos:
        np.testing.assert_array_equal(parted.infos[name], whole.infos[name])
    # Of another configuration nothing is taken.
    fields["learning_rate"] = 0.2
    steps.clear()
    assert not (episodes(tmp_path / "parted").returns == whole.returns).any()
    assert len(steps) == 16


@pytest.mark.usefixtures("coarse")
@pytest.mark.data
def test_the_document_s_images_do(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"dataset": "cifar-10", "image_size": None, "max_rounds": 3}
    done = run("feel-fig4", tmp_path, **fields, full=True)
    assert done.config["proposed"]["dataset"] == "cifar-10"
    assert done.config["proposed"]["density"] == 0.004
    assert done.data["schemes"]["proposed"]["metrics"]["rounds"]["mean"] == 3


def test_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["reproduce", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("feel-fig2", *NAMES))
    assert main(["reproduce", "feel-fig4", "--quick", "--full", "--out", str(tmp_path)]) == 2
    assert "quick and full exclude each other" in capsys.readouterr().err
