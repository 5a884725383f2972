"""What searches and stoppers see of a trial: sizes, latencies and the validation split, never the test set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.records.records import Latency
from orchestrator.spec.errors import SpecError, join
from orchestrator.spec.result import LATENCY_METRICS, METRICS, TrialResult
from orchestrator.spec.search_space import SearchSpace, comparison
from orchestrator.sweep.space.arms import PlannedTrial

SIZES = tuple(name for name in METRICS if not name.endswith("accuracy") and name != "accuracy_drop")
"""What is known of a network right after the cut."""
VALIDATED = ("accuracy", "val_accuracy")
"""Objectives that stand for the accuracy on the validation split while decisions are made."""
_TEST_ALONE = ("dense_accuracy", "pruned_accuracy", "top5_accuracy")


@dataclass(frozen=True)
class Observation:
    """An ended trial as a search is told of it."""

    state: Literal["complete", "stopped", "failed"]
    values: tuple[float, ...] = ()
    """Of a complete trial, one an objective; of a stopped one, its last if there is one objective and it is known."""
    violations: Mapping[str, float] = field(default_factory=dict)
    """By constraint, how far beyond its bound, as a share of the bound; 0 or less where it holds."""
    share: float = 1.0
    """Of the trial's retraining that was done."""


@dataclass(frozen=True)
class EvaluatedTrial:
    """An ended trial of the search space and its observation."""

    trial: PlannedTrial
    observation: Observation


def observe(space: SearchSpace, result: TrialResult, latency: Latency | None) -> Observation:
    """What a search is told of an ended trial.

    A trial without one of the values asked for has failed as far as the search goes.
    """
    if result.status not in ("done", "stopped"):
        return Observation("failed")
    seen = seen_of(result, latency)
    values = tuple(seen[name] for name in space.objectives if math.isfinite(seen.get(name, math.nan)))
    broken = {name: violation(text, seen[name]) for name, text in space.constraints.items() if name in seen}
    whole = len(values) == len(space.objectives)
    if result.status == "stopped":
        last = values if whole and len(values) == 1 else ()
        return Observation("stopped", last, broken, result.stopped_at or 0.0)
    if not whole or len(broken) < len(space.constraints):
        return Observation("failed")
    return Observation("complete", values, broken)


def seen_of(result: TrialResult, latency: Latency | None) -> dict[str, float]:
    """The metrics of a trial as decisions may use them: accuracies are those on the validation split."""
    seen = {name: result.metrics[name] for name in SIZES if name in result.metrics}
    accuracy = result.metrics.get("val_accuracy")
    if accuracy is not None:
        seen |= dict.fromkeys(VALIDATED, accuracy)
        dense = [row.val_accuracy for row in result.epochs if row.stage == "baseline"]
        if dense:
            seen["accuracy_drop"] = dense[-1] - accuracy
    for name in LATENCY_METRICS:
        value = getattr(latency, name, None)
        if value is not None:
            seen[name] = value
    return seen


def violation(text: str, value: float) -> float:
    """How far a value breaks a constraint, as a share of its bound (of 1 where that is 0); above 0 if it does."""
    sign, bound = comparison(text)
    beyond = (value - bound if sign[0] == "<" else bound - value) / (abs(bound) or 1.0)
    return math.ulp(1.0) if beyond == 0 and len(sign) == 1 else beyond


def needs_latency(space: SearchSpace) -> bool:
    """An objective or a constraint is a latency, which is measured after the trial."""
    return any(name in LATENCY_METRICS for name in (*space.objectives, *space.constraints))


def check_seen(space: SearchSpace) -> None:
    """Refuse an adaptive search by a metric that only the test set gives."""
    for section, names in (("objectives", space.objectives), ("constraints", space.constraints)):
        for name in names:
            if name in _TEST_ALONE:
                raise SpecError(
                    join(section, name), f"{name!r} is of the test set, which decides nothing; use 'val_accuracy'"
                )
