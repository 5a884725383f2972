"""The experiment of a sweep and its parent run: made once, described, and given the sweep's own numbers."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.records.mlflow.client import find_runs
from orchestrator.records.mlflow.descriptions import experiment_note, sweep_note
from orchestrator.records.mlflow.trial_runs import NOTE
from orchestrator.records.mlflow.ui import PAGE, SHARE_KEY, view_tags
from orchestrator.records.sweep_summary import SweepSummary
from orchestrator.spec.redacting import redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BEST = "best_trial"


def run_address(experiment: str, run_id: str) -> str:
    """Of a run within MLflow's page, wherever that is served."""
    return f"#/experiments/{experiment}/runs/{run_id}?{PAGE}"


def experiment_of(client: MlflowClient, out: Path, sweep: str) -> str:
    """The id of the sweep's experiment, which is made, or taken out of the bin, where need be."""
    found = client.get_experiment_by_name(sweep)
    if found is None:
        embedded = not os.environ.get("MLFLOW_TRACKING_URI")
        artifacts = (out / "mlartifacts" / sweep).resolve().as_uri() if embedded else None
        return str(client.create_experiment(sweep, artifact_location=artifacts))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def parent_of(client: MlflowClient, experiment: str, sweep: str, question: str, searchspace: str) -> str:
    """The id of the sweep's parent run, which is made and described where there is none."""
    parents = find_runs(client, experiment, "tags.`prunesweep.role` = 'parent'")
    if parents:
        parent = min(parents, key=lambda run: (run.info.start_time, run.info.run_id))
    else:
        parent = client.create_run(experiment, tags={"prunesweep.role": "parent"}, run_name=sweep)
    run_id = str(parent.info.run_id)
    if NOTE not in parent.data.tags and (question or searchspace):
        _describe_experiment(client, experiment, sweep, question, {})
        client.set_tag(run_id, NOTE, sweep_note(question, None, lambda trial_id: None, _artifacts(experiment, run_id)))
    if searchspace:
        client.log_text(run_id, redacted(searchspace), "searchspace.yaml")
    return run_id


def describe(
    client: MlflowClient,
    experiment: str,
    parent: str,
    sweep: str,
    question: str,
    summary: SweepSummary,
    runs: Mapping[str, str],
) -> None:
    """Give the experiment and the parent run what the sweep has found so far; doing it again adds nothing.

    Args:
        client: of MLflow.
        experiment: the experiment's id.
        parent: the parent run's id.
        sweep: the sweep's name.
        question: what it is to answer.
        summary: what it has found.
        runs: trial id -> id of its run.
    """
    from mlflow.entities import Metric, RunTag

    def link(trial_id: str) -> str | None:
        return run_address(experiment, runs[trial_id]) if trial_id in runs else None

    _describe_experiment(client, experiment, sweep, question, summary.objectives)
    has = client.get_run(parent).data
    now = round(1000 * time.time())
    changed = {
        name: value
        for name, value in summary.metrics().items()
        if name not in has.metrics or not math.isclose(value, has.metrics[name])
    }
    tags = {NOTE: sweep_note(question, summary, link, _artifacts(experiment, parent))}
    if summary.best is not None:
        tags[_BEST] = summary.best["trial_id"]
    elif _BEST in has.tags:
        client.delete_tag(parent, _BEST)
    new_tags = [RunTag(name, text) for name, text in tags.items() if has.tags.get(name) != text]
    if changed or new_tags:
        client.log_batch(parent, [Metric(name, value, now, 0) for name, value in changed.items()], [], new_tags)


def _describe_experiment(
    client: MlflowClient, experiment: str, sweep: str, question: str, objectives: Mapping[str, str]
) -> None:
    view = f"#/experiments/{experiment}/runs?{PAGE}&viewStateShareKey={SHARE_KEY}"
    has = client.get_experiment(experiment).tags
    for name, text in (view_tags(objectives) | {NOTE: experiment_note(question, sweep, view)}).items():
        if has.get(name) != text:
            client.set_experiment_tag(experiment, name, text)


def _artifacts(experiment: str, run_id: str) -> str:
    return f"#/experiments/{experiment}/runs/{run_id}/artifacts?{PAGE}"
