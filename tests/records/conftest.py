"""Records to store, and an MLflow database that is made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.spec import Choice, EpochRow, LayerRow, Retrain, Target, TrialResult, TrialSpec

MakeResult = Callable[..., TrialResult]


def build_result(seed: int = 0, epochs: int = 3, **changes: Any) -> TrialResult:
    spec = TrialSpec(
        model=Choice(name="lenet5"),
        data=Choice(name="digits"),
        method=Choice(name="l1_norm", params={"penalty": 0.5}),
        target=Target(sparsity=0.5),
        retrain=Retrain(name="fine_tune", epochs=epochs),
        seed=seed,
    )
    metrics = {
        "dense_accuracy": 0.9,
        "pruned_accuracy": 0.4,
        "accuracy": 0.875,
        "accuracy_drop": 0.025,
        "val_accuracy": 0.88,
        "top5_accuracy": 0.99,
        "dense_params": 1000,
        "params": 400,
        "param_sparsity": 0.6,
        "compression_ratio": 2.5,
        "dense_macs": 2000,
        "macs": 1000,
        "mac_sparsity": 0.5,
        "filter_sparsity": 0.5,
        "weight_sparsity": 0.6,
    }
    curve = [
        EpochRow(
            stage="retrain",
            epoch=epoch,
            lr=0.1,
            train_loss=1 / (epoch + 1),
            train_accuracy=0.5,
            val_accuracy=0.5 + epoch / 100,
            seconds=1.5,
        )
        for epoch in range(epochs)
    ]
    layer = LayerRow(
        layer="conv1",
        kind="Conv2d",
        dense_channels=6,
        kept_channels=3,
        dense_params=60,
        params=30,
        dense_macs=600,
        macs=300,
        nonzero=30,
    )
    given: dict[str, Any] = {
        "trial_id": spec.trial_id,
        "spec": spec,
        "arm": "l1",
        "point": {"target.sparsity": 0.5, "seed": seed},
        "status": "done",
        "metrics": metrics,
        "achieved": 0.5,
        "layers": [layer],
        "epochs": curve,
        "seconds": {"baseline": 10.0, "retrain": 4.5},
        "device": "cpu",
        "host": "here",
        "started": "2026-01-01T10:00:00+00:00",
        "ended": "2026-01-01T10:01:00+00:00",
        "commit": "abc",
        "versions": {"torch": "2.15.0"},
    }
    return TrialResult(**(given | changes))


@pytest.fixture
def make_result() -> MakeResult:
    return build_result


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from orchestrator.records.mlflow.view import make_database

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    make_database(path)
    return path


@pytest.fixture
def out(tmp_path: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with an MLflow database that no sweep has used yet."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(mlflow_template, folder / "mlflow.db")
    return folder
