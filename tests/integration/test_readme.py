"""What the README shows runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from paths import ROOT

README = (ROOT / "README.md").read_text("utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
# Not for the reader's million steps.
SHORTER = {"learn(1_000_000)": "learn(6_400)", "episodes=200": "episodes=20"}


@pytest.mark.slow
@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippets_run(snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for long, short in SHORTER.items():
        snippet = snippet.replace(long, short)
    exec(compile(snippet, "README.md", "exec"), {})


def test_every_shortcut_is_of_use() -> None:
    assert len(SNIPPETS) >= 4
    assert all(any(long in snippet for snippet in SNIPPETS) for long in SHORTER)


def test_links_lead_somewhere() -> None:
    root = ROOT
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert links
    assert all((root / link).exists() for link in links)
