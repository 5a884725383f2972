"""What happened inside the trials: curves over epochs, retraining by schedule, and what each layer kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.analysis.aggregate import Setting
from orchestrator.analysis.rankings import ranked
from orchestrator.report import formatting as wording
from orchestrator.report.charts.model import XY, Chart, Heat, Series
from orchestrator.report.charts.trade_offs import arm_styles
from orchestrator.report.data import ReportData

MOST_EPOCHS = 200
MOST_CURVES = 24
MOST_COLUMNS = 48
STAGES = {"baseline": "dense training", "sparse_training": "sparse training", "retrain": "retraining"}


def curves(evidence: ReportData) -> list[Chart]:
    """Validation accuracy by epoch, one figure a stage: a line a setting, or an arm where there are many."""
    table = evidence.view("epochs")
    if not table.num_rows:
        return []
    charts: list[Chart] = []
    present = set(table["stage"].unique().to_pylist())
    for stage in [*(s for s in STAGES if s in present), *sorted(present - set(STAGES))]:
        chart = _curve(evidence, table.filter(pc.equal(table["stage"], stage)), stage)
        if chart is not None:
            charts.append(chart)
    return charts


def kept_shares(evidence: ReportData) -> list[Chart]:
    """What every layer kept, a column a setting, a figure a network."""
    table = evidence.view("layers")
    table = table.filter(pc.not_equal(table["kind"], "norm"))
    if not table.num_rows:
        return []
    means = layer_shares(table)
    charts: list[Chart] = []
    for number, network in enumerate(evidence.networks):
        members = [i for i, s in enumerate(evidence.settings) if s.rows and _network(s) == network]
        shown = set(_columns(evidence, members))
        columns = [i for i in members if i in shown]
        layers = list(dict.fromkeys(layer for i in columns for layer in means.get(i, {})))
        if not layers:
            continue
        values = [[means.get(i, {}).get(layer) for i in columns] for layer in layers]
        several = len(evidence.networks) > 1
        caption = (
            "Share kept of each layer, mean over seeds: of its filters (units), or of its weights where weights go."
        )
        if len(columns) < len(members):
            caption += f" {len(columns)} of {len(members)} settings, the best of each arm and target."
        key = "kept_by_layer" + (f"_{number + 1}" if several else "")
        title = "What each layer kept" + (f": {network[0]} on {network[1]}" if several else "")
        names = [evidence.names.of(evidence.settings[i]) for i in columns]
        charts.append(Heat(key, title, caption, layers, _distinct(names), values, "% kept"))
    return charts


def layer_shares(table: pa.Table) -> dict[int, dict[str, float]]:
    """Mean share kept, by setting and layer: channels where the layer lost any, else parameters that are not zero."""
    channels = pc.divide(pc.cast(table["kept_channels"], pa.float64()), pc.cast(table["dense_channels"], pa.float64()))
    weights = pc.divide(pc.cast(table["nonzero"], pa.float64()), pc.cast(table["params"], pa.float64()))
    # Of a cut layer the parameters left are not zero: what is below 1 says which of the two was removed.
    table = table.append_column("share", pc.min_element_wise(channels, weights))
    grouped = table.group_by(["setting", "layer"], use_threads=False).aggregate([("share", "mean")])
    found: dict[int, dict[str, float]] = {}
    for setting, layer, share in zip(
        *(grouped[n].to_pylist() for n in ("setting", "layer", "share_mean")), strict=True
    ):
        found.setdefault(setting, {})[layer] = share
    return found


def retraining(evidence: ReportData) -> XY | None:
    """The metric against epochs of retraining, a line a schedule; None where the epochs were not varied."""
    metric, axis = evidence.metric, "retrain.epochs"
    if len({s.point.get(axis) for s in evidence.settings if s.point.get(axis) is not None}) < 2:
        return None
    cells: dict[str, dict[float, list[float]]] = {}
    for setting in evidence.settings:
        mean, epochs = setting.metric(metric), setting.point.get(axis)
        if mean is not None and epochs is not None:
            line = f"{setting.point.get('retrain')}, {wording.target(setting.point)}".rstrip(", ")
            cells.setdefault(line, {}).setdefault(float(epochs), []).append(mean.mean)
    if not cells or len(cells) > MOST_CURVES:
        return None
    factor = 100.0 if wording.is_share(metric) else 1.0
    series = [
        Series(
            name,
            sorted(points),
            [factor * sum(points[x]) / len(points[x]) for x in sorted(points)],
            line="solid" if i < 8 else "dash",
            style=i,
        )
        for i, (name, points) in enumerate(cells.items())
    ]
    caption = "Means over all settings with these epochs of retraining; a line for each schedule and target."
    title = "Retraining: what more epochs bring"
    return XY("retraining", title, caption, "epochs of retraining", wording.titles(metric), series, whole_x=True)


def _curve(evidence: ReportData, table: pa.Table, stage: str) -> XY | None:
    table = table.filter(pc.is_finite(table["val_accuracy"]))
    by_setting = _groups(evidence, table, stage)
    labels = list(dict.fromkeys(by_setting.values()))
    if not labels or not table.num_rows:
        return None
    place = {label: i for i, label in enumerate(labels)}
    lines = [place[by_setting[i]] if i in by_setting else None for i in range(len(evidence.settings))]
    table = table.append_column("line", pc.take(pa.array(lines, type=pa.int64()), table["setting"]))
    grouped = table.group_by(["line", "epoch"], use_threads=False).aggregate([("val_accuracy", "mean")])
    last = max(grouped["epoch"].to_pylist(), default=0)
    step = -(-(last + 1) // MOST_EPOCHS)
    points: dict[int, list[tuple[int, float]]] = {}
    rows = zip(*(grouped[n].to_pylist() for n in ("line", "epoch", "val_accuracy_mean")), strict=True)
    for line, epoch, value in rows:
        if epoch % step == 0 or epoch == last:
            points.setdefault(line, []).append((epoch + 1, 100 * value))
    name = STAGES.get(stage, stage.replace("_", " "))
    series = _lines(evidence, points, labels)
    caption = "Validation accuracy after each epoch, mean over seeds" + (
        " and settings." if len(labels) < len(by_setting) else "."
    )
    if any(one.line == "dash" for one in series):
        caption += " A colour an arm; its settings are solid, dashed, dotted, in the order of the table of settings."
    if stage == "baseline":
        caption = (
            "Validation accuracy of the dense networks after each epoch; all trials of one network start from these."
        )
    if step > 1:
        caption += f" Every {step}th epoch is drawn."
    title = name[0].upper() + name[1:]
    return XY(f"curves_{stage}", title, caption, "epoch", "validation accuracy, %", series, whole_x=True)


def _lines(evidence: ReportData, points: dict[int, list[tuple[int, float]]], labels: Sequence[str]) -> list[Series]:
    styles, seen = arm_styles(evidence), dict[str, int]()
    series = []
    for line in sorted(points):
        xs, ys = zip(*sorted(points[line]), strict=True)
        arm = next((arm for arm in styles if labels[line].partition(",")[0] == arm), labels[line])
        count = seen[arm] = seen.get(arm, -1) + 1
        dash: Literal["solid", "dash", "dot"] = ("solid", "dash", "dot")[count % 3]
        hover = [f"<b>{labels[line]}</b><br>epoch {x}: {y:.2f} %" for x, y in zip(xs, ys, strict=True)]
        style = styles.get(arm, line)
        series.append(Series(arm, xs, ys, hover=hover, line=dash, markers=len(xs) == 1, style=style, legend=count == 0))
    return series


def _groups(evidence: ReportData, table: pa.Table, stage: str) -> dict[int, str]:
    """The line that every setting with this stage belongs to."""
    present = sorted(table["setting"].unique().to_pylist())
    found = {i: evidence.settings[i] for i in present}
    if stage == "baseline":
        return {i: " on ".join(_network(setting)) for i, setting in found.items()}
    names = {i: evidence.names.of(setting) for i, setting in found.items()}
    if len(set(names.values())) <= MOST_CURVES:
        return names
    targets = {i: ", ".join(p for p in (s.arm, wording.target(s.point)) if p) for i, s in found.items()}
    if len(set(targets.values())) <= MOST_CURVES:
        return targets
    return {i: setting.arm for i, setting in found.items()}


def _columns(evidence: ReportData, members: Sequence[int]) -> list[int]:
    if len(members) <= MOST_COLUMNS:
        return list(members)
    number = {id(evidence.settings[i]): i for i in members}
    order = ranked([evidence.settings[i] for i in members], evidence.choice, evidence.direction)
    best: dict[Any, int] = {}
    for setting in order:
        best.setdefault((setting.arm, wording.target(setting.point)), number[id(setting)])
    return list(best.values())[:MOST_COLUMNS]


def _network(setting: Setting) -> tuple[str, str]:
    return str(setting.point.get("model")), str(setting.point.get("data"))


def _distinct(names: Sequence[str]) -> list[str]:
    """Equal names would fall on one column."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found
