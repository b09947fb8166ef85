"""FEEL §VI: batches and time slots against the document's benchmarks, Table II and Figs. 3 to 5.

By default in the document's cell with small networks on the embedded images; with ``--full`` in
the document's own setting. Rates are averages over fading in both, eqs. (5) and (6).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import ArrayLike, NDArray

from edge_gym.agents.packing import pack, unpack
from edge_gym.baselines import make_baseline
from edge_gym.core.config import make_config
from edge_gym.core.problem import Step
from edge_gym.core.registration import find_environment
from edge_gym.envs.batch_slot.config import BatchSlotConfig
from edge_gym.envs.batch_slot.dynamics import BatchSlot
from edge_gym.envs.batch_slot.env import BatchSlotVectorEnv
from edge_gym.evaluation.episode_store import SUFFIX, load_stored, part_name, run_or_load
from edge_gym.evaluation.rollouts import Episodes, even_lanes, plain_config
from edge_gym.evaluation.statistics import mean_intervals
from edge_gym.reports.charts import INK, new_figure, save, tidy, write_title
from edge_gym.reproduce.findings import (
    NO,
    OPEN,
    PARTLY,
    YES,
    Claim,
    Findings,
    Options,
    along,
    check_data,
    metrics,
    summary,
    verdict,
    with_interval,
    write_findings,
)
from edge_gym.runtime.files import prepare_folder
from edge_gym.runtime.tensors import write_tensors
from edge_gym.typing import Info, IntArray
from edge_gym.version import __version__

Float64Array = NDArray[np.float64]

_START_ACCURACY = 0.86
_MOST_PASSES = 30
_SCORINGS = 32  # In one pass of the training that comes before.
_SAVE_EVERY_S = 300.0
_RECORD = ("seconds", "validation_accuracy", "validation_loss")
_POINTS = 401
_CLOSE = 0.005
_LEAST_DECREASE = 0.01  # Nats an epoch.
_RESAMPLES = 1000
_SAME = 0.01


class _Pretrained(BatchSlot):
    """Begins with a model that is good already: FEEL §VI-C begins with 86 % accuracy.

    It was trained on all devices' samples until it was that good on the validation set, or for
    thirty passes.
    """

    folder: Path

    def _draw_models(self, lanes: IntArray) -> None:
        """Put pretrained models in the place of those that are drawn."""
        super()._draw_models(lanes)
        for lane in lanes:
            self._pretrain(int(lane))

    def step_lanes(self, lanes: IntArray, actions: NDArray[Any]) -> Step:
        """Add the devices' mean loss on what they trained on to the info."""
        step = super().step_lanes(lanes, actions)
        step.info["local_loss"] = self.batch_loss[lanes].mean(axis=1)
        return step

    def _pretrain(self, lane: int) -> None:
        """Train a lane's model, or load what was trained on the same samples before."""
        config, learner, one = self.config, self.learner, np.array([lane])
        own = zip(self._rows[lane], self._sizes[lane], strict=True)
        samples = np.sort(np.concatenate([rows[:size] for rows, size in own]))
        training = (config.learning_rate, config.local_batch_size, _START_ACCURACY, __version__)
        network = (config.dataset, config.classes, config.image_size, config.network)
        digest = hashlib.sha256(repr((network, config.hidden_sizes, training)).encode())
        digest.update(samples.tobytes() + self._validation[lane].tobytes())
        key = digest.hexdigest()
        path = self.folder / f"start-{key[:16]}{SUFFIX}"
        if (stored := load_stored(path, key, "pretrained model")) is not None:
            learner.set_state(one, stored[0])
            return
        # Schemes whose generators are elsewhere begin with the same model.
        rng = np.random.default_rng(int(key, 16))
        learner.reset(one, [rng])
        parts = [
            part
            for _ in range(_MOST_PASSES)
            for part in np.array_split(rng.permutation(samples), _SCORINGS)
        ]
        for part in parts:
            updates, _ = learner.local_updates(
                one,
                part[None, None],
                None,
                [rng],
                batch_size=config.local_batch_size,
                learning_rate=config.learning_rate,
                epochs=1,
            )
            learner.add(one, updates[:, 0])
            if learner.score(one, self._validation[one]).accuracy[0] >= _START_ACCURACY:
                break
        write_tensors(path, {"weights": learner.get_state(one)["weights"]}, {"key": key})


class _LongVectorEnv(BatchSlotVectorEnv):
    """A lane whose episode takes hours: what was done is kept in a file and not done again.

    Steps that are kept are told again one by one, whatever the actions, so that who runs the
    episode and policies that draw need not know.
    """

    kept: Path | None = None
    key = ""
    record: Sequence[str] = ()
    _past: list[tuple[NDArray[np.float64], dict[str, NDArray[Any]]]]
    _told = 0
    _saved_at = 0.0

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, Info]:
        """Begin the episode, and go to where it was left."""
        begun = super().reset(seed=seed, options=options)
        self._past, self._told, self._saved_at = [], 0, time.monotonic()
        if self.kept is not None:
            stored = load_stored(self.kept, self.key, "running episode")
            if stored is not None:
                content = unpack(stored[0], stored[1]["content"])
                self._past = content["past"]
                self.set_state(content["state"])
        return begun

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, Info]:
        """Tell the next step that is kept, or take one."""
        if self._told < len(self._past):
            rewards, infos = self._past[self._told]
            self._told += 1
            no = np.zeros(1, np.bool_)
            return self.problem.observe(), rewards, no, no, infos
        observations, rewards, terminated, truncated, infos = super().step(actions)
        if self.kept is not None:
            self._past.append((rewards, {name: infos[name].copy() for name in self.record}))
            self._told += 1
            over = (terminated | truncated).any()
            if not over and time.monotonic() - self._saved_at > _SAVE_EVERY_S:
                arrays, content = pack({"state": self.get_state(), "past": self._past})
                write_tensors(self.kept, arrays, {"key": self.key, "content": content})
                self._saved_at = time.monotonic()
        return observations, rewards, terminated, truncated, infos


class _PretrainedVectorEnv(_LongVectorEnv):
    problem_type = _Pretrained


class _Runner:
    """Runs policies and keeps what is finished, so that an interrupted run goes on where it was.

    Args:
        folder: Where finished parts are kept.
        options: How the reproduction is run.
        seeds: The episodes' seeds.
    """

    def __init__(self, folder: Path, options: Options, seeds: list[int]) -> None:
        self.folder, self.options, self.seeds = prepare_folder(folder), options, seeds
        self.configs: dict[str, Any] = {}
        self.parameters: dict[str, dict[str, Any]] = {}

    def run(
        self,
        task: str,
        env_id: str,
        usual: Mapping[str, Any],
        fixed: Mapping[str, Any],
        policy: str,
        pretrained: bool = False,
        record: Sequence[str] = _RECORD,
    ) -> Episodes:
        """Run episodes of a policy, or load them.

        Args:
            task: What this run is called.
            env_id: Whose configuration it has.
            usual: What differs from that, unless it is overridden.
            fixed: What differs from that in any case.
            policy: Name of the rule.
            pretrained: Whether episodes begin with a pretrained model.
            record: Step infos that are kept.
        """
        options, n = self.options, len(self.seeds)
        given = {**usual, **options.overrides, **fixed}
        config = make_config(BatchSlotConfig, None, find_environment(env_id).preset, given)
        check_data(config.dataset)
        self.configs[task] = plain_config(config)
        env_type = _PretrainedVectorEnv if pretrained else _LongVectorEnv
        lanes = 1 if options.full else even_lanes(n, options.lanes)
        env = env_type(lanes, config, autoreset_mode=AutoresetMode.DISABLED)
        env.record = record
        if isinstance(env.problem, _Pretrained):
            env.problem.folder = self.folder
        rule = make_baseline(policy, env)
        self.parameters[task] = asdict(rule.parameters)
        start = {"start_accuracy": _START_ACCURACY} if pretrained else {}
        identity = {"name": policy, **self.parameters[task], **start}

        def part(path: Path, seeds: list[int], done: int) -> Episodes:
            def report(finished: int, _: int) -> None:
                if options.progress is not None:
                    options.progress(task, done + finished, n)

            return run_or_load(path, env, rule, identity, seeds, record, report)

        if not options.full:
            return part(self.folder / part_name(task), self.seeds, 0)
        episodes = []
        for i, seed in enumerate(self.seeds):
            file = self.folder / part_name(f"{task}, {seed}")
            env.kept = file.with_suffix(".running")
            env.key = json.dumps([plain_config(config), identity, seed, __version__])
            episodes.append(part(file, [seed], i))
            env.kept.unlink(missing_ok=True)
        return _joined(episodes)


def _joined(parts: Sequence[Episodes]) -> Episodes:
    """Return all episodes as one run has them."""
    longest = max(int(part.lengths.max()) for part in parts)

    def padded(values: Float64Array) -> Float64Array:
        return np.pad(values, ((0, 0), (0, longest - values.shape[1])), constant_values=np.nan)

    return Episodes(
        np.concatenate([part.seeds for part in parts]),
        np.concatenate([part.returns for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        {name: np.concatenate([part.infos[name] for part in parts]) for name in parts[0].infos},
        {
            name: np.concatenate([padded(part.curves[name]) for part in parts])
            for name in parts[0].curves
        },
    )


def convergence_time(times: Float64Array, accuracy: Float64Array) -> Float64Array:
    """Return when curves ``(..., P)`` first come within half a point of where they end.

    Where they end is the mean over the last tenth of the time.
    """
    end = accuracy[..., -max(1, len(times) // 10) :].mean(axis=-1)
    return first_time(times, accuracy, end - _CLOSE)


def first_time(times: Float64Array, accuracy: Float64Array, level: ArrayLike) -> Float64Array:
    """Return when curves ``(..., P)`` first reach levels ``(...)``; NaN where they do not.

    What is there from the start counts as reached at the second of the times.
    """
    there = accuracy >= np.asarray(level)[..., None]
    index = np.maximum(there.argmax(axis=-1), 1)
    return np.where(there.any(axis=-1), times[index], np.nan)


def converged_epochs(epochs: Sequence[int], loss: ArrayLike) -> int:
    """Return the index of the first number of epochs after which training had converged.

    It had when the loss fell by less than 0.01 nats an epoch between the epochs up to the number
    before and those since; the last one if it never did.

    Args:
        epochs: Numbers of epochs E, ascending.
        loss: Mean training loss over all E epochs of each.
    """
    e, sums = np.array([0, *epochs]), np.append(0, np.asarray(loss) * np.asarray(epochs))
    since, middle = np.diff(sums) / np.diff(e), (e[1:] + e[:-1] + 1) / 2
    decrease = -np.diff(since) / np.diff(middle)
    slow = np.flatnonzero(decrease < _LEAST_DECREASE)
    return int(slow[0]) + 1 if len(slow) else len(epochs) - 1


class Curve(NamedTuple):
    """Validation accuracy along simulated time.

    Attributes:
        seconds: The times up to the budget, ``(P,)``, or ``(n, P)`` where episodes differ in them.
        accuracy: Of each episode, ``(n, P)``.
    """

    seconds: Float64Array
    accuracy: Float64Array


class Cell(NamedTuple):
    """Four schemes with the same devices and data.

    Attributes:
        curves: Of each scheme; that of individual learning against its numbers of epochs.
        chosen: Index of the number of epochs after which individual learning had converged.
        tests: Final test accuracies, ``(n,)``.
    """

    curves: dict[str, Curve]
    chosen: int
    tests: dict[str, Float64Array]

    def level(self, weights: Float64Array) -> Float64Array:
        """Return the accuracy that individual learning ends with, for weights ``(r, n)``."""
        return np.asarray(weights @ self.curves["individual"].accuracy[:, self.chosen])

    def seconds(self, weights: Float64Array) -> dict[str, Float64Array]:
        """Return when each scheme's mean reaches ``level``, for weights ``(r, n)`` of episodes.

        Individual learning does when it ends; NaN where a scheme does not within its budget.
        """
        level = self.level(weights)
        return self._times(
            weights, lambda curve: first_time(curve.seconds, weights @ curve.accuracy, level)
        )

    def seconds_to_converge(self, weights: Float64Array) -> dict[str, Float64Array]:
        """Return when each scheme's mean has converged, which depends on its budget."""
        return self._times(
            weights, lambda curve: convergence_time(curve.seconds, weights @ curve.accuracy)
        )

    def _times(
        self, weights: Float64Array, of: Callable[[Curve], Float64Array]
    ) -> dict[str, Float64Array]:
        times = {"individual": weights @ self.curves["individual"].seconds[:, self.chosen]}
        for scheme, curve in self.curves.items():
            if scheme != "individual":
                times[scheme] = of(curve)
        return times


def resampled(n: int) -> Float64Array:
    """Return weights of n episodes, ``(1 + 1000, n)``: equal ones, then bootstrap samples."""
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    return np.concatenate([np.full((1, n), 1 / n), drawn / n])


def bounded_ratio(
    slower: Float64Array, faster: Float64Array, budgets: tuple[float, float]
) -> tuple[float, float, float]:
    """Return the ratio of times with its 95 % interval, a missing time taken as its budget.

    The truth is a larger ratio where a slower time is missing, a smaller one where a faster is.

    Args:
        slower: As for ``ratio``.
        faster: Likewise.
        budgets: Of both, s.
    """
    times = [
        np.where(np.isnan(values), budget, values)
        for values, budget in zip((slower, faster), budgets, strict=True)
    ]
    found = ratio(*times)
    assert found is not None
    return found


def ratio(slower: Float64Array, faster: Float64Array) -> tuple[float, float, float] | None:
    """Return the ratio of times with its 95 % interval; None if a time is missing.

    Args:
        slower: Times, the first of all episodes, the others of bootstrap samples.
        faster: Likewise, of the same samples.
    """
    values = slower / faster
    if np.isnan(values).any():
        return None
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return float(values[0]), float(low), float(high)


# Table II: test accuracy in %, training speed-up over individual learning.
_REPORTED = {
    (6, "iid"): {
        "individual": (90.65, 1.0),
        "model-based": (91.28, 0.29),
        "gradient-based": (91.60, 0.53),
        "proposed": (91.48, 1.09),
    },
    (6, "shards"): {
        "individual": (89.16, 1.0),
        "model-based": (90.22, 0.37),
        "gradient-based": (91.51, 0.69),
        "proposed": (91.43, 1.03),
    },
    (12, "iid"): {
        "individual": (90.68, 1.0),
        "model-based": (92.01, 0.32),
        "gradient-based": (92.27, 0.68),
        "proposed": (92.34, 1.16),
    },
    (12, "shards"): {
        "individual": (89.91, 1.0),
        "model-based": (91.16, 0.31),
        "gradient-based": (91.81, 0.67),
        "proposed": (92.12, 1.26),
    },
}
# The document calls so little "almost the same".
_NEAR_POINTS = 0.15
_PARTITIONS = {"iid": "IID", "shards": "non-IID"}
_TABLE_COLOURS = {
    "individual": "#66717D",
    "model-based": "#0072B2",
    "gradient-based": "#009E73",
    "proposed": "#D55E00",
}


class _Size(NamedTuple):
    """How large Table II is run.

    Attributes:
        env_id: Whose configuration it has.
        budgets_s: Simulated seconds of each scheme with rounds.
        epochs: Epochs of individual learning that are tried.
        usual: What else differs from the id's configuration.
    """

    env_id: str
    budgets_s: dict[str, float]
    epochs: tuple[int, ...]
    usual: dict[str, Any]


_SMALL = {"fading": "mean", "max_rounds": 5000}
_TABLE_SIZES = {
    "usual": _Size(
        "BatchSlot-v0",
        {"model-based": 4.0, "gradient-based": 8.0, "proposed": 1.0},
        (1, 2, 4, 6, 8, 10, 12, 16),
        _SMALL,
    ),
    "quick": _Size(
        "BatchSlot-v0",
        {"model-based": 1.0, "gradient-based": 2.0, "proposed": 0.2},
        (1, 2, 4, 8),
        _SMALL,
    ),
    "full": _Size(
        "BatchSlot-Paper-v0",
        {"model-based": 2e6, "gradient-based": 4e6, "proposed": 1e6},
        (2, 5, 10, 20, 40),
        {"max_rounds": 50_000},
    ),
}


def feel_table2(folder: Path, options: Options) -> Findings:
    """Redo Table II of FEEL: accuracy and training speed-up of four schemes.

    Every episode begins with a model of 86 % accuracy. The document does not say when a scheme
    has converged, and where a curve levels off depends on how long it is run. Speed-ups are
    therefore those of the time to a common accuracy, the one that individual learning ends with;
    that is run for several numbers of epochs, until the mean local loss falls by less than 0.01
    nats an epoch. A scheme that does not come so far within its budget counts as its budget, and
    its ratio is then a bound. When schemes have "converged", which is when the mean validation
    accuracy first comes within half a point of where it ends, is kept in the file beside their
    budgets. Gradients of whole local sets take steps of the environment's law η·√(B/B_ref), at
    most ``max_learning_rate``: without that limit they diverge here, to a tenth of images told
    right.

    Raises:
        ValueError: If a value is out of range.
        OSError: If ``folder`` cannot be written to.
        edge_gym.data.DataError: If data are missing; the message says what to do.

    Source: FEEL Table II, §VI-C.
    """
    size = _TABLE_SIZES["full" if options.full else "quick" if options.quick else "usual"]
    seeds = _seeds(options, usual=16, quick=4)
    runner = _Runner(folder / "parts", options, seeds)
    claims: list[Claim] = []
    data: dict[str, Any] = {}
    for (k, partition), reported in _REPORTED.items():
        if options.quick and k > 6:
            continue
        cell = f"K = {k}, {_PARTITIONS[partition]}"
        found = _table_cell(runner, size, cell, {"n_devices": k, "partition": partition})
        data[cell] = _table_numbers(found, size.epochs, reported)
        claims += _table_claims(cell, found, reported)
    findings = Findings(
        title=f"FEEL Table II: {len(seeds)} episodes each, the same for all schemes",
        config=runner.configs,
        seeds=seeds,
        parameters=runner.parameters,
        claims=claims,
        data=data,
        files=[folder / "feel-table2.json", folder / "feel-table2.png"],
    )
    write_findings(findings, _draw_table2)
    return findings


def _seeds(options: Options, usual: int, quick: int) -> list[int]:
    """Return the seeds, few where an episode takes hours."""
    return options.seeds(usual=2 if options.full else usual, quick=quick)


def _table_cell(runner: _Runner, size: _Size, cell: str, fixed: Mapping[str, Any]) -> Cell:
    """Run every scheme."""
    # Models are sent whole: they cannot be compressed as gradients can.
    model = {**fixed, "max_batch": None, "update": "model", "density": 1.0}
    runs = [
        runner.run(
            f"individual, {cell}, {epochs} epochs",
            size.env_id,
            size.usual,
            # However long it takes.
            {**model, "max_rounds": 1, "local_epochs": epochs, "budget_s": 1e9},
            "individual",
            pretrained=True,
            record=("seconds", "validation_accuracy", "local_loss"),
        )
        for epochs in size.epochs
    ]
    columns = {
        name: np.concatenate([run.curves[name] for run in runs], axis=1) for name in runs[0].curves
    }
    chosen = converged_epochs(size.epochs, columns["local_loss"].mean(axis=0))
    curves = {"individual": Curve(columns["seconds"], columns["validation_accuracy"])}
    tests = {"individual": runs[chosen].infos["test_accuracy"]}
    for scheme, rule, own in (
        ("model-based", "model-based", {**model, "local_epochs": 1}),
        ("gradient-based", "gradient-based", {**fixed, "max_batch": None}),
        ("proposed", "optimal-batch-slot", dict(fixed)),
    ):
        usual = {**size.usual, "budget_s": size.budgets_s[scheme]}
        task = f"{scheme}, {cell}"
        episodes = runner.run(task, size.env_id, usual, own, rule, pretrained=True)
        times = np.linspace(0, runner.configs[task]["budget_s"], _POINTS)
        curves[scheme] = Curve(times, along(episodes, "accuracy", times))
        tests[scheme] = episodes.infos["test_accuracy"]
    return Cell(curves, chosen, tests)


def _table_numbers(
    cell: Cell, epochs: Sequence[int], reported: Mapping[str, tuple[float, float]]
) -> dict[str, Any]:
    weights = resampled(len(cell.tests["proposed"]))
    common, converged = cell.seconds(weights), cell.seconds_to_converge(weights)

    def told(times: Mapping[str, Float64Array], scheme: str) -> dict[str, Any]:
        taken = float(times[scheme][0])
        speedup = ratio(times["individual"], times[scheme])
        return {
            # None where the accuracy is not reached within the budget, by all or some episodes.
            "seconds": None if np.isnan(taken) else taken,
            "speedup": speedup and {"mean": speedup[0], "ci95": list(speedup[1:])},
        }

    schemes: dict[str, Any] = {}
    for scheme, curve in cell.curves.items():
        means = curve.seconds.mean(axis=0) if curve.seconds.ndim > 1 else curve.seconds
        schemes[scheme] = {
            "test_accuracy": _with_ci(summary(100 * cell.tests[scheme][:, None])),
            "reported": {"test_accuracy": reported[scheme][0], "speedup": reported[scheme][1]},
            "budget_s": None if scheme == "individual" else float(curve.seconds[-1]),
            **told(common, scheme),
            "converged": told(converged, scheme),
            "curve": {"seconds": means.tolist(), **summary(curve.accuracy)},
        }
    return {
        "individual_epochs": epochs[cell.chosen],
        "common_accuracy": float(cell.level(weights)[0]),
        "schemes": schemes,
    }


def _with_ci(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the only column of a summary."""
    return {"mean": table["mean"][0], "ci95": table["ci95"][0]}


def _table_claims(
    name: str, cell: Cell, reported: Mapping[str, tuple[float, float]]
) -> list[Claim]:
    claims = []
    weights = resampled(len(cell.tests["proposed"]))
    seconds = cell.seconds(weights)
    budgets = {
        scheme: np.inf if scheme == "individual" else float(curve.seconds[-1])
        for scheme, curve in cell.curves.items()
    }
    late = {scheme: bool(np.isnan(times[0])) for scheme, times in seconds.items()}
    level = 100 * cell.level(weights)[0]
    for scheme, reference in (
        ("proposed", "individual"),
        ("proposed", "model-based"),
        ("proposed", "gradient-based"),
        ("model-based", "individual"),
        ("gradient-based", "individual"),
    ):
        said = reported[scheme][1] / reported[reference][1]
        value, low, high = bounded_ratio(
            seconds[reference], seconds[scheme], (budgets[reference], budgets[scheme])
        )
        seen = f"{value:.2f} times [{low:.2f}, {high:.2f}]"
        faster, slower = low > 1, high < 1
        if late[reference]:
            seen, slower = f"at least {seen}: {_not_within(reference, budgets)}", False
        if late[scheme]:
            seen, faster = f"at most {seen}: {_not_within(scheme, budgets)}", False
        if late[reference] and late[scheme]:
            seen = "neither reaches it within its budget"
        holds, wrong = (faster, slower) if said > 1 else (slower, faster)
        claims.append(
            Claim(
                f"{name}: proposed reaches {level:.1f} %, where individual learning ends, "
                f"{said:.2f} times as fast as {reference}"
                if scheme == "proposed"
                else f"{name}: {scheme} reaches {level:.1f} % {said:.2f} times as fast as "
                f"{reference}",
                seen,
                YES if holds else NO if wrong else OPEN,
            )
        )
    reached = [scheme for scheme in seconds if not late[scheme]]
    claims.append(
        Claim(
            f"{name}: proposed is the fastest to {level:.1f} %",
            ", ".join(
                f"{scheme} {seconds[scheme][0]:.3g} s"
                if scheme in reached
                else _not_within(scheme, budgets)
                for scheme in seconds
            ),
            YES if min(reached, key=lambda scheme: seconds[scheme][0]) == "proposed" else NO,
        )
    )
    for other in ("individual", "model-based", "gradient-based"):
        said = reported["proposed"][0] - reported[other][0]
        gain = 100 * (cell.tests["proposed"] - cell.tests[other])
        low, high = mean_intervals(gain)
        if abs(said) < _NEAR_POINTS:
            words = f"as accurate as {other}"
            near = max(abs(low), abs(high)) < 100 * _SAME
            far = min(abs(low), abs(high)) > 100 * _SAME and low * high > 0
            outcome = YES if near else NO if far else OPEN
        else:
            words, outcome = f"more accurate than {other}", verdict(gain)
        claims.append(
            Claim(
                f"{name}: proposed ends {words} ({said:+.2f} points)",
                f"{gain.mean():+.2f} points [{low:+.2f}, {high:+.2f}]",
                outcome,
            )
        )
    return claims


def _not_within(scheme: str, budgets: Mapping[str, float]) -> str:
    return f"{scheme} does not within its {budgets[scheme]:g} s"


def _draw_table2(findings: Findings, path: Path) -> None:
    figure, grid = new_figure(15, 3.4 * len(findings.data), len(findings.data), 3)
    for row, (cell, numbers) in zip(grid, findings.data.items(), strict=True):
        accuracies, speedups, curves = row
        places = np.arange(len(numbers["schemes"]))
        for place, (scheme, of) in zip(places, numbers["schemes"].items(), strict=True):
            colour = _TABLE_COLOURS[scheme]
            for axes, name in ((accuracies, "test_accuracy"), (speedups, "speedup")):
                if of[name]:
                    mean = of[name]["mean"]
                    spread = np.abs(np.array(of[name]["ci95"])[:, None] - mean)
                    axes.errorbar([place - 0.12], [mean], yerr=spread, fmt="o", color=colour)
                said = of["reported"][name]
                axes.plot([place + 0.12], [said], "D", color="none", markeredgecolor=colour)
            curve = of["curve"]
            # The logarithm of the start has no place.
            later = np.array(curve["seconds"]) > 0
            curves.plot(
                np.array(curve["seconds"])[later],
                100 * np.array(curve["mean"])[later],
                color=colour,
                label=scheme,
            )
            if of["seconds"] is not None:
                curves.plot([of["seconds"]], [100 * numbers["common_accuracy"]], "o", color=colour)
        curves.axhline(100 * numbers["common_accuracy"], color=INK, linewidth=0.8, linestyle=":")
        speed = f"speed-up to {100 * numbers['common_accuracy']:.1f} %"
        for axes, label in ((accuracies, "test accuracy, %"), (speedups, speed)):
            axes.set_xticks(places, list(numbers["schemes"]))
            axes.set_ylabel(label, color=INK)
            axes.set_title(f"{cell}: measured ●, reported ◇", fontsize=10, color=INK)
            axes.margins(x=0.15)
        speedups.set_yscale("log")
        plain_ticks(speedups)
        curves.set_xscale("log")
        curves.set_xlabel("simulated seconds up to each budget; ● individual's end", color=INK)
        curves.set_ylabel("validation accuracy, %", color=INK)
        curves.legend(frameon=False, fontsize=8, loc="lower right")
        for axes in row:
            tidy(axes)
    write_title(figure, findings.title)
    save(figure, path)


_FACTORS = {0.5: "#0072B2", 1.0: "#009E73", 2.0: "#D55E00"}
# Of each network: id, budget in simulated seconds, and what else differs.
_FIG3_NETWORKS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "mlp": ("BatchSlotNonIID-v0", 1.5, {"learning_rate": 0.2}),
    "cnn": ("BatchSlotNonIID-v0", 0.8, {"network": "cnn", "learning_rate": 0.2}),
    "lenet": ("BatchSlotNonIID-v0", 4.0, {"network": "lenet", "learning_rate": 0.08}),
}
_FIG3_DOCUMENT = {
    "densenet-121": "BatchSlotNonIID-Paper-v0",
    "resnet-18": "BatchSlotResNet-Paper-v0",
    "mobilenet-v2": "BatchSlotMobileNet-Paper-v0",
}


def feel_fig3(folder: Path, options: Options) -> Findings:
    """Redo Fig. 3 of FEEL: three networks, each with three learning rates, non-IID, K = 12.

    The document does not name its learning rates: they are the configuration's, its half and its
    double. Loss and accuracy along the way are those on the validation set.

    Raises:
        ValueError: If a value is out of range.
        OSError: If ``folder`` cannot be written to.
        edge_gym.data.DataError: If data are missing; the message says what to do.

    Source: FEEL Fig. 3, §VI-B.
    """
    seeds = _seeds(options, usual=4, quick=4)
    runner = _Runner(folder / "parts", options, seeds)
    shorter = 0.1 if options.quick else 1.0
    networks: dict[str, tuple[str, dict[str, Any]]] = {
        name: (env_id, {**_SMALL, **fields, "budget_s": shorter * budget_s})
        for name, (env_id, budget_s, fields) in _FIG3_NETWORKS.items()
    }
    if options.full:
        networks = {name: (env_id, {}) for name, env_id in _FIG3_DOCUMENT.items()}
    data: dict[str, Any] = {}
    claims: list[Claim] = []
    for network, (env_id, usual) in networks.items():
        runs: dict[float, Episodes] = {}
        preset = find_environment(env_id).preset
        base = make_config(BatchSlotConfig, None, preset, {**usual, **options.overrides})
        times = np.linspace(0, base.budget_s, _POINTS)
        data[network] = {}
        for factor in _FACTORS:
            rate = factor * base.learning_rate
            fixed = {"n_devices": 12, "partition": "shards", "learning_rate": rate}
            task = f"{network}, learning rate {rate:g}"
            runs[rate] = runner.run(task, env_id, usual, fixed, "optimal-batch-slot")
            data[network][f"{rate:g}"] = _numbers(runs[rate], times)
        claims += _fig3_claims(network, runs)
    findings = Findings(
        title=f"FEEL Fig. 3: proposed, {len(seeds)} episodes, K = 12, non-IID",
        config=runner.configs,
        seeds=seeds,
        parameters=runner.parameters,
        claims=claims,
        data=data,
        files=[folder / "feel-fig3.json", folder / "feel-fig3.png"],
    )
    colours = {
        network: dict(zip(of, _FACTORS.values(), strict=True)) for network, of in data.items()
    }
    write_findings(findings, lambda findings, path: _draw_curves(findings, path, colours))
    return findings


def _fig3_claims(network: str, runs: Mapping[float, Episodes]) -> list[Claim]:
    tests = {rate: episodes.infos["test_accuracy"] for rate, episodes in runs.items()}
    best = max(tests, key=lambda rate: float(tests[rate].mean()))
    worst = min(tests, key=lambda rate: float(tests[rate].mean()))
    gap = tests[best] - tests[worst]
    _, high = mean_intervals(gap)
    ends = ", ".join(f"{tests[rate].mean():.3f} at {rate:g}" for rate in tests)
    seen = YES if high < _SAME else PARTLY if gap.mean() < 3 * _SAME else NO
    return [
        Claim(
            f"{network}: the final test accuracy hardly depends on the learning rate",
            f"{ends}; best minus worst {with_interval(gap)}",
            seen,
        )
    ]


_GPU_SCHEMES = {
    "proposed": ("optimal-batch-slot", "#D55E00"),
    "online": ("online", "#66717D"),
    "full": ("full-batch", "#0072B2"),
    "random": ("random-batches", "#009E73"),
}


def feel_fig4(folder: Path, options: Options) -> Findings:
    """Redo Fig. 4 of FEEL: four ways to choose batches, six devices with GPUs, IID.

    Online learning, full and random batches have equal slots: the text does not say which. Loss
    and accuracy along the way are those on the validation set.

    Raises:
        ValueError: If a value is out of range.
        OSError: If ``folder`` cannot be written to.
        edge_gym.data.DataError: If data are missing; the message says what to do.

    Source: FEEL Fig. 4, §VI-D.
    """
    return _gpu_schemes(folder, options, "feel-fig4", "iid")


def feel_fig5(folder: Path, options: Options) -> Findings:
    """Redo Fig. 5 of FEEL: as Fig. 4, non-IID, and the proposed scheme in both cases.

    Raises:
        ValueError: If a value is out of range.
        OSError: If ``folder`` cannot be written to.
        edge_gym.data.DataError: If data are missing; the message says what to do.

    Source: FEEL Fig. 5, §VI-D.
    """
    return _gpu_schemes(folder, options, "feel-fig5", "shards")


def _gpu_schemes(folder: Path, options: Options, name: str, partition: str) -> Findings:
    seeds = _seeds(options, usual=20, quick=4)
    runner = _Runner(folder / "parts", options, seeds)
    env_id = "BatchSlotGPU-Paper-v0" if options.full else "BatchSlotGPU-v0"
    usual = {} if options.full else {**_SMALL, "budget_s": 0.08 if options.quick else 0.5}
    fixed = {"partition": partition, "n_devices": 6}
    runs = {
        scheme: runner.run(scheme, env_id, usual, fixed, rule)
        for scheme, (rule, _) in _GPU_SCHEMES.items()
    }
    colours = {scheme: colour for scheme, (_, colour) in _GPU_SCHEMES.items()}
    times = np.linspace(0, runner.configs["proposed"]["budget_s"], _POINTS)
    claims = _gpu_claims(runs, times)
    if partition != "iid":
        iid = {**fixed, "partition": "iid"}
        even = runner.run("proposed, IID", env_id, usual, iid, "optimal-batch-slot")
        lost = even.infos["test_accuracy"] - runs["proposed"].infos["test_accuracy"]
        _, high = mean_intervals(lost)
        claims.append(
            Claim(
                "proposed: the accuracy is almost the same as in the IID case",
                f"IID minus non-IID {with_interval(lost)}",
                YES if high < _SAME else OPEN if lost.mean() < _SAME else NO,
            )
        )
        runs["proposed, IID"] = even
        colours["proposed, IID"] = "#CC79A7"
    figure_name = f"{name[5:8].title()}. {name[8:]}"
    findings = Findings(
        title=(
            f"FEEL {figure_name}: GPUs, K = 6, {_PARTITIONS[partition]}, {len(seeds)} episodes "
            "each, the same for all schemes"
        ),
        config=runner.configs,
        seeds=seeds,
        parameters=runner.parameters,
        claims=claims,
        data={"schemes": {scheme: _numbers(run, times) for scheme, run in runs.items()}},
        files=[folder / f"{name}.json", folder / f"{name}.png"],
    )
    write_findings(
        findings, lambda findings, path: _draw_curves(findings, path, {"schemes": colours})
    )
    return findings


def _gpu_claims(runs: Mapping[str, Episodes], times: Float64Array) -> list[Claim]:
    claims = []
    losses = {scheme: along(run, "loss", times) for scheme, run in runs.items()}
    for other in runs:
        if other == "proposed":
            continue
        ahead = (losses[other] - losses["proposed"]).mean(axis=1)
        end = losses[other][:, -1] - losses["proposed"][:, -1]
        claims.append(
            Claim(
                f"proposed converges faster than {other}",
                f"its loss is lower by {with_interval(ahead)} on average over the time, "
                f"{with_interval(end)} in the end",
                verdict(ahead),
            )
        )
    for other in runs:
        if other == "proposed":
            continue
        gain = runs["proposed"].infos["test_accuracy"] - runs[other].infos["test_accuracy"]
        claims.append(
            Claim(
                f"proposed ends with a higher accuracy than {other}",
                with_interval(gain),
                verdict(gain),
            )
        )
    return claims


def _numbers(episodes: Episodes, times: Float64Array) -> dict[str, Any]:
    """Return metrics with intervals, and loss and accuracy along time."""
    reached = [name for name in episodes.infos if name.startswith(("seconds_to_", "reached_"))]
    names = ["test_accuracy", "total_loss_decrease", "rounds", "mean_batch", *reached]
    return {
        "metrics": metrics({name: episodes.infos[name] for name in names}),
        "seconds": times.tolist(),
        **{quantity: summary(along(episodes, quantity, times)) for quantity in _QUANTITIES},
    }


_QUANTITIES = {"loss": "validation loss, nats", "accuracy": "validation accuracy"}


def _draw_curves(findings: Findings, path: Path, colours: Mapping[str, Mapping[str, str]]) -> None:
    """Draw loss and accuracy against time, a row for each part of the data."""
    figure, grid = new_figure(11.5, 3.4 * len(findings.data) + 0.6, len(findings.data), 2)
    for row, (part, lines) in zip(grid, findings.data.items(), strict=True):
        for axes, (quantity, label) in zip(row, _QUANTITIES.items(), strict=True):
            for line, numbers in lines.items():
                curve, colour = numbers[quantity], colours[part][line]
                axes.plot(numbers["seconds"], curve["mean"], color=colour, label=line)
                axes.fill_between(
                    numbers["seconds"],
                    *np.transpose(curve["ci95"]),
                    color=colour,
                    alpha=0.15,
                    linewidth=0,
                )
            axes.set_xlabel("simulated seconds", color=INK)
            axes.set_ylabel(label, color=INK)
            if len(findings.data) > 1:
                axes.set_title(part, fontsize=10, color=INK)
            tidy(axes)
        row[0].set_yscale("log")
        plain_ticks(row[0])
        title = "learning rate" if len(findings.data) > 1 else None
        row[1].legend(frameon=False, fontsize=8, loc="lower right", title=title)
    write_title(figure, f"{findings.title}; 95 % intervals")
    save(figure, path)


def plain_ticks(axes: Any) -> None:
    """Write the numbers beside a logarithmic axis as they are."""
    from matplotlib.ticker import LogLocator

    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.yaxis.set_minor_formatter("{x:g}")
