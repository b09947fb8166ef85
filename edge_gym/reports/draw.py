"""Pictures of episodes: an environment describes a ``Scene``, this module draws it.

A scene is plain data, so that environments need no plotting library; matplotlib and Pillow are
imported when something is drawn. ``draw`` uses no global state of matplotlib's: it may run in any
thread, never asks for a display, and looks the same under every style of the user's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_gym.core.scene import BarPanel, GaugePanel, ImagePanel, Limits, LinePanel, Scene
from edge_gym.runtime.optional import missing_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

Box = tuple[float, float, float, float]  # Left, bottom, width and height, in units.

WIDTH, HEIGHT = 900, 500
_UNITS_PER_INCH = 100  # A unit is a pixel at the default size; at other sizes pictures scale.
_FONT = "DejaVu Sans"  # Comes with matplotlib, so that pictures are alike everywhere.
_INK, _MUTED, _GRID = "#1B2733", "#66717D", "#E3E7EB"
# Okabe and Ito's colours, told apart by colour-blind readers too. Bars are told apart by
# lightness as well: dark blue is what was acted on, light blue all else; see ``acted_on``.
_LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_BAR_COLOURS = ("#0072B2", "#A6CFEA", "#E69F00", "#009E73", "#CC79A7", "#D55E00")
_TARGET_COLOURS = (_INK, "#D55E00")
_HEADER, _MARGIN, _GUTTER = 66, 22, 24
_TITLE, _FOOT = 28, 36  # Room for a panel's title, and for what stands below the panel.


def draw(scene: Scene, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Draw a scene.

    Args:
        scene: What to show.
        width: Of the picture, pixels.
        height: Of the picture, pixels; text and lines scale with the size.

    Returns:
        ``(height, width, 3)``; equal scenes give equal pictures.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If the size is not positive.
    """
    if width < 1 or height < 1:
        raise ValueError(f"width and height must be at least 1 pixel, got {width} x {height}")
    require("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dpi = _UNITS_PER_INCH * min(width / WIDTH, height / HEIGHT)
    # The canvas rounds down: half a pixel more keeps 899.999... from losing one.
    figure = Figure(figsize=((width + 0.5) / dpi, (height + 0.5) / dpi), dpi=dpi)
    canvas: Any = FigureCanvasAgg(figure)
    _compose(figure, scene)
    canvas.draw()
    return np.array(canvas.buffer_rgba(), np.uint8)[..., :3].copy()


class Window:
    """A window on the screen, for ``render_mode="human"``; it opens with the first scene.

    Once the user has closed it, it stays closed and scenes go unseen.

    Args:
        fps: Scenes per second that ``show`` slows the episode down to.
    """

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self._manager: Any = None
        self._closed = False

    def show(self, scene: Scene) -> None:
        """Show a scene and wait for ``1 / fps`` seconds, in which the window stays responsive.

        Raises:
            ImportError: If matplotlib is missing.
            RuntimeError: If there is no display.
        """
        if self._closed:
            return
        if self._manager is None:
            self._manager = _open_window()
            self._manager.canvas.mpl_connect("close_event", self._forget)
        figure = self._manager.canvas.figure
        figure.clear()
        _compose(figure, scene)
        self._manager.canvas.draw()
        self._manager.canvas.start_event_loop(1 / self.fps)

    def close(self) -> None:
        """Close the window; closing it again does nothing."""
        if self._manager is not None and not self._closed:
            self._manager.destroy()
        self._forget()

    def _forget(self, event: Any = None) -> None:
        self._closed = True


def require(module: str) -> None:
    """Import ``module`` or say how to install it."""
    try:
        __import__(module)
    except ImportError as error:
        name = {"PIL": "Pillow"}.get(module, module)
        raise missing_extra(f"pictures need {name}", "plots", error) from error


def _open_window() -> Any:
    """Return the manager of a new window, which pyplot does not take for the user's figure."""
    require("matplotlib")
    import matplotlib
    from matplotlib import pyplot

    create: Any = pyplot.new_figure_manager
    size = (WIDTH / _UNITS_PER_INCH, HEIGHT / _UNITS_PER_INCH)
    manager, cause = None, None
    # Toolkits without a display raise errors of their own, Tk's TclError for one.
    try:
        manager = create(1, figsize=size, dpi=_UNITS_PER_INCH)
    except Exception as error:
        cause = error
    if manager is None or manager.canvas.required_interactive_framework is None:
        backend = matplotlib.rcParams["backend"]
        raise RuntimeError(
            "render_mode='human' needs a display, and matplotlib's backend "
            f"{backend!r} has none{f' ({cause})' if cause else ''}: "
            "use render_mode='rgb_array' and save_gif, or choose a backend with windows, "
            "such as MPLBACKEND=TkAgg"
        ) from cause
    manager.set_window_title("edge_gym")
    manager.show()
    return manager


def _compose(figure: Figure, scene: Scene) -> None:
    """Lay a scene out on an empty figure."""
    figure.set_facecolor("white")
    width, height = figure.get_size_inches() * _UNITS_PER_INCH
    page = _Frame(figure, (0, 0, width, height), (0, width), (0, height))
    page.text(_MARGIN, height - 19, scene.title, 13.5, va="top", weight="bold", color=_INK)
    page.text(_MARGIN, height - 43, scene.text, 9.5, va="top")
    row_height = (height - _HEADER - 10) / max(len(scene.panels), 1)
    for index, row in enumerate(scene.panels):
        if not row:
            continue
        bottom = height - _HEADER - (index + 1) * row_height
        share = (width - 2 * _MARGIN - _GUTTER * (len(row) - 1)) / sum(p.width for p in row)
        left = float(_MARGIN)
        for panel in row:
            cell = (left, bottom, share * panel.width, row_height)
            match panel:
                case ImagePanel():
                    _draw_image(page, cell, panel)
                case LinePanel():
                    _draw_lines(page, cell, panel)
                case BarPanel():
                    _draw_bars(page, cell, panel)
                case GaugePanel():
                    _draw_gauge(page, cell, panel)
            left += share * panel.width + _GUTTER


class _Frame:
    """A rectangle of the figure with its own coordinates.

    It stands in for matplotlib's axes, which take four times as long and follow the user's style.

    Args:
        figure: What is drawn on.
        box: Left, bottom, width and height, in units.
        x_limits: What the left and right ends stand for.
        y_limits: What the lower and upper ends stand for.
    """

    def __init__(self, figure: Figure, box: Box, x_limits: Limits, y_limits: Limits) -> None:
        from matplotlib.transforms import Affine2D, Bbox, BboxTransformFrom, TransformedBbox

        self.figure, self.box, self.x_limits, self.y_limits = figure, box, x_limits, y_limits
        size = figure.get_size_inches() * _UNITS_PER_INCH
        to_fraction = Affine2D().scale(1 / size[0], 1 / size[1]) + figure.transFigure
        self.bounds = TransformedBbox(Bbox.from_bounds(*box), to_fraction)
        corners = Bbox([(x_limits[0], y_limits[0]), (x_limits[1], y_limits[1])])
        self.transform = (
            BboxTransformFrom(corners)
            + Affine2D().scale(*box[2:]).translate(*box[:2])
            + to_fraction
        )

    def add(self, artist: Any, clip: bool = True) -> None:
        artist.set(transform=self.transform, zorder=1)  # What is added later lies above.
        self.figure.add_artist(artist, clip=False)
        if clip:
            artist.set_clip_box(self.bounds)

    def line(
        self, x: Any, y: Any, colour: str, width: float, *, clip: bool = True, **style: Any
    ) -> None:
        from matplotlib.lines import Line2D

        defaults = {"linestyle": "-", "marker": "", "antialiased": True, "solid_capstyle": "butt"}
        self.add(Line2D(x, y, color=colour, linewidth=width, **{**defaults, **style}), clip)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        *,
        weight: str = "normal",
        color: str = _MUTED,
        ha: Literal["left", "center", "right"] = "left",
        va: Literal["baseline", "center", "top"] = "baseline",
        rotation: float = 0,
    ) -> Text:
        from matplotlib.text import Text

        # Names of classes and devices may hold "$", which is no mathematics here.
        artist = Text(
            x,
            y,
            text,
            color=color,
            fontfamily=_FONT,
            fontsize=size,
            fontweight=weight,
            horizontalalignment=ha,
            verticalalignment=va,
            rotation=rotation,
            antialiased=True,
            rotation_mode="anchor" if rotation else None,
            parse_math=False,
            usetex=False,
        )
        self.add(artist, clip=False)
        return artist


def _draw_image(page: _Frame, cell: Box, panel: ImagePanel) -> None:
    from matplotlib.image import BboxImage
    from matplotlib.transforms import Bbox, TransformedBbox

    left, bottom, width, height = cell
    _title(page, cell, panel.title)
    page.text(left, bottom + _FOOT - 6, panel.caption, 8.5, va="top")
    pixels = np.asarray(255 * np.clip(panel.image, 0, 1) + 0.5, np.uint8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    rows, columns = pixels.shape[:2]
    scale = min(width / columns, (height - _TITLE - _FOOT) / rows)
    top = bottom + height - _TITLE
    box = Bbox.from_bounds(left, top - scale * rows, scale * columns, scale * rows)
    image = BboxImage(
        TransformedBbox(box, page.transform),
        interpolation="nearest",
        origin="upper",
        resample=False,
    )
    image.set_data(pixels)
    page.figure.add_artist(image, clip=False)


def _draw_lines(page: _Frame, cell: Box, panel: LinePanel) -> None:
    x = np.asarray(panel.x, np.float64)
    series = {name: np.asarray(y, np.float64) for name, y in panel.series.items()}
    colours = dict(zip(series, cycle(_LINE_COLOURS), strict=False))
    x_limits = panel.x_limits or _fit([x])
    y_limits = panel.y_limits or _fit([*series.values(), np.array([*panel.references.values()])])
    legend = {name: (colour, 2.0) for name, colour in colours.items()}
    frame = _chart(page, cell, panel, x_limits, y_limits, legend if len(legend) > 1 else {})
    _x_ticks(frame, {tick: _number(tick) for tick in _ticks(x_limits, 6)})
    unit = (y_limits[1] - y_limits[0]) / frame.box[3]
    for name, value in panel.references.items():
        frame.line(x_limits, (value, value), _MUTED, 1, linestyle=(0, (4, 3)))
        # Below, where there is room: references are what curves rise from.
        shift = -12 if value - 14 * unit > y_limits[0] else 4
        frame.text(x_limits[1], value + shift * unit, name, 8, ha="right")
    for name, y in series.items():
        frame.line(x, y, colours[name], 1.8)
        if np.isfinite(y).any():
            last = np.flatnonzero(np.isfinite(y))[-1]
            dot = {"marker": "o", "markersize": 5.5, "markeredgewidth": 0}
            frame.line(x[[last]], y[[last]], colours[name], 0, clip=False, **dot)


def _draw_bars(page: _Frame, cell: Box, panel: BarPanel) -> None:
    from matplotlib.collections import LineCollection, PolyCollection

    series = {name: np.asarray(y, np.float64) for name, y in panel.series.items()}
    targets = {name: np.asarray(y, np.float64) for name, y in panel.targets.items()}
    colours = dict(zip(series, cycle(_BAR_COLOURS), strict=False))
    target_colours = dict(zip(targets, cycle(_TARGET_COLOURS), strict=False))
    y_limits = panel.y_limits or _fit([np.zeros(1), *series.values(), *targets.values()])
    base = y_limits[0] if panel.y_limits else 0.0
    legend = {name: (colour, 7.0) for name, colour in colours.items() if name}
    legend |= {name: (colour, 2.0) for name, colour in target_colours.items()}
    x_limits = (-0.6, len(panel.labels) - 0.4)
    alone = len(series) + len(targets) == 1
    frame = _chart(page, cell, panel, x_limits, y_limits, {} if alone else legend)
    _x_ticks(frame, {place: label for place, label in enumerate(panel.labels) if label})
    for name, heights in series.items():
        corners = [
            ((i - 0.38, base), (i - 0.38, heights[i]), (i + 0.38, heights[i]), (i + 0.38, base))
            for i in np.flatnonzero(np.isfinite(heights))
        ]
        frame.add(PolyCollection(corners, facecolors=colours[name], edgecolors="none"))
    for name, values in targets.items():
        ticks = [
            ((i - 0.48, values[i]), (i + 0.48, values[i]))
            for i in np.flatnonzero(np.isfinite(values))
        ]
        frame.add(LineCollection(ticks, colors=target_colours[name], linewidths=2), clip=False)


def _draw_gauge(page: _Frame, cell: Box, panel: GaugePanel) -> None:
    left, bottom, width, height = cell
    _title(page, cell, panel.title)
    side = max(min(width, height - _TITLE - _FOOT), 1.0)
    box = (left + (width - side) / 2, bottom + height - _TITLE - side, side, side)
    frame = _Frame(page.figure, box, (-1.12, 1.12), (-1.12, 1.12))
    share = min(max(panel.value / panel.maximum, 0.0), 1.0)
    for part, colour in ((1.0, _GRID), (share, _LINE_COLOURS[0])):
        if part:
            angle = np.linspace(0, 2 * math.pi * part, 1 + math.ceil(120 * part))
            frame.line(np.sin(angle), np.cos(angle), colour, 8)
    value = _number(panel.value)
    size = min(17.0, 90 / len(value))  # Long numbers stay within the ring.
    frame.text(0, 0.12, value, size, weight="bold", color=_INK, ha="center", va="center")
    frame.text(0, -0.3, f"of {_number(panel.maximum)}", 8.5, ha="center", va="center")
    page.text(left + width / 2, bottom + _FOOT - 6, panel.unit, 8.5, va="top", ha="center")


def _chart(
    page: _Frame,
    cell: Box,
    panel: LinePanel | BarPanel,
    x_limits: Limits,
    y_limits: Limits,
    legend: Mapping[str, tuple[str, float]],
) -> _Frame:
    """Draw all of a chart but its curves or bars; the legend maps names to colour and thickness."""
    left, bottom, width, height = cell
    title = _title(page, cell, panel.title)
    baseline = bottom + height - _TITLE + 12
    texts = [page.text(0, baseline, name, 8) for name in legend]
    widths = [_width(page, text) + 28 for text in texts]
    # Beside the title if there is room, else a line lower.
    lower = 16 if legend and left + _width(page, title) + sum(widths) > left + width else 0
    start, middle = left + width - sum(widths), baseline - lower + 4
    for text, needed, (colour, thickness) in zip(texts, widths, legend.values(), strict=True):
        page.line((start + 12, start + 23), (middle, middle), colour, thickness, clip=False)
        text.set_position((start + 28, baseline - lower))
        start += needed
    ticks = {tick: _number(tick) for tick in _ticks(y_limits, 5)}
    indent = 21 + 7 * max(map(len, ticks.values()), default=0)
    box = (
        left + indent,
        bottom + _FOOT,
        max(width - indent, 1.0),
        max(height - _FOOT - _TITLE - lower, 1.0),
    )
    frame = _Frame(page.figure, box, x_limits, y_limits)
    gap = 6 * (x_limits[1] - x_limits[0]) / box[2]
    for tick, label in ticks.items():
        frame.line(x_limits, (tick, tick), _GRID, 0.8, clip=False)
        frame.text(x_limits[0] - gap, tick, label, 8, ha="right", va="center")
    middle = box[1] + box[3] / 2
    page.text(left + 9, middle, panel.y_label, 8.5, ha="center", rotation=90)
    page.text(box[0] + box[2] / 2, bottom + 5, panel.x_label, 8.5, ha="center")
    return frame


def _title(page: _Frame, cell: Box, title: str) -> Text:
    left, bottom, _, height = cell
    return page.text(left, bottom + height - _TITLE + 12, title, 10, weight="bold", color=_INK)


def _width(page: _Frame, text: Text) -> float:
    """Return how wide a text is, in units."""
    return float(text.get_window_extent().width) * _UNITS_PER_INCH / page.figure.dpi


def _x_ticks(frame: _Frame, labels: Mapping[float, str]) -> None:
    low, high = frame.y_limits
    below = low - 6 * (high - low) / frame.box[3]
    for place, label in labels.items():
        frame.text(place, below, label, 8, ha="center", va="top")


def _fit(values: Sequence[NDArray[np.float64]]) -> Limits:
    """Return limits that hold all finite values with a little room above and below."""
    every = np.concatenate([np.ravel(value) for value in values])
    every = every[np.isfinite(every)]
    if not len(every):
        return 0.0, 1.0
    low, high = float(every.min()), float(every.max())
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return low - (room if low else 0.0), high + room


def _ticks(limits: Limits | None, count: int) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    if limits is None:
        return []
    low, high = sorted(limits)
    room = 1e-9 * (high - low)
    values = MaxNLocator(count, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(value) for value in values if low - room <= value <= high + room]


def _number(value: float) -> str:
    """Write a number with at most five digits, and a minus sign instead of a hyphen."""
    rounded = float(f"{value:.5g}") + 0.0
    return f"{rounded:,.5g}".replace("-", "\N{MINUS SIGN}")
