"""Measure time and memory of a report on an invented sweep of ten thousand trials with fifty epochs each.

    python benchmarks/report_scale.py [--store FOLDER]

The sweep is written as Parquet views alone, with the trial ids of a real plan, and numbers drawn from a simple law:
the trials are invented, the time is not.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.spec.search_space import SearchSpace
from orchestrator.sweep.planning import plan

EPOCHS = 50
LAYERS = [f"layer{i // 6 + 1}.{i // 2 % 3}.conv{i % 2 + 1}" for i in range(18)]
SPACE = """
name: ten_thousand
question: Which of ten methods, at which sparsity, with which retraining?
base:
  model: resnet20
  data: {name: digits, size: 16}
  target: {quantity: macs}
axes:
  target.sparsity: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
  retrain: [fine_tune, clr, lr_rewind, scaled_restart]
  retrain.epochs: [1, 2, 5, 10, 15, 20, 30, 40, 50]
  seed: [0, 1, 2]
arms: [random, l1_norm, taylor, functionality, hrank, pfp, sfp, fpgm, network_slimming, bar]
"""


def make(store: Path) -> Path:
    """Write the invented sweep and return its folder."""
    folder = store / "ten_thousand"
    (folder / "parquet").mkdir(parents=True, exist_ok=True)
    (folder / "searchspace.yaml").write_text(SPACE)
    trials = plan(SearchSpace.load(folder / "searchspace.yaml")).trials
    rng = np.random.default_rng(0)
    skill = {arm: rng.normal(0, 0.01) for arm in dict.fromkeys(trial.arm for trial in trials)}
    rows: list[dict[str, Any]] = []
    for trial in trials:
        share, epochs = float(trial.spec.target.sparsity or 0), trial.spec.retrain.epochs
        accuracy = 0.92 + skill[trial.arm] - 0.15 * share**3 / np.log2(2 + epochs) + rng.normal(0, 0.003)
        failed = rng.random() < 0.01
        row = {
            "sweep": "ten_thousand",
            "trial_id": trial.trial_id,
            "status": "diverged" if failed else "done",
            "error": "loss is not a number after epoch 3" if failed else None,
            "arm": trial.arm,
            "seed": trial.spec.seed,
            "model": "resnet20",
            "data": "digits",
            "method": trial.spec.method.name,
            "retrain": trial.spec.retrain.name,
            "target_quantity": "macs",
            "target_sparsity": share,
            "target.sparsity": share,
            "retrain.epochs": epochs,
            "device": "none",
            "host": "none",
            "started": "2026-01-01T00:00:00+00:00",
            "ended": "2026-01-02T00:00:00+00:00",
            "commit": "0" * 40,
            "versions": "",
        }
        measured = {
            "dense_accuracy": 0.92 + 0.001 * trial.spec.seed,
            "pruned_accuracy": max(0.1, accuracy - share),
            "accuracy": accuracy,
            "val_accuracy": accuracy + rng.normal(0, 0.003),
            "achieved_sparsity": share,
            "mac_sparsity": share + rng.normal(0, 0.003),
            "param_sparsity": min(0.99, share + rng.normal(0, 0.05)),
            "compression_ratio": 1 / (1 - share),
            "latency_ms": 5 * (1 - 0.6 * share) + rng.normal(0, 0.05),
            "dense_latency_ms": 5.0,
            "latency_speedup": 1 / (1 - 0.6 * share),
            "latency_batch_size": 1,
        }
        rows.append(row | dict.fromkeys(measured, None) if failed else row | measured)
    pq.write_table(pa.Table.from_pylist(rows), folder / "parquet" / "trials.parquet")
    ids = pa.array([row["trial_id"] for row in rows])
    count = len(rows)
    curve = 0.9 - 0.5 * np.exp(-np.arange(EPOCHS) / 8)
    epochs_table = {
        "trial_id": ids.take(pa.array(np.repeat(np.arange(count), EPOCHS))),
        "stage": pa.array(["retrain"] * (count * EPOCHS)),
        "epoch": pa.array(np.tile(np.arange(EPOCHS), count)),
        "val_accuracy": pa.array(np.tile(curve, count) + rng.normal(0, 0.01, count * EPOCHS)),
    }
    pq.write_table(pa.table(epochs_table), folder / "parquet" / "epochs.parquet")
    kept = rng.integers(1, 64, count * len(LAYERS))
    layers_table = {
        "trial_id": ids.take(pa.array(np.repeat(np.arange(count), len(LAYERS)))),
        "layer": pa.array(LAYERS * count),
        "kind": pa.array(["conv"] * (count * len(LAYERS))),
        "dense_channels": pa.array(np.full(count * len(LAYERS), 64)),
        "kept_channels": pa.array(kept),
        "params": pa.array(kept * 576),
        "nonzero": pa.array(kept * 576),
    }
    pq.write_table(pa.table(layers_table), folder / "parquet" / "layers.parquet")
    return folder


def main() -> None:
    """Write the sweep, report it in a process of its own, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, help="where to leave the sweep and its report")
    store = parser.parse_args().store
    with tempfile.TemporaryDirectory() as scratch:
        folder = make(store or Path(scratch))
        trials = pq.read_metadata(folder / "parquet" / "trials.parquet").num_rows
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.monotonic()
        command = [sys.executable, "-m", "orchestrator", "report", folder.name, "--out", str(folder.parent)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        measured = {
            "trials": trials,
            "epochs": trials * EPOCHS,
            "wall_s": round(seconds, 1),
            "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
            "peak_mib": after.ru_maxrss // 1024,
            "page_mib": round((folder / "report" / "index.html").stat().st_size / 2**20, 1),
            "machine": platform.processor() or platform.machine(),
        }
        print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
