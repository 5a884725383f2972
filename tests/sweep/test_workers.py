"""Workers of a real Ray: short jobs use all of them, and none is started in vain."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import yaml
from ray._private import state
from rich.console import Console

from orchestrator import SearchSpace, run

SPACE = """
name: short
base:
  model: lenet_300_100
  data: digits
  method: l1_norm
  target: {quantity: params}
  baseline: {epochs: 1}
  retrain: {name: fine_tune, epochs: 0}
axes:
  target.sparsity: {low: 0.1, high: 0.9, grid: 150}
"""


@pytest.fixture
def two_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


@pytest.mark.usefixtures("two_slots")
def test_trials_shorter_than_the_start_of_a_worker_run_on_every_slot(tmp_path: Path) -> None:
    outcome = run(SearchSpace.parse(yaml.safe_load(SPACE)), out=tmp_path, console=Console(file=io.StringIO()))
    assert outcome.executed == 150
    workers = [actor for actor in state.actors().values() if actor["ActorClassName"] == "ImplicitFunc" and actor["Pid"]]
    # Tune, left alone, starts a worker every few trials and throws it away before its first one.
    assert len(workers) == 2
