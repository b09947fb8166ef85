"""Compiled kernels, kept between processes where that can be done.

Numba keeps what it compiled in ``NUMBA_CACHE_DIR``, beside the code or in the user's cache folder,
whichever can be written first, and refuses to import a function if none can. Here such a function
uses what lies beside the code, as read-only images do, and else is compiled anew; files that are
damaged count as missing.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

caching: Any = importlib.import_module("numba.core.caching")
# Numba 0.62 made the name public.
_InTree: Any = getattr(caching, "InTreeCacheLocator", None) or caching._InTreeCacheLocator


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function when it is called, without Python's lock.

    Args:
        **options: Of ``numba.njit``.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(nogil=True, **options)(function)
        if hasattr(dispatcher, "enable_caching"):  # Not where NUMBA_DISABLE_JIT is set.
            dispatcher._cache = _Cache(function)
        return dispatcher

    return decorate


class _Beside(_InTree):  # type: ignore[misc]
    """The folder beside the code, whether it can be written or not."""

    def ensure_cache_path(self) -> None:
        """Leave the folder as it is."""


class _Implementation(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (*caching.CompileResultCacheImpl._locator_classes, _Beside)


class _Cache(caching.FunctionCache):  # type: ignore[misc]
    _impl_class = _Implementation

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        # A kernel holds those that it calls, which may stand in files beside its own.
        self._cache_file = caching.IndexDataCacheFile(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=_stamp_of(Path(function.__code__.co_filename).parent),
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return what was compiled for a signature; None if there is nothing, or it is damaged."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # Bytes that are cut off or changed may raise anything.
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled, in place of an index that is damaged."""
        try:
            try:
                super().save_overload(sig, data)
            except OSError:
                raise
            except Exception:
                self.flush()
                super().save_overload(sig, data)
        except OSError as error:
            _say_once(str(Path(self.cache_path)), error.strerror or str(error))


@functools.cache
def _stamp_of(folder: Path) -> tuple[tuple[str, float, int], ...]:
    """Return what changes when a module in a folder does: names, times and sizes."""
    try:
        files = [(path.name, path.stat()) for path in sorted(folder.glob("*.py"))]
    except OSError:
        return ()
    return tuple((name, found.st_mtime, found.st_size) for name, found in files)


@functools.cache
def _say_once(folder: str, reason: str) -> None:
    logging.getLogger("edge_gym").warning(
        "edge_gym compiles anew in every process, which takes a minute: cannot write to %s (%s); "
        "set NUMBA_CACHE_DIR to a folder that can be written",
        folder,
        reason,
    )
