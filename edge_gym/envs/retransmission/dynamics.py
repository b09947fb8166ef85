"""Importance-aware retransmission: is a received sample good enough to learn from?

Source: RRM §3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from scipy.special import ndtri

from edge_gym.core.env import EdgeEnv
from edge_gym.core.observation import Column, ObservationTable
from edge_gym.core.problem import Step
from edge_gym.core.scene import BarPanel, GaugePanel, ImagePanel, Scene
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.data import load_dataset, partition
from edge_gym.envs.centralized import (
    MAX_STEPS,
    SNR_DB_BOUNDS,
    SYMBOL_SNR_DB_BOUNDS,
    CentralizedConfig,
    CentralizedLearning,
)
from edge_gym.physics import wireless
from edge_gym.runtime.checks import check_integer, check_number
from edge_gym.typing import BoolArray, IntArray

ACCEPT, RETRANSMIT = 0, 1
_SHOWN_USES = 36


@dataclass(frozen=True, kw_only=True)
class RetransmissionConfig(CentralizedConfig):
    """Settings of the retransmission problem; further fields are ``CentralizedConfig``'s.

    Attributes:
        budget: Channel uses in an episode.
        buffer_size: Samples in a device's buffer; None shares the whole pool out.
        alignment_probability: p_c, whose θ₀ = [Φ⁻¹(p_c)]² the observed ``required_snr_db`` uses.
    """

    mean_snr_db: float = 5.0
    initial_samples: int = 20
    budget: int = 400
    buffer_size: int | None = None
    alignment_probability: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("budget", self.budget, 1, MAX_STEPS)
        if self.buffer_size is not None:
            check_integer("buffer_size", self.buffer_size, 1)
        check_alignment_probability(self.alignment_probability)


def check_alignment_probability(value: Any) -> None:
    """Raise a ValueError unless ``value`` is a p_c that θ₀ = [Φ⁻¹(p_c)]² > 0 can encode."""
    check_number("alignment_probability", value, 0.5, 1, open_low=True, open_high=True)


def required_snr(
    uncertainty: NDArray[Any], alignment_probability: float, kind: str = "distance"
) -> NDArray[np.float64]:
    """Return the SNR that the importance-aware protocols ask for, before the cap θ_SNR.

    θ₀·U_d(x̂) with U_d = 1/d² for distances d and U = H for entropies H, and
    θ₀ = E‖x‖²·[Φ⁻¹(p_c)]², where E‖x‖² = 1.

    Args:
        uncertainty: Distances or entropies, any shape.
        alignment_probability: p_c in (0.5, 1).
        kind: ``"distance"`` or ``"entropy"``.

    Source: RRM (1), (2) and documents' README (θ₀ encodes p_c).
    """
    theta_0 = ndtri(alignment_probability) ** 2
    if kind == "entropy":
        return np.asarray(theta_0 * uncertainty, np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray(theta_0 / np.square(uncertainty, dtype=np.float64))


def observation_table(config: RetransmissionConfig) -> ObservationTable:
    """Return the columns of the observation under ``config``."""
    low_db, high_db = SNR_DB_BOUNDS
    if config.learner.startswith("svm"):
        uncertainty = Column(
            "distance", "1", 0, 20, "distance of x̂ to the nearest boundary", 0.2, 0.2
        )
    else:
        uncertainty = Column("entropy", "nat", 0, 10, "entropy of the predicted classes", 0.5, 0.5)
    return ObservationTable(
        Column(
            "effective_snr_db",
            "dB",
            low_db,
            high_db,
            "SNR γ after combining: E‖x‖² over the noise of one dimension",
            12,
            6,
        ),
        uncertainty,
        Column("margin", "1", -30, 30, "signed margin y·s(x̂) against the label", 0.5, 1),
        Column("required_snr_db", "dB", low_db, high_db, "SNR that Protocol 1 asks for", 16, 10),
        Column("transmissions", "transmission", 1, 1e6, "receptions combined so far", 2, 2),
        Column(
            "budget_left",
            "channel use",
            0,
            1e6,
            "channel uses left",
            config.budget / 2,
            config.budget / 4,
        ),
        Column(
            "samples", "sample", 0, 1e6, "samples acquired", config.budget / 4, config.budget / 4
        ),
        Column(
            "informative",
            "sample",
            0,
            1e6,
            "samples acquired with a margin below 1 as received, with their noise",
            config.budget / 8,
            config.budget / 8,
        ),
        Column(
            "informative_snr_db",
            "dB",
            low_db,
            high_db,
            "SNR of these: the inverse of their mean noise",
            12,
            4,
        ),
        Column("unlearned", "sample", 0, 1e6, "samples accepted since the last training", 5, 5),
        Column(
            "class_balance", "1", 0, 1, "entropy of the acquired labels over its maximum", 1, 0.1
        ),
        Column(
            "label_share", "1", 0, 100, "share of this label among the acquired, times C", 1, 0.3
        ),
        Column("accuracy", "1", 0, 1, "validation accuracy", 0.85, 0.1),
        Column(
            "accuracy_slope", "1/training", -1, 1, "smoothed gain of accuracy a training", 0, 0.01
        ),
        Column(
            "effective_symbol_snr_db",
            "dB",
            *SYMBOL_SNR_DB_BOUNDS,
            "effective SNR of one symbol, 10·log₁₀ d below that of the sample",
            -10,
            6,
        ),
    )


def _snr_panel(
    positions: NDArray[Any],
    snr_db: NDArray[np.float64],
    required_db: NDArray[np.float64],
    over: bool,
    mean_snr_db: float,
) -> BarPanel:
    """Show the latest channel uses: the SNR that each reached, and the one asked for."""
    uses = len(positions)
    first = max(uses - _SHOWN_USES, 0)
    low, high = mean_snr_db - 20, mean_snr_db + 25
    accepted = np.append(positions[1:] != positions[:-1], over)
    current = np.arange(uses) == (uses if over else uses - 1)

    def latest(values: NDArray[np.float64]) -> NDArray[np.float64]:
        padded = np.full(_SHOWN_USES, np.nan)
        # Beyond the axis' ends, a bar and what is asked for stay in sight at the end.
        padded[: uses - first] = np.clip(values[first:], low + 0.5, high)
        return padded

    return BarPanel(
        title="Effective SNR",
        labels=[str(use) if use % 5 == 0 else "" for use in first + 1 + np.arange(_SHOWN_USES)],
        series={
            "accepted": latest(np.where(accepted, snr_db, np.nan)),
            "retransmitted": latest(np.where(accepted | current, np.nan, snr_db)),
            "now": latest(np.where(current, snr_db, np.nan)),
        },
        targets={"Protocol 1 asks": latest(required_db)},
        x_label="channel uses",
        y_label="SNR, dB",
        y_limits=(low, high),
        width=2.8,
    )


class Retransmission(CentralizedLearning):
    """The retransmission problem for many lanes; see ``RetransmissionEnv``."""

    config: RetransmissionConfig
    config_type = RetransmissionConfig
    documented_tables: ClassVar[dict[str, ObservationTable]] = {
        "": observation_table(RetransmissionConfig())
    }
    lane_arrays = (
        *CentralizedLearning.lane_arrays,
        "_sequence",
        "_gain",
        "_position",
        "_uses",
        "_transmissions",
        "_snr",
        "_sum",
        "_received",
        "_uncertainty",
        "_margin",
        "_informative",
        "_noise_power",
        "_trace",
    )

    def __init__(self, config: RetransmissionConfig, n_lanes: int) -> None:
        super().__init__(config, n_lanes, n_steps=config.budget)
        n_features = self.features.train.shape[1]
        self.table = observation_table(config)
        self.tables = {"": self.table}
        self.observation_space = self.table.space()
        self.action_space = spaces.Discrete(2)
        self._mean_snr = float(wireless.db_to_linear(config.mean_snr_db))
        self._sequence = np.zeros((n_lanes, config.budget), np.int64)
        self._gain = np.zeros((n_lanes, config.budget))
        self._position = np.zeros(n_lanes, np.int64)
        self._uses = np.zeros(n_lanes, np.int64)
        self._transmissions = np.zeros(n_lanes, np.int64)
        self._snr = np.zeros(n_lanes, np.float32)
        self._sum = np.zeros((n_lanes, n_features), np.float32)
        self._received = np.zeros((n_lanes, n_features), np.float32)
        self._noise = np.zeros((n_lanes, n_features), np.float32)
        self._uncertainty = np.zeros(n_lanes, np.float32)
        self._margin = np.zeros(n_lanes, np.float32)
        self._informative = np.zeros(n_lanes, np.int64)
        # Sum of 1/γ over the informative samples; the initial ones have no noise.
        self._noise_power = np.zeros(n_lanes)
        # Position in the sequence, effective SNR and uncertainty after each, for pictures too.
        self._trace = np.zeros((n_lanes, config.budget, 3), np.float32)

    def reset_lanes(self, lanes: IntArray) -> dict[str, NDArray[Any]]:
        """Draw splits, buffers, the order of samples and fading; train on the initial set."""
        config = self.config
        initial = np.zeros((len(lanes), config.initial_samples), np.int64)
        for row, lane in enumerate(lanes):
            rng = self.generators[lane]
            initial[row], pool = self._draw_data(lane)
            self._sequence[lane] = self._draw_sequence(rng, pool)
            self._gain[lane] = wireless.rayleigh_gain(rng, config.budget)
        info = self._begin_learning(lanes, initial)
        for array in (self._position, self._uses):
            array[lanes] = 0
        self._informative[lanes] = config.initial_samples
        self._noise_power[lanes] = 0
        self._begin_sample(lanes)
        self._transmit(lanes)
        self._judge(lanes)
        return info

    def step_lanes(self, lanes: IntArray, actions: NDArray[Any]) -> Step:
        """Retransmit or accept; accepting may train, and sends a new sample."""
        last = self._uses[lanes] >= self.config.budget
        accepts = (actions == ACCEPT) | last
        accepting = lanes[accepts]
        self._acquire(accepting, self._received[accepting], self._labels(accepting))
        informative = accepting[self._margin[accepting] < 1]
        self._informative[informative] += 1
        self._noise_power[informative] += 1 / np.maximum(self._snr[informative], 1e-6)
        self.tracker.record(lanes, self._uses[lanes])

        reward, info, final_info = self._learn(lanes, last)
        self._position[accepting] += 1
        going = lanes[~last]
        self._begin_sample(lanes[accepts & ~last])
        self._transmit(going)
        # A lane that learned judges what it has received anew; the others have a new reception.
        self._judge(going)
        info["channel_uses"] = self._uses[lanes].astype(np.float64)
        info["accepted"] = accepts.astype(np.float64)
        info["projected"] = (last & (actions == RETRANSMIT)).astype(np.float64)
        return Step(reward, last, np.zeros_like(last), info, final_info)

    def observe(self) -> NDArray[np.float32]:
        """Return the observations of all lanes, ``(n_lanes, F)``."""
        lanes = np.arange(self.n_lanes)
        snr_db = wireless.linear_to_db(self._snr)
        kind = self.learner.uncertainty
        required = required_snr(self._uncertainty, self.config.alignment_probability, kind)
        return self.table.fill(
            {
                "effective_snr_db": snr_db,
                kind: self._uncertainty,
                "margin": self._margin,
                "required_snr_db": wireless.linear_to_db(np.minimum(required, 1e9)),
                "transmissions": self._transmissions,
                "budget_left": self.config.budget - self._uses,
                "samples": self._acquired(),
                "informative": self._informative,
                "informative_snr_db": wireless.linear_to_db(
                    self._informative / np.maximum(self._noise_power, 1e-6)
                ),
                "unlearned": self._unlearned,
                "class_balance": self._class_balance(),
                "label_share": self._label_share()[lanes, self._labels(lanes)] * self.n_classes,
                "accuracy": self.tracker.accuracy,
                "accuracy_slope": self.tracker.accuracy_slope,
                "effective_symbol_snr_db": wireless.symbol_snr_db(
                    snr_db, self.features.train.shape[1]
                ),
            }
        )

    def action_masks(self) -> BoolArray:
        """Accepting is always possible, retransmitting while channel uses are left."""
        masks = np.ones((self.n_lanes, 2), np.bool_)
        masks[:, RETRANSMIT] = self._uses < self.config.budget
        return masks

    def scene(self, lane: int) -> Scene:
        """Show the received image, its SNR against the protocol's threshold, and the accuracy."""
        config, features, uses = self.config, self.features, int(self._uses[lane])
        positions, snr, uncertainty = self._trace[lane, :uses].T
        # Not the next sample of the sequence: at the end of an episode, that one is never sent.
        row = self._sequence[lane, int(positions[-1])]
        over = bool(self._position[lane] > positions[-1])
        snr_db = wireless.linear_to_db(snr)
        kind = self.learner.uncertainty
        required = required_snr(uncertainty, config.alignment_probability, kind)
        class_names = load_dataset(config.dataset).class_names
        label = class_names[features.classes[features.train_labels[row]]]
        transmissions, margin = int(self._transmissions[lane]), float(self._margin[lane])
        return Scene(
            title=f"A noisy “{label}”: {'accepted' if over else 'accept or retransmit?'}",
            text=(
                f"transmission {transmissions}   ·   {kind} {uncertainty[-1]:.2f}   ·   "
                f"margin {'+' if margin > 0 else '−'}{abs(margin):.2f}, "
                f"{'right' if margin > 0 else 'wrong'} side of the boundary"
                f"{'   ·   budget spent' if over else ''}"
            ),
            panels=(
                (
                    ImagePanel(
                        title="Received",
                        image=features.image(self._received[lane]),
                        caption=f"SNR {snr_db[-1]:.1f} dB",
                    ),
                    ImagePanel(
                        title="Sent",
                        image=features.image(features.train[row]),
                        caption=f"label {label}",
                    ),
                    _snr_panel(
                        positions, snr_db, wireless.linear_to_db(required), over, config.mean_snr_db
                    ),
                ),
                (
                    self._accuracy_panel(lane, uses, "channel uses"),
                    GaugePanel(
                        title="Budget left",
                        value=config.budget - uses,
                        maximum=config.budget,
                        unit="channel uses",
                    ),
                ),
            ),
        )

    def _draw_sequence(self, rng: np.random.Generator, pool: IntArray) -> IntArray:
        """Return which sample comes when: a random device's next one, each buffer shuffled anew."""
        config = self.config
        parts = partition(rng, self.features.train_labels[pool], config.n_devices, config.partition)
        buffers = [pool[rng.permutation(part)[: config.buffer_size]] for part in parts]
        devices = rng.integers(config.n_devices, size=config.budget)
        sequence = np.empty(config.budget, np.int64)
        for device, buffer in enumerate(buffers):
            turns = np.flatnonzero(devices == device)
            rounds = [rng.permutation(buffer) for _ in range(-(-len(turns) // len(buffer)))]
            if rounds:
                sequence[turns] = np.concatenate(rounds)[: len(turns)]
        return sequence

    def _rows(self, lanes: IntArray) -> IntArray:
        """Return the training rows of the samples now being sent."""
        position = np.minimum(self._position[lanes], self.config.budget - 1)
        return np.asarray(self._sequence[lanes, position])

    def _labels(self, lanes: IntArray) -> IntArray:
        return np.asarray(self.features.train_labels[self._rows(lanes)])

    def _begin_sample(self, lanes: IntArray) -> None:
        self._sum[lanes] = 0
        self._snr[lanes] = 0
        self._transmissions[lanes] = 0

    def _transmit(self, lanes: IntArray) -> None:
        """Send the current samples once more and combine (RRM §3.2, analog, MRC)."""
        for lane in lanes:
            self.generators[lane].standard_normal(dtype=np.float32, out=self._noise[lane])
        weighted_sum, effective_snr = self._sum[lanes], self._snr[lanes]
        snr = self._mean_snr * self._gain[lanes, self._uses[lanes]]
        sent = self.features.train[self._rows(lanes)]
        wireless.mrc_accumulate(weighted_sum, effective_snr, sent, snr, self._noise[lanes])
        self._received[lanes] = wireless.mrc_combine(weighted_sum, effective_snr)
        self._sum[lanes], self._snr[lanes] = weighted_sum, effective_snr
        self._transmissions[lanes] += 1
        self._uses[lanes] += 1

    def _judge(self, lanes: IntArray) -> None:
        labels = self._labels(lanes)[:, None]
        assessment = self.learner.assess(lanes, self._received[lanes][:, None], labels)
        self._uncertainty[lanes] = assessment.uncertainty[:, 0]
        self._margin[lanes] = assessment.margin[:, 0]
        trace = self._position[lanes], self._snr[lanes], self._uncertainty[lanes]
        self._trace[lanes, self._uses[lanes] - 1] = np.column_stack(trace)


class RetransmissionEnv(EdgeEnv):
    """Is a received sample good enough to learn from, or should it be sent again?

    ## Description
    A device sends a training sample to the server by analog modulation over a fading channel; its
    label arrives without noise. The server combines all receptions of the sample by maximal-ratio
    combining, so the i-th one at SNR γᵢ = γ̄·|hᵢ|², |hᵢ|² ~ Exp(1), adds γᵢ to the effective SNR.
    It either accepts what it has combined into its training set or requests the sample again.
    The budget of channel uses is limited: many noisy samples or few clean ones, and for which
    samples is it worth the wait? The classifier is trained for real on everything accepted.

    γ is E‖x‖² = 1 over the noise of one of the d dimensions; the SNR of a symbol is γ/d, so 5 dB
    are -17.9 dB a symbol at 14×14, and both are observed. A channel use is the transmission of a
    whole sample. The request for another one takes no time, as in Wen et al. 2019 §3.2.

    ## Action Space
    ``Discrete(2)``: 0 accepts the received sample, and the next one is sent; 1 requests it again.
    When the budget is spent the last sample is accepted whatever the action; ``action_masks()``
    then forbids 1, and ``info["projected"]`` is 1 if it was taken nevertheless.

    ## Observation Space
    A ``Box`` with these columns, bounds in the default configuration; networks observe
    ``entropy`` in the place of ``distance``:

    {observation_table}

    ## Rewards
    The gain in validation accuracy whenever the classifier is trained, 0 at other steps. It is
    trained after every ``retrain_every`` accepted samples and on what is left at the end, so an
    episode's return is exactly the final minus the initial validation accuracy. Validation
    samples are drawn from the training set and never learned from; test accuracy is only
    reported. With ``reward="loss"`` the decrease of the validation loss takes the place of the
    gain, and telescopes likewise: a smoother signal to learn from.

    ## Starting State
    Each episode draws a split of the data, ``initial_samples`` noiseless samples (classes
    balanced) that the classifier is trained on, the devices' buffers, the order in which devices
    and their samples come, and the fading. One channel use has been made: the first sample has
    arrived once.

    ## Episode End
    Terminates after ``budget`` steps, one per channel use. The last ``info`` adds
    ``test_accuracy``, ``area_under_curve`` (mean validation accuracy over channel uses) and
    ``total_gain``. There is no truncation.

    ## Information
    ``validation_accuracy``, ``accuracy_gain``, ``validation_loss``, ``loss_decrease``,
    ``samples``, ``channel_uses``, ``accepted``, ``trained``, ``projected``; with ``track_test``
    also ``test_accuracy``.

    ## Arguments
    The fields of ``RetransmissionConfig``, by name or as ``config=``.

    ## References
    RRM §3.2, Protocols 1 and 2; the noise convention is that of the documents' README: n ~
    N(0, I/γ) with features scaled to E‖x‖² = 1.

    ## Version History
    - v0: first version.
    """

    problem_type = Retransmission


class RetransmissionVectorEnv(EdgeVectorEnv):
    """Many lanes of ``RetransmissionEnv`` at a time; lane i seeded s + i equals it."""

    problem_type = Retransmission
