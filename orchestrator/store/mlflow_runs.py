"""The child runs of a sweep in MLflow: what it has already of each trial, and how a run is filled from a record."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from orchestrator.spec.redacting import redacted_values
from orchestrator.spec.result import LATENCY_METRICS, TrialResult
from orchestrator.store.mlflow_client import find_runs
from orchestrator.store.records import Latency
from orchestrator.store.run_values import (
    latency_metrics,
    latency_values,
    layers_csv,
    run_metrics,
    run_parameters,
    run_tags,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

NOTE = "mlflow.note.content"
"""The tag that MLflow's page shows as a description, in Markdown."""

_LARGEST_ARTIFACT = 10 * 2**20
"""Bytes of one artifact of a trial. Ten thousand trials at a megabyte each fill a server; what is larger stays in the
record alone."""
# Limits of one log_batch call: 1000 metrics, 100 parameters, 1000 in all (mlflow.utils.validation).
_MOST_METRICS = 850
_MOST_PARAMS = 100


@dataclass
class Child:
    """What MLflow already has of a trial."""

    run_id: str
    name: str = ""
    status: str = "RUNNING"
    end_time: int | None = None
    params: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    latency: dict[str, float] = field(default_factory=dict)

    def shows(self, status: str, ended: int | None) -> bool:
        """It is final, says this, and was not written before runs had descriptions."""
        return self.status == status and (ended is None or self.end_time == ended) and NOTE in self.tags

    def lacks(self, latency: Latency | None) -> bool:
        """Something was measured that it does not say."""
        # Not equality: a database other than SQLite may round.
        return any(
            name not in self.latency or not math.isclose(self.latency[name], value)
            for name, value in latency_values(latency).items()
        )


def find_children(client: MlflowClient, experiment: str, parent: str) -> dict[str, Child]:
    """The child run of each trial. Where a lost reply made a second one, the older stays."""
    found: dict[str, Child] = {}
    runs = find_runs(client, experiment, f"tags.`mlflow.parentRunId` = '{parent}'")
    for run in sorted(runs, key=lambda run: (run.info.status == "RUNNING", run.info.start_time, run.info.run_id)):
        trial_id = run.data.tags.get("trial_id")
        if trial_id is None:
            continue
        if trial_id in found:
            client.delete_run(run.info.run_id)
            continue
        found[trial_id] = Child(
            run_id=run.info.run_id,
            name=run.info.run_name,
            status=run.info.status,
            end_time=run.info.end_time,
            params=frozenset(run.data.params),
            tags=frozenset(run.data.tags),
            latency={name: run.data.metrics[name] for name in LATENCY_METRICS if name in run.data.metrics},
        )
    return found


def fill(client: MlflowClient, child: Child, result: TrialResult, latency: Latency | None, note: str) -> list[str]:
    """Everything but the final status; returns the artifacts that are too large."""
    from mlflow.entities import Metric, Param, RunTag

    tags = run_tags(result) | {NOTE: note}
    for name in (child.tags & {"error", "note", "left_out"}) - tags.keys():
        client.delete_tag(child.run_id, name)
    metrics = [Metric(*point) for point in run_metrics(result) + latency_metrics(latency, result)]
    # MLflow refuses to change a parameter; what a run has already it keeps.
    params = [Param(name, text) for name, text in run_parameters(result).items() if name not in child.params]
    labels = [RunTag(name, text) for name, text in tags.items()]
    batches = zip_longest(_chunks(metrics, _MOST_METRICS), _chunks(params, _MOST_PARAMS), [labels], fillvalue=())
    for some_metrics, some_params, some_tags in batches:
        client.log_batch(child.run_id, some_metrics, some_params, some_tags)
    left_out: list[str] = []
    for name, text in _artifacts(result):
        size = len(text.encode())
        if size > _LARGEST_ARTIFACT:
            left_out.append(f"{name} ({size / 2**20:.1f} MiB)")
        else:
            client.log_text(child.run_id, text, name)
    if left_out:
        client.set_tag(child.run_id, "left_out", ", ".join(left_out))
    child.tags |= tags.keys()
    return left_out


def _artifacts(result: TrialResult) -> Iterator[tuple[str, str]]:
    if result.layers:
        yield "layers.csv", layers_csv(result.layers)
    if result.analysis:
        yield "analysis.json", json.dumps(redacted_values(result.analysis), indent=1)


def _chunks(values: list[Any], size: int) -> list[list[Any]]:
    return [values[i : i + size] for i in range(0, len(values), size)]
