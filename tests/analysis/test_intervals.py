"""Intervals of means, differences by seed, Holm's correction: known answers and coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from orchestrator.analysis.aggregate import (
    LEVEL,
    Unpairable,
    bca_interval,
    group_settings,
    holm,
    mean_of,
    paired,
    paired_with_dense,
    t_interval,
)


def row(arm, seed, accuracy, status="done", **more):
    return {"arm": arm, "method": arm, "seed": seed, "status": status, "accuracy": accuracy, **more}


def test_t_intervals_cover_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(0.9, 0.02, size=(4000, 4))
    inside = [low <= 0.9 <= high for low, high in (t_interval(list(draw)) for draw in draws)]
    assert abs(np.mean(inside) - LEVEL) < 0.02


def test_the_t_interval_is_scipys() -> None:
    values = [0.91, 0.93, 0.90, 0.95]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    result = mean_of(values)
    assert result is not None
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
    single = mean_of([0.9])
    assert single is not None
    assert (single.low, single.high) == (None, None)


def test_bca_covers_a_skewed_mean_and_repeats_itself() -> None:
    rng = np.random.default_rng(1)
    draws = rng.exponential(1.0, size=(60, 40))
    inside = [low <= 1.0 <= high for low, high in (bca_interval(list(draw)) for draw in draws)]
    assert np.mean(inside) > 0.85
    assert bca_interval([1.0, 2.0, 4.0]) == bca_interval([1.0, 2.0, 4.0])
    assert bca_interval([2.0, 2.0]) == (2.0, 2.0)
    result = mean_of([1.0, 2.0, 4.0], interval="bca")
    assert result is not None
    assert result.low is not None
    assert result.high is not None
    assert result.low < result.mean < result.high


def test_paired_is_the_paired_t_test() -> None:
    ours, theirs = [0.91, 0.93, 0.92, 0.96], [0.90, 0.90, 0.91, 0.92]
    rows = [row("taylor", i, a) for i, a in enumerate(ours)] + [row("random", i, a) for i, a in enumerate(theirs)]
    (result,) = paired(rows, ["seed"], "accuracy", against="random")
    expected = stats.ttest_rel(ours, theirs)
    interval = expected.confidence_interval(0.95)
    assert (result.first, result.second, result.n) == ("taylor", "random", 4)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))
    assert result.p_value == pytest.approx(expected.pvalue)
    assert result.p_holm == result.p_value
    assert result.effect_size == pytest.approx(result.mean / result.sd)


def test_unfinished_trials_are_counted_and_only_shared_seeds_are_paired() -> None:
    rows = [
        row("a", 0, 0.9),
        row("a", 1, 0.8),
        row("a", 2, None, "failed"),
        row("a", 3, 0.7),
        row("b", 0, 0.8),
        row("b", 1, 0.6),
        row("b", 2, 0.5),
        row("b", 3, math.nan, "diverged"),
    ]
    (result,) = paired(rows, ["seed"], "accuracy", against="b")
    assert (result.n, result.mean) == (2, pytest.approx(0.15))
    assert result.unfinished == {"failed": 1, "diverged": 1}
    assert result.unpaired == 2
    (single,) = paired(rows[:1] + rows[4:5], ["seed"], "accuracy", against="b")
    assert (single.n, single.sd, single.p_value) == (1, None, None)


def test_arms_are_paired_at_equal_points_and_axes_within_arms() -> None:
    rows = [
        row(arm, seed, base + 0.1 * (s == 0.5) + 0.01 * seed * (retrain == "clr"), target_sparsity=s, retrain=retrain)
        for arm, base in (("a", 0.7), ("b", 0.6))
        for s in (0.5, 0.9)
        for retrain in ("clr", "ft")
        for seed in (0, 1, 2)
    ]
    axes = ["target.sparsity", "retrain", "seed"]
    by_arm = paired(rows, axes, "accuracy", against="b")
    assert len(by_arm) == 4
    assert all(d.mean == pytest.approx(0.1) and d.p_value is None for d in by_arm)
    by_schedule = paired(rows, axes, "accuracy", by="retrain", against="ft")
    assert [d.point["arm"] for d in by_schedule] == ["a", "a", "b", "b"]
    assert all(d.mean == pytest.approx(0.01) and d.p_holm == pytest.approx(4 * d.p_value) for d in by_schedule)
    with pytest.raises(Unpairable, match=r"retrain: no setting has 'cosine'; found: clr, ft"):
        paired(rows, axes, "accuracy", by="retrain", against="cosine")
    with pytest.raises(Unpairable, match=r"seed: 0 occurs twice"):
        paired(rows, ["seed"], "accuracy", against="b")


def test_equal_shares_of_different_quantities_are_no_pair() -> None:
    shared = {"target_sparsity": 0.9, "target_quantity": "macs"}
    rows = [row(arm, 0, 0.9, **shared) for arm in ("random", "l1_norm")]
    rows.append(row("magnitude", 0, 0.95, **(shared | {"target_quantity": "weights"})))
    assert [d.first for d in paired(rows, ["target.sparsity", "seed"], "accuracy", against="random")] == ["l1_norm"]


def test_parameters_of_the_compared_axis_are_its_own() -> None:
    rows = [row("a", seed, 0.9 + 0.02 * seed, retrain="clr", **{"retrain.high": 1}) for seed in (0, 1)]
    rows += [row("a", seed, 0.8, retrain="ft") for seed in (0, 1)]
    (result,) = paired(rows, ["retrain", "retrain.high", "seed"], "accuracy", by="retrain", against="ft")
    assert (result.n, result.mean, result.point["retrain.high"]) == (2, pytest.approx(0.11), 1)


def test_the_dense_network_is_the_control_of_its_own_trials() -> None:
    rows = [row("a", seed, 0.9 + 0.01 * seed, dense_accuracy=0.95) for seed in range(3)]
    (result,) = paired_with_dense(rows, ["seed"], "accuracy")
    assert (result.second, result.mean, result.unpaired) == ("dense", pytest.approx(-0.04), 0)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == [pytest.approx(0.03), pytest.approx(0.06), None, pytest.approx(0.06)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_setting_as_a_row_of_means() -> None:
    rows = [row("a", 0, 0.9), row("a", 1, 0.8), row("b", 0, None, "failed")]
    assert [setting.mean_row(["accuracy"]) for setting in group_settings(rows, ["seed"])] == [
        {"arm": "a", "accuracy": pytest.approx(0.85), "status": "done", "n": 2, "unfinished": 0},
        {"arm": "b", "accuracy": None, "status": "failed", "n": 0, "unfinished": 1},
    ]
