"""What accuracy costs: trade-offs by method with their fronts, and speed-up as measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from orchestrator.analysis.aggregate import Mean, Setting
from orchestrator.analysis.pareto import Direction, front, knee
from orchestrator.report import formatting as wording
from orchestrator.report.charts.model import XY, Chart, Series
from orchestrator.report.data import ReportData

MOST_POINTS = 1200
"""Settings drawn in one figure; beyond it every arm is thinned evenly, but for the front."""
_BARS_UP_TO = 240
_LINES_UP_TO = 8
COSTS: dict[str, Direction] = {"mac_sparsity": "max", "param_sparsity": "max", "latency_ms": "min"}


def trade_offs(evidence: ReportData) -> list[Chart]:
    """The metric against MACs removed, parameters removed and latency, for every network."""
    return [
        chart
        for number, network in enumerate(evidence.networks)
        for cost in COSTS
        if (chart := trade_off(evidence, cost, network, number)) is not None
    ]


def trade_off(evidence: ReportData, cost: str, network: tuple[str, str], number: int = 0) -> XY | None:
    """One network's settings by arm, with the front, its knee, and the dense network; None where not measured."""
    metric = evidence.metric
    found = [s for s in evidence.settings if network == (str(s.point.get("model")), str(s.point.get("data")))]
    points = {id(s): (x, y) for s in found if (x := s.metric(cost)) and (y := s.metric(metric))}
    known = [s for s in found if id(s) in points]
    if not known or cost == metric or _tells_nothing(known, cost):
        return None
    pairs = [(points[id(s)][0].mean, points[id(s)][1].mean) for s in known]
    directions: list[Direction] = [COSTS[cost], evidence.direction]
    on = sorted(front(pairs, directions), key=lambda i: pairs[i])
    kept = _thinned(known, {id(known[i]) for i in on}, evidence)
    series = _arms(evidence, [s for s in known if id(s) in kept], points, cost)
    factor_x, factor_y = (100.0 if wording.is_share(name) else 1.0 for name in (cost, metric))
    series.append(
        Series(
            "Pareto front",
            [factor_x * pairs[i][0] for i in on],
            [factor_y * pairs[i][1] for i in on],
            line="dot",
            markers=False,
            style=None,
        )
    )
    at = knee(pairs, directions)
    if at is not None:
        hover = [f"knee of the front: {evidence.names.of(known[at])}"]
        series.append(Series("knee", [factor_x * pairs[at][0]], [factor_y * pairs[at][1]], hover=hover, style=None))
    several = len(evidence.networks) > 1
    bars = len(kept) <= _BARS_UP_TO
    name, caption = _words(metric, cost, network if several else None, bars)
    if len(kept) < len(known):
        caption += f" {len(kept):,} of {len(known):,} settings are drawn, those on the front among them."
    level = _dense(known, metric, factor_y)
    shown = _range([points[id(s)][1] for s in known], on, factor_y, level)
    if shown is not None:
        below = [known[i] for i, pair in enumerate(pairs) if factor_y * pair[1] < shown[0]]
        named = "; ".join(evidence.names.of(setting) for setting in below[:3])
        caption += f" Far below the range drawn at first: {named}{'; ...' if len(below) > 3 else ''}."
    key = f"{metric}_by_{cost}" + (f"_{number + 1}" if several else "")
    x_title, y_title = wording.titles(cost), wording.titles(metric)
    return XY(key, name, caption, x_title, y_title, series, level, shown)


def speed_up(evidence: ReportData) -> XY | None:
    """Measured speed-up against MACs removed, beside what the MACs promise; None without latencies."""
    points: dict[int, tuple[Mean, Mean]] = {
        id(s): (x, y)
        for s in evidence.settings
        if (x := s.metric("mac_sparsity")) and (y := s.metric("latency_speedup")) and x.mean > 0
    }
    known = [s for s in evidence.settings if id(s) in points]
    if not known:
        return None
    kept = _thinned(known, set(), evidence)
    series = _arms(
        evidence, [s for s in known if id(s) in kept], points, "mac_sparsity", "latency_speedup", lines=False
    )
    ends = sorted(points[id(s)][0].mean for s in known)
    span = [ends[0] + i / 30 * (ends[-1] - ends[0]) for i in range(31)] if ends[-1] > ends[0] else ends[:1]
    promised = [min(1 / (1 - x), 1e3) for x in span if x < 1]
    series.append(
        Series("what MACs promise", [100 * x for x in span if x < 1], promised, line="dash", markers=False, style=None)
    )
    rows = [row for row in evidence.done if row.get("latency_ms") is not None]
    devices = sorted({str(row.get("latency_device") or row.get("device")) for row in rows})
    caption = (
        f"Latency of the dense network over that of the pruned one, each the median of passes measured alone on the "
        f"device ({', '.join(devices)}). Networks with single weights set to zero are no faster and are left out."
    )
    title = "Measured speed-up against MACs removed"
    return XY("speed_up", title, caption, wording.titles("mac_sparsity"), "times as fast as dense", series)


def arm_styles(evidence: ReportData) -> dict[str, int]:
    """Colour and symbol of every arm, the same in all figures."""
    return {arm: i for i, arm in enumerate(dict.fromkeys(setting.arm for setting in evidence.settings))}


def _arms(
    evidence: ReportData,
    found: Sequence[Setting],
    points: dict[int, tuple[Mean, Mean]],
    cost: str,
    metric: str = "",
    lines: bool = True,
) -> list[Series]:
    """One name an arm; lines join settings that differ by what was removed alone."""
    metric = metric or evidence.metric
    factor_x, factor_y = (100.0 if wording.is_share(name) else 1.0 for name in (cost, metric))
    styles = arm_styles(evidence)
    bars = len(found) <= _BARS_UP_TO
    groups: dict[str, dict[str, list[Setting]]] = {}
    for setting in found:
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
                    [_hover(evidence, s, x, y, cost, metric) for s, x, y in zip(part, xs, ys, strict=True)],
                    line="solid" if joined else "none",
                    style=styles[arm],
                    legend=i == 0,
                )
            )
    return series


def _hover(evidence: ReportData, setting: Setting, x: Mean, y: Mean, cost: str, metric: str) -> str:
    unit_x, unit_y = (" %" if wording.is_share(name) else "" for name in (cost, metric))
    lines = [
        f"<b>{evidence.names.of(setting)}</b>",
        f"{wording.METRICS.get(metric, metric)}: {wording.mean_sd(y, metric)}{unit_y} (n = {y.n})",
        wording.interval(y.low, y.high, metric),
        f"{wording.METRICS.get(cost, cost)}: {wording.mean_sd(x, cost)}{unit_x}",
    ]
    return "<br>".join(line for line in lines if line)


def _thinned(known: Sequence[Setting], always: set[int], evidence: ReportData) -> set[int]:
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


def _words(metric: str, cost: str, network: tuple[str, str] | None, bars: bool) -> tuple[str, str]:
    name, by = wording.METRICS.get(metric, metric), wording.METRICS.get(cost, cost)
    title = f"{name[0].upper()}{name[1:]} against {by}" + (f": {network[0]} on {network[1]}" if network else "")
    better = "right" if COSTS[cost] == "max" else "left"
    caption = (
        f"Means over seeds{' ± standard deviation' if bars else ''}; further up and to the {better} is better. "
        "The dotted line joins the Pareto front of the means; the ring is its knee."
    )
    if cost == "param_sparsity":
        caption += " Weights set to zero count as removed."
    return title, caption


def _tells_nothing(known: Sequence[Setting], cost: str) -> bool:
    """Where single weights go, MACs and latency are the dense network's: the points would stand in a line."""
    removed = [mean.mean for s in known if (mean := s.metric("mac_sparsity")) is not None]
    return cost != "param_sparsity" and bool(removed) and max(map(abs, removed)) < 1e-9


def _range(
    means: Sequence[Mean], on: Sequence[int], factor: float, level: tuple[float, str] | None
) -> tuple[float, float] | None:
    """A collapsed network must not flatten the others: what is not on the front and far below the rest is cut off."""
    values = sorted(mean.mean for mean in means)
    first, third = (values[int(share * (len(values) - 1))] for share in (0.25, 0.75))
    bound = min([first - 6 * (third - first), *(means[i].mean for i in on)])
    if third == first or values[0] >= bound:
        return None
    kept = [mean for mean in means if mean.mean >= bound]
    ends = [factor * (mean.mean + side * (mean.sd or 0.0)) for mean in kept for side in (-1, 1)]
    ends += [level[0]] if level else []
    pad = 0.04 * (max(ends) - min(ends))
    return min(ends) - pad, max(ends) + pad


def _dense(found: Sequence[Setting], metric: str, factor: float) -> tuple[float, str] | None:
    by_seed: dict[Any, float] = {}
    for setting in found:
        for row in setting.rows:
            value = row.get(f"dense_{metric}")
            if value is not None:
                by_seed.setdefault((row.get("seed"), value), value)
    if not by_seed:
        return None
    mean = sum(by_seed.values()) / len(by_seed)
    return factor * mean, f"dense: {wording.shown(mean, metric)}"
