"""Views of a resumed sweep: records that they show are neither opened nor written again; missing ones are."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestrator.records import Latency, forget, write_latency, write_result
from orchestrator.records.mlflow.trial_runs import list_children
from orchestrator.records.mlflow.view import tracking_uri
from orchestrator.records.record_fingerprints import record_fingerprint
from orchestrator.records.views import ViewWriter
from orchestrator.storage.store import Store

LATENCY = Latency(latency_ms=2.0, latency_ms_std=0.1)
_watchers: list[list[str]] = []


def _note_opened(event, arguments):
    if event == "open" and _watchers and Path(str(arguments[0])).name in ("result.json", "latency.json"):
        _watchers[-1].append(f"{Path(str(arguments[0])).parent.name}/{Path(str(arguments[0])).name}")


sys.addaudithook(_note_opened)


@contextlib.contextmanager
def opened() -> Iterator[list[str]]:
    """Yield the names of records and latencies that this process opens meanwhile."""
    names: list[str] = []
    _watchers.append(names)
    try:
        yield names
    finally:
        _watchers.remove(names)


def folder_of(out, result):
    return out / "sweep" / "trials" / result.trial_id


def write_views_again(out):
    assert ViewWriter(Store(out), "sweep").close() == []


def runs(out):
    """Return id, status and number of metrics of every active child run, by trial id."""
    sql = """select t.value, r.run_uuid, r.status, (select count(*) from metrics m where m.run_uuid = r.run_uuid)
             from runs r join tags t on t.run_uuid = r.run_uuid
             where t.key = 'trial_id' and r.lifecycle_stage = 'active'"""
    with contextlib.closing(sqlite3.connect(out / "mlflow.db")) as connection:
        rows = connection.execute(sql).fetchall()
    by_trial = {trial_id: run for trial_id, *run in rows}
    assert len(by_trial) == len(rows), "two runs of one trial"
    return by_trial


def without_ids(out):
    return {trial_id: run[1:] for trial_id, run in runs(out).items()}


def latest(out, name):
    sql = "select t.value, m.value from latest_metrics m join tags t on t.run_uuid = m.run_uuid and t.key = 'trial_id'"
    with contextlib.closing(sqlite3.connect(out / "mlflow.db")) as connection:
        return dict(connection.execute(f"{sql} where m.key = ?", [name]).fetchall())


def parquet_files(out):
    return {path.name: path.stat().st_ino for path in (out / "sweep" / "parquet").iterdir()}


@pytest.fixture
def results(out, make_result):
    """Records that both views show, the first of them with a latency."""
    results = [make_result(seed) for seed in range(4)]
    for result in results:
        write_result(Store(out), folder_of(out, result), result)
    write_latency(Store(out), folder_of(out, results[0]), LATENCY)
    write_views_again(out)
    return results


def test_what_is_shown_is_not_opened_again(out, results, make_result):
    before, files = runs(out), parquet_files(out)
    with opened() as names:
        write_views_again(out)
    assert names == []
    assert runs(out) == before
    assert parquet_files(out) == files

    new = make_result(9)
    write_result(Store(out), folder_of(out, new), new)
    with opened() as names:
        ViewWriter(Store(out), "sweep").close()
    assert names.count(f"{new.trial_id}/result.json") == 2, "once for each view"
    assert names.count(f"{results[1].trial_id}/result.json") == 1, "for Parquet, whose files are written whole"
    assert {trial_id: run for trial_id, run in runs(out).items() if trial_id != new.trial_id} == before


def test_a_latency_that_comes_later_is_shown(out, results):
    before = runs(out)
    write_latency(Store(out), folder_of(out, results[1]), LATENCY.model_copy(update={"latency_ms": 3.0}))
    write_views_again(out)
    assert latest(out, "latency_ms") == {results[0].trial_id: 2.0, results[1].trial_id: 3.0}
    assert {trial_id: run[:2] for trial_id, run in runs(out).items()} == {i: run[:2] for i, run in before.items()}
    with pq.ParquetFile(out / "sweep" / "parquet" / "trials.parquet") as file:
        assert sorted(filter(None, file.read(["latency_ms"])["latency_ms"].to_pylist())) == [2.0, 3.0]


def test_a_record_that_is_replaced_is_shown_by_the_same_run(out, make_result):
    failed = make_result(0, status="failed", error="out of memory", metrics={}, ended="2026-01-01T10:00:30+00:00")
    write_result(Store(out), folder_of(out, failed), failed)
    write_views_again(out)
    (before,) = runs(out).values()
    assert before[1] == "FAILED"
    forget(Store(out), folder_of(out, failed))
    write_result(Store(out), folder_of(out, failed), make_result(0))
    write_views_again(out)
    (after,) = runs(out).values()
    assert after[:2] == [before[0], "FINISHED"]


@pytest.mark.parametrize("call", ["log_batch", "log_text", "set_terminated"])
def test_a_kill_while_a_record_replaces_another_is_made_good(out, make_result, call):
    failed = make_result(0, status="failed", error="out of memory", metrics={})
    write_result(Store(out), folder_of(out, failed), failed)
    write_views_again(out)
    forget(Store(out), folder_of(out, failed))
    write_result(Store(out), folder_of(out, failed), make_result(0))
    killed = multiprocessing.get_context("fork").Process(target=_write_until_killed_at, args=(call, out))
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    assert [run[1] for run in runs(out).values()] == ["RUNNING"]
    write_views_again(out)
    assert [run[1] for run in runs(out).values()] == ["FINISHED"]
    assert latest(out, "accuracy") == {failed.trial_id: 0.875}


def _write_until_killed_at(call, out):
    from mlflow import MlflowClient

    def killed(*_arguments, **_named):
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(MlflowClient, call, killed)
    ViewWriter(Store(out), "sweep").close()


def test_a_deleted_run_is_made_again(out, results):
    from mlflow import MlflowClient

    before = runs(out)
    deleted = results[2].trial_id
    MlflowClient(tracking_uri=tracking_uri(out)).delete_run(before[deleted][0])
    with opened() as names:
        write_views_again(out)
    assert {name.partition("/")[0] for name in names} == {deleted}
    after = runs(out)
    assert after.pop(deleted)[1:] == before.pop(deleted)[1:]
    assert after == before


def moved(out, database):
    """Return a copy of the store with another database: MLflow never closes one that it has opened."""
    elsewhere = out.parent / "moved"
    shutil.copytree(out, elsewhere, ignore=shutil.ignore_patterns("mlflow.db"))
    if database is not None:
        shutil.copy(database, elsewhere / "mlflow.db")
    return elsewhere


def test_a_lost_database_is_made_again(out, results):
    elsewhere = moved(out, None)
    write_views_again(elsewhere)
    assert without_ids(elsewhere) == without_ids(out)


def test_an_older_database_put_back_is_brought_up_to_date(out, results, make_result):
    backup = shutil.copy(out / "mlflow.db", out.parent / "backup.db")
    new = make_result(9)
    write_result(Store(out), folder_of(out, new), new)
    write_latency(Store(out), folder_of(out, results[1]), LATENCY)
    write_views_again(out)
    elsewhere = moved(out, backup)
    with opened() as names:
        write_views_again(elsewhere)
    assert {name.partition("/")[0] for name in names} == {new.trial_id, results[1].trial_id}
    assert without_ids(elsewhere) == without_ids(out)


@pytest.mark.parametrize("name", ["trials", "epochs", "layers"])
def test_a_lost_table_is_made_again(out, results, name):
    (out / "sweep" / "parquet" / f"{name}.parquet").unlink()
    write_views_again(out)
    assert sorted(parquet_files(out)) == ["epochs.parquet", "layers.parquet", "trials.parquet"]


def test_another_mlflow_is_given_everything(out, results, tmp_path, monkeypatch, mlflow_template):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(mlflow_template, elsewhere / "mlflow.db")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{elsewhere / 'mlflow.db'}")
    write_views_again(out)
    assert without_ids(elsewhere) == without_ids(out)


def test_a_store_copied_without_its_times_is_looked_at_once(out, results):
    before = runs(out)
    for result in results:
        (folder_of(out, result) / "result.json").touch()
    write_views_again(out)
    assert runs(out) == before, "nothing was logged a second time"
    with opened() as names:
        write_views_again(out)
    assert names == []


def test_a_fingerprint_follows_every_change_of_a_record(tmp_path, make_result):
    fingerprints = [record_fingerprint(tmp_path)]
    write_result(Store(tmp_path), tmp_path, make_result(0, status="failed", error="out of memory"))
    fingerprints.append(record_fingerprint(tmp_path))
    write_latency(Store(tmp_path), tmp_path, LATENCY)
    fingerprints.append(record_fingerprint(tmp_path))
    write_latency(Store(tmp_path), tmp_path, LATENCY)
    fingerprints.append(record_fingerprint(tmp_path))
    assert len(set(fingerprints)) == 4
    forget(Store(tmp_path), tmp_path)
    assert record_fingerprint(tmp_path) == fingerprints[0]


def test_a_server_tells_of_runs_what_a_database_tells(out, results):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracking_uri(out))
    (run_id, *_), *_ = runs(out).values()
    run = client.get_run(run_id)
    experiment, parent = run.info.experiment_id, run.data.tags["mlflow.parentRunId"]
    listed = list_children(client, tracking_uri(out), experiment, parent)
    searched = list_children(client, "https://mlflow.example.org", experiment, parent)
    assert {i: (child.run_id, child.status, child.fingerprint) for i, child in listed.items()} == {
        i: (child.run_id, child.status, child.fingerprint) for i, child in searched.items()
    }
    assert not any(child.complete for child in listed.values())
    assert all(child.complete for child in searched.values())
    assert all(child.shows_record(record_fingerprint(out / "sweep" / "trials" / i)) for i, child in listed.items())
