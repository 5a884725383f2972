"""MLflow has exactly one finished child run a trial, whenever a driver was killed and however often it ran."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import multiprocessing
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlparse

import pytest

from orchestrator.records import Latency
from orchestrator.records.mlflow.view import MlflowFailure, MlflowView, tracking_uri

# Forked children have MLflow imported already; each of them would else take seconds to begin.
FORK = multiprocessing.get_context("fork")
LATENCY = Latency(latency_ms=2.0, latency_ms_std=0.1, dense_latency_ms=4.0, measured="2026-01-02T00:00:00+00:00")


def query(out, sql, *values):
    with contextlib.closing(sqlite3.connect(f"file:{out / 'mlflow.db'}?mode=ro", uri=True)) as connection:
        return connection.execute(sql, values).fetchall()


def children(out):
    """Trial id -> (status, run id) of every active run of a trial."""
    sql = """select t.value, r.status, r.run_uuid from runs r join tags t on t.run_uuid = r.run_uuid
             where t.key = 'trial_id' and r.lifecycle_stage = 'active'"""
    rows = query(out, sql)
    assert len({row[0] for row in rows}) == len(rows), "a trial has several runs"
    return {trial_id: (status, run) for trial_id, status, run in rows}


def of_run(out, table, run):
    return dict(query(out, f"select key, value from {table} where run_uuid = ?", run))


def parents(out):
    sql = "select run_uuid from tags where key = 'prunesweep.role' and value = 'parent'"
    return [run for (run,) in query(out, sql)]


def fork(function, *arguments):
    process = FORK.Process(target=function, args=arguments)
    process.start()
    return process


def sync_until_killed_at(call, out, results):
    from mlflow import MlflowClient

    def killed(*_arguments, **_named):
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(MlflowClient, call, killed)
    MlflowView(out, "sweep").sync(results)


def test_a_run_shows_what_the_record_says(out, make_result):
    point = {"target.sparsity": 0.5, "retrain.restarts": [1, 2], "long": "x" * 7000}
    result = make_result(0, point=point)
    view = MlflowView(out, "sweep", question="Which?", searchspace="name: sweep\n")
    assert view.sync([result], {result.trial_id: LATENCY}) == 1
    report = out / "index.html"
    report.write_text("<html>")
    view.attach(report)
    view.finish_parent()

    ((status, run),) = children(out).values()
    assert status == "FINISHED"
    (parent,) = parents(out)
    tags = of_run(out, "tags", run)
    assert tags["mlflow.parentRunId"] == parent
    assert tags["mlflow.runName"] == f"l1: l1_norm macs 50 % fine_tune restarts=[1, 2] long={'x' * 27}... seed 0"
    assert result.trial_id in tags["mlflow.note.content"]
    assert f"#/experiments/1/runs/{parent}?" in tags["mlflow.note.content"]
    params = of_run(out, "params", run)
    for name, value in result.parameters().items():
        assert params[name] == (value if isinstance(value, str) else json.dumps(value))
    assert params["retrain.restarts"] == "[1, 2]"
    assert len(params["long"]) == 6000
    metrics = of_run(out, "latest_metrics", run)
    expected = result.metrics | {"seconds_baseline": 10.0, "seconds_retrain": 4.5, "achieved_sparsity": 0.5}
    expected |= {"latency_ms": 2.0, "latency_ms_std": 0.1, "dense_latency_ms": 4.0}
    assert expected.items() <= metrics.items()
    curve = query(out, "select step, value from metrics where key = 'retrain/val_accuracy' order by step")
    assert curve == [(row.epoch, row.val_accuracy) for row in result.epochs]
    start, end = query(out, "select start_time, end_time from runs where run_uuid = ?", run)[0]
    assert end - start == 60_000

    def artifacts(run):
        uri = query(out, "select artifact_uri from runs where run_uuid = ?", run)[0][0]
        return Path(urlparse(uri).path)

    with open(artifacts(run) / "layers.csv") as file:
        assert [row["layer"] for row in csv.DictReader(file)] == ["conv1"]
    assert (artifacts(parent) / "searchspace.yaml").read_text() == "name: sweep\n"
    assert (artifacts(parent) / "index.html").exists()
    assert artifacts(run).is_relative_to(out / "mlartifacts")
    assert of_run(out, "tags", parent)["mlflow.note.content"].startswith("**Which?**")
    assert query(out, "select name, status from runs where run_uuid = ?", parent) == [("sweep", "FINISHED")]
    assert query(out, "select count(*) from experiments where name = 'sweep'") == [(1,)]


def test_a_failed_trial_has_its_reason_and_loses_it_when_it_succeeds(out, make_result):
    failed = make_result(0, status="failed", error="out of memory", metrics={}, ended="2026-01-01T10:00:30+00:00")
    diverged = make_result(1, status="diverged", error="NaN loss", metrics={"accuracy": math.nan})
    stopped = make_result(2, status="stopped")
    assert MlflowView(out, "sweep").sync([failed, diverged, stopped]) == 3
    runs = children(out)
    assert [runs[result.trial_id][0] for result in (failed, diverged, stopped)] == ["FAILED", "FAILED", "KILLED"]
    run = runs[failed.trial_id][1]
    assert of_run(out, "tags", run)["error"] == "out of memory"
    assert "accuracy" not in of_run(out, "latest_metrics", runs[diverged.trial_id][1])

    retried = make_result(0)
    assert MlflowView(out, "sweep").sync([retried, diverged, stopped]) == 1
    assert children(out)[retried.trial_id] == ("FINISHED", run)
    assert "error" not in of_run(out, "tags", run)
    assert of_run(out, "latest_metrics", run)["accuracy"] == 0.875


def test_synchronising_again_changes_nothing_and_latency_joins_the_same_run(out, make_result):
    results = [make_result(seed) for seed in range(3)]
    view = MlflowView(out, "sweep")
    assert view.sync(results) == 3
    before = children(out)
    rows = query(out, "select count(*) from metrics")
    assert view.sync(results) == 0
    again = MlflowView(out, "sweep")
    again.start_parent()
    assert again.sync(results) == 0
    assert query(out, "select count(*) from metrics") == rows

    assert again.sync(results, {results[0].trial_id: LATENCY}) == 1
    assert again.sync(results, {results[0].trial_id: LATENCY}) == 0
    assert MlflowView(out, "sweep").sync(results, {results[0].trial_id: LATENCY}) == 0
    assert children(out) == before
    assert of_run(out, "latest_metrics", before[results[0].trial_id][1])["latency_ms"] == 2.0
    assert len(parents(out)) == 1


@pytest.mark.parametrize("call", ["create_run", "log_batch", "log_text", "set_terminated"])
def test_what_a_killed_driver_left_is_completed(out, make_result, call):
    results = [make_result(seed) for seed in range(3)]
    MlflowView(out, "sweep").sync(results[:1])
    killed = fork(sync_until_killed_at, call, out, results)
    killed.join(30)
    assert killed.exitcode == -signal.SIGKILL
    assert len(children(out)) == (1 if call == "create_run" else 2)
    assert MlflowView(out, "sweep").sync(results) == 2
    assert Counter(status for status, _ in children(out).values()) == {"FINISHED": 3}
    per_run = dict(query(out, "select run_uuid, count(*) from metrics group by 1"))
    assert len(set(per_run.values())) == 1, "a completed run differs from one that was written at once"
    assert len(parents(out)) == 1


def test_kills_at_any_moment_lose_and_repeat_nothing(out, make_result):
    results = [make_result(seed) for seed in range(25)]
    moments = random.Random(1)
    for _ in range(6):
        driver = fork(MlflowView(out, "sweep").sync, results)
        time.sleep(0.02 + moments.random() / 5)
        driver.kill()
        driver.join()
    MlflowView(out, "sweep").sync(results)
    assert {trial_id: status for trial_id, (status, _) in children(out).items()} == {
        result.trial_id: "FINISHED" for result in results
    }
    assert len(parents(out)) == 1


def test_processes_that_start_at_once_make_one_database_one_experiment_and_one_parent(tmp_path, make_result, out):
    fresh = tmp_path / "fresh"
    drivers = [fork(MlflowView(fresh, "sweep").sync, [make_result(seed)]) for seed in range(3)]
    for driver in drivers:
        driver.join(60)
    assert [driver.exitcode for driver in drivers] == [0, 0, 0]
    assert len(children(fresh)) == 3
    assert len(parents(fresh)) == 1


def test_a_second_run_of_a_trial_is_removed(out, make_result):
    from mlflow import MlflowClient

    result = make_result(0)
    MlflowView(out, "sweep").sync([result])
    ((_, kept),) = children(out).values()
    client = MlflowClient(tracking_uri=tracking_uri(out))
    experiment = client.get_experiment_by_name("sweep").experiment_id
    tags = {"trial_id": result.trial_id, "mlflow.parentRunId": parents(out)[0]}
    client.create_run(experiment, tags=tags, start_time=1)
    assert MlflowView(out, "sweep").sync([result]) == 0
    assert children(out)[result.trial_id] == ("FINISHED", kept)


def test_one_trial_that_mlflow_refuses_holds_up_no_other(out, make_result):
    results = [make_result(seed, epochs=2000 if seed == 1 else 1) for seed in range(3)]
    refused = make_result(3, epochs=1)
    bad_epoch = refused.epochs[0].model_copy(update={"epoch": 2**70})
    refused = refused.model_copy(update={"epochs": [bad_epoch]})
    with pytest.raises(MlflowFailure) as failure:
        MlflowView(out, "sweep").sync([refused, *results])
    assert failure.value.waiting == {refused.trial_id}
    assert not failure.value.unreachable
    finished = {trial_id for trial_id, (status, _) in children(out).items() if status == "FINISHED"}
    assert finished == {result.trial_id for result in results}
    assert query(out, "select count(*) from metrics where key = 'retrain/lr' and step >= 2") == [(1998,)]


def test_another_place_is_taken_from_the_environment(out, tmp_path, make_result, monkeypatch, mlflow_template):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{elsewhere / 'mlflow.db'}")
    monkeypatch.chdir(elsewhere)
    MlflowView(out, "sweep").sync([make_result(0)])
    assert len(children(elsewhere)) == 1
    assert children(out) == {}
