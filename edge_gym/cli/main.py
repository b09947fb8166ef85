"""The command line, ``edge-gym``.

Commands import what they need when they run, so that help is there at once. Only results go to
standard output; progress and remarks go to standard error.
"""

from __future__ import annotations

import _thread
import errno
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, cast

import typer

from edge_gym.cli import environments, policies, studies, training  # noqa: F401
from edge_gym.cli.options import (
    StoppedError,
    app,
)
from edge_gym.cli.output import (
    INTERRUPTED,
    complain,
    remark,
)

_LEAVING_S = 0.05  # within which a callback from compiled code is left


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Let no Ctrl-C be lost in a callback from compiled code, where Python ignores exceptions.

    Numba's compiler has such callbacks: what they ignore is raised again once they are left.
    """
    before = sys.unraisablehook

    def hook(ignored: sys.UnraisableHookArgs) -> None:
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            # A little later, for here it would be ignored as well.
            threading.Timer(_LEAVING_S, _thread.interrupt_main).start()
        else:
            before(ignored)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def warnings_as_remarks() -> Iterator[None]:
    """Show this package's own warnings as remarks, in one line."""
    before = warnings.showwarning

    def show(message: Any, category: Any, *place: Any) -> None:
        if category.__module__.split(".")[0] == "edge_gym":
            remark(str(message))
        else:
            before(message, category, *place)

    warnings.showwarning = cast(Any, show)
    try:
        yield
    finally:
        warnings.showwarning = before


@interrupts_kept()
@warnings_as_remarks()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    Errors that a user can cause are one line on standard error and exit code 2;
    ``EDGE_GYM_TRACEBACK=1`` shows where they come from.

    Args:
        arguments: What follows ``edge-gym``; None takes the process's.
    """
    if os.environ.get("EDGE_GYM_TRACEBACK") == "1":
        return int(app(arguments, standalone_mode=False) or 0)
    from gymnasium.error import Error as GymnasiumError

    # Newer versions of typer carry a copy of click of their own.
    click_error: type[Exception] = next(
        cast(type[Exception], c)
        for c in typer.BadParameter.__mro__
        if c.__name__ == "ClickException"
    )
    try:
        return int(app(arguments, standalone_mode=False) or 0)
    except StoppedError:
        return complain("stopped", INTERRUPTED)
    except click_error as error:
        return complain(error.format_message())  # type: ignore[attr-defined]
    except KeyboardInterrupt:
        return complain("stopped", INTERRUPTED)
    except OSError as error:
        full = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
        if error.errno in full and error.filename is None and "disk is full" not in str(error):
            return complain(
                f"the disk is full ({error.strerror}): make room, what was written is kept"
            )
        # Without the number that Python puts in front of what has one.
        own = error.filename is None and error.strerror
        return complain(str(error.strerror if own else error))
    except (ValueError, TypeError, ImportError, GymnasiumError) as error:
        return complain(str(error))
    except MemoryError as error:
        return complain(_too_large(error))
    except RecursionError:
        return complain("a value is nested too deeply")
    except RuntimeError as error:
        from edge_gym.data import DataError

        if isinstance(error, DataError):
            return complain(str(error))
        # As torch says it.
        if "allocate memory" in str(error) or "out of memory" in str(error):
            return complain(_too_large(error))
        raise


def _too_large(error: Exception) -> str:
    return (
        f"there is not enough memory ({error}): choose a smaller configuration, or fewer --lanes"
        if str(error)
        else "there is not enough memory: choose a smaller configuration, or fewer --lanes"
    )


def _show_version(wanted: bool) -> None:
    if wanted:
        from edge_gym import __version__

        print(f"edge-gym {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Gymnasium environments for wireless edge learning."""
