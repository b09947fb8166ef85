"""The search for recipes: its space, its study on disk, what it is scored on, the command."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from paths import TESTS
from training_runs import TINY

from edge_gym.agents import (
    Recipe,
    TrainingInterrupted,
    find_recipe,
    load_recipe,
    shipped_agents,
)
from edge_gym.agents.recipe import parse_recipe
from edge_gym.agents.training import run as training
from edge_gym.agents.training import search
from edge_gym.agents.training.search import (
    EVALUATIONS,
    FIRST_SEED,
    SearchInterrupted,
    search_recipe,
)
from edge_gym.agents.training.search_results import Search
from edge_gym.agents.training.search_space import (
    network_kind,
    parameters_of,
    search_space,
    with_parameters,
)
from edge_gym.cli.main import main
from edge_gym.core.registration import find_environment, list_environments
from edge_gym.evaluation import seeds

ID = "Retransmission-v0"
RECIPES = sorted(path.name for path in (resources.files("edge_gym.agents") / "recipes").iterdir())


def tiny_recipe(algorithm: str = "ppo", **changes: Any) -> Recipe:
    recipe = find_recipe(algorithm, ID).as_mapping()
    small: dict[str, Any] = {
        "ppo": {"n_steps": 16, "batch_size": 32, "n_epochs": 2},
        "dqn": {"buffer_size": 160, "learning_starts": 48, "batch_size": 16, "n_steps": 3},
    }
    recipe.update(
        seed=7,
        imitation=None,
        steps=640,
        lanes=4,
        network={"hidden": [8, 8], "activation": "tanh"},
        evaluation={"every": 128, "episodes": 6, "lanes": 3},
    )
    recipe["hyperparameters"].update(small[algorithm])
    recipe.update(changes)
    return parse_recipe(recipe, "tiny")


def tiny_search(out: Path, algorithm: str = "ppo", **kwargs: Any) -> Search:
    kwargs = {"recipe": tiny_recipe(algorithm), "episodes": 6, "overrides": TINY, **kwargs}
    return search_recipe(algorithm, ID, out=out, **kwargs)


def study_of(out: Path) -> list[FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(out / "study.log")))
    return optuna.load_study(study_name="recipe", storage=storage).trials


def states_of(out: Path) -> list[str]:
    return [trial.state.name for trial in study_of(out)]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Training that takes no time: returns rise to a recipe's learning rate."""
    calls: list[dict[str, Any]] = []

    def train(algorithm: str, env_id: str, *, out: Path, **kwargs: Any) -> Path:
        recipe = kwargs["recipe"]
        calls.append({"algorithm": algorithm, "env_id": env_id, "out": out, **kwargs})
        out.mkdir(parents=True)
        for name in ("recipe.yaml", "progress.csv", "last.safetensors"):
            (out / name).touch()
        (out / "tensorboard").mkdir()
        for number in range(1, EVALUATIONS + 1):
            share = number / EVALUATIONS
            kwargs["report"](
                math.ceil(recipe.steps * share), share * recipe.hyperparameters["learning_rate"]
            )
        return out / "best.safetensors"

    monkeypatch.setattr(search, "train", train)
    return calls


# The space


@pytest.mark.parametrize("name", RECIPES)
def test_every_point_of_the_space_is_a_recipe(name: str) -> None:
    recipe = load_recipe(str(resources.files("edge_gym.agents") / "recipes" / name))
    rng = np.random.default_rng(0)
    for devices in (False, True):
        space = search_space(recipe, devices=devices, gaussian=devices)
        own = parameters_of(recipe, space)
        # Optuna checks that they are in the space.
        optuna.trial.create_trial(params=own, distributions=dict(space), value=0.0)
        assert with_parameters(recipe, own) == recipe
        seen: dict[str, set[Any]] = {parameter: set() for parameter in space}
        for _ in range(200):
            point = {parameter: draw(d, rng) for parameter, d in space.items()}
            varied = with_parameters(recipe, point)
            assert (varied.steps, varied.seed) == (recipe.steps, recipe.seed)
            for parameter, value in parameters_of(varied, space).items():
                drawn = point[parameter]
                # To three digits.
                assert value == (drawn if isinstance(drawn, str) else pytest.approx(drawn, 0.01))
                seen[parameter].add(value)
        # Nothing is searched that has no choice.
        assert min(map(len, seen.values())) > 1


def draw(distribution: Any, rng: np.random.Generator) -> Any:
    """Draw from a distribution, its ends often."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[rng.integers(len(distribution.choices))]
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    low, high = distribution.low, distribution.high
    if isinstance(distribution, IntDistribution):
        return int(rng.integers(low, high + 1))
    return rng.choice([low, high, rng.uniform(low, high)]).item()


def test_the_space_follows_algorithm_and_network() -> None:
    def space(name: str, **kind: bool) -> set[str]:
        return set(search_space(find_recipe(*name.split(" ")), **{**NEITHER, **kind}))

    assert "imitation.noise" in space("ppo Retransmission-v0")
    assert not {"imitation.noise", "width"} & space("ppo TaskAllocation-v0")
    assert {"width", "network.context"} < space("ppo TaskAllocation-v0", devices=True)
    assert "network.log_std" in space("ppo TaskAllocation-v0", gaussian=True)
    lesson = {"imitation.margin", "hyperparameters.exploration_initial_eps"}
    assert lesson < space("dqn DataScheduling-v0")
    assert not lesson & space("dqn Retransmission-v0")


NEITHER = {"devices": False, "gaussian": False}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ppo Retransmission-v0", NEITHER),
        ("dqn DataScheduling-v0", {"devices": True, "gaussian": False}),
        ("ppo UpdateScheduling-v0", {"devices": True, "gaussian": False}),
        ("ppo TaskAllocation-v0", {"devices": True, "gaussian": True}),
    ],
)
def test_the_kind_of_network_is_the_environments(name: str, kind: dict[str, bool]) -> None:
    algorithm, env_id = name.split(" ")
    row = find_environment(env_id)
    assert network_kind(find_recipe(algorithm, env_id), row, {}) == kind


def test_wide_layers_stay_in_proportion() -> None:
    recipe = tiny_recipe(network={"hidden": [16, 8, 1], "activation": "tanh"})
    assert with_parameters(recipe, {"width": 8}).network.hidden == (8, 4, 1)
    assert with_parameters(recipe, {"width": 32}).network.hidden == (32, 16, 2)


def test_a_base_with_whole_numbers_and_no_choice() -> None:
    values = {"gamma": 1, "gae_lambda": 1, "ent_coef": 0, "n_steps": 3, "batch_size": 3}
    recipe = find_recipe("ppo", ID).as_mapping()
    recipe["hyperparameters"].update(values)
    recipe["lanes"] = 1
    base = parse_recipe(recipe, "odd")
    space = search_space(base, **NEITHER)
    own = parameters_of(base, space)
    optuna.trial.create_trial(params=own, distributions=dict(space), value=0.0)
    rng = np.random.default_rng(0)
    for _ in range(100):
        with_parameters(base, {name: draw(d, rng) for name, d in space.items()})


# The study


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str) -> None:
    """The real thing: what is trained by, what it is scored on, what stays."""
    evaluated: list[range] = []
    run_episodes = training.run_episodes

    def noted(env: Any, policy: Any, episode_seeds: range) -> Any:
        evaluated.append(episode_seeds)
        return run_episodes(env, policy, episode_seeds)

    monkeypatch.setattr(training, "run_episodes", noted)
    said: list[str] = []
    bars: dict[str, tuple[int, int]] = {}
    found = tiny_search(
        tmp_path,
        algorithm,
        trials=3,
        report=said.append,
        progress=lambda task, done, total: bars.update({task: (done, total)}),
    )
    assert set(evaluated) == {range(seeds.TUNING.start, seeds.TUNING.start + 6)}
    assert bars == {"trials": (3, 3), "evaluations of this trial": (5, 5)}
    assert len(said) == 3
    # The first is the base recipe, with the seed and the steps of the search.
    run = tmp_path / "trials" / "0" / f"seed-{FIRST_SEED}"
    first = load_recipe(run / "recipe.yaml").as_mapping()
    base = tiny_recipe(algorithm).as_mapping()
    base |= {"environment": ID, "seed": FIRST_SEED, "checkpoint_every": 640}
    assert first == base
    assert {path.name for path in run.iterdir()} == {"recipe.yaml", "progress.csv"}
    assert found.base is not None
    assert found.base.number == 0
    # A score is the last evaluation's, not the best one's.
    for trial in found.trials:
        folder = tmp_path / "trials" / str(trial.number) / f"seed-{FIRST_SEED}"
        last = (folder / "progress.csv").read_text().splitlines()[-1]
        assert float(last.split(",")[1]) == trial.score
    assert found.best is found.trials[0]
    assert found.written == tmp_path / "best.yaml"
    recipe = load_recipe(found.written)
    assert recipe == found.recipe
    assert (recipe.steps, recipe.seed, recipe.environment) == (640, 7, ID)
    assert recipe.evaluation == tiny_recipe(algorithm).evaluation
    text = found.written.read_text()
    assert text.startswith(f"# Found by edge-gym search {algorithm} {ID}: trial")
    assert "500000 to 500005" in text.replace("\n# ", " ")


def test_training_seeds_are_of_no_shipped_agent() -> None:
    for row in list_environments():
        for algorithm, shipped in shipped_agents(row.id).items():
            lanes = find_recipe(algorithm, row.id).lanes
            assert max(shipped) * lanes + lanes <= FIRST_SEED * lanes
            # Before episodes' seeds begin again from the first.
            assert (FIRST_SEED + 100) * lanes < len(seeds.TRAINING) - lanes


def test_a_search_goes_on(tmp_path: Path, trained: list[dict[str, Any]]) -> None:
    tiny_search(tmp_path / "a", trials=2)
    assert len(trained) == 2
    said: list[str] = []
    found = tiny_search(tmp_path / "a", trials=8, report=said.append)
    assert len(trained) == 8
    assert said[0] == "2 of 8 trials had ended before"
    # It is the search that was never stopped.
    assert found.trials == tiny_search(tmp_path / "b", trials=8).trials
    assert tiny_search(tmp_path / "a", trials=8).trials == found.trials
    assert tiny_search(tmp_path / "a", trials=3).trials == found.trials
    assert len(trained) == 16


def test_trials_below_the_median_are_cut_off(tmp_path: Path, trained: list[dict[str, Any]]) -> None:
    found = tiny_search(tmp_path, trials=14)
    ended = {trial.number: trial.score for trial in found.trials}
    assert all(ended[number] is not None for number in range(5))
    assert None in ended.values()
    scores = [trial.score for trial in found.trials if trial.score is not None]
    assert scores == sorted(scores, reverse=True)
    assert found.best is not None
    assert found.best.score == found.best.parameters["hyperparameters.learning_rate"]
    assert found.recipe is not None
    assert found.recipe.hyperparameters["learning_rate"] == found.best.score
    assert [trial.score for trial in found.trials[len(scores) :]] == [None] * (14 - len(scores))
    assert not list((tmp_path / "trials").glob("*.lock"))
    assert not list((tmp_path / "trials").glob("*/*/*.safetensors"))


def test_several_training_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*args: Any, recipe: Recipe, seed: int, report: Callable[..., None], **_: Any) -> None:
        for number in range(1, EVALUATIONS):
            report(number * recipe.evaluation.every, 100.0)
        # A rollout may go on beyond the steps.
        report(recipe.steps + 3, float(seed))

    monkeypatch.setattr(search, "train", train)
    found = tiny_search(tmp_path, trials=2, seeds=3, steps=50)
    assert [trial.score for trial in found.trials] == [FIRST_SEED + 1] * 2
    assert found.training_seeds == range(FIRST_SEED, FIRST_SEED + 3)
    (first, _) = study_of(tmp_path)
    assert sorted(first.intermediate_values) == list(range(1, 16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 100}, "steps was 640, now it is 100"),
        ({"episodes": 7}, "episodes was 6, now it is 7"),
        ({"seeds": 2}, "seeds was 1, now it is 2"),
        ({"overrides": {**TINY, "budget": 20}}, "overrides.budget was 24, now it is 20"),
        ({"recipe": tiny_recipe(seed=8)}, "recipe.seed was 7, now it is 8"),
        ({"algorithm": "dqn"}, "algorithm was 'ppo', now it is 'dqn'"),
    ],
)
def test_other_settings_are_refused(
    tmp_path: Path, trained: list[dict[str, Any]], changes: dict[str, Any], message: str
) -> None:
    tiny_search(tmp_path, trials=1)
    with pytest.raises(ValueError, match="was begun with other settings") as error:
        tiny_search(tmp_path, trials=2, **changes)
    assert message in str(error.value)
    assert len(str(error.value)) < 500
    assert len(trained) == 1


def test_another_version_is_refused(
    tmp_path: Path, trained: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_search(tmp_path, trials=1)
    monkeypatch.setattr(search, "__version__", "99")
    with pytest.raises(ValueError, match=r"version was .*, now it is '99'"):
        tiny_search(tmp_path, trials=2)


def test_ctrl_c(
    tmp_path: Path, trained: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = search.train

    def stopped(*args: Any, **kwargs: Any) -> Path:
        if len(trained) == 2:
            raise TrainingInterrupted
        return quick(*args, **kwargs)

    monkeypatch.setattr(search, "train", stopped)
    with pytest.raises(SearchInterrupted, match=f"same settings and folder {tmp_path}"):
        tiny_search(tmp_path, trials=4)
    assert states_of(tmp_path) == ["COMPLETE", "COMPLETE", "FAIL", "WAITING"]
    monkeypatch.setattr(search, "train", quick)
    found = tiny_search(tmp_path, trials=4)
    ended = study_of(tmp_path)
    assert states_of(tmp_path)[2:] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert ended[3].params == ended[2].params
    assert len(found.trials) == 4


def proposals(out: Path) -> list[tuple[Any, ...]]:
    """Return what was proposed and what came of it, in the order of places."""
    ended = [trial for trial in study_of(out) if trial.state.name in ("COMPLETE", "PRUNED")]
    ended.sort(key=lambda trial: trial.user_attrs["place"])
    assert [trial.user_attrs["place"] for trial in ended] == list(range(len(ended)))
    return [(trial.params, trial.value, trial.state) for trial in ended]


@pytest.mark.parametrize("place", ["training", "proposal", "attribute"])
def test_a_stopped_search_proposes_as_one_that_was_not(
    tmp_path: Path, trained: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Beyond the ten trials, too, that the sampler draws at random."""
    tiny_search(tmp_path / "whole", trials=15)
    calls: list[int] = []

    def stopping(real: Callable[..., Any], at: set[int]) -> Callable[..., Any]:
        def stop(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) in at:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        return stop

    if place == "training":
        monkeypatch.setattr(search, "train", stopping(search.train, {1, 2, 3, 9, 15, 17}))
    elif place == "proposal":
        sampler = optuna.samplers.TPESampler
        real = sampler.sample_independent
        monkeypatch.setattr(sampler, "sample_independent", stopping(real, {2, 20, 44, 77}))
    else:
        real = optuna.Trial.set_user_attr
        monkeypatch.setattr(optuna.Trial, "set_user_attr", stopping(real, {1, 2, 8, 13}))
    stops = 0
    while True:
        try:
            tiny_search(tmp_path / "stopped", trials=15)
            break
        except SearchInterrupted:
            stops += 1
    assert stops >= 4
    assert proposals(tmp_path / "stopped") == proposals(tmp_path / "whole")


def test_ctrl_c_as_a_trial_ends(
    tmp_path: Path, trained: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial is kept, and no other is begun."""
    quick = search.train

    def stopped(*args: Any, **kwargs: Any) -> Path:
        best = quick(*args, **kwargs)
        raise TrainingInterrupted("stopped at the end", best)

    monkeypatch.setattr(search, "train", stopped)
    for number in (1, 2):
        with pytest.raises(SearchInterrupted, match="same settings and folder"):
            tiny_search(tmp_path, trials=4)
        assert states_of(tmp_path) == ["COMPLETE"] * number
    # Of several trainings the others are missing.
    with pytest.raises(SearchInterrupted):
        tiny_search(tmp_path / "several", trials=4, seeds=2)
    assert states_of(tmp_path / "several") == ["FAIL", "WAITING"]


@pytest.mark.parametrize(
    "line",
    [
        '{"op_code": 99, "worker_id": "x"}',
        '{"op_code": "create", "worker_id": "x"}',
        '{"op_code": 0}',
        "[1, 2]",
        "[" * 100_000,
        '{"op_code": 2, "worker_id": "x", "study_id": 0, "user_attr": {"settings": [3]}}',
    ],
)
def test_damaged_studies(tmp_path: Path, trained: list[dict[str, Any]], line: str) -> None:
    tiny_search(tmp_path, trials=1)
    with (tmp_path / "study.log").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"study\.log is damaged or no study of Optuna") as caught:
        tiny_search(tmp_path, trials=2)
    assert len(str(caught.value)) < 1000


def test_a_killed_trial_is_made_up_for(tmp_path: Path, trained: list[dict[str, Any]]) -> None:
    """While a process is at a trial it is left alone; once it is killed, others take it over."""
    code = f"""
import sys, time
sys.path[:0] = [{str(TESTS)!r}, {str(Path(__file__).parent)!r}]
import test_search
from edge_gym.agents.training import search
def train(*args, out, **kwargs):
    out.mkdir(parents=True)
    (out / "begun").touch()
    time.sleep(600)
search.train = train
test_search.tiny_search(test_search.Path({str(tmp_path)!r}), trials=3)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    begun = tmp_path / "trials" / "0" / f"seed-{FIRST_SEED}" / "begun"
    try:
        while not begun.exists():
            assert process.poll() is None
            time.sleep(0.05)
        said: list[str] = []
        found = tiny_search(tmp_path, trials=3, report=said.append)
        assert states_of(tmp_path) == ["RUNNING", "COMPLETE", "COMPLETE"]
        assert said[-1] == "trial 0 is still running elsewhere"
        assert found.base is None
        assert found.best is not None
    finally:
        process.kill()
        process.wait()
    # Killed in the midst of writing, too.
    with (tmp_path / "study.log").open("a") as file:
        file.write('{"op_code":7,"wor')
    said.clear()
    found = tiny_search(tmp_path, trials=3, report=said.append)
    assert "trial 0 was stopped before its end: it is done anew" in said
    assert states_of(tmp_path) == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    killed, *_, again = study_of(tmp_path)
    assert again.params == killed.params
    assert found.base is not None
    assert found.base.number == 3
    assert not begun.parent.exists()


def test_a_training_that_diverges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def train(*args: Any, recipe: Recipe, report: Callable[..., None], **_: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("the weights are nan")
        report(recipe.steps, 1.0 if len(calls) == 1 else math.nan)

    monkeypatch.setattr(search, "train", train)
    found = tiny_search(tmp_path, trials=3)
    assert [trial.score for trial in found.trials] == [1.0, None, None]
    assert found.best is found.base
    errors = [trial.error for trial in found.trials]
    assert errors == [None, "the weights are nan", "the mean return is nan"]
    # The base recipe must be trainable.
    calls[:] = [1]
    with pytest.raises(ValueError, match="the weights are nan"):
        tiny_search(tmp_path / "other", trials=3)
    assert states_of(tmp_path / "other") == ["FAIL", "WAITING"]


def test_bad_values(tmp_path: Path) -> None:
    for changes, message in (
        ({"trials": 0}, "trials must be"),
        ({"steps": 4}, "steps must be"),
        ({"episodes": 1}, "episodes must be"),
        ({"seeds": 0}, "seeds must be"),
        ({"recipe": tiny_recipe("dqn")}, "the recipe is for dqn, not for ppo"),
        ({"recipe": tiny_recipe(environment="BatchSlot-v0")}, "for BatchSlot-v0, not for Retr"),
        ({"overrides": {"budget": "x"}}, "budget must be"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny_search(tmp_path / "new", **changes)
    assert not (tmp_path / "new").exists()
    (tmp_path / "study.log").write_text("something\nelse\n")
    with pytest.raises(ValueError, match=r"study\.log is damaged or no study of Optuna"):
        tiny_search(tmp_path)


def test_without_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "edge_gym.agents.training.search")
    with pytest.raises(ImportError, match=r"needs Optuna .*pip install 'edge_gym\[agents\]'"):
        importlib.import_module("edge_gym.agents.training.search")


# The command


def test_the_command(
    tmp_path: Path,
    trained: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    base = tmp_path / "base.yaml"
    base.write_text(yaml.safe_dump(tiny_recipe().as_mapping()))
    settings = [part for name, value in TINY.items() for part in ("--set", f"{name}={value}")]
    arguments = ["search", "ppo", ID, "--trials", "7", "--steps", "100", "--episodes", "8"]
    arguments += ["--recipe", str(base), *settings]
    assert main(arguments) == 0
    streams = capsys.readouterr()
    folder = Path("runs") / f"search-ppo-{ID}"
    best = load_recipe(folder / "best.yaml")
    assert best.steps == 640
    assert "base recipe" in streams.out
    assert "learning_rate" in streams.out
    assert "7 trials of 100 steps" in " ".join(streams.out.split())
    assert f"written: {folder / 'best.yaml'}" in streams.err
    assert {call["recipe"].steps for call in trained} == {100}
    assert {call["selection"] for call in trained} == {seeds.TUNING[:8]}
    assert main([*arguments, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert len(trained) == 7
    assert content["recipe"] == best.as_mapping()
    assert content["best"] == content["trials"][0]["number"]
    assert content["tuning_seeds"] == [500_000, 500_007]
    # Ctrl-C is as in train.
    arguments[arguments.index("--trials") + 1] = "8"
    with monkeypatch.context() as patch:
        patch.setattr(search, "train", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(arguments) == 130
    assert "to go on, search again" in capsys.readouterr().err
    assert main([*arguments, "--seeds", "2"]) == 2
    assert "seeds was 1, now it is 2" in capsys.readouterr().err
