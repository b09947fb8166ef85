"""Chunks of episodes: wherever they run, whatever is lost, the numbers are the same."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from paths import ROOT
from sweeps import NAME, RULE, assert_same, chunks

from edge_gym.evaluation.episode_store import DamagedEpisodesWarning
from edge_gym.evaluation.policies import resolve
from edge_gym.evaluation.rollouts import Episodes, make_lanes, run_episodes
from edge_gym.evaluation.sweep import RUN_HERE, Chunk, run_chunk, sweep
from edge_gym.runtime.workers import in_processes

AGENT = "ppo"


def directly(chunk: Chunk) -> Episodes:
    env = make_lanes(NAME, 3, json.loads(chunk.overrides))
    return run_episodes(env, resolve(chunk.policy, env).policy, chunk.seeds)


class Counting:
    """Runs chunks here and remembers which; stops after so many."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.ran: list[Chunk] = []
        self.stop_after = stop_after

    def __call__(self, wanted: Sequence[Chunk]) -> Iterator[tuple[Chunk, Episodes]]:
        for chunk, episodes in RUN_HERE(wanted):
            if len(self.ran) == self.stop_after:
                raise KeyboardInterrupt
            self.ran.append(chunk)
            yield chunk, episodes


def test_chunks_cover_the_seeds_once() -> None:
    parts = chunks(n=5)
    assert [list(part.seeds) for part in parts] == [
        [900_000, 900_001],
        [900_002, 900_003],
        [900_004],
    ]
    assert len(set(parts)) == 3


@pytest.mark.parametrize("policy", [RULE, AGENT, "random"])
def test_a_chunk_is_what_its_episodes_are(policy: str) -> None:
    for chunk in chunks(policy, 3):
        assert_same(run_chunk(chunk), directly(chunk))


def test_what_was_stored_is_not_run_again(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    run = Counting(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        sweep(chunks(), tmp_path, run, lambda *what: told.append(what))
    assert told == [(NAME, 2, 5), (NAME, 4, 5)]
    run = Counting()
    found = sweep(chunks(), tmp_path, run, lambda *what: told.append(what))
    assert run.ran == chunks()[2:]
    assert told[2:] == [(NAME, 2, 5), (NAME, 4, 5), (NAME, 5, 5)]
    assert list(found) == chunks()
    for chunk, episodes in found.items():
        assert_same(episodes, directly(chunk))
    run = Counting()
    sweep([*chunks(), *chunks(AGENT, 2)], tmp_path, run)
    assert [chunk.policy for chunk in run.ran] == [AGENT]


def test_only_the_same_is_taken_from_the_disk(tmp_path: Path) -> None:
    found = sweep(chunks(n=2), tmp_path)
    (path,) = tmp_path.rglob("*.safetensors")
    for others in (chunks("channel-aware:max_snr_db=7", 2), chunks(n=2, mean_snr_db=4.0)):
        run = Counting()
        sweep(others, tmp_path, run)
        assert run.ran == others
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3
    # Half a file is run again.
    path.write_bytes(path.read_bytes()[:100])
    run = Counting()
    with pytest.warns(
        DamagedEpisodesWarning, match=f"{re.escape(str(path))} is damaged .* It is run again"
    ):
        again = sweep(chunks(n=2), tmp_path, run)
    assert run.ran == chunks(n=2)
    assert_same(*(part[chunks(n=2)[0]] for part in (again, found)))


def test_mistakes_are_found_before_anything_runs(tmp_path: Path) -> None:
    run = Counting()
    with pytest.raises(ValueError, match="unknown policy 'nobody'"):
        sweep([*chunks(), *chunks("nobody")], tmp_path, run)
    with pytest.raises(ValueError, match="budget"):
        sweep([*chunks(), *chunks(budget=-1)], tmp_path, run)
    assert not run.ran
    assert not list(tmp_path.rglob("*.safetensors"))


def die_once(chunk: Chunk) -> Episodes:
    """Kill the process at the second chunk, the first time that it is run."""
    mark = Path(os.environ["EDGE_GYM_TEST_MARK"])
    if chunk.first == 900_002 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.environ["EDGE_GYM_THREADS"] == "1"
    return run_chunk(chunk)


@pytest.mark.timeout(300)
def test_a_killed_process_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_GYM_TEST_MARK", str(tmp_path / "mark"))
    monkeypatch.setenv("EDGE_GYM_THREADS", "2")
    found = sweep(chunks(), tmp_path / "parts", in_processes(2, die_once))
    assert (tmp_path / "mark").exists()
    assert os.environ["EDGE_GYM_THREADS"] == "2"
    for chunk, episodes in found.items():
        assert_same(episodes, directly(chunk))


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.timeout(300)
def test_processes_end_with_the_one_that_began_them(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from edge_gym.evaluation.sweep import sweep\n"
        "from edge_gym.runtime.workers import in_processes\n"
        "from sweeps import *\n"
        "if __name__ == '__main__':\n"
        f"    sweep(chunks(), Path({str(tmp_path / 'parts')!r}), in_processes(2, tell_and_wait))\n"
    )
    root = str(ROOT)
    mark = tmp_path / "mark"
    mark.mkdir()
    begun = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=root,
        env={
            **os.environ,
            "EDGE_GYM_TEST_MARK": str(mark),
            "PYTHONPATH": f"{root}{os.pathsep}{root}/tests",
        },
    )
    try:
        deadline = time.monotonic() + 120
        while len(list(mark.iterdir())) < 2:
            assert begun.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        begun.kill()
        begun.wait()
    workers = [int(path.name) for path in mark.iterdir()]
    deadline = time.monotonic() + 30
    while not all(map(gone, workers)):
        assert time.monotonic() < deadline, "processes were left behind"
        time.sleep(0.1)


def fail(chunk: Chunk) -> Episodes:
    raise ValueError(f"no luck with {chunk.first}")


@pytest.mark.timeout(300)
def test_an_error_in_a_process_is_the_callers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no luck with 90000"):
        sweep(chunks(), tmp_path, in_processes(2, fail))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("everyone", [True, False], ids=["terminal", "kill"])
def test_ctrl_c_ends_processes_without_a_word(tmp_path: Path, everyone: bool) -> None:
    """Whether all get the signal, as from a terminal, or the one that began the others does."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from edge_gym.evaluation.sweep import sweep\n"
        "from edge_gym.runtime.workers import in_processes\n"
        "from sweeps import *\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        f"        sweep(chunks(), Path({str(tmp_path / 'parts')!r}), in_processes(2, wait))\n"
        "    except KeyboardInterrupt:\n"
        "        sys.exit('stopped')\n"
    )
    root = str(ROOT)
    mark = tmp_path / "mark"
    mark.mkdir()
    begun = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=root,
        env={
            **os.environ,
            "EDGE_GYM_TEST_MARK": str(mark),
            "PYTHONPATH": f"{root}{os.pathsep}{root}/tests",
        },
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not list(mark.iterdir()):  # the other one may still be on its way
            assert begun.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (os.killpg if everyone else os.kill)(begun.pid, signal.SIGINT)
        _, said = begun.communicate(timeout=60)
    finally:
        begun.kill()
        begun.wait()
    assert said == "stopped\n"
    deadline = time.monotonic() + 30
    while not all(gone(int(path.name)) for path in mark.iterdir()):
        assert time.monotonic() < deadline, "processes were left behind"
        time.sleep(0.1)
