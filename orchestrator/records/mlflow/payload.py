"""The values of a trial's MLflow run, computed from the record alone."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from datetime import UTC, datetime

from orchestrator.records.records import Latency
from orchestrator.spec.metric import LATENCY_METRICS
from orchestrator.spec.redacting import redacted
from orchestrator.spec.result import LayerRow, TrialResult
from orchestrator.spec.trial import flatten

Point = tuple[str, float, int, int]
"""Name, value, time (milliseconds since 1970) and step."""

_CURVES = ("lr", "train_loss", "train_accuracy", "val_accuracy")
_LONGEST_NAME = 250
_LONGEST_VALUE = 6000
_LONGEST_TAG = 5000


def run_metrics(result: TrialResult) -> list[Point]:
    """Return final metrics at step 0 and the curves ``<stage>/<quantity>`` at their epochs; finite values only.

    Where a stage ran several times (iterative pruning retrains after each step) its curves continue, as a chart would
    draw them over one another otherwise. Times are the record's, so that logging a record twice adds nothing.
    """
    started = milliseconds(result.started) or 0
    ended = max(milliseconds(result.ended) or 0, started)
    final = result.metrics | {f"seconds_{stage}": value for stage, value in result.seconds.items()}
    if result.achieved is not None:
        final["achieved_sparsity"] = result.achieved
    points = [(metric_name(name), value, ended, 0) for name, value in final.items()]
    elapsed = 0.0
    last: dict[str, int] = {}
    begun: dict[str, int] = {}
    for row in result.epochs:
        step = begun.get(row.stage, 0) + row.epoch
        if step <= last.get(row.stage, -1):
            begun[row.stage] = last[row.stage] + 1
            step = begun[row.stage] + row.epoch
        last[row.stage] = step
        elapsed += row.seconds if math.isfinite(row.seconds) else 0.0
        # A stage from the cache has the seconds it once took, which may be more than this trial's.
        time = min(started + int(1000 * elapsed), ended)
        points += [(metric_name(f"{row.stage}/{curve}"), getattr(row, curve), time, step) for curve in _CURVES]
    return [point for point in points if math.isfinite(point[1])]


def latency_values(latency: Latency | None) -> dict[str, float]:
    """Return the measured latencies by name; finite values only."""
    values = {name: getattr(latency, name, None) for name in LATENCY_METRICS}
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}


def latency_metrics(latency: Latency | None, result: TrialResult) -> list[Point]:
    """Return the latencies at the time of their measurement, else at the end of the trial."""
    if latency is None:
        return []
    time = milliseconds(latency.measured) or milliseconds(result.ended) or 0
    return [(name, value, time, 0) for name, value in latency_values(latency).items()]


def run_parameters(result: TrialResult) -> dict[str, str]:
    """Return the trial's parameters; the point adds values that are defaults, which the spec leaves out."""
    parameters = flatten(result.point) | result.parameters()
    texts = {name: v if isinstance(v, str) else json.dumps(v, sort_keys=True) for name, v in parameters.items()}
    return {metric_name(name): redacted(text)[:_LONGEST_VALUE] for name, text in texts.items()}


def run_tags(result: TrialResult) -> dict[str, str]:
    """Return status, error and note; the tags of the run's identity are written with its creation."""
    tags = {"status": result.status, "note": result.note}
    if result.failed:
        tags["error"] = result.error or result.status
    return {name: redacted(text)[:_LONGEST_TAG] for name, text in tags.items() if text}


def layers_csv(layers: list[LayerRow]) -> str:
    """Return the layers as CSV with a header."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(LayerRow.model_fields)
    table.writerows([getattr(row, name) for name in LayerRow.model_fields] for row in layers)
    return text.getvalue()


def milliseconds(moment: str) -> int | None:
    """Convert ISO 8601 (without a zone: UTC) to milliseconds since 1970; None for any other text."""
    try:
        time = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)


def metric_name(path: str) -> str:
    """Return a name with only the characters that MLflow allows."""
    return re.sub(r"[^\w\-. :/]", "_", path)[:_LONGEST_NAME]
