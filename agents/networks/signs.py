"""Scores of which only the signs matter: which devices are above 0."""

from __future__ import annotations

import torch
from torch import Tensor

SIGN_SHARPNESS = 5.0
"""Where signs are explored, a score ``s`` is positive with the probability 1/(1 + exp(-5s))."""


def as_many_positive(scores: Tensor, columns: int = 1) -> Tensor:
    """Shift scores, ``(..., K)``, so that as many are positive as in exploration on average.

    Where devices have several ``columns``, ``(..., K, columns)``, each column is shifted by itself.

    An agent that explores signs may hesitate between many devices, none of which is likely to be
    chosen, and yet choose some of them every time. What it does best without chance is to choose
    as many, those of the largest scores: the expected number rounded, one at least.
    """
    if columns > 1:
        return as_many_positive(scores.mT).mT
    chances = torch.sigmoid(SIGN_SHARPNESS * scores)
    number = chances.sum(dim=-1, keepdim=True).round().clamp(min=1)
    ordered = torch.sort(scores, dim=-1, descending=True).values
    beyond = torch.cat([ordered[..., 1:], ordered[..., -1:] - 1], dim=-1)
    last = number.long() - 1
    threshold = (ordered.gather(-1, last) + beyond.gather(-1, last)) / 2
    return scores - threshold
