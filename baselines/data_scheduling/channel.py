"""Channel-aware scheduling: the best channel, whatever its device's samples are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from edge_gym.baselines.data_scheduling.rule import AnySample, SchedulingRule, Seen
from edge_gym.core.actions import ActionCodec
from edge_gym.envs.data_scheduling.actions import ChooseSample, DeviceCodec, preferred_sample
from edge_gym.runtime.checks import check_choice
from edge_gym.typing import Float64Array


class ChannelAware(SchedulingRule):
    """The best channel; its device chooses the sample.

    Where devices know the labels, this is the best channel with the largest loss.
    """

    name = "channel-aware"
    source = "Wen et al. 2019, §4.2, first benchmark; Scheme 1 of the text with its figures"
    needs_codec: ClassVar[type[ActionCodec[Any]] | None] = DeviceCodec

    def index(self, seen: Seen) -> Float64Array:
        """Return γ."""
        return seen.sample_snr


@dataclass(frozen=True, kw_only=True)
class SampleParameters:
    """Parameters of channel-aware scheduling.

    Attributes:
        sample: Which of the device's samples is uploaded: any, ``"random"``, or the most
            ``"uncertain"``.
    """

    sample: str = "random"
    samples: ClassVar[tuple[str, ...]] = ("random", "uncertain")

    def __post_init__(self) -> None:
        check_choice("sample", self.sample, self.samples)


@dataclass(frozen=True, kw_only=True)
class LabelledSampleParameters(SampleParameters):
    """Parameters of channel-aware scheduling where devices know the labels.

    Attributes:
        sample: Also the sample of the largest ``"loss"``, the most uncertain if none has a loss.
    """

    samples: ClassVar[tuple[str, ...]] = ("random", "uncertain", "loss")


class ChannelAwareSample(ChannelAware, AnySample):
    """The best channel, and any, the most uncertain or the most lossy of its device's samples."""

    needs_codec = ChooseSample
    Parameters = SampleParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"sample": SampleParameters.samples}

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Nobody knows the labels of samples that are not yet uploaded."""
        return bool(config.labels == "server")

    def preference(self, seen: Seen, index: Float64Array) -> Float64Array:
        """Single out the device's sample."""
        if self.parameters.sample == "random":
            return super().preference(seen, index)
        loss = seen.loss if self.parameters.sample == "loss" else None
        return seen.only(preferred_sample(seen.uncertainty, loss, seen.present))


class ChannelAwareLabelledSample(ChannelAwareSample):
    """The same where devices know the labels."""

    needs = {"samples": ("present", "margin")}  # noqa: RUF012
    Parameters = LabelledSampleParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"sample": LabelledSampleParameters.samples}

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Devices know the labels, which the observed margins say."""
        return True
