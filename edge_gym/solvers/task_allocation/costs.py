"""What tasks cost learners, and the allocations that need no search."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from edge_gym.physics.checks import check_array
from edge_gym.runtime.threads import for_ranges
from edge_gym.solvers.task_allocation.instances import (
    GRAIN,
    LARGEST,
    as_rows,
    check_cap,
    check_least,
    goals_of,
)
from edge_gym.solvers.task_allocation.kernels import fill_rooms, fill_table, fill_updates, relax
from edge_gym.typing import Float64Array, IntArray


@dataclass(frozen=True, eq=False)
class TaskCosts:
    """What a cycle of τ_k updates on d_k samples costs K learners, and what they can spend.

    It takes C²·τ·d + C¹·d + C⁰ ≤ T seconds and G²·τ·d + G¹·d + G⁰ ≤ E⁰ joules. All fields are
    broadcast to one shape ``(..., K)`` of float64.

    Attributes:
        base_s: Seconds C_k⁰ of a cycle, whatever is done: the model's way there and back.
        sample_s: Seconds C_k¹ of every sample: its way to the learner; 0 where it is there.
        update_s: Seconds C_k² of every sample in every update.
        base_j: Joules G_k⁰ of a cycle.
        sample_j: Joules G_k¹ of every sample.
        update_j: Joules G_k² of every sample in every update.
        limit_j: Joules E_k⁰ that a cycle may cost; may be infinite.
        max_samples: Samples n_k that a learner has; infinite where the orchestrator sends them.
        cycle_s: Seconds T of the cycle.

    Raises:
        ValueError: If a value is negative, NaN, or infinite where that means nothing, or shapes do
            not fit.

    Source: Mohammad et al. 2020, eqs. (10), (11).
    """

    base_s: Float64Array
    sample_s: Float64Array
    update_s: Float64Array
    base_j: Float64Array
    sample_j: Float64Array
    update_j: Float64Array
    limit_j: Float64Array
    max_samples: Float64Array
    cycle_s: Float64Array

    def __post_init__(self) -> None:
        arrays = {}
        for field in fields(self):
            name = field.name
            array = check_array(name, getattr(self, name))
            if name not in ("limit_j", "max_samples") and not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)].flat[0]}")
            arrays[name] = array
        shape = np.broadcast_shapes(*(array.shape for array in arrays.values()))
        if not shape or not shape[-1]:
            raise ValueError(f"update_s must have an axis of learners, got the shape {shape}")
        for name, array in arrays.items():
            object.__setattr__(self, name, np.broadcast_to(array, shape))

    def capacity(self, updates: ArrayLike) -> Float64Array:
        """Return the samples D_k(τ) on which learners can make so many updates, not rounded.

        D_k(τ) = min[(T - C⁰)/(C²τ + C¹), (E⁰ - G⁰)/(G²τ + G¹), n_k]; 0 where T < C⁰ or E⁰ < G⁰,
        and infinite where nothing limits them.

        Args:
            updates: Updates τ_k, which need not be whole, ``(..., K)``.

        Raises:
            ValueError: If ``updates`` is negative or has a shape that does not fit.
        """
        terms, rows, shape = self._with("updates", updates)
        samples = np.empty(len(rows))
        fill_rooms(terms, rows, samples)
        return samples.reshape(shape)

    def whole_capacities(self, n: int) -> IntArray:
        """Return the table of ⌊D_k(τ)⌋ for τ = 1..n, at most ``LARGEST``, ``(..., K, n)``.

        Raises:
            ValueError: If ``n`` is less than 1.
        """
        check_least("n", n, 1)
        terms = self._terms()
        table = np.empty((*terms.shape[:-1], n), np.int64)
        rows, flat = terms.reshape(-1, 7), table.reshape(-1, n)
        for_ranges(
            lambda start, stop: fill_table(rows, flat, start, stop),
            len(rows),
            grain=max(1, GRAIN // n),
        )
        return table

    def max_updates(self, samples: ArrayLike) -> IntArray:
        """Return the most whole updates that time and energy allow on so many samples.

        That is the largest τ with d_k ≤ D_k(τ), at most ``LARGEST``; 0 where even one update is too
        many, where learners have fewer samples, and without samples.

        Args:
            samples: Samples d_k, ``(..., K)``.

        Raises:
            ValueError: If ``samples`` is negative or has a shape that does not fit.
        """
        terms, rows, shape = self._with("samples", samples)
        updates = np.empty(len(rows), np.int64)
        fill_updates(terms, rows, updates)
        return updates.reshape(shape)

    def needs(self, samples: ArrayLike, updates: ArrayLike) -> tuple[Float64Array, Float64Array]:
        """Return the seconds and the joules that tasks take of each learner, ``(..., K)`` each.

        Args:
            samples: Samples d_k, ``(..., K)``.
            updates: Updates τ_k, ``(..., K)``.

        Raises:
            ValueError: If an argument is negative.

        Source: Mohammad et al. 2020, eqs. (10), (11).
        """
        held, times = check_array("samples", samples), check_array("updates", updates)
        seconds = self.update_s * times * held + self.sample_s * held + self.base_s
        joules = self.update_j * times * held + self.sample_j * held + self.base_j
        return seconds, joules

    def _terms(self) -> Float64Array:
        """Return what ``_room`` needs of every learner, ``(..., K, 7)``."""
        return np.stack(
            [
                self.cycle_s - self.base_s,
                self.update_s,
                self.sample_s,
                self.limit_j - self.base_j,
                self.update_j,
                self.sample_j,
                self.max_samples,
            ],
            axis=-1,
        )

    def _with(
        self, name: str, value: ArrayLike
    ) -> tuple[Float64Array, Float64Array, tuple[int, ...]]:
        """Return rows of the terms and of a checked argument, and the shape of both."""
        array, shape = check_array(name, value), self.update_s.shape
        try:
            shape = np.broadcast_shapes(array.shape, shape)
        except ValueError:
            message = f"{name} must broadcast with the shape {shape}, got {array.shape}"
            raise ValueError(message) from None
        return as_rows(self._terms(), shape, 1), as_rows(array, shape, 0), shape


class Tasks(NamedTuple):
    """What every learner does in a cycle.

    Attributes:
        samples: Samples d_k, ``(..., K)``.
        updates: Updates τ_k on them, ``(..., K)``; 0 where a learner takes no part.
    """

    samples: IntArray
    updates: IntArray


def relaxed_updates(costs: TaskCosts, total: ArrayLike, least_samples: int = 1) -> Float64Array:
    """Return the most updates τ̂ that all learners can make, when nothing need be whole.

    That is the largest τ with ΣD_k(τ) ≥ d and every D_k(τ) ≥ d_l, found by bisection.

    Args:
        costs: Costs of the cycle, ``(..., K)``.
        total: Samples d of all learners, ``(...)``.
        least_samples: Samples d_l ≥ 1 of every learner.

    Returns:
        τ̂, ``(...)``; 0 where learners cannot hold the samples for however few updates, infinite
        where updates cost nothing.

    Raises:
        ValueError: If an argument is out of range.

    Source: Mohammad et al. 2020, problem (17); the dual (19) that would bound it is vacuous.
    """
    check_least("least_samples", least_samples, 1)
    terms = costs._terms()
    goals, shape = goals_of(total, terms.shape[:-2])
    rows = as_rows(terms, shape, 2)
    updates = np.empty(len(rows))
    for_ranges(
        lambda start, stop: relax(rows, goals, least_samples, updates, start, stop),
        len(rows),
        grain=max(1, GRAIN // (32 * rows.shape[1])),
    )
    return updates.reshape(shape)


def equal_allocation(costs: TaskCosts, total: ArrayLike, cap: int | None) -> Tasks:
    """Return equal samples for all learners and the most updates that each can make on them.

    This knows nothing of the learners: d_k = d/K, the first ones get what does not divide, none
    more than n_k. Learners may have samples and no updates; these are stragglers that return
    nothing. Staleness counts them: with c = 0 and one of them, nobody makes an update.

    Args:
        costs: Costs of the cycle, ``(..., K)``.
        total: Samples d of all learners, ``(...)``.
        cap: Largest staleness c ≥ 0, for which all others wait for the slowest learner with
            samples: 0 is HU-Sync, ``None`` HU-Asyn.

    Raises:
        ValueError: If an argument is out of range.

    Source: Mohammad et al. 2020, §5, HU-Sync and HU-Asyn.
    """
    n_learners = costs.update_s.shape[-1]
    check_cap(cap)
    goals, shape = goals_of(total, costs.update_s.shape[:-1])
    goals = goals.reshape(*shape, 1)
    share = goals // n_learners + (np.arange(n_learners) < goals % n_learners)
    samples = np.minimum(share, np.minimum(costs.max_samples, LARGEST).astype(np.int64))
    updates = costs.max_updates(samples)
    if cap is not None:
        slowest = np.where(samples > 0, updates, LARGEST).min(axis=-1, keepdims=True)
        updates = np.minimum(updates, slowest + min(cap, LARGEST))
    return Tasks(samples, updates)
