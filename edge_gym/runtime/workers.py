"""Who does the work: processes of this machine, or Ray on many. What is lost is done again."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from edge_gym.runtime.optional import missing_extra

MOST_RETRIES = 5
"""How often a task is done again whose worker was lost."""

MOST_WORKERS = 60 if sys.platform == "win32" else 1024
"""How many processes there can be."""

_worker = False  # whether this process is one that ``in_processes`` began

Task = TypeVar("Task", bound=Hashable)
Result = TypeVar("Result")
Run = Callable[[Sequence[Task]], Iterator[tuple[Task, Result]]]
"""Does tasks and yields each with its result, in whatever order they end."""


def here(work: Callable[[Task], Result]) -> Run[Task, Result]:
    """Return what runs tasks one after the other in this process.

    Args:
        work: What is done with a task.
    """
    return lambda tasks: ((task, work(task)) for task in tasks)


def in_processes(workers: int, work: Callable[[Task], Result]) -> Run[Task, Result]:
    """Return what runs tasks in so many processes of one thread each.

    A process that is killed takes those of its pool along; what they were at is run again. Ctrl-C
    is this process's alone: it ends the others by SIGTERM, and waits for those that put it off to
    save what they have done, as trainings do; a second Ctrl-C does not wait.

    Args:
        workers: Number of processes.
        work: What they do with a task, a function of a module; ``run_chunk`` for a sweep.
    """

    def run(tasks: Sequence[Task]) -> Iterator[tuple[Task, Result]]:
        left = dict.fromkeys(tasks)
        for attempt in range(MOST_RETRIES + 1):
            with _one_thread_each():
                context = multiprocessing.get_context("spawn")
                pool = ProcessPoolExecutor(workers, context, _begin_worker)
                try:
                    with _deaf_to_interrupts():
                        futures = {
                            pool.submit(functools.partial(_do, work), task): task for task in left
                        }
                    for future in as_completed(futures):
                        task, result = futures[future], future.result()
                        del left[task]
                        yield task, result
                    pool.shutdown(wait=False)
                    return
                except BrokenProcessPool:
                    _end(pool)
                    if attempt == MOST_RETRIES:
                        raise
                except BaseException:
                    _end(pool)
                    raise

    return run


def is_worker() -> bool:
    """Return whether this process is one of ``in_processes``, which SIGTERM ends."""
    return _worker


def _do(work: Callable[[Task], Result], task: Task) -> Result:
    """Do a task in a worker, which ends if it is told to meanwhile."""
    try:
        return work(task)
    except KeyboardInterrupt:
        os._exit(1)  # with nothing printed: whoever told it knows


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let processes that begin meanwhile hear no Ctrl-C; one to this process comes afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # as on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(pool: ProcessPoolExecutor) -> None:
    """End a pool's processes: at once, or as soon as they have saved what they have done."""
    # The executor's own method for it is newer than the oldest Python that is supported.
    processes = list((getattr(pool, "_processes", None) or {}).values())
    for process in processes:
        process.terminate()
    try:
        pool.shutdown(wait=True, cancel_futures=True)
    except BaseException:
        for process in processes:
            process.kill()
        raise


def _begin_worker() -> None:
    """Leave Ctrl-C to the process that began this one, and end when that has ended."""
    global _worker
    _worker = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that begin meanwhile use one thread."""
    names = ("EDGE_GYM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def on_ray(address: str | None, work: Callable[[Task], Result]) -> Run[Task, Result]:
    """Return what runs tasks on Ray, with a core for each.

    Args:
        address: Of a cluster, ``"auto"`` for the one around; None starts Ray on this machine.
        work: What is done with a task; ``run_chunk`` for a sweep.

    A task whose worker or node is lost is run again elsewhere.

    Raises:
        ImportError: If Ray is missing.
    """
    try:
        import ray
    except ImportError as error:
        raise missing_extra("sweeps on Ray need it", "ray", error) from error

    def run(tasks: Sequence[Task]) -> Iterator[tuple[Task, Result]]:
        if not tasks:
            return
        started = not ray.is_initialized()
        if started:
            # Without an address, Ray would take the cluster that was started last, if there is one.
            ray.init(address=address or "local", log_to_driver=False, include_dashboard=False)
        variables = {"EDGE_GYM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        if data := os.environ.get("EDGE_GYM_DATA"):
            variables["EDGE_GYM_DATA"] = data
        remote = ray.remote(
            num_cpus=1, max_retries=MOST_RETRIES, runtime_env={"env_vars": variables}
        )(work)
        try:
            waiting = {remote.remote(task): task for task in tasks}
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                yield waiting.pop(done), ray.get(done)
        finally:
            if started:
                ray.shutdown()

    return run
