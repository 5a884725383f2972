"""The child runs of a sweep in MLflow: what it has already of each trial, and how a run is filled from a record."""

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
"""The tag that MLflow's page shows as a description, in Markdown."""

RECORD = "prunesweep.record"
"""The tag that says which record a run shows, by its stamp: one that shows it still need not be compared with it."""
FINAL = frozenset({"FINISHED", "KILLED", "FAILED"})
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
    stamp: str | None = None
    """Of the record that it shows."""
    end_time: int | None = None
    params: frozenset[str] = frozenset()
    tags: dict[str, str] = field(default_factory=dict)
    latency: dict[str, float] = field(default_factory=dict)
    complete: bool = True
    """False where it was only listed: end, parameters, tags and latency are not known."""

    @property
    def final(self) -> bool:
        """Not what a killed driver left."""
        return self.status in FINAL

    def shows_record(self, stamp: str) -> bool:
        """It is final, and of the record with this stamp."""
        return self.final and self.stamp == stamp

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


def list_children(client: MlflowClient, uri: str, experiment: str, parent: str) -> dict[str, Child]:
    """The child run of each trial. Where a lost reply made a second one, the older stays."""
    found: dict[str, Child] = {}
    condition = f"tags.`mlflow.parentRunId` = '{parent}'"
    listed = list_runs(uri, experiment, parent, ("trial_id", RECORD))
    if listed is None:
        children = [
            (run.info.start_time, run.data.tags.get("trial_id"), _child(run))
            for run in find_runs(client, experiment, condition)
        ]
    else:
        children = [
            (run.started, run.tags[0], Child(run.run_id, status=run.status, stamp=run.tags[1], complete=False))
            for run in listed
        ]
    for _, trial_id, child in sorted(children, key=lambda one: (not one[2].final, one[0], one[2].run_id)):
        if trial_id is None:
            continue
        if trial_id in found:
            client.delete_run(child.run_id)
        else:
            found[trial_id] = child
    return found


def complete(client: MlflowClient, experiment: str, children: Iterable[Child]) -> dict[str, Child]:
    """The same with all that is known of them, by run id; at most a few hundred at once."""
    asked = [child.run_id for child in children]
    if not asked:
        return {}
    ids = ", ".join(f"'{run_id}'" for run_id in asked)
    return {run.info.run_id: _child(run) for run in find_runs(client, experiment, f"attributes.run_id IN ({ids})")}


def _child(run: Run) -> Child:
    return Child(
        run_id=run.info.run_id,
        name=run.info.run_name,
        status=run.info.status,
        stamp=run.data.tags.get(RECORD),
        end_time=run.info.end_time,
        params=frozenset(run.data.params),
        tags=dict(run.data.tags),
        latency={name: run.data.metrics[name] for name in LATENCY_METRICS if name in run.data.metrics},
    )


def fill(
    client: MlflowClient, child: Child, result: TrialResult, latency: Latency | None, tags: Mapping[str, str]
) -> list[str]:
    """Everything but the final status; returns the artifacts that are too large.

    Args:
        client: of MLflow.
        child: the trial's run, which is not final.
        result: the record.
        latency: what was measured of it.
        tags: what it is to be labelled with; what it has already is not sent again.
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
