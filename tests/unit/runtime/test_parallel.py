"""edge_gym.runtime.threads: every problem once, on as many threads as wanted, also after a fork."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edge_gym.runtime.threads import for_ranges, thread_count


@pytest.mark.parametrize("threads", ["1", "2", "5"])
@pytest.mark.parametrize("size", [0, 1, 2, 7, 64, 1000])
@pytest.mark.parametrize("grain", [0, 1, 3, 2000])
def test_every_index_is_covered_once(
    size: int, grain: int, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_GYM_THREADS", threads)
    visits = np.zeros(size, np.int64)

    def kernel(start: int, stop: int) -> None:
        visits[start:stop] += 1

    for_ranges(kernel, size, grain)
    assert (visits == 1).all()


def threads_used(size: int, grain: int = 1) -> set[int]:
    used = set()

    def kernel(start: int, stop: int) -> None:
        used.add(threading.get_ident())
        # Long enough for every thread to take its share.
        time.sleep(0.02)

    for_ranges(kernel, size, grain)
    return used


def test_little_work_stays_on_the_calling_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {threading.get_ident()}
    monkeypatch.setenv("EDGE_GYM_THREADS", "4")
    assert threads_used(7, grain=4) == here
    assert len(threads_used(8, grain=4)) == 2
    monkeypatch.setenv("EDGE_GYM_THREADS", "1")
    assert threads_used(10) == here


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", ""])
def test_bad_thread_counts(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_GYM_THREADS", value)
    message = f"EDGE_GYM_THREADS must be a positive integer, got '{value}'"
    with pytest.raises(ValueError, match=message):
        thread_count()


def test_thread_count_is_the_cores_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_GYM_THREADS", raising=False)
    assert 1 <= thread_count() <= (os.cpu_count() or 1)
    monkeypatch.setenv("EDGE_GYM_THREADS", "3")
    assert thread_count() == 3


def test_errors_reach_the_caller_after_all_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_GYM_THREADS", "2")
    done = []

    def kernel(start: int, stop: int) -> None:
        if start == 0:
            raise ArithmeticError("lane 0")
        threading.Event().wait(0.02)
        done.append(start)

    with pytest.raises(ArithmeticError, match="lane 0"):
        for_ranges(kernel, 8)
    assert sorted(done) == list(range(1, 8))


def test_callers_on_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_GYM_THREADS", "2")
    counts = np.zeros((4, 100), np.int64)

    def work(row: int) -> None:
        def kernel(start: int, stop: int) -> None:
            counts[row, start:stop] += 1

        for _ in range(20):
            for_ranges(kernel, 100)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert (counts == 20).all()


def _in_child(connection: multiprocessing.connection.Connection) -> None:
    connection.send(len(threads_used(64)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_a_forked_child_starts_its_own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_GYM_THREADS", "2")
    threads_used(64)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=_in_child, args=(there,))
    child.start()
    try:
        assert here.poll(30), "the child hangs"
        assert here.recv() >= 1
    finally:
        child.kill()
        child.join()
