"""What a report is made from: the trials of a sweep's present plan, folded into settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.analysis.aggregate import Setting, arm_of, axis_value, settings
from orchestrator.analysis.load import load_results
from orchestrator.records.parquet import write_views
from orchestrator.records.records import DamagedRecord
from orchestrator.report.formatting import Names
from orchestrator.spec.errors import SpecError
from orchestrator.spec.search_space import SearchSpace
from orchestrator.spec.trial import flatten
from orchestrator.sweep.planning import PlannedTrial, plan

Row = Mapping[str, Any]

_WHOLE = ("model", "data", "retrain", "target.quantity", "target.sparsity")
"""Told apart in every sweep, varied or not: arms may differ in them."""


FEWEST_SEEDS = 3
"""With fewer, a spread over seeds is hardly known."""


class Unreportable(SpecError):
    """A sweep without an ended trial, or with a record that cannot be read."""


@dataclass(frozen=True)
class ReportData:
    """The trials of one sweep, and what they were to tell."""

    folder: Path
    space: SearchSpace
    rows: Sequence[Row]
    axes: Sequence[str]
    """What was varied, but for the seed, in the order of the search space."""
    waiting: int | None
    """Planned trials without a record; None where the plan cannot be made here (its data are elsewhere)."""
    left_out: int
    """Recorded trials that are not of the present plan."""

    @property
    def name(self) -> str:
        return self.space.name

    @cached_property
    def done(self) -> list[Row]:
        return [row for row in self.rows if row["status"] == "done"]

    @property
    def grouping(self) -> list[str]:
        """What tells one setting from another, beside the arm."""
        return list(dict.fromkeys([*_WHOLE, *self.axes]))

    @cached_property
    def settings(self) -> list[Setting]:
        """Every setting, finished or not, in the order of the search space's arms, then of what was removed."""
        found = settings(self.rows, self.grouping)
        arms = {arm.label: i for i, arm in enumerate(self.space.arms)}
        shares = [setting.point.get("target.sparsity") or 0.0 for setting in found]
        order = sorted(range(len(found)), key=lambda i: (arms.get(found[i].arm, len(arms)), shares[i], i))
        return [found[i] for i in order]

    @cached_property
    def candidates(self) -> list[Setting]:
        """The settings that may be called best: one lucky seed does not win against means of three."""
        pruned = [setting for setting in self.settings if not is_dense(setting)]
        most = max((len(setting.rows) for setting in pruned), default=0)
        return [setting for setting in pruned if len(setting.rows) >= max(1, min(FEWEST_SEEDS, most))]

    @cached_property
    def names(self) -> Names:
        return Names(self.settings, self.axes)

    @cached_property
    def networks(self) -> list[tuple[str, str]]:
        """Model and data, each pair once."""
        return list(dict.fromkeys((str(row["model"]), str(row["data"])) for row in self.rows))

    @property
    def metric(self) -> str:
        """What the sweep is about: the test accuracy where it is an objective, else the first objective."""
        return "accuracy" if "accuracy" in self.space.objectives else next(iter(self.space.objectives))

    @property
    def direction(self) -> Literal["max", "min"]:
        return self.space.objectives[self.metric]

    @cached_property
    def choice(self) -> str:
        """What settings are chosen by: never the test images, where there is a validation split."""
        seen = any(row.get("val_accuracy") is not None for row in self.done)
        return "val_accuracy" if self.metric == "accuracy" and seen else self.metric

    def view(self, name: str) -> pa.Table:
        """``epochs`` or ``layers`` of the reported trials, with the number of their setting, ``setting``."""
        path = self.folder / "parquet" / f"{name}.parquet"
        with pq.ParquetFile(path) as file:
            table = file.read()
        number = {row["trial_id"]: i for i, setting in enumerate(self.settings) for row in setting.rows}
        ids = pa.array(list(number), type=pa.string())
        position = pc.index_in(table["trial_id"], value_set=ids)
        table = table.append_column("setting", pc.take(pa.array(list(number.values()), type=pa.int64()), position))
        return table.filter(pc.is_valid(table["setting"]))


def is_dense(setting: Setting) -> bool:
    """A control: nothing was to be removed."""
    return setting.point.get("target.sparsity") == 0


def gather(folder: Path) -> ReportData:
    """Everything recorded of a sweep; its Parquet views are brought up to date.

    Raises:
        Unreportable: no trial has ended, or a record cannot be read.
        SpecError: its ``searchspace.yaml`` cannot be used.
    """
    space = SearchSpace.load(folder / "searchspace.yaml")
    try:
        if (folder / "trials").is_dir():
            write_views(folder)
        rows: list[Row] = list(load_results(folder))
    except DamagedRecord as error:
        raise Unreportable("", str(error)) from None
    recorded = len(rows)
    waiting: int | None = None
    try:
        drawn = plan(space, folder)
        planned, to_draw = drawn.trials, drawn.to_draw
    except SpecError:
        planned, to_draw = (), 0
    by_id = {row["trial_id"]: row for row in rows}
    if any(trial.trial_id in by_id for trial in planned):
        labels = _labels(planned)
        rows = [_as_planned(by_id[t.trial_id], t, labels[t.trial_id]) for t in planned if t.trial_id in by_id]
        waiting = len(planned) + to_draw - len(rows)
    axes = _axes(space, rows)
    rows = _latest(rows, axes)
    if not rows:
        raise Unreportable(str(folder), "no trial has ended yet, there is nothing to report")
    return ReportData(folder, space, rows, axes, waiting, recorded - len(rows))


def _labels(planned: Sequence[PlannedTrial]) -> dict[str, str]:
    """The arm of every trial; of several arms with one label and one point, the later ones are numbered."""
    seen: dict[str, int] = {}
    labels = {}
    for trial in planned:
        key = json.dumps([trial.arm, trial.point], default=str)
        seen[key] = seen.get(key, 0) + 1
        labels[trial.trial_id] = trial.arm if seen[key] == 1 else f"{trial.arm} ({seen[key]})"
    return labels


def _as_planned(row: Row, trial: PlannedTrial, label: str) -> Row:
    """A trial recorded by an earlier sweep, under the arm and the axes of this one."""
    point = {name: value for name, value in flatten(trial.point).items() if axis_value(row, name) is None}
    return {**row, **point, "arm": label}


def _axes(space: SearchSpace, rows: Sequence[Row]) -> list[str]:
    """Dotted columns, and the fixed columns that an axis or an arm sets, ordered as in the search space."""
    named = [*space.axes, *(name for arm in space.arms for name in arm.axes)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    dotted = [name for name in columns if "." in name and any(row.get(name) is not None for row in rows)]
    varied = [n for n in ("model", "data", "retrain") if len({row.get(n) for row in rows}) > 1 or n in named]

    def place(name: str) -> int:
        return next((i for i, axis in enumerate(named) if name == axis or name.startswith(f"{axis}.")), len(named))

    return sorted(dict.fromkeys([*dotted, *varied]), key=place)


def _latest(rows: Sequence[Row], axes: Sequence[str]) -> list[Row]:
    """Of trials with the same setting and seed (the base was changed between two runs) the one that ended last."""
    names = [*_WHOLE, *axes, "seed"]
    found: dict[str, Row] = {}
    for row in rows:
        key = json.dumps([arm_of(row), *(axis_value(row, name) for name in names)], default=str)
        if key not in found or str(row.get("ended") or "") > str(found[key].get("ended") or ""):
            found[key] = row
    return list(found.values())
