"""What is installed on request alone, and the message when it is not."""

from __future__ import annotations


def missing_extra(what: str, extra: str, error: ImportError) -> ImportError:
    """Return the error to raise where an optional package cannot be imported.

    Args:
        what: What needs which package, in words.
        extra: The extra of this package that brings it.
        error: What came of importing it.
    """
    kind = type(error)
    return kind(f"{what} ({error}): pip install 'edge_gym[{extra}]'", name=error.name)
