"""The views follow the records in the background, and what happens to them stops nothing."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestrator.records import Latency, read_results, recorded_ids, write_latency, write_result
from orchestrator.records.views import ViewWriter
from orchestrator.storage.store import Store

FORK = multiprocessing.get_context("fork")
LATENCY = Latency(latency_ms=2.0, latency_ms_std=0.1, dense_latency_ms=4.0, dense_latency_ms_std=0.1, latency_speedup=2)


def drive(out, results):
    """What a driver does for each trial that ends."""
    with ViewWriter(Store(out), "sweep", searchspace="name: sweep\n") as writer:
        for result in results:
            write_result(Store(out), out / "sweep" / "trials" / result.trial_id, result)
            writer.put(result.trial_id)
            time.sleep(0.01)


def run_statuses(out):
    sql = """select t.value, r.status from runs r join tags t on t.run_uuid = r.run_uuid
             where t.key in ('trial_id', 'prunesweep.role') and r.lifecycle_stage = 'active'"""
    with contextlib.closing(sqlite3.connect(out / "mlflow.db")) as connection:
        return sorted(connection.execute(sql))


def expected_statuses(results):
    return sorted([("parent", "FINISHED"), *((result.trial_id, "FINISHED") for result in results)])


def shown_trials(out):
    return pq.read_table(out / "sweep" / "parquet" / "trials.parquet")["trial_id"].to_pylist()


def test_a_finished_sweep_holds_the_public_contract(out, make_result):
    results = [make_result(seed) for seed in range(5)]
    sweep = out / "sweep"
    with ViewWriter(Store(out), "sweep") as writer:
        for result in results:
            folder = sweep / "trials" / result.trial_id
            write_result(Store(out), folder, result)
            (folder / "model.safetensors").write_bytes(b"")
            writer.put(result.trial_id)
        for result in results:
            write_latency(Store(out), sweep / "trials" / result.trial_id, LATENCY)
            writer.put(result.trial_id)
        assert writer.close() == []
    (sweep / "searchspace.yaml").write_text("name: sweep\n")
    assert run_statuses(out) == expected_statuses(results)
    assert shown_trials(out) == sorted(result.trial_id for result in results)

    shared = Path(os.environ.get("PRUNESWEEP_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    contract = shared / "checks" / "contract.py"
    if not contract.exists():
        pytest.skip(f"the contract's own check is not here: {contract}")
    check = subprocess.run([sys.executable, str(contract), str(sweep), "--trials", "5"], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout + check.stderr


def test_a_driver_killed_at_any_moment_is_caught_up_with(out, make_result):
    results = [make_result(seed) for seed in range(40)]
    for enough in (5, 20):
        driver = FORK.Process(target=drive, args=(out, results))
        driver.start()
        while len(recorded_ids(out / "sweep")) < enough:
            time.sleep(0.001)
        driver.kill()
        driver.join()
    assert 20 <= len(list(read_results(out / "sweep"))) < 40
    drive(out, results)
    assert run_statuses(out) == expected_statuses(results)
    assert len(shown_trials(out)) == 40


def test_a_server_that_is_down_costs_a_warning_and_is_caught_up_with(out, make_result, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    results = [make_result(seed) for seed in range(3)]
    writer = ViewWriter(Store(out), "sweep")
    for result in results:
        write_result(Store(out), out / "sweep" / "trials" / result.trial_id, result)
        writer.put(result.trial_id)
    (warning,) = writer.close()
    assert warning.startswith("MLflow view is not complete: ")
    assert "\n" not in warning
    assert len(shown_trials(out)) == 3
    output = capfd.readouterr()
    assert output.out + output.err == ""

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert ViewWriter(Store(out), "sweep").close() == []
    assert run_statuses(out) == expected_statuses(results)


def test_a_damaged_record_is_reported_and_holds_up_no_other(out, make_result):
    result = make_result(0)
    write_result(Store(out), out / "sweep" / "trials" / result.trial_id, result)
    damaged = out / "sweep" / "trials" / "abc"
    damaged.mkdir()
    (damaged / "result.json").write_text("{")
    warnings = ViewWriter(Store(out), "sweep").close()
    assert len(warnings) == 2
    assert all(str(damaged) in warning for warning in warnings)
    assert run_statuses(out) == expected_statuses([result])


def test_an_interrupted_sweep_says_so(out, make_result):
    with pytest.raises(KeyboardInterrupt), ViewWriter(Store(out), "sweep"):
        raise KeyboardInterrupt
    assert run_statuses(out) == [("parent", "KILLED")]
