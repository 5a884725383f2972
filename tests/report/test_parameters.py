"""What matters: drawn from a sample of a large sweep, from a design where there is one, and as observed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweep_reports import report_data

from orchestrator.analysis.load import load_results
from orchestrator.report import importances
from orchestrator.report.charts.importances import design_bars, importance_bars, interaction
from orchestrator.report.importances import estimate_importances

MakeSweep = Callable[..., Path]


def by_share(trial: Any) -> dict[str, Any]:
    """Nothing counts but the share removed, and a little luck."""
    accuracy = 0.95 - 0.2 * trial.spec.target.sparsity + 0.0005 * trial.spec.seed
    return {"accuracy": accuracy, "val_accuracy": accuracy}


def test_the_share_removed_is_found(make_sweep: MakeSweep, space_text: str) -> None:
    text = space_text.replace("[0.5, 0.75]", "[0.3, 0.5, 0.7, 0.9]")
    estimated = estimate_importances(report_data(make_sweep(text, by_share)))
    assert estimated.two_greatest == ("target.sparsity", "arm")
    bars = importance_bars(estimated.values, "accuracy")
    assert bars is not None
    assert bars.names[0] == "target.sparsity"
    assert bars.floor is not None
    assert bars.floor[0] < 0.01 < bars.groups[0].y[0]


def test_a_large_sweep_is_sampled_and_says_so(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importances, "MOST_SETTINGS", 4)
    monkeypatch.setattr(importances, "RESAMPLES", 2)
    data = report_data(make_sweep())
    estimated = estimate_importances(data)
    assert "Computed from 4 of 6 settings" in estimated.note
    assert {importance.n for importance in estimated.values} == {12}
    assert estimated == estimate_importances(data)


def test_together_as_observed(make_sweep: MakeSweep) -> None:
    folder = make_sweep()
    rows = load_results(folder)
    chart = interaction(report_data(folder), "target.sparsity", "arm")
    assert chart is not None
    (taylor,) = [series for series in chart.series if series.name == "taylor"]
    assert taylor.x == ["0.5", "0.75"]
    for share, y in zip((0.5, 0.75), taylor.y, strict=True):
        accuracies = [r["accuracy"] for r in rows if r["arm"] == "taylor" and r["target_sparsity"] == share]
        assert y == pytest.approx(100 * np.mean(accuracies))


def test_a_design_is_told_by_its_own_indices(make_sweep: MakeSweep) -> None:
    text = """
name: designed
base: {model: lenet5, data: {name: digits, size: 16}, method: l1_norm}
axes:
  target.sparsity: {low: 0.2, high: 0.8}
  retrain.epochs: {low: 1, high: 8}
search: {name: morris, trajectories: 4}
"""
    estimated = estimate_importances(report_data(make_sweep(text, by_share)))
    bars = design_bars(estimated.values, "accuracy")
    assert bars is not None
    effects = dict(zip(bars.names, bars.groups[0].y, strict=True))
    # 0.2 points of accuracy a unit of share, over a span of 0.6.
    assert effects["target.sparsity"] == pytest.approx(0.12)
    assert effects["retrain.epochs"] == pytest.approx(0, abs=1e-9)
