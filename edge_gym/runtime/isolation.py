"""What a program has set of NumPy and torch neither breaks nor changes what environments compute.

Default types and devices, autocast, inference mode, deterministic algorithms, floating-point errors
and others hold for a whole thread or process. What runs in ``isolated()`` finds them as they are
in a fresh interpreter, and torch on one thread; afterwards they are as they were. One thread is
enough: small layers gain nothing from more, results depend on the number, and OpenMP's threads do
not survive a fork.

Settings of the whole process are put back when the last of several threads leaves, so that none
works with another's. Torch keeps a number of threads for each thread, and begins a new one with
what was set last in any: every thread puts back its own.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_BUFFER = 8192  # NumPy's own size of the buffers in which it casts and sums.
_SMALLEST = sys.float_info.min


class _Shared(NamedTuple):
    """A setting of the whole process: how to read and write it, and what does not matter to us."""

    read: Callable[[Any], Any]
    write: Callable[[Any, Any], object]
    plain: tuple[Any, ...]


def _precision(operation: str) -> _Shared:
    """Return the precision of float32 products, which torch has set by backend since 2.9."""
    return _Shared(
        lambda torch: torch._C._get_fp32_precision_getter("mkldnn", operation),
        lambda torch, value: torch._C._set_fp32_precision_setter("mkldnn", operation, value),
        ("ieee", "none"),
    )


def _shared_settings(torch: Any) -> tuple[_Shared, ...]:
    if hasattr(torch._C, "_get_fp32_precision_getter"):
        precisions = [_precision("matmul"), _precision("conv")]
    else:
        precisions = [
            _Shared(
                lambda torch: torch.get_float32_matmul_precision(),
                lambda torch, value: torch.set_float32_matmul_precision(value),
                ("highest",),
            )
        ]
    return (
        _Shared(
            lambda torch: torch.get_default_dtype(),
            lambda torch, value: torch.set_default_dtype(value),
            (torch.float32,),
        ),
        _Shared(
            lambda torch: torch.get_deterministic_debug_mode(),
            lambda torch, value: torch.set_deterministic_debug_mode(value),
            (0,),
        ),
        _Shared(
            lambda torch: torch._C._get_mkldnn_enabled(),
            lambda torch, value: torch._C._set_mkldnn_enabled(value),
            (True,),
        ),
        *precisions,
    )


class _Process:
    """What threads share, under a lock.

    Attributes:
        inside: Threads in ``isolated()`` that found torch imported.
        lowered: Those of them that had more than one thread of torch.
        threads: How many the first of these had.
        changed: What is to be put back: setting and value.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.settings: tuple[_Shared, ...] = ()
        self.inside = self.lowered = self.threads = 0
        self.changed: dict[int, Any] = {}

    def enter(self, torch: Any, here: _Thread) -> None:
        with self.lock:
            self.settings = self.settings or _shared_settings(torch)
            self.inside += 1
            here.shares = True
            for i, setting in enumerate(self.settings):
                if (value := setting.read(torch)) not in setting.plain:
                    self.changed.setdefault(i, value)
                    setting.write(torch, setting.plain[0])
            threads = torch.get_num_threads()
            if threads == 1 and self.lowered and not here.known:
                # It began while another thread was inside, and with that one's single thread.
                threads = self.threads
            here.known = True
            here.threads = threads
            if threads > 1:
                self.lowered += 1
                if self.lowered == 1:
                    self.threads = threads
                torch.set_num_threads(1)

    def leave(self, torch: Any, here: _Thread) -> None:
        with self.lock:
            here.shares = False
            if here.threads > 1:
                self.lowered -= 1
                if not here.ours:
                    torch.set_num_threads(here.threads)
            self.inside -= 1
            if not self.inside:
                self.put_back(torch)

    def put_back(self, torch: Any) -> None:
        while self.changed:
            i, value = self.changed.popitem()
            self.settings[i].write(torch, value)


class _Thread(threading.local):
    """What ``isolated()`` keeps for each thread.

    Attributes:
        depth: How often it was entered.
        undo: What puts this thread's settings back, last to first.
        shares: Whether it counts in ``_Process.inside``.
        known: Whether it was inside before.
        ours: Whether it is one of our own, which keeps its single thread of torch: a number that it
            put back would be what later threads of the user begin with.
        threads: Torch's threads that it had.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.undo: list[Callable[[], object]] = []
        self.shares = self.known = self.ours = False
        self.threads = 1


_process = _Process()
_here = _Thread()


class isolated:  # noqa: N801  # as contextlib's are
    """A context in which NumPy and torch are as in a fresh interpreter, torch on one thread.

    It may be entered within itself and by several threads at a time. What has not imported torch
    does not import it. Takes 5 µs, and .3 µs within itself.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        _here.depth += 1
        if _here.depth == 1:
            try:
                _enter()
            except BaseException:
                _leave()
                raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if _here.depth > 1:
            _here.depth -= 1
        else:
            _leave()


def work_for_others() -> None:
    """Say that this thread works for callers that are in ``isolated()`` themselves."""
    _here.ours = True


def in_isolation(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Let ``function`` run in ``isolated()``."""

    @functools.wraps(function)
    def inner(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with isolated():
            return function(*args, **kwargs)

    return inner


def _torch() -> Any:
    """Return torch if it has been imported, else None."""
    torch = sys.modules.get("torch")
    if torch is None or getattr(torch.__spec__, "_initializing", False):
        return None
    return torch


def _enter() -> None:
    undo = _here.undo
    errors = np.errstate(divide="warn", over="warn", under="ignore", invalid="warn")
    errors.__enter__()
    undo.append(lambda: errors.__exit__(None, None, None))
    if (size := np.getbufsize()) != _BUFFER:
        np.setbufsize(_BUFFER)
        undo.append(lambda: np.setbufsize(size))
    torch = _torch()
    if torch is None:
        return
    _process.enter(torch, _here)
    if count := torch._C._len_torch_function_stack():
        # Default devices, and whatever else would see each of torch's functions.
        modes = [torch._C._pop_torch_function_stack() for _ in range(count)]
        undo.append(lambda: [torch._C._push_on_torch_function_stack(m) for m in reversed(modes)])
    if torch.is_inference_mode_enabled():
        normal = torch.inference_mode(False)
        normal.__enter__()
        undo.append(lambda: normal.__exit__(None, None, None))
    if not torch.is_grad_enabled():
        torch.set_grad_enabled(True)
        undo.append(lambda: torch.set_grad_enabled(False))
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            torch.set_autocast_enabled(device, False)
            undo.append(functools.partial(torch.set_autocast_enabled, device, True))
    if _SMALLEST / 2 == 0:
        torch.set_flush_denormal(False)
        undo.append(lambda: torch.set_flush_denormal(True))


def _leave() -> None:
    _here.depth = 0
    try:
        while _here.undo:
            _here.undo.pop()()
    finally:
        if _here.shares:
            _process.leave(sys.modules["torch"], _here)


def _after_fork() -> None:
    """Leave other threads' marks behind in a forked child, where they do not exist.

    OpenMP's threads do not either, and a child that waits for them hangs: torch gets along with
    one thread there. The package itself sees to that, whichever of its modules are imported.
    """
    _process.lock = threading.Lock()
    _process.inside = int(_here.shares)
    _process.lowered = 0
    _here.threads = 1
    torch = _torch()
    if torch is not None:
        if not _here.shares:
            _process.put_back(torch)
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
