"""The tables of a report: settings, contests, importances, fronts, budgets, layers, failures."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.analysis.aggregate import Difference, paired_with_dense
from orchestrator.analysis.pareto import Direction, best_under, front
from orchestrator.analysis.rankings import Contest
from orchestrator.analysis.sensitivity.factors import Importance
from orchestrator.report import formatting as wording
from orchestrator.report.charts.trade_offs import COSTS
from orchestrator.report.charts.training import layer_shares
from orchestrator.report.conclusions import BEYOND, WITHIN, verdict
from orchestrator.report.data import ReportData
from orchestrator.report.table_formats import Cell, Column, Table

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


def setting_table(evidence: ReportData) -> Table:
    """Every setting: what was varied, what was measured (mean ± sd over seeds), and how many seeds."""
    names = [n for n in evidence.names.differing if n not in ("method",)]
    other = [n for n in evidence.axes if n.startswith("target.") and n not in ("target.sparsity", "target.quantity")]
    shares = any("target.sparsity" in s.point for s in evidence.settings)
    metrics = [m for m in SETTING_METRICS if any(row.get(m) is not None for row in evidence.done)]
    metrics += [m for m in (evidence.metric,) if m not in metrics and any(r.get(m) is not None for r in evidence.done)]
    columns = [Column("arm"), *([Column("asked to remove")] if shares else []), *(Column(n) for n in (*names, *other))]
    columns += [Column(_title(m), m) for m in metrics] + [Column("n")]
    badly = any(s.statuses for s in evidence.settings)
    columns += [Column("ended badly")] if badly else []
    rows: list[list[Cell]] = []
    for s in evidence.settings:
        cells: list[Cell] = [s.arm, *([wording.target(s.point)] if shares else [])]
        cells += [wording.plain(s.point[n]) if n in s.point else None for n in (*names, *other)]
        bad = ", ".join(f"{count} {status}" for status, count in s.statuses.items())
        rows.append([*cells, *(s.metric(m) for m in metrics), len(s.rows), *([bad] if badly else [])])
    caption = "Mean ± sample standard deviation over seeds; accuracies and shares in percent."
    return Table("settings", "Settings", caption, columns, rows)


def contest_table(held: Sequence[Contest], evidence: ReportData) -> Table:
    """Best and runner-up at every target, with their paired difference."""
    several, metric = len(evidence.networks) > 1, evidence.metric
    columns = [*([Column("network")] if several else []), Column("target"), Column("best"), Column("runner-up")]
    columns += [Column(_title(metric), metric), Column(f"runner-up: {_title(metric)}", metric, f"runner_up_{metric}")]
    columns += [*_difference_columns(metric), Column("verdict")]
    rows: list[list[Cell]] = []
    for contest in held:
        first, second = contest.ranked[:2]
        assert contest.difference is not None
        names = [", ".join(p for p in (s.arm, evidence.names.rest(s)) if p) for s in (first, second)]
        place = wording.target(contest.point) or "found by the method"
        network = [f"{contest.point.get('model')} on {contest.point.get('data')}"] if several else []
        means = [first.metric(metric), second.metric(metric)]
        rows.append([*network, place, *names, *means, *_difference(contest.difference), _verdict(contest.difference)])
    caption = (
        "Ranked by validation accuracy, compared by the metric itself, paired by seed (t-test, Holm-corrected over "
        "this table); d is the mean difference over its standard deviation. Told apart: p below 0.05."
    )
    return Table("best_and_runner_up", "Best and runner-up at every target", caption, columns, rows)


def dense_table(evidence: ReportData) -> Table:
    """Every setting minus the dense networks it started from."""
    metric = evidence.metric
    columns = [Column("setting"), *_difference_columns(metric), Column("verdict")]
    rows: list[list[Cell]] = []
    if any(row.get(f"dense_{metric}") is not None for row in evidence.done):
        arms = {(s.arm, repr(dict(s.point))): s for s in evidence.settings}
        for one in paired_with_dense(evidence.rows, evidence.grouping, metric):
            setting = arms.get((one.first, repr(dict(one.point))))
            if one.n and setting is not None:
                rows.append([evidence.names.of(setting), *_difference(one), _verdict(one)])
    caption = "Paired by seed (t-test, Holm-corrected over all settings). Told apart: p below 0.05."
    return Table("against_dense", "Settings against their dense networks", caption, columns, rows)


def importance_table(importances: Sequence[Importance]) -> Table:
    """Importances with their intervals, over all arms and within arms."""
    columns = [
        Column("arm"),
        Column("parameter"),
        Column("method"),
        *(Column(n) for n in ("value", "low", "high", "n")),
    ]
    rows = [[i.arm or "all", i.parameter, i.method, i.value, i.low, i.high, i.n] for i in importances]
    return Table("importances", "Importances", "Shares of the metric's variance, with 95 % intervals.", columns, rows)


def pareto_table(evidence: ReportData) -> Table:
    """The settings on each front: the metric against MACs, parameters, latency."""
    metric = evidence.metric
    costs = [cost for cost in COSTS if cost != metric and any(row.get(cost) is not None for row in evidence.done)]
    several = len(evidence.networks) > 1
    columns = [
        Column("front"),
        *([Column("network")] if several else []),
        Column("setting"),
        Column(_title(metric), metric),
    ]
    columns += [Column(_title(cost), cost) for cost in costs]
    rows: list[list[Cell]] = []
    for network in evidence.networks:
        found = [s for s in evidence.settings if (str(s.point.get("model")), str(s.point.get("data"))) == network]
        for cost in costs:
            directions: list[Direction] = [COSTS[cost], evidence.direction]
            points = [[None if (m := s.metric(name)) is None else m.mean for name in (cost, metric)] for s in found]
            for i in sorted(front(points, directions), key=lambda i: points[i][0] or 0.0):
                means = [found[i].metric(name) for name in (metric, *costs)]
                where = [" on ".join(network)] if several else []
                rows.append([f"{metric} and {cost}", *where, evidence.names.of(found[i]), *means])
    caption = "Settings that no other beats in both means."
    return Table("pareto", "Pareto fronts", caption, columns, rows)


def budget_table(evidence: ReportData) -> Table:
    """The best setting within budgets of MACs and of latency, chosen by validation accuracy."""
    metric, choice = evidence.metric, evidence.choice
    rows: list[list[Cell]] = []
    folded = []
    names = ("mac_sparsity", "latency_ms", choice)
    for i, setting in enumerate(evidence.candidates):
        means = {name: None if (m := setting.metric(name)) is None else m.mean for name in names}
        folded.append({**means, "status": "done" if setting.rows else "failed", "number": i})
    dense = sorted(row["dense_latency_ms"] for row in evidence.done if row.get("dense_latency_ms") is not None)
    budgets = [(f"at most {name}", {"mac_sparsity": f">= {1 - share - 0.01:.4f}"}) for share, name in BUDGETS]
    if dense and len(evidence.networks) == 1:
        middle = dense[len(dense) // 2]
        for share in (0.9, 0.75, 0.5):
            limit = f"{share * middle:.4g}"
            budgets.append((f"at most {limit} ms ({100 * share:.0f} % of dense)", {"latency_ms": f"<= {limit}"}))
    if len(evidence.networks) == 1:
        for name, budget in budgets:
            found = best_under(folded, budget, choice, evidence.direction)
            if found is None:
                rows.append([name, "no setting", None, None, None])
                continue
            best = evidence.candidates[found["number"]]
            values = [best.metric(m) for m in (metric, "mac_sparsity", "latency_ms")]
            rows.append([name, evidence.names.of(best), *values])
    if all(row[1] == "no setting" for row in rows):
        rows = []
    columns = [Column("budget"), Column("best setting"), Column(_title(metric), metric)]
    columns += [Column(_title(m), m) for m in ("mac_sparsity", "latency_ms")]
    caption = "Chosen by validation accuracy; a budget of MACs is met within one point."
    return Table("budgets", "Best within a budget", caption, columns, rows)


def layer_table(evidence: ReportData) -> Table:
    """What every layer kept, a row a setting and layer."""
    shares = layer_shares(evidence.view("layers"))
    rows: list[list[Cell]] = [
        [evidence.names.of(evidence.settings[i]), layer, share]
        for i in sorted(shares)
        for layer, share in shares[i].items()
    ]
    columns = [Column("setting"), Column("layer"), Column("kept, %", "kept_sparsity")]
    return Table("layers", "Share kept of every layer", "Mean over seeds.", columns, rows)


def failure_table(evidence: ReportData) -> Table:
    """Trials that did not finish, with their reasons."""
    names = {row["trial_id"]: evidence.names.of(s) for s in evidence.settings for row in s.rows}
    columns = [Column(n) for n in ("trial", "status", "arm", "target", "seed", "reason")]
    rows: list[list[Cell]] = []
    for row in evidence.rows:
        if row["status"] != "done" and row["trial_id"] not in names:
            point = {"target.sparsity": row.get("target_sparsity"), "target.quantity": row.get("target_quantity")}
            arm = str(row.get("arm") or row["method"])
            cells = [row["trial_id"], row["status"], arm, wording.target(point), str(row.get("seed"))]
            rows.append([*cells, str(row.get("error") or row.get("note") or "no reason recorded")])
    return Table("not_finished", "Trials that did not finish", "", columns, rows)


def _difference_columns(metric: str) -> list[Column]:
    unit = ", points" if wording.is_share(metric) else ""
    told = f"difference:{metric}"
    ends = [Column(f"difference{unit}", told, "difference"), Column("low", told, "low"), Column("high", told, "high")]
    return [*ends, Column("d", "d"), Column("p", "p"), Column("pairs")]


def _verdict(one: Difference) -> str:
    return {BEYOND: "told apart", WITHIN: "not told apart"}.get(told := verdict(one), told)


def _difference(one: Difference) -> list[Cell]:
    p = one.p_value if one.p_holm is None else one.p_holm
    return [one.mean, one.low, one.high, one.effect_size, p, one.n]


def _title(metric: str) -> str:
    short = {
        "accuracy": "accuracy, %",
        "dense_accuracy": "dense, %",
        "pruned_accuracy": "before retraining, %",
        "val_accuracy": "validation, %",
        "top5_accuracy": "top-5, %",
        "achieved_sparsity": "removed of target, %",
        "latency_ms": "latency, ms",
        "latency_speedup": "speed-up",
    }
    return short.get(metric, wording.titles(metric))
