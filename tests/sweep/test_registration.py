"""`prunesweep register`: the networks of a front become versions of one registered model, once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.models.build import build
from orchestrator.records.records import write_result
from orchestrator.records.views import ViewWriter
from orchestrator.spec.result import TrialResult
from orchestrator.spec.search_space import SearchSpace
from orchestrator.spec.yaml_loader import parse_yaml
from orchestrator.storage.store import Store
from orchestrator.surgery.serialization import save_pruned
from orchestrator.sweep.planning import plan

SPACE = """
name: fronted
base: {model: lenet5, data: {name: digits, size: 16}, method: l1_norm, target: {sparsity: 0.5}}
axes:
  seed: [0, 1, 2]
"""
SHAPE = {"classes": 10, "channels": 1, "size": 16}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three trials; the second is smaller and less accurate, the third worse than both."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    torch.set_num_threads(1)
    folder = tmp_path / "runs" / "fronted"
    folder.mkdir(parents=True)
    (folder / "searchspace.yaml").write_text(SPACE)
    measured = [(0.9, 300), (0.8, 200), (0.7, 400)]
    for trial, (accuracy, macs) in zip(plan(SearchSpace.parse(parse_yaml(SPACE, ""))).trials, measured, strict=True):
        place = folder / "trials" / trial.trial_id
        metrics = {"accuracy": accuracy, "val_accuracy": accuracy, "macs": macs}
        moments = {"started": "2026-01-01T10:00:00+00:00", "ended": "2026-01-01T10:01:00+00:00"}
        result = TrialResult(trial_id=trial.trial_id, spec=trial.spec, status="done", metrics=metrics, **moments)
        write_result(Store(folder.parent), place, result)
        model = build("lenet5", {}, **SHAPE)
        save_pruned(place, model, {"kept": None, "model": {"name": "lenet5", "params": {}}, "shape": SHAPE})
    assert ViewWriter(Store(folder.parent), "fronted", searchspace=SPACE).close() == []
    return folder


def test_the_front_is_registered_once(folder: Path) -> None:
    first, second, _ = (trial.trial_id for trial in plan(SearchSpace.parse(parse_yaml(SPACE, ""))).trials)
    command = ["register", "fronted", "--out", str(folder.parent)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        f"fronted version 1: trial {first} (new)",
        f"fronted version 2: trial {second} (new)",
        "2 of 2 networks on the front",
    ]
    assert CliRunner().invoke(app, command).output.count("there already") == 2


def test_a_network_that_is_not_there_is_named_and_holds_up_no_other(folder: Path) -> None:
    first = plan(SearchSpace.parse(parse_yaml(SPACE, ""))).trials[0].trial_id
    (folder / "trials" / first / "cut.json").unlink()
    done = CliRunner().invoke(app, ["register", "fronted", "--out", str(folder.parent)])
    assert done.exit_code == 1
    assert f"warning: not registered: {folder}/trials/{first}/cut.json: no network was saved" in done.output
    assert "1 of 2 networks on the front" in done.output
