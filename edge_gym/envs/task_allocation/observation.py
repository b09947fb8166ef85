"""What is observed of task allocation: the columns of learners and of the system."""

from __future__ import annotations

from edge_gym.core.observation import Column, ObservationTable
from edge_gym.envs.federated import MAX_LOSS, score_columns
from edge_gym.envs.task_allocation.config import TaskAllocationConfig
from edge_gym.physics import wireless

MAX_LOG = 40.0
"""Logarithms of samples are between minus this and this."""
ROOM_UPDATES = (1, 2, 3)
"""Numbers of updates for which it is told on how many samples a learner makes them."""

_MAX_SECONDS = 1e9


def observation_tables(
    config: TaskAllocationConfig, model_s: float = 0.2, sample_s: float = 3e-3
) -> dict[str, ObservationTable]:
    """Return the columns of each part of the observation under ``config``.

    Args:
        config: The configuration.
        model_s: Typical seconds of a model's way there and back, for the columns' scaling.
        sample_s: Typical seconds of sending a sample, likewise.
    """
    k, limit_s, limit_j = config.n_devices, config.cycle_s, config.energy_limit_j
    share = config.task_share * (config.samples_per_device or 3000)
    # What one update of a fair share takes when three of them fill a cycle.
    update_s, update_j = limit_s / share / 3, limit_j / share / 3
    model_j = model_s / 2 * float(wireless.dbm_to_watt(config.transmit_power_dbm))

    def cost(name: str, unit: str, meaning: str, typical: float) -> Column:
        return Column(name, unit, 0, _MAX_SECONDS, meaning, typical, max(typical, 1e-9) / 2)

    devices = [
        Column("cpu_ghz", "GHz", 0, 1e6, "CPU speed f_k", 2.5, 2),
        Column("rate", "Mbit/s", 0, 1e6, "rate R_k in its own band", 30, 15),
        cost("base_s", "s", "C⁰: the model's way there and back", model_s),
        cost("sample_s", "s/sample", "C¹: sending a sample", sample_s),
        cost("update_s", "s/(sample·update)", "C²: computing", update_s),
        cost("base_j", "J", "G⁰: sending the model", model_j),
        cost("sample_j", "J/sample", "G¹: what the model grows with a sample", model_j),
        cost("update_j", "J/(sample·update)", "G²: computing", update_j),
        Column("limit_j", "J", 0, 1e9, "energy E_k⁰ of a cycle", limit_j, limit_j / 4),
        Column("own_samples", "sample", 0, 1e9, "samples that it can train on", share, share),
        Column(
            "log_room",
            "1",
            -MAX_LOG,
            MAX_LOG,
            "ln of its part in the relaxed synchronous optimum over a fair share",
            0,
            0.7,
        ),
        *(
            Column(
                f"log_room_{updates}",
                "1",
                -MAX_LOG,
                MAX_LOG,
                f"ln of D_k({updates}), samples on which it makes {updates}, over a fair share",
                centre,
                0.7,
            )
            for updates, centre in zip(ROOM_UPDATES, (1.2, 0.5, 0.1), strict=True)
        ),
        Column(
            "stronger_share",
            "1",
            0,
            1e6,
            "sum of the D_l(1) larger than its own, or equal and of earlier learners, over d",
            1.5,
            1.5,
        ),
        Column(
            "equal_updates",
            "update",
            0,
            1e6,
            "updates, not whole ones, that a fair share allows",
            3,
            2,
        ),
        Column("drop_out", "1", 0, 1, "share of cycles in which its model is lost", 0.1, 0.1),
        Column("arrivals", "1", 0, 1, "share of the cycles so far in which it arrived", 0.9, 0.2),
        Column("samples", "sample", 0, 1e9, "its last d_k", share, share),
        Column("updates", "update", 0, 1e6, "its last τ_k", 3, 2),
        Column("finish_s", "s", 0, 1e9, "when it finished last", limit_s, limit_s / 3),
        Column(
            *("training_loss", "nat", 0, MAX_LOSS),
            *("mean loss of its last training that arrived, ln C before the first", 1, 0.7),
        ),
    ]
    if config.actions == "joint":
        devices += [
            Column("band_share", "1", 0, 1, "its last share of the band", 1 / k, 1 / k),
            Column("power_share", "1", 0, 1, "its last power over its largest", 0.5, 0.4),
            Column("cpu_share", "1", 0, 1, "its last CPU speed over its largest", 0.7, 0.3),
        ]
    system = [
        Column("cycles_left", "cycle", 0, 1e9, "cycles left", config.cycles / 2, config.cycles / 4),
        Column("learners", "learner", 1, 1e9, "number of learners K", k, max(k, 1)),
        Column("samples", "sample", 1, 1e9, "samples d of a cycle", k * share, k * share / 2),
        Column("common_updates", "update", 0, 1e6, "the relaxed synchronous optimum τ", 3, 2),
        Column(
            *("mean_updates", "update", 0, 1e6),
            *("mean τ_k of the last cycle, 0 for what did not arrive", 3, 2),
        ),
        Column(
            *("staleness", "update", 0, 1e6),
            *("largest difference of the τ_k that arrived in it", 1, 1),
        ),
        *score_columns("cycle", (0.8, 0.15), (0.7, 0.5), (0.1, 0.1)),
    ]
    if config.actions == "staleness":
        for cap in config.caps:
            system += [
                Column(f"updates_{cap}", "update", 0, 1e6, f"mean τ_k under the cap {cap}", 3, 2),
                Column(f"work_{cap}", "update", 0, 1e6, f"the same weighted by d_k, {cap}", 3, 2),
            ]
    return {"devices": ObservationTable(*devices), "system": ObservationTable(*system)}
