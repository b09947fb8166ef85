"""Lane-parallel execution of compiled kernels.

Kernels are compiled with ``nogil=True`` and take a range of problems; this module spreads the
ranges over a thread pool. Compiled ``prange`` would do the same with less code, but its threading
layers either do not survive a fork (OpenMP) or abort when two threads call them at once
(workqueue), and users put environments into both.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

from edge_gym.runtime.isolation import in_isolation, isolated, work_for_others
from edge_gym.runtime.messages import shown

_pool: ThreadPoolExecutor | None = None


def thread_count() -> int:
    """Return how many threads kernels use: ``EDGE_GYM_THREADS``, else the cores at hand.

    Raises:
        ValueError: If ``EDGE_GYM_THREADS`` is not a positive integer.
    """
    value = os.environ.get("EDGE_GYM_THREADS")
    if value is None:
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        # macOS and Windows cannot say which cores this process may use; Python 3.13 asks for us.
        return getattr(os, "process_cpu_count", os.cpu_count)() or 1
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"EDGE_GYM_THREADS must be a positive integer, got {shown(value)}")
    return int(value)


def _forget_pool() -> None:
    """Drop the pool in a forked child, whose threads were not copied."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


@in_isolation
def for_ranges(kernel: Callable[[int, int], object], size: int, grain: int = 1) -> None:
    """Call ``kernel(start, stop)`` so that the calls cover ``range(size)`` once.

    Args:
        kernel: Releases the interpreter lock while it works; calls must not share results.
        size: Number of problems.
        grain: Fewest problems that are worth a thread of their own.
    """
    global _pool
    threads = min(thread_count(), size // max(grain, 1))
    if threads <= 1:
        kernel(0, size)
        return
    if _pool is None:
        _pool = ThreadPoolExecutor(
            thread_count(), thread_name_prefix="edge-gym", initializer=work_for_others
        )
    # More chunks than threads: lanes differ in work, and a late chunk must not stall the rest.
    # Whoever is free takes the next one, this thread too: a task in the pool costs microseconds.
    n_chunks = min(size, 4 * threads)
    edges = [size * i // n_chunks for i in range(n_chunks + 1)]
    chunks = iter(list(itertools.pairwise(edges)))

    def work() -> None:
        for start, stop in chunks:
            kernel(start, stop)

    def help_out() -> None:
        with isolated():
            work()

    helpers = [_pool.submit(help_out) for _ in range(threads - 1)]
    try:
        work()
    finally:
        # An error must not leave kernels at work on arrays that the caller goes on with.
        wait(helpers)
    for helper in helpers:
        helper.result()
