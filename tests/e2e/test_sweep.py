"""A sweep as a user runs it: real processes, real Ray, real MLflow; and what is left when they are killed."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from commands import CONTRACT, command

SPACE = """
name: small
question: Does it hold together?
base:
  model: lenet_300_100
  data: digits
  target: {quantity: params}
  baseline: {epochs: 3, lr: 0.05, batch_size: 64}
  retrain: {name: clr, epochs: 2}
axes:
  target.sparsity: [0.5, 0.8]
  seed: [0, 1]
arms:
  - method: random
  - method: taylor
  - method: {name: network_slimming, sparse_epochs: 3}
  - method: magnitude
    target: {quantity: weights}
"""
TRIALS, BASELINES, SPARSE_TRAININGS, IMPORTANCES = 16, 2, 2, 2


def start(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command("run", "small.yaml"), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(folder: Path, *more: str) -> str:
    done = subprocess.run(command("run", "small.yaml", *more), cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def records(folder: Path) -> dict[str, dict[str, Any]]:
    paths = (folder / "runs/small/trials").glob("*/result.json")
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def results(folder: Path) -> dict[str, Any]:
    """What must be the same whoever ran it and when."""
    found = {}
    for trial_id, record in records(folder).items():
        epochs = [{k: v for k, v in row.items() if k != "seconds"} for row in record["epochs"]]
        found[trial_id] = (record["status"], record["metrics"], record["layers"], epochs)
    return found


def children(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "runs/mlflow.db") as database:
        rows = database.execute(
            "select t.value from tags t join runs r using (run_uuid) "
            "where t.key = 'trial_id' and r.lifecycle_stage = 'active' and r.status = 'FINISHED'"
        ).fetchall()
    return [value for (value,) in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted sweep."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(SPACE)
    said = run(folder)
    (folder / "said.txt").write_text(said)
    return folder


def test_every_planned_trial_is_done(finished: Path) -> None:
    rows = pq.read_table(finished / "runs/small/parquet/trials.parquet").to_pylist()
    assert len(rows) == TRIALS
    assert {row["status"] for row in rows} == {"done"}
    assert {row["dense_accuracy"] for row in rows if row["seed"] == 0} != {None}
    assert all(row["latency_ms"] > 0 for row in rows)
    for row in rows:
        if row["target_quantity"] == "weights":
            assert row["latency_speedup"] == 1.0
            assert row["mac_sparsity"] == 0
            assert abs(row["weight_sparsity"] - row["target_sparsity"]) < 0.001
        else:
            assert abs(row["param_sparsity"] - row["target_sparsity"]) < 0.01
    assert sorted(children(finished)) == sorted(row["trial_id"] for row in rows)


def test_the_public_contract_holds(finished: Path) -> None:
    if not CONTRACT.exists():
        pytest.skip(f"{CONTRACT} is not here")
    check = [sys.executable, str(CONTRACT), str(finished / "runs/small"), "--trials", str(TRIALS)]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_shared_stages_are_computed_once(finished: Path) -> None:
    """Stages computed = stages planned, whatever the number of trials."""
    said = (finished / "said.txt").read_text()
    assert said.count("shared baseline") == BASELINES
    planned = subprocess.run(
        command("plan", "small.yaml", "--json"), cwd=finished, capture_output=True, text=True, check=True
    )
    facts = json.loads(planned.stdout)
    assert facts["stages"] == {
        "baseline": BASELINES,
        "importance": IMPORTANCES,
        "sparse_training": SPARSE_TRAININGS,
        "step": 0,
    }
    assert facts["trials"] == facts["done"] == TRIALS
    for stage, count in facts["stages"].items():
        assert len(list((finished / "runs/cache" / stage).glob("[!.]*"))) == count
    trained = [record for record in records(finished).values() if "baseline" not in record["reused"]]
    assert trained == []


def test_one_process_leaves_the_same_records(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SPACE)
    said = run(tmp_path, "--address", "inline")
    assert f"executed {TRIALS} of {TRIALS} trials" in said
    assert results(tmp_path) == results(finished)
    assert sorted(children(tmp_path)) == sorted(records(tmp_path))


def test_running_it_again_executes_nothing(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "runs").glob("small/trials/*/*")}
    said = run(finished)
    assert f"executed 0 of {TRIALS} trials" in said
    assert {path: path.stat().st_mtime_ns for path in (finished / "runs").glob("small/trials/*/*")} == before
    assert len(children(finished)) == TRIALS


def test_status_and_list_speak_json(finished: Path) -> None:
    said = subprocess.run(
        command("status", "small", "--json"), cwd=finished, capture_output=True, text=True, check=True
    )
    facts = json.loads(said.stdout)
    assert (facts["done"], facts["waiting"], facts["failed"]) == (TRIALS, 0, 0)
    assert facts["best"]["value"] == max(record["metrics"]["accuracy"] for record in records(finished).values())
    for what in ("methods", "models", "data", "schedules", "metrics", "searches", "papers"):
        said = subprocess.run(command("list", what, "--json"), capture_output=True, text=True, check=True)
        assert all(entry["name"] for entry in json.loads(said.stdout))


def test_a_killed_driver_loses_nothing(finished: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle, then run again: no finished trial is executed twice, and the results are the same."""
    (tmp_path / "small.yaml").write_text(SPACE)
    driver = start(tmp_path)
    try:
        deadline = time.monotonic() + 120
        while len(records(tmp_path)) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    # Workers live a moment longer than their driver; what they still finish is recorded too.
    time.sleep(3)
    kept = records(tmp_path)
    assert 4 <= len(kept) < TRIALS
    said = run(tmp_path)
    executed = re.search(r"executed (\d+) of", said)
    assert executed is not None
    assert int(executed[1]) == TRIALS - len(kept)
    after = records(tmp_path)
    assert {trial_id: after[trial_id]["ended"] for trial_id in kept} == {k: r["ended"] for k, r in kept.items()}
    assert results(tmp_path) == results(finished)
    assert sorted(children(tmp_path)) == sorted(after)


def test_a_killed_worker_is_replaced(finished: Path, tmp_path: Path) -> None:
    """What it was at is done again by another; nothing is lost, and nothing is recorded twice."""
    (tmp_path / "small.yaml").write_text(SPACE)
    driver = start(tmp_path)
    deadline = time.monotonic() + 120
    while len(records(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(workers_of(driver.pid)[0], signal.SIGKILL)
    said, _ = driver.communicate(timeout=240)
    assert driver.returncode == 0, said
    assert results(tmp_path) == results(finished)
    assert sorted(children(tmp_path)) == sorted(records(tmp_path))


def workers_of(driver: int) -> list[int]:
    """Process ids of the driver's own warm workers, found among its descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])

    def descends(pid: int) -> bool:
        return pid == driver or (pid in parents and descends(parents[pid]))

    found = []
    for pid in filter(descends, parents):
        with suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::ImplicitFunc"):
                found.append(pid)
    return found


def test_an_interrupt_stops_cleanly_and_says_how_to_resume(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SPACE)
    driver = start(tmp_path)
    held = tmp_path / "runs/small/.driver"
    deadline = time.monotonic() + 120
    while not (held.exists() and held.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    second = subprocess.run(command("run", "small.yaml"), cwd=tmp_path, capture_output=True, text=True)
    assert second.returncode == 2
    assert f"pid {driver.pid}" in second.stderr
    while not records(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    driver.send_signal(signal.SIGINT)
    said, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, said
    assert "Resume with: prunesweep run small.yaml" in said
    assert "Traceback" not in said
    assert 0 < len(records(tmp_path)) < TRIALS
    assert sorted(children(tmp_path)) == sorted(records(tmp_path))


def test_a_failing_trial_fails_alone(tmp_path: Path) -> None:
    """A network that does not train, a rate that diverges: recorded with their reasons, exit 1, the others done."""
    (tmp_path / "own_nets.py").write_text("""
from torch import nn

class Brittle(nn.Linear):
    def forward(self, images):
        if self.training:
            raise RuntimeError("no gradient comes through here")
        return super().forward(images.flatten(1))

def brittle(num_classes, in_channels, image_size):
    return Brittle(in_channels * image_size**2, num_classes)
""")
    (tmp_path / "small.yaml").write_text("""
name: small
base:
  model: lenet_300_100
  data: digits
  method: l1_norm
  target: {quantity: params, sparsity: 0.5}
  baseline: {epochs: 1}
  retrain: {name: fine_tune, epochs: 1}
axes:
  retrain.lr: [0.01, 1.0e+30]
arms:
  - name: fits
  - name: brittle
    model: own_nets:brittle
""")
    done = subprocess.run(command("run", "small.yaml"), cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    found = {(r["arm"], r["point"]["retrain.lr"]): r for r in records(tmp_path).values()}
    assert found["fits", 0.01]["status"] == "done"
    assert found["fits", 1e30]["status"] == "diverged"
    assert "loss is" in found["fits", 1e30]["error"]
    for rate in (0.01, 1e30):
        assert found["brittle", rate]["status"] == "failed"
        assert "no gradient comes through here" in found["brittle", rate]["error"]
    assert "3 trials failed" in done.stderr
