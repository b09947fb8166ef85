"""When things happen in a round of update scheduling."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_gym.envs.shares import shares_from_scores
from edge_gym.envs.update_scheduling.actions import SHARE_EXPONENT
from edge_gym.physics.sharing import common_finish
from edge_gym.typing import BoolArray, Float64Array


class Clock(NamedTuple):
    """Times of a round, in seconds since it began.

    Attributes:
        broadcast_s: The model has arrived, ``(m,)``.
        elapsed_s: The server has decided, ``(m,)``.
        ready_s: Devices can upload if scheduled, ``(m, K)``.
        planned_s: The same as far as it is known when the band is shared, ``(m, K)``.
    """

    broadcast_s: Float64Array
    elapsed_s: Float64Array
    ready_s: Float64Array
    planned_s: Float64Array


def share_band(
    bandwidth: str,
    upload_s: Float64Array,
    answering: BoolArray,
    clock: Clock,
    scores: NDArray[Any] | None = None,
) -> tuple[Float64Array, Float64Array]:
    """Return shares of the band and when each answering device finishes, ``(m, K)`` each.

    Args:
        bandwidth: ``"finish"``: all finish at the same time as far as it is known when they can
            begin; ``"equal"``; or ``"agent"``, by its scores.
        upload_s: Seconds of an upload in the whole band, ``(m, K)``.
        answering: Who uploads, ``(m, K)``.
        clock: When they can begin.
        scores: ℓ of the shares exp(4ℓ), for ``"agent"``, ``(m, K)``.

    Source: Wen et al. 2019 §5.1, opportunity 1 (more bandwidth for slow devices).
    """
    if bandwidth == "finish":
        finish_s = common_finish(clock.planned_s, upload_s, answering)[:, None]
        left_s = np.maximum(finish_s - clock.planned_s, 1e-12)
        shares = np.where(answering, upload_s / left_s, 0)
    else:
        equal = np.zeros_like(upload_s)
        shares = shares_from_scores(
            equal if scores is None else scores, SHARE_EXPONENT, taking_part=answering
        )
    takes_s = np.divide(upload_s, shares, out=np.zeros_like(shares), where=shares > 0)
    return shares, np.where(answering, clock.ready_s + takes_s, 0)
