"""Channels of offloading, and what an iteration costs.

Source: Li et al. 2021, §II, §IV and Table I.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from edge_gym.core.observation import Observation
from edge_gym.envs.offloading.config import OffloadingConfig
from edge_gym.physics import wireless
from edge_gym.solvers.offloading import OffloadingCosts
from edge_gym.typing import Float64Array

COST_COLUMNS = {
    "devices": ("gain_db", "task_mbit", "training_s", "training_j", "previous_download_s"),
    "system": ("model_mbit",),
}
"""Columns that ``observed_costs`` reads."""
COST_FIELDS = (
    *("bandwidth_hz", "transmit_power_dbm", "downlink_power_dbm", "receive_power_w"),
    *("cycles_per_bit", "capacitance", "server_hz", "max_cpu_hz", "energy_weight", "time_weight"),
)
"""Fields of the configuration that it reads."""
MAX_COST = 1e6
"""Costs and seconds count as this at most, so that nothing told is infinite."""

_ANTENNA_GAIN = 4.11
_CARRIER_HZ = 2.4e9
_LIGHT_SPEED = 3e8  # As Li et al. 2021 have it.
_NOISE_DBM_HZ = -174.0


def mean_gain(config: OffloadingConfig, distance_m: Float64Array) -> Float64Array:
    """Return the mean channel gain G_A·(c/(4π·f_c·d))^σ.

    Source: Li et al. 2021, §IV.
    """
    ratio = _LIGHT_SPEED / (4 * np.pi * _CARRIER_HZ * distance_m)
    return np.asarray(_ANTENNA_GAIN * ratio**config.path_loss_exponent)


def offloading_costs(
    config: OffloadingConfig,
    *,
    gain_db: ArrayLike,
    task_mbit: ArrayLike,
    training_s: ArrayLike,
    training_j: ArrayLike,
    previous_download_s: ArrayLike,
    model_mbit: ArrayLike,
) -> OffloadingCosts:
    """Return what an iteration costs, from columns of the observation; arrays are ``(..., M)``.

    Source: Li et al. 2021, §II and Table I.
    """
    gain = wireless.db_to_linear(gain_db)
    noise_w = float(wireless.dbm_to_watt(_NOISE_DBM_HZ))
    power_w = float(wireless.dbm_to_watt(config.transmit_power_dbm))
    server_w = float(wireless.dbm_to_watt(config.downlink_power_dbm))
    return OffloadingCosts(
        band_hz=np.asarray(config.bandwidth_hz),
        uplink_snr_hz=power_w * gain / noise_w,
        downlink_snr_hz=server_w * gain / noise_w,
        transmit_power_w=np.asarray(power_w),
        receive_power_w=np.asarray(config.receive_power_w),
        model_bits=1e6 * np.asarray(model_mbit, np.float64),
        task_bits=1e6 * np.asarray(task_mbit, np.float64),
        cycles_per_bit=np.asarray(config.cycles_per_bit),
        capacitance=np.asarray(config.capacitance),
        server_hz=np.asarray(config.server_hz),
        max_hz=np.asarray(config.max_cpu_hz),
        training_s=np.asarray(training_s, np.float64),
        training_j=np.asarray(training_j, np.float64),
        previous_download_s=np.asarray(previous_download_s, np.float64),
        energy_weight=np.asarray(config.energy_weight),
        time_weight=np.asarray(config.time_weight),
    )


def observed_costs(seen: Observation, config: OffloadingConfig) -> OffloadingCosts:
    """Return what the iteration that begins costs, ``(..., M)``, from an observation."""
    columns = {name: seen.device(name) for name in COST_COLUMNS["devices"]}
    return offloading_costs(config, **columns, model_mbit=seen.system("model_mbit"))
