"""A sweep made of plug-ins of the user's own, named as module:name, none of them installed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import mlflow
import pyarrow.parquet as pq
import pytest
from commands import command

SPACE = """
name: own
base:
  model: my_plugins:tiny
  data: {name: "my_plugins:noise", images: 160}
  method: {name: "my_plugins:LastFirst", reverse: true}
  target: {quantity: channels, sparsity: 0.5}
  baseline: {epochs: 1, batch_size: 32}
  retrain: {name: "my_plugins:halved", epochs: 2}
axes:
  seed: [0, 1, 2, 3]
search: {name: "my_plugins:EveryOther", step: 2}
stopper: "my_plugins:StopSeed2"
metrics: ["my_plugins:Filters", "my_plugins:Broken"]
objectives: {accuracy: max, Filters: min}
"""
PLUGINS = '''
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from orchestrator.data.source import Source
from orchestrator.methods.base import Method
from orchestrator.metrics.extra import ExtraMetric
from orchestrator.plugins import Count
from orchestrator.retrain.fine_tune import fine_tune
from orchestrator.sweep.search.base import FixedSearch
from orchestrator.sweep.stopping.rule import StoppingRule


def tiny(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )


DATA_FUNCTION


def halved(baseline, budget, *, share: float = 0.5):
    """Half the last rate of the dense training."""
    return fine_tune(baseline, budget, lr=baseline.lr * share)


@dataclass
class LastFirst(Method):
    """The last channels go first, or the first ones."""

    reverse: bool = False

    def scores(self, model, task):
        return {
            group.name: torch.arange(float(group.size)).flip(0) if not self.reverse else torch.arange(float(group.size))
            for group in task.groups
        }


@dataclass(frozen=True)
class EveryOther(FixedSearch):
    """Every other point of the grid."""

    step: Count = 2

    def points(self, arms):
        for arm in arms:
            yield from ((arm.index, point) for point in list(arm.points())[:: self.step])


@dataclass(frozen=True)
class StopSeed2(StoppingRule):
    """Stops every trial but the first that reports."""

    def shares(self):
        return (0.5,)

    def verdict(self, progress, others, space):
        return "not the first" if others else None


class Filters(ExtraMetric):
    """Filters of the pruned network."""

    higher_is_better = False

    def compute(self, networks):
        return sum(m.out_channels for m in networks.pruned.modules() if isinstance(m, nn.Conv2d))


class Broken(ExtraMetric):
    """Cannot be computed."""

    def compute(self, networks):
        return 1 / 0
'''
NOISE = """
def noise(*, images: Count = 100):
    \"\"\"Images whose brightness is their class.\"\"\"

    def examples(seed):
        numbers = np.random.default_rng(seed)
        for i in range(images):
            label = i % 2
            yield numbers.integers(100 * label, 100 * label + 100, (8, 8, 1), dtype=np.uint8), label

    return Source(
        channels=1,
        size=8,
        classes=("dark", "bright"),
        train=lambda: examples(0),
        test=lambda: examples(1),
        augment="none",
    )
"""


def test_a_sweep_of_own_plug_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each does its work, and the metric is in the record, Parquet, MLflow and the report."""
    monkeypatch.setenv("PRUNESWEEP_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "own.yaml").write_text(SPACE)
    (tmp_path / "my_plugins.py").write_text(PLUGINS.replace("DATA_FUNCTION", NOISE))
    for words in (("run", "own.yaml", "--address", "inline"), ("report", "own")):
        done = subprocess.run(command(*words), cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "own"
    rows = sorted(pq.read_table(folder / "parquet" / "trials.parquet").to_pylist(), key=lambda row: row["seed"])
    assert [(row["seed"], row["status"]) for row in rows] == [(0, "done"), (2, "stopped")]
    assert rows[1]["note"] == "my_plugins:StopSeed2: not the first"
    assert [row["Filters"] for row in rows] == [4.0, None]
    assert "Broken" not in rows[0]
    assert rows[0]["note"] == "metric Broken failed: ZeroDivisionError: division by zero"
    record = json.loads((folder / "trials" / rows[0]["trial_id"] / "result.json").read_text())
    assert record["metrics"]["Filters"] == 4.0
    learning_rates = [epoch["lr"] for epoch in record["epochs"] if epoch["stage"] == "retrain"]
    assert learning_rates == [0.05, 0.05]
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "own"]
    runs = client.search_runs([experiment.experiment_id])
    assert [run.data.metrics["Filters"] for run in runs if "Filters" in run.data.metrics] == [4.0]
    assert "Filters" in (folder / "report" / "index.html").read_text(encoding="utf-8")
