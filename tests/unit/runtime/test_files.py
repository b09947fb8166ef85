"""What is written and read: whole files, whoever else writes them, and damage that is found."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from edge_gym.data import DataError
from edge_gym.data import files as datasets
from edge_gym.evaluation import episode_store as stored
from edge_gym.evaluation.rollouts import Episodes
from edge_gym.runtime import files, tensors
from edge_gym.runtime.files import (
    FolderInUseError,
    replacing,
    scratch_folder,
    working_in,
    write_text,
)
from edge_gym.runtime.messages import LONGEST, shown
from edge_gym.runtime.tensors import DamagedFileError, read_tensors, write_tensors
from edge_gym.runtime.yaml import DEEPEST, MOST_CHARACTERS, dump_yaml, load_yaml

# Writing


def test_what_is_flushed_was_opened_for_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses to flush what was opened for reading; folders it does not open at all."""
    fcntl = pytest.importorskip("fcntl")
    flushed: list[str] = []

    def as_windows(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            flushed.append("folder")
        elif fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        else:
            flushed.append("file")

    monkeypatch.setattr(os, "fsync", as_windows)
    write_text(tmp_path / "a.txt", "text")
    assert flushed == ["file", "folder"]
    real = os.open

    def no_folders(path: Any, *args: Any, **kwargs: Any) -> int:
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", no_folders)
    write_text(tmp_path / "a.txt", "other")
    assert (tmp_path / "a.txt").read_text() == "other"


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """The last one's stands, whole, and nothing else is left."""
    path, texts = tmp_path / "a.txt", [str(n) * 100_000 for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            list(pool.map(lambda text: write_text(path, text), texts))
            assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_of_another_is_no_part_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replacing(path) as theirs:
        theirs.write_text("half of")
        with replacing(path) as ours:
            assert ours != theirs
            ours.write_text("ours")
        assert path.read_text() == "ours"
        theirs.write_text("theirs, whole")
    assert path.read_text() == "theirs, whole"


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from edge_gym.runtime.files import replacing, scratch_folder
with replacing(Path({str(tmp_path / "a.txt")!r})) as scratch:
    scratch.write_text("half")
    with scratch_folder(Path({str(tmp_path)!r}), "download") as folder:
        (folder / "part").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    left = {path.name.split(".")[1] for path in tmp_path.iterdir()}
    assert left == {"a", "download"}
    running = tmp_path / f".a.{files._HOST}-{os.getpid()}-00000000.partial.txt"
    elsewhere = tmp_path / ".a.00000000-1-00000000.partial.txt"
    ancient = tmp_path / ".a.00000000-2-00000000.partial.txt"
    others = tmp_path / ".another.partial.txt"
    for path in (running, elsewhere, ancient, others):
        path.touch()
    os.utime(ancient, (0, 0))
    write_text(tmp_path / "a.txt", "whole")
    with scratch_folder(tmp_path, "download") as folder:
        assert not list(folder.iterdir())
    assert set(tmp_path.iterdir()) == {running, elsewhere, others, tmp_path / "a.txt"}


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    for number in (errno.ENOSPC, errno.EDQUOT):

        def full(*_: Any, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"cannot write .*a\.txt, the disk is full \(.*as it was"):
            write_text(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_really_full_disk(tmp_path: Path) -> None:
    def write() -> None:
        with replacing(tmp_path / "a.txt") as scratch:
            scratch.symlink_to("/dev/full")
            scratch.write_bytes(bytes(100_000))

    with pytest.raises(OSError, match=r"cannot write .*a\.txt, the disk is full"):
        write()
    assert not list(tmp_path.iterdir())


def test_one_process_works_in_a_folder(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from edge_gym.runtime.files import working_in
with working_in(Path({str(tmp_path)!r})):
    Path({str(tmp_path / "begun")!r}).touch()
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_for((tmp_path / "begun").exists, process)
        with pytest.raises(FolderInUseError, match=f"another process works in {tmp_path}: wait"):  # noqa: SIM117
            with working_in(tmp_path, wait_s=0.2):
                pass
    finally:
        process.kill()
        process.wait()
    # The lock is gone with its process.
    for _ in range(2):
        with working_in(tmp_path, wait_s=0.2):
            pass


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, "it ended before it was expected to"
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Reading


def episodes() -> Episodes:
    rng = np.random.default_rng(0)
    return Episodes(
        np.arange(2),
        rng.normal(size=2),
        np.array([3, 4]),
        {"accuracy": rng.random(2), "seconds": np.array([1.0, np.nan])},
        {"loss": rng.random((2, 4))},
    )


def same(ours: Episodes, theirs: Episodes) -> bool:
    """Return whether every number is the same, NaN included."""
    flat = [
        [part.seeds, part.returns, part.lengths, *part.infos.values(), *part.curves.values()]
        for part in (ours, theirs)
    ]
    names = [[*part.infos, *part.curves] for part in (ours, theirs)]
    return names[0] == names[1] and all(map(np.array_equal, *flat, [True] * len(flat[0])))


def flipped(content: bytes, every: int = 1) -> Iterator[bytes]:
    """Yield copies with one bit turned over, another for each copy."""
    for bit in range(0, 8 * len(content), every):
        copy = bytearray(content)
        copy[bit // 8] ^= 1 << bit % 8
        yield bytes(copy)


@pytest.mark.filterwarnings("ignore::edge_gym.evaluation.episode_store.DamagedEpisodesWarning")
def test_every_bit_of_stored_episodes_counts(tmp_path: Path) -> None:
    """Whichever bit is turned over, the episodes are as they were or count as not stored."""
    path, wanted = tmp_path / "part.safetensors", episodes()
    stored.save_episodes(path, "key", wanted)
    found = stored.load_episodes(path, "key")
    assert found is not None
    assert same(found, wanted)
    assert stored.load_episodes(path, "another") is None
    content, lost = path.read_bytes(), 0
    for damaged in flipped(content):
        path.write_bytes(damaged)
        found = stored.load_episodes(path, "key")
        lost += found is None
        assert found is None or same(found, wanted)
    assert lost > 0.99 * 8 * len(content)
    for cut in (0, 4, 8, 100, len(content) - 1):
        path.write_bytes(content[:cut])
        assert stored.load_episodes(path, "key") is None


def test_damage_is_said_and_what_is_of_another_kind_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "part.safetensors"
    assert stored.load_episodes(path, "key") is None  # without a warning
    np.savez_compressed(path.with_suffix(".npz"), key=np.array("key"))
    path.with_suffix(".npz").rename(path)
    with pytest.warns(
        stored.DamagedEpisodesWarning, match=r"part\.safetensors is damaged .*run again"
    ):
        assert stored.load_episodes(path, "key") is None
    write_tensors(path, {"returns": np.zeros(2)}, {"key": "key"})
    assert stored.load_episodes(path, "key") is None
    write_tensors(path, {"returns": np.zeros(2)}, ["key"])
    assert stored.load_episodes(path, "key") is None


def tensor_file(header: Any, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return len(text).to_bytes(8, "little") + text + data


def one_array(**changes: Any) -> bytes:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}
    return tensor_file({"a": entry}, b"abcdefgh"[: 8 if entry["data_offsets"] == [4, 8] else 4])


@pytest.mark.parametrize(
    "content",
    [
        tensor_file({"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, b"x"),
        tensor_file({"a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 2**64]}}),
        one_array(shape=[2**40, 2**40]),
        one_array(shape=[-1, -1]),
        one_array(shape=["1"]),
        one_array(data_offsets=[4, 8]),
        one_array(data_offsets=[0]),
        one_array(data_offsets=[[], {}]),
        one_array(dtype=["F32"]),
        tensor_file({"a": 3}),
        tensor_file([]),
        tensor_file(b"[" * 100_000),
        tensor_file(b'{"a":' * 100_000),
        tensor_file({"__metadata__": {"edge_gym": "[" * 100_000}}),
        tensor_file({"__metadata__": {"edge_gym": 3}}),
        tensor_file({"__metadata__": {"edge_gym": "{}"}}),
        tensor_file({"__metadata__": 3}),
        b"\xff" * 16,
        b"\xff\xff\xff\x7f\0\0\0\0",
    ],
)
def test_bad_files_are_one_kind_of_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"a\.safetensors is"):
        read_tensors(path, "file")


def test_tensors_come_back(tmp_path: Path) -> None:
    arrays = {
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(2.5),
        "flags": np.array([True, False, True]),
        "bytes": np.arange(5, dtype=np.uint8),
        "transposed": np.arange(6, dtype=np.int64).reshape(2, 3).T,
    }
    header = {"text": "ä", "number": 1e-300, "nothing": None, "list": [1, [2]]}
    write_tensors(tmp_path / "a", arrays, header)
    found, said = read_tensors(tmp_path / "a", "file")
    assert said == header
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert (found[name] == array).all()
        found[name].flat = 0  # can be written to


def test_memory_is_bounded_by_the_file(tmp_path: Path) -> None:
    """What a file says of its size is checked before anything of that size is made."""
    path = tmp_path / "train-images-idx3-ubyte.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(5):
            file.write(bytes(2**24))
    assert path.stat().st_size < 2**20
    with pytest.raises(DataError, match=r"holds more than 67,108,864 bytes"):
        datasets.read_verified(path, "")
    for content in (
        b"\0\0\x08",
        b"\0\0\x08\xff" + bytes(4 * 255),
        b"\0\0\x08\x03" + b"\xff" * 12,
        b"\0\0\x08\x03" + b"\xff" * 5,
        b"\0\0\x08\x01\0\0\0\x03ab",
    ):
        with pytest.raises(ValueError, match="not an IDX file"):
            datasets.parse_idx(content)
    assert datasets.parse_idx(b"\0\0\x08\x01\0\0\0\x02ab").tolist() == [97, 98]


def test_no_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_GYM_DATA", "~nobody-of-this-name/x")
    with pytest.raises(DataError, match=r"EDGE_GYM_DATA is '~nob.* no such home folder: set"):
        datasets.data_dir()
    # As of a user whom the system does not know.
    monkeypatch.delenv("EDGE_GYM_DATA")
    for unknown in ("~/.cache/edge_gym", "cache"):
        monkeypatch.setattr(datasets.platformdirs, "user_cache_dir", lambda *_, u=unknown: u)
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
        with pytest.raises(DataError, match="There is no such home folder: set EDGE_GYM_DATA"):
            datasets.data_dir()


# YAML


def test_references_are_refused_at_once() -> None:
    """Eight levels of nine references each are 43 million values in a few lines."""
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for level, name in enumerate("bcdefghi"):
        bomb += f"{name}: &{name} [{', '.join(['*' + 'abcdefgh'[level]] * 9)}]\n"
    begin = time.perf_counter()
    for text in (bomb, "&a [1]", "{a: &x 1, b: *x}", "*a", "- &a 1\n- *a"):
        with pytest.raises(ValueError, match="references"):
            load_yaml(text)
    assert time.perf_counter() - begin < 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 2000, f"more than {DEEPEST} deep"),
        ("{a: " * 2000, f"more than {DEEPEST} deep"),
        ("- " * 2000, f"more than {DEEPEST} deep"),
        ("x" * (MOST_CHARACTERS + 1), "more than 4,000,000"),
        ("[1", "not valid YAML"),
        ("9" * 5000, "digits"),
        ("2020-13-45", "month"),
        ("!!python/object/apply:os.system [ls]", "not valid YAML"),
        ("\0", "not valid YAML"),
    ],
)
def test_yaml_is_bounded(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_yaml(text)


def test_yaml_that_is_written_is_read() -> None:
    shared = [1.5, "text", None, True]
    value: Any = {"z": shared, "a": {"again": shared}, "number": 5e6}
    assert yaml.safe_dump(value).count("&") == 1
    assert load_yaml(dump_yaml(value)) == value
    assert list(load_yaml(dump_yaml(value))) == ["z", "a", "number"]
    deep: Any = 1
    for _ in range(DEEPEST - 1):
        deep = [deep]
    assert load_yaml(dump_yaml(deep)) == deep


# Messages


def test_messages_are_short_and_quickly_made() -> None:
    bomb: Any = ["x"] * 9
    for _ in range(12):
        bomb = [bomb] * 9
    begin = time.perf_counter()
    for value in (bomb, "x" * 10**7, 10**4000, dict.fromkeys(range(1000), bomb), np.zeros(10**6)):
        assert len(shown(value)) <= LONGEST
    assert time.perf_counter() - begin < 1
    for value in (3, -2.5, "name", (3, 5), [1, [2]], None, True, {"a": 1}, np.float64(2.0)):
        assert shown(value) == repr(value)


def test_bounds_hold_where_values_come_in(tmp_path: Path) -> None:
    from edge_gym.agents import load_recipe
    from edge_gym.evaluation.rollouts import make_lanes

    bomb: Any = ["x"] * 9
    for _ in range(12):
        bomb = [bomb] * 9
    for field in ("budget", "learner", "mean_snr_db", "track_test"):
        with pytest.raises(ValueError, match=field) as caught:
            make_lanes("Retransmission-v0", 1, {field: bomb})
        assert len(str(caught.value)) < 600
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("a: &a [1]\nb: *a\n")
    with pytest.raises(ValueError, match=rf"{re.escape(str(recipe))}: references"):
        load_recipe(recipe)
    recipe.write_text("[" * 5000)
    with pytest.raises(ValueError, match=rf"{re.escape(str(recipe))}: it is nested"):
        load_recipe(recipe)


def test_tensors_hold_what_safetensors_writes(tmp_path: Path) -> None:
    """Our reader agrees with the library's on its own files."""
    from safetensors.numpy import load_file

    write_tensors(tmp_path / "a", {"x": np.arange(7.0), "y": np.ones((2, 2), np.int8)}, {})
    theirs, (ours, _) = load_file(tmp_path / "a"), tensors.read_tensors(tmp_path / "a", "file")
    assert all((theirs[name] == ours[name]).all() for name in theirs)
