"""The report of a sweep that was really run: its opening sentences against the figures in its table of trials."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy import stats
from sweep_reports import report_data

from orchestrator.report.conclusions import conclude
from orchestrator.report.importances import estimate_importances

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("dense_accuracy", "pruned_accuracy", "accuracy", "val_accuracy", "mac_sparsity", "param_sparsity")


def recorded() -> list[dict[str, Any]]:
    """Every trial of LeNet-5 on MNIST (54 trials, three seeds)."""
    with open(ROOT / "benchmarks/results/mnist_lenet5.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_recorded_sweep_is_told_as_it_was(make_sweep: Callable[..., Path]) -> None:
    rows = recorded()
    text = (ROOT / "searchspaces/mnist_lenet5.yaml").read_text()
    text = text.replace("{name: parquet, path: mnist}", "{name: digits, size: 28}")  # the images are not at hand here
    by_trial = {(r["method"], float(r["target_sparsity"]), int(r["seed"])): r for r in rows}

    def numbers(trial: Any) -> dict[str, Any]:
        spec = trial.spec
        row = by_trial[spec.method.name, spec.target.sparsity, spec.seed]
        return {name: float(row[name]) for name in COPIED}

    data = report_data(make_sweep(text, numbers))
    conclusions = conclude(data, estimate_importances(data).values)

    def column(setting: tuple[str, float], name: str) -> list[float]:
        trials = [r for r in rows if (r["method"], float(r["target_sparsity"])) == setting]
        return [float(r[name]) for r in sorted(trials, key=lambda r: int(r["seed"]))]

    settings = {(r["method"], float(r["target_sparsity"])) for r in rows}
    best = max(settings, key=lambda setting: fmean(column(setting, "val_accuracy")))
    accuracy, dense = column(best, "accuracy"), column(best, "dense_accuracy")
    low, high = stats.t.interval(0.95, 2, loc=fmean(accuracy), scale=stats.sem(accuracy))
    assert f"{best[0]}, {100 * best[1]:.0f} %" in conclusions.headline
    assert f"{100 * fmean(accuracy):.2f} ± {100 * stdev(accuracy):.2f} % test accuracy" in conclusions.headline
    assert f"(n = 3, 95 % interval {100 * low:.2f} to {100 * high:.2f} %)" in conclusions.headline
    assert f"{100 * fmean(column(best, 'mac_sparsity')):.1f} % fewer MACs" in conclusions.headline
    gap = [a - b for a, b in zip(accuracy, dense, strict=True)]
    p = float(stats.ttest_rel(accuracy, dense).pvalue)
    (about_dense,) = [sentence for sentence in conclusions.findings if "dense networks" in sentence]
    assert f"{100 * fmean(dense):.2f} ± {100 * stdev(dense):.2f} %" in about_dense
    assert f"{100 * fmean(gap):+.2f} points" in about_dense
    assert f"p = {p:.2f}" in about_dense
    assert "not statistically distinguishable" in about_dense
    assert p > 0.05
