"""Every command, and what it says when something is wrong."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import edge_gym
import edge_gym.agents
from edge_gym.agents import catalogue, find_recipe, shipped_agents
from edge_gym.agents.catalogue import TRAINED_BEFORE
from edge_gym.agents.store import shipped_files
from edge_gym.baselines import find_baseline
from edge_gym.cli.main import interrupts_kept, main
from edge_gym.core.registration import list_environments
from edge_gym.evaluation import comparison, tuning
from edge_gym.evaluation import throughput as benchmark
from edge_gym.evaluation.episode_store import DamagedEpisodesWarning
from edge_gym.evaluation.policies import parse_value
from edge_gym.evaluation.rollouts import make_lanes, own_config
from edge_gym.reports import describe as describing
from edge_gym.reports.describe import describe
from edge_gym.runtime.tensors import read_tensors, write_tensors

ID = "Retransmission-v0"
SMALL = {"budget": 24, "image_size": 7, "validation_size": 60, "test_size": 40}
SET = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
RULES = ["--policy", "random", "--policy", "channel-aware:max_snr_db=13"]


def succeed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run what must end in one line on standard error, and return it."""
    assert main(arguments) == 2
    streams = capsys.readouterr()
    lines = [line for line in streams.err.splitlines() if line.strip()]
    assert streams.out == ""
    assert len(lines) == 1, streams.err
    assert lines[0].startswith("edge-gym: ")
    return lines[0]


def test_help_is_quick_and_light() -> None:
    code = (
        "import sys, time; begin = time.perf_counter(); from edge_gym.cli.main import main; "
        "main(['--help']); heavy = {'torch', 'matplotlib', 'stable_baselines3', 'numba'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("list", "compare", "evaluate", "train", "watch", "tune", "reproduce", "benchmark"):
        assert name in done.stdout


def test_module_runs() -> None:
    command = [sys.executable, "-m", "edge_gym", "list", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [row["id"] for row in json.loads(done.stdout)] == [row.id for row in list_environments()]
    command[-2:] = ["compare", "Nothing-v0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("edge-gym: unknown environment")
    assert "Traceback" not in done.stderr


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    lines = succeed(capsys, "list").splitlines()
    assert all(any(row.name in line for line in lines) for row in list_environments())
    (line,) = (line for line in lines if " Retransmission-v0 " in line)
    assert line.rstrip().endswith("ppo, dqn")
    rows = {row["id"]: row for row in json.loads(succeed(capsys, "list", "--json"))}
    assert 2 in rows["edge_gym/Retransmission-v0"]["agents"]["ppo"]
    assert rows["edge_gym/BatchSlot-Paper-v0"]["agents"] == {}


def test_describe(capsys: pytest.CaptureFixture[str]) -> None:
    text = succeed(capsys, "describe", f"edge_gym:edge_gym/{ID}", "--set", "budget=77")
    for part in (" budget ", " 77 ", "Channel uses in an episode.", "observation: (", " dB "):
        assert part in text
    assert "action: Discrete(2)" in text
    assert "tuned-support-vector-aware, ppo, dqn" in text
    found = json.loads(succeed(capsys, "describe", "DataSchedulingBatch-v0", "--json"))
    assert found["shapes"]["devices"][0] == 10
    settings = {one["name"]: one for one in found["settings"]}
    assert (settings["actions"]["value"], settings["actions"]["default"]) == ("scores", "sample")


def test_describe_says_what_happens(capsys: pytest.CaptureFixture[str]) -> None:
    text = succeed(capsys, "describe", ID)
    for part in (
        "0 accepts the received sample, and the next one is sent; 1 requests it again.",
        "there is no gain at other steps",
        "Terminates after budget steps",
        "arXiv:1911.03878",
        "max_snr_db=",
    ):
        assert part in text
    assert "``" not in text
    # Of several kinds of actions the one that there is.
    device, scores = (
        describe(name).action_meaning
        for name in ("DataSchedulingDevice-v0", "DataSchedulingBatch-v0")
    )
    assert device.startswith("Discrete(K); the device uploads the sample of the largest loss")
    assert scores.startswith("Box(-1, 1, (K,)); the M devices of the largest scores upload")
    assert device.splitlines()[1:] == scores.splitlines()[1:] != []
    rules = {rule.name: rule for rule in describe(ID).rules}
    assert rules["no-retransmission"].parameters == []
    (limit, probability) = rules["importance-aware"].parameters
    assert (limit.name, probability.name) == ("max_snr_db", "alignment_probability")
    rule = find_baseline("importance-aware", make_lanes(ID, 1)).Parameters()
    assert (limit.value, probability.value) == (rule.max_snr_db, rule.alignment_probability)
    assert limit.meaning


def test_describe_does_without_docstrings() -> None:
    code = (
        "from edge_gym.reports.describe import describe; found = describe('DataScheduling-v0'); "
        "print(found.action_meaning, found.reward, found.end, found.rules, sep='|')"
    )
    done = subprocess.run(
        [sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.split("|")
    assert all("Python runs without docstrings (-OO)" in text for text in told)


@pytest.mark.parametrize("row", list_environments(), ids=lambda row: row.name)
def test_every_environment_says_what_happens(row: Any) -> None:
    sections = describing._sections(row)
    for name in ("Rewards", "Episode End", "References"):
        assert len(describing._text(sections, name)) > 30
    actions = getattr(own_config(row.id), "actions", None)
    meaning = describing._chosen(sections, "Action Space", actions)
    assert re.search(r"(Discrete|Box)\(|Discrete, one of", meaning)
    assert "actions=" not in meaning.partition(".")[0]
    paid = describing._chosen(sections, "Rewards", "area")
    assert "reward=" not in paid
    assert "the share of the budget that is left" in paid
    assert not re.search(r"\{\w+\}", "".join(sections.values()))
    # A summary stands by itself.
    assert not re.search(r"\b(the same|as the first|own setting|the document)\b", row.summary)


def test_summaries_differ() -> None:
    assert len({row.summary for row in list_environments()}) == len(list_environments())


def test_agents_of_a_changed_environment_say_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = catalogue.read_agent_metadata

    def changed(path: Any) -> Any:
        told = plain(path)
        return {**told, "evaluation_in_training": told["evaluation"]}

    assert TRAINED_BEFORE == "trained before the environment changed"
    monkeypatch.setattr(catalogue, "read_agent_metadata", changed)
    assert succeed(capsys, "agents", ID).count(TRAINED_BEFORE) == 2
    assert describe(ID).agents == {"ppo": TRAINED_BEFORE, "dqn": TRAINED_BEFORE}
    assert f"ppo: {TRAINED_BEFORE}" in succeed(capsys, "describe", ID)
    monkeypatch.setattr(catalogue, "read_agent_metadata", plain)
    assert describe(ID).agents == {
        name: TRAINED_BEFORE
        for name in shipped_agents(ID)
        if any("evaluation_in_training" in plain(f) for f in shipped_files(name, ID).values())
    }


def test_every_field_is_described() -> None:
    # Of each problem an id that needs no data; all have the fields of their problem.
    first = {row.vector: row for row in reversed(list_environments())}
    for row in first.values():
        described = describe(row.id)
        assert len(described.settings) > 10
        assert all(one.meaning for one in described.settings)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e6", 5e6),
        ("5.0E-6", 5e-6),
        ("-.5e+1", -5.0),
        ("3", 3),
        ("1.5", 1.5),
        ("e6", "e6"),
        ("5e", "5e"),
        ("1e3x", "1e3x"),
        ("'5e6'", "5e6"),
        ("[1e2, x]", [100.0, "x"]),
        ("null", None),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, value: Any) -> None:
    found = parse_value(text, "here")
    assert found == value
    assert type(found) is type(value)


def test_agents(capsys: pytest.CaptureFixture[str]) -> None:
    text = succeed(capsys, "agents")
    shipped = {(row.name, name) for row in list_environments() for name in shipped_agents(row.id)}
    assert all(f"{algorithm} {name} " in text for name, algorithm in shipped)
    (one,) = json.loads(succeed(capsys, "agents", "TaskAllocationRisk-v0", "--json"))
    assert one["training_seeds"] == shipped_agents("TaskAllocationRisk-v0")["ppo"]
    assert one["returns"][one["training_seeds"].index(one["best"])] == max(one["returns"])
    assert one["steps"] == find_recipe("ppo", "TaskAllocationRisk-v0").steps
    assert one["minutes"] > 1
    seeds = len(one["training_seeds"])
    assert one["command"] == f"edge-gym train ppo TaskAllocationRisk-v0 --seed 0 --seeds {seeds}"


def test_compare(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["compare", f"edge_gym/{ID}", *RULES, "--episodes", "4", "--lanes", "2", *SET]
    out = succeed(capsys, *arguments, "--out", str(tmp_path))
    assert "channel-aware:max_snr_db=13" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "comparison.png",
        "episodes.csv",
        "results.json",
    ]
    content = json.loads((tmp_path / "results.json").read_text())
    again = succeed(capsys, *arguments, "--json", "--out", str(tmp_path))
    assert json.loads(again) == content
    assert content["config"]["budget"] == 24


def test_compare_writes_where_it_is_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    succeed(capsys, "compare", ID, *RULES, "--episodes", "2", *SET, "--set", "classes=[1, 7]")
    content = json.loads((tmp_path / "results" / ID / "results.json").read_text())
    assert content["config"]["classes"] == [1, 7]


def test_compare_takes_everything_that_applies(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "edge_gym.evaluation.policies.tuned_parameters", lambda *_: {"max_snr_db": 9.0}
    )
    arguments = ["compare", ID, "--episodes", "2", *SET, "--json", "--out", str(tmp_path)]
    content = json.loads(succeed(capsys, *arguments))
    names = ["random", "no-retransmission"]
    for rule in ("channel-aware", "importance-aware", "support-vector-aware"):
        names += [rule, f"tuned-{rule}"]
    assert list(content["policies"])[: len(names)] == names
    assert set(content["policies"]) - set(names) <= {"ppo", "dqn"}
    assert content["policies"]["tuned-channel-aware"]["parameters"] == {"max_snr_db": 9.0}


def test_ctrl_c_keeps_what_was_finished(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = comparison.run_episodes, []

    def stop_at_second(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(comparison, "run_episodes", stop_at_second)
    arguments = ["compare", ID, *RULES, "--episodes", "2", *SET, "--out", str(tmp_path)]
    assert main(arguments) == 130
    streams = capsys.readouterr()
    assert "random" in streams.out
    assert "what was finished is kept" in streams.err
    content = json.loads((tmp_path / "results.json").read_text())
    assert (content["interrupted"], list(content["policies"])) == (True, ["random"])
    # With nothing finished yet there is nothing to keep.
    calls[:] = [1]
    assert main(arguments) == 130
    assert "stopped" in capsys.readouterr().err


def test_a_real_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge_gym", "compare", ID, *RULES, "--episodes", "100000"]
    process = subprocess.Popen(
        [*command, *SET, "--out", str(tmp_path / "new")], stderr=subprocess.PIPE, text=True
    )
    try:
        while not (tmp_path / "new").exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert errors.split() == ["edge-gym:", "stopped"]
    assert not list((tmp_path / "new").iterdir())


def test_ctrl_c_in_a_callback_is_not_lost() -> None:
    @ctypes.CFUNCTYPE(None)
    def callback() -> None:
        raise KeyboardInterrupt

    def work() -> None:
        callback()
        time.sleep(5)

    with interrupts_kept(), pytest.raises(KeyboardInterrupt):
        work()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare"], "Missing argument 'ID'"),
        (["compare", ID, "--episodes", "many"], "--episodes"),
        (["compare", ID, "--colour"], "No such option"),
        (["dance"], "No such command"),
        (["compare", "Nothing-v0"], "unknown environment 'Nothing-v0'"),
        (["compare", ID, "--policy", "chanel-aware"], "did you mean channel-aware"),
        (["compare", ID, "--policy", "no/such/model"], "unknown policy 'no/such/model'"),
        (["compare", ID, "--policy", "random", "--episodes", "1"], "episodes must be"),
        (["compare", ID, "--policy", "random", "--set", "budget"], "--set takes field=value"),
        (["compare", ID, "--policy", "random", "--set", "budgt=3"], "has no field 'budgt'"),
        (["compare", ID, "--policy", "random", "--set", "budget=[1"], "cannot read the value"),
        (["compare", ID, "--policy", "random", "--set", "budget=x"], "budget must be an integer"),
        (["compare", ID, "--policy", "random", "--out", "/proc/x"], "cannot write to the folder"),
        (["evaluate", "nobody", ID], "unknown policy 'nobody'"),
        (["evaluate", "ppo", ID, "--stated", "--episodes", "4"], "leave out --episodes, --seed"),
        (["evaluate", "ppo", ID, "--stated", "--out", "x"], "leave out --episodes, --seed"),
        (["watch", ID, "--out", "episode.png"], "must end in .gif"),
        (["compare", ID, "--policy", ""], "unknown policy ''; here are random"),
        (["compare", ID, "--policy", "."], "unknown policy '.'; here are random"),
        (["compare", ID, "--policy", "x" * 5000], "unknown policy 'xxx"),
        (["compare", ID, "--policy", "tuned-channel-aware", "--policy", "no"], "unknown policy"),
        (["compare", ID, "--policy", "tuned-random"], "nothing to tune"),
        (["compare", ID, "--set", "budget=" + "[" * 2000], "nested more than 30 deep"),
        (["compare", ID, "--set", "budget=[&a [1], *a]"], "references (& and *) are not read"),
        (["compare", ID, "--set", "budget=" + "9" * 5000], "cannot read the value '999"),
        (["compare", "x" * 5000], "unknown environment 'xxx"),
        (["compare", "Retransmision"], "did you mean Retransmission-v0"),
        (["compare", "Nothing-v0"], "edge-gym list shows all"),
        (["evaluate", "ppo", ID, "--stated", "--lanes", "0"], "lanes must be"),
        (["watch", ID, "--fps", "0"], "fps must be a finite number in [0.01, 50], got 0.0"),
        (["watch", ID, "--fps", "1e-9"], "fps must be"),
        (["watch", ID, "--fps", "nan"], "fps must be"),
        (["watch", "Nothing-v0", "--out", "new/a.gif"], "unknown environment"),
        (["watch", ID, "--policy", "nobody"], "unknown policy 'nobody'"),
        (["tune", ID, "--lanes", "0"], "lanes must be"),
        (["train", "ppo", ID, "--seeds", "0"], "seeds must be"),
        (["train", "ppo", ID, "--seeds", "2", "--workers", "0"], "workers must be"),
        (["train", "ppo", ID, "--seeds", "2", "--set", "budget=x"], "budget must be"),
        (["leaderboard", ID, "--workers", "-1"], "workers must be"),
        (["leaderboard", ID, "--out", "/proc/x"], "cannot write to the folder"),
        (["plan", ID, "--base", "tuned-channel-aware", "--candidate", "no"], "unknown policy"),
        (["watch", ID, "--every", "0"], "every must be an integer"),
        (["watch", ID, "--out", "/proc/x/episode.gif"], "cannot write to the folder"),
        (["tune", ID, "--policy", "random"], "nothing to tune"),
        (["tune", ID, "--policy", "nothing"], "unknown baseline 'nothing'"),
        (["tune", ID, "--policy", "no.module:Rule"], "there is no module 'no'"),
        (["tune", ID, "--policy", "json:dumps"], "no subclass of edge_gym.baselines.Baseline"),
        (["tune", ID, "--policy", "m:Rule", "--write"], "--write ships rules by their names"),
        (["tune", ID, "--method", "annealing"], "method must be"),
        (["tune", ID, "--trials", "0"], "trials must be"),
        (["tune", ID, "--out", "x"], "--out is for --method cma"),
        (["compare", ID, "--policy", "index"], "no weights: edge-gym tune ID --method cma"),
        (["compare", ID, "--policy", "index:weights=none.yaml"], "no file of weights 'none.yaml'"),
        (["compare", ID, "--policy", "tuned-index"], "no tuned parameters of 'index' ship"),
        (["tune", ID, "--episodes", "2"], "episodes must be an integer in [8"),
        (["tune", ID, "--set", "budget=24", "--write"], "leave out --set"),
        (
            ["reproduce", "figure-99"],
            "unknown reproduction 'figure-99'; there are rrm-fig5, rrm-fig9",
        ),
        (["reproduce", "rrm-fig5", "--set", "learner=cnn"], "learner 'svm'"),
        (["benchmark", "Nothing-v0"], "unknown environment"),
        (["benchmark", ID, "--seconds", "0"], "seconds must be"),
        (["train", "ppo", "Nothing-v0"], "unknown environment"),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    begun = time.monotonic()
    line = fail(capsys, *arguments)
    assert message in line
    assert len(line) < 2100
    assert time.monotonic() - begun < 30  # before anything long is done


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "there is not enough memory"),
        (MemoryError("Unable to allocate 7 TiB"), "not enough memory (Unable to allocate 7 TiB)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (OSError(28, "No space left on device"), "the disk is full"),
        (OSError(122, "cannot write a.csv, the disk is full (quota)"), "cannot write a.csv"),
        (FileNotFoundError(2, "No such file or directory", "a.csv"), "a.csv"),
    ],
)
def test_what_no_check_foresees_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    message: str,
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(comparison, "compare", fails)
    line = fail(capsys, "compare", ID)
    assert message in line
    assert "Errno" not in line or error.filename  # type: ignore[attr-defined]


def test_own_warnings_are_remarks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warns(*_: Any, **__: Any) -> None:
        warnings.warn(DamagedEpisodesWarning("a part is damaged"), stacklevel=1)
        raise ValueError("the end")

    monkeypatch.setattr(comparison, "compare", warns)
    assert main(["compare", ID]) == 2
    assert capsys.readouterr().err == "edge-gym: a part is damaged\nedge-gym: the end\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert succeed(capsys, "--version") == f"edge-gym {edge_gym.__version__}\n"


def test_nowhere_to_write(tmp_path: Path) -> None:
    """As of a user without a home, in a place that only holds what is installed."""
    unknown = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), "/proc/nowhere")
    left = {"EDGE_GYM_DATA", "MPLCONFIGDIR"}
    env = {name: value for name, value in os.environ.items() if name not in left}
    arguments = ["--episodes", "2", *SET, *RULES, "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "edge_gym", "compare", ID, *arguments],
        env={**env, **unknown, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        cwd="/proc",
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "comparison.png").exists()
    done = subprocess.run(
        [sys.executable, "-m", "edge_gym", "compare", ID, "--set", "dataset=mnist"],
        env={**env, **unknown, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        cwd="/proc",
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_damaged_model_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = tmp_path / "agent.safetensors"
    model.write_bytes(b"no agent at all")
    assert str(model) in fail(capsys, "evaluate", str(model), ID, *SET)


def test_tracebacks_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_GYM_TRACEBACK", "1")
    with pytest.raises(ValueError, match="unknown environment"):
        main(["compare", "Nothing-v0"])


class Accepting:
    """Stands in for a trained agent."""

    def begin(self, lanes: Any, seeds: Any) -> None:
        pass

    def act(self, observations: Any, masks: Any = None) -> Any:
        return np.zeros(len(observations), np.int64)


def test_evaluate(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "agent"
    model.touch()
    place = "edge_gym.agents.policy_source.load_agent"
    monkeypatch.setattr(place, lambda spec, env: Accepting())
    out = succeed(capsys, "evaluate", str(model), ID, "--episodes", "3", *SET, "--json")
    content = json.loads(out)
    assert content["policies"][str(model)]["kind"] == "learned"
    assert content["policies"][str(model)]["difference"] is None
    assert list(tmp_path.iterdir()) == [model]


def test_train(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def train(*args: Any, **kwargs: Any) -> Path:
        calls.append((args, kwargs))
        if kwargs["resume"]:
            raise edge_gym.agents.TrainingInterrupted("go on with --resume")
        return tmp_path / "best"

    monkeypatch.setattr(edge_gym.agents, "train", train, raising=False)
    arguments = ["train", "ppo", ID, "--steps", "64", "--seed", "3", "--set", "budget=24"]
    assert succeed(capsys, *arguments).strip() == str(tmp_path / "best")
    args, kwargs = calls[0]
    assert args == ("ppo", f"edge_gym/{ID}")
    assert kwargs == {
        "recipe": None,
        "steps": 64,
        "seed": 3,
        "out": Path("runs") / f"ppo-{ID}",
        "resume": False,
        "device": "cpu",
        "overrides": {"budget": 24},
    }
    assert main([*arguments, "--resume"]) == 130
    assert "go on with --resume" in capsys.readouterr().err


def test_watch(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "new" / "episode.gif"
    arguments = ["--policy", "channel-aware", "--out", str(path), "--every", "10"]
    succeed(capsys, "watch", ID, *arguments, *SET)
    with Image.open(path) as film:
        # The beginning, after 10 and 20 steps, and the end.
        assert film.n_frames == 4  # type: ignore[attr-defined]


def test_tune(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["tune", ID, "--policy", "channel-aware", "--episodes", "8", "--lanes", "4"]
    content = json.loads(succeed(capsys, *arguments, *SET, "--json"))
    assert content[0]["policy"] == "channel-aware"
    assert content[0]["best"] in content[0]["trials"]
    trial = tuning.GridPoint({"max_snr_db": 9.0}, 8, 0.1, (0.0, 0.2))
    monkeypatch.setattr(tuning, "tuned_folder", lambda: tmp_path)
    monkeypatch.setattr(tuning, "tune", lambda env, name, *_: tuning.Tuning(name, trial, (trial,)))
    assert "best" in succeed(capsys, *arguments, "--write")
    written = yaml.safe_load((tmp_path / f"{ID}.yaml").read_text())
    assert written["policies"]["channel-aware"]["parameters"] == {"max_snr_db": 9.0}


def test_tune_weights(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cmaes")
    from edge_gym.evaluation import weight_search

    arguments = ["tune", ID, "--method", "cma", *SET, "--out", str(tmp_path)]
    assert "has no weights" in fail(capsys, *arguments, "--policy", "random")
    assert "one policy at a time" in fail(capsys, *arguments, *RULES)
    few = ["--episodes", "4", "--trials", "11"]
    content = json.loads(succeed(capsys, *arguments, *few, "--json"))
    written = yaml.safe_load((tmp_path / "weights.yaml").read_text())
    assert content[0]["best"]["parameters"]["weights"] == written
    assert len(content[0]["trials"]) == 11
    policies = ["--policy", f"index:weights={tmp_path / 'weights.yaml'}", "--policy", "random"]
    compared = ["compare", ID, *SET, "--episodes", "4", "--out", str(tmp_path), *policies]
    found = json.loads(succeed(capsys, *compared, "--json"))["policies"]
    (name,) = (name for name in found if name.startswith("index"))
    assert found[name]["parameters"]["weights"] == written

    # Only the result is printed, not all trials.
    trial = tuning.GridPoint({"weights": {"margin * left": 0.5}}, 8, 0.1, (0.0, 0.2))
    with monkeypatch.context() as patch:
        result = tuning.Tuning("index", trial, (trial, trial), tuning.CMA)
        patch.setattr(weight_search, "search_weights", lambda *_, **__: result)
        assert succeed(capsys, *arguments).count("margin * left=0.5") == 1

    # Ctrl-C leaves what was done, and says how to go on.
    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(weight_search, "run_episodes", stop)
    assert main([*arguments, *few, "--trials", "22"]) == 130
    assert "stopped after 11 trials; to go on, tune again" in capsys.readouterr().err


def test_stopped_tuning_keeps_the_rules_that_are_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = tuning.GridPoint({"max_snr_db": 9.0}, 8, 0.1, (0.0, 0.2))

    def search(env: Any, name: str, *_: Any) -> tuning.Tuning:
        if name != "channel-aware":
            raise KeyboardInterrupt
        return tuning.Tuning(name, trial, (trial,))

    monkeypatch.setattr(tuning, "tune", search)
    assert main(["tune", ID, "--json"]) == 130
    streams = capsys.readouterr()
    assert [found["policy"] for found in json.loads(streams.out)] == ["channel-aware"]
    assert "what was finished is kept" in streams.err
    assert main(["tune", ID, "--policy", "importance-aware"]) == 130
    assert capsys.readouterr().out == ""


def test_reproduce(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    settings = [*SET, "--set", "dataset=mnist-subset", "--set", "retrain_every=4"]
    settings += ["--set", "budget=150"]
    arguments = ["reproduce", "rrm-fig5", "--quick", "--episodes", "8", "--out", str(tmp_path)]
    content = json.loads(succeed(capsys, *arguments, *settings, "--json"))
    assert content == json.loads((tmp_path / "rrm-fig5.json").read_text())
    assert (tmp_path / "rrm-fig5.png").read_bytes().startswith(b"\x89PNG")
    assert len(content["claims"]) == 5
    assert {claim["verdict"] for claim in content["claims"]} <= {
        "yes",
        "partly",
        "no",
        "within noise",
    }
    curves = content["data"]["test_accuracy"]
    assert all(
        len(curve["mean"]) == len(content["data"]["channel_uses"]) for curve in curves.values()
    )
    assert "too few samples" in fail(capsys, *arguments, *settings, "--set", "budget=4")


def test_reproduce_fig9_and_go_on_where_it_stopped(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_gym.evaluation import episode_store as stored

    arguments = ["reproduce", "rrm-fig9", "--quick", "--episodes", "4", "--out", str(tmp_path)]
    small = {"dataset": "mnist-subset", "image_size": 14, "budget": 6, "validation_size": 50}
    small |= {"n_devices": 3, "buffer_size": 3, "retrain_every": 3, "test_size": 50}
    for name, value in small.items():
        arguments += ["--set", f"{name}={value}"]
    content = json.loads(succeed(capsys, *arguments, "--json"))
    assert (tmp_path / "rrm-fig9.png").read_bytes().startswith(b"\x89PNG")
    assert content["data"].keys() == {"svm", "cnn"}
    assert len(content["data"]["svm"]["15"]["importance-aware"]["mean"]) == 6
    assert [claim["claim"][:10] for claim in content["claims"]].count("svm, 15 dB") == 2

    # What was finished is not run again, whatever else was asked for.
    run: list[int] = []
    original = stored.run_episodes

    def counted(*given: Any) -> Any:
        run.append(len(given[2]))
        return original(*given)

    monkeypatch.setattr(stored, "run_episodes", counted)
    (tmp_path / "parts" / "svm-15-data-aware.safetensors").write_bytes(b"half a file")
    assert main([*arguments, "--json"]) == 0
    streams = capsys.readouterr()
    assert json.loads(streams.out) == content
    (line,) = streams.err.splitlines()[:-1]
    assert line.startswith("edge-gym: ")
    assert "svm-15-data-aware.safetensors is damaged" in line
    assert run == [4]
    run.clear()
    succeed(capsys, *arguments, "--set", "C=2.0", "--json")
    assert len(run) == 8


FEDERATED = {"samples_per_device": 12, "validation_size": 50, "test_size": 50, "max_rounds": 3}


@pytest.mark.slow
def test_reproduce_section5(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["reproduce", "rrm-section5", "--quick", "--episodes", "2", "--out", str(tmp_path)]
    for name, value in {**FEDERATED, "batch_size": 6, "hidden_sizes": "[4]"}.items():
        arguments += ["--set", f"{name}={value}"]
    content = json.loads(succeed(capsys, *arguments, "--json"))
    assert content == json.loads((tmp_path / "rrm-section5.json").read_text())
    assert (tmp_path / "rrm-section5.png").read_bytes().startswith(b"\x89PNG")
    assert len(content["data"]) == 10
    for cell, policies in content["data"].items():
        assert {"random-devices", "staleness-per-cost"} < policies.keys()
        assert ("dqn" if "Discrete" in cell else "ppo") in policies
        starts = {found["accuracy"]["seconds"]["mean"][0] for found in policies.values()}
        assert max(starts) - min(starts) < 1e-9
        assert all(found["metrics"]["rounds"]["mean"] <= 3 for found in policies.values())
    text = [claim["claim"] for claim in content["claims"]]
    assert "UpdateScheduling, K = 10: model-variation is better than random devices" in text
    assert sum("coded redundancy" in claim for claim in text) == 1

    # What was finished is loaded: a part that says something else is believed.
    part = tmp_path / "parts" / "everyone_UpdateScheduling_K10.safetensors"
    arrays, header = read_tensors(part, "part")
    write_tensors(part, {**arrays, "returns": arrays["returns"] + 5}, header)
    again = json.loads(succeed(capsys, *arguments, "--json"))
    both = [found["data"]["UpdateScheduling, K = 10"] for found in (content, again)]
    means = [found["everyone"]["metrics"]["return"]["mean"] for found in both]
    assert means[1] == pytest.approx(means[0] + 5)
    assert both[0]["lazy"] == both[1]["lazy"]


def test_reproduce_time_to_accuracy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["reproduce", "feel-time", "--quick", "--episodes", "3", "--out", str(tmp_path)]
    # A target that is reached at once, and one that never is.
    small = {**FEDERATED, "max_batch": 8, "hidden_sizes": "[4]", "targets": "[0.01, 0.99]"}
    for name, value in small.items():
        arguments += ["--set", f"{name}={value}"]
    content = json.loads(succeed(capsys, *arguments, "--json"))
    assert (tmp_path / "feel-time.png").read_bytes().startswith(b"\x89PNG")
    (policies,) = content["data"].values()
    assert {"optimal-batch-slot", "full-batch", "model-based", "individual"} < policies.keys()
    for found in policies.values():
        metrics = {name: value["mean"] for name, value in found["metrics"].items()}
        assert (metrics["reached_1"], metrics["reached_99"]) == (1, 0)
        assert metrics["seconds_to_1"] < metrics["seconds_to_99"] == 0.25
    verdicts = {claim["claim"]: claim["verdict"] for claim in content["claims"]}
    never = "IID, K = 6: optimal-batch-slot reaches 99 % sooner than full-batch"
    assert verdicts[never] == "within noise"


def test_pictures_are_asked_for_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    out = tmp_path / "out"
    assert "pictures need matplotlib" in fail(capsys, "reproduce", "rrm-fig9", "--out", str(out))
    assert not out.exists()


def test_reproduce_without_data(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_gym.reproduce import harness

    def missing(name: str) -> Any:
        raise harness.DataError(f"{name} is not there")

    monkeypatch.setattr(harness, "load_dataset", missing)
    message = fail(capsys, "reproduce", "rrm-fig5", "--quick", "--out", str(tmp_path))
    assert message == "edge-gym: mnist is not there; or run it on the embedded images: " + (
        "--set dataset=mnist-subset"
    )


def test_benchmark(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "LANES", (1, 4))
    monkeypatch.setattr(benchmark, "COMPARED_LANES", 4)
    monkeypatch.setattr(benchmark, "_PATIENCE", 1)
    arguments = ["benchmark", ID, "--seconds", "0.05", "--processes", "2"]
    (speeds,) = json.loads(succeed(capsys, *arguments, "--json"))
    assert speeds["policy"] == "support-vector-aware"
    measured = {(row["what"], row["lanes"]): row for row in speeds["rows"]}
    assert {("edge_gym", 1), ("edge_gym", 4), ("scikit-learn refits", 4)} <= set(measured)
    for row in measured.values():
        assert row["steps_per_second"] > 0
        if row["what"] == "edge_gym":
            assert sum(row["shares"]) == pytest.approx(1)
            assert all(0 <= share <= 1 for share in row["shares"])
    assert any("times as many steps a second" in note for note in speeds["notes"])


def test_scikit_learn_learns_the_same() -> None:
    """The benchmark's other side solves the same problem, so it is beside the same task."""
    from edge_gym.learning import make_learner
    from edge_gym.learning.svm.learner import SVMLearner

    rng = np.random.default_rng(0)
    ours = make_learner("svm-ovo", 2, (1, 1, 5), 3, tolerance=1e-5)
    assert isinstance(ours, SVMLearner)
    theirs = benchmark.SklearnLearner(ours)
    lanes = np.arange(2)
    for _ in range(40):
        labels = rng.integers(3, size=2)
        samples = (rng.normal(size=(2, 5)) + labels[:, None]).astype(np.float32)
        for learner in (ours, theirs):
            learner.append(lanes, samples, labels)
    for learner in (ours, theirs):
        learner.fit(lanes, [rng, rng])
    np.testing.assert_allclose(ours.machines.weights, theirs.machines.weights, atol=0.02)
