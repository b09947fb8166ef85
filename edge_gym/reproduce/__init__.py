"""The papers' experiments redone: what they say beside what is measured here."""

from __future__ import annotations

import os
from dataclasses import dataclass

from edge_gym.reports.charts import require_pictures
from edge_gym.reproduce.harness import Claim, Findings, Options, Run
from edge_gym.reproduce.li_2021.figure_2 import joint_fig2
from edge_gym.reproduce.mohammad_2020.figure_4 import async_mel_fig4
from edge_gym.reproduce.mohammad_2020.figure_5 import async_mel_fig5
from edge_gym.reproduce.mohammad_2020.figure_6 import async_mel_fig6
from edge_gym.reproduce.mohammad_2020.figure_7 import async_mel_fig7
from edge_gym.reproduce.mohammad_2020.figure_8 import async_mel_fig8
from edge_gym.reproduce.ren_2021.figure_2 import feel_fig2
from edge_gym.reproduce.ren_2021.figure_3 import feel_fig3
from edge_gym.reproduce.ren_2021.figures_4_and_5 import feel_fig4, feel_fig5
from edge_gym.reproduce.ren_2021.section_6 import feel_time
from edge_gym.reproduce.ren_2021.table_2 import feel_table2
from edge_gym.reproduce.sorour_2020.figures_2_and_3 import mel_fig2, mel_fig3
from edge_gym.reproduce.wen_2019.figure_5 import rrm_fig5
from edge_gym.reproduce.wen_2019.figure_9 import rrm_fig9
from edge_gym.reproduce.wen_2019.section_5 import rrm_section5
from edge_gym.runtime.files import prepare_folder

__all__ = ["REPRODUCTIONS", "Claim", "Findings", "Options", "find_reproduction"]


@dataclass(frozen=True)
class Reproduction:
    """An experiment that can be redone by name.

    Attributes:
        name: Its name on the command line.
        source: Paper and figure or table.
    """

    name: str
    source: str
    _run: Run

    def run(self, out: str | os.PathLike[str], options: Options | None = None) -> Findings:
        """Run it and write its files into the folder ``out``.

        Raises:
            ValueError: If a value is out of range or does not suit the experiment.
            OSError: If ``out`` cannot be written to.
            ImportError: If matplotlib is missing; nothing was run then.
            edge_gym.data.DataError: If data are missing; the message says what to do.
        """
        require_pictures()
        return self._run(prepare_folder(out), options or Options())


REPRODUCTIONS = (
    Reproduction("rrm-fig5", "Wen et al. 2019, Fig. 5", rrm_fig5),
    Reproduction("rrm-fig9", "Wen et al. 2019, Fig. 9", rrm_fig9),
    Reproduction("rrm-section5", "Wen et al. 2019, §5", rrm_section5),
    Reproduction("feel-fig2", "Ren et al. 2021, Fig. 2", feel_fig2),
    Reproduction("feel-table2", "Ren et al. 2021, Table II", feel_table2),
    Reproduction("feel-fig3", "Ren et al. 2021, Fig. 3", feel_fig3),
    Reproduction("feel-fig4", "Ren et al. 2021, Fig. 4", feel_fig4),
    Reproduction("feel-fig5", "Ren et al. 2021, Fig. 5", feel_fig5),
    Reproduction("feel-time", "Ren et al. 2021, §VI, for all rules and agents", feel_time),
    Reproduction("async-mel-fig4", "Mohammad et al. 2020, Fig. 4", async_mel_fig4),
    Reproduction("async-mel-fig5", "Mohammad et al. 2020, Fig. 5", async_mel_fig5),
    Reproduction("async-mel-fig6", "Mohammad et al. 2020, Fig. 6", async_mel_fig6),
    Reproduction("async-mel-fig7", "Mohammad et al. 2020, Fig. 7", async_mel_fig7),
    Reproduction("async-mel-fig8", "Mohammad et al. 2020, Fig. 8", async_mel_fig8),
    Reproduction("mel-fig2", "Sorour et al. 2020, Fig. 2", mel_fig2),
    Reproduction("mel-fig3", "Sorour et al. 2020, Fig. 3", mel_fig3),
    Reproduction("joint-fig2", "Li et al. 2021, Fig. 2", joint_fig2),
)


def find_reproduction(name: str) -> Reproduction:
    """Return the reproduction of this name.

    Raises:
        ValueError: If there is none; the message lists the names.
    """
    for reproduction in REPRODUCTIONS:
        if reproduction.name == name:
            return reproduction
    known = ", ".join(reproduction.name for reproduction in REPRODUCTIONS)
    raise ValueError(f"unknown reproduction {name!r}; there are {known}")
