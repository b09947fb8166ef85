"""Rules on what a sample tells the classifier: Fisher information, diversity, novelty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from edge_gym.baselines.base import OURS
from edge_gym.baselines.data_scheduling.loss import LEAST_NORM
from edge_gym.baselines.data_scheduling.rule import SchedulingRule, Seen, best
from edge_gym.data import load_dataset
from edge_gym.envs.data_scheduling.embeddings import EMBEDDING_SIZE
from edge_gym.learning import importance
from edge_gym.learning.base import learner_type
from edge_gym.runtime.checks import check_flag, check_number
from edge_gym.typing import Float64Array, IntArray


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


_WEIGHTS = (20.0, 200.0, 2000.0, 2e4, 2e5)
_NOISE_ALONE = 2e5
"""With this weight noise outweighs every sample: information times SNR ranks."""


class InformationRule(SchedulingRule):
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

    @classmethod
    def applies_to(cls, config: Any) -> bool:
        """Scores of which a probability follows: by distance and ‖w‖, or by entropy or loss."""
        learner = learner_type(config.learner)
        if learner.has_weight_norm:
            return config.labels == "device" or learner.uncertainty == "distance"
        if config.labels == "device":
            return learner.loss == "cross_entropy"
        return learner.uncertainty == "entropy"

    def information(self, seen: Seen) -> Float64Array:
        """Return a of each sample, ``(..., K, N)``."""
        share = 1 / (1 + float(self.parameters.weight) / seen.sample_snr)
        if not seen.has("system", "weight_norm"):
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


class FisherInformation(InformationRule):
    """The batch with the largest log det(I/E + scale·Σ a_k z_k z_kᵀ), one device after the other.

    z is the embedding of the sample that a device would upload by itself, E its size, a its Fisher
    information, attenuated by the channel. The next device is the one with the largest gain
    log(1 + scale·a·zᵀA⁻¹z), A over the devices chosen so far: what lies in their direction adds
    little. The gain is submodular, so the greedy batch has at least 1 - 1/e of the best one's.
    """

    name = "fisher-information"
    source = "Wen et al. 2019, §4.1, opportunity 2; Hoi, Jin, Zhu and Lyu 2006; MacKay 1992"
    Parameters = FisherParameters
    grid = {  # noqa: RUF012
        "weight": _WEIGHTS,
        "scale": (1e-4, 0.01, 1.0, 100.0, 1e4),
        "unit_length": (False, True),
    }
    further_grids = (
        {
            "weight": (200.0, 2000.0),
            "weight_late": (20.0, 200.0, 2000.0, 2e4),
            "scale": (0.01,),
            "unit_length": (True,),
        },
    )
    bounds = {"weight": (_NOISE_ALONE,), "scale": (1e-4,)}  # noqa: RUF012
    # Of the samples that devices would upload, where several do so in a block.
    needs = {  # noqa: RUF012
        "devices": ("snr_db", *(f"embedding_{i}" for i in range(EMBEDDING_SIZE))),
        "samples": ("present",),
    }

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
            z /= np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), LEAST_NORM)
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


class GlobalDiversity(InformationRule):
    """What a sample adds to all that the server has, I = log(1 + a·(zᵀA⁻¹z)^diversity).

    A sums ẑẑᵀ over all acquired samples, so zᵀA⁻¹z is large for a sample unlike them. With
    ``diversity`` 1 this is the gain of log det A by a sample of information a (D-optimal design).
    After Wen et al. 2019, §4.1, opportunity 3, which names no formula.
    """

    name = "global-diversity"
    source = OURS
    Parameters = DiversityParameters
    grid = {"weight": _WEIGHTS, "diversity": (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)}  # noqa: RUF012
    further_grids = (
        {
            "weight": (200.0, 2000.0),
            "diversity": (0.0, 0.25, 0.5, 1.0),
            "diversity_late": (0.0, 0.25, 1.0, 2.0),
        },
    )
    bounds = {"weight": (_NOISE_ALONE,), "diversity": (0.0,)}  # noqa: RUF012

    def index(self, seen: Seen) -> Float64Array:
        """Return I."""
        novelty = np.power(seen.sample("novelty"), float(self.parameters.diversity))
        return np.asarray(np.log1p(self.information(seen) * novelty))
