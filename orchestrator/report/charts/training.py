"""Draw training curves, retraining by schedule, and the share that each layer kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.analysis.aggregate import Setting
from orchestrator.analysis.rankings import rank_settings
from orchestrator.report import formatting
from orchestrator.report.charts.model import XY, Chart, Heat, Series
from orchestrator.report.charts.trade_offs import arm_styles
from orchestrator.report.data import ReportData

MOST_EPOCHS = 200
MOST_CURVES = 24
MOST_COLUMNS = 48
STAGES = {"baseline": "dense training", "sparse_training": "sparse training", "retrain": "retraining"}


def curves(data: ReportData) -> list[Chart]:
    """Draw validation accuracy by epoch, one chart per stage, one line per setting (per arm if there are many)."""
    table = data.view("epochs")
    if not table.num_rows:
        return []
    charts: list[Chart] = []
    present = set(table["stage"].unique().to_pylist())
    for stage in [*(s for s in STAGES if s in present), *sorted(present - set(STAGES))]:
        chart = _curve(data, table.filter(pc.equal(table["stage"], stage)), stage)
        if chart is not None:
            charts.append(chart)
    return charts


def kept_shares(data: ReportData) -> list[Chart]:
    """Draw the share that every layer kept, one column per setting, one chart per network."""
    table = data.view("layers")
    table = table.filter(pc.not_equal(table["kind"], "norm"))
    if not table.num_rows:
        return []
    means = layer_shares(table)
    charts: list[Chart] = []
    for number, network in enumerate(data.networks):
        members = [i for i, s in enumerate(data.settings) if s.rows and _network(s) == network]
        selected = set(_columns(data, members))
        columns = [i for i in members if i in selected]
        layers = list(dict.fromkeys(layer for i in columns for layer in means.get(i, {})))
        if not layers:
            continue
        values = [[means.get(i, {}).get(layer) for i in columns] for layer in layers]
        several = len(data.networks) > 1
        caption = (
            "Share kept of each layer, mean over seeds: of its filters (units), or of its weights if those were pruned."
        )
        if len(columns) < len(members):
            caption += f" {len(columns)} of {len(members)} settings: the best of each arm and target."
        key = "kept_by_layer" + (f"_{number + 1}" if several else "")
        title = "Share kept by layer" + (f": {network[0]} on {network[1]}" if several else "")
        names = [data.names.of(data.settings[i]) for i in columns]
        charts.append(Heat(key, title, caption, layers, _distinct(names), values, "% kept"))
    return charts


def layer_shares(table: pa.Table) -> dict[int, dict[str, float]]:
    """Return the mean share kept by setting and layer: of channels if any were cut, else of nonzero parameters."""
    channels = pc.divide(pc.cast(table["kept_channels"], pa.float64()), pc.cast(table["dense_channels"], pa.float64()))
    weights = pc.divide(pc.cast(table["nonzero"], pa.float64()), pc.cast(table["params"], pa.float64()))
    # Only one of the two shares is below 1: the parameters that remain in a cut layer are not zero.
    table = table.append_column("share", pc.min_element_wise(channels, weights))
    grouped = table.group_by(["setting", "layer"], use_threads=False).aggregate([("share", "mean")])
    shares: dict[int, dict[str, float]] = {}
    for setting, layer, share in zip(
        *(grouped[n].to_pylist() for n in ("setting", "layer", "share_mean")), strict=True
    ):
        shares.setdefault(setting, {})[layer] = share
    return shares


def retraining(data: ReportData) -> XY | None:
    """Draw the metric against epochs of retraining, one line per schedule; None if the epochs were not varied."""
    metric, axis = data.metric, "retrain.epochs"
    if len({s.point.get(axis) for s in data.settings if s.point.get(axis) is not None}) < 2:
        return None
    cells: dict[str, dict[float, list[float]]] = {}
    for setting in data.settings:
        mean, epochs = setting.metric(metric), setting.point.get(axis)
        if mean is not None and epochs is not None:
            line = f"{setting.point.get('retrain')}, {formatting.target(setting.point)}".rstrip(", ")
            cells.setdefault(line, {}).setdefault(float(epochs), []).append(mean.mean)
    if not cells or len(cells) > MOST_CURVES:
        return None
    factor = 100.0 if formatting.is_share(data.metric_row) else 1.0
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
    caption = "Means over all settings with the same epochs of retraining; one line per schedule and target."
    title = "Effect of the number of retraining epochs"
    return XY(
        "retraining", title, caption, "epochs of retraining", formatting.titles(data.metric_row), series, whole_x=True
    )


def _curve(data: ReportData, table: pa.Table, stage: str) -> XY | None:
    table = table.filter(pc.is_finite(table["val_accuracy"]))
    by_setting = _groups(data, table, stage)
    labels = list(dict.fromkeys(by_setting.values()))
    if not labels or not table.num_rows:
        return None
    number = {label: i for i, label in enumerate(labels)}
    lines = [number[by_setting[i]] if i in by_setting else None for i in range(len(data.settings))]
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
    series = _lines(data, points, labels)
    caption = "Validation accuracy after each epoch, mean over seeds" + (
        " and settings." if len(labels) < len(by_setting) else "."
    )
    if any(line.line == "dash" for line in series):
        caption += " One colour per arm; its settings are solid, dashed, dotted, in the order of the settings table."
    if stage == "baseline":
        caption = "Validation accuracy of the dense networks after each epoch; the trials start from these networks."
    if step > 1:
        caption += f" Every {step}th epoch is drawn."
    title = name[0].upper() + name[1:]
    return XY(f"curves_{stage}", title, caption, "epoch", "validation accuracy, %", series, whole_x=True)


def _lines(data: ReportData, points: dict[int, list[tuple[int, float]]], labels: Sequence[str]) -> list[Series]:
    styles, counts = arm_styles(data), dict[str, int]()
    series = []
    for line in sorted(points):
        xs, ys = zip(*sorted(points[line]), strict=True)
        arm = next((arm for arm in styles if labels[line].partition(",")[0] == arm), labels[line])
        count = counts[arm] = counts.get(arm, -1) + 1
        dash: Literal["solid", "dash", "dot"] = ("solid", "dash", "dot")[count % 3]
        hover = [f"<b>{labels[line]}</b><br>epoch {x}: {y:.2f} %" for x, y in zip(xs, ys, strict=True)]
        style = styles.get(arm, line)
        series.append(Series(arm, xs, ys, hover=hover, line=dash, markers=len(xs) == 1, style=style, legend=count == 0))
    return series


def _groups(data: ReportData, table: pa.Table, stage: str) -> dict[int, str]:
    """Return the label of the line that each setting with this stage belongs to."""
    present = sorted(table["setting"].unique().to_pylist())
    settings = {i: data.settings[i] for i in present}
    if stage == "baseline":
        return {i: " on ".join(_network(setting)) for i, setting in settings.items()}
    names = {i: data.names.of(setting) for i, setting in settings.items()}
    if len(set(names.values())) <= MOST_CURVES:
        return names
    targets = {i: ", ".join(p for p in (s.arm, formatting.target(s.point)) if p) for i, s in settings.items()}
    if len(set(targets.values())) <= MOST_CURVES:
        return targets
    return {i: setting.arm for i, setting in settings.items()}


def _columns(data: ReportData, members: Sequence[int]) -> list[int]:
    if len(members) <= MOST_COLUMNS:
        return list(members)
    number = {id(data.settings[i]): i for i in members}
    order = rank_settings([data.settings[i] for i in members], data.choice, data.direction)
    best: dict[Any, int] = {}
    for setting in order:
        best.setdefault((setting.arm, formatting.target(setting.point)), number[id(setting)])
    return list(best.values())[:MOST_COLUMNS]


def _network(setting: Setting) -> tuple[str, str]:
    return str(setting.point.get("model")), str(setting.point.get("data"))


def _distinct(names: Sequence[str]) -> list[str]:
    """Number equal names, which would otherwise share a column."""
    counts: dict[str, int] = {}
    distinct = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        distinct.append(name if counts[name] == 1 else f"{name} ({counts[name]})")
    return distinct
