"""SUGGESTED HA_SYNC HU_ASYN HU_SYNC The allocation schemes that the figures compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from edge_gym.reproduce.harness import Options

# The text does not tell it. Chosen so that HA-Sync needs about the reported cycles to 95 %: that is
# no finding then, but the savings of the other schemes are.
DOCUMENT_LEARNING_RATE = 0.04


class Scheme(NamedTuple):
    """Who decides on samples and updates.

    Attributes:
        rule: Name of the rule.
        parameters: Of the rule.
        colour: Of its lines; None where it is in the numbers alone.
        dash: Style of its lines.
    """

    rule: str
    parameters: Mapping[str, Any]
    colour: str | None = None
    dash: str = "-"


SUGGESTED, HA_SYNC = "HA-Asyn, c = 0", "HA-Sync"


HU_ASYN, HU_SYNC = "HU-Asyn", "HU-Sync"


CAP_COLOURS = {1: "#D55E00", 2: "#009E73", 3: "#E69F00", 4: "#CC79A7", 5: "#56B4E9"}


SCHEMES: dict[str, Scheme] = {
    HA_SYNC: Scheme("ha-sync", {}, "#0072B2"),
    **{
        f"HA-Asyn, c = {cap}": Scheme("ha-asyn", {"cap": cap}, colour)
        for cap, colour in CAP_COLOURS.items()
    },
    SUGGESTED: Scheme("ha-asyn", {"cap": 0, "method": "suggest-and-improve"}, "#D55E00", "--"),
    HU_ASYN: Scheme("hu-asyn", {}, "#66717D"),
    **{f"HU-Asyn, c = {cap}": Scheme("hu-asyn", {"cap": cap}) for cap in (1, 2, 3)},
    HU_SYNC: Scheme("hu-sync", {}, "#66717D", "--"),
}


HA_ASYN = tuple(f"HA-Asyn, c = {cap}" for cap in CAP_COLOURS)


HA = (HA_SYNC, *HA_ASYN)


HU = (HU_ASYN, *(f"HU-Asyn, c = {cap}" for cap in (1, 2, 3)), HU_SYNC)


QUICK = (HA_SYNC, "HA-Asyn, c = 1", HU_ASYN)
"""Schemes of a quick run."""


def chosen(names: Sequence[str], options: Options, quick: Sequence[str]) -> dict[str, Scheme]:
    """Return the schemes of these names, of ``quick`` in a quick run."""
    return {name: SCHEMES[name] for name in (quick if options.quick else names)}
