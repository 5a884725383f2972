"""What a sweep has found so far, in a few values: counts, the best trial, the dense networks, the front."""

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

_JUDGED_BY = "val_accuracy"
_SIZE = "macs"


@dataclass(frozen=True)
class SweepSummary:
    """Trials are chosen by validation accuracy alone, so that their test accuracy stays an honest estimate."""

    counts: Mapping[Status, int]
    best: Row | None
    """The finished trial of the highest validation accuracy."""
    front: Sequence[Row]
    """Finished trials that no other trial of the same network and data beats in every objective, smallest first."""
    objectives: Mapping[str, Literal["max", "min"]]
    """Of the front."""
    dense_accuracy: float | None
    """Mean of the dense networks' test accuracies, each network once."""

    def metrics(self) -> dict[str, float]:
        """By name; what is not known is left out."""
        found: dict[str, float] = {f"trials_{status}": count for status, count in self.counts.items()}
        found["front_size"] = len(self.front)
        if self.best is not None:
            found["best_val_accuracy"] = self.best[_JUDGED_BY]
            if _is_number(self.best.get("accuracy")):
                found["best_accuracy"] = self.best["accuracy"]
        if self.dense_accuracy is not None:
            found["dense_accuracy_mean"] = self.dense_accuracy
        return found


def summary_of(rows: Sequence[Row], objectives: Mapping[str, Literal["max", "min"]]) -> SweepSummary:
    """Sum up the rows of ``trials.parquet``.

    Args:
        rows: one a trial.
        objectives: those of the search space; ``accuracy`` is judged on the validation split, and a single objective is
            set against MACs (MACs against accuracy), as one number has no front.
    """
    judged = {_JUDGED_BY if name == "accuracy" else name: way for name, way in objectives.items()}
    if len(judged) < 2:
        judged |= {_JUDGED_BY: "max"} if _SIZE in judged else {_SIZE: "min"}
    done = [row for row in rows if row["status"] == "done"]
    on_front: list[Row] = []
    for network in sorted({(row["model"], row["data"]) for row in done}):
        same = [row for row in done if (row["model"], row["data"]) == network]
        on_front += [same[i] for i in front([[_cost(row.get(n), w) for n, w in judged.items()] for row in same])]
    size = _SIZE if _SIZE in judged else next(iter(judged))
    chosen = [row for row in done if _is_number(row.get(_JUDGED_BY))]
    dense = {
        (row["model"], row["data"], row.get("seed"), row["dense_accuracy"])
        for row in rows
        if _is_number(row.get("dense_accuracy"))
    }
    return SweepSummary(
        counts={status: sum(row["status"] == status for row in rows) for status in get_args(Status)},
        best=max(chosen, key=lambda row: (row[_JUDGED_BY], row["trial_id"])) if chosen else None,
        front=sorted(on_front, key=lambda row: (row[size], row["trial_id"])),
        objectives=judged,
        dense_accuracy=fmean(key[-1] for key in dense) if dense else None,
    )


def spread(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many of the rows, evenly spread over their order, both ends among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def _cost(value: Any, way: str) -> float:
    return (-value if way == "max" else value) if _is_number(value) else math.nan


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
