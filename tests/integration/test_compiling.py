"""edge_gym.runtime.compiling: what was compiled is used again, wherever it lies, if it is whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

KERNEL = """
from edge_gym.runtime.compiling import compiled

@compiled(fastmath=True)
def twice(x):
    return 2 * x
"""
RUN = """
import sys
import warnings
warnings.simplefilter("error")
if "--read-only" in sys.argv:
    import tempfile
    from numba.core import caching
    def refuse(*args, **kwargs):
        raise OSError(30, "Read-only file system")
    tempfile.TemporaryFile = refuse
    caching.IndexDataCacheFile._open_for_write = refuse
from kernels import twice
assert twice(21) == 42
print(sum(twice.stats.cache_hits.values()), "loaded")
"""
LOADED, COMPILED = "1 loaded", "0 loaded"


def run(folder: Path, *arguments: str, cache: Path | None = None) -> tuple[str, list[str]]:
    """Call the kernel in a new process; return what it printed, and what it said besides."""
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    environment.update(
        {"HOME": "/nowhere", "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    )
    if cache is not None:
        environment["NUMBA_CACHE_DIR"] = str(cache)
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "kernels.py").write_text(KERNEL)
    return tmp_path


def test_it_is_compiled_once(folder: Path) -> None:
    assert run(folder) == (COMPILED, [])
    assert run(folder) == (LOADED, [])
    assert run(folder, cache=folder / "elsewhere") == (COMPILED, [])
    assert run(folder, cache=folder / "elsewhere") == (LOADED, [])


def test_what_lies_beside_the_code_is_used_where_nothing_can_be_written(folder: Path) -> None:
    run(folder)
    assert run(folder, "--read-only") == (LOADED, [])


def test_it_is_compiled_anew_where_nothing_can_be_written(folder: Path) -> None:
    printed, said = run(folder, "--read-only")
    assert printed == COMPILED
    assert len(said) == 1
    assert "set NUMBA_CACHE_DIR to a folder that can be written" in said[0]
    assert str(folder) in said[0]


def test_a_cache_folder_that_is_a_file_is_passed_over(folder: Path) -> None:
    (folder / "file").write_text("")
    assert run(folder, cache=folder / "file") == (COMPILED, [])
    assert run(folder, cache=folder / "file") == (LOADED, [])


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("left", [0.0, 0.3, 0.9])
def test_files_that_are_cut_off_are_made_anew(folder: Path, kind: str, left: float) -> None:
    run(folder)
    (file,) = folder.rglob(f"*.{kind}")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(left * len(whole))])
    assert run(folder, "--read-only")[0] == COMPILED
    assert run(folder) == (COMPILED, [])
    assert run(folder) == (LOADED, [])


def test_files_of_something_else_are_made_anew(folder: Path) -> None:
    run(folder)
    for file in folder.rglob("*.nb?"):
        file.write_bytes(b"not what it was")
    assert run(folder) == (COMPILED, [])
    assert run(folder) == (LOADED, [])


def test_everything_that_is_compiled_is_compiled_so() -> None:
    for file in (ROOT / "edge_gym").rglob("*.py"):
        if file.name != "compiling.py":
            assert "numba.njit" not in file.read_text(), file
