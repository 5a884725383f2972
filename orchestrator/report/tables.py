"""Build the tables of a report: settings, rankings, importances, Pareto fronts, budgets, layers, failures."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.analysis.aggregate import Difference, paired_with_dense
from orchestrator.analysis.pareto import Direction, pareto_front
from orchestrator.analysis.rankings import TargetRanking
from orchestrator.analysis.sensitivity.factors import Importance
from orchestrator.metrics.table import extra_columns
from orchestrator.report import formatting
from orchestrator.report.charts.trade_offs import COSTS
from orchestrator.report.charts.training import layer_shares
from orchestrator.report.conclusions import DISTINGUISHABLE, INDISTINGUISHABLE, best_within, verdict
from orchestrator.report.data import ReportData
from orchestrator.report.formatting import MetricLike
from orchestrator.report.table_formats import Cell, Column, Table, difference_column

SETTING_METRICS = (
    "dense_accuracy",
    "pruned_accuracy",
    "accuracy",
    "val_accuracy",
    "top5_accuracy",
    "achieved_sparsity",
    "mac_sparsity",
    "param_sparsity",
    "filter_sparsity",
    "compression_ratio",
    "latency_ms",
    "latency_speedup",
)
BUDGETS = ((0.5, "half the MACs"), (0.25, "a quarter of the MACs"), (0.1, "a tenth of the MACs"))
_ALPHA_TEXT = "Significant: p below 0.05."
_SHORT_VERDICTS = {DISTINGUISHABLE: "significant", INDISTINGUISHABLE: "not significant"}
"""Verdicts as cells of a table have room for them."""


def setting_table(data: ReportData) -> Table:
    """List every setting with its parameters, its metrics (mean ± sd over seeds) and its number of seeds."""
    names = [n for n in data.names.differing if n not in ("method",)]
    other = [n for n in data.axes if n.startswith("target.") and n not in ("target.sparsity", "target.quantity")]
    targets = any("target.sparsity" in s.point for s in data.settings)
    shown = dict.fromkeys([*SETTING_METRICS, data.metric, *extra_columns(data.space.metrics)])
    metrics = [m for m in shown if any(row.get(m) is not None for row in data.done)]
    columns = [Column("arm"), *([Column("target", name="asked to remove")] if targets else [])]
    columns += [Column(n) for n in (*names, *other)] + [_metric_column(data, m) for m in metrics] + [Column("n")]
    unfinished = any(s.statuses for s in data.settings)
    columns += [Column("not finished", name="ended badly")] if unfinished else []
    rows: list[list[Cell]] = []
    for s in data.settings:
        cells: list[Cell] = [s.arm, *([formatting.target(s.point)] if targets else [])]
        cells += [formatting.plain(s.point[n]) if n in s.point else None for n in (*names, *other)]
        statuses = ", ".join(f"{count} {status}" for status, count in s.statuses.items())
        rows.append([*cells, *(s.metric(m) for m in metrics), len(s.rows), *([statuses] if unfinished else [])])
    caption = "Mean ± sample standard deviation over seeds; accuracies and shares in percent."
    return Table("settings", "Settings", caption, columns, rows)


def ranking_table(by_target: Sequence[TargetRanking], data: ReportData) -> Table:
    """List the best setting and the runner-up at every target, with their paired difference."""
    several, metric = len(data.networks) > 1, data.metric
    columns = [*([Column("network")] if several else []), Column("target"), Column("best"), Column("runner-up")]
    columns += [_metric_column(data, metric), _metric_column(data, metric, "runner-up: ")]
    columns += [*_difference_columns(data.metric_row), Column("verdict")]
    rows: list[list[Cell]] = []
    for ranking in by_target:
        first, second = ranking.ranked[:2]
        assert ranking.difference is not None
        names = [", ".join(p for p in (s.arm, data.names.rest(s)) if p) for s in (first, second)]
        target = formatting.target(ranking.point) or "chosen by the method"
        network = [f"{ranking.point.get('model')} on {ranking.point.get('data')}"] if several else []
        means = [first.metric(metric), second.metric(metric)]
        rows.append([*network, target, *names, *means, *_difference_and_verdict(ranking.difference)])
    caption = (
        "Ranked by validation accuracy, compared by the metric itself, paired by seed (t-test, Holm-corrected over "
        f"this table); d is the mean difference over its standard deviation. {_ALPHA_TEXT}"
    )
    return Table("best_and_runner_up", "Best and runner-up at every target", caption, columns, rows)


def dense_table(data: ReportData) -> Table:
    """List the difference between every setting and the dense networks that it started from."""
    metric = data.metric
    columns = [Column("setting"), *_difference_columns(data.metric_row), Column("verdict")]
    rows: list[list[Cell]] = []
    if any(row.get(f"dense_{metric}") is not None for row in data.done):
        by_name = {(s.arm, repr(dict(s.point))): s for s in data.settings}
        for difference in paired_with_dense(data.rows, data.grouping, metric):
            setting = by_name.get((difference.first, repr(dict(difference.point))))
            if difference.n and setting is not None:
                rows.append([data.names.of(setting), *_difference_and_verdict(difference)])
    caption = f"Paired by seed (t-test, Holm-corrected over all settings). {_ALPHA_TEXT}"
    return Table("against_dense", "Settings against their dense networks", caption, columns, rows)


def importance_table(importances: Sequence[Importance]) -> Table:
    """List the importances with their intervals, over all arms and within arms."""
    columns = [
        Column("arm"),
        Column("parameter"),
        Column("method"),
        *(Column(n) for n in ("value", "low", "high", "n")),
    ]
    rows = [[i.arm or "all", i.parameter, i.method, i.value, i.low, i.high, i.n] for i in importances]
    return Table("importances", "Importances", "Shares of the metric's variance, with 95 % intervals.", columns, rows)


def pareto_table(data: ReportData) -> Table:
    """List the settings on each Pareto front: the metric against MACs, parameters, latency."""
    metric = data.metric
    costs = [cost for cost in COSTS if cost != metric and any(row.get(cost) is not None for row in data.done)]
    several = len(data.networks) > 1
    columns = [
        Column("front"),
        *([Column("network")] if several else []),
        Column("setting"),
        _metric_column(data, metric),
    ]
    columns += [_metric_column(data, cost) for cost in costs]
    rows: list[list[Cell]] = []
    for network in data.networks:
        settings = [s for s in data.settings if (str(s.point.get("model")), str(s.point.get("data"))) == network]
        for cost in costs:
            directions: list[Direction] = [COSTS[cost], data.direction]
            points = [[None if (m := s.metric(name)) is None else m.mean for name in (cost, metric)] for s in settings]
            for i in sorted(pareto_front(points, directions), key=lambda i: points[i][0] or 0.0):
                means = [settings[i].metric(name) for name in (metric, *costs)]
                label = [" on ".join(network)] if several else []
                rows.append([f"{metric} and {cost}", *label, data.names.of(settings[i]), *means])
    caption = "Settings that no other dominates in both means."
    return Table("pareto", "Pareto fronts", caption, columns, rows)


def budget_table(data: ReportData) -> Table:
    """List the best setting within budgets of MACs and of latency, chosen by validation accuracy."""
    metric = data.metric
    rows: list[list[Cell]] = []
    dense = sorted(row["dense_latency_ms"] for row in data.done if row.get("dense_latency_ms") is not None)
    budgets = [(f"at most {name}", {"mac_sparsity": f">= {1 - share - 0.01:.4f}"}) for share, name in BUDGETS]
    if dense and len(data.networks) == 1:
        middle = dense[len(dense) // 2]
        for share in (0.9, 0.75, 0.5):
            limit = f"{share * middle:.4g}"
            budgets.append((f"at most {limit} ms ({100 * share:.0f} % of dense)", {"latency_ms": f"<= {limit}"}))
    if len(data.networks) == 1:
        for name, budget in budgets:
            best = best_within(data, budget)
            if best is None:
                rows.append([name, "no setting", None, None, None])
                continue
            values = [best.metric(m) for m in (metric, "mac_sparsity", "latency_ms")]
            rows.append([name, data.names.of(best), *values])
    if all(row[1] == "no setting" for row in rows):
        rows = []
    columns = [Column("budget"), Column("best setting"), _metric_column(data, metric)]
    columns += [_metric_column(data, m) for m in ("mac_sparsity", "latency_ms")]
    caption = "Chosen by validation accuracy; a budget of MACs may be exceeded by one point."
    return Table("budgets", "Best within a budget", caption, columns, rows)


def layer_table(data: ReportData) -> Table:
    """List the share that every layer kept, one row per setting and layer."""
    shares = layer_shares(data.view("layers"))
    rows: list[list[Cell]] = [
        [data.names.of(data.settings[i]), layer, share] for i in sorted(shares) for layer, share in shares[i].items()
    ]
    columns = [Column("setting"), Column("layer"), Column("kept, %", "kept_sparsity")]
    return Table("layers", "Share kept of every layer", "Mean over seeds.", columns, rows)


def failure_table(data: ReportData) -> Table:
    """List the trials that did not finish, with their reasons."""
    names = {row["trial_id"]: data.names.of(s) for s in data.settings for row in s.rows}
    columns = [Column(n) for n in ("trial", "status", "arm", "target", "seed", "reason")]
    rows: list[list[Cell]] = []
    for row in data.rows:
        if row["status"] != "done" and row["trial_id"] not in names:
            point = {"target.sparsity": row.get("target_sparsity"), "target.quantity": row.get("target_quantity")}
            arm = str(row.get("arm") or row["method"])
            cells = [row["trial_id"], row["status"], arm, formatting.target(point), str(row.get("seed"))]
            rows.append([*cells, str(row.get("error") or row.get("note") or "no reason recorded")])
    return Table("not_finished", "Trials that did not finish", "", columns, rows)


def _difference_columns(metric: MetricLike) -> list[Column]:
    ends = [Column(name, metric, name, "difference") for name in ("low", "high")]
    return [difference_column(metric), *ends, Column("d", kind="d"), Column("p", kind="p"), Column("pairs")]


def _difference_and_verdict(difference: Difference) -> list[Cell]:
    p = difference.p_value if difference.p_holm is None else difference.p_holm
    text = verdict(difference)
    numbers = [difference.mean, difference.low, difference.high, difference.effect_size, p, difference.n]
    return [*numbers, _SHORT_VERDICTS.get(text, text)]


def _metric_column(data: ReportData, metric: str, prefix: str = "") -> Column:
    """Return the column of a metric's means; with a prefix, that of the runner-up's."""
    title = _SHORT_TITLES.get(metric) or formatting.titles(data.row_of(metric))
    return Column(f"{prefix}{title}", data.row_of(metric), f"{'runner_up_' if prefix else ''}{metric}")


_SHORT_TITLES = {
    "accuracy": "accuracy, %",
    "dense_accuracy": "dense, %",
    "pruned_accuracy": "before retraining, %",
    "val_accuracy": "validation, %",
    "top5_accuracy": "top-5, %",
    "achieved_sparsity": "removed of target, %",
    "latency_ms": "latency, ms",
    "latency_speedup": "speed-up",
}
