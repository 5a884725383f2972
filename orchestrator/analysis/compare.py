"""A sweep's numbers beside a published table, row by row."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.analysis.aggregate import Mean, Setting, mean_of, settings
from orchestrator.analysis.papers import table as printed_table
from orchestrator.analysis.published import Cell, Unit, cells, why_none

SHARE_TOLERANCE = 0.02
"""How far a share that identifies a row may be from the printed one; see `_near`."""


@dataclass(frozen=True)
class Comparison:
    """One printed number, and one of this sweep's settings beside it, both in the printed unit."""

    paper: str
    table: str
    row: str
    column: str
    printed: float | None
    printed_sd: float | None = None
    group: str = ""
    """Printed rows whose order tells something, e.g. the methods on one network."""
    setting: str | None = None
    """The arm and point of ours; None where the sweep has no trial that answers the printed row."""
    ours: Mean | None = None
    delta: float | None = None
    """Ours minus printed."""
    order_holds: bool | None = None
    """Every other matched row of its group and column stands on the same side as in print; None without another."""
    flags: tuple[str, ...] = ()
    """What is known to be wrong or uncertain in the printed row."""
    note: str = ""
    """Why there is no number of ours, or what differs."""


@dataclass(frozen=True)
class Trend:
    """The order of the rows of one group in one column, printed and ours."""

    group: str
    column: str
    n: int
    kendall: float | None
    """Tau-b. None where either side is constant."""
    spearman: float | None
    holds: bool
    """No two rows that differ in print stand the other way round, or level, in ours."""


def compare(rows: Iterable[Mapping[str, Any]], paper: str, table: int | str) -> list[Comparison]:
    """Every printed number of a table, with the settings of the sweep that answer it.

    A setting answers a printed row if (1) its model is the printed one, where the table prints several; (2) its method
    is; (3) its configuration is: the named plan where the arm or ``target.plan`` names one, else the printed sparsity
    or size (shares within 0.02 and within a quarter of what is left, counts within 3 %); parameters that the table
    lists were varied and are equal. Another image set is no obstacle but is noted. A printed row that
    nothing answers is listed with ``ours`` None; one that several settings answer is listed once for each.

    Raises:
        NoSuchTable: nothing is recorded of that table.
    """
    printed = printed_table(paper, table)
    names = (printed.paper, printed.number)
    found = cells(printed)
    if not found:
        labels = [_label(row) for row in printed.rows] or [printed.title]
        return [Comparison(*names, label, "", None, note=why_none(printed)) for label in labels]
    ours = _settings(rows)
    one_model = len({cell.model for cell in found}) == 1
    plans = {cell.plan.lower() for cell in found if cell.plan}
    comparisons = []
    for cell in found:
        bare = Comparison(*names, cell.row, cell.column, cell.printed, cell.sd, cell.group, flags=cell.flags)
        answers = [setting for setting in ours if _answers(setting, cell, one_model, plans)]
        if not cell.method:
            answers = _one_a_network(answers)
        comparisons += [_beside(bare, cell, setting) for setting in answers]
        if not answers:
            comparisons.append(replace(bare, note=f"no trial of {_wanted(cell, one_model)}"))
    return [replace(one, order_holds=_in_order(one, comparisons)) for one in comparisons]


def trends(comparisons: Sequence[Comparison]) -> list[Trend]:
    """One for each group and column with two or more matched rows."""
    # Half a second to import, and only this function needs it.
    from scipy.stats import kendalltau, spearmanr

    groups: dict[tuple[str, str], list[Comparison]] = {}
    for one in comparisons:
        if one.ours is not None:
            groups.setdefault((one.group, one.column), []).append(one)
    found = []
    for (group, column), members in groups.items():
        printed = [one.printed for one in members]
        ours = [one.ours.mean for one in members if one.ours is not None]
        if len(members) < 2:
            continue
        varied = len(set(printed)) > 1 and len(set(ours)) > 1
        kendall = float(kendalltau(printed, ours).statistic) if varied else None
        spearman = float(spearmanr(printed, ours).statistic) if varied else None
        holds = all(one.order_holds is not False for one in members)
        found.append(Trend(group, column, len(members), kendall, spearman, holds))
    return found


def _settings(rows: Iterable[Mapping[str, Any]]) -> list[Setting]:
    rows = list(rows)
    varied = sorted({name for row in rows for name in row if "." in name})
    fixed = ("model", "data", "method", "retrain", "target_quantity", "target_sparsity")
    return settings(rows, [*fixed, *varied])


def _answers(setting: Setting, cell: Cell, one_model: bool, plans: set[str]) -> bool:
    point = setting.point
    if not one_model and _plain(point.get("model", "")) != _plain(cell.model):
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
    return all(_near(setting, name, value) for name, value in (cell.near or {}).items())


def _near(setting: Setting, name: str, wanted: float) -> bool:
    """By what was achieved; by what was asked for, where no trial of the setting has ended well.

    A method that finds its own sparsity is asked by a budget of its own.
    """
    mean = setting.metric(name)
    asked = [setting.point[key] for key in (name, "target_sparsity", "method.budget") if key in setting.point]
    value = mean.mean if mean else next(iter(asked), None)
    if value is None:
        return False
    if wanted > 1:
        return bool(abs(value - wanted) <= 0.03 * wanted)
    # A quarter of what is left: 98.2 and 98.7 % of the weights removed are different rows of one table.
    return bool(abs(value - wanted) <= min(SHARE_TOLERANCE, 0.25 * (1 - wanted)) + 1e-12)


def _one_a_network(answers: Sequence[Setting]) -> list[Setting]:
    """The dense network is the same whatever was pruned from it afterwards: all its trials in one."""
    groups: dict[str, list[Setting]] = {}
    for setting in answers:
        if setting.rows:
            groups.setdefault(json.dumps(_dense(setting), sort_keys=True, default=str), []).append(setting)
    found = []
    for members in groups.values():
        by_seed = {row.get("seed"): row for setting in members for row in setting.rows}
        found.append(Setting("dense", _dense(members[0]), tuple(by_seed.values()), 0))
    return found


def _dense(setting: Setting) -> dict[str, Any]:
    return {name: value for name, value in setting.point.items() if name.split(".")[0] in ("model", "data", "baseline")}


def _beside(bare: Comparison, cell: Cell, setting: Setting) -> Comparison:
    values = [row.get(cell.metric) for row in setting.rows]
    ours = mean_of(_in_unit(value, cell.unit) for value in values if value is not None and math.isfinite(value))
    notes = [f"{count} {status}" for status, count in setting.statuses.items()]
    if ours is None:
        notes.append(f"no {cell.metric}")
    for printed, name in ((cell.data, "data"), (cell.model, "model")):
        used = str(setting.point.get(name, ""))
        if printed and used and _plain(used) != _plain(printed):
            notes.append(f"{name}: ours {used}, printed {printed}")
    point = ", ".join(f"{name}={value}" for name, value in setting.point.items() if name not in ("model", "data"))
    label = f"{setting.arm}: {point}" if point else setting.arm
    delta = ours.mean - cell.printed if ours else None
    return replace(bare, setting=label, ours=ours, delta=delta, note="; ".join(notes))


def _in_unit(value: float, unit: Unit) -> float:
    if unit == "percent":
        return 100 * value
    if unit == "percent_left":
        return 100 * (1 - value)
    if unit == "factor_left":
        return 1 / (1 - value) if value < 1 else math.inf
    return value


def _in_order(one: Comparison, comparisons: Sequence[Comparison]) -> bool | None:
    if one.ours is None or one.printed is None:
        return None
    sides = [
        (one.printed - other.printed) * (one.ours.mean - other.ours.mean) > 0
        for other in comparisons
        if other.ours is not None
        and other.printed is not None
        and other.printed != one.printed
        and (other.group, other.column) == (one.group, one.column)
    ]
    return all(sides) if sides else None


def _wanted(cell: Cell, one_model: bool) -> str:
    parts = [cell.method or "any method", *([] if one_model else [f"on {cell.model}"])]
    parts += [f"with {name} {value}" for name, value in (cell.exact or {}).items()]
    if cell.plan:
        parts.append(f"with plan {cell.plan}" + (" or" if cell.near else ""))
    parts += [f"with {name} near {value:.6g}" for name, value in (cell.near or {}).items()]
    return " ".join(parts)


def _label(row: Mapping[str, Any]) -> str:
    names = ("group", "model", "architecture", "dataset", "layer", "phase", "target", "name")
    return " ".join(str(row[name]) for name in names if name in row)


_STAND_FOR = {"wideresnet2810": "wrn2810", "imagenet1k": "imagenet"}


def _plain(name: str) -> str:
    """VGG-16 is vgg16; a model of a library is meant without the library's name."""
    bare = re.sub(r"[^a-z0-9]", "", re.split(r"[/:]", name.lower())[-1])
    return _STAND_FOR.get(bare, bare)
