"""Describe charts as values, which Plotly draws on the page and `svg.py` in files and print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Label = float | str

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#a6761d")
"""Okabe and Ito's palette without black and yellow, which are invisible on a dark or a light page."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")


@dataclass(frozen=True)
class Series:
    """Points with one legend entry; ``low`` and ``high`` are the ends of their error bars, in the unit of ``y``."""

    name: str
    x: Sequence[Label]
    y: Sequence[float]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    hover: Sequence[str] = ()
    line: Literal["none", "solid", "dash", "dot"] = "none"
    markers: bool = True
    style: int | None = 0
    """Index of colour and symbol; None for the colour of the text."""
    legend: bool = True


@dataclass(frozen=True)
class XY:
    """Points and lines over two axes; text values of ``x`` make a categorical axis."""

    key: str
    """Name of its files."""
    title: str
    caption: str
    x_title: str
    y_title: str
    series: Sequence[Series]
    level: tuple[float, str] | None = None
    """Position and name of a horizontal line, e.g. the dense accuracy."""
    y_range: tuple[float, float] | None = None
    """Initially visible range of the axis; None for all."""
    whole_x: bool = False
    """Whether only whole numbers have ticks on the x axis."""


@dataclass(frozen=True)
class Bars:
    """Horizontal bars with intervals, and an optional vertical line ``floor``."""

    key: str
    title: str
    caption: str
    x_title: str
    names: Sequence[str]
    groups: Sequence[Series]
    """Series whose ``x`` are the names of the bars and ``y`` their lengths."""
    floor: tuple[float, str] | None = None


@dataclass(frozen=True)
class Heat:
    """A heat map of shares from 0 to 1; None for an empty cell."""

    key: str
    title: str
    caption: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    unit: str


Chart = XY | Bars | Heat


def symbol(style: int) -> str:
    """Return the symbol of a style index; it changes when the colours repeat."""
    return SYMBOLS[(style + style // len(COLOURS)) % len(SYMBOLS)]


def height(chart: Chart) -> int:
    """Return the height in pixels that a chart needs for its labels."""
    if isinstance(chart, Bars):
        return 90 + 26 * max(1, len(chart.groups)) * max(3, len(chart.names))
    if isinstance(chart, Heat):
        longest = max((len(name) for name in chart.columns), default=0)
        return 90 + 22 * max(4, len(chart.rows)) + min(220, 7 * longest)
    return 420
