"""A trial on a machine that is lost goes on elsewhere, from what it left in the bucket."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.spec.result import EpochRow
from orchestrator.storage.store import Store
from orchestrator.storage.workspace import Workspace
from orchestrator.sweep.space.resolve import resolve
from orchestrator.training import checkpoint as checkpoints
from orchestrator.trial.run import run_trial

SMALL: dict[str, Any] = {
    "model": {"name": "convnet", "width": 0.1},
    "data": "digits",
    "method": "magnitude",
    "target": {"quantity": "weights", "sparsity": 0.8},
    "baseline": {"epochs": 2, "lr": 0.05},
    "retrain": {"name": "clr", "epochs": 3},
}


class Lost(BaseException):
    """As the power would go."""


@pytest.fixture
def workspace(bucket_uri: str, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "UPLOAD_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "_SHARE", 1e9)
    return Workspace(Store.open(bucket_uri), "sweep")


def objects(workspace: Workspace) -> list[str]:
    bucket = workspace.store.bucket
    assert bucket is not None
    return sorted(bucket.list_objects(workspace.store.folder))


def test_it_goes_on_from_the_last_epoch_that_went_up(workspace: Workspace, tmp_path: Path) -> None:
    spec = resolve(SMALL)
    whole = run_trial(spec, Workspace(Store(tmp_path / "whole"), "sweep"))

    def breaking(row: EpochRow, epochs: int) -> None:
        if (row.stage, row.epoch) == ("retrain", 1):
            raise Lost

    with pytest.raises(Lost):
        run_trial(spec, workspace, breaking)
    names = objects(workspace)
    assert f"cache/baseline/{spec.baseline_key}/stage.json" in names
    assert len([name for name in names if "/.checkpoint/" in name]) == 2
    shutil.rmtree(workspace.store.folder)

    trained: list[int] = []
    loop = checkpoints.Checkpoint.write

    def counting(self: checkpoints.Checkpoint, *words: Any) -> None:
        trained.append(1)
        loop(self, *words)

    with pytest.MonkeyPatch.context() as counted:
        counted.setattr(checkpoints.Checkpoint, "write", counting)
        again = run_trial(spec, workspace)
    assert again.status == "done", again.error
    assert "baseline" in again.reused
    assert len(trained) <= 2  # of the five epochs there are
    assert again.metrics == whole.metrics
    assert not [name for name in objects(workspace) if "checkpoint" in name]


def test_the_newer_of_two_checkpoints_counts(workspace: Workspace, tmp_path: Path) -> None:
    import torch

    folder = workspace.trial_folder("a") / ".checkpoint"
    checkpoint = checkpoints.Checkpoint(folder, {"commit": "x"}, workspace.store.bucket)
    checkpoint.write({"t": torch.zeros(1)}, {"epoch": 1})
    shutil.copytree(folder, tmp_path / "stale")
    checkpoint.write({"t": torch.ones(1)}, {"epoch": 2})
    bucket = workspace.store.bucket
    assert bucket is not None
    assert len(bucket.list_objects(folder)) == 2  # the tensors of the first went when those of the second had come
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "stale", folder)
    state = checkpoints.Checkpoint(folder, {"commit": "x"}, workspace.store.bucket).read()
    assert state is not None
    assert state[1] == {"epoch": 2}
    assert checkpoints.Checkpoint(folder, {"commit": "y"}, workspace.store.bucket).read() is None
    checkpoint.remove()
    assert bucket.list_objects(folder) == {}
    assert not folder.exists()
