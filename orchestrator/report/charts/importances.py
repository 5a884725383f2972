"""The figures of what matters: importances, indices of a design, and two parameters together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from orchestrator.analysis.aggregate import Setting
from orchestrator.analysis.sensitivity.factors import SEED_NOISE, Importance
from orchestrator.report import formatting as wording
from orchestrator.report.charts.model import XY, Bars, Series
from orchestrator.report.data import ReportData

_DESIGNED = {
    "sobol_first": "first order (alone)",
    "sobol_total": "total (interactions included)",
    "morris_mu_star": "mean absolute elementary effect",
}


def importance_bars(importances: Sequence[Importance], metric: str) -> Bars | None:
    """Shares of the variance by permutation and fANOVA over all arms, with the seeds' noise; None where not known."""
    over_all = [one for one in importances if one.arm is None and one.value is not None]
    noise = next((one for one in over_all if one.method == SEED_NOISE), None)
    methods = {"permutation": "permutation (interactions included)", "fanova": "fANOVA (alone)"}
    groups = []
    for style, (method, name) in enumerate(methods.items()):
        members = sorted((one for one in over_all if one.method == method), key=lambda one: -(one.value or 0))
        if members:
            values, lows, highs = zip(*((one.value or 0.0, one.low, one.high) for one in members), strict=True)
            groups.append(Series(name, [one.parameter for one in members], values, lows, highs, style=style))
    if not groups:
        return None
    caption = (
        "Shares of the variance over all settings, with 95 % intervals over settings drawn again. Permutation: half "
        "the R² that a random forest loses, on settings held out, when the parameter is shuffled."
    )
    if len(groups) > 1:
        caption += " fANOVA: share of a forest's variance due to the parameter alone."
    floor = None
    if noise is not None and noise.value is not None:
        floor = (noise.value, f"seeds: {100 * noise.value:.1f} %")
        caption += " Left of the dotted line a parameter does no more than the seeds do."
    title = f"What matters to {wording.METRICS.get(metric, metric)}"
    return Bars("importances", title, caption, "share of the variance", [str(x) for x in groups[0].x], groups, floor)


def interaction(evidence: ReportData, first: str, second: str) -> XY | None:
    """Means of the metric over the levels of one parameter, a line for each level of another, as observed."""
    metric = evidence.metric
    levels: list[dict[str, str]] = [_levels(evidence, name) for name in (first, second)]
    if any(len(set(found.values())) < 2 for found in levels):
        return None
    cells: dict[tuple[str, str], list[float]] = {}
    for setting in evidence.settings:
        mean = setting.metric(metric)
        values = [_value(setting, name) for name in (first, second)]
        if mean is not None and None not in values:
            a, b = (found[_key(value)] for found, value in zip(levels, values, strict=True))
            cells.setdefault((a, b), []).append(mean.mean)
    factor = 100.0 if wording.is_share(metric) else 1.0
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
    if sum(len(one.x) > 1 for one in series) < 2:
        return None
    caption = (
        f"Means over the settings; a line for each value of {second}. Parallel lines: what one parameter does, does "
        "not depend on the other."
    )
    title = f"{first} and {second} together"
    return XY("interaction", title, caption, first, wording.titles(metric), series)


def design_bars(importances: Sequence[Importance], metric: str) -> Bars | None:
    """Sobol's indices or Morris's effects, where the search was such a design."""
    groups: list[Series] = []
    for method, name in _DESIGNED.items():
        members = [one for one in importances if one.method == method and one.value is not None]
        if members:
            values, lows, highs = zip(*((one.value or 0.0, one.low, one.high) for one in members), strict=True)
            groups.append(Series(name, [one.parameter for one in members], values, lows, highs, style=len(groups)))
    if not groups:
        return None
    called = wording.METRICS.get(metric, metric)
    if len(groups) > 1:
        title, x_title = f"Sobol indices of {called}", "share of the variance"
        caption = "Shares of the variance over the design's points, with 95 % intervals over its blocks."
    else:
        title, x_title = f"Morris's effects on {called}", f"change of {called} over the parameter's span"
        caption = "Over the design's trajectories, with 95 % intervals. A ranking, and no share of the variance."
    return Bars("design", title, caption, x_title, [str(x) for x in groups[0].x], groups)


def _levels(evidence: ReportData, name: str) -> dict[str, str]:
    """Text for every value of a parameter; more than six numbers go into five groups of equal size."""
    values = [value for s in evidence.settings if (value := _value(s, name)) is not None]
    unique = list({_key(value): value for value in values}.values())
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in unique):
        unique.sort()
        if len(unique) > 6:
            bounds = [unique[i * len(unique) // 5] for i in range(5)]
            ends = [unique[(i + 1) * len(unique) // 5 - 1] for i in range(5)]
            labels = [
                wording.number(low) if low == high else f"{wording.number(low)} to {wording.number(high)}"
                for low, high in zip(bounds, ends, strict=True)
            ]
            return {_key(v): labels[sum(v >= bound for bound in bounds) - 1] for v in unique}
    return {_key(value): wording.plain(value) for value in unique}


def _value(setting: Setting, name: str) -> Any:
    return setting.arm if name == "arm" else setting.point.get(name)


def _key(value: Any) -> str:
    return json.dumps(value, default=str)
