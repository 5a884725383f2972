"""Draw parameter importances, the indices of a design, and the interaction of two parameters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from orchestrator.analysis.aggregate import Setting
from orchestrator.analysis.sensitivity.factors import SEED_NOISE, Importance
from orchestrator.report import formatting
from orchestrator.report.charts.model import XY, Bars, Series
from orchestrator.report.data import ReportData
from orchestrator.report.formatting import MetricLike

_DESIGN_INDICES = {
    "sobol_first": "first order (alone)",
    "sobol_total": "total (interactions included)",
    "morris_mu_star": "mean absolute elementary effect",
}


def importance_bars(importances: Sequence[Importance], metric: MetricLike) -> Bars | None:
    """Draw permutation and fANOVA importances over all arms, with the seed noise; None if there are none."""
    over_all = [i for i in importances if i.arm is None and i.value is not None]
    noise = next((i for i in over_all if i.method == SEED_NOISE), None)
    methods = {"permutation": "permutation (interactions included)", "fanova": "fANOVA (alone)"}
    groups = []
    for style, (method, name) in enumerate(methods.items()):
        members = sorted((i for i in over_all if i.method == method), key=lambda i: -(i.value or 0))
        if members:
            groups.append(_series(name, members, style))
    if not groups:
        return None
    caption = (
        "Shares of the variance over all settings, with 95 % intervals by bootstrap over settings. Permutation: half "
        "the R² that a random forest loses on held-out settings when the parameter is shuffled."
    )
    if len(groups) > 1:
        caption += " fANOVA: share of a forest's variance due to the parameter alone."
    floor = None
    if noise is not None and noise.value is not None:
        floor = (noise.value, f"seeds: {100 * noise.value:.1f} %")
        caption += " Left of the dotted line a parameter has no larger effect than the seed."
    title = f"Importance of the parameters for {formatting.label(metric)}"
    return Bars("importances", title, caption, "share of the variance", [str(x) for x in groups[0].x], groups, floor)


def interaction(data: ReportData, first: str, second: str) -> XY | None:
    """Draw the observed means of the metric over the levels of one parameter, one line per level of another."""
    metric = data.metric
    levels: list[dict[str, str]] = [_levels(data, name) for name in (first, second)]
    if any(len(set(labels.values())) < 2 for labels in levels):
        return None
    cells: dict[tuple[str, str], list[float]] = {}
    for setting in data.settings:
        mean = setting.metric(metric)
        values = [_value(setting, name) for name in (first, second)]
        if mean is not None and None not in values:
            a, b = (labels[_key(value)] for labels, value in zip(levels, values, strict=True))
            cells.setdefault((a, b), []).append(mean.mean)
    factor = 100.0 if formatting.is_share(data.metric_row) else 1.0
    order = list(dict.fromkeys(levels[0].values()))
    series = []
    for style, level in enumerate(dict.fromkeys(levels[1].values())):
        xs = [a for a in order if (a, level) in cells]
        ys = [factor * sum(cells[a, level]) / len(cells[a, level]) for a in xs]
        hover = [
            f"{first} {a}<br>{second} {level}<br>{y:.2f} over {len(cells[a, level])} settings"
            for a, y in zip(xs, ys, strict=True)
        ]
        if xs:
            series.append(Series(level, xs, ys, hover=hover, line="solid", style=style))
    if sum(len(line.x) > 1 for line in series) < 2:
        return None
    caption = (
        f"Means over the settings; one line per value of {second}. Parallel lines: the effect of one parameter does "
        "not depend on the other."
    )
    title = f"Interaction of {first} and {second}"
    return XY("interaction", title, caption, first, formatting.titles(data.metric_row), series)


def design_bars(importances: Sequence[Importance], metric: MetricLike) -> Bars | None:
    """Draw Sobol indices or Morris effects; None if the search was no such design."""
    groups: list[Series] = []
    for method, name in _DESIGN_INDICES.items():
        members = [i for i in importances if i.method == method and i.value is not None]
        if members:
            groups.append(_series(name, members, len(groups)))
    if not groups:
        return None
    if len(groups) > 1:
        title, x_title = f"Sobol indices of {formatting.label(metric)}", "share of the variance"
        caption = "Shares of the variance over the design's points, with 95 % intervals over its blocks."
    else:
        title, x_title = (
            f"Morris effects on {formatting.label(metric)}",
            f"change of {formatting.label(metric)} over the parameter's span",
        )
        caption = "Over the design's trajectories, with 95 % intervals. A ranking, not shares of the variance."
    return Bars("design", title, caption, x_title, [str(x) for x in groups[0].x], groups)


def _series(name: str, importances: Sequence[Importance], style: int) -> Series:
    values, lows, highs = zip(*((i.value or 0.0, i.low, i.high) for i in importances), strict=True)
    return Series(name, [i.parameter for i in importances], values, lows, highs, style=style)


def _levels(data: ReportData, name: str) -> dict[str, str]:
    """Return a label for every value of a parameter; more than six numbers are put into five bins of equal size."""
    values = [value for s in data.settings if (value := _value(s, name)) is not None]
    unique = list({_key(value): value for value in values}.values())
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in unique):
        unique.sort()
        if len(unique) > 6:
            bounds = [unique[i * len(unique) // 5] for i in range(5)]
            ends = [unique[(i + 1) * len(unique) // 5 - 1] for i in range(5)]
            labels = [
                formatting.number(low) if low == high else f"{formatting.number(low)} to {formatting.number(high)}"
                for low, high in zip(bounds, ends, strict=True)
            ]
            return {_key(v): labels[sum(v >= bound for bound in bounds) - 1] for v in unique}
    return {_key(value): formatting.plain(value) for value in unique}


def _value(setting: Setting, name: str) -> Any:
    return setting.arm if name == "arm" else setting.point.get(name)


def _key(value: Any) -> str:
    return json.dumps(value, default=str)
