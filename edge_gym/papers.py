"""The papers that problems and rules are from."""

from __future__ import annotations

from dataclasses import dataclass

from edge_gym.registry import Registry


@dataclass(frozen=True)
class Paper:
    """A reference.

    Attributes:
        cited: How texts cite it, such as ``"Wen et al. 2019"``.
        authors: All authors.
        year: Of publication.
        title: Its title.
        venue: Where it appeared.
        url: Where to read it.
    """

    cited: str
    authors: str
    year: int
    title: str
    venue: str
    url: str

    def __str__(self) -> str:
        return f'{self.authors}, "{self.title}", {self.venue}, {self.year}, {self.url}'


PAPERS: Registry[Paper] = Registry("paper")
"""Papers by key."""


def register_paper(key: str, paper: Paper) -> None:
    """Add a paper, to which environments then refer by its key.

    Raises:
        ValueError: If the key is taken.
    """
    PAPERS.register(key, paper)


def find_paper(key: str) -> Paper:
    """Return the paper of a key.

    Raises:
        ValueError: If there is none.
    """
    return PAPERS.find(key)


register_paper(
    "wen-2019",
    Paper(
        "Wen et al. 2019",
        "D. Wen, X. Li, Q. Zeng, J. Ren, K. Huang",
        2019,
        "An Overview of Data-Importance Aware Radio Resource Management for Edge Machine Learning",
        "Journal of Communications and Information Networks",
        "https://arxiv.org/abs/1911.03878",
    ),
)
register_paper(
    "ren-2021",
    Paper(
        "Ren et al. 2021",
        "J. Ren, G. Yu, G. Ding",
        2021,
        "Accelerating DNN Training in Wireless Federated Edge Learning Systems",
        "IEEE Journal on Selected Areas in Communications",
        "https://arxiv.org/abs/1905.09712",
    ),
)
register_paper(
    "sorour-2020",
    Paper(
        "Sorour et al. 2020",
        "S. Sorour, U. Mohammad, A. Abutuleb, H. Hassanein",
        2020,
        "Returning the Favor: What Wireless Networking Can Offer to AI and Edge Learning",
        "arXiv",
        "https://arxiv.org/abs/2007.07453",
    ),
)
register_paper(
    "mohammad-2020",
    Paper(
        "Mohammad et al. 2020",
        "U. Mohammad, S. Sorour, M. Hefeida",
        2020,
        "Task Allocation for Asynchronous Mobile Edge Learning with Delay and Energy Constraints",
        "arXiv",
        "https://arxiv.org/abs/2012.00143",
    ),
)
register_paper(
    "li-2021",
    Paper(
        "Li et al. 2021",
        "X. Li, S. Bi, H. Wang",
        2021,
        "Optimizing Resource Allocation for Joint AI Model Training and Task Inference in Edge "
        "Intelligence Systems",
        "IEEE Wireless Communications Letters",
        "https://doi.org/10.1109/LWC.2020.3036852",
    ),
)
