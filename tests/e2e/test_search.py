"""Searches and stoppers as a user runs them: real processes, real Ray; killed once, resumed, and never repeating."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage

SPACE = """
name: searched
base:
  model: lenet_300_100
  data: digits
  target: {quantity: params}
  baseline: {epochs: 2, lr: 0.05, batch_size: 64}
  retrain: {name: clr, epochs: 2}
axes:
  target.sparsity: {low: 0.3, high: 0.95}
  seed: [0, 1]
arms:
  - method: l1_norm
  - method: taylor
search: {name: tpe, trials: 8}
"""


def start(folder: Path, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "orchestrator", "run", "s.yaml", *more]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(folder: Path, *more: str) -> str:
    driver = start(folder, *more)
    said, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, said
    return said


def records(folder: Path) -> dict[str, dict[str, Any]]:
    paths = (folder / "runs/searched/trials").glob("*/result.json")
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def children(folder: Path) -> Counter[str]:
    with sqlite3.connect(folder / "runs/mlflow.db") as database:
        query = "select t.value from tags t join runs r using (run_uuid) where t.key = 'trial_id'"
        return Counter(value for (value,) in database.execute(query))


def told(folder: Path) -> list[optuna.trial.FrozenTrial]:
    backend = JournalFileBackend(str(folder / "runs/searched/optuna.journal"))
    return optuna.load_study(study_name="searched", storage=JournalStorage(backend)).trials


def test_a_killed_search_goes_on_and_records_each_trial_once(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SPACE)
    driver = start(tmp_path)
    try:
        deadline = time.monotonic() + 120
        while len(records(tmp_path)) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    # Workers live a moment longer than their driver; what they still finish is recorded too.
    time.sleep(3)
    kept = records(tmp_path)
    assert 3 <= len(kept) < 8
    said = run(tmp_path)
    executed = re.search(r"executed (\d+) of 8 trials", said)
    assert executed is not None, said
    assert int(executed[1]) == 8 - len(kept)
    after = records(tmp_path)
    assert len(after) == 8
    assert {trial_id: after[trial_id]["ended"] for trial_id in kept} == {k: r["ended"] for k, r in kept.items()}
    assert children(tmp_path) == dict.fromkeys(after, 1)
    values = {trial.user_attrs["trial_id"]: trial.value for trial in told(tmp_path) if trial.state.name == "COMPLETE"}
    assert values == {trial_id: record["metrics"]["val_accuracy"] for trial_id, record in after.items()}
    assert "executed 0 of 8 trials" in run(tmp_path)
    assert "executed 2 of 10 trials" in run(tmp_path, "--set", "search.trials=10")


def test_asha_ends_weak_trials_early_and_says_why(tmp_path: Path) -> None:
    space = SPACE.replace("epochs: 2}\naxes", "epochs: 8}\naxes").replace("{name: tpe, trials: 8}", "grid")
    space = space.replace("{low: 0.3, high: 0.95}", "[0.3, 0.6, 0.99]")
    (tmp_path / "s.yaml").write_text(space + "stopper: {name: asha, rungs: 3, keep: 0.34}\n")
    run(tmp_path)
    found = records(tmp_path)
    assert len(found) == 12
    stopped = {trial_id: record for trial_id, record in found.items() if record["status"] == "stopped"}
    assert 4 <= len(stopped) < 12
    epochs = [row for record in found.values() for row in record["epochs"] if row["stage"] == "retrain"]
    assert len(epochs) < 12 * 8 - 20
    for record in stopped.values():
        rows = [row for row in record["epochs"] if row["stage"] == "retrain"]
        assert len(rows) == record["stopped_at"] * 8
        assert len(rows) in (2, 4, 6)
        assert record["note"].startswith("asha: ")
        assert record["metrics"]["val_accuracy"] == rows[-1]["val_accuracy"]
        assert record["metrics"]["params"] > 0
        assert not {"accuracy", "accuracy_drop", "top5_accuracy"} & set(record["metrics"])
    assert children(tmp_path) == dict.fromkeys(found, 1)
    assert "executed 0 of 12 trials" in run(tmp_path)


def test_latency_is_measured_before_the_search_is_told(tmp_path: Path) -> None:
    space = SPACE.replace("{name: tpe, trials: 8}", "{name: nsga2, trials: 5}")
    objectives = "objectives: {accuracy: max, latency_ms: min}\nconstraints: {mac_sparsity: '>= 0.5'}\n"
    (tmp_path / "s.yaml").write_text(space + objectives + "stopper: constraint\n")
    said = run(tmp_path)
    assert "measuring the latency" not in said  # nothing is left for the wave after the trials
    found = records(tmp_path)
    assert len(found) == 5
    complete = {
        trial.user_attrs["trial_id"]: trial.values for trial in told(tmp_path) if trial.state.name == "COMPLETE"
    }
    done = [trial_id for trial_id, record in found.items() if record["status"] == "done"]
    assert set(complete) == set(done)
    for trial_id in done:
        latency = json.loads((tmp_path / "runs/searched/trials" / trial_id / "latency.json").read_text())
        assert complete[trial_id] == [found[trial_id]["metrics"]["val_accuracy"], latency["latency_ms"]]
    for trial_id in set(found) - set(done):
        assert found[trial_id]["stopped_at"] == 0
        assert found[trial_id]["metrics"]["mac_sparsity"] < 0.5
