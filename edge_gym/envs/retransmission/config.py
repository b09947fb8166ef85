"""Settings of the retransmission problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_gym.envs.centralized import MAX_STEPS, CentralizedConfig
from edge_gym.runtime.checks import check_integer, check_number


@dataclass(frozen=True, kw_only=True)
class RetransmissionConfig(CentralizedConfig):
    """Settings of the retransmission problem; further fields are ``CentralizedConfig``'s.

    Attributes:
        budget: Channel uses in an episode.
        buffer_size: Samples in a device's buffer; None shares the whole pool out.
        alignment_probability: p_c, whose θ₀ = [Φ⁻¹(p_c)]² the observed ``required_snr_db`` uses.
    """

    mean_snr_db: float = 5.0
    initial_samples: int = 20
    budget: int = 400
    buffer_size: int | None = None
    alignment_probability: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("budget", self.budget, 1, MAX_STEPS)
        if self.buffer_size is not None:
            check_integer("buffer_size", self.buffer_size, 1)
        check_alignment_probability(self.alignment_probability)


def check_alignment_probability(value: Any) -> None:
    """Raise a ValueError unless ``value`` is a p_c that θ₀ = [Φ⁻¹(p_c)]² > 0 can encode."""
    check_number("alignment_probability", value, 0.5, 1, open_low=True, open_high=True)
