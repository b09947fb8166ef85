"""The picture of an episode: the received image, its SNR against the protocol's, the accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.core.scene import BarPanel, GaugePanel, ImagePanel, Scene
from edge_gym.data import load_dataset
from edge_gym.envs.retransmission.dynamics import Retransmission
from edge_gym.envs.retransmission.observation import required_snr
from edge_gym.physics import wireless

_SHOWN_USES = 36


def picture(problem: Retransmission, lane: int) -> Scene:
    """Show the received image, its SNR against the protocol's threshold, and the accuracy."""
    config, features, uses = problem.config, problem.features, int(problem.uses[lane])
    positions, snr, uncertainty = problem.trace[lane, :uses].T
    # Not the next sample of the sequence: at the end of an episode, that one is never sent.
    row = problem.sequence[lane, int(positions[-1])]
    over = bool(problem.position[lane] > positions[-1])
    snr_db = wireless.linear_to_db(snr)
    kind = problem.learner.uncertainty
    required = required_snr(uncertainty, config.alignment_probability, kind)
    class_names = load_dataset(config.dataset).class_names
    label = class_names[features.classes[features.train_labels[row]]]
    transmissions, margin = int(problem.transmissions[lane]), float(problem.margin[lane])
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
                    image=features.image(problem.received[lane]),
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
                problem.accuracy_panel(lane, uses, "channel uses"),
                GaugePanel(
                    title="Budget left",
                    value=config.budget - uses,
                    maximum=config.budget,
                    unit="channel uses",
                ),
            ),
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
