"""Random configurations and actions, few of every id here; ``fuzz.py`` runs for longer."""

from __future__ import annotations

from dataclasses import fields

import fuzz
import pytest
from rollouts import make


def test_every_field_states_its_bounds(name: str) -> None:
    config_type = type(make(name).config)
    for field in fields(config_type):
        if field.name == "channel":
            # It has parameters; what is wrong with one is told, see test_channel.
            continue
        fuzz.stated(config_type, field.name)


def test_what_was_made_can_be_played(name: str) -> None:
    played = 0
    for number in range(6):
        case = fuzz.draw_case(7, number, name)
        try:
            played += fuzz.play_case(case, 3) > 0
        except fuzz.RefusedError:
            continue
        except Exception as error:
            raise AssertionError(str(case)) from error
    assert played


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_minute_of_chance() -> None:
    tally = fuzz.fuzz(seed=0, seconds=60)
    assert not tally.failures, tally.failures[0]
    assert tally.steps > 5_000


def test_bounds_are_read_from_messages() -> None:
    bounds = fuzz.parse_bounds("x must be a finite number in (0, 1e+09], got nan", "x")
    assert (bounds.low, bounds.high, bounds.open_low, bounds.open_high) == (0, 1e9, True, False)
    assert fuzz.parse_bounds("x must be an integer in [2, 24], got -1", "x").high == 24
    assert fuzz.parse_bounds("x must be one of a, b, got '?'", "x").choices == ("a", "b")
    with pytest.raises(AssertionError, match="x: no bounds in 'x is bad'"):
        fuzz.parse_bounds("x is bad", "x")
