"""Settings of batches and time slots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from edge_gym.envs.federated_config import FederatedConfig
from edge_gym.runtime.checks import check_choice, check_integer, check_number
from edge_gym.typing import Float64Array

DOWNLOADS = ("recompressed", "union")
_MOST_SAMPLES = 10**9


@dataclass(frozen=True, kw_only=True)
class BatchSlotConfig(FederatedConfig):
    """Settings of the batch and slot problem; further fields are ``FederatedConfig``'s.

    Here a device transmits in its own time slots, with all of its power. The default is the
    paper's cell with a network small enough to step in milliseconds, whose best batches lie
    between the bounds.

    Attributes:
        actions: ``"direct"``: batches and slots of all devices; ``"global"``: one of ``choices``
            global batchsizes, which Theorems 1 and 2 place.
        choices: Global batchsizes to choose from, a geometric row from K to ΣB_max; 2 to 10⁴.
        update: What devices compute from their batch: its ``"gradient"``, or a ``"model"`` trained
            on it for ``local_epochs`` in mini-batches; models are averaged then, whole ones unless
            ``density`` or ``bits`` say otherwise.
        local_epochs: Passes over the batch, for ``update="model"``; 1 to 10⁴.
        local_batch_size: Samples of a mini-batch, for ``update="model"``.
        max_batch: Largest batch B^max; None means all of a device's samples. Nobody's batch
            exceeds its samples.
        reference_batch: Global batchsize B_ref at which the step size is ``learning_rate``; it
            is learning_rate·√(B/B_ref), with a mini-batch in place of B for ``update="model"``.
        max_learning_rate: Largest step size, 10⁻⁹ to 10³.
        download: What the server sends where devices' vectors are compressed, and so what all
            learn from. ``"recompressed"``: their average, compressed in its turn as a device's
            vector is and with a memory of the server's own, so that both directions take the same
            bits; ``"union"``: the average as it is, with every value that some device sent, at 32
            bits each. The default is the first, for which Theorems 1 and 2 are made.
        downlink_power_dbm: The base station's transmit power, dBm.
        fading: ``"round"``: both directions fade anew in each round, in which rates stay as they
            are; ``"mean"``: rates are averages over fading, right where a round
            takes many frames (Ren et al. 2021, eqs. (5) and (6)).
        device: Processors of the devices, ``"cpu"`` or ``"gpu"``.
        cpu_groups_hz: Speeds f_k of groups of devices of (nearly) equal size, cycles a second, in
            the order of the devices, 1 to 10¹⁵ each; None draws them from ``cpu_hz``.
        gpu_flops: Speeds f_k^G that GPUs reach, FLOP a second, 1 to 10²¹, of groups likewise; c_k
            in (27) is a sample's training FLOPs over this.
        gpu_base_latency_s: t^ℓ in (27), s, 10⁻⁹ to 10⁶: no computation takes no time.
        gpu_threshold: B^th in (27), samples.
        budget_s: Simulated seconds of an episode, 10⁻⁹ to 10¹².
        max_rounds: Rounds after which an episode is truncated, 1 to 10⁶.
    """

    hidden_sizes: tuple[int, ...] = (32,)
    n_devices: int = 6
    partition: str = "iid"
    samples_per_device: int | None = None
    size_spread: float = 0.0
    learning_rate: float = 0.4
    targets: tuple[float, ...] = (0.8, 0.9, 0.92)
    bandwidth_hz: float = 10e6
    cell_radius_m: float = 200.0
    transmit_power_dbm: float = 28.0
    density: float = 0.05
    cycles_per_flop: float = 1.0
    actions: str = "direct"
    choices: int = 16
    update: str = "gradient"
    local_epochs: int = 1
    local_batch_size: int = 64
    max_batch: int | None = 128
    reference_batch: int = 64
    max_learning_rate: float = 1.2
    download: str = "recompressed"
    downlink_power_dbm: float = 28.0
    fading: str = "round"
    device: str = "cpu"
    cpu_groups_hz: tuple[float, ...] | None = (0.7e9, 1.4e9, 2.1e9)
    gpu_flops: tuple[float, ...] = (2e9,)
    gpu_base_latency_s: float = 4e-4
    gpu_threshold: int = 16
    budget_s: float = 0.25
    max_rounds: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("actions", self.actions, ("direct", "global"))
        check_integer("choices", self.choices, 2, 10_000)
        check_choice("update", self.update, ("gradient", "model"))
        check_integer("local_epochs", self.local_epochs, 1, 10_000)
        check_integer("local_batch_size", self.local_batch_size, 1, _MOST_SAMPLES)
        if self.max_batch is not None:
            check_integer("max_batch", self.max_batch, 1, _MOST_SAMPLES)
        check_integer("reference_batch", self.reference_batch, 1, _MOST_SAMPLES)
        check_number("max_learning_rate", self.max_learning_rate, 1e-9, 1e3)
        check_choice("download", self.download, DOWNLOADS)
        check_number("downlink_power_dbm", self.downlink_power_dbm, -50, 60)
        check_choice("fading", self.fading, ("round", "mean"))
        check_choice("device", self.device, ("cpu", "gpu"))
        for name, fastest in (("cpu_groups_hz", 1e15), ("gpu_flops", 1e21)):
            speeds = getattr(self, name)
            if speeds is None and name == "cpu_groups_hz":
                continue
            if not 1 <= len(speeds) <= self.n_devices:
                raise ValueError(
                    f"{name} must have 1 to n_devices = {self.n_devices} speeds, got {speeds}"
                )
            for speed in speeds:
                check_number(name, speed, 1, fastest)
        check_number("gpu_base_latency_s", self.gpu_base_latency_s, 1e-9, 1e6)
        check_integer("gpu_threshold", self.gpu_threshold, 1, _MOST_SAMPLES)
        check_number("budget_s", self.budget_s, 1e-9, 1e12)
        check_integer("max_rounds", self.max_rounds, 1, 1_000_000)

    def step_size(self, batch: ArrayLike) -> Float64Array:
        """Return the learning rate η·√(B/B_ref) of batches B, at most ``max_learning_rate``.

        Source: Ren et al. 2021 §III-A, η = O(√B).
        """
        rate = self.learning_rate * np.sqrt(np.asarray(batch, np.float64) / self.reference_batch)
        return np.asarray(np.minimum(rate, self.max_learning_rate))
