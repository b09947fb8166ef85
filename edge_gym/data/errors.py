"""What goes wrong with data."""

from __future__ import annotations


class DataError(RuntimeError):
    """Data are missing, damaged or cannot be fetched; the message says what to do."""


class SampleError(DataError, ValueError):
    """There are fewer samples than a split or partition asks for."""
