"""An MLflow server that goes away costs nothing but time: `sync` gives every record exactly one run."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from orchestrator.records.records import write_result
from orchestrator.records.views import ViewWriter
from orchestrator.spec.result import TrialResult
from orchestrator.spec.search_space import SearchSpace
from orchestrator.storage.driver_lock import SweepLocked, exclude_driver
from orchestrator.storage.store import Store
from orchestrator.sweep.maintenance.rebuild_views import sync
from orchestrator.sweep.planning import plan

SPACE = """
name: away
question: Where is the server?
base: {model: lenet5, data: digits, method: l1_norm, target: {sparsity: 0.5}}
axes:
  seed: [0, 1, 2, 3]
"""


class Server:
    """A real MLflow server on loopback, with a database that outlives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://someone:hidden@127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2):
                return
            time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield made
    made.kill()


@pytest.fixture
def results() -> list[TrialResult]:
    return [
        TrialResult(
            trial_id=trial.trial_id, spec=trial.spec, arm=trial.arm, point=dict(trial.point), status="done",
            metrics={"accuracy": 0.9}, started="2026-01-01T10:00:00+00:00", ended="2026-01-01T10:01:00+00:00",
        )
        for trial in plan(SearchSpace.parse(yaml.safe_load(SPACE))).trials
    ]  # fmt: skip


def runs(uri: str) -> dict[str, list[str]]:
    """Trial id -> statuses of its active child runs."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("away")
    statuses: dict[str, list[str]] = {}
    for run in client.search_runs([experiment.experiment_id]):
        if "trial_id" in run.data.tags:
            statuses.setdefault(run.data.tags["trial_id"], []).append(run.info.status)
    return statuses


def test_a_server_that_was_away_gets_one_run_a_trial(
    server: Server, results: list[TrialResult], tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    folder = out / "away"
    folder.mkdir(parents=True)
    (folder / "searchspace.yaml").write_text(SPACE)
    server.start()
    writer = ViewWriter(Store(out), "away")
    write_result(Store(tmp_path), folder / "trials" / results[0].trial_id, results[0])
    writer.put(results[0].trial_id)
    deadline = time.monotonic() + 60
    while not _seen(server.uri) and time.monotonic() < deadline:
        time.sleep(0.1)

    server.kill()
    for result in results[1:]:
        write_result(Store(tmp_path), folder / "trials" / result.trial_id, result)
        writer.put(result.trial_id)
    (warning,) = writer.close()
    assert warning.startswith("MLflow view is not complete")
    assert "hidden" not in warning
    (again,) = sync(Store(tmp_path), folder).warnings
    assert "hidden" not in again

    server.start()
    expected = {result.trial_id: ["FINISHED"] for result in results}
    for _ in range(2):
        done = sync(Store(tmp_path), folder)
        assert (done.trials, done.discarded, done.warnings) == (4, 0, [])
        assert done.uri == f"http://***@127.0.0.1:{server.port}"
        assert runs(server.uri) == expected

    shutil.rmtree(folder / "parquet")
    shutil.rmtree(folder / "trials" / results[3].trial_id)
    assert sync(Store(tmp_path), folder).discarded == 1
    del expected[results[3].trial_id]
    assert runs(server.uri) == expected
    assert (folder / "parquet/trials.parquet").exists()
    with exclude_driver(Store(tmp_path), folder), pytest.raises(SweepLocked, match="a driver runs this sweep"):
        sync(Store(tmp_path), folder)


def _seen(uri: str) -> bool:
    with suppress(Exception):
        return bool(runs(uri))
    return False
