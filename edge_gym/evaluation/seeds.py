"""The seed ranges, disjoint by construction: what is tuned or trained on is never evaluated on."""

from __future__ import annotations

TRAINING = range(0, 500_000)
"""Episodes that agents learn from."""

TUNING = range(500_000, 700_000)
"""Episodes that baselines' parameters and recipes are searched on."""

SELECTION = range(700_000, 900_000)
"""Episodes that choose among an agent's checkpoints."""

EVALUATION = range(900_000, 2_000_000_000)
"""Episodes that results are reported on."""
