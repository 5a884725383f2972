"""Convert charts to Plotly figures; the page sets the colours of text and background."""

from __future__ import annotations

from typing import Any

from orchestrator.report.charts.model import COLOURS, XY, Bars, Chart, Heat, Series, height, symbol


def figure(chart: Chart) -> dict[str, Any]:
    """Return ``data`` and ``layout`` of a Plotly figure."""
    if isinstance(chart, XY):
        converted = _xy(chart)
    elif isinstance(chart, Bars):
        converted = _bars(chart)
    else:
        converted = _heat(chart)
    converted["layout"]["height"] = height(chart)
    return converted


def _xy(chart: XY) -> dict[str, Any]:
    # The page's script adds room for the legend, because that depends on the width.
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": chart.x_title, "standoff": 8}},
        "yaxis": {"title": {"text": chart.y_title}},
        "legend": {"orientation": "h", "y": -0.22, "yanchor": "top"},
        "hovermode": "closest",
    }
    if any(isinstance(x, str) for series in chart.series for x in series.x):
        layout["xaxis"]["type"] = "category"
    if chart.y_range is not None:
        layout["yaxis"]["range"] = list(chart.y_range)
    if chart.whole_x:
        marks = [x for series in chart.series for x in series.x if not isinstance(x, str)]
        layout["xaxis"] |= {"tickformat": "d"} | ({"dtick": 1} if max(marks, default=0) <= 12 else {})
    if chart.level is not None:
        value, name = chart.level
        layout["shapes"] = [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": value,
                "y1": value,
                "line": {"dash": "dot", "width": 1},
            }
        ]
        layout["annotations"] = [
            {
                "xref": "paper",
                "x": 1,
                "y": value,
                "text": name,
                "showarrow": False,
                "xanchor": "right",
                "yanchor": "bottom",
            }
        ]
    return {"data": [_series(series) for series in chart.series], "layout": layout}


def _series(series: Series) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "type": "scatter",
        "name": series.name,
        "x": list(series.x),
        "y": list(series.y),
        "mode": "+".join((["lines"] if series.line != "none" else []) + (["markers"] if series.markers else [])),
        "showlegend": series.legend,
        "legendgroup": series.name,
    }
    if series.hover:
        trace |= {"text": list(series.hover), "hovertemplate": "%{text}<extra></extra>"}
    colour = None if series.style is None else COLOURS[series.style % len(COLOURS)]
    if series.style is None:
        # Open circles, drawn around points of other series.
        trace["marker"] = {"symbol": "circle-open", "size": 15, "line": {"width": 2}}
        trace["line"] = {"dash": series.line, "width": 1.2}
        trace["meta"] = "ink"
    else:
        trace["marker"] = {"color": colour, "symbol": symbol(series.style), "size": 8}
        trace["line"] = {"color": colour, "dash": series.line if series.line != "none" else "solid", "width": 1.8}
    if any(value is not None for value in series.high):
        trace["error_y"] = _error(series) | {"color": colour}
    return trace


def _error(series: Series) -> dict[str, Any]:
    up = [0.0 if h is None else h - y for y, h in zip(series.y, series.high, strict=True)]
    down = [0.0 if low is None else y - low for y, low in zip(series.y, series.low, strict=True)]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.2, "width": 3}


def _bars(chart: Bars) -> dict[str, Any]:
    data = []
    for group in chart.groups:
        trace: dict[str, Any] = {
            "type": "bar",
            "orientation": "h",
            "name": group.name,
            "x": list(group.y),
            "y": list(group.x),
            "marker": {"color": COLOURS[(group.style or 0) % len(COLOURS)]},
        }
        if any(value is not None for value in group.high):
            trace["error_x"] = _error(group)
        data.append(trace)
    layout: dict[str, Any] = {
        "barmode": "group",
        "xaxis": {"title": {"text": chart.x_title, "standoff": 8}, "rangemode": "tozero"},
        "yaxis": {"categoryorder": "array", "categoryarray": list(chart.names), "autorange": "reversed"},
        "legend": {"orientation": "h", "y": -0.3, "yanchor": "top", "traceorder": "normal"},
        "showlegend": len(chart.groups) > 1,
    }
    if chart.floor is not None:
        value, name = chart.floor
        layout["shapes"] = [
            {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": value, "x1": value, "line": {"dash": "dot"}}
        ]
        layout["annotations"] = [
            {
                "yref": "paper",
                "y": 1,
                "x": value,
                "text": name,
                "showarrow": False,
                "xanchor": "left",
                "yanchor": "bottom",
            }
        ]
    return {"data": data, "layout": layout}


def _heat(chart: Heat) -> dict[str, Any]:
    labelled = len(chart.columns) <= 20
    trace = {
        "type": "heatmap",
        "x": list(chart.columns),
        "y": list(chart.rows),
        "z": [[None if value is None else 100 * value for value in row] for row in chart.values],
        "zmin": 0,
        "zmax": 100,
        "colorscale": "Viridis",
        "colorbar": {"title": {"text": "%", "side": "top"}, "thickness": 12},
        "hovertemplate": "%{y}<br>%{x}<br>%{z:.1f} " + chart.unit + "<extra></extra>",
        "texttemplate": "%{z:.0f}" if labelled else None,
    }
    layout = {
        "xaxis": {"tickangle": -55, "automargin": True, "type": "category"},
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"},
    }
    return {"data": [trace], "layout": layout}
