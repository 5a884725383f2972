"""Rows of all metrics that a search space may use: those of every trial, and metrics of the user's own."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.plugins import Registry, UnknownName, UnusablePlugin
from orchestrator.spec.errors import SpecError, join
from orchestrator.spec.metric import METRICS, Metric
from orchestrator.spec.result import TrialResult
from orchestrator.spec.trial import TrialSpec

EXTRA_METRICS = Registry(
    kind="metric",
    group="orchestrator.metrics",
    table={},
    open_names=True,
    base="orchestrator.metrics.extra:ExtraMetric",
)
"""Metrics that installed packages add; a search space may also name one as ``module:Class``."""

_VIEW_COLUMNS = (
    "sweep",
    "target_quantity",
    "target_sparsity",
    "achieved_sparsity",
    "latency_device",
    "latency_host",
    "latency_batch_size",
    "latency_measured",
)
_RESERVED = frozenset({*_VIEW_COLUMNS, *TrialResult.model_fields, *TrialSpec.model_fields})
"""Fixed columns of ``trials.parquet`` that are no metrics; those of the stages' seconds begin with ``seconds_``."""


def extra_metric(name: str) -> Metric:
    """Return the row of a metric as its source states it, without importing it.

    Raises:
        UnknownName: there is none, or its source does not show that it derives from `ExtraMetric`.
    """
    description = EXTRA_METRICS.describe(name)
    row = description.attributes
    if not {"column", "unit", "higher_is_better", "split", "label"} <= row.keys():
        raise UnusablePlugin(f"the source of metric {name!r} does not show that it inherits {EXTRA_METRICS.base}")
    column = row["column"] or name.rpartition(":")[2]
    return Metric(
        name=column,
        dtype="float",
        unit=row["unit"],
        higher_is_better=row["higher_is_better"],
        split=row["split"],
        known_after="retrain",
        label=row["label"] or column.replace("_", " "),
        doc=description.summary,
    )


def metric_rows(extra: Sequence[str] = ()) -> dict[str, Metric]:
    """Return the rows by column: those of every trial, then the metrics that a search space names.

    Raises:
        SpecError: an unknown metric, or a column that exists already.
    """
    rows = dict(METRICS)
    for i, name in enumerate(extra):
        try:
            row = extra_metric(name)
        except UnknownName as error:
            raise SpecError(join("metrics", i), str(error)) from None
        if not row.name.isidentifier() or row.name in _RESERVED or row.name.startswith("seconds_"):
            raise SpecError(join("metrics", i), f"{row.name!r} cannot be the name of a column, found it in {name!r}")
        if row.name in rows:
            raise SpecError(join("metrics", i), f"there is a metric {row.name!r} already, found {name!r}")
        rows[row.name] = row
    return rows


def extra_columns(extra: Sequence[str]) -> list[str]:
    """Return the columns of the metrics that a search space names; a module that is not here is taken by its name."""
    columns = []
    for name in extra:
        try:
            columns.append(extra_metric(name).name)
        except UnknownName:
            columns.append(name.rpartition(":")[2])
    return columns
