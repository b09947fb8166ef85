"""Every long command, killed at random moments and run again until it ends: the ends are the same.

``python tests/kills.py --kills 100`` shares so many kills among the commands; ``--interrupts``
sends Ctrl-C in their place, which must end a command with code 130 and without a traceback. What a
command leaves, and what it prints, is compared with a run that nobody stopped; times are left out,
and so are the numbers of a search's trials, for those that were stopped have numbers too.

Commands are children of this process, forked once everything is imported: what is hit is then the
command's work, and a hundred kills take minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

import edge_gym.agents.record
import edge_gym.agents.training.replicates
import edge_gym.agents.training.run
import edge_gym.agents.training.search
import edge_gym.evaluation.leaderboard
import edge_gym.evaluation.planner
import edge_gym.reports.charts
import edge_gym.reproduce
import edge_gym.runtime.workers
from edge_gym.cli import main as cli
from edge_gym.evaluation import generalisation, tuning
from edge_gym.runtime.tensors import read_tensors

ID = "Retransmission-v0"
SMALL = {
    "budget": 9,
    "initial_samples": 6,
    "retrain_every": 4,
    "validation_size": 60,
    "test_size": 40,
    "image_size": 7,
}
SET = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
RULES = ["--policy", "random", "--policy", "channel-aware", "--policy", "support-vector-aware"]
STAGED = {"dataset": "mnist-subset", "image_size": 14, "budget": 6, "validation_size": 50}
STAGED |= {"n_devices": 3, "buffer_size": 3, "retrain_every": 3, "test_size": 50}
LIMIT_S = 300.0
PARTS = ("first", "second")
MOST_ROUNDS = 40  # in which a command ends before it is hit

# Of times, and of what follows from how often somebody was stopped.
_TIMES = {"seconds", "best", "base", "number", "files", "compile_s"}


@dataclass(frozen=True)
class Command:
    """A long command.

    Attributes:
        arguments: What follows ``edge-gym``; ``OUT`` stands for its folder.
        files: Patterns of the files that are compared, in that folder.
        prepare: What its process does before it begins; gets the folder.
        output: Whether what it prints is compared.
    """

    arguments: list[str]
    files: tuple[str, ...] = ()
    prepare: Callable[[Path], None] = lambda folder: None
    output: bool = True


def _work_here(folder: Path) -> None:
    edge_gym.runtime.workers.in_processes = lambda workers, work: edge_gym.runtime.workers.here(
        work
    )


def _few_settings(folder: Path) -> None:
    _work_here(folder)
    own = generalisation.Setting("own", "own", {**SMALL, "budget": 12})
    other = generalisation.Setting("SNR", "5 dB", {**SMALL, "mean_snr_db": 5.0})
    generalisation.OWN = own
    generalisation.settings_of = lambda name: iter([own, other])
    rules = ["random", "channel-aware", "no-retransmission", "support-vector-aware"]
    generalisation.shipped_specs = lambda name: rules


def _other_tunings(folder: Path) -> None:
    if not (folder / "tuned").exists():
        shutil.copytree(tuning.tuned_folder(), folder / "tuned")
    tuning.tuned_folder = lambda: folder / "tuned"
    tuning.shipped_tunings()


def _recipe(folder: Path) -> Path:
    path = folder / "recipe-given.yaml"
    if path.exists():
        return path
    recipe = edge_gym.agents.find_recipe("ppo", ID).as_mapping()
    recipe.update(imitation=None, steps=448, lanes=4, checkpoint_every=64, train_config={})
    recipe.update(network={"hidden": [8, 8]}, evaluation={"every": 128, "episodes": 6, "lanes": 3})
    recipe["hyperparameters"].update(n_steps=16, batch_size=32, n_epochs=2)
    path.write_text(yaml.safe_dump(recipe))
    return path


TRAIN = ["train", "ppo", ID, "--recipe", "OUT/recipe-given.yaml", "--out", "OUT/run", "--resume"]
TRAINED = ("run/**/best.safetensors", "run/**/last.safetensors", "run/**/progress.csv")
BOARD = ["TaskAllocationStaleness-v0", "--episodes", "2", "--out", "OUT/board", "--json"]
SEARCH = ["search", "ppo", ID, "--recipe", "OUT/recipe-given.yaml", "--out", "OUT/search"]
COMMANDS = {
    "compare": Command(
        ["compare", ID, *RULES, "--episodes", "6", *SET, "--out", "OUT/results", "--json"],
        ("results/results.json", "results/episodes.csv"),
    ),
    "evaluate": Command(["evaluate", "ppo", ID, "--episodes", "6", *SET, "--json"]),
    "evaluate --stated": Command(
        ["evaluate", "OUT/agent.safetensors", ID, "--stated", "--json"],
        prepare=lambda folder: _with_small_statement(folder),
    ),
    "train": Command([*TRAIN, *SET], TRAINED, lambda folder: _recipe(folder) and None, False),
    "train --seeds": Command(
        [*TRAIN, *SET, "--seeds", "2", "--workers", "2"],
        TRAINED,
        lambda folder: _recipe(folder) and None,
        False,
    ),
    "search": Command(
        [*SEARCH, *SET, "--trials", "5", "--steps", "130", "--episodes", "4", "--json"],
        ("search/best.yaml",),
        lambda folder: _recipe(folder) and None,
    ),
    "tune": Command(
        ["tune", ID, "--policy", "channel-aware", "--episodes", "8", *SET, "--json"],
    ),
    "tune --write": Command(
        ["tune", ID, "--policy", "channel-aware", "--episodes", "8", "--write"],
        ("tuned/*.yaml",),
        _other_tunings,
    ),
    "leaderboard": Command(
        ["leaderboard", *BOARD], ("board/leaderboard.*", "board/films/*"), _work_here
    ),
    "leaderboard --workers": Command(
        ["leaderboard", *BOARD, "--workers", "2"], ("board/leaderboard.*", "board/films/*")
    ),
    "generalise": Command(
        ["generalise", ID, "--episodes", "2", "--out", "OUT/settings", "--json"],
        ("settings/generalisation.*",),
        _few_settings,
    ),
    "plan": Command(
        ["plan", ID, "--base", "channel-aware", "--futures", "1", "--episodes", "4", *SET, "--json"]
    ),
    "watch": Command(["watch", ID, *SET, "--every", "2", "--out", "OUT/a.gif"], ("a.gif",)),
    "reproduce": Command(
        ["reproduce", "rrm-fig9", "--quick", "--episodes", "2", "--out", "OUT/figure", "--json"]
        + [part for name, value in STAGED.items() for part in ("--set", f"{name}={value}")],
        ("figure/rrm-fig9.json",),
    ),
    "benchmark": Command(["benchmark", ID, "--seconds", "0.05", "--processes", "1"], output=False),
}


def _with_small_statement(folder: Path) -> None:
    """Put an agent there whose file states an evaluation of few episodes."""
    from edge_gym.agents.store import shipped_files
    from edge_gym.runtime.tensors import write_tensors

    path = folder / "agent.safetensors"
    if path.exists():
        return
    arrays, header = read_tensors(min(shipped_files("ppo", f"edge_gym/{ID}").values()), "agent")
    header["evaluation"]["episodes"] = 4
    header["overrides"] = {**SMALL}
    write_tensors(path, arrays, header)
    _, header["evaluation"] = edge_gym.agents.record.statements(str(path), ID)
    write_tensors(path, arrays, header)


def use_one_thread() -> None:
    """Let this process have no threads: children of a process with threads cannot go on."""
    os.environ.update(dict.fromkeys(("EDGE_GYM_THREADS", "OMP_NUM_THREADS"), "1"))
    torch.set_num_threads(1)


class DifferenceError(AssertionError):
    """A command's end depends on whether it was stopped."""


def begin(command: Command, folder: Path, said: Path | None = None) -> int:
    """Begin a command in a child of its own group; return its process id.

    Args:
        command: The command.
        folder: Where it works.
        said: Folder for what it prints; the same by default.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, name in ((1, "output.txt"), (2, "errors.txt")):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open((said or folder) / name, flags, 0o644), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
        command.prepare(folder)
        (folder / "begun").touch()
        code = cli.main([part.replace("OUT", str(folder)) for part in command.arguments])
        # As the interpreter does at its end: workers must be gone by then.
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def end(child: int, folder: Path) -> int:
    """Wait for a child and return its exit code, negative for a signal."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise DifferenceError(f"not ended within {LIMIT_S:g} s: {errors_of(folder)}")
        time.sleep(0.01)


def errors_of(folder: Path) -> str:
    return (folder / "errors.txt").read_text(errors="replace")[-2000:]


def outcome(command: Command, folder: Path) -> dict[str, Any]:
    """Return what a command left, without times."""
    found: dict[str, Any] = {}
    if command.output:
        text = (folder / "output.txt").read_text()
        found["output"] = plain(json.loads(text)) if text.startswith(("{", "[")) else text
    for pattern in command.files:
        for path in sorted(folder.glob(pattern)):
            found[str(path.relative_to(folder))] = content_of(path)
    missing = [p for p in command.files if not list(folder.glob(p))]
    if missing:
        raise DifferenceError(f"there is no {', '.join(missing)}: {errors_of(folder)}")
    return json.loads(json.dumps(found).replace(str(folder), "OUT"))


def content_of(path: Path) -> Any:
    if path.suffix == ".safetensors":
        arrays, header = read_tensors(path, "file")
        return [plain(header), {n: a.tobytes().hex() for n, a in arrays.items()}]
    if path.suffix == ".json":
        return plain(json.loads(path.read_text()))
    if path.suffix == ".yaml":
        return yaml.safe_load(path.read_text())
    if path.name == "progress.csv":
        return [line.rpartition(",")[0] for line in path.read_text().splitlines()]
    return path.read_bytes().hex()


def plain(value: Any) -> Any:
    """Return JSON without times and trials' numbers; trials in an order of their own."""
    if isinstance(value, dict):
        return {
            name: sorted(map(json.dumps, map(plain, item))) if name == "trials" else plain(item)
            for name, item in value.items()
            if name not in _TIMES
        }
    return [plain(item) for item in value] if isinstance(value, list) else value


@contextmanager
def folder_of(name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        folder = Path(scratch) / re.sub(r"\W+", "-", name)
        folder.mkdir()
        yield folder


def undisturbed(name: str) -> tuple[dict[str, Any], float]:
    """Run a command to its end; return what it left and how long it took."""
    use_one_thread()
    command = COMMANDS[name]
    with folder_of(name) as folder:
        begun = time.monotonic()
        code = end(begin(command, folder), folder)
        if code != 0:
            raise DifferenceError(f"{name} ends with {code}: {errors_of(folder)}")
        return outcome(command, folder), time.monotonic() - begun


def disturbed(
    name: str, kills: int, rng: random.Random, number: signal.Signals = signal.SIGKILL
) -> tuple[Counter[str], float]:
    """Stop a command so many times, and compare what it leaves whenever it ends.

    Args:
        name: Of the command.
        kills: How often.
        rng: Draws the moments, and whether a command's workers are hit with it.
        number: The signal.

    Returns:
        How many times it was ``hit`` and ``ended``, and how long it takes undisturbed, in s.

    Raises:
        DifferenceError: If an end is another than that of a run that nobody stopped.
    """
    command, count = COMMANDS[name], Counter[str]()
    wanted, length = undisturbed(name)
    for _ in range(kills + MOST_ROUNDS):
        if count["hit"] >= kills:
            break
        with folder_of(name) as folder:
            while True:
                (folder / "begun").unlink(missing_ok=True)
                child = begin(command, folder)
                if count["hit"] < kills:
                    strike(child, folder, rng.uniform(0, length), number, rng.random() < 0.5)
                code = end(child, folder)
                if code == 0:
                    break
                count["hit"] += 1
                expected = -signal.SIGKILL if number == signal.SIGKILL else cli.INTERRUPTED
                errors = errors_of(folder)
                if code != expected or "Traceback" in errors:
                    raise DifferenceError(f"{name} ends with {code}: {errors}")
                if number == signal.SIGINT:
                    # Remarks and the files that were written may stand around it.
                    lines = errors.splitlines()
                    if not any(line.startswith("edge-gym: stopped") for line in lines):
                        raise DifferenceError(f"{name} is stopped and says: {errors!r}")
            count["ended"] += 1
            found = outcome(command, folder)
            if found != wanted:
                raise DifferenceError(f"{name}: {difference(wanted, found)}")
            count["left over"] += len(list(folder.rglob(".*.partial*")))
    return count, length


def in_pairs(name: str) -> list[str]:
    """Run a command twice at the same time in one folder.

    Returns:
        What the two say last, where one is refused.

    Raises:
        DifferenceError: If what they leave is not what one leaves, or none of them ends well.
    """
    wanted, _ = undisturbed(name)
    command = COMMANDS[name]
    with folder_of(name) as folder:
        # By a child, for it changes what its process imports; not by two at a time.
        if (child := os.fork()) == 0:
            try:
                command.prepare(folder)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        children = []
        for part in PARTS:
            (folder / part).mkdir()
            children.append(begin(command, folder, folder / part))
        codes = [end(child, folder / part) for child, part in zip(children, PARTS, strict=True)]
        said = [errors_of(folder / part) for part in PARTS]
        if 0 not in codes or any("Traceback" in text for text in said) or set(codes) - {0, 2}:
            raise DifferenceError(f"{name} ends with {codes}: {said}")
        for part, code in zip(PARTS, codes, strict=True):
            if code == 0:
                shutil.copy(folder / part / "output.txt", folder)
        found = outcome(command, folder)
        if name == "search":
            # Two share the trials: what is proposed depends on who is ahead, and who ends first
            # has not seen the last one.
            outputs = [json.loads((folder / part / "output.txt").read_text()) for part in PARTS]
            found = {"trials": max(len(output["trials"]) for output in outputs)}
            wanted = {"trials": len(wanted["output"]["trials"])}
        if found != wanted:
            raise DifferenceError(f"{name}: {difference(wanted, found)}")
        return [
            text.strip().splitlines()[-1] for text, code in zip(said, codes, strict=True) if code
        ]


def strike(
    child: int, folder: Path, after_s: float, number: signal.Signals, with_workers: bool
) -> None:
    """Send a signal some time after a command has begun, unless it has ended by then."""
    while not (folder / "begun").exists():
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.002)
    deadline = time.monotonic() + after_s
    while (left := deadline - time.monotonic()) > 0:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(min(left, 0.02))
    if with_workers:
        os.killpg(child, number)
    else:
        os.kill(child, number)


def difference(wanted: Any, found: Any, where: str = "") -> str:
    """Say where two outcomes differ first."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for name in {**wanted, **found}:
            if wanted.get(name) != found.get(name):
                return difference(wanted.get(name), found.get(name), f"{where}/{name}")
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for i, (a, b) in enumerate(zip(wanted, found, strict=True)):
            if a != b:
                return difference(a, b, f"{where}[{i}]")
    return f"{where}: {str(wanted)[:300]} undisturbed, {str(found)[:300]} here"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="shared among the commands")
    parser.add_argument("--interrupts", action="store_true", help="Ctrl-C in place of a kill")
    parser.add_argument("--pairs", action="store_true", help="two at a time in one folder instead")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", nargs="*", default=list(COMMANDS), choices=list(COMMANDS))
    options = parser.parse_args()
    number = signal.SIGINT if options.interrupts else signal.SIGKILL
    begun, total, failed = time.monotonic(), Counter[str](), 0
    print(f"seed {options.seed}, {number.name}")
    if options.pairs:
        for name in options.only:
            print(f"{name:24} twice at a time: ends alike; {in_pairs(name) or 'none is refused'}")
        return 0
    for i, name in enumerate(options.only):
        share = (options.kills * (i + 1)) // len(options.only)
        share -= (options.kills * i) // len(options.only)
        rng = random.Random(f"{options.seed} {name}")
        try:
            count, length = disturbed(name, share, rng, number)
        except DifferenceError as error:
            failed += 1
            print(f"{name:24} FAILED: {error}", flush=True)
            continue
        total += count
        print(
            f"{name:24} {count['hit']:3} stopped, {count['ended']:3} ends alike, "
            f"{count['left over']} scratch files left, {length:.1f} s undisturbed",
            flush=True,
        )
    print(
        f"{total['hit']} stopped, {total['ended']} ends alike, {failed} commands failed, "
        f"{time.monotonic() - begun:.0f} s"
    )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
