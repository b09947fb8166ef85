"""Animated pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_gym.reports.draw import require
from edge_gym.runtime.checks import check_number
from edge_gym.runtime.files import replacing


def save_gif(frames: Sequence[NDArray[np.uint8]], path: str | os.PathLike[str], fps: float) -> None:
    """Write pictures as an animation that repeats; ``path`` is complete or left as it was.

    Equal pictures in a row become one that lasts longer.

    Args:
        frames: Each ``(height, width, 3)``, of one size.
        path: The file.
        fps: Pictures per second, .01 to 50; the format rounds their duration to 0.01 s.

    Raises:
        ImportError: If Pillow is missing.
        OSError: If the folder does not exist or the file cannot be written.
        ValueError: If there are no frames, their shapes are wrong or differ, or ``fps`` is out of
            range.
    """
    shapes = {np.shape(frame) for frame in frames}
    if len(shapes) != 1 or len(shape := next(iter(shapes))) != 3 or shape[2] != 3:
        raise ValueError(
            f"frames must be pictures of one shape (height, width, 3), got {sorted(shapes)}"
        )
    path = Path(path)
    check_gif(path, fps)
    from PIL import Image

    # One palette for all keeps still parts still, and so the file small.
    some = np.concatenate(frames[:: max(1, len(frames) // 8)])
    palette = Image.fromarray(some).quantize(256)
    pictures = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    duration_ms = 10 * max(2, round(100 / fps))
    with replacing(path) as scratch:
        pictures[0].save(
            scratch,
            "GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=duration_ms,
            loop=0,
        )


def check_gif(path: Path, fps: float) -> None:
    """Check what ``save_gif`` is told, before pictures are drawn for it.

    Raises:
        ValueError: If ``fps`` is out of range.
        OSError: If the file cannot be written.
        ImportError: If Pillow is missing.
    """
    # A GIF holds the hundredths of a second between two pictures in 16 bits.
    check_number("fps", fps, 0.01, 50)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: there is a folder of this name")
    require("PIL")
