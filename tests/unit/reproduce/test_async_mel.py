"""ASYNC-MEL's and MEL's experiments: cells, what claims come to, and runs from end to end."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_gym.cli.main import main
from edge_gym.envs.task_allocation.dynamics import TaskAllocation
from edge_gym.evaluation.episode_store import DamagedEpisodesWarning
from edge_gym.evaluation.rollouts import Episodes
from edge_gym.reproduce import Options, find_reproduction
from edge_gym.reproduce.harness import Findings
from edge_gym.reproduce.mohammad_2020 import drawing, figure_4, figure_5
from edge_gym.reproduce.mohammad_2020.claims import accuracy_after, all_of, best_claim, saving_claim
from edge_gym.reproduce.mohammad_2020.figure_4 import fig4_claims
from edge_gym.reproduce.mohammad_2020.figure_6 import said_claims
from edge_gym.reproduce.mohammad_2020.figure_7 import reaching_claim
from edge_gym.reproduce.mohammad_2020.schemes import HA_SYNC, HU_ASYN, HU_SYNC, SCHEMES, SUGGESTED
from edge_gym.reproduce.mohammad_2020.sweeps import (
    Cell,
    Sweep,
    cells_of,
    cycles_to,
    numbers,
    path_of,
)
from edge_gym.reproduce.sorour_2020 import figures_2_and_3 as mel

# Four learners with twenty samples each, which cost so much that a cycle allows few updates.
TINY = {
    "hidden_sizes": (4,),
    "n_devices": 4,
    "samples_per_device": 20,
    "validation_size": 20,
    "test_size": 20,
    "least_samples": 2,
    "cycles_per_sample": 4e8,
    "cycles": 2,
}
DOCUMENT = {"dataset": "mnist-subset", "image_size": 7, "batch_size": 16}
NAMES = (
    *(f"async-mel-fig{number}" for number in (4, 5, 6, 7, 8)),
    "mel-fig2",
    "mel-fig3",
)
C1, C2, C3 = (f"HA-Asyn, c = {cap}" for cap in (1, 2, 3))


def run(name: str, folder: Path, full: bool = False, **fields: Any) -> Findings:
    overrides = {**TINY, **(DOCUMENT if full else {}), **fields}
    return find_reproduction(name).run(folder, Options(not full, 2, overrides=overrides, full=full))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Tell T and E of every step that is really taken."""
    taken: list[tuple[float, float]] = []
    original = TaskAllocation.step_lanes

    def counted(self: Any, *given: Any) -> Any:
        taken.append((self.config.cycle_s, self.config.energy_limit_j))
        return original(self, *given)

    monkeypatch.setattr(TaskAllocation, "step_lanes", counted)
    return taken


# Cells.


def test_the_cells_are_the_figures() -> None:
    times = (5.0, 10.0, 15.0, 20.0)
    whole = cells_of(times, (10.0, 20.0), Options())
    assert whole == [(t, e) for e in (10, 20) for t in times]
    assert whole[1].name == "T = 10, E = 10"
    assert cells_of(times, (10.0, 20.0), Options(full=True)) == whole
    assert cells_of(times, (10.0, 20.0), Options(quick=True)) == [(10, 10), (20, 10)]
    assert cells_of((12.0,), (10.0, 30.0), Options(quick=True)) == [(12, 10)]

    def selected(quick: bool = False, **fields: float) -> list[Cell]:
        return cells_of(times, (10.0, 20.0), Options(quick, overrides=fields))

    assert selected(cycle_s=15) == [(15, 10), (15, 20)]
    assert selected(cycle_s=15, energy_limit_j=20) == [(15, 20)]
    assert selected(True, cycle_s=5, energy_limit_j=20) == [(5, 20)]
    with pytest.raises(ValueError, match="cycle_s selects from 5, 10, 15, 20 here, got 12"):
        selected(cycle_s=12)
    with pytest.raises(ValueError, match="energy_limit_j selects from 10, 20 here, got 30"):
        selected(True, energy_limit_j=30)


# What the claims come to.


def episodes_of(paths: Any, work: float = 2.0) -> Episodes:
    """Make episodes of these accuracies after 0, 1, ... cycles, ``(n, cycles + 1)``."""
    values = np.array(paths, np.float64)
    n, cycles = values.shape[0], values.shape[1] - 1
    gain = values[:, -1] - values[:, 0]
    curves = {
        "validation_accuracy": values[:, 1:],
        "cycles": np.tile(np.arange(1.0, cycles + 1), (n, 1)),
        "weighted_updates": np.full((n, cycles), work),
    }
    infos = {
        "total_gain": gain,
        "total_loss_decrease": gain,
        "test_accuracy": values[:, -1],
        "mean_updates": np.full(n, work),
    }
    return Episodes(np.arange(n), gain, np.full(n, cycles), infos, curves)


def rising(speed: float, n: int = 24, cycles: int = 12, seed: int = 0) -> Episodes:
    """Make episodes that rise towards 0.9, with noise that is the same for the same seed."""
    noise = 0.02 * np.random.default_rng(seed).standard_normal((n, 1))
    path = 0.9 - 0.8 * np.exp(-speed * np.arange(cycles + 1))
    return episodes_of(path + noise)


def test_cycles_to_an_accuracy_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    paths = rng.uniform(0, 1, (50, 7))
    paths[:3] = 0.1
    episodes = episodes_of(paths)
    np.testing.assert_allclose(path_of(episodes), paths)
    cycles, reached = cycles_to(episodes, 0.9)
    assert not reached.all()
    assert reached.any()
    for row, found, there in zip(paths, cycles, reached, strict=True):
        passed = [c for c, value in enumerate(row) if value >= 0.9]
        assert (found, there) == ((passed[0], 1) if passed else (6, 0))


def test_the_environment_counts_the_same_cycles(tmp_path: Path) -> None:
    targets = (0.2, 0.3, 0.5)
    overrides = {**TINY, "cycles": 5, "targets": targets}
    sweep = Sweep(tmp_path, Options(episodes=6, overrides=overrides))
    (runs,) = sweep.run([Cell(10, 10)], {C1: SCHEMES[C1], HU_ASYN: SCHEMES[HU_ASYN]}).values()
    different = set()
    for episodes in runs.values():
        for target in targets:
            cycles, reached = cycles_to(episodes, target)
            name = f"{100 * target:g}"
            np.testing.assert_array_equal(cycles, episodes.infos[f"cycles_to_{name}"])
            np.testing.assert_array_equal(reached, episodes.infos[f"reached_{name}"])
            different |= set(zip(cycles, reached, strict=True))
    assert len(different) > 3


def test_verdicts_on_saved_cycles() -> None:
    def seen(fast: Episodes, slow: Episodes, said: float | None = None) -> tuple[str, str]:
        claim = saving_claim("text", {"a": fast, "b": slow}, "a", "b", 0.8, said)
        return claim.verdict, claim.measured

    # Some 5 against 10 cycles.
    halved = seen(rising(0.44), rising(0.22), 0.4)
    assert halved[0] == "yes"
    assert "to 80 %, " in halved[1]
    assert "reached by 100% and 96%" in halved[1]
    assert seen(rising(0.44), rising(0.22))[0] == "yes"
    assert seen(rising(0.44), rising(0.22), 0.8)[0] == "partly"
    assert seen(rising(0.22), rising(0.44), 0.5)[0] == "no"
    assert seen(rising(0.3), rising(0.3, seed=1), 0.5)[0] == "within noise"
    # Neither gets there: all cycles on both sides.
    never = seen(rising(0.01), rising(0.02), 0.5)
    assert never[0] == "within noise"
    assert never[1].startswith("12.0 against 12.0 cycles")
    assert never[1].endswith("reached by 0% and 0%")


def test_verdicts_of_parts() -> None:
    assert all_of(["yes", "yes"]) == "yes"
    assert all_of(["yes", "no"]) == all_of(["yes", "within noise"]) == "partly"
    assert all_of(["partly", "no"]) == "partly"
    assert all_of(["no", "within noise"]) == "no"
    assert all_of(["within noise"]) == "within noise"


def test_verdicts_on_the_best_of_several_schemes() -> None:
    fast, slow = rising(0.4), rising(0.3)

    def claim(cells: Mapping[Cell, Mapping[str, Episodes]], most: bool = False) -> Any:
        return best_claim("text", cells, (C1, C2), (HA_SYNC,), accuracy_after(0), most)

    ahead = {C1: slow, C2: fast, HA_SYNC: slow}
    level = {C1: rising(0.3, seed=1), C2: rising(0.3, seed=2), HA_SYNC: slow}
    behind = {C1: slow, C2: slow, HA_SYNC: fast}
    everywhere = claim({Cell(5, 10): ahead, Cell(10, 10): ahead})
    assert everywhere.verdict == "yes"
    assert everywhere.measured == "ahead at T = 5 (c = 2), T = 10 (c = 2)"
    mixed = {Cell(5, 10): ahead, Cell(10, 10): ahead, Cell(15, 10): behind}
    assert claim(mixed).verdict == "partly"
    assert claim(mixed).measured.endswith("; behind at T = 15 (c = 1)")
    assert claim(mixed, most=True).verdict == "yes"
    rare = {Cell(5, 10): ahead, Cell(10, 10): level}
    assert claim(rare, most=True).verdict == "partly"
    assert claim({Cell(5, 10): level}).verdict == "within noise"
    assert claim({Cell(5, 10): behind, Cell(10, 10): level}, most=True).verdict == "no"


def test_choosing_the_best_widens_the_interval() -> None:
    # Just ahead for one scheme; as the best of five it may be chance.
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(400)
    noise = (noise - noise.mean()) / noise.std()
    better = np.full((400, 3), 0.5)
    better[:, 1:] += 0.02 * (noise + 2.2 / math.sqrt(400))[:, None]
    sync = episodes_of(np.full((400, 3), 0.5))
    caps = tuple(f"HA-Asyn, c = {cap}" for cap in range(1, 6))
    cell = {HA_SYNC: sync, C1: episodes_of(better)}
    one = best_claim("text", {Cell(5, 10): cell}, caps, (HA_SYNC,), accuracy_after(1))
    assert one.verdict == "yes"
    cell |= dict.fromkeys(caps[1:], sync)
    five = best_claim("text", {Cell(5, 10): cell}, caps, (HA_SYNC,), accuracy_after(1))
    assert (five.verdict, five.measured) == ("within noise", "level at T = 5 (c = 1)")


def test_claims_on_the_synchronous_case() -> None:
    good, never = rising(0.4), episodes_of(np.full((24, 13), 0.1))
    cells = {
        Cell(10, 10): {SUGGESTED: good, HA_SYNC: good, HU_SYNC: never},
        Cell(20, 10): {SUGGESTED: rising(0.3), HA_SYNC: good, HU_SYNC: rising(0.45)},
    }
    verdicts = {claim.claim: claim.verdict for claim in fig4_claims(cells)}
    assert list(verdicts.values()) == ["yes", "no", "yes", "no", "no", "partly"]
    assert verdicts["T = 10, E = 10: HA-Asyn with c = 0 works better than HA-Sync"] == "no"
    cells[Cell(20, 10)] |= {HU_SYNC: never, HU_ASYN: rising(0.35)}
    last = fig4_claims(cells)[-1]
    assert last.claim == "HU-Sync fails to converge on several occasions"
    assert last.verdict == "yes"
    assert last.measured.endswith("100% at T = 10, E = 10, 100% at T = 20, E = 10")
    uncapped = fig4_claims(cells)[-2]
    assert uncapped.claim == "T = 20, E = 10: HA-Sync works better than HU-Asyn"
    assert uncapped.verdict == "yes"


def test_claims_on_single_cells() -> None:
    fast, slow = rising(0.4), rising(0.3)
    runs = {HA_SYNC: slow, C1: fast, C2: fast, C3: slow, "HA-Asyn, c = 4": slow}
    claims = said_claims({Cell(20, 10): runs, Cell(35, 20): runs})
    said = {claim.claim.partition(" (")[0]: claim.verdict for claim in claims}
    assert said == {
        "T = 20, E = 10, after 6 cycles: c = 1 above HA-Sync": "yes",
        "T = 20, E = 10, after 6 cycles: c = 2 above HA-Sync": "yes",
        "T = 35, E = 20, after 6 cycles: c = 2, 3, 4 above HA-Sync": "partly",
        "T = 20, E = 10, after 12 cycles: c = 1, 2 above HA-Sync": "yes",
    }
    row = {Cell(5, 10): {HA_SYNC: slow, C1: slow, C2: slow, C3: slow}}
    target = float(np.quantile(path_of(slow)[:, -1], 0.7))
    assert reaching_claim(row, target).verdict == "no"
    row[Cell(10, 10)] = {HA_SYNC: slow, C1: rising(2), C2: slow, C3: slow}
    target = float(np.quantile(path_of(slow)[:, -1], 0.6))
    assert reaching_claim(row, target).verdict == "partly"
    row[Cell(10, 10)] = {HA_SYNC: slow, C1: rising(2), C2: rising(2), C3: rising(2)}
    claim = reaching_claim(row, target)
    assert claim.verdict == "yes"
    assert "T = 5: 42% against 42%, 42%, 42%" in claim.measured


def test_the_article_s_savings() -> None:
    cells = {HA_SYNC: rising(0.3), C1: rising(0.6), HU_ASYN: rising(0.2), HU_SYNC: rising(0.0)}
    claims = {claim.claim: claim for claim in mel.fig2_claims("here", cells, (0.7, 0.8))}
    assert len(claims) == 8
    assert claims[f"here: {C1} needs 33% fewer cycles to 94 % than {HU_ASYN}"].verdict == "yes"
    slower = claims[f"here: {HA_SYNC} needs 50% fewer cycles to 97 % than {HU_ASYN}"]
    assert slower.verdict == "partly"
    never = claims[f"here: {HA_SYNC} needs 33% fewer cycles to 94 % than {HU_SYNC}"]
    assert never.verdict == "yes"
    assert never.measured.endswith("reached by 100% and 0%")
    both = {"joint, c = 1": rising(0.5), "tasks only, c = 1": rising(0.2)}
    both["resources only, c = 1"] = rising(0.5)
    verdicts = [claim.verdict for claim in mel.fig3_claims("here", both, (0.8,))]
    assert verdicts == ["yes", "within noise"]


def test_numbers_are_paired() -> None:
    fast, slow = rising(0.4), rising(0.2)
    found = numbers(Cell(10, 10), {HA_SYNC: slow, C1: fast}, (0.8, 0.99))
    assert (found["cycle_s"], found["energy_j"]) == (10, 10)
    own, other = found["schemes"][C1], found["schemes"][HA_SYNC]
    assert list(own["after"]) == ["6", "12"]
    gain = path_of(fast)[:, 6] - path_of(slow)[:, 6]
    ahead = own["after"]["6"]["ahead"]
    assert ahead["mean"] == pytest.approx(gain.mean())
    # The noise is the same in both, so that the difference is known exactly.
    assert ahead["ci95"][1] - ahead["ci95"][0] < 1e-9
    low, high = own["after"]["6"]["ci95"]
    assert high - low > 0.005
    assert other["after"]["6"]["ahead"]["mean"] == 0
    saved = cycles_to(slow, 0.8)[0] - cycles_to(fast, 0.8)[0]
    assert own["cycles_to"]["80"]["ahead"]["mean"] == pytest.approx(saved.mean())
    assert own["cycles_to"]["80"]["of_the_mean_curve"] == int(
        np.argmax(path_of(fast).mean(axis=0) >= 0.8)
    )
    never = own["cycles_to"]["99"]
    assert (never["mean"], never["reached"], never["of_the_mean_curve"]) == (12, 0, None)
    assert own["metrics"]["weighted_updates"]["mean"] == 2
    assert len(own["accuracy"]["mean"]) == 13


# From end to end.


def test_reproductions_share_what_was_run(tmp_path: Path, steps: list[tuple[float, float]]) -> None:
    taken = {}
    for name in NAMES:
        steps.clear()
        done = run(name, tmp_path)
        taken[name] = len(steps)
        stored = json.loads((tmp_path / f"{name}.json").read_text())
        assert stored == json.loads(json.dumps(done.to_json(), allow_nan=False))
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert done.claims
        outcomes = {"yes", "partly", "no", "within noise"}
        assert {claim.verdict for claim in done.claims} <= outcomes
    # Three schemes in two cells of two steps; Fig. 5 runs two schemes more than Fig. 4, and what
    # is told of the same cells in Figs. 6 and 7 is there.
    assert list(taken.values()) == [12, 8, 0, 0, 12, 6, 6]
    steps.clear()
    again = run("async-mel-fig5", tmp_path)
    assert not steps
    assert again.data.keys() == {"T = 10, E = 10", "T = 20, E = 10"}
    # Half a file is run anew, and nothing else.
    (tmp_path / "parts" / "HA-Asyn_c1_T10_E10.safetensors").write_bytes(b"half a file")
    with pytest.warns(DamagedEpisodesWarning, match="HA-Asyn_c1_T10_E10"):
        assert run("async-mel-fig5", tmp_path).to_json() == again.to_json()
    assert steps == [(10, 10)] * 2


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        # In each panel the lines of three schemes, and none where cycles are counted.
        ("async-mel-fig4", [3] * 2),
        ("async-mel-fig5", [3, 0] * 2),
        ("async-mel-fig6", [3] * 4),
        ("async-mel-fig8", [3] * 8),
        ("mel-fig3", [3, 0]),
    ],
)
def test_pictures_show_every_scheme(
    name: str, lines: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(drawing, "save", lambda figure, _: figures.append(figure))
    for module in (drawing, figure_4, figure_5, mel):
        monkeypatch.setattr(module, "write_findings", lambda found, draw: draw(found, tmp_path))
    done = run(name, tmp_path)
    (figure,) = figures
    shown = [[line for line in axes.lines if len(line.get_xdata()) == 2] for axes in figure.axes]
    assert [len({line.get_color() for line in drawn}) for drawn in shown] == lines
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    schemes = next(iter(done.data.values()))["schemes"]
    assert set(names) == set(schemes)
    # The first line is where the first scheme's numbers are.
    first = next(iter(done.data.values()))["schemes"][names[0]]
    expected = 100 * np.array(first["accuracy"]["mean"][1:])
    if name in ("async-mel-fig4", "async-mel-fig5"):
        np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), expected)


def test_what_the_findings_hold(tmp_path: Path) -> None:
    done = run("async-mel-fig5", tmp_path)
    assert done.seeds == [900_000, 900_001]
    assert done.parameters == {
        HA_SYNC: {"rule": "ha-sync", "cap": 0, "method": "exact"},
        C1: {"rule": "ha-asyn", "cap": 1, "method": "exact"},
        HU_ASYN: {"rule": "hu-asyn", "cap": None},
    }
    config = done.config["T = 20, E = 10"]
    assert (config["cycle_s"], config["energy_limit_j"], config["most_updates"]) == (20, 10, 24)
    reported = done.data["T = 10, E = 10"]["schemes"][C1]["cycles_to"]["84"]["reported"]
    assert reported == {"target": 0.94, "cycles": 5}
    other = done.data["T = 20, E = 10"]["schemes"][C1]["cycles_to"]["84"]
    assert "reported" not in other
    # Equal tasks make fewer updates than those that are shared out by what learners can do.
    updates = {
        name: of["metrics"]["mean_updates"]["mean"]
        for name, of in done.data["T = 10, E = 10"]["schemes"].items()
    }
    assert updates[C1] > updates[HA_SYNC] >= 1
    done = run("async-mel-fig4", tmp_path, most_updates=9)
    assert done.parameters[SUGGESTED]["method"] == "suggest-and-improve"
    assert done.config["T = 10, E = 10"]["most_updates"] == 9
    done = run("mel-fig3", tmp_path)
    assert done.config["T = 12, E = 10"]["actions"] == "joint"
    assert list(done.data["T = 12, E = 10"]["schemes"]) == [
        "joint, c = 1",
        "tasks only, c = 1",
        "resources only, c = 1",
    ]


@pytest.mark.parametrize("name", ["async-mel-fig5", "async-mel-fig8", "mel-fig2", "mel-fig3"])
def test_selected_cells_of_the_document_s_setting(
    name: str, tmp_path: Path, steps: list[tuple[float, float]]
) -> None:
    time = 12.0 if name.startswith("mel") else 10.0
    energy = 30.0 if name == "async-mel-fig8" else 10.0
    done = run(name, tmp_path, full=True, cycle_s=time, energy_limit_j=energy)
    assert set(steps) == {(time, energy)}
    (config,) = done.config.values()
    (cell,) = done.data.values()
    # The document's bits of a sample, which the small setting has twenty times of.
    assert (config["sample_bits"], config["learning_rate"]) == (6272, 0.04)
    assert all(scheme in done.parameters for scheme in cell["schemes"])
    number = {"async-mel-fig5": 9, "async-mel-fig8": 11, "mel-fig2": 4, "mel-fig3": 6}[name]
    assert len(steps) == 2 * number
    assert len(cell["schemes"]) == number
    targets = next(iter(cell["schemes"].values()))["cycles_to"]
    expected = {
        "async-mel-fig5": ["94", "95"],
        "async-mel-fig8": ["95.5", "97.3"],
        "mel-fig2": ["94", "97"],
        "mel-fig3": ["98"],
    }
    assert list(targets) == expected[name]
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["reproduce", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES)
    arguments = ["reproduce", "async-mel-fig5", "--quick", "--out", str(tmp_path)]
    assert main([*arguments, "--set", "cycle_s=12"]) == 2
    assert "cycle_s selects from 10, 20 here, got 12" in capsys.readouterr().err
