"""Sweeps with invented numbers: planned for real, recorded as trials are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records.records import Latency, write_latency, write_result
from orchestrator.spec import EpochRow, LayerRow, SearchSpace, TrialResult
from orchestrator.storage.store import Store
from orchestrator.sweep.planning import PlannedTrial, plan

Numbers = Callable[[PlannedTrial], Mapping[str, Any]]
MakeSweep = Callable[..., Path]

SPACE = """
name: invented
question: Does it <matter>?
base:
  model: lenet5
  data: {name: digits, size: 16}
  target: {quantity: macs}
  retrain: {name: clr, epochs: 2}
axes:
  target.sparsity: [0.5, 0.75]
  seed: [0, 1, 2]
arms: [random, l1_norm, taylor]
"""
_SKILL = {"random": 0.90, "l1_norm": 0.93, "taylor": 0.92}
_LUCK = [0.004, -0.003, 0.001, -0.005, 0.002, 0.0035, -0.0015]


def invented(trial: PlannedTrial) -> dict[str, Any]:
    """An accuracy with some luck in it, the same at every call."""
    share, seed = float(trial.spec.target.sparsity or 0), trial.spec.seed
    kind = len(trial.arm)
    luck = _LUCK[(3 * seed + kind + round(20 * share)) % len(_LUCK)]
    accuracy = _SKILL.get(trial.arm, 0.91) - 0.04 * share + luck
    return {"accuracy": accuracy, "val_accuracy": accuracy + _LUCK[(seed + 2 * kind) % len(_LUCK)] / 2}


def result_of(trial: PlannedTrial, numbers: Mapping[str, Any]) -> TrialResult:
    share = float(trial.spec.target.sparsity or 0)
    status = numbers.get("status", "done")
    given = {key: value for key, value in numbers.items() if key not in ("status", "error", "achieved")}
    metrics = {
        "dense_accuracy": 0.94 + 0.001 * trial.spec.seed,
        "pruned_accuracy": 0.5,
        "mac_sparsity": share,
        "param_sparsity": share / 2,
        "compression_ratio": 1 / (1 - share / 2),
        **given,
    }
    curve = [
        EpochRow(
            stage="retrain",
            epoch=e,
            lr=0.1,
            train_loss=1.0,
            train_accuracy=0.5,
            val_accuracy=0.8 + 0.05 * e,
            seconds=1.0,
        )
        for e in range(2)
    ]
    kept = round(20 * (1 - share))
    layers = [
        LayerRow(
            layer="conv1",
            kind="conv",
            dense_channels=20,
            kept_channels=kept,
            dense_params=520,
            params=26 * kept,
            dense_macs=2000,
            macs=100 * kept,
            nonzero=26 * kept,
        )
    ]
    done = status == "done"
    return TrialResult(
        trial_id=trial.trial_id,
        spec=trial.spec,
        arm=trial.arm,
        point=dict(trial.point),
        status=status,
        error=numbers.get("error"),
        metrics=metrics if done else {},
        achieved=numbers.get("achieved", share) if done else None,
        epochs=curve if done else [],
        layers=layers if done else [],
        device="a device",
        started="2026-01-01T10:00:00+00:00",
        ended="2026-01-01T11:00:00+00:00",
        commit="abc",
    )


@pytest.fixture
def make_sweep(tmp_path: Path) -> MakeSweep:
    """``make_sweep(text, numbers, skip=...)``: the folder of a sweep; trials that ``skip`` is true of have not run."""

    def make(
        text: str = SPACE,
        numbers: Numbers = invented,
        skip: Callable[[PlannedTrial], bool] = lambda trial: False,
        latency: bool = True,
    ) -> Path:
        draft = tmp_path / "draft.yaml"
        draft.write_text(text)
        space = SearchSpace.load(draft)
        folder = tmp_path / "runs" / space.name
        folder.mkdir(parents=True)
        (folder / "searchspace.yaml").write_text(text)
        for trial in plan(space).trials:
            if skip(trial):
                continue
            result = result_of(trial, numbers(trial))
            write_result(Store(tmp_path), folder / "trials" / trial.trial_id, result)
            if latency and result.status == "done":
                share = float(trial.spec.target.sparsity or 0)
                took = 2.0 - share
                write_latency(
                    Store(tmp_path),
                    folder / "trials" / trial.trial_id,
                    Latency(
                        latency_ms=took,
                        latency_ms_std=0.1,
                        dense_latency_ms=2.0,
                        dense_latency_ms_std=0.1,
                        latency_speedup=2.0 / took,
                        device="a device",
                    ),
                )
        return folder

    return make


@pytest.fixture
def space_text() -> str:
    return SPACE
