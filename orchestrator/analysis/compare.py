"""Compare a sweep's results with a published table, row by row."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.analysis.aggregate import Mean, Setting, group_settings, mean_of
from orchestrator.analysis.papers import table as published_table
from orchestrator.analysis.published import Cell, Unit, cells, reason_for_no_cells

SHARE_TOLERANCE = 0.02
"""Largest distance between a share that identifies a row and the published one; see `_is_near`."""


@dataclass(frozen=True)
class Comparison:
    """One published number and one setting of the sweep, both in the published unit; ``compare --json`` prints it."""

    paper: str
    table: str
    row: str
    column: str
    printed: float | None
    printed_sd: float | None = None
    group: str = ""
    """Name of the published rows whose order is meaningful, e.g. the methods on one network."""
    setting: str | None = None
    """Arm and point of the sweep's setting; None if no trial matches the published row."""
    ours: Mean | None = None
    delta: float | None = None
    """``ours`` minus ``printed``."""
    order_holds: bool | None = None
    """Whether the order to every other matched row of group and column is the published one; None without another."""
    flags: tuple[str, ...] = ()
    """Known errors and doubts about the published row."""
    note: str = ""
    """Reason why ``ours`` is missing, or a difference in model or data."""


@dataclass(frozen=True)
class Trend:
    """Agreement between the published order of a group's rows in one column and the sweep's order."""

    group: str
    column: str
    n: int
    kendall: float | None
    """Kendall's tau-b. None if either side is constant."""
    spearman: float | None
    holds: bool
    """Whether no two rows with different published values are equal or in reverse order in the sweep."""


def compare(rows: Iterable[Mapping[str, Any]], paper: str, table: int | str) -> list[Comparison]:
    """Return every published number of a table with the settings of the sweep that match it.

    A setting matches a published row if (1) its model is the published one, if the table has several; (2) so is its
    method; (3) so is its configuration: the named plan if the arm or ``target.plan`` names one, else the published
    sparsity or size (shares within 0.02 and within a quarter of what is kept, counts within 3 %); parameters that the
    table lists were varied and are equal. Another data set is allowed and noted. A published row without a match is
    listed with ``ours`` None; one with several matches is listed once for each.

    Raises:
        NoSuchTable: the table is not stored.
    """
    published = published_table(paper, table)
    names = (published.paper, published.number)
    published_cells = cells(published)
    if not published_cells:
        labels = [_label(row) for row in published.rows] or [published.title]
        return [Comparison(*names, label, "", None, note=reason_for_no_cells(published)) for label in labels]
    settings = _settings(rows)
    single_model = len({cell.model for cell in published_cells}) == 1
    plans = {cell.plan.lower() for cell in published_cells if cell.plan}
    comparisons = []
    for cell in published_cells:
        unmatched = Comparison(*names, cell.row, cell.column, cell.published, cell.sd, cell.group, flags=cell.flags)
        matches = [setting for setting in settings if _matches(setting, cell, single_model, plans)]
        if not cell.method:
            matches = _merge_dense(matches)
        comparisons += [_matched(unmatched, cell, setting) for setting in matches]
        if not matches:
            comparisons.append(replace(unmatched, note=f"no trial of {_description(cell, single_model)}"))
    return [replace(comparison, order_holds=_in_order(comparison, comparisons)) for comparison in comparisons]


def trends(comparisons: Sequence[Comparison]) -> list[Trend]:
    """Return the trend of each group and column with two or more matched rows."""
    # Imported here because it takes half a second, and only this function needs it.
    from scipy.stats import kendalltau, spearmanr

    groups: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in comparisons:
        if comparison.ours is not None:
            groups.setdefault((comparison.group, comparison.column), []).append(comparison)
    result = []
    for (group, column), members in groups.items():
        published = [member.printed for member in members]
        ours = [member.ours.mean for member in members if member.ours is not None]
        if len(members) < 2:
            continue
        varied = len(set(published)) > 1 and len(set(ours)) > 1
        kendall = float(kendalltau(published, ours).statistic) if varied else None
        spearman = float(spearmanr(published, ours).statistic) if varied else None
        holds = all(member.order_holds is not False for member in members)
        result.append(Trend(group, column, len(members), kendall, spearman, holds))
    return result


def _settings(rows: Iterable[Mapping[str, Any]]) -> list[Setting]:
    rows = list(rows)
    varied = sorted({name for row in rows for name in row if "." in name})
    fixed = ("model", "data", "method", "retrain", "target_quantity", "target_sparsity")
    return group_settings(rows, [*fixed, *varied])


def _matches(setting: Setting, cell: Cell, single_model: bool, plans: set[str]) -> bool:
    point = setting.point
    if not single_model and _normalise(point.get("model", "")) != _normalise(cell.model):
        return False
    if cell.method and point.get("method") != cell.method:
        return False
    if any(point.get(name) != value for name, value in (cell.exact or {}).items()):
        return False
    named = plans & set(re.split(r"[^a-z0-9]+", f"{setting.arm} {point.get('target.plan', '')}".lower()))
    if cell.plan and named:
        return cell.plan.lower() in named
    if cell.plan and not cell.near:
        return False
    return all(_is_near(setting, name, value) for name, value in (cell.near or {}).items())


def _is_near(setting: Setting, name: str, published: float) -> bool:
    """Return whether the achieved value (the requested one if no trial finished) is near the published one.

    The request of a method that chooses its own sparsity is its parameter ``budget``.
    """
    mean = setting.metric(name)
    requested = [setting.point[key] for key in (name, "target_sparsity", "method.budget") if key in setting.point]
    value = mean.mean if mean else next(iter(requested), None)
    if value is None:
        return False
    if published > 1:
        return bool(abs(value - published) <= 0.03 * published)
    # Within a quarter of what is kept, because 98.2 and 98.7 % of the weights removed are different rows of one table.
    return bool(abs(value - published) <= min(SHARE_TOLERANCE, 0.25 * (1 - published)) + 1e-12)


def _merge_dense(settings: Sequence[Setting]) -> list[Setting]:
    """Merge the settings that start from the same dense network into one setting, with one row per seed."""
    groups: dict[str, list[Setting]] = {}
    for setting in settings:
        if setting.rows:
            groups.setdefault(json.dumps(_dense_point(setting), sort_keys=True, default=str), []).append(setting)
    merged = []
    for members in groups.values():
        by_seed = {row.get("seed"): row for setting in members for row in setting.rows}
        merged.append(Setting("dense", _dense_point(members[0]), tuple(by_seed.values()), 0))
    return merged


def _dense_point(setting: Setting) -> dict[str, Any]:
    return {name: value for name, value in setting.point.items() if name.split(".")[0] in ("model", "data", "baseline")}


def _matched(unmatched: Comparison, cell: Cell, setting: Setting) -> Comparison:
    values = [row.get(cell.metric) for row in setting.rows]
    ours = mean_of(_in_unit(value, cell.unit) for value in values if value is not None and math.isfinite(value))
    notes = [f"{count} {status}" for status, count in setting.statuses.items()]
    if ours is None:
        notes.append(f"no {cell.metric}")
    for published, name in ((cell.data, "data"), (cell.model, "model")):
        used = str(setting.point.get(name, ""))
        if published and used and _normalise(used) != _normalise(published):
            notes.append(f"{name}: ours {used}, published {published}")
    point = ", ".join(f"{name}={value}" for name, value in setting.point.items() if name not in ("model", "data"))
    label = f"{setting.arm}: {point}" if point else setting.arm
    delta = ours.mean - cell.published if ours else None
    return replace(unmatched, setting=label, ours=ours, delta=delta, note="; ".join(notes))


def _in_unit(value: float, unit: Unit) -> float:
    if unit == "percent":
        return 100 * value
    if unit == "percent_left":
        return 100 * (1 - value)
    if unit == "factor_left":
        return 1 / (1 - value) if value < 1 else math.inf
    return value


def _in_order(comparison: Comparison, comparisons: Sequence[Comparison]) -> bool | None:
    ours, published = comparison.ours, comparison.printed
    if ours is None or published is None:
        return None
    agreements = [
        (published - other.printed) * (ours.mean - other.ours.mean) > 0
        for other in comparisons
        if other.ours is not None
        and other.printed is not None
        and other.printed != published
        and (other.group, other.column) == (comparison.group, comparison.column)
    ]
    return all(agreements) if agreements else None


def _description(cell: Cell, single_model: bool) -> str:
    parts = [cell.method or "any method", *([] if single_model else [f"on {cell.model}"])]
    parts += [f"with {name} {value}" for name, value in (cell.exact or {}).items()]
    if cell.plan:
        parts.append(f"with plan {cell.plan}" + (" or" if cell.near else ""))
    parts += [f"with {name} near {value:.6g}" for name, value in (cell.near or {}).items()]
    return " ".join(parts)


def _label(row: Mapping[str, Any]) -> str:
    names = ("group", "model", "architecture", "dataset", "layer", "phase", "target", "name")
    return " ".join(str(row[name]) for name in names if name in row)


_SYNONYMS = {"wideresnet2810": "wrn2810", "imagenet1k": "imagenet"}


def _normalise(name: str) -> str:
    """Return a name in lower case without punctuation (``VGG-16`` is ``vgg16``) and without a library's prefix."""
    bare = re.sub(r"[^a-z0-9]", "", re.split(r"[/:]", name.lower())[-1])
    return _SYNONYMS.get(bare, bare)
