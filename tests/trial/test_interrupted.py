"""Trials and stages whose process was killed resume from the last epoch and give the same record."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.spec.result import EpochRow, TrialResult
from orchestrator.storage.store import Store
from orchestrator.storage.workspace import Workspace
from orchestrator.sweep.space.resolve import resolve
from orchestrator.training import checkpoint as checkpoints
from orchestrator.trial.run import Stopped, run_stage, run_trial

SMALL: dict[str, Any] = {
    "model": {"name": "convnet", "width": 0.1},
    "data": "digits",
    "method": "magnitude",
    "target": {"quantity": "weights", "sparsity": 0.8},
    "baseline": {"epochs": 3, "lr": 0.05},
    "retrain": {"name": "clr", "epochs": 3},
}


@pytest.fixture(autouse=True)
def _every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "_SHARE", 1e9)


class Killed(BaseException):
    """Stands for a signal: no error handler catches it."""


def killed_in(stage: str, epoch: int) -> Any:
    def report(row: EpochRow, epochs: int) -> None:
        if (row.stage, row.epoch) == (stage, epoch):
            raise Killed

    return report


def same(a: TrialResult, b: TrialResult) -> bool:
    rows = [[row.model_copy(update={"seconds": 0.0}) for row in result.epochs] for result in (a, b)]
    return (a.metrics, a.layers, a.analysis, rows[0]) == (b.metrics, b.layers, b.analysis, rows[1])


def checkpoints_in(out: Path) -> list[Path]:
    return [*out.glob("cache/*/.*-checkpoint"), *out.glob("*/trials/*/.checkpoint")]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "l1_norm", "target": {"sparsity": 0.5}, "retrain": {"name": "scratch_e", "epochs": 1}},
        {"target": {"quantity": "weights", "sparsity": 0.9, "steps": [0.5]}},
    ],
    ids=["mask", "scratch", "steps"],
)
@pytest.mark.parametrize("stage", ["baseline", "retrain"])
def test_an_interrupted_trial_has_the_record_of_an_uninterrupted_one(
    tmp_path: Path, changes: dict[str, Any], stage: str
) -> None:
    spec = resolve({**SMALL, **changes})
    whole = run_trial(spec, Workspace(Store(tmp_path / "whole"), "s"))
    assert whole.status == "done", whole.error
    broken = Workspace(Store(tmp_path / "broken"), "s")
    with pytest.raises(Killed):
        run_trial(spec, broken, killed_in(stage, 1))
    assert len(checkpoints_in(broken.store.folder)) == 1
    reported: list[EpochRow] = []
    again = run_trial(spec, broken, lambda row, epochs: reported.append(row))
    assert same(whole, again)
    assert checkpoints_in(broken.store.folder) == []
    saved = [next(out.glob("s/trials/*/model.safetensors")) for out in (tmp_path / "whole", broken.store.folder)]
    assert saved[0].read_bytes() == saved[1].read_bytes()
    # The whole curve is reported, so that counts of epochs are right.
    assert [row.epoch for row in reported if row.stage == "retrain"][:3] == [0, 1, 2]


def test_a_sparse_training_resumes_with_its_gates(tmp_path: Path) -> None:
    changes = {"method": {"name": "bar", "sparse_epochs": 3}, "target": {"sparsity": 0.5}}
    spec = resolve({**SMALL, **changes})
    outs = [tmp_path / "whole", tmp_path / "broken"]
    run_stage("sparse_training", spec, Workspace(Store(outs[0]), "s"))
    with pytest.raises(Killed):
        run_stage("sparse_training", spec, Workspace(Store(outs[1]), "s"), killed_in("sparse_training", 1))
    assert run_stage("sparse_training", spec, Workspace(Store(outs[1]), "s"))
    files = [next(out.glob("cache/sparse_training/[!.]*/tensors.safetensors")) for out in outs]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert checkpoints_in(outs[1]) == []


_KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from orchestrator.spec.trial import TrialSpec
from orchestrator.storage.workspace import Workspace
from orchestrator.training import checkpoint
from orchestrator.trial.run import run_trial
from orchestrator.storage.store import Store

torch.set_num_threads(1)
checkpoint.SECONDS = 0.0
checkpoint._SHARE = 1e9

def report(row, epochs):
    if (row.stage, row.epoch) == ("retrain", 1):
        os.kill(os.getpid(), signal.SIGKILL)

run_trial(TrialSpec.model_validate_json(sys.argv[1]), Workspace(Store(Path(sys.argv[2])), "s"), report)
"""


def test_sigkill(tmp_path: Path) -> None:
    spec = resolve(SMALL)
    whole = run_trial(spec, Workspace(Store(tmp_path / "whole"), "s"))
    command = [sys.executable, "-c", _KILLED, spec.model_dump_json(), str(tmp_path / "broken")]
    ended = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120)
    assert ended.returncode == -signal.SIGKILL
    assert len(checkpoints_in(tmp_path / "broken")) == 1
    reported: list[EpochRow] = []
    again = run_trial(spec, Workspace(Store(tmp_path / "broken"), "s"), lambda row, epochs: reported.append(row))
    assert same(whole, again)
    assert "baseline" in again.reused
    assert checkpoints_in(tmp_path / "broken") == []


def test_the_checkpoint_of_another_selection_is_ignored(tmp_path: Path) -> None:
    """The checkpoint of a trial with another selection, say of other hardware, must not be used."""
    spec = resolve({**SMALL, "method": "random", "target": {"sparsity": 0.5}})
    other = resolve({**SMALL, "method": "l1_norm", "target": {"sparsity": 0.5}})
    whole = run_trial(spec, Workspace(Store(tmp_path / "whole"), "s"))
    broken = Workspace(Store(tmp_path / "broken"), "s")
    with pytest.raises(Killed):
        run_trial(other, broken, killed_in("retrain", 1))
    (checkpoint,) = checkpoints_in(broken.store.folder)
    broken.trial_folder(spec.trial_id).mkdir(parents=True)
    checkpoint.rename(broken.trial_folder(spec.trial_id) / ".checkpoint")
    assert same(whole, run_trial(spec, broken))


def test_trials_that_were_stopped_or_diverged_leave_no_checkpoint(tmp_path: Path) -> None:
    def stop(row: EpochRow, epochs: int) -> None:
        if (row.stage, row.epoch) == ("retrain", 1):
            raise Stopped("others are better", 2 / 3)

    stopped = run_trial(resolve(SMALL), Workspace(Store(tmp_path), "s"), stop)
    assert (stopped.status, len([row for row in stopped.epochs if row.stage == "retrain"])) == ("stopped", 2)
    diverged = run_trial(resolve({**SMALL, "baseline": {"epochs": 3, "lr": 1e18}}), Workspace(Store(tmp_path), "s"))
    assert diverged.status == "diverged"
    assert checkpoints_in(tmp_path) == []
