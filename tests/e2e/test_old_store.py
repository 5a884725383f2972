"""A store that release 0.1.0 left behind is read, resumed and reported, and nothing in it is computed again.

`tests/assets/README.md` says how the store was made. Run as a script, this file prints what the imported package says
of it; `expected.json` is what 0.1.0 printed.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.storage.store import Store
from orchestrator.storage.workspace import Workspace

ASSETS = Path(__file__).resolve().parents[1] / "assets" / "store_0.1.0"
PLANNED = {"old_grid": 21, "old_tpe": 8}
PAPER_TABLE = ("004", "5")
SHARED_STAGES = {"baseline", "importance", "sparse_training", "step"}


def unpack(folder: Path) -> None:
    """Put the user's files and the store, `runs`, into a folder; MLflow's database keeps absolute paths."""
    for name in ("tiny_net.py", "old_grid.yaml", "old_tpe.yaml"):
        shutil.copy(ASSETS / name, folder)
    with tarfile.open(ASSETS / "store.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    script = folder / "runs" / "mlflow.sql"
    with contextlib.closing(sqlite3.connect(folder / "runs" / "mlflow.db")) as database:
        database.executescript(script.read_text().replace("/STORE", str((folder / "runs").resolve())))
    script.unlink()


def answer(*words: str) -> str:
    """What a command prints; it runs in this process, in the current folder."""
    from orchestrator.cli import app

    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.stdout


def facts() -> dict[str, Any]:
    """What the commands and `load_results` say of the store in the current folder."""
    from orchestrator import load_results

    said: dict[str, Any] = {}
    for sweep in PLANNED:
        answer("report", sweep)
        tables = sorted(Path("runs", sweep, "report", "tables").glob("*.csv"))
        paper, table = PAPER_TABLE
        said[sweep] = {
            "status": json.loads(answer("status", sweep, "--json")),
            "plan": json.loads(answer("plan", f"{sweep}.yaml", "--json")),
            "compare": json.loads(answer("compare", sweep, "--paper", paper, "--table", table, "--json")),
            "rows": load_results(Path("runs", sweep)),
            "report": {path.stem: numbers(path) for path in tables},
        }
    return said


def numbers(path: Path) -> list[list[float]]:
    """The numbers of a CSV file, a list a row; words and headings may be put better."""
    rows = []
    for row in csv.reader(path.read_text().splitlines()):
        rows.append([])
        for cell in row:
            with contextlib.suppress(ValueError):
                rows[-1].append(float(cell))
    return rows


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    unpack(folder)
    return folder


@pytest.fixture(scope="module")
def said(store: Path) -> dict[str, Any]:
    """The facts as this release has them, through JSON as the expected ones."""
    with contextlib.chdir(store), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(store))
        return json.loads(json.dumps(facts()))


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return json.loads((ASSETS / "expected.json").read_text())


def prunesweep(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time and bytes of all that is never written twice: records, networks, stages, the search's journal."""
    files = [
        *folder.glob("runs/*/trials/*/*"),
        *folder.glob("runs/cache/*/*/*"),
        *folder.glob("runs/*/optuna.journal"),
        *folder.glob("runs/*/searchspace*.yaml"),
    ]
    return {path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def runs_of(folder: Path) -> dict[str, list[Any]]:
    """MLflow's child runs by trial id: id, name, status, times, parameters and metrics."""
    with contextlib.closing(sqlite3.connect(folder / "runs" / "mlflow.db")) as database:
        runs = database.execute(
            "select t.value, r.run_uuid, r.name, r.status, r.start_time, r.end_time from tags t "
            "join runs r using (run_uuid) where t.key = 'trial_id' and r.lifecycle_stage = 'active'"
        ).fetchall()
        found = {}
        for trial_id, run, *values in runs:
            assert trial_id not in found, f"two runs of trial {trial_id}"
            params = database.execute("select key, value from params where run_uuid = ? order by 1", (run,)).fetchall()
            metrics = database.execute(
                "select key, step, value from metrics where run_uuid = ? order by 1, 2", (run,)
            ).fetchall()
            found[trial_id] = [run, *values, params, metrics]
    return found


@pytest.mark.parametrize("sweep", PLANNED)
def test_running_it_again_executes_nothing(store: Path, sweep: str) -> None:
    before, runs = contents(store), runs_of(store)
    done = prunesweep(store, "run", f"{sweep}.yaml")
    assert f"executed 0 of {PLANNED[sweep]} trials, computed no shared stage, measured 0 latencies" in done.stdout, (
        done.stdout + done.stderr
    )
    if sweep == "old_grid":
        assert done.returncode == 1
        assert "1 diverged: retrain: the training loss is nan" in done.stderr
        assert "1 failed: baseline failed: RuntimeError: no gradient comes through here" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
    assert contents(store) == before
    assert runs_of(store) == runs


@pytest.mark.parametrize("sweep", PLANNED)
def test_status_and_plan_are_as_before(said: dict[str, Any], expected: dict[str, Any], sweep: str) -> None:
    assert said[sweep]["status"] == expected[sweep]["status"]
    assert said[sweep]["plan"] == expected[sweep]["plan"]


@pytest.mark.parametrize("sweep", PLANNED)
def test_results_are_as_before(said: dict[str, Any], expected: dict[str, Any], sweep: str) -> None:
    assert {row["status"] for row in expected["old_grid"]["rows"]} == {"done", "failed", "diverged", "stopped"}
    assert said[sweep]["rows"] == expected[sweep]["rows"]
    assert [list(row) for row in said[sweep]["rows"]] == [list(row) for row in expected[sweep]["rows"]]


@pytest.mark.parametrize("sweep", PLANNED)
def test_the_comparison_with_a_paper_is_as_before(said: dict[str, Any], expected: dict[str, Any], sweep: str) -> None:
    assert without_notes(said[sweep]["compare"]) == without_notes(expected[sweep]["compare"])
    assert any(row["ours"] for row in said["old_grid"]["compare"]["rows"])


def without_notes(compared: dict[str, Any]) -> dict[str, Any]:
    """Notes and flags are sentences."""
    rows = [{key: value for key, value in row.items() if key not in ("note", "flags")} for row in compared["rows"]]
    return {**compared, "rows": rows}


@pytest.mark.parametrize("sweep", PLANNED)
def test_the_numbers_of_the_report_are_as_before(said: dict[str, Any], expected: dict[str, Any], sweep: str) -> None:
    ours, theirs = said[sweep]["report"], expected[sweep]["report"]
    assert sorted(ours) == sorted(theirs)
    for table, rows in theirs.items():
        assert len(ours[table]) == len(rows), table
        for row, before in zip(ours[table], rows, strict=True):
            assert row == pytest.approx(before, rel=1e-9, abs=1e-12, nan_ok=True), table


def test_views_are_rebuilt_from_its_records(store: Path, tmp_path: Path, expected: dict[str, Any]) -> None:
    """Without Parquet files and MLflow's database, `sync` makes both: the same rows, and one run a trial as before."""
    from orchestrator import load_results

    shutil.copytree(store, tmp_path, dirs_exist_ok=True)
    (tmp_path / "runs" / "mlflow.db").unlink()
    shutil.rmtree(tmp_path / "runs" / "mlartifacts")
    parquet = tmp_path / "runs" / "old_grid" / "parquet"
    shutil.rmtree(parquet)
    done = prunesweep(tmp_path, "sync", "old_grid")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in parquet.iterdir()} == {"trials.parquet", "epochs.parquet", "layers.parquet"}
    assert json.loads(json.dumps(load_results(parquet.parent))) == expected["old_grid"]["rows"]
    anew, before = runs_of(tmp_path), runs_of(store)
    assert len(anew) == PLANNED["old_grid"]
    for row in expected["old_grid"]["rows"]:
        _, name, status, *times, params, metrics = anew[row["trial_id"]]
        _, name_before, status_before, *times_before, params_before, metrics_before = before[row["trial_id"]]
        assert (name, status, params, metrics) == (name_before, status_before, params_before, metrics_before)
        # A trial whose baseline failed was never started: its record has no times, and its run those of its making.
        assert times == times_before or not row["started"]


def test_its_stages_are_read_when_a_trial_runs_again(
    store: Path, tmp_path: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One trial that starts from each kind of stage: nothing shared is computed, and the network is cut as before."""
    from orchestrator import SearchSpace, plan, run_trial

    monkeypatch.syspath_prepend(str(store))
    specs = {trial.trial_id: trial.spec for trial in plan(SearchSpace.load(store / "old_grid.yaml")).trials}
    again = {row["arm"]: row for row in expected["old_grid"]["rows"] if row["status"] == "done"}
    assert set(again) == {"l1_norm", "taylor", "weights", "mask_convnet"}
    shutil.copytree(store / "runs" / "cache", tmp_path / "runs" / "cache")
    workspace = Workspace(Store(tmp_path / "runs"), "old_grid", data_cache=tmp_path / "data")
    reused = set()
    for row in again.values():
        record = store / "runs" / "old_grid" / "trials" / row["trial_id"] / "result.json"
        old = json.loads(record.read_text())
        new = json.loads(run_trial(specs[row["trial_id"]], workspace).model_dump_json())
        assert new["status"] == "done", new["error"]
        assert new["layers"] == old["layers"]
        assert new["reused"] == old["reused"]
        assert new["metrics"].keys() == old["metrics"].keys()
        assert new["metrics"]["dense_accuracy"] == old["metrics"]["dense_accuracy"]
        # Computed from the stored weights: another kind of CPU may decide an image otherwise.
        assert new["metrics"]["pruned_accuracy"] == pytest.approx(old["metrics"]["pruned_accuracy"], abs=0.01)
        assert new["metrics"]["accuracy"] == pytest.approx(old["metrics"]["accuracy"], abs=0.05)
        reused |= set(new["reused"])
    assert reused == SHARED_STAGES


def test_what_was_drawn_is_still_planned_when_its_record_is_lost(
    store: Path, tmp_path: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(store, tmp_path, dirs_exist_ok=True)
    plan = expected["old_tpe"]["plan"]
    for trial_id in plan["trial_ids"][:3]:
        (tmp_path / "runs" / "old_tpe" / "trials" / trial_id / "result.json").unlink()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    now = json.loads(answer("plan", "old_tpe.yaml", "--json"))
    assert sorted(now["trial_ids"]) == sorted(plan["trial_ids"])
    assert (now["trials"], now["done"]) == (8, 5)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as made, contextlib.chdir(made):
        unpack(Path(made))
        sys.path.insert(0, made)
        print(json.dumps(facts(), indent=1))
