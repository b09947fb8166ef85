"""The leaderboard's page."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from edge_gym.evaluation.leaderboard import Leaderboard, leaderboard, rank
from edge_gym.evaluation.rollouts import Episodes
from edge_gym.reports.html import number, overview, strips, write_page

NAME = "edge_gym/Retransmission-v0"
VOID = {"meta", "line", "circle", "path", "img"}


class Balanced(HTMLParser):
    """Checks that what is opened is closed, and keeps texts and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.addresses: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [values[name] or "" for name in ("href", "src") if name in values]
        if "id" in values:
            self.anchors.add(f"#{values['id']}")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> Balanced:
    page = Balanced()
    page.feed(path.read_text(encoding="utf-8"))
    assert not page.open
    return page


@pytest.fixture(scope="module")
def board() -> Leaderboard:
    rng = np.random.default_rng(0)
    seeds = range(900_000, 900_050)

    def played(mean: float) -> Episodes:
        returns = mean + rng.normal(size=50) / 20
        return Episodes(np.array(seeds), returns, np.full(50, 3), {}, {})

    means = {"random": 0.0, "channel-aware": 1.0, "support-vector-aware": 0.6, "ppo": 1.2}
    return rank(
        {(NAME, policy): [played(mean)] for policy, mean in means.items()},
        seeds,
        {"edge_gym/Retransmission-Paper-v0": "no <data>"},
    )


def test_strips_are_to_scale() -> None:
    means = [(1.0, (0.5, 2.0)), (-1.0, (-2.0, 0.0)), (-500.0, (-600.0, -400.0))]
    found = strips(means, ["a"] * 3, width=200)
    first, second, far = found
    # From -2 at 10 px to 2 at 190 px.
    assert (first.zero, first.low, first.point, first.high) == (100, 122.5, 145, 190)
    assert (second.low, second.point, second.high) == (10, 55, 100)
    assert (far.point, far.beyond) == (None, "left")
    assert first.beyond == ""
    (alone,) = strips([(0.0, (0.0, 0.0))], ["a"])
    assert alone.point == alone.zero
    assert strips([], []) == []


def test_numbers() -> None:
    assert [number(value) for value in (None, 0.123456, -2.0)] == ["", "0.1235", "−2.000"]
    assert [number(value, True) for value in (0.0123456, -2.0)] == ["+0.0123", "−2.00"]


def test_the_page(board: Leaderboard, tmp_path: Path) -> None:
    gif = tmp_path / "film.gif"
    gif.write_bytes(b"GIF89a...")
    write_page(board, tmp_path / "page.html", {NAME: ("ppo", gif)})
    page = read(tmp_path / "page.html")
    text = " ".join(page.text.split())
    for part in ("edge_gym leaderboard", "50 paired episodes", "support-vector-aware", "no <data>"):
        assert part in text
    # Nothing is fetched.
    assert all(re.match(r"#|data:image/gif;base64,", address) for address in page.addresses)
    assert {address for address in page.addresses if address[0] == "#"} <= page.anchors
    film = next(address for address in page.addresses if address[0] != "#")
    assert base64.b64decode(film.partition(",")[2]) == gif.read_bytes()
    ((name, row, mean, strip),) = overview(board)
    assert (name, row.policy) == ("Retransmission-v0", "ppo")
    assert mean == pytest.approx(0.2, abs=0.05)
    assert strip.low > strip.zero


def test_a_rule_that_cannot_train_says_so_beside_its_score(tmp_path: Path) -> None:
    name, n = "edge_gym/TaskAllocation-v0", 50
    means = {"random-shares": 0.76, "ha-asyn": 0.77, "hu-sync": 0.0}
    rng = np.random.default_rng(0)
    seeds = range(900_000, 900_000 + n)
    board = rank(
        {
            (name, spec): [
                Episodes(np.array(seeds), mean + rng.normal(size=n) / 200, np.full(n, 12), {}, {})
            ]
            for spec, mean in means.items()
        },
        seeds,
        {},
    )
    assert list(board.notes) == [name]
    assert list(board.notes[name]) == ["hu-sync"]
    assert board.to_json()["notes"] == board.notes
    write_page(board, tmp_path / "page.html")
    text = " ".join(read(tmp_path / "page.html").text.split())
    assert "hu-sync : it hardly ever trains here" in text.replace("hu-sync:", "hu-sync :")
    assert "Score 0 is random-shares" in text


def test_the_board_draws_its_films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        leaderboard(["TaskAllocationStaleness-v0"], out=tmp_path, episodes=2)
    page = read(tmp_path / "leaderboard.html")
    assert "An episode" in page.text
    (gif,) = (tmp_path / "films").iterdir()
    assert gif.read_bytes()[:3] == b"GIF"
    # The film of an agent that was trained again is another one.
    monkeypatch.setattr("edge_gym.reports.leaderboard_page.identity", lambda chunk: "trained again")
    leaderboard(["TaskAllocationStaleness-v0"], out=tmp_path, episodes=2)
    assert len(list((tmp_path / "films").iterdir())) == 2
