"""registry: names, lazy items, plug-ins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_gym.registry import Registry, load, place_of


def test_items_are_found_by_name_and_imported_when_asked_for() -> None:
    registry: Registry[object] = Registry("thing")
    registry.register("one", Path)
    registry.register("two", "decimal:Decimal")
    registry.register("none", "decimal:Nothing")
    assert registry.names() == ["one", "two", "none"]
    assert registry.find("one") is Path
    assert registry.find("two") is load("decimal:Decimal")
    assert "two" in registry
    assert len(registry) == 3
    with pytest.raises(ValueError, match="decimal has no 'Nothing'"):
        registry.find("none")
    with pytest.raises(ValueError, match=r"unknown thing 'twoo', did you mean two.*known are one"):
        registry.find("twoo")
    registry.unregister("one")
    registry.unregister("one")
    assert "one" not in registry


def test_a_name_stands_for_one_thing() -> None:
    registry: Registry[object] = Registry("thing")
    registry.register("one", Path)
    registry.register("one", Path)
    registry.register("one", place_of(Path))
    registry.register("numbers", (1, 2))
    registry.register("numbers", (1, 2))
    registry.register("arrays", (np.arange(3), np.arange(3)))
    with pytest.raises(ValueError, match="there is a thing 'arrays' already"):
        registry.register("arrays", (np.arange(3), np.arange(3)))
    with pytest.raises(ValueError, match="there is a thing 'one' already"):
        registry.register("one", int)


@pytest.mark.parametrize("name", ["", "a b", "ä", "a:b", "a=b", 3])
def test_names_can_be_written_on_command_lines(name: str) -> None:
    with pytest.raises(ValueError, match="the name of a thing consists of"):
        Registry[object]("thing").register(name, 1)


@pytest.mark.parametrize("place", ["nothing", "a:b:c", "no_such_module:x", "json:", ":x"])
def test_places_that_are_none(place: str) -> None:
    with pytest.raises(ValueError, match=r"module|expected"):
        load(place)


PLUGIN = """
from edge_gym.physics.channel import NoFading, register_channel

def register():
    register_channel("mine", NoFading)
"""


def run_with_plugin(
    folder: Path, code: str, text: str = PLUGIN
) -> subprocess.CompletedProcess[str]:
    """Run code beside a package whose entry point is ``my_plugin:register``."""
    (folder / "my_plugin.py").write_text(text)
    info = folder / "my_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edge_gym.plugins]\nmine = my_plugin:register\n")
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=False
    )


def test_plugins_are_loaded_whoever_is_imported_first(tmp_path: Path) -> None:
    code = (
        "import {first}\n"
        "from edge_gym.physics.channel import CHANNELS\n"
        "print(CHANNELS.find('mine').__name__)"
    )
    for first in ("edge_gym", "my_plugin"):
        (tmp_path / first).mkdir()
        done = run_with_plugin(tmp_path / first, code.format(first=first))
        assert done.stdout.strip() == "NoFading", done.stderr
        assert "Warning" not in done.stderr


def test_a_plugin_that_fails_is_told_and_left_out(tmp_path: Path) -> None:
    done = run_with_plugin(tmp_path, "import edge_gym; print('on')", "raise OSError('no luck')")
    assert done.stdout.strip() == "on"
    assert "the plug-in 'mine' (my_plugin:register) was left out: OSError: no luck" in done.stderr
