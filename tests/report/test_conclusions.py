"""Every sentence is true: what it says is derived here again, from the rows, with other means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sweep_reports import report_data

from orchestrator.analysis.load import load_results
from orchestrator.analysis.sensitivity.factors import Importance
from orchestrator.report.conclusions import conclude
from orchestrator.report.data import Unreportable

MakeSweep = Callable[..., Path]


def values(rows: list[dict[str, Any]], arm: str, share: float, metric: str) -> np.ndarray:
    """By seed."""
    trials = [r for r in rows if r["arm"] == arm and r["target_sparsity"] == share and r["status"] == "done"]
    return np.array([r[metric] for r in sorted(trials, key=lambda r: r["seed"])])


def points(value: float) -> str:
    return f"{100 * value:+.2f}".replace("-", "−")


def test_the_headline_is_chosen_by_validation_and_tells_the_test(make_sweep: MakeSweep) -> None:
    folder = make_sweep()
    rows = load_results(folder)
    means = {
        (arm, share): values(rows, arm, share, "val_accuracy").mean()
        for arm in ("random", "l1_norm", "taylor")
        for share in (0.5, 0.75)
    }
    arm, share = max(means, key=lambda key: means[key])
    accuracy = values(rows, arm, share, "accuracy")
    low, high = stats.t.interval(0.95, 2, loc=accuracy.mean(), scale=stats.sem(accuracy))
    conclusions = conclude(report_data(folder), [])
    assert f"{arm}, {100 * share:.0f} % of MACs" in conclusions.headline
    assert f"{100 * accuracy.mean():.2f} ± {100 * accuracy.std(ddof=1):.2f} % test accuracy" in conclusions.headline
    assert f"(n = 3, 95 % interval {100 * low:.2f} to {100 * high:.2f} %)" in conclusions.headline
    assert f"{100 * share:.1f} % fewer MACs" in conclusions.headline
    assert f"{2 / (2 - share):.2f} times as fast" in conclusions.headline


def test_test_images_never_choose(make_sweep: MakeSweep) -> None:
    def numbers(trial: Any) -> dict[str, Any]:
        ahead = trial.arm == "taylor"
        return {"accuracy": 0.99 if ahead else 0.9, "val_accuracy": 0.8 if ahead else 0.9 - 0.01 * len(trial.arm)}

    conclusions = conclude(report_data(make_sweep(numbers=numbers)), [])
    assert conclusions.best is not None
    assert conclusions.best.arm == "random"


def test_differences_are_those_of_a_paired_test(make_sweep: MakeSweep) -> None:
    folder = make_sweep()
    rows = load_results(folder)
    conclusions = conclude(report_data(folder), [])
    assert conclusions.best is not None
    arm, share = conclusions.best.arm, conclusions.best.point["target.sparsity"]
    ours, dense = values(rows, arm, share, "accuracy"), values(rows, arm, share, "dense_accuracy")
    test = stats.ttest_rel(ours, dense)
    (sentence,) = [s for s in conclusions.findings if s.startswith("The dense networks")]
    low, high = test.confidence_interval(0.95)
    assert f"{points((ours - dense).mean())} points" in sentence
    assert f"95 % interval {points(low)} to {points(high)}" in sentence
    effect = (ours - dense).mean() / (ours - dense).std(ddof=1)
    assert f"d = {effect:.2f}".replace("-", "−") in sentence
    assert sentence.endswith(
        "; statistically distinguishable." if test.pvalue < 0.05 else "; not statistically distinguishable."
    )


def test_targets_are_corrected_as_one_family(make_sweep: MakeSweep) -> None:
    folder = make_sweep()
    rows = load_results(folder)
    raw, by_target = [], conclude(report_data(folder), []).rankings
    assert [ranking.point["target.sparsity"] for ranking in by_target] == [0.5, 0.75]
    for ranking in by_target:
        share = ranking.point["target.sparsity"]
        order = sorted(
            ("random", "l1_norm", "taylor"), key=lambda arm: -values(rows, arm, share, "val_accuracy").mean()
        )
        assert [setting.arm for setting in ranking.ranked] == order
        first, second = (values(rows, arm, share, "accuracy") for arm in order[:2])
        raw.append(stats.ttest_rel(first, second).pvalue)
    smaller, greater = sorted(raw)
    expected = {smaller: min(1, 2 * smaller), greater: max(min(1, 2 * smaller), greater)}
    for ranking, p in zip(by_target, raw, strict=True):
        assert ranking.difference is not None
        assert ranking.difference.p_holm == pytest.approx(expected[p])


def test_a_clear_lead_is_told_and_a_hair_is_not(make_sweep: MakeSweep) -> None:
    jitter = (0.0, 0.0002, -0.0001)

    def numbers(trial: Any) -> dict[str, Any]:
        lead = {"l1_norm": 0.05, "taylor": 0.0 if trial.spec.target.sparsity == 0.5 else 0.0499}.get(trial.arm, -0.1)
        own = jitter[(trial.spec.seed + (trial.arm == "l1_norm")) % 3]
        return {"accuracy": 0.9 + lead + own, "val_accuracy": 0.9 + lead}

    conclusions = conclude(report_data(make_sweep(numbers=numbers)), [])
    (sentence,) = [s for s in conclusions.findings if "targets" in s]
    assert sentence.startswith(
        "At 1 of 2 targets the best setting is statistically distinguishable from the runner-up: at 50 % of MACs"
    )
    assert "l1_norm is ahead of taylor (+5.0" in sentence


def test_what_the_data_cannot_tell(make_sweep: MakeSweep) -> None:
    def numbers(trial: Any) -> dict[str, Any]:
        if trial.arm == "taylor" and trial.spec.seed == 2:
            return {"status": "diverged", "error": "loss is not a number"}
        return {"accuracy": 0.9, "val_accuracy": 0.9, "achieved": 0.5}

    unrun = lambda trial: trial.arm == "l1_norm" and trial.spec.seed == 0  # noqa: E731
    conclusions = " ".join(conclude(report_data(make_sweep(numbers=numbers, skip=unrun, latency=False)), []).limits)
    assert "2 trials diverged" in conclusions
    assert "2 planned trials not run yet" in conclusions
    assert "4 of 6 settings have at most 2 seeds" in conclusions
    assert "4 settings with fewer than 3 finished seeds are shown, but not ranked" in conclusions
    assert "No latency was measured" in conclusions
    assert "the worst: 50.0 % instead of 75.0 %" in conclusions


def test_one_seed_is_no_test_and_no_spread(make_sweep: MakeSweep) -> None:
    folder = make_sweep(skip=lambda trial: trial.spec.seed > 0)
    conclusions = conclude(report_data(folder), [])
    assert "±" not in conclusions.headline
    assert "n = 1" in conclusions.headline
    assert all("p =" not in finding for finding in conclusions.findings)
    assert any("one seed" in limit for limit in conclusions.limits)


def test_a_parameter_matters_only_above_the_noise(make_sweep: MakeSweep) -> None:
    data = report_data(make_sweep())

    def last_finding(low: float, value: float, noise: float) -> str:
        importances = [
            Importance("target.sparsity", None, "permutation", value, low, 0.9, 18),
            Importance("arm", None, "permutation", 0.1, 0.0, 0.2, 18),
            Importance("seed", None, "seed_noise", noise, 0.0, 0.5, 18),
        ]
        return conclude(data, importances).findings[-1]

    assert "(target.sparsity) matters most: it accounts for 60 % (40 to 90 %)" in last_finding(0.4, 0.6, 0.2)
    assert "not clearly above the seeds: the arm (method)." in last_finding(0.4, 0.6, 0.2)
    assert last_finding(0.1, 0.6, 0.2).startswith("Which parameter matters most is not clear")


def test_what_a_forest_cannot_predict_is_not_ranked(make_sweep: MakeSweep) -> None:
    importances = [Importance(name, None, "permutation", 0.02, 0.0, 0.1, 18) for name in ("arm", "target.sparsity")]
    assert "is unknown" in conclude(report_data(make_sweep()), importances).findings[-1]


def test_constraints_bound_the_choice(make_sweep: MakeSweep, space_text: str) -> None:
    conclusions = conclude(report_data(make_sweep(space_text + "constraints: {latency_ms: '<= 1.3'}\n")), [])
    assert "within latency in ms <= 1.3" in conclusions.headline
    assert "75 % of MACs" in conclusions.headline


def test_an_empty_sweep_is_refused(make_sweep: MakeSweep) -> None:
    folder = make_sweep(skip=lambda trial: True)
    with pytest.raises(Unreportable, match="no trial has ended yet"):
        report_data(folder)
