"""Compare a sweep with others: all settings in one figure, and equal settings paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.analysis.aggregate import Difference, Setting, between, holm_corrected
from orchestrator.report.charts.model import Chart
from orchestrator.report.charts.trade_offs import trade_off
from orchestrator.report.conclusions import verdict
from orchestrator.report.data import ReportData
from orchestrator.report.table_formats import Cell, Column, Table, difference_column


def trade_offs_with(data: ReportData, others: Sequence[ReportData]) -> list[Chart]:
    """Draw the metric against MACs removed for all sweeps, one series per sweep and arm, one chart per network."""
    rows = [
        {**row, "arm": f"{sweep.name}: {row.get('arm') or row['method']}"}
        for sweep in (data, *others)
        for row in sweep.rows
    ]
    axes = list(dict.fromkeys(name for sweep in (data, *others) for name in sweep.axes))
    merged = replace(data, rows=rows, axes=axes)
    charts: list[Chart] = []
    for number, network in enumerate(data.networks):
        if not any(network in other.networks for other in others):
            continue
        chart = trade_off(merged, "mac_sparsity", network, number)
        if chart is not None:
            charts.append(replace(chart, key=f"beside_{chart.key}", title=f"{chart.title}, with other sweeps"))
    return charts


def pairs_table(data: ReportData, others: Sequence[ReportData]) -> Table:
    """List the differences between this sweep's settings and equal ones of the others, over the seeds in common."""
    metric = data.metric
    pairs: list[tuple[ReportData, Setting, Setting, Difference]] = [
        (other, ours, theirs, between(ours, theirs, metric))
        for other in others
        for ours in data.settings
        for theirs in other.settings
        if _same(ours, theirs)
    ]
    rows: list[list[Cell]] = []
    corrected = holm_corrected([difference for *_, difference in pairs])
    for (other, ours, theirs, _), difference in zip(pairs, corrected, strict=True):
        p = difference.p_value if difference.p_holm is None else difference.p_holm
        means: list[Cell] = [ours.metric(metric), theirs.metric(metric)]
        numbers: list[Cell] = [difference.mean, p, difference.n]
        rows.append([data.names.of(ours), other.name, *means, *numbers, verdict(difference)])
    columns = [
        Column("setting"),
        Column("other sweep"),
        Column("this sweep", data.metric_row, metric),
        Column("the other", data.metric_row, f"{metric}_there"),
    ]
    columns += [difference_column(data.metric_row), Column("p", kind="p"), Column("pairs"), Column("verdict")]
    caption = "Settings with the same arm, network and parameters; paired by seed, Holm-corrected over this table."
    return Table("beside", "The same settings in other sweeps", caption, columns, rows)


def _same(ours: Setting, theirs: Setting) -> bool:
    names = set(ours.point) | set(theirs.point)
    return ours.arm == theirs.arm and all(ours.point.get(name) == theirs.point.get(name) for name in names)
