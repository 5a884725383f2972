"""What is too large for MLflow stays in the record, and the sweep says so."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from orchestrator.records import write_result
from orchestrator.records.mlflow import trial_runs as mlflow_runs
from orchestrator.records.views import ViewWriter
from orchestrator.storage.store import Store


def test_a_large_artifact_is_left_out_with_a_warning(out, make_result, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mlflow_runs, "_LARGEST_ARTIFACT", 10_000)
    large = make_result(0, analysis={"histogram": list(range(5000))})
    small = make_result(1, analysis={"histogram": [1, 2]})
    for result in (large, small):
        write_result(Store(out), out / "sweep" / "trials" / result.trial_id, result)
    (warning,) = ViewWriter(Store(out), "sweep").close()
    assert warning.startswith(f"too large for MLflow, kept in the records: {large.trial_id}: analysis.json (0.0 MiB)")
    assert ViewWriter(Store(out), "sweep").close() == []
    artifacts = sorted(path.name for path in (out / "mlartifacts").rglob("*") if path.is_file())
    assert artifacts == ["analysis.json", "layers.csv", "layers.csv"]
    with contextlib.closing(sqlite3.connect(out / "mlflow.db")) as connection:
        tags = connection.execute("select value from tags where key = 'left_out'").fetchall()
    assert tags == [("analysis.json (0.0 MiB)",)]
    assert Path(out / "sweep/trials" / large.trial_id / "result.json").stat().st_size > 10_000
