"""The child runs of a sweep in MLflow, one a trial: listing them and filling them from records."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from orchestrator.records.mlflow.client import find_runs, list_runs
from orchestrator.records.mlflow.payload import (
    latency_metrics,
    latency_values,
    layers_csv,
    run_metrics,
    run_parameters,
)
from orchestrator.records.records import Latency
from orchestrator.spec.metric import LATENCY_METRICS
from orchestrator.spec.redacting import redacted_values
from orchestrator.spec.result import TrialResult

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

NOTE = "mlflow.note.content"
"""Tag that MLflow's page shows as the description, in Markdown."""

RECORD = "prunesweep.record"
"""Tag with the fingerprint of the record that a run shows: an equal one spares the comparison with the record."""
FINAL = frozenset({"FINISHED", "KILLED", "FAILED"})
_LARGEST_ARTIFACT = 10 * 2**20
"""Bytes of the largest artifact of a trial that MLflow receives; larger ones stay in the record. Ten thousand trials at
a megabyte each would fill a server."""
# Limits of one log_batch call: 1000 metrics, 100 parameters, 1000 in all (mlflow.utils.validation).
_MOST_METRICS = 850
_MOST_PARAMS = 100


@dataclass
class Child:
    """The state of a trial's run in MLflow."""

    run_id: str
    name: str = ""
    status: str = "RUNNING"
    fingerprint: str | None = None
    """Fingerprint of the record that the run shows."""
    end_time: int | None = None
    params: frozenset[str] = frozenset()
    tags: dict[str, str] = field(default_factory=dict)
    latency: dict[str, float] = field(default_factory=dict)
    complete: bool = True
    """False for a run that was only listed: end, parameters, tags and latency are unknown."""

    @property
    def final(self) -> bool:
        """Whether the run is complete, not left behind by a killed driver."""
        return self.status in FINAL

    def shows_record(self, fingerprint: str) -> bool:
        """Return whether the run is final and shows the record with this fingerprint."""
        return self.final and self.fingerprint == fingerprint

    def shows(self, status: str, ended: int | None) -> bool:
        """Return whether the run has this status and end, and a description, which runs of old releases lack."""
        return self.status == status and (ended is None or self.end_time == ended) and NOTE in self.tags

    def lacks(self, latency: Latency | None) -> bool:
        """Return whether the run lacks a value of the latency."""
        # Not equality: a database other than SQLite may round.
        return any(
            name not in self.latency or not math.isclose(self.latency[name], value)
            for name, value in latency_values(latency).items()
        )


def list_children(client: MlflowClient, uri: str, experiment: str, parent: str) -> dict[str, Child]:
    """Return the child run of each trial; of two that a lost reply made, the older is kept and the other deleted."""
    runs: dict[str, Child] = {}
    condition = f"tags.`mlflow.parentRunId` = '{parent}'"
    listed = list_runs(uri, experiment, parent, ("trial_id", RECORD))
    if listed is None:
        children = [
            (run.info.start_time, run.data.tags.get("trial_id"), _child(run))
            for run in find_runs(client, experiment, condition)
        ]
    else:
        children = [
            (run.started, run.tags[0], Child(run.run_id, status=run.status, fingerprint=run.tags[1], complete=False))
            for run in listed
        ]
    for _, trial_id, child in sorted(children, key=lambda entry: (not entry[2].final, entry[0], entry[2].run_id)):
        if trial_id is None:
            continue
        if trial_id in runs:
            client.delete_run(child.run_id)
        else:
            runs[trial_id] = child
    return runs


def load_details(client: MlflowClient, experiment: str, children: Iterable[Child]) -> dict[str, Child]:
    """Return listed runs with all their details, by run id; at most a few hundred at once."""
    run_ids = [child.run_id for child in children]
    if not run_ids:
        return {}
    ids = ", ".join(f"'{run_id}'" for run_id in run_ids)
    return {run.info.run_id: _child(run) for run in find_runs(client, experiment, f"attributes.run_id IN ({ids})")}


def _child(run: Run) -> Child:
    return Child(
        run_id=run.info.run_id,
        name=run.info.run_name,
        status=run.info.status,
        fingerprint=run.data.tags.get(RECORD),
        end_time=run.info.end_time,
        params=frozenset(run.data.params),
        tags=dict(run.data.tags),
        latency={name: run.data.metrics[name] for name in LATENCY_METRICS if name in run.data.metrics},
    )


def fill_run(
    client: MlflowClient, child: Child, result: TrialResult, latency: Latency | None, tags: Mapping[str, str]
) -> list[str]:
    """Write all but the final status of a run; return the artifacts that are too large.

    Args:
        client: MLflow's client.
        child: the trial's run, which is not final.
        result: the record.
        latency: the latency, if it was measured.
        tags: the tags of the run; those that it has already are not sent again.
    """
    from mlflow.entities import Metric, Param, RunTag

    for name in (child.tags.keys() & {"error", "note", "left_out"}) - tags.keys():
        client.delete_tag(child.run_id, name)
        del child.tags[name]
    metrics = [Metric(*point) for point in run_metrics(result) + latency_metrics(latency, result)]
    # MLflow refuses to change a parameter; what a run has already it keeps.
    params = [Param(name, text) for name, text in run_parameters(result).items() if name not in child.params]
    labels = [RunTag(name, text) for name, text in tags.items() if child.tags.get(name) != text]
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
    child.tags |= tags
    return left_out


def _artifacts(result: TrialResult) -> Iterator[tuple[str, str]]:
    if result.layers:
        yield "layers.csv", layers_csv(result.layers)
    if result.analysis:
        yield "analysis.json", json.dumps(redacted_values(result.analysis), indent=1)


def _chunks(values: list[Any], size: int) -> list[list[Any]]:
    return [values[i : i + size] for i in range(0, len(values), size)]
