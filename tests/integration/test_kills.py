"""A few kills of every long command; ``python tests/kills.py`` does more of them."""

from __future__ import annotations

import random
import signal
import subprocess
import sys

import pytest
from paths import TESTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(sys.platform == "win32", reason="forks"),
]


@pytest.mark.parametrize("how", ["", "--interrupts", "--pairs"])
def test_stopped_commands_end_as_others(how: str) -> None:
    seed = random.randrange(10**6)
    options = ["--kills", "8", "--seed", str(seed), *how.split()]
    # In a process of its own: children of one with threads could not go on.
    done = subprocess.run(
        [sys.executable, str(TESTS / "kills.py"), *options],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_a_difference_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared can differ: the harness says so, and where."""
    import kills

    assert kills.plain({"a": [{"seconds": 3, "b": 1}]}) == {"a": [{"b": 1}]}
    assert kills.difference({"a": [1, 2]}, {"a": [1, 3]}) == "/a[1]: 2 undisturbed, 3 here"
    outcomes = iter([({"a": 1}, 0.1)])
    monkeypatch.setattr(kills, "undisturbed", lambda name: next(outcomes))
    monkeypatch.setattr(kills, "begin", lambda command, folder: 0)
    monkeypatch.setattr(kills, "end", lambda child, folder: 0)
    monkeypatch.setattr(kills, "strike", lambda *_: None)
    monkeypatch.setattr(kills, "outcome", lambda command, folder: {"a": 2})
    with pytest.raises(kills.DifferenceError, match="/a: 1 undisturbed, 2 here"):
        kills.disturbed("compare", 1, random.Random(0), signal.SIGKILL)
