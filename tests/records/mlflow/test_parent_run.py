"""What MLflow's page opens with: the sweep's own numbers, its description, a view of its runs."""

from __future__ import annotations

import json

import pytest

from orchestrator.records import write_result
from orchestrator.records.mlflow.view import MlflowView, tracking_uri
from orchestrator.records.views import ViewWriter
from orchestrator.storage.store import Store

SPACE = "name: sweep\nobjectives: {accuracy: max, params: min}\n"


@pytest.fixture
def client(out):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri(out))


def parent_of(client):
    experiment = client.get_experiment_by_name("sweep")
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`prunesweep.role` = 'parent'")
    return experiment, parent


def write(out, *results):
    for result in results:
        write_result(Store(out), out / "sweep" / "trials" / result.trial_id, result)
    with ViewWriter(Store(out), "sweep", question="Which?", searchspace=SPACE) as writer:
        assert writer.close() == []


def test_the_parent_sums_the_sweep_up_and_doing_it_again_adds_nothing(out, make_result, client):
    good = make_result(0)
    small = make_result(1, metrics=make_result(1).metrics | {"val_accuracy": 0.7, "params": 100})
    failed = make_result(2, status="failed", error="out of memory", metrics={}, achieved=None)
    write(out, good, small, failed)
    experiment, parent = parent_of(client)
    expected = {"trials_done": 2, "trials_failed": 1, "trials_stopped": 0, "trials_diverged": 0, "front_size": 2}
    expected |= {"best_val_accuracy": 0.88, "best_accuracy": 0.875, "dense_accuracy_mean": 0.9}
    assert parent.data.metrics == pytest.approx(expected)
    assert parent.data.tags["best_trial"] == good.trial_id
    children = {run.data.tags.get("trial_id"): run for run in client.search_runs([experiment.experiment_id])}
    note = parent.data.tags["mlflow.note.content"]
    for result in (good, small):
        address = f"#/experiments/{experiment.experiment_id}/runs/{children[result.trial_id].info.run_id}?"
        assert f"[{result.trial_id}]({address}" in note
    assert "2 done, 1 failed" in note

    write(out)
    assert len(client.get_metric_history(parent.info.run_id, "trials_done")) == 1
    another = make_result(3)
    write(out, another)
    assert parent_of(client)[1].data.metrics["trials_done"] == 3
    assert [point.value for point in client.get_metric_history(parent.info.run_id, "trials_done")] == [2, 3]


def test_a_sweep_has_its_description_before_anything_has_ended(out, client):
    MlflowView(out, "sweep", question="Which?", searchspace=SPACE).start_parent()
    experiment, parent = parent_of(client)
    assert parent.data.tags["mlflow.note.content"].startswith("**Which?**")
    assert experiment.tags["mlflow.note.content"].startswith("**Which?**")
    assert "viewStateShareKey=prunesweep" in experiment.tags["mlflow.note.content"]


def test_the_shared_view_ranks_by_validation_and_shows_the_objectives(out, make_result, client):
    write(out, make_result(0))
    view = json.loads(parent_of(client)[0].tags["mlflow.sharedViewState.prunesweep"])
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`val_accuracy`", False)
    assert "metrics.`params`" in view["selectedColumns"]
    assert len(view["selectedColumns"]) == len(set(view["selectedColumns"]))
    assert {chart["xaxis"]["key"] for chart in view["compareRunCharts"]} == {"macs", "params", "latency_ms"}


def test_the_report_leaves_descriptions_as_they_are(out, make_result, client):
    write(out, make_result(0))
    before = parent_of(client)[1].data.tags
    page = out / "index.html"
    page.write_text("<html>")
    MlflowView(out, "sweep").attach(page)
    assert parent_of(client)[1].data.tags == before


def test_runs_of_earlier_versions_get_names_and_descriptions(out, make_result, client):
    result = make_result(0)
    write(out, result)
    experiment, _ = parent_of(client)
    (run,) = client.search_runs([experiment.experiment_id], "tags.trial_id != ''")
    client.update_run(run.info.run_id, name="l1-abc")
    for tag in ("mlflow.note.content", "prunesweep.record"):
        client.delete_tag(run.info.run_id, tag)
    write(out)
    (again,) = client.search_runs([experiment.experiment_id], "tags.trial_id != ''")
    assert (again.info.run_id, again.info.run_name) == (run.info.run_id, "l1: l1_norm macs 50 % fine_tune seed 0")
    assert result.trial_id in again.data.tags["mlflow.note.content"]
