"""Observations of ended trials: sizes, latencies and the validation split, never the test split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.metrics.table import metric_rows
from orchestrator.records.records import Latency
from orchestrator.spec.constraint import violation
from orchestrator.spec.errors import SpecError, join
from orchestrator.spec.metric import LATENCY_METRICS, VALIDATED, Metric
from orchestrator.spec.result import TrialResult
from orchestrator.spec.search_space import SearchSpace
from orchestrator.sweep.space.arms import PlannedTrial


@dataclass(frozen=True)
class Observation:
    """What a search is told of an ended trial."""

    state: Literal["complete", "stopped", "failed"]
    values: tuple[float, ...] = ()
    """Of a complete trial, one per objective; of a stopped one, its last if there is one objective and it is known."""
    violations: Mapping[str, float] = field(default_factory=dict)
    """By constraint, the excess over its bound as a share of the bound; 0 or less where it holds."""
    share: float = 1.0
    """Share of the retraining that was done."""


@dataclass(frozen=True)
class EvaluatedTrial:
    """An ended trial of the search space and its observation."""

    trial: PlannedTrial
    observation: Observation


def observe(space: SearchSpace, result: TrialResult, latency: Latency | None) -> Observation:
    """Return what a search is told of an ended trial; one that lacks the value of an objective counts as failed."""
    if result.status not in ("done", "stopped"):
        return Observation("failed")
    known = decision_values(space, result, latency)
    values = tuple(known[name] for name in space.objectives if math.isfinite(known.get(name, math.nan)))
    violations = {name: violation(text, known[name]) for name, text in space.constraints.items() if name in known}
    complete = len(values) == len(space.objectives)
    if result.status == "stopped":
        last = values if complete and len(values) == 1 else ()
        return Observation("stopped", last, violations, result.stopped_at or 0.0)
    if not complete or len(violations) < len(space.constraints):
        return Observation("failed")
    return Observation("complete", values, violations)


def decision_values(space: SearchSpace, result: TrialResult, latency: Latency | None) -> dict[str, float]:
    """Return the metrics of a trial that decisions may use; accuracies are those on the validation split."""
    rows = metric_rows(space.metrics)
    values = {name: value for name, value in result.metrics.items() if name in rows and rows[name].split != "test"}
    accuracy = result.metrics.get("val_accuracy")
    if accuracy is not None:
        values |= dict.fromkeys(VALIDATED, accuracy)
        dense = [row.val_accuracy for row in result.epochs if row.stage == "baseline"]
        if dense:
            values["accuracy_drop"] = dense[-1] - accuracy
    for name in LATENCY_METRICS:
        value = getattr(latency, name, None)
        if value is not None:
            values[name] = value
    return values


def needs_latency(space: SearchSpace) -> bool:
    """Return whether an objective or a constraint is a latency, which is measured after the trial."""
    return any(name in LATENCY_METRICS for name in (*space.objectives, *space.constraints))


def check_decidable(space: SearchSpace, rows: Mapping[str, Metric]) -> None:
    """Refuse an adaptive search by a metric of the test split; raises :class:`SpecError`."""
    for section, names in (("objectives", space.objectives), ("constraints", space.constraints)):
        for name in names:
            if not rows[name].decides:
                raise SpecError(
                    join(section, name), f"{name!r} is of the test set, which decides nothing; use 'val_accuracy'"
                )
