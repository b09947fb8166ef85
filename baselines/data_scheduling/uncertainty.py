"""Rules on how uncertain the classifier is of a sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_gym.baselines.data_scheduling.rule import SchedulingRule, Seen
from edge_gym.runtime.checks import check_number
from edge_gym.typing import Float64Array


class DataAware(SchedulingRule):
    """The most uncertain sample, whatever the channel."""

    name = "data-aware"
    source = "Wen et al. 2019, §4.2, second benchmark"

    def index(self, seen: Seen) -> Float64Array:
        """Return -d, or the entropy."""
        return seen.uncertainty


class ImportanceAware(SchedulingRule):
    """The largest expected uncertainty after the channel, I = -E‖x‖²/γ - d², with E‖x‖² = 1."""

    name = "importance-aware"
    source = "Wen et al. 2019, eq. (3), (4), U_d = -d²"
    needs = {"devices": ("snr_db",), "samples": ("present", "distance")}  # noqa: RUF012

    def index(self, seen: Seen) -> Float64Array:
        """Return I."""
        return -1 / seen.sample_snr - np.square(seen.uncertainty)


@dataclass(frozen=True, kw_only=True)
class WeightParameters:
    """Parameters of rules in which channel noise counts against an uncertainty in nats.

    Attributes:
        weight: What the noise power 1/γ counts for; the paper leaves the scaling open.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        check_number("weight", self.weight, 0)


class ImportanceAwareEntropy(SchedulingRule):
    """The same for networks: I = H - weight/γ, H the entropy of the predicted classes."""

    name = "importance-aware"
    source = "Wen et al. 2019, eq. (4), extension to networks; the weight is ours"
    needs = {"devices": ("snr_db",), "samples": ("present", "entropy")}  # noqa: RUF012
    Parameters = WeightParameters
    grid = {"weight": (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 1e4)}  # noqa: RUF012
    further_grids = (
        {
            "weight": (3.0, 30.0, 100.0, 300.0),
            "weight_late": (0.0, 3.0, 30.0, 100.0, 1e3),
            "late_share": (0.25, 0.5),
        },
    )
    # The channel counts for nothing; the uncertainty does.
    bounds = {"weight": (0.0, 1e4)}  # noqa: RUF012

    def index(self, seen: Seen) -> Float64Array:
        """Return I."""
        return seen.uncertainty - float(self.parameters.weight) / seen.sample_snr
