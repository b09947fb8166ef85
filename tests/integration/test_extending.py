"""Every example of docs/extending runs as it is, in an interpreter of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

PAGES = sorted((ROOT / "docs/extending").glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    pytest.param(block, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, block in enumerate(BLOCK.findall(page.read_text("utf-8")))
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_examples_run_as_they_are(code: str, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(code, "utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:edge_gym", "example.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.strip(), "an example shows something"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_begin_with_a_title_and_hold_an_example(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text.startswith("# ")
    assert page.stem == "index" or BLOCK.search(text)
