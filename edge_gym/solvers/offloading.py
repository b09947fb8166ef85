"""Joint model training and task inference: who offloads how much, and who gets which band.

Arrays in, arrays out, any number of instances at once: the last axis holds the M users, leading
axes hold instances, arguments broadcast.

``evaluate`` is (1)-(10a). The methods differ in how they choose the shares ι of the tasks:

* For given ι the problem is convex. ``optimal_resources`` solves it with a primal-dual interior
  point to a relative gap of 1e-8: users meet in τ̂ and in the band alone, so that one step takes a
  number of operations linear in M. Frequencies then follow from Proposition 1.
* ``exhaustive`` does so for all ι on a grid, ``local_only`` for ι = 0, ``edge_only`` for ι = 1.
* ``admm`` is the document's method. For given ι the users' subproblems (18) split into an uplink's,
  with τ̂, and a downlink's once it is known how much of w^t lies on the branch at the server, 0
  unless that branch dominates: three nested searches by Newton's method.
* ``near_optimal`` looks at τ̂ on a grid. Given τ̂, users meet in the band alone: each one's least
  cost is tabulated for every number of cells of the band, uplink, downlink and ι being free (for
  given shares the cost is convex in ι < 1, with a closed form; ι = 1 is a branch of its own), and
  dynamic programming shares the cells out. Uplinks have in advance what lets their update arrive
  by τ̂, and cells are what is left. Then τ̂ and shares are looked at in ever finer grids around the
  best, and its ι gets its optimal resources.
* ``given_bands`` is GBE.

Where document and README of the documents differ, the README holds. A training iteration, n < N, is
one without tasks: ι and frequencies are 0, and every user downloads the model.

With M = 4 and Table I, the gap of ``admm`` to the exhaustive optimum of step 0.2, in percent, mean
and worst of 120 draws, and the median and largest number of iterations until (24), at most 500 with
c = 2 and 2,000 with c = 20 (``near_optimal`` ends at most 0.02 above that optimum):

===  ===========  ===========  ==========  ===========  ==========
σ    D_m in Mbit  c = 2        iterations  c = 20       iterations
===  ===========  ===========  ==========  ===========  ==========
2.9  4            -0.98, 0.15  43, 75      -0.95, 0.46  38, 94
2.9  16           -0.06, 0.70  66, 113     0.30, 1.88   135, 317
2.9  48           0.00, 0.00   61, 154     0.12, 2.75   13, 912
2.5  16           0.01, 0.41   44, 73      0.36, 1.52   286, 347
2.7  16           -0.02, 0.19  59, 84      0.43, 1.56   169, 325
3.1  16           0.03, 1.36   59, 500     0.51, 2.00   152, 369
3.3  16           0.02, 0.54   59, 111     0.21, 2.50   210, 384
===  ===========  ===========  ==========  ===========  ==========

Milliseconds of one instance by ``benchmarks/offloading.py``, of one at a time and of 64 at once
(one core that others used too; CPU time of one thread). cvxpy (Clarabel) solves for one given ι,
compiled for its pattern of downloads before or in that time:

======================  ============  ===========  ============  ============
                        M = 4         12           50            200
======================  ============  ===========  ============  ============
evaluate                0.22, 0.0041  0.21, 0.005  0.23, 0.0066  0.14, 0.0087
optimal_resources       0.26, 0.032   0.31, 0.095  0.51, 0.38    1.6, 1.6
near_optimal            1, 0.73       2.9, 2.4     7.5, 7.3      29, 31
admm, c = 2             9.7, 9        4.7, 4.7     20, 28        78, 144
admm, c = 20            18, 16        14, 18       74, 87        311, 376
local_only              0.3, 0.031    0.34, 0.093  0.48, 0.4     1.7, 1.6
edge_only               0.23, 0.022   0.32, 0.06   0.34, 0.2     0.87, 0.63
given_bands             6.8, 9        4.9, 4.7     21, 27        103, 130
exhaustive              34, 30        none         none          none
cvxpy, compiled before  3.9           6.3          14            48
cvxpy, compiled within  26            36           73            1,160
======================  ============  ===========  ============  ============
"""

from __future__ import annotations

import importlib
import itertools
import math
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_gym.physics.wireless import Float64Array, _checked
from edge_gym.runtime.compiling import compiled
from edge_gym.runtime.threads import for_ranges

_MAX_EXHAUSTIVE = 6
_TOLERANCE = 1e-8
_MAX_STEPS = 100
_SPLIT_PRECISION = 1e-3
_NEWTON_STEP = 1e-6
_MAX_PRICE = 1e12
_PRICE_STEPS = 25
_CELLS_PER_USER = 3
_LEVEL_STEPS = 3
_BEST_LEVELS = 5
_ZOOM_REACH = 2
_FINEST = 1e-2
_GOLDEN = (math.sqrt(5) - 1) / 2
_POSITIVE = (
    *("band_hz", "uplink_snr_hz", "downlink_snr_hz", "model_bits", "cycles_per_bit"),
    *("server_hz", "max_hz", "time_weight"),
)


@dataclass(frozen=True, eq=False)
class OffloadingCosts:
    """What one iteration costs M users in joules and seconds, by what is decided.

    All fields are broadcast to one shape ``(..., M)`` of float64.

    Attributes:
        band_hz: Band B that all uplinks and downlinks share, one per instance.
        uplink_snr_hz: p_j·h_j/δ_s²: the SNR over one hertz, linear, of a symbol.
        downlink_snr_hz: P_s·h_j/δ_j².
        transmit_power_w: Power p_j of a user's transmitter.
        receive_power_w: Power p_j^md of a user's receiver.
        model_bits: Size D_m of the model and of its update.
        task_bits: Size L_j of the inference task. A user without a task (0) downloads the model;
            an iteration n < N is one in which no user has a task.
        cycles_per_bit: Cycles C of inference per bit.
        capacitance: Effective capacitance κ_c in J·s².
        server_hz: CPU frequency f_s of the server, for every task.
        max_hz: Highest CPU frequency f_max of a user.
        training_s: Time from there until the update can be sent: τ_j^lt of local training, or more
            where the uplink is busy for longer.
        training_j: Energy e_j^lt of local training.
        previous_download_s: Time at which the user begins to train, not counted in its latency:
            τ_{j,N-1}^md of the last download, or more where its CPU is busy for longer.
        energy_weight: Weight w_j^e of a joule.
        time_weight: Weight w_j^t of a second.

    Raises:
        ValueError: If a value is out of range or not finite, or shapes do not fit.

    Source: JOINT §II; p_j^md is a power in watts.
    """

    band_hz: Float64Array
    uplink_snr_hz: Float64Array
    downlink_snr_hz: Float64Array
    transmit_power_w: Float64Array
    receive_power_w: Float64Array
    model_bits: Float64Array
    task_bits: Float64Array
    cycles_per_bit: Float64Array
    capacitance: Float64Array
    server_hz: Float64Array
    max_hz: Float64Array
    training_s: Float64Array
    training_j: Float64Array
    previous_download_s: Float64Array
    energy_weight: Float64Array
    time_weight: Float64Array

    def __post_init__(self) -> None:
        arrays = {}
        for field in fields(self):
            name = field.name
            array = _checked(name, getattr(self, name), positive=name in _POSITIVE)
            if not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)].flat[0]}")
            arrays[name] = array
        shape = np.broadcast_shapes(*(array.shape for array in arrays.values()))
        if not shape or not shape[-1]:
            raise ValueError(f"uplink_snr_hz must have an axis of users, got the shape {shape}")
        for name, array in arrays.items():
            object.__setattr__(self, name, np.broadcast_to(array, shape))
        if (self.band_hz != self.band_hz[..., :1]).any():
            raise ValueError("band_hz must be the same for all users of an instance")


class Offloading(NamedTuple):
    """Decisions of one iteration, all ``(..., M)``.

    Attributes:
        offloaded: Shares ι_j of the tasks that the server computes; 0 for users without a task.
        download: Whether users download the model, a_j: all but those with ι_j = 1.
        uplink_share: Shares b_j of the band.
        downlink_share: Shares b̄_j of the band; 0 without a download.
        cpu_hz: CPU frequencies f_j; 0 where nothing is computed locally.
    """

    offloaded: Float64Array
    download: NDArray[np.bool_]
    uplink_share: Float64Array
    downlink_share: Float64Array
    cpu_hz: Float64Array


class Evaluation(NamedTuple):
    """What one iteration costs; arrays are ``(..., M)`` where not said otherwise.

    Attributes:
        energy_j: Energies E_j, eq. (8).
        latency_s: Latencies T_j, eq. (9).
        wsel: Weighted sum of energy and latency over all users, eq. (10a), ``(...)``.
        model_ready_s: Time τ̂ at which the server has the new model, eq. (6), ``(...)``.
        upload_s: Times τ_j^mu of uploading the model update.
        offload_s: Times τ_j^to of offloading the task.
        download_s: Times τ_j^md of downloading the model; 0 without a download.
        local_s: Times τ_j^c of computing locally.
        edge_s: Times τ_j^e of computing at the server.
        upload_j: Energies e_j^mu.
        offload_j: Energies e_j^to.
        download_j: Energies e_j^md.
        local_j: Energies e_j^c.
    """

    energy_j: Float64Array
    latency_s: Float64Array
    wsel: Float64Array
    model_ready_s: Float64Array
    upload_s: Float64Array
    offload_s: Float64Array
    download_s: Float64Array
    local_s: Float64Array
    edge_s: Float64Array
    upload_j: Float64Array
    offload_j: Float64Array
    download_j: Float64Array
    local_j: Float64Array


class _Times(NamedTuple):
    """Times in seconds that do not depend on CPU frequencies; ``model_ready`` keeps its axis."""

    upload: Float64Array
    offload: Float64Array
    download: Float64Array
    model_ready: Float64Array
    edge: Float64Array
    edge_end: Float64Array


def evaluate(costs: OffloadingCosts, offloading: Offloading) -> Evaluation:
    """Return what an iteration costs with any decision.

    Nothing is sent in a share of zero and nothing computed at a frequency of zero: what needs it
    takes forever. Whether shares sum to at most one is not checked.

    Raises:
        ValueError: If a decision is out of range, if a user with ι = 1 downloads the model, or
            another one does not.

    Source: JOINT eqs. (1)-(10a).
    """
    shape = costs.band_hz.shape
    offloaded = _split(costs, offloading.offloaded)
    download = np.broadcast_to(np.asarray(offloading.download, dtype=np.bool_), shape)
    if (download != (offloaded < 1)).any():
        where = download != (offloaded < 1)
        raise ValueError(
            "download must be true where offloaded < 1 and only there, got "
            f"{download[where][0]} with offloaded = {offloaded[where][0]}"
        )
    uplink = _share("uplink_share", offloading.uplink_share)
    downlink = _share("downlink_share", offloading.downlink_share)
    cpu = _checked("cpu_hz", offloading.cpu_hz)
    if (cpu > costs.max_hz).any():
        raise ValueError(f"cpu_hz must be at most max_hz, got {cpu[cpu > costs.max_hz].flat[0]}")
    times = _times(costs, offloaded, uplink, downlink)
    cycles = costs.cycles_per_bit * costs.task_bits * (1 - offloaded)
    local = _quotient(cycles, cpu)
    upload_j, offload_j = (_product(costs.transmit_power_w, part) for part in times[:2])
    download_j = _product(costs.receive_power_w, times.download)
    local_j = costs.capacitance * cpu**2 * cycles
    energy = costs.training_j + upload_j + offload_j + download_j + local_j
    local_end = np.where(download, times.model_ready + times.download + local, 0.0)
    latency = np.maximum(local_end, times.edge_end) - costs.previous_download_s
    wsel = (_product(costs.energy_weight, energy) + costs.time_weight * latency).sum(axis=-1)
    return Evaluation(
        *(energy, latency, np.asarray(wsel), times.model_ready[..., 0], *times[:3]),
        *(local, times.edge, upload_j, offload_j, download_j, local_j),
    )


def best_frequency(
    costs: OffloadingCosts,
    offloaded: ArrayLike,
    uplink_share: ArrayLike,
    downlink_share: ArrayLike,
) -> Float64Array:
    """Return the best CPU frequencies in hertz for all else given, ``(..., M)``.

    f_j = min((w^t/(2κ_c·w^e))^(1/3), f_max), or as slow as lets the local part finish with the
    part at the server where that takes longer; 0 where nothing is computed locally.

    Raises:
        ValueError: If an argument is out of range.

    Source: JOINT eq. (19), Proposition 1; μ_j = w^t unless the branch at the server dominates.
    """
    offloaded = _split(costs, offloaded)
    uplink = _share("uplink_share", uplink_share)
    times = _times(costs, offloaded, uplink, _share("downlink_share", downlink_share))
    cycles = costs.cycles_per_bit * costs.task_bits * (1 - offloaded)
    received = times.model_ready + times.download
    left = np.subtract(
        times.edge_end, received, out=np.zeros(costs.band_hz.shape), where=np.isfinite(received)
    )
    tie = np.divide(cycles, left, out=np.full_like(cycles, np.inf), where=left > 0)
    return np.asarray(np.where(cycles > 0, np.minimum(_free_hz(costs), tie), 0.0))


def optimal_resources(
    costs: OffloadingCosts,
    offloaded: ArrayLike,
    *,
    grouped: bool = False,
    solver: Literal["interior-point", "cvxpy"] = "interior-point",
) -> Offloading:
    """Return the best shares of the band and CPU frequencies for given shares ι of the tasks.

    Args:
        costs: Costs of the iteration, ``(..., M)``.
        offloaded: Shares ι_j in [0, 1], ``(..., M)``; users without a task get 0.
        grouped: Whether uplinks and downlinks have half of the band each, as in GBE.
        solver: ``cvxpy`` hands the same convex problem to Clarabel, instance by instance.

    Returns:
        The decisions; shares sum to one, of each half to a half where it is used.

    Raises:
        ValueError: If ``offloaded`` is out of range or its shape does not fit.
        ImportError: If ``solver`` is ``cvxpy`` and cvxpy is not installed.
        cvxpy.error.SolverError: If Clarabel fails, as it does on instances with extreme values.

    Source: JOINT §III, (10) with ι and a fixed.
    """
    split = _split(costs, offloaded)
    return _best_of(costs, split.reshape(-1, 1, split.shape[-1]), grouped, solver)


def local_only(costs: OffloadingCosts) -> Offloading:
    """Return LCO: all tasks are computed locally, ι = 0 and a = 1; all else is optimal.

    Source: JOINT §IV; the printed "L_j = L" belongs to an older notation.
    """
    return optimal_resources(costs, 0.0)


def edge_only(costs: OffloadingCosts) -> Offloading:
    """Return ECO: all tasks are computed at the server, ι = 1 and a = 0; all else is optimal.

    Users without a task download the model all the same.

    Source: JOINT §IV; the printed "L_j = 0" belongs to an older notation.
    """
    return optimal_resources(costs, 1.0)


def given_bands(costs: OffloadingCosts) -> Offloading:
    """Return GBE: uplinks have half of the band and downlinks the other half.

    Read as: the shares of all uplinks, which carry the model's updates and the tasks, sum to a
    half, and so do those of all downlinks, which carry the model alone and thus have a dedicated
    band. All else is optimised: ι and a by ``admm`` on these bands, whose larger step size of the
    shares keeps it from going back and forth between two ι, then shares and frequencies for these
    ι. 840 draws of M = 4 at Table I's setting cost 0.15 % less on average than the grid of step 0.2
    on these bands, and 1.3 % more at worst.

    Source: JOINT §IV.
    """
    found, _ = admm(costs, share_factor=4.0, max_iterations=200, grouped=True)
    return optimal_resources(costs, found.offloaded, grouped=True)


def admm(
    costs: OffloadingCosts,
    penalty: float = 2.0,
    *,
    share_factor: float = 1.0,
    scaled: bool = True,
    tolerances: tuple[float, float] = (1.5e-4, 1e-4),
    max_iterations: int = 500,
    grouped: bool = False,
) -> tuple[Offloading, NDArray[np.int64]]:
    """Return the decisions of the published method, and how many iterations it took.

    Args:
        costs: Costs of the iteration, ``(..., M)``.
        penalty: Step size c; the document has 20, with which far more iterations are needed.
        share_factor: How many times as large the step size of shares is as that of τ̂.
        scaled: Whether to scale c, which the document gives for M = 4 alone, to other M, c·4/M for
            τ̂ and c·(M/4)³ for shares: where M users have the band, shares are of the order of 1/M,
            latencies and what a user costs of the order of M. It changes nothing for M = 4.
        tolerances: ε₁ and ε₂ of (24), per user.
        max_iterations: After how many iterations to stop where (24) does not hold yet.
        grouped: Whether uplinks and downlinks have half of the band each.

    Returns:
        The users' copies of the shares as they are in the end, scaled to the band, and the numbers
        of iterations, ``(...)``.

    Raises:
        ValueError: If ``penalty``, ``share_factor``, ``max_iterations`` or a tolerance is not
            positive.

    Source: JOINT eqs. (14)-(24), Algorithm 1; multipliers of equalities are free in sign.
    """
    for name, value in (
        *(("penalty", penalty), ("share_factor", share_factor)),
        *(("tolerances", min(tolerances)), ("max_iterations", max_iterations)),
    ):
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    users = _users(costs)
    size = users.shape[1] / 4 if scaled else 1.0
    penalties = penalty * np.array([share_factor * size**3, 1 / size, share_factor * size**3])
    settings = grouped, penalties, np.asarray(tolerances, np.float64), max_iterations
    split, uplink, downlink = (np.empty(users.shape) for _ in range(3))
    iterations = np.empty(len(users), np.int64)
    found = split, uplink, downlink, iterations
    for_ranges(lambda start, stop: _admm_of_many(start, stop, users, settings, found), len(users))
    return _decisions(costs, *found[:3]), iterations.reshape(costs.band_hz.shape[:-1])


def exhaustive(
    costs: OffloadingCosts,
    step: float = 0.2,
    *,
    grouped: bool = False,
    solver: Literal["interior-point", "cvxpy"] = "interior-point",
) -> Offloading:
    """Return the best decisions with every ι_j a multiple of ``step``, by trying them all.

    Args:
        costs: Costs of the iteration, ``(..., M)`` with M ≤ 6.
        step: Δι, one over a whole number.
        grouped: Whether uplinks and downlinks have half of the band each.
        solver: As of ``optimal_resources``; cvxpy takes hundreds of times longer.

    Raises:
        ValueError: If there are more than 6 users or ``step`` does not divide one.

    Source: JOINT §III and §IV, "Optimal"; a continuous ι can be better.
    """
    n_users = costs.band_hz.shape[-1]
    if n_users > _MAX_EXHAUSTIVE:
        raise ValueError(
            f"exhaustive search takes at most {_MAX_EXHAUSTIVE} users, got {n_users}; "
            "near_optimal takes any number"
        )
    if not 0 < step <= 1 or abs(round(1 / step) * step - 1) > 1e-9:
        raise ValueError(f"step must be one over a whole number, got {step}")
    levels = np.linspace(0, 1, round(1 / step) + 1)
    every = np.array(list(itertools.product(levels, repeat=n_users)))
    return _best_of(costs, every[None], grouped, solver)


def near_optimal(costs: OffloadingCosts, *, cells: int = 40, levels: int = 20) -> Offloading:
    """Return decisions that are nearly optimal, ι continuous.

    No worse than ``local_only`` and ``edge_only``. Against the best that ``admm``, ``exhaustive``,
    up to four times the cells and levels, and a search in single ι from these find, 40 draws of
    2, 4 and 8 users of Table I for each of 24 settings, models of 0.01 to 48 Mbit and mean tasks of
    1 to 64 Mbit, cost 0.72 % more at worst and 0.07 % on average of any setting; with models of
    8 Mbit or more 0.2 % and 0.01 %.

    Args:
        costs: Costs of the iteration, ``(..., M)``.
        cells: Most cells of the band that a user can get, in the first grid of shares.
        levels: Values of τ̂ that are looked at on a grid of half as many cells; the best five are
            on the first grid.

    Raises:
        ValueError: If ``cells`` or ``levels`` is less than 2.

    Source: JOINT (10), by the method in the documents' README.
    """
    for name, value in (("cells", cells), ("levels", levels)):
        if value < 2:
            raise ValueError(f"{name} must be at least 2, got {value}")
    users = _users(costs)
    candidates = np.zeros((len(users), 3, users.shape[-1]))
    candidates[:, 1] = users["cycles"] > 0
    for_ranges(
        lambda start, stop: _near_optimal_of_many(start, stop, users, cells, levels, candidates),
        len(users),
    )
    return _best_of(costs, candidates)


def _best_of(
    costs: OffloadingCosts,
    candidates: Float64Array,
    grouped: bool = False,
    solver: Literal["interior-point", "cvxpy"] = "interior-point",
) -> Offloading:
    """Return the best of some shares ι with their best resources.

    Args:
        costs: Costs of the iteration, ``(..., M)``.
        candidates: Shares ι, ``(instances, candidates, M)``, or ``(1, candidates, M)`` for all.
            Where users without a task offload, one is passed over.
        grouped: As of ``optimal_resources``.
        solver: As of ``optimal_resources``.
    """
    users = _users(costs)
    split, uplink, downlink = (np.empty(users.shape) for _ in range(3))
    found = split, uplink, downlink
    if solver == "cvxpy":
        problem = _Conic(users.shape[1], grouped)
        for i in range(len(users)):
            tried = candidates[i if len(candidates) > 1 else 0]
            tried = tried[~(tried[:, users[i]["cycles"] == 0] > 0).any(axis=1)]
            solved = [problem.solve(users[i], one) for one in tried]
            best = int(np.argmin([cost for cost, _, _ in solved]))
            split[i], (_, uplink[i], downlink[i]) = tried[best], solved[best]
    else:
        grain = max(1, 16 // candidates.shape[1])
        for_ranges(
            lambda start, stop: _best_of_many(start, stop, users, candidates, grouped, *found),
            len(users),
            grain,
        )
    return _decisions(costs, *found)


def _share(name: str, value: ArrayLike) -> Float64Array:
    share = _checked(name, value)
    if (share > 1 + 1e-9).any():
        raise ValueError(f"{name} must be at most 1, got {share.max()}")
    return share


def _split(costs: OffloadingCosts, offloaded: ArrayLike) -> Float64Array:
    split = _checked("offloaded", offloaded)
    if (split > 1).any():
        raise ValueError(f"offloaded must be at most 1, got {split.max()}")
    shape = costs.band_hz.shape
    try:
        split = np.broadcast_to(split, shape)
    except ValueError:
        raise ValueError(
            f"offloaded must have a shape that broadcasts to {shape}, got {split.shape}"
        ) from None
    return np.where(costs.task_bits > 0, split, 0.0)


def _quotient(needed: Float64Array, speed: Float64Array) -> Float64Array:
    """Return needed/speed, 0 where nothing is needed and infinity at a speed of zero."""
    shape = np.broadcast_shapes(needed.shape, speed.shape)
    needed, speed = np.broadcast_to(needed, shape), np.broadcast_to(speed, shape)
    never = np.where(needed > 0, np.inf, 0.0)
    return np.divide(needed, speed, out=never, where=(speed > 0) & (needed > 0))


def _product(price: Float64Array, amount: Float64Array) -> Float64Array:
    """Return price·amount, 0 where an infinite amount costs nothing."""
    return np.multiply(price, amount, out=np.zeros_like(amount), where=price > 0)


def _rate(share: Float64Array, band_hz: Float64Array, snr_hz: Float64Array) -> Float64Array:
    """Return the rate in bit/s in a share of the band, eqs. (3) and (4)."""
    width = share * band_hz
    snr = np.divide(snr_hz, width, out=np.zeros_like(width), where=width > 0)
    return np.asarray(width / math.log(2) * np.log1p(snr))


def _times(
    costs: OffloadingCosts, offloaded: Float64Array, uplink: Float64Array, downlink: Float64Array
) -> _Times:
    rate = _rate(uplink, costs.band_hz, costs.uplink_snr_hz)
    upload = _quotient(costs.model_bits, rate)
    offload = _quotient(offloaded * costs.task_bits, rate)
    rate = _rate(downlink, costs.band_hz, costs.downlink_snr_hz)
    download = _quotient(np.where(offloaded < 1, costs.model_bits, 0.0), rate)
    arrived = costs.previous_download_s + costs.training_s + upload
    model_ready = np.asarray(arrived.max(axis=-1, keepdims=True))
    edge = costs.cycles_per_bit * offloaded * costs.task_bits / costs.server_hz
    edge_end = np.maximum(model_ready, arrived + offload) + edge
    return _Times(upload, offload, download, model_ready, edge, edge_end)


def _free_hz(costs: OffloadingCosts) -> Float64Array:
    """Return the CPU frequencies where the local branch dominates."""
    heat = 2 * costs.capacitance * costs.energy_weight
    free = np.divide(costs.time_weight, heat, out=np.full_like(heat, np.inf), where=heat > 0)
    return np.minimum(np.cbrt(free), costs.max_hz)


def _decisions(
    costs: OffloadingCosts, split: Float64Array, uplink: Float64Array, downlink: Float64Array
) -> Offloading:
    shape = costs.band_hz.shape
    split, uplink, downlink = (array.reshape(shape) for array in (split, uplink, downlink))
    cpu = best_frequency(costs, split, uplink, downlink)
    return Offloading(split, split < 1, uplink, downlink, cpu)


_USER = np.dtype(
    [
        (name, np.float64)
        for name in (
            *("ready", "uplink_snr", "downlink_snr", "upload", "offload", "download"),
            *("edge", "cycles", "send_price", "receive_price", "time_price", "heat"),
            *("free_hz", "max_hz"),
        )
    ]
)
"""One user as the solvers see it.

Seconds are those of an endless band, which ``_stretch`` turns into those of a share; prices are
those of a second, and ``heat`` is w^e·κ_c.
"""


def _users(costs: OffloadingCosts) -> NDArray[Any]:
    users = np.empty(costs.band_hz.shape, _USER)
    bit_up, bit_down = (math.log(2) / snr for snr in (costs.uplink_snr_hz, costs.downlink_snr_hz))
    users["ready"] = costs.previous_download_s + costs.training_s
    users["uplink_snr"] = costs.uplink_snr_hz / costs.band_hz
    users["downlink_snr"] = costs.downlink_snr_hz / costs.band_hz
    users["upload"] = costs.model_bits * bit_up
    users["offload"] = costs.task_bits * bit_up
    users["download"] = costs.model_bits * bit_down
    users["cycles"] = costs.cycles_per_bit * costs.task_bits
    users["edge"] = users["cycles"] / costs.server_hz
    users["send_price"] = costs.energy_weight * costs.transmit_power_w
    users["receive_price"] = costs.energy_weight * costs.receive_power_w
    users["time_price"] = costs.time_weight
    users["heat"] = costs.energy_weight * costs.capacitance
    users["free_hz"] = _free_hz(costs)
    users["max_hz"] = costs.max_hz
    return users.reshape(-1, costs.band_hz.shape[-1])


@compiled(error_model="numpy")
def _copy(source, target):  # type: ignore[no-untyped-def]
    # Compiles in a fraction of the time of an assignment to a slice.
    for k in range(target.size):
        target[k] = source[k]


@compiled(error_model="numpy")
def _stretch(share, snr):  # type: ignore[no-untyped-def]
    """Return how much longer a share of the band takes than an endless band, x/ln(1 + x).

    x = snr/share. The stretch falls with the share and is convex.
    """
    x = snr / share
    return x / math.log1p(x)


@compiled(error_model="numpy")
def _stretch_slopes(share, snr):  # type: ignore[no-untyped-def]
    """Return the stretch and its first two derivatives with respect to the share."""
    x = snr / share
    stretch = x / math.log1p(x)
    w = 1 / (1 + x)
    q = w * stretch
    fall = stretch * (1 - q) / share
    return stretch, -fall, (fall * (2 - q) + stretch * q * (q - w) / share) / share


@compiled(error_model="numpy")
def _slacks(user, offloaded, present, point, slack):  # type: ignore[no-untyped-def]
    """Write how far a user is inside of its constraints and return its cost.

    ``point`` is (b, b̄, t, T, τ̂), with t the seconds of computing locally and T the latency, the
    last download included. The constraints are, in this order, those that bound τ̂ from below
    (11), T by the local branch, T by the branch at the server twice, τ^pr being a maximum, and t.
    """
    share, down_share, local, latency, ready = point
    stretch = _stretch(share, user.uplink_snr)
    sending = user.upload + offloaded * user.offload
    slack[0] = ready - user.ready - user.upload * stretch
    cost = user.send_price * sending * stretch + user.time_price * latency
    if present[1]:
        download = user.download * _stretch(down_share, user.downlink_snr)
        slack[1] = latency - ready - download - local
        cost += user.receive_price * download
    if present[2]:
        edge = offloaded * user.edge
        slack[2] = latency - ready - edge
        slack[3] = latency - user.ready - sending * stretch - edge
    if present[4]:
        cycles = (1 - offloaded) * user.cycles
        slack[4] = local - cycles / user.max_hz
        if slack[4] > 0:
            cost += user.heat * cycles**3 / local**2
    return cost


@compiled(error_model="numpy")
def _gradients(user, offloaded, present, point, dual, gradient, hessian, slopes):  # type: ignore[no-untyped-def]
    """Write the cost's gradient, the Lagrangian's Hessian and the constraints' gradients."""
    for a in range(5):
        gradient[a] = 0.0
        for b in range(5):
            hessian[a, b] = slopes[a, b] = 0.0
    _, slope, curvature = _stretch_slopes(point[0], user.uplink_snr)
    sending = user.upload + offloaded * user.offload
    gradient[0] = user.send_price * sending * slope
    gradient[3] = user.time_price
    hessian[0, 0] = (user.send_price * sending + dual[0] * user.upload) * curvature
    slopes[0, 0] = user.upload * slope
    slopes[0, 4] = -1.0
    # What a user does not decide gets a Hessian of one, and so never moves.
    hessian[1, 1] = hessian[2, 2] = 1.0
    if present[1]:
        _, down_slope, down_curvature = _stretch_slopes(point[1], user.downlink_snr)
        gradient[1] = user.receive_price * user.download * down_slope
        hessian[1, 1] = (user.receive_price + dual[1]) * user.download * down_curvature
        slopes[1, 1] = user.download * down_slope
        slopes[1, 3], slopes[1, 4] = -1.0, 1.0
    if present[2]:
        hessian[0, 0] += dual[3] * sending * curvature
        slopes[2, 3], slopes[2, 4] = -1.0, 1.0
        slopes[3, 0], slopes[3, 3] = sending * slope, -1.0
    if present[4]:
        heat = user.heat * ((1 - offloaded) * user.cycles / point[2]) ** 3
        gradient[2] = -2 * heat
        hessian[2, 2] = 6 * heat / point[2]
        slopes[1, 2], slopes[4, 2] = 1.0, -1.0


@compiled(error_model="numpy")
def _start(users, offloaded, grouped, points, present):  # type: ignore[no-untyped-def]
    """Write a strictly feasible point and which constraints there are."""
    n_users, n_downloads = users.shape[0], 0
    for j in range(n_users):
        present[j, 0] = True
        present[j, 1] = offloaded[j] < 1
        present[j, 2] = present[j, 3] = offloaded[j] > 0
        present[j, 4] = offloaded[j] < 1 and users[j].cycles > 0
        n_downloads += present[j, 1]
    equal = 1 / (n_users + n_downloads)
    up_total = down_total = 0.0
    for j in range(n_users):
        user = users[j]
        # The least sum of needs/share has shares that go with the roots of the needs.
        sending = user.upload + offloaded[j] * user.offload
        points[j, 0] = math.sqrt(sending * _stretch(equal, user.uplink_snr))
        points[j, 1] = math.sqrt(user.download * _stretch(equal, user.downlink_snr))
        points[j, 1] *= present[j, 1]
        up_total += points[j, 0]
        down_total += points[j, 1]
    if grouped:
        up_total *= 2
        down_total *= 2
    else:
        up_total = down_total = up_total + down_total
    ready = 0.0
    for j in range(n_users):
        user = users[j]
        points[j, 0] /= up_total
        if present[j, 1]:
            points[j, 1] /= down_total
        uploaded = 1.5 * user.upload * _stretch(points[j, 0], user.uplink_snr)
        ready = max(ready, user.ready + uploaded)
    for j in range(n_users):
        user = users[j]
        sending = user.upload + offloaded[j] * user.offload
        arrived = user.ready + sending * _stretch(points[j, 0], user.uplink_snr)
        end = max(ready, arrived) + offloaded[j] * user.edge
        points[j, 2] = 1.2 * (1 - offloaded[j]) * user.cycles / user.free_hz
        if present[j, 1]:
            download = user.download * _stretch(points[j, 1], user.downlink_snr)
            end = max(end, ready + download + points[j, 2])
        points[j, 3] = end + 0.2 * (end - user.ready)
        points[j, 4] = ready


@compiled(error_model="numpy")
def _eliminate(hessian, columns):  # type: ignore[no-untyped-def]
    """Solve with a user's own 4 × 4 block in place; ``columns`` holds right sides as rows."""
    for a in range(4):
        for b in range(a + 1):
            total = hessian[a, b]
            for c in range(b):
                total -= hessian[a, c] * hessian[b, c]
            hessian[a, b] = math.sqrt(total) if a == b else total / hessian[b, b]
    for i in range(columns.shape[0]):
        for a in range(4):
            total = columns[i, a]
            for c in range(a):
                total -= hessian[a, c] * columns[i, c]
            columns[i, a] = total / hessian[a, a]
        for a in range(3, -1, -1):
            total = columns[i, a]
            for c in range(a + 1, 4):
                total -= hessian[c, a] * columns[i, c]
            columns[i, a] = total / hessian[a, a]


@compiled(error_model="numpy")
def _solve_common(matrix, right):  # type: ignore[no-untyped-def]
    """Solve for τ̂ and the band's prices in place: quasidefinite, so pivots need no search."""
    for a in range(3):
        for b in range(a + 1, 3):
            factor = matrix[b, a] / matrix[a, a]
            for c in range(a + 1, 3):
                matrix[b, c] -= factor * matrix[a, c]
            right[b] -= factor * right[a]
    for a in range(2, -1, -1):
        for c in range(a + 1, 3):
            right[a] -= matrix[a, c] * right[c]
        right[a] /= matrix[a, a]


@compiled(error_model="numpy")
def _resources(users, offloaded, grouped, uplink, downlink):  # type: ignore[no-untyped-def]
    """Write the best shares of the band and return their cost, by a primal-dual interior point.

    Users meet in τ̂ and in the band alone: each one's 4 × 4 block is eliminated, and three unknowns
    remain. The cost leaves out what no decision changes.
    """
    n_users = users.shape[0]
    points, present = np.empty((n_users, 5)), np.zeros((n_users, 5), np.bool_)
    _start(users, offloaded, grouped, points, present)
    slack, trial = np.ones((n_users, 5)), np.ones((n_users, 5))
    dual, dual_step = np.zeros((n_users, 5)), np.zeros((n_users, 5))
    slopes = np.empty((n_users, 5, 5))
    columns, step = np.empty((n_users, 4, 4)), np.empty((n_users, 5))
    gradient, hessian, point = np.empty(5), np.empty((5, 5)), np.empty(5)
    coupling, matrix, right = np.zeros((3, 4)), np.empty((3, 3)), np.empty(3)
    down_row = 2 if grouped else 1
    cost, count = 0.0, 0
    for j in range(n_users):
        cost += _slacks(users[j], offloaded[j], present[j], points[j], slack[j])
        for k in range(5):
            count += present[j, k]
    for j in range(n_users):
        for k in range(5):
            if present[j, k]:
                dual[j, k] = cost / count / slack[j, k]
    prices = np.zeros(3)
    length = 1.0
    for _ in range(_MAX_STEPS):
        gap = 0.0
        for j in range(n_users):
            for k in range(5):
                gap += dual[j, k] * slack[j, k]
        target = gap / count * min(max((1 - length) ** 2, 0.05), 1.0)
        for a in range(3):
            right[a] = 0.0
            for b in range(3):
                matrix[a, b] = 0.0
        residual = ready_residual = 0.0
        for j in range(n_users):
            _gradients(
                users[j], offloaded[j], present[j], points[j], dual[j], gradient, hessian, slopes[j]
            )
            for a in range(5):
                unbalanced = gradient[a]
                for k in range(5):
                    unbalanced += dual[j, k] * slopes[j, k, a]
                if a == 0:
                    unbalanced += prices[1]
                if a == 1 and present[j, 1]:
                    unbalanced += prices[down_row]
                if a < 4:
                    scale = points[j, a] if a < 3 else points[j, 3] - users[j].ready
                    residual += abs(unbalanced * scale)
                else:
                    ready_residual += unbalanced
            for k in range(5):
                if not present[j, k]:
                    continue
                weight, push = dual[j, k] / slack[j, k], target / slack[j, k]
                for a in range(5):
                    slope = slopes[j, k, a]
                    if slope != 0.0:
                        gradient[a] += push * slope
                        for b in range(a + 1):
                            hessian[a, b] += weight * slope * slopes[j, k, b]
            coupling[1, 0] = 1.0
            coupling[down_row, 1] = present[j, 1]
            for a in range(4):
                coupling[0, a] = hessian[4, a]
                columns[j, 0, a] = -gradient[a]
                for b in range(3):
                    columns[j, 1 + b, a] = coupling[b, a]
            _eliminate(hessian, columns[j])
            for a in range(3):
                for c in range(4):
                    right[a] += coupling[a, c] * columns[j, 0, c]
                    for b in range(3):
                        matrix[a, b] += coupling[a, c] * columns[j, 1 + b, c]
            matrix[0, 0] -= hessian[4, 4]
            right[0] += gradient[4]
        residual += abs(ready_residual) * points[0, 4]
        if gap <= _TOLERANCE * cost and residual <= 1e3 * _TOLERANCE * cost:
            break
        if matrix[2, 2] == 0.0:
            matrix[2, 2] = 1.0
        _solve_common(matrix, right)
        length = 1.0
        for j in range(n_users):
            for a in range(4):
                step[j, a] = columns[j, 0, a]
                for b in range(3):
                    step[j, a] -= columns[j, 1 + b, a] * right[b]
                if a < 2 and step[j, a] < 0:
                    length = min(length, -0.9 * points[j, a] / step[j, a])
            step[j, 4] = right[0]
            for k in range(5):
                if present[j, k]:
                    change = 0.0
                    for a in range(5):
                        change += slopes[j, k, a] * step[j, a]
                    dual_step[j, k] = (target + dual[j, k] * change) / slack[j, k] - dual[j, k]
                    if dual_step[j, k] < 0:
                        length = min(length, -0.99 * dual[j, k] / dual_step[j, k])
                    if change > 0:
                        length = min(length, 0.99 * slack[j, k] / change)
        # Constraints are convex: where they bend, less than what their slopes allow is inside.
        inside = False
        while not inside and length > 1e-9:
            inside = True
            moved = 0.0
            for j in range(n_users):
                for a in range(5):
                    point[a] = points[j, a] + length * step[j, a]
                moved += _slacks(users[j], offloaded[j], present[j], point, trial[j])
                for k in range(5):
                    inside &= not present[j, k] or trial[j, k] > 0.005 * slack[j, k]
                if not inside:
                    length *= 0.7
                    break
        if not inside:
            # Rounding has the last word; the point at hand is feasible.
            break
        for j in range(n_users):
            for k in range(5):
                points[j, k] += length * step[j, k]
                dual[j, k] += length * dual_step[j, k]
                slack[j, k] = trial[j, k]
        for a in range(3):
            prices[a] = right[a]
        cost = moved
    total = down_total = 0.0
    for j in range(n_users):
        total += points[j, 0]
        if present[j, 1]:
            down_total += points[j, 1]
    if not grouped:
        total = down_total = total + down_total
    half = 0.5 if grouped else 1.0
    for j in range(n_users):
        uplink[j] = half * points[j, 0] / total
        downlink[j] = half * points[j, 1] / down_total if present[j, 1] else 0.0
    return cost


@compiled(error_model="numpy")
def _best_of_many(start, stop, users, candidates, grouped, offloaded, uplink, downlink):  # type: ignore[no-untyped-def]
    n_users = users.shape[1]
    up, down = np.empty(n_users), np.empty(n_users)
    for i in range(start, stop):
        row, least = candidates[i if candidates.shape[0] > 1 else 0], math.inf
        for c in range(row.shape[0]):
            possible = True
            for j in range(n_users):
                possible &= users[i, j].cycles > 0 or row[c, j] == 0
            if not possible:
                continue
            cost = _resources(users[i], row[c], grouped, up, down)
            if cost < least:
                least = cost
                _copy(row[c], offloaded[i])
                _copy(up, uplink[i])
                _copy(down, downlink[i])


@compiled(error_model="numpy")
def _uplink_copy(user, offloaded, weight, pull, centre, penalties, start):  # type: ignore[no-untyped-def]
    """Return the share x and the time y of (18) where ``weight`` of w^t lies on the edge branch.

    The rest of w^t lies on the local branch, that is on y. Newton's method for
    (α + c·(x - b))/|F'(x)| = price with F the stretch, whose left side is nearly x² times the
    numerator. Both values come with their derivatives with respect to the weight.
    """
    sending = user.upload + offloaded * user.offload
    low, high = max(0.0, centre[0] - pull[0] / penalties[0]), math.inf
    x = start if start > low else 2 * low
    rest = user.time_price - weight
    late_y = centre[1] - (user.time_price + pull[1]) / penalties[1]
    early_y = late_y + weight / penalties[1]
    y = x_slope = y_slope = 0.0
    for _ in range(_MAX_STEPS):
        stretch, fall, curvature = _stretch_slopes(x, user.uplink_snr)
        least = user.ready + user.upload * stretch
        arrived = user.ready + sending * stretch
        # What a later arrival of the task and of the update cost.
        late, bound, price_slope, weighted = weight, 0.0, 0.0, sending
        y, y_slope = early_y, 1 / penalties[1]
        if early_y <= arrived:
            if early_y < least:
                y, y_slope = least, 0.0
                bound = rest + pull[1] + penalties[1] * (y - centre[1])
                price_slope = penalties[1] * user.upload**2 * fall
                weighted -= user.upload
        else:
            weighted = y_slope = 0.0
            if late_y >= arrived:
                y, late = late_y, 0.0
            else:
                y = arrived
                late = user.time_price + pull[1] + penalties[1] * (y - centre[1])
                price_slope = penalties[1] * sending**2 * fall
        price = (user.send_price + late) * sending + bound * user.upload
        numerator = pull[0] + penalties[0] * (x - centre[0])
        excess = -numerator / fall - price
        slope = (numerator * curvature / fall - penalties[0]) / fall - price_slope
        x_slope = weighted / slope
        if y == least:
            y_slope = user.upload * fall * x_slope
        elif y == arrived:
            y_slope = sending * fall * x_slope
        if excess < 0:
            low = x
        else:
            high = x
        moved = x - excess / slope
        if not low < moved < high:
            moved = 2 * x if high == math.inf else (low + high) / 2
        done = abs(moved - x) <= _NEWTON_STEP * x
        x = moved
        if done:
            break
    return x, y, x_slope, y_slope


@compiled(error_model="numpy")
def _downlink_copy(user, rest, pull, centre, penalties, start):  # type: ignore[no-untyped-def]
    """Return the share z of (18) where ``rest`` of w^t lies on the local branch, and dz/d(rest)."""
    price = (user.receive_price + rest) * user.download
    low, high = max(0.0, centre[2] - pull[2] / penalties[2]), math.inf
    z = start if start > low else 2 * low
    slope = 1.0
    for _ in range(_MAX_STEPS):
        _, fall, curvature = _stretch_slopes(z, user.downlink_snr)
        numerator = pull[2] + penalties[2] * (z - centre[2])
        excess = -numerator / fall - price
        slope = (numerator * curvature / fall - penalties[2]) / fall
        if excess < 0:
            low = z
        else:
            high = z
        moved = z - excess / slope
        if not low < moved < high:
            moved = 2 * z if high == math.inf else (low + high) / 2
        done = abs(moved - z) <= _NEWTON_STEP * z
        z = moved
        if done:
            break
    return z, user.download / slope


@compiled(error_model="numpy")
def _copies(user, offloaded, weight, pull, centre, penalties, copy):  # type: ignore[no-untyped-def]
    """Write (x, y, z) for a weight of the edge branch; return how much later that branch ends.

    The local part takes as long as is best for the rest of the weight. The second value is the
    derivative of the first with respect to the weight.
    """
    rest = user.time_price - weight
    x, y, x_slope, y_slope = _uplink_copy(user, offloaded, weight, pull, centre, penalties, copy[0])
    z, z_slope = _downlink_copy(user, rest, pull, centre, penalties, copy[2])
    copy[0], copy[1], copy[2] = x, y, z
    cycles = (1 - offloaded) * user.cycles
    local, local_slope = cycles / user.max_hz, 0.0
    heat = 2 * user.heat
    if rest < heat * user.max_hz**3:
        local = cycles / (rest / heat) ** (1 / 3)
        local_slope = local / (3 * rest)
    stretch, fall, _ = _stretch_slopes(x, user.uplink_snr)
    down_stretch, down_fall, _ = _stretch_slopes(z, user.downlink_snr)
    sending = user.upload + offloaded * user.offload
    arrived = user.ready + sending * stretch
    late = max(y, arrived) + offloaded * user.edge - y - user.download * down_stretch - local
    late_slope = user.download * down_fall * z_slope - local_slope
    if arrived > y:
        late_slope += sending * fall * x_slope - y_slope
    return late, late_slope


@compiled(error_model="numpy")
def _local_copy(user, offloaded, pull, centre, penalties, copy):  # type: ignore[no-untyped-def]
    """Write the (x, y, z) that minimise (18) for a given share ι < 1 and return the minimum.

    The weight of the edge branch is 0 unless that branch would then end later, else the root of
    their difference, which falls with the weight. ``copy`` also holds the weight found before.
    """
    low, high, weight = 0.0, user.time_price, copy[3]
    for _ in range(_MAX_STEPS):
        late, slope = _copies(user, offloaded, weight, pull, centre, penalties, copy)
        if late > 0:
            low = weight
        else:
            high = weight
        if abs(late) <= _TOLERANCE or high - low <= _TOLERANCE * user.time_price:
            break
        moved = weight - late / slope
        if moved <= 0 and low == 0.0:
            # Without any weight on it the edge branch may still end first.
            moved = 0.0
            if weight == 0.0:
                break
        elif not low < moved < high:
            moved = (low + high) / 2
        weight = moved
    copy[3] = weight
    stretch = _stretch(copy[0], user.uplink_snr)
    sending = (user.upload + offloaded * user.offload) * stretch
    download = user.download * _stretch(copy[2], user.downlink_snr)
    received = copy[1] + download
    edge_end = max(copy[1], user.ready + sending) + offloaded * user.edge
    cycles = (1 - offloaded) * user.cycles
    local = max(cycles / user.free_hz, edge_end - received)
    cost = user.send_price * sending + user.receive_price * download
    cost += user.time_price * (received + local)
    if cycles > 0:
        cost += user.heat * cycles**3 / local**2
    return cost + _distance(pull, centre, penalties, copy)


@compiled(error_model="numpy")
def _distance(pull, centre, penalties, copy):  # type: ignore[no-untyped-def]
    """Return what the multipliers and the penalty of (14) add to a user's cost."""
    total = 0.0
    for a in range(3):
        total += pull[a] * copy[a] + penalties[a] / 2 * (copy[a] - centre[a]) ** 2
    return total


@compiled(error_model="numpy")
def _edge_copy(user, pull, centre, penalties, copy):  # type: ignore[no-untyped-def]
    """Write the (x, y, z) that minimise (18) for ι = 1, a = 0 and return the minimum."""
    weight = user.time_price
    copy[0], copy[1], _, _ = _uplink_copy(user, 1.0, weight, pull, centre, penalties, copy[0])
    copy[2] = max(0.0, centre[2] - pull[2] / penalties[2])
    sending = (user.upload + user.offload) * _stretch(copy[0], user.uplink_snr)
    cost = user.send_price * sending
    cost += user.time_price * (max(copy[1], user.ready + sending) + user.edge)
    return cost + _distance(pull, centre, penalties, copy)


@compiled(error_model="numpy")
def _step_one(user, pull, centre, penalties, copy, trial):  # type: ignore[no-untyped-def]
    """Write the (x, y, z) that solve (18) and return their share ι.

    Golden-section search on [0, 1), whose ends and ι = 1 are looked at too.
    """
    trial[0], trial[2], trial[3] = copy[0], max(copy[2], 1e-6), 0.0
    best = _local_copy(user, 0.0, pull, centre, penalties, trial)
    _copy(trial, copy)
    chosen = 0.0
    if user.cycles == 0:
        return chosen
    low, high = 0.0, 1.0
    left, right = 1 - _GOLDEN, _GOLDEN
    left_cost = _local_copy(user, left, pull, centre, penalties, trial)
    if left_cost < best:
        best, chosen = left_cost, left
        _copy(trial, copy)
    right_cost = _local_copy(user, right, pull, centre, penalties, trial)
    if right_cost < best:
        best, chosen = right_cost, right
        _copy(trial, copy)
    while high - low > _SPLIT_PRECISION:
        if left_cost < right_cost:
            high, right, right_cost = right, left, left_cost
            left = high - _GOLDEN * (high - low)
            left_cost = _local_copy(user, left, pull, centre, penalties, trial)
            if left_cost < best:
                best, chosen = left_cost, left
                _copy(trial, copy)
        else:
            low, left, left_cost = left, right, right_cost
            right = low + _GOLDEN * (high - low)
            right_cost = _local_copy(user, right, pull, centre, penalties, trial)
            if right_cost < best:
                best, chosen = right_cost, right
                _copy(trial, copy)
    if _edge_copy(user, pull, centre, penalties, trial) < best:
        _copy(trial, copy)
        chosen = 1.0
    return chosen


@compiled(error_model="numpy")
def _band_price(wanted, columns, budget):  # type: ignore[no-untyped-def]
    """Return θ/c of (22), with which the shares (wanted - θ/c)⁺ sum to ``budget`` at most.

    Newton's method: the sum is convex and piecewise linear, so it ends on the root.
    """
    price = 0.0
    while True:
        total, count = 0.0, 0
        for a in columns:
            for j in range(wanted.shape[0]):
                share = wanted[j, a] - price
                if share > 0:
                    total += share
                    count += 1
        if total <= budget * (1 + 1e-12):
            return price
        price += (total - budget) / count


@compiled(error_model="numpy")
def _admm(users, grouped, penalties, tolerances, max_iterations, offloaded, uplink, downlink):  # type: ignore[no-untyped-def]
    """Write the decisions that Algorithm 1 ends with and return its number of iterations."""
    n_users = users.shape[0]
    # The columns of all are b, τ̂ and b̄, of which every user has the same τ̂; those of ``copies``
    # are followed by the weight of the edge branch.
    common, copies = np.full((n_users, 3), 0.5 / n_users), np.zeros((n_users, 4))
    wanted, pull = np.empty((n_users, 3)), np.zeros((n_users, 3))
    trial, moved = np.empty(4), np.empty(3)
    ready = 0.0
    for j in range(n_users):
        user = users[j]
        uploaded = user.upload * _stretch(common[j, 0], user.uplink_snr)
        ready = max(ready, user.ready + uploaded)
    for j in range(n_users):
        common[j, 1] = ready
        for a in range(3):
            copies[j, a] = common[j, a]
    iteration = 0
    while iteration < max_iterations:
        iteration += 1
        mean = 0.0
        for j in range(n_users):
            offloaded[j] = _step_one(users[j], pull[j], common[j], penalties, copies[j], trial)
            for a in range(3):
                wanted[j, a] = copies[j, a] + pull[j, a] / penalties[a]
            mean += wanted[j, 1] / n_users
        if grouped:
            up_price = _band_price(wanted, (0,), 0.5)
            down_price = _band_price(wanted, (2,), 0.5)
        else:
            up_price = down_price = _band_price(wanted, (0, 2), 1.0)
        apart, change = 0.0, abs(max(mean, 0.0) - ready)
        ready = max(mean, 0.0)
        for j in range(n_users):
            moved[0] = max(wanted[j, 0] - up_price, 0.0)
            moved[1] = ready
            moved[2] = max(wanted[j, 2] - down_price, 0.0)
            change += abs(moved[0] - common[j, 0]) + abs(moved[2] - common[j, 2])
            for a in range(3):
                apart += abs(copies[j, a] - moved[a])
                pull[j, a] += penalties[a] * (copies[j, a] - moved[a])
                common[j, a] = moved[a]
        if apart <= tolerances[0] * n_users and change <= tolerances[1] * n_users:
            break
    total = down_total = 0.0
    for j in range(n_users):
        uplink[j], downlink[j] = copies[j, 0], copies[j, 2]
        if offloaded[j] == 1:
            downlink[j] = 0.0
        total += uplink[j]
        down_total += downlink[j]
    if grouped:
        total, down_total = 2 * total, max(2 * down_total, 1e-300)
    else:
        total = down_total = total + down_total
    for j in range(n_users):
        uplink[j] /= total
        downlink[j] /= down_total
    return iteration


@compiled(error_model="numpy")
def _admm_of_many(start, stop, users, settings, found):  # type: ignore[no-untyped-def]
    grouped, penalties, tolerances, most = settings
    offloaded, uplink, downlink, iterations = found
    for i in range(start, stop):
        iterations[i] = _admm(
            users[i], grouped, penalties, tolerances, most, offloaded[i], uplink[i], downlink[i]
        )


@compiled(error_model="numpy")
def _least_share(stretch, snr):  # type: ignore[no-untyped-def]
    """Return the share of a given stretch, and its derivative: Newton's method from below."""
    if stretch <= 1:
        return math.inf, -math.inf
    x = 2 * (stretch - 1)
    for _ in range(_MAX_STEPS):
        log = math.log1p(x)
        slope = (1 - x / (1 + x) / log) / log
        step = (stretch - x / log) / slope
        x += step
        if step <= _NEWTON_STEP * x:
            return snr / x, -snr / (x * x * slope)
    return snr / x, -snr / (x * x * slope)


@compiled(error_model="numpy")
def _least_shares(users, ready, shares):  # type: ignore[no-untyped-def]
    """Write the shares with which updates arrive by ``ready`` and return their sum and slope."""
    total = slope = 0.0
    for j in range(users.shape[0]):
        user = users[j]
        shares[j], fall = _least_share((ready - user.ready) / user.upload, user.uplink_snr)
        total += shares[j]
        slope += fall / user.upload
    return total, slope


@compiled(error_model="numpy")
def _edge_hz(user, task_s, slope):  # type: ignore[no-untyped-def]
    """Return the CPU frequency at which sending one more bit or computing it costs the same.

    The edge branch dominates and ends ``slope`` later per task offloaded, whose sending takes
    ``task_s``. Newton's method from above on a polynomial that is convex.
    """
    wanted = user.send_price * task_s + user.time_price * slope
    square, cube = 3 * user.heat * user.cycles, 2 * user.heat * slope
    hz = user.free_hz
    for _ in range(_MAX_STEPS):
        excess = (square + cube * hz) * hz * hz - wanted
        if excess <= wanted * _NEWTON_STEP:
            break
        hz -= excess / ((2 * square + 3 * cube * hz) * hz)
    return hz


@compiled(error_model="numpy")
def _tabulate(user, ready, base, unit, cells, grid, received, table, sent, splits):  # type: ignore[no-untyped-def]
    """Write a user's least cost for every number of cells of the band, and how it is reached.

    With i + k cells the uplink has the share ``base`` + unit·(cells[0] + i·cells[2]), with which
    the update arrives at ``ready`` at the latest, and the downlink unit·(cells[1] + k·cells[2]).
    The cost of given shares is convex in ι < 1: it falls up to the ι where the local branch, at
    the frequency f of its stationary point, ends with the edge branch, unless ι = 0 is best.
    """
    n_up, n_down = grid
    for n in range(table.size):
        table[n] = math.inf
    for k in range(n_down + 1):
        share = unit * (cells[1] + k * cells[2])
        received[k] = math.inf
        if share > 0:
            received[k] = ready + user.download * _stretch(share, user.downlink_snr)
    freed = int(cells[1] / cells[2] + 0.5)
    free_s = user.cycles / user.free_hz
    free_cost = user.time_price * free_s + user.heat * user.cycles * user.free_hz**2
    for i in range(n_up + 1):
        stretch = _stretch(base + unit * (cells[0] + i * cells[2]), user.uplink_snr)
        upload, task = user.upload * stretch, user.offload * stretch
        arrived = user.ready + upload
        fixed_cost, task_cost = user.send_price * upload, user.send_price * task
        if user.cycles > 0:
            n = max(i - freed, 0)
            cost = fixed_cost + task_cost
            cost += user.time_price * (max(ready, arrived + task) + user.edge)
            if cost < table[n]:
                table[n], sent[n], splits[n] = cost, i, 1.0
        # Where sending a bit costs more than computing it at leisure, none is offloaded.
        sends = task_cost < free_cost
        early_s = late_s = free_s
        early_cost = late_cost = free_cost
        kink = math.inf
        if sends:
            hz = _edge_hz(user, task, user.edge)
            early_s = user.cycles / hz
            early_cost = user.time_price * early_s + user.heat * user.cycles * hz**2
            hz = _edge_hz(user, task, user.edge + task)
            late_s = user.cycles / hz
            late_cost = user.time_price * late_s + user.heat * user.cycles * hz**2
            kink = (ready - arrived) / task
        early_part, late_part = 1 / (user.edge + early_s), 1 / (user.edge + task + late_s)
        for k in range(min(n_down, table.size - 1 - i) + 1):
            download = received[k] - ready
            split, local_cost = 0.0, free_cost
            if sends:
                split, local_cost = (early_s + download) * early_part, early_cost
                if split > kink:
                    split, local_cost = (late_s + received[k] - arrived) * late_part, late_cost
                    if split <= kink:
                        split = kink
                        local = (ready + split * user.edge - received[k]) / (1 - split)
                        local = max(local, free_s)
                        heat = user.heat * user.cycles**3 / local**2
                        local_cost = user.time_price * local + heat
                if split >= 1:
                    continue
            cost = fixed_cost + split * task_cost + (1 - split) * local_cost
            cost += user.receive_price * download + user.time_price * received[k]
            if cost < table[i + k]:
                table[i + k], sent[i + k], splits[i + k] = cost, i, split


@compiled(error_model="numpy")
def _cells_at(table, price, chosen):  # type: ignore[no-untyped-def]
    """Write how many cells each user takes at a price per cell and return their sum."""
    total = 0
    for j in range(table.shape[0]):
        least = math.inf
        for k in range(table.shape[1]):
            cost = table[j, k] + price * k
            if cost < least:
                chosen[j], least = k, cost
        total += chosen[j]
    return total


@compiled(error_model="numpy")
def _share_out(table, budget, chosen, values, choices, bottoms):  # type: ignore[no-untyped-def]
    """Write how many cells each user gets and return the least sum of their tables' entries.

    Dynamic programming over users and the cells that they use together. A large budget limits how
    far these may deviate from what users take at the price that makes it suffice, so that the
    number of operations is linear in users.
    """
    n_users, width = table.shape
    reach = values.shape[1] // 2
    if budget > reach and _cells_at(table, 0.0, chosen) > budget:
        low, high = 0.0, 1.0
        while _cells_at(table, high, chosen) > budget and high < _MAX_PRICE:
            low, high = high, 8 * high
        for _ in range(_PRICE_STEPS):
            price = (low + high) / 2
            if _cells_at(table, price, chosen) > budget:
                low = price
            else:
                high = price
        _cells_at(table, high, chosen)
    values[0, 0] = 0.0
    bottoms[0] = bottom = top = centre = 0
    for j in range(n_users):
        centre += chosen[j] if budget > reach else 0
        last_bottom, last_top = bottom, top
        bottom = max(centre - reach, 0)
        top = min(centre + reach, budget, last_top + width - 1)
        bottoms[j + 1] = bottom
        if top < bottom:
            return math.inf
        for used in range(bottom, top + 1):
            least, best = math.inf, 0
            for k in range(max(0, used - last_top), min(width - 1, used - last_bottom) + 1):
                cost = values[j, used - k - last_bottom] + table[j, k]
                if cost < least:
                    least, best = cost, k
            values[j + 1, used - bottom] = least
            choices[j, used - bottom] = best
    used, least = bottom, math.inf
    for k in range(bottom, top + 1):
        if values[n_users, k - bottom] < least:
            used, least = k, values[n_users, k - bottom]
    for j in range(n_users - 1, -1, -1):
        chosen[j] = choices[j, used - bottoms[j + 1]]
        used -= chosen[j]
    return least


@compiled(error_model="numpy")
def _try_ready(users, ready, cells, grid, work, found):  # type: ignore[no-untyped-def]
    """Return the least cost where all updates arrive by ``ready``, on a grid of shares.

    ``cells`` has each user's first shares of uplink and downlink, in units of what is left of the
    band when updates arrive in time, and the width of a cell; ``found`` takes the cells and ι.
    """
    base, received, table, sent, splits, chosen, values, choices, bottoms = work
    n_users = users.shape[0]
    total, _ = _least_shares(users, ready, base)
    if not total < 1:
        return math.inf
    width, taken = cells[0, 2], 0.0
    for j in range(n_users):
        _tabulate(
            *(users[j], ready, base[j], 1 - total, cells[j], grid, received),
            *(table[j], sent[j], splits[j]),
        )
        taken += cells[j, 0] + cells[j, 1]
    budget = int((1 - taken) / width + 1e-6)
    cost = _share_out(table, budget, chosen, values, choices, bottoms)
    if cost < math.inf:
        for j in range(n_users):
            k = chosen[j]
            found[j, 0] = cells[j, 0] + sent[j, k] * width
            found[j, 1] = cells[j, 1] + (k - sent[j, k]) * width
            found[j, 2] = splits[j, k]
            if splits[j, k] == 1:
                found[j, 1] = 0.0
    return cost


@compiled(error_model="numpy")
def _work(n_users, width, reach):  # type: ignore[no-untyped-def]
    span = 2 * reach + 1
    return (
        np.empty(n_users),
        np.empty(width),
        np.empty((n_users, width)),
        np.empty((n_users, width), np.int64),
        np.empty((n_users, width)),
        np.zeros(n_users, np.int64),
        np.empty((n_users + 1, span)),
        np.empty((n_users, span), np.int64),
        np.zeros(n_users + 1, np.int64),
    )


@compiled(error_model="numpy")
def _coarse(users, levels, n_cells, limit, costs, found):  # type: ignore[no-untyped-def]
    """Look at the τ̂ with the ``limit`` lowest ``costs`` on one grid of shares.

    Writes their costs on this grid and the shares of the best; returns the place of the best and
    the number of cells of the band.
    """
    n_users = users.shape[0]
    budget = max(n_cells, _CELLS_PER_USER * n_users)
    work = _work(n_users, n_cells + 1, n_cells + 1)
    cells, trial = np.zeros((n_users, 3)), np.zeros((n_users, 3))
    # Small models need less than a cell for their downlinks: the least sum of needs/share has
    # shares that go with the roots of the needs, of models and of halves of the tasks.
    total = 0.0
    for j in range(n_users):
        user = users[j]
        cells[j, 2] = 1 / budget
        cells[j, 1] = math.sqrt(user.download * _stretch(1 / n_users, user.downlink_snr))
        total += math.sqrt(user.offload / 2 * _stretch(1 / n_users, user.uplink_snr)) + cells[j, 1]
    for j in range(n_users):
        cells[j, 1] /= total
        if cells[j, 1] >= cells[j, 2]:
            cells[j, 1] = 0.0
    order = np.argsort(costs)[:limit]
    costs[:] = math.inf
    best, least = order[0], math.inf
    for i in order:
        costs[i] = _try_ready(users, levels[i], cells, (n_cells, n_cells), work, trial)
        if costs[i] < least:
            best, least = i, costs[i]
            _copy(trial.ravel(), found.ravel())
    return best, budget


@compiled(error_model="numpy")
def _near_optimal(users, n_cells, n_levels, offloaded):  # type: ignore[no-untyped-def]
    """Write near-optimal shares ι: the best τ̂ and shares on a grid, then on ever finer ones."""
    n_users = users.shape[0]
    cells, trial, best = np.zeros((n_users, 3)), np.zeros((n_users, 3)), np.zeros((n_users, 3))
    levels, costs, shares = np.empty(n_levels), np.zeros(n_levels), np.empty(n_users)
    for i in range(n_levels):
        # Where updates that arrive in time take this share of the band, or nearly so.
        aim = (i + 0.5) / n_levels
        ready = 0.0
        for j in range(n_users):
            user = users[j]
            ready = max(ready, user.ready + user.upload * _stretch(aim, user.uplink_snr))
        for _ in range(_LEVEL_STEPS):
            total, slope = _least_shares(users, ready, shares)
            ready += max((1 / aim - 1 / total) * total**2 / -slope, 0.0)
        levels[i] = ready
    _coarse(users, levels, max(n_cells // 2, 2), n_levels, costs, best)
    chosen, budget = _coarse(users, levels, n_cells, _BEST_LEVELS, costs, best)
    least = costs[chosen]
    ready = levels[chosen]
    reach = (levels[max(chosen - 1, 0)] - levels[min(chosen + 1, n_levels - 1)]) / 4
    work = _work(n_users, 4 * _ZOOM_REACH + 1, 8 * _ZOOM_REACH)
    grid = (2 * _ZOOM_REACH, 2 * _ZOOM_REACH)
    width, centre, middle = 0.5 / budget, best.copy(), ready
    for _ in range(_MAX_STEPS):
        if width <= _FINEST / budget:
            break
        last = least
        for j in range(n_users):
            for a in range(2):
                steps = min(_ZOOM_REACH, int(centre[j, a] / width + 1e-6))
                cells[j, a] = max(centre[j, a] - steps * width, 0.0)
            cells[j, 2] = width
        for side in range(-1, 2):
            cost = _try_ready(users, middle + side * reach, cells, grid, work, trial)
            if cost < least:
                least, ready = cost, middle + side * reach
                best, trial = trial, best
        _copy(best.ravel(), centre.ravel())
        middle = ready
        if not least < last - 1e-7 * abs(last):
            width /= 2
            reach /= 2
    for j in range(n_users):
        offloaded[j] = best[j, 2]


@compiled(error_model="numpy")
def _near_optimal_of_many(start, stop, users, n_cells, n_levels, candidates):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        _near_optimal(users[i], n_cells, n_levels, candidates[i, 0])


class _Conic:
    """The problem of given shares ι as a cone program, compiled once for every pattern of a."""

    def __init__(self, n_users: int, grouped: bool) -> None:
        # cvxpy's annotations leave its functions out.
        self._cvxpy: Any = importlib.import_module("cvxpy")
        self._n_users, self._grouped = n_users, grouped
        self._compiled: dict[bytes, tuple[Any, dict[str, Any]]] = {}

    def solve(
        self, users: NDArray[Any], offloaded: Float64Array
    ) -> tuple[float, Float64Array, Float64Array]:
        """Return the cost, in units of the instance, and the shares of uplinks and downlinks."""
        down = offloaded < 1
        if down.tobytes() not in self._compiled:
            self._compiled[down.tobytes()] = self._compile(down)
        problem, named = self._compiled[down.tobytes()]
        # The solver needs numbers near one: shares and stretches in units of equal shares and
        # theirs, time in units of an upload.
        snr, down_snr = (users[f"{name}link_snr"] * self._n_users for name in ("up", "down"))
        log, down_log = np.log1p(snr), np.log1p(down_snr)
        sending = (users["upload"] + offloaded * users["offload"]) * snr / log
        download = users["download"] * down_snr / down_log
        cycles = (1 - offloaded) * users["cycles"]
        unit = float((users["upload"] * snr / log).max())
        price = float(users["time_price"].sum()) * unit
        values = {
            "inverse_snr": 1 / snr,
            "log_snr": np.log(snr),
            "log": log,
            "ready": (users["ready"] - users["ready"].min()) / unit,
            "upload": users["upload"] * snr / log / unit,
            "sending": sending / unit,
            "edge": offloaded * users["edge"] / unit,
            "send_cost": users["send_price"] * sending / price,
            "latency_cost": users["time_price"] * unit / price,
            "down_inverse_snr": 1 / down_snr[down],
            "down_log_snr": np.log(down_snr)[down],
            "down_log": down_log[down],
            "download": download[down] / unit,
            "local": (cycles / users["free_hz"])[down] / unit,
            "fastest": (users["free_hz"] / users["max_hz"])[down],
            "receive_cost": (users["receive_price"] * download)[down] / price,
            "local_cost": (users["heat"] * cycles * users["free_hz"] ** 2)[down] / price,
        }
        for name, parameter in named["parameters"].items():
            parameter.value = values[name]
        problem.solve(solver="CLARABEL")
        uplink, downlink = np.maximum(named["share"].value, 1e-12), np.zeros(len(users))
        if down.any():
            downlink[down] = np.maximum(named["down_share"].value, 1e-12)
        total, down_total = uplink.sum(), max(downlink.sum(), 1e-12)
        if self._grouped:
            total, down_total = 2 * total, 2 * down_total
        else:
            total = down_total = total + downlink.sum()
        return float(problem.value), uplink / total, downlink / down_total

    def _compile(self, down: NDArray[np.bool_]) -> tuple[Any, dict[str, Any]]:
        cp = self._cvxpy
        n_users, n_downloads = self._n_users, int(down.sum())

        def rate(share: Any, link: str) -> Any:
            # b·ln(1 + s/b), with numbers near one for large s too.
            near = cp.rel_entr(share, 1 + cp.multiply(p[f"{link}inverse_snr"], share))
            return cp.multiply(p[f"{link}log_snr"], share) - near

        names = (
            *("inverse_snr", "log", "ready", "upload", "sending", "edge"),
            *("send_cost", "latency_cost"),
        )
        p = {name: cp.Parameter(n_users, nonneg=True) for name in names}
        p["log_snr"] = cp.Parameter(n_users)
        share, stretch, latency = (cp.Variable(n_users) for _ in range(3))
        ready = cp.Variable()
        constraints = [
            rate(share, "") >= cp.multiply(p["log"], cp.inv_pos(stretch)),
            ready >= p["ready"] + cp.multiply(p["upload"], stretch),
            latency >= ready + p["edge"],
            latency >= p["ready"] + cp.multiply(p["sending"], stretch) + p["edge"],
        ]
        cost = p["send_cost"] @ stretch + p["latency_cost"] @ latency
        named = {"parameters": p, "share": share}
        band = cp.sum(share)
        half = n_users / 2 if self._grouped else n_users
        if n_downloads:
            for name in (
                *("down_inverse_snr", "down_log", "download", "local", "fastest"),
                *("receive_cost", "local_cost"),
            ):
                p[name] = cp.Parameter(n_downloads, nonneg=True)
            p["down_log_snr"] = cp.Parameter(n_downloads)
            down_share, longer, slow = (cp.Variable(n_downloads) for _ in range(3))
            received = ready + cp.multiply(p["download"], longer)
            constraints += [
                rate(down_share, "down_") >= cp.multiply(p["down_log"], cp.inv_pos(longer)),
                latency[np.flatnonzero(down)] >= received + cp.multiply(p["local"], slow),
                slow >= p["fastest"],
            ]
            cost += p["receive_cost"] @ longer + p["local_cost"] @ cp.power(slow, -2)
            named["down_share"] = down_share
            if self._grouped:
                constraints.append(cp.sum(down_share) <= half)
            else:
                band += cp.sum(down_share)
        problem = cp.Problem(cp.Minimize(cost), [*constraints, band <= half])
        return problem, named
