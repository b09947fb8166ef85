"""Policies without learning: those of the papers, those of this project, and registered ones."""

from __future__ import annotations

if __name__ == "baselines":
    raise ImportError("this folder is installed as edge_gym.baselines: import edge_gym.baselines")

from edge_gym.baselines.base import Baseline
from edge_gym.baselines.catalogue import (
    BASELINES,
    applicable_baselines,
    find_baseline,
    make_baseline,
    register_baseline,
    tuned_only_baselines,
    zero_baseline,
)

__all__ = [
    "BASELINES",
    "Baseline",
    "applicable_baselines",
    "find_baseline",
    "make_baseline",
    "register_baseline",
    "tuned_only_baselines",
    "zero_baseline",
]
