"""A single trial, without Ray or MLflow."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.data.images import open_data
from orchestrator.models.build import build
from orchestrator.spec.result import TrialResult
from orchestrator.storage.store import Store
from orchestrator.storage.workspace import Workspace
from orchestrator.surgery.serialization import rebuild
from orchestrator.sweep.space.resolve import resolve
from orchestrator.training.loop import accuracy
from orchestrator.trial.run import run_trial

SMALL = {
    "model": {"name": "convnet", "width": 0.1},
    "data": "digits",
    "method": "l1_norm",
    "target": {"sparsity": 0.5},
    "baseline": {"epochs": 2, "lr": 0.05},
    "retrain": {"name": "clr", "epochs": 1},
}


def trial(out: Path, **changes: Any) -> TrialResult:
    result = run_trial(resolve({**SMALL, **changes}), Workspace(Store(out), "s"))
    assert result.status == "done", result.error
    return result


def same(a: TrialResult, b: TrialResult) -> bool:
    rows = [[row.model_copy(update={"seconds": 0.0}) for row in result.epochs] for result in (a, b)]
    return (a.metrics, a.layers, rows[0]) == (b.metrics, b.layers, rows[1])


def test_the_same_specification_gives_the_same_result(tmp_path: Path) -> None:
    torch.manual_seed(7)
    first = trial(tmp_path / "a")
    torch.manual_seed(8)
    trial(tmp_path / "b", method="taylor")  # another trial first: it must not affect the next
    second = trial(tmp_path / "b")
    assert same(first, second)
    assert "baseline" in second.reused
    assert "baseline" not in first.reused


def test_a_damaged_stage_is_computed_again(tmp_path: Path) -> None:
    first = trial(tmp_path)
    (tensors,) = tmp_path.glob("cache/baseline/*/tensors.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-7])
    second = trial(tmp_path)
    assert second.reused == []
    assert same(first, second)


def test_the_saved_network_is_the_measured_one(tmp_path: Path) -> None:
    result = trial(tmp_path)
    data = open_data("digits", {}, device=torch.device("cpu"))
    dense = build("convnet", {"width": 0.1}, classes=10, channels=1, size=8)
    folder = tmp_path / "s/trials" / result.trial_id
    pruned = rebuild(dense, torch.zeros(1, 1, 8, 8), folder)
    assert sum(p.numel() for p in pruned.parameters()) == result.metrics["params"]
    assert accuracy(pruned, data.test, data)[0] == result.metrics["accuracy"]
    assert json.loads((folder / "cut.json").read_text())["kept"]


def test_pruned_weights_stay_pruned_through_retraining(tmp_path: Path) -> None:
    result = trial(tmp_path, method="magnitude", target={"quantity": "weights", "sparsity": 0.8})
    assert result.metrics["weight_sparsity"] == pytest.approx(0.8, abs=0.001)
    assert result.metrics["mac_sparsity"] == 0
    assert result.metrics["macs"] == result.metrics["dense_macs"]


def test_from_scratch_forgets_the_weights(tmp_path: Path) -> None:
    """Weights are initialised again: the retrained network starts at chance accuracy."""
    tuned = trial(tmp_path, retrain={"name": "fine_tune", "epochs": 0})
    scratch = trial(tmp_path, retrain={"name": "scratch_e", "epochs": 1}, baseline={**SMALL["baseline"], "epochs": 3})
    assert tuned.metrics["accuracy"] == tuned.metrics["pruned_accuracy"]
    first = next(row for row in scratch.epochs if row.stage == "retrain")
    assert first.train_accuracy < 0.6
    assert len([row for row in scratch.epochs if row.stage == "retrain"]) == 3 + 1


def test_one_sparse_training_serves_every_sparsity(tmp_path: Path) -> None:
    method = {"name": "network_slimming", "sparse_epochs": 1}
    first = trial(tmp_path, method=method, target={"sparsity": 0.3})
    second = trial(tmp_path, method=method, target={"sparsity": 0.6})
    assert "sparse_training" not in first.reused
    assert "sparse_training" in second.reused
    assert len(list(tmp_path.glob("cache/sparse_training/[!.]*"))) == 1


def test_exact_counts(tmp_path: Path) -> None:
    result = trial(tmp_path, target={"kept": [4, 9, 20, 30, 40]})
    channels = [row.kept_channels for row in result.layers if row.kind == "conv"]
    assert channels == [4, 9, 20, 30, 40]
    assert result.note is None


def test_emptied_layers_are_noted(tmp_path: Path) -> None:
    kept = {"conv1_1.weight": 1}
    result = trial(tmp_path, method="magnitude", target={"quantity": "weights", "kept": kept})
    assert result.note == "no more than one weight is left in conv1_1.weight"


def test_a_target_that_cannot_be_met_is_an_error(tmp_path: Path) -> None:
    result = run_trial(resolve({**SMALL, "target": {"sparsity": 0.99999}}), Workspace(Store(tmp_path), "s"))
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.startswith("CannotMeetTarget: ")


def test_a_users_own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def tiny(num_classes, in_channels, width: int = 4):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, width, 3), nn.ReLU(), nn.Flatten(),\n"
        "                         nn.Linear(width * 36, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    result = trial(tmp_path, model={"name": "mine:tiny", "width": 8})
    assert result.layers[0].dense_channels == 8
    assert result.layers[0].kept_channels == 4


def test_iterative_pruning_passes_through_shared_steps(tmp_path: Path) -> None:
    """90 % through 50 and 75 %: each step is retrained and shared by all trials that pass through it."""
    target = {"quantity": "weights", "sparsity": 0.9, "steps": [0.5, 0.75]}
    first = trial(tmp_path, method="magnitude", target=target)
    assert first.metrics["weight_sparsity"] == pytest.approx(0.9, abs=0.001)
    assert len(list(tmp_path.glob("cache/step/[!.]*"))) == 2
    second = trial(tmp_path, method="magnitude", target={**target, "sparsity": 0.95})
    assert "step" in second.reused
    assert len(list(tmp_path.glob("cache/step/[!.]*"))) == 2


@pytest.mark.parametrize("quantity", ["macs", "params", "channels"])
def test_iterative_pruning_of_channels_counts_shares_of_the_dense_network(tmp_path: Path, quantity: str) -> None:
    result = trial(tmp_path, method="taylor", target={"quantity": quantity, "sparsity": 0.7, "steps": [0.3, 0.5]})
    reached = {"macs": "mac_sparsity", "params": "param_sparsity", "channels": "filter_sparsity"}[quantity]
    assert result.metrics[reached] == pytest.approx(0.7, abs=0.02)
    data = open_data("digits", {}, device=torch.device("cpu"))
    dense = build("convnet", {"width": 0.1}, classes=10, channels=1, size=8)
    pruned = rebuild(dense, torch.zeros(1, 1, 8, 8), tmp_path / "s/trials" / result.trial_id)
    assert accuracy(pruned, data.test, data)[0] == result.metrics["accuracy"]


def test_the_record_says_what_was_pruned(tmp_path: Path) -> None:
    result = trial(tmp_path, method="l1_norm")
    analysis = result.analysis
    assert set(analysis["magnitude_overlap"].values()) == {1.0}  # the criterion is the magnitude
    filters = sum(row.dense_channels for row in result.layers if row.kind == "conv")
    assert sum(analysis["histogram"]["counts"]) == filters
    drawn = trial(
        tmp_path, method="random", target={"quantity": "weights", "sparsity": 0.5, "scope": "uniform"}
    ).analysis
    for share in drawn["magnitude_overlap"].values():
        assert share == pytest.approx(0.5, abs=0.1)  # the expectation of a random selection


def test_the_functionality_of_filters_is_followed_through_retraining(tmp_path: Path) -> None:
    method = {"name": "functionality", "ascent_steps": 5, "restarts": 2, "transition": True}
    shares = trial(tmp_path, method=method).analysis["functionality_transition"]
    assert shares
    assert all(0 <= share <= 1 for share in shares.values())
