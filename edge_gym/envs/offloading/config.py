"""Settings of joint model training and task inference."""

from __future__ import annotations

from dataclasses import dataclass

from edge_gym.envs.federated_config import FederatedConfig
from edge_gym.learning.compression import FULL_BITS
from edge_gym.runtime.checks import check_choice, check_integer, check_number

SPLIT_LEVELS = 6
"""Shares of a task that can be offloaded on the grid of Li et al. 2021 §IV, steps of 0.2."""

_MOST_COMBINATIONS = 50_000


@dataclass(frozen=True, kw_only=True)
class OffloadingConfig(FederatedConfig):
    """Settings of joint training and inference; further fields are ``FederatedConfig``'s.

    Devices are called users here. ``bandwidth_hz`` is the band B that all uplinks and downlinks
    share; users transmit with all of ``transmit_power_dbm`` in any part of it. ``max_cpu_hz`` takes
    the place of ``cpu_hz``. The default is the radio of Li et al. 2021, Table I, with tasks
    in every second iteration, and a network small enough to step in milliseconds, which has the
    size of theirs on the air.

    Attributes:
        actions: ``"direct"``: shares of the band, CPU frequencies and the parts of the tasks that
            are offloaded; ``"grid"``: the parts alone, each in steps of 0.2; ``"combination"``:
            the same as one number. With the last two all else is optimal.
        iterations: Training iterations N of an episode.
        period: Tasks arrive in every iteration that is a multiple of this, and in the last; None
            means in the last alone.
        accuracy_weight: What a gain of 1 in validation accuracy is worth, in units of the WSEL.
        energy_weight: Weight w^e of a joule.
        time_weight: Weight w^t of a second.
        local_epochs: Epochs that a user trains in an iteration.
        batch_size: Samples of a mini-batch.
        model_bits: Size D_m of the model on the air, bits; None takes that of the network.
        task_bits: Mean size L of a task, bits; None takes 8 for each value of its images.
        task_spread: Sizes of tasks are uniform within (1 ± this) times the mean.
        task_images: Images of a task that are really classified.
        training_s: Time τ^lt of local training, s; None takes what it takes at the user's full
            speed.
        training_j: Energy e^lt of local training, J; None likewise.
        first_download_s: Time τ^md of the download before the first iteration, s.
        cycles_per_bit: CPU cycles C of inference per bit.
        server_hz: CPU frequency f_s of the server, for each task.
        max_cpu_hz: Highest CPU frequency f_max of a user.
        receive_power_w: Power p^md of a user's receiver, W.
        downlink_power_dbm: The server's transmit power, dBm.
        placement: ``"ring"``: all users ``cell_radius_m`` away; ``"disc"``: anywhere within.
        path_loss_exponent: Exponent σ.
        fading: ``"episode"``: links fade once, before the first iteration, so that no correlation
            of ``channel`` shows; ``"iteration"``: from iteration to iteration.
        move_m: How far users move from one iteration to the next, each in a random direction, m.
    """

    image_size: int | None = 7
    hidden_sizes: tuple[int, ...] = (32,)
    n_devices: int = 4
    learning_rate: float = 0.1
    reward: str = "accuracy"
    samples_per_device: int | None = 60
    bandwidth_hz: float = 20e6
    cell_radius_m: float = 50.0
    capacitance: float = 0.5e-28
    actions: str = "direct"
    iterations: int = 12
    period: int | None = 2
    accuracy_weight: float = 10.0
    energy_weight: float = 0.9
    time_weight: float = 0.1
    local_epochs: int = 2
    batch_size: int = 10
    model_bits: float | None = 16e6
    task_bits: float | None = 64e6
    task_spread: float = 0.5
    task_images: int = 32
    training_s: float | None = 1.0
    training_j: float | None = 0.04
    first_download_s: float = 1.0
    cycles_per_bit: float = 50.0
    server_hz: float = 4e9
    max_cpu_hz: float = 1e9
    receive_power_w: float = 0.97e-3
    downlink_power_dbm: float = 33.0
    placement: str = "ring"
    path_loss_exponent: float = 2.9
    fading: str = "iteration"
    move_m: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits != FULL_BITS or self.density != 1:
            raise ValueError(
                f"bits must be {FULL_BITS} and density 1, whole models are exchanged here, got "
                f"{self.bits} and {self.density}; model_bits says what a model takes on the air"
            )
        check_choice("actions", self.actions, ("direct", "grid", "combination"))
        if self.actions == "combination" and SPLIT_LEVELS**self.n_devices > _MOST_COMBINATIONS:
            raise ValueError(
                f'n_devices must be at most 6 with actions="combination", got {self.n_devices}; '
                'actions="grid" has no limit'
            )
        check_integer("iterations", self.iterations, 1, 1_000_000)
        if self.period is not None:
            check_integer("period", self.period, 1, 1_000_000)
        for name, most in (
            *(("accuracy_weight", 1e6), ("energy_weight", 1e6), ("first_download_s", 1e6)),
            ("move_m", 1e5),
        ):
            check_number(name, getattr(self, name), 0, most)
        for name, least, most in (
            *(("time_weight", 1e-6, 1e6), ("cycles_per_bit", 1e-6, 1e9)),
            *(("server_hz", 1, 1e15), ("max_cpu_hz", 1, 1e15)),
        ):
            check_number(name, getattr(self, name), least, most)
        check_integer("local_epochs", self.local_epochs, 1, 10_000)
        check_integer("batch_size", self.batch_size, 1, 1_000_000)
        for name in ("model_bits", "task_bits"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 1, 1e12)
        for name in ("training_s", "training_j"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0, 1e6)
        check_number("task_spread", self.task_spread, 0, 1, open_high=True)
        check_integer("task_images", self.task_images, 1, 1_000_000)
        check_number("receive_power_w", self.receive_power_w, 0, 1e6)
        check_number("downlink_power_dbm", self.downlink_power_dbm, -50, 60)
        check_choice("placement", self.placement, ("ring", "disc"))
        if self.partition_by_distance:
            raise ValueError(
                "partition_by_distance must be false: all users train in every iteration, wherever "
                f"they are, got {self.partition_by_distance}"
            )
        check_number("path_loss_exponent", self.path_loss_exponent, 0, 6)
        check_choice("fading", self.fading, ("episode", "iteration"))

    def has_tasks(self, iteration: int) -> bool:
        """Return whether inference tasks arrive in an iteration, counted from 1."""
        every = self.period or self.iterations
        return iteration % every == 0 or iteration == self.iterations
