"""What a figure shows, as values: drawn by Plotly on the page and as SVG in files and print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Label = float | str

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#a6761d")
"""Okabe and Ito's, but for black and yellow, which vanish on a dark or a light page."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")


@dataclass(frozen=True)
class Series:
    """Points of one name; ``low`` and ``high`` are the ends of their error bars, in the unit of ``y``."""

    name: str
    x: Sequence[Label]
    y: Sequence[float]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    hover: Sequence[str] = ()
    line: Literal["none", "solid", "dash", "dot"] = "none"
    markers: bool = True
    style: int | None = 0
    """Index of colour and symbol; None: the colour of the text."""
    legend: bool = True


@dataclass(frozen=True)
class XY:
    """Points and lines over two axes; ``x`` labels in text make a row of categories."""

    key: str
    """Name of its files."""
    title: str
    caption: str
    x_title: str
    y_title: str
    series: Sequence[Series]
    level: tuple[float, str] | None = None
    """A horizontal line and its name, e.g. the dense accuracy."""
    y_range: tuple[float, float] | None = None
    """What of the axis is shown at first; None: all."""
    whole_x: bool = False
    """Only whole numbers are marked on the axis."""


@dataclass(frozen=True)
class Bars:
    """Horizontal bars with intervals, and one vertical line as the floor."""

    key: str
    title: str
    caption: str
    x_title: str
    names: Sequence[str]
    groups: Sequence[Series]
    """``x`` are the names of the bars, ``y`` their lengths."""
    floor: tuple[float, str] | None = None


@dataclass(frozen=True)
class Heat:
    """Shares of 0 to 1 in rows and columns; None where there is nothing."""

    key: str
    title: str
    caption: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    unit: str


Chart = XY | Bars | Heat


def symbol(style: int) -> str:
    """Where the colours begin again, another symbol goes with them."""
    return SYMBOLS[(style + style // len(COLOURS)) % len(SYMBOLS)]


def height(chart: Chart) -> int:
    """Pixels that a chart needs, so that no label is squeezed."""
    if isinstance(chart, Bars):
        return 90 + 26 * max(1, len(chart.groups)) * max(3, len(chart.names))
    if isinstance(chart, Heat):
        longest = max((len(name) for name in chart.columns), default=0)
        return 90 + 22 * max(4, len(chart.rows)) + min(220, 7 * longest)
    return 420
