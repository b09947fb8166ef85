"""RRM's rules of data scheduling, textbook scheduling, and rules of ours.

A rule gives every sample that a device holds an *index*; the best index uploads. Where devices
choose their sample by themselves, a device counts by the index of the sample that it would upload.

Source: RRM §4 and its figure text.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from edge_gym.baselines.base import OURS, Baseline, DrawingBaseline
from edge_gym.core.observation import ObservationTable
from edge_gym.data import load_dataset
from edge_gym.envs.data_scheduling.actions import preferred_sample
from edge_gym.envs.data_scheduling.config import DataSchedulingConfig
from edge_gym.envs.data_scheduling.embeddings import EMBEDDING_SIZE
from edge_gym.learning import LEARNERS, importance
from edge_gym.physics.wireless import db_to_linear
from edge_gym.runtime.checks import check_choice, check_flag, check_number
from edge_gym.typing import BoolArray, IntArray

Float64Array = NDArray[np.float64]

_SVMS = ("svm", "svm-ovo")
_NETWORKS = ("mlp", "cnn")
_LEAST_NORM = 1e-9
_LEAST_RATE = 1e-12


class Seen:
    """What is observed, by name: the reading that all rules share.

    Args:
        config: The public configuration.
        tables: The observation's tables.
        observations: The observation's parts, with any leading axes.
        masks: Which discrete actions are possible; None if it is not known.

    Attributes:
        snr: γ of each device's channel in this block, ``(..., K)``.
        possible: Which samples can be uploaded, ``(..., K, N)``: they are there, their device was
            not yet chosen in this block, and the masks allow them.
        devices: Which devices have a sample that can be uploaded, ``(..., K)``.
    """

    def __init__(
        self,
        config: DataSchedulingConfig,
        tables: Mapping[str, ObservationTable],
        observations: Mapping[str, NDArray[Any]],
        masks: BoolArray | None = None,
    ) -> None:
        self.config, self._tables, self._observations = config, tables, observations
        self.snr = db_to_linear(self.device("snr_db"))
        self.present = self.sample("present") > 0
        self.possible = self.present & ~self.chosen[..., None]
        if masks is not None:
            k, n = self.present.shape[-2:]
            each = (k, n) if config.actions == "sample" else (k, 1)
            self.possible &= masks.reshape(*masks.shape[:-1], *each)
        self.devices: BoolArray = np.asarray(self.possible.any(axis=-1))

    def device(self, name: str) -> Float64Array:
        """Return a column of the devices, ``(..., K)``."""
        return self._read("devices", name)

    def sample(self, name: str) -> Float64Array:
        """Return a column of the samples, ``(..., K, N)``."""
        return self._read("samples", name)

    def system(self, name: str) -> Float64Array:
        """Return a column of the system so that it broadcasts against samples, ``(..., 1, 1)``."""
        return self._read("system", name)[..., None, None]

    @property
    def sample_snr(self) -> Float64Array:
        """The SNR at which each sample would be uploaded, ``(..., K, N)``."""
        return np.broadcast_to(self.snr[..., None], self.present.shape)

    @property
    def chosen(self) -> BoolArray:
        """Which devices were chosen in this block so far, ``(..., K)``."""
        if self.config.in_turns:
            return np.asarray(self.device("chosen") > 0)
        return np.zeros(self.snr.shape, np.bool_)

    @functools.cached_property
    def uncertainty(self) -> Float64Array:
        """The larger the more uncertain: -d, or the entropy H in nats, ``(..., K, N)``."""
        return -self.sample("distance") if self._has("distance") else self.sample("entropy")

    @functools.cached_property
    def loss(self) -> Float64Array | None:
        """The hinge loss or cross-entropy, ``(..., K, N)``; None where labels are unknown."""
        if self.config.labels == "server":
            return None
        return self.sample("hinge_loss" if self._has("hinge_loss") else "cross_entropy")

    @functools.cached_property
    def preferred(self) -> IntArray:
        """The sample that each device would choose by the document's rule, ``(..., K)``."""
        return preferred_sample(self.uncertainty, self.loss, self.present)

    def at_preferred(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the values ``(..., K, N)`` of the devices' preferred samples, ``(..., K)``."""
        return np.take_along_axis(values, self.preferred[..., None], axis=-1)[..., 0]

    def only(self, samples: IntArray) -> Float64Array:
        """Return 1 for one sample of each device and 0 for its others, ``(..., K, N)``."""
        return np.asarray(samples[..., None] == np.arange(self.present.shape[-1]), np.float64)

    def _read(self, part: str, name: str) -> Float64Array:
        return np.asarray(self._tables[part].read(self._observations[part], name), np.float64)

    def _has(self, name: str) -> bool:
        return name in self._tables["samples"]


def best(keys: Sequence[NDArray[Any]], possible: BoolArray) -> IntArray:
    """Return the possible position of the largest first key; the next key settles ties.

    Args:
        keys: ``(..., n)`` each; what ties in all of them goes to the lower position.
        possible: ``(..., n)``.

    Returns:
        Positions, ``(...)``; 0 where nothing is possible.
    """
    left = possible
    for key in keys:
        value = np.where(left, key, -np.inf)
        left = left & (value == value.max(axis=-1, keepdims=True))
    return np.asarray(left.argmax(axis=-1))


class _SchedulingRule(Baseline):
    """A rule for data scheduling with these learners and this knowledge of the labels."""

    learners: tuple[str, ...] = tuple(LEARNERS)
    labels: tuple[str, ...] = ("device", "server")
    actions: tuple[str, ...] = ("sample", "device", "scores")
    config: DataSchedulingConfig

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Data scheduling with what the rule is made for."""
        return (
            isinstance(config, DataSchedulingConfig)
            and config.learner in cls.learners
            and config.labels in cls.labels
            and config.actions in cls.actions
        )

    @abstractmethod
    def index(self, seen: Seen) -> Float64Array:
        """Return the index of each sample, which broadcasts to ``(..., K, N)``."""

    def preference(self, seen: Seen, index: Float64Array) -> Float64Array:
        """Return what settles ties of index and channel, ``(..., K, N)``."""
        return np.zeros(index.shape)

    def order(self, seen: Seen, index: Float64Array) -> IntArray:
        """Return all devices, best first, from their index ``(..., K)``."""
        value = np.where(seen.devices, index, -np.inf)
        return np.lexsort((-seen.snr, -value), axis=-1)

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Upload the best index, by the better channel where it ties."""
        seen = Seen(self.config, self.tables, observations, masks)
        index = np.broadcast_to(self.index(seen), seen.possible.shape)
        if self.config.actions == "sample":
            keys = (index, seen.sample_snr, self.preference(seen, index))
            flat = (*index.shape[:-2], -1)
            return best([key.reshape(flat) for key in keys], seen.possible.reshape(flat))
        of_devices = seen.at_preferred(index)
        if self.config.actions == "device":
            return best((of_devices, seen.snr), seen.devices)
        scores = np.empty(of_devices.shape, np.float32)
        ranks = np.linspace(1, -1, self.config.n_devices, dtype=np.float32)
        order = self.order(seen, of_devices)
        np.put_along_axis(scores, order, np.broadcast_to(ranks, scores.shape), axis=-1)
        return scores


class _AnySample(_SchedulingRule, DrawingBaseline):
    """A rule on devices alone: where samples are chosen, it takes any of the device's."""

    def preference(self, seen: Seen, index: Float64Array) -> Float64Array:
        """Draw a number for each sample."""
        shape = seen.possible.shape
        draws = np.stack([rng.random(shape[-2:]) for rng in self._generators])
        return np.asarray(draws.reshape(shape))


class RoundRobin(_AnySample):
    """Devices in turn, whatever their channel: the one that uploaded least recently.

    Which of its samples is drawn, where the device does not choose it.
    """

    name = "round-robin"
    source = "textbook"

    def index(self, seen: Seen) -> Float64Array:
        """Return the staleness in blocks; fewer uploads, then the lower device settle ties."""
        k, uploads = self.config.n_devices, seen.device("uploads")
        behind = (uploads + np.arange(k) / k) / (1 + uploads.max(axis=-1, keepdims=True))
        return np.asarray(seen.device("staleness") - behind)[..., None]


@dataclass(frozen=True, kw_only=True)
class ProportionalFairParameters:
    """Parameters of proportional fair scheduling.

    Attributes:
        window_blocks: t_c, blocks over which the served rate is averaged.
    """

    window_blocks: float = 20.0

    def __post_init__(self) -> None:
        check_number("window_blocks", self.window_blocks, 1)


class ProportionalFair(_AnySample):
    """The largest R_k/T_k: the rate log₂(1 + γ_k) now over the average rate served.

    T_k ← (1 - 1/t_c)·T_k + R_k/t_c if device k uploaded in a block, else (1 - 1/t_c)·T_k; it begins
    at what device k would get in turn, M/K·log₂(1 + γ̄_k). Which of its samples is drawn, where the
    device does not choose it.
    """

    name = "proportional-fair"
    source = "Viswanath, Tse and Laroia 2002"
    Parameters = ProportionalFairParameters
    grid = {"window_blocks": (2.0, 5.0, 10.0, 20.0, 50.0, 200.0)}  # noqa: RUF012

    def __init__(self, env: Any, **parameters: Any) -> None:
        super().__init__(env, **parameters)
        shape = (self.n_lanes, self.config.n_devices)
        self._served = np.zeros(shape)
        self._rate = np.zeros(shape)
        self._uploads = np.zeros(shape)
        self._begun = np.zeros(self.n_lanes, np.bool_)

    def begin(self, lanes: NDArray[np.int64], seeds: Sequence[int]) -> None:
        """Forget what was served in ``lanes``."""
        super().begin(lanes, seeds)
        self._begun[lanes] = False

    def index(self, seen: Seen) -> Float64Array:
        """Return R_k/T_k."""
        shape = self._served.shape
        rate = np.log2(1 + seen.snr).reshape(shape)
        uploads = seen.device("uploads").reshape(shape)
        mean_rate = np.log2(1 + db_to_linear(seen.device("mean_snr_db"))).reshape(shape)
        share = self.config.uploads_per_block / self.config.n_devices
        # A block is over when the uploads have changed: devices may be chosen in turns.
        over = self._begun & (uploads != self._uploads).any(axis=1)
        got = np.where(uploads > self._uploads, self._rate, 0)
        averaged = self._served + (got - self._served) / self.parameters.window_blocks
        self._served = np.where(over[:, None], averaged, self._served)
        self._served = np.where(self._begun[:, None], self._served, share * mean_rate)
        self._rate, self._uploads = rate, uploads
        self._begun[:] = True
        ratio = rate / np.maximum(self._served, _LEAST_RATE)
        return np.asarray(ratio.reshape(seen.snr.shape)[..., None])


class ChannelAware(_SchedulingRule):
    """The best channel; its device chooses the sample.

    Where devices know the labels, this is the best channel with the largest loss.
    """

    name = "channel-aware"
    source = "RRM §4.2, first benchmark; figure text, Scheme 1"
    actions: tuple[str, ...] = ("device", "scores")

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


class ChannelAwareSample(ChannelAware, _AnySample):
    """The best channel, and any, the most uncertain or the most lossy of its device's samples."""

    actions = ("sample",)
    labels: tuple[str, ...] = ("server",)
    Parameters = SampleParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"sample": SampleParameters.samples}

    def preference(self, seen: Seen, index: Float64Array) -> Float64Array:
        """Single out the device's sample."""
        if self.parameters.sample == "random":
            return super().preference(seen, index)
        loss = seen.loss if self.parameters.sample == "loss" else None
        return seen.only(preferred_sample(seen.uncertainty, loss, seen.present))


class ChannelAwareLabelledSample(ChannelAwareSample):
    """The same where devices know the labels."""

    labels = ("device",)
    Parameters = LabelledSampleParameters
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"sample": LabelledSampleParameters.samples}


class DataAware(_SchedulingRule):
    """The most uncertain sample, whatever the channel."""

    name = "data-aware"
    source = "RRM §4.2, second benchmark"

    def index(self, seen: Seen) -> Float64Array:
        """Return -d, or the entropy."""
        return seen.uncertainty


class ImportanceAware(_SchedulingRule):
    """The largest expected uncertainty after the channel, I = -E‖x‖²/γ - d², with E‖x‖² = 1."""

    name = "importance-aware"
    source = "RRM eq. (3), (4), U_d = -d²"
    learners = _SVMS

    def index(self, seen: Seen) -> Float64Array:
        """Return I."""
        return -1 / seen.sample_snr - np.square(seen.uncertainty)


@dataclass(frozen=True, kw_only=True)
class WeightParameters:
    """Parameters of rules in which channel noise counts against an uncertainty in nats.

    Attributes:
        weight: What the noise power 1/γ counts for; the document leaves the scaling open.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        check_number("weight", self.weight, 0)


class ImportanceAwareEntropy(_SchedulingRule):
    """The same for networks: I = H - weight/γ, H the entropy of the predicted classes."""

    name = "importance-aware"
    source = "RRM eq. (4), extension to networks; the weight is ours"
    learners = _NETWORKS
    Parameters = WeightParameters
    grid = {"weight": (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)}  # noqa: RUF012

    def index(self, seen: Seen) -> Float64Array:
        """Return I."""
        return seen.uncertainty - float(self.parameters.weight) / seen.sample_snr


class _LossRule(_SchedulingRule):
    """A rule on the loss, which devices that know the labels can tell.

    Where no sample has a loss, the best channel is scheduled (figure text, Remark 1), and there
    the most uncertain sample.
    """

    labels = ("device",)

    def preference(self, seen: Seen, index: Float64Array) -> Float64Array:
        """Prefer the most uncertain among samples without a loss."""
        return np.where(index > 0, 0, seen.uncertainty)

    def loss(self, seen: Seen) -> Float64Array:
        """Return the hinge loss, for networks the cross-entropy, ``(..., K, N)``."""
        assert seen.loss is not None
        return seen.loss


class ZeroOneLoss(_LossRule):
    """The best channel among samples that are classified wrongly, I = ℓ₀₁·γ."""

    name = "zero-one-loss"
    source = "RRM figure text, eq. (7)"

    def index(self, seen: Seen) -> Float64Array:
        """Return I."""
        return seen.sample("zero_one_loss") * seen.sample_snr


class HingeLoss(_LossRule):
    """The largest hinge loss times SNR, I = ℓ·γ; networks have the cross-entropy in its place."""

    name = "hinge-loss"
    source = "RRM figure text, eq. (8)"

    def index(self, seen: Seen) -> Float64Array:
        """Return I."""
        return self.loss(seen) * seen.sample_snr


class HingeLossSqrt(_LossRule):
    """The largest hinge loss times root of SNR, I = ℓ·√γ; networks have the cross-entropy."""

    name = "hinge-loss-sqrt"
    source = "RRM figure text, eq. (20)"

    def index(self, seen: Seen) -> Float64Array:
        """Return I."""
        return self.loss(seen) * np.sqrt(seen.sample_snr)


class SupportVectorProbability(_SchedulingRule):
    """The largest probability Φ((1 - c·s)/σ) that what is received is a support vector.

    σ² = E‖x‖²·‖w‖²/γ is the noise of the received score, E‖x‖² = 1. Wherever a sample has a loss,
    the choice is that of ``hinge-loss-sqrt``, for ‖w‖ is the same for all; where none has, this
    takes the sample that noise would most likely make one, be its channel good or bad. With more
    than two classes, c·s is that of the nearest machine and ‖w‖ the machines' mean.
    """

    name = "support-vector-probability"
    source = "RRM figure text, eq. (9), (18), (19)"
    learners = _SVMS
    labels = ("device",)

    def index(self, seen: Seen) -> Float64Array:
        """Return (1 - c·s)/σ, which ranks as Φ of it and does not saturate."""
        deviation = np.maximum(seen.system("weight_norm"), _LEAST_NORM) / np.sqrt(seen.sample_snr)
        return (1 - seen.sample("margin")) / deviation


@dataclass(frozen=True, kw_only=True)
class LossPowerParameters:
    """Parameters of the loss rule with a free exponent.

    Attributes:
        snr_exponent: b, how much the channel counts against the loss.
    """

    snr_exponent: float = 1.5

    def __post_init__(self) -> None:
        check_number("snr_exponent", self.snr_exponent, 0, 10)


class LossPower(_LossRule):
    """What lies between (20), (8) and beyond: I = ℓ·γᵇ; networks have the cross-entropy."""

    name = "loss-power"
    source = OURS
    Parameters = LossPowerParameters
    grid = {"snr_exponent": (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)}  # noqa: RUF012

    def index(self, seen: Seen) -> Float64Array:
        """Return I."""
        return self.loss(seen) * np.power(seen.sample_snr, float(self.parameters.snr_exponent))


@dataclass(frozen=True, kw_only=True)
class InformationParameters:
    """Parameters of the rules on Fisher information.

    Attributes:
        weight: What the noise power 1/γ counts for. The noise of all d features together has the
            power d/γ, that of a sample is 1: with d for the weight, information counts as much as
            the sample's share of what is received.
    """

    weight: float = 2000.0

    def __post_init__(self) -> None:
        check_number("weight", self.weight, 0)


_WEIGHTS = (20.0, 200.0, 2000.0)


class _Informed(_SchedulingRule):
    """A rule on a, the Fisher information of logistic regression along a sample.

    A sample with score s adds p(1 - p)·zzᵀ to the information about the weights, p = 1/(1 + e^-s),
    the expectation of the squared residual, (y - p)²·zzᵀ; where devices know the labels, they take
    the residual itself. Noise attenuates both twice. It blurs the score to N(s, ‖w‖²/γ), so that
    κ·s, κ = 1/√(1 + π‖w‖²/(8γ)), stands for s and κ² is a factor; and it hides the sample, a factor
    1/(1 + weight/γ), which is ours. For networks, uncertainty H/ln C stands for 4p(1 - p), p of the
    label is e^-loss, and there is no κ.

    Source: Hoi, Jin, Zhu and Lyu 2006, Batch mode active learning and its application to medical
    image classification (information); MacKay 1992, The evidence framework applied to
    classification networks (κ).
    """

    def information(self, seen: Seen) -> Float64Array:
        """Return a of each sample, ``(..., K, N)``."""
        share = 1 / (1 + float(self.parameters.weight) / seen.sample_snr)
        if self.config.learner in _NETWORKS:
            if seen.loss is not None:
                return share * np.square(np.expm1(-seen.loss))
            classes = self.config.classes or load_dataset(self.config.dataset).class_names
            return np.asarray(share * seen.uncertainty / (4 * np.log(len(classes))))
        norm = seen.system("weight_norm")
        kappa = 1 / np.sqrt(1 + np.pi * np.square(norm) / (8 * seen.sample_snr))
        if seen.loss is not None:
            return np.asarray(share * np.square(kappa * expit(-kappa * seen.sample("margin"))))
        p = expit(kappa * norm * seen.sample("distance"))
        return np.asarray(share * np.square(kappa) * p * (1 - p))


@dataclass(frozen=True, kw_only=True)
class FisherParameters(InformationParameters):
    """Parameters of batch selection by Fisher information.

    Attributes:
        scale: What one sample's information counts for against the prior, which is worth one
            sample spread over all directions: the larger, the more diversity counts; towards 0
            the rule ranks by a·‖z‖².
        unit_length: Whether z/‖z‖ takes the place of z, so that only directions count.
    """

    scale: float = 100.0
    unit_length: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("scale", self.scale, 0, open_low=True)
        check_flag("unit_length", self.unit_length)


class FisherInformation(_Informed):
    """The batch with the largest log det(I/E + scale·Σ a_k z_k z_kᵀ), one device after the other.

    z is the embedding of the sample that a device would upload by itself, E its size, a its Fisher
    information, attenuated by the channel. The next device is the one with the largest gain
    log(1 + scale·a·zᵀA⁻¹z), A over the devices chosen so far: what lies in their direction adds
    little. The gain is submodular, so the greedy batch has at least 1 - 1/e of the best one's.
    """

    name = "fisher-information"
    source = "RRM §4.1, opportunity 2; Hoi, Jin, Zhu and Lyu 2006; MacKay 1992"
    Parameters = FisherParameters
    grid = {  # noqa: RUF012
        "weight": _WEIGHTS,
        "scale": (0.01, 1.0, 100.0, 10000.0),
        "unit_length": (False, True),
    }

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Several uploads in a block, whose diversity counts."""
        return super().applies_to(config) and config.uploads_per_block > 1

    def index(self, seen: Seen) -> Float64Array:
        """Return the next device's gain, at the sample that it would upload by itself."""
        gain = self._gain(*self._begin(seen))
        return np.where(seen.only(seen.preferred) > 0, gain[..., None], -np.inf)

    def order(self, seen: Seen, index: Float64Array) -> IntArray:
        """Return the devices as they are chosen, then the others by what they would gain."""
        m = self.config.uploads_per_block
        z, inverse = self._begin(seen)
        size = z.shape[-1]
        left = seen.devices
        rank = np.where(left, 0, -1)
        for turn in range(m):
            chosen = best((self._gain(z, inverse), seen.snr), left)[..., None]
            left = left & (chosen != np.arange(left.shape[-1]))
            np.put_along_axis(rank, chosen, m - turn, axis=-1)
            picked = np.take_along_axis(z, chosen[..., None], axis=-2)
            # In place: the reshaped inverse is a view.
            importance.acquire(inverse.reshape(-1, size, size), picked.reshape(-1, size))
        return np.lexsort((-seen.snr, -self._gain(z, inverse), -rank), axis=-1)

    def _begin(self, seen: Seen) -> tuple[Float64Array, Float64Array]:
        """Return √(scale·a)·z, ``(..., K, E)``, and A⁻¹ of the devices chosen so far."""
        information = self.parameters.scale * seen.at_preferred(self.information(seen))
        z = np.stack([seen.device(f"embedding_{i}") for i in range(EMBEDDING_SIZE)], axis=-1)
        if self.parameters.unit_length:
            z /= np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), _LEAST_NORM)
        z *= np.sqrt(information)[..., None]
        chosen = z * seen.chosen[..., None]
        prior = np.eye(EMBEDDING_SIZE) / EMBEDDING_SIZE
        inverse = np.linalg.inv(prior + np.swapaxes(chosen, -1, -2) @ chosen)
        return z, np.asarray(inverse, np.float64)

    @staticmethod
    def _gain(z: Float64Array, inverse: Float64Array) -> Float64Array:
        """Return log(1 + zᵀA⁻¹z), ``(..., K)``, by the matrix determinant lemma."""
        return np.asarray(np.log1p(np.sum((z @ inverse) * z, axis=-1)))


@dataclass(frozen=True, kw_only=True)
class DiversityParameters(InformationParameters):
    """Parameters of scheduling by global diversity.

    Attributes:
        diversity: How strongly novelty counts: at 0 the rule ranks by the information alone.
    """

    diversity: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("diversity", self.diversity, 0, 10)


class GlobalDiversity(_Informed):
    """What a sample adds to all that the server has, I = log(1 + a·(zᵀA⁻¹z)^diversity).

    A sums ẑẑᵀ over all acquired samples, so zᵀA⁻¹z is large for a sample unlike them. With
    ``diversity`` 1 this is the gain of log det A by a sample of information a (D-optimal design).
    After RRM §4.1, opportunity 3, which names no formula.
    """

    name = "global-diversity"
    source = OURS
    Parameters = DiversityParameters
    grid = {"weight": _WEIGHTS, "diversity": (0.0, 0.25, 0.5, 1.0)}  # noqa: RUF012

    def index(self, seen: Seen) -> Float64Array:
        """Return I."""
        novelty = np.power(seen.sample("novelty"), float(self.parameters.diversity))
        return np.asarray(np.log1p(self.information(seen) * novelty))


RULES: tuple[type[Baseline], ...] = (
    RoundRobin,
    ProportionalFair,
    ChannelAware,
    ChannelAwareSample,
    ChannelAwareLabelledSample,
    DataAware,
    ImportanceAware,
    ImportanceAwareEntropy,
    ZeroOneLoss,
    HingeLoss,
    HingeLossSqrt,
    SupportVectorProbability,
    LossPower,
    FisherInformation,
    GlobalDiversity,
)
