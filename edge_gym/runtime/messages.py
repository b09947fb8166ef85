"""Values as messages show them: short, however large the value is."""

from __future__ import annotations

import reprlib
from typing import Any

LONGEST = 200
"""Characters that a shown value takes at most."""

_short = reprlib.Repr()
_short.maxlevel = 3
_short.maxdict = _short.maxlist = _short.maxtuple = _short.maxset = _short.maxfrozenset = 12
_short.maxdeque = _short.maxarray = 12
_short.maxstring = _short.maxother = _short.maxlong = 100


def shown(value: Any) -> str:
    """Return ``repr(value)`` in one line, shortened to ``LONGEST`` characters.

    Containers are written out only as far as they are shown, so that one which refers to the same
    list again and again takes no longer than a small one.
    """
    try:
        text = " ".join(_short.repr(value).split())
    except Exception:
        # Integers of thousands of digits have no repr, nor need objects of users have one.
        return f"one {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
