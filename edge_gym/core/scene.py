"""Pictures of episodes as plain data, so that environments need no plotting library.

An environment describes a ``Scene``; ``edge_gym.reports.draw`` draws it. It is imported only when
something is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Limits = tuple[float, float]

# Core stands below the reports: it names the module that draws, and never imports it by itself.
_DRAWING = "edge_gym.reports.draw"


@dataclass(frozen=True, kw_only=True)
class ImagePanel:
    """A picture.

    Attributes:
        title: Stands above.
        image: Pixels in [0, 1], ``(h, w)`` or ``(h, w, 3)``.
        caption: Stands below.
        width: Share of the row's width.
    """

    title: str
    image: NDArray[Any]
    caption: str = ""
    width: float = 1.0


@dataclass(frozen=True, kw_only=True)
class LinePanel:
    """Curves over one axis.

    Attributes:
        title: Stands above.
        x: ``(n,)``, in the unit of ``x_label``.
        series: Name -> values ``(n,)``; NaN breaks a curve.
        x_label: What x is, with its unit.
        y_label: What the values are, with their unit.
        x_limits: Ends of the x axis; None fits them.
        y_limits: Ends of the y axis; None fits them.
        references: Name -> value, drawn as horizontal lines.
        width: Share of the row's width.
    """

    title: str
    x: ArrayLike
    series: Mapping[str, ArrayLike]
    x_label: str
    y_label: str
    x_limits: Limits | None = None
    y_limits: Limits | None = None
    references: Mapping[str, float] = field(default_factory=dict)
    width: float = 2.5


@dataclass(frozen=True, kw_only=True)
class BarPanel:
    """Bars side by side: one per device, slot or channel use.

    Attributes:
        title: Stands above.
        labels: One per bar; empty ones are left out.
        series: Name -> heights ``(n,)``; NaN leaves a bar out. Bars of several names at one place
            stand in front of each other, so that each name has bars of its own.
        x_label: What the bars stand for.
        y_label: What the heights are, with their unit.
        y_limits: Ends of the y axis, bars starting at the lower one; None fits them from 0.
        targets: Name -> values ``(n,)``, drawn as a tick across each bar; NaN leaves one out.
        width: Share of the row's width.
    """

    title: str
    labels: Sequence[str]
    series: Mapping[str, ArrayLike]
    x_label: str
    y_label: str
    y_limits: Limits | None = None
    targets: Mapping[str, ArrayLike] = field(default_factory=dict)
    width: float = 2.5


@dataclass(frozen=True, kw_only=True)
class GaugePanel:
    """How much there is of something limited: a budget, a deadline.

    Attributes:
        title: Stands above.
        value: How much there is.
        maximum: How much there can be, above 0.
        unit: Of both.
        width: Share of the row's width.
    """

    title: str
    value: float
    maximum: float
    unit: str
    width: float = 1.0


def acted_on(heights: ArrayLike, acted: ArrayLike, name: str) -> dict[str, NDArray[np.float64]]:
    """Return series of a ``BarPanel``: what was acted on is dark blue, the others are light blue.

    Args:
        heights: ``(n,)``.
        acted: Which were acted on, ``(n,)``.
        name: Of what was acted on, for the legend.
    """
    values, dark = np.asarray(heights, np.float64), np.asarray(acted, np.bool_)
    return {name: np.where(dark, values, np.nan), "others": np.where(dark, np.nan, values)}


Panel = ImagePanel | LinePanel | BarPanel | GaugePanel


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a picture shows.

    Attributes:
        title: The headline.
        panels: Rows from top to bottom, each of panels from left to right.
        text: A line below the headline.
    """

    title: str
    panels: Sequence[Sequence[Panel]]
    text: str = ""


class Window(Protocol):
    """A window that shows the latest picture."""

    def show(self, scene: Scene) -> None:
        """Show a picture."""

    def close(self) -> None:
        """Close the window."""


def draw(scene: Scene) -> NDArray[np.uint8]:
    """Return the picture of a scene, ``(height, width, 3)``.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    picture: NDArray[np.uint8] = import_module(_DRAWING).draw(scene)
    return picture


def open_window(fps: float) -> Window:
    """Return a window that shows at most ``fps`` pictures a second.

    Raises:
        ImportError: If pygame is not installed.
    """
    window: Window = import_module(_DRAWING).Window(fps=fps)
    return window
