"""The experiment of a sweep and its parent run: created once, with descriptions and the sweep's own numbers."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.records.mlflow.client import find_runs
from orchestrator.records.mlflow.descriptions import experiment_description, sweep_description
from orchestrator.records.mlflow.trial_runs import NOTE
from orchestrator.records.mlflow.ui import PAGE, SHARE_KEY, view_tags
from orchestrator.records.sweep_summary import SweepSummary
from orchestrator.spec.redacting import redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BEST = "best_trial"


def run_url(experiment: str, run_id: str) -> str:
    """Return the URL of a run, relative to MLflow's page."""
    return f"#/experiments/{experiment}/runs/{run_id}?{PAGE}"


def open_experiment(client: MlflowClient, out: Path, sweep: str) -> str:
    """Return the id of the sweep's experiment, which is created or restored if need be."""
    experiment = client.get_experiment_by_name(sweep)
    if experiment is None:
        embedded = not os.environ.get("MLFLOW_TRACKING_URI")
        artifacts = (out / "mlartifacts" / sweep).resolve().as_uri() if embedded else None
        return str(client.create_experiment(sweep, artifact_location=artifacts))
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


def open_parent_run(client: MlflowClient, experiment: str, sweep: str, question: str, searchspace: str) -> str:
    """Return the id of the sweep's parent run, which is created and described if there is none."""
    parents = find_runs(client, experiment, "tags.`prunesweep.role` = 'parent'")
    if parents:
        parent = min(parents, key=lambda run: (run.info.start_time, run.info.run_id))
    else:
        parent = client.create_run(experiment, tags={"prunesweep.role": "parent"}, run_name=sweep)
    run_id = str(parent.info.run_id)
    if NOTE not in parent.data.tags and (question or searchspace):
        _describe_experiment(client, experiment, sweep, question, {})
        client.set_tag(
            run_id, NOTE, sweep_description(question, None, lambda trial_id: None, _artifacts_url(experiment, run_id))
        )
    if searchspace:
        client.log_text(run_id, redacted(searchspace), "searchspace.yaml")
    return run_id


def update_summary(
    client: MlflowClient,
    experiment: str,
    parent: str,
    sweep: str,
    question: str,
    summary: SweepSummary,
    runs: Mapping[str, str],
) -> None:
    """Write a summary of the sweep into its experiment and its parent run; repeating it changes nothing.

    Args:
        client: MLflow's client.
        experiment: the experiment's id.
        parent: the parent run's id.
        sweep: the sweep's name.
        question: the question that the sweep answers.
        summary: the results so far.
        runs: trial id -> id of its run.
    """
    from mlflow.entities import Metric, RunTag

    def link(trial_id: str) -> str | None:
        return run_url(experiment, runs[trial_id]) if trial_id in runs else None

    _describe_experiment(client, experiment, sweep, question, summary.objectives)
    data = client.get_run(parent).data
    now = round(1000 * time.time())
    changed = {
        name: value
        for name, value in summary.metrics().items()
        if name not in data.metrics or not math.isclose(value, data.metrics[name])
    }
    tags = {NOTE: sweep_description(question, summary, link, _artifacts_url(experiment, parent))}
    if summary.best is not None:
        tags[_BEST] = summary.best["trial_id"]
    elif _BEST in data.tags:
        client.delete_tag(parent, _BEST)
    new_tags = [RunTag(name, text) for name, text in tags.items() if data.tags.get(name) != text]
    if changed or new_tags:
        client.log_batch(parent, [Metric(name, value, now, 0) for name, value in changed.items()], [], new_tags)


def _describe_experiment(
    client: MlflowClient, experiment: str, sweep: str, question: str, objectives: Mapping[str, str]
) -> None:
    view = f"#/experiments/{experiment}/runs?{PAGE}&viewStateShareKey={SHARE_KEY}"
    tags = client.get_experiment(experiment).tags
    for name, text in (view_tags(objectives) | {NOTE: experiment_description(question, sweep, view)}).items():
        if tags.get(name) != text:
            client.set_experiment_tag(experiment, name, text)


def _artifacts_url(experiment: str, run_id: str) -> str:
    return f"#/experiments/{experiment}/runs/{run_id}/artifacts?{PAGE}"
