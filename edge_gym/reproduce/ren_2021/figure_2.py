"""Ren et al. 2021, Fig. 2: how long the gradient of a batch takes, on the machine at hand."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls

from edge_gym.learning.networks.architecture import Network
from edge_gym.learning.networks.factory import make_network
from edge_gym.physics.compute import gpu_latency
from edge_gym.reports.charts import INK, new_figure, save, tidy, write_title
from edge_gym.reproduce.harness import (
    NO,
    PARTLY,
    YES,
    Claim,
    Findings,
    Options,
    write_findings,
)
from edge_gym.reproduce.ren_2021.drawing import plain_ticks
from edge_gym.runtime.checks import check_choice, check_integer
from edge_gym.runtime.isolation import in_isolation

Float64Array = NDArray[np.float64]

_COLOURS = ("#0072B2", "#D55E00", "#009E73")
_SMALL = {"mlp": (1, 28, 28), "cnn": (1, 28, 28), "lenet": (1, 28, 28)}
_DOCUMENT = {"densenet-121": (3, 32, 32), "resnet-18": (3, 32, 32), "mobilenet-v2": (3, 32, 32)}
_CLASSES = 10
_HIDDEN_SIZES = (64,)
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_QUICK_BATCHES = (1, 4, 16, 64, 256)
_LEAST_S = 5e-3  # A measurement takes as many gradients as this.
# Flat is what grows by less than this share over the whole flat part.
_FLAT = 0.1
_GOOD = 0.1


class LatencyFit(NamedTuple):
    """Equation (27) fitted: t^ℓ up to B^th, then c for each further sample.

    Attributes:
        base_latency_s: t^ℓ, s.
        slope_s: c, s.
        threshold: B^th, samples.
        error: Root mean square of the relative errors.
    """

    base_latency_s: float
    slope_s: float
    threshold: float
    error: float


def fit_latency(batches: ArrayLike, seconds: ArrayLike) -> LatencyFit:
    """Fit (27) to measured latencies by least squares of relative errors.

    Given B^th the rest is linear with signs, which is solved exactly; B^th is searched on a grid
    over the measured batches and then around the best.

    Args:
        batches: Batchsizes, ``(n,)``, ascending, n ≥ 3.
        seconds: Latency of each, positive.

    Raises:
        ValueError: If there are fewer than three batches or a latency is not positive.

    Source: Ren et al. 2021, eq. (27).
    """
    b, t = np.asarray(batches, np.float64), np.asarray(seconds, np.float64)
    if len(b) < 3:
        raise ValueError(f"a fit of three constants needs at least 3 batches, got {len(b)}")
    if not (t > 0).all():
        raise ValueError(f"latencies must be positive, got {t}")

    def solved(threshold: float) -> LatencyFit:
        # Batches beyond the last but one determine no slope.
        columns = np.stack([np.ones_like(b), np.maximum(b - threshold, 0)], axis=1)
        (base, slope), residual = nnls(columns / t[:, None], np.ones_like(t))
        return LatencyFit(float(base), float(slope), threshold, float(residual / np.sqrt(len(b))))

    grid = np.linspace(b[0], b[-2], 400)
    best = min((solved(float(threshold)) for threshold in grid), key=lambda fit: fit.error)
    for _ in range(3):
        width = grid[1] - grid[0]
        low = max(b[0], best.threshold - width)
        grid = np.linspace(low, min(b[-2], best.threshold + width), 41)
        best = min((solved(float(value)) for value in grid), key=lambda fit: fit.error)
    return best


def feel_fig2(folder: Path, options: Options) -> Findings:
    """Measure seconds of a gradient against the batchsize and fit (27).

    A gradient is a forward and a backward pass on a batch that lies in the device's memory;
    latencies are medians of repeats. ``--set compute_device=cpu`` or ``cuda`` says where, a GPU if
    there is one if not; ``--set repeats=N`` how often. On a CPU one thread computes, as the
    learners do.

    Raises:
        ValueError: If a value is out of range or something else is set.
        OSError: If ``folder`` cannot be written to.

    Source: Ren et al. 2021, Fig. 2, eq. (27).
    """
    setting = _setting(options)
    device = torch.device(setting.compute_device)
    batches = _QUICK_BATCHES if options.quick else BATCHES
    data: dict[str, Any] = {}
    claims: list[Claim] = []
    for name, image_shape in (_DOCUMENT if options.full else _SMALL).items():
        network = make_network(name, image_shape, _CLASSES, hidden_sizes=_HIDDEN_SIZES)

        def report(done: int, task: str = name) -> None:
            if options.progress is not None:
                options.progress(task, done, setting.repeats)

        samples = measure_latency(network, batches, setting.repeats, device, report)
        seconds = np.median(samples, axis=1)
        fit = fit_latency(batches, seconds)
        data[name] = {
            "batch": list(batches),
            "seconds": seconds.tolist(),
            "quartiles": np.quantile(samples, [0.25, 0.75], axis=1).T.tolist(),
            "fit": fit._asdict(),
            "image_shape": list(image_shape),
            "parameters": network.n_parameters,
        }
        claims.append(_claim(name, np.array(batches), seconds, fit))
    where = _where(device)
    findings = Findings(
        title=f"Ren et al. 2021, Fig. 2: latency of a gradient, {where}",
        config={**setting._asdict(), "machine": where, "torch": torch.__version__},
        seeds=[],
        parameters={},
        claims=claims,
        data=data,
        files=[folder / "feel-fig2.json", folder / "feel-fig2.png"],
    )
    write_findings(findings, _draw)
    return findings


class _Setting(NamedTuple):
    compute_device: str
    repeats: int


def _setting(options: Options) -> _Setting:
    usual = {
        "compute_device": "cuda" if torch.cuda.is_available() else "cpu",
        "repeats": 5 if options.quick else 15,
    }
    unknown = [name for name in options.overrides if name not in usual]
    if unknown:
        raise ValueError(f"feel-fig2 has no {unknown[0]!r} to set, but {', '.join(usual)}")
    setting = _Setting(**{**usual, **options.overrides})
    check_choice("compute_device", setting.compute_device, ("cpu", "cuda"))
    check_integer("repeats", setting.repeats, 1)
    return setting


def _where(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"one thread of a CPU ({platform.machine()}, {os.cpu_count()} cores)"


@in_isolation
def measure_latency(
    network: Network,
    batches: tuple[int, ...],
    repeats: int,
    device: torch.device,
    report: Callable[[int], None],
) -> Float64Array:
    """Return seconds of a gradient for each batchsize and repeat, ``(n, repeats)``.

    Args:
        network: What is trained.
        batches: Batchsizes.
        repeats: Measurements of each.
        device: Where it computes.
        report: Told how many repeats are done.
    """
    rng = np.random.default_rng(0)
    weights = torch.from_numpy(network.draw(rng)).float().to(device)[None]
    inputs = torch.from_numpy(rng.standard_normal((1, max(batches), network.n_features)))
    inputs = inputs.float().to(device)
    labels = torch.from_numpy(rng.integers(network.n_classes, size=(1, max(batches)))).to(device)
    parts = [part.contiguous() for part in network.split(weights)]
    into = [torch.empty_like(part) for part in parts]
    factor = torch.ones(1, device=device)

    def seconds(batch: int, times: int) -> float:
        share = torch.full((1, batch), 1 / batch, device=device)
        started = _now(device)
        with torch.no_grad():
            for _ in range(times):
                network.backward(
                    parts, inputs[:, :batch], labels[:, :batch], share, factor, into, replace=True
                )
        return (_now(device) - started) / times

    # The first time memory is found and kernels are chosen.
    first = [min(seconds(batch, 1) for _ in range(2)) for batch in batches]
    table = np.empty((len(batches), repeats))
    # What else the machine does for a while must not fall on one batchsize alone.
    for j in range(repeats):
        for i, batch in enumerate(batches):
            table[i, j] = seconds(batch, max(1, round(_LEAST_S / first[i])))
        report(j + 1)
    return table


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _claim(name: str, batches: NDArray[np.int64], seconds: Float64Array, fit: LatencyFit) -> Claim:
    flat = batches <= fit.threshold
    growth = seconds[flat].max() / seconds[0] - 1 if flat.any() else 0.0
    # What is nearly as quick as a single sample, whatever the fit says.
    slow = np.flatnonzero(seconds > (1 + _FLAT) * seconds[0])
    quick = batches[slow[0] - 1] if len(slow) else batches[-1]
    seen = (
        f"t^ℓ = {1e3 * fit.base_latency_s:.3g} ms up to B^th = {fit.threshold:.3g}, then "
        f"c = {1e6 * fit.slope_s:.3g} µs a sample; relative error {fit.error:.1%}; batches up to "
        f"{quick} take at most a tenth longer than one sample"
    )
    if flat.sum() > 1 and growth < _FLAT and fit.error < _GOOD:
        outcome = YES
    else:
        outcome = PARTLY if quick > 1 else NO
    return Claim(f"{name}: the latency is flat at first, then linear", seen, outcome)


def _draw(findings: Findings, path: Path) -> None:
    figure, grid = new_figure(4.6 * len(findings.data), 4.2, 1, len(findings.data))
    items: Mapping[str, Any] = findings.data
    for axes, colour, (name, numbers) in zip(grid[0], _COLOURS, items.items(), strict=True):
        batches, fit = np.array(numbers["batch"]), numbers["fit"]
        milliseconds = 1e3 * np.array(numbers["seconds"])
        spread = np.abs(1e3 * np.transpose(numbers["quartiles"]) - milliseconds)
        axes.errorbar(
            batches, milliseconds, yerr=spread, fmt="o", ms=4, color=colour, label="measured"
        )
        line = np.geomspace(batches[0], batches[-1], 300)
        fitted = gpu_latency(line, fit["base_latency_s"], fit["slope_s"], fit["threshold"])
        axes.plot(line, 1e3 * fitted, color=INK, linewidth=1, label="(27) fitted")
        axes.axvline(fit["threshold"], color=INK, linewidth=0.8, linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        plain_ticks(axes)
        axes.set_xlabel("batchsize", color=INK)
        axes.set_title(f"{name}, relative error {fit['error']:.1%}", fontsize=10, color=INK)
        axes.legend(frameon=False, fontsize=8)
        tidy(axes)
    grid[0][0].set_ylabel("milliseconds of a gradient, median and quartiles", color=INK)
    write_title(figure, findings.title)
    save(figure, path)
