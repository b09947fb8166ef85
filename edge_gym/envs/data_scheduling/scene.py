"""The picture of an episode: the last upload, channels, buffers and the accuracy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_gym.core.scene import BarPanel, GaugePanel, ImagePanel, Scene, acted_on
from edge_gym.data import load_dataset
from edge_gym.envs.data_scheduling.dynamics import DataScheduling
from edge_gym.physics import wireless

_SHOWN_DEVICES = 40


def picture(problem: DataScheduling, lane: int) -> Scene:
    """Show the last upload, the channels of the next block, the buffers and the accuracy."""
    config, features = problem.config, problem.features
    device, row, snr_db = (float(value) for value in problem.uploaded[lane])
    uploads = int(problem.device_uploads[lane].sum())
    shown = min(config.n_devices, _SHOWN_DEVICES)
    done = int(problem.block[lane])
    over = done == config.blocks
    last = (problem.last_upload[lane, :shown] == done) & (uploads > 0)
    low, high = config.mean_snr_db - 20, config.mean_snr_db + 25

    def channels(gain: NDArray[np.float64]) -> NDArray[np.float64]:
        snr = problem.mean_snr[lane, :shown] * gain[lane, :shown]
        return np.clip(wireless.linear_to_db(snr), low + 0.5, high)

    # The last upload is over: bars are the channels that the next one is decided on.
    bars = channels(problem.fading.gain)
    series, targets = acted_on(bars, last, "uploaded last"), {}
    if config.in_turns:
        chosen = problem.is_chosen()[lane, :shown]
        series = {name: np.where(chosen, np.nan, values) for name, values in series.items()}
        series["chosen"] = np.where(chosen, bars, np.nan)
    if uploads and not over:
        targets[f"in block {done}"] = np.where(last, channels(problem.last_gain), np.nan)
    names = load_dataset(config.dataset).class_names
    label = names[features.classes[problem.labels_of(np.array(lane), np.array(int(row)))]]
    kind = problem.learner.uncertainty
    uncertainty = problem.uncertainty[lane, :shown]
    present = problem.buffers.present[lane, :shown] & np.isfinite(uncertainty)
    nearest = np.where(present, uncertainty, np.inf if kind == "distance" else -np.inf)
    extreme = nearest.min(axis=1) if kind == "distance" else nearest.max(axis=1)
    labels = [str(k) if config.n_devices <= 12 or k % 5 == 0 else "" for k in range(shown)]
    axis = "device" if shown == config.n_devices else f"device, the first {shown}"
    panels = (
        ImagePanel(
            title="Received",
            image=features.image(problem.received[lane]) * bool(uploads),
            caption=f"SNR {snr_db:.1f} dB" if uploads else "nothing yet",
        ),
        ImagePanel(
            title="Sent",
            image=features.image(features.train[int(row)]) * bool(uploads),
            caption=f"label {label}, device {int(device)}" if uploads else "nothing yet",
        ),
        BarPanel(
            title=f"Channels of block {done + 1 - over}" + ("" if over else ", the next"),
            labels=labels,
            series=series,
            targets=targets,
            x_label=axis,
            y_label="SNR, dB",
            y_limits=(low, high),
            width=3.0,
        ),
        BarPanel(
            title=f"Most uncertain sample: {kind}",
            labels=labels,
            series={kind: np.where(np.isfinite(extreme), extreme, np.nan)},
            x_label=axis,
            y_label=kind if kind == "distance" else "entropy, nat",
        ),
    )
    return Scene(
        title=f"{uploads} of {config.budget} samples uploaded",
        text=(
            f"{config.n_devices} devices with {config.buffer_size} samples each"
            f"   ·   {problem.acquired()[lane]} samples acquired"
            + (f"   ·   received in block {done}" if uploads else "")
        ),
        panels=(
            panels,
            (
                problem.accuracy_panel(lane, int(problem.steps()[lane]), "steps"),
                GaugePanel(
                    title="Budget left",
                    value=config.budget - uploads,
                    maximum=config.budget,
                    unit="uploads",
                ),
            ),
        ),
    )
