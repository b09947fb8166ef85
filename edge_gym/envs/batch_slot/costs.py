"""What a round of batches and time slots costs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from edge_gym.envs.batch_slot.config import BatchSlotConfig
from edge_gym.solvers.batch_slot import RoundCosts


def round_costs(
    config: BatchSlotConfig,
    *,
    speed: ArrayLike,
    upload_s: ArrayLike,
    download_s: ArrayLike,
    update_s: ArrayLike,
    max_batch: ArrayLike,
) -> RoundCosts:
    """Return what a round costs, from columns of the observation; arrays are ``(..., K)``.

    Source: Ren et al. 2021, eqs. (9)-(12), (27), (28).
    """
    parallel = config.device == "gpu" and config.update == "gradient"
    return RoundCosts(
        slope_s=1 / np.asarray(speed, np.float64),
        upload_s=np.asarray(upload_s, np.float64),
        download_s=np.asarray(download_s, np.float64),
        update_s=np.asarray(update_s, np.float64),
        max_batch=np.asarray(max_batch, np.float64),
        base_latency_s=np.asarray(config.gpu_base_latency_s if parallel else 0.0),
        threshold=np.asarray(float(config.gpu_threshold) if parallel else 0.0),
    )
