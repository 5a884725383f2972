"""Measure time and memory of status, resume, sync and report for a sweep of ten thousand recorded trials.

    python benchmarks/scale.py [--trials 10000] [--store FOLDER]

The records are real files with the trial ids of the plan and invented numbers; every command runs in its own process.
The resumed sweep has one trial left: its time is measured until a worker starts that trial, and compared with that of a
sweep with this trial only. The first views are the one-time cost of a lost MLflow database.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from orchestrator.records.records import Latency, write_latency, write_result
from orchestrator.spec.result import EpochRow, LayerRow, TrialResult
from orchestrator.spec.search_space import SearchSpace
from orchestrator.storage.store import Store
from orchestrator.sweep.planning import PlannedTrial, plan

SPACE = """
name: {name}
question: Which of five methods, at which sparsity, with which retraining?
base:
  model: lenet_300_100
  data: digits
  target: {{quantity: params}}
  baseline: {{epochs: 1}}
axes:
  target.sparsity: {sparsities}
  retrain: [fine_tune, clr, lr_rewind, scaled_restart]
  retrain.epochs: [1, 2, 5, 10, 15, 20, 25, 30, 40, 50]
  seed: [0, 1, 2, 3, 4]
arms: [l1_norm, random, taylor, functionality, hrank]
"""
ALONE = """
name: alone
base:
  model: lenet_300_100
  data: digits
  method: l1_norm
  target: {quantity: params, sparsity: 0.1}
  baseline: {epochs: 1}
  retrain: {name: fine_tune, epochs: 1}
"""
A_SPARSITY = 4 * 10 * 5 * 5
"""Number of trials per value of the sparsity."""
LAYERS = [f"layer{i // 6 + 1}.{i // 2 % 3}.conv{i % 2 + 1}" for i in range(18)]
_LONGEST = 3600.0


@dataclass
class Cost:
    what: str
    seconds: float
    cpu_seconds: float
    peak_mib: int


def make(store: Path, trials: int) -> Path:
    """Write a sweep with a record of every trial except the first, and return its folder."""
    folder = store / "scale"
    folder.mkdir(parents=True, exist_ok=True)
    sparsities = [round(0.1 + 0.8 * i / max(1, trials // A_SPARSITY - 1), 3) for i in range(trials // A_SPARSITY)]
    (folder / "searchspace.yaml").write_text(SPACE.format(name="scale", sparsities=sparsities))
    shutil.copyfile(folder / "searchspace.yaml", store / "scale.yaml")
    (store / "alone.yaml").write_text(ALONE)
    dice = random.Random(0)
    planned = plan(SearchSpace.load(folder / "searchspace.yaml")).trials
    for number, trial in enumerate(planned):
        write_record(folder / "trials" / trial.trial_id, trial, number, dice)
    return folder


def write_record(folder: Path, trial: PlannedTrial, number: int, dice: random.Random) -> None:
    """Write the files of a trial, except its tensors."""
    share, epochs = float(trial.spec.target.sparsity or 0), trial.spec.retrain.epochs
    accuracy = 0.92 - 0.15 * share**3 / math.log2(2 + epochs) + dice.gauss(0, 0.003)
    started = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=30 * number)
    diverged = dice.random() < 0.01
    curve = [("baseline", 0), *(("retrain", epoch) for epoch in range(epochs))]
    layers = [
        LayerRow(
            layer=name,
            kind="conv",
            dense_channels=64,
            kept_channels=int(64 * (1 - share)),
            dense_params=36864,
            params=int(36864 * (1 - share)),
            dense_macs=2359296,
            macs=int(2359296 * (1 - share)),
            nonzero=36864,
        )
        for name in LAYERS
    ]
    metrics = {
        "dense_accuracy": 0.92,
        "pruned_accuracy": accuracy - share / 2,
        "accuracy": accuracy,
        "accuracy_drop": 0.92 - accuracy,
        "val_accuracy": accuracy + dice.gauss(0, 0.003),
        "top5_accuracy": 0.99,
        "dense_params": 18 * 36864,
        "params": int(18 * 36864 * (1 - share)),
        "param_sparsity": share,
        "compression_ratio": 1 / (1 - share),
        "dense_macs": 18 * 2359296,
        "macs": int(18 * 2359296 * (1 - share)),
        "mac_sparsity": share,
        "filter_sparsity": share,
        "weight_sparsity": share,
    }
    result = TrialResult(
        trial_id=trial.trial_id,
        spec=trial.spec,
        arm=trial.arm,
        point=dict(trial.point),
        status="diverged" if diverged else "done",
        error="loss is nan at step 17" if diverged else None,
        metrics={} if diverged else metrics,
        achieved=None if diverged else share,
        layers=[] if diverged else layers,
        analysis={} if diverged else {"scores": {name: [dice.random() for _ in range(20)] for name in LAYERS}},
        epochs=[
            EpochRow(
                stage=stage,
                epoch=epoch,
                lr=0.1 / (1 + epoch),
                train_loss=1 / (1 + epoch),
                seconds=0.5,
                train_accuracy=accuracy,
                val_accuracy=accuracy + dice.gauss(0, 0.01),
            )
            for stage, epoch in curve
        ],
        seconds={"baseline": 0.5, "cut": 0.1, "retrain": 0.5 * epochs},
        reused=["baseline"],
        device="cpu",
        host="here",
        started=started.isoformat(timespec="milliseconds"),
        ended=(started + timedelta(seconds=20)).isoformat(timespec="milliseconds"),
        commit="0" * 40,
        versions={"torch": version("torch")},
    )
    write_result(Store(folder), folder, result)
    if not diverged:
        (folder / "cut.json").write_text("{}")
        (folder / "model.safetensors").touch()
        latency = 5 * (1 - 0.6 * share)
        measured = started + timedelta(days=9)
        write_latency(
            Store(folder),
            folder,
            Latency(
                latency_ms=latency,
                latency_ms_std=0.1,
                dense_latency_ms=5,
                dense_latency_ms_std=0.1,
                latency_speedup=5 / latency,
                device="cpu",
                host="here",
                measured=measured.isoformat(),
            ),
        )


def cost(what: str, store: Path, *words: str, until: Callable[[], bool] | None = None) -> Cost:
    """Measure one command; with ``until``, the seconds until that moment (CPU seconds are of the whole command)."""
    started = time.monotonic()
    with open(store / "said.txt", "ab") as log:
        command = [sys.executable, "-m", "orchestrator", *words, "--out", str(store)]
        process = subprocess.Popen(command, cwd=store, stdout=log, stderr=log)
    while until is not None and not until() and time.monotonic() - started < _LONGEST:
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            break
        time.sleep(0.01)
    seconds = time.monotonic() - started
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode > 1:
        sys.exit(f"{words} ended with {process.returncode}:\n{(store / 'said.txt').read_text()[-3000:]}")
    if until is None:
        seconds = time.monotonic() - started
    cost = Cost(what, round(seconds, 2), round(used.ru_utime + used.ru_stime, 2), used.ru_maxrss // 1024)
    print(f"{what:>46}: {cost.seconds:8.2f} s, CPU {cost.cpu_seconds:8.2f} s, {cost.peak_mib} MiB", flush=True)
    return cost


def first_job(store: Path) -> Callable[[], bool]:
    """Return a function that tells whether a worker has acquired the lock of the first stage."""
    return lambda: any((store / "cache/baseline").glob(".*.lock"))


def measure(store: Path, folder: Path) -> list[Cost]:
    left = plan(SearchSpace.load(folder / "searchspace.yaml")).trials[0].trial_id
    costs = [
        cost("plan", store, "plan", "scale.yaml", "--json"),
        cost("status, no view yet", store, "status", "scale", "--json"),
        cost("first views (sync)", store, "sync", "scale"),
        cost("sync, nothing to do", store, "sync", "scale"),
        cost("status", store, "status", "scale", "--json"),
        cost("run, nothing left", store, "run", "scale.yaml"),
        cost("run, alone, until the trial begins", store, "run", "alone.yaml", until=first_job(store)),
    ]
    shutil.rmtree(store / "cache")
    shutil.rmtree(folder / "trials" / left)
    costs.append(cost("run, 1 left, until the trial begins", store, "run", "scale.yaml", until=first_job(store)))
    costs.append(cost("status after it", store, "status", "scale", "--json"))
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=10000, help=f"rounded down to a multiple of {A_SPARSITY}")
    parser.add_argument("--store", type=Path, help="where to leave the sweep; one that is there already is kept")
    parser.add_argument("--save", type=Path, help="write the figures as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store = (given.store or Path(scratch)).resolve()
        folder = make(store, given.trials)
        load = os.getloadavg()
        costs = measure(store, folder)
        if given.save:
            facts = {
                "trials": given.trials // A_SPARSITY * A_SPARSITY,
                "costs": [asdict(cost) for cost in costs],
                "date": date.today().isoformat(),
                "cpus": os.cpu_count(),
                "load": load,
                "versions": {name: version(name) for name in ("ray", "mlflow", "pyarrow", "pydantic")},
            }
            given.save.parent.mkdir(parents=True, exist_ok=True)
            given.save.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
