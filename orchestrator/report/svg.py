"""Draw charts as SVG text: for files, for print, and for browsers without scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from orchestrator.report.charts.model import COLOURS, XY, Bars, Chart, Heat, Series, height, symbol

WIDTH = 760
_INK, _GRID = "#1f2328", "#d8dee4"
_DASHES = {"solid": "", "dash": ' stroke-dasharray="7 4"', "dot": ' stroke-dasharray="2 4"'}
_CHARACTER = 6.6
"""Approximate width of a character of the labels."""


def draw(chart: Chart) -> str:
    """Return an SVG document, 760 units wide, on a white background."""
    if isinstance(chart, XY):
        body, tall = _xy(chart)
    elif isinstance(chart, Bars):
        body, tall = _bars(chart)
    else:
        body, tall = _heat(chart)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {tall}" role="img" '
        f'font-family="system-ui, Helvetica, Arial, sans-serif" font-size="12" fill="{_INK}">'
        f"<title>{escape(chart.title)}</title>"
        f'<rect width="{WIDTH}" height="{tall}" fill="#ffffff"/>{"".join(body)}</svg>\n'
    )


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return about ``count`` round numbers within low..high (steps of 1, 2 or 5 times a power of ten)."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


class _Scale:
    """A linear map from values to units of the drawing, with a margin of 4 % on both sides."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        if high == low:
            low, high = low - 0.5, high + 0.5
        pad = 0.04 * (high - low)
        self._low, self._high = low - pad, high + pad
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        return round(self._start + (value - self._low) / (self._high - self._low) * (self._end - self._start), 1)

    def ticks(self) -> list[float]:
        return ticks(self._low, self._high)


def _xy(chart: XY) -> tuple[list[str], float]:
    left, right, top = 66.0, WIDTH - 16.0, 14.0
    bottom = height(chart) - 60.0
    categories = list(dict.fromkeys(x for s in chart.series for x in s.x if isinstance(x, str)))
    values = [x for s in chart.series for x in s.x if not isinstance(x, str)]
    ys = [v for s in chart.series for column in (s.y, s.low, s.high) for v in column if v is not None]
    ys += [] if chart.level is None else [chart.level[0]]
    if not ys:
        return [_text(WIDTH / 2, 60, "nothing measured", "middle")], 120
    low, high = chart.y_range or (min(ys), max(ys))
    y = _Scale(low, high, bottom, top)
    span = (-0.5, len(categories) - 0.5) if categories else (min(values), max(values))
    scale = _Scale(*span, left, right)

    def x(value: float | str) -> float:
        return scale(categories.index(value) if isinstance(value, str) else value)

    body = _frame(y, left, right)
    marks = [v for v in scale.ticks() if not chart.whole_x or v.is_integer()]
    labels = [(x(name), name) for name in categories] or [(scale(v), f"{v:.6g}") for v in marks]
    body += [_text(at, bottom + 18, text, "middle") for at, text in labels]
    body.append(_line(left, bottom, right, bottom, _INK))
    body.append(_text((left + right) / 2, bottom + 38, chart.x_title, "middle"))
    body.append(_upright(16, (top + bottom) / 2, chart.y_title))
    if chart.level is not None:
        at, name = y(chart.level[0]), chart.level[1]
        body += [_line(left, at, right, at, _INK, ' stroke-dasharray="2 4"'), _text(right, at - 5, name, "end")]
    for series in chart.series:
        visible = [i for i, value in enumerate(series.y) if low <= value <= high]
        body += _series(series, [(i, x(series.x[i])) for i in visible], y)
    legend, extra = _legend([s for s in chart.series if s.legend], bottom + 58, left, right)
    return body + legend, bottom + 60 + extra


def _series(series: Series, positions: Sequence[tuple[int, float]], y: _Scale) -> list[str]:
    """Draw a series at ``positions``: pairs of the index of a point and its x in the drawing."""
    ink = _INK if series.style is None else COLOURS[series.style % len(COLOURS)]
    body = []
    if series.line != "none" and len(positions) > 1:
        points = " ".join(f"{at},{y(series.y[i])}" for i, at in positions)
        body.append(
            f'<polyline points="{points}" fill="none" stroke="{ink}" stroke-width="1.6"{_DASHES[series.line]}/>'
        )
    for i, at in positions:
        low, high = (side[i] if side else None for side in (series.low, series.high))
        if low is not None and high is not None:
            body.append(_line(at, y(low), at, y(high), ink))
        if series.markers:
            body.append(_marker(at, y(series.y[i]), ink, series.style))
    return body


def _bars(chart: Bars) -> tuple[list[str], float]:
    longest = max((len(name) for name in chart.names), default=0)
    left, right, top = min(300.0, 20 + _CHARACTER * longest), WIDTH - 24.0, 14.0
    bottom = height(chart) - 60.0
    ends = [v for g in chart.groups for column in (g.y, g.high) for v in column if v is not None]
    x = _Scale(0.0, max([*ends, 1e-9]), left, right)
    body = []
    for value in x.ticks():
        body += [_line(x(value), top, x(value), bottom, _GRID), _text(x(value), bottom + 18, f"{value:g}", "middle")]
    body.append(_text((left + right) / 2, bottom + 38, chart.x_title, "middle"))
    room = (bottom - top) / max(1, len(chart.names))
    thick = min(18.0, 0.8 * room / max(1, len(chart.groups)))
    for i, name in enumerate(chart.names):
        middle = top + (i + 0.5) * room
        body.append(_text(left - 8, middle + 4, name, "end"))
        for j, group in enumerate(chart.groups):
            if name not in group.x:
                continue
            k = list(group.x).index(name)
            at = middle + (j - (len(chart.groups) - 1) / 2) * thick
            ink = COLOURS[(group.style or 0) % len(COLOURS)]
            wide = max(0.0, x(group.y[k]) - x(0))
            body.append(
                f'<rect x="{x(0)}" y="{at - thick / 2:.1f}" width="{wide:.1f}" height="{thick:.1f}" fill="{ink}"/>'
            )
            low, high = (side[k] if side else None for side in (group.low, group.high))
            if low is not None and high is not None:
                body.append(_line(x(low), at, x(high), at, _INK))
    if chart.floor is not None:
        at, name = x(chart.floor[0]), chart.floor[1]
        body += [_line(at, top, at, bottom, _INK, ' stroke-dasharray="2 4"'), _text(at + 5, top + 10, name)]
    legend, extra = _legend(chart.groups, bottom + 58, left, right)
    return body + legend, bottom + 60 + extra


def _heat(chart: Heat) -> tuple[list[str], float]:
    left = min(260.0, 20 + _CHARACTER * max((len(name) for name in chart.rows), default=0))
    top, tall = 14.0, 22.0
    wide = (WIDTH - left - 16) / max(1, len(chart.columns))
    body = []
    for i, (name, values) in enumerate(zip(chart.rows, chart.values, strict=True)):
        body.append(_text(left - 8, top + (i + 0.5) * tall + 4, name, "end"))
        for j, value in enumerate(values):
            box = f'x="{left + j * wide:.1f}" y="{top + i * tall:.1f}" width="{wide:.1f}" height="{tall:.1f}"'
            body.append(f'<rect {box} fill="{shade(value)}"/>')
            if value is not None and wide > 34:
                ink = "#ffffff" if value < 0.5 else _INK
                at = left + (j + 0.5) * wide
                body.append(_text(at, top + (i + 0.5) * tall + 4, f"{100 * value:.0f}", "middle", ink))
    bottom = top + tall * len(chart.rows)
    for j, name in enumerate(chart.columns):
        at = left + (j + 0.5) * wide
        if wide >= 9:
            position = f'transform="translate({at + 4:.1f},{bottom + 10:.1f}) rotate(-55)" text-anchor="end"'
            body.append(f"<text {position}>{escape(name)}</text>")
    longest = max((len(name) for name in chart.columns), default=0)
    return body, bottom + 24 + 0.82 * _CHARACTER * longest


def shade(value: float | None) -> str:
    """Return the colour of a share, from dark (0) to light (1): viridis, interpolated between five colours."""
    if value is None:
        return "#f0f0f0"
    stops = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
    at = min(max(value, 0.0), 1.0) * (len(stops) - 1)
    i = min(int(at), len(stops) - 2)
    mixed = [round(a + (at - i) * (b - a)) for a, b in zip(stops[i], stops[i + 1], strict=True)]
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _frame(y: _Scale, left: float, right: float) -> list[str]:
    body = []
    for value in y.ticks():
        body += [_line(left, y(value), right, y(value), _GRID), _text(left - 8, y(value) + 4, f"{value:.6g}", "end")]
    return body


def _legend(series: Sequence[Series], top: float, left: float, right: float) -> tuple[list[str], float]:
    body, x, y = [], left, top
    for entry in series:
        wide = 28 + _CHARACTER * len(entry.name)
        if x + wide > right and x > left:
            x, y = left, y + 20
        ink = _INK if entry.style is None else COLOURS[entry.style % len(COLOURS)]
        if entry.line != "none" and not entry.markers:
            body.append(_line(x, y - 4, x + 14, y - 4, ink, _DASHES[entry.line]))
        else:
            body.append(_marker(x + 6, y - 4, ink, entry.style))
        body.append(_text(x + 18, y, entry.name))
        x += wide
    return body, (y - top + 14 if series else 0)


def _marker(x: float, y: float, ink: str, style: int | None) -> str:
    shape = "ring" if style is None else symbol(style)
    if shape == "square":
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{ink}"/>'
    if shape == "diamond":
        return f'<path d="M{x:.1f} {y - 5:.1f}l5 5-5 5-5-5z" fill="{ink}"/>'
    if shape == "triangle-up":
        return f'<path d="M{x:.1f} {y - 5:.1f}l5 9h-10z" fill="{ink}"/>'
    if shape in ("x", "star"):
        path = f"M{x - 4:.1f} {y - 4:.1f}l8 8m0-8l-8 8"
        return f'<path d="{path}" stroke="{ink}" stroke-width="2.6"/>'
    if shape == "cross":
        return f'<path d="M{x - 5:.1f} {y:.1f}h10M{x:.1f} {y - 5:.1f}v10" stroke="{ink}" stroke-width="3"/>'
    if shape == "ring":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="{ink}" stroke-width="1.6"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.2" fill="{ink}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, ink: str, dashes: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{ink}"{dashes}/>'


def _text(x: float, y: float, text: str, anchor: str = "start", ink: str = _INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{ink}">{escape(text)}</text>'


def _upright(x: float, y: float, text: str) -> str:
    return f'<text transform="translate({x:.1f},{y:.1f}) rotate(-90)" text-anchor="middle">{escape(text)}</text>'
