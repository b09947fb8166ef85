"""One user as the compiled solvers see it, and what they all compute of one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.runtime.compiling import compiled
from edge_gym.solvers.offloading.costs import OffloadingCosts, free_hz

TOLERANCE = 1e-8


MAX_STEPS = 100


NEWTON_STEP = 1e-6


_USER = np.dtype(
    [
        (name, np.float64)
        for name in (
            *("ready", "uplink_snr", "downlink_snr", "upload", "offload", "download"),
            *("edge", "cycles", "send_price", "receive_price", "time_price", "heat"),
            *("free_hz", "max_hz"),
        )
    ]
)
"""One user as the solvers see it.

Seconds are those of an endless band, which ``stretch_of`` turns into those of a share; prices are
those of a second, and ``heat`` is w^e·κ_c.
"""


def as_users(costs: OffloadingCosts) -> NDArray[Any]:
    """Return the users of all instances, ``(instances, M)`` of ``_USER``."""
    users = np.empty(costs.band_hz.shape, _USER)
    bit_up, bit_down = (math.log(2) / snr for snr in (costs.uplink_snr_hz, costs.downlink_snr_hz))
    users["ready"] = costs.previous_download_s + costs.training_s
    users["uplink_snr"] = costs.uplink_snr_hz / costs.band_hz
    users["downlink_snr"] = costs.downlink_snr_hz / costs.band_hz
    users["upload"] = costs.model_bits * bit_up
    users["offload"] = costs.task_bits * bit_up
    users["download"] = costs.model_bits * bit_down
    users["cycles"] = costs.cycles_per_bit * costs.task_bits
    users["edge"] = users["cycles"] / costs.server_hz
    users["send_price"] = costs.energy_weight * costs.transmit_power_w
    users["receive_price"] = costs.energy_weight * costs.receive_power_w
    users["time_price"] = costs.time_weight
    users["heat"] = costs.energy_weight * costs.capacitance
    users["free_hz"] = free_hz(costs)
    users["max_hz"] = costs.max_hz
    return users.reshape(-1, costs.band_hz.shape[-1])


@compiled(error_model="numpy")
def copy_into(source, target):  # type: ignore[no-untyped-def]
    """Overwrite an array by another."""
    # Compiles in a fraction of the time of an assignment to a slice.
    for k in range(target.size):
        target[k] = source[k]


@compiled(error_model="numpy")
def stretch_of(share, snr):  # type: ignore[no-untyped-def]
    """Return how much longer a share of the band takes than an endless band, x/ln(1 + x).

    x = snr/share. The stretch falls with the share and is convex.
    """
    x = snr / share
    return x / math.log1p(x)


@compiled(error_model="numpy")
def stretch_slopes(share, snr):  # type: ignore[no-untyped-def]
    """Return the stretch and its first two derivatives with respect to the share."""
    x = snr / share
    stretch = x / math.log1p(x)
    w = 1 / (1 + x)
    q = w * stretch
    fall = stretch * (1 - q) / share
    return stretch, -fall, (fall * (2 - q) + stretch * q * (q - w) / share) / share
