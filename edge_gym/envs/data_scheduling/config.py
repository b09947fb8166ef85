"""Settings of the data scheduling problem."""

from __future__ import annotations

from dataclasses import dataclass

from edge_gym.envs.centralized import MAX_STEPS, CentralizedConfig
from edge_gym.runtime.checks import check_choice, check_flag, check_integer, check_number

ACTIONS = ("sample", "device", "scores")


@dataclass(frozen=True, kw_only=True)
class DataSchedulingConfig(CentralizedConfig):
    """Settings of the data scheduling problem; further fields are ``CentralizedConfig``'s.

    Attributes:
        buffer_size: Samples in a device's buffer, N.
        refill: Whether the device's next sample takes the place of one that was uploaded.
        budget: Uploads in an episode, T, a multiple of ``uploads_per_block``.
        uploads_per_block: Devices that upload one sample each in a block, M (OFDMA); a device
            uploads at most once in a block.
        actions: What is chosen: a ``"sample"`` of a device's buffer, a ``"device"``, which uploads
            its ``preferred_sample``, or all devices of a block by their ``"scores"``.
        labels: Who knows the labels of samples that are not yet uploaded: the ``"device"``, or
            nobody until the ``"server"`` has them labelled.
        path_loss_exponent: Devices lie anywhere in a disc, each as likely, and their mean SNR falls
            with this power of their distance: ``mean_snr_db`` is that of the median distance. 0
            gives all devices the same, as in Wen et al. 2019.
        partition_by_distance: Whether what devices hold follows from where they lie: an episode
            draws an order of the classes, and the first are held by the nearest devices. Shards of
            a device are then neighbours in this order.
        corrupt_devices: Devices whose labels are wrong, where devices know labels; an episode draws
            which, and no observation says who they are. What they upload, and what they tell of
            their samples, is by these labels.
        label_noise: Probability that a sample of such a device has another label, each of the
            others as likely. Initial, validation and test samples have their true labels always.
        content: Whether a sample's principal components are observed, so that an agent can find out
            over many episodes which samples are worth learning.
    """

    buffer_size: int = 10
    refill: bool = True
    budget: int = 100
    uploads_per_block: int = 1
    actions: str = "sample"
    labels: str = "device"
    path_loss_exponent: float = 0.0
    partition_by_distance: bool = False
    corrupt_devices: int = 0
    label_noise: float = 1.0
    content: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("buffer_size", self.buffer_size, 1)
        check_flag("refill", self.refill)
        check_integer("budget", self.budget, 1, MAX_STEPS)
        check_integer("uploads_per_block", self.uploads_per_block, 1, self.n_devices)
        check_choice("actions", self.actions, ACTIONS)
        check_choice("labels", self.labels, ("device", "server"))
        check_number("path_loss_exponent", self.path_loss_exponent, 0, 6)
        check_flag("partition_by_distance", self.partition_by_distance)
        if self.partition_by_distance and not self.path_loss_exponent:
            raise ValueError(
                "partition_by_distance must be false with path_loss_exponent = 0, where devices "
                "have the same mean SNR, got True"
            )
        check_integer("corrupt_devices", self.corrupt_devices, 0, self.n_devices)
        if self.corrupt_devices and self.labels != "device":
            raise ValueError(
                'corrupt_devices needs labels="device": the server labels samples truly, got '
                f"{self.corrupt_devices}"
            )
        check_number("label_noise", self.label_noise, 0, 1)
        check_flag("content", self.content)
        if self.budget % self.uploads_per_block:
            raise ValueError(
                f"budget must be a multiple of uploads_per_block = {self.uploads_per_block}, "
                f"got {self.budget}"
            )
        # A block needs samples at M different devices, whatever was chosen before: to empty the
        # K - M + 1 devices that leave too few takes this many blocks at least.
        k, n, m = self.n_devices, self.buffer_size, self.uploads_per_block
        most = m * max(n, -(-(k - m + 1) * n // m))
        if not self.refill and self.budget > most:
            raise ValueError(
                f"budget must be at most {most} without refill, with {self.n_devices} devices of "
                f"{self.buffer_size} samples each, got {self.budget}"
            )

    @property
    def signed_content(self) -> bool:
        """Whether observed components are times the label c = ±1, as margins are."""
        return self.labels == "device" and self.classes is not None and len(self.classes) == 2

    @property
    def blocks(self) -> int:
        """Blocks in an episode, T/M."""
        return self.budget // self.uploads_per_block

    @property
    def in_turns(self) -> bool:
        """Whether a block's devices are chosen one at a time."""
        return self.uploads_per_block > 1 and self.actions != "scores"
