"""Draw the metric against its costs, with Pareto fronts, and measured speed-up against MACs removed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from orchestrator.analysis.aggregate import Mean, Setting
from orchestrator.analysis.pareto import Direction, knee, pareto_front
from orchestrator.report import formatting
from orchestrator.report.charts.model import XY, Chart, Series
from orchestrator.report.data import ReportData

MOST_POINTS = 1200
"""Number of settings in one figure above which every arm is thinned evenly, except for the front."""
_BARS_UP_TO = 240
_LINES_UP_TO = 8
COSTS: dict[str, Direction] = {"mac_sparsity": "max", "param_sparsity": "max", "latency_ms": "min"}


def trade_offs(data: ReportData) -> list[Chart]:
    """Draw the metric against MACs removed, parameters removed and latency, for every network."""
    return [
        chart
        for number, network in enumerate(data.networks)
        for cost in COSTS
        if (chart := trade_off(data, cost, network, number)) is not None
    ]


def trade_off(data: ReportData, cost: str, network: tuple[str, str], number: int = 0) -> XY | None:
    """Draw one network's settings by arm, with Pareto front, knee and dense network; None if not measured."""
    metric = data.metric
    settings = [s for s in data.settings if network == (str(s.point.get("model")), str(s.point.get("data")))]
    points = {id(s): (x, y) for s in settings if (x := s.metric(cost)) and (y := s.metric(metric))}
    known = [s for s in settings if id(s) in points]
    if not known or cost == metric or _is_constant(known, cost):
        return None
    pairs = [(points[id(s)][0].mean, points[id(s)][1].mean) for s in known]
    directions: list[Direction] = [COSTS[cost], data.direction]
    front = sorted(pareto_front(pairs, directions), key=lambda i: pairs[i])
    kept = _thinned(known, {id(known[i]) for i in front})
    series = _arms(data, [s for s in known if id(s) in kept], points, cost)
    factor_x, factor_y = (100.0 if formatting.is_share(data.row_of(name)) else 1.0 for name in (cost, metric))
    series.append(
        Series(
            "Pareto front",
            [factor_x * pairs[i][0] for i in front],
            [factor_y * pairs[i][1] for i in front],
            line="dot",
            markers=False,
            style=None,
        )
    )
    at = knee(pairs, directions)
    if at is not None:
        hover = [f"knee of the front: {data.names.of(known[at])}"]
        series.append(Series("knee", [factor_x * pairs[at][0]], [factor_y * pairs[at][1]], hover=hover, style=None))
    several = len(data.networks) > 1
    bars = len(kept) <= _BARS_UP_TO
    title, caption = _title_and_caption(data, cost, network if several else None, bars)
    if len(kept) < len(known):
        caption += f" {len(kept):,} of {len(known):,} settings are drawn, including all on the front."
    level = _dense(known, data, factor_y)
    y_range = _range([points[id(s)][1] for s in known], front, factor_y, level)
    if y_range is not None:
        below = [known[i] for i, pair in enumerate(pairs) if factor_y * pair[1] < y_range[0]]
        named = "; ".join(data.names.of(setting) for setting in below[:3])
        caption += f" Far below the initial range: {named}{'; ...' if len(below) > 3 else ''}."
    key = f"{metric}_by_{cost}" + (f"_{number + 1}" if several else "")
    x_title, y_title = formatting.titles(data.row_of(cost)), formatting.titles(data.row_of(metric))
    return XY(key, title, caption, x_title, y_title, series, level, y_range)


def speed_up(data: ReportData) -> XY | None:
    """Draw measured speed-up against MACs removed, with the theoretical speed-up; None without latencies."""
    points: dict[int, tuple[Mean, Mean]] = {
        id(s): (x, y)
        for s in data.settings
        if (x := s.metric("mac_sparsity")) and (y := s.metric("latency_speedup")) and x.mean > 0
    }
    known = [s for s in data.settings if id(s) in points]
    if not known:
        return None
    kept = _thinned(known, set())
    series = _arms(data, [s for s in known if id(s) in kept], points, "mac_sparsity", "latency_speedup", lines=False)
    ends = sorted(points[id(s)][0].mean for s in known)
    span = [ends[0] + i / 30 * (ends[-1] - ends[0]) for i in range(31)] if ends[-1] > ends[0] else ends[:1]
    theoretical = [min(1 / (1 - x), 1e3) for x in span if x < 1]
    xs = [100 * x for x in span if x < 1]
    series.append(Series("theoretical (by MACs)", xs, theoretical, line="dash", markers=False, style=None))
    rows = [row for row in data.done if row.get("latency_ms") is not None]
    devices = sorted({str(row.get("latency_device") or row.get("device")) for row in rows})
    caption = (
        f"Latency of the dense network divided by that of the pruned one, each the median of passes measured alone on "
        f"the device ({', '.join(devices)}). Networks with only single weights set to zero are left out."
    )
    title = "Measured speed-up against MACs removed"
    return XY("speed_up", title, caption, formatting.titles("mac_sparsity"), "times as fast as dense", series)


def arm_styles(data: ReportData) -> dict[str, int]:
    """Return the style index of every arm, the same in all figures."""
    return {arm: i for i, arm in enumerate(dict.fromkeys(setting.arm for setting in data.settings))}


def _arms(
    data: ReportData,
    settings: Sequence[Setting],
    points: dict[int, tuple[Mean, Mean]],
    cost: str,
    metric: str = "",
    lines: bool = True,
) -> list[Series]:
    """Return the series of every arm; lines join settings that differ only in target sparsity."""
    metric = metric or data.metric
    factor_x, factor_y = (100.0 if formatting.is_share(data.row_of(name)) else 1.0 for name in (cost, metric))
    styles = arm_styles(data)
    bars = len(settings) <= _BARS_UP_TO
    groups: dict[str, dict[str, list[Setting]]] = {}
    for setting in settings:
        rest = {name: value for name, value in setting.point.items() if name != "target.sparsity"}
        groups.setdefault(setting.arm, {}).setdefault(json.dumps(rest, default=str), []).append(setting)
    series = []
    for arm, curves in groups.items():
        widths = [[points[id(s)][0].mean for s in curve] for curve in curves.values()]
        joined = lines and len(curves) <= _LINES_UP_TO and any(max(xs) > min(xs) for xs in widths)
        parts = list(curves.values()) if joined else [[s for curve in curves.values() for s in curve]]
        for i, part in enumerate(parts):
            part.sort(key=lambda s: points[id(s)][0].mean)
            xs, ys = ([points[id(s)][side] for s in part] for side in (0, 1))
            ends = [(y.mean - y.sd, y.mean + y.sd) if bars and y.sd is not None else (None, None) for y in ys]
            series.append(
                Series(
                    arm,
                    [factor_x * x.mean for x in xs],
                    [factor_y * y.mean for y in ys],
                    [None if low is None else factor_y * low for low, _ in ends],
                    [None if high is None else factor_y * high for _, high in ends],
                    [_hover(data, s, x, y, cost, metric) for s, x, y in zip(part, xs, ys, strict=True)],
                    line="solid" if joined else "none",
                    style=styles[arm],
                    legend=i == 0,
                )
            )
    return series


def _hover(data: ReportData, setting: Setting, x: Mean, y: Mean, cost: str, metric: str) -> str:
    unit_x, unit_y = (" %" if formatting.is_share(data.row_of(name)) else "" for name in (cost, metric))
    lines = [
        f"<b>{data.names.of(setting)}</b>",
        f"{formatting.label(data.row_of(metric))}: {formatting.mean_sd(y, data.row_of(metric))}{unit_y} (n = {y.n})",
        formatting.interval(y.low, y.high, data.row_of(metric)),
        f"{formatting.label(data.row_of(cost))}: {formatting.mean_sd(x, data.row_of(cost))}{unit_x}",
    ]
    return "<br>".join(line for line in lines if line)


def _thinned(known: Sequence[Setting], always: set[int]) -> set[int]:
    """Return the ids of at most about `MOST_POINTS` settings, all of ``always`` among them."""
    if len(known) <= MOST_POINTS:
        return {id(setting) for setting in known}
    by_arm: dict[str, list[Setting]] = {}
    for setting in known:
        by_arm.setdefault(setting.arm, []).append(setting)
    kept = set(always)
    for members in by_arm.values():
        share = max(1, MOST_POINTS * len(members) // len(known))
        kept |= {id(members[i * len(members) // share]) for i in range(share)}
    return kept


def _title_and_caption(data: ReportData, cost: str, network: tuple[str, str] | None, bars: bool) -> tuple[str, str]:
    name, by = formatting.label(data.metric_row), formatting.label(data.row_of(cost))
    title = f"{name[0].upper()}{name[1:]} against {by}" + (f": {network[0]} on {network[1]}" if network else "")
    better = "right" if COSTS[cost] == "max" else "left"
    caption = (
        f"Means over seeds{' ± standard deviation' if bars else ''}; further up and to the {better} is better. "
        "The dotted line joins the Pareto front of the means; the ring is its knee."
    )
    if cost == "param_sparsity":
        caption += " Weights set to zero count as removed."
    return title, caption


def _is_constant(known: Sequence[Setting], cost: str) -> bool:
    """Return whether all settings have the dense network's MACs and latency, as after pruning single weights."""
    removed = [mean.mean for s in known if (mean := s.metric("mac_sparsity")) is not None]
    return cost != "param_sparsity" and bool(removed) and max(map(abs, removed)) < 1e-9


def _range(
    means: Sequence[Mean], front: Sequence[int], factor: float, level: tuple[float, str] | None
) -> tuple[float, float] | None:
    """Return a range without outliers far below the rest and off the front, which would flatten the figure."""
    values = sorted(mean.mean for mean in means)
    first, third = (values[int(share * (len(values) - 1))] for share in (0.25, 0.75))
    bound = min([first - 6 * (third - first), *(means[i].mean for i in front)])
    if third == first or values[0] >= bound:
        return None
    kept = [mean for mean in means if mean.mean >= bound]
    ends = [factor * (mean.mean + side * (mean.sd or 0.0)) for mean in kept for side in (-1, 1)]
    ends += [level[0]] if level else []
    pad = 0.04 * (max(ends) - min(ends))
    return min(ends) - pad, max(ends) + pad


def _dense(settings: Sequence[Setting], data: ReportData, factor: float) -> tuple[float, str] | None:
    """Return mean and label of the dense networks' metric, counting each dense network once."""
    by_seed: dict[Any, float] = {}
    for setting in settings:
        for row in setting.rows:
            value = row.get(f"dense_{data.metric}")
            if value is not None:
                by_seed.setdefault((row.get("seed"), value), value)
    if not by_seed:
        return None
    mean = sum(by_seed.values()) / len(by_seed)
    return factor * mean, f"dense: {formatting.shown(mean, data.metric_row)}"
