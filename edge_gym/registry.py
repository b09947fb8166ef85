"""Registries: what others can bring, by name.

Each kind of thing that can be brought (environments, data sets, learners, networks, channels,
baselines, algorithms, decoders) has one ``Registry``. Its items may be given as
``"module:attribute"`` and are imported when first asked for.

A package of your own says in its metadata what registers its things, and everything that names
them finds them, in worker processes too::

    [project.entry-points."edge_gym.plugins"]
    my_package = "my_package.plugin:register"

What is named is called without arguments, if it can be called; a module is only imported.

A module that is no package's is named in front of an id, ``edge-gym compare my_module:lab/Mine-v0``
from the folder that it is in, or in the environment variable ``EDGE_GYM_PLUGINS``, several with
commas between; worker processes inherit it.
"""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast

from edge_gym.runtime.messages import shown

GROUP = "edge_gym.plugins"
"""The group of entry points."""

VARIABLE = "EDGE_GYM_PLUGINS"
"""The environment variable that names modules to import besides."""

_LONGEST_NAME = 100  # comparing takes longer, the longer a name is

T = TypeVar("T")


class PluginWarning(UserWarning):
    """A plug-in could not be loaded; all else works."""


class Registry(Generic[T]):
    """Things of one kind by name.

    Args:
        kind: What they are, in the singular, for messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T | str] = {}

    def register(self, name: str, item: T | str) -> None:
        """Add something.

        Args:
            name: Its name; letters, digits and ``-_./``, for it is written on command lines.
            item: The thing, or where it is, ``"module:attribute"``.

        Raises:
            ValueError: If the name cannot be written, or something else has it already.
        """
        check_name(self.kind, name)
        if isinstance(item, str) and item.count(":") != 1:
            raise ValueError(f"{self.kind} {name!r}: expected 'module:attribute', got {item!r}")
        if name in self._items and not same_item(self._items[name], item):
            raise ValueError(f"there is a {self.kind} {name!r} already: choose another name")
        self._items[name] = item

    def unregister(self, name: str) -> None:
        """Take something out again; what is not there is not missed."""
        self._items.pop(name, None)

    def find(self, name: str) -> T:
        """Return what is registered under a name.

        Raises:
            ValueError: If there is nothing; the message says what is like it.
        """
        load_plugins()
        if not isinstance(name, str) or name not in self._items:
            raise ValueError(self.unknown(name))
        item = self._items[name]
        if isinstance(item, str):
            item = self._items[name] = cast(T, load(item))
        return item

    def unknown(self, name: object) -> str:
        """Return the message that there is nothing of a name."""
        known = self.names()
        text = f"unknown {self.kind} {shown(name)}"
        if isinstance(name, str):
            like = difflib.get_close_matches(name[:_LONGEST_NAME], known, 2)
            if like:
                text += f", did you mean {' or '.join(like)}?"
        return f"{text}; known are {', '.join(known) or 'none'}"

    def names(self) -> list[str]:
        """Return all names, in the order in which they were registered."""
        load_plugins()
        return list(self._items)

    def __contains__(self, name: object) -> bool:
        load_plugins()
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())


def check_name(kind: str, name: object) -> None:
    """Raise a ValueError unless a name can be written on command lines."""
    if not isinstance(name, str) or not name or set(name) - _ALLOWED:
        raise ValueError(
            f"the name of a {kind} consists of letters, digits and -_./, got {shown(name)}"
        )


def load(place: str) -> Any:
    """Return what stands at ``"module:attribute"``; the attribute may have dots.

    Raises:
        ValueError: If the place is not of this form, or there is no such module or attribute.
    """
    module_name, colon, attribute = place.partition(":")
    if not colon or not module_name or not attribute:
        raise ValueError(f"expected 'module:attribute', got {shown(place)}")
    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"{place}: there is no module {error.name!r}") from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ValueError(f"{place}: {module_name} has no {attribute!r}") from None
    return found


def place_of(item: Any) -> str:
    """Return ``"module:attribute"`` of a class or function."""
    return f"{item.__module__}:{item.__qualname__}"


_pending: list[EntryPoint] | None = None
_ready = False


def begin_plugins() -> None:
    """Load plug-ins from now on: all of ``edge_gym`` that they may use is imported."""
    global _ready
    _ready = True
    load_plugins()


def load_plugins() -> None:
    """Load the plug-ins that are installed, once; none while ``edge_gym`` itself is imported.

    One whose module is only now being imported is loaded when something is next looked up. One
    that fails is told in a ``PluginWarning`` and left out.
    """
    global _pending
    if not _ready:
        return
    if _pending is None:
        _pending = list(entry_points(group=GROUP))
        _pending += [EntryPoint(name, name, GROUP) for name in _named()]
    if not _pending:
        return
    # Nothing stands in the list while it is loaded: a plug-in may look things up itself.
    todo, _pending = _pending, []
    later = []
    for entry in todo:
        if _half_imported(entry.module):
            later.append(entry)
            continue
        try:
            if entry.name in _named():
                find_own_modules()
            found = entry.load()
            if callable(found):
                found()
        except Exception as error:
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            message = f"the plug-in {entry.name!r} ({entry.value}) was left out: {cause}"
            warnings.warn(message, PluginWarning, stacklevel=2)
    _pending = later


def import_plugin(module: str) -> None:
    """Import a module that registers things, here and in the worker processes begun from now on.

    Modules of the current directory are found, as with ``python -m``.

    Raises:
        ValueError: If there is no such module.
    """
    find_own_modules()
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"there is no module {shown(module)}") from error
    if module not in _named():
        os.environ[VARIABLE] = ",".join([*_named(), module])


def find_own_modules() -> None:
    """Let modules of the current directory be imported, as with ``python -m``."""
    current = os.getcwd()
    if current not in sys.path and "" not in sys.path:
        sys.path.insert(0, current)


def _named() -> list[str]:
    return [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]


def _half_imported(name: str) -> bool:
    """Return whether a module, or a package around it, is being imported further up."""
    parts = name.split(".")
    for i in range(len(parts)):
        spec = getattr(sys.modules.get(".".join(parts[: i + 1])), "__spec__", None)
        if getattr(spec, "_initializing", False):
            return True
    return False


def same_item(mine: Any, other: Any) -> bool:
    """Return whether two items are one thing, as where a module or a notebook's cell runs anew."""
    places = [
        item if isinstance(item, str) else place_of(item) if hasattr(item, "__qualname__") else item
        for item in (mine, other)
    ]
    try:
        return places[0] is places[1] or bool(places[0] == places[1])
    except ValueError:
        return False  # arrays, which do not compare as a whole


_ALLOWED = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./")
