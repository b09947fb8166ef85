"""What pictures of results have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

import edge_gym
from edge_gym.reports import charts


@pytest.mark.parametrize("width", [3.5, 4.4, 13.0])
def test_a_title_stays_within_its_picture(width: float) -> None:
    figure, _ = charts.new_figure(width, 4)
    text = "RRM Fig. 9: 1,000 episodes each, the same for all policies; 95 % intervals"
    charts.write_title(figure, text)
    figure.draw_without_rendering()
    title = figure._suptitle
    box = title.get_window_extent(figure.canvas.get_renderer())
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert " ".join(title.get_text().split()) == text
    assert ("\n" in title.get_text()) == (width < 10)


def test_every_picture_s_title_is_written_so() -> None:
    sources = Path(edge_gym.__file__).parent.rglob("*.py")
    users = {path.name for path in sources if "suptitle(" in path.read_text(encoding="utf-8")}
    assert users == {"charts.py"}
