"""The summary of a sweep: counts, the best trial, the dense networks, the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, get_args

from orchestrator.metrics.pareto import front
from orchestrator.spec.result import Status

Row = Mapping[str, Any]
"""One trial, columns as in ``trials.parquet``."""

_RANKED_BY = "val_accuracy"
_SIZE = "macs"


@dataclass(frozen=True)
class SweepSummary:
    """Counts, the best trial and the front, chosen by validation accuracy so that test accuracy stays unbiased."""

    counts: Mapping[Status, int]
    best: Row | None
    """The finished trial with the highest validation accuracy."""
    front: Sequence[Row]
    """Finished trials that no other trial of the same network and data dominates, smallest first."""
    objectives: Mapping[str, Literal["max", "min"]]
    """Objectives of the front, by metric."""
    dense_accuracy: float | None
    """Mean of the dense networks' test accuracies, each network once."""

    def metrics(self) -> dict[str, float]:
        """Return the numbers of the summary that are known, by name."""
        values: dict[str, float] = {f"trials_{status}": count for status, count in self.counts.items()}
        values["front_size"] = len(self.front)
        if self.best is not None:
            values["best_val_accuracy"] = self.best[_RANKED_BY]
            if _is_number(self.best.get("accuracy")):
                values["best_accuracy"] = self.best["accuracy"]
        if self.dense_accuracy is not None:
            values["dense_accuracy_mean"] = self.dense_accuracy
        return values


def summary_of(rows: Sequence[Row], objectives: Mapping[str, Literal["max", "min"]]) -> SweepSummary:
    """Summarize the rows of ``trials.parquet``.

    Args:
        rows: one a trial.
        objectives: those of the search space. ``accuracy`` is taken of the validation split. A single objective is
            paired with MACs (MACs with accuracy), because one objective has no front.
    """
    ranked = {_RANKED_BY if name == "accuracy" else name: way for name, way in objectives.items()}
    if len(ranked) < 2:
        ranked |= {_RANKED_BY: "max"} if _SIZE in ranked else {_SIZE: "min"}
    done = [row for row in rows if row["status"] == "done"]
    on_front: list[Row] = []
    for network in sorted({(row["model"], row["data"]) for row in done}):
        same = [row for row in done if (row["model"], row["data"]) == network]
        on_front += [same[i] for i in front([[_cost(row.get(n), w) for n, w in ranked.items()] for row in same])]
    size = _SIZE if _SIZE in ranked else next(iter(ranked))
    chosen = [row for row in done if _is_number(row.get(_RANKED_BY))]
    dense = {
        (row["model"], row["data"], row.get("seed"), row["dense_accuracy"])
        for row in rows
        if _is_number(row.get("dense_accuracy"))
    }
    return SweepSummary(
        counts={status: sum(row["status"] == status for row in rows) for status in get_args(Status)},
        best=max(chosen, key=lambda row: (row[_RANKED_BY], row["trial_id"])) if chosen else None,
        front=sorted(on_front, key=lambda row: (row[size], row["trial_id"])),
        objectives=ranked,
        dense_accuracy=fmean(key[-1] for key in dense) if dense else None,
    )


def spread(rows: Sequence[Row], most: int) -> list[Row]:
    """Return at most `most` of the rows, evenly spread over their order, the first and the last included."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def _cost(value: Any, way: str) -> float:
    return (-value if way == "max" else value) if _is_number(value) else math.nan


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
