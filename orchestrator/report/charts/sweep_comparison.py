"""Other sweeps beside this one: all settings in one figure, and equal settings paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.analysis.aggregate import Difference, Setting, between, holm_corrected
from orchestrator.report import formatting as wording
from orchestrator.report.charts.model import Chart
from orchestrator.report.charts.trade_offs import trade_off
from orchestrator.report.conclusions import verdict
from orchestrator.report.data import ReportData
from orchestrator.report.table_formats import Cell, Column, Table


def together(evidence: ReportData, others: Sequence[ReportData]) -> list[Chart]:
    """The metric against MACs removed, a name for each sweep and arm, for the networks of this sweep."""
    rows = [
        {**row, "arm": f"{one.name}: {row.get('arm') or row['method']}"}
        for one in (evidence, *others)
        for row in one.rows
    ]
    axes = list(dict.fromkeys(name for one in (evidence, *others) for name in one.axes))
    merged = replace(evidence, rows=rows, axes=axes)
    charts: list[Chart] = []
    for number, network in enumerate(evidence.networks):
        if not any(network in other.networks for other in others):
            continue
        chart = trade_off(merged, "mac_sparsity", network, number)
        if chart is not None:
            charts.append(replace(chart, key=f"beside_{chart.key}", title=f"{chart.title}, with other sweeps"))
    return charts


def pairs_table(evidence: ReportData, others: Sequence[ReportData]) -> Table:
    """This sweep's settings minus the other sweeps' with the same arm and parameters, over the seeds in common."""
    metric = evidence.metric
    found: list[tuple[ReportData, Setting, Setting, Difference]] = [
        (other, one, theirs, between(one, theirs, metric))
        for other in others
        for one in evidence.settings
        for theirs in other.settings
        if _same(one, theirs)
    ]
    rows: list[list[Cell]] = []
    corrected = holm_corrected([pair[3] for pair in found])
    for (other, one, theirs, _), difference in zip(found, corrected, strict=True):
        p = difference.p_value if difference.p_holm is None else difference.p_holm
        means: list[Cell] = [one.metric(metric), theirs.metric(metric)]
        numbers: list[Cell] = [difference.mean, p, difference.n]
        rows.append([evidence.names.of(one), other.name, *means, *numbers, verdict(difference)])
    told = f"difference:{metric}"
    unit = ", points" if wording.is_share(metric) else ""
    columns = [
        Column("setting"),
        Column("other sweep"),
        Column("here", metric),
        Column("there", metric, f"{metric}_there"),
    ]
    columns += [Column(f"difference{unit}", told, "difference"), Column("p", "p"), Column("pairs"), Column("verdict")]
    caption = "Settings with the same arm, network and parameters; paired by seed, Holm-corrected over this table."
    return Table("beside", "The same settings in other sweeps", caption, columns, rows)


def _same(one: Setting, other: Setting) -> bool:
    names = set(one.point) | set(other.point)
    return one.arm == other.arm and all(one.point.get(name) == other.point.get(name) for name in names)
