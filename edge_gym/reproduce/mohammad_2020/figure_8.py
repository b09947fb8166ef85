"""Mohammad et al. 2020, Fig. 8."""

from __future__ import annotations

from pathlib import Path

from edge_gym.reproduce.harness import Claim, Findings, Options
from edge_gym.reproduce.mohammad_2020.drawing import against_cycle
from edge_gym.reproduce.mohammad_2020.figure_6 import accuracy_claims
from edge_gym.reproduce.mohammad_2020.figure_7 import cycles_claims
from edge_gym.reproduce.mohammad_2020.sweeps import LATE_TARGETS, Cells


def async_mel_fig8(folder: Path, options: Options) -> Findings:
    """Redo Fig. 8 of Mohammad et al. 2020,: what Figs. 6 and 7 show, with E = 30 J.

    What the paper says of it is cut off in the text, so its general claims are looked at.

    Raises:
        ValueError: If a value is out of range.
        OSError: If ``folder`` cannot be written to.
        edge_gym.data.DataError: If data are missing; the message says what to do.

    Source: Mohammad et al. 2020, Fig. 8, §5.1.2.
    """

    def claims(cells: Cells) -> list[Claim]:
        return accuracy_claims(cells) + cycles_claims(cells, LATE_TARGETS[options.full])

    return against_cycle(folder, options, 8, (30.0,), ("after", "cycles_to"), claims)
