"""Rankings by one metric, differences by another, and what so few seeds can find."""

import numpy as np
import pytest
from scipy import stats

from orchestrator.analysis.aggregate import group_settings
from orchestrator.analysis.rankings import minimum_detectable_difference, rank_settings, rankings


def row(arm, share, seed, accuracy, val=None, model="lenet5", quantity="macs"):
    return {
        "arm": arm,
        "model": model,
        "data": "digits",
        "target_quantity": quantity,
        "target_sparsity": share,
        "seed": seed,
        "status": "done",
        "accuracy": accuracy,
        "val_accuracy": val if val is not None else accuracy,
    }


AXES = ["model", "data", "target.quantity", "target.sparsity"]


def test_only_equal_targets_are_compared() -> None:
    rows = [row(arm, share, seed, 0.9 + seed / 100) for arm in "ab" for share in (0.5, 0.9) for seed in range(2)]
    rows += [row("c", 0.5, 0, 0.9, quantity="weights"), row("d", 0.5, 0, 0.9, model="vgg")]
    result = rankings(group_settings(rows, AXES), "accuracy", "val_accuracy")
    assert [(ranking.point["target.sparsity"], len(ranking.ranked)) for ranking in result] == [(0.5, 2), (0.9, 2)]


def test_the_winner_is_ranked_by_validation() -> None:
    rows = [row("a", 0.5, s, 0.99, val=0.8) for s in range(2)] + [
        row("b", 0.5, s, 0.9 + s / 10, val=0.85) for s in range(2)
    ]
    (result,) = rankings(group_settings(rows, AXES), "accuracy", "val_accuracy")
    assert [setting.arm for setting in result.ranked] == ["b", "a"]
    assert result.difference is not None
    assert result.difference.mean == pytest.approx(0.95 - 0.99)
    assert [s.arm for s in rank_settings(group_settings(rows, AXES), "accuracy", "min")] == ["b", "a"]


def test_the_smallest_difference_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(0)
    sigma, pairs = 0.01, 5
    rows = [row("a", share, s, 0.9) for share in range(40) for s in range(pairs)]
    rows += [row("b", share, s, 0.9 + rng.normal(0, sigma)) for share in range(40) for s in range(pairs)]
    result = rankings(group_settings(rows, AXES), "accuracy", "val_accuracy")
    size = minimum_detectable_difference([ranking.difference for ranking in result if ranking.difference is not None])
    assert size is not None
    samples = rng.normal(size, sigma, (4000, pairs))
    power = (stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05).mean()
    assert 0.72 < power < 0.88
    assert minimum_detectable_difference([]) is None
