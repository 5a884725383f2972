"""Load what a report is made from: the trials of a sweep's current plan, grouped into settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.analysis.aggregate import Setting, arm_of, axis_value, group_settings
from orchestrator.analysis.load import load_results
from orchestrator.metrics.table import extra_metric
from orchestrator.plugins import UnknownName
from orchestrator.records.parquet import write_views
from orchestrator.records.records import DamagedRecord
from orchestrator.report.formatting import MetricLike, Names
from orchestrator.spec.errors import SpecError
from orchestrator.spec.metric import METRICS, Metric
from orchestrator.spec.search_space import SearchSpace
from orchestrator.spec.trial import flatten
from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.sweep.planning import PlannedTrial, plan

Row = Mapping[str, Any]

_ALWAYS_GROUPED = ("model", "data", "retrain", "target.quantity", "target.sparsity")
"""Parameters that separate settings in every sweep, varied or not, because arms may differ in them."""


FEWEST_SEEDS = 3
"""Number of seeds below which the standard deviation over seeds is too uncertain to rank by."""


class Unreportable(SpecError):
    """A sweep without an ended trial, or with an unreadable record."""


@dataclass(frozen=True)
class ReportData:
    """The trials of one sweep and its search space."""

    folder: Path
    space: SearchSpace
    rows: Sequence[Row]
    axes: Sequence[str]
    """Names of the varied parameters except the seed, in the order of the search space."""
    waiting: int | None
    """Number of planned trials without a record; None if the plan cannot be made on this machine (data missing)."""
    left_out: int
    """Number of recorded trials that are not in the current plan."""

    @property
    def name(self) -> str:
        return self.space.name

    @cached_property
    def done(self) -> list[Row]:
        return [row for row in self.rows if row["status"] == "done"]

    @property
    def grouping(self) -> list[str]:
        """Names of the parameters that, with the arm, identify a setting."""
        return list(dict.fromkeys([*_ALWAYS_GROUPED, *self.axes]))

    @cached_property
    def settings(self) -> list[Setting]:
        """All settings, finished or not, ordered by arm as in the search space, then by target sparsity."""
        arms = {arm.label: i for i, arm in enumerate(self.space.arms)}

        def position(setting: Setting) -> tuple[int, float]:
            return arms.get(setting.arm, len(arms)), setting.point.get("target.sparsity") or 0.0

        return sorted(group_settings(self.rows, self.grouping), key=position)

    @cached_property
    def candidates(self) -> list[Setting]:
        """Settings that may be ranked: those with enough seeds, so that one lucky seed does not beat means of three."""
        pruned = [setting for setting in self.settings if not is_dense(setting)]
        most = max((len(setting.rows) for setting in pruned), default=0)
        return [setting for setting in pruned if len(setting.rows) >= max(1, min(FEWEST_SEEDS, most))]

    @cached_property
    def names(self) -> Names:
        return Names(self.settings, self.axes)

    @cached_property
    def networks(self) -> list[tuple[str, str]]:
        """Distinct pairs of model and data set."""
        return list(dict.fromkeys((str(row["model"]), str(row["data"])) for row in self.rows))

    @property
    def metric(self) -> str:
        """The metric that the report compares: test accuracy if it is an objective, else the first objective."""
        return "accuracy" if "accuracy" in self.space.objectives else next(iter(self.space.objectives))

    @cached_property
    def metric_rows(self) -> Mapping[str, Metric]:
        """Rows of all metrics of the sweep by column, except added ones whose module is not on this machine."""
        rows = dict(METRICS)
        for name in self.space.metrics:
            with suppress(UnknownName):
                row = extra_metric(name)
                rows[row.name] = row
        return rows

    def row_of(self, metric: str) -> MetricLike:
        """Return the row by which a metric is formatted; the name itself if it has none."""
        return self.metric_rows.get(metric, metric)

    @property
    def metric_row(self) -> MetricLike:
        """The row of `metric`."""
        return self.row_of(self.metric)

    @property
    def direction(self) -> Literal["max", "min"]:
        return self.space.objectives[self.metric]

    @cached_property
    def choice(self) -> str:
        """The metric that settings are ranked by: validation accuracy instead of test accuracy if it was recorded."""
        validated = any(row.get("val_accuracy") is not None for row in self.done)
        return "val_accuracy" if self.metric == "accuracy" and validated else self.metric

    def view(self, name: str) -> pa.Table:
        """Return the Parquet table ``epochs`` or ``layers`` of the reported trials.

        Its additional column ``setting`` is the index of the trial's setting in `settings`.
        """
        path = SweepPaths(self.folder).view(name)
        with pq.ParquetFile(path) as file:
            table = file.read()
        number = {row["trial_id"]: i for i, setting in enumerate(self.settings) for row in setting.rows}
        ids = pa.array(list(number), type=pa.string())
        position = pc.index_in(table["trial_id"], value_set=ids)
        table = table.append_column("setting", pc.take(pa.array(list(number.values()), type=pa.int64()), position))
        return table.filter(pc.is_valid(table["setting"]))


def is_dense(setting: Setting) -> bool:
    """Return whether the setting is a dense control: its target sparsity is 0."""
    return setting.point.get("target.sparsity") == 0


def load_report_data(store: Store, folder: Path) -> ReportData:
    """Return everything recorded of a sweep, after updating its Parquet views.

    Args:
        store: the store.
        folder: the sweep's folder in it.

    Raises:
        Unreportable: no trial has ended, or a record cannot be read.
        SpecError: the ``searchspace.yaml`` in the folder is invalid.
    """
    space = SearchSpace.load(SweepPaths(folder).searchspace)
    try:
        if SweepPaths(folder).trials.is_dir():
            write_views(store, folder)
        rows: list[Row] = list(load_results(folder))
    except DamagedRecord as error:
        raise Unreportable("", str(error)) from None
    recorded = len(rows)
    waiting: int | None = None
    try:
        current = plan(space, folder)
        planned, to_draw = current.trials, current.to_draw
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
    """Return the arm label of each trial, numbering the later of several arms with the same label and point."""
    counts: dict[str, int] = {}
    labels = {}
    for trial in planned:
        key = json.dumps([trial.arm, trial.point], default=str)
        counts[key] = counts.get(key, 0) + 1
        labels[trial.trial_id] = trial.arm if counts[key] == 1 else f"{trial.arm} ({counts[key]})"
    return labels


def _as_planned(row: Row, trial: PlannedTrial, label: str) -> Row:
    """Return a row with the arm and axes of the current plan, for a trial that an earlier sweep recorded."""
    point = {name: value for name, value in flatten(trial.point).items() if axis_value(row, name) is None}
    return {**row, **point, "arm": label}


def _axes(space: SearchSpace, rows: Sequence[Row]) -> list[str]:
    """Return the varied columns: dotted ones, and fixed ones that an axis or an arm sets, in search-space order."""
    named = [*space.axes, *(name for arm in space.arms for name in arm.axes)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    dotted = [name for name in columns if "." in name and any(row.get(name) is not None for row in rows)]
    varied = [n for n in ("model", "data", "retrain") if len({row.get(n) for row in rows}) > 1 or n in named]

    def position(name: str) -> int:
        return next((i for i, axis in enumerate(named) if name == axis or name.startswith(f"{axis}.")), len(named))

    return sorted(dict.fromkeys([*dotted, *varied]), key=position)


def _latest(rows: Sequence[Row], axes: Sequence[str]) -> list[Row]:
    """Keep the trial that ended last where several have the same setting and seed (the base changed between runs)."""
    names = [*_ALWAYS_GROUPED, *axes, "seed"]
    latest: dict[str, Row] = {}
    for row in rows:
        key = json.dumps([arm_of(row), *(axis_value(row, name) for name in names)], default=str)
        if key not in latest or str(row.get("ended") or "") > str(latest[key].get("ended") or ""):
            latest[key] = row
    return list(latest.values())
